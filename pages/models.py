"""The card of the model in use: what it is for, how good it is, and its prototypes."""

from collections.abc import Sequence
from typing import Any

import streamlit as st

from pages import _panels, _widgets
from phenokit.recording import LEADS
from phenokit.report.ecg_paper import Window, draw_windows
from phenokit.report.explanation import format_interval
from phenokit.statements import clinical_name

N_SHOWN = 6


def main() -> None:
    bundle = _widgets.bundle()
    card = bundle.card
    st.title("Model")
    _widgets.show([_panels.card_head(card)], key="card")
    st.header("Performance", anchor=False)
    show_metrics(card["performance"], key="performance")
    if card["subgroups"]:
        st.subheader("Subgroups", anchor=False)
        show_metrics(card["subgroups"], key="subgroups")
    st.header("Calibration and unfamiliar recordings", anchor=False)
    show_metrics(card["calibration"]["slope"], key="calibration")
    show_metrics(card["out_of_distribution"]["detection"], key="detection")
    st.header("Prevalence", anchor=False)
    show_prevalence(card["prevalence"])
    st.header("Prototypes", anchor=False)
    show_gallery()
    st.header("Licences and hashes", anchor=False)
    _widgets.show([_panels.provenance(bundle)], key="provenance")
    with st.expander("TRIPOD+AI checklist"):
        _widgets.show([_panels.facts(card["tripod_ai"])], key="tripod")


def show_metrics(metrics: Sequence[dict[str, Any]], *, key: str) -> None:
    """Figures with interval and denominators; undefined ones say why."""
    if not metrics:
        return
    rows = [
        {
            "Label": _label(one["label"]),
            "Metric": one["metric"],
            "Subgroup": one["subgroup"],
            "Value (interval)": one["undefined"]
            or format_interval(one["value"], one["low"], one["high"]),
            "Level": f"{100 * one['level']:.0f} %",
            "n": one["n"],
            "Positive": one["n_positive"],
        }
        for one in metrics
    ]
    st.dataframe(rows, hide_index=True, key=key, alt=f"{key}: {len(rows)} figures.")


def show_prevalence(prevalence: dict[str, dict[str, Any]]) -> None:
    rows = [
        {
            "Label": _label(label),
            "In training": _share(one["training"]),
            "Tested from": _share(one["tested_low"]),
            "Tested to": _share(one["tested_high"]),
        }
        for label, one in prevalence.items()
    ]
    st.dataframe(
        rows, hide_index=True, key="prevalence", alt=f"Prevalence of {len(rows)} labels."
    )


def show_gallery() -> None:
    """The prototypes of a class, each a piece of a training recording."""
    model = _widgets.engine().model(_widgets.model_name())
    labels = sorted({prototype.label for prototype in model.prototypes}, key=_label)
    label = st.selectbox("Class", labels, format_func=_label, key="class")
    prototypes = [one for one in model.prototypes if one.label == label]
    pages = -(-len(prototypes) // N_SHOWN)
    page = st.pagination(pages, key="page") if pages > 1 else 1
    drawn = []
    for prototype in prototypes[(page - 1) * N_SHOWN : page * N_SHOWN]:
        source = _widgets.engine().source_recording(prototype, _widgets.model_name())
        tracing = None
        if source is not None:
            window = Window(source, prototype.start, prototype.stop)
            is_long = prototype.stop - prototype.start > _panels.LONG
            leads = _panels.RHYTHM_LEADS if is_long else LEADS
            tracing = draw_windows(window, None, leads=leads).patient
        drawn.append((prototype, tracing))
    _widgets.show([_panels.gallery(drawn)], key="gallery")


def _label(label: str) -> str:
    """Clinical name of a label; a metric may be about all labels together."""
    try:
        return clinical_name(label)
    except KeyError:
        return label


def _share(value: float | None) -> str:
    return "not tested" if value is None else f"{100 * value:.1f} %"


_widgets.require_app()
main()
