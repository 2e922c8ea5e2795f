"""Files of a risk analysis, each with its flags, its limits and what was acknowledged.

A table that leaves its report behind must not leave the warnings behind: they stand in
columns of CSV and Parquet, in every row, and in the JSON file beside the settings.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pandas as pd

from phenokit.report.ecg_paper import BANNER
from phenokit.report.tables import format_table

Kind = Literal["csv", "parquet", "json"]


def export_risk(
    risk: pd.DataFrame,
    *,
    kind: Kind,
    flags: Sequence[Mapping[str, str]],
    limits: Sequence[str],
    acknowledged: str = "",
    manifest: Mapping[str, Any],
    diagnostics: Mapping[str, Any],
    summary: pd.DataFrame,
) -> bytes:
    """One file.

    Parameters
    ----------
    risk
        A row a patient; only its length is told in JSON.
    kind
        ``"csv"`` and ``"parquet"``: `risk` with columns `flags` (codes), `acknowledged` and
        `limits`; in CSV, text that a spreadsheet would run as a formula starts with an
        apostrophe. ``"json"``: flags in words, settings, hashes, diagnostics and the
        summary of the posterior, without a row a patient.
    flags
        `code` and `message` of each.
    acknowledged
        A sentence; empty where nobody acknowledged a conflict.
    manifest, diagnostics, summary
        Of the run.
    """
    if kind == "json":
        return _json(
            {
                "notice": BANNER,
                "limits": list(limits),
                "flags": [dict(flag) for flag in flags],
                "acknowledged": acknowledged or None,
                "n_patients": len(risk),
                "columns": {name: COLUMN_WORDS.get(name, "feature") for name in risk},
                "summary": summary.to_dict("records"),
                "diagnostics": dict(diagnostics),
                "manifest": dict(manifest),
            }
        )
    table = with_warnings(risk, flags=flags, limits=limits, acknowledged=acknowledged)
    return format_table(table) if kind == "csv" else _parquet(table)


def with_warnings(
    table: pd.DataFrame,
    *,
    flags: Sequence[Mapping[str, str]],
    limits: Sequence[str],
    acknowledged: str = "",
) -> pd.DataFrame:
    """The table with `flags` (codes), `acknowledged` and `limits` in every row."""
    return table.assign(
        flags=" ".join(flag["code"] for flag in flags),
        acknowledged=acknowledged,
        limits=" ".join([f"{BANNER}.", *limits]),
    )


COLUMN_WORDS = {
    "person_id": "the patient, always text",
    "tested": "1 where the outcome was observed",
    "outcome": "0 or 1; empty where not tested",
    "risk": "P(outcome | features), posterior mean",
    "risk_low": "lower 95 % limit of risk",
    "risk_high": "upper 95 % limit of risk",
    "risk_if_untested": "P(outcome | features, not tested)",
    "risk_if_untested_low": "its lower 95 % limit",
    "risk_if_untested_high": "its upper 95 % limit",
    "risk_if_tested": "P(outcome | features, tested)",
    "risk_if_tested_low": "its lower 95 % limit",
    "risk_if_tested_high": "its upper 95 % limit",
    "unobserved": "mean of the unseen part of the risk, log-odds",
    "fifth": "fifth of risk, 1 the lowest",
    "viable_low": "smallest risk over the settings kept; empty where not computed",
    "viable_high": "largest risk over the settings kept; empty where not computed",
    "flags": "codes of the flags of the whole result",
    "acknowledged": "which of them somebody acknowledged, and when",
    "limits": "what holds for every row",
}
"""What each column holds; every other column is a feature as it was given."""


def _json(value: Mapping[str, Any]) -> bytes:
    text = json.dumps(value, indent=2, ensure_ascii=False, default=str, allow_nan=False)
    return (text + "\n").encode()


def _parquet(table: pd.DataFrame) -> bytes:
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    arrow = pa.Table.from_pandas(table, preserve_index=False)
    pq.write_table(arrow, buffer, compression="zstd", write_page_checksum=True)
    return buffer.getvalue()
