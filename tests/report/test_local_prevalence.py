"""A finding at a stated prevalence: figures, words, warnings, what is not known."""

import numpy as np
import pytest

from phenokit.evidence.predictive_values import OperatingPoint
from phenokit.networks.card import SENSITIVITY, SPECIFICITY
from phenokit.report.local_prevalence import (
    ASSUMPTION,
    LabelOnCard,
    LocalPrevalence,
    adjusted_probability,
    expected_calibration,
    export_table,
    format_quantity,
    label_on_card,
    local_table,
    local_warnings,
    point_words,
    prevalence_grid,
    prevalence_of_scores,
)
from phenokit.report.tables import format_table

LOCAL = LocalPrevalence(0.02, (0.01, 0.04), "Clinic, 18 to 60 years, 2024")


def on_card(**changes) -> LabelOnCard:
    known = {
        "label": "AFIB", "training_prevalence": 0.2, "tested": (0.05, 0.5),
        "threshold": 0.4, "point": OperatingPoint(45, 50, 190, 200), "no_point": "",
        "calibration": "Slope 1.",
    }  # fmt: skip
    return LabelOnCard(**{**known, **changes})


def card(*, metrics=True, value=0.9, n_positive=50, **prevalence):
    """A card and a calibration of one label."""
    row = {"label": "AFIB", "subgroup": "all", "n": 250, "n_positive": n_positive}
    rates = {SENSITIVITY: value, SPECIFICITY: 0.95} if metrics else {}
    return (
        {
            "prevalence": {"AFIB": {"training": 0.2, **prevalence}},
            "performance": [
                {**row, "metric": name, "value": rate, "undefined": None}
                for name, rate in rates.items()
            ],
            "calibration": {
                "slope": [{**row, "value": 1.1, "low": 0.9, "high": 1.4, "undefined": None}]
            },
        },
        {"labels": ["NORM", "AFIB"], "threshold": [0.5, 0.4], "pooled": [False, True]},
    )


def test_the_adjusted_probability_is_that_of_bayes_rule_and_of_the_ends_of_the_interval():
    # Odds 3/2 at prevalence odds 1/4; at odds 1/49 they are 3/2 * 4/49.
    value, low, high = adjusted_probability(0.6, on_card(), LOCAL)
    assert value == pytest.approx((6 / 49) / (1 + 6 / 49))
    assert (low, high) == pytest.approx((6 / 99 / (1 + 6 / 99), 6 / 24 / (1 + 6 / 24)))
    at_home = adjusted_probability(0.6, on_card(), LocalPrevalence(0.2))
    assert at_home[0] == pytest.approx(0.6)
    assert np.isnan(at_home[1:]).all()


def test_the_table_has_the_figures_of_1000_patients_by_hand():
    table = local_table(on_card(), LOCAL, probability=0.6).set_index("quantity")
    # 20 with it: 18 found, 2 missed; of 980 without it 49 are flagged.
    expected = {"cases_per_1000": 20, "flagged_per_1000": 67, "false_per_1000": 49}
    expected |= {"missed_per_1000": 2, "ppv": 18 / 67, "npv": 931 / 933}
    for quantity, value in expected.items():
        assert table.loc[quantity, "local"] == pytest.approx(value), quantity
        assert table.loc[quantity, "local_low"] < value < table.loc[quantity, "local_high"]
    assert table.loc["threshold", "model"] == pytest.approx(0.4)
    assert table.loc["ppv", "model"] == pytest.approx(0.2 * 0.9 / (0.2 * 0.9 + 0.8 * 0.05))


def test_a_recording_is_flagged_at_the_local_prevalence_just_where_it_was_before():
    for probability in (0.1, 0.39, 0.41, 0.9):
        row = local_table(on_card(), LOCAL, probability=probability).set_index("quantity")
        flagged = row.loc["probability", "local"] >= row.loc["threshold", "local"]
        assert flagged == (probability >= 0.4)


def test_the_grid_names_the_stated_prevalence_and_that_of_training_and_rises():
    grid = prevalence_grid(on_card(), LocalPrevalence(0.03), probability=0.6)
    assert grid.loc[grid["which"] == "stated", "prevalence"].tolist() == [0.03]
    assert grid.loc[grid["which"] == "training", "probability"].tolist() == pytest.approx(
        [0.6]
    )
    for quantity in ("probability", "ppv", "threshold", "flagged_per_1000"):
        assert grid[quantity].is_monotonic_increasing, quantity
    assert grid["npv"].is_monotonic_decreasing


