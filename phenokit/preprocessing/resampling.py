"""Another sampling rate for a signal, with an anti-alias filter."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
from jaxtyping import Float

from phenokit.recording import Recording


def resample_signal(
    signal: Float[np.ndarray, "*leads sample"], *, sampling_rate: float, target_rate: float
) -> Float[np.ndarray, "*leads resampled"]:
    """Resample along the last axis by a polyphase filter (Kaiser window, zero phase).

    Parameters
    ----------
    signal
        Any shape, time last. NaN spreads over the length of the filter.
    sampling_rate, target_rate
        Hz, as recorded and as wanted. What lies above half the lower of the two is
        removed first, so that it cannot fold back into the band.

    Returns
    -------
    np.ndarray
        float64; ``round(n_samples * target_rate / sampling_rate)`` samples. Sample 0 stays
        at time 0. Beyond its ends the signal is taken to be at its mean.
    """
    if target_rate == sampling_rate:
        return signal.astype(np.float64)
    from scipy.signal import resample_poly

    n_samples = round(signal.shape[-1] * target_rate / sampling_rate)
    # 1e-6 of a second's length over the longest window is far below one sample.
    ratio = Fraction(target_rate / sampling_rate).limit_denominator(1000)
    mean = signal.mean(axis=-1, keepdims=True)
    resampled = resample_poly(signal - mean, ratio.numerator, ratio.denominator, axis=-1)
    resampled = resampled[..., :n_samples] + mean
    missing = n_samples - resampled.shape[-1]
    if missing > 0:  # a rate that is no simple fraction may leave one sample short
        last = np.repeat(resampled[..., -1:], missing, axis=-1)
        resampled = np.concatenate([resampled, last], axis=-1)
    return resampled


def resample(recording: Recording, target_rate: float) -> Recording:
    """The recording at `target_rate` Hz; see `resample_signal`.

    Examples
    --------
    >>> ecg = Recording(np.ones((1, 5000)), ("II",), 500.0, "constant")
    >>> resampled = resample(ecg, 100.0)
    >>> resampled.signal.shape, resampled.sampling_rate
    ((1, 1000), 100.0)
    """
    signal = resample_signal(
        recording.signal, sampling_rate=recording.sampling_rate, target_rate=target_rate
    )
    return replace(recording, signal=signal, sampling_rate=target_rate)
