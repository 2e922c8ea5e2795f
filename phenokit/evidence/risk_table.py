"""The table of a risk analysis, checked once: features, who was tested, and outcomes."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float64

from phenokit.errors import AnalysisRefused, BadInput
from phenokit.evidence.selective_labels import Cells, aggregate

ROWS_NAMED = 10
SMALLEST_SPREAD, LARGEST_SPREAD = 0.01, 100.0
"""Standard deviations outside of which a feature is standardised for the fit."""
DEPENDENT = 1e-8
"""Share of a feature's variation below which the ones before it determine it."""

Array = np.ndarray


@dataclass(frozen=True)
class RiskTable:
    """A table that can be fitted.

    Attributes
    ----------
    names
        ``"intercept"`` and then the features.
    features
        Shape ``(row, feature)``, without intercept; rescaled by `centre` and `scale`.
    tested
        Whose outcome is known.
    outcome
        Outcomes; NaN where untested.
    free
        Positions in `names` of what may affect testing beyond risk; 0 is always among them.
    centre, scale
        Of each feature: ``features = (given - centre) / scale``.
    """

    names: tuple[str, ...]
    features: Float64[Array, "row feature"]
    tested: Bool[Array, " row"]
    outcome: Float64[Array, " row"]
    free: tuple[int, ...]
    centre: Float64[Array, " feature"]
    scale: Float64[Array, " feature"]

    @property
    def rescaled(self) -> tuple[str, ...]:
        """Features that were standardised for the fit."""
        return tuple(np.array(self.names[1:])[self.scale != 1])

    @cached_property
    def cells(self) -> Cells:
        """Rows of the same features, counted; for outcomes 0 and 1."""
        return aggregate(self.features, self.tested, self.outcome)

    def design(self, given: Float64[Array, "row feature"]) -> Float64[Array, "row column"]:
        """Features of other rows as the fit sees them, with the intercept."""
        scaled = (given - self.centre) / self.scale
        return np.column_stack([np.ones(len(scaled)), scaled])

    def original_units(self, beta: Float64[Array, "draw column"]) -> Array:
        """Coefficients per unit of the given features; the column 0 is the intercept."""
        slopes = beta[:, 1:] / self.scale
        return np.column_stack([beta[:, 0] - slopes @ self.centre, slopes])


def check_table(
    features: pd.DataFrame | Array,
    tested: Sequence[object] | Array | pd.Series,
    outcome: Sequence[object] | Array | pd.Series,
    *,
    testing_features: Sequence[str] | None = None,
    continuous: bool = False,
    rescale: bool = True,
    minimum_events: int = 10,
) -> RiskTable:
    """Check a table and name what is wrong with it; rows are counted from 1.

    Parameters
    ----------
    features
        A row a patient, numbers only, no intercept column.
    tested
        0 or 1, never missing.
    outcome
        Of the tested; missing (NaN) for the untested, never 0.
    testing_features
        What may affect testing beyond risk. None: every feature. The intercept always may.
    continuous
        Whether the outcome is a number rather than 0 or 1.
    rescale
        Standardise features with a standard deviation outside 0.01 to 100.
    minimum_events
        Tested positives that are needed for each coefficient of risk.

    Raises
    ------
    BadInput
        ``E_COLUMNS``, ``E_NONFINITE``, ``E_RANGE``, ``N_CONSTANT``, ``W_COLLINEAR``,
        ``N_NO_UNTESTED``, ``N_SINGLE_CLASS``; `where` names columns or rows.
    AnalysisRefused
        ``N_FEW_EVENTS``.
    """
    names, values = _numbers(features)
    is_tested = _flags(tested, len(values))
    known = _outcomes(outcome, is_tested, continuous=continuous)
    if testing_features is None:
        free = tuple(range(len(names) + 1))
    else:
        if unknown := [name for name in testing_features if name not in names]:
            raise BadInput(
                "E_COLUMNS",
                f"{unknown[0]} is to affect testing and is no feature; add it to the "
                "features, or leave it out.",
                where=f"column {unknown[0]}",
            )
        free = (0, *(j + 1 for j, name in enumerate(names) if name in testing_features))
    spread = values.std(axis=0)
    odd = (spread < SMALLEST_SPREAD) | (spread > LARGEST_SPREAD)
    binary = np.array([np.isin(column, (0, 1)).all() for column in values.T], dtype=bool)
    odd &= ~binary & (spread > 0) & rescale
    centre = np.where(odd, values.mean(axis=0), 0.0)
    scale = np.where(odd, spread, 1.0)
    table = RiskTable(
        ("intercept", *names), (values - centre) / scale, is_tested, known, free,
        centre, scale,
    )  # fmt: skip
    patterns = table.design(values) if continuous else table.cells.features
    _check_independence(names, patterns)
    if not continuous:
        _check_events(table, minimum_events)
    return table


