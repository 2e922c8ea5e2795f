"""Read MIMIC-IV: the hospital tables as a cohort, the list of its ECGs, laboratory tests.

    hosp/patients, hosp/admissions, hosp/diagnoses_icd, hosp/labevents   (.csv or .csv.gz)
    record_list.csv                                                      of MIMIC-IV-ECG

Dates are shifted, each patient's by another span, so that only differences within a patient
mean anything; times have no zone and are read as they stand. A diagnosis has no date of its
own: it gets the day of its admission, and so all codes of an admission fall on one date.
The age is the anchor age moved by whole years; 91 stands for everybody above 89
(Johnson et al. 2023, doi:10.1038/s41597-022-01899-x; Gow et al. 2023,
doi:10.13026/4nqg-sb35).
"""

import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pa_csv

from phenokit.errors import BadInput
from phenokit.readers.cohorts import CohortTables, check_tables, parse_moments
from phenokit.readers.diagnoses import Diagnoses, read_diagnoses
from phenokit.readers.files import open_checked
from phenokit.readers.tables import Column, read_table, refusal_of_rows

_PATIENTS = (
    *(Column("subject_id", unique=True), Column("gender")),
    Column("anchor_age", "number", low=0, high=130),
    Column("anchor_year", "integer", low=1900, high=2400),
)
_ADMISSIONS = (
    *(Column("subject_id"), Column("hadm_id", unique=True), Column("admittime")),
    Column("dischtime", may_be_missing=True),
)
_RECORD_LIST = (Column("subject_id"), Column("ecg_time"), Column("path", unique=True))
_SEX = {"F": "Female", "M": "Male"}
_NOTES = (
    "MIMIC-IV: dates are shifted by patient and times have no zone; only differences "
    "within a patient mean anything.",
    "A diagnosis is dated by its admission; codes of one admission share one date.",
    "An age of 91 stands for everybody above 89.",
)


def is_mimic(folder: Path) -> bool:
    """Whether a folder holds the hospital tables of MIMIC-IV."""
    return any((folder / f"diagnoses_icd.csv{end}").exists() for end in ("", ".gz"))


def read_mimic(folder: Path, *, record_list: Path | None = None) -> CohortTables:
    """Read the hospital tables of MIMIC-IV.

    Parameters
    ----------
    folder
        The folder `hosp`: patients, admissions, diagnoses_icd.
    record_list
        The list of MIMIC-IV-ECG; without it, ``record_list.csv`` of the folder if there
        is one. A recording's id is its path without ending, as `phenokit score` names it.

    Returns
    -------
    CohortTables
        Without `birth_date`; `birth_year` is the anchor year less the anchor age. An
        admission that ends before it begins keeps its begin, and its end is unknown.

    Raises
    ------
    BadInput
        ``E_MISSING`` for a table that is absent; as `read_cohort_tables` otherwise.
    """
    patients = read_table(
        _path(folder, "patients"), _PATIENTS, ignore_others=True, what="patients table"
    )
    sex = [_SEX.get(text) for text in patients["gender"]]
    if None in sex:
        raise refusal_of_rows(
            "E_RANGE",
            "the sex is not F or M",
            np.flatnonzero([one is None for one in sex]),
            column="gender",
            what="patients table",
        )
    people = pd.DataFrame(
        {
            "person_id": patients["subject_id"],
            "sex": sex,
            "birth_year": patients["anchor_year"] - patients["anchor_age"],
        }
    )
    admissions, notes = _read_admissions(folder)
    diagnoses = _with_dates(
        read_diagnoses(_path(folder, "diagnoses_icd"), what="diagnoses_icd table"),
        admissions,
    )
    if record_list is None and (folder / "record_list.csv").exists():
        record_list = folder / "record_list.csv"
    tables = CohortTables(
        people,
        diagnoses,
        admissions=admissions,
        recordings=None if record_list is None else _read_record_list(record_list),
        notes=(*_NOTES, *notes),
    )
    check_tables(tables)
    return tables


