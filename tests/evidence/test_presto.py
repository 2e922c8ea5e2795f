"""PRESTO: the two ends of its penalty against statsmodels, the middle by its conditions."""

import numpy as np
import pytest
from scipy.special import expit

from phenokit.errors import AnalysisRefused, BadInput
from phenokit.evidence.presto import Presto


def staged(rng, n, weights=(0.8, -0.3, 1.0), cuts=(0.0, 1.5, 4.0)):
    """Stages 0 to 3 by proportional odds; features in different units."""
    x = rng.normal(size=(n, 3)) * [1, 20, 0.05] + [0, 100, 3]
    scaled = (x - [0, 100, 3]) / [1, 20, 0.05]
    return x, np.digitize(scaled @ np.array(weights) + rng.logistic(size=n), cuts)


def loss(intercepts, weights, x, stage, penalty):
    """What PRESTO minimises, written from its definition for the test."""
    beyond = expit(x @ weights.T + intercepts)
    edges = np.column_stack([np.ones(len(x)), beyond, np.zeros(len(x))])
    p = -np.diff(edges, axis=1)[np.arange(len(x)), stage]
    if (p <= 0).any():
        return np.inf
    differences = np.diff(weights, axis=0) * x.std(axis=0)
    return -np.log(p).mean() + penalty * np.abs(differences).sum()


def test_a_large_penalty_is_proportional_odds_of_statsmodels():
    from statsmodels.miscmodels.ordinal_model import OrderedModel

    x, stage = staged(np.random.default_rng(1), 1500)
    scaled = (x - x.mean(axis=0)) / x.std(axis=0)
    model = Presto(penalty=10.0).fit(scaled, stage)
    peer = OrderedModel(stage, scaled, distr="logit")
    theirs = peer.fit(method="newton", disp=False, maxiter=100)
    np.testing.assert_allclose(model.coef_, np.tile(theirs.params[:3], (3, 1)), atol=1e-4)
    cuts = peer.transform_threshold_params(theirs.params)[1:-1]
    np.testing.assert_allclose(model.intercept_, -cuts, atol=1e-4)


def test_penalty_0_is_a_logit_of_statsmodels_for_each_step():
    import statsmodels.api as sm

    x, stage = staged(np.random.default_rng(2), 1500)
    model = Presto(penalty=0.0).fit(x, stage)
    for k in range(3):
        peer = sm.Logit((stage > k) * 1.0, sm.add_constant(x)).fit(disp=0, tol=1e-12)
        ours = np.append(model.intercept_[k], model.coef_[k])
        np.testing.assert_allclose(ours, peer.params, rtol=1e-5)


def test_a_penalty_near_0_reaches_the_separate_logits_where_groups_are_saturated():
    # Two groups: both likelihoods then have the observed shares as their maximum.
    rng = np.random.default_rng(3)
    group = np.repeat([0.0, 1.0], 300)[:, None]
    stage = np.digitize(rng.logistic(size=600) + 0.7 * group[:, 0], [0, 1.5, 3])
    joint = Presto(penalty=1e-9).fit(group, stage)
    apart = Presto(penalty=0.0).fit(group, stage)
    np.testing.assert_allclose(joint.coef_, apart.coef_, atol=1e-6)
    shares = [np.bincount(stage[group[:, 0] == g]) / 300 for g in (0, 1)]
    np.testing.assert_allclose(joint.predict_proba(np.array([[0.0], [1.0]])), shares, 1e-6)


@pytest.mark.parametrize("penalty", [1e-4, 2e-3, 6e-3])
def test_between_the_ends_no_neighbour_has_a_smaller_loss(penalty):
    rng = np.random.default_rng(4)
    x, stage = staged(rng, 400)
    model = Presto(penalty=penalty).fit(x, stage)
    best = loss(model.intercept_, model.coef_, x, stage, penalty)
    unit = 1 / x.std(axis=0)
    for size in (1e-1, 1e-2, 1e-3):
        for _ in range(200):
            move = size * rng.normal(size=(3, 3)) * rng.integers(0, 2, (3, 3)) * unit
            shared = size * rng.normal(size=3) * unit * rng.integers(0, 2, 3)
            weights = model.coef_ + move + shared
            # Turned about the mean, so that the intercepts need not make up for it.
            intercepts = model.intercept_ - (move + shared) @ x.mean(axis=0)
            intercepts += size * rng.normal(size=3) * rng.integers(0, 2, 3)
            assert loss(intercepts, weights, x, stage, penalty) > best - 1e-12


def test_between_the_ends_every_derivative_is_that_of_a_minimum():
    x, stage = staged(np.random.default_rng(5), 500)
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    penalty = 1e-2
    model = Presto(penalty=penalty).fit(x, stage)
    seen = set()
    for k in (1, 2):
        for j in range(3):
            step = np.zeros((3, 3))
            step[k:, j] = 1e-5  # the difference of step k and all that follows
            there, back = (
                loss(model.intercept_, model.coef_ + sign * step, x, stage, 0.0)
                for sign in (1, -1)
            )
            slope, apart = (there - back) / 2e-5, model.coef_[k, j] - model.coef_[k - 1, j]
            seen.add(apart == 0)
            if apart == 0:
                assert abs(slope) <= penalty + 1e-8
            else:
                assert slope == pytest.approx(-penalty * np.sign(apart), abs=1e-8)
    assert seen == {True, False}  # some steps share a weight, others do not


