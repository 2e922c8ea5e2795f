"""What a table of a risk analysis must be, and what is said when it is not."""

import numpy as np
import pandas as pd
import pytest

from phenokit.errors import AnalysisRefused, BadInput
from phenokit.evidence.risk_table import check_prevalence, check_table


def table(n=400):
    """Features a and b, every second row tested, every second of them positive."""
    rng = np.random.default_rng(1)
    x = pd.DataFrame({"a": rng.normal(size=n), "b": rng.integers(0, 2, n)})
    tested = np.arange(n) % 2
    outcome = np.where(tested == 1, np.arange(n) % 4 == 1, np.nan)
    return x, tested, outcome


def outcome_for_untested(x, tested, outcome):
    outcome[[2, 6]] = 0


def no_outcome_for_tested(x, tested, outcome):
    outcome[5] = np.nan


def everybody_tested(x, tested, outcome):
    tested[:] = 1
    outcome[:] = np.arange(len(outcome)) % 2


def nobody_positive(x, tested, outcome):
    outcome[tested == 1] = 0


def nobody_tested(x, tested, outcome):
    tested[:], outcome[:] = 0, np.nan


def constant_feature(x, tested, outcome):
    x["b"] = 4


def collinear_feature(x, tested, outcome):
    x["c"] = 2 * x["a"] - 3 * x["b"] + 1


def infinite_feature(x, tested, outcome):
    x.loc[[0, 9], "a"] = np.inf


def text_feature(x, tested, outcome):
    x["sex"] = "Female"


def odd_flag(x, tested, outcome):
    tested[3] = 2


def odd_outcome(x, tested, outcome):
    outcome[1] = 2


@pytest.mark.parametrize(
    ("spoil", "code", "words"),
    [
        (outcome_for_untested, "E_RANGE", "untested patient has an outcome .* row 3, 7"),
        (no_outcome_for_tested, "E_NONFINITE", "tested patient has no outcome in row 6"),
        (everybody_tested, "N_NO_UNTESTED", "Every row is tested"),
        (nobody_positive, "N_SINGLE_CLASS", "All 200 tested patients have the outcome 0"),
        (nobody_tested, "N_SINGLE_CLASS", "Nobody was tested"),
        (constant_feature, "N_CONSTANT", "Feature b does not vary"),
        (collinear_feature, "W_COLLINEAR", r"Feature c is determined .* \(a, b\)"),
        (
            infinite_feature,
            "E_NONFINITE",
            "Feature a is missing .* finite in row 1, 10",
        ),
        (text_feature, "E_RANGE", "Feature sex is text"),
        (odd_flag, "E_RANGE", "Tested is neither 0 nor 1 in row 4"),
        (odd_outcome, "E_RANGE", "outcome is neither 0 nor 1 in row 2"),
    ],
)
def test_a_bad_table_is_refused_with_what_is_wrong(spoil, code, words):
    x, tested, outcome = table()
    spoil(x, tested, outcome)
    with pytest.raises(BadInput, match=words) as refused:
        check_table(x, tested, outcome)
    assert refused.value.code == code


def test_too_few_cases_are_refused_by_number():
    x, tested, outcome = table(100)
    with pytest.raises(AnalysisRefused, match=r"\(25\) for 2 features .* 30") as refused:
        check_table(x, tested, outcome)
    assert refused.value.code == "N_FEW_EVENTS"
    assert check_table(x, tested, outcome, minimum_events=8).free == (0, 1, 2)


def test_features_that_affect_testing_are_named_and_the_intercept_is_among_them():
    assert check_table(*table(), testing_features=["b"]).free == (0, 2)
    with pytest.raises(BadInput, match="age is to affect testing and is no feature"):
        check_table(*table(), testing_features=["age"])


def test_a_feature_of_another_scale_is_standardised_and_coefficients_come_back():
    x, tested, outcome = table()
    x["a"] *= 1e5
    checked = check_table(x, tested, outcome)
    assert checked.rescaled == ("a",)
    assert checked.features[:, 0].std() == pytest.approx(1)
    beta = np.array([[0.3, 1.2, -0.4]])
    design = np.column_stack([np.ones(400), x.to_numpy(float)])
    np.testing.assert_allclose(
        checked.design(x.to_numpy(float)) @ beta[0],
        design @ checked.original_units(beta)[0],
        rtol=1e-10,
    )
    assert check_table(x, tested, outcome, rescale=False).rescaled == ()


@pytest.mark.parametrize(
    ("prevalence", "sd", "code", "words"),
    [
        (4.36, 0.2, "E_PREVALENCE", "percentage.*0.0436"),
        (0.0, 0.01, "E_PREVALENCE", "strictly between 0 and 1"),
        (0.1, 0.01, "E_PREVALENCE", r"between 25.00% and 75.00% given these data"),
        (0.4, None, "E_RANGE", "needs a standard deviation"),
        (0.4, 2.0, "E_RANGE", "percentage"),
        (None, 0.1, "E_RANGE", "without a prevalence"),
    ],
)
def test_a_prevalence_that_cannot_be_is_refused(prevalence, sd, code, words):
    cells = check_table(*table()).cells
    with pytest.raises(BadInput, match=words) as refused:
        check_prevalence(prevalence, sd, cells)
    assert refused.value.code == code


def test_the_weight_of_a_prevalence_is_half_its_precision():
    cells = check_table(*table()).cells
    assert check_prevalence(0.4, 0.002, cells) == pytest.approx(125_000)
    assert check_prevalence(0.24, 0.01, cells) > 0  # within sampling error of the bound
    assert check_prevalence(None, None, cells) == 0
