"""Read a CSV table strictly, by a schema that says what each column is.

A table that a library reads without a word may have lost a column, a zero or a patient:
surplus fields shift the columns, a doubled name gets a number, the code 008 becomes 8, and
semicolons make one column of three. Here every cell is text until its column says
otherwise; ids and codes stay text, byte for byte, without any folding.

Messages name the column and the rows, counted as a spreadsheet does (the header is
row 1), and never the values: a value may be that of a patient.
"""

import csv
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Int

from phenokit.errors import CODES, BadInput
from phenokit.readers.archives import unpack_gzip
from phenokit.readers.files import MAX_BYTES, read_bytes

Kind = Literal["text", "number", "integer", "binary", "prevalence", "date", "time"]

_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_PLAIN_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?", re.ASCII)
_INTEGER = re.compile(r"[+-]?\d{1,15}", re.ASCII)
_NOT_FINITE = re.compile(r"[+-]?(nan|inf|infinity)", re.IGNORECASE)
_TIME = re.compile(
    r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d{1,6})?)?(Z|[+-]\d\d:\d\d)?", re.ASCII
)
_ROWS_AT_ONCE = 50_000
_ROWS_NAMED = 10


@dataclass(frozen=True)
class Column:
    """What one column of a table has to hold.

    Attributes
    ----------
    name
        As in the header, byte for byte.
    kind
        ``"text"`` (ids and codes too), ``"number"``, ``"integer"``, ``"binary"`` (0 or 1),
        ``"prevalence"`` (strictly between 0 and 1), ``"date"``, or ``"time"`` (ISO 8601
        with its zone; read as UTC).
    low, high
        Smallest and largest number allowed, both included; ``None``: no limit.
    unique
        Whether a value may stand in one row only.
    is_required
        Whether the column may be absent from the table.
    may_be_missing
        Whether a cell may be empty: NaN, NaT or, for text, the empty text.
    date_format
        `strptime` format of a date; ISO 8601 unless given.
    """

    name: str
    kind: Kind = "text"
    low: int | float | None = None
    high: int | float | None = None
    unique: bool = False
    is_required: bool = True
    may_be_missing: bool = False
    date_format: str = "%Y-%m-%d"


@dataclass(frozen=True)
class _Fault:
    """Why a cell is refused: a code and the words that follow the rows."""

    code: str
    reason: str


def read_table(
    path: Path,
    columns: Sequence[Column],
    *,
    root: Path | None = None,
    separator: str = ",",
    ignore_others: bool = False,
    max_bytes: int = MAX_BYTES,
    what: str = "table",
) -> pd.DataFrame:
    """Read a CSV file strictly.

    Parameters
    ----------
    path
        A CSV file in UTF-8 (with or without byte order mark), plain or packed by gzip.
    columns
        The schema. Columns of the file may stand in any order.
    root
        Folder that the file has to lie in; see `phenokit.readers.files.open_checked`.
    separator
        One of comma, semicolon, tab and bar; never guessed.
    ignore_others
        Whether columns that the schema does not know are left out rather than refused.
    max_bytes, what
        Size limit, and what the table is called in a message: ``"patients table"``.

    Returns
    -------
    pd.DataFrame
        The columns of the schema that the file has, in the schema's order: text as
        `str`, numbers and prevalences as float64, integers and 0/1 as int64 (float64
        where cells may be missing), dates as datetime64, times as UTC.

    Raises
    ------
    BadInput
        ``E_ENCODING`` not UTF-8 or a NUL (`where`: byte offset), ``E_EMPTY`` no row,
        ``E_COLUMNS`` a column missing, doubled or unknown, rows of another width, or
        another separator, then by column ``E_DUP_ID``, ``E_DATE``, ``E_TIMEZONE``,
        ``E_RANGE``, ``E_PREVALENCE``, ``E_NONFINITE``. Of several, the first in the
        order of `CODES`.
    """
    packed = read_bytes(path, root=root, max_bytes=max_bytes, what=what)
    data = unpack_gzip(packed, max_bytes=max_bytes)
    return parse_table(
        data, columns, separator=separator, ignore_others=ignore_others, what=what
    )


