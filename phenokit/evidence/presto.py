"""Risk of a late, rare stage that borrows strength from the earlier ones: PRESTO.

Where an outcome is a sequence (test, biopsy, cancer) each step has a logit of its own,

    log P(stage >= k | x) / P(stage < k | x) = a_k + x w_k,      k = 1 ... K - 1,

and the weights of neighbouring steps are drawn together by an L1 penalty,

    minimise   -mean log P(stage | x) + penalty * sum_k>1 |w_k - w_(k-1)|_1

(Faletto & Bien, ICML 2023, arXiv 2305.18700), with weights of standardised features. At a
large penalty all steps share their weights, which is the proportional odds model; without a
penalty nothing is shared, and each step is a logistic regression.

Departures from the paper: the weights of the first step are not penalised themselves, so
that a large penalty ends at proportional odds and not at no effect; and a penalty of
exactly 0 fits the logits one by one, which exists where the joint likelihood has no
maximum because steps would cross. It does not treat selective testing.
"""

import numpy as np
from jaxtyping import Float, Float64, Int64, Shaped
from scipy import special
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import NotFittedError

from phenokit.errors import AnalysisRefused, BadInput

MAX_STEPS = 200
MAX_SWEEPS = 2000
SETTLED = 1e-10
"""Largest distance of a derivative from where it should be, a row and standardised."""
SEPARATED = 1e-10
"""Information a row below which an estimate has run away to infinity."""

Array = np.ndarray


class Presto(ClassifierMixin, BaseEstimator):
    """Ordinal regression whose steps share weights as far as the penalty asks.

    Parameters
    ----------
    penalty
        Of the differences of neighbouring steps, for standardised features and a mean over
        patients; 0 for separate logits. Above `penalty_max_` of a fit nothing changes.

    Attributes
    ----------
    classes_
        The stages, ascending.
    intercept_, coef_
        ``(step,)`` and ``(step, feature)``, log odds of getting to the stage or beyond it,
        a unit of the feature. Step k leads to ``classes_[k + 1]``.
    penalty_max_
        The smallest penalty at which all steps share their weights.
    n_features_in_, n_iter_
        As in scikit-learn.

    Examples
    --------
    >>> X = np.random.default_rng(0).normal(size=(300, 1))
    >>> noise = np.random.default_rng(1).logistic(size=300)
    >>> stage = np.digitize(X[:, 0] + noise, [0.0, 3.0])
    >>> model = Presto(penalty=1.0).fit(X, stage)
    >>> bool(model.coef_[0, 0] == model.coef_[1, 0])
    True
    """

    def __init__(self, penalty: float = 0.01) -> None:
        self.penalty = penalty

    def fit(
        self, X: Float[Array, "patient feature"], y: Shaped[Array, " patient"]
    ) -> "Presto":
        """Fit the steps.

        Parameters
        ----------
        X
            Features, none missing.
        y
            The last stage that each patient reached; numbers or text whose ascending order
            is that of the stages.

        Raises
        ------
        BadInput
            ``E_NONFINITE`` or ``E_RANGE``, naming the column by its number from 1: a value
            is missing, a column is constant or repeats others.
        AnalysisRefused
            With a single stage, or where a step is separated by the features, so that its
            weights have no end.
        """
        if not self.penalty >= 0:
            raise ValueError(f"the penalty must be at least 0, not {self.penalty}")
        features = X.astype(np.float64)
        _check(features)
        self.classes_, place = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise AnalysisRefused("All patients are at one stage; nothing can be told.")
        centre, spread = features.mean(axis=0), features.std(axis=0)
        steps = _Steps((features - centre) / spread, place.astype(np.int64))
        shared = _fit_shared(steps)
        self.penalty_max_ = float(
            np.abs(steps.derivatives(shared)[0][1:, 1:]).max(initial=0)
        )
        self.n_iter_ = 0
        if self.penalty == 0:
            found = _fit_separately(steps)
        elif self.penalty >= self.penalty_max_:
            found = shared
        else:
            found, self.n_iter_ = _fit_penalised(steps, shared, float(self.penalty))
        self.coef_ = np.cumsum(found[:, 1:], axis=0) / spread
        self.intercept_ = found[:, 0] - self.coef_ @ centre
        self.n_features_in_ = features.shape[1]
        return self

    def predict_proba(
        self, X: Float[Array, "patient feature"]
    ) -> Float64[Array, "patient stage"]:
        """P(last stage = k) for each patient; rows add up to 1.

        Where the fitted steps of a patient cross, so that a later stage would be likelier
        than to get there, getting there is as likely as the earlier step allows.
        """
        if not hasattr(self, "coef_"):
            raise NotFittedError("This Presto is not fitted yet; call fit first.")
        if X.shape[1] != self.n_features_in_:
            raise ValueError(f"{X.shape[1]} features; the model has {self.n_features_in_}")
        beyond = special.expit(X @ self.coef_.T + self.intercept_)
        beyond = np.minimum.accumulate(beyond, axis=1)
        ends = np.ones((len(X), 1))
        return -np.diff(np.hstack([ends, beyond, 0 * ends]), axis=1)

    def predict(self, X: Float[Array, "patient feature"]) -> Shaped[Array, " patient"]:
        """The most likely stage of each patient."""
        return self.classes_[np.argmax(self.predict_proba(X), axis=1)]


