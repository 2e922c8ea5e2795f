"""Shifting probabilities to another prevalence, and what is then to be expected."""

import numpy as np
import pytest

from phenokit.evidence.prevalence_shift import (
    calibrate_after_shift,
    fit_prevalence,
    shift_to_prevalence,
)


def population(rng, n, prevalence, *, believed=0.5, distance=1.5):
    """Scores of cases and controls, and P(case) of one who believes a prevalence."""
    is_case = rng.random(n) < prevalence
    score = rng.normal(size=n) + distance * is_case
    log_odds = distance * (score - distance / 2) + np.log(believed / (1 - believed))
    return 1 / (1 + np.exp(-log_odds)), is_case


def moved(probability, before, after):
    return shift_to_prevalence(
        np.asarray(probability, float), training_prevalence=before, cohort_prevalence=after
    )


def test_shift_is_that_of_bayes_rule_by_hand():
    # Odds 4 at prevalence odds 1/1; at odds 1/99 they are 4/99.
    assert moved([0.8], 0.5, 0.01) == pytest.approx([4 / 103], rel=1e-15)


def test_shift_adds_the_difference_of_the_log_odds_of_the_prevalences():
    probability = np.array([1e-12, 0.003, 0.5, 0.97])
    shifted = moved(probability, 0.3, 0.02)
    added = np.log(shifted / (1 - shifted)) - np.log(probability / (1 - probability))
    expected = np.log(0.02 / 0.98) - np.log(0.3 / 0.7)
    np.testing.assert_allclose(added, expected, rtol=1e-12)


def test_shift_can_be_undone_and_made_in_steps():
    probability = np.linspace(0, 1, 101)
    there = moved(probability, 0.4, 0.01)
    np.testing.assert_allclose(moved(there, 0.01, 0.4), probability, atol=1e-14)
    np.testing.assert_allclose(moved(moved(probability, 0.4, 0.2), 0.2, 0.01), there, 1e-13)
    assert (there[0], there[-1]) == (0, 1)


def test_shift_to_prevalence_leaves_unscored_recordings_nan():
    assert np.isnan(moved([0.2, np.nan], 0.5, 0.1)).tolist() == [False, True]


@pytest.mark.parametrize("bad", [0.0, 1.0, -0.1, 5.0, np.nan, np.inf])
@pytest.mark.parametrize("which", ["training_prevalence", "cohort_prevalence"])
def test_a_prevalence_not_within_0_and_1_is_refused_by_name(which, bad):
    both = {"training_prevalence": 0.3, "cohort_prevalence": 0.3, which: bad}
    with pytest.raises(ValueError, match=which.replace("_", " ")):
        shift_to_prevalence(np.array([0.5]), **both)


def test_a_percentage_is_recognised_and_a_logit_refused():
    with pytest.raises(ValueError, match="percentage"):
        moved([0.5], 12.0, 0.1)
    with pytest.raises(ValueError, match="outside 0 to 1"):
        moved([-2.3], 0.5, 0.1)


@pytest.mark.parametrize("prevalence", [0.01, 0.1, 0.7])
def test_the_prevalence_of_a_simulated_cohort_is_in_its_interval_as_often_as_it_says(
    prevalence,
):
    # 200 cohorts: fewer than 180 hits have a chance of .1 % at 95 %.
    rng = np.random.default_rng(1)
    fits = [
        fit_prevalence(population(rng, 1500, prevalence)[0], training_prevalence=0.5)
        for _ in range(200)
    ]
    assert 180 <= sum(f.low <= prevalence <= f.high for f in fits) < 200
    estimates = np.array([f.prevalence for f in fits])
    bias = estimates.mean() - prevalence
    assert abs(bias) < 4 * estimates.std() / np.sqrt(200)


def test_the_fitted_prevalence_is_the_mean_of_what_is_shifted_to_it():
    probability, _ = population(np.random.default_rng(2), 500, 0.2)
    fit = fit_prevalence(np.append(probability, np.nan), training_prevalence=0.5)
    assert moved(probability, 0.5, fit.prevalence).mean() == pytest.approx(
        fit.prevalence, abs=1e-12
    )
    assert fit.n == 500


