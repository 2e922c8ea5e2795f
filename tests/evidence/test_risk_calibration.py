"""Simulation-based calibration of the risk model, and what its rank tests can see."""

from itertools import islice

import numpy as np
import pytest

from benchmarks import risk_calibration
from benchmarks.risk_calibration import (
    LEVELS,
    PREVALENCE_SD,
    QUANTITIES,
    SMALLEST_P,
    calibration_of,
    chi_square_p,
    coverage_band,
    distance_p,
    draw_constrained,
    draw_table,
    fit_laplace,
    holm,
    model_of,
    patterns,
    ranks_of,
    replications,
)
from phenokit.evidence.laplace import fit_nested_laplace


def ranks_of_a_binomial(n, *, too_many=0, narrower=1.0):
    """Ranks of a uniform chance under its beta posterior from 20 trials, or a wrong one."""
    rng = np.random.default_rng(0)
    chance = rng.random(n)
    hits = rng.binomial(20, chance)
    draws = rng.beta(hits + 1 + too_many, 20 - hits + 1, (63, n))
    middle = (hits + 1) / 22
    return ranks_of(chance, middle + narrower * (draws - middle), rng)


# --- the rank tests -------------------------------------------------------------------


def test_ranks_of_a_right_posterior_are_uniform():
    ranks = ranks_of_a_binomial(1_000)
    assert set(np.unique(ranks)) == set(range(64))
    assert chi_square_p(ranks) > 0.05
    assert distance_p(ranks, np.random.default_rng(0)) > 0.05


@pytest.mark.parametrize(
    "wrong", [{"too_many": 1}, {"narrower": 0.8}], ids=["off by one", "over-confident"]
)
def test_a_thousand_replications_catch_a_wrong_posterior_that_a_hundred_miss(wrong):
    assert chi_square_p(ranks_of_a_binomial(1_000, **wrong)) < 1e-14
    assert chi_square_p(ranks_of_a_binomial(100, **wrong)) > SMALLEST_P


def test_a_rank_among_equal_draws_is_any_of_them():
    rng = np.random.default_rng(0)
    draws = np.full((63, 4_000), 1.0)
    draws[:21] = 0.0
    ranks = ranks_of(np.ones(4_000), draws, rng)
    assert set(np.unique(ranks)) == set(range(21, 64))
    assert ranks.mean() == pytest.approx(42, abs=4 * 12.4 / np.sqrt(4_000))


def test_holm_multiplies_by_what_is_left():
    p = np.array([0.04, 0.01, 0.9, 0.015])
    np.testing.assert_allclose(holm(p), [0.08, 0.04, 0.9, 0.045])


def test_the_band_of_coverage_is_the_published_one():
    bands = np.array([coverage_band(level, 2_000) for level in LEVELS])
    published = [(0.463, 0.537), (0.770, 0.829), (0.9335, 0.9655)]
    np.testing.assert_allclose(bands, published, atol=0.0011)


# --- the simulator --------------------------------------------------------------------


@pytest.mark.parametrize("prevalence", sorted(PREVALENCE_SD))
def test_the_constrained_prior_has_the_stated_prevalence(prevalence):
    rng = np.random.default_rng(1)
    sd = PREVALENCE_SD[prevalence]
    features, patients = patterns()
    model = model_of(np.zeros((8, 3)), prevalence)
    pihat = [
        patients @ model.probabilities(beta[None], np.array([sigma]), features).case[:, 0]
        for beta, sigma in islice(draw_constrained(prevalence, rng), 300)
    ]
    apart = (np.array(pihat) / patients.sum() - prevalence) / sd
    assert np.abs(apart).max() < 4
    if prevalence == 0.5:  # there the prior of the prevalence is flat over +-3 sd
        assert apart.mean() == pytest.approx(0, abs=4 / np.sqrt(300))
        assert apart.std() == pytest.approx(1, abs=4 / np.sqrt(600))


def test_a_table_has_the_frequencies_of_the_model():
    rng = np.random.default_rng(2)
    beta, sigma = np.array([-1.0, 0.5, 0, -0.5, 1.0, 0.7]), 2.0
    counts = np.mean([draw_table(beta, sigma, rng) for _ in range(400)], axis=0)
    features, patients = patterns()
    np.testing.assert_allclose(counts.sum(axis=1), patients)
    z = rng.uniform(0, sigma, 400_000)
    for cell in (0, 7):
        a, d = features[cell] @ beta[:4], features[cell, :2] @ beta[4:]
        case, tested = (1 / (1 + np.exp(-u)) for u in (a + z, a + z + d))
        expected = np.array([(case * tested).mean(), ((1 - case) * tested).mean()])
        expected = patients[cell] * np.r_[expected, 1 - tested.mean()]
        error = np.sqrt(expected / 400)
        assert (np.abs(counts[cell] - expected) < 4 * error).all()


# --- the fits -------------------------------------------------------------------------


def assert_calibrated(records):
    found = calibration_of(records)
    shares = {q: p for q, p in zip(QUANTITIES, found.chi_square, strict=True) if p < 0.01}
    assert found.smallest > SMALLEST_P, shares
    bands = np.array([coverage_band(level, found.n) for level in LEVELS])
    assert (found.coverage >= bands[:, 0]).all()
    assert (found.coverage <= bands[:, 1]).all()


@pytest.mark.slow
def test_a_fit_that_forgets_the_prevalence_is_caught(monkeypatch):
    def forgetful(model, fit, n_draws, rng):
        free = model.without_prevalence()
        return fit_laplace(free, fit_nested_laplace(free), n_draws, rng)

    monkeypatch.setattr(risk_calibration, "fit_laplace", forgetful)
    assert calibration_of(list(replications(0.5, 100, seed=1))).smallest < SMALLEST_P


@pytest.mark.slow
@pytest.mark.nightly
def test_the_nested_laplace_fit_is_calibrated():
    assert_calibrated(list(replications(0.5, 2_000, seed=1)))


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.parametrize("prevalence", [0.001, 0.999])
def test_the_nested_laplace_fit_is_calibrated_where_nobody_or_everybody_is_a_case(
    prevalence,
):
    # 4,000 draws reach too few of the far tail there: 92.3 % of the prevalences were
    # inside their 95 % interval
    assert_calibrated(list(replications(prevalence, 1_000, seed=1, n_draws=16_000)))


@pytest.mark.slow
@pytest.mark.nightly
def test_the_sampler_is_calibrated():
    assert_calibrated(list(replications(0.5, 200, seed=1, engine="nuts")))
