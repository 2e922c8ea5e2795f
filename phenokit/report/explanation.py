"""An explanation in words, in rows that add up, and as files.

What a clinician reads is made here and nowhere else: page, command line and export use the
same sentences. Probabilities have two significant digits; the contributions of a finding
are rounded so that the printed column adds up to the printed logit.
"""

import csv
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, isnan
from typing import Any

from phenokit.errors import Outcome
from phenokit.evidence.prototypes import Finding, Match, Prototype
from phenokit.pipeline import Explanation, ScoredECG
from phenokit.recording import Recording
from phenokit.report.ecg_paper import BANNER
from phenokit.report.tables import Lines
from phenokit.statements import SCP_STATEMENTS, clinical_name

OUTCOME_WORDS = {
    Outcome.SCORED: "Scored",
    Outcome.SCORED_WITH_WARNING: "Scored, with a warning",
    Outcome.ABSTAINED: "Not assessable",
    Outcome.REJECTED: "Rejected",
}

_REPEAT = "Record the ECG again."
_CHECK_FILE = "Export the recording again from its source, and open the new file."
NEXT_STEPS: dict[str, str] = {
    "E_PATH": "Choose a plain file of the folder, not a link.",
    "E_MISSING": "Choose all files of the record: a .hea file and its .dat file.",
    "E_FORMAT": "Choose a digital ECG file, for example WFDB (.hea with .dat).",
    "E_TOO_LARGE": "Choose a single 12-lead ECG; long recordings are not read here.",
    "E_UNITS": "Ask for an export that states millivolts or microvolts.",
    "E_CALIBRATION": "Ask for an export that states the gain of each lead.",
    "E_FS": "Ask for an export at 100 Hz or more.",
    "E_LEADS": "Ask for an export with the twelve leads, or the eight independent ones.",
    "A_USE": "Read this recording without the model.",
    "A_DURATION": "Record at least ten seconds.",
    "A_MISSING": "Check the electrodes and cables of the leads named, and record again.",
    "A_FLAT": "Check the electrodes and cables of the leads named, and record again.",
    "A_CLIP": "Check skin contact and the amplifier's range, and record again.",
    "A_AMPLITUDE": "Check the unit of the export and the calibration, then record again.",
    "A_POLARITY": "Check the electrodes and the polarity of the export, then record again.",
    "A_NOISE": "Let the patient lie still and warm, check skin contact, and record again.",
    "A_EINTHOVEN": "Check that the limb electrodes are connected, and record again.",
    "A_LEADREV": "Check the arm electrodes, and record again.",
    "A_OOD": "Read this recording without the model: it has seen nothing like it.",
    "A_SET": "Read this recording without the model: it cannot tell the labels apart.",
    "A_ENSEMBLE": "Read this recording without the model: its parts disagree.",
}
"""What to do next, by outcome code."""


def next_step(code: str) -> str:
    """What a clinician can do about an outcome code; empty where nothing is wrong.

    Examples
    --------
    >>> next_step("A_LEADREV")
    'Check the arm electrodes, and record again.'
    """
    if code in NEXT_STEPS:
        return NEXT_STEPS[code]
    return {"E": _CHECK_FILE, "A": _REPEAT}.get(code[0], "")


def format_probability(probability: float) -> str:
    """A probability in per cent with two significant digits.

    Examples
    --------
    >>> [format_probability(p) for p in (0.004, 0.0123, 0.4567, 0.999)]
    ['< 1 %', '1.2 %', '46 %', '> 99 %']
    """
    if isnan(probability):
        return "not assessed"
    if probability < 0.01:
        return "< 1 %"
    if probability >= 0.995:
        return "> 99 %"
    digits = 1 if probability < 0.0995 else 0
    return f"{100 * probability:.{digits}f} %"


def format_interval(value: float, low: float, high: float) -> str:
    """A figure with its interval in brackets.

    Examples
    --------
    >>> format_interval(0.9312, 0.9, 0.957)
    '0.93 (0.90–0.96)'
    """
    return f"{value:.2f} ({low:.2f}–{high:.2f})"


def format_signed(value: float, digits: int = 2) -> str:
    """A number with its sign and a true minus.

    Examples
    --------
    >>> format_signed(-0.256), format_signed(1.0)
    ('−0.26', '+1.00')
    """
    if round(value, digits) == 0:
        return f"{0:.{digits}f}"
    return f"{'−' if value < 0 else '+'}{abs(value):.{digits}f}"


