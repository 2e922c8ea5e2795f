"""The prevalence slider: the answer under another prevalence, at once or within seconds.

Slider and number field show one value. When one of the two is changed, the other is *made
anew* at that value, under a new key; nothing is ever written into a widget that is on
screen. Each request of a browser carries the values of all widgets as it knows them, and
while the jobs are watched there is a request every second: one that left before the
written value arrived would bring the former value back as if it were a change of the
visitor's, and undo what was typed.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import streamlit as st

from pages import _risk_analysis, _widgets
from phenokit.errors import AnalysisRefused, BadInput
from phenokit.evidence.what_if import WhatIf
from phenokit.jobs import Job

STEPS = 400
"""Positions of the slider at least, between the exact bounds."""

SECONDS_TO_SEND = 0.4
"""Pause after a provisional answer, in which the server sends it and somebody can see it:
the fit that follows would keep it back."""


@dataclass(frozen=True)
class Chosen:
    """What slider and number field show.

    Attributes
    ----------
    sliders, numbers
        How often each was made anew.
    known
        The last value of every slider and field that was made, by its key: a request that
        brings no other is an echo, and no change.
    """

    per_cent: float
    sliders: int = 0
    numbers: int = 0
    known: Mapping[str, float] = field(default_factory=dict)


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
    key = _risk_analysis.analysis_key(job.arguments)  # the next job keeps what was chosen
    place = f"what-if-{key}"
    shown: Chosen = st.session_state.get(place, Chosen(home))
    slide, exact = f"slide-{key}-{shown.sliders}", f"exact-{key}-{shown.numbers}"
    now = min(max(shown.per_cent, first), last)
    known = {**shown.known, slide: now, exact: now}
    st.session_state[place] = replace(shown, per_cent=now, known=known)
    slider, number, threshold, back = st.columns(
        [6, 2, 2, 2], gap="medium", vertical_alignment="bottom"
    )
    with slider:
        # In a place of its own: the one before would stay beside it where another request
        # cuts this run short.
        st.empty().slider(
            "Prevalence, %", first, last, now, step=step, key=slide,
            format=f"%.{_digits(step)}f %%", on_change=_slid, args=(place, slide, exact),
        )  # fmt: skip
    with number:
        st.empty().number_input(
            "The same as a number, %", first, last, now, step=step, key=exact,
            format=f"%.{_digits(step)}f", on_change=_typed, args=(place, exact),
        )  # fmt: skip
    with threshold:
        limit = st.number_input(
            "Threshold of risk, %", 0.01, 99.99, round(100 * stated["threshold"], 2),
            step=1.0, key=f"threshold-{key}",
            help="From this risk on a patient is flagged.",
        )  # fmt: skip
    with back:
        st.button(
            "Back to the stated one", key=f"home-{key}", on_click=_go_home,
            args=(place, home),
        )  # fmt: skip
    chosen = stated["value"] if now == home else now / 100
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
        time.sleep(SECONDS_TO_SEND)
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


def _typed(place: str, exact: str) -> None:
    shown: Chosen = st.session_state[place]
    if not _is_news(shown, exact):
        return
    now = st.session_state[exact]
    known = {**shown.known, exact: now}
    sliders = shown.sliders + 1
    st.session_state[place] = replace(shown, per_cent=now, sliders=sliders, known=known)


def _slid(place: str, slide: str, exact: str) -> None:
    shown: Chosen = st.session_state[place]
    is_replaced = not slide.endswith(f"-{shown.sliders}")
    if is_replaced or not _is_news(shown, slide) or _is_news(shown, exact):
        return  # where a number was typed at the same time, it holds
    now = st.session_state[slide]
    known = {**shown.known, slide: now}
    numbers = shown.numbers + 1
    st.session_state[place] = replace(shown, per_cent=now, numbers=numbers, known=known)


def _is_news(shown: Chosen, key: str) -> bool:
    now = st.session_state.get(key)
    return now is not None and now != shown.known.get(key)


def _go_home(place: str, home: float) -> None:
    shown: Chosen = st.session_state[place]
    sliders, numbers = shown.sliders + 1, shown.numbers + 1
    st.session_state[place] = Chosen(home, sliders, numbers, shown.known)


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
