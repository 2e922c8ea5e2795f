"""`risk_reference`: the reference tables of the risk model, and its tolerances."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from phenokit.evidence.psis import weighted_quantile
from phenokit.evidence.selective_labels import BernoulliModel, aggregate

FOLDER = Path(__file__).parents[1] / "reference/risk"
RARE, PUBLISHED = "ds3_rare_categorical", "ds1_bernoulli_uniform"
RIDGE = ("sigma", "beta_Y[0]", "beta_Delta[0]")


def read(name):
    """Table, truth and what of it a fit takes."""
    table = pd.read_csv(FOLDER / f"{name}.csv")
    truth = json.loads((FOLDER / f"{name}_truth.json").read_text())
    return SimpleNamespace(
        X=table.drop(columns=["T", "Y"]),
        tested=table["T"].to_numpy(),
        outcome=table["Y"].to_numpy(),
        free=tuple(truth["free_beta_Delta_under_expertise"]),
        prevalence=truth["prevalence_target"],
        prevalence_sd=truth["prevalence_sd"],
        weight=truth["prevalence_weight"],
    )


def model_of(name, variant, *, distinct=False):
    """The model of a reference fit."""
    data = read(name)
    cells = aggregate(data.X.to_numpy(float), data.tested, data.outcome, distinct=distinct)
    free = tuple(range(5)) if variant == "none" else data.free
    weight = data.weight if variant == "both" else 0.0
    return BernoulliModel(cells, "uniform", free, prevalence=data.prevalence, weight=weight)


def by_number(model, coefficients, shape, evaluated):
    """Draws by the names of the reference files."""
    m = model.n_features
    found = {f"beta_Y[{j}]": coefficients[:, j] for j in range(m)}
    found |= {f"beta_Delta[{j}]": coefficients[:, m + k] for k, j in enumerate(model.free)}
    return found | {
        "sigma": shape, "prevalence": evaluated.prevalence,
        "risk_tested": evaluated.risk_tested, "risk_untested": evaluated.risk_untested,
    }  # fmt: skip


def assert_reference(name, variant, draws, weights):
    """Means, deviations and quantiles within the tolerances of the README."""
    path = FOLDER / f"{name}__{variant}_posterior.json"
    expected = json.loads(path.read_text())["params"]
    compared = 0
    for quantity, values in draws.items():
        e = expected[quantity]
        mean = weights @ values
        wide = quantity in RIDGE or (name, variant) == (PUBLISHED, "none")
        assert abs(mean - e["mean"]) < (0.20 if wide else 0.15) * e["sd"], quantity
        sd = np.sqrt(weights @ (values - mean) ** 2)
        assert abs(sd / e["sd"] - 1) < 0.12, quantity
        tails = weighted_quantile(values, weights, np.array([0.025, 0.975]))
        apart = np.abs(tails - [e["q2_5"], e["q97_5"]]) / e["sd"]
        assert apart.max() < 0.30, quantity
        compared += 1
    assert compared == sum("mean" in one for one in expected.values())


@pytest.fixture(scope="session")
def risk_reference():
    """`read`, `model_of`, `by_number`, `assert_reference` and the names of the tables."""
    return SimpleNamespace(
        read=read, model_of=model_of, by_number=by_number,
        assert_reference=assert_reference, rare=RARE, published=PUBLISHED,
    )  # fmt: skip
