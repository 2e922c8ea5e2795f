"""Diagnosis rows to case status: reading, and beside a pandas merge and groupby.

    OMP_NUM_THREADS=1 python benchmarks/phecodes.py [--rows N] [--patients N] [--slice N]

Simulated rows of real ICD codes (both versions, skewed to the common ones, dates over ten
years) are written as CSV and Parquet, read, and turned into case status for each phecode of
1.2 (two codes on distinct dates, exclusion ranges, sex). The budget is 5 million rows of
150,000 patients within a minute on two cores. Peer: the same pairs by pandas
(merge, drop_duplicates, groupby) on the first rows, as a PheWAS script would do it.
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from phenokit.readers.diagnoses import Diagnoses, read_diagnoses
from phenokit.readers.phecodes import CaseRule, PhecodeMap, case_status, read_phecode_map


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--patients", type=int, default=150_000)
    parser.add_argument("--slice", type=int, default=500_000)
    arguments = parser.parse_args()
    phecode_map = read_phecode_map("1.2")
    rng = np.random.default_rng(11)
    persons = np.array([f"p{i:07d}" for i in range(arguments.patients)], dtype=object)
    sex = rng.choice(["Female", "Male"], arguments.patients).tolist()
    with tempfile.TemporaryDirectory() as folder:
        csv, parquet = Path(folder) / "d.csv", Path(folder) / "d.parquet"
        table = simulate(arguments.rows, persons, phecode_map, rng)
        pa_csv.write_csv(table, csv)
        pq.write_table(table, parquet)
        del table
        for path in (csv, parquet):
            start = time.perf_counter()
            diagnoses = read_diagnoses(path)
            seconds = time.perf_counter() - start
            size = path.stat().st_size / 1e6
            print(f"read {path.suffix:9} {size:6.0f} MB {seconds:6.2f} s")
    reading = seconds
    print(f"peak memory after reading {peak():.2f} GB")
    for rule in (CaseRule(1), CaseRule(2)):
        start = time.perf_counter()
        found = case_status(diagnoses, persons.tolist(), sex, phecode_map, cases=rule)
        seconds = time.perf_counter() - start
        rate = len(diagnoses) / seconds / 1e6
        print(
            f"case status, {rule.minimum_codes} codes {seconds:6.2f} s {rate:.2f} M rows/s"
        )
    kept = sum(rows.nbytes for rows in found.status.case_rows)
    kept += sum({id(r): r.nbytes for r in found.status.excluded_rows}.values())
    print(f"total from Parquet {reading + seconds:.2f} s, peak memory {peak():.2f} GB,")
    print(f"of it the status {kept / 1e9:.2f} GB")
    beside_pandas(diagnoses, arguments.slice, persons.tolist(), sex, phecode_map)


def simulate(
    n_rows: int, persons: np.ndarray, phecode_map: PhecodeMap, rng: np.random.Generator
) -> pa.Table:
    """Rows whose codes follow Zipf's law (the first of them 0.7 %, as in a hospital)."""
    icd = phecode_map.icd.select(["icd_code", "icd_version"]).to_pandas().drop_duplicates()
    icd = icd[~icd["icd_code"].str.contains("-")].sample(frac=1.0, random_state=5)
    weight = np.cumsum(1 / (np.arange(len(icd)) + 20.0))
    code = np.searchsorted(weight, rng.uniform(0, weight[-1], n_rows))
    person = (len(persons) * rng.beta(0.8, 1.2, n_rows)).astype(int)
    day = np.datetime64("2010-01-01") + rng.integers(0, 3650, n_rows)
    return pa.table(
        {
            "person_id": pa.array(persons[person]),
            "date": pa.array(day.astype("datetime64[D]")),
            "icd_code": pa.array(icd["icd_code"].to_numpy()[code]),
            "icd_version": pa.array(icd["icd_version"].to_numpy()[code]),
        }
    )


def beside_pandas(
    diagnoses: Diagnoses,
    n_rows: int,
    persons: list[str],
    sex: list[str],
    phecode_map: PhecodeMap,
) -> None:
    """The same question on the first rows, by merge and groupby, and who answers faster."""
    part = Diagnoses(diagnoses.table.slice(0, n_rows))
    start = time.perf_counter()
    ours = case_status(part, persons, sex, phecode_map, cases=CaseRule(2))
    our_seconds = time.perf_counter() - start
    rows = part.table.to_pandas().astype({"icd_code": str, "icd_version": str})
    icd = phecode_map.icd.to_pandas()
    start = time.perf_counter()
    theirs = pandas_cases(rows, icd, phecode_map, persons, np.array(sex))
    their_seconds = time.perf_counter() - start
    counts = ours.counts.set_index("phecode")
    assert counts["cases"].to_dict() == {p: n[0] for p, n in theirs.items()}
    assert counts["controls"].to_dict() == {p: n[1] for p, n in theirs.items()}
    print(
        f"{len(rows)} rows: pandas {their_seconds:.2f} s, ours {our_seconds:.2f} s, "
        f"ratio {their_seconds / our_seconds:.1f}; the same cases and controls"
    )


def pandas_cases(
    rows: pd.DataFrame,
    icd: pd.DataFrame,
    phecode_map: PhecodeMap,
    persons: list[str],
    sex: np.ndarray,
) -> dict[str, tuple[int, int]]:
    """Number of cases and controls of every phecode."""
    merged = rows.merge(icd, on=["icd_code", "icd_version"])
    days = merged[["person_id", "phecode", "date"]].drop_duplicates()
    counts = days.groupby(["person_id", "phecode"], observed=True).size().reset_index()
    place = pd.Series(np.arange(len(persons)), index=persons)
    counts["row"] = place.loc[counts["person_id"].astype(str)].to_numpy()
    having = {
        phecode: (group["row"].to_numpy(), group[0].to_numpy())
        for phecode, group in counts.groupby("phecode")
    }
    none = (np.array([], dtype=int), np.array([], dtype=int))
    found = {}
    for phecode, restriction in phecode_map.info[["phecode", "sex_restriction"]].itertuples(
        index=False
    ):
        row, n = having.get(phecode, none)
        is_case = np.zeros(len(persons), dtype=bool)
        is_case[row[n >= 2]] = True
        is_out = np.zeros(len(persons), dtype=bool)
        is_out[row] = True
        for other in phecode_map.exclusions.get(phecode, ()):
            is_out[having.get(other, none)[0]] = True
        allowed = (sex == restriction) | (restriction == "Both")
        is_case &= allowed
        found[phecode] = (int(is_case.sum()), int((allowed & ~is_out & ~is_case).sum()))
    return found


def peak() -> float:
    """Peak memory of the process so far, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


if __name__ == "__main__":
    main()
