"""Risk where outcomes are known only for the tested: the Bernoulli models.

A patient with features ``X`` has an unobserved part of the risk, ``Z``, which the doctor
saw and the table lacks (Balachandar, Garg & Pierson, ICLR 2024, arXiv 2312.03878):

    r = X beta_Y + Z                     risk score
    Y ~ Bernoulli(s(r))                  outcome, s(u) = 1 / (1 + exp(-u))
    T ~ Bernoulli(s(alpha r + X beta_Delta))   tested; Y is seen only where T = 1

Written with ``a = X beta_Y`` and ``d = X beta_Delta``. Three members of the family:

====================  =============  ===================  =================
kind                  Z              estimated            given
====================  =============  ===================  =================
``uniform``           U(0, sigma)    sigma                alpha = 1
``normal``            N(0, sigma²)   sigma                alpha
``normal_alpha``      N(0, sigma²)   alpha                sigma
====================  =============  ===================  =================

The one that is estimated beside the coefficients is called `steepness` where it is alpha
and `spread` where it is sigma, and `shape` where it may be either.

In this file, small to large: cells of equal rows; probabilities in closed form and by
quadrature; their derivatives; and the posterior density as a function of parameters.

Departures from the published code: Z is integrated out, not sampled; the closed form is
written without cancellation; tied coefficients are absent rather than drawn.
"""

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from types import ModuleType
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float64, Int64

Array = np.ndarray
Kind = Literal["uniform", "normal", "normal_alpha"]

POSITIVE, NEGATIVE, UNTESTED = range(3)
"""Columns of `Cells.counts`: tested with outcome 1, tested with outcome 0, not tested."""
SIGNS = {
    "positive": (1, 1),
    "negative": (-1, 1),
    "untested": (0, -1),
    "case": (1, 0),
    "missed": (1, -1),
}
"""Events as signs of (outcome, tested); 0 means either. ``missed``: untested case."""
COLUMN_EVENTS = ("positive", "negative", "untested")

COEFFICIENT_SCALE = 3.0
"""Prior standard deviation of every coefficient."""
SHAPE_SCALE = 3.0
"""Scale of the half-normal prior of sigma and alpha."""
LARGEST_LEVEL, LARGEST_MOVE = 200.0, 140.0
"""Where the parts of a logit stop that come from the features and from Z."""
LARGEST_LOGIT = LARGEST_LEVEL + LARGEST_MOVE
NORMAL_ENDS = 8.0
"""Where quadrature over a normal Z ends, in units of sigma."""
SMALLEST_SPREAD = 1e-9
"""Stands for sigma = 0, where the closed form is 0/0."""
SERIES_BELOW = 1e-5
"""|x| below which log1p(x) / x is taken from its series."""
LARGEST_TESTING_TERM = 12.0
LARGEST_RISK_TERM = 100.0
SMALLEST_TESTING_LOGIT = -10.8
"""Limits of |d|, |a| and the logit of being tested for the closed form; see `holds`."""
SMALLEST_TESTING_TERM = 2e-3
"""|d| from which on the closed form's derivatives are used."""
ELEMENTS_AT_ONCE = 1 << 15
"""Elements of a block of (cell, draw, node): 256 KiB in float64, so that the dozen arrays
of a block stay in a core's cache."""
DRAWS_AT_ONCE = 128


@dataclass(frozen=True)
class Cells:
    """Rows with the same features, counted: all that the likelihood sees of them.

    Attributes
    ----------
    features
        Shape ``(cell, feature)``; the first column is 1, the intercept.
    counts
        Shape ``(cell, 3)``: tested with outcome 1, tested with outcome 0, not tested.
    cell_of_row
        Position in `features` of each row of the table.
    """

    features: Float64[Array, "cell feature"]
    counts: Float64[Array, "cell 3"]
    cell_of_row: Int64[Array, " row"]

    @property
    def n_rows(self) -> int:
        """Rows of the table."""
        return len(self.cell_of_row)

    @cached_property
    def share(self) -> Float64[Array, " cell"]:
        """Share of the rows that a cell holds."""
        return self.counts.sum(axis=1) / self.counts.sum()

    @cached_property
    def seen(self) -> tuple[tuple[Array, Array], ...]:
        """Features and counts of the cells in which each column's event was seen."""
        return tuple(
            (np.ascontiguousarray(self.features[column > 0]), column[column > 0])
            for column in self.counts.T
        )

    def some_rows(self, n: int, rng: np.random.Generator) -> "Cells":
        """Cells of `n` rows drawn at random, each at most once."""
        place = np.repeat(np.arange(self.counts.size), self.counts.ravel().astype(np.int64))
        taken = rng.choice(place, n, replace=False)
        counts = np.bincount(taken, minlength=self.counts.size).reshape(-1, 3)
        kept = counts.sum(axis=1) > 0
        cell_of_row = np.repeat(np.arange(kept.sum()), counts[kept].sum(axis=1))
        return Cells(self.features[kept], counts[kept].astype(np.float64), cell_of_row)

    @property
    def prevalence_bounds(self) -> tuple[float, float]:
        """Prevalence if no untested patient were a case, and if all of them were."""
        positive, _, untested = self.counts.sum(axis=0) / self.counts.sum()
        return float(positive), float(positive + untested)


