"""Figures of a risk analysis, without the app: what is drawn, what it says, the same rows.

    draw_calibration      predicted against observed among the tested
    draw_distributions    risk of the tested and of the untested
    draw_fifths           observed and predicted rates by fifth of risk
    draw_odds_ratios      what raises risk
    draw_testing          what changes testing beyond risk
    draw_groups           missed cases by group of patients
    draw_priors           what the data added
    draw_sensitivity      the answer under other prevalences
    draw_viable_range     how far a patient's risk depends on settings
    draw_comparators      what simpler methods say
    draw_coefficients     and of the coefficients
    draw_decision_curve   net benefit of acting on the risk

Each takes a table of `evidence.risk_summaries` as it stands in the run folder. As in
`association_figures`: marks differ by shape as well as by colour, text colours are left to
the theme, text of unknown origin is escaped.
"""

from collections.abc import Mapping, Sequence
from html import escape
from math import isnan, log10
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from phenokit.report.association_figures import (
    BLUE,
    GREEN,
    PALETTE,
    RED,
    Drawing,
    frame_figure,
    ratio_axis,
    ratio_ticks,
    write_at,
)
from phenokit.report.associations import format_odds_ratio
from phenokit.report.explanation import count
from phenokit.report.risk_numbers import (
    format_number,
    format_per_1000,
    format_percent,
    format_risk,
    significant,
)

if TYPE_CHECKING:
    import plotly.graph_objects as go

ORANGE, PURPLE, GREY = PALETTE[1], PALETTE[3], PALETTE[5]
BAND = "rgba(47, 120, 196, 0.22)"
MAX_ROWS = 30
"""Groups, or coefficients, that are drawn; the table has all."""
VIABLE_POINTS = 200
"""Patients, evenly spaced over the order of risk, whose range is drawn."""

METHOD_WORDS = {
    "selective_labels": "this model",
    "tested_only": "tested only",
    "untested_as_negative": "untested as negative",
    "ipw": "inverse probability weights",
    "heckman_two_step": "Heckman, two steps",
}
MEAN_WORDS = {
    "mean_risk": "all patients",
    "risk_tested": "the tested",
    "risk_untested": "the untested",
}
QUANTITY_WORDS = {
    "sigma": "sigma: width of the unseen risk",
    "alpha": "alpha: how steeply testing follows risk",
    "correlation": "correlation of unseen risk and testing",
    "prevalence": "prevalence in this cohort",
    "beta_Delta[intercept]": "level of testing beyond risk",
}

_UNITS = {"sigma": "log odds", "beta_Delta[intercept]": "log odds"}


# Calibration


def draw_calibration(
    table: pd.DataFrame, recalibration: Mapping[str, float | None] | None = None
) -> Drawing:
    """Predicted against observed rate of the tested, with the band of chance.

    Parameters
    ----------
    table
        `calibration_tested`.
    recalibration
        The fields of `Recalibration`.
    """
    import plotly.graph_objects as go

    figure = go.Figure()
    predicted, observed = _columns(table, "predicted", "observed")
    low, high = _columns(table, "observed_low", "observed_high")
    band_low, band_high = _columns(table, "band_low", "band_high")
    _add_band(
        figure, predicted, band_low, band_high,
        "where 95 % of observed rates would lie, were the model right",
    )  # fmt: skip
    top = 1.08 * float(np.nanmax(np.concatenate([high, band_high, predicted])))
    top = min(max(top, 1e-4), 1.08)
    figure.add_scatter(
        x=[0, min(top, 1)], y=[0, min(top, 1)], mode="lines", hoverinfo="skip",
        name="perfect agreement",
        line={"color": GREY, "width": 1.5, "dash": "dash"},
    )  # fmt: skip
    figure.add_scatter(
        x=predicted, y=observed, mode="markers", name="observed rate, 95 % interval",
        marker={"symbol": "circle", "size": 9, "color": BLUE},
        error_y=_error(observed, low, high, BLUE),
        hovertext=[
            f"bin {row['bin']}: predicted {format_percent(row['predicted'])}<br>observed "
            f"{format_risk(row['observed'], row['observed_low'], row['observed_high'])}"
            f"<br>{row['n_cases']:,} cases of {row['n']:,} tested"
            for row in table.to_dict("records")
        ],
        hoverinfo="text",
    )  # fmt: skip
    _percent_axis(figure.update_xaxes, "predicted risk of the tested", [0, min(top, 1)])
    _percent_axis(figure.update_yaxes, "observed rate of the tested", [0, top])
    sizes = f"{table['n'].min():,} to {table['n'].max():,} tested patients in each bin"
    frame_figure(figure, height=500, notes=[sizes])
    _legend_above(figure)
    figure.update_layout(margin={"b": 96})
    _number_bins(figure, table, top)
    inside = int(((observed >= band_low) & (observed <= band_high)).sum())
    alt = (
        f"Calibration among {table['n'].sum():,} tested patients in {len(table)} bins: the "
        f"observed rate lies within the band of chance in {inside}."
    )
    if recalibration and recalibration["slope"] is not None:
        slope, intercept = (
            format_number(*(_nan(recalibration[f"{name}{end}"]) for end in _ENDS))
            for name in ("slope", "intercept")
        )
        alt += (
            f" Slope {slope}, intercept {intercept} (1 and 0 are perfect; of the patients "
            "that the model was fitted to)."
        )
    return Drawing(figure, alt, table)


_ENDS = ("", "_low", "_high")


def _nan(value: float | None) -> float:
    return float("nan") if value is None else value


