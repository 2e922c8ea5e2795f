"""Pages of a long recording: no extremum is lost, a gap stays one, bytes come back."""

import os
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest

from phenokit.preprocessing.display import DisplayFilters
from phenokit.report.ieeg_viewer import (
    BIN,
    BINS_A_BLOCK,
    Extrema,
    View,
    column_extrema,
    draw_page,
    fingerprint,
    is_bad,
    pack_pages,
    trim_extrema,
    typical_amplitude,
    unpack_pages,
)

RATE = 256.0


@dataclass(frozen=True)
class Held:
    """A recording in memory that counts the samples it gave."""

    signal: np.ndarray
    given: list
    channels: tuple[str, ...] = ("A1", "A2", "A3", "B1")
    sampling_rate: float = RATE
    unit: str = "uV"
    record_id: str = "held"

    @property
    def n_samples(self) -> int:
        return self.signal.shape[1]

    def samples(self, first: int, stop: int) -> np.ndarray:
        assert 0 <= first <= stop <= self.n_samples
        self.given.append(stop - first)
        return self.signal[:, first:stop].astype(np.float32)


@pytest.fixture
def held() -> Held:
    """Ten minutes with single spikes and a gap from 200 to 230 s."""
    rng = np.random.default_rng(0)
    signal = 20 * rng.standard_normal((4, round(600 * RATE))).astype(np.float32)
    signal[rng.integers(4, size=300), rng.integers(signal.shape[1], size=300)] = 900.0
    signal[:, round(200 * RATE) : round(230 * RATE)] = np.nan
    return Held(signal, [])


def spans(page, held: Held):
    """The samples of each column, by the times that the page states."""
    edges = (page.first_column + page.step * np.arange(page.low.shape[1] + 1)) * RATE
    edges = np.minimum(np.floor(edges + 1e-6).astype(int), held.n_samples)
    for k, (first, stop) in enumerate(pairwise(edges.tolist())):
        yield k, held.signal[:, first:stop]


@pytest.mark.parametrize("length", [10.0, 60.0, 300.0, 600.0])
@pytest.mark.parametrize("n_columns", [400, 1249])
def test_every_column_has_the_extrema_of_all_its_samples(held, tmp_path, length, n_columns):
    extrema = Extrema(held, tmp_path, "k")
    view = View(begin=min(31.7, 600 - length), length=length)
    page = draw_page(held, view, n_columns=n_columns, extrema=extrema)
    for k, samples in spans(page, held):
        if page.first_column + (k + 1) * page.step > view.begin + length:
            continue  # the last column may be cut by the end of the page
        known = ~np.isnan(samples).all(axis=1)
        np.testing.assert_array_equal(np.isnan(page.low[:, k]), ~known)
        if known.all():
            np.testing.assert_array_equal(page.low[:, k], np.nanmin(samples, axis=1))
            np.testing.assert_array_equal(page.high[:, k], np.nanmax(samples, axis=1))


