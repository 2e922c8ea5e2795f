"""The panels of the iEEG page as plain nodes (see `_widgets.Node`)."""

from collections.abc import Sequence

from pages import _panels
from pages._long_recordings import Opened
from pages._widgets import Node
from phenokit.errors import CODES, BadInput, Outcome, first_code
from phenokit.pipeline import ScoredIEEG
from phenokit.report.explanation import OUTCOME_WORDS, count, format_probability
from phenokit.report.ieeg_review import (
    AtThreshold,
    coverage_sentence,
    format_time,
    largest_parts,
    next_step,
)
from phenokit.reviews import ReviewedEvent

STATUS_SIGNS = {
    "not reviewed": "○ not reviewed",
    "accepted": "✓ accepted",
    "rejected": "✕ rejected",
    "edited": "✎ edited",
    "added": "+ added by a reader",
}
TONES = {
    Outcome.SCORED: ("good", "✓"),
    Outcome.SCORED_WITH_WARNING: ("caution", "▲"),
    Outcome.ABSTAINED: ("bad", "✕"),
    Outcome.REJECTED: ("bad", "✕"),
}
N_LISTED = 200
"""Events in the list; at a low threshold there may be thousands."""


def refused(error: BadInput) -> Node:
    """A recording that cannot be opened: why, where, and what to do."""
    where = f"Where: {error.where}" if error.where else ""
    return verdict(Outcome.REJECTED, error.code, str(error), details=[where])


def verdict(
    outcome: Outcome, code: str, message: str, *, details: Sequence[str] = ()
) -> Node:
    """What became of the recording, in a sentence, with the next step."""
    tone, sign = TONES[outcome]
    lines: list[Node] = [["p", {}, line] for line in details if line]
    if step := next_step(code):
        lines.append(["p", {}, ["strong", {}, "Next step: "], step])
    return ["div", {"class": f"verdict {tone}", "role": "status"},
        ["strong", {}, f"{sign} {OUTCOME_WORDS[outcome]}"],
        ["span", {}, f": {message or CODES[code]} ({code})"], *lines]  # fmt: skip


def facts(one: Opened) -> Node:
    """What the file says, before anything else."""
    recording = one.recording
    gaps = recording.gaps
    lost = sum(end - begin for begin, end in gaps)
    n_seizures = len(recording.seizures)
    n_others = len(recording.annotations) - n_seizures
    code = first_code(notice.code for notice in recording.notices)
    unit = "µV" if recording.unit == "uV" else "not stated: arbitrary units"
    bad = f", {len(recording.bad)} marked as bad" if recording.bad else ""
    pairs = {
        "Data": "simulated" if one.is_simulated else "recorded, as far as the file tells",
        "Format": recording.source_format,
        "Outcome code": code,
        "Duration": format_time(recording.duration),
        "Sampling rate": f"{recording.sampling_rate:g} Hz",
        "Unit": unit,
        "Channels": f"{len(recording.channels)} read, "
        f"{len(recording.dropped)} left out{bad}",
        "Reference": recording.reference or "not stated",
        "Filters in the header": recording.filters or "not stated",
        "Not recorded": f"{count(len(gaps), 'gap')}, {format_time(lost)}"
        if gaps
        else "no gap",
        "Annotations": f"{count(n_seizures, 'seizure')}, {count(n_others, 'other')}",
        "Clock time": "not read: dates identify patients",
    }
    return _panels.facts(pairs)


def channels_left_out(one: Opened) -> Node:
    """Channels that are not read, or that somebody marked as bad, with the reason."""
    recording = one.recording
    rows = [(name, "left out", why) for name, why in recording.dropped.items()]
    rows += [(name, "bad: drawn, not averaged", why) for name, why in recording.bad.items()]
    return ["table", {},
        ["thead", {}, ["tr", {}, *(["th", {"scope": "col"}, head]
                                   for head in ("Channel", "What is done", "Reason"))]],
        ["tbody", {}, *(["tr", {}, ["th", {"scope": "row"}, name], ["td", {}, done],
                         ["td", {}, why]] for name, done, why in rows)]]  # fmt: skip


