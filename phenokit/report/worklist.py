"""A cohort's recordings as a list to work through: sort, filter, count every filter.

Only what a list needs is read from the scores: not the similarities, which are most of
their bytes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from phenokit.cohort import AttritionStep
from phenokit.errors import BadInput
from phenokit.readers.cohorts import CohortTables

Sort = Literal["probability", "newest", "oldest"]
PROBABILITY = "probability_"
UNKNOWN_SEX = "unknown"
_DAY = np.timedelta64(1, "D")
_YEAR = 365.25
"""Days."""


@dataclass(frozen=True)
class Worklist:
    """A row a scored recording.

    Attributes
    ----------
    table
        `record_id`, `path` (below the folder of the recordings), `person_id`, `time` (NaT
        if unknown), `sex` (``"unknown"`` where it is), `age` (years at the recording; NaN),
        `outcome`, `code`, `message` and one `probability_<LABEL>` a label (NaN where the
        recording was not assessed).
    labels
        In the order of the model.
    model
        That scored the recordings.
    """

    table: pd.DataFrame
    labels: tuple[str, ...]
    model: str = ""

    def __len__(self) -> int:
        """Number of recordings."""
        return len(self.table)


@dataclass(frozen=True)
class Filters:
    """What a list is narrowed to; the defaults keep everything.

    Attributes
    ----------
    outcomes, sexes
        Kept; empty keeps all.
    ages
        Lowest and highest age in whole years; a recording without an age is kept only where
        this is None.
    label, at_least
        Keep recordings whose probability of `label` reaches `at_least`.
    hide
        Record ids that are left out, and why in a word or two.
    """

    outcomes: tuple[str, ...] = ()
    sexes: tuple[str, ...] = ()
    ages: tuple[int, int] | None = None
    label: str = ""
    at_least: float = 0.0
    hide: frozenset[str] = field(default_factory=frozenset)


def read_worklist(scores: Path, tables: CohortTables | None = None) -> Worklist:
    """Read the scores of a cohort, with time, sex and age where the tables have them.

    Parameters
    ----------
    scores
        What `phenokit score` wrote.
    tables
        Of the cohort; None for a folder of recordings alone.

    Raises
    ------
    BadInput
        ``E_MISSING`` if there are no scores, ``E_COLUMNS`` if they lack a column,
        ``E_FORMAT`` if they cannot be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    parts = sorted(scores.glob("part-*.parquet"))
    if not parts:
        raise BadInput("E_MISSING", "The cohort has no scores: run phenokit score first.")
    needed = ["record_id", "path", "patient_id", "outcome", "code", "message", "model"]
    read = []
    try:
        for part in parts:
            with pq.ParquetFile(part, page_checksum_verification=True) as file:
                names = file.schema_arrow.names
                missing = [name for name in needed if name not in names]
                if missing:
                    raise BadInput("E_COLUMNS", f"The scores lack: {', '.join(missing)}.")
                wanted = [n for n in names if n in needed or n.startswith(PROBABILITY)]
                read.append(file.read(columns=wanted))
        table = pa.concat_tables(read).to_pandas()
    except (OSError, pa.ArrowInvalid):
        raise BadInput("E_FORMAT", "The scores cannot be read.") from None
    labels = tuple(
        name.removeprefix(PROBABILITY) for name in table if name.startswith(PROBABILITY)
    )
    model = table.pop("model")
    return Worklist(
        _with_patients(table, tables), labels, str(model.iat[0]) if len(model) else ""
    )


