"""Firth's logistic regression: finite estimates under separation and for rare cases.

The log-likelihood is penalised by half the log-determinant of the information,

    l*(b) = l(b) + 1/2 log |Z'WZ|

(Firth 1993, doi:10.1093/biomet/80.1.27), which removes the first-order bias and keeps the
maximum finite where a group has no case (Heinze & Schemper 2002, doi:10.1002/sim.1047). The
p-value is that of the penalised likelihood ratio; the interval inverts it (profile
penalised likelihood). In both, the coefficient under test is held while the others move
and stays in the information matrix.
"""

from dataclasses import dataclass
from math import log

import numpy as np
from jaxtyping import Bool, Float64

from phenokit.evidence.logistic import sigmoid_in_place

MAX_STEPS = 100
MAX_CHANGE = 2.0
CONVERGED = 1e-18
"""Decrement at which a fit ends."""
FARTHEST = 50.0
"""Log odds ratio, in units of the column, beyond which no end of an interval is sought."""

Array = np.ndarray


@dataclass(frozen=True)
class FirthFit:
    """One coefficient of a logistic model with Firth's penalty.

    Attributes
    ----------
    log_odds_ratio, standard_error
        Of the last column. The standard error is that of the penalised information; under
        separation the interval, not this, says how sure the estimate is.
    low, high
        Profile penalised likelihood interval of the log odds ratio; infinite where the
        profile never falls far enough.
    likelihood_ratio
        Penalised likelihood-ratio statistic of no effect: chi-square, 1 degree of freedom.
    converged
        Whether the fits ended.
    """

    log_odds_ratio: float
    standard_error: float
    low: float
    high: float
    likelihood_ratio: float
    converged: bool


@dataclass(frozen=True)
class _Maximum:
    coefficients: Float64[Array, " column"]
    log_likelihood: float
    slope: float
    """Derivative with respect to the last coefficient, where that was held."""
    information: Float64[Array, "column column"]
    converged: bool


def fit_firth(
    columns: Float64[Array, "row column"],
    is_case: Bool[Array, " row"],
    *,
    confidence: float = 0.95,
) -> FirthFit:
    """Fit with Firth's penalty and test the last column.

    Parameters
    ----------
    columns
        The intercept, covariates, and last the exposure; linearly independent and of
        similar scale.
    is_case
        The outcome.
    confidence
        Of the interval.

    Examples
    --------
    Seven exposed cases and no exposed control, among 60:

    >>> exposed = np.repeat([1.0, 0.0], [7, 53])
    >>> case = np.repeat([True, False], [20, 40])
    >>> fit = fit_firth(np.column_stack([np.ones(60), exposed]), case)
    >>> round(fit.log_odds_ratio, 6), round(fit.low, 4), round(fit.high, 4)
    (3.806662, 1.5956, 8.6972)
    """
    from scipy.special import chdtri

    n_columns = columns.shape[1]
    share = np.clip(is_case.mean(), 1e-6, 1 - 1e-6)
    start = np.zeros(n_columns)
    start[0] = log(share / (1 - share))
    full = _maximise(columns, is_case, start, held=False)
    null = _maximise(columns, is_case, start, held=True)
    estimate = float(full.coefficients[-1])
    standard_error = float(np.sqrt(np.linalg.inv(full.information)[-1, -1]))
    drop = float(chdtri(1, 1 - confidence)) / 2
    low, low_found = _bound(columns, is_case, full, -standard_error, drop)
    high, high_found = _bound(columns, is_case, full, standard_error, drop)
    return FirthFit(
        log_odds_ratio=estimate,
        standard_error=standard_error,
        low=low,
        high=high,
        likelihood_ratio=max(0.0, 2 * (full.log_likelihood - null.log_likelihood)),
        converged=full.converged and null.converged and low_found and high_found,
    )


