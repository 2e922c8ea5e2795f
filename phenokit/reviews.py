"""Which recordings a reader has seen: one small SQLite file, to which rows are only added.

The file is named by ``PHENOKIT_REVIEWS``; without it, ``phenokit/reviews.sqlite`` in the
user's state directory. It holds record ids, so it stays as private as the recordings.
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

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


@contextmanager
def _open(file: Path) -> Iterator[sqlite3.Connection]:
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    database = sqlite3.connect(file, timeout=5)
    try:
        with database:
            database.execute(_TABLE)
            yield database
    finally:
        database.close()
