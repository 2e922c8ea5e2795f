"""Simulation-based calibration of the risk model under a stated prevalence.

    OMP_NUM_THREADS=1 python benchmarks/risk_calibration.py --out FILE
        [--prevalence 0.5|0.001|0.999] [--engine laplace|nuts] [--replications N]
        [--draws N] [--seed S]

Parameters are drawn from the prior and kept with the chance that the stated prevalence's
factor ``exp(-w (pihat - pi)²)`` gives them; a table of 5,000 patients in the 8 cells of 3
binary features is drawn from them, and fitted. If the fit is right, the rank of the truth
among 63 independent posterior draws is uniform on 0 to 63, for every parameter, for the
log-likelihood, which depends on the table as well, and for the distance of the prevalence
from the stated one, without which a fit that forgets what is stated would pass (Talts et
al., arXiv 1804.06788; Modrák et al., Bayesian Analysis 2025, doi:10.1214/23-BA1404).

Draws of the nested Laplace fit carry importance weights and are laid out along sigma, so
that they are drawn anew, independently and by weight, before they are ranked. NUTS runs one
chain of 500 + 1,000; every 15th draw is ranked.

A table that the estimator refuses is counted by its reason and replaced by another: one
without a case or without a non-case among the tested, or without an untested patient, and a
fit that its gate does not pass. Given the table, neither depends on the parameters that
made it, so that the ranks of the rest are uniform all the same. The floor of ten cases a
coefficient is not applied.

Printed for each quantity: p of chi-square in 16 bins, and of Kolmogorov and Smirnov's
distance (the band around the ECDF), coverage of the 50, 80 and 95 % intervals, and the
smallest p after Holm. FILE has a line (JSON) a replication; a second run continues.
"""

import argparse
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy.stats import binom, chi2, kstest

from phenokit.evidence.convergence import ess_bulk, ess_tail, r_hat
from phenokit.evidence.laplace import NestedLaplace, draw_weighted, fit_nested_laplace
from phenokit.evidence.selective_labels import (
    COEFFICIENT_SCALE,
    SHAPE_SCALE,
    BernoulliModel,
    Cells,
)

Engine = Literal["laplace", "nuts"]

N_PATIENTS, N_FEATURES = 5_000, 3
FREE = (0, 1)
PREVALENCE_SD = {0.001: 0.0005, 0.5: 0.01, 0.999: 0.0005}
N_RANKED, N_BINS = 63, 16
LEVELS = (0.5, 0.8, 0.95)
N_WARMUP, N_CHAIN = 500, 1_000
PROPOSED = 1_000
"""Draws of the prior that are tried at once."""
SMALLEST_P = 1e-4
"""Of the smallest p after Holm, below which a fit is not calibrated."""

PARAMETERS = (
    *(f"beta_Y[{j}]" for j in range(N_FEATURES + 1)),
    *(f"beta_Delta[{j}]" for j in FREE),
    "sigma",
)
QUANTITIES = (
    *PARAMETERS, "prevalence", "risk_tested", "risk_untested", "log_likelihood",
    "distance",
)  # fmt: skip
"""The last is the distance of the prevalence from the stated one."""


# --- ranks ----------------------------------------------------------------------------


