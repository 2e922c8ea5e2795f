"""The score test: its closed form, its robust variance, and what is permuted."""

import numpy as np
import pytest
from scipy.special import expit

from phenokit.cohort import PhecodeStatus
from phenokit.evidence.logistic import Design, StatusBlock, design_of, fit_null
from phenokit.evidence.score_test import (
    clustered_score_test,
    permute_within,
    score_test,
    standardise,
)


def block_of(*columns: np.ndarray) -> StatusBlock:
    rows = tuple(np.flatnonzero(column).astype(np.int32) for column in columns)
    names = tuple(f"{j}" for j in range(len(columns)))
    empty = (np.zeros(0, dtype=np.int32),) * len(columns)
    return StatusBlock(PhecodeStatus(names, len(columns[0]), rows, empty))


def intercept_of(n: int) -> Design:
    return Design(("intercept",), np.ones((n, 1)))


def everyone(values: np.ndarray):
    return standardise(values, np.arange(len(values)))


def test_without_covariates_z_is_the_correlation_times_the_root_of_n():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(500, 3)), rng.random((2, 500)) < 0.2
    block, design = block_of(*y), intercept_of(500)
    z = score_test(design, everyone(x), block, fit_null(design, block)).z
    expected = [[np.corrcoef(x[:, k], y[j])[0, 1] for j in range(2)] for k in range(3)]
    np.testing.assert_allclose(z, np.sqrt(500) * np.array(expected), rtol=1e-9)


@pytest.mark.parametrize(("n_exposures", "n_phecodes"), [(2, 7), (7, 2)])
def test_both_ways_to_multiply_give_the_same(n_exposures, n_phecodes):
    rng = np.random.default_rng(2)
    design = design_of(("a", "b"), rng.normal(size=(400, 2)))
    x, y = rng.normal(size=(400, n_exposures)), rng.random((n_phecodes, 400)) < 0.3
    block = block_of(*y)
    scores = score_test(design, everyone(x), block, fit_null(design, block))
    for j in range(n_phecodes):
        one = block_of(y[j])
        alone = score_test(design, everyone(x), one, fit_null(design, one))
        np.testing.assert_allclose(scores.z[:, j], alone.z[:, 0], rtol=1e-8)


def test_an_exposure_that_the_covariates_determine_has_no_information():
    rng = np.random.default_rng(3)
    a = rng.normal(size=300)
    design, block = design_of(("a",), a[:, None]), block_of(rng.random(300) < 0.3)
    x = np.column_stack([5 - 2 * a, np.ones(300), a + 1e-3 * rng.normal(size=300)])
    scores = score_test(design, everyone(x), block, fit_null(design, block))
    assert np.isnan(scores.information[:, 0]).tolist() == [True, True, False]


def test_the_robust_variance_is_the_sum_of_squares_over_patients():
    rng = np.random.default_rng(4)
    clusters = np.sort(rng.integers(0, 120, 400))
    x, y = rng.normal(size=(400, 1)), rng.random(400) < 0.3
    block, design = block_of(y), intercept_of(400)
    null = fit_null(design, block)
    ids = np.unique(clusters, return_inverse=True)[1]
    scores = clustered_score_test(design, everyone(x), block, null, ids)
    scaled = (x[:, 0] - x.mean()) / x.std()
    part = scaled * (y - y.mean())  # without covariates x is centred already
    expected = np.bincount(ids, weights=part)
    assert scores.score[0, 0] == pytest.approx(part.sum())
    assert scores.information[0, 0] == pytest.approx((expected**2).sum())


def test_the_robust_test_keeps_its_level_where_rows_of_a_patient_are_alike():
    # Five rows of each of 150 patients, exposure and outcome alike within a patient: the
    # plain test would reject half of the time. Binomial(400, 0.05) is above 35 or below
    # 8 once in a thousand.
    rng = np.random.default_rng(5)
    ids = np.repeat(np.arange(150), 5)
    x = rng.normal(size=(150, 400))[ids]
    block = block_of((rng.random(150) < 0.3)[ids])
    design = intercept_of(len(ids))
    null = fit_null(design, block)
    robust = clustered_score_test(design, everyone(x), block, null, ids).z
    plain = score_test(design, everyone(x), block, null).z
    assert 8 <= (np.abs(robust) > 1.96).sum() <= 35
    assert (np.abs(plain) > 1.96).sum() > 100


def test_a_permutation_leaves_every_stratum_its_rows():
    rng = np.random.default_rng(6)
    strata = rng.integers(0, 4, 200)
    order = permute_within(strata, rng)
    assert sorted(order) == list(range(200))
    assert (strata[order] == strata).all()
    assert (order != np.arange(200)).mean() > 0.9


def test_a_standardised_exposure_has_mean_0_and_sd_1_unless_it_is_0_and_1():
    values = np.array([[1e9 + 1, 0], [1e9 + 2, 1], [1e9 + 6, 1], [0, 0]])
    found = standardise(values, np.array([0, 1, 2]))
    block = found.block(slice(0, 3))
    np.testing.assert_allclose(block[:, 0].mean(), 0, atol=1e-9)
    np.testing.assert_allclose(block[:, 0].std(), 1)
    np.testing.assert_allclose(block[:, 1] * 3, [-2, 1, 1])
    assert found.scale[1] == 1


def test_no_rows_are_no_exposure():
    found = standardise(np.ones((4, 2), dtype=np.float32), np.zeros(0, dtype=np.int64))
    assert found.mean.tolist() == [0, 0]
    assert found.scale.tolist() == [1, 1]


def test_permuted_exposures_move_together():
    values = np.arange(8.0).reshape(4, 2)
    moved = everyone(values).permuted(np.array([3, 0, 1, 2]))
    np.testing.assert_allclose(
        moved.block(slice(0, 4)), everyone(values).block(slice(0, 4))[[3, 0, 1, 2]]
    )


def test_z_of_a_strong_effect_is_that_of_the_score_and_not_of_wald():
    rng = np.random.default_rng(7)
    x = rng.normal(size=(4000, 1))
    y = rng.random(4000) < expit(3 * x[:, 0])
    design, block = intercept_of(4000), block_of(y)
    scores = score_test(design, everyone(x), block, fit_null(design, block))
    assert scores.z[0, 0] == pytest.approx(
        np.sqrt(4000) * np.corrcoef(x[:, 0], y)[0, 1], rel=1e-9
    )
    assert scores.one_step[0, 0] < 2.9  # a first guess, not the estimate