def count(number: int, singular: str, plural: str | None = None) -> str:
    """A number with its noun.

    Examples
    --------
    >>> count(1, "prototype"), count(1200, "prototype")
    ('1 prototype', '1,200 prototypes')
    """
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"


# The column that adds up to the logit


@dataclass(frozen=True)
class Term:
    """One row of the sum that is a logit.

    Attributes
    ----------
    name
        What the row says.
    contribution
        In logit units, to full precision.
    printed
        To two decimals, rounded so that the rows add up to the printed logit.
    match
        ``None`` for the rows that gather the rest.
    """

    name: str
    contribution: float
    printed: str
    match: Match | None = None


def sum_terms(
    finding: Finding, *, n_shown: int = 5, own_class: bool = False
) -> tuple[Term, ...]:
    """The rows of a finding's sum: its largest prototypes, all others, and the bias.

    Parameters
    ----------
    n_shown
        Prototypes with a row of their own; the rest is one row, never dropped.
    own_class
        Whether only prototypes of the finding's own label get a row.
    """
    ranked = [
        match
        for match in finding.matches
        if not own_class or match.prototype.label == finding.label
    ]
    shown = ranked[:n_shown]
    rest = [match for match in finding.matches if match not in shown]
    names = [
        f"{rank}. {prototype_name(match)}" for rank, match in enumerate(shown, start=1)
    ]
    values = [match.contribution for match in shown]
    matches: list[Match | None] = list(shown)
    if rest:
        names.append(f"All other prototypes ({len(rest):,})")
        values.append(sum(match.contribution for match in rest))
        matches.append(None)
    names.append("Baseline (bias)")
    values.append(finding.bias)
    matches.append(None)
    hundredths = round_to_sum([100 * value for value in values], round(100 * finding.logit))
    return tuple(
        Term(name, value, format_signed(printed / 100), match)
        for name, value, printed, match in zip(
            names, values, hundredths, matches, strict=True
        )
    )


def sum_sentence(finding: Finding) -> str:
    """The sum in a line of text, for those who cannot see the table."""
    total = sum(match.contribution for match in finding.matches)
    return (
        f"Prototypes {format_signed(total, 3)}, baseline {format_signed(finding.bias, 3)}: "
        f"logit {format_signed(finding.logit, 3)}; calibrated probability "
        f"{format_probability(finding.probability)}."
    )


def prototype_table(finding: Finding) -> list[dict[str, Any]]:
    """Every prototype of a finding, a row each, as on the page and in words."""
    return [
        {
            "Rank": rank,
            "Prototype": match.prototype.prototype_id,
            "Class": clinical_name(match.prototype.label),
            "Branch": match.prototype.branch,
            "Similarity": round(match.similarity, 3),
            "Percentile": round(match.percentile, 1),
            "Weight": round(match.weight, 3),
            "Contribution": round(match.contribution, 3),
            "Window (s)": f"{match.start:.2f}–{match.stop:.2f}",
            "Source": f"{match.prototype.dataset} {match.prototype.record_id}",
            "Source window (s)": f"{match.prototype.start:.2f}–{match.prototype.stop:.2f}",
            "Source labels": ", ".join(match.prototype.labels),
        }
        for rank, match in enumerate(finding.matches, start=1)
    ]


def round_to_sum(values: Sequence[float], total: int) -> list[int]:
    """Whole numbers near `values` that add up to `total` (largest remainders).

    Examples
    --------
    >>> round_to_sum([33.3, 33.3, 33.4], 100)
    [33, 33, 34]
    """
    rounded = [round(value) for value in values]
    missing = total - sum(rounded)
    step = 1 if missing > 0 else -1
    by_remainder = sorted(range(len(values)), key=lambda n: step * (rounded[n] - values[n]))
    for n in by_remainder[: abs(missing)]:
        rounded[n] += step
    return rounded


def prototype_name(match: Match) -> str:
    """What a prototype stands for, in clinical words, with its number."""
    prototype = match.prototype
    return f"{clinical_name(prototype.label)}, prototype {prototype.prototype_id}"


