"""Clips of MAYO and FNUSA: one channel, 3 s, a category; never a recording."""

import numpy as np
import pytest
from scipy.io import savemat

from phenokit.errors import BadInput
from phenokit.readers.clips import ClipCategory, check_clip_segments, read_clips

TABLE = """index,segment_id,patient_id,category_id,reviewer_id
0,a,p1,3,r1
1,b,p1,0,
2,c,p2,2,r1
"""


@pytest.fixture
def folder(tmp_path):
    """Three clips, and one that the table does not list."""
    (tmp_path / "segments.csv").write_text(TABLE)
    for k, name in enumerate("abcd"):
        values = np.random.default_rng(k).normal(0, 30, (1, 15_000))
        savemat(tmp_path / f"{name}.mat", {"data": values}, do_compression=k % 2 == 1)
    return tmp_path


def test_the_table_says_whose_clip_it_is_and_what_it_shows(folder):
    clips = read_clips(folder)
    assert [(c.clip_id, c.patient_id, c.category) for c in clips] == [
        ("a", "p1", ClipCategory.PATHOLOGICAL),
        ("b", "p1", ClipCategory.MAINS_NOISE),
        ("c", "p2", ClipCategory.PHYSIOLOGICAL),
    ]


@pytest.mark.parametrize("position", [0, 1])
def test_a_clip_is_one_channel_of_three_seconds(folder, position):
    clips = read_clips(folder)
    recording = clips.read(clips.clips[position])
    assert (recording.duration, recording.sampling_rate) == (3.0, 5000.0)
    assert recording.unit == ""
    expected = np.random.default_rng(position).normal(0, 30, (1, 15_000))
    np.testing.assert_array_equal(recording.signal, expected)


@pytest.mark.parametrize(
    ("content", "code"),
    [
        ({"data": np.zeros((1, 25_000))}, "A_DURATION"),
        ({"data": np.zeros((2, 15_000))}, "A_DURATION"),
        ({"other": np.zeros((1, 15_000))}, "E_ARRAY"),
        ({"data": np.full((1, 15_000), np.nan)}, "E_EMPTY"),
        ({"data": "text"}, "E_ARRAY"),
    ],
)
def test_another_content_is_refused(folder, content, code):
    savemat(folder / "a.mat", content)
    clips = read_clips(folder)
    with pytest.raises(BadInput) as refusal:
        clips.read(clips.clips[0])
    assert refusal.value.code == code


def test_a_damaged_file_is_refused(folder):
    path, clips = folder / "b.mat", read_clips(folder)
    whole = path.read_bytes()
    for damage, code in [(whole[:5000], "E_ARRAY"), (b"MATLAB 7.3 MAT-file", "E_FORMAT")]:
        path.write_bytes(damage)
        with pytest.raises(BadInput) as refusal:
            clips.read(clips.clips[1])
        assert refusal.value.code == code


@pytest.mark.parametrize("name", ["../a", "/etc/hostname", "absent"])
def test_an_id_is_no_way_out_of_the_folder(folder, name):
    (folder / "segments.csv").write_text(f"segment_id,patient_id,category_id\n{name},p,1\n")
    clips = read_clips(folder)
    with pytest.raises(BadInput) as refusal:
        clips.read(clips.clips[0])
    assert refusal.value.code == ("E_MISSING" if name == "absent" else "E_PATH")


def test_a_category_that_does_not_exist_is_refused(folder):
    (folder / "segments.csv").write_text("segment_id,patient_id,category_id\na,p1,7\n")
    with pytest.raises(BadInput) as refusal:
        read_clips(folder)
    assert refusal.value.code == "E_RANGE"


def test_a_network_of_five_second_segments_refuses_clips():
    check_clip_segments(3)
    with pytest.raises(BadInput, match="3 s; the network reads segments of 5 s") as refusal:
        check_clip_segments(5)
    assert refusal.value.code == "A_DURATION"
