import numpy as np
import pytest

from phenokit.evidence.time_to_code import FollowUp, associate_time_to_code

DAY = np.timedelta64(1, "D")
START = np.datetime64("2015-01-01")
NAT = np.datetime64("NaT")


def planted(rng, n=3000, log_hazard_ratio=0.5, decay=0.0):
    """Patients with a hazard that an exposure (SD 2) and a covariate raise."""
    covariate = rng.normal(size=n)
    exposure = 2 * (rng.normal(size=n) + 0.5 * covariate)
    risk = np.exp(log_hazard_ratio * exposure / exposure.std(ddof=1) + 0.7 * covariate)
    days = np.ceil(rng.exponential(2500 / risk))
    recorded = START + rng.integers(0, 700, n) * DAY
    end = recorded + rng.integers(30, 1500, n) * DAY
    first = recorded + days.astype(int) * DAY
    return exposure, covariate[:, None], FollowUp(recorded, end, {"427.2": first})


def associate(exposure, covariates, follow_up, **options):
    table = associate_time_to_code(
        [("x", "427.2")], {"x": exposure}, follow_up, covariates, **options
    )
    return table.iloc[0]


def test_hazard_ratio_agrees_with_statsmodels():
    from statsmodels.duration.hazard_regression import PHReg

    exposure, covariate, follow_up = planted(np.random.default_rng(1), n=600)
    row = associate(exposure, covariate, follow_up)
    first, end = follow_up.first_code["427.2"], follow_up.end
    is_event = first <= end
    days = (np.where(is_event, first, end) - follow_up.recorded) / DAY
    x = np.column_stack([exposure / exposure.std(ddof=1), covariate])
    peer = PHReg(days, x, status=is_event, ties="efron").fit()
    assert row["log_hazard_ratio"] == pytest.approx(np.asarray(peer.params)[0], rel=1e-5)
    assert row["standard_error"] == pytest.approx(np.asarray(peer.bse)[0], rel=1e-5)
    assert row["p_value"] == pytest.approx(np.asarray(peer.pvalues)[0], rel=1e-3)
    np.testing.assert_allclose(
        np.log(row[["conf_int_1", "conf_int_2"]].astype(float)),
        peer.conf_int()[0],
        rtol=1e-5,
    )


def test_planted_hazard_ratio_is_in_the_interval_as_often_as_it_says():
    # 40 cohorts: 35 or fewer hits have a chance of 1.4 % at 95 %, 33 or fewer of .04 %.
    rng = np.random.default_rng(2)
    rows = [associate(*planted(rng, n=400)) for _ in range(40)]
    hits = [r["conf_int_1"] < np.exp(0.5) < r["conf_int_2"] for r in rows]
    assert sum(hits) >= 34
    mean = np.mean([r["log_hazard_ratio"] for r in rows])
    assert abs(mean - 0.5) < 4 * np.mean([r["standard_error"] for r in rows]) / np.sqrt(40)


def test_hazard_ratio_without_an_effect_is_1_after_adjustment():
    row = associate(*planted(np.random.default_rng(3), log_hazard_ratio=0))
    assert row["conf_int_1"] < 1 < row["conf_int_2"]
    # Not adjusted, the covariate that raises both makes one up.
    exposure, _, follow_up = planted(np.random.default_rng(3), log_hazard_ratio=0)
    assert associate(exposure, np.zeros((3000, 0)), follow_up)["conf_int_1"] > 1
    assert row["log_rank_p"] < 1e-6


def test_hazard_ratio_is_of_one_sd_whatever_the_unit():
    exposure, covariate, follow_up = planted(np.random.default_rng(4), n=400)
    one = associate(exposure, covariate, follow_up)
    other = associate(1e6 * exposure - 3, 1e-6 * covariate, follow_up)
    assert one["hazard_ratio"] == pytest.approx(other["hazard_ratio"], rel=1e-7)


