"""What a finding is worth where it is rarer or commoner than in training: a panel.

It moves a calibrated probability to a stated prevalence. It has nothing to do with the risk
of patients who were not tested, which has a page of its own.
"""

import pandas as pd
import streamlit as st

from pages import _audit, _cohorts, _panels, _widgets
from phenokit.errors import PhenoKitError
from phenokit.evidence.prototypes import Finding
from phenokit.readers.cohort_folders import CohortFolder
from phenokit.report.ecg_paper import BANNER
from phenokit.report.explanation import format_probability
from phenokit.report.local_prevalence import (
    LabelOnCard,
    LocalPrevalence,
    adjusted_words,
    expected_calibration,
    export_table,
    format_quantity,
    label_on_card,
    point_words,
    prevalence_grid,
    prevalence_of_scores,
)
from phenokit.report.risk_numbers import format_percent
from phenokit.report.tables import format_table
from phenokit.report.worklist import PROBABILITY
from phenokit.statements import clinical_name

STATED = "local_prevalence"
"""Of the session: what was stated, by label."""
FIELDS = ("value", "low", "high", "source")


def of_label(label: str) -> LabelOnCard:
    """What the model in use says of a label."""
    bundle = _widgets.bundle()
    return label_on_card(bundle.card, bundle.calibration, label)


def stated_for(label: str) -> LocalPrevalence | None:
    """The prevalence that the reader stated for a label, on any recording."""
    said = st.session_state.get(STATED, {}).get(label)
    if said is None:
        return None
    interval = None if said["low"] is None else (said["low"], said["high"])
    return LocalPrevalence(said["value"], interval, said["source"])


def words_for(finding: Finding) -> tuple[str, str] | None:
    """The stated prevalence and the finding's probability there, in words."""
    local = stated_for(finding.label)
    if local is None:
        return None
    of = of_label(finding.label)
    return local.words(), adjusted_words(finding.probability, of, local)


def show(finding: Finding, *, record_id: str, sha256: str, name: str) -> None:
    """The control, and what follows from what was stated.

    Parameters
    ----------
    record_id
        Pseudonym of the recording, for the export.
    sha256
        Of the recording, for the audit log.
    name
        Of the file, without ending.
    """
    of, local = of_label(finding.label), stated_for(finding.label)
    words = "not set" if local is None else local.words()
    st.subheader(f"Local prevalence: {words}", anchor=False)
    own = format_percent(of.training_prevalence)
    st.text(
        f"In training {own} of the recordings had {clinical_name(finding.label)}. State "
        "how common it is among the recordings here."
    )
    _choose(of)
    if local is None:
        return
    _widgets.show(
        [
            _panels.local_prevalence(of, local, finding.probability),
            _panels.notes(
                [point_words(of), expected_calibration(of, local)],
            ),
        ],
        key="local",
    )
    _show_grid(of, local, finding.probability)
    bundle = _widgets.bundle()
    _audit.download_button(
        "Export (CSV)",
        lambda: format_table(
            export_table(
                of, local, probability=finding.probability, model=bundle.name,
                bundle_hash=bundle.bundle_hash, record_id=record_id,
            )
        ),
        f"{name}-{finding.label.replace('/', '-')}-local-prevalence.csv",
        key="local_csv", record=sha256, bundle_hash=bundle.bundle_hash,
        detail="local prevalence",
    )  # fmt: skip
    st.caption(BANNER)


def _choose(of: LabelOnCard) -> None:
    """Presets with their sources, and the form."""
    label = of.label
    with st.container(horizontal=True, vertical_alignment="bottom"):
        for words, preset in _presets(of).items():
            st.button(
                words, key=f"preset-{label}-{words}", on_click=_fill, args=(label, preset)
            )
        if cohorts := _cohorts_of_model():
            st.selectbox(
                "As the scores of a cohort suggest",
                list(cohorts),
                index=None,
                format_func=lambda key: cohorts[key].name,
                key=f"fit-{label}",
                width=360,
                placeholder="A cohort that this model scored",
                on_change=_fill_from_scores,
                args=(of,),
            )
    said = st.session_state.get(STATED, {}).get(label, {})
    for field in FIELDS[:3]:
        kept = said.get(field)
        shown = None if kept is None else round(100 * kept, 4)
        st.session_state.setdefault(_key(label, field), shown)
    st.session_state.setdefault(_key(label, "source"), said.get("source", ""))
    with st.form(f"local-{label}", border=True):
        left, low, high, right = st.columns([2, 2, 2, 5], vertical_alignment="bottom")
        for place, words, field in (
            (left, "Prevalence here, %", "value"),
            (low, "95 % interval from, %", "low"),
            (high, "to, %", "high"),
        ):
            place.number_input(
                words, value=None, step=0.1, format="%.2f", key=_key(label, field)
            )
        right.text_input(
            "Source: population, age range, time window", key=_key(label, "source")
        )
        with st.container(horizontal=True):
            st.form_submit_button("Use this prevalence", on_click=_use, args=(label,))
            st.form_submit_button("Remove", on_click=_remove, args=(label,))
    if refusal := st.session_state.pop(f"refused-{label}", None):
        st.error(refusal)


