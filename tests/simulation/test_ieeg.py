from dataclasses import replace

import numpy as np
import pytest

from phenokit.simulation.ieeg import draw_patient, simulate_ieeg


@pytest.fixture(scope="module")
def ieeg():
    """Ten minutes of 24 channels with one short seizure and a gap."""
    return simulate()


def simulate():
    rng = np.random.default_rng(7)
    patient = replace(draw_patient(rng, n_channels=24), slowness=1.5)
    return simulate_ieeg(patient, rng=rng, duration=600, n_seizures=1)


@pytest.fixture(scope="module")
def signal(ieeg):
    return np.concatenate(list(ieeg.blocks(100_000)), axis=1)


def good(ieeg):
    names = ieeg.channels
    return [k for k, name in enumerate(names) if name not in ieeg.truth.bad_channels]


@pytest.mark.parametrize("n_samples", [7_777, 512, 8_192 * 3])
def test_the_samples_do_not_depend_on_the_blocks(ieeg, signal, n_samples):
    stop = 60_000
    blocks = list(ieeg.blocks(n_samples, stop=stop))
    assert blocks[0].shape[1] == n_samples
    np.testing.assert_array_equal(np.concatenate(blocks, axis=1), signal[:, :stop])


def test_a_piece_from_the_middle_is_that_of_the_whole(ieeg, signal):
    [piece] = ieeg.blocks(30_000, first=123_456, stop=150_000)
    np.testing.assert_array_equal(piece, signal[:, 123_456:150_000])
    recording = ieeg.read(200, 210)
    np.testing.assert_array_equal(recording.signal, signal[:, 200 * 512 : 210 * 512])
    assert (recording.unit, recording.sampling_rate) == ("uV", 512)


def test_the_same_generator_gives_the_same_recording(ieeg, signal):
    again = simulate()
    assert again.truth.seizures == ieeg.truth.seizures
    [first] = again.blocks(10_000, stop=10_000)
    np.testing.assert_array_equal(first, signal[:, :10_000])


def test_the_amplitude_is_that_of_a_brain_in_microvolts(ieeg, signal):
    rms = np.nanstd(signal[good(ieeg)], axis=1)
    assert ((rms > 15) & (rms < 200)).all()


def test_a_seizure_begins_in_the_onset_zone_and_reaches_its_channels_later(ieeg):
    [seizure] = ieeg.truth.seizures
    [recruitment] = ieeg.truth.recruitment
    assert seizure.channels[0] in ieeg.truth.onset_zone
    assert np.nanmin(recruitment) == pytest.approx(seizure.onset)
    assert (~np.isnan(recruitment)).sum() == len(seizure.channels) > 2
    assert np.nanmax(recruitment) < seizure.offset
    assert 15 < seizure.duration < 90


def test_a_seizure_shows_where_and_when_the_truth_says(ieeg, signal):
    [seizure] = ieeg.truth.seizures
    zone = [ieeg.channels.index(name) for name in ieeg.truth.onset_zone]
    onset = round(seizure.onset * 512)
    [before, after] = (
        np.abs(np.diff(signal[zone, a:b])).mean()
        for a, b in ((onset - 20 * 512, onset - 512), (onset + 512, onset + 8 * 512))
    )
    assert after > 1.2 * before


def test_a_gap_is_nan_in_every_channel_and_nothing_else_is(ieeg, signal):
    [(begin, end)] = ieeg.truth.gaps
    missing = np.isnan(signal)
    assert missing[:, round(begin * 512) : round(end * 512)].all()
    assert missing.sum() == missing.shape[0] * (round(end * 512) - round(begin * 512))
    [seizure] = ieeg.truth.seizures
    assert end < seizure.onset or begin > seizure.offset


def test_neighbours_on_a_shaft_are_more_alike_than_contacts_apart(ieeg, signal):
    calm = signal[:, :50_000]
    alike = np.corrcoef(calm[good(ieeg)])
    distance = ieeg.patient.electrodes.distance[np.ix_(good(ieeg), good(ieeg))]
    near = (distance > 0) & (distance < 4)
    assert np.median(alike[near]) > np.median(alike[distance > 20]) + 0.2


def test_at_most_two_percent_of_the_time_are_ictal():
    rng = np.random.default_rng(1)
    patient = replace(draw_patient(rng, n_channels=8), slowness=1.0)
    ieeg = simulate_ieeg(patient, rng=rng, duration=4 * 3600)
    seizures = ieeg.truth.seizures
    assert seizures
    assert sum(s.duration for s in seizures) <= 0.02 * ieeg.duration
    ends = [0, *(s.offset for s in seizures)]
    assert min(s.onset - end for s, end in zip(seizures, ends, strict=False)) >= 150
    assert seizures[-1].offset <= ieeg.duration


def test_bad_channels_are_bad_as_stated():
    rng = np.random.default_rng(3)
    while True:
        patient = draw_patient(rng, n_channels=64)
        if len(set(patient.bad_channels.values())) == 4:
            break
    ieeg = simulate_ieeg(patient, rng=rng, duration=60, n_seizures=0, n_gaps=0)
    signal = ieeg.read(10, 20).signal
    by_fault = {fault: signal[k] for k, fault in patient.bad_channels.items()}
    assert (by_fault["flat"] == 0).all()
    assert (np.abs(by_fault["clipped"]) == 400).mean() > 0.1
    spectrum = np.abs(np.fft.rfft(by_fault["mains"])) ** 2
    assert spectrum[500] > 0.8 * spectrum.sum()  # 50 Hz in ten seconds


@pytest.mark.parametrize(
    ("wrong", "words"),
    [({"duration": 59}, "60 s or more"), ({"sampling_rate": 500}, "multiple of 512 Hz")],
)
def test_a_recording_that_cannot_be_simulated_is_refused(ieeg, wrong, words):
    with pytest.raises(ValueError, match=words):
        simulate_ieeg(
            ieeg.patient, rng=np.random.default_rng(0), **({"duration": 60} | wrong)
        )


@pytest.mark.parametrize("n_channels", [7, 129])
def test_other_numbers_of_channels_are_refused(n_channels):
    with pytest.raises(ValueError, match="simulated are 8 to 128"):
        draw_patient(np.random.default_rng(0), n_channels=n_channels)


@pytest.mark.parametrize("n_channels", [8, 37, 128])
def test_channels_have_the_names_of_shafts_in_order(n_channels):
    electrodes = draw_patient(np.random.default_rng(5), n_channels=n_channels).electrodes
    assert len(set(electrodes.names)) == len(electrodes.names) == n_channels
    assert electrodes.names[0].endswith("1")
    steps = np.linalg.norm(np.diff(electrodes.position, axis=0), axis=1)
    same = np.diff(electrodes.shaft) == 0
    np.testing.assert_allclose(steps[same], 3.5)
