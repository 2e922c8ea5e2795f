"""Logistic regression for a scan: many outcomes or many exposures in one pass.

Two fits make up a scan of exposures over phecodes:

- `fit_null`: covariates only, every phecode of a block at once. The rows are shared, so
  one Newton step of all phecodes is three matrix products.
- `fit_exposures`: covariates and one exposure, every exposure of one phecode at once.
  Started from the score test's one-step estimate it needs two or three steps.

Both run through the rows in blocks that stay in the cache, and both do in float32 what
only decides where the last step, in float64, starts.

Maximum likelihood of a logistic model is McCullagh & Nelder, Generalized Linear Models
(1989), section 4.4. Rows that are excluded for a phecode have weight zero.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int, Int64

from phenokit.cohort import PhecodeStatus

ELEMENTS_AT_ONCE = 1 << 15
"""Elements of a row block of a matrix: 256 KiB in float64, so that it stays in cache."""
PRODUCTS_KEPT = 1 << 25
"""Products of columns that are kept rather than made anew: 256 MiB in float64."""
MAX_STEPS = 50
FARTHEST = 30.0
"""Largest coefficient, of standardised columns, that a first guess may have."""
MAX_CHANGE = 4.0
"""Largest change of a standardised coefficient in one step; longer steps are cut."""
ROUGH = 1e-4
"""Newton decrement at which float32 has done its part."""
ROUGH_STEPS = 12
"""Steps in float32 at most: what is not rough by then waits for no other phecode."""
CONVERGED = 1e-9
"""Newton decrement before the last step of a null model; that step squares it."""
SETTLED = 1e-11
"""Newton decrement at which a standard error is right to some 1e-7 of itself."""
SEPARATED = 1e-6
"""Share of the null information below which an estimate has run away to infinity: of a
strong effect some 1e-4 is left, and of a runaway `SETTLED` leaves less than 1e-8."""

Array = np.ndarray


@dataclass(frozen=True)
class Design:
    """Covariates as a fit needs them: an intercept and standardised columns.

    Attributes
    ----------
    names
        Of the columns, ``"intercept"`` first.
    values
        Shape ``(row, column)``: ones, then columns of mean 0 and SD 1.
    """

    names: tuple[str, ...]
    values: Float64[Array, "row column"]

    @cached_property
    def pairs(self) -> tuple[Int64[Array, " pair"], Int64[Array, " pair"]]:
        """Positions of the different products of two columns."""
        return np.triu_indices(self.values.shape[1])

    @cached_property
    def _transposed(self) -> Float64[Array, "column row"]:
        return np.ascontiguousarray(self.values.T)

    def products(self, rows: slice, dtype: type = np.float64) -> Float[Array, "pair row"]:
        """The different products of two columns, for some rows; a pair is contiguous."""
        if len(self.pairs[0]) * len(self.values) > PRODUCTS_KEPT:
            return self._multiplied(rows, dtype)
        kept = self._double_products if dtype is np.float64 else self._single_products
        return kept[:, rows]

    def _multiplied(self, rows: slice, dtype: type) -> Float[Array, "pair row"]:
        left, right = self.pairs
        block = self._transposed[:, rows].astype(dtype)
        products = block[left]
        products *= block[right]
        return products

    @cached_property
    def _double_products(self) -> Float64[Array, "pair row"]:
        return self._multiplied(slice(None), np.float64)

    @cached_property
    def _single_products(self) -> Float32[Array, "pair row"]:
        return self._double_products.astype(np.float32)

    def at_rows(self, rows: Int64[Array, " row"]) -> "Design":
        """Some of the rows, standardised as before."""
        return Design(self.names, self.values[rows])

    def at_columns(self, columns: Sequence[int]) -> "Design":
        """Some of the columns."""
        names = tuple(self.names[k] for k in columns)
        return Design(names, np.ascontiguousarray(self.values[:, columns]))


def design_of(names: Sequence[str], values: Float64[Array, "row covariate"]) -> Design:
    """Design of covariates that each vary; none may be missing."""
    centred = values - values.mean(axis=0)
    spread = centred.std(axis=0)
    columns = np.column_stack([np.ones(len(values)), centred / spread])
    return Design(("intercept", *names), columns)


class StatusBlock:
    """Which cells of a ``(row, phecode)`` matrix are cases, and which are excluded.

    The cells are kept as ascending flat indices, so that a row block of the matrix finds
    its own between two positions.
    """

    def __init__(self, status: PhecodeStatus) -> None:
        self.n_rows = status.n_patients
        self.n_phecodes = len(status)
        self.case_rows = status.case_rows
        self.excluded_rows = status.excluded_rows
        self.n_cases = np.array([len(rows) for rows in status.case_rows], dtype=np.int64)
        n_excluded = np.array([len(rows) for rows in status.excluded_rows], dtype=np.int64)
        self.n_controls = self.n_rows - self.n_cases - n_excluded
        self._cases = self._flat(status.case_rows)
        self._excluded = self._flat(status.excluded_rows)

    def _flat(self, rows: Sequence[Array]) -> Int64[Array, " cell"]:
        cells = [of.astype(np.int64) * self.n_phecodes + j for j, of in enumerate(rows)]
        return np.sort(np.concatenate(cells)) if cells else np.zeros(0, dtype=np.int64)

    def row_blocks(self) -> list[slice]:
        """Blocks of rows whose cells stay in the cache."""
        return row_blocks(self.n_rows, self.n_phecodes)

    def cases(self, rows: slice) -> Int64[Array, " case"]:
        """Flat indices of the cases within a block of rows."""
        return self._within(self._cases, rows)

    def excluded(self, rows: slice) -> Int64[Array, " excluded"]:
        """Flat indices of the excluded within a block of rows."""
        return self._within(self._excluded, rows)

    def _within(self, cells: Int64[Array, " cell"], rows: slice) -> Int64[Array, " within"]:
        first = rows.start * self.n_phecodes
        start, stop = np.searchsorted(cells, [first, rows.stop * self.n_phecodes])
        return cells[start:stop] - first


def row_blocks(n_rows: int, width: int) -> list[slice]:
    """Cut rows into blocks such that a matrix of this width stays in the cache."""
    height = max(64, ELEMENTS_AT_ONCE // max(width, 1))
    return [slice(r, min(r + height, n_rows)) for r in range(0, n_rows, height)]


def sigmoid_in_place(eta: Array) -> Array:
    """1 / (1 + exp(-eta)), written over `eta`; scipy's `expit` is several times slower."""
    np.negative(eta, out=eta)
    np.exp(eta, out=eta)
    eta += 1
    return np.reciprocal(eta, out=eta)


