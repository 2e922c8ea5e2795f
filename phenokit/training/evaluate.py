"""How well a model does on a named split: discrimination, calibration, intervals.

AUROC and AUPRC of every label and their macro mean with patient-bootstrap intervals; micro
F1, calibration slope and Brier score. One AUROC on the whole split: the mean of per-batch
AUROCs that the published code logs is not one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from phenokit.evidence.rates import wilson_interval

MIN_FOR_SLOPE = 10
"""Positives, and negatives, that a calibration slope needs."""


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval; NaN where it is undefined."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class LabelMetrics:
    """One label on one split; `n` records where it is known, `n_positive` with it.

    Sensitivity and specificity are those at the label's threshold, with Wilson's interval;
    NaN where there is no positive, or no negative.
    """

    label: str
    n: int
    n_positive: int
    auroc: Interval
    auprc: Interval
    brier: float
    calibration_slope: Interval
    sensitivity: Interval
    specificity: Interval


@dataclass(frozen=True)
class Metrics:
    """A whole split: macro means over the labels that `macro_labels` names."""

    macro_auroc: Interval
    macro_auprc: Interval
    macro_labels: tuple[str, ...]
    labels: tuple[LabelMetrics, ...]
    n_records: int
    n_clusters: int
    micro_f1: float
    micro_fmax: float


def auroc(
    labels: Float[np.ndarray, " recording"], score: Float[np.ndarray, " recording"]
) -> float:
    """Area under the ROC curve, ties half; NaN unless both outcomes occur.

    Examples
    --------
    >>> float(auroc(np.array([0.0, 0.0, 1.0, 1.0]), np.array([0.1, 0.4, 0.4, 0.9])))
    0.875
    """
    return float(_bootstrap_auroc(labels, score, np.ones((1, len(labels)), dtype=int))[0])


def auprc(
    labels: Float[np.ndarray, " recording"], score: Float[np.ndarray, " recording"]
) -> float:
    """Average precision; NaN without a positive."""
    return float(_bootstrap_auprc(labels, score, np.ones((1, len(labels)), dtype=int))[0])


def macro_auroc(
    labels: Float[np.ndarray, "recording label"],
    score: Float[np.ndarray, "recording label"],
) -> float:
    """Mean AUROC over the labels with both outcomes."""
    known = ~np.isnan(labels)
    each = [
        auroc(labels[known[:, k], k], score[known[:, k], k]) for k in range(labels.shape[1])
    ]
    return float(np.nanmean(each)) if np.isfinite(each).any() else float("nan")


def patient_resamples(
    patient_ids: Sequence[str | None], *, rng: np.random.Generator, n_resamples: int = 1000
) -> Int[np.ndarray, "resample recording"]:
    """How often each record occurs when patients are drawn with replacement.

    A record without a patient id is a cluster of its own.
    """
    names = [
        f"record {i}" if p is None else f"patient {p}" for i, p in enumerate(patient_ids)
    ]
    cluster = np.unique(names, return_inverse=True)[1]
    n_clusters = cluster.max() + 1
    draws = rng.multinomial(
        n_clusters, np.full(n_clusters, 1 / n_clusters), size=n_resamples
    )
    return draws[:, cluster]


def evaluate_scores(
    labels: Float[np.ndarray, "recording label"],
    probability: Float[np.ndarray, "recording label"],
    label_names: Sequence[str],
    patient_ids: Sequence[str | None],
    *,
    rng: np.random.Generator,
    macro_labels: Sequence[str] | None = None,
    min_positives: int = 1,
    threshold: Float[np.ndarray, " label"] | None = None,
    n_resamples: int = 1000,
) -> Metrics:
    """Metrics of one split.

    Parameters
    ----------
    labels
        1, 0, NaN for unknown: a record counts for the labels that are known.
    probability
        Calibrated.
    macro_labels
        Labels of the macro mean; all by default. Those without both outcomes, or with
        fewer positives than `min_positives`, are left out and not named in the result.
    threshold
        For the micro F1, sensitivity and specificity; 0.5 by default.
    rng
        Draws the bootstrap.
    """
    resamples = patient_resamples(patient_ids, rng=rng, n_resamples=n_resamples)
    cut = np.full(labels.shape[1], 0.5) if threshold is None else threshold
    rows, aurocs, auprcs = [], {}, {}
    for k, name in enumerate(label_names):
        known = ~np.isnan(labels[:, k])
        y, p, w = labels[known, k], probability[known, k], resamples[:, known]
        one = np.ones((1, len(y)), dtype=int)
        roc = np.concatenate([_bootstrap_auroc(y, p, one), _bootstrap_auroc(y, p, w)])
        prc = np.concatenate([_bootstrap_auprc(y, p, one), _bootstrap_auprc(y, p, w)])
        n_positive = int(y.sum())
        is_flagged = p >= cut[k]
        rows.append(
            LabelMetrics(
                name,
                int(known.sum()),
                n_positive,
                _interval(roc),
                _interval(prc),
                float(np.mean((p - y) ** 2)) if len(y) else np.nan,
                _interval(np.concatenate([_slopes(y, p, one), _slopes(y, p, w)])),
                _share(is_flagged[y == 1]),
                _share(~is_flagged[y == 0]),
            )
        )
        wanted = macro_labels is None or name in macro_labels
        if wanted and min_positives <= n_positive < len(y) and n_positive > 0:
            aurocs[name], auprcs[name] = roc, prc
    return Metrics(
        macro_auroc=_interval(_macro(list(aurocs.values()))),
        macro_auprc=_interval(_macro(list(auprcs.values()))),
        macro_labels=tuple(aurocs),
        labels=tuple(rows),
        n_records=len(labels),
        n_clusters=len({p if p is not None else i for i, p in enumerate(patient_ids)}),
        micro_f1=micro_f1(labels, probability >= cut),
        micro_fmax=micro_fmax(labels, probability)[0],
    )


def paired_macro_difference(
    labels: Float[np.ndarray, "recording label"],
    ours: Float[np.ndarray, "row label"],
    other: Float[np.ndarray, "row label"],
    patient_ids: Sequence[str | None],
    *,
    rng: np.random.Generator,
    n_resamples: int = 1000,
) -> Interval:
    """Macro-AUROC of ours minus other, both on the same resamples of patients.

    Rows of `ours` and `other` may repeat the records (several seeds, stacked along the
    first axis): each seed is evaluated alone and the differences are averaged.
    """
    resamples = patient_resamples(patient_ids, rng=rng, n_resamples=n_resamples)
    weights = np.concatenate([np.ones((1, len(labels)), dtype=int), resamples])
    n_seeds = len(ours) // len(labels)

    def macro(score: Float[np.ndarray, "row label"]) -> Float[np.ndarray, " resample"]:
        per_seed = [
            _macro(
                [
                    _bootstrap_auroc(
                        labels[known, k], one_seed[known, k], weights[:, known]
                    )
                    for k in range(labels.shape[1])
                    for known in [~np.isnan(labels[:, k])]
                ]
            )
            for one_seed in np.split(score, n_seeds)
        ]
        return np.mean(per_seed, axis=0)

    return _interval(macro(ours) - macro(other))


def micro_f1(
    labels: Float[np.ndarray, "recording label"],
    present: Bool[np.ndarray, "recording label"],
) -> float:
    """F1 over all known pairs of record and label."""
    known = ~np.isnan(labels)
    y, hat = np.nan_to_num(labels) * known, present * known
    return float(2 * (y * hat).sum() / max(y.sum() + hat.sum(), 1))


def micro_fmax(
    labels: Float[np.ndarray, "recording label"],
    probability: Float[np.ndarray, "recording label"],
) -> tuple[float, float]:
    """Best micro F1 over thresholds 0, 0.01 ... 1, and the first threshold reaching it."""
    grid = np.linspace(0, 1, 101)
    scores = [micro_f1(labels, probability >= t) for t in grid]
    best = int(np.argmax(scores))
    return scores[best], float(grid[best])


def calibration_slope(
    labels: Float[np.ndarray, " recording"], probability: Float[np.ndarray, " recording"]
) -> float:
    """Slope of the outcome's log-odds on the predicted log-odds; 1 is ideal.

    NaN with fewer than 10 positives or negatives, or where they are separated.
    """
    return float(_slopes(labels, probability, np.ones((1, len(labels)), dtype=int))[0])


def _slopes(
    labels: Float[np.ndarray, " recording"],
    probability: Float[np.ndarray, " recording"],
    weights: Int[np.ndarray, "resample recording"],
) -> Float[np.ndarray, " resample"]:
    """Calibration slope under each row of integer weights, by Newton's method."""
    n_positive, n_negative = weights @ (labels == 1), weights @ (labels == 0)
    enough = np.minimum(n_positive, n_negative) >= MIN_FOR_SLOPE
    p = np.clip(probability, 1e-9, 1 - 1e-9)
    x = np.log(p / (1 - p))
    slope, intercept = np.ones(len(weights)), np.zeros(len(weights))
    for _ in range(30):
        mean = 1 / (1 + np.exp(-(slope[:, None] * x + intercept[:, None])))
        residual = weights * (labels - mean)
        curvature = weights * mean * (1 - mean)
        a, b, c = curvature @ (x * x), curvature @ x, curvature.sum(1)
        determinant = np.maximum(a * c - b * b, 1e-12)
        g, h = residual @ x, residual.sum(1)
        # steps are cut: with separated outcomes the slope has no end
        slope = slope + np.clip((c * g - b * h) / determinant, -1, 1)
        intercept = intercept + np.clip((a * h - b * g) / determinant, -2, 2)
    return np.where(enough & (np.abs(slope) < 25), slope, np.nan)


