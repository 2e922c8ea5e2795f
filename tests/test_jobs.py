"""A job is told of by its files alone: no test here keeps anything between two looks."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from phenokit import jobs
from phenokit.errors import OutputBusy
from phenokit.jobs import (
    Job,
    JobState,
    cancel_job,
    find_job,
    list_jobs,
    read_log,
    remove_job,
    resume_job,
    start_job,
)

COMMAND = """
import sys, time
from pathlib import Path
import pyarrow as pa
from phenokit.batch.run_folder import open_run
from phenokit.cli import main

kind, out = sys.argv[1], Path(sys.argv[-1])
if kind == "cli":
    del sys.argv[1]
    main()
with open_run(out, plan={}, command="associate") as run:
    if kind == "break":
        raise ValueError
    for k in range(3):
        if k not in run.done_parts():
            run.write_part(k, pa.table({"k": [k]}))
        time.sleep(0.3 if k == 1 and kind == "slow" else 0)  # reports come 4 a second
        run.progress(k + 1, 3, stage="testing")
        # Long the first time; the second time it finds its parts and ends at once.
        time.sleep(60 if k == 1 and kind == "slow" and not (out / "again").exists() else 0)
    run.finish({})
"""


@pytest.fixture(autouse=True)
def short_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "COMMAND", (sys.executable, "-c", COMMAND))


def wait_until(root: Path, job: Job, wanted: Callable[[Job], bool]) -> Job:
    end = time.monotonic() + 20
    while time.monotonic() < end:
        if wanted(now := find_job(root, job.job_id)):
            return now
        time.sleep(0.02)
    raise AssertionError(f"still {find_job(root, job.job_id)}")


def ended(job: Job) -> bool:
    return not job.is_live


def is_in(state: JobState) -> Callable[[Job], bool]:
    return lambda job: job.state is state


def pid_of(root: Path, job: Job) -> int:
    return int(jobs._read(root / job.job_id / "process.json")["pid"])


def at_part(k: int) -> Callable[[Job], bool]:
    return lambda job: job.state is JobState.RUNNING and job.done == k


def test_a_job_starts_at_once_tells_how_far_it_is_and_finishes(tmp_path: Path):
    start = time.perf_counter()
    job = start_job(tmp_path, title="Demo cohort", arguments=["quick"])
    assert time.perf_counter() - start < 1
    assert job.state is JobState.RUNNING
    job = wait_until(tmp_path, job, ended)
    assert (job.state, job.title, job.message) == (JobState.FINISHED, "Demo cohort", "")
    assert (job.done, job.of, job.stage) == (3, 3, "testing")
    assert [one.job_id for one in list_jobs(tmp_path)] == [job.job_id]


def test_a_cancelled_job_ends_in_order_and_goes_on_when_resumed(tmp_path: Path):
    job = start_job(tmp_path, title="", arguments=["slow"])
    wait_until(tmp_path, job, at_part(2))
    cancel_job(tmp_path, job.job_id)
    cancelled = wait_until(tmp_path, job, ended)
    assert (cancelled.state, cancelled.done, cancelled.can_resume) == (
        JobState.CANCELLED, 2, True,
    )  # fmt: skip
    (job.out / "again").touch()
    resume_job(tmp_path, job.job_id)
    assert wait_until(tmp_path, job, ended).state is JobState.FINISHED


def test_a_job_cancelled_before_its_command_is_up_is_cancelled_too(tmp_path: Path):
    job = start_job(tmp_path, title="", arguments=["slow"])
    cancel_job(tmp_path, job.job_id)
    assert wait_until(tmp_path, job, ended).state is JobState.CANCELLED


def test_a_job_whose_process_died_without_a_word_is_stopped(tmp_path: Path):
    job = start_job(tmp_path, title="", arguments=["slow"])
    wait_until(tmp_path, job, at_part(2))
    pid = pid_of(tmp_path, job)
    assert os.getsid(pid) == pid
    os.kill(pid, signal.SIGKILL)
    stopped = wait_until(tmp_path, job, ended)
    assert (stopped.state, stopped.can_resume) == (JobState.STOPPED, True)


def test_a_job_that_runs_is_not_started_twice(tmp_path: Path):
    job = start_job(tmp_path, title="", arguments=["slow"])
    with pytest.raises(OutputBusy, match="this job is running"):
        resume_job(tmp_path, job.job_id)
    cancel_job(tmp_path, job.job_id)
    wait_until(tmp_path, job, ended)


@pytest.fixture
def one_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHENOKIT_SLOTS", "1")


@pytest.mark.usefixtures("one_slot")
def test_jobs_beyond_the_slots_wait_and_go_in_the_order_they_came(tmp_path: Path):
    first = start_job(tmp_path, title="", arguments=["slow"])
    wait_until(tmp_path, first, at_part(2))
    second = start_job(tmp_path, title="", arguments=["quick"])
    third = start_job(tmp_path, title="", arguments=["quick"])
    assert (second.state, second.place, second.done) == (JobState.WAITING, 1, 0)
    assert (third.state, third.place, third.can_resume) == (JobState.WAITING, 2, False)
    cancel_job(tmp_path, first.job_id)
    for job in (second, third):
        assert wait_until(tmp_path, job, ended).state is JobState.FINISHED
    ends = [
        jobs._read(job.out / "progress.json")["updated"] for job in (first, second, third)
    ]
    assert ends == sorted(ends)


@pytest.mark.usefixtures("one_slot")
def test_a_waiting_job_is_cancelled_and_the_next_one_moves_up(tmp_path: Path):
    first = start_job(tmp_path, title="", arguments=["slow"])
    wait_until(tmp_path, first, is_in(JobState.RUNNING))
    second = start_job(tmp_path, title="", arguments=["quick"])
    third = start_job(tmp_path, title="", arguments=["quick"])
    cancel_job(tmp_path, second.job_id)
    assert wait_until(tmp_path, second, ended).state is JobState.CANCELLED
    assert wait_until(tmp_path, third, lambda job: job.place == 1)
    cancel_job(tmp_path, first.job_id)
    assert wait_until(tmp_path, third, ended).state is JobState.FINISHED


@pytest.mark.usefixtures("one_slot")
def test_a_kill_at_any_moment_frees_slot_and_place(tmp_path: Path):
    running, waiting = (start_job(tmp_path, title="", arguments=["slow"]) for _ in "ab")
    wait_until(tmp_path, running, at_part(2))
    last = start_job(tmp_path, title="", arguments=["quick"])
    for job in (waiting, running):
        os.kill(pid_of(tmp_path, job), signal.SIGKILL)
        assert wait_until(tmp_path, job, ended).state is JobState.STOPPED
    assert wait_until(tmp_path, last, ended).state is JobState.FINISHED
    (running.out / "again").touch()
    resume_job(tmp_path, running.job_id)
    assert wait_until(tmp_path, running, ended).state is JobState.FINISHED


@pytest.mark.usefixtures("one_slot")
def test_the_queue_outlives_the_server_that_filled_it(tmp_path: Path):
    server = """
