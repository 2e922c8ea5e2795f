"""Pack LUDB (200 ECGs with diagnoses) into one archive with this project's labels.

    python scripts/pack_ludb.py OUT [--data DIR] [--raw]

DIR (default: PHENOKIT_DATA) holds the folder ludb. With --raw the archive holds millivolts
at 500 Hz; without, what the default input contract makes of them at 100 Hz.

LUDB (Kalyakulina et al. 2020, doi:10.1109/ACCESS.2020.3029211) has its own vocabulary. The
tables below say what each statement becomes. A label is 1 or 0 only where LUDB speaks of
it; where it cannot tell (no such term, or a term that covers several of our labels) it is
NaN. Its criteria for hypertrophy are liberal (LVH in 108 of 200): expect poor agreement
there for reasons that are not the model's.
"""

import argparse
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from phenokit.preprocessing.contract import InputContract, prepare
from phenokit.readers.packed import quantise, write_archive
from phenokit.readers.ptbxl import LABEL_CODES
from phenokit.recording import LEADS, Recording
from phenokit.statements import superclasses_of

SCALE = 0.001

STATEMENT_CODES = {
    # rhythm; PTB-XL too writes SBRAD, STACH or SARRH in place of SR
    "sinus rhythm": "SR",
    "sinus bradycardia": "SBRAD",
    "sinus tachycardia": "STACH",
    "sinus arrhythmia": "SARRH",
    "irregular sinus rhythm": "SARRH",
    "atrial fibrillation": "AFIB",
    "atrial flutter, typical": "AFLT",
    # conduction
    "complete right bundle branch block": "CRBBB",
    "incomplete right bundle branch block": "IRBBB",
    "complete left bundle branch block": "CLBBB",
    "incomplete left bundle branch block": "ILBBB",
    "left anterior hemiblock": "LAFB",
    "i degree av block": "1AVB",
    "iii degree av-block": "3AVB",
    "non-specific intravintricular conduction delay": "IVCD",
    # hypertrophy; in PTB-XL overload and enlargement of an atrium are one label
    "left ventricular hypertrophy": "LVH",
    "right ventricular hypertrophy": "RVH",
    "left atrial hypertrophy": "LAO/LAE",
    "left atrial overload": "LAO/LAE",
    "right atrial hypertrophy": "RAO/RAE",
    "right atrial overload": "RAO/RAE",
    # extrasystoles: the pattern; that there are any is told by the beginning, below
    "atrial extrasystole, type: bigemini": "BIGU",
}
"""Statement (lower case) -> SCP code. 2AVB is in LUDB's vocabulary of degrees: always 0."""

BEGINNINGS = {"ventricular extrasystole": "PVC", "atrial extrasystole": "PAC"}

TOLD_CODES = {*STATEMENT_CODES.values(), *BEGINNINGS.values(), "2AVB", "PACE"}
"""Labels that are 0 where LUDB does not state them."""

INFARCTION_OF_WALLS = {
    ("inferior",): "IMI",
    ("lateral",): "LMI",
    ("anterior",): "AMI",
    ("septal",): "ASMI",
    ("anterior", "septal"): "ASMI",
    ("anterior", "lateral"): "ALMI",
    ("inferior", "lateral"): "ILMI",
    ("posterior",): "PMI",
}
"""Walls of "STEMI" and "Scar formation" -> SCP code. "Apical" has no code and is passed
over; any other union of walls leaves these codes unknown."""

ISCHAEMIA_OF_WALLS = {
    ("inferior",): "ISCIN",
    ("lateral",): "ISCLA",
    ("anterior",): "ISCAN",
    ("septal",): "ISCAS",
    ("anterior", "septal"): "ISCAS",
    ("anterior", "lateral"): "ISCAL",
    ("inferior", "lateral"): "ISCIL",
}
"""Walls of "Ischemia" -> SCP code, in the same way."""

