"""The command line: each command is one call into the library.

Exit codes: 0 done; 3 some recordings were rejected and ``--strict`` was given; 64 usage; 65
the input, bundle or run does not fit; 66 an analysis refused by its own gate; 67 a stated
prevalence that the data contradict, and nobody acknowledged it; 70 internal error; 74 disk;
75 another run is writing to the folder; 129 hung up; 130 interrupted; 143 terminated.

Nothing heavy is imported before a command needs it: ``--help`` costs a few bare pythons.
"""

import sys
import traceback
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from phenokit.audit import Action, AuditLog
    from phenokit.batch.run_folder import Shard
    from phenokit.pipeline import Explanation
    from phenokit.training.loop import Progress

app = typer.Typer(
    help="Phenotypes from ECGs and intracranial EEGs that a clinician can check.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,  # rich would triple the cost of --help
)
train_app = typer.Typer(help="Train a model.", no_args_is_help=True, rich_markup_mode=None)
models_app = typer.Typer(
    help="List, show and verify models.", no_args_is_help=True, rich_markup_mode=None
)
data_app = typer.Typer(
    help="Pack data sets, fetch prototypes.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(train_app, name="train")
app.add_typer(models_app, name="models")
app.add_typer(data_app, name="data")
audit_app = typer.Typer(
    help="Check and export the audit log.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(audit_app, name="audit")


class Device(StrEnum):
    """Where a network runs."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class InferenceEngine(StrEnum):
    """What computes the forward pass of an ECG model."""

    AUTO = "auto"
    TORCH = "torch"
    OPENVINO = "openvino"


class BatchEngine(StrEnum):
    """Where the parts of a run are made."""

    LOCAL = "local"
    RAY = "ray"


class UniqueSource(StrEnum):
    """Whether a record or a patient may serve two prototypes of one label."""

    NONE = "none"
    RECORD = "record"
    PATIENT = "patient"


class Rule(StrEnum):
    """Which diagnoses speak for a recording."""

    SAME_ADMISSION = "same_admission"
    WINDOW = "window"
    ANY_TIME = "any_time"


class Unit(StrEnum):
    """Which recordings of a patient are analysed."""

    FIRST = "first"
    LAST = "last"
    FIRST_IN_ADMISSION = "first_in_admission"
    ALL = "all"


class Refine(StrEnum):
    """Which pairs are fitted after the score test."""

    P = "p"
    ALL = "all"
    NONE = "none"


class ClassScale(StrEnum):
    """Scale of a class prediction."""

    LOGIT = "logit"
    PROBABILITY = "probability"


class RiskKind(StrEnum):
    """Law of the unseen risk, or Heckman's model of a continuous outcome."""

    UNIFORM = "uniform"
    NORMAL = "normal"
    NORMAL_ALPHA = "normal_alpha"
    HECKMAN = "heckman"


class RiskEngine(StrEnum):
    """How the posterior is drawn."""

    NUTS = "nuts"
    LAPLACE = "laplace"


class Results(StrEnum):
    """Which of several results of a test is the outcome."""

    FIRST = "first"
    ANY = "any"


class Viable(StrEnum):
    """Settings of the viable range."""

    NONE = "none"
    SINGLE = "single"
    CROSSED = "crossed"


_SCHEDULERS = (
    ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT", "SLURM_ARRAY_TASK_MIN"),
    ("RANK", "WORLD_SIZE", ""),
)
"""Variables with the number of a shard, how many there are, and the lowest number."""

ModelOption = Annotated[
    str, typer.Option(help="Installed model, or the folder of a bundle.")
]
DeviceOption = Annotated[Device, typer.Option(help="Where the network runs.")]
OutOption = Annotated[Path, typer.Option(help="Folder that the results go to.")]


def main() -> None:
    """Run the command line; every expected fault becomes one sentence and an exit code."""
    try:
        exit_code = app(standalone_mode=False)
    except KeyboardInterrupt:
        _fail("interrupted", 130)
    except OSError as error:
        _fail(f"disk: {error.strerror or type(error).__name__}", 74)
    except Exception as error:
        _fail(*_explain_failure(error))
    else:
        sys.exit(exit_code if isinstance(exit_code, int) else 0)


def _explain_failure(error: Exception) -> tuple[str, int]:
    from phenokit.errors import AnalysisRefused, BadInput, OutputBusy, PhenoKitError

    if isinstance(error, BadInput):
        return f"{error.code}: {error}", 65
    if isinstance(error, AnalysisRefused):
        return str(error), 66
    if isinstance(error, OutputBusy):
        return str(error), 75
    if isinstance(error, PhenoKitError):
        return str(error), 65
    usage = getattr(error, "format_message", None)
    if usage is not None:  # click's usage errors
        return usage(), 64
    if type(error).__name__ == "Abort":
        return "interrupted", 130
    # where it happened, without the message: it may hold what stood in a file
    frames = "".join(traceback.format_tb(error.__traceback__))
    return f"internal error ({type(error).__name__}), please report it\n{frames}", 70


def _fail(message: str, exit_code: int) -> None:
    typer.echo(f"phenokit: {message}", err=True)
    sys.exit(exit_code)


@app.command()
def version() -> None:
    """Print the version."""
    from importlib.metadata import version as installed_version

    typer.echo(installed_version("phenokit"))


@app.command()
def demo(
    out: OutOption = Path("demo"),
    seed: Annotated[int, typer.Option(help="Seed of the simulation.")] = 1,
    patients: Annotated[
        int, typer.Option(min=0, help="Patients of the cohort; 0 leaves it out.")
    ] = 2000,
    ieegs: Annotated[
        int, typer.Option(min=0, max=3, help="Recordings of intracranial EEG.")
    ] = 3,
) -> None:
    """Write simulated demo recordings and a cohort for a first look at the app."""
    from phenokit.batch.demo import write_demo

    with _progress_bars() as show:
        written = write_demo(
            out, n_patients=patients, n_ieegs=ieegs, seed=seed, progress=show
        )
    typer.echo(f"{len(written.recordings)} files in {out}")
    if written.ieegs:
        typer.echo(f"{len(written.ieegs)} simulated iEEGs in {out / 'ieeg'}")
    if written.cohort is not None:
        state = "was there already" if written.was_there else "written"
        typer.echo(f"cohort of {patients:,} patients in {written.cohort}: {state}")


@app.command()
def score(
    source: Annotated[
        str,
        typer.Argument(
            metavar="INPUT",
            help="File, folder, 'pattern', table of paths, archive, zip, or data set.",
        ),
    ],
    out: OutOption,
    model: ModelOption = "ecg-ptbxl",
    device: DeviceOption = Device.AUTO,
    inference: Annotated[
        InferenceEngine, typer.Option(help="What computes an ECG model.")
    ] = InferenceEngine.AUTO,
    engine: Annotated[
        BatchEngine, typer.Option(help="Processes of this machine, or of a Ray cluster.")
    ] = BatchEngine.LOCAL,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes; by default one a processor.")
    ] = None,
    shard: Annotated[
        str, typer.Option(help="Do a share only: 2/8, or auto under Slurm or torchrun.")
    ] = "",
    time_limit: Annotated[
        float, typer.Option(min=1.0, help="Seconds a recording may take (iEEG: a minute).")
    ] = 60.0,
    strict: Annotated[bool, typer.Option(help="Exit with 3 if any is rejected.")] = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="Throw away what is in the folder.")
    ] = False,
) -> int:
    """Score ECGs or iEEGs, as the model does: a row a recording, bad files included.

    Given again, the command goes on where it was stopped.
    """
    from phenokit.batch.score import score_cohort

    share = _shard(shard)
    if share is not None and restart:
        raise typer.BadParameter("--restart and --shard exclude each other")
    _note("score", detail="score", record=source)
    if engine is BatchEngine.RAY:
        typer.echo("Ray is slow to start: a small cohort is faster without it", err=True)
    with _progress_bars() as show:
        scoring = score_cohort(
            source,
            out,
            model,
            device=device.value,
            inference=inference.value,
            engine=engine.value,
            workers=workers,
            shard=share,
            time_limit=time_limit,
            restart=restart,
            progress=show,
        )
    if not scoring.is_finished:
        typer.echo(f"shard {shard} is done; the run is finished by the last shard")
        return 0
    for outcome, count in scoring.outcomes.items():
        typer.echo(f"{count:>9,}  {outcome}")
    for code, count in scoring.codes.items():
        typer.echo(f"{count:>9,}    {code}")
    if scoring.n_not_scored:
        typer.echo(f"{scoring.n_not_scored:>9,}  files hold no recording (manifest.json)")
    if not scoring.n_recordings:
        typer.echo("phenokit: no recording found", err=True)
        return 65
    return 3 if strict and scoring.outcomes.get("rejected") else 0


