import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from phenokit.training.heads import fit_head


@pytest.fixture
def data():
    """200 records, 6 similarities of unit variance, two labels."""
    rng = np.random.default_rng(8)
    X = rng.normal(size=(200, 6))
    X = (X - X.mean(0)) / X.std(0)
    truth = np.array([[1.5, -1, 0, 0, 0.5, 0], [0, 0, 2.0, 0, 0, -0.5]])
    share = 1 / (1 + np.exp(-(X @ truth.T - 0.5)))
    return X, (rng.random(share.shape) < share).astype(float)


@pytest.mark.parametrize("l1", [1e-3, 0.02, 0.1])
def test_the_head_agrees_with_scikit_learn(data, l1):
    X, y = data
    head = fit_head(X, y, l1=l1, tolerance=1e-15)
    for k in range(2):
        peer = LogisticRegression(
            l1_ratio=1.0, C=1 / (l1 * len(X)), solver="saga", tol=1e-9, max_iter=20_000
        ).fit(X, y[:, k])
        np.testing.assert_allclose(head.weight[k], peer.coef_[0], atol=1e-4)
        assert head.bias[k] == pytest.approx(peer.intercept_[0], abs=1e-4)


def test_a_ridge_head_agrees_with_scikit_learn(data):
    X, y = data
    head = fit_head(X, y, l1=0.0, l2=0.05, tolerance=1e-15)
    peer = LogisticRegression(C=1 / (0.05 * len(X)), tol=1e-10).fit(X, y[:, 0])
    np.testing.assert_allclose(head.weight[0], peer.coef_[0], atol=1e-5)


def test_the_solution_meets_the_conditions_of_an_optimum(data):
    X, y = data
    l1 = 0.05
    head = fit_head(X, y, l1=l1, tolerance=1e-15)
    residual = 1 / (1 + np.exp(-(X @ head.weight.T + head.bias))) - y
    gradient = residual.T @ X / len(X)
    active = head.weight != 0
    assert 0 < active.sum() < active.size
    np.testing.assert_allclose(
        gradient[active], -l1 * np.sign(head.weight[active]), atol=1e-6
    )
    assert (np.abs(gradient[~active]) <= l1 + 1e-6).all()
    np.testing.assert_allclose(residual.mean(0), 0, atol=1e-7)


def test_logits_do_not_depend_on_shift_and_scale_of_a_similarity(data):
    X, y = data
    factor, shift = np.array([1, 13, 4, 0.01, 1, 2]), np.array([0, 5, -3, 0.9, 1, 1])
    plain = fit_head(X, y, l1=0.02, tolerance=1e-15)
    moved = fit_head(factor * X + shift, y, l1=0.02, tolerance=1e-15)
    np.testing.assert_allclose(
        (factor * X + shift) @ moved.weight.T + moved.bias,
        X @ plain.weight.T + plain.bias,
        atol=1e-5,
    )


def test_unknown_labels_are_as_if_the_record_were_not_there(data):
    X, y = data
    y[150:, 1] = np.nan
    y[:10, 0] = np.nan
    head = fit_head(X, y, l1=0.0, l2=0.01, tolerance=1e-15)
    # standardised on all records: only a penalty on the raw scale would see the difference
    first = fit_head(X, np.delete(y, 0, axis=1), l1=0.0, l2=0.01, tolerance=1e-15)
    np.testing.assert_allclose(head.weight[1], first.weight[0], atol=1e-7)
    free = fit_head(X, y, l1=0.0, tolerance=1e-15)
    peer = LogisticRegression(C=np.inf, tol=1e-10).fit(X[:150], y[:150, 1])
    np.testing.assert_allclose(free.weight[1], peer.coef_[0], atol=1e-4)


def test_a_weight_without_penalty_is_free(data):
    X, y = data
    free = np.ones((2, 6))
    free[0, 0] = 0
    head = fit_head(X, y, l1=10.0, penalised=free)
    assert head.weight[0, 0] > 0.5
    assert (head.weight[0, 1:] == 0).all()
    assert (head.weight[1] == 0).all()


def test_a_positive_weight_counts_positives_several_times(data):
    X, y = data
    twice = np.concatenate([X, X[y[:, 0] == 1]])
    labels = np.concatenate([y[:, :1], np.ones((int(y[:, 0].sum()), 1))])
    weighted = fit_head(X, y[:, :1], l1=0.0, pos_weight=np.array([2.0]), tolerance=1e-15)
    repeated = fit_head(twice, labels, l1=0.0, tolerance=1e-15)
    np.testing.assert_allclose(weighted.weight, repeated.weight, atol=1e-5)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_label_with_one_outcome_gets_no_weights(data, value):
    X, y = data
    y[:, 1] = value
    head = fit_head(X, y, l1=1e-3)
    assert (head.weight[1] == 0).all()
    assert np.isfinite(head.bias).all()
    assert np.sign(head.bias[1]) == 2 * value - 1


def test_a_similarity_that_never_varies_does_no_harm(data):
    X, y = data
    head = fit_head(np.column_stack([X, np.ones(200)]), y, l1=1e-3)
    assert np.isfinite(head.weight).all()
    assert (head.weight[:, 6] == 0).all()


def test_signs_bound_each_weight_and_the_rest_is_an_optimum(data):
    X, y = data
    l1 = 0.01
    sign = np.array([[1, 1, 1, -1, -1, 0], [-1, -1, -1, 0, 1, 1]])
    head = fit_head(X, y, l1=l1, sign=sign, tolerance=1e-15)
    assert (head.weight[sign == 1] >= 0).all()
    assert (head.weight[sign == -1] <= 0).all()
    assert (head.weight[sign == 0] == 0).all()
    residual = 1 / (1 + np.exp(-(X @ head.weight.T + head.bias))) - y
    downhill = -sign * (residual.T @ X) / len(X)  # along the side that is allowed
    active = head.weight != 0
    assert active.sum() >= 3
    np.testing.assert_allclose(downhill[active], l1, atol=1e-6)
    assert (downhill[(sign != 0) & ~active] <= l1 + 1e-6).all()


def test_signs_that_the_solution_has_anyway_change_nothing(data):
    X, y = data
    free = fit_head(X, y, l1=0.02, tolerance=1e-15)
    sign = np.where(free.weight < 0, -1, 1)
    bound = fit_head(X, y, l1=0.02, sign=sign, tolerance=1e-15)
    np.testing.assert_allclose(bound.weight, free.weight, atol=1e-6)