def _interval(draws: Float[np.ndarray, " resample"]) -> Interval:
    """First entry as the estimate, 2.5 % and 97.5 % of the others."""
    others = draws[1:][~np.isnan(draws[1:])]
    if np.isnan(draws[0]) or len(others) < 0.9 * len(draws[1:]):
        return Interval(float(draws[0]), float("nan"), float("nan"))
    low, high = np.quantile(others, [0.025, 0.975])
    return Interval(float(draws[0]), float(low), float(high))


def _share(is_right: Bool[np.ndarray, " recording"]) -> Interval:
    """How many are right, with Wilson's interval; it holds where all are."""
    n = len(is_right)
    low, high = wilson_interval(np.array([is_right.sum()]), np.array([n]))
    value = float(is_right.mean()) if n else float("nan")
    return Interval(value, float(low[0]), float(high[0]))


def _macro(
    draws: Sequence[Float[np.ndarray, " resample"]],
) -> Float[np.ndarray, " resample"]:
    """Mean over the labels that are defined in each resample."""
    if not draws:
        return np.full(1, np.nan)
    stacked = np.stack(draws)
    defined = ~np.isnan(stacked)
    total = np.where(defined, stacked, 0).sum(0)
    return np.where(defined.any(0), total / np.maximum(defined.sum(0), 1), np.nan)


