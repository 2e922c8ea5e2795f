"""The output folder of one run: one owner, one plan, whole files, a manifest at the end.

A run may be killed at any moment and started again with the same command; what it had done
is kept. Four rules make that safe:

1. The owner holds a lock (`flock`) on the file ``lock`` from beginning to end. The kernel
   frees it when the process dies, in whatever way.
2. ``plan.json`` says what is being made, and is written first. A run with another plan
   does not go on in the folder.
3. A file appears whole or not at all: temporary file, fsync, rename, fsync of the folder.
   A part counts once its receipt (rows, SHA-256, hash of the plan) stands beside it.
4. ``manifest.json`` comes last. It is the mark of a finished run and names every file.

Several processes may share a run (`Shard`): each holds the lock for reading, and one of
its own; whoever finds all parts done takes the lock alone and finishes the run.

``progress.json`` says how far a run is. It is for people and for the app; nothing that is
computed depends on it. The lock of a network file system may not hold: use a local disk.

``PHENOKIT_CRASH_AT`` ends the process at a named point, for tests of all this: ``lock``,
``end``, or a file and ``before write``, ``mid write``, ``after fsync``, ``after rename``,
as in ``part-00001.parquet: mid write``.
"""

import fcntl
import hashlib
import json
import os
import secrets
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phenokit.errors import BadInput, OutputBusy, PhenoKitError
from phenokit.report.tables import format_table

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

SECONDS_BETWEEN_REPORTS = 0.25
STOP_SIGNALS = {signal.SIGTERM: 143, signal.SIGHUP: 129}
"""Signals that end a run in order, and the exit code of each; SIGINT is Python's own."""

CRASHED = 99
"""Exit code at a named point (``PHENOKIT_CRASH_AT``)."""


@dataclass(frozen=True)
class Shard:
    """The share of one process in a run: parts `number` - 1, `number` - 1 + `of`, ..."""

    number: int = 1
    of: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.of:
            raise ValueError(f"there is no shard {self.number} of {self.of}")

    def has(self, k: int) -> bool:
        """Whether part `k` belongs to it."""
        return k % self.of == self.number - 1


