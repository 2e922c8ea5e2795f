"""Firth's penalised likelihood: a closed form, firthmodels, and its own laws."""

import numpy as np
import pytest
from firthmodels import FirthLogisticRegression
from scipy.special import expit
from scipy.stats import chi2

from phenokit.evidence.firth import FirthFits, fit_firth
from phenokit.evidence.logistic import Design, design_of


def intercept_of(n: int) -> Design:
    return Design(("intercept",), np.ones((n, 1)))


def exposed_of(cases: int, controls: int, n_cases: int, n_controls: int) -> np.ndarray:
    """A column of 0/1: the first of the cases and of the controls are exposed."""
    column = np.zeros(n_cases + n_controls)
    column[:cases] = column[n_cases : n_cases + controls] = 1
    return column


@pytest.fixture(scope="module")
def rare():
    """60 patients of which 14 are cases, two covariates, and exposures of all kinds."""
    rng = np.random.default_rng(12)
    covariates = np.column_stack([rng.normal(60, 12, 60), rng.integers(0, 2, 60)])
    design = design_of(("age", "sex"), covariates.astype(float))
    exposures = rng.normal(size=(60, 6))
    exposures[:, 3:] = exposures[:, 3:] > 0.9
    is_case = rng.random(60) < expit(-1.3 + 0.9 * exposures[:, 0] + 1.5 * exposures[:, 3])
    exposures[:, 5] = 0
    exposures[np.flatnonzero(is_case)[:4], 5] = 1  # separated: no exposed control
    return design, exposures, is_case


def test_a_thousand_tables_with_zeros_have_the_estimate_of_the_closed_form():
    rng = np.random.default_rng(1)
    for _ in range(10):
        k, m = int(rng.integers(5, 60)), int(rng.integers(20, 300))
        a, b = rng.integers(0, k + 1, 100), rng.integers(0, m // 3, 100)
        a[:30], b[30:60] = 0, 0  # empty cells in half of them
        a[(a == 0) & (b == 0)] = 1  # an exposure that nobody has is none
        exposed = np.column_stack(
            [exposed_of(*cells, k, m) for cells in zip(a, b, strict=True)]
        )
        fits = fit_firth(intercept_of(k + m), exposed, np.arange(k + m) < k)
        expected = np.log((a + 0.5) * (m - b + 0.5) / ((b + 0.5) * (k - a + 0.5)))
        assert fits.converged.all()
        np.testing.assert_allclose(fits.log_odds_ratio, expected, atol=1e-7)
        assert (fits.low < expected).all()
        assert (fits.high > expected).all()


@pytest.mark.parametrize(("cases", "controls"), [(1, 0), (0, 1), (2, 0), (1, 1)])
def test_an_exposure_of_one_or_two_patients_has_an_estimate(cases, controls):
    column = exposed_of(cases, controls, 20, 300)[:, None]
    fits = fit_firth(intercept_of(320), column, np.arange(320) < 20)
    odds = (cases + 0.5) * (300.5 - controls) / ((controls + 0.5) * (20.5 - cases))
    assert fits.converged.all()
    assert fits.log_odds_ratio[0] == pytest.approx(np.log(odds), abs=1e-7)


def test_fit_firth_agrees_with_firthmodels_given_covariates(rare):
    design, exposures, is_case = rare
    fits = fit_firth(design, exposures, is_case)
    for k in range(exposures.shape[1]):
        columns = np.column_stack([design.values[:, 1:], exposures[:, k]])
        model = FirthLogisticRegression(backend="numpy", max_iter=500, gtol=1e-7, xtol=1e-7)
        model.fit(columns, is_case.astype(int)).lrt(2)
        interval = model.conf_int(method="pl", features=2, max_iter=500, tol=1e-9)[2]
        assert fits.log_odds_ratio[k] == pytest.approx(model.coef_[2], abs=1e-6)
        p = chi2.sf(fits.likelihood_ratio[k], 1)
        assert p == pytest.approx(model.lrt_pvalues_[2], rel=1e-6)
        assert [fits.low[k], fits.high[k]] == pytest.approx(interval, abs=1e-6)


def test_the_standard_error_is_that_of_the_information_at_the_estimate(rare):
    design, exposures, is_case = rare
    fits = fit_firth(design, exposures, is_case)
    columns = np.column_stack([design.values[:, 1:], exposures[:, 0]])
    model = FirthLogisticRegression(backend="numpy", max_iter=500, gtol=1e-7, xtol=1e-7)
    p = model.fit(columns, is_case.astype(int)).predict_proba(columns)[:, 1]
    whole = np.column_stack([np.ones(len(p)), columns])
    information = whole.T @ (whole * (p * (1 - p))[:, None])
    expected = np.sqrt(np.linalg.inv(information)[-1, -1])
    assert fits.standard_error[0] == pytest.approx(expected, rel=1e-6)


def test_a_batch_equals_one_at_a_time(rare):
    design, exposures, is_case = rare
    together = fit_firth(design, exposures, is_case)
    for k in range(exposures.shape[1]):
        alone = fit_firth(design, exposures[:, [k]], is_case)
        for name in FirthFits.__dataclass_fields__:
            one, other = getattr(alone, name)[0], getattr(together, name)[k]
            assert one == pytest.approx(other, rel=1e-9, abs=1e-9), name


def test_swapping_cases_and_controls_changes_the_sign_alone(rare):
    design, exposures, is_case = rare
    fits, swapped = (fit_firth(design, exposures, y) for y in (is_case, ~is_case))
    np.testing.assert_allclose(fits.log_odds_ratio, -swapped.log_odds_ratio, atol=1e-7)
    np.testing.assert_allclose(fits.low, -swapped.high, atol=1e-6)
    np.testing.assert_allclose(fits.likelihood_ratio, swapped.likelihood_ratio, atol=1e-9)


def test_a_narrower_confidence_lies_within_a_wider_one(rare):
    wide, narrow = (fit_firth(*rare, confidence=share) for share in (0.95, 0.5))
    assert (wide.low < narrow.low).all()
    assert (narrow.high < wide.high).all()


def test_complete_separation_by_a_number_keeps_estimate_and_p_finite():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(80, 2))
    x[:, 1] = rng.normal(size=80)
    is_case = x[:, 0] > 0.8
    fits = fit_firth(intercept_of(80), x, is_case)
    assert fits.converged.all()
    assert np.isfinite(fits.log_odds_ratio).all()
    assert 0 < fits.low[0] < fits.log_odds_ratio[0] < fits.high[0]
    assert chi2.sf(fits.likelihood_ratio[0], 1) < 1e-10