def _key(label: str, field: str) -> str:
    return f"local-{field}-{label}"


def _presets(of: LabelOnCard) -> dict[str, LocalPrevalence]:
    """Prevalences that the model's card has, each with its source."""
    card = _widgets.bundle().card
    model = f"{card['name']} {card['version']}"
    found = {
        f"As in training: {format_percent(of.training_prevalence)}": LocalPrevalence(
            of.training_prevalence, source=f"training data of {model}"
        )
    }
    if 0 < of.test_prevalence < 1:
        assert of.point is not None
        n = of.point.n_positive + of.point.n_negative
        found[f"As on the test fold: {format_percent(of.test_prevalence)}"] = (
            LocalPrevalence(
                of.test_prevalence,
                of.test_interval,
                f"test fold of {model}: {of.point.n_positive:,} of {n:,}",
            )
        )
    return found


def _cohorts_of_model() -> dict[str, CohortFolder]:
    """Cohorts whose scores come from the model in use."""
    name = _widgets.model_name()
    return {
        key: cohort
        for key, cohort in _cohorts.cohorts().items()
        if cohort.model == name and (cohort.scores / "manifest.json").is_file()
    }


def _fill(label: str, preset: LocalPrevalence) -> None:
    low, high = preset.interval or (None, None)
    _keep(label, preset.value, low, high, preset.source)


def _fill_from_scores(of: LabelOnCard) -> None:
    """The prevalence that the scores of the chosen cohort speak for."""
    cohort = _cohorts_of_model().get(st.session_state[f"fit-{of.label}"])
    if cohort is None:
        return
    try:
        table = _cohorts.worklist(cohort).table
    except PhenoKitError as error:
        st.session_state[f"refused-{of.label}"] = f"The scores cannot be used: {error}"
        return
    found = prevalence_of_scores(
        table[PROBABILITY + of.label].to_numpy(float), of, name=cohort.name
    )
    if found is None:
        st.session_state[f"refused-{of.label}"] = (
            "The scores of this cohort speak for no prevalence above 0."
        )
        return
    _fill(of.label, found)


def _use(label: str) -> None:
    value, low, high, source = (
        st.session_state.get(_key(label, field)) for field in FIELDS
    )
    if value is None or (low is None) != (high is None):
        st.session_state[f"refused-{label}"] = (
            "State the prevalence, and both ends of its interval or none."
        )
        return
    low, high = (None if one is None else one / 100 for one in (low, high))
    _keep(label, value / 100, low, high, source or "")


def _keep(
    label: str, value: float, low: float | None, high: float | None, source: str
) -> None:
    """Take a prevalence that can be; say why where it cannot."""
    try:
        LocalPrevalence(value, None if low is None or high is None else (low, high))
    except ValueError as error:
        st.session_state[f"refused-{label}"] = str(error)
        return
    said = {"value": value, "low": low, "high": high, "source": source}
    st.session_state.setdefault(STATED, {})[label] = said
    for field in FIELDS:
        st.session_state.pop(_key(label, field), None)


def _shares(grid: pd.DataFrame, quantity: str) -> list[str]:
    """A share of each row of the grid with its interval."""
    rows = grid[[quantity, f"{quantity}_low", f"{quantity}_high"]].to_numpy(float)
    return [format_quantity(quantity, at, low, high) for at, low, high in rows]


def _remove(label: str) -> None:
    st.session_state.get(STATED, {}).pop(label, None)
    for field in FIELDS:
        st.session_state.pop(_key(label, field), None)


def _show_grid(of: LabelOnCard, local: LocalPrevalence, probability: float) -> None:
    """The same figures over a grid of prevalences."""
    grid = prevalence_grid(of, local, probability=probability)
    names = {"stated": "stated here", "training": "in training", "": ""}
    shown = {
        "Prevalence": [format_percent(one) for one in grid["prevalence"]],
        "": [names[one] for one in grid["which"]],
        "This recording": [format_probability(one) for one in grid["probability"]],
        "Threshold": [format_percent(one) for one in grid["threshold"]],
    }
    if of.point is not None:
        shown |= {
            "Positive predictive value": _shares(grid, "ppv"),
            "Negative predictive value": _shares(grid, "npv"),
            "Flagged, of 1,000": [f"{one:.0f}" for one in grid["flagged_per_1000"]],
            "Missed, of 1,000": [f"{one:.1f}" for one in grid["missed_per_1000"]],
        }
    with st.expander(f"The same at {len(grid)} prevalences"):
        st.dataframe(
            shown, hide_index=True, key="local_grid",
            alt=f"Figures of {clinical_name(of.label)} at {len(grid)} prevalences.",
        )  # fmt: skip
