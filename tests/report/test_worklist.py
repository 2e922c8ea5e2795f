import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from phenokit.errors import BadInput
from phenokit.readers.cohorts import CohortTables
from phenokit.readers.diagnoses import PhecodeCounts
from phenokit.report.worklist import (
    Filters,
    Worklist,
    page_of,
    read_worklist,
    select,
    top_findings,
)


def worklist(n: int = 6) -> Worklist:
    rng = np.random.default_rng(1)
    times = pd.to_datetime("2020-01-01") + pd.to_timedelta(rng.permutation(n), unit="min")
    table = pd.DataFrame(
        {
            "record_id": [f"r{k}" for k in range(n)],
            "path": [f"r{k}.hea" for k in range(n)],
            "person_id": [f"p{k // 2}" for k in range(n)],
            "time": times,
            "sex": np.where(np.arange(n) % 2, "Male", "Female"),
            "age": 40.0 + np.arange(n) % 50,
            "outcome": np.where(np.arange(n) % 3 == 2, "abstained", "scored"),
            "probability_AFIB": np.where(np.arange(n) % 3 == 2, np.nan, rng.random(n)),
            "probability_SR": rng.random(n),
        }
    )
    return Worklist(table, ("AFIB", "SR"))


@pytest.mark.parametrize("sort", ["probability", "newest", "oldest"])
def test_every_order_keeps_every_row_and_puts_the_unknown_last(sort):
    one = worklist(60)
    one.table.loc[7, "time"] = pd.NaT
    rows, _ = select(one, Filters(), sort=sort, label="AFIB")
    assert sorted(rows) == list(range(60))
    column = "probability_AFIB" if sort == "probability" else "time"
    values = one.table[column].iloc[rows].reset_index(drop=True)
    known = values.dropna()
    assert known.index.tolist() == list(range(len(known)))
    rises = known.is_monotonic_increasing
    assert rises if sort == "oldest" else known.is_monotonic_decreasing


def test_each_filter_is_a_step_and_the_steps_add_up():
    filters = Filters(
        outcomes=("scored",), sexes=("Female",), ages=(40, 60), label="SR", at_least=0.3,
        hide=frozenset({"r0"}),
    )  # fmt: skip
    rows, steps = select(worklist(60), filters, sort="probability", label="AFIB")
    assert len(steps) == 6
    assert steps[0].n_recordings - sum(s.dropped_recordings for s in steps) == len(rows)
    assert steps[0].n_patients - sum(s.dropped_patients for s in steps) == (
        steps[-1].n_patients
    )
    kept = worklist(60).table.iloc[rows]
    assert set(kept["sex"]) == {"Female"}
    assert kept["probability_SR"].min() >= 0.3
    assert "r0" not in set(kept["record_id"])


def test_findings_that_were_not_assessed_are_not_listed():
    thresholds = {"AFIB": 0.0, "SR": 2.0}
    assert [f[0] for f in top_findings(worklist(), 2, thresholds, 5)] == ["SR"]
    found = top_findings(worklist(), 0, thresholds, 5)
    present = {label: is_present for label, _, is_present in found}
    assert present == {"AFIB": True, "SR": False}


def test_a_page_is_counted_from_one_and_the_last_may_be_short():
    rows = np.arange(1003)
    assert page_of(rows, 1, 500).tolist() == list(range(500))
    assert page_of(rows, 3, 500).tolist() == [1000, 1001, 1002]


def scores(folder: Path, **changes) -> Path:
    columns: dict = {
        "record_id": ["a", "b"], "path": ["a.hea", "b.hea"], "patient_id": [None, None],
        "outcome": ["scored"] * 2, "code": ["OK"] * 2, "message": [""] * 2,
        "model": ["m"] * 2, "probability_AFIB": [0.1, 0.9],
    }  # fmt: skip
    columns = {k: v for k, v in (columns | changes).items() if v is not None}
    folder.mkdir(exist_ok=True)
    table = pa.table(columns)
    pq.write_table(table, folder / "part-00000.parquet", write_page_checksum=True)
    return folder


def test_time_sex_and_age_come_from_the_tables_of_the_cohort(tmp_path: Path):
    counts = pd.DataFrame({"person_id": ["p"], "phecode": ["401"], "count": [2]})
    tables = CohortTables(
        pd.DataFrame(
            {"person_id": ["p"], "sex": ["Female"],
             "birth_date": [np.datetime64("1950-06-01", "s")]}
        ),
        PhecodeCounts(pa.Table.from_pandas(counts)),
        recordings=pd.DataFrame(
            {"record_id": ["b"], "person_id": ["p"],
             "time": [np.datetime64("2010-06-01T12:00", "us")]}
        ),
    )  # fmt: skip
    table = read_worklist(scores(tmp_path / "s"), tables).table.set_index("record_id")
    assert table.loc["b", ["person_id", "sex"]].tolist() == ["p", "Female"]
    assert table.loc["b", "age"] == pytest.approx(60.0, abs=0.01)
    assert table.loc["a", ["person_id", "sex"]].tolist() == ["", "unknown"]
    assert np.isnan(table.loc["a", "age"])


@pytest.mark.parametrize(
    ("changes", "code"), [({"outcome": None}, "E_COLUMNS"), ({}, "E_FORMAT")]
)
def test_scores_that_cannot_be_listed_are_refused(tmp_path: Path, changes, code: str):
    folder = scores(tmp_path / "s", **changes)
    if code == "E_FORMAT":
        part = folder / "part-00000.parquet"
        part.write_bytes(part.read_bytes()[:-20])
    with pytest.raises(BadInput) as caught:
        read_worklist(folder)
    assert caught.value.code == code


def test_a_hundred_thousand_recordings_are_sorted_and_filtered_within_a_second():
    one = worklist(100_000)
    start = time.perf_counter()
    filters = Filters(outcomes=("scored",), sexes=("Male",), label="AFIB", at_least=0.2)
    rows, _ = select(one, filters, sort="probability", label="AFIB")
    assert len(rows) > 10_000
    assert time.perf_counter() - start < 1
