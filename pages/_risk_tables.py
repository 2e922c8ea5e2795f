"""Figures and tables of a result: each figure stands as a table too, and can be saved."""

from copy import deepcopy
from dataclasses import replace
from typing import Any

import pandas as pd
import streamlit as st

from pages import _audit, _widgets
from phenokit.report.association_figures import Drawing
from phenokit.report.explanation import count
from phenokit.report.risk import RiskRun
from phenokit.report.risk_exports import with_warnings
from phenokit.report.tables import format_table

WHOLE = {"n", "fifth", "bin", "at_risk"}
"""Columns of whole numbers, beside those that begin with n_."""


def show_drawing(drawing: Drawing, key: str, run: RiskRun, acknowledged: str) -> None:
    """A figure, and the same as a table."""
    # A copy: the page's colours are written into it, and others see it too.
    own = replace(drawing, figure=deepcopy(drawing.figure))
    _widgets.show_figure(own, key=f"figure-{key}")
    show_table(drawing.table, "The same as a table", f"{key}-rows", run, acknowledged)


def show_table(
    rows: pd.DataFrame,
    words: str,
    key: str,
    run: RiskRun,
    acknowledged: str,
) -> None:
    """Rows that can be unfolded and saved."""

    def file() -> bytes:
        return format_table(
            with_warnings(
                rows, flags=run.flags, limits=run.limits, acknowledged=acknowledged
            )
        )

    with st.expander(f"{words} ({count(len(rows), 'row')})"):
        st.dataframe(
            rows.rename(columns=lambda name: str(name).replace("_", " ")),
            hide_index=True, key=key, column_config=_columns(rows),
            alt=f"{words}, {len(rows)} rows.",
        )  # fmt: skip
        _audit.download_button(
            "CSV, all digits", file, f"phenokit-risk-{key}.csv", key=f"save-{key}",
            detail=f"risk table {run.manifest['run_id']}",
        )  # fmt: skip


def _columns(rows: pd.DataFrame) -> dict[str, Any]:
    """Numbers with as many digits as can be read."""
    return {
        name.replace("_", " "): st.column_config.NumberColumn(
            format="localized" if name in WHOLE or name.startswith("n_") else "%.3g"
        )
        for name in map(str, rows.columns)
        if pd.api.types.is_numeric_dtype(rows[name])
        and not pd.api.types.is_bool_dtype(rows[name])
    }
