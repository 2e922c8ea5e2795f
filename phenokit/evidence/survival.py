"""Cohorts with follow-up: how many are still free of the event, by stratum of risk.

    cut_into_strata             strata of a risk or of a similarity
    fit_kaplan_meier            curves by stratum, number at risk, median, log-rank test
    fit_cumulative_incidence    Aalen & Johansen's curves where another event competes

Hazard ratios are in `cox`. The curves and the log-rank test are written out, from one table
of risk sets, because lifelines leaves delayed entry out of its log-rank test and moves tied
times at random for Aalen-Johansen, and days are whole and tied. Lifelines and statsmodels
are the oracles.

A patient is at risk after `entry` and up to and including `duration`. Where strata are made
by testing, entry is the day of the test: whoever is tested has lived until then.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Float64, Int, Int64, Real, Shaped

from phenokit.errors import AnalysisRefused, BadInput

Z_95 = 1.959963984540054
"""Quantile of the normal distribution that leaves 2.5 % above."""
ROWS_NAMED = 10

Array = np.ndarray


# --- strata -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Strata:
    """Which stratum each patient is in.

    Attributes
    ----------
    names
        In the order in which they are shown.
    of_patient
        Position in `names`; -1 for a patient in none of them.
    """

    names: tuple[str, ...]
    of_patient: Int64[Array, " patient"]

    @classmethod
    def of(
        cls, labels: Sequence[str] | Shaped[Array, " patient"], order: Sequence[str] = ()
    ) -> "Strata":
        """Strata that are named already: by `order`, else alphabetically; "" is in none."""
        text = np.asarray(labels).astype(str)
        names = list(order) or sorted(set(text) - {""})
        position = {name: k for k, name in enumerate(names)}
        return cls(
            tuple(names), np.array([position.get(one, -1) for one in text], np.int64)
        )


def cut_into_strata(values: Real[Array, " patient"], *, n_strata: int = 3) -> Strata:
    """Strata of equal size by a value such as a risk or the similarity to a prototype.

    Parameters
    ----------
    values
        NaN where unknown: in no stratum. Equal values share a stratum.
    n_strata
        At least 2.

    Raises
    ------
    BadInput
        ``E_RANGE`` if the values are too few or too often equal for that many strata.

    Examples
    --------
    >>> strata = cut_into_strata(np.array([0.1, 0.4, np.nan, 0.2, 0.9]), n_strata=2)
    >>> strata.names
    ('1 of 2: 0.1 to 0.2', '2 of 2: 0.4 to 0.9')
    >>> strata.of_patient
    array([ 0,  1, -1,  0,  1])
    """
    if n_strata < 2:
        raise ValueError("at least 2 strata are needed")
    is_known = ~np.isnan(values)
    known = values[is_known]
    of_known = np.zeros(0, dtype=np.int64)
    if len(known):
        edges = np.quantile(known, np.arange(1, n_strata) / n_strata)
        of_known = np.searchsorted(edges, known, side="left")
    if len(np.unique(of_known)) < n_strata:
        raise BadInput(
            "E_RANGE",
            f"The {len(np.unique(known)):,} different values cannot be cut into {n_strata} "
            "strata; take fewer.",
        )
    of_patient = np.full(len(values), -1, dtype=np.int64)
    of_patient[is_known] = of_known
    within = [known[of_known == k] for k in range(n_strata)]
    names = tuple(
        f"{k + 1} of {n_strata}: {part.min():.3g} to {part.max():.3g}"
        for k, part in enumerate(within)
    )
    return Strata(names, of_patient)


# --- curves -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Curve:
    """A step function of one stratum, and who was at risk.

    Attributes
    ----------
    stratum
        Its name.
    event
        Name of the event; of `fit_kaplan_meier` empty.
    n, n_events
        Patients, and those of them with the event.
    times
        0, then the times of events; the estimate holds from each until the next.
    estimate, low, high
        Survival (starts at 1) or cumulative incidence (starts at 0), with the 95 % band of
        the log-log scale; the band is NaN once survival has reached 0.
    censored
        Times at which somebody was last seen without an event, ascending, each once.
    at_risk
        Number at risk at each of the `at_times` of the result.
    median, median_low, median_high
        Time by which half have had the event, with its 95 % interval; infinite where it is
        not reached. NaN for a cumulative incidence.
    """

    stratum: str
    event: str
    n: int
    n_events: int
    times: Float64[Array, " step"]
    estimate: Float64[Array, " step"]
    low: Float64[Array, " step"]
    high: Float64[Array, " step"]
    censored: Float64[Array, " censoring"]
    at_risk: Int64[Array, " at_time"]
    median: float = float("nan")
    median_low: float = float("nan")
    median_high: float = float("nan")

    def at(self, times: Sequence[float | int] | Float[Array, " at_time"]) -> pd.DataFrame:
        """Estimate and band at given times; NaN after the last patient was seen."""
        step = np.searchsorted(self.times, np.asarray(times, float), side="right") - 1
        last = max(self.times[-1], self.censored[-1] if len(self.censored) else 0.0)
        is_seen = np.asarray(times, float) <= last
        return pd.DataFrame(
            {
                "estimate": np.where(is_seen, self.estimate[step], np.nan),
                "conf_int_1": np.where(is_seen, self.low[step], np.nan),
                "conf_int_2": np.where(is_seen, self.high[step], np.nan),
            }
        )

    def median_text(self, unit: str) -> str:
        """The median with its interval in words."""

        def text(time: float) -> str:
            return f"{time:.4g}" if np.isfinite(time) else "not reached"

        interval = f"{text(self.median_low)} to {text(self.median_high)}"
        return f"median {text(self.median)} {unit} (95 % interval {interval})"


@dataclass(frozen=True)
class LogRank:
    """Log-rank test of equal hazards in all strata (Mantel 1966).

    Attributes
    ----------
    statistic, degrees_of_freedom, p_value
        Chi-square.
    observed, expected
        Events of each stratum, and those expected if the hazards were equal.
    """

    statistic: float
    degrees_of_freedom: int
    p_value: float
    observed: Float64[Array, " stratum"]
    expected: Float64[Array, " stratum"]


@dataclass(frozen=True)
class Curves:
    """Curves of several strata on one axis.

    Attributes
    ----------
    population
        Who is in it, in words; follow-up of the tested is not that of a cohort.
    unit
        Of time.
    at_times
        The times under the axis at which the number at risk is given.
    curves
        A stratum each, and where events compete also an event each.
    log_rank
        None with a single stratum, for cumulative incidences, and where the strata are
        never at risk together (then a note says so).
    n_left_out
        Patients in no stratum.
    notes
        Sentences for the report.
    """

    population: str
    unit: str
    at_times: Float64[Array, " at_time"]
    curves: tuple[Curve, ...]
    log_rank: LogRank | None
    n_left_out: int
    notes: tuple[str, ...] = ()

    def table(self) -> pd.DataFrame:
        """A row a curve and time under the axis: number at risk, estimate and band."""
        parts = [
            curve.at(self.at_times).assign(
                stratum=curve.stratum,
                event=curve.event,
                time=self.at_times,
                at_risk=curve.at_risk,
            )
            for curve in self.curves
        ]
        first = ["stratum", "event", "time", "at_risk"]
        table = pd.concat(parts, ignore_index=True)
        return table.reindex(columns=[*first, "estimate", "conf_int_1", "conf_int_2"])


@dataclass(frozen=True)
class _RiskSets:
    """At each time of an event: how many were at risk, and how many had it."""

    times: Float64[Array, " time"]
    at_risk: Int64[Array, " time"]
    n_events: Int64[Array, " time"]


def fit_kaplan_meier(
    duration: Real[Array, " patient"],
    is_event: Bool[Array, " patient"],
    strata: Strata,
    *,
    at_times: Sequence[float | int],
    unit: str,
    population: str,
    entry: Real[Array, " patient"] | None = None,
) -> Curves:
    """Survival by stratum, with the number at risk and the log-rank test.

    Valid if being lost to follow-up has nothing to do with the risk. Where death or another
    event keeps the event from happening, one minus this is not a risk: see
    `fit_cumulative_incidence`.

    Parameters
    ----------
    duration
        Time from the origin to the event or to the end of follow-up.
    is_event
        Whether it is the event.
    strata
        Of `cut_into_strata` or `Strata.of`.
    at_times
        Where the number at risk is wanted, ascending, from 0.
    unit, population
        For titles and axes: the unit of time, and who was followed.
    entry
        Time from the origin after which a patient would have been seen; by default all
        are seen from the origin. Survival then is that of patients who live until the
        first entry, and the first risk sets may be small.

    Raises
    ------
    BadInput
        ``E_NONFINITE`` or ``E_RANGE``, naming rows from 1, for a time that is missing,
        negative or not after its entry; ``E_EMPTY`` for a stratum without a patient.

    References
    ----------
    Kaplan & Meier (1958), doi:10.1080/01621459.1958.10501452; Brookmeyer & Crowley (1982)
    for the interval of the median, doi:10.2307/2530286.
    """
    duration, entry = checked_times(duration, entry)
    _check_strata(strata)
    places = np.asarray(at_times, np.float64)
    curves, notes = [], []
    for k, name in enumerate(strata.names):
        rows = strata.of_patient == k
        sets = _risk_sets(duration[rows], is_event[rows], entry[rows])
        curve = _kaplan_meier(
            name, sets, duration[rows], is_event[rows], entry[rows], places
        )
        curves.append(curve)
        emptied = sets.times[(sets.at_risk == sets.n_events)]
        if len(emptied) and duration[rows].max() > emptied[0]:
            notes.append(
                f"In {name} all that were at risk at {emptied[0]:g} {unit} had the event "
                "and others entered later: survival is 0 from there on and means little."
            )
    test = None
    if len(curves) > 1:
        try:
            test = _log_rank(duration, is_event, strata, entry)
        except AnalysisRefused as refusal:
            notes.append(str(refusal))
    n_out = int((strata.of_patient < 0).sum())
    return Curves(population, unit, places, tuple(curves), test, n_out, tuple(notes))


def _kaplan_meier(
    name: str,
    sets: _RiskSets,
    duration: Float64[Array, " patient"],
    is_event: Bool[Array, " patient"],
    entry: Float64[Array, " patient"],
    at_times: Float64[Array, " at_time"],
) -> Curve:
    n, d = sets.at_risk.astype(float), sets.n_events.astype(float)
    survival = np.cumprod(1 - d / n)
    with np.errstate(divide="ignore", invalid="ignore"):
        # Greenwood's variance of log S; the band is symmetric for log(-log S).
        spread = np.sqrt(np.cumsum(d / (n * (n - d)))) / np.abs(np.log(survival))
        low = survival ** np.exp(Z_95 * spread)
        high = survival ** np.exp(-Z_95 * spread)
    low[survival == 0] = high[survival == 0] = np.nan
    times = np.concatenate([[0.0], sets.times])
    survival, low, high = (np.concatenate([[1.0], part]) for part in (survival, low, high))
    medians = [_first_at_most_half(times, part) for part in (survival, low, high)]
    return Curve(
        stratum=name,
        event="",
        n=len(duration),
        n_events=int(is_event.sum()),
        times=times,
        estimate=survival,
        low=low,
        high=high,
        censored=np.unique(duration[~is_event]),
        at_risk=_at_risk_at(at_times, duration, entry),
        median=medians[0],
        median_low=medians[1],
        median_high=medians[2],
    )


def _first_at_most_half(
    times: Float64[Array, " step"], survival: Float64[Array, " step"]
) -> float:
    below = np.flatnonzero(survival <= 0.5 + 1e-12)
    return float(times[below[0]]) if len(below) else float("inf")


def log_rank(
    duration: Real[Array, " patient"],
    is_event: Bool[Array, " patient"],
    strata: Strata,
    *,
    entry: Real[Array, " patient"] | None = None,
) -> LogRank:
    """Test whether the hazards of two or more strata are equal.

    Parameters
    ----------
    duration, is_event, strata, entry
        As in `fit_kaplan_meier`; patients in no stratum do not count.

    Raises
    ------
    AnalysisRefused
        If no event tells anything, because at its time one stratum only is at risk or all
        that are have it.
    """
    _check_strata(strata)
    duration, entry = checked_times(duration, entry)
    return _log_rank(duration, is_event, strata, entry)


def _log_rank(
    duration: Float64[Array, " patient"],
    is_event: Bool[Array, " patient"],
    strata: Strata,
    entry: Float64[Array, " patient"],
) -> LogRank:
    from scipy.stats import chi2

    n_strata = len(strata.names)
    is_in = strata.of_patient >= 0
    pooled = _risk_sets(duration[is_in], is_event[is_in], entry[is_in])
    at_risk = np.zeros((len(pooled.times), n_strata))
    observed = np.zeros(n_strata)
    for k in range(n_strata):
        rows = strata.of_patient == k
        at_risk[:, k] = _at_risk_at(pooled.times, duration[rows], entry[rows])
        observed[k] = is_event[rows].sum()
    share = at_risk / pooled.at_risk[:, None]
    d, n = pooled.n_events.astype(float), pooled.at_risk.astype(float)
    expected = d @ share
    factor = d * (n - d) / np.maximum(n - 1, 1)
    variance = np.diag(factor @ share) - share.T @ (share * factor[:, None])
    # A stratum that is never at risk beside another adds nothing and has no degree.
    degrees = int(np.linalg.matrix_rank(variance, hermitian=True))
    if degrees == 0:
        raise AnalysisRefused(
            "The strata cannot be compared: no event leaves others of two strata at risk."
        )
    difference = observed - expected
    statistic = float(difference @ np.linalg.pinv(variance, hermitian=True) @ difference)
    return LogRank(
        statistic, degrees, float(chi2.sf(statistic, degrees)), observed, expected
    )


def fit_cumulative_incidence(
    duration: Real[Array, " patient"],
    event: Int[Array, " patient"],
    strata: Strata,
    *,
    events: Sequence[str],
    at_times: Sequence[float | int],
    unit: str,
    population: str,
    entry: Real[Array, " patient"] | None = None,
) -> Curves:
    """Probability of each of several events that keep one another from happening.

    Parameters
    ----------
    duration, strata, at_times, unit, population, entry
        As in `fit_kaplan_meier`.
    event
        0 for the end of follow-up, else which event came first: 1 the first of `events`.
    events
        Their names, such as ``("infarction", "death before it")``.

    Returns
    -------
    Curves
        For each stratum a curve an event; at any time they and the survival without any
        of them add up to 1.

    Raises
    ------
    BadInput
        As `fit_kaplan_meier`, and ``E_RANGE`` for an event that has no name.

    References
    ----------
    Aalen & Johansen (1978), http://www.jstor.org/stable/4615704; variance by the delta
    method, Marubini & Valsecchi (1995), section 10.3.
    """
    duration, entry = checked_times(duration, entry)
    _check_strata(strata)
    refuse_rows(
        "E_RANGE",
        f"the event is not 0 to {len(events)}",
        (event < 0) | (event > len(events)),
    )
    places = np.asarray(at_times, np.float64)
    curves = []
    for k, name in enumerate(strata.names):
        rows = strata.of_patient == k
        curves += _aalen_johansen(
            name, duration[rows], event[rows], entry[rows], events, places
        )
    n_out = int((strata.of_patient < 0).sum())
    return Curves(population, unit, places, tuple(curves), None, n_out)


def _aalen_johansen(
    name: str,
    duration: Float64[Array, " patient"],
    event: Int[Array, " patient"],
    entry: Float64[Array, " patient"],
    events: Sequence[str],
    at_times: Float64[Array, " at_time"],
) -> list[Curve]:
    sets = _risk_sets(duration, event > 0, entry)
    n, d = sets.at_risk.astype(float), sets.n_events.astype(float)
    before = np.concatenate([[1.0], np.cumprod(1 - d / n)[:-1]])
    with np.errstate(divide="ignore"):
        # Where all at risk have an event nothing follows: the term is multiplied by 0.
        all_events = np.where(d < n, d / (n * (n - d)), 0.0)
    curves = []
    for cause, title in enumerate(events, start=1):
        place = np.searchsorted(sets.times, duration[event == cause])
        of_cause = np.bincount(place, minlength=len(n)).astype(float)
        incidence = np.cumsum(before * of_cause / n)
        # sum (F(t) - F(s))^2 a + sum b - 2 sum (F(t) - F(s)) c, by sums up to t.
        own = before**2 * of_cause * (n - of_cause) / n**3
        both = before * of_cause / n**2
        squares = (
            incidence**2 * np.cumsum(all_events)
            - 2 * incidence * np.cumsum(incidence * all_events)
            + np.cumsum(incidence**2 * all_events)
        )
        mixed = incidence * np.cumsum(both) - np.cumsum(incidence * both)
        variance = np.maximum(squares + np.cumsum(own) - 2 * mixed, 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            spread = np.sqrt(variance) / (incidence * np.abs(np.log(incidence)))
            low = incidence ** np.exp(Z_95 * spread)
            high = incidence ** np.exp(-Z_95 * spread)
        none_yet = incidence == 0
        low[none_yet] = high[none_yet] = 0
        curves.append(
            Curve(
                stratum=name,
                event=title,
                n=len(duration),
                n_events=int((event == cause).sum()),
                times=np.concatenate([[0.0], sets.times]),
                estimate=np.concatenate([[0.0], incidence]),
                low=np.concatenate([[0.0], low]),
                high=np.concatenate([[0.0], high]),
                censored=np.unique(duration[event == 0]),
                at_risk=_at_risk_at(at_times, duration, entry),
            )
        )
    return curves


def _risk_sets(
    duration: Float64[Array, " patient"],
    is_event: Bool[Array, " patient"],
    entry: Float64[Array, " patient"],
) -> _RiskSets:
    times, n_events = np.unique(duration[is_event], return_counts=True)
    return _RiskSets(times, _at_risk_at(times, duration, entry), n_events.astype(np.int64))


def _at_risk_at(
    times: Float64[Array, " time"],
    duration: Float64[Array, " patient"],
    entry: Float64[Array, " patient"],
) -> Int64[Array, " time"]:
    """How many are seen just before each time; at 0, those who are seen from there on."""
    left = np.searchsorted(np.sort(duration), times, side="left")
    entered = np.searchsorted(np.sort(entry), times, side="left")
    entered = np.where(times == 0, np.count_nonzero(entry <= 0), entered)
    return (entered - left).astype(np.int64)


def checked_times(
    duration: Real[Array, " patient"], entry: Real[Array, " patient"] | None
) -> tuple[Float64[Array, " patient"], Float64[Array, " patient"]]:
    """Duration and entry as numbers that can be used, or a refusal that names rows."""
    durations = duration.astype(np.float64)
    refuse_rows("E_NONFINITE", "the time is missing", ~np.isfinite(durations))
    refuse_rows("E_RANGE", "the time is negative", durations < 0)
    if entry is None:
        # Before the origin, so that an event on the first day finds its patient at risk.
        return durations, np.full(len(durations), -1.0)
    entries = entry.astype(np.float64)
    refuse_rows("E_NONFINITE", "the entry is missing", ~np.isfinite(entries))
    refuse_rows("E_RANGE", "the entry is negative", entries < 0)
    refuse_rows("E_RANGE", "the time is not after the entry", durations <= entries)
    return durations, entries


def refuse_rows(code: str, what: str, is_bad: Bool[Array, " patient"]) -> None:
    """Refuse if something is wrong with a row, and name the rows."""
    rows = np.flatnonzero(is_bad)
    if not len(rows):
        return
    named = ", ".join(str(row + 1) for row in rows[:ROWS_NAMED])
    if len(rows) > ROWS_NAMED:
        named += f" and {len(rows) - ROWS_NAMED:,} more"
    raise BadInput(
        code,
        f"Follow-up: {what} in {len(rows):,} of {len(is_bad):,} rows (row {named}).",
        where=f"row {named}",
    )


def _check_strata(strata: Strata) -> None:
    counts = np.bincount(
        strata.of_patient[strata.of_patient >= 0], minlength=len(strata.names)
    )
    for name, count in zip(strata.names, counts, strict=True):
        if count == 0:
            raise BadInput("E_EMPTY", f"Nobody is in stratum {name}.", where=name)
