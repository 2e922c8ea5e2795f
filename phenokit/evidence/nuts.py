"""Reference engine: the No-U-Turn sampler of NumPyro on the density of `selective_labels`.

Hoffman & Gelman, JMLR 15 (2014); NumPyro: Phan, Pradhan & Jankowiak, arXiv 1912.11554.
What makes it work here:

- float64 throughout, a dense mass matrix (there are fewer than 30 parameters);
- ``sigma = |x|`` with ``x ~ N(0, 3)`` is exactly half-normal; the intercept is sampled at
  the middle of uniform Z, ``beta_Y0 + sigma / 2``, where the likelihood is even in x, so
  that there is no funnel at 0;
- the coefficients are sampled as ``mode(sigma) + factor(sigma) eta``, with smooth functions
  fitted to the modes and covariances of the nested Laplace fit. A stated prevalence makes
  the posterior a thin curved ridge along sigma; in these coordinates it is straight and
  round. The Jacobian is in the density, so that the coordinates change the cost alone;
- chains start dispersed: sigma over its quantiles, eta with twice the posterior's spread.

The table is an argument of the compiled program, padded with empty cells to a power of two,
so that tables of like size do not compile anew. This is the only module that imports JAX.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64

from phenokit.evidence.heckman import HeckmanModel, heckman_likelihood
from phenokit.evidence.laplace import NestedLaplace
from phenokit.evidence.selective_labels import (
    COEFFICIENT_SCALE,
    SMALLEST_SPREAD,
    BernoulliModel,
    Nodes,
    by_quadrature,
    choose_nodes,
    closed_form,
    holds,
    logistic,
    nodes_of,
)

Array = np.ndarray

DEGREE = 8
SHAPE_OF_MIDDLE = 3.0
"""Of the polynomials that follow the modes: degree, and the shape at their centre."""
MOST_CELLS_BY_NODES = 2_048
"""Cells above which the closed form, an eighth of the work, replaces quadrature."""


@dataclass(frozen=True)
class Chains:
    """What the sampler returns.

    Attributes
    ----------
    coefficients
        Shape ``(chain, draw, coefficient)``, in the order of the model.
    shape
        sigma, alpha or the correlation, ``(chain, draw)``.
    divergent
        Which draws' trajectories left the level set, ``(chain, draw)``.
    n_steps
        Leapfrog steps of each draw, ``(chain, draw)``.
    seconds
        Wall time, compilation included.
    """

    coefficients: Float64[Array, "chain draw coefficient"]
    shape: Float64[Array, "chain draw"]
    divergent: Bool[Array, "chain draw"]
    n_steps: Int64[Array, "chain draw"]
    seconds: float


def sample(
    model: BernoulliModel | HeckmanModel,
    fit: NestedLaplace,
    *,
    n_chains: int = 4,
    n_warmup: int = 1_000,
    n_draws: int = 1_000,
    target_acceptance: float = 0.9,
    seed: int = 0,
) -> Chains:
    """Draw from a posterior.

    Parameters
    ----------
    model
        The table and its constraints.
    fit
        Its nested Laplace fit, whose coordinates are sampled; it decides how fast the
        sampler moves, not what it converges to.
    n_chains, n_warmup, n_draws
        Chains, and draws of each that are thrown away and kept.
    target_acceptance
        Of the step-size adaptation; nearer to 1 takes smaller steps.
    seed
        Of starts and sampler.
    """
    import jax

    jax.config.update("jax_enable_x64", True)
    began = time.perf_counter()
    program = _program_of(model, fit)
    starts = program.starts(n_chains, np.random.default_rng(seed))
    key = jax.random.PRNGKey(seed)
    settings = (n_warmup, n_draws, round(target_acceptance, 6))
    if n_chains > 1 and program.static[1] == "sequential":
        run = _compiled(program.density, program.static, 1, *settings)
        each = zip(jax.random.split(key, n_chains), starts, strict=True)
        chains = [run(one, program.data, start) for one, start in each]
        found = [np.concatenate(parts) for parts in zip(*chains, strict=True)]
    else:
        run = _compiled(program.density, program.static, n_chains, *settings)
        found = run(key, program.data, starts if n_chains > 1 else starts[0])
    theta, divergent, n_steps = map(np.asarray, found)
    coefficients, shape = program.unpack(theta)
    return Chains(
        coefficients, shape, divergent, n_steps.astype(np.int64),
        time.perf_counter() - began,
    )  # fmt: skip


def log_density(
    model: BernoulliModel | HeckmanModel, fit: NestedLaplace
) -> Callable[[Array], Any]:
    """The sampled log density as a JAX function of `theta`; for checks and timing.

    `unpack` gives the coefficients and the shape of a `theta`.
    """
    import jax

    jax.config.update("jax_enable_x64", True)
    program = _program_of(model, fit)
    return lambda theta: program.density(program.static, program.data, theta)


@lru_cache(maxsize=8)
def _compiled(
    density: Callable[..., Any],
    static: tuple[Any, ...],
    n_chains: int,
    n_warmup: int,
    n_draws: int,
    target_acceptance: float,
) -> Callable[..., Any]:
    """A compiled run, kept so that the next table of this shape finds it.

    As a whole: of its own accord the sampler compiles its loop in every run.
    """
    import jax
    import numpyro
    from numpyro import distributions
    from numpyro.infer import MCMC, NUTS

    dimension = static[0]

    def model(data: dict[str, Any]) -> None:
        real = distributions.constraints.real
        flat = distributions.ImproperUniform(real, (), (dimension,))
        theta = numpyro.sample("theta", flat)
        numpyro.factor("log_density", density(static, data, theta))

    def run(key: Any, data: dict[str, Any], starts: Any) -> tuple[Any, Any, Any]:  # noqa: ANN401
        kernel = NUTS(
            model,
            dense_mass=True,
            target_accept_prob=target_acceptance,
            init_strategy=numpyro.infer.init_to_value(
                values={"theta": np.zeros(dimension)}
            ),
        )
        sampler = MCMC(
            kernel,
            num_warmup=n_warmup,
            num_samples=n_draws,
            num_chains=n_chains,
            chain_method="vectorized",
            progress_bar=False,
        )
        sampler.run(
            key, data, init_params={"theta": starts},
            extra_fields=("diverging", "num_steps"),
        )  # fmt: skip
        fields = sampler.get_extra_fields(group_by_chain=True)
        theta = sampler.get_samples(group_by_chain=True)["theta"]
        return theta, fields["diverging"], fields["num_steps"]

    return jax.jit(run)


@dataclass(frozen=True)
class _Program:
    """A density with its compiled part, its data, its starts, and what theta means."""

    density: Callable[..., Any]
    static: tuple[Any, ...]
    data: dict[str, Array]
    starts: Callable[[int, np.random.Generator], Array]
    unpack: Callable[[Array], tuple[Array, Array]]


def unpack(
    model: BernoulliModel | HeckmanModel, fit: NestedLaplace, theta: Array
) -> tuple[Array, Array]:
    """Coefficients and shape of sampled coordinates, ``(..., coordinate)``."""
    return _program_of(model, fit).unpack(theta)


def _program_of(model: BernoulliModel | HeckmanModel, fit: NestedLaplace) -> _Program:
    if isinstance(model, HeckmanModel):
        return _heckman_program(model, fit)
    return _bernoulli_program(model, fit)


def _basis(shape: Any, xp: ModuleType) -> Any:  # noqa: ANN401 - numpy or JAX
    """Chebyshev polynomials of an even, bounded function of the shape."""
    x = 2 * shape**2 / (SHAPE_OF_MIDDLE**2 + shape**2) - 1
    found = [xp.ones_like(x), x]
    for _ in range(DEGREE - 1):
        found.append(2 * x * found[-1] - found[-2])
    return xp.stack(found, -1)


def _smoothed(fit: NestedLaplace, middle: float) -> dict[str, Array]:
    """Modes and Cholesky factors as functions of the shape: least squares by mass."""
    root = np.sqrt(fit.mass + 1e-4)[:, None]
    columns = root * _basis(fit.shape, np)

    def coefficients_of(values: Array) -> Array:
        return np.linalg.lstsq(columns, root * values, rcond=None)[0]

    modes = fit.modes.copy()
    modes[:, 0] += middle * fit.shape
    diagonal = np.diagonal(fit.factors, axis1=1, axis2=2)
    below = np.tril(fit.factors, -1)
    flat = coefficients_of(below.reshape(len(below), -1))
    return {
        "mode": coefficients_of(modes),
        "log_diagonal": coefficients_of(np.log(diagonal)),
        "below": flat.reshape(-1, *below.shape[1:]),
        "middle": np.eye(below.shape[1])[0] * middle,
    }


def _coefficients(theta: Any, path: dict[str, Any], xp: ModuleType) -> tuple[Any, Any]:  # noqa: ANN401
    """Coefficients ``mode(shape) + factor(shape) eta``, and the log determinant."""
    shape = xp.abs(theta[..., -1])
    basis = _basis(shape, xp)
    log_diagonal = basis @ path["log_diagonal"]
    eta = theta[..., :-1]
    below = xp.einsum("...k,kij,...j->...i", basis, path["below"], eta)
    mode = basis @ path["mode"] - shape[..., None] * path["middle"]
    moved = mode + xp.exp(log_diagonal) * eta
    return moved + below, log_diagonal.sum(-1)


# --- Bernoulli ------------------------------------------------------------------------


def _bernoulli_program(model: BernoulliModel, fit: NestedLaplace) -> _Program:
    cells = model.cells
    n_padded = 1 << (len(cells.features) - 1).bit_length()
    more = n_padded - len(cells.features)
    by_nodes = model.kind != "uniform" or n_padded <= MOST_CELLS_BY_NODES
    n_nodes = 0
    if by_nodes:
        steepness, spread = model.law(4.0)  # the half-normal's upper fifth
        n_nodes = len(choose_nodes(model.kind, steepness, spread).position)
    data = {
        "features": np.pad(cells.features, ((0, more), (0, 0))),
        "counts": np.pad(cells.counts, ((0, more), (0, 0))),
        "share": np.pad(cells.share, (0, more)),
        "prevalence": np.float64(model.prevalence),
        "weight": np.float64(model.weight),
        "given": np.float64(model.given),
        "shape_scale": np.float64(model.shape_scale),
        **(path := _smoothed(fit, 0.5 if model.kind == "uniform" else 0.0)),
    }
    static = (
        model.dimension + 1,
        "vectorized" if by_nodes and n_padded * n_nodes <= 1 << 16 else "sequential",
        model.kind,
        model.free,
        n_nodes,
    )

    def starts(n_chains: int, rng: np.random.Generator) -> Array:
        at = (rng.permutation(n_chains) + 0.5) / n_chains
        theta = rng.normal(0, 2, (n_chains, model.dimension + 1))
        theta[:, -1] = np.interp(at, np.cumsum(fit.mass), fit.shape)
        return theta

    def unpack(theta: Array) -> tuple[Array, Array]:
        return _coefficients(theta, path, np)[0], np.abs(theta[..., -1])

    return _Program(_bernoulli_density, static, data, starts, unpack)


def _bernoulli_density(static: tuple[Any, ...], data: dict[str, Any], theta: Any) -> Any:  # noqa: ANN401
    """Log density of ``theta = (c, slopes, free beta_Delta, x)``; JAX."""
    import jax.numpy as jnp
    from jax import lax

    _, _, kind, free, n_nodes = static
    features, counts = data["features"], data["counts"]
    m = features.shape[1]
    theta = jnp.asarray(theta)
    shape = jnp.abs(theta[-1])
    coefficients, log_determinant = _coefficients(theta, data, jnp)
    beta_y, beta_delta = coefficients[:m], coefficients[m:]
    a = features @ beta_y
    d = features[:, list(free)] @ beta_delta
    alpha_free = kind == "normal_alpha"
    steepness, spread = (shape, data["given"]) if alpha_free else (data["given"], shape)

    def integrated(_: None) -> Any:  # noqa: ANN401
        nodes = _nodes(kind, n_nodes or 24)
        return by_quadrature(a, d, steepness, spread, nodes, jnp)

    def closed(_: None) -> Any:  # noqa: ANN401
        return closed_form(a, d, jnp.maximum(spread, SMALLEST_SPREAD), jnp)

    fine = False if n_nodes else jnp.all(holds(a, d, spread, jnp))
    p = integrated(None) if n_nodes else lax.cond(fine, closed, integrated, None)
    log_p = jnp.stack([p.log_positive, p.log_negative, p.log_untested], axis=1)
    prevalence = data["share"] @ p.case
    return (
        jnp.sum(jnp.where(counts > 0, counts * log_p, 0.0))
        - data["weight"] * (prevalence - data["prevalence"]) ** 2
        - 0.5 * (jnp.sum(beta_y**2) + jnp.sum(beta_delta**2)) / COEFFICIENT_SCALE**2
        - 0.5 * (shape / data["shape_scale"]) ** 2
        + log_determinant
    )


def _nodes(kind: str, n: int) -> Nodes:
    law = "uniform" if kind == "uniform" else ("hermite" if n == 24 else "trapezium")
    return nodes_of(law, n)


# --- Heckman --------------------------------------------------------------------------


def _heckman_program(model: HeckmanModel, fit: NestedLaplace) -> _Program:
    data = {
        "features": model.features,
        "tested": model.tested,
        "outcome": model.outcome,
        "prevalence": np.float64(model.prevalence),
        "weight": np.float64(model.weight),
        "shape_scale": np.float64(model.shape_scale),
    }
    static = (model.dimension + 1, "sequential", model.free)

    def starts(n_chains: int, rng: np.random.Generator) -> Array:
        at = (rng.permutation(n_chains) + 0.5) / n_chains
        correlation = np.interp(at, np.cumsum(fit.mass), fit.shape)
        best = int(np.argmax(fit.log_height))
        noise = rng.normal(0, 2, (n_chains, model.dimension))
        near = fit.modes[best] + noise @ fit.factors[best].T
        return np.column_stack([near, np.log(correlation / (1 - correlation))])

    def unpack(theta: Array) -> tuple[Array, Array]:
        return theta[..., :-1], logistic(theta[..., -1])

    return _Program(_heckman_density, static, data, starts, unpack)


def _heckman_density(static: tuple[Any, ...], data: dict[str, Any], theta: Any) -> Any:  # noqa: ANN401
    """Log density of ``theta = (beta_Y, beta_T, log sigma, logit of correlation)``; JAX."""
    import jax
    import jax.numpy as jnp

    free = static[2]
    correlation = jax.nn.sigmoid(theta[-1])
    log_likelihood, mean = heckman_likelihood(
        data["features"],
        data["tested"],
        data["outcome"],
        free,
        theta[:-1],
        correlation,
        jnp,
        jax.scipy.special.log_ndtr,
    )
    sigma = jnp.exp(theta[-2])
    return (
        log_likelihood
        - data["weight"] * (mean - data["prevalence"]) ** 2
        - 0.5 * jnp.sum(theta[:-2] ** 2) / COEFFICIENT_SCALE**2
        - 0.5 * sigma**2 * (1 + correlation**2) / data["shape_scale"] ** 2
        + 2 * theta[-2]
        + jax.nn.log_sigmoid(theta[-1])
        + jax.nn.log_sigmoid(-theta[-1])
    )
