"""What is said of events and thresholds, and the files that are taken away."""

import io
import json
import zipfile
from dataclasses import replace

import numpy as np
import pytest

from phenokit.errors import Outcome
from phenokit.evidence.seizures import EventRule, coverage_of, find_events
from phenokit.pipeline import ScoredIEEG
from phenokit.readers.annotations import read_annotations
from phenokit.recording import Event
from phenokit.report.ieeg_review import (
    EventRow,
    at_threshold,
    contribution_table,
    coverage_sentence,
    draw_contributions,
    export_files,
    largest_parts,
    next_step,
    rule_at,
    zip_files,
)

RULE = EventRule(theta_on=0.5)


@pytest.fixture
def scored() -> ScoredIEEG:
    """An hour: two events, a minute of history, a gap of 50 s."""
    status = np.zeros(720, dtype=np.int8)
    status[:12], status[300:310] = 1, 2
    probability = np.full(720, 0.1)
    probability[100:110], probability[400:404] = 0.9, 0.7
    probability[status != 0] = np.nan
    contribution = np.tile(np.array([0.5, -0.25, np.nan, 2.0], np.float32), (720, 1))
    contribution[status != 0] = np.nan
    return ScoredIEEG(
        "r", Outcome.SCORED, "OK", ("OK",), "Scored.", "ieeg-demo", "ab" * 32,
        ("A1", "=A2", "A3", "B1"), "montage", {"ECG": "no contact"}, {"A3": ("flat", 1.0)},
        probability, status, contribution, 5.0, 3600.0,
        find_events(probability, status, rule=RULE), coverage_of(status), (), RULE,
    )  # fmt: skip


def test_events_and_false_alarms_follow_the_threshold(scored):
    truth = [Event("sz", 505.0, 545.0)]
    low = at_threshold(scored, RULE, truth)
    high = at_threshold(scored, rule_at(RULE, 0.8), truth)
    assert [event.onset for event in low.events] == [500.0, 2000.0]
    assert [event.onset for event in high.events] == [500.0]
    # One false alarm in 698 segments: 86,400 / 3,490 a day; Garwood 0.0253 to 5.572.
    assert (
        "1 false alarm: 25 per 24 h (0.63–138; exact 95 % interval of a Poisson count "
        "in 0.97 h)."
    ) in low.sentences()
    assert "0 false alarms: 0 per 24 h (0–91;" in " ".join(high.sentences())
    assert "1 of 1 annotated seizure found: sensitivity 100 % (21–100;" in (
        " ".join(high.sentences())
    )


def test_without_annotations_nothing_is_called_a_false_alarm(scored):
    words = " ".join(at_threshold(scored, RULE, None).sentences())
    assert "2 events in 0.97 evaluated hours" in words
    assert "is not known" in words
    assert "per 24 h" not in words


def test_a_seizure_outside_evaluated_time_gives_no_sensitivity(scored):
    words = " ".join(at_threshold(scored, RULE, [Event("sz", 1505, 1545)]).sentences())
    assert "there is no sensitivity" in words


def test_the_lower_threshold_keeps_its_ratio():
    moved = rule_at(EventRule(0.8, 0.2, 5, 7.0, 3.0), 0.4)
    assert moved.off == pytest.approx(0.1)
    assert (moved.theta_on, moved.median, moved.join_gap) == (0.4, 5, 7.0)
    assert moved.minimum_duration == 3.0


def test_nearly_all_is_never_called_all():
    coverage = coverage_of(np.array([0] * 9999 + [2], dtype=np.int8), segment_duration=1.0)
    words = coverage_sentence(coverage, 10_000.0)
    assert "(99 %)" in words
    assert words.endswith("Not evaluated: 0:00:01 not recorded.")


def test_contributions_are_those_of_the_segment_at_onset_and_add_up(scored):
    table = contribution_table(scored, 500.0)
    assert table["channel"].tolist() == ["B1", "A1", "=A2", "A3"]
    assert table["contribution"].sum() == pytest.approx(2.25)
    assert largest_parts(scored, Event("sz", 500.0, 520.0)) == "B1, A1"
    assert largest_parts(scored, None) == "-"


def test_the_figure_of_contributions_has_words_and_no_bar_for_a_bad_channel(scored):
    drawing = draw_contributions(scored, 500.0)
    assert drawing is not None
    assert list(drawing.figure.data[0].y) == ["=A2", "A1", "B1"]
    assert "not evidence of the onset zone" in drawing.alt
    assert draw_contributions(scored, 0.0) is None  # warming up


def rows(scored: ScoredIEEG) -> list[EventRow]:
    first, second = scored.events
    return [
        EventRow(first, "accepted", first, "AB", "2026-01-02T03:04:05+00:00", "=1+1"),
        EventRow(second, "rejected", second, "AB", "2026-01-02T03:04:06+00:00"),
    ]


def exported(scored: ScoredIEEG) -> dict[str, bytes]:
    return export_files(
        scored, rows(scored), "x", rule=RULE, facts={"unit": "uV"}, version="0"
    )


def test_rejected_events_are_in_the_csv_only(scored, tmp_path):
    files = exported(scored)
    (tmp_path / "e.tsv").write_bytes(files["x_events.tsv"])
    [seizure] = read_annotations(tmp_path / "e.tsv").seizures
    assert (seizure.onset, seizure.offset, seizure.confidence) == (500.0, 550.0, 0.9)
    csv = files["x.csv"].decode()
    assert "rejected" in csv
    assert ",'=1+1" in csv  # a spreadsheet runs nothing
    assert b"sz, accepted" in files["x.edf"]
    assert b"rejected" not in files["x.edf"]
    assert b"not evaluated: not recorded" in files["x.edf"]


def test_each_file_has_a_sidecar_with_its_hash(scored):
    import hashlib

    files = exported(scored)
    named = [name for name in files if not name.endswith(".json")]
    assert len(named) == 4
    for name in named:
        sidecar = json.loads(files[f"{name}.json"])
        assert sidecar["sha256"] == hashlib.sha256(files[name]).hexdigest()
        assert sidecar["evaluated_s"] == 3490.0
        assert (sidecar["events"], sidecar["rejected_by_reader"]) == (1, 1)
        assert "not for diagnosis" in sidecar["notice"]
    with zipfile.ZipFile(io.BytesIO(zip_files(files))) as archive:
        assert sorted(archive.namelist()) == sorted(files)


def test_where_nothing_was_evaluated_no_file_says_no_seizure(scored):
    nothing = replace(
        scored,
        probability=np.full(720, np.nan),
        status=np.full(720, 2, dtype=np.int8),
        coverage=coverage_of(np.full(720, 2, dtype=np.int8)),
        events=(),
    )
    files = export_files(nothing, [], "x", rule=RULE, facts={}, version="0")
    assert "x_events.tsv" not in files
    assert b"bckg" not in b"".join(files.values())
    assert at_threshold(nothing, RULE, []).events == ()


def test_refusals_have_a_next_step():
    assert "microvolts" in next_step("E_UNITS")
    assert "longer recording" in next_step("A_DURATION")
    assert next_step("OK") == ""
