"""Who did what, and when: a log to which rows are only added.

Its folder is named by ``PHENOKIT_AUDIT``; without it, ``phenokit/audit`` in the user's
state directory. It holds

    audit.sqlite   the rows; triggers refuse to change or remove one
    audit.key      made at random, for its owner only: of pseudonyms and of the chain
    audit.head     how many rows there are and the hash of the last, after each row
    audit.lock     held while a row is added, so that processes and threads take turns

A row names no recording: it holds a keyed hash of what the recording is known by, the
same for the same recording (`AuditLog.pseudonym`). Each row bears a keyed hash of itself
and of the row before (`phenokit.ledger`), so `AuditLog.verify` finds a row that was
changed, put in or taken out, and by ``audit.head`` also rows taken off the end.

What that cannot show: somebody who may write the folder has the key as well, and can make
another log from nothing, or put back a copy of the whole folder. Only a head that was kept
where that person cannot write tells: note what ``phenokit audit verify`` prints, and give
it back with ``--head``.
"""

import fcntl
import hashlib
import hmac
import json
import logging
import os
import pwd
import re
import secrets
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import astuple, dataclass, fields
from datetime import UTC, datetime
from errno import EIO
from pathlib import Path
from typing import Literal

from phenokit.errors import PhenoKitError
from phenokit.ledger import append_only, chain_hash, first_altered

Action = Literal[
    "view", "score", "export", "job", "review", "sign-in", "sign-out", "refused",
    "configuration",
]  # fmt: skip
SECONDS_TO_WAIT = 10.0
"""For others who add a row."""
MAX_USER = 256
_LOG = logging.getLogger("phenokit.audit")

_ENTRY = f"""
CREATE TABLE IF NOT EXISTS entry (
    number INTEGER PRIMARY KEY, at TEXT NOT NULL, user TEXT NOT NULL, action TEXT NOT NULL,
    record TEXT NOT NULL, page TEXT NOT NULL, bundle_hash TEXT NOT NULL,
    detail TEXT NOT NULL, hash TEXT NOT NULL
);
CREATE TRIGGER IF NOT EXISTS entry_follows BEFORE INSERT ON entry
WHEN NEW.number <> (SELECT coalesce(max(number), 0) + 1 FROM entry)
BEGIN SELECT RAISE(ABORT, 'rows are only added'); END;
{append_only("entry")}
"""
_CODE = re.compile(r"[A-Za-z0-9_.:/+ -]{0,64}")
_HEX = re.compile(r"[0-9a-f]{0,64}")


class AuditFailed(PhenoKitError, OSError):
    """The log cannot be written, or is not what it was: nothing is done without it."""

    def __init__(self, why: str) -> None:
        super().__init__(EIO, f"the audit log cannot be written ({why})")


@dataclass(frozen=True)
class Entry:
    """A row of the log.

    Attributes
    ----------
    number
        From 1, without gaps.
    at
        UTC, ISO 8601.
    user
        Who; empty where nobody signs in.
    record
        Pseudonym; empty where the row is about no single recording.
    page
        Of the app, or ``"cli"``.
    bundle_hash
        Of the model; empty where none is meant.
    detail
        A code in a few words, never a name.
    """

    number: int
    at: str
    user: str
    action: str
    record: str
    page: str
    bundle_hash: str
    detail: str


@dataclass(frozen=True)
class Verdict:
    """What the check of a log came to.

    Attributes
    ----------
    n_entries
        Rows that are there.
    head
        Hash of the last row; empty for none. To be kept elsewhere.
    problem
        What is wrong, in one sentence; empty where nothing is.
    """

    n_entries: int
    head: str
    problem: str


_COLUMNS = ", ".join(field.name for field in fields(Entry))


def audit_folder() -> Path:
    """Where the log is kept; the folder need not exist yet."""
    if named := os.environ.get("PHENOKIT_AUDIT"):
        return Path(named).absolute()
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "phenokit" / "audit"


