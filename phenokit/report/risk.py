"""The result of a risk analysis in words, in panels, and as one page without a network.

    read_risk_run    the folder that `phenokit risk` wrote
    answer_lines     flags, answer and limits, as the command prints them
    risk_panels      every panel: its finding in a sentence, its figures with their tables
    write_report     all of it as one HTML file

A number never stands alone: it has its interval and its n, and the assumed prevalence is
named beside the risks that rest on it. Flags come first, the two sentences of limits are
never left out. Text of unknown origin is escaped.
"""

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from phenokit.errors import BadInput
from phenokit.evidence.psis import weighted_quantile
from phenokit.evidence.rates import wilson_interval
from phenokit.evidence.risk import LIMITS
from phenokit.evidence.risk_checks import CONFLICT_LOG_LIKELIHOOD, CONFLICT_Z
from phenokit.readers.files import read_bytes
from phenokit.readers.tables import Column, parse_header, parse_table
from phenokit.report.association_figures import Drawing
from phenokit.report.associations import attrition_table
from phenokit.report.ecg_paper import BANNER
from phenokit.report.explanation import count
from phenokit.report.html_page import POLICY, STYLE, html_items, html_text
from phenokit.report.risk_figures import (
    draw_calibration,
    draw_coefficients,
    draw_comparators,
    draw_decision_curve,
    draw_distributions,
    draw_fifths,
    draw_groups,
    draw_odds_ratios,
    draw_priors,
    draw_sensitivity,
    draw_testing,
    draw_viable_range,
)
from phenokit.report.risk_numbers import (
    format_number,
    format_percent,
    format_risk,
    significant,
)
from phenokit.report.tables import format_table, unguard_cell

FORMAT = "phenokit risk"
CONFLICT = "W_PREVALENCE_CONFLICT"

TABLES = (
    "summary", "fifths", "groups", "calibration", "odds_ratios", "sensitivity",
    "decision_curve", "histograms", "priors", "comparators", "settings",
)  # fmt: skip
"""Tables of a run folder; one that does not apply is not there."""
_TRUTHS = ("kept", "conflict", "within_bounds", "may_affect_testing")
_TEXT = (
    "quantity", "group", "kind", "feature", "per", "note", "source", "method", "code",
    "testing_features",
)  # fmt: skip


# Reading


@dataclass(frozen=True)
class RiskRun:
    """What a finished run of ``phenokit risk`` left in its folder.

    Attributes
    ----------
    folder
        The run folder.
    manifest, diagnostics, cohort
        As written: settings, counts, versions, hashes; gate, checks, flags, limits;
        attrition and notes.
    tables
        By name; see `TABLES`.
    """

    folder: Path
    manifest: dict[str, Any]
    diagnostics: dict[str, Any]
    cohort: dict[str, Any]
    tables: Mapping[str, pd.DataFrame] = field(repr=False)

    @cached_property
    def risk(self) -> pd.DataFrame:
        """A row a patient."""
        return pd.read_parquet(self.folder / "risk.parquet")

    @property
    def flags(self) -> list[dict[str, str]]:
        """Code and message of everything that a reader must know."""
        return list(self.diagnostics.get("flags", ()))

    @property
    def limits(self) -> tuple[str, ...]:
        """The two sentences, whatever the folder says."""
        return LIMITS

    @property
    def is_continuous(self) -> bool:
        """Whether the outcome is a number rather than 0 or 1."""
        return self.diagnostics.get("kind") == "heckman"

    @property
    def summary(self) -> pd.DataFrame:
        """Of the posterior, by quantity."""
        return self.tables["summary"].set_index("quantity")

    @property
    def n_patients(self) -> int:
        """Patients of the cohort."""
        return int(self.manifest["n_patients"])

    @property
    def n_tested(self) -> int:
        """Patients whose outcome is known."""
        return int(self.manifest["n_tested"])

    def estimate(self, quantity: str) -> tuple[float, float, float]:
        """Posterior mean and 95 % interval."""
        row = self.summary.loc[quantity]
        return float(row["mean"]), float(row["q2_5"]), float(row["q97_5"])

    def table(self, name: str) -> pd.DataFrame | None:
        """One of `TABLES`; None where it does not apply."""
        return self.tables.get(name)