def test_the_interval_ends_where_the_likelihood_has_fallen_by_1_92():
    probability, _ = population(np.random.default_rng(3), 400, 0.2)
    fit = fit_prevalence(probability, training_prevalence=0.5)

    def log_likelihood(prevalence):
        return np.log(2 * (prevalence * probability + (1 - prevalence) * (1 - probability)))

    peak = log_likelihood(fit.prevalence).sum()
    for end in (fit.low, fit.high):
        assert peak - log_likelihood(end).sum() == pytest.approx(1.920729, abs=1e-5)


def test_a_cohort_without_a_sign_of_a_case_gets_prevalence_0_and_an_upper_end():
    fit = fit_prevalence(np.full(50, 0.01), training_prevalence=0.5)
    assert (fit.prevalence, fit.low) == (0, 0)
    # (1 - x 98/99)^50 falls by 1.92 on the log scale.
    assert fit.high == pytest.approx((1 - np.exp(-1.920729 / 50)) * 99 / 98, rel=1e-6)
    assert fit_prevalence(np.ones(9), training_prevalence=0.5).prevalence == 1
    with pytest.raises(ValueError, match="no recording"):
        fit_prevalence(np.array([np.nan]), training_prevalence=0.5)


def test_shifted_probabilities_are_calibrated_in_the_cohort_and_others_are_not():
    rng = np.random.default_rng(4)
    probability, is_case = population(rng, 40_000, 0.5)
    found = calibrate_after_shift(
        probability, is_case, training_prevalence=0.5, cohort_prevalence=0.05
    )
    assert found.expected_calibration_error < 2 * found.error_by_chance
    assert found.error_without_shift > 0.2
    assert found.mean_predicted == pytest.approx(0.05, rel=0.03)
    # The same classifier in a cohort of that prevalence agrees bin by bin.
    there, sick = population(rng, 400_000, 0.05)
    bins = np.searchsorted([0.02, 0.05, 0.1, 0.3], moved(there, 0.5, 0.05))
    for k in range(5):
        assert sick[bins == k].mean() == pytest.approx(
            moved(there, 0.5, 0.05)[bins == k].mean(), rel=0.1
        )


def test_a_bin_is_what_it_is_by_hand():
    # 2 of 4 labelled are cases; at prevalence .2 a case counts .4 and a control 1.6.
    found = calibrate_after_shift(
        np.array([0.5, 0.5, 0.5, 0.5, np.nan]),
        np.array([True, True, False, False, True]),
        training_prevalence=0.5,
        cohort_prevalence=0.2,
    )
    row = found.table.iloc[0]
    assert len(found.table) == 1
    assert (row["n"], row["cases"], row["share"]) == (4, 2, 1)
    assert row["predicted"] == pytest.approx(0.2)
    assert row["observed"] == pytest.approx(2 * 0.4 / 4)
    # Wilson's interval of 2 in 4 is .15004 to .84996; its odds are divided by 4.
    assert row["conf_int_1"] == pytest.approx(0.15004 / (0.15004 + 4 * 0.84996), abs=1e-5)
    assert row["conf_int_2"] == pytest.approx(0.84996 / (0.84996 + 4 * 0.15004), abs=1e-5)
    assert found.error_without_shift == pytest.approx(0.3)


def test_bands_of_the_bins_hold_a_right_prediction_as_often_as_they_say():
    rng = np.random.default_rng(5)
    tables = [
        calibrate_after_shift(
            *population(rng, 2000, 0.3),
            training_prevalence=0.5,
            cohort_prevalence=0.1,
        ).table
        for _ in range(60)
    ]
    hit = [
        (t["conf_int_1"] <= t["predicted"]) & (t["predicted"] <= t["conf_int_2"])
        for t in tables
    ]
    assert 0.93 < np.mean(hit) < 0.98  # 600 bins: a standard error of .009


def test_the_error_by_chance_is_that_of_a_perfect_classifier():
    rng = np.random.default_rng(6)
    found = [
        calibrate_after_shift(
            *population(rng, 1000, 0.3), training_prevalence=0.5, cohort_prevalence=0.1
        )
        for _ in range(100)
    ]
    error = np.mean([f.expected_calibration_error for f in found])
    assert error == pytest.approx(np.mean([f.error_by_chance for f in found]), rel=0.12)


def test_calibration_without_a_control_is_refused():
    with pytest.raises(ValueError, match="cases and controls"):
        calibrate_after_shift(
            np.array([0.5, 0.6]),
            np.array([True, True]),
            training_prevalence=0.5,
            cohort_prevalence=0.1,
        )
