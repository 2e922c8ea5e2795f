"""The demonstration material: ECGs and iEEGs to look at, and a cohort to analyse.

    DIR/demo01.hea ...   recordings as a hospital would have them, and demo.csv
    DIR/ieeg/            simulated patients with seizures: EDF+, with the truth beside
    DIR/cohort/          simulated patients with ECGs, diagnoses and truth, scored

The iEEGs and the cohort are each a run of its own (`phenokit.batch.run_folder`): a finished
one of the same plan is left alone, an unfinished one is completed, another one is replaced.
Which bytes are written depends on the seed and the model alone, not on the number of worker
processes.
"""

import hashlib
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from phenokit import simulation
from phenokit.batch.run_folder import open_run
from phenokit.batch.score import Scoring, score_cohort
from phenokit.batch.workers import run_isolated
from phenokit.errors import BadInput, PhenoKitError
from phenokit.networks.checkpoint import Bundle, load_bundle
from phenokit.simulation.cohort import (
    RecordingPlan,
    SimulatedCohort,
    effects,
    labels_of,
    simulate_cohort,
)
from phenokit.simulation.demo import write_demo_recordings
from phenokit.simulation.ecg import deal_conditions
from phenokit.simulation.hospital import cohort_files, csv_bytes, write_recordings
from phenokit.simulation.ieeg import draw_patient, simulate_ieeg
from phenokit.simulation.ieeg_files import write_patient_files

MODEL = "ecg-demo"
"""The bundle that the cohort is scored with; trained on the same simulation of ECGs."""

_BLOCK = 32
"""Recordings that a worker process makes between two reports."""

_SECONDS_A_BLOCK = 600.0

_IEEGS = ((28, 720, 2, 1), (40, 600, 1, 0), (56, 900, 2, 1))
"""Of each simulated iEEG: contacts, seconds, seizures and gaps."""

_IEEG_STREAM = 0x1EE6
"""Keeps these patients apart from others of the same seed."""

_ARCHIVE = re.compile(r"simulated, (?P<n>[\d,]+) ECGs, seed (?P<seed>\d+)")

Progress = Callable[[str, int, int], None]
"""Called with what is being done, the number of steps done, and of all."""


@dataclass(frozen=True)
class Demo:
    """What was written.

    Attributes
    ----------
    recordings
        Headers of the dozen recordings.
    ieegs
        EDF files of the simulated iEEGs.
    cohort
        Folder of the cohort; ``None`` if none was asked for.
    was_there
        Whether the cohort was finished already.
    """

    recordings: tuple[Path, ...]
    ieegs: tuple[Path, ...] = ()
    cohort: Path | None = None
    was_there: bool = False


def write_demo(
    folder: Path,
    *,
    n_patients: int = 2000,
    n_ieegs: int = 0,
    seed: int = 1,
    workers: int = 2,
    model: str = MODEL,
    progress: Progress = lambda stage, done, of: None,
) -> Demo:
    """Write the demonstration recordings, iEEGs and the cohort.

    Parameters
    ----------
    folder
        Made if it is not there. A cohort of another plan in it is replaced.
    n_patients
        Of the cohort; 0 leaves it out.
    n_ieegs
        Simulated patients with depth electrodes, a recording each; up to 3.
    seed
        The same seed gives the same files.
    workers
        Processes that simulate and score; 1 does it in this one.
    model
        Installed bundle, or its folder.

    Raises
    ------
    BundleError
        If the model cannot be loaded.
    BadInput
        ``E_VERSION`` if the folder ``cohort`` or ``ieeg`` is something else.
    OutputBusy
        If another process is writing there.
    """
    recordings = tuple(write_demo_recordings(folder, seed=seed))
    ieegs = _write_ieegs(folder / "ieeg", n_ieegs, seed, workers, progress)
    if not n_patients:
        return Demo(recordings, ieegs)
    bundle = load_bundle(model)
    plan = {
        "n_patients": n_patients,
        "seed": seed,
        "bundle_hash": bundle.bundle_hash,
        "simulation": _hash_of_simulation(),
    }
    cohort = folder / "cohort"
    return Demo(
        recordings, ieegs, cohort, _was_there(cohort, plan, bundle, workers, progress)
    )


