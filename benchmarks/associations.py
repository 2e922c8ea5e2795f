"""The association scan against statsmodels, and against the bare matrix product.

    OMP_NUM_THREADS=1 python benchmarks/associations.py [--patients N] [--rounds N]
    OMP_NUM_THREADS=1 python benchmarks/associations.py --slice

20,000 patients, 64 exposures, 200 phecodes (prevalence 0.5 to 10 %, 5 % of the patients
excluded for each, a tenth of the pairs with an effect), 12 covariates and the intercept,
seed 7. All alternate in one process; CPU time a pair, medians over the rounds, after a
round that is not counted:

- `statsmodels` Logit, tolerance 1e-10, on 8 random pairs (seed 1);
- the bare float64 matrix products that a score test needs, 2 N (K + 2) flops a pair;
- the score scan: null models, residuals, weights, products, z;
- exact maximum likelihood of every pair, on top of the score scan;
- the default: `associate` with fits where p < 0.05, AUCs with intervals, corrections.

Before that, z, coefficient and standard error of 40 random pairs are held against
statsmodels. ``--slice`` measures one block of phecodes of a cohort of 150,000 patients and
300 exposures, and states time and memory for 1,800 phecodes.
"""

import argparse
import resource
import time
import tracemalloc
from collections.abc import Callable

import numpy as np
import pandas as pd
from scan_data import simulate_scan
from statsmodels.api import GLM, Logit, families

from phenokit.cohort import CaseStatus, PhecodeStatus
from phenokit.evidence.associations import AssociationSettings, Exposures, associate
from phenokit.evidence.covariates import Covariates
from phenokit.evidence.logistic import StatusBlock, design_of, fit_exposures, fit_null
from phenokit.evidence.score_test import score_test, standardise

N_COVARIATES = 12
SEED = 7
EVERYTHING = slice(0, None)


class Scan:
    """The scan of the benchmark, step by step."""

    def __init__(self, n: int, n_exposures: int, n_phecodes: int) -> None:
        values, covariates, status = simulate_scan(
            n, n_exposures, n_phecodes, N_COVARIATES, SEED
        )
        self.values, self.covariates, self.status = values, covariates, status
        self.names = tuple(f"c{k}" for k in range(N_COVARIATES))
        self.n_pairs = n_exposures * n_phecodes

    def score(self) -> tuple:
        """Null models and score tests of all pairs, from the raw arrays."""
        design = design_of(self.names, self.covariates)
        exposures = standardise(self.values, np.arange(len(self.values)))
        block = StatusBlock(self.status)
        null = fit_null(design, block)
        return design, exposures, block, null, score_test(design, exposures, block, null)

    def exact(self) -> tuple:
        """Maximum likelihood of all pairs, score scan included."""
        design, exposures, block, null, scores = self.score()
        chosen = np.arange(self.values.shape[1])
        standardised = exposures.block(EVERYTHING)
        fits = [
            fit_exposures(
                design,
                standardised,
                case_rows=block.case_rows[j],
                excluded_rows=block.excluded_rows[j],
                start=scores.start(null, j, chosen),
            )
            for j in range(block.n_phecodes)
        ]
        return scores, fits

    def default(self) -> pd.DataFrame:
        """All that `associate` does by default."""
        return associate(
            Exposures(
                tuple(f"x{k}" for k in range(self.values.shape[1])),
                ("feature",) * self.values.shape[1],
                self.values,
            ),
            self.status,
            Covariates(self.names, self.covariates),
            phecode_info=info_of(self.status),
            settings=AssociationSettings(),
        )

    def pair(self, exposure: int, phecode: int) -> tuple[np.ndarray, np.ndarray]:
        """Design (exposure last, standardised) and outcome of one pair."""
        column = self.status.column(phecode)
        kept = column != CaseStatus.EXCLUDED
        x = self.values[:, exposure]
        x = (x - x.mean()) / x.std()
        design = np.column_stack([np.ones(len(x)), self.covariates, x])
        return design[kept], (column[kept] == CaseStatus.CASE).astype(float)


def info_of(status: PhecodeStatus) -> pd.DataFrame:
    """Phecodes without a name."""
    empty = [""] * len(status)
    return pd.DataFrame(
        {
            "phecode": status.phecodes,
            "phecode_string": empty,
            "phecode_category": empty,
            "sex_restriction": ["Both"] * len(status),
        }
    )


def cpu_seconds(run: Callable[[], object]) -> float:
    """CPU time of one run."""
    start = time.process_time()
    run()
    return time.process_time() - start


