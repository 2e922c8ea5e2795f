"""A folder of iEEGs: a row each, files that a viewer reads back, runs that go on."""

import json
import sys
from dataclasses import fields, replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from threadpoolctl import threadpool_limits

from phenokit.batch import source_readers
from phenokit.batch.score import score_cohort
from phenokit.batch.score_ieeg import read_scored_ieeg
from phenokit.errors import BadInput
from phenokit.evidence.seizures import EventRule
from phenokit.pipeline import score_ieeg
from phenokit.readers.annotations import read_annotations
from phenokit.readers.ieeg import read_ieeg
from phenokit.recording import SegmentStatus
from phenokit.simulation.ieeg_files import write_edf


def score(source, out, model, **options):
    """In this process: what worker processes add is tested in test_faults.py."""
    return score_cohort(source, out, model, workers=0, **options)


@pytest.fixture(scope="module")
def ward(tmp_path_factory, ieeg_array):
    """Two recordings, one of them with a gap; one without anything; what cannot be read."""
    folder = tmp_path_factory.mktemp("ward")
    (folder / "b").mkdir()
    write_edf(folder / "Meyer.edf", ieeg_array(5, 20.0, seed=1))
    gap = ieeg_array(4, 16.0, seed=2)
    gap.signal[2, 512:] = 3.0
    gap.signal[:, 6 * 128 : 10 * 128] = np.nan
    write_edf(folder / "b" / "gap.edf", gap)
    flat = ieeg_array(3, 10.0)
    flat.signal[:] = 0.0
    write_edf(folder / "b" / "flat.edf", flat)
    write_edf(folder / "short.edf", ieeg_array(3, 3.0))
    (folder / "broken.edf").write_bytes((folder / "Meyer.edf").read_bytes()[:-100])
    (folder / "notes.txt").write_text("Ring the ward.")
    return folder


@pytest.fixture(scope="module")
def model(ieeg_model):
    return replace(ieeg_model(), event_rule=EventRule(theta_on=0.5, minimum_duration=1.0))


@pytest.fixture(scope="module")
def scored(ward, tmp_path_factory, model):
    out = tmp_path_factory.mktemp("out")
    return score(ward, out, model), out


def rows_of(out):
    parts = [pq.read_table(path) for path in sorted(out.glob("part-*.parquet"))]
    return [row for part in parts for row in part.to_pylist()]


def all_bytes(out):
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.name not in {"progress.json", "lock"}
    }


def test_every_recording_is_a_row_with_its_outcome(scored):
    scoring, out = scored
    assert {row["path"]: row["code"] for row in rows_of(out)} == {
        "Meyer.edf": "OK", "b/flat.edf": "A_MISSING", "b/gap.edf": "W_WINDOW",
        "broken.edf": "E_SIZE_MISMATCH", "short.edf": "A_DURATION",
    }  # fmt: skip
    manifest = json.loads((out / "manifest.json").read_text())
    assert sum(manifest["outcomes"].values()) == scoring.n_recordings == 5
    assert scoring.not_scored == ("notes.txt",)


def test_what_is_read_back_is_what_the_library_says(ward, scored, model):
    for record_id in ("Meyer", "b/gap", "b/flat", "short"):
        found = read_scored_ieeg(scored[1], record_id)
        with threadpool_limits(limits=1):  # as every part of a run is made
            expected = score_ieeg(read_ieeg(ward / f"{record_id}.edf"), model)
        for field in fields(expected):
            one, other = getattr(found, field.name), getattr(expected, field.name)
            if isinstance(other, np.ndarray):
                assert one.dtype == other.dtype
                np.testing.assert_array_equal(one, other)
            else:
                assert one == other, field.name


def test_a_recording_that_could_not_be_read_says_why(scored):
    with pytest.raises(BadInput) as refused:
        read_scored_ieeg(scored[1], "broken")
    assert refused.value.code == "E_SIZE_MISMATCH"
    with pytest.raises(KeyError):
        read_scored_ieeg(scored[1], "notes")


