"""The scan beside plink2 and PheTK, each run as its own program.

    OMP_NUM_THREADS=1 python benchmarks/peers.py [--plink2 PATH] [--phetk-python PATH]

Neither is imported: both are GPL, and PheTK pins an older numpy. A peer that is not found
is left out, and a line says where it comes from; PLINK2 and PHETK_PYTHON name them too.

20,000 patients, 64 exposures, 200 phecodes and 12 covariates (`scan_data.py`, seed 7). The
peers get the first of the exposures and phecodes, since their time a pair hardly depends on
how many there are: plink2 `--glm no-firth` on dosages, 20 phecodes x 16 exposures; PheTK's
`logit` on 40 phecodes x 1 exposure, all it takes in a run. A peer's time is the CPU time of
its process less that of the same command for one phecode, which takes start-up and input
off. Ours is `associate` as a whole, exact (`refine="all"`) and as a score scan
(`refine="none"`), on all pairs and on the peer's. All alternate, one thread; CPU time,
medians over the rounds, after a round that is not counted.

The estimates are compared too. A dosage holds steps of 1/16,384, so plink2 and we both get
exposures in such steps. PheTK prints standard errors with three decimals.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from scan_data import simulate_scan

from phenokit.cohort import CaseStatus, PhecodeStatus
from phenokit.evidence.associations import AssociationSettings, Exposures, associate
from phenokit.evidence.covariates import Covariates
from phenokit.readers.phecodes import read_phecode_map

DOSAGE_STEPS = 16_384
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "POLARS_MAX_THREADS": "1",
}
PLINK2_SIZE = (16, 21)
PHETK_SIZE = (1, 41)
"""Exposures and phecodes of the peers; one phecode more than is counted."""

WITHOUT_PLINK2 = """
plink2 not found: `apt-get install plink2` (Debian; the figures are of alpha 3.5, AVX2), or
https://www.cog-genomics.org/plink/2.0/; then --plink2 PATH"""
WITHOUT_PHETK = """
PheTK not found: `python -m venv phetk`, `phetk/bin/pip install PheTK==0.3.6 "pyarrow<22"`
(1.3 GB; newer pyarrow needs numpy 2, which PheTK refuses); then --phetk-python
phetk/bin/python"""

RUN_PHETK = """
import json, sys
from phetk.phewas import PheWAS
PheWAS(**json.loads(sys.argv[1])).run(parallelization="multithreading", n_workers=1)
"""

Run = Callable[[], object]


class Scan:
    """What is scanned, and our scan of a part of it."""

    def __init__(
        self, values: np.ndarray, covariates: np.ndarray, status: PhecodeStatus
    ) -> None:
        info = read_phecode_map("1.2").info
        info = info[info["sex_restriction"] == "Both"].iloc[: len(status)]
        self.info = info.reset_index(drop=True)
        self.values = values
        self.covariates = covariates
        self.status = PhecodeStatus(
            tuple(self.info["phecode"]),
            status.n_patients,
            status.case_rows,
            status.excluded_rows,
        )

    def part(self, n_exposures: int, n_phecodes: int) -> "Scan":
        """The first exposures and phecodes."""
        status = self.status.at_phecodes(range(min(n_phecodes, len(self.status))))
        return Scan(self.values[:, :n_exposures], self.covariates, status)

    def associate(self, refine: str) -> pd.DataFrame:
        """Our associations, with the pairs as index."""
        names = tuple(f"x{k}" for k in range(self.values.shape[1]))
        covariate_names = tuple(f"c{k}" for k in range(self.covariates.shape[1]))
        table = associate(
            Exposures(names, ("feature",) * len(names), self.values),
            self.status,
            Covariates(covariate_names, self.covariates),
            phecode_info=self.info,
            settings=AssociationSettings(refine=refine),
        )
        return table.set_index(["exposure", "phecode"])

    def covariate_table(self) -> pd.DataFrame:
        """Covariates of each patient, ids first."""
        names = [f"c{k}" for k in range(self.covariates.shape[1])]
        table = pd.DataFrame(self.covariates, columns=names)
        table.insert(0, "person_id", np.arange(1, len(table) + 1))
        return table.astype({"c0": int})


# --- the peers ----------------------------------------------------------------------------