def _number_bins(figure: "go.Figure", table: pd.DataFrame, top: float) -> None:
    """Write how many are in each bin above its interval, where there is room."""
    taken: list[tuple[float, float]] = []
    for row in table.to_dict("records"):
        x, y = row["predicted"] / top, min(row["observed_high"], top) / top
        if all(abs(x - a) > 0.085 or abs(y - b) > 0.055 for a, b in taken):
            taken.append((x, y))
            figure.add_annotation(
                x=row["predicted"], y=row["observed_high"], text=f"n={row['n']:,}",
                showarrow=False, yanchor="bottom", yshift=2, font={"size": 11},
            )  # fmt: skip


# Distributions


def draw_distributions(table: pd.DataFrame) -> Drawing:
    """Histograms of risk, the tested above the untested, each with its mean.

    Parameters
    ----------
    table
        `risk_histograms`.
    """
    from plotly.subplots import make_subplots

    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.16)
    words = []
    top = 100 * float(np.nanmax(table["share"]))
    shown = table.loc[table["n"] > 0]
    span = (100 * float(shown["low"].min()), 100 * float(shown["high"].max()))
    margin = 0.06 * (span[1] - span[0])
    for k, (group, colour, pattern) in enumerate(
        (("tested", BLUE, ""), ("untested", ORANGE, "/"))
    ):
        rows = table.loc[table["group"] == group]
        first = rows.iloc[0]
        mean = format_risk(first["mean"], first["mean_low"], first["mean_high"])
        words.append(f"{first['n_group']:,} {group} patients, mean {mean}")
        middle = 50 * (rows["low"] + rows["high"])
        figure.add_bar(
            x=middle, y=100 * rows["share"], width=100 * (rows["high"] - rows["low"]),
            marker={"color": colour, "pattern": {"shape": pattern, "solidity": 0.4}},
            hovertext=[
                f"{100 * row['low']:.3g} to {100 * row['high']:.3g} %: {row['n']:,.0f} "
                f"{group} patients ({row['share']:.1%})"
                for row in rows.to_dict("records")
            ],
            hoverinfo="text", showlegend=False, row=k + 1, col=1,
        )  # fmt: skip
        axis = "" if k == 0 else "2"
        figure.add_shape(
            type="rect", x0=100 * first["mean_low"], x1=100 * first["mean_high"], y0=0,
            y1=1, xref=f"x{axis}", yref=f"y{axis} domain", fillcolor=GREY, opacity=0.35,
            line={"width": 0}, layer="below",
        )  # fmt: skip
        figure.add_shape(
            type="line", x0=100 * first["mean"], x1=100 * first["mean"], y0=0, y1=1,
            xref=f"x{axis}", yref=f"y{axis} domain",
            line={"color": GREY, "width": 2, "dash": "dash"},
        )  # fmt: skip
        figure.add_annotation(
            text=f"<b>{group}</b>, n = {first['n_group']:,}, mean {mean}", x=0,
            xref="paper", y=1.02, yref=f"y{axis} domain", xanchor="left", yanchor="bottom",
            showarrow=False, font={"size": 13},
        )  # fmt: skip
        figure.update_yaxes(
            title=f"share of<br>the {group}, %", range=[0, 1.05 * top], row=k + 1, col=1
        )
    figure.update_xaxes(range=[max(span[0] - margin, 0), min(span[1] + margin, 100)])
    figure.update_xaxes(
        title="estimated risk of a patient, %", title_standoff=8, row=2, col=1
    )
    notes = ["dashed: mean, grey: its 95 % interval"]
    if (table["note"] != "").any():
        notes.append("bars of fewer patients than the minimum are suppressed")
    frame_figure(figure, height=470, notes=notes)
    figure.update_layout(margin={"t": 34, "l": 70}, bargap=0)
    return Drawing(figure, f"Distribution of risk: {'; '.join(words)}.", table)


# Fifths


def draw_fifths(
    table: pd.DataFrame, ratio: Mapping[str, float | None] | None = None
) -> Drawing:
    """Observed and predicted rates of the tested, and the risk of all, by fifth of risk.

    Parameters
    ----------
    table
        `risk_fifths`.
    ratio
        ``ratio, low, high`` of the risk, ``observed, observed_low, observed_high`` of the
        observed rates: the highest fifth over the lowest.
    """
    import plotly.graph_objects as go

    shown = table.loc[table["n"] > 0]
    figure = go.Figure()
    at = np.arange(len(shown)).astype(float)
    series = (
        ("observed_rate", "observed", "observed rate of the tested", BLUE, "circle"),
        (
            "predicted_rate_tested", "predicted_rate_tested",
            "predicted rate of the same tested", ORANGE, "square-open",
        ),
        ("risk", "risk", "estimated risk of all in the fifth", GREEN, "diamond"),
    )  # fmt: skip
    for k, (name, stem, words, colour, symbol) in enumerate(series):
        value, low, high = _columns(shown, name, f"{stem}_low", f"{stem}_high")
        figure.add_scatter(
            x=at + 0.18 * (k - 1), y=value, mode="markers", name=words,
            marker=_marker(symbol, colour),
            error_y=_error(value, low, high, colour),
            hovertext=[f"{words}: {format_risk(*one)}"
                       for one in zip(value, low, high, strict=True)],
            hoverinfo="text",
        )  # fmt: skip
    ends = {1: " (lowest)", 5: " (highest)"}
    figure.update_xaxes(
        tickvals=at,
        ticktext=[
            f"{row['fifth']}{ends.get(row['fifth'], '')}<br>n = {row['n']:,}<br>"
            f"{_tested_words(row)}"
            for row in shown.to_dict("records")
        ],
        title="fifth of risk", title_standoff=8, range=[-0.6, len(shown) - 0.4],
        showgrid=False, zeroline=False,
    )  # fmt: skip
    _percent_axis(figure.update_yaxes, "rate of the outcome", None)
    figure.update_yaxes(rangemode="tozero")
    frame_figure(figure, height=490, notes=["bars: 95 % intervals"])
    _legend_above(figure)
    figure.update_layout(margin={"b": 116})
    alt = (
        f"Rates by fifth of risk, {shown['n'].sum():,} patients, "
        f"{shown['n_tested'].sum():,.0f} tested."
    )
    if hidden := int((shown["note"] != "").sum()):
        alt += f" Suppressed, as of too few patients: {count(hidden, 'fifth')}."
    alt += f" {ratio_sentence(ratio)}"
    return Drawing(figure, alt, table)


