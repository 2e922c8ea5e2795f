import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from typing import cast

import numpy as np
import pytest

from phenokit.recording import LEADS, Recording
from phenokit.report.ecg_paper import (
    CABRERA_LIMB_LEADS,
    LAYOUTS,
    Layout,
    LeadOrder,
    Paper,
    Window,
    draw_ecg,
    draw_windows,
)

SVG = "{http://www.w3.org/2000/svg}"


def ecg(seconds: float = 10.0, rate: float = 500.0, amplitude: float = 0.5) -> Recording:
    time = np.arange(round(seconds * rate)) / rate
    leads = [amplitude * np.sin(2 * np.pi * (1 + n / 12) * time) for n in range(12)]
    return Recording(
        signal=np.stack(leads), channels=LEADS, sampling_rate=rate, record_id="a-1"
    )


def curve(svg: str, box: int) -> np.ndarray:
    """The drawn points of a box, in mm of the page."""
    group = re.search(rf'data-box="{box}">(.*?)</g>', svg)
    assert group
    x0, y0 = map(float, re.findall(r"translate\((\S+) (\S+)\)", group[1])[0])
    start, steps = re.findall(r'd="M(.*?)l(.*?)"', group[1])[0]
    first = np.array(start.split(), float)
    moves = np.array(steps.split(), float).reshape(-1, 2)
    return np.array([x0, y0]) + np.cumsum(np.vstack([first, moves]), axis=0) / 100


def test_one_user_unit_is_one_millimetre():
    page = ElementTree.fromstring(draw_ecg(ecg()).svg)
    width, height = page.attrib["viewBox"].split()[2:]
    assert page.attrib["width"] == f"{width}mm"
    assert page.attrib["height"] == f"{height}mm"


@pytest.mark.parametrize("speed", [12.5, 25.0, 50.0])
@pytest.mark.parametrize("gain", [5.0, 10.0, 20.0])
def test_a_second_and_a_millivolt_have_their_length(speed: float, gain: float):
    recording = ecg()
    recording.signal[1] = np.linspace(0, 1, 5000)
    tracing = draw_ecg(recording, Paper(speed=speed, gain=gain))
    points = curve(tracing.svg, len(tracing.boxes) - 1)
    assert points[500, 0] - points[0, 0] == pytest.approx(speed, abs=0.005)
    assert points[0, 1] - points[-1, 1] == pytest.approx(gain, abs=0.005)


def test_the_rhythm_strip_is_drawn_as_ecg_plot_draws_it():
    # ecg_plot 0.3.0, which keeps 25 mm/s and 10 mm/mV as well.
    import ecg_plot

    recording = ecg()
    tracing = draw_ecg(recording)
    chart = ecg_plot.plot(
        recording.signal, sample_rate=500, lead_names=LEADS, layout="12lead",
        rhythm_lead="II", time_mode="sequential",
    )  # fmt: skip
    theirs = re.findall(r'd="M([^"]*)"', cast(ecg_plot.ECGChart, chart).to_svg())
    strip = next(path for path in reversed(theirs) if path.count("L") > 4000)
    expected = np.array([point.split(",") for point in strip.split(" L")], float)
    ours = curve(tracing.svg, len(tracing.boxes) - 1)[: len(expected)]
    np.testing.assert_allclose(ours - ours[0], expected - expected[0], atol=0.011)


@pytest.mark.parametrize(("gain", "speed"), [(5.0, 12.5), (10.0, 25.0), (20.0, 50.0)])
def test_the_pulse_is_one_millivolt_for_a_fifth_of_a_second(gain: float, speed: float):
    svg = draw_ecg(ecg(), Paper(gain=gain, speed=speed)).svg
    pulses = re.findall(r'class="pulse" d="M\S+ \S+h1v-(\S+?)h(\S+?)v(\S+?)h1"', svg)
    assert pulses == [(f"{gain:g}", f"{0.2 * speed:g}", f"{gain:g}")] * 4


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("order", ["standard", "cabrera"])
def test_every_layout_holds_all_twelve_leads(layout: Layout, order: LeadOrder):
    tracing = draw_ecg(ecg(), Paper(layout=layout, order=order))
    shown = {box.lead.lstrip("−") for box in tracing.boxes}
    assert shown == set(LEADS)
    words = {text.text for text in ElementTree.fromstring(tracing.svg).iter(f"{SVG}text")}
    assert {box.lead for box in tracing.boxes} <= words


