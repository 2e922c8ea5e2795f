"""Zero-phase filters of a recording, and the same filter as one matrix.

A Butterworth filter run forward and backward over a signal of fixed length, its padding
at both ends included, is a linear map of the samples. `filter_operator` is that map as a
matrix: filtering a record is then one matrix product, many times faster than a recursion
over each lead, and every record meets the same operation in the same shape.
"""

from dataclasses import replace
from functools import lru_cache
from itertools import pairwise

import numpy as np
from jaxtyping import Float

from phenokit.recording import Recording


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
    from scipy.signal import butter, sosfiltfilt

    kind, edges = ("highpass", [low]) if high is None else ("bandpass", [low, high])
    if any(below >= above for below, above in pairwise([0, *edges, sampling_rate / 2])):
        raise ValueError(
            f"the edges {edges} Hz do not rise between 0 and {sampling_rate / 2:g} Hz, "
            "half the sampling rate"
        )
    # Second-order sections: at 500 Hz the polynomial form of a 0.5 Hz edge loses digits.
    sections = butter(order, np.squeeze(edges), kind, fs=sampling_rate, output="sos")
    return sosfiltfilt(sections, signal, axis=-1)


@lru_cache(maxsize=8)
def filter_operator(
    n_samples: int, *, sampling_rate: float, low: float, high: float | None, order: int
) -> Float[np.ndarray, "sample sample"]:
    """The matrix M with ``filter_signal(x) == x @ M`` for signals of `n_samples`.

    Built once a process for each filter (a fraction of a second for 1,000 samples) and
    kept; float32, read-only. Parameters as in `filter_signal`.
    """
    impulses = np.eye(n_samples)
    operator = filter_signal(
        impulses, sampling_rate=sampling_rate, low=low, high=high, order=order
    ).astype(np.float32)
    operator.flags.writeable = False
    return operator


def filter_window(
    signal: Float[np.ndarray, "lead sample"],
    *,
    sampling_rate: float,
    low: float,
    high: float | None,
    order: int,
) -> Float[np.ndarray, "lead sample"]:
    """`filter_signal` of one short window by `filter_operator`, to float32 accuracy.

    The product is taken for one recording at a time, so that its result is the same bytes
    whichever recordings come before or after it. Parameters as in `filter_signal`.
    """
    operator = filter_operator(
        signal.shape[1], sampling_rate=sampling_rate, low=low, high=high, order=order
    )
    # Both filters remove a constant exactly; taking it off first keeps float32 accurate
    # for a recording that rides on a large electrode offset.
    centred = signal - signal.mean(axis=1, keepdims=True)
    return centred.astype(np.float32) @ operator


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
