"""What readers said: one small SQLite file, to which rows are only added.

It holds which recordings were seen, and what a reader decided on the events of an iEEG: a
layer over the model's events, which stay as they were found. Each decision names its author
and its time and is signed with the one before it, so that a row that was altered, or taken
out from among the others, is noticed (`unaltered`).

The file is named by ``PHENOKIT_REVIEWS``; without it, ``phenokit/reviews.sqlite`` in the
user's state directory. It holds record ids, so it stays as private as the recordings.
"""

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from phenokit.ledger import append_only, chain_hash, first_altered
from phenokit.recording import Event

Decision = Literal["accepted", "rejected", "edited", "added", "withdrawn"]

_TABLE = """
CREATE TABLE IF NOT EXISTS reviewed (
    cohort TEXT NOT NULL, record_id TEXT NOT NULL, is_reviewed INTEGER NOT NULL,
    reviewer TEXT NOT NULL, at TEXT NOT NULL
)
"""
_LATEST = """
SELECT record_id FROM reviewed
WHERE rowid IN (SELECT max(rowid) FROM reviewed WHERE cohort = ? GROUP BY record_id)
AND is_reviewed
"""
_DECISIONS = f"""
CREATE TABLE IF NOT EXISTS event_decision (
    recording TEXT NOT NULL, bundle_hash TEXT NOT NULL, decision TEXT NOT NULL,
    onset REAL NOT NULL, offset REAL NOT NULL, new_onset REAL NOT NULL,
    new_offset REAL NOT NULL, threshold REAL, note TEXT NOT NULL, author TEXT NOT NULL,
    at TEXT NOT NULL, signature TEXT NOT NULL
);
{append_only("event_decision")}
"""
_COLUMNS = (
    "decision, onset, offset, new_onset, new_offset, bundle_hash, threshold, "
    "note, author, at"
)

SAME_EVENT = 0.5
"""Share of the time of two events together, from which they are one event."""


def reviews_file() -> Path:
    """Where reviews are kept; the file need not exist yet."""
    if named := os.environ.get("PHENOKIT_REVIEWS"):
        return Path(named).absolute()
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "phenokit" / "reviews.sqlite"


def mark_reviewed(
    file: Path, cohort: str, record_id: str, *, is_reviewed: bool, reviewer: str
) -> None:
    """Note that a recording was seen, or that it has to be seen again.

    Parameters
    ----------
    cohort
        What the record ids belong to.
    reviewer
        Who says so; empty where nobody signs in.
    """
    row = (cohort, record_id, is_reviewed, reviewer, datetime.now(UTC).isoformat())
    with _open(file) as database:
        database.execute("INSERT INTO reviewed VALUES (?, ?, ?, ?, ?)", row)


def reviewed_records(file: Path, cohort: str) -> frozenset[str]:
    """Record ids of a cohort whose last mark says that they were seen."""
    if not file.is_file():
        return frozenset()
    with _open(file) as database:
        return frozenset(record for (record,) in database.execute(_LATEST, (cohort,)))


# Events of an iEEG


@dataclass(frozen=True)
class EventDecision:
    """What a reader said of one event.

    Attributes
    ----------
    decision
        ``"withdrawn"`` takes back what was said of the event before.
    onset, offset
        Of the event that the reader saw (s); of one that the reader added, its own.
    new_onset, new_offset
        What the reader says; the same unless edited.
    bundle_hash, threshold
        Of the model that found the event; empty and None for an added one.
    note
        In the reader's words.
    author, at
        Who, and when (UTC, ISO 8601); both are filled in by `decide_event`.
    """

    decision: Decision
    onset: float
    offset: float
    new_onset: float
    new_offset: float
    bundle_hash: str = ""
    threshold: float | None = None
    note: str = ""
    author: str = ""
    at: str = ""


@dataclass(frozen=True)
class ReviewedEvent:
    """An event with what a reader said of it.

    Attributes
    ----------
    event
        As the reader has it; as the model found it where nobody has said anything.
    found
        The model's event; None where the model finds none there (at this threshold).
    decision
        The last word; None where there is none.
    """

    event: Event
    found: Event | None
    decision: EventDecision | None

    @property
    def status(self) -> str:
        """In a word or two."""
        return "not reviewed" if self.decision is None else self.decision.decision


