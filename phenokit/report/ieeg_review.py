"""What a reader is told about the events of an iEEG, and the files that may be taken away.

Time that was not evaluated is called so, everywhere: it is never "no seizure".
"""

import hashlib
import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import pandas as pd

from phenokit.errors import CODES
from phenokit.evidence.rates import poisson_interval, wilson_interval
from phenokit.evidence.seizure_scores import DAY, DetectionCounts, score_events
from phenokit.evidence.seizures import Coverage, EventRule, find_events
from phenokit.pipeline import ScoredIEEG
from phenokit.recording import Event, SegmentStatus
from phenokit.report.association_figures import Drawing
from phenokit.report.ecg_paper import BANNER
from phenokit.report.edf_annotations import Annotation, format_edf_annotations
from phenokit.report.explanation import count, format_json, format_probability
from phenokit.report.szcore import format_coverage, format_szcore
from phenokit.report.tables import format_table

STATUS_WORDS = {
    SegmentStatus.EVALUATED: "evaluated",
    SegmentStatus.WARMING_UP: "not evaluated: too little history before it",
    SegmentStatus.GAP: "not evaluated: not recorded",
    SegmentStatus.FEW_CHANNELS: "not evaluated: too few usable channels",
}

NEXT_STEPS = {
    "E_PATH": "Choose a plain file of the folder, not a link.",
    "E_MISSING": "Choose all files of the recording.",
    "E_FORMAT": "Choose an iEEG file: EDF, BDF, BrainVision, MEF3, or a BIDS folder.",
    "E_TOO_LARGE": "Cut the recording, or open it from a folder of the server.",
    "E_UNITS": "Ask for an export that states microvolts. The traces can be read here in "
    "arbitrary units; the model needs microvolts and will not guess.",
    "E_DISCONTINUOUS": "Ask for a continuous export, or cut the file at its gaps.",
    "E_CALIBRATION": "Ask for an export that states the range of each channel.",
    "E_CHANNELS": "Choose another montage, or ask for an export whose channels have "
    "different names.",
    "A_DURATION": "Choose a longer recording: the model needs a full window of history "
    "before its first answer. Read this one by eye.",
    "A_MISSING": "Read the recording by eye: the model could evaluate none of it.",
    "A_USE": "Read this recording without the model.",
}
"""What to do next, by outcome code."""

CHECK_FILE = "Check the file, or export it again from the recorder."

CONTRIBUTION_WORDS = (
    "Model internals: what each channel added to the model's score in the segment where "
    "the event begins. It is not evidence of the onset zone."
)


def next_step(code: str) -> str:
    """What a reader of an iEEG can do about an outcome code.

    Examples
    --------
    >>> next_step("A_MISSING")
    'Read the recording by eye: the model could evaluate none of it.'
    """
    return NEXT_STEPS.get(code, CHECK_FILE if code.startswith("E_") else "")


def format_time(seconds: float, digits: int = 0) -> str:
    """Hours, minutes and seconds from the recording's start.

    Examples
    --------
    >>> format_time(3725.4), format_time(59.96, 1)
    ('1:02:05', '0:01:00.0')
    """
    whole = round(seconds, digits)
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(int(minutes), 60)
    width = 3 + digits if digits else 2
    return f"{hours}:{minutes:02d}:{rest:0{width}.{digits}f}"


def coverage_sentence(coverage: Coverage, duration: float) -> str:
    """How much was evaluated, and what kept the rest from it.

    Examples
    --------
    >>> coverage = Coverage(
    ...     ((SegmentStatus.WARMING_UP, 0.0, 60.0), (SegmentStatus.EVALUATED, 60.0, 600.0))
    ... )
    >>> coverage_sentence(coverage, 600.0)
    'Evaluated 0:09:00 of 0:10:00 (90 %). Not evaluated: 0:01:00 too little history.'
    """
    seconds = coverage.seconds
    evaluated = coverage.evaluated_seconds
    words = (
        f"Evaluated {format_time(evaluated)} of {format_time(duration)} "
        f"({_share(evaluated, duration)})."
    )
    reasons = {
        SegmentStatus.WARMING_UP: "too little history",
        SegmentStatus.GAP: "not recorded",
        SegmentStatus.FEW_CHANNELS: "too few usable channels",
    }
    rest = [
        f"{format_time(seconds[status])} {reason}"
        for status, reason in reasons.items()
        if seconds[status] > 0
    ]
    tail = duration - sum(seconds.values())
    if tail >= 1:
        rest.append(f"{format_time(tail)} less than a segment at the end")
    return f"{words} Not evaluated: {', '.join(rest)}." if rest else words


