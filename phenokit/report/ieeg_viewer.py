"""Pages of a long recording as few bytes, with every extremum kept.

A screen has far fewer columns than a page has samples. Each column gets the smallest and
the largest sample of its time, so that a spike of one sample is never lost. Columns of long
pages come from the stored extrema of bins (`Extrema`), which are made when a stretch is
first looked at: opening a recording reads nothing but its header and one page.

A page goes to the browser as bytes (`pack_pages`): a line of JSON, then int16.
"""

import hashlib
import json
import os
import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Int16

from phenokit.preprocessing.display import (
    DisplayFilters,
    Montage,
    filter_for_display,
    in_montage,
)
from phenokit.recording import LongRecording, Recording

SENSITIVITIES = (20.0, 30.0, 50.0, 70.0, 100.0, 150.0, 200.0)
"""µV a millimetre."""
PAGE_LENGTHS = (1, 2, 5, 10, 15, 20, 30, 60, 120, 300, 600)
"""Seconds a page."""
LOW_EDGES = (0.1, 0.5, 1.0, 3.0, 10.0)
HIGH_EDGES = (15.0, 30.0, 70.0, 100.0, 150.0)
NOTCHES = (50.0, 60.0)

SECONDS_AT_ONCE = 60.0
"""Of a page that are in memory at a time."""
BIN = 64
"""Samples whose extrema are kept together."""
BINS_A_BLOCK = 512
"""Bins that are made at a time."""
MISSING = -32768
"""int16 that stands for NaN."""
NOT_EVALUATED = 255
"""uint8 that stands for a segment without a probability."""


@dataclass(frozen=True)
class View:
    """What a reader looks at, and how.

    Attributes
    ----------
    begin, length
        Of the page, seconds.
    montage, filters
        What is done to the signal.
    bad
        Channels that averages leave out; they are drawn, and marked.
    first_row, n_rows
        Which channels of the montage stand on the page; all if `n_rows` is None.
    """

    begin: float = 0.0
    length: float = 10.0
    montage: Montage = "as recorded"
    filters: DisplayFilters = field(default_factory=DisplayFilters)
    bad: Collection[str] = ()
    first_row: int = 0
    n_rows: int | None = None


@dataclass(frozen=True)
class Page:
    """What is drawn of a page.

    Attributes
    ----------
    channels
        Of the rows.
    n_channels
        In the whole montage.
    low, high
        Smallest and largest sample of each column, NaN where none was recorded. They are
        the same array where columns are single samples.
    begin
        Of the page, seconds.
    first_column, step
        Time of the first column and from one to the next, seconds.
    """

    channels: tuple[str, ...]
    n_channels: int
    low: Float[np.ndarray, "channel column"]
    high: Float[np.ndarray, "channel column"]
    begin: float
    first_column: float
    step: float

    @property
    def is_sampled(self) -> bool:
        """Whether each column is one sample."""
        return self.low is self.high


def draw_page(
    recording: LongRecording,
    view: View,
    *,
    n_columns: int,
    extrema: "Extrema | None" = None,
) -> Page:
    """One page, in at most `n_columns` columns or with every sample.

    Parameters
    ----------
    n_columns
        Where a page has up to twice as many samples, each of them is a column.
    extrema
        Of the recording; without them long pages are read whole.

    Raises
    ------
    BadInput
        ``E_CHANNELS`` if the montage cannot be had of these channels.
    """
    rate = recording.sampling_rate
    first = max(0, round(view.begin * rate))
    stop = min(recording.n_samples, round((view.begin + view.length) * rate))
    samples_a_column = max(1.0, view.length * rate / n_columns)
    is_plain = view.montage == "as recorded" and not view.filters.is_on
    if is_plain and extrema is not None and samples_a_column >= BIN:
        low, high, first, step = extrema.columns(first, stop, samples_a_column)
        rows = _rows(view, len(recording.channels))
        return Page(
            tuple(recording.channels[rows]),
            len(recording.channels),
            low[rows],
            high[rows],
            view.begin,
            first / rate,
            step / rate,
        )
    if samples_a_column <= 2:
        names, signal = _signal(recording, view, first, stop)
        low = high = signal
        samples_a_column = 1.0
    else:
        # A long page is taken in parts, each of whole columns: no more is in memory.
        n = int(np.ceil((stop - first) / samples_a_column))
        edges = first + np.floor(np.arange(n + 1) * samples_a_column).astype(int)
        edges[-1] = stop
        at_once = max(1, int(SECONDS_AT_ONCE * rate / samples_a_column))
        names, lows, highs = (), [], []
        for k in range(0, max(n, 1), at_once):
            part = edges[k : k + at_once + 1]
            names, signal = _signal(recording, view, int(part[0]), int(part[-1]))
            lows.append(np.fmin.reduceat(signal, part[:-1] - part[0], axis=1))
            highs.append(np.fmax.reduceat(signal, part[:-1] - part[0], axis=1))
        low, high = np.concatenate(lows, axis=1), np.concatenate(highs, axis=1)
    rows = _rows(view, len(names))
    return Page(
        names[rows],
        len(names),
        low,
        high,
        view.begin,
        first / rate,
        samples_a_column / rate,
    )


