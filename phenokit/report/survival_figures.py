"""Figures of cohorts with follow-up: what is drawn, what it says, and the same rows.

    draw_kaplan_meier            free of the event, by stratum, with the number at risk
    draw_cumulative_incidence    the event, and what competes with it, side by side
    draw_hazards                 Cox's hazard ratios, n, events, proportional hazards
    draw_schoenfeld              the ratio of one covariate over time

As in `association_figures`: strata differ by line as well as by colour, text colours are
left to the theme, text of unknown origin is escaped.
"""

from collections.abc import Sequence
from html import escape
from math import floor, isfinite, log10
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from jaxtyping import Float64

from phenokit.evidence.cox import NONPROPORTIONAL, CoxFit
from phenokit.evidence.survival import Curve, Curves
from phenokit.report.association_figures import (
    BLUE,
    PALETTE,
    RED,
    Drawing,
    frame_figure,
    ratio_axis,
    ratio_ticks,
    write_at,
)
from phenokit.report.associations import format_odds_ratio, format_p
from phenokit.report.explanation import count
from phenokit.report.risk_numbers import format_risk

if TYPE_CHECKING:
    import plotly.graph_objects as go

DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
"""Of the strata, beside their colours."""
MAX_CENSOR_TICKS = 80
"""Of a curve; ticks that would stand closer than this share of the axis are one."""
ROW = 20
"""Height, px, of a line of numbers below the axis."""
PLOT, BETWEEN = 330, 56
"""Height, px, of the axes of a curve, and of what stands between them and the numbers."""
MIN_SPAN = 0.08
"""The y axis shows at least this much of survival, or of incidence."""
SMOOTHED = 0.6
"""Share of the events that a point of the smooth line is made of."""


def draw_kaplan_meier(
    curves: Curves, *, title: str, unit: str = "", who: str = ""
) -> Drawing:
    """Curves of being free of the event, by stratum, with the number at risk below.

    The band is the 95 % interval of the log-log scale, a tick somebody last seen without
    the event. Where nearly all stay free the axis does not start at 0, and says so.

    Parameters
    ----------
    curves
        Of `phenokit.evidence.survival.fit_kaplan_meier`.
    title
        The event.
    unit, who
        Of time, and who was followed; by default those of `curves`.
    """
    unit, who = unit or curves.unit, who or curves.population
    figure = _axes([title], len(curves.curves))
    bottom = _floor(min(_least(curve) for curve in curves.curves))
    for k, curve in enumerate(curves.curves):
        words = f"{curve.stratum}: n = {curve.n:,}, {count(curve.n_events, 'event')}, "
        _draw_curve(figure, curve, k, words + _median_words(curve, unit), axis=1)
    _number_at_risk(figure, curves.curves, curves.at_times, axis=1)
    figure.update_yaxes(
        range=[100 * bottom, 100 + 2 * (1 - bottom)], ticksuffix=" %", zeroline=False,
        title="free of the event",
        selector={"anchor": "x"},
    )  # fmt: skip
    test = _test_words(curves)
    notes = ["band: 95 % interval", "tick: last seen without the event"]
    if bottom > 0:
        notes.append(f"the axis starts at {100 * bottom:g} %")
    head = f"{title}: Kaplan–Meier, time in {unit}"
    _finish(figure, curves, unit, [head, who, test], notes)
    ends = "; ".join(
        _end_words(curve, curves.at_times, unit, "free") for curve in curves.curves
    )
    alt = (
        f"Kaplan-Meier curves of staying free of {title} over time in {unit}, {who}: "
        f"{ends}. {test}."
    )
    return Drawing(figure, alt, _table(curves))


