"""Set up an analysis of risk: patients, test, features, prevalence, and what it comes to.

What would be refused is refused here, by the same checks, before anything is started.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, cast

import streamlit as st

from pages import _audit, _cohorts, _panels, _risk_analysis, _widgets
from phenokit.batch.risk import RiskData, RiskInputs, RiskOptions, load_risk_data
from phenokit.errors import AnalysisRefused, BadInput, OutputBusy, PhenoKitError
from phenokit.evidence.risk_table import (
    check_prevalence,
    check_table,
    deviation_of_interval,
)
from phenokit.jobs import jobs_folder, start_job
from phenokit.readers.archives import unpack_gzip
from phenokit.readers.cohort_folders import CohortFolder
from phenokit.readers.mimic import is_mimic
from phenokit.readers.outcomes import lab_tests
from phenokit.readers.prevalences import StatedPrevalence, read_prevalences
from phenokit.readers.tables import parse_header
from phenokit.report.explanation import count
from phenokit.statements import clinical_name

MAX_UPLOAD = 20
"""MB."""
SIDES = {"above": "this value or more", "below": "this value or less"}
RESULTS = {"first": "The first", "any": "Any: the more tests, the more chances"}
KINDS = {
    "uniform": "Uniform (default)",
    "normal": "Normal",
}
VIABLE = {
    "single": "One change at a time",
    "crossed": "Every combination (slow)",
    "none": "Not computed",
}
TESTING_HELP = """Testing *given* risk, not raw testing rates. Choose a feature if, of two
patients **at the same risk**, doctors test one more readily because of it: for example
distance from the hospital, insurance, or sex where women at the same risk are tested less.
Do not choose it merely because patients with it are tested more often: if they are tested
more because they are at higher risk, that is risk. Every feature that is not chosen is
assumed to change testing through risk alone."""
TEXTS = {
    "source": ("Source", "for example the registry report, table and year"),
    "population": ("Population", "for example first ECG at a cardiology clinic"),
    "ages": ("Age range", "for example 40 to 85 years"),
    "window": ("Time window", "for example within 30 days of the ECG"),
}


@dataclass(frozen=True)
class Source:
    """Where the patients come from.

    Attributes
    ----------
    cohort
        None for an upload.
    upload, ending
        Bytes of the table and the ending of its file name.
    """

    cohort: CohortFolder | None
    upload: bytes = b""
    ending: str = ""


def show(key: str, cohort: CohortFolder | None, on_start: Callable[[str], None]) -> None:
    """The form, with what it comes to while it is being filled in.

    Parameters
    ----------
    key
        Of the cohort, or of uploads.
    on_start
        Called with the key of the analysis that was started.
    """
    left, middle, right = st.columns(3, gap="large")
    with left:
        st.subheader("Who was tested, and for what", anchor=False)
        asked = ask_test(key, cohort) if cohort is not None else ask_upload(key)
    if asked is None:
        return
    source, options = asked
    with middle:
        st.subheader("What risk depends on", anchor=False)
        options = ask_features(key, source, options)
    with right:
        st.subheader("Prevalence among these patients", anchor=False)
        options, lacking = ask_prevalence(key, source, options)
    options = ask_method(key, options)
    if source.cohort is not None and math.isnan(_limit(options)):
        lacking.append("a limit from which on a result is abnormal")
    if not (options.features or options.exposures):
        lacking.append("at least one feature")
    is_ready = False
    if not math.isnan(_limit(options)) and (options.features or options.exposures):
        is_ready = show_check(source, options)
    if lacking:
        st.info(f"Still needed: {'; '.join(lacking)}.")
    st.button(
        "Run", type="primary", key="start",
        on_click=_audit.logged(start, "job", detail="start risk"),
        args=(source, options, on_start), disabled=bool(lacking) or not is_ready,
    )  # fmt: skip
    st.caption(
        "Runs twice in the background: a quick fit (nested Laplace, seconds), and the "
        "reference (NUTS, minutes), which takes its place when it ends."
    )
    if message := st.session_state.pop("refused", None):
        st.warning(message)


def _limit(options: RiskOptions) -> float:
    """The limit; NaN where one is still needed, 0 where none is."""
    if not options.test:
        return 0.0
    limit = options.above if options.above is not None else options.below
    return math.nan if limit is None else limit


# Patients and test


@st.cache_data(max_entries=4, ttl="10m", show_spinner=False)
def _tests(path: Path, stamp: float) -> Any:  # noqa: ANN401 - a DataFrame
    return lab_tests(path)


def ask_test(key: str, cohort: CohortFolder) -> tuple[Source, RiskOptions] | None:
    """The test, and from which result on it is abnormal."""
    if is_mimic(cohort.path):
        test = st.text_input("Test, as MIMIC-IV names it", key=f"test-{key}")
        return (Source(cohort), RiskOptions(test=test, above=0.0)) if test else None
    labs = cohort.path / "labs.csv"
    if not labs.is_file():
        st.info(
            "This cohort has no table `labs.csv`. Add one with person_id, time, test and "
            "value, or upload a table."
        )
        return None
    try:
        tests = _tests(labs, labs.stat().st_mtime)
    except BadInput as error:
        _cohorts.show_refused(error)
        return None
    rows = {row["test"]: row for row in tests.to_dict("records")}
    test = st.selectbox(
        "Test", list(rows), key=f"test-{key}",
        format_func=lambda one: f"{one} ({rows[one]['n_patients']:,} patients)",
    )  # fmt: skip
    row = rows[test]
    unit = f" {row['unit']}".rstrip()
    st.text(
        f"{count(row['n_results'], 'result')} of {count(row['n_patients'], 'patient')}, "
        f"median {row['median']:g}{unit}"
    )
    side = st.segmented_control(
        "Abnormal is", list(SIDES), format_func=SIDES.__getitem__, default="above",
        required=True, key=f"side-{key}",
    )  # fmt: skip
    limit = st.number_input(
        "Limit, in the unit of the results", value=None, key=f"limit-{key}-{test}",
        placeholder="for example the limit of your laboratory",
    )  # fmt: skip
    results = st.selectbox(
        "Which result counts", list(RESULTS), format_func=RESULTS.__getitem__,
        key=f"results-{key}",
    )  # fmt: skip
    options = RiskOptions(test=str(test), results=cast("Literal['first', 'any']", results))
    return Source(cohort), replace(options, **{str(side): limit})


def ask_upload(key: str) -> tuple[Source, RiskOptions] | None:
    """An uploaded table, and which columns say who was tested and the outcome."""
    file = st.file_uploader(
        f"Table, a row a patient: CSV or Parquet ({MAX_UPLOAD} MB at most)",
        max_upload_size=MAX_UPLOAD, key=f"upload-{key}",
    )  # fmt: skip
    if file is None:
        st.caption(
            "Needed: a column that says who was tested (0 or 1), one with the outcome (0 "
            "or 1; empty, never 0, where not tested), and features. A column person_id "
            "is kept."
        )
        return None
    data = file.getvalue()
    try:
        ending, names = _columns(data)
    except BadInput as error:
        _refused_table(error)
        return None
    options = RiskOptions()
    roles: dict[str, str] = {}
    for role, words in (("tested", "Tested (0 or 1)"), ("outcome", "Outcome (0 or 1)")):
        default = getattr(options, role)
        column = st.selectbox(
            words, names, index=names.index(default) if default in names else None,
            key=f"{role}-{key}", placeholder="Choose a column",
        )  # fmt: skip
        if column is not None:
            roles[role] = column
    if len(roles) < 2:
        st.info("Choose the two columns.")
        return None
    return Source(None, data, ending), replace(options, **roles)


def _columns(data: bytes) -> tuple[str, list[str]]:
    """Ending of the kind of file that the first bytes tell of, and its columns.

    Raises
    ------
    BadInput
        As the readers.
    """
    if len(data) > MAX_UPLOAD * 2**20:
        raise BadInput("E_TOO_LARGE", f"The table is larger than {MAX_UPLOAD} MB.")
    if data.startswith(b"PAR1"):
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            return ".parquet", list(pq.read_schema(pa.BufferReader(data)).names)
        except (OSError, pa.ArrowException):
            raise BadInput(
                "E_FORMAT", "The table is no Parquet that can be read."
            ) from None
    ending = ".csv.gz" if data.startswith(b"\x1f\x8b") else ".csv"
    return ending, parse_header(unpack_gzip(data), what="risk table")


def _refused_table(error: BadInput | AnalysisRefused) -> None:
    refusal = _risk_analysis.Refusal(error.code, _with_place(error))
    _widgets.show([_risk_analysis.cannot_run(refusal)], key="refused-table")


def _with_place(error: BadInput | AnalysisRefused) -> str:
    """The sentence, and the place where it does not name it."""
    where = getattr(error, "where", "")
    is_named = where.split(", ", 1)[-1] in str(error)
    return str(error) if is_named else f"{error} Where: {where}."


# Features


def ask_features(key: str, source: Source, options: RiskOptions) -> RiskOptions:
    """Features, and which of them may affect testing beyond risk."""
    exposures: list[str] = []
    if source.cohort is not None:
        features, exposures = _cohort_features(key, source.cohort)
    else:
        _, names = _columns(source.upload)
        used = {options.tested, options.outcome, "person_id"}
        features = st.multiselect(
            "Features", [one for one in names if one not in used and "," not in one],
            key=f"features-{key}", placeholder="Columns of numbers or of few words",
        )  # fmt: skip
    chosen = [*features, *exposures]
    testing = st.multiselect(
        "May affect testing beyond risk", chosen, key=f"testing-{key}",
        format_func=_words, help=TESTING_HELP,
        placeholder="None: testing follows risk alone",
    )  # fmt: skip
    st.caption(
        "Of two patients at the same risk, who is tested more readily? Choose what that "
        "depends on. What is not chosen is assumed to change testing through risk alone."
    )
    return replace(
        options,
        features=tuple(features),
        exposures=tuple(exposures),
        testing_features=tuple(testing),
    )


def _cohort_features(key: str, cohort: CohortFolder) -> tuple[list[str], list[str]]:
    try:
        patients = _cohorts.tables(cohort.path).patients
    except BadInput as error:
        _cohorts.show_refused(error)
        return [], []
    known = {"person_id", "birth_date", "birth_year", "age", "sex"}
    columns = ["age", "sex", *(one for one in patients if one not in known)]
    features = st.multiselect(
        "Columns of the patients table", [one for one in columns if "," not in one],
        default=["age", "sex"], key=f"features-{key}",
    )  # fmt: skip
    try:
        classes = _cohorts.exposure_names(cohort, ["class"])
        prototypes = _cohorts.exposure_names(cohort, ["prototype"])
    except PhenoKitError as error:
        st.caption("The ECGs of this cohort are not scored, or their model is not at hand.")
        st.text(str(error))
        return features, []
    exposures = st.multiselect(
        "Predictions of the ECG model", classes, key=f"classes-{key}",
        format_func=_words, placeholder="Log-odds of a class",
    )  # fmt: skip
    exposures += st.multiselect(
        "Similarities to prototypes", prototypes, key=f"prototypes-{key}",
        format_func=str.capitalize, placeholder="Similarity to one prototype",
    )  # fmt: skip
    return features, exposures


def _words(name: str) -> str:
    """A class in clinical words."""
    kind, _, label = name.partition(" ")
    if kind != "class":
        return name
    try:
        return clinical_name(label)
    except KeyError:
        return label


# Prevalence


def ask_prevalence(
    key: str, source: Source, options: RiskOptions
) -> tuple[RiskOptions, list[str]]:
    """The stated prevalence with its interval and source, and what is still needed."""
    if source.cohort is not None:
        ask_preset(key, source.cohort, options.test)
    value = _percent("Prevalence, %", f"prevalence-{key}", "for example 12")
    with st.container(horizontal=True):
        low = _percent("95 % from", f"low-{key}", "10")
        high = _percent("to, %", f"high-{key}", "14")
    said = {
        name: st.text_input(label, key=f"{name}-{key}", placeholder=example, max_chars=300)
        for name, (label, example) in TEXTS.items()
    }
    lacking = []
    if value is None or low is None or high is None:
        lacking.append("the prevalence with its 95 % interval")
    elif not low < value < high:
        lacking.append("an interval around the prevalence (from below it to above it)")
    if missing := [TEXTS[name][0].lower() for name in said if not said[name].strip()]:
        lacking.append(f"of the prevalence: {', '.join(missing)}")
    if value is None or low is None or high is None or not low < value < high:
        return options, lacking
    sd = deviation_of_interval(low / 100, high / 100)
    st.text(f"Standard deviation {100 * sd:.2g} points (width of the interval / 3.92)")
    words = said.pop("source").strip()
    for name, text in said.items():
        words += f"; {TEXTS[name][0].lower()}: {text.strip()}"
    return replace(
        options, prevalence=value / 100, prevalence_sd=sd, prevalence_source=words
    ), lacking


def ask_preset(key: str, cohort: CohortFolder, test: str) -> None:
    """Prevalences that the cohort has a table of; one fills in the form."""
    path = cohort.path / "prevalences.csv"
    if not path.is_file():
        return
    try:
        found = _prevalences(path, path.stat().st_mtime)
    except BadInput as error:
        st.caption("The table of prevalences of this cohort cannot be used:")
        st.text(_with_place(error))
        return
    offered = [k for k, one in enumerate(found) if one.test == test]
    if not offered:
        return
    state = f"preset-{key}-{test}"
    st.selectbox(
        "From a table with sources", offered, index=None, key=state,
        format_func=lambda k: _preset_words(found[k]), placeholder="Choose, or state below",
        on_change=_take_preset, args=(state, key, found),
    )  # fmt: skip


@st.cache_data(max_entries=4, ttl="10m", show_spinner=False)
def _prevalences(path: Path, stamp: float) -> tuple[StatedPrevalence, ...]:
    return read_prevalences(path)


def _preset_words(one: StatedPrevalence) -> str:
    interval = f"{100 * one.low:.3g}–{100 * one.high:.3g}"
    return f"{100 * one.prevalence:.3g} % ({interval}): {one.source}"


def _take_preset(state: str, key: str, found: Sequence[StatedPrevalence]) -> None:
    """Fill in the form, the limit that the prevalence belongs to with it."""
    chosen = st.session_state[state]
    if chosen is None:
        return
    one = found[chosen]
    shares = {"prevalence": one.prevalence, "low": one.low, "high": one.high}
    texts = {"source": one.source, "population": one.population, "ages": one.age_range,
             "window": one.time_window}  # fmt: skip
    for name, share in shares.items():
        st.session_state[f"{name}-{key}"] = round(100 * share, 4)
    for name, text in texts.items():
        st.session_state[f"{name}-{key}"] = text
    for side in SIDES:
        if not math.isnan(limit := getattr(one, side)):
            st.session_state[f"side-{key}"] = side
            st.session_state[f"limit-{key}-{one.test}"] = limit


def _percent(label: str, key: str, example: str) -> float | None:
    return st.number_input(
        label, 0.0, 100.0, None, step=0.1, format="%.2f", key=key, placeholder=example
    )


# How


def ask_method(key: str, options: RiskOptions) -> RiskOptions:
    """What rarely needs a change."""
    with (
        st.expander("Method: threshold, viable range, missing values, seed"),
        st.container(horizontal=True, vertical_alignment="bottom"),
    ):
        threshold = st.number_input(
            "Threshold of risk, % (empty: the mean)", 0.1, 99.9, None, step=1.0,
            key=f"threshold-{key}", help="The risk from which on something would be done. "
            "The viable range counts patients whose decision it would change.",
        )  # fmt: skip
        viable = st.selectbox(
            "Viable range", list(VIABLE), format_func=VIABLE.__getitem__,
            key=f"viable-{key}", help="Settings that somebody might have chosen as well, "
            "fitted beside yours: prevalence, expertise list, law of the unseen risk.",
        )  # fmt: skip
        kind = st.selectbox(
            "Law of the unseen risk", list(KINDS), format_func=KINDS.__getitem__,
            key=f"kind-{key}",
        )  # fmt: skip
        seed = st.number_input("Seed", 0, 2**31 - 1, 0, key=f"seed-{key}")
        drop = st.toggle("Leave out patients without a feature", key=f"drop-{key}")
    return replace(
        options,
        threshold=None if threshold is None else threshold / 100,
        viable=cast("Literal['none', 'single', 'crossed']", viable),
        kind=cast("Literal['uniform', 'normal']", kind),
        seed=int(seed),
        drop_incomplete=drop,
    )


# What it comes to


def show_check(source: Source, options: RiskOptions) -> bool:
    """Counts and exact bounds, and what would be refused; False if anything would."""
    try:
        data = _load(source, options)
    except (BadInput, AnalysisRefused) as error:
        _refused_table(error)
        return False
    n, n_columns = len(data.person_ids), data.features.shape[1]
    low, high = data.prevalence_bounds
    pairs = {
        "Patients": f"{n:,}",
        "Tested": f"{data.n_tested:,} ({data.n_tested / n:.1%})",
        "Confirmed cases": f"{data.n_cases:,} "
        f"({data.n_cases / data.n_tested:.1%} of the tested)" if data.n_tested else "0",
        "Never tested": f"{n - data.n_tested:,}",
        "Cases for each coefficient": f"{data.n_cases / (n_columns + 1):.0f} "
        f"({n_columns} + intercept; at least 10)",
    }  # fmt: skip
    marks = {}
    if options.prevalence is not None and options.prevalence_sd is not None:
        marks["stated"] = options.prevalence
    facts, line = _panels.facts(pairs), _risk_analysis.bounds(low, high, marks)
    try:
        table = check_table(
            data.features,
            data.tested,
            data.outcome,
            testing_features=data.columns_of(options.testing_features or ()),
        )
        check_prevalence(options.prevalence, options.prevalence_sd, table.cells)
    except (BadInput, AnalysisRefused) as error:
        refusal = _risk_analysis.Refusal(error.code, _with_place(error))
        # A table that contradicts itself has no bounds; other faults leave them.
        has_bounds = error.code not in {"E_RANGE", "E_NONFINITE"}
        lines = [line] if has_bounds else []
        _widgets.show([facts, *lines, _risk_analysis.cannot_run(refusal)], key="check")
        return False
    _widgets.show([facts, line, _panels.notes(data.notes)], key="check")
    return True


def _load(source: Source, options: RiskOptions) -> RiskData:
    """The patients of a set-up, each read once.

    Raises
    ------
    BadInput
        As `load_risk_data`.
    """
    reading = RiskOptions(
        **{name: getattr(options, name) for name in _READING}  # what reading depends on
    )
    if source.cohort is not None:
        return _load_cohort(
            source.cohort.path, reading, _cohorts.stamp_of(source.cohort.path)
        )
    digest = hashlib.sha256(source.upload).hexdigest()
    return _load_upload(digest, source.upload, source.ending, reading)


_READING = (
    "tested", "outcome", "test", "above", "below", "results", "features", "exposures",
    "class_scale", "drop_incomplete",
)  # fmt: skip


@st.cache_resource(max_entries=4, show_spinner="Counting")
def _load_cohort(path: Path, options: RiskOptions, stamp: str) -> RiskData:
    return load_risk_data(RiskInputs(cohort=path), options)


@st.cache_data(scope="session", ttl="30m", max_entries=4, show_spinner="Counting")
def _load_upload(digest: str, _data: bytes, ending: str, options: RiskOptions) -> RiskData:
    with TemporaryDirectory(prefix="phenokit-") as folder:
        path = Path(folder) / f"table{ending}"
        path.write_bytes(_data)
        return load_risk_data(RiskInputs(table=path), options)


# Start


def start(source: Source, options: RiskOptions, on_start: Callable[[str], None]) -> None:
    """Start the quick fit and the reference, and open their analysis."""
    arguments = command(source, options)
    title = f"{options.test or 'uploaded table'}, " + count(
        len(options.features) + len(options.exposures), "feature"
    )
    try:
        for of_engine in (
            ("--engine", "laplace", "--viable", "none"),
            ("--engine", "nuts", "--viable", options.viable),
        ):
            start_job(jobs_folder(), title=title, arguments=[*arguments, *of_engine])
    except OutputBusy as error:
        st.session_state["refused"] = str(error)
    on_start(_risk_analysis.analysis_key(arguments))


def command(source: Source, options: RiskOptions) -> list[str]:
    """Arguments of `phenokit`, but for the engine."""
    found = ["risk"]
    if source.cohort is not None:
        found += ["--cohort", str(source.cohort.path), "--test", options.test]
        if not is_mimic(source.cohort.path):
            for name in SIDES:
                if (limit := getattr(options, name)) is not None:
                    found += [f"--{name}", f"{limit!r}"]
        found += ["--results", options.results]
    else:
        found.append(str(_risk_analysis.keep_upload(source.upload, source.ending)))
        found += ["--tested", options.tested, "--outcome", options.outcome]
    if options.features:
        found += ["--features", ",".join(options.features)]
    for name in options.exposures:
        found += ["--exposure", name]
    found += ["--testing-features", ",".join(options.testing_features or ()) or "none"]
    if options.prevalence is not None:
        found += ["--prevalence", f"{options.prevalence!r}"]
        found += ["--prevalence-sd", f"{options.prevalence_sd!r}"]
        found += ["--prevalence-source", options.prevalence_source]
    if options.threshold is not None:
        found += ["--threshold", f"{options.threshold!r}"]
    if options.drop_incomplete:
        found.append("--drop-incomplete")
    return [*found, "--kind", options.kind, "--seed", str(options.seed)]


def names_of(options: Sequence[str]) -> list[str]:
    """Features in words."""
    return [_words(name) for name in options]
