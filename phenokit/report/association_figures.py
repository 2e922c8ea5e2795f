"""Figures of associations, without the app: what is drawn, what it says, and the same rows.

Every `Drawing` carries a sentence for those who cannot see it and a table with the numbers.
Colours keep a contrast of 3:1 on light and on dark, and are never the only cue: categories
are named, directions are triangles, lines are labelled. Text colours are left to the theme.
Text of unknown origin is escaped, because Plotly reads a part of HTML.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from math import log10
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int8

from phenokit.cohort import CaseStatus
from phenokit.report.associations import (
    KIND_WORDS,
    LEVEL,
    finding_sentence,
    format_auc,
    format_odds_ratio,
    format_p,
    rows_tested,
    top_rows,
)
from phenokit.report.ecg_paper import BANNER
from phenokit.report.explanation import format_signed

if TYPE_CHECKING:
    import plotly.graph_objects as go

PALETTE = ("#2f78c4", "#c8601a", "#0e8a68", "#b0569c", "#857300", "#76808c")
"""Blue, vermilion, green, purple, olive, grey: neighbours differ with any colour vision."""
BLUE, RED, GREEN = "#2f78c4", "#d5443c", "#0e8a68"
ARROW, UP, DOWN = "arrow-up", "triangle-up", "triangle-down"

LOWEST_TOP = 4.4
"""The y axis of a Manhattan plot reaches at least this -log10 p."""
MAX_LABELS = 10
LABEL_OF_THRESHOLD = 0.75
LABEL_OF_BEST = 0.25
MAX_STRETCH = 4.0
"""The y axis is at most this many thresholds high; what lies beyond becomes an arrow."""
MAX_FOREST = 30
SIZE = (1100, 520)
"""Width and height, px, that labels are laid out for."""


@dataclass(frozen=True)
class Drawing:
    """A figure with its words and its numbers.

    Attributes
    ----------
    figure
        A `plotly.graph_objects.Figure`; its points carry the phecode in `customdata`.
    alt
        What it is, n and the main finding, in one or two sentences.
    table
        The same numbers as rows.
    """

    figure: Any
    alt: str
    table: pd.DataFrame


# Manhattan


def draw_manhattan(
    rows: pd.DataFrame,
    *,
    name: str,
    n_tests: int,
    show_fdr: bool = False,
    size_by_odds_ratio: bool = False,
    marked: Sequence[str] = (),
) -> Drawing:
    """All phecodes of one exposure: how surely each is associated, and which way.

    Parameters
    ----------
    rows
        Of one exposure, in the order of the phecode map; see `associations.COLUMNS`.
    name
        What the exposure is called.
    n_tests
        Tests of the whole run; the red line is 0.05 divided by it.
    show_fdr
        Draw the line below which the false discovery rate exceeds 5 %.
    size_by_odds_ratio
        Larger marks for effects further from 1.
    marked
        Phecodes to put a ring around.
    """
    import plotly.graph_objects as go

    shown = rows_tested(rows)
    figure = go.Figure()
    threshold = log10(max(n_tests, 1) / LEVEL)
    y = shown["neg_log_p_value"].to_numpy(float)
    top = _axis_top(y, threshold)
    x, spans = _positions(shown["phecode_category"].tolist())
    is_beyond = y > top
    drawn = np.where(is_beyond, 0.975 * top, y)
    up = shown["beta"].to_numpy(float) >= 0
    colour = np.array(
        [_colour_of(spans, category) for category in shown["phecode_category"]]
    )
    size = np.full(len(shown), 9.0)
    if size_by_odds_ratio and len(shown):
        effect = np.abs(np.log(shown["odds_ratio"].to_numpy(float)))
        size = 6 + 12 * np.clip(np.nan_to_num(effect) / np.log(4), 0, 1)
    hover = [_hover(row) for row in shown.to_dict("records")]
    for is_up, symbol in ((True, UP), (False, DOWN)):
        here = np.flatnonzero(up == is_up)
        figure.add_scatter(
            x=x[here],
            y=drawn[here],
            mode="markers",
            showlegend=False,
            marker={
                "symbol": [ARROW if is_beyond[i] else symbol for i in here],
                "size": [12 if is_beyond[i] else size[i] for i in here],
                "color": colour[here],
                "line": {"width": 0},
                "opacity": 1,
            },
            unselected={"marker": {"opacity": 0.45}},
            customdata=shown["phecode"].to_numpy()[here],
            hovertext=[hover[i] for i in here],
            hoverinfo="text",
        )
    for symbol, words in (
        (UP, "more frequent with a higher exposure (odds ratio above 1)"),
        (DOWN, "less frequent (odds ratio below 1)"),
    ):
        figure.add_scatter(
            x=[None], y=[None], mode="markers", name=words, hoverinfo="skip",
            marker={"symbol": symbol, "size": 9, "color": PALETTE[-1]},
        )  # fmt: skip
    _ring(figure, shown["phecode"].isin(list(marked)).to_numpy(), x, drawn)
    # A margin at the right, where the lines have their names.
    right = 1.05 * spans[-1][2] if spans else 1.0
    _level_line(figure, -log10(LEVEL), "p = 0.05", BLUE, "dot", right)
    words = f"p = 0.05 / {n_tests:,} tests = {format_p(threshold)}"
    _level_line(figure, threshold, words, RED, "dash", right)
    levels = [-log10(LEVEL), threshold]
    if show_fdr:
        levels += _fdr_line(figure, shown, top, right)
    for label in _labels(shown, x, drawn, top=top, right=right, levels=levels):
        figure.add_annotation(**label)
    for k, (_, begin, end) in enumerate(spans):
        figure.add_shape(
            type="line", x0=begin, x1=end, y0=-0.03 * top, y1=-0.03 * top,
            line={"color": PALETTE[k % len(PALETTE)], "width": 5},
        )  # fmt: skip
    figure.update_xaxes(
        tickvals=[(begin + end) / 2 for _, begin, end in spans],
        ticktext=[escape(_short(category, 24)) for category, _, _ in spans],
        tickangle=-35,
        range=[-0.5, right + 0.5],
        showgrid=False,
        zeroline=False,
        title="",
    )
    figure.update_yaxes(range=[-0.045 * top, top], title="−log₁₀ p", zeroline=False)
    frame_figure(figure, height=SIZE[1])
    figure.update_layout(
        margin={"l": 84, "r": 10, "t": 40, "b": 40},
        legend={
            "orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0,
            "itemclick": False, "itemdoubleclick": False,
        },
        hovermode="closest",
    )  # fmt: skip
    return Drawing(figure, _manhattan_alt(rows, name, n_tests), rows)


def _axis_top(y: Float[np.ndarray, " row"], threshold: float) -> float:
    best = float(np.nanmax(y)) if len(y) else 0.0
    return max(LOWEST_TOP, 1.05 * threshold, min(1.08 * best, MAX_STRETCH * threshold))


def _positions(
    categories: Sequence[str],
) -> tuple[Float[np.ndarray, " row"], list[tuple[str, float, float]]]:
    """Where each row stands, and where each category begins and ends.

    Rows keep their order. A category takes as much room as it has rows, but never so little
    that its name would run into its neighbour's.
    """
    names = list(dict.fromkeys(categories))
    counts = {name: categories.count(name) for name in names}
    least = max(1.0, 0.028 * len(categories))
    x = np.empty(len(categories))
    spans: list[tuple[str, float, float]] = []
    begin = 0.0
    for name in names:
        width = max(counts[name], least)
        own = [i for i, category in enumerate(categories) if category == name]
        x[own] = begin + (np.arange(len(own)) + 0.5) * width / len(own)
        spans.append((name, begin, begin + width))
        begin += width + 0.3 * least
    return x, spans


def _colour_of(spans: Sequence[tuple[str, float, float]], category: str) -> str:
    position = [name for name, _, _ in spans].index(category)
    return PALETTE[position % len(PALETTE)]


def _level_line(
    figure: "go.Figure", y: float, words: str, colour: str, dash: str, right: float
) -> None:
    figure.add_shape(
        type="line", x0=-0.5, x1=right + 0.5, y0=y, y1=y,
        line={"color": colour, "width": 1.5, "dash": dash}, layer="below",
    )  # fmt: skip
    figure.add_annotation(
        x=right + 0.5, y=y, text=words, showarrow=False, xanchor="right", yanchor="bottom",
        font={"size": 12},
    )  # fmt: skip


def _fdr_line(
    figure: "go.Figure", shown: pd.DataFrame, top: float, right: float
) -> list[float]:
    """Draw the line, or say that nothing reaches it; where it is drawn."""
    found = shown.loc[shown["q_bh"] <= LEVEL, "neg_log_p_value"]
    if len(found):
        level = min(float(found.min()), top)
        _level_line(figure, level, "false discovery rate 5 %", GREEN, "dashdot", right)
        figure.update_annotations({"x": -0.5, "xanchor": "left"}, selector=-1)
        return [level]
    figure.add_annotation(
        x=-0.5, y=top, text="no association at a false discovery rate of 5 %",
        showarrow=False, xanchor="left", yanchor="top", font={"size": 12},
    )  # fmt: skip
    return []


def _ring(
    figure: "go.Figure",
    is_marked: np.ndarray,
    x: Float[np.ndarray, " row"],
    y: Float[np.ndarray, " row"],
) -> None:
    if is_marked.any():
        figure.add_scatter(
            x=x[is_marked], y=y[is_marked], mode="markers", name="selected",
            hoverinfo="skip",
            marker={"symbol": "circle-open", "size": 20, "color": RED,
                    "line": {"width": 2}},
        )  # fmt: skip


def _labels(
    shown: pd.DataFrame,
    x: Float[np.ndarray, " row"],
    y: Float[np.ndarray, " row"],
    *,
    top: float,
    right: float,
    levels: Sequence[float],
) -> list[dict[str, Any]]:
    """Names of the strongest rows, moved apart; those that find no room are left out."""
    exact = shown["neg_log_p_value"].to_numpy(float)
    if not len(exact):
        return []
    least = max(LABEL_OF_THRESHOLD * levels[1], LABEL_OF_BEST * np.nanmax(exact))
    order = [i for i in np.argsort(-exact, kind="stable") if exact[i] >= least]
    width, height = SIZE[0] - 90.0, SIZE[1] - 190.0
    # What no name may cover: the lines, their own names, and the marks.
    boxes = []
    for level in levels:
        line = (1 - level / top) * height
        boxes += [(0.0, line - 1, width, line + 1), (width - 260, line - 18, width, line)]
    at_x, at_y = (x + 0.5) / (right + 1.0) * width, (1 - y / top) * height
    near = y > 0.3 * top
    marks = np.column_stack([at_x - 5, at_y - 5, at_x + 5, at_y + 5])[near]
    taken = np.vstack([np.array(boxes), marks])
    placed = []
    for i in order[:MAX_LABELS]:
        row = shown.iloc[i]
        text = _short(str(row["phecode_string"]), 34)
        if exact[i] > top:
            text += f" ({exact[i]:.0f})"
        length = 6.4 * len(text) + 6
        for dx, dy, anchor in _PLACES:
            left = (
                at_x[i] + dx - {"left": 0.0, "center": 0.5, "right": 1.0}[anchor] * length
            )
            box = np.array([left, at_y[i] + dy - 8, left + length, at_y[i] + dy + 8])
            is_inside = box[0] >= 0 and box[2] <= width and box[1] >= 0 and box[3] <= height
            if is_inside and not _overlaps(box, taken).any():
                break
        else:
            continue
        taken = np.vstack([taken, box])
        placed.append(
            {
                "x": x[i], "y": y[i], "ax": dx, "ay": dy, "text": escape(text),
                "xanchor": anchor, "yanchor": "middle", "font": {"size": 12},
                "showarrow": True, "arrowhead": 0, "arrowwidth": 1, "standoff": 6,
                "arrowcolor": PALETTE[-1], "captureevents": False,
            }
        )  # fmt: skip
    return placed


_PLACES: tuple[tuple[float, float, str], ...] = tuple(
    (sign * dx, dy, anchor)
    for dy in (0, -14, 14, -28, 28, -44, 44, -60, 60)
    for sign, anchor in ((1, "left"), (-1, "right"))
    for dx in (12,)
)


def _overlaps(
    box: Float[np.ndarray, " edge"], others: Float[np.ndarray, "other edge"]
) -> Bool[np.ndarray, " other"]:
    """Which boxes (left, top, right, bottom) share an area with this one."""
    low, high = others[:, :2], others[:, 2:]
    shared = np.logical_and(box[:2] < high, low < box[2:])
    return np.all(shared, axis=1, keepdims=False)


def _hover(row: Mapping[Any, Any]) -> str:
    lines = [
        f"<b>{escape(str(row['phecode']))} {escape(str(row['phecode_string']))}</b>",
        escape(str(row["phecode_category"])),
        "odds ratio "
        + format_odds_ratio(row["odds_ratio"], row["conf_int_1"], row["conf_int_2"]),
        f"p = {format_p(row['neg_log_p_value'])} ({row['method']})",
        f"{int(row['cases']):,} cases, {int(row['controls']):,} controls, "
        f"{int(row['n_excluded']):,} excluded",
        "AUC " + format_auc(row["auc"], row["auc_conf_int_1"], row["auc_conf_int_2"]),
    ]
    if row["code"] != "OK":
        lines.append(escape(str(row["code"])))
    return "<br>".join(lines)


def _manhattan_alt(rows: pd.DataFrame, name: str, n_tests: int) -> str:
    shown = rows_tested(rows)
    if not len(shown):
        return f"Manhattan plot of {name}: none of {len(rows):,} phecodes could be tested."
    n = int((shown["p_bonferroni"] <= LEVEL).sum())
    best = finding_sentence(top_rows(rows, 1).to_dict("records")[0])
    return (
        f"Manhattan plot of {name}: {len(shown):,} phecodes tested, {n:,} beyond "
        f"0.05 / {n_tests:,} tests. Strongest: {best}"
    )


# Forest


def draw_forest(rows: pd.DataFrame, *, name: str) -> Drawing:
    """Odds ratios with their intervals, the first `MAX_FOREST` of `rows` from the top down.

    A row of Firth's penalised likelihood has a diamond and says so; an interval that goes
    on beyond the axis ends in an arrow.
    """
    import plotly.graph_objects as go

    shown = rows_tested(rows).head(MAX_FOREST)
    figure = go.Figure()
    if not len(shown):
        return Drawing(
            figure, f"Forest plot of {name}: no tested phecode is chosen.", shown
        )
    odds, low, high = (
        shown[column].to_numpy(float)
        for column in ("odds_ratio", "conf_int_1", "conf_int_2")
    )
    lowest, highest = ratio_axis(odds, low, high)
    y = np.arange(len(shown))[::-1]
    is_firth = (shown["method"] == "firth").to_numpy()
    from_, to = np.clip(low, lowest, highest), np.clip(high, lowest, highest)
    at = np.clip(odds, lowest, highest)
    figure.add_scatter(
        x=at, y=y, mode="markers", showlegend=False,
        marker={"symbol": np.where(is_firth, "diamond", "square"), "size": 9,
                "color": BLUE},
        error_x={"type": "data", "array": np.nan_to_num(to - at),
                 "arrayminus": np.nan_to_num(at - from_), "color": BLUE, "thickness": 1.6,
                 "width": 4},
        customdata=shown["phecode"].to_numpy(),
        hovertext=[_hover(row) for row in shown.to_dict("records")], hoverinfo="text",
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
        type="line", x0=1, x1=1, y0=-0.7, y1=len(shown) - 0.3,
        line={"color": PALETTE[-1], "width": 1.5}, layer="below",
    )  # fmt: skip
    heads = (("odds ratio (95 %)", 0.56), ("cases / controls", 0.81))
    for words, x in heads:
        write_at(figure, x, len(shown) - 0.05, f"<b>{words}</b>")
    for position, row in zip(y, shown.to_dict("records"), strict=True):
        words = format_odds_ratio(row["odds_ratio"], row["conf_int_1"], row["conf_int_2"])
        mark = " ◆" if row["method"] == "firth" else ""
        write_at(figure, heads[0][1], float(position), words + mark)
        counts = f"{int(row['cases']):,} / {int(row['controls']):,}"
        write_at(figure, heads[1][1], float(position), counts)
    figure.update_xaxes(
        type="log", range=[log10(lowest) - 0.02, log10(highest) + 0.02], domain=[0, 0.54],
        tickvals=ratio_ticks(lowest, highest),
        ticktext=[f"{tick:g}" for tick in ratio_ticks(lowest, highest)],
        tickangle=0,
        title=f"odds ratio {_per(shown)}, log scale", zeroline=False, title_standoff=8,
    )  # fmt: skip
    figure.update_yaxes(
        tickvals=y,
        ticktext=_phecode_labels(shown),
        range=[-0.7, len(shown) + 0.4],
        showgrid=False,
        zeroline=False,
    )
    notes = ["◆ Firth's penalised likelihood"] if is_firth.any() else []
    if (low < lowest).any() or (high > highest).any():
        notes.append("an arrow: the interval goes on")
    frame_figure(figure, height=120 + 26 * len(shown), notes=notes)
    alt = (
        f"Forest plot of {name}: {len(shown)} phecodes. "
        f"First: {finding_sentence(shown.to_dict('records')[0])}"
    )
    return Drawing(figure, alt, shown)


_TICKS = (
    (0.9, 0.95, 1.0, 1.05, 1.1),
    (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 1.75, 2.0),
    (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0),
    (0.01, 0.1, 1.0, 10.0, 100.0),
)
"""Ticks for a narrow, a usual, a wide and a very wide axis of odds ratios."""


def ratio_ticks(lowest: float, highest: float) -> list[float]:
    """Ticks of a log axis of ratios."""
    width = log10(highest / lowest)
    ticks = _TICKS[int(np.searchsorted([0.09, 0.5, 1.8], width))]
    return [tick for tick in ticks if lowest <= tick <= highest]


def ratio_axis(
    odds: Float[np.ndarray, " row"],
    low: Float[np.ndarray, " row"],
    high: Float[np.ndarray, " row"],
) -> tuple[float, float]:
    """Limits that show every estimate and most intervals; always with 1 between them."""
    furthest = float(np.nanmax(np.abs(np.log(odds)), initial=0.0))
    widest = np.log(np.concatenate([1 / low, high]))
    room = float(np.nanmax(widest[np.isfinite(widest)], initial=0.0))
    limit = min(room, max(2.2 * furthest, np.log(4)), np.log(100)) * 1.05
    limit = max(limit, furthest * 1.05, np.log(1.25))
    least = min(float(np.nanmin(np.concatenate([low, odds]))), 1.0)
    most = max(float(np.nanmax(np.concatenate([high, odds]))), 1.0)
    lowest = max(np.exp(-limit), 0.93 * least)
    highest = min(np.exp(limit), 1.07 * most)
    return min(lowest, 0.9), max(highest, 1.11)


def _per(rows: pd.DataFrame) -> str:
    is_feature = (rows["exposure_kind"] == "feature").any()
    return "per SD (0/1 columns: per unit)" if is_feature else "per SD"


def write_at(figure: "go.Figure", x: float, y: float, text: str) -> None:
    """Write beside the axes: `x` as a share of the figure's width, `y` as on its axis."""
    figure.add_annotation(
        x=x, xref="paper", y=y, text=text, showarrow=False, xanchor="left",
        yanchor="middle", font={"size": 12},
    )  # fmt: skip