def draw_cumulative_incidence(
    curves: Curves, *, title: str, unit: str = "", who: str = ""
) -> Drawing:
    """Cumulative incidence of each event that competes, a panel an event.

    Parameters
    ----------
    curves
        Of `phenokit.evidence.survival.fit_cumulative_incidence`.
    title
        What the figure is about.
    unit, who
        As in `draw_kaplan_meier`.
    """
    unit, who = unit or curves.unit, who or curves.population
    events = list(dict.fromkeys(curve.event for curve in curves.curves))
    n_strata = len(curves.curves) // len(events)
    figure = _axes(events, n_strata)
    top = _ceiling(max(_most(curve) for curve in curves.curves))
    for axis, event in enumerate(events, start=1):
        own = [curve for curve in curves.curves if curve.event == event]
        for k, curve in enumerate(own):
            _draw_curve(figure, curve, k, f"{curve.stratum}: n = {curve.n:,}", axis=axis)
        _number_at_risk(figure, own, curves.at_times, axis=axis, n_panels=len(events))
        figure.update_yaxes(
            range=[-top, 100 * top], ticksuffix=" %", zeroline=False,
            title="cumulative incidence" if axis == 1 else "",
            selector={"anchor": _of("x", axis)},
        )  # fmt: skip
        n_events = sum(curve.n_events for curve in own)
        figure.add_annotation(
            text=f"{escape(event)}: {count(n_events, 'event')}", x=0.01, y=0.99,
            xref=f"{_of('x', axis)} domain", yref=f"{_of('y', axis)} domain",
            xanchor="left", yanchor="top", showarrow=False, font={"size": 13},
        )  # fmt: skip
    head = f"{title}: Aalen–Johansen, time in {unit}"
    notes = ["band: 95 % interval", "tick: last seen without any event"]
    _finish(figure, curves, unit, [head, who], notes, n_panels=len(events))
    ends = "; ".join(
        f"{curve.event}, {_end_words(curve, curves.at_times, unit, 'had it')}"
        for curve in curves.curves
    )
    alt = f"Cumulative incidence of {title} over time in {unit}, {who}: {ends}."
    return Drawing(figure, alt, _table(curves))


# Parts of the curves


def _axes(panels: Sequence[str], n_strata: int) -> "go.Figure":
    """A panel an event side by side, each with a strip below for the number at risk.

    The axes of panel k are x<k> and y<k>, those of its strip x<n + k> and y<n + k>.
    """
    import plotly.graph_objects as go

    n = len(panels)
    strip = ROW * (n_strata + 1)
    height = PLOT + BETWEEN + strip
    width = (1 - 0.06 * (n - 1)) / n
    figure = go.Figure()
    for k in range(1, n + 1):
        left = (k - 1) * (width + 0.06)
        across = {"domain": [left, left + width]}
        hidden = {"showgrid": False, "zeroline": False, "ticks": ""}
        figure.update_layout(
            {
                f"{_of('xaxis', k)}": {**across, "anchor": _of("y", k)},
                f"{_of('yaxis', k)}": {
                    "domain": [(strip + BETWEEN) / height, 1], "anchor": _of("x", k),
                },
                f"xaxis{n + k}": {
                    **across, **hidden, "anchor": f"y{n + k}", "matches": _of("x", k),
                    "showticklabels": False, "showline": False,
                },
                f"yaxis{n + k}": {
                    **hidden, "domain": [0, strip / height], "anchor": f"x{n + k}",
                    "range": [-n_strata + 0.4, 1.5], "fixedrange": True,
                },
            }
        )  # fmt: skip
    return figure


def _of(name: str, axis: int) -> str:
    """What Plotly calls an axis: the first has no number."""
    return name if axis == 1 else f"{name}{axis}"


def _draw_curve(
    figure: "go.Figure", curve: Curve, k: int, words: str, *, axis: int
) -> None:
    """Steps, band and ticks of one stratum."""
    colour, dash = PALETTE[k % len(PALETTE)], DASHES[k % len(DASHES)]
    on = {
        "xaxis": f"x{axis}" if axis > 1 else "x",
        "yaxis": f"y{axis}" if axis > 1 else "y",
    }
    x, y, low, high = _steps(curve)
    is_banded = np.isfinite(low)
    group = {"legendgroup": str(k)}
    figure.add_scatter(
        x=np.concatenate([x[is_banded], x[is_banded][::-1]]),
        y=np.concatenate([high[is_banded], low[is_banded][::-1]]),
        fill="toself", fillcolor=_faint(colour), line={"width": 0}, mode="lines",
        hoverinfo="skip", showlegend=False, **group, **on,
    )  # fmt: skip
    figure.add_scatter(
        x=x, y=y, mode="lines", name=escape(words), showlegend=axis == 1,
        line={"color": colour, "dash": dash, "width": 2.4},
        hovertemplate=f"{escape(curve.stratum)}<br>%{{x:.3g}}: %{{y:.1f}} %<extra></extra>",
        **group, **on,
    )  # fmt: skip
    ticks = _thinned(curve.censored, x[-1])
    at = np.searchsorted(curve.times, ticks, side="right") - 1
    figure.add_scatter(
        x=ticks, y=100 * curve.estimate[at], mode="markers", hoverinfo="skip",
        showlegend=False,
        marker={"symbol": "line-ns-open", "size": 7, "color": colour,
                "line": {"width": 1.2, "color": colour}},
        **group, **on,
    )  # fmt: skip


