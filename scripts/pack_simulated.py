"""Simulate a cohort and pack it: the archive that `ecg-demo` is trained on.

    python scripts/pack_simulated.py OUT [--n 4000] [--seed 7]

Simulated at 500 Hz and prepared like any recording, so that what is scored later went the
same way. Folds 1-8 are training, 9 validation, 10 test; patients stay within a fold.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from phenokit.preprocessing.contract import InputContract, prepare
from phenokit.readers.packed import quantise, write_archive
from phenokit.recording import LEADS, Recording
from phenokit.simulation.ecg import simulate_archive
from phenokit.statements import SCP_STATEMENTS, SUPERCLASSES, superclasses_of

RATE = 500.0  # Hz
SCALE = 0.001  # mV a step: 1 microvolt


def main() -> None:
    """Simulate, prepare, pack."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--n", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    contract = InputContract(normalisation="none")
    cohort = simulate_archive(
        options.n, rng=np.random.default_rng(options.seed), sampling_rate=RATE
    )
    codes = tuple(dict.fromkeys(s.code for s in (*SUPERCLASSES, *SCP_STATEMENTS)))
    labels = np.array(
        [
            [code in present for code in codes]
            for present in map(_all_labels, cohort.labels)
        ],
        dtype=np.float32,
    )
    table = cohort.table.assign(dataset=f"simulated, seed {options.seed}")
    table["split"] = np.select(
        [table["fold"] <= 8, table["fold"] == 9], ["train", "val"], "test"
    )

    def blocks():  # noqa: ANN202
        for signal in cohort.signals:
            recording = Recording(signal / 1000.0, LEADS, RATE, "simulated")
            yield quantise(
                prepare(recording, contract).signal[None].astype(float), scale=SCALE
            )

    write_archive(
        options.out,
        signals=blocks(),
        table=pd.DataFrame(table),
        label_codes=codes,
        labels=labels,
        scale=SCALE,
        unit="mV",
        contract_id=contract.identifier,
        sampling_rate=100.0,
        dataset=f"simulated, {options.n:,} ECGs, seed {options.seed}",
        notes="Made by phenokit.simulation.ecg; no patient data.",
    )
    print(f"{options.n} ECGs in {options.out}; positives by label:")
    for code, count in zip(codes, labels.sum(0), strict=True):
        print(f"  {code:8} {count:6.0f}")


def _all_labels(codes: frozenset[str]) -> frozenset[str]:
    return codes | superclasses_of(codes)


if __name__ == "__main__":
    main()
