"""A simulated hospital cohort: patients, admissions, diagnoses, ECGs, labs, follow-up.

Every patient has conditions of the heart (`simulation.conditions`), drawn by age and sex,
which the first ECG shows. From these, age and sex come the diseases of
`simulation.phenotypes`, and from the diseases the codes, with the noise that coding has:
diseases that nobody coded, codes of what was ruled out, the same disease under several
codes on several dates. ICD-9-CM until 30 September 2015, ICD-10-CM after.

Two laboratory tests are ordered for patients at risk, by the model of Balachandar, Garg and
Pierson (ICLR 2024, arXiv 2312.03878, Bernoulli with uniform unobservables): whoever was
not tested has no result, and untested is not the same as healthy.

A patient depends on the seed and on the patient's own number only, so a larger cohort
begins with the same patients. Recordings are simulated one by one (`simulate_recording`)
from the plan in `SimulatedCohort.plans`, in any order and any process.
"""

from dataclasses import dataclass, replace
from datetime import date, timedelta
from types import MappingProxyType

import numpy as np
import pandas as pd

from phenokit.recording import LEADS, Recording
from phenokit.simulation.conditions import CONDITIONS, contradiction
from phenokit.simulation.ecg import simulate_ecg
from phenokit.simulation.heart import draw_subject
from phenokit.simulation.noise import HEAVY, detach_lead, draw_noise
from phenokit.simulation.phenotypes import (
    INFARCTS,
    PHENOTYPES,
    UNMAPPED_ICD9,
    UNMAPPED_ICD10,
    Phenotype,
)
from phenokit.statements import superclasses_of

ICD10_BEGINS = date(2015, 10, 1)
"""From this day on diagnoses are coded in ICD-10-CM."""

SAMPLING_RATE = 250.0
"""Of the recordings, in Hz."""

YEAR = 365.25
"""Days."""

_FIRST_DAY = date(2012, 1, 1)
_DAYS_OF_ECGS = 7 * 365
_AGE = (62.0, 15.0, 20.0, 95.0)
"""Mean, standard deviation and range at the first ECG, in years."""
_REFERENCE_AGE = 62.0
_SHARE_OF_MEN = 0.52


@dataclass(frozen=True)
class _Trait:
    """How common a condition is: share of women of 62, log odds a decade and of men."""

    share: float
    age: float = 0.0
    male: float = 0.0