def _steps(
    curve: Curve,
) -> tuple[
    Float64[np.ndarray, " corner"],
    Float64[np.ndarray, " corner"],
    Float64[np.ndarray, " corner"],
    Float64[np.ndarray, " corner"],
]:
    """The corners of the steps until the last patient was seen, and of their band, in %."""
    last = max(curve.times[-1], curve.censored[-1] if len(curve.censored) else 0.0)
    x = np.repeat(np.append(curve.times, last), 2)[1:-1]
    y, low, high = (
        100 * np.repeat(part, 2) for part in (curve.estimate, curve.low, curve.high)
    )
    return x, y, low, high


def _thinned(
    censored: Float64[np.ndarray, " censoring"], last: float
) -> Float64[np.ndarray, " tick"]:
    """One of the times that fall together on the axis."""
    if len(censored) <= MAX_CENSOR_TICKS or last <= 0:
        return censored
    place = np.floor(censored / last * MAX_CENSOR_TICKS)
    return censored[np.unique(place, return_index=True)[1]]


def _number_at_risk(
    figure: "go.Figure",
    curves: Sequence[Curve],
    at_times: Float64[np.ndarray, " at_time"],
    *,
    axis: int,
    n_panels: int = 1,
) -> None:
    """The numbers below the axis at its ticks, a line a stratum."""
    strip = n_panels + axis
    for k, curve in enumerate(curves):
        figure.add_scatter(
            x=at_times, y=np.full(len(at_times), -k), mode="text",
            text=[f"{n:,}" for n in curve.at_risk], textfont={"size": 12},
            hoverinfo="skip", showlegend=False, cliponaxis=False,
            xaxis=f"x{strip}", yaxis=f"y{strip}",
        )  # fmt: skip
    figure.update_xaxes(
        tickvals=at_times, ticktext=[f"{time:g}" for time in at_times], zeroline=False,
        showgrid=False, selector={"anchor": _of("y", axis)},
    )  # fmt: skip
    names = [
        f"{sign} {escape(_short(curve.stratum.partition(' (')[0], 30))}"
        for sign, curve in zip(_SIGNS, curves, strict=False)
    ]
    figure.update_yaxes(
        tickvals=[1, *(-k for k in range(len(curves)))] if axis == 1 else [],
        ticktext=["<b>number at risk</b>", *names],
        tickfont={"size": 12},
        selector={"anchor": f"x{strip}"},
    )


_SIGNS = ("━━", "╍╍", "┅┅", "━╍", "━━", "━╍")
"""The line of each stratum, in front of its numbers."""


def _finish(
    figure: "go.Figure",
    curves: Curves,
    unit: str,
    lines: Sequence[str],
    notes: Sequence[str],
    *,
    n_panels: int = 1,
) -> None:
    """Heading and further lines, legend, footer, and the axes of time."""
    n_strata = len({curve.stratum for curve in curves.curves})
    last = max(float(_steps(curve)[0][-1]) for curve in curves.curves)
    for k in range(1, n_panels + 1):
        figure.update_xaxes(
            range=[-0.045 * last, 1.03 * last], title=f"time, {escape(unit)}",
            title_standoff=4, selector={"anchor": _of("y", k)},
        )  # fmt: skip
    head, *others = (escape(line) for line in lines if line)
    if curves.n_left_out:
        others.append(f"{curves.n_left_out:,} in no stratum")
    legend = 20 * n_strata + 12
    top = legend + 20 * (1 + len(others)) + 8
    strip = ROW * (n_strata + 1)
    frame_figure(figure, height=PLOT + BETWEEN + strip + top + 34, notes=notes)
    figure.add_annotation(
        text="<br>".join([f"<b>{head}</b>", *others]), x=0, y=1, xref="paper",
        yref="paper", xanchor="left", yanchor="bottom", yshift=legend, align="left",
        showarrow=False, font={"size": 13},
    )  # fmt: skip
    figure.update_layout(
        margin={"t": top, "b": 34},
        legend={
            "orientation": "v", "y": 1.0, "yanchor": "bottom", "x": 0, "xanchor": "left",
            "itemclick": False, "itemdoubleclick": False, "font": {"size": 12},
            "tracegroupgap": 0,
        },
        hovermode="closest",
    )  # fmt: skip


