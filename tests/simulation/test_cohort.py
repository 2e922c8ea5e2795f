"""The simulated cohort: its tables fit together, and what was planted can be found."""

from collections import Counter

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy.stats import binom, norm

from phenokit.readers.phecodes import ancestors, read_phecode_map
from phenokit.simulation.cohort import (
    LAB_TESTS,
    effects,
    simulate_cohort,
    simulate_recording,
)
from phenokit.simulation.phenotypes import (
    PHENOTYPES,
    UNMAPPED_ICD9,
    UNMAPPED_ICD10,
    Phenotype,
)

N = 4000
DRIVEN = [d for d in PHENOTYPES if d.kind in ("prototype", "class")]
UNDRIVEN = [d for d in PHENOTYPES if d.kind in ("confounded", "null")]


@pytest.fixture(scope="module")
def cohort():
    return simulate_cohort(N, seed=11)


@pytest.fixture(scope="module")
def people(cohort):
    """A row a person: the conditions of the first ECG as 0/1, age in decades, and sex."""
    first = cohort.conditions.drop_duplicates("person_id").set_index("person_id")
    people = cohort.patients.set_index("person_id").join(first)
    birth, time = (pd.to_datetime(people[c], utc=True) for c in ("birth_date", "time"))
    shown = people["conditions"].str.get_dummies("+")
    decades = (time - birth).dt.days / 3652.5
    return shown.assign(age=decades, male=(people["sex"] == "Male") * 1.0)


@pytest.fixture(scope="module")
def phecodes():
    return read_phecode_map("1.2")


@pytest.fixture(scope="module")
def coded_dates(cohort, phecodes):
    """Every date on which a person has a code of a phecode."""
    codes = cohort.diagnoses.assign(
        icd_code=cohort.diagnoses["icd_code"].str.replace(".", "")
    )
    links = phecodes.icd.to_pandas().drop_duplicates()
    mapped = codes.merge(links, on=["icd_code", "icd_version"])
    return mapped[["person_id", "phecode", "date"]].drop_duplicates()


def cases(coded_dates, disease: Phenotype, people) -> np.ndarray:
    """1 for two dates or more, 0 for none, NaN for one."""
    dates = coded_dates[coded_dates["phecode"] == disease.phecode]
    counts = dates.groupby("person_id").size().reindex(people.index, fill_value=0)
    return np.select([counts >= 2, counts == 0], [1.0, 0.0], np.nan)


# ---- the tables fit together --------------------------------------------------------


def test_every_diagnosis_lies_in_its_admission_or_on_an_outpatient_day(cohort):
    both = cohort.diagnoses.merge(
        cohort.admissions, on=["person_id", "admission_id"], how="left"
    )
    inpatient = both["admission_id"] != ""
    during = (both["admitted"] <= both["date"]) & (both["date"] <= both["discharged"])
    assert during[inpatient].all()
    assert both["admitted"][~inpatient].isna().all()
    assert inpatient.mean() > 0.3


def test_admissions_of_a_patient_do_not_overlap_and_end_within_follow_up(cohort):
    stays = cohort.admissions.merge(cohort.follow_up, on="person_id")
    assert (stays["admitted"] <= stays["discharged"]).all()
    assert (stays["discharged"] <= stays["end"]).all()
    before = stays.groupby("person_id")["discharged"].shift()
    assert not (before >= stays["admitted"]).any()
    assert stays["admission_id"].is_unique


def test_nothing_happens_before_birth_or_after_the_last_contact(cohort):
    events = pd.concat(
        [
            cohort.diagnoses[["person_id", "date"]],
            cohort.recordings.assign(date=cohort.recordings["time"].str[:10]),
            cohort.labs.assign(date=cohort.labs["time"].str[:10]),
        ]
    )[["person_id", "date"]]
    events = events.merge(cohort.patients).merge(cohort.follow_up)
    assert (events["birth_date"] < events["date"]).all()
    assert (events["date"] <= events["end"]).all()


def test_a_recording_lies_in_the_admission_that_it_names(cohort):
    named = cohort.recordings[cohort.recordings["admission_id"] != ""]
    both = named.merge(cohort.admissions, on=["person_id", "admission_id"])
    assert len(both) == len(named) > 0.5 * len(cohort.recordings)
    day = both["time"].str[:10]
    assert ((both["admitted"] <= day) & (day <= both["discharged"])).all()


def test_icd_9_ends_and_icd_10_begins_on_1_october_2015(cohort):
    dates = cohort.diagnoses.groupby("icd_version")["date"]
    assert dates.max()["9"] <= "2015-09-30"
    assert dates.min()["10"] >= "2015-10-01"
    assert dates.size().min() > 0.3 * len(cohort.diagnoses)


def test_patients_are_adults_of_both_sexes_and_the_first_ones_of_a_larger_cohort(cohort):
    small = simulate_cohort(50, seed=11)
    for name in ("patients", "diagnoses", "recordings", "follow_up", "labs", "phenotypes"):
        larger = getattr(cohort, name)
        mine = larger[larger["person_id"] <= "p000050"]
        pd.testing.assert_frame_equal(getattr(small, name), mine)
    assert set(cohort.patients["sex"]) == {"Female", "Male"}
    assert all(19.9 <= plan.age <= 105 for plan in cohort.plans)


