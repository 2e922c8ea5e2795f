"""MIMIC-IV's hospital tables, its list of ECGs and its laboratory tests."""

import gzip
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from phenokit.cohort import CaseStatus
from phenokit.errors import BadInput
from phenokit.readers.cohorts import Linking, build_cohort, read_cohort_tables
from phenokit.readers.mimic import lab_exposure, lab_outcome, read_mimic
from phenokit.readers.phecodes import CaseRule, read_phecode_map

CONTROL, CASE, EXCLUDED = CaseStatus

HOSP = {
    "patients": (
        "subject_id,gender,anchor_age,anchor_year,anchor_year_group,dod\n"
        "10,F,50,2150,2011 - 2013,\n11,M,91,2120,2011 - 2013,2121-01-01\n"
    ),
    "admissions": (
        "subject_id,hadm_id,admittime,dischtime,deathtime\n"
        "10,1,2152-03-01 23:10:00,2152-03-05 12:00:00,\n"
        "10,2,2155-01-01 08:00:00,2155-01-02 08:00:00,\n"
        "11,3,2121-01-01 08:00:00,2120-12-31 08:00:00,\n"
    ),
    "diagnoses_icd": (
        "subject_id,hadm_id,seq_num,icd_code,icd_version\n"
        "10,1,1,I4891,10\n10,2,1,I4891,10\n11,3,1,42731,9\n11,3,2,42732,9\n"
    ),
    "d_labitems": "itemid,label,fluid,category\n7,Troponin T,Blood,Chemistry\n"
    "8,Lactate,Blood,Gas\n9,Lactate,Ascites,Gas\n",
    "labevents": (
        "labevent_id,subject_id,itemid,charttime,value,valuenum,comments\n"
        '1,10,7,2152-03-02 10:00:00,0.3,0.3,"a\nb"\n'
        "2,10,7,2152-03-01 10:00:00,0.1,0.1,\n"
        "3,10,7,2152-03-04 10:00:00,<0.01,,\n"
        "4,11,7,2121-01-01 10:00:00,<0.01,,\n"
        "5,11,8,2121-01-01 10:00:00,2.5,2.5,\n"
    ),
}
RECORD_LIST = (
    "subject_id,study_id,file_name,ecg_time,path\n"
    "10,1,1,2152-03-02 09:00:00,files/p10/s1/1\n"
    "10,2,2,2154-01-01 09:00:00,files/p10/s2/2\n"
    "11,3,3,2121-01-01 09:00:00,files/p11/s3/3\n"
)


@pytest.fixture
def hosp(tmp_path):
    """`hosp(**{"admissions": text})`: a folder as MIMIC-IV has it, every table packed."""

    def write(**changed):
        for name, text in (HOSP | changed).items():
            (tmp_path / f"{name}.csv.gz").write_bytes(gzip.compress(text.encode()))
        return tmp_path

    return write


@pytest.fixture(scope="module")
def map12():
    return read_phecode_map("1.2")


def status_of(cohort, phecode):
    return cohort.status.column(cohort.status.phecodes.index(phecode)).tolist()


def test_a_hosp_folder_is_a_cohort(hosp, map12):
    tables = read_cohort_tables(hosp())
    cohort = build_cohort(tables, map12, cases=CaseRule(2), linking=Linking())
    assert cohort.patients["age"].tolist() == [52.0, 92.0]  # by whole years from the anchor
    assert cohort.patients["sex"].tolist() == ["Female", "Male"]
    # Two admissions are two dates; two codes of one admission are one.
    assert status_of(cohort, "427.21") == [CASE, EXCLUDED]
    assert any("times have no zone" in note for note in cohort.notes)


def test_an_ecg_is_linked_to_its_admission_by_time(hosp, map12):
    folder = hosp()
    (folder / "record_list.csv").write_text(RECORD_LIST)
    cohort = build_cohort(
        read_mimic(folder), map12, cases=CaseRule(1), linking=Linking("same_admission")
    )
    assert cohort.patients["record_id"].tolist() == ["files/p10/s1/1"]
    assert cohort.patients["admission_id"].tolist() == ["1"]
    assert [step.n_recordings for step in cohort.attrition] == [3, 3, 3, 1, 1]


def test_an_admission_that_ends_before_it_begins_keeps_its_codes_and_is_noted(hosp):
    tables = read_mimic(hosp())
    assert tables.admissions is not None
    assert tables.admissions["discharged"].isna().tolist() == [False, False, True]
    assert any("1 admissions end before they begin" in note for note in tables.notes)
    assert str(tables.diagnoses.table["date"][2]) == "2121-01-01"


