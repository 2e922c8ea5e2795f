"""An analysis of risk as a visitor makes it: set-up, slider within its budget, keyboard."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.slow]

REWEIGHTED, REFITTED = 0.3, 3.0
"""Seconds that an answer may take on an idle machine, from the change until it is read."""


def times_slower() -> float:
    """How many processes share each core; the reference fit of these tests is one."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


@pytest.fixture(scope="module")
def address(browser, start_app, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An app with a cohort of 1,500 patients and no analysis."""
    from phenokit.batch.demo import write_demo

    folder = tmp_path_factory.mktemp("risk")
    write_demo(folder / "demo", n_patients=1_500, seed=2, workers=2)
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
    """The page of a quick fit; the first test that asks for it makes it."""
    page.goto(f"{address}/risk")
    slider = page.get_by_text("If the prevalence were another")
    page.get_by_text("Who was tested, and for what").or_(slider).wait_for()
    if not slider.count():
        set_up(page)
        page.get_by_role("button", name="Run", exact=True).click()
    slider.wait_for(timeout=120_000)
    settle(page)
    return page


def set_up(page) -> None:
    """A prevalence of the table with sources fills in all but the test."""
    choose(page, "Test", "NT-proBNP")
    choose(page, "From a table with sources", "%")
    page.get_by_text("Exact bounds").wait_for()
    settle(page)


def choose(page, label: str, text: str) -> None:
    page.locator("[data-testid=stSelectbox]", has_text=label).last.locator("input").click()
    page.get_by_role("option", name=text).first.click()
    settle(page)


def settle(page) -> None:
    page.locator("[data-testid=stStatusWidget]").wait_for(state="detached")
    page.wait_for_timeout(400)


def slide(page, per_cent: float) -> float:
    """Seconds from a new prevalence to its answer on the page."""
    field = page.get_by_label("The same as a number, %")
    field.fill(f"{per_cent:.1f}")
    start = time.perf_counter()
    field.press("Enter")
    head = page.get_by_role("columnheader", name=f"At {per_cent:.3g} %", exact=True)
    head.wait_for(state="attached")
    return time.perf_counter() - start


def stated(page) -> float:
    """The stated prevalence, per cent, to one decimal."""
    head = page.get_by_role("columnheader", name="As stated:")
    return round(float(head.inner_text().split()[2]), 1)


def test_the_set_up_says_what_it_comes_to_and_the_quick_fit_answers(result):
    assert result.get_by_text("Untested outcomes were never observed").first.is_visible()
    assert result.get_by_text("Not for individual diagnosis").first.is_visible()
    assert "p0000" not in result.url


def test_the_slider_answers_within_its_budget(result, shots: Path):
    page = result
    home = stated(page)
    slide(page, home + 0.5)
    settle(page)
    seconds = []
    for step in (0.6, 0.8, 1.0, 1.2, 1.4):
        seconds.append(slide(page, home + step))
        page.get_by_text("Re-weighted, exactly").wait_for()
        settle(page)
    said = {"seconds": seconds, "load": times_slower()}
    (shots / "risk-slider.json").write_text(json.dumps(said))
    assert sorted(seconds)[2] < REWEIGHTED * times_slower()


def test_far_from_the_stated_one_the_answer_is_provisional_and_then_fitted_anew(
    result, shots: Path
):
    page = result
    field = page.get_by_label("The same as a number, %")
    field.fill("60.0")
    start = time.perf_counter()
    field.press("Enter")
    page.get_by_role("columnheader", name="PROVISIONAL").wait_for()
    provisional = time.perf_counter() - start
    done = page.get_by_text("Fitted anew by nested Laplace").or_(
        page.get_by_text("refused (E_FIT)")
    )
    done.wait_for()
    seconds = time.perf_counter() - start
    said = {"provisional": provisional, "refitted": seconds, "load": times_slower()}
    (shots / "risk-refit.json").write_text(json.dumps(said))
    assert page.get_by_role("columnheader", name="PROVISIONAL").count() == 0
    assert seconds < REFITTED * times_slower()


def test_the_slider_obeys_the_keyboard_and_stops_at_the_exact_bounds(result):
    page = result
    slider = page.locator("[data-testid=stSlider] input[type=range]").first
    low, high = (float(slider.get_attribute(end)) for end in ("min", "max"))
    before = float(slider.input_value())
    slider.focus()
    slider.press("ArrowRight")
    page.get_by_role("columnheader", name=f"At {before + 0.1:.3g} %").wait_for()
    slider.press("Home")
    page.get_by_role("columnheader", name=f"At {low:.3g} %").wait_for()
    slider.press("ArrowLeft")
    settle(page)
    assert float(slider.input_value()) == low
    words = page.get_by_text("Exact bounds").inner_text().split()
    first, last = float(words[2]), float(words[words.index("to") + 1])
    assert first <= low < high <= last


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_in_light_and_dark(result, shots: Path, scheme: str):
    page = result
    page.emulate_media(color_scheme=scheme)
    settle(page)
    views = ("Who is at risk", "Does it hold?", "What drives risk", "Other assumptions")
    for view in views:
        page.get_by_role("radio", name=view).click()
        settle(page)
        assert page.locator("[data-testid=stException]").count() == 0
        assert page.get_by_text("incident").count() == 0
        height = page.evaluate(
            "document.querySelector('[data-testid=stMain]').scrollHeight"
        )
        page.set_viewport_size({"width": 1400, "height": min(height + 80, 8000)})
        page.wait_for_timeout(800)
        file = shots / f"risk-{view.split()[0].lower()}-{scheme}.png"
        page.screenshot(path=file)
        assert file.stat().st_size > 50_000
