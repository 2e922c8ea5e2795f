"""A risk model under another prevalence: exact sums, provisional answers, bounds."""

import numpy as np
import pandas as pd
import pytest

from phenokit.errors import BadInput
from phenokit.evidence.risk import SelectiveLabelsModel
from phenokit.evidence.what_if import ask_what_if, spread_patients

SD = 0.01


@pytest.fixture(scope="module")
def fitted() -> tuple[SelectiveLabelsModel, pd.DataFrame, np.ndarray]:
    rng = np.random.default_rng(5)
    X = pd.DataFrame({name: rng.integers(0, 2, 3_000).astype(float) for name in ("a", "b")})
    risk = X.to_numpy() @ [1.0, 0.5] - 3 + rng.uniform(0, 2, len(X))
    case = rng.random(len(X)) < 1 / (1 + np.exp(-risk))
    tested = rng.random(len(X)) < 1 / (1 + np.exp(-risk - 1))
    model = SelectiveLabelsModel(checks=False).fit(
        X, tested, np.where(tested, case, np.nan), prevalence=float(case.mean()),
        prevalence_sd=SD, testing_features=["a"], seed=1,
    )  # fmt: skip
    return model, X, tested


def test_the_risk_of_the_untested_is_that_of_the_reweighted_draws(fitted):
    model, X, tested = fitted
    found = ask_what_if(
        model, spread_patients(model, X), tested, prevalence=0.24, prevalence_sd=SD,
        threshold=0.2,
    )  # fmt: skip
    other = model.reweight(0.24, SD, refit=False).posterior_
    assert found.risk_untested.mean == pytest.approx(other.mean("risk_untested"), abs=1e-12)
    assert found.missed.mean == pytest.approx(
        1000 * (1 - tested.mean()) * other.mean("risk_untested"), rel=1e-9
    )


def test_what_is_flagged_adds_up_with_the_cases(fitted):
    """Cases are the flagged with the outcome and the others with it."""
    model, X, tested = fitted
    found = ask_what_if(model, X, tested, prevalence=0.24, prevalence_sd=SD, threshold=0.25)
    assert 0 < found.flagged < 1000
    cases = found.flagged * found.ppv.mean + (1000 - found.flagged) * (1 - found.npv.mean)
    assert cases == pytest.approx(found.cases.mean, rel=0.02)
    assert found.flagged * found.ppv.mean / cases == pytest.approx(
        found.sensitivity.mean, rel=0.02
    )


def test_nobody_is_flagged_above_the_highest_risk(fitted):
    model, X, tested = fitted
    found = ask_what_if(
        model, X, tested, prevalence=0.24, prevalence_sd=SD, threshold=0.999
    )
    assert found.flagged == 0
    assert np.isnan(found.ppv.mean)
    assert found.sensitivity.mean == 0


def test_a_far_prevalence_is_provisional_until_it_is_fitted_anew(fitted):
    model, X, tested = fitted
    low, high = model.diagnostics_.prevalence_bounds
    asked = {"prevalence": low + 0.9 * (high - low), "prevalence_sd": 0.005}
    before = ask_what_if(model, X, tested, threshold=0.2, **asked)
    assert before.is_provisional
    after = ask_what_if(model, X, tested, threshold=0.2, refit=True, **asked)
    assert (after.source, after.is_provisional) == ("refitted", False)
    assert "W_PREVALENCE_CONFLICT" in {flag.code for flag in after.flags}


def test_a_prevalence_outside_the_exact_bounds_is_refused(fitted):
    model, X, tested = fitted
    with pytest.raises(BadInput, match="Prevalence must lie between"):
        ask_what_if(model, X, tested, prevalence=0.99, prevalence_sd=SD, threshold=0.2)


def test_spread_patients_keep_the_mean_risk_of_all(fitted):
    model, _, _ = fitted
    rng = np.random.default_rng(0)
    many = pd.DataFrame({name: rng.uniform(0, 1, 5_000) for name in ("a", "b")})
    few = spread_patients(model, many, n=200)
    assert len(few) == 200
    assert model.predict(few).mean() == pytest.approx(model.predict(many).mean(), rel=2e-3)