def test_proportional_hazards_are_doubted_where_the_effect_turns():
    # A hazard ratio of e per unit for 100 days, then of 1/e: exact by inversion.
    rng = np.random.default_rng(5)
    x = rng.normal(size=2000)
    used = rng.exponential(size=2000)
    early, late = np.exp(x) / 300, np.exp(-x) / 300
    days = np.where(used < 100 * early, used / early, 100 + (used - 100 * early) / late)
    recorded = np.full(2000, START)
    first = recorded + np.ceil(days).astype(int) * DAY
    follow_up = FollowUp(recorded, recorded + 1000 * DAY, {"427.2": first})
    assert associate(x, np.zeros((2000, 0)), follow_up)["proportional_hazards_p"] < 1e-10
    steady = associate(*planted(rng, n=1000))
    assert steady["proportional_hazards_p"] > 0.001


def test_every_patient_is_used_or_left_out_for_one_counted_reason():
    exposure, covariate, follow_up = planted(np.random.default_rng(6), n=100)
    recorded, end = follow_up.recorded.copy(), follow_up.end.copy()
    first = follow_up.first_code["427.2"].copy()
    first[:3] = recorded[:3]  # the code on the day of the recording
    first[3:5] = recorded[3:5] - 10 * DAY
    first[5:15] = end[5:15] + DAY  # after the end: censored, not an event
    end[20], end[21] = recorded[20], NAT
    recorded[22] = NAT
    exposure[[0, 20, 30, 31]] = np.nan
    eligible = np.arange(100) < 90
    moved = FollowUp(recorded, end, {"427.2": first}, {"427.2": eligible})
    row = associate(exposure, covariate, moved)
    left_out = {"n_before": 5, "n_not_followed": 3, "n_missing": 2}
    assert {k: row[k] for k in left_out} == left_out
    assert row["n"] == 80
    used = ~np.isnan(exposure) & eligible & (first > recorded) & (end > recorded)
    assert row["events"] == (used & (first <= end)).sum()


def few_events(n_events):
    recorded = np.full(40, START)
    first = np.where(np.arange(40) < n_events, START + 20 * DAY, NAT)
    return FollowUp(recorded, recorded + 100 * DAY, {"427.2": first})


def test_few_events_and_a_constant_exposure_are_not_tested_and_say_so():
    x, covariates = np.arange(40.0) % 7, np.zeros((40, 0))
    row = associate(x, covariates, few_events(4))
    assert (row["status"], row["code"], row["events"]) == ("not_tested", "N_FEW_CASES", 4)
    assert np.isnan(row["hazard_ratio"])
    assert row["note"] == "4 events after the recording, 5 needed"
    assert associate(x, covariates, few_events(5))["status"] == "tested"
    assert associate(0 * x, covariates, few_events(4))["code"] == "N_CONSTANT"
    with pytest.raises(ValueError, match="at least 5 events"):
        associate(x, covariates, few_events(5), minimum_events=2)


@pytest.mark.parametrize("what", ["exposure", "covariate", "collinear"])
def test_separation_is_not_converged_and_no_warning_escapes(what):
    # All events at 1: the hazard ratio of 1 against 0 has no end.
    separates = (np.arange(40) < 8).astype(float)
    other = np.arange(40.0) % 7
    x, covariates = {
        "exposure": (separates, other[:, None]),
        "covariate": (other, separates[:, None]),
        "collinear": (other, 2 * other[:, None] + 1),
    }[what]
    row = associate(x, covariates, few_events(6))
    assert (row["status"], row["code"]) == ("not_tested", "N_NOT_CONVERGED")
    assert row[["hazard_ratio", "p_value", "proportional_hazards_p"]].isna().all()


def test_a_covariate_constant_among_the_patients_is_left_out_and_named():
    exposure, covariate, follow_up = planted(np.random.default_rng(7), n=300)
    women = np.arange(300) < 200
    of_one_sex = FollowUp(
        follow_up.recorded, follow_up.end, follow_up.first_code, {"427.2": women}
    )
    with_sex = associate(exposure, np.column_stack([covariate, women]), of_one_sex)
    without = associate(exposure, covariate, of_one_sex)
    assert with_sex["hazard_ratio"] == without["hazard_ratio"]
    assert with_sex["note"] == "1 covariate(s) constant among these patients"


def test_a_missing_covariate_is_refused():
    exposure, covariate, follow_up = planted(np.random.default_rng(8), n=50)
    covariate[3] = np.nan
    with pytest.raises(ValueError, match="covariate is missing"):
        associate(exposure, covariate, follow_up)