# Shares of a cardiology department, rare conditions made common enough to be studied.
# A patient has at most one condition of a group.
_TRAITS: tuple[dict[str, _Trait], ...] = (
    {
        "atrial_fibrillation": _Trait(0.08, 0.5, 0.3),
        "atrial_flutter": _Trait(0.015, 0.4, 0.4),
        "sinus_tachycardia": _Trait(0.030, -0.1),
        "sinus_bradycardia": _Trait(0.030, 0.1, 0.3),
        "sinus_arrhythmia": _Trait(0.015, -0.5),
        "supraventricular_tachycardia": _Trait(0.008),
        "paroxysmal_tachycardia": _Trait(0.008),
        "pacing": _Trait(0.02, 0.5),
        "third_degree_block": _Trait(0.028, 0.3),
        "second_degree_mobitz_1": _Trait(0.008, 0.2),
        "second_degree_mobitz_2": _Trait(0.010, 0.3),
        "second_degree_2_to_1": _Trait(0.010, 0.3),
    },
    {"first_degree_block": _Trait(0.040, 0.35, 0.3)},
    {
        "premature_ventricular": _Trait(0.035, 0.25, 0.1),
        "premature_atrial": _Trait(0.030, 0.4),
        "bigeminy": _Trait(0.006, 0.2),
        "trigeminy": _Trait(0.006, 0.2),
    },
    {
        "right_bundle_branch_block": _Trait(0.04, 0.4, 0.4),
        "left_bundle_branch_block": _Trait(0.055, 0.4),
        "incomplete_right_bundle_branch_block": _Trait(0.020, 0.0, 0.3),
        "incomplete_left_bundle_branch_block": _Trait(0.012, 0.2),
        "intraventricular_delay": _Trait(0.015, 0.2, 0.2),
        "pre_excitation": _Trait(0.010, -0.4),
    },
    {
        "left_anterior_fascicular_block": _Trait(0.020, 0.3, 0.2),
        "left_posterior_fascicular_block": _Trait(0.006),
    },
    {"left_atrial_enlargement": _Trait(0.050, 0.2)},
    {"right_atrial_enlargement": _Trait(0.022)},
    {
        "left_ventricular_hypertrophy": _Trait(0.05, 0.2, 0.1),
        "right_ventricular_hypertrophy": _Trait(0.036),
        "septal_hypertrophy": _Trait(0.032, -0.1),
        "low_voltage": _Trait(0.015, 0.2),
        "high_voltage": _Trait(0.008, -0.3),
    },
    {
        "acute_inferior_mi": _Trait(0.040, 0.1, 0.3),
        "old_inferior_mi": _Trait(0.028, 0.3, 0.3),
        "acute_lateral_mi": _Trait(0.034, 0.1, 0.3),
        "old_lateral_mi": _Trait(0.026, 0.3, 0.3),
        "acute_anterior_mi": _Trait(0.014, 0.1, 0.3),
        "old_anterior_mi": _Trait(0.034, 0.3, 0.3),
        "acute_anteroseptal_mi": _Trait(0.008, 0.1, 0.3),
        "old_anteroseptal_mi": _Trait(0.010, 0.3, 0.3),
        "acute_anterolateral_mi": _Trait(0.008, 0.1, 0.3),
        "old_anterolateral_mi": _Trait(0.010, 0.3, 0.3),
        "acute_inferolateral_mi": _Trait(0.008, 0.1, 0.3),
        "old_inferolateral_mi": _Trait(0.012, 0.3, 0.3),
        "acute_posterior_mi": _Trait(0.008, 0.1, 0.3),
        "aneurysm": _Trait(0.028, 0.2, 0.3),
    },
    {
        "ischaemia_lateral": _Trait(0.045, 0.2),
        "ischaemia_anteroseptal": _Trait(0.016, 0.2),
        "ischaemia_inferior": _Trait(0.016, 0.2),
        "ischaemia_anterolateral": _Trait(0.010, 0.2),
        "ischaemia_unspecific": _Trait(0.020, 0.2),
        "injury_inferior": _Trait(0.006, 0.2),
        "injury_lateral": _Trait(0.006, 0.2),
        "unspecific_st_change": _Trait(0.020, 0.1),
        "unspecific_st_depression": _Trait(0.010, 0.1),
        "nondiagnostic_t": _Trait(0.020),
        "inverted_t": _Trait(0.012),
        "low_t": _Trait(0.015),
        "long_qt": _Trait(0.012),
        "digitalis": _Trait(0.018, 0.4),
        "hyperkalaemia": _Trait(0.026, 0.2),
        "hypokalaemia": _Trait(0.022),
        "hypocalcaemia": _Trait(0.016),
        "hypercalcaemia": _Trait(0.020, 0.1, -0.2),
    },
    {"fragmented_qrs": _Trait(0.015, 0.1)},
)

_LATER = {
    **{name: (0.85, name.replace("acute", "old")) for name in INFARCTS if "acute" in name},
    **dict.fromkeys(_TRAITS[2], (0.5, "")),
    **dict.fromkeys(_TRAITS[9], (0.6, "")),
    "atrial_fibrillation": (0.25, ""),
    "atrial_flutter": (0.5, ""),
    "sinus_tachycardia": (0.6, ""),
    "supraventricular_tachycardia": (0.9, ""),
    "paroxysmal_tachycardia": (0.9, ""),
}
"""Chance that a condition is gone at a later ECG, and what has taken its place."""


@dataclass(frozen=True)
class LabTest:
    """A test that is ordered by risk; symbols of the paper in brackets.

    Attributes
    ----------
    name, unit
        As in the table of results.
    cutoff
        A result at or above it is the outcome.
    risk
        Log odds of the outcome by feature (beta_Y).
    testing
        What moves the decision to test beyond risk (beta_Delta); a feature that is not
        named here does not: the expertise constraint that holds.
    spread
        The doctor sees a part of the risk that no table holds, uniform from 0 to this
        (sigma).
    """

    name: str
    unit: str
    cutoff: float
    risk: MappingProxyType[str, float]
    testing: MappingProxyType[str, float]
    spread: float


