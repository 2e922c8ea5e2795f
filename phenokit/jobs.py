"""Long work that was started from the app, and outlives the tab and the server.

A job is a `phenokit` command in a process of its own with a folder of its own:

    <jobs>/<random id>/
      job.json       the command, what it is about, when it was asked for
      process.json   the process that runs it
      owner          locked for as long as that process lives
      log.txt        its errors: one sentence, or the lines of our code; never identifiers
      cancelled      somebody asked for its end
      out/           the run folder of `phenokit.batch.run_folder`: progress, result

What a job is doing is read from these files each time and kept nowhere, so that every tab,
every server process and every restart sees the same. As many run at once as
``PHENOKIT_SLOTS`` says (2 without it); the others wait for their turn, in the order in
which they were asked for (`phenokit.job_queue`).

The folder of all jobs is named by ``PHENOKIT_JOBS``; without it, ``phenokit/jobs`` in the
user's state directory (``XDG_STATE_HOME``, else ``~/.local/state``).
"""

import fcntl
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phenokit.errors import OutputBusy
from phenokit.job_queue import WAIT, join_queue, lock_is_held, waiting_jobs

if TYPE_CHECKING:
    import pandas as pd

COMMAND = (sys.executable, "-c", "from phenokit.cli import main; main()")
"""`phenokit`, in the Python that this process runs in."""
SLOTS = "PHENOKIT_SLOTS"
"""Holds the number of jobs that run at once."""
FEW = 2
"""Jobs that run at once where nothing else is said: each may use several processes."""
MAX_WAITING = 20
MAX_LOG = 65_536
"""Bytes of the log that are read."""


class JobState(StrEnum):
    """What has become of a job."""

    WAITING = "waiting"
    """Others run; it has a place in the queue."""
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"
    STOPPED = "stopped"
    """Its process died without a word: killed, or the machine went down."""


@dataclass(frozen=True)
class Job:
    """A job as its files tell of it at one moment.

    Attributes
    ----------
    job_id
        Random; says nothing about what is worked on.
    title
        What it is about, for people. Text of unknown origin.
    arguments
        Of `phenokit`, without ``--out``.
    done, of, stage
        How far the present stage is.
    seconds_left
        Of the present stage; None where it is not known.
    asked
        When the job was asked for, UTC, ISO 8601.
    place
        In the queue, 1 for the next; None unless it waits.
    message
        Why it failed, in one sentence; else empty.
    out
        The run folder.
    """

    job_id: str
    title: str
    arguments: tuple[str, ...]
    state: JobState
    done: int
    of: int
    stage: str
    seconds_left: float | None
    asked: str
    place: int | None
    message: str
    out: Path

    @property
    def is_live(self) -> bool:
        """Whether it has a process: it runs, or waits for its turn."""
        return self.state in {JobState.WAITING, JobState.RUNNING}

    @property
    def can_resume(self) -> bool:
        """Whether the same command would go on where this job ended."""
        return not self.is_live and self.state is not JobState.FINISHED

    @property
    def steps_a_second(self) -> float | None:
        """Speed of the present stage so far; None where it is not known."""
        if not self.seconds_left:
            return None
        return (self.of - self.done) / self.seconds_left


def jobs_folder() -> Path:
    """Where jobs lie; the folder need not exist yet."""
    if named := os.environ.get("PHENOKIT_JOBS"):
        return Path(named).absolute()
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "phenokit" / "jobs"


def slots() -> int:
    """Jobs that run at once, 1 at least."""
    text = os.environ.get(SLOTS, "")
    return max(int(text), 1) if text.isascii() and text.isdigit() else FEW


