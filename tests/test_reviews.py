import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from phenokit.recording import Event
from phenokit.reviews import (
    EventDecision,
    decide_event,
    event_decisions,
    mark_reviewed,
    reviewed_events,
    reviewed_records,
    unaltered,
)


def mark(file: Path, record: str, *, is_reviewed: bool = True, cohort: str = "a") -> None:
    mark_reviewed(file, cohort, record, is_reviewed=is_reviewed, reviewer="")


def test_the_last_mark_of_a_recording_holds_and_cohorts_are_apart(tmp_path: Path):
    file = tmp_path / "new" / "reviews.sqlite"
    assert reviewed_records(file, "a") == frozenset()
    for record in ("1", "2'; DROP TABLE reviewed", "3"):
        mark(file, record)
    mark(file, "1", is_reviewed=False)
    mark(file, "1", cohort="b")
    assert reviewed_records(file, "a") == {"2'; DROP TABLE reviewed", "3"}
    assert reviewed_records(file, "b") == {"1"}


def test_marks_made_at_once_are_all_kept(tmp_path: Path):
    file = tmp_path / "reviews.sqlite"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda k: mark(file, str(k)), range(40)))
    assert len(reviewed_records(file, "a")) == 40


def decide(file: Path, decision, onset=10.0, offset=40.0, **more) -> EventDecision:
    new = more.pop("new", (onset, offset))
    one = EventDecision(decision, onset, offset, *new, **more)
    return decide_event(file, "r1", one, author=" AB ")


FOUND = (Event("sz", 10.0, 40.0, 0.9), Event("sz", 300.0, 330.0, 0.6))


def test_a_decision_names_its_author_and_its_time(tmp_path: Path):
    file = tmp_path / "reviews.sqlite"
    assert event_decisions(file, "r1") == ()
    kept = decide(file, "accepted", bundle_hash="ab", threshold=0.5, note="clear; -- ")
    assert kept.author == "AB"
    assert kept.at.endswith("+00:00")
    assert event_decisions(file, "r1") == (kept,)
    assert event_decisions(file, "r2") == ()


@pytest.mark.parametrize(
    ("author", "new"), [("  ", (10.0, 40.0)), ("AB", (40.0, 10.0)), ("AB", (-1.0, 3.0))]
)
def test_a_decision_without_author_or_without_length_is_refused(tmp_path, author, new):
    one = EventDecision("edited", 10.0, 40.0, *new)
    with pytest.raises(ValueError, match=r"author|does not end"):
        decide_event(tmp_path / "reviews.sqlite", "r1", one, author=author)


def test_decisions_are_only_added_and_an_altered_one_is_noticed(tmp_path: Path):
    file = tmp_path / "reviews.sqlite"
    for k in range(3):
        decide(file, "accepted", onset=100.0 * k, offset=100.0 * k + 20)
    database = sqlite3.connect(file)
    for change in ("UPDATE event_decision SET author = 'X'", "DELETE FROM event_decision"):
        with pytest.raises(sqlite3.IntegrityError, match="only added"):
            database.execute(change)
    assert unaltered(file)
    database.execute("DROP TRIGGER event_decision_stays")
    database.execute("UPDATE event_decision SET author = 'X' WHERE rowid = 2")
    database.commit()
    database.close()
    assert not unaltered(file)


def test_decisions_made_at_once_are_all_kept_and_signed(tmp_path: Path):
    file = tmp_path / "reviews.sqlite"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda k: decide(file, "added", onset=float(k)), range(30)))
    assert len(event_decisions(file, "r1")) == 30
    assert unaltered(file)


def test_the_last_word_on_an_event_holds_and_can_be_taken_back(tmp_path: Path):
    file = tmp_path / "reviews.sqlite"
    decide(file, "accepted")
    decide(file, "edited", new=(12.0, 50.0))
    first, second = reviewed_events(FOUND, event_decisions(file, "r1"))
    assert (first.status, first.event.onset, first.event.offset) == ("edited", 12.0, 50.0)
    assert first.found == FOUND[0]
    assert first.event.confidence == 0.9
    assert second.status == "not reviewed"
    decide(file, "withdrawn")
    first, _ = reviewed_events(FOUND, event_decisions(file, "r1"))
    assert (first.status, first.event) == ("not reviewed", FOUND[0])


def test_another_threshold_keeps_decisions_where_the_event_is_the_same(tmp_path: Path):
    file = tmp_path / "reviews.sqlite"
    decide(file, "accepted")
    decide(file, "rejected", onset=300.0, offset=330.0)
    decide(file, "added", onset=700.0, offset=720.0)
    shorter = [Event("sz", 15.0, 35.0, 0.9)]  # 20 s of 30 s: the same event
    rows = reviewed_events(shorter, event_decisions(file, "r1"))
    assert [(row.event.onset, row.status) for row in rows] == [
        (15.0, "accepted"), (700.0, "added"),
    ]  # fmt: skip
    longer = [Event("sz", 0.0, 100.0, 0.9)]  # holds the accepted one, and is another
    rows = reviewed_events(longer, event_decisions(file, "r1"))
    assert [(row.event.onset, row.status) for row in rows] == [
        (0.0, "not reviewed"), (10.0, "accepted"), (700.0, "added"),
    ]  # fmt: skip
    assert rows[1].found is None