def test_all_weights_are_shared_from_penalty_max_on_and_not_below():
    x, stage = staged(np.random.default_rng(6), 400)
    largest = Presto(penalty=1.0).fit(x, stage).penalty_max_
    above = Presto(penalty=largest * 1.0001).fit(x, stage).coef_
    below = Presto(penalty=largest * 0.99).fit(x, stage).coef_
    assert (np.diff(above, axis=0) == 0).all()
    assert (np.diff(below, axis=0) != 0).sum() == 1
    np.testing.assert_allclose(above, below, atol=0.02 * np.abs(above).max())


def test_two_stages_are_a_logistic_regression_whatever_the_penalty():
    x, stage = staged(np.random.default_rng(7), 300)
    fits = [Presto(penalty=p).fit(x, stage > 1).coef_ for p in (0.0, 0.01, 5.0)]
    assert fits[0].shape == (1, 3)
    np.testing.assert_allclose(fits[1], fits[0])
    np.testing.assert_allclose(fits[2], fits[0])


def test_units_of_a_feature_and_order_of_rows_change_no_probability():
    rng = np.random.default_rng(8)
    x, stage = staged(rng, 300)
    order = rng.permutation(300)
    one = Presto(penalty=2e-3).fit(x, stage)
    other = Presto(penalty=2e-3).fit((x * [1e4, 1e-3, 7] + 5)[order], stage[order])
    np.testing.assert_allclose(
        one.predict_proba(x), other.predict_proba(x * [1e4, 1e-3, 7] + 5), atol=1e-7
    )


def test_probabilities_add_up_to_1_where_steps_cross():
    x, stage = staged(np.random.default_rng(9), 200)
    model = Presto(penalty=0.0).fit(x, stage)
    far = x[:50] * [1, 1, 3]
    beyond = far @ model.coef_.T + model.intercept_
    assert (np.diff(beyond, axis=1) > 0).any()  # they do cross
    p = model.predict_proba(far)
    assert p.min() >= 0
    np.testing.assert_allclose(p.sum(axis=1), 1)


def test_a_rare_last_stage_is_told_better_than_by_either_end():
    # As the paper's sparse differences: 10 features, the last step differs in two.
    rng = np.random.default_rng(10)
    weights = np.tile(rng.normal(size=10) * 0.7, (2, 1))
    weights[1, :2] += [0.9, -0.9]
    errors = {0.0: [], 0.004: [], 10.0: []}
    for _ in range(12):
        x = rng.uniform(-1, 1, size=(1500, 10))
        truth = expit(x @ weights.T + [0.3, -4.2])
        truth[:, 1] = np.minimum(truth[:, 1], truth[:, 0])
        stage = (rng.random(1500)[:, None] < truth).sum(axis=1)
        for penalty, found in errors.items():
            p = Presto(penalty=penalty).fit(x, stage).predict_proba(x)[:, 2]
            found.append(np.mean((p - truth[:, 1]) ** 2))
    mean = {penalty: np.mean(found) for penalty, found in errors.items()}
    assert mean[0.004] < 0.9 * min(mean[0.0], mean[10.0])


def test_stages_may_be_words_and_scikit_learn_may_choose_the_penalty():
    from sklearn.model_selection import GridSearchCV

    x, stage = staged(np.random.default_rng(11), 300)
    words = np.array(["1 none", "2 biopsy", "3 cancer", "4 death"])[stage]
    search = GridSearchCV(Presto(), {"penalty": [1e-3, 1.0]}, scoring="neg_log_loss", cv=3)
    model = search.fit(x, words).best_estimator_
    assert model.classes_.tolist() == sorted(set(words))
    assert set(model.predict(x)) <= set(words)
    assert (model.predict(x) == words).mean() > 0.5


@pytest.mark.parametrize(
    ("rows", "column", "value", "code", "words"),
    [
        ([7], 1, np.nan, "E_NONFINITE", r"column 2 \(row 8\)"),
        (range(100), 2, 0.3, "E_RANGE", "Column 3 does not vary"),
    ],
)
def test_columns_that_cannot_be_used_are_refused_by_number(
    rows, column, value, code, words
):
    x, stage = staged(np.random.default_rng(12), 100)
    x[list(rows), column] = value
    with pytest.raises(BadInput, match=words) as caught:
        Presto().fit(x, stage)
    assert caught.value.code == code


def test_what_has_no_answer_is_refused():
    x, stage = staged(np.random.default_rng(13), 100)
    with pytest.raises(AnalysisRefused, match="at one stage"):
        Presto().fit(x, 0 * stage)
    with pytest.raises(AnalysisRefused, match="separated"):
        Presto().fit(x, np.digitize(x[:, 0], [-1, 1]))
    with pytest.raises(BadInput, match="Column 4 repeats"):
        Presto().fit(np.column_stack([x, x[:, 0] - x[:, 1]]), stage)
    with pytest.raises(ValueError, match="at least 0"):
        Presto(penalty=-1.0).fit(x, stage)