def _write_ieegs(
    folder: Path, n: int, seed: int, workers: int, progress: Progress
) -> tuple[Path, ...]:
    """EDF files of the first `n` plans, with their tables; those of a finished run stay."""
    plans = [(folder, seed, number) for number in range(len(_IEEGS[:n]))]
    paths = tuple(folder / f"{_ieeg_name(number)}.edf" for _, _, number in plans)
    if not plans:
        return ()
    plan = {"n_ieegs": n, "seed": seed, "simulation": _hash_of_simulation()}
    try:
        _run_ieegs(folder, plan, plans, workers, progress, restart=False)
    except BadInput as error:
        if error.code != "E_VERSION" or not (folder / f"{_ieeg_name(0)}.edf").is_file():
            raise
        _run_ieegs(folder, plan, plans, workers, progress, restart=True)
    return paths


def _run_ieegs(
    folder: Path,
    plan: dict[str, int | str],
    plans: Sequence[tuple[Path, int, int]],
    workers: int,
    progress: Progress,
    *,
    restart: bool,
) -> None:
    with open_run(folder, plan=plan, command="demo", restart=restart) as run:
        if run.manifest is not None:
            return

        def report(done: int, of: int) -> None:
            run.progress(done, of, stage="iEEGs")
            progress("iEEGs", done, of)

        report(0, len(plans))
        if workers == 1:
            for number, one in enumerate(plans, start=1):
                _make_ieeg(one)
                report(number, len(plans))
        else:
            runs = run_isolated(
                _make_ieeg,
                plans,
                workers=workers,
                time_limit=_SECONDS_A_BLOCK,
                progress=report,
            )
            failed = [made.value or made.end for made in runs if made.end != "done"]
            if failed:
                raise PhenoKitError(f"iEEGs failed ({failed[0]})")
        run.finish({"format": "phenokit demo iEEGs", "n_recordings": len(plans)})


def _make_ieeg(plan: tuple[Path, int, int]) -> None:
    """One patient and one recording, by the seed and the number alone."""
    folder, seed, number = plan
    n_channels, duration, n_seizures, n_gaps = _IEEGS[number]
    rng = np.random.default_rng([seed, number, _IEEG_STREAM])
    name = _ieeg_name(number)
    ieeg = simulate_ieeg(
        draw_patient(rng, n_channels=n_channels, patient_id=name),
        rng=rng,
        duration=duration,
        n_seizures=n_seizures,
        n_gaps=n_gaps,
    )
    write_patient_files(folder, name, ieeg)


def _ieeg_name(number: int) -> str:
    return f"simulated{number + 1:02d}"


def _was_there(
    folder: Path,
    plan: dict[str, int | str],
    bundle: Bundle,
    workers: int,
    progress: Progress,
) -> bool:
    """Make the cohort unless it was finished already; whether it was."""
    try:
        return _run(folder, plan, bundle, workers, progress, restart=False)
    except BadInput as error:
        if error.code != "E_VERSION" or not (folder / "cohort.toml").is_file():
            raise
    # The demonstration of another seed, size, model or version: ours to replace.
    return _run(folder, plan, bundle, workers, progress, restart=True)