def check(scan: Scan, rng: np.random.Generator) -> None:
    """Hold 40 random pairs against statsmodels."""
    scores, fits = scan.exact()
    worst = {"z": 0.0, "coefficient": 0.0, "standard error": 0.0}
    for _ in range(40):
        f, p = int(rng.integers(scan.values.shape[1])), int(rng.integers(len(scan.status)))
        design, y = scan.pair(f, p)
        fit = Logit(y, design).fit(disp=0, tol=1e-12, maxiter=100)
        null = GLM(y, design[:, :-1], family=families.Binomial()).fit(
            tol=1e-13, maxiter=100
        )
        chi2 = null.model.score_test(null.params, exog_extra=design[:, -1:])[0].item()
        found = {
            "z": scores.z[f, p] ** 2 / chi2 - 1,
            "coefficient": fits[p].log_odds_ratio[f] / fit.params[-1] - 1,
            "standard error": fits[p].standard_error[f] / fit.bse[-1] - 1,
        }
        worst = {name: max(worst[name], abs(found[name])) for name in worst}
    for name, error in worst.items():
        print(f"largest relative difference of 40 pairs, {name:15} {error:.1e}")
    assert max(worst["z"], worst["coefficient"]) < 1e-9
    assert worst["standard error"] < 1e-6


def compare(n: int, n_exposures: int, n_phecodes: int, n_rounds: int) -> None:
    """Time all in turns and print the ratios."""
    scan = Scan(n, n_exposures, n_phecodes)
    check(scan, np.random.default_rng(2))
    rng = np.random.default_rng(1)
    pairs = [
        scan.pair(int(rng.integers(n_exposures)), int(rng.integers(n_phecodes)))
        for _ in range(8)
    ]
    left = rng.normal(size=(n, n_exposures))
    right = rng.normal(size=(n, n_phecodes * (N_COVARIATES + 3)))
    table = scan.default()
    share = np.mean(table["method"] != "score")
    runs: dict[str, tuple[Callable[[], object], int]] = {
        "statsmodels Logit": (
            lambda: [Logit(y, x).fit(disp=0, tol=1e-10) for x, y in pairs],
            len(pairs),
        ),
        "bare float64 product": (lambda: left.T @ right, scan.n_pairs),
        "score scan": (scan.score, scan.n_pairs),
        "exact, every pair": (scan.exact, scan.n_pairs),
        "associate, default": (scan.default, scan.n_pairs),
    }
    times: dict[str, list[float]] = {name: [] for name in runs}
    for counted in range(n_rounds + 1):
        for name, (run, count) in runs.items():
            seconds = cpu_seconds(run) / count * 1e6
            if counted:
                times[name].append(seconds)
    print(
        f"\n{n:,} patients, {n_exposures} exposures, {n_phecodes} phecodes, "
        f"{N_COVARIATES} covariates, seed {SEED}; {n_rounds} rounds, CPU time"
    )
    peer, bound = (
        np.array(times[k]) for k in ("statsmodels Logit", "bare float64 product")
    )
    for name, each in times.items():
        own = np.array(each)
        print(
            f"{name:22} {np.median(own):10.1f} us a pair   "
            f"{np.median(peer / own):8.1f}x statsmodels "
            f"({np.min(peer / own):.1f} to {np.max(peer / own):.1f})   "
            f"{np.median(own / bound):6.2f}x the bare product"
        )
    print(f"associate, default: {100 * share:.1f} % of the pairs were fitted")


def measure_slice(n: int, n_exposures: int, n_phecodes: int, of: int) -> None:
    """One block of phecodes of a large cohort; time and memory for all of them."""
    scan = Scan(n, n_exposures, n_phecodes)
    scan.values = scan.values.astype(np.float32)
    inputs = scan.values.nbytes + scan.covariates.nbytes
    inputs += sum(r.nbytes for r in (*scan.status.case_rows, *scan.status.excluded_rows))
    left = np.random.default_rng(1).normal(size=(n, n_exposures))
    right = np.random.default_rng(2).normal(size=(n, 200))
    bound = cpu_seconds(lambda: left.T @ right) / 200 * n_phecodes * (N_COVARIATES + 3)
    del left, right
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tracemalloc.start()
    score_memory = cpu_seconds(scan.score)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    score = min(score_memory, cpu_seconds(scan.score))
    default = cpu_seconds(scan.default)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    whole = of / n_phecodes
    print(f"{n:,} patients, {n_exposures} exposures, {n_phecodes} of {of:,} phecodes")
    print(f"inputs                       {inputs / 2**20:8.0f} MiB for this slice")
    print(f"score scan, on top of inputs {peak / 2**20:8.0f} MiB (traced)")
    print(f"peak of the process          {after / 2**10:8.0f} MiB")
    print(f"before the scan              {before / 2**10:8.0f} MiB")
    for name, seconds in (
        ("bare float64 product", bound),
        ("score scan", score),
        ("associate, default", default),
    ):
        print(
            f"{name:22} {seconds:8.1f} s CPU; {seconds * whole:8.0f} s for {of:,} phecodes "
            f"({seconds / bound:.2f}x the bare product)"
        )


def main() -> None:
    """Parse the arguments and run one of the two."""
    parser = argparse.ArgumentParser(description="Time the association scan")
    parser.add_argument("--patients", type=int, default=20_000)
    parser.add_argument("--exposures", type=int, default=64)
    parser.add_argument("--phecodes", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--slice", action="store_true")
    arguments = parser.parse_args()
    if arguments.slice:
        measure_slice(150_000, 300, 64, 1800)
    else:
        compare(
            arguments.patients, arguments.exposures, arguments.phecodes, arguments.rounds
        )


if __name__ == "__main__":
    main()
