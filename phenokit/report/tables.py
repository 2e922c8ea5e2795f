"""Write a table as CSV that a spreadsheet opens as text, never as formulas.

A cell of text that a spreadsheet would run (it starts with ``= + - @``) gets an apostrophe
in front; so does text that has one already, so that `unguard_cell` gives back every text
exactly. Numbers are written with all their digits.
"""

import csv
import io
import os
from pathlib import Path

import numpy as np
import pandas as pd

_RUNS = tuple(
    "=+-@\uff1d\uff0b\uff0d\uff20'"
)  # ASCII and full-width: spreadsheets run both
_BLANKS = " \t\r\n\u00a0"


def write_table(path: Path, table: pd.DataFrame, *, separator: str = ",") -> None:
    """Write a table as a CSV file, or with a tab as `separator` as a TSV file.

    The file is there whole or not at all. See `format_table`.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        file.write(format_table(table, separator=separator))
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def format_table(table: pd.DataFrame, *, separator: str = ",") -> bytes:
    """The bytes of a CSV file: UTF-8, a header, one line a row, the index left out.

    Parameters
    ----------
    table
        Text is guarded (`guard_cell`), in the header too; a missing value is an empty
        cell; a truth value is 1 or 0; a date or time is ISO 8601.
    separator
        Between cells.

    Raises
    ------
    ValueError
        If a text holds a NUL, or a cell holds something else than a plain value.
    """
    buffer = Lines(newline="")
    writer = csv.writer(buffer, delimiter=separator, lineterminator=Lines.END)
    writer.writerow([guard_cell(str(name)) for name in table.columns])
    columns = [_cells(table.iloc[:, k]) for k in range(table.shape[1])]
    writer.writerows(zip(*columns, strict=True))
    text = buffer.getvalue()
    if "\0" in text:
        raise ValueError("a text holds a NUL, which no table can")
    return text.encode("utf-8")


class Lines(io.StringIO):
    """What a writer of `csv` writes to with the line terminator `END`; lines end in LF.

    The writer puts quotes around a cell that holds a character of its terminator. A CR
    without them would end the row for many readers, and what stands behind it, say
    ``=1+1``, would be a cell of its own.
    """

    END = "\r\n"

    def write(self, line: str, /) -> int:
        """Write one row."""
        return super().write(f"{line.removesuffix(self.END)}\n")


def guard_cell(text: str) -> str:
    """`text` with an apostrophe in front if a spreadsheet could run it.

    Examples
    --------
    >>> guard_cell("=1+1"), guard_cell("'quoted'"), guard_cell("AFIB")
    ("'=1+1", "''quoted'", 'AFIB')
    """
    return "'" + text if text.lstrip(_BLANKS).startswith(_RUNS) else text


def unguard_cell(cell: str) -> str:
    """The text that `guard_cell` was given."""
    return cell.removeprefix("'")


def visible_text(text: str) -> str:
    r"""`text` with each character that cannot be seen, or is not ASCII, as its code point.

    Two ids that look alike but differ are told apart; text that changes the direction of
    writing cannot hide its end.

    Examples
    --------
    >>> visible_text("A\u0391 \u202e")
    'A\\u0391 \\u202e'
    """
    return "".join(
        character
        if " " <= character <= "~"
        else character.encode("unicode_escape", "surrogatepass").decode("ascii")
        for character in text
    )


def _cells(column: pd.Series) -> list[str]:
    """A column as cells; a text that stands in many rows is guarded once."""
    values = column.tolist()
    if column.dtype == np.float64:
        return [repr(value) if value == value else "" for value in values]
    if column.dtype == object and all(type(value) is str for value in values):
        guarded = {text: guard_cell(text) for text in set(values)}
        return [guarded[text] for text in values]
    return [_cell(value) for value in values]


def _cell(value: object) -> str:
    if isinstance(value, str):
        return guard_cell(value)
    if value is None or value is pd.NA or value is pd.NaT or value != value:
        return ""
    if isinstance(value, bool | np.bool_):
        return "1" if value else "0"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, np.integer | np.floating):
        return repr(value.item())
    if isinstance(value, pd.Timestamp):
        return value.isoformat()
    raise ValueError(f"{type(value).__name__} has no place in a table")
