"""A cohort followed to the first code of a phecode: planted truth, and who is in it."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from phenokit.batch.follow_up import FollowUpResult, follow_to_code, split_by_testing
from phenokit.errors import BadInput
from phenokit.evidence.cox import CoxFit
from phenokit.readers.cohorts import CohortTables, read_cohort_tables
from phenokit.readers.diagnoses import Diagnoses
from phenokit.readers.phecodes import read_phecode_map
from phenokit.simulation.cohort import simulate_cohort
from phenokit.simulation.hospital import cohort_files

DAY = np.timedelta64(1, "D")
START = np.datetime64("2015-01-01")
HAZARDS = {"428.1": 2, "433.21": 1, "427.42": 1}
"""Phecodes whose hazard the ECG raises, and by how many conditions of it."""


@pytest.fixture(scope="module")
def phecode_map():
    return read_phecode_map("1.2")


@pytest.fixture(scope="module")
def hospital(tmp_path_factory):
    """The tables of the demo cohort, each patient's first ECG, and what it shows."""
    folder = tmp_path_factory.mktemp("hospital")
    for name, data in cohort_files(
        simulate_cohort(2000, seed=1), seed=1, model="-"
    ).items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
    tables = read_cohort_tables(folder)
    shown = pd.read_csv(folder / "truth/conditions.csv").sort_values("time")
    first = shown.groupby("person_id").first().reset_index()
    birth = tables.patients.set_index("person_id")["birth_date"]
    entry = np.array(first["time"].str[:10].tolist(), "datetime64[D]")
    born = np.array(birth.loc[first["person_id"]].tolist(), "datetime64[D]")
    first = first.assign(entry=entry, decade=(entry - born) / DAY / 3652.5)
    effects = pd.read_csv(folder / "truth/effects.csv", dtype={"phecode": str})
    return tables, first, effects


def by_hand(first_code, end, *, sex="Female", reason=None, code="I48.91"):
    """Tables of patients p00000 ...: day of the first code (None: never), last day."""
    people = [f"p{k:05}" for k in range(len(end))]
    coded = [(p, START + d * DAY) for p, d in zip(people, first_code, strict=True) if d]
    follow_up = pd.DataFrame({"person_id": people, "end": START + np.array(end) * DAY})
    if reason is not None:
        follow_up["reason"] = reason
    table = pa.table(
        {
            "person_id": pa.array([p for p, _ in coded]).dictionary_encode(),
            "icd_code": pa.array([code.replace(".", "")] * len(coded)).dictionary_encode(),
            "icd_version": pa.array(["10"] * len(coded)).dictionary_encode(),
            "date": pa.array([day.astype(object) for _, day in coded], pa.date32()),
        }
    )
    patients = pd.DataFrame({"person_id": people, "sex": sex})
    tables = CohortTables(patients, Diagnoses(table), follow_up=follow_up)
    entry = pd.DataFrame({"person_id": people, "entry": START + 10 * DAY})
    return tables, entry


def hazards(found: FollowUpResult) -> CoxFit:
    assert found.hazards is not None, found.refusal
    return found.hazards


@pytest.mark.parametrize("phecode", HAZARDS)
def test_the_planted_hazard_ratios_of_the_demo_cohort_are_in_their_intervals(
    hospital, phecode_map, phecode
):
    tables, first, effects = hospital
    planted = effects.loc[effects["phecode"] == phecode].set_index("driver")["effect"]
    drivers = [name for name in planted.index if name != "age"]
    assert len(drivers) == HAZARDS[phecode]
    shown = first["conditions"].str.split("+")
    has = {name: shown.map(lambda c, n=name: n in c).to_numpy(float) for name in drivers}
    covariates = pd.DataFrame({**has, "age": first["decade"]}).drop(columns=drivers[0])
    found = follow_to_code(
        tables, phecode_map, first, has[drivers[0]], phecode, covariates=covariates,
        value_name=drivers[0],
    )  # fmt: skip
    table = hazards(found).table.set_index("covariate")
    for name, effect in planted.items():
        row = table.loc[name]
        assert row["conf_int_1"] < np.exp(effect) < row["conf_int_2"], name
    assert found.curves.log_rank is not None
    assert found.curves.log_rank.p_value < 1e-5
    assert [curve.stratum for curve in found.curves.curves][1] == drivers[0]


