"""`phenokit risk`: from a table or a cohort to a folder of risks of tested and untested.

    risk.parquet, risk.csv       a row a patient: risk, its intervals, the features
    posterior.parquet            draws of every quantity; free.parquet: without a prevalence
    summary.csv                  their means and intervals
    diagnostics.json             the gate, the checks, the flags, the limits
    fifths.csv, groups.csv, ...  a table for each figure of the report
    cohort.json                  attrition, notes
    report.html                  all of it on one page, for a browser without a network
    refusal.json                 instead of all this, where the analysis was refused
    manifest.json                settings, counts, hashes; the mark of a finished run

The fit is written as soon as it stands, and each setting of the viable range with it: a run
that was stopped goes on from there, and ends with the same bytes.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float64

from phenokit.batch.associate import drop_incomplete
from phenokit.batch.exposures import (
    ClassScale,
    feature_exposures,
    join,
    score_exposures,
)
from phenokit.batch.inputs import as_json, input_hashes, scores_folder
from phenokit.batch.run_folder import RunFolder, open_run
from phenokit.errors import AnalysisRefused, BadInput
from phenokit.evidence.psis import weighted_quantile
from phenokit.evidence.risk import (
    LIMITS,
    Flag,
    Population,
    RiskDiagnostics,
    RiskPosterior,
    SelectiveLabelsModel,
    without_nan,
)
from phenokit.evidence.risk_summaries import (
    calibration_tested,
    cohort_risk,
    decision_curve,
    fifth_of_risk,
    odds_ratios,
    prior_posterior,
    recalibration,
    risk_fifths,
    risk_histograms,
    sensitivity_strip,
    under_tested_groups,
)
from phenokit.evidence.selection_comparators import MEANS, fit_comparators
from phenokit.evidence.viable_range import (
    Setting,
    SettingFit,
    ViableRange,
    fit_by_laplace,
    fit_viable_range,
    settings_around,
)
from phenokit.networks.checkpoint import load_bundle
from phenokit.readers.cohorts import CohortTables, Linking, build_cohort, read_cohort_tables
from phenokit.readers.mimic import is_mimic, lab_outcome
from phenokit.readers.outcomes import read_lab_outcome, read_risk_table
from phenokit.readers.phecodes import CaseRule, read_phecode_map
from phenokit.readers.scores import read_scores
from phenokit.report.risk import read_risk_run, write_report

FORMAT = "phenokit risk"
MOST_LEVELS = 50
"""Of a feature of text; one with more is an id."""
Z_95 = 1.959963984540054

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class RiskInputs:
    """Where patients, features and outcomes come from: a table, or a cohort.

    Attributes
    ----------
    table
        A row a patient: features, who was tested, the outcome of the tested.
    cohort
        A cohort folder with a table ``labs``, or the folder `hosp` of MIMIC-IV.
    scores
        Folder that `phenokit score` wrote; else ``scores`` of the cohort folder.
    exposures
        CSV of numbers by `person_id` or `record_id`, whose columns may be features.
    labs
        Laboratory results; else ``labs.csv`` of the cohort folder.
    """

    table: Path | None = None
    cohort: Path | None = None
    scores: Path | None = None
    exposures: Path | None = None
    labs: Path | None = None


@dataclass(frozen=True)
class RiskOptions:
    """What is estimated, and what is assumed.

    Attributes
    ----------
    tested, outcome
        Columns of the table.
    test, above, below, results
        Of a cohort: the laboratory test, the limit from which on a result is abnormal, and
        whether the first or any result counts. MIMIC-IV flags abnormal results itself.
    features
        Columns of the table, or of the patients table of the cohort. A column of text
        becomes an indicator for each level but the most frequent.
    exposures
        Of the cohort's ECGs: names such as ``"class AFIB"`` or ``"prototype 17"``.
    class_scale
        Scale of a class prediction.
    drop_incomplete
        Whether patients without a feature are left out, as a step of the attrition; else
        they are an error.
    testing_features
        Features that may affect testing beyond risk; None: all of them.
    prevalence, prevalence_sd, prevalence_source
        Stated for this population, its standard deviation, and where it comes from.
    kind, alpha, sigma, engine, n_chains, n_warmup, n_draws, seed
        Of `SelectiveLabelsModel`.
    threshold
        Risk at or above which something would be done; None: the mean risk.
    viable
        Settings of the viable range: none, one change at a time, or every combination.
    minimum_group
        Patients below which a group is suppressed.
    """

    tested: str = "tested"
    outcome: str = "outcome"
    test: str = ""
    above: float | None = None
    below: float | None = None
    results: Literal["first", "any"] = "first"
    features: tuple[str, ...] = ()
    exposures: tuple[str, ...] = ()
    class_scale: ClassScale = "logit"
    drop_incomplete: bool = False
    testing_features: tuple[str, ...] | None = None
    prevalence: float | None = None
    prevalence_sd: float | None = None
    prevalence_source: str = ""
    kind: Literal["uniform", "normal", "normal_alpha", "heckman"] = "uniform"
    alpha: float = 1.0
    sigma: float = 1.0
    engine: Literal["laplace", "nuts"] = "nuts"
    n_chains: int = 4
    n_warmup: int = 1_000
    n_draws: int = 1_000
    seed: int = 0
    threshold: float | None = None
    viable: Literal["none", "single", "crossed"] = "single"
    minimum_group: int = 10


@dataclass(frozen=True)
class RiskData:
    """Patients as they enter a fit.

    Attributes
    ----------
    person_ids
        Text, a row a patient.
    features
        Columns of numbers.
    tested, outcome
        As `SelectiveLabelsModel.fit` takes them.
    columns
        For each feature that was asked for, its columns in `features`.
    attrition, notes
        How many patients each rule left, and sentences for the report.
    tables
        Of a cohort; None where a table was read.
    """

    person_ids: tuple[str, ...]
    features: pd.DataFrame
    tested: Float64[np.ndarray, " row"]
    outcome: Float64[np.ndarray, " row"]
    columns: Mapping[str, tuple[str, ...]]
    attrition: tuple[Mapping[str, Any], ...] = ()
    notes: tuple[str, ...] = ()
    tables: CohortTables | None = field(default=None, repr=False)

    @cached_property
    def n_tested(self) -> int:
        """Patients whose outcome is known."""
        return int((self.tested == 1).sum())

    @cached_property
    def n_cases(self) -> int:
        """Tested patients with the outcome."""
        return int((self.outcome == 1).sum())

    @property
    def prevalence_bounds(self) -> tuple[float, float]:
        """Exact bounds of the prevalence among these patients."""
        n = len(self.person_ids)
        return self.n_cases / n, (self.n_cases + n - self.n_tested) / n

    def columns_of(self, names: Sequence[str]) -> tuple[str, ...]:
        """Columns of features, which may be named by their feature or by their column.

        Raises
        ------
        BadInput
            ``E_COLUMNS`` if there is no such feature.
        """
        found: list[str] = []
        for name in names:
            if name in self.columns:
                found += self.columns[name]
            elif name in self.features:
                found.append(name)
            else:
                raise BadInput(
                    "E_COLUMNS",
                    f"{name} is to affect testing and is no feature; add it to the "
                    "features, or leave it out.",
                    where=f"column {name}",
                )
        return tuple(dict.fromkeys(found))


def run_risk(
    inputs: RiskInputs,
    options: RiskOptions,
    out: Path,
    *,
    restart: bool = False,
    progress: Progress = lambda stage, done, of: None,
) -> dict[str, Any]:
    """Fit, check, and write the folder.

    Parameters
    ----------
    out
        Folder of the run. One that holds a finished run of the same inputs and options is
        left alone.
    restart
        Throw away what another run left in the folder.
    progress
        Called with the stage, the steps done and the steps of the stage.

    Returns
    -------
    dict
        The manifest.

    Raises
    ------
    BadInput
        As the readers and `SelectiveLabelsModel.fit`.
    AnalysisRefused
        By a gate; ``refusal.json`` then says what the message says, and there is no number.
    OutputBusy
        If another process runs in the folder.
    """
    plan = {"inputs": input_hashes(inputs), "options": as_json(asdict(options))}
    with open_run(out, plan=plan, command="risk", restart=restart) as run:
        if run.manifest is not None:
            return run.manifest

        def report(stage: str, done: int, of: int) -> None:
            run.progress(done, of, stage=stage)
            progress(stage, done, of)

        report("reading", 0, 1)
        data = load_risk_data(inputs, options)
        report("reading", 1, 1)
        try:
            model = _fit(run, data, options, report)
        except AnalysisRefused as refusal:
            run.write_json(
                "refusal.json",
                {"code": refusal.code, "message": str(refusal), "limits": list(LIMITS)},
            )
            raise
        viable = _viable_range(run, data, options, model, report)
        return _write(run, data, options, model, viable, report)


# --- reading ------------------------------------------------------------------------------


def load_risk_data(inputs: RiskInputs, options: RiskOptions) -> RiskData:
    """Read patients, features and outcomes.

    Raises
    ------
    BadInput
        As the readers; ``E_COLUMNS`` if table and cohort are both, or neither, given.
    """
    if (inputs.table is None) == (inputs.cohort is None):
        raise BadInput("E_COLUMNS", "Give a table or a cohort, one of the two.")
    if inputs.table is not None:
        if options.exposures:
            raise BadInput("E_COLUMNS", "ECG exposures belong to a cohort, not a table.")
        read = read_risk_table(
            inputs.table,
            tested=options.tested,
            outcome=options.outcome,
            features=options.features,
        )
        features, columns, notes = _encode(read.patients, options.features)
        n = len(read.patients)
        return RiskData(
            tuple(read.patients["person_id"]),
            features,
            read.tested,
            read.outcome,
            columns,
            ({"rule": "Rows of the table", "n_patients": n, "dropped_patients": 0},),
            notes,
        )
    return _load_cohort(inputs, options)


def _load_cohort(inputs: RiskInputs, options: RiskOptions) -> RiskData:
    folder = inputs.cohort
    assert folder is not None
    if not options.test:
        raise BadInput("E_COLUMNS", "A cohort needs the name of the test.")
    tables = read_cohort_tables(folder)
    scores = None if (path := scores_folder(inputs)) is None else read_scores(path)
    if not options.exposures and inputs.exposures is None:
        scores = None  # a patient without a scored ECG is not left out for nothing
    cohort = build_cohort(
        tables,
        read_phecode_map("1.2"),
        cases=CaseRule(),
        linking=Linking(rule="any_time", unit="first"),
        scored=None if scores is None else scores.table,
    )
    if options.drop_incomplete:
        cohort = drop_incomplete(cohort, options.features)
    features, columns, notes = _encode(cohort.patients, options.features)
    parts = []
    if scores is not None and options.exposures:
        bundle = load_bundle(scores.model)
        parts.append(
            score_exposures(cohort, scores, bundle, class_scale=options.class_scale)
        )
    if inputs.exposures is not None:
        parts.append(feature_exposures(cohort, inputs.exposures))
    if options.exposures:
        if not parts:
            raise BadInput(
                "E_MISSING", "ECG exposures need the scores of the cohort; give them."
            )
        table = join(parts)
        place = {name: k for k, name in enumerate(table.exposures.names)}
        for name in options.exposures:
            if name not in place:
                raise BadInput("E_COLUMNS", f"There is no exposure {name}.")
            features[name] = table.exposures.values[:, place[name]].astype(np.float64)
            columns[name] = (name,)
    if features.empty:
        raise BadInput("E_COLUMNS", "There is no feature; name at least one.")
    people = cohort.patients["person_id"].tolist()
    if is_mimic(folder):
        known = lab_outcome(folder, options.test, rule=options.results)
        known = known.set_index("person_id").loc[people].reset_index()
        meaning = "flagged abnormal by the laboratory"
    else:
        known = read_lab_outcome(
            inputs.labs or folder / "labs.csv",
            people,
            test=options.test,
            above=options.above,
            below=options.below,
            rule=options.results,
        )
        limit = options.above if options.above is not None else options.below
        side = "at or above" if options.above is not None else "at or below"
        meaning = f"{side} {limit:g} {known.attrs['unit']}".rstrip()
    n_tested = int(known["tested"].sum())
    notes = (
        f"Outcome: {options.test} {meaning}, {options.results} result; {n_tested:,} of "
        f"{len(people):,} patients have one.",
        *notes,
        cohort.notes[2],  # of the age; the others are of diagnoses
        *tables.notes,
    )
    return RiskData(
        tuple(people),
        features,
        known["tested"].to_numpy(np.float64),
        known["outcome"].to_numpy(np.float64),
        columns,
        tuple(asdict(step) for step in cohort.attrition),
        notes,
        tables,
    )


def _encode(
    patients: pd.DataFrame, names: Sequence[str]
) -> tuple[pd.DataFrame, dict[str, tuple[str, ...]], tuple[str, ...]]:
    """Columns of numbers, the columns of each feature, and the reference levels."""
    found: dict[str, Any] = {}
    columns: dict[str, tuple[str, ...]] = {}
    notes: list[str] = []
    for name in names:
        if name not in patients:
            raise BadInput(
                "E_COLUMNS", f"There is no column {name}.", where=f"column {name}"
            )
        values = patients[name]
        if pd.api.types.is_numeric_dtype(values):
            found[name] = values.to_numpy(np.float64)
            columns[name] = (name,)
            continue
        missing = np.flatnonzero(values.isna() | (values == ""))
        if len(missing):
            rows = ", ".join(str(row + 1) for row in missing[:10])
            raise BadInput(
                "E_NONFINITE",
                f"Feature {name} is missing in {len(missing):,} rows (the first: {rows}); "
                "leave these patients out, or the feature.",
                where=f"column {name}, rows {rows}",
            )
        levels, counts = np.unique(values.to_numpy(str), return_counts=True)
        if not 2 <= len(levels) <= MOST_LEVELS:
            code = "N_CONSTANT" if len(levels) < 2 else "E_RANGE"
            raise BadInput(
                code,
                f"Feature {name} is text with {len(levels):,} different values; from 2 to "
                f"{MOST_LEVELS} can be used.",
                where=f"column {name}",
            )
        reference = levels[np.argmax(counts)]
        notes.append(f"The reference of {name} is {reference}.")
        others = [level for level in levels if level != reference]
        columns[name] = tuple(f"{name} {level}" for level in others)
        for level in others:
            found[f"{name} {level}"] = (values == level).to_numpy(np.float64)
    return pd.DataFrame(found, index=range(len(patients))), columns, tuple(notes)


# --- fitting ------------------------------------------------------------------------------


def _fit(
    run: RunFolder, data: RiskData, options: RiskOptions, report: Progress
) -> SelectiveLabelsModel:
    """The fitted model: fitted now, or by the run that was stopped."""
    report("fitting", 0, 1)
    model = SelectiveLabelsModel(
        options.kind,
        options.engine,
        alpha=options.alpha,
        sigma=options.sigma,
        n_chains=options.n_chains,
        n_warmup=options.n_warmup,
        n_draws=options.n_draws,
    )
    stated = {
        "prevalence": options.prevalence,
        "prevalence_sd": options.prevalence_sd,
        "testing_features": None
        if options.testing_features is None
        else list(data.columns_of(options.testing_features)),
        "seed": options.seed,
    }
    path = run.path / "fit.json"
    if path.is_file():
        model = _restore(run.path, json.loads(path.read_text()), data)
    else:
        model.fit(data.features, data.tested, data.outcome, **stated)
        seconds = json.dumps(dict(model.diagnostics_.seconds), indent=1)
        (run.path / "timings.json").write_text(seconds + "\n")
    run.write_frame("posterior.parquet", model.draws_table())
    run.write_frame("free.parquet", model.draws_table(stated=False))
    run.write_json(
        "fit.json",
        {
            "model": model.get_params(),
            "stated": stated,
            "free_log_likelihood": model.free_log_likelihood,
            "diagnostics": {**model.diagnostics_.to_json(), "seconds": {}},
            "flags": [asdict(flag) for flag in model.flags_],
        },
    )
    report("fitting", 1, 1)
    return model


def _restore(folder: Path, kept: Mapping[str, Any], data: RiskData) -> SelectiveLabelsModel:
    return SelectiveLabelsModel(**kept["model"]).restore(
        data.features,
        data.tested,
        data.outcome,
        draws=_frame(folder / "posterior.parquet"),
        free_draws=_frame(folder / "free.parquet"),
        free_log_likelihood=kept["free_log_likelihood"],
        diagnostics=RiskDiagnostics.from_json(kept["diagnostics"]),
        flags=[Flag(**flag) for flag in kept["flags"]],
        **kept["stated"],
    )


def _frame(path: Path) -> pd.DataFrame:
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        return file.read().to_pandas()


def read_fitted(folder: Path) -> SelectiveLabelsModel:
    """The model that a run fitted, ready to answer; nothing is fitted anew.

    Raises
    ------
    BadInput
        ``E_MISSING`` if the folder does not hold a finished run.
    """
    if not (folder / "manifest.json").is_file():
        raise BadInput("E_MISSING", "The run has no manifest: it is not finished.")
    return read_fitted_with_data(folder)[0]


def read_fitted_with_data(folder: Path) -> tuple[SelectiveLabelsModel, RiskData]:
    """The fitted model of a finished run, and the patients that it was fitted to."""
    kept = json.loads((folder / "fit.json").read_text())
    said = json.loads((folder / "diagnostics.json").read_text())
    table = _frame(folder / "risk.parquet")
    data = RiskData(
        tuple(table["person_id"]),
        table.loc[:, said["features"]],
        table["tested"].to_numpy(np.float64),
        table["outcome"].to_numpy(np.float64),
        {name: tuple(columns) for name, columns in said["columns"].items()},
    )
    return _restore(folder, kept, data), data


def acknowledge_conflict(folder: Path) -> None:
    """Note that somebody read the conflict of the prevalence and accepts the results.

    The flag stays on everything; ``acknowledgement.json`` says when it was read.
    """
    now = datetime.now(UTC).isoformat(timespec="seconds")
    text = json.dumps({"code": "W_PREVALENCE_CONFLICT", "acknowledged": now}, indent=1)
    path = folder / "acknowledgement.json"
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text + "\n")
    temporary.replace(path)


# --- the viable range ---------------------------------------------------------------------


def _viable_range(
    run: RunFolder,
    data: RiskData,
    options: RiskOptions,
    model: SelectiveLabelsModel,
    report: Progress,
) -> ViableRange | None:
    """The range over settings, each kept as a part; None where none was asked for."""
    if options.viable == "none" or options.kind not in ("uniform", "normal"):
        return None
    free = model.table_.free
    interval = None
    if options.prevalence is not None and options.prevalence_sd is not None:
        half = Z_95 * options.prevalence_sd
        low, high = data.prevalence_bounds
        interval = (
            min(max(options.prevalence - half, low), high),
            max(min(options.prevalence + half, high), low),
        )
    stated = Setting(
        options.prevalence,
        tuple(model.table_.names[j] for j in free if j > 0),
        options.kind,
    )
    settings = settings_around(
        stated,
        features=list(data.features.columns),
        prevalence_interval=interval,
        crossed=options.viable == "crossed",
    )
    one = fit_by_laplace(
        data.features,
        data.tested,
        data.outcome,
        prevalence_sd=options.prevalence_sd,
        seed=options.seed,
    )
    number = {setting: k for k, setting in enumerate(settings)}
    done = run.done_parts()

    def fit(setting: Setting) -> SettingFit:
        k = number[setting]
        report("settings", k, len(settings))
        if k not in done:
            try:
                found, refusal = one(setting), ""
            except (AnalysisRefused, BadInput) as error:
                found, refusal = SettingFit(-np.inf, np.zeros(0)), str(error)
            part = pa.table({"risk": found.risk})
            note = {
                b"log_likelihood": repr(found.log_likelihood).encode(),
                b"refusal": refusal.encode(),
            }
            run.write_part(k, part.replace_schema_metadata(note))
        part = run.read_part(k)
        metadata = part.schema.metadata
        if refused := metadata[b"refusal"].decode():
            raise AnalysisRefused(refused)
        return SettingFit(float(metadata[b"log_likelihood"]), part["risk"].to_numpy())

    threshold = options.threshold or model.posterior_.mean("prevalence")
    found = fit_viable_range(settings, fit, threshold=threshold)
    report("settings", len(settings), len(settings))
    return found


# --- writing ------------------------------------------------------------------------------


def _write(
    run: RunFolder,
    data: RiskData,
    options: RiskOptions,
    model: SelectiveLabelsModel,
    viable: ViableRange | None,
    report: Progress,
) -> dict[str, Any]:
    report("panels", 0, 1)
    risk = _risk_table(data, model, viable)
    run.write_frame("risk.parquet", risk)
    run.write_csv("risk.csv", risk)
    run.write_csv("summary.csv", model.posterior_.summary.reset_index())
    numbers = _write_panels(run, data, options, model, risk["risk"].to_numpy())
    comparators = fit_comparators(
        data.features, data.tested, data.outcome, continuous=options.kind == "heckman"
    )
    own = _own_rows(model, data)
    run.write_csv("comparators.csv", pd.concat([own, comparators.table]))
    if viable is not None:
        run.write_csv("settings.csv", viable.settings)
    flags = [asdict(flag) for flag in model.flags_]
    if options.prevalence is not None and not options.prevalence_source:
        sources = "The source, population, age range and time window of the prevalence "
        notes = (f"{sources}were not stated.", *data.notes)
    else:
        notes = data.notes
    low, high = model.diagnostics_.prevalence_bounds
    run.write_json(
        "diagnostics.json",
        {
            **model.diagnostics_.to_json(),
            "seconds": {},
            "kind": options.kind,
            "features": list(data.features.columns),
            "columns": {name: list(columns) for name, columns in data.columns.items()},
            "testing_features": [model.table_.names[j] for j in model.table_.free if j > 0],
            "flags": flags,
            "limits": list(LIMITS),
            "prevalence": {
                "value": options.prevalence,
                "sd": options.prevalence_sd,
                "source": options.prevalence_source,
                "bounds": None if np.isnan(low) else [low, high],
            },
            "priors": {"beta_sd": 3.0, "shape_scale": model.shape_scale},
            "threshold": None if viable is None else viable.threshold,
            "viable_range": None
            if viable is None
            else {
                "sentence": viable.sentence(),
                "ambiguity": viable.ambiguity,
                "discrepancy": viable.discrepancy,
                "n_kept": viable.n_kept,
                "n_settings": viable.n_settings,
            },
            **without_nan(numbers),
            "comparators": list(comparators.notes),
        },
    )
    run.write_json(
        "cohort.json",
        {"attrition": [dict(step) for step in data.attrition], "notes": list(notes)},
    )
    report("panels", 1, 1)
    report("writing", 0, 1)
    manifest = {
        "format": FORMAT,
        "run_id": run.run_id,
        "settings": as_json(asdict(options)),
        "n_patients": len(data.person_ids),
        "n_tested": data.n_tested,
        "n_cases": data.n_cases if options.kind != "heckman" else None,
        "flags": [flag["code"] for flag in flags],
        "versions": {
            name: version(name) for name in ("phenokit", "numpy", "scipy", "numpyro", "jax")
        },
        "report": "report.html",
    }
    run.write("report.html", write_report(read_risk_run(run.path, manifest)).encode())
    run.finish(manifest)
    report("writing", 1, 1)
    assert run.manifest is not None
    return run.manifest


def _write_panels(
    run: RunFolder,
    data: RiskData,
    options: RiskOptions,
    model: SelectiveLabelsModel,
    risk: Float64[np.ndarray, " row"],
) -> dict[str, Any]:
    """A table for each figure; what of them is a number of its own."""
    X = data.features
    run.write_csv("priors.csv", prior_posterior(model))
    run.write_csv("odds_ratios.csv", odds_ratios(model, X))
    if options.prevalence is not None:
        run.write_csv("sensitivity.csv", sensitivity_strip(model))
    if options.kind == "heckman":
        return {}
    cohort = cohort_risk(model, X, data.tested, data.outcome, risk=risk)
    least = options.minimum_group
    fifths = risk_fifths(cohort, minimum=least)
    run.write_csv("fifths.csv", fifths.table)
    groups = under_tested_groups(cohort, minimum=least)
    run.write_csv("groups.csv", groups)
    run.write_csv("calibration.csv", calibration_tested(cohort, minimum=least))
    run.write_csv("histograms.csv", risk_histograms(model, cohort=cohort, minimum=least))
    run.write_csv("decision_curve.csv", decision_curve(cohort, minimum=least))
    slope = recalibration(cohort)
    return {
        "top_bottom_ratio": {
            "ratio": fifths.ratio,
            "low": fifths.ratio_low,
            "high": fifths.ratio_high,
            "observed": fifths.observed_ratio,
            "observed_low": fifths.observed_ratio_low,
            "observed_high": fifths.observed_ratio_high,
        },
        "recalibration": asdict(slope),
    }


def _risk_table(
    data: RiskData, model: SelectiveLabelsModel, viable: ViableRange | None
) -> pd.DataFrame:
    """A row a patient."""
    X = data.features
    columns: dict[str, Any] = {
        "person_id": list(data.person_ids),
        "tested": data.tested == 1,
        "outcome": data.outcome,
    }
    populations: dict[Population, str] = {
        "all": "risk",
        "untested": "risk_if_untested",
        "tested": "risk_if_tested",
    }
    for population, name in populations.items():
        estimate = model.risk_estimate(X, population).T
        for end, values in zip(("", "_low", "_high"), estimate, strict=True):
            columns[f"{name}{end}"] = values
    columns["unobserved"] = (
        np.full(len(X), np.nan)
        if model.kind == "heckman"
        else model.unobserved_mean(X, data.tested, data.outcome)
    )
    columns["fifth"] = fifth_of_risk(columns["risk"])
    for side in ("low", "high"):
        columns[f"viable_{side}"] = (
            np.full(len(X), np.nan) if viable is None else getattr(viable, side)
        )
    columns["flags"] = " ".join(flag.code for flag in model.flags_)
    table = pd.DataFrame(columns)
    if repeated := sorted(set(table) & set(X)):
        raise BadInput(
            "E_COLUMNS",
            f"A feature is called {repeated[0]}, as a column of the result; rename it.",
            where=f"column {repeated[0]}",
        )
    return pd.concat([table, X.reset_index(drop=True)], axis=1)


def _own_rows(model: SelectiveLabelsModel, data: RiskData) -> pd.DataFrame:
    """The model's answers as rows beside the comparators'."""
    posterior, rows = model.posterior_, []
    for name in model.table_.names:
        quantity = f"beta_Y[{name}]"
        if name == "intercept" and model.kind == "uniform":
            # the comparators know no Z, whose mean is sigma / 2
            found = posterior.draws[quantity] + posterior.draws["sigma"] / 2
            rows.append(("intercept", *_moments(found, posterior)))
            continue
        rows.append((name, *_of_summary(posterior, quantity)))
    names = dict(zip(MEANS, ("prevalence", "risk_tested", "risk_untested"), strict=True))
    rows += [(name, *_of_summary(posterior, own)) for name, own in names.items()]
    who = data.tested == 1
    predicted = model.predict(data.features.loc[who], "tested").mean()
    excess = float(predicted - data.outcome[who].mean())
    rows.append(("excess_among_tested", excess, np.nan, np.nan, np.nan))
    columns = ["quantity", "estimate", "standard_error", "conf_int_1", "conf_int_2"]
    table = pd.DataFrame(rows, columns=pd.Index(columns))
    table.insert(0, "method", "selective_labels")
    return table.assign(n=len(data.person_ids), code="OK")


def _of_summary(
    posterior: RiskPosterior, quantity: str
) -> tuple[float, float, float, float]:
    sd = float(posterior.summary.loc[quantity, "sd"])
    return (posterior.mean(quantity), sd, *posterior.interval(quantity))


def _moments(
    values: np.ndarray, posterior: RiskPosterior
) -> tuple[float, float, float, float]:
    weights = posterior.weights.ravel()
    mean = float(weights @ values.ravel())
    sd = float(np.sqrt(weights @ (values.ravel() - mean) ** 2))
    low, high = weighted_quantile(values.ravel(), weights, np.array([0.025, 0.975]))
    return mean, sd, float(low), float(high)
