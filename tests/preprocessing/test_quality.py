import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from phenokit.errors import BadInput, first_code
from phenokit.preprocessing.quality import assess_quality
from phenokit.recording import LEADS, Notice, Recording, derive_limb_leads

# P, Q, R, S and T wave: seconds from the R peak, width in seconds
WAVES = ((-0.16, 0.025), (-0.025, 0.008), (0.0, 0.010), (0.028, 0.009), (0.28, 0.05))
# mV of the five waves in I, II and V1 to V6
HEIGHTS = {
    "I": (0.09, -0.05, 0.7, -0.1, 0.22), "II": (0.14, -0.06, 1.1, -0.15, 0.3),
    "V1": (0.05, 0.0, 0.2, -0.9, -0.1), "V2": (0.06, 0.0, 0.4, -1.2, 0.35),
    "V3": (0.07, 0.0, 0.7, -0.8, 0.4), "V4": (0.08, -0.04, 1.3, -0.4, 0.4),
    "V5": (0.08, -0.06, 1.2, -0.2, 0.35), "V6": (0.08, -0.06, 0.9, -0.1, 0.28),
}  # fmt: skip


def ecg(*, rate=500.0, duration=10.0, heart_rate=70.0, noise=0.01, seed=3) -> Recording:
    """A sinus rhythm with a little jitter, noise and drift, in steps of 1 uV."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(rate * duration)) / rate
    beats = np.arange(0.4, duration, 60 / heart_rate)
    beats = beats + rng.normal(0, 0.01, len(beats))
    shape = {
        lead: sum(
            height * np.exp(-((time - beat - delay) ** 2) / (2 * width**2))
            for beat in beats
            for height, (delay, width) in zip(heights, WAVES, strict=True)
        )
        for lead, heights in HEIGHTS.items()
    }
    measured = np.stack(list(shape.values()))
    measured = measured + noise * rng.normal(size=measured.shape)
    measured += 0.1 * np.sin(2 * np.pi * (0.2 * time + rng.uniform(size=(8, 1))))
    limb = derive_limb_leads(measured[0], measured[1])
    signal = np.concatenate([measured[:2], limb, measured[2:]])
    return Recording(np.round(signal, 3), LEADS, rate, "ecg", resolution=np.full(12, 0.001))


def code(recording: Recording) -> str:
    return first_code(notice.code for notice in assess_quality(recording).notices)


def changed(recording: Recording, lead: str, row) -> Recording:
    signal = recording.signal.copy()
    signal[LEADS.index(lead)] = row
    return replace(recording, signal=signal)


def arms_swapped(recording: Recording) -> Recording:
    signal = recording.signal[[0, 2, 1, 4, 3, 5, 6, 7, 8, 9, 10, 11]].copy()
    signal[0] *= -1
    return replace(recording, signal=signal)


@pytest.mark.parametrize("rate", [100.0, 128.0, 250.0, 360.0, 500.0, 1000.0])
@pytest.mark.parametrize("heart_rate", [35.0, 70.0, 150.0, 220.0])
def test_a_clean_ecg_is_good_at_any_rate_and_its_heart_rate_is_found(rate, heart_rate):
    quality = assess_quality(ecg(rate=rate, heart_rate=heart_rate))
    assert quality.notices == ()
    assert {lead.verdict for lead in quality.leads} == {"good"}
    assert quality.heart_rate == pytest.approx(heart_rate, rel=0.05)


@pytest.mark.parametrize("rate", [100.0, 500.0])
def test_a_flat_lead_is_named_with_the_next_step(rate):
    recording = changed(ecg(rate=rate), "V2", 0.3)
    quality = assess_quality(recording)
    assert code(recording) == "A_FLAT"
    assert "V2 is flat: check the electrode" in quality.notices[0].message
    assert [lead.lead for lead in quality.leads if lead.verdict == "flat"] == ["V2"]
    assert not quality.is_assessable


def test_a_lead_that_goes_flat_for_two_seconds_is_flat():
    recording = ecg()
    row = recording.channel("V3").copy()
    row[2000:3100] = row[2000]
    assert code(changed(recording, "V3", row)) == "A_FLAT"


def test_a_wrong_unit_is_an_amplitude_and_no_flat_lead():
    recording = ecg()
    small, large = (
        replace(recording, signal=recording.signal * k, resolution=np.full(12, 0.001 * k))
        for k in (0.001, 1000.0)
    )
    assert code(small) == code(large) == "A_AMPLITUDE"


@pytest.mark.parametrize("rate", [100.0, 500.0, 1000.0])
def test_plateaus_at_the_peaks_are_clipping_and_peaks_are_not(rate):
    recording = ecg(rate=rate, noise=0.0)
    row = recording.channel("V4")
    assert code(recording) == "OK"
    quality = assess_quality(changed(recording, "V4", np.minimum(row, 0.7)))
    assert [notice.code for notice in quality.notices] == ["A_CLIP"]
    assert "V4" in quality.notices[0].message


def test_white_noise_and_a_random_walk_have_no_heartbeat():
    rng = np.random.default_rng(0)
    recording = ecg(rate=100.0)
    noise = replace(recording, signal=rng.normal(0, 0.3, (12, 1000)))
    walk = replace(recording, signal=np.cumsum(rng.normal(0, 0.05, (12, 1000)), axis=1))
    for quality in (assess_quality(noise), assess_quality(walk)):
        assert "A_NOISE" in [notice.code for notice in quality.notices]
        assert quality.heart_rate is None


def test_one_noisy_lead_is_named():
    recording = ecg()
    noise = np.random.default_rng(0).normal(0, 0.4, recording.signal.shape[1])
    recording = changed(recording, "V5", recording.channel("V5") + noise)
    assert "V5 is noisy" in assess_quality(recording).notices[0].message


def test_a_gap_is_missing_and_one_lead_without_samples_is_named():
    recording = ecg()
    row = recording.channel("aVL").copy()
    row[100:700] = np.nan
    assert code(changed(recording, "aVL", row)) == "A_MISSING"
    assert code(changed(recording, "V1", np.nan)) == "A_MISSING"


def test_a_gap_after_the_scored_window_does_not_count():
    recording = ecg(duration=20.0)
    recording.signal[:, 6000:6100] = np.nan
    assert code(recording) == "OK"


@pytest.mark.parametrize(
    ("duration", "expected"),
    [(2.0, "A_DURATION"), (9.8, "A_DURATION"), (9.95, "OK"), (35.0, "OK")],
)
def test_ten_seconds_are_needed(duration, expected):
    assert code(ecg(duration=duration)) == expected


def test_an_impossible_heart_rate_points_at_the_sampling_rate():
    recording = ecg(heart_rate=320.0)
    assert code(recording) == "A_DURATION"
    assert "sampling rate" in assess_quality(recording).notices[0].message


def test_a_recording_played_five_times_too_fast_is_not_scored():
    slow = ecg(rate=100.0, duration=50.0, heart_rate=75.0)
    quality = assess_quality(replace(slow, sampling_rate=500.0))
    assert not quality.is_assessable


def test_limb_leads_that_contradict_each_other_are_told():
    recording = ecg()
    doubled = changed(recording, "III", 2 * recording.channel("III"))
    signal = recording.signal.copy()
    signal[[4, 5]] = signal[[5, 4]]  # aVL and aVF in the wrong order
    assert code(doubled) == "A_EINTHOVEN"
    assert code(replace(recording, signal=signal)) == "A_EINTHOVEN"


def test_leads_scaled_to_one_range_do_not_contradict_each_other():
    recording = ecg()
    low = recording.signal.min(axis=1, keepdims=True)
    span = np.ptp(recording.signal, axis=1, keepdims=True)
    scaled = replace(recording, signal=np.round((recording.signal - low) / span, 3))
    assert code(scaled) == "OK"


@pytest.mark.parametrize("rate", [100.0, 500.0])
def test_swapped_arms_are_told_and_swapping_back_is_fine(rate):
    recording = ecg(rate=rate)
    assert code(arms_swapped(recording)) == "A_LEADREV"
    assert code(arms_swapped(arms_swapped(recording))) == "OK"


def test_the_notice_of_an_inverted_recording_is_kept_and_a_warning_is_not():
    notices = (Notice("W_TIME", "no time"), Notice("A_POLARITY", "inverted"))
    quality = assess_quality(replace(ecg(), notices=notices))
    assert [notice.code for notice in quality.notices] == ["A_POLARITY"]


def test_the_worse_reason_comes_first():
    rng = np.random.default_rng(0)
    recording = replace(ecg(rate=100.0), signal=rng.normal(0, 0.3, (12, 1000)))
    quality = assess_quality(changed(recording, "V6", 0.0))
    assert [notice.code for notice in quality.notices][:2] == ["A_FLAT", "A_NOISE"]


def test_the_order_of_the_leads_does_not_matter():
    recording = changed(ecg(), "V2", 0.0)
    turned = replace(
        recording, signal=recording.signal[::-1].copy(), channels=LEADS[::-1],
        resolution=np.full(12, 0.001),
    )  # fmt: skip
    assert assess_quality(turned) == assess_quality(recording)


@pytest.mark.parametrize("n_samples", [1, 2, 30, 150])
def test_a_stump_of_a_recording_is_too_short_and_no_error(n_samples):
    recording = ecg(rate=100.0)
    stump = replace(recording, signal=recording.signal[:, :n_samples])
    assert code(stump) == "A_DURATION"


def test_a_recording_without_a_lead_is_an_error():
    recording = ecg()
    with pytest.raises(BadInput, match="V6"):
        assess_quality(
            replace(
                recording,
                signal=recording.signal[:11],
                channels=LEADS[:11],
                resolution=None,
            )
        )


def real_recordings(archive: str, key: str, resolution: float) -> list[Recording]:
    folder = os.environ.get("PHENOKIT_DATA")
    if folder is None:
        pytest.skip("PHENOKIT_DATA is not set")
    deltas = np.load(Path(folder) / archive)[key]
    return [
        Recording(
            row.cumsum(-1, dtype=np.int16) * resolution, LEADS, 500.0, "real",
            resolution=np.full(12, resolution),
        )
        for row in deltas
    ]  # fmt: skip


@pytest.mark.realdata
@pytest.mark.parametrize(
    "archive", ["ptbxl-500-raw/records500_delta_uV.npz", "ludb/ludb_500hz_delta_uV.npz"]
)
def test_real_ecgs_are_scored_and_swapped_arms_are_found(archive):
    recordings = real_recordings(archive, "d", 0.001)
    plain = [code(recording) for recording in recordings]
    swapped = [code(arms_swapped(recording)) for recording in recordings]
    assert plain.count("OK") >= 0.97 * len(plain)
    assert plain.count("A_LEADREV") <= 0.005 * len(plain)
    assert swapped.count("A_LEADREV") >= 0.8 * len(swapped)
