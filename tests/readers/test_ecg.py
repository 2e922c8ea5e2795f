"""Contract tests: each format is written here, by hand or by another program, and read."""

import base64
import binascii
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest

from phenokit.errors import BadInput
from phenokit.readers.ecg import is_ecg_file, is_eeg_file, read_ecg
from phenokit.recording import LEADS

STEP_UV = 2.5
RATE = 500
NAME = "Mustermann"


@pytest.fixture
def digital(rng) -> np.ndarray:
    """Steps of 2.5 uV, shape (lead, sample)."""
    return rng.integers(-2000, 2000, size=(12, RATE // 2)).astype(np.int16)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(11)


def assert_is(recording, digital, *, derived=()) -> None:
    """The recording holds these steps in mV, in the order of LEADS, and no name."""
    rows = [i for i, lead in enumerate(LEADS) if lead not in derived]
    expected = digital.astype(float) * STEP_UV / 1000
    np.testing.assert_allclose(recording.signal[rows], expected[rows], rtol=0, atol=1e-12)
    assert recording.channels == LEADS
    assert recording.sampling_rate == RATE
    assert len(recording.sha256) == 64
    assert NAME not in repr(recording)


def refusal(path: Path, **options) -> BadInput:
    with pytest.raises(BadInput) as caught:
        read_ecg(path, **options)
    assert NAME not in str(caught.value)
    return caught.value


# --- writers ------------------------------------------------------------------------------


def hl7_aecg(digital, *, increment="0.002") -> str:
    sequences = "".join(
        f"<component><sequence><code code='MDC_ECG_LEAD_{lead.upper()}'/>"
        f"<value><origin value='0' unit='uV'/><scale value='{STEP_UV}' unit='uV'/>"
        f"<digits>{' '.join(map(str, row))}</digits></value></sequence></component>"
        for lead, row in zip(LEADS, digital, strict=True)
    )
    return (
        "<?xml version='1.0' encoding='UTF-8'?>"
        "<AnnotatedECG xmlns='urn:hl7-org:v3'><componentOf><timepointEvent><componentOf>"
        "<subjectAssignment><subject><trialSubject><subjectDemographicPerson>"
        f"<name>{NAME}</name><administrativeGenderCode code='F'/>"
        "</subjectDemographicPerson></trialSubject></subject></subjectAssignment>"
        "</componentOf></timepointEvent></componentOf>"
        "<component><series><code code='RHYTHM'/><component><sequenceSet>"
        "<component><sequence><code code='TIME_RELATIVE'/><value>"
        f"<head value='0' unit='s'/><increment value='{increment}' unit='s'/></value>"
        f"</sequence></component>{sequences}</sequenceSet></component></series></component>"
        "</AnnotatedECG>"
    )


def muse(digital, *, unit="MICROVOLTS", leads=(0, 1, 6, 7, 8, 9, 10, 11)) -> str:
    data = "".join(
        f"<LeadData><LeadID>{LEADS[i]}</LeadID><LeadSampleCountTotal>{digital.shape[1]}"
        f"</LeadSampleCountTotal><LeadAmplitudeUnitsPerBit>{STEP_UV}"
        f"</LeadAmplitudeUnitsPerBit><LeadAmplitudeUnits>{unit}</LeadAmplitudeUnits>"
        f"<WaveFormData>{base64.b64encode(digital[i].astype('<i2').tobytes()).decode()}"
        "</WaveFormData></LeadData>"
        for i in leads
    )
    return (
        f"<RestingECG><PatientDemographics><PatientLastName>{NAME}</PatientLastName>"
        "<PatientAge>61</PatientAge><AgeUnits>YEARS</AgeUnits><Gender>MALE</Gender>"
        "</PatientDemographics><Waveform><WaveformType>Rhythm</WaveformType>"
        f"<SampleBase>{RATE}</SampleBase><SampleExponent>0</SampleExponent>{data}"
        "</Waveform></RestingECG>"
    )


def philips(digital) -> str:
    payload = base64.b64encode(digital.astype("<i2").tobytes()).decode()
    return (
        "<restingecgdata xmlns='http://www3.medical.philips.com'><documentinfo>"
        "<documenttype>SierraECG</documenttype><documentversion>1.04</documentversion>"
        f"</documentinfo><patient><generalpatientdata><name><lastname>{NAME}</lastname>"
        "</name></generalpatientdata></patient><dataacquisition><signalcharacteristics>"
        f"<samplingrate>{RATE}</samplingrate><resolution>{STEP_UV}</resolution>"
        "<numberchannelsallocated>12</numberchannelsallocated>"
        "</signalcharacteristics></dataacquisition><waveforms><parsedwaveforms "
        f"durationperchannel='{1000 * digital.shape[1] // RATE}' dataencoding='Base64' "
        f"leadlabels='{' '.join(LEADS)}' numberofleads='12'>{payload}</parsedwaveforms>"
        "</waveforms></restingecgdata>"
    )


def scp(digital) -> bytes:
    """SCP-ECG (EN 1064) with sections 0, 3 and 6: uncompressed, simultaneous leads."""
    codes = (1, 2, 61, 62, 63, 64, 3, 4, 5, 6, 7, 8)
    n_samples = digital.shape[1]
    leads = b"".join(struct.pack("<IIB", 1, n_samples, code) for code in codes)
    section3 = bytes([12, 0b00000100 | 12 << 3 & 0xFF]) + leads
    section6 = struct.pack("<HHBB", round(STEP_UV * 1000), 1_000_000 // RATE, 0, 0)
    section6 += struct.pack("<12H", *[2 * n_samples] * 12) + digital.astype("<i2").tobytes()

    def section(number: int, body: bytes) -> bytes:
        body += b"\0" * (len(body) % 2)
        rest = struct.pack("<HIBB6s", number, 16 + len(body), 13, 13, b"\0" * 6) + body
        return struct.pack("<H", binascii.crc_hqx(rest, 0xFFFF)) + rest

    sections = {3: section(3, section3), 6: section(6, section6)}
    lengths = {0: 16 + 12 * 10, 1: 0, 2: 0, **{k: len(v) for k, v in sections.items()}}
    pointers, position = b"", 7
    for number in range(12):
        length = lengths.get(number, 0)
        pointers += struct.pack("<HII", number, length, position if length else 0)
        position += length
    body = section(0, pointers) + b"".join(sections.values())
    rest = struct.pack("<I", 6 + len(body)) + body
    return struct.pack("<H", binascii.crc_hqx(rest, 0xFFFF)) + rest


def edf(digital, **changes: str) -> bytes:
    """EDF with one data record of the whole length; changes replace fields of signal 1."""
    n_samples = digital.shape[1]
    half = STEP_UV * 32768 / 1000
    fields = {
        "label": (16, [f"ECG {lead}" for lead in LEADS]), "transducer": (80, [NAME] * 12),
        "unit": (8, ["mV"] * 12), "low": (8, [f"{-half:.4f}"] * 12),
        "high": (8, [f"{half - STEP_UV / 1000:.4f}"[:8]] * 12),
        "d_low": (8, ["-32768"] * 12), "d_high": (8, ["32767"] * 12),
        "filter": (80, [""] * 12),
        "n": (8, [str(n_samples)] * 12), "reserved": (32, [""] * 12),
    }  # fmt: skip
    for name, value in changes.items():
        fields[name][1][0] = value
    fixed = f"{'0':8}{NAME:80}{NAME:80}01.02.2612.30.00{256 * 13:<8}{'':44}{1:<8}"
    fixed += f"{n_samples / RATE:<8}{12:<4}"
    signals = "".join(f"{v:{w}}" for w, values in fields.values() for v in values)
    return (fixed + signals).encode() + digital.astype("<i2").tobytes()


def dicom(path: Path, digital, *, unit="uV") -> None:
    from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
    from pydicom.uid import UID, ExplicitVRLittleEndian, TwelveLeadECGWaveformStorage

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = TwelveLeadECGWaveformStorage
    meta.MediaStorageSOPInstanceUID = UID("1.2.3")
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    file.SOPClassUID, file.SOPInstanceUID = TwelveLeadECGWaveformStorage, "1.2.3"
    file.PatientName, file.Modality, file.PatientSex = NAME, "ECG", "F"
    group = Dataset()
    group.NumberOfWaveformChannels, group.NumberOfWaveformSamples = 12, digital.shape[1]
    group.WaveformOriginality, group.SamplingFrequency = "ORIGINAL", RATE
    group.WaveformBitsAllocated, group.WaveformSampleInterpretation = 16, "SS"
    group.ChannelDefinitionSequence = []
    for lead in LEADS:
        channel, source, units = Dataset(), Dataset(), Dataset()
        source.CodeValue, source.CodingSchemeDesignator = f"MDC_ECG_LEAD_{lead}", "MDC"
        source.CodeMeaning = f"Lead {lead}"
        units.CodeValue, units.CodingSchemeDesignator, units.CodeMeaning = (
            unit,
            "UCUM",
            unit,
        )
        channel.ChannelSourceSequence = [source]
        channel.ChannelSensitivity, channel.ChannelSensitivityCorrectionFactor = STEP_UV, 1
        channel.ChannelSensitivityUnitsSequence = [units]
        channel.ChannelBaseline, channel.WaveformBitsStored = 0, 16
        group.ChannelDefinitionSequence.append(channel)
    group.WaveformData = digital.T.astype("<i2").tobytes()
    file.WaveformSequence = [group]
    file.save_as(path, enforce_file_format=True)


def csv(digital, *, header=None, time=True) -> str:
    rows = digital.T.astype(float) * STEP_UV / 1000
    names = header or [f"{lead} [mV]" for lead in LEADS]
    lines = [",".join((["time"] if time else []) + names)]
    lines += [
        ",".join(([f"{i / RATE:.3f}"] if time else []) + [f"{value:.4f}" for value in row])
        for i, row in enumerate(rows)
    ]
    return "\n".join(lines) + "\n"


# --- contracts ----------------------------------------------------------------------------


@pytest.mark.parametrize("writer", [hl7_aecg, muse, philips])
def test_read_ecg_reads_xml_that_was_written_by_hand(writer, digital, tmp_path):
    path = tmp_path / "a.xml"
    path.write_text(writer(digital))
    recording = read_ecg(path, root=tmp_path)
    assert_is(recording, digital, derived=recording.derived)
    assert recording.record_id == "a"
    assert is_ecg_file(path)
    assert recording.resolution is not None
    np.testing.assert_allclose(recording.resolution[[0, 1, 6]], STEP_UV / 1000)


def test_read_ecg_derives_the_limb_leads_that_muse_leaves_out(digital, tmp_path):
    (tmp_path / "a.xml").write_text(muse(digital))
    recording = read_ecg(tmp_path / "a.xml")
    assert recording.derived == ("III", "aVR", "aVL", "aVF")
    assert [notice.code for notice in recording.notices] == ["W_DERIVED"]
    np.testing.assert_allclose(
        recording.channel("aVF"), recording.channel("II") - recording.channel("I") / 2
    )
    assert (recording.age, recording.sex) == (61.0, "male")


def test_read_ecg_reads_scp_ecg(digital, tmp_path):
    path = tmp_path / "a.scp"
    path.write_bytes(scp(digital))
    assert_is(read_ecg(path, root=tmp_path), digital)
    assert is_ecg_file(path)


def test_read_ecg_refuses_scp_ecg_with_one_flipped_bit(digital, tmp_path):
    data = bytearray(scp(digital))
    data[-5] ^= 1
    (tmp_path / "a.scp").write_bytes(data)
    assert refusal(tmp_path / "a.scp").code == "E_CHECKSUM"
    (tmp_path / "a.scp").write_bytes(data[:-10])
    assert refusal(tmp_path / "a.scp").code == "E_SIZE_MISMATCH"


def test_read_ecg_reads_dicom_that_pydicom_wrote(digital, tmp_path):
    path = tmp_path / "a.dcm"
    dicom(path, digital)
    recording = read_ecg(path, root=tmp_path)
    assert_is(recording, digital)
    assert recording.sex == "female"
    assert is_ecg_file(path)


def test_read_ecg_refuses_a_picture_named_dicom(tmp_path):
    (tmp_path / "a.dcm").write_bytes(b"\xff\xd8\xff\xe0" + b"\0" * 200)
    assert refusal(tmp_path / "a.dcm").code == "E_DICOM"


def test_read_ecg_reads_edf_that_was_written_by_hand(digital, tmp_path):
    path = tmp_path / "a.edf"
    path.write_bytes(edf(digital))
    recording = read_ecg(path, root=tmp_path)
    np.testing.assert_allclose(
        recording.signal, digital * STEP_UV / 1000, rtol=2e-5, atol=1e-4
    )
    assert NAME not in repr(recording)
    assert recording.sampling_rate == RATE


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"low": "1", "high": "1"}, "E_CALIBRATION"),
        ({"d_low": "5", "d_high": "5"}, "E_CALIBRATION"),
        ({"unit": "furlong"}, "E_UNITS"),
        ({"label": "ECG II"}, "E_CHANNELS"),
        ({"label": "Pleth"}, "E_LEADS"),
        ({"low": "nan"}, "E_HEADER"),
        ({"n": "1e3"}, "E_HEADER"),
        ({"n": "251"}, "E_SIZE_MISMATCH"),
    ],
)
def test_read_ecg_refuses_edf_fields_that_cannot_be_used(changes, code, digital, tmp_path):
    (tmp_path / "a.edf").write_bytes(edf(digital, **changes))
    assert refusal(tmp_path / "a.edf").code == code