def _bootstrap_auroc(
    labels: Float[np.ndarray, " recording"],
    score: Float[np.ndarray, " recording"],
    weights: Int[np.ndarray, "resample recording"],
) -> Float[np.ndarray, " resample"]:
    """AUROC under each row of integer weights: one sort serves all resamples."""
    order = np.argsort(score, kind="stable")
    y, s, w = labels[order], score[order], weights[:, order]
    starts = (
        np.flatnonzero(np.append(True, s[1:] != s[:-1])) if len(s) else np.zeros(0, int)
    )
    if not len(starts):
        return np.full(len(weights), np.nan)
    positive = np.add.reduceat(w * (y == 1), starts, axis=1)
    negative = np.add.reduceat(w * (y == 0), starts, axis=1)
    below = np.cumsum(negative, axis=1) - negative
    wins = (positive * (below + 0.5 * negative)).sum(1)
    pairs = positive.sum(1) * negative.sum(1)
    return np.where(pairs > 0, wins / np.maximum(pairs, 1), np.nan)


def _bootstrap_auprc(
    labels: Float[np.ndarray, " recording"],
    score: Float[np.ndarray, " recording"],
    weights: Int[np.ndarray, "resample recording"],
) -> Float[np.ndarray, " resample"]:
    """Average precision under each row of integer weights."""
    order = np.argsort(-score, kind="stable")
    y, s, w = labels[order], score[order], weights[:, order]
    starts = (
        np.flatnonzero(np.append(True, s[1:] != s[:-1])) if len(s) else np.zeros(0, int)
    )
    if not len(starts):
        return np.full(len(weights), np.nan)
    positive = np.add.reduceat(w * (y == 1), starts, axis=1)
    every = np.add.reduceat(w, starts, axis=1)
    hits, seen = np.cumsum(positive, axis=1), np.cumsum(every, axis=1)
    precision = hits / np.maximum(seen, 1)
    total = hits[:, -1]
    return np.where(total > 0, (precision * positive).sum(1) / np.maximum(total, 1), np.nan)