class RunFolder:
    """What a run does in its folder; made by `open_run`.

    Attributes
    ----------
    path
        The folder.
    manifest
        What a finished run of the same plan left; None while there is something to do.
    """

    def __init__(
        self, path: Path, *, command: str, plan_hash: str, progress_name: str
    ) -> None:
        self.path = path
        self.manifest = _read_json(path / "manifest.json")
        self.plan_hash = plan_hash
        self._command = command
        self._progress_name = progress_name
        self._files: dict[str, dict[str, Any]] = {}
        self._started = _now()
        self._stage = ""
        self._stage_began = self._last_report = -1.0
        self._done = self._of = self._done_at_begin = 0

    @property
    def run_id(self) -> str:
        """Of the plan: the same for the same inputs and options."""
        return self.plan_hash[:12]

    def write(self, name: str, data: bytes) -> None:
        """Write a file of the result, whole or not at all.

        Parameters
        ----------
        name
            Within the folder, for example ``"comparisons/best.parquet"``.
        """
        _write_atomically(self.path / name, data)
        self._files[name] = {"bytes": len(data), "sha256": _sha256(data)}

    def write_parquet(self, name: str, table: "pa.Table") -> None:
        """Write a table as Parquet (zstd) whose pages carry checksums."""
        self.write(name, parquet_bytes(table))

    def write_frame(self, name: str, table: "pd.DataFrame") -> None:
        """Write a table as Parquet; see `write_parquet`."""
        import pyarrow as pa

        arrow = pa.Table.from_pandas(table, preserve_index=False)
        self.write_parquet(name, arrow.replace_schema_metadata(None))

    def write_csv(self, name: str, table: "pd.DataFrame") -> None:
        """Write a table as CSV that a spreadsheet opens as text."""
        self.write(name, format_table(table))

    def write_json(self, name: str, value: Any) -> None:  # noqa: ANN401 - what JSON holds
        """Write values as JSON."""
        self.write(name, json_bytes(value))

    def write_part(self, k: int, table: "pa.Table") -> None:
        """Write part `k` and then its receipt; the part counts from then on."""
        self.add_part(k, write_part(self.path, k, table, plan_hash=self.plan_hash))

    def add_part(self, k: int, receipt: Mapping[str, Any]) -> None:
        """Count part `k`, and the files that belong to it, among those of the result."""
        self._files[part_name(k)] = {"bytes": receipt["bytes"], "sha256": receipt["sha256"]}
        self._files |= receipt["files"]

    def read_part(self, k: int) -> "pa.Table":
        """Part `k`, its pages checked."""
        import pyarrow.parquet as pq

        path = self.path / part_name(k)
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            return file.read()

    def done_parts(self) -> set[int]:
        """Numbers of the parts that agree with their receipts and with the plan."""
        done = set()
        for receipt_path in self.path.glob("part-*.json"):
            k = int(receipt_path.stem.removeprefix("part-"))
            receipt = read_receipt(self.path, k, plan_hash=self.plan_hash)
            if receipt is not None:
                self.add_part(k, receipt)
                done.add(k)
        return done

    def is_whole(self) -> bool:
        """Whether the run is finished and its files are those that its manifest names.

        Files that were counted before (`add_part`) are not read again.
        """
        if self.manifest is None:
            return False
        named = self.manifest["files"]
        return self._files.keys() <= named.keys() and all(
            (self._files.get(name) or {"sha256": hash_file(self.path / name)})["sha256"]
            == facts["sha256"]
            for name, facts in named.items()
        )

    def reopen(self) -> None:
        """Take the mark of a finished run away: some of its files have to be made again."""
        (self.path / "manifest.json").unlink(missing_ok=True)
        self.manifest = None

    def progress(self, done: int, of: int, *, stage: str = "") -> None:
        """Say how far the run is; cheap enough to be called for every step.

        Written at most four times a second, at the begin and at the end of a stage.

        Parameters
        ----------
        done, of
            Steps of this stage.
        stage
            What is being done, in words, for example ``"testing"``.
        """
        now = time.monotonic()
        if stage != self._stage or self._stage_began < 0:
            self._stage, self._stage_began, self._done_at_begin = stage, now, done
            self._last_report = -1.0
        self._done, self._of = done, of
        is_due = now - self._last_report >= SECONDS_BETWEEN_REPORTS
        if is_due or self._last_report < 0 or done == of:
            self._last_report = now
            self._report("running")

    def finish(self, manifest: Mapping[str, Any]) -> None:
        """Write the manifest, with every file and its hash: the run is finished."""
        self.manifest = {
            **manifest,
            "plan_hash": self.plan_hash,
            "code_version": version("phenokit"),
            "files": dict(sorted(self._files.items())),
        }
        _write_atomically(self.path / "manifest.json", _json(self.manifest))
        _reached("end")
        self._report("finished")

    def _report(self, state: str, message: str = "") -> None:
        report = {
            "state": state,
            "command": self._command,
            "stage": self._stage,
            "done": self._done,
            "of": self._of,
            "seconds_left": self._seconds_left() if state == "running" else None,
            "started": self._started,
            "updated": _now(),
            "message": message,
        }
        # Not forced to the disk: after a power cut nobody needs it.
        path = self.path / self._progress_name
        temporary = _temporary(path)
        try:
            temporary.write_bytes(_json(report))
            temporary.replace(path)
        except OSError:  # the result is not to fail for it, nor the reason of a failure go
            with suppress(OSError):
                temporary.unlink(missing_ok=True)

    def _seconds_left(self) -> float | None:
        """At the speed of this stage so far; None before its first step."""
        n_steps = self._done - self._done_at_begin
        if n_steps <= 0:
            return None
        seconds = time.monotonic() - self._stage_began
        return round(seconds / n_steps * (self._of - self._done), 1)


@contextmanager
def open_run(
    out: Path,
    *,
    plan: Mapping[str, Any],
    command: str,
    restart: bool = False,
    shard: Shard | None = None,
) -> Iterator[RunFolder]:
    """Own a folder for as long as a run lasts.

    A run that raises leaves the state "failed" with one sentence. SIGTERM, SIGHUP and
    Ctrl-C leave "cancelled". After both, the same command goes on with the parts that are
    missing.

    Parameters
    ----------
    out
        Folder of the run; made if it is absent.
    plan
        What decides the result: settings and hashes of the inputs, as JSON values. The
        version of PhenoKit is added.
    command
        Name of the command, for people.
    restart
        Throw away what an earlier run left in the folder.
    shard
        Share the folder with the other shards of the run. A shard does not restart.

    Raises
    ------
    OutputBusy
        If another process runs in the folder, or another one this shard.
    BadInput
        ``E_VERSION`` if the folder holds a run with another plan.
    SystemExit
        143 after SIGTERM, 129 after SIGHUP.
    """
    out.mkdir(parents=True, exist_ok=True)
    with _locks(out, shard), stop_in_order():
        _reached("lock")
        if shard is None:
            _remove_leftovers(out)
            if restart:
                _remove_run(out)
        plan_hash = _settle_plan(out, plan, command)
        run = RunFolder(
            out,
            command=command,
            plan_hash=plan_hash,
            progress_name=f"progress{_of_shard(shard)}.json",
        )
        try:
            if run.manifest is None:
                run._report("running")
            yield run
        except (KeyboardInterrupt, SystemExit):
            with _deaf():
                run._report("cancelled")
            raise
        except BaseException as error:
            run._report("failed", _sentence(error))
            raise


