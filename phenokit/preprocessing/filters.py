"""Zero-phase filters of a recording, and the same filter as a matrix in thin factors.

A Butterworth filter run forward and backward over a signal of fixed length, its padding
at both ends included, is a linear map of the samples: a matrix. Because the filter is a
recursion of few states, what one half of the signal does to the other passes through those
states only, and the blocks of the matrix off its diagonal have the rank of the recursion
(8 for a band-pass of order 4). `FilterOperator` keeps them as thin factors: one recording
is filtered by a few small matrix products, always of the same shapes.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise

import numpy as np
from jaxtyping import Float, Float32

from phenokit.recording import Recording

SMALLEST_BLOCK = 125
"""Samples; smaller blocks on the diagonal cost more calls than they save products."""

NEGLIGIBLE = 1e-7
"""Singular value below which a part of a block is left out: under float32's own error."""


def filter_signal(
    signal: Float[np.ndarray, "*leads sample"],
    *,
    sampling_rate: float,
    low: float,
    high: float | None,
    order: int,
) -> Float[np.ndarray, "*leads sample"]:
    """Filter along the last axis without shifting a wave in time.

    Parameters
    ----------
    signal
        Any shape, time last. One NaN makes its whole lead NaN: a gap is for the quality
        check to judge, not for a filter to bridge.
    sampling_rate, low, high
        Hz; the pass band lies between `low` and `high`, or above `low` if `high` is None.
    order
        Of the Butterworth filter of one direction; forward and backward double its slope.

    Returns
    -------
    np.ndarray
        float64, the shape of `signal`. Both ends are padded with a point reflection of
        three times the filter's length, as `scipy.signal.filtfilt` does by default.

    Raises
    ------
    ValueError
        If the band does not lie below half the sampling rate.
    """
    from scipy.signal import sosfiltfilt

    kind, edges = ("highpass", [low]) if high is None else ("bandpass", [low, high])
    if any(below >= above for below, above in pairwise([0, *edges, sampling_rate / 2])):
        raise ValueError(
            f"the edges {edges} Hz do not rise between 0 and {sampling_rate / 2:g} Hz, "
            "half the sampling rate"
        )
    sections = _sections(kind, *edges, order=order, sampling_rate=sampling_rate)
    return sosfiltfilt(sections, signal, axis=-1)


@lru_cache(maxsize=8)  # its design costs as much as filtering a recording
def _sections(
    kind: str, *edges: float, order: int, sampling_rate: float
) -> Float[np.ndarray, "section 6"]:
    from scipy.signal import butter

    # Second-order sections: at 500 Hz the polynomial form of a 0.5 Hz edge loses digits.
    return np.array(butter(order, np.squeeze(edges), kind, fs=sampling_rate, output="sos"))


@dataclass(frozen=True)
class FilterOperator:
    """The filter of signals of one length: ``operator.apply(x)`` is ``x @ matrix``.

    Attributes
    ----------
    diagonal
        The smallest blocks on the diagonal of the matrix, shape ``(block, size, size)``.
    levels
        For each halving, factors ``(left, right)`` of the blocks beside the diagonal,
        shapes ``(block, size, rank)`` and ``(block, rank, size)``: ``left[b]`` reduces
        block b of a signal to states, ``right[b]`` is what the states of the neighbouring
        block add to block b.
    """

    diagonal: Float32[np.ndarray, "block size size"]
    levels: tuple[tuple[np.ndarray, np.ndarray], ...]

    def apply(
        self, signal: Float32[np.ndarray, "lead sample"]
    ) -> Float32[np.ndarray, "lead sample"]:
        """The filtered signal."""
        filtered = _joined(_blocks(signal, len(self.diagonal)) @ self.diagonal)
        for left, right in self.levels:
            neighbour = np.arange(len(left)) ^ 1
            states = _blocks(signal, len(left)) @ left
            filtered += _joined(states[neighbour] @ right)
        return filtered


