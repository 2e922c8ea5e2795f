import numpy as np
import pytest

from phenokit.training.calibrate import best_threshold, calibrate


def simulated(slope, intercept, n, seed=1):
    rng = np.random.default_rng(seed)
    logit = rng.normal(0, 2, (n, 1))
    share = 1 / (1 + np.exp(-(slope * logit + intercept)))
    return logit, (rng.random((n, 1)) < share).astype(float)


@pytest.mark.parametrize(("slope", "intercept"), [(0.5, -1.0), (2.0, 0.3)])
def test_slope_and_intercept_are_recovered(slope, intercept):
    # the standard error of either is below 0.05 at this size: four of them
    calibration = calibrate(*simulated(slope, intercept, 6000))
    assert calibration.slope[0] == pytest.approx(slope, abs=0.2)
    assert calibration.intercept[0] == pytest.approx(intercept, abs=0.2)


def test_calibrated_probabilities_have_the_mean_of_the_outcome():
    logit, labels = simulated(0.7, -2.0, 3000)
    probability = calibrate(logit, labels).probability(logit)
    assert probability.mean() == pytest.approx(labels.mean(), abs=1e-3)


def test_labels_with_few_positives_share_one_slope():
    logit, labels = simulated(1.0, 0.0, 300)
    many = np.repeat(logit, 3, axis=1)
    rare = labels.repeat(3, axis=1)
    rare[20:, 1:] = 0
    rare[::2, 1] = np.nan
    calibration = calibrate(many, rare)
    assert calibration.pooled == (False, True, True)
    assert calibration.slope[1] == calibration.slope[2] != calibration.slope[0]


def test_unknown_labels_take_no_part():
    logit, labels = simulated(1.0, 0.0, 400)
    expected = calibrate(logit, labels)
    more = np.concatenate([logit, np.full((50, 1), 9.0)])
    unknown = np.concatenate([labels, np.full((50, 1), np.nan)])
    ours = calibrate(more, unknown)
    np.testing.assert_allclose(ours.slope, expected.slope)
    np.testing.assert_allclose(ours.threshold, expected.threshold)


def test_a_score_that_is_wrong_way_round_is_left_as_it_is():
    logit, labels = simulated(1.0, 0.0, 400)
    calibration = calibrate(-logit, labels)
    assert (calibration.slope[0], calibration.intercept[0]) == (1.0, 0.0)


def test_a_label_without_positives_has_threshold_one_half():
    calibration = calibrate(np.zeros((30, 1)), np.zeros((30, 1)))
    assert calibration.threshold[0] == 0.5
    assert calibration.probability(np.zeros(1))[0] == 0.5


@pytest.mark.parametrize("seed", range(5))
def test_no_threshold_has_a_higher_f1(seed):
    rng = np.random.default_rng(seed)
    probability = np.round(rng.random(60), 1)  # ties
    labels = (rng.random(60) < probability).astype(float)

    def f1(threshold):
        hat = probability >= threshold
        return 2 * (hat * labels).sum() / (hat.sum() + labels.sum())

    assert f1(best_threshold(probability, labels)) == max(map(f1, np.unique(probability)))
