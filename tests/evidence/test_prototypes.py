import numpy as np
import pytest

from phenokit.evidence.prototypes import Finding, contributions, percentile


def test_contributions_add_up_to_the_logit_in_double_precision():
    rng = np.random.default_rng(1)
    similarity = rng.uniform(-1, 1, 1037).astype(np.float32)
    weight = rng.normal(0, 3, 1037)
    terms = contributions(similarity, weight)
    assert terms.dtype == np.float64
    assert terms.sum() == pytest.approx(weight @ similarity.astype(float), abs=1e-10)


@pytest.mark.parametrize(
    ("similarity", "expected"),
    [(-1.0, 0.0), (0.1, 0.0), (0.35, 25.0), (0.6, 50.0), (0.9, 100.0), (1.0, 100.0)],
)
def test_a_percentile_is_the_share_that_scores_lower(similarity, expected):
    assert percentile(similarity, np.array([0.1, 0.6, 0.9])) == pytest.approx(expected)


def test_percentiles_of_the_training_set_itself_are_even():
    scores = np.sort(np.random.default_rng(2).normal(size=1001))
    quantiles = np.quantile(scores, np.linspace(0, 1, 101))
    ours = [percentile(float(score), quantiles) for score in scores]
    np.testing.assert_allclose(ours, np.linspace(0, 100, 1001), atol=1)


def test_percentiles_of_a_prototype_that_never_varies_are_defined():
    assert 0 <= percentile(0.5, np.full(101, 0.5)) <= 100


@pytest.mark.parametrize(("probability", "present"), [(0.29, False), (0.3, True)])
def test_a_label_is_present_from_its_threshold_on(probability, present):
    assert Finding("AFIB", probability, 0.3, 0.0, 0.0, ()).is_present is present
