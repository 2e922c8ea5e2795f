"""From a file to calibrated probabilities: ours beside the naive loop.

    OMP_NUM_THREADS=1 python benchmarks/end_to_end.py [--records N] [--rounds N]

Ours is `score_path` on a folder: strict reading, quality gate, filter, all branches,
distance from the training set, calibration, Parquet and manifest. Peer: `wfdb.rdrecord`,
`sosfiltfilt` lead by lead, z-score, the same network eager with one record a pass, sigmoid;
no gate, nothing written. Simulated WFDB records, 12 x 1000 at 100 Hz (seed 7); random
weights of the published and of the shipped size. Probabilities must agree to 1e-4 where
ours gives any. Both alternate in one process; CPU time, median over the rounds. The parts
of ours are printed below it.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import torch
import wfdb
from scipy.signal import butter, sosfiltfilt

from phenokit.batch.score import score_path
from phenokit.evidence.prototypes import Prototype
from phenokit.evidence.trust import Calibration, Trust
from phenokit.networks.checkpoint import Bundle, bundle_folders, load_bundle
from phenokit.networks.prototype import (
    PrototypeConfig,
    PrototypeNetwork,
    compact,
    for_inference,
    published,
    to_arrays,
)
from phenokit.pipeline import ECGModel, score_ecg
from phenokit.preprocessing.contract import InputContract, prepare
from phenokit.preprocessing.quality import assess_quality
from phenokit.readers.ecg import read_ecg
from phenokit.recording import LEADS
from phenokit.simulation.ecg import simulate_ecg
from phenokit.statements import SCP_STATEMENTS, Branch

BRANCHES: tuple[Branch, ...] = ("rhythm", "morphology", "global")

CONDITIONS = ("normal", "atrial_fibrillation", "left_bundle_branch_block")


def configurations() -> dict[str, PrototypeConfig]:
    """The paper's network, and that of the installed ecg-ptbxl or one of its size."""
    labels = tuple(s.code for s in SCP_STATEMENTS)
    of_branch: dict[Branch, tuple[str, ...]] = {
        b: tuple(s.code for s in SCP_STATEMENTS if s.branch == b) for b in BRANCHES
    }
    if any(folder.name == "ecg-ptbxl" for folder in bundle_folders()):
        shipped = PrototypeConfig.from_dict(load_bundle("ecg-ptbxl").config["network"])
    else:
        shipped = compact(of_branch, labels, per_label=dict.fromkeys(BRANCHES, 8))
    return {"published": published(of_branch, labels), "shipped": shipped}


def build(config: PrototypeConfig) -> PrototypeNetwork:
    """Random weights, batch norms that have seen data, eval mode."""
    with torch.random.fork_rng():
        torch.set_rng_state(torch.Generator().manual_seed(7).get_state())
        network = PrototypeNetwork(config).train()
        with torch.no_grad():
            network(torch.randn(4, 12, 1000))
    return network.eval()


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


def model_of(network: PrototypeNetwork) -> ECGModel:
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
        network=for_inference(deepcopy(network)),
        device="cpu",
    )


def naive(paths: list[Path], network: PrototypeNetwork) -> np.ndarray:
    """Probabilities as a first script would compute them."""
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
        rows.append(torch.sigmoid(logit[0]).numpy())
    return np.stack(rows)


def timed(run: Callable[[], object]) -> float:
    """CPU time of one call."""
    start = time.process_time()
    run()
    return time.process_time() - start


def compare(
    size: str, network: PrototypeNetwork, paths: list[Path], out: Path, rounds: int
) -> None:
    """Time both at one size and print ours, its parts, and the peer."""
    model = model_of(network)
    recordings = [read_ecg(path) for path in paths]
    variants: dict[str, Callable[[], object]] = {
        "ours": lambda: score_path(paths[0].parent, out, model),
        "  read": lambda: [read_ecg(path) for path in paths],
        "  quality": lambda: [assess_quality(one) for one in recordings],
        "  prepare": lambda: [prepare(one, model.contract) for one in recordings],
        "  score (with the two above)": lambda: score_ecg(recordings, model),
        "naive loop": lambda: naive(paths, network),
    }
    expected = naive(paths, network)
    score_path(paths[0].parent, out, model)
    table = pq.read_table(out / "part-00000.parquet").to_pandas()
    ours = table[[f"probability_{label}" for label in model.labels]].to_numpy()
    scored = ~np.isnan(ours[:, 0])
    worst = np.abs(ours[scored] - expected[scored]).max()
    assert worst < 1e-4, worst
    times: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, run in variants.items():
            times[name].append(timed(run))
    peer = np.array(times["naive loop"])
    print(f"{size}: {scored.sum()} of {len(paths)} scored, worst difference {worst:.1e}")
    for name, values in times.items():
        ms = float(np.median(values)) / len(paths) * 1e3
        ratio = float(np.median(peer / np.array(values)))
        print(f"  {name:28} {ms:8.2f} ms a record   {ratio:6.2f}x the naive loop")


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
            out = Path(folder) / f"out-{size}"
            compare(size, build(config), paths, out, arguments.rounds)


if __name__ == "__main__":
    main()
