from pathlib import Path

import numpy as np
import pytest
import torch

from phenokit.networks.prototype import reference_window_start
from phenokit.training.project import FeatureBlock, find_sources

REFERENCE = Path(__file__).parents[1] / "reference/ecg"


def blocks_of(features, labels, size, order=None):
    order = np.arange(len(features)) if order is None else order
    for start in range(0, len(order), size):
        rows = order[start : start + size]
        yield FeatureBlock(features[rows], labels[rows], rows)


@pytest.fixture
def data():
    """60 records, two labels with four prototypes of three steps each."""
    generator = torch.Generator().manual_seed(9)
    features = torch.rand(60, 5, 12, generator=generator)
    prototypes = torch.randn(8, 5, 3, generator=generator)
    labels = (torch.rand(60, 2, generator=generator) > 0.6).double().numpy()
    labels[::7] = np.nan
    return features, prototypes, labels


IDS = [str(i) for i in range(60)]


def naive(features, prototypes, labels, per_label):
    """The published loop, ties to the lowest row."""
    chosen = []
    for p, vector in enumerate(prototypes):
        best = (-np.inf, -1, -1)
        for row in range(len(features)):
            if labels[row, p // per_label] != 1:
                continue
            for w in range(features.shape[2] - 2):
                patch = features[row, :, w : w + 3].double().flatten()
                score = torch.cosine_similarity(patch, vector.double().flatten(), dim=0)
                if score > best[0]:
                    best = (float(score), row, w)
        chosen.append(best)
    return [np.array(column) for column in zip(*chosen, strict=True)]


@pytest.mark.parametrize("name", ["projection_1d", "projection_2d"])
def test_reference_projection(name):
    with np.load(REFERENCE / f"{name}.npz") as r:
        features, prototypes, expected = (
            torch.from_numpy(r[key])
            for key in ("features", "prototype_vectors", "expected_projected_vectors")
        )
        two_dimensions = features.dim() == 4
        features, prototypes, expected = (
            x[:, :, 0] if two_dimensions else x[..., None]
            for x in (features, prototypes, expected)
        )
        found = find_sources(
            blocks_of(features, r["labels"].astype(float), 7),
            prototypes,
            (2, 2, 2),
            record_ids=[str(i) for i in r["sample_ids"]],
            reference=True,
        )
        assert r["sample_ids"][found.row].tolist() == r["expected_ecg_id"].tolist()
        np.testing.assert_allclose(
            found.similarity, r["expected_similarity"], rtol=1e-4, atol=1e-5
        )
        assert torch.equal(found.vectors, expected)
        if two_dimensions:
            assert found.window.tolist() == r["expected_window_index"].tolist()
            starts = [reference_window_start(int(w), 3) for w in found.window]
            assert starts == r["expected_raw_start_sample"].tolist()


def test_projection_equals_a_loop_over_records_and_windows(data):
    features, prototypes, labels = data
    found = find_sources(
        blocks_of(features, labels, 16), prototypes, (4, 4), record_ids=IDS
    )
    score, row, window = naive(features, prototypes, labels, 4)
    assert found.row.tolist() == row.tolist()
    assert found.window.tolist() == window.tolist()
    np.testing.assert_allclose(found.similarity, score, atol=1e-6)
    for p in range(8):
        patch = features[row[p], :, window[p] : window[p] + 3]
        assert torch.equal(found.vectors[p], patch)


@pytest.mark.parametrize("unique", ["none", "record", "patient"])
@pytest.mark.parametrize("size", [1, 7, 60])
def test_blocks_and_their_order_change_nothing(data, unique, size):
    features, prototypes, labels = data
    patients = [f"p{i // 2}" for i in range(60)]

    def sources(blocks):
        return find_sources(
            blocks, prototypes, (4, 4), record_ids=IDS, patient_ids=patients, unique=unique
        )

    order = np.random.default_rng(1).permutation(60)
    whole = sources(blocks_of(features, labels, 60))
    other = sources(blocks_of(features, labels, size, order))
    assert whole.row.tolist() == other.row.tolist()
    assert whole.window.tolist() == other.window.tolist()
    assert torch.equal(whole.vectors, other.vectors)


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]])
@pytest.mark.parametrize("size", [1, 3, 4])
def test_equal_records_go_to_the_lowest_id_in_any_order(order, size):
    generator = torch.Generator().manual_seed(6)
    features = torch.rand(1, 37, 9, generator=generator).expand(4, -1, -1)
    prototypes = torch.randn(3, 37, 3, generator=generator)
    found = find_sources(
        blocks_of(features, np.ones((4, 1)), size, np.array(order)),
        prototypes,
        (3,),
        record_ids=["100", "20", "9", "30"],
    )
    assert found.row.tolist() == [2, 2, 2]


@pytest.mark.parametrize("unique", ["record", "patient"])
def test_a_source_serves_a_label_once(data, unique):
    features, prototypes, labels = data
    patients = [f"p{i // 3}" for i in range(60)]
    found = find_sources(
        blocks_of(features, labels, 16),
        prototypes,
        (4, 4),
        record_ids=IDS,
        patient_ids=patients,
        unique=unique,
    )
    names = IDS if unique == "record" else patients
    for label in (found.row[:4], found.row[4:]):
        assert len({names[row] for row in label}) == 4


def test_the_most_similar_pairs_are_taken_first(data):
    features, prototypes, labels = data
    free = find_sources(blocks_of(features, labels, 60), prototypes, (4, 4), record_ids=IDS)
    once = find_sources(
        blocks_of(features, labels, 60), prototypes, (4, 4), record_ids=IDS, unique="record"
    )
    best = int(np.argmax(free.similarity[:4]))
    assert once.row[best] == free.row[best]
    assert (once.similarity <= free.similarity + 1e-9).all()


def test_records_without_a_patient_each_stand_for_themselves(data):
    features, prototypes, labels = data
    arguments = {"record_ids": IDS, "patient_ids": [None] * 60}
    by_patient = find_sources(
        blocks_of(features, labels, 60), prototypes, (4, 4), unique="patient", **arguments
    )
    by_record = find_sources(
        blocks_of(features, labels, 60), prototypes, (4, 4), unique="record", **arguments
    )
    assert by_patient.row.tolist() == by_record.row.tolist()


def test_a_label_short_of_sources_keeps_fewer_prototypes(data):
    features, prototypes, labels = data
    labels[:, 0] = 0
    labels[[11, 40], 0] = 1
    labels[:, 1] = 0
    found = find_sources(
        blocks_of(features, labels, 16), prototypes, (4, 4), record_ids=IDS, unique="record"
    )
    assert sorted(found.row[:4]) == [-1, -1, 11, 40]
    assert not found.found[4:].any()
    assert np.isnan(found.similarity[~found.found]).all()
    kept = torch.from_numpy(~found.found)
    assert torch.equal(found.vectors[kept], prototypes[kept])


def test_a_projected_prototype_scores_1_on_its_source(data):
    features, prototypes, labels = data
    first = find_sources(
        blocks_of(features, labels, 16), prototypes, (4, 4), record_ids=IDS
    )
    again = find_sources(
        blocks_of(features, labels, 16), first.vectors, (4, 4), record_ids=IDS
    )
    np.testing.assert_allclose(again.similarity, 1, atol=1e-6)
    assert again.row.tolist() == first.row.tolist()
