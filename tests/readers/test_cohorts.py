"""Cohort tables are checked against each other, and no rule loses anybody uncounted."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phenokit.cohort import CaseStatus
from phenokit.errors import BadInput
from phenokit.readers.cohorts import Linking, build_cohort, read_cohort_tables
from phenokit.readers.phecodes import CaseRule, read_phecode_map

CONTROL, CASE, EXCLUDED = CaseStatus

PATIENTS = """\
person_id,sex,birth_date,smoker,site
001,Female,1950-06-15,1,007
002,M,1960-01-01,0,008
003,female,,,009
004,,1940-03-03,1,007
"""
ADMISSIONS = """\
person_id,admission_id,admitted,discharged
001,a1,2020-01-10,2020-01-20
001,a2,2020-03-01,2020-03-05
002,a3,2020-02-01T10:00:00Z,2020-02-03T08:00:00Z
"""
DIAGNOSES = """\
person_id,admission_id,date,icd_code,icd_version
001,a1,2020-01-12,I21.4,10
001,a2,2020-03-02,I21.4,10
001,,2020-06-01,I48.91,10
002,a3,2020-02-01,I48.91,10
003,,2012-02-01,42731,9
005,,2012-02-01,42731,9
"""
RECORDINGS = """\
record_id,person_id,time,admission_id
r1,001,2020-01-15T08:00:00+01:00,
r2,001,2020-03-02T23:30:00-05:00,
r3,002,2020-02-02T12:00:00Z,a3
r4,003,2012-03-01T12:00:00Z,
r5,009,2012-03-01T12:00:00Z,
r6,001,,
"""
FOLLOW_UP = "person_id,end\n001,2021-01-01\n002,2020-02-02\n"
FILES = {
    "patients.csv": PATIENTS,
    "admissions.csv": ADMISSIONS,
    "diagnoses.csv": DIAGNOSES,
    "recordings.csv": RECORDINGS,
    "follow_up.csv": FOLLOW_UP,
}


@pytest.fixture(scope="module")
def map12():
    return read_phecode_map("1.2")


@pytest.fixture
def tables(tmp_path):
    """`tables(**{"patients.csv": text})`: those above, some of them others or left out."""

    def read(**changed):
        for name, text in (FILES | changed).items():
            if text is not None:
                (tmp_path / name).write_text(text)
        return read_cohort_tables(tmp_path)

    return read


def built(tables, phecode_map, *, minimum=1, scored=None, **linking):
    return build_cohort(
        tables,
        phecode_map,
        cases=CaseRule(minimum),
        linking=Linking(**linking),
        scored=scored,
    )


def status_of(cohort, phecode):
    position = cohort.status.phecodes.index(phecode)
    return cohort.status.column(position).tolist()


def steps(cohort):
    return [(s.n_patients, s.n_recordings) for s in cohort.attrition]


def adds_up(cohort):
    for before, after in zip(cohort.attrition, cohort.attrition[1:], strict=False):
        assert after.n_patients + after.dropped_patients == before.n_patients
        assert after.n_recordings + after.dropped_recordings == before.n_recordings
        assert after.dropped_patients >= 0
        assert after.dropped_recordings >= 0
    last = cohort.attrition[-1]
    assert cohort.patients["person_id"].nunique() == last.n_patients
    assert len(cohort.patients) == cohort.status.n_patients
    return True


# Reading


def test_patients_keep_their_ids_and_further_columns(tables):
    patients = tables().patients
    assert patients["person_id"].tolist() == ["001", "002", "003", "004"]
    assert patients["sex"].tolist() == ["Female", "Male", "Female", ""]
    np.testing.assert_array_equal(patients["smoker"], [1.0, 0.0, np.nan, 1.0])
    assert patients["site"].tolist() == ["007", "008", "009", "007"]  # zeros: text


def test_times_keep_the_clock_on_the_wall_and_the_instant(tables):
    recordings = tables().recordings
    assert recordings["time"][1] == pd.Timestamp("2020-03-02 23:30")
    assert recordings["instant"][1] == pd.Timestamp("2020-03-03 04:30")
    assert pd.isna(recordings["time"][5])


def test_a_table_may_be_packed_and_be_given_alone(tmp_path, tables):
    tables()
    read = read_cohort_tables(
        patients=tmp_path / "patients.csv", diagnoses=tmp_path / "diagnoses.csv"
    )
    assert read.recordings is None
    assert len(read.diagnoses) == 6


def test_local_times_have_to_be_announced(tmp_path, tables):
    local = RECORDINGS.replace("Z", "").replace("+01:00", "").replace("-05:00", "")
    with pytest.raises(BadInput, match="say that times are local") as caught:
        tables(**{"recordings.csv": local, "admissions.csv": None})
    assert caught.value.code == "E_TIMEZONE"
    assert caught.value.where == "column time, rows 2, 3, 4, 5, 6"
    toml = 'name = "x"\ntimes = "local"\n'
    bare = ADMISSIONS.replace("Z", "")
    read = tables(**{"cohort.toml": toml, "recordings.csv": local, "admissions.csv": bare})
    assert read.recordings["instant"][1] == pd.Timestamp("2020-03-02 23:30")
    assert "Times are local, without a zone." in read.notes


@pytest.mark.parametrize(
    ("name", "old", "new", "code", "where"),
    [
        ("patients.csv", "002,M", "001,M", "E_DUP_ID", "column person_id, rows 2, 3"),
        ("patients.csv", "002,M", "002,x", "E_RANGE", "column sex, row 3"),
        ("patients.csv", "1960-01-01", "1.1.60", "E_DATE", "column birth_date, row 3"),
        ("patients.csv", "1960-01-01", "2020-02-02", "E_DATE", "column admitted, row 4"),
        ("admissions.csv", "2020-03-05", "2020-02-5", "E_DATE", "column discharged, row 3"),
        ("admissions.csv", "03-05", "02-05", "E_DATE", "column discharged, row 3"),
        ("admissions.csv", "08:00:00Z", "08:00", "E_TIMEZONE", "column discharged, row 4"),
        ("admissions.csv", ",a2,", ",a1,", "E_DUP_ID", "column admission_id, rows 2, 3"),
        ("diagnoses.csv", "2020-06-01", "1950-06-14", "E_DATE", "column date, row 4"),
        ("diagnoses.csv", "42731,9", "42731,10", "E_CODE", "column icd_code, rows 6, 7"),
        ("recordings.csv", "r2,", "r1,", "E_DUP_ID", "column record_id, rows 2, 3"),
        ("recordings.csv", "Z,a3", "Z,a1", "E_RANGE", "column admission_id, row 4"),
        ("recordings.csv", "2020-01-15", "1949-01-15", "E_DATE", "column time, row 2"),
        ("follow_up.csv", "2020-02-02", "2020-02-01", "E_DATE", "column end, row 3"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_by_column_and_rows(tables, name, old, new, code, where):
    changed = FILES[name].replace(old, new)
    assert changed != FILES[name]
    with pytest.raises(BadInput) as caught:
        tables(**{name: changed})
    assert (caught.value.code, caught.value.where) == (code, where)


@pytest.mark.parametrize("name", ["patients.csv", "diagnoses.csv"])
def test_a_missing_table_is_named(tables, name):
    with pytest.raises(BadInput, match=name.removesuffix(".csv")) as caught:
        tables(**{name: None})
    assert caught.value.code == "E_MISSING"


def test_the_cohort_table_of_phetk_is_a_patients_table(tmp_path, map12):
    (tmp_path / "cohort.csv").write_text(
        "person_id,natural_age,sex_at_birth,pc1\n1,61.5,1,-0.01\n2,50,0,2e-3\n"
    )
    (tmp_path / "counts.csv").write_text("person_id,phecode,count\n1,600,3\n2,411.2,1\n")
    cohort = built(
        read_cohort_tables(
            patients=tmp_path / "cohort.csv", phecode_counts=tmp_path / "counts.csv"
        ),
        map12,
        minimum=2,
    )
    assert cohort.patients["sex"].tolist() == ["Male", "Female"]
    assert cohort.patients[["natural_age", "pc1"]].to_numpy().tolist() == [
        [61.5, -0.01],
        [50.0, 0.002],
    ]
    assert status_of(cohort, "600") == [CASE, EXCLUDED]
    assert status_of(cohort, "411.2") == [CONTROL, EXCLUDED]
    assert any("1 is taken for male" in note for note in cohort.notes)


def test_a_sex_of_zero_and_one_is_not_guessed(tables):
    with pytest.raises(BadInput, match="not Female, Male"):
        tables(**{"patients.csv": "person_id,sex\n001,1\n002,0\n"})


# Linking, by hand


def test_each_linking_rule_counts_its_own_codes(tables, map12):
    read = tables()
    any_time = built(read, map12, rule="any_time", minimum=1)
    assert any_time.patients["record_id"].tolist() == ["r1", "r3", "r4"]
    assert status_of(any_time, "411.2") == [CASE, CONTROL, CONTROL]
    assert status_of(any_time, "427.21") == [CASE, CASE, CASE]
    assert steps(any_time) == [(4, 6), (4, 5), (3, 5), (3, 4), (3, 3)]

    month = built(read, map12, rule="window", days_before=30, days_after=30)
    assert status_of(month, "411.2") == [CASE, CONTROL, CONTROL]
    assert status_of(month, "427.21") == [CONTROL, CASE, CASE]

    stay = built(read, map12, rule="same_admission")
    assert stay.patients["record_id"].tolist() == ["r1", "r3"]
    assert stay.patients["admission_id"].tolist() == ["a1", "a3"]
    assert status_of(stay, "411.2") == [CASE, CONTROL]
    assert status_of(stay, "427.21") == [CONTROL, CASE]
    for cohort in (any_time, month, stay):
        assert adds_up(cohort)


def test_two_codes_on_distinct_dates_are_asked_of_the_linked_codes(tables, map12):
    year = built(tables(), map12, rule="window", days_before=7, minimum=2)
    assert status_of(year, "411.2") == [CASE, CONTROL, CONTROL]
    weeks = built(tables(), map12, rule="window", days_before=7, days_after=20, minimum=2)
    assert status_of(weeks, "411.2") == [EXCLUDED, CONTROL, CONTROL]


@pytest.mark.parametrize(
    ("unit", "records"),
    [
        ("first", ["r1", "r3", "r4"]),
        ("last", ["r2", "r3", "r4"]),
        ("first_in_admission", ["r1", "r3"]),
        ("all", ["r1", "r2", "r6", "r3", "r4"]),
    ],
)
def test_each_unit_takes_its_recordings(tables, map12, unit, records):
    cohort = built(tables(), map12, unit=unit)
    assert cohort.patients["record_id"].tolist() == records
    assert adds_up(cohort)


def test_an_evening_ecg_belongs_to_the_day_on_the_wall(tables, map12):
    # r2: 23:30 on 2 March in New York is 3 March in UTC; the code is of 2 March.
    cohort = built(tables(), map12, rule="window", days_after=0, unit="last")
    assert status_of(cohort, "411.2") == [CASE, CONTROL, CONTROL]


def test_age_is_that_at_the_recording(tables, map12):
    age = built(tables(), map12).patients["age"]
    assert age[0] == pytest.approx(
        (pd.Timestamp("2020-01-15") - pd.Timestamp("1950-06-15")).days / 365.25
    )
    assert np.isnan(age[2])  # fmt: skip


def test_without_recordings_a_row_is_a_patient_at_the_first_admission(tables, map12):
    cohort = built(tables(**{"recordings.csv": None, "follow_up.csv": None}), map12)
    assert cohort.patients["person_id"].tolist() == ["001", "002", "003", "004"]
    assert cohort.patients["record_id"].tolist() == [""] * 4
    assert cohort.patients["time"][0] == pd.Timestamp("2020-01-10")
    assert status_of(cohort, "427.21") == [CASE, CASE, CASE, CONTROL]
    assert any("1 of 4 patients have no linked diagnosis" in note for note in cohort.notes)


def scores(**outcomes):
    rows = [(record, *outcome) for record, outcome in outcomes.items()]
    return pd.DataFrame(rows, columns=pd.Index(["record_id", "outcome", "code"]))


def test_recordings_that_were_not_scored_are_dropped_and_counted_by_code(tables, map12):
    scored = scores(
        r1=("rejected", "E_LEADS"),
        r2=("scored_with_warning", "W_WINDOW"),
        r3=("abstained", "A_NOISE"),
        r4=("scored", "OK"),
        foreign=("scored", "OK"),
    )
    cohort = built(tables(), map12, scored=scored)
    assert cohort.patients["record_id"].tolist() == ["r2", "r4"]
    rules = [step.rule for step in cohort.attrition]
    assert "Recordings that were not rejected (E_LEADS 1)" in rules
    assert "Recordings that were not abstained (A_NOISE 1)" in rules
    assert cohort.attrition[0].n_recordings == 7
    assert adds_up(cohort)


def test_scores_that_name_patients_need_no_recordings_table(tables, map12):
    scored = scores(x=("scored", "OK"), y=("scored", "OK"))
    scored["patient_id"] = ["003", None]
    read = tables(**{"recordings.csv": None})
    cohort = built(read, map12, scored=scored)
    assert cohort.patients["record_id"].tolist() == ["x"]
    assert adds_up(cohort)


@pytest.mark.parametrize(
    ("changes", "linking", "code", "words"),
    [
        (
            {"recordings.csv": None},
            {"rule": "window"},
            "E_COLUMNS",
            "no recordings to link",
        ),
        (
            {"recordings.csv": "record_id,person_id\na,001\nb,001\n"},
            {},
            *(
                "E_COLUMNS",
                "1 patients have several recordings and no recording has a time",
            ),
        ),
        (
            {"recordings.csv": "record_id,person_id\na,001\n"},
            {"rule": "window"},
            *("E_COLUMNS", "add the column time"),
        ),
        (
            {"recordings.csv": "record_id,person_id\na,001\n", "admissions.csv": None},
            {"rule": "same_admission"},
            *("E_COLUMNS", "no admissions table"),
        ),
        (
            {"diagnoses.csv": "person_id,icd_code,icd_version\n001,I10,10\n"},
            {"rule": "same_admission"},
            *("E_COLUMNS", "no column admission_id"),
        ),
        (
            {"diagnoses.csv": "person_id,icd_code,icd_version\n001,I10,10\n"},
            {"rule": "window"},
            *("E_COLUMNS", "no column date"),
        ),
        (
            {"recordings.csv": "record_id,person_id,time\na,008,2020-01-01\n"},
            {},
            *("E_EMPTY", "Nobody is left after the rule: Patients with a recording"),
        ),
    ],
)
def test_a_rule_that_cannot_be_applied_is_refused_with_the_remedy(
    tables, map12, changes, linking, code, words
):
    read = tables(**changes)
    with pytest.raises(BadInput, match=words) as caught:
        built(read, map12, **linking)
    assert caught.value.code == code


def test_one_recording_a_patient_needs_no_time(tables, map12):
    recordings = "record_id,person_id\na,001\nb,003\n"
    cohort = built(tables(**{"recordings.csv": recordings}), map12, unit="first")
    assert cohort.patients["record_id"].tolist() == ["a", "b"]


@pytest.mark.parametrize(
    ("patient", "words"), [("002", "of another patient"), (None, "scores twice")]
)
def test_scores_that_contradict_the_recordings_are_refused(tables, map12, patient, words):
    scored = pd.DataFrame({"record_id": ["r1"], "outcome": ["scored"]})
    scored["patient_id"] = patient
    if patient is None:
        scored = pd.concat([scored, scored])
    with pytest.raises(BadInput, match=words):
        built(tables(), map12, scored=scored)


def test_notes_say_the_rules_and_what_is_not_known(tables, map12):
    notes = " ".join(built(tables(), map12, rule="window", minimum=2).notes)
    assert "at least 2 codes of the phecode on distinct dates" in notes
    assert "0 days before the day of the ECG to 365 days after" in notes
    assert "5 of 5 ICD codes (100.0 %) lead to a phecode" in notes
    assert "1 codes are of people outside the cohort" in notes


# Laws


@st.composite
def random_files(draw):
    """Tables of a few people with holes of every kind."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    people = [f"p{i}" for i in range(8)]
    listed = [p for p in people if rng.random() < 0.8] or people[:1]
    patients = "person_id,sex\n" + "".join(
        f"{p},{rng.choice(['F', 'M', ''])}\n" for p in listed
    )
    admissions = "person_id,admission_id,admitted,discharged\n" + "".join(
        f"{rng.choice(people)},a{i},2020-01-{day:02d},2020-01-{day + 3:02d}\n"
        for i, day in enumerate(rng.integers(1, 20, 6))
    )
    diagnoses = "person_id,admission_id,date,icd_code,icd_version\n" + "".join(
        f"{rng.choice(people)},{rng.choice(['', 'a0', 'a1', 'a2'])},2020-01-{day:02d},"
        f"{rng.choice(['I214', 'I4891', 'I10', 'Z66'])},10\n"
        for day in rng.integers(1, 29, 20)
    )
    recordings = "record_id,person_id,time\n" + "".join(
        f"r{i},{rng.choice(people)},"
        + ("" if rng.random() < 0.2 else f"2020-01-{day:02d}T0{day % 10}:00:00Z")
        + "\n"
        for i, day in enumerate(rng.integers(1, 29, 15))
    )
    files = {
        "patients.csv": patients,
        "admissions.csv": admissions,
        "diagnoses.csv": diagnoses,
        "recordings.csv": recordings,
    }
    outcomes = ["scored", "scored_with_warning", "rejected", "abstained"]
    scored = pd.DataFrame(
        [
            (f"r{i}", rng.choice(outcomes), rng.choice(["A", "B"]))
            for i in range(18)
            if rng.random() < 0.8
        ],
        columns=pd.Index(["record_id", "outcome", "code"]),
    )
    linking = Linking(
        rng.choice(["same_admission", "window", "any_time"]),
        unit=rng.choice(["first", "last", "first_in_admission", "all"]),
    )
    return files, scored if rng.random() < 0.5 else None, linking


