"""Figures of follow-up: the numbers that are drawn, and the words with them."""

import numpy as np
import pandas as pd
import pytest

from phenokit.evidence.cox import fit_cox
from phenokit.evidence.survival import Strata, fit_cumulative_incidence, fit_kaplan_meier
from phenokit.report.ecg_paper import BANNER
from phenokit.report.survival_figures import (
    MAX_CENSOR_TICKS,
    draw_cumulative_incidence,
    draw_hazards,
    draw_kaplan_meier,
    draw_schoenfeld,
    smooth_over_time,
)

DAYS = np.array([1.0, 2, 3, 3, 3, 5, 4, 6])
IS_EVENT = np.array([1, 0, 1, 1, 0, 1, 0, 0], dtype=bool)
LABELS = ["high"] * 6 + ["low <b>"] * 2


def curves(
    duration=DAYS, is_event=IS_EVENT, labels=LABELS, at_times=(0, 2, 4), unit="days"
):
    return fit_kaplan_meier(
        duration,
        is_event,
        Strata.of(labels),
        at_times=at_times,
        unit=unit,
        population="8 <patients>",
    )


def lines(figure):
    """The steps of each stratum, by the beginning of its name in the legend."""
    return {
        trace.name.split(":")[0]: trace
        for trace in figure.data
        if trace.mode == "lines" and trace.name
    }


def texts(figure) -> str:
    words = [annotation.text for annotation in figure.layout.annotations]
    return " ".join([*words, figure.layout.title.text])


def test_the_steps_are_those_of_the_estimate_until_the_last_patient_was_seen():
    high = lines(draw_kaplan_meier(curves(), title="death").figure)["high"]
    expected = 100 * np.array([1, 1, 5 / 6, 5 / 6, 5 / 12, 5 / 12, 0, 0])
    np.testing.assert_allclose(high.y, expected)
    assert list(high.x) == [0, 1, 1, 3, 3, 5, 5, 5]
    low = lines(draw_kaplan_meier(curves(), title="death").figure)["low &lt;b&gt;"]
    assert (list(low.x), list(low.y)) == ([0, 6], [100, 100])


def test_the_band_is_that_of_the_curve_and_ends_where_it_is_not_defined():
    curve = curves().curves[0]
    band = draw_kaplan_meier(curves(), title="death").figure.data[0]
    assert band.fill == "toself"
    assert np.isfinite(np.array(band.y, float)).all()
    drawn = dict(zip(band.x, band.y, strict=True))
    assert max(drawn) == 5
    assert 100 * curve.low[2] in list(band.y)
    assert 100 * curve.high[2] in list(band.y)


def test_the_number_at_risk_stands_below_the_ticks_of_the_axis():
    figure = draw_kaplan_meier(curves(), title="death").figure
    numbers = [trace for trace in figure.data if trace.mode == "text"]
    assert [list(trace.text) for trace in numbers] == [["6", "5", "1"], ["2", "2", "2"]]
    assert list(numbers[0].x) == list(figure.layout.xaxis.tickvals) == [0, 2, 4]
    assert figure.layout.xaxis2.matches == "x"  # they move with the axis
    assert "number at risk" in figure.layout.yaxis2.ticktext[0]
    assert figure.layout.yaxis2.domain[1] < figure.layout.yaxis.domain[0]


def test_censoring_is_a_tick_on_the_curve():
    figure = draw_kaplan_meier(curves(), title="death").figure
    ticks = [trace for trace in figure.data if trace.mode == "markers"]
    assert list(ticks[0].x) == [2, 3]
    np.testing.assert_allclose(ticks[0].y, [500 / 6, 500 / 12])
    assert list(ticks[1].x) == [4, 6]


def test_ticks_of_a_large_cohort_do_not_cover_its_curve():
    rng = np.random.default_rng(1)
    duration = np.ceil(rng.uniform(0, 2000, 5000))
    drawn = draw_kaplan_meier(
        curves(duration, rng.random(5000) < 0.1, ["all"] * 5000), title="death"
    )
    (ticks,) = (trace for trace in drawn.figure.data if trace.mode == "markers")
    assert len(ticks.x) <= MAX_CENSOR_TICKS + 1
    assert len(drawn.figure.to_json()) < 400_000


def test_strata_differ_by_line_and_name_n_events_and_median():
    shown = lines(draw_kaplan_meier(curves(), title="death").figure)
    assert len({trace.line.dash for trace in shown.values()}) == 2
    assert shown["high"].name == "high: n = 6, 4 events, median 3 days (1–not reached)"
    assert shown["low &lt;b&gt;"].name.endswith("n = 2, 0 events, median not reached")


def test_unit_population_and_test_are_named_and_text_is_escaped():
    drawn = draw_kaplan_meier(curves(), title="death & <i>decay</i>")
    assert drawn.figure.layout.xaxis.title.text == "time, days"
    for words in ("time in days", "8 &lt;patients&gt;", "Log-rank test of 2 strata: p ="):
        assert words in texts(drawn.figure)
    assert BANNER in texts(drawn.figure)
    assert "<i>" not in drawn.figure.to_json()
    assert "8 <patients>" in drawn.alt
    assert "high (n = 6, 4 events)" in drawn.alt


