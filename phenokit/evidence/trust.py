"""How far a score may be believed: its calibration, and whether the recording is familiar.

Distance from the training set: Mahalanobis on l2-normalised features with class means and a
shared shrunk covariance ("Mahalanobis++", arXiv 2505.18032). Not universally reliable
(arXiv 2510.15202): it says that a recording is unlike the training set, not that it is
wrong.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

WHITENING_ROWS = 128
"""Rows of a whitening that are used for all recordings before the next are read."""


@dataclass(frozen=True)
class Calibration:
    """Slope, intercept and threshold of each label, and which labels were pooled."""

    slope: Float[np.ndarray, " label"]
    intercept: Float[np.ndarray, " label"]
    threshold: Float[np.ndarray, " label"]
    pooled: tuple[bool, ...]

    def probability(
        self, logit: Float[np.ndarray, "*batch label"]
    ) -> Float[np.ndarray, "*batch label"]:
        """Calibrated P(label); NaN stays NaN."""
        z = self.slope * logit.astype(np.float64) + self.intercept
        with np.errstate(over="ignore"):  # a logit of -1000 is a probability of 0
            return 1.0 / (1.0 + np.exp(-z))

    def to_dict(self) -> dict[str, Any]:
        """As plain data for ``calibration.json``."""
        return {
            "method": "Platt scaling on validation; labels with few positives share one",
            "slope": self.slope.tolist(),
            "intercept": self.intercept.tolist(),
            "threshold": self.threshold.tolist(),
            "pooled": list(self.pooled),
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Calibration":
        """From what `to_dict` wrote."""
        arrays = (
            np.array(data[k], dtype=float) for k in ("slope", "intercept", "threshold")
        )
        return cls(*arrays, pooled=tuple(data["pooled"]))


@dataclass(frozen=True)
class Trust:
    """Out-of-distribution statistics of a model.

    Attributes
    ----------
    means
        Mean features of each class, shape ``(class, feature)``.
    whitening
        Inverse of the Cholesky factor of the shared covariance, ``(feature, feature)``.
    threshold
        Distance above which the model abstains.
    similarity_quantiles
        Of each prototype's similarity among training recordings, at equal steps from 0 to
        1, shape ``(prototype, quantile)``.
    """

    means: Float[np.ndarray, "class feature"]
    whitening: Float[np.ndarray, "feature feature"]
    threshold: float
    similarity_quantiles: Float[np.ndarray, "prototype quantile"]

    def distance(self, features: Float[np.ndarray, " feature"]) -> float:
        """Squared Mahalanobis distance to the nearest class mean."""
        return float(self.distances(features[np.newaxis])[0])

    def distances(
        self, features: Float[np.ndarray, "recording feature"]
    ) -> Float[np.ndarray, " recording"]:
        """`distance` of each recording: the same bits, whatever the others are.

        Each recording has products of its own, always of one shape. The whitening is the
        largest array there is: a part of it at a time stays near the processor.
        """
        away = features[:, np.newaxis].astype(np.float64) - self.means
        # the product in the type of the whitening: converting it would cost more
        away = away.astype(self.whitening.dtype)
        squared = np.zeros(away.shape[:2])  # (recording, class)
        for first in range(0, len(self.whitening), WHITENING_ROWS):
            rows = self.whitening[first : first + WHITENING_ROWS].T
            for own, one in zip(squared, away, strict=True):
                own += np.square(one @ rows, dtype=np.float64).sum(axis=1)
        return squared.min(axis=1)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """By name, for ``trust.safetensors``."""
        return {
            "means": self.means,
            "whitening": self.whitening.astype(np.float32),  # the largest part of a bundle
            "threshold": np.array([self.threshold]),
            "similarity_quantiles": self.similarity_quantiles,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> "Trust":
        """From what `to_arrays` gave."""
        return cls(
            means=arrays["means"],
            whitening=arrays["whitening"],
            threshold=float(arrays["threshold"][0]),
            similarity_quantiles=arrays["similarity_quantiles"],
        )


def fit_trust(
    features: Float[np.ndarray, "recording feature"],
    labels: Float[np.ndarray, "recording class"],
    validation: Float[np.ndarray, "validation feature"],
    similarity: Float[np.ndarray, "recording prototype"],
    *,
    false_positive_rate: float = 0.01,
    shrinkage: float = 0.1,
) -> Trust:
    """Statistics of the training set, and the limit that few validation records exceed.

    Parameters
    ----------
    features
        Of training recordings, each branch l2-normalised.
    labels
        Class memberships, 1 or 0; a recording belongs to each class it has, those without
        any to one more class.
    validation
        Features of validation recordings: their quantile sets the threshold.
    similarity
        Of training recordings, for the percentiles on the page.
    shrinkage
        Share of the covariance that is replaced by its mean variance.
    """
    member = np.nan_to_num(labels) == 1
    member = np.column_stack([member, ~member.any(1)])
    member = member[:, member.sum(0) > 1]
    X = features.astype(np.float64)
    means = np.stack([X[m].mean(0) for m in member.T])
    residuals = np.concatenate(
        [X[m] - mean for m, mean in zip(member.T, means, strict=True)]
    )
    covariance = residuals.T @ residuals / len(residuals)
    scale = np.trace(covariance) / len(covariance)
    covariance = (1 - shrinkage) * covariance + shrinkage * scale * np.eye(len(covariance))
    whitening = np.linalg.inv(np.linalg.cholesky(covariance))
    quantiles = np.quantile(similarity, np.linspace(0, 1, 101), axis=0).T
    trust = Trust(means, whitening, np.inf, quantiles)
    distances = [trust.distance(row) for row in validation]
    threshold = float(np.quantile(distances, 1 - false_positive_rate))
    return Trust(means, whitening, threshold, quantiles)
