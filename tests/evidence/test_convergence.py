"""R-hat and effective sample sizes: arviz, and chains of known autocorrelation."""

import json
from pathlib import Path

import numpy as np
import pytest

from phenokit.evidence.convergence import ess_bulk, ess_tail, r_hat

FOLDER = Path(__file__).parents[1] / "reference/risk"
ARVIZ = json.loads((FOLDER / "convergence_arviz.json").read_text())


@pytest.mark.parametrize("of", [r_hat, ess_bulk, ess_tail])
def test_figures_are_those_of_arviz(of):
    expected = ARVIZ[of.__name__]
    assert of(np.array(ARVIZ["chains"])) == pytest.approx(expected, rel=1e-12)


def test_effective_size_of_an_autoregression_is_its_theoretical_one():
    rng, rho = np.random.default_rng(6), 0.6
    chains = rng.normal(size=(4, 5_000))
    for draw in range(1, 5_000):
        chains[:, draw] = rho * chains[:, draw - 1] + chains[:, draw] * np.sqrt(1 - rho**2)
    assert ess_bulk(chains) == pytest.approx(20_000 * (1 - rho) / (1 + rho), rel=0.1)


def test_chains_of_another_spread_are_found_by_the_folded_r_hat():
    chains = np.random.default_rng(7).normal(size=(4, 500)) * [[1], [1], [1], [2]]
    assert r_hat(chains) > 1.01