def _signal(
    recording: LongRecording, view: View, first: int, stop: int
) -> tuple[tuple[str, ...], Float[np.ndarray, "channel sample"]]:
    """All channels of the montage, and the signal of those on the page."""
    rate = recording.sampling_rate
    margin = round(view.filters.margin * rate)
    begin, end = max(0, first - margin), min(recording.n_samples, stop + margin)
    piece = Recording(
        signal=recording.samples(begin, end),
        channels=recording.channels,
        sampling_rate=float(rate),
        record_id=recording.record_id,
        unit=recording.unit,
    )
    piece = in_montage(piece, view.montage, bad=view.bad)
    signal = filter_for_display(
        piece.signal[_rows(view, len(piece.channels))],
        sampling_rate=float(rate),
        filters=view.filters,
    )
    return piece.channels, signal[:, first - begin : stop - begin]


def column_extrema(
    signal: Float[np.ndarray, "channel sample"], samples_a_column: float
) -> tuple[Float[np.ndarray, "channel column"], Float[np.ndarray, "channel column"]]:
    """Smallest and largest sample of each column; NaN where all of its samples are.

    Column k holds the samples from ``floor(k s)`` to before ``floor((k + 1) s)`` with s
    samples a column, so that every sample lies in exactly one.

    Examples
    --------
    >>> low, high = column_extrema(np.array([[1.0, 5.0, np.nan, -2.0, 0.0]]), 2.5)
    >>> low, high
    (array([[ 1., -2.]]), array([[5., 0.]]))
    """
    n_columns = int(np.ceil(signal.shape[1] / samples_a_column))
    edges = np.floor(np.arange(n_columns) * samples_a_column).astype(np.intp)
    if not n_columns:
        return signal[:, :0], signal[:, :0]
    return (
        np.fmin.reduceat(signal, edges, axis=1),
        np.fmax.reduceat(signal, edges, axis=1),
    )


def page_length(seconds: float) -> int:
    """The shortest page that holds a stretch; the longest page if none does.

    Examples
    --------
    >>> page_length(3.0), page_length(42.0), page_length(9_000.0)
    (5, 60, 600)
    """
    return next((length for length in PAGE_LENGTHS if length >= seconds), PAGE_LENGTHS[-1])


def typical_amplitude(recording: LongRecording) -> float:
    """A sensitivity for a recording whose unit is not known, in its unit a millimetre.

    The median of the channels' standard deviations over ten seconds in the middle, which
    then fills a millimetre; 1 where nothing was recorded there.
    """
    n = min(recording.n_samples, round(10 * recording.sampling_rate))
    first = (recording.n_samples - n) // 2
    piece = recording.samples(first, first + n)
    known = piece[:, ~np.isnan(piece).all(axis=0)]
    if not known.size:
        return 1.0
    spread = float(np.nanmedian(np.nanstd(known, axis=1)))
    return spread if spread > 0 else 1.0


def _rows(view: View, n_channels: int) -> slice:
    if view.n_rows is None or view.n_rows >= n_channels:
        return slice(0, n_channels)
    first = min(max(0, view.first_row), n_channels - view.n_rows)
    return slice(first, first + view.n_rows)


# Extrema of long pages