def _median_words(curve: Curve, unit: str) -> str:
    """The median with its interval, or that it is not reached."""
    if not isfinite(curve.median):
        return "median not reached"
    low, high = (
        f"{end:.3g}" if isfinite(end) else "not reached"
        for end in (curve.median_low, curve.median_high)
    )
    return f"median {curve.median:.3g} {unit} ({low}–{high})"


def _test_words(curves: Curves) -> str:
    if curves.log_rank is None:
        return "One stratum: no test" if len(curves.curves) == 1 else "No log-rank test"
    test = curves.log_rank
    p = f"p = {_p(test.p_value)}" if test.p_value > 1e-300 else "p < 1e-300"
    return f"Log-rank test of {len(curves.curves)} strata: {p}"


def _p(p_value: float) -> str:
    return format_p(-log10(p_value))


def _end_words(
    curve: Curve, at_times: Float64[np.ndarray, " at_time"], unit: str, what: str
) -> str:
    """The estimate at the last time under the axis at which somebody is at risk."""
    seen = np.flatnonzero(curve.at_risk > 0)
    time = float(at_times[seen[-1]]) if len(seen) else float(at_times[0])
    share, low, high = curve.at([time]).iloc[0]
    return (
        f"{curve.stratum} (n = {curve.n:,}, {count(curve.n_events, 'event')}): "
        f"{format_risk(share, low, high)} {what} at {time:g} {unit}"
    )


def _table(curves: Curves) -> pd.DataFrame:
    """The curves at the times under the axis, with n, events and median of each."""
    table = curves.table()
    facts = pd.DataFrame(
        {
            "stratum": [curve.stratum for curve in curves.curves],
            "event": [curve.event for curve in curves.curves],
            "n": [curve.n for curve in curves.curves],
            "events": [curve.n_events for curve in curves.curves],
            "median": [curve.median for curve in curves.curves],
            "median_conf_int_1": [curve.median_low for curve in curves.curves],
            "median_conf_int_2": [curve.median_high for curve in curves.curves],
        }
    )
    return table.merge(facts, on=["stratum", "event"]).assign(unit=curves.unit)


def _least(curve: Curve) -> float:
    return float(np.nanmin(np.append(curve.low, curve.estimate)))


def _most(curve: Curve) -> float:
    return float(np.nanmax(np.append(curve.high, curve.estimate)))


def _floor(least: float) -> float:
    """A round start of the axis below all that is drawn; 0 unless that is above half."""
    least = min(least, 1 - MIN_SPAN)
    if least < 0.5:
        return 0.0
    step = 0.1 if least < 0.8 else 0.02
    return round(floor(least / step + 1e-9) * step, 2)


def _ceiling(most: float) -> float:
    most = min(max(most, MIN_SPAN), 1.0)
    step = 0.1 if most > 0.2 else 0.02
    return min(round((floor(most / step - 1e-9) + 1) * step, 2), 1.0)


def _faint(colour: str) -> str:
    red, green, blue = (int(colour[k : k + 2], 16) for k in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.16)"


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


# Hazard ratios


