"""Null models of a block of phecodes, and exact fits of a block of exposures."""

import numpy as np
import pytest
from scipy.special import expit
from statsmodels.api import Logit

from phenokit.cohort import PhecodeStatus
from phenokit.evidence.logistic import (
    StatusBlock,
    dependent_columns,
    design_of,
    fit_exposures,
    fit_null,
    row_blocks,
    sigmoid_in_place,
)
from phenokit.evidence.score_test import score_test, standardise


def status_of(cases: np.ndarray, excluded: np.ndarray | None = None) -> PhecodeStatus:
    """From truth values, shape ``(patient, phecode)``."""
    excluded = np.zeros_like(cases) if excluded is None else excluded
    return PhecodeStatus(
        tuple(f"{j}" for j in range(cases.shape[1])),
        len(cases),
        tuple(np.flatnonzero(c).astype(np.int32) for c in cases.T),
        tuple(np.flatnonzero(e).astype(np.int32) for e in excluded.T),
    )


@pytest.fixture(scope="module")
def rows():
    """1,200 patients, two covariates, and eight phecodes with exclusions."""
    rng = np.random.default_rng(2)
    values = np.column_stack([rng.normal(60, 10, 1200), rng.integers(0, 2, 1200)])
    base = rng.uniform(-3, 0, 8) + 0.04 * (values[:, [0]] - 60) + values[:, [1]]
    cases = rng.random((1200, 8)) < expit(base)
    excluded = (rng.random((1200, 8)) < 0.1) & ~cases
    return design_of(("age", "sex"), values.astype(float)), status_of(cases, excluded)


# --- null models ------------------------------------------------------------------------


def test_fit_null_agrees_with_statsmodels(rows):
    design, status = rows
    fits = fit_null(design, StatusBlock(status))
    assert fits.converged.all()
    for j in range(len(status)):
        column = status.column(j)
        keep = column != 2
        expected = Logit(column[keep], design.values[keep]).fit(disp=0, tol=1e-13).params
        np.testing.assert_allclose(fits.coefficients[:, j], expected, rtol=1e-7)


def test_a_phecode_that_a_covariate_separates_leaves_the_others_as_they_are(rows):
    design, status = rows
    alone = fit_null(design, StatusBlock(status))
    is_man = design.values[:, 2] > 0
    only_men = np.flatnonzero(is_man & (np.arange(1200) % 4 == 0)).astype(np.int32)
    with_men = PhecodeStatus(
        (*status.phecodes, "men"),
        1200,
        (*status.case_rows, only_men),
        (*status.excluded_rows, only_men[:0]),
    )
    fits = fit_null(design, StatusBlock(with_men))
    assert fits.converged.all()
    np.testing.assert_allclose(fits.coefficients[:, :-1], alone.coefficients, atol=1e-9)


def test_extreme_covariates_do_not_send_a_null_model_astray():
    # Plain Newton steps diverge in a quarter of these; each phecode of a block has the
    # numbers that it has alone.
    rng = np.random.default_rng(0)
    values = np.column_stack([rng.standard_t(1.2, 3000), rng.lognormal(0, 2, 3000)])
    design = design_of(("a", "b"), values)
    spread = rng.normal(size=(1, 30)) * 0.5 * design.values[:, [2]]
    cases = rng.random((3000, 30)) < expit(rng.uniform(-5, 0, 30) + spread)
    status = status_of(cases[:, cases.sum(axis=0) > 20])
    fits = fit_null(design, StatusBlock(status))
    assert fits.converged.all()
    for j in range(len(status)):
        alone = fit_null(design, StatusBlock(status.at_phecodes([j])))
        np.testing.assert_allclose(
            alone.coefficients[:, 0], fits.coefficients[:, j], rtol=1e-6, atol=1e-8
        )
        gradient = design.values.T @ (
            (status.column(j) == 1) - expit(design.values @ alone.coefficients[:, 0])
        )
        np.testing.assert_allclose(gradient, 0, atol=1e-4)


# --- columns ----------------------------------------------------------------------------


