"""One ECG: what was read, whether it can be assessed, the tracing, the findings and why."""

import secrets
from collections.abc import Sequence
from functools import partial
from importlib.metadata import version
from typing import Any, TypeVar

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from pages import _audit, _local_prevalence, _panels, _recordings, _widgets
from phenokit.errors import BadInput, Outcome, first_code
from phenokit.evidence.prototypes import Finding, Match
from phenokit.pipeline import Explanation
from phenokit.preprocessing.contract import for_display
from phenokit.preprocessing.quality import Quality, assess_quality
from phenokit.recording import LEADS, Recording
from phenokit.report.ecg_paper import (
    BANNER,
    GAINS,
    LAYOUTS,
    SPEEDS,
    Layout,
    Paper,
    Window,
    WindowPair,
    draw_ecg,
    draw_windows,
)
from phenokit.report.explanation import (
    Measurement,
    count,
    export_files,
    labels_not_assessed,
    prototype_table,
    run_id,
    sum_sentence,
    sum_terms,
)
from phenokit.statements import clinical_name

T = TypeVar("T", int, float, Layout)

MAX_CONTEXT = 0.5
"""Seconds drawn around a window at most; a wider receptive field is stated in words."""
MIN_SHOWN = 5
"""Findings listed at least, whether they reach their threshold or not."""
EXPORTS = {"JSON": "json", "CSV": "csv", "Hashes": "hashes.json"}
UPLOAD = "Upload"
COHORT = "Cohort"
"""The recording that a page about a cohort led to."""


def main() -> None:
    st.title("ECG")
    opened = choose_recording()
    if opened is None:
        return
    record, recording = opened
    _audit.seen("ECG", recording.sha256)
    quality = assess_quality(recording)
    show_input(recording, quality)
    verdict = st.empty()
    show_tracing(record, recording)
    explanation = show_result(record, recording, quality, verdict)
    if explanation is not None:
        _audit.seen(
            "ECG result", recording.sha256, action="score",
            bundle_hash=explanation.scored.bundle_hash, code=explanation.scored.code,
        )  # fmt: skip
    if explanation is not None and explanation.findings:
        finding = show_findings(record, explanation)
        show_prototypes(record, recording, finding)
        _local_prevalence.show(
            finding,
            record_id=explanation.scored.record_id,
            sha256=recording.sha256,
            name=export_name(recording, explanation),
        )
        show_not_assessed(explanation)
    if explanation is not None:
        show_export(recording, explanation)


# Open


def choose_recording() -> tuple[str, Recording] | None:
    """The id and the recording that the reader chose; what is wrong with it otherwise."""
    folders = _recordings.folders()
    listed = {name: _recordings.entries(root) for name, root in folders.items()}
    _follow_link(listed)
    linked = _recordings.linked_entry(st.session_state.get("linked"))
    if linked is not None:
        listed[COHORT] = [linked]
    sources = [*listed, UPLOAD]
    if st.session_state.get("source") not in sources:
        st.session_state["source"] = sources[0]
    left, right = st.columns([1, 2], vertical_alignment="bottom")
    with left:
        source = st.segmented_control(
            "Open from", sources, key="source", required=True,
        )  # fmt: skip
    with right:
        if source == UPLOAD:
            return _choose_upload()
        by_id = {entry.record: entry for entry in listed.get(source or UPLOAD, [])}
        record = st.selectbox(
            "Recording",
            list(by_id),
            format_func=lambda one: by_id[one].name,
            index=None,
            placeholder="Choose a recording",
            key=f"record-{source}",
        )
    if record is None:
        st.info("Choose a recording. The demo recordings are simulated: nobody's data.")
        return None
    st.query_params["record"] = st.session_state["opened"] = record
    try:
        return record, _recordings.read_entry(by_id[record])
    except BadInput as error:
        show_rejected(error)
        return None


