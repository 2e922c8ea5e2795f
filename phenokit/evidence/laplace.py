"""Nested Laplace fit: a posterior as a mixture of normals over a grid of one parameter.

One parameter (the shape: sigma or alpha of `selective_labels`, the correlation of
`heckman`) is laid on a grid. At each point the others are replaced by a normal around
their mode, whose mass is ``p(mode) (2 pi)^(D/2) / sqrt(det H)`` (Tierney & Kadane 1986,
doi:10.1080/01621459.1986.10478240; Rue, Martino & Chopin 2009,
doi:10.1111/j.1467-9868.2008.00700.x). Between the points mode, covariance factor and mass
are interpolated, so that a draw has an exact density and can be corrected by
Pareto-smoothed importance weights. The correction is part of the fit.

Departure from the papers: no skewness correction; the importance weights do that.
"""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float64
from scipy.interpolate import PchipInterpolator
from scipy.special import gammaln

from phenokit.evidence.psis import SmoothedWeights, smooth_weights

Array = np.ndarray

MAX_STEPS = 200
CONVERGED = 1e-8
"""Newton decrement at which a mode is reached."""
LARGEST_STEP = 5.0
MOST_WIDENED = 40
"""Points that may be added beyond an end of the grid that still holds mass."""
END_MASS = 0.01
MOST_REFINED = 5
COARSE = 0.25
"""Share of the mass in two neighbouring points above which a point is put between them."""
NEAR_BOUND = 0.002
"""Mass of the lowest point above which the lower bound becomes a point too."""
NEGLIGIBLE = 14.0
"""Log of the mass of a point, below the highest, at which a sweep ends."""
DEGREES = 30.0
"""Of the t distribution of draws around a mode: tails a little above the normal's, so that
importance weights stay bounded where the posterior's are heavier."""
FINE = 2_000
"""Bins of the interpolated mass of the shape."""


@runtime_checkable
class Posterior(Protocol):
    """A posterior density of coefficients and one shape; see `BernoulliModel`."""

    @property
    def dimension(self) -> int: ...  # noqa: D102
    @property
    def shape_bounds(self) -> tuple[float, float]: ...  # noqa: D102
    def grid(self) -> Array: ...  # noqa: D102
    def starting_point(self) -> tuple[int, Array]: ...  # noqa: D102
    def derivatives(self, coefficients: Array, shape: float) -> Any: ...  # noqa: D102, ANN401
    def evaluate(self, coefficients: Array, shape: Array) -> Any: ...  # noqa: D102, ANN401
    def log_density(self, coefficients: Array, shape: Array, evaluated: Any) -> Array: ...  # noqa: D102, ANN401


@dataclass(frozen=True)
class NestedLaplace:
    """Modes over a grid of the shape.

    Attributes
    ----------
    shape
        The grid, ascending.
    modes
        Coefficients at the mode, ``(point, coefficient)``.
    factors
        Lower Cholesky factors of the covariances, ``(point, coefficient, coefficient)``.
    log_height
        Log density at the modes.
    log_mass
        Log of the mass at each point, ``(point,)``; up to a constant.
    """

    shape: Float64[Array, " point"]
    modes: Float64[Array, "point coefficient"]
    factors: Float64[Array, "point coefficient coefficient"]
    log_height: Float64[Array, " point"]
    log_mass: Float64[Array, " point"]

    @property
    def mass(self) -> Float64[Array, " point"]:
        """Share of the mass at each point."""
        relative = np.exp(self.log_mass - self.log_mass.max())
        width = np.gradient(self.shape)
        return relative * width / np.sum(relative * width)

    @property
    def joint_mode(self) -> tuple[Float64[Array, " coefficient"], float]:
        """The highest mode of the grid, and its shape."""
        best = int(np.argmax(self.log_height))
        return self.modes[best], float(self.shape[best])


@dataclass(frozen=True)
class WeightedDraws:
    """Draws of a nested Laplace fit with importance weights against the exact density."""

    coefficients: Float64[Array, "draw coefficient"]
    shape: Float64[Array, " draw"]
    evaluated: Any
    smoothed: SmoothedWeights


