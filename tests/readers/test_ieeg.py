"""iEEG files open in microvolts, lazily and strictly, with their gaps."""

import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from phenokit import read_ieeg
from phenokit.errors import BadInput
from phenokit.preprocessing.montage import bipolar, common_reference
from phenokit.readers.ieeg import is_ieeg_file
from phenokit.readers.ieeg_channels import not_eeg
from phenokit.recording import LongRecording
from phenokit.simulation.ieeg_files import write_edf

BAD_INPUTS = Path(__file__).parents[1] / "bad_inputs"


@dataclass(frozen=True)
class Made:
    """A recording in memory."""

    signal: np.ndarray
    channels: tuple[str, ...]
    sampling_rate: float = 256.0
    record_id: str = "made"
    unit: str = "uV"

    @property
    def n_samples(self) -> int:
        return self.signal.shape[1]

    def samples(self, first: int, stop: int) -> np.ndarray:
        return self.signal[:, first:stop]


@pytest.fixture
def made():
    rng = np.random.default_rng(1)
    signal = rng.normal(0, 80, (5, 20 * 256)).astype(np.float32)
    return Made(signal, ("LA2", "LA1", "LA3", "RH1", "ECG"))


def edf_bytes(
    signals, *, labels, unit: Any = "uV", limit=3276.7, n=256, kind="EDF", **fields
):
    """An EDF or BDF file of integers (signal, sample), one second a record."""
    width, top = (2, 32767) if kind == "EDF" else (3, 8388607)
    signals = np.asarray(signals)
    n_records, ns = signals.shape[1] // n, len(labels)
    units = [unit] * ns if isinstance(unit, str) else unit
    limits = f"{limit:.8g}"
    fixed = [
        (fields.get("patient", "X X X X"), 80), ("Startdate X X X X", 80), ("01.01.85", 8),
        ("00.00.00", 8), (str(256 * (ns + 1)), 8), (fields.get("reserved", ""), 44),
        (str(n_records), 8), ("1", 8), (str(ns), 4),
    ]  # fmt: skip
    magic = b"0       " if kind == "EDF" else b"\xffBIOSEMI"
    text = "".join(t.ljust(w) for t, w in fixed)
    for column, w in [
        (labels, 16), ([fields.get("transducer", "")] * ns, 80), (units, 8),
        (["-" + limits] * ns, 8), ([limits] * ns, 8), ([str(-top)] * ns, 8),
        ([str(top)] * ns, 8), ([fields.get("prefilter", "")] * ns, 80), ([str(n)] * ns, 8),
        ([""] * ns, 32),
    ]:  # fmt: skip
        text += "".join(t.ljust(w) for t in column)
    blocks = signals.reshape(ns, n_records, n).swapaxes(0, 1).astype("<i4")
    data = blocks[..., None].view(np.uint8)[..., :width].tobytes()
    return magic + text.encode("latin-1") + data


@pytest.fixture
def digital():
    return np.random.default_rng(2).integers(-30000, 30000, (3, 256 * 6))


def test_an_edf_file_gives_its_samples_in_microvolts(tmp_path, made):
    recording = read_ieeg(write_edf(tmp_path / "one.edf", made))
    assert isinstance(recording, LongRecording)
    assert recording.channels == made.channels[:4]
    assert (recording.sampling_rate, recording.unit, recording.n_samples) == (
        256,
        "uV",
        5120,
    )
    assert dict(recording.dropped) == {"ECG": "ECG"}
    assert recording.filters == "HP:0.5 LP:120"
    np.testing.assert_allclose(recording.samples(0, 5120), made.signal[:4], atol=0.0501)
    page = recording.read(3.3, 7.1)
    np.testing.assert_array_equal(page.signal, recording.samples(0, 5120)[:, 845:1818])


@pytest.mark.parametrize("kind", ["EDF", "BDF"])
def test_samples_are_those_of_mne(tmp_path, digital, kind):
    import mne

    path = tmp_path / f"one.{kind.lower()}"
    path.write_bytes(edf_bytes(digital, labels=["A1", "A2", "B1"], kind=kind))
    raw = getattr(mne.io, f"read_raw_{kind.lower()}")(path, verbose="ERROR")
    recording = read_ieeg(path)
    assert recording.source_format == kind
    expected = raw.get_data() * 1e6
    got = recording.samples(0, recording.n_samples)
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(recording.samples(100, 1400), got[:, 100:1400])