def _maximise(
    columns: Float64[Array, "row column"],
    is_case: Bool[Array, " row"],
    start: Float64[Array, " column"],
    *,
    held: bool,
) -> _Maximum:
    """Newton's method with step halving; `held` keeps the last coefficient as it is."""
    free = slice(0, -1) if held else slice(None)
    coefficients = start.copy()
    here, gradient, information = _penalised(columns, is_case, coefficients)
    converged = False
    for _ in range(MAX_STEPS):
        change = np.linalg.solve(information[free, free], gradient[free])
        if abs(change @ gradient[free]) < CONVERGED:
            converged = True
            break
        change *= min(1.0, MAX_CHANGE / np.abs(change).max())
        there, moved, ahead = _moved(columns, is_case, coefficients, change, free)
        while there < here - 1e-12 * abs(here) and np.abs(change).max() > 1e-9:
            change /= 2
            there, moved, ahead = _moved(columns, is_case, coefficients, change, free)
        coefficients, here = moved, there
        gradient, information = ahead
    return _Maximum(coefficients, here, float(gradient[-1]), information, converged)


def _moved(
    columns: Float64[Array, "row column"],
    is_case: Bool[Array, " row"],
    coefficients: Float64[Array, " column"],
    change: Float64[Array, " free"],
    free: slice,
) -> tuple[float, Array, tuple[Array, Array]]:
    moved = coefficients.copy()
    moved[free] += change
    there, *ahead = _penalised(columns, is_case, moved)
    return there, moved, (ahead[0], ahead[1])


def _penalised(
    columns: Float64[Array, "row column"],
    is_case: Bool[Array, " row"],
    coefficients: Float64[Array, " column"],
) -> tuple[float, Float64[Array, " column"], Float64[Array, "column column"]]:
    """Penalised log-likelihood, its gradient, and the information."""
    eta = columns @ coefficients
    # log(1 + exp(eta)) without overflow, and faster than numpy's logaddexp
    softplus = np.log1p(np.exp(-np.abs(eta))) + np.maximum(eta, 0)
    log_likelihood = float(eta[is_case].sum() - softplus.sum())
    with np.errstate(over="ignore"):
        mean = sigmoid_in_place(eta)
    weight = mean * (1 - mean)
    information = (columns * weight[:, None]).T @ columns
    sign, log_determinant = np.linalg.slogdet(information)
    if sign <= 0:
        return -np.inf, np.zeros(len(coefficients)), np.eye(len(coefficients))
    root = np.linalg.cholesky(information)
    leverage = weight * (np.linalg.solve(root, columns.T) ** 2).sum(axis=0)
    gradient = columns.T @ (is_case - mean + leverage * (0.5 - mean))
    return log_likelihood + log_determinant / 2, gradient, information


def _bound(
    columns: Float64[Array, "row column"],
    is_case: Bool[Array, " row"],
    full: _Maximum,
    step: float,
    drop: float,
) -> tuple[float, bool]:
    """Where the profile has fallen by `drop` on one side of the maximum.

    Newton's method on the profile, whose derivative is that of the penalised likelihood
    with the last coefficient held; bracketed, so that it cannot run away.
    """
    target = full.log_likelihood - drop
    estimate = float(full.coefficients[-1])
    near, far = estimate, None
    at = full.coefficients
    position = estimate + 2 * step
    for _ in range(MAX_STEPS):
        start = at.copy()
        start[-1] = position
        profile = _maximise(columns, is_case, start, held=True)
        at = profile.coefficients
        above = profile.log_likelihood - target
        if abs(above) < 1e-9:
            return position, profile.converged
        if above > 0:
            near = position
            if abs(position - estimate) > FARTHEST:
                return (np.inf if step > 0 else -np.inf), profile.converged
        else:
            far = position
        slope = profile.slope
        moves_out = slope * step < 0
        guess = position - above / slope if moves_out else near + 2 * (near - estimate)
        if far is None:
            longest = abs(position - estimate) * 2 + abs(step)
            guess = np.clip(guess, position - longest, position + longest)
        elif not min(near, far) < guess < max(near, far):
            guess = (near + far) / 2
        position = float(guess)
    return position, False