@lru_cache(maxsize=8)
def filter_operator(
    n_samples: int, *, sampling_rate: float, low: float, high: float | None, order: int
) -> FilterOperator:
    """`filter_signal` of signals of `n_samples` as an operator, in float32.

    Built once a process for each filter (well under a second for 1,000 samples) and kept.
    Parameters as in `filter_signal`.
    """
    matrix = filter_signal(
        np.eye(n_samples), sampling_rate=sampling_rate, low=low, high=high, order=order
    )
    size, levels = n_samples, []
    while size % 2 == 0 and size > SMALLEST_BLOCK:
        size //= 2
        starts = range(0, n_samples, size)
        factors = [_thin(matrix[_beside(i, size), i : i + size]) for i in starts]
        rank = max(len(right) for _, right in factors)
        left, right = zip(*(_padded(*factor, rank) for factor in factors), strict=True)
        neighbour = np.arange(len(starts)) ^ 1
        # factors[b] writes to block b and reads its neighbour
        levels.append((np.stack(left)[neighbour], np.stack(right)))
    diagonal = np.stack(
        [matrix[i : i + size, i : i + size] for i in range(0, n_samples, size)]
    )
    return FilterOperator(diagonal.astype(np.float32), tuple(levels))


def filter_window(
    signal: Float[np.ndarray, "lead sample"],
    *,
    sampling_rate: float,
    low: float,
    high: float | None,
    order: int,
) -> Float32[np.ndarray, "lead sample"]:
    """`filter_signal` of one short window by its `FilterOperator`, to float32 accuracy.

    One recording at a time, so that its result is the same bytes whichever recordings come
    before or after it. Parameters as in `filter_signal`.
    """
    operator = filter_operator(
        signal.shape[1], sampling_rate=sampling_rate, low=low, high=high, order=order
    )
    # Both filters remove a constant exactly; taking it off first keeps float32 accurate
    # for a recording that rides on a large electrode offset.
    centred = signal - signal.mean(axis=1, keepdims=True)
    return operator.apply(centred.astype(np.float32))


def bandpass(recording: Recording, *, low: float, high: float, order: int = 4) -> Recording:
    """The recording with only the frequencies from `low` to `high`, without delay.

    Examples
    --------
    >>> time = np.arange(5000) / 500
    >>> hum = Recording(np.sin(200 * np.pi * time)[None], ("II",), 500.0, "100 Hz")
    >>> filtered = bandpass(hum, low=0.5, high=40.0)
    >>> bool(np.abs(filtered.signal[0, 2000:3000]).max() < 0.01)
    True
    """
    filtered = filter_signal(
        recording.signal,
        sampling_rate=recording.sampling_rate,
        low=low,
        high=high,
        order=order,
    )
    return replace(recording, signal=filtered)


def highpass(recording: Recording, *, low: float, order: int = 1) -> Recording:
    """The recording without the drift below `low` Hz, without delay."""
    filtered = filter_signal(
        recording.signal,
        sampling_rate=recording.sampling_rate,
        low=low,
        high=None,
        order=order,
    )
    return replace(recording, signal=filtered)


def _blocks(
    signal: Float32[np.ndarray, "lead sample"], n_blocks: int
) -> Float32[np.ndarray, "block lead size"]:
    return signal.reshape(len(signal), n_blocks, -1).swapaxes(0, 1)


def _joined(
    blocks: Float32[np.ndarray, "block lead size"],
) -> Float32[np.ndarray, "lead sample"]:
    return blocks.swapaxes(0, 1).reshape(blocks.shape[1], -1)


def _beside(start: int, size: int) -> slice:
    """The block that shares a parent with the one at `start`."""
    neighbour = start + size if start // size % 2 == 0 else start - size
    return slice(neighbour, neighbour + size)


def _thin(block: Float[np.ndarray, "source target"]) -> tuple[np.ndarray, np.ndarray]:
    """Two factors of a block whose rank is low, to `NEGLIGIBLE`."""
    left, weight, right = np.linalg.svd(block, full_matrices=False)
    rank = int((weight > NEGLIGIBLE).sum())
    return left[:, :rank] * weight[:rank], right[:rank]


def _padded(
    left: np.ndarray, right: np.ndarray, rank: int
) -> tuple[np.ndarray, np.ndarray]:
    """The factors in float32 with zero columns and rows up to a common rank."""
    more = rank - len(right)
    left = np.pad(left, ((0, 0), (0, more))).astype(np.float32)
    return left, np.pad(right, ((0, more), (0, 0))).astype(np.float32)
