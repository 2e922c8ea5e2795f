"""iEEG files open in microvolts, lazily and strictly, with their gaps."""

import os
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from phenokit import read_ieeg
from phenokit.errors import BadInput
from phenokit.preprocessing.montage import bipolar, common_reference
from phenokit.readers.ieeg import is_ieeg_file
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


def edf_bytes(signals, *, labels, unit="uV", limit=3276.7, n=256, kind="EDF", **fields):
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
    np.testing.assert_allclose(found[1], found[0], rtol=2e-7)
    np.testing.assert_allclose(found[2], found[0], rtol=2e-7)


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