def _run(
    folder: Path,
    plan: dict[str, int | str],
    bundle: Bundle,
    workers: int,
    progress: Progress,
    *,
    restart: bool,
) -> bool:
    with open_run(folder, plan=plan, command="demo", restart=restart) as run:
        if run.manifest is not None:
            return True
        if restart:
            for name in ("recordings", "scores"):
                shutil.rmtree(folder / name, ignore_errors=True)

        def report(stage: str, done: int, of: int) -> None:
            run.progress(done, of, stage=stage)
            progress(stage, done, of)

        seed = int(plan["seed"])
        cohort = simulate_cohort(int(plan["n_patients"]), seed=seed)
        # cohort.toml is what makes it a cohort folder, so it stands from the beginning.
        for name, data in cohort_files(cohort, seed=seed, model=bundle.name).items():
            run.write(name, data)
        run.write("truth/prototypes.csv", csv_bytes(_carriers(bundle)))
        _record(cohort, folder / "recordings", workers, report)
        scoring = _score(folder, bundle, workers, report)
        run.finish(
            {
                "format": "phenokit demo cohort",
                "n_patients": len(cohort.patients),
                "n_recordings": scoring.n_recordings,
                "outcomes": scoring.outcomes,
                "model": bundle.name,
                "bundle_hash": bundle.bundle_hash,
            }
        )
    return False


def _record(cohort: SimulatedCohort, folder: Path, workers: int, report: Progress) -> None:
    """Write the recordings, block by block."""
    plans = cohort.plans
    blocks = [plans[first : first + _BLOCK] for first in range(0, len(plans), _BLOCK)]
    make = partial(_make_block, folder)

    def done(n_blocks: int, of: int) -> None:
        report("recordings", min(n_blocks * _BLOCK, len(plans)), len(plans))

    done(0, len(blocks))
    if workers == 1:
        for number, block in enumerate(blocks, start=1):
            make(block)
            done(number, len(blocks))
        return
    runs = run_isolated(
        make, blocks, workers=workers, time_limit=_SECONDS_A_BLOCK, progress=done
    )
    for made in runs:
        if made.end != "done":
            raise PhenoKitError(f"recordings failed ({made.value or made.end})")


def _make_block(folder: Path, plans: Sequence[RecordingPlan]) -> None:
    write_recordings(plans, folder)


def _score(folder: Path, bundle: Bundle, workers: int, report: Progress) -> Scoring:
    """Always on the CPU: the same bytes on every machine of a kind."""
    score = partial(
        score_cohort,
        folder / "recordings",
        folder / "scores",
        bundle.path,
        device="cpu",
        workers=0 if workers == 1 else workers,
        progress=report,
    )
    try:
        return score()
    except BadInput as error:
        if error.code != "E_VERSION":
            raise
    return score(restart=True)  # those of another version of PhenoKit: ours to replace


def _carriers(bundle: Bundle) -> pd.DataFrame:
    """Prototypes whose source recording shows the driver of a phecode.

    The bundle says which simulated archive it was trained on, and the archive's seed says
    what each of its recordings shows. Empty for a bundle trained on something else.
    """
    archive = _ARCHIVE.fullmatch(bundle.config.get("archive", {}).get("dataset", ""))
    shown: list[tuple[str, ...]] = []
    if archive is not None:
        rng = np.random.default_rng(int(archive["seed"]))
        shown = deal_conditions(int(archive["n"].replace(",", "")), rng=rng)
    source = {f"s{number:06d}": names for number, names in enumerate(shown, start=1)}
    planted = effects().query("per == 'condition'")
    prototypes = bundle.prototypes[["prototype_id", "label", "record_id"]].to_numpy()
    rows = [
        (phecode, driver, number, label, record_id, "+".join(source[record_id]))
        for phecode, driver in planted[["phecode", "driver"]].to_numpy()
        for number, label, record_id in prototypes
        if label in labels_of(driver) and driver in source.get(record_id, ())
    ]
    columns = ["phecode", "driver", "prototype_id", "label", "source", "shows"]
    return pd.DataFrame.from_records(rows, columns=columns)


def _hash_of_simulation() -> str:
    """SHA-256 of the code that decides what the recordings and tables are."""
    digest = hashlib.sha256()
    for path in sorted(Path(next(iter(simulation.__path__))).glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()