# Exposure by group


def draw_groups(
    values: Float[np.ndarray, " patient"],
    status: Int8[np.ndarray, " patient"],
    *,
    name: str,
    phecode: str,
    unit: str,
) -> Drawing:
    """How an exposure is distributed among cases, controls and excluded.

    Parameters
    ----------
    values
        The exposure of every patient; NaN where it is missing.
    status
        `CaseStatus` of every patient.
    phecode
        Code and name, for the words.
    unit
        Of the exposure, for the axis.
    """
    import plotly.graph_objects as go

    rows = []
    for group in (CaseStatus.CASE, CaseStatus.CONTROL, CaseStatus.EXCLUDED):
        of_group = values[status == group]
        known = of_group[np.isfinite(of_group)]
        cuts = (
            np.quantile(known, [0.05, 0.25, 0.5, 0.75, 0.95])
            if len(known)
            else [np.nan] * 5
        )
        rows.append((group.name.lower(), len(known), len(of_group) - len(known), *cuts))
    names = ["group", "n", "n_missing", "q05", "q25", "median", "q75", "q95"]
    table = pd.DataFrame(rows, columns=pd.Index(names))
    figure = go.Figure()
    words = {"case": "Cases", "control": "Controls", "excluded": "Excluded"}
    drawn = [row for row in table.to_dict("records") if row["n"]]
    for row in drawn:
        colour = {"case": RED, "control": BLUE, "excluded": PALETTE[-1]}[row["group"]]
        figure.add_box(
            y=[f"{words[row['group']]}<br>n = {row['n']:,}"], q1=[row["q25"]],
            median=[row["median"]], q3=[row["q75"]], lowerfence=[row["q05"]],
            upperfence=[row["q95"]], orientation="h", showlegend=False, width=0.55,
            line={"color": colour},
        )  # fmt: skip
    figure.update_xaxes(title=escape(unit), zeroline=False, title_standoff=8)
    figure.update_yaxes(autorange="reversed")
    frame_figure(
        figure,
        height=290,
        notes=["box: middle half and median; whiskers: 5th to 95th percentile"],
    )
    by = table.set_index("group")
    alt = (
        f"{name} by status of {phecode}: median {_value(by, 'case')} in "
        f"{by.loc['case', 'n']:,} cases, {_value(by, 'control')} in "
        f"{by.loc['control', 'n']:,} controls, {_value(by, 'excluded')} in "
        f"{by.loc['excluded', 'n']:,} excluded."
    )
    return Drawing(figure, alt, table)