def _tested_words(row: Mapping[Any, Any]) -> str:
    if row["note"] == "suppressed":
        return "suppressed"
    return f"{row['n_tested']:,.0f} tested ({format_percent(row['share_tested'])})"


def ratio_sentence(ratio: Mapping[str, float | None] | None) -> str:
    """The highest fifth of risk over the lowest.

    Examples
    --------
    >>> ratio_sentence({"ratio": 3.07, "low": 2.8, "high": 3.4, "observed": None})[:54]
    'The highest fifth has 3.07 (2.80–3.40) times the risk '
    """
    if not ratio or ratio["ratio"] is None:
        return "The highest and the lowest fifth cannot be compared: only one is shown."
    of_risk = format_odds_ratio(*(_nan(ratio[name]) for name in ("ratio", "low", "high")))
    text = f"The highest fifth has {of_risk} times the risk of the lowest"
    if ratio["observed"] is None:
        return f"{text}; observed rates cannot be compared (one is 0, or suppressed)."
    names = ("observed", "observed_low", "observed_high")
    seen = format_odds_ratio(*(_nan(ratio[name]) for name in names))
    return f"{text}, and {seen} times its observed rate among the tested."


# Coefficients


def draw_odds_ratios(table: pd.DataFrame) -> Drawing:
    """What raises risk: odds ratios, or changes of a continuous outcome.

    Parameters
    ----------
    table
        `odds_ratios`.
    """
    shown = table.loc[table["feature"] != "intercept"].head(MAX_ROWS)
    is_ratio = not shown["odds_ratio"].isna().all()
    stem = "odds_ratio" if is_ratio else "beta_Y"
    figure = _forest(
        [str(name) for name in shown["feature"]],
        _columns(shown, stem, f"{stem}_low", f"{stem}_high"),
        heads=("odds ratio (95 %)" if is_ratio else "change (95 %)", "step"),
        last=[str(one) for one in shown["per"]],
        title="odds ratio of the outcome, log scale" if is_ratio else "change of outcome",
        is_ratio=is_ratio,
        notes=["at the same unseen risk", *_left_out(table, shown)],
    )
    strongest = shown.iloc[int(np.nanargmax(np.abs(shown["beta_Y"].to_numpy(float))))]
    words = format_odds_ratio if is_ratio else format_number
    value = words(*(float(strongest[stem + end]) for end in _ENDS))
    alt = (
        f"{'Odds ratios' if is_ratio else 'Effects'} of {count(len(shown), 'feature')}. "
        f"Furthest from none: {strongest['feature']}, {value} per step "
        f"({strongest['per']})."
    )
    return Drawing(figure, alt, table)


def draw_testing(table: pd.DataFrame, *, is_odds: bool = True) -> Drawing:
    """What changes testing of patients of equal risk: exp(beta_Delta).

    A feature that is assumed to affect testing through risk alone is an open mark at 1.

    Parameters
    ----------
    table
        `odds_ratios`.
    is_odds
        False for a continuous outcome: beta_Delta is then in probits, and drawn so.
    """
    features = table.loc[table["feature"] != "intercept"]
    shown = features.head(MAX_ROWS)
    values = _columns(shown, "beta_Delta", "beta_Delta_low", "beta_Delta_high")
    if is_odds:
        values = tuple(np.exp(one) for one in values)
    free = shown["may_affect_testing"].to_numpy(bool)
    steps = [
        str(row["per"]) if row["may_affect_testing"] else "assumed"
        for row in shown.to_dict("records")
    ]
    figure = _forest(
        [str(name) for name in shown["feature"]],
        values,
        heads=("odds of testing (95 %)" if is_odds else "probits (95 %)", "step"),
        last=steps,
        title="being tested at equal risk: less ← → more",
        is_ratio=is_odds,
        hollow=~free,
        notes=["open mark: assumed to have no effect beyond risk",
               *_left_out(features, shown)],
    )  # fmt: skip
    intercept = table.loc[table["feature"] == "intercept"].iloc[0]
    level = format_number(*(float(intercept[f"beta_Delta{end}"]) for end in _ENDS))
    apart = []
    for row in features.loc[features["may_affect_testing"]].to_dict("records"):
        if row["beta_Delta_low"] > 0:
            apart.append(f"{row['feature']}: tested more than their risk explains")
        elif row["beta_Delta_high"] < 0:
            apart.append(f"{row['feature']}: tested less than their risk explains")
    found = "; ".join(apart) or "no feature clearly changes testing beyond risk"
    alt = (
        f"Testing beyond risk: {int(free.sum())} of {len(features)} features may affect "
        f"it; {found}. Level of testing (intercept) {level}, in log odds."
    )
    if not is_odds:
        alt = alt.replace("in log odds", "in probits")
    return Drawing(figure, alt, table)