def aggregate(
    features: Float64[Array, "row feature"],
    tested: Array,
    outcome: Float64[Array, " row"],
    *,
    distinct: bool = False,
) -> Cells:
    """Count the rows of each pattern of features.

    A row enters the likelihood, and the prevalence, only through its features; the counts
    are therefore sufficient, and nothing is approximated.

    Parameters
    ----------
    features
        Shape ``(row, feature)``, without intercept.
    tested
        0 or 1.
    outcome
        0 or 1; not read where a row is untested.
    distinct
        Keep every row as a cell of its own.

    Examples
    --------
    >>> x = np.array([[1.0], [0.0], [1.0]])
    >>> aggregate(x, np.array([1, 0, 1]), np.array([1.0, np.nan, 0.0])).counts
    array([[0., 0., 1.],
           [1., 1., 0.]])
    """
    is_tested = np.asarray(tested, dtype=bool)
    column = np.where(is_tested, np.where(outcome == 1, POSITIVE, NEGATIVE), UNTESTED)
    cell = np.arange(len(features)) if distinct else _pattern_of_row(features)
    n_cells = int(cell.max()) + 1
    counts = np.bincount(cell * 3 + column, minlength=3 * n_cells).reshape(n_cells, 3)
    first = np.empty(n_cells, dtype=np.int64)
    first[cell[::-1]] = np.arange(len(features))[::-1]
    patterns = np.column_stack([np.ones(n_cells), features[first]])
    return Cells(patterns, counts.astype(np.float64), cell)


def _pattern_of_row(features: Float64[Array, "row feature"]) -> Int64[Array, " row"]:
    """Number of each row's pattern, patterns in ascending order.

    Column by column, so that columns of few levels cost a count rather than a sort.
    """
    pattern = np.zeros(len(features), dtype=np.int64)
    n_patterns = 1
    for values in features.T:
        if np.isin(values, (0, 1)).all():
            level, n_levels = values.astype(np.int64), 2
        else:
            levels, level = np.unique(values, return_inverse=True)
            n_levels = len(levels)
        pattern = pattern * n_levels + level
        n_patterns *= n_levels
        if n_patterns > 8 * len(features):
            found, pattern = np.unique(pattern, return_inverse=True)
            n_patterns = len(found)
            if n_patterns == len(features):
                return pattern  # every row is alone; the other columns change nothing
    present = np.bincount(pattern, minlength=n_patterns) > 0
    return (np.cumsum(present) - 1)[pattern]


# --- the law of Z ---------------------------------------------------------------------


class Nodes(NamedTuple):
    """Quadrature over Z / sigma."""

    position: Array
    log_weight: Array


@lru_cache(maxsize=64)
def nodes_of(law: Literal["uniform", "hermite", "trapezium"], n: int) -> Nodes:
    """Nodes of Z / sigma and the logarithm of their weights, which sum to 1.

    ``uniform``: Gauss-Legendre on [0, 1]. ``hermite``: Gauss-Hermite for N(0, 1).
    ``trapezium``: even steps over ±8 times the normal density, for steep integrands.
    """
    if law == "hermite":
        position, weight = np.polynomial.hermite_e.hermegauss(n)
        return Nodes(position, np.log(weight) - 0.5 * np.log(2 * np.pi))
    if law == "uniform":
        position, weight = np.polynomial.legendre.leggauss(n)
        return Nodes((position + 1) / 2, np.log(weight / 2))
    position, step = np.linspace(-NORMAL_ENDS, NORMAL_ENDS, n, retstep=True)
    return Nodes(position, np.log(step) - 0.5 * (position**2 + np.log(2 * np.pi)))


