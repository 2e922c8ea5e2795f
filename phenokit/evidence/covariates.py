"""Covariates as columns of numbers, and the strata within which rows may be exchanged."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float64, Int64

from phenokit.cohort import PhecodeStatus
from phenokit.errors import BadInput
from phenokit.evidence.logistic import dependent_columns, design_of

ROWS_NAMED = 10
MOST_LEVELS = 50
"""Of a category; a column with more is an id, or numbers with a text among them."""

Array = np.ndarray


@dataclass(frozen=True)
class Covariates:
    """What is adjusted for: columns that each vary and do not repeat one another.

    Attributes
    ----------
    names
        Of the columns; a category's names its level, ``"sex Male"``.
    values
        Shape ``(row, column)``, float64, none missing.
    collinear
        Columns that were left out because the ones before them determine them.
    notes
        Sentences for the report, such as the reference level of a category.
    """

    names: tuple[str, ...]
    values: Float64[Array, "row column"]
    collinear: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def encode_covariates(
    table: pd.DataFrame, names: Sequence[str], *, splines: Sequence[str] = ()
) -> Covariates:
    """Covariates as columns of numbers.

    Parameters
    ----------
    table
        A row a patient. A column of numbers stays one; a column of text becomes a column
        for each level but the most frequent, which is the reference.
    names
        Columns of the table.
    splines
        Of these, those that enter as a restricted cubic spline of four knots, at the 5th,
        35th, 65th and 95th percentile (Harrell 2015, doi:10.1007/978-3-319-19425-7).

    Raises
    ------
    BadInput
        ``E_COLUMNS`` a column is absent; ``E_NONFINITE`` a value is missing (`where` names
        the column and rows, counted from 1); ``E_RANGE`` a column does not vary, a category
        has more than `MOST_LEVELS` levels, or a spline is asked of one.
    """
    if unknown := [name for name in splines if name not in names]:
        raise BadInput(
            "E_COLUMNS",
            f"{unknown[0]} is to enter as a spline and is no covariate; add it to them.",
            where=f"column {unknown[0]}",
        )
    columns: list[tuple[str, Array]] = []
    notes: list[str] = []
    for name in names:
        if name not in table.columns:
            raise BadInput(
                "E_COLUMNS", f"There is no covariate {name}.", where=f"column {name}"
            )
        values = table[name]
        is_number = pd.api.types.is_numeric_dtype(values)
        missing = ~np.isfinite(values) if is_number else values.isna() | (values == "")
        if missing.any():
            raise _covariate_error(name, np.flatnonzero(missing), len(values))
        if is_number:
            columns.append((name, values.to_numpy(np.float64)))
        else:
            levels, counts = np.unique(values.to_numpy(str), return_counts=True)
            if len(levels) > MOST_LEVELS or name in splines:
                raise BadInput(
                    "E_RANGE",
                    f"Covariate {name} is text with {len(levels):,} different values; "
                    f"{'a spline' if name in splines else 'more than 50'} needs numbers.",
                    where=f"column {name}",
                )
            reference = levels[np.argmax(counts)]
            notes.append(f"The reference of {name} is {reference}.")
            columns += [
                (f"{name} {level}", (values == level).to_numpy(np.float64))
                for level in levels
                if level != reference
            ]
        if values.nunique() < 2:
            raise BadInput(
                "E_RANGE",
                f"Covariate {name} does not vary; leave it out.",
                where=f"column {name}",
            )
        if name in splines:
            columns += _spline_terms(name, values.to_numpy(np.float64))
            notes.append(f"{name} enters as a restricted cubic spline of four knots.")
    return _independent(columns, notes)


def _covariate_error(name: str, rows: Int64[Array, " row"], n: int) -> BadInput:
    named = ", ".join(str(row + 1) for row in rows[:ROWS_NAMED])
    if len(rows) > ROWS_NAMED:
        named += f" and {len(rows) - ROWS_NAMED:,} more"
    return BadInput(
        "E_NONFINITE",
        f"Covariate {name} is missing in {len(rows):,} of {n:,} rows (row {named}); fill "
        "it in, leave those patients out, or leave the covariate out.",
        where=f"column {name}, row {named}",
    )


def _spline_terms(
    name: str, values: Float64[Array, " row"]
) -> list[tuple[str, Float64[Array, " row"]]]:
    """The terms of a restricted cubic spline beyond the linear one."""
    knots = np.quantile(values, [0.05, 0.35, 0.65, 0.95])
    if len(np.unique(knots)) < 4:
        raise BadInput(
            "E_RANGE",
            f"Covariate {name} has too few different values for a spline.",
            where=f"column {name}",
        )

    def cubed(knot: float) -> Float64[Array, " row"]:
        return np.maximum(values - knot, 0) ** 3

    first, *_, before, last = knots
    return [
        (
            f"{name} spline {k + 1}",
            (
                cubed(knots[k])
                - cubed(before) * (last - knots[k]) / (last - before)
                + cubed(last) * (before - knots[k]) / (last - before)
            )
            / (last - first) ** 2,
        )
        for k in range(2)
    ]


def _independent(columns: list[tuple[str, Array]], notes: list[str]) -> Covariates:
    """Leave out the columns that the ones before them determine."""
    if not columns:
        raise ValueError("no covariates; use no_covariates(n)")
    names = tuple(name for name, _ in columns)
    values = np.column_stack([column for _, column in columns])
    design = design_of(names, values)
    everyone = PhecodeStatus(("",), len(values), (np.zeros(0, int),), (np.zeros(0, int),))
    repeated = {design.names[k] for k in dependent_columns(design, everyone)[0]}
    kept = [k for k, name in enumerate(names) if name not in repeated]
    collinear = tuple(name for name in names if name in repeated)
    notes += [
        f"Covariate {name} repeats the ones before it and was left out."
        for name in collinear
    ]
    return Covariates(
        tuple(names[k] for k in kept), values[:, kept], collinear, tuple(notes)
    )


def no_covariates(n_rows: int) -> Covariates:
    """Nothing to adjust for."""
    return Covariates((), np.zeros((n_rows, 0)))


def permutation_strata(covariates: Covariates) -> Int64[Array, " row"]:
    """Strata within which rows may be exchanged.

    Each 0/1 column splits them, then the fifths of the other columns, in order, as long as
    fifty rows a stratum are left on average.
    """
    n_rows = len(covariates.values)
    strata = np.zeros(n_rows, dtype=np.int64)
    is_binary = np.all(np.isin(covariates.values, (0, 1)), axis=0)
    for k in np.argsort(~is_binary, kind="stable"):
        column = covariates.values[:, k]
        edges = [0.5] if is_binary[k] else np.quantile(column, [0.2, 0.4, 0.6, 0.8])
        finer = strata * 5 + np.searchsorted(edges, column, side="right")
        finer = np.unique(finer, return_inverse=True)[1]
        if finer.max() + 1 > n_rows / 50:
            continue
        strata = finer.astype(np.int64)
    return strata