def _numbers(features: pd.DataFrame | Array) -> tuple[tuple[str, ...], Array]:
    if isinstance(features, pd.DataFrame):
        names = tuple(str(name) for name in features.columns)
        for name, kind in zip(names, features.dtypes, strict=True):
            if not (
                pd.api.types.is_numeric_dtype(kind) or pd.api.types.is_bool_dtype(kind)
            ):
                raise BadInput(
                    "E_RANGE",
                    f"Feature {name} is text; make it numbers, a 0/1 column a level.",
                    where=f"column {name}",
                )
        values = features.to_numpy(np.float64, na_value=np.nan)
    else:
        values = np.asarray(features, dtype=np.float64)
        if values.ndim != 2:
            raise BadInput("E_COLUMNS", "Features need a row a patient and a column each.")
        names = tuple(f"x{j + 1}" for j in range(values.shape[1]))
    if len(values) == 0 or not names:
        raise BadInput("E_EMPTY", "There is no row or no feature.")
    if twice := [name for name in names if names.count(name) > 1 or name == "intercept"]:
        raise BadInput(
            "E_COLUMNS",
            f"Feature {twice[0]} occurs twice, or is called intercept.",
            where=f"column {twice[0]}",
        )
    for name, column in zip(names, values.T, strict=True):
        _refuse_rows(~np.isfinite(column), "E_NONFINITE", f"Feature {name} is missing or "
                     "not finite", f"column {name}, ")  # fmt: skip
    return names, values


def _coerced(column: pd.Series) -> Float64[Array, " row"]:
    """Numbers; NaN where there is none."""
    return np.asarray(pd.to_numeric(column, errors="coerce"), dtype=np.float64)


def _flags(tested: object, n: int) -> Bool[Array, " row"]:
    values = _coerced(pd.Series(np.asarray(tested)))
    if len(values) != n:
        raise BadInput("E_COLUMNS", f"{len(values):,} test flags for {n:,} rows.")
    wrong = ~np.isin(values, (0, 1))
    _refuse_rows(wrong, "E_RANGE", "Tested is neither 0 nor 1", "tested, ")
    if values.all():
        raise BadInput(
            "N_NO_UNTESTED",
            "Every row is tested: there is no untested risk to infer; an ordinary logistic "
            "regression answers the question.",
        )
    return values == 1


def _outcomes(outcome: object, tested: Array, *, continuous: bool) -> Array:
    given = pd.Series(np.asarray(outcome))
    values = _coerced(given)
    if len(values) != len(tested):
        raise BadInput("E_COLUMNS", f"{len(values):,} outcomes for {len(tested):,} rows.")
    present = given.notna().to_numpy() & (given != "").to_numpy()
    _refuse_rows(
        present & ~tested,
        "E_RANGE",
        "An untested patient has an outcome (it must be absent, not 0)",
        "outcome, ",
    )
    _refuse_rows(
        tested & ~np.isfinite(values), "E_NONFINITE", "A tested patient has no outcome",
        "outcome, ",
    )  # fmt: skip
    known = values[tested]
    if not continuous:
        _refuse_rows(
            tested & ~np.isin(values, (0, 1)), "E_RANGE", "The outcome is neither 0 nor 1",
            "outcome, ",
        )  # fmt: skip
    if len(np.unique(known)) < 2:
        what = (
            "Nobody was tested" if len(known) == 0
            else f"All {len(known):,} tested patients have the outcome {known[0]:g}"
        )  # fmt: skip
        raise BadInput("N_SINGLE_CLASS", f"{what}: risk cannot be learnt from one class.")
    return np.where(tested, values, np.nan)


