"""Prevalences with their sources, from which one is chosen rather than typed.

A cohort folder may hold ``prevalences.csv``, a row a prevalence of an outcome. Nothing is
assumed of who wrote it: the source is shown with the number.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from phenokit.readers.tables import Column, read_table, refusal_of_rows

WHAT = "prevalences table"


@dataclass(frozen=True)
class StatedPrevalence:
    """A prevalence that somebody published or counted.

    Attributes
    ----------
    test
        The laboratory test whose abnormal result is the outcome.
    above, below
        The limit from which on a result is abnormal; NaN for the one that does not apply.
    prevalence, low, high
        Between 0 and 1, with its 95 % interval.
    source, population, age_range, time_window
        Text of unknown origin.
    """

    test: str
    above: float
    below: float
    prevalence: float
    low: float
    high: float
    source: str
    population: str
    age_range: str
    time_window: str


def read_prevalences(path: Path) -> tuple[StatedPrevalence, ...]:
    """The rows of a table of prevalences, in its order.

    Parameters
    ----------
    path
        CSV with `test`, `above` or `below`, `prevalence`, `low`, `high` (between 0 and 1),
        `source`, `population`, `age_range` and `time_window`.

    Raises
    ------
    BadInput
        As `read_table`; ``E_RANGE`` for rows whose interval does not hold the prevalence.
    """
    limits = ("above", "below")
    table = read_table(
        path,
        [
            Column("test"),
            *(
                Column(one, "number", is_required=False, may_be_missing=True)
                for one in limits
            ),
            *(Column(one, "prevalence") for one in ("prevalence", "low", "high")),
            *(Column(one) for one in ("source", "population", "age_range", "time_window")),
        ],
        what=WHAT,
    )
    for one in limits:
        if one not in table:
            table[one] = np.nan
    inside = (table["low"] < table["prevalence"]) & (table["prevalence"] < table["high"])
    if not inside.all():
        raise refusal_of_rows(
            "E_RANGE",
            "the interval does not hold the prevalence",
            np.flatnonzero(~inside),
            column="prevalence",
            what=WHAT,
        )
    rows: list[Any] = table.to_dict("records")
    return tuple(StatedPrevalence(**row) for row in rows)
