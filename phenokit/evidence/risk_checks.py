"""When the answer does not hold although the sampler is content.

Each check returns figures and, where they cross a line, a `Flag`. They rest on nested
Laplace fits, which cost a second; none needs the sampler.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64

from phenokit.errors import CODES
from phenokit.evidence.heckman import HeckmanModel
from phenokit.evidence.laplace import NestedLaplace, WeightedDraws, draw_weighted
from phenokit.evidence.laplace import fit_nested_laplace as fit_laplace
from phenokit.evidence.psis import weighted_quantile
from phenokit.evidence.selective_labels import (
    COEFFICIENT_SCALE,
    BernoulliModel,
    logistic,
)

Array = np.ndarray

CONFLICT_Z = 3.0
CONFLICT_LOG_LIKELIHOOD = 4.0
SIGMA_EDGES = (0.1, 8.0)
WEAK_SHRINKAGE = 0.7
"""Posterior over prior standard deviation above which the data said little."""
WEAK_SIGMA = 0.1
WEAK_CORRELATION = 0.05
HALF_NORMAL_SD = np.sqrt(1 - 2 / np.pi)
MISFIT_P = 0.01
MISFIT_DRAWS = 400
EXPERTISE_CHANGE = 0.2
EXPERTISE_DRAWS = 1_000
LAW_LOG_LIKELIHOOD = 3.0
"""Log-likelihood by which another law of Z must fit better to be preferred: 20 times as
likely, strong evidence to Kass & Raftery (1995, doi:10.1080/01621459.1995.10476572)."""
LAW_CHANGE = 0.2
RESIDUAL_Z = 3.0
MANY_CELLS = 2_000
POINTS_OF_MANY_CELLS = 28
CHECKED_ROWS = 20_000
"""Cells above which a check that fits anew does so on this many rows drawn at random."""
FEWEST_ROWS = 4_000
PREDICTED_ROWS = 50_000
"""The same for the replicated tables of the posterior predictive check."""
AFFORDABLE = 2e8
"""Elements of (cell, draw) that a fit's draws may take: some five seconds."""
FEWEST_DRAWS = 800
CHECK_ELEMENTS, FEWEST_CHECK_DRAWS = 1e7, 400

NOT_CHECKED = (FloatingPointError, np.linalg.LinAlgError)


@dataclass(frozen=True)
class Flag:
    """One thing that a reader of the results must know; printed on every export."""

    code: str
    message: str

    def __post_init__(self) -> None:
        if self.code not in CODES:
            raise ValueError(f"{self.code} is not an outcome code")


def grid_points(model: BernoulliModel | HeckmanModel) -> int | None:
    """Fewer points of the grid where a step through the table is dear."""
    n = len(model.features) if isinstance(model, HeckmanModel) else len(model.cells.counts)
    return POINTS_OF_MANY_CELLS if n > MANY_CELLS else None


def affordable_draws(model: BernoulliModel | HeckmanModel, most: int) -> int:
    """Draws of a fit: fewer where each takes a walk through very many rows.

    Of these tables the posterior is close to normal, so that nearly every draw counts.
    """
    return min(most, max(FEWEST_DRAWS, int(AFFORDABLE / model.cost)))


def _fit_for_check(
    model: Any,  # noqa: ANN401 - either model
    rng: np.random.Generator,
) -> tuple[NestedLaplace, WeightedDraws]:
    """A fit on few draws, as they only show whether a conclusion moves."""
    fit = fit_laplace(model, n_points=grid_points(model))
    few = max(FEWEST_CHECK_DRAWS, int(CHECK_ELEMENTS / model.cost))
    return fit, draw_weighted(model, fit, min(EXPERTISE_DRAWS, few), rng)


class Conclusion(NamedTuple):
    """What a check compares: of a model's mode, and its risk of the untested."""

    log_likelihood: float
    risk_untested: float
    sd: float


def _conclusion(model: Any, rng: np.random.Generator) -> Conclusion:  # noqa: ANN401
    fit, draws = _fit_for_check(model, rng)
    mode, shape = fit.joint_mode
    at_mode = model.evaluate(mode[None], np.array([shape])).log_likelihood[0]
    mean, sd, _ = moments(draws.evaluated.risk_untested, draws.smoothed.weights)
    return Conclusion(float(at_mode), mean, sd)