def _value(table: pd.DataFrame, group: str) -> str:
    value = float(table.loc[group, "median"])  # pyright: ignore[reportArgumentType]
    return _number(value)


# Prototypes against classes


def draw_comparison(
    rows: pd.DataFrame,
    *,
    first: str,
    second: str,
    names: tuple[str, str],
    title: str,
) -> Drawing:
    """Two AUCs a phecode with their intervals, the larger difference on top.

    Parameters
    ----------
    rows
        `phecode`, `phecode_string`, `cases`, `controls`, `difference`, `q_bh`, and
        ``<first>_auc``, ``<second>_auc`` with their ``_conf_int_1`` and ``_conf_int_2``.
    first, second
        Beginnings of the names of these columns.
    names
        What the two are called.
    title
        What is compared, for the words.
    """
    import plotly.graph_objects as go

    shown = rows.dropna(subset=["difference"])
    shown = shown.iloc[np.argsort(-shown["difference"].abs(), kind="stable")]
    shown = shown.head(MAX_FOREST).sort_values("difference", ascending=False)
    figure = go.Figure()
    y = np.arange(len(shown))[::-1].astype(float)
    for k, (key, name) in enumerate(zip((first, second), names, strict=True)):
        auc = shown[f"{key}_auc"].to_numpy(float)
        low = shown[f"{key}_auc_conf_int_1"].to_numpy(float)
        high = shown[f"{key}_auc_conf_int_2"].to_numpy(float)
        colour, symbol = ((BLUE, "circle"), (PALETTE[1], "square-open"))[k]
        figure.add_scatter(
            x=auc, y=y + (0.16, -0.16)[k], mode="markers", name=name,
            marker={"symbol": symbol, "size": 9, "color": colour, "line": {"width": 2}},
            error_x={"type": "data", "array": np.nan_to_num(high - auc),
                     "arrayminus": np.nan_to_num(auc - low), "color": colour,
                     "thickness": 1.3, "width": 3},
            customdata=shown["phecode"].to_numpy(),
            hovertext=[f"{escape(name)}: AUC {format_auc(*values)}"
                       for values in zip(auc, low, high, strict=True)],
            hoverinfo="text",
        )  # fmt: skip
    figure.add_shape(
        type="line", x0=0.5, x1=0.5, y0=-0.7, y1=len(shown) - 0.3,
        line={"color": PALETTE[-1], "width": 1.5, "dash": "dot"}, layer="below",
    )  # fmt: skip
    write_at(figure, 0.7, len(shown) - 0.05, "<b>difference</b>")
    write_at(figure, 0.85, len(shown) - 0.05, "<b>cases / controls</b>")
    for at, row in zip(y, shown.to_dict("records"), strict=True):
        mark = " ●" if row["q_bh"] <= LEVEL else ""
        write_at(figure, 0.7, float(at), format_signed(row["difference"]) + mark)
        counts = f"{int(row['cases']):,} / {int(row['controls']):,}"
        write_at(figure, 0.85, float(at), counts)
    figure.update_xaxes(
        title="AUC, 95 % interval", domain=[0, 0.68], zeroline=False, title_standoff=8
    )
    figure.update_yaxes(
        tickvals=y, ticktext=_phecode_labels(shown), range=[-0.7, len(shown) + 0.4],
        showgrid=False, zeroline=False,
    )  # fmt: skip
    frame_figure(
        figure,
        height=150 + 30 * len(shown),
        notes=["● false discovery rate below 5 % for the difference"],
    )
    figure.update_layout(
        margin={"t": 40},
        legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0},
    )
    clear = rows["q_bh"] <= LEVEL
    alt = (
        f"{title}: {len(rows):,} phecodes, {names[0]} against {names[1]}. "
        f"{names[0]} clearly better in {int((clear & (rows['difference'] > 0)).sum()):,}, "
        f"worse in {int((clear & (rows['difference'] < 0)).sum()):,}."
    )
    return Drawing(figure, alt, rows)