LAB_TESTS = (
    LabTest(
        "troponin T",
        "ng/L",
        cutoff=52.0,
        risk=MappingProxyType(
            {
                "intercept": -4.2,
                "age_decades": 0.25,
                "male": 0.3,
                "acute_infarct": 3.5,
                "ischaemia": 1.2,
            }
        ),
        testing=MappingProxyType({"intercept": 1.0, "age_decades": -0.2}),
        spread=2.0,
    ),
    LabTest(
        "NT-proBNP",
        "ng/L",
        cutoff=900.0,
        risk=MappingProxyType(
            {
                "intercept": -3.4,
                "age_decades": 0.5,
                "male": -0.1,
                "atrial_fibrillation": 1.5,
                "left_bundle_branch_block": 1.8,
            }
        ),
        testing=MappingProxyType({"intercept": 0.6, "male": 0.4}),
        spread=2.0,
    ),
)
"""The two tests of the cohort."""

LAB_FEATURES = (
    "intercept", "age_decades", "male", "acute_infarct", "ischaemia", "atrial_fibrillation",
    "left_bundle_branch_block",
)  # fmt: skip
"""Features of both tests; age is in decades from 62, the others are 0 or 1."""


@dataclass(frozen=True)
class RecordingPlan:
    """All that `simulate_recording` needs.

    Attributes
    ----------
    record_id
        Path below the folder of recordings, without ending: ``"p0000/p000001-1"``.
    conditions
        Names of `CONDITIONS`.
    age, sex
        Years at the recording; ``"Female"`` or ``"Male"``.
    patient_seed, seed
        Of the patient's heart and thorax, and of this recording.
    fault
        ``""``, ``"noise"``, or the lead whose electrode was off.
    """

    record_id: str
    conditions: tuple[str, ...]
    age: float
    sex: str
    patient_seed: int
    seed: int
    fault: str = ""


@dataclass(frozen=True)
class SimulatedCohort:
    """The tables of a hospital and the truth behind them.

    Dates are text in ISO 8601, times are UTC. Rows are ordered by patient, then date.

    Attributes
    ----------
    patients
        person_id, sex, birth_date.
    admissions
        person_id, admission_id, admitted, discharged (dates).
    diagnoses
        person_id, admission_id (empty: an outpatient visit), date, icd_code, icd_version.
    recordings
        record_id, person_id, time, admission_id.
    follow_up
        person_id, end (last day observed), reason (``"died"`` or ``"last contact"``).
    labs
        person_id, time, test, value, unit; of the tested only.
    conditions
        Truth: record_id, person_id, time, conditions (names joined by ``+``), fault.
    phenotypes
        Truth: person_id, phecode, onset (date; empty where it was there before).
    outcomes
        Truth: person_id, test, tested (0 or 1), outcome (0 or 1, of everybody), unobserved
        (Z), and `LAB_FEATURES`.
    plans
        One a recording, in the order of `recordings`.
    """

    patients: pd.DataFrame
    admissions: pd.DataFrame
    diagnoses: pd.DataFrame
    recordings: pd.DataFrame
    follow_up: pd.DataFrame
    labs: pd.DataFrame
    conditions: pd.DataFrame
    phenotypes: pd.DataFrame
    outcomes: pd.DataFrame
    plans: tuple[RecordingPlan, ...]


def simulate_cohort(n_patients: int, *, seed: int) -> SimulatedCohort:
    """The tables of a cohort; no signal is simulated yet.

    Parameters
    ----------
    n_patients
        1 to 999,999.
    seed
        The same seed gives the same patients, of which `n_patients` are the first.

    Returns
    -------
    SimulatedCohort

    Raises
    ------
    ValueError
        If `n_patients` is out of range.

    Examples
    --------
    >>> cohort = simulate_cohort(20, seed=1)
    >>> list(cohort.patients.columns)
    ['person_id', 'sex', 'birth_date']
    """
    if not 1 <= n_patients <= 999_999:
        raise ValueError(f"n_patients is {n_patients}; it is 1 to 999,999")
    rows: dict[str, list[tuple]] = {name: [] for name in _COLUMNS}
    plans: list[RecordingPlan] = []
    for number in range(1, n_patients + 1):
        rng = np.random.default_rng([seed, number])
        _Course(f"p{number:06d}", rng).write(rows, plans)
    tables = {
        name: pd.DataFrame.from_records(rows[name], columns=list(columns))
        for name, columns in _COLUMNS.items()
    }
    return SimulatedCohort(plans=tuple(plans), **tables)


