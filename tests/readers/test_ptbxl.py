import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from phenokit.errors import BadInput
from phenokit.readers.ptbxl import (
    LABEL_CODES,
    read_ptbxl,
    read_recordings,
    scp_codes_of,
)
from phenokit.recording import LEADS, Recording
from phenokit.statements import SCP_STATEMENTS

DATA = os.environ.get("PHENOKIT_DATA")


def database(**changes):
    """Five records of four patients; 137 is one of those that 1.0.3 removed."""
    ids = [1, 2, 3, 4, 137]
    columns = {
        "ecg_id": ids,
        "patient_id": [11.0, 11.0, 12.0, 13.0, 14.0],
        "age": [56.0, 57.0, np.nan, 300.0, 40.0],
        "sex": [1, 1, 0, 0, 1],
        "site": [0, 0, None, 2, 0],
        "device": ["CS-12   E"] * 5,
        "scp_codes": [
            "{'NORM': 100.0, 'SR': 0.0}",
            "{'IMI': 0.0, 'LAFB': 35.0, 'SR': 0.0}",
            "{}",
            "{'AFIB': 0.0}",
            "{'NORM': 100.0}",
        ],
        "strat_fold": [3, 3, 9, 10, 1],
        "filename_lr": [f"records100/00000/{i:05}_lr" for i in ids],
        "filename_hr": [f"records500/00000/{i:05}_hr" for i in ids],
    }
    return pd.DataFrame(columns | changes)


@pytest.fixture
def ptbxl_folder(tmp_path):
    """A small data set in the official layout; the tracing of record 3 is absent."""
    wfdb = pytest.importorskip("wfdb")
    rng = np.random.default_rng(5)
    statements = pd.DataFrame(
        {
            "": [s.code for s in SCP_STATEMENTS],
            "diagnostic_class": [s.superclass for s in SCP_STATEMENTS],
        }
    )
    statements.to_csv(tmp_path / "scp_statements.csv", index=False)
    database().to_csv(tmp_path / "ptbxl_database.csv", index=False)
    for rate, ending in ((100, "lr"), (500, "hr")):
        folder = tmp_path / f"records{rate}/00000"
        folder.mkdir(parents=True)
        for ecg_id in (1, 2, 4):
            wfdb.wrsamp(
                f"{ecg_id:05}_{ending}",
                fs=rate,
                units=["mV"] * 12,
                sig_name=[lead.upper() for lead in LEADS],
                d_signal=rng.integers(-500, 500, (10 * rate, 12)),
                fmt=["16"] * 12,
                adc_gain=[1000.0] * 12,
                baseline=[0] * 12,
                write_dir=str(folder),
            )
    return tmp_path


def test_read_ptbxl_takes_every_key_as_positive_whatever_its_likelihood(ptbxl_folder):
    ptbxl = read_ptbxl(ptbxl_folder)
    positive = [
        {code for code, value in zip(LABEL_CODES, row, strict=True) if value == 1}
        for row in ptbxl.labels
    ]
    assert positive == [{"NORM", "SR"}, {"IMI", "MI", "LAFB", "CD", "SR"}, set(), {"AFIB"}]


def test_read_ptbxl_tells_fold_split_age_and_sex(ptbxl_folder):
    table = read_ptbxl(ptbxl_folder).table
    assert table["record_id"].tolist() == ["1", "2", "3", "4"]
    assert table["split"].tolist() == ["train", "train", "val", "test"]
    assert table["fold"].tolist() == [3, 3, 9, 10]
    assert table["patient_id"].tolist() == ["11", "11", "12", "13"]
    assert table["sex"].tolist() == ["female", "female", "male", "male"]
    np.testing.assert_array_equal(table["age"], [56.0, 57.0, np.nan, 90.0])
    assert table["device"].iloc[0] == "CS-12 E"


def test_read_ptbxl_says_which_records_it_left_out(ptbxl_folder):
    dropped = read_ptbxl(ptbxl_folder).dropped
    assert dropped[["record_id", "code"]].to_numpy().tolist() == [["137", "E_DUP_ID"]]
    assert "1.0.3 removed it" in dropped["message"].iloc[0]