def choose_nodes(kind: Kind, steepness: float, spread: float, *, times: int = 1) -> Nodes:
    """As many nodes as the integrand needs, `times` over.

    The log-probability's error is below 1e-9 for uniform Z up to sigma = 20, and below 1e-6
    for normal Z. There the logistic function has poles at ``pi / q`` from the real line in
    units of sigma, ``q = max(1, alpha) sigma``, and even steps of ``0.8 / q`` leave an
    error near ``exp(-2 pi² / 0.8)`` (Trefethen & Weideman 2014, doi:10.1137/130932132):
    41 nodes at q = 2 and 81 at q = 4, where 128 of Gauss and Legendre do as well.
    """
    if kind == "uniform":
        return nodes_of("uniform", (24 if spread <= 6 else 64) * times)
    steep = max(1.0, abs(steepness)) * spread
    if steep <= 1:
        return nodes_of("hermite", 24 * times)
    half = int(np.ceil(NORMAL_ENDS / 0.8 * np.ceil(4 * steep) / 4))
    return nodes_of("trapezium", 2 * half * times + 1)


@lru_cache(maxsize=1)
def keep_freed_memory() -> None:
    """Keep freed arrays in the process, for the next array of their size.

    glibc gives memory back to the system above a threshold, and raises the threshold to the
    size of the largest block that was freed, up to 32 MiB. Left alone, every intermediate
    array pays for its page faults: 5 ns an element beside 1 ns for an exponential.
    """
    np.empty(30 << 17)


# --- probabilities --------------------------------------------------------------------


class Probabilities(NamedTuple):
    """Of the outcome and of being tested, given the features; one value an element."""

    log_positive: Any
    """log P(T=1, Y=1)"""
    log_negative: Any
    """log P(T=1, Y=0)"""
    log_untested: Any
    """log P(T=0)"""
    case: Any
    """P(Y=1)"""
    missed: Any
    """P(T=0, Y=1)"""


def log_logistic(u: Any, xp: ModuleType = np) -> Any:  # noqa: ANN401 - numpy or JAX
    """Logarithm of s(u), for any u."""
    return -xp.logaddexp(0.0, -u)


def logistic(u: Any, xp: ModuleType = np) -> Any:  # noqa: ANN401 - numpy or JAX
    """s(u), with its relative precision kept for very negative u."""
    return 1 / (1 + xp.exp(-xp.clip(u, -LARGEST_LOGIT, LARGEST_LOGIT)))


def closed_form(a: Any, d: Any, spread: Any, xp: ModuleType = np) -> Probabilities:  # noqa: ANN401
    """Probabilities for uniform Z and alpha = 1, exact.

    With ``G(u) = log(1 + e^(u + sigma)) - log(1 + e^u)`` and ``b = a + d``::

        P(Y=1) = G(a) / sigma         P(T=0) = 1 - G(b) / sigma
        P(Y=1, T=0) = [G(b) - G(a)] / (sigma (e^d - 1))
        P(Y=0, T=1) = e^d P(Y=1, T=0)         P(Y=1, T=1) = P(Y=1) - P(Y=1, T=0)

    Each is a log1p; the difference of the two is ``log1p(k (e^d - 1))`` with
    ``k = (1 - e^-sigma) s(a + sigma) s(-b)``, so that nothing but P(Y=1, T=1) cancels.
    Two exponentials and six logarithms an element; `xp` is numpy or jax.numpy. See `holds`
    for where the result can be used.
    """
    per_spread = 1 / spread
    grown = xp.expm1(spread)
    odds, ratio = xp.exp(a), xp.exp(d)
    risen = odds * xp.exp(spread)
    case = odds / (1 + odds)
    case *= grown
    case = xp.log1p(case)
    case *= per_spread

    k = risen / (1 + risen)
    odds *= ratio
    odds += 1
    k /= odds
    k *= -xp.expm1(-spread)
    missed = k * _log1p_quotient(k * (ratio - 1), xp)
    missed *= per_spread

    risen *= ratio
    risen += 1
    untested = xp.log1p(grown / risen)
    untested *= per_spread
    return Probabilities(
        xp.log(case - missed),
        xp.log(missed * ratio),
        xp.log(untested),
        case,
        missed,
    )


def _log1p_quotient(x: Any, xp: ModuleType) -> Any:  # noqa: ANN401 - numpy or JAX
    """log(1 + x) / x, with its value and its derivative kept at 0."""
    near = xp.abs(x) < SERIES_BELOW
    if xp is np and not near.any():
        return np.log1p(x) / x
    safe = xp.where(near, 1.0, x)
    return xp.where(near, 1 - x / 2 + x * x / 3, xp.log1p(safe) / safe)