def _refuse_rows(wrong: Array, code: str, what: str, where: str) -> None:
    rows = np.flatnonzero(wrong) + 1
    if not len(rows):
        return
    named = ", ".join(str(row) for row in rows[:ROWS_NAMED])
    more = f" and {len(rows) - ROWS_NAMED:,} more" if len(rows) > ROWS_NAMED else ""
    raise BadInput(code, f"{what} in row {named}{more}.", where=f"{where}row {named}{more}")


def _check_independence(names: tuple[str, ...], design: Array) -> None:
    """Refuse a constant feature, and one that the features before it determine."""
    centred = design[:, 1:] - design[:, 1:].mean(axis=0)
    length = np.sqrt((centred**2).sum(axis=0))
    for name, size in zip(names, length, strict=True):
        if size == 0:
            raise BadInput(
                "N_CONSTANT",
                f"Feature {name} does not vary; leave it out.",
                where=f"column {name}",
            )
    left = np.abs(np.diagonal(np.linalg.qr(centred / length, mode="r")))
    for j, name in enumerate(names):
        if j >= len(left) or left[j] < DEPENDENT:
            others = ", ".join(names[:j]) or "the intercept"
            raise BadInput(
                "W_COLLINEAR",
                f"Feature {name} is determined by the ones before it ({others}); leave one "
                "out.",
                where=f"column {name}",
            )


def _check_events(table: RiskTable, minimum: int) -> None:
    n = int(np.nansum(table.outcome))
    k = len(table.names)
    if n < minimum * k:
        raise AnalysisRefused(
            f"Too few confirmed cases ({n:,}) for {k - 1} features and an intercept: "
            f"{minimum * k} are needed. Take fewer features.",
            code="N_FEW_EVENTS",
        )


def check_prevalence(
    prevalence: float | None, deviation: float | None, cells: Cells | None
) -> float:
    """Weight ``1 / (2 s²)`` of a stated prevalence; 0 where none is stated.

    Raises
    ------
    BadInput
        ``E_PREVALENCE`` if it is not strictly between 0 and 1 or the tested contradict it;
        ``E_RANGE`` if its standard deviation is missing or impossible.
    """
    if prevalence is None:
        if deviation is not None:
            raise BadInput("E_RANGE", "A standard deviation is given without a prevalence.")
        return 0.0
    if cells is not None and not 0 < prevalence < 1:
        share = prevalence / 100
        hint = f" Is {prevalence:g} a percentage? Write {share:g}." if 0 < share < 1 else ""
        raise BadInput(
            "E_PREVALENCE", f"The prevalence must lie strictly between 0 and 1.{hint}"
        )
    if not np.isfinite(prevalence):
        raise BadInput("E_PREVALENCE", "The stated mean is not a number.")
    if deviation is None or not 0 < deviation < np.inf:
        raise BadInput(
            "E_RANGE",
            "The prevalence needs a standard deviation above 0: the width of its 95 % "
            "interval over 3.92.",
        )
    if cells is not None:
        if deviation >= 0.5:
            raise BadInput(
                "E_RANGE",
                f"A prevalence cannot have a standard deviation of {deviation:g}; is it a "
                "percentage?",
            )
        low, high = cells.prevalence_bounds
        margin = [3 * np.sqrt(p * (1 - p) / cells.n_rows) for p in (low, high)]
        if not low - margin[0] <= prevalence <= high + margin[1]:
            raise BadInput(
                "E_PREVALENCE",
                f"Prevalence must lie between {low:.2%} and {high:.2%} given these data: "
                f"{low:.2%} of all patients are confirmed cases, and it would be "
                f"{high:.2%} if every untested patient were one. Stated: {prevalence:.2%}.",
            )
    return 1 / (2 * deviation**2)


def deviation_of_interval(low: float, high: float) -> float:
    """Standard deviation of a prevalence from its 95 % interval.

    Examples
    --------
    >>> round(deviation_of_interval(0.0397, 0.0475), 5)
    0.00199
    """
    return (high - low) / 3.92
