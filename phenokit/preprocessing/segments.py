"""Intracranial EEG cut into the segments that MVPFormer reads, alike offline and streaming.

A segment depends on its own samples and on some hundredths of a second around it, so that
the order in which the pieces of a recording arrive cannot change it:

    faults      what of a channel cannot be used: missing, flat, clipped or mains
    resampled   anti-aliased, by a linear-phase filter of fixed length
    referenced  the median of the channels that can be used is taken away
    centred     each channel's mean is taken away; channels that cannot be used are 0
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Float32, Shaped

from phenokit.errors import BadInput
from phenokit.recording import LongRecording

Fault = Literal["missing", "flat", "clipped", "mains"]


@dataclass(frozen=True)
class SegmentRule:
    """What a segment is, and when a channel of it cannot be used.

    Attributes
    ----------
    sampling_rate
        Hz, of the segment.
    samples
        Of the segment.
    min_rate
        Least sampling rate (Hz) of a recording; below it the band is too narrow.
    reference
        ``"median"`` of the channels that can be used, or ``"as_recorded"``.
    min_referenced
        With fewer usable channels than this the signal stays as recorded.
    flat_seconds
        Shortest run of one value that makes a channel flat.
    clipped_share
        Share of the samples in runs of three or more at the channel's extremes from which
        on it is clipped.
    mains_share, mains_frequencies
        Share of the power above 1 Hz within 1 Hz of multiples of a mains frequency.
    """

    sampling_rate: float = 512.0
    samples: int = 2560
    min_rate: float = 200.0
    reference: Literal["median", "as_recorded"] = "median"
    min_referenced: int = 8
    flat_seconds: float = 1.0
    clipped_share: float = 0.01
    mains_share: float = 0.5
    mains_frequencies: tuple[float, ...] = (50.0, 60.0)

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.samples / self.sampling_rate

    def to_dict(self) -> dict[str, Any]:
        """As plain data for ``config.json``."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "SegmentRule":
        """From what `to_dict` wrote."""
        return cls(**{**data, "mains_frequencies": tuple(data["mains_frequencies"])})


@dataclass(frozen=True, eq=False)
class Segment:
    """One segment of all channels.

    Attributes
    ----------
    signal
        Microvolts (or the recording's unit), shape ``(channel, sample)``; 0 where a channel
        cannot be used.
    faults
        Why a channel cannot be used; ``None`` where it can.
    """

    signal: Float32[np.ndarray, "channel sample"]
    faults: tuple[Fault | None, ...]

    @property
    def valid(self) -> Bool[np.ndarray, " channel"]:
        """Which channels can be used."""
        return np.array([fault is None for fault in self.faults], dtype=bool)


