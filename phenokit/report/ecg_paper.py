"""ECGs on paper: the 12-lead tracing and pairs of windows, as SVG at true scale.

One user unit is one millimetre, and `width` and `height` say so, so that a drawing keeps
its scale on screen, in a file and in print. The grid lies on the same millimetres (1 mm is
0.04 s at 25 mm/s and 0.1 mV at 10 mm/mV). Nothing is ever shrunk to fit: a large voltage
makes its row, and so the page, taller.

Time runs on one axis over the whole page. The columns of a layout are consecutive pieces of
the recording, as on the paper of an electrocardiograph, so that an instant stands at the
same x in every row; calipers and window marks rely on it.
"""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import ceil
from typing import Literal

import numpy as np
from jaxtyping import Float

from phenokit.recording import LEADS, Recording

Layout = Literal["3x4+II", "6x2", "12x1"]
LeadOrder = Literal["standard", "cabrera"]

LAYOUTS: tuple[Layout, ...] = ("3x4+II", "6x2", "12x1")
SPEEDS = (12.5, 25.0, 50.0)
"""Paper speeds, mm/s (IEC 60601-2-25)."""
GAINS = (5.0, 10.0, 20.0)
"""Gains, mm/mV."""

CABRERA_LIMB_LEADS = ("aVL", "I", "-aVR", "II", "aVF", "III")
"""Limb leads by their axis in the frontal plane; aVR is drawn inverted."""

BANNER = "Research use – not for diagnosis"

PAGE_DURATION = 10.0  # seconds on a page: what an electrocardiograph prints
MARGIN = 5.0
HEADER = 10.0
PULSE = 0.2  # seconds
TIME_AXIS = 5.0
LINE = 4.0

_INK = "#141414"
_INK_CONTEXT = "#8a817c"
_WINDOW = "#ffe14d"
_PAPERS = {
    "paper": {"sheet": "#fffaf6", "fine": "#f8d9d2", "bold": "#eaa99c", "text": "#4a3f3b"},
    "high contrast": {
        "sheet": "#ffffff",
        "fine": "#e4e4e4",
        "bold": "#a8a8a8",
        "text": "#000000",
    },
}
PaperStyle = Literal["paper", "high contrast"]


@dataclass(frozen=True)
class Paper:
    """How a tracing is put on paper.

    Attributes
    ----------
    speed, gain
        mm/s and mm/mV.
    order
        ``"cabrera"`` puts the limb leads in the order of their axes, with -aVR.
    style
        ``"high contrast"`` is black on white with a grey grid.
    """

    layout: Layout = "3x4+II"
    speed: float = 25.0
    gain: float = 10.0
    order: LeadOrder = "standard"
    style: PaperStyle = "paper"


@dataclass(frozen=True)
class LeadBox:
    """Where one lead stands on the page.

    Attributes
    ----------
    start, stop
        The piece of the recording that is drawn, seconds.
    x, y0
        Where `start` and 0 mV stand, mm from the top left corner of the page.
    top, bottom
        Limits of the lead's row, mm.
    """

    lead: str
    start: float
    stop: float
    x: float
    y0: float
    top: float
    bottom: float


@dataclass(frozen=True)
class Tracing:
    """A drawing and its geometry, in mm.

    Attributes
    ----------
    svg
        The drawing; every text of unknown origin in it is escaped.
    alt
        What the drawing shows, in a sentence, for those who cannot see it.
    """

    svg: str
    alt: str
    width: float
    height: float
    speed: float
    gain: float
    boxes: tuple[LeadBox, ...]


@dataclass(frozen=True)
class WindowPair:
    """A patient's window and the prototype's source window on one scale.

    `source` is ``None`` where the waveform of the source is not at hand.
    """

    patient: Tracing
    source: Tracing | None


@dataclass(frozen=True)
class Window:
    """A piece of a recording, seconds."""

    recording: Recording
    start: float
    stop: float


