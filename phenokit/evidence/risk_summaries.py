"""What a fitted risk model says of a cohort, as tables: the figures and files show these.

    CohortRisk           the cohort by distinct patterns of features, and its risk
    risk_fifths          fifths of risk: observed and predicted rates, top against bottom
    under_tested_groups  untested risk and missed cases by level of a feature and by fifth
    calibration_tested   predicted against observed among the tested: what can be checked
    recalibration        slope and intercept of the same
    odds_ratios          coefficients of risk and of testing, per standard deviation
    sensitivity_strip    the answer under half and twice the stated prevalence
    decision_curve       expected net benefit of acting on the risk
    risk_histograms      how risk is distributed among the tested and the untested
    prior_posterior      what the data added

Intervals hold 95 % of the posterior draws, at most 400 of them. Work goes by distinct
patterns, so that time and memory follow these and not the patients; beyond `MANY_PATTERNS`
the mean over a group is exact at the posterior mean of the parameters, and how it moves
from draw to draw is taken from some hundreds of the group's patterns.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float64, Int64
from scipy.special import expit, logit

from phenokit.errors import AnalysisRefused, BadInput
from phenokit.evidence.heckman import HeckmanModel
from phenokit.evidence.psis import resample, weighted_quantile
from phenokit.evidence.rates import Z_95, ratio_interval, wilson_interval
from phenokit.evidence.risk import PREDICTION_DRAWS, SelectiveLabelsModel
from phenokit.evidence.selective_labels import (
    COEFFICIENT_SCALE,
    BernoulliModel,
    Cells,
    Probabilities,
    aggregate,
)

Array = np.ndarray
Features = pd.DataFrame | Array
Rows = Sequence[object] | Array | pd.Series

MINIMUM_GROUP = 10
"""Patients below which a group's figures are not shown."""
MOST_LEVELS = 5
"""Values of a feature up to which each is a group."""
N_FIFTHS = 5
MANY_PATTERNS = 4_096
SAMPLED_PATTERNS = 4_000
"""Patterns, over all groups of a table, whose draws are computed where there are many."""
FEWEST_SAMPLED = 100
DENSITY_POINTS = 120
INTERVAL = np.array([0.025, 0.975])


# --- the cohort -----------------------------------------------------------------------


