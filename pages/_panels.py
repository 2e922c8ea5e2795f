"""The panels of the ECG page as plain nodes (see `_widgets.Node`): what a clinician reads.

Nothing here draws or computes; the words and numbers come from `phenokit.report`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from pages._widgets import Node
from phenokit.errors import CODES, Outcome
from phenokit.evidence.prototypes import Finding, Match, Prototype
from phenokit.jobs import Job, JobState
from phenokit.networks.checkpoint import Bundle
from phenokit.pipeline import ScoredECG
from phenokit.preprocessing.quality import Quality
from phenokit.recording import Recording
from phenokit.report.ecg_paper import Tracing, WindowPair
from phenokit.report.explanation import (
    OUTCOME_WORDS,
    Measurement,
    Term,
    corrected_qt,
    count,
    format_probability,
    format_signed,
    next_step,
    prototype_name,
    receptive_field_words,
    similarity_words,
    source_words,
)
from phenokit.report.local_prevalence import (
    ASSUMPTION,
    LabelOnCard,
    LocalPrevalence,
    format_quantity,
    local_table,
    local_warnings,
)
from phenokit.report.risk_numbers import format_percent
from phenokit.statements import clinical_name

RHYTHM_LEADS = ("II", "V1", "V5")
LONG = 2.5
"""Seconds from which a window is drawn as strips of the rhythm leads."""

VERDICT_SIGNS = {"good": ("✓", "good"), "missing": ("✕", "bad"), "flat": ("✕", "bad")}
"""A sign beside the colour; every other verdict is a caution."""

JOB_SIGNS = {
    JobState.WAITING: ("pending", "…"),
    JobState.RUNNING: ("pending", "…"),
    JobState.FINISHED: ("good", "✓"),
    JobState.FAILED: ("bad", "✕"),
    JobState.CANCELLED: ("caution", "▲"),
    JobState.STOPPED: ("bad", "✕"),
}
JOB_STEPS = {
    JobState.WAITING: "",
    JobState.RUNNING: "",
    JobState.FINISHED: "",
    JobState.FAILED: "Mend what the sentence names, then resume; or set up another run.",
    JobState.CANCELLED: "Resume it, or set up another run.",
    JobState.STOPPED: "Its process died without a word. Resume it: parts are kept.",
}

HOW_TO_GET_SOURCE = (
    "Name your copy of the data set in PHENOKIT_PTBXL, or run “phenokit data prototypes” "
    "where there is a network. “phenokit project” takes prototypes from your own archive."
)


def facts(pairs: Mapping[str, str]) -> Node:
    """Name and value, side by side."""
    return [
        "dl",
        {"class": "facts"},
        *(
            ["div", {}, ["dt", {}, name], ["dd", {}, value]]
            for name, value in pairs.items()
        ),
    ]


def input_facts(recording: Recording, code: str, filters: str) -> Node:
    """What was read, before any result."""
    person = [
        f"{recording.age:g} years" if recording.age is not None else "age unknown",
        recording.sex or "sex unknown",
    ]
    pairs = {
        "Recording (pseudonym)": recording.record_id,
        "Patient": ", ".join(person),
        "Format": recording.source_format,
        "Outcome code": code,
        "Duration": f"{recording.duration:.1f} s",
        "Sampling rate": f"{recording.sampling_rate:g} Hz",
        "Unit": recording.unit,
        "Model reads": filters,
        "Derived leads": ", ".join(recording.derived) or "none, all recorded",
    }
    if recording.extra_channels:
        pairs["Also in the file, not read"] = ", ".join(recording.extra_channels)
    return facts(pairs)


def verdict(
    outcome: Outcome, code: str, message: str, *, details: Sequence[str] = ()
) -> Node:
    """What became of the recording, why, and what to do next."""
    tone, sign = {
        Outcome.SCORED: ("good", "✓"),
        Outcome.SCORED_WITH_WARNING: ("caution", "▲"),
        Outcome.ABSTAINED: ("bad", "✕"),
        Outcome.REJECTED: ("bad", "✕"),
    }[outcome]
    lines: list[Node] = [["p", {}, line] for line in details if line]
    step = next_step(code)
    if step:
        lines.append(["p", {}, ["strong", {}, "Next step: "], step])
    return [
        "div",
        {"class": f"verdict {tone}", "role": "status"},
        ["strong", {}, f"{sign} {OUTCOME_WORDS[outcome]}"],
        ["span", {}, f": {message or CODES[code]} ({code})"],
        *lines,
    ]


def scoring() -> Node:
    """What stands in the place of the verdict until it is known."""
    return [
        "div",
        {"class": "verdict pending", "role": "status"},
        ["strong", {}, "… Scoring"],
        ["span", {}, ": the recording is compared with the prototypes."],
    ]


def measurement_table(values: Sequence[Measurement]) -> Node:
    """What the reader measured with the calipers."""
    rows: list[Node] = [
        ["tr", {},
            ["th", {"scope": "row"}, one.kind],
            ["td", {}, one.lead],
            ["td", {"class": "number"}, f"{one.start:.3f}–{one.stop:.3f} s"],
            ["td", {"class": "number"}, f"{one.milliseconds:.0f} ms"],
            ["td", {"class": "number"}, _beats(one)],
            ["td", {"class": "number"},
                "" if one.millivolt is None else f"{format_signed(one.millivolt)} mV"]]
        for one in values
    ]  # fmt: skip
    last = {one.kind: one for one in values}
    if "QT" in last and "RR" in last:
        corrected = corrected_qt(last["QT"].milliseconds, last["RR"].milliseconds)
        rows += [
            ["tr", {}, ["th", {"scope": "row"}, f"QTc, {formula}"],
                ["td", {"colspan": "2"}, "from the last QT and RR"],
                ["td", {"class": "number"}, f"{value:.0f} ms"], ["td", {}], ["td", {}]]
            for formula, value in corrected.items()
        ]  # fmt: skip
    heads = ("Measured by the reader", "Lead", "From–to", "Interval", "Rate", "Amplitude")
    return ["table", {},
        ["thead", {}, ["tr", {}, *(["th", {"scope": "col"}, head] for head in heads)]],
        ["tbody", {}, *rows]]  # fmt: skip


def _beats(one: Measurement) -> str:
    return f"{60000 / one.milliseconds:.0f} bpm" if one.milliseconds > 100 else ""


def lead_quality(quality: Quality) -> Node:
    """The verdict lead by lead."""
    cells: list[Node] = []
    for lead in quality.leads:
        sign, tone = VERDICT_SIGNS.get(lead.verdict, ("▲", "caution"))
        cell: list = [
            "li",
            {"class": tone},
            ["strong", {}, lead.lead],
            ["span", {}, f"{sign} {lead.verdict}"],
        ]
        if lead.verdict != "good" and lead.detail:
            cell.append(["small", {}, lead.detail])
        cells.append(cell)
    return ["ul", {"class": "leads", "aria-label": "Signal quality by lead"}, *cells]


def quality_summary(quality: Quality) -> str:
    """The verdict on all leads in a sentence."""
    poor: dict[str, list[str]] = {}
    for lead in quality.leads:
        if lead.verdict != "good":
            poor.setdefault(lead.verdict, []).append(lead.lead)
    n, n_poor = len(quality.leads), sum(map(len, poor.values()))
    if not poor:
        return f"Signal quality: all {n} leads are good."
    named = "; ".join(f"{verdict}: {', '.join(leads)}" for verdict, leads in poor.items())
    return f"Signal quality: {n - n_poor} of {n} leads are good; {named}."


def finding_list(findings: Sequence[Finding], *, selected: str) -> Node:
    """Findings by probability, each a button that opens its prototypes."""
    rows: list[Node] = []
    for finding in findings:
        present = " present" if finding.is_present else ""
        threshold = format_probability(finding.threshold)
        state = f"▲ at or above {threshold}" if present else f"▽ below {threshold}"
        rows.append(["li", {}, [
            "button",
            {"type": "button", "data-choose": finding.label,
             "aria-pressed": str(finding.label == selected).lower()},
            ["span", {"class": f"name{present}"}, clinical_name(finding.label)],
            ["span", {"class": "scale", "aria-hidden": "true"},
                _mark(f"fill{present}", finding.probability),
                _mark("threshold", finding.threshold)],
            ["span", {"class": "percent"}, format_probability(finding.probability)],
            ["span", {"class": "state"}, f"{state} (threshold)"],
        ]])  # fmt: skip
    return ["ul", {"class": "findings", "aria-label": "Findings by probability"}, *rows]


def short_findings(findings: Sequence[tuple[str, float, bool]]) -> Node:
    """Label, probability and whether it reaches its threshold, as a short table."""
    if not findings:
        return ["p", {"class": "muted"}, "No probability: the recording was not assessed."]
    rows: list[Node] = [
        ["tr", {},
            ["th", {"scope": "row"}, clinical_name(label)],
            ["td", {"class": "number"}, format_probability(probability)],
            ["td", {}, "▲ reaches its threshold" if is_present else "▽ below"]]
        for label, probability, is_present in findings
    ]  # fmt: skip
    heads = ("Most probable findings", "Probability", "Threshold")
    return ["table", {},
        ["thead", {}, ["tr", {}, *(["th", {"scope": "col"}, head] for head in heads)]],
        ["tbody", {}, *rows]]  # fmt: skip


def notes(sentences: Sequence[str]) -> Node:
    """Sentences of a report, one below the other."""
    return ["ul", {"class": "notes"}, *(["li", {}, one] for one in sentences)]


def job_state(job: Job) -> Node:
    """What a job is doing, or why it ended and what to do."""
    tone, sign = JOB_SIGNS[job.state]
    step = JOB_STEPS[job.state]
    lines: list[Node] = [["p", {}, job.message]] if job.message else []
    if step:
        lines.append(["p", {}, ["strong", {}, "Next step: "], step])
    return [
        "div", {"class": f"verdict {tone}", "role": "status"},
        ["strong", {}, f"{sign} {job.state.capitalize()}"], *lines,
    ]  # fmt: skip


def strip(tracing: Tracing, caption: str) -> Node:
    """A piece of a tracing at true scale, with what was done to it."""
    return _figure(tracing, "Leads II, V1 and V5", caption)


def prototype_rows(
    matches: Sequence[Match],
    pairs: Sequence[WindowPair],
    *,
    printed: Sequence[str],
    largest: float,
    marked: int | None,
) -> Node:
    """Each prototype: both windows on one scale, and what they say.

    `printed` are the contributions as in the sum; `largest` sets the length of the bars.
    """
    rows: list[Node] = []
    for rank, (match, pair, contribution) in enumerate(
        zip(matches, pairs, printed, strict=True), start=1
    ):
        prototype = match.prototype
        is_marked = prototype.prototype_id == marked
        rows.append(["li", {"class": "marked" if is_marked else "row"},
            ["div", {"class": "row-head"},
                ["h4", {}, f"{rank}. {prototype_name(match)}", _direction(match)],
                _mark_button(match, is_marked=is_marked)],
            _pair(match, pair),
            ["dl", {"class": "row-facts"},
                ["div", {}, ["dt", {}, "Similarity"],
                    ["dd", {}, ["span", {"class": "number"}, f"{match.similarity:.2f}"],
                        f": {similarity_words(match)}"]],
                ["div", {}, ["dt", {}, "Contribution to the logit"],
                    ["dd", {}, ["span", {"class": "number"}, contribution],
                        _signed_bar(match.contribution, largest),
                        ["small", {"class": "muted"},
                            f"weight {format_signed(match.weight)} × similarity "
                            f"{match.similarity:.2f}"]]],
                ["div", {}, ["dt", {}, "Source of the prototype"],
                    ["dd", {}, source_words(prototype)],
                    ["dd", {}, receptive_field_words(match)]]],
        ])  # fmt: skip
    return ["ol", {"class": "prototypes"}, *rows]


def sum_table(
    finding: Finding,
    terms: Sequence[Term],
    *,
    calibration: str,
    local: tuple[str, str] | None = None,
) -> Node:
    """The column that adds up to the logit, and the way from there to the probability.

    `local` are the words of a stated prevalence, and of the probability there.
    """
    largest = max(abs(term.contribution) for term in terms)
    body: list[Node] = [
        ["tr", {},
            ["th", {"scope": "row"}, term.name],
            ["td", {}, _signed_bar(term.contribution, largest)],
            ["td", {"class": "number"}, term.printed]]
        for term in terms
    ]  # fmt: skip
    return ["table", {},
        ["caption", {}, f"How the score of {clinical_name(finding.label)} is made. "
                        f"All {count(len(finding.matches), 'prototype')} are counted."],
        ["thead", {}, ["tr", {}, ["th", {"scope": "col"}, "Term"],
            ["th", {"scope": "col"}, "Speaks against | for"],
            ["th", {"scope": "col", "class": "number"}, "Logit units"]]],
        ["tbody", {}, *body],
        ["tfoot", {},
            ["tr", {}, ["th", {"scope": "row", "colspan": "2"}, "Sum = logit"],
                ["td", {"class": "number"}, format_signed(finding.logit)]],
            ["tr", {}, ["th", {"scope": "row", "colspan": "2"},
                        f"Calibrated probability ({calibration})"],
                ["td", {"class": "number"}, format_probability(finding.probability)]],
            *([] if local is None else [
                ["tr", {}, ["th", {"scope": "row", "colspan": "2"},
                            f"Probability at the local prevalence, {local[0]}"],
                    ["td", {"class": "number"}, local[1]]]])],
    ]  # fmt: skip


def local_prevalence(of: LabelOnCard, local: LocalPrevalence, probability: float) -> Node:
    """The figures at the model's own prevalence and at the local one, and what to doubt."""
    own = format_percent(of.training_prevalence)
    heads = (
        f"{clinical_name(of.label)}", f"In training, {own}", f"Here, {local.words()}"
    )  # fmt: skip
    rows: list[Node] = [
        ["tr", {},
            ["th", {"scope": "row"}, row["name"]],
            *(["td", {"class": "number"},
                format_quantity(row["quantity"], *(row[f"{where}{end}"] for end in _ENDS))]
              for where in ("model", "local"))]
        for row in local_table(of, local, probability=probability).to_dict("records")
    ]  # fmt: skip
    doubts = local_warnings(of, local)
    caution: list[Node] = [
        ["div", {"class": "verdict caution"}, ["strong", {}, "▲ Before you trust this"],
            ["ul", {}, *(["li", {}, one] for one in doubts)]]
    ] if doubts else []  # fmt: skip
    return ["section", {"class": "card"}, *caution,
        ["p", {}, ["strong", {}, "Source: "], local.source or "not given"],
        ["table", {"class": "figures"},
            ["thead", {}, ["tr", {}, ["th", {"scope": "col"}, heads[0]],
                *(["th", {"scope": "col", "class": "number"}, one] for one in heads[1:])]],
            ["tbody", {}, *rows]],
        ["p", {}, ASSUMPTION]]  # fmt: skip