def _shard(text: str) -> "Shard | None":
    """``2/8``, or ``auto``: what the scheduler of a cluster says."""
    import os
    import re

    from phenokit.batch.run_folder import Shard

    if not text:
        return None
    if text == "auto":
        for number, of, first in _SCHEDULERS:
            if number in os.environ and of in os.environ:
                lowest = int(os.environ.get(first, "0"))
                return Shard(int(os.environ[number]) - lowest + 1, int(os.environ[of]))
        raise typer.BadParameter("--shard auto: the scheduler names no shard")
    if not (match := re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)):
        raise typer.BadParameter(f"{text} is not a shard such as 2/8")
    try:
        return Shard(int(match[1]), int(match[2]))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(help="What a phenokit command wrote.")],
) -> int:
    """Hold every file of a run against its plan, receipts and manifest."""
    from phenokit.batch.verify import verify_run

    found = verify_run(folder)
    for fault in found.faults:
        typer.echo(f"{fault.name}: {fault.message}")
    state = "finished" if found.is_finished else "not finished: give its command again"
    typer.echo(
        f"{found.command} {found.run_id}: {found.n_files:,} files, {found.n_rows:,} rows, "
        f"{len(found.faults):,} faults, {state}"
    )
    return 65 if found.faults or not found.is_finished else 0


