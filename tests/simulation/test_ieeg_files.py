"""A simulated iEEG written as files is read back as what was simulated."""

import numpy as np
import pytest

from phenokit.readers.annotations import read_annotations
from phenokit.readers.ieeg import read_ieeg
from phenokit.simulation.ieeg import draw_patient, simulate_ieeg
from phenokit.simulation.ieeg_files import STEP, write_edf, write_patient_files


@pytest.fixture(scope="module")
def ieeg():
    rng = np.random.default_rng(3)
    patient = draw_patient(rng, n_channels=10, patient_id="simulated")
    return simulate_ieeg(patient, rng=rng, duration=300, n_seizures=1, n_gaps=1)


@pytest.fixture(scope="module")
def path(ieeg, tmp_path_factory):
    return write_patient_files(tmp_path_factory.mktemp("files"), "one", ieeg)


@pytest.fixture(scope="module")
def read(path):
    return read_ieeg(path)


def test_samples_are_those_of_the_simulation_to_half_a_step(ieeg, read):
    assert (read.channels, read.unit, read.sampling_rate) == (ieeg.channels, "uV", 512)
    n = read.n_samples
    assert ieeg.n_samples - n < 256
    there, made = read.samples(0, n), ieeg.samples(0, n)
    lost = np.isnan(there)
    np.testing.assert_allclose(there[~lost], made[~lost], atol=STEP / 2 + 1e-3)
    assert lost[np.isnan(made)].all()


def test_the_gap_stays_where_it_is_and_grows_by_less_than_a_record(ieeg, read):
    ((begin, end),) = read.gaps
    ((true_begin, true_end),) = ieeg.truth.gaps
    assert true_begin - 0.5 < begin <= true_begin + 1 / 512
    assert end == pytest.approx(true_end, abs=1 / 512)


def test_truth_and_places_stand_beside(ieeg, read):
    (seizure,), (true,) = read.seizures, ieeg.truth.seizures
    assert (seizure.onset, seizure.offset) == pytest.approx(
        (true.onset, true.offset), abs=0.02
    )
    assert seizure.channels == true.channels
    assert read.onset_zone == ieeg.truth.onset_zone
    places = np.array([read.positions[name] for name in read.channels])
    np.testing.assert_allclose(places, ieeg.patient.electrodes.position, atol=0.005)


def test_other_programs_read_the_file(path, read):
    import mne

    raw = mne.io.read_raw_edf(path, verbose="ERROR")
    volts, _ = raw[:, :512]
    np.testing.assert_allclose(np.asarray(volts) * 1e6, read.samples(0, 512), atol=1e-3)


def test_without_a_seizure_the_truth_is_what_was_recorded(tmp_path):
    rng = np.random.default_rng(5)
    patient = draw_patient(rng, n_channels=8)
    ieeg = simulate_ieeg(patient, rng=rng, duration=200, n_seizures=0, n_gaps=1)
    write_patient_files(tmp_path, "calm", ieeg)
    found = read_annotations(tmp_path / "calm_events.tsv")
    ((begin, end),) = ieeg.truth.gaps
    spans = [(e.onset, e.offset) for e in found.background]
    assert found.seizures == ()
    assert np.array(spans) == pytest.approx(np.array([[0, begin], [end, 200]]), abs=0.02)


class OneChannelMissing:
    """A recording that EDF cannot hold."""

    channels, record_id, unit, sampling_rate, n_samples = (
        ("A1", "A2"),
        "x",
        "uV",
        256.0,
        512,
    )

    def samples(self, first, stop):
        return np.array([[1.0], [np.nan]], dtype=np.float32).repeat(stop - first, axis=1)


def test_what_edf_cannot_say_is_refused(tmp_path):
    with pytest.raises(ValueError, match="one channel alone is NaN"):
        write_edf(tmp_path / "x.edf", OneChannelMissing())