def test_an_edf_file_without_a_lead_is_an_eeg(digital, tmp_path):
    data = edf(digital)
    eeg = b"".join(f"LA{k + 1}".ljust(16).encode() for k in range(12))
    for name, content in {
        "ecg.edf": data,
        "eeg.edf": data[:256] + eeg + data[256 + 12 * 16 :],
        "damaged.edf": data[:300],
    }.items():
        (tmp_path / name).write_bytes(content)
    assert [is_eeg_file(path) for path in sorted(tmp_path.iterdir())] == [
        False, False, True,
    ]  # fmt: skip
    assert all(is_ecg_file(path) for path in tmp_path.iterdir())


def test_read_ecg_applies_an_inverted_range_of_edf_and_says_so(digital, tmp_path):
    plain, inverted = tmp_path / "a.edf", tmp_path / "b.edf"
    plain.write_bytes(edf(digital, low="-80", high="80", d_low="-32767"))
    inverted.write_bytes(edf(digital, low="80", high="-80", d_low="-32767"))
    turned = read_ecg(inverted)
    assert [notice.code for notice in turned.notices] == ["W_POLARITY"]
    np.testing.assert_allclose(
        turned.channel("I"), -read_ecg(plain).channel("I"), atol=1e-9
    )


def test_read_ecg_reads_csv_with_a_time_column(digital, tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(csv(digital))
    assert_is(read_ecg(path, root=tmp_path), digital)
    assert is_ecg_file(path)


def test_read_ecg_needs_rate_and_unit_for_a_csv_that_states_neither(digital, tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(csv(digital, header=list(LEADS), time=False))
    assert refusal(path).code == "E_FS"
    assert refusal(path, sampling_rate=500.0).code == "E_UNITS"
    assert_is(read_ecg(path, sampling_rate=500.0, unit="mV"), digital)
    assert refusal(path, sampling_rate=50.0, unit="mV").code == "E_FS"


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (lambda text: text.replace(",", ";"), "E_COLUMNS"),
        (lambda text: text.replace("\n0.004,", "\n0.400,"), "E_FS"),
        (lambda text: text.replace("V6", "V5"), "E_LEADS"),
        (lambda text: text.split("\n")[0], "E_EMPTY"),
        (lambda text: text + "\0", "E_ENCODING"),
    ],
)
def test_read_ecg_refuses_a_damaged_csv(damage, code, digital, tmp_path):
    (tmp_path / "a.csv").write_text(damage(csv(digital)))
    assert refusal(tmp_path / "a.csv").code == code