def select(
    worklist: Worklist,
    filters: Filters,
    *,
    sort: Sort,
    label: str,
) -> tuple[np.ndarray, tuple[AttritionStep, ...]]:
    """The rows that pass the filters, in order, and what each filter left.

    Parameters
    ----------
    sort
        By the probability of `label`, the highest first, or by time. Rows without a
        probability or a time come last.

    Returns
    -------
    tuple
        Positions in `worklist.table`; a step for all and one for every filter in force.
    """
    table = worklist.table
    keep = np.ones(len(table), dtype=bool)
    steps = [_step("All recordings", table, keep, keep)]
    for rule, passes in _rules(table, filters):
        left = keep & passes
        steps.append(_step(rule, table, left, keep))
        keep = left
    rows = np.flatnonzero(keep)
    if sort == "probability":
        by = -table[PROBABILITY + label].to_numpy(float)[rows]
    else:
        time = table["time"].to_numpy()[rows]
        by = time.astype("datetime64[s]").astype(np.float64)
        by = np.where(np.isnat(time), np.nan, -by if sort == "newest" else by)
    # NaN sorts last; ties keep the order of the scores.
    return rows[np.argsort(by, kind="stable")], tuple(steps)


def top_findings(
    worklist: Worklist, row: int, thresholds: Mapping[str, float], n: int
) -> list[tuple[str, float, bool]]:
    """Label, probability and whether it reaches its threshold: the `n` most probable."""
    values = {
        label: float(worklist.table[PROBABILITY + label].iat[row])  # pyright: ignore[reportArgumentType]
        for label in worklist.labels
    }
    known = {label: value for label, value in values.items() if not np.isnan(value)}
    best = sorted(known, key=lambda label: -known[label])[:n]
    return [(one, known[one], known[one] >= thresholds.get(one, 1.0)) for one in best]


def _rules(table: pd.DataFrame, filters: Filters) -> list[tuple[str, np.ndarray]]:
    rules = []
    if filters.outcomes:
        words = " or ".join(one.replace("_", " ") for one in filters.outcomes)
        rules.append((f"Outcome {words}", table["outcome"].isin(filters.outcomes)))
    if filters.sexes:
        words = " or ".join(filters.sexes)
        rules.append((f"Sex {words}", table["sex"].isin(filters.sexes)))
    if filters.ages is not None:
        low, high = filters.ages
        rules.append((f"Age {low:g} to {high:g} years", table["age"].between(low, high)))
    if filters.label:
        value = table[PROBABILITY + filters.label]
        words = f"Probability of {filters.label} at least {100 * filters.at_least:.2g} %"
        rules.append((words, value >= filters.at_least))
    if filters.hide:
        rules.append(("Not reviewed yet", ~table["record_id"].isin(list(filters.hide))))
    return [(rule, passes.to_numpy(bool)) for rule, passes in rules]


def _step(
    rule: str, table: pd.DataFrame, left: np.ndarray, before: np.ndarray
) -> AttritionStep:
    person = table["person_id"].to_numpy()
    n, n_before = (len(pd.unique(person[mask])) for mask in (left, before))
    return AttritionStep(
        rule, n, int(left.sum()), n_before - n, int(before.sum() - left.sum())
    )


def _with_patients(scores: pd.DataFrame, tables: CohortTables | None) -> pd.DataFrame:
    """Scores with person, time, sex and age; rows keep their order."""
    table = scores.copy()
    table["person_id"] = table.pop("patient_id").fillna("").astype(object)
    table["time"] = np.datetime64("NaT", "s")
    table["sex"], table["age"] = UNKNOWN_SEX, np.nan
    if tables is None:
        return table
    if tables.recordings is not None:
        linked = tables.recordings.set_index("record_id")
        linked = linked.reindex(table["record_id"])
        table["person_id"] = linked["person_id"].fillna("").to_numpy()
        table["time"] = linked["time"].to_numpy()
    people = tables.patients.set_index("person_id").reindex(table["person_id"])
    sex = people["sex"].fillna("").to_numpy()
    table["sex"] = np.where(sex == "", UNKNOWN_SEX, sex)
    if "age" in people:
        table["age"] = people["age"].to_numpy(float)
    elif "birth_date" in people:
        born = pd.to_datetime(people["birth_date"]).to_numpy()
        table["age"] = (table["time"].to_numpy() - born) / _DAY / _YEAR
    return table


def page_of(rows: Sequence[int] | np.ndarray, page: int, size: int) -> np.ndarray:
    """The rows of a page, counted from 1."""
    return np.asarray(rows)[(page - 1) * size : page * size]
