"""Selection with a continuous outcome: Heckman's model as a member of the family.

    Y = X beta_Y + Z,     T = 1[X beta_T + u > 0],
    (Z, u) ~ N(0, [[sigma², rho], [rho, 1]]),

with `rho` a covariance (Heckman 1979, doi:10.2307/1912352; Balachandar, Garg & Pierson,
arXiv 2312.03878). Conditional on the risk ``r = Y`` testing is probit with

    k = sqrt(1 - rho²/sigma²),    alpha = (rho/sigma²)/k,
    beta_Delta = (beta_T - (rho/sigma²) beta_Y)/k,

so that "feature j does not affect testing beyond risk" means
``beta_T,j = (rho/sigma²) beta_Y,j``. The shape of `laplace` is the correlation rho/sigma in
(0, 1): selection is assumed to be positive.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64
from scipy.special import log_ndtr, ndtr

from phenokit.evidence.selective_labels import (
    COEFFICIENT_SCALE,
    SHAPE_SCALE,
    Evaluated,
    keep_freed_memory,
)

Array = np.ndarray
LOG_ROOT_TWO_PI = 0.5 * np.log(2 * np.pi)


@dataclass(frozen=True)
class HeckmanModel:
    """The posterior density of one table with a continuous outcome.

    The vector of coefficients is ``beta_Y``, the free ``beta_T`` and ``log sigma``.

    Attributes
    ----------
    features
        Shape ``(row, feature)``; the first column is 1.
    tested
        Whose outcome is known.
    outcome
        The outcome; 0 where it is not known.
    free
        Features whose beta_Delta is free, the intercept (0) among them.
    prevalence, weight
        Stated mean outcome of everyone and ``1 / (2 s²)``; 0 turns it off.
    """

    features: Float64[Array, "row feature"]
    tested: Bool[Array, " row"]
    outcome: Float64[Array, " row"]
    free: tuple[int, ...]
    prevalence: float = 0.0
    weight: float = 0.0
    shape_scale: float = SHAPE_SCALE

    @property
    def n_features(self) -> int:
        """Columns of the features, the intercept among them."""
        return self.features.shape[1]

    @property
    def dimension(self) -> int:
        """Length of the vector of coefficients."""
        return self.n_features + len(self.free) + 1

    @property
    def shape_name(self) -> str:
        """What the shape is."""
        return "correlation"

    @property
    def shape_bounds(self) -> tuple[float, float]:
        """Where the shape lies."""
        return 0.0, 1.0

    def without_prevalence(self) -> "HeckmanModel":
        """The same without the stated mean."""
        return replace(self, weight=0.0)

    @property
    def cost(self) -> float:
        """Elements that a draw's density takes, in cells of the closed form."""
        return 4.0 * len(self.features)

    def some_rows(self, n: int, rng: np.random.Generator) -> "HeckmanModel":
        """The same model of `n` rows drawn at random."""
        rows = np.sort(rng.choice(len(self.features), n, replace=False))
        return replace(
            self, features=self.features[rows], tested=self.tested[rows],
            outcome=self.outcome[rows],
        )  # fmt: skip

    def grid(self) -> Float64[Array, " point"]:
        """Correlations at which a nested Laplace fit starts."""
        return np.linspace(0.0125, 0.9875, 40)

    def starting_point(self) -> tuple[int, Float64[Array, " coefficient"]]:
        """Least squares among the tested, and the tested share."""
        coefficients = np.zeros(self.dimension)
        seen = self.features[self.tested], self.outcome[self.tested]
        coefficients[: self.n_features] = np.linalg.lstsq(*seen, rcond=None)[0]
        left = seen[1] - seen[0] @ coefficients[: self.n_features]
        coefficients[-1] = np.log(max(float(left.std()), 1e-3))
        coefficients[self.n_features] = (self.tested.mean() - 0.5) * 2.5
        return 16, coefficients

    def evaluate(
        self,
        coefficients: Float64[Array, "draw coefficient"],
        shape: Float64[Array, " draw"],
    ) -> Evaluated:
        """Log-likelihood and mean outcomes of everyone, the tested and the untested."""
        keep_freed_memory()
        found = np.zeros((4, len(shape)))
        for draw, (theta, correlation) in enumerate(zip(coefficients, shape, strict=True)):
            found[0, draw], found[1, draw] = self._likelihood(theta, correlation)
            mean, index = self.predictors(theta, correlation, self.features)
            covariance = correlation * np.exp(theta[-1])
            density = np.exp(-0.5 * index**2 - LOG_ROOT_TWO_PI)
            tested = ndtr(index)
            found[2, draw] = (mean * tested + covariance * density).sum() / tested.sum()
            untested = ndtr(-index)
            found[3, draw] = (mean * untested - covariance * density).sum()
            found[3, draw] /= untested.sum()
        return Evaluated(*found)

    def _likelihood(self, theta: Array, correlation: float) -> tuple[float, float]:
        return heckman_likelihood(
            self.features, self.tested, self.outcome, self.free, theta, correlation,
            np, log_ndtr,
        )  # fmt: skip

    def predictors(
        self, theta: Array, correlation: float, features: Array
    ) -> tuple[Array, Array]:
        """``X beta_Y`` and ``X beta_T``."""
        return _predictors(features, self.free, theta, correlation, np)

    def beta_delta(
        self, coefficients: Float64[Array, "*draw coefficient"], shape: Array
    ) -> Float64[Array, "*draw free"]:
        """The free beta_Delta of draws."""
        m = self.n_features
        slope = (shape / np.exp(coefficients[..., -1]))[..., None]
        tied = slope * coefficients[..., list(self.free)]
        return (coefficients[..., m:-1] - tied) / np.sqrt(1 - shape[..., None] ** 2)

    def mean_outcome(
        self,
        coefficients: Float64[Array, "draw coefficient"],
        shape: Float64[Array, " draw"],
        features: Float64[Array, "row feature"],
        population: str,
    ) -> Float64[Array, "row draw"]:
        """E[Y | X], or of the tested or untested with these features (the Mills ratio)."""
        columns = []
        for theta, correlation in zip(coefficients, shape, strict=True):
            mean, index = self.predictors(theta, correlation, features)
            if population != "all":
                sign = 1.0 if population == "tested" else -1.0
                log_density = -0.5 * index**2 - LOG_ROOT_TWO_PI
                mills = np.exp(log_density - log_ndtr(sign * index))
                mean = mean + sign * correlation * np.exp(theta[-1]) * mills
            columns.append(mean)
        return np.column_stack(columns)

    def log_density(
        self,
        coefficients: Float64[Array, "draw coefficient"],
        shape: Float64[Array, " draw"],
        evaluated: Evaluated,
    ) -> Float64[Array, " draw"]:
        """Log posterior density, up to a constant, in (coefficients, correlation)."""
        apart = evaluated.prevalence - self.prevalence
        prior = self._log_prior(coefficients, shape)
        return evaluated.log_likelihood - self.weight * apart**2 + prior

    def _log_prior(self, coefficients: Array, shape: Any) -> Any:  # noqa: ANN401
        # sigma and rho = correlation · sigma are half-normal; log sigma and the correlation
        # each bring a Jacobian of sigma
        log_sigma = coefficients[..., -1]
        scaled = np.exp(log_sigma) / self.shape_scale
        return (
            -0.5 * (coefficients[..., :-1] ** 2).sum(axis=-1) / COEFFICIENT_SCALE**2
            - 0.5 * scaled**2 * (1 + shape**2)
            + 2 * log_sigma
        )

    def derivatives(
        self, coefficients: Float64[Array, " coefficient"], shape: float
    ) -> tuple[float, Array, Array]:
        """Log density, its gradient, and its Hessian by differences of the gradient."""
        log_likelihood, mean = self._likelihood(coefficients, shape)
        value = log_likelihood - self.weight * (mean - self.prevalence) ** 2
        value += self._log_prior(coefficients, shape)
        step = 1e-5
        ahead, behind = (
            np.stack([self._gradient(coefficients + sign * e, shape) for e in moves])
            for moves in [step * np.eye(self.dimension)]
            for sign in (1, -1)
        )
        hessian = (ahead - behind) / (2 * step)
        hessian = (hessian + hessian.T) / 2
        return float(value), self._gradient(coefficients, shape), hessian

    def _gradient(self, theta: Array, correlation: float) -> Array:
        m, sigma = self.n_features, np.exp(theta[-1])
        slope, k = correlation / sigma, np.sqrt(1 - correlation**2)
        mean, index = self.predictors(theta, correlation, self.features)
        left = np.where(self.tested, self.outcome - mean, 0.0)
        argument = np.where(self.tested, (index + slope * left) / k, -index)
        # phi / Phi, which stays finite where both underflow
        ratio = np.exp(-0.5 * argument**2 - LOG_ROOT_TWO_PI - log_ndtr(argument))
        by_index = np.where(self.tested, ratio / k, -ratio)
        by_mean = np.where(self.tested, left / sigma**2 - slope * ratio / k, 0.0)
        apart = self.features[:, :m] @ theta[:m]
        by_mean -= 2 * self.weight * (apart.mean() - self.prevalence) / len(mean)
        tied = [j for j in range(m) if j not in self.free]
        through = self.features.T @ by_index
        gradient = np.zeros(self.dimension)
        gradient[:m] = self.features.T @ by_mean
        gradient[tied] += slope * through[tied]
        gradient[m:-1] = through[list(self.free)]
        in_sigma = np.where(
            self.tested, (left / sigma) ** 2 - 1 - ratio * slope * left / k, 0.0
        )
        gradient[-1] = in_sigma.sum() - slope * theta[tied] @ through[tied]
        gradient[:-1] -= theta[:-1] / COEFFICIENT_SCALE**2
        gradient[-1] += 2 - (sigma / self.shape_scale) ** 2 * (1 + correlation**2)
        return gradient