def similarity_words(match: Match) -> str:
    """What makes a similarity readable: the share of its ceiling, and the percentile.

    Examples
    --------
    >>> from phenokit.evidence.prototypes import Prototype
    >>> prototype = Prototype(7, "morphology", "CRBBB", "simulated", "9", None, 1, 2.0, 3.0,
    ...                       ("CRBBB",), 1, 1.3, 3)
    >>> similarity_words(Match(prototype, 0.912, 1.0, 98.7, 0.5, 0.456, 1.0, 2.0))
    '91 % of its ceiling, higher than in 98.7 % of the training records'
    """
    share = 100 * match.similarity / match.ceiling
    words = f"{share:.0f} % of its ceiling"
    if isfinite(match.percentile):
        words += f", higher than in {match.percentile:.1f} % of the training records"
    return words


def source_words(prototype: Prototype) -> str:
    """Where a prototype comes from, with every label of its source."""
    labels = ", ".join(clinical_name(label) for label in prototype.labels) or "none"
    same = prototype.n_same_record
    fold = "" if prototype.fold is None else f" fold {prototype.fold}"
    shared = (
        "the only prototype of its class from this record"
        if same <= 1
        else f"one of {same} prototypes of its class from this record"
    )
    return (
        f"Record {prototype.record_id}, data set {prototype.dataset}, training{fold}, "
        f"{prototype.start:.2f}–{prototype.stop:.2f} s. "
        f"All labels of the record: {labels}. It is {shared}."
    )


def receptive_field_words(match: Match) -> str:
    """How much of the signal the network looked at, where that is more than the window."""
    window = match.stop - match.start
    field = match.prototype.receptive_field
    if field <= window + 1e-6:
        return f"The network looked at nothing outside this window ({window:.2f} s)."
    return f"The network looked at {field:.2f} s of signal to score these {window:.2f} s."


def labels_not_assessed(labels: Sequence[str]) -> tuple[str, ...]:
    """Statements of the vocabulary that a model with these labels says nothing about."""
    known = set(labels)
    return tuple(one.code for one in SCP_STATEMENTS if one.code not in known)


# Measured with calipers


@dataclass(frozen=True)
class Measurement:
    """One value that a reader took with the calipers and kept.

    Attributes
    ----------
    kind
        ``"interval"``, ``"RR"``, ``"PR"``, ``"QRS"``, ``"QT"`` or ``"amplitude"``.
    start, stop
        Where it was taken, seconds.
    millivolt
        ``None`` where the two points lie in different leads.
    """

    kind: str
    lead: str
    start: float
    stop: float
    millivolt: float | None

    @property
    def milliseconds(self) -> float:
        """The interval."""
        return 1000 * (self.stop - self.start)


def corrected_qt(qt: float, rr: float) -> dict[str, float]:
    """QT corrected for heart rate, by formula, in milliseconds.

    Parameters
    ----------
    qt, rr
        Milliseconds.

    Examples
    --------
    >>> {name: round(value) for name, value in corrected_qt(400.0, 800.0).items()}
    {'Bazett': 447, 'Fridericia': 431}
    """
    seconds = rr / 1000
    return {"Bazett": qt / seconds**0.5, "Fridericia": qt / seconds ** (1 / 3)}


# Files


def explanation_dict(
    explanation: Explanation, *, recording: Recording | None = None
) -> dict[str, Any]:
    """Everything that is on the page as plain JSON values; a NaN becomes ``None``.

    A recording that was abstained from has no probabilities unless `explanation` was made
    with them on purpose; its outcome and code stand here in either case.
    """
    scored = explanation.scored
    return {
        "notice": BANNER,
        "record_id": scored.record_id,
        "outcome": scored.outcome.value,
        "code": scored.code,
        "all_codes": list(scored.all_codes),
        "message": scored.message,
        "model": scored.model,
        "bundle_hash": scored.bundle_hash,
        "input_sha256": recording.sha256 if recording is not None else None,
        "findings": [_finding_dict(finding) for finding in explanation.findings],
        "not_assessed": list(labels_not_assessed(scored.labels)),
    }


def _finding_dict(finding: Finding) -> dict[str, Any]:
    return {
        "label": finding.label,
        "name": clinical_name(finding.label),
        "probability": _number(finding.probability),
        "threshold": _number(finding.threshold),
        "is_present": finding.is_present,
        "logit": _number(finding.logit),
        "bias": _number(finding.bias),
        "prototypes": [_match_dict(match) for match in finding.matches],
    }


