"""Add to a bundle's card how often its thresholds were right on the test fold.

    python scripts/measure_operating_points.py MODEL ARCHIVE

For bundles made before the card had sensitivity and specificity. The archive has to be the
one that the card's figures come from: every AUROC is measured again and has to be the same.
The bundle hash changes, so that scores made before name another bundle: score again.
"""

import argparse
import hashlib
import tomllib
from pathlib import Path

import numpy as np

from phenokit.networks.card import SENSITIVITY, SPECIFICITY, format_card
from phenokit.networks.checkpoint import SUMS_FILE, load_bundle
from phenokit.readers.packed import open_archive
from phenokit.training.assemble import evaluate_bundle


def main() -> None:
    """Measure, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("archive", type=Path)
    options = parser.parse_args()
    bundle = load_bundle(options.model)
    found = evaluate_bundle(
        options.model, open_archive(options.archive), split="test", seed=0
    )
    measured = {one.label: one for one in found.metrics.labels}
    rows = []
    said = tomllib.loads((bundle.path / "card.toml").read_text(encoding="utf-8"))
    for row in said["performance"]:
        if row["metric"] in (SENSITIVITY, SPECIFICITY):
            continue
        rows.append(row)
        if row["label"] not in measured:
            continue
        one = measured[row["label"]]
        counts = (row["n"], row["n_positive"])
        if row["metric"] == "AUROC" and "value" in row:
            np.testing.assert_allclose(row["value"], one.auroc.value, rtol=1e-6)
            assert counts == (one.n, one.n_positive), row["label"]
        if row["metric"] == "AUPRC":
            for metric, rate in (
                (SENSITIVITY, one.sensitivity),
                (SPECIFICITY, one.specificity),
            ):
                entry = {"label": row["label"], "metric": metric, "n": one.n}
                entry["n_positive"] = one.n_positive
                if np.isnan(rate.value):
                    entry["undefined"] = "no recording with this outcome"
                else:
                    entry |= {"value": rate.value, "low": rate.low, "high": rate.high}
                rows.append(entry)
    card = format_card({**said, "performance": rows})
    sums = bundle.path / SUMS_FILE
    old, new = (
        hashlib.sha256(data).hexdigest()
        for data in ((bundle.path / "card.toml").read_bytes(), card)
    )
    (bundle.path / "card.toml").write_bytes(card)
    sums.write_bytes(sums.read_bytes().replace(old.encode(), new.encode()))
    after = load_bundle(bundle.path).bundle_hash
    print(f"{bundle.name}: bundle {bundle.bundle_hash[:8]} -> {after[:8]}")


if __name__ == "__main__":
    main()
