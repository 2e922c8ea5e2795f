"""One intracranial EEG: what was read, its traces, the model's events and the reader's."""

import streamlit as st

from pages import (
    _audit,
    _ieeg_events,
    _ieeg_panels,
    _ieeg_scoring,
    _long_recordings,
    _widgets,
)
from phenokit.pipeline import ScoredIEEG


def main() -> None:
    st.title("iEEG")
    one = _long_recordings.choose()
    if one is None:
        return
    _audit.seen("iEEG", one.key)
    _widgets.show([_ieeg_panels.facts(one)], key="ieeg-facts")
    n_left_out = len(one.recording.dropped) + len(one.recording.bad)
    if n_left_out:
        with st.expander(f"Channels left out or marked as bad: {n_left_out}"):
            _widgets.show([_ieeg_panels.channels_left_out(one)], key="ieeg-left-out")
    for notice in one.recording.notices:
        st.text(f"{notice.message} ({notice.code})")
    scored = _ieeg_scoring.show(one)
    _widgets.show([_ieeg_panels.origin(one, scored)], key="ieeg-origin")
    st.fragment(_review)(one.record, scored)


def _review(record: str, scored: ScoredIEEG | None) -> None:
    """Threshold, traces, events, files: one run of its own."""
    with _widgets.guard():
        one = _long_recordings.opened(record)
        if one is not None:
            _ieeg_events.show(one, scored)


_widgets.require_app()
main()