def _share(part: float, whole: float) -> str:
    """Per cent that never says all or nothing where it is not."""
    if part <= 0 or whole <= 0:
        return "0 %"
    if part >= whole:
        return "100 %"
    return f"{min(max(round(100 * part / whole), 1), 99)} %"


def rule_at(rule: EventRule, theta_on: float) -> EventRule:
    """The rule at another threshold: the lower one keeps its ratio to it."""
    return EventRule(
        theta_on=theta_on,
        theta_off=theta_on * rule.off / rule.theta_on,
        median=rule.median,
        join_gap=rule.join_gap,
        minimum_duration=rule.minimum_duration,
    )


@dataclass(frozen=True)
class AtThreshold:
    """What follows from one threshold.

    Attributes
    ----------
    events
        That the model finds.
    counts
        Against the annotated seizures, by the rules of SzCORE, over evaluated time; None
        where the recording has no annotation of seizures.
    hours
        Evaluated.
    """

    rule: EventRule
    events: tuple[Event, ...]
    counts: DetectionCounts | None
    hours: float

    def sentences(self) -> tuple[str, ...]:
        """The events, the false alarms and the sensitivity, each with n and interval."""
        found = (
            f"{count(len(self.events), 'event')} in {self.hours:.2f} evaluated hours at "
            f"threshold {self.rule.theta_on:.2f}."
        )
        if self.counts is None:
            return (
                found,
                "No seizure is annotated in the files of this recording, so how many of "
                "these events are false alarms is not known.",
            )
        return (found, _alarm_words(self.counts), _sensitivity_words(self.counts))


def _alarm_words(counts: DetectionCounts) -> str:
    days = counts.seconds / DAY
    low, high = poisson_interval(counts.false_positives)
    rate = counts.false_positives / days
    return (
        f"{count(counts.false_positives, 'false alarm')}: {_rate(rate)} per 24 h "
        f"({_rate(low / days)}–{_rate(high / days)}; exact 95 % interval of a Poisson "
        f"count in {counts.seconds / 3600:.2f} h)."
    )


def _sensitivity_words(counts: DetectionCounts) -> str:
    if not counts.n_reference:
        return "No annotated seizure lies in evaluated time, so there is no sensitivity."
    low, high = wilson_interval(
        np.array([counts.true_positives]), np.array([counts.n_reference])
    )
    return (
        f"{counts.true_positives} of {count(counts.n_reference, 'annotated seizure')} "
        f"found: sensitivity {100 * counts.true_positives / counts.n_reference:.0f} % "
        f"({100 * low[0]:.0f}–{100 * high[0]:.0f}; Wilson 95 % interval). One recording "
        "says little about a model."
    )


