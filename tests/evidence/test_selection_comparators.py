"""The simpler methods beside the selective-labels model: right numbers, known failures."""

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, ndtr

from phenokit.errors import BadInput
from phenokit.evidence.selection_comparators import fit_comparators

NAMES = ["age", "flag"]


def binary(rng, n, *, width=2.0, base=-2.0):
    """Uniform unobservables of a width: features, tested, outcome of everyone."""
    x = np.column_stack([60 + 10 * rng.normal(size=n), rng.integers(0, 2, n)]) * 1.0
    risk = base + 0.06 * (x[:, 0] - 60) + 0.7 * x[:, 1] + rng.uniform(0, width, n)
    return x, rng.random(n) < expit(risk + 0.4), (rng.random(n) < expit(risk)) * 1.0


def number(rng, n, *, rho=0.7):
    """Heckman's model with sigma 1."""
    x = np.column_stack([60 + 10 * rng.normal(size=n), rng.integers(0, 2, n)]) * 1.0
    u = rng.normal(size=n)
    z = rho * u + np.sqrt(1 - rho**2) * rng.normal(size=n)
    tested = 0.2 + 0.12 * (x[:, 0] - 60) - 0.5 * x[:, 1] + u > 0
    return x, tested, 1 + 0.03 * (x[:, 0] - 60) + 0.5 * x[:, 1] + z


def fitted(x, tested, outcome, **options):
    seen = np.where(tested, outcome, np.nan)
    return fit_comparators(
        pd.DataFrame(x, columns=pd.Index(NAMES)), tested, seen, **options
    )


def rows(found, method):
    table = found.table
    return table[table["method"] == method].set_index("quantity")


def test_coefficients_and_errors_agree_with_statsmodels():
    import statsmodels.api as sm

    x, tested, outcome = binary(np.random.default_rng(1), 1500)
    found = fitted(x, tested, outcome)
    design = sm.add_constant(x)
    known, unknown = design[tested], np.where(tested, outcome, 0.0)
    testing = sm.Logit(tested * 1.0, design).fit(disp=0).predict()
    peers = {
        "tested_only": sm.Logit(outcome[tested], known).fit(disp=0, tol=1e-12),
        "untested_as_negative": sm.Logit(unknown, design).fit(disp=0, tol=1e-12),
        # Generalised estimating equations of single rows: weighted scores, sandwich.
        "ipw": sm.GEE(
            outcome[tested],
            known,
            groups=np.arange(len(known)),
            family=sm.families.Binomial(),
            weights=1 / testing[tested],
        ).fit(ctol=1e-12, maxiter=200),
    }
    for method, peer in peers.items():
        ours = rows(found, method).loc[["intercept", *NAMES]]
        np.testing.assert_allclose(ours["estimate"], peer.params, rtol=1e-6)
        np.testing.assert_allclose(ours["standard_error"], peer.bse, rtol=1e-5)


def test_risks_of_the_tested_and_untested_are_means_of_statsmodels_predictions():
    import statsmodels.api as sm

    x, tested, outcome = binary(np.random.default_rng(2), 1000)
    found = fitted(x, tested, outcome)
    design = sm.add_constant(x)
    peer = sm.Logit(outcome[tested], design[tested]).fit(disp=0)
    ours = rows(found, "tested_only")
    predicted = peer.predict(design)
    for name, who in (("risk_tested", tested), ("risk_untested", ~tested)):
        assert ours["estimate"][name] == pytest.approx(predicted[who].mean(), rel=1e-8)
        slope = (design * (predicted * (1 - predicted))[:, None])[who].mean(axis=0)
        error = np.sqrt(slope @ peer.cov_params() @ slope)
        assert ours["standard_error"][name] == pytest.approx(error, rel=1e-6)
    np.testing.assert_allclose(found.risk["tested_only"], predicted, rtol=1e-7)
    assert ours["conf_int_1"]["risk_untested"] > 0


def test_without_unseen_risk_tested_only_and_ipw_hold_the_truth_as_often_as_they_say():
    # 100 tables: fewer than 87 hits have a chance of .05 % at 95 %.
    rng = np.random.default_rng(3)
    hits = {"tested_only": 0, "ipw": 0}
    for _ in range(100):
        x, tested, outcome = binary(rng, 800, width=1e-9)
        found = fitted(x, tested, outcome)
        truth = expit(-2 + 0.06 * (x[:, 0] - 60) + 0.7 * x[:, 1])[~tested].mean()
        for method in hits:
            row = rows(found, method).loc["risk_untested"]
            hits[method] += row["conf_int_1"] < truth < row["conf_int_2"]
    assert min(hits.values()) >= 87