def draw_distances(rows: pd.DataFrame) -> Drawing:
    """How far apart the prototypes of each class are, mixed classes beside uniform ones.

    Parameters
    ----------
    rows
        A row a class: `label`, `n_prototypes`, `distance`, `n_phecodes`, `n_mixed`,
        `is_mixed`; see `evidence.comparisons.IntraClassDistance`.
    """
    import plotly.graph_objects as go

    shown = rows.dropna(subset=["distance"])
    figure = go.Figure()
    medians = {}
    for is_mixed, name, colour, symbol in (
        (True, "mixed", PALETTE[1], "circle"),
        (False, "uniform", BLUE, "square-open"),
    ):
        group = shown.loc[shown["is_mixed"].astype(bool) == is_mixed]
        group = group.sort_values(by="distance")
        medians[name] = (len(group), group["distance"].median() if len(group) else np.nan)
        label = f"{name}<br>{len(group)} classes"
        figure.add_box(
            x=group["distance"], y=[label] * len(group), orientation="h", name=name,
            boxpoints="all", jitter=0.6, pointpos=0, fillcolor="rgba(0,0,0,0)",
            line={"color": colour}, marker={"symbol": symbol, "size": 8, "color": colour},
            text=[
                f"{escape(str(row['label']))}: {int(row['n_prototypes'])} prototypes, "
                f"mixed in {int(row['n_mixed'])} of {int(row['n_phecodes'])} phecodes"
                for row in group.to_dict("records")
            ],
            hoverinfo="text+x", showlegend=False,
        )  # fmt: skip
    figure.update_xaxes(
        title="mean cosine distance between the prototypes of a class",
        zeroline=False, title_standoff=8,
    )  # fmt: skip
    figure.update_yaxes(autorange="reversed")
    frame_figure(
        figure, height=330, notes=["a point is a class; box: middle half and median"]
    )
    words = ", ".join(
        f"{n} {name} classes with a median of {_number(median)}"
        for name, (n, median) in medians.items()
    )
    return Drawing(figure, f"Distance between the prototypes of a class: {words}.", rows)