def lab_exposure(
    folder: Path, test: int | str, *, summary: Literal["first", "mean", "max"] = "first"
) -> pd.DataFrame:
    """A laboratory test as an exposure: one number a person who was tested.

    Parameters
    ----------
    folder
        The folder `hosp`: labevents and, for a test by its label, d_labitems. labevents is
        read in one pass, in blocks.
    test
        The `itemid`, or the `label` where only one item has it.
    summary
        The first, the mean or the largest of a person's numbers. Results that are no
        number (``<0.01`` too) are left out; who has none is not in the table, and is not
        thereby normal.

    Returns
    -------
    pd.DataFrame
        `person_id`, `value`, `n` (number of results), ordered by person.

    Raises
    ------
    BadInput
        ``E_MISSING`` for an absent table, ``E_CODE`` for a label that no item or several
        items have, ``E_EMPTY`` if nobody has a number, ``E_COLUMNS`` if labevents is
        damaged.
    """
    results = _lab_results(folder, test, ["charttime", "valuenum"])
    value = np.array([_number(text) for text in results["valuenum"].to_pylist()])
    table = pd.DataFrame(
        {
            "person_id": results["subject_id"].to_pylist(),
            "time": results["charttime"].to_pylist(),
            "value": value,
        }
    ).dropna(subset="value")
    if table.empty:
        raise BadInput("E_EMPTY", "Nobody has a number of this laboratory test.")
    # ISO times sort as text; of several at one time the smallest number is the first.
    ordered = table.sort_values(by=["person_id", "time", "value"])
    of_person = ordered.groupby("person_id")["value"]
    return of_person.agg(value=summary, n="size").reset_index()


def lab_outcome(
    folder: Path, test: int | str, *, rule: Literal["any", "first"] = "any"
) -> pd.DataFrame:
    """A laboratory test as an outcome that is known of the tested alone.

    Parameters
    ----------
    folder
        The folder `hosp`: patients, labevents and, for a test by its label, d_labitems.
    test
        The `itemid`, or the `label` where only one item has it.
    rule
        The outcome is 1 if any, or the first, of a person's results bears the laboratory's
        flag "abnormal". A result without it counts as normal, also where it is no number
        (``<0.01``). With "any" those who were tested more often have more chances.

    Returns
    -------
    pd.DataFrame
        `person_id`, `tested`, `outcome` (0, 1; NaN where not tested), `n` (number of
        results): a row for everybody of the patients table, in its order.

    Raises
    ------
    BadInput
        ``E_MISSING`` for an absent table, ``E_CODE`` for a label that no item or several
        items have, ``E_EMPTY`` if nobody was tested, ``E_COLUMNS`` if labevents is damaged,
        ``E_RANGE`` for a result of somebody who is not in the patients table.
    """
    patients = read_table(
        _path(folder, "patients"), _PATIENTS, ignore_others=True, what="patients table"
    )
    results = _lab_results(folder, test, ["charttime", "flag"]).to_pandas()
    if results.empty:
        raise BadInput("E_EMPTY", "Nobody was tested with this laboratory test.")
    people = patients["subject_id"].to_numpy()
    if unknown := sorted(set(results["subject_id"]) - set(people)):
        raise BadInput(
            "E_RANGE",
            f"The labevents table has results of {len(unknown):,} people who are not in "
            "the patients table.",
            where="column subject_id",
        )
    # ISO times sort as text; of several at one time a flagged one is the first.
    results["normal"] = (results["flag"] != "abnormal").astype(int)
    ordered = results.sort_values(by=["subject_id", "charttime", "normal"])
    of_person = ordered.groupby("subject_id")["normal"]
    normal = (of_person.min() if rule == "any" else of_person.first()).reindex(people)
    n = of_person.size().reindex(people, fill_value=0).to_numpy()
    return pd.DataFrame(
        {
            "person_id": people,
            "tested": n > 0,
            "outcome": 1.0 - normal.to_numpy(np.float64),
            "n": n,
        }
    )


