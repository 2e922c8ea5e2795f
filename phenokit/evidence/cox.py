"""Cox's proportional hazards model of named columns, with its check.

    log hazard of x at t = baseline(t) + x beta

Lifelines fits it (ties by Efron). What it lacks is added here: its Schoenfeld and score
residuals leave delayed entry out, and the latter ties too, so that neither the check of
proportional hazards nor the standard errors of repeated patients would hold for them.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float64, Int64

from phenokit.errors import AnalysisRefused, BadInput
from phenokit.evidence.covariates import encode_covariates
from phenokit.evidence.multiplicity import neg_log10_p_of_z
from phenokit.evidence.survival import checked_times, refuse_rows

Z_95 = 1.959963984540054
"""Quantile of the normal distribution that leaves 2.5 % above."""
EVENTS_A_COVARIATE = 10
"""Fewer events a covariate than this, and the model is refused."""
NONPROPORTIONAL = 0.01
"""p-value below which proportional hazards are doubted."""
STEP_SIZES = (0.95, 0.25)
"""Of Newton's method: where a rare covariate has a strong effect, whole ones go too far."""

Array = np.ndarray


@dataclass(frozen=True)
class CoxFit:
    """Cox's proportional hazards model (1972), ties by Efron.

    Attributes
    ----------
    table
        A row a covariate: ``covariate, hazard_ratio, conf_int_1, conf_int_2`` (95 %, Wald,
        a unit of the column)``, log_hazard_ratio, standard_error, p_value,
        neg_log_p_value, proportional_hazards_p`` (scaled Schoenfeld residuals against the
        rank of time)``, code`` (OK, W_NONPROPORTIONAL).
    residuals
        Scaled Schoenfeld residuals plus the coefficient, a row an event, with its `time`:
        over time their mean is the log hazard ratio of that time.
    n, n_patients, n_events
        Rows, different patients, events.
    is_robust
        Whether the standard errors are those of a sandwich over repeated patients.
    notes
        Sentences for the report: reference levels, columns left out, what to do about
        hazards that are not proportional.
    """

    table: pd.DataFrame
    residuals: pd.DataFrame
    n: int
    n_patients: int
    n_events: int
    is_robust: bool
    notes: tuple[str, ...]


