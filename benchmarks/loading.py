"""Reading a WFDB record: ours, wfdb.rdrecord, and the bound, alternating in one process.

    python benchmarks/loading.py [--records N] [--rounds N]

The records are PTB-XL's at 100 Hz where PHENOKIT_DATA names a folder that holds them, else
generated ones of the same shape (12 x 1000, format 16). The bound reads the signal file
with np.fromfile and scales it by a gain that is known beforehand: no header, no check.
Every round reads all records with each reader; the median of the rounds is printed, CPU
time. Before timing, every sample of ours is compared with the peer's, bit by bit.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import wfdb

from phenokit.readers.ecg import read_ecg
from phenokit.readers.wfdb import read_wfdb
from phenokit.recording import LEADS


def write_records(folder: Path, n_records: int) -> list[Path]:
    """Random records of the shape of PTB-XL's."""
    rng = np.random.default_rng(7)
    for number in range(n_records):
        wfdb.wrsamp(
            f"r{number:05d}", fs=100, units=["mV"] * 12, sig_name=list(LEADS),
            d_signal=rng.integers(-2000, 2000, size=(1000, 12)), fmt=["16"] * 12,
            adc_gain=[1000.0] * 12, baseline=[0] * 12, write_dir=str(folder),
        )  # fmt: skip
    return sorted(folder.glob("*.hea"))


def read_bound(path: Path) -> np.ndarray:
    """The samples of a record of known shape and gain."""
    return np.fromfile(path.with_suffix(".dat"), "<i2").reshape(-1, 12).T / 1000.0


def microseconds(read: Callable[[Path], object], paths: list[Path]) -> float:
    """CPU time a record."""
    start = time.process_time()
    for path in paths:
        read(path)
    return (time.process_time() - start) / len(paths) * 1e6


def main() -> None:
    """Compare the readers and print one line each."""
    parser = argparse.ArgumentParser(description="Time the WFDB reader")
    parser.add_argument("--records", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    data = Path(os.environ.get("PHENOKIT_DATA", "")) / "ptbxl-500-raw" / "records100"
    with tempfile.TemporaryDirectory() as folder:
        if "PHENOKIT_DATA" in os.environ and data.is_dir():
            paths, source = sorted(data.rglob("*.hea"))[: arguments.records], "PTB-XL"
        else:
            paths, source = write_records(Path(folder), arguments.records), "generated"
        for path in paths:
            theirs, _ = wfdb.rdsamp(str(path.with_suffix("")))
            same = np.array_equal(read_wfdb(path).signal, np.asarray(theirs).T)
            assert same, path.name
        readers: dict[str, Callable[[Path], object]] = {
            "ours": lambda path: read_wfdb(path, with_sha256=False),
            "ours with SHA-256 (read_ecg)": read_ecg,
            "wfdb.rdrecord": lambda path: wfdb.rdrecord(str(path.with_suffix(""))),
            "bound (fromfile, scale)": read_bound,
        }
        rounds: dict[str, list[float]] = {name: [] for name in readers}
        for number in range(arguments.rounds + 1):
            for name, read in readers.items():
                used = microseconds(read, paths)
                if number > 0:  # the first round warms up
                    rounds[name].append(used)
    peer = rounds["wfdb.rdrecord"]
    print(
        f"{len(paths)} records ({source}), {arguments.rounds} rounds, all samples bit-equal"
    )
    for name, times in rounds.items():
        ratio = statistics.median(p / t for p, t in zip(peer, times, strict=True))
        median = statistics.median(times)
        print(f"{name:30} {median:9.1f} us a record   {ratio:6.1f}x rdrecord")


if __name__ == "__main__":
    main()