def origin(one: Opened, scored: ScoredIEEG | None) -> Node:
    """Where data and numbers come from, and how much was evaluated."""
    data = "Simulated recording" if one.is_simulated else "Recorded data"
    if scored is None:
        model = "Not scored: 0 % evaluated, which says nothing about seizures."
        return ["p", {"class": "quality"}, ["strong", {}, f"{data}. "], model]
    return ["p", {"class": "quality"}, ["strong", {}, f"{data}. "],
        f"Model {scored.model}, bundle {scored.bundle_hash[:8]}. ",
        ["strong", {}, coverage_sentence(scored.coverage, scored.duration)],
        " Time that was not evaluated is not “no seizure”."]  # fmt: skip


def result(scored: ScoredIEEG) -> Node:
    """What became of the scoring."""
    details = [
        notice.message for notice in scored.notices if notice.message != scored.message
    ]
    if scored.bad:
        worst = sorted(scored.bad.items(), key=lambda one: -one[1][1])
        named = ", ".join(
            f"{name} ({reason}, {100 * share:.0f} % of the time)"
            for name, (reason, share) in worst[:8]
        )
        more = f" and {len(worst) - 8} more" if len(worst) > 8 else ""
        details.append(f"Channels the model could not use: {named}{more}.")
    return verdict(scored.outcome, scored.code, scored.message, details=details)


def event_list(
    rows: Sequence[ReviewedEvent], scored: ScoredIEEG | None, *, selected: int | None
) -> Node:
    """The events, each with a button that goes there."""
    body: list[Node] = []
    for k, row in enumerate(rows[:N_LISTED]):
        event, decided = row.event, row.decision
        by = "" if decided is None else f"{decided.author}, {decided.at[:16]} UTC"
        confidence = (
            "no model event"
            if event.confidence is None
            else format_probability(event.confidence)
        )
        cut = " (cut: not evaluated beside it)" if event.truncated else ""
        channels = ", ".join(event.channels[:6]) or largest_parts(scored, row.found)
        onset = format_time(event.onset, 1)
        body.append(["tr", {},
            ["td", {}, ["button", {"type": "button", "data-choose": str(k),
                                   "aria-pressed": str(k == selected).lower(),
                                   "aria-label": f"Go to the event at {onset}"},
                        f"▶ {onset}"]],
            ["td", {"class": "number"}, f"{event.duration:.1f} s"],
            ["td", {"class": "number"}, confidence],
            ["td", {}, channels],
            ["td", {}, STATUS_SIGNS[row.status] + cut],
            ["td", {}, by.replace("T", " ")]])  # fmt: skip
    heads = (
        ("Go to onset", ""), ("Duration", "number"), ("Confidence", "number"),
        ("Channels with the largest parts (model internals)", ""), ("Status", ""),
        ("By", ""),
    )  # fmt: skip
    caption = f"{count(len(rows), 'event')}, in order of time."
    if len(rows) > N_LISTED:
        caption += f" The first {N_LISTED} are listed; raise the threshold for fewer."
    return ["table", {"class": "wide events"},
        ["caption", {}, caption],
        ["thead", {}, ["tr", {}, *(["th", {"scope": "col", "class": kind}, head]
                                   for head, kind in heads)]],
        ["tbody", {}, *body]]  # fmt: skip


def threshold_words(found: AtThreshold, own: float) -> Node:
    """What follows from the threshold."""
    is_own = found.rule.theta_on == own
    which = (
        "This is the model's own threshold."
        if is_own
        else f"The model's own threshold is {own:.2f}."
    )
    first, *rest = found.sentences()
    return ["div", {"class": "said", "role": "status"},
        ["p", {}, ["strong", {}, first], f" {which}"],
        *(["p", {}, one] for one in rest)]  # fmt: skip
