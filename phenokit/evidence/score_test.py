"""Score test of every exposure against every phecode, by matrix products.

Given the null model of a phecode, with fitted probabilities mu and weights w = mu (1 - mu),
the score of an exposure x is U = x'(y - mu), and its variance what the covariates Z leave
of x'Wx:

    V = x'Wx - x'WZ (Z'WZ)^-1 Z'Wx,        z = U / sqrt(V)

(Rao 1948, doi:10.1017/S0305004100023987). No exposure needs a fit of its own, and over
all pairs each term is a product of two matrices. With a large effect z is not the Wald
statistic: at z = 24 they differ by half a unit.
"""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Float64, Int64

from phenokit.evidence.logistic import (
    Design,
    NullFits,
    Start,
    StatusBlock,
    row_blocks,
    sigmoid_in_place,
    symmetric,
)

Array = np.ndarray

EXPOSURES_AT_ONCE = 16
"""Exposures that are held for all rows at once."""
DETERMINED = 1e-9
"""Share of an exposure's variance below which the covariates determine it."""


@dataclass(frozen=True)
class Scores:
    """Score tests of a block of phecodes.

    Attributes
    ----------
    score
        U, shape ``(exposure, phecode)``, of standardised exposures.
    information
        V, of the same shape; NaN where the exposure does not vary among the rows of the
        phecode, given the covariates.
    room
        Coefficients of each exposure on the columns of the design, in the weights of each
        phecode: as its log odds ratio grows, theirs make room for it.
    column_information
        Z'WZ of each phecode.
    """

    score: Float64[Array, "exposure phecode"]
    information: Float64[Array, "exposure phecode"]
    room: Float64[Array, "phecode column exposure"]
    column_information: Float64[Array, "phecode column column"]

    @property
    def z(self) -> Float64[Array, "exposure phecode"]:
        """Standard normal if there is no association."""
        return self.score / np.sqrt(self.information)

    @property
    def one_step(self) -> Float64[Array, "exposure phecode"]:
        """First guess of the log odds ratio, U / V."""
        return self.score / self.information

    def start(
        self, null: NullFits, phecode: int, exposures: Int64[Array, " chosen"]
    ) -> Start:
        """Where `fit_exposures` begins, for some exposures and one phecode."""
        return Start(
            null.coefficients[:, phecode],
            self.column_information[phecode],
            self.room[phecode][:, exposures],
            self.information[exposures, phecode],
            self.score[exposures, phecode] / self.information[exposures, phecode],
        )


@dataclass(frozen=True)
class Standardised:
    """Exposures as they are stored, standardised a block of rows at a time.

    Attributes
    ----------
    values
        Shape ``(row, exposure)``, float32 or float64, none missing.
    mean, scale
        What is subtracted, and what is divided by.
    rows
        Rows of `values` that stand in each row of the analysis.
    """

    values: Float[Array, "stored exposure"]
    mean: Float64[Array, " exposure"]
    scale: Float64[Array, " exposure"]
    rows: Int64[Array, " row"]

    def block(self, rows: slice) -> Float64[Array, "row exposure"]:
        """Standardised values of a block of rows."""
        block = self.values[self.rows[rows]].astype(np.float64)
        block -= self.mean
        block /= self.scale
        return block

    def at_exposures(self, exposures: Int64[Array, " of"]) -> "Standardised":
        """Some of the exposures."""
        values = self.values[:, exposures]
        return Standardised(values, self.mean[exposures], self.scale[exposures], self.rows)

    def permuted(self, order: Int64[Array, " row"]) -> "Standardised":
        """The same exposures, given to other rows."""
        return Standardised(self.values, self.mean, self.scale, self.rows[order])


def score_test(
    design: Design, exposures: Standardised, block: StatusBlock, null: NullFits
) -> Scores:
    """Score test of each exposure against each phecode of a block.

    Parameters
    ----------
    design, block, null
        As they went into and came out of `fit_null`.
    exposures
        The same rows as `design`.
    """
    n_exposures, n_phecodes = exposures.values.shape[1], block.n_phecodes
    n_columns = design.values.shape[1]
    score = np.zeros((n_exposures, n_phecodes))
    own = np.zeros((n_exposures, n_phecodes))
    products = np.zeros((len(design.pairs[0]), n_phecodes))
    # x'Wz for each column z: the columns are multiplied into the narrower of x and W.
    with_exposures = n_exposures <= n_phecodes
    across = np.zeros(
        (n_columns * n_exposures, n_phecodes)
        if with_exposures
        else (n_exposures, n_columns * n_phecodes)
    )
    width = n_columns * min(n_exposures, n_phecodes) // 4
    with np.errstate(over="ignore"):
        for rows in row_blocks(block.n_rows, max(width, n_phecodes)):
            columns = design.values[rows]
            exposure = exposures.block(rows)
            mean = sigmoid_in_place(columns @ null.coefficients)
            mean.ravel()[block.excluded(rows)] = 0
            weight = np.multiply(mean, mean)
            np.subtract(mean, weight, out=weight)
            np.negative(mean, out=mean)
            mean.ravel()[block.cases(rows)] += 1  # the residual
            score += exposure.T @ mean
            products += design.products(rows) @ weight
            if with_exposures:
                across += _multiplied(columns, exposure).T @ weight
            else:
                across += exposure.T @ _multiplied(columns, weight)
            np.multiply(exposure, exposure, out=exposure)
            own += exposure.T @ weight
    if with_exposures:
        across = across.reshape(n_columns, n_exposures, n_phecodes).transpose(2, 0, 1)
    else:
        across = across.reshape(n_exposures, n_columns, n_phecodes).transpose(2, 1, 0)
    column_information = symmetric(products, design)
    room = _regress(column_information, across)
    information = own - np.einsum("pke,pke->ep", across, room)
    information[information <= DETERMINED * np.maximum(own, 1e-300)] = np.nan
    return Scores(score, information, room, column_information)


