from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from phenokit.errors import BadInput
from phenokit.evidence.seizures import coverage_of
from phenokit.readers.annotations import read_annotations
from phenokit.recording import Event
from phenokit.report.szcore import format_coverage, format_szcore, write_szcore

REFERENCE = Path(__file__).parents[1] / "reference/ieeg"
START = datetime(2020, 1, 2, 3, 4, 5)


def coverage(*status):
    return coverage_of(np.array(status, dtype=np.int8))


WHOLE_HOUR = coverage(*[0] * 720)
TWO = [
    Event("sz_foc_ia", 600, 661.5),
    Event("sz", 12.345, 42.345, 0.987, ("LA1", "LA2-LA3")),
]


def test_the_bytes_are_those_of_epilepsy2bids():
    ours = format_szcore(TWO, coverage=WHOLE_HOUR, recording_duration=3600, start=START)
    assert ours == (REFERENCE / "epilepsy2bids_events.tsv").read_bytes()


def test_a_recording_without_seizures_is_that_of_epilepsy2bids():
    ours = format_szcore([], coverage=coverage(*[0] * 360), recording_duration=1800)
    assert ours == (REFERENCE / "epilepsy2bids_background.tsv").read_bytes()


def test_what_was_not_evaluated_is_never_background(tmp_path):
    partly = coverage(1, 1, 0, 0, 2, 0)
    beside = write_szcore(
        tmp_path / "sub-01_events.tsv", [], coverage=partly, recording_duration=30
    )
    read = read_annotations(tmp_path / "sub-01_events.tsv")
    assert [(e.onset, e.offset) for e in read.background] == [(10, 20), (25, 30)]
    assert read.seizures == ()
    assert beside.name == "sub-01_coverage.tsv"
    assert beside.read_text().splitlines() == [
        "onset\tduration\tstatus",
        "0.00\t10.00\twarming_up",
        "10.00\t10.00\tevaluated",
        "20.00\t5.00\tgap",
        "25.00\t5.00\tevaluated",
    ]


def test_events_come_back_as_they_were_written(tmp_path):
    path = tmp_path / "events.tsv"
    events = (
        Event("sz", 10.0, 40.25, 0.5, ("A1", "B'2")),
        Event("sz_foc", 3590.0, 3600.0, None, ("=A1+A2",)),
    )
    write_szcore(path, events, coverage=WHOLE_HOUR, recording_duration=3600, start=START)
    read = read_annotations(path)
    assert read.events == read.seizures == events
    assert (read.recording_duration, read.start) == (3600, START)
    assert b"\t'=A1" in path.read_bytes()  # no spreadsheet runs it


def test_no_date_is_written_unless_asked_for():
    table = format_szcore(TWO, coverage=WHOLE_HOUR, recording_duration=3600)
    assert b"2020" not in table


def test_nothing_evaluated_leaves_the_coverage_alone(tmp_path):
    nothing = coverage(2, 2)
    with pytest.raises(BadInput) as refused:
        format_szcore([], coverage=nothing, recording_duration=10)
    assert refused.value.code == "A_MISSING"
    write_szcore(tmp_path / "r.tsv", [], coverage=nothing, recording_duration=10)
    assert [path.name for path in tmp_path.iterdir()] == ["r_coverage.tsv"]
    assert b"gap" in format_coverage(nothing)


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (Event("seizure", 0, 10), "no type of seizure"),
        (Event("bckg", 0, 10), "no type of seizure"),
        (Event("sz", 0, 10, channels=("A,B",)), "comma"),
        (Event("sz", 0, 10, channels=("A\tB",)), "control"),
    ],
)
def test_what_the_format_cannot_say_is_refused(event, words):
    with pytest.raises(ValueError, match=words):
        format_szcore([event], coverage=WHOLE_HOUR, recording_duration=3600)


def test_a_file_of_another_name_is_refused(tmp_path):
    with pytest.raises(ValueError, match="does not end in"):
        write_szcore(tmp_path / "r.csv", [], coverage=WHOLE_HOUR, recording_duration=3600)
