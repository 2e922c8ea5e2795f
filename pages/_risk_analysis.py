"""What the risk page reads and says: analyses in the list of jobs, fits, and panels.

An analysis is one set-up with up to two jobs: the quick answer (nested Laplace) and the
reference (NUTS). Their commands differ in the engine only, and so the list of jobs is all
that is needed to find both again.
"""

import atexit
import gc
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from math import isfinite
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from pages import _uploads
from pages._widgets import Node
from phenokit.batch.risk import read_fitted
from phenokit.errors import CODES
from phenokit.evidence.risk import (
    DISAGREE_MEAN,
    DISAGREE_SD,
    LIMITS,
    SelectiveLabelsModel,
)
from phenokit.evidence.what_if import (
    Estimate,
    WhatIf,
    ask_what_if,
    spread_patients,
)
from phenokit.jobs import Job, JobState, find_job, jobs_folder
from phenokit.report.risk import (
    RiskPanel,
    RiskRun,
    beside_free,
    read_risk_run,
    risk_panels,
)
from phenokit.report.risk_numbers import format_number, format_per_1000, format_risk

ENGINES = {"laplace": "quick answer (nested Laplace)", "nuts": "reference fit (NUTS)"}
SHORT = {"laplace": "quick", "nuts": "reference"}
OF_ENGINE = ("--engine", "--viable")
"""Options that the two jobs of an analysis may differ in, each with one value."""
CONFLICT = "W_PREVALENCE_CONFLICT"


# Analyses and their jobs


@dataclass(frozen=True)
class Analysis:
    """One set-up and the latest job of each engine.

    Attributes
    ----------
    key
        The same for the same command; says nothing about what is analysed.
    arguments
        Of the command, without those of the engine.
    """

    key: str
    arguments: tuple[str, ...]
    quick: Job | None
    reference: Job | None

    @property
    def jobs(self) -> tuple[Job, ...]:
        """Those there are, the quick one first."""
        return tuple(job for job in (self.quick, self.reference) if job is not None)

    @property
    def title(self) -> str:
        """What it is about. Text of unknown origin."""
        return self.jobs[0].title

    @property
    def asked(self) -> str:
        """When it was first asked for."""
        return min(job.asked for job in self.jobs)

    @property
    def is_running(self) -> bool:
        """Whether either job runs, or waits for its turn."""
        return any(job.is_live for job in self.jobs)

    def words(self) -> str:
        """For the list of runs."""
        asked = datetime.fromisoformat(self.asked)
        states = ", ".join(f"{SHORT[_engine_of(job)]} {_state(job)}" for job in self.jobs)
        return f"{asked:%Y-%m-%d %H:%M} UTC · {self.title} · {states}"


def analyses(source: str) -> dict[str, Analysis]:
    """Analyses of a cohort folder, or of uploaded tables where `source` is empty."""
    grouped: dict[tuple[str, ...], dict[str, Job]] = {}
    for job in _uploads.visible_jobs():
        if job.arguments[:1] != ("risk",) or _source_of(job.arguments) != source:
            continue
        of_engine = grouped.setdefault(without_engine(job.arguments), {})
        of_engine.setdefault(_engine_of(job), job)  # the latest comes first
    found = [
        Analysis(analysis_key(arguments), arguments, jobs.get("laplace"), jobs.get("nuts"))
        for arguments, jobs in grouped.items()
    ]
    return {one.key: one for one in found}


def find_analysis(source: str, key: str) -> Analysis:
    """One of `analyses`.

    Raises
    ------
    KeyError
        If there is none.
    """
    return analyses(source)[key]


def analysis_key(arguments: Sequence[str]) -> str:
    """Of the command without the engine."""
    text = "\0".join(without_engine(arguments))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def without_engine(arguments: Sequence[str]) -> tuple[str, ...]:
    """The arguments but for those of `OF_ENGINE`."""
    kept, skip = [], False
    for argument in arguments:
        if not skip and argument not in OF_ENGINE:
            kept.append(argument)
        skip = not skip and argument in OF_ENGINE
    return tuple(kept)


