"""Ranges of risk over settings that the data cannot tell apart."""

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

from phenokit.errors import AnalysisRefused, BadInput
from phenokit.evidence.risk import SelectiveLabelsModel
from phenokit.evidence.viable_range import (
    Setting,
    SettingFit,
    fit_by_laplace,
    fit_viable_range,
    settings_around,
)

STATED = Setting(0.1, ("age",))


def answers(**by_prevalence):
    """A fit that only looks the prevalence up: log-likelihood, risks of the patients."""
    known = {float(k[1:]) / 100: v for k, v in by_prevalence.items()}

    def fit(setting):
        found = known[setting.prevalence]
        if isinstance(found, Exception):
            raise found
        return SettingFit(float(found[0]), np.array(found[1]))

    return fit


def settings(*prevalences):
    return [Setting(p, ("age",)) for p in prevalences]


FIT = answers(
    p10=(-100.0, [0.1, 0.2, 0.3, 0.8]),
    p5=(-101.9, [0.05, 0.1, 0.2, 0.7]),
    p20=(-99.95, [0.2, 0.4, 0.55, 0.9]),
    p40=(-102.0, [0.6, 0.7, 0.8, 0.95]),
)


def test_range_ambiguity_and_discrepancy_are_those_by_hand():
    found = fit_viable_range(settings(0.1, 0.05, 0.2, 0.4), FIT, threshold=0.15)
    # The last loses 2.05 against the best and is not kept.
    assert found.settings["kept"].tolist() == [True, True, True, False]
    np.testing.assert_array_equal(found.low, [0.05, 0.1, 0.2, 0.7])
    np.testing.assert_array_equal(found.high, [0.2, 0.4, 0.55, 0.9])
    # Stated: no, yes, yes, yes. At .05 the second flips, at .2 the first.
    assert (found.ambiguity, found.discrepancy) == (0.5, 0.25)
    assert found.settings["share_flipped"].tolist() == [0, 0.25, 0.25, 0.25]
    assert "3 of 4 settings" in found.sentence()


def test_a_single_setting_has_no_range():
    found = fit_viable_range(settings(0.1), FIT, threshold=0.5)
    np.testing.assert_array_equal(found.low, found.high)
    assert (found.ambiguity, found.discrepancy, found.n_kept) == (0, 0, 1)


def test_a_stated_setting_that_explains_the_data_badly_is_said_to():
    found = fit_viable_range(settings(0.4, 0.2), FIT, threshold=0.5)
    assert found.settings["kept"].tolist() == [False, True]
    assert found.sentence().endswith("The stated setting is not among them.")
    # The decision is still compared with the stated one: yes, yes, yes, yes.
    assert found.ambiguity == 0.5


def test_more_settings_never_narrow_a_range_or_lower_ambiguity():
    three = fit_viable_range(settings(0.1, 0.2, 0.05), FIT, threshold=0.15)
    two = fit_viable_range(settings(0.1, 0.2), FIT, threshold=0.15)
    assert (three.low <= two.low).all()
    assert (three.high >= two.high).all()
    assert three.ambiguity >= two.ambiguity
    assert three.ambiguity >= three.discrepancy


def test_a_setting_that_is_refused_is_a_row_with_its_reason():
    fit = answers(
        p10=(-100, [0.1, 0.2]), p90=BadInput("E_PREVALENCE", "must lie between 1 and 60 %")
    )
    found = fit_viable_range(settings(0.1, 0.9), fit, threshold=0.5)
    assert found.settings["note"].tolist() == ["", "must lie between 1 and 60 %"]
    assert (found.n_kept, found.n_settings) == (1, 2)
    assert "1 could not be fitted" in found.sentence()
    with pytest.raises(BadInput, match="between 1 and 60"):
        fit_viable_range(settings(0.9, 0.1), fit, threshold=0.5)


def test_settings_change_each_choice_and_no_setting_comes_twice():
    features = ["age", "sex", "history"]
    options = {"features": features, "prevalence_interval": (0.08, 0.12)}
    one = settings_around(STATED, crossed=False, **options)
    assert one[0] == STATED
    assert len(set(one)) == len(one) == 1 + 2 + 3 + 1 + 2
    lists = {setting.testing_features for setting in one}
    assert lists == {("age",), (), ("age", "sex"), ("age", "history")}
    every = settings_around(STATED, **options)
    assert len(set(every)) == len(every) == 3 * 4 * 2 * 3
    assert set(one) <= set(every)


def test_a_threshold_that_is_no_risk_is_refused():
    with pytest.raises(ValueError, match="threshold"):
        fit_viable_range(settings(0.1), FIT, threshold=5.0)


def table(rng, n=4000):
    """Two binary features; age affects testing beyond risk."""
    x = pd.DataFrame(rng.integers(0, 2, (n, 2)) * 1.0, columns=pd.Index(["age", "gene"]))
    risk = -3.5 + 0.8 * x["age"] + 1.2 * x["gene"] + rng.uniform(0, 2, n)
    case = rng.random(n) < expit(risk)
    tested = rng.random(n) < expit(risk + 1.5 + 0.7 * x["age"])
    return x, tested, np.where(tested, case, np.nan), case.mean()


def test_risk_of_the_selective_labels_model_ranges_over_its_settings():
    x, tested, outcome, prevalence = table(np.random.default_rng(1))
    stated = Setting(prevalence, ("age",))
    around = settings_around(
        stated,
        features=["age", "gene"],
        prevalence_interval=(prevalence - 0.01, prevalence + 0.01),
        crossed=False,
    )
    fit = fit_by_laplace(x, tested, outcome, prevalence_sd=0.005, seed=1)
    found = fit_viable_range(around, fit, threshold=0.25)
    rows = found.settings.set_index(["prevalence", "testing_features", "kind"])
    means = rows["mean_risk"].xs(("age", "uniform"), level=(1, 2)).groupby(level=0).mean()
    assert means.is_monotonic_increasing  # a higher prevalence, a higher risk
    assert (found.low <= found.stated).all()
    assert (found.stated <= found.high).all()
    assert 0.015 < (found.high - found.low).mean() < 0.1
    # Equal patients have equal ranges.
    assert len(np.unique(found.high)) == 4


def test_a_prevalence_that_the_tested_contradict_is_one_failed_setting():
    x, tested, outcome, prevalence = table(np.random.default_rng(2), 2000)
    fit = fit_by_laplace(x, tested, outcome, prevalence_sd=0.01, seed=1)
    pair = [Setting(prevalence, ("age",)), Setting(0.98, ("age",))]
    found = fit_viable_range(pair, fit, threshold=0.2)
    assert "Prevalence must lie between" in found.settings["note"][1]
    assert found.n_kept == 1
    with pytest.raises((AnalysisRefused, BadInput)):
        fit_viable_range(pair[1:], fit, threshold=0.2)


@pytest.mark.parametrize("excess", [0.01, 0.03])
def test_a_prevalence_that_leaves_no_room_for_unseen_risk_is_fitted(excess):
    # The mass of sigma lies at 0 then: a grid that ends at 0.05 misses it.
    features, tested, outcome, prevalence = table(np.random.default_rng(1))
    model = SelectiveLabelsModel("uniform", checks=False).fit(
        features,
        tested,
        outcome,
        prevalence=prevalence + excess,
        prevalence_sd=0.005,
        testing_features=["age"],
        seed=1,
    )
    assert model.diagnostics_.k_hat < 0.5