@dataclass(frozen=True)
class CohortRisk:
    """Distinct patterns of features, how many patients have them, and their risk.

    Attributes
    ----------
    names
        Of the features.
    cells
        Patterns in the units of the given features, with counts.
    risk, risk_if_tested, risk_if_untested
        Of each pattern: P(Y=1 | X) and P(Y=1 | T, X).
    """

    names: tuple[str, ...]
    cells: Cells
    risk: Float64[Array, " cell"]
    risk_if_tested: Float64[Array, " cell"]
    risk_if_untested: Float64[Array, " cell"]
    _model: BernoulliModel
    _design: Float64[Array, "cell column"]
    _coefficients: Float64[Array, "draw coefficient"]
    _shape: Float64[Array, " draw"]
    _draws: "_Quantities | None"
    _centre: "_Quantities"

    @property
    def n(self) -> Float64[Array, " cell"]:
        """Patients."""
        return self.cells.counts.sum(axis=1)

    @property
    def n_tested(self) -> Float64[Array, " cell"]:
        """Patients whose outcome is known."""
        return self.cells.counts[:, :2].sum(axis=1)

    @property
    def n_cases(self) -> Float64[Array, " cell"]:
        """Tested patients with the outcome."""
        return self.cells.counts[:, 0]

    @cached_property
    def fifth(self) -> Int64[Array, " cell"]:
        """Fifth of risk, 1 to 5; patients of the same features are in the same one."""
        return _equal_parts(self.risk, self.n, N_FIFTHS)

    def expected(
        self, what: str, groups: Bool[Array, "group cell"]
    ) -> Float64[Array, "group draw"]:
        """Expected patients of each group under every draw.

        Parameters
        ----------
        what
            ``case``: the sum of P(Y=1) over all patients; ``missed``: of P(Y=1, T=0);
            ``untested``: of P(T=0); ``tested_case``: of P(Y=1 | T=1) over the tested.
        """
        weight = self.n_tested if what == "tested_case" else self.n
        if self._draws is not None:
            return (groups * weight) @ getattr(self._draws, what)
        at_most = max(FEWEST_SAMPLED, SAMPLED_PATTERNS // len(groups))
        centre = getattr(self._centre, what)[:, 0]
        found = np.zeros((len(groups), len(self._shape)))
        for k, members in enumerate(groups):
            rows = np.flatnonzero(members & (weight > 0))
            if not len(rows):
                continue
            # Every so many in the order of risk.
            ordered = rows[np.argsort(self.risk[rows], kind="stable")]
            at = np.linspace(0, len(rows), min(len(rows), at_most), endpoint=False)
            few = ordered[at.astype(np.int64)]
            drawn = _quantities(
                self._model, self._coefficients, self._shape, self._design[few]
            )
            moved = weight[few] @ (getattr(drawn, what) - centre[few, None])
            scale = weight[rows].sum() / weight[few].sum()
            found[k] = weight[rows] @ centre[rows] + scale * moved
        return found


@dataclass(frozen=True)
class _Quantities:
    """Probabilities of patterns under draws, shape ``(cell, draw)`` each."""

    case: Array
    missed: Array
    untested: Array
    tested_case: Array


def _quantities(
    model: BernoulliModel, coefficients: Array, shape: Array, design: Array
) -> _Quantities:
    """In blocks that stay in the cache."""
    parts = []
    for start in range(0, len(design), 512):
        p = model.probabilities(coefficients, shape, design[start : start + 512])
        parts.append(_of_probabilities(p))
    return _Quantities(*(np.concatenate(one) for one in zip(*parts, strict=True)))


def _of_probabilities(p: Probabilities) -> tuple[Array, Array, Array, Array]:
    tested = np.logaddexp(p.log_positive, p.log_negative)
    return p.case, p.missed, np.exp(p.log_untested), np.exp(p.log_positive - tested)


def cohort_risk(
    model: SelectiveLabelsModel,
    X: Features,
    tested: Rows,
    outcome: Rows,
    *,
    risk: Float64[Array, " row"] | None = None,
) -> CohortRisk:
    """Aggregate a cohort for the tables below; each of them takes it in place of its parts.

    Parameters
    ----------
    model
        Fitted, for outcomes of 0 and 1.
    X, tested, outcome
        The cohort, as in `SelectiveLabelsModel.fit`.
    risk
        P(Y=1 | X) of every row, where it is known already (`predict`); orders the patients.

    Raises
    ------
    ValueError
        For a continuous outcome.
    """
    fitted = model.fitted_.model
    if isinstance(fitted, HeckmanModel):
        raise ValueError("for outcomes of 0 and 1")
    values = np.asarray(
        X[list(model.feature_names_in_)] if isinstance(X, pd.DataFrame) else X,
        dtype=np.float64,
    )
    known = np.asarray(pd.to_numeric(pd.Series(np.asarray(outcome)), errors="coerce"))
    cells = aggregate(values, np.asarray(tested), known.astype(np.float64))
    design = model.table_.design(cells.features[:, 1:])
    drawn = model.fitted_.drawn
    few = resample(drawn.weights, PREDICTION_DRAWS, np.random.default_rng(0))
    coefficients, shape = drawn.coefficients[few], drawn.shape[few]
    centre = _quantities(
        fitted,
        (drawn.weights @ drawn.coefficients)[None],
        np.array([drawn.weights @ drawn.shape]),
        design,
    )
    draws = None
    if len(design) <= MANY_PATTERNS:
        draws = _quantities(fitted, coefficients, shape, design)
    of = draws or centre
    ordering = of.case.mean(axis=1)
    if risk is not None:
        ordering = np.empty(len(design))
        ordering[cells.cell_of_row] = risk
    return CohortRisk(
        model.table_.names[1:],
        cells,
        ordering,
        of.tested_case.mean(axis=1),
        (of.missed / of.untested).mean(axis=1),
        fitted, design, coefficients, shape, draws, centre,
    )  # fmt: skip


def fifth_of_risk(risk: Float64[Array, " row"]) -> Int64[Array, " row"]:
    """Fifth of each patient, 1 (lowest) to 5; equal risks are in the same one.

    Examples
    --------
    >>> fifth_of_risk(np.array([0.1, 0.5, 0.2, 0.4, 0.3]))
    array([1, 5, 2, 4, 3])
    """
    return _equal_parts(risk, np.ones(len(risk)), N_FIFTHS)


def _equal_parts(
    values: Float64[Array, " cell"], weight: Float64[Array, " cell"], n_parts: int
) -> Int64[Array, " cell"]:
    """Part of each value, from 1, of equal weight as far as ties allow."""
    _, level = np.unique(values, return_inverse=True)
    of_level = np.bincount(level, weight)
    total = of_level.sum()
    middle = (np.cumsum(of_level) - of_level / 2) / (total if total > 0 else 1)
    part = np.minimum((middle * n_parts).astype(np.int64), n_parts - 1) + 1
    return part[level]


def _interval(
    draws: Float64[Array, "group draw"],
) -> tuple[Float64[Array, " group"], Float64[Array, " group"]]:
    low, high = np.quantile(draws, INTERVAL, axis=1)
    return low, high


def _ratio(above: Array, below: Array) -> Array:
    """Quotient of sums; NaN where nobody is below."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(below > 0, above / below, np.nan)


# --- fifths and groups ----------------------------------------------------------------


@dataclass(frozen=True)
class RiskFifths:
    """Fifths of risk, and the highest against the lowest.

    Attributes
    ----------
    table
        ``fifth, n, n_tested, share_tested, n_cases``; ``observed_rate`` of the tested
        with Wilson's interval; ``predicted_rate_tested`` of the same patients; ``risk`` of
        all of the fifth; each with ``_low`` and ``_high``; ``note``. A fifth that nobody is
        in, as many patients share their features, has NaN; one of fewer patients than the
        minimum is ``suppressed``, or only its ``observed rate suppressed`` where fewer than
        that were tested.
    ratio, ratio_low, ratio_high
        Risk of the highest fifth that is shown over that of the lowest.
    observed_ratio, observed_ratio_low, observed_ratio_high
        The same of the observed rates; NaN where one is suppressed or has no case.
    """

    table: pd.DataFrame
    ratio: float
    ratio_low: float
    ratio_high: float
    observed_ratio: float
    observed_ratio_low: float
    observed_ratio_high: float


def risk_fifths(
    model: SelectiveLabelsModel | CohortRisk,
    X: Features | None = None,
    tested: Rows | None = None,
    outcome: Rows | None = None,
    *,
    minimum: int = MINIMUM_GROUP,
) -> RiskFifths:
    """Observed and predicted rates by fifth of risk.

    The observed rate is of the tested, who differ from the others of their fifth; compare
    it with ``predicted_rate_tested``, not with ``risk``.
    """
    cohort = _cohort(model, X, tested, outcome)
    fifths = np.arange(1, N_FIFTHS + 1)
    groups = cohort.fifth[None] == fifths[:, None]
    n, n_tested, n_cases = (groups @ v for v in (cohort.n, cohort.n_tested, cohort.n_cases))
    predicted = _ratio(cohort.expected("tested_case", groups), n_tested[:, None])
    risk = _ratio(cohort.expected("case", groups), n[:, None])
    observed = wilson_interval(n_cases, n_tested)
    table = pd.DataFrame(
        {
            "fifth": fifths,
            "n": n.astype(np.int64),
            "n_tested": n_tested.astype(np.int64),
            "share_tested": _ratio(n_tested, n),
            "n_cases": n_cases.astype(np.int64),
            "observed_rate": _ratio(n_cases, n_tested),
            "observed_low": observed[0],
            "observed_high": observed[1],
        }
        | _with_interval("predicted_rate_tested", predicted)
        | _with_interval("risk", risk)
    )
    small, few = n < minimum, n_tested < minimum
    _hide(table, small, ["n_tested", "share_tested", "predicted_rate_tested", "risk"])
    _hide(table, few | small, ["n_cases", "observed_rate", "observed"])
    note = np.where(few, "observed rate suppressed", "")
    note[small] = "suppressed"
    note[n == 0] = ""
    table["note"] = note
    some = np.flatnonzero((n > 0) & ~small)
    ratio = (np.nan, np.nan, np.nan)
    seen = (np.nan, np.nan, np.nan)
    if len(some) > 1:
        low, high = some[0], some[-1]
        drawn = risk[high] / risk[low]
        ratio = (float(drawn.mean()), *np.quantile(drawn, INTERVAL))
        if not few[[low, high]].any():
            seen = ratio_interval(
                (n_cases[high], n_cases[low]), (n_tested[high], n_tested[low])
            )
    return RiskFifths(table, *(float(value) for value in (*ratio, *seen)))


def _hide(table: pd.DataFrame, rows: Bool[Array, " row"], names: Sequence[str]) -> None:
    """Blank columns, each with its interval, in some rows."""
    for name in names:
        for column in (name, f"{name}_low", f"{name}_high"):
            if column in table:
                table[column] = np.where(rows, np.nan, table[column].to_numpy(np.float64))


def _with_interval(name: str, draws: Float64[Array, "group draw"]) -> dict[str, Array]:
    low, high = _interval(draws)
    return {name: draws.mean(axis=1), f"{name}_low": low, f"{name}_high": high}


def _cohort(
    model: SelectiveLabelsModel | CohortRisk,
    X: Features | None,
    tested: Rows | None,
    outcome: Rows | None,
) -> CohortRisk:
    if isinstance(model, CohortRisk):
        return model
    if X is None or tested is None or outcome is None:
        raise ValueError("the features, who was tested and the outcomes are needed")
    return cohort_risk(model, X, tested, outcome)


def under_tested_groups(
    model: SelectiveLabelsModel | CohortRisk,
    X: Features | None = None,
    tested: Rows | None = None,
    outcome: Rows | None = None,
    *,
    minimum: int = MINIMUM_GROUP,
) -> pd.DataFrame:
    """Risk of the untested, and the cases that testing missed, by group of patients.

    Parameters
    ----------
    minimum
        A group of fewer patients has its counts and no figures, and the note
        ``suppressed``.

    Returns
    -------
    DataFrame
        A row for each level of every feature of at most five values, and for each fifth of
        risk: ``group, kind`` (feature or fifth)``, feature, level, n, n_tested,
        share_tested``; ``risk_untested``, the expected share of cases among the untested;
        ``missed_per_1000``, expected untested cases per 1,000 patients of the group (in
        expectation its tested without the outcome, each times ``exp(-d)``); each with
        ``_low`` and ``_high``; ``note``.
    """
    cohort = _cohort(model, X, tested, outcome)
    rows, members = [], []
    for name, column in zip(cohort.names, cohort.cells.features[:, 1:].T, strict=True):
        levels = np.unique(column)
        if len(levels) > MOST_LEVELS:
            continue
        for level in levels:
            rows.append((f"{name} = {level:g}", "feature", name, float(level)))
            members.append(column == level)
    for k in range(1, N_FIFTHS + 1):
        if (cohort.fifth == k).any():
            rows.append((f"fifth {k} of risk", "fifth", "", float(k)))
            members.append(cohort.fifth == k)
    groups = np.array(members)
    n, n_tested = groups @ cohort.n, groups @ cohort.n_tested
    small = n < minimum
    n_missed = cohort.expected("missed", groups)
    risk = _ratio(n_missed, cohort.expected("untested", groups))
    missed = 1000 * n_missed / n[:, None]
    table = pd.DataFrame(rows, columns=pd.Index(["group", "kind", "feature", "level"]))
    table = table.assign(
        n=n.astype(np.int64),
        n_tested=n_tested.astype(np.int64),
        share_tested=n_tested / n,
        **_with_interval("risk_untested", risk),
        **_with_interval("missed_per_1000", missed),
    )
    _hide(table, small, ["n_tested", "share_tested", "risk_untested", "missed_per_1000"])
    return table.assign(note=np.where(small, "suppressed", ""))


# --- what can be checked --------------------------------------------------------------


def calibration_tested(
    model: SelectiveLabelsModel | CohortRisk,
    X: Features | None = None,
    tested: Rows | None = None,
    outcome: Rows | None = None,
    *,
    n_bins: int = 10,
    minimum: int = MINIMUM_GROUP,
) -> pd.DataFrame:
    """Predicted P(Y=1 | T=1, X) against the observed rate of the tested.

    Parameters
    ----------
    n_bins
        At most, of about equal numbers of tested patients.
    minimum
        Tested patients of a bin; a smaller one is joined to its neighbour.

    Returns
    -------
    DataFrame
        ``bin, n, n_cases, predicted, observed, observed_low, observed_high`` (Wilson)``,
        band_low, band_high``: 95 % of the rates that the model would have produced in that
        bin, draws and chance together.
    """
    cohort = _cohort(model, X, tested, outcome)
    weight = cohort.n_tested
    seen = weight > 0
    part = np.zeros(len(weight), dtype=np.int64)
    part[seen] = _equal_parts(cohort.risk_if_tested[seen], weight[seen], n_bins)
    part[seen] = _join_small(part[seen], weight[seen], minimum)
    kept = np.unique(part[seen])
    groups = (part[None] == kept[:, None]) & seen
    n, n_cases = groups @ weight, groups @ cohort.n_cases
    rate = np.clip(cohort.expected("tested_case", groups) / n[:, None], 0, 1)
    # A sum over patients of nearly equal risk, and so nearly binomial; the band is at most
    # too wide.
    rng = np.random.default_rng(0)
    made = rng.binomial(n.astype(np.int64)[:, None], np.tile(rate, 10)) / n[:, None]
    low, high = wilson_interval(n_cases, n)
    band = _interval(made)
    return pd.DataFrame(
        {
            "bin": np.arange(1, len(kept) + 1),
            "n": n.astype(np.int64),
            "n_cases": n_cases.astype(np.int64),
            "predicted": rate.mean(axis=1),
            "observed": n_cases / n,
            "observed_low": low,
            "observed_high": high,
            "band_low": band[0],
            "band_high": band[1],
        }
    )


def _join_small(
    part: Int64[Array, " cell"], weight: Float64[Array, " cell"], minimum: int
) -> Int64[Array, " cell"]:
    """Parts, each joined to the next until it weighs enough; the last to the one before."""
    joined = np.zeros(int(part.max()) + 1, dtype=np.int64)
    current, held = 0, 0.0
    for one, of_part in enumerate(np.bincount(part, weight)):
        joined[one] = current
        held += of_part
        if held >= minimum:
            current, held = current + 1, 0.0
    if held > 0 and current > 0:
        joined[joined == current] = current - 1
    return joined[part]


@dataclass(frozen=True)
class Recalibration:
    """Logistic regression of the outcome of the tested on the logit of the prediction.

    A slope of 1 and an intercept of 0 are perfect. The model was fitted to the same
    patients: this is apparent calibration, which flatters.
    """

    slope: float
    slope_low: float
    slope_high: float
    intercept: float
    intercept_low: float
    intercept_high: float
    n: int
    n_cases: int


def recalibration(
    model: SelectiveLabelsModel | CohortRisk,
    X: Features | None = None,
    tested: Rows | None = None,
    outcome: Rows | None = None,
) -> Recalibration:
    """Slope and intercept of the calibration among the tested, 95 % intervals (Wald).

    NaN where all predictions are the same, or where they separate the outcomes.
    """
    cohort = _cohort(model, X, tested, outcome)
    n, cases = cohort.n_tested, cohort.n_cases
    seen = n > 0
    n, cases = n[seen], cases[seen]
    design = np.column_stack([np.ones(len(n)), logit(cohort.risk_if_tested[seen])])
    estimate = np.array([0.0, 1.0])
    error = np.full(2, np.nan)
    for _ in range(50):
        mean = expit(design @ estimate)
        information = design.T @ (design * (n * mean * (1 - mean))[:, None])
        if np.linalg.eigvalsh(information)[0] < 1e-9 * n.sum():
            estimate = error
            break
        step = np.linalg.solve(information, design.T @ (cases - n * mean))
        estimate = estimate + np.clip(step, -2, 2)
        if np.abs(step).max() < 1e-10:
            error = Z_95 * np.sqrt(np.diag(np.linalg.inv(information)))
            break
    low, high = estimate - error, estimate + error
    return Recalibration(
        slope=float(estimate[1]),
        slope_low=float(low[1]),
        slope_high=float(high[1]),
        intercept=float(estimate[0]),
        intercept_low=float(low[0]),
        intercept_high=float(high[0]),
        n=int(n.sum()),
        n_cases=int(cases.sum()),
    )


# --- coefficients ---------------------------------------------------------------------


def odds_ratios(model: SelectiveLabelsModel, X: Features) -> pd.DataFrame:
    """What raises risk, and what changes testing beyond risk, per comparable step.

    Returns
    -------
    DataFrame
        The intercept and each feature. ``feature``; ``per``: the step, ``1 vs 0`` or the
        standard deviation over all rows; ``odds_ratio`` of the outcome, at the same unseen
        risk (NaN for a continuous outcome and for the intercept); ``beta_Y``, its
        logarithm, or the change of a continuous outcome; ``beta_Delta``, log odds of being
        tested beyond what risk explains (for a continuous outcome in probits), 0 without
        interval where it is assumed to be 0; each with ``_low`` and ``_high``;
        ``may_affect_testing``.
    """
    names = [str(name) for name in model.feature_names_in_]
    values = np.asarray(X[names] if isinstance(X, pd.DataFrame) else X, dtype=np.float64)
    summary = model.posterior_.summary
    free = {model.table_.names[j] for j in model.table_.free}
    binary = model.kind != "heckman"
    rows = []
    for j, name in enumerate(["intercept", *names]):
        step, per = 1.0, ""
        if j:
            step, per = 1.0, "1 vs 0"
            if not np.isin(values[:, j - 1], (0, 1)).all():
                step = float(values[:, j - 1].std())
                per = f"SD = {step:.3g}"
        beta = step * summary.loc[f"beta_Y[{name}]", ["mean", "q2_5", "q97_5"]].to_numpy(
            np.float64
        )
        odds = np.exp(beta) if binary and j else np.full(3, np.nan)
        delta = np.array([0.0, np.nan, np.nan])
        if name in free:
            columns = ["mean", "q2_5", "q97_5"]
            delta = step * summary.loc[f"beta_Delta[{name}]", columns].to_numpy(np.float64)
        rows.append((name, per, *odds, *beta, *delta, name in free))
    columns = ["feature", "per"]
    for name in ("odds_ratio", "beta_Y", "beta_Delta"):
        columns += [name, f"{name}_low", f"{name}_high"]
    return pd.DataFrame(rows, columns=pd.Index([*columns, "may_affect_testing"]))


# --- other prevalences ----------------------------------------------------------------


def sensitivity_strip(
    model: SelectiveLabelsModel,
    prevalences: Sequence[float] | None = None,
    *,
    refit: bool = True,
) -> pd.DataFrame:
    """The answer under other stated prevalences, of the same standard deviation.

    Parameters
    ----------
    prevalences
        None: half, once and twice the stated one; none where none is stated.
    refit
        False: where re-weighting is not enough, say so instead of fitting anew.

    Returns
    -------
    DataFrame
        ``prevalence, within_bounds``; ``risk_tested``, ``risk_untested`` with ``_low`` and
        ``_high``; ``conflict`` with the data; ``source``: ``fit`` (the stated one),
        ``reweighted``, ``refitted``, ``provisional`` (re-weighted beyond its rule), or
        ``refused`` with NaN and the reason in ``note``.
    """
    fitted = model.fitted_.model
    stated = fitted.prevalence if fitted.weight > 0 else None
    if prevalences is None:
        prevalences = [] if stated is None else [stated / 2, stated, 2 * stated]
    deviation = float(np.sqrt(0.5 / fitted.weight)) if stated is not None else 0.0
    low, high = model.diagnostics_.prevalence_bounds
    rows = []
    for prevalence in prevalences:
        outside = prevalence < low or prevalence > high
        row: dict[str, object] = {"prevalence": prevalence, "within_bounds": not outside}
        try:
            other = model
            if stated is None or not np.isclose(prevalence, stated, rtol=1e-9):
                other = model.reweight(prevalence, deviation, refit=refit)
        except (AnalysisRefused, BadInput) as refusal:
            rows.append(row | {"source": "refused", "note": str(refusal)})
            continue
        for name in ("risk_tested", "risk_untested"):
            mean, (lower, upper) = (
                other.posterior_.mean(name),
                other.posterior_.interval(name),
            )
            row |= {name: mean, f"{name}_low": lower, f"{name}_high": upper}
        diagnostics = other.diagnostics_
        source = diagnostics.source if other is not model else "fit"
        conflict = diagnostics.conflict
        row |= {
            "conflict": conflict is not None and conflict.conflicts,
            "source": "provisional" if diagnostics.needs_refit else source,
            "note": "",
        }
        rows.append(row)
    columns = ["prevalence", "within_bounds"]
    for name in ("risk_tested", "risk_untested"):
        columns += [name, f"{name}_low", f"{name}_high"]
    table = pd.DataFrame(rows, columns=pd.Index([*columns, "conflict", "source", "note"]))
    table["conflict"] = table["conflict"].astype("boolean").fillna(False).astype(bool)
    return table.astype(dict.fromkeys(columns[2:], np.float64))


# --- acting on the risk ---------------------------------------------------------------


def decision_curve(
    model: SelectiveLabelsModel | CohortRisk,
    X: Features | None = None,
    tested: Rows | None = None,
    outcome: Rows | None = None,
    thresholds: Sequence[float] | None = None,
    *,
    minimum: int = MINIMUM_GROUP,
) -> pd.DataFrame:
    """Net benefit of acting on P(Y=1 | X), expected by the model itself.

    Nobody's outcome is used: most were never observed. The curve therefore holds if the
    model does, and cannot show that it does not (Vickers & Elkin 2006,
    doi:10.1177/0272989X06295361).

    Parameters
    ----------
    thresholds
        Risk from which on something is done. None: forty up to the risk that 1 % exceed.
    minimum
        Patients above a threshold; where there are fewer, its figures are NaN.

    Returns
    -------
    DataFrame
        ``threshold``, ``n_above`` patients; ``net_benefit`` of acting on those, and
        ``treat_all``, each with ``_low`` and ``_high``; ``treat_none``, 0. In true
        positives a patient.
    """
    cohort = _cohort(model, X, tested, outcome)
    n = cohort.n
    if thresholds is None:
        top = weighted_quantile(cohort.risk, n / n.sum(), np.array([0.99]))[0]
        thresholds = list(np.linspace(top / 40, top, 40))
    at = np.array(sorted(thresholds), dtype=np.float64)
    if not ((at > 0) & (at < 1)).all():
        raise ValueError("a threshold must lie strictly between 0 and 1")
    # Between neighbouring thresholds, so that each patient is counted once; then added up.
    between = np.searchsorted(at, cohort.risk, side="right")
    groups = between[None] == np.arange(len(at) + 1)[:, None]
    case = cohort.expected("case", groups)
    of_all = case.sum(axis=0)
    n_above = (groups @ n)[::-1].cumsum()[::-1][1:]
    true = case[::-1].cumsum(axis=0)[::-1][1:]
    odds = (at / (1 - at))[:, None]
    total = n.sum()
    acted = (true - (n_above[:, None] - true) * odds) / total
    everyone = (of_all - (total - of_all) * odds) / total
    table = pd.DataFrame(
        {"threshold": at, "n_above": n_above.astype(np.int64)}
        | _with_interval("net_benefit", acted)
        | _with_interval("treat_all", everyone)
        | {"treat_none": np.zeros(len(at))}
    )
    _hide(table, (n_above > 0) & (n_above < minimum), ["n_above", "net_benefit"])
    return table


# --- distributions --------------------------------------------------------------------


def risk_histograms(
    model: SelectiveLabelsModel,
    X: Features | None = None,
    tested: Rows | None = None,
    outcome: Rows | None = None,
    *,
    cohort: CohortRisk | None = None,
    n_bins: int = 30,
    minimum: int = MINIMUM_GROUP,
) -> pd.DataFrame:
    """How risk is distributed among the tested and among the untested.

    Returns
    -------
    DataFrame
        ``group`` (tested: P(Y=1 | T=1, X); untested: P(Y=1 | T=0, X)), ``low, high`` of the
        bin, ``n``, ``share`` of the group, both NaN where a bin has some patients and fewer
        than `minimum` (``note``: suppressed); ``n_group``, and ``mean`` of the group with
        ``mean_low`` and ``mean_high``, the same in each of its rows.
    """
    if cohort is None:
        cohort = _cohort(model, X, tested, outcome)
    groups = {
        "tested": (cohort.risk_if_tested, cohort.n_tested),
        "untested": (cohort.risk_if_untested, cohort.cells.counts[:, 2]),
    }
    top = max(float(risk[n > 0].max()) for risk, n in groups.values())
    edges = np.linspace(0, _round_up(top), n_bins + 1)
    tables = []
    for group, (risk, n) in groups.items():
        counts, _ = np.histogram(risk, edges, weights=n)
        low, high = model.posterior_.interval(f"risk_{group}")
        table = pd.DataFrame(
            {
                "group": group,
                "low": edges[:-1],
                "high": edges[1:],
                "n": counts.round().astype(np.int64),
                "share": counts / counts.sum(),
                "n_group": int(n.sum()),
                "mean": model.posterior_.mean(f"risk_{group}"),
                "mean_low": low,
                "mean_high": high,
            }
        )
        small = (counts > 0) & (counts < minimum)
        _hide(table, small, ["n", "share"])
        tables.append(table.assign(note=np.where(small, "suppressed", "")))
    return pd.concat(tables, ignore_index=True)


def _round_up(value: float) -> float:
    """The next of 1, 1.5, 2, 3, 5, 7.5 times a power of ten, at most 1."""
    scale = 10.0 ** np.floor(np.log10(value))
    steps = np.array([1, 1.5, 2, 3, 5, 7.5, 10]) * scale
    return float(min(steps[np.searchsorted(steps, value * (1 - 1e-12))], 1.0))


# --- what the data added --------------------------------------------------------------


def prior_posterior(model: SelectiveLabelsModel) -> pd.DataFrame:
    """Densities of what the data inform least, before and after.

    Returns
    -------
    DataFrame
        ``quantity``: the shape (sigma, or alpha, or the correlation), ``prevalence`` and
        ``beta_Delta[intercept]``; ``x``; ``prior_density`` (of the prevalence: what was
        stated; NaN where nothing was), ``posterior_density``, and ``free_density``, the
        posterior without the stated prevalence (NaN where none was stated).
    """
    fitted, table = model.fitted_.model, model.table_
    free = model.free_
    constrained = fitted.weight > 0
    centre = np.r_[0.0, table.centre / table.scale]
    spread = COEFFICIENT_SCALE * np.sqrt(1 + (centre[list(table.free)] ** 2).sum())
    deviation = np.sqrt(0.5 / fitted.weight) if constrained else np.nan
    priors: dict[str, Callable[[Array], Array]] = {
        fitted.shape_name: lambda x: (
            np.exp(fitted.log_shape_prior(x))
            if isinstance(fitted, BernoulliModel)
            else np.ones_like(x)
        ),
        "prevalence": lambda x: _normal(x, fitted.prevalence, deviation),
        "beta_Delta[intercept]": lambda x: _normal(x, 0.0, spread),
    }
    weights = model.posterior_.weights.ravel()
    free_draws = _free_draws(model)
    tables = []
    for quantity, prior in priors.items():
        draws = model.posterior_.draws[quantity].ravel()
        others = free_draws[quantity]
        bounds = {fitted.shape_name: fitted.shape_bounds}
        if isinstance(fitted, BernoulliModel):
            bounds["prevalence"] = (0.0, 1.0)
        least, most = bounds.get(quantity, (-np.inf, np.inf))
        x = _grid([draws, others] if constrained else [draws], least, most)
        tables.append(
            pd.DataFrame(
                {
                    "quantity": quantity,
                    "x": x,
                    "prior_density": prior(x),
                    "posterior_density": density(draws, weights, x, least, most),
                    "free_density": density(others, free.drawn.weights, x, least, most)
                    if constrained
                    else np.full(len(x), np.nan),
                }
            )
        )
    return pd.concat(tables, ignore_index=True)


def _grid(several: Sequence[Array], least: float, most: float) -> Float64[Array, " x"]:
    """Where densities are drawn: as finely for the narrow one as for the wide."""
    parts = []
    for draws in several:
        low, high = np.quantile(draws, [0.002, 0.998])
        margin = 0.15 * (high - low)
        ends = max(low - margin, least), min(high + margin, most)
        parts.append(np.linspace(*ends, DENSITY_POINTS))
    return np.unique(np.concatenate(parts))


def _free_draws(model: SelectiveLabelsModel) -> dict[str, Array]:
    table = model.draws_table(stated=False)
    return {str(name): table[name].to_numpy(np.float64) for name in table.columns}


def _normal(x: Float64[Array, " x"], mean: float, sd: float) -> Float64[Array, " x"]:
    return np.exp(-0.5 * ((x - mean) / sd) ** 2) / (sd * np.sqrt(2 * np.pi))


def density(
    draws: Float64[Array, " draw"],
    weights: Float64[Array, " draw"],
    x: Float64[Array, " x"],
    low: float = -np.inf,
    high: float = np.inf,
) -> Float64[Array, " x"]:
    """Smoothed density of weighted draws at `x`, mirrored at the ends of its range.

    Gaussian kernel, bandwidth by Silverman's rule with the effective number of draws.
    """
    weights = weights / weights.sum()
    mean = float(weights @ draws)
    sd = float(np.sqrt(weights @ (draws - mean) ** 2))
    first, third = weighted_quantile(draws, weights, np.array([0.25, 0.75]))
    spread = min(sd, (third - first) / 1.34) or sd
    width = 0.9 * spread * float(1 / (weights**2).sum()) ** -0.2
    found = np.zeros(len(x))
    for end in (None, low, high):
        if end is not None and not np.isfinite(end):
            continue
        at = draws if end is None else 2 * end - draws
        found += np.exp(-0.5 * ((x[:, None] - at) / width) ** 2) @ weights
    return found / (width * np.sqrt(2 * np.pi))
