"""The prevalence slider: the answer under another prevalence, at once or within seconds."""

from collections.abc import Mapping
from typing import Any

import streamlit as st

from pages import _risk_analysis, _widgets
from phenokit.errors import AnalysisRefused, BadInput
from phenokit.evidence.what_if import WhatIf
from phenokit.jobs import Job

STEPS = 400
"""Positions of the slider at least, between the exact bounds."""


@st.fragment
def show_what_if(job_id: str, stated: Mapping[str, Any], n: tuple[int, int]) -> None:
    """The slider, and the answer at its prevalence.

    Parameters
    ----------
    stated
        ``value``, ``sd``, ``bounds`` of the prevalence, and ``threshold``.
    n
        Patients, and how many of them are untested.
    """
    with _widgets.guard():
        _show_what_if(_risk_analysis.job_of(job_id), stated, n)


def _show_what_if(job: Job, stated: Mapping[str, Any], n: tuple[int, int]) -> None:
    low, high = (100 * one for one in stated["bounds"])
    step = _step(low, high)
    first, last = _inside(low, high, step)
    home = min(max(round(100 * stated["value"] / step) * step, first), last)
    place, exact = f"slide-{job.job_id}", f"exact-{job.job_id}"
    st.session_state.setdefault(place, home)
    st.session_state.setdefault(exact, st.session_state[place])
    slider, number, threshold, back = st.columns(
        [6, 2, 2, 2], gap="medium", vertical_alignment="bottom"
    )
    with slider:
        st.slider(
            "Prevalence, %", first, last, step=step, key=place,
            format=f"%.{_digits(step)}f %%", on_change=_follow, args=(place, exact),
        )  # fmt: skip
    with number:
        st.number_input(
            "The same as a number, %", first, last, step=step, key=exact,
            format=f"%.{_digits(step)}f", on_change=_follow, args=(exact, place),
        )  # fmt: skip
    with threshold:
        limit = st.number_input(
            "Threshold of risk, %", 0.01, 99.99, round(100 * stated["threshold"], 2),
            step=1.0, key=f"threshold-{job.job_id}",
            help="From this risk on a patient is flagged.",
        )  # fmt: skip
    with back:
        st.button(
            "Back to the stated one", key=f"home-{job.job_id}", on_click=_go_home,
            args=(place, exact, home),
        )  # fmt: skip
    chosen = stated["value"] if st.session_state[place] == home else (
        st.session_state[place] / 100
    )  # fmt: skip
    marks = {"stated": stated["value"]}
    if chosen != stated["value"]:
        marks["chosen"] = chosen
    _widgets.show(
        [_risk_analysis.bounds(low / 100, high / 100, marks)], key=f"line-{job.job_id}"
    )
    asked = {"prevalence_sd": stated["sd"], "threshold": limit / 100}
    fit = _risk_analysis.what_if(job, prevalence=stated["value"], refit=False, **asked)
    answer = st.empty()
    try:
        found = _risk_analysis.what_if(job, prevalence=chosen, refit=False, **asked)
    except BadInput as error:
        _refused(error, job)
        return
    if found.is_provisional:
        _draw(answer, job, fit, found, n, is_working=True)
        try:
            found = _risk_analysis.what_if(job, prevalence=chosen, refit=True, **asked)
        except (AnalysisRefused, BadInput) as error:
            answer.empty()
            _refused(error, job)
            return
    _draw(answer, job, fit, found, n, is_working=False)
    st.caption(
        f"The standard deviation of the prevalence stays {100 * stated['sd']:.2g} points. "
        "Everything below the slider stays at the stated prevalence."
    )


def _draw(
    answer: Any,  # noqa: ANN401 - a place on the page
    job: Job,
    fit: WhatIf,
    found: WhatIf,
    n: tuple[int, int],
    *,
    is_working: bool,
) -> None:
    nodes = [
        _risk_analysis.what_if_source(found, is_working=is_working),
        _risk_analysis.what_if_table(fit, found, is_grey=is_working, n=n),
    ]
    conflicts = [flag for flag in found.flags if flag.code == _risk_analysis.CONFLICT]
    if conflicts and found.stated != fit.stated:  # the stated one has its flag on top
        nodes.append(_risk_analysis.flags(conflicts))
    with answer.container():
        _widgets.show(nodes, key=f"answer-{job.job_id}-{is_working}")


def _refused(error: BadInput | AnalysisRefused, job: Job) -> None:
    refusal = _risk_analysis.Refusal(error.code, str(error))
    _widgets.show(
        [_risk_analysis.refused(refusal, title="This prevalence")],
        key=f"no-answer-{job.job_id}",
    )


def _follow(source: str, target: str) -> None:
    st.session_state[target] = st.session_state[source]


def _go_home(place: str, exact: str, home: float) -> None:
    st.session_state[place] = st.session_state[exact] = home


def _step(low: float, high: float) -> float:
    """A round step, in per cent, of which the bounds hold enough."""
    return next(
        (one for one in (0.5, 0.1, 0.05, 0.01) if (high - low) / one >= STEPS), 0.001
    )


def _digits(step: float) -> int:
    return len(f"{step:g}".partition(".")[2])


def _inside(low: float, high: float, step: float) -> tuple[float, float]:
    """The first and last step that do not lie outside the bounds."""
    first, last = -(-low // step) * step, high // step * step
    digits = _digits(step)
    return round(max(first, step), digits), round(min(last, 100 - step), digits)