def read_risk_run(folder: Path, manifest: Mapping[str, Any] | None = None) -> RiskRun:
    """Read the folder of a run.

    Parameters
    ----------
    manifest
        Of a run that is about to finish; by default the one in the folder.

    Raises
    ------
    BadInput
        ``E_MISSING`` if the run is not finished, ``E_FORMAT`` if it is another command's or
        cannot be read.
    """
    found = dict(manifest) if manifest is not None else _read_json(folder / "manifest.json")
    if not found:
        raise BadInput("E_MISSING", "The run has no manifest: it is not finished.")
    if found.get("format") != FORMAT:
        raise BadInput("E_FORMAT", "The folder is not that of a risk analysis.")
    diagnostics = _read_json(folder / "diagnostics.json")
    if not diagnostics:
        raise BadInput("E_FORMAT", "diagnostics.json cannot be read.")
    tables = {
        name: _read_table(folder / f"{name}.csv")
        for name in TABLES
        if (folder / f"{name}.csv").is_file()
    }
    if "summary" not in tables:
        raise BadInput("E_FORMAT", "summary.csv is missing.")
    return RiskRun(folder, found, diagnostics, _read_json(folder / "cohort.json"), tables)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        read = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return read if isinstance(read, dict) else {}


def _read_table(path: Path) -> pd.DataFrame:
    """A table as it was written: text without its guard, truth values as such."""
    data = read_bytes(path, what=path.name)
    header = parse_header(data, what=path.name)
    columns = [Column(name, may_be_missing=True) for name in header]
    table = parse_table(data, columns, what=path.name)
    try:
        for name in table.columns:
            cells = table[name]
            if name in _TEXT:
                table[name] = [unguard_cell(text) for text in cells]
            elif name in _TRUTHS:
                table[name] = cells.isin(["1", "1.0"])
            else:
                table[name] = pd.to_numeric(cells.astype(object).where(cells != "", None))
    except ValueError as error:
        raise BadInput("E_FORMAT", f"{path.name} cannot be read.") from error
    return table


# Words


def cohort_sentence(run: RiskRun) -> str:
    """How many patients, how many tested, how many of them with the outcome."""
    n, n_tested = run.n_patients, run.n_tested
    text = (
        f"{count(n, 'patient')}, {n_tested:,} of them tested "
        f"({format_percent(n_tested / n)})"
    )
    n_cases = run.manifest.get("n_cases")
    if n_cases is None:
        return f"{text}."
    ends = wilson_interval(np.array([n_cases]), np.array([n_tested]))
    rate = format_risk(n_cases / n_tested, *(float(end[0]) for end in ends))
    return f"{text}; {n_cases:,} of the tested have the outcome, {rate}."


def prevalence_sentence(run: RiskRun) -> str:
    """What was stated of the prevalence, and where it comes from."""
    stated = run.diagnostics["prevalence"]
    what = "mean" if run.is_continuous else "prevalence"
    if stated["value"] is None:
        return f"No {what} was stated: the risk of the untested rests on the model alone."
    value, half = float(stated["value"]), 1.96 * float(stated["sd"])
    if run.is_continuous:
        text = f"Assumed mean: {format_number(value, value - half, value + half)}"
    else:
        text = f"Assumed prevalence: {format_risk(value, value - half, value + half)}"
    source = str(stated.get("source") or "").strip()
    return f"{text}, source: {source or 'not stated'}."


def finding_sentence(run: RiskRun) -> str:
    """Risk of the untested and of the tested, and how many cases testing missed."""
    untested, tested = run.estimate("risk_untested"), run.estimate("risk_tested")
    if run.is_continuous:
        return (
            f"Mean outcome of the untested {format_number(*untested)}, of the tested "
            f"{format_number(*tested)}."
        )
    n = run.n_patients - run.n_tested
    missed = [n * one for one in untested]
    return (
        f"Estimated risk of the untested {format_risk(*untested)}, of the tested "
        f"{format_risk(*tested)}: about {missed[0]:,.0f} ({missed[1]:,.0f}–"
        f"{missed[2]:,.0f}) of the {n:,} untested patients are expected to have the "
        "outcome."
    )


