import numpy as np
import pandas as pd
import pytest
from scipy.integrate import trapezoid

from phenokit.report.ecg_paper import BANNER
from phenokit.report.risk import read_risk_run, risk_panels
from phenokit.report.risk_figures import (
    VIABLE_POINTS,
    draw_calibration,
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


@pytest.fixture(scope="module")
def run(risk_folder):
    return read_risk_run(risk_folder)


@pytest.fixture(scope="module")
def drawings(run):
    return [drawing for panel in risk_panels(run) for drawing in panel.drawings]


def texts(figure) -> list[str]:
    return [str(annotation.text) for annotation in figure.layout.annotations]


def named(figure, name):
    return next(trace for trace in figure.data if trace.name == name)


def test_every_figure_says_n_carries_its_table_and_the_banner(drawings):
    assert len(drawings) == 12
    for drawing in drawings:
        assert any(character.isdigit() for character in drawing.alt)
        assert drawing.alt.endswith((".", ")"))
        assert len(drawing.table)
        assert drawing.figure.layout.title.text.startswith(BANNER)
        assert drawing.figure.layout.font.color is None  # left to the theme


def test_series_differ_by_more_than_colour(drawings):
    for drawing in drawings:
        looks = []
        for trace in drawing.figure.data:
            if trace.name is None or trace.showlegend is False:
                continue
            marker, line = trace.marker, trace.line
            looks.append((trace.mode, str(marker.symbol), line.dash, trace.fill))
        assert len(set(looks)) == len(looks), drawing.alt


def test_hostile_names_are_text_and_no_markup(drawings):
    for drawing in drawings:
        assert "<img" not in drawing.figure.to_json().replace("\\u003c", "<")


def test_calibration_shows_each_bin_with_its_interval_and_band(run):
    table = run.table("calibration")
    drawing = draw_calibration(table, run.diagnostics["recalibration"])
    points = named(drawing.figure, "observed rate, 95 % interval")
    np.testing.assert_allclose(points.y, table["observed"])
    np.testing.assert_allclose(points.x, table["predicted"])
    np.testing.assert_allclose(
        np.asarray(points.y) + points.error_y.array, table["observed_high"]
    )
    band = drawing.figure.data[0]
    assert list(band.y[: len(table)]) == list(table["band_high"])
    assert any(text.startswith("n=") for text in texts(drawing.figure))
    inside = table["observed"].between(table["band_low"], table["band_high"]).sum()
    assert f"in {inside}. Slope" in drawing.alt


def test_a_suppressed_group_has_its_name_and_no_figure(run):
    table = run.table("groups")
    row = table.index[table["group"] == "rare = 1"][0]
    drawing = draw_groups(table)
    assert np.isnan(drawing.figure.data[0].x[row])
    at = len(table) - 1 - row
    beside = [a.text for a in drawing.figure.layout.annotations if a.y == at]
    assert beside == ["7", "suppressed"]
    assert "1 of them suppressed" in drawing.alt


def test_groups_say_what_the_table_says(run):
    drawing = draw_groups(run.table("groups"))
    first = run.table("groups").iloc[0]
    beside = [a.text for a in drawing.figure.layout.annotations
              if a.y == len(drawing.table) - 1]  # fmt: skip
    assert beside[0] == f"{first['n']:,}"
    assert beside[2] == f"{100 * first['share_tested']:.0f} %"
    assert beside[1].startswith(f"{first['missed_per_1000']:.0f} (")


def test_bars_of_few_patients_are_suppressed_and_means_are_drawn(run):
    table = run.table("histograms")
    drawing = draw_distributions(table)
    tested = table.loc[table["group"] == "tested"]
    np.testing.assert_allclose(drawing.figure.data[0].y, 100 * tested["share"])
    lines = [s.x0 for s in drawing.figure.layout.shapes if s.type == "line"]
    means = 100 * table.groupby("group")["mean"].first()
    assert lines == pytest.approx(list(means))
    for group, n in table.groupby("group")["n_group"].first().items():
        assert f"{n:,} {group} patients" in drawing.alt
    table = table.assign(note="suppressed")
    assert "suppressed" in draw_distributions(table).figure.layout.title.text


def test_fifths_are_named_with_how_many_were_tested(run):
    table = run.table("fifths").copy()
    drawing = draw_fifths(table, run.diagnostics["top_bottom_ratio"])
    ticks = drawing.figure.layout.xaxis.ticktext
    assert all("n = " in tick and "tested (" in tick for tick in ticks)
    assert "times the risk of the lowest" in drawing.alt
    table.loc[0, "note"] = "suppressed"
    assert draw_fifths(table).figure.layout.xaxis.ticktext[0].endswith("suppressed")
    assert "cannot be compared" in draw_fifths(table).alt


def test_odds_ratios_stand_where_the_table_says(run):
    table = run.table("odds_ratios")
    shown = table.loc[table["feature"] != "intercept"]
    figure = draw_odds_ratios(table).figure
    np.testing.assert_allclose(figure.data[0].x, shown["odds_ratio"])
    for row in shown.to_dict("records"):
        assert row["per"] in texts(figure)


def test_an_assumed_feature_is_an_open_mark_at_one(run):
    table = run.table("odds_ratios")
    figure = draw_testing(table).figure
    points = figure.data[0]
    assert list(points.marker.symbol) == ["circle-open", "square", "circle-open", "square"]
    assert (points.x[0], points.x[2]) == (1, 1)
    ward = table.set_index("feature").loc["ward"]
    assert points.x[1] == pytest.approx(np.exp(ward["beta_Delta"]))
    assert "ward: tested less than their risk explains" in draw_testing(table).alt


def test_densities_in_per_cent_still_hold_one(run):
    figure = draw_priors(run.table("priors"), run.summary).figure
    posterior = [trace for trace in figure.data if trace.name == "after: posterior"]
    assert len(posterior) == 3
    for trace in posterior:
        assert trapezoid(trace.y, trace.x) == pytest.approx(1, abs=0.03)


def test_a_prevalence_outside_the_bounds_is_struck_out(run):
    drawing = draw_sensitivity(
        run.table("sensitivity"), stated=0.18,
        bounds=tuple(run.diagnostics["prevalence"]["bounds"]), n_untested=900,
    )  # fmt: skip
    ticks = drawing.figure.layout.xaxis.ticktext
    assert ticks[0].startswith("<s>9.0 %</s>")
    assert not any("<s>" in tick for tick in ticks[1:])
    assert "outside the<br>exact bounds" in " ".join(texts(drawing.figure))
    assert "9.0 % is refused (outside the exact bounds)" in drawing.alt
    assert "900 untested patients" in drawing.alt


def test_a_conflict_is_marked_beside_the_prevalence():
    row = {f"risk_{who}{end}": 0.1 for who in ("tested", "untested")
           for end in ("", "_low", "_high")}  # fmt: skip
    table = pd.DataFrame([row]).assign(
        prevalence=0.1, within_bounds=True, conflict=True, source="refitted", note=""
    )
    drawing = draw_sensitivity(table, stated=0.05, bounds=(0.01, 0.5), n_untested=9)
    assert drawing.figure.layout.xaxis.ticktext == ("10 % ▲<br>twice the stated",)
    assert "in conflict with the data" in drawing.alt


def test_the_viable_range_is_drawn_for_some_hundreds_of_patients():
    risk = pd.DataFrame({"risk": np.linspace(0.01, 0.2, 5_000)[::-1]})
    risk = risk.assign(viable_low=risk["risk"] / 2, viable_high=risk["risk"] * 2)
    drawing = draw_viable_range(risk, threshold=0.05, sentence="As it was.")
    line = named(drawing.figure, "risk by the stated setting")
    assert len(line.x) <= VIABLE_POINTS
    assert list(line.y) == sorted(line.y)
    assert drawing.table["n"].sum() == 5_000
    assert drawing.table["n"].min() >= 10
    assert named(drawing.figure, "threshold 5.0 %").y == (5.0, 5.0)


def test_comparators_stand_beside_the_model_and_say_when_there_is_no_estimate(run):
    table = run.table("comparators").copy()
    drawing = draw_comparators(table)
    untested = table.loc[table["quantity"] == "risk_untested"].set_index("method")
    points = drawing.figure.data[2]
    assert points.x[0] == pytest.approx(100 * untested.loc["selective_labels", "estimate"])
    assert points.marker.symbol[0] == "diamond"
    assert "n = " in drawing.figure.layout.yaxis.ticktext[1]
    gone = table["method"] == "ipw"
    table.loc[gone, ["estimate", "conf_int_1", "conf_int_2"]] = np.nan
    assert "no estimate" in draw_comparators(table).figure.data[0].text


def test_the_decision_curve_is_per_thousand_and_says_whose_expectation_it_is(run):
    table = run.table("decision_curve")
    drawing = draw_decision_curve(table, n=6_000)
    line = named(drawing.figure, "act on the risk of this model")
    known = table.dropna(subset=["net_benefit"])
    np.testing.assert_allclose(line.y, 1000 * known["net_benefit"])
    assert "by the model's own expectation" in drawing.alt
    assert "no outcome was used" in drawing.figure.layout.title.text