def test_volts_and_microvolts_of_one_recording_are_the_same_samples(tmp_path, digital):
    names, scales = ["A1", "A2", "B1"], {"uV": 3000.0, "mV": 3.0, "V": 0.003}
    found = []
    for unit, limit in scales.items():
        path = tmp_path / f"{unit}.edf"
        path.write_bytes(edf_bytes(digital, labels=names, unit=unit, limit=limit))
        found.append(read_ieeg(path).samples(0, 1536))
        assert (read_ieeg(path).unit, read_ieeg(path).file_unit) == ("uV", unit)
    np.testing.assert_allclose(found[1], found[0], rtol=2e-7)
    np.testing.assert_allclose(found[2], found[0], rtol=2e-7)


@pytest.mark.parametrize("spelling", [b"\xb5V", b"\xc2\xb5V", b"\x83\xcaV"])
def test_microvolts_are_known_as_files_spell_them(tmp_path, digital, spelling):
    path = tmp_path / "one.edf"
    plain = edf_bytes(digital, labels=["A1", "A2", "B1"])
    path.write_bytes(plain)
    expected = read_ieeg(path).samples(0, 99)
    path.write_bytes(plain.replace(b"uV      ", spelling.ljust(8)))
    np.testing.assert_array_equal(read_ieeg(path).samples(0, 99), expected)


