"""`phenokit associate`: from the tables of a cohort to a folder of associations.

    associations.parquet         a row a pair (docs/associations.md)
    associations.csv             of these, the pairs that were tested
    not_tested.csv               why the others were not, a row a phecode and reason
    exposures.parquet            what each exposure is, its n, mean and SD
    cohort.json                  attrition, rules, mapping of the codes, citation
    patients.parquet             the rows that were analysed
    comparisons/                 prototypes against classes, on demand
    survival.parquet             hazard ratios of the strongest pairs, on demand
    manifest.json                settings, counts, hashes; the mark of a finished run

The phecodes are tested a part at a time. A run that was stopped goes on with the parts that
are missing, and ends with the same bytes.
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from jaxtyping import Int64

from phenokit.batch.exposures import (
    SCORE_KINDS,
    ClassScale,
    ExposureTable,
    cohort_exposures,
    feature_exposures,
    join,
    latent_vectors,
    score_exposures,
)
from phenokit.batch.follow_up import follow_up_of
from phenokit.batch.inputs import as_json, input_hashes, scores_folder
from phenokit.batch.run_folder import RunFolder, open_run
from phenokit.cohort import Cohort
from phenokit.errors import AnalysisRefused, BadInput
from phenokit.evidence.associations import (
    AssociationSettings,
    Kind,
    correct_for_multiplicity,
    scan_phecodes,
)
from phenokit.evidence.comparisons import (
    best_per_phecode,
    best_per_phecode_held_out,
    best_within_class,
    intra_class_distance,
    multivariable_prediction,
    specificity,
    split_patients,
)
from phenokit.evidence.covariates import Covariates, encode_covariates, no_covariates
from phenokit.evidence.time_to_code import associate_time_to_code
from phenokit.networks.checkpoint import Bundle, load_bundle
from phenokit.readers.cohort_folders import read_cohort_folder
from phenokit.readers.cohorts import (
    CohortTables,
    Linking,
    build_cohort,
    read_cohort_tables,
)
from phenokit.readers.mimic import is_mimic
from phenokit.readers.phecodes import (
    CaseRule,
    PhecodeMap,
    first_code_days,
    read_phecode_map,
)
from phenokit.readers.scores import Scores, read_scores

PHECODES_A_PART = 256
SHOWN_AT_MOST = 20
"""Phecodes at most whose prediction from all exposures is fitted: the most significant."""

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class AssociationInputs:
    """Where a cohort and its exposures come from.

    Attributes
    ----------
    cohort
        A cohort folder or the folder `hosp` of MIMIC-IV; the files below take the place of
        the folder's.
    scores
        Folder that `phenokit score` wrote.
    exposures
        CSV of numbers by `person_id` or `record_id`.
    patients, diagnoses, phecode_counts, admissions, recordings, follow_up
        Single tables, see docs/cohort.md.
    phecode_info, phecode_icd
        A phecode map of one's own.
    """

    cohort: Path | None = None
    scores: Path | None = None
    exposures: Path | None = None
    patients: Path | None = None
    diagnoses: Path | None = None
    phecode_counts: Path | None = None
    admissions: Path | None = None
    recordings: Path | None = None
    follow_up: Path | None = None
    phecode_info: Path | None = None
    phecode_icd: Path | None = None


@dataclass(frozen=True)
class AssociationOptions:
    """What is tested, and how.

    Attributes
    ----------
    kinds
        Kinds of exposures to take from the scores.
    names
        Of these exposures, those to test; empty: all.
    patient_exposures
        Columns of the patients table that are exposures, such as ``"age"``.
    class_scale
        Scale of the class predictions.
    covariates, splines
        Columns of the patients table, and those of them that enter as splines.
    drop_incomplete
        Whether rows without a covariate are left out, as a step of the attrition; else they
        are an error.
    phecode_version
        ``"1.2"`` or ``"X"``, or the name of one's own map.
    cases, linking
        Who is a case; which codes speak for which recording.
    settings
        Of the scan.
    compare
        Whether prototypes are compared with classes.
    n_time_to_code
        Strongest pairs for which Cox models are fitted, where there is a follow-up table.
    """

    kinds: tuple[Kind, ...] = SCORE_KINDS
    names: tuple[str, ...] = ()
    patient_exposures: tuple[str, ...] = ()
    class_scale: ClassScale = "logit"
    covariates: tuple[str, ...] = ("age", "sex")
    splines: tuple[str, ...] = ()
    drop_incomplete: bool = False
    phecode_version: str = "1.2"
    cases: CaseRule = field(default_factory=CaseRule)
    linking: Linking = field(default_factory=Linking)
    settings: AssociationSettings = field(default_factory=AssociationSettings)
    compare: bool = False
    n_time_to_code: int = 0


@dataclass(frozen=True)
class _Loaded:
    """Everything that a run reads."""

    tables: CohortTables
    phecode_map: PhecodeMap
    cohort: Cohort
    covariates: Covariates
    exposures: ExposureTable
    scores: Scores | None
    bundle: Bundle | None


def run_association(
    inputs: AssociationInputs,
    options: AssociationOptions,
    out: Path,
    *,
    restart: bool = False,
    progress: Progress = lambda stage, done, of: None,
) -> dict[str, Any]:
    """Test a cohort's exposures for association with phecodes and write the folder.

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
        As the readers, and where options contradict the inputs.
    AnalysisRefused
        If nothing can be tested.
    OutputBusy
        If another process runs in the folder.
    """
    plan = {"inputs": input_hashes(inputs), "options": as_json(asdict(options))}
    with open_run(out, plan=plan, command="associate", restart=restart) as run:
        if run.manifest is not None:
            return run.manifest

        def report(stage: str, done: int, of: int) -> None:
            run.progress(done, of, stage=stage)
            progress(stage, done, of)

        report("reading", 0, 1)
        loaded = _load(inputs, options)
        _check(loaded, options)
        report("reading", 1, 1)
        associations = _scan(run, loaded, options, report)
        return _write(run, loaded, options, associations, report)


def default_options(folder: Path, options: AssociationOptions) -> AssociationOptions:
    """Options with what a cohort folder says of how it is best analysed.

    MIMIC-IV has discharge diagnoses, so that one code makes a case.

    Raises
    ------
    BadInput
        ``E_FORMAT`` if the folder asks for what cannot be.
    """
    if is_mimic(folder):
        return replace(options, cases=replace(options.cases, minimum_codes=1))
    if not (folder / "cohort.toml").is_file():
        return options
    said = read_cohort_folder(folder).defaults
    linking = {k: said[k] for k in ("days_before", "days_after", "unit") if k in said}
    if "linking" in said:
        linking["rule"] = said["linking"]
    cases = {k: said[k] for k in ("minimum_codes",) if k in said}
    settings = {k: said[k] for k in ("minimum_cases",) if k in said}
    try:
        return replace(
            options,
            phecode_version=str(said.get("phecode_version", options.phecode_version)),
            cases=replace(options.cases, **cases),
            linking=replace(options.linking, **linking),
            settings=replace(options.settings, **settings),
        )
    except ValueError as error:
        raise BadInput("E_FORMAT", f"cohort.toml: {error}.") from None


# --- reading ------------------------------------------------------------------------------


def _load(inputs: AssociationInputs, options: AssociationOptions) -> _Loaded:
    repeated = {*options.patient_exposures} & {*options.covariates}
    if repeated:
        name = min(repeated)
        raise BadInput(
            "E_COLUMNS",
            f"{name} is both exposure and covariate; leave it out of the covariates.",
            where=f"column {name}",
        )
    phecode_map = read_phecode_map(
        options.phecode_version, info=inputs.phecode_info, icd=inputs.phecode_icd
    )
    tables = read_cohort_tables(
        inputs.cohort,
        patients=inputs.patients,
        diagnoses=inputs.diagnoses,
        phecode_counts=inputs.phecode_counts,
        admissions=inputs.admissions,
        recordings=inputs.recordings,
        follow_up=inputs.follow_up,
    )
    scores = None if (folder := scores_folder(inputs)) is None else read_scores(folder)
    cohort = build_cohort(
        tables,
        phecode_map,
        cases=options.cases,
        linking=options.linking,
        scored=None if scores is None else scores.table,
    )
    if options.drop_incomplete:
        cohort = drop_incomplete(cohort, options.covariates)
    bundle = None if scores is None else load_bundle(scores.model)
    parts: list[ExposureTable] = []
    if scores is not None and bundle is not None and options.kinds:
        parts.append(
            score_exposures(
                cohort, scores, bundle, kinds=options.kinds, class_scale=options.class_scale
            )
        )
    if inputs.exposures is not None:
        parts.append(feature_exposures(cohort, inputs.exposures))
    if options.patient_exposures:
        parts.append(cohort_exposures(cohort, options.patient_exposures))
    exposures = _named(join(parts), options.names)
    covariates = (
        encode_covariates(cohort.patients, options.covariates, splines=options.splines)
        if options.covariates
        else no_covariates(len(cohort.patients))
    )
    return _Loaded(tables, phecode_map, cohort, covariates, exposures, scores, bundle)


def _check(loaded: _Loaded, options: AssociationOptions) -> None:
    """Refuse before the scan what could only fail after it."""
    tables, kinds = loaded.tables, loaded.exposures.exposures.kinds
    if options.compare and not {"prototype", "class"} <= set(kinds):
        raise BadInput(
            "E_COLUMNS",
            "A comparison needs scores with prototypes and class predictions; give scores "
            "and both kinds.",
        )
    if options.settings.n_permutations and options.linking.unit == "all":
        raise BadInput(
            "E_COLUMNS",
            "Permutations exchange patients and need one recording of each; take the "
            "first, or no permutations.",
        )
    if options.n_time_to_code:
        if tables.follow_up is None:
            raise BadInput("E_MISSING", "Hazard ratios need a follow-up table; give one.")
        if options.linking.unit == "all":
            raise BadInput("E_COLUMNS", "Hazard ratios need one recording a patient.")
        # Refused here if the codes have no dates.
        first_code_days(tables.diagnoses, [], loaded.phecode_map, [])


def drop_incomplete(cohort: Cohort, covariates: Sequence[str]) -> Cohort:
    """Leave out the rows that lack one of these columns, as a step of the attrition."""
    is_complete = np.ones(len(cohort.patients), dtype=bool)
    for name in covariates:
        if name in cohort.patients:
            values = cohort.patients[name]
            is_complete &= (values.notna() & (values != "")).to_numpy()
    if not is_complete.any():
        raise BadInput(
            "E_EMPTY",
            f"Nobody has all covariates ({', '.join(covariates)}); leave one out.",
        )
    return cohort.at_rows(
        np.flatnonzero(is_complete), rule=f"With all covariates ({', '.join(covariates)})"
    )


def _named(table: ExposureTable, names: Sequence[str]) -> ExposureTable:
    """Some of the exposures, by name."""
    if not names:
        return table
    position = {name: k for k, name in enumerate(table.exposures.names)}
    if unknown := [name for name in names if name not in position]:
        raise BadInput("E_COLUMNS", f"There is no exposure {unknown[0]}.")
    return table.at([position[name] for name in dict.fromkeys(names)])


# --- testing ------------------------------------------------------------------------------


def _scan(
    run: RunFolder, loaded: _Loaded, options: AssociationOptions, report: Progress
) -> pd.DataFrame:
    """Test the phecodes a part at a time; corrected over all parts."""
    status = loaded.cohort.status
    n_exposures = len(loaded.exposures.exposures.names)
    n_pairs = n_exposures * len(status)
    clusters = _clusters(loaded.cohort) if options.linking.unit == "all" else None
    done = run.done_parts()
    tables, largest_z = [], np.zeros(options.settings.n_permutations)
    firsts = range(0, len(status), PHECODES_A_PART)
    for k, first in enumerate(firsts):
        if k not in done:
            phecodes = range(first, min(first + PHECODES_A_PART, len(status)))
            scan = scan_phecodes(
                loaded.exposures.exposures,
                status.at_phecodes(phecodes),
                loaded.covariates,
                phecode_info=loaded.phecode_map.info,
                settings=options.settings,
                clusters=clusters,
                progress=lambda n, _, first=first: report(
                    "testing", first * n_exposures + n, n_pairs
                ),
            )
            part = pa.Table.from_pandas(scan.table, preserve_index=False)
            note = {b"largest_z": json.dumps(scan.largest_z.tolist()).encode()}
            run.write_part(k, part.replace_schema_metadata(note))
        part = run.read_part(k)
        metadata = part.schema.metadata or {}
        largest_z = np.maximum(largest_z, json.loads(metadata[b"largest_z"]))
        tables.append(part.to_pandas())
        report("testing", min((first + PHECODES_A_PART) * n_exposures, n_pairs), n_pairs)
    table = correct_for_multiplicity(pd.concat(tables, ignore_index=True), largest_z)
    if not (table["status"] == "tested").any():
        counts = table["code"].value_counts().to_dict()
        raise AnalysisRefused(
            f"Nothing can be tested: {_count_words(counts)} of {len(table):,} pairs."
        )
    return table


def _clusters(cohort: Cohort) -> Int64[np.ndarray, " row"]:
    """Patients of the rows, counted from 0; rows of a patient stand together."""
    return pd.factorize(cohort.patients["person_id"])[0].astype(np.int64)


def _count_words(counts: dict[str, int]) -> str:
    return ", ".join(f"{n:,} {code}" for code, n in counts.items())


# --- writing ------------------------------------------------------------------------------


def _write(
    run: RunFolder,
    loaded: _Loaded,
    options: AssociationOptions,
    associations: pd.DataFrame,
    report: Progress,
) -> dict[str, Any]:
    report("writing", 0, 1)
    scores = loaded.scores
    associations["model_version"] = (
        "" if scores is None else f"{scores.model} {scores.bundle_hash[:8]}"
    )
    associations["run_id"] = run.run_id
    run.write_frame("associations.parquet", associations)
    is_tested = associations["status"] == "tested"
    run.write_csv("associations.csv", associations.loc[is_tested])
    run.write_csv("not_tested.csv", _not_tested(associations.loc[~is_tested]))
    run.write_frame("exposures.parquet", loaded.exposures.summary())
    shown = [
        c for c in ("person_id", "record_id", "sex", "age") if c in loaded.cohort.patients
    ]
    run.write_frame("patients.parquet", loaded.cohort.patients.loc[:, shown])
    run.write_json("cohort.json", _cohort_words(loaded, options))
    if options.compare:
        _compare(run, loaded, options, associations, report)
    if options.n_time_to_code:
        _follow(run, loaded, options, associations, report)
    codes = Counter(associations["code"].tolist())
    status = Counter(associations["status"].tolist())
    manifest = {
        "format": "phenokit associations",
        "run_id": run.run_id,
        "model": "" if scores is None else scores.model,
        "bundle_hash": "" if scores is None else scores.bundle_hash,
        "settings": as_json(asdict(options)),
        "n_tests": status["tested"],
        "n_exposures": len(loaded.exposures.exposures.names),
        "n_phecodes": len(loaded.cohort.status),
        "n_phecodes_tested": int(
            associations.loc[associations["status"] == "tested", "phecode"].nunique()
        ),
        "n_patients": int(loaded.cohort.patients["person_id"].nunique()),
        "n_rows": len(loaded.cohort.patients),
        "covariates": list(loaded.covariates.names),
        "status": {one: status[one] for one in ("tested", "not_tested")},
        "codes": dict(sorted(codes.items())),
    }
    run.finish(manifest)
    report("writing", 1, 1)
    assert run.manifest is not None
    return run.manifest


def _not_tested(rows: pd.DataFrame) -> pd.DataFrame:
    """Why phecodes were not tested: a row for each reason, with the exposures it hit."""
    what = ["phecode", "phecode_string", "phecode_category", "sex_restriction", "cases",
            "controls", "n_total", "n_excluded", "status", "code", "note"]  # fmt: skip
    groups = rows.groupby(what, sort=False, dropna=False)["exposure"]
    return groups.agg(n_exposures="size").reset_index()


def _strongest(associations: pd.DataFrame) -> pd.DataFrame:
    """The tested pairs, strongest first."""
    tested = associations.loc[associations["status"] == "tested"]
    order = np.argsort(-tested["neg_log_p_value"].to_numpy(), kind="stable")
    return tested.iloc[order]


def _cohort_words(loaded: _Loaded, options: AssociationOptions) -> dict[str, Any]:
    cohort = loaded.cohort
    mapping = cohort.mapping
    return {
        "attrition": [asdict(step) for step in cohort.attrition],
        "notes": [*cohort.notes, *loaded.covariates.notes],
        "case_rule": asdict(options.cases),
        "linking": asdict(options.linking),
        "phecode_version": loaded.phecode_map.version,
        "citation": loaded.phecode_map.citation,
        "covariates": list(loaded.covariates.names),
        "collinear": list(loaded.covariates.collinear),
        "mapping": None
        if mapping is None
        else {
            **asdict(mapping),
            "rate": None if math.isnan(mapping.rate) else mapping.rate,
        },
    }


def _compare(
    run: RunFolder,
    loaded: _Loaded,
    options: AssociationOptions,
    associations: pd.DataFrame,
    report: Progress,
) -> None:
    """The paper's comparisons: tables, and one sentence each."""
    exposures = loaded.exposures.exposures
    assert loaded.bundle is not None
    n_steps = 6
    people = loaded.cohort.patients["person_id"].tolist()
    seeds = np.random.SeedSequence(options.settings.seed).spawn(3)
    report("comparing", 0, n_steps)
    common = (exposures.values, exposures.names, exposures.kinds, loaded.cohort.status)
    best = best_per_phecode(*common, associations=associations)
    report("comparing", 1, n_steps)
    held_out = best_per_phecode_held_out(
        *common,
        associations=associations,
        patient_ids=people,
        rng=np.random.default_rng(seeds[0]),
    )
    report("comparing", 2, n_steps)
    within, within_held_out = (
        best_within_class(
            exposures.values,
            exposures.names,
            exposures.kinds,
            loaded.exposures.labels,
            loaded.cohort.status,
            associations=associations,
            halves=halves,
        )
        for halves in (None, split_patients(people, np.random.default_rng(seeds[2])))
    )
    report("comparing", 3, n_steps)
    specific = specificity(associations)
    is_prototype = np.array([kind == "prototype" for kind in exposures.kinds])
    is_class = np.array([kind == "class" for kind in exposures.kinds])
    own = [k for k, kind in enumerate(exposures.kinds) if kind == "prototype"]
    vectors = latent_vectors(loaded.bundle)
    distance = intra_class_distance(
        [vectors[loaded.exposures.prototype_ids[k]] for k in own],
        [loaded.exposures.labels[k] for k in own],
        [exposures.names[k] for k in own],
        associations=associations,
    )
    report("comparing", 4, n_steps)
    strongest = set(_strongest(associations)["phecode"].unique()[:SHOWN_AT_MOST])
    status = loaded.cohort.status
    chosen = [j for j, phecode in enumerate(status.phecodes) if phecode in strongest]
    complete = ~np.isnan(exposures.values[:, is_prototype | is_class]).any(axis=1)
    rows = np.flatnonzero(complete)
    prediction = multivariable_prediction(
        exposures.values[np.ix_(rows, np.flatnonzero(is_prototype))].astype(np.float64),
        exposures.values[np.ix_(rows, np.flatnonzero(is_class))].astype(np.float64),
        status.at_phecodes(chosen).at_rows(rows),
        patient_ids=[people[row] for row in rows],
        rng=np.random.default_rng(seeds[1]),
    )
    report("comparing", 5, n_steps)
    for name, result in {
        "best": best,
        "best_held_out": held_out,
        "within_class": within,
        "within_class_held_out": within_held_out,
        "specificity": specific,
        "distances": distance,
        "prediction": prediction,
    }.items():
        run.write_frame(f"comparisons/{name}.parquet", result.table)
        run.write_csv(f"comparisons/{name}.csv", result.table)
    others = [k for k in dict.fromkeys(exposures.kinds) if k != "prototype"]
    sentences = {
        "best": {kind: best.sentence(kind) for kind in others},
        "best_held_out": {kind: held_out.sentence(kind) for kind in others},
        "specificity": {kind: specific.sentence(kind) for kind in others},
        "within_class": within.sentence(),
        "within_class_held_out": within_held_out.sentence(),
        "distances": distance.sentence(),
        "prediction": prediction.sentence(),
    }
    run.write_json("comparisons/sentences.json", sentences)
    report("comparing", n_steps, n_steps)


