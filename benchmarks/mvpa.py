"""The backends of the attention beside dense attention: time and memory.

    OMP_NUM_THREADS=1 python benchmarks/mvpa.py [--sizes 22x25,64x25,128x25] [--rounds N]
        [--repeats N] [--heads 4] [--dim 32] [--seed 0] [--window 10]
        [--braindecode FOLDER] [--variants gathered,dense,...]

Sizes are channels x segments, one item, float32, one head of keys a head of queries, the
window of 10 binding. `gathered` is the formula as published code evaluates it, with one
number a pair of tokens for each term; `dense` is ours. `biased` is PyTorch's
scaled-dot-product attention with all added terms of a pair as one bias, without a window
and so another function: what a training step of it holds bounds ours.

With `--braindecode`, whole layers (projections, attention, projection) are compared as
well: `layer-*` is ours, `braindecode` that of braindecode 1.8.1, which is no dependency.
FOLDER is a virtual environment, made where there is none, that sees the packages of this
one and so has the same torch; only braindecode and what it asks for is installed into it.
Both layers get the same weights, and their outputs are compared.

Each variant runs in a process of its own, because memory that a process has once taken
stays with it: growth of its peak resident memory after imports and inputs, and the median
CPU time over the rounds after one round that is not counted. With `--repeats` the variants
take turns, and medians over their processes are given. Ratios are against `gathered`,
whose values and gradients the others must give to 1e-4 of the largest (float32); those of
the layers against `braindecode`. The load average stands in each line.

`product` is a bare product of 1024^3 in the same process, its time scaled to the
multiplications of the causal pairs of tokens: the bound.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from phenokit.networks.mvpa import AttentionRule, mvpa

BRAINDECODE = "braindecode==1.8.1"
LAYERS = ("layer-auto", "layer-dense", "layer-chunk", "braindecode")
VARIANTS = ("gathered", "dense", "chunk", "sdpa", "biased", "product")
PASSES = ("forward", "forward+backward")
TOLERANCE = 1e-4


def inputs(channels: int, times: int, heads: int, dim: int, seed: int) -> list[Tensor]:
    """Queries, keys, values, rows of time and channel, biases."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return scale * torch.randn(*shape, generator=generator)

    tokens = (1, times, channels, heads, dim)
    rows = [normal(n, heads, dim, scale=0.3) for n in (times, channels)]
    bias = normal(3, heads, dim, scale=0.02)
    return [normal(*tokens), normal(*tokens), normal(*tokens), *rows, bias]