def expertise_sentence(run: RiskRun) -> str:
    """Which features are allowed to affect testing beyond risk."""
    free = [str(name) for name in run.diagnostics["testing_features"]]
    tied = [str(name) for name in run.diagnostics["features"] if name not in free]
    if not tied:
        return "Every feature may affect testing beyond risk; no expertise was stated."
    text = f"Assumed to affect testing only through risk: {', '.join(tied)}."
    if not free:
        return f"{text} No feature affects testing otherwise."
    return f"{text} May affect testing beyond risk: {', '.join(free)}."


def gate_sentence(run: RiskRun) -> str:
    """How the fit was made, and the figures that it was let pass with."""
    found = run.diagnostics
    if found["engine"] == "nuts":
        return (
            f"Fitted by NUTS, {found['n_draws']:,} draws: R-hat {found['r_hat']:.3f} (at "
            f"most 1.01), {min(found['ess_bulk'], found['ess_tail']):,.0f} effective draws "
            f"(at least 400), {count(found['divergences'], 'divergent draw')}. This says "
            "that the sampler worked, not that the prevalence is right."
        )
    return (
        f"Fitted by nested Laplace approximation, {found['n_draws']:,} weighted draws: "
        f"Pareto k-hat {_or_dash(found['k_hat'])} (at most 0.7), "
        f"{found['importance_ess']:,.0f} effective draws (at least 400)."
    )


def _or_dash(value: float | None) -> str:
    """k-hat has no value where all weights are the same."""
    return "-" if value is None else f"{value:.2f}"


def conflict_sentence(run: RiskRun) -> str:
    """The stated prevalence against the data, and what they could have noticed."""
    conflict = run.diagnostics.get("conflict")
    if not conflict:
        return "No prevalence was stated, so none could be checked."
    form = format_number if conflict["continuous"] else format_risk
    what = "mean" if conflict["continuous"] else "prevalence"
    mean, sd = conflict["free_mean"], conflict["free_sd"]
    reach = CONFLICT_Z * float(np.hypot(sd, conflict["stated_sd"]))
    low, high = mean - reach, mean + reach
    if conflict["continuous"]:
        edges = f"below {significant(low)} or above {significant(high)}"
    else:
        edges = f"above {format_percent(high)}"
        if low > 0:
            edges = f"below {format_percent(low)} or {edges}"
    text = (
        f"Without the stated {what} the data give "
        f"{form(mean, *conflict['free_interval'])}, z = {conflict['z']:+.1f}."
    )
    reasons = []
    if abs(conflict["z"]) > CONFLICT_Z:
        reasons.append(f"they object to any {what} {edges}")
    drop = conflict["log_likelihood_drop"]
    if drop is not None and drop > CONFLICT_LOG_LIKELIHOOD:
        reasons.append(f"the stated one costs {drop:.1f} of log-likelihood (at most 4)")
    if conflict["sigma_at_edge"]:
        reasons.append("it presses the width of the unseen risk to the edge")
    if reasons:
        return f"{text} The stated one is in conflict with them: {'; '.join(reasons)}."
    return (
        f"{text} They would object to a {what} {edges}; that they do not is no approval "
        "of the one stated."
    )


def law_sentence(run: RiskRun) -> str:
    """What another law of the unseen risk would say."""
    law = run.diagnostics.get("other_law")
    if not law or law["change"] is None:
        return ""
    gain, change = law["log_likelihood_gain"], law["change"]
    return (
        f"With {law['law']} unseen risk the log-likelihood changes by {gain:+.1f} (above "
        f"+3 it would be preferred) and the risk of the untested by {100 * change:+.0f} %."
    )


def misfit_sentence(run: RiskRun) -> str:
    """Whether the model can produce the table."""
    misfit = run.diagnostics.get("misfit")
    if not misfit:
        return "The fit to the observed tests was not checked."
    p = misfit["p"]
    chance = f"p = {p:.2f}" if p >= 0.005 else "p < 0.005"
    counts = [
        "fewer than 10" if misfit[name] < 10 else f"{misfit[name]:,.0f}"
        for name in ("observed", "expected")
    ]
    return (
        f"Posterior predictive check of the observed tests: {chance} (below 0.01 is a "
        f"misfit); furthest in group {misfit['group']}: {counts[0]} {misfit['outcome']}, "
        f"{counts[1]} expected."
    )


