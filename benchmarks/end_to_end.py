"""From a record's path to its logits: ours beside the naive loop.

    OMP_NUM_THREADS=1 python benchmarks/end_to_end.py [--records N] [--rounds N]

Ours is what a worker of `phenokit score` does before it writes: strict reading with
checksums, the quality gate, filter, the network 16 records a pass, distance from the
training set, calibration; with each engine. Peer: `wfdb.rdrecord`, `sosfiltfilt` lead by
lead, z-score, the same network eager with one record a pass; no gate. Simulated WFDB
records, 12 x 1000 at 100 Hz (seed 7); random weights of the published and of the shipped
size, whole and the rhythm branch alone. Logits must agree to 1e-3 of their size where ours
gives any (the filters differ in how they are computed). All alternate in one process; CPU
time on one thread, median over the rounds. Below it the parts of ours, and the bound: what
the multiplications of the network would take in a bare product of 1024^3.
"""

import argparse
import tempfile
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import wfdb
from forward import bound, build, configurations, only, timed
from scipy.signal import butter, sosfiltfilt
from torch.utils.flop_counter import FlopCounterMode

from phenokit.evidence.prototypes import Prototype
from phenokit.evidence.trust import Calibration, Trust
from phenokit.networks.checkpoint import Bundle
from phenokit.networks.exported import export
from phenokit.networks.prototype import (
    PrototypeNetwork,
    TorchForward,
    for_inference,
    to_arrays,
)
from phenokit.pipeline import BATCH, ECGModel, ForwardPass, score_ecg
from phenokit.preprocessing.contract import InputContract, prepare
from phenokit.preprocessing.quality import assess_quality
from phenokit.readers.ecg import read_ecg
from phenokit.recording import LEADS
from phenokit.simulation.ecg import simulate_ecg

CONDITIONS = ("normal", "atrial_fibrillation", "left_bundle_branch_block")


def write_records(folder: Path, n_records: int) -> list[Path]:
    """Simulated records of the shape of PTB-XL's at 100 Hz."""
    folder.mkdir()
    for number in range(n_records):
        recording = simulate_ecg(
            CONDITIONS[number % 3],
            rng=np.random.default_rng(7 + number),
            age=60.0,
            sex="female",
            sampling_rate=100.0,
        ).recording
        wfdb.wrsamp(
            f"r{number:05d}", fs=100, units=["mV"] * 12, sig_name=list(LEADS),
            d_signal=np.rint(recording.signal.T * 1000).astype(np.int64), fmt=["16"] * 12,
            adc_gain=[1000.0] * 12, baseline=[0] * 12, write_dir=str(folder),
        )  # fmt: skip
    return sorted(folder.glob("*.hea"))


def model_of(network: PrototypeNetwork, forward: ForwardPass) -> ECGModel:
    """A model around random weights: calibrated by nothing, foreign to nothing."""
    n_labels = len(network.config.labels)
    arrays = to_arrays(network)
    with torch.inference_mode():
        features = network(torch.zeros(1, 12, 1000)).features.shape[1]
    bundle = Bundle(
        Path(), "benchmark", {}, arrays, pd.DataFrame(), {}, {}, {}, "benchmark", ""
    )
    source = Prototype(0, "global", "", "", "", None, None, 0.0, 10.0, (), 1, 10.0, None)
    return ECGModel(
        name="benchmark",
        bundle=bundle,
        labels=network.config.labels,
        contract=InputContract(),
        prototypes=(source,) * network.n_prototypes,
        calibration=Calibration(
            np.ones(n_labels),
            np.zeros(n_labels),
            np.full(n_labels, 0.5),
            (False,) * n_labels,
        ),
        trust=Trust(
            np.zeros((5, features), np.float32),
            np.eye(features, dtype=np.float32),
            np.inf,
            np.zeros((1, 1)),
        ),
        weight=arrays["fusion.weight"].astype(np.float64),
        bias=arrays["fusion.bias"].astype(np.float64),
        forward=forward,
        device="cpu",
    )