def draw_hazards(fit: CoxFit, *, title: str) -> Drawing:
    """Hazard ratios with their intervals, and whether they stay the same over time.

    Parameters
    ----------
    fit
        Of `phenokit.evidence.cox.fit_cox`.
    title
        The event.
    """
    import plotly.graph_objects as go

    rows = fit.table.assign(n=fit.n, events=fit.n_events)
    ratio, low, high = (
        rows[column].to_numpy(float)
        for column in ("hazard_ratio", "conf_int_1", "conf_int_2")
    )
    lowest, highest = ratio_axis(ratio, low, high)
    is_doubted = (rows["code"] != "OK").to_numpy()
    y = np.arange(len(rows))[::-1]
    at = np.clip(ratio, lowest, highest)
    figure = go.Figure()
    figure.add_scatter(
        x=at, y=y, mode="markers", showlegend=False,
        marker={"symbol": np.where(is_doubted, "diamond-open", "square"), "size": 10,
                "color": BLUE, "line": {"width": 2}},
        error_x={"type": "data", "array": np.clip(high, lowest, highest) - at,
                 "arrayminus": at - np.clip(low, lowest, highest), "color": BLUE,
                 "thickness": 1.6, "width": 4},
        hoverinfo="skip",
    )  # fmt: skip
    for is_beyond, x, symbol in (
        (low < lowest, lowest, "triangle-left"),
        (high > highest, highest, "triangle-right"),
    ):
        if is_beyond.any():
            figure.add_scatter(
                x=np.full(is_beyond.sum(), x), y=y[is_beyond], mode="markers",
                hoverinfo="skip", showlegend=False,
                marker={"symbol": symbol, "size": 11, "color": BLUE},
            )  # fmt: skip
    figure.add_shape(
        type="line", x0=1, x1=1, y0=-0.7, y1=len(rows) - 0.3,
        line={"color": PALETTE[-1], "width": 1.5}, layer="below",
    )  # fmt: skip
    heads = (("hazard ratio (95 %)", 0.56), ("p", 0.76), ("proportional, p", 0.86))
    for words, x in heads:
        write_at(figure, x, len(rows) - 0.05, f"<b>{words}</b>")
    for position, row in zip(y, rows.to_dict("records"), strict=True):
        check = row["proportional_hazards_p"]
        cells = (
            format_odds_ratio(row["hazard_ratio"], row["conf_int_1"], row["conf_int_2"]),
            format_p(row["neg_log_p_value"]),
            ("not tested" if np.isnan(check) else _p(max(check, 1e-300)))
            + " ◇" * (row["code"] != "OK"),
        )
        for (_, x), words in zip(heads, cells, strict=True):
            write_at(figure, x, float(position), words)
    ticks = ratio_ticks(lowest, highest)
    figure.update_xaxes(
        type="log", range=[log10(lowest) - 0.02, log10(highest) + 0.02], domain=[0, 0.54],
        tickvals=ticks, ticktext=[f"{tick:g}" for tick in ticks], tickangle=0,
        title="hazard ratio, log scale", zeroline=False, title_standoff=8,
    )  # fmt: skip
    figure.update_yaxes(
        tickvals=y, ticktext=[escape(_short(name, 40)) for name in rows["covariate"]],
        range=[-0.7, len(rows) + 1.1], showgrid=False, zeroline=False,
    )  # fmt: skip
    who = f"n = {fit.n:,}, {count(fit.n_events, 'event')}"
    if fit.is_robust:
        who += f", {fit.n_patients:,} patients (robust errors)"
    write_at(figure, 0.0, len(rows) + 0.75, f"<b>{escape(title)}: Cox's model</b>, {who}")
    notes = []
    if is_doubted.any():
        notes.append("◇ hazards not proportional: the ratio is an average over time")
    if (low < lowest).any() or (high > highest).any():
        notes.append("an arrow: the interval goes on")
    frame_figure(figure, height=150 + 28 * len(rows), notes=notes)
    doubted = [str(name) for name in rows.loc[is_doubted, "covariate"]]
    first = rows.iloc[0]
    alt = (
        f"Hazard ratios of {title}, {who}. {first['covariate']}: "
        f"{format_odds_ratio(*first[['hazard_ratio', 'conf_int_1', 'conf_int_2']])}. "
        + (
            f"Hazards are not proportional in {', '.join(doubted)}."
            if doubted
            else f"No covariate with p below {NONPROPORTIONAL:g} for proportional hazards."
        )
    )
    return Drawing(figure, alt, rows)


