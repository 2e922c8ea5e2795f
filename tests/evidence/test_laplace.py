"""Nested Laplace fits: a normal posterior exactly, and the reference posteriors."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import norm

from phenokit.evidence import laplace
from phenokit.evidence.laplace import draw_weighted, fit_nested_laplace


class Normal:
    """Coefficients N(shape · direction, 1) with shape ~ N(3, 0.5); two of them."""

    dimension = 2
    shape_bounds = (0.0, np.inf)
    start = 5

    def grid(self):
        return np.arange(0.05, 3.0, 0.25)  # ends where half of the mass is yet to come

    def starting_point(self):
        return self.start, np.zeros(2)

    def mean(self, shape):
        return np.stack([shape, -(shape**2)], axis=-1)

    def derivatives(self, coefficients, shape):
        apart = coefficients - self.mean(shape)
        value = -0.5 * apart @ apart + norm.logpdf(shape, 3, 0.5)
        return value, -apart, -np.eye(2)

    def evaluate(self, coefficients, shape):
        return SimpleNamespace()

    def log_density(self, coefficients, shape, evaluated):
        apart = coefficients - self.mean(shape)
        return -0.5 * (apart**2).sum(axis=1) + norm.logpdf(shape, 3, 0.5)


class Unbounded(Normal):
    """The same, where the shape may be negative, on a grid that ends within the mass."""

    shape_bounds = (-np.inf, np.inf)
    start = 3

    def grid(self):
        return np.arange(2.9, 4.5, 0.05)


def assert_drawn(reference, name, variant, model, drawn):
    of = (drawn.coefficients, drawn.shape, drawn.evaluated)
    named = reference.by_number(model, *of)
    reference.assert_reference(name, variant, named, drawn.smoothed.weights)


def test_a_normal_is_found_and_the_grid_widened_to_hold_it():
    fit = fit_nested_laplace(Normal())
    assert fit.shape[-1] > 4
    drawn = draw_weighted(Normal(), fit, 4_000, np.random.default_rng(1))
    weights = drawn.smoothed.weights
    assert drawn.smoothed.reliable(3_000.0)
    mean = weights @ drawn.shape
    assert mean == pytest.approx(3, abs=4 * 0.5 / np.sqrt(4_000))
    assert np.sqrt(weights @ (drawn.shape - mean) ** 2) == pytest.approx(0.5, rel=0.05)
    assert weights @ drawn.coefficients[:, 1] == pytest.approx(-9.25, abs=0.25)


def test_a_shape_without_a_lower_bound_is_no_reason_to_look_at_minus_infinity(monkeypatch):
    monkeypatch.setattr(laplace, "MOST_WIDENED", 3)
    fit = fit_nested_laplace(Unbounded())
    assert fit.mass[0] > laplace.NEAR_BOUND
    assert np.isfinite(fit.shape).all()


@pytest.mark.parametrize("variant", ["both", "exper"])
def test_the_rare_outcome_has_the_reference_posterior(variant, risk_reference):
    model = risk_reference.model_of(risk_reference.rare, variant)
    fit = fit_nested_laplace(model)
    drawn = draw_weighted(model, fit, 4_000, np.random.default_rng(1))
    assert drawn.smoothed.k_hat < 0.5
    assert_drawn(risk_reference, risk_reference.rare, variant, model, drawn)


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["both", "none"])
def test_the_published_regime_has_the_reference_posterior(variant, risk_reference):
    model = risk_reference.model_of(risk_reference.published, variant)
    fit = fit_nested_laplace(model, n_points=28)
    drawn = draw_weighted(model, fit, 4_000, np.random.default_rng(1))
    assert drawn.smoothed.reliable()
    assert_drawn(risk_reference, risk_reference.published, variant, model, drawn)


def test_without_the_importance_weights_the_prevalence_is_off(risk_reference):
    model = risk_reference.model_of(risk_reference.rare, "exper")
    fit = fit_nested_laplace(model)
    drawn = draw_weighted(model, fit, 4_000, np.random.default_rng(1))
    weights = drawn.smoothed.weights
    pihat = drawn.evaluated.prevalence
    assert abs(pihat.mean() - weights @ pihat) > 2 * pihat.std() / np.sqrt(4_000)
