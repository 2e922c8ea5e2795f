"""Pareto-smoothed weights: arviz, and their laws."""

import json
from pathlib import Path

import numpy as np
import pytest

from phenokit.evidence.psis import resample, smooth_weights, weighted_quantile

FOLDER = Path(__file__).parents[1] / "reference/risk"
ARVIZ = json.loads((FOLDER / "convergence_arviz.json").read_text())


@pytest.mark.parametrize("name", ["heavy", "light"])
def test_weights_and_k_hat_are_those_of_arviz(name):
    found = smooth_weights(np.array(ARVIZ[name]["log_weights"]))
    assert found.k_hat == pytest.approx(ARVIZ[name]["k_hat"], abs=1e-12)
    np.testing.assert_allclose(np.log(found.weights), ARVIZ[name]["smoothed"], atol=1e-12)


def test_k_hat_finds_the_tail_of_a_pareto():
    draws = np.random.default_rng(3).pareto(1 / 0.6, 20_000) + 1
    assert smooth_weights(np.log(draws)).k_hat == pytest.approx(0.6, abs=0.1)


def test_a_constant_of_the_log_weights_changes_nothing():
    log_weights = np.random.default_rng(1).normal(size=1_000)
    np.testing.assert_allclose(
        smooth_weights(log_weights + 800).weights, smooth_weights(log_weights).weights
    )


def test_a_proposal_far_from_its_target_is_not_reliable():
    draws = np.random.default_rng(2).normal(size=4_000)
    near, far = (smooth_weights(shift * draws) for shift in (0.3, 3.0))
    assert near.reliable()
    assert not far.reliable()


def test_weights_of_zero_are_kept_out():
    log_weights = np.where(np.arange(1_000) < 500, -np.inf, 0.0)
    assert smooth_weights(log_weights).weights[:500].sum() == 0


def test_resampled_draws_have_the_weighted_mean():
    rng = np.random.default_rng(4)
    values, weights = rng.normal(size=4_000), rng.dirichlet(np.ones(4_000))
    few = values[resample(weights, 400, rng)]
    assert few.mean() == pytest.approx(weights @ values, abs=4 / np.sqrt(400))
    quantile = weighted_quantile(values, weights, np.array([0.5]))[0]
    assert weights[values <= quantile].sum() == pytest.approx(0.5, abs=0.01)
