import json

import numpy as np
import pandas as pd
import pytest

from phenokit.errors import BadInput
from phenokit.readers.packed import open_archive, quantise, write_archive

CODES = ("NORM", "MI")


def table_of(n, **columns):
    known = {
        "record_id": [f"r{i}" for i in range(n)],
        "dataset": "made",
        "patient_id": [None, *("p1" for _ in range(n - 1))],
        "split": "train",
        "fold": pd.array([None, *range(1, n)], dtype="Int64"),
        "age": np.nan,
        "sex": None,
    }
    return pd.DataFrame(known | columns)


@pytest.fixture
def steps():
    rng = np.random.default_rng(4)
    return rng.integers(-32767, 32768, (5, 12, 50), dtype=np.int16)


@pytest.fixture
def archive(tmp_path, steps):
    """A written archive of five recordings in two blocks."""
    labels = np.array([[1, 0], [0, 1], [np.nan, 1], [0, np.nan], [1, 0]], dtype=np.float32)
    write_archive(
        tmp_path / "packed",
        signals=iter([steps[:3], steps[3:]]),
        table=table_of(5),
        label_codes=CODES,
        labels=labels,
        scale=0.001,
        unit="mV",
        contract_id="raw",
        sampling_rate=100.0,
        dataset="made",
    )
    return tmp_path / "packed"


def test_an_archive_gives_back_what_was_packed(archive, steps):
    opened = open_archive(archive, verify=True)
    np.testing.assert_array_equal(opened.signal, steps)
    expected = steps[[4, 1]].astype(np.float32) * np.float32(0.001)
    np.testing.assert_array_equal(opened.block(np.array([4, 1])), expected)
    assert opened.block(slice(1, 3)).dtype == np.float32
    assert (opened.unit, opened.contract_id, opened.label_codes) == ("mV", "raw", CODES)
    assert np.isnan(opened.labels[2, 0])
    assert opened.labels[2, 1] == 1
    assert opened.table["patient_id"].isna().tolist() == [True] + [False] * 4
    assert "label_MI" not in opened.table


def test_the_same_archive_is_the_same_bytes_however_it_is_blocked(archive, steps):
    opened = open_archive(archive)
    again = archive.with_name("again")
    write_archive(
        again,
        signals=(record[None] for record in steps),
        table=table_of(5),
        label_codes=CODES,
        labels=opened.labels,
        scale=0.001,
        unit="mV",
        contract_id="raw",
        sampling_rate=100.0,
        dataset="made",
    )
    for name in ("signal.int16", "table.parquet", "archive.json"):
        assert (again / name).read_bytes() == (archive / name).read_bytes()


def test_a_signal_file_of_another_size_is_refused(archive):
    with (archive / "signal.int16").open("ab") as file:
        file.write(b"\0\0")
    with pytest.raises(BadInput, match=r"6002 bytes.*need 6000") as refusal:
        open_archive(archive)
    assert refusal.value.code == "E_SIZE_MISMATCH"


def test_changed_bytes_are_found_when_asked_to_verify(archive):
    path = archive / "signal.int16"
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(BadInput, match="not those that were packed") as refusal:
        open_archive(archive, verify=True)
    assert refusal.value.code == "E_CHECKSUM"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"format": "other"}, "E_HEADER"),
        ({"version": 2}, "E_VERSION"),
        ({"scale": 0}, "E_HEADER"),
        ({"scale": float("nan")}, "E_HEADER"),
        ({"n_recordings": -5}, "E_HEADER"),
        ({"n_recordings": 6}, "E_SIZE_MISMATCH"),
        ({"leads": ["I"] * 12}, "E_HEADER"),
        ({"leads": []}, "E_HEADER"),
        ({"label_codes": ["NORM", "HYP"]}, "E_COLUMNS"),
        ({"sha256": {}}, "E_HEADER"),
        ({"contract_id": None}, "E_HEADER"),
    ],
)
def test_a_header_that_does_not_fit_is_refused(archive, change, code):
    path = archive / "archive.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(BadInput) as refusal:
        open_archive(archive)
    assert refusal.value.code == code


@pytest.mark.parametrize(
    ("column", "values", "code"),
    [
        ("record_id", ["r0"] * 5, "E_DUP_ID"),
        ("label_MI", [0.0, 1.0, 0.5, 1.0, 0.0], "E_RANGE"),
        ("label_MI", list("abcde"), "E_RANGE"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(archive, column, values, code):
    path = archive / "table.parquet"
    pd.read_parquet(path).assign(**{column: values}).to_parquet(path, index=False)
    with pytest.raises(BadInput) as refusal:
        open_archive(archive)
    assert refusal.value.code == code


def test_a_damaged_table_and_a_link_are_refused(archive):
    table = (archive / "table.parquet").read_bytes()
    (archive / "table.parquet").write_bytes(table[: len(table) // 2])
    with pytest.raises(BadInput, match="not a Parquet file"):
        open_archive(archive)
    (archive / "archive.json").rename(archive / "elsewhere.json")
    (archive / "archive.json").symlink_to(archive / "elsewhere.json")
    with pytest.raises(BadInput, match="is a link") as refusal:
        open_archive(archive)
    assert refusal.value.code == "E_PATH"


def test_writing_over_an_archive_is_refused(archive, steps):
    with pytest.raises(FileExistsError, match="choose another folder"):
        write_archive(
            archive,
            signals=[steps],
            table=table_of(5),
            label_codes=(),
            labels=np.empty((5, 0), dtype=np.float32),
            scale=1.0,
            unit="mV",
            contract_id="raw",
            sampling_rate=100.0,
            dataset="made",
        )
    assert open_archive(archive, verify=True).label_codes == CODES


def test_a_failed_write_leaves_no_archive(tmp_path, steps):
    with pytest.raises(ValueError, match="3 signals for 5 rows"):
        write_archive(
            tmp_path / "short",
            signals=[steps[:3]],
            table=table_of(5),
            label_codes=(),
            labels=np.empty((5, 0), dtype=np.float32),
            scale=1.0,
            unit="mV",
            contract_id="raw",
            sampling_rate=100.0,
            dataset="made",
        )
    assert not (tmp_path / "short").exists()


def test_quantise_rounds_to_the_nearest_step_and_refuses_what_it_cannot_hold():
    signal = np.array([[0.0014, -0.0016, 32.767]])
    assert quantise(signal, scale=0.001).tolist() == [[1, -2, 32767]]
    with pytest.raises(BadInput, match="reaches 40") as refusal:
        quantise(np.array([[40.0]]), scale=0.001)
    assert refusal.value.code == "E_RANGE"
    with pytest.raises(BadInput, match="missing or not a number") as refusal:
        quantise(np.array([[np.nan]]), scale=0.001)
    assert refusal.value.code == "E_NONFINITE"