def holds(a: Any, d: Any, spread: Any, xp: ModuleType = np) -> Any:  # noqa: ANN401
    """Where the closed form keeps 1e-9 of every log-probability.

    The difference P(Y=1) - P(Y=1,T=0) loses the digits that P(T=1|Y=1) has zeros. Half of
    those with the outcome are within 1, or half of ``a + sigma``, of the largest risk (and
    within ``sigma / 2`` of it in any case), which bounds it. Elsewhere `by_quadrature`.
    """
    top = a + spread
    below = xp.minimum(xp.maximum(top, 0.0) / 2 + 1, spread / 2)
    kept = top + d - below >= SMALLEST_TESTING_LOGIT
    return kept & (abs(d) <= LARGEST_TESTING_TERM) & (abs(a) <= LARGEST_RISK_TERM)


def _odds_against(level: Any, spread: Any, nodes: Nodes, xp: ModuleType) -> Any:  # noqa: ANN401
    """exp(-(level + spread · node)) on a last axis of nodes.

    As a product, which needs an exponential a level and one a node, not one for each pair.
    """
    level = xp.clip(level, -LARGEST_LEVEL, LARGEST_LEVEL)
    move = xp.asarray(spread)[..., None] * nodes.position
    move = xp.clip(move, -LARGEST_MOVE, LARGEST_MOVE)
    return xp.exp(-level)[..., None] * xp.exp(-move)


def by_quadrature(
    a: Any,  # noqa: ANN401 - numpy or JAX
    d: Any,  # noqa: ANN401
    steepness: Any,  # noqa: ANN401
    spread: Any,  # noqa: ANN401
    nodes: Nodes,
    xp: ModuleType = np,
) -> Probabilities:
    """Probabilities for any law of Z.

    Every finite argument gives a finite value: logits stop at ±340, where the product of
    two probabilities is still a float64.
    """
    weight = np.exp(nodes.log_weight)
    odds_against = _odds_against(a, spread, nodes, xp)
    odds_against_test = _odds_against(steepness * a + d, steepness * spread, nodes, xp)
    case, tested = 1 / (1 + odds_against), 1 / (1 + odds_against_test)
    untested = odds_against_test * tested
    return Probabilities(
        xp.log((case * tested) @ weight),
        xp.log((odds_against * case * tested) @ weight),
        xp.log(untested @ weight),
        case @ weight,
        (case * untested) @ weight,
    )


def event_derivatives(
    event: str,
    a: Float64[Array, " cell"],
    d: Float64[Array, " cell"],
    steepness: float,
    spread: float,
    nodes: Nodes,
) -> tuple[Array, Array, Array]:
    """Logarithm of P(event | a, d) with its first and second derivatives in (a, d).

    Z given the event has node weights p; with l(Z) the event's log-probability given Z,

        ∂ log P = E_p[∂l],        ∂² log P = E_p[∂²l] + Cov_p[∂l].

    No term cancels, so the result is finite wherever a and d are.

    Returns
    -------
    tuple
        Values ``(cell,)``, first ``(2, cell)`` and second ``(3, cell)``: aa, ad, dd.
    """
    outcome_sign, tested_sign = SIGNS[event]
    p = np.exp(nodes.log_weight)[None, :]
    slope_r = curve_r = slope_u = curve_u = np.zeros((1, 1))
    if outcome_sign:
        chance, slope_r, curve_r = _given_z(a, spread, outcome_sign, nodes)
        p = p * chance
    if tested_sign:
        level = steepness * a + d
        chance, slope_u, curve_u = _given_z(level, steepness * spread, tested_sign, nodes)
        p = p * chance
    total = p.sum(axis=1, keepdims=True)
    p = p / total
    slope_a = slope_r + steepness * slope_u
    mean_a, mean_d = (p * slope_a).sum(axis=1), (p * slope_u).sum(axis=1)
    aa = (p * (curve_r + steepness**2 * curve_u + slope_a**2)).sum(axis=1) - mean_a**2
    ad = (p * (steepness * curve_u + slope_a * slope_u)).sum(axis=1) - mean_a * mean_d
    dd = (p * (curve_u + slope_u**2)).sum(axis=1) - mean_d**2
    return np.log(total[:, 0]), np.stack([mean_a, mean_d]), np.stack([aa, ad, dd])