def _check(features: Float64[Array, "patient feature"]) -> None:
    for k, column in enumerate(features.T, start=1):
        where = f"column {k}"
        if not np.isfinite(column).all():
            row = int(np.flatnonzero(~np.isfinite(column))[0]) + 1
            raise BadInput(
                "E_NONFINITE",
                f"A value is missing in column {k} (row {row}).",
                where=f"{where}, row {row}",
            )
        if column.std() <= 1e-12 * np.abs(column).max(initial=0):
            raise BadInput("E_RANGE", f"Column {k} does not vary.", where=where)
    scaled = (features - features.mean(axis=0)) / features.std(axis=0)
    left = np.abs(np.diag(np.linalg.qr(scaled, mode="r")))
    repeats = np.flatnonzero(left < 1e-7 * np.sqrt(len(features)))
    if len(repeats) or len(left) < features.shape[1]:
        k = int(repeats[0] if len(repeats) else len(left)) + 1
        raise BadInput(
            "E_RANGE", f"Column {k} repeats the ones before it.", where=f"column {k}"
        )


# --- the likelihood -----------------------------------------------------------------------


class _Steps:
    """Minus the mean log-likelihood, with parameters ``(step, 1 + feature)``.

    A row is the step's intercept and the difference of its weights from the step before;
    the first row holds the first step's weights themselves.
    """

    def __init__(
        self, features: Float64[Array, "patient feature"], stage: Int64[Array, " patient"]
    ) -> None:
        self.design = np.column_stack([np.ones(len(features)), features])
        self.stage = stage
        self.n_steps = int(stage.max())
        self.shape = (self.n_steps, self.design.shape[1])
        # From parameters to the intercept and weights of each step.
        adds_up = np.tril(np.ones((self.n_steps, self.n_steps)))
        is_weight = np.eye(self.shape[1])
        is_weight[0, 0] = 0
        intercepts = np.zeros_like(is_weight)
        intercepts[0, 0] = 1
        self.to_steps = np.kron(adds_up, is_weight)
        self.to_steps += np.kron(np.eye(self.n_steps), intercepts)

    def linear(self, found: Array) -> Float64[Array, "patient step"]:
        """Linear predictor of each step."""
        return self.design @ (self.to_steps @ found.ravel()).reshape(self.shape).T

    def value(self, found: Array) -> float:
        """Infinite where two steps cross in a patient between them."""
        eta = self.linear(found)
        upper, lower = self._sides(eta)
        if (lower >= upper).any():
            return float("inf")
        with np.errstate(over="ignore"):
            log_p = special.log_expit(upper) + special.log_expit(-lower)
            log_p += np.log(-np.expm1(lower - upper))
        return -float(log_p.mean())

    def _sides(self, eta: Array) -> tuple[Array, Array]:
        """Linear predictors of the step that was taken and of the one that was not."""
        rows, n = np.arange(len(eta)), len(eta)
        edge = np.full((n, 1), np.inf)
        padded = np.hstack([edge, eta, -edge])
        return padded[rows, self.stage], padded[rows, self.stage + 1]

    def derivatives(self, found: Array) -> tuple[Array, Array]:
        """Gradient of `value`, and its Hessian with the parameters row by row."""
        eta = self.linear(found)
        upper, lower = self._sides(eta)
        # log P = log s(u) + log s(-l) + log(1 - e^-(u - l)), u above l.
        with np.errstate(over="ignore"):
            odds = 1 / np.expm1(upper - lower)
        below, above = special.expit(-upper), special.expit(lower)
        both = odds * (1 + odds)
        n, k = len(eta), self.n_steps
        first = np.zeros((n, k + 2))
        second, across = np.zeros((n, k + 2)), np.zeros((n, k + 2))
        rows = np.arange(n)
        first[rows, self.stage] = below + odds
        first[rows, self.stage + 1] = -above - odds
        second[rows, self.stage] = below * (1 - below) + both
        second[rows, self.stage + 1] = above * (1 - above) + both
        across[rows, self.stage] = -both
        width = self.shape[1]
        hessian = np.zeros((k * width, k * width))
        for step in range(k):
            here = slice(step * width, (step + 1) * width)
            weighted = self.design * second[:, step + 1, None]
            hessian[here, here] = self.design.T @ weighted
            if step + 1 < k:
                after = slice(here.stop, here.stop + width)
                block = self.design.T @ (self.design * across[:, step + 1, None])
                hessian[here, after] = block
                hessian[after, here] = block
        gradient = -(first[:, 1:-1].T @ self.design).ravel()
        hessian = self.to_steps.T @ hessian @ self.to_steps
        return (self.to_steps.T @ gradient).reshape(self.shape) / n, hessian / n