def start_job(root: Path, *, title: str, arguments: Sequence[str]) -> Job:
    """Start a `phenokit` command in the background, or let it wait for its turn.

    Parameters
    ----------
    root
        Folder of all jobs, see `jobs_folder`.
    arguments
        Of `phenokit`; ``--out`` is added. Paths are absolute.

    Raises
    ------
    OutputBusy
        If `MAX_WAITING` jobs wait already.
    """
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder = root / secrets.token_hex(8)
    folder.mkdir(mode=0o700)
    _write(
        folder / "job.json",
        {"title": title, "arguments": list(arguments), "asked": _now()},
    )
    try:
        _launch(folder, arguments)
    except OutputBusy:
        shutil.rmtree(folder)
        raise
    return find_job(root, folder.name)


def resume_job(root: Path, job_id: str) -> Job:
    """Run the command of a job again in its folder; finished parts are kept.

    Raises
    ------
    OutputBusy
        If it runs or waits, or `MAX_WAITING` others wait.
    KeyError
        If there is no such job.
    """
    job = find_job(root, job_id)
    _launch(root / job.job_id, job.arguments)
    return find_job(root, job_id)


def cancel_job(root: Path, job_id: str) -> None:
    """Ask a job to end in order (SIGTERM), or to leave the queue; what is done is kept.

    Raises
    ------
    KeyError
        If there is no such job.
    """
    job = find_job(root, job_id)
    if not job.is_live:
        return
    folder = root / job.job_id
    (folder / "cancelled").touch(mode=0o600)
    process = _read(folder / "process.json")
    pid = int(process.get("pid", 0))
    # A number may have gone to somebody else's process since; its birth tells them apart.
    if pid > 0 and _birth(pid) == process.get("birth"):
        os.kill(pid, signal.SIGTERM)


def remove_job(root: Path, job_id: str) -> None:
    """Remove a job that has ended, with its result and all else in its folder.

    Raises
    ------
    OutputBusy
        If it runs or waits.
    KeyError
        If there is no such job.
    """
    folder = root / find_job(root, job_id).job_id
    owner = _own(folder)
    try:
        # Out of the list at once; what a kill leaves behind has no id of a job.
        gone = root / f".removed-{secrets.token_hex(8)}"
        folder.rename(gone)
        shutil.rmtree(gone)
    finally:
        os.close(owner)


def find_job(root: Path, job_id: str) -> Job:
    """The job with this id.

    Raises
    ------
    KeyError
        If there is none; also for text that is no id.
    """
    job = None
    if re.fullmatch("[0-9a-f]{16}", job_id):
        job = _read_job(root / job_id, waiting_jobs(root / "queue"))
    if job is None:
        raise KeyError(job_id)
    return job


def list_jobs(root: Path) -> list[Job]:
    """All jobs, the one that was asked for last first."""
    if not root.is_dir():
        return []
    folders = (path for path in root.iterdir() if re.fullmatch("[0-9a-f]{16}", path.name))
    queue = waiting_jobs(root / "queue")
    jobs = [job for path in folders if (job := _read_job(path, queue)) is not None]
    return sorted(jobs, key=lambda job: (job.asked, job.job_id), reverse=True)


def read_log(root: Path, job_id: str) -> str:
    """The end of what the job wrote to its log.

    Raises
    ------
    KeyError
        If there is no such job.
    """
    return _log(root / find_job(root, job_id).job_id)


def read_manifest(job: Job) -> dict[str, Any]:
    """What a finished run says of itself; empty where it did not finish."""
    return _read(job.out / "manifest.json")


def read_rejected(job: Job) -> "pd.DataFrame":
    """The recordings that a scoring could not read: which, the codes and why."""
    import pyarrow.parquet as pq

    table = pq.read_table(job.out / "errors.parquet", page_checksum_verification=True)
    rows = table.to_pandas()
    rows["all_codes"] = [" ".join(codes) for codes in rows["all_codes"]]
    return rows


