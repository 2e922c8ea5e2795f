"""What scores and tables of numbers say of the rows of a cohort."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from phenokit.batch.exposures import (
    LOWEST,
    cohort_exposures,
    feature_exposures,
    join,
    latent_vectors,
    score_exposures,
)
from phenokit.cohort import Cohort, PhecodeStatus
from phenokit.errors import BadInput
from phenokit.networks.checkpoint import load_bundle
from phenokit.readers.scores import read_scores


def cohort_of(**columns) -> Cohort:
    frame = pd.DataFrame(columns)
    return Cohort(frame, PhecodeStatus((), len(frame), (), ()), ())


@pytest.fixture(scope="module")
def scored(hand_cohort, hand_models):
    return read_scores(hand_cohort / "scores"), load_bundle(hand_models / "hand")


@pytest.fixture(scope="module")
def four() -> Cohort:
    """Three recordings that were scored, out of order, and one that nobody knows."""
    return cohort_of(
        person_id=["p0007", "p0001", "p0003", "x"],
        record_id=["p0007-1", "p0001-1", "p0003-2", "x-1"],
        age=[50.0, np.nan, 70.0, 60.0],
    )


def test_scores_become_exposures_in_the_rows_of_the_cohort(scored, four):
    scores, bundle = scored
    table = score_exposures(four, scores, bundle)
    at = pd.Index(scores.table["record_id"]).get_indexer(four.patients["record_id"][:3])
    values = table.exposures.values
    assert values.shape == (4, 6 + 3 + 6)
    np.testing.assert_array_equal(
        values[:3, :6], scores.similarity[at].astype(values.dtype)
    )
    p = scores.probability[at]
    np.testing.assert_allclose(values[:3, 6:9], np.log(p / (1 - p)))
    assert np.isnan(values[3]).all()


def test_a_prototype_class_is_the_largest_and_the_mean_of_its_prototypes(scored, four):
    table = score_exposures(four, *scored, kinds=("prototype", "prototype_class"))
    values = dict(zip(table.exposures.names, table.exposures.values.T, strict=True))
    of_class = np.stack([values["prototype 2"], values["prototype 3"]])[:, :3]
    of_max, of_mean = (values[f"prototype_class AFIB {how}"] for how in ("max", "mean"))
    np.testing.assert_array_equal(of_max[:3], of_class.max(axis=0))
    np.testing.assert_allclose(of_mean[:3], of_class.mean(axis=0), rtol=1e-6)


def test_a_probability_is_a_probability_and_a_logit_of_0_and_1_is_finite(scored, four):
    scores, bundle = scored
    certain = np.vstack([[0, 1, 0.5], scores.probability[1:]])
    scores = replace(scores, probability=certain)
    first = cohort_of(person_id=["a"], record_id=[scores.table["record_id"][0]])
    logit = score_exposures(first, scores, bundle, kinds=("class",)).exposures.values[0]
    largest = np.log((1 - LOWEST) / LOWEST)
    assert logit.tolist() == pytest.approx([-largest, largest, 0])
    plain = score_exposures(
        first, scores, bundle, kinds=("class",), class_scale="probability"
    )
    assert plain.exposures.values[0].tolist() == [0, 1, 0.5]
    assert plain.descriptions[1].startswith("Predicted probability")


def test_scores_of_another_bundle_are_refused_with_both_hashes(scored, four, other_models):
    scores, bundle = scored
    other = load_bundle(other_models / "hand")
    with pytest.raises(BadInput) as error:
        score_exposures(four, scores, other)
    assert error.value.code == "E_VERSION"
    assert bundle.bundle_hash[:8] in str(error.value)
    assert other.bundle_hash[:8] in str(error.value)


def test_features_are_found_by_their_id_and_may_be_missing(four, tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("person_id,crp,af\np0003,1.5,1\np0007,,0\nother,9,1\n")
    table = feature_exposures(four, path)
    assert table.exposures.names == ("crp", "af")
    np.testing.assert_array_equal(
        table.exposures.values,
        [[np.nan, 0], [np.nan, np.nan], [1.5, 1], [np.nan, np.nan]],
    )
    assert feature_exposures(four, path, names=("af",)).exposures.names == ("af",)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("person_id,crp\np0003,high\n", "E_RANGE"),
        ("person_id,crp\np0003,1\np0003,2\n", "E_DUP_ID"),
        ("crp,af\n1,2\n", "E_COLUMNS"),
        ("person_id,crp\np0003,inf\n", "E_NONFINITE"),
        ("person_id,crp\nnobody,1\n", "E_EMPTY"),
    ],
)
def test_a_table_of_features_that_cannot_be_used_is_refused(four, tmp_path, text, code):
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(BadInput) as error:
        feature_exposures(four, tmp_path / "x.csv")
    assert error.value.code == code


def test_columns_of_the_patients_are_exposures_if_they_are_numbers(four):
    values = cohort_exposures(four, ["age"]).exposures.values
    np.testing.assert_array_equal(values[:, 0], [50, np.nan, 70, 60])
    with pytest.raises(BadInput, match="no column weight"):
        cohort_exposures(four, ["weight"])
    with pytest.raises(BadInput, match="person_id of the patients table is not of numbers"):
        cohort_exposures(four, ["person_id"])


def test_joined_exposures_have_names_of_their_own_and_enough_digits(scored, four):
    similarity = score_exposures(four, *scored, kinds=("prototype",))
    age = cohort_exposures(four, ["age"])
    assert join([similarity]).exposures.values.dtype == np.float32
    both = join([similarity, age])
    assert both.exposures.values.dtype == np.float64
    assert both.at([6]).exposures.names == ("age",)
    assert both.prototype_ids == (0, 1, 2, 3, 4, 5, -1)
    with pytest.raises(BadInput, match="Two exposures are called age"):
        join([age, age])
    with pytest.raises(BadInput, match="no exposure to test"):
        join([])


def test_the_summary_counts_what_is_missing(four):
    row = cohort_exposures(four, ["age"]).summary().iloc[0]
    assert (row["n"], row["n_missing"], row["mean"]) == (3, 1, 60)
    assert row["sd"] == pytest.approx(np.std([50, 70, 60]))


def test_latent_vectors_are_the_rows_of_the_tensors(scored):
    _, bundle = scored
    vectors = latent_vectors(bundle)
    np.testing.assert_array_equal(
        np.stack(vectors), bundle.tensors["prototypes.global"].astype(float)
    )
