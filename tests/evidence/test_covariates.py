"""Covariates become columns of numbers, or an error that names column and rows."""

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

from phenokit.cohort import PhecodeStatus
from phenokit.errors import BadInput
from phenokit.evidence.associations import AssociationSettings, Exposures, associate
from phenokit.evidence.covariates import (
    MOST_LEVELS,
    Covariates,
    encode_covariates,
    no_covariates,
    permutation_strata,
)


def run(values, column, covariates) -> pd.DataFrame:
    """Every exposure against one phecode, exactly."""
    is_case = np.flatnonzero(column).astype(np.int32)
    info = {"phecode": ["401"], "phecode_string": "", "phecode_category": ""}
    return associate(
        Exposures(
            tuple("abcdef"[: values.shape[1]]), ("feature",) * values.shape[1], values
        ),
        PhecodeStatus(("401",), len(column), (is_case,), (is_case[:0],)),
        covariates,
        phecode_info=pd.DataFrame({**info, "sex_restriction": "Both"}),
        settings=AssociationSettings(minimum_cases=5, refine="all"),
    )


def test_the_most_frequent_level_of_a_category_is_its_reference_and_is_named():
    table = pd.DataFrame({"site": ["B", "A", "C", "B"], "age": [50.0, 60.0, 70.5, 40.0]})
    covariates = encode_covariates(table, ["age", "site"])
    assert covariates.names == ("age", "site A", "site C")
    assert covariates.values[:, 1:].tolist() == [[0, 0], [1, 0], [0, 1], [0, 0]]
    assert covariates.notes == ("The reference of site is B.",)


@pytest.mark.parametrize(
    ("column", "values", "code", "words"),
    [
        ("age", [50.0, np.nan, 70.0], "E_NONFINITE", "age is missing in 1 of 3 rows"),
        ("age", [50.0, np.inf, 70.0], "E_NONFINITE", r"\(row 2\)"),
        ("sex", ["Male", "", "Female"], "E_NONFINITE", r"\(row 2\)"),
        ("age", [50.0, 50.0, 50.0], "E_RANGE", "does not vary; leave it out"),
        ("sex", ["Male", "Male", "Male"], "E_RANGE", "does not vary"),
        ("site", [1.0, 2.0, 3.0], "E_COLUMNS", "no covariate age"),
    ],
)
def test_a_covariate_that_cannot_be_used_is_an_error_that_names_it(
    column, values, code, words
):
    name = "age" if column == "site" else column
    with pytest.raises(BadInput, match=words) as error:
        encode_covariates(pd.DataFrame({column: values}), [name])
    assert error.value.code == code
    assert error.value.where.startswith(f"column {name}")


def test_many_missing_rows_are_named_as_far_as_one_reads():
    values = np.arange(40.0)
    values[5:25] = np.nan
    with pytest.raises(BadInput, match="in 20 of 40 rows") as error:
        encode_covariates(pd.DataFrame({"age": values}), ["age"])
    rows = "6, 7, 8, 9, 10, 11, 12, 13, 14, 15 and 10 more"
    assert error.value.where == f"column age, row {rows}"


def test_an_id_is_no_category():
    ids = [f"p{k}" for k in range(MOST_LEVELS + 1)]
    with pytest.raises(BadInput, match="51 different values") as error:
        encode_covariates(pd.DataFrame({"person_id": ids}), ["person_id"])
    assert error.value.code == "E_RANGE"


def test_renaming_the_levels_of_a_category_changes_nothing():
    rng = np.random.default_rng(8)
    site = rng.choice(["A", "B", "C"], 600, p=[0.5, 0.3, 0.2])
    x, y = rng.normal(size=(600, 1)), rng.random(600) < 0.3
    renamed = pd.Series(site).map({"A": "z", "B": "y", "C": "x"})
    one, other = (
        run(x, y, encode_covariates(pd.DataFrame({"site": s}), ["site"]))
        for s in (site, renamed)
    )
    assert one["beta"].iloc[0] == pytest.approx(other["beta"].iloc[0], rel=1e-9)