def naive(paths: list[Path], network: PrototypeNetwork) -> np.ndarray:
    """Logits as a first script would compute them."""
    sections = butter(4, [0.5, 40.0], "bandpass", fs=100.0, output="sos")
    rows = []
    for path in paths:
        signal = wfdb.rdrecord(str(path.with_suffix(""))).p_signal.T
        filtered = np.stack([sosfiltfilt(sections, lead) for lead in signal])
        scaled = (filtered - filtered.mean(1, keepdims=True)) / filtered.std(
            1, keepdims=True
        )
        with torch.inference_mode():
            logit = network(torch.from_numpy(scaled.astype(np.float32))[None]).logit
        rows.append(logit[0].numpy())
    return np.stack(rows)


def ours(paths: list[Path], model: ECGModel) -> np.ndarray:
    """Logits; NaN where there are none."""
    return np.stack([s.logit for s in score_ecg([read_ecg(p) for p in paths], model)])


def compare(size: str, network: PrototypeNetwork, paths: list[Path], rounds: int) -> None:
    """Time all at one size and print ours, its parts, and the peer."""
    eager = TorchForward(for_inference(deepcopy(network)), "cpu")
    exported = export(network.config, to_arrays(network), batch=BATCH)
    models = [model_of(network, forward) for forward in (exported, eager)]
    recordings = [read_ecg(path) for path in paths]
    expected = naive(paths, network)
    for model in models:
        logit = ours(paths, model)
        scored = ~np.isnan(logit[:, 0])
        worst = np.abs(logit[scored] - expected[scored]).max() / np.abs(expected).max()
        assert worst < 1e-3, worst
    contract = models[0].contract
    signals = [prepare(one, contract).signal for one in recordings]
    blocks = [np.stack(signals[n : n + BATCH]) for n in range(0, len(signals), BATCH)]
    with FlopCounterMode(display=False) as counter:
        eager(blocks[0])
    product = bound(counter.get_total_flops() // BATCH * len(paths))
    variants: dict[str, Callable[[], float]] = {
        **{
            f"ours, {m.inference}": lambda m=m: timed(lambda: ours(paths, m))
            for m in models
        },
        "  read": lambda: timed(lambda: [read_ecg(path) for path in paths]),
        "  quality": lambda: timed(lambda: [assess_quality(one) for one in recordings]),
        "  prepare": lambda: timed(lambda: [prepare(one, contract) for one in recordings]),
        **{
            f"  forward, {m.inference}": lambda m=m: timed(
                lambda: [*map(m.forward, blocks)]
            )
            for m in models
        },
        "  bound of the forward pass": product,
        "naive loop": lambda: timed(lambda: naive(paths, network)),
    }
    times: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, run in variants.items():
            times[name].append(run())
    peer = np.array(times["naive loop"])
    print(f"{size}: {scored.sum()} of {len(paths)} scored, worst difference {worst:.1e}")
    for name, values in times.items():
        ms = float(np.median(values)) / len(paths) * 1e3
        ratio = float(np.median(peer / np.array(values)))
        print(f"  {name:28} {ms:8.2f} ms a record   {ratio:7.2f}x the naive loop")


def main() -> None:
    """Compare at both sizes."""
    parser = argparse.ArgumentParser(description="Time scoring from file to probability")
    parser.add_argument("--records", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{arguments.records} records, {arguments.rounds} rounds, CPU time, seed 7")
    with tempfile.TemporaryDirectory() as folder:
        paths = write_records(Path(folder) / "ecgs", arguments.records)
        for size, config in configurations().items():
            compare(size, build(config), paths, arguments.rounds)
            rhythm = build(only(config, "rhythm"))
            compare(f"{size}, rhythm branch alone", rhythm, paths, arguments.rounds)


if __name__ == "__main__":
    main()
