"""From a recording to findings: one line a step. Read this first."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from phenokit.errors import Outcome
from phenokit.evidence.prototypes import Finding
from phenokit.preprocessing.quality import Quality


@dataclass(frozen=True)
class ScoredECG:
    """What became of one ECG.

    Attributes
    ----------
    outcome, code, all_codes, message
        The outcome, its first code, every code that holds, and a sentence for a clinician.
    quality
        Verdict lead by lead; ``None`` where the file could not be read.
    probability, logit
        Shape ``(label,)``; NaN where the recording was rejected or abstained from.
    similarity
        Shape ``(prototype,)``, at most 1; NaN as above.
    window
        Index of the best window of each prototype, shape ``(prototype,)``.
    """

    record_id: str
    outcome: Outcome
    code: str
    all_codes: tuple[str, ...]
    message: str
    model: str
    bundle_hash: str
    labels: tuple[str, ...]
    quality: Quality | None
    probability: Float[np.ndarray, " label"]
    logit: Float[np.ndarray, " label"]
    similarity: Float[np.ndarray, " prototype"]
    window: Int[np.ndarray, " prototype"]


@dataclass(frozen=True)
class Explanation:
    """A scored ECG and, by falling probability, its findings with their prototypes."""

    scored: ScoredECG
    findings: tuple[Finding, ...]