def freed_table(run: RiskRun) -> pd.DataFrame:
    """Risk of the untested when one more feature may affect testing beyond risk."""
    freed = [dict(one) for one in run.diagnostics.get("freed", ())]
    columns = pd.Index(["feature", "risk_untested", "change"])
    table = pd.DataFrame(freed, columns=columns)
    return table.rename(columns={"change": "relative_change"})


def disagreement_sentence(run: RiskRun) -> str:
    """How the quick fit differs from the reference; empty where only one was made."""
    agreement = run.diagnostics.get("agreement") or {}
    if not agreement:
        return ""
    table = pd.DataFrame.from_dict(agreement, orient="index").astype(float)
    apart = table["mean_difference"].abs() > 0.15
    apart |= (table["sd_ratio"] - 1).abs() > 0.12
    if not apart.any():
        return (
            f"The nested Laplace fit agrees with NUTS in all {len(table)} quantities "
            "(means within 0.15 posterior standard deviations, these within 12 %)."
        )
    names = ", ".join(str(name) for name in table.index[apart])
    return f"The nested Laplace fit disagrees with NUTS in: {names}. NUTS is shown."


def answer_lines(run: RiskRun) -> list[str]:
    """Flags, the answer and the limits, a line each, for a terminal."""
    flags = [f"{flag['code']}: {flag['message']}" for flag in run.flags]
    return [
        *flags,
        cohort_sentence(run),
        prevalence_sentence(run),
        finding_sentence(run),
        expertise_sentence(run),
        gate_sentence(run),
        *run.limits,
    ]


# Panels


@dataclass(frozen=True)
class RiskPanel:
    """One question of a reader, with its figures.

    Attributes
    ----------
    key
        Short name.
    title, text
        The question, and what has to be known to read the answer.
    drawings
        Figures with alt text and tables; empty where the panel does not apply.
    tables
        Tables without a figure, by their caption.
    absent
        Why there is none.
    """

    key: str
    title: str
    text: str
    drawings: tuple[Drawing, ...] = ()
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    absent: str = ""


def risk_panels(run: RiskRun) -> tuple[RiskPanel, ...]:
    """Every panel of the result, in the order in which a clinician asks."""
    return (
        _calibration_panel(run),
        _distribution_panel(run),
        _fifths_panel(run),
        _odds_panel(run),
        _testing_panel(run),
        _groups_panel(run),
        _priors_panel(run),
        _sensitivity_panel(run),
        _viable_panel(run),
        _comparator_panel(run),
        _decision_panel(run),
        _attrition_panel(run),
    )


_NUMBERS_ONLY = "The outcome is a number; this panel is for outcomes of yes or no."


def _calibration_panel(run: RiskRun) -> RiskPanel:
    table = run.table("calibration")
    title = "Does the predicted risk of the tested come true?"
    text = (
        "The only thing that can be checked directly. It says nothing of the untested, and "
        f"flatters a little, as the model saw these patients. {misfit_sentence(run)}"
    )
    if table is None or table.empty:
        return RiskPanel("calibration", title, text, absent=_NUMBERS_ONLY)
    drawing = draw_calibration(table, run.diagnostics.get("recalibration"))
    return RiskPanel("calibration", title, text, (drawing,))


def _distribution_panel(run: RiskRun) -> RiskPanel:
    table = run.table("histograms")
    title = "How is risk distributed among the tested and the untested?"
    text = (
        "Risk of the tested is P(outcome | features, tested), of the untested P(outcome | "
        f"features, not tested). {prevalence_sentence(run)}"
    )
    if table is None:
        return RiskPanel("distributions", title, text, absent=_NUMBERS_ONLY)
    return RiskPanel("distributions", title, text, (draw_distributions(table),))


