"""Noise and electrode faults of simulated recordings."""

import numpy as np
import pytest

from phenokit.recording import LEADS
from phenokit.simulation.ecg import simulate_ecg
from phenokit.simulation.noise import (
    NO_NOISE,
    Noise,
    clip_amplifier,
    cut_gap,
    detach_lead,
    electrode_noise,
    loosen_lead,
    reverse_arms,
)


@pytest.fixture(scope="module")
def recording():
    return simulate_ecg("normal", rng=np.random.default_rng(1), noise=NO_NOISE).recording


def spectrum(noise):
    rng = np.random.default_rng(0)
    signal = electrode_noise(noise, rng, sampling_rate=500.0, samples=5000)
    power = (np.abs(np.fft.rfft(signal, axis=1)) ** 2).sum(0)
    return np.fft.rfftfreq(5000, 1 / 500), power / power.sum()


def test_wander_is_slow_and_muscle_is_fast():
    frequency, wander = spectrum(Noise(wander=0.1))
    _, muscle = spectrum(Noise(muscle=0.1))
    assert wander[frequency < 1].sum() > 0.98
    assert muscle[frequency > 20].sum() > 0.85


@pytest.mark.parametrize("mains_frequency", [50.0, 60.0])
def test_mains_hum_stands_at_its_frequency(mains_frequency):
    frequency, power = spectrum(Noise(mains=0.1, mains_frequency=mains_frequency))
    assert frequency[power.argmax()] == mains_frequency
    assert power.max() > 0.99


def test_noise_doubles_with_its_level():
    one, two = (
        electrode_noise(
            Noise(muscle=level), np.random.default_rng(0), sampling_rate=500.0, samples=1000
        )
        for level in (0.01, 0.02)
    )
    np.testing.assert_allclose(2 * one, two)


def test_no_noise_is_silence():
    rng = np.random.default_rng(0)
    assert not electrode_noise(NO_NOISE, rng, sampling_rate=500.0, samples=100).any()


def test_reversed_arms_turn_lead_i_over_and_keep_einthoven(recording):
    swapped = reverse_arms(recording)
    np.testing.assert_array_equal(swapped.channel("I"), -recording.channel("I"))
    np.testing.assert_array_equal(swapped.channel("III"), recording.channel("II"))
    np.testing.assert_array_equal(swapped.channel("aVL"), recording.channel("aVR"))
    np.testing.assert_array_equal(swapped.channel("V3"), recording.channel("V3"))
    np.testing.assert_allclose(
        swapped.channel("I") + swapped.channel("III"), swapped.channel("II"), atol=1e-12
    )


def test_reversing_the_arms_twice_changes_nothing(recording):
    twice = reverse_arms(reverse_arms(recording))
    np.testing.assert_array_equal(twice.signal, recording.signal)


def test_detached_lead_is_flat_from_the_moment_on_and_alone(recording):
    faulty = detach_lead(recording, "V4", begin=4.0)
    assert np.ptp(faulty.channel("V4")[2000:]) == 0
    changed = [
        lead for lead in LEADS if (faulty.channel(lead) != recording.channel(lead)).any()
    ]
    assert changed == ["V4"]


def test_clipped_amplifier_stays_within_its_limit(recording):
    clipped = clip_amplifier(recording, limit=0.5).signal
    assert np.abs(clipped).max() == 0.5
    inside = np.abs(recording.signal) < 0.5
    np.testing.assert_array_equal(clipped[inside], recording.signal[inside])


def test_loose_lead_drowns_in_noise(recording):
    loose = loosen_lead(recording, "V2", rng=np.random.default_rng(0), size=0.8)
    added = loose.channel("V2") - recording.channel("V2")
    assert added.std() == pytest.approx(0.8, rel=0.05)  # 5,000 samples: 1 % standard error


def test_gap_is_missing_in_every_lead(recording):
    missing = np.isnan(cut_gap(recording, begin=2.0, end=3.5).signal)
    assert missing.any(axis=0).sum() == 750
    assert (missing.all(axis=0) == missing.any(axis=0)).all()