def _left_out(table: pd.DataFrame, shown: pd.DataFrame) -> list[str]:
    rows = table.loc[table["feature"] != "intercept"]
    more = len(rows) - len(shown)
    return [f"{more:,} more in the table"] if more > 0 else []


def _forest(
    names: Sequence[str],
    values: Sequence[Float[np.ndarray, " row"]],
    *,
    heads: tuple[str, str],
    last: Sequence[str],
    title: str,
    is_ratio: bool,
    hollow: np.ndarray | None = None,
    notes: Sequence[str] = (),
) -> "go.Figure":
    """Estimates with intervals from the top down, and two columns of words."""
    import plotly.graph_objects as go

    value, low, high = values
    n = len(names)
    figure = go.Figure()
    y = np.arange(n)[::-1].astype(float)
    is_hollow = np.zeros(n, dtype=bool) if hollow is None else hollow
    known = value[~is_hollow], low[~is_hollow], high[~is_hollow]
    if is_ratio:
        lowest, highest = ratio_axis(*known) if len(known[0]) else (0.5, 2.0)
        none = 1.0
    else:
        ends = np.concatenate([*known, [0.0]])
        margin = 0.06 * float(np.nanmax(ends) - np.nanmin(ends)) or 1.0
        lowest, highest = float(np.nanmin(ends)) - margin, float(np.nanmax(ends)) + margin
        none = 0.0
    at = np.clip(value, lowest, highest)
    error = _error(at, np.clip(low, lowest, highest), np.clip(high, lowest, highest), BLUE)
    form = format_odds_ratio if is_ratio else format_number
    words = [
        f"{none:g} (fixed)" if fixed else form(*one)
        for fixed, *one in zip(is_hollow, value, low, high, strict=True)
    ]
    figure.add_scatter(
        x=at, y=y, mode="markers", showlegend=False, error_x=error,
        marker={"symbol": np.where(is_hollow, "circle-open", "square"), "size": 9,
                "color": np.where(is_hollow, GREY, BLUE),
                "line": {"width": 2, "color": np.where(is_hollow, GREY, BLUE)}},
        hovertext=[f"{escape(name)}: {text}"
                   for name, text in zip(names, words, strict=True)],
        hoverinfo="text",
    )  # fmt: skip
    for beyond, x, symbol in (
        (low < lowest, lowest, "triangle-left"),
        (high > highest, highest, "triangle-right"),
    ):
        if beyond.any():
            figure.add_scatter(
                x=np.full(int(beyond.sum()), x), y=y[beyond], mode="markers",
                hoverinfo="skip", showlegend=False,
                marker={"symbol": symbol, "size": 11, "color": BLUE},
            )  # fmt: skip
    _line_at(figure, none, n)
    for place, head, texts in ((0.56, heads[0], words), (0.83, heads[1], last)):
        write_at(figure, place, n - 0.05, f"<b>{escape(head)}</b>")
        for row, text in zip(y, texts, strict=True):
            write_at(figure, place, float(row), escape(str(text)))
    figure.update_xaxes(domain=[0, 0.54], title=escape(title), zeroline=False,
                        title_standoff=8)  # fmt: skip
    if is_ratio:
        ticks = ratio_ticks(lowest, highest)
        figure.update_xaxes(
            type="log", range=[log10(lowest) - 0.02, log10(highest) + 0.02], tickvals=ticks,
            ticktext=[f"{tick:g}" for tick in ticks], tickangle=0,
        )  # fmt: skip
    else:
        figure.update_xaxes(range=[lowest, highest])
    _rows_axis(figure, names, n)
    more = list(notes)
    if (low < lowest).any() or (high > highest).any():
        more.append("an arrow: the interval goes on")
    frame_figure(figure, height=130 + 30 * n, notes=more)
    return figure


def _rows_axis(figure: "go.Figure", names: Sequence[str], n: int) -> None:
    figure.update_yaxes(
        tickvals=np.arange(n)[::-1], ticktext=[escape(_short(name, 34)) for name in names],
        range=[-0.7, n + 0.4], showgrid=False, zeroline=False,
    )  # fmt: skip


def _line_at(figure: "go.Figure", x: float, n: int) -> None:
    figure.add_shape(
        type="line", x0=x, x1=x, y0=-0.7, y1=n - 0.3,
        line={"color": GREY, "width": 1.5}, layer="below",
    )  # fmt: skip


# Groups


