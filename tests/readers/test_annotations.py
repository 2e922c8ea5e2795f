import math
from pathlib import Path

import pytest

from phenokit.errors import BadInput
from phenokit.readers.annotations import read_annotations
from phenokit.recording import Event

REFERENCE = Path(__file__).parents[1] / "reference/ieeg"
HEADER = "onset\tduration\teventType\tconfidence\tchannels\tdateTime\trecordingDuration"


@pytest.fixture
def read(tmp_path):
    def write_and_read(*rows, header=HEADER):
        path = tmp_path / "events.tsv"
        path.write_text("\n".join([header, *rows, ""]), encoding="utf-8")
        return read_annotations(path)

    return write_and_read


def test_the_file_of_epilepsy2bids_is_read():
    read = read_annotations(REFERENCE / "epilepsy2bids_events.tsv")
    assert read.seizures == (
        Event("sz", 12.35, 42.35, 0.99, ("LA1", "LA2-LA3")),
        Event("sz_foc_ia", 600.0, 661.5),
    )
    assert read.recording_duration == 3600
    assert str(read.start) == "2020-01-02 03:04:05"
    [background] = read_annotations(REFERENCE / "epilepsy2bids_background.tsv").background
    assert (background.onset, background.offset) == (0, 1800)


def test_events_of_bids_keep_their_labels_and_unknown_ends(read):
    found = read(
        "2.5\tn/a\t1000\teeg sz start",
        "9.0\t4.0\t1002\tsz",
        header="onset\tduration\tsample\ttrial_type",
    )
    first, second = found.events
    assert (first.label, first.onset) == ("eeg sz start", 2.5)
    assert math.isnan(first.offset)
    assert found.seizures == (second,)
    assert found.recording_duration is None


def test_a_confidence_of_nan_is_none(read):
    [event] = read("1\t2\tsz\tnan\tn/a\tn/a\t60").events
    assert event.confidence is None


def test_rounded_times_may_end_a_hundredth_after_the_recording(read):
    [event] = read("0.01\t60.00\tsz\tn/a\tn/a\tn/a\t60.00").events
    assert event.offset == 60


@pytest.mark.parametrize(
    ("row", "code", "words"),
    [
        ("-1\t2\tsz\tn/a\tn/a\tn/a\t60", "E_RANGE", "onset .* row 3: .* negative"),
        ("n/a\t2\tsz\tn/a\tn/a\tn/a\t60", "E_RANGE", "onset .* row 3: .* missing"),
        ("1\t2 s\tsz\tn/a\tn/a\tn/a\t60", "E_RANGE", "duration .* row 3: no number"),
        ("1\tinf\tsz\tn/a\tn/a\tn/a\t60", "E_RANGE", "duration .* row 3"),
        ("50\t20\tsz\tn/a\tn/a\tn/a\t60", "E_RANGE", "row 3: the event ends after"),
        ("1\t2\tsz\t1.5\tn/a\tn/a\t60", "E_RANGE", "confidence .* row 3: .* 0 to 1"),
        ("1\t2\tsz\tn/a\tn/a\tn/a\t61", "E_RANGE", "differs between rows"),
        ("1\t2\tsz\tn/a\tn/a\t02.01.2020\t60", "E_DATE", "dateTime .* row 3"),
        ("1\t2\tsz", "E_COLUMNS", "Row 3 .* has 3 cells"),
    ],
)
def test_a_wrong_cell_is_refused_by_column_and_row(read, row, code, words):
    with pytest.raises(BadInput, match=words) as refused:
        read("1\t2\tsz\tn/a\tn/a\tn/a\t60", row)
    assert refused.value.code == code


def test_commas_instead_of_tabs_are_named(read):
    with pytest.raises(BadInput, match="separated by commas"):
        read("1,2,sz", header="onset,duration,eventType")


def test_a_table_without_durations_is_refused(read):
    with pytest.raises(BadInput, match="no column duration"):
        read("1\tsz", header="onset\teventType")
