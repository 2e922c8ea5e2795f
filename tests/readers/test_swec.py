"""The SWEC data set: its parts in order, its seizures, and no patient on both sides."""

import sys

import h5py
import hdf5plugin
import numpy as np
import pytest

from phenokit.errors import BadInput
from phenokit.readers.swec import ALIASES, check_split, read_swec, unique_patients
from phenokit.recording import LongRecording


@pytest.fixture
def patient(tmp_path):
    """`patient(name, order)`: a folder of three parts of 2,000 samples, and the signal."""

    def write(name="ID20", *, order=(2, 1, 3), sampling_rate=512.0, seizures=((3.0, 5.0),)):
        folder = tmp_path / name
        folder.mkdir()
        signal = np.random.default_rng(1).normal(0, 50, (4, 6000)).astype(np.float32)
        for k, number in enumerate(order):
            with h5py.File(folder / f"{name}_part_{number}.h5", "w") as file:
                piece = signal[:, 2000 * k : 2000 * (k + 1)]
                file.create_dataset("data/ieeg", data=piece, chunks=(4, 700))
                file.attrs["sampling_rate"] = sampling_rate
        with h5py.File(folder / f"{name}_total.h5", "w") as file:
            fields = np.dtype([("onsets", "f8"), ("offsets", "f8")])
            file["data/seizures"] = np.array(list(seizures), dtype=fields)
            names = [f"{name}_part_{number}.h5" for number in order]
            file["info/files"] = np.array(names, dtype="S")
            # What the public copy does: the signal leads to another patient's parts.
            layout = h5py.VirtualLayout((4, 6000), dtype="f4")
            layout[:] = h5py.VirtualSource("ID02_part_1.h5", "data/ieeg", (4, 6000))
            file.create_virtual_dataset("data/ieeg", layout)
        return folder, signal

    return write


def test_parts_are_read_in_the_order_of_the_total_file(patient):
    folder, signal = patient(order=(2, 1, 3))
    recording = read_swec(folder)
    assert isinstance(recording, LongRecording)
    assert (recording.n_samples, recording.sampling_rate, recording.unit) == (
        6000,
        512,
        "uV",
    )
    assert recording.channels == ("1", "2", "3", "4")
    np.testing.assert_array_equal(recording.samples(0, 6000), signal)
    np.testing.assert_array_equal(recording.samples(1900, 4100), signal[:, 1900:4100])


def test_seizures_come_from_the_total_file(patient):
    folder, _ = patient(seizures=((8.0, 9.5), (3.0, 5.0)))
    found = [(e.label, e.onset, e.offset) for e in read_swec(folder).annotations]
    assert found == [("sz", 3.0, 5.0), ("sz", 8.0, 9.5)]


def test_a_part_that_is_missing_is_named(patient):
    folder, _ = patient()
    (folder / "ID20_part_1.h5").unlink()
    with pytest.raises(BadInput, match="not those of the recording") as refusal:
        read_swec(folder)
    assert (refusal.value.code, refusal.value.where) == ("E_MISSING", "part 1")


@pytest.mark.parametrize("kind", ["virtual", "link", "soft"])
def test_a_part_that_refers_to_another_file_is_refused(patient, kind):
    folder, _ = patient()
    with h5py.File(folder / "ID20_part_2.h5", "r+") as file:
        del file["data/ieeg"]
        if kind == "virtual":
            layout = h5py.VirtualLayout((4, 2000), dtype="f4")
            layout[:] = h5py.VirtualSource("ID20_part_1.h5", "data/ieeg", (4, 2000))
            file.create_virtual_dataset("data/ieeg", layout)
        elif kind == "link":
            file["data/ieeg"] = h5py.ExternalLink("ID20_part_1.h5", "data/ieeg")
        else:
            file["data/ieeg"] = h5py.SoftLink("/elsewhere")
    with pytest.raises(BadInput) as refusal:
        read_swec(folder)
    assert refusal.value.code == "E_PATH"


@pytest.mark.parametrize(
    ("change", "code"),
    [({"sampling_rate": 5.0}, "E_FS"), ({"seizures": ((3.0, 99.0),)}, "E_RANGE"),
     ({"seizures": ((5.0, 3.0),)}, "E_RANGE"), ({"name": "P20"}, "E_FORMAT")],
)  # fmt: skip
def test_what_cannot_be_is_refused(patient, change, code):
    folder, _ = patient(**change)
    with pytest.raises(BadInput) as refusal:
        read_swec(folder)
    assert refusal.value.code == code


def test_a_file_that_is_no_hdf5_is_refused(patient):
    folder, _ = patient()
    (folder / "ID20_part_3.h5").write_bytes(b"x" * 5000)
    with pytest.raises(BadInput) as refusal:
        read_swec(folder)
    assert refusal.value.code == "E_HEADER"


def test_without_h5py_the_message_names_the_extra(patient, monkeypatch):
    folder, _ = patient()
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(BadInput, match=r"phenokit\[swec\]"):
        read_swec(folder)


def test_lz4_of_the_data_set_can_be_read(patient):
    folder, signal = patient()
    with h5py.File(folder / "ID20_part_2.h5", "r+") as file:
        del file["data/ieeg"]
        packed = {"data": signal[:, :2000], "chunks": (4, 700), **hdf5plugin.LZ4()}
        file.create_dataset("data/ieeg", **packed)
    np.testing.assert_array_equal(read_swec(folder).samples(0, 2500), signal[:, :2500])


def test_there_are_fifty_patients_in_sixty_eight_folders():
    folders = [f"ID{k:02d}" for k in range(1, 69)]
    assert len(ALIASES) == 18
    assert len(unique_patients(folders)) == 50
    assert set(ALIASES.values()) <= set(unique_patients(folders))
    assert unique_patients(["ID05"]) == ("ID05",)


@pytest.mark.parametrize(
    ("train", "test"),
    [("ID01", "ID20"), ("ID40", "ID18"), ("ID10", "ID31"), ("ID7", "ID7")],
)
def test_a_split_with_a_patient_on_both_sides_is_refused_by_name(train, test):
    with pytest.raises(
        BadInput, match=rf"{train} \(train\) and {test} \(test\)"
    ) as refusal:
        check_split({"train": ["ID50", train], "validation": ["ID51"], "test": [test]})
    assert refusal.value.code == "E_DUP_ID"


def test_a_clean_split_passes():
    check_split({"train": ["ID01", "ID20", "ID02"], "test": ["ID19", "ID41"]})