@app.command()
def explain(
    record: Annotated[Path, typer.Argument(help="An ECG file.")],
    model: ModelOption = "ecg-ptbxl",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    open_abstained: Annotated[
        bool, typer.Option(help="Show numbers although the model abstains.")
    ] = False,
    device: DeviceOption = Device.AUTO,
) -> None:
    """Say what the model scored in one ECG, and which training ECGs it resembles."""
    from phenokit.pipeline import explain as explain_recording
    from phenokit.pipeline import load_ecg_model
    from phenokit.readers.ecg import read_ecg

    loaded = load_ecg_model(model, device=device.value)
    recording = read_ecg(record)
    explanation = explain_recording(recording, loaded, open_abstained=open_abstained)
    _note(
        "view", detail=f"explain {explanation.scored.code}", record=recording.sha256,
        bundle_hash=explanation.scored.bundle_hash,
    )  # fmt: skip
    if as_json:
        import json

        from phenokit.report.explanation import explanation_dict

        typer.echo(json.dumps(explanation_dict(explanation), indent=2, ensure_ascii=False))
    else:
        for line in _explanation_lines(explanation):
            typer.echo(line)


@app.command()
def associate(
    out: OutOption,
    cohort: Annotated[
        Path | None, typer.Option(help="Cohort folder, or hosp folder of MIMIC-IV.")
    ] = None,
    scores: Annotated[Path | None, typer.Option(help="What phenokit score wrote.")] = None,
    diagnoses: Annotated[Path | None, typer.Option(help="ICD codes by person.")] = None,
    patients: Annotated[Path | None, typer.Option(help="Sex, birth or age.")] = None,
    phecode_counts: Annotated[
        Path | None, typer.Option(help="person_id, phecode, count instead of ICD codes.")
    ] = None,
    admissions: Annotated[Path | None, typer.Option(help="Admissions.")] = None,
    recordings: Annotated[
        Path | None, typer.Option(help="Person, time, admission of recordings.")
    ] = None,
    follow_up: Annotated[Path | None, typer.Option(help="Last day observed.")] = None,
    exposures: Annotated[
        Path | None, typer.Option(help="Numbers by person_id or record_id.")
    ] = None,
    patient_exposures: Annotated[
        str, typer.Option(help="Columns of the patients table to test, such as age.")
    ] = "",
    kinds: Annotated[
        str, typer.Option(help="Of the scores: prototype, class, prototype_class.")
    ] = "prototype,class,prototype_class",
    exposure: Annotated[
        list[str] | None, typer.Option(help="Test this exposure only; may be repeated.")
    ] = None,
    class_scale: Annotated[
        ClassScale, typer.Option(help="Scale of class predictions.")
    ] = ClassScale.LOGIT,
    covariates: Annotated[str, typer.Option(help="Columns to adjust for.")] = "age,sex",
    splines: Annotated[str, typer.Option(help="Of these, as restricted splines.")] = "",
    drop_incomplete: Annotated[
        bool, typer.Option(help="Leave out patients without a covariate.")
    ] = False,
    phecode_version: Annotated[
        str | None, typer.Option(help="1.2 or X; or the name of your own map.")
    ] = None,
    phecode_info: Annotated[Path | None, typer.Option(help="Your own phecodes.")] = None,
    phecode_icd: Annotated[Path | None, typer.Option(help="Your own ICD map.")] = None,
    minimum_codes: Annotated[
        int | None, typer.Option(min=1, help="Codes that make a case.")
    ] = None,
    linking: Annotated[Rule | None, typer.Option(help="Which codes speak.")] = None,
    days_before: Annotated[int | None, typer.Option(help="Of the window.")] = None,
    days_after: Annotated[int | None, typer.Option(help="Of the window.")] = None,
    unit: Annotated[Unit | None, typer.Option(help="Which recordings.")] = None,
    minimum_cases: Annotated[
        int | None, typer.Option(min=5, help="Cases, and controls, to be tested.")
    ] = None,
    refine: Annotated[
        Refine, typer.Option(help="Fit pairs with p < 0.05, all, or none.")
    ] = Refine.P,
    firth: Annotated[bool, typer.Option(help="Firth's penalty in every fit.")] = False,
    permutations: Annotated[
        int, typer.Option(min=0, help="Draws for the family-wise p.")
    ] = 0,
    seed: Annotated[int, typer.Option(help="Of permutations and splits.")] = 0,
    compare: Annotated[
        bool, typer.Option("--compare", help="Compare prototypes with classes.")
    ] = False,
    time_to_code: Annotated[
        int, typer.Option(min=0, help="Hazard ratios of the strongest pairs.")
    ] = 0,
    restart: Annotated[
        bool, typer.Option("--restart", help="Throw away what is in the folder.")
    ] = False,
) -> None:
    """Test prototypes, classes or any numbers for association with phecodes."""
    from dataclasses import replace

    from phenokit.batch.associate import (
        AssociationInputs,
        AssociationOptions,
        default_options,
        run_association,
    )
    from phenokit.batch.exposures import SCORE_KINDS

    options = AssociationOptions()
    if cohort is not None:
        options = default_options(cohort, options)
    chosen = {
        "rule": linking and linking.value,
        "days_before": days_before,
        "days_after": days_after,
        "unit": unit and unit.value,
    }
    if strange := set(_listed(kinds)) - set(SCORE_KINDS):
        raise typer.BadParameter(f"{min(strange)} is not one of {', '.join(SCORE_KINDS)}")
    try:
        link = replace(
            options.linking, **{k: v for k, v in chosen.items() if v is not None}
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    options = replace(
        options,
        kinds=_listed(kinds),
        names=tuple(exposure or ()),
        patient_exposures=_listed(patient_exposures),
        class_scale=class_scale.value,
        covariates=_listed(covariates),
        splines=_listed(splines),
        drop_incomplete=drop_incomplete,
        phecode_version=phecode_version or options.phecode_version,
        cases=replace(
            options.cases, minimum_codes=minimum_codes or options.cases.minimum_codes
        ),
        linking=link,
        settings=replace(
            options.settings,
            minimum_cases=minimum_cases or options.settings.minimum_cases,
            refine=refine.value,
            firth=firth,
            n_permutations=permutations,
            seed=seed,
        ),
        compare=compare,
        n_time_to_code=time_to_code,
    )
    inputs = AssociationInputs(
        cohort=cohort,
        scores=scores,
        exposures=exposures,
        patients=patients,
        diagnoses=diagnoses,
        phecode_counts=phecode_counts,
        admissions=admissions,
        recordings=recordings,
        follow_up=follow_up,
        phecode_info=phecode_info,
        phecode_icd=phecode_icd,
    )
    _note("score", detail="associate", record=str(cohort or scores or ""))
    with _progress_bars() as show:
        manifest = run_association(inputs, options, out, restart=restart, progress=show)
    typer.echo(
        f"{manifest['n_tests']:,} tests: {manifest['n_exposures']:,} exposures, "
        f"{manifest['n_phecodes_tested']:,} of {manifest['n_phecodes']:,} phecodes, "
        f"{manifest['n_patients']:,} patients"
    )
    for code, count in manifest["codes"].items():
        typer.echo(f"{count:>9,}  {code}")
    typer.echo(f"run {manifest['run_id']} in {out}")


@app.command()
def risk(
    out: OutOption,
    table: Annotated[
        Path | None, typer.Argument(help="CSV or Parquet, a row a patient; or --cohort.")
    ] = None,
    features: Annotated[str, typer.Option(help="Columns, separated by commas.")] = "",
    tested: Annotated[str, typer.Option(help="Column: 1 where tested.")] = "tested",
    outcome: Annotated[
        str, typer.Option(help="Column: 0 or 1, empty where not tested.")
    ] = "outcome",
    testing_features: Annotated[
        str | None,
        typer.Option(help="Those that may affect testing beyond risk; none; default all."),
    ] = None,
    prevalence: Annotated[
        float | None, typer.Option(help="Of everybody in the table, such as 0.04.")
    ] = None,
    prevalence_sd: Annotated[
        float | None, typer.Option(help="Its standard deviation.")
    ] = None,
    prevalence_interval: Annotated[
        str, typer.Option(help="Instead: its 95 % interval, such as 0.03,0.05.")
    ] = "",
    prevalence_source: Annotated[
        str, typer.Option(help="Source, population, age range, time window.")
    ] = "",
    accept_conflict: Annotated[
        bool,
        typer.Option("--accept-conflict", help="Exit 0 though data and prevalence differ."),
    ] = False,
    cohort: Annotated[
        Path | None, typer.Option(help="Cohort folder, or hosp folder of MIMIC-IV.")
    ] = None,
    test: Annotated[str, typer.Option(help="Of a cohort: the laboratory test.")] = "",
    above: Annotated[
        float | None, typer.Option(help="Results from here on up are abnormal.")
    ] = None,
    below: Annotated[
        float | None, typer.Option(help="Results from here on down are abnormal.")
    ] = None,
    results: Annotated[Results, typer.Option(help="Which results count.")] = Results.FIRST,
    scores: Annotated[Path | None, typer.Option(help="What phenokit score wrote.")] = None,
    exposure: Annotated[
        list[str] | None,
        typer.Option(help='Of the scores, such as "class AFIB"; may be repeated.'),
    ] = None,
    exposures: Annotated[
        Path | None, typer.Option(help="Numbers by person_id or record_id.")
    ] = None,
    class_scale: Annotated[
        ClassScale, typer.Option(help="Scale of class predictions.")
    ] = ClassScale.LOGIT,
    labs: Annotated[Path | None, typer.Option(help="Instead of the cohort's.")] = None,
    drop_incomplete: Annotated[
        bool, typer.Option(help="Leave out patients without a feature.")
    ] = False,
    kind: Annotated[RiskKind, typer.Option(help="Law of the unseen risk.")] = (
        RiskKind.UNIFORM
    ),
    alpha: Annotated[float, typer.Option(help="Given for kind normal.")] = 1.0,
    sigma: Annotated[float, typer.Option(help="Given for kind normal_alpha.")] = 1.0,
    engine: Annotated[RiskEngine, typer.Option(help="NUTS is the reference.")] = (
        RiskEngine.NUTS
    ),
    draws: Annotated[int, typer.Option(min=100, help="Of each of 4 chains.")] = 1_000,
    warmup: Annotated[int, typer.Option(min=100, help="Of each chain.")] = 1_000,
    threshold: Annotated[
        float | None, typer.Option(help="Risk from which on something is done.")
    ] = None,
    viable: Annotated[Viable, typer.Option(help="Settings of the viable range.")] = (
        Viable.SINGLE
    ),
    seed: Annotated[int, typer.Option(help="Of all draws.")] = 0,
    restart: Annotated[
        bool, typer.Option("--restart", help="Throw away what is in the folder.")
    ] = False,
) -> None:
    """Estimate the risk of the tested and of the untested under a known prevalence."""
    from phenokit.batch.risk import RiskInputs, RiskOptions, acknowledge_conflict, run_risk
    from phenokit.evidence.risk_table import deviation_of_interval

    if prevalence_interval:
        if prevalence_sd is not None:
            raise typer.BadParameter("give the interval or the standard deviation")
        prevalence_sd = deviation_of_interval(*_interval(prevalence_interval))
    chosen = None if testing_features is None else _listed(testing_features)
    inputs = RiskInputs(table, cohort, scores, exposures, labs)
    options = RiskOptions(
        tested=tested,
        outcome=outcome,
        test=test,
        above=above,
        below=below,
        results=results.value,
        features=_listed(features),
        exposures=tuple(exposure or ()),
        class_scale=class_scale.value,
        drop_incomplete=drop_incomplete,
        testing_features=() if chosen == ("none",) else chosen,
        prevalence=prevalence,
        prevalence_sd=prevalence_sd,
        prevalence_source=prevalence_source,
        kind=kind.value,
        alpha=alpha,
        sigma=sigma,
        engine=engine.value,
        n_warmup=warmup,
        n_draws=draws,
        seed=seed,
        threshold=threshold,
        viable=viable.value,
    )
    _note("score", detail="risk", record=str(cohort or table or ""))
    with _progress_bars() as show:
        manifest = run_risk(inputs, options, out, restart=restart, progress=show)
    for line in _risk_lines(out):
        typer.echo(line)
    typer.echo(f"run {manifest['run_id']} in {out}")
    if "W_PREVALENCE_CONFLICT" in manifest["flags"]:
        if not accept_conflict:
            raise typer.Exit(67)
        acknowledge_conflict(out)


def _interval(text: str) -> tuple[float, float]:
    try:
        low, high = (float(one) for one in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"{text} is not an interval such as 0.03,0.05") from None
    if not low < high:
        raise typer.BadParameter(f"{text} does not run from a lower to a higher number")
    return low, high


def _risk_lines(folder: Path) -> list[str]:
    """The answer, the flags and the limits."""
    from phenokit.report.risk import answer_lines, read_risk_run

    return answer_lines(read_risk_run(folder))


@train_app.command("ecg")
def train_ecg_command(
    recipe: Annotated[
        Path, typer.Argument(help="TOML file: labels, network, training, card.")
    ],
    archive: Annotated[Path, typer.Option(help="Packed archive.")],
    out: OutOption,
    run: Annotated[Path, typer.Option(help="Folder of the checkpoints.")] = Path(
        "runs/ecg"
    ),
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    resume: Annotated[bool, typer.Option(help="Go on from the last checkpoint.")] = False,
    device: DeviceOption = Device.AUTO,
    threads: Annotated[int, typer.Option(help="CPU threads; 0: all.")] = 0,
) -> None:
    """Train an ECG prototype network through all its stages and write its bundle."""
    from datetime import date

    import torch

    from phenokit.preprocessing.contract import InputContract
    from phenokit.readers.packed import open_archive
    from phenokit.training.assemble import train_ecg
    from phenokit.training.recipe import read_recipe

    if threads:
        torch.set_num_threads(threads)
    settings = read_recipe(recipe)
    with _training_log() as report:
        bundle_hash = train_ecg(
            settings,
            open_archive(archive),
            out,
            contract=InputContract(normalisation=settings.normalisation),
            seed=seed,
            run_folder=run,
            today=date.today(),
            device=_torch_device(device),
            resume=resume,
            report=report,
        )
    typer.echo(f"{out} written, bundle hash {bundle_hash[:8]}")


@train_app.command("ieeg")
def train_ieeg_command(
    recipe: Annotated[Path, typer.Argument(help="TOML file: network, training, card.")],
    archive: Annotated[
        Path, typer.Option(help="Archive of segments, of `phenokit data pack-ieeg`.")
    ],
    out: OutOption,
    run: Annotated[Path, typer.Option(help="Folder of the checkpoints.")] = Path(
        "runs/ieeg"
    ),
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    resume: Annotated[bool, typer.Option(help="Go on from the last checkpoint.")] = False,
    device: DeviceOption = Device.AUTO,
    threads: Annotated[int, typer.Option(help="CPU threads; 0: all.")] = 0,
) -> None:
    """Pre-train an MVPFormer, fine-tune it for seizures, and write its bundle."""
    from datetime import date

    import torch

    from phenokit.training.assemble_seizures import train_ieeg
    from phenokit.training.recipe import read_seizure_recipe
    from phenokit.training.segment_archive import SegmentArchive

    if threads:
        torch.set_num_threads(threads)
    settings = read_seizure_recipe(recipe)
    with _training_log() as report:
        bundle_hash = train_ieeg(
            settings,
            SegmentArchive(archive),
            out,
            seed=seed,
            run_folder=run,
            today=date.today(),
            device=_torch_device(device),
            resume=resume,
            report=report,
        )
    typer.echo(f"{out} written, bundle hash {bundle_hash[:8]}")


@app.command()
def project(
    model: Annotated[
        str, typer.Argument(help="Installed model, or the folder of a bundle.")
    ],
    data: Annotated[Path, typer.Option(help="Packed archive of your own ECGs.")],
    out: OutOption,
    unique: Annotated[
        UniqueSource, typer.Option(help="May a source serve two prototypes of a label?")
    ] = UniqueSource.RECORD,
    include_waveforms: Annotated[
        bool,
        typer.Option(help="Keep the source ECGs in the bundle; it must stay with you."),
    ] = False,
) -> None:
    """Anchor a model's prototypes on your own archive, so that it shows your own ECGs."""
    from datetime import date

    from phenokit.readers.packed import open_archive
    from phenokit.training.assemble import project_bundle

    bundle_hash = project_bundle(
        model,
        open_archive(data),
        out,
        unique=unique.value,
        include_waveforms=include_waveforms,
        today=date.today(),
    )
    typer.echo(f"{out} written, bundle hash {bundle_hash[:8]}")


@app.command()
def evaluate(
    model: Annotated[
        str, typer.Argument(help="Installed model, or the folder of a bundle.")
    ],
    data: Annotated[Path, typer.Option(help="Packed archive with labels.")],
    out: OutOption,
    split: Annotated[str, typer.Option(help="train, val, test, or all.")] = "test",
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap.")] = 0,
) -> None:
    """Measure a model on a split: AUROC, AUPRC, calibration, distinct prototypes."""
    from phenokit.readers.packed import open_archive
    from phenokit.report.metrics import write_metrics
    from phenokit.training.assemble import evaluate_bundle

    result = evaluate_bundle(model, open_archive(data), split=split, seed=seed)
    write_metrics(result, out)
    typer.echo((out / "metrics.md").read_text(encoding="utf-8"))


@models_app.command("list")
def list_models() -> None:
    """List the installed models."""
    from phenokit.networks.card import read_card
    from phenokit.networks.checkpoint import bundle_folders, models_folder

    folders = bundle_folders()
    if not folders:
        typer.echo(f"no model in {models_folder()} (PHENOKIT_MODELS names the folder)")
    for folder in folders:
        card = read_card(folder)
        typer.echo(f"{card.name}  {card.version}  {card.first_line}")


@models_app.command("show")
def show_model(
    name: Annotated[str, typer.Argument(help="Installed model or folder.")],
) -> None:
    """Print a model's card."""
    from phenokit.networks.card import format_card, read_card
    from phenokit.networks.checkpoint import load_bundle

    bundle = load_bundle(name)
    typer.echo(f"bundle hash {bundle.bundle_hash}\n")
    typer.echo(format_card(read_card(bundle.path)).decode())


@models_app.command("verify")
def verify_model(
    name: Annotated[
        str | None, typer.Argument(help="Default: every installed model.")
    ] = None,
) -> None:
    """Check every hash of a model."""
    from phenokit.networks.checkpoint import bundle_folders, load_bundle

    for target in [name] if name else [str(folder) for folder in bundle_folders()]:
        bundle = load_bundle(target)
        typer.echo(f"{bundle.name}: all hashes match, bundle hash {bundle.bundle_hash}")


@models_app.command("install")
def install_model(
    file: Annotated[Path, typer.Argument(help="A zip file of one bundle.")],
) -> None:
    """Add a model from a zip file after checking it."""
    from phenokit.networks.install import install_bundle

    bundle = install_bundle(file)
    _note("configuration", detail="model installed", bundle_hash=bundle.bundle_hash)
    typer.echo(f"{bundle.name} installed, bundle hash {bundle.bundle_hash[:8]}")


@data_app.command("pack-ieeg")
def pack_ieeg_command(
    source: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="iEEG files with annotated seizures.")
    ],
    splits: Annotated[Path, typer.Option(help="CSV with path, patient_id, split.")],
    out: OutOption,
    name: Annotated[str, typer.Option(help="Name of the data set.")] = "",
) -> None:
    """Cut iEEGs into segments and archive them for training."""
    from phenokit.batch.pack_ieeg import pack_ieeg

    with _progress_bar("packing") as progress:
        archive = pack_ieeg(source, splits, out, dataset=name, progress=progress)
    segments = sum(one.n_segments for one in archive.recordings)
    typer.echo(f"{len(archive.recordings)} recordings, {segments:,} segments in {out}")