def draw_ecg(
    recording: Recording,
    paper: Paper | None = None,
    *,
    filters: str = "no display filter",
    start: float = 0.0,
) -> Tracing:
    """Ten seconds of a 12-lead ECG on ECG paper.

    Parameters
    ----------
    recording
        In mV. A standard lead that it lacks is named on the page as not recorded.
    paper
        Layout, speed and gain; the default is 3x4+II, 25 mm/s, 10 mm/mV.
    filters
        What was done to the signal for display, in words; printed in the footer.
    start
        First second on the page.

    Raises
    ------
    ValueError
        If the recording is not in mV, or ends before `start`.
    """
    paper = paper or Paper()
    if recording.unit != "mV":
        raise ValueError(f"an ECG is drawn in mV, not in {recording.unit}")
    stop = min(start + PAGE_DURATION, recording.duration)
    if stop <= start:
        raise ValueError(
            f"the recording ends at {recording.duration:g} s, before {start:g} s"
        )

    rows = _rows(paper, start, stop)
    x0 = _ceil_to_5(MARGIN + 2 + PULSE * paper.speed)
    y = HEADER
    boxes: list[LeadBox] = []
    parts: list[str] = []
    for row in rows:
        pieces = [_piece(recording, lead, first, last) for lead, first, last in row]
        up, down = _extent(pieces, paper.gain, at_least=paper.gain + 2)
        y0 = y + up
        parts.append(_pulse(y0, paper))
        for (lead, first, last), piece in zip(row, pieces, strict=True):
            box = LeadBox(
                lead.replace("-", "−"), first, last,
                x0 + (first - start) * paper.speed, y0, y, y0 + down,
            )  # fmt: skip
            boxes.append(box)
            curve = _trace(piece, recording.sampling_rate, box, paper)
            parts.append(f'<g class="lead" data-box="{len(boxes) - 1}">{curve}</g>')
            if first > start:
                parts.append(_separator(box))
        y = y0 + down
    parts.extend(_lead_name(box, recording) for box in boxes)
    parts.append(_time_axis(x0, y, start, stop, paper))
    y += TIME_AXIS

    width = x0 + _ceil_to_5((stop - start) * paper.speed) + MARGIN
    footer = _wrap(_footer(recording, paper, filters, start, stop), width)
    height = _ceil_to_5(y + LINE * len(footer) + 2)
    text = _PAPERS[paper.style]["text"]
    shown_id = textwrap.shorten(recording.record_id, 60, placeholder=" …") or "unnamed"
    if len(shown_id) > 60:  # one long word
        shown_id = shown_id[:59] + "…"
    parts.append(_text(MARGIN, 6.0, shown_id, 3.4, text))
    parts.append(_text(width - MARGIN, 6.0, BANNER, 3.0, text, anchor="end"))
    parts.extend(
        _text(MARGIN, y + LINE * (line + 1) - 1, words, 3.0, text)
        for line, words in enumerate(footer)
    )
    leads = ", ".join(dict.fromkeys(box.lead for box in boxes))
    alt = (
        f"12-lead ECG on paper, {start:g} to {stop:g} s, {paper.speed:g} mm/s, "
        f"{paper.gain:g} mm/mV, layout {paper.layout}, leads {leads}."
    )
    return Tracing(
        _sheet(parts, width, height, alt, paper.style), alt, width, height,
        paper.speed, paper.gain, tuple(boxes),
    )  # fmt: skip


def draw_windows(
    patient: Window,
    source: Window | None,
    *,
    leads: Sequence[str] = LEADS,
    context: float = 0.0,
    paper: Paper | None = None,
) -> WindowPair:
    """The matched window and the prototype's source window, to be set side by side.

    Both have the same speed, gain, grid, leads and row heights. With `context` the window
    that was scored is tinted, and what stands outside it is grey: it belongs to the
    receptive field but not to the window.

    Parameters
    ----------
    patient, source
        In mV and filtered alike. Without `source` only the patient's window is drawn.
    leads
        In the order drawn: three rows to a column, or a row each where the window is longer
        than 2.5 s.
    context
        Seconds drawn on either side of the window, where the recording has them.
    """
    paper = paper or Paper()
    windows = [patient] if source is None else [patient, source]
    longest = max(window.stop - window.start for window in windows)
    n_rows = len(leads) if longest > 2.5 else min(3, len(leads))
    rows = [leads[row::n_rows] for row in range(n_rows)]
    pieces = [
        {
            lead: _piece(window.recording, lead, *_with_context(window, context))
            for lead in leads
        }
        for window in windows
    ]
    extents = [
        _extent([piece[lead] for piece in pieces for lead in row], paper.gain, at_least=5.0)
        for row in rows
    ]
    drawings = [
        _draw_window(window, piece, rows, extents, context, longest, paper)
        for window, piece in zip(windows, pieces, strict=True)
    ]
    return WindowPair(drawings[0], None if source is None else drawings[1])


