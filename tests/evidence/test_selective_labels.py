"""Probabilities of the selective-labels model: exact values, identities and derivatives."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import expit

from phenokit.evidence.selective_labels import (
    BernoulliModel,
    aggregate,
    by_quadrature,
    choose_nodes,
    closed_derivatives,
    closed_form,
    derivatives_hold,
    event_derivatives,
    holds,
    nodes_of,
    unobserved_mean,
)

FOLDER = Path(__file__).parents[1] / "reference/risk"
POINTS = json.loads((FOLDER / "ds3_loglik_points.json").read_text())


@pytest.fixture(scope="module")
def rare(risk_reference):
    return risk_reference.model_of(risk_reference.rare, "both")


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("times", [1, 2], ids=["closed form", "quadrature"])
def test_reference_points_hold_to_1e_8(rare, point, times):
    free = replace(rare, free=(0, 1, 2, 3, 4))
    coefficients = np.array([point["beta_Y"] + point["beta_Delta"]], dtype=float)
    found = free.evaluate(coefficients, np.array([point["sigma"]]), times=times)
    assert abs(found.log_likelihood[0] - point["loglik"]) < 1e-8
    for name in ("prevalence", "risk_tested", "risk_untested"):
        assert abs(getattr(found, name)[0] - point[name]) < 1e-12


def test_cells_and_rows_have_one_density(risk_reference):
    rng = np.random.default_rng(4)
    coefficients, sigma = rng.normal(0, 0.7, (20, 8)), rng.uniform(0.01, 9, 20)
    densities = []
    for distinct in (False, True):
        model = risk_reference.model_of(risk_reference.rare, "both", distinct=distinct)
        found = model.evaluate(coefficients, sigma)
        densities.append(model.log_density(coefficients, sigma, found))
    assert len(model.cells.counts) == 5_000
    np.testing.assert_allclose(*densities, rtol=0, atol=1e-8)


def test_order_and_duplication_of_rows_change_only_counts(risk_reference):
    data = risk_reference.read(risk_reference.rare)
    values = data.X.to_numpy(float)
    once = aggregate(values, data.tested, data.outcome)
    twice = np.random.default_rng(1).permutation(np.tile(np.arange(5_000), 2))
    again = aggregate(values[twice], data.tested[twice], data.outcome[twice])
    np.testing.assert_array_equal(again.features, once.features)
    np.testing.assert_array_equal(again.counts, 2 * once.counts)
    np.testing.assert_array_equal(again.features[again.cell_of_row, 1:], values[twice])


def test_many_levels_are_aggregated_as_numpy_finds_them():
    values = np.random.default_rng(2).integers(-50, 50, (400, 5)).astype(float)
    values[200:] = values[:200]
    cells = aggregate(values, np.ones(400), np.zeros(400))
    np.testing.assert_array_equal(cells.features[:, 1:], np.unique(values, axis=0))


@pytest.mark.parametrize("law", ["uniform", "hermite", "trapezium"])
@pytest.mark.parametrize("d", [-4.0, -1e-6, 0.0, 0.3, 5.0])
def test_missed_cases_are_tested_negatives_times_exp_minus_d(law, d):
    a = np.linspace(-15, 15, 31)
    nodes = nodes_of(law, 64)
    p = by_quadrature(a, np.full(31, d), 1.0, 1.7, nodes)
    np.testing.assert_allclose(p.missed, np.exp(-d + p.log_negative), rtol=1e-12)


@pytest.mark.parametrize("sigma", [0.01, 0.1, 1.0, 4.0, 9.0, 20.0])
def test_the_closed_form_is_the_integral_wherever_it_is_used(sigma):
    a, d = (each.ravel() for each in np.meshgrid(np.linspace(-60, 60, 81),
            [-12, -5, -1, -2e-5, -1e-6, 0, 1e-6, 2e-5, 1e-3, 1, 5, 12]))  # fmt: skip
    used = holds(a, d, sigma)
    assert used.mean() > 0.5
    found = closed_form(a[used], d[used], sigma)
    exact = by_quadrature(a[used], d[used], 1.0, sigma, nodes_of("uniform", 200))
    for ours, expected in zip(found[:3], exact[:3], strict=True):
        np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-9)
    np.testing.assert_allclose(found.missed, exact.missed, rtol=1e-11)


@pytest.mark.parametrize("sigma", [1e-3, 1.0, 9.0])
@pytest.mark.parametrize("event", ["positive", "negative", "untested", "case", "missed"])
def test_derivatives_in_closed_form_are_those_under_the_integral(event, sigma):
    a, d = (each.ravel() for each in np.meshgrid(np.linspace(-30, 30, 61),
            [-12, -1, -3e-3, -1e-3, 0, 3e-3, 1, 12]))  # fmt: skip
    used = derivatives_hold(a, d, sigma)
    assert used.mean() > 0.5
    exact = event_derivatives(event, a[used], d[used], 1.0, sigma, nodes_of("uniform", 64))
    for ours, expected, error in zip(
        closed_derivatives(event, a[used], d[used], sigma), exact, (1e-9, 1e-7, 1e-4),
        strict=True,
    ):  # fmt: skip
        np.testing.assert_allclose(ours, expected, rtol=0, atol=error)


@pytest.mark.parametrize(
    ("alpha", "sigma"), [(1.6, 0.5), (1.6, 0.9), (0.4, 2.0), (1.0, 4.0), (-3.0, 2.0)]
)
@pytest.mark.parametrize(("a", "d"), [(-2.0, 0.7), (-6.0, 3.0), (1.5, -2.0)])
def test_normal_unobservables_agree_with_adaptive_quadrature(alpha, sigma, a, d):
    def integrand(z):
        r = a + sigma * z
        return expit(r) * expit(alpha * r + d) * np.exp(-z * z / 2) / np.sqrt(2 * np.pi)

    expected = quad(integrand, -16, 16, epsabs=1e-16, limit=400)[0]
    nodes = choose_nodes("normal", alpha, sigma)
    found = by_quadrature(np.array([a]), np.array([d]), alpha, sigma, nodes)
    assert np.exp(found.log_positive[0]) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("kind", "sigma", "offset"),
    [("uniform", 1.3, 0.5), ("uniform", 0.01, 1e-6), ("uniform", 9.0, 0.0),
     ("normal", 0.8, 0.0), ("normal_alpha", 1.8, 0.4)],
)  # fmt: skip
def test_gradient_and_hessian_are_those_of_central_differences(rare, kind, sigma, offset):
    model = replace(rare, kind=kind)
    at = np.r_[-4.0, 0.4, 0.8, 0.1, 0.5, offset, 0, 0]
    value, gradient, hessian = model.derivatives(at, sigma)
    moves = 1e-5 * np.eye(8)
    ahead = [model.derivatives(at + move, sigma) for move in moves]
    behind = [model.derivatives(at - move, sigma) for move in moves]
    pairs = list(zip(ahead, behind, strict=True))
    slope = np.array([a[0] - b[0] for a, b in pairs]) / 2e-5
    curve = np.array([a[1] - b[1] for a, b in pairs]) / 2e-5
    np.testing.assert_allclose(gradient, slope, atol=1e-7 * np.abs(slope).max())
    np.testing.assert_allclose(hessian, curve, atol=1e-7 * np.abs(curve).max())
    many = model.evaluate(at[None], np.array([sigma]))
    density = model.log_density(at[None], np.array([sigma]), many)
    assert value == pytest.approx(density[0], abs=1e-6)


@pytest.mark.parametrize("a", [-1e4, -50.0, 50.0, 1e4])
@pytest.mark.parametrize("d", [-1e4, 0.0, 1e4])
def test_logits_of_any_size_have_finite_probabilities_and_slopes(a, d):
    model = BernoulliModel(
        aggregate(np.zeros((2, 1)), np.array([1, 0]), np.array([1.0, np.nan])),
        "uniform",
        (0,),
    )
    found = model.probabilities(
        np.array([[a, 0, d]]), np.array([2.0]), model.cells.features
    )
    assert all(np.isfinite(each).all() for each in found)
    for event in ("positive", "negative", "untested", "case"):
        parts = event_derivatives(
            event, np.array([a]), np.array([d]), 1.0, 2.0, nodes_of("uniform", 24)
        )
        assert all(np.isfinite(each).all() for each in parts)


def test_bounds_are_no_untested_case_and_every_untested_a_case(rare):
    assert rare.cells.prevalence_bounds == pytest.approx((0.0328, 0.5500), abs=5e-5)


def test_a_positive_among_the_untestable_had_much_unseen_risk():
    a, d = np.array([-6.0]), np.array([0.0])
    by_event = [
        unobserved_mean(event, a, d, steepness=1.0, spread=4.0, kind="uniform")[0]
        for event in ("untested", "negative", "positive")
    ]
    assert by_event == sorted(by_event)
    z = np.linspace(0, 4, 200_001)
    joint = expit(z - 6) ** 2
    assert by_event[2] == pytest.approx((z * joint).sum() / joint.sum(), abs=1e-4)