class Plink2:
    """Exposures as dosages of variants, phecodes as phenotypes, excluded as missing."""

    def __init__(self, program: str, scan: Scan, folder: Path) -> None:
        self.program, self.folder = program, folder
        lowest, highest = scan.values.min(axis=0), scan.values.max(axis=0)
        steps = (scan.values - lowest) / (highest - lowest) * 2 * DOSAGE_STEPS
        self.scan = Scan(np.rint(steps) / DOSAGE_STEPS, scan.covariates, scan.status)
        self.n_pairs = scan.values.shape[1] * (len(scan.status) - 1)
        covariates = scan.covariate_table().rename(columns={"person_id": "#IID"})
        covariates.to_csv(folder / "covariates.txt", sep="\t", index=False)
        people = covariates[["#IID"]]
        people.assign(SEX="NA").to_csv(folder / "in.psam", sep="\t", index=False)
        phenotypes = {}
        for k in range(len(scan.status)):
            column = scan.status.column(k).astype(object)
            column[column == CaseStatus.EXCLUDED] = "NA"
            phenotypes[f"y{k}"] = column
        people.assign(**phenotypes).to_csv(folder / "phenotypes.txt", sep="\t", index=False)
        with (folder / "in.dosage").open("w") as file:
            for k, exposure in enumerate(self.scan.values.T):
                written = " ".join(f"{dosage:.14g}" for dosage in exposure)
                file.write(f"x{k} B A {written}\n")
        run_program(
            program, "--import-dosage", folder / "in.dosage", "noheader", "format=1",
            "ref-last", "single-chr=1", "--psam", folder / "in.psam", "--make-pgen",
            "--out", folder / "in", "--threads", 1,
        )  # fmt: skip

    def run(self, which: str) -> None:
        """Associations of the phenotypes of a range."""
        run_program(
            self.program, "--pfile", self.folder / "in", "--pheno",
            self.folder / "phenotypes.txt", "--pheno-name", which, "--1", "--covar",
            self.folder / "covariates.txt", "--glm", "no-firth", "hide-covar", "omit-ref",
            "cols=+beta,-orbeta", "--out", self.folder / "out", "--threads", 1,
        )  # fmt: skip

    def all_phecodes(self) -> None:
        """The whole."""
        self.run(f"y0-y{len(self.scan.status) - 1}")

    def one_phecode(self) -> None:
        """What start-up and input cost, and one phecode."""
        self.run("y0")

    def compare(self) -> str:
        """How far its estimates of the last run are from ours."""
        self.all_phecodes()
        ours = self.scan.associate("all")
        tables = []
        for k, phecode in enumerate(self.scan.status.phecodes):
            path = self.folder / f"out.y{k}.glm.logistic"
            table = pd.read_csv(path, sep="\t", dtype={"ID": str})
            assert (table["A1"] == "B").all()
            tables.append(table.assign(phecode=phecode))
        theirs = pd.concat(tables).set_index(["ID", "phecode"])
        theirs = theirs.reindex(ours.index)
        sd = self.scan.values.std(axis=0)
        scale = np.array([sd[int(name[1:])] for name, _ in ours.index])
        return difference(ours, theirs["BETA"] * scale, theirs["SE"] * scale)


class PheTK:
    """Phecodes as counts: 2 of a case, 1 of an excluded patient."""

    def __init__(self, python: str, scan: Scan, folder: Path) -> None:
        self.python, self.scan, self.folder = python, scan, folder
        self.n_pairs = len(scan.status) - 1
        cohort = scan.covariate_table()
        standardised = scan.values[:, 0] / scan.values[:, 0].std()
        cohort.assign(x0=standardised).to_csv(folder / "cohort.csv", index=False)
        counts = []
        for k, phecode in enumerate(scan.status.phecodes):
            for count, rows in (
                (2, scan.status.case_rows[k]),
                (1, scan.status.excluded_rows[k]),
            ):
                columns = {"person_id": rows + 1, "phecode": phecode, "count": count}
                counts.append(pd.DataFrame(columns))
        pd.concat(counts).to_csv(folder / "counts.csv", index=False)

    def run(self, phecodes: tuple[str, ...]) -> None:
        """Associations of some phecodes."""
        arguments = {
            "phecode_version": "1.2",
            "phecode_count_file_path": str(self.folder / "counts.csv"),
            "cohort_file_path": str(self.folder / "cohort.csv"),
            "covariate_cols": [f"c{k}" for k in range(self.scan.covariates.shape[1])],
            "independent_variable_of_interest": "x0",
            "sex_at_birth_col": "c0",
            "phecode_to_process": phecodes,
            "min_cases": 20,
            "method": "logit",
            "output_file_path": str(self.folder / "phetk.tsv"),
        }
        run_program(self.python, "-c", RUN_PHETK, json.dumps(arguments))

    def all_phecodes(self) -> None:
        """The whole."""
        self.run(self.scan.status.phecodes)

    def one_phecode(self) -> None:
        """What start-up and input cost, and one phecode."""
        self.run(self.scan.status.phecodes[:1])

    def compare(self) -> str:
        """How far its estimates are from ours."""
        self.all_phecodes()
        ours = self.scan.associate("all").loc["x0"]
        theirs = pd.read_csv(self.folder / "phetk.tsv", sep="\t", dtype={"phecode": str})
        theirs = theirs.set_index("phecode").reindex(ours.index)
        return difference(ours, theirs["beta"], theirs["standard_error"])


