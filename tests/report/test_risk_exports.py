"""Every export carries flags, limits and acknowledgement; text cannot run as a formula."""

import csv
import io
import json

import pandas as pd
import pyarrow.parquet as pq
import pytest

from phenokit.evidence.risk import LIMITS
from phenokit.report.risk_exports import Kind, export_risk

RISK = pd.DataFrame(
    {"person_id": ["=1+1", "007"], "tested": [True, False], "outcome": [1.0, float("nan")],
     "risk": [0.25, 0.1]}
)  # fmt: skip
FLAGS = [{"code": "W_WEAK", "message": "The data say little."}]
SAID = "W_PREVALENCE_CONFLICT was acknowledged on 2026-01-02."


def exported(kind: Kind) -> bytes:
    return export_risk(
        RISK, kind=kind, flags=FLAGS, limits=LIMITS, acknowledged=SAID,
        manifest={"run_id": "abc"}, diagnostics={"k_hat": 0.2},
        summary=pd.DataFrame({"quantity": ["prevalence"], "mean": [0.1]}),
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_every_row_carries_flags_limits_and_acknowledgement(kind: Kind):
    data = exported(kind)
    if kind == "csv":
        rows = list(csv.DictReader(io.StringIO(data.decode())))
        assert [row["person_id"] for row in rows] == ["'=1+1", "007"]
        assert [row["outcome"] for row in rows] == ["1.0", ""]
    else:
        rows = pq.read_table(io.BytesIO(data)).to_pylist()
        assert [row["person_id"] for row in rows] == ["=1+1", "007"]
    for row in rows:
        assert row["flags"] == "W_WEAK"
        assert row["acknowledged"] == SAID
        assert all(sentence in row["limits"] for sentence in LIMITS)


def test_the_json_file_says_everything_but_the_patients():
    read = json.loads(exported("json"))
    assert read["flags"] == FLAGS
    assert read["limits"] == list(LIMITS)
    assert read["acknowledged"] == SAID
    assert read["manifest"]["run_id"] == "abc"
    assert "007" not in exported("json").decode()
