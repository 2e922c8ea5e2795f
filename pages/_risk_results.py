"""The answer of an analysis of risk: flags, the slider, every panel, and the exports."""

from collections.abc import Sequence
from functools import partial
from typing import Literal

import streamlit as st

from pages import (
    _audit,
    _panels,
    _risk_analysis,
    _risk_follow_up,
    _risk_what_if,
    _widgets,
)
from pages._risk_tables import show_drawing, show_table
from phenokit.batch.risk import acknowledge_conflict
from phenokit.errors import BadInput
from phenokit.jobs import Job
from phenokit.readers.cohort_folders import CohortFolder
from phenokit.report.ecg_paper import BANNER
from phenokit.report.risk import (
    RiskPanel,
    RiskRun,
    cohort_sentence,
    conflict_sentence,
    disagreement_sentence,
    expertise_sentence,
    finding_sentence,
    gate_sentence,
    prevalence_sentence,
    write_report,
)
from phenokit.report.risk_exports import export_risk

VIEWS = {
    "answer": "Who is at risk",
    "check": "Does it hold?",
    "why": "What drives risk and testing",
    "other": "Other assumptions",
    "follow": "Follow-up",
    "rules": "Cohort and method",
}
PANELS = {
    "answer": ("distributions", "fifths", "groups"),
    "check": ("calibration", "priors", "comparators"),
    "why": ("odds_ratios", "testing", "decision"),
    "other": ("sensitivity", "viable"),
    "rules": ("attrition",),
}
"""Keys of `risk_panels` by view."""


def show(
    job: Job, other: Job | None, cohort: CohortFolder | None, *, is_last_word: bool
) -> None:
    """The result of a job.

    Parameters
    ----------
    other
        The quick job whose place it has taken, if any.
    cohort
        None where the patients were uploaded.
    is_last_word
        Whether no job of the analysis runs any more.
    """
    try:
        run = _risk_analysis.run_of(job)
    except BadInput as error:
        st.error(f"The result of this analysis cannot be shown ({error.code}).")
        st.text(str(error))
        return
    _audit.seen("risk", code=job.job_id)
    acknowledged = _risk_analysis.acknowledgement(job)
    nodes = [
        _risk_analysis.flags(run.flags, notes=[acknowledged] if acknowledged else ()),
        _risk_analysis.engine_line(job, other, is_last_word=is_last_word),
        ["p", {"class": "lead"}, finding_sentence(run)],
        _risk_analysis.lines(
            [cohort_sentence(run), prevalence_sentence(run), expertise_sentence(run)]
        ),
    ]
    _widgets.show(nodes, key="about")
    with st.container():  # one place, so that nothing below moves when a job ends
        if any(flag["code"] == _risk_analysis.CONFLICT for flag in run.flags):
            show_conflict([one for one in (job, other) if one is not None], run)
        show_disagreement(run)
    views = [one for one in VIEWS if one != "follow" or cohort is not None]
    view = st.segmented_control(
        "Show", views, default=views[0], required=True, format_func=VIEWS.__getitem__,
        key="risk_view",
    )  # fmt: skip
    if view == "answer":
        show_slider(job, run)
    if view == "follow" and cohort is not None:
        _risk_follow_up.show(job.job_id, cohort)
    wanted = PANELS.get(str(view), ())
    for one in _risk_analysis.panels_of(job):
        if one.key in wanted:
            show_panel(one, run, acknowledged)
    if view == "rules":
        show_method(run)
    show_exports(run, acknowledged)


# What must be read first


def show_conflict(jobs: Sequence[Job], run: RiskRun) -> None:
    """Both fits side by side, and the tick that stays on the exports."""
    st.subheader("The stated prevalence and the data disagree", anchor=False)
    st.text(conflict_sentence(run))
    _widgets.show([_risk_analysis.both_fits(run)], key="both-fits")
    said = [_risk_analysis.acknowledgement(job) for job in jobs]
    key = f"acknowledge-{jobs[0].job_id}"
    st.session_state.setdefault(key, all(said))
    st.checkbox(
        "I have read this, I have checked source, population, age range and time window of "
        "the prevalence, and I use the result nonetheless",
        key=key, disabled=all(said), args=(key, jobs),
        on_change=_audit.logged(_acknowledge, "review", detail="prevalence conflict"),
    )  # fmt: skip
    st.caption("The flag stays on screen and on every export, with this acknowledgement.")


