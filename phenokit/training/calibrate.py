"""Logits to probabilities, and the threshold of each label, on the validation set.

Platt scaling (Platt 1999): ``P = sigmoid(slope x logit + intercept)``. Labels with few
positives share one slope and intercept, since two numbers cannot be told from a handful of
cases.
"""

import numpy as np
from jaxtyping import Float

from phenokit.evidence.trust import Calibration

MIN_POSITIVES = 20
"""Fewer validation positives than this and a label is calibrated with the others."""


def calibrate(
    logit: Float[np.ndarray, "recording label"],
    labels: Float[np.ndarray, "recording label"],
) -> Calibration:
    """Fit Platt scaling and thresholds.

    Parameters
    ----------
    logit
        Of the validation records.
    labels
        1, 0, NaN for unknown.

    Returns
    -------
    Calibration
        Thresholds maximise F1 of the calibrated probability; 0.5 for a label without a
        validation positive.
    """
    n_labels = logit.shape[1]
    known = ~np.isnan(labels)
    few = np.nansum(labels, axis=0) < MIN_POSITIVES
    slope, intercept = np.ones(n_labels), np.zeros(n_labels)
    if few.any():
        pool = known & few
        slope[few], intercept[few] = fit_platt(logit[pool], labels[pool])
    for label in np.flatnonzero(~few):
        k = known[:, label]
        slope[label], intercept[label] = fit_platt(logit[k, label], labels[k, label])
    unset = Calibration(slope, intercept, np.full(n_labels, 0.5), tuple(few.tolist()))
    probability = unset.probability(logit)
    threshold = np.array(
        [
            best_threshold(probability[known[:, k], k], labels[known[:, k], k])
            for k in range(n_labels)
        ]
    )
    return Calibration(slope, intercept, threshold, unset.pooled)


def best_threshold(
    probability: Float[np.ndarray, " recording"], labels: Float[np.ndarray, " recording"]
) -> float:
    """Probability at and above which F1 is highest; 0.5 without a positive.

    Examples
    --------
    >>> best_threshold(np.array([0.1, 0.4, 0.6, 0.9]), np.array([0.0, 0.0, 1.0, 1.0]))
    0.6
    """
    if not labels.sum():
        return 0.5
    order = np.argsort(-probability, kind="stable")
    score, hit = probability[order], np.cumsum(labels[order])
    f1 = 2 * hit / (np.arange(1, len(hit) + 1) + labels.sum())
    last_of_tie = np.append(score[1:] != score[:-1], True)
    return float(score[np.where(last_of_tie, f1, -1).argmax()])


def fit_platt(
    logit: Float[np.ndarray, " recording"], labels: Float[np.ndarray, " recording"]
) -> tuple[float, float]:
    """Slope and intercept; identity with one outcome only or a slope that would turn."""
    from sklearn.linear_model import LogisticRegression

    if not 0 < labels.sum() < len(labels):
        return 1.0, 0.0
    # a weak ridge keeps the slope finite when the validation set is separated
    fit = LogisticRegression(C=100.0).fit(logit[:, None], labels)
    slope, intercept = float(fit.coef_[0, 0]), float(fit.intercept_[0])
    return (slope, intercept) if slope > 0 else (1.0, 0.0)
