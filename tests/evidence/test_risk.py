"""The estimator: reference posteriors and flags, refusals, and other prevalences."""

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone

from phenokit.errors import AnalysisRefused, BadInput
from phenokit.evidence.risk import RiskDiagnostics, SelectiveLabelsModel


def fit_reference(reference, name, variant, **options):
    data = reference.read(name)
    stated = (
        {"prevalence": data.prevalence, "prevalence_sd": data.prevalence_sd}
        if variant == "both"
        else {}
    )
    free = [data.X.columns[j - 1] for j in data.free if j]
    return SelectiveLabelsModel(**options).fit(
        data.X, data.tested, data.outcome, seed=1,
        testing_features=None if variant == "none" else free, **stated,
    )  # fmt: skip


@pytest.fixture(scope="module")
def both(risk_reference):
    return fit_reference(risk_reference, risk_reference.rare, "both")


@pytest.fixture(scope="module")
def expertise(risk_reference):
    return fit_reference(risk_reference, risk_reference.rare, "exper")


def simulate(n=8_000, *, alpha=1.0, seed=5, bump=0.0):
    """Three binary features; a affects testing beyond risk; `bump` spoils the model."""
    rng = np.random.default_rng(seed)
    x = pd.DataFrame({name: rng.integers(0, 2, n) for name in "abc"})
    r = -2.5 + 0.8 * x["a"] + 0.7 * x["b"] - 0.6 * x["c"] + rng.uniform(0, 2, n)
    case = rng.random(n) < 1 / (1 + np.exp(-r))
    logit = alpha * r + 1 + 0.8 * x["a"] + bump * x["b"] * x["c"]
    tested = rng.random(n) < 1 / (1 + np.exp(-logit))
    return x, tested, np.where(tested, case, np.nan), case


def codes(model):
    return [flag.code for flag in model.flags_]


def test_the_rare_outcome_raises_the_flags_of_the_reference_and_no_others(both, expertise):
    assert codes(both) == []
    assert codes(expertise) == ["W_WEAK"]
    assert both.diagnostics_.conflict.z == pytest.approx(-1.5, abs=0.15)
    assert both.diagnostics_.prevalence_bounds == pytest.approx((0.0328, 0.55), abs=1e-4)


def test_the_constraint_moves_the_answer_as_in_the_reference(both, expertise):
    moved = both.posterior_.mean("beta_Y[age50plus]")
    moved -= expertise.posterior_.mean("beta_Y[age50plus]")
    assert abs(moved) == pytest.approx(0.39, abs=0.06)
    assert expertise.posterior_.mean("risk_untested") == pytest.approx(0.044, abs=0.003)
    assert both.posterior_.mean("risk_untested") == pytest.approx(0.025, abs=0.002)


def test_risk_of_patients_adds_up_to_that_of_the_cohort(both, risk_reference):
    X = risk_reference.read(risk_reference.rare).X
    everyone = both.predict_proba(X)
    assert everyone.shape == (5_000, 2)
    np.testing.assert_allclose(everyone.sum(axis=1), 1)
    mean = both.posterior_.mean("prevalence")
    assert everyone[:, 1].mean() == pytest.approx(mean, abs=3e-4)
    untested, tested = (both.predict(X, p) for p in ("untested", "tested"))
    assert (untested < everyone[:, 1]).all()
    assert (tested > everyone[:, 1]).all()
    low, high = both.risk_interval(X, "untested").T
    assert ((low < untested) & (untested < high)).all()


def test_a_seed_makes_a_fit_again(both, risk_reference):
    again = fit_reference(risk_reference, risk_reference.rare, "both")
    pd.testing.assert_frame_equal(again.posterior_.summary, both.posterior_.summary)
    copied = clone(again)
    assert isinstance(copied, SelectiveLabelsModel)
    assert copied.get_params() == again.get_params()


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.parametrize("engine", ["laplace", "nuts"])
@pytest.mark.parametrize(
    ("name", "variant", "expected"),
    [("published", "none", ["W_WEAK"]), ("published", "both", []),
     ("rare", "exper", ["W_WEAK"]), ("rare", "both", [])],
)  # fmt: skip
def test_flags_are_those_of_the_reference(engine, name, variant, expected, risk_reference):
    name = getattr(risk_reference, name)
    model = fit_reference(risk_reference, name, variant, engine=engine)
    assert codes(model) == expected
    assert model.diagnostics_.disagreement.empty
    if engine == "nuts":
        assert model.diagnostics_.r_hat <= 1.01
        assert len(model.diagnostics_.agreement) == len(model.posterior_.summary)


