"""Associations of a cohort: set up a run, watch it, and read what it found.

A run is a job of its own (`phenokit.jobs`), so it goes on when the tab is closed, and the
page finds it again. What it found is read from its folder.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from importlib.metadata import version
from typing import Any

import pandas as pd
import streamlit as st

from pages import _audit, _cohorts, _job_progress, _pair, _panels, _widgets
from phenokit.batch.associate import AssociationOptions, default_options
from phenokit.errors import BadInput, OutputBusy, PhenoKitError
from phenokit.evidence.associations import FEWEST_CASES, plan_tests
from phenokit.jobs import (
    Job,
    JobState,
    cancel_job,
    find_job,
    jobs_folder,
    list_jobs,
    resume_job,
    start_job,
)
from phenokit.readers.cohort_folders import CohortFolder
from phenokit.readers.cohorts import Linking
from phenokit.readers.phecodes import CaseRule
from phenokit.report.association_figures import (
    MAX_FOREST,
    draw_comparison,
    draw_distances,
    draw_forest,
    draw_manhattan,
    draw_specificity,
)
from phenokit.report.associations import (
    KIND_WORDS,
    AssociationResult,
    attrition_table,
    coverage_sentence,
    export_associations,
    exposure_name,
    format_odds_ratio,
    format_p,
    hide_small,
    not_tested_table,
    overview,
    read_result,
    rows_tested,
    search_rows,
    strongest_pairs,
    top_rows,
    with_names,
)
from phenokit.report.ecg_paper import BANNER
from phenokit.report.explanation import count
from phenokit.statements import clinical_name

NEW = "new"
SECONDS_BETWEEN_LOOKS = 1.0
STATES = {
    JobState.WAITING: "… waiting",
    JobState.RUNNING: "… running",
    JobState.FINISHED: "✓ finished",
    JobState.FAILED: "✕ failed",
    JobState.CANCELLED: "✕ cancelled",
    JobState.STOPPED: "✕ stopped: its process died",
}
RULES = {
    "any_time": "Any time: all codes of the patient",
    "same_admission": "Same admission: codes of the stay in which the ECG was recorded",
    "window": "Window: codes within days of the ECG",
}
UNITS = {
    "first": "First ECG of each patient",
    "last": "Last ECG of each patient",
    "first_in_admission": "First ECG during an admission",
    "all": "All ECGs (errors clustered by patient)",
}
REFINEMENTS = {
    "p": "Exact fit where the score test gives p < 0.05",
    "all": "Exact fit of every pair (slower)",
    "none": "Score test only (fastest)",
    "firth": "Firth's penalised fit of every pair (slowest)",
}
VIEWS = {
    "exposure": "Exposures and phecodes",
    "comparisons": "Prototypes against classes",
    "time": "Time to the first code",
    "not_tested": "Why not tested",
    "rules": "Cohort and rules",
}
TABLE = (
    "phecode", "phecode_string", "odds_ratio", "conf_int_1", "conf_int_2", "p_value",
    "cases", "controls", "p_bonferroni", "q_bh", "auc", "auc_conf_int_1",
    "auc_conf_int_2", "n_excluded", "method", "code", "phecode_category",
)  # fmt: skip
"""Columns that are shown first; an export has all of them."""
NUMBERS = {
    **dict.fromkeys(
        ("odds_ratio", "conf_int_1", "conf_int_2", "auc", "auc_conf_int_1",
         "auc_conf_int_2", "prototype_auc", "other_auc", "difference", "distance",
         "hazard_ratio", "log_hazard_ratio", "standard_error", "beta",
         "proportional_hazards_p"),
        "%.2f",
    ),
    **dict.fromkeys(
        ("p_value", "p_bonferroni", "q_bh", "p_permutation", "log_rank_p"), "%.1e"
    ),
    **dict.fromkeys(("cases", "controls", "n_total", "n_excluded"), "localized"),
    "neg_log_p_value": "%.1f",
    "median_days": "%.0f",
}  # fmt: skip


def main() -> None:
    st.title("Associations")
    left, right = st.columns(2, gap="medium")
    with left:
        chosen = _cohorts.choose_cohort()
    if chosen is None:
        return
    key, cohort = chosen
    with right:
        job_id = choose_run(key, cohort)
    if job_id == NEW:
        show_setup(key, cohort)
        return
    job = find_job(jobs_folder(), job_id)
    if job.state is JobState.FINISHED:
        show_finished(key, cohort, job)
    else:
        show_job(job)


# Runs


def choose_run(key: str, cohort: CohortFolder) -> str:
    """Id of a run of this cohort, the latest at first, or `NEW`."""
    jobs = {job.job_id: job for job in list_jobs(jobs_folder()) if _is_of(job, cohort)}
    state = f"run-{key}"
    if st.session_state.get(state) not in {NEW, *jobs}:
        wanted = st.query_params.get("run")
        first = next(iter(jobs), NEW)
        st.session_state[state] = wanted if wanted in {NEW, *jobs} else first
    chosen = st.selectbox(
        f"Run ({count(len(jobs), 'earlier run')})",
        [NEW, *jobs],
        format_func=lambda one: "Set up a new run" if one == NEW else _run_words(jobs[one]),
        key=state,
    )
    st.query_params["run"] = chosen
    return chosen


def _is_of(job: Job, cohort: CohortFolder) -> bool:
    return job.arguments[:1] == ("associate",) and str(cohort.path) in job.arguments


def _run_words(job: Job) -> str:
    asked = datetime.fromisoformat(job.asked)
    return f"{asked:%Y-%m-%d %H:%M} UTC · {job.title} · {STATES[job.state]}"


# Set up


@dataclass(frozen=True)
class Tested:
    """What the reader chose to test, and against which covariates."""

    kinds: tuple[str, ...]
    names: tuple[str, ...]
    one: str | None
    features: tuple[str, ...]
    covariates: tuple[str, ...]
    drop: bool

    @property
    def title(self) -> str:
        """In a word or two, for the list of runs."""
        kinds = [self.one] if self.one else [KIND_WORDS[kind] for kind in self.kinds]
        return ", ".join([*kinds, *self.features])


def show_setup(key: str, cohort: CohortFolder) -> None:
    """What is tested and how, with what it comes to while it is being chosen."""
    try:
        _cohorts.worklist(cohort)
        patients = _cohorts.tables(cohort.path).patients
        defaults = default_options(cohort.path, AssociationOptions())
    except BadInput as error:
        _cohorts.show_refused(error)
        return
    left, middle, right = st.columns(3, gap="large")
    with left:
        st.subheader("What is tested", anchor=False)
        tested = ask_exposures(key, cohort, patients)
    with middle:
        st.subheader("Who is a case", anchor=False)
        phecodes, cases, linking = ask_cases(key, defaults)
    with right:
        st.subheader("How", anchor=False)
        can_compare = (
            {"prototype", "class"} <= set(tested.kinds)
            and tested.one is None
            and linking.unit != "all"
        )
        minimum_cases, method = ask_method(key, defaults, can_compare=can_compare)
    rules = (phecodes, cases, linking, tested.covariates if tested.drop else ())
    n_exposures = len(tested.names) + len(tested.features)
    if not show_coverage(cohort, rules, minimum_cases, n_exposures):
        return
    arguments = [
        *("associate", "--cohort", str(cohort.path), "--kinds", ",".join(tested.kinds)),
        *(["--exposure", tested.one] if tested.one else []),
        *(["--patient-exposures", ",".join(tested.features)] if tested.features else []),
        *("--covariates", ",".join(tested.covariates)),
        *(["--drop-incomplete"] if tested.drop else []),
        *("--phecode-version", phecodes, "--minimum-codes", str(cases.minimum_codes)),
        *("--linking", linking.rule, "--unit", linking.unit),
        *("--days-before", str(linking.days_before)),
        *("--days-after", str(linking.days_after)),
        *("--minimum-cases", str(minimum_cases), *method),
    ]
    st.button(
        "Run", type="primary", key="start",
        on_click=_audit.logged(start, "job", detail="start associate"),
        args=(key, tested.title, arguments),
    )  # fmt: skip
    if message := st.session_state.pop("refused", None):
        st.warning(message)


def ask_exposures(key: str, cohort: CohortFolder, patients: pd.DataFrame) -> Tested:
    """Exposures and covariates."""
    kinds = st.pills(
        "Exposures from the ECG",
        [kind for kind in KIND_WORDS if kind != "feature"],
        format_func=lambda kind: KIND_WORDS[kind].capitalize(),
        selection_mode="multi",
        default=["prototype", "class", "prototype_class"],
        key=f"kinds-{key}",
    )
    try:
        names = _cohorts.exposure_names(cohort, kinds)
    except PhenoKitError as error:
        st.warning("The model that scored this cohort is not at hand.")
        st.text(str(error))
        names, kinds = [], []
    one = st.selectbox(
        f"Only one of these {count(len(names), 'exposure')} (optional)", names,
        index=None, key=f"one-{key}", placeholder="All of them",
    )  # fmt: skip
    further = [name for name in patients if name not in _KNOWN]
    covariates = st.multiselect(
        "Adjusted for", ["age", "sex", *further], default=["age", "sex"],
        key=f"covariates-{key}",
    )  # fmt: skip
    numbers = [name for name in further if pd.api.types.is_float_dtype(patients[name])]
    features = st.multiselect(
        "Also test columns of the patients table",
        [name for name in ("age", *numbers) if name not in covariates],
        key=f"features-{key}",
        placeholder="Numbers that are not adjusted for",
    )
    drop = st.toggle("Leave out patients without a covariate", key=f"drop-{key}")
    return Tested(
        tuple(kinds),
        tuple(names) if one is None else (one,),
        one,
        tuple(features),
        tuple(covariates),
        drop,
    )


def ask_cases(key: str, defaults: AssociationOptions) -> tuple[str, CaseRule, Linking]:
    """Phecode version, case rule and linking rule."""
    phecodes = st.segmented_control(
        "Phecode version", ["1.2", "X"], required=True, default=defaults.phecode_version,
        key=f"phecode_version-{key}",
    )  # fmt: skip
    minimum_codes = st.number_input(
        "Codes that make a case (on different days)", 1, 10,
        defaults.cases.minimum_codes, key=f"minimum_codes-{key}",
        help="Two protect from codes of a mere suspicion. Discharge diagnoses have one "
        "date a stay and take 1.",
    )  # fmt: skip
    rule = _choice("Which codes count", RULES, defaults.linking.rule, f"linking-{key}")
    before, after = defaults.linking.days_before, defaults.linking.days_after
    if rule == "window":
        before = st.number_input("Days before the ECG", 0, 36_500, before, key=f"b-{key}")
        after = st.number_input("Days after the ECG", 0, 36_500, after, key=f"a-{key}")
    unit = _choice("Which ECG of a patient", UNITS, defaults.linking.unit, f"unit-{key}")
    linking = Linking(rule, int(before), int(after), unit)  # pyright: ignore[reportArgumentType]
    return str(phecodes), CaseRule(minimum_codes=int(minimum_codes)), linking


def ask_method(
    key: str, defaults: AssociationOptions, *, can_compare: bool
) -> tuple[int, list[str]]:
    """The minimum of cases, and the arguments of the command that say how."""
    minimum_cases = st.number_input(
        "Minimum of cases, and of controls", FEWEST_CASES, 100_000,
        defaults.settings.minimum_cases, key=f"minimum_cases-{key}",
    )  # fmt: skip
    refine = _choice("Method", REFINEMENTS, "p", f"refine-{key}")
    permutations = st.number_input(
        "Permutations for a family-wise p (0: none)", 0, 10_000, 0, step=100,
        key=f"permutations-{key}",
    )  # fmt: skip
    compare = st.toggle(
        "Compare prototypes with classes (takes minutes)", key=f"compare-{key}",
        disabled=not can_compare,
        help="Best prototype against best class of each phecode, specificity, distance "
        "within classes, prediction from all together. Needs all prototypes and class "
        "predictions, and one ECG a patient.",
    )  # fmt: skip
    return int(minimum_cases), [
        *(["--firth", "--refine", "all"] if refine == "firth" else ["--refine", refine]),
        *(["--permutations", str(permutations)] if permutations else []),
        *(["--compare"] if compare and can_compare else []),
    ]


_KNOWN = {"person_id", "sex", "age", "birth_date", "birth_year"}


def _choice(label: str, options: Mapping[str, str], default: str, key: str) -> str:
    names = list(options)
    index = names.index(default) if default in options else 0
    return st.selectbox(label, names, index, format_func=options.__getitem__, key=key)


def show_coverage(
    cohort: CohortFolder,
    rules: tuple[str, CaseRule, Linking, tuple[str, ...]],
    minimum_cases: int,
    n_exposures: int,
) -> bool:
    """How many phecodes will be tested, and why the others will not; False if none."""
    try:
        analysed = _cohorts.analysed(cohort, *rules)
    except BadInput as error:
        _cohorts.show_refused(error)
        return False
    plan = plan_tests(
        analysed.status, _cohorts.phecode_map(rules[0]).info, minimum_cases=minimum_cases
    )
    codes = plan["code"].value_counts().to_dict()
    n_tested = int(codes.pop("OK", 0))
    sentence = coverage_sentence(n_tested, codes, minimum_cases=minimum_cases)
    n_patients = len(set(analysed.patients["person_id"]))
    st.text(
        f"Will test {n_tested:,} of {len(plan):,} phecodes against "
        f"{count(n_exposures, 'exposure')} in {count(n_patients, 'patient')}: "
        f"{n_tested * n_exposures:,} tests. {sentence.split('. ', 1)[-1]}"
    )
    if not n_exposures:
        st.info("Choose at least one kind of exposure.")
    elif not n_tested:
        st.info("No phecode has enough cases and controls under these rules.")
    return bool(n_exposures and n_tested)


def start(key: str, title: str, arguments: Sequence[str]) -> None:
    """Start the run and open it."""
    try:
        job = start_job(jobs_folder(), title=title, arguments=arguments)
    except OutputBusy as error:
        st.session_state["refused"] = str(error)
        return
    st.session_state[f"run-{key}"] = job.job_id


# A run that has no result yet


def show_job(job: Job) -> None:
    """How far it is, or why it ended; looks again only while it runs."""
    look = st.fragment(
        show_progress, run_every=SECONDS_BETWEEN_LOOKS if job.is_live else None
    )
    look(job.job_id, job.is_live)


def show_progress(job_id: str, was_running: bool) -> None:
    with _widgets.guard(is_use=False):
        _show_progress(job_id, was_running)


def _show_progress(job_id: str, was_running: bool) -> None:
    job = find_job(jobs_folder(), job_id)
    if was_running != job.is_live:
        st.rerun()  # the whole page: it looks again only while something runs
    _job_progress.show(job, key="job")
    if job.is_live:
        st.caption(
            "This tab may be closed: the run goes on, and stands in the list of runs."
        )
        cancel = _audit.logged(cancel_job, "job", detail=f"cancel {job_id}")
        st.button("Cancel", key="cancel", on_click=cancel, args=(jobs_folder(), job_id))
        return
    if job.can_resume:
        again = _audit.logged(resume, "job", detail=f"resume {job_id}")
        st.button("Resume", type="primary", key="resume", on_click=again, args=(job_id,))
        st.caption("Resuming runs the same command again; finished parts are kept.")
    if message := st.session_state.pop("refused", None):
        st.warning(message)


def resume(job_id: str) -> None:
    """Run the command of a job that ended early again."""
    try:
        resume_job(jobs_folder(), job_id)
    except OutputBusy as error:
        st.session_state["refused"] = str(error)


# What a run found


@st.cache_resource(max_entries=3, show_spinner="Reading the result")
def _result(job: str, out: str, manifest: float) -> AssociationResult:
    return read_result(find_job(jobs_folder(), job).out)


@st.cache_resource(max_entries=3, show_spinner=False)
def _overview(job: str, manifest: float, _result: AssociationResult) -> pd.DataFrame:
    return overview(_result)


def show_finished(key: str, cohort: CohortFolder, job: Job) -> None:
    """The result of a run."""
    stamp = (job.out / "manifest.json").stat().st_mtime
    try:
        result = _result(job.job_id, str(job.out), stamp)
    except BadInput as error:
        st.error(f"The result of this run cannot be shown ({error.code}).")
        st.text(str(error))
        return
    _audit.seen("associations", code=job.job_id)
    _widgets.show([_panels.facts(_about(result))], key="about")
    table = _overview(job.job_id, stamp, result)
    views = [view for view in VIEWS if view != "time" or result.survival is not None]
    view = st.segmented_control(
        "Show", views, default=views[0], required=True, format_func=VIEWS.__getitem__,
        key="view",
    )  # fmt: skip
    if view == "exposure":
        explore(cohort, result, choose_exposure(job.job_id, table))
    elif view == "comparisons":
        show_comparisons(result)
    elif view == "not_tested":
        show_not_tested(result, table)
    elif view == "time" and result.survival is not None:
        show_survival(result.survival)
    else:
        show_rules(result)


def _about(result: AssociationResult) -> dict[str, str]:
    manifest, settings = result.manifest, result.manifest["settings"]
    linking = settings["linking"]
    rule = RULES[linking["rule"]].split(":")[0].lower()
    if linking["rule"] == "window":
        rule = f"{linking['days_before']} days before to {linking['days_after']} after"
    return {
        "Tests": f"{result.n_tests:,}",
        "Exposures": f"{len(result.exposures):,}",
        "Phecodes tested": f"{manifest['n_phecodes_tested']:,} of "
        f"{manifest['n_phecodes']:,} (version {result.cohort.get('phecode_version', '')})",
        "Patients": f"{manifest['n_patients']:,}",
        "A case has": count(settings["cases"]["minimum_codes"], "code") + " or more",
        "Codes that count": rule,
        "ECG": UNITS[linking["unit"]].removesuffix(" (errors clustered by patient)"),
        "Adjusted for": ", ".join(settings["covariates"]) or "nothing",
        "Minimum": f"{settings['settings']['minimum_cases']:,} cases and controls",
        "Model": f"{manifest['model']} {manifest['bundle_hash'][:8]}",
        "Run": str(manifest["run_id"]),
    }


def choose_exposure(job_id: str, table: pd.DataFrame) -> str:
    """The exposure that is looked at, the strongest at first."""
    st.header("Strongest exposures", anchor=False)
    kinds = [kind for kind in KIND_WORDS if (table["exposure_kind"] == kind).any()]
    kind = "all"
    if len(kinds) > 1:
        kind = st.segmented_control(
            "Kind of exposure",
            ["all", *kinds],
            default="all",
            required=True,
            format_func=lambda one: "All" if one == "all" else KIND_WORDS[one].capitalize(),
            key="overview_kind",
        )
    if kind != "all":
        table = table.loc[table["exposure_kind"] == kind]
    rows = table.to_dict("records")
    shown = pd.DataFrame(
        {
            "Exposure": table["name"],
            "Strongest association": [
                f"{row['phecode']} {row['phecode_string']}"
                if row["tested"]
                else "none tested"
                for row in rows
            ],
            "Odds ratio (95 %)": [
                format_odds_ratio(row["odds_ratio"], row["conf_int_1"], row["conf_int_2"])
                for row in rows
            ],
            "p": [format_p(p) for p in table["neg_log_p_value"]],
            "Significant": table["significant"],
            "Tested": table["tested"],
        }
    )
    state = st.dataframe(
        shown,
        hide_index=True,
        height=min(38 + 35 * len(shown), 250),
        selection_mode="single-row-required",
        on_select="rerun",
        key=f"overview-{job_id}-{kind}",
        alt=f"{len(shown)} exposures, the one with the smallest p first.",
    )
    st.caption(
        "Choose a row to see all its phecodes. “Significant” counts phecodes with p below "
        "0.05 divided by all tests of the run."
    )
    row = next(iter(state.selection.rows), 0)
    return str(table["exposure"].iloc[row])


@st.fragment
def explore(cohort: CohortFolder, result: AssociationResult, exposure: str) -> None:
    """Plot, table, forest and the chosen phecode of one exposure share one selection."""
    with _widgets.guard():
        _explore(cohort, result, exposure)


def _explore(cohort: CohortFolder, result: AssociationResult, exposure: str) -> None:
    name = exposure_name(result, exposure)
    st.header("All phecodes", anchor=False)
    st.text(name)
    rows, n_hidden = hide_small(result.rows_of(exposure), _cohorts.smallest_shown())
    with st.container(horizontal=True):
        show_fdr = st.toggle("Line of the 5 % false discovery rate", key="show_fdr")
        by_size = st.toggle("Size by odds ratio", key="by_size")
    marked = st.session_state.get("marked", ())
    drawing = draw_manhattan(
        rows,
        name=name,
        n_tests=result.n_tests,
        show_fdr=show_fdr,
        size_by_odds_ratio=by_size,
        marked=marked,
    )
    _widgets.show_figure(drawing, key="manhattan", on_select=_select_in_plot)
    st.caption(
        "Click a point to choose its phecode, or draw a box with the tool above the plot; "
        "a double click chooses none. What lies beyond the axis is an arrow with its value."
    )
    st.text(_coverage(result, exposure))
    if n_hidden:
        st.caption(f"{count(n_hidden, 'row')} with few patients are not shown here.")
    tested = top_rows(rows, len(rows))
    if tested.empty:
        st.info("No phecode could be tested with this exposure; see below why.")
        return
    selected = [
        one for one in st.session_state.get("selected", ()) if one in set(tested["phecode"])
    ]
    left, right = st.columns([5, 7], gap="medium")
    with left:
        show_table(result, tested, selected, exposure)
    with right:
        chosen = tested.loc[tested["phecode"].isin(selected)]
        st.subheader(
            f"Odds ratio of the {count(len(chosen), 'selected phecode')}"
            if len(chosen) else f"Odds ratios of the {min(len(tested), 20)} strongest",
            anchor=False,
        )  # fmt: skip
        _widgets.show_figure(
            draw_forest(chosen if len(chosen) else tested.head(20), name=name), key="forest"
        )
        if len(chosen) > MAX_FOREST:
            st.caption(f"The first {MAX_FOREST} of {len(chosen)} are drawn.")
    phecode = selected[0] if selected else str(tested["phecode"].iloc[0])
    _pair.show_pair(cohort, result, exposure, name, phecode, others=selected[1:])


def _select_in_plot() -> None:
    """Points that were clicked or boxed become the selection."""
    points = st.session_state["manhattan"].selection.points
    found = []
    for point in points:
        data = point.get("customdata")
        found.append(str(data[0] if isinstance(data, list) else data))
    st.session_state["selected"] = list(dict.fromkeys(found))
    st.session_state["pinned"] = st.session_state["selected"]
    st.session_state["marked"] = ()
    st.session_state["table_version"] = st.session_state.get("table_version", 0) + 1


def _select_in_table(key: str, phecodes: Sequence[str]) -> None:
    rows = st.session_state[key].selection.rows
    chosen = [phecodes[row] for row in rows]
    st.session_state["selected"] = chosen
    st.session_state["marked"] = tuple(chosen)


def show_table(
    result: AssociationResult, tested: pd.DataFrame, selected: Sequence[str], exposure: str
) -> None:
    """The tested phecodes, what was chosen in the plot first; search and export."""
    st.subheader("Table", anchor=False)
    words = st.text_input(
        "Search phecode or name", key="search", placeholder="for example heart"
    ).lower()
    pinned = [one for one in st.session_state.get("pinned", ()) if one in selected]
    table = search_rows(tested, words, first=pinned)
    key = f"table-{exposure}-{st.session_state.get('table_version', 0)}-{words}"
    phecodes = table["phecode"].tolist()
    st.dataframe(
        table,
        hide_index=True,
        height=520,
        column_order=TABLE,
        column_config=_columns(table),
        selection_mode="multi-row",
        selection_default={
            "selection": {"rows": [k for k, one in enumerate(phecodes) if one in selected]}
        },
        on_select=partial(_select_in_table, key, phecodes),
        key=key,
        alt=f"{len(table)} tested phecodes, the smallest p first.",
    )
    show_exports(result, exposure)


def _columns(table: pd.DataFrame) -> dict[str, Any]:
    columns: dict[str, Any] = {
        name: st.column_config.NumberColumn(format=kind)
        for name, kind in NUMBERS.items()
        if name in table
    }
    return columns | {"phecode_string": st.column_config.TextColumn(width=190)}


def show_exports(result: AssociationResult, exposure: str) -> None:
    """All rows of the exposure, tested or not, and the settings that they belong to."""
    name = f"phenokit-associations-{result.manifest.get('run_id', '')}"

    def file(kind: str, ending: str) -> bytes:
        rows, _ = hide_small(result.rows_of(exposure), _cohorts.smallest_shown())
        made = export_associations(
            rows, result, name, version=version("phenokit"), kind=kind
        )
        return made[f"{name}.{ending}"]

    with st.container(horizontal=True):
        for label, kind, ending in (
            ("CSV", "csv", "csv"), ("TSV", "tsv", "tsv"), ("Parquet", "parquet", "parquet"),
            ("Settings and hashes", "csv", "json"),
        ):  # fmt: skip
            _audit.download_button(
                label,
                partial(file, kind, ending),
                f"{name}.{ending}",
                key=f"export-{label}",
                bundle_hash=str(result.manifest.get("bundle_hash", "")),
                detail=f"associations {result.manifest.get('run_id', '')}",
            )
    st.caption(
        f"Every row of this exposure and all columns, those not tested included. {BANNER}."
    )


# Comparisons


def show_comparisons(result: AssociationResult) -> None:
    """Prototypes against classes: each comparison as a sentence, a figure and a table."""
    tables = result.comparisons
    if not tables:
        st.info(
            "Not computed in this run. Set up a new run with “Compare prototypes with "
            "classes” switched on."
        )
        return
    if (rows := tables.get("within_class_held_out")) is not None and len(rows):
        show_within_class(result)
    held_out = tables.get("best_held_out")
    if held_out is not None and len(held_out):
        show_best(result)
    if (rows := tables.get("distances")) is not None and len(rows):
        st.subheader("Distance between the prototypes of a class", anchor=False)
        st.text(str(result.sentences.get("distances", "")))
        named = rows.assign(label=[_label(one) for one in rows["label"]])
        _widgets.show_figure(draw_distances(named), key="distances")
        _as_table(named, "distances")
    if (rows := tables.get("specificity")) is not None and len(rows):
        st.subheader("In how many disease categories?", anchor=False)
        for sentence in _sentences(result, "specificity"):
            st.text(sentence)
        _widgets.show_figure(draw_specificity(rows), key="specificity")
        _as_table(rows, "specificity")
    if (rows := tables.get("prediction")) is not None and len(rows):
        st.subheader("All prototypes together against all classes together", anchor=False)
        st.text(str(result.sentences.get("prediction", "")))
        drawing = draw_comparison(
            with_names(rows, result), first="prototypes", second="classes",
            names=("all prototypes", "all class predictions"), title="Prediction",
        )  # fmt: skip
        _widgets.show_figure(drawing, key="prediction")
        _as_table(drawing.table, "prediction")


HALVES = {
    "held_out": "Held out: chosen on one half, compared on the other",
    "same": "Chosen and compared in the same patients (favours prototypes)",
}
"""In which patients the best prototype is chosen."""


def choose_patients(key: str) -> bool:
    """Whether the best are compared in other patients than they were chosen in."""
    chosen = st.segmented_control(
        "Patients", list(HALVES), default="held_out", required=True,
        format_func=HALVES.__getitem__, key=key,
    )  # fmt: skip
    return chosen == "held_out"


def show_within_class(result: AssociationResult) -> None:
    """The best prototype of each class against the prediction of that class."""
    st.subheader("Best prototype of a class against the class itself", anchor=False)
    held_out = choose_patients("within_which")
    name = "within_class_held_out" if held_out else "within_class"
    st.text(str(result.sentences.get(name, "")))
    rows = with_names(result.comparisons[name], result)
    rows["phecode_string"] = "(" + rows["label"] + ") " + rows["phecode_string"]
    shown = strongest_pairs(rows)
    drawing = draw_comparison(
        shown, first="prototype", second="other",
        names=("best prototype of the class", "prediction of the class"),
        title="Best prototype of each class",
    )  # fmt: skip
    _widgets.show_figure(drawing, key="within")
    st.caption(
        f"The {len(shown)} pairs of a class and a phecode with the highest AUC of either; "
        "a phecode with the same cases as the one above it stands once."
    )
    _as_table(rows, "within")


def show_best(result: AssociationResult) -> None:
    """The best prototype of each phecode against the best of another kind."""
    st.subheader("Best of all prototypes against best of all classes", anchor=False)
    kinds = list(dict.fromkeys(result.comparisons["best_held_out"]["against_kind"]))
    with st.container(horizontal=True, vertical_alignment="bottom"):
        against = st.segmented_control(
            "Against", kinds, default=kinds[0], required=True, key="against",
            format_func=lambda kind: KIND_WORDS[kind].capitalize(),
        )  # fmt: skip
        which = "best_held_out" if choose_patients("best_which") else "best"
    sentences = result.sentences.get(which, {})
    st.text(str(sentences.get(against, "") if isinstance(sentences, dict) else sentences))
    rows = result.comparisons.get(which, result.comparisons["best_held_out"])
    rows = with_names(rows.loc[rows["against_kind"] == against], result)
    drawing = draw_comparison(
        rows, first="prototype", second="other",
        names=("best prototype", f"best of the {KIND_WORDS.get(against, against)}"),
        title="Best prototype",
    )  # fmt: skip
    _widgets.show_figure(drawing, key="best")
    _as_table(drawing.table, "best")


def _sentences(result: AssociationResult, name: str) -> list[str]:
    said: Any = result.sentences.get(name, {})
    return [str(one) for one in said.values()] if isinstance(said, dict) else [str(said)]


def _as_table(rows: pd.DataFrame, name: str) -> None:
    with st.expander(f"The same as a table ({len(rows):,} rows)"):
        st.dataframe(
            rows, hide_index=True, column_config=_columns(rows), key=f"{name}-rows",
            alt=f"{name}: {len(rows)} rows.",
        )  # fmt: skip


def _label(label: str) -> str:
    try:
        return clinical_name(label)
    except KeyError:
        return label


def show_survival(rows: pd.DataFrame) -> None:
    """Hazard ratios of the strongest pairs, with their checks."""
    st.caption(
        "Cox models, hazard ratio per standard deviation. Patients who had the code before "
        "the ECG are left out and counted."
    )
    st.dataframe(
        rows, hide_index=True, column_config=_columns(rows), key="survival",
        alt=f"{len(rows)} hazard ratios.",
    )  # fmt: skip


# What was not tested, and the rules


def _coverage(result: AssociationResult, exposure: str) -> str:
    rows = result.rows_of(exposure)
    reasons = not_tested_table(rows)
    return coverage_sentence(
        len(rows_tested(rows)),
        dict(zip(reasons["code"], reasons["not_tested"], strict=True)),
        minimum_cases=result.manifest["settings"]["settings"]["minimum_cases"],
    )


def show_not_tested(result: AssociationResult, table: pd.DataFrame) -> None:
    """Counts by reason, and the rows: no silent gap."""
    names = dict(zip(table["exposure"], table["name"], strict=True))
    exposure = str(
        st.selectbox(
            "Exposure", list(names), format_func=names.__getitem__, key="not_tested_of"
        )
    )
    st.text(_coverage(result, exposure))
    rows = result.rows_of(exposure)
    reasons = not_tested_table(rows).set_index("code")
    if reasons.empty:
        return
    code = st.segmented_control(
        "Reason", list(reasons.index), default=reasons.index[0], required=True, key="why",
        format_func=lambda one: f"{reasons.loc[one, 'reason']} "
        f"({reasons.loc[one, 'not_tested']:,})",
    )  # fmt: skip
    lacking = rows.loc[rows["code"] == code].reset_index(drop=True)
    shown, n_hidden = hide_small(lacking, _cohorts.smallest_shown())
    st.dataframe(
        shown,
        hide_index=True,
        column_order=["phecode", "phecode_string", "cases", "controls", "n_excluded",
                      "sex_restriction", "phecode_category", "code", "note"],
        column_config=_columns(shown),
        key="not_tested",
        alt=f"{len(shown)} phecodes that were not tested.",
    )  # fmt: skip
    if n_hidden:
        st.caption(f"{count(n_hidden, 'row')} with few patients are not shown here.")


def show_rules(result: AssociationResult) -> None:
    """Who was analysed, and by which rules."""
    table = attrition_table(result.cohort)
    st.dataframe(
        table,
        hide_index=True,
        column_config={
            "rule": st.column_config.TextColumn("Rule", width="large"),
            "n_patients": st.column_config.NumberColumn(
                "Patients left", format="localized"
            ),
            "dropped_patients": st.column_config.NumberColumn(
                "dropped", format="localized"
            ),
            "n_recordings": st.column_config.NumberColumn("ECGs left", format="localized"),
            "dropped_recordings": st.column_config.NumberColumn(
                "dropped", format="localized"
            ),
        },
        key="rules",
        alt=f"{len(table)} rules that the cohort passed.",
    )
    notes = [str(note) for note in result.cohort.get("notes", ())]
    notes.append(f"Phecodes {result.cohort.get('phecode_version', '')}: "
                 f"{result.cohort.get('citation', '')}")  # fmt: skip
    _widgets.show([_panels.notes(notes)], key="notes")


_widgets.require_app()
main()