@pytest.mark.parametrize(
    ("name", "old", "new", "code", "where"),
    [
        ("patients", "11,M", "10,M", "E_DUP_ID", "column subject_id, rows 2, 3"),
        ("patients", "11,M", "11,X", "E_RANGE", "column gender, row 3"),
        ("admissions", "23:10:00", "25:10:00", "E_DATE", "column admittime, row 2"),
        ("diagnoses_icd", "10,2,1", "10,3,1", "E_RANGE", "column hadm_id, row 3"),
        ("diagnoses_icd", "42731,9", "42731,10", "E_CODE", "column icd_code, row 4"),
    ],
)
def test_damaged_tables_are_refused_by_column_and_row(hosp, name, old, new, code, where):
    folder = hosp(**{name: HOSP[name].replace(old, new)})
    with pytest.raises(BadInput) as caught:
        read_mimic(folder)
    assert (caught.value.code, caught.value.where) == (code, where)


@pytest.mark.parametrize(
    ("summary", "value"), [("first", 0.1), ("mean", 0.2), ("max", 0.3)]
)
def test_a_laboratory_test_is_one_number_a_person_who_has_one(hosp, summary, value):
    found = lab_exposure(hosp(), "Troponin T", summary=summary)
    expected = pd.DataFrame({"person_id": ["10"], "value": [value], "n": [2]})
    pd.testing.assert_frame_equal(found, expected)


@pytest.mark.parametrize(
    ("test", "code", "words"),
    [
        ("Lactate", "E_CODE", r"several items \(8, 9\)"),
        ("Sodium", "E_CODE", "no item"),
        (9, "E_EMPTY", "Nobody has a number"),
    ],
)
def test_a_test_that_cannot_be_told_is_refused(hosp, test, code, words):
    with pytest.raises(BadInput, match=words) as caught:
        lab_exposure(hosp(), test)
    assert caught.value.code == code


FLAGS = (
    "labevent_id,subject_id,itemid,charttime,value,valuenum,flag\n"
    "1,11,7,2121-01-02 10:00:00,___,0.3,abnormal\n"
    "2,11,7,2121-01-01 10:00:00,<0.01,,\n"
    "3,10,8,2152-03-04 10:00:00,9,9,abnormal\n"
)


@pytest.mark.parametrize(("rule", "outcome"), [("any", 1), ("first", 0)])
def test_a_laboratory_outcome_is_known_of_the_tested_alone(hosp, rule, outcome):
    found = lab_outcome(hosp(labevents=FLAGS), 7, rule=rule)
    assert found["person_id"].tolist() == ["10", "11"]
    assert found["tested"].tolist() == [False, True]
    np.testing.assert_array_equal(found["outcome"], [np.nan, outcome])
    assert found["n"].tolist() == [0, 2]


@pytest.mark.parametrize(
    ("labevents", "code", "words"),
    [
        (FLAGS.replace(",7,", ",6,"), "E_EMPTY", "Nobody was tested"),
        (FLAGS.replace(",11,", ",12,"), "E_RANGE", "1 people who are not in the patients"),
        (FLAGS.replace("flag", "mark"), "E_COLUMNS", "lacks a column"),
    ],
)
def test_a_laboratory_outcome_that_cannot_be_told_is_refused(hosp, labevents, code, words):
    with pytest.raises(BadInput, match=words) as caught:
        lab_outcome(hosp(labevents=labevents), 7)
    assert caught.value.code == code


@pytest.fixture(scope="module")
def demo():
    if "PHENOKIT_DATA" not in os.environ:
        pytest.skip("PHENOKIT_DATA is not set")
    return Path(os.environ["PHENOKIT_DATA"]) / "mimic-iv-demo-hosp"


@pytest.mark.realdata
def test_the_mimic_demo_has_the_known_mapping_rate_and_common_phecodes(demo, map12):
    cohort = build_cohort(
        read_cohort_tables(demo), map12, cases=CaseRule(1), linking=Linking()
    )
    assert cohort.mapping is not None
    assert cohort.counts is not None
    # 88.5 % as the map spells its codes; 33 codes more where its lower-case x matches.
    assert (cohort.mapping.n_rows, cohort.mapping.n_codes) == (4506, 1474)
    assert cohort.mapping.rate == pytest.approx(0.8939, abs=1e-4)
    counts = cohort.counts.set_index("phecode")
    assert counts.loc[["401", "272"], "cases"].tolist() == [68, 51]
    assert (counts.sum(axis=1) == 100).all()
    assert len(counts) == 1817


@pytest.mark.realdata
def test_laboratory_exposures_of_the_mimic_demo(demo):
    haemoglobin = lab_exposure(demo, 51222, summary="mean")
    assert len(haemoglobin) == 100
    assert haemoglobin["value"].between(5, 18).all()


@pytest.mark.realdata
def test_troponin_t_of_the_mimic_demo_is_known_of_59_of_100_patients(demo):
    any_abnormal = lab_outcome(demo, "Troponin T")
    first = lab_outcome(demo, 51003, rule="first")
    assert (len(any_abnormal), any_abnormal["tested"].sum()) == (100, 59)
    assert any_abnormal["outcome"].isna().sum() == 41
    assert (any_abnormal["outcome"].sum(), first["outcome"].sum()) == (30, 21)
