"""Outcomes of the tested: a risk table, a laboratory test of a cohort."""

import numpy as np
import pandas as pd
import pytest

from phenokit.errors import BadInput
from phenokit.readers.outcomes import (
    first_result_days,
    lab_tests,
    read_lab_outcome,
    read_risk_table,
)

TABLE = """\
person_id,age,ward,T,Y
008,61,A,1,1
009,47,B,0,
010,55,A,1,0
"""

LABS = """\
person_id,time,test,value,unit
p1,2020-01-02T08:00:00Z,troponin T,60,ng/L
p1,2020-01-01T08:00:00Z,troponin T,10,ng/L
p2,2020-01-01T08:00:00Z,troponin T,52,ng/L
p2,2020-01-01T08:00:00Z,NT-proBNP,100,pg/mL
p9,2020-01-01T08:00:00Z,troponin T,99,ng/L
"""


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text(TABLE)
    return path


@pytest.fixture
def labs(tmp_path):
    path = tmp_path / "labs.csv"
    path.write_text(LABS)
    return path


def read(path, **options):
    options = {"tested": "T", "outcome": "Y", "features": ["age", "ward"]} | options
    return read_risk_table(path, **options)


def test_a_table_keeps_ids_as_text_and_absent_outcomes_absent(table):
    found = read(table)
    assert found.patients["person_id"].tolist() == ["008", "009", "010"]
    assert found.patients["age"].tolist() == [61, 47, 55]
    assert found.patients["ward"].tolist() == ["A", "B", "A"]
    assert found.tested.tolist() == [1, 0, 1]
    np.testing.assert_array_equal(found.outcome, [1, np.nan, 0])


def test_parquet_reads_as_the_csv_does(table, tmp_path):
    found = read(table)
    frame = found.patients.assign(T=found.tested.astype(int), Y=found.outcome)
    frame.to_parquet(tmp_path / "table.parquet")
    again = read(tmp_path / "table.parquet")
    pd.testing.assert_frame_equal(again.patients, found.patients, check_dtype=False)
    np.testing.assert_array_equal(again.tested, found.tested)
    np.testing.assert_array_equal(again.outcome, found.outcome)


def test_rows_without_an_id_are_numbered(tmp_path):
    path = tmp_path / "plain.csv"
    path.write_text("age,T,Y\n50,1,0\n60,0,\n")
    found = read(path, features=["age"])
    assert found.patients["person_id"].tolist() == ["1", "2"]


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"features": ["age", "T"]}, "E_COLUMNS"),
        ({"features": ["weight"]}, "E_COLUMNS"),
        ({"features": []}, "E_COLUMNS"),
        ({"tested": "age"}, "E_COLUMNS"),
        ({"tested": "person_id", "features": ["age"]}, "E_RANGE"),
    ],
)
def test_a_column_without_its_role_is_named(table, options, code):
    with pytest.raises(BadInput) as refusal:
        read(table, **options)
    assert refusal.value.code == code


@pytest.mark.parametrize("name", ["table.parquet", "table.csv"])
def test_a_file_that_is_no_table_is_refused(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"\x00\x01\x02")
    with pytest.raises(BadInput):
        read(path)


def test_the_first_result_decides_or_any(labs):
    people = ["p3", "p2", "p1"]
    first = read_lab_outcome(labs, people, test="troponin T", above=52)
    assert first["person_id"].tolist() == people
    assert first["tested"].tolist() == [False, True, True]
    np.testing.assert_array_equal(first["outcome"], [np.nan, 1, 0])
    assert first["n"].tolist() == [0, 1, 2]
    assert first.attrs["unit"] == "ng/L"
    ever = read_lab_outcome(labs, people, test="troponin T", above=52, rule="any")
    np.testing.assert_array_equal(ever["outcome"], [np.nan, 1, 1])
    low = read_lab_outcome(labs, people, test="troponin T", below=20)
    np.testing.assert_array_equal(low["outcome"], [np.nan, 0, 1])


def test_an_unknown_test_names_those_there_are(labs):
    with pytest.raises(BadInput, match=r"there are NT-proBNP, troponin T") as refusal:
        read_lab_outcome(labs, ["p1"], test="troponin I", above=1)
    assert refusal.value.code == "E_EMPTY"


def test_a_test_without_a_limit_or_with_two_is_refused(labs):
    for above, below in ((None, None), (1.0, 2.0)):
        with pytest.raises(BadInput) as refusal:
            read_lab_outcome(labs, ["p1"], test="troponin T", above=above, below=below)
        assert refusal.value.code == "E_RANGE"


def test_results_in_two_units_are_refused(labs):
    labs.write_text(LABS + "p3,2020-01-01T08:00:00Z,troponin T,0.1,ug/L\n")
    with pytest.raises(BadInput, match="2 units") as refusal:
        read_lab_outcome(labs, ["p1", "p3"], test="troponin T", above=52)
    assert refusal.value.code == "E_UNITS"


def test_tests_are_listed_with_their_use(labs):
    found = lab_tests(labs)
    assert found["test"].tolist() == ["troponin T", "NT-proBNP"]
    assert found["n_patients"].tolist() == [3, 1]
    assert found["n_results"].tolist() == [4, 1]
    assert found["unit"].tolist() == ["ng/L", "pg/mL"]
    assert found["median"].tolist() == [56, 100]


def test_the_first_day_of_a_test_is_that_of_its_earliest_result(tmp_path):
    path = tmp_path / "labs.csv"
    path.write_text(
        "person_id,time,test,value\n1,2020-03-02T08:00:00Z,BNP,1\n1,2020-02-01,BNP,1\n"
        "1,2019-01-01,CRP,1\n2,2020-01-01,CRP,1\n"
    )
    days = first_result_days(path, ["2", "1"], test="BNP")
    assert days.astype(str).tolist() == ["NaT", "2020-02-01"]


def test_a_result_without_a_day_is_named(tmp_path):
    path = tmp_path / "labs.csv"
    path.write_text("person_id,time,test,value\n1,2020-03-02,BNP,1\n1,02.03.2020,BNP,1\n")
    with pytest.raises(BadInput, match="row 3") as refused:
        first_result_days(path, ["1"], test="BNP")
    assert refused.value.code == "E_DATE"
