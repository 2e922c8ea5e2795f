"""Annotations as EDF+: read back by our reader and by MNE, and naming nobody."""

import mne
import numpy as np
import pytest

from phenokit.report.edf_annotations import (
    MAX_RECORD,
    Annotation,
    format_edf_annotations,
)

EVENTS = [
    Annotation(705.25, 55.5, "sz, accepted, model 95 %"),
    Annotation(0.0, None, "Research use"),
    Annotation(1800.0, 60.0, "not evaluated: not recorded – gap"),
]


def test_mne_reads_back_every_annotation(tmp_path):
    file = tmp_path / "events.edf"
    file.write_bytes(format_edf_annotations(EVENTS, recording_duration=3600.5))
    read = mne.read_annotations(file)
    assert list(read.onset) == [0.0, 705.25, 1800.0]
    assert list(read.duration) == [0.0, 55.5, 60.0]
    assert list(read.description) == [
        "Research use", "sz, accepted, model 95 %", "not evaluated: not recorded – gap",
    ]  # fmt: skip


def test_the_header_is_that_of_the_format_and_names_nobody():
    data = format_edf_annotations(EVENTS, recording_duration=3600.5)
    text = data[:512].decode("ascii")
    assert text[:8] == "0       "
    assert text[8:88].strip() == "X X X X"
    assert text[88:168].strip() == "Startdate X X X X"
    assert text[168:184] == "01.01.8500.00.00"
    assert (text[184:192].strip(), text[192:197]) == ("512", "EDF+C")
    n_records, seconds = int(text[236:244]), float(text[244:252])
    assert n_records * seconds == pytest.approx(3600.5)
    n_samples = int(text[472:480])
    assert len(data) == 512 + 2 * n_records * n_samples


def test_many_annotations_take_records_of_the_size_that_is_allowed(tmp_path):
    many = [Annotation(float(k), 0.5, f"event {k}") for k in range(5000)]
    data = format_edf_annotations(many, recording_duration=86_400.0)
    assert 2 * int(data[472:480]) <= MAX_RECORD
    file = tmp_path / "many.edf"
    file.write_bytes(data)
    read = mne.read_annotations(file)
    np.testing.assert_array_equal(read.onset, np.arange(5000.0))


def test_a_text_cannot_end_its_annotation():
    data = format_edf_annotations(
        [Annotation(1.0, None, "a\x14+9\x14fake\x00b")], recording_duration=10.0
    )
    assert b"a +9 fake b\x14\x00" in data


def test_a_recording_without_length_is_refused():
    with pytest.raises(ValueError, match="lasts longer"):
        format_edf_annotations([], recording_duration=0.0)