def _fifths_panel(run: RiskRun) -> RiskPanel:
    table = run.table("fifths")
    title = "Does the observed rate rise with the estimated risk?"
    text = (
        "Compare the observed rate with the predicted rate of the same tested patients; "
        "the risk of everybody in a fifth includes those never tested."
    )
    if table is None:
        return RiskPanel("fifths", title, text, absent=_NUMBERS_ONLY)
    drawing = draw_fifths(table, run.diagnostics.get("top_bottom_ratio"))
    return RiskPanel("fifths", title, text, (drawing,))


def _odds_panel(run: RiskRun) -> RiskPanel:
    title = "What raises risk?"
    text = (
        "Per standard deviation, or for features of 0 and 1 of having it. Associations "
        "given the other features, not effects of an intervention."
    )
    table = run.table("odds_ratios")
    if table is None:
        return RiskPanel("odds_ratios", title, text, absent="There is no such table.")
    return RiskPanel("odds_ratios", title, text, (draw_odds_ratios(table),))


def _testing_panel(run: RiskRun) -> RiskPanel:
    title = "Who is tested more or less than their risk explains?"
    text = expertise_sentence(run)
    table = run.table("odds_ratios")
    if table is None:
        return RiskPanel("testing", title, text, absent="There is no such table.")
    drawing = draw_testing(table, is_odds=not run.is_continuous)
    freed = freed_table(run)
    tables = {}
    if len(freed):
        caption = (
            "If one more feature might affect testing beyond risk: risk of the untested, "
            "and its change"
        )
        caption += (
            " in standard deviations of the outcome"
            if run.is_continuous
            else " relative to the one above"
        )
        tables[caption] = freed
    return RiskPanel("testing", title, text, (drawing,), tables)


def _groups_panel(run: RiskRun) -> RiskPanel:
    table = run.table("groups")
    title = "Where are cases missed?"
    text = (
        "Expected untested patients with the outcome, by group. Groups overlap, as each "
        "feature divides the same patients. Small groups are suppressed."
    )
    if table is None:
        return RiskPanel("groups", title, text, absent=_NUMBERS_ONLY)
    return RiskPanel("groups", title, text, (draw_groups(table),))


def _priors_panel(run: RiskRun) -> RiskPanel:
    title = "What did the data add to the assumptions?"
    text = (
        "Where the curve after the data is the one before, the answer rests on the "
        f"assumption. {conflict_sentence(run)}"
    )
    table = run.table("priors")
    if table is None:
        return RiskPanel("priors", title, text, absent="There is no such table.")
    beside = beside_free(run)
    tables = {}
    if len(beside):
        tables["With and without the stated prevalence: mean, 95 % interval"] = beside
    return RiskPanel("priors", title, text, (draw_priors(table, run.summary),), tables)