def closed_derivatives(
    event: str, a: Float64[Array, " cell"], d: Float64[Array, " cell"], spread: float
) -> tuple[Array, Array, Array]:
    """`event_derivatives` for uniform Z and alpha = 1, from `closed_form`.

    With ``D = G(b) - G(a) = M sigma (e^d - 1)`` for the missed cases M, the derivatives of
    log M are those of log D less those of log (e^d - 1). They cancel where d is near 0, and
    those of P(T=1, Y=1) where it is small beside P(Y=1); see `derivatives_hold`.
    """
    spread = max(spread, SMALLEST_SPREAD)
    p = closed_form(a, d, spread)
    if event == "case":
        first, second = _slopes_of_rise(a, spread)
        first, second = first / (spread * p.case), second / (spread * p.case)
        none = np.zeros_like(a)
        return (
            np.log(p.case),
            np.stack([first, none]),
            np.stack([second - first**2, none, none]),
        )
    first_b, second_b = _slopes_of_rise(a + d, spread)
    if event == "untested":
        untested = spread * np.exp(p.log_untested)
        first, second = (
            -first_b / untested,
            -second_b / untested - (first_b / untested) ** 2,
        )
        return p.log_untested, np.stack([first, first]), np.stack([second] * 3)
    first_a, second_a = _slopes_of_rise(a, spread)
    odds = np.exp(d)
    difference = p.missed * spread * (odds - 1)
    by_a, by_b = (first_b - first_a) / difference, first_b / difference
    relative = odds / (odds - 1)
    by_d = by_b - relative
    aa = (second_b - second_a) / difference - by_a**2
    ad = second_b / difference - by_a * by_b
    dd = second_b / difference - by_b**2 + relative / (odds - 1)
    if event == "negative":
        return p.log_negative, np.stack([by_a, by_d + 1]), np.stack([aa, ad, dd])
    if event == "missed":
        return np.log(p.missed), np.stack([by_a, by_d]), np.stack([aa, ad, dd])
    positive = np.exp(p.log_positive)
    share = p.missed / positive
    mean_a = first_a / (spread * positive) - share * by_a
    mean_d = -share * by_d
    aa = second_a / (spread * positive) - share * (aa + by_a**2) - mean_a**2
    ad = -share * (ad + by_a * by_d) - mean_a * mean_d
    dd = -share * (dd + by_d**2) - mean_d**2
    return p.log_positive, np.stack([mean_a, mean_d]), np.stack([aa, ad, dd])


def _slopes_of_rise(u: Array, spread: float) -> tuple[Array, Array]:
    """G'(u) = s(u + sigma) - s(u) and G''(u), without cancellation."""
    upper, below = logistic(u + spread), logistic(-u)
    first = -np.expm1(-spread) * upper * below
    return first, first * (below - upper)


def derivatives_hold(a: Array, d: Array, spread: float) -> Array:
    """Where `closed_derivatives` keeps 1e-6 of a slope and 1e-4 of a curvature."""
    return holds(a, d, spread) & (np.abs(d) > SMALLEST_TESTING_TERM)


def _given_z(
    level: Array, spread: float, sign: int, nodes: Nodes
) -> tuple[Array, Array, Array]:
    """Chance of one sign at each node, and the slope and curvature of its logarithm."""
    against = _odds_against(level, spread, nodes, np)
    yes = 1 / (1 + against)
    no = against * yes
    chance, other = (yes, no) if sign > 0 else (no, yes)
    return chance, sign * other, -yes * no


# --- the posterior --------------------------------------------------------------------


class Evaluated(NamedTuple):
    """What a draw of the parameters says of the table; shape ``(draw,)`` each."""

    log_likelihood: Array
    prevalence: Array
    risk_tested: Array
    risk_untested: Array


