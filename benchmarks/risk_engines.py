"""The two engines of the risk model on the reference tables, and both beside the reference.

    OMP_NUM_THREADS=1 python benchmarks/risk_engines.py [--tables ds1,ds3]

The tables and posteriors of tests/reference/risk: ds1 with 5,000 distinct rows, ds3 with 16
patterns and a rare outcome. For each fit the largest difference of the means, in posterior
standard deviations, and the range of the ratios of standard deviations: nested Laplace with
importance weights against NUTS (4 chains of 1,000 + 1,000), and each against the reference.
The limits of the estimator are 0.15 and 12 %.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import pandas as pd

from phenokit.evidence.risk import RiskPosterior, SelectiveLabelsModel

REFERENCE = Path(__file__).parents[1] / "tests/reference/risk"
TABLES = {"ds1": "ds1_bernoulli_uniform", "ds3": "ds3_rare_categorical"}
FITS = [("ds1", "none"), ("ds1", "both"), ("ds3", "exper"), ("ds3", "both")]


def fit(name: str, variant: str, engine: str) -> SelectiveLabelsModel:
    """One fit of a reference table."""
    table = pd.read_csv(REFERENCE / f"{TABLES[name]}.csv")
    truth = json.loads((REFERENCE / f"{TABLES[name]}_truth.json").read_text("utf-8"))
    X = table.drop(columns=["T", "Y"])
    free = [X.columns[j - 1] for j in truth["free_beta_Delta_under_expertise"] if j]
    stated = variant == "both"
    model = SelectiveLabelsModel(engine=engine, checks=False)
    return model.fit(
        X, table["T"], table["Y"], seed=1,
        prevalence=truth["prevalence_target"] if stated else None,
        prevalence_sd=truth["prevalence_sd"] if stated else None,
        testing_features=None if variant == "none" else free,
    )  # fmt: skip


def reference_of(name: str, variant: str, columns: list[str]) -> pd.DataFrame:
    """Means and standard deviations of a reference posterior, by our names."""
    path = REFERENCE / f"{TABLES[name]}__{variant}_posterior.json"
    found = json.loads(path.read_text("utf-8"))["params"]
    names = ["intercept", *columns]
    rows = {}
    for key, entry in found.items():
        if "mean" in entry:
            block, _, number = key.rstrip("]").partition("[")
            ours = f"{block}[{names[int(number)]}]" if number else block
            rows[ours] = {"mean": entry["mean"], "sd": entry["sd"]}
    return pd.DataFrame.from_dict(rows, orient="index")


def apart(posterior: RiskPosterior, other: pd.DataFrame) -> str:
    """Largest difference of means in sd, its quantity, and the range of ratios of sd."""
    ours = posterior.summary.loc[other.index]
    difference = (ours["mean"] - other["mean"]) / other["sd"]
    worst = str(difference.abs().idxmax())
    ratio = ours["sd"] / other["sd"]
    size = float(np.abs(difference[worst]))
    return f"{size:.3f} sd ({worst}), sd x {ratio.min():.3f} to {ratio.max():.3f}"


def main() -> None:
    """Print four lines a fit."""
    parser = argparse.ArgumentParser(description="Compare the risk model's engines")
    parser.add_argument("--tables", default="ds1,ds3")
    chosen = parser.parse_args().tables.split(",")
    for name, variant in FITS:
        if name not in chosen:
            continue
        nuts = fit(name, variant, "nuts")
        laplace = fit(name, variant, "laplace")
        reference = reference_of(name, variant, list(nuts.feature_names_in_))
        found = nuts.diagnostics_
        print(
            f"{name} {variant}: NUTS R-hat {found.r_hat:.4f}, ESS {found.ess_bulk:,.0f} "
            f"(tail {found.ess_tail:,.0f}), {found.divergences} divergences, "
            f"{found.seconds['nuts']:.0f} s; nested Laplace k-hat "
            f"{laplace.diagnostics_.k_hat:.2f}, {laplace.diagnostics_.importance_ess:,.0f} "
            f"effective of 4,000, {laplace.diagnostics_.seconds['laplace']:.1f} s"
        )
        ours, theirs = laplace.posterior_, nuts.posterior_
        print(f"  Laplace against NUTS       {apart(ours, theirs.summary)}")
        print(f"  Laplace against reference  {apart(ours, reference)}")
        print(f"  NUTS against reference     {apart(theirs, reference)}", flush=True)


if __name__ == "__main__":
    main()