def decide_event(
    file: Path, recording: str, decision: EventDecision, *, author: str
) -> EventDecision:
    """Add a decision to the layer of a recording, signed.

    Parameters
    ----------
    recording
        What tells the recording from others, on any day: a hash of its bytes.
    author
        Who decides.

    Returns
    -------
    EventDecision
        With author and time.

    Raises
    ------
    ValueError
        If nobody is named, or the event does not end after it begins.
    """
    if not author.strip():
        raise ValueError("a decision needs an author")
    if not 0 <= decision.new_onset < decision.new_offset:
        raise ValueError("the event does not end after it begins")
    signed = replace(decision, author=author.strip(), at=datetime.now(UTC).isoformat())
    with _open(file) as database:
        database.execute("BEGIN IMMEDIATE")  # nobody signs the same row at the same time
        last = database.execute(
            "SELECT signature FROM event_decision ORDER BY rowid DESC LIMIT 1"
        ).fetchone()
        before = last[0] if last else ""
        signature = chain_hash(before, (recording, *astuple(signed)))
        database.execute(
            f"INSERT INTO event_decision (recording, {_COLUMNS}, signature) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (recording, *astuple(signed), signature),
        )
    return signed


def event_decisions(file: Path, recording: str) -> tuple[EventDecision, ...]:
    """All decisions on the events of a recording, the oldest first."""
    if not file.is_file():
        return ()
    with _open(file) as database:
        rows = database.execute(
            f"SELECT {_COLUMNS} FROM event_decision WHERE recording = ? ORDER BY rowid",
            (recording,),
        )
        return tuple(EventDecision(*row) for row in rows)


def unaltered(file: Path) -> bool:
    """Whether every decision of the file still bears the signature it was given."""
    if not file.is_file():
        return True
    with _open(file) as database:
        rows = database.execute(
            f"SELECT recording, {_COLUMNS}, signature FROM event_decision ORDER BY rowid"
        ).fetchall()
    return first_altered((row[:-1], row[-1]) for row in rows) is None


def reviewed_events(
    found: Sequence[Event], decisions: Sequence[EventDecision]
) -> tuple[ReviewedEvent, ...]:
    """The model's events under the reader's layer, in order of time.

    A decision holds for the event that shares at least half of their time together with
    the one that was decided on: at another threshold, an event may be another. What was
    accepted, edited or added stays in the list where the model finds nothing like it.

    Examples
    --------
    >>> found = [Event("sz", 10.0, 40.0, 0.9), Event("sz", 300.0, 330.0, 0.6)]
    >>> rejected = EventDecision("rejected", 298.0, 332.0, 298.0, 332.0)
    >>> [one.status for one in reviewed_events(found, [rejected])]
    ['not reviewed', 'rejected']
    """
    last: list[EventDecision] = []
    for decision in decisions:
        last = [
            one
            for one in last
            if _shared((one.onset, one.offset), (decision.onset, decision.offset))
            < SAME_EVENT
        ]
        if decision.decision != "withdrawn":
            last.append(decision)
    reviewed: list[ReviewedEvent] = []
    for event in found:
        span = (float(event.onset), float(event.offset))
        fits = [one for one in last if _shared((one.onset, one.offset), span) >= SAME_EVENT]
        decision = fits[-1] if fits else None
        last = [one for one in last if one not in fits]
        shown = event
        if decision is not None and decision.decision == "edited":
            shown = replace(event, onset=decision.new_onset, offset=decision.new_offset)
        reviewed.append(ReviewedEvent(shown, event, decision))
    reviewed += [
        ReviewedEvent(Event("sz", one.new_onset, one.new_offset), None, one)
        for one in last
        if one.decision != "rejected"
    ]
    return tuple(sorted(reviewed, key=lambda one: one.event.onset))


def _shared(one: tuple[float, float], other: tuple[float, float]) -> float:
    """Time in both spans over time in either."""
    both = max(0.0, min(one[1], other[1]) - max(one[0], other[0]))
    either = (one[1] - one[0]) + (other[1] - other[0]) - both
    return both / either if either > 0 else 0.0


@contextmanager
def _open(file: Path) -> Iterator[sqlite3.Connection]:
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    database = sqlite3.connect(file, timeout=5)
    try:
        with database:
            database.execute(_TABLE)
            database.executescript(_DECISIONS)
            yield database
    finally:
        database.close()