@dataclass(frozen=True)
class BernoulliModel:
    """The posterior density of one table under one set of constraints.

    Parameters are a vector of coefficients, ``beta_Y`` and then the free ``beta_Delta``,
    and a shape: sigma, or alpha for ``normal_alpha``.

    Attributes
    ----------
    cells
        The table.
    kind
        Law of Z and what is estimated.
    free
        Features whose beta_Delta is free, the intercept (0) among them; the others are 0:
        they do not affect testing beyond risk (expertise).
    given
        alpha (``normal``) or sigma (``normal_alpha``); alpha of ``uniform`` is 1.
    prevalence, weight
        Stated prevalence and ``w = 1 / (2 s²)``: the density has the factor
        ``exp(-w (mean P(Y=1) - prevalence)²)``. Weight 0 turns it off.
    shape_scale
        Scale of the half-normal prior of the shape.
    signed
        Whether alpha may be negative, with a normal prior; for a check only.
    """

    cells: Cells
    kind: Kind
    free: tuple[int, ...]
    given: float = 1.0
    prevalence: float = 0.5
    weight: float = 0.0
    shape_scale: float = SHAPE_SCALE
    signed: bool = False

    @property
    def n_features(self) -> int:
        """Columns of the features, the intercept among them."""
        return self.cells.features.shape[1]

    @property
    def dimension(self) -> int:
        """Length of the vector of coefficients."""
        return self.n_features + len(self.free)

    @property
    def shape_name(self) -> str:
        """What the shape is."""
        return "alpha" if self.kind == "normal_alpha" else "sigma"

    def law(self, shape: Any) -> tuple[Any, Any]:  # noqa: ANN401 - number or array
        """Steepness alpha and spread sigma."""
        return (shape, self.given) if self.shape_name == "alpha" else (self.given, shape)

    @property
    def shape_bounds(self) -> tuple[float, float]:
        """Where the shape lies."""
        return (-np.inf if self.signed else 0.0), np.inf

    def without_prevalence(self) -> "BernoulliModel":
        """The same without the stated prevalence."""
        return replace(self, weight=0.0)

    def some_rows(self, n: int, rng: np.random.Generator) -> "BernoulliModel":
        """The same model of `n` rows drawn at random."""
        return replace(self, cells=self.cells.some_rows(n, rng))

    @property
    def cost(self) -> float:
        """Elements that a draw's density takes: a cell, or a sixth of one for each node."""
        n_cells = float(len(self.cells.counts))
        if self.kind == "uniform":
            return n_cells
        return n_cells * len(choose_nodes(self.kind, *self.law(1.0)).position) / 6

    def node_change(self, coefficients: Float64[Array, " c"], shape: float) -> float:
        """Change of the log-likelihood at a point when the quadrature nodes are doubled."""
        a, d = self.linear_predictors(coefficients[None], self.cells.features)
        law = self.law(shape)
        change = 0.0
        for nodes, sign in (
            (choose_nodes(self.kind, *law, times=times), sign)
            for times, sign in ((1, -1), (2, 1))
        ):
            at_once = ELEMENTS_AT_ONCE // len(nodes.position)
            for start in range(0, len(a), at_once):
                rows = slice(start, start + at_once)
                p = by_quadrature(a[rows, 0], d[rows, 0], *law, nodes)
                counts = self.cells.counts[rows]
                change += sign * sum(counts[:, k] @ p[k] for k in range(3))
        return float(abs(change))

    def grid(self) -> Float64[Array, " point"]:
        """Points of the shape at which a nested Laplace fit starts."""
        if self.signed:
            return np.arange(-8.0, 8.1, 0.4)
        # Down to 0 in effect: where the data allow no unseen risk, the mass lies there.
        return np.r_[1e-3, np.arange(0.05, 8.2, 0.15)]

    def starting_point(self) -> tuple[int, Float64[Array, " coefficient"]]:
        """A grid point, and coefficients near the mode there.

        The prevalence fixes the intercepts: beta_Y's so that the mean risk is it, and
        beta_Delta's because, in expectation, missed cases are the tested negatives times
        ``exp(-d)``.
        """
        positive, negative, untested = self.cells.counts.sum(axis=0)
        total = positive + negative + untested
        shape = 1.2 if self.shape_name == "alpha" else 1.55
        steepness, spread = self.law(shape)
        middle = spread / 2 if self.kind == "uniform" else 0.0
        level = np.clip(positive / (positive + negative), 0.01, 0.99)
        offset = np.log((positive + negative) / max(untested, 1)) / 2
        if self.weight > 0:
            level = np.clip(self.prevalence, 0.001, 0.999)
            missed = total * self.prevalence - positive
            offset = np.log(negative / missed) if missed > 1 else offset
        coefficients = np.zeros(self.dimension)
        risk = np.log(level / (1 - level))
        coefficients[0] = risk - middle
        coefficients[self.n_features] = offset + (1 - steepness) * risk
        return int(np.argmin(np.abs(self.grid() - shape))), coefficients

    def log_shape_prior(self, shape: Array) -> Any:  # noqa: ANN401 - as many as shapes
        """Log of the half-normal density (of the normal one where signed)."""
        constant = 0.5 * np.log((2 if self.signed else 0.5) * np.pi)
        return -0.5 * (shape / self.shape_scale) ** 2 - np.log(self.shape_scale) - constant

    def linear_predictors(
        self, coefficients: Float64[Array, "draw coefficient"], features: Array
    ) -> tuple[Array, Array]:
        """``a`` and ``d``, shape ``(row, draw)`` each."""
        m = self.n_features
        a = features @ coefficients[:, :m].T
        return a, features[:, list(self.free)] @ coefficients[:, m:].T

    def probabilities(
        self,
        coefficients: Float64[Array, "draw coefficient"],
        shape: Float64[Array, " draw"],
        features: Float64[Array, "row feature"],
        *,
        times: int = 1,
    ) -> Probabilities:
        """Probabilities of every row under every draw, shape ``(row, draw)`` each.

        `times`: more than 1 takes that many times the nodes, everywhere.
        """
        keep_freed_memory()
        a, d = self.linear_predictors(coefficients, features)
        if self.kind != "uniform" or times > 1:
            steepness, spread = self.law(float(np.abs(shape).max()))
            nodes = choose_nodes(self.kind, steepness, spread, times=times)
            return by_quadrature(a, d, *self.law(shape), nodes)
        with np.errstate(all="ignore"):  # what overflows is replaced below
            found = closed_form(a, d, np.maximum(shape, SMALLEST_SPREAD))
        lost = ~holds(a, d, shape)
        if lost.any():
            row, draw = np.nonzero(lost)
            spread = shape[draw]
            nodes = choose_nodes("uniform", 1.0, float(spread.max()))
            better = by_quadrature(a[row, draw], d[row, draw], 1.0, spread, nodes)
            for values, exact in zip(found, better, strict=True):
                values[row, draw] = exact
        return found

    def evaluate(
        self,
        coefficients: Float64[Array, "draw coefficient"],
        shape: Float64[Array, " draw"],
        *,
        times: int = 1,
    ) -> Evaluated:
        """Log-likelihood, prevalence and risks of many draws, in blocks.

        The log-likelihood has no multinomial coefficient. The risks are ratios of sums over
        the rows: sum P(Y=1, T=t) / sum P(T=t).
        """
        found = np.zeros((4, len(shape)))
        features, counts, share = self.cells.features, self.cells.counts, self.cells.share
        for draws, rows in self._blocks(shape, times):
            p = self.probabilities(
                coefficients[draws], shape[draws], features[rows], times=times
            )
            for column, log_p in enumerate(p[:3]):
                found[0, draws] += counts[rows, column] @ log_p
            found[1, draws] += share[rows] @ p.case
            found[2, draws] += share[rows] @ p.missed
            found[3, draws] += share[rows] @ np.exp(p.log_untested)
        log_likelihood, case, missed, untested = found
        tested = 1 - untested
        return Evaluated(log_likelihood, case, (case - missed) / tested, missed / untested)

    def _blocks(self, shape: Array, times: int) -> Any:  # noqa: ANN401 - an iterator
        """Slices of draws and of cells whose arrays stay in the cache."""
        n_cells = len(self.cells.features)
        n_nodes, many = 1, DRAWS_AT_ONCE
        if self.kind != "uniform" or times > 1:
            law = self.law(float(np.abs(shape).max()))
            n_nodes, many = len(choose_nodes(self.kind, *law, times=times).position), 8
        many = max(many, ELEMENTS_AT_ONCE // (n_nodes * n_cells))
        at_once = max(1, ELEMENTS_AT_ONCE // (n_nodes * many))
        for first in range(0, len(shape), many):
            for start in range(0, n_cells, at_once):
                yield slice(first, first + many), slice(start, start + at_once)

    def log_density(
        self,
        coefficients: Float64[Array, "draw coefficient"],
        shape: Float64[Array, " draw"],
        evaluated: Evaluated,
    ) -> Float64[Array, " draw"]:
        """Log posterior density of draws, up to the constant of the prevalence factor."""
        return (
            evaluated.log_likelihood
            - self.weight * (evaluated.prevalence - self.prevalence) ** 2
            + self.log_coefficient_prior(coefficients)
            + self.log_shape_prior(shape)
        )

    def log_coefficient_prior(self, coefficients: Array) -> Any:  # noqa: ANN401
        """Log of N(beta; 0, 3²), summed over the last axis."""
        scaled = coefficients / COEFFICIENT_SCALE
        constant = np.log(COEFFICIENT_SCALE) + 0.5 * np.log(2 * np.pi)
        return -0.5 * (scaled**2).sum(axis=-1) - coefficients.shape[-1] * constant

    def derivatives(
        self, coefficients: Float64[Array, " coefficient"], shape: float
    ) -> tuple[float, Float64[Array, " c"], Float64[Array, "c c"]]:
        """Log density in the coefficients at one shape, its gradient and its Hessian."""
        keep_freed_memory()
        total = _Total(self, coefficients, shape)
        for event, (features, counts) in zip(COLUMN_EVENTS, self.cells.seen, strict=True):
            total.add_counts(event, features, counts)
        if self.weight > 0:
            total.add_prevalence()
        precision = COEFFICIENT_SCALE**-2
        value = total.value + self.log_coefficient_prior(coefficients)
        gradient = total.gradient - precision * coefficients
        hessian = total.hessian - precision * np.eye(self.dimension)
        return float(value + self.log_shape_prior(np.asarray(shape))), gradient, hessian


class _Total:
    """A sum over cells of functions of (a, d), with derivatives in the coefficients."""

    def __init__(self, model: BernoulliModel, coefficients: Array, shape: float) -> None:
        self.model, self.coefficients = model, coefficients[None]
        steepness, spread = model.law(shape)
        self.law = (steepness, spread, choose_nodes(model.kind, steepness, spread))
        self.value = 0.0
        self.gradient = np.zeros(model.dimension)
        self.hessian = np.zeros((model.dimension, model.dimension))

    def derivatives(self, event: str, features: Array) -> tuple[Array, Array, Array]:
        """Of the logarithm of an event's probability, in closed form where that holds."""
        a, d = self.model.linear_predictors(self.coefficients, features)
        a, d = a[:, 0], d[:, 0]
        if self.model.kind != "uniform":
            return event_derivatives(event, a, d, *self.law)
        with np.errstate(all="ignore"):  # what overflows is replaced below
            found = closed_derivatives(event, a, d, self.law[1])
        lost = ~derivatives_hold(a, d, self.law[1])
        if lost.any():
            better = event_derivatives(event, a[lost], d[lost], *self.law)
            for values, exact in zip(found, better, strict=True):
                values[..., lost] = exact
        return found

    def blocks(self, n: int) -> Any:  # noqa: ANN401 - an iterator of slices
        """Some cells at a time, few enough that their arrays stay in the cache."""
        n_nodes = 4 if self.model.kind == "uniform" else len(self.law[2].position)
        at_once = ELEMENTS_AT_ONCE // n_nodes
        return (slice(start, start + at_once) for start in range(0, n, at_once))

    def chain(self, features: Array, first: Array, second: Array) -> tuple[Array, Array]:
        """Gradient and Hessian in the coefficients from those in (a, d)."""
        testing = features[:, list(self.model.free)]
        gradient = np.concatenate([first[0] @ features, first[1] @ testing])
        aa = features.T @ (second[0][:, None] * features)
        ad = features.T @ (second[1][:, None] * testing)
        dd = testing.T @ (second[2][:, None] * testing)
        return gradient, np.block([[aa, ad], [ad.T, dd]])

    def add_counts(self, event: str, features: Array, counts: Array) -> None:
        """Add ``counts log P(event)``."""
        for rows in self.blocks(len(counts)):
            n = counts[rows]
            value, first, second = self.derivatives(event, features[rows])
            gradient, hessian = self.chain(features[rows], n * first, n * second)
            self.value += n @ value
            self.gradient += gradient
            self.hessian += hessian

    def add_prevalence(self) -> None:
        """Add ``-w (mean P(Y=1) - prevalence)²``."""
        model, cells = self.model, self.model.cells
        mean = 0.0
        slope, curve = np.zeros_like(self.gradient), np.zeros_like(self.hessian)
        for rows in self.blocks(len(cells.share)):
            value, first, second = self.derivatives("case", cells.features[rows])
            p = cells.share[rows] * np.exp(value)
            products = np.stack([first[0] ** 2, first[0] * first[1], first[1] ** 2])
            gradient, hessian = self.chain(
                cells.features[rows], p * first, p * (second + products)
            )
            mean, slope, curve = mean + p.sum(), slope + gradient, curve + hessian
        apart = mean - model.prevalence
        self.value -= model.weight * apart**2
        self.gradient -= 2 * model.weight * apart * slope
        self.hessian -= 2 * model.weight * (np.outer(slope, slope) + apart * curve)


def unobserved_mean(
    event: str, a: Float64[Array, " row"], d: Float64[Array, " row"], *,
    steepness: float, spread: float, kind: Kind,
) -> Float64[Array, " row"]:  # fmt: skip
    """E[Z | features, event]: how much of a patient's risk the features do not show."""
    nodes = choose_nodes(kind, steepness, spread)
    outcome_sign, tested_sign = SIGNS[event]
    risk = a[:, None] + spread * nodes.position
    log_joint = np.broadcast_to(nodes.log_weight, risk.shape)
    if outcome_sign:
        log_joint = log_joint + log_logistic(outcome_sign * risk)
    if tested_sign:
        log_joint = log_joint + log_logistic(tested_sign * (steepness * risk + d[:, None]))
    p = np.exp(log_joint - log_joint.max(axis=1, keepdims=True))
    return spread * (p @ nodes.position) / p.sum(axis=1)