def rows_to_check(
    model: Any,  # noqa: ANN401 - either model
    rng: np.random.Generator,
    most: int = CHECKED_ROWS,
) -> Any:  # noqa: ANN401
    """The model itself, or of `most` random rows where it has many more distinct ones.

    Fewer where a row is dear, as by very many quadrature nodes.
    """
    n = len(model.features) if isinstance(model, HeckmanModel) else len(model.cells.counts)
    most = max(FEWEST_ROWS, int(most * min(1.0, 4 * n / model.cost)))
    return model if n <= 1.5 * most else model.some_rows(most, rng)


# --- the stated prevalence against the data -------------------------------------------


@dataclass(frozen=True)
class Conflict:
    """The prevalence that is stated beside the one that the data carry without it.

    Attributes
    ----------
    stated, stated_sd
        As given.
    free_mean, free_sd, free_interval
        Of the fit without the prevalence; a wide one cannot check the stated value.
    z
        Their difference over both standard deviations.
    log_likelihood_drop
        Log-likelihood at the mode without the prevalence, less that with it; NaN where the
        prevalence was re-weighted rather than fitted.
    sigma_at_edge
        Whether sigma's median is pressed below 0.1 or above 8.
    continuous
        Whether the outcome is a number, and `stated` its mean.
    """

    stated: float
    stated_sd: float
    free_mean: float
    free_sd: float
    free_interval: tuple[float, float]
    z: float
    log_likelihood_drop: float
    sigma_at_edge: bool = False
    continuous: bool = False

    @property
    def conflicts(self) -> bool:
        """Whether any of the three signs is seen."""
        apart = abs(self.z) > CONFLICT_Z
        worse = self.log_likelihood_drop > CONFLICT_LOG_LIKELIHOOD
        return apart or worse or self.sigma_at_edge

    def flags(self) -> list[Flag]:
        """W_PREVALENCE_CONFLICT where there is one."""
        if not self.conflicts:
            return []
        what, form = ("mean", ".3g") if self.continuous else ("prevalence", ".2%")
        found, (low, high) = self.free_mean, self.free_interval
        return [
            Flag(
                "W_PREVALENCE_CONFLICT",
                f"The stated {what} ({self.stated:{form}}) disagrees with the data "
                f"({found:{form}}, 95% {low:{form}} to {high:{form}}). Check its source, "
                "population, age range and time window.",
            )
        ]


def check_conflict(
    model: BernoulliModel | HeckmanModel,
    free_prevalence: Float64[Array, " draw"],
    free_weights: Float64[Array, " draw"],
    log_likelihood_drop: float,
    shape_median: float,
) -> Conflict:
    """Compare a stated prevalence with the draws of the fit without it."""
    deviation = np.sqrt(0.5 / model.weight)
    mean, sd, interval = moments(free_prevalence, free_weights)
    low, high = SIGMA_EDGES
    at_edge = model.shape_name == "sigma" and not low <= shape_median <= high
    return Conflict(
        model.prevalence,
        float(deviation),
        mean,
        sd,
        interval,
        float((model.prevalence - mean) / np.hypot(sd, deviation)),
        log_likelihood_drop,
        at_edge,
        isinstance(model, HeckmanModel),
    )


def moments(values: Array, weights: Array) -> tuple[float, float, tuple[float, float]]:
    """Mean, standard deviation and 95 % interval of weighted draws."""
    mean = float(weights @ values)
    low, high = weighted_quantile(values, weights, np.array([0.025, 0.975]))
    return mean, float(np.sqrt(weights @ (values - mean) ** 2)), (float(low), float(high))


# --- how much the data say ------------------------------------------------------------


def check_weakness(
    model: BernoulliModel | HeckmanModel, coefficients: Array, shape: Array, weights: Array
) -> list[Flag]:
    """W_WEAK: what drives testing is hardly narrower than its prior."""
    reasons = []
    _, sd, (low, _) = moments(shape, weights)
    if isinstance(model, HeckmanModel):
        if low < WEAK_CORRELATION:
            reasons.append(f"the correlation's interval reaches down to {low:.2g}")
    else:
        shrinkage = sd / (HALF_NORMAL_SD * model.shape_scale)
        if shrinkage > WEAK_SHRINKAGE:
            reasons.append(f"{model.shape_name} has {shrinkage:.0%} of its prior SD")
        if model.shape_name == "sigma" and low < WEAK_SIGMA:
            reasons.append(f"sigma's interval reaches down to {low:.2g}")
        _, sd, _ = moments(coefficients[:, model.n_features], weights)
        if sd / 3 > WEAK_SHRINKAGE:
            reasons.append(f"the level of testing has {sd / 3:.0%} of its prior SD")
    return [weak_flag(reasons)] if reasons else []


