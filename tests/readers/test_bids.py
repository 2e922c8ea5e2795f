"""What lies beside a recording is read with it: types, units, bad channels, events."""

from pathlib import Path

import numpy as np
import pytest

from phenokit import read_ieeg
from phenokit.errors import BadInput
from phenokit.simulation.ieeg_files import write_edf

STEM = "sub-01_ses-02_task-rest_run-1"
CHANNELS = """name\ttype\tunits\tstatus\tstatus_description
LA1\tSEEG\tµV\tgood\tn/a
LA2\tSEEG\tuV\tbad\tnoisy
LA3\tEEG\tuV\tgood\tn/a
X9\tEMG\tuV\tgood\tn/a
"""
ELECTRODES = """name\tx\ty\tz\tsize\tsoz
LA1\t1.5\t-2\t30\tn/a\ttrue
LA2\tn/a\tn/a\tn/a\tn/a\tfalse
"""
EVENTS = """onset\tduration\ttrial_type
5.0\t3.5\tseizure
1.0\tn/a\teyes open
"""


class Made:
    """A recording in memory."""

    channels = ("LA1", "LA2", "LA3", "X9", "RH1")
    sampling_rate, record_id, unit, n_samples = 256.0, "made", "uV", 2560

    def samples(self, first: int, stop: int) -> np.ndarray:
        rng = np.random.default_rng(1)
        return rng.normal(0, 80, (5, 2560)).astype(np.float32)[:, first:stop]


@pytest.fixture
def dataset(tmp_path) -> Path:
    """A folder of BIDS with one recording and every table beside it."""
    path = write_edf(tmp_path / f"{STEM}_ieeg.edf", Made())
    (tmp_path / f"{STEM}_channels.tsv").write_text(CHANNELS, encoding="utf-8")
    (tmp_path / f"{STEM}_events.tsv").write_text(EVENTS)
    (tmp_path / "sub-01_ses-02_space-MNI_electrodes.tsv").write_text(ELECTRODES)
    (tmp_path / "sub-02_ses-02_space-MNI_electrodes.tsv").write_text("name\nwrong\n")
    (tmp_path / f"{STEM}_ieeg.json").write_text(
        '{"iEEGReference": "mastoid", "PowerLineFrequency": 60, "InstitutionName": "X"}'
    )
    return path


def test_tables_of_bids_are_read_with_the_recording(dataset):
    recording = read_ieeg(dataset)
    assert recording.channels == ("LA1", "LA2", "RH1")
    assert dict(recording.dropped) == {"LA3": "type EEG", "X9": "type EMG"}
    assert dict(recording.bad) == {"LA2": "noisy"}
    assert (recording.reference, recording.mains_frequency) == ("mastoid", 60.0)
    assert recording.positions["LA1"] == (1.5, -2.0, 30.0)
    assert np.isnan(recording.positions["LA2"]).all()
    assert recording.onset_zone == ("LA1",)
    assert [(e.label, e.onset) for e in recording.annotations] == [
        ("eyes open", 1.0), ("sz", 5.0)
    ]  # fmt: skip
    assert [(e.onset, e.offset) for e in recording.seizures] == [(5.0, 8.5)]


def test_a_folder_with_one_recording_is_that_recording(dataset):
    assert read_ieeg(dataset.parent).record_id == f"{STEM}_ieeg"
    (dataset.parent / "second.edf").write_bytes(dataset.read_bytes())
    with pytest.raises(BadInput, match="holds 2 recordings"):
        read_ieeg(dataset.parent)


def test_a_channel_that_is_not_there_is_named(dataset):
    table = dataset.with_name(f"{STEM}_channels.tsv")
    table.write_text(CHANNELS + "LA4\tSEEG\tuV\tbad\tbroken\n", encoding="utf-8")
    with pytest.raises(BadInput, match="1 channels that the file has not") as refusal:
        read_ieeg(dataset)
    assert (refusal.value.code, refusal.value.where) == ("E_CHANNELS", "LA4")


def test_a_table_that_states_another_unit_is_refused(dataset):
    table = dataset.with_name(f"{STEM}_channels.tsv")
    table.write_text(CHANNELS.replace("µV", "V"), encoding="utf-8")
    with pytest.raises(BadInput, match="different units for signal 1") as refusal:
        read_ieeg(dataset)
    assert refusal.value.code == "E_UNITS"


@pytest.mark.parametrize(
    ("name", "data", "code"),
    [
        (f"{STEM}_ieeg.json", "{", "E_ENCODING"),
        (f"{STEM}_channels.tsv", "name,type\nLA1,SEEG\n", "E_COLUMNS"),
        (f"{STEM}_events.tsv", "onset\tduration\n-1\t2\n", "E_RANGE"),
        (
            "sub-01_ses-02_space-MNI_electrodes.tsv",
            "name\tx\ty\tz\nA\t1\t2\tq\n",
            "E_RANGE",
        ),
    ],
)
def test_a_damaged_table_is_refused_rather_than_left_out(dataset, name, data, code):
    dataset.with_name(name).write_text(data)
    with pytest.raises(BadInput) as refusal:
        read_ieeg(dataset)
    assert refusal.value.code == code


def test_a_table_that_is_a_link_is_not_followed(dataset, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "c.tsv"
    elsewhere.write_text(CHANNELS, encoding="utf-8")
    table = dataset.with_name(f"{STEM}_channels.tsv")
    table.unlink()
    table.symlink_to(elsewhere)
    with pytest.raises(BadInput) as refusal:
        read_ieeg(dataset)
    assert refusal.value.code == "E_PATH"