def test_a_wrong_prevalence_is_flagged_with_both_figures(both, risk_reference):
    data = risk_reference.read(risk_reference.rare)
    wrong = SelectiveLabelsModel().fit(
        data.X, data.tested, data.outcome, prevalence=0.15, prevalence_sd=0.004,
        testing_features=["age50plus", "deprived"],
    )  # fmt: skip
    flag = next(f for f in wrong.flags_ if f.code == "W_PREVALENCE_CONFLICT")
    assert "(15.00%) disagrees with the data (5.6" in flag.message
    assert wrong.diagnostics_.conflict is not None
    assert wrong.diagnostics_.conflict.z > 3


def test_an_impossible_prevalence_is_refused_with_the_bounds(risk_reference):
    data = risk_reference.read(risk_reference.rare)
    with pytest.raises(BadInput, match=r"between 3.28% and 55.00%") as refused:
        SelectiveLabelsModel().fit(
            data.X, data.tested, data.outcome, prevalence=0.01, prevalence_sd=0.002
        )
    assert refused.value.code == "E_PREVALENCE"


def test_testing_that_falls_with_risk_is_refused():
    x, tested, outcome, case = simulate(alpha=-1.5)
    with pytest.raises(AnalysisRefused, match="Testing does not rise with risk") as refused:
        SelectiveLabelsModel().fit(
            x, tested, outcome, testing_features=["a"],
            prevalence=case.mean(), prevalence_sd=0.005,
        )  # fmt: skip
    assert refused.value.code == "E_SELECTION"


def test_a_model_that_cannot_make_the_table_is_flagged_with_the_group():
    x, tested, outcome, case = simulate(bump=2.5)
    fitted = SelectiveLabelsModel().fit(
        x, tested, outcome, testing_features=["a"],
        prevalence=case.mean(), prevalence_sd=0.005,
    )  # fmt: skip
    assert "W_MISFIT" in codes(fitted)
    assert fitted.diagnostics_.misfit is not None
    assert fitted.diagnostics_.misfit.p < 0.01
    assert "W_EXPERTISE" in codes(fitted)
    assert max(abs(one.change) for one in fitted.diagnostics_.freed) > 0.2


def test_a_fit_of_too_few_draws_shows_no_numbers(risk_reference):
    data = risk_reference.read(risk_reference.rare)
    model = SelectiveLabelsModel(n_laplace=300)
    with pytest.raises(AnalysisRefused, match=r"no results shown: .* effective") as refused:
        model.fit(data.X, data.tested, data.outcome)
    assert refused.value.code == "E_FIT"
    assert not hasattr(model, "posterior_")
    assert not hasattr(model, "flags_")


@pytest.mark.slow
@pytest.mark.nightly
def test_a_short_chain_shows_no_numbers(risk_reference):
    data = risk_reference.read(risk_reference.rare)
    model = SelectiveLabelsModel(engine="nuts", n_chains=2, n_warmup=20, n_draws=100)
    with pytest.raises(
        AnalysisRefused, match=r"results shown: (R-hat|.* effective|.* div)"
    ):
        model.fit(data.X, data.tested, data.outcome)
    assert not hasattr(model, "posterior_")


def test_another_prevalence_by_weights_is_that_of_a_new_fit(both, risk_reference):
    data = risk_reference.read(risk_reference.rare)
    weighted = both.reweight(0.05, 0.003)
    assert weighted.diagnostics_.source == "reweighted"
    assert weighted.diagnostics_.seconds["reweighted"] < 0.3
    fitted = SelectiveLabelsModel(checks=False).fit(
        data.X, data.tested, data.outcome, prevalence=0.05, prevalence_sd=0.003,
        testing_features=["age50plus", "deprived"], seed=3,
    )  # fmt: skip
    ours, theirs = weighted.posterior_.summary, fitted.posterior_.summary
    error = theirs["sd"] * 4 / np.sqrt(weighted.diagnostics_.importance_ess)
    assert ((ours["mean"] - theirs["mean"]).abs() < error).all()
    assert both.posterior_.mean("prevalence") < 0.046  # the first model is as it was


def test_a_far_prevalence_is_fitted_anew_or_said_to_be_provisional(both):
    provisional = both.reweight(0.09, 0.002, refit=False)
    assert provisional.diagnostics_.needs_refit
    fitted = both.reweight(0.09, 0.002)
    assert fitted.diagnostics_.source == "refitted"
    assert fitted.posterior_.mean("prevalence") == pytest.approx(0.09, abs=0.003)
    assert "W_PREVALENCE_CONFLICT" in codes(fitted)
    with pytest.raises(BadInput, match=r"between 3\.28%"):
        both.reweight(0.7, 0.002)