def test_events_are_szcore_and_what_was_not_evaluated_is_no_background(scored, model):
    out = scored[1]
    folders = {
        row["record_id"]: out / f"recording-{k:05d}" for k, row in enumerate(rows_of(out))
    }
    events = read_annotations(folders["Meyer"] / "events.tsv").seizures
    expected = read_scored_ieeg(out, "Meyer").events
    assert [(e.onset, e.offset) for e in events] == [(e.onset, e.offset) for e in expected]
    assert len(events) > 0
    assert not (folders["b/flat"] / "events.tsv").exists()
    assert b"\tgap\n" in (folders["b/gap"] / "coverage.tsv").read_bytes()
    assert rows_of(out)[1]["n_events"] is None


def test_a_segment_that_was_not_evaluated_has_no_probability_in_the_table(scored):
    table = pq.read_table(scored[1] / "recording-00002" / "segments.parquet")
    for row in table.to_pylist():
        assert (row["probability"] is None) == (row["status"] != "evaluated")
    assert set(table["status"].to_pylist()) >= {s.name.lower() for s in SegmentStatus} - {
        "few_channels"
    }


def test_no_name_of_a_file_is_that_of_a_patient(scored):
    assert not [name for name in all_bytes(scored[1]) if "Meyer" in name]


@pytest.mark.parametrize("stop_at", [0, 2, 4])
def test_a_run_that_was_stopped_goes_on_and_ends_in_the_same_bytes(
    ward, scored, model, tmp_path, monkeypatch, stop_at
):
    seen = []

    def stopping(path, *, root=None):
        seen.append(path)
        if len(seen) > stop_at:
            raise KeyboardInterrupt
        return read_ieeg(path, root=root)

    with monkeypatch.context() as patched:
        patched.setattr(source_readers, "read_ieeg", stopping)
        with pytest.raises(KeyboardInterrupt):
            score(ward, tmp_path, model)
    assert not (tmp_path / "manifest.json").exists()
    counted = []
    monkeypatch.setattr(
        source_readers,
        "read_ieeg",
        lambda p, *, root: counted.append(p) or read_ieeg(p, root=root),
    )
    assert score(ward, tmp_path, model) == scored[0]
    assert len(counted) == 5 - stop_at
    assert all_bytes(tmp_path) == all_bytes(scored[1])


def test_a_finished_run_of_other_inputs_is_not_overwritten(
    scored, model, ieeg_array, tmp_path
):
    path = write_edf(tmp_path / "other.edf", ieeg_array(3, 10.0))
    with pytest.raises(BadInput, match="another plan") as refused:
        score(path, scored[1], model)
    assert refused.value.code == "E_VERSION"


@pytest.mark.slow  # a process of its own
def test_progress_counts_segments_of_each_recording(ward, ieeg_bundle, tmp_path):
    calls = []
    score_cohort(
        ward, tmp_path, ieeg_bundle, workers=1, progress=lambda *call: calls.append(call)
    )
    stages = {stage for stage, _, _ in calls} - {"scoring", "report"}
    assert stages <= {f"recording {k} of 5" for k in range(1, 6)}
    assert calls[-1] == ("report", 1, 1)
    assert all(done <= of for _, done, of in calls)


def test_the_command_takes_the_kind_of_the_model(ward, ieeg_bundle, tmp_path, monkeypatch):
    from phenokit.cli import main

    command = ["phenokit", "score", str(ward), "--out", str(tmp_path), "--strict"]
    monkeypatch.setattr(sys, "argv", [*command, "--model", str(ieeg_bundle)])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 3  # one file is rejected
    assert [row["model"] for row in rows_of(tmp_path)] == ["tiny-ieeg"] * 5
    assert read_scored_ieeg(tmp_path, "Meyer").event_rule.theta_on == 0.55