@pytest.mark.parametrize("row", ["1,2", "0.5,=cmd" + ",0" * 11, "0.5,1_0" + ",0" * 11])
def test_read_ecg_names_the_row_of_a_csv_that_is_no_row_of_numbers(row, digital, tmp_path):
    (tmp_path / "a.csv").write_text(csv(digital) + row + "\n")
    error = refusal(tmp_path / "a.csv")
    assert (error.code, error.where) == ("E_COLUMNS", f"row {digital.shape[1] + 2}")


def test_read_ecg_keeps_an_empty_cell_as_missing(digital, tmp_path):
    text = csv(digital).split("\n")
    text[3] = text[3].split(",")[0] + "," * 12
    (tmp_path / "a.csv").write_text("\n".join(text))
    assert np.isnan(read_ecg(tmp_path / "a.csv").signal).all(axis=0).tolist() == [
        i == 2 for i in range(digital.shape[1])
    ]


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (lambda text: "<!DOCTYPE a>" + text, "E_XML"),
        (lambda text: text.replace("unit='uV'", "unit='furlong'"), "E_UNITS"),
        (lambda text: text.replace(f"scale value='{STEP_UV}'", "scale value='0'"),
         "E_CALIBRATION"),
        (lambda text: text.replace("LEAD_V6", "LEAD_V5"), "E_LEADS"),
        (lambda text: text.replace("0.002", "0.02"), "E_FS"),
        (lambda text: text.replace("AnnotatedECG", "ClinicalDocument"), "E_FORMAT"),
    ],
)  # fmt: skip
def test_read_ecg_refuses_a_damaged_aecg(damage, code, digital, tmp_path):
    text = hl7_aecg(digital).replace("<?xml version='1.0' encoding='UTF-8'?>", "")
    (tmp_path / "a.xml").write_text(damage(text))
    assert refusal(tmp_path / "a.xml").code == code