def weak_flag(reasons: Sequence[str]) -> Flag:
    """W_WEAK with its reasons."""
    return Flag(
        "W_WEAK",
        "The data barely inform how much unseen risk drives testing; untested risk rests "
        f"mainly on your prevalence ({'; '.join(reasons)}).",
    )


def with_weakness(flags: Sequence[Flag], reason: str) -> list[Flag]:
    """Flags with one more reason of W_WEAK, which stands there once."""
    weak = [flag for flag in flags if flag.code == "W_WEAK"]
    if not weak:
        return [*flags, weak_flag([reason])]
    more = Flag("W_WEAK", f"{weak[0].message.removesuffix(').')}; {reason}).")
    return [more if flag is weak[0] else flag for flag in flags]


def check_selection(
    model: BernoulliModel, sigma_median: float, rng: np.random.Generator
) -> tuple[float, float]:
    """95 % interval of alpha when testing may also fall with risk.

    Normal Z with the standard deviation of the uniform one, sigma / sqrt(12). The check
    needs a feature that does not affect testing beyond risk: without one a change of alpha
    and a change of beta_Delta are the same. NaN where it could not be made.
    """
    width = sigma_median / np.sqrt(12) if model.kind == "uniform" else sigma_median
    signed = replace(model, kind="normal_alpha", given=max(width, 0.05), signed=True)
    try:
        _, draws = _fit_for_check(rows_to_check(signed, rng), rng)
    except NOT_CHECKED:
        return float("nan"), float("nan")
    return moments(draws.shape, draws.smoothed.weights)[2]


@dataclass(frozen=True)
class UntestedCases:
    """Cases among the untested: as the prevalence says, and as the tested alone say.

    If testing rises with unseen risk, then the untested are at less risk than tested
    patients of their features, and the regression of the tested predicts too many. It needs
    neither a law of Z nor a list of features.

    Attributes
    ----------
    stated
        Patients times prevalence, less the cases found.
    predicted
        By a logistic regression of the tested.
    standard_error
        Of the difference: the prevalence's, the regression's and that of chance.
    """

    stated: float
    predicted: float
    standard_error: float

    @property
    def z(self) -> float:
        """Excess of the stated over the predicted, in standard errors."""
        return (self.stated - self.predicted) / self.standard_error

    @property
    def notes(self) -> tuple[str, ...]:
        """A sentence where the excess has the wrong sign."""
        if not self.z > RESIDUAL_Z:
            return ()
        return (
            f"The stated prevalence leaves {self.stated:,.0f} cases among the untested, "
            f"and a regression of the tested alone predicts {self.predicted:,.0f} "
            f"(z = {self.z:.1f}): testing then falls with unseen risk, which the model "
            "excludes.",
        )


def untested_cases(model: BernoulliModel) -> UntestedCases:
    """Compare what a stated prevalence leaves for the untested with the tested's risk."""
    cells = model.cells
    positive, negative, untested = cells.counts.T
    features, beta = cells.features, np.zeros(cells.features.shape[1])
    information = np.eye(len(beta))
    for _ in range(100):
        risk = logistic(features @ beta)
        gradient = features.T @ (positive - (positive + negative) * risk)
        gradient -= beta / COEFFICIENT_SCALE**2
        information = np.eye(len(beta)) / COEFFICIENT_SCALE**2
        weight = (positive + negative) * risk * (1 - risk)
        information += features.T @ (weight[:, None] * features)
        step = np.linalg.solve(information, gradient)
        beta = beta + step / max(1.0, np.abs(step).max())
        if gradient @ step < 1e-10:
            break
    risk = logistic(features @ beta)
    slope = features.T @ (untested * risk * (1 - risk))
    variance = slope @ np.linalg.solve(information, slope)
    variance += untested @ (risk * (1 - risk))
    n = cells.counts.sum()
    return UntestedCases(
        float(n * model.prevalence - positive.sum()),
        float(untested @ risk),
        float(np.sqrt(variance + n**2 / (2 * model.weight))),
    )


# --- does the model reproduce the table -----------------------------------------------