def _draw_window(
    window: Window,
    pieces: dict[str, Float[np.ndarray, " sample"] | None],
    rows: list[Sequence[str]],
    extents: list[tuple[float, float]],
    context: float,
    longest: float,
    paper: Paper,
) -> Tracing:
    first, last = _with_context(window, context)
    pitch = _ceil_to_5((longest + 2 * context) * paper.speed + 2)
    n_columns = max(len(row) for row in rows)
    boxes: list[LeadBox] = []
    under: list[str] = []
    parts: list[str] = []
    y = 0.0
    for row, (up, down) in zip(rows, extents, strict=True):
        y0 = y + up
        for column, lead in enumerate(row):
            # The window, not its context, starts at the same x in both drawings.
            x_window = MARGIN + column * pitch + context * paper.speed
            x = x_window - (window.start - first) * paper.speed
            box = LeadBox(lead, first, last, x, y0, y, y0 + down)
            boxes.append(box)
            if context:
                under.append(
                    _tint(x_window, (window.stop - window.start) * paper.speed, box)
                )
            parts.append(
                _trace(pieces[lead], window.recording.sampling_rate, box, paper, window)
            )
        y = y0 + down
    parts.extend(_lead_name(box, window.recording) for box in boxes)
    width, height = MARGIN + n_columns * pitch, _ceil_to_5(y)
    alt = (
        f"ECG window {window.start:.2f} to {window.stop:.2f} s, {paper.speed:g} mm/s, "
        f"{paper.gain:g} mm/mV, leads {', '.join(box.lead for box in boxes)}."
    )
    svg = _sheet(parts, width, height, alt, paper.style, under=under)
    return Tracing(svg, alt, width, height, paper.speed, paper.gain, tuple(boxes))


# What stands where


def _rows(paper: Paper, start: float, stop: float) -> list[list[tuple[str, float, float]]]:
    """Lead, first and last second of each box, row by row."""
    limb = LEADS[:6] if paper.order == "standard" else CABRERA_LIMB_LEADS
    leads = (*limb, *LEADS[6:])
    n_rows = {"3x4+II": 3, "6x2": 6, "12x1": 12}[paper.layout]
    columns = [leads[first : first + n_rows] for first in range(0, len(leads), n_rows)]
    span = (stop - start) / len(columns)
    rows = [
        [
            (column[row], start + number * span, start + (number + 1) * span)
            for number, column in enumerate(columns)
        ]
        for row in range(n_rows)
    ]
    if paper.layout == "3x4+II":
        rows.append([("II", start, stop)])
    return rows


def _with_context(window: Window, context: float) -> tuple[float, float]:
    return (
        max(window.start - context, 0.0),
        min(window.stop + context, window.recording.duration),
    )


def _piece(
    recording: Recording, lead: str, first: float, last: float
) -> Float[np.ndarray, " sample"] | None:
    """Samples of a lead from `first` to `last`; ``None`` where it was not recorded."""
    name = lead.removeprefix("-")
    if name not in recording.channels:
        return None
    begin, end = (round(time * recording.sampling_rate) for time in (first, last))
    # One sample more, so that the columns of a row join.
    signal = recording.channel(name)[begin : end + 1]
    return -signal if lead.startswith("-") else signal