def parse_table(
    data: bytes,
    columns: Sequence[Column],
    *,
    separator: str = ",",
    ignore_others: bool = False,
    what: str = "table",
) -> pd.DataFrame:
    r"""Table of the bytes of a CSV file; see `read_table`.

    Examples
    --------
    >>> columns = [Column("phecode"), Column("age", "number", low=0, high=120)]
    >>> parse_table(b"phecode,age\n008,61.5\n", columns)
      phecode   age
    0     008  61.5
    """
    if separator not in _SEPARATORS:
        raise ValueError(f"separator is {separator!r}; choose one of , ; tab |")
    text = _decode(data, what)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        header = next(rows, [])
        if not header:
            raise BadInput("E_EMPTY", f"The {what} is empty.")
        positions = match_header(
            header, columns, separator=separator, ignore_others=ignore_others, what=what
        )
        cells = _read_cells(rows, len(header), list(positions.values()), what)
    except csv.Error:
        raise BadInput(
            "E_COLUMNS",
            f"The {what} has a quotation mark out of place, or a cell of more than "
            f"{csv.field_size_limit()} characters.",
            where=f"line {rows.line_num}",
        ) from None
    by_name = {column.name: column for column in columns}
    found: dict[str, Any] = {}
    faults: list[BadInput] = []
    for name, (values, uniques) in zip(positions, cells, strict=True):
        found[name], refused = _convert(values, uniques, by_name[name], what)
        faults += refused
    raise_first(faults)
    return pd.DataFrame({c.name: found[c.name] for c in columns if c.name in found})


def parse_header(data: bytes, *, separator: str = ",", what: str = "table") -> list[str]:
    """Names of the columns, as the first row of a CSV file has them.

    Raises
    ------
    BadInput
        ``E_ENCODING``, or ``E_EMPTY`` if there is no row at all.
    """
    end = data.find(b"\n")
    text = _decode(data if end < 0 else data[:end], what)
    header = next(csv.reader([text.removesuffix("\r")], delimiter=separator), [])
    if not header:
        raise BadInput("E_EMPTY", f"The {what} is empty.")
    return header


def check_text(data: bytes, what: str = "table") -> None:
    """Refuse bytes that are not UTF-8 or hold a NUL (``E_ENCODING``)."""
    if not data.isascii() or b"\0" in data:
        _decode(data, what)


def _decode(data: bytes, what: str) -> str:
    nul = data.find(b"\0")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        offset = error.start if nul < 0 else min(nul, error.start)
        raise BadInput(
            "E_ENCODING",
            f"The {what} is not UTF-8 at byte {offset}; save it as UTF-8.",
            where=f"byte {offset}",
        ) from None
    if nul >= 0:
        raise BadInput(
            "E_ENCODING", f"The {what} has a NUL at byte {nul}.", where=f"byte {nul}"
        )
    return text.removeprefix("\ufeff")


def match_header(
    header: list[str],
    columns: Sequence[Column],
    *,
    separator: str = ",",
    ignore_others: bool = False,
    what: str = "table",
) -> dict[str, int]:
    """Position of each column of the schema that the header has; see `read_table`."""
    expected = {column.name: column for column in columns}
    if len(header) == 1 and header[0] not in expected:
        for other, word in _SEPARATORS.items():
            if other != separator and other in header[0]:
                raise BadInput(
                    "E_COLUMNS",
                    f"The {what} is separated by {word}; save it with "
                    f"{_SEPARATORS[separator]}, or name the separator.",
                    where="row 1",
                )
    positions: dict[str, int] = {}
    for position, name in enumerate(header):
        if name in header[:position]:
            shown = name if name in expected else str(position + 1)
            raise BadInput(
                "E_COLUMNS",
                f"The {what} has column {shown} twice.",
                where=f"column {shown}",
            )
        if name in expected:
            positions[name] = position
        elif not ignore_others:
            raise BadInput(
                "E_COLUMNS",
                f"Column {position + 1} of the {what} is not known; "
                f"expected are {', '.join(expected)}.",
                where=f"column {position + 1}",
            )
    missing = [c.name for c in columns if c.is_required and c.name not in positions]
    if missing:
        raise BadInput(
            "E_COLUMNS",
            f"The {what} has no column {', '.join(missing)}.",
            where=f"column {missing[0]}",
        )
    return positions