@dataclass(frozen=True)
class Misfit:
    """Posterior predictive check: the largest deviation over groups.

    Attributes
    ----------
    p
        Share of replicated tables whose largest deviation is at least the observed one.
    group, outcome
        Where the observed table deviates most, and in which count.
    observed, expected
        That count and its posterior mean.
    """

    p: float
    group: str
    outcome: str
    observed: float
    expected: float

    def flags(self) -> list[Flag]:
        """W_MISFIT where p is below 0.01."""
        if self.p >= MISFIT_P:
            return []
        return [
            Flag(
                "W_MISFIT",
                f"Observed tests do not match the model in group {self.group}: "
                f"{self.observed:,.0f} {self.outcome}, {self.expected:,.0f} expected "
                f"(p = {self.p:.3f}).",
            )
        ]


def check_misfit(
    model: BernoulliModel,
    names: Sequence[str],
    coefficients: Float64[Array, "draw coefficient"],
    shape: Float64[Array, " draw"],
    rng: np.random.Generator,
) -> Misfit:
    """Compare counts by fifth of risk and by binary feature with replicated tables."""
    model = rows_to_check(model, rng, PREDICTED_ROWS)
    cells, totals = model.cells, model.cells.counts.sum(axis=1).astype(np.int64)
    groups, labels = _groups(model, names, coefficients, shape)
    observed_counts = groups @ cells.counts
    exceeds, expected_all = 0, np.zeros((len(groups), 3))
    for draw in range(len(shape)):
        found = model.probabilities(
            coefficients[draw][None], shape[draw][None], cells.features
        )
        p = np.exp(np.column_stack([log_p[:, 0] for log_p in found[:3]]))
        p /= p.sum(axis=1, keepdims=True)
        each = totals[:, None] * p
        columns = np.hstack([each, each * (1 - p), _replicate(totals, p, rng)])
        expected, variance, replicated = np.hsplit(groups @ columns, 3)
        spread = np.sqrt(variance + 1e-12)
        observed = np.abs(observed_counts - expected) / spread
        exceeds += (np.abs(replicated - expected) / spread).max() >= observed.max()
        expected_all += expected / len(shape)
    variance = expected_all * (1 - expected_all / expected_all.sum(axis=1, keepdims=True))
    apart = np.abs(observed_counts - expected_all) / np.sqrt(variance + 1e-12)
    group, outcome = np.unravel_index(int(np.argmax(apart)), apart.shape)
    what = ("tested with the outcome", "tested without it", "untested")[int(outcome)]
    return Misfit(
        float(exceeds / len(shape)),
        labels[int(group)],
        what,
        float(observed_counts[group, outcome]),
        float(expected_all[group, outcome]),
    )


def _replicate(totals: Array, p: Array, rng: np.random.Generator) -> Array:
    """Counts of new patients; a row of its own needs one uniform number."""
    if totals.max() > 1:
        return rng.multinomial(totals, p)
    at = rng.random(len(p))
    first, second = at < p[:, 0], at < p[:, 0] + p[:, 1]
    return np.column_stack([first, second & ~first, ~second]).astype(np.float64)


def _groups(
    model: BernoulliModel, names: Sequence[str], coefficients: Array, shape: Array
) -> tuple[Float64[Array, "group cell"], list[str]]:
    """Which cells are in which group: fifths of risk, levels of binary features."""
    cells = model.cells
    risk = np.zeros(len(cells.counts))
    for draw in range(0, len(shape), 10):
        risk += model.probabilities(
            coefficients[draw][None], shape[draw][None], cells.features
        ).case[:, 0]
    order = np.argsort(risk, kind="stable")
    below = np.cumsum(cells.share[order]) - cells.share[order] / 2
    fifth = np.empty(len(order), dtype=np.int64)
    fifth[order] = np.minimum((below * 5).astype(np.int64), 4)
    groups, labels = [], []
    for k in range(5):
        groups.append(fifth == k)
        labels.append(f"fifth {k + 1} of risk")
    for name, column in zip(names[1:], cells.features[:, 1:].T, strict=True):
        levels = np.unique(column)
        if len(levels) == 2:
            for level in levels:
                groups.append(column == level)
                labels.append(f"{name} = {level:g}")
    kept = [k for k, members in enumerate(groups) if members.any()]
    matrix = np.array([groups[k] for k in kept], dtype=np.float64)
    return matrix, [labels[k] for k in kept]