@data_app.command("pack")
def pack(
    source: Annotated[Path, typer.Argument(metavar="FOLDER", help="PTB-XL, or ECG files.")],
    out: OutOption,
    labels: Annotated[
        Path | None, typer.Option(help="CSV with record_id, patient_id, split, labels.")
    ] = None,
    z_score: Annotated[bool, typer.Option(help="Scale each lead to unit variance.")] = True,
    raw: Annotated[
        bool, typer.Option("--raw", help="Neither filter nor scale: for phenokit score.")
    ] = False,
    name: Annotated[str, typer.Option(help="Name of the data set.")] = "",
) -> None:
    """Pack ECGs into one archive that training, projection, evaluation or scoring reads."""
    from phenokit.batch.pack import pack_folder, pack_ptbxl, read_labels
    from phenokit.preprocessing.contract import InputContract

    prepared = InputContract(normalisation="z_score" if z_score else "none")
    contract = None if raw else prepared
    with _progress_bar("packing") as show:
        if (source / "ptbxl_database.csv").is_file():
            packing = pack_ptbxl(source, out, contract=contract, progress=show)
        else:
            table = None if labels is None else read_labels(labels)
            packing = pack_folder(
                source,
                out,
                dataset=name or source.name,
                contract=contract,
                table=table,
                progress=show,
            )
    typer.echo(
        f"{packing.n_packed:,} packed, {len(packing.rejected):,} rejected (see {out})"
    )


