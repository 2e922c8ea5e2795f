"""Outcomes that are known of the tested alone: a risk table, a laboratory test.

    read_risk_table     one table: features, who was tested, the outcome
    read_lab_outcome    results of a test, made an outcome by a limit
    first_result_days   when each person was first tested

Of MIMIC-IV, which flags abnormal results itself, see `phenokit.readers.mimic.lab_outcome`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float64, Shaped

from phenokit.errors import BadInput
from phenokit.readers.archives import unpack_gzip
from phenokit.readers.files import read_bytes
from phenokit.readers.tables import (
    Column,
    numbers_or_text,
    parse_table,
    read_table,
    refusal_of_rows,
)

WHAT = "risk table"


@dataclass(frozen=True)
class RiskColumns:
    """A table for a risk analysis, as it was read.

    Attributes
    ----------
    patients
        `person_id` (text; the row's number, from 1, where the table has none) and the
        features: numbers (NaN where missing) or text.
    tested
        0 or 1.
    outcome
        NaN where the cell is empty.
    """

    patients: pd.DataFrame
    tested: Float64[np.ndarray, " row"]
    outcome: Float64[np.ndarray, " row"]


def read_risk_table(
    path: Path, *, tested: str, outcome: str, features: Sequence[str]
) -> RiskColumns:
    """Read features, who was tested, and the outcome of the tested.

    Parameters
    ----------
    path
        CSV (may be packed by gzip) or Parquet, a row a patient. `person_id` is optional.
    tested, outcome
        Names of the columns. The outcome is empty, never 0, where nobody tested.
    features
        Names of the columns; no intercept.

    Raises
    ------
    BadInput
        ``E_COLUMNS`` if a column is absent or has two roles; ``E_RANGE`` and
        ``E_NONFINITE`` naming column and rows; as `read_table` otherwise.
    """
    names = [tested, outcome, *features]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise BadInput(
            "E_COLUMNS", f"Column {twice} has two roles; it can have one.",
            where=f"column {twice}",
        )  # fmt: skip
    if not features:
        raise BadInput("E_COLUMNS", "There is no feature; name at least one column.")
    schema = [
        Column("person_id", unique=True, is_required=False),
        Column(tested, "binary"),
        Column(outcome, "number", may_be_missing=True),
        *(Column(name, may_be_missing=True) for name in features),
    ]
    if path.suffix == ".parquet":
        table = _read_parquet(path, schema)
    else:
        table = read_table(path, schema, ignore_others=True, what=WHAT)
        for name in features:
            table[name] = numbers_or_text(table[name].tolist())
    if "person_id" not in table:
        table["person_id"] = [str(k + 1) for k in range(len(table))]
    return RiskColumns(
        table.loc[:, ["person_id", *features]],
        table[tested].to_numpy(np.float64),
        table[outcome].to_numpy(np.float64),
    )


def _read_parquet(path: Path, schema: Sequence[Column]) -> pd.DataFrame:
    import pyarrow as pa
    import pyarrow.parquet as pq

    data = read_bytes(path, what=WHAT)
    try:
        with pq.ParquetFile(pa.BufferReader(data)) as file:
            names = file.schema_arrow.names
            for column in schema:
                if column.is_required and column.name not in names:
                    raise BadInput(
                        "E_COLUMNS",
                        f"The {WHAT} has no column {column.name}; it has "
                        f"{', '.join(names[:20])}.",
                        where=f"column {column.name}",
                    )
            wanted = [column.name for column in schema if column.name in names]
            table = file.read(columns=wanted).to_pandas()
    except (OSError, pa.ArrowException):
        raise BadInput("E_FORMAT", f"The {WHAT} cannot be read as Parquet.") from None
    if table.empty:
        raise BadInput("E_EMPTY", f"The {WHAT} has no row.")
    for column in schema:
        if column.name not in table:
            continue
        values = table[column.name]
        if column.kind == "text" and not pd.api.types.is_numeric_dtype(values):
            table[column.name] = values.astype("string").fillna("").astype(object)
        elif column.name == "person_id":
            table[column.name] = values.astype("string").astype(object)
        elif not pd.api.types.is_numeric_dtype(values):
            raise BadInput(
                "E_RANGE", f"Column {column.name} of the {WHAT} is not of numbers.",
                where=f"column {column.name}",
            )  # fmt: skip
        else:
            table[column.name] = values.astype(np.float64)
    if "person_id" in table and table["person_id"].duplicated().any():
        raise BadInput(
            "E_DUP_ID", f"The {WHAT} has a person_id twice.", where="column person_id"
        )
    return table


def read_lab_outcome(
    path: Path,
    person_ids: Sequence[str],
    *,
    test: str,
    above: int | float | None = None,
    below: int | float | None = None,
    rule: Literal["any", "first"] = "first",
) -> pd.DataFrame:
    """A laboratory test as an outcome that is known of the tested alone.

    Parameters
    ----------
    path
        CSV with `person_id`, `time`, `test`, `value` and, optionally, `unit`.
    person_ids
        The patients, once each; results of others are left out.
    test
        As in the column `test`.
    above, below
        A result at or above, or at or below, this limit is abnormal (outcome 1); one of the
        two.
    rule
        Of several results of a person: whether the first is abnormal, or any. With "any"
        those who were tested more often have more chances.

    Returns
    -------
    pd.DataFrame
        `person_id`, `tested`, `outcome` (NaN where not tested), `n` (number of results): a
        row a patient, in their order. `attrs["unit"]` is the unit of the results.

    Raises
    ------
    BadInput
        ``E_EMPTY`` if nobody has the test (the message names those there are),
        ``E_UNITS`` if its results have several units, ``E_RANGE`` if not exactly one limit
        is given; as `read_table` otherwise.
    """
    if (above is None) == (below is None):
        raise BadInput(
            "E_RANGE", f"The test {test} needs one limit: above or below what is abnormal?"
        )
    data = unpack_gzip(read_bytes(path, what="labs table"))
    schema = [
        *(Column("person_id"), Column("time"), Column("test")),
        Column("value", "number"),
        Column("unit", is_required=False, may_be_missing=True),
    ]
    results = parse_table(data, schema, ignore_others=True, what="labs table")
    names = sorted(set(results["test"]))
    results = results.loc[results["test"] == test]
    results = results.loc[results["person_id"].isin(person_ids)]
    if results.empty:
        raise BadInput(
            "E_EMPTY", f"Nobody has a result of {test}; there are {', '.join(names[:20])}."
        )
    units = sorted(set(results["unit"])) if "unit" in results else [""]
    if len(units) > 1:
        raise BadInput(
            "E_UNITS",
            f"Results of {test} have {len(units)} units ({', '.join(units[:5])}); convert "
            "them to one.",
            where="column unit",
        )
    values = results["value"]
    abnormal = values >= above if above is not None else values <= below
    # ISO times of one zone sort as text; at one time an abnormal result is the first.
    ordered = results.assign(normal=1 - abnormal.astype(int)).sort_values(
        by=["person_id", "time", "normal"], kind="stable"
    )
    of_person = ordered.groupby("person_id")["normal"]
    normal: Any = of_person.min() if rule == "any" else of_person.first()
    n: Any = of_person.size().reindex(person_ids, fill_value=0).to_numpy()
    found = pd.DataFrame(
        {
            "person_id": list(person_ids),
            "tested": n > 0,
            "outcome": 1.0 - normal.reindex(person_ids).to_numpy(np.float64),
            "n": n,
        }
    )
    found.attrs["unit"] = units[0]
    return found


def first_result_days(
    path: Path, person_ids: Sequence[str], *, test: str
) -> Shaped[np.ndarray, " person"]:
    """Day (datetime64, as the table writes it) of each person's first result of a test.

    NaT where there is none.

    Raises
    ------
    BadInput
        ``E_DATE`` if a time does not begin with a day; as `read_table` otherwise.
    """
    schema = [Column("person_id"), Column("time"), Column("test")]
    results = read_table(path, schema, ignore_others=True, what="labs table")
    results = results.loc[results["test"] == test]
    day = results["time"].str[:10]
    is_day = day.str.fullmatch(r"\d{4}-\d\d-\d\d")
    if not is_day.all():
        rows = np.flatnonzero(~is_day.to_numpy(bool))
        reason = "the time does not begin with a day such as 2020-01-31"
        positions = results.index.to_numpy()[rows]
        raise refusal_of_rows("E_DATE", reason, positions, column="time", what="labs table")
    first = day.groupby(results["person_id"]).min().reindex(list(person_ids))
    return first.fillna("NaT").to_numpy(str).astype("datetime64[D]")


def lab_tests(path: Path) -> pd.DataFrame:
    """Tests of a labs table: `test, unit, n_patients, n_results, median`, most used first.

    Raises
    ------
    BadInput
        As `read_lab_outcome`.
    """
    data = unpack_gzip(read_bytes(path, what="labs table"))
    schema = [
        *(Column("person_id"), Column("test"), Column("value", "number")),
        Column("unit", is_required=False, may_be_missing=True),
    ]
    results = parse_table(data, schema, ignore_others=True, what="labs table")
    if "unit" not in results:
        results["unit"] = ""
    table = results.groupby("test", sort=True).agg(
        unit=("unit", "first"),
        n_patients=("person_id", "nunique"),
        n_results=("value", "size"),
        median=("value", "median"),
    )
    most_used = np.argsort(-np.asarray(table["n_patients"]), kind="stable")
    return table.iloc[most_used].reset_index()
