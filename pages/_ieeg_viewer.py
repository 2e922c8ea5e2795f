"""The viewer of the iEEG page: its controls, and one page of traces at a time.

A fragment: turning a page runs this file and nothing else of the page.
"""

import re
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import streamlit as st

from pages import _long_recordings, _widgets
from pages._long_recordings import Opened
from phenokit.errors import BadInput
from phenokit.preprocessing.display import MONTAGES, DisplayFilters, Montage
from phenokit.recording import Event
from phenokit.report.ecg_paper import BANNER
from phenokit.report.explanation import count
from phenokit.report.ieeg_review import format_time, next_step
from phenokit.report.ieeg_viewer import (
    HIGH_EDGES,
    LOW_EDGES,
    NOTCHES,
    PAGE_LENGTHS,
    SENSITIVITIES,
    Page,
    View,
    draw_page,
    pack_pages,
    page_length,
    typical_amplitude,
)

COLUMNS = 1200
"""Of the first page; the browser then says how many it has."""
ROWS = (16, 32, 64)
TRACES = "ieeg-traces"
OFF, ALL = 0.0, 0


@dataclass(frozen=True)
class Layer:
    """What is drawn over the traces.

    Attributes
    ----------
    marks
        Events with their status; annotations, which have none.
    trend
        Probability of each segment; None where nothing was scored.
    segment
        Seconds.
    coverage
        Status, begin and end of stretches.
    threshold
        Of the probability.
    evaluated
        In words.
    """

    marks: tuple[tuple[Event, str], ...]
    trend: np.ndarray | None = None
    segment: float = 5.0
    coverage: tuple[tuple[str, float, float], ...] = ()
    threshold: float | None = None
    evaluated: str = "not scored: 0 % evaluated"


def show(record: str, layer: Layer) -> None:
    """Controls and traces of the recording with this id."""
    with _widgets.guard():
        one = _long_recordings.opened(record)
        if one is not None:
            _show(one, layer)


def go_to(record: str, event: Event) -> None:
    """Open the page on which an event begins, with something before it."""
    length = st.session_state.get(f"ieeg-length-{record}", 10)
    st.session_state[f"ieeg-at-{record}"] = max(0.0, float(event.onset) - 0.2 * length)
    jump = f"ieeg-jump-{record}"  # the browser leaves its own place only when this changes
    st.session_state[jump] = st.session_state.get(jump, 0) + 1


def begin_of(record: str) -> float:
    """Where the reader is, seconds; at first where the address says."""
    named = st.query_params.get("t", "")
    first = float(named) if re.fullmatch(r"\d{1,9}", named, re.ASCII) else 0.0
    return float(st.session_state.setdefault(f"ieeg-at-{record}", first))


def _show(one: Opened, layer: Layer) -> None:
    view, sensitivity, negative_up = _controls(one)
    record = one.record
    at = f"{view.begin:.0f}"
    if st.query_params.get("t", "0") != at:
        st.query_params["t"] = at  # a reload, or a link, comes back here
    columns = int(st.session_state.get("ieeg-columns", COLUMNS))
    # What the browser asked for, once: the page after the one that it shows.
    needed = st.session_state.pop(f"ieeg-need-{record}", view.begin)
    needed = view.begin if needed is None else min(max(0.0, needed), _last(one, view))
    # Pages that the browser keeps are of no use with other settings.
    key = repr((one.key, replace(view, begin=0.0), columns))
    begins = {needed} if st.session_state.get("ieeg-key") == key else {view.begin, needed}
    pages = [_drawn(one, replace(view, begin=begin), columns) for begin in sorted(begins)]
    st.session_state["ieeg-key"] = key

    def go() -> None:
        wanted = _widgets.asked(TRACES)
        if wanted is None:
            return
        st.session_state[f"ieeg-at-{record}"] = float(wanted["begin"])
        st.session_state[f"ieeg-row-{record}"] = int(wanted["first_row"])
        st.session_state["ieeg-number"] = int(wanted["number"])
        st.session_state["ieeg-columns"] = min(max(int(wanted["columns"]), 200), 3000)
        if wanted.get("need") is not None:
            st.session_state[f"ieeg-need-{record}"] = float(wanted["need"])
        if "until" in wanted:
            span = float(wanted["until"]) - float(wanted["begin"])
            st.session_state[f"ieeg-length-{record}"] = page_length(span)

    header: dict[str, Any] = {
        "key": key,
        "answer": st.session_state.get("ieeg-number", 0),
        "jump": f"{record}-{st.session_state.get(f'ieeg-jump-{record}', 0)}",
        "begin": view.begin,
        "length": view.length,
        "duration": one.recording.duration,
        "first_row": view.first_row,
        "columns": columns,
        "unit": one.recording.unit,
        "sensitivity": sensitivity,
        "negative_up": negative_up,
        "gaps": one.recording.gaps,
        "coverage": [
            {"status": status, "begin": begin, "end": end}
            for status, begin, end in layer.coverage
        ],
        "threshold": layer.threshold,
        "segment": layer.segment,
        "events": [
            {
                "kind": event.label,
                "onset": event.onset,
                "offset": event.offset,
                "status": status,
            }
            for event, status in layer.marks
        ],
        "printed": _printed(one, view, sensitivity, negative_up, layer),
        "legend": "Click or drag in the overview to go there. Hatched: not recorded, or "
        "(the other way) not evaluated. Dashed: threshold. Filled: event (✓ accepted, "
        "✎ edited, + added by a reader); empty with ✕: rejected.",
        "overview_words": _overview_words(one, layer),
    }
    _widgets.show_traces(
        pack_pages(pages, header=header, bad=view.bad, trend=layer.trend),
        key=TRACES,
        on_go=go,
    )