def test_read_ecg_refuses_an_aecg_that_is_cut_off(digital, tmp_path):
    (tmp_path / "a.xml").write_text(hl7_aecg(digital)[:-20])
    assert refusal(tmp_path / "a.xml").code == "E_XML"


def test_read_ecg_keeps_a_rate_that_is_no_whole_number(digital, tmp_path):
    (tmp_path / "a.xml").write_text(hl7_aecg(digital, increment="0.0033"))
    assert read_ecg(tmp_path / "a.xml").sampling_rate == pytest.approx(1 / 0.0033)


@pytest.mark.parametrize(
    ("start", "words"),
    [(b"%PDF-1.7", "PDF"), (b"\x89PNG", "picture"), (b"PK\3\4", "unpack"), (b"?", "known")],
)
def test_read_ecg_says_why_a_file_of_another_kind_is_refused(start, words, tmp_path):
    (tmp_path / "a.bin").write_bytes(start + b"\0" * 300)
    error = refusal(tmp_path / "a.bin")
    assert error.code == "E_FORMAT"
    assert words in str(error)
    assert not is_ecg_file(tmp_path / "a.bin")


def test_the_first_bytes_decide_the_format_not_the_ending(digital, tmp_path):
    path = tmp_path / "a.txt"
    path.write_text(muse(digital))
    assert read_ecg(path).source_format == "GE MUSE XML"


def test_no_warning_and_no_log_of_a_library_gets_out(digital, tmp_path, caplog, capfd):
    (tmp_path / "a.xml").write_text(muse(digital, unit="FURLONGS"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert refusal(tmp_path / "a.xml").code == "E_UNITS"
    assert caplog.text == ""
    assert capfd.readouterr() == ("", "")
