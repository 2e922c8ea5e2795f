"""A folder of ECGs: a row each, whatever lies about, in the bytes that the plan decides."""

import json
import os
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from phenokit.batch.score import score_cohort
from phenokit.errors import BadInput
from phenokit.pipeline import score_ecg
from phenokit.readers.ecg import read_ecg

CHANGING = ("progress.json", "lock")


def score(source, out, model, **options):
    """In this process: what worker processes add is tested in test_faults.py."""
    return score_cohort(source, out, model, workers=0, **options)


@pytest.fixture(scope="module")
def ward(tmp_path_factory, ecg, write_wfdb):
    """Three good ECGs in two folders, and what else lies about in a hospital."""
    folder = tmp_path_factory.mktemp("ward")
    write_wfdb(folder, "a", ecg("normal", seed=300))
    write_wfdb(folder / "b", "c", ecg("left_bundle_branch_block", seed=301))
    write_wfdb(folder / "b", "d", ecg("atrial_fibrillation", seed=302))
    (folder / "b" / "broken.hea").write_text("broken 12 500\n")
    (folder / "lost.dat").write_bytes(b"\0" * 24_000)
    (folder / "notes.txt").write_text("Ring the ward.")
    (folder / "b" / "photo.jpg").write_bytes(b"\xff\xd8\xff" + b"\0" * 100)
    return folder


@pytest.fixture(scope="module")
def scored(ward, tmp_path_factory, tiny_model):
    out = tmp_path_factory.mktemp("scores")
    return score(ward, out, tiny_model), out


def rows_of(out):
    return pq.read_table(out / "part-00000.parquet").to_pylist()


def same_numbers(one, other):
    names = [n for n in one if n.startswith("probability_")]
    np.testing.assert_array_equal([one[n] for n in names], [other[n] for n in names])
    np.testing.assert_array_equal(one["similarity"], other["similarity"])


def test_every_recording_is_a_row_and_nothing_is_lost(scored):
    rows = {row["path"]: (row["outcome"], row["code"]) for row in rows_of(scored[1])}
    assert list(rows) == ["a.hea", "b/broken.hea", "b/c.hea", "b/d.hea", "lost.dat"]
    assert rows["b/broken.hea"][0] == "rejected"
    assert rows["lost.dat"] == ("rejected", "E_MISSING")
    assert all(rows[name][0] != "rejected" for name in ("a.hea", "b/c.hea", "b/d.hea"))


def test_a_row_is_what_the_library_says_of_the_file(ward, scored, tiny_model):
    row = rows_of(scored[1])[2]
    one = score_ecg([read_ecg(ward / "b/c.hea")], tiny_model)[0]
    assert (row["record_id"], row["outcome"]) == ("b/c", str(one.outcome))
    ours = [row[f"probability_{label}"] for label in tiny_model.labels]
    np.testing.assert_array_equal(np.array(ours, dtype=float), one.probability)
    np.testing.assert_array_equal(np.float32(row["similarity"]), one.similarity)


def test_the_columns_are_those_of_the_contract(scored, tiny_model):
    schema = pq.read_schema(scored[1] / "part-00000.parquet")
    assert schema.names == [
        "record_id", "path", "patient_id", "outcome", "code", "all_codes", "message",
        "start", "stop", "input_sha256", "model", "bundle_hash",
        *[f"probability_{label}" for label in tiny_model.labels],
        "similarity",
    ]  # fmt: skip
    n = len(tiny_model.prototypes)
    assert str(schema.field("similarity").type) == f"fixed_size_list<element: float>[{n}]"
    assert str(schema.field("probability_NORM").type) == "double"
    assert str(schema.field("all_codes").type) == "list<element: string>"
    rows = rows_of(scored[1])
    assert {row["bundle_hash"] for row in rows} == {tiny_model.bundle_hash}
    assert rows[1]["probability_NORM"] is None


def test_the_manifest_adds_up(ward, scored, tiny_model):
    scoring, out = scored
    manifest = json.loads((out / "manifest.json").read_text())
    assert sum(manifest["outcomes"].values()) == manifest["n_recordings"] == 5
    assert sum(manifest["codes"].values()) == 5
    assert manifest["not_scored"] == ["b/photo.jpg", "notes.txt"]
    assert manifest["bundle_hash"] == tiny_model.bundle_hash
    n_files = sum(len(files) for _, _, files in os.walk(ward))
    pairs = 3  # each good .hea has a .dat
    assert scoring.n_recordings + manifest["n_not_scored"] + pairs == n_files


def test_a_bad_file_changes_no_bit_of_the_others(ward, scored, tiny_model, tmp_path):
    clean = tmp_path / "clean"
    shutil.copytree(ward, clean)
    (clean / "b" / "broken.hea").unlink()
    (clean / "lost.dat").unlink()
    score(clean, tmp_path / "out", tiny_model)
    with_bad = {row["path"]: row for row in rows_of(scored[1])}
    for row in rows_of(tmp_path / "out"):
        same_numbers(row, with_bad[row["path"]])


