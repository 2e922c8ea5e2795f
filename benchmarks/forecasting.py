"""Forecasting of Lorenz-96: MVPA beside the same network with vanilla attention.

    OMP_NUM_THREADS=1 python benchmarks/forecasting.py [--steps 700] [--seeds 1,2,3]
        [--rates 1e-3,3e-3,1e-2] [--out FILE]

16 channels, F = 8, integrated by the classical Runge-Kutta method in steps of 0.01 from a
random start, the first 10 time units left out; one sample every 0.05. A segment is 8
samples of a channel (0.4 time units), a window 12 segments, and each token predicts the
next segment of its channel from all channels of its own and of earlier segments. Training,
validation and test are trajectories from starts of their own.

Both networks embed a segment linearly and have blocks with attention and feed-forward part
side by side. `mvpa` gets its place on the grid from the attention's tables of time and
channel rows. `vanilla` adds tables of the same sizes, learned, to the embedded tokens; its
feed-forward part is wider by what MVPA's two further projections take and its queries, keys
and values have biases, so that the numbers of parameters are equal, which is checked.

The learning rate of each network is chosen from the same grid by the error on validation
after half of the steps, with a seed of its own. Then each is trained with each seed. The
error is the mean square over all predictions, in units of the signal's variance, by test
trajectory. The interval of the ratio is a bootstrap over trajectories, common to both
networks, and over the seeds of each.
"""

import argparse
import json
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from phenokit.networks.mvpa import AttentionRule, mvpa

CHANNELS, FORCING = 16, 8.0
STEP, STEPS_A_SAMPLE, SPIN_UP = 0.01, 5, 10.0
SAMPLES, SEGMENTS = 8, 12
"""Samples of a segment, segments of a window."""
LENGTH = 100
"""Segments of a trajectory."""
TRAJECTORIES = {"train": 128, "validation": 16, "test": 32}
WIDTH, HEADS, INNER, BLOCKS = 48, 4, 96, 2
BATCH, WARM_UP, TUNING_SEED = 8, 50, 0
NETWORKS = ("mvpa", "vanilla")
N_BOOTSTRAP = 5_000


def tendency(x: np.ndarray) -> np.ndarray:
    """Change of each channel per time; channels form a ring."""
    ahead, behind, two_behind = (np.roll(x, shift, -1) for shift in (-1, 1, 2))
    return (ahead - two_behind) * behind - x + FORCING


def integrate(n: int, rng: np.random.Generator) -> np.ndarray:
    """`n` trajectories, (trajectory, segment, channel, sample)."""
    x = FORCING + rng.normal(size=(n, CHANNELS))
    kept = []
    spin_up = round(SPIN_UP / STEP)
    for step in range(spin_up + LENGTH * SAMPLES * STEPS_A_SAMPLE):
        if step >= spin_up and (step - spin_up) % STEPS_A_SAMPLE == 0:
            kept.append(x)
        a = tendency(x)
        b = tendency(x + STEP / 2 * a)
        c = tendency(x + STEP / 2 * b)
        d = tendency(x + STEP * c)
        x = x + STEP / 6 * (a + 2 * b + 2 * c + d)
    signal = np.stack(kept, 1).reshape(n, LENGTH, SAMPLES, CHANNELS)
    return signal.swapaxes(2, 3).astype(np.float32)


