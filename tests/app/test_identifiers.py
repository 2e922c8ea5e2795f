"""What the words of an error may hold comes to no page and to no log."""

import logging
import os
import re
import tempfile
import threading
from pathlib import Path

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from pages import _audit, _logs, _recordings

ROOT = Path(__file__).parents[2]
CANARY = "Zzcanary, Jane *1951-05-02"
PAGES = re.findall(r'st\.Page\("(pages/\w+\.py)"', (ROOT / "app.py").read_text())


@pytest.fixture
def logged(tmp_path: Path):
    """The lines of a log that every logger writes to, as a server has it."""
    before, hook = logging.getLogRecordFactory(), threading.excepthook
    _logs.keep_words_out()
    handler = logging.FileHandler(tmp_path / "log")
    handler.setFormatter(logging.Formatter("%(name)s %(message)s"))
    loggers = [logging.getLogger(name) for name in (None, "streamlit.error_util")]
    for logger in loggers:
        logger.addHandler(handler)
    yield lambda: (tmp_path / "log").read_text()
    for logger in loggers:
        logger.removeHandler(handler)
    handler.close()
    logging.setLogRecordFactory(before)
    threading.excepthook = hook
    logging.raiseExceptions = True


def fail() -> None:
    raise ValueError(CANARY)


def test_what_a_killed_process_left_in_scratch_is_removed(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    dead, own, other = (
        tmp_path / f"{_recordings.SCRATCH}{pid}-x" for pid in (2**22 + 1, os.getpid(), "a")
    )
    for folder in (dead, own, other):
        folder.mkdir()
        (folder / "patient.dat").touch()
    _recordings._remove_left_over.clear()
    _recordings._remove_left_over()
    assert sorted(tmp_path.iterdir()) == sorted([own, other])


def test_an_error_is_logged_by_its_kind_and_place(logged):
    try:
        fail()
    except ValueError as error:
        logging.getLogger("one").exception("it failed")
        logging.getLogger("two").error("it failed: %s", error)
        logging.getLogger("three").error(error)
        logging.getLogger("four").error("%(a)s", {"a": 1}, exc_info=error)
    lines = logged().splitlines()
    assert lines[:2] == ["one it failed", lines[1]]
    assert re.fullmatch(r"ValueError at .*test_identifiers\.py:\d+", lines[1])
    assert lines[2:4] == ["two it failed: ValueError", "three ValueError"]
    assert CANARY not in logged()


def test_a_thread_that_fails_is_logged_without_the_words(logged, capfd):
    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()
    assert "a thread failed: ValueError at" in logged()
    assert CANARY not in logged() + "".join(capfd.readouterr())


def test_a_file_that_cannot_be_made_is_an_incident_without_the_words(logged, monkeypatch):
    handed: list = []
    monkeypatch.setattr(
        st, "download_button", lambda _, make, *__, **___: handed.append(make)
    )
    _audit.download_button("CSV", fail, "a.csv", key="k")  # pyright: ignore[reportArgumentType]
    with pytest.raises(_audit.NotHandedOut, match=r"incident [0-9a-f]{8}") as caught:
        handed[0]()
    assert CANARY not in logged() + str(caught.value)
    assert caught.value.__suppress_context__


@pytest.mark.parametrize("page", PAGES)
def test_an_error_on_a_page_shows_an_incident_and_nothing_of_its_words(
    app: AppTest, logged, monkeypatch, capfd, page: str
):
    def title(*_: object) -> None:
        raise ValueError(CANARY)

    app.run()
    monkeypatch.setattr(st, "title", title)
    app.switch_page(page).run()
    shown = " ".join(str(one.value) for one in app.error)
    (number,) = re.findall(r"incident ([0-9a-f]{8})", shown)
    assert f"incident {number}: ValueError at" in logged()
    assert CANARY not in shown + logged() + "".join(capfd.readouterr())


def test_an_error_in_a_callback_is_logged_without_the_words(logged, capfd):
    def script() -> None:
        import streamlit as st

        def fail() -> None:
            raise ValueError("Zzcanary, Jane *1951-05-02")

        st.button("Fail", on_click=fail)

    AppTest.from_function(script).run().button[0].click().run()
    assert "Uncaught app execution" in logged()  # by Streamlit's own logger
    assert CANARY not in logged() + "".join(capfd.readouterr())