NORMAL_RHYTHM = {"SR", "SBRAD", "SARRH"}
NORMAL_AXIS = {"normal", "vertical", "horizontal"}

NOTES = """\
LUDB 1.0.1 (Lobachevsky University Electrocardiography Database, doi:10.13026/eegm-h675),
ODC-By 1.0, modified: {treatment}; rounded to 0.001. Labels are mapped from LUDB's own
statements by scripts/pack_ludb.py; NaN where LUDB cannot tell. NORM: nothing abnormal is
stated; NaN where only the axis, an extrasystole or early repolarisation is."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, default=os.environ.get("PHENOKIT_DATA"))
    parser.add_argument("--raw", action="store_true", help="millivolts at 500 Hz")
    arguments = parser.parse_args()
    if arguments.data is None:
        parser.error("give --data or set PHENOKIT_DATA")
    folder = Path(arguments.data) / "ludb"
    with np.load(folder / "ludb_500hz_delta_uV.npz") as archive:
        microvolt = archive["d"].cumsum(-1, dtype=np.int16)
        names = next(archive[k] for k in archive.files if k.startswith("lead"))
    if tuple(str(name).lower() for name in names) != tuple(lead.lower() for lead in LEADS):
        raise ValueError("the leads are in another order")
    statements = pd.read_csv(folder / "ludb.csv")
    labels = pd.DataFrame(
        [labels_of(row) for _, row in statements.iterrows()], columns=list(LABEL_CODES)
    )
    contract = InputContract()
    write_archive(
        arguments.out,
        signals=(
            signal_of(steps, None if arguments.raw else contract)[None]
            for steps in microvolt
        ),
        table=record_table(statements),
        label_codes=LABEL_CODES,
        labels=labels.to_numpy(dtype=np.float32),
        scale=SCALE,
        unit="mV" if arguments.raw else "z",
        contract_id="raw" if arguments.raw else contract.identifier,
        sampling_rate=500.0 if arguments.raw else contract.sampling_rate,
        dataset="LUDB 1.0.1",
        notes=NOTES.format(
            treatment="gain applied" if arguments.raw else contract.identifier
        ),
    )
    print(f"wrote {len(labels)} records to {arguments.out}; positive / known:")
    for code in LABEL_CODES:
        if labels[code].notna().any():
            print(f"  {code:8} {int(labels[code].sum()):4} / {labels[code].notna().sum()}")


def signal_of(steps: np.ndarray, contract: InputContract | None) -> np.ndarray:
    """One record in steps of `SCALE`: raw, or prepared by a contract."""
    if contract is None:
        return steps
    recording = Recording(steps / 1000.0, LEADS, 500.0, "")
    return quantise(prepare(recording, contract).signal, scale=SCALE)


def record_table(statements: pd.DataFrame) -> pd.DataFrame:
    """Id, age and sex; LUDB gives no patient, no split and no fold."""
    age = (
        statements["Age"].astype(str).str.strip().str.replace(r"^>\s*89$", "90", regex=True)
    )
    return pd.DataFrame(
        {
            "record_id": statements["ID"].astype(str),
            "dataset": "LUDB 1.0.1",
            "patient_id": pd.Series(pd.NA, statements.index, dtype="string"),
            "split": pd.Series(pd.NA, statements.index, dtype="string"),
            "fold": pd.Series(pd.NA, statements.index, dtype="Int64"),
            "age": pd.to_numeric(age, errors="coerce"),
            "sex": statements["Sex"].str.strip().map({"F": "female", "M": "male"}),
        }
    )


def labels_of(row: pd.Series) -> dict[str, float]:
    """1, 0 or NaN for each label of one row of ludb.csv."""
    stated = {column: _terms(row[column]) for column in row.index[3:]}
    terms = [term for column in stated.values() for term in column]
    codes = {STATEMENT_CODES[term] for term in terms if term in STATEMENT_CODES}
    codes |= {
        code for t in terms for start, code in BEGINNINGS.items() if t.startswith(start)
    }
    if stated["Cardiac pacing"]:
        codes.add("PACE")
    labels = dict.fromkeys(LABEL_CODES, np.nan)
    labels |= {code: float(code in codes) for code in TOLD_CODES}

    ischemia = stated["Ischemia"]
    infarction = _walls(ischemia, lambda term: term.startswith(("stemi", "scar formation")))
    ischaemia = _walls(ischemia, lambda term: term.startswith("ischemia"))
    # "Undefined ischemia/scar/supp.NSTEMI" may be either: it leaves both open
    is_open = any(term.startswith("undefined") for term in ischemia)
    labels |= _of_walls(infarction, INFARCTION_OF_WALLS, is_open=is_open)
    labels |= _of_walls(ischaemia, ISCHAEMIA_OF_WALLS, is_open=is_open)

    implied = superclasses_of(frozenset(codes))
    repolarisation = bool(stated["Non-specific repolarization abnormalities"])
    overload = (
        "left ventricular overload" in terms
    )  # strain: ST-T change, maybe hypertrophy
    labels["CD"] = float("CD" in implied)
    labels["HYP"] = _known("HYP" in implied, is_open=overload)
    labels["MI"] = _known(infarction is not None, is_open=is_open)
    labels["STTC"] = _known(
        ischaemia is not None or repolarisation, is_open=is_open or overload
    )
    if overload and "LVH" not in codes:
        labels["LVH"] = np.nan
    labels["NORM"] = _is_normal(stated, labels, codes)
    return labels


def _is_normal(
    stated: dict[str, list[str]], labels: dict[str, float], codes: set[str]
) -> float:
    """1 where nothing abnormal is stated, 0 where something is, NaN in between."""
    if any(labels[code] == 1 for code in ("MI", "STTC", "CD", "HYP")):
        return 0.0
    if codes & {"AFIB", "AFLT", "STACH", "PACE"}:
        return 0.0
    axis = {term.rpartition(": ")[2] for term in stated["Electric axis of the heart"]}
    only_normal = not any(
        stated[column]
        for column in (
            "Conduction abnormalities",
            "Extrasystolies",
            "Hypertrophies",
            "Ischemia",
            "Other states",
        )
    )
    rhythm_codes = {STATEMENT_CODES.get(term) for term in stated["Rhythms"]}
    if (
        only_normal
        and axis <= NORMAL_AXIS
        and rhythm_codes
        and rhythm_codes <= NORMAL_RHYTHM
    ):
        return 1.0
    return np.nan


def _known(is_stated: bool, *, is_open: bool) -> float:
    """1 where stated, NaN where another statement leaves it open, else 0."""
    return 1.0 if is_stated else (np.nan if is_open else 0.0)


def _terms(cell: object) -> list[str]:
    """The statements of a cell, one a line, in lower case."""
    if not isinstance(cell, str):
        return []
    return [line.strip().lower() for line in cell.splitlines() if line.strip()]


def _walls(terms: list[str], is_meant: Callable[[str], bool]) -> tuple[str, ...] | None:
    """The walls that the meant statements name, sorted; None if there is none."""
    meant = [term for term in terms if is_meant(term)]
    if not meant:
        return None
    walls = {term.rpartition(": ")[2].removesuffix(" wall") for term in meant}
    return tuple(sorted(walls - {"apical"}))


def _of_walls(
    walls: tuple[str, ...] | None, table: dict[tuple[str, ...], str], *, is_open: bool
) -> dict[str, float]:
    """Labels by wall: all 0 where nothing is stated, all NaN where no code fits."""
    codes = sorted(set(table.values()))
    if is_open or (walls is not None and walls not in table):
        return dict.fromkeys(codes, np.nan)
    return {code: float(walls is not None and table[walls] == code) for code in codes}


if __name__ == "__main__":
    main()