def is_binding() -> bool:
    """Whether nothing may be done that cannot be logged: where the folder was named.

    On a machine of one's own, where nobody named a folder, a full disk or a home that
    cannot be written does not stop the work.
    """
    return bool(os.environ.get("PHENOKIT_AUDIT"))


def note(
    action: Action,
    *,
    user: str | None = None,
    must: bool = False,
    record: str = "",
    page: str = "cli",
    bundle_hash: str = "",
    detail: str = "",
) -> None:
    """Add a row to the log of this installation, see `AuditLog.add`.

    Parameters
    ----------
    user
        None for the user of the operating system who runs this process.
    must
        Whether the action may not happen unlogged even where the log is not binding
        (`is_binding`); else a row that cannot be written is a warning.

    Raises
    ------
    AuditFailed
        If the row has to be written and cannot be.
    """
    try:
        AuditLog(audit_folder()).add(
            action,
            user=_own_name() if user is None else user,
            record=record,
            page=page,
            bundle_hash=bundle_hash,
            detail=detail,
        )
    except AuditFailed as error:
        if must or is_binding():
            raise
        _LOG.warning("%s", error.strerror)


class AuditLog:
    """The log in a folder; made when the first row is added. Safe to use from threads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(
        self,
        action: Action,
        *,
        user: str,
        record: str = "",
        page: str = "",
        bundle_hash: str = "",
        detail: str = "",
    ) -> Entry:
        """Add a row; it is on the disk when this returns.

        Parameters
        ----------
        record
            What the recording is known by on any day, best the hash of its bytes: its
            pseudonym is written, not this.
        page, detail
            Short codes; a name of a patient or a file has no place here.

        Raises
        ------
        AuditFailed
            If the row cannot be written, or rows were taken off the end of the log.
        ValueError
            If a code is none.
        """
        if not (_CODE.fullmatch(page) and _CODE.fullmatch(detail)):
            raise ValueError("page and detail are short codes")
        if not _HEX.fullmatch(bundle_hash):
            raise ValueError("bundle_hash is no hash")
        try:
            with self._locked(), closing(self._connect()) as database:
                key = self._key(may_make=_last(database)[0] == 0)
                with database:
                    database.execute("BEGIN IMMEDIATE")
                    number, before = _last(database)
                    self._require_whole(number, before)
                    entry = Entry(
                        number + 1,
                        datetime.now(UTC).isoformat(timespec="milliseconds"),
                        user[:MAX_USER],
                        action,
                        _pseudonym(key, record),
                        page,
                        bundle_hash,
                        detail,
                    )
                    last = chain_hash(before, astuple(entry), key)
                    database.execute(
                        f"INSERT INTO entry ({_COLUMNS}, hash) "
                        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                        (*astuple(entry), last),
                    )
                self._write_head(entry.number, last)
        except (OSError, sqlite3.Error) as error:
            if isinstance(error, AuditFailed):
                raise
            raise AuditFailed(getattr(error, "strerror", "") or "disk") from None
        return entry

    def pseudonym(self, record: str) -> str:
        """What stands in the log for a recording.

        Raises
        ------
        AuditFailed
            If there is no log yet, or its key cannot be read.
        """
        return _pseudonym(self._key(may_make=False), record)

    def entries(self) -> list[Entry]:
        """All rows, the oldest first.

        Raises
        ------
        AuditFailed
            If the database cannot be read.
        """
        return [Entry(*row[:-1]) for row in self._rows()]

    def verify(self, *, head: str = "") -> Verdict:
        """Check numbers, chain and end of the log.

        Parameters
        ----------
        head
            That an earlier check returned: the row must still be there.

        Raises
        ------
        AuditFailed
            If the log cannot be read.
        """
        rows = self._rows()
        hashes = [row[-1] for row in rows]
        return Verdict(len(rows), hashes[-1] if rows else "", self._problem(rows, head))

    def _require_whole(self, number: int, last: str) -> None:
        """Add nothing to a log that lost its end: a new head would hide it."""
        n_told, last_told = self._read_head()
        if number < n_told or (number == n_told and last != last_told):
            raise AuditFailed("rows are missing at its end; put the folder aside")

    def _problem(self, rows: list[tuple], head: str) -> str:
        n_told, last_told = self._read_head()
        if not rows and not n_told and not head:
            return ""
        gap = next((k for k, row in enumerate(rows, 1) if row[0] != k), None)
        if gap is not None:
            return f"row {gap} is missing"
        chain = ((row[:-1], row[-1]) for row in rows)
        altered = first_altered(chain, self._key(may_make=False))
        if altered is not None:
            return f"row {altered + 1} is not as it was written"
        if len(rows) < n_told:
            return f"{n_told - len(rows)} rows are missing at the end"
        # One row may be there that the head does not know: power failed between the two.
        if len(rows) > n_told + 1 or (n_told and rows[n_told - 1][-1] != last_told):
            return "audit.head does not fit the rows"
        if head and head not in {row[-1] for row in rows}:
            return "the given head is not among the rows"
        return ""

    def _rows(self) -> list[tuple]:
        if not (self.folder / "audit.sqlite").is_file():
            return []
        try:
            with closing(self._connect()) as database:
                return database.execute(
                    f"SELECT {_COLUMNS}, hash FROM entry ORDER BY number"
                ).fetchall()
        except sqlite3.Error:
            raise AuditFailed("audit.sqlite is damaged") from None

    def _connect(self) -> sqlite3.Connection:
        file = self.folder / "audit.sqlite"
        os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        database = sqlite3.connect(file, timeout=SECONDS_TO_WAIT, isolation_level=None)
        database.execute("PRAGMA synchronous = FULL")
        database.executescript(_ENTRY)
        return database

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        descriptor = os.open(self.folder / "audit.lock", flags, 0o600)
        try:
            end = time.monotonic() + SECONDS_TO_WAIT
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > end:
                        raise AuditFailed("another process keeps it locked") from None
                    time.sleep(0.002)
            yield
        finally:
            os.close(descriptor)

    def _key(self, *, may_make: bool) -> bytes:
        file = self.folder / "audit.key"
        try:
            descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            if not may_make:
                raise AuditFailed("audit.key is gone") from None
            _write(file, secrets.token_hex(32).encode())
            return self._key(may_make=False)
        with os.fdopen(descriptor, "rb") as opened:
            if os.fstat(descriptor).st_mode & 0o077:
                raise AuditFailed("audit.key can be read by others")
            key = opened.read()
        if len(key) != 64:
            raise AuditFailed("audit.key is damaged")
        return key

    def _write_head(self, n_entries: int, last: str) -> None:
        head = json.dumps({"entries": n_entries, "hash": last})
        _write(self.folder / "audit.head", head.encode())

    def _read_head(self) -> tuple[int, str]:
        try:
            head = json.loads((self.folder / "audit.head").read_bytes())
            return int(head["entries"]), str(head["hash"])
        except FileNotFoundError:
            return 0, ""
        except (OSError, ValueError, KeyError, TypeError):
            raise AuditFailed("audit.head is damaged") from None


def _own_name() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container may run as a number without a name
        return f"uid {os.getuid()}"


def _last(database: sqlite3.Connection) -> tuple[int, str]:
    """Number and hash of the last row."""
    row = database.execute(
        "SELECT number, hash FROM entry ORDER BY number DESC LIMIT 1"
    ).fetchone()
    return (0, "") if row is None else row


def _pseudonym(key: bytes, record: str) -> str:
    if not record:
        return ""
    return hmac.new(key, b"record " + record.encode(), hashlib.sha256).hexdigest()[:32]


def _write(file: Path, data: bytes) -> None:
    """Write a small file, whole or not at all, for its owner only."""
    temporary = file.with_name(f"{file.name}.tmp")
    descriptor = os.open(
        temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600
    )
    with os.fdopen(descriptor, "wb") as opened:
        opened.write(data)
        opened.flush()
        os.fsync(opened.fileno())
    temporary.replace(file)
