from pathlib import Path

import numpy as np
import pytest

from phenokit.preprocessing.filters import (
    bandpass,
    filter_operator,
    filter_signal,
    filter_window,
    highpass,
)
from phenokit.recording import LEADS, Recording

REFERENCE = Path(__file__).parents[1] / "reference/ecg/baseline_filter.npz"
BAND = {"low": 0.5, "high": 40.0, "order": 4}


@pytest.fixture
def signal():
    """Random walks with an electrode offset: all that a baseline can do."""
    steps = np.random.default_rng(1).normal(0.0, 0.1, (12, 1000))
    return 5.0 + steps.cumsum(axis=1)


def test_highpass_agrees_with_the_published_baseline_filter():
    with np.load(REFERENCE) as reference:
        raw = np.moveaxis(reference["raw"], 1, 2)
        expected = np.moveaxis(reference["expected_filtered"], 1, 2)
    recording = Recording(raw[0], LEADS, 100.0, "reference")
    np.testing.assert_allclose(
        highpass(recording, low=0.5).signal, expected[0], rtol=1e-4, atol=1e-5
    )
    band = {"sampling_rate": 100.0, "low": 0.5, "high": None, "order": 1}
    windows = np.stack([filter_window(record, **band) for record in raw])
    np.testing.assert_allclose(windows, expected, rtol=1e-4, atol=1e-5)


def test_filter_window_agrees_with_filter_signal(signal):
    window = filter_window(signal, sampling_rate=100.0, **BAND)
    expected = filter_signal(signal, sampling_rate=100.0, **BAND)
    np.testing.assert_allclose(window, expected, atol=5e-6 * np.abs(expected).max())


def test_filter_operator_holds_the_padding_at_both_ends():
    operator = filter_operator(1000, sampling_rate=100.0, **BAND)
    impulses = np.eye(1000, dtype=np.float32)[np.r_[0:30, 970:1000]]
    expected = filter_signal(impulses, sampling_rate=100.0, **BAND)
    np.testing.assert_allclose(operator.apply(impulses), expected, atol=2e-6)


def test_the_factors_of_the_operator_have_the_rank_of_the_recursion():
    bandpass_operator = filter_operator(1000, sampling_rate=100.0, **BAND)
    assert [left.shape[2] for left, _ in bandpass_operator.levels] == [8, 8, 8]
    highpass_operator = filter_operator(
        1000, sampling_rate=100.0, low=0.5, high=None, order=1
    )
    assert [left.shape[2] for left, _ in highpass_operator.levels] == [1, 1, 1]


@pytest.mark.parametrize("n_samples", [77, 250, 998, 999])
def test_filter_window_takes_any_length(signal, n_samples):
    window = filter_window(signal[:, :n_samples], sampling_rate=100.0, **BAND)
    expected = filter_signal(signal[:, :n_samples], sampling_rate=100.0, **BAND)
    np.testing.assert_allclose(window, expected, atol=1e-5)


def test_filters_are_linear(signal):
    filtered = filter_signal(signal, sampling_rate=100.0, **BAND)
    mixed = filter_signal(2.0 * signal[:6] - 3.0 * signal[6:], sampling_rate=100.0, **BAND)
    np.testing.assert_allclose(mixed, 2.0 * filtered[:6] - 3.0 * filtered[6:], atol=1e-10)


def test_bandpass_does_not_shift_a_wave_in_time():
    time = np.arange(5000) / 500
    wave = np.exp(-0.5 * ((time - 5.0) / 0.02) ** 2)
    filtered = bandpass(Recording(wave[None], ("II",), 500.0, "wave"), low=0.5, high=40.0)
    assert np.argmax(filtered.signal[0]) == 2500
    around = filtered.signal[0, 2400:2601]
    np.testing.assert_allclose(around, around[::-1], atol=1e-4)


def test_filters_pass_the_band_as_the_butterworth_formula_says():
    time = np.arange(30000) / 500
    tone = np.sin(2 * np.pi * 20 * time)
    filtered = filter_signal(tone, sampling_rate=500.0, low=20.0, high=None, order=1)
    # At its edge a Butterworth filter leaves 1/sqrt(2); forward and backward leave 1/2.
    left = np.sqrt(2 * np.mean(filtered[14000:16000] ** 2))  # 80 whole periods
    assert left == pytest.approx(0.5, rel=1e-6)


def test_a_gap_spoils_its_own_lead_only(signal):
    gap = signal.copy()
    gap[3, 500] = np.nan
    for filter_leads in (filter_signal, filter_window):
        filtered = filter_leads(gap, sampling_rate=100.0, **BAND)
        assert np.isnan(filtered[3]).all()
        whole = filter_leads(signal, sampling_rate=100.0, **BAND)
        np.testing.assert_array_equal(np.delete(filtered, 3, 0), np.delete(whole, 3, 0))


@pytest.mark.parametrize(("low", "high"), [(0.5, 50.0), (0.0, 40.0), (40.0, 0.5)])
def test_filters_refuse_a_band_that_does_not_fit_the_rate(low, high):
    with pytest.raises(ValueError, match="half the sampling rate"):
        filter_signal(np.zeros((1, 1000)), sampling_rate=100.0, low=low, high=high, order=4)
