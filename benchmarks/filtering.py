"""The zero-phase band-pass of a 10 s ECG: ours beside scipy's, and beside a bare product.

    OMP_NUM_THREADS=1 python benchmarks/filtering.py [--records N] [--rounds N]

Peer: `scipy.signal.sosfiltfilt` called for one lead after the other, as preprocessing
loops do. Bound: the filter as one float32 matrix product, (12, 1000) @ (1000, 1000), on
signals that are already float32; ours goes below it because it keeps that matrix in thin
factors. All variants alternate in one process, one record at a
time except where said; CPU time, median over the rounds.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
from scipy.signal import butter, sosfiltfilt

from phenokit.preprocessing.filters import filter_signal, filter_window

BAND = {"sampling_rate": 100.0, "low": 0.5, "high": 40.0, "order": 4}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    rng = np.random.default_rng(7)
    signals = rng.normal(0.0, 0.1, (arguments.records, 12, 1000)).cumsum(axis=-1)
    single = signals.astype(np.float32)
    sections = butter(4, [0.5, 40.0], "bandpass", fs=100.0, output="sos")
    operator = filter_signal(np.eye(1000), **BAND).astype(np.float32)

    def loop() -> list:
        return [np.stack([sosfiltfilt(sections, lead) for lead in s]) for s in signals]

    variants: dict[str, Callable[[], object]] = {
        "sosfiltfilt, lead by lead": loop,
        "sosfiltfilt, record by record": lambda: [
            sosfiltfilt(sections, s, axis=-1) for s in signals
        ],
        "sosfiltfilt, one batch": lambda: sosfiltfilt(sections, signals, axis=-1),
        "filter_window (ours)": lambda: [filter_window(s, **BAND) for s in signals],
        "bare float32 product (bound)": lambda: [s @ operator for s in single],
    }
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for round_number in range(arguments.rounds + 1):
        for name, run in variants.items():
            start = time.process_time()
            run()
            if round_number:  # the first round warms up
                seconds[name].append(time.process_time() - start)
    median = {name: float(np.median(values)) for name, values in seconds.items()}
    peer, bound = (median[name] for name in (next(iter(variants)), list(variants)[-1]))
    print(f"{arguments.records} records of 12 x 1000, {arguments.rounds} rounds, CPU time")
    for name, value in median.items():
        micro = value / arguments.records * 1e6
        print(f"{name:32} {micro:9.1f} us/record {peer / value:7.1f}x {value / bound:6.2f}")
    expected = loop()
    error = max(
        np.abs(filter_window(s, **BAND) - e).max()
        for s, e in zip(signals, expected, strict=True)
    )
    print(f"max abs error {error:.2e} at amplitude {np.abs(expected).max():.2f}")


if __name__ == "__main__":
    main()
