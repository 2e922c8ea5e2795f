"""A simulated cohort as a folder, with the files that a hospital would export.

    cohort.toml         what it is, and how it is best analysed
    patients.csv, admissions.csv, diagnoses.csv, recordings.csv, labs.csv, follow_up.csv
    prevalences.csv     how common each test's outcome is, counted in everybody
    recordings/         WFDB records, a folder for each hundred patients
    truth/              what was planted, and what each recording shows

Recordings have 12 bits at 5 microvolts a step, as from a recorder of the time, packed in
WFDB format 212: three bytes for two samples.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float

from phenokit.recording import Recording
from phenokit.simulation.cohort import (
    LAB_TESTS,
    RecordingPlan,
    SimulatedCohort,
    effects,
    simulate_recording,
)

_STEPS_PER_MILLIVOLT = 200
_LARGEST_STEP = 2047
"""Of 12 bits; one step below its negative means "not recorded"."""

_TOML = """\
name = "Simulated cardiology department"
description = "{n} simulated patients with ECGs, admissions and diagnoses (seed {seed}). \
What drives which diagnosis is known: see the folder truth. No patient is real."
simulated = true
model = "{model}"

[defaults]
phecode_version = "1.2"
minimum_codes = 2
linking = "any_time"
unit = "first"
minimum_cases = 20
"""

_TRUTH = """\
# What is true in this cohort

Made by phenokit.simulation.cohort and phenokit.simulation.phenotypes.

- effects.csv: every planted effect. `kind` says what a phecode depends on: `prototype`,
  only a part of the labels in `part_of` drives it; `class`, all of a label does; `hazard`,
  the time to its first code after the first ECG does; `confounded`, age or sex only (null
  for the ECG after adjustment); `null`, nothing. `effect` is a log odds ratio (hazard: a
  log hazard ratio) of a patient whose first ECG shows the driver, a decade of age, a man.
  Ancestors and descendants of a driven phecode are driven too, and phecodes whose controls
  exclude a driven one are not null.
- prototypes.csv: the prototypes of the model whose source recording shows a driver.
- conditions.csv: what each recording was made to show, and the fault of an electrode.
- phenotypes.csv: who has which disease, coded or not, and since when (empty: since before
  the first ECG).
- outcomes.csv: the outcome of both laboratory tests for everybody, tested or not, the
  features that it depends on, and what the doctor saw and no table holds (`unobserved`).
- tests.csv: the coefficients behind outcomes.csv. Outcome: logistic in unobserved + risk;
  tested: logistic in unobserved + risk + testing.
"""


def cohort_files(cohort: SimulatedCohort, *, seed: int, model: str) -> dict[str, bytes]:
    """Every file of the folder but the recordings, by its path.

    Parameters
    ----------
    seed, model
        Of the simulation, and of the bundle that the recordings are to be scored with.
    """
    tables = {
        "patients": cohort.patients,
        "admissions": cohort.admissions,
        "diagnoses": cohort.diagnoses,
        "recordings": cohort.recordings,
        "labs": cohort.labs,
        "follow_up": cohort.follow_up,
        "prevalences": _prevalences(cohort),
        "truth/effects": effects(),
        "truth/conditions": cohort.conditions,
        "truth/phenotypes": cohort.phenotypes,
        "truth/outcomes": cohort.outcomes,
        "truth/tests": _test_table(),
    }
    files = {f"{name}.csv": csv_bytes(table) for name, table in tables.items()}
    toml = _TOML.format(n=f"{len(cohort.patients):,}", seed=seed, model=model)
    return {**files, "cohort.toml": toml.encode(), "truth/README.md": _TRUTH.encode()}


def _prevalences(cohort: SimulatedCohort) -> pd.DataFrame:
    """What a registry of everybody, tested or not, would publish of each test."""
    rows = []
    for test in LAB_TESTS:
        outcome = cohort.outcomes.loc[cohort.outcomes["test"] == test.name, "outcome"]
        n = len(outcome)
        # Two of each added (Agresti & Coull 1998): the interval never is a point.
        share = (float(outcome.sum()) + 2) / (n + 4)
        half = 1.96 * float(np.sqrt(share * (1 - share) / (n + 4)))
        rows.append(
            {
                "test": test.name,
                "above": test.cutoff,
                "prevalence": round(share, 4),
                "low": round(max(share - half, 1e-4), 4),
                "high": round(min(share + half, 1 - 1e-4), 4),
                "source": "truth/outcomes.csv of this simulation",
                "population": f"all {n:,} simulated patients, tested or not",
                "age_range": "all ages of the cohort",
                "time_window": "day of the first ECG",
            }
        )
    return pd.DataFrame(rows)


def csv_bytes(table: pd.DataFrame) -> bytes:
    """A table as UTF-8 text with commas; the same table gives the same bytes."""
    return table.to_csv(index=False, lineterminator="\n").encode()


def write_recordings(plans: Sequence[RecordingPlan], folder: Path) -> int:
    """Simulate the recordings of these plans; what is there already is left alone.

    A header appears last and whole, so that a recording that has one is complete.

    Parameters
    ----------
    folder
        Holds (or will hold) the folders that the record ids name.

    Returns
    -------
    int
        Recordings that were missing.
    """
    n_written = 0
    for plan in plans:
        target = folder / plan.record_id
        if target.with_suffix(".hea").is_file():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        header, signals = wfdb_212(simulate_recording(plan))
        target.with_suffix(".dat").write_bytes(signals)
        temporary = target.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(header, encoding="ascii")
        temporary.replace(target.with_suffix(".hea"))
        n_written += 1
    return n_written


def wfdb_212(recording: Recording) -> tuple[str, bytes]:
    """Header and signal file of a WFDB record in format 212.

    Clipped at 10.2 mV; an even number of values is needed, which twelve leads always have.
    """
    steps = _steps(recording.signal)
    n_leads, n_samples = steps.shape
    name = recording.record_id
    lines = [f"{name} {n_leads} {recording.sampling_rate:g} {n_samples}"]
    for lead, row in zip(recording.channels, steps, strict=True):
        checksum = (int(row.sum()) + 2**15) % 2**16 - 2**15
        lines.append(
            f"{name}.dat 212 {_STEPS_PER_MILLIVOLT}(0)/mV 12 0 {row[0]} {checksum} 0 {lead}"
        )
    # Two values of 12 bits: the low bytes of each, and between them both upper halves.
    values = (steps.T.ravel() & 0xFFF).reshape(-1, 2)
    first, second = values[:, 0], values[:, 1]
    packed = np.stack(
        [first & 0xFF, (first >> 8) | ((second >> 8) << 4), second & 0xFF], axis=1
    )
    return "\n".join(lines) + "\n", packed.astype(np.uint8).tobytes()


def _steps(signal: Float[np.ndarray, "lead sample"]) -> np.ndarray:
    steps = np.round(signal * _STEPS_PER_MILLIVOLT)
    return np.clip(steps, -_LARGEST_STEP, _LARGEST_STEP).astype(np.int32)


def _test_table() -> pd.DataFrame:
    rows = []
    for test in LAB_TESTS:
        for feature in dict.fromkeys([*test.risk, *test.testing]):
            risk, testing = test.risk.get(feature, 0.0), test.testing.get(feature, 0.0)
            rows.append((test.name, feature, risk, testing, test.spread, test.cutoff))
    columns = ["test", "feature", "risk", "testing", "spread", "cutoff"]
    return pd.DataFrame.from_records(rows, columns=columns)