def pairs(arguments: list[Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Distance in time and channels of every two tokens, queries and added terms."""
    q, _, _, R, S, bias = arguments
    times, channels = q.shape[1:3]
    n = torch.arange(times * channels)
    lag = (n[:, None] // channels - n // channels).clamp(min=0)
    distance = (n[:, None] % channels - n % channels).abs()
    q = q.flatten(1, 2).transpose(1, 2)
    by_lag = (q + bias[1][:, None]) @ R.permute(1, 2, 0)
    by_distance = (q + bias[2][:, None]) @ S.permute(1, 2, 0)
    shape = (*q.shape[:2], len(n), len(n))
    added = by_lag.gather(-1, lag.expand(shape)) + by_distance.gather(
        -1, distance.expand(shape)
    )
    future = n[:, None] // channels < n // channels
    return q + bias[0][:, None], lag, added, future


def gathered(arguments: list[Tensor], window: int) -> Tensor:
    """The formula with every term of every pair in memory."""
    q, k, v = arguments[:3]
    times, channels, heads, dim = q.shape[1:]
    k, v = (x.flatten(1, 2).transpose(1, 2) for x in (k, v))
    query, lag, added, future = pairs(arguments)
    last = torch.arange(times * channels)[:, None] >= (times - 1) * channels
    content = torch.where((lag <= window) | last, query @ k.mT, 0)
    logit = ((content + added) / math.sqrt(dim)).masked_fill(future, -torch.inf)
    y = logit.softmax(-1) @ v
    return y.transpose(1, 2).reshape(1, times, channels, heads, dim)


def biased(arguments: list[Tensor]) -> Tensor:
    """PyTorch's attention with the added terms as its bias; no window."""
    k, v = (x.flatten(1, 2).transpose(1, 2) for x in arguments[1:3])
    query, _, added, future = pairs(arguments)
    bias = (added / math.sqrt(query.shape[-1])).masked_fill(future, -torch.inf)
    return F.scaled_dot_product_attention(query, k, v, attn_mask=bias)


def layers(options: argparse.Namespace) -> tuple[list[Tensor], Callable[[], Tensor]]:
    """Tokens, tables and weights of a layer, and the layer, ours or braindecode's."""
    (channels, times), width = options.sizes[0], options.heads * options.dim
    generator = torch.Generator().manual_seed(options.seed)
    tokens, P, Q = (
        torch.randn(*shape, width, generator=generator)
        for shape in ((1, times, channels), (times,), (channels,))
    )
    if options.variant == "braindecode":
        # Not used by the layer, and its wheels may ask for CUDA.
        for name in ("torchaudio", "torchaudio.transforms", "torchaudio.functional"):
            sys.modules[name] = MagicMock()
        from braindecode.models.mvpformer import (  # pyright: ignore[reportMissingImports]
            _MVPAttention,
        )

        layer = _MVPAttention(
            width, options.heads, options.heads, local_window=options.window
        )

        def attend() -> Tensor:
            return layer(tokens, P[None], Q[None])
    else:
        from phenokit.networks.mvpformer import Attention, Grid, MVPFormerConfig

        rule = AttentionRule(index="reference", window=options.window)
        layer = Attention(
            MVPFormerConfig(
                width=width,
                n_layers=1,
                n_heads=options.heads,
                n_kv_heads=options.heads,
                inner=width,
                rule=rule,
                dropout=0.0,
            )
        )

        def attend() -> Tensor:
            return layer(tokens, P, Q, Grid(), backend=options.variant.split("-")[1])

    weights = dict(layer.named_parameters())  # the names are the same in both
    for name in sorted(weights):
        drawn = torch.randn(weights[name].shape, generator=generator)
        weights[name].data = drawn / math.sqrt(width)
    return [tokens, P, Q, *(weights[name] for name in sorted(weights))], attend


def environment(folder: Path) -> str:
    """Python of the environment that has braindecode; made where there is none."""
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        own = folder / "lib" / version / "site-packages" / "same_packages.pth"
        root = Path(__file__).resolve().parents[1]
        own.write_text(f"{sysconfig.get_path('purelib')}\n{root}\n")
        torch_now = f"torch=={torch.__version__.partition('+')[0]}"
        command = [str(python), "-m", "pip", "install", "-q", BRAINDECODE, torch_now]
        subprocess.run(command, check=True)
    return str(python)


def memory(field: str) -> float:
    """``VmRSS`` or ``VmHWM`` (peak) of this process, MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(x.split()[1]) for x in lines if x.startswith(field)) / 1024


def timed(run: Callable[[], list[Tensor]], rounds: int) -> tuple[float, list[Tensor]]:
    """Median CPU time in ms after a round that is not counted, and what came out."""
    seconds, found = [], []
    for _ in range(rounds + 1):
        del found
        start = time.process_time()
        found = run()
        seconds.append(time.process_time() - start)
    return 1e3 * float(np.median(seconds[1:])), found


def attention(options: argparse.Namespace, arguments: list[Tensor]) -> Tensor:
    """One of the variants that are no layers."""
    if options.variant == "gathered":
        return gathered(arguments, options.window)
    if options.variant == "biased":
        return biased(arguments)
    rule = AttentionRule(window=options.window)
    return mvpa(*arguments, rule=rule, backend=options.variant)


def measure(options: argparse.Namespace) -> None:
    """One variant at one size, in this process; prints JSON and saves what came out."""
    (channels, times), heads, dim = options.sizes[0], options.heads, options.dim
    if options.variant in LAYERS:
        arguments, attend = layers(options)
    else:
        arguments = inputs(channels, times, heads, dim, options.seed)
        attend = partial(attention, options, arguments)
    backward = options.passes == "forward+backward"
    a, b = torch.randn(2, 1024, 1024).unbind()

    def run() -> list[Tensor]:
        if options.variant == "product":
            return [a @ b]
        with torch.set_grad_enabled(backward):
            y = attend()
        if not backward:
            return [y]
        weight = torch.linspace(0, 9, y.numel()).cos().view_as(y)
        return [y.detach(), *torch.autograd.grad((y * weight).sum(), arguments)]

    for tensor in arguments:
        tensor.requires_grad_(backward)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of the imports
    before = memory("VmRSS")
    ms, found = timed(run, options.rounds)
    mib = memory("VmHWM") - before
    if options.variant == "product":
        # two products a pair, two more a product in backward; backward computes one again
        products = 7 if backward else 2
        n_pairs = channels**2 * times * (times + 1) // 2
        ms *= products * n_pairs * dim * heads / 1024**3
        mib = 0.0
    np.savez(options.out, *(x.numpy() for x in found))
    sys.stdout.write(json.dumps({"ms": ms, "mib": mib}) + "\n")


def difference(found: Path, expected: Path) -> float:
    """Largest difference of an array, relative to its largest value."""
    with np.load(found) as f, np.load(expected) as e:
        return max(np.abs(f[n] - e[n]).max() / np.abs(e[n]).max() for n in e.files)


def size(text: str) -> tuple[int, int]:
    """Channels and segments."""
    channels, times = map(int, text.split("x"))
    return channels, times


def main() -> None:
    """Start a process a variant, print a line each."""
    parser = argparse.ArgumentParser(description="Time the attention's backends")
    parser.add_argument("--sizes", type=lambda text: [size(s) for s in text.split(",")])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--dim", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--window", type=int, default=10)
    parser.add_argument(
        "--variants", type=lambda text: text.split(","), help="default: all"
    )
    parser.add_argument("--variant", choices=VARIANTS + LAYERS, help=argparse.SUPPRESS)
    parser.add_argument("--passes", choices=PASSES, help=argparse.SUPPRESS)
    parser.add_argument("--out", help=argparse.SUPPRESS)
    parser.add_argument("--braindecode", type=Path, help="environment that has it")
    parser.set_defaults(sizes=[(22, 25), (64, 25), (128, 25)])
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.variant:
        measure(options)
        return
    same = [f"--{n}={getattr(options, n)}" for n in ("rounds", "heads", "dim", "seed")]
    python = environment(options.braindecode) if options.braindecode else ""
    variants = options.variants or (VARIANTS + LAYERS if python else VARIANTS)
    print("channels x segments, pass, backend: CPU ms, growth of peak MiB, times smaller")
    for channels, times in options.sizes:
        for passes in PASSES:
            with tempfile.TemporaryDirectory() as folder:
                found = {variant: [] for variant in variants}
                for variant in options.repeats * variants:
                    out = Path(folder) / f"{variant}.npz"
                    command = [
                        python if variant == "braindecode" else sys.executable,
                        __file__,
                        *same,
                        f"--window={options.window}",
                    ]
                    command += [f"--sizes={channels}x{times}", f"--variant={variant}"]
                    command += [f"--passes={passes}", f"--out={out}"]
                    done = subprocess.run(command, check=True, capture_output=True)
                    found[variant].append(json.loads(done.stdout))
                    if variant in ("dense", "chunk", "sdpa") and found.get("gathered"):
                        off = difference(out, Path(folder) / "gathered.npz")
                        if off > TOLERANCE:
                            raise SystemExit(
                                f"{variant} differs from gathered by {off:.1e}"
                            )
                if "braindecode" in found and "layer-auto" in found:
                    off = difference(
                        Path(folder) / "braindecode.npz", Path(folder) / "layer-auto.npz"
                    )
                    if off > TOLERANCE:
                        raise SystemExit(f"the layers differ by {off:.1e}")
            results = {
                variant: {
                    name: float(np.median([r[name] for r in runs])) for name in runs[0]
                }
                for variant, runs in found.items()
            }
            for variant, r in results.items():
                reference = "braindecode" if variant in LAYERS else "gathered"
                first = results.get(reference, r)
                line = f"{channels:3}x{times:<3} {passes:16} {variant:9} {r['ms']:9.1f}"
                line += f" {r['mib']:8.1f}   time {first['ms'] / r['ms']:6.1f}x"
                if r["mib"]:
                    line += f"   memory {first['mib'] / r['mib']:6.1f}x"
                print(f"{line}   load {os.getloadavg()[0]:.1f}", flush=True)


if __name__ == "__main__":
    main()
