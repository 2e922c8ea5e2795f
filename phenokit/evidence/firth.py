"""Firth's logistic regression: finite estimates under separation and for rare cases.

The log-likelihood is penalised by half the log-determinant of the information,

    l*(b) = l(b) + 1/2 log |Z'WZ|

(Firth 1993, doi:10.1093/biomet/80.1.27), which removes the first-order bias and keeps the
maximum finite where a group has no case (Heinze & Schemper 2002, doi:10.1002/sim.1047). The
p-value is that of the penalised likelihood ratio; the interval inverts it (profile
penalised likelihood). In both, the coefficient under test is held while the others move
and stays in the information matrix.

All exposures of a phecode are fitted at once, each with the covariates and on its own.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64

from phenokit.evidence.logistic import Design, row_blocks, symmetric

MAX_STEPS = 200
MAX_CHANGE = 2.0
CONVERGED = 1e-17
"""Decrement at which an estimate is right to some 1e-8 of its standard error."""
CLOSE = 1e-11
"""Decrement at which a log-likelihood is right to 1e-11."""
ON_BOUND = 1e-9
"""Difference of log-likelihoods at which the end of an interval is found."""
FARTHEST = 50.0
"""Log odds ratio, in units of the column, beyond which no end of an interval is sought."""

Array = np.ndarray


@dataclass(frozen=True)
class FirthFits:
    """The coefficient of each exposure in a logistic model with Firth's penalty.

    Attributes
    ----------
    log_odds_ratio, standard_error
        The standard error is that of the information; under separation the interval, not
        this, says how sure the estimate is.
    low, high
        Profile penalised likelihood interval of the log odds ratio; an end is infinite
        where the profile does not fall far enough within `FARTHEST`, or jumps between two
        maxima on its way.
    likelihood_ratio
        Penalised likelihood-ratio statistic of no effect: chi-square, 1 degree of freedom.
    converged
        Whether the maximum was found, and that without an effect.
    """

    log_odds_ratio: Float64[Array, " exposure"]
    standard_error: Float64[Array, " exposure"]
    low: Float64[Array, " exposure"]
    high: Float64[Array, " exposure"]
    likelihood_ratio: Float64[Array, " exposure"]
    converged: Bool[Array, " exposure"]


def fit_firth(
    design: Design,
    exposures: Float64[Array, "row exposure"],
    is_case: Bool[Array, " row"],
    *,
    confidence: float = 0.95,
) -> FirthFits:
    """Fit with Firth's penalty and test each exposure.

    Parameters
    ----------
    design
        The intercept and the covariates, linearly independent.
    exposures
        Of a scale similar to the columns of the design.
    is_case
        The outcome.
    confidence
        Of the interval.

    Examples
    --------
    Seven exposed cases and no exposed control, among 60:

    >>> exposed = np.repeat([1.0, 0.0], [7, 53])[:, None]
    >>> case = np.repeat([True, False], [20, 40])
    >>> fits = fit_firth(Design(("intercept",), np.ones((60, 1))), exposed, case)
    >>> fits.log_odds_ratio.round(6), fits.low.round(4), fits.high.round(4)
    (array([3.806662]), array([1.5956]), array([8.6972]))
    """
    from scipy.special import chdtri

    model = _Model(design, exposures, is_case)
    n_parameters, n_exposures = design.values.shape[1] + 1, exposures.shape[1]
    share = float(np.clip(is_case.mean(), 1e-6, 1 - 1e-6))
    start = np.zeros((n_parameters, n_exposures))
    start[0] = np.log(share / (1 - share))
    null = model.maximise(start, tolerance=CLOSE, held=True)
    full = model.maximise(null.parameters, tolerance=CONVERGED, held=False)
    error = np.sqrt(np.linalg.inv(full.information)[:, -1, -1])
    drop = float(chdtri(1, 1 - confidence)) / 2
    low = model.bound(full, -error, drop)
    high = model.bound(full, error, drop)
    gain = 2 * (full.log_likelihood - null.log_likelihood)
    return FirthFits(
        log_odds_ratio=full.parameters[-1],
        standard_error=error,
        low=low,
        high=high,
        likelihood_ratio=np.maximum(gain, 0),
        converged=null.converged & full.converged,
    )


def _solve(
    information: Float64[Array, "fit parameter parameter"],
    gradient: Float64[Array, "parameter fit"],
) -> Float64[Array, "parameter fit"]:
    """Newton steps, scaled to a unit diagonal since weights may be very small."""
    diagonal = np.maximum(np.einsum("fkk->fk", information), 1e-300)
    scale = (1 / np.sqrt(diagonal))[:, :, None]
    scaled = information * scale * scale.transpose(0, 2, 1)
    scaled += 1e-13 * np.eye(scaled.shape[1])
    return (np.linalg.solve(scaled, gradient.T[:, :, None] * scale) * scale)[:, :, 0].T


@dataclass(frozen=True)
class _At:
    """Penalised log-likelihood of each exposure's model at some parameters."""

    log_likelihood: Float64[Array, " fit"]
    gradient: Float64[Array, "parameter fit"]
    information: Float64[Array, "fit parameter parameter"]