def _multiplied(
    columns: Float64[Array, "row column"], other: Float64[Array, "row other"]
) -> Float64[Array, "row product"]:
    """Each column times each other column, the other one running faster."""
    return (columns[:, :, None] * other[:, None, :]).reshape(len(columns), -1)


def _regress(
    information: Float64[Array, "phecode column column"],
    across: Float64[Array, "phecode column exposure"],
) -> Float64[Array, "phecode column exposure"]:
    """Coefficients of the exposures on the columns, (Z'WZ)^-1 Z'Wx, for each phecode."""
    scale = 1 / np.sqrt(np.maximum(np.einsum("pkk->pk", information), 1e-300))[:, :, None]
    scaled = information * scale * scale.transpose(0, 2, 1)
    scaled += 1e-14 * np.eye(scaled.shape[1])
    return np.linalg.solve(scaled, across * scale) * scale


def clustered_score_test(
    design: Design,
    exposures: Standardised,
    block: StatusBlock,
    null: NullFits,
    clusters: Int64[Array, " row"],
) -> Scores:
    """Score test that stays valid where several rows belong to one patient.

    The variance of the score is the sum over patients of their squared contributions
    (Boos 1992, doi:10.1080/00031305.1992.10475921).

    Parameters
    ----------
    clusters
        Which patient each row belongs to, ascending from 0.
    """
    plain = score_test(design, exposures, block, null)
    starts = np.flatnonzero(np.diff(clusters, prepend=-1))
    information = np.full_like(plain.information, np.nan)
    everything = slice(0, block.n_rows)
    for first in range(0, len(information), EXPOSURES_AT_ONCE):
        some = np.arange(first, min(first + EXPOSURES_AT_ONCE, len(information)))
        values = exposures.at_exposures(some).block(everything)
        for j in range(block.n_phecodes):
            with np.errstate(over="ignore"):
                residual = -sigmoid_in_place(design.values @ null.coefficients[:, j])
            residual[block.case_rows[j]] += 1
            residual[block.excluded_rows[j]] = 0
            left = values - design.values @ plain.room[j][:, some]
            left *= residual[:, None]
            sums = np.add.reduceat(left, starts, axis=0)
            information[some, j] = np.einsum("ce,ce->e", sums, sums)
    information[np.isnan(plain.information)] = np.nan
    return replace(plain, information=information)


def permute_within(
    strata: Int64[Array, " row"], rng: np.random.Generator
) -> Int64[Array, " row"]:
    """A random order of the rows in which every stratum keeps its places."""
    by_stratum = np.argsort(strata, kind="stable")
    shuffled = np.lexsort((rng.random(len(strata)), strata))
    order = np.empty(len(strata), dtype=np.int64)
    order[by_stratum] = shuffled
    return order


def standardise(
    values: Float[Array, "stored exposure"], rows: Int64[Array, " row"]
) -> Standardised:
    """Exposures in standard deviations of the analysed rows; 0/1 exposures in units.

    The SD is that of the population (divided by n). An exposure that does not vary has the
    scale 1.
    """
    n = len(rows)
    mean = np.zeros(values.shape[1])
    square = np.zeros(values.shape[1])
    is_binary = np.ones(values.shape[1], dtype=bool)
    blocks = row_blocks(n, values.shape[1])
    for block in blocks:
        part = values[rows[block]].astype(np.float64)
        mean += part.sum(axis=0)
        is_binary &= ((part == 0) | (part == 1)).all(axis=0)
    mean /= max(n, 1)
    for block in blocks:  # a second pass: the textbook formula loses half the digits
        square += ((values[rows[block]].astype(np.float64) - mean) ** 2).sum(axis=0)
    deviation = np.sqrt(square / max(n, 1))
    varies = deviation > 1e-12 * np.maximum(np.abs(mean), 1e-300)
    scale = np.where(is_binary | ~varies, 1.0, deviation)
    return Standardised(values, mean, scale, rows)