def draw_specificity(rows: pd.DataFrame) -> Drawing:
    """In how many phecode categories the exposures of each kind are significant.

    Parameters
    ----------
    rows
        A row an exposure: `exposure_kind`, `n_categories`.
    """
    import plotly.graph_objects as go

    figure = go.Figure()
    counts = (
        rows.groupby("exposure_kind")["n_categories"].value_counts().unstack(fill_value=0)
    )
    kinds = [kind for kind in KIND_WORDS if kind in counts.index]
    for k, kind in enumerate(kinds):
        row = counts.loc[kind]
        total = int(row.sum())
        figure.add_bar(
            x=[int(n) for n in counts.columns], y=100 * row.to_numpy() / total,
            name=f"{KIND_WORDS[kind]} (n = {total:,})",
            marker={"color": PALETTE[k], "pattern": {"shape": ("", "/", ".", "x")[k]}},
            hovertext=[f"{n:,} of {total:,}" for n in row], hoverinfo="text",
        )  # fmt: skip
    figure.update_xaxes(
        title="phecode categories in which an exposure is significant", dtick=1,
        title_standoff=8,
    )  # fmt: skip
    figure.update_yaxes(title="share of the exposures, %")
    frame_figure(figure, height=360)
    figure.update_layout(
        margin={"t": 40},
        barmode="group",
        legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0},
    )
    some = rows["n_categories"].gt(0).groupby(rows["exposure_kind"]).mean()
    parts = [
        f"{KIND_WORDS[kind]}: {100 * some[kind]:.0f} % significant in at least one category"
        for kind in kinds
    ]
    return Drawing(figure, f"Specificity by kind of exposure. {'; '.join(parts)}.", rows)


# Parts


def _phecode_labels(rows: pd.DataFrame) -> list[str]:
    return [
        escape(_short(f"{row['phecode']} {row['phecode_string']}", 36))
        for row in rows.to_dict("records")
    ]


def _number(value: float) -> str:
    return "unknown" if np.isnan(value) else f"{value:.2f}"


def frame_figure(figure: "go.Figure", *, height: int, notes: Sequence[str] = ()) -> None:
    """Size, margins and the footer that every figure has."""
    footer = " · ".join([BANNER, *notes])
    figure.update_layout(
        height=height,
        margin={"l": 10, "r": 10, "t": 10, "b": 76},
        dragmode="zoom",
        title={
            "text": footer, "x": 0, "xanchor": "left", "y": 0, "yanchor": "bottom",
            "yref": "container", "font": {"size": 12}, "pad": {"b": 6, "l": 4},
            "automargin": False,
        },
    )  # fmt: skip


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"