def test_every_patient_is_followed_or_left_out_once_and_for_a_reason(hospital, phecode_map):
    tables, first, _ = hospital
    similarity = np.random.default_rng(1).normal(size=len(first))
    similarity[:7] = np.nan
    found = follow_to_code(tables, phecode_map, first, similarity, "600", who="patients")
    steps = found.attrition
    assert steps[0].n_patients == 2000
    for before, after in pairwise(steps):
        assert after.n_patients + after.dropped_patients == before.n_patients
    followed = [curve.n for curve in found.curves.curves]
    assert sum(followed) == steps[-1].n_patients
    assert max(followed) - min(followed) <= 1  # thirds
    assert steps[1].dropped_patients == 7
    women = (tables.patients["sex"] == "Female").sum()
    assert steps[3].dropped_patients == pytest.approx(women, abs=7)  # prostate
    assert "of another or no known sex" in found.sentence


def test_a_code_on_the_day_of_entry_or_before_is_no_event_and_one_after_is(phecode_map):
    # Entry on day 10: a had it before, b on the day, c after 5 days, d and e never.
    tables, patients = by_hand([9, 10, 15, None, None], [40, 40, 40, 30, 10])
    found = follow_to_code(
        tables, phecode_map, patients, ["x"] * 5, "427.21", with_hazards=False
    )
    (curve,) = found.curves.curves
    assert (curve.n, curve.n_events) == (2, 1)
    assert curve.times.tolist() == [0, 5]
    assert curve.censored.tolist() == [20]
    assert [step.dropped_patients for step in found.attrition] == [0, 0, 0, 0, 2, 1]
    assert "Left out: 2 who had the code by the day of entry, 1 not seen" in found.sentence


def test_death_competes_where_the_table_says_who_died(phecode_map):
    coded, end = [15, None, None, None], [40, 20, 25, 30]
    reason = ["last contact", "died", "Died", ""]
    tables, patients = by_hand(coded, end, reason=reason)
    values = ["x"] * 4
    found = follow_to_code(tables, phecode_map, patients, values, "427.21")
    assert found.incidence is not None
    code, death = found.incidence.curves
    # 4 at risk at day 5 after entry, then 3 and 2 at the two deaths.
    assert code.estimate.tolist() == [0, 0.25, 0.25, 0.25]
    np.testing.assert_allclose(death.estimate, [0, 0, 0.25, 0.5])
    assert "2 died before it" in found.curves.notes[-1]
    assert tables.follow_up is not None
    without = replace(tables, follow_up=tables.follow_up.drop(columns="reason"))
    silent = follow_to_code(without, phecode_map, patients, values, "427.21")
    assert silent.incidence is None
    assert "Deaths are not known" in silent.curves.notes[-1]


def test_the_tested_are_compared_with_those_not_yet_tested_without_immortal_time(
    phecode_map,
):
    # Tests at random, and no effect: whoever lives long without the code gets tested.
    rng = np.random.default_rng(5)
    n = 1500
    coded, tested = (11 + rng.exponential(400, n).astype(int) for _ in range(2))
    tables, patients = by_hand(coded, np.full(n, 1000))
    recorded = patients["entry"].to_numpy()
    is_tested = tested < np.minimum(coded, 1000)
    naive = hazards(
        follow_to_code(tables, phecode_map, patients, is_tested.astype(float), "427.21")
    ).table.iloc[0]
    assert naive["conf_int_2"] < 0.7
    day = np.where(is_tested, START + tested * DAY, np.datetime64("NaT"))
    rows, after = split_by_testing(patients["person_id"].tolist(), recorded, day)
    found = follow_to_code(tables, phecode_map, rows, after, "427.21", value_name="tested")
    row = hazards(found).table.iloc[0]
    assert row["conf_int_1"] < 1 < row["conf_int_2"]
    untested, tested_ones = found.curves.curves
    assert found.attrition[-1].n_patients == n
    assert untested.n == n
    assert untested.n_events + tested_ones.n_events == (coded <= 1000).sum()