def test_the_axis_starts_at_0_or_says_that_it_does_not():
    figure = draw_kaplan_meier(curves(), title="death").figure
    assert figure.layout.yaxis.range[0] == 0
    duration = np.minimum(np.arange(1.0, 2001), 900)
    rare = curves(duration, np.arange(2000) % 50 == 0, ["all"] * 2000)
    kept = draw_kaplan_meier(rare, title="death")
    low = kept.figure.layout.yaxis.range[0]
    assert low > 0
    assert f"the axis starts at {low:g} %" in texts(kept.figure)
    assert min(kept.figure.data[0].y) >= low


def test_the_table_is_what_is_drawn():
    table = draw_kaplan_meier(curves(), title="death").table
    row = table.loc[(table["stratum"] == "high") & (table["time"] == 2)].iloc[0]
    assert row["estimate"] == pytest.approx(5 / 6)
    assert row[["at_risk", "n", "events", "median", "unit"]].tolist() == [
        5,
        6,
        4,
        3,
        "days",
    ]


def test_competing_events_stand_side_by_side_on_one_scale():
    incidence = fit_cumulative_incidence(
        DAYS,
        np.array([1, 0, 1, 2, 0, 1, 2, 0]),
        Strata.of(LABELS),
        events=("infarction", "death before it"),
        at_times=(0, 2, 4),
        unit="days",
        population="8 patients",
    )
    drawn = draw_cumulative_incidence(incidence, title="infarction")
    layout = drawn.figure.layout
    assert layout.yaxis.range == layout.yaxis2.range
    assert layout.xaxis.domain[1] < layout.xaxis2.domain[0]
    panels = {(t.xaxis, t.name) for t in drawn.figure.data if t.mode == "lines" and t.name}
    assert len(panels) == 4
    assert "infarction: 3 events" in texts(drawn.figure)
    assert "death before it: 2 events" in texts(drawn.figure)
    assert drawn.table["event"].nunique() == 2


def followed(effect=0.8, turn=None, n=800, seed=2):
    """Days to an event whose hazard `x` raises; from day `turn` on it lowers it."""
    rng = np.random.default_rng(seed)
    x, used = rng.normal(size=n), rng.exponential(size=n)
    early, late = np.exp(effect * x) / 60, np.exp(-effect * x) / 60
    days = used / early
    if turn is not None:
        after = turn + (used - turn * early) / late
        days = np.where(used < turn * early, days, after)
    table = pd.DataFrame({"x": x, "age": rng.normal(60, 10, n)})
    return table.assign(days=np.minimum(days, 150) + 1e-6, event=(days < 150).astype(int))


def test_hazard_ratios_have_interval_n_events_and_the_check():
    fit = fit_cox(followed(), ["x", "age"], duration="days", event="event")
    drawn = draw_hazards(fit, title="death")
    row = fit.table.iloc[0]
    points = drawn.figure.data[0]
    assert points.x[0] == pytest.approx(row["hazard_ratio"])
    assert points.x[0] + points.error_x.array[0] == pytest.approx(row["conf_int_2"])
    assert f"{row['hazard_ratio']:.2f} ({row['conf_int_1']:.2f}–" in texts(drawn.figure)
    assert f"n = 800, {fit.n_events} events" in texts(drawn.figure)
    assert drawn.table[["n", "events"]].iloc[0].tolist() == [800, fit.n_events]
    assert "p below 0.01 for proportional hazards" in drawn.alt


def test_hazards_that_are_not_proportional_have_a_sign_and_a_sentence():
    fit = fit_cox(followed(turn=25), ["x", "age"], duration="days", event="event")
    assert fit.table["code"].tolist() == ["W_NONPROPORTIONAL", "OK"]
    drawn = draw_hazards(fit, title="death")
    assert "◇ hazards not proportional" in texts(drawn.figure)
    assert list(drawn.figure.data[0].marker.symbol) == ["diamond-open", "square"]
    assert "not proportional in x" in drawn.alt


def test_the_smooth_line_follows_an_effect_that_turns_and_is_level_where_it_does_not():
    turned = fit_cox(followed(turn=25), ["x"], duration="days", event="event")
    table = draw_schoenfeld(turned, "x", title="death", unit="days").table
    assert table["conf_int_1"].iloc[0] > 0 > table["conf_int_2"].iloc[-1]
    level = fit_cox(followed(n=3000), ["x"], duration="days", event="event")
    drawn = draw_schoenfeld(level, "x", title="death", unit="days")
    inside = drawn.table["log_hazard_ratio"].between(0.8 - 0.25, 0.8 + 0.25)
    assert inside.all()
    assert "not doubted" in drawn.alt
    assert drawn.figure.layout.xaxis.title.text == "time, days"


def test_a_local_line_through_a_line_is_that_line_and_its_band_holds_the_truth():
    time = np.sort(np.random.default_rng(3).uniform(0, 10, 300))
    rank = np.arange(300.0)
    at, smooth, low, high = smooth_over_time(time, 2 - 0.01 * rank)
    np.testing.assert_allclose(smooth, 2 - 0.01 * np.interp(at, time, rank), atol=1e-9)
    np.testing.assert_allclose(high - low, 0, atol=1e-9)
    rng = np.random.default_rng(4)
    hits = []
    for _ in range(200):
        _, _, low, high = smooth_over_time(time, 1 + rng.normal(size=300))
        hits.append((low < 1) & (high > 1))
    # 200 curves of some three independent places each: a standard error of .009.
    assert np.mean(hits) == pytest.approx(0.95, abs=0.03)
