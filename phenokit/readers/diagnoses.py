"""Read diagnoses: ICD codes with their version, or phecodes that were counted before.

Millions of rows are read by pyarrow, every cell as text, and a column is checked by its
different texts; what is refused is worded as in `phenokit.readers.tables`: column and rows,
never a value. The version of a code is what its column says. It is never guessed from the
code, since V and E codes exist in both versions, but a code that can only be of the other
version is refused, and so is one that a spreadsheet took for a number.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from jaxtyping import Int

from phenokit.errors import BadInput
from phenokit.readers.archives import unpack_gzip
from phenokit.readers.files import read_bytes
from phenokit.readers.tables import (
    Column,
    check_text,
    match_header,
    parse_cells,
    parse_header,
    parse_table,
    raise_first,
    refusal_of_rows,
)

MAX_DIAGNOSES_BYTES = 8 << 30
"""Largest table of diagnoses, unpacked, in bytes (8 GiB: some 200 million rows)."""

ICD_VERSIONS: Mapping[str, str] = {
    **dict.fromkeys(("9", "ICD9", "ICD-9", "ICD9CM", "ICD-9-CM"), "9"),
    **dict.fromkeys(("10", "ICD10", "ICD-10", "ICD10CM", "ICD-10-CM"), "10"),
}
"""What a version column may say, in any case, and the version that it means."""

ALIASES: Mapping[str, tuple[str, ...]] = {
    "person_id": ("subject_id",),
    "icd_code": ("ICD",),
    "icd_version": ("flag", "vocabulary_id"),
    "admission_id": ("hadm_id",),
}
"""Names of the columns in MIMIC-IV, PheTK and OMOP, beside our own."""

_DIAGNOSES = (
    *(Column("person_id"), Column("icd_code"), Column("icd_version")),
    Column("date", "date", is_required=False),
    Column("admission_id", is_required=False, may_be_missing=True),
)
_COUNTS = (Column("person_id"), Column("phecode"), Column("count", "integer", low=1))

# Of the codes in capitals; a dot, where there is one, stands where the manual has it.
_ICD9 = re.compile(r"\d{3}(\.?\d{1,2})?|V\d\d(\.?\d{1,2})?|E\d{3}(\.?\d)?", re.ASCII)
_ICD10 = re.compile(r"[A-Z]\d[0-9A-Z](\.?[0-9A-Z]{1,4})?", re.ASCII)
_LOST_ZEROS = re.compile(r"\d{1,2}(\.\d*)?", re.ASCII)
_GRAMMAR = {"9": _ICD9, "10": _ICD10}
_EXAMPLE = {"9": "ICD-9-CM, such as 410.71", "10": "ICD-10-CM, such as I21.4"}


@dataclass(frozen=True)
class Diagnoses:
    """ICD codes of patients, a row a code.

    Attributes
    ----------
    table
        `person_id`, `icd_code` (capitals, no dot), `icd_version` (``"9"`` or ``"10"``) and,
        where the source has them, `date` (date32) and `admission_id` (empty for a code
        outside any); text is dictionary-encoded.
    first_row
        Number of the first row in messages; see `phenokit.readers.tables.refusal_of_rows`.
    """

    table: pa.Table
    first_row: int = 2

    def __len__(self) -> int:
        """Number of codes."""
        return self.table.num_rows


@dataclass(frozen=True)
class PhecodeCounts:
    """How often each patient has each phecode, as PheTK counts them.

    Attributes
    ----------
    table
        `person_id`, `phecode` (dictionary-encoded text) and `count` (int64, at least 1);
        each pair of patient and phecode once. A phecode's ancestors have rows of their own.
    first_row
        See `Diagnoses`.
    """

    table: pa.Table
    first_row: int = 2

    def __len__(self) -> int:
        """Number of pairs of patient and phecode."""
        return self.table.num_rows


def read_diagnoses(
    path: Path,
    *,
    root: Path | None = None,
    date_format: str = "%Y-%m-%d",
    what: str = "diagnoses table",
) -> Diagnoses:
    """Read a table of ICD codes.

    Parameters
    ----------
    path
        CSV (UTF-8, plain or packed by gzip) or Parquet with the columns `person_id`,
        `icd_code` (with or without dot, any case), `icd_version` (see `ICD_VERSIONS`) and
        perhaps `date` and `admission_id`. `ALIASES` are read as well; other columns are
        left out.
    root
        Folder that the file has to lie in.
    date_format
        `strptime` format of the dates of a CSV file.
    what
        What the table is called in messages.

    Raises
    ------
    BadInput
        As `phenokit.readers.tables.read_table`, and ``E_CODE`` for a code that lost its
        leading zeros, is stored as a number, fits only the other version or none, or has
        another version than 9 and 10; ``E_FORMAT`` for a damaged Parquet file.
    """
    columns, first_row = _read_columns(
        path, _DIAGNOSES, root=root, date_format=date_format, what=what
    )

    def refusal(reason: str, rows: np.ndarray, column: str) -> BadInput:
        return refusal_of_rows(
            "E_CODE", reason, rows, column=column, what=what, first_row=first_row
        )

    versions = columns["icd_version"]
    known = [ICD_VERSIONS.get(text.upper(), "") for text in versions.uniques]
    unknown = [i for i, version in enumerate(known) if not version]
    if unknown:
        raise refusal(
            "the version is not 9 or 10; leave other vocabularies out",
            np.flatnonzero(np.isin(versions.indices, unknown)),
            versions.name,
        )
    codes = columns["icd_code"]
    faults, normal = _check_codes(codes, versions.indices, known)
    if faults:
        reason, rows = next(iter(faults.items()))
        raise refusal(reason, rows, codes.name)
    columns["icd_code"] = codes.mapped(normal)
    columns["icd_version"] = versions.mapped(known)
    return Diagnoses(_table(columns), first_row)


def read_phecode_counts(
    path: Path, *, root: Path | None = None, what: str = "phecode table"
) -> PhecodeCounts:
    """Read PheTK's table of `person_id`, `phecode` and `count`, as CSV or Parquet.

    Whether a phecode is one of the map is checked where the map is known
    (`phenokit.readers.phecodes.case_status`).

    Raises
    ------
    BadInput
        As `phenokit.readers.tables.read_table`; ``E_CODE`` if phecodes are stored as
        numbers, ``E_RANGE`` for a count below 1, ``E_DUP_ID`` for a patient and a phecode
        in several rows.
    """
    columns, first_row = _read_columns(path, _COUNTS, root=root, what=what)
    person, phecode = columns["person_id"], columns["phecode"]
    pair = person.indices.astype(np.int64) * len(phecode.uniques) + phecode.indices
    order = np.argsort(pair, kind="stable")
    is_repeat = np.diff(pair[order], prepend=-1) == 0
    if is_repeat.any():
        raise refusal_of_rows(
            "E_DUP_ID",
            "the person has the phecode in an earlier row already; sum the counts",
            np.sort(order[is_repeat]),
            column=phecode.name,
            what=what,
            first_row=first_row,
        )
    return PhecodeCounts(_table(columns), first_row)


@dataclass(frozen=True)
class _Cells:
    """A column by its different texts; `values` are what the texts mean."""

    name: str
    indices: Int[np.ndarray, " row"]
    uniques: list[str]
    values: list | None = None

    def mapped(self, texts: Sequence[str]) -> "_Cells":
        """The same rows with other texts, each kept once."""
        position: dict[str, int] = {}
        moved = np.array(
            [position.setdefault(text, len(position)) for text in texts], dtype=np.int32
        )
        return _Cells(self.name, moved[self.indices], list(position))


def _table(columns: Mapping[str, _Cells]) -> pa.Table:
    def array(name: str, cells: _Cells) -> pa.Array:
        if name == "date":
            days = np.array(cells.values, dtype="datetime64[D]")[cells.indices]
            return pa.array(days, pa.date32())
        if name == "count":
            return pa.array(np.array(cells.values, dtype=np.int64)[cells.indices])
        return pa.DictionaryArray.from_arrays(
            pa.array(cells.indices.astype(np.int32)), pa.array(cells.uniques, pa.string())
        )

    return pa.table({name: array(name, cells) for name, cells in columns.items()})


def _check_codes(
    codes: _Cells, version_indices: np.ndarray, versions: Sequence[str]
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Rows at fault by reason, and each text in capitals without its dot."""
    pair = codes.indices.astype(np.int64) * len(versions) + version_indices
    present = np.flatnonzero(
        np.bincount(pair, minlength=len(codes.uniques) * len(versions))
    )
    capitals = [text.upper() if text.isascii() else text for text in codes.uniques]
    faults: dict[str, list[int]] = {}
    for one in present.tolist():
        code, version = capitals[one // len(versions)], versions[one % len(versions)]
        if _GRAMMAR[version].fullmatch(code) is None:
            faults.setdefault(_fault_of(code, version), []).append(one)
    rows = {reason: np.flatnonzero(np.isin(pair, ones)) for reason, ones in faults.items()}
    return rows, [text.replace(".", "") for text in capitals]


def _fault_of(code: str, version: str) -> str:
    other = "10" if version == "9" else "9"
    if version == "9" and _LOST_ZEROS.fullmatch(code):
        return "the code has lost its leading zeros; keep the column as text"
    if _GRAMMAR[other].fullmatch(code):
        return f"the code can only be of version {other}, and its version says {version}"
    return f"the code is not of the form of {_EXAMPLE[version]}"


def _read_columns(
    path: Path,
    schema: Sequence[Column],
    *,
    root: Path | None,
    date_format: str = "%Y-%m-%d",
    what: str,
) -> tuple[dict[str, _Cells], int]:
    """The columns of the schema that a CSV or Parquet file has, checked; the first row."""
    data = read_bytes(path, root=root, max_bytes=MAX_DIAGNOSES_BYTES, what=what)
    is_parquet = data.startswith(b"PAR1")
    if is_parquet:
        names, column_of = _open_parquet(data, what)
        texts = None
    else:
        data = unpack_gzip(data, max_bytes=MAX_DIAGNOSES_BYTES)
        check_text(data, what)
        names = parse_header(data, what=what)
        column_of = texts = None
    called = _named_as(names, schema, date_format)
    match_header(names, list(called.values()), ignore_others=True, what=what)
    called = {name: column for name, column in called.items() if column.name in names}
    first_row = 1 if is_parquet else 2
    if column_of is None:
        texts = _csv_texts(data, list(called.values()), what)
    found: dict[str, _Cells] = {}
    faults: list[BadInput] = []
    for name, column in called.items():
        if column_of is not None:
            text = _parquet_text(column_of(column.name), name, column, what)
        else:
            assert texts is not None
            text = texts[column.name]
        indices, uniques = text
        values, refused = parse_cells(
            indices, uniques, column, what=what, first_row=first_row
        )
        faults += refused
        found[name] = _Cells(column.name, indices, uniques, values)
    if faults and not is_parquet:
        # The strict reader knows more, such as that an empty line is a row without cells.
        parse_table(data, list(called.values()), ignore_others=True, what=what)
    raise_first(faults)
    return found, first_row


def _named_as(
    names: Sequence[str], schema: Sequence[Column], date_format: str
) -> dict[str, Column]:
    """Each column under the name that the file has for it, its own before an alias."""
    called = {}
    for column in schema:
        name = next(
            (n for n in (column.name, *ALIASES.get(column.name, ())) if n in names),
            column.name,
        )
        called[column.name] = Column(
            name,
            column.kind,
            low=column.low,
            is_required=column.is_required,
            may_be_missing=column.may_be_missing,
            date_format=date_format,
        )
    return called


def _csv_texts(
    data: bytes, columns: Sequence[Column], what: str
) -> dict[str, tuple[np.ndarray, list[str]]]:
    text = pa.dictionary(pa.int32(), pa.string())
    names = [column.name for column in columns]
    try:
        table = pa_csv.read_csv(
            pa.BufferReader(data),
            read_options=pa_csv.ReadOptions(block_size=1 << 24),
            parse_options=pa_csv.ParseOptions(
                newlines_in_values=b'"' in data, ignore_empty_lines=False
            ),
            convert_options=pa_csv.ConvertOptions(
                include_columns=names,
                column_types=dict.fromkeys(names, text),
                strings_can_be_null=False,
                auto_dict_encode=False,
            ),
        )
    except pa.ArrowInvalid:
        table = None
    if table is None or table.num_rows == 0:
        # The strict reader says what is wrong, row by row; where it finds nothing (the two
        # differ in odd quotation marks), what it reads is what the file says.
        strict = parse_table(
            data,
            [Column(name, may_be_missing=True) for name in names],
            ignore_others=True,
            what=what,
        )
        table = pa.table(
            {name: pa.array(strict[name].tolist(), pa.string()) for name in names}
        )
    return {name: _by_text(table[name]) for name in names}


def _by_text(column: pa.ChunkedArray) -> tuple[np.ndarray, list[str]]:
    """Indices and different texts; a null is the empty text."""
    indices, uniques = _dictionary(column)
    return indices, ["" if text is None else text for text in uniques]


def _dictionary(column: pa.ChunkedArray) -> tuple[np.ndarray, list[Any]]:
    """Indices and different values, `None` last where there are nulls."""
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    array = column.unify_dictionaries().combine_chunks()
    uniques = array.dictionary.to_pylist()
    if not array.null_count:
        return array.indices.to_numpy(), uniques
    return array.indices.fill_null(len(uniques)).to_numpy(), [*uniques, None]


def _open_parquet(
    data: bytes, what: str
) -> tuple[list[str], Callable[[str], pa.ChunkedArray]]:
    """Names of the columns of a Parquet file, and how one of them is read."""

    def damaged() -> BadInput:
        return BadInput("E_FORMAT", f"The {what} is a damaged Parquet file.")

    def read(name: str) -> pa.ChunkedArray:
        try:
            return file.read([name])[name]
        except (pa.ArrowException, OSError):
            raise damaged() from None

    try:
        schema = pq.read_schema(pa.BufferReader(data))
        file = pq.ParquetFile(
            pa.BufferReader(data),
            read_dictionary=[
                field.name for field in schema if pa.types.is_string(field.type)
            ],
            page_checksum_verification=True,
        )
    except (pa.ArrowException, OSError):
        raise damaged() from None
    if file.metadata.num_rows == 0:
        raise BadInput("E_EMPTY", f"The {what} has no row.")
    return list(file.schema_arrow.names), read


def _parquet_text(
    values: pa.ChunkedArray, name: str, column: Column, what: str
) -> tuple[np.ndarray, list[str]]:
    """A column of a Parquet file as text; refused where its type has lost something."""
    kind = values.type.value_type if pa.types.is_dictionary(values.type) else values.type
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    is_day = pa.types.is_date(kind) or (pa.types.is_timestamp(kind) and kind.tz is None)
    everywhere = np.arange(len(values))

    def refusal(code: str, reason: str) -> BadInput:
        return refusal_of_rows(
            code, reason, everywhere, column=column.name, what=what, first_row=1
        )

    if name == "date" and is_day:
        indices, days = _dictionary(
            values.cast(pa.timestamp("us")).cast(pa.date32(), safe=False)
        )
        return indices, [day.strftime(column.date_format) if day else "" for day in days]
    if is_text:
        return _by_text(values.cast(pa.string()) if kind != pa.string() else values)
    if name in ("icd_code", "phecode"):
        raise refusal("E_CODE", "stored as numbers, codes lose their zeros; store text")
    if pa.types.is_integer(kind):
        return _by_text(values.cast(pa.string()))
    wanted = "dates" if name == "date" else "text or whole numbers"
    code = "E_DATE" if name == "date" else "E_RANGE"
    raise refusal(code, f"the column does not hold {wanted}")
