"""Tables of a fitted risk model against definitions, other programs and the identity."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy.integrate import trapezoid
from scipy.stats import gaussian_kde, norm

from phenokit.evidence import risk_summaries
from phenokit.evidence.risk import SelectiveLabelsModel
from phenokit.evidence.risk_summaries import (
    calibration_tested,
    cohort_risk,
    decision_curve,
    density,
    fifth_of_risk,
    odds_ratios,
    prior_posterior,
    recalibration,
    risk_fifths,
    risk_histograms,
    sensitivity_strip,
    under_tested_groups,
)


def simulate(n=6_000, seed=4):
    """Five features, one of few values, one of many, one level that few patients have."""
    rng = np.random.default_rng(seed)
    X = pd.DataFrame(
        {
            "old": rng.integers(0, 2, n),
            "poor": rng.integers(0, 2, n),
            "stage": rng.integers(0, 3, n),
            "dose": rng.choice(np.linspace(-30, 30, 7), n),
            "rare": np.arange(n) < 9,
        }
    ).astype(float)
    r = -3 + 0.8 * X.old + 0.5 * X.poor + 0.3 * X.stage + 0.02 * X.dose
    r += rng.uniform(0, 2, n)
    case = rng.random(n) < 1 / (1 + np.exp(-r))
    tested = rng.random(n) < 1 / (1 + np.exp(-r - 1 + 0.8 * X.poor))
    return X, tested.to_numpy(), np.where(tested, case, np.nan), case


@pytest.fixture(scope="module")
def cohort():
    X, tested, outcome, case = simulate()
    model = SelectiveLabelsModel(checks=False).fit(
        X, tested, outcome, prevalence=case.mean(), prevalence_sd=0.01,
        testing_features=["poor"], seed=1,
    )  # fmt: skip
    return model, X, tested, outcome


@pytest.fixture(scope="module")
def patterns(cohort):
    return cohort_risk(*cohort)


def test_missed_cases_of_every_group_obey_the_identity(cohort, patterns):
    # P(Y=1, T=0) = exp(-d) P(Y=0, T=1), under each draw (spec 3.3)
    groups = patterns.cells.features[:, 2] == np.array([[0.0], [1.0]])
    missed = patterns.expected("missed", groups)
    model, design = patterns._model, patterns._design
    found = model.probabilities(patterns._coefficients, patterns._shape, design)
    _, d = model.linear_predictors(patterns._coefficients, design)
    by_negatives = (groups * patterns.n) @ (np.exp(-d) * np.exp(found.log_negative))
    np.testing.assert_allclose(missed, by_negatives, rtol=1e-8)


def test_missed_cases_are_the_observed_negatives_times_the_odds(cohort):
    model, X, _, outcome = cohort
    table = under_tested_groups(*cohort).set_index("group")
    intercept, poor = (
        model.posterior_.mean(f"beta_Delta[{name}]") for name in ("intercept", "poor")
    )
    for level in (0, 1):
        row = table.loc[f"poor = {level}"]
        negatives = ((X["poor"] == level) & (outcome == 0)).sum()
        expected = 1000 * negatives * np.exp(-intercept - poor * level) / row["n"]
        assert row["missed_per_1000"] == pytest.approx(expected, rel=0.03)
        assert row["missed_per_1000_low"] < expected < row["missed_per_1000_high"]


def test_groups_of_fewer_than_ten_are_listed_without_figures(cohort):
    table = under_tested_groups(*cohort).set_index("group")
    row = table.loc["rare = 1"]
    assert (row["n"], row["note"]) == (9, "suppressed")
    figures = [c for c in table if c.startswith(("risk_", "missed_"))]
    hidden = [*figures, "n_tested", "share_tested"]
    assert table.loc[["rare = 1"], hidden].isna().to_numpy().all()
    assert table.drop(index="rare = 1")[figures].notna().to_numpy().all()
    assert (table["note"] == "").sum() == len(table) - 1


def test_groups_are_levels_of_features_with_few_values_and_fifths(cohort):
    table = under_tested_groups(*cohort)
    assert list(table["group"][:7]) == [
        "old = 0", "old = 1", "poor = 0", "poor = 1", "stage = 0", "stage = 1", "stage = 2",
    ]  # fmt: skip
    assert not table["group"].str.startswith("dose").any()
    assert (table["kind"] == "fifth").sum() == 5
    X = cohort[1]
    assert table.loc[4, "n"] == (X["stage"] == 0).sum()
    assert table.loc[4, "n_tested"] == cohort[2][X["stage"] == 0].sum()


def test_a_group_of_everybody_has_the_risk_of_the_posterior(cohort, patterns):
    everyone = np.ones((1, len(patterns.n)), dtype=bool)
    missed = patterns.expected("missed", everyone)
    risk = missed / patterns.expected("untested", everyone)
    posterior = cohort[0].posterior_
    assert risk.mean() == pytest.approx(posterior.mean("risk_untested"), rel=5e-3)
    low, high = posterior.interval("risk_untested")
    assert np.quantile(risk, [0.025, 0.975]) == pytest.approx((low, high), rel=0.03)


def test_fifths_count_every_patient_once_and_rise(cohort):
    fifths = risk_fifths(*cohort)
    table, (model, X, tested, outcome) = fifths.table, cohort
    assert table["n"].sum() == 6_000
    assert table["n_tested"].sum() == tested.sum()
    assert table["n_cases"].sum() == np.nansum(outcome)
    for column in ("risk", "predicted_rate_tested", "observed_rate"):
        assert table[column].is_monotonic_increasing
    own = fifth_of_risk(model.predict(X))
    assert list(table["n"]) == list(np.bincount(own)[1:])
    top = (own == 5) & tested
    assert table["observed_rate"].iloc[4] == pytest.approx(outcome[top].mean())
    by_patient = model.predict(X, "tested")[top].mean()
    assert table["predicted_rate_tested"].iloc[4] == pytest.approx(by_patient, rel=1e-9)


def test_the_highest_fifth_is_held_against_the_lowest(cohort):
    fifths = risk_fifths(*cohort)
    table = fifths.table
    observed = table["observed_rate"].iloc[4] / table["observed_rate"].iloc[0]
    assert fifths.observed_ratio == pytest.approx(observed)
    assert fifths.observed_ratio_low < observed < fifths.observed_ratio_high
    risk = table["risk"].iloc[4] / table["risk"].iloc[0]
    assert fifths.ratio == pytest.approx(risk, rel=0.01)
    assert fifths.ratio_low < risk < fifths.ratio_high


def test_patients_of_equal_risk_are_in_the_same_fifth():
    risk = np.repeat([0.1, 0.2], [50, 50])
    assert list(np.unique(fifth_of_risk(risk[:50]))) == [3]
    assert list(fifth_of_risk(risk)[[0, 49, 50, 99]]) == [2, 2, 4, 4]


def test_calibration_counts_the_tested_and_its_band_holds_a_true_model(cohort):
    table, (_, _, tested, outcome) = calibration_tested(*cohort), cohort
    assert len(table) == 10
    assert table["n"].sum() == tested.sum()
    assert table["n_cases"].sum() == np.nansum(outcome)
    assert table["predicted"].is_monotonic_increasing
    inside = table["observed"].between(table["band_low"], table["band_high"])
    assert inside.sum() >= 8
    # Nothing but chance would make a narrower band than the binomial one at the mean.
    p, n = table["predicted"], table["n"]
    width = table["band_high"] - table["band_low"]
    assert (width > 3.6 * np.sqrt(p * (1 - p) / n)).all()


def test_calibration_shows_a_wrong_model(cohort):
    model, X, tested, outcome = cohort
    swapped = np.where(tested & (X["old"] == 1), 1 - outcome, outcome)
    table = calibration_tested(model, X, tested, swapped)
    inside = table["observed"].between(table["band_low"], table["band_high"])
    assert inside.sum() <= 6


def test_what_tells_of_fewer_than_ten_patients_is_suppressed(cohort):
    model, X, *_ = cohort
    # 30 patients of three patterns, 12, 11 and 7 of them, all tested but one of each
    rows = [np.flatnonzero((X["old"] == k) & (X["poor"] == k) & (X["stage"] == k))[0]
            for k in (0, 1)]  # fmt: skip
    rows = np.repeat([*rows, np.flatnonzero((X["old"] == 0) & (X["stage"] == 2))[0]],
                     [12, 11, 7])  # fmt: skip
    who = np.diff(rows, append=-1) == 0
    few = cohort_risk(model, X.iloc[rows], who, np.where(who, rows % 2, np.nan))
    table = risk_fifths(few).table.set_index("n")
    assert dict(table.loc[[12, 11, 7], "note"]) == {12: "", 11: "", 7: "suppressed"}
    hidden = ["n_tested", "n_cases", "observed_rate", "observed_low", "risk", "risk_high"]
    assert table.loc[[7], hidden].isna().to_numpy().all()
    assert table.loc[[12, 11], hidden].notna().to_numpy().all()
    assert (calibration_tested(few)["n"] >= 10).all()
    assert calibration_tested(few)["n"].sum() == 27
    bins = risk_histograms(model, cohort=few)
    assert sorted(bins["n"].dropna()[bins["n"] > 0]) == [10, 11]
    assert (bins["note"] == "suppressed").sum() == 1 + 3
    curve = decision_curve(few, thresholds=[0.0001, float(few.risk.max())])
    assert list(curve["net_benefit"].isna()) == [False, few.n[np.argmax(few.risk)] < 10]


def test_recalibration_agrees_with_statsmodels(cohort):
    model, X, tested, outcome = cohort
    logit = np.log(1 / (1 / model.predict(X, "tested")[tested] - 1))
    fit = sm.Logit(outcome[tested], sm.add_constant(logit)).fit(disp=0)
    found = recalibration(*cohort)
    assert (found.intercept, found.slope) == pytest.approx(tuple(fit.params), abs=1e-5)
    assert (found.slope_low, found.slope_high) == pytest.approx(
        tuple(fit.conf_int()[1]), abs=1e-5
    )
    assert (found.n, found.n_cases) == (tested.sum(), np.nansum(outcome))


def test_net_benefit_is_its_definition(cohort):
    model, X, *_ = cohort
    table = decision_curve(*cohort, thresholds=[0.1, 0.2, 0.5])
    risk = model.predict(X)
    for row in table.to_dict("records"):
        odds = row["threshold"] / (1 - row["threshold"])
        acted = risk >= row["threshold"]
        expected = np.mean(acted * (risk - (1 - risk) * odds))
        assert row["net_benefit"] == pytest.approx(expected, abs=1e-12)
        everyone = np.mean(risk - (1 - risk) * odds)
        assert row["treat_all"] == pytest.approx(everyone, abs=1e-12)
        assert row["n_above"] == acted.sum()
        assert row["net_benefit_low"] <= row["net_benefit"] <= row["net_benefit_high"]
    assert (table["treat_none"] == 0).all()
    with pytest.raises(ValueError, match="between 0 and 1"):
        decision_curve(*cohort, thresholds=[20.0])


def test_odds_ratios_are_per_standard_deviation_or_level(cohort):
    model, X, *_ = cohort
    table = odds_ratios(model, X).set_index("feature")
    summary = model.posterior_.summary
    sd = X["dose"].std(ddof=0)
    assert table.loc["dose", "per"] == f"SD = {sd:.3g}"
    slope = summary.loc["beta_Y[dose]"]
    assert table.loc["dose", "odds_ratio"] == pytest.approx(np.exp(slope["mean"] * sd))
    assert table.loc["dose", "odds_ratio_high"] == pytest.approx(
        np.exp(slope["q97_5"] * sd)
    )
    assert table.loc["old", "per"] == "1 vs 0"
    assert list(table.index[table["may_affect_testing"]]) == ["intercept", "poor"]
    assert table.loc["poor", "beta_Delta_low"] < -0.8 < table.loc["poor", "beta_Delta_high"]
    assert table.loc["old", "beta_Delta"] == 0
    assert np.isnan(table.loc["old", "beta_Delta_low"])


def test_the_strip_answers_or_refuses_with_the_reason(cohort):
    model = cohort[0]
    low, _ = model.diagnostics_.prevalence_bounds
    stated = model.fitted_.model.prevalence
    table = sensitivity_strip(model, [low / 2, stated, stated + 0.005])
    assert list(table["within_bounds"]) == [False, True, True]
    assert list(table["source"][:2]) == ["refused", "fit"]
    assert table["source"][2] in ("reweighted", "refitted")
    assert "must lie between" in table.loc[0, "note"]
    assert np.isnan(table.loc[0, "risk_untested"])
    assert table.loc[1, "risk_untested"] == model.posterior_.mean("risk_untested")
    assert table.loc[2, "risk_untested"] > table.loc[1, "risk_untested"]
    assert list(sensitivity_strip(model)["prevalence"]) == [stated / 2, stated, 2 * stated]


def test_histograms_count_everybody(cohort):
    model, X, tested, _ = cohort
    table = risk_histograms(*cohort, minimum=0)
    by = table.groupby("group")
    assert by["n"].sum().to_dict() == {"tested": tested.sum(), "untested": (~tested).sum()}
    assert by["share"].sum().to_numpy() == pytest.approx(1)
    untested = table.query("group == 'untested'")
    risk = model.predict(X, "untested")[~tested]
    counts, _ = np.histogram(risk, [*untested["low"], untested["high"].iloc[-1]])
    assert list(untested["n"]) == list(counts)
    assert untested["mean"].iloc[0] == model.posterior_.mean("risk_untested")


def test_densities_hold_one_and_the_stated_prevalence(cohort):
    model = cohort[0]
    table = prior_posterior(model)
    for quantity, rows in table.groupby("quantity"):
        posterior = trapezoid(rows["posterior_density"], rows["x"])
        assert posterior == pytest.approx(1, abs=0.02), quantity
        assert trapezoid(rows["free_density"], rows["x"]) == pytest.approx(1, abs=0.03)
    rows = table[table["quantity"] == "prevalence"]
    stated = norm.pdf(rows["x"], model.fitted_.model.prevalence, 0.01)
    np.testing.assert_allclose(rows["prior_density"], stated)
    rows = table[table["quantity"] == "sigma"]
    np.testing.assert_allclose(rows["prior_density"], 2 * norm.pdf(rows["x"], 0, 3))


def test_the_density_agrees_with_scipy_and_is_mirrored_at_an_end():
    draws = np.random.default_rng(1).normal(size=500)
    x, weights = np.linspace(-2, 2, 9), np.full(500, 1 / 500)
    quarters = np.quantile(draws, [0.25, 0.75], method="hazen")
    width = 0.9 * min(draws.std(), np.diff(quarters)[0] / 1.34) * 500**-0.2
    expected = gaussian_kde(draws, bw_method=width / draws.std(ddof=1))(x)
    np.testing.assert_allclose(density(draws, weights, x), expected, rtol=1e-10)
    half = np.abs(draws)
    x = np.linspace(0, 6, 500)
    assert trapezoid(density(half, weights, x, low=0.0), x) == pytest.approx(1, abs=1e-3)


def test_where_patterns_are_many_a_sample_of_them_is_enough(cohort, monkeypatch):
    model, X, tested, outcome = cohort
    rng = np.random.default_rng(2)
    X = X.assign(dose=X["dose"] + rng.normal(size=len(X)))  # every patient differs
    with monkeypatch.context() as patched:
        patched.setattr(risk_summaries, "MANY_PATTERNS", 10_000)
        exact = cohort_risk(model, X, tested, outcome)
    sampled = cohort_risk(model, X, tested, outcome, risk=model.predict(X))
    assert exact._draws is not None
    assert sampled._draws is None
    np.testing.assert_allclose(sampled.risk, exact.risk, rtol=1e-12)
    sampled = dataclasses.replace(sampled, risk_if_tested=exact.risk_if_tested)
    for table, name in (
        (lambda c: risk_fifths(c).table, "risk"),
        (lambda c: risk_fifths(c).table, "predicted_rate_tested"),
        (under_tested_groups, "missed_per_1000"),
        (decision_curve, "net_benefit"),
    ):
        one, other = table(exact), table(sampled)
        sd = (one[f"{name}_high"] - one[f"{name}_low"]) / 3.92
        for end in ("", "_low", "_high"):
            apart = (one[name + end] - other[name + end]).to_numpy() / sd.to_numpy()
            assert float(np.nanmax(np.abs(apart))) < 0.1


def test_a_continuous_outcome_has_no_fifths_of_risk():
    rng = np.random.default_rng(1)
    x = pd.DataFrame({"a": rng.normal(size=400), "b": rng.normal(size=400)})
    y = x["a"] + rng.normal(size=400)
    tested = x["b"] + y + rng.normal(size=400) > 0
    model = SelectiveLabelsModel("heckman", checks=False).fit(
        x, tested, y.where(tested), seed=1
    )
    with pytest.raises(ValueError, match="0 and 1"):
        risk_fifths(model, x, tested, y.where(tested))
    table = odds_ratios(model, x)
    assert np.isnan(table["odds_ratio"].to_numpy()).all()
    low, high = table[["beta_Y_low", "beta_Y_high"]].to_numpy()[1]
    assert low < x["a"].std() < high
    assert set(prior_posterior(model)["quantity"]) >= {"correlation", "prevalence"}
    assert sensitivity_strip(model).empty
