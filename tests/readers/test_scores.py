"""Scores are read whole or refused."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from phenokit.errors import BadInput
from phenokit.readers.scores import read_scores


def part(n: int = 3, *, first: int = 0, model: str = "toy", bundle: str = "ab") -> pa.Table:
    similarity = np.arange(first * 4, (first + n) * 4, dtype=np.float32)
    return pa.table(
        {
            "record_id": [f"r{k}" for k in range(first, first + n)],
            "patient_id": pa.array(["p1", None, "p2"][:n], pa.string()),
            "outcome": ["scored", "abstained", "rejected"][:n],
            "code": ["OK", "A_NOISE", "E_HEADER"][:n],
            "model": [model] * n,
            "bundle_hash": [bundle] * n,
            "probability_AFIB": pa.array([0.25, 0.5, None][:n], pa.float64()),
            "probability_NORM": pa.array([0.75, 0.5, None][:n], pa.float64()),
            "similarity": pa.FixedSizeListArray.from_arrays(pa.array(similarity), 4),
        }
    )


@pytest.fixture
def write(tmp_path):
    """`write(*parts)`: a folder of scores."""

    def go(*parts, n_parts=None):
        for k, table in enumerate(parts):
            path = tmp_path / f"part-{k:05d}.parquet"
            pq.write_table(table, path, write_page_checksum=True)
        manifest = {"n_parts": len(parts) if n_parts is None else n_parts}
        (tmp_path / "manifest.json").write_text(json.dumps(manifest))
        return tmp_path

    return go


def test_the_parts_are_read_in_order(write):
    scores = read_scores(write(part(), part(first=3)))
    assert scores.table["record_id"].tolist() == [f"r{k}" for k in range(6)]
    assert scores.table["patient_id"].tolist() == ["p1", "", "p2"] * 2
    assert scores.labels == ("AFIB", "NORM")
    np.testing.assert_array_equal(scores.probability[:3, 0], [0.25, 0.5, np.nan])
    np.testing.assert_array_equal(scores.similarity, np.arange(24).reshape(6, 4))
    assert (scores.model, scores.bundle_hash) == ("toy", "ab")


def refused(folder) -> tuple[str, str]:
    with pytest.raises(BadInput) as error:
        read_scores(folder)
    return error.value.code, str(error.value)


def test_scores_that_are_absent_or_unfinished_are_refused(write, tmp_path):
    assert refused(tmp_path)[0] == "E_MISSING"
    folder = write(part(), n_parts=2)
    code, words = refused(folder)
    assert (code, "1 parts and their manifest names 2" in words) == ("E_MISSING", True)
    (folder / "manifest.json").unlink()
    assert "run phenokit score first" in refused(folder)[1]


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"n_parts": "1"}'])
def test_a_damaged_manifest_is_refused(write, text):
    folder = write(part())
    (folder / "manifest.json").write_text(text)
    assert refused(folder)[0] in ("E_FORMAT", "E_MISSING")


@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_a_damaged_part_is_refused_by_name(write, damage):
    folder = write(part(), part(first=3))
    path = folder / "part-00001.parquet"
    data = bytearray(path.read_bytes())
    if damage == "flip":
        at = data.find(b"r3")
        assert at > 0
        data[at] ^= 4
    path.write_bytes({"flip": data, "cut": data[: len(data) // 2], "empty": b""}[damage])
    assert refused(folder) == ("E_FORMAT", "part-00001.parquet is damaged; score again.")


@pytest.mark.parametrize(
    "other",
    [
        part(first=3, model="other"),
        part(first=3, bundle="cd"),
        part(first=3).rename_columns(
            [name.replace("NORM", "SR") for name in part().column_names]
        ),
    ],
    ids=["model", "bundle", "labels"],
)
def test_parts_of_different_models_are_refused(write, other):
    assert refused(write(part(), other))[0] == "E_VERSION"


def test_a_part_without_a_column_is_refused_by_its_name(write):
    folder = write(part().drop_columns(["code", "similarity"]))
    assert refused(folder) == (
        "E_COLUMNS",
        "part-00000.parquet has no column code, similarity.",
    )
