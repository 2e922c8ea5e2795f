import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import wfdb

from phenokit.batch.pack import pack_folder, read_labels
from phenokit.errors import BadInput
from phenokit.preprocessing.contract import InputContract, prepare
from phenokit.readers.ecg import read_ecg
from phenokit.readers.packed import open_archive
from phenokit.recording import LEADS

CONTRACT = InputContract()
DATA = os.environ.get("PHENOKIT_DATA")
SCRIPTS = Path(__file__).parents[2] / "scripts"


def write_ecg(folder, name, *, rate=500, seconds=10):
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(len(name) + rate)
    wfdb.wrsamp(
        name,
        fs=rate,
        units=["mV"] * 12,
        sig_name=list(LEADS),
        d_signal=rng.integers(-900, 900, (seconds * rate, 12)),
        fmt=["16"] * 12,
        adc_gain=[1000.0] * 12,
        baseline=[0] * 12,
        write_dir=str(folder),
    )


@pytest.fixture
def hospital(tmp_path):
    """Two good ECGs in folders, a short one, and a header without its signal."""
    folder = tmp_path / "ecgs"
    write_ecg(folder / "a", "first")
    write_ecg(folder / "b", "second", rate=250)
    write_ecg(folder, "short", seconds=5)
    write_ecg(folder, "orphan")
    (folder / "orphan.dat").unlink()
    return folder


def test_pack_folder_loses_no_file(hospital, tmp_path):
    packing = pack_folder(hospital, tmp_path / "out", dataset="mine", contract=CONTRACT)
    codes = dict(zip(packing.rejected["record_id"], packing.rejected["code"], strict=True))
    assert codes == {"orphan": "E_MISSING", "short": "A_DURATION"}
    table = open_archive(tmp_path / "out", verify=True).table
    assert table["record_id"].tolist() == ["a/first", "b/second"]
    written = pd.read_csv(tmp_path / "out/rejected.csv")
    assert written["code"].tolist() == packing.rejected["code"].tolist()


@pytest.mark.parametrize("name", ["=1+1", "+2", "-3", "@SUM(A1)", "\t=4", "\r=5"])
def test_a_name_that_a_spreadsheet_would_run_is_text(hospital, tmp_path, name):
    (hospital / f"{name}.hea").write_text("x 12 500 5000\n")
    pack_folder(hospital, tmp_path / "out", dataset="mine", contract=CONTRACT)
    with (tmp_path / "out/rejected.csv").open(newline="") as file:
        names = [row[0] for row in csv.reader(file)]
    assert f"'{name}" in names
    assert name not in names


def test_a_packed_recording_is_what_prepare_gives(hospital, tmp_path):
    pack_folder(hospital, tmp_path / "out", dataset="mine", contract=CONTRACT)
    archive = open_archive(tmp_path / "out")
    assert archive.contract_id == CONTRACT.identifier
    expected = prepare(read_ecg(hospital / "b/second.hea"), CONTRACT).signal
    np.testing.assert_allclose(archive.block(slice(1, 2))[0], expected, atol=0.00051)


def test_labels_are_unknown_where_the_table_says_nothing(hospital, tmp_path):
    known = pd.DataFrame(
        {
            "record_id": ["b/second", "nowhere"],
            "patient_id": ["p7", "p8"],
            "MI": ["1", "0"],
            "AFIB": ["", "0"],
        }
    )
    out = tmp_path / "out"
    packing = pack_folder(hospital, out, dataset="mine", contract=CONTRACT, table=known)
    archive = open_archive(out)
    assert archive.label_codes == ("MI", "AFIB")
    np.testing.assert_array_equal(archive.labels, [[np.nan, np.nan], [1.0, np.nan]])
    assert archive.table["patient_id"].tolist() == [None, "p7"]
    assert "nowhere" in packing.rejected["record_id"].tolist()


def test_raw_recordings_of_another_rate_are_rejected_not_resampled(hospital, tmp_path):
    packing = pack_folder(hospital, tmp_path / "out", dataset="mine", contract=None)
    archive = open_archive(tmp_path / "out")
    assert (archive.unit, archive.contract_id, archive.sampling_rate) == ("mV", "raw", 500)
    expected = read_ecg(hospital / "a/first.hea").signal
    np.testing.assert_allclose(archive.block(slice(0, 1))[0], expected, atol=1e-6)
    codes = packing.rejected.set_index("record_id")["code"]
    assert codes["b/second"] == "E_FS"