def job_of(job_id: str) -> Job:
    """One job, as it is now."""
    return find_job(jobs_folder(), job_id)


def engine_words(job: Job) -> str:
    """What fits the model."""
    return ENGINES[_engine_of(job)]


def _source_of(arguments: Sequence[str]) -> str:
    if "--cohort" in arguments[:-1]:
        return arguments[arguments.index("--cohort") + 1]
    return ""


def _engine_of(job: Job) -> str:
    is_quick = "laplace" in job.arguments
    return "laplace" if is_quick else "nuts"


SIGNS = {
    JobState.WAITING: "… waiting",
    JobState.RUNNING: "… running",
    JobState.FINISHED: "✓",
    JobState.FAILED: "✕ failed",
    JobState.CANCELLED: "✕ cancelled",
    JobState.STOPPED: "✕ stopped",
}


def _state(job: Job) -> str:
    return "✕ refused" if refusal_of(job) is not None else SIGNS[job.state]


@dataclass(frozen=True)
class Refusal:
    """Why a run has no numbers."""

    code: str
    message: str

    @property
    def meaning(self) -> str:
        """Of the code."""
        return CODES.get(self.code, "")


def refusal_of(job: Job) -> Refusal | None:
    """What a job says that its own gate, or its reader, refused; None otherwise."""
    if job.state is not JobState.FAILED:
        return None
    try:
        said = json.loads((job.out / "refusal.json").read_bytes())
        return Refusal(str(said["code"]), str(said["message"]))
    except (OSError, ValueError, KeyError):
        pass
    code, _, message = job.message.partition(": ")
    return Refusal(code, message) if code in CODES else None


def acknowledgement(job: Job) -> str:
    """That somebody acknowledged the conflict of a result, and when; empty if nobody."""
    try:
        said = json.loads((job.out / "acknowledgement.json").read_bytes())
        when = datetime.fromisoformat(said["acknowledged"])
    except (OSError, ValueError, KeyError):
        return ""
    return f"{said['code']} was acknowledged on {when:%Y-%m-%d %H:%M} UTC."


# Uploaded tables


def keep_upload(data: bytes, ending: str) -> Path:
    """Where an uploaded table lies for the jobs that read it: named by its content."""
    folder = _uploads.own_folder(_uploads.table_folder())
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / f"{hashlib.sha256(data).hexdigest()[:32]}{ending}"
    if not path.is_file():
        temporary = path.with_suffix(".tmp")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        temporary.replace(path)
    return path


# Results, each read once


def run_of(job: Job) -> RiskRun:
    """The result of a finished job.

    Raises
    ------
    BadInput
        As `read_risk_run`.
    """
    return _run(job.job_id, _stamp(job))


def model_of(job: Job) -> SelectiveLabelsModel:
    """The fitted model of a finished job.

    Raises
    ------
    BadInput
        As `read_fitted`.
    """
    return _model(job.job_id, _stamp(job))


def what_if(
    job: Job, *, prevalence: float, prevalence_sd: float, threshold: float, refit: bool
) -> WhatIf:
    """The answer of a finished job's model under another prevalence, given once.

    Raises
    ------
    BadInput, AnalysisRefused
        As `ask_what_if`.
    """
    return _ask(job.job_id, _stamp(job), prevalence, prevalence_sd, threshold, refit=refit)


@st.cache_resource(max_entries=4, show_spinner="Reading the result")
def _run(job: str, stamp: float) -> RiskRun:
    return read_risk_run(find_job(jobs_folder(), job).out)


@st.cache_resource(max_entries=2, show_spinner="Reading the fitted model")
def _model(job: str, stamp: float) -> SelectiveLabelsModel:
    model = read_fitted(find_job(jobs_folder(), job).out)
    # Streamlit looks for garbage after every run, before its answer is on the way: 0.2 s
    # with all that the libraries hold, which never is garbage. From here on it is passed
    # over, so that the slider answers in time.
    gc.collect()
    gc.freeze()
    atexit.register(gc.unfreeze)
    return model


