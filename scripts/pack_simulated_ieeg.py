"""Simulate patients with depth electrodes and archive their segments for training.

    python scripts/pack_simulated_ieeg.py OUT [--train 48] [--val 12] [--test 15]

Training patients have 22 to 128 channels, but never 40, 72 or 100, which the test patients
have; half an hour each, with more seizures than a patient has. Validation and test patients
have an hour and a half with at most 2 % of it in seizure.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from phenokit.preprocessing.segments import SegmentRule
from phenokit.simulation.ieeg import draw_patient, simulate_ieeg
from phenokit.training.segment_archive import ToArchive, write_archive

CHANNELS = (22, 24, 28, 32, 36, 44, 48, 52, 56, 60, 64, 80, 88, 96, 112, 128)
TEST_CHANNELS = (40, 72, 100)
TRAIN_SECONDS, TRAIN_SEIZURES = 1800, 5
HELD_OUT_SECONDS = 5400


def simulated(n: dict[str, int], seed: int) -> Iterator[ToArchive]:
    """`n` patients of each split; the draw of one does not depend on the others."""
    splits = [split for split, count in n.items() for _ in range(count)]
    for number, split in enumerate(splits):
        rng = np.random.default_rng([seed, number])
        counts = TEST_CHANNELS if split == "test" else CHANNELS
        patient = draw_patient(
            rng,
            n_channels=counts[number % len(counts)],
            patient_id=f"simulated-{seed}-{number:03d}",
        )
        ieeg = simulate_ieeg(
            patient,
            rng=rng,
            duration=TRAIN_SECONDS if split == "train" else HELD_OUT_SECONDS,
            n_seizures=TRAIN_SEIZURES if split == "train" else None,
        )
        yield ToArchive(ieeg, patient.patient_id, split, ieeg.truth.seizures)
        print(f"{patient.patient_id}: {len(ieeg.truth.seizures)} seizures", flush=True)


def main() -> None:
    """Simulate and write."""
    parser = argparse.ArgumentParser(description="Archive simulated iEEG")
    parser.add_argument("out", type=Path)
    parser.add_argument("--train", type=int, default=48)
    parser.add_argument("--val", type=int, default=12)
    parser.add_argument("--test", type=int, default=15)
    parser.add_argument("--seed", type=int, default=11)
    options = parser.parse_args()
    archive = write_archive(
        options.out,
        simulated(
            {"train": options.train, "val": options.val, "test": options.test},
            options.seed,
        ),
        rule=SegmentRule(),
        dataset=f"simulated, seed {options.seed}",
    )
    print(f"{len(archive.recordings)} recordings")


if __name__ == "__main__":
    main()