def _follow(
    run: RunFolder,
    loaded: _Loaded,
    options: AssociationOptions,
    associations: pd.DataFrame,
    report: Progress,
) -> None:
    """Cox models of the strongest pairs, from the recording to the first code after it."""
    tables, cohort = loaded.tables, loaded.cohort
    strongest = _strongest(associations).head(options.n_time_to_code)
    pairs = list(zip(strongest["exposure"], strongest["phecode"], strict=True))
    phecodes = list(dict.fromkeys(phecode for _, phecode in pairs))
    people = cohort.patients["person_id"]
    follow_up = follow_up_of(
        tables,
        loaded.phecode_map,
        people.tolist(),
        cohort.patients["time"].to_numpy(),
        phecodes,
    )
    names = loaded.exposures.exposures.names
    values = loaded.exposures.exposures.values
    rows = []
    for done, pair in enumerate(pairs):
        report("following", done, len(pairs))
        exposure = {pair[0]: values[:, names.index(pair[0])].astype(np.float64)}
        rows.append(
            associate_time_to_code([pair], exposure, follow_up, loaded.covariates.values)
        )
    report("following", len(pairs), len(pairs))
    table = pd.concat(rows, ignore_index=True)
    run.write_frame("survival.parquet", table)
    run.write_csv("survival.csv", table)