# --- covariates only ----------------------------------------------------------------------


@dataclass(frozen=True)
class NullFits:
    """Logistic regression of each phecode of a block on the covariates.

    Attributes
    ----------
    coefficients
        Of the standardised columns, shape ``(column, phecode)``.
    converged
        Whether a maximum was found; where it was not, a covariate separates the cases.
    """

    coefficients: Float64[Array, "column phecode"]
    converged: Bool[Array, " phecode"]


def fit_null(design: Design, block: StatusBlock) -> NullFits:
    """Fit the null model of every phecode of a block.

    Parameters
    ----------
    design
        Columns that are linearly independent among the rows of each phecode; see
        `dependent_columns`.
    block
        Each phecode has at least one case and one control.

    Returns
    -------
    NullFits
        Maximum likelihood estimates, accurate to some 1e-9 of their standard errors.
    """
    coefficients = np.zeros((design.values.shape[1], block.n_phecodes))
    coefficients[0] = np.log(block.n_cases / block.n_controls)
    case_sums = np.stack([design.values[rows].sum(axis=0) for rows in block.case_rows], 1)
    decrement = np.full(block.n_phecodes, np.inf)
    # Without overflow warnings: exp(-eta) may be infinite, and 1 / (1 + inf) is right.
    with np.errstate(over="ignore"):
        for dtype, until, n_steps in (
            (np.float32, ROUGH, ROUGH_STEPS),
            (np.float64, CONVERGED, MAX_STEPS),
        ):
            for _ in range(n_steps):
                gradient, information = _null_derivatives(
                    design, block, coefficients, case_sums, dtype
                )
                change, decrement = newton_step(gradient, information)
                coefficients += change
                if not (decrement >= until).any():
                    break
    converged = decrement < CONVERGED
    for j in np.flatnonzero(~converged):
        coefficients[:, j], converged[j] = _fit_null_halving(
            design, block.case_rows[j], block.excluded_rows[j]
        )
    return NullFits(coefficients, converged)