def _follow_link(listed: dict[str, list[_recordings.Entry]]) -> None:
    """Open what the address names, at the start or when another page led here."""
    wanted = st.query_params.get("record")
    if "source" in st.session_state and wanted in {None, st.session_state.get("opened")}:
        return
    if _recordings.linked_entry(wanted) is not None:
        st.session_state["linked"] = wanted
        st.session_state["source"] = COHORT
        st.session_state[f"record-{COHORT}"] = wanted
        return
    for source, entries in listed.items():
        if any(entry.record == wanted for entry in entries):
            st.session_state["source"] = source
            st.session_state[f"record-{source}"] = wanted
            return
    if wanted is not None:
        del st.query_params["record"]
        st.info("The address names a recording that is not at hand any more. Choose again.")


def _choose_upload() -> tuple[str, Recording] | None:
    files = st.file_uploader(
        "ECG file, or .hea and .dat together (20 MB at most)",
        accept_multiple_files=True,
        key="upload",
    )
    if not files:
        return None
    names = tuple(file.file_id for file in files)
    if st.session_state.get("uploaded") != names:
        st.session_state["uploaded"] = names
        st.session_state["upload_record"] = secrets.token_hex(8)
    record = st.session_state["upload_record"]
    st.query_params["record"] = st.session_state["opened"] = record
    try:
        contents = [(file.name, file.getvalue()) for file in files]
        return record, _recordings.read_upload(contents, record)
    except BadInput as error:
        show_rejected(error)
        return None


def show_rejected(error: BadInput) -> None:
    """A file that cannot be used: what is wrong, where, and what to do."""
    where = f"Where: {error.where}" if error.where else ""
    node = _panels.verdict(Outcome.REJECTED, error.code, str(error), details=[where])
    _widgets.show([node], key="rejected")


# What was read, and the tracing


def show_input(recording: Recording, quality: Quality) -> None:
    """Facts and signal quality, before any result."""
    code = first_code(notice.code for notice in (*recording.notices, *quality.notices))
    nodes = [
        _panels.input_facts(recording, code, _widgets.filter_words()),
        ["p", {"class": "quality"}, ["strong", {}, _panels.quality_summary(quality)]],
        _panels.lead_quality(quality),
    ]
    _widgets.show(nodes, key="input")