def _launch(folder: Path, arguments: Sequence[str]) -> None:
    """Start the process: the command, or what waits for its turn and then becomes it.

    It holds the locks on `owner` and on its slot or place from its first instant: they are
    taken here and handed down, for they belong to open files, not to a process, and are
    free again when the last process that has them open is gone.
    """
    n_slots = slots()
    descriptors = [_own(folder)]
    try:
        ticket, descriptor = join_queue(
            folder.parent / "queue",
            folder.name,
            n_slots=n_slots,
            max_waiting=MAX_WAITING,
        )
        descriptors.append(descriptor)
        (folder / "cancelled").unlink(missing_ok=True)
        command = [*COMMAND, *arguments, "--out", str(folder / "out")]
        if ticket is not None:
            wait = [sys.executable, "-c", WAIT, str(ticket), str(descriptor), str(n_slots)]
            command = [*wait, *command]
        with (folder / "log.txt").open("wb") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
                pass_fds=descriptors,
                # What a library warns of may quote the data.
                env={**os.environ, "PYTHONWARNINGS": "ignore"},
            )
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
    _write(folder / "process.json", {"pid": process.pid, "birth": _birth(process.pid)})
    # Waited for, so that no dead entry of it stays in the table of processes.
    threading.Thread(target=process.wait, daemon=True, name="job").start()


def _own(folder: Path) -> int:
    """The open and locked `owner` of a job.

    Raises
    ------
    OutputBusy
        If the process of the job has it.
    """
    owner = os.open(folder / "owner", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    for _ in range(20):
        try:
            fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.01)  # somebody may only be looking
        else:
            return owner
    os.close(owner)
    raise OutputBusy("this job is running")


def _read_job(folder: Path, queue: Sequence[str]) -> Job | None:
    asked = _read(folder / "job.json")
    if not asked:
        return None
    progress = _read(folder / "out" / "progress.json")
    state, message = _state(folder, progress)
    if state is JobState.RUNNING and folder.name in queue:
        state = JobState.WAITING
    # Before the command opens its run folder, what an earlier attempt left there is old.
    is_told = progress.get("state") == state
    return Job(
        job_id=folder.name,
        title=str(asked.get("title", "")),
        arguments=tuple(map(str, asked.get("arguments", ()))),
        state=state,
        done=int(progress.get("done", 0)) if is_told else 0,
        of=int(progress.get("of", 0)) if is_told else 0,
        stage=str(progress.get("stage", "")) if is_told else "",
        seconds_left=progress.get("seconds_left") if is_told else None,
        asked=str(asked.get("asked", "")),
        place=queue.index(folder.name) + 1 if state is JobState.WAITING else None,
        message=message,
        out=folder / "out",
    )


def _state(folder: Path, progress: dict[str, Any]) -> tuple[JobState, str]:
    """The state, and why it failed."""
    has_manifest = (folder / "out" / "manifest.json").is_file()
    if has_manifest and progress.get("state") == "finished":
        return JobState.FINISHED, ""  # its process may still be leaving
    if lock_is_held(folder / "owner"):
        return JobState.RUNNING, ""
    if has_manifest:
        return JobState.FINISHED, ""
    if (folder / "cancelled").exists():
        return JobState.CANCELLED, ""
    told = progress.get("state")
    if told == "cancelled":
        return JobState.CANCELLED, ""
    if told == "failed":
        return JobState.FAILED, str(progress.get("message", ""))
    # It may have failed before it had a run folder; then the log has its sentence.
    said = [line for line in _log(folder).splitlines() if line.startswith("phenokit: ")]
    if said:
        return JobState.FAILED, said[-1].removeprefix("phenokit: ")
    return JobState.STOPPED, ""


def _log(folder: Path) -> str:
    try:
        with (folder / "log.txt").open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - MAX_LOG))
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""


def _birth(pid: int) -> str | None:
    """When a process began, in ticks since the machine did; None if there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return stat.rpartition(")")[2].split()[19]


def _read(path: Path) -> dict[str, Any]:
    try:
        read = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return read if isinstance(read, dict) else {}


def _write(path: Path, value: dict[str, Any]) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
    temporary.replace(path)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
