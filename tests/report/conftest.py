import numpy as np
import pandas as pd
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


HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="session")
def risk_folder(tmp_path_factory):
    """A finished risk analysis: a hostile name, a rare level, a flag, a refused prevalence.

    Whoever has the rare feature is one of seven patients.
    """
    from phenokit.batch.risk import RiskInputs, RiskOptions, run_risk

    rng = np.random.default_rng(6)
    n = 6_000
    x = pd.DataFrame(
        {
            HOSTILE: rng.integers(0, 2, n),
            "ward": rng.integers(0, 2, n),
            "dose": rng.choice([0.0, 5.0, 10.0], n),
            "rare": np.arange(n) < 7,
        }
    ).astype(float)
    r = -2.6 + 0.9 * x[HOSTILE] + 0.06 * x["dose"] + rng.uniform(0, 2, n)
    case = rng.random(n) < 1 / (1 + np.exp(-r))
    tested = rng.random(n) < 1 / (1 + np.exp(-r - 1 + 0.8 * x["ward"]))
    folder = tmp_path_factory.mktemp("risk")
    table = x.assign(tested=tested.astype(int), outcome=np.where(tested, case, np.nan))
    table.to_csv(folder / "table.csv", index=False)
    options = RiskOptions(
        features=tuple(x.columns), testing_features=("ward", "rare"), engine="laplace",
        prevalence=0.18, prevalence_sd=0.004, viable="single", seed=1,
        prevalence_source="=a <b>registry</b>",
    )  # fmt: skip
    run_risk(RiskInputs(table=folder / "table.csv"), options, folder / "run")
    return folder / "run"