@st.cache_resource(max_entries=2, show_spinner=False)
def _spread(job: str, stamp: float) -> pd.DataFrame:
    model = _model(job, stamp)
    features = _run(job, stamp).risk.loc[:, list(model.feature_names_in_)]
    return spread_patients(model, features)


def panels_of(job: Job) -> tuple[RiskPanel, ...]:
    """Every panel of the result of a finished job; not to be changed."""
    return _panels(job.job_id, _stamp(job))


@st.cache_resource(max_entries=4, show_spinner="Drawing")
def _panels(job: str, stamp: float) -> tuple[RiskPanel, ...]:
    return risk_panels(_run(job, stamp))


@st.cache_resource(max_entries=256, show_spinner=False)
def _ask(
    job: str,
    stamp: float,
    prevalence: float,
    prevalence_sd: float,
    threshold: float,
    *,
    refit: bool,
) -> WhatIf:
    return ask_what_if(
        _model(job, stamp),
        _spread(job, stamp),
        _run(job, stamp).risk["tested"].to_numpy(dtype=bool),
        prevalence=prevalence,
        prevalence_sd=prevalence_sd,
        threshold=threshold,
        refit=refit,
    )


def _stamp(job: Job) -> float:
    return (job.out / "manifest.json").stat().st_mtime


# Panels


def engine_line(job: Job, other: Job | None, *, is_last_word: bool) -> Node:
    """Which fit is shown, and whether another will take its place."""
    name = ENGINES[_engine_of(job)]
    if other is not None:
        text = f"Shown: the {name}. It has taken the place of the quick answer."
    elif _engine_of(job) == "laplace" and not is_last_word:
        text = f"Shown: the {name}. The reference takes its place when it ends."
    else:
        text = f"Shown: the {name}; there is no other fit to hold it against."
    return ["p", {"role": "status", "class": "source"}, text]


def limits() -> Node:
    """The two sentences that stand on every result."""
    return [
        "div",
        {"class": "verdict caution", "role": "note"},
        ["strong", {}, "▲ Limits. "],
        ["span", {}, " ".join(LIMITS)],
    ]


def flags(found: Sequence[Any], *, notes: Sequence[str] = ()) -> Node:
    """Every flag with its code, on top of the result."""
    if not found:
        return [
            "div",
            {"class": "verdict good"},
            ["strong", {}, "✓ No flag was raised. "],
            ["span", {}, "The prevalence, the misfit and the expertise list were checked; "
             "none of this proves that the assumptions hold."],
            *(["p", {}, note] for note in notes),
        ]  # fmt: skip
    return [
        "div",
        {"class": "verdict bad", "role": "alert"},
        ["strong", {}, f"▲ {len(found)} flag{'s' * (len(found) > 1)} on this result"],
        ["ul", {"class": "notes"},
         *(["li", {}, ["strong", {}, f"{_code(one)}: "], _message(one)] for one in found)],
        *(["p", {}, note] for note in notes),
    ]  # fmt: skip


def lines(sentences: Sequence[str]) -> Node:
    """Sentences, each a paragraph."""
    return ["div", {}, *(["p", {}, one] for one in sentences)]


def table(
    rows: Sequence[Sequence[str]], heads: Sequence[str], *, caption: str = ""
) -> Node:
    """Words and figures as a table: the first column names the row."""
    return [
        "table", {},
        *([["caption", {}, caption]] if caption else []),
        ["thead", {}, ["tr", {},
         *(["th", {"scope": "col", "class": "number" if k else ""}, head]
           for k, head in enumerate(heads))]],
        ["tbody", {},
         *(["tr", {}, ["th", {"scope": "row"}, first],
            *(["td", {"class": "number"}, cell] for cell in cells)]
           for first, *cells in rows)],
    ]  # fmt: skip


