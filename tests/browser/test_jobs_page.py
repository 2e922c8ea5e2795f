"""What only a browser can tell of the jobs page: closed tabs, cut lines, dead servers."""

import csv
import io
import os
import re
import sys
import time
from pathlib import Path

import pytest

from benchmarks.load import server
from phenokit import jobs
from phenokit.jobs import cancel_job, list_jobs, start_job
from phenokit.simulation.demo import write_demo_recordings

pytestmark = [pytest.mark.browser, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
SLOW = """
import sys, time
from pathlib import Path
from phenokit.batch.run_folder import open_run
with open_run(Path(sys.argv[-1]), plan={}, command="score") as run:
    for k in range(3000):
        run.progress(k, 3000, stage="scoring")
        time.sleep(0.1)
    run.finish({})
"""
"""Five minutes of work that needs no model."""
DONE = re.compile(r"Scoring: ([\d,]+) of 3,000")


@pytest.fixture
def places(tmp_path: Path) -> dict[str, str]:
    """A folder to score, and folders of the app's own."""
    served = tmp_path / "served"
    served.mkdir()
    write_demo_recordings(served, seed=7)
    (served / "=broken.hea").write_bytes(b"not a header")
    return {
        "PHENOKIT_JOBS": str(tmp_path / "jobs"), "PHENOKIT_RECORDINGS": str(served),
        "PHENOKIT_REVIEWS": str(tmp_path / "reviews.sqlite"),
        "PHENOKIT_AUDIT": str(tmp_path / "audit"), "PHENOKIT_SLOTS": "2",
    }  # fmt: skip


@pytest.fixture
def slow_jobs(places: dict[str, str], monkeypatch: pytest.MonkeyPatch):
    """Two jobs that run for minutes and one that waits, started by another process."""
    monkeypatch.setenv("PHENOKIT_SLOTS", places["PHENOKIT_SLOTS"])
    monkeypatch.setattr(jobs, "COMMAND", (sys.executable, "-c", SLOW))
    root = Path(places["PHENOKIT_JOBS"])
    titles = ("Ward 3, ecg-ptbxl", "Ward 4, ecg-ptbxl", "Night of ward 5, ieeg-demo")
    yield [start_job(root, title=one, arguments=["score", one]) for one in titles]
    for job in list_jobs(root):
        cancel_job(root, job.job_id)


def open_page(browser, address: str, query: str = "", scheme="light"):
    context = browser.new_context(
        viewport={"width": 1400, "height": 1000}, color_scheme=scheme
    )
    page = context.new_page()
    page.set_default_timeout(60_000)
    page.goto(f"{address}/jobs{query}")
    page.get_by_role("heading", name="Jobs", exact=True).wait_for()
    return page


def done(page) -> int:
    """Steps done, as the page says."""
    found = DONE.search(page.get_by_text(DONE).first.inner_text())
    assert found is not None
    return int(found[1].replace(",", ""))


def wait_for_progress(page, beyond: int) -> int:
    end = time.monotonic() + 60
    while (now := done(page)) <= beyond:
        assert time.monotonic() < end, f"still {now}"
        page.wait_for_timeout(200)
    return now


def test_a_folder_is_scored_while_the_tab_is_closed(
    browser, places, start_app, demo_folder, tmp_path
):
    with start_app(demo_folder, tmp_path / "log", **places) as address:
        page = open_page(browser, address)
        page.get_by_role("combobox", name="Folder on the server").click()
        page.get_by_role("option", name="Server folder", exact=True).click()
        page.get_by_role("button", name="Start scoring").click()
        page.get_by_text("This tab may be closed").wait_for()
        query = page.url.partition("?")[2]
        assert re.fullmatch(r"job=[0-9a-f]{16}", query)
        page.context.close()
        page = open_page(browser, address, f"?{query}")
        page.locator(".verdict", has_text="Finished").wait_for(timeout=180_000)
        page.locator("table.codes", has_text="E_HEADER").wait_for()
        with page.expect_download() as handed_out:
            page.get_by_role("button", name="Rejected recordings (CSV)").click()
        rows = list(csv.reader(io.StringIO(handed_out.value.path().read_text())))
        assert [row[rows[0].index("path")] for row in rows[1:]] == ["'=broken.hea"]
        page.context.close()
    assert "broken" not in (tmp_path / "log").read_text()


@pytest.mark.usefixtures("slow_jobs")
def test_progress_goes_on_after_the_line_was_cut(
    browser, places, start_app, demo_folder, tmp_path
):
    with start_app(demo_folder, tmp_path / "log", **places) as address:
        context = browser.new_context(viewport={"width": 1400, "height": 1000})
        page = context.new_page()
        page.set_default_timeout(60_000)
        lines: list = []

        def connect(line) -> None:
            line.connect_to_server()
            lines.append(line)

        page.route_web_socket("**/_stcore/stream", connect)
        page.goto(f"{address}/jobs")
        page.get_by_role("button", name="Ward 3").click()
        before = wait_for_progress(page, -1)
        lines[-1].close(code=1011)
        wait_for_progress(page, before + 30)  # three seconds of work
        assert len(lines) > 1
        context.close()


def test_jobs_outlive_a_killed_server_and_the_next_one_shows_them(
    browser, places, slow_jobs, start_app, demo_folder, tmp_path
):
    query = f"?job={slow_jobs[0].job_id}"
    killed = {**places, "PHENOKIT_DEMO": str(demo_folder)}
    with server(ROOT / "app.py", tmp_path, **killed) as one:
        page = open_page(browser, f"http://127.0.0.1:{one.port}", query)
        before = wait_for_progress(page, -1)
        one.process.kill()
        page.context.close()
    with start_app(demo_folder, tmp_path / "log", **places) as address:
        page = open_page(browser, address, query)
        wait_for_progress(page, wait_for_progress(page, before))
        assert page.locator("ul.jobs button").count() == 3
        page.locator("ul.jobs button", has_text="waiting, place 1").wait_for()
        page.context.close()


@pytest.mark.usefixtures("slow_jobs")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_stands_in_both_themes_and_by_keyboard(
    browser, places, start_app, demo_folder, tmp_path, scheme
):
    with start_app(demo_folder, tmp_path / "log", **places) as address:
        page = open_page(browser, address, scheme=scheme)
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.locator(".verdict", has_text="Waiting").wait_for()
        first = page.locator("ul.jobs button").last
        first.focus()
        page.keyboard.press("Enter")
        page.locator(".verdict", has_text="Running").wait_for()
        wait_for_progress(page, 5)
        page.get_by_text("Command: runs or resumes").click()
        page.locator("pre", has_text="phenokit score 'Ward 3").wait_for()
        folder = Path(os.environ.get("PHENOKIT_SHOTS", str(tmp_path)))
        page.screenshot(path=folder / f"jobs-{scheme}.png", full_page=True)
        page.context.close()
        assert errors == []
