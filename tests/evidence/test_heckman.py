"""Heckman's model: its gradient, its limit, and recovery of what was simulated."""

import numpy as np
import pytest
from scipy.stats import multivariate_normal, norm

from phenokit.evidence.heckman import HeckmanModel
from phenokit.evidence.laplace import draw_weighted, fit_nested_laplace

BETA_Y, SIGMA, RHO = np.array([1.0, 0.8, -0.5]), 2.0, 1.0


@pytest.fixture(scope="module")
def simulated():
    """3,000 patients; x2 affects testing through risk alone."""
    rng = np.random.default_rng(1)
    design = np.column_stack([np.ones(3_000), rng.normal(size=(3_000, 2))])
    beta_t = np.array([0.5, 0.7, RHO / SIGMA**2 * BETA_Y[2]])
    z, u = rng.multivariate_normal([0, 0], [[SIGMA**2, RHO], [RHO, 1]], 3_000).T
    y = design @ BETA_Y + z
    tested = design @ beta_t + u > 0
    return HeckmanModel(design, tested, np.where(tested, y, 0.0), (0, 1)), y


def test_gradient_and_hessian_are_those_of_central_differences(simulated):
    model = HeckmanModel(**{**vars(simulated[0]), "prevalence": 0.9, "weight": 200.0})
    at = model.starting_point()[1] + 0.1
    value, gradient, hessian = model.derivatives(at, 0.4)
    moves = 1e-5 * np.eye(model.dimension)
    ahead = np.array([model.derivatives(at + move, 0.4)[0] for move in moves])
    behind = np.array([model.derivatives(at - move, 0.4)[0] for move in moves])
    slope = (ahead - behind) / 2e-5
    np.testing.assert_allclose(gradient, slope, atol=1e-7 * np.abs(slope).max())
    assert np.linalg.eigvalsh(hessian).max() < 0
    many = model.evaluate(at[None], np.array([0.4]))
    assert value == pytest.approx(model.log_density(at[None], np.array([0.4]), many)[0])


def test_a_tested_row_has_the_density_of_the_bivariate_normal():
    design, theta = np.array([[1.0]]), np.array([0.3, 0.2, np.log(1.5)])
    model = HeckmanModel(design, np.array([True]), np.array([1.1]), (0,))
    covariance = np.array([[1.5**2, 0.4 * 1.5], [0.4 * 1.5, 1]])
    u = np.linspace(-0.2, 12, 40_001)  # tested where u is above -0.2
    points = np.column_stack([np.full_like(u, 1.1 - 0.3), u])
    joint = multivariate_normal.pdf(points, cov=covariance)  # pyright: ignore[reportArgumentType] - of scipy's stubs
    expected = np.log(np.trapezoid(joint, u))
    found = model.evaluate(theta[None], np.array([0.4])).log_likelihood[0]
    assert found == pytest.approx(expected, abs=1e-6)


def test_the_mean_of_everyone_is_that_of_tested_and_untested(simulated):
    model, _ = simulated
    theta = np.array([[*BETA_Y, 0.5, 0.7, np.log(SIGMA)]])
    shape = np.array([RHO / SIGMA])
    by_population = {
        population: model.mean_outcome(theta, shape, model.features, population)[:, 0]
        for population in ("all", "tested", "untested")
    }
    tested = norm.cdf(model.predictors(theta[0], shape[0], model.features)[1])
    mixed = tested * by_population["tested"] + (1 - tested) * by_population["untested"]
    np.testing.assert_allclose(mixed, by_population["all"], atol=1e-12)


def test_simulated_parameters_lie_in_their_intervals(simulated):
    model, y = simulated
    fit = fit_nested_laplace(model)
    drawn = draw_weighted(model, fit, 1_000, np.random.default_rng(2))
    assert drawn.smoothed.reliable()
    weights = drawn.smoothed.weights
    named = np.column_stack([drawn.coefficients, drawn.shape])
    truth = [*BETA_Y, 0.5, 0.7, np.log(SIGMA), RHO / SIGMA]
    mean = weights @ named
    sd = np.sqrt(weights @ (named - mean) ** 2)
    assert np.abs((mean - truth) / sd).max() < 3.5  # seven quantities, one data set
    untested = weights @ drawn.evaluated.risk_untested
    assert untested == pytest.approx(y[~model.tested].mean(), abs=0.5)
    assert y[model.tested].mean() - untested > 1  # what ignoring selection would miss
