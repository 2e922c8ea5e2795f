"""The linear heads over similarities: branch classifiers and the fused head.

Their inputs are fixed once prototypes are projected, so each label is a convex problem:
weighted logistic regression with an L1 penalty, solved to convergence in float64 by the
proximal Newton method (Lee, Sun & Saunders 2014, doi:10.1137/130921428), its quadratic by
accelerated proximal gradients (Beck & Teboulle 2009, doi:10.1137/080716542). The published
code runs Adam for a number of epochs.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int


@dataclass(frozen=True)
class LinearHead:
    """``logit = similarity @ weight.T + bias``."""

    weight: Float[np.ndarray, "label prototype"]
    bias: Float[np.ndarray, " label"]


def fit_head(
    similarity: Float[np.ndarray, "recording prototype"],
    labels: Float[np.ndarray, "recording label"],
    *,
    l1: float,
    l2: float = 0.0,
    penalised: Float[np.ndarray, "label prototype"] | None = None,
    sign: Int[np.ndarray, "label prototype"] | None = None,
    pos_weight: Float[np.ndarray, " label"] | None = None,
    max_steps: int = 50,
    tolerance: float = 1e-8,
) -> LinearHead:
    """Fit one logistic regression a label on the records where it is known.

    Parameters
    ----------
    similarity
        Shape ``(recording, prototype)``; standardised inside, so that the penalty treats
        all prototypes alike, and undone in the result.
    labels
        1, 0, NaN for unknown.
    l1, l2
        Penalty on the absolute and half the squared weights of standardised similarities,
        relative to the mean loss. The bias is not penalised.
    penalised
        Factor on the L1 penalty of each weight; 0 leaves a weight free.
    sign
        1 where a weight must not be below 0, -1 where not above, 0 where it must be 0; any
        by default.
    pos_weight
        Weight of a positive, one a label.
    max_steps, tolerance
        Newton steps at most, and the change of the objective that ends them.

    Returns
    -------
    LinearHead
        A label without both outcomes gets weights 0 and the log-odds of its share.
    """
    X = similarity.astype(np.float64)
    center, scale = X.mean(0), X.std(0)
    scale = np.where(scale > 1e-9, scale, 1.0)
    design = np.concatenate([(X - center) / scale, np.ones((len(X), 1))], axis=1)
    n_labels, n_weights = labels.shape[1], X.shape[1]
    factor = np.ones((n_labels, n_weights)) if penalised is None else penalised
    weight = np.zeros((n_labels, n_weights))
    bias = np.zeros(n_labels)
    for k in range(n_labels):
        known = ~np.isnan(labels[:, k])
        y = labels[known, k].astype(np.float64)
        importance = np.where(y == 1, 1.0 if pos_weight is None else pos_weight[k], 1.0)
        importance = importance / max(importance.sum(), 1e-12)
        share = np.clip(importance @ y, 1e-6, 1 - 1e-6)
        start = np.append(np.zeros(n_weights), np.log(share / (1 - share)))
        if 0 < y.sum() < len(y):
            problem = _Problem(
                design[known],
                y,
                importance,
                np.append(l1 * factor[k], 0.0),
                np.append(np.full(n_weights, l2), 0.0),
                *_bounds(None if sign is None else sign[k], n_weights),
            )
            start = _proximal_newton(problem, start, max_steps, tolerance)
        weight[k] = start[:-1] / scale
        bias[k] = start[-1] - weight[k] @ center
    return LinearHead(weight, bias)


def _bounds(
    sign: Int[np.ndarray, " weight"] | None, n_weights: int
) -> tuple[Float[np.ndarray, " coefficient"], Float[np.ndarray, " coefficient"]]:
    """Lowest and highest value of each weight, and of the bias, which is free."""
    if sign is None:
        return np.full(n_weights + 1, -np.inf), np.full(n_weights + 1, np.inf)
    low = np.append(np.where(sign < 0, -np.inf, 0.0), -np.inf)
    high = np.append(np.where(sign > 0, np.inf, 0.0), np.inf)
    return low, high


@dataclass(frozen=True)
class _Problem:
    """Weighted logistic loss; penalties and bounds, one of each a coefficient."""

    design: Float[np.ndarray, "recording coefficient"]
    outcome: Float[np.ndarray, " recording"]
    importance: Float[np.ndarray, " recording"]
    l1: Float[np.ndarray, " coefficient"]
    l2: Float[np.ndarray, " coefficient"]
    low: Float[np.ndarray, " coefficient"]
    high: Float[np.ndarray, " coefficient"]

    def objective(self, beta: Float[np.ndarray, " coefficient"]) -> float:
        z = self.design @ beta
        loss = self.importance @ (np.logaddexp(0, z) - self.outcome * z)
        return float(loss + self.l1 @ np.abs(beta) + 0.5 * self.l2 @ beta**2)

    def quadratic(
        self, beta: Float[np.ndarray, " coefficient"]
    ) -> tuple[
        Float[np.ndarray, " coefficient"], Float[np.ndarray, "coefficient coefficient"]
    ]:
        """Gradient and Hessian of the smooth part."""
        probability = 1.0 / (1.0 + np.exp(-self.design @ beta))
        gradient = self.design.T @ (self.importance * (probability - self.outcome))
        curvature = self.importance * probability * (1 - probability)
        hessian = (self.design.T * curvature) @ self.design
        return gradient + self.l2 * beta, hessian + np.diag(self.l2 + 1e-10)


def _proximal_newton(
    problem: _Problem,
    beta: Float[np.ndarray, " coefficient"],
    max_steps: int,
    tolerance: float,
) -> Float[np.ndarray, " coefficient"]:
    value = problem.objective(beta)
    for _ in range(max_steps):
        gradient, hessian = problem.quadratic(beta)
        target = _penalised_quadratic(gradient, hessian, problem, beta)
        length = 1.0
        while length > 1e-6:
            candidate = beta + length * (target - beta)
            next_value = problem.objective(candidate)
            if next_value <= value:
                break
            length /= 2
        else:
            return beta
        improvement, beta, value = value - next_value, candidate, next_value
        if improvement < tolerance:
            break
    return beta


def _penalised_quadratic(
    gradient: Float[np.ndarray, " coefficient"],
    hessian: Float[np.ndarray, "coefficient coefficient"],
    problem: _Problem,
    beta: Float[np.ndarray, " coefficient"],
    *,
    iterations: int = 1000,
    tolerance: float = 1e-9,
) -> Float[np.ndarray, " coefficient"]:
    """Minimum of ``g'd + d'Hd/2 + l1'|beta + d|`` within the bounds, as ``beta + d``."""
    step = 1.0 / np.linalg.eigvalsh(hessian)[-1]
    x, extrapolated, momentum = beta, beta, 1.0
    for _ in range(iterations):
        slope = gradient + hessian @ (extrapolated - beta)
        moved = extrapolated - step * slope
        x_next = np.sign(moved) * np.maximum(np.abs(moved) - step * problem.l1, 0)
        x_next = np.clip(x_next, problem.low, problem.high)
        momentum_next = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        extrapolated = x_next + (momentum - 1) / momentum_next * (x_next - x)
        change = np.abs(x_next - x).max()
        x, momentum = x_next, momentum_next
        if change < tolerance:
            break
    return x