def _fit_null_halving(
    design: Design, case_rows: Int[Array, " case"], excluded_rows: Int[Array, " excluded"]
) -> tuple[Float64[Array, " column"], bool]:
    """Fit the null model of one phecode by steps that never lower the likelihood.

    A covariate with a few extreme values can send plain Newton steps astray.
    """
    sign = np.full(len(design.values), -1.0)
    sign[case_rows] = 1
    eligible = np.delete(np.arange(len(sign)), excluded_rows)
    columns, sign = design.values[eligible], sign[eligible, None]
    is_case = sign > 0
    coefficients = np.zeros((columns.shape[1], 1))
    coefficients[0] = np.log(is_case.sum() / (~is_case).sum())

    def log_likelihood(at: Float64[Array, "column 1"]) -> float:
        return -float(np.logaddexp(0, -sign * (columns @ at)).sum())

    value = log_likelihood(coefficients)
    for _ in range(4 * MAX_STEPS):
        with np.errstate(over="ignore"):
            mean = sigmoid_in_place(columns @ coefficients)
        information = columns.T @ (columns * (mean * (1 - mean)))
        change, decrement = newton_step(columns.T @ (is_case - mean), information[None])
        while (there := log_likelihood(coefficients + change)) < value - 1e-12 * abs(value):
            change /= 2
        coefficients, value = coefficients + change, there
        if decrement[0] < CONVERGED:
            return coefficients[:, 0], True
    return coefficients[:, 0], False


def _null_derivatives(
    design: Design,
    block: StatusBlock,
    coefficients: Float64[Array, "column phecode"],
    case_sums: Float64[Array, "column phecode"],
    dtype: type,
) -> tuple[Float64[Array, "column phecode"], Float64[Array, "phecode column column"]]:
    gradient = case_sums.copy()
    products = np.zeros((len(design.pairs[0]), block.n_phecodes))
    rounded = coefficients.astype(dtype)
    for rows in block.row_blocks():
        columns = design.values[rows].astype(dtype, copy=False)
        mean = sigmoid_in_place(columns @ rounded)
        mean.ravel()[block.excluded(rows)] = 0
        gradient -= columns.T @ mean
        weight = np.multiply(mean, mean)
        np.subtract(mean, weight, out=weight)
        products += design.products(rows, dtype) @ weight
    return gradient, symmetric(products, design)


def symmetric(
    products: Float64[Array, "pair fit"], design: Design
) -> Float64[Array, "fit column column"]:
    """Matrices of the sums of products that `Design.pairs` names."""
    left, right = design.pairs
    n_columns = design.values.shape[1]
    full = np.empty((products.shape[1], n_columns, n_columns))
    full[:, left, right] = products.T
    full[:, right, left] = products.T
    return full


def newton_step(
    gradient: Float64[Array, "column fit"],
    information: Float64[Array, "fit column column"],
) -> tuple[Float64[Array, "column fit"], Float64[Array, " fit"]]:
    """Newton steps, cut to `MAX_CHANGE`, and the decrements that they promise."""
    # Scaled to a unit diagonal, so that a column whose weights vanish does no harm.
    scale = 1 / np.sqrt(np.maximum(np.einsum("fkk->fk", information), 1e-300))
    scaled = information * scale[:, :, None] * scale[:, None, :]
    scaled += 1e-12 * np.eye(scaled.shape[1])
    right = (gradient.T * scale)[:, :, None]
    change = np.linalg.solve(scaled, right)[:, :, 0] * scale
    decrement = np.abs((change * gradient.T).sum(axis=1))
    longest = np.abs(change).max(axis=1, initial=0)
    change *= np.minimum(1, MAX_CHANGE / np.maximum(longest, 1e-300))[:, None]
    return change.T, decrement