def _drawn(one: Opened, view: View, columns: int) -> Page:
    """The page; as recorded where the montage cannot be had, which is said."""
    extrema = _long_recordings.extrema(one) if view.length >= 60 else None
    try:
        return draw_page(one.recording, view, n_columns=columns, extrema=extrema)
    except BadInput as error:
        st.warning(f"This montage cannot be drawn ({error.code}). {next_step(error.code)}")
        st.text(str(error))
        plain = replace(view, montage="as recorded")
        return draw_page(one.recording, plain, n_columns=columns, extrema=extrema)


def _last(one: Opened, view: View) -> float:
    return max(0.0, one.recording.duration - view.length)


def _controls(one: Opened) -> tuple[View, float, bool]:
    """How the page is shown; every choice has its widget, and all are printed."""
    record, recording = one.record, one.recording
    half = recording.sampling_rate / 2
    n_channels = len(recording.channels)
    lengths = [length for length in PAGE_LENGTHS if length <= max(10, recording.duration)]
    key = f"ieeg-length-{record}"
    if st.session_state.get(key) not in lengths:
        st.session_state[key] = min(10, page_length(recording.duration))
    with st.container(horizontal=True, vertical_alignment="bottom"):
        montage = cast(
            Montage,
            st.selectbox(
                "Montage", list(MONTAGES), format_func=lambda m: MONTAGES[m],
                key=f"ieeg-montage-{record}", width=250,
            ),
        )  # fmt: skip
        sensitivity = _sensitivity(one)
        length = st.selectbox(
            "Page (s)", lengths, key=key, width=95, format_func=lambda s: f"{s:g}"
        )
        low = _edge("Low filter (Hz)", LOW_EDGES, half, f"ieeg-low-{record}")
        high = _edge("High filter (Hz)", HIGH_EDGES, half, f"ieeg-high-{record}")
        notch = _edge("Notch (Hz)", NOTCHES, half, f"ieeg-notch-{record}")
        rows = st.selectbox(
            "Channels a page", [ALL, *(n for n in ROWS if n < n_channels)],
            format_func=lambda n: "all" if n == ALL else str(n),
            key=f"ieeg-rows-{record}", width=140,
        )  # fmt: skip
        negative_up = st.toggle("Negative up", key=f"ieeg-up-{record}")
    begin = min(max(0.0, begin_of(record)), max(0.0, recording.duration - length))
    view = View(
        begin=begin,
        length=float(length),
        montage=montage,
        filters=DisplayFilters(low, high, notch),
        bad=tuple(recording.bad),
        first_row=int(st.session_state.get(f"ieeg-row-{record}", 0)),
        n_rows=rows or None,
    )
    return view, sensitivity, negative_up


def _sensitivity(one: Opened) -> float:
    if one.recording.unit == "uV":
        options, default = list(SENSITIVITIES), 70.0
    else:
        typical = _typical(one.key, one)
        options = [float(f"{typical * k:.2g}") for k in (0.25, 0.5, 1.0, 2.0, 4.0)]
        default = options[2]
    unit = "µV/mm" if one.recording.unit == "uV" else "arbitrary units/mm"
    return st.selectbox(
        f"Sensitivity ({unit})",
        options,
        index=options.index(default),
        format_func=lambda s: f"{s:,g}",
        key=f"ieeg-sensitivity-{one.record}",
        width=160,
    )


@st.cache_data(max_entries=64, show_spinner=False)
def _typical(key: str, _one: Opened) -> float:
    return typical_amplitude(_one.recording)


def _edge(label: str, edges: tuple[float, ...], half: float, key: str) -> float | None:
    """An edge in Hz below half the sampling rate; None for off."""
    edge = st.selectbox(
        label,
        [OFF, *(edge for edge in edges if edge < half)],
        format_func=lambda edge: "off" if edge == OFF else f"{edge:g}",
        key=key,
        width=130,
    )
    return edge or None


def _printed(
    one: Opened, view: View, sensitivity: float, negative_up: bool, layer: Layer
) -> list[str]:
    """What stands under every page."""
    unit = "µV/mm" if one.recording.unit == "uV" else "arbitrary units/mm"
    bad = f", {count(len(view.bad), 'bad channel')} left out" if view.bad else ""
    averaged = bad if view.montage in ("common average", "median") else ""
    return [
        f"{sensitivity:,g} {unit} (nominal mm)",
        f"{view.length:g} s/page",
        f"montage: {MONTAGES[view.montage]}{averaged}",
        view.filters.words(),
        "negative up" if negative_up else "positive up",
        "each trace around its middle on the page",
        layer.evaluated,
        "simulated data" if one.is_simulated else "recorded data",
        BANNER,
    ]


def _overview_words(one: Opened, layer: Layer) -> str:
    statuses = [status for _, status in layer.marks if status]
    n_annotated = len(layer.marks) - len(statuses)
    words = (
        f"Overview of {format_time(one.recording.duration)}: "
        f"{count(len(statuses), 'event')}, {count(n_annotated, 'annotation')}, "
        f"{count(len(one.recording.gaps), 'gap')} not recorded; {layer.evaluated}."
    )
    if layer.trend is not None and not np.isnan(layer.trend).all():
        highest = int(np.nanargmax(layer.trend))
        words += f" The probability is highest at {format_time(highest * layer.segment)}."
    return words


def settings(record: str) -> dict[str, Any]:
    """What the reader chose, for the sidecar of an export."""
    names = ("montage", "sensitivity", "length", "low", "high", "notch", "up")
    return {name: st.session_state.get(f"ieeg-{name}-{record}") for name in names}
