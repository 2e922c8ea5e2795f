import time
from html import unescape
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

from phenokit.report.association_figures import (
    BLUE,
    GREEN,
    MAX_FOREST,
    PALETTE,
    RED,
    draw_comparison,
    draw_distances,
    draw_forest,
    draw_groups,
    draw_manhattan,
    draw_specificity,
)
from phenokit.report.associations import rows_tested, top_rows
from phenokit.report.ecg_paper import BANNER


def texts(figure) -> list[str]:
    return [annotation.text for annotation in figure.layout.annotations]


def lines(figure) -> dict[str, float]:
    return {s.line.color: s.y0 for s in figure.layout.shapes if s.y0 == s.y1 and s.y0 > 0}


def manhattan(rows, **options):
    return draw_manhattan(rows, name="Prototype 3", n_tests=5000, **options)


def test_every_tested_phecode_is_one_point_that_knows_its_code(association_rows):
    rows = association_rows(200)
    up, down, *_ = manhattan(rows).figure.data
    shown = rows_tested(rows)
    assert sorted([*up.customdata, *down.customdata]) == sorted(shown["phecode"])
    assert set(up.marker.symbol) == {"triangle-up"}
    assert set(down.marker.symbol) == {"triangle-down"}
    assert set(down.customdata) == set(shown.loc[shown["beta"] < 0, "phecode"])


def test_the_lines_stand_where_their_labels_say(association_rows):
    figure = manhattan(association_rows(200)).figure
    assert lines(figure)[BLUE] == pytest.approx(-np.log10(0.05))
    assert lines(figure)[RED] == pytest.approx(5.0)
    assert "p = 0.05 / 5,000 tests = 1.0e-5" in texts(figure)
    assert "p = 0.05" in texts(figure)


def test_the_axis_reaches_the_threshold_and_the_floor(association_rows):
    rows = association_rows(40)
    rows["neg_log_p_value"] = 0.1
    assert manhattan(rows).figure.layout.yaxis.range[1] == pytest.approx(1.05 * 5.0)
    top = draw_manhattan(rows, name="", n_tests=1).figure.layout.yaxis.range[1]
    assert top == pytest.approx(4.4)


def test_a_point_beyond_the_axis_is_an_arrow_with_its_value(association_rows):
    rows = association_rows(40)
    rows.loc[rows["phecode"] == "427.21", "neg_log_p_value"] = 312.4
    figure = manhattan(rows).figure
    top = figure.layout.yaxis.range[1]
    up = figure.data[0]
    at = list(up.customdata).index("427.21")
    assert up.marker.symbol[at] == "arrow-up"
    assert up.y[at] < top < 312
    assert "Atrial fibrillation (312)" in texts(figure)


def test_names_stand_at_the_strongest_that_come_near_the_threshold(association_rows):
    figure = manhattan(association_rows(200)).figure
    named = {text for text in texts(figure) if not text.startswith("p = ")}
    assert named == {"Atrial fibrillation", "Hypertension"}


def test_at_most_ten_names_and_none_over_another(association_rows):
    rows = association_rows(200)
    rows["neg_log_p_value"] = np.linspace(6, 9, len(rows))
    figure = manhattan(rows).figure
    named = [a for a in figure.layout.annotations if not a.text.startswith("p = ")]
    assert 1 <= len(named) <= 10


def test_the_false_discovery_line_is_the_weakest_that_still_holds(association_rows):
    rows = association_rows(200)
    figure = manhattan(rows, show_fdr=True).figure
    weakest = rows.loc[rows["q_bh"] <= 0.05, "neg_log_p_value"].min()
    assert lines(figure)[GREEN] == pytest.approx(weakest)
    rows["q_bh"] = 1.0
    assert any(
        "no association" in text for text in texts(manhattan(rows, show_fdr=True).figure)
    )