def ranks_of(truth: np.ndarray, draws: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """How many draws lie below the truth; a tie is broken at random.

    Shapes ``(quantity,)`` and ``(draw, quantity)``.
    """
    below, same = (draws < truth).sum(axis=0), (draws == truth).sum(axis=0)
    return below + rng.integers(0, same + 1)


def chi_square_p(ranks: np.ndarray) -> float:
    """p of the hypothesis that ranks among 63 draws are uniform: 16 bins of 4 ranks."""
    width = (N_RANKED + 1) // N_BINS
    counts = np.bincount(ranks // width, minlength=N_BINS)
    expected = len(ranks) / N_BINS
    return float(chi2.sf(((counts - expected) ** 2 / expected).sum(), N_BINS - 1))


def distance_p(ranks: np.ndarray, rng: np.random.Generator) -> float:
    """p of the largest distance between the ECDF of ranks and the uniform one."""
    spread = (ranks + rng.random(len(ranks))) / (N_RANKED + 1)
    return float(kstest(spread, "uniform").pvalue)


def holm(p: np.ndarray) -> np.ndarray:
    """p-values adjusted so that all can be held against one level."""
    order = np.argsort(p)
    stepped = np.maximum.accumulate(p[order] * (len(p) - np.arange(len(p))))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1)
    return adjusted


# --- the constrained prior ------------------------------------------------------------


def patterns() -> tuple[np.ndarray, np.ndarray]:
    """Features of the cells, the intercept first, and patients in each."""
    features = np.array([[1, *bits] for bits in product((0, 1), repeat=N_FEATURES)], float)
    rng = np.random.default_rng(3)
    return features, rng.multinomial(N_PATIENTS, np.full(len(features), 1 / len(features)))


def model_of(counts: np.ndarray, prevalence: float) -> BernoulliModel:
    """The posterior of a table under a stated prevalence."""
    features, patients = patterns()
    cells = Cells(features, counts, np.repeat(np.arange(len(patients)), patients))
    weight = 1 / (2 * PREVALENCE_SD[prevalence] ** 2)
    return BernoulliModel(cells, "uniform", FREE, prevalence=prevalence, weight=weight)


def draw_constrained(
    prevalence: float, rng: np.random.Generator
) -> Iterator[tuple[np.ndarray, float]]:
    """Coefficients and sigma from the prior, accepted by the prevalence's factor."""
    features, patients = patterns()
    empty = np.zeros((len(features), 3))
    empty[:, 2] = patients
    model = model_of(empty, prevalence)
    while True:
        coefficients = rng.normal(0, COEFFICIENT_SCALE, (PROPOSED, model.dimension))
        sigma = np.abs(rng.normal(0, SHAPE_SCALE, PROPOSED))
        pihat = model.cells.share @ model.probabilities(coefficients, sigma, features).case
        factor = np.exp(-model.weight * (pihat - prevalence) ** 2)
        for k in np.flatnonzero(rng.random(PROPOSED) < factor):
            yield coefficients[k], float(sigma[k])


def draw_table(
    coefficients: np.ndarray, sigma: float, rng: np.random.Generator
) -> np.ndarray:
    """Counts of tested cases, tested non-cases and untested in every cell."""
    features, patients = patterns()
    model = model_of(np.zeros((len(features), 3)), 0.5)
    found = model.probabilities(coefficients[None], np.array([sigma]), features)
    chance = np.exp(np.column_stack(found[:3]))
    chance /= chance.sum(axis=1, keepdims=True)
    drawn = [rng.multinomial(n, p) for n, p in zip(patients, chance, strict=True)]
    return np.array(drawn, dtype=np.float64)


# --- a replication --------------------------------------------------------------------


@dataclass(frozen=True)
class Fitted:
    """Posterior draws of every quantity, ``(draw, quantity)``, their weights, and the gate.

    `why` is empty where the gate passes; `thinned` are the draws to be ranked.
    """

    draws: np.ndarray
    weights: np.ndarray
    thinned: np.ndarray
    why: str


def quantities_of(
    model: BernoulliModel, coefficients: np.ndarray, shape: np.ndarray
) -> np.ndarray:
    """All quantities, ``(draw, quantity)``."""
    found = model.evaluate(coefficients, shape)
    return np.column_stack(
        [coefficients, shape, found.prevalence, found.risk_tested, found.risk_untested,
         found.log_likelihood, np.abs(found.prevalence - model.prevalence)]
    )  # fmt: skip


def fit_laplace(
    model: BernoulliModel, fit: NestedLaplace, n_draws: int, rng: np.random.Generator
) -> Fitted:
    """Nested Laplace fit with Pareto-smoothed weights, and independent draws by weight."""
    drawn = draw_weighted(model, fit, n_draws, rng)
    smoothed = drawn.smoothed
    draws = quantities_of(model, drawn.coefficients, drawn.shape)
    why = ""
    if smoothed.k_hat > smoothed.k_limit:
        why = "k-hat"
    elif not smoothed.reliable():
        why = "effective draws"
    picked = rng.choice(len(draws), size=N_RANKED, p=smoothed.weights)
    return Fitted(draws, smoothed.weights, draws[picked], why)


def fit_nuts(model: BernoulliModel, fit: NestedLaplace, rng: np.random.Generator) -> Fitted:
    """One chain, thinned."""
    from phenokit.evidence.nuts import sample

    chain = sample(
        model, fit, n_chains=1, n_warmup=N_WARMUP, n_draws=N_CHAIN, target_acceptance=0.95,
        seed=int(rng.integers(1 << 31)),
    )  # fmt: skip
    coefficients, shape = chain.coefficients[0], chain.shape[0]
    draws = quantities_of(model, coefficients, shape)
    each = draws.T[:, None, :]
    why = ""
    if chain.divergent.any():
        why = "divergences"
    elif max(r_hat(one) for one in each) > 1.01:
        why = "R-hat"
    elif min(min(ess_bulk(one), ess_tail(one)) for one in each) < 400:
        why = "effective draws"
    step = N_CHAIN // N_RANKED
    thinned = draws[step - 1 :: step][:N_RANKED]
    return Fitted(draws, np.full(N_CHAIN, 1 / N_CHAIN), thinned, why)


def replicate(
    prevalence: float, number: int, *, seed: int, engine: Engine, n_draws: int
) -> dict[str, Any]:
    """The record of one replication; every number has its own stream."""
    rng = np.random.default_rng([seed, number])
    coefficients, sigma = next(draw_constrained(prevalence, rng))
    counts = draw_table(coefficients, sigma, rng)
    totals = counts.sum(axis=0)
    record: dict[str, Any] = {
        "prevalence": prevalence, "seed": seed, "engine": engine, "draws": n_draws,
        "number": number, "counts": [int(n) for n in totals],
    }  # fmt: skip
    if (totals == 0).any():
        return record | {"refused": "one class" if totals[2] else "no untested"}
    model = model_of(counts, prevalence)
    try:
        fit = fit_nested_laplace(model)
    except (FloatingPointError, np.linalg.LinAlgError):
        return record | {"refused": "no mode"}
    if engine == "nuts":
        found = fit_nuts(model, fit, rng)
    else:
        found = fit_laplace(model, fit, n_draws, rng)
    truth = quantities_of(model, coefficients[None], np.array([sigma]))[0]
    below = found.weights @ (found.draws < truth)
    record |= {
        "ranks": [int(rank) for rank in ranks_of(truth, found.thinned, rng)],
        "below": [float(share) for share in below],
    }
    return record | ({"refused": found.why} if found.why else {})


def replications(
    prevalence: float,
    n_usable: int,
    *,
    seed: int,
    engine: Engine = "laplace",
    n_draws: int = 4_000,
    done: list[dict[str, Any]] | None = None,
) -> Iterator[dict[str, Any]]:
    """Records until so many are usable, those that are `done` among them."""
    there = {record["number"]: record for record in done or []}
    number = usable = 0
    while usable < n_usable:
        record = there.get(number) or replicate(
            prevalence, number, seed=seed, engine=engine, n_draws=n_draws
        )
        yield record
        usable += "refused" not in record
        number += 1


# --- figures --------------------------------------------------------------------------


@dataclass(frozen=True)
class Calibration:
    """What the usable replications say of each quantity."""

    n: int
    refused: Counter[str]
    chi_square: np.ndarray
    distance: np.ndarray
    coverage: np.ndarray

    @property
    def smallest(self) -> float:
        """Smallest p of both tests and all quantities, after Holm."""
        return float(holm(np.r_[self.chi_square, self.distance]).min())


def calibration_of(records: list[dict[str, Any]], *, gated: bool = True) -> Calibration:
    """Tests of uniform ranks and coverage; `gated`: of fits that the gate passes."""
    refused = Counter(one["refused"] for one in records if "refused" in one)
    kept = [one for one in records if "ranks" in one]
    if gated:
        kept = [one for one in kept if "refused" not in one]
    ranks = np.array([one["ranks"] for one in kept])
    below = np.array([one["below"] for one in kept])
    rng = np.random.default_rng(0)
    inside = [(np.abs(below - 0.5) <= level / 2).mean(axis=0) for level in LEVELS]
    return Calibration(
        len(kept), refused,
        np.array([chi_square_p(column) for column in ranks.T]),
        np.array([distance_p(column, rng) for column in ranks.T]),
        np.stack(inside, axis=1),
    )  # fmt: skip


def coverage_band(level: float, n: int, outside: float = 0.001) -> tuple[float, float]:
    """Between what the coverage of `n` sets lies but for one time in a thousand."""
    ends = binom.ppf([outside / 2, 1 - outside / 2], n, level) / n
    return float(ends[0]), float(ends[1])


def print_calibration(found: Calibration, title: str) -> None:
    """A line a quantity."""
    refused = ", ".join(f"{n} {why}" for why, n in found.refused.items()) or "none"
    print(f"{title}: {found.n:,} replications; refused besides: {refused}")
    heads = "".join(f"{f'{100 * level:.0f} %':>8}" for level in LEVELS)
    print(f"{'':16}{'chi-square p':>14}{'ECDF p':>10}{heads}")
    for k, name in enumerate(QUANTITIES):
        shares = "".join(f"{100 * share:8.1f}" for share in found.coverage[k])
        print(f"{name:16}{found.chi_square[k]:14.3g}{found.distance[k]:10.3g}{shares}")
    bands = [coverage_band(level, found.n) for level in LEVELS]
    shown = ", ".join(f"{100 * low:.1f} to {100 * high:.1f}" for low, high in bands)
    print(f"99.9 % band of coverage: {shown}")
    print(f"smallest p after Holm: {found.smallest:.3g} (limit {SMALLEST_P:g})")


def main() -> None:
    """Run what is not yet done, then print the table of what is."""
    parser = argparse.ArgumentParser(description="Calibration of the risk model")
    parser.add_argument("--prevalence", type=float, choices=PREVALENCE_SD, default=0.5)
    parser.add_argument("--engine", choices=("laplace", "nuts"), default="laplace")
    parser.add_argument("--replications", type=int, default=1_000)
    parser.add_argument("--draws", type=int, default=4_000, help="of the Laplace fit")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    key = (arguments.prevalence, arguments.seed, arguments.engine, arguments.draws)
    done = []
    if arguments.out.exists():
        lines = arguments.out.read_text("utf-8").splitlines()
        done = [json.loads(line) for line in lines if line.endswith("}")]
    names = ("prevalence", "seed", "engine", "draws")
    if any(tuple(one[name] for name in names) != key for one in done):
        raise SystemExit(f"{arguments.out} holds another run; name another file")
    records = []
    there = {one["number"] for one in done}
    with arguments.out.open("a", encoding="utf-8") as file:
        for record in replications(
            arguments.prevalence, arguments.replications, seed=arguments.seed,
            engine=arguments.engine, n_draws=arguments.draws, done=done,
        ):  # fmt: skip
            records.append(record)
            if record["number"] not in there:
                file.write(json.dumps(record) + "\n")
                file.flush()
    title = f"{arguments.engine}, prevalence {arguments.prevalence:g}"
    print_calibration(calibration_of(records), title)
    everything = calibration_of(records, gated=False)
    if everything.n > calibration_of(records).n:
        print()
        print_calibration(everything, f"{title}, the gate's refusals among them")


if __name__ == "__main__":
    main()