CASES = {
    "e00_control.edf": "OK", "e01_nrec_huge.edf": "E_SIZE_MISMATCH",
    "e03_duration_nan.edf": "E_HEADER", "e05_duration_zero.edf": "E_HEADER",
    "e06_physical_equal.edf": "E_CALIBRATION", "e08_polarity.edf": "W_POLARITY",
    "e09_unit_unknown.edf": "E_UNITS", "e12_channels_dup.edf": "E_CHANNELS",
    "e13_phi.edf": "OK", "e14_ns_9999.edf": "E_HEADER", "e15_label_html.edf": "OK",
    "e16_empty.edf": "E_HEADER", "e17_header_bytes_huge.edf": "E_HEADER",
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_hostile_files_get_their_outcome(name):
    found = "OK"
    try:
        notices = read_ieeg(BAD_INPUTS / name, root=BAD_INPUTS).notices
        found = notices[0].code if notices else "OK"
    except BadInput as refusal:
        found = refusal.code
    assert found == CASES[name]


def test_identifiers_are_not_in_the_recording():
    header = (BAD_INPUTS / "e13_phi.edf").read_bytes()[8:168].decode().split()
    shown = repr(vars(read_ieeg(BAD_INPUTS / "e13_phi.edf")))
    words = [word for word in header if len(word) > 3 and word != "Startdate"]
    assert words
    assert not [word for word in words if word in shown]


def test_a_gap_stays_a_gap_at_its_time(tmp_path, made):
    signal = made.signal.copy()
    signal[:, 1300:2700] = np.nan
    recording = read_ieeg(write_edf(tmp_path / "gap.edf", replace(made, signal=signal)))
    assert recording.source_format == "EDF+"
    assert recording.n_samples == 2700 + (5120 - 2700) // 128 * 128
    assert recording.gaps == ((1280 / 256, 2700 / 256),)
    got = recording.samples(0, recording.n_samples)
    assert np.isnan(got[:, 1280:2700]).all()
    there = np.r_[0:1280, 2700 : recording.n_samples]
    np.testing.assert_allclose(got[:, there], signal[:4, there], atol=0.0501)
    np.testing.assert_array_equal(recording.samples(1200, 2800), got[:, 1200:2800])


@pytest.mark.realdata
def test_the_real_clip_is_in_arbitrary_units_and_goes_through_the_montages():
    folder = Path(os.environ["PHENOKIT_DATA"]) / "ieeg-ds003029-pt01"
    clip = read_ieeg(folder / "pt01_seizure1_m1s_p2s_1000hz.npz")
    assert (len(clip.channels), clip.sampling_rate, clip.n_samples) == (84, 1000, 3000)
    assert clip.unit == ""
    assert clip.onset_zone == (
        "ATT1", "ATT2", "AD1", "AD2", "AD3", "AD4", "PD1", "PD2", "PD3", "PD4"
    )  # fmt: skip
    whole = clip.read(0, 3)
    assert whole.unit == ""
    pairs = bipolar(whole)
    assert {"AD1-AD2", "PD3-PD4"} <= set(pairs.channels)
    assert abs(common_reference(whole).signal.mean(axis=0)).max() < 1e-6 * 1e5


def test_what_is_an_ieeg_file_is_known_by_its_bytes(tmp_path, made):
    edf = write_edf(tmp_path / "one.edf", made)
    edf.rename(tmp_path / "renamed.bin")
    (tmp_path / "notes.txt").write_text("0 seizures")
    (tmp_path / "link.edf").symlink_to(tmp_path / "renamed.bin")
    (tmp_path / "m.mefd").mkdir()
    found = {path.name for path in tmp_path.iterdir() if is_ieeg_file(path)}
    assert found == {"renamed.bin", "m.mefd"}


def test_an_hour_of_a_hundred_channels_opens_at_once_and_pages_are_quick(tmp_path):
    second = np.zeros((100, 1000), dtype=np.int64)
    data = bytearray(edf_bytes(second, labels=[f"A{k}" for k in range(100)], n=1000))
    data[236:244] = b"3600    "
    path = tmp_path / "hour.edf"
    path.write_bytes(data[: 256 * 101])
    os.truncate(path, 256 * 101 + 3600 * 200_000)
    begin = time.perf_counter()
    recording = read_ieeg(path)
    opened = time.perf_counter()
    page = recording.samples(1_800_000, 1_810_000)
    assert (opened - begin, time.perf_counter() - opened) < (0.5, 0.5)
    assert page.shape == (100, 10_000)
    assert recording.duration == 3600


# --- EDF+ ---------------------------------------------------------------------------------


def edf_plus(texts, *, reserved="EDF+C", n=256, labels=("A1", "A2")):
    """A file of two signals whose records hold these annotation bytes."""
    width = 30
    digital = np.arange(2 * len(texts) * n).reshape(2, -1) % 1000
    whole = np.zeros((3, len(texts) * n), dtype=np.int64)
    whole[:2] = digital
    data = bytearray(
        edf_bytes(whole, labels=[*labels, "EDF Annotations"], n=n, reserved=reserved)
    )
    header = 256 * 4
    for record, text in enumerate(texts):
        start = header + record * 3 * n * 2 + 2 * n * 2
        data[start : start + 2 * n] = text.ljust(2 * width, b"\0").ljust(2 * n, b"\0")
    return bytes(data), digital


def stamp(onset, more=b""):
    return f"+{onset}".encode() + b"\x14\x14\0" + more


def test_annotations_of_edf_plus_are_events_from_the_first_sample(tmp_path):
    texts = [
        stamp("0.5"),
        stamp("1.5", b"+1.75\x150.5\x14Seizure\x14\0"),
        stamp("2.5", "+2.75\x14eyes öffnen\x14clicked\x14\0".encode()),
    ]
    path = tmp_path / "plus.edf"
    path.write_bytes(edf_plus(texts)[0])
    recording = read_ieeg(path)
    assert recording.gaps == ()
    assert [(e.label, e.onset) for e in recording.annotations] == [
        ("sz", 1.25), ("eyes öffnen", 2.25), ("clicked", 2.25)
    ]  # fmt: skip
    (seizure,) = recording.seizures
    assert seizure.offset == 1.75
    assert np.isnan(recording.annotations[1].offset)


@pytest.mark.parametrize("reserved", ["EDF+C", "EDF+D"])
def test_records_are_placed_when_they_began_whatever_the_header_says(tmp_path, reserved):
    data, digital = edf_plus([stamp(t) for t in ("0", "1", "10", "11")], reserved=reserved)
    path = tmp_path / "gap.edf"
    path.write_bytes(data)
    recording = read_ieeg(path)
    assert recording.gaps == ((2.0, 10.0),)
    got = recording.samples(0, recording.n_samples)
    assert np.isnan(got[:, 512:2560]).all()
    step = 3276.7 / 32767
    np.testing.assert_allclose(got[:, 2560:], digital[:, 512:] * step, rtol=1e-6)


@pytest.mark.parametrize(
    ("texts", "reserved"),
    [
        ([stamp("0"), stamp("0.5")], "EDF+D"),
        ([stamp("5"), stamp("0")], "EDF+C"),
        ([stamp("0"), b"nonsense"], "EDF+D"),
    ],
)
def test_records_that_overlap_or_have_no_time_are_refused(tmp_path, texts, reserved):
    path = tmp_path / "bad.edf"
    path.write_bytes(edf_plus(texts, reserved=reserved)[0])
    with pytest.raises(BadInput) as refusal:
        read_ieeg(path)
    assert refusal.value.code == "E_DISCONTINUOUS"


def test_times_rounded_to_seconds_make_no_gap(tmp_path):
    data, _ = edf_plus([stamp(t) for t in (0, 0, 1, 1, 2)])
    data = data[:244] + b"0.5     " + data[252:]
    path = tmp_path / "rounded.edf"
    path.write_bytes(data)
    assert read_ieeg(path).gaps == ()


def test_a_file_with_gaps_and_no_annotations_is_refused(tmp_path, digital):
    path = tmp_path / "d.edf"
    path.write_bytes(edf_bytes(digital, labels=["A1", "A2", "B1"], reserved="EDF+D"))
    with pytest.raises(BadInput) as refusal:
        read_ieeg(path)
    assert refusal.value.code == "E_DISCONTINUOUS"


# --- channels -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "is_read"),
    [
        ("EEG LA1-Ref", True), ("POL B'12", True), ("C3", True), ("REF2H1", True),
        ("DCH3", True), ("PR4", True), ("EC2", True), ("ECG", False), ("EKG1", False),
        ("POL DC09", False), ("TRIG", False), ("Status", False), ("EMG chin", False),
        ("Resp nasal", False), ("SaO2", False), ("Ref", False), ("EOG L", False),
        ("Event", False), ("POL $A1", True), ("STG5", True), ("POS3", True),
    ],
)  # fmt: skip
def test_channels_that_are_not_of_the_brain_leave_by_name(name, is_read):
    assert (not_eeg(name) is None) == is_read


