"""AUC of every exposure for every phecode, each with its own excluded patients.

    OMP_NUM_THREADS=1 python benchmarks/auc.py [--patients N] [--phecodes P] [--rounds N]

20,000 patients, 64 exposures, 200 phecodes with a prevalence of 0.5 to 10 % and 5 % of the
patients excluded, drawn anew for each phecode (seed 7); a tenth of the exposures is higher
in cases, an eighth has ties (rounded to 0.1, or 0 and 1). Peer: scikit-learn's
`roc_auc_score` on the patients that are not excluded, on a random subset of pairs (seed 1)
whose values must agree to 1e-12. Both alternate in one process; CPU time, medians over the
rounds, after a round that is not counted. Beside them the bare sort of the exposures, and
DeLong intervals of all pairs and of all exposures for one phecode.
"""

import argparse
import resource
import time
from collections.abc import Callable

import numpy as np
from sklearn.metrics import roc_auc_score

from phenokit.cohort import CaseStatus, PhecodeStatus
from phenokit.evidence.auc import auc_all_pairs, delong, delong_all_pairs

N_EXPOSURES = 64


def simulate(
    n_patients: int, n_phecodes: int, rng: np.random.Generator
) -> tuple[np.ndarray, PhecodeStatus]:
    """Exposures and case status of a cohort."""
    values = rng.normal(size=(n_patients, N_EXPOSURES))
    cases, excluded = [], []
    for p, prevalence in enumerate(rng.uniform(0.005, 0.1, size=n_phecodes)):
        raised = values[:, p % N_EXPOSURES] if p % 10 == 0 else 0
        chance = prevalence * np.exp(0.5 * raised - 0.125 * (p % 10 == 0))
        is_case = rng.random(n_patients) < chance
        is_excluded = (rng.random(n_patients) < 0.05) & ~is_case
        cases.append(np.flatnonzero(is_case).astype(np.int32))
        excluded.append(np.flatnonzero(is_excluded).astype(np.int32))
    values[:, ::16] = values[:, ::16].round(1)
    values[:, 8::16] = values[:, 8::16] > 1
    phecodes = tuple(str(p) for p in range(n_phecodes))
    return values, PhecodeStatus(phecodes, n_patients, tuple(cases), tuple(excluded))


def cpu_seconds(run: Callable[[], object]) -> float:
    """CPU time of one run."""
    start = time.process_time()
    run()
    return time.process_time() - start


def main() -> None:
    """Time the two, compare their values and print a line each."""
    parser = argparse.ArgumentParser(description="Time the AUC of all pairs")
    parser.add_argument("--patients", type=int, default=20_000)
    parser.add_argument("--phecodes", type=int, default=200)
    parser.add_argument("--pairs", type=int, default=40, help="pairs of scikit-learn")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    values, status = simulate(
        arguments.patients, arguments.phecodes, np.random.default_rng(7)
    )
    n_pairs = N_EXPOSURES * len(status)
    pick = np.random.default_rng(1).choice(n_pairs, size=arguments.pairs, replace=False)
    pairs = [(int(k) % N_EXPOSURES, int(k) // N_EXPOSURES) for k in pick]
    columns = {p: status.column(p) for _, p in pairs}

    def peer() -> list[float]:
        aucs = []
        for f, p in pairs:
            kept = columns[p] != CaseStatus.EXCLUDED
            is_case = columns[p][kept] == CaseStatus.CASE
            aucs.append(roc_auc_score(is_case, values[kept, f]))
        return aucs

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ours = auc_all_pairs(values, status)
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    error = max(abs(ours[f, p] - a) for (f, p), a in zip(pairs, peer(), strict=True))
    assert error < 1e-12

    column = status.column(0)
    runs = {
        "ours": (lambda: auc_all_pairs(values, status), n_pairs),
        "scikit-learn": (peer, len(pairs)),
        "bare sort": (lambda: np.sort(values.T.copy(), axis=1), n_pairs),
        "DeLong, all pairs": (lambda: delong_all_pairs(values, status), n_pairs),
        "DeLong, one phecode": (lambda: delong(values, column), N_EXPOSURES),
    }
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(arguments.rounds):
        for name, (run, count) in runs.items():
            times[name].append(cpu_seconds(run) / count * 1e6)
    median = {name: float(np.median(each)) for name, each in times.items()}
    ratios = np.array(times["scikit-learn"]) / np.array(times["ours"])
    print(
        f"{arguments.patients} patients, {N_EXPOSURES} exposures, {len(status)} phecodes, "
        f"{arguments.rounds} rounds, CPU time, seed 7"
    )
    print(f"ours, all pairs        {median['ours']:10.1f} us a pair")
    print(f"scikit-learn           {median['scikit-learn']:10.1f} us a pair")
    print(
        f"ratio                  {np.median(ratios):10.0f}    "
        f"(rounds: {ratios.min():.0f} to {ratios.max():.0f})"
    )
    print(f"bare sort of the exposures {median['bare sort']:6.1f} us a pair")
    print(f"with DeLong, all pairs {median['DeLong, all pairs']:10.1f} us a pair")
    print(f"DeLong, one phecode    {median['DeLong, one phecode']:10.1f} us a pair")
    print(f"largest difference     {error:10.1e}")
    print(f"memory on top          {used / 1024:10.0f} MiB")


if __name__ == "__main__":
    main()