# --- the law of what is not seen --------------------------------------------------------


@dataclass(frozen=True)
class OtherLaw:
    """The same table under normal instead of uniform unseen risk, or the reverse.

    Both have one width to estimate and alpha = 1, so that likelihoods compare.

    Attributes
    ----------
    law
        ``"normal"`` or ``"uniform"``: the other one.
    log_likelihood_gain
        Log-likelihood at its mode, less that at the mode of the law that was fitted.
    risk_untested, change
        Under the other law, and relative to the one that was fitted.
    change_in_sd
        The same in posterior standard deviations.
    """

    law: str
    log_likelihood_gain: float
    risk_untested: float
    change: float
    change_in_sd: float

    def flags(self) -> list[Flag]:
        """W_MISFIT where the other law fits better."""
        if self.log_likelihood_gain <= LAW_LOG_LIKELIHOOD:
            return []
        fitted = "uniform" if self.law == "normal" else "normal"
        return [
            Flag(
                "W_MISFIT",
                f"Observed tests fit {self.law} unseen risk better than {fitted} "
                f"(log-likelihood {self.log_likelihood_gain:.1f} higher); with it the risk "
                f"of the untested moves by {self.change:+.0%}.",
            )
        ]

    @property
    def weakness(self) -> str:
        """A reason of W_WEAK where the data allow both laws and the answer is not one.

        A change within a standard deviation is in the interval that is shown already.
        """
        allowed = abs(self.log_likelihood_gain) <= LAW_LOG_LIKELIHOOD
        moves = abs(self.change) > LAW_CHANGE and abs(self.change_in_sd) > 1
        if not (allowed and moves):
            return ""
        return (
            f"{self.law} unseen risk fits as well, and moves the risk of the untested by "
            f"{self.change:+.0%}"
        )


def check_law(
    model: BernoulliModel, found: Conclusion, rng: np.random.Generator
) -> OtherLaw | None:
    """Fit the other law; None where there is none of as many parameters, or no mode."""
    if model.shape_name != "sigma" or model.given != 1:
        return None
    law = "normal" if model.kind == "uniform" else "uniform"
    # half-normal priors of equal standard deviations of Z
    scale = model.shape_scale * (np.sqrt(12) if law == "uniform" else 1 / np.sqrt(12))
    few = rows_to_check(model, rng)
    try:
        if few is not model:
            found = _conclusion(few, rng)
        other = _conclusion(replace(few, kind=law, shape_scale=float(scale)), rng)
    except NOT_CHECKED:
        return None
    moved = other.risk_untested - found.risk_untested
    return OtherLaw(
        law,
        other.log_likelihood - found.log_likelihood,
        other.risk_untested,
        moved / found.risk_untested,
        moved / found.sd,
    )


# --- the expertise list ---------------------------------------------------------------


@dataclass(frozen=True)
class Freed:
    """Risk of the untested when one more feature may affect testing beyond risk.

    `change` is relative to the risk, or in standard deviations of a continuous outcome.
    """

    feature: str
    risk_untested: float
    change: float


def check_expertise(
    model: BernoulliModel | HeckmanModel,
    names: Sequence[str],
    risk_untested: float,
    rng: np.random.Generator,
) -> tuple[Freed, ...]:
    """Free each tied feature in turn; NaN where no mode was found."""
    tied = [j for j in range(len(names)) if j not in model.free]
    few = rows_to_check(model, rng)
    if tied and few is not model:
        risk_untested = _conclusion(few, rng).risk_untested
    unit = risk_untested
    if isinstance(few, HeckmanModel):
        unit = float(few.outcome[few.tested].std())
    found = []
    for j in tied:
        freer = replace(few, free=tuple(sorted((*few.free, j))))
        try:
            mean = _conclusion(freer, rng).risk_untested
        except NOT_CHECKED:
            mean = float("nan")
        found.append(Freed(names[j], mean, (mean - risk_untested) / unit))
    return tuple(found)


def expertise_flags(freed: Sequence[Freed]) -> list[Flag]:
    """W_EXPERTISE for each feature that moves the risk of the untested by over 20 %."""
    return [
        Flag(
            "W_EXPERTISE",
            f"Conclusion depends on assuming feature {one.feature} does not affect testing "
            f"beyond risk: without it the risk of the untested moves by {one.change:+.0%}.",
        )
        for one in freed
        if abs(one.change) > EXPERTISE_CHANGE
    ]