# --- the fits -----------------------------------------------------------------------------


def _fit_shared(steps: _Steps) -> Float64[Array, "step parameter"]:
    """Proportional odds: intercepts, and the first step's weights for all."""
    found = np.zeros(steps.shape)
    beyond = np.array([(steps.stage > k).mean() for k in range(steps.n_steps)])
    found[:, 0] = special.logit(beyond)
    is_free = np.zeros(steps.shape, dtype=bool)
    is_free[:, 0] = is_free[0] = True
    return _minimise(steps, found, is_free)[0]


def _fit_separately(steps: _Steps) -> Float64[Array, "step parameter"]:
    """A logistic regression of each step."""
    own = np.zeros(steps.shape)
    for k in range(steps.n_steps):
        one = _Steps(steps.design[:, 1:], (steps.stage > k).astype(np.int64))
        own[k] = _fit_shared(one)[0]
    own[:, 1:] = np.diff(own[:, 1:], axis=0, prepend=0)
    return own


def _fit_penalised(
    steps: _Steps, start: Float64[Array, "step parameter"], penalty: float
) -> tuple[Float64[Array, "step parameter"], int]:
    """PRESTO, from the shared weights."""
    return _minimise(steps, start, np.ones(steps.shape, dtype=bool), penalty)


def _minimise(
    steps: _Steps, found: Array, is_free: Array, penalty: float = 0.0
) -> tuple[Float64[Array, "step parameter"], int]:
    """Proximal Newton: minimise the likelihood's quadratic and the penalty, then step.

    Without a penalty that is Newton's method.
    """
    free = np.flatnonzero(is_free.ravel())
    is_penalised = np.zeros(steps.shape, dtype=bool)
    is_penalised[1:, 1:] = penalty > 0
    is_penalised = is_penalised.ravel()[free]

    def objective(at: Array) -> float:
        return steps.value(at) + penalty * np.abs(at.ravel()[free][is_penalised]).sum()

    value = objective(found)
    for n_steps in range(1, MAX_STEPS + 1):
        gradient, hessian = steps.derivatives(found)
        gradient, hessian = gradient.ravel()[free], hessian[np.ix_(free, free)]
        here = found.ravel()[free]
        if np.linalg.eigvalsh(hessian)[0] < SEPARATED:
            break
        if _distance(gradient, here, is_penalised, penalty) < SETTLED:
            return found, n_steps - 1
        change = np.zeros(found.size)
        change[free] = _quadratic_step(gradient, hessian, here, is_penalised, penalty)
        change = change.reshape(found.shape)
        while (there := objective(found + change)) > value + 1e-14 * abs(value):
            change = change / 2
        found, value = found + change, there
    raise AnalysisRefused(
        "A step is separated by the features: its weights have no end. Leave the feature "
        "out, or join stages.",
        code="N_NOT_CONVERGED",
    )


def _distance(gradient: Array, here: Array, is_penalised: Array, penalty: float) -> float:
    """How far the derivatives are from those of a minimum."""
    at_zero = np.maximum(np.abs(gradient) - penalty, 0)
    elsewhere = np.abs(gradient + penalty * np.sign(here))
    left = np.where(here == 0, at_zero, elsewhere)
    return float(np.where(is_penalised, left, np.abs(gradient)).max())


def _quadratic_step(
    gradient: Array, hessian: Array, here: Array, is_penalised: Array, penalty: float
) -> Array:
    """Minimise g d + d H d / 2 + penalty |here + d| over d."""
    change = np.zeros_like(here)
    free, held = np.flatnonzero(~is_penalised), np.flatnonzero(is_penalised)
    across = hessian[np.ix_(held, free)]
    # What is not penalised follows the rest: eliminate it, then coordinate by coordinate.
    follows = np.linalg.solve(hessian[np.ix_(free, free)], across.T).T
    reduced = hessian[np.ix_(held, held)] - follows @ across.T
    slope = gradient[held] - follows @ gradient[free]
    target = here[held].copy()
    left = slope.copy()  # derivative of the quadratic at the current target
    for _ in range(MAX_SWEEPS if len(held) else 0):
        largest = 0.0
        for j in range(len(held)):
            curvature = reduced[j, j]
            aim = target[j] - left[j] / curvature
            new = np.sign(aim) * max(abs(aim) - penalty / curvature, 0.0)
            if new != target[j]:
                left += reduced[:, j] * (new - target[j])
                largest = max(largest, abs(new - target[j]))
                target[j] = new
        if largest < 1e-13:
            break
    change[held] = target - here[held]
    change[free] = -np.linalg.solve(
        hessian[np.ix_(free, free)], gradient[free] + across.T @ change[held]
    )
    return change
