"""The panels of the jobs page as plain nodes (see `_widgets.Node`)."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from pages import _job_progress, _panels
from pages._widgets import Node
from phenokit.errors import CODES, Outcome
from phenokit.jobs import Job, JobState
from phenokit.report.explanation import OUTCOME_WORDS

KINDS = {
    "score": "Scoring",
    "associate": "Associations",
    "risk": "Risk",
    "follow-up": "Follow-up",
}
"""What a command is called on the page."""
SIGNS = {
    Outcome.SCORED: "✓",
    Outcome.SCORED_WITH_WARNING: "▲",
    Outcome.ABSTAINED: "✕",
    Outcome.REJECTED: "✕",
}

NOTHING_FOUND = (
    "No recording of the model's kind was found. An ECG model reads ECGs, an iEEG model "
    "iEEGs: choose another folder or another model."
)


def kind(job: Job) -> str:
    """What sort of work it is, in a word."""
    command = job.arguments[0] if job.arguments else ""
    return KINDS.get(command, command.capitalize())


def job_list(jobs: Sequence[Job], *, selected: str) -> Node:
    """Each job a button that opens it: what it is, how far it is, when it was asked for."""
    rows: list[Node] = []
    for job in jobs:
        bar: list[Node] = []
        if job.is_live:
            share = f"{100 * _job_progress.share(job):.1f}%"
            bar.append(["span", {"class": "scale", "aria-hidden": "true"},
                ["span", {"class": "fill", "--share": share}]])  # fmt: skip
        rows.append(["li", {}, [
            "button",
            {"type": "button", "data-choose": job.job_id,
             "aria-pressed": str(job.job_id == selected).lower()},
            ["span", {"class": "name"}, job.title or kind(job)],
            ["span", {"class": "state"}, state_words(job)],
            *bar,
            ["span", {"class": "muted"}, f"{kind(job)}, {_job_progress.asked(job)}"],
        ]])  # fmt: skip
    return ["ul", {"class": "jobs", "aria-label": "Jobs, the latest first"}, *rows]


def state_words(job: Job) -> str:
    """The state, and how far it is, in the space of a line."""
    sign = _panels.JOB_SIGNS[job.state][1]
    if job.place is not None:
        return f"{sign} waiting, place {job.place}"
    if job.state is JobState.RUNNING and job.of:
        left = ""
        if job.seconds_left is not None:
            left = f", {_job_progress.duration(job.seconds_left)} left"
        return f"{sign} running, {100 * _job_progress.share(job):.0f} %{left}"
    return f"{sign} {job.state}"


def times(job: Job) -> Node:
    """When it was asked for, and when it is expected to end."""
    shown = {"Kind": kind(job), "Asked for": _job_progress.asked(job)}
    if end := _job_progress.expected_end(job):
        shown[f"{job.stage.capitalize()} ends at about"] = end
    return _panels.facts(shown)


def what_happened(job: Job) -> Node | None:
    """What the code of a failure means; None where there is none."""
    code = job.message.partition(": ")[0]
    if job.state is not JobState.FAILED or code not in CODES:
        return None
    return ["p", {}, f"{code} means: {CODES[code]}"]


def outcomes(manifest: Mapping[str, Any]) -> list[Node]:
    """How many recordings ended in each outcome, or how many pairs under each code."""
    counted = manifest.get("outcomes")
    nodes: list[Node] = []
    if isinstance(counted, dict):
        words = {
            f"{SIGNS[one]} {OUTCOME_WORDS[one]}": f"{counted.get(str(one), 0):,}"
            for one in Outcome
        }
        total = {"Recordings": f"{manifest.get('n_recordings', 0):,}"}
        others = {"Files without a recording": f"{manifest.get('n_not_scored', 0):,}"}
        nodes.append(_panels.facts(total | words | others))
        if not manifest.get("n_recordings"):
            nodes.append(["p", {}, NOTHING_FOUND])
    codes = manifest.get("codes")
    if isinstance(codes, dict) and codes:
        nodes.append(_code_table(codes))
    return nodes


def _code_table(codes: Mapping[str, int]) -> Node:
    rows: list[Node] = [
        ["tr", {}, ["th", {"scope": "row"}, code], ["td", {"class": "number"}, f"{n:,}"],
            ["td", {}, CODES.get(code, "")]]
        for code, n in codes.items()
    ]  # fmt: skip
    heads: list[Node] = [
        ["th", {"scope": "col"}, "Code"], ["th", {"scope": "col", "class": "number"}, "n"],
        ["th", {"scope": "col"}, "Meaning"],
    ]  # fmt: skip
    return ["table", {"class": "codes"},
        ["caption", {}, "By outcome code"],
        ["thead", {}, ["tr", {}, *heads]], ["tbody", {}, *rows]]  # fmt: skip


def provenance(manifest: Mapping[str, Any]) -> Node:
    """What made the result: enough to find the same plan and bundle again."""
    names = {
        "Model": manifest.get("model"),
        "Bundle": str(manifest.get("bundle_hash") or "")[:8],
        "Engine": manifest.get("inference"),
        "Device": manifest.get("device"),
        "Plan": str(manifest.get("plan_hash") or "")[:8],
        "PhenoKit": manifest.get("code_version"),
    }
    return _panels.facts({name: str(one) for name, one in names.items() if one})


def command(job: Job) -> str:
    """What runs the job by hand, or goes on with it: for a shell."""
    return shlex.join(["phenokit", *job.arguments, "--out", str(job.out)])
