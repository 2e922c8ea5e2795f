"""The linear heads over similarities: branch classifiers and the fused head.

Their inputs are fixed once prototypes are projected, so each label is a convex problem:
weighted logistic regression with an L1 penalty, solved to convergence in float64 by the
accelerated proximal gradient method (Beck & Teboulle 2009, doi:10.1137/080716542) for all
labels at once. The published code runs Adam for a number of epochs.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float


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
    pos_weight: Float[np.ndarray, " label"] | None = None,
    max_iterations: int = 3000,
    tolerance: float = 1e-7,
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
    pos_weight
        Weight of a positive, one a label.

    Returns
    -------
    LinearHead
        A label without both outcomes gets weights 0 and the log-odds of its share.
    """
    X = similarity.astype(np.float64)
    center, scale = X.mean(0), X.std(0)
    scale = np.where(scale > 1e-9, scale, 1.0)
    X = (X - center) / scale
    known = ~np.isnan(labels)
    y = np.nan_to_num(labels.astype(np.float64))
    weight_of_positive = np.ones(y.shape[1]) if pos_weight is None else pos_weight
    row_weight = known * np.where(y == 1, weight_of_positive, 1.0)
    row_weight = row_weight / np.maximum(row_weight.sum(0), 1e-12)
    penalty = l1 * (np.ones((y.shape[1], X.shape[1])) if penalised is None else penalised)

    share = (row_weight * y).sum(0).clip(1e-6, 1 - 1e-6)
    both = ((y * known).sum(0) > 0) & (((1 - y) * known).sum(0) > 0)
    W = np.zeros((y.shape[1], X.shape[1]))
    b = np.log(share / (1 - share))
    # Lipschitz bound of the gradient, a label: the curvature of the loss is at most 1/4
    design = np.concatenate([X, np.ones((len(X), 1))], axis=1)
    lipschitz = np.array(
        [
            0.25 * np.linalg.norm(design * np.sqrt(w)[:, None], 2) ** 2 + l2
            for w in row_weight.T
        ]
    )
    step = 1.0 / np.maximum(lipschitz, 1e-12)
    V, c, momentum = W, b, 1.0
    for _ in range(max_iterations):
        probability = 1.0 / (1.0 + np.exp(-(X @ V.T + c)))
        residual = row_weight * (probability - y)
        W_next = V - step[:, None] * (residual.T @ X + l2 * V)
        W_next = np.sign(W_next) * np.maximum(np.abs(W_next) - step[:, None] * penalty, 0)
        b_next = c - step * residual.sum(0)
        W_next, b_next = W_next * both[:, None], np.where(both, b_next, b)
        momentum_next = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        beta = (momentum - 1) / momentum_next
        V, c = W_next + beta * (W_next - W), b_next + beta * (b_next - b)
        change = max(np.abs(W_next - W).max(), np.abs(b_next - b).max())
        W, b, momentum = W_next, b_next, momentum_next
        if change < tolerance:
            break
    return LinearHead(W / scale, b - (W / scale) @ center)
