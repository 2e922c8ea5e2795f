"""Sources that a table lists: a manifest, PTB-XL, MIMIC-IV-ECG.

The table decides which recordings there are, in its order: one that it lists and that is
not there, or whose path leads elsewhere, is a row that says so. A table that is damaged, or
lists a path twice, is refused whole.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from phenokit.batch.source_readers import local_path
from phenokit.errors import BadInput
from phenokit.readers.files import read_bytes, read_start
from phenokit.readers.tables import Column, match_header, read_table, refusal_of_rows

PTBXL_TABLE = "ptbxl_database.csv"
MIMIC_TABLE = "record_list.csv"

_MANIFEST = (
    Column("path"),
    Column("patient_id", is_required=False, may_be_missing=True),
)
_PTBXL = (
    Column("patient_id", "number", low=0, may_be_missing=True),
    *(Column("filename_lr"), Column("filename_hr")),
)
_MIMIC = (Column("subject_id"), Column("path"))
_START_BYTES = 1 << 16
_MAX_ROWS = 10_000_000
"""Of a Parquet file, in which a row may take no byte at all."""


@dataclass(frozen=True)
class Listing:
    """What a table lists.

    Attributes
    ----------
    paths
        As they are to be found below a folder; one that leads elsewhere as it stands.
    patients
        Of each path, empty where unknown; ``None`` if the table names nobody.
    facts
        What was decided for the whole run, as JSON values.
    """

    paths: Sequence[str]
    patients: Sequence[str] | None = None
    facts: dict[str, Any] = field(default_factory=dict)


def column_names(path: Path) -> tuple[str, ...]:
    """Names of the columns in the first row of a file, without units; none if binary."""
    try:
        start = read_start(path, _START_BYTES)
    except BadInput:
        return ()
    line = start.removeprefix(b"\xef\xbb\xbf").split(b"\n", 1)[0].rstrip(b"\r")
    if b"\0" in line:
        return ()
    names = re.split("[,;\t|]", line.decode("utf-8", "replace"))
    return tuple(re.split(r"[\[(]", name.strip('"'))[0].strip() for name in names)


def read_manifest(path: Path) -> Listing:
    """The recordings that a CSV or Parquet file lists: `path`, and maybe `patient_id`.

    Raises
    ------
    BadInput
        As `read_table`; ``E_DUP_ID`` for a path that stands in two rows.
    """
    what = "manifest"
    if read_start(path, 4, what=what) == b"PAR1":
        first_row, table = 1, _read_parquet(path, what)
    else:
        first_row, table = 2, read_table(path, _MANIFEST, what=what)
    paths = _paths(table["path"].tolist(), "path", what, first_row)
    return Listing(paths, table["patient_id"].tolist() if "patient_id" in table else None)


def read_ptbxl_list(folder: Path) -> Listing:
    """The records of PTB-XL, all at one rate: 500 Hz, if not more files have 100 Hz.

    Raises
    ------
    BadInput
        As `read_table`; ``E_DUP_ID`` for a file name that stands in two rows.
    """
    table = read_table(folder / PTBXL_TABLE, _PTBXL, ignore_others=True, what=PTBXL_TABLE)
    listed = {}
    for column in ("filename_hr", "filename_lr"):
        names = [f"{name}.hea" for name in table[column].tolist()]
        listed[column] = _paths(names, column, PTBXL_TABLE, 2)
    there = {column: _n_there(folder, paths) for column, paths in listed.items()}
    column = "filename_hr"
    if there["filename_lr"] > there["filename_hr"]:
        column = "filename_lr"
    patients = ["" if np.isnan(one) else f"{one:.0f}" for one in table["patient_id"]]
    return Listing(listed[column], patients, {"files": column})


def read_mimic_list(folder: Path) -> Listing:
    """The records of MIMIC-IV-ECG.

    Raises
    ------
    BadInput
        As `read_table`; ``E_DUP_ID`` for a path that stands in two rows.
    """
    table = read_table(folder / MIMIC_TABLE, _MIMIC, ignore_others=True, what=MIMIC_TABLE)
    names = [f"{name}.hea" for name in table["path"].tolist()]
    return Listing(_paths(names, "path", MIMIC_TABLE, 2), table["subject_id"].tolist())


def _paths(names: list[str], column: str, what: str, first_row: int) -> list[str]:
    """Paths as the reader finds them, each once."""
    paths = [local_path(name) or name for name in names]
    doubled = pd.Series(paths, dtype=object).duplicated(keep=False).to_numpy()
    if doubled.any():
        raise refusal_of_rows(
            "E_DUP_ID",
            "the path stands in several rows",
            np.flatnonzero(doubled),
            column=column,
            what=what,
            first_row=first_row,
        )
    return paths


def _n_there(folder: Path, paths: Sequence[str]) -> int:
    return sum(
        local_path(path) is not None and os.path.lexists(folder / path) for path in paths
    )


def _read_parquet(path: Path, what: str) -> pd.DataFrame:
    """The columns of a manifest in Parquet, as text; whole numbers in digits."""
    data = read_bytes(path, what=what)
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        if file.metadata.num_rows > _MAX_ROWS:
            raise BadInput("E_TOO_LARGE", f"The {what} has more than {_MAX_ROWS} rows.")
        names = match_header(file.schema_arrow.names, _MANIFEST, what=what)
        table = file.read(columns=list(names))
        columns = {name: _texts(table[name], name, what) for name in names}
    except (pa.ArrowException, OSError):
        raise BadInput("E_FORMAT", f"The {what} is a damaged Parquet file.") from None
    if not len(table):
        raise BadInput("E_EMPTY", f"The {what} has no row.")
    if empty := [row for row, text in enumerate(columns["path"]) if not text]:
        raise refusal_of_rows(
            "E_RANGE",
            "the cell is empty",
            np.array(empty),
            column="path",
            what=what,
            first_row=1,
        )
    return pd.DataFrame(columns, dtype=object)


def _texts(column: pa.ChunkedArray, name: str, what: str) -> list[str]:
    kind = column.type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_integer(kind) or pa.types.is_null(kind):
        return ["" if one is None else str(one) for one in column.to_pylist()]
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise BadInput(
            "E_COLUMNS",
            f"Column {name} of the {what} is {kind}; save it as text.",
            where=f"column {name}",
        )
    try:
        texts = ["" if one is None else one for one in column.to_pylist()]
    except UnicodeDecodeError:
        texts = ["\0"]
    if any("\0" in text for text in texts):
        raise BadInput("E_ENCODING", f"Column {name} of the {what} is not UTF-8 text.")
    return texts
