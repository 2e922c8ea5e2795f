from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from phenokit.reviews import mark_reviewed, reviewed_records


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
