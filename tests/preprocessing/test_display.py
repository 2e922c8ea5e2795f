"""Montages and filters of the viewer, against sums by hand and laws."""

import numpy as np
import pytest

from phenokit.errors import BadInput
from phenokit.preprocessing.display import (
    DisplayFilters,
    filter_for_display,
    in_montage,
)
from phenokit.recording import Recording

RATE = 512.0
TIME = np.arange(4096) / RATE


def tone(frequency: float) -> np.ndarray:
    return np.sin(2 * np.pi * frequency * TIME)


def middle(signal: np.ndarray) -> float:
    """Amplitude away from both ends."""
    return float(np.abs(signal[..., 1024:3072]).max())


@pytest.mark.parametrize(
    ("filters", "kept", "gone"),
    [
        (DisplayFilters(low=3.0), 20.0, 0.3),
        (DisplayFilters(high=30.0), 5.0, 120.0),
        (DisplayFilters(notch=50.0), 45.0, 100.0),
    ],
)
def test_a_filter_takes_out_what_its_name_says(filters, kept, gone):
    signal = np.stack([tone(kept), tone(gone)])
    filtered = filter_for_display(signal, sampling_rate=RATE, filters=filters)
    assert middle(filtered[0]) == pytest.approx(1.0, abs=0.05)
    assert middle(filtered[1]) < 0.05


def test_a_filter_shifts_no_wave_in_time():
    filters = DisplayFilters(low=1.0, high=70.0, notch=50.0)
    filtered = filter_for_display(tone(10.0)[None], sampling_rate=RATE, filters=filters)
    lag = np.argmax(np.correlate(filtered[0], tone(10.0), "full")) - (len(TIME) - 1)
    assert lag == 0


def test_a_gap_stays_a_gap_and_each_side_is_filtered_by_itself():
    signal = np.stack([tone(10.0), tone(4.0)])
    signal[:, 1000:1600] = np.nan
    filters = DisplayFilters(low=1.0)
    filtered = filter_for_display(signal, sampling_rate=RATE, filters=filters)
    assert np.isnan(filtered[:, 1000:1600]).all()
    alone = filter_for_display(signal[:, :1000], sampling_rate=RATE, filters=filters)
    np.testing.assert_array_equal(filtered[:, :1000], alone)
    assert np.isfinite(filtered[:, 1600:]).all()


def test_one_channel_without_a_sample_leaves_the_others_alone():
    signal = np.stack([tone(10.0), np.full(4096, np.nan)])
    filters = DisplayFilters(high=70.0)
    filtered = filter_for_display(signal, sampling_rate=RATE, filters=filters)
    assert np.isnan(filtered[1]).all()
    alone = filter_for_display(signal[:1], sampling_rate=RATE, filters=filters)
    np.testing.assert_array_equal(filtered[:1], alone)


def test_an_edge_above_half_the_rate_is_refused():
    with pytest.raises(ValueError, match="150 Hz is not between 0 and 128 Hz"):
        filter_for_display(
            tone(3.0)[None], sampling_rate=256.0, filters=DisplayFilters(high=150.0)
        )


def test_without_a_filter_the_signal_is_the_same_bytes():
    signal = tone(3.0)[None]
    assert (
        filter_for_display(signal, sampling_rate=RATE, filters=DisplayFilters()) is signal
    )
    assert DisplayFilters().words() == "low filter off, high filter off, notch off"


def recording(*channels: str) -> Recording:
    signal = np.arange(float(len(channels)))[:, None] ** 2 + np.zeros((1, 3))
    return Recording(signal, channels, 512.0, "r", unit="uV")


def test_an_average_leaves_out_the_bad_channels():
    shown = in_montage(recording("A1", "A2", "A3"), "common average", bad=("A3",))
    np.testing.assert_array_equal(shown.signal[:, 0], [-0.5, 0.5, 3.5])


def test_pairs_are_made_of_contacts_and_say_where_there_are_none():
    shown = in_montage(recording("A1", "Fz", "A2"), "bipolar")
    assert shown.channels == ("A1-A2",)
    assert shown.signal[0, 0] == -4.0
    with pytest.raises(BadInput, match="no pairs"):
        in_montage(recording("Fz", "Cz"), "bipolar")
