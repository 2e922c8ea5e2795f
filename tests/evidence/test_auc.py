import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from phenokit.cohort import CaseStatus, PhecodeStatus
from phenokit.evidence.auc import (
    auc_all_pairs,
    delong,
    delong_all_pairs,
    delong_difference,
)

CASE, CONTROL, EXCLUDED = CaseStatus.CASE, CaseStatus.CONTROL, CaseStatus.EXCLUDED


def status_of(columns):
    """`PhecodeStatus` of a matrix (patient, phecode) of `CaseStatus`."""
    columns = np.asarray(columns)
    rows = {
        s: tuple(np.flatnonzero(c == s).astype(np.int32) for c in columns.T)
        for s in (CASE, EXCLUDED)
    }
    names = tuple(str(k) for k in range(columns.shape[1]))
    return PhecodeStatus(names, len(columns), rows[CASE], rows[EXCLUDED])


def random_status(rng, n, n_phecodes, *, case=0.1, excluded=0.2):
    share = [1 - case - excluded, case, excluded]
    return rng.choice([CONTROL, CASE, EXCLUDED], p=share, size=(n, n_phecodes))


def slow_auc(values, column):
    """Every pair of a case and a control, counted."""
    case, control = values[column == CASE], values[column == CONTROL]
    wins = (case[:, None] > control) + 0.5 * (case[:, None] == control)
    return wins.mean()


def slow_placements(values, column):
    case, control = values[column == CASE], values[column == CONTROL]
    wins = (case[:, None] > control) + 0.5 * (case[:, None] == control)
    return wins.mean(axis=1), wins.mean(axis=0)


@pytest.mark.parametrize(
    ("values", "column", "auc"),
    [
        # cases .4 .8 .8, controls .1 .4 .8: wins 1.5 + 2.5 + 2.5 of 9
        ([0.1, 0.4, 0.8, 0.4, 0.8, 0.8], [0, 0, 0, 1, 1, 1], 6.5 / 9),
        # the same without the control .1: wins .5 + 1.5 + 1.5 of 6
        ([0.1, 0.4, 0.8, 0.4, 0.8, 0.8], [2, 0, 0, 1, 1, 1], 3.5 / 6),
        ([3, 3, 3, 3, 3, 3], [0, 1, 0, 1, 0, 1], 0.5),
        ([1, 2, 3, 4, 5, 6], [0, 0, 0, 1, 1, 1], 1.0),
        ([1, 2, 3, 4, 5, 6], [1, 1, 1, 0, 0, 2], 0.0),
        ([-np.inf, 0.0, -0.0, np.inf, 1, 2], [0, 0, 1, 1, 2, 2], 3.5 / 4),
        ([1, 2, 3, 4, 5, 6], [0, 0, 0, 0, 0, 0], np.nan),
        ([1, 2, 3, 4, 5, 6], [1, 1, 1, 1, 2, 2], np.nan),
        ([1, 2, 3, 4, 5, 6], [2, 2, 2, 2, 2, 2], np.nan),
    ],
)
def test_auc_equals_the_value_by_hand_or_is_undefined(values, column, auc):
    values = np.array(values, dtype=float)[:, None]
    np.testing.assert_array_equal(
        auc_all_pairs(values, status_of(np.array([column]).T)), [[auc]]
    )
    np.testing.assert_array_equal(delong(values, np.array(column, np.int8)).auc, [auc])


@pytest.mark.parametrize("decimals", [0, 1, 8])
def test_auc_of_all_pairs_agrees_with_scikit_learn(decimals):
    rng = np.random.default_rng(decimals)
    columns = random_status(rng, 700, 9)
    values = rng.normal(size=(700, 5)).round(decimals) + 0.3 * (columns[:, :1] == CASE)
    ours = auc_all_pairs(values, status_of(columns))
    for p, column in enumerate(columns.T):
        kept = column != EXCLUDED
        for f in range(5):
            peer = roc_auc_score(column[kept] == CASE, values[kept, f])
            assert ours[f, p] == pytest.approx(peer, abs=1e-12)


def test_auc_with_shared_controls_agrees_with_each_phecode_alone():
    rng = np.random.default_rng(3)
    outside = rng.random(500) < 0.4  # of a range of related codes, or of the other sex
    columns = np.where(outside[:, None], rng.choice([CASE, EXCLUDED], size=(500, 4)), 0)
    columns = np.concatenate([columns, random_status(rng, 500, 3, excluded=0)], axis=1)
    values = np.stack([rng.normal(size=500), rng.integers(0, 4, 500), outside], axis=1)
    together = auc_all_pairs(values, status_of(columns))
    slow = [[slow_auc(x, c) for c in columns.T] for x in values.T]
    np.testing.assert_allclose(together, slow, atol=1e-14)