def draw_groups(table: pd.DataFrame) -> Drawing:
    """Expected missed cases of each group, with how many were tested and untested risk.

    Parameters
    ----------
    table
        `under_tested_groups`.
    """
    import plotly.graph_objects as go

    shown = table.head(MAX_ROWS)
    n = len(shown)
    figure = go.Figure()
    y = np.arange(n)[::-1].astype(float)
    value, low, high = _columns(
        shown, "missed_per_1000", "missed_per_1000_low", "missed_per_1000_high"
    )
    figure.add_scatter(
        x=value, y=y, mode="markers", showlegend=False,
        marker={"symbol": "square", "size": 9, "color": BLUE},
        error_x=_error(value, low, high, BLUE),
        hovertext=[f"{escape(str(name))}: {format_per_1000(*one)} missed per 1,000"
                   for name, *one in zip(shown["group"], value, low, high, strict=True)],
        hoverinfo="text",
    )  # fmt: skip
    heads = ((0.42, "missed per 1,000"), (0.60, "n"), (0.70, "tested"),
             (0.80, "untested risk"))  # fmt: skip
    for place, head in heads:
        write_at(figure, place, n - 0.05, f"<b>{head}</b>")
    for at, row in zip(y, shown.to_dict("records"), strict=True):
        write_at(figure, heads[1][0], float(at), f"{row['n']:,}")
        if row["note"]:
            write_at(figure, heads[0][0], float(at), "suppressed")
            continue
        missed = format_per_1000(*(row[f"missed_per_1000{end}"] for end in _ENDS))
        write_at(figure, heads[0][0], float(at), missed)
        write_at(figure, heads[2][0], float(at), format_percent(row["share_tested"]))
        risk = format_risk(*(row[f"risk_untested{end}"] for end in _ENDS))
        write_at(figure, heads[3][0], float(at), risk)
    figure.update_xaxes(
        domain=[0, 0.40], rangemode="tozero", zeroline=False, title_standoff=8,
        title="expected missed cases per 1,000 patients",
    )  # fmt: skip
    _rows_axis(figure, [str(name) for name in shown["group"]], n)
    notes = ["missed: untested patients with the outcome", "95 % intervals"]
    if (shown["note"] != "").any():
        notes.append("suppressed: too few patients")
    frame_figure(figure, height=150 + 30 * n, notes=notes + _left_out_rows(table, n))
    figure.update_layout(margin={"b": 96})
    known = table.loc[table["note"] == ""]
    alt = f"Missed cases by group: {len(table):,} groups"
    if len(hidden := table.loc[table["note"] != ""]):
        alt += f", {len(hidden):,} of them suppressed"
    if len(known):
        most = known.iloc[int(np.argmax(known["missed_per_1000"].to_numpy(float)))]
        missed = format_per_1000(*(float(most[f"missed_per_1000{end}"]) for end in _ENDS))
        alt += (
            f". Most are missed in {most['group']}: {missed} per 1,000 of {most['n']:,} "
            f"patients, of whom {format_percent(float(most['share_tested']))} were tested"
        )
    return Drawing(figure, f"{alt}.", table)


def _left_out_rows(table: pd.DataFrame, n: int) -> list[str]:
    return [f"{len(table) - n:,} more in the table"] if len(table) > n else []


# Prior and posterior


def draw_priors(table: pd.DataFrame, summary: pd.DataFrame) -> Drawing:
    """Densities before and after, side by side.

    Parameters
    ----------
    table
        `prior_posterior`.
    summary
        Of the posterior, indexed by quantity.
    """
    from plotly.subplots import make_subplots

    quantities = list(dict.fromkeys(table["quantity"]))
    figure = make_subplots(rows=1, cols=len(quantities), horizontal_spacing=0.07)
    lines = (
        ("prior_density", "before: prior, or the stated prevalence", GREY, "dash"),
        ("free_density", "after, without the stated prevalence", ORANGE, "dot"),
        ("posterior_density", "after: posterior", BLUE, "solid"),
    )
    words = []
    for k, quantity in enumerate(quantities):
        rows = table.loc[table["quantity"] == quantity]
        unit = 100.0 if quantity == "prevalence" and rows["x"].max() <= 1 else 1.0
        for name, legend, colour, dash in lines:
            density = rows[name].to_numpy(float)
            if np.isnan(density).all():
                continue
            figure.add_scatter(
                x=unit * rows["x"], y=density / unit, mode="lines", name=legend,
                legendgroup=name, showlegend=k == 0, hoverinfo="skip",
                line={"color": colour, "width": 2.2, "dash": dash}, row=1, col=k + 1,
            )  # fmt: skip
        values = [float(summary.loc[quantity, one]) for one in ("mean", "q2_5", "q97_5")]
        text = format_risk(*values) if unit == 100 else format_number(*values)
        name = QUANTITY_WORDS.get(quantity, quantity)
        words.append(f"{name}, {text}")
        axis = "" if k == 0 else str(k + 1)
        figure.add_annotation(
            text=f"{escape(name)}<br><b>{text}</b>", x=0.5, xref=f"x{axis} domain", y=1.03,
            yref=f"y{axis} domain", xanchor="center", yanchor="bottom", showarrow=False,
            font={"size": 12},
        )  # fmt: skip
        figure.update_xaxes(
            title="%" if unit == 100 else _UNITS.get(quantity, ""),
            title_standoff=6, zeroline=False, row=1, col=k + 1,
        )  # fmt: skip
        figure.update_yaxes(
            showticklabels=False, rangemode="tozero", zeroline=False,
            title="density" if k == 0 else "", row=1, col=k + 1,
        )  # fmt: skip
    frame_figure(figure, height=390, notes=["bold: posterior mean, 95 % interval"])
    figure.update_layout(
        margin={"t": 96},
        legend={"orientation": "h", "y": 1.24, "yanchor": "bottom", "x": 0},
    )
    return Drawing(figure, f"Before and after the data: {'; '.join(words)}.", table)


# Other prevalences


