import numpy as np
import pytest

from phenokit.evidence.trust import Calibration, Trust, fit_trust


@pytest.fixture
def training():
    """400 records, 5 features, two classes four units apart."""
    rng = np.random.default_rng(3)
    labels = np.zeros((400, 2))
    labels[:200, 0] = labels[200:, 1] = 1
    centre = np.array([[2.0, 0, 0, 0, 0], [-2.0, 0, 0, 0, 0]])
    spread = np.array([1.0, 0.5, 2.0, 0.1, 1.0])
    features = labels @ centre + rng.normal(size=(400, 5)) * spread
    return features, labels, rng.uniform(-1, 1, (400, 7))


def fitted(training, **arguments):
    features, labels, similarity = training
    return fit_trust(
        features[::2], labels[::2], features[1::2], similarity[::2], **arguments
    )


def test_distance_by_hand():
    trust = Trust(
        means=np.array([[0.0, 0.0], [10.0, 0.0]]),
        whitening=np.diag([1.0, 2.0]),
        threshold=1.0,
        similarity_quantiles=np.zeros((1, 3)),
    )
    assert trust.distance(np.array([1.0, 1.0])) == pytest.approx(1 + 4)
    assert trust.distance(np.array([9.0, 0.0])) == pytest.approx(1)


def test_no_bit_of_a_distance_depends_on_the_other_recordings():
    rng = np.random.default_rng(2)
    means, whitening = rng.normal(size=(3, 300)), np.tril(rng.normal(size=(300, 300)))
    trust = Trust(means, whitening.astype(np.float32), 1.0, np.zeros((1, 1)))
    features = rng.normal(size=(16, 300))
    together = trust.distances(features)
    assert [trust.distance(row) for row in features] == together.tolist()
    assert trust.distances(features[::-1]).tolist() == together[::-1].tolist()
    away = (features[:, np.newaxis] - means) @ whitening.T
    np.testing.assert_allclose(together, (away**2).sum(2).min(1), rtol=1e-5)


def test_without_shrinkage_it_is_the_mahalanobis_distance(training):
    features, labels, _ = training
    trust = fitted(training, shrinkage=0.0)
    X, y = features[::2], labels[::2]
    means = [X[y[:, k] == 1].mean(0) for k in range(2)]
    residual = np.concatenate([X[y[:, k] == 1] - means[k] for k in range(2)])
    inverse = np.linalg.inv(residual.T @ residual / len(residual))
    for point in features[1:20:2]:
        expected = min((point - m) @ inverse @ (point - m) for m in means)
        assert trust.distance(point) == pytest.approx(expected)


def test_distances_do_not_depend_on_rotation(training):
    features, labels, similarity = training
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(5, 5)))[0]
    turned = fitted((features @ rotation, labels, similarity))
    straight = fitted(training)
    for point in features[1:20:2]:
        assert turned.distance(point @ rotation) == pytest.approx(straight.distance(point))


def test_the_limit_is_passed_by_the_share_asked_for(training):
    for rate in (0.01, 0.1):
        trust = fitted(training, false_positive_rate=rate)
        far = [trust.distance(x) > trust.threshold for x in training[0][1::2]]
        assert np.mean(far) == pytest.approx(rate, abs=0.01)


def test_what_lies_between_the_classes_or_beyond_is_far(training):
    trust = fitted(training)
    assert trust.distance(np.array([0.0, 0, 0, 3.0, 0])) > trust.threshold
    assert trust.distance(np.array([50.0, 0, 0, 0, 0])) > trust.threshold


def test_records_without_a_class_make_one_of_their_own(training):
    features, labels, similarity = training
    features[:40] += 30.0
    labels[:40] = 0
    labels[41, 0] = np.nan
    trust = fitted((features, labels, similarity))
    assert len(trust.means) == 3
    assert trust.distance(np.array([30.0, 30, 30, 30, 30])) < trust.threshold


def test_more_features_than_records_is_no_singular_matrix():
    rng = np.random.default_rng(4)
    features = rng.normal(size=(20, 60))
    trust = fit_trust(
        features, np.ones((20, 1)), rng.normal(size=(8, 60)), rng.random((20, 3))
    )
    assert np.isfinite(trust.distance(features[0]))


def test_trust_arrays_round_trip(training):
    trust = fitted(training)
    again = Trust.from_arrays(trust.to_arrays())
    assert again.threshold == trust.threshold
    point = training[0][0]  # the whitening is stored in float32
    assert again.distance(point) == pytest.approx(trust.distance(point), rel=1e-6)
    assert again.similarity_quantiles.shape == (7, 101)


def test_calibration_round_trips_and_leaves_nan_alone():
    calibration = Calibration(
        np.array([1.0, 2.0]), np.array([0.0, -1.0]), np.array([0.5, 0.2]), (False, True)
    )
    again = Calibration.from_dict(calibration.to_dict())
    logit = np.array([[0.0, 0.5], [np.nan, 1.0]])
    expected = np.array([[0.5, 0.5], [np.nan, 1 / (1 + np.exp(-1))]])
    np.testing.assert_allclose(again.probability(logit), expected)
    assert again.pooled == (False, True)


@pytest.mark.parametrize("logit", [-1e4, 1e4])
def test_extreme_logits_are_sure_and_silent(logit):
    calibration = Calibration(np.ones(1), np.zeros(1), np.ones(1), (False,))
    assert calibration.probability(np.array([logit]))[0] == (logit > 0)