@dataclass(frozen=True)
class _Maximum:
    parameters: Float64[Array, "parameter fit"]
    log_likelihood: Float64[Array, " fit"]
    slope: Float64[Array, " fit"]
    """Derivative with respect to the exposure's coefficient, where that was held."""
    information: Float64[Array, "fit parameter parameter"]
    converged: Bool[Array, " fit"]


@dataclass(frozen=True)
class _Model:
    design: Design
    exposures: Float64[Array, "row exposure"]
    is_case: Bool[Array, " row"]

    def maximise(
        self,
        start: Float64[Array, "parameter fit"],
        *,
        tolerance: float,
        held: bool,
        which: Int64[Array, " fit"] | None = None,
    ) -> _Maximum:
        """Newton's method with step halving; `held` keeps the exposures' coefficients.

        `which` names the exposures that are fitted; default: all.
        """
        free = slice(0, -1) if held else slice(None)
        chosen = np.arange(self.exposures.shape[1]) if which is None else which
        parameters = start.copy()
        at = self._evaluate(parameters, chosen)
        value, gradient, information = at.log_likelihood, at.gradient, at.information
        converged = np.zeros(len(chosen), dtype=bool)
        share = np.ones(len(chosen))  # of the next step that is taken
        for _ in range(MAX_STEPS):
            # Far out the information is singular, and nothing leads back.
            active = np.flatnonzero(~converged & np.isfinite(value))
            change = _solve(information[active][:, free, free], gradient[free, active])
            converged[active] = np.abs((change * gradient[free, active]).sum(0)) < tolerance
            change, active = change[:, ~converged[active]], active[~converged[active]]
            if not len(active):
                break
            longest = np.abs(change).max(axis=0, initial=0)
            change *= np.minimum(share[active], MAX_CHANGE / np.maximum(longest, 1e-300))
            while len(active):
                moved = parameters[:, active]
                moved[free] += change
                there = self._evaluate(moved, chosen[active])
                floor = value[active] - 1e-12 * np.abs(value[active])
                better = (there.log_likelihood >= floor) | (np.abs(change).max(0) < 1e-9)
                taken = active[better]
                # The penalty bends the likelihood more than the information says: of a
                # step to a single exposed patient half is right, and the whole of it would
                # go to and fro for ever. The slopes along a step tell the next one's share.
                slopes = [
                    (change[:, better] * g).sum(axis=0)
                    for g in (gradient[free, taken], there.gradient[free][:, better])
                ]
                with np.errstate(divide="ignore", invalid="ignore"):
                    turned = np.nan_to_num(slopes[1] / slopes[0])
                share[taken] = 1 / (1 + np.clip(-turned, 0, 1))
                parameters[:, taken] = moved[:, better]
                value[taken] = there.log_likelihood[better]
                gradient[:, taken] = there.gradient[:, better]
                information[taken] = there.information[better]
                active, change = active[~better], change[:, ~better] / 2
        return _Maximum(parameters, value, gradient[-1], information, converged)

    def _evaluate(
        self, parameters: Float64[Array, "parameter fit"], which: Int64[Array, " fit"]
    ) -> _At:
        """Penalised log-likelihood, gradient and information of some exposures."""
        design, n_fits = self.design, len(which)
        n_columns = design.values.shape[1]
        all_exposures = n_fits == self.exposures.shape[1]
        exposures = self.exposures if all_exposures else self.exposures[:, which]
        mean, weights = np.empty((2, len(exposures), n_fits))
        products = np.zeros((len(design.pairs[0]), n_fits))
        across = np.zeros((n_columns, n_fits))
        own = np.zeros(n_fits)
        log_likelihood = np.zeros(n_fits)
        blocks = row_blocks(len(exposures), n_fits)
        for rows in blocks:
            columns, exposure = design.values[rows], exposures[rows]
            eta = columns @ parameters[:-1] + exposure * parameters[-1]
            # Of the smaller of the two probabilities, so that no weight becomes zero.
            small = np.exp(-np.abs(eta))
            log_likelihood += np.minimum(
                np.where(self.is_case[rows, None], eta, -eta), 0
            ).sum(axis=0)
            log_likelihood -= np.log1p(small).sum(axis=0)
            whole = 1 + small
            weight = small / (whole * whole)
            weights[rows] = weight
            mean[rows] = np.where(eta < 0, small, 1) / whole
            products += design.products(rows) @ weight
            weighted = exposure * weight
            across += columns.T @ weighted
            own += (exposure * weighted).sum(axis=0)
        information = np.empty((n_fits, n_columns + 1, n_columns + 1))
        information[:, :-1, :-1] = symmetric(products, design)
        information[:, :-1, -1] = information[:, -1, :-1] = across.T
        information[:, -1, -1] = own
        sign, log_determinant = np.linalg.slogdet(information)
        log_likelihood += np.where(sign > 0, log_determinant / 2, -np.inf)
        inverse = np.linalg.pinv(information, hermitian=True)
        gradient = np.zeros((n_columns + 1, n_fits))
        left, right = design.pairs
        # z'Az over the different pairs of columns, those off the diagonal twice
        of_pairs = inverse[:, left, right].T * np.where(left == right, 1, 2)[:, None]
        for rows in blocks:
            columns, exposure, at = design.values[rows], exposures[rows], mean[rows]
            leverage = design.products(rows).T @ of_pairs
            leverage += exposure * (2 * (columns @ inverse[:, :-1, -1].T))
            leverage += exposure * exposure * inverse[:, -1, -1]
            leverage *= weights[rows]
            residual = self.is_case[rows, None] - at + leverage * (0.5 - at)
            gradient[:-1] += columns.T @ residual
            gradient[-1] += (exposure * residual).sum(axis=0)
        return _At(log_likelihood, gradient, information)

    def bound(
        self, full: _Maximum, step: Float64[Array, " exposure"], drop: float
    ) -> Float64[Array, " exposure"]:
        """Where each profile has fallen by `drop` on the side of the maximum of `step`.

        Newton's method on the profile, whose derivative is that of the penalised
        likelihood with the exposure's coefficient held; bracketed, so that it cannot run
        away.
        """
        target = full.log_likelihood - drop
        estimate = full.parameters[-1]
        parameters = full.parameters.copy()
        position = estimate + 2 * step
        near, far = estimate.copy(), np.full(len(step), np.nan)
        found = np.zeros(len(step), dtype=bool)
        usable = np.ones(len(step), dtype=bool)
        for _ in range(MAX_STEPS):
            todo = np.flatnonzero(~found)
            if not len(todo):
                break
            parameters[-1] = position
            profile = self.maximise(
                parameters[:, todo], tolerance=CLOSE, held=True, which=todo
            )
            parameters[:, todo] = profile.parameters
            here, side = position[todo], step[todo]
            above = profile.log_likelihood - target[todo]
            out = (above > 0) & (np.abs(here - estimate[todo]) > FARTHEST)
            ended = (np.abs(above) < ON_BOUND) | out
            found[todo] = ended
            # Beyond `FARTHEST` it is enough that the profile has not fallen so far.
            usable[todo] = profile.converged | out
            near[todo] = np.where(above > 0, here, near[todo])
            far[todo] = np.where(above > 0, far[todo], here)
            inner, outer = near[todo], far[todo]
            with np.errstate(divide="ignore", invalid="ignore"):
                guess = here - above / profile.slope
            guess = np.where(
                profile.slope * side < 0, guess, inner + 2 * (inner - estimate[todo])
            )
            longest = 2 * np.abs(here - estimate[todo]) + np.abs(side)
            reached = np.clip(guess, here - longest, here + longest)
            is_between = (guess > np.fmin(inner, outer)) & (guess < np.fmax(inner, outer))
            guess = np.where(
                np.isnan(outer),
                reached,
                np.where(is_between, guess, (inner + outer) / 2),
            )
            position[todo] = np.where(
                out, np.copysign(np.inf, side), np.where(ended, here, guess)
            )
        return np.where(found & usable, position, np.copysign(np.inf, step))
