"""Checks of a risk fit: the other law, the sign of selection, and tables of many rows."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from phenokit.evidence import risk_checks
from phenokit.evidence.risk import SelectiveLabelsModel
from phenokit.evidence.risk_checks import (
    Conclusion,
    Flag,
    OtherLaw,
    affordable_draws,
    check_expertise,
    check_law,
    check_misfit,
    rows_to_check,
    untested_cases,
    with_weakness,
)
from phenokit.evidence.selective_labels import BernoulliModel, aggregate


def simulate(n, *, unseen, alpha=1.0, seed=1, round_to=6):
    """A table with two features, and who had the outcome."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 2)).round(round_to)
    risk = -2.0 + x[:, 0] - 0.5 * x[:, 1] + unseen(rng, n)
    case = rng.random(n) < 1 / (1 + np.exp(-risk))
    tested = rng.random(n) < 1 / (1 + np.exp(-alpha * risk - 1 - 0.5 * x[:, 0]))
    return x, tested, np.where(tested, case, np.nan), case


def uniform(rng, n):
    return rng.uniform(0, 2, n)


def model_of(x, tested, outcome, case, *, sd=0.005):
    return BernoulliModel(
        aggregate(x, tested, outcome), "uniform", (0, 1),
        prevalence=float(case.mean()), weight=1 / (2 * sd**2),
    )  # fmt: skip


def test_far_tails_of_unseen_risk_are_told_from_a_uniform_law():
    data = simulate(60_000, unseen=lambda rng, n: 1 + 5 * rng.normal(size=n), round_to=0)
    model = replace(model_of(*data), free=(0,))
    rng = np.random.default_rng(1)
    law = check_law(model, risk_checks._conclusion(model, rng), rng)
    assert law is not None
    assert law.law == "normal"
    assert law.log_likelihood_gain > 3
    assert "fit normal unseen risk better than uniform" in law.flags()[0].message
    normal = replace(model, kind="normal", shape_scale=model.shape_scale / np.sqrt(12))
    back = check_law(normal, risk_checks._conclusion(normal, rng), rng)
    assert back is not None
    assert back.log_likelihood_gain == pytest.approx(-law.log_likelihood_gain, abs=0.1)
    assert back.flags() == []


def test_a_law_that_fits_as_well_and_answers_otherwise_is_a_weakness():
    apart = OtherLaw("normal", 0.2, 0.05, -0.4, -1.6)
    assert apart.flags() == []
    assert "normal unseen risk fits as well" in apart.weakness
    assert replace(apart, change=-0.1).weakness == ""
    assert replace(apart, change_in_sd=-0.9).weakness == ""  # within the interval shown
    assert replace(apart, log_likelihood_gain=-4.0).weakness == ""  # the data refute it
    flags = with_weakness([Flag("W_MISFIT", "x")], "one")
    flags = with_weakness(flags, "two")
    assert [flag.code for flag in flags] == ["W_MISFIT", "W_WEAK"]
    assert flags[1].message.endswith("(one; two).")


def test_a_steepness_other_than_one_has_no_other_law():
    model = replace(model_of(*simulate(500, unseen=uniform)), kind="normal", given=2.0)
    assert check_law(model, Conclusion(0, 0.1, 0.01), np.random.default_rng(1)) is None


@pytest.mark.parametrize(("alpha", "wrong_sign"), [(1.0, False), (-1.5, True)])
def test_the_untested_have_fewer_cases_than_the_tested_predict_if_testing_rises_with_risk(
    alpha, wrong_sign
):
    data = simulate(20_000, unseen=lambda rng, n: rng.uniform(0, 5, n) - 1.5, alpha=alpha)
    _, tested, outcome, case = data
    cases = untested_cases(model_of(*data))
    assert cases.stated == pytest.approx(case.sum() - np.nansum(outcome))
    assert cases.predicted < (~tested).sum()
    assert (cases.z > 3) == wrong_sign
    assert (cases.z < -3) == (not wrong_sign)
    assert bool(cases.notes) == wrong_sign


def test_a_check_of_many_rows_takes_some_at_random(monkeypatch):
    data = simulate(3_000, unseen=uniform)
    model = model_of(*data)
    rng = np.random.default_rng(2)
    monkeypatch.setattr(risk_checks, "FEWEST_ROWS", 500)
    few = rows_to_check(model, rng, 500)
    assert few.cells.n_rows == few.cells.counts.sum() == 500
    assert rows_to_check(model, rng) is model
    dear = replace(model, kind="normal_alpha", given=4.0, signed=True)
    assert len(rows_to_check(dear, rng, 2_000).cells.counts) < 700  # 81 nodes a row
    known = {tuple(row) for row in model.cells.features}
    assert all(tuple(row) in known for row in few.cells.features)
    assert rows_to_check(model, rng, 2_500) is model
    freed = check_expertise(few, ["intercept", "a", "b"], 0.1, rng)
    assert [one.feature for one in freed] == ["b"]


def test_rows_of_their_own_are_replicated_with_their_probabilities():
    p = np.tile([0.1, 0.2, 0.7], (30_000, 1))
    drawn = risk_checks._replicate(np.ones(30_000), p, np.random.default_rng(1))
    assert (drawn.sum(axis=1) == 1).all()
    error = 4 * np.sqrt(0.25 / 30_000)
    np.testing.assert_allclose(drawn.mean(axis=0), [0.1, 0.2, 0.7], atol=error)


def test_a_model_that_made_the_table_is_no_misfit():
    data = simulate(3_000, unseen=uniform)
    model = model_of(*data)
    draws = risk_checks._fit_for_check(model, np.random.default_rng(1))[1]
    few = slice(0, 1_000, 5)
    found = check_misfit(
        model, ["intercept", "a", "b"], draws.coefficients[few], draws.shape[few],
        np.random.default_rng(1),
    )  # fmt: skip
    assert found.p > 0.05


def test_a_fit_of_many_rows_makes_fewer_draws():
    small = model_of(*simulate(300, unseen=uniform))
    assert affordable_draws(small, 4_000) == 4_000
    many = replace(
        small.cells, features=np.tile(small.cells.features, (500, 1)),
        counts=np.tile(small.cells.counts, (500, 1)),
    )  # fmt: skip
    large = replace(small, cells=many)
    assert affordable_draws(large, 4_000) == 2e8 // 150_000
    assert affordable_draws(replace(large, kind="normal"), 4_000) == 800


def test_a_fit_says_where_the_prevalence_contradicts_positive_selection():
    x, tested, outcome, case = simulate(
        6_000, unseen=lambda rng, n: rng.uniform(0, 5, n) - 1.5, alpha=-1.5
    )
    fitted = SelectiveLabelsModel().fit(
        pd.DataFrame(x, columns=pd.Index(["a", "b"])), tested, outcome,
        prevalence=float(case.mean()), prevalence_sd=0.005,
    )  # fmt: skip
    assert any("falls with unseen risk" in note for note in fitted.diagnostics_.notes)
    assert "W_PREVALENCE_CONFLICT" in [flag.code for flag in fitted.flags_]
    assert fitted.diagnostics_.other_law is not None