def run_program(*command: object) -> None:
    """Run to its end; its output is shown if it fails."""
    done = subprocess.run(
        [str(word) for word in command],
        env=os.environ | ONE_THREAD,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        sys.exit(f"{command[0]} failed:\n{done.stdout}\n{done.stderr}")


def difference(ours: pd.DataFrame, beta: pd.Series, standard_error: pd.Series) -> str:
    """The largest differences, in numbers that a pair has in both."""
    both = beta.notna() & ours["beta"].notna()
    assert both.all(), f"{(~both).sum()} pairs without estimate"
    of_beta = (ours["beta"] - beta).abs().max()
    of_error = (ours["standard_error"] - standard_error).abs().max()
    return (
        f"largest difference from ours in {len(beta)} pairs: beta {of_beta:.1e}, "
        f"standard error {of_error:.1e} (median {ours['standard_error'].median():.3f})"
    )


# --- timing -------------------------------------------------------------------------------


def cpu_seconds(run: Run) -> float:
    """CPU time of one run, that of programs it started included."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.process_time()
    run()
    own = time.process_time() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return own + after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def report(name: str, times: np.ndarray) -> None:
    """A line: median and range over the rounds, in ms a pair."""
    low, high = times.min() * 1e3, times.max() * 1e3
    print(f"{name:38}{np.median(times) * 1e3:9.4f} ms a pair ({low:.4f} to {high:.4f})")


def main() -> None:
    """Time ours and the peers that are there, in turns, and compare estimates."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plink2", default=os.environ.get("PLINK2", "plink2"))
    parser.add_argument("--phetk-python", default=os.environ.get("PHETK_PYTHON", ""))
    parser.add_argument("--patients", type=int, default=20_000)
    parser.add_argument("--exposures", type=int, default=64)
    parser.add_argument("--phecodes", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    scan = Scan(
        *simulate_scan(
            arguments.patients, arguments.exposures, arguments.phecodes, 12, seed=7
        )
    )
    with tempfile.TemporaryDirectory() as folder:
        peers: dict[str, Plink2 | PheTK] = {}
        if shutil.which(arguments.plink2):
            part = scan.part(*PLINK2_SIZE)
            peers["plink2"] = Plink2(arguments.plink2, part, Path(folder))
        else:
            print(WITHOUT_PLINK2.strip())
        if shutil.which(arguments.phetk_python):
            part = scan.part(*PHETK_SIZE)
            peers["PheTK"] = PheTK(arguments.phetk_python, part, Path(folder))
        else:
            print(WITHOUT_PHETK.strip())
        for name, peer in peers.items():
            print(f"{name}: {peer.compare()}")
        compare_times(scan, peers, arguments.rounds)


def compare_times(scan: Scan, peers: dict[str, Plink2 | PheTK], n_rounds: int) -> None:
    """All in turns, and how many times a peer takes as long as ours."""
    n_exposures, n_phecodes = scan.values.shape[1], len(scan.status)
    n_pairs = n_exposures * n_phecodes
    runs: dict[str, tuple[Run, int]] = {
        "ours, score scan": (lambda: scan.associate("none"), n_pairs),
        "ours, exact": (lambda: scan.associate("all"), n_pairs),
    }
    for name, peer in peers.items():
        part = peer.scan
        pairs = part.values.shape[1] * len(part.status)
        runs |= {
            f"ours, exact, {name}'s pairs": (
                lambda part=part: part.associate("all"),
                pairs,
            ),
            name: (peer.all_phecodes, peer.n_pairs),
            f"{name}, one phecode": (peer.one_phecode, peer.n_pairs),
        }
    measured: dict[str, list[float]] = {name: [] for name in runs}
    for r in range(n_rounds + 1):  # the first is not counted
        for name, (run, count) in runs.items():
            seconds = cpu_seconds(run)
            if r > 0:
                measured[name].append(seconds / count)
    times = {name: np.array(each) for name, each in measured.items()}
    for name in peers:
        times[name] -= times.pop(f"{name}, one phecode")
    print(
        f"{scan.status.n_patients} patients, {n_exposures} exposures, {n_phecodes} "
        f"phecodes, 12 covariates, {n_rounds} rounds, CPU time, seed 7"
    )
    for name, each in times.items():
        report(name, each)
    for peer in peers:
        for name in ("ours, score scan", "ours, exact", f"ours, exact, {peer}'s pairs"):
            ratios = times[peer] / times[name]
            print(
                f"{peer} / {name:34}{np.median(ratios):8.1f} "
                f"(rounds: {ratios.min():.1f} to {ratios.max():.1f})"
            )


if __name__ == "__main__":
    main()