class Attention(nn.Module):
    """Either attention; what both have in common has the same shape."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.is_mvpa = kind == "mvpa"
        self.projection = nn.Linear(WIDTH, 3 * WIDTH, bias=not self.is_mvpa)
        self.out = nn.Linear(WIDTH, WIDTH, bias=False)
        if self.is_mvpa:
            self.time_rows = nn.Linear(WIDTH, WIDTH, bias=False)
            self.channel_rows = nn.Linear(WIDTH, WIDTH, bias=False)
            self.bias = nn.Parameter(torch.zeros(3, HEADS, WIDTH // HEADS))

    def forward(self, x: Tensor, time_table: Tensor, channel_table: Tensor) -> Tensor:
        heads = "... (three head d) -> three ... head d"
        q, k, v = rearrange(self.projection(x), heads, three=3, head=HEADS)
        if self.is_mvpa:
            rows = "row (head d) -> row head d"
            y = mvpa(
                q,
                k,
                v,
                rearrange(self.time_rows(time_table), rows, head=HEADS),
                rearrange(self.channel_rows(channel_table), rows, head=HEADS),
                self.bias,
                rule=AttentionRule(window=SEGMENTS),  # the content of every key counts
            )
        else:
            tokens = "batch time channel head d -> batch head (time channel) d"
            q, k, v = (rearrange(one, tokens) for one in (q, k, v))
            segment = torch.arange(x.shape[1]).repeat_interleave(CHANNELS)
            y = F.scaled_dot_product_attention(
                q, k, v, attn_mask=segment[:, None] >= segment
            )
            grid = "batch head (time channel) d -> batch time channel head d"
            y = rearrange(y, grid, channel=CHANNELS)
        return self.out(rearrange(y, "... head d -> ... (head d)"))


class Block(nn.Module):
    """Attention and feed-forward part side by side."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.norm, self.attention = nn.RMSNorm(WIDTH), Attention(kind)
        inner = INNER if kind == "mvpa" else INNER + WIDTH
        self.widen = nn.Linear(WIDTH, inner, bias=False)
        self.narrow = nn.Linear(inner, WIDTH, bias=False)

    def forward(self, x: Tensor, time_table: Tensor, channel_table: Tensor) -> Tensor:
        n = self.norm(x)
        attended = self.attention(n, time_table, channel_table)
        return x + attended + self.narrow(F.gelu(self.widen(n)))