def test_a_collinear_covariate_is_dropped_said_and_changes_nothing():
    rng = np.random.default_rng(4)
    frame = pd.DataFrame(rng.normal(size=(500, 2)), columns=pd.Index(["a", "c"]))
    x = rng.normal(size=(500, 3)) + frame["a"].to_numpy()[:, None]
    y = rng.random(500) < expit(frame["a"])
    plain = encode_covariates(frame, ["a", "c"])
    doubled = encode_covariates(frame.assign(b=2 * frame["a"] + 1), ["a", "c", "b"])
    assert (doubled.names, doubled.collinear) == (("a", "c"), ("b",))
    assert doubled.notes == ("Covariate b repeats the ones before it and was left out.",)
    table = run(x, y, doubled)
    assert set(table["code"]) == {"W_COLLINEAR"}
    np.testing.assert_allclose(table["beta"], run(x, y, plain)["beta"], rtol=1e-9)


def test_a_collinear_covariate_is_no_word_about_pairs_that_were_not_tested():
    frame = pd.DataFrame({"a": np.arange(60.0), "b": np.arange(60.0) * 3})
    x = np.column_stack([np.arange(60) % 7, np.ones(60)]).astype(float)
    table = run(x, np.arange(60) % 3 == 0, encode_covariates(frame, ["a", "b"]))
    assert table["code"].tolist() == ["W_COLLINEAR", "N_CONSTANT"]


def test_a_spline_follows_a_curve_that_a_line_cannot():
    rng = np.random.default_rng(6)
    age = rng.uniform(20, 90, 4000)
    y = rng.random(4000) < expit(-3 + ((age - 55) / 15) ** 2)
    u_shaped = np.abs(age - 55)[:, None]
    table = pd.DataFrame({"age": age})
    line = run(u_shaped, y, encode_covariates(table, ["age"]))
    curve = run(u_shaped, y, encode_covariates(table, ["age"], splines=["age"]))
    assert curve["neg_log_p_value"].iloc[0] < 0.2 * line["neg_log_p_value"].iloc[0]


def test_a_spline_is_linear_beyond_its_outer_knots():
    age = np.arange(0.0, 200.0)
    covariates = encode_covariates(pd.DataFrame({"age": age}), ["age"], splines=["age"])
    assert covariates.names == ("age", "age spline 1", "age spline 2")
    second = np.diff(covariates.values, n=2, axis=0)
    np.testing.assert_allclose(second[:8], 0, atol=1e-9)  # below the 5th percentile
    np.testing.assert_allclose(second[-8:], 0, atol=1e-9)
    assert np.abs(second[60]).max() > 1e-5


def test_a_spline_needs_numbers_of_a_covariate_with_enough_values():
    table = pd.DataFrame({"sex": ["a", "b"] * 20, "n": [0.0, 1.0] * 20})
    for splines, code in ((["sex"], "E_RANGE"), (["n"], "E_RANGE"), (["x"], "E_COLUMNS")):
        with pytest.raises(BadInput, match="spline") as error:
            encode_covariates(table, ["sex", "n"], splines=splines)
        assert error.value.code == code


def test_strata_split_by_category_and_then_by_fifths():
    rng = np.random.default_rng(3)
    sex = rng.integers(0, 2, 2000).astype(float)
    age = rng.normal(60, 10, 2000)
    strata = permutation_strata(Covariates(("age", "sex"), np.column_stack([age, sex])))
    assert len(np.unique(strata)) == 10
    for one in np.unique(strata):
        assert len(np.unique(sex[strata == one])) == 1
        assert np.ptp(age[strata == one]) < np.ptp(age)
    few = permutation_strata(Covariates(("age",), age[:120, None]))
    assert set(few) == {0}  # fifths would leave less than fifty rows each
    assert set(permutation_strata(no_covariates(9))) == {0}
