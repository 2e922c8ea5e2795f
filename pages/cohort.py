"""A cohort: its recordings as a worklist, the first open beside it, and its attrition."""

from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import numpy as np
import pandas as pd
import streamlit as st

from pages import _audit, _cohorts, _panels, _recordings, _sign_in, _widgets
from phenokit.cohort import AttritionStep
from phenokit.errors import BadInput, Outcome
from phenokit.preprocessing.contract import for_display
from phenokit.readers.cohort_folders import CohortFolder
from phenokit.readers.cohorts import Linking
from phenokit.readers.phecodes import CaseRule
from phenokit.recording import Recording
from phenokit.report.ecg_paper import BANNER, Window, draw_windows
from phenokit.report.explanation import count, format_probability
from phenokit.report.tables import format_table, visible_text
from phenokit.report.worklist import (
    PROBABILITY,
    Filters,
    Sort,
    Worklist,
    page_of,
    select,
    top_findings,
)
from phenokit.reviews import mark_reviewed, reviewed_records, reviews_file
from phenokit.statements import clinical_name

PAGE = 500
FIRST_LABEL = "AFIB"
"""The finding that a list begins with, where the model has it."""
N_FINDINGS = 5
SECONDS_SHOWN = 5.0
BADGES = {
    Outcome.SCORED: "✓ scored",
    Outcome.SCORED_WITH_WARNING: "▲ scored, with a warning",
    Outcome.ABSTAINED: "✕ not assessable",
    Outcome.REJECTED: "✕ rejected",
}
FIRST_SORT: Sort = "probability"
SORTS: dict[Sort, str] = {
    "probability": "Probability",
    "newest": "Newest first",
    "oldest": "Oldest first",
}


def main() -> None:
    st.title("Cohort")
    chosen = _cohorts.choose_cohort()
    if chosen is None:
        return
    key, cohort = chosen
    try:
        worklist = _cohorts.worklist(cohort)
    except BadInput as error:
        _cohorts.show_refused(error)
        return
    if not len(worklist):
        st.info("The scores of this cohort hold no recording.")
        return
    _audit.seen("worklist", str(cohort.path))
    show_worklist(key, cohort, worklist)
    st.header("Who is analysed", anchor=False)
    show_attrition(cohort)


# The list


