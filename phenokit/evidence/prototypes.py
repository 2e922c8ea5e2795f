"""What a prototype network's logit is made of, prototype by prototype.

A logit is an exact sum: ``logit = sum over prototypes of weight x similarity + bias``
(ProtoECGNet, arXiv 2504.08713). A `Finding` holds every term of that sum, so that what is
shown adds up to what was scored.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

LATENT_STEP = 0.32
"""Seconds between two latent steps: 32 samples at 100 Hz."""


@dataclass(frozen=True)
class Prototype:
    """A learned feature vector that is a piece of one real training recording.

    Attributes
    ----------
    prototype_id
        Position in the order of the column `similarity`.
    branch
        ``"rhythm"``, ``"morphology"`` or ``"global"``.
    label
        The label whose prototype it is (SCP or superclass code).
    dataset, record_id, patient_id, fold
        Where it comes from; `patient_id` is ``None`` where the data set does not say.
    start, stop
        Its window in the source recording, seconds.
    labels
        All positive labels of the source recording, not only the branch's.
    n_same_record
        How many prototypes of this label come from the same recording, itself included.
    receptive_field
        Seconds of signal that the network looked at to make this feature.
    window_steps
        Latent steps of its window; ``None`` where it stands for the whole recording.
    """

    prototype_id: int
    branch: str
    label: str
    dataset: str
    record_id: str
    patient_id: str | None
    fold: int | None
    start: float
    stop: float
    labels: tuple[str, ...]
    n_same_record: int
    receptive_field: float
    window_steps: int | None


@dataclass(frozen=True)
class Match:
    """One prototype beside the patient's best-matching window.

    Attributes
    ----------
    similarity
        Cosine of the prototype and the patient's window; `ceiling` (1) means identical.
    percentile
        Share of training recordings that score lower, 0 to 100.
    weight, contribution
        Weight in the logit, and weight x similarity, in logit units.
    start, stop
        The matched window in the patient's recording, seconds.
    """

    prototype: Prototype
    similarity: float
    ceiling: float
    percentile: float
    weight: float
    contribution: float
    start: float
    stop: float


@dataclass(frozen=True)
class Finding:
    """One label with its probability and every term of its logit.

    Attributes
    ----------
    probability
        Calibrated, 0 to 1.
    threshold
        Probability from which the label counts as present (maximum F1 on validation).
    logit, bias
        ``logit == bias + sum(match.contribution for match in matches)`` to 1e-5.
    matches
        All prototypes, largest absolute contribution first.
    """

    label: str
    probability: float
    threshold: float
    logit: float
    bias: float
    matches: tuple[Match, ...]

    @property
    def is_present(self) -> bool:
        """Whether the probability reaches the threshold."""
        return self.probability >= self.threshold


def contributions(
    similarity: Float[np.ndarray, " prototype"], weight: Float[np.ndarray, " prototype"]
) -> Float[np.ndarray, " prototype"]:
    """Each prototype's share of a logit: weight x similarity, float64."""
    return weight.astype(np.float64) * similarity.astype(np.float64)


def percentile(similarity: float, quantiles: Float[np.ndarray, " quantile"]) -> float:
    """Share of the training recordings that score lower than this, in per cent.

    Parameters
    ----------
    quantiles
        Of the similarity among training recordings, at equal steps from 0 to 1.

    Examples
    --------
    >>> percentile(0.5, np.array([0.0, 0.25, 0.5, 0.75, 1.0]))
    50.0
    """
    steps = np.linspace(0, 100, len(quantiles))
    return float(np.interp(similarity, quantiles, steps))