def _extent(
    pieces: Sequence[Float[np.ndarray, " _"] | None], gain: float, *, at_least: float
) -> tuple[float, float]:
    """Room that a row needs above and below its baseline, whole 5 mm."""
    finite = [piece[np.isfinite(piece)] for piece in pieces if piece is not None]
    values = np.concatenate([*finite, np.zeros(1)]) * gain
    up = max(float(values.max()) + 3, at_least)  # the lead's name stands above the trace
    down = max(float(-values.min()) + 1, 5.0)
    return _ceil_to_5(up), _ceil_to_5(down)


def _ceil_to_5(length: float) -> float:
    return 5.0 * ceil(length / 5 - 1e-9)


# The parts of a drawing


def _sheet(
    parts: Sequence[str],
    width: float,
    height: float,
    alt: str,
    style: PaperStyle,
    *,
    under: Sequence[str] = (),
) -> str:
    colour = _PAPERS[style]
    # A pattern, not a thousand lines; its name holds the style, as all drawings of a page
    # share one name space.
    grid = f"ecg-grid-{style.replace(' ', '-')}"
    fine = "".join(f"M{n} 0V5M0 {n}H5" for n in range(1, 5))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" '
        f'width="{width:g}mm" height="{height:g}mm" '
        f'viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{_escape(alt)}" '
        f'font-family="Source Sans, Source Sans Pro, Helvetica, Arial, sans-serif">'
        f"<desc>{_escape(alt)} {BANNER}.</desc>"
        f'<defs><pattern id="{grid}" width="5" height="5" patternUnits="userSpaceOnUse">'
        f'<path d="{fine}" stroke="{colour["fine"]}" stroke-width=".1" fill="none"/>'
        f'<path d="M0 0H5M0 0V5M5 0V5M0 5H5" stroke="{colour["bold"]}" stroke-width=".2" '
        f'fill="none"/></pattern></defs>'
        f'<rect width="{width:g}" height="{height:g}" fill="{colour["sheet"]}"/>'
        f"{''.join(under)}"
        f'<rect width="{width:g}" height="{height:g}" fill="url(#{grid})"/>'
        f"{''.join(parts)}</svg>"
    )


def _trace(
    piece: Float[np.ndarray, " sample"] | None,
    sampling_rate: float,
    box: LeadBox,
    paper: Paper,
    window: Window | None = None,
) -> str:
    """The curve of one box, and in grey what lies outside its window."""
    if piece is None:
        return ""
    time = box.start + np.arange(piece.size) / sampling_rate
    if window is None:
        return _path(time, piece, box, paper, _INK)
    inside = (time >= window.start - 1e-9) & (time <= window.stop + 1e-9)
    first, last = np.flatnonzero(inside)[[0, -1]]
    return "".join(
        _path(time[part], piece[part], box, paper, ink)
        for part, ink in (
            (slice(0, first + 1), _INK_CONTEXT),
            (slice(last, None), _INK_CONTEXT),
            (slice(first, last + 1), _INK),
        )
        if time[part].size > 1
    )


def _path(
    time: Float[np.ndarray, " sample"],
    signal: Float[np.ndarray, " sample"],
    box: LeadBox,
    paper: Paper,
    ink: str,
) -> str:
    """A curve in whole hundredths of a millimetre, step by step; a gap lifts the pen."""
    recorded = np.isfinite(signal)
    if not recorded.any():
        return ""
    x = np.rint((time - box.start) * paper.speed * 100).astype(int)
    y = np.rint(np.where(recorded, -signal, 0.0) * paper.gain * 100).astype(int)
    edges = np.flatnonzero(
        np.diff(np.concatenate([[False], recorded, [False]]).astype(int))
    )
    strokes = []
    for first, last in zip(edges[::2], edges[1::2], strict=True):
        steps = np.stack([np.diff(x[first:last]), np.diff(y[first:last])], axis=1)
        path = " ".join(map(str, steps.ravel().tolist())) or "0 0"
        strokes.append(f"M{x[first]} {y[first]}l{path}")
    return (
        f'<path transform="translate({box.x:g} {box.y0:g}) scale(.01)" '
        f'd="{"".join(strokes)}" '
        f'fill="none" stroke="{ink}" stroke-width="30" stroke-linejoin="round" '
        f'stroke-linecap="round"/>'
    )


