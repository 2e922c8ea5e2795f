"""Seizure monitoring: the cached step and the exact window against the whole window anew.

    OMP_NUM_THREADS=1 python benchmarks/streaming.py [--channels N] [--minutes N]
        [--rounds N] [--window N] [--sampling-rate HZ]

A simulated recording (64 channels, 512 Hz, seed 7) is read by a network of the size of
`ieeg-demo` with random weights. All ways take the same samples, alternate in one process,
one thread, and give one answer for each segment of 5 s:

- `anew`: at each segment its whole window from raw samples: resampled, referenced, encoded
  and classified (`SegmentGrid`, `MVPFormer.classify`);
- `exact`: `SeizureMonitor` that keeps the encoder's tokens and decodes the window anew;
- `cached`: `SeizureMonitor` that keeps keys and values of every layer.

Printed, warming up left out: CPU seconds an hour of recording, medians over the rounds;
the ratio to `anew`, the median of the paired ratios; time a segment, median and worst; the
delay that no computer can take away; and what of a cached segment is preparation. Before
that, the ways are held against each other: `exact` and `anew` within 1e-5 in probability.
"""

import argparse
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import numpy as np
import torch

from phenokit.evidence.seizures import EventRule
from phenokit.monitor import IEEGModel, SeizureMonitor, Streaming
from phenokit.networks.mvpa import AttentionRule
from phenokit.networks.mvpformer import DEMO, initialise
from phenokit.preprocessing.segments import SegmentGrid, SegmentRule
from phenokit.simulation.ieeg import SimulatedIEEG, draw_patient, simulate_ieeg

SEED = 7
SEGMENT = 5.0


def model_of(streaming: Streaming, window: int) -> IEEGModel:
    """The size of `ieeg-demo`; weights do not change the time that a pass takes."""
    config = replace(
        DEMO,
        head="classification",
        rule=AttentionRule(window=window, exempt_last=False, horizon=window),
    )
    return IEEGModel(
        name="random",
        config=config,
        segments=SegmentRule(),
        event_rule=EventRule(),
        streaming=streaming,
        n_segments=window,
        network=initialise(config, generator=torch.Generator().manual_seed(SEED)).eval(),
    )


class Held:
    """A recording in memory: what it costs to make the samples is not measured."""

    def __init__(self, recording: SimulatedIEEG) -> None:
        self.channels = recording.channels
        self.sampling_rate = recording.sampling_rate
        self.n_samples = recording.n_samples
        self.record_id = recording.record_id
        self.unit = recording.unit
        self._signal = recording.samples(0, recording.n_samples)

    def samples(self, first: int, stop: int) -> np.ndarray:
        """Of all channels."""
        return self._signal[:, first:stop]


def monitored(model: IEEGModel, recording: Held) -> Iterator[float]:
    """Probability of each segment, fed a segment's length at a time."""
    monitor = SeizureMonitor(
        model, channels=recording.channels, sampling_rate=recording.sampling_rate
    )
    step = round(SEGMENT * recording.sampling_rate)
    edges = [*range(0, recording.n_samples, step), recording.n_samples]
    for first, stop in pairwise(edges):
        for result in monitor.feed(recording.samples(first, stop)):
            yield result.probability
    for result in monitor.finish():
        yield result.probability


def anew(model: IEEGModel, recording: Held) -> Iterator[float]:
    """Probability of each segment from the raw samples of its whole window."""
    grid = SegmentGrid(model.segments, recording.sampling_rate)
    for last in range(grid.n_segments(recording.n_samples)):
        if last + 1 < model.n_segments:
            yield float("nan")
            continue
        window = [grid.read(recording, last - k) for k in range(model.n_segments)][::-1]
        signal = torch.from_numpy(np.stack([one.signal for one in window])[None])
        valid = torch.from_numpy(np.stack([one.valid for one in window])[None])
        with torch.inference_mode():
            logit = model.network.classify(signal, valid=valid)[0].double()
        yield float(torch.sigmoid(logit[1] - logit[0]))


def timed(answers: Iterator[float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities, and what each took: seconds by the wall, and of the processor."""
    found, wall, cpu = [], [time.perf_counter()], [time.process_time()]
    for probability in answers:
        found.append(probability)
        wall.append(time.perf_counter())
        cpu.append(time.process_time())
    return np.array(found), np.diff(wall), np.diff(cpu)


def preparation(recording: Held, rounds: int) -> float:
    """CPU seconds a segment for everything before the network."""
    grid = SegmentGrid(SegmentRule(), recording.sampling_rate)
    cpu = time.process_time()
    for k in range(rounds):
        grid.read(recording, k)
    return (time.process_time() - cpu) / rounds


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--minutes", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--window", type=int, default=12)
    parser.add_argument("--sampling-rate", type=int, default=512)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(SEED)
    patient = draw_patient(rng, n_channels=options.channels)
    recording = Held(
        simulate_ieeg(
            patient,
            rng=rng,
            duration=60 * options.minutes,
            n_gaps=0,
            sampling_rate=options.sampling_rate,
        )
    )
    exact, cached = (model_of(way, options.window) for way in ("exact", "cached"))
    ways = {
        "anew": lambda: anew(exact, recording),
        "exact": lambda: monitored(exact, recording),
        "cached": lambda: monitored(cached, recording),
    }
    runs = {name: [timed(way())] for name, way in ways.items()}
    np.testing.assert_allclose(runs["exact"][0][0], runs["anew"][0][0], rtol=0, atol=1e-5)
    for _ in range(options.rounds):
        for name, way in ways.items():
            runs[name].append(timed(way()))
    print(
        f"{options.channels} channels, {options.sampling_rate} Hz, window of "
        f"{options.window} segments, {options.minutes:g} min, {options.rounds} rounds"
    )
    steady = slice(options.window, None)
    cpu = {
        name: np.array([r[2][steady].mean() for r in rs[1:]]) * 3600 / SEGMENT
        for name, rs in runs.items()
    }
    print("way      CPU s/h   to anew   s/segment: median    worst")
    for name, rs in runs.items():
        wall = np.concatenate([r[1][steady] for r in rs[1:]])
        print(
            f"{name:<7} {np.median(cpu[name]):>8.1f} "
            f"{np.median(cpu['anew'] / cpu[name]):>8.1f}x "
            f"{np.median(wall):>18.4f} {wall.max():>8.4f}"
        )
    monitor = SeizureMonitor(
        cached, channels=recording.channels, sampling_rate=recording.sampling_rate
    )
    latency = monitor.latency()
    print(
        f"before any computing: segment {latency.segment:g} s, filter "
        f"{latency.filtering:.3f} s, median {latency.smoothing:g} s"
    )
    share = preparation(recording, 20) * 3600 / SEGMENT / np.median(cpu["cached"])
    print(f"preparation is {100 * share:.0f} % of the CPU of cached")


if __name__ == "__main__":
    main()
