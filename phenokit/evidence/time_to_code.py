"""Does an exposure go before a diagnosis? Time from the recording to the first code.

A scan asks who has a phecode at all; here only codes after the recording count. Cox's
proportional hazards model (1972), Efron's handling of ties, fitted by lifelines: patients
who had the code by the day of the recording are left out, and one without it is censored at
the end of his follow-up. Days are whole, so ties are common.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Shaped

from phenokit.errors import AnalysisRefused
from phenokit.evidence.cox import fit_hazards
from phenokit.evidence.multiplicity import neg_log10_p_of_z

FEWEST_EVENTS = 5
"""Under this many events nothing is tested."""

Z_95 = 1.959963984540054
"""Quantile of the normal distribution that leaves 2.5 % above."""

_NAN = float("nan")


@dataclass(frozen=True)
class FollowUp:
    """When each patient was recorded, observed, and first coded.

    Days (``datetime64[D]``); NaT where unknown or, in `first_code`, never.

    Attributes
    ----------
    recorded
        Day of the recording.
    end
        Last day on which a code would have been seen.
    first_code
        For each phecode the day of each patient's first code.
    eligible
        For phecodes of one sex, who can get it; a phecode that is not named, everyone.
    """

    recorded: Shaped[np.ndarray, " patient"]
    end: Shaped[np.ndarray, " patient"]
    first_code: Mapping[str, Shaped[np.ndarray, " patient"]]
    eligible: Mapping[str, Bool[np.ndarray, " patient"]] = field(default_factory=dict)

    def course(self, phecode: str) -> "Course":
        """What became of each patient with regard to one phecode."""
        recorded = self.recorded.astype("datetime64[D]")
        end = self.end.astype("datetime64[D]")
        first = self.first_code[phecode].astype("datetime64[D]")
        eligible = self.eligible.get(phecode, np.ones(len(recorded), dtype=bool))
        # A comparison with NaT is False: never coded is not before; unknown, not followed.
        had_before = eligible & (first <= recorded)
        is_followed = eligible & ~had_before & (end > recorded)
        is_event = is_followed & (first <= end)
        return Course(
            eligible, had_before, is_followed, is_event, np.where(is_event, first, end)
        )


@dataclass(frozen=True)
class Course:
    """Who is followed to the first code of a phecode, and until when.

    Attributes
    ----------
    eligible
        Can get it.
    had_before
        Had it by the day of the recording.
    is_followed
        Neither, and seen after that day.
    is_event
        Followed, and got the code.
    last
        Day of the code, else the last day.
    """

    eligible: Bool[np.ndarray, " patient"]
    had_before: Bool[np.ndarray, " patient"]
    is_followed: Bool[np.ndarray, " patient"]
    is_event: Bool[np.ndarray, " patient"]
    last: Shaped[np.ndarray, " patient"]


@dataclass(frozen=True)
class _Row:
    """A row of the table that `associate_time_to_code` returns."""

    exposure: str
    phecode: str
    n: int
    events: int
    n_before: int
    n_not_followed: int
    n_missing: int
    hazard_ratio: float = _NAN
    conf_int_1: float = _NAN
    conf_int_2: float = _NAN
    log_hazard_ratio: float = _NAN
    standard_error: float = _NAN
    p_value: float = _NAN
    neg_log_p_value: float = _NAN
    log_rank_p: float = _NAN
    proportional_hazards_p: float = _NAN
    median_days: float = _NAN
    status: str = "tested"
    code: str = "OK"
    note: str = ""


def associate_time_to_code(
    pairs: Sequence[tuple[str, str]],
    exposures: Mapping[str, Float[np.ndarray, " patient"]],
    follow_up: FollowUp,
    covariates: Float[np.ndarray, "patient covariate"],
    *,
    minimum_events: int = FEWEST_EVENTS,
) -> pd.DataFrame:
    """Hazard ratio of each pair of an exposure and a phecode.

    Valid if censoring has nothing to do with the risk that is left after adjustment, and
    where the ratio stays the same over time: `proportional_hazards_p` tests the latter.

    Parameters
    ----------
    pairs
        Exposure and phecode.
    exposures
        Values by name; NaN where missing.
    follow_up
        See `FollowUp`.
    covariates
        Adjusted for; none missing. One that does not vary among the patients of a pair is
        left out of it, and the note says so.
    minimum_events
        Pairs with fewer events are not tested; at least 5.

    Returns
    -------
    pd.DataFrame
        A row a pair: ``exposure, phecode, n, events``, the patients left out, each counted
        once (``n_before`` had the code by the day of the recording, ``n_not_followed``
        have no day of follow-up after it, ``n_missing`` no exposure)``, hazard_ratio,
        conf_int_1, conf_int_2`` (95 %, Wald; per SD of the exposure over all patients, per
        unit for 0 and 1)``, log_hazard_ratio, standard_error, p_value, neg_log_p_value,
        log_rank_p`` (highest against lowest third of the exposure, not adjusted; NaN where
        its values are too few to make thirds)``, proportional_hazards_p`` (scaled
        Schoenfeld residuals against ranked time; low: the ratio changes)``, median_days``
        (of follow-up)``, status`` (tested, not_tested)``, code, note``.

    Raises
    ------
    ValueError
        If a covariate is missing, or fewer than 5 events are to be enough.

    References
    ----------
    Cox (1972), doi:10.1111/j.2517-6161.1972.tb00899.x; Grambsch & Therneau (1994),
    doi:10.1093/biomet/81.3.515.
    """
    if not np.isfinite(covariates).all():
        raise ValueError("a covariate is missing")
    if minimum_events < FEWEST_EVENTS:
        raise ValueError(f"at least {FEWEST_EVENTS} events are needed")
    rows = [
        _associate(name, phecode, exposures[name], follow_up, covariates, minimum_events)
        for name, phecode in pairs
    ]
    columns = pd.Index([f.name for f in fields(_Row)])
    return pd.DataFrame([asdict(row) for row in rows], columns=columns)


def _associate(
    name: str,
    phecode: str,
    values: Float[np.ndarray, " patient"],
    follow_up: FollowUp,
    covariates: Float[np.ndarray, "patient covariate"],
    minimum_events: int,
) -> _Row:
    """One row: choose the patients, then fit."""
    course = follow_up.course(phecode)
    is_missing = course.is_followed & np.isnan(values)
    used = course.is_followed & ~is_missing
    is_event = course.is_event[used]
    recorded = follow_up.recorded[used].astype("datetime64[D]")
    days = (course.last[used] - recorded) / np.timedelta64(1, "D")
    counts = {
        "n": int(used.sum()),
        "events": int(is_event.sum()),
        "n_before": int(course.had_before.sum()),
        "n_not_followed": int(
            (course.eligible & ~course.had_before & ~course.is_followed).sum()
        ),
        "n_missing": int(is_missing.sum()),
        "median_days": float(np.median(days)) if len(days) else _NAN,
    }
    not_tested = {**counts, "status": "not_tested"}
    x = values[used].astype(np.float64)
    if not len(x) or x.min() == x.max():
        return _Row(
            name, phecode, **not_tested, code="N_CONSTANT", note="the exposure is constant"
        )
    if counts["events"] < minimum_events:
        note = f"{counts['events']} events after the recording, {minimum_events} needed"
        return _Row(name, phecode, **not_tested, code="N_FEW_CASES", note=note)
    adjusted = covariates[used]
    varies = adjusted.min(axis=0) < adjusted.max(axis=0)
    fitted = _fit_cox(x / unit_of(values), adjusted[:, varies], days, is_event)
    if fitted is None:
        note = (
            "no finite hazard ratio: the events lie on one side of an exposure or covariate"
        )
        return _Row(name, phecode, **not_tested, code="N_NOT_CONVERGED", note=note)
    effect, error, schoenfeld_p = fitted
    low, high = effect - Z_95 * error, effect + Z_95 * error
    strength = float(neg_log10_p_of_z(np.array([effect / error]))[0])
    n_constant = int((~varies).sum())
    return _Row(
        name,
        phecode,
        **counts,
        hazard_ratio=float(np.exp(effect)),
        conf_int_1=float(np.exp(low)),
        conf_int_2=float(np.exp(high)),
        log_hazard_ratio=effect,
        standard_error=error,
        p_value=float(10**-strength),
        neg_log_p_value=strength,
        log_rank_p=_log_rank_p(x, days, is_event),
        proportional_hazards_p=schoenfeld_p,
        note=f"{n_constant} covariate(s) constant among these patients" * (n_constant > 0),
    )


def unit_of(values: Float[np.ndarray, " patient"]) -> float:
    """What a hazard ratio is per: the SD of the known values; 1 if they are 0 and 1."""
    known = values[~np.isnan(values)].astype(np.float64)
    return 1.0 if np.isin(known, (0, 1)).all() else float(known.std(ddof=1))


def _fit_cox(
    exposure: Float[np.ndarray, " patient"],
    covariates: Float[np.ndarray, "patient covariate"],
    days: Float[np.ndarray, " patient"],
    is_event: Bool[np.ndarray, " patient"],
) -> tuple[float, float, float] | None:
    """Log hazard ratio, standard error and proportional-hazards p; None if not finite."""
    scaled = (covariates - covariates.mean(axis=0)) / covariates.std(axis=0)
    columns = np.column_stack([exposure - exposure.mean(), scaled])
    try:
        hazards = fit_hazards(columns, days, is_event)
    except AnalysisRefused:
        return None
    error = float(np.sqrt(hazards.variance[0, 0]))
    return (
        float(hazards.log_hazard_ratio[0]),
        error,
        float(hazards.proportional_hazards_p[0]),
    )


def _log_rank_p(
    exposure: Float[np.ndarray, " patient"],
    days: Float[np.ndarray, " patient"],
    is_event: Bool[np.ndarray, " patient"],
) -> float:
    """Log-rank test of the highest against the lowest third; of the two, if 0 and 1."""
    from lifelines.statistics import logrank_test

    lower, upper = np.quantile(exposure, [1 / 3, 2 / 3])
    if len(np.unique(exposure)) == 2:
        lower, upper = exposure.min(), exposure.max()
    if lower == upper:
        return _NAN
    low, high = exposure <= lower, exposure >= upper
    return float(logrank_test(days[low], days[high], is_event[low], is_event[high]).p_value)