def dependent_columns(
    design: Design, status: PhecodeStatus, *, tolerance: float = 1e-9
) -> list[tuple[int, ...]]:
    """Columns to leave out of each phecode's model: they repeat others among its rows.

    Of columns that determine each other the later ones are left out. Sex does not vary
    among the rows of a phecode that only one sex can have.

    Returns
    -------
    list of tuple of int
        For each phecode the positions of the columns to leave out, mostly none.
    """
    whole = np.zeros(len(design.pairs[0]))
    for rows in row_blocks(len(design.values), len(whole)):
        whole += design.products(rows).sum(axis=1)
    left_out: list[tuple[int, ...]] = []
    known: dict[bytes, tuple[int, ...]] = {}
    for excluded in status.excluded_rows:
        key = excluded.tobytes()
        if key not in known:
            values = design.values[excluded]
            gram = symmetric(whole[:, None], design)[0] - values.T @ values
            known[key] = _dependent(gram, tolerance)
        left_out.append(known[key])
    return left_out


def _dependent(gram: Float64[Array, "column column"], tolerance: float) -> tuple[int, ...]:
    """Columns that the ones before them determine, by Gram's matrix of all."""
    diagonal = np.maximum(np.diag(gram), 1e-300)
    scaled = gram / np.sqrt(np.outer(diagonal, diagonal))
    if np.linalg.eigvalsh(scaled)[0] > tolerance:
        return ()
    kept: list[int] = []
    for column in range(len(gram)):
        within = scaled[np.ix_(kept, kept)]
        across = scaled[kept, column]
        rest = scaled[column, column]
        if kept:
            rest = rest - across @ np.linalg.solve(within, across)
        if rest > tolerance and gram[column, column] > 0:
            kept.append(column)
    return tuple(k for k in range(len(gram)) if k not in kept)


# --- covariates and one exposure ----------------------------------------------------------


@dataclass(frozen=True)
class ExposureFits:
    """Logistic regression of one phecode on the covariates and each of several exposures.

    Attributes
    ----------
    log_odds_ratio, standard_error
        Of the standardised exposure.
    likelihood_ratio
        Twice the gain in log-likelihood over the null model; chi-square of 1 degree of
        freedom if there is no association.
    converged
        Whether a finite maximum was found.
    separated
        Whether the estimate runs away to infinity; its numbers mean nothing then.
    """

    log_odds_ratio: Float64[Array, " exposure"]
    standard_error: Float64[Array, " exposure"]
    likelihood_ratio: Float64[Array, " exposure"]
    converged: Bool[Array, " exposure"]
    separated: Bool[Array, " exposure"]


@dataclass(frozen=True)
class _Derivatives:
    """Of the log-likelihood, with respect to the columns and then the exposure."""

    log_likelihood: Float64[Array, " exposure"]
    gradient: Float64[Array, "parameter exposure"]
    information: Float64[Array, "exposure parameter parameter"]


@dataclass(frozen=True)
class Start:
    """What the score test knows of one phecode and some exposures; see `Scores.start`.

    Attributes
    ----------
    coefficients, column_information
        Of the null model.
    room
        Coefficients of each exposure on the columns, in the weights of the null model.
    information
        V of the score test.
    log_odds_ratio
        First guess, U / V.
    """

    coefficients: Float64[Array, " column"]
    column_information: Float64[Array, "column column"]
    room: Float64[Array, "column exposure"]
    information: Float64[Array, " exposure"]
    log_odds_ratio: Float64[Array, " exposure"]