@pytest.mark.parametrize("n", [2, 31, 32, 33, 63, 64, 65, 200])
def test_auc_is_right_where_the_order_fills_its_last_word_of_bits(n):
    rng = np.random.default_rng(n)
    columns = rng.choice([CONTROL, CASE, EXCLUDED], size=(n, 3))
    columns[:2] = [[CASE], [CONTROL]]
    values = np.stack([rng.permutation(n) * 1.0, rng.integers(0, 3, n) * 1.0], axis=1)
    slow = [[slow_auc(x, c) for c in columns.T] for x in values.T]
    np.testing.assert_allclose(auc_all_pairs(values, status_of(columns)), slow, atol=1e-14)


def test_auc_has_the_same_bits_for_any_block_size_and_order_of_rows():
    rng = np.random.default_rng(5)
    columns = random_status(rng, 300, 6)
    values = np.where(np.arange(40) % 3, 1.0, 1e3) * rng.normal(size=(300, 40))
    values = np.where(np.arange(40) % 2, values.round(1), values)
    whole = auc_all_pairs(values, status_of(columns))
    for size in (1, 7, 40):
        again = auc_all_pairs(values, status_of(columns), exposures_at_once=size)
        np.testing.assert_array_equal(whole, again)
    order = rng.permutation(300)
    np.testing.assert_array_equal(
        whole, auc_all_pairs(values[order], status_of(columns[order]))
    )


def test_auc_does_not_see_a_rising_transform_and_mirrors_a_falling_one():
    rng = np.random.default_rng(6)
    status = status_of(random_status(rng, 400, 5))
    values = rng.normal(size=(400, 3)).round(1)
    auc = auc_all_pairs(values, status)
    np.testing.assert_array_equal(auc, auc_all_pairs(np.exp(values), status))
    np.testing.assert_allclose(auc, 1 - auc_all_pairs(-values, status), atol=1e-15)


def test_auc_of_an_empty_cohort_or_of_nothing_is_undefined_or_empty():
    nobody = status_of(np.zeros((0, 2), dtype=int))
    assert np.isnan(auc_all_pairs(np.zeros((0, 3)), nobody)).all()
    assert np.isnan(delong(np.zeros((0, 3)), np.zeros(0, np.int8)).auc).all()
    assert auc_all_pairs(np.zeros((4, 0)), status_of(np.eye(4, 2))).shape == (0, 2)


def test_auc_refuses_nan():
    values = np.array([[1.0], [np.nan]])
    with pytest.raises(ValueError, match="missing"):
        auc_all_pairs(values, status_of([[0], [1]]))
    with pytest.raises(ValueError, match="missing"):
        delong(values, np.array([0, 1], np.int8))


def test_delong_equals_the_value_by_hand():
    # Placements: cases .5/1 -> (1.5, 2.5, 2.5)/3, controls (3, 2.5, 1)/3; excluded last.
    values = np.array([[0.4], [0.8], [0.8], [0.1], [0.4], [0.8], [9.9]])
    result = delong(values, np.array([1, 1, 1, 0, 0, 0, 2], np.int8))
    of_cases, of_controls = np.array([1.5, 2.5, 2.5]) / 3, np.array([3, 2.5, 1]) / 3
    variance = of_cases.var(ddof=1) / 3 + of_controls.var(ddof=1) / 3
    assert result.auc[0] == 6.5 / 9
    assert result.standard_error[0] == pytest.approx(np.sqrt(variance), rel=1e-14)
    assert result.high[0] == 1.0  # cut: .722 + 1.96 x .228
    assert result.low[0] == pytest.approx(6.5 / 9 - 1.95996398 * np.sqrt(variance))


@pytest.mark.parametrize("decimals", [0, 1, 8])
def test_delong_agrees_with_its_definition_over_all_pairs(decimals):
    rng = np.random.default_rng(decimals)
    column = random_status(rng, 300, 1)[:, 0].astype(np.int8)
    values = (rng.normal(size=(300, 4)) + 0.7 * (column[:, None] == CASE)).round(decimals)
    result = delong(values, column)
    for f, x in enumerate(values.T):
        case, control = slow_placements(x, column)
        variance = case.var(ddof=1) / len(case) + control.var(ddof=1) / len(control)
        assert result.auc[f] == pytest.approx(case.mean(), abs=1e-14)
        assert result.standard_error[f] == pytest.approx(np.sqrt(variance), rel=1e-12)


