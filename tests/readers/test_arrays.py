"""Array files hold numbers, as many as they declare, or are refused."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from phenokit.errors import BadInput
from phenokit.readers.arrays import parse_array, read_array


def saved(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def refused(data: bytes) -> str:
    with pytest.raises(BadInput) as caught:
        parse_array(data)
    return caught.value.code


@given(
    st_numpy.arrays(
        st.sampled_from(["<f4", ">f8", "<i2", "|u1", "|b1", "<u8", "<f2"]),
        st_numpy.array_shapes(min_dims=0, min_side=0),
    )
)
@settings(max_examples=100, deadline=None)
def test_read_array_gives_what_numpy_saved(array):
    for stored in (array, np.asfortranarray(array)):
        read = parse_array(saved(stored))
        np.testing.assert_array_equal(read, stored)
        assert read.dtype == stored.dtype


def test_read_array_takes_a_file(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(6).reshape(2, 3))
    assert read_array(tmp_path / "a.npy").tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x93NUMPY",
        b"PK\x03\x04" + bytes(100),
        saved(np.array(["a", "bb"])),
        saved(np.zeros(2, [("a", "f4"), ("b", "i4")])),
        saved(np.zeros(2, "c8")),
        saved(np.zeros(2, "M8[s]")),
        saved(np.zeros(2)).replace(b"<f8", b"|O "),
        saved(np.zeros(2)).replace(b"'shape': (2,)", b"'shape': (-2,"),
        saved(np.zeros(2)).replace(b"False", b"exit("),
        saved(np.zeros(2))[:20],
        saved(np.zeros(2)).replace(b"NUMPY\x01", b"NUMPY\x09"),
    ],
)
def test_parse_array_refuses_what_is_no_array_of_numbers(data):
    assert refused(data) == "E_ARRAY"


def test_parse_array_counts_the_bytes():
    data = saved(np.zeros((2, 3)))
    assert refused(data[:-1]) == refused(data + b"\0") == "E_SIZE_MISMATCH"


def test_parse_array_allocates_nothing_that_is_only_declared():
    header = saved(np.zeros(0)).replace(b"(0,), }    ", b"(99999999999,), }")[:128]
    assert refused(header[:127] + b"\n") == "E_SIZE_MISMATCH"


@given(st.integers(0, 200), st.integers(0, 255), st.integers(0, 200))
@settings(max_examples=300, deadline=None)
def test_a_damaged_array_raises_nothing_but_bad_input(position, value, cut):
    data = bytearray(saved(np.zeros((2, 4))))
    data[position % len(data)] = value
    try:
        parse_array(bytes(data[: len(data) - cut]))
    except BadInput as error:
        assert error.code in ("E_ARRAY", "E_SIZE_MISMATCH")  # noqa: PT017 - may be readable