def fit_exposures(
    design: Design,
    exposures: Float64[Array, "row exposure"],
    *,
    case_rows: Int[Array, " case"],
    excluded_rows: Int[Array, " excluded"],
    start: Start,
) -> ExposureFits:
    """Maximum likelihood for each exposure, all of them in one pass.

    What the columns say of an exposure is taken out of it first, in the weights of the null
    model. That changes neither its coefficient nor the likelihood, and leaves so little
    between the two that the first steps do with the columns' information at the null.

    Parameters
    ----------
    design, exposures
        All rows of the analysis; exposures are standardised.
    case_rows, excluded_rows
        Of the phecode, as in `PhecodeStatus`.
    start
        Where the fits begin.
    """
    n_rows, n_exposures = exposures.shape
    if 3 * len(excluded_rows) > n_rows:  # then it pays to take the others out
        is_case = np.zeros(n_rows, dtype=bool)
        is_case[case_rows] = True
        rows = np.setdiff1d(np.arange(n_rows), excluded_rows)
        return fit_exposures(
            design.at_rows(rows),
            exposures[rows],
            case_rows=np.flatnonzero(is_case[rows]),
            excluded_rows=excluded_rows[:0],
            start=start,
        )
    left = exposures - design.values @ start.room
    fit = _ExposureFit(design, left, case_rows, excluded_rows, start.column_information)
    null_log_likelihood, parameters = fit.second_order(start)
    gain = np.zeros(n_exposures)
    standard_error = np.full(n_exposures, np.nan)
    decrement = np.full(n_exposures, np.inf)
    with np.errstate(over="ignore", divide="ignore"):
        for last, until in ((False, ROUGH), (True, SETTLED)):
            active = np.arange(n_exposures)
            for _ in range(MAX_STEPS):
                at = fit.derivatives(parameters[:, active], active, last=last)
                change, promised = newton_step(at.gradient, at.information)
                parameters[:, active] += change
                decrement[active] = promised
                if last:
                    gain[active] = 2 * (at.log_likelihood - null_log_likelihood) + promised
                    standard_error[active] = _last_standard_error(at.information)
                active = active[promised >= until]
                if not len(active):
                    break
        kept = 1 / (standard_error**2 * start.information)
    # The likelihood of a runaway rises; that of a fit that goes astray falls.
    separated = ~(kept > SEPARATED) & (gain > 0)
    return ExposureFits(
        log_odds_ratio=parameters[-1],
        standard_error=standard_error,
        likelihood_ratio=np.maximum(gain, 0),
        converged=(kept > SEPARATED) & (decrement < SETTLED),
        separated=separated,
    )


def _last_standard_error(
    information: Float64[Array, "exposure parameter parameter"],
) -> Float64[Array, " exposure"]:
    """Standard error of the last parameter; infinite where there is no information."""
    scale = 1 / np.sqrt(np.maximum(np.einsum("fkk->fk", information), 1e-300))
    scaled = information * scale[:, :, None] * scale[:, None, :]
    last = np.zeros((*scaled.shape[:2], 1))
    last[:, -1] = 1
    inverse = np.linalg.solve(scaled + 1e-14 * np.eye(scaled.shape[1]), last)[:, -1, 0]
    return scale[:, -1] * np.sqrt(np.where(inverse > 0, inverse, np.inf))