def test_categories_are_named_in_their_order_and_neighbours_differ(association_rows):
    rows = association_rows(200)
    axis = manhattan(rows).figure.layout.xaxis
    assert [unescape(name) for name in axis.ticktext] == list(
        dict.fromkeys(rows["phecode_category"])
    )
    assert list(axis.tickvals) == sorted(axis.tickvals)
    bars = [s.line.color for s in manhattan(rows).figure.layout.shapes if s.y0 < 0]
    assert all(a != b for a, b in pairwise(bars))


def test_hostile_names_are_text_and_no_markup(association_rows):
    rows = association_rows(60)
    rows["phecode_string"] = '<a href="https://x.example">x</a>'
    rows["phecode_category"] = "<b>c</b>"
    for drawing in (manhattan(rows), draw_forest(top_rows(rows, 5), name="<i>")):
        assert "<a " not in drawing.figure.to_json()
        assert "<b>c" not in drawing.figure.to_json()


def test_a_ring_marks_what_was_selected(association_rows):
    ring = manhattan(association_rows(60), marked=["401"]).figure.data[-1]
    assert (ring.marker.symbol, len(ring.x)) == ("circle-open", 1)


def test_nothing_tested_is_said_and_not_drawn(association_rows):
    rows = association_rows(60).assign(status="not_tested", code="N_FEW_CASES")
    assert "none of 60 phecodes could be tested" in manhattan(rows).alt
    assert "no tested phecode" in draw_forest(rows, name="Prototype 3").alt


def test_the_sentence_for_those_who_cannot_see_has_n_and_the_main_finding(association_rows):
    alt = manhattan(association_rows(60)).alt
    for words in (
        "54 phecodes tested",
        "2 beyond",
        "427.21 Atrial fibrillation",
        "1.2e-15",
    ):
        assert words in alt


def test_eighteen_hundred_phecodes_are_drawn_within_a_second(association_rows):
    rows = association_rows(1800)
    manhattan(rows)  # plotly is imported once
    start = time.perf_counter()
    manhattan(rows, size_by_odds_ratio=True)
    assert time.perf_counter() - start < 1


def test_a_forest_has_each_estimate_within_its_interval_and_the_line_at_one(
    association_rows,
):
    rows = top_rows(association_rows(60), 30)
    figure = draw_forest(rows, name="Prototype 3").figure
    points = figure.data[0]
    assert len(points.x) == MAX_FOREST
    assert np.allclose(points.x, rows["odds_ratio"])
    assert np.allclose(points.x - points.error_x.arrayminus, rows["conf_int_1"])
    assert figure.layout.xaxis.type == "log"
    assert [s.x0 for s in figure.layout.shapes] == [1]
    assert f"{rows.loc[0, 'cases']:,} / {rows.loc[0, 'controls']:,}" in texts(figure)


def test_an_interval_beyond_the_axis_ends_in_an_arrow(association_rows):
    rows = top_rows(association_rows(60), 5)
    rows.loc[2, ["conf_int_1", "conf_int_2"]] = [0.004, 900.0]
    figure = draw_forest(rows, name="Prototype 3").figure
    symbols = [trace.marker.symbol for trace in figure.data[1:]]
    assert symbols == ["triangle-left", "triangle-right"]
    low, high = 10 ** np.array(figure.layout.xaxis.range)
    assert low <= figure.data[1].x[0] < 1 < figure.data[2].x[0] <= high
    assert "an arrow: the interval goes on" in figure.layout.title.text


def test_rows_of_firth_are_marked_and_explained(association_rows):
    rows = top_rows(association_rows(60), 4).assign(method=["firth", *["score"] * 3])
    figure = draw_forest(rows, name="Prototype 3").figure
    assert list(figure.data[0].marker.symbol) == ["diamond", *["square"] * 3]
    assert "Firth" in figure.layout.title.text


