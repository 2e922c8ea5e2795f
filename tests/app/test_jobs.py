"""The jobs page: every state in words, a folder scored from it, and what it gives away."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from phenokit import jobs
from phenokit.jobs import Job, JobState, list_jobs, start_job
from phenokit.simulation.demo import write_demo_recordings

ROOT = Path(__file__).parents[2]
CANARY = "![x](http://evil.invalid/a.png) Doe^Jane"
SLOW = """
import sys, time
from pathlib import Path
from phenokit.batch.run_folder import open_run
with open_run(Path(sys.argv[-1]), plan={}, command="associate") as run:
    for k in range(600):
        run.progress(k, 600, stage="testing")
        time.sleep(0.1)
    run.finish({})
"""

EMPTY = """
import sys
from pathlib import Path
from phenokit.batch.run_folder import open_run
with open_run(Path(sys.argv[-1]), plan={}, command="score") as run:
    run.finish({"n_recordings": 0, "n_not_scored": 3, "outcomes": {}, "codes": {}})
"""


@pytest.fixture
def jobs_app(app: AppTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AppTest:
    """The app with an empty list of jobs, of which one runs at once."""
    monkeypatch.setenv("PHENOKIT_JOBS", str(tmp_path / "jobs"))
    monkeypatch.setenv("PHENOKIT_SLOTS", "1")
    monkeypatch.delenv("PHENOKIT_COHORTS", raising=False)
    return app


@pytest.fixture
def slow_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """One job that runs for a minute, and one that waits for it."""
    monkeypatch.setenv("PHENOKIT_SLOTS", "1")
    monkeypatch.setattr(jobs, "COMMAND", (sys.executable, "-c", SLOW))
    root = tmp_path / "jobs"
    started = [start_job(root, title=f"Job {k}", arguments=["score"]) for k in (1, 2)]
    wait_until(root, lambda found: found[-1].done > 0)
    yield started
    for job in list_jobs(root):
        jobs.cancel_job(root, job.job_id)


def wait_until(root: Path, wanted, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not wanted(list_jobs(root)):
        assert time.monotonic() < end, list_jobs(root)
        time.sleep(0.05)


def on_page(app: AppTest, **query: str) -> AppTest:
    for name, value in query.items():
        app.query_params[name] = value
    app.switch_page("pages/jobs.py").run()
    assert not app.exception
    return app


def panels(app: AppTest) -> dict[str, str]:
    """What each panel of the page was given, by its key, as JSON text."""
    return {
        str(element.key): json.dumps(
            json.loads(element.proto.json or "null"), ensure_ascii=False
        )
        for element in app.main
        if element.type == "bidi_component"
    }


def everything(app: AppTest) -> str:
    return " ".join(str(element.proto) for element in app.main)


def button(app: AppTest, label: str):
    [found] = [one for one in app.button if one.label == label]
    return found


def test_a_running_and_a_waiting_job_say_how_far_they_are(
    jobs_app: AppTest, slow_jobs: list[Job]
):
    page = on_page(jobs_app, job=slow_jobs[0].job_id)
    listed = panels(page)["jobs"]
    assert "waiting, place 1" in listed
    assert "running, " in listed
    assert "UTC" in panels(page)["head"]
    assert "Testing: " in everything(page)
    assert " of 600" in everything(page)
    assert "2 jobs: 1 running, 1 waiting." in everything(page)


def test_a_waiting_job_is_cancelled_resumed_and_removed_on_the_page(
    jobs_app: AppTest, slow_jobs: list[Job], tmp_path: Path
):
    root, waiting = tmp_path / "jobs", slow_jobs[1].job_id
    page = on_page(jobs_app, job=waiting)
    button(page, "Cancel").click().run()
    wait_until(root, lambda found: found[0].state is JobState.CANCELLED)
    assert "Resume it" in panels(page.run())["state"]
    button(page, "Resume").click().run()
    assert "Next in the queue" in everything(page)
    button(page, "Cancel").click().run()
    wait_until(root, lambda found: found[0].state is JobState.CANCELLED)
    page.run()
    button(page, "Remove for good").click().run()
    assert [job.job_id for job in list_jobs(root)] == [slow_jobs[0].job_id]
    assert "Remove for good" not in [one.label for one in page.button]


def test_a_job_whose_process_was_killed_can_be_resumed_from_the_page(
    jobs_app: AppTest, slow_jobs: list[Job], tmp_path: Path
):
    root, running = tmp_path / "jobs", slow_jobs[0].job_id
    pid = json.loads((root / running / "process.json").read_bytes())["pid"]
    os.kill(pid, signal.SIGKILL)
    wait_until(root, lambda found: found[-1].state is JobState.STOPPED)
    page = on_page(jobs_app, job=running)
    assert "died without a word" in panels(page)["state"]
    [command] = [one.value for one in page.code]
    assert command.startswith("phenokit score --out ")
    button(page, "Resume").click().run()
    wait_until(root, lambda found: found[-1].is_live)


def test_a_folder_is_scored_and_its_rejected_files_are_handed_out(
    jobs_app: AppTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    served = tmp_path / "served" / "ward"
    served.mkdir(parents=True)
    write_demo_recordings(served, seed=7)
    for path in [*served.glob("demo0[3-9].*"), *served.glob("demo1*")]:
        path.unlink()
    (served / "=cmd.hea").write_bytes(b"not a header")
    monkeypatch.setenv("PHENOKIT_RECORDINGS", str(tmp_path / "served"))
    page = on_page(jobs_app)
    choice = page.selectbox(key="score-folder")
    choice.select_index(choice.options.index("Server folder: ward"))
    page.selectbox(key="score-model").set_value("ecg-demo")
    button(page, "Start scoring").click().run()
    root = tmp_path / "jobs"
    wait_until(root, lambda found: not found[0].is_live, seconds=120)
    [job] = list_jobs(root)
    assert (job.state, job.title) == (JobState.FINISHED, "Server folder: ward, ecg-demo")
    found = panels(page.run())["found"]
    assert "✕ Rejected" in found
    assert "E_HEADER" in found
    assert "Plan" in found
    table = jobs.read_rejected(job)
    assert table["path"].tolist() == ["=cmd.hea"]
    handed_out = [one.proto.label for one in page.main if one.type == "download_button"]
    assert handed_out == ["Report (HTML)", "Rejected recordings (CSV)"]


def test_a_folder_without_recordings_of_the_kind_is_said(
    jobs_app: AppTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(jobs, "COMMAND", (sys.executable, "-c", EMPTY))
    start_job(tmp_path / "jobs", title="Empty", arguments=["score", "absent"])
    wait_until(tmp_path / "jobs", lambda found: found[0].state is JobState.FINISHED)
    found = panels(on_page(jobs_app))["found"]
    assert "No recording of the model's kind was found" in found
    assert '["dd", {}, "3"]' in found  # files without a recording


@pytest.mark.parametrize("typed", ["../../etc", "0" * 16, CANARY])
def test_an_address_that_names_no_job_is_said_and_opens_none(
    jobs_app: AppTest, slow_jobs: list[Job], typed: str
):
    page = on_page(jobs_app, job=typed)
    assert "not there any more" in page.info[0].value
    assert page.query_params["job"] == slow_jobs[1].job_id


def test_a_title_is_shown_as_text_and_stands_in_no_address_key_or_state(
    jobs_app: AppTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(jobs, "COMMAND", (sys.executable, "-c", "pass"))
    job = start_job(tmp_path / "jobs", title=CANARY, arguments=["score", "absent"])
    page = on_page(jobs_app)
    holders = [key for key, text in panels(page).items() if CANARY in text]
    assert holders == ["jobs", "head"]  # words that become text nodes
    markdown = [*page.markdown, *page.caption, *page.info, *page.warning, *page.error]
    assert CANARY not in " ".join(str(one.value) for one in markdown)
    assert CANARY not in str(dict(page.query_params))
    assert page.session_state["job"] == job.job_id
    assert CANARY not in str(page.session_state)


def test_folders_are_listed_without_links_hidden_ones_and_scores(
    jobs_app: AppTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    served = tmp_path / "served"
    for name in ("a/b/c", ".hidden", "night.mefd", "a/scores"):
        (served / name).mkdir(parents=True)
    (served / "a" / "scores" / "part-00000.parquet").touch()
    (served / "link").symlink_to("/")
    monkeypatch.setenv("PHENOKIT_RECORDINGS", str(served))
    page = on_page(jobs_app)
    options = page.selectbox(key="score-folder").options
    assert [one for one in options if one.startswith("Server")] == [
        "Server folder", "Server folder: a", "Server folder: a/b",
    ]  # fmt: skip