@dataclass(frozen=True)
class _ExposureFit:
    """The data of one phecode, and the likelihood of each exposure's model in it."""

    design: Design
    exposures: Float64[Array, "row exposure"]
    case_rows: Int[Array, " case"]
    excluded_rows: Int[Array, " excluded"]
    column_information: Float64[Array, "column column"]

    @cached_property
    def case_sums(self) -> Float64[Array, "parameter exposure"]:
        """Sums over the cases of the columns and, last, of each exposure."""
        columns = self.design.values[self.case_rows].sum(axis=0)
        exposures = self.exposures[self.case_rows].sum(axis=0)
        return np.vstack([np.repeat(columns[:, None], len(exposures), axis=1), exposures])

    def second_order(
        self, start: Start
    ) -> tuple[float, Float64[Array, "parameter exposure"]]:
        """Log-likelihood of the null model, and a guess better than one Newton step.

        With w' = w (1 - 2 mu), the derivative of the weights, the slope of the likelihood
        along the exposure x is U - V g - g^2 x'w'x^2 / 2 up to the third order in g.
        """
        values = self.design.values
        with np.errstate(over="ignore"):
            mean = sigmoid_in_place(values @ start.coefficients)
        seen = 1 - mean
        seen[self.case_rows] = mean[self.case_rows]
        seen[self.excluded_rows] = 1
        bend = mean * (1 - mean) * (1 - 2 * mean)
        bend[self.excluded_rows] = 0
        own = np.zeros(self.exposures.shape[1])
        across = np.zeros(start.room.shape)
        for rows in row_blocks(len(values), len(own)):
            exposure = self.exposures[rows]
            square = exposure * exposure
            across += (values[rows] * bend[rows, None]).T @ square
            square *= exposure
            own += bend[rows] @ square
        first = np.clip(start.log_odds_ratio, -FARTHEST, FARTHEST)
        guess = first
        for _ in range(3):
            curved = guess * guess * own / (2 * start.information)
            guess = first - np.clip(curved, -np.abs(first) / 2, np.abs(first) / 2)
        moved = np.linalg.lstsq(start.column_information, across, rcond=None)[0]
        moved = np.clip(moved * (guess * guess / 2), -1, 1)
        parameters = np.vstack([start.coefficients[:, None] - moved, guess])
        return float(np.log(np.maximum(seen, 1e-300)).sum()), parameters

    def derivatives(
        self,
        parameters: Float64[Array, "parameter active"],
        active: Int64[Array, " active"],
        *,
        last: bool,
    ) -> _Derivatives:
        """Log-likelihood, gradient and information of some exposures.

        Before the last steps, the information on the columns is that of the null model, and
        the log-likelihood is not computed.
        """
        design, n_active = self.design, len(active)
        n_rows, n_columns = design.values.shape
        products = np.zeros((len(design.pairs[0]), n_active))
        across = np.zeros((n_columns, n_active))
        own = np.zeros(n_active)
        chosen = slice(None) if n_active == self.exposures.shape[1] else active
        case_sums = self.case_sums[:, chosen]
        gradient = case_sums.copy()
        log_likelihood = np.zeros(n_active)
        blocks = row_blocks(n_rows, n_active)
        # Kept from block to block: fresh memory costs more than the arithmetic in it.
        buffers = np.empty((2, blocks[0].stop, n_active))
        for rows in blocks:
            columns, exposure = design.values[rows], self.exposures[rows][:, chosen]
            mean, weight = buffers[:, : len(columns)]
            np.matmul(columns, parameters[:-1], out=mean)
            np.multiply(exposure, parameters[-1], out=weight)
            mean += weight
            sigmoid_in_place(mean)
            mean[_within(self.excluded_rows, rows)] = 0
            gradient[:-1] -= columns.T @ mean
            gradient[-1] -= np.einsum("ne,ne->e", exposure, mean)
            np.multiply(mean, mean, out=weight)
            np.subtract(mean, weight, out=weight)
            if last:
                products += design.products(rows) @ weight
            weight *= exposure
            across += columns.T @ weight
            own += np.einsum("ne,ne->e", exposure, weight)
            if last:
                np.subtract(1, mean, out=weight)  # the probability of what was seen
                cases = _within(self.case_rows, rows)
                weight[cases] = mean[cases]
                np.maximum(weight, 1e-300, out=weight)
                log_likelihood += np.log(weight, out=weight).sum(axis=0)
        information = np.zeros((n_active, n_columns + 1, n_columns + 1))
        information[:, :-1, :-1] = (
            symmetric(products, design) if last else self.column_information
        )
        information[:, :-1, -1] = across.T
        information[:, -1, :-1] = across.T
        information[:, -1, -1] = own
        return _Derivatives(log_likelihood, gradient, information)


def _within(ascending: Int[Array, " row"], rows: slice) -> Int[Array, " within"]:
    """Of ascending rows those within a block, counted from its start."""
    start, stop = np.searchsorted(ascending, [rows.start, rows.stop])
    return ascending[start:stop] - rows.start
