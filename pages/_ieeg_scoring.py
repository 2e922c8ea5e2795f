"""The model's part of the iEEG page: a job that scores, and what it found.

A job is the command `phenokit score` in a process of its own (`phenokit.jobs`), so it goes
on when the tab is closed, and every tab sees the same.
"""

from pathlib import Path

import streamlit as st

from pages import _audit, _ieeg_panels, _job_progress, _widgets
from pages._long_recordings import Opened
from phenokit.errors import BadInput, OutputBusy
from phenokit.jobs import (
    Job,
    JobState,
    cancel_job,
    find_job,
    jobs_folder,
    list_jobs,
    resume_job,
    start_job,
)
from phenokit.pipeline import ScoredIEEG

SECONDS_BETWEEN_LOOKS = 2
REFUSED = "ieeg-refused"


def show(one: Opened) -> ScoredIEEG | None:
    """The newest result; above it the job that runs, and the button that starts one."""
    jobs = [job for job in list_jobs(jobs_folder()) if _is_of(job, one)]
    newest = jobs[0] if jobs else None
    finished = next((job for job in jobs if job.state is JobState.FINISHED), None)
    if newest is not None and newest is not finished:
        _watch(newest)
    scored = None if finished is None else _read(finished, one)
    if newest is None or not newest.is_live:
        _offer(one, scored)
    if message := st.session_state.pop(REFUSED, None):
        st.warning(message)
    if scored is not None:
        _audit.seen(
            "iEEG result", one.key, bundle_hash=scored.bundle_hash, code=scored.code
        )
        _widgets.show([_ieeg_panels.result(scored)], key="ieeg-result")
    return scored


def _is_of(job: Job, one: Opened) -> bool:
    return job.arguments[:1] == ("score",) and str(one.path) in job.arguments


def _read(job: Job, one: Opened) -> ScoredIEEG | None:
    try:
        stamp = (job.out / "manifest.json").stat().st_mtime
        return _scored(str(job.out), one.recording.record_id, stamp)
    except BadInput as error:
        _widgets.show([_ieeg_panels.refused(error)], key="ieeg-rejected")
    except (KeyError, OSError, ValueError):
        st.warning("The result of this job cannot be read any more. Score it again.")
    return None


@st.cache_resource(max_entries=8, ttl="30m", show_spinner=False)
def _scored(out: str, record_id: str, stamp: float) -> ScoredIEEG:
    from phenokit.batch.score_ieeg import read_scored_ieeg

    return read_scored_ieeg(Path(out), record_id)


def _offer(one: Opened, scored: ScoredIEEG | None) -> None:
    model = _widgets.ieeg_model_name()
    if not model:
        st.info(
            "No iEEG model is installed, so this recording can be read but not scored. "
            "An administrator adds one with “phenokit models install FILE”."
        )
        return
    current = _widgets.bundle_of(model).bundle_hash
    if scored is not None and scored.bundle_hash == current:
        return
    words = "Score this recording" if scored is None else "Score with the model of today"
    begin = _audit.logged(
        _start, "job", record=one.key, bundle_hash=current, detail="start score"
    )
    st.button(words, type="primary", key="ieeg-score", on_click=begin, args=(one, model))
    st.caption(
        f"{model} reads the whole recording in a process of its own. The tab may be closed "
        "and reopened meanwhile. Research use: the result is not a diagnosis."
    )


def _start(one: Opened, model: str) -> None:
    try:
        start_job(
            jobs_folder(),
            title=f"Score iEEG, {one.name}",
            arguments=("score", str(one.path), "--model", model),
        )
    except OutputBusy as error:
        st.session_state[REFUSED] = str(error)


def _watch(job: Job) -> None:
    """How far the job is, or why it ended; looks again only until then."""
    look = st.fragment(_look, run_every=SECONDS_BETWEEN_LOOKS if job.is_live else None)
    look(job.job_id, job.is_live)


def _look(job_id: str, was_running: bool) -> None:
    with _widgets.guard(is_use=False):
        job = find_job(jobs_folder(), job_id)
        if was_running != job.is_live:
            st.rerun()  # the whole page: it looks again only while something runs
        _job_progress.show(job, key="ieeg-job")
        if job.is_live:
            st.caption(
                f"Asked for {_job_progress.asked(job)}. This tab may be closed: the job "
                "goes on, and stands here when the recording is opened again."
            )
            st.button(
                "Cancel",
                key="ieeg-cancel",
                on_click=_audit.logged(cancel_job, "job", detail=f"cancel {job_id}"),
                args=(jobs_folder(), job_id),
            )
        elif job.can_resume:
            again = _audit.logged(_resume, "job", detail=f"resume {job_id}")
            st.button("Resume", key="ieeg-resume", on_click=again, args=(job_id,))


def _resume(job_id: str) -> None:
    try:
        resume_job(jobs_folder(), job_id)
    except OutputBusy as error:
        st.session_state[REFUSED] = str(error)