def _acknowledge(key: str, jobs: Sequence[Job]) -> None:
    if st.session_state[key]:
        for job in jobs:
            acknowledge_conflict(job.out)


def show_disagreement(run: RiskRun) -> None:
    """Where the two engines differ; said, never averaged away."""
    sentence = disagreement_sentence(run)
    if not sentence:
        return
    table = _risk_analysis.disagreement(run)
    if table is None:
        st.text(f"✓ {sentence}")
        return
    st.warning("The quick answer and the reference disagree. The reference is shown.")
    st.text(sentence)
    _widgets.show([table], key="disagreement")


# Panels


def show_slider(job: Job, run: RiskRun) -> None:
    """The answer under another prevalence."""
    st.subheader("If the prevalence were another", anchor=False)
    stated = run.diagnostics["prevalence"]
    if stated["value"] is None or run.is_continuous:
        st.info("No prevalence was stated, so that no other can take its place.")
        return
    given = run.manifest["settings"]["threshold"]
    _risk_what_if.show_what_if(
        job.job_id,
        {**stated, "threshold": given or run.estimate("prevalence")[0]},
        (run.n_patients, run.n_patients - run.n_tested),
    )


def show_panel(panel: RiskPanel, run: RiskRun, acknowledged: str) -> None:
    """A question, its figures, and the same as tables that can be saved."""
    st.subheader(panel.title, anchor=False)
    st.text(panel.text)
    if panel.absent:
        st.caption("Not shown:")
        st.text(panel.absent)
    for k, drawing in enumerate(panel.drawings):
        show_drawing(drawing, f"{panel.key}-{k}", run, acknowledged)
    for k, (words, rows) in enumerate(panel.tables.items()):
        key = f"{panel.key}-table-{k}"
        if not panel.drawings:
            _widgets.show([_risk_analysis.plain(rows)], key=f"{key}-plain")
        show_table(rows, words, key, run, acknowledged)


def show_method(run: RiskRun) -> None:
    """The gate, the posterior, and what made them."""
    st.subheader("How was it made?", anchor=False)
    settings = run.manifest["settings"]
    pairs = {
        "Run": str(run.manifest["run_id"]),
        "Unseen risk": str(settings["kind"]),
        "Seed": str(settings["seed"]),
        **{str(k): str(v) for k, v in run.manifest.get("versions", {}).items()},
    }
    sentences = [gate_sentence(run), disagreement_sentence(run), conflict_sentence(run)]
    nodes = [_risk_analysis.lines([one for one in sentences if one]), _panels.facts(pairs)]
    _widgets.show(nodes, key="method")
    show_table(run.tables["summary"], "Posterior of every quantity", "posterior", run, "")


# Files


def show_exports(run: RiskRun, acknowledged: str) -> None:
    """All that is on screen, with its flags and limits."""
    st.subheader("Export", anchor=False)
    name = f"phenokit-risk-{run.manifest['run_id']}"

    def file(kind: Literal["csv", "parquet", "json"]) -> bytes:
        return export_risk(
            run.risk, kind=kind, flags=run.flags, limits=run.limits,
            acknowledged=acknowledged, manifest=run.manifest,
            diagnostics=run.diagnostics, summary=run.tables["summary"],
        )  # fmt: skip

    with st.container(horizontal=True):
        for label, kind in EXPORTS.items():
            _audit.download_button(
                label, partial(file, kind), f"{name}.{kind}", key=f"export-{kind}",
                detail=f"risk {run.manifest['run_id']}",
            )  # fmt: skip
        _audit.download_button(
            "Report, HTML", lambda: write_report(run).encode(), f"{name}.html",
            key="export-html", detail=f"risk {run.manifest['run_id']}",
        )  # fmt: skip
    st.caption(
        f"Each carries the flags, the limits and any acknowledgement. {BANNER}. Not for "
        "individual diagnosis."
    )


EXPORTS: dict[str, Literal["csv", "parquet", "json"]] = {
    "Patients, CSV": "csv",
    "Patients, Parquet": "parquet",
    "Result and settings, JSON": "json",
}
