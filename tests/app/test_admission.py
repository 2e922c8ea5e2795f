"""Who is let in, and what Streamlit has to tell for it; on a real server with real tabs."""

import asyncio
from pathlib import Path

import pytest

from benchmarks.load import RECORD, close_tab, open_tab, server
from pages._admission import ASLEEP, Places
from phenokit.networks.checkpoint import bundle_folders

ROOT = Path(__file__).parents[2]


def asked_by(*sessions: str, limit: int, places: Places, now: float = 0.0) -> list[int]:
    return [places.ask(one, limit=limit, now=now) for one in sessions]


def test_as_many_are_in_as_the_limit_says_and_the_others_stand_in_line():
    places = Places(lambda session: True)
    assert asked_by("a", "b", "c", "d", limit=2, places=places) == [0, 0, 1, 2]
    assert asked_by("a", "b", "d", "c", limit=2, places=places) == [0, 0, 2, 1]


def test_the_place_of_a_session_that_ended_goes_to_the_first_in_line():
    gone: set[str] = set()
    places = Places(lambda session: session not in gone)
    asked_by("a", "b", "c", "d", limit=2, places=places)
    gone.update("b")
    assert asked_by("d", "c", "d", "a", limit=2, places=places) == [1, 0, 1, 0]
    gone.update("c")
    assert asked_by("d", limit=2, places=places) == [0]


def test_who_signs_out_gives_the_place_back_at_once():
    places = Places(lambda session: True)
    asked_by("a", "b", limit=1, places=places)
    places.leave("a")
    assert asked_by("b", "a", limit=1, places=places) == [0, 1]


def test_a_tab_in_line_that_fell_asleep_keeps_nobody_waiting():
    gone: set[str] = set()
    places = Places(lambda session: session not in gone)
    asked_by("a", "asleep", "c", limit=1, places=places)
    gone.update("a")
    assert places.ask("c", limit=1, now=ASLEEP - 1) == 1
    assert places.ask("c", limit=1, now=ASLEEP + 1) == 0


@pytest.fixture(scope="module")
def app_for_one(demo_folder: Path, tmp_path_factory: pytest.TempPathFactory):
    """A server that lets one session in."""
    if "ecg-demo" not in {folder.name for folder in bundle_folders()}:
        pytest.skip("the model ecg-demo is not installed")
    scratch = tmp_path_factory.mktemp("one")
    places = {
        "PHENOKIT_DEMO": str(demo_folder), "PHENOKIT_SESSIONS": "1",
        "PHENOKIT_AUDIT": str(scratch / "audit"), "PHENOKIT_JOBS": str(scratch / "jobs"),
        "PHENOKIT_REVIEWS": str(scratch / "reviews.sqlite"),
    }  # fmt: skip
    with server(ROOT / "app.py", scratch, **places) as one:
        yield one


def test_a_server_that_is_full_serves_the_line_and_lets_the_next_one_in(app_for_one):
    async def two_visitors():
        first = await open_tab(app_for_one.port)
        inside = await first.run()
        second = await open_tab(app_for_one.port)
        line = await second.run()
        fragment, interval = line.fragments[0]
        again = await second.run(fragment=fragment)
        await close_tab(first)
        await second.run(fragment=fragment)
        let_in = await second.run()
        await close_tab(second)
        return inside, line, interval, again, let_in

    inside, line, interval, again, let_in = asyncio.run(two_visitors())
    assert RECORD in inside.boxes
    assert line.is_line
    assert "You are next." in line.texts
    assert not line.components  # no frame, no model
    assert line.n_bytes < 20_000
    assert interval == 2.0
    assert again.texts == ["You are next."]
    assert RECORD in let_in.boxes


def test_reruns_during_the_inference_leave_no_lock(app_for_one):
    async def impatient():
        visitor = await open_tab(app_for_one.port)
        box = (await visitor.run()).boxes[RECORD]
        hurried = await visitor.interrupt(box, box[1][:6])
        calm = await visitor.choose(box, box[1][6])
        await close_tab(visitor)
        after = await open_tab(app_for_one.port)
        other = await after.choose((await after.run()).boxes[RECORD], box[1][0])
        await close_tab(after)
        return hurried, calm, other

    for answer in asyncio.run(impatient()):
        assert "verdict" in answer.components
        assert not answer.fault()
