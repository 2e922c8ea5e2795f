"""A job is told of by its files alone: no test here keeps anything between two looks."""

import os
import signal
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
    return job.state is not JobState.RUNNING


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
    pid = int(jobs._read(tmp_path / job.job_id / "process.json")["pid"])
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


def test_too_many_jobs_at_once_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(jobs, "MAX_RUNNING", 1)
    job = start_job(tmp_path, title="", arguments=["slow"])
    with pytest.raises(OutputBusy, match="1 jobs are running"):
        start_job(tmp_path, title="", arguments=["slow"])
    cancel_job(tmp_path, job.job_id)
    wait_until(tmp_path, job, ended)


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
