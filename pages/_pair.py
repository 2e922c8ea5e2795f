"""One exposure and one phecode: the groups, the prototype, and the ECGs nearest to it."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import streamlit as st

from pages import _audit, _cohorts, _panels, _recordings, _widgets
from phenokit.cohort import CaseStatus
from phenokit.errors import BadInput, PhenoKitError
from phenokit.preprocessing.contract import for_display
from phenokit.readers.cohort_folders import CohortFolder
from phenokit.recording import LEADS
from phenokit.report.association_figures import draw_groups
from phenokit.report.associations import (
    AssociationResult,
    exposure_name,
    finding_sentence,
    format_odds_ratio,
    format_p,
    rows_tested,
)
from phenokit.report.ecg_paper import Window, draw_windows

N_NEAREST = 20
N_OTHERS = 10
SECONDS_SHOWN = 5.0
UNITS = {
    "prototype": "similarity (1: identical)",
    "class": "predicted log-odds",
    "prototype_class": "similarity (1: identical)",
}


def show_pair(
    cohort: CohortFolder,
    result: AssociationResult,
    exposure: str,
    name: str,
    phecode: str,
    *,
    others: Sequence[str],
) -> None:
    """What lies behind one point of the plot."""
    rows = result.rows_with(phecode)
    (row,) = rows.loc[rows["exposure"] == exposure].to_dict("records")
    st.header("The chosen phecode", anchor=False)
    st.text(finding_sentence(row))
    if others:
        st.caption(f"The first of {len(others) + 1} selected phecodes.")
    try:
        pairing = _cohorts.pairing(cohort, result.manifest["settings"], exposure)
    except PhenoKitError as error:
        st.warning("The cohort of this run is not at hand any more: groups are not shown.")
        st.text(str(error))
        return
    status = pairing.cohort.status
    if len(pairing.values) != result.manifest["n_rows"] or phecode not in status.phecodes:
        st.warning("The cohort has changed since this run: groups are not shown.")
        return
    values, groups = pairing.values, status.column(status.phecodes.index(phecode))
    left, right = st.columns([1, 1], gap="medium")
    with left:
        st.subheader("The exposure by group", anchor=False)
        kind = str(row["exposure_kind"])
        drawing = draw_groups(
            values, groups, name=name, phecode=phecode, unit=UNITS.get(kind, exposure)
        )
        _widgets.show_figure(drawing, key="groups")
        st.dataframe(
            drawing.table, hide_index=True, key="groups-rows", alt=drawing.alt,
            column_config={
                one: st.column_config.NumberColumn(format="%.2f")
                for one in ("q05", "q25", "median", "q75", "q95")
            },
        )  # fmt: skip
    with right:
        st.subheader("Other exposures with this phecode", anchor=False)
        show_others(result, rows, exposure)
    if kind == "prototype":
        show_prototype(result, int(exposure.removeprefix("prototype ")))
    show_nearest(cohort, pairing.cohort.patients, values, groups, name, phecode)


def show_others(result: AssociationResult, rows: pd.DataFrame, exposure: str) -> None:
    """The strongest exposures of the phecode, this one marked."""
    tested = rows_tested(rows)
    rank = tested.index < N_OTHERS
    shown = tested.loc[rank | (tested["exposure"] == exposure)]
    st.dataframe(
        pd.DataFrame(
            {
                "Exposure": [
                    ("▸ " if one == exposure else "") + exposure_name(result, one)
                    for one in shown["exposure"]
                ],
                "Odds ratio (95 %)": [
                    format_odds_ratio(
                        one["odds_ratio"], one["conf_int_1"], one["conf_int_2"]
                    )
                    for one in shown.to_dict("records")
                ],
                "p": [format_p(p) for p in shown["neg_log_p_value"]],
                "AUC": shown["auc"],
            }
        ),
        hide_index=True,
        column_config={
            "Exposure": st.column_config.TextColumn(width=330),
            "AUC": st.column_config.NumberColumn(format="%.2f"),
        },
        key="others",
        alt=f"The {len(shown)} strongest exposures of this phecode.",
    )


def show_prototype(result: AssociationResult, number: int) -> None:
    """The piece of a training ECG that the exposure is the similarity to."""
    st.subheader("The prototype", anchor=False)
    model = str(result.manifest.get("model", ""))
    if model not in _widgets.model_names():
        st.info("The model that scored this cohort is not installed: nothing is drawn.")
        return
    prototypes = _widgets.engine().model(model).prototypes
    prototype = next(one for one in prototypes if one.prototype_id == number)
    source = _widgets.engine().source_recording(prototype, model)
    tracing = None
    if source is not None:
        window = Window(source, prototype.start, prototype.stop)
        is_long = prototype.stop - prototype.start > _panels.LONG
        leads = _panels.RHYTHM_LEADS if is_long else LEADS
        tracing = draw_windows(window, None, leads=leads).patient
    _widgets.show([_panels.gallery([(prototype, tracing)])], key="prototype")


def show_nearest(
    cohort: CohortFolder,
    patients: pd.DataFrame,
    values: np.ndarray,
    groups: np.ndarray,
    name: str,
    phecode: str,
) -> None:
    """The recordings with the highest exposure, each with its status, one of them drawn."""
    if not (patients["record_id"] != "").any():
        return
    st.subheader("The ECGs with the highest exposure", anchor=False)
    order = np.argsort(-values, kind="stable")[:N_NEAREST]
    order = order[np.isfinite(values[order])]
    shown = patients.iloc[order]
    words = {one.value: one.name.lower() for one in CaseStatus}
    table = pd.DataFrame(
        {
            "Recording": shown["record_id"].to_numpy(),
            "Exposure": values[order],
            f"Status for {phecode}": [words[int(one)] for one in groups[order]],
            "Age": shown["age"].to_numpy(),
            "Sex": shown["sex"].to_numpy(),
        }
    )
    left, right = st.columns([1, 1], gap="medium")
    with left:
        state = st.dataframe(
            table,
            hide_index=True,
            column_config={
                "Exposure": st.column_config.NumberColumn(format="%.2f"),
                "Age": st.column_config.NumberColumn(format="%.0f y"),
            },
            selection_mode="single-row-required",
            on_select="rerun",
            key=f"nearest-{phecode}",
            alt=f"The {len(table)} recordings with the highest {name}.",
        )
    row = next(iter(state.selection.rows), 0)
    record_id = str(table["Recording"].iloc[min(row, len(table) - 1)])
    _audit.seen("nearest ECG", record_id)
    with right:
        entry = _cohorts.entry_of(cohort, record_id)
        st.text(f"Recording {record_id}")
        if entry is None:
            st.info("The waveform of this recording is not in the cohort folder.")
            return
        st.page_link(
            "pages/ecg.py",
            label="Open on the ECG page →",
            query_params={"record": entry.record},
        )
        try:
            recording = _recordings.read_entry(entry)
        except BadInput as error:
            st.warning(f"The recording cannot be read ({error.code}).")
            return
        display = for_display(recording, _widgets.contract())
        stop = min(SECONDS_SHOWN, display.duration)
        drawn = draw_windows(
            Window(display, 0.0, stop), None, leads=_panels.RHYTHM_LEADS, context=0.0
        )
        caption = f"First {stop:g} s, filtered as for the model"
        _widgets.show([_panels.strip(drawn.patient, caption)], key="nearest-strip")
