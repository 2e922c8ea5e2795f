"""The risk model: a figure for each claim of what it costs and how well it agrees.

    OMP_NUM_THREADS=1 python benchmarks/risk.py [--rows N] [--many N] [--part PART ...]

``sampler``: 20,000 patients with 5 binary features, a rare outcome and both constraints
(seed 11): NUTS with 4 x (1,000 + 1,000) draws on the cells, compilation included, beside
the nested Laplace fit; then once more, compiled, for the CPU time of an effective draw. The
peers are the same sampler in the same coordinates on the rows, with the closed form and
with the same quadrature: short runs, whose effective draws an iteration are taken from the
long one: the posterior is the same.
``binary``: 800,000 such patients: aggregation, the whole fit with its checks, the risk of
every patient, and answers for other prevalences, re-weighted and fitted anew.
``continuous``: whole fits with checks of 5,000 to 800,000 rows of 7 continuous features, no
two rows alike, each in a process of its own for its peak memory.
``patients``: risk with its interval of 100,000 patients, each with features of his own.

Wall seconds are those of a shared machine: CPU seconds stand beside them, and the load.
"""

import argparse
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from phenokit.evidence import nuts
from phenokit.evidence.convergence import ess_bulk, ess_tail, r_hat
from phenokit.evidence.laplace import (
    NestedLaplace,
    WeightedDraws,
    draw_weighted,
    fit_nested_laplace,
)
from phenokit.evidence.risk import SelectiveLabelsModel
from phenokit.evidence.selective_labels import BernoulliModel, Cells, aggregate

NAMES = ["age50plus", "gene", "deprived", "biopsy", "smoker"]
FREE = (0, 1, 3)
PARTS = ("sampler", "binary", "continuous", "patients")
SIZES = (5_000, 20_000, 100_000, 800_000)
N_CONTINUOUS = 7
PREVALENCE_SD = 0.002


@dataclass(frozen=True)
class Cohort:
    """A simulated table, and the prevalence of everyone in it."""

    features: np.ndarray
    tested: np.ndarray
    outcome: np.ndarray
    prevalence: float


def simulate(n: int, rng: np.random.Generator) -> Cohort:
    """Rows of the default model, some 6 % of them cases and half of them tested."""
    features = rng.integers(0, 2, (n, 5)).astype(np.float64)
    risk = -6.2 + features @ [0.8, 0.9, 0.0, 0.7, 0.4] + rng.uniform(0, 4, n)
    case = rng.random(n) < 1 / (1 + np.exp(-risk))
    testing = risk + 2 + features @ [3.5, 0, -0.8, 0, 0]
    tested = rng.random(n) < 1 / (1 + np.exp(-testing))
    return Cohort(features, tested, np.where(tested, case, np.nan), float(case.mean()))


def model_of(cohort: Cohort, cells: Cells) -> BernoulliModel:
    """Both constraints."""
    return BernoulliModel(
        cells, "uniform", FREE, prevalence=cohort.prevalence,
        weight=1 / (2 * PREVALENCE_SD**2),
    )  # fmt: skip


class Clock:
    """Wall and CPU time since it was made."""

    def __init__(self) -> None:
        self.start = time.perf_counter(), time.process_time()

    def read(self) -> tuple[float, float]:
        """Seconds: wall, CPU."""
        return time.perf_counter() - self.start[0], time.process_time() - self.start[1]


def smallest_sizes(chains: nuts.Chains) -> tuple[float, float, float]:
    """Smallest bulk and tail effective size, largest R-hat."""
    each = [chains.coefficients[:, :, j] for j in range(chains.coefficients.shape[2])]
    each.append(chains.shape)
    return (
        min(ess_bulk(one) for one in each),
        min(ess_tail(one) for one in each),
        max(r_hat(one) for one in each),
    )


def cpu_of_an_iteration(
    model: BernoulliModel, fit: NestedLaplace, iterations: int
) -> float:
    """CPU seconds of a draw of one chain, compiled before."""
    half = iterations // 2
    options = {"n_chains": 1, "n_warmup": half, "n_draws": half, "target_acceptance": 0.95}
    nuts.sample(model, fit, **options, seed=1)
    clock = Clock()
    nuts.sample(model, fit, **options, seed=2)
    return clock.read()[1] / iterations