def draw_sensitivity(
    table: pd.DataFrame,
    *,
    stated: float,
    bounds: tuple[float, float] | None,
    n_untested: int,
) -> Drawing:
    """Risk of the tested and the untested under other prevalences.

    One outside the exact bounds is struck out.

    Parameters
    ----------
    table
        `sensitivity_strip`.
    stated
        The stated prevalence.
    bounds
        Exact bounds of the prevalence; None for a continuous outcome.
    n_untested
        Patients that the risk of the untested is of.
    """
    import plotly.graph_objects as go

    figure = go.Figure()
    is_risk = bounds is not None
    unit = 100.0 if is_risk else 1.0
    at = np.arange(len(table)).astype(float)
    for k, (name, words, colour, symbol) in enumerate(
        (
            ("risk_tested", "the tested", BLUE, "circle"),
            ("risk_untested", "the untested", ORANGE, "square-open"),
        )
    ):
        value, low, high = _columns(table, name, f"{name}_low", f"{name}_high")
        texts = [
            "" if isnan(one[0]) else (format_risk if is_risk else format_number)(*one)
            for one in zip(value, low, high, strict=True)
        ]
        figure.add_scatter(
            x=at + 0.05 * (2 * k - 1), y=unit * value, mode="markers+text", name=words,
            text=[f"  {text}  " for text in texts], textfont={"size": 12},
            textposition="middle right" if k else "middle left",
            marker=_marker(symbol, colour),
            error_y=_error(unit * value, unit * low, unit * high, colour),
            hovertext=[f"{words}: {text}" for text in texts], hoverinfo="text",
            cliponaxis=False,
        )  # fmt: skip
    ticks = []
    for x, row in zip(at, table.to_dict("records"), strict=True):
        name = format_percent(row["prevalence"]) if is_risk else f"{row['prevalence']:.3g}"
        is_stated = abs(row["prevalence"] - stated) <= 1e-9 * abs(stated)
        times = row["prevalence"] / stated
        kind = {0.5: "half the stated", 2.0: "twice the stated"}.get(
            round(times, 9), f"{times:.2g} times the stated"
        )
        kind = "as stated" if is_stated else kind
        if row["source"] == "refused":
            why = "outside the<br>exact bounds" if not row["within_bounds"] else "refused"
            ticks.append(f"<s>{name}</s> ✕<br>{kind}")
            figure.add_annotation(
                x=x, y=0.5, yref="paper", text=f"✕<br>{why}", showarrow=False,
                font={"size": 13},
            )  # fmt: skip
        else:
            mark = " ▲" if row["conflict"] else ""
            ticks.append(f"{name}{mark}<br>{kind}")
    figure.update_xaxes(
        tickvals=at, ticktext=ticks, range=[-0.75, len(table) - 0.25], showgrid=False,
        zeroline=False, title_standoff=8,
        title="assumed prevalence" if is_risk else "assumed mean",
    )  # fmt: skip
    title = "estimated risk, %" if is_risk else "mean outcome"
    figure.update_yaxes(title=title, rangemode="tozero" if is_risk else "normal")
    notes = []
    if bounds is not None:
        notes.append(
            f"exact bounds {format_percent(bounds[0])} to {format_percent(bounds[1])}"
        )
    if table["conflict"].to_numpy(bool).any():
        notes.append("▲ disagrees with the data")
    if (table["source"] == "provisional").any():
        notes.append("re-weighted beyond its rule: provisional")
    frame_figure(figure, height=450, notes=notes)
    _legend_above(figure)
    figure.update_layout(margin={"b": 104})
    parts = [_sensitivity_words(row, is_risk=is_risk) for row in table.to_dict("records")]
    what = "Risk under other prevalences" if is_risk else "Outcome under other means"
    alt = f"{what}, {n_untested:,} untested patients: {'; '.join(parts)}."
    return Drawing(figure, alt, table)


def _sensitivity_words(row: Mapping[Any, Any], *, is_risk: bool) -> str:
    name = (format_percent if is_risk else significant)(row["prevalence"])
    if row["source"] == "refused":
        why = "outside the exact bounds" if not row["within_bounds"] else row["note"]
        return f"{name} is refused ({why})"
    form = format_risk if is_risk else format_number
    risk = form(*(row[f"risk_untested{end}"] for end in _ENDS))
    conflict = ", in conflict with the data" if row["conflict"] else ""
    return f"at {name} the untested have {risk}{conflict}"


# Viable range


def draw_viable_range(
    risk: pd.DataFrame, *, threshold: float | None, sentence: str
) -> Drawing:
    """Range of each patient's risk over the settings that explain the data as well.

    Parameters
    ----------
    risk
        A row a patient: ``risk, viable_low, viable_high``.
    threshold
        Risk from which on a decision is another.
    sentence
        `ViableRange.sentence`.
    """
    import plotly.graph_objects as go

    known = risk.dropna(subset=["viable_low"]).sort_values("risk", kind="stable")
    n = len(known)
    at = np.unique(np.linspace(0, n - 1, min(n, VIABLE_POINTS)).astype(np.int64))
    few = known.iloc[at]
    share = 100 * (at + 0.5) / n
    stated, low, high = (100 * one for one in _columns(
        few, "risk", "viable_low", "viable_high"))  # fmt: skip
    figure = go.Figure()
    _add_band(figure, share, low, high, "range over the settings kept")
    figure.add_scatter(
        x=share, y=stated, mode="lines", name="risk by the stated setting",
        line={"color": BLUE, "width": 2.2},
        hovertext=[f"risk {s:.2g} %, range {a:.2g} to {b:.2g} %"
                   for s, a, b in zip(stated, low, high, strict=True)],
        hoverinfo="text",
    )  # fmt: skip
    if threshold is not None:
        figure.add_scatter(
            x=[0, 100], y=[100 * threshold] * 2, mode="lines", hoverinfo="skip",
            name=f"threshold {format_percent(threshold)}",
            line={"color": RED, "width": 1.5, "dash": "dash"},
        )  # fmt: skip
    figure.update_xaxes(
        title="patients in the order of risk, %", range=[0, 100], title_standoff=8,
        zeroline=False,
    )  # fmt: skip
    figure.update_yaxes(title="estimated risk, %", rangemode="tozero", zeroline=False)
    notes = [f"n = {n:,}", "a range of settings, no interval of uncertainty"]
    frame_figure(figure, height=430, notes=notes)
    _legend_above(figure)
    return Drawing(
        figure, f"Viable range of risk, {n:,} patients. {sentence}", _tenths(known)
    )


