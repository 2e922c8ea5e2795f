"""The scan against statsmodels, scikit-learn, exact tests, hand tables and its own laws."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit
from scipy.stats import fisher_exact, hypergeom
from sklearn.metrics import roc_auc_score
from statsmodels.api import GLM, Logit, families

from phenokit.cohort import CaseStatus, PhecodeStatus
from phenokit.evidence.associations import (
    COLUMNS,
    AssociationSettings,
    Exposures,
    associate,
    correct_for_multiplicity,
    plan_tests,
    scan_phecodes,
)
from phenokit.evidence.covariates import Covariates, no_covariates

REFERENCE = Path(__file__).parents[1] / "reference" / "ecg" / "phenotype_stats.npz"
EVERY_PAIR = AssociationSettings(minimum_cases=5, refine="all")


def status_of(*columns: np.ndarray) -> PhecodeStatus:
    """From columns of `CaseStatus`, a phecode each."""
    return PhecodeStatus(
        tuple(f"{j:03}" for j in range(len(columns))),
        len(columns[0]),
        tuple(np.flatnonzero(c == CaseStatus.CASE).astype(np.int32) for c in columns),
        tuple(np.flatnonzero(c == CaseStatus.EXCLUDED).astype(np.int32) for c in columns),
    )


def info_of(status: PhecodeStatus, sex: str = "Both") -> pd.DataFrame:
    return pd.DataFrame(
        {
            "phecode": list(status.phecodes),
            "phecode_string": "named",
            "phecode_category": "group",
            "sex_restriction": sex,
        }
    )


def features(values: np.ndarray) -> Exposures:
    k = values.shape[1]
    return Exposures(tuple(f"x{i}" for i in range(k)), ("feature",) * k, values)


def run(values, columns, covariates=None, settings=EVERY_PAIR, **more) -> pd.DataFrame:
    status = status_of(*columns)
    if covariates is None:
        covariates = no_covariates(len(values))
    return associate(
        features(values),
        status,
        covariates,
        phecode_info=info_of(status),
        settings=settings,
        **more,
    )


@pytest.fixture(scope="module")
def cohort():
    """1,500 patients, five exposures, six phecodes of all kinds, with exclusions."""
    rng = np.random.default_rng(3)
    n = 1500
    covariates = Covariates(
        ("age", "sex Male"),
        np.column_stack([rng.normal(60, 12, n), rng.integers(0, 2, n)]).astype(float),
    )
    values = rng.normal(size=(n, 5)).astype(np.float32)
    values[:, 3] = np.round(values[:, 3])  # ties
    values[:, 4] = values[:, 4] > 0.8  # 0/1
    drive = 0.03 * (covariates.values[:, 0] - 60) + 0.5 * covariates.values[:, 1]
    columns = []
    for j, prevalence in enumerate((0.3, 0.2, 0.1, 0.1, 0.06, 0.05)):
        logit = np.log(prevalence / (1 - prevalence)) + drive + 0.6 * values[:, j % 3]
        column = (rng.random(n) < expit(logit)).astype(np.int8)
        column[rng.random(n) < 0.05 * j] = CaseStatus.EXCLUDED
        columns.append(column)
    return values, columns, covariates


def eligible_design(values, column, covariates, exposure):
    keep = column != CaseStatus.EXCLUDED
    x = values[:, exposure].astype(float)
    if len(np.unique(x)) > 2:
        x = (x - x.mean()) / x.std()
    design = np.column_stack([np.ones(len(x)), covariates.values, x])
    return design[keep], column[keep]


# --- against other programs -------------------------------------------------------------


def test_associate_agrees_with_statsmodels_logit(cohort):
    values, columns, covariates = cohort
    table = run(
        *cohort, settings=AssociationSettings(minimum_cases=5, refine="all", firth_below=5)
    )
    for row, (j, k) in zip(
        table.to_dict("records"), [(j, k) for j in range(6) for k in range(5)], strict=True
    ):
        design, y = eligible_design(values, columns[j], covariates, k)
        fit = Logit(y, design).fit(disp=0, tol=1e-12)
        null = Logit(y, design[:, :-1]).fit(disp=0, tol=1e-12)
        assert row["method"] == "likelihood_ratio"
        assert row["beta"] == pytest.approx(fit.params[-1], rel=1e-6)
        assert row["standard_error"] == pytest.approx(fit.bse[-1], rel=1e-6)
        assert row["neg_log_p_value"] == pytest.approx(_lr(fit, null), rel=1e-6)


def _lr(fit, null) -> float:
    from scipy.stats import chi2

    return -chi2.logsf(2 * (fit.llf - null.llf), 1) / np.log(10)


def test_score_test_agrees_with_statsmodels_glm(cohort):
    values, columns, covariates = cohort
    table = run(*cohort, settings=AssociationSettings(refine="none"))
    for row, (j, k) in zip(
        table.to_dict("records"), [(j, k) for j in range(6) for k in range(5)], strict=True
    ):
        design, y = eligible_design(values, columns[j], covariates, k)
        null = GLM(y, design[:, :-1], family=families.Binomial()).fit(tol=1e-14, maxiter=99)
        chi2, p, _ = null.model.score_test(null.params, exog_extra=design[:, -1:])
        assert row["method"] == "score"
        assert (row["beta"] / row["standard_error"]) ** 2 == pytest.approx(
            chi2.item(), rel=1e-9
        )
        assert row["p_value"] == pytest.approx(float(np.ravel(p)[0]), rel=1e-7)


def test_auc_agrees_with_scikit_learn_over_each_phecodes_own_controls(cohort):
    values, columns, _ = cohort
    table = run(*cohort)
    for row, (j, k) in zip(
        table.to_dict("records"), [(j, k) for j in range(6) for k in range(5)], strict=True
    ):
        keep = columns[j] != CaseStatus.EXCLUDED
        expected = roc_auc_score(columns[j][keep], values[keep, k])
        assert row["auc"] == pytest.approx(expected, abs=1e-12)
        assert row["auc_conf_int_1"] < row["auc"] < row["auc_conf_int_2"]


def test_associate_reproduces_the_published_prototype_statistics():
    held = np.load(REFERENCE)
    covariates = Covariates(("age", "sex"), np.column_stack([held["age"], held["sex"]]))
    table = run(
        held["similarity"],
        [held["y"].astype(np.int8)],
        covariates,
        AssociationSettings(refine="all"),
    )
    assert table["beta"].to_numpy() == pytest.approx(
        held["expected_logit_beta_per_sd"], rel=1e-6
    )
    assert table["standard_error"].to_numpy() == pytest.approx(
        held["expected_logit_se"], rel=1e-5
    )
    assert table["auc"].to_numpy() == pytest.approx(held["expected_auc"], abs=1e-12)


# --- rare cases and separation ----------------------------------------------------------


def two_by_two(a, b, c, d):
    """Exposed cases and controls, then unexposed ones."""
    exposed = np.repeat([1.0, 1.0, 0.0, 0.0], [a, b, c, d])[:, None]
    column = np.repeat([1, 0, 1, 0], [a, b, c, d]).astype(np.int8)
    return exposed, [column]


def test_a_separated_pair_gets_firths_estimate_and_says_so():
    row = run(*two_by_two(7, 0, 13, 40)).iloc[0]
    assert (row["method"], row["code"], row["status"]) == ("firth", "OK_FIRTH", "tested")
    assert row["beta"] == pytest.approx(np.log(45), abs=1e-7)
    assert np.log(
        row[["conf_int_1", "conf_int_2"]].astype(float)
    ).tolist() == pytest.approx([1.59561, 8.69721], abs=1e-5)
    assert row["p_value"] == pytest.approx(1.12826e-4, rel=1e-5)


def test_firths_p_is_within_a_factor_of_two_of_the_exact_test():
    rng = np.random.default_rng(8)
    for _ in range(30):
        a, b, c, d = rng.integers([3, 0, 5, 40], [8, 12, 15, 90])
        seen = hypergeom.pmf(a, a + b + c + d, a + b, a + c)
        _, exact = fisher_exact([[a, b], [c, d]])
        mid_p = np.asarray(exact).item() - seen / 2
        p = run(*two_by_two(a, b, c, d))["p_value"].iloc[0]
        assert mid_p / 2 < p < 2 * mid_p


def test_rare_cases_get_firth_although_nothing_is_separated(cohort):
    values, columns, covariates = cohort
    rare = columns[0].copy()
    rare[np.flatnonzero(rare == CaseStatus.CASE)[30:]] = CaseStatus.CONTROL
    table = run(values, [rare], covariates)
    assert set(table["method"]) == {"firth"}
    assert set(table["code"]) == {"OK"}


@pytest.mark.parametrize(
    ("n_cases", "minimum", "code"),
    [(4, 5, "N_FEW_CASES"), (19, 20, "N_FEW_CASES"), (0, 5, "N_FEW_CASES")],
)
def test_too_few_cases_keep_their_row_and_counts(n_cases, minimum, code):
    column = np.zeros(200, dtype=np.int8)
    column[:n_cases] = CaseStatus.CASE
    table = run(
        np.random.default_rng(0).normal(size=(200, 1)),
        [column],
        settings=AssociationSettings(minimum_cases=minimum),
    )
    row = table.iloc[0]
    assert (row["status"], row["code"]) == ("not_tested", code)
    assert (row["cases"], row["controls"], row["n_total"]) == (n_cases, 200 - n_cases, 200)
    assert np.isnan(row["p_value"])
    assert np.isnan(row["auc"])


def test_a_constant_exposure_is_not_tested_even_where_cases_are_few():
    row = run(np.ones((60, 1)), [np.zeros(60, dtype=np.int8)]).iloc[0]
    assert (row["status"], row["code"]) == ("not_tested", "N_CONSTANT")


def test_an_exposure_that_the_covariates_determine_is_not_tested(cohort):
    _, columns, covariates = cohort
    age = covariates.values[:, :1] * 2 + 1
    row = run(age, columns[:1], covariates).iloc[0]
    assert (row["status"], row["code"]) == ("not_tested", "N_CONSTANT")
    assert "determine" in row["note"]


def test_a_phecode_of_the_other_sex_is_not_tested_whatever_the_exposure():
    column = np.full(50, CaseStatus.EXCLUDED, dtype=np.int8)
    status = status_of(column)
    plan = plan_tests(status, info_of(status, "Female"), minimum_cases=5)
    assert plan["code"].tolist() == ["N_SEX"]
    constant = associate(
        features(np.ones((50, 1))),
        status,
        no_covariates(50),
        phecode_info=info_of(status, "Female"),
    )
    assert constant["code"].tolist() == ["N_SEX"]  # comes before N_CONSTANT


@pytest.mark.parametrize("minimum", [20, 21])
def test_a_phecode_with_exactly_the_minimum_of_cases_is_tested(minimum):
    column = np.repeat([1, 0], [20, 300]).astype(np.int8)
    values = np.random.default_rng(0).normal(size=(320, 1))
    settings = AssociationSettings(minimum_cases=minimum)
    for of in (column, _swap(column)):  # few controls are few as well
        code = run(values, [of], settings=settings)["code"].iloc[0]
        assert code == ("OK" if minimum == 20 else "N_FEW_CASES")


def test_an_exposure_that_nobody_has_is_not_tested_and_others_are():
    rng = np.random.default_rng(1)
    values = rng.normal(size=(200, 2)).astype(np.float32)
    values[:, 0] = np.nan
    table = run(values, [(rng.random(200) < 0.3).astype(np.int8)])
    assert table["code"].tolist() == ["N_CONSTANT", "OK"]
    assert table["n_total"].tolist() == [0, 200]


def test_float32_exposures_with_missing_cells_have_the_numbers_of_float64(cohort):
    values, columns, covariates = cohort
    holed = values.copy()
    holed[::7, 0] = holed[5::9, 2] = np.nan
    same(
        run(holed, columns, covariates), run(holed.astype(np.float64), columns, covariates)
    )


@pytest.mark.parametrize(
    "cells", [(4999, 1, 1, 4999), (99_999, 1, 1, 99_999), (1, 10_000, 5000, 1)]
)
def test_a_very_strong_effect_is_not_taken_for_separation(cells):
    a, b, c, d = cells
    row = run(*two_by_two(a, b, c, d)).iloc[0]
    assert (row["method"], row["code"]) == ("likelihood_ratio", "OK")
    assert row["beta"] == pytest.approx(np.log(a * d / (b * c)), abs=1e-8)
    error = np.sqrt(1 / a + 1 / b + 1 / c + 1 / d)
    assert row["standard_error"] == pytest.approx(error, rel=1e-6)


def test_separation_is_flagged_exactly_where_a_linear_programme_finds_it():
    rng = np.random.default_rng(7)
    n_separated = 0
    for _ in range(45):
        n = int(rng.integers(60, 300))
        z = rng.normal(size=(n, 1))
        x = rng.normal(size=n) if rng.random() < 0.4 else rng.random(n) < 0.05
        y = rng.random(n) < expit(rng.choice([-3, 0]) + rng.choice([0, 3, 20]) * x)
        if min(y.sum(), n - y.sum()) < 5 or x.min() == x.max():
            continue
        covariates = Covariates(("z",), z)
        row = run(x.astype(float)[:, None], [y.astype(np.int8)], covariates).iloc[0]
        is_separated = _is_separated(np.column_stack([np.ones(n), z, x]), y)
        assert row["status"] == "tested"
        assert (row["code"] == "OK_FIRTH") == is_separated
        n_separated += is_separated
    assert 8 < n_separated < 40


def _is_separated(design, y) -> bool:
    """Whether a hyperplane has no case on its one side and no control on its other."""
    from scipy.optimize import linprog

    signed = design * np.where(y, 1, -1)[:, None]
    found = linprog(-signed.sum(0), -signed, np.zeros(len(y)), bounds=(-1, 1))
    return -found.fun > 1e-7


def test_sex_leaves_the_model_of_a_phecode_that_one_sex_has(cohort):
    values, columns, covariates = cohort
    one_sex = columns[1].copy()
    one_sex[covariates.values[:, 1] == 0] = CaseStatus.EXCLUDED
    row = run(values, [one_sex], covariates).iloc[0]
    design, y = eligible_design(values, one_sex, covariates, 0)
    fit = Logit(y, design[:, [0, 1, 3]]).fit(disp=0, tol=1e-12)
    assert row["covariates"] == "age"
    assert "sex Male does not vary" in row["note"]
    assert row["beta"] == pytest.approx(fit.params[-1], rel=1e-6)


def test_a_covariate_that_separates_the_cases_leaves_a_finite_estimate(cohort):
    values, columns, covariates = cohort
    only_men = columns[0].copy()
    only_men[(covariates.values[:, 1] == 0) & (only_men == CaseStatus.CASE)] = 0
    table = run(values, [only_men], covariates)
    men = covariates.values[:, 1] == 1
    design, y = eligible_design(values, only_men, covariates, 0)
    fit = Logit(y[men], design[men][:, [0, 1, 3]]).fit(disp=0, tol=1e-12)
    assert table["beta"].iloc[0] == pytest.approx(fit.params[-1], rel=1e-5)


# --- laws -------------------------------------------------------------------------------


def same(one: pd.DataFrame, other: pd.DataFrame) -> None:
    for name in one.select_dtypes("number").columns:
        np.testing.assert_allclose(one[name], other[name], rtol=1e-10, atol=1e-12)
    for name in one.select_dtypes("object").columns:
        assert one[name].tolist() == other[name].tolist()


def test_the_order_of_rows_changes_nothing(cohort):
    values, columns, covariates = cohort
    order = np.random.default_rng(1).permutation(len(values))
    moved = Covariates(covariates.names, covariates.values[order])
    same(run(*cohort), run(values[order], [c[order] for c in columns], moved))


def test_the_size_of_blocks_changes_nothing(cohort, monkeypatch):
    whole = run(*cohort)
    monkeypatch.setattr("phenokit.evidence.logistic.ELEMENTS_AT_ONCE", 700)
    monkeypatch.setattr("phenokit.evidence.associations.PHECODES_AT_ONCE", 2)
    monkeypatch.setattr("phenokit.evidence.associations.EXPOSURES_AT_ONCE", 2)
    same(whole, run(*cohort))


def test_parts_of_a_scan_add_up_to_the_whole(cohort):
    values, columns, covariates = cohort
    settings = AssociationSettings(n_permutations=20, seed=4)
    status = status_of(*columns)
    halves = [
        scan_phecodes(
            features(values),
            status.at_phecodes(part),
            covariates,
            phecode_info=info_of(status),
            settings=settings,
        )
        for part in (range(2), range(2, 6))
    ]
    together = correct_for_multiplicity(
        pd.concat([half.table for half in halves], ignore_index=True),
        np.maximum(*(half.largest_z for half in halves)),
    )
    same(run(*cohort, settings=settings), together)


def test_swapping_cases_and_controls_inverts_the_odds_ratio(cohort):
    values, columns, covariates = cohort
    table, swapped = run(*cohort), run(values, [_swap(c) for c in columns], covariates)
    np.testing.assert_allclose(table["beta"], -swapped["beta"], rtol=1e-7)
    np.testing.assert_allclose(table["p_value"], swapped["p_value"], rtol=1e-6)


def _swap(column):
    return np.where(column == CaseStatus.EXCLUDED, column, 1 - column).astype(np.int8)


@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_the_scale_of_exposures_and_covariates_changes_nothing(cohort, factor):
    values, columns, covariates = cohort
    scaled = Covariates(covariates.names, covariates.values * factor)
    values = values[:, :4].astype(float)
    same(run(values, columns, covariates), run(values * factor, columns, scaled))


def test_a_missing_exposure_is_left_out_pair_by_pair(cohort):
    values, columns, covariates = cohort
    holed = values.copy()
    holed[::3, 1] = np.nan
    kept = ~np.isnan(holed[:, 1])
    table = run(holed, columns, covariates)
    subset = run(
        values[kept],
        [c[kept] for c in columns],
        Covariates(covariates.names, covariates.values[kept]),
    )
    same(
        table.query("exposure == 'x1'").reset_index(drop=True),
        _corrected_as(subset.query("exposure == 'x1'"), table),
    )
    assert table.query("exposure == 'x0'")["n_total"].iloc[0] == len(values)


def _corrected_as(rows: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """With the corrections of the larger table, which depend on all of its tests."""
    rows = rows.reset_index(drop=True)
    whole = table[table["exposure"] == "x1"].reset_index(drop=True)
    return rows.assign(p_bonferroni=whole["p_bonferroni"], q_bh=whole["q_bh"])


def test_a_row_twice_is_a_patient_of_weight_two_for_the_estimate_not_for_the_patients():
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(400, 1)), (rng.random(400) < 0.3).astype(np.int8)
    twice = np.repeat(np.arange(400), 2)
    plain = run(x, [y], settings=AssociationSettings(refine="none"))
    robust = run(
        x[twice], [y[twice]], settings=AssociationSettings(refine="none"), clusters=twice
    )
    assert set(robust["method"]) == {"robust_score"}
    assert robust["p_value"].iloc[0] == pytest.approx(plain["p_value"].iloc[0], rel=0.1)


def test_columns_are_those_of_the_specification(cohort):
    table = run(*cohort)
    assert tuple(table.columns) == COLUMNS
    assert (table["status"] == "tested").all()
    assert table["p_bonferroni"].tolist() == pytest.approx(
        np.minimum(1, table["p_value"] * len(table))
    )


def test_a_strong_effect_keeps_a_finite_logarithm_of_p():
    rng = np.random.default_rng(2)
    x = rng.normal(size=(30_000, 1))
    y = (rng.random(30_000) < expit(3 * x[:, 0])).astype(np.int8)
    row = run(x, [y]).iloc[0]
    assert row["p_value"] == 0
    assert 1000 < row["neg_log_p_value"] < 10_000


# --- type I error and power -------------------------------------------------------------


def tail_bound(n_tests: int, alpha: float) -> float:
    from scipy.stats import binom

    return float(binom.ppf(0.999, n_tests, alpha))


@pytest.mark.parametrize(("prevalence", "carriers"), [(0.2, 0.3), (0.02, 0.05)])
def test_p_values_of_no_effect_are_not_too_often_small(prevalence, carriers):
    rng = np.random.default_rng(11)
    n, n_exposures, n_phecodes = 1000, 40, 50
    values = np.column_stack(
        [rng.normal(size=(n, 20)), rng.random((n, 20)) < carriers]
    ).astype(float)
    columns = [(rng.random(n) < prevalence).astype(np.int8) for _ in range(n_phecodes)]
    covariates = Covariates(("age",), rng.normal(size=(n, 1)))
    settings = AssociationSettings(minimum_cases=5)
    p = run(values, columns, covariates, settings)["p_value"].dropna()
    assert len(p) > 0.8 * n_exposures * n_phecodes
    for alpha in (0.05, 0.01, 0.001):
        assert (p < alpha).sum() <= tail_bound(len(p), alpha)


BOUNDS = {0.05: 5214, 0.01: 1099, 0.001: 132}
"""Hits in 100,000 nulls at most: the upper 99.9 % bound of the binomial distribution."""


@pytest.mark.slow
@pytest.mark.parametrize(("prevalence", "carriers"), [(0.2, 0.3), (0.005, 0.02)])
def test_small_p_values_of_100_000_nulls_are_as_rare_as_they_should_be(
    prevalence, carriers, monkeypatch
):
    monkeypatch.setattr("phenokit.evidence.associations.EXPOSURES_AT_ONCE", 1000)
    rng = np.random.default_rng(99)
    settings = AssociationSettings(minimum_cases=5)  # else all as by default
    parts = []
    while sum(map(len, parts)) < 100_000:
        age = Covariates(("age",), rng.normal(size=(2000, 1)))
        values = (rng.random((2000, 250)) < carriers).astype(float)
        columns = [(rng.random(2000) < prevalence).astype(np.int8) for _ in range(105)]
        table = run(values, columns, age, settings)
        assert set(table["code"]) <= {"OK", "OK_FIRTH", "N_FEW_CASES"}
        parts.append(table["p_value"].dropna().to_numpy())
    p = np.concatenate(parts)[:100_000]
    hits = {alpha: int((p < alpha).sum()) for alpha in BOUNDS}
    assert {alpha: n for alpha, n in hits.items() if n > BOUNDS[alpha]} == {}


def test_one_exposed_case_among_few_is_no_finding():
    # 6 cases, 40 of 2,000 exposed: one exposed case or more comes up in 11 of 100 nulls.
    table = run(
        np.column_stack([two_by_two(k, 40 - k, 6 - k, 1954 + k)[0][:, 0] for k in (1, 3)]),
        [np.repeat([1, 0, 1, 0], [1, 39, 5, 1955]).astype(np.int8)],
    )
    assert table["p_value"].iloc[0] == pytest.approx(0.113, abs=0.002)
    assert "exact tail" in table["note"].iloc[0]


def test_planted_effects_are_found_with_the_power_that_theory_gives():
    # With V = n p (1 - p) per SD, z = sqrt(200 * 0.96) * log(1.5) = 5.62 on average,
    # against the 3.76 of 0.05 / 300: power Phi(1.86) = 0.969. Binomial(100, 0.969) is
    # below 91 once in a thousand.
    found = right = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(5000, 1))
        y = rng.random(5000) < expit(np.log(0.04 / 0.96) - 0.08 + np.log(1.5) * x[:, 0])
        row = run(x, [y.astype(np.int8)], settings=AssociationSettings()).iloc[0]
        found += row["p_value"] < 0.05 / 300
        right += row["beta"] > 0
    assert found >= 91
    assert right == 100


@pytest.mark.slow
def test_planted_effects_stand_out_of_300_pairs_and_nulls_do_not():
    # Power as above, now through the scan and its own correction. Of the other pairs of a
    # cohort one is significant in 5 of 100 cohorts: Binomial(100, 0.05) is above 13 once
    # in a thousand.
    found = false = 0
    for seed in range(100):
        rng = np.random.default_rng([7, seed])
        x = rng.normal(size=(5000, 30))
        drive = np.zeros((5000, 10))
        drive[:, 0] = np.log(1.5) * x[:, 0] - 0.08
        y = (rng.random((5000, 10)) < expit(np.log(0.04 / 0.96) + drive)).astype(np.int8)
        table = run(x, list(y.T), settings=AssociationSettings())
        hits = table.loc[table["p_bonferroni"] < 0.05]
        is_planted = (hits["exposure"] == "x0") & (hits["phecode"] == "000")
        found += is_planted.any()
        false += (~is_planted).any()
    assert found >= 91
    assert false <= 13


@pytest.mark.slow
def test_a_rare_exposure_with_an_odds_ratio_of_3_is_found():
    # 600 carriers among 30,000, 2 % cases: 34.6 exposed cases where 12 are expected, of
    # which 19 are significant, 12 + 1.96 * sqrt(12): power P(Poisson(34.6) >= 19) = 0.998.
    found = 0
    for seed in range(100):
        rng = np.random.default_rng([3, seed])
        x = (rng.random((30_000, 1)) < 0.02).astype(float)
        y = rng.random(30_000) < expit(np.log(0.02 / 0.98) + np.log(3) * x[:, 0])
        found += run(x, [y.astype(np.int8)]).iloc[0]["p_value"] < 0.05
    assert found >= 95


@pytest.mark.slow
def test_the_family_wise_error_of_permutations_in_200_scans():
    # Exposures that are alike, phecodes common and rare, an age that drives both.
    significant = 0
    for seed in range(200):
        rng = np.random.default_rng([21, seed])
        age = rng.normal(size=(600, 1))
        shared = rng.normal(size=(600, 1)) + age
        values = shared + rng.normal(size=(600, 12))
        base = np.array([-1.5, -1.5, -2, -3]) + 0.5 * age
        columns = list((rng.random((600, 4)) < expit(base)).astype(np.int8).T)
        settings = AssociationSettings(n_permutations=199, seed=seed)
        table = run(values, columns, Covariates(("age",), age), settings)
        significant += table["p_permutation"].min() <= 0.05
    # Binomial(200, 0.05): above 20 or below 2 once in a thousand
    assert 2 <= significant <= 20


def test_the_family_wise_error_of_permutations_is_that_of_their_level():
    rng = np.random.default_rng(21)
    significant = 0
    n_scans = 40
    for seed in range(n_scans):
        values = rng.normal(size=(300, 6))
        columns = [(rng.random(300) < 0.2).astype(np.int8) for _ in range(5)]
        settings = AssociationSettings(n_permutations=99, seed=seed, refine="none")
        significant += run(values, columns, settings=settings)["p_permutation"].min() <= 0.1
    # Binomial(40, 0.1): above 11 once in a thousand
    assert significant <= 11
