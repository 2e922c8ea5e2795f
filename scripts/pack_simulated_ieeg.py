"""Simulate patients with depth electrodes and archive their segments for training.

    python scripts/pack_simulated_ieeg.py OUT [--train 48] [--val 12] [--seed 11]

Training patients have 22 to 128 channels, but never 40, 72 or 100, which are kept for the
test; half an hour each, with more seizures than a patient has. Validation patients have an
hour and a half with at most 2 % of it in seizure, as test patients do.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from phenokit.preprocessing.segments import SegmentRule
from phenokit.simulation.ieeg import draw_patient, simulate_ieeg
from phenokit.training.segment_archive import ToArchive, write_archive

CHANNELS = (22, 24, 28, 32, 36, 44, 48, 52, 56, 60, 64, 80, 88, 96, 112, 128)
TRAIN_SECONDS, TRAIN_SEIZURES = 1800, 5
VALIDATION_SECONDS = 5400


def simulated(n_train: int, n_validation: int, seed: int) -> Iterator[ToArchive]:
    """Training patients, then validation patients."""
    for number in range(n_train + n_validation):
        is_training = number < n_train
        rng = np.random.default_rng([seed, number])
        patient = draw_patient(
            rng,
            n_channels=CHANNELS[number % len(CHANNELS)],
            patient_id=f"simulated-{seed}-{number:03d}",
        )
        ieeg = simulate_ieeg(
            patient,
            rng=rng,
            duration=TRAIN_SECONDS if is_training else VALIDATION_SECONDS,
            n_seizures=TRAIN_SEIZURES if is_training else None,
        )
        yield ToArchive(
            ieeg, patient.patient_id, "train" if is_training else "val",
            ieeg.truth.seizures,
        )  # fmt: skip
        print(f"{patient.patient_id}: {len(ieeg.truth.seizures)} seizures", flush=True)


def main() -> None:
    """Simulate and write."""
    parser = argparse.ArgumentParser(description="Archive simulated iEEG")
    parser.add_argument("out", type=Path)
    parser.add_argument("--train", type=int, default=48)
    parser.add_argument("--val", type=int, default=12)
    parser.add_argument("--seed", type=int, default=11)
    options = parser.parse_args()
    archive = write_archive(
        options.out,
        simulated(options.train, options.val, options.seed),
        rule=SegmentRule(),
        dataset=f"simulated, seed {options.seed}",
    )
    print(f"{len(archive.recordings)} recordings")


if __name__ == "__main__":
    main()