def simulate_recording(plan: RecordingPlan) -> Recording:
    """The recording of a plan: 10 s, twelve leads in mV at 250 Hz."""
    sex = plan.sex.lower()
    subject = draw_subject(np.random.default_rng(plan.patient_seed), age=plan.age, sex=sex)
    rng = np.random.default_rng(plan.seed)
    noise = HEAVY if plan.fault == "noise" else draw_noise(rng)
    ecg = simulate_ecg(
        plan.conditions,
        rng=rng,
        sampling_rate=SAMPLING_RATE,
        noise=noise,
        subject=subject,
        record_id=plan.record_id.rpartition("/")[2],
    )
    if plan.fault in LEADS:
        return detach_lead(ecg.recording, plan.fault)
    return ecg.recording


def effects() -> pd.DataFrame:
    """What was planted, a row an effect: the truth that an analysis is held against.

    Returns
    -------
    DataFrame
        phecode, name, kind (`Phenotype.kind`), driver (a condition, ``"age"``, ``"male"``,
        or empty), per (``"condition"``, ``"decade"``, ``"man"``), effect (log odds ratio;
        log hazard ratio where kind is ``"hazard"``), part_of (labels of which the driver
        is only a part) and labels (all labels of the driver), both joined by a space.
    """
    rows = []
    for disease in PHENOTYPES:
        start = (disease.phecode, disease.name, disease.kind)
        n_before = len(rows)
        part_of = " ".join(disease.part_of)
        for driver, effect in {**disease.drivers, **disease.hazards}.items():
            labels = " ".join(labels_of(driver))
            rows.append((*start, driver, "condition", effect, part_of, labels))
        if disease.age:
            rows.append((*start, "age", "decade", disease.age, "", ""))
        if disease.male:
            rows.append((*start, "male", "man", disease.male, "", ""))
        if len(rows) == n_before:
            rows.append((*start, "", "", 0.0, "", ""))
    return pd.DataFrame.from_records(rows, columns=list(_EFFECT_COLUMNS))


def labels_of(condition: str) -> tuple[str, ...]:
    """Labels that a recording with the condition has, superclasses first.

    Examples
    --------
    >>> labels_of("acute_inferior_mi")
    ('MI', 'IMI', 'STE_')
    """
    codes = CONDITIONS[condition].codes
    return tuple(dict.fromkeys([*sorted(superclasses_of(frozenset(codes))), *codes]))


# ---- one patient --------------------------------------------------------------------

_COLUMNS: dict[str, tuple[str, ...]] = {
    "patients": ("person_id", "sex", "birth_date"),
    "admissions": ("person_id", "admission_id", "admitted", "discharged"),
    "diagnoses": ("person_id", "admission_id", "date", "icd_code", "icd_version"),
    "recordings": ("record_id", "person_id", "time", "admission_id"),
    "follow_up": ("person_id", "end", "reason"),
    "labs": ("person_id", "time", "test", "value", "unit"),
    "conditions": ("record_id", "person_id", "time", "conditions", "fault"),
    "phenotypes": ("person_id", "phecode", "onset"),
    "outcomes": ("person_id", "test", "tested", "outcome", "unobserved", *LAB_FEATURES),
}
_EFFECT_COLUMNS = (
    "phecode", "name", "kind", "driver", "per", "effect", "part_of", "labels",
)  # fmt: skip


@dataclass(frozen=True, order=True)
class _Visit:
    """A day on which diagnoses are coded: a discharge or an outpatient visit."""

    day: int  # from the first ECG
    admitted: int
    admission_id: str = ""


_PREVALENCE = np.array([d.prevalence for d in PHENOTYPES])
_AGE_EFFECT = np.array([d.age for d in PHENOTYPES])
_MALE_EFFECT = np.array([d.male for d in PHENOTYPES])
_IS_INCIDENT = np.array([d.is_incident for d in PHENOTYPES])