def fit_nested_laplace(
    posterior: Posterior, *, n_points: int | None = None
) -> NestedLaplace:
    """Find the mode at every point of the grid, each from its neighbours'.

    Parameters
    ----------
    posterior
        The density, with derivatives in the coefficients.
    n_points
        Take this many points of the grid, evenly; for tables of many cells.

    Raises
    ------
    FloatingPointError
        If no mode is found.
    """
    points = posterior.grid()
    start, coefficients = posterior.starting_point()
    if n_points is not None and n_points < len(points):
        at = points[start]
        points = points[np.linspace(0, len(points) - 1, n_points).round().astype(int)]
        start = int(np.argmin(np.abs(points - at)))
    found = {float(points[start]): _mode(posterior, coefficients, points[start])}
    for direction in (1, -1):
        sweep = points[start::direction]
        step = sweep[-1] - sweep[-2] if len(sweep) > 1 else 0.0
        trail = [found[float(sweep[0])]]
        shapes = [float(sweep[0])]
        waiting = list(sweep[1:])
        n_added = 0
        while waiting and not _past(trail):
            shape = float(waiting.pop(0))
            guess = _extrapolate(shapes, trail, shape)
            found[shape] = _mode(posterior, guess, shape)
            trail.append(found[shape])
            shapes.append(shape)
            open_ended = np.isinf(posterior.shape_bounds[direction > 0])
            at_end = not waiting and open_ended and n_added < MOST_WIDENED
            if at_end and _collect(found).mass[-1 if direction > 0 else 0] > END_MASS:
                waiting.append(shape + step)
                n_added += 1
    for _ in range(MOST_REFINED):
        fit = _collect(found)
        finer = _between(fit, posterior.shape_bounds[0])
        for shape, guess in finer:
            found[shape] = _mode(posterior, guess, shape)
        if not finer:
            break
    return _collect(found)


def _between(fit: NestedLaplace, lower: float) -> list[tuple[float, Array]]:
    """Points that a grid lacks where it holds much of the mass, with guesses of modes."""
    shape, modes, mass = fit.shape, fit.modes, fit.mass
    found = [
        (float(shape[k] + shape[k + 1]) / 2, (modes[k] + modes[k + 1]) / 2)
        for k in np.flatnonzero(mass[:-1] + mass[1:] > COARSE)
    ]
    if mass[0] > NEAR_BOUND and shape[0] > lower > -np.inf:
        slope = (modes[1] - modes[0]) / (shape[1] - shape[0])
        found.append((lower, modes[0] - slope * (shape[0] - lower)))
    return found


def _past(trail: list[tuple[float, Array, Array]]) -> bool:
    """Whether a sweep has passed the mass: falling, and e^-14 below its highest point."""
    log_mass = [height + np.log(np.diag(factor)).sum() for height, _, factor in trail[-2:]]
    highest = max(height + np.log(np.diag(factor)).sum() for height, _, factor in trail)
    return bool(log_mass[-1] <= log_mass[0] and log_mass[-1] < highest - NEGLIGIBLE)


def _extrapolate(shapes: list[float], trail: list[Any], shape: float) -> Array:
    """The line through the last two modes."""
    if len(trail) < 2:
        return trail[-1][1]
    along = (shape - shapes[-1]) / (shapes[-1] - shapes[-2])
    return trail[-1][1] + along * (trail[-1][1] - trail[-2][1])


def _collect(found: dict[float, tuple[float, Array, Array]]) -> NestedLaplace:
    shape = np.array(sorted(found))
    heights, modes, factors = zip(*(found[float(one)] for one in shape), strict=True)
    log_height, factors = np.array(heights), np.stack(factors)
    log_determinant = np.log(np.diagonal(factors, axis1=1, axis2=2)).sum(axis=1)
    return NestedLaplace(
        shape, np.stack(modes), factors, log_height, log_height + log_determinant
    )