def fit_cox(
    table: pd.DataFrame,
    covariates: Sequence[str],
    *,
    duration: str,
    event: str,
    entry: str | None = None,
    strata: Sequence[str] = (),
    patient: str | None = None,
) -> CoxFit:
    """Hazard ratios of named columns, with the check that they stay the same over time.

    Parameters
    ----------
    table
        A row a patient, or a row a stay with `patient` saying whose.
    covariates
        Columns; text enters as a column a level (see `encode_covariates`).
    duration, event, entry
        Columns: time to event or end, whether it is the event (0, 1), time of entry.
    strata
        Columns whose levels have baseline hazards of their own: the remedy where hazards
        are not proportional in a column that is itself of no interest.
    patient
        Column of ids; where one occurs twice, standard errors are robust to that.

    Raises
    ------
    BadInput
        As `encode_covariates` and `fit_kaplan_meier`; ``E_COLUMNS`` for an absent column
        or a covariate that is also another of them; ``E_RANGE`` for an event that is not 0
        or 1.
    AnalysisRefused
        ``N_FEW_CASES`` with fewer than 10 events a covariate, ``N_NOT_CONVERGED`` where the
        events lie on one side of a covariate so that its hazard ratio has no end.

    References
    ----------
    Cox (1972), doi:10.1111/j.2517-6161.1972.tb00899.x; Grambsch & Therneau (1994),
    doi:10.1093/biomet/81.3.515; Lin & Wei (1989), doi:10.1080/01621459.1989.10478874.
    """
    wanted = [duration, event, *strata, *filter(None, [entry, patient])]
    if absent := [name for name in wanted if name not in table.columns]:
        raise BadInput(
            "E_COLUMNS", f"There is no column {absent[0]}.", where=f"column {absent[0]}"
        )
    if double := [name for name in covariates if name in wanted]:
        raise BadInput(
            "E_COLUMNS",
            f"Column {double[0]} is a covariate and has another part too; leave one out.",
            where=f"column {double[0]}",
        )
    columns = encode_covariates(table, covariates)
    times, entries = checked_times(
        table[duration].to_numpy(), None if entry is None else table[entry].to_numpy()
    )
    flags = table[event].to_numpy()
    refuse_rows("E_RANGE", "the event is not 0 or 1", ~np.isin(flags, (0, 1)))
    is_event = flags.astype(bool)
    n_events, n_covariates = int(is_event.sum()), len(columns.names)
    if n_events < EVENTS_A_COVARIATE * n_covariates:
        raise AnalysisRefused(
            f"Too few events ({n_events}) for {n_covariates} covariates: Cox's model needs "
            f"{EVENTS_A_COVARIATE} each. Take fewer covariates, or longer follow-up.",
            code="N_FEW_CASES",
        )
    stratum = np.zeros(len(table), dtype=np.int64)
    if strata:
        stratum = table.groupby(list(strata), dropna=False).ngroup().to_numpy(np.int64)
    spread = columns.values.std(axis=0)
    standardised = (columns.values - columns.values.mean(axis=0)) / spread
    hazards = fit_hazards(
        standardised,
        times,
        is_event,
        entry=None if entry is None else entries,
        stratum=stratum,
    )
    effects, errors = hazards.log_hazard_ratio, np.sqrt(np.diag(hazards.variance))
    checks = hazards.proportional_hazards_p
    clusters = np.arange(len(table))
    if patient is not None:
        clusters = table.groupby(patient, dropna=False).ngroup().to_numpy()
    n_patients = len(np.unique(clusters))
    is_robust = n_patients < len(table)
    if is_robust:
        influence = hazards.sums.score_residuals() @ hazards.variance
        summed = np.zeros((n_patients, n_covariates))
        np.add.at(summed, clusters, influence)
        errors = np.sqrt((summed**2).sum(axis=0))
    is_doubted = checks < NONPROPORTIONAL
    notes = [
        *columns.notes,
        *(
            f"Hazards are not proportional in {name} (p = {p:.2g}): its hazard ratio is an "
            "average over time. Stratify by it, or split the time."
            for name, p in zip(columns.names, checks, strict=True)
            if p < NONPROPORTIONAL
        ),
    ]
    residuals = pd.DataFrame(
        (hazards.scaled_residuals() + effects) / spread, columns=pd.Index(columns.names)
    )
    residuals.insert(0, "time", times[hazards.sums.event_rows])
    strength = neg_log10_p_of_z(effects / errors)
    effects, errors = effects / spread, errors / spread
    return CoxFit(
        table=pd.DataFrame(
            {
                "covariate": columns.names,
                "hazard_ratio": np.exp(effects),
                "conf_int_1": np.exp(effects - Z_95 * errors),
                "conf_int_2": np.exp(effects + Z_95 * errors),
                "log_hazard_ratio": effects,
                "standard_error": errors,
                "p_value": 10**-strength,
                "neg_log_p_value": strength,
                "proportional_hazards_p": checks,
                "code": np.where(is_doubted, "W_NONPROPORTIONAL", "OK"),
            }
        ),
        residuals=residuals,
        n=len(table),
        n_patients=n_patients,
        n_events=n_events,
        is_robust=is_robust,
        notes=tuple(notes),
    )