@pytest.mark.parametrize("n", [2, 3, 33, 200])
def test_delong_of_all_pairs_agrees_with_each_alone(n):
    rng = np.random.default_rng(n)
    columns = random_status(rng, n, 8, case=0.3)
    related = columns[:, 4:5] != CONTROL  # two phecodes with the controls of a third
    columns[:, 5:7] = np.where(related, columns[:, 5:7] % 2 + 1, CONTROL)
    columns[:, 7] = np.arange(n) % 2
    values = rng.normal(size=(n, 7)) * [1, 1, 1, 1, 0, 1, 1] + columns[:, [7]]
    values[:, 1], values[:, 2] = values[:, 1].round(0), values[:, 2].round(1)
    values[:, 3] = columns[:, 7]  # AUC 1, so that no error can be estimated
    together = delong_all_pairs(values, status_of(columns), exposures_at_once=3)
    for p, column in enumerate(columns.T.astype(np.int8)):
        alone = delong(values, column)
        np.testing.assert_array_equal(together.auc[:, p], alone.auc)
        for name in ("standard_error", "low", "high"):
            np.testing.assert_allclose(
                getattr(together, name)[:, p], getattr(alone, name), rtol=1e-12
            )
    np.testing.assert_array_equal(together.auc, auc_all_pairs(values, status_of(columns)))


def test_delong_difference_agrees_with_its_definition_over_all_pairs():
    rng = np.random.default_rng(8)
    column = random_status(rng, 300, 1)[:, 0].astype(np.int8)
    one = (rng.normal(size=(300, 3)) + 0.7 * (column[:, None] == CASE)).round(1)
    other = (one + rng.normal(size=one.shape)).round(1)
    result = delong_difference(one, other, column)
    for f in range(3):
        case = np.array([slow_placements(x[:, f], column)[0] for x in (one, other)])
        control = np.array([slow_placements(x[:, f], column)[1] for x in (one, other)])
        covariance = np.cov(case) / case.shape[1] + np.cov(control) / control.shape[1]
        error = np.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
        assert result.difference[f] == pytest.approx(case[0].mean() - case[1].mean())
        assert result.standard_error[f] == pytest.approx(error, rel=1e-12)
        z = result.difference[f] / error
        assert result.high[f] - result.low[f] == pytest.approx(2 * 1.959963985 * error)
        assert result.p_value[f] == pytest.approx(two_sided(z), rel=1e-9)


def two_sided(z):
    from scipy.stats import norm

    return 2 * norm.sf(abs(z))


@pytest.mark.parametrize(
    ("values", "column"),
    [
        ([1, 2, 3, 4], [0, 0, 1, 1]),  # AUC 1
        ([1, 2, 3, 4], [1, 1, 0, 0]),  # AUC 0
        ([1, 1, 1, 1], [1, 1, 0, 0]),  # no order at all
        ([1, 3, 2, 4], [0, 0, 0, 1]),  # one case
        ([1, 3, 2, 4], [0, 1, 1, 1]),  # one control
    ],
)
def test_delong_has_no_interval_where_no_error_can_be_estimated(values, column):
    values, column = np.array([values], float).T, np.array(column, np.int8)
    result = delong(values, column)
    assert not np.isnan(result.auc).any()
    assert np.isnan([result.standard_error, result.low, result.high]).all()
    same = delong_difference(values, 2 * values, column)
    assert same.difference[0] == 0
    assert np.isnan([same.standard_error, same.low, same.high, same.p_value]).all()


def test_delong_intervals_hold_the_truth_as_often_as_they_say():
    # AUC of N(1, 1) against N(0, 1) is Phi(1 / sqrt 2). 600 cohorts; the band is what
    # 99.9 % of binomial draws at .95 keep to, .029, and .01 for the normal approximation.
    rng = np.random.default_rng(9)
    column = np.repeat([1, 0], [60, 240]).astype(np.int8)
    values = rng.normal(size=(300, 600)) + (column == 1)[:, None]
    result = delong(values, column)
    truth = 0.7602499389065233
    covered = ((result.low < truth) & (truth < result.high)).mean()
    assert abs(covered - 0.95) < 0.039