@data_app.command("prototypes")
def fetch_prototypes(
    model: Annotated[str, typer.Argument(help="Installed model.")],
    out: Annotated[Path, typer.Option(help="Folder; name it in PHENOKIT_PTBXL.")],
    source: Annotated[
        str, typer.Option(help="Where PTB-XL is served from.")
    ] = "https://physionet.org/files/ptb-xl/1.0.3",
) -> None:
    """Download the PTB-XL records of a model's prototypes (needs a network)."""
    from phenokit.networks.checkpoint import load_bundle
    from phenokit.readers.physionet import fetch_records

    table = load_bundle(model).prototypes
    record_ids = sorted(
        set(table.loc[table["dataset"].str.startswith("PTB-XL"), "record_id"])
    )
    with _progress_bar("fetching") as show:
        n_fetched = fetch_records(record_ids, out, source=source, progress=show)
    typer.echo(f"{n_fetched} records fetched; set PHENOKIT_PTBXL={out.resolve()}")


@audit_app.command("verify")
def verify_audit(
    folder: Annotated[
        Path | None, typer.Option(help="Of the log; by default PHENOKIT_AUDIT.")
    ] = None,
    head: Annotated[str, typer.Option(help="Of an earlier check, kept elsewhere.")] = "",
) -> int:
    """Check that no row of the audit log was changed, put in or taken out."""
    verdict = _audit_log(folder).verify(head=head)
    typer.echo(f"{verdict.n_entries:,} rows, head {verdict.head or 'none'}")
    typer.echo(f"not intact: {verdict.problem}" if verdict.problem else "intact")
    return 65 if verdict.problem else 0