def test_files_written_in_another_order_give_the_same_bytes(
    ward, scored, tiny_model, tmp_path
):
    for path in sorted(ward.rglob("*.*"), reverse=True):
        target = tmp_path / "ward" / path.relative_to(ward)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    score(tmp_path / "ward", tmp_path / "out", tiny_model)
    written = {path.name for path in scored[1].iterdir()} - set(CHANGING)
    assert written >= {"plan.json", "part-00000.parquet", "manifest.json", "report.html"}
    for name in written:
        assert (tmp_path / "out" / name).read_bytes() == (scored[1] / name).read_bytes()


def test_one_file_scores_as_in_its_folder(ward, scored, tiny_model, tmp_path):
    score(ward / "b" / "d.hea", tmp_path, tiny_model)
    (row,) = rows_of(tmp_path)
    same_numbers(row, rows_of(scored[1])[3])


def test_scores_of_an_older_version_are_left_alone(ward, tiny_model, tmp_path):
    (tmp_path / "part-00000.parquet").write_text("old")
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(BadInput, match="something else"):
        score(ward / "a.hea", tmp_path, tiny_model)
    assert (tmp_path / "part-00000.parquet").read_text() == "old"


def test_errors_are_the_rejected_rows_again(scored):
    errors = pq.read_table(scored[1] / "errors.parquet").to_pylist()
    rejected = [row for row in rows_of(scored[1]) if row["outcome"] == "rejected"]
    assert errors == [{name: row[name] for name in errors[0]} for row in rejected]
    assert [row["path"] for row in errors] == ["b/broken.hea", "lost.dat"]


def test_a_row_bears_the_hash_of_its_files(ward, scored):
    rows = {row["path"]: row["input_sha256"] for row in rows_of(scored[1])}
    assert rows["b/c.hea"] == read_ecg(ward / "b/c.hea").sha256
    assert len(rows["b/broken.hea"]) == 64


def test_the_report_counts_what_the_parts_hold_and_names_no_recording(scored):
    text = (scored[1] / "report.html").read_text()
    rows = rows_of(scored[1])
    n_scored = sum(row["outcome"].startswith("scored") for row in rows)
    assert f"{n_scored} of 5 recordings were scored by" in text
    assert not any(row["record_id"] in text for row in rows if len(row["record_id"]) > 2)


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_how_rows_are_cut_into_parts_changes_no_row(
    ward, scored, tiny_model, tmp_path, rows
):
    score(ward, tmp_path, tiny_model, rows=rows)
    parts = sorted(tmp_path.glob("part-*.parquet"))
    assert len(parts) == -(-5 // rows)
    cut = [row for part in parts for row in pq.read_table(part).to_pylist()]
    for one, other in zip(cut, rows_of(scored[1]), strict=True):
        same_numbers(one, other)
        assert (one["path"], one["code"]) == (other["path"], other["code"])


def test_an_input_that_was_changed_after_it_was_scored_is_noticed(
    ward, tiny_model, tmp_path
):
    shutil.copytree(ward, tmp_path / "ward")
    score(tmp_path / "ward", tmp_path / "out", tiny_model, rows=2)
    (tmp_path / "out" / "manifest.json").unlink()
    with (tmp_path / "ward" / "b" / "c.hea").open("a") as file:
        file.write("# a comment\n")
    with pytest.raises(BadInput, match="part 1 were changed"):
        score(tmp_path / "ward", tmp_path / "out", tiny_model, rows=2)


def test_a_link_is_a_rejected_row(ward, tiny_model, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link.hea").symlink_to(ward / "a.hea")
    scoring = score(tmp_path / "in", tmp_path / "out", tiny_model)
    assert scoring.codes == {"E_PATH": 1}


def test_names_that_are_not_utf8_are_rows_too(ward, tiny_model, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    shutil.copy(ward / "a.hea", os.fsencode(folder) + b"/h\xff.hea")
    shutil.copy(ward / "notes.txt", os.fsencode(folder) + b"/t\xff.txt")
    scoring = score(folder, tmp_path / "out", tiny_model)
    (row,) = rows_of(tmp_path / "out")
    assert (row["path"], row["outcome"]) == (r"h\xff.hea", "rejected")
    assert scoring.not_scored == (r"t\xff.txt",)


def test_nothing_is_no_row(tiny_model, tmp_path):
    (tmp_path / "in").mkdir()
    scoring = score(tmp_path / "in", tmp_path / "out", tiny_model)
    assert scoring.n_recordings == 0
    assert json.loads((tmp_path / "out/manifest.json").read_text())["n_parts"] == 0
    with pytest.raises(BadInput, match="no such file or folder"):
        score(tmp_path / "nowhere", tmp_path / "out", tiny_model)


def test_a_gpu_that_was_lost_is_laid_to_no_recording(
    ward, tiny_model, tmp_path, monkeypatch
):
    lost = type("AcceleratorError", (RuntimeError,), {})

    def fail(recordings, model):
        raise lost

    monkeypatch.setattr("phenokit.batch.score_ecg.score_ecg", fail)
    with pytest.raises(lost):
        score(ward, tmp_path, tiny_model)
    assert not list(tmp_path.glob("part-*"))