_ENDS = ("", "_low", "_high")


def names(labels: Sequence[str]) -> Node:
    """Labels by their clinical names."""
    return ["ul", {"class": "columns"}, *(["li", {}, clinical_name(one)] for one in labels)]


def flags(scored: ScoredECG) -> str:
    """Every code that holds, in words."""
    return " ".join(f"{code}: {CODES[code]}" for code in scored.all_codes if code != "OK")


# The model's page


def card_head(card: Mapping[str, Any]) -> Node:
    """What a clinician has to know first."""
    training = card["training"]
    n_patients = training["n_patients"]
    pairs = {
        "Name and version": f"{card['name']} {card['version']}",
        "Owner": card["owner"],
        "Last change": card["date"].isoformat(),
        "Inputs": card["inputs"],
        "Outputs": card["outputs"],
        "Training data": training["data"],
        "Training recordings": f"{training['n_recordings']:,}",
        "Training patients": "not known" if n_patients is None else f"{n_patients:,}",
        "Preprocessing": training["preprocessing"],
        "Split": training["split"],
        "Calibration": f"{card['calibration']['method']}, {card['calibration']['data']}",
        "Unfamiliar recordings": card["out_of_distribution"]["method"],
        "Falsely unfamiliar": f"{card['out_of_distribution']['false_positive_rate']:.1%}",
        "Ensemble flips": "a single model"
        if card["ensemble_flips"] is None
        else f"{card['ensemble_flips']:.1%} of decisions",
    }
    return ["section", {"class": "card"},
        ["p", {"class": "lead"}, card["first_line"]],
        ["p", {}, ["strong", {}, "Intended use: "], card["intended_use"]],
        ["p", {}, ["strong", {}, "Population: "], card["population"]],
        ["div", {"class": "verdict caution"}, ["strong", {}, "▲ Warnings"],
            ["ul", {}, *(["li", {}, one] for one in card["warnings"])]],
        facts(pairs),
    ]  # fmt: skip