def test_a_cohort_of_nobody_is_refused():
    with pytest.raises(ValueError, match="n_patients is 0"):
        simulate_cohort(0, seed=1)


def test_a_recording_does_not_depend_on_the_others():
    plans = simulate_cohort(3, seed=5).plans
    again = simulate_recording(plans[2]).signal
    simulate_recording(plans[0])
    assert np.array_equal(simulate_recording(plans[2]).signal, again)
    assert again.shape == (12, 2500)


# ---- codes and phecodes -------------------------------------------------------------


def test_every_code_rolls_up_to_its_phecode_and_the_unmapped_to_none(phecodes):
    links = {}
    for code, version, phecode in phecodes.icd.to_pandas().itertuples(index=False):
        links.setdefault((code, version), set()).add(phecode)
    for disease in PHENOTYPES:
        for version, codes in (("9", disease.icd9), ("10", disease.icd10)):
            for code in codes:
                assert disease.phecode in links[code.replace(".", ""), version], code
    for version, codes in (("9", UNMAPPED_ICD9), ("10", UNMAPPED_ICD10)):
        assert not [c for c in codes if (c.replace(".", ""), version) in links]


def test_sexes_of_diseases_are_those_of_the_map_and_nobody_else_has_the_codes(
    cohort, phecodes, coded_dates
):
    restriction = phecodes.info.set_index("phecode")["sex_restriction"]
    assert all(restriction[d.phecode] == d.sex for d in PHENOTYPES)
    sex = cohort.patients.set_index("person_id")["sex"]
    for disease in (d for d in PHENOTYPES if d.sex != "Both"):
        dates = coded_dates[coded_dates["phecode"] == disease.phecode]
        assert set(sex[dates["person_id"]]) == {disease.sex}


def test_no_null_phecode_is_above_below_or_excluded_by_a_driven_one(phecodes):
    def family(disease):
        leaves = {c.replace(".", "") for c in (*disease.icd9, *disease.icd10)}
        table = phecodes.icd.to_pandas()
        return set(table[table["icd_code"].isin(leaves)]["phecode"])

    driven = {p for d in PHENOTYPES if d not in UNDRIVEN for p in family(d)}
    for disease in UNDRIVEN:
        mine = {disease.phecode, *ancestors(disease.phecode)}
        related = mine | set(phecodes.exclusions.get(disease.phecode, ()))
        assert not related & driven, disease.phecode


def test_coding_misses_some_cases_and_rules_out_some_others(cohort, coded_dates, people):
    has = set(cohort.phenotypes.query("phecode == '401.1'")["person_id"])
    dates = coded_dates[coded_dates["phecode"] == "401.1"].groupby("person_id").size()
    missed = len(has - set(dates.index)) / len(has)
    once = (dates == 1).sum() / len(has)
    ruled_out = set(dates.index) - has
    assert 0.02 < missed < 0.06
    assert 0.03 < once < 0.25
    assert ruled_out
    assert dates[list(ruled_out)].max() == 1


def test_some_phecodes_have_fewer_than_20_cases_and_some_fewer_than_5():
    of_demo = Counter(simulate_cohort(2000, seed=1).phenotypes["phecode"])
    counts = [of_demo[d.phecode] for d in PHENOTYPES]
    assert min(counts) < 5
    assert sum(5 <= n < 20 for n in counts) >= 3


# ---- what was planted is there ------------------------------------------------------


@pytest.mark.parametrize("disease", DRIVEN, ids=lambda d: d.phecode)
@pytest.mark.parametrize("source", ["truth", "codes"])
def test_planted_odds_ratios_are_recovered_by_statsmodels(
    source, disease, cohort, people, coded_dates
):
    if source == "truth":
        has = cohort.phenotypes.query(f"phecode == '{disease.phecode}'")["person_id"]
        y = people.index.isin(has).astype(float)
    else:
        y = cases(coded_dates, disease, people)
    # The infarcts share one effect: one indicator for all of them.
    driven = people.reindex(columns=list(disease.drivers), fill_value=0).max(axis=1)
    design = np.column_stack([np.ones(len(people)), driven, people["age"], people["male"]])
    known = ~np.isnan(y)
    fit = sm.Logit(y[known], design[known]).fit(disp=0)
    planted = np.array([next(iter(disease.drivers.values())), disease.age, disease.male])
    assert fit.mle_retvals["converged"]
    assert np.all(np.abs(fit.params[1:] - planted) < 3 * fit.bse[1:])