def plain(rows: pd.DataFrame) -> Node:
    """A short table whose words may wrap."""
    cells = [
        [f"{one:,.0f}" if isinstance(one, int | float) else str(one) for one in row]
        for row in rows.itertuples(index=False)
    ]
    heads = [str(name).replace("_", " ").replace("n ", "") for name in rows.columns]
    return table(cells, [head.capitalize() for head in heads])


def both_fits(run: RiskRun) -> Node:
    """What the fit says with the stated prevalence, beside the one without."""
    beside = beside_free(run).set_index("quantity")
    rows = []
    for name, words in QUANTITIES.items():
        if name not in beside.index:
            continue
        row = beside.loc[name]
        form = format_number if name == "sigma" else format_risk
        cells = (
            form(row[which], row[f"{which}_low"], row[f"{which}_high"])
            for which in ("with", "without")
        )
        rows.append((words, *cells))
    heads = ("Mean (95 % interval)", "With the stated prevalence", "Without it")
    caption = "Both fits, side by side. The coefficients stand under “Does it hold?”."
    return table(rows, heads, caption=caption)


QUANTITIES = {
    "prevalence": "Cases among all patients",
    "risk_tested": "Risk of the tested",
    "risk_untested": "Risk of the untested",
    "sigma": "Width of the unseen risk, log-odds",
}


def disagreement(run: RiskRun) -> Node | None:
    """Quantities in which the engines differ by more than they may; None if in none."""
    rows = [
        (name, f"{one['mean_difference']:+.2f} sd", f"{one['sd_ratio'] - 1:+.0%}")
        for name, one in (run.diagnostics.get("agreement") or {}).items()
        if abs(one["mean_difference"]) > DISAGREE_MEAN
        or abs(one["sd_ratio"] - 1) > DISAGREE_SD
    ]
    heads = ("Quick answer less reference", "Mean", "Standard deviation")
    return table(rows, heads) if rows else None


def _code(flag: Any) -> str:  # noqa: ANN401 - a Flag, or its row of a file
    return str(flag["code"] if isinstance(flag, Mapping) else flag.code)


def _message(flag: Any) -> str:  # noqa: ANN401
    return str(flag["message"] if isinstance(flag, Mapping) else flag.message)


def refused(refusal: Refusal, *, title: str) -> Node:
    """A refused analysis as what it is: no number."""
    meaning = refusal.meaning
    return [
        "div",
        {"class": "verdict bad", "role": "alert"},
        ["strong", {}, f"✕ {title}: refused ({refusal.code})"],
        ["p", {}, refusal.message],
        *([["p", {}, f"{refusal.code} means: {meaning}"]] if meaning else []),
        ["p", {}, "No numbers are shown or kept."],
        ["p", {}, " ".join(LIMITS)],
    ]


def cannot_run(refusal: Refusal) -> Node:
    """What is wrong with a set-up, before anything is run."""
    return [
        "div",
        {"class": "verdict bad", "role": "alert"},
        ["strong", {}, f"✕ This would be refused ({refusal.code})"],
        ["p", {}, refusal.message],
        [
            "p",
            {},
            ["strong", {}, "Next step: "],
            "mend what is named, or choose otherwise.",
        ],
    ]


def percent(share: float) -> str:
    """A prevalence with the digits that it was chosen with, two decimals at most.

    Examples
    --------
    >>> percent(0.155), percent(0.0637), percent(0.2)
    ('15.5 %', '6.37 %', '20 %')
    """
    return f"{100 * share:.2f}".rstrip("0").rstrip(".") + " %"


