"""The risk model: sampler, aggregation, nested Laplace fit, and the likelihood on rows.

    OMP_NUM_THREADS=1 python benchmarks/risk.py [--rows N] [--many N] [--without-rows]

20,000 patients with 5 binary features, a rare outcome and both constraints (seed 11): NUTS
with 4 x (1,000 + 1,000) draws on the cells, compilation included; then once more, compiled,
for the CPU time of an effective draw. The peers are the same sampler in the same
coordinates on the rows, with the closed form and with the same quadrature: short runs,
whose effective draws an iteration are taken from the long one: the posterior is the same.
Then 800,000 patients: aggregation, nested Laplace fit, and the whole fit with its checks;
and an answer for another prevalence.
"""

import argparse
import time
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from phenokit.evidence import nuts
from phenokit.evidence.convergence import ess_bulk, ess_tail, r_hat
from phenokit.evidence.laplace import NestedLaplace, draw_weighted, fit_nested_laplace
from phenokit.evidence.risk import SelectiveLabelsModel
from phenokit.evidence.selective_labels import BernoulliModel, Cells, aggregate

NAMES = ["age50plus", "gene", "deprived", "biopsy", "smoker"]
FREE = (0, 1, 3)
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


def main() -> None:
    """Print a line a figure."""
    parser = argparse.ArgumentParser(description="Time the risk model")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--many", type=int, default=800_000)
    parser.add_argument("--without-rows", action="store_true", help="leave the peers out")
    arguments = parser.parse_args()
    rng = np.random.default_rng(11)
    cohort = simulate(arguments.rows, rng)
    table = (cohort.features, cohort.tested, cohort.outcome)
    model = model_of(cohort, aggregate(*table))
    print(f"{arguments.rows:,} rows, {len(model.cells.counts)} cells, seed 11")

    clock = Clock()
    fit = fit_nested_laplace(model)
    drawn = draw_weighted(model, fit, 4_000, rng)
    wall, cpu = clock.read()
    print(
        f"nested Laplace         {wall:8.2f} s   {cpu:8.2f} CPU s   "
        f"k-hat {drawn.smoothed.k_hat:.2f}, ESS {drawn.smoothed.effective_size:,.0f}"
    )
    clock = Clock()
    chains = nuts.sample(model, fit, target_acceptance=0.95, seed=1)
    wall, cpu = clock.read()
    bulk, tail, worst = smallest_sizes(chains)
    print(
        f"NUTS, 4 x (1000 + 1000){wall:8.1f} s   {cpu:8.1f} CPU s   with compilation; "
        f"R-hat {worst:.4f}, ESS {bulk:,.0f} (tail {tail:,.0f}), "
        f"{chains.divergent.sum()} divergences, {chains.n_steps.mean():.1f} steps a draw"
    )
    weights = drawn.smoothed.weights
    flat = np.column_stack([chains.coefficients.reshape(-1, model.dimension),
                            chains.shape.reshape(-1)])  # fmt: skip
    laplace = np.column_stack([drawn.coefficients, drawn.shape])
    apart = (weights @ laplace - flat.mean(axis=0)) / flat.std(axis=0)
    print(f"nested Laplace against NUTS: at most {np.abs(apart).max():.3f} sd apart")
    clock = Clock()
    again = nuts.sample(model, fit, target_acceptance=0.95, seed=2)
    wall, cpu = clock.read()
    share = smallest_sizes(again)[0] / 8_000
    per_draw = cpu / 8_000 / share
    print(f"compiled before        {wall:8.1f} s   {cpu:8.1f} CPU s   "
          f"{1e3 * per_draw:.2f} CPU ms an effective draw")  # fmt: skip
    if not arguments.without_rows:
        rows = replace(model, cells=aggregate(*table, distinct=True))
        limit = nuts.MOST_CELLS_BY_NODES
        for name, cells_by_nodes, iterations in (
            ("closed form on rows", limit, 200), ("quadrature on rows", 1 << 30, 40),
        ):  # fmt: skip
            nuts.MOST_CELLS_BY_NODES = cells_by_nodes
            peer = cpu_of_an_iteration(rows, fit, iterations) / share
            print(f"{name:22} {1e3 * peer:8.1f} CPU ms an effective draw: "
                  f"{peer / per_draw:,.0f} times the cells'")  # fmt: skip
        nuts.MOST_CELLS_BY_NODES = limit

    many = simulate(arguments.many, rng)
    clock = Clock()
    cells = aggregate(many.features, many.tested, many.outcome)
    print(f"{arguments.many:,} rows to {len(cells.counts)} cells {clock.read()[0]:.2f} s")
    frame = pd.DataFrame(many.features, columns=pd.Index(NAMES))
    clock = Clock()
    fitted = SelectiveLabelsModel().fit(
        frame, many.tested, many.outcome, prevalence=many.prevalence,
        prevalence_sd=PREVALENCE_SD, testing_features=["age50plus", "deprived"],
    )  # fmt: skip
    stages = ", ".join(f"{k} {v:.2f}" for k, v in fitted.diagnostics_.seconds.items())
    print(f"whole fit with checks  {clock.read()[0]:8.2f} s   ({stages})")
    clock = Clock()
    fitted.predict_proba(frame, "untested")
    print(f"risk of every patient  {clock.read()[0]:8.2f} s")
    for shift in (1.5, 6.0):
        clock = Clock()
        other = fitted.reweight(many.prevalence + shift * PREVALENCE_SD, PREVALENCE_SD)
        print(f"prevalence {shift} sd away  {clock.read()[0]:8.3f} s   "
              f"({other.diagnostics_.source}, ESS "
              f"{other.diagnostics_.importance_ess:,.0f})")  # fmt: skip


if __name__ == "__main__":
    main()