class SegmentGrid:
    """The segments of recordings of one sampling rate.

    Parameters
    ----------
    rule
        What a segment is.
    sampling_rate
        Of the recording, Hz. Where a segment does not hold a whole number of its samples,
        it begins at the nearest one.

    Raises
    ------
    BadInput
        ``E_FS`` if the rate is too low.

    Examples
    --------
    >>> grid = SegmentGrid(SegmentRule(), 1000.0)
    >>> grid.n_segments(60_000), grid.span(1), grid.delay
    (12, (4875, 10125), 0.125)
    """

    def __init__(self, rule: SegmentRule, sampling_rate: float | int) -> None:
        if not rule.min_rate <= sampling_rate < np.inf:
            raise BadInput(
                "E_FS",
                f"{sampling_rate:g} Hz; segments are cut from recordings of "
                f"{rule.min_rate:g} Hz or more",
            )
        self.rule = rule
        self.sampling_rate = float(sampling_rate)
        ratio = Fraction(rule.sampling_rate / self.sampling_rate).limit_denominator(1000)
        self._up, self._down = ratio.numerator, ratio.denominator
        # SciPy's filter reaches ten samples of the lower of the two rates to each side.
        reach = 0 if ratio == 1 else 10 * max(ratio.numerator, ratio.denominator)
        self._margin = -(-reach // (self._up * self._down)) * self._down

    @property
    def delay(self) -> float:
        """Seconds after a segment's end that must have been recorded to prepare it."""
        return self._margin / self.sampling_rate

    def n_segments(self, n_samples: int) -> int:
        """Full segments in so many samples of the recording."""
        n = int(n_samples / self.sampling_rate / self.rule.duration + 1e-9)
        return n if n == 0 or self._bounds(n - 1)[1] <= n_samples else n - 1

    def span(self, number: int) -> tuple[int, int]:
        """First sample and the one past the last that a segment depends on.

        They may lie outside the recording; `prepare` wants NaN there.
        """
        first, stop = self._bounds(number)
        return first - self._margin, stop + self._margin

    def read(self, recording: LongRecording, number: int) -> Segment:
        """A segment of a recording."""
        first, stop = self.span(number)
        inside = max(first, 0), min(stop, recording.n_samples)
        raw = recording.samples(*inside)
        around = (inside[0] - first, stop - inside[1])
        return self.prepare(np.pad(raw, ((0, 0), around), constant_values=np.nan))

    def prepare(self, raw: Shaped[np.ndarray, "channel sample"]) -> Segment:
        """A segment from the samples of its `span`, float32 or float64."""
        margin = self._margin
        inner = raw[:, margin : raw.shape[1] - margin]
        faults = find_faults(inner, sampling_rate=self.sampling_rate, rule=self.rule)
        valid = np.array([fault is None for fault in faults], dtype=bool)
        signal = np.zeros((len(raw), self.rule.samples), dtype=np.float32)
        if valid.any():
            usable = self._resample(raw[valid])
            if self.rule.reference == "median" and len(usable) >= self.rule.min_referenced:
                usable = usable - _median(usable)
            signal[valid] = usable - usable.mean(axis=1, keepdims=True)
        return Segment(signal, faults)

    def _bounds(self, number: int) -> tuple[int, int]:
        length = self.rule.duration * self.sampling_rate
        return round(number * length), round((number + 1) * length)

    def _resample(
        self, raw: Shaped[np.ndarray, "channel sample"]
    ) -> Float[np.ndarray, "channel resampled"]:
        """Of channels without a hole, except in the margins."""
        margin = self._margin
        if not margin:
            return raw
        from scipy.signal import resample_poly

        raw = raw.astype(np.float64)
        centre = raw[:, margin : raw.shape[1] - margin].mean(axis=1, keepdims=True)
        for edge, side in (
            (raw[:, margin], raw[:, :margin]),
            (raw[:, -margin - 1], raw[:, raw.shape[1] - margin :]),
        ):
            np.copyto(side, edge[:, None], where=~np.isfinite(side))
        resampled = resample_poly(raw - centre, self._up, self._down, axis=1)
        first = margin * self._up // self._down
        return resampled[:, first : first + self.rule.samples] + centre


def find_faults(
    signal: Shaped[np.ndarray, "channel sample"],
    *,
    sampling_rate: float | int,
    rule: SegmentRule,
) -> tuple[Fault | None, ...]:
    """Why each channel of a segment cannot be used: the first reason that holds, or None.

    ``"missing"``: a sample is NaN or infinite; ``"flat"``, ``"clipped"``, ``"mains"``: see
    `SegmentRule`.

    Examples
    --------
    >>> flat, sound = np.zeros(2560), np.random.default_rng(0).normal(size=2560)
    >>> find_faults(np.stack([flat, sound]), sampling_rate=512, rule=SegmentRule())
    ('flat', None)
    """
    missing = ~np.isfinite(signal).all(axis=1)
    run = _run_lengths(signal)
    flat = run.max(axis=1) >= rule.flat_seconds * sampling_rate
    extreme = (signal == signal.max(axis=1, keepdims=True)) | (
        signal == signal.min(axis=1, keepdims=True)
    )
    clipped = (extreme & (run >= 3)).mean(axis=1) >= rule.clipped_share
    mains = np.zeros(len(signal), dtype=bool)
    asked = ~(missing | flat | clipped)
    if asked.any():
        mains[asked] = _mains_share(signal[asked], sampling_rate, rule) >= rule.mains_share
    kinds: tuple[Fault, ...] = ("missing", "flat", "clipped", "mains")
    table = np.stack([missing, flat, clipped, mains])
    return tuple(
        next((kind for kind, holds in zip(kinds, column, strict=True) if holds), None)
        for column in table.T.tolist()
    )


def _median(
    signal: Float[np.ndarray, "channel sample"],
) -> Float[np.ndarray, " sample"]:
    """Over the channels; a sort is four times as fast as `numpy.median`."""
    ordered, n = np.sort(signal, axis=0), len(signal)
    return (ordered[(n - 1) // 2] + ordered[n // 2]) / 2


def _run_lengths(signal: Shaped[np.ndarray, "channel sample"]) -> np.ndarray:
    """Of every sample, the length of the run of equal values that it belongs to."""
    n = signal.shape[1]
    index = np.arange(n)
    changes = np.ones(signal.shape, dtype=bool)
    changes[:, 1:] = signal[:, 1:] != signal[:, :-1]
    first = np.maximum.accumulate(np.where(changes, index, 0), axis=1)
    ends = np.roll(changes, -1, axis=1)
    ends[:, -1] = True
    last = np.minimum.accumulate(np.where(ends, index, n)[:, ::-1], axis=1)[:, ::-1]
    return last - first + 1


def _mains_share(
    signal: Shaped[np.ndarray, "channel sample"],
    sampling_rate: float | int,
    rule: SegmentRule,
) -> Float[np.ndarray, " channel"]:
    """Of the power above 1 Hz, at the mains frequency that has most of it."""
    from scipy.fft import rfft

    n = signal.shape[1]
    centred = signal - signal.mean(axis=1, keepdims=True)
    power = np.abs(np.asarray(rfft(centred * np.hanning(n), axis=1))) ** 2
    frequency = np.fft.rfftfreq(n, 1 / sampling_rate)
    whole = power[:, frequency > 1].sum(axis=1)
    share = np.zeros(len(signal))
    for mains in rule.mains_frequencies:
        order = np.maximum(np.round(frequency / mains), 1)
        at_mains = power[:, np.abs(frequency - order * mains) <= 1].sum(axis=1)
        share = np.maximum(share, at_mains / np.maximum(whole, 1e-300))
    return share