def provenance(bundle: Bundle) -> Node:
    """Three licences and two hashes."""
    licences = bundle.card["licences"]
    pairs = {
        "Licence of the code": licences["code"],
        "Licence of the weights": licences["weights"],
        "Licence of the training data": licences["training_data"],
        "Bundle hash (SHA-256)": bundle.bundle_hash,
        "Weights hash (SHA-256)": bundle.weights_hash,
    }
    return ["div", {"class": "provenance"}, facts(pairs)]


def gallery(drawn: Sequence[tuple[Prototype, Tracing | None]]) -> Node:
    """Prototypes of a class with their sources."""
    cells: list[Node] = []
    for prototype, tracing in drawn:
        when = f"{prototype.start:.2f}–{prototype.stop:.2f} s"
        figure: Node = (
            ["div", {"class": "missing"}, ["p", {}, HOW_TO_GET_SOURCE]]
            if tracing is None
            else _figure(tracing, f"Record {prototype.record_id}", when)
        )
        cells.append(["li", {},
            ["h4", {}, f"Prototype {prototype.prototype_id} ({prototype.branch})"], figure,
            ["p", {}, ["small", {}, source_words(prototype)]]])  # fmt: skip
    return ["ul", {"class": "gallery"}, *cells]


# Parts


def _direction(match: Match) -> Node:
    if match.contribution < 0:
        return ["span", {"class": "against"}, "▼ speaks against"]
    return ["span", {"class": "for"}, "▲ speaks for"]


