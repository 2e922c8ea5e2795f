"""Predictive values at a prevalence: hand values, laws, coverage."""

import numpy as np
import pytest

from phenokit.evidence.predictive_values import OperatingPoint, predictive_values

POINT = OperatingPoint(45, 50, 160, 200)


def values(point=POINT, **options):
    return predictive_values(point, **options).set_index("quantity")


def test_predictive_values_are_those_of_bayes_rule_by_hand():
    # Of 1,000 patients 50 are cases: 45 found, 5 missed; of 950 controls 190 are flagged.
    found = values(prevalence=0.05)["value"]
    expected = {"ppv": 45 / 235, "npv": 760 / 765, "cases_per_1000": 50}
    expected |= {"flagged_per_1000": 235, "false_per_1000": 190, "missed_per_1000": 5}
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-12), name


def test_at_the_prevalence_of_the_labelled_they_are_the_rates_that_were_counted():
    found = values(prevalence=50 / 250)
    assert found.loc["ppv", "value"] == pytest.approx(45 / 85)
    assert found.loc["npv", "value"] == pytest.approx(160 / 165)


def test_an_uncertain_prevalence_widens_the_interval_of_a_known_one():
    known = values(prevalence=0.05)
    assert known.loc["cases_per_1000", ["low", "high"]].tolist() == pytest.approx([50, 50])
    unsure = values(prevalence=0.05, interval=(0.02, 0.12))
    low, high = unsure.loc["cases_per_1000", ["low", "high"]]
    assert (low, high) == pytest.approx((20, 120), rel=0.01)
    assert unsure.loc["ppv", "low"] < known.loc["ppv", "low"]
    assert unsure.loc["ppv", "high"] > known.loc["ppv", "high"]


def test_the_interval_of_a_rate_alone_is_that_of_jeffreys():
    from scipy.stats import beta

    missed = values(prevalence=0.5).loc["missed_per_1000", ["low", "high"]].tolist()
    ends = [500 * (1 - end) for end in beta(45.5, 5.5).ppf([0.975, 0.025])]
    assert missed == pytest.approx(ends, rel=0.01)


def test_the_interval_of_a_predictive_value_holds_the_truth_as_often_as_it_says():
    # 200 samples: 190 expected; fewer than 180 have a chance of .1 %.
    rng = np.random.default_rng(1)
    truth = 0.1 * 0.9 / (0.1 * 0.9 + 0.9 * 0.05)
    hits = 0
    for _ in range(200):
        point = OperatingPoint(rng.binomial(60, 0.9), 60, rng.binomial(200, 0.95), 200)
        row = values(point, prevalence=0.1).loc["ppv"]
        hits += row["low"] < truth < row["high"]
    assert 180 <= hits <= 198


def test_a_perfect_record_still_has_an_interval_and_nobody_flagged_has_no_ppv():
    perfect = values(OperatingPoint(9, 9, 50, 50), prevalence=0.01)
    assert perfect.loc["ppv", "value"] == 1
    assert perfect.loc["ppv", "low"] < 0.9
    silent = values(OperatingPoint(0, 9, 50, 50), prevalence=0.01)
    assert np.isnan(silent.loc["ppv", "value"])
    assert silent.loc["npv", "value"] == pytest.approx(0.99)
    assert OperatingPoint(9, 9, 50, 50).sensitivity[1] == pytest.approx(0.7008, abs=1e-4)


@pytest.mark.parametrize("prevalence", [0.0, 1.0, 5.0, np.nan])
def test_a_prevalence_that_cannot_be_is_refused(prevalence):
    with pytest.raises(ValueError, match="strictly between 0 and 1"):
        values(prevalence=prevalence)
    with pytest.raises(ValueError, match="in order"):
        values(prevalence=0.2, interval=(0.3, 0.4))
    with pytest.raises(ValueError, match="not a rate"):
        OperatingPoint(3, 2, 1, 1)