def test_groups_have_their_quantiles_and_counts():
    values = np.concatenate([np.arange(101.0), np.arange(1000.0, 1101.0), [np.nan, 7.0]])
    status = np.repeat(np.array([1, 0, 2], dtype=np.int8), [101, 101, 2])
    drawing = draw_groups(values, status, name="Age", phecode="401", unit="years")
    table = drawing.table.set_index("group")
    assert table.loc["case", ["q05", "median", "q95"]].tolist() == [5.0, 50.0, 95.0]
    assert table.loc["control", "median"] == 1050.0
    assert table.loc["excluded", ["n", "n_missing"]].tolist() == [1, 1]
    assert [box.median[0] for box in drawing.figure.data] == [50.0, 1050.0, 7.0]


def test_every_figure_carries_the_banner(association_rows):
    rows = association_rows(60)
    values, status = np.arange(3.0), np.array([0, 1, 2], dtype=np.int8)
    for drawing in (
        manhattan(rows),
        draw_forest(top_rows(rows, 5), name=""),
        draw_groups(values, status, name="", phecode="", unit=""),
    ):
        assert drawing.figure.layout.title.text.startswith(BANNER)


@pytest.mark.parametrize("colour", [*PALETTE, RED])
@pytest.mark.parametrize("background", ["#ffffff", "#10151b"])
def test_colours_keep_three_to_one_on_light_and_dark(colour: str, background: str):
    def luminance(text: str) -> float:
        channels = [int(text[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [
            c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels
        ]
        return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))

    low, high = sorted([luminance(colour), luminance(background)])
    assert (high + 0.05) / (low + 0.05) >= 3


def comparison(n: int = 3):
    columns: dict = {
        "phecode": [f"{400 + k}" for k in range(n)], "phecode_string": "<b>Condition</b>",
        "cases": 60, "controls": 900, "difference": np.linspace(-0.1, 0.2, n),
        "q_bh": np.linspace(0.04, 0.01, n),
    }  # fmt: skip
    for key, auc in (("prototype", 0.8), ("other", 0.7)):
        columns |= {f"{key}_auc": auc, f"{key}_auc_conf_int_1": auc - 0.05,
                    f"{key}_auc_conf_int_2": auc + 0.05}  # fmt: skip
    return pd.DataFrame(columns)


def draw_pairs(rows):
    names = ("best prototype", "best class")
    return draw_comparison(
        rows, first="prototype", second="other", names=names, title="Best"
    )


def test_a_comparison_draws_both_aucs_with_their_intervals():
    drawing = draw_pairs(comparison())
    one, other = drawing.figure.data
    assert np.allclose(one.x, 0.8)
    assert np.allclose(other.error_x.array, 0.05)
    assert "+0.20 ●" in texts(drawing.figure)
    assert "clearly better in 2, worse in 1" in drawing.alt
    assert "<b>Cond" not in drawing.figure.to_json()


def test_only_the_largest_differences_are_drawn_and_the_table_has_all():
    drawing = draw_pairs(comparison(50))
    assert len(drawing.figure.data[0].x) == MAX_FOREST
    assert len(drawing.table) == 50


def test_distances_stand_by_group_and_a_class_of_one_prototype_is_left_out():
    rows = pd.DataFrame(
        {"label": list("ABCD"), "n_prototypes": [3, 3, 3, 1], "n_phecodes": 9, "n_mixed": 1,
         "distance": [0.5, 0.7, 0.1, np.nan], "is_mixed": [True, True, False, False]}
    )  # fmt: skip
    drawing = draw_distances(rows)
    assert [list(box.x) for box in drawing.figure.data] == [[0.5, 0.7], [0.1]]
    assert "2 mixed classes with a median of 0.60, 1 uniform classes" in drawing.alt


def test_specificity_is_a_share_of_each_kind():
    rows = pd.DataFrame(
        {"exposure_kind": ["prototype"] * 4 + ["class"] * 2,
         "n_categories": [0, 0, 1, 3, 3, 3]}
    )  # fmt: skip
    prototype, label = draw_specificity(rows).figure.data
    assert dict(zip(prototype.x, prototype.y, strict=True)) == {0: 50, 1: 25, 3: 25}
    assert dict(zip(label.x, label.y, strict=True)) == {0: 0, 1: 0, 3: 100}