@pytest.mark.parametrize(
    ("columns", "code"),
    [
        ({"id": ["a/first"]}, "E_COLUMNS"),
        ({"record_id": ["a/first", "a/first"]}, "E_DUP_ID"),
        ({"record_id": ["a/first"], "MI": ["yes"]}, "E_RANGE"),
        ({"record_id": ["a/first"], "fold": ["1.5"]}, "E_RANGE"),
    ],
)
def test_pack_folder_refuses_a_table_it_cannot_use(hospital, tmp_path, columns, code):
    table = pd.DataFrame(columns)
    with pytest.raises(BadInput) as refusal:
        pack_folder(hospital, tmp_path / "o", dataset="mine", contract=None, table=table)
    assert refusal.value.code == code


def test_a_folder_without_a_usable_ecg_makes_no_archive(tmp_path):
    write_ecg(tmp_path / "ecgs", "short", seconds=5)
    out = tmp_path / "out"
    with pytest.raises(BadInput, match=r"None of the 1 records.*lasts 5\.0 s") as refusal:
        pack_folder(tmp_path / "ecgs", out, dataset="mine", contract=CONTRACT)
    assert refusal.value.code == "E_EMPTY"
    assert [path.name for path in tmp_path.iterdir()] == ["ecgs"]


@pytest.mark.slow
@pytest.mark.realdata
@pytest.mark.skipif(DATA is None, reason="PHENOKIT_DATA is not set")
@pytest.mark.parametrize(
    ("script", "n_records", "n_train", "norm"),
    [("pack_ptbxl_subset", 2273, 1764, 1240), ("pack_ludb", 200, 0, 25)],
)
def test_the_scripts_pack_their_data_sets(tmp_path, script, n_records, n_train, norm):
    command = [sys.executable, SCRIPTS / f"{script}.py", tmp_path / "out", "--data", DATA]
    subprocess.run(command, check=True, capture_output=True)
    archive = open_archive(tmp_path / "out", verify=True)
    assert archive.signal.shape == (n_records, 12, 1000)
    assert archive.contract_id == CONTRACT.identifier
    assert archive.table["split"].fillna("").tolist().count("train") == n_train
    assert np.nansum(archive.labels[:, archive.label_codes.index("NORM")]) == norm


def test_read_labels_keeps_ids_as_text_and_unknown_as_unknown(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text(
        "record_id,patient_id,split,age,sex,MI,AFIB\n"
        "a/first,007,train,61.5,female,1,\n"
        "008,,,,,0,1\n"
    )
    table = read_labels(path)
    assert table["record_id"].tolist() == ["a/first", "008"]
    assert table["patient_id"].tolist() == ["007", None]
    assert table["split"].tolist() == ["train", None]
    np.testing.assert_array_equal(
        table[["age", "MI", "AFIB"]], [[61.5, 1, np.nan], [np.nan, 0, 1]]
    )


def test_read_labels_gives_what_pack_folder_takes(hospital, tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text("record_id,patient_id,split,fold,sex,MI\na/first,007,val,,,1\n")
    out = tmp_path / "out"
    pack_folder(hospital, out, dataset="m", contract=CONTRACT, table=read_labels(path))
    archive = open_archive(out)
    assert archive.table["patient_id"].tolist() == ["007", None]
    assert archive.table["split"].tolist() == ["val", None]
    assert archive.table["sex"].isna().tolist() == [True, True]
    np.testing.assert_array_equal(archive.labels, [[1.0], [np.nan]])


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("patient_id,MI\n1,1\n", "E_COLUMNS"),
        ("record_id,AFB\n1,1\n", "E_COLUMNS"),  # no such statement
        ("record_id,MI\n1,0.5\n", "E_RANGE"),
        ("record_id,split\n1,training\n", "E_RANGE"),
        ("record_id,sex\n1,F\n", "E_RANGE"),
        ("record_id,MI\n1,1\n1,0\n", "E_DUP_ID"),
    ],
)
def test_read_labels_refuses_what_it_would_have_to_guess(tmp_path, text, code):
    path = tmp_path / "labels.csv"
    path.write_text(text)
    with pytest.raises(BadInput) as refusal:
        read_labels(path)
    assert refusal.value.code == code
