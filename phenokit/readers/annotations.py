"""Read annotated events: the TSV of SzCORE, and the events.tsv of BIDS.

SzCORE writes the type of an event in the column ``eventType``, BIDS in ``trial_type``. The
labels are kept as they stand: which of them mean a seizure differs between data sets.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd

from phenokit.errors import BadInput
from phenokit.readers.tables import Column, read_table, refusal_of_rows
from phenokit.recording import Event

BACKGROUND = "bckg"
"""Label of time that was looked at and holds no seizure."""

DATE_TIME = "%Y-%m-%d %H:%M:%S"

WHAT = "event table"

_COLUMNS = (
    Column("onset"),
    Column("duration"),
    *(
        Column(name, is_required=False, may_be_missing=True)
        for name in (
            "eventType", "trial_type", "confidence", "channels", "dateTime",
            "recordingDuration",
        )
    ),
)  # fmt: skip

_ROUNDING = 0.011
"""Two times with two decimals may end this much (s) after what they stand for."""

Value = TypeVar("Value")


@dataclass(frozen=True)
class Annotations:
    """What somebody, or a program, found in one recording.

    Attributes
    ----------
    events
        Every row in the order of the file, background too; `label` as it stands in the
        file, ``"n/a"`` where there is none. An unknown duration makes the offset NaN.
    recording_duration
        Seconds; ``None`` where the file does not say.
    start
        Date and time of the recording's first sample; ``None`` where the file does not
        say. It is as identifying as any date.
    """

    events: tuple[Event, ...]
    recording_duration: float | None = None
    start: datetime | None = None

    @property
    def seizures(self) -> tuple[Event, ...]:
        """Events labelled ``sz`` or a finer type of HED-SCORE (``sz_foc`` ...)."""
        return tuple(e for e in self.events if e.label.split("_")[0] == "sz")

    @property
    def background(self) -> tuple[Event, ...]:
        """Stretches that were looked at and hold no seizure."""
        return tuple(e for e in self.events if e.label == BACKGROUND)


def read_annotations(path: Path, *, root: Path | None = None) -> Annotations:
    """Read a TSV of SzCORE, or the events.tsv of a BIDS data set.

    Parameters
    ----------
    path
        Columns ``onset`` and ``duration``; ``eventType`` or ``trial_type``,
        ``confidence``, ``channels``, ``dateTime`` and ``recordingDuration`` may be absent.
        Further columns are left out.
    root
        Folder that the file has to lie in; see `phenokit.readers.files.open_checked`.

    Returns
    -------
    Annotations
        An apostrophe in front of the channels, which keeps spreadsheets from running
        them, is taken away.

    Raises
    ------
    BadInput
        The codes of `read_table`; ``E_RANGE`` if a number is none, negative, beyond the
        recording, or a confidence is above 1, or if rows state different durations;
        ``E_DATE`` for another form of time.
    """
    table = read_table(
        path, _COLUMNS, root=root, separator="\t", ignore_others=True, what=WHAT
    )
    onset = _numbers(table, "onset")
    duration = _numbers(table, "duration", may_be_unknown=True)
    confidence = _numbers(table, "confidence", may_be_unknown=True, high=1.0)
    length = _one(
        _numbers(table, "recordingDuration", may_be_unknown=True), "recordingDuration"
    )
    offset = onset + duration
    if length is not None:
        _refuse(
            offset > length + _ROUNDING,
            "duration",
            "the event ends after the recording",
        )
        offset = np.minimum(offset, length)  # NaN stays NaN
    labels = _texts(table, "eventType" if "eventType" in table else "trial_type")
    channels = _texts(table, "channels")
    events = tuple(
        Event(
            label,
            float(begin),
            float(end),
            confidence=None if math.isnan(sure) else float(sure),
            channels=() if names == "n/a" else tuple(names.removeprefix("'").split(",")),
        )
        for label, begin, end, sure, names in zip(
            labels, onset, offset, confidence, channels, strict=True
        )
    )
    times = _texts(table, "dateTime")
    known = np.array([text != "n/a" for text in times])
    starts = _parse_each(times, known, _time, "dateTime", "E_DATE")
    return Annotations(events, length, _one_of(starts, "dateTime"))


def _texts(table: pd.DataFrame, name: str) -> list[str]:
    """Cells of a column; ``"n/a"`` where empty, and everywhere if there is no column."""
    if name not in table:
        return ["n/a"] * len(table)
    return [text or "n/a" for text in table[name]]


def _numbers(
    table: pd.DataFrame, name: str, *, may_be_unknown: bool = False, high: float = math.inf
) -> np.ndarray:
    """Numbers of a column, NaN where it says ``n/a``."""
    texts = _texts(table, name)
    unknown = np.array([text.lower() in ("n/a", "nan") for text in texts])
    if not may_be_unknown:
        _refuse(unknown, name, "the value is missing")
    numbers = np.full(len(texts), np.nan)
    parsed = _parse_each(texts, ~unknown, float, name, "E_RANGE")
    numbers[~unknown] = parsed
    _refuse(
        ~unknown & ~((numbers >= 0) & (numbers <= high) & np.isfinite(numbers)),
        name,
        "the value is negative" if high == math.inf else f"the value is not in 0 to {high}",
    )
    return numbers


def _parse_each(
    texts: list[str],
    known: np.ndarray,
    parse: Callable[[str], Value],
    name: str,
    code: str,
) -> list[Value]:
    values: list[Value] = []
    for row in np.flatnonzero(known):
        try:
            values.append(parse(texts[row]))
        except ValueError:
            is_time = code == "E_DATE"
            reason = "the time is not like 2020-01-31 23:59:59" if is_time else "no number"
            raise refusal_of_rows(
                code, reason, np.array([row]), column=name, what=WHAT
            ) from None
    return values


def _time(text: str) -> datetime:
    return datetime.strptime(text, DATE_TIME)  # local time of an unknown place: no zone


def _refuse(rows: np.ndarray, name: str, reason: str) -> None:
    if rows.any():
        positions = np.flatnonzero(rows)
        raise refusal_of_rows("E_RANGE", reason, positions, column=name, what=WHAT)


def _one(numbers: np.ndarray, name: str) -> float | None:
    return _one_of(numbers[~np.isnan(numbers)].tolist(), name)


def _one_of(values: list[Value], name: str) -> Value | None:
    """The value that all rows state."""
    if len(set(values)) > 1:
        raise BadInput(
            "E_RANGE",
            f"Column {name} of the {WHAT} differs between rows; one file holds the events "
            "of one recording.",
            where=f"column {name}",
        )
    return values[0] if values else None