def _predictors(
    features: Any,  # noqa: ANN401 - numpy or JAX
    free: tuple[int, ...],
    theta: Any,  # noqa: ANN401
    correlation: Any,  # noqa: ANN401
    xp: ModuleType,
) -> tuple[Any, Any]:
    m = features.shape[1]
    is_tied = np.ones(m)
    is_tied[list(free)] = 0
    beta_y, sigma = theta[:m], xp.exp(theta[-1])
    index = features[:, list(free)] @ theta[m:-1]
    index = index + features @ (is_tied * beta_y) * correlation / sigma
    return features @ beta_y, index


def heckman_likelihood(
    features: Any,  # noqa: ANN401 - numpy or JAX
    tested: Any,  # noqa: ANN401
    outcome: Any,  # noqa: ANN401
    free: tuple[int, ...],
    theta: Any,  # noqa: ANN401
    correlation: Any,  # noqa: ANN401
    xp: ModuleType,
    log_cdf: Callable[[Any], Any],
) -> tuple[Any, Any]:
    """Log-likelihood, and the mean outcome of everyone.

    ::

        T = 1:  log N(y; X beta_Y, sigma)
                + log Phi([X beta_T + (rho/sigma²)(y - X beta_Y)] / k)
        T = 0:  log Phi(-X beta_T)
    """
    mean, index = _predictors(features, free, theta, correlation, xp)
    sigma = xp.exp(theta[-1])
    left = xp.where(tested, outcome - mean, 0.0)
    k = xp.sqrt(1 - correlation**2)
    argument = xp.where(tested, (index + correlation * left / sigma) / k, -index)
    normal = -0.5 * (left / sigma) ** 2 - theta[-1] - LOG_ROOT_TWO_PI
    return xp.sum(xp.where(tested, normal, 0.0) + log_cdf(argument)), xp.mean(mean)