def _tenths(ordered: pd.DataFrame) -> pd.DataFrame:
    """Medians of each tenth of the patients, who stand in the order of risk.

    Fewer and larger parts where there are fewer than a hundred patients.
    """
    n_parts = max(1, min(10, len(ordered) // 10))
    tenth = np.arange(len(ordered)) * n_parts // max(len(ordered), 1) + 1
    columns = ["risk", "viable_low", "viable_high"]
    by = ordered[columns].groupby(tenth)
    table = by.median().assign(n=by.size())
    table["wider_than_0.05"] = (
        (ordered["viable_high"] - ordered["viable_low"] > 0.05).groupby(tenth).sum()
    )
    return table.rename_axis("part").reset_index()


# Comparators


def draw_comparators(table: pd.DataFrame) -> Drawing:
    """Mean risk of all, of the tested and of the untested, by method.

    Parameters
    ----------
    table
        `fit_comparators`, with the rows of the model itself.
    """
    from plotly.subplots import make_subplots

    rows = table.loc[table["quantity"].isin(list(MEAN_WORDS))]
    methods = [name for name in METHOD_WORDS if name in set(rows["method"])]
    n = len(methods)
    is_risk = "heckman_two_step" not in methods
    unit = 100.0 if is_risk else 1.0
    figure = make_subplots(rows=1, cols=3, shared_yaxes=True, horizontal_spacing=0.03)
    y = np.arange(n)[::-1].astype(float)
    for k, (quantity, words) in enumerate(MEAN_WORDS.items(), start=1):
        own = rows.loc[rows["quantity"] == quantity].set_index("method").reindex(methods)
        value, low, high = (
            unit * one for one in _columns(own, "estimate", "conf_int_1", "conf_int_2")
        )
        form = format_risk if is_risk else format_number
        texts = [
            "no estimate" if isnan(one[0]) else form(*(part / unit for part in one))
            for one in zip(value, low, high, strict=True)
        ]
        first = np.array([name == "selective_labels" for name in methods])
        figure.add_scatter(
            x=value, y=y, mode="markers+text", showlegend=False, text=texts,
            textposition="top center", textfont={"size": 12}, cliponaxis=False,
            marker={"symbol": np.where(first, "diamond", "square-open"), "size": 10,
                    "color": np.where(first, BLUE, ORANGE),
                    "line": {"width": 2, "color": np.where(first, BLUE, ORANGE)}},
            error_x=_error(value, low, high, GREY), hoverinfo="text", hovertext=texts,
            row=1, col=k,
        )  # fmt: skip
        axis = "" if k == 1 else str(k)
        figure.add_annotation(
            text=f"<b>{words}</b>", x=0.5, xref=f"x{axis} domain", y=1.02,
            yref=f"y{axis} domain", xanchor="center", yanchor="bottom", showarrow=False,
            font={"size": 13},
        )  # fmt: skip
        ends = np.concatenate([value, low, high])
        ends = ends[np.isfinite(ends)]
        if len(ends):
            margin = 0.3 * float(ends.max() - ends.min()) or 1.0
            figure.update_xaxes(
                range=[float(ends.min()) - margin, float(ends.max()) + margin], row=1, col=k
            )
        figure.update_xaxes(
            title="mean risk, %" if is_risk else "mean outcome", title_standoff=6,
            zeroline=False, nticks=5, row=1, col=k,
        )  # fmt: skip
    n_used = rows.groupby("method")["n"].max()
    figure.update_yaxes(
        tickvals=y,
        ticktext=[f"{METHOD_WORDS[name]}<br>n = {int(n_used[name]):,}" for name in methods],
        showgrid=False,
        zeroline=False, range=[-0.6, n - 0.2],
    )  # fmt: skip
    notes = ["filled diamond: this model", "95 % intervals", "each axis has its own range"]
    frame_figure(figure, height=190 + 62 * n, notes=notes)
    figure.update_layout(margin={"t": 36})
    untested = rows.loc[rows["quantity"] == "risk_untested"].set_index("method")
    form = format_risk if is_risk else format_number
    parts = []
    for name in methods:
        row = untested.loc[name]
        value = [float(row[one]) for one in ("estimate", "conf_int_1", "conf_int_2")]
        parts.append(f"{METHOD_WORDS[name]} {form(*value)} (n = {int(row['n']):,})")
    alt = f"Risk of the untested by method: {'; '.join(parts)}."
    return Drawing(figure, alt, table)


def draw_coefficients(table: pd.DataFrame) -> Drawing:
    """Coefficients of risk by method.

    Parameters
    ----------
    table
        `fit_comparators`, with the rows of the model itself.
    """
    import plotly.graph_objects as go

    apart = {*MEAN_WORDS, "excess_among_tested", "rho", "intercept"}
    rows = table.loc[~table["quantity"].isin(list(apart))]
    features = list(dict.fromkeys(rows["quantity"]))[:MAX_ROWS]
    methods = [name for name in METHOD_WORDS if name in set(rows["method"])]
    figure = go.Figure()
    looks = (("diamond", BLUE), ("square-open", ORANGE), ("triangle-up", GREEN),
             ("x", PURPLE), ("circle-open", GREY))  # fmt: skip
    y = np.arange(len(features))[::-1].astype(float)
    for k, name in enumerate(methods):
        own = rows.loc[rows["method"] == name].set_index("quantity").reindex(features)
        value, low, high = _columns(own, "estimate", "conf_int_1", "conf_int_2")
        symbol, colour = looks[list(METHOD_WORDS).index(name)]
        figure.add_scatter(
            x=value, y=y + 0.17 * (1.5 - k), mode="markers", name=METHOD_WORDS[name],
            marker=_marker(symbol, colour, size=9),
            error_x=_error(value, low, high, colour), hoverinfo="text",
            hovertext=[f"{METHOD_WORDS[name]}: {format_number(*one)}"
                       for one in zip(value, low, high, strict=True)],
        )  # fmt: skip
    _line_at(figure, 0.0, len(features))
    is_log = "heckman_two_step" not in methods
    figure.update_xaxes(
        title="coefficient, log odds per unit of the feature" if is_log
        else "coefficient, change of the outcome per unit of the feature",
        zeroline=False, title_standoff=8,
    )  # fmt: skip
    _rows_axis(figure, features, len(features))
    figure.update_yaxes(range=[-0.6, len(features) - 0.4])
    frame_figure(figure, height=150 + 56 * len(features), notes=["95 % intervals"])
    _legend_above(figure)
    alt = (
        f"Coefficients of {count(len(features), 'feature')} by "
        f"{count(len(methods), 'method')}; those of simpler methods assume that testing "
        "says nothing of the outcome."
    )
    return Drawing(figure, alt, rows.reset_index(drop=True))


# Acting on the risk


def draw_decision_curve(table: pd.DataFrame, *, n: int) -> Drawing:
    """Net benefit of acting on the risk, on everybody and on nobody.

    Parameters
    ----------
    table
        `decision_curve`.
    n
        Patients.
    """
    import plotly.graph_objects as go

    figure = go.Figure()
    known = table.dropna(subset=["net_benefit"])
    x = 100 * known["threshold"].to_numpy(float)
    model, low, high = (1000 * one for one in _columns(
        known, "net_benefit", "net_benefit_low", "net_benefit_high"))  # fmt: skip
    _add_band(figure, x, low, high, "95 % interval")
    figure.add_scatter(
        x=x, y=1000 * known["treat_all"], mode="lines", name="act on everybody",
        line={"color": ORANGE, "width": 2, "dash": "dash"}, hoverinfo="skip",
    )  # fmt: skip
    figure.add_scatter(
        x=x, y=np.zeros(len(x)), mode="lines", name="act on nobody",
        line={"color": GREY, "width": 2, "dash": "dot"}, hoverinfo="skip",
    )  # fmt: skip
    figure.add_scatter(
        x=x, y=model, mode="lines", name="act on the risk of this model",
        line={"color": BLUE, "width": 2.4},
        hovertext=[f"from {a:.3g} %: {b:,.0f} patients, net benefit {c:.1f} per 1,000"
                   for a, b, c in zip(x, known["n_above"], model, strict=True)],
        hoverinfo="text",
    )  # fmt: skip
    top = float(np.nanmax(high))
    figure.update_xaxes(title="threshold: one acts from this risk on, %",
                        title_standoff=8, zeroline=False)  # fmt: skip
    figure.update_yaxes(
        title="net benefit,<br>true positives per 1,000", zeroline=False,
        range=[-0.12 * top, 1.08 * top],
    )  # fmt: skip
    frame_figure(
        figure, height=440, notes=["expected by the model itself; no outcome was used"]
    )
    _legend_above(figure)
    better = (known["net_benefit"] > known["treat_all"].clip(lower=0) + 1e-6).to_numpy()
    where = "at no threshold shown"
    if better.any():
        where = f"for thresholds from {x[better].min():.2g} to {x[better].max():.2g} %"
    alt = (
        f"Decision curve, {n:,} patients: by the model's own expectation, acting on its "
        f"risk beats acting on everybody or on nobody {where}."
    )
    return Drawing(figure, alt, table)


# Parts


def _columns(table: pd.DataFrame, *names: str) -> tuple[np.ndarray, ...]:
    return tuple(table[name].to_numpy(float) for name in names)


def _marker(symbol: str, colour: str, *, size: int = 10) -> dict[str, Any]:
    outline = {"width": 2, "color": colour}
    return {"symbol": symbol, "size": size, "color": colour, "line": outline}


def _error(
    value: Float[np.ndarray, " row"],
    low: Float[np.ndarray, " row"],
    high: Float[np.ndarray, " row"],
    colour: str,
) -> dict[str, Any]:
    """An interval as bars around a mark."""
    return {
        "type": "data", "array": np.nan_to_num(np.maximum(high - value, 0)),
        "arrayminus": np.nan_to_num(np.maximum(value - low, 0)), "color": colour,
        "thickness": 1.6, "width": 4,
    }  # fmt: skip


def _add_band(
    figure: "go.Figure",
    x: Float[np.ndarray, " row"],
    low: Float[np.ndarray, " row"],
    high: Float[np.ndarray, " row"],
    name: str,
) -> None:
    figure.add_scatter(
        x=np.concatenate([x, x[::-1]]), y=np.concatenate([high, low[::-1]]), fill="toself",
        fillcolor=BAND, line={"color": BLUE, "width": 0.6}, mode="lines", name=name,
        hoverinfo="skip",
    )  # fmt: skip


def _percent_axis(update: Any, title: str, span: Sequence[int | float] | None) -> None:  # noqa: ANN401
    """An axis of rates in per cent."""
    narrow = span is not None and span[1] < 0.05
    update(title=title, tickformat=".1%" if narrow else ".0%", zeroline=False,
           title_standoff=8)  # fmt: skip
    if span is not None:
        update(range=span)


def _legend_above(figure: "go.Figure") -> None:
    figure.update_layout(
        margin={"t": 44},
        legend={"orientation": "h", "y": 1.01, "yanchor": "bottom", "x": 0},
    )


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"
