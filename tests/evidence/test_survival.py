"""Follow-up: curves by stratum, log-rank, competing events."""

import warnings

import numpy as np
import pandas as pd
import pytest

from phenokit.errors import AnalysisRefused, BadInput
from phenokit.evidence.survival import (
    Strata,
    cut_into_strata,
    fit_cumulative_incidence,
    fit_kaplan_meier,
    log_rank,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from lifelines.datasets import load_waltons


def kaplan_meier(duration, is_event, labels=None, *, at_times=(0,), entry=None):
    duration = np.asarray(duration, float)
    labels = ["all"] * len(duration) if labels is None else labels
    return fit_kaplan_meier(
        duration,
        np.asarray(is_event, bool),
        Strata.of(labels),
        at_times=at_times,
        unit="days",
        population="everyone",
        entry=None if entry is None else np.asarray(entry, float),
    )


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


def test_kaplan_meier_is_that_by_hand():
    from lifelines import KaplanMeierFitter

    # 6 at risk, 1 event; 4 at risk, 2 events (one censored there too); 1 at risk, 1 event.
    duration, is_event = [1, 2, 3, 3, 3, 5], [1, 0, 1, 1, 0, 1]
    (curve,) = kaplan_meier(duration, is_event, at_times=[0, 2, 3, 4, 6]).curves
    assert curve.times.tolist() == [0, 1, 3, 5]
    by_hand = [1, 5 / 6, 5 / 6 * 2 / 4, 0]
    np.testing.assert_allclose(curve.estimate, by_hand, rtol=0, atol=1e-12)
    peer = KaplanMeierFitter().fit(duration, is_event).survival_function_["KM_estimate"]
    np.testing.assert_allclose(peer[[0, 1, 3, 5]], by_hand, rtol=0, atol=1e-12)
    assert curve.at_risk.tolist() == [6, 5, 4, 1, 0]
    assert curve.censored.tolist() == [2, 3]
    assert (curve.n, curve.n_events, curve.median) == (6, 4, 3)
    # Greenwood at 3 by hand: 1/(6 5) + 2/(4 2); the band is symmetric for log(-log S).
    spread = np.sqrt(1 / 30 + 1 / 4) / -np.log(5 / 12)
    low, high = (
        (5 / 12) ** np.exp(1.959964 * spread),
        (5 / 12) ** np.exp(-1.959964 * spread),
    )
    assert (curve.low[2], curve.high[2]) == pytest.approx((low, high), rel=1e-6)


def test_kaplan_meier_agrees_with_lifelines_on_waltons():
    from lifelines import KaplanMeierFitter
    from lifelines.utils import median_survival_times

    data = load_waltons()
    curves = kaplan_meier(data["T"], data["E"], data["group"].to_numpy(str))
    for curve in curves.curves:
        rows = data[data["group"] == curve.stratum]
        peer = KaplanMeierFitter().fit(rows["T"], rows["E"])
        theirs = peer.survival_function_["KM_estimate"][curve.times]
        np.testing.assert_allclose(curve.estimate, theirs, rtol=0, atol=1e-12)
        band = peer.confidence_interval_.loc[curve.times[1:-1]].to_numpy()
        ours = np.column_stack([curve.low, curve.high])[1:-1]
        np.testing.assert_allclose(ours, band, rtol=1e-9)
        assert curve.median == peer.median_survival_time_
        ends = pd.DataFrame(median_survival_times(peer.confidence_interval_))
        assert [curve.median_low, curve.median_high] == sorted(ends.iloc[0])


def test_kaplan_meier_with_delayed_entry_agrees_with_statsmodels():
    from statsmodels.duration.survfunc import SurvfuncRight

    data = followed(np.random.default_rng(1), 300)
    data["entry"] = np.where(np.arange(len(data)) < 40, 0, data["entry"])
    (curve,) = kaplan_meier(data["days"], data["event"], entry=data["entry"]).curves
    peer = SurvfuncRight(data["days"], data["event"], entry=data["entry"])
    np.testing.assert_array_equal(curve.times[1:], peer.surv_times)
    np.testing.assert_allclose(curve.estimate[1:], peer.surv_prob, rtol=1e-10)


def test_log_rank_agrees_with_lifelines_and_with_statsmodels_at_delayed_entry():
    from lifelines.statistics import multivariate_logrank_test
    from statsmodels.duration.survfunc import survdiff

    data = followed(np.random.default_rng(2), 400)
    three = np.random.default_rng(3).integers(0, 3, len(data))
    days, event = data["days"].to_numpy(), data["event"].to_numpy(bool)
    ours = log_rank(days, event, Strata.of(three.astype(str)))
    peer = multivariate_logrank_test(days, three, event)
    assert ours.statistic == pytest.approx(peer.test_statistic, rel=1e-9)
    assert (ours.degrees_of_freedom, ours.p_value) == (2, pytest.approx(peer.p_value))
    entry = data["entry"].to_numpy()
    delayed = log_rank(days, event, Strata.of(three.astype(str)), entry=entry)
    theirs = survdiff(days, event, three, entry=entry)
    assert delayed.statistic == pytest.approx(theirs[0], rel=1e-9)
    assert delayed.expected.sum() == pytest.approx(delayed.observed.sum())


def test_log_rank_finds_no_difference_as_rarely_as_it_says():
    # 400 times: fewer than 8 or more than 33 of 20 expected have a chance under .4 %.
    rng = np.random.default_rng(4)
    strata = Strata.of(np.repeat(["a", "b"], 40))
    p = [
        log_rank(np.ceil(rng.exponential(30, 80)), rng.random(80) < 0.7, strata).p_value
        for _ in range(400)
    ]
    assert 8 <= np.sum(np.array(p) < 0.05) <= 33


def test_a_median_that_is_not_reached_says_so():
    (curve,) = kaplan_meier([1, 2, 9, 9, 9], [1, 1, 0, 0, 0]).curves
    assert curve.median == np.inf
    assert curve.median_text("days").startswith("median not reached days (95 % interval 1 ")


def test_the_table_under_the_axis_is_blank_after_the_last_patient():
    table = kaplan_meier([2, 4, 6], [1, 0, 1], ["a", "a", "b"], at_times=[0, 3, 5]).table()
    assert table["stratum"].tolist() == ["a"] * 3 + ["b"] * 3
    assert table["at_risk"].tolist() == [2, 1, 0, 1, 1, 1]
    np.testing.assert_array_equal(table["estimate"], [1, 0.5, np.nan, 1, 1, 1])


def test_an_early_risk_set_that_empties_is_named():
    curves = kaplan_meier([2, 9, 9], [1, 1, 0], entry=[0, 5, 5])
    assert curves.curves[0].estimate.tolist() == [1, 0, 0]
    assert "others entered later" in curves.notes[0]


def test_band_of_survival_holds_the_truth_as_often_as_it_says():
    # 300 cohorts: 285 expected, fewer than 272 have a chance of .1 %.
    rng = np.random.default_rng(5)
    hits = 0
    for _ in range(300):
        time, end = rng.exponential(50, 60), rng.uniform(10, 100, 60)
        (curve,) = kaplan_meier(np.minimum(time, end), time <= end).curves
        row = curve.at([30.0]).iloc[0]
        hits += row["conf_int_1"] < np.exp(-30 / 50) < row["conf_int_2"]
    assert 272 <= hits <= 297


def incidence(duration, event, *, entry=None):
    return fit_cumulative_incidence(
        np.asarray(duration, float),
        np.asarray(event, int),
        Strata.of(["all"] * len(duration)),
        events=("infarction", "death before it"),
        at_times=(0, 2),
        unit="days",
        population="everyone",
        entry=entry,
    ).curves


def test_cumulative_incidence_is_that_by_hand():
    # At 1: 1/5 and 0. At 2: survival before is 4/5, of 4 at risk one each. At 4: 2/5 left.
    infarction, death = incidence([1, 2, 2, 3, 4], [1, 1, 2, 0, 2])
    np.testing.assert_allclose(infarction.estimate, [0, 0.2, 0.4, 0.4], atol=1e-15)
    np.testing.assert_allclose(death.estimate, [0, 0, 0.2, 0.6], atol=1e-15)
    assert death.at_risk.tolist() == [5, 4]


def test_cumulative_incidence_agrees_with_statsmodels_in_tied_days():
    from statsmodels.duration.survfunc import CumIncidenceRight

    rng = np.random.default_rng(6)
    duration, event = np.ceil(rng.exponential(15, 200)), rng.integers(0, 3, 200)
    peer = CumIncidenceRight(duration, event)
    z = 1.959963984540054
    for k, curve in enumerate(incidence(duration, event)):
        step = np.searchsorted(curve.times, peer.times, side="right") - 1
        assert peer.cinc_se is not None
        theirs, error = peer.cinc[k], peer.cinc_se[k]
        np.testing.assert_allclose(curve.estimate[step], theirs, rtol=1e-12)
        spread = error / (theirs * -np.log(theirs))
        np.testing.assert_allclose(curve.high[step], theirs ** np.exp(-z * spread))


def test_events_and_survival_add_up_to_1_also_with_delayed_entry():
    data = followed(np.random.default_rng(7), 300)
    event = data["event"].to_numpy() * (1 + (data["x"].to_numpy() > 0))
    entry = data["entry"].to_numpy()
    one, other = incidence(data["days"], event, entry=entry)
    (any_event,) = kaplan_meier(data["days"], event > 0, entry=entry).curves
    total = one.estimate + other.estimate + any_event.estimate
    np.testing.assert_allclose(total, 1, atol=1e-12)


def test_one_minus_kaplan_meier_overstates_the_risk_where_death_competes():
    rng = np.random.default_rng(8)
    infarction, death = rng.exponential(50, 4000), rng.exponential(25, 4000)
    first = np.minimum(infarction, death)
    event = np.where(infarction < death, 1, 2)
    curve, _ = incidence(first, event)
    (naive,) = kaplan_meier(first, event == 1).curves
    truth = (1 / 50) / (1 / 50 + 1 / 25) * (1 - np.exp(-40 * (1 / 50 + 1 / 25)))
    row = curve.at([40.0]).iloc[0]
    assert row["conf_int_1"] < truth < row["conf_int_2"]
    assert 1 - naive.at([40.0])["estimate"].iloc[0] > truth + 0.15


@pytest.mark.parametrize(
    ("duration", "entry", "code", "words"),
    [
        ([3, np.nan, 4], None, "E_NONFINITE", "time is missing in 1 of 3 rows .row 2"),
        ([3, 5, -4], None, "E_RANGE", "time is negative in 1 of 3 rows .row 3"),
        ([3, 5, 4], [0, 5, 9], "E_RANGE", "not after the entry in 2 of 3 rows .row 2, 3"),
        ([3, 5, 4], [0, np.nan, 1], "E_NONFINITE", "entry is missing"),
    ],
)
def test_times_that_cannot_be_are_refused_by_row(duration, entry, code, words):
    with pytest.raises(BadInput, match=words) as caught:
        kaplan_meier(duration, [1, 1, 0], entry=entry)
    assert caught.value.code == code


def test_other_input_that_cannot_be_is_refused_by_name():
    with pytest.raises(BadInput, match="Nobody is in stratum high"):
        fit_kaplan_meier(
            np.ones(2),
            np.ones(2, bool),
            Strata.of(["low", "low"], ["low", "high"]),
            at_times=[0],
            unit="days",
            population="everyone",
        )
    with pytest.raises(BadInput, match=r"not 0 to 2 in 1 of 2 rows \(row 2\)"):
        incidence([1, 2], [1, 3])
    with pytest.raises(AnalysisRefused, match="strata cannot be compared"):
        log_rank(np.ones(4), np.zeros(4, bool), Strata.of(["a", "a", "b", "b"]))


def test_strata_are_thirds_and_unknown_values_are_left_out():
    risk = np.append(np.random.default_rng(18).permutation(300) / 300, np.nan)
    strata = cut_into_strata(risk)
    assert np.bincount(strata.of_patient[:-1]).tolist() == [100, 100, 100]
    assert strata.of_patient[-1] == -1
    curves = fit_kaplan_meier(
        np.ones(301), np.ones(301, bool), strata, at_times=[0], unit="d", population="p"
    )
    assert curves.n_left_out == 1
    assert curves.log_rank is None  # all at risk have the event at once
    assert "cannot be compared" in curves.notes[0]
    assert [c.n for c in curves.curves] == [100, 100, 100]
    with pytest.raises(BadInput, match="2 different values cannot be cut into 3"):
        cut_into_strata(np.array([0.0, 1.0, 1.0, 1.0]))