def test_a_channel_that_leaves_may_have_any_unit_and_rate(tmp_path, digital):
    path = tmp_path / "one.edf"
    path.write_bytes(
        edf_bytes(digital, labels=["A1", "ECG", "B1"], unit=["uV", "Boolean", "uV"])
    )
    recording = read_ieeg(path)
    assert recording.channels == ("A1", "B1")
    step = 3276.7 / 32767
    np.testing.assert_allclose(
        recording.samples(0, 1536), digital[[0, 2]] * step, rtol=1e-6
    )


def test_a_file_without_a_channel_of_the_brain_is_refused(tmp_path, digital):
    path = tmp_path / "ecg.edf"
    path.write_bytes(edf_bytes(digital, labels=["ECG1", "ECG2", "Resp"]))
    with pytest.raises(BadInput, match="no channel of intracranial EEG") as refusal:
        read_ieeg(path)
    assert refusal.value.code == "E_CHANNELS"


def test_channels_of_different_rates_are_refused(tmp_path, digital):
    data = bytearray(edf_bytes(digital, labels=["A1", "A2", "B1"]))
    start = 256 + 3 * (16 + 80 + 8 * 5 + 80)
    data[start : start + 24] = b"256     128     384     "
    path = tmp_path / "rates.edf"
    path.write_bytes(data)
    with pytest.raises(BadInput, match="128, 256, 384 Hz") as refusal:
        read_ieeg(path)
    assert refusal.value.code == "E_FS"


# --- files --------------------------------------------------------------------------------


def test_one_long_record_is_read_signal_by_signal(tmp_path, digital, monkeypatch):
    path = tmp_path / "one.edf"
    path.write_bytes(edf_bytes(digital, labels=["A1", "ECG", "B1"]))
    whole = read_ieeg(path).samples(0, 1536)
    monkeypatch.setattr("phenokit.readers.edf._RECORD_AT_ONCE", 100)
    np.testing.assert_array_equal(read_ieeg(path).samples(300, 900), whole[:, 300:900])


def test_a_file_that_changed_since_is_not_read(tmp_path, digital):
    path = tmp_path / "one.edf"
    path.write_bytes(edf_bytes(digital, labels=["A1", "A2", "B1"]))
    recording = read_ieeg(path)
    path.write_bytes(
        edf_bytes(
            digital[::-1],
            labels=[
                "A1",
                "A2",
                "B1",
            ][::-1],
        )
    )
    with pytest.raises(BadInput, match="changed since"):
        recording.samples(0, 10)
    assert read_ieeg(path).fingerprint != recording.fingerprint