@dataclass(frozen=True)
class Hazards:
    """Cox's model of columns of numbers.

    Attributes
    ----------
    log_hazard_ratio, variance
        A unit of each column.
    proportional_hazards_p
        Of Grambsch and Therneau's test of each, against the rank of time.
    sums
        Over risk sets, from which residuals come.
    """

    log_hazard_ratio: Float64[Array, " covariate"]
    variance: Float64[Array, "covariate covariate"]
    proportional_hazards_p: Float64[Array, " covariate"]
    sums: "EfronSums"

    def scaled_residuals(self) -> Float64[Array, "event covariate"]:
        """Schoenfeld residuals in the unit of the coefficients, without these."""
        schoenfeld = self.sums.schoenfeld_residuals()
        return len(schoenfeld) * schoenfeld @ self.variance


def fit_hazards(
    covariates: Float64[Array, "patient covariate"],
    duration: Float64[Array, " patient"],
    is_event: Bool[Array, " patient"],
    *,
    entry: Float64[Array, " patient"] | None = None,
    stratum: Int64[Array, " patient"] | None = None,
) -> Hazards:
    """Fit columns of about unit spread, none of them constant.

    Raises
    ------
    AnalysisRefused
        If there is no finite hazard ratio.
    """
    if stratum is None:
        stratum = np.zeros(len(duration), dtype=np.int64)
    effects, variance = _fit_by_lifelines(covariates, duration, is_event, entry, stratum)
    entries = np.full(len(duration), -1.0) if entry is None else entry
    sums = EfronSums(covariates, duration, is_event, entries, stratum, effects)
    checks = _proportional_hazards_p(
        sums.schoenfeld_residuals(), duration[sums.event_rows], variance
    )
    return Hazards(effects, variance, checks, sums)


def _fit_by_lifelines(
    covariates: Float64[Array, "patient covariate"],
    duration: Float64[Array, " patient"],
    is_event: Bool[Array, " patient"],
    entry: Float64[Array, " patient"] | None,
    stratum: Int64[Array, " patient"],
) -> tuple[Float64[Array, " covariate"], Float64[Array, "covariate covariate"]]:
    """Log hazard ratios and their variance."""
    from lifelines import CoxPHFitter
    from lifelines.exceptions import ConvergenceError, ConvergenceWarning

    names = [f"covariate {k}" for k in range(covariates.shape[1])]
    table = pd.DataFrame(covariates, columns=pd.Index(names))
    table = table.assign(duration=duration, event=is_event)
    if entry is not None:
        table = table.assign(entry=entry)
    if stratum.any():
        table = table.assign(stratum=stratum)
    for step_size in STEP_SIZES:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                model = CoxPHFitter().fit(
                    table,
                    duration_col="duration",
                    event_col="event",
                    entry_col=None if entry is None else "entry",
                    strata=["stratum"] if stratum.any() else None,
                    fit_options={
                        "precision": 1e-10,
                        "r_precision": 1e-12,
                        "step_size": step_size,
                    },
                )
            except (ConvergenceError, np.linalg.LinAlgError):
                continue
        effects = model.params_[names].to_numpy(np.float64)
        variance = model.variance_matrix_.loc[names, names].to_numpy(np.float64)
        diverged = any(issubclass(w.category, ConvergenceWarning) for w in caught)
        has_end = np.isfinite(variance).all() and (np.diag(variance) > 0).all()
        if has_end and not diverged:
            return effects, variance
    raise _no_end()


def _no_end() -> AnalysisRefused:
    return AnalysisRefused(
        "No finite hazard ratio: the events lie on one side of a covariate. Leave it out, "
        "or join levels.",
        code="N_NOT_CONVERGED",
    )