@audit_app.command("export")
def export_audit(
    out: Annotated[Path, typer.Option(help="CSV file to write.")],
    folder: Annotated[
        Path | None, typer.Option(help="Of the log; by default PHENOKIT_AUDIT.")
    ] = None,
    record: Annotated[
        str, typer.Option(help="Only rows about this recording: its SHA-256 or id.")
    ] = "",
) -> int:
    """Write the audit log as a table, which is logged too; exit 65 if it is not intact."""
    from dataclasses import asdict

    import pandas as pd

    from phenokit.audit import Entry
    from phenokit.report.tables import write_table

    log = _audit_log(folder)
    verdict = log.verify()
    _note("export", detail="audit log")
    entries = log.entries()
    if record:
        wanted = log.pseudonym(record)
        entries = [entry for entry in entries if entry.record == wanted]
    columns = pd.Index(list(Entry.__dataclass_fields__))
    write_table(out, pd.DataFrame([asdict(one) for one in entries], columns=columns))
    typer.echo(f"{len(entries):,} rows in {out}")
    if verdict.problem:
        typer.echo(f"not intact: {verdict.problem}", err=True)
    return 65 if verdict.problem else 0


def _audit_log(folder: Path | None) -> "AuditLog":
    from phenokit.audit import AuditLog, audit_folder

    log = AuditLog(folder or audit_folder())
    if not (log.folder / "audit.key").is_file():
        raise typer.BadParameter("there is no audit log in this folder")
    return log