def _read_cells(
    rows: Any,  # noqa: ANN401 - the type of csv.reader has no public name
    width: int,
    positions: list[int],
    what: str,
) -> list[tuple[np.ndarray, list[str]]]:
    """Each column as indices into its different texts: a text is kept and parsed once."""
    indices: list[list[np.ndarray]] = [[] for _ in positions]
    seen: list[dict[str, int]] = [{} for _ in positions]
    n_rows = 0
    while chunk := list(islice(rows, _ROWS_AT_ONCE)):
        ragged = [row for row, cells in enumerate(chunk) if len(cells) != width]
        if ragged:
            raise BadInput(
                "E_COLUMNS",
                f"Row {n_rows + ragged[0] + 2} of the {what} has "
                f"{len(chunk[ragged[0]])} cells; the header has {width}.",
                where=f"row {n_rows + ragged[0] + 2}",
            )
        for column, position in enumerate(positions):
            known = seen[column]
            indices[column].append(
                np.array([known.setdefault(row[position], len(known)) for row in chunk])
            )
        n_rows += len(chunk)
    if n_rows == 0:
        raise BadInput("E_EMPTY", f"The {what} has a header and no row.")
    return [
        (np.concatenate(parts), list(known))
        for parts, known in zip(indices, seen, strict=True)
    ]


def _convert(
    indices: np.ndarray, uniques: list[str], column: Column, what: str
) -> tuple[Any, list[BadInput]]:
    """Values of a column, and why it is refused, at most once for each code."""
    values, refused = parse_cells(indices, uniques, column, what=what)
    return (None if refused else _array(values, column)[indices]), refused


def parse_cells(
    indices: Int[np.ndarray, " row"],
    uniques: list[str],
    column: Column,
    *,
    what: str = "table",
    first_row: int = 2,
) -> tuple[list[Any], list[BadInput]]:
    """Value of each different text of a column, and why cells are refused.

    Parameters
    ----------
    indices, uniques
        The column: ``uniques[indices[row]]`` is the cell of a row.
    column
        What it has to hold.
    what, first_row
        See `refusal_of_rows`.

    Returns
    -------
    values
        Of `uniques`; without meaning where something is refused.
    refused
        At most one for each outcome code.
    """
    values = [_parse(text, column) for text in uniques]
    reasons: dict[str, str] = {}
    rows: dict[str, set[int]] = {}
    for index, value in enumerate(values):
        if isinstance(value, _Fault):
            reasons.setdefault(value.code, value.reason)
            rows.setdefault(value.code, set()).add(index)
    if column.unique and (np.bincount(indices, minlength=1) > 1).any():
        reasons["E_DUP_ID"] = "the value stands in several rows"
        rows["E_DUP_ID"] = set(np.flatnonzero(np.bincount(indices) > 1).tolist())
    refused = [
        refusal_of_rows(
            code,
            reason,
            np.flatnonzero(np.isin(indices, list(rows[code]))),
            column=column.name,
            what=what,
            first_row=first_row,
        )
        for code, reason in reasons.items()
    ]
    return values, refused


def numbers_or_text(cells: list[str]) -> list[str] | list[float]:
    """Numbers where every cell that is not empty is plainly one (so not 008)."""
    texts = set(cells) - {""}
    if not texts or not all(_PLAIN_NUMBER.fullmatch(text) for text in texts):
        return cells
    value = {text: float(text) for text in texts} | {"": math.nan}
    return [value[text] for text in cells]


def raise_first(faults: Sequence[BadInput]) -> None:
    """Raise the fault that is first in the order of `CODES`; nothing if there is none."""
    if faults:
        order = list(CODES)
        raise min(faults, key=lambda fault: order.index(fault.code))