@pytest.mark.parametrize("rate", [100, 500])
def test_read_recordings_gives_a_missing_file_its_row(ptbxl_folder, rate):
    read = list(read_recordings(read_ptbxl(ptbxl_folder), sampling_rate=rate))
    assert [getattr(r, "code", "read") for r in read] == [
        "read",
        "read",
        "E_MISSING",
        "read",
    ]
    last = read[3]
    assert isinstance(last, Recording)
    assert (last.sampling_rate, last.record_id, last.patient_id) == (rate, "4", "13")
    assert (last.age, last.sex) == (90.0, "male")


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"patient_id": [11.0, 12.0, 12.0, 13.0, 14.0]}, "E_DUP_ID", "more than one fold"),
        ({"ecg_id": [1, 2, 3, 3, 137]}, "E_DUP_ID", "ecg_id occurs twice"),
        ({"strat_fold": [3, 3, 9, 11, 1]}, "E_RANGE", "not one of 1 to 10"),
        ({"strat_fold": [3, 3, None, 10, 1]}, "E_RANGE", "strat_fold is missing"),
        ({"age": [1.0, -2.0, 3.0, 4.0, 5.0]}, "E_RANGE", "age is negative"),
        ({"scp_codes": ["{'XXX': 1.0}"] * 5}, "E_CODE", "not among the 71"),
        ({"scp_codes": ["__import__('os')"] * 5}, "E_CODE", "damaged"),
        ({"scp_codes": [None] * 5}, "E_CODE", "damaged"),
    ],
)
def test_read_ptbxl_refuses_a_damaged_table(ptbxl_folder, changes, code, words):
    database(**changes).to_csv(ptbxl_folder / "ptbxl_database.csv", index=False)
    with pytest.raises(BadInput, match=words) as refusal:
        read_ptbxl(ptbxl_folder)
    assert refusal.value.code == code


def test_read_ptbxl_refuses_other_superclasses_than_its_labels_are_made_by(ptbxl_folder):
    path = ptbxl_folder / "scp_statements.csv"
    path.write_text(path.read_text().replace("LAFB,CD", "LAFB,MI"))
    with pytest.raises(BadInput, match="other statements or superclasses") as refusal:
        read_ptbxl(ptbxl_folder)
    assert refusal.value.code == "E_VERSION"


def test_a_file_name_cannot_leave_the_data_set(ptbxl_folder):
    names = ["../outside/00001_lr"] * 5
    database(filename_lr=names).to_csv(ptbxl_folder / "ptbxl_database.csv", index=False)
    read = list(read_recordings(read_ptbxl(ptbxl_folder), sampling_rate=100))
    assert [r.code for r in read if isinstance(r, BadInput)] == ["E_PATH"] * 4


def test_scp_codes_of_reads_codes_with_signs():
    cell = "{'LAO/LAE': 0.0, 'PRC(S)': 100.0, 'NST_': 15}"
    assert scp_codes_of(cell) == {"LAO/LAE", "PRC(S)", "NST_"}


@pytest.mark.realdata
@pytest.mark.skipif(DATA is None, reason="PHENOKIT_DATA is not set")
def test_read_ptbxl_reads_the_first_records_of_the_real_data_set():
    ptbxl = read_ptbxl(Path(DATA or "") / "ptbxl-500-raw")
    assert len(ptbxl.table) == 488
    assert len(ptbxl.dropped) == 12
    assert ptbxl.table["patient_id"].nunique() == 459
    assert ptbxl.table["split"].value_counts().to_dict() == {
        "train": 344,
        "val": 78,
        "test": 66,
    }
    read = read_recordings(ptbxl, sampling_rate=100)
    assert all(r.signal.shape == (12, 1000) for r in read if not isinstance(r, BadInput))
    read = list(read_recordings(ptbxl, sampling_rate=500))
    assert sum(isinstance(r, BadInput) for r in read) == 388  # 100 of 500 come at 500 Hz