def _note(
    action: "Action", *, detail: str, record: str = "", bundle_hash: str = ""
) -> None:
    """Log what a command does, where ``PHENOKIT_AUDIT`` names a folder."""
    import os

    if os.environ.get("PHENOKIT_AUDIT"):
        from phenokit.audit import note

        note(action, record=record, bundle_hash=bundle_hash, detail=detail)


@app.command("check-inputs")
def check_inputs_command(
    folder: Annotated[Path, typer.Argument(help="Holds manifest.csv and the cases.")],
    out: Annotated[Path, typer.Option(help="File for the outcomes.")],
    workers: Annotated[int, typer.Option(help="Worker processes.")] = 1,
    strict: Annotated[bool, typer.Option(help="Exit with 3 if any is rejected.")] = False,
) -> int:
    """Read every case of a folder of hostile files and write the outcome of each."""
    from phenokit.batch.check_inputs import check_inputs

    return check_inputs(folder, out, workers=workers, strict=strict)


@app.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> int:
    """Print versions, machine, models, folders, settings, and what is not offline."""
    from phenokit.doctor import diagnose, exit_code, facts_dict, format_facts

    facts = diagnose()
    if as_json:
        import json

        typer.echo(json.dumps(facts_dict(facts), indent=2, ensure_ascii=False))
    else:
        for line in format_facts(facts):
            typer.echo(line)
    return exit_code(facts)