def _pulse(y0: float, paper: Paper) -> str:
    """The calibration pulse: 1 mV for 0.2 s."""
    height, width = paper.gain, PULSE * paper.speed
    return (
        f'<path class="pulse" '
        f'd="M{MARGIN - 1:g} {y0:g}h1v{-height:g}h{width:g}v{height:g}h1" '
        f'fill="none" stroke="{_INK}" stroke-width=".3"/>'
    )


def _separator(box: LeadBox) -> str:
    return (
        f'<path d="M{box.x:g} {box.y0 - 4:g}v2M{box.x:g} {box.y0 + 2:g}v2" stroke="{_INK}" '
        f'stroke-width=".3"/>'
    )


def _lead_name(box: LeadBox, recording: Recording) -> str:
    name = box.lead.lstrip("−")
    words = box.lead if name in recording.channels else f"{box.lead}: not recorded"
    return _text(box.x + 0.8, box.top + 3.6, words, 3.6, _INK, weight="600", halo=True)


def _time_axis(x0: float, y: float, start: float, stop: float, paper: Paper) -> str:
    """A tick a second under the last row."""
    colour = _PAPERS[paper.style]["text"]
    seconds = range(ceil(start), int(stop) + 1)
    ticks = "".join(
        f"M{x0 + (second - start) * paper.speed:g} {y:g}v1" for second in seconds
    )
    labels = "".join(
        _text(x0 + (second - start) * paper.speed, y + 3.6, f"{second} s", 2.6, colour,
              anchor="middle")
        for second in seconds
    )  # fmt: skip
    return f'<path d="{ticks}" stroke="{colour}" stroke-width=".3"/>{labels}'


def _tint(x: float, width: float, box: LeadBox) -> str:
    return (
        f'<rect class="window" x="{x:g}" y="{box.top:g}" width="{width:g}" '
        f'height="{box.bottom - box.top:g}" fill="{_WINDOW}" fill-opacity=".28"/>'
    )


def _footer(
    recording: Recording, paper: Paper, filters: str, start: float, stop: float
) -> str:
    n_columns = {"3x4+II": 4, "6x2": 2, "12x1": 1}[paper.layout]
    columns = (
        "all leads simultaneous"
        if n_columns == 1
        else f"columns sequential, {(stop - start) / n_columns:g} s each"
    )
    facts = [
        f"{paper.speed:g} mm/s",
        f"{paper.gain:g} mm/mV",
        filters,
        f"{recording.sampling_rate:g} Hz",
        columns,
    ]
    if recording.derived:
        facts.append(f"derived: {', '.join(recording.derived)}")
    if recording.duration > stop - start + 1e-9:
        facts.append(f"{start:g}–{stop:g} s of {recording.duration:g} s")
    if recording.extra_channels:
        facts.append(f"also in the file, not drawn: {', '.join(recording.extra_channels)}")
    return " · ".join(facts)


def _wrap(words: str, width: float) -> list[str]:
    # A letter at 3 mm is about 1.5 mm wide.
    return textwrap.wrap(words, max(20, int((width - 2 * MARGIN) / 1.5)))


def _text(
    x: float,
    y: float,
    words: str,
    size: float,
    colour: str,
    *,
    anchor: str = "start",
    weight: str = "400",
    halo: bool = False,
) -> str:
    around = (
        ' stroke="#fffaf6" stroke-width=".8" stroke-linejoin="round" paint-order="stroke"'
        if halo
        else ""
    )
    return (
        f'<text x="{x:g}" y="{y:g}" font-size="{size:g}" fill="{colour}" '
        f'text-anchor="{anchor}" font-weight="{weight}"{around}>{_escape(words)}</text>'
    )


def _escape(words: str) -> str:
    """Text for XML: escaped, and without the characters that XML forbids."""
    return escape("".join(letter if letter.isprintable() else "�" for letter in words))