def continuous(n: int, rng: np.random.Generator) -> Cohort:
    """Rows of the default model with normal features, a third of them cases."""
    features = rng.normal(size=(n, N_CONTINUOUS))
    beta = rng.normal(0, 0.6, N_CONTINUOUS)
    risk = -2.0 + features @ beta + rng.uniform(0, 2, n)
    case = rng.random(n) < 1 / (1 + np.exp(-risk))
    testing = risk + 2 + 0.5 * features[:, 0]
    tested = rng.random(n) < 1 / (1 + np.exp(-testing))
    return Cohort(features, tested, np.where(tested, case, np.nan), float(case.mean()))


def fit_continuous(n: int, *, checks: bool = True) -> SelectiveLabelsModel:
    """Fit both constraints; the first feature may affect testing."""
    cohort = continuous(n, np.random.default_rng(11))
    names = [f"x{j + 1}" for j in range(N_CONTINUOUS)]
    return SelectiveLabelsModel(checks=checks).fit(
        pd.DataFrame(cohort.features, columns=pd.Index(names)), cohort.tested,
        cohort.outcome, prevalence=cohort.prevalence, prevalence_sd=0.005,
        testing_features=["x1"],
    )  # fmt: skip


def report(name: str, clock: Clock, more: str = "") -> None:
    """Print a line: wall and CPU seconds."""
    wall, cpu = clock.read()
    print(f"{name:24}{wall:8.2f} s {cpu:8.2f} CPU s   {more}", flush=True)


def stages(fitted: SelectiveLabelsModel) -> str:
    """Wall seconds by stage."""
    return ", ".join(f"{k} {v:.2f}" for k, v in fitted.diagnostics_.seconds.items())


def time_sampler(n: int, rng: np.random.Generator) -> None:
    """NUTS and nested Laplace on cells, and NUTS on rows."""
    cohort = simulate(n, rng)
    table = (cohort.features, cohort.tested, cohort.outcome)
    model = model_of(cohort, aggregate(*table))
    print(f"{n:,} rows, {len(model.cells.counts)} cells, seed 11")
    clock = Clock()
    fit = fit_nested_laplace(model)
    drawn = draw_weighted(model, fit, 4_000, rng)
    smoothed = drawn.smoothed
    report("nested Laplace", clock,
           f"k-hat {smoothed.k_hat:.2f}, ESS {smoothed.effective_size:,.0f}")  # fmt: skip
    clock = Clock()
    chains = nuts.sample(model, fit, target_acceptance=0.95, seed=1)
    bulk, tail, worst = smallest_sizes(chains)
    report(
        "NUTS, 4 x (1000 + 1000)", clock,
        f"with compilation; R-hat {worst:.4f}, ESS {bulk:,.0f} (tail {tail:,.0f}), "
        f"{chains.divergent.sum()} divergences, {chains.n_steps.mean():.1f} steps a draw",
    )  # fmt: skip
    apart = distance(model, drawn, chains)
    print(f"nested Laplace against NUTS: at most {apart:.3f} sd apart")
    clock = Clock()
    again = nuts.sample(model, fit, target_acceptance=0.95, seed=2)
    share = smallest_sizes(again)[0] / 8_000
    per_draw = clock.read()[1] / 8_000 / share
    report("compiled before", clock, f"{1e3 * per_draw:.2f} CPU ms an effective draw")
    rows = replace(model, cells=aggregate(*table, distinct=True))
    limit = nuts.MOST_CELLS_BY_NODES
    for name, cells_by_nodes, iterations in (
        ("closed form on rows", limit, 200), ("quadrature on rows", 1 << 30, 40),
    ):  # fmt: skip
        nuts.MOST_CELLS_BY_NODES = cells_by_nodes
        peer = cpu_of_an_iteration(rows, fit, iterations) / share
        print(f"{name:24}{1e3 * peer:8.1f} CPU ms an effective draw: "
              f"{peer / per_draw:,.0f} times the cells'", flush=True)  # fmt: skip
    nuts.MOST_CELLS_BY_NODES = limit