def test_a_row_ends_at_its_exit_and_a_test_at_the_recording_is_tested_from_there():
    days = START + np.array([5, 20, 0]) * DAY
    days[2] = np.datetime64("NaT")
    rows, after = split_by_testing(["a", "b", "c"], np.full(3, START + 10 * DAY), days)
    assert rows["person_id"].tolist() == ["b", "c", "a", "b"]
    assert after.tolist() == [0, 0, 1, 1]
    assert ((rows["entry"] - START) // DAY).tolist() == [10, 10, 10, 20]
    assert rows["exit"].isna().tolist() == [False, True, True, True]


def test_a_hazard_ratio_is_per_sd_and_the_adjusted_model_says_whom_it_leaves_out(
    hospital, phecode_map
):
    tables, first, _ = hospital
    value = first["decade"].to_numpy() * 10
    sex = tables.patients.set_index("person_id")["sex"][first["person_id"]].to_numpy()
    covariates = pd.DataFrame({"sex": sex, "site": "A", "creatinine": 1.0 + (value > 60)})
    covariates.loc[:99, "creatinine"] = np.nan
    found = follow_to_code(
        tables, phecode_map, first, value, "428.1", covariates=covariates, value_name="age"
    )
    row = hazards(found).table.iloc[0]
    assert row["covariate"] == f"age, per SD ({value.std(ddof=1):.3g})"
    assert "site is the same in all" in " ".join(hazards(found).notes)
    assert hazards(found).n < sum(curve.n for curve in found.curves.curves)
    assert "lack a covariate" in " ".join(hazards(found).notes)
    other = follow_to_code(tables, phecode_map, first, 5 - value / 100, "428.1")
    one = follow_to_code(tables, phecode_map, first, value, "428.1")
    inverse = 1 / hazards(other).table["hazard_ratio"][0]
    assert hazards(one).table["hazard_ratio"][0] == pytest.approx(inverse, rel=1e-6)


def test_a_model_that_is_refused_leaves_the_curves(phecode_map):
    tables, patients = by_hand([15, None, None, 16], [40, 40, 30, 20])
    found = follow_to_code(
        tables, phecode_map, patients, np.array([0.1, 0.2, 0.3, 0.4]), "427.21", n_strata=2
    )
    assert found.hazards is None
    assert "Too few events (2)" in found.refusal
    assert [curve.stratum for curve in found.curves.curves] == [
        "lowest half (0.1 to 0.2)",
        "highest half (0.3 to 0.4)",
    ]


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ({"follow_up": None}, "E_MISSING", "no follow-up table"),
        ({"phecode": "427.99"}, "E_CODE", "427.99 is not in the map"),
        ({"twice": True}, "E_DUP_ID", "rows whose days overlap"),
        ({"origin": START + 11 * DAY}, "E_RANGE", "origin of time lies after"),
        ({"entry": START + 99 * DAY}, "E_EMPTY", "Nobody is followed"),
    ],
)
def test_what_cannot_be_followed_is_refused_by_name(phecode_map, change, code, words):
    tables, patients = by_hand([15, None, None], [40, 40, 30])
    if "follow_up" in change:
        tables = replace(tables, follow_up=None)
    if "twice" in change:
        patients = patients.assign(person_id="p00000")
    patients = patients.assign(
        **{k: v for k, v in change.items() if k in ("origin", "entry")}
    )
    with pytest.raises(BadInput, match=words) as caught:
        follow_to_code(
            tables, phecode_map, patients, ["x"] * 3, change.get("phecode", "427.21")
        )
    assert caught.value.code == code
