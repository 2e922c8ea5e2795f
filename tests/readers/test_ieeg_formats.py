"""BrainVision and MEF3: the samples that were written, in microvolts, with their pauses."""

import numpy as np
import pytest
from mef3io import Writer

from phenokit import read_ieeg
from phenokit.errors import BadInput

HEADER = """Brain Vision Data Exchange Header File Version 1.0
; of {patient}

[Common Infos]
Codepage=UTF-8
DataFile={data}
MarkerFile=one.vmrk
DataFormat=BINARY
DataOrientation=MULTIPLEXED
NumberOfChannels=3
SamplingInterval=2000

[Binary Infos]
BinaryFormat={format}

[Channel Infos]
Ch1=LA1,,{resolution},{unit}
Ch2=LA2,,{resolution},{unit}
Ch3=EKG,,{resolution},{unit}
"""

MARKERS = """Brain Vision Data Exchange Marker File, Version 1.0

[Common Infos]
Codepage=UTF-8
DataFile=one.eeg

[Marker Infos]
Mk1=New Segment,,1,1,0,20130113161403794232
Mk2=Comment,seizure,501,1000,0
{more}
"""


@pytest.fixture
def brainvision(tmp_path):
    """`brainvision(...)`: a file of 3 channels, 2,000 samples at 500 Hz, and they."""
    digital = np.random.default_rng(1).integers(-3000, 3000, (3, 2000)).astype("<i2")

    def write(*, unit="µV", resolution=0.1, data="one.eeg", more="", float32=False, cut=0):
        kind = "IEEE_FLOAT_32" if float32 else "INT_16"
        values = digital.astype("<f4") if float32 else digital
        header = HEADER.format(
            data=data, unit=unit, resolution=resolution, format=kind, patient="Jane Doe"
        )
        (tmp_path / "one.vhdr").write_text(header)
        (tmp_path / "one.vmrk").write_text(MARKERS.format(more=more))
        stored = values.T.tobytes()
        (tmp_path / "one.eeg").write_bytes(stored[: len(stored) - cut])
        return tmp_path / "one.vhdr", digital[:2] * 0.1

    return write


@pytest.mark.parametrize(
    ("unit", "resolution", "float32"),
    [("µV", 0.1, False), ("uV", 0.1, True), ("mV", 1e-4, False), ("V", 1e-7, False),
     ("", 0.1, False)],
)  # fmt: skip
def test_brainvision_gives_the_samples_whatever_the_unit(
    brainvision, unit, resolution, float32
):
    path, expected = brainvision(unit=unit, resolution=resolution, float32=float32)
    recording = read_ieeg(path)
    assert (recording.unit, recording.source_format) == ("uV", "BrainVision")
    assert (recording.channels, dict(recording.dropped)) == (("LA1", "LA2"), {"EKG": "ECG"})
    np.testing.assert_allclose(recording.samples(0, 2000), expected, rtol=1e-6)
    np.testing.assert_allclose(recording.samples(700, 900), expected[:, 700:900], rtol=1e-6)


def test_a_comment_that_says_seizure_is_one(brainvision):
    recording = read_ieeg(brainvision()[0])
    assert [(e.onset, e.offset) for e in recording.seizures] == [(1.0, 3.0)]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"unit": "furlong"}, "E_UNITS"),
        ({"data": "../one.eeg"}, "E_PATH"),
        ({"data": "other.eeg"}, "E_MISSING"),
        ({"cut": 1}, "E_SIZE_MISMATCH"),
        ({"cut": 12_000}, "E_EMPTY"),
        ({"more": "Mk3=New Segment,,1001,1,0,20130113161503794232"}, "E_DISCONTINUOUS"),
    ],
)
def test_brainvision_that_cannot_be_trusted_is_refused(brainvision, change, code):
    with pytest.raises(BadInput) as refusal:
        read_ieeg(brainvision(**change)[0])
    assert refusal.value.code == code


def test_brainvision_marker_file_outside_the_folder_is_refused(brainvision):
    path, _ = brainvision()
    path.write_text(path.read_text().replace("MarkerFile=one.vmrk", "MarkerFile=/etc/x"))
    with pytest.raises(BadInput) as refusal:
        read_ieeg(path)
    assert refusal.value.code == "E_PATH"


def test_nothing_of_a_header_that_was_commented_stays(brainvision):
    stored = read_ieeg(brainvision()[0]).stored
    assert "Doe" not in repr(vars(stored)["raw"].info)


@pytest.fixture
def mef3(tmp_path):
    """`mef3(...)`: a session of two channels at 512 Hz; it pauses 10 s after 10 s."""
    signal = np.random.default_rng(2).normal(0, 80, (2, 512 * 30))

    def write(*, units="uV", late=0):
        path = tmp_path / "night.mefd"
        writer = Writer(str(path), overwrite=True, units=units)
        start = 1_600_000_000_000_000
        for k, name in enumerate(("LA1", "LA2")):
            writer.write(name, signal[k, : 512 * 10], start, 512.0, precision=3)
            begin = start + 20_000_000 + k * late
            writer.write(name, signal[k, 512 * 10 :], begin, 512.0, precision=3)
        writer.close()
        return path, signal

    return write


def test_mef3_gives_the_samples_and_the_pause_stays_one(mef3):
    path, signal = mef3()
    recording = read_ieeg(path)
    assert (recording.channels, recording.unit) == (("LA1", "LA2"), "uV")
    assert (recording.duration, recording.gaps) == (40.0, ((10.0, 20.0),))
    got = recording.samples(0, recording.n_samples)
    assert np.isnan(got[:, 5120:10240]).all()
    np.testing.assert_allclose(got[:, :5120], signal[:, :5120], atol=6e-4)
    np.testing.assert_allclose(got[:, 10240:], signal[:, 5120:], atol=6e-4)
    np.testing.assert_array_equal(recording.samples(5000, 11_000), got[:, 5000:11_000])


def test_mef3_is_what_mne_reads_of_it_where_there_is_no_pause(mef3):
    from mne.io import read_raw_mef

    path, _ = mef3(units="mV")
    volts = read_raw_mef(path, verbose="ERROR")[:, :5120][0]
    np.testing.assert_allclose(read_ieeg(path).samples(0, 5120), volts * 1e6, rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "code"),
    [({"units": "furlong"}, "E_UNITS"), ({"late": 500_000}, "E_DISCONTINUOUS")],
)
def test_mef3_that_cannot_be_trusted_is_refused(mef3, change, code):
    with pytest.raises(BadInput) as refusal:
        read_ieeg(mef3(**change)[0])
    assert refusal.value.code == code


def test_mef3_with_a_link_or_a_damaged_part_is_refused(mef3):
    path, _ = mef3()
    part = next(path.rglob("*.tidx"))
    data = part.read_bytes()
    part.write_bytes(b"\0" * len(data))
    with pytest.raises(BadInput) as refusal:
        read_ieeg(path)
    assert refusal.value.code == "E_HEADER"
    part.unlink()
    part.symlink_to("/etc/hostname")
    with pytest.raises(BadInput) as refusal:
        read_ieeg(path)
    assert refusal.value.code == "E_PATH"


@pytest.mark.parametrize(
    ("name", "data"),
    [("a.lay", b"[FileInfo]\nFile=a.dat\n"), ("a.eeg", b"EEG-1100C V01.00" + b"\0" * 2000)],
)
def test_damaged_files_of_vendors_are_refused_with_a_code(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    (tmp_path / "a.dat").write_bytes(b"\0" * 100)
    with pytest.raises(BadInput) as refusal:
        read_ieeg(tmp_path / name)
    assert refusal.value.code == "E_HEADER"