class Extrema:
    """Smallest and largest sample of every `BIN` samples of a recording, kept on disk.

    A block of bins is made when it is first asked for. It counts only with its check sum,
    so that what a crash left half written is made again; whoever else makes a block at the
    same time writes the same bytes.
    """

    def __init__(self, recording: LongRecording, folder: Path, key: str) -> None:
        """Open or begin the files of a recording.

        Parameters
        ----------
        folder
            Of the app; may not exist yet.
        key
            Of these bytes of the recording; see `fingerprint`.
        """
        self.recording = recording
        self.n_bins = -(-recording.n_samples // BIN)
        n_blocks = max(1, -(-self.n_bins // BINS_A_BLOCK))
        shape = (n_blocks, 2, len(recording.channels), BINS_A_BLOCK)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._blocks = _mapped(folder / f"{key}.extrema", np.float32, shape)
        self._sums = _mapped(folder / f"{key}.sums", np.uint64, (n_blocks,))

    def bins(
        self, first: int, stop: int
    ) -> tuple[Float32[np.ndarray, "channel bin"], Float32[np.ndarray, "channel bin"]]:
        """Extrema of bins `first` to before `stop`."""
        parts = []
        for block in range(first // BINS_A_BLOCK, -(-stop // BINS_A_BLOCK)):
            if self._sums[block] != _check_sum(self._blocks[block]):
                self._make(block)
            begin = block * BINS_A_BLOCK
            inside = slice(max(first - begin, 0), min(stop - begin, BINS_A_BLOCK))
            parts.append(self._blocks[block][:, :, inside])
        low, high = np.concatenate(parts, axis=2)
        return low, high

    def columns(
        self, first: int, stop: int, samples_a_column: float
    ) -> tuple[np.ndarray, np.ndarray, int, int]:
        """Columns of whole bins, none wider than asked for.

        Returns
        -------
        tuple
            Smallest and largest sample of each column, the first sample of the first, and
            the samples from one to the next.
        """
        bins_a_column = max(1, int(samples_a_column // BIN))
        first_bin = first // BIN
        low, high = self.bins(first_bin, max(first_bin + 1, -(-stop // BIN)))
        edges = np.arange(0, low.shape[1], bins_a_column)
        return (
            np.fmin.reduceat(low, edges, axis=1),
            np.fmax.reduceat(high, edges, axis=1),
            first_bin * BIN,
            bins_a_column * BIN,
        )

    def _make(self, block: int) -> None:
        first = block * BINS_A_BLOCK * BIN
        stop = min(first + BINS_A_BLOCK * BIN, self.recording.n_samples)
        low, high = column_extrema(self.recording.samples(first, stop), float(BIN))
        self._blocks[block, 0, :, : low.shape[1]] = low
        self._blocks[block, 1, :, : high.shape[1]] = high
        self._sums[block] = _check_sum(self._blocks[block])


def _check_sum(block: np.ndarray) -> np.uint64:
    """Never 0, which is what a file holds before a block is made."""
    return np.uint64(zlib.crc32(block.tobytes()) + 1)


def extrema_folder() -> Path:
    """Where stored extrema lie; the folder need not exist yet.

    It is named by ``PHENOKIT_CACHE``; without it, ``phenokit`` in the user's folder of
    caches (``XDG_CACHE_HOME``, else ``~/.cache``). It may be removed at any time.
    """
    named = os.environ.get("PHENOKIT_CACHE")
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return (Path(named).absolute() if named else Path(cache) / "phenokit") / "extrema"


def trim_extrema(folder: Path, *, n_recordings: int = 20) -> None:
    """Remove the extrema of all but the recordings that were opened last."""
    if not folder.is_dir():
        return
    files = sorted(folder.glob("*.extrema"), key=lambda path: -path.stat().st_mtime)
    for path in files[n_recordings:]:
        for one in (path, path.with_suffix(".sums")):
            one.unlink(missing_ok=True)


def _mapped(path: Path, dtype: type, shape: tuple[int, ...]) -> np.memmap:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    if not path.is_file() or path.stat().st_size != size:
        temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        with temporary.open("wb") as file:
            file.truncate(size)  # zeros that take no room until they are written
        temporary.replace(path)
    return np.memmap(path, dtype=dtype, mode="r+", shape=shape)


def fingerprint(paths: Sequence[Path]) -> str:
    """What tells the files of a recording from all others, without reading them whole.

    Their sizes, the first MiB and 64 pieces of 4 KiB spread over each. A file that was
    changed elsewhere has the same fingerprint, so nothing of safety may rest on it.
    """
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(paths):
        size = path.stat().st_size
        digest.update(size.to_bytes(8, "little"))
        with path.open("rb") as file:
            digest.update(file.read(1 << 20))
            for k in range(64):
                file.seek(size * k // 64)
                digest.update(file.read(4096))
    return digest.hexdigest()


# The bytes


def pack_pages(
    pages: Sequence[Page],
    *,
    header: Mapping[str, Any],
    bad: Collection[str] = (),
    trend: Float[np.ndarray, " segment"] | None = None,
) -> bytes:
    """Pages for the browser.

    Parameters
    ----------
    header
        What else the viewer needs to know; plain values.
    bad
        Channels that are marked.
    trend
        Probability of each segment of the recording, NaN where it was not evaluated.

    Returns
    -------
    bytes
        The length of the header (uint32, little-endian), the header (JSON, padded to a
        multiple of four), the rows of each page (int16, ``(row, column)`` or
        ``(row, column, 2)``), the trend (uint8, 0 to 250 for 0 to 1). A value is
        ``middle + scale * int16``.
    """
    digital, described = [], []
    for page in pages:
        middle, scale, steps = _quantise(page)
        digital.append(steps.astype("<i2").tobytes())
        described.append(
            {
                "begin": page.begin,
                "begin_column": page.first_column,
                "step": page.step,
                "n_columns": page.low.shape[1],
                "per": 1 if page.is_sampled else 2,
                "n_channels": page.n_channels,
                "rows": [
                    {"name": name, "middle": m, "scale": s, "bad": is_bad(name, bad)}
                    for name, m, s in zip(
                        page.channels, middle.tolist(), scale.tolist(), strict=True
                    )
                ],
            }
        )
    words = {**header, "pages": described, "n_trend": 0 if trend is None else len(trend)}
    text = json.dumps(words, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    encoded = text.encode()
    encoded += b" " * (-len(encoded) % 4)
    parts = [len(encoded).to_bytes(4, "little"), encoded, *digital]
    if trend is not None:
        known = ~np.isnan(trend)
        levels = np.full(len(trend), NOT_EVALUATED, dtype=np.uint8)
        levels[known] = np.round(250 * trend[known])
        parts.append(levels.tobytes())
    return b"".join(parts)


def unpack_pages(data: bytes) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Header and values of the rows of each page, as the browser reads them."""
    length = int.from_bytes(data[:4], "little")
    header = json.loads(data[4 : 4 + length])
    values, at = [], 4 + length
    for page in header["pages"]:
        shape = (len(page["rows"]), page["n_columns"], page["per"])
        size = int(np.prod(shape))
        digital = np.frombuffer(data, "<i2", size, at).reshape(shape)
        middle, scale = (
            np.array([row[name] for row in page["rows"]])[:, None, None]
            for name in ("middle", "scale")
        )
        values.append(np.where(digital == MISSING, np.nan, middle + scale * digital))
        at += 2 * size
    return header, values


def is_bad(name: str, bad: Collection[str]) -> bool:
    """Whether a channel, or one of a pair, is bad."""
    return name in bad or any(
        name == f"{one}-{name[len(one) + 1 :]}" or name.endswith(f"-{one}") for one in bad
    )


def _quantise(page: Page) -> tuple[np.ndarray, np.ndarray, Int16[np.ndarray, "..."]]:
    """Middle and step of each row, and its values in steps."""
    smallest = np.fmin.reduce(page.low, axis=1, initial=np.inf)
    largest = np.fmax.reduce(page.high, axis=1, initial=-np.inf)
    known = smallest <= largest
    smallest, largest = np.where(known, smallest, 0.0), np.where(known, largest, 0.0)
    middle = (smallest + largest) / 2
    scale = np.where(largest > smallest, (largest - smallest) / 65_000, 1.0)
    sides = [page.low] if page.is_sampled else [page.low, page.high]
    digital = np.empty((*page.low.shape, len(sides)), dtype=np.int16)
    for k, side in enumerate(sides):
        steps = (side - middle[:, None]) / scale[:, None]
        digital[:, :, k] = np.where(np.isnan(steps), MISSING, np.rint(steps))
    return middle, scale, digital