import sys
from pathlib import Path
from phenokit import jobs
jobs.COMMAND = (sys.executable, "-c", sys.argv[2])
for _ in range(2):
    jobs.start_job(Path(sys.argv[1]), title="", arguments=["quick"])
"""
    subprocess.run([sys.executable, "-c", server, str(tmp_path), COMMAND], check=True)
    for job in list_jobs(tmp_path):
        assert wait_until(tmp_path, job, ended).state is JobState.FINISHED


@pytest.mark.usefixtures("one_slot")
def test_too_many_waiting_jobs_are_refused_and_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(jobs, "MAX_WAITING", 1)
    started = [start_job(tmp_path, title="", arguments=["slow"]) for _ in range(2)]
    wait_until(tmp_path, started[0], is_in(JobState.RUNNING))
    with pytest.raises(OutputBusy, match="1 jobs are waiting already"):
        start_job(tmp_path, title="", arguments=["slow"])
    assert len(list_jobs(tmp_path)) == 2
    for job in reversed(started):
        cancel_job(tmp_path, job.job_id)
        wait_until(tmp_path, job, ended)


def test_only_a_job_that_has_ended_is_removed_and_only_its_folder(tmp_path: Path):
    job = start_job(tmp_path, title="", arguments=["slow"])
    other = start_job(tmp_path, title="", arguments=["quick"])
    with pytest.raises(OutputBusy, match="this job is running"):
        remove_job(tmp_path, job.job_id)
    wait_until(tmp_path, other, ended)
    cancel_job(tmp_path, job.job_id)
    wait_until(tmp_path, job, ended)
    remove_job(tmp_path, job.job_id)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"queue", other.job_id}
    assert find_job(tmp_path, other.job_id).state is JobState.FINISHED


def test_a_process_that_waits_is_small():
    code = "import sys, phenokit.job_queue; print(*sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert not {b"numpy", b"pandas", b"pyarrow", b"torch"} & set(loaded.stdout.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["break"], "internal error (ValueError)"),
        (["cli", "score", "absent", "--model", "absent"], "E_MISSING: "),
    ],
    ids=["within its run folder", "before it has one"],
)
def test_a_failed_job_says_why(tmp_path: Path, arguments: list[str], message: str):
    job = start_job(tmp_path, title="", arguments=arguments)
    failed = wait_until(tmp_path, job, ended)
    assert failed.state is JobState.FAILED
    assert failed.message.startswith(message)
    assert "E_MISSING" in read_log(tmp_path, job.job_id) or arguments == ["break"]


@pytest.mark.parametrize("text", ["", "..", "../../etc", "0" * 15, "g" * 16, "0" * 16])
def test_text_that_is_no_id_of_a_job_finds_none(tmp_path: Path, text: str):
    with pytest.raises(KeyError):
        find_job(tmp_path, text)


def test_a_number_that_another_process_has_now_is_not_killed(tmp_path: Path):
    job = start_job(tmp_path, title="", arguments=["slow"])
    wait_until(tmp_path, job, at_part(2))
    process = tmp_path / job.job_id / "process.json"
    own = jobs._read(process)
    jobs._write(process, {"pid": os.getpid(), "birth": "1"})
    cancel_job(tmp_path, job.job_id)
    assert find_job(tmp_path, job.job_id).state is JobState.RUNNING
    jobs._write(process, own)
    cancel_job(tmp_path, job.job_id)
    wait_until(tmp_path, job, ended)
