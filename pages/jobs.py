"""All jobs: what runs, what waits, what came of the others; and a folder to score.

What a job does is read from its folder each time (`phenokit.jobs`): every tab, server
process and restart shows the same, and the session holds nothing but an id.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import streamlit as st

from pages import (
    _audit,
    _cohorts,
    _job_panels,
    _job_progress,
    _long_recordings,
    _recordings,
    _risk_analysis,
    _scoring_form,
    _uploads,
    _widgets,
)
from phenokit.errors import OutputBusy
from phenokit.jobs import (
    Job,
    JobState,
    cancel_job,
    jobs_folder,
    read_log,
    read_manifest,
    read_rejected,
    remove_job,
    resume_job,
    slots,
)
from phenokit.report.explanation import count
from phenokit.report.tables import format_table

SECONDS_BETWEEN_LOOKS = 2.0
PAGE = 12
JOB, SAID = "job", "job-said"
"""What a session holds: the id of the job that is shown, and what was refused."""


def main() -> None:
    st.title("Jobs")
    jobs = _uploads.visible_jobs()
    wanted = st.query_params.get("job")
    if JOB not in st.session_state and wanted is not None:
        st.session_state[JOB] = wanted
    with st.expander("Score a folder", expanded=not jobs):
        _scoring_form.show()
    is_live = any(job.is_live for job in jobs)
    look = st.fragment(_look, run_every=SECONDS_BETWEEN_LOOKS if is_live else None)
    look(is_live)


def _look(was_live: bool) -> None:
    with _widgets.guard(is_use=False):
        jobs = _uploads.visible_jobs()
        if was_live != any(job.is_live for job in jobs):
            st.rerun()  # the whole page: it looks again only while something runs
        show_jobs(jobs)


def show_jobs(jobs: list[Job]) -> None:
    """The list, and beside it the job that was chosen."""
    n_running = sum(job.state is JobState.RUNNING for job in jobs)
    n_waiting = sum(job.state is JobState.WAITING for job in jobs)
    st.text(
        f"{count(len(jobs), 'job')}: {n_running} running, {n_waiting} waiting. At most "
        f"{slots()} run at once; the others wait for their turn."
    )
    if message := st.session_state.pop(SAID, None):
        st.warning(message)
    if not jobs:
        st.info(
            "No job yet. Score a folder above, or start a run on the pages iEEG, "
            "Associations or Risk."
        )
        return
    by_id = {job.job_id: job for job in jobs}
    if st.session_state.get(JOB) not in by_id:
        if JOB in st.session_state:
            st.info("The job that the address names is not there any more.")
        st.session_state[JOB] = jobs[0].job_id
    chosen = by_id[st.session_state[JOB]]
    st.query_params["job"] = chosen.job_id
    left, right = st.columns([5, 7], gap="large")
    with left:
        pages = -(-len(jobs) // PAGE)
        page = st.pagination(pages, key="jobs-page") if pages > 1 else 1
        shown = jobs[(page - 1) * PAGE : page * PAGE]
        _widgets.show(
            [_job_panels.job_list(shown, selected=chosen.job_id)],
            key="jobs",
            on_choose=_choose,
        )
    with right:
        show_job(chosen)


def _choose() -> None:
    st.session_state[JOB] = _widgets.chosen("jobs")


# The job that was chosen


def show_job(job: Job) -> None:
    """How far it is, what can be done about it, and what came of it."""
    _audit.seen("job", code=job.job_id)
    _widgets.show(
        [
            ["h3", {"class": "job"}, job.title or _job_panels.kind(job)],
            _job_panels.times(job),
        ],
        key="head",
    )
    _job_progress.show(job, key="state")
    if (meaning := _job_panels.what_happened(job)) is not None:
        _widgets.show([meaning], key="meaning")
    if job.state is JobState.FINISHED:
        manifest = read_manifest(job)
        found = _job_panels.outcomes(manifest)
        _widgets.show([*found, _job_panels.provenance(manifest)], key="found")
        show_files(job)
    show_actions(job)
    with st.expander("Command: runs or resumes this job by hand"):
        st.code(_job_panels.command(job), language=None, wrap_lines=True)
    with st.expander("Log"):
        log = read_log(jobs_folder(), job.job_id)
        if log:
            st.code(log, language=None, wrap_lines=True)
        else:
            st.text("The log is empty: the job has complained of nothing.")


def show_actions(job: Job) -> None:
    """Cancel; or resume, remove, and the page that shows the result."""
    with st.container(horizontal=True, vertical_alignment="center"):
        if (link := _page_of(job)) is not None:
            page, label, where = link
            st.page_link(page, label=label, query_params=where)
        if job.is_live:
            _button("Cancel", partial(cancel_job, jobs_folder()), job)
            st.caption("This tab may be closed: the job goes on.")
            return
        if job.can_resume:
            _button("Resume", partial(resume_job, jobs_folder()), job, is_primary=True)
        with st.popover("Remove …"):
            st.text(
                "Removes this job and its result from the server. What it read stays where "
                "it is. This cannot be undone."
            )
            _button("Remove for good", partial(remove_job, jobs_folder()), job)


def _button(
    label: str, act: Callable[[str], object], job: Job, *, is_primary: bool = False
) -> None:
    name = label.split()[0].lower()
    st.button(
        label,
        key=f"{name}-{job.job_id}",
        type="primary" if is_primary else "secondary",
        on_click=_audit.logged(_act, "job", detail=f"{name} {job.job_id}"),
        args=(act, job.job_id),
    )


def _act(act: Callable[[str], object], job_id: str) -> None:
    try:
        act(job_id)
    except OutputBusy as error:
        st.session_state[SAID] = f"{error}.".capitalize()
    except KeyError:
        st.session_state[SAID] = "This job is not there any more."


def _page_of(job: Job) -> tuple[str, str, dict[str, str]] | None:
    """The page that shows the result of a job, and where on it; None if none does."""
    command = job.arguments[:1]
    if command in {("associate",), ("risk",)}:
        keys = [
            key for key, one in _cohorts.cohorts().items() if str(one.path) in job.arguments
        ]
        if command == ("associate",):
            where = {"cohort": keys[0], "run": job.job_id} if keys else None
            page, label = "pages/associations.py", "Open on the Associations page →"
        else:
            run = _risk_analysis.analysis_key(job.arguments)
            where = {"run": run, "source": "cohort" if keys else "upload"}
            where |= {"cohort": keys[0]} if keys else {}
            page, label = "pages/risk.py", "Open on the Risk page →"
        return None if where is None else (page, label, where)
    if command == ("score",) and len(job.arguments) > 1:
        path = Path(job.arguments[1])
        for root in _recordings.folders().values():
            if path.is_file() and path.is_relative_to(root):
                for entry in _long_recordings.entries(root):
                    if entry.path == path:
                        where = {"record": entry.record}
                        return "pages/ieeg.py", "Open on the iEEG page →", where
    return None


def show_files(job: Job) -> None:
    """The report, and the recordings that were rejected."""
    with st.container(horizontal=True):
        if (job.out / "report.html").is_file():
            _audit.download_button(
                "Report (HTML)",
                (job.out / "report.html").read_bytes,
                f"phenokit-{job.job_id}-report.html",
                key=f"report-{job.job_id}",
                detail=f"report {job.job_id}",
            )
        if (job.out / "errors.parquet").is_file():
            _audit.download_button(
                "Rejected recordings (CSV)",
                lambda: format_table(read_rejected(job)),
                f"phenokit-{job.job_id}-errors.csv",
                key=f"errors-{job.job_id}",
                detail=f"errors {job.job_id}",
            )


_widgets.require_app()
main()