def show_worklist(key: str, cohort: CohortFolder, worklist: Worklist) -> None:
    """Filters, the page of the list, and the chosen recording beside it."""
    reviewed = reviewed_records(reviews_file(), key)
    label, sort, filters = choose_filters(worklist, reviewed)
    rows, steps = select(worklist, filters, sort=sort, label=label)
    words = {
        "probability": f"probability of {clinical_name(label)}, highest first",
        "newest": "time, newest first",
        "oldest": "time, oldest first",
    }[sort]
    st.text(
        f"{count(len(rows), 'recording')}, sorted by {words}, "
        f"over all {len(rows):,}. "
        f"{sum(worklist.table['record_id'].iloc[rows].isin(reviewed)):,} of them reviewed."
    )
    with st.expander(f"Filters: {steps[0].n_recordings:,} → {len(rows):,} recordings"):
        show_steps(steps, key="filter_steps")
    if not len(rows):
        st.info("No recording passes these filters.")
        return
    pages = -(-len(rows) // PAGE)
    page = st.pagination(pages, key=f"page-{key}") if pages > 1 else 1
    on_page = page_of(rows, page, PAGE)
    left, right = st.columns([6, 6], gap="medium")
    with left:
        table = shown_rows(worklist, on_page, label, reviewed)
        state = st.dataframe(
            table,
            hide_index=True,
            height=620,
            key=f"list-{key}",
            selection_mode="single-row-required",
            on_select="rerun",
            column_config={
                "Time": st.column_config.DatetimeColumn(format="YYYY-MM-DD HH:mm"),
                "Age": st.column_config.NumberColumn(format="%.0f y", width=55),
                "Seen": st.column_config.TextColumn(width=50),
                "Probability": st.column_config.TextColumn(width=85),
                "Sex": st.column_config.TextColumn(width=70),
            },
            alt=f"Worklist, page {page} of {pages}: {len(on_page)} recordings.",
        )
        _audit.download_button(
            "Export this list (CSV)",
            lambda: format_table(shown_rows(worklist, rows, label, reviewed)),
            "phenokit-worklist.csv",
            key="export-worklist",
            record=str(cohort.path),
            detail="worklist",
        )
        st.caption(f"Times as in the cohort's tables. {BANNER}.")
    chosen = next(iter(state.selection.rows), 0)
    with right:
        row = int(on_page[min(chosen, len(on_page) - 1)])
        show_recording(key, cohort, worklist, row, reviewed)


def choose_filters(
    worklist: Worklist, reviewed: frozenset[str]
) -> tuple[str, Sort, Filters]:
    """Label of the list, its order, and what it is narrowed to."""
    labels = sorted(worklist.labels, key=clinical_name)
    table = worklist.table
    has_time = bool(table["time"].notna().any())
    st.session_state.setdefault(
        "list_label", FIRST_LABEL if FIRST_LABEL in labels else labels[0]
    )
    orders: list[Sort] = [one for one in SORTS if has_time or one == FIRST_SORT]
    with st.container(horizontal=True, vertical_alignment="bottom"):
        label = st.selectbox(
            "Finding", labels, format_func=clinical_name, key="list_label", width=380
        )
        sort = st.segmented_control(
            "Sort by",
            orders,
            format_func=SORTS.__getitem__,
            default=FIRST_SORT,
            required=True,
            key="list_sort",
        )
        only = st.toggle("Only where the finding is scored present", key="list_only")
        unread = st.toggle("Only unread", key="list_unread")
    with st.container(horizontal=True, vertical_alignment="bottom"):
        outcomes = st.pills(
            "Outcome",
            [one for one in Outcome if (table["outcome"] == one).any()],
            format_func=BADGES.__getitem__,
            selection_mode="multi",
            key="list_outcome",
        )
        sexes = st.pills(
            "Sex", sorted(set(table["sex"])), selection_mode="multi", key="list_sex"
        )
        ages = None
        known = table["age"].dropna()
        if len(known) and int(known.min()) < int(known.max()) + 1:
            low, high = int(known.min()), int(known.max()) + 1
            ages = st.slider(
                "Age, years", low, high, (low, high), key="list_age", width=260
            )
            ages = None if ages == (low, high) else ages
    threshold = _widgets.thresholds(worklist.model).get(label, 0.5)
    filters = Filters(
        outcomes=tuple(outcomes),
        sexes=tuple(sexes),
        ages=ages,
        label=label if only else "",
        at_least=threshold if only else 0.0,
        hide=reviewed if unread else frozenset(),
    )
    return str(label), cast("Sort", sort), filters


def shown_rows(
    worklist: Worklist, rows: np.ndarray, label: str, reviewed: frozenset[str]
) -> pd.DataFrame:
    """The columns of the list; every text is shown as text."""
    table = worklist.table.iloc[rows]
    return pd.DataFrame(
        {
            "Probability": [format_probability(one) for one in table[PROBABILITY + label]],
            "Recording": table["record_id"].to_numpy(),
            "Time": table["time"].to_numpy(),
            "Age": table["age"].to_numpy(),
            "Sex": table["sex"].to_numpy(),
            "Outcome": [BADGES[Outcome(one)] for one in table["outcome"]],
            "Code": table["code"].to_numpy(),
            "Seen": ["✓" if one in reviewed else "" for one in table["record_id"]],
        }
    )


# The chosen recording


def show_recording(
    key: str, cohort: CohortFolder, worklist: Worklist, row: int, reviewed: frozenset[str]
) -> None:
    """Tracing and findings of one recording, and the way to the ECG page."""
    one = worklist.table.iloc[row]
    record_id = str(one["record_id"])
    st.text(f"Recording {visible_text(record_id)}")
    entry = _recordings.cohort_entry(cohort, str(one["path"]), record_id)
    with st.container(horizontal=True, vertical_alignment="center"):
        if entry is not None:
            st.page_link(
                "pages/ecg.py",
                label="Open on the ECG page →",
                query_params={"record": entry.record},
            )
        seen = record_id in reviewed
        st.button(
            "Mark as unread" if seen else "Mark as reviewed",
            key="review",
            on_click=_audit.logged(
                partial(
                    mark_reviewed, reviews_file(), key, record_id, is_reviewed=not seen,
                    reviewer=_sign_in.signed_in_user(),
                ),
                "review", record=record_id, detail="unread" if seen else "reviewed",
            ),
        )  # fmt: skip
    _audit.seen("ECG of a worklist", record_id)
    outcome = Outcome(one["outcome"])
    nodes = [_panels.verdict(outcome, str(one["code"]), str(one["message"]))]
    thresholds = _widgets.thresholds(worklist.model)
    findings = top_findings(worklist, row, thresholds, N_FINDINGS)
    nodes.append(_panels.short_findings(findings))
    _widgets.show(nodes, key="preview")
    if entry is None:
        st.info("The waveform of this recording is not in the cohort folder.")
        return
    try:
        recording = _recordings.read_entry(entry)
    except BadInput as error:
        st.warning(f"The recording cannot be read ({error.code}).")
        st.text(str(error))
        return
    show_strip(recording)


def show_strip(recording: Recording) -> None:
    """The first seconds of the rhythm leads at true scale."""
    display = for_display(recording, _widgets.contract())
    stop = min(SECONDS_SHOWN, display.duration)
    drawn = draw_windows(
        Window(display, 0.0, stop), None, leads=_panels.RHYTHM_LEADS, context=0.0
    )
    caption = f"First {stop:g} s, filtered as for the model"
    _widgets.show([_panels.strip(drawn.patient, caption)], key="strip")


# Attrition


def show_attrition(cohort: CohortFolder) -> None:
    """Every rule of the cohort's own defaults, with what it left and what it dropped."""
    defaults = cohort.defaults
    with st.spinner("Counting who passes each rule", show_time=False):
        try:
            analysed = _cohorts.analysed(
                cohort, str(defaults.get("phecode_version", "1.2")),
                CaseRule(minimum_codes=int(defaults.get("minimum_codes", 2))),
                Linking(rule=defaults.get("linking", "any_time"),  # pyright: ignore[reportArgumentType]
                        unit=defaults.get("unit", "first")),  # pyright: ignore[reportArgumentType]
            )  # fmt: skip
        except BadInput as error:
            _cohorts.show_refused(error)
            return
        except ValueError:
            _cohorts.show_refused(
                BadInput("E_FORMAT", "cohort.toml: linking or unit is no known rule.")
            )
            return
    show_steps(analysed.attrition, key="attrition")
    _widgets.show([_panels.notes(analysed.notes)], key="notes")
    st.page_link("pages/associations.py", label="Test associations in this cohort →")


def show_steps(steps: Sequence[AttritionStep], *, key: str) -> None:
    """What came in, what each rule dropped, and what is left."""
    table = pd.DataFrame(
        {
            "Rule": [step.rule for step in steps],
            "Patients left": [step.n_patients for step in steps],
            "dropped": [step.dropped_patients for step in steps],
            "Recordings left": [step.n_recordings for step in steps],
            "dropped ": [step.dropped_recordings for step in steps],
        }
    )
    numbers: dict[str, Any] = {
        name: st.column_config.NumberColumn(format="localized")
        for name in table.columns[1:]
    }
    numbers["Rule"] = st.column_config.TextColumn(width="large")
    last = steps[-1]
    st.dataframe(
        table,
        hide_index=True,
        column_config=numbers,
        key=key,
        alt=f"{len(steps)} rules; {last.n_patients:,} patients and "
        f"{last.n_recordings:,} recordings are left.",
    )


_widgets.require_app()
main()
