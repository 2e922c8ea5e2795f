"""Risk of the tested and the untested: set up an analysis, watch it, and read the answer.

An analysis is two jobs (`phenokit.jobs`): a quick one, which answers within seconds, and
the reference, which takes the place of the quick one when it ends. Both go on when the tab
is closed.
"""

from collections.abc import Mapping
from functools import partial

import streamlit as st

from pages import (
    _audit,
    _cohorts,
    _job_progress,
    _risk_analysis,
    _risk_results,
    _risk_setup,
    _widgets,
)
from pages._risk_analysis import Analysis
from phenokit.errors import OutputBusy
from phenokit.jobs import Job, JobState, cancel_job, find_job, jobs_folder, resume_job
from phenokit.readers.cohort_folders import CohortFolder

NEW = "new"
SOURCES = {"cohort": "A cohort", "upload": "A table of your own"}
SECONDS_BETWEEN_LOOKS = 1.0


def main() -> None:
    st.title("Risk")
    _widgets.show([_risk_analysis.limits()], key="limits")
    source = choose_source()
    left, right = st.columns(2, gap="medium")
    with left:
        found = _cohorts.choose_cohort() if source == "cohort" else ("upload", None)
        if source == "upload":
            st.text("The table stays on this server, in the folder of the runs.")
    if found is None:
        return
    key, cohort = found
    with right:
        chosen = choose_analysis(key, cohort)
    if chosen is None:
        _risk_setup.show(key, cohort, partial(open_analysis, key))
    else:
        show_analysis(chosen, cohort)


# Where patients come from, and what was run


def choose_source() -> str:
    """Whether patients come from a cohort of the server or from an upload."""
    if "risk_source" not in st.session_state:
        wanted = st.query_params.get("source")
        st.session_state["risk_source"] = wanted if wanted in SOURCES else "cohort"
    chosen = str(
        st.segmented_control(
            "Patients from", list(SOURCES), format_func=SOURCES.__getitem__, required=True,
            key="risk_source",
        )
    )  # fmt: skip
    st.query_params["source"] = chosen
    return chosen


def choose_analysis(key: str, cohort: CohortFolder | None) -> Analysis | None:
    """An analysis of these patients, the latest at first; None for a new one."""
    found = _risk_analysis.analyses("" if cohort is None else str(cohort.path))
    state = f"risk-run-{key}"
    if st.session_state.get(state) not in {NEW, *found}:
        wanted = st.query_params.get("run")
        first = next(iter(found), NEW)
        st.session_state[state] = wanted if wanted in {NEW, *found} else first
    chosen = st.selectbox(
        f"Analysis ({len(found):,} earlier)",
        [NEW, *found],
        format_func=lambda one: "Set up a new one" if one == NEW else found[one].words(),
        key=state,
    )
    st.query_params["run"] = chosen
    return found.get(chosen)


def open_analysis(key: str, analysis: str) -> None:
    """Show an analysis that was just started."""
    st.session_state[f"risk-run-{key}"] = analysis


# An analysis: how far its jobs are, and the best answer there is


def show_analysis(analysis: Analysis, cohort: CohortFolder | None) -> None:
    """Progress on top while something runs, then the answer or the refusal."""
    look = st.fragment(
        show_jobs, run_every=SECONDS_BETWEEN_LOOKS if analysis.is_running else None
    )
    look({job.job_id: job.state for job in analysis.jobs})
    quick, reference = analysis.quick, analysis.reference
    finished = [job for job in analysis.jobs if job.state is JobState.FINISHED]
    refusals = {
        job.job_id: refusal
        for job in analysis.jobs
        if (refusal := _risk_analysis.refusal_of(job)) is not None
    }
    if refusals:
        _widgets.show(
            [
                _risk_analysis.refused(
                    refusals[job.job_id], title=_risk_analysis.engine_words(job)
                )
                for job in analysis.jobs
                if job.job_id in refusals
            ],
            key="refused",
        )
    if not finished:
        return
    shown = finished[-1]
    if refusals and not _asked_for_unconfirmed(shown, reference):
        return
    other = quick if shown is reference and quick in finished else None
    _risk_results.show(shown, other, cohort, is_last_word=not analysis.is_running)


def _asked_for_unconfirmed(shown: Job, reference: Job | None) -> bool:
    """Whether numbers of one engine are wanted although the other refused."""
    name = _risk_analysis.engine_words(shown)
    st.warning(
        f"The {name} passed its own gate, the other did not. Its numbers are unconfirmed "
        "and stay closed until you open them."
    )
    return st.toggle("Show the unconfirmed numbers", key=f"unconfirmed-{shown.job_id}")


def show_jobs(states: Mapping[str, JobState]) -> None:
    """State of each job; the page is drawn again when one of them changes."""
    with _widgets.guard(is_use=False):
        _show_jobs(states)


def _show_jobs(states: Mapping[str, JobState]) -> None:
    jobs = [find_job(jobs_folder(), job_id) for job_id in states]
    if any(states[job.job_id] is not job.state for job in jobs):
        st.rerun()  # the whole page: its panels change with the answer
    unfinished = [job for job in jobs if job.state is not JobState.FINISHED]
    if not unfinished:
        return
    for job, column in zip(unfinished, st.columns(len(unfinished)), strict=True):
        with column:
            show_job(job)
    if any(job.is_live for job in jobs):
        st.caption(
            "This tab may be closed: the runs go on, and stand in the list of analyses."
        )
    if message := st.session_state.pop("refused", None):
        st.warning(message)


def show_job(job: Job) -> None:
    """How far one job is, or why it ended."""
    name = _risk_analysis.engine_words(job)
    st.text(name[0].upper() + name[1:])
    if _risk_analysis.refusal_of(job) is not None:
        st.text("✕ Refused: see below.")
        return
    _job_progress.show(job, key=f"job-{job.job_id}")
    if job.is_live:
        st.button(
            f"Cancel the {name}", key=f"cancel-{job.job_id}",
            on_click=_audit.logged(cancel_job, "job", detail=f"cancel {job.job_id}"),
            args=(jobs_folder(), job.job_id),
        )  # fmt: skip
    elif job.can_resume:
        st.button(
            f"Resume the {name}", key=f"resume-{job.job_id}",
            on_click=_audit.logged(resume, "job", detail=f"resume {job.job_id}"),
            args=(job.job_id,),
        )  # fmt: skip


def resume(job_id: str) -> None:
    """Run the command of a job that ended early again."""
    try:
        resume_job(jobs_folder(), job_id)
    except OutputBusy as error:
        st.session_state["refused"] = str(error)


_widgets.require_app()
main()
