"""The events of an iEEG: the model's at a threshold, and what the reader says of them."""

import hashlib
import re
from functools import partial
from importlib.metadata import version

import streamlit as st

from pages import _audit, _ieeg_panels, _ieeg_viewer, _sign_in, _widgets
from pages._ieeg_viewer import Layer
from pages._long_recordings import Opened
from phenokit.pipeline import ScoredIEEG
from phenokit.recording import Event, SegmentStatus
from phenokit.report.ecg_paper import BANNER
from phenokit.report.ieeg_review import (
    CONTRIBUTION_WORDS,
    AtThreshold,
    EventRow,
    at_threshold,
    coverage_sentence,
    draw_contributions,
    export_files,
    format_time,
    rule_at,
    zip_files,
)
from phenokit.reviews import (
    Decision,
    EventDecision,
    ReviewedEvent,
    decide_event,
    event_decisions,
    reviewed_events,
    reviews_file,
)

LIST = "ieeg-events"


def show(one: Opened, scored: ScoredIEEG | None) -> None:
    """Threshold, viewer, events, what each channel added, and the files."""
    found = None if scored is None else _threshold(one, scored)
    events = () if found is None else found.events
    rows = reviewed_events(events, event_decisions(reviews_file(), one.key))
    st.fragment(_ieeg_viewer.show)(one.record, _layer(one, scored, found, rows))
    st.header("Events", anchor=False)
    # Each part in a place of its own: what a longer one left would stay under a shorter.
    parts = [st.container() for _ in range(4)]
    with parts[0]:
        chosen = _list(one, scored, rows)
    with parts[1]:
        _decide(one, scored, found, rows, chosen)
    if scored is not None and found is not None:
        with parts[2]:
            if chosen is not None:
                _contributions(scored, rows[chosen])
        with parts[3]:
            _export(one, scored, found, rows)


# The threshold


def _threshold(one: Opened, scored: ScoredIEEG) -> AtThreshold | None:
    if not scored.coverage.evaluated:
        return None
    rule = scored.event_rule
    key = f"ieeg-theta-{one.record}-{scored.bundle_hash[:8]}"
    if key not in st.session_state:
        st.session_state[key] = round(min(max(rule.theta_on, 0.01), 0.99), 2)
    left, right = st.columns([1, 3], vertical_alignment="center", gap="large")
    with left:
        theta = st.slider(
            "Threshold of the probability", 0.01, 0.99, step=0.01, key=key,
            help=f"The model's own is {rule.theta_on:.2f}, chosen on validation patients.",
        )  # fmt: skip
    # What the slider shows is rounded; the model's own threshold is meant exactly.
    is_own = abs(theta - rule.theta_on) < 0.005
    found = at_threshold(scored, rule if is_own else rule_at(rule, theta), one.reference)
    with right:
        _widgets.show(
            [_ieeg_panels.threshold_words(found, rule.theta_on)], key="ieeg-at-threshold"
        )
    return found


def _layer(
    one: Opened,
    scored: ScoredIEEG | None,
    found: AtThreshold | None,
    rows: tuple[ReviewedEvent, ...],
) -> Layer:
    marks = [(row.event, row.status) for row in rows]
    for annotation in one.recording.annotations:
        # A moment has no offset.
        offset = annotation.offset if annotation.offset == annotation.offset else None
        end = annotation.onset if offset is None else offset
        marks.append((Event(annotation.label, annotation.onset, end), ""))
    if scored is None:
        return Layer(tuple(marks))
    return Layer(
        tuple(marks),
        trend=scored.probability if len(scored.probability) else None,
        segment=scored.segment_duration,
        coverage=tuple(
            (SegmentStatus(status).name.lower(), begin, end)
            for status, begin, end in scored.coverage.intervals
        ),
        threshold=None if found is None else found.rule.theta_on,
        evaluated=coverage_sentence(scored.coverage, scored.duration).split(". Not")[0],
    )


# The list


