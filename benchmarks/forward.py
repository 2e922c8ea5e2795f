"""The network's forward pass: ours beside eager PyTorch and beside a bare matrix product.

    OMP_NUM_THREADS=1 python benchmarks/forward.py [--records N] [--rounds N] [--threads N]

Ours is what `load_model` runs: batch norm folded, padding rows not multiplied, 16 records
a pass; by OpenVINO and by torch. Peer: the same weights as trained, eager, one record a
pass. Bound: a 1024^3 float32 product, its time scaled to the multiplications of ours.
Random weights and signals (seed 7). Published and shipped sizes, branch by branch and
whole; similarities must agree to 1e-5. All variants alternate in one process; CPU time,
median over the rounds.
"""

import argparse
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from phenokit.networks.checkpoint import bundle_folders, load_bundle
from phenokit.networks.exported import export
from phenokit.networks.prototype import (
    PrototypeConfig,
    PrototypeNetwork,
    TorchForward,
    compact,
    for_inference,
    published,
    to_arrays,
)
from phenokit.pipeline import BATCH, ForwardPass
from phenokit.statements import SCP_STATEMENTS, Branch

BRANCHES: tuple[Branch, ...] = ("rhythm", "morphology", "global")


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


def only(config: PrototypeConfig, branch: Branch) -> PrototypeConfig:
    """The network of one branch."""
    trunk = config.branches[branch].trunk
    return replace(
        config,
        trunks={trunk: config.trunks[trunk]},
        branches={branch: config.branches[branch]},
    )


def build(config: PrototypeConfig) -> PrototypeNetwork:
    """Random weights, batch norms that have seen data, eval mode."""
    with torch.random.fork_rng():
        torch.set_rng_state(torch.Generator().manual_seed(7).get_state())
        network = PrototypeNetwork(config).train()
        with torch.no_grad():
            network(torch.randn(4, 12, 1000))
    return network.eval()


def bound(flops: int) -> Callable[[], float]:
    """CPU time of a bare product of so many operations, by one of 1024^3."""
    a, b = torch.randn(2, 1024, 1024).unbind()

    def run() -> float:
        start = time.process_time()
        for _ in range(3):
            a @ b
        return (time.process_time() - start) / 3 * flops / (2 * 1024**3)

    return run


def timed(run: Callable[[], object]) -> float:
    """CPU time of one call."""
    start = time.process_time()
    run()
    return time.process_time() - start


def compare(name: str, config: PrototypeConfig, signal: Tensor, rounds: int) -> None:
    """Time one network and print a line for each engine."""
    network = build(config)
    blocks = [block.numpy() for block in signal.split(BATCH)]
    engines: list[ForwardPass] = [
        export(config, to_arrays(network), batch=BATCH),
        TorchForward(for_inference(deepcopy(network)), "cpu"),
    ]

    def peer() -> list:
        return [network(one) for one in signal.split(1)]

    expected = torch.cat([output.similarity for output in peer()]).numpy()
    for engine in engines:
        found = np.concatenate([engine(block).similarity for block in blocks])
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    with FlopCounterMode(display=False) as counter:
        engines[1](blocks[0])
    flops = counter.get_total_flops() / BATCH
    product = bound(round(flops * len(signal)))
    times: dict[str, list[float]] = {"peer": [], "bound": []}
    for _ in range(rounds):
        for engine in engines:
            times.setdefault(engine.engine, []).append(
                timed(lambda engine=engine: [engine(block) for block in blocks])
            )
        times["peer"].append(timed(peer))
        times["bound"].append(product())
    median = {key: float(np.median(value)) for key, value in times.items()}
    ms = {key: value / len(signal) * 1e3 for key, value in median.items()}
    for engine in engines:
        ours = engine.engine
        print(
            f"{name:22} {ours:18} {ms[ours]:7.2f} ms a record   "
            f"{ms['peer'] / ms[ours]:5.2f}x eager ({ms['peer']:.2f} ms)   "
            f"{ms['bound'] / ms[ours]:4.0%} of the product's rate ({flops / 1e9:.3f} GFLOP)"
        )


def main() -> None:
    """Compare every branch and the whole at both sizes."""
    parser = argparse.ArgumentParser(description="Time the forward pass")
    parser.add_argument("--records", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    signal = torch.randn(
        arguments.records, 12, 1000, generator=torch.Generator().manual_seed(7)
    )
    print(f"{arguments.records} records, {arguments.rounds} rounds, CPU time, seed 7")
    with torch.inference_mode():
        for size, config in configurations().items():
            for branch in config.branches:
                compare(f"{size} {branch}", only(config, branch), signal, arguments.rounds)
            compare(f"{size} whole", config, signal, arguments.rounds)


if __name__ == "__main__":
    main()
