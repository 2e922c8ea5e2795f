import numpy as np
import pytest

from phenokit.preprocessing.resampling import resample, resample_signal
from phenokit.recording import Recording


@pytest.mark.parametrize("rate", [100.0, 128.0, 250.0, 257.0, 360.0, 500.0, 977.5, 1000.0])
def test_resample_keeps_a_slow_wave(rate):
    wave = np.sin(2 * np.pi * 3 * np.arange(round(10 * rate)) / rate)
    resampled = resample(Recording(wave[None], ("II",), rate, "wave"), 100.0)
    expected = np.sin(2 * np.pi * 3 * np.arange(1000) / 100.0)
    assert resampled.signal.shape == (1, 1000)
    np.testing.assert_allclose(resampled.signal[0, 50:950], expected[50:950], atol=3e-3)


def test_resample_does_not_fold_what_lies_above_half_the_rate():
    tone = np.sin(2 * np.pi * 90 * np.arange(5000) / 500)  # would fold back to 10 Hz
    resampled = resample_signal(tone, sampling_rate=500.0, target_rate=100.0)
    assert np.abs(resampled[50:950]).max() < 0.002


def test_resample_keeps_a_constant_up_to_both_ends():
    level = np.full((2, 3600), 7.0)
    resampled = resample_signal(level, sampling_rate=360.0, target_rate=100.0)
    np.testing.assert_allclose(resampled, 7.0, rtol=1e-12)


def test_resample_to_the_same_rate_changes_nothing():
    signal = np.random.default_rng(2).normal(size=(12, 1000))
    same = resample_signal(signal, sampling_rate=100.0, target_rate=100.0)
    np.testing.assert_array_equal(same, signal)