def test_a_fit_is_restored_from_its_draws_and_answers_the_same(both, risk_reference):
    data = risk_reference.read(risk_reference.rare)
    diagnostics = json.loads(json.dumps(both.diagnostics_.to_json()))
    again = SelectiveLabelsModel(**both.get_params()).restore(
        data.X, data.tested, data.outcome,
        draws=both.draws_table(), free_draws=both.draws_table(stated=False),
        free_log_likelihood=both.free_log_likelihood,
        diagnostics=RiskDiagnostics.from_json(diagnostics), flags=both.flags_,
        testing_features=[data.X.columns[j - 1] for j in data.free if j],
        prevalence=data.prevalence, prevalence_sd=data.prevalence_sd, seed=1,
    )  # fmt: skip
    pd.testing.assert_frame_equal(again.posterior_.summary, both.posterior_.summary)
    np.testing.assert_array_equal(again.predict(data.X), both.predict(data.X))
    for prevalence in (0.045, 0.06):  # one re-weighted, one fitted anew
        one, other = (model.reweight(prevalence, 0.002) for model in (again, both))
        assert one.diagnostics_.source == other.diagnostics_.source
        conflicts = one.diagnostics_.conflict, other.diagnostics_.conflict
        assert conflicts[0] is not None
        assert conflicts[1] is not None
        assert conflicts[0].z == conflicts[1].z
        pd.testing.assert_frame_equal(one.posterior_.summary, other.posterior_.summary)


def test_known_risk_of_the_untested_lies_in_its_interval():
    x, tested, outcome, case = simulate()
    fitted = SelectiveLabelsModel().fit(
        x, tested, outcome, testing_features=["a"],
        prevalence=case.mean(), prevalence_sd=0.005,
    )  # fmt: skip
    low, high = fitted.posterior_.interval("risk_untested")
    assert low < case[~tested].mean() < high
    assert np.nanmean(outcome) > high
    z = fitted.unobserved_mean(x, tested, outcome)
    means = [z[outcome == 1].mean(), z[outcome == 0].mean(), z[~tested].mean()]
    assert means == sorted(means, reverse=True)


def test_a_feature_far_from_all_others_has_a_risk_between_0_and_1():
    x, tested, outcome, _ = simulate(2_000)
    fitted = SelectiveLabelsModel(checks=False, n_laplace=1_000).fit(x, tested, outcome)
    far = np.array([[-200.0, 0, 0], [0, 60.0, 0], [60.0, 60, 60], [0, 0, 1e4]])
    for population in ("all", "tested", "untested"):
        draws = fitted.risk_draws(far, population)
        assert np.isfinite(draws).all()
        assert ((draws >= 0) & (draws <= 1)).all()


def test_units_of_a_feature_change_only_its_coefficient():
    x, tested, outcome, _ = simulate(4_000)
    x["d"] = np.random.default_rng(1).normal(size=4_000).round(1)
    plain = SelectiveLabelsModel(checks=False).fit(x, tested, outcome)
    x["d"] = 1_000 * (x["d"] / x["d"].std()) + 5_000
    scaled = SelectiveLabelsModel(checks=False).fit(x, tested, outcome)
    assert "W_RESCALED" in codes(scaled)
    sd = plain.posterior_.summary.loc["beta_Y[d]", "sd"]
    unit = 1_000 * scaled.posterior_.mean("beta_Y[d]")
    assert unit == pytest.approx(plain.posterior_.mean("beta_Y[d]"), abs=0.3 * sd + 0.01)


def test_a_continuous_outcome_has_means_and_no_probabilities():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(1_500, 2))
    z, u = rng.multivariate_normal([0, 0], [[4, 1], [1, 1]], 1_500).T
    y = 1 + 0.8 * x[:, 0] + z
    tested = 0.5 + 0.7 * x[:, 0] + u > 0
    fitted = SelectiveLabelsModel("heckman", n_laplace=600).fit(
        x, tested, np.where(tested, y, np.nan), testing_features=["x1"],
        prevalence=float(y.mean()), prevalence_sd=0.05,
    )  # fmt: skip
    assert {"rho", "sigma", "beta_Delta[x1]"} <= set(fitted.posterior_.summary.index)
    assert (fitted.predict(x, "tested") > fitted.predict(x, "untested")).all()
    with pytest.raises(ValueError, match="call predict"):
        fitted.predict_proba(x)
