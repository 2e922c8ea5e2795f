"""Reading 10 s ECGs from a packed archive: beside wfdb, and beside a raw copy.

    OMP_NUM_THREADS=1 python benchmarks/packed.py [--records N] [--rounds N]

Peer: `wfdb.rdrecord`, one record at a time, of the same recordings as WFDB files (12 leads,
100 Hz, format 16). Bound: a copy of the archive's int16 into memory and of as many float32
from memory to memory, the bytes that any reader has to move. Both are written to a
temporary folder first and are in the page cache. CPU time, median over the rounds.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import wfdb

from phenokit.readers.packed import REQUIRED_COLUMNS, open_archive, write_archive
from phenokit.recording import LEADS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    rng = np.random.default_rng(7)
    steps = rng.integers(-2000, 2000, (arguments.records, 12, 1000), dtype=np.int16)
    with tempfile.TemporaryDirectory() as folder:
        paths = write_both(Path(folder), steps)
        measure(Path(folder) / "packed", paths, rounds=arguments.rounds)


def write_both(folder: Path, steps: np.ndarray) -> list[str]:
    """The archive, and the WFDB records (their paths without ending)."""
    table = pd.DataFrame(dict.fromkeys(REQUIRED_COLUMNS), index=range(len(steps)))
    write_archive(
        folder / "packed",
        signals=[steps],
        table=table.assign(record_id=[str(i) for i in range(len(steps))], dataset="made"),
        label_codes=(),
        labels=np.empty((len(steps), 0), dtype=np.float32),
        scale=0.001,
        unit="mV",
        contract_id="raw",
        sampling_rate=100.0,
        dataset="made",
    )
    for i, record in enumerate(steps):
        wfdb.wrsamp(
            str(i),
            fs=100,
            units=["mV"] * 12,
            sig_name=list(LEADS),
            d_signal=record.T,
            fmt=["16"] * 12,
            adc_gain=[1000.0] * 12,
            baseline=[0] * 12,
            write_dir=str(folder),
        )
    return [str(folder / str(i)) for i in range(len(steps))]


def measure(folder: Path, paths: list[str], *, rounds: int) -> None:
    archive = open_archive(folder)
    n_records = len(archive)
    target16 = np.empty((12, 1000), dtype=np.int16)
    source32 = np.ones((12, 1000), dtype=np.float32)

    def copy() -> None:
        for i in range(n_records):
            np.copyto(target16, archive.signal[i])
            source32.copy()

    def read_wfdb() -> None:
        for path in paths:
            wfdb.rdrecord(path)

    def read_blocks(size: int) -> None:
        for start in range(0, n_records, size):
            archive.block(slice(start, start + size))

    variants: dict[str, Callable[[], object]] = {
        "wfdb.rdrecord": read_wfdb,
        "archive, record by record": lambda: read_blocks(1),
        "archive, blocks of 32": lambda: read_blocks(32),
        "raw copy (bound)": copy,
    }
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for round_number in range(rounds + 1):
        for name, run in variants.items():
            start = time.process_time()
            run()
            if round_number:  # the first round warms up
                seconds[name].append(time.process_time() - start)
    median = {name: float(np.median(values)) for name, values in seconds.items()}
    peer, bound = median["wfdb.rdrecord"], median["raw copy (bound)"]
    print(f"{n_records} records of 12 x 1000, {rounds} rounds, CPU time")
    for name, value in median.items():
        micro = value / n_records * 1e6
        print(f"{name:28} {micro:9.1f} us/record {peer / value:7.1f}x {value / bound:6.2f}")
    expected = np.stack([wfdb.rdrecord(path).p_signal.T for path in paths[:32]])
    error = np.abs(archive.block(slice(0, 32)) - expected).max()
    print(f"max abs difference to wfdb {error:.1e} mV (float32)")


if __name__ == "__main__":
    main()