def test_samples_outside_the_recording_are_an_error(tmp_path, digital):
    path = tmp_path / "one.edf"
    path.write_bytes(edf_bytes(digital, labels=["A1", "A2", "B1"]))
    recording = read_ieeg(path)
    assert recording.samples(5, 5).shape == (3, 0)
    for first, stop in ((-1, 5), (0, 1537), (9, 3)):
        with pytest.raises(ValueError, match="of a recording of 1536"):
            recording.samples(first, stop)


def test_an_open_recording_can_be_sent_to_another_process(tmp_path, digital):
    import multiprocessing

    path = tmp_path / "one.edf"
    path.write_bytes(edf_bytes(digital, labels=["A1", "A2", "B1"]))
    recording = read_ieeg(path)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        there = pool.apply(recording.samples, (100, 200))
    np.testing.assert_array_equal(there, recording.samples(100, 200))


def test_a_changed_byte_of_the_header_gives_a_code_or_nothing_worse(tmp_path, digital):
    rng = np.random.default_rng(7)
    whole = edf_bytes(digital, labels=["A1", "A2", "B1"])
    path = tmp_path / "one.edf"
    n_refused = 0
    for _ in range(150):
        data = bytearray(whole)
        data[rng.integers(256 * 4)] = rng.integers(256)
        path.write_bytes(data)
        try:
            recording = read_ieeg(path)
            recording.samples(0, recording.n_samples)
        except BadInput:
            n_refused += 1
    assert n_refused > 15


# --- arrays -------------------------------------------------------------------------------


@pytest.fixture
def arrays():
    signal = np.random.default_rng(4).normal(0, 1, (500, 3))
    return {"x": signal, "channels": np.array(["A1", "A2", "ECG"]), "fs": np.array(250)}


def test_arrays_with_a_unit_are_in_microvolts(tmp_path, arrays):
    np.savez(tmp_path / "a.npz", **arrays, unit=np.array("mV"))
    recording = read_ieeg(tmp_path / "a.npz")
    assert (recording.unit, recording.channels) == ("uV", ("A1", "A2"))
    np.testing.assert_allclose(
        recording.samples(0, 500), 1000 * arrays["x"].T[:2], rtol=1e-6
    )


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"unit": np.array("furlong")}, "E_UNITS"),
        ({"channels": np.array(["A1", "A1", "A2"])}, "E_CHANNELS"),
        ({"channels": np.array(["A1"])}, "E_ARRAY"),
        ({"channels": np.array([1, 2, 3])}, "E_ARRAY"),
        ({"x": np.full((500, 3), np.nan)}, "E_EMPTY"),
        ({"x": np.full((500, 3), np.inf)}, "E_NONFINITE"),
        ({"x": np.array([{}, 1], dtype=object)}, "E_ARRAY"),
        ({"fs": np.array(5)}, "E_FS"),
        ({"t": np.arange(500) / 200}, "E_FS"),
        ({"t": np.r_[np.arange(499) / 250, 9]}, "E_FS"),
        ({"t": np.arange(3)}, "E_ARRAY"),
    ],
)
def test_arrays_that_cannot_be_used_are_refused(tmp_path, arrays, change, code):
    np.savez(tmp_path / "a.npz", **{**arrays, **change})
    with pytest.raises(BadInput) as refusal:
        read_ieeg(tmp_path / "a.npz")
    assert refusal.value.code == code


def test_nan_in_arrays_stays_missing(tmp_path, arrays):
    arrays["x"][100:200, 1] = np.nan
    np.savez(tmp_path / "a.npz", **arrays)
    signal = read_ieeg(tmp_path / "a.npz").samples(0, 500)
    assert np.isnan(signal[1, 100:200]).all()
    assert np.isnan(signal).sum() == 100


def test_a_contact_of_the_electrode_table_that_is_not_there_is_named(tmp_path, arrays):
    np.savez(tmp_path / "a.npz", **arrays)
    (tmp_path / "electrodes.csv").write_text("nameselec,insoz\nA1,True\nA7,False\n")
    with pytest.raises(BadInput) as refusal:
        read_ieeg(tmp_path / "a.npz")
    assert (refusal.value.code, refusal.value.where) == ("E_CHANNELS", "A7")
