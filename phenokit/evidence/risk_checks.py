"""When the answer does not hold although the sampler is content.

Each check returns figures and, where they cross a line, a `Flag`. They rest on nested
Laplace fits, which cost a second; none needs the sampler.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float64

from phenokit.errors import CODES
from phenokit.evidence.heckman import HeckmanModel
from phenokit.evidence.laplace import draw_weighted
from phenokit.evidence.laplace import fit_nested_laplace as fit_laplace
from phenokit.evidence.psis import weighted_quantile
from phenokit.evidence.selective_labels import BernoulliModel

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
MANY_CELLS = 2_000
POINTS_OF_MANY_CELLS = 28


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


def check_selection(
    model: BernoulliModel, sigma_median: float, rng: np.random.Generator
) -> tuple[float, float]:
    """95 % interval of alpha when testing may also fall with risk.

    Normal Z with the standard deviation of the uniform one, sigma / sqrt(12). The check
    needs a feature that does not affect testing beyond risk: without one a change of alpha
    and a change of beta_Delta are the same.
    """
    width = sigma_median / np.sqrt(12) if model.kind == "uniform" else sigma_median
    signed = replace(model, kind="normal_alpha", given=max(width, 0.05), signed=True)
    fit = fit_laplace(signed)
    draws = draw_weighted(signed, fit, EXPERTISE_DRAWS, rng)
    return moments(draws.shape, draws.smoothed.weights)[2]


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
    cells, totals = model.cells, model.cells.counts.sum(axis=1).astype(np.int64)
    groups, labels = _groups(model, names, coefficients, shape)
    exceeds, expected_all = 0, np.zeros((len(groups), 3))
    for draw in range(len(shape)):
        found = model.probabilities(
            coefficients[draw][None], shape[draw][None], cells.features
        )
        p = np.exp(np.column_stack([log_p[:, 0] for log_p in found[:3]]))
        p /= p.sum(axis=1, keepdims=True)
        expected = groups @ (totals[:, None] * p)
        spread = np.sqrt(groups @ (totals[:, None] * p * (1 - p)) + 1e-12)
        replicated = groups @ rng.multinomial(totals, p)
        observed = np.abs(groups @ cells.counts - expected) / spread
        exceeds += (np.abs(replicated - expected) / spread).max() >= observed.max()
        expected_all += expected / len(shape)
    variance = expected_all * (1 - expected_all / expected_all.sum(axis=1, keepdims=True))
    apart = np.abs(groups @ cells.counts - expected_all) / np.sqrt(variance + 1e-12)
    group, outcome = np.unravel_index(int(np.argmax(apart)), apart.shape)
    what = ("tested with the outcome", "tested without it", "untested")[int(outcome)]
    return Misfit(
        float(exceeds / len(shape)),
        labels[int(group)],
        what,
        float((groups @ cells.counts)[group, outcome]),
        float(expected_all[group, outcome]),
    )


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
    """Free each tied feature in turn."""
    unit = risk_untested
    if isinstance(model, HeckmanModel):
        unit = float(model.outcome[model.tested].std())
    found = []
    for j, name in enumerate(names):
        if j in model.free:
            continue
        freer: Any = replace(model, free=tuple(sorted((*model.free, j))))
        fit = fit_laplace(freer, n_points=grid_points(model))
        draws = draw_weighted(freer, fit, EXPERTISE_DRAWS, rng)
        mean = float(draws.smoothed.weights @ draws.evaluated.risk_untested)
        found.append(Freed(name, mean, (mean - risk_untested) / unit))
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
