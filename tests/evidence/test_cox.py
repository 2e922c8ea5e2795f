"""Cox's model of named columns: numbers, residuals, robust errors, refusals."""

import warnings

import numpy as np
import pandas as pd
import pytest

from phenokit.errors import AnalysisRefused, BadInput
from phenokit.evidence.cox import fit_cox

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from lifelines.datasets import load_rossi

ROSSI = ["fin", "age", "race", "wexp", "mar", "paro", "prio"]


def followed(rng, n, *, effect=0.7, whole=True):
    """Whole days, delayed entry, two strata, a covariate."""
    group, x = rng.integers(0, 2, n), rng.normal(size=n)
    duration = rng.exponential(60 / np.exp(effect * group + 0.5 * x))
    end, entry = rng.uniform(5, 120, n), rng.uniform(0, 20, n)
    last = np.minimum(duration, end)
    if whole:
        last, entry = np.ceil(last), np.floor(entry)
    kept = last > entry
    columns = {
        "days": last,
        "event": (duration <= end).astype(int),
        "entry": entry,
        "group": group,
        "x": x,
    }
    return pd.DataFrame({name: column[kept] for name, column in columns.items()})


def test_cox_agrees_with_lifelines_and_statsmodels_on_rossi():
    from lifelines import CoxPHFitter
    from statsmodels.duration.hazard_regression import PHReg

    data = load_rossi()
    fit = fit_cox(data, ROSSI, duration="week", event="arrest")
    peer = CoxPHFitter().fit(data, "week", "arrest")
    ours = fit.table[["log_hazard_ratio", "standard_error", "p_value"]].to_numpy()
    theirs = peer.summary[["coef", "se(coef)", "p"]].to_numpy()
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    other = PHReg(data["week"], data[ROSSI], status=data["arrest"], ties="efron").fit()
    np.testing.assert_allclose(ours[:, 0], np.asarray(other.params), atol=1e-6)
    np.testing.assert_allclose(ours[:, 1], np.asarray(other.bse), atol=1e-6)
    assert (fit.n, fit.n_events, fit.is_robust) == (432, 114, False)


def test_cox_with_delayed_entry_and_strata_agrees_with_statsmodels():
    from statsmodels.duration.hazard_regression import PHReg

    data = followed(np.random.default_rng(9), 500)
    fit = fit_cox(
        data, ["x"], duration="days", event="event", entry="entry", strata=["group"]
    )
    peer = PHReg(
        data["days"],
        data[["x"]],
        status=data["event"],
        # Statsmodels sees a patient at the time of his entry; here, as in R, after it.
        entry=data["entry"] + 0.5,
        strata=data["group"],
        ties="efron",
    ).fit()
    row = fit.table.iloc[0]
    assert row["log_hazard_ratio"] == pytest.approx(np.asarray(peer.params)[0], abs=1e-6)
    assert row["standard_error"] == pytest.approx(np.asarray(peer.bse)[0], abs=1e-6)


def test_proportional_hazards_check_agrees_with_lifelines_without_ties():
    from lifelines import CoxPHFitter
    from lifelines.statistics import proportional_hazard_test

    data = followed(np.random.default_rng(10), 300, whole=False)
    fit = fit_cox(data, ["group", "x"], duration="days", event="event")
    table = data[["days", "event", "group", "x"]]
    peer = CoxPHFitter().fit(table, "days", "event")
    theirs = proportional_hazard_test(peer, table, time_transform="rank").p_value
    np.testing.assert_allclose(fit.table["proportional_hazards_p"], theirs, rtol=1e-5)
    # Lifelines leaves the coefficient out of the residuals.
    residuals = peer.compute_residuals(table, "scaled_schoenfeld")
    in_time = np.argsort(data["days"].to_numpy()[residuals.index.to_numpy()])
    ours = fit.residuals[["group", "x"]] - fit.table["log_hazard_ratio"].to_numpy()
    theirs = residuals.to_numpy()[in_time]
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_hazards_are_doubted_where_the_effect_turns_and_a_stratum_is_the_remedy():
    # Group 1 has three times the hazard until day 30, a third of it later.
    rng = np.random.default_rng(11)
    n = 1500
    group, x, used = rng.integers(0, 2, n), rng.normal(size=n), rng.exponential(size=n)
    early, late = 3.0**group / 60, 3.0**-group / 60
    days = np.where(used < 30 * early, used / early, 30 + (used - 30 * early) / late)
    days = np.ceil(days / np.exp(0.0 * x))
    data = pd.DataFrame({"days": np.minimum(days, 200), "event": days <= 200})
    data = data.assign(group=group, x=x)
    fit = fit_cox(data, ["group", "x"], duration="days", event="event")
    assert fit.table["code"].tolist() == ["W_NONPROPORTIONAL", "OK"]
    assert "Stratify by it, or split the time" in fit.notes[-1]
    by_time = fit.residuals.groupby(fit.residuals["time"] > 30)["group"].mean()
    assert by_time[False] == pytest.approx(np.log(3), abs=0.3)
    assert by_time[True] == pytest.approx(-np.log(3), abs=0.3)
    split = fit_cox(data, ["x"], duration="days", event="event", strata=["group"])
    assert split.table["code"].tolist() == ["OK"]