# --- showing ----------------------------------------------------------------------------


def _explanation_lines(explanation: "Explanation") -> list[str]:
    """What `phenokit explain` prints: the outcome, then the findings with prototypes."""
    from phenokit.statements import clinical_name

    scored = explanation.scored
    lines = [
        "Research use - not for diagnosis",
        f"{scored.record_id}: {scored.outcome} ({', '.join(scored.all_codes)})",
        scored.message,
        f"model {scored.model}, bundle {scored.bundle_hash[:8]}",
    ]
    for finding in explanation.findings:
        mark = "*" if finding.is_present else " "
        lines.append(
            f"\n{mark} {100 * finding.probability:5.1f} %  {clinical_name(finding.label)}"
            f"  (threshold {100 * finding.threshold:.1f} %)"
        )
        if not finding.is_present:
            continue
        for match in finding.matches[:3]:
            source = match.prototype
            lines.append(
                f"      {match.contribution:+.2f}  {match.start:.2f}-{match.stop:.2f} s "
                f"resembles record {source.record_id} ({', '.join(source.labels)}): "
                f"similarity {match.similarity:.2f}, {source.label} prototype "
                f"{source.prototype_id}"
            )
        shown = sum(match.contribution for match in finding.matches[:3])
        rest = finding.logit - finding.bias - shown
        lines.append(
            f"      {rest:+.2f}  all other prototypes ({len(finding.matches) - 3}); "
            f"baseline {finding.bias:+.2f}; logit {finding.logit:+.2f}"
        )
    return lines


def _progress_bar(title: str) -> Any:  # noqa: ANN401 - a context manager of rich
    """A bar with the time left; yields ``show(done, of)``."""
    from contextlib import contextmanager

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    @contextmanager
    def bar() -> Any:  # noqa: ANN401
        columns = (title, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True)) as progress:
            task = progress.add_task(title, total=None)
            yield lambda done, of: progress.update(task, completed=done, total=of)

    return bar()


def _progress_bars() -> Any:  # noqa: ANN401 - a context manager of rich
    """A bar a stage with the time left; yields ``show(stage, done, of)``."""
    from contextlib import contextmanager

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    @contextmanager
    def bars() -> Any:  # noqa: ANN401
        columns = (
            "{task.description}",
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=Console(stderr=True)) as shown:
            tasks: dict[str, Any] = {}

            def show(stage: str, done: int, of: int) -> None:
                if stage not in tasks:
                    tasks[stage] = shown.add_task(stage, total=of)
                shown.update(tasks[stage], completed=done, total=of)

            yield show

    return bars()


def _listed(text: str) -> tuple[str, ...]:
    """What stands between the commas."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _training_log() -> Any:  # noqa: ANN401 - a context manager of rich
    """One line an epoch, and a bar with the time left of the stage."""
    from contextlib import contextmanager

    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    @contextmanager
    def log() -> Any:  # noqa: ANN401
        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console) as bars:
            tasks: dict[str, Any] = {}

            def report(step: "Progress") -> None:
                if step.stage not in tasks:
                    tasks[step.stage] = bars.add_task(step.stage, total=step.n_epochs)
                bars.update(tasks[step.stage], completed=step.epoch)
                console.print(
                    f"{step.stage} {step.epoch}/{step.n_epochs}  loss {step.loss:.4f}  "
                    f"validation {step.measure} {step.validation:.4f}"
                )

            yield report

    return log()


def _torch_device(device: Device) -> str:
    import torch

    if device is Device.AUTO:
        return "cuda" if torch.cuda.is_available() else "cpu"
    return device.value


if __name__ == "__main__":
    main()
