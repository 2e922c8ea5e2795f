"""A segment depends on its own samples only, and says what of it cannot be used."""

import numpy as np
import pytest

from phenokit.errors import BadInput
from phenokit.preprocessing.segments import SegmentGrid, SegmentRule, find_faults
from phenokit.recording import LongRecording

RULE = SegmentRule()


class Array:
    """A recording of an array."""

    record_id, unit = "array", "uV"

    def __init__(self, signal, sampling_rate):
        self.signal, self.sampling_rate = signal.astype(np.float32), sampling_rate
        self.channels = tuple(f"A{k + 1}" for k in range(len(signal)))
        self.n_samples = signal.shape[1]

    def samples(self, first, stop):
        return self.signal[:, first:stop]


def noise(n_channels, seconds, rate, seed=0):
    rng = np.random.default_rng(seed)
    return 40 * rng.standard_normal((n_channels, round(seconds * rate)))


@pytest.mark.parametrize("rate", [500.0, 512.0, 999.5, 1000.0, 2048.0, 5000.0])
def test_a_sine_comes_out_at_its_time_whatever_the_rate(rate):
    time = np.arange(round(20 * rate)) / rate
    recording = Array(np.stack([50 * np.sin(2 * np.pi * 7.3 * time)]), rate)
    assert isinstance(recording, LongRecording)
    segment = SegmentGrid(RULE, rate).read(recording, 2)
    expected = 50 * np.sin(2 * np.pi * 7.3 * (10 + np.arange(2560) / 512))
    np.testing.assert_allclose(segment.signal[0], expected - expected.mean(), atol=1.2)


def test_what_lies_above_half_the_new_rate_does_not_fold_back():
    time = np.arange(60_000) / 5000.0
    recording = Array(np.stack([50 * np.sin(2 * np.pi * 470 * time)]), 5000.0)
    segment = SegmentGrid(RULE, 5000.0).read(recording, 1)
    assert np.abs(segment.signal).max() < 0.5


@pytest.mark.parametrize("rate", [512.0, 1000.0])
def test_samples_beyond_the_span_change_nothing(rate):
    signal = noise(9, 20, rate)
    grid = SegmentGrid(RULE, rate)
    first, stop = grid.span(2)
    before = grid.read(Array(signal, rate), 2)
    signal[:, :first], signal[:, stop:] = 1e6, np.nan
    np.testing.assert_array_equal(grid.read(Array(signal, rate), 2).signal, before.signal)


def test_the_median_of_the_usable_channels_is_taken_away():
    signal = noise(9, 5, 512.0)
    signal[8] = np.nan
    segment = SegmentGrid(RULE, 512.0).read(Array(signal, 512.0), 0)
    raw = signal[:8].astype(np.float32)
    expected = raw - np.median(raw, axis=0)
    expected -= expected.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(segment.signal[:8], expected, atol=1e-4)
    assert not segment.signal[8].any()
    assert segment.faults == (*[None] * 8, "missing")


def test_few_channels_stay_as_recorded():
    signal = noise(2, 5, 512.0)
    segment = SegmentGrid(RULE, 512.0).read(Array(signal, 512.0), 0)
    centred = signal - signal.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(segment.signal, centred, atol=1e-4)


def test_each_fault_is_named():
    rate = 512.0
    signal = noise(6, 5, rate)
    time = np.arange(2560) / rate
    signal[1, 700] = np.inf
    signal[2, 100:620] = signal[2, 100]
    signal[3] = np.clip(3 * signal[3], -60, 60)
    signal[4] += 400 * np.sin(2 * np.pi * 60 * time)
    signal[5] = np.round(signal[5])  # coarse steps are no fault
    faults = find_faults(signal, sampling_rate=rate, rule=RULE)
    assert faults == (None, "missing", "flat", "clipped", "mains", None)


def test_a_flat_stretch_short_of_a_second_is_no_fault():
    signal = noise(1, 5, 512.0)
    signal[0, 100:600] = signal[0, 100]
    assert find_faults(signal, sampling_rate=512.0, rule=RULE) == (None,)
    signal[0, 100:612] = signal[0, 100]
    assert find_faults(signal, sampling_rate=512.0, rule=RULE) == ("flat",)


def test_segments_are_full_and_a_low_rate_is_refused():
    assert SegmentGrid(RULE, 512.0).n_segments(2560 * 3 - 1) == 2
    assert SegmentGrid(RULE, 1000.0).n_segments(5000 * 3) == 3
    with pytest.raises(BadInput, match="150 Hz") as refusal:
        SegmentGrid(RULE, 150.0)
    assert refusal.value.code == "E_FS"
    assert SegmentRule.from_dict(RULE.to_dict()) == RULE