def test_cabrera_draws_avr_inverted():
    recording = ecg()
    upright = draw_ecg(recording, Paper(layout="12x1"))
    cabrera = draw_ecg(recording, Paper(layout="12x1", order="cabrera"))
    down = curve(upright.svg, LEADS.index("aVR"))
    up = curve(cabrera.svg, CABRERA_LIMB_LEADS.index("-aVR"))
    np.testing.assert_allclose(up[:, 1] - up[0, 1], down[0, 1] - down[:, 1], atol=0.011)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_instant_has_one_x_in_every_row(layout: Layout):
    tracing = draw_ecg(ecg(), Paper(layout=layout))
    origins = {round(box.x - box.start * tracing.speed, 6) for box in tracing.boxes}
    assert len(origins) == 1
    assert origins.pop() % 5 == 0  # time 0 stands on a bold line


def test_large_voltages_make_the_page_taller_and_are_not_cut():
    small, large = draw_ecg(ecg(amplitude=0.5)), draw_ecg(ecg(amplitude=6.0))
    assert (large.width, large.speed) == (small.width, small.speed)
    assert large.height > small.height
    for number, box in enumerate(large.boxes):
        y = curve(large.svg, number)[:, 1]
        assert box.top <= y.min() < y.max() <= box.bottom


def test_the_footer_states_scale_filter_rate_and_derived_leads():
    recording = replace(ecg(), derived=("III", "aVR"), extra_channels=("V7",))
    svg = draw_ecg(recording, Paper(speed=50.0, gain=5.0), filters="0.5–40 Hz").svg
    texts = ElementTree.fromstring(svg).iter(f"{SVG}text")
    words = " ".join(text.text or "" for text in texts)
    facts = ("50 mm/s", "5 mm/mV", "0.5–40 Hz", "500 Hz", "derived: III, aVR", "V7")
    assert [fact for fact in facts if fact not in words] == []
    assert "columns sequential, 2.5 s each" in words
    assert "Research use – not for diagnosis" in words


def test_text_of_unknown_origin_cannot_leave_its_place():
    name = "</text><script>alert(1)</script>\x00<image href='http://x.test/a.png'/>"
    recording = replace(ecg(), record_id=name, extra_channels=(name,))
    page = ElementTree.fromstring(draw_ecg(recording).svg)
    tags = {element.tag.removeprefix(SVG) for element in page.iter()}
    assert tags == {"svg", "desc", "defs", "pattern", "path", "rect", "g", "text"}


def test_a_gap_lifts_the_pen():
    recording = ecg()
    recording.signal[1, 1000:2000] = np.nan
    svg = draw_ecg(recording).svg
    strip = svg[svg.rindex('data-box="12"') :]
    strokes = re.findall(r"M(\d+) ", strip[: strip.index("</g>")])
    assert strokes == ["0", "10000"]  # hundredths of a mm: 4 s at 25 mm/s


def test_a_missing_lead_is_named_not_drawn():
    recording = ecg()
    without_v6 = replace(recording, signal=recording.signal[:11], channels=LEADS[:11])
    svg = draw_ecg(without_v6).svg
    assert "V6: not recorded" in svg
    assert svg.count('d="M') == draw_ecg(recording).svg.count('d="M') - 1


def test_a_recording_in_microvolts_is_refused():
    with pytest.raises(ValueError, match="drawn in mV, not in uV"):
        draw_ecg(replace(ecg(), unit="uV"))


def test_both_windows_share_one_scale_and_one_set_of_boxes():
    small, large = ecg(amplitude=0.2), ecg(amplitude=3.0)
    pair = draw_windows(Window(small, 1.0, 2.0), Window(large, 5.0, 6.0), context=0.2)
    assert pair.source is not None
    assert (pair.patient.width, pair.patient.height) == (
        pair.source.width,
        pair.source.height,
    )
    for ours, theirs in zip(pair.patient.boxes, pair.source.boxes, strict=True):
        assert (ours.lead, ours.y0) == (theirs.lead, theirs.y0)
        assert ours.x == pytest.approx(theirs.x)


def test_the_window_drawn_is_the_window_given():
    pair = draw_windows(Window(ecg(), 3.2, 4.16), None, context=0.17)
    page = ElementTree.fromstring(pair.patient.svg)
    tints = [rect for rect in page.iter(f"{SVG}rect") if rect.get("class") == "window"]
    assert pair.source is None
    assert len(tints) == 12
    assert float(tints[0].attrib["width"]) == pytest.approx(0.96 * 25)
    first = pair.patient.boxes[0]
    assert float(tints[0].attrib["x"]) == pytest.approx(first.x + (3.2 - first.start) * 25)


def test_a_window_at_the_edge_of_the_recording_keeps_its_place():
    pair = draw_windows(Window(ecg(), 0.0, 1.0), Window(ecg(), 4.0, 5.0), context=0.3)
    assert pair.source is not None
    edge, inner = pair.patient.boxes[0], pair.source.boxes[0]
    assert edge.start == 0.0
    assert edge.x == pytest.approx(inner.x + 0.3 * 25)