def part_name(k: int) -> str:
    """File name of part `k`.

    Examples
    --------
    >>> part_name(7)
    'part-00007.parquet'
    """
    return f"part-{k:05d}.parquet"


def write_part(
    out: Path,
    k: int,
    table: "pa.Table",
    *,
    plan_hash: str,
    files: Mapping[str, bytes] | None = None,
    facts: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write part `k`, the files that belong to it, and last the receipt.

    Same arguments, same bytes: two processes that write one part do no harm.

    Parameters
    ----------
    out
        The run folder, whose lock some process holds.
    files
        Name within the folder and content.
    facts
        JSON values that the receipt is to hold.

    Returns
    -------
    dict
        The receipt: ``rows``, ``bytes``, ``sha256``, ``plan_hash``, ``files`` and `facts`.
    """
    written = {}
    for name, content in (files or {}).items():
        _write_atomically(out / name, content)
        written[name] = {"bytes": len(content), "sha256": _sha256(content)}
    data = parquet_bytes(table)
    path = out / part_name(k)
    _write_atomically(path, data)
    receipt = {
        "rows": table.num_rows,
        "bytes": len(data),
        "sha256": _sha256(data),
        "plan_hash": plan_hash,
        "files": written,
        **(facts or {}),
    }
    _write_atomically(_receipt(path), _json(receipt))
    return receipt


def read_receipt(out: Path, k: int, *, plan_hash: str) -> dict[str, Any] | None:
    """The receipt of part `k`; None unless the part and its files agree with it."""
    path = out / part_name(k)
    receipt = _read_json(_receipt(path))
    if receipt is None or receipt.get("plan_hash") != plan_hash:
        return None
    files = receipt.get("files", {})
    wanted = {part_name(k): receipt, **files}
    is_whole = all(
        hash_file(out / name) == facts.get("sha256") for name, facts in wanted.items()
    )
    return receipt if is_whole else None


def plan_hash_of(plan: Mapping[str, Any]) -> str:
    """SHA-256 by which a plan is known."""
    return _sha256(json.dumps(plan, sort_keys=True).encode())


def hash_file(path: Path) -> str | None:
    """SHA-256 of a file; None if it cannot be read."""
    try:
        if not path.is_file():  # a pipe would never end
            return None
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def _of_shard(shard: Shard | None) -> str:
    return "" if shard is None else f"-{shard.number}-of-{shard.of}"


@contextmanager
def _locks(out: Path, shard: Shard | None) -> Iterator[None]:
    """The folder for one process alone; or shared, and the shard for it alone."""
    if shard is None:
        with _lock(out / "lock", fcntl.LOCK_EX):
            yield
        return
    with (
        _lock(out / "lock", fcntl.LOCK_SH),
        _lock(out / f"lock{_of_shard(shard)}", fcntl.LOCK_EX),
    ):
        yield


@contextmanager
def _lock(path: Path, kind: int) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        # Somebody may be looking (`lock_is_held`) for an instant: an owner stays longer.
        for attempt in range(20):
            try:
                fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if attempt == 19:
                    raise OutputBusy("another run is writing to this folder") from None
                time.sleep(0.01)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def stop_in_order() -> Iterator[None]:
    """Turn the signals that end a process into an exception, in the main thread.

    What is in ``with`` and ``finally`` blocks is then done; `open_run` does so itself.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: object) -> None:
        raise SystemExit(STOP_SIGNALS[signal.Signals(number)])

    before = {number: signal.signal(number, stop) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _deaf() -> Iterator[None]:
    """Whoever asks twice to stop must not break the last words of the run."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [*STOP_SIGNALS, signal.SIGINT]
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _settle_plan(out: Path, plan: Mapping[str, Any], command: str) -> str:
    """Write the plan, or compare it with the one that is there; its hash."""
    whole = {"command": command, "code_version": version("phenokit"), **plan}
    # Through JSON and back, so that a tuple equals the list that was read.
    whole = json.loads(json.dumps(whole))
    plan_hash = plan_hash_of(whole)
    old = _read_plan(out / "plan.json")
    if old is None:
        if (out / "manifest.json").exists() or any(out.glob("part-*")):
            raise BadInput(
                "E_VERSION",
                "The folder holds the result of something else; choose another.",
            )
        _write_atomically(out / "plan.json", _json({"plan_hash": plan_hash, "plan": whole}))
    elif old.get("plan_hash") != plan_hash:
        before = old.get("plan") or {}
        differs = sorted(
            key for key in {*before, *whole} if before.get(key, ...) != whole.get(key, ...)
        )
        raise BadInput(
            "E_VERSION",
            "The folder holds a run with another plan (it differs in: "
            f"{', '.join(differs) or 'its hash'}); choose another folder, or --restart.",
        )
    return plan_hash


def _remove_run(out: Path) -> None:
    """Remove an earlier run: its parts, the files that its manifest names, its plan.

    The manifest goes first, so that what is left never looks finished, and the plan last,
    so that what is left is known to be a run. A folder without a plan is left alone.
    """
    if not (out / "plan.json").is_file():
        return
    named = (_read_json(out / "manifest.json") or {}).get("files", {})
    parts = [*out.glob("part-*.parquet"), *out.glob("part-*.json")]
    of_parts = [
        name
        for path in out.glob("part-*.json")
        for name in (_read_json(path) or {}).get("files", ())
    ]
    files = [
        out / name
        for name in ("manifest.json", "progress.json", *sorted({*named, *of_parts}))
    ]
    shards = out.glob("progress-*-of-*.json")
    for path in [*files, *parts, *shards, out / "plan.json"]:
        if path.resolve().is_relative_to(out.resolve()):
            path.unlink(missing_ok=True)


def _remove_leftovers(out: Path) -> None:
    for pattern in ("*.tmp", "*/*.tmp"):
        for path in out.glob(pattern):
            if path.stem.rpartition(".")[2].isdigit():
                path.unlink(missing_ok=True)


def _write_atomically(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    half = len(data) // 2
    _reached(f"{path.name}: before write")
    try:
        with temporary.open("wb") as file:
            file.write(data[:half])
            _reached(f"{path.name}: mid write")
            file.write(data[half:])
            file.flush()
            os.fsync(file.fileno())
        _reached(f"{path.name}: after fsync")
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    _reached(f"{path.name}: after rename")


def _reached(point: str) -> None:
    if os.environ.get("PHENOKIT_CRASH_AT") == point:
        os._exit(CRASHED)


def _temporary(path: Path) -> Path:
    # Not by the process id alone: two containers that share a folder may have the same.
    return path.with_name(f"{path.name}.{os.getpid()}{secrets.randbits(60):019d}.tmp")


def _receipt(part: Path) -> Path:
    return part.with_suffix(".json")


def parquet_bytes(table: "pa.Table") -> bytes:
    """A table as Parquet (zstd) whose pages carry checksums; same table, same bytes."""
    import io

    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", write_page_checksum=True)
    return buffer.getvalue()


def json_bytes(value: Any) -> bytes:  # noqa: ANN401 - what JSON holds
    """Values as JSON for people and programs."""
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()


def _sentence(error: BaseException) -> str:
    """What went wrong, without the text of an error that nobody foresaw."""
    if isinstance(error, BadInput):
        return f"{error.code}: {error}"
    if isinstance(error, PhenoKitError):
        return str(error)
    if isinstance(error, OSError):
        return f"disk: {error.strerror or type(error).__name__}"
    return f"internal error ({type(error).__name__})"


def _read_json(path: Path) -> dict[str, Any] | None:
    """None if the file is absent or was not written by a run."""
    try:
        return _read_plan(path)
    except OSError:
        return None


def _read_plan(path: Path) -> dict[str, Any] | None:
    """As `_read_json`; but a plan that is there and cannot be read is an `OSError`."""
    try:
        read = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return read if isinstance(read, dict) else None


def _json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