def test_unseen_risk_makes_every_method_miss_the_untested_while_ranks_hardly_change():
    from sklearn.metrics import roc_auc_score

    x, tested, outcome = binary(np.random.default_rng(4), 60_000, width=4.0, base=-5.0)
    found = fitted(x, tested, outcome)
    truth = outcome[~tested].mean()
    for method in ("tested_only", "ipw"):
        assert rows(found, method)["conf_int_1"]["risk_untested"] > 1.3 * truth
    assert rows(found, "untested_as_negative")["conf_int_2"]["risk_untested"] < truth
    auc = [roc_auc_score(outcome, found.risk[method]) for method in found.risk]
    assert max(auc) - min(auc) < 0.01


@pytest.mark.parametrize(("name", "truth"), [("rare", 0.02088), ("published", 0.16542)])
def test_each_method_misses_the_untested_of_the_reference_tables(
    risk_reference, name, truth
):
    # Realised among the untested, who are known there; the model's own interval holds it.
    data = risk_reference.read(getattr(risk_reference, name))
    found = fit_comparators(data.X, data.tested, data.outcome)
    untested = found.table[found.table["quantity"] == "risk_untested"].set_index("method")
    assert (untested["conf_int_1"][["tested_only", "ipw"]] > truth).all()
    assert untested["conf_int_2"]["untested_as_negative"] < truth


def test_only_untested_as_negative_is_seen_to_be_miscalibrated_among_the_tested():
    x, tested, outcome = binary(np.random.default_rng(5), 5000)
    found = fitted(x, tested, outcome)
    assert rows(found, "tested_only")["estimate"]["excess_among_tested"] == pytest.approx(
        0, abs=1e-12
    )
    excess = rows(found, "untested_as_negative").loc["excess_among_tested"]
    assert excess["conf_int_2"] < -0.1
    predicted = found.risk["untested_as_negative"][tested].mean()
    assert excess["estimate"] == pytest.approx(predicted - outcome[tested].mean())


def test_the_error_of_the_excess_is_that_of_repeated_tables():
    rng = np.random.default_rng(6)
    x, _, _ = binary(rng, 400)
    found = []
    for _ in range(100):
        risk = -2 + 0.06 * (x[:, 0] - 60) + 0.7 * x[:, 1] + rng.uniform(0, 2, 400)
        tested, outcome = rng.random(400) < 0.5, (rng.random(400) < expit(risk)) * 1.0
        row = rows(fitted(x, tested, outcome), "untested_as_negative")
        found.append(row.loc["excess_among_tested"][["estimate", "standard_error"]])
    estimates, errors = np.array(found, float).T
    assert errors.mean() == pytest.approx(estimates.std(), rel=0.25)


def test_heckman_is_a_probit_and_then_least_squares_with_mills_ratio():
    import statsmodels.api as sm
    from scipy.stats import norm

    x, tested, outcome = number(np.random.default_rng(7), 2000)
    ours = rows(fitted(x, tested, outcome, continuous=True), "heckman_two_step")
    design = sm.add_constant(x)
    index = design @ sm.Probit(tested * 1.0, design).fit(disp=0, tol=1e-12).params
    mills = norm.pdf(index) / norm.cdf(index)
    second = np.column_stack([design, mills])[tested]
    peer = sm.OLS(outcome[tested], second).fit().params
    np.testing.assert_allclose(
        ours.loc[["intercept", *NAMES, "rho"], "estimate"], peer, rtol=1e-6
    )
    unseen = design @ peer[:3] - peer[3] * norm.pdf(index) / norm.sf(index)
    assert ours["estimate"]["risk_untested"] == pytest.approx(unseen[~tested].mean())
    assert ours["estimate"]["mean_risk"] == pytest.approx((design @ peer[:3]).mean())


def test_heckman_errors_of_both_steps_agree_with_heckmans_formula_in_a_large_table():
    import statsmodels.api as sm
    from scipy.stats import norm

    x, tested, outcome = number(np.random.default_rng(8), 40_000)
    ours = rows(fitted(x, tested, outcome, continuous=True), "heckman_two_step")
    design = sm.add_constant(x)
    probit = sm.Probit(tested * 1.0, design).fit(disp=0)
    index = (design @ probit.params)[tested]
    mills = norm.pdf(index) / norm.cdf(index)
    slope = mills * (mills + index)
    w = np.column_stack([design[tested], mills])
    estimate = np.linalg.lstsq(w, outcome[tested], rcond=None)[0]
    left = outcome[tested] - w @ estimate
    variance = (left @ left + estimate[-1] ** 2 * slope.sum()) / len(left)
    share = estimate[-1] ** 2 / variance
    cross = w.T @ (design[tested] * slope[:, None])
    inner = w.T @ (w * (1 - share * slope)[:, None])
    inner += share * cross @ probit.cov_params() @ cross.T
    bread = np.linalg.inv(w.T @ w)
    errors = np.sqrt(variance * np.diag(bread @ inner @ bread))
    found = ours.loc[["intercept", *NAMES, "rho"], "standard_error"]
    np.testing.assert_allclose(found, errors, rtol=0.03)


