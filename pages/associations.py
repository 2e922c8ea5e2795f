"""Associations of a cohort: set up a run, watch it, and read what it found.

A run is a job of its own (`phenokit.jobs`), so it goes on when the tab is closed, and the
page finds it again. What it found is read from its folder.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from importlib.metadata import version
from typing import Any

import pandas as pd
import streamlit as st

from pages import _cohorts, _pair, _panels, _widgets
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
    Drawing,
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
    top_rows,
    with_names,
)
from phenokit.report.ecg_paper import BANNER
from phenokit.report.explanation import count
from phenokit.statements import clinical_name

NEW = "new"
SECONDS_BETWEEN_LOOKS = 1.0
STATES = {
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
TABLE = (
    "phecode", "phecode_string", "phecode_category", "cases", "controls", "odds_ratio",
    "conf_int_1", "conf_int_2", "p_value", "p_bonferroni", "q_bh", "auc", "method", "code",
)  # fmt: skip
"""Columns that are shown first; an export has all of them."""
NUMBERS = {
    **dict.fromkeys(
        ("odds_ratio", "conf_int_1", "conf_int_2", "auc", "auc_conf_int_1",
         "auc_conf_int_2", "prototype_auc", "other_auc", "difference", "distance"),
        "%.2f",
    ),
    **dict.fromkeys(("p_value", "p_bonferroni", "q_bh", "p_permutation"), "%.1e"),
    **dict.fromkeys(("cases", "controls", "n_total", "n_excluded"), "localized"),
    "neg_log_p_value": "%.1f",
}  # fmt: skip


def main() -> None:
    st.title("Associations")
    chosen = _cohorts.choose_cohort()
    if chosen is None:
        return
    key, cohort = chosen
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


def show_setup(key: str, cohort: CohortFolder) -> None:
    """What is tested and how, with what it comes to while it is being chosen."""
    defaults = cohort.defaults
    try:
        _cohorts.worklist(cohort)
        patients = _cohorts.tables(cohort.path).patients
    except BadInput as error:
        _cohorts.show_refused(error)
        return
    left, middle, right = st.columns(3, gap="large")
    with left:
        st.subheader("What is tested", anchor=False)
        kinds = st.pills(
            "Exposures from the ECG",
            [kind for kind in KIND_WORDS if kind != "feature"],
            format_func=lambda kind: KIND_WORDS[kind].capitalize(),
            selection_mode="multi",
            default=["prototype", "class", "prototype_class"],
            key="kinds",
        )
        names = choose_exposures(cohort, kinds)
        own = ["age", *(c for c in patients if _is_number(patients[c]))]
        covariates = st.multiselect(
            "Covariates (adjusted for)",
            ["age", "sex", *sorted({c for c in patients if c not in _KNOWN})],
            default=["age", "sex"],
            key="covariates",
        )
        free = [name for name in dict.fromkeys(own) if name not in covariates]
        features = st.multiselect(
            "Further exposures from the patients table", free, key="features",
            placeholder="Age and other numbers that are not covariates",
        )  # fmt: skip
        drop = st.toggle("Leave out patients without a covariate", key="drop")
    with middle:
        st.subheader("Who is a case", anchor=False)
        phecodes = st.segmented_control(
            "Phecode version", ["1.2", "X"], required=True, key="phecode_version",
            default=str(defaults.get("phecode_version", "1.2")),
        )  # fmt: skip
        minimum_codes = st.number_input(
            "Codes that make a case (on different days)", 1, 10,
            int(defaults.get("minimum_codes", 2)), key="minimum_codes",
            help="Two protect from codes of a suspicion. Discharge diagnoses have one date "
            "a stay and take 1.",
        )  # fmt: skip
        linking = _choice(
            "Which codes count", RULES, str(defaults.get("linking", "any_time")), "linking"
        )
        before, after = 0, 365
        if linking == "window":
            before = st.number_input("Days before the ECG", 0, 36_500, 0, key="before")
            after = st.number_input("Days after the ECG", 0, 36_500, 365, key="after")
        unit = _choice(
            "Which ECG of a patient", UNITS, str(defaults.get("unit", "first")), "unit"
        )
    with right:
        st.subheader("How", anchor=False)
        minimum_cases = st.number_input(
            "Minimum of cases, and of controls", FEWEST_CASES, 100_000,
            int(defaults.get("minimum_cases", 20)), key="minimum_cases",
        )  # fmt: skip
        refine = _choice("Method", REFINEMENTS, "p", "refine")
        compare = st.toggle(
            "Compare prototypes with classes (takes minutes)", key="compare",
            help="Best prototype against best class for each phecode, specificity, "
            "distance within classes, prediction from all together.",
        )  # fmt: skip
        permutations = st.number_input(
            "Permutations for a family-wise p (0: none)", 0, 10_000, 0, step=100,
            key="permutations",
        )  # fmt: skip
    cases = CaseRule(minimum_codes=int(minimum_codes))
    rule = Linking(linking, int(before), int(after), unit)  # pyright: ignore[reportArgumentType]
    n_exposures = _cohorts.n_exposures(worklist, kinds) + len(features)
    if not show_coverage(
        cohort, str(phecodes), cases, rule, int(minimum_cases), n_exposures
    ):
        return
    can_compare = {"prototype", "class"} <= set(kinds) and unit != "all"
    can_compare &= st.session_state.get("one_exposure") is None
    arguments = [
        *("associate", "--cohort", str(cohort.path), "--kinds", ",".join(kinds)),
        *("--phecode-version", str(phecodes), "--minimum-codes", str(minimum_codes)),
        *("--linking", linking, "--days-before", str(before), "--days-after", str(after)),
        *("--unit", unit, "--minimum-cases", str(minimum_cases)),
        *("--covariates", ",".join(covariates)),
        *(["--firth", "--refine", "all"] if refine == "firth" else ["--refine", refine]),
        *(["--exposure", names[0]] if st.session_state.get("one_exposure") else []),
        *(["--drop-incomplete"] if drop else []),
        *(["--patient-exposures", ",".join(features)] if features else []),
        *(["--permutations", str(permutations)] if permutations else []),
        *(["--compare"] if compare and can_compare else []),
    ]
    one = st.session_state.get("one_exposure")
    title = ", ".join([one] if one else [*(KIND_WORDS[k] for k in kinds), *features])
    st.button(
        "Run", type="primary", key="start", on_click=start, args=(key, title, arguments)
    )
    if compare and not can_compare:
        st.caption(
            "The comparison with classes is left out: it needs all prototypes and class "
            "predictions, and one ECG a patient."
        )
    if message := st.session_state.pop("refused", None):
        st.warning(message)


def choose_exposures(cohort: CohortFolder, kinds: Sequence[str]) -> list[str]:
    """Names of the exposures that are tested: all of these kinds, or a single one."""
    try:
        names = _cohorts.exposure_names(cohort, kinds)
    except PhenoKitError as error:
        st.warning("The model that scored this cohort is not at hand.")
        st.text(str(error))
        return []
    one = st.selectbox(
        f"Only one of these {count(len(names), 'exposure')} (optional)",
        names, index=None, key="one_exposure", placeholder="All of them",
    )  # fmt: skip
    return names if one is None else [one]


_KNOWN = {"person_id", "sex", "age", "birth_date", "birth_year"}


def _is_number(column: pd.Series) -> bool:
    return pd.api.types.is_float_dtype(column) and column.name not in _KNOWN


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
    n_patients = analysed.patients["person_id"].nunique()
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
    is_running = job.state is JobState.RUNNING
    look = st.fragment(
        show_progress, run_every=SECONDS_BETWEEN_LOOKS if is_running else None
    )
    look(job.job_id, is_running)


def show_progress(job_id: str, was_running: bool) -> None:
    job = find_job(jobs_folder(), job_id)
    if was_running and job.state is not JobState.RUNNING:
        st.rerun()
    _widgets.show([_panels.job_state(job)], key="job")
    if job.state is JobState.RUNNING:
        share = job.done / job.of if job.of else 0.0
        st.progress(min(share, 1.0), text=_progress_words(job))
        st.caption(
            "This tab may be closed: the run goes on, and stands in the list of runs."
        )
        if st.button("Cancel", key="cancel"):
            cancel_job(jobs_folder(), job_id)
        return
    if job.can_resume and st.button("Resume", type="primary", key="resume"):
        try:
            resume_job(jobs_folder(), job_id)
        except OutputBusy as error:
            st.warning(str(error))
            return
        st.rerun()
    st.caption("Resuming runs the same command again; finished parts are kept.")


def _progress_words(job: Job) -> str:
    if not job.of:
        return "Starting"
    words = f"{job.stage.capitalize()}: {job.done:,} of {job.of:,}"
    if job.seconds_left is not None:
        words += f", about {_duration(job.seconds_left)} left"
    return words


def _duration(seconds: float) -> str:
    if seconds < 90:
        return count(max(round(seconds), 1), "second")
    return count(round(seconds / 60), "minute")


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
    _widgets.show([_panels.facts(_about(result))], key="about")
    table = _overview(job.job_id, stamp, result)
    exposure = choose_exposure(job.job_id, table)
    explore(cohort, result, exposure)
    show_comparisons(result)
    if result.survival is not None:
        show_survival(result.survival)
    show_not_tested(result, exposure)
    show_rules(result)


def _about(result: AssociationResult) -> dict[str, str]:
    manifest = result.manifest
    return {
        "Tests": f"{result.n_tests:,}",
        "Exposures": f"{len(result.exposures):,}",
        "Phecodes tested": f"{manifest.get('n_phecodes_tested', 0):,} of "
        f"{manifest.get('n_phecodes', 0):,}",
        "Patients": f"{manifest.get('n_patients', 0):,}",
        "Phecode version": str(result.cohort.get("phecode_version", "")),
        "Adjusted for": ", ".join(manifest.get("covariates", ())) or "nothing",
        "Model": f"{manifest.get('model', '')} {manifest.get('bundle_hash', '')[:8]}",
        "Run": str(manifest.get("run_id", "")),
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
        table = table[table["exposure_kind"] == kind]
    shown = pd.DataFrame(
        {
            "Exposure": table["name"],
            "Significant": table["significant"],
            "Tested": table["tested"],
            "Strongest association": [
                "none tested"
                if pd.isna(row.phecode)
                else f"{row.phecode} {row.phecode_string}"
                for row in table.itertuples()
            ],
            "Odds ratio (95 %)": [
                format_odds_ratio(row.odds_ratio, row.conf_int_1, row.conf_int_2)
                for row in table.itertuples()
            ],
            "p": [format_p(p) for p in table["neg_log_p_value"]],
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
    show_figure(drawing, key="manhattan", on_select=_select_in_plot)
    if n_hidden:
        st.caption(f"{count(n_hidden, 'row')} with few patients are not shown here.")
    tested = top_rows(rows, len(rows))
    if tested.empty:
        st.info("No phecode could be tested with this exposure; see below why.")
        return
    selected = [
        one for one in st.session_state.get("selected", ()) if one in set(tested["phecode"])
    ]
    left, right = st.columns([1, 1], gap="medium")
    with left:
        show_table(result, tested, selected, exposure)
    with right:
        chosen = tested[tested["phecode"].isin(selected)]
        st.subheader(
            f"Odds ratios of the {count(len(chosen), 'selected phecode')}"
            if len(chosen) else f"Odds ratios of the {min(len(tested), 20)} strongest",
            anchor=False,
        )  # fmt: skip
        show_figure(
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
        "Search phecode or name", key="search", placeholder="heart"
    ).lower()
    table = tested
    if words:
        text = (
            table["phecode"]
            + " "
            + table["phecode_string"]
            + " "
            + table["phecode_category"]
        )
        table = table[text.str.lower().str.contains(words, regex=False)]
    pinned = [one for one in st.session_state.get("pinned", ()) if one in selected]
    is_pinned = table["phecode"].isin(pinned)
    table = pd.concat([table[is_pinned], table[~is_pinned]], ignore_index=True)
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
    return {
        name: st.column_config.NumberColumn(format=kind)
        for name, kind in NUMBERS.items()
        if name in table
    }


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
            st.download_button(
                label,
                partial(file, kind, ending),
                f"{name}.{ending}",
                on_click="ignore",
                key=f"export-{label}",
            )
    st.caption(
        f"Every row of this exposure and all columns, those not tested included. {BANNER}."
    )


def show_figure(drawing: Drawing, *, key: str, on_select: Any = None) -> None:  # noqa: ANN401
    """A figure in the theme of the page, with its words for those who cannot see it."""
    options: dict[str, Any] = {}
    if on_select is not None:
        options = {"on_select": on_select, "selection_mode": ("points", "box")}
    st.plotly_chart(
        drawing.figure,
        key=key,
        alt=drawing.alt,
        config={"displaylogo": False, "modeBarButtonsToRemove": ["lasso2d", "autoScale2d"]},
        **options,
    )


# Comparisons


def show_comparisons(result: AssociationResult) -> None:
    """Prototypes against classes: each comparison as a sentence, a figure and a table."""
    st.header("Prototypes against classes", anchor=False)
    tables = result.comparisons
    if not tables:
        st.text("Not computed in this run: switch “Compare prototypes with classes” on.")
        return
    held_out = tables.get("best_held_out")
    if held_out is not None and len(held_out):
        show_best(result)
    if (rows := tables.get("distances")) is not None and len(rows):
        st.subheader("Distance between the prototypes of a class", anchor=False)
        st.text(str(result.sentences.get("distances", "")))
        named = rows.assign(label=[_label(one) for one in rows["label"]])
        show_figure(draw_distances(named), key="distances")
        _as_table(named, "distances")
    if (rows := tables.get("specificity")) is not None and len(rows):
        st.subheader("In how many disease categories?", anchor=False)
        for sentence in _sentences(result, "specificity"):
            st.text(sentence)
        show_figure(draw_specificity(rows), key="specificity")
        _as_table(rows, "specificity")
    if (rows := tables.get("prediction")) is not None and len(rows):
        st.subheader("All prototypes together against all classes together", anchor=False)
        st.text(str(result.sentences.get("prediction", "")))
        drawing = draw_comparison(
            with_names(rows, result), first="prototypes", second="classes",
            names=("all prototypes", "all class predictions"), title="Prediction",
        )  # fmt: skip
        show_figure(drawing, key="prediction")
        _as_table(drawing.table, "prediction")


def show_best(result: AssociationResult) -> None:
    """The best prototype of each phecode against the best of another kind."""
    st.subheader("Best prototype against best class", anchor=False)
    kinds = list(dict.fromkeys(result.comparisons["best_held_out"]["against_kind"]))
    with st.container(horizontal=True, vertical_alignment="bottom"):
        against = st.segmented_control(
            "Against", kinds, default=kinds[0], required=True, key="against",
            format_func=lambda kind: KIND_WORDS.get(kind, kind).capitalize(),
        )  # fmt: skip
        which = st.segmented_control(
            "Patients",
            ["best_held_out", "best"],
            default="best_held_out",
            required=True,
            format_func={
                "best_held_out": "Held out: chosen on one half, compared on the other",
                "best": "Chosen and compared in the same patients (favours prototypes)",
            }.__getitem__,
            key="best_which",
        )
    sentences = result.sentences.get(which, {})
    st.text(str(sentences.get(against, "") if isinstance(sentences, dict) else sentences))
    rows = result.comparisons.get(which, result.comparisons["best_held_out"])
    rows = with_names(rows[rows["against_kind"] == against], result)
    drawing = draw_comparison(
        rows, first="prototype", second="other",
        names=("best prototype", f"best of the {KIND_WORDS.get(against, against)}"),
        title="Best prototype",
    )  # fmt: skip
    show_figure(drawing, key="best")
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
    st.header("Time to the first code after the ECG", anchor=False)
    st.caption(
        "Cox models, hazard ratio per standard deviation. Patients who had the code before "
        "the ECG are left out and counted."
    )
    st.dataframe(
        rows, hide_index=True, column_config=_columns(rows), key="survival",
        alt=f"{len(rows)} hazard ratios.",
    )  # fmt: skip


# What was not tested, and the rules


def show_not_tested(result: AssociationResult, exposure: str) -> None:
    """Counts by reason, and the rows: no silent gap."""
    st.header("Why not tested", anchor=False)
    rows = result.rows_of(exposure)
    n_tested = len(rows_tested(rows))
    reasons = not_tested_table(rows)
    settings = result.manifest.get("settings", {}).get("settings", {})
    sentence = coverage_sentence(
        n_tested,
        dict(zip(reasons["code"], reasons["not_tested"], strict=True)),
        minimum_cases=settings.get("minimum_cases"),
    )
    st.text(f"{exposure_name(result, exposure)}. {sentence}")
    lacking, n_hidden = hide_small(
        rows[rows["status"] != "tested"].reset_index(drop=True), _cohorts.smallest_shown()
    )
    chosen = st.pills("Show the rows of", reasons["code"].tolist(), key="why")
    if chosen:
        shown = lacking[lacking["code"] == chosen]
        st.dataframe(
            shown,
            hide_index=True,
            column_order=["phecode", "phecode_string", "phecode_category", "cases",
                          "controls", "n_excluded", "sex_restriction", "code", "note"],
            column_config=_columns(shown),
            key="not_tested",
            alt=f"{len(shown)} phecodes that were not tested.",
        )  # fmt: skip
        if n_hidden:
            st.caption(f"{count(n_hidden, 'row')} with few patients are not shown here.")


def show_rules(result: AssociationResult) -> None:
    """Who was analysed, and by which rules."""
    st.header("Who was analysed, and by which rules", anchor=False)
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