def _list(
    one: Opened, scored: ScoredIEEG | None, rows: tuple[ReviewedEvent, ...]
) -> int | None:
    """The events; returns which is chosen."""
    state = f"ieeg-event-{one.record}"
    onset = st.session_state.get(state)
    chosen = _nearest(rows, onset)

    def choose() -> None:
        row = rows[int(_widgets.chosen(LIST))]
        st.session_state[state] = float(row.event.onset)
        _ieeg_viewer.go_to(one.record, row.event)

    if rows:
        _widgets.show(
            [_ieeg_panels.event_list(rows, scored, selected=chosen)],
            key=LIST,
            on_choose=choose,
        )
    elif scored is None:
        st.text("Not scored: the model has found no events, because it has not looked.")
    elif not scored.coverage.evaluated:
        st.text("Nothing was evaluated, so no event could be found. That is not “none”.")
    else:
        st.text(
            "The model marks no event in the evaluated time at this threshold. "
            f"{coverage_sentence(scored.coverage, scored.duration)}"
        )
    annotated = one.recording.seizures
    if annotated:
        with st.expander(f"Annotated in the files: {len(annotated)}"):
            for event in annotated:
                end = "" if event.offset != event.offset else f", {event.duration:.1f} s"
                st.text(f"{event.label}: {format_time(event.onset, 1)}{end}")
    return chosen


def _nearest(rows: tuple[ReviewedEvent, ...], onset: float | None) -> int | None:
    """The event that was chosen, whatever the threshold made of its edges."""
    if onset is None:
        return None
    for k, row in enumerate(rows):
        if row.event.onset - 30 <= onset < row.event.offset:
            return k
    return None


# What the reader says


def _decide(
    one: Opened,
    scored: ScoredIEEG | None,
    found: AtThreshold | None,
    rows: tuple[ReviewedEvent, ...],
    chosen: int | None,
) -> None:
    row = None if chosen is None else rows[chosen]
    title = "Add an event" if row is None else f"Event at {format_time(row.event.onset, 1)}"
    st.subheader(title, anchor=False)
    author = _author()
    duration = float(one.recording.duration)
    begin = _ieeg_viewer.begin_of(one.record) if row is None else float(row.event.onset)
    end = begin + 10 if row is None else float(row.event.offset)
    name = f"{one.record}-{'new' if row is None else round(row.event.onset, 3)}"
    with st.container(horizontal=True, vertical_alignment="bottom"):
        onset = st.number_input(
            "Onset (s)", 0.0, duration, min(begin, duration), 0.1, "%.1f",
            key=f"ieeg-onset-{name}", width=150,
        )  # fmt: skip
        offset = st.number_input(
            "Offset (s)", 0.0, duration, min(end, duration), 0.1, "%.1f",
            key=f"ieeg-offset-{name}", width=150,
        )  # fmt: skip
        note = st.text_input(
            "Note", key=f"ieeg-note-{name}", width=280, max_chars=500,
            help="Kept with your name. Do not write who the patient is.",
        )  # fmt: skip
        can = bool(author) and offset > onset
        span = (onset, offset)

        def button(label: str, decision: Decision, *, disabled: bool = False) -> None:
            st.button(
                label,
                key=f"ieeg-{decision}",
                disabled=disabled or not can,
                on_click=_audit.logged(_keep, "review", record=one.key, detail=decision),
                args=(one, scored, found, row, decision, span, note, author),
            )

        if row is None:
            button("Add event", "added")
        else:
            is_moved = abs(onset - row.event.onset) > 0.05 or (
                abs(offset - row.event.offset) > 0.05
            )
            button("✓ Accept", "accepted", disabled=is_moved)
            button("✕ Reject", "rejected", disabled=is_moved)
            button("✎ Keep edited times", "edited", disabled=not is_moved)
            button("Take back", "withdrawn", disabled=row.decision is None)
            st.button(
                "Choose none",
                key="ieeg-none",
                on_click=lambda: st.session_state.pop(f"ieeg-event-{one.record}", None),
            )
    if not author:
        st.caption("Sign with your name or initials to accept, reject, edit or add events.")
    else:
        st.caption(
            "Decisions are a layer of their own, signed and only added to: the model's "
            "events stay as they were found. Another threshold keeps what you decided."
        )
    if message := st.session_state.pop("ieeg-not-kept", None):
        st.warning(message)


def _author() -> str:
    """Who signs: the name of the sign-in, or what the reader writes."""
    if user := _sign_in.signed_in_user():
        return user
    written = st.text_input(
        "Signed by (name or initials)", key="ieeg-author", max_chars=60, width=260
    )
    return re.sub(r"[\x00-\x1f\x7f]", " ", written or "").strip()