def test_heckman_holds_the_untested_mean_as_often_as_it_says_and_others_do_not():
    # 120 tables: fewer than 105 hits have a chance of .04 % at 95 %.
    rng = np.random.default_rng(9)
    hits = {"heckman_two_step": 0, "tested_only": 0, "ipw": 0}
    for _ in range(120):
        x, tested, outcome = number(rng, 1500)
        found = fitted(x, tested, outcome, continuous=True)
        index = 0.2 + 0.12 * (x[:, 0] - 60) - 0.5 * x[:, 1]
        mean = 1 + 0.03 * (x[:, 0] - 60) + 0.5 * x[:, 1]
        mills = np.exp(-0.5 * index**2) / np.sqrt(2 * np.pi) / ndtr(-index)
        truth = (mean - 0.7 * mills)[~tested].mean()
        for method in hits:
            row = rows(found, method).loc["risk_untested"]
            hits[method] += row["conf_int_1"] < truth < row["conf_int_2"]
    assert hits["heckman_two_step"] >= 105
    assert max(hits["tested_only"], hits["ipw"]) < 12


def test_units_of_the_features_change_coefficients_and_nothing_else():
    x, tested, outcome = number(np.random.default_rng(10), 600)
    plain = fitted(x, tested, outcome, continuous=True).table
    scaled = fitted(x * [1000, 1] + [7, 0], tested, outcome, continuous=True).table
    others = np.array([q not in ("age", "intercept") for q in plain["quantity"]])
    numbers = ["estimate", "standard_error"]
    np.testing.assert_allclose(
        plain.loc[others, numbers], scaled.loc[others, numbers], rtol=1e-6, atol=1e-10
    )
    age = plain["quantity"] == "age"
    np.testing.assert_allclose(
        plain.loc[age, numbers], 1000 * scaled.loc[age, numbers], rtol=1e-6
    )


def test_a_rarely_tested_patient_weighs_100_at_most_and_the_cuts_are_counted():
    x, _, outcome = binary(np.random.default_rng(11), 4000)
    tested = np.random.default_rng(12).random(4000) < expit(-2 + 0.4 * (x[:, 0] - 60))
    note = next(n for n in fitted(x, tested, outcome).notes if n.startswith("ipw"))
    assert "0 weights were cut" not in note
    assert "weights were cut at 100" in note


def test_separated_outcomes_leave_a_code_and_the_other_methods():
    x, tested, outcome = binary(np.random.default_rng(13), 300)
    outcome[x[:, 1] == 1] = 1  # of the untested too, whom untested_as_negative negates
    found = fitted(x, tested, outcome)
    assert rows(found, "tested_only")["code"].unique().tolist() == ["N_NOT_CONVERGED"]
    assert np.isnan(rows(found, "tested_only")["estimate"].to_numpy()).all()
    assert rows(found, "untested_as_negative")["code"].unique().tolist() == ["OK"]
    assert any("tested_only: the outcomes are separated" in note for note in found.notes)


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        (lambda x, t, y: (x, t, np.nan_to_num(y)), "E_RANGE", "untested patient has an"),
        (lambda x, t, y: (x, t | True, np.nan_to_num(y)), "N_NO_UNTESTED", "Every row"),
        (lambda x, t, y: (x, t, np.where(t, 1.0, y)), "N_SINGLE_CLASS", "one class"),
        (lambda x, t, y: (x * [1, 0], t, y), "N_CONSTANT", "flag does not vary"),
        (
            lambda x, t, y: (x[:, [0, 0]] * [1, 3], t, y),
            "W_COLLINEAR",
            "flag is determined",
        ),
    ],
)
def test_tables_that_no_method_can_use_are_refused_by_name(change, code, words):
    x, tested, outcome = binary(np.random.default_rng(14), 50)
    x, tested, seen = change(x, tested, np.where(tested, outcome, np.nan))
    with pytest.raises(BadInput, match=words) as caught:
        fit_comparators(pd.DataFrame(x, columns=pd.Index(NAMES)), tested, seen)
    assert caught.value.code == code