def _array(values: list[Any], column: Column) -> Any:  # noqa: ANN401 - numpy or pandas array
    if column.kind == "text":
        return np.array([*values, None], dtype=object)[:-1]  # never an array of characters
    if column.kind == "date":
        return np.array(values, dtype="datetime64[s]")
    if column.kind == "time":
        return pd.DatetimeIndex(values).tz_localize("UTC")
    is_whole = column.kind in ("integer", "binary") and not column.may_be_missing
    return np.array(values, dtype=np.int64 if is_whole else np.float64)


def refusal_of_rows(
    code: str,
    reason: str,
    positions: Int[np.ndarray, " row"],
    *,
    column: str,
    what: str,
    first_row: int = 2,
) -> BadInput:
    """The refusal that names a column and rows, and never a value.

    Parameters
    ----------
    code, reason
        One of `CODES`, and the words that follow the rows.
    positions
        Rows at fault, ascending, counted from 0; the first ten are named.
    column, what
        Names of the column and of the table.
    first_row
        Number of the first row: 2 below a header, as a spreadsheet counts; 1 where the
        format has no header row.
    """
    named = ", ".join(str(position + first_row) for position in positions[:_ROWS_NAMED])
    if len(positions) > _ROWS_NAMED:
        named += f" and {len(positions) - _ROWS_NAMED} more"
    rows = f"row{'s' if len(positions) > 1 else ''} {named}"
    return BadInput(
        code,
        f"Column {column} of the {what}, {rows}: {reason}.",
        where=f"column {column}, {rows}",
    )


def _parse(text: str, column: Column) -> Any:  # noqa: ANN401 - a value of the column's kind
    """Value of a cell, or the `_Fault` that refuses it."""
    if text == "" and column.may_be_missing:
        return {"text": "", "date": np.datetime64("NaT"), "time": pd.NaT}.get(
            column.kind, math.nan
        )
    if column.kind == "text":
        return _Fault("E_RANGE", "the cell is empty") if text == "" else text
    if column.kind == "date":
        return _parse_date(text, column.date_format)
    if column.kind == "time":
        return _parse_time(text)
    return _parse_number(text.strip(" "), column)


def _parse_date(text: str, date_format: str) -> np.datetime64 | _Fault:
    try:
        day = datetime.strptime(text if text.isascii() else "", date_format).date()
    except ValueError:
        return _Fault(
            "E_DATE", f"the date is not of the format {date_format}; name its format"
        )
    return np.datetime64(day, "s")


def _parse_time(text: str) -> np.datetime64 | _Fault:
    match = _TIME.fullmatch(text)
    if match is None:
        return _Fault(
            "E_DATE", "the time is not ISO 8601, such as 2024-03-31T02:30:00+02:00"
        )
    if match[3] is None:
        return _Fault("E_TIMEZONE", "the time has no zone; write +02:00 or Z behind it")
    try:
        moment = datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        return _Fault("E_DATE", "there is no such date or time")
    return np.datetime64(moment.replace(tzinfo=None), "us")


def _parse_number(text: str, column: Column) -> int | float | _Fault:
    if column.kind == "prevalence":
        value = float(text) if _NUMBER.fullmatch(text) else math.nan
        if 0 < value < 1:
            return value
        return _Fault("E_PREVALENCE", "the prevalence is not strictly between 0 and 1")
    if text == "" or _NOT_FINITE.fullmatch(text):
        return _Fault("E_NONFINITE", "the number is missing or not finite")
    if column.kind in ("integer", "binary"):
        value = int(text) if _INTEGER.fullmatch(text) else math.nan
    else:
        value = float(text) if _NUMBER.fullmatch(text) else math.nan
    if math.isnan(value):
        sort = (
            "a number with a decimal point" if column.kind == "number" else "a whole number"
        )
        return _Fault("E_RANGE", f"the cell is not {sort}")
    if math.isinf(value):
        return _Fault("E_NONFINITE", "the number is missing or not finite")
    low, high = (0, 1) if column.kind == "binary" else (column.low, column.high)
    if (low is not None and value < low) or (high is not None and value > high):
        return _Fault("E_RANGE", f"the number is not from {_bound(low)} to {_bound(high)}")
    return value


def _bound(limit: int | float | None) -> str:
    return "anything" if limit is None else f"{limit:g}"