def test_the_card_gives_counts_threshold_and_the_range_tested():
    of = label_on_card(*card(tested_low=0.05, tested_high=0.3), "AFIB")
    assert of.point == OperatingPoint(45, 50, 190, 200)
    assert (of.threshold, of.tested, of.training_prevalence) == (0.4, (0.05, 0.3), 0.2)
    assert of.test_prevalence == pytest.approx(0.2)
    assert "1.10 (0.90–1.40), n = 250" in of.calibration
    assert "together with other rare labels" in of.calibration
    assert "45" not in point_words(of)
    assert "90 % (79–96) of 50 with it" in point_words(of)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"metrics": False}, "the model's card has no sensitivity"),
        ({"value": None, "n_positive": 0}, "the test fold has 0 recordings with it of 250"),
    ],
)
def test_without_counts_there_are_no_predictive_values_and_the_reason_is_given(
    options, why
):
    of = label_on_card(*card(**options), "AFIB")
    assert of.point is None
    assert why in point_words(of)
    table = local_table(of, LOCAL, probability=0.6).set_index("quantity")
    assert table.loc["cases_per_1000", "local"] == pytest.approx(20)
    assert np.isnan(table.loc[["ppv", "npv", "flagged_per_1000"], "local"]).all()
    assert table.loc["probability", "local"] < 0.2
    assert format_quantity(
        "ppv", *table.loc["ppv", ["local", "local_low", "local_high"]]
    ) == ("not known")


@pytest.mark.parametrize(
    ("of", "local", "words"),
    [
        ({}, LocalPrevalence(0.2, (0.1, 0.3)), "No source is given"),
        ({}, LocalPrevalence(0.2, None, "x"), "No interval"),
        (
            {},
            LOCAL,
            "Outside the range that was tested on the model's card (5.0 % to 50 %)",
        ),
        ({"tested": None}, LOCAL, "names no range of prevalence that was tested"),
        ({}, LOCAL, "all odds are divided by 12"),
    ],
)
def test_what_makes_the_shift_doubtful_is_said(of, local, words):
    assert words in " ".join(local_warnings(on_card(**of), local))


def test_a_shift_within_the_tested_range_with_source_and_interval_has_no_warning():
    assert local_warnings(on_card(), LocalPrevalence(0.1, (0.05, 0.2), "x")) == ()


@pytest.mark.parametrize(
    ("value", "interval"), [(0.0, None), (1.0, None), (5.0, None), (0.2, (0.0, 0.3))]
)
def test_a_prevalence_that_cannot_be_is_refused(value, interval):
    with pytest.raises(ValueError, match="between 0 % and 100 %"):
        LocalPrevalence(value, interval)
    with pytest.raises(ValueError, match="hold the prevalence"):
        LocalPrevalence(0.2, (0.3, 0.4))


def scores(n, prevalence, *, believed, seed=1):
    """Calibrated scores of one who believes a prevalence, and who is a case."""
    rng = np.random.default_rng(seed)
    is_case = rng.random(n) < prevalence
    log_odds = 1.5 * (rng.normal(size=n) + 1.5 * is_case - 0.75)
    log_odds += np.log(believed / (1 - believed))
    return 1 / (1 + np.exp(-log_odds)), is_case


def test_the_calibration_is_measured_where_there_are_labels_and_else_says_why_not():
    words = expected_calibration(on_card(), LOCAL, scores(20_000, 0.2, believed=0.2))
    measured, chance, unshifted = (
        float(part.split()[0]) for part in (words.split(": ")[1], *words.split(", ")[1:3])
    )
    assert measured < 3 * chance
    assert unshifted > 5
    assert "n = 20,000" in words
    silent = expected_calibration(on_card(), LOCAL)
    assert "holds no scores of labelled recordings" in silent
    assert "Slope 1." in silent


def test_the_scores_of_a_cohort_suggest_its_prevalence():
    found = prevalence_of_scores(
        scores(3000, 0.06, believed=0.2)[0], on_card(), name="Ward"
    )
    assert found is not None
    assert found.interval is not None
    assert found.interval[0] < 0.06 < found.interval[1]
    assert (
        found.source == "fitted to the scores of 3,000 recordings of Ward, not to diagnoses"
    )
    nobody = prevalence_of_scores(np.full(50, 0.001), on_card(), name="Ward")
    assert nobody is None


def test_an_exported_row_stands_alone_and_its_text_is_guarded():
    table = export_table(
        on_card(), LocalPrevalence(0.02, None, "=HYPERLINK(1)"), probability=0.6,
        model="ecg-demo", bundle_hash="ab" * 32, record_id="r1",
    )  # fmt: skip
    row = table.iloc[0]
    assert row[["label", "local_prevalence", "model", "assumption"]].tolist() == [
        "AFIB", 0.02, "ecg-demo", ASSUMPTION,
    ]  # fmt: skip
    assert "No interval" in row["warnings"]
    assert b"'=HYPERLINK(1)" in format_table(table)