def test_a_column_that_repeats_others_is_left_out_where_it_does():
    rng = np.random.default_rng(5)
    a, sex = rng.normal(size=400), rng.integers(0, 2, 400).astype(float)
    design = design_of(("a", "sex", "b"), np.column_stack([a, sex, 3 * a - 2]))
    cases = np.zeros((400, 3), dtype=bool)
    excluded = np.zeros((400, 3), dtype=bool)
    excluded[:, 1] = sex == 0
    left_out = dependent_columns(design, status_of(cases, excluded))
    assert left_out == [(3,), (2, 3), (3,)]  # sex does not vary among men


def test_a_design_has_an_intercept_and_columns_of_mean_0_and_sd_1():
    design = design_of(("x",), np.array([[1.0], [2.0], [6.0]]))
    assert design.names == ("intercept", "x")
    np.testing.assert_allclose(design.values.mean(axis=0), [1, 0], atol=1e-15)
    np.testing.assert_allclose(design.values.std(axis=0), [0, 1])


@pytest.mark.parametrize(("n_rows", "width"), [(0, 5), (1, 1), (10_000, 3), (99_999, 700)])
def test_blocks_of_rows_cover_all_rows_once(n_rows, width):
    blocks = row_blocks(n_rows, width)
    covered = [row for block in blocks for row in range(block.start, block.stop)]
    assert covered == list(range(n_rows))


def test_a_status_block_finds_its_cells_in_every_block_of_rows(rows):
    _, status = rows
    block = StatusBlock(status)
    whole = np.stack([status.column(j) for j in range(len(status))], axis=1)
    for part in (slice(0, 1), slice(100, 350), slice(1199, 1200)):
        cells = whole[part].ravel()
        assert block.cases(part).tolist() == np.flatnonzero(cells == 1).tolist()
        assert block.excluded(part).tolist() == np.flatnonzero(cells == 2).tolist()


def test_the_sigmoid_is_right_at_its_ends():
    with np.errstate(over="ignore"):
        found = sigmoid_in_place(np.array([-1000.0, -40.0, 0.0, 40.0, 1000.0]))
    np.testing.assert_allclose(found, expit([-1000, -40, 0, 40, 1000]), rtol=1e-14)


# --- exact fits -------------------------------------------------------------------------


def test_exposures_in_one_pass_have_the_numbers_that_each_has_alone(rows):
    design, status = rows
    rng = np.random.default_rng(1)
    values = rng.normal(size=(1200, 6)) + 0.5 * design.values[:, [1]]
    together = fit(design, values, status, 3)
    for k in range(6):
        alone = fit(design, values[:, [k]], status, 3)
        for name in ("log_odds_ratio", "standard_error", "likelihood_ratio"):
            one, other = getattr(alone, name)[0], getattr(together, name)[k]
            assert one == pytest.approx(other, rel=1e-9)


def fit(design, values, status, phecode):
    """Exact fits of some exposures and one phecode, started as in a scan."""
    one = StatusBlock(status.at_phecodes([phecode]))
    null = fit_null(design, one)
    exposures = standardise(values, np.arange(len(values)))
    scores = score_test(design, exposures, one, null)
    return fit_exposures(
        design,
        exposures.block(slice(0, len(values))),
        case_rows=one.case_rows[0],
        excluded_rows=one.excluded_rows[0],
        start=scores.start(null, 0, np.arange(values.shape[1])),
    )


def test_many_excluded_rows_are_taken_out_without_a_change(rows):
    design, status = rows
    values = np.random.default_rng(3).normal(size=(1200, 2))
    column = status.column(2)
    column[(column == 0) & (np.arange(1200) % 2 == 0)] = 2  # about half
    few = status_of((column == 1)[:, None], (column == 2)[:, None])
    keep = np.flatnonzero(column != 2)
    inside = status_of((column[keep] == 1)[:, None])
    scaled = standardise(values, np.arange(1200)).block(slice(0, 1200))
    for k in range(2):
        expected = Logit(
            inside.column(0), np.column_stack([design.values[keep], scaled[keep, k]])
        ).fit(disp=0, tol=1e-13)
        found = fit(design, values, few, 0)
        assert found.log_odds_ratio[k] == pytest.approx(expected.params[-1], rel=1e-7)


def test_separation_is_no_estimate(rows):
    design, status = rows
    separating = (status.column(0) == 1).astype(float)[:, None]
    found = fit(design, separating, status, 0)
    assert found.separated.all()
    assert not found.converged.any()