def test_null_phecodes_are_null_for_every_condition_once_age_and_sex_are_known(
    people, coded_dates
):
    shown = people.drop(columns=["age", "male"])
    shown = shown.loc[:, shown.sum() >= 60].to_numpy(float)
    z = []
    for disease in UNDRIVEN:
        y = cases(coded_dates, disease, people)
        known = ~np.isnan(y)
        if disease.sex != "Both":
            known &= (people["male"] == (disease.sex == "Male")).to_numpy()
        y, x = y[known], shown[known]
        if y.sum() < 40:
            continue
        null = np.column_stack([np.ones(len(y)), people["age"][known]])
        if disease.sex == "Both":
            null = np.column_stack([null, people["male"][known]])
        p = sm.Logit(y, null).fit(disp=0).predict(null)
        weight = (p * (1 - p))[:, None]
        adjusted = x - null @ np.linalg.solve(
            null.T @ (weight * null), null.T @ (weight * x)
        )
        z.append(adjusted.T @ (y - p) / np.sqrt((weight * adjusted**2).sum(0)))
    z = np.concatenate(z)
    assert len(z) > 1000
    for size in (0.05, 0.01):
        beyond = (np.abs(z) > norm.isf(size / 2)).sum()
        assert beyond <= binom.ppf(0.999, len(z), size)


def test_age_confounds_a_null_phecode_until_it_is_adjusted_for(people, coded_dates):
    cataract = next(d for d in PHENOTYPES if d.phecode == "366")
    y = cases(coded_dates, cataract, people)
    known = ~np.isnan(y)
    x = people["atrial_fibrillation"].to_numpy(float)[known]
    ones, age = np.ones(known.sum()), people["age"].to_numpy()[known]
    crude = sm.Logit(y[known], np.column_stack([ones, x])).fit(disp=0)
    adjusted = sm.Logit(y[known], np.column_stack([ones, x, age])).fit(disp=0)
    assert crude.tvalues[1] > 4
    assert abs(adjusted.tvalues[1]) < 3


def test_planted_hazard_ratios_are_recovered_by_lifelines(cohort, people, coded_dates):
    from lifelines import CoxPHFitter

    stroke = next(d for d in PHENOTYPES if d.phecode == "433.21")
    first = cohort.recordings.drop_duplicates("person_id").set_index("person_id")["time"]
    day = pd.to_datetime(first.str[:10])
    end = pd.to_datetime(cohort.follow_up.set_index("person_id")["end"])
    codes = coded_dates[coded_dates["phecode"] == stroke.phecode]
    coded = pd.to_datetime(codes.groupby("person_id")["date"].min()).reindex(day.index)
    at_risk = ~(coded <= day)
    until = coded.fillna(end)
    table = people[["atrial_fibrillation", "age", "male"]].assign(
        years=(until - day).dt.days / 365.25, event=coded.notna()
    )[at_risk]
    fit = CoxPHFitter().fit(table, "years", "event")
    planted = stroke.hazards["atrial_fibrillation"]
    assert (~at_risk).sum() > 20
    assert table["event"].sum() > 100
    assert (
        abs(fit.params_["atrial_fibrillation"] - planted) < 3 * fit.standard_errors_.iloc[0]
    )


# ---- selective labels ---------------------------------------------------------------


def test_only_the_tested_have_results_and_they_are_at_higher_risk(cohort):
    results = cohort.labs.set_index(["person_id", "test"])["value"]
    truth = cohort.outcomes.set_index(["person_id", "test"])
    assert set(results.index) == set(truth.index[truth["tested"] == 1])
    for test in LAB_TESTS:
        mine = truth.xs(test.name, level="test")
        rate = mine.groupby("tested")["outcome"].mean()
        assert float(rate[1]) > 1.5 * float(rate[0]) > 0
        values = results.xs(test.name, level="test")
        assert ((values >= test.cutoff) == (mine["outcome"][values.index] == 1)).all()


@pytest.mark.parametrize("test", LAB_TESTS, ids=lambda t: t.name)
def test_missed_cases_are_the_tested_negatives_weighed_by_the_testing_rule(cohort, test):
    # P(Y=1, T=0 | X) = exp(-d) P(Y=0, T=1 | X) for logistic links and any unobserved Z.
    rows = cohort.outcomes.query(f"test == '{test.name}'")
    d = sum(value * rows[feature] for feature, value in test.testing.items())
    missed = ((rows["outcome"] == 1) & (rows["tested"] == 0)).astype(float)
    weighed = np.exp(-d) * ((rows["outcome"] == 0) & (rows["tested"] == 1))
    difference = missed - weighed
    assert float(missed.sum()) > 100
    assert abs(float(difference.mean())) < 4 * float(difference.std()) / np.sqrt(len(rows))


# ---- the truth table ----------------------------------------------------------------


def test_effects_name_a_part_of_a_class_only_where_the_rest_of_it_does_not_drive():
    from phenokit.simulation.cohort import labels_of
    from phenokit.simulation.conditions import CONDITIONS

    planted = effects()
    assert set(planted["phecode"]) == {d.phecode for d in PHENOTYPES}
    assert not np.any(planted.query("kind == 'null'")["effect"])
    for disease in (d for d in DRIVEN if d.part_of):
        for label in disease.part_of:
            members = {name for name in CONDITIONS if label in labels_of(name)}
            assert set(disease.drivers) < members, (disease.phecode, label)