class Forecaster(nn.Module):
    """Next segment of every token."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.embed = nn.Linear(SAMPLES, WIDTH)
        self.time_table = nn.Parameter(torch.randn(SEGMENTS, WIDTH) / math.sqrt(WIDTH))
        self.channel_table = nn.Parameter(torch.randn(CHANNELS, WIDTH) / math.sqrt(WIDTH))
        self.blocks = nn.ModuleList(Block(kind) for _ in range(BLOCKS))
        self.norm, self.head = nn.RMSNorm(WIDTH), nn.Linear(WIDTH, SAMPLES)

    def forward(self, segments: Tensor) -> Tensor:
        x = self.embed(segments)
        if self.kind == "vanilla":
            x = x + self.time_table[: x.shape[1], None] + self.channel_table
        for block in self.blocks:
            x = block(x, self.time_table, self.channel_table)
        return segments[..., -1:] + self.head(self.norm(x))


def n_parameters(network: nn.Module) -> int:
    """All of them are trained."""
    return sum(one.numel() for one in network.parameters())


def batches(signal: Tensor, steps: int, seed: int) -> Iterator[Tensor]:
    """Random windows, one segment longer than the network sees."""
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        which = rng.integers(len(signal), size=BATCH)
        first = rng.integers(LENGTH - SEGMENTS, size=BATCH)
        windows = [
            signal[i, t : t + SEGMENTS + 1] for i, t in zip(which, first, strict=True)
        ]
        yield torch.stack(windows)


def train(kind: str, rate: float, steps: int, seed: int, signal: Tensor) -> Forecaster:
    """One network; AdamW, the rate raised at first and lowered by a cosine."""
    torch.manual_seed(seed)  # noqa: TID251 - what the layers of torch draw from
    network = Forecaster(kind)
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=0.01)
    for step, window in enumerate(batches(signal, steps, seed)):
        share = min(1.0, (step + 1) / WARM_UP) * (1 + math.cos(math.pi * step / steps)) / 2
        for group in optimizer.param_groups:
            group["lr"] = rate * share
        loss = F.mse_loss(network(window[:, :-1]), window[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
    return network


def errors(network: Forecaster | None, signal: Tensor) -> np.ndarray:
    """Mean square error by trajectory, windows side by side; None: the last value stays."""
    found = []
    with torch.no_grad():
        for t in range(0, LENGTH - SEGMENTS, SEGMENTS):
            seen, asked = signal[:, t : t + SEGMENTS], signal[:, t + 1 : t + SEGMENTS + 1]
            said = seen[..., -1:] if network is None else network(seen)
            found.append(((said - asked) ** 2).mean((1, 2, 3)))
    return torch.stack(found).mean(0).numpy()


def ratio_interval(by_seed: dict[str, np.ndarray]) -> tuple[float, float]:
    """95 % bootstrap interval of the ratio of the errors, MVPA to vanilla."""
    rng = np.random.default_rng(0)
    draws = []
    for _ in range(N_BOOTSTRAP):
        chosen = {}
        n_seeds, n_trajectories = by_seed["mvpa"].shape
        trajectories = rng.integers(n_trajectories, size=n_trajectories)
        for kind, found in by_seed.items():
            seeds = rng.integers(n_seeds, size=n_seeds)
            chosen[kind] = found[seeds][:, trajectories].mean()
        draws.append(chosen["mvpa"] / chosen["vanilla"])
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(low), float(high)


def numbers(text: str) -> list[float]:
    """Numbers with commas between them."""
    return [float(one) for one in text.split(",")]


def main() -> None:
    """Tune, train, print a line each and the ratio."""
    parser = argparse.ArgumentParser(description="Forecast Lorenz-96 with two attentions")
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--seeds", type=numbers, default=[1, 2, 3])
    parser.add_argument("--rates", type=numbers, default=[1e-3, 3e-3, 1e-2])
    parser.add_argument("--out", type=Path, help="all errors as JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = {
        name: torch.from_numpy(integrate(n, np.random.default_rng(seed)))
        for seed, (name, n) in enumerate(TRAJECTORIES.items())
    }
    mean, sd = data["train"].mean(), data["train"].std()
    data = {name: (one - mean) / sd for name, one in data.items()}
    sizes = {kind: n_parameters(Forecaster(kind)) for kind in NETWORKS}
    print(", ".join(f"{kind}: {n:,} parameters" for kind, n in sizes.items()), flush=True)
    if len(set(sizes.values())) > 1:
        raise SystemExit("the networks differ in size")

    by_seed, said = {kind: [] for kind in NETWORKS}, {}
    for kind in NETWORKS:
        tuned = {}
        for rate in options.rates:
            network = train(kind, rate, options.steps // 2, TUNING_SEED, data["train"])
            tuned[rate] = float(errors(network, data["validation"]).mean())
            print(f"{kind:8} rate {rate:g}: validation {tuned[rate]:.4f}", flush=True)
        said[kind] = {"tuned": tuned, "rate": min(tuned, key=tuned.__getitem__)}
    for seed in map(int, options.seeds):
        for kind in NETWORKS:
            start = time.process_time()
            rate = said[kind]["rate"]
            network = train(kind, rate, options.steps, seed, data["train"])
            found = errors(network, data["test"])
            by_seed[kind].append(found)
            cpu = time.process_time() - start
            print(
                f"{kind:8} seed {seed}: test {found.mean():.4f}, {cpu:.0f} CPU s",
                flush=True,
            )
    last = errors(None, data["test"]).mean()
    arrays = {kind: np.stack(found) for kind, found in by_seed.items()}
    ratio = arrays["mvpa"].mean() / arrays["vanilla"].mean()
    low, high = ratio_interval(arrays)
    print(f"the last value stays: test {last:.4f}")
    print(f"error of mvpa / vanilla: {ratio:.3f} (95 % interval {low:.3f} to {high:.3f})")
    print(f"{time.process_time():.0f} CPU s in all; load average {os.getloadavg()[0]:.1f}")
    if options.out:
        said["errors"] = {kind: one.tolist() for kind, one in arrays.items()}
        ratio = float(ratio)
        options.out.write_text(json.dumps({**said, "ratio": [ratio, low, high]}))


if __name__ == "__main__":
    main()