def _mark_button(match: Match, *, is_marked: bool) -> Node:
    if match.prototype.window_steps is None:
        return ["span", {"class": "muted"}, "compared over the whole recording"]
    verb = "Marked" if is_marked else "Mark"
    return [
        "button",
        {
            "type": "button",
            "data-choose": str(match.prototype.prototype_id),
            "aria-pressed": str(is_marked).lower(),
        },
        f"{verb} on the tracing: {match.start:.2f}–{match.stop:.2f} s",
    ]


def _pair(match: Match, pair: WindowPair) -> Node:
    prototype = match.prototype
    stacked = " stacked" if pair.patient.width > 160 else ""
    patient = _figure(
        pair.patient, "This recording", f"{match.start:.2f}–{match.stop:.2f} s"
    )
    if pair.source is None:
        source: Node = [
            "div", {"class": "missing"},
            ["strong", {}, "The tracing of this prototype is not at hand."],
            ["p", {}, HOW_TO_GET_SOURCE],
        ]  # fmt: skip
    else:
        source = _figure(
            pair.source,
            f"Prototype, record {prototype.record_id}",
            f"{prototype.start:.2f}–{prototype.stop:.2f} s",
        )
    return ["div", {"class": f"pair{stacked}"}, patient, source]


def _figure(tracing: Tracing, name: str, when: str) -> Node:
    scale = f"{tracing.speed:g} mm/s, {tracing.gain:g} mm/mV"
    return ["figure", {},
        ["figcaption", {}, ["strong", {}, name], f" · {when} · ",
            ["span", {"class": "muted"}, scale]],
        ["div", {"class": "paper", "tabindex": "0", "role": "group",
                 "aria-label": f"{name}, {when}"}, ["svg", tracing.svg]],
    ]  # fmt: skip


def _signed_bar(value: float, largest: float) -> Node:
    share = 0.0 if largest == 0 else min(abs(value) / largest, 1.0) / 2
    side = "minus" if value < 0 else "plus"
    return ["span", {"class": "signed", "aria-hidden": "true"},
            ["span", {"class": side, "--share": _percent(share)}]]  # fmt: skip


def _mark(name: str, share: float) -> Node:
    return ["span", {"class": name, "--share": _percent(share)}]


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"