def distance(model: BernoulliModel, drawn: WeightedDraws, chains: nuts.Chains) -> float:
    """Largest difference of posterior means in standard deviations of NUTS.

    Of coefficients, sigma, the prevalence and the risks of the tested and the untested.
    """
    flat = chains.coefficients.reshape(-1, model.dimension)
    shape = chains.shape.reshape(-1)
    reference = np.column_stack([flat, shape, *model.evaluate(flat, shape)[1:]])
    ours = np.column_stack([drawn.coefficients, drawn.shape, *drawn.evaluated[1:]])
    mean = drawn.smoothed.weights @ ours
    return float((np.abs(mean - reference.mean(axis=0)) / reference.std(axis=0)).max())


def time_binary(n: int, rng: np.random.Generator) -> None:
    """Very many rows of few patterns."""
    many = simulate(n, rng)
    clock = Clock()
    cells = aggregate(many.features, many.tested, many.outcome)
    report(f"{n:,} rows", clock, f"aggregated to {len(cells.counts)} cells")
    frame = pd.DataFrame(many.features, columns=pd.Index(NAMES))
    clock = Clock()
    fitted = SelectiveLabelsModel().fit(
        frame, many.tested, many.outcome, prevalence=many.prevalence,
        prevalence_sd=PREVALENCE_SD, testing_features=["age50plus", "deprived"],
    )  # fmt: skip
    report("whole fit with checks", clock, f"({stages(fitted)})")
    clock = Clock()
    fitted.predict_proba(frame, "untested")
    report("risk of every patient", clock)
    for shift in (1.5, 6.0, 12.0):
        clock = Clock()
        other = fitted.reweight(many.prevalence + shift * PREVALENCE_SD, PREVALENCE_SD)
        found = other.diagnostics_
        report(f"prevalence {shift:+g} sd away", clock,
               f"({found.source}, ESS {found.importance_ess:,.0f})")  # fmt: skip


def time_continuous(sizes: Sequence[int]) -> None:
    """Tables without equal rows, each in its own process."""
    for n in sizes:
        command = [sys.executable, __file__, "--table", str(n)]
        subprocess.run(command, check=True)


def time_table(n: int) -> None:
    """One whole fit."""
    clock = Clock()
    fitted = fit_continuous(n)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    found = fitted.diagnostics_
    report(
        f"{n:,} rows of {N_CONTINUOUS}", clock,
        f"peak {peak:,.0f} MB, {found.n_draws:,} draws, ESS {found.importance_ess:,.0f} "
        f"({stages(fitted)})",
    )  # fmt: skip


def time_patients(n: int) -> None:
    """Risk of each patient: the mean and the interval over 400 draws."""
    fitted = fit_continuous(5_000, checks=False)
    X = np.random.default_rng(12).normal(size=(n, N_CONTINUOUS))
    for population in ("all", "tested", "untested"):
        clock = Clock()
        fitted.predict_proba(X, population)
        report(f"{n:,} patients", clock, f"mean risk, {population}")
    clock = Clock()
    fitted.risk_interval(X, "untested")
    report(f"{n:,} patients", clock, "95 % interval, untested")


def main() -> None:
    """Print a line a figure."""
    parser = argparse.ArgumentParser(description="Time the risk model")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--many", type=int, default=800_000)
    parser.add_argument("--patients", type=int, default=100_000)
    parser.add_argument("--part", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--table", type=int, help="one continuous table, and no more")
    arguments = parser.parse_args()
    if arguments.table:
        time_table(arguments.table)
        return
    for part in arguments.part:
        load = " ".join(f"{one:.1f}" for one in os.getloadavg())
        print(f"--- {part}; load {load} on {os.cpu_count()} cores", flush=True)
        rng = np.random.default_rng(11)
        if part == "sampler":
            time_sampler(arguments.rows, rng)
        elif part == "binary":
            time_binary(arguments.many, rng)
        elif part == "continuous":
            time_continuous(SIZES)
        else:
            time_patients(arguments.patients)


if __name__ == "__main__":
    main()
