"""DICOM is walked whole, within bounds, before a library sees it."""

import io
import struct

import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from phenokit.errors import BadInput
from phenokit.readers.dicom import check_dicom

TWELVE_LEAD = "1.2.840.10008.5.1.4.1.1.9.1.1"
CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"


def dicom(
    content: Dataset | None = None,
    *,
    syntax: str = ExplicitVRLittleEndian,
    storage_class: str = TWELVE_LEAD,
) -> bytes:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(storage_class)
    meta.MediaStorageSOPInstanceUID = UID("1.2.3")
    meta.TransferSyntaxUID = UID(syntax)
    dataset = ecg() if content is None else content
    dataset.file_meta = meta
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


def ecg() -> Dataset:
    channel, group, dataset = Dataset(), Dataset(), Dataset()
    channel.ChannelLabel = "I"
    group.ChannelDefinitionSequence = Sequence([channel])
    group.WaveformBitsAllocated = 16
    group.WaveformSampleInterpretation = "SS"
    group.WaveformData = b"\1\0" * 100
    dataset.PatientName = "Doe^John"
    dataset.WaveformSequence = Sequence([group])
    dataset["WaveformSequence"].is_undefined_length = True
    return dataset


def nested(levels: int, *, is_implicit: bool) -> bytes:
    """A content sequence in a content sequence ...: pydicom takes 2^levels to write it."""
    inner = b""
    for _ in range(levels):
        item = struct.pack("<HHI", 0xFFFE, 0xE000, len(inner)) + inner
        head = struct.pack("<HH", 0x0040, 0xA730) + (b"" if is_implicit else b"SQ\0\0")
        inner = head + struct.pack("<I", len(item)) + item
    return inner


ECG = dicom()


def refused(data: bytes) -> str:
    with pytest.raises(BadInput) as caught:
        check_dicom(data)
    assert caught.value.code == "E_DICOM"
    return str(caught.value)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_check_dicom_lets_an_ecg_through(syntax):
    check_dicom(dicom(syntax=syntax))


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_check_dicom_bounds_nesting(syntax):
    empty = dicom(Dataset(), syntax=syntax)
    is_implicit = syntax == ImplicitVRLittleEndian
    check_dicom(empty + nested(16, is_implicit=is_implicit))
    for levels in (17, 400):
        deep = empty + nested(levels, is_implicit=is_implicit)
        assert "deeper than 16" in refused(deep)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "DICM"),
        (b"\xff\xd8\xff\xe0" + b"\0" * 200, "DICM"),
        (b"\0" * 128 + b"DICM", "transfer syntax"),
        (dicom(syntax=ExplicitVRBigEndian), "transfer syntax"),
        (dicom(storage_class=CT_IMAGE), "no waveform"),
    ],
)
def test_check_dicom_refuses_other_kinds_of_file(data, words):
    assert words in refused(data)


def test_check_dicom_refuses_pixels():
    dataset = ecg()
    dataset.BitsAllocated = 8
    dataset.add_new(0x7FE00010, "OB", b"\0\0")
    assert "image" in refused(dicom(dataset))


def test_check_dicom_opens_sequences_of_unknown_representation():
    inner = nested(16, is_implicit=True)  # as the inside of an unknown one is coded
    item = struct.pack("<HHI", 0xFFFE, 0xE000, len(inner)) + inner
    head = struct.pack("<HH2sHI", 0x0040, 0xA730, b"UN", 0, len(item))
    assert "deeper than 16" in refused(dicom(Dataset()) + head + item)


@pytest.mark.parametrize("cut", [1, 7, 8, 50, 201, 230])
def test_check_dicom_refuses_a_file_that_is_cut(cut):
    refused(ECG[:-cut])


def test_check_dicom_refuses_bytes_after_the_end():
    refused(ECG + b"\0")


@given(st.integers(132, 10_000), st.integers(0, 255), st.integers(0, 300))
@settings(max_examples=200, deadline=None)
def test_damaged_dicom_raises_nothing_but_bad_input(position, value, cut):
    data = bytearray(ECG)
    data[132 + position % (len(data) - 132)] = value
    data = bytes(data[: len(data) - cut])
    try:
        check_dicom(data)
    except BadInput as error:
        assert error.code == "E_DICOM"  # noqa: PT017 - damage may leave a readable file