def shuffled(files):
    rng = np.random.default_rng(9)
    moved = {}
    for name, text in files.items():
        header, *rows = text.splitlines(keepends=True)
        moved[name] = "".join([header, *(rows[i] for i in rng.permutation(len(rows)))])
    return moved


@settings(max_examples=25, deadline=None)
@given(drawn=random_files())
def test_no_rule_loses_anybody_uncounted_and_no_order_matters(
    tmp_path_factory, map12, drawn
):
    files, scored, linking = drawn
    found = []
    for content in (files, shuffled(files)):
        folder = tmp_path_factory.mktemp("cohort")
        for name, text in content.items():
            (folder / name).write_text(text)
        try:
            read = read_cohort_tables(folder)
            found.append(
                build_cohort(read, map12, cases=CaseRule(1), linking=linking, scored=scored)
            )
        except BadInput as error:
            found.append(error)
    one, other = found
    if isinstance(one, BadInput):
        assert one.code in ("E_EMPTY", "E_COLUMNS")
        assert str(one) == str(other)
        return
    assert adds_up(one)
    assert one.attrition == other.attrition
    assert one.notes == other.notes
    pd.testing.assert_frame_equal(one.patients, other.patients)
    pd.testing.assert_frame_equal(one.counts, other.counts)
    if linking.unit != "all":
        assert one.patients["person_id"].is_unique