def show_tracing(record: str, recording: Recording) -> None:
    """The paper, its controls and its calipers."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        layout = _choice("Layout", LAYOUTS, "3x4+II", key="layout")
        speed = _choice("Speed (mm/s)", SPEEDS, 25.0, key="speed")
        gain = _choice("Gain (mm/mV)", GAINS, 10.0, key="gain")
        cabrera = st.toggle("Cabrera order", key="cabrera")
        contrast = st.toggle("High contrast", key="contrast")
        filtered = st.toggle("Filtered as for the model", key="filtered")
    shown, filters = recording, "no display filter"
    if filtered:
        shown = for_display(recording, _widgets.contract())
        filters = f"display filter {_widgets.filter_words()}"
    paper = Paper(
        layout=layout,
        speed=speed,
        gain=gain,
        order="cabrera" if cabrera else "standard",
        style="high contrast" if contrast else "paper",
    )
    kept = _widgets.show_tracing(
        draw_ecg(shown, paper, filters=filters),
        sampling_rate=shown.sampling_rate,
        mark=_mark(record),
        key="tracing",
    )
    show_measurements(record, kept)


def _choice(label: str, options: Sequence[T], default: T, *, key: str) -> T:
    """One of a few, as a row of buttons; never none."""
    return st.segmented_control(
        label,
        options,
        default=default,
        required=True,
        key=key,
        format_func=lambda one: one if isinstance(one, str) else f"{one:g}",
    )


def _mark(record: str) -> dict[str, Any] | None:
    """The window to mark on the paper; a mark belongs to one recording."""
    mark = st.session_state.get("mark")
    return mark if mark is not None and mark["record"] == record else None


def show_measurements(record: str, kept: dict[str, Any] | None) -> None:
    """What the reader measured and kept, and the QTc that follows from it."""
    values = st.session_state.setdefault("measurements", {}).setdefault(record, [])
    if kept is not None:
        values.append(
            Measurement(
                kind=str(kept["kind"]),
                lead=str(kept["lead"]),
                start=float(kept["start"]),
                stop=float(kept["stop"]),
                millivolt=None if kept["mv"] is None else float(kept["mv"]),
            )
        )
    if not values:
        return
    _widgets.show([_panels.measurement_table(values)], key="measured")
    if st.button("Discard the measurements", key="discard"):
        del st.session_state["measurements"][record]
        st.rerun()


# Findings


def show_result(
    record: str, recording: Recording, quality: Quality, slot: DeltaGenerator
) -> Explanation | None:
    """The verdict in `slot`, above the tracing, and the explanation where there is one."""
    with slot.container():
        _widgets.show([_panels.scoring()], key="verdict-pending")
    model = _widgets.model_name()
    is_open = bool(st.session_state.get(f"open-{record}"))
    try:
        explanation = _explained(
            recording, record, recording.sha256, model, _widgets.bundle().bundle_hash,
            open_abstained=is_open,
        )  # fmt: skip
    except BadInput as error:
        with slot.container():
            show_rejected(error)
        return None
    scored = explanation.scored
    with slot.container():
        details = [notice.message for notice in quality.notices[1:]]
        if len(scored.all_codes) > 1:
            details.append(f"All codes: {', '.join(scored.all_codes)}.")
        _widgets.show(
            [_panels.verdict(scored.outcome, scored.code, scored.message, details=details)],
            key="verdict",
        )
        if scored.outcome is Outcome.ABSTAINED:
            st.toggle(
                "Open the scores anyway. They are not reliable for this recording.",
                key=f"open-{record}",
            )
    return explanation


# Not `cache_data`: that pickles thousands of matches, and unpickles them in every run.
@st.cache_resource(scope="session", ttl="30m", max_entries=2, show_spinner=False)
def _explained(
    _recording: Recording,
    record: str,
    sha256: str,
    model: str,
    bundle_hash: str,
    *,
    open_abstained: bool,
) -> Explanation:
    return _widgets.engine().explain(_recording, model, open_abstained=open_abstained)


def show_findings(record: str, explanation: Explanation) -> Finding:
    """Findings by probability; returns the one whose prototypes are asked for."""
    findings = {finding.label: finding for finding in explanation.findings}
    key = f"finding-{record}-{explanation.scored.bundle_hash[:8]}"
    if st.session_state.get(key) not in findings:
        st.session_state[key] = next(iter(findings))
    st.header("Findings", anchor=False)
    if explanation.scored.outcome is Outcome.ABSTAINED:
        st.warning("Opened on purpose: this recording was found not assessable.")
    n_present = sum(finding.is_present for finding in explanation.findings)
    shown = [
        finding
        for rank, finding in enumerate(explanation.findings)
        if finding.is_present or rank < MIN_SHOWN
    ]

    def choose() -> None:
        st.session_state[key] = _widgets.chosen("findings")
        st.session_state.pop("mark", None)

    _widgets.show(
        [_panels.finding_list(shown, selected=st.session_state[key])],
        key="findings",
        on_choose=choose,
    )
    st.caption(
        f"{n_present} of {len(findings)} labels reach their threshold. A probability says "
        "how often recordings like those of the training archive have the label at such a "
        "score. No interval: one calibrated model."
    )
    label = st.selectbox(
        "Explain the score of",
        list(findings),
        format_func=clinical_name,
        key=key,
        on_change=lambda: st.session_state.pop("mark", None),
    )
    return findings[label]


# Prototypes


def show_prototypes(record: str, recording: Recording, finding: Finding) -> None:
    """Why: the prototypes that make the score, and the sum."""
    st.header("Which prototypes made this score", anchor=False)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        n_shown = _choice("Prototypes shown", (5, 10, 20), 5, key="n_shown")
        own_class = st.toggle("Only prototypes of this label", key="own_class")
        all_leads = st.toggle("All twelve leads in long windows", key="all_leads")
    terms = sum_terms(finding, n_shown=n_shown, own_class=own_class)
    matches = [term.match for term in terms if term.match is not None]
    display = for_display(recording, _widgets.contract())
    pairs = [_pair(display, match, all_leads=all_leads) for match in matches]
    mark = _mark(record)

    def choose() -> None:
        chosen = int(_widgets.chosen("prototypes"))
        match = next(one for one in matches if one.prototype.prototype_id == chosen)
        if mark is not None and mark["prototype"] == chosen:
            del st.session_state["mark"]
            return
        st.session_state["mark"] = {
            "record": record,
            "prototype": chosen,
            "start": match.start,
            "stop": match.stop,
            "text": f"prototype {chosen}: {match.start:.2f}–{match.stop:.2f} s",
        }

    _widgets.show(
        [
            _panels.prototype_rows(
                matches,
                pairs,
                printed=[term.printed for term in terms if term.match is not None],
                largest=max(abs(term.contribution) for term in terms),
                marked=None if mark is None else mark["prototype"],
            )
        ],
        key="prototypes",
        on_choose=choose,
    )
    local = _local_prevalence.words_for(finding)
    _widgets.show(
        [
            _panels.sum_table(
                finding, terms, calibration=_widgets.calibration_words(), local=local
            )
        ],
        key="sum",
    )
    st.text(sum_sentence(finding))
    with st.expander(f"All {len(finding.matches):,} prototypes as a table"):
        st.dataframe(
            prototype_table(finding),
            hide_index=True,
            key="all_prototypes",
            alt=f"Prototypes of {clinical_name(finding.label)} with their contributions.",
        )


def _pair(display: Recording, match: Match, *, all_leads: bool) -> WindowPair:
    """Both windows, filtered alike, with as much around them as the network looked at."""
    prototype = match.prototype
    source = _widgets.engine().source_recording(prototype, _widgets.model_name())
    window = None
    if source is not None:
        window = Window(source, prototype.start, prototype.stop)
    length = match.stop - match.start
    beyond = (prototype.receptive_field - length) / 2
    return draw_windows(
        Window(display, match.start, match.stop),
        window,
        leads=LEADS if all_leads or length <= _panels.LONG else _panels.RHYTHM_LEADS,
        context=beyond if 0 < beyond <= MAX_CONTEXT else 0.0,
    )


def show_not_assessed(explanation: Explanation) -> None:
    """Statements that this model says nothing about."""
    labels = labels_not_assessed(explanation.scored.labels)
    with st.expander(f"Not assessed: {count(len(labels), 'statement')} outside the model"):
        _widgets.show([_panels.names(labels)], key="not_assessed")


# Export


def export_name(recording: Recording, explanation: Explanation) -> str:
    """Of the files, without ending: nobody's name."""
    return f"phenokit-ecg-{run_id(explanation.scored, recording.sha256)}"


def show_export(recording: Recording, explanation: Explanation) -> None:
    """The explanation as files, made when they are asked for."""
    st.header("Export", anchor=False)
    name = export_name(recording, explanation)

    def file(end: str) -> bytes:
        return export_files(explanation, recording, name, version=version("phenokit"))[
            f"{name}.{end}"
        ]

    with st.container(horizontal=True):
        for label, end in EXPORTS.items():
            _audit.download_button(
                label, partial(file, end), f"{name}.{end}", key=label,
                record=recording.sha256, bundle_hash=explanation.scored.bundle_hash,
                detail="ECG result",
            )  # fmt: skip
    st.caption(f"The file of hashes names the input, the model and both files. {BANNER}.")


_widgets.require_app()
main()