def draw_schoenfeld(fit: CoxFit, covariate: str, *, title: str, unit: str) -> Drawing:
    """The hazard ratio of one covariate over time, by its scaled Schoenfeld residuals.

    A point is an event. The line is a local regression on the rank of time, the time scale
    of the test; if the hazards are proportional it is level, at the dashed line.

    Parameters
    ----------
    fit
        Of `phenokit.evidence.cox.fit_cox`.
    covariate
        Of its table.
    title, unit
        The event, and the unit of time.

    References
    ----------
    Grambsch & Therneau (1994), doi:10.1093/biomet/81.3.515; Cleveland (1979),
    doi:10.1080/01621459.1979.10481038 (without the robust steps).
    """
    import plotly.graph_objects as go

    row = fit.table.loc[fit.table["covariate"] == covariate].iloc[0]
    time = fit.residuals["time"].to_numpy(float)
    residual = fit.residuals[covariate].to_numpy(float)
    at, smooth, low, high = smooth_over_time(time, residual)
    figure = go.Figure()
    figure.add_scatter(
        x=time, y=residual, mode="markers", name="an event", hoverinfo="skip",
        marker={"symbol": "circle-open", "size": 6, "color": PALETTE[-1]},
    )  # fmt: skip
    figure.add_scatter(
        x=np.concatenate([at, at[::-1]]), y=np.concatenate([high, low[::-1]]),
        fill="toself", fillcolor=_faint(BLUE), line={"width": 0}, mode="lines",
        hoverinfo="skip", showlegend=False,
    )  # fmt: skip
    figure.add_scatter(
        x=at, y=smooth, mode="lines", name="smooth, 95 % band",
        line={"color": BLUE, "width": 2.4}, hoverinfo="skip",
    )  # fmt: skip
    effect = float(row["log_hazard_ratio"])
    figure.add_scatter(
        x=[time.min(), time.max()], y=[effect, effect], mode="lines",
        name=f"Cox's model: hazard ratio {row['hazard_ratio']:.2f}",
        line={"color": RED, "width": 2, "dash": "dash"}, hoverinfo="skip",
    )  # fmt: skip
    bottom, top = np.quantile(residual, [0.01, 0.99])
    bottom = min(bottom, low.min(), effect, 0.0)
    top = max(top, high.max(), effect, 0.0)
    room = 0.05 * (top - bottom)
    figure.update_yaxes(
        title="log hazard ratio", range=[bottom - room, top + room], zeroline=True,
        zerolinecolor=PALETTE[-1], zerolinewidth=1,
    )  # fmt: skip
    figure.update_xaxes(title=f"time, {escape(unit)}", title_standoff=6, zeroline=False)
    n_beyond = int(((residual < bottom - room) | (residual > top + room)).sum())
    notes = [f"{count(n_beyond, 'event')} beyond the axis"] if n_beyond else []
    frame_figure(figure, height=380, notes=notes)
    check = float(row["proportional_hazards_p"])
    verdict = "doubted" if row["code"] != "OK" else "not doubted"
    words = f"proportional hazards {verdict}, p = {_p(max(check, 1e-300))}"
    figure.add_annotation(
        text=f"<b>{escape(title)}: {escape(covariate)} over time in {escape(unit)}</b><br>"
        f"{count(fit.n_events, 'event')}, {words}",
        x=0, y=1, xref="paper", yref="paper", xanchor="left", yanchor="bottom", yshift=26,
        align="left", showarrow=False, font={"size": 13},
    )  # fmt: skip
    figure.update_layout(
        margin={"t": 76, "b": 66},
        legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0,
                "itemclick": False, "itemdoubleclick": False},
    )  # fmt: skip
    alt = (
        f"Log hazard ratio of {covariate} for {title} over time in {unit}, "
        f"{count(fit.n_events, 'event')}: the smooth line goes from {smooth[0]:.2f} to "
        f"{smooth[-1]:.2f}, Cox's model says {effect:.2f}; {words}."
    )
    table = pd.DataFrame(
        {"time": at, "log_hazard_ratio": smooth, "conf_int_1": low, "conf_int_2": high}
    )
    return Drawing(figure, alt, table.assign(unit=unit, covariate=covariate))


def smooth_over_time(
    time: Float64[np.ndarray, " event"],
    residual: Float64[np.ndarray, " event"],
    *,
    n_points: int = 40,
) -> tuple[
    Float64[np.ndarray, " point"],
    Float64[np.ndarray, " point"],
    Float64[np.ndarray, " point"],
    Float64[np.ndarray, " point"],
]:
    """A local line through residuals: times, the line, and its pointwise 95 % band.

    Tricube weights over the nearest events by rank of time; the variance of the residuals
    is taken to be the same everywhere.
    """
    order = np.argsort(time, kind="stable")
    time, residual = time[order], residual[order]
    rank = (
        np.searchsorted(time, time)
        + (np.searchsorted(time, time, side="right") - np.searchsorted(time, time) - 1) / 2
    )
    places = np.unique(rank[np.linspace(0, len(rank) - 1, n_points).round().astype(int)])
    width = SMOOTHED * len(rank)
    weights = np.clip(1 - (np.abs(rank[None] - places[:, None]) / width) ** 3, 0, None) ** 3
    offset = rank[None] - places[:, None]
    total = weights.sum(axis=1)
    first, second = (weights * offset).sum(axis=1), (weights * offset**2).sum(axis=1)
    # The line's value at the place is a weighted sum of the residuals.
    spread = total * second - first**2
    smoother = weights * (second[:, None] - first[:, None] * offset) / spread[:, None]
    smooth = smoother @ residual
    left = residual - np.interp(rank, places, smooth)
    error = np.sqrt((smoother**2).sum(axis=1) * left.var())
    at = np.interp(places, rank, time)
    return at, smooth, smooth - 1.959964 * error, smooth + 1.959964 * error
