"""A scored cohort on one page: how many recordings ended how, and what was found.

The page is one HTML file without scripts: no network, no other file. Nothing of a single
recording stands on it, so that it may be passed on.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from phenokit.errors import CODES, Outcome
from phenokit.evidence.rates import wilson_interval
from phenokit.report.ecg_paper import BANNER
from phenokit.report.html_page import POLICY, STYLE, html_text
from phenokit.statements import clinical_name

_OUTCOMES = {
    Outcome.SCORED: "scored",
    Outcome.SCORED_WITH_WARNING: "scored, with something to know",
    Outcome.ABSTAINED: "readable, but not fit to be judged",
    Outcome.REJECTED: "not readable; see errors.parquet",
}


@dataclass(frozen=True)
class LabelCount:
    """How often a label reached its threshold.

    Attributes
    ----------
    threshold
        Of the calibrated probability.
    n, n_over
        Recordings with a probability, and those at or above the threshold.
    """

    label: str
    threshold: float
    n: int
    n_over: int


def write_score_report(
    manifest: Mapping[str, Any], *, labels: Sequence[LabelCount]
) -> bytes:
    """The report of a run, as UTF-8.

    Parameters
    ----------
    manifest
        Of `phenokit.batch.score`.
    labels
        In the order of the model; none for intracranial EEG.
    """
    n = manifest["n_recordings"]
    text = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Scored recordings</title>
<style>{STYLE}</style>
</head>
<body>
<header>
<p class="banner">{BANNER}</p>
<h1>Scored recordings</h1>
<p class="answer">{html_text(_answer(manifest))}</p>
</header>
<main>
<section><h2>Outcomes</h2>
{_table(("Outcome", "Recordings", "Share", "Meaning"), _outcome_rows(manifest))}
</section>
<section><h2>Codes</h2>
<p>The first code of each recording, in order of precedence.</p>
{_table(("Code", "Recordings", "Share", "Meaning"), _code_rows(manifest))}
</section>
{_findings(labels)}
<section><h2>How it was scored</h2>
{_table(("", ""), _facts(manifest))}
</section>
</main>
<footer><p class="banner">{BANNER}</p>
<p>{n:,} recordings in {manifest["n_parts"]:,} parts; every file and its hash stand in
manifest.json.</p></footer>
</body>
</html>
"""
    return text.encode()


def _answer(manifest: Mapping[str, Any]) -> str:
    n, outcomes = manifest["n_recordings"], manifest["outcomes"]
    scored = outcomes["scored"] + outcomes["scored_with_warning"]
    answer = f"{scored:,} of {n:,} recordings were scored by {manifest['model']}."
    if others := manifest["n_not_scored"]:
        answer += f" {others:,} further files hold no recording."
    return answer


def _outcome_rows(manifest: Mapping[str, Any]) -> list[tuple[str, ...]]:
    n = manifest["n_recordings"]
    return [
        (outcome.replace("_", " "), f"{k:,}", _share(k, n), _OUTCOMES[Outcome(outcome)])
        for outcome, k in manifest["outcomes"].items()
    ]


def _code_rows(manifest: Mapping[str, Any]) -> list[tuple[str, ...]]:
    n, codes = manifest["n_recordings"], manifest["codes"]
    return [
        (code, f"{codes[code]:,}", _share(codes[code], n), CODES[code])
        for code in sorted(codes, key=list(CODES).index)
    ]


def _findings(labels: Sequence[LabelCount]) -> str:
    if not labels:
        return ""
    rows = [
        (
            _name(one.label),
            f"{one.threshold:.2g}",
            f"{one.n_over:,} of {one.n:,}",
            _share(one.n_over, one.n),
            _interval(one.n_over, one.n),
        )
        for one in labels
    ]
    names = ("Finding", "Threshold", "At or above", "Share", "95 % interval")
    return f"""<section><h2>Findings</h2>
<p>Recordings whose calibrated probability reaches the threshold of the model. The share is
that of the recordings that were scored, not a prevalence: it holds false positives, misses
others, and the cohort may not be who the model was trained on. Interval: Wilson, recordings
taken as independent, which repeated ones of a patient are not.</p>
{_table(names, rows)}
</section>"""


def _name(label: str) -> str:
    try:
        return clinical_name(label)
    except KeyError:  # of somebody's own model
        return label


def _facts(manifest: Mapping[str, Any]) -> list[tuple[str, ...]]:
    n = manifest["n_recordings"]
    return [
        ("Model", str(manifest["model"])),
        ("Bundle", str(manifest["bundle_hash"])),
        ("Computed by", f"{manifest['inference']} on {manifest['device']}"),
        (
            "Source",
            f"{manifest['source']['source']}, {n:,} recordings",
        ),
        ("Hash of the inputs", str(manifest["inputs_sha256"])),
        ("Hash of the code", str(manifest["code"])),
    ]


def _table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    head = f"<thead><tr>{head}</tr></thead>" if any(names) else ""
    body = "".join(
        "<tr>" + "".join(f"<td>{html_text(cell)}</td>" for cell in row) + "</tr>"
        for row in rows
    )
    return f"<table>{head}<tbody>{body}</tbody></table>"


def _share(k: int, n: int) -> str:
    return f"{100 * k / n:.2g} %" if n else "none"


def _interval(k: int, n: int) -> str:
    if not n:
        return "none: no recording was scored"
    low, high = wilson_interval(np.array([k]), np.array([n]))
    return f"{100 * low[0]:.2g}–{100 * high[0]:.2g} %"
