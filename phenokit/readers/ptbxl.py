"""Reader of PTB-XL in its official layout (Wagner et al. 2020, doi:10.13026/kfzx-aw45).

    ptbxl_database.csv    a row a record: patient, age, sex, statements, fold, file names
    scp_statements.csv    the 71 statements and the superclass of each
    records100, records500   the tracings as WFDB, 100 and 500 Hz

An SCP code is positive if it is a key of ``scp_codes``, whatever its likelihood; a
superclass is positive if one of its codes is. The official folds are kept: 1-8 train, 9
val, 10 test.
"""

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Float32

from phenokit.errors import BadInput
from phenokit.readers.files import read_bytes
from phenokit.readers.wfdb import read_wfdb
from phenokit.recording import Recording
from phenokit.statements import SCP_STATEMENTS, SUPERCLASSES, superclasses_of

LABEL_CODES = (
    *(s.code for s in SUPERCLASSES),
    *(s.code for s in SCP_STATEMENTS if s.code != "NORM"),
)
"""The five superclasses, then the other SCP codes; NORM is both and stands once."""

REMOVED_IN_1_0_3 = (137, 139, 140, 141, 142, 143, 145, 456, 458, 459, 461, 462)
"""Records of versions before 1.0.3 that repeat another record, some in another fold."""

AGE_ABOVE_89 = 90.0
"""The age of everybody above 89, whom PTB-XL gives as 300 years old."""

_COLUMNS = {
    "ecg_id": "int64",
    "patient_id": "float64",
    "age": "float64",
    "sex": "Int64",
    "site": "Int64",
    "device": "string",
    "scp_codes": "string",
    "strat_fold": "int64",
    "filename_lr": "string",
    "filename_hr": "string",
}
_MAX_TABLE_BYTES = 1 << 28
_SCP_ENTRY = r"'([^'{}]{1,16})': \d+(?:\.\d+)?"
_SCP_CODES = re.compile(rf"\{{(?:{_SCP_ENTRY}(?:, {_SCP_ENTRY})*)?\}}")


@dataclass(frozen=True)
class PTBXL:
    """The tables of PTB-XL, read and checked; the tracings are read one by one.

    Attributes
    ----------
    folder
        Of the data set.
    table
        A row a record: record_id (the ecg_id as text), dataset, patient_id, split, fold,
        age, sex, site, device, path_100, path_500 (below `folder`, without ending).
    labels
        Shape ``(recording, label)`` in the order of `LABEL_CODES`; 1 or 0.
    dropped
        Records that are left out: record_id, code, message.
    """

    folder: Path
    table: pd.DataFrame
    labels: Float32[np.ndarray, "recording label"]
    dropped: pd.DataFrame


def read_ptbxl(folder: Path) -> PTBXL:
    """Read the tables of PTB-XL.

    Raises
    ------
    BadInput
        ``E_MISSING`` for a table that is absent, ``E_COLUMNS`` or ``E_FORMAT`` for one
        that is damaged, ``E_DUP_ID`` for an id that occurs twice or a patient in two
        folds, ``E_RANGE`` for an impossible fold or age, ``E_CODE`` for an unknown
        statement, ``E_VERSION`` if the superclasses are not those of this version.
    """
    _check_statements(_read_csv(folder / "scp_statements.csv", {}))
    rows = _read_csv(folder / "ptbxl_database.csv", _COLUMNS)
    if rows["ecg_id"].duplicated().any():
        raise BadInput("E_DUP_ID", "An ecg_id occurs twice.", where="ecg_id")
    if not rows["strat_fold"].between(1, 10).all():
        raise BadInput("E_RANGE", "A fold is not one of 1 to 10.", where="strat_fold")
    is_removed = np.isin(rows["ecg_id"].to_numpy(), REMOVED_IN_1_0_3)
    dropped = pd.DataFrame(
        {
            "record_id": rows["ecg_id"][is_removed].astype(str),
            "code": "E_DUP_ID",
            "message": "Repeats another record; PTB-XL 1.0.3 removed it.",
        }
    ).reset_index(drop=True)
    rows = rows.loc[~is_removed].reset_index(drop=True)
    folds = rows.groupby("patient_id")["strat_fold"].nunique()
    if (folds > 1).any():
        raise BadInput(
            "E_DUP_ID",
            f"{(folds > 1).sum()} patients are in more than one fold; a patient on both "
            "sides of a split makes every result too good. Use the official table.",
            where="patient_id",
        )
    return PTBXL(
        folder, _table(rows), _labels(rows["scp_codes"].fillna("").tolist()), dropped
    )


