"""How far a job is, in the same words on every page that shows one."""

from datetime import UTC, datetime, timedelta

import streamlit as st

from pages import _panels, _widgets
from phenokit.jobs import Job
from phenokit.report.explanation import count


def show(job: Job, *, key: str) -> None:
    """The state, why it ended and what to do; a bar and the time left while it runs."""
    _widgets.show([_panels.job_state(job)], key=key)
    if job.is_live:
        st.progress(share(job), text=words(job))


def share(job: Job) -> float:
    """Of the present stage, 0 to 1."""
    return min(job.done / job.of, 1.0) if job.of else 0.0


def words(job: Job) -> str:
    """What it waits for; or its stage, speed and time left."""
    if job.place is not None:
        if job.place == 1:
            return "Next in the queue: it starts when a running job ends"
        return f"Place {job.place} in the queue: {count(job.place - 1, 'job')} before it"
    if not job.of:
        return "Starting"
    said = [f"{job.stage.capitalize()}: {job.done:,} of {job.of:,}"]
    if job.steps_a_second is not None:
        said.append(speed(job.steps_a_second))
    if job.seconds_left is not None:
        said.append(f"about {duration(job.seconds_left)} left")
    return ", ".join(said)


def speed(steps_a_second: float) -> str:
    """In whole steps where there are many.

    Examples
    --------
    >>> speed(132.4), speed(2.25), speed(0.05)
    ('132 a second', '2.2 a second', '3 a minute')
    """
    if steps_a_second < 1:
        return f"{60 * steps_a_second:.2g} a minute"
    return f"{steps_a_second:,.0f} a second" if steps_a_second >= 10 else (
        f"{steps_a_second:.1f} a second"
    )  # fmt: skip


def duration(seconds: float) -> str:
    """In the unit that a person would use.

    Examples
    --------
    >>> duration(0.2), duration(89), duration(600), duration(9000)
    ('1 second', '89 seconds', '10 minutes', '2.5 hours')
    """
    if seconds < 90:
        return count(max(round(seconds), 1), "second")
    if seconds < 5400:
        return count(round(seconds / 60), "minute")
    return f"{seconds / 3600:.1f} hours"


def asked(job: Job) -> str:
    """When it was asked for, with the zone."""
    return f"{datetime.fromisoformat(job.asked):%Y-%m-%d %H:%M} UTC"


def expected_end(job: Job) -> str:
    """When the present stage will end at this speed; empty where nobody knows."""
    if job.seconds_left is None:
        return ""
    return f"{datetime.now(UTC) + timedelta(seconds=job.seconds_left):%H:%M} UTC"