def _rate(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def at_threshold(
    scored: ScoredIEEG, rule: EventRule, reference: Sequence[Event] | None
) -> AtThreshold:
    """Events and scores of a recording at one rule.

    Parameters
    ----------
    reference
        Annotated seizures; None where nobody annotated any.
    """
    hours = scored.coverage.evaluated_seconds / 3600
    if not scored.coverage.evaluated:
        return AtThreshold(rule, (), None, 0.0)
    events = find_events(
        scored.probability,
        scored.status,
        rule=rule,
        segment_duration=scored.segment_duration,
    )
    counts = None
    if reference is not None:
        counts = score_events(
            [one for one in reference if one.offset <= scored.duration],
            events,
            duration=scored.duration,
            coverage=scored.coverage,
        )
    return AtThreshold(rule, events, counts, hours)


# What each channel added


def contribution_table(scored: ScoredIEEG, onset: float) -> pd.DataFrame:
    """What each channel added to the logit of the segment at `onset`, largest first.

    Columns ``channel`` and ``contribution``; channels that could not be used are last, with
    an empty value. No row where the segment was not evaluated.
    """
    segment = int(onset // scored.segment_duration)
    if not 0 <= segment < len(scored.status) or scored.status[segment] != 0:
        return pd.DataFrame({"channel": [], "contribution": []})
    table = pd.DataFrame(
        {
            "channel": list(scored.channels),
            "contribution": scored.contribution[segment].astype(np.float64),
        }
    )
    return table.sort_values(
        "contribution", ascending=False, kind="stable", na_position="last"
    ).reset_index(drop=True)


def largest_parts(scored: ScoredIEEG | None, event: Event | None, n: int = 3) -> str:
    """The channels that added most to the model's score where its event begins.

    "-" where there is no model's event.
    """
    if scored is None or event is None:
        return "-"
    table = contribution_table(scored, float(event.onset)).dropna()[:n]
    return ", ".join(table["channel"][table["contribution"] > 0]) or "-"


def draw_contributions(
    scored: ScoredIEEG, onset: float, *, n_shown: int = 20
) -> Drawing | None:
    """Bars of the channels that added most; None where nothing was evaluated there."""
    import plotly.graph_objects as go

    table = contribution_table(scored, onset)
    known = table.dropna(subset=["contribution"])
    if not len(known):
        return None
    strongest = np.argsort(-known["contribution"].abs().to_numpy(), kind="stable")[:n_shown]
    shown = known.iloc[np.sort(strongest)[::-1]]  # the largest stands on top
    positive = shown["contribution"] >= 0
    figure = go.Figure(
        go.Bar(
            x=shown["contribution"],
            y=[escape(name) for name in shown["channel"]],
            orientation="h",
            marker={
                "color": np.where(positive, "#3f7fd9", "#c26a1c").tolist(),
                "pattern": {"shape": np.where(positive, "", "/").tolist()},
            },
            hovertemplate="%{y}: %{x:.3f} logit units<extra></extra>",
        )
    )
    figure.update_layout(
        height=120 + 19 * len(shown),
        margin={"l": 10, "r": 20, "t": 10, "b": 40},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        xaxis={
            "title": "Part of the logit (model internals)",
            "zeroline": True,
            "zerolinewidth": 2,
            "gridcolor": "rgba(128,128,128,.3)",
        },
        yaxis={"type": "category", "tickmode": "linear"},
        showlegend=False,
    )
    total = float(known["contribution"].sum())
    first = known.iloc[0]
    alt = (
        f"Part of {len(shown)} of {count(len(known), 'channel')} in the model's logit of "
        f"{total:.2f} at {format_time(onset)}; the largest is {first['channel']} with "
        f"{first['contribution']:.2f}. Model internals, not evidence of the onset zone."
    )
    return Drawing(figure, alt, table)


# Files


@dataclass(frozen=True)
class EventRow:
    """An event as it is exported.

    Attributes
    ----------
    event
        As the reader has it.
    status
        ``"not reviewed"``, ``"accepted"``, ``"rejected"``, ``"edited"`` or ``"added"``.
    found
        The model's event, if there is one.
    author, at, note
        Of the reader's decision; empty where there is none.
    """

    event: Event
    status: str
    found: Event | None
    author: str = ""
    at: str = ""
    note: str = ""


def export_files(
    scored: ScoredIEEG,
    rows: Sequence[EventRow],
    name: str,
    *,
    rule: EventRule,
    facts: Mapping[str, Any],
    version: str,
) -> dict[str, bytes]:
    """Events and coverage as files, each with a sidecar that says where it comes from.

    Parameters
    ----------
    rows
        All events under the reader's layer. Rejected ones are in the CSV only.
    name
        Of the files, without ending: nobody's name.
    facts
        More for the sidecars: what is known of the recording.
    version
        Of the code.

    Returns
    -------
    dict
        Bytes by file name. There is no TSV of events where nothing was evaluated: it would
        say "no seizure".
    """
    kept = [row for row in rows if row.status != "rejected"]
    files = {
        f"{name}_coverage.tsv": format_coverage(scored.coverage),
        f"{name}.edf": _edf(scored, kept),
        f"{name}.csv": format_table(event_table(rows)),
    }
    if scored.coverage.evaluated:
        files = {
            f"{name}_events.tsv": format_szcore(
                [row.event for row in kept],
                coverage=scored.coverage,
                recording_duration=scored.duration,
            ),
            **files,
        }
    common = {
        "notice": BANNER,
        "phenokit": version,
        "model": scored.model,
        "bundle_hash": scored.bundle_hash,
        "outcome": scored.outcome.value,
        "code": scored.code,
        "all_codes": list(scored.all_codes),
        "meaning": {code: CODES[code] for code in scored.all_codes},
        "recording": dict(facts),
        "duration_s": scored.duration,
        "evaluated_s": scored.coverage.evaluated_seconds,
        "not_evaluated_is_not_no_seizure": True,
        "channel_order": scored.order_policy,
        "channels": list(scored.channels),
        "dropped": dict(scored.dropped),
        "bad": {channel: list(why) for channel, why in scored.bad.items()},
        "event_rule": {
            "theta_on": rule.theta_on,
            "theta_off": rule.off,
            "median": rule.median,
            "join_gap": rule.join_gap,
            "minimum_duration": rule.minimum_duration,
        },
        "events": len(kept),
        "rejected_by_reader": len(rows) - len(kept),
        "reviewed": sum(row.status != "not reviewed" for row in rows),
    }
    sidecars = {
        f"{file}.json": format_json(
            {**common, "file": file, "sha256": hashlib.sha256(data).hexdigest()}
        )
        for file, data in files.items()
    }
    return {**files, **sidecars}


def zip_files(files: Mapping[str, bytes]) -> bytes:
    """The files in one archive; the same bytes at any time."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for file, data in files.items():
            archive.writestr(zipfile.ZipInfo(file, (1980, 1, 1, 0, 0, 0)), data)
    return buffer.getvalue()


EVENT_COLUMNS = (
    "onset", "duration", "event_type", "status", "confidence", "truncated",
    "model_onset", "model_duration", "author", "at", "note",
)  # fmt: skip


def event_table(rows: Sequence[EventRow]) -> pd.DataFrame:
    """A row an event, with what the model found and what the reader said."""
    return pd.DataFrame(
        [
            {
                "onset": row.event.onset,
                "duration": row.event.duration,
                "event_type": row.event.label,
                "status": row.status,
                "confidence": row.event.confidence,
                "truncated": row.event.truncated,
                "model_onset": None if row.found is None else row.found.onset,
                "model_duration": None if row.found is None else row.found.duration,
                "author": row.author,
                "at": row.at,
                "note": row.note,
            }
            for row in rows
        ],
        columns=pd.Index(EVENT_COLUMNS),
    )


def _edf(scored: ScoredIEEG, kept: Sequence[EventRow]) -> bytes:
    """Events, and what was not evaluated, as annotations."""
    annotations = [
        Annotation(
            float(row.event.onset), float(row.event.duration), _annotation_words(row)
        )
        for row in kept
    ]
    annotations += [
        Annotation(begin, end - begin, STATUS_WORDS[status])
        for status, begin, end in scored.coverage.intervals
        if status != SegmentStatus.EVALUATED
    ]
    annotations.append(Annotation(0.0, None, BANNER))
    return format_edf_annotations(annotations, recording_duration=scored.duration)


def _annotation_words(row: EventRow) -> str:
    words = f"{row.event.label}, {row.status}"
    if row.event.confidence is not None:
        words += f", model {format_probability(row.event.confidence)}"
    return words