def beside_free(run: RiskRun) -> pd.DataFrame:
    """Both fits side by side; empty where no prevalence was stated."""
    path = run.folder / "free.parquet"
    if run.diagnostics["prevalence"]["value"] is None or not path.is_file():
        return pd.DataFrame()
    free = pd.read_parquet(path)
    weights = free["weight"].to_numpy(float)
    rows = []
    for quantity in run.summary.index:
        values = free[quantity].to_numpy(float)
        low, high = weighted_quantile(values, weights, np.array([0.025, 0.975]))
        mean, with_low, with_high = run.estimate(str(quantity))
        rows.append(
            {
                "quantity": quantity,
                "with": mean, "with_low": with_low, "with_high": with_high,
                "without": float(weights @ values), "without_low": low,
                "without_high": high,
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def _sensitivity_panel(run: RiskRun) -> RiskPanel:
    what = "mean" if run.is_continuous else "prevalence"
    title = f"What if the {what} were another?"
    stated = run.diagnostics["prevalence"]
    text = f"Half, once and twice the stated {what}, with the same standard deviation."
    table = run.table("sensitivity")
    if table is None or table.empty:
        absent = f"No {what} was stated, so there is none to vary."
        return RiskPanel("sensitivity", title, text, absent=absent)
    bounds = None if run.is_continuous else tuple(stated["bounds"])
    drawing = draw_sensitivity(
        table, stated=float(stated["value"]), bounds=bounds,
        n_untested=run.n_patients - run.n_tested,
    )  # fmt: skip
    return RiskPanel("sensitivity", title, text, (drawing,))


def _viable_panel(run: RiskRun) -> RiskPanel:
    title = "How far does a patient's risk depend on choices the data cannot tell apart?"
    text = (
        "The stated prevalence within its interval, one feature more or less that may "
        "affect testing, the law of the unseen risk and the width of its prior."
    )
    found = run.diagnostics.get("viable_range")
    settings = run.table("settings")
    if not found or settings is None:
        absent = "The viable range was not asked for, or there is none for this model."
        return RiskPanel("viable", title, text, absent=absent)
    drawing = draw_viable_range(
        run.risk, threshold=run.diagnostics.get("threshold"), sentence=found["sentence"]
    )
    named = settings.assign(
        testing_features=settings["testing_features"].replace("", "none")
    )
    return RiskPanel("viable", title, text, (drawing,), {"Settings tried": named})


def _comparator_panel(run: RiskRun) -> RiskPanel:
    title = "What do simpler methods say?"
    text = (
        "Those that use the tested only assume that testing says nothing of the outcome "
        "beyond the features. An AUC cannot show the difference, as it sees ranks only."
    )
    table = run.table("comparators")
    if table is None:
        return RiskPanel("comparators", title, text, absent="They were not fitted.")
    notes = " ".join(run.diagnostics.get("comparators", ()))
    drawings = (draw_comparators(table), draw_coefficients(table))
    return RiskPanel("comparators", title, f"{text} {notes}".strip(), drawings)


def _decision_panel(run: RiskRun) -> RiskPanel:
    table = run.table("decision_curve")
    title = "Would acting on the risk help?"
    text = (
        "Expected by the model itself, and therefore only as good as it is; most outcomes "
        "were never observed."
    )
    if table is None:
        return RiskPanel("decision", title, text, absent=_NUMBERS_ONLY)
    drawing = draw_decision_curve(table, n=run.n_patients)
    return RiskPanel("decision", title, text, (drawing,))


def _attrition_panel(run: RiskRun) -> RiskPanel:
    table = attrition_table(run.cohort).dropna(axis="columns", how="all")
    text = " ".join([cohort_sentence(run), *run.cohort.get("notes", ())])
    title = "Who is in the cohort?"
    if table.empty:
        return RiskPanel("attrition", title, text, absent="No rule left anybody out.")
    return RiskPanel("attrition", title, text, tables={"Every rule": table})


# The page


def write_report(run: RiskRun) -> str:
    """The whole result as one HTML file: no network, no other file.

    Every figure has its alt text, its table and the table as a file; without scripts the
    tables remain. The page forbids itself every request.
    """
    from plotly.offline import get_plotlyjs

    panels = risk_panels(run)
    drawings = [drawing for panel in panels for drawing in panel.drawings]
    figures = json.dumps([_figure_json(one) for one in drawings]).replace("<", "\\u003c")
    number = iter(range(len(drawings)))
    sections = "\n".join(_section(run, panel, number) for panel in panels)
    contents = "".join(
        f'<li><a href="#{panel.key}">{escape(panel.title)}</a></li>' for panel in panels
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Risk of the tested and the untested</title>
<style>{STYLE}</style>
</head>
<body>
<header>
<p class="banner">{BANNER}</p>
<h1>Risk of the tested and the untested</h1>
{_flags(run)}
{_limits(run)}
</header>
<main>
<section id="answer">
<h2>Answer</h2>
<p class="answer">{html_text(finding_sentence(run))}</p>
<ul>
{
        html_items(
            [
                cohort_sentence(run),
                prevalence_sentence(run),
                expertise_sentence(run),
                conflict_sentence(run),
            ]
        )
    }
</ul>
<nav aria-label="Panels"><ol>{contents}</ol></nav>
</section>
{sections}
{_technical(run)}
</main>
<footer>
<p class="banner">{BANNER}</p>
{_limits(run)}
</footer>
<script>{get_plotlyjs()}</script>
<script type="application/json" id="figures">{figures}</script>
<script>{_SCRIPT}</script>
</body>
</html>
"""


def _limits(run: RiskRun) -> str:
    sentences = "".join(f"<p>{escape(one)}</p>" for one in run.limits)
    return f'<div class="box limits" role="note"><strong>Limits</strong>{sentences}</div>'


def _flags(run: RiskRun) -> str:
    if not run.flags:
        return (
            '<div class="box clear" role="note"><strong>✓ No flag.</strong> '
            "<p>No check raised one; that proves none of the assumptions.</p></div>"
        )
    items = [
        f"<li><strong>{escape(flag['code'])}</strong> {html_text(flag['message'])}</li>"
        for flag in run.flags
    ]
    head = f"▲ {count(len(items), 'flag')} on this result"
    acknowledged = ""
    read = _read_json(run.folder / "acknowledgement.json").get("acknowledged")
    if read:
        acknowledged = f"<p>The conflict was read and accepted at {escape(str(read))}.</p>"
    return (
        f'<div class="box flags" role="alert"><strong>{head}</strong>'
        f"<ul>{''.join(items)}</ul>{acknowledged}</div>"
    )


def _section(run: RiskRun, panel: RiskPanel, number: Any) -> str:  # noqa: ANN401
    parts = [
        f'<section id="{panel.key}">',
        f"<h2>{escape(panel.title)}</h2>",
        f"<p>{html_text(panel.text)}</p>",
    ]
    if panel.absent:
        parts.append(f'<p class="absent">Not shown: {escape(panel.absent)}</p>')
    for k, drawing in enumerate(panel.drawings):
        alt = escape(drawing.alt)
        height = drawing.figure.layout.height
        name = panel.key if k == 0 else f"{panel.key}-{k + 1}"
        parts.append(
            f'<figure><div><div class="plot" style="height:{height}px" role="img" '
            f'aria-label="{alt}" data-figure="{next(number)}"></div></div>'
            f"<figcaption>{html_text(drawing.alt)}</figcaption></figure>"
        )
        parts.append(_table(run, name, drawing.table, f"Table of this figure: {name}"))
    for k, (caption, table) in enumerate(panel.tables.items()):
        is_open = not panel.drawings or len(table) <= 12
        name = f"{panel.key}-table-{k + 1}"
        parts.append(_table(run, name, table, caption, is_open=is_open))
    parts.append("</section>")
    return "\n".join(parts)


def _table(
    run: RiskRun, name: str, table: pd.DataFrame, caption: str, *, is_open: bool = False
) -> str:
    """A table that can be folded, and the same with flags and limits as a file."""
    heads = "".join(
        f'<th scope="col">{escape(str(column).replace("_", " "))}</th>'
        for column in table.columns
    )
    kinds = [
        "number" if pd.api.types.is_numeric_dtype(kind) else "" for kind in table.dtypes
    ]
    forms = [_form(run, str(column)) for column in table.columns]
    rows = []
    for values in table.itertuples(index=False):
        cells = "".join(
            f'<td class="{kind}">{escape(form(value))}</td>'
            for kind, form, value in zip(kinds, forms, values, strict=True)
        )
        rows.append(f"<tr>{cells}</tr>")
    exported = table.assign(
        flags=" ".join(flag["code"] for flag in run.flags),
        limits=" ".join([f"{BANNER}.", *run.limits]),
    )
    data = base64.b64encode(format_table(exported)).decode()
    file = f"phenokit-risk-{name}-{run.manifest.get('run_id', '')}.csv"
    return (
        f"<details{' open' if is_open else ''}><summary>{escape(caption)} "
        f"({count(len(table), 'row')})</summary>"
        f'<p><a download="{escape(file)}" href="data:text/csv;base64,{data}">'
        f"Save as CSV, all digits</a></p>"
        f'<div class="scroll" tabindex="0"><table><thead><tr>{heads}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div></details>"
    )


_RATES = (
    "risk", "observed", "predicted", "band", "share", "prevalence", "relative",
    "viable",
    "threshold", "mean_risk",
)  # fmt: skip
"""Beginnings of the names of columns that are shares, and shown in per cent."""


def _form(run: RiskRun, column: str) -> Callable[[object], str]:
    is_rate = column.startswith(_RATES) and (
        not run.is_continuous or column.startswith("share")
    )
    return _per_cent if is_rate else _cell


def _per_cent(value: object) -> str:
    if not isinstance(value, float | np.floating) or np.isnan(value):
        return _cell(value)
    return f"{significant(100 * float(value))} %"


def _cell(value: object) -> str:
    """A value as it is read in a table; the file beside it has all digits."""
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, float | np.floating):
        number = float(value)
        if np.isnan(number):
            return ""
        if number.is_integer() and abs(number) < 1e15:
            return f"{number:,.0f}"
        if abs(number) >= 1000:
            return f"{number:,.1f}"
        return f"{number:.4g}"
    if isinstance(value, int | np.integer):
        return f"{value:,}"
    return "" if value is None else str(value)


def _technical(run: RiskRun) -> str:
    """Gate, posterior, settings, versions and hashes."""
    found = run.diagnostics
    sentences = [
        gate_sentence(run), disagreement_sentence(run), misfit_sentence(run),
        law_sentence(run),
        *found.get("notes", ()),
    ]  # fmt: skip
    settings = dict(run.manifest.get("settings", {}))
    rest = {
        key: value
        for key, value in run.manifest.items()
        if key not in ("settings", "format", "flags", "report")
    }
    facts = {
        **rest,
        "priors": found.get("priors"),
        "rows": found.get("n_rows"),
        "distinct patterns of features": found.get("n_cells"),
        "log-likelihood at the mode": found.get("log_likelihood_at_mode"),
        "settings": settings,
    }
    rows = "".join(
        f'<tr><th scope="row">{escape(name.replace("_", " "))}</th>'
        f"<td>{escape(_plain(value))}</td></tr>"
        for name, value in facts.items()
        if value is not None
    )
    summary = _table(run, "summary", run.tables["summary"], "Posterior of every quantity")
    return (
        '<section id="technical"><h2>How was it made?</h2>'
        f"<ul>{html_items(sentences)}</ul>{summary}"
        "<details><summary>Settings, versions and hashes</summary>"
        f'<div class="scroll" tabindex="0"><table><tbody>{rows}</tbody></table></div>'
        "</details></section>"
    )


def _plain(value: Any) -> str:  # noqa: ANN401
    if isinstance(value, Mapping):
        return "; ".join(f"{name}: {_plain(one)}" for name, one in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_plain(one) for one in value) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    return "none" if value is None else str(value)


def _figure_json(drawing: Drawing) -> dict[str, Any]:
    """Data and layout without Plotly's own look, which knows no dark page."""
    figure = json.loads(drawing.figure.to_json())
    figure["layout"].pop("template", None)
    return {"data": figure["data"], "layout": figure["layout"]}


_SCRIPT = """
(function () {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const places = [...document.querySelectorAll("[data-figure]")];
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  function look(layout) {
    const style = getComputedStyle(document.documentElement);
    const of = (name) => style.getPropertyValue(name).trim();
    const themed = structuredClone(layout);
    themed.paper_bgcolor = themed.plot_bgcolor = "rgba(0,0,0,0)";
    themed.font = { ...themed.font, color: of("--ink"), size: 13,
      family: getComputedStyle(document.body).fontFamily };
    themed.hoverlabel = { bgcolor: of("--paper"), bordercolor: of("--soft"),
      font: { color: of("--ink") } };
    const axes = Object.keys(themed).filter((key) => /^[xy]axis[0-9]*$/.test(key));
    for (const key of axes) {
      themed[key] = { gridcolor: of("--grid"), linecolor: of("--line"), automargin: true,
        ...themed[key] };
      const title = themed[key].title;
      if (title) themed[key].title = { ...title, font: { size: 13 } };
    }
    return themed;
  }
  function draw() {
    for (const place of places) {
      const figure = figures[Number(place.dataset.figure)];
      Plotly.react(place, figure.data, look(figure.layout), { responsive: true,
        displaylogo: false, modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d"],
      });
    }
  }
  draw();
  dark.addEventListener("change", draw);
  window.addEventListener("beforeprint", () => {
    for (const one of document.querySelectorAll("details")) one.open = true;
  });
})();
"""