class _Course:
    """One patient from the first visit to the last, drawn step by step from one stream."""

    def __init__(self, person_id: str, rng: np.random.Generator) -> None:
        self.person_id = person_id
        self.rng = rng
        self.is_male = bool(rng.random() < _SHARE_OF_MEN)
        mean, sd, low, high = _AGE
        age = float(np.clip(rng.normal(mean, sd), low, high))
        self.ecg_date = _FIRST_DAY + timedelta(days=int(rng.integers(_DAYS_OF_ECGS)))
        self.birth_date = self.ecg_date - timedelta(days=round(age * YEAR))
        self.age = (self.ecg_date - self.birth_date).days / YEAR
        self.conditions = self._draw_conditions()
        self._draw_time()
        self.visits = self._draw_visits()

    @property
    def decades(self) -> float:
        """Age from the reference age."""
        return (self.age - _REFERENCE_AGE) / 10

    def date(self, day: int) -> str:
        """The date of a day, which counts from the first ECG."""
        return (self.ecg_date + timedelta(days=day)).isoformat()

    def time(self, day: int) -> str:
        """A time of that day."""
        minute = int(self.rng.integers(6 * 60, 22 * 60))
        return f"{self.date(day)}T{minute // 60:02d}:{minute % 60:02d}:00Z"

    # -- the heart --

    def _draw_conditions(self) -> tuple[str, ...]:
        """At most one condition of each group, none that contradicts an earlier one."""
        drawn = []
        for group in _TRAITS:
            shares = np.array(
                [
                    trait.share
                    * np.exp(trait.age * self.decades + trait.male * self.is_male)
                    for trait in group.values()
                ]
            )
            shares = shares / (1 - sum(t.share for t in group.values()) + shares.sum())
            place = int(np.searchsorted(np.cumsum(shares), self.rng.random()))
            if place < len(group):
                drawn.append(list(group)[place])
        kept: list[str] = []
        for place in self.rng.permutation(len(drawn)):
            if contradiction([*kept, drawn[place]]) is None:
                kept.append(drawn[place])
        return tuple(sorted(kept)) or ("normal",)

    def _later_conditions(self) -> tuple[str, ...]:
        """What a later ECG of the same heart shows."""
        later: list[str] = []
        for name in self.conditions:
            chance, successor = _LATER.get(name, (0.0, ""))
            shown = successor if self.rng.random() < chance else name
            if shown and contradiction([*later, shown]) is None:
                later.append(shown)
        return tuple(sorted(later)) or ("normal",)

    # -- time --

    def _draw_time(self) -> None:
        rng = self.rng
        self.entry = -round(rng.uniform(0.5, 5.0) * YEAR)
        contact = rng.uniform(0.2, 6.0) * YEAR
        death = rng.exponential(YEAR / (0.02 * np.exp(0.7 * self.decades)))
        self.end = max(1, round(min(contact, death)))
        self.has_died = bool(death < contact)

    def _draw_visits(self) -> list[_Visit]:
        """Admissions that do not overlap, and outpatient visits between them."""
        rng = self.rng
        years = (self.end - self.entry) / YEAR
        stays: list[tuple[int, int]] = []
        if rng.random() < 0.75:
            stays.append((-int(rng.integers(0, 2)), 1 + int(rng.geometric(0.25))))
        for _ in range(rng.poisson(0.25 * years)):
            begin = int(rng.integers(self.entry, self.end + 1))
            stays.append((begin, begin + int(rng.geometric(0.25))))
        taken: list[tuple[int, int]] = []
        for begin, stop in stays:
            stop = max(begin, min(stop, self.end)) if begin > 0 else stop
            if all(stop < other[0] or begin > other[1] for other in taken):
                taken.append((begin, stop))
        self.end = max([self.end, *(stop for _, stop in taken)])
        visits = [
            _Visit(stop, begin, f"{self.person_id}-a{k}")
            for k, (begin, stop) in enumerate(sorted(taken), start=1)
        ]
        days = {self.entry, 0}
        days |= {
            int(rng.integers(self.entry, self.end + 1)) for _ in range(rng.poisson(years))
        }
        visits += [
            _Visit(day, day)
            for day in sorted(days)
            if not any(begin <= day <= stop for begin, stop in taken)
        ]
        return sorted(visits)

    def visit_of(self, day: int) -> _Visit:
        """The visit that a day belongs to; an outpatient visit where there is none."""
        for visit in self.visits:
            if visit.admitted <= day <= visit.day:
                return replace(visit, day=day)
        return _Visit(day, day)

    # -- diseases and codes --

    def draw_diseases(self) -> list[tuple[int, str, list[_Visit]]]:
        """Place in the table, onset, and the visits at which it was coded.

        Onset is a date, or ``""`` for what was there before the first ECG.
        """
        rng = self.rng
        log_odds = np.log(_PREVALENCE / (1 - _PREVALENCE)) + _AGE_EFFECT * self.decades
        log_odds += _MALE_EFFECT * self.is_male + [
            sum(disease.drivers.get(name, 0.0) for name in self.conditions)
            for disease in PHENOTYPES
        ]
        can = np.array([d.sex in ("Both", self.sex) for d in PHENOTYPES])
        has = can & (rng.random(len(can)) < 1 / (1 + np.exp(-log_odds)))
        ruled_out = can & ~has & (rng.random(len(can)) < 0.1 * _PREVALENCE)
        found = [
            (int(place), "", self._coded_visits())
            for place in np.flatnonzero(has & ~_IS_INCIDENT)
        ]
        for place in np.flatnonzero(_IS_INCIDENT):
            onset = self._draw_onset(PHENOTYPES[place])
            if onset is None:
                continue
            when = "" if onset < 0 else self.date(onset)
            found.append((int(place), when, self._visits_from(onset)))
        self.ruled_out = [
            (int(place), self.visits[int(rng.integers(len(self.visits)))])
            for place in np.flatnonzero(ruled_out & ~_IS_INCIDENT)
        ]
        return found

    @property
    def sex(self) -> str:
        """As the tables spell it."""
        return "Male" if self.is_male else "Female"

    def _coded_visits(self) -> list[_Visit]:
        """Visits at which a disease was coded: usually two or more, sometimes none."""
        rng = self.rng
        fate = rng.random()
        if fate < 0.04:
            return []
        n = 1 if fate < 0.10 else 2 + int(rng.poisson(1.0))
        first = [v for v in self.visits if v.admitted <= 0 <= v.day]
        chosen = [v for v in first if rng.random() < 0.85]
        others = [v for v in self.visits if v not in chosen]
        places = rng.permutation(len(others))[: max(0, n - len(chosen))]
        return sorted([*chosen, *(others[k] for k in places)])

    def _draw_onset(self, disease: Phenotype) -> int | None:
        """Day of the first code after the ECG; -1 for a disease from before it."""
        rng = self.rng
        rate = -np.log1p(-disease.prevalence) / (5 * YEAR)
        rate *= np.exp(disease.age * self.decades + disease.male * self.is_male)
        rate *= np.exp(sum(disease.hazards.get(name, 0.0) for name in self.conditions))
        was_there = rng.random() < 0.04
        onset = int(np.ceil(rng.exponential(1 / rate)))
        if was_there:
            return -1
        return onset if onset <= self.end else None

    def _visits_from(self, onset: int) -> list[_Visit]:
        rng = self.rng
        if onset < 0:
            return [v for v in self.visits if v.day < 0][-2:]
        days = [onset]
        again = onset + int(rng.integers(14, 120))
        if again <= self.end and rng.random() < 0.9:
            days.append(again)
        later = [v for v in self.visits if v.day > onset and rng.random() < 0.4]
        return sorted({*(self.visit_of(day) for day in days), *later})

    def code(
        self, disease: Phenotype, visit: _Visit
    ) -> list[tuple[str, str, int, str, str]]:
        """Rows of the table of diagnoses: a code of the disease, now and then two."""
        version = self._icd_version(visit.day)
        codes = disease.icd9 if version == "9" else disease.icd10
        n = 2 if len(codes) > 1 and self.rng.random() < 0.1 else 1
        chosen = self.rng.choice(codes, size=n, replace=False)
        return [self._row(visit, str(code), version) for code in chosen]

    def _icd_version(self, day: int) -> str:
        return "9" if self.ecg_date + timedelta(days=day) < ICD10_BEGINS else "10"

    def _row(
        self, visit: _Visit, code: str, version: str
    ) -> tuple[str, str, int, str, str]:
        return (self.person_id, visit.admission_id, visit.day, code, version)

    def _unmapped(self) -> list[tuple[str, str, int, str, str]]:
        rows = []
        for visit in self.visits:
            if self.rng.random() < 0.4:
                version = self._icd_version(visit.day)
                codes = UNMAPPED_ICD9 if version == "9" else UNMAPPED_ICD10
                code = str(self.rng.choice(codes))
                rows.append(self._row(visit, code, version))
        return rows

    # -- rows --

    def write(self, rows: dict[str, list[tuple]], plans: list[RecordingPlan]) -> None:
        """Append this patient's rows to every table."""
        person = self.person_id
        rows["patients"].append((person, self.sex, self.birth_date.isoformat()))
        rows["admissions"] += [
            (person, v.admission_id, self.date(v.admitted), self.date(v.day))
            for v in sorted(self.visits, key=lambda v: v.admitted)
            if v.admission_id
        ]
        self._write_recordings(rows, plans)
        diagnoses = []
        for place, onset, visits in self.draw_diseases():
            disease = PHENOTYPES[place]
            rows["phenotypes"].append((person, disease.phecode, onset))
            diagnoses += [row for visit in visits for row in self.code(disease, visit)]
        for place, visit in self.ruled_out:
            diagnoses += self.code(PHENOTYPES[place], visit)[:1]
        diagnoses += self._unmapped()
        for _, admission, day, code, version in sorted(
            set(diagnoses), key=lambda row: (row[2], row[1], row[3])
        ):
            rows["diagnoses"].append((person, admission, self.date(day), code, version))
        self._write_labs(rows)
        reason = "died" if self.has_died else "last contact"
        rows["follow_up"].append((person, self.date(self.end), reason))

    def _write_recordings(
        self, rows: dict[str, list[tuple]], plans: list[RecordingPlan]
    ) -> None:
        rng = self.rng
        patient_seed = int(rng.integers(2**62))
        later = [v for v in self.visits if v.admitted > 0]
        n_later = int(rng.choice(3, p=[0.65, 0.25, 0.10]))
        chosen = rng.permutation(len(later))[:n_later]
        days = [0, *sorted(later[k].admitted for k in chosen)]
        for k, day in enumerate(days, start=1):
            record_id = f"{self.person_id[:5]}/{self.person_id}-{k}"
            shown = self.conditions if k == 1 else self._later_conditions()
            fate = rng.random()
            fault = "noise" if fate < 0.008 else "V4" if fate < 0.016 else ""
            time, visit = self.time(day), self.visit_of(day)
            rows["recordings"].append((record_id, self.person_id, time, visit.admission_id))
            rows["conditions"].append(
                (record_id, self.person_id, time, "+".join(shown), fault)
            )
            plans.append(
                RecordingPlan(
                    record_id,
                    shown,
                    self.age + day / YEAR,
                    self.sex,
                    patient_seed,
                    int(rng.integers(2**62)),
                    fault,
                )
            )

    def _write_labs(self, rows: dict[str, list[tuple]]) -> None:
        """Who is tested, and what everybody's result would have been."""
        rng = self.rng
        shown = set(self.conditions)
        features = {
            "intercept": 1.0,
            "age_decades": round(self.decades, 4),
            "male": float(self.is_male),
            "acute_infarct": float(any(name.startswith("acute_") for name in shown)),
            "ischaemia": float(any(name.startswith("ischaemia_") for name in shown)),
            "atrial_fibrillation": float("atrial_fibrillation" in shown),
            "left_bundle_branch_block": float("left_bundle_branch_block" in shown),
        }
        for test in LAB_TESTS:
            unobserved = rng.uniform(0, test.spread)
            risk = unobserved + _sum(test.risk, features)
            outcome = bool(rng.random() < _logistic(risk))
            tested = bool(rng.random() < _logistic(risk + _sum(test.testing, features)))
            excess = float(np.exp(abs(rng.normal(0, 0.9))))
            value = test.cutoff * excess if outcome else test.cutoff / (1.02 * excess)
            minute = self.time(0)
            if tested:
                rows["labs"].append(
                    (self.person_id, minute, test.name, round(value, 1), test.unit)
                )
            rows["outcomes"].append(
                (
                    self.person_id,
                    test.name,
                    int(tested),
                    int(outcome),
                    round(unobserved, 6),
                    *(features[name] for name in LAB_FEATURES),
                )
            )


def _sum(effect: MappingProxyType[str, float], features: dict[str, float]) -> float:
    return sum(value * features[name] for name, value in effect.items())


def _logistic(log_odds: float) -> float:
    return float(1 / (1 + np.exp(-log_odds)))