def _match_dict(match: Match) -> dict[str, Any]:
    prototype = match.prototype
    return {
        "prototype_id": prototype.prototype_id,
        "branch": prototype.branch,
        "label": prototype.label,
        "similarity": _number(match.similarity),
        "ceiling": _number(match.ceiling),
        "percentile": _number(match.percentile),
        "weight": _number(match.weight),
        "contribution": _number(match.contribution),
        "window": [_number(match.start), _number(match.stop)],
        "receptive_field": _number(prototype.receptive_field),
        "source": {
            "dataset": prototype.dataset,
            "record_id": prototype.record_id,
            "fold": prototype.fold,
            "window": [_number(prototype.start), _number(prototype.stop)],
            "labels": list(prototype.labels),
            "n_same_record": prototype.n_same_record,
        },
    }


def _number(value: float) -> float | None:
    return float(value) if isfinite(value) else None


def format_json(content: Mapping[str, Any]) -> bytes:
    """JSON that is the same for the same content."""
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()


CSV_COLUMNS = (
    "record_id", "outcome", "code", "model", "bundle_hash", "label", "name", "probability",
    "threshold", "logit", "term", "prototype_id", "prototype_label", "similarity",
    "percentile", "contribution", "start", "stop", "source_dataset", "source_record_id",
    "source_start", "source_stop", "source_labels", "notice",
)  # fmt: skip


def format_csv(explanation: Explanation) -> bytes:
    """One row a term of each finding's sum, the bias included; UTF-8.

    A recording without findings has one row that says what became of it. Text cells that
    a spreadsheet would run as a formula start with an apostrophe.
    """
    scored = explanation.scored
    head = {
        "record_id": scored.record_id,
        "outcome": scored.outcome.value,
        "code": scored.code,
        "model": scored.model,
        "bundle_hash": scored.bundle_hash,
        "notice": BANNER,
    }
    rows = [
        {**head, **_finding_cells(finding), **cells}
        for finding in explanation.findings
        for cells in (*map(_match_cells, finding.matches), _bias_cells(finding))
    ] or [head]
    text = Lines(newline="")
    writer: csv.DictWriter[str] = csv.DictWriter(
        text, CSV_COLUMNS, lineterminator=Lines.END
    )
    writer.writeheader()
    writer.writerows({name: _guard(cell) for name, cell in row.items()} for row in rows)
    return text.getvalue().encode()


def _finding_cells(finding: Finding) -> dict[str, Any]:
    return {
        "label": finding.label,
        "name": clinical_name(finding.label),
        "probability": finding.probability,
        "threshold": finding.threshold,
        "logit": finding.logit,
    }


def _match_cells(match: Match) -> dict[str, Any]:
    prototype = match.prototype
    return {
        "term": "prototype",
        "prototype_id": prototype.prototype_id,
        "prototype_label": prototype.label,
        "similarity": match.similarity,
        "percentile": match.percentile,
        "contribution": match.contribution,
        "start": match.start,
        "stop": match.stop,
        "source_dataset": prototype.dataset,
        "source_record_id": prototype.record_id,
        "source_start": prototype.start,
        "source_stop": prototype.stop,
        "source_labels": " ".join(prototype.labels),
    }


def _bias_cells(finding: Finding) -> dict[str, Any]:
    return {"term": "bias", "contribution": finding.bias}


def _guard(cell: object) -> object:
    return f"'{cell}" if isinstance(cell, str) and cell[:1] in tuple("=+-@\t\r") else cell


def run_id(scored: ScoredECG, input_sha256: str) -> str:
    """A name for files: the same for the same input and model, and nobody's name."""
    material = f"{input_sha256} {scored.bundle_hash} {scored.code}"
    return hashlib.sha256(material.encode()).hexdigest()[:12]


def export_files(
    explanation: Explanation, recording: Recording, name: str, *, version: str
) -> dict[str, bytes]:
    """The explanation as JSON and CSV, and what they have to be kept with.

    Parameters
    ----------
    name
        Of the files, without ending.
    version
        Of the code.

    Returns
    -------
    dict
        Bytes by file name; ``<name>.hashes.json`` holds the hashes of input, model and
        the other files.
    """
    scored = explanation.scored
    files = {
        f"{name}.json": format_json(explanation_dict(explanation, recording=recording)),
        f"{name}.csv": format_csv(explanation),
    }
    hashes = {
        "notice": BANNER,
        "phenokit": version,
        "model": scored.model,
        "bundle_hash": scored.bundle_hash,
        "input_sha256": recording.sha256,
        "outcome": scored.outcome.value,
        "code": scored.code,
        "findings": len(explanation.findings),
        "files": {file: hashlib.sha256(data).hexdigest() for file, data in files.items()},
    }
    return {**files, f"{name}.hashes.json": format_json(hashes)}
