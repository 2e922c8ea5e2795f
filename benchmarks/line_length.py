"""How hard the simulated seizures are: a line-length detector on simulated patients.

    OMP_NUM_THREADS=1 python benchmarks/line_length.py [--patients N] [--hours H] [--seed S]

Line length (Esteller et al. 2001), the mean absolute step from sample to sample, is the
usual first detector of seizures in intracranial EEG. Here it is taken for each segment of
5 s and channel, relative to the channel's median over the recording; a segment's
probability is a logistic of the mean over the highest eighth of the channels. Half of the
patients choose the threshold (best event F1 with at most 24 false alarms a day), the others
are scored. Simulated patients are tuned so that its event F1 on validation lies between 0.5
and 0.85: above, the seizures would be trivial; below, hopeless. Also printed: the time that
an hour of signal takes.
"""

import argparse
import time

import numpy as np

from phenokit.evidence.seizure_patients import (
    ScoredRecording,
    SeizureScores,
    bootstrap_patients,
    choose_threshold,
    pool,
    score_patients,
)
from phenokit.evidence.seizures import EventRule
from phenokit.recording import SegmentStatus
from phenokit.simulation.ieeg import SimulatedIEEG, draw_patient, simulate_ieeg

SEGMENT = 5
"""Seconds."""

CHANNELS = (22, 32, 48, 64)


def line_length(ieeg: SimulatedIEEG) -> np.ndarray:
    """Mean absolute step (µV) of each segment and channel; NaN where there is a gap."""
    n = SEGMENT * ieeg.sampling_rate
    stop = ieeg.n_samples // n * n
    parts = [
        np.abs(np.diff(block.reshape(len(block), -1, n), axis=2)).mean(axis=2).T
        for block in ieeg.blocks(60 * n, stop=stop)
    ]
    return np.concatenate(parts)


def probability_of(length: np.ndarray) -> np.ndarray:
    """Of each segment, from the line lengths; NaN stays NaN."""
    usual = np.nanmedian(length, axis=0)
    used = (usual > np.median(usual) / 4) & (usual < np.median(usual) * 4)
    rise = np.sort(np.log(length[:, used] / usual[used]), axis=1)
    highest = rise[:, -max(1, used.sum() // 8) :].mean(axis=1)
    return 1 / (1 + np.exp(-2 * (highest - 1)))


def score(number: int, *, hours: float, seed: int) -> tuple[ScoredRecording, float]:
    """Probabilities of one simulated patient, and the seconds of CPU that they took."""
    start = time.process_time()
    rng = np.random.default_rng([seed, number])
    patient = draw_patient(
        rng, n_channels=CHANNELS[number % len(CHANNELS)], patient_id=f"patient {number}"
    )
    ieeg = simulate_ieeg(patient, rng=rng, duration=3600 * hours)
    probability = probability_of(line_length(ieeg))
    status = np.where(
        np.isnan(probability), SegmentStatus.GAP, SegmentStatus.EVALUATED
    ).astype(np.int8)
    recording = ScoredRecording(
        patient.patient_id, probability, status, ieeg.truth.seizures, ieeg.duration
    )
    return recording, time.process_time() - start


def main() -> None:
    """Simulate, choose, score, print."""
    parser = argparse.ArgumentParser(description="Line length on simulated seizures")
    parser.add_argument("--patients", type=int, default=12)
    parser.add_argument("--hours", type=float, default=1.5)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    scored = [
        score(k, hours=arguments.hours, seed=arguments.seed)
        for k in range(arguments.patients)
    ]
    cost = sum(seconds for _, seconds in scored) / (arguments.patients * arguments.hours)
    print(f"{cost:.1f} s of CPU an hour of signal")
    recordings = [recording for recording, _ in scored]
    half = len(recordings) // 2
    chosen = choose_threshold(recordings[:half], rule=EventRule(), limit=24)
    parts = (("validation", recordings[:half]), ("test", recordings[half:]))
    # What a threshold chosen on the test patients themselves would reach: an upper bound.
    best = choose_threshold(recordings[half:], rule=EventRule(), limit=24)
    print(f"test patients, their own best threshold: event F1 {best.scores.events.f1}")
    for name, part in parts:
        patients = list(score_patients(part, chosen.rule).values())
        show(name, patients, theta_on=chosen.rule.theta_on)


def show(name: str, patients: list[SeizureScores], *, theta_on: float) -> None:
    """Print the scores of some patients together."""
    pooled = pool(patients)
    interval = bootstrap_patients(
        patients, lambda sample: pool(sample).events.f1, rng=np.random.default_rng(1)
    )
    events = pooled.events
    print(
        f"{name}: theta {theta_on}, {events.n_reference} seizures in "
        f"{events.seconds / 3600:.0f} h of {len(patients)} patients; event F1 "
        f"{events.f1} ({interval.low} to {interval.high}), sensitivity "
        f"{events.sensitivity}, {events.false_alarms_per_day} false alarms a day, kappa "
        f"{pooled.segments.kappa}, AUROC {pooled.auroc}, delay {pooled.median_delay} s; "
        f"F1 by patient {[patient.events.f1 for patient in patients]}"
    )


if __name__ == "__main__":
    main()