def bounds(low: float, high: float, stated: Mapping[str, float]) -> Node:
    """The exact bounds on a line from 0 to 100 %, and where prevalences lie on it."""
    words = (
        f"Exact bounds: {percent(low)} (no untested patient is a case) to {percent(high)} "
        "(all of them are)."
    )
    marks: list[Node] = [
        ["span", {"class": "at", "--at": f"{100 * value:.3f}%", "title": name,
                  "aria-hidden": "true"}]
        for name, value in stated.items() if 0 <= value <= 1
    ]  # fmt: skip
    places = "; ".join(f"{name} {percent(value)}" for name, value in stated.items())
    inside: Node = [
        "span",
        {"class": "inside", "--low": f"{100 * low:.3f}%", "--share": _share(low, high)},
    ]
    return [
        "div",
        {"class": "bounds-box"},
        ["div", {"class": "bounds", "aria-hidden": "true"}, inside, *marks],
        ["div", {"class": "ends", "aria-hidden": "true"},
         *(["span", {}, one] for one in ("0 %", "50 %", "100 %"))],
        ["p", {}, f"{words}{f' On the line: {places}.' if places else ''}"],
    ]  # fmt: skip


def _share(low: float, high: float) -> str:
    return f"{max(100 * (high - low), 0.2):.3f}%"


def estimate_words(one: Estimate, *, per_1000: bool = False) -> str:
    """A figure with its interval."""
    if one.mean != one.mean:
        return "not defined"
    return format_per_1000(*one) if per_1000 else format_risk(*one)


def what_if_table(fit: WhatIf, asked: WhatIf, *, is_grey: bool, n: tuple[int, int]) -> Node:
    """The result as stated beside that at the chosen prevalence.

    `n` are the patients, and how many of them are untested.
    """
    rows = (
        ("Cases among all patients", "prevalence", False),
        ("Risk of the tested", "risk_tested", False),
        ("Risk of the untested", "risk_untested", False),
        ("Expected cases per 1,000 patients", "cases", True),
        ("of these, never tested", "missed", True),
        (f"Flagged at a risk of {percent(asked.threshold)} or more, per 1,000", "", True),
        ("PPV: flagged patients with the outcome", "ppv", False),
        ("NPV: other patients without it", "npv", False),
        ("Sensitivity: cases that are flagged", "sensitivity", False),
    )
    body: list[Node] = []
    for words, name, per_1000 in rows:
        cells = [
            f"{one.flagged:.0f}"
            if not name
            else estimate_words(getattr(one, name), per_1000=per_1000)
            for one in (fit, asked)
        ]
        body.append(["tr", {}, ["th", {"scope": "row"}, words],
                     *(["td", {"class": "number"}, cell] for cell in cells)])  # fmt: skip
    heads = (
        "Mean (95 % interval)",
        f"As stated: {percent(fit.stated)}",
        f"At {percent(asked.stated)}" + (", PROVISIONAL" if is_grey else ""),
    )
    return [
        "table",
        {"class": "what-if provisional" if is_grey else "what-if"},
        ["caption", {}, f"n = {n[0]:,} patients, {n[1]:,} of them untested. "
         "PPV, NPV and sensitivity are expected from the model, not observed."],
        ["thead", {}, ["tr", {},
         *(["th", {"scope": "col", "class": "number" if k else ""}, head]
           for k, head in enumerate(heads))]],
        ["tbody", {}, *body],
    ]  # fmt: skip


def what_if_source(asked: WhatIf, *, is_working: bool = False) -> Node:
    """Whether the figures were re-weighted or fitted anew; told to screen readers."""
    # With equal weights there is no tail, and no k-hat.
    k_hat = f"{asked.k_hat:.2f}" if isfinite(asked.k_hat) else "-"
    draws = f"{asked.effective_size:,.0f} effective draws, k-hat {k_hat}"
    if is_working:
        text = (
            f"▲ Provisional: re-weighting leaves too little ({draws}). The quick fit is "
            "being made anew; it takes seconds."
        )
    elif asked.is_provisional:
        text = f"▲ Provisional: re-weighting leaves too little ({draws})."
    elif asked.source == "refitted":
        text = (
            f"✓ Fitted anew by nested Laplace in {asked.seconds:.1f} s ({draws}): the "
            "prevalence is too far from the fits at hand to re-weight them."
        )
    else:
        text = (
            f"✓ Re-weighted, exactly, in {1000 * asked.seconds:.0f} ms ({draws}); nothing "
            "was fitted."
        )
    return ["p", {"role": "status", "class": "source"}, text]
