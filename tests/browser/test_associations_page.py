"""A run from set-up to a chosen point, as a visitor does it, without a foreign request."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture(scope="module")
def address(browser, start_app, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An app with a small cohort and no run; takes the place of the usual one."""
    from phenokit.batch.demo import write_demo

    folder = tmp_path_factory.mktemp("associations")
    write_demo(folder / "demo", n_patients=300, seed=1, workers=1)
    variables = {
        "PHENOKIT_JOBS": str(folder / "jobs"),
        "PHENOKIT_REVIEWS": str(folder / "reviews.sqlite"),
    }
    with start_app(folder / "demo", folder / "log", **variables) as address:
        yield address


@pytest.fixture
def shots(tmp_path: Path) -> Path:
    """Where pictures are kept: the folder PHENOKIT_SHOTS, if it is named."""
    folder = Path(os.environ.get("PHENOKIT_SHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture
def result(page, address: str):
    """The page of a finished run; the first test that asks for it makes the run."""
    page.goto(f"{address}/associations")
    page.get_by_role("heading", name="Associations").wait_for()
    page.get_by_text("Will test").or_(page.get_by_text("Strongest exposures")).wait_for()
    if page.get_by_text("Will test").count():
        page.get_by_role("button", name="Run", exact=True).click()
        page.get_by_role("button", name="Cancel").or_(
            page.get_by_text("Strongest exposures")
        ).first.wait_for(timeout=5_000)
    page.get_by_text("Strongest exposures").wait_for(timeout=120_000)
    page.locator(".js-plotly-plot .points path").first.wait_for()
    return page


def settle(page) -> None:
    page.locator("[data-testid=stStatusWidget]").wait_for(state="detached")
    page.wait_for_timeout(500)


def test_a_clicked_point_is_followed_by_forest_table_and_phecode(result):
    page = result
    settle(page)
    plot = page.locator(".js-plotly-plot").first
    plot.scroll_into_view_if_needed()
    name = plot.locator(".annotation-text").first.text_content()
    assert name
    points = plot.locator(".scatterlayer .trace .points path")
    boxes = [points.nth(k).bounding_box() for k in range(points.count())]
    lowest = max(boxes, key=lambda box: box["y"])
    before = page.get_by_text("Odds ratios of the 20 strongest").text_content()
    page.mouse.click(lowest["x"] + lowest["width"] / 2, lowest["y"] + lowest["height"] / 2)
    start = time.perf_counter()
    heading = page.get_by_text("Odds ratio of the 1 selected phecode")
    heading.wait_for()
    assert time.perf_counter() - start < 3
    assert before != heading.text_content()
    settle(page)
    forest = page.locator(".js-plotly-plot").nth(1)
    row = forest.locator(".ytick text").first.text_content()
    code = row.split()[0]
    chosen = page.get_by_text("per standard deviation, p =").first.text_content()
    assert chosen.startswith(f"{code} ")


def test_an_association_leads_to_the_recording_on_the_ecg_page(result):
    page = result
    settle(page)
    page.get_by_role("link", name="Open on the ECG page").click()
    page.locator(".sheet > svg").first.wait_for()
    assert "record=" in page.url
    assert "p0000" not in page.url


def test_a_reload_finds_the_run_again(result):
    page = result
    assert "run=" in page.url
    page.reload()
    page.get_by_text("Strongest exposures").wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["cohort", "associations"])
def test_both_pages_in_light_and_dark(
    result, address: str, shots: Path, scheme: str, name: str
):
    page = result
    page.emulate_media(color_scheme=scheme)
    page.goto(f"{address}/{name}")
    wanted = {"cohort": "Who is analysed", "associations": "The ECGs with the highest"}
    page.get_by_text(wanted[name]).wait_for()
    settle(page)
    assert page.locator("[data-testid=stException]").count() == 0
    assert page.get_by_text("incident").count() == 0
    height = page.evaluate("document.querySelector('[data-testid=stMain]').scrollHeight")
    page.set_viewport_size({"width": 1400, "height": min(height + 80, 8000)})
    page.wait_for_timeout(1000)
    file = shots / f"{name}-{scheme}.png"
    page.screenshot(path=file)
    assert file.stat().st_size > 50_000