class EfronSums:
    """Sums over risk sets at the estimate, with Efron's share of the tied events.

    Rows are those of events, by stratum and time; the l-th of d tied events is compared
    with the risk set less l / d of the d.
    """

    def __init__(
        self,
        covariates: Float64[Array, "patient covariate"],
        duration: Float64[Array, " patient"],
        is_event: Bool[Array, " patient"],
        entry: Float64[Array, " patient"],
        stratum: Int64[Array, " patient"],
        effects: Float64[Array, " covariate"],
    ) -> None:
        linear = covariates @ effects
        self.covariates = covariates
        self.hazard = np.exp(linear - linear.max())
        # Strata one after another on one axis of time, so that those who entered after a
        # time are all of the later strata and some of its own, and cancel.
        moments = np.unique(np.concatenate([duration, entry]), return_inverse=True)[1]
        moments = moments + (moments.max() + 1) * np.tile(stratum, 2)
        self.last, self.first = np.split(moments, 2)
        rows = np.flatnonzero(is_event)
        self.event_rows = rows[np.argsort(self.last[rows], kind="stable")]
        self.at = self.last[self.event_rows]
        _, begins, self.group, ties = np.unique(
            self.at, return_index=True, return_inverse=True, return_counts=True
        )
        self.begins = begins
        self.share = (np.arange(len(self.at)) - begins[self.group]) / ties[self.group]
        self.ties = ties
        weighted = np.column_stack([np.ones(len(covariates)), covariates])
        weighted *= self.hazard[:, None]
        at_risk = _sums_from(self.last, weighted, self.at)
        at_risk -= _sums_from(self.first, weighted, self.at)
        tied = np.add.reduceat(weighted[self.event_rows], begins, axis=0)[self.group]
        sums = at_risk - self.share[:, None] * tied
        self.total = sums[:, 0]
        self.mean = sums[:, 1:] / sums[:, :1]

    def schoenfeld_residuals(self) -> Float64[Array, "event covariate"]:
        """What each event's patient has more of than the risk set, in the order of `at`."""
        mean = np.add.reduceat(self.mean, self.begins, axis=0) / self.ties[:, None]
        return self.covariates[self.event_rows] - mean[self.group]

    def score_residuals(self) -> Float64[Array, "patient covariate"]:
        """Each row's part of the score; they add up to 0."""
        rate = 1 / self.total
        terms = np.column_stack([rate, rate[:, None] * self.mean])
        sums = np.concatenate([np.zeros((1, terms.shape[1])), np.cumsum(terms, axis=0)])
        seen = (
            sums[np.searchsorted(self.at, self.last, side="right")]
            - sums[np.searchsorted(self.at, self.first, side="right")]
        )
        # A tied event's own weight in the l-th comparison is 1 - l / d.
        own = np.add.reduceat(self.share[:, None] * terms, self.begins, axis=0)
        seen[self.event_rows] -= own[self.group]
        expected = self.hazard[:, None] * (self.covariates * seen[:, :1] - seen[:, 1:])
        residuals = -expected
        residuals[self.event_rows] += self.schoenfeld_residuals()
        return residuals


def _sums_from(
    moments: Int64[Array, " patient"],
    values: Float64[Array, "patient column"],
    at: Int64[Array, " event"],
) -> Float64[Array, "event column"]:
    """Sum of the values of all rows whose moment is not before each of `at`."""
    order = np.argsort(moments, kind="stable")
    sums = np.cumsum(values[order[::-1]], axis=0)[::-1]
    sums = np.concatenate([sums, np.zeros((1, values.shape[1]))])
    return sums[np.searchsorted(moments[order], at, side="left")]


def _proportional_hazards_p(
    schoenfeld: Float64[Array, "event covariate"],
    time: Float64[Array, " event"],
    variance: Float64[Array, "covariate covariate"],
) -> Float64[Array, " covariate"]:
    """Grambsch & Therneau's test of each covariate, against the rank of time."""
    from scipy.stats import chi2, rankdata

    rank = rankdata(time)
    rank -= rank.mean()
    if not rank.any():
        return np.full(len(variance), np.nan)
    n_events = len(time)
    slope = rank @ (n_events * schoenfeld @ variance)
    statistic = slope**2 / (n_events * np.diag(variance) * (rank @ rank))
    return chi2.sf(statistic, 1)