def _mode(
    posterior: Posterior, coefficients: Array, shape: float
) -> tuple[float, Array, Array]:
    """Height, mode and covariance factor, by Newton steps kept uphill.

    The Hessian's eigenvalues are made positive by their size (a saddle is left along the
    direction that curves up), and a step that does not climb is halved.
    """
    value, gradient, hessian = posterior.derivatives(coefficients, shape)
    for _ in range(MAX_STEPS):
        size, vectors = np.linalg.eigh(-hessian)
        size = np.maximum(np.abs(size), 1e-6)
        step = vectors @ ((vectors.T @ gradient) / size)
        decrement = gradient @ step
        step *= LARGEST_STEP / max(LARGEST_STEP, np.abs(step).max())
        if decrement < CONVERGED:
            break
        scale = 1.0
        while scale > 1e-10:
            tried = posterior.derivatives(coefficients + scale * step, shape)
            if np.isfinite(tried[0]) and tried[0] > value + 1e-4 * scale * decrement:
                break
            scale /= 2
        else:
            break  # rounding: no step climbs any more
        coefficients = coefficients + scale * step
        value, gradient, hessian = tried
    else:
        raise FloatingPointError(f"no mode was found at {shape:g}")
    size, vectors = np.linalg.eigh(-hessian)
    size = np.maximum(np.abs(size), 1e-6)
    covariance = (vectors / size) @ vectors.T
    return value, coefficients, np.linalg.cholesky(covariance)


def draw_weighted(
    posterior: Posterior, fit: NestedLaplace, n: int, rng: np.random.Generator
) -> WeightedDraws:
    """Draw from the mixture and weigh each draw by the exact density.

    The shape is drawn systematically (one draw in each n-th of its mass).
    """
    lowest, highest = posterior.shape_bounds
    lower = lowest if np.isfinite(lowest) else fit.shape[0]
    upper = highest if np.isfinite(highest) else fit.shape[-1]
    edges = np.linspace(lower, upper, FINE + 1)
    middle = (edges[1:] + edges[:-1]) / 2
    inside = np.clip(middle, fit.shape[0], fit.shape[-1])
    log_mass = PchipInterpolator(fit.shape, fit.log_mass)(inside)
    mass = np.exp(log_mass - log_mass.max()) + 1e-6  # no bin is impossible
    mass /= mass.sum()
    at = (np.arange(n) + rng.random(n)) / n
    bin_of_draw = np.minimum(np.searchsorted(np.cumsum(mass), at), FINE - 1)
    width = edges[1] - edges[0]
    shape = edges[bin_of_draw] + width * rng.random(n)

    last = len(fit.shape) - 2
    left = np.clip(np.searchsorted(fit.shape, shape) - 1, 0, last)
    part = (shape - fit.shape[left]) / (fit.shape[left + 1] - fit.shape[left])
    part = np.clip(part, 0, 1)[:, None]
    modes = (1 - part) * fit.modes[left] + part * fit.modes[left + 1]
    d = modes.shape[1]
    noise = rng.normal(size=(n, d))
    noise *= np.sqrt(DEGREES / rng.chisquare(DEGREES, size=(n, 1)))
    spread = np.empty_like(noise)
    log_determinant = np.empty(n)
    for one in np.unique(left):
        drawn = left == one
        share = part[drawn][:, :, None]
        factor = (1 - share) * fit.factors[one] + share * fit.factors[one + 1]
        spread[drawn] = np.einsum("nij,nj->ni", factor, noise[drawn])
        log_determinant[drawn] = np.log(np.diagonal(factor, axis1=1, axis2=2)).sum(axis=1)
    coefficients = modes + spread
    log_proposal = (
        np.log(mass[bin_of_draw] / width)
        - log_determinant
        - 0.5 * (DEGREES + d) * np.log1p((noise**2).sum(axis=1) / DEGREES)
        + gammaln((DEGREES + d) / 2)
        - gammaln(DEGREES / 2)
        - 0.5 * d * np.log(DEGREES * np.pi)
    )
    evaluated = posterior.evaluate(coefficients, shape)
    log_density = posterior.log_density(coefficients, shape, evaluated)
    log_weights = np.where(np.isfinite(log_density), log_density - log_proposal, -np.inf)
    return WeightedDraws(coefficients, shape, evaluated, smooth_weights(log_weights))