def read_recordings(
    ptbxl: PTBXL, *, sampling_rate: Literal[100, 500]
) -> Iterator[Recording | BadInput]:
    """The tracing of each row of the table, or why it cannot be read; in order."""
    for row in ptbxl.table.to_dict("records"):
        path = ptbxl.folder / f"{row[f'path_{sampling_rate}']}.hea"
        try:
            recording = read_wfdb(path, root=ptbxl.folder)
        except BadInput as error:
            yield error
            continue
        yield replace(
            recording,
            record_id=row["record_id"],
            patient_id=row["patient_id"],
            age=None if np.isnan(row["age"]) else row["age"],
            sex=row["sex"],
        )


def scp_codes_of(text: str) -> frozenset[str]:
    """The keys of one cell of ``scp_codes``.

    Raises
    ------
    BadInput
        ``E_CODE`` if the cell is not a list of known statements with likelihoods.

    Examples
    --------
    >>> sorted(scp_codes_of("{'NORM': 80.0, 'SBRAD': 0.0}"))
    ['NORM', 'SBRAD']
    """
    if _SCP_CODES.fullmatch(text) is None:
        raise BadInput("E_CODE", "A cell of scp_codes is damaged.", where="scp_codes")
    codes = frozenset(re.findall(_SCP_ENTRY, text))
    unknown = codes.difference(LABEL_CODES)
    if unknown:
        raise BadInput(
            "E_CODE",
            f"{len(unknown)} statements are not among the 71 of PTB-XL.",
            where="scp_codes",
        )
    return codes


def _read_csv(path: Path, columns: dict[str, str]) -> pd.DataFrame:
    """A table of the data set with the named columns, or all where none is named."""
    what = "ptbxl_database.csv" if columns else "scp_statements.csv"
    data = read_bytes(path, max_bytes=_MAX_TABLE_BYTES, what=what)
    try:
        rows = pd.read_csv(io.StringIO(data.decode("utf-8")), dtype="string")
    except (UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError):
        raise BadInput("E_FORMAT", f"{what} is not a CSV table in UTF-8.") from None
    absent = [name for name in columns if name not in rows.columns]
    if absent:
        raise BadInput("E_COLUMNS", f"{what} lacks {', '.join(absent)}.", where=absent[0])
    if not columns:
        return rows
    typed = {}
    for name, dtype in columns.items():
        try:
            values = rows[name] if dtype == "string" else rows[name].astype("Float64")
            typed[name] = values.astype(dtype)
        except (TypeError, ValueError):
            raise BadInput(
                "E_RANGE", f"{what}: {name} is missing or not a number.", where=name
            ) from None
    return pd.DataFrame(typed)


def _check_statements(rows: pd.DataFrame) -> None:
    """Refuse a table whose superclasses are not those that the labels are made by."""
    if "diagnostic_class" not in rows.columns:
        raise BadInput("E_COLUMNS", "scp_statements.csv lacks diagnostic_class.")
    classes = dict(zip(rows.iloc[:, 0], rows["diagnostic_class"], strict=True))
    ours = {s.code: s.superclass for s in SCP_STATEMENTS}
    theirs = {code: None if pd.isna(name) else name for code, name in classes.items()}
    if ours != theirs:
        raise BadInput(
            "E_VERSION",
            "scp_statements.csv has other statements or superclasses than PTB-XL 1.0.3.",
        )


def _table(rows: pd.DataFrame) -> pd.DataFrame:
    fold = rows["strat_fold"]
    age = rows["age"].to_numpy()
    if (age < 0).any():
        raise BadInput("E_RANGE", "An age is negative.", where="age")
    return pd.DataFrame(
        {
            "record_id": rows["ecg_id"].astype(str),
            "dataset": "PTB-XL 1.0.3",
            "patient_id": [None if np.isnan(p) else f"{p:.0f}" for p in rows["patient_id"]],
            "split": [_SPLIT.get(number, "train") for number in fold],
            "fold": fold.astype("Int64"),
            "age": np.where(age > 89, AGE_ABOVE_89, age),
            "sex": [_SEX.get(value) for value in rows["sex"]],
            "site": rows["site"].astype("string"),
            "device": rows["device"].str.split().str.join(" "),
            "path_100": rows["filename_lr"],
            "path_500": rows["filename_hr"],
        }
    )


def _labels(cells: list[str]) -> Float32[np.ndarray, "recording label"]:
    position = {code: i for i, code in enumerate(LABEL_CODES)}
    labels = np.zeros((len(cells), len(LABEL_CODES)), dtype=np.float32)
    for row, text in enumerate(cells):
        codes = scp_codes_of(text)
        labels[row, [position[code] for code in codes | superclasses_of(codes)]] = 1.0
    return labels


_SEX = {0: "male", 1: "female"}
_SPLIT = {9: "val", 10: "test"}