def test_robust_errors_agree_with_lifelines_without_ties():
    from lifelines import CoxPHFitter

    data = followed(np.random.default_rng(12), 400, whole=False)
    data["who"] = np.random.default_rng(13).integers(0, 90, len(data))
    fit = fit_cox(data, ["group", "x"], duration="days", event="event", patient="who")
    peer = CoxPHFitter().fit(
        data[["days", "event", "group", "x", "who"]], "days", "event", cluster_col="who"
    )
    assert fit.is_robust
    assert fit.n_patients == data["who"].nunique()
    np.testing.assert_allclose(
        fit.table["standard_error"], peer.standard_errors_, rtol=1e-4
    )


def test_robust_errors_in_tied_delayed_strata_are_those_of_leaving_each_patient_out():
    data = followed(np.random.default_rng(14), 240)
    data["days"] = np.ceil(data["days"] / 10) * 10 + 20  # heavy ties
    data["who"] = np.arange(len(data)) // 2
    options = {"duration": "days", "event": "event", "entry": "entry", "strata": ["group"]}

    def fitted(rows):
        return fit_cox(rows, ["x"], patient="who", **options).table.iloc[0]

    robust = fitted(data)["standard_error"]
    left_out = [
        fitted(data[data["who"] != who])["log_hazard_ratio"]
        for who in data["who"].unique()[::2]
    ]
    n = data["who"].nunique()
    jackknife = np.sqrt(n * np.var(left_out))
    assert robust == pytest.approx(jackknife, rel=0.12)  # half of the patients: 8 %


def test_repeating_every_patient_leaves_robust_errors_as_they_were():
    data = followed(np.random.default_rng(15), 3000)
    data = data.assign(who=range(len(data)))
    twice = pd.concat([data, data])
    options = {"duration": "days", "event": "event", "entry": "entry"}
    one = fit_cox(data, ["x", "group"], **options)
    two = fit_cox(twice, ["x", "group"], patient="who", **options)
    naive = fit_cox(twice, ["x", "group"], **options)
    ratio = two.table["standard_error"] / one.table["standard_error"]
    assert ratio.tolist() == pytest.approx([1, 1], abs=0.1)
    ratio = naive.table["standard_error"] / one.table["standard_error"]
    assert ratio.tolist() == pytest.approx([0.707, 0.707], abs=0.01)


def test_cox_names_levels_and_is_a_unit_of_the_column():
    data = followed(np.random.default_rng(16), 400)
    data["sex"] = np.where(data["group"] == 1, "Male", "Female")
    data["x1000"] = 1000 * data["x"] + 5
    fit = fit_cox(data, ["sex", "x1000"], duration="days", event="event")
    assert fit.table["covariate"].tolist()[1] == "x1000"
    assert any("reference of sex" in note for note in fit.notes)
    plain = fit_cox(data, ["sex", "x"], duration="days", event="event").table
    scaled = fit.table["log_hazard_ratio"][1] * 1000
    assert scaled == pytest.approx(plain["log_hazard_ratio"][1], rel=1e-7)


def test_a_rare_covariate_with_a_strong_effect_is_fitted():
    # From 0, whole steps of Newton's method go beyond the maximum and never come back.
    from statsmodels.duration.hazard_regression import PHReg

    rng = np.random.default_rng(3)
    n = 1900
    flag, x = (np.arange(n) < 50).astype(float), rng.normal(size=n)
    duration = rng.exponential(350 / np.exp(2.6 * flag + 0.2 * x))
    end = rng.uniform(0, 6, n)
    data = pd.DataFrame({"days": np.minimum(duration, end), "event": duration <= end})
    data = data.assign(flag=flag, x=x, event=data["event"].astype(int))
    fit = fit_cox(data, ["flag", "x"], duration="days", event="event")
    model = PHReg(data["days"], data[["flag", "x"]], status=data["event"])
    peer = model.fit(start_params=[2.0, 0.0])  # from 0 statsmodels is lost too
    ours = fit.table["log_hazard_ratio"]
    np.testing.assert_allclose(ours, np.asarray(peer.params), atol=1e-6)
    assert ours[0] == pytest.approx(2.6, abs=1.96 * fit.table["standard_error"][0])


def test_cox_is_refused_with_few_events_or_separated_ones():
    data = followed(np.random.default_rng(17), 80)
    few = data.assign(event=(np.arange(len(data)) < 19).astype(int))
    with pytest.raises(AnalysisRefused, match=r"events \(19\) for 2 covariates") as caught:
        fit_cox(few, ["x", "group"], duration="days", event="event")
    assert caught.value.code == "N_FEW_CASES"
    separated = data.assign(flag=data["event"])
    with pytest.raises(AnalysisRefused, match="one side of a covariate") as caught:
        fit_cox(separated, ["flag"], duration="days", event="event")
    assert caught.value.code == "N_NOT_CONVERGED"


def test_columns_that_cannot_be_are_refused_by_name():
    with pytest.raises(BadInput, match="no column days"):
        fit_cox(pd.DataFrame({"x": [1.0]}), ["x"], duration="days", event="event")
    with pytest.raises(BadInput, match="Column week is a covariate and has another part"):
        fit_cox(load_rossi(), ["age", "week"], duration="week", event="arrest")
    rows = pd.DataFrame({"x": [1.0, 2, 4], "days": [1.0, 2, 3], "event": [1, 2, 0]})
    with pytest.raises(BadInput, match=r"not 0 or 1 in 1 of 3 rows \(row 2\)"):
        fit_cox(rows, ["x"], duration="days", event="event")