def _keep(
    one: Opened,
    scored: ScoredIEEG | None,
    found: AtThreshold | None,
    row: ReviewedEvent | None,
    decision: Decision,
    span: tuple[float, float],
    note: str,
    author: str,
) -> None:
    of = span
    if row is not None:
        known = row.found or row.event
        of = (float(known.onset), float(known.offset))
        if row.found is None and row.decision is not None:
            of = (row.decision.onset, row.decision.offset)
    new = span if decision in ("edited", "added") else of
    if decision == "accepted" and row is not None:
        new = (float(row.event.onset), float(row.event.offset))
    is_of_model = row is not None and row.found is not None and scored is not None
    try:
        decide_event(
            reviews_file(),
            one.key,
            EventDecision(
                decision, *of, *new,
                bundle_hash=scored.bundle_hash if scored and is_of_model else "",
                threshold=found.rule.theta_on if found and is_of_model else None,
                note=note.strip(),
            ),
            author=author,
        )  # fmt: skip
    except (ValueError, OSError):
        st.session_state["ieeg-not-kept"] = (
            "The decision was not kept: the event has to end after it begins, and the "
            "server has to be able to write its reviews."
        )


# What each channel added


def _contributions(scored: ScoredIEEG, row: ReviewedEvent) -> None:
    st.subheader("What each channel added at the onset", anchor=False)
    st.caption(CONTRIBUTION_WORDS)
    onset = float(row.event.onset if row.found is None else row.found.onset)
    drawing = draw_contributions(scored, onset)
    if drawing is None:
        st.text("The segment at this onset was not evaluated.")
        return
    left, right = st.columns([3, 2], gap="large")
    with left:
        _widgets.show_figure(drawing, key="ieeg-contributions")
    with right:
        st.dataframe(
            drawing.table.rename(
                columns={"channel": "Channel", "contribution": "Part of the logit"}
            ),
            hide_index=True,
            height=420,
            key="ieeg-contribution-table",
            column_config={
                "Part of the logit": st.column_config.NumberColumn(format="%.3f")
            },
            alt=drawing.alt,
        )


# Files


def _export(
    one: Opened,
    scored: ScoredIEEG,
    found: AtThreshold,
    rows: tuple[ReviewedEvent, ...],
) -> None:
    st.header("Export", anchor=False)
    events = [
        EventRow(
            row.event,
            row.status,
            row.found,
            *(("", "", "") if row.decision is None
              else (row.decision.author, row.decision.at, row.decision.note)),
        )
        for row in rows
    ]  # fmt: skip
    state = repr((one.key, scored.bundle_hash, found.rule, events)).encode()
    name = f"phenokit-ieeg-{hashlib.sha256(state).hexdigest()[:12]}"

    def files() -> dict[str, bytes]:
        recording = one.recording
        return export_files(
            scored, events, name, rule=found.rule, version=version("phenokit"),
            facts={
                "fingerprint": one.key, "source_format": recording.source_format,
                "unit": recording.unit, "sampling_rate": float(recording.sampling_rate),
                "filters": recording.filters, "reference": recording.reference,
                "gaps_s": [list(gap) for gap in recording.gaps],
                "is_simulated": one.is_simulated,
                "display": _ieeg_viewer.settings(one.record),
            },
        )  # fmt: skip

    def file(end: str) -> bytes:
        made = files()
        return zip_files(made) if end == ".zip" else made[f"{name}{end}"]

    kinds = {
        "Events (SzCORE TSV)": "_events.tsv", "Coverage (TSV)": "_coverage.tsv",
        "EDF+ annotations": ".edf", "CSV with reviews": ".csv",
    }  # fmt: skip
    with st.container(horizontal=True):
        for label, end in kinds.items():
            _audit.download_button(
                label, partial(file, end), f"{name}{end}", key=f"ieeg-export-{end}",
                record=one.key, bundle_hash=scored.bundle_hash, detail="iEEG",
            )  # fmt: skip
        _audit.download_button(
            "All with JSON sidecars (ZIP)", partial(file, ".zip"), f"{name}.zip",
            key="ieeg-export-zip", record=one.key, bundle_hash=scored.bundle_hash,
            detail="iEEG",
        )  # fmt: skip
    with st.container(horizontal=True):
        for label, end in kinds.items():
            _audit.download_button(
                f"Sidecar of {label} (JSON)", partial(file, f"{end}.json"),
                f"{name}{end}.json", key=f"ieeg-sidecar-{end}", kind="tertiary",
                record=one.key, bundle_hash=scored.bundle_hash, detail="iEEG sidecar",
            )  # fmt: skip
    st.caption(
        "Events as the reader has them at this threshold; rejected ones stand in the CSV "
        "only. Time that was not evaluated stands in the coverage and among the EDF+ "
        f"annotations. {BANNER}."
    )