def _lab_results(folder: Path, test: int | str, columns: Sequence[str]) -> pa.Table:
    """The rows of labevents of one test, all text; read in one pass, in blocks."""
    item = str(test) if isinstance(test, int) else _item_of(folder, test)
    names = ["subject_id", "itemid", *columns]
    parts = []
    path = _path(folder, "labevents")
    with open_checked(path, max_bytes=None, what="labevents table") as file:
        source = pa.PythonFile(os.fdopen(os.dup(file.descriptor), "rb"), mode="r")
        kind = "gzip" if path.suffix == ".gz" else None
        stream = pa.CompressedInputStream(source, kind) if kind else source
        try:
            blocks = pa_csv.open_csv(
                stream,
                read_options=pa_csv.ReadOptions(block_size=1 << 25),
                parse_options=pa_csv.ParseOptions(newlines_in_values=True),
                convert_options=pa_csv.ConvertOptions(
                    include_columns=names,
                    column_types=dict.fromkeys(names, pa.string()),
                    strings_can_be_null=False,
                ),
            )
            for block in blocks:
                is_wanted = np.array(block["itemid"], dtype=object) == item
                parts.append(pa.Table.from_batches([block]).filter(pa.array(is_wanted)))
        except (pa.ArrowInvalid, pa.ArrowKeyError, OSError):
            raise BadInput(
                "E_COLUMNS", "The labevents table is damaged or lacks a column."
            ) from None
    return pa.concat_tables(parts) if parts else pa.table({name: [] for name in names})


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan


def _path(folder: Path, name: str) -> Path:
    for ending in (".csv", ".csv.gz"):
        if (folder / f"{name}{ending}").exists():
            return folder / f"{name}{ending}"
    raise BadInput("E_MISSING", f"The {name} table is missing.", where=name)


def _read_admissions(folder: Path) -> tuple[pd.DataFrame, list[str]]:
    what = "admissions table"
    path = _path(folder, "admissions")
    table = read_table(path, _ADMISSIONS, ignore_others=True, what=what)
    admitted, _ = parse_moments(
        table["admittime"].tolist(), column="admittime", times="local", what=what
    )
    discharged, _ = parse_moments(
        table["dischtime"].tolist(), column="dischtime", times="local", what=what
    )
    is_reversed = discharged < admitted
    discharged[is_reversed] = np.datetime64("NaT")
    notes = []
    if is_reversed.any():
        notes.append(
            f"{int(is_reversed.sum())} admissions end before they begin; their end is "
            "taken as unknown, so that no ECG is linked to them by its time."
        )
    admissions = pd.DataFrame(
        {
            "person_id": table["subject_id"],
            "admission_id": table["hadm_id"],
            "admitted": admitted,
            "discharged": discharged,
            "admitted_instant": admitted,
            "discharged_instant": discharged,
        }
    )
    return admissions, notes


def _with_dates(diagnoses: Diagnoses, admissions: pd.DataFrame) -> Diagnoses:
    """The diagnoses dated by the day of their admission."""
    table = diagnoses.table
    admission = table["admission_id"].unify_dictionaries().combine_chunks()
    person = table["person_id"].unify_dictionaries().combine_chunks()
    of_admission = admissions.set_index("admission_id").reindex(
        admission.dictionary.to_pylist()
    )
    rows = admission.indices.to_numpy()
    owners = of_admission["person_id"].to_numpy()
    people = np.array(person.dictionary.to_pylist(), dtype=object)
    is_foreign = owners[rows] != people[person.indices.to_numpy()]
    if is_foreign.any():
        raise refusal_of_rows(
            "E_RANGE",
            "the admissions table has no such admission of this person",
            np.flatnonzero(is_foreign),
            column="hadm_id",
            what="diagnoses_icd table",
        )
    day = of_admission["admitted"].to_numpy().astype("datetime64[D]")[rows]
    return replace(diagnoses, table=table.append_column("date", pa.array(day)))


def _read_record_list(path: Path) -> pd.DataFrame:
    what = "record list"
    table = read_table(path, _RECORD_LIST, ignore_others=True, what=what)
    time, _ = parse_moments(
        table["ecg_time"].tolist(), column="ecg_time", times="local", what=what
    )
    return pd.DataFrame(
        {
            "record_id": table["path"],
            "person_id": table["subject_id"],
            "time": time,
            "instant": time,
            "admission_id": "",
        }
    )


def _item_of(folder: Path, label: str) -> str:
    columns = [Column("itemid", unique=True), Column("label", may_be_missing=True)]
    items = read_table(
        _path(folder, "d_labitems"), columns, ignore_others=True, what="d_labitems table"
    )
    found = items["itemid"][items["label"] == label].tolist()
    if len(found) != 1:
        which = f"several items ({', '.join(found)})" if found else "no item"
        raise BadInput(
            "E_CODE", f"The label is that of {which} of d_labitems; give the itemid."
        )
    return found[0]