def test_the_spikes_of_a_page_are_all_on_it(held, tmp_path):
    page = draw_page(
        held, View(0.0, 600.0), n_columns=800, extrema=Extrema(held, tmp_path, "k")
    )
    whole = held.signal
    assert np.nanmax(page.high) == 900.0
    for channel in range(4):
        n_spikes = len(
            np.unique(np.flatnonzero(whole[channel] == 900.0) / RATE // page.step)
        )
        assert (page.high[channel] == 900.0).sum() == n_spikes


def test_a_page_with_few_samples_has_each_of_them(held):
    page = draw_page(held, View(10.0, 2.0), n_columns=400)
    assert page.is_sampled
    np.testing.assert_array_equal(page.low, held.signal[:, 2560:3072])
    assert page.step == 1 / RATE


def test_stored_extrema_are_made_once_and_only_where_they_are_needed(held, tmp_path):
    extrema = Extrema(held, tmp_path, "k")
    first = extrema.bins(0, 100)
    assert held.given == [BINS_A_BLOCK * BIN]
    again = Extrema(held, tmp_path, "k").bins(0, 100)
    assert len(held.given) == 1
    np.testing.assert_array_equal(first, again)


def test_a_damaged_block_of_extrema_is_made_again(held, tmp_path):
    right = Extrema(held, tmp_path, "k").bins(0, 100)
    file = tmp_path / "k.extrema"
    data = bytearray(file.read_bytes())
    data[40] ^= 1
    file.write_bytes(data)
    np.testing.assert_array_equal(Extrema(held, tmp_path, "k").bins(0, 100), right)


def test_extrema_of_the_recordings_opened_last_are_kept(held, tmp_path):
    for k in range(4):
        Extrema(held, tmp_path, f"r{k}")
        os.utime(tmp_path / f"r{k}.extrema", (k, k))
    trim_extrema(tmp_path, n_recordings=2)
    assert {path.stem for path in tmp_path.iterdir()} == {"r2", "r3"}


def test_long_pages_in_parts_equal_the_page_at_once(held, monkeypatch):
    from phenokit.report import ieeg_viewer

    view = View(3.3, 300.0, "bipolar")
    parts = draw_page(held, view, n_columns=777)
    monkeypatch.setattr(ieeg_viewer, "SECONDS_AT_ONCE", 1e9)
    whole = draw_page(held, view, n_columns=777)
    np.testing.assert_array_equal(parts.low, whole.low)
    np.testing.assert_array_equal(parts.high, whole.high)


def test_filters_see_what_lies_beside_the_page(held):
    filters = DisplayFilters(low=1.0, high=70.0)
    held.signal[:] = np.nan_to_num(held.signal)
    left = draw_page(held, View(50.0, 2.0, filters=filters), n_columns=600)
    wide = draw_page(held, View(50.0, 4.0, filters=filters), n_columns=1200)
    np.testing.assert_allclose(left.low, wide.low[:, : left.low.shape[1]], atol=0.05)


def test_only_the_channels_of_the_page_are_on_it(held):
    page = draw_page(held, View(first_row=3, n_rows=2), n_columns=900)
    assert page.channels == ("A3", "B1")
    assert page.n_channels == 4
    pairs = draw_page(held, View(montage="bipolar"), n_columns=900)
    assert pairs.channels == ("A1-A2", "A2-A3")


def test_the_bytes_hold_the_page_to_its_last_digit_on_screen(held):
    pages = [draw_page(held, View(at, 10.0), n_columns=500) for at in (195.0, 205.0)]
    trend = np.array([0.0, 1.0, np.nan])
    data = pack_pages(pages, header={"unit": "uV"}, bad=("A2",), trend=trend)
    header, values = unpack_pages(data)
    assert [row["bad"] for row in header["pages"][0]["rows"]] == [False, True, False, False]
    for page, value in zip(pages, values, strict=True):
        np.testing.assert_allclose(value[:, :, 0], page.low, atol=2000 / 65_000)
        np.testing.assert_allclose(value[:, :, 1], page.high, atol=2000 / 65_000)
    assert np.isnan(values[1]).all()  # in the gap
    assert tuple(data[-3:]) == (0, 250, 255)
    assert (len(data) - 4 - int.from_bytes(data[:4], "little")) == 2 * 4 * 500 * 2 * 2 + 3


@pytest.mark.parametrize(
    ("name", "answer"), [("A1", True), ("A1-A2", True), ("B1-A1", True), ("A10-A11", False)]
)
def test_a_pair_with_a_bad_contact_is_bad(name, answer):
    assert is_bad(name, ("A1",)) is answer


def test_columns_leave_out_what_was_not_recorded():
    low, high = column_extrema(np.array([[np.nan, np.nan, 1.0, np.nan, -3.0]]), 2.0)
    np.testing.assert_array_equal(low, [[np.nan, 1.0, -3.0]])
    np.testing.assert_array_equal(high, [[np.nan, 1.0, -3.0]])


def test_a_fingerprint_tells_files_apart_and_holds_after_a_copy(tmp_path):
    one, other, copy = (tmp_path / name for name in ("one", "other", "copy"))
    data = np.random.default_rng(1).bytes(3 << 20)
    one.write_bytes(data)
    copy.write_bytes(data)
    other.write_bytes(data[:-1] + b"\0\0")
    assert fingerprint([one]) == fingerprint([copy]) != fingerprint([other])


def test_the_sensitivity_of_unknown_units_follows_the_signal(held):
    held.signal[:] = 1e5 * np.random.default_rng(3).standard_normal(held.signal.shape)
    assert typical_amplitude(held) == pytest.approx(1e5, rel=0.05)
