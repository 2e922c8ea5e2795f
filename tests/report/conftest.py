import numpy as np
import pytest

from phenokit.errors import Outcome
from phenokit.evidence.prototypes import Finding, Match, Prototype
from phenokit.pipeline import Explanation, ScoredECG


def match(number: int, weight: float, similarity: float) -> Match:
    prototype = Prototype(
        prototype_id=number, branch="morphology", label="CRBBB", dataset="simulated",
        record_id=f"sim-{number}", patient_id=None, fold=3, start=2.0, stop=2.96,
        labels=("CRBBB", "SR"), n_same_record=2, receptive_field=1.3, window_steps=3,
    )  # fmt: skip
    return Match(prototype, similarity, 1.0, 98.7, weight, weight * similarity, 1.28, 2.24)


@pytest.fixture
def finding() -> Finding:
    """A finding of 40 prototypes whose contributions and bias add up to its logit."""
    rng = np.random.default_rng(7)
    matches = [
        match(n, float(w), float(s)) for n, (w, s) in enumerate(rng.random((40, 2)) - 0.3)
    ]
    matches.sort(key=lambda one: -abs(one.contribution))
    logit = -1.2345 + sum(one.contribution for one in matches)
    return Finding("CRBBB", 0.912, 0.4, logit, -1.2345, tuple(matches))


@pytest.fixture
def explanation(finding: Finding) -> Explanation:
    scored = ScoredECG(
        record_id="=HYPERLINK(1)", outcome=Outcome.SCORED, code="OK", all_codes=("OK",),
        message="", model="ecg-demo", bundle_hash="ab" * 32, labels=("CRBBB",),
        quality=None,
        probability=np.array([0.912]), logit=np.array([finding.logit]),
        similarity=np.zeros(40), window=np.zeros(40, dtype=int),
    )  # fmt: skip
    return Explanation(scored, (finding,))
