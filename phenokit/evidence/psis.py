"""Pareto-smoothed importance sampling, and what weighted draws say.

Vehtari, Simpson, Gelman, Yao & Gabry, Pareto smoothed importance sampling, JMLR 25 (2024),
arXiv 1507.02646. The generalised Pareto distribution is fitted to the largest weights by
the profile estimator of Zhang & Stephens (2009), doi:10.1198/tech.2009.08017, with the
weakly informative prior of the first paper's appendix.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

Array = np.ndarray


@dataclass(frozen=True)
class SmoothedWeights:
    """Normalised importance weights and whether they can be trusted.

    Attributes
    ----------
    weights
        Shape ``(draw,)``; their sum is 1.
    k_hat
        Shape of the Pareto tail of the raw weights; infinite where it cannot be fitted.
    """

    weights: Float64[Array, " draw"]
    k_hat: float

    @property
    def effective_size(self) -> float:
        """Importance effective sample size, ``1 / sum w²``."""
        return float(1 / np.sum(self.weights**2))

    @property
    def k_limit(self) -> float:
        """Largest k-hat at which this many draws are enough: min(1 - 1/log10 S, 0.7)."""
        return min(1 - 1 / np.log10(max(len(self.weights), 11)), 0.7)

    def reliable(self, minimum_effective_size: float = 400.0) -> bool:
        """Whether k-hat and the effective size both allow the weights to be used."""
        enough = self.effective_size >= minimum_effective_size
        return bool(self.k_hat <= self.k_limit and enough)


def smooth_weights(log_weights: Float64[Array, " draw"]) -> SmoothedWeights:
    """Replace the largest weights by quantiles of the Pareto tail fitted to them.

    Parameters
    ----------
    log_weights
        log of target density over proposal density, up to a constant; -inf is weight 0.

    Examples
    --------
    >>> smooth_weights(np.zeros(100)).effective_size
    100.0
    """
    weights = np.exp(log_weights - log_weights.max())
    n = len(weights)
    n_tail = int(min(0.2 * n, 3 * np.sqrt(n)))
    order = np.argsort(weights, kind="stable")
    tail = order[n - n_tail :]
    cut = weights[order[n - n_tail - 1]] if n_tail < n else 0.0
    excess = weights[tail] - cut
    if n_tail < 5 or excess[-1] <= 1e-12:  # too few, or all the same: nothing to smooth
        k_hat = np.inf if n_tail < 5 else -np.inf
        return SmoothedWeights(weights / weights.sum(), k_hat)
    k, scale = fit_pareto(excess[excess > 0])
    if np.isfinite(k):
        at = (np.arange(n_tail) + 0.5) / n_tail
        weights = weights.copy()
        weights[tail] = np.minimum(cut + pareto_quantile(at, k, scale), 1.0)
    return SmoothedWeights(weights / weights.sum(), k)


def fit_pareto(excess: Float64[Array, " draw"]) -> tuple[float, float]:
    """Shape and scale of a generalised Pareto distribution of sorted positive values."""
    n = len(excess)
    quarter = excess[int(n / 4 + 0.5) - 1]
    n_points = 30 + int(np.sqrt(n))
    # Zhang & Stephens' b is 1/x_max plus steps away from it; k(b) = mean log(1 - b x)
    points = 1 - np.sqrt(n_points / (np.arange(1, n_points + 1) - 0.5))
    points = points / (3 * quarter) + 1 / excess[-1]
    shapes = np.log1p(-points[:, None] * excess).mean(axis=1)
    profile = n * (np.log(-points / shapes) - shapes - 1)
    p = np.exp(profile - profile.max())
    b = np.sum(points * p / p.sum())
    k = np.log1p(-b * excess).mean()
    scale = -k / b
    return float((n * k + 10 * 0.5) / (n + 10)), float(scale)  # prior: ten draws at 0.5


def pareto_quantile(
    p: Float64[Array, " x"], k: float, scale: float
) -> Float64[Array, " x"]:
    """Quantile of the generalised Pareto distribution."""
    if abs(k) < 1e-12:
        return -scale * np.log1p(-p)
    return scale * np.expm1(-k * np.log1p(-p)) / k


def weighted_quantile(
    values: Float64[Array, " draw"], weights: Float64[Array, " draw"], at: Array
) -> Float64[Array, " q"]:
    """Quantiles of weighted draws; with equal weights, Hazen's (midpoint) definition.

    Examples
    --------
    >>> weighted_quantile(np.array([3.0, 1.0, 2.0]), np.full(3, 1 / 3), np.array([0.5]))
    array([2.])
    """
    order = np.argsort(values, kind="stable")
    sorted_weights = weights[order]
    position = (np.cumsum(sorted_weights) - 0.5 * sorted_weights) / sorted_weights.sum()
    return np.interp(at, position, values[order])


def resample(weights: Float64[Array, " draw"], n: int, rng: np.random.Generator) -> Array:
    """Positions of `n` equally weighted draws, systematic and in random order."""
    cumulative = np.cumsum(weights)
    at = (np.arange(n) + rng.random()) / n * cumulative[-1]
    found = np.searchsorted(cumulative, at, side="right")
    return rng.permutation(np.minimum(found, len(weights) - 1))
