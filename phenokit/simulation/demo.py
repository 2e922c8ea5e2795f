"""A dozen simulated recordings to look at: files as a hospital would have them.

The names of the files say nothing, as in an archive; `demo.csv` says what each one shows.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from phenokit.recording import Recording
from phenokit.simulation.ecg import simulate_ecg
from phenokit.simulation.noise import (
    CLEAN,
    HEAVY,
    TYPICAL,
    Noise,
    detach_lead,
    reverse_arms,
)

_STEPS_PER_MILLIVOLT = 1000


@dataclass(frozen=True)
class _Demo:
    shows: str
    conditions: Sequence[str]
    age: int
    sex: str
    noise: Noise = CLEAN
    fault: str = ""


_DEMOS = (
    _Demo("Normal ECG", ["normal"], 34, "female"),
    _Demo("Atrial fibrillation", ["atrial_fibrillation"], 76, "male", TYPICAL),
    _Demo("Complete left bundle branch block", ["left_bundle_branch_block"], 71, "female"),
    _Demo("Complete right bundle branch block", ["right_bundle_branch_block"], 66, "male"),
    _Demo("Acute inferior infarction", ["acute_inferior_mi"], 58, "male"),
    _Demo("Old anterior infarction", ["old_anterior_mi"], 69, "male"),
    _Demo("Left ventricular hypertrophy", ["left_ventricular_hypertrophy"], 63, "male"),
    _Demo("Wolff-Parkinson-White pattern", ["pre_excitation"], 27, "female"),
    _Demo("Third-degree AV block", ["third_degree_block"], 81, "female"),
    _Demo("Premature ventricular complexes", ["premature_ventricular"], 55, "female"),
    _Demo(
        "Atrial fibrillation, right bundle branch block and an old inferior infarct",
        ["atrial_fibrillation", "right_bundle_branch_block", "old_inferior_mi"],
        79,
        "male",
    ),
    _Demo("Normal heart, arm electrodes reversed", ["normal"], 41, "male", fault="arms"),
    _Demo("Normal heart, hardly to be read for noise", ["normal"], 49, "female", HEAVY),
    _Demo("Normal heart, lead V4 flat: electrode off", ["normal"], 52, "male", fault="V4"),
)


def write_demo_recordings(folder: Path, *, seed: int) -> list[Path]:
    """Write the demonstration recordings as WFDB records, and `demo.csv` beside them.

    Parameters
    ----------
    folder
        Made if it is not there; files of the same name are replaced.
    seed
        The same seed gives the same files.

    Returns
    -------
    list of Path
        The headers (``.hea``), in the order of `demo.csv`. Ten seconds at 500 Hz, 16 bit,
        1 microvolt a step.
    """
    folder.mkdir(parents=True, exist_ok=True)
    streams = np.random.default_rng(seed).spawn(len(_DEMOS))
    headers, rows = [], []
    for number, (demo, rng) in enumerate(zip(_DEMOS, streams, strict=True), start=1):
        record_id = f"demo{number:02d}"
        ecg = simulate_ecg(
            demo.conditions,
            rng=rng,
            age=demo.age,
            sex=demo.sex,
            noise=demo.noise,
            record_id=record_id,
        )
        recording = ecg.recording
        if demo.fault == "arms":
            recording = reverse_arms(recording)
        elif demo.fault:
            recording = detach_lead(recording, demo.fault)
        _write_wfdb(recording, folder)
        headers.append(folder / f"{record_id}.hea")
        rows.append(
            [record_id, demo.shows, demo.age, demo.sex, " ".join(sorted(ecg.labels))]
        )
    with (folder / "demo.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["record_id", "shows", "age", "sex", "labels"])
        writer.writerows(rows)
    return headers


def _write_wfdb(recording: Recording, folder: Path) -> None:
    """One record, format 16, baseline 0: a header that leaves nothing to be guessed."""
    import wfdb

    channels = len(recording.channels)
    steps = np.round(recording.signal * _STEPS_PER_MILLIVOLT).astype(np.int64)
    wfdb.wrsamp(
        recording.record_id,
        fs=int(recording.sampling_rate),
        units=["mV"] * channels,
        sig_name=list(recording.channels),
        d_signal=steps.T,
        fmt=["16"] * channels,
        adc_gain=[float(_STEPS_PER_MILLIVOLT)] * channels,
        baseline=[0] * channels,
        write_dir=str(folder),
    )
