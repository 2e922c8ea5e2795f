"""From the tables of a cohort to curves and hazard ratios of the first code of a phecode.

    follow_up_of        when each patient entered, was coded, and was last seen
    follow_to_code      curves by stratum of a risk or similarity, hazard ratios, attrition
    split_by_testing    patients before their test and after it, as rows of their own

The event is a patient's first code after entry. One code is enough, whatever makes a case
elsewhere: to wait for a second would date an event by what came after it. Among the tested
entry is the day of the test, since whoever is tested has lived until then; where they are
compared with the untested, they count as untested until that day (`split_by_testing`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import log10

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float64, Shaped

from phenokit.cohort import AttritionStep
from phenokit.errors import AnalysisRefused, BadInput
from phenokit.evidence.cox import CoxFit, fit_cox
from phenokit.evidence.survival import (
    Curves,
    Strata,
    cut_into_strata,
    fit_cumulative_incidence,
    fit_kaplan_meier,
)
from phenokit.evidence.time_to_code import FollowUp, unit_of
from phenokit.readers.cohorts import CohortTables
from phenokit.readers.phecodes import PhecodeMap, first_code_days
from phenokit.report.associations import format_odds_ratio, format_p
from phenokit.report.risk_numbers import format_risk

YEAR = 365.25
"""Days."""
MOST_TIMES = 7
"""Times under the axis at most."""
FEWEST_AT_RISK = 10
"""The sentence speaks of the last time under the axis at which every stratum has these."""
DIED = "died"
"""Reason for the end of follow-up that makes its day the day of death."""

_DAY = np.timedelta64(1, "D")
_STEPS = (1, 2, 5, 10, 20, 30, 60, 90, 180, 365)

Array = np.ndarray


def follow_up_of(
    tables: CohortTables,
    phecode_map: PhecodeMap,
    person_ids: Sequence[str],
    entry: Shaped[Array, " patient"],
    phecodes: Sequence[str],
) -> FollowUp:
    """When each patient entered, was last seen, and first had each phecode.

    Parameters
    ----------
    person_ids, entry
        A patient each, and the day (datetime64) from which on codes count.
    phecodes
        Of the map.

    Raises
    ------
    BadInput
        ``E_MISSING`` without a follow-up table, ``E_COLUMNS`` if the diagnoses have no
        dates, ``E_CODE`` for a phecode that the map does not have.
    """
    if tables.follow_up is None:
        raise BadInput("E_MISSING", "The cohort has no follow-up table; give one.")
    restriction = phecode_map.info.set_index("phecode")["sex_restriction"].to_dict()
    if unknown := [phecode for phecode in phecodes if phecode not in restriction]:
        raise BadInput(
            "E_CODE", f"Phecode {unknown[0]} is not in the map {phecode_map.version}."
        )
    people = pd.Index(person_ids)
    end = tables.follow_up.set_index("person_id")["end"].reindex(people)
    sex = tables.patients.set_index("person_id")["sex"].reindex(people).to_numpy()
    return FollowUp(
        recorded=np.asarray(entry).astype("datetime64[D]"),
        end=end.to_numpy().astype("datetime64[D]"),
        first_code=first_code_days(
            tables.diagnoses, list(person_ids), phecode_map, phecodes
        ),
        eligible={
            phecode: sex == restriction[phecode]
            for phecode in phecodes
            if restriction[phecode] != "Both"
        },
    )


@dataclass(frozen=True)
class FollowUpResult:
    """Follow-up to the first code of one phecode.

    Attributes
    ----------
    phecode, phecode_string
        Code and name.
    curves
        Free of the code (Kaplan-Meier) by stratum; whoever dies is followed until then.
    incidence
        Of the code, and of death before it (Aalen-Johansen). None where the follow-up
        table does not say who died.
    hazards
        Cox's model: the value per SD (per unit for 0 and 1), then the covariates. None
        where it was not asked for or was refused.
    refusal
        Why it was refused; empty otherwise.
    attrition
        Every rule, with the patients that it left and dropped.
    sentence
        What was found, and in whom.
    """

    phecode: str
    phecode_string: str
    curves: Curves
    incidence: Curves | None
    hazards: CoxFit | None
    refusal: str
    attrition: tuple[AttritionStep, ...]
    sentence: str


def follow_to_code(
    tables: CohortTables,
    phecode_map: PhecodeMap,
    patients: pd.DataFrame,
    strata_values: Float64[Array, " patient"] | Sequence[str],
    phecode: str,
    *,
    n_strata: int = 3,
    covariates: pd.DataFrame | None = None,
    value_name: str = "risk",
    who: str = "patients",
    entry_name: str = "the recording",
    with_hazards: bool = True,
) -> FollowUpResult:
    """Follow patients from entry to the first code of a phecode, by stratum of a value.

    Parameters
    ----------
    tables, phecode_map
        Of a cohort with a follow-up table and dated diagnoses. Where the follow-up table
        has a column `reason` that says who died, death competes.
    patients
        `person_id`, `entry` (the day from which on a code counts), and perhaps `origin`,
        from which time runs, not after entry, and `exit`, after which a row counts no more;
        a row a patient, or rows whose days do not overlap.
    strata_values
        Risk, similarity or the like of these patients (NaN: left out) to be cut into
        `n_strata` of equal size, or 0 and 1; or names of strata ("": left out).
    phecode
        Of the map.
    covariates
        Columns that Cox's model adjusts for, rows as `patients`. Those who lack one are
        left out of that model only, and a column that does not vary is left out of it.
    value_name, who, entry_name
        Words: what the value is, which patients these are ("patients tested for troponin
        T"), and what happened on the day of entry ("the first ECG").
    with_hazards
        Whether Cox's model is fitted.

    Raises
    ------
    BadInput
        As `follow_up_of`; ``E_DUP_ID`` for a person in rows that overlap; ``E_COLUMNS``
        for an absent column; ``E_RANGE`` for values that cannot be cut into so many strata
        or an origin after its entry; ``E_EMPTY`` if nobody is left.

    References
    ----------
    See `phenokit.evidence.survival` and `phenokit.evidence.cox`.
    """
    _check_patients(patients)
    person_ids = patients["person_id"].tolist()
    entry = _days(patients, "entry")
    origin = _days(patients, "origin") if "origin" in patients.columns else entry
    follow_up = follow_up_of(tables, phecode_map, person_ids, entry, [phecode])
    is_cut = np.zeros(len(patients), dtype=bool)
    if "exit" in patients.columns:
        leaves = _days(patients, "exit")
        is_cut = leaves < follow_up.end
        follow_up = replace(follow_up, end=np.where(is_cut, leaves, follow_up.end))
    names = phecode_map.info.set_index("phecode")["phecode_string"].to_dict()
    event_name = f"{names[phecode]} ({phecode})"
    named = not np.issubdtype(np.asarray(strata_values).dtype, np.number)
    values = np.asarray(strata_values, dtype=str if named else np.float64)
    is_known = values != "" if named else ~np.isnan(values)
    course = follow_up.course(phecode)
    steps = _Attrition(who, person_ids)
    rules = (
        (is_known, f"{value_name} known", f"without a known {value_name}"),
        (~np.isnat(entry), f"Day of {entry_name} known", "without a day of entry"),
        (
            course.eligible,
            f"Of a sex that can have {phecode}",
            "of another or no known sex",
        ),
        (
            ~course.had_before,
            f"No code of {phecode} by the day of {entry_name}",
            "who had the code by the day of entry",
        ),
        (course.is_followed, f"Seen after the day of {entry_name}", "not seen after it"),
    )
    for holds, rule, otherwise in rules:
        steps.keep(holds, rule[:1].upper() + rule[1:], otherwise)
    used = steps.is_left
    if not used.any():
        raise BadInput(
            "E_EMPTY",
            f"Nobody is followed to {event_name}. {steps.words()}",
        )
    strata = _strata(values[used], n_strata, value_name)
    days = (course.last[used] - origin[used]) / _DAY
    unit, scale = ("years", YEAR) if days.max() >= 2 * YEAR else ("days", 1.0)
    delayed = (entry[used] - origin[used]) / _DAY
    axis = {
        "at_times": _times_under(days.max() / scale),
        "unit": unit,
        "population": f"{steps.n_patients():,} {who}, from {entry_name}, without {phecode} "
        "by then",
        "entry": delayed / scale if delayed.any() else None,
    }
    is_event = course.is_event[used]
    curves = fit_kaplan_meier(days / scale, is_event, strata, **axis)
    died = _died(tables, person_ids)
    incidence = None
    if died is None:
        note = "Deaths are not known: who dies counts as no longer seen."
    else:
        event = np.where(is_event, 1, np.where((died & ~is_cut)[used], 2, 0))
        n_died = int((event == 2).sum())
        note = (
            f"{n_died:,} died before it and are followed until then: one minus these "
            "curves is not a risk; see the cumulative incidence."
        )
        incidence = fit_cumulative_incidence(
            days / scale, event, strata, events=(event_name, "death before it"), **axis
        )
    curves = replace(curves, notes=(*curves.notes, note))
    hazards, refusal = None, ""
    if with_hazards:
        table = _model_table(
            np.asarray(values), used, covariates, len(patients), value_name
        ).assign(duration=days / scale, event=is_event.astype(np.int64))
        try:
            hazards = _fit(table, None if axis["entry"] is None else axis["entry"])
        except (AnalysisRefused, BadInput) as error:
            refusal = str(error)
    return FollowUpResult(
        phecode=phecode,
        phecode_string=str(names[phecode]),
        curves=curves,
        incidence=incidence,
        hazards=hazards,
        refusal=refusal,
        attrition=tuple(steps.steps),
        sentence=_sentence(event_name, curves, incidence, hazards, steps, who, entry_name),
    )


# --- who is followed ----------------------------------------------------------------------


def split_by_testing(
    person_ids: Sequence[str],
    recorded: Shaped[Array, " patient"],
    tested: Shaped[Array, " patient"],
) -> tuple[pd.DataFrame, Float64[Array, " row"]]:
    """Rows for `follow_to_code` that compare the tested with those who are not yet.

    Were a patient in the stratum of the tested from the recording on, the days until the
    test would be days on which nothing could happen to the tested (immortal time).

    Parameters
    ----------
    person_ids, recorded, tested
        A patient each: the days (datetime64) of the recording and of the test, NaT where
        there was none. A test on the day of the recording or before makes the patient
        tested from the recording on.

    Returns
    -------
    tuple
        Rows of `person_id`, `origin`, `entry`, `exit` (NaT: none), and of each row 1 if it
        is after the test, else 0.
    """
    recorded, tested = recorded.astype("datetime64[D]"), tested.astype("datetime64[D]")
    is_later, is_tested = tested > recorded, ~np.isnat(tested)
    before, after = np.flatnonzero(is_later | ~is_tested), np.flatnonzero(is_tested)
    both = np.concatenate([before, after])
    entry = np.concatenate([recorded[before], np.maximum(tested, recorded)[after]])
    leaves = np.concatenate([tested[before], np.full(len(after), np.datetime64("NaT"))])
    rows = pd.DataFrame(
        {
            "person_id": np.asarray(person_ids, dtype=object)[both],
            "origin": recorded[both],
            "entry": entry,
            "exit": leaves,
        }
    )
    return rows, np.repeat([0.0, 1.0], [len(before), len(after)])


def _check_patients(patients: pd.DataFrame) -> None:
    for column in ("person_id", "entry"):
        if column not in patients.columns:
            raise BadInput(
                "E_COLUMNS", f"The patients have no column {column}.", where=column
            )
    entry = _days(patients, "entry")
    if "origin" in patients.columns and (_days(patients, "origin") > entry).any():
        raise BadInput("E_RANGE", "An origin of time lies after the entry.", where="origin")
    person = pd.factorize(patients["person_id"])[0]
    order = np.lexsort([entry, person])
    again = person[order][1:] == person[order][:-1]
    if "exit" in patients.columns:
        leaves = _days(patients, "exit")[order][:-1]
        again &= np.isnat(leaves) | (entry[order][1:] < leaves)
    if again.any():
        raise BadInput(
            "E_DUP_ID",
            "A person stands in several rows whose days overlap; follow-up needs one entry "
            "a person, or rows that end where the next begins.",
            where="person_id",
        )


def _days(table: pd.DataFrame, column: str) -> Shaped[Array, " patient"]:
    return table[column].to_numpy().astype("datetime64[D]")


class _Attrition:
    """The rows that are left, and the steps that led there."""

    def __init__(self, who: str, person_ids: Sequence[str]) -> None:
        self.person = pd.factorize(np.asarray(person_ids, dtype=object))[0]
        self.is_left: Bool[Array, " patient"] = np.ones(len(person_ids), dtype=bool)
        self.steps = [AttritionStep(who[:1].upper() + who[1:], self.n_patients(), 0)]
        self.dropped: list[str] = []

    def n_patients(self) -> int:
        """Different persons that are left."""
        return len(np.unique(self.person[self.is_left]))

    def keep(self, holds: Bool[Array, " patient"], rule: str, otherwise: str) -> None:
        """One more rule, and what those are that it drops; it may drop nobody."""
        self.is_left = self.is_left & holds
        n_left = self.n_patients()
        n_dropped = self.steps[-1].n_patients - n_left
        self.steps.append(AttritionStep(rule, n_left, 0, n_dropped, 0))
        if n_dropped:
            self.dropped.append(f"{n_dropped:,} {otherwise}")

    def words(self) -> str:
        """Who was left out and why."""
        return f"Left out: {', '.join(self.dropped) or 'nobody'}."


def _died(
    tables: CohortTables, person_ids: Sequence[str]
) -> Bool[Array, " patient"] | None:
    """Whose last day is the day of death; None where the table does not say."""
    assert tables.follow_up is not None
    if "reason" not in tables.follow_up.columns:
        return None
    reason = tables.follow_up.set_index("person_id")["reason"].reindex(list(person_ids))
    return (reason.str.lower() == DIED).to_numpy(bool)


def _strata(values: Shaped[Array, " patient"], n_strata: int, name: str) -> Strata:
    if not np.issubdtype(values.dtype, np.number):
        return Strata.of(values)
    if set(np.unique(values)) == {0.0, 1.0}:
        return Strata.of(np.where(values == 1, name, f"no {name}"), (f"no {name}", name))
    strata = cut_into_strata(values, n_strata=n_strata)
    part = {2: "half", 3: "third", 4: "quarter", 5: "fifth"}.get(n_strata, "stratum")
    middle = ["middle"] if n_strata == 3 else [f"{k}." for k in range(2, n_strata)]
    ranks = ["lowest", *middle, "highest"]
    ranges = [one.partition(": ")[2] for one in strata.names]
    names = [f"{rank} {part} ({ends})" for rank, ends in zip(ranks, ranges, strict=True)]
    return Strata(tuple(names), strata.of_patient)


def _times_under(last: float) -> list[float]:
    """Round times from 0 to the last of follow-up, at most `MOST_TIMES` of them."""
    step = next((one for one in _STEPS if last / one < MOST_TIMES), _STEPS[-1])
    return [float(time) for time in np.arange(0, last + 1e-9, step)]


# --- hazard ratios ------------------------------------------------------------------------


def _model_table(
    values: Shaped[Array, " patient"],
    used: Bool[Array, " patient"],
    covariates: pd.DataFrame | None,
    n: int,
    name: str,
) -> pd.DataFrame:
    """The value in its unit and the covariates of those who are followed."""
    if np.issubdtype(values.dtype, np.number):
        unit = unit_of(values)
        is_binary = np.isin(values[used], (0, 1)).all()
        name = name if is_binary else f"{name}, per SD ({unit:.3g})"
        values = values / unit
    table = pd.DataFrame({name: values[used]})
    if covariates is not None:
        if len(covariates) != n:
            raise ValueError(f"{len(covariates)} rows of covariates for {n} patients")
        for column in covariates.columns:
            table[str(column)] = covariates[column].to_numpy()[used]
    return table


def _fit(table: pd.DataFrame, entry: Float64[Array, " patient"] | None) -> CoxFit:
    """Cox's model of the columns that vary, among the rows that lack none."""
    names = list(table.columns[:-2])
    missing = table[names].isna() | (table[names] == "")
    complete = table.loc[~missing.any(axis=1)]
    constant = [name for name in names[1:] if complete[name].nunique() < 2]
    notes = [f"{name} is the same in all of them and is left out." for name in constant]
    if n_missing := len(table) - len(complete):
        notes.append(f"{n_missing:,} patients lack a covariate and are left out.")
    if entry is not None:
        complete = complete.assign(entry=entry[complete.index])
    found = fit_cox(
        complete,
        [name for name in names if name not in constant],
        duration="duration",
        event="event",
        entry=None if entry is None else "entry",
    )
    return replace(found, notes=(*found.notes, *notes))


# --- words --------------------------------------------------------------------------------


def _sentence(
    event_name: str,
    curves: Curves,
    incidence: Curves | None,
    hazards: CoxFit | None,
    steps: _Attrition,
    who: str,
    entry_name: str,
) -> str:
    n = steps.n_patients()
    n_events = sum(curve.n_events for curve in curves.curves)
    parts = [
        f"{n_events:,} of {n:,} {who} followed from {entry_name} got {event_name}"
        f"{_by_then(curves, incidence)}"
    ]
    if curves.log_rank is not None:
        parts.append(f"log-rank p = {_p_words(curves.log_rank.p_value)}")
    if hazards is not None:
        row = hazards.table.iloc[0]
        ratio = format_odds_ratio(*row[["hazard_ratio", "conf_int_1", "conf_int_2"]])
        doubt = ", not proportional" if row["code"] != "OK" else ""
        adjusted = ", adjusted" if len(hazards.table) > 1 else ""
        parts.append(f"hazard ratio {ratio} of {row['covariate']}{adjusted}{doubt}")
    return f"{'; '.join(parts)}. {steps.words()}"


def _by_then(curves: Curves, incidence: Curves | None) -> str:
    """How many had the event by a time at which enough are at risk in every stratum."""
    enough = np.min([curve.at_risk for curve in curves.curves], axis=0) >= FEWEST_AT_RISK
    if not enough[1:].any() or len(curves.curves) < 2:
        return ""
    time = float(curves.at_times[np.flatnonzero(enough)[-1]])
    shown = curves.curves if incidence is None else incidence.curves[::2]
    words = []
    for curve in (shown[-1], shown[0]):
        share, low, high = curve.at([time]).iloc[0]
        if incidence is None:
            share, low, high = 1 - share, 1 - high, 1 - low
        words.append(f"{format_risk(share, low, high)} in “{curve.stratum}”")
    return f": by {time:g} {curves.unit} {words[0]}, {words[1]}"


def _p_words(p: float) -> str:
    return format_p(-log10(p)) if p > 1e-300 else "< 1e-300"
