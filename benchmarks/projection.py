"""Projection of the published morphology branch: ours, the loop, and the bare product.

    OMP_NUM_THREADS=1 python benchmarks/projection.py [--records N] [--rounds N]

17,000 training records, 936 prototypes of 512 x 3 over 32 latent steps, 18 for each of 52
labels with the frequencies of PTB-XL; float32, random features (seed 7). Ours compares a
record with the prototypes of its own labels only. Two bounds: the bare matrix product of
all records with all prototypes, and the same rate for the pairs that ours needs. Peer: the
published loop over records and prototypes, timed on a slice, whose choices must equal ours.
All alternate in one process; CPU time, median over the rounds. Needs 2 GB.
"""

import argparse
import time
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F

from phenokit.training.project import FeatureBlock, Sources, find_sources

N_LABELS, PER_LABEL, FEATURES, STEPS, WINDOW = 52, 18, 512, 32, 3
LABELS_A_RECORD = 22_778 / 17_418
CHUNK = 250
"""Records whose windows are laid out at once for the bare product."""


def blocks(features: torch.Tensor, labels: np.ndarray) -> Iterator[FeatureBlock]:
    """The records as training hands them over."""
    for start in range(0, len(features), 64):
        rows = np.arange(start, min(start + 64, len(features)))
        yield FeatureBlock(features[start : start + 64], labels[rows], rows)


def ours(features: torch.Tensor, prototypes: torch.Tensor, labels: np.ndarray) -> Sources:
    """The sources by `find_sources`."""
    return find_sources(
        blocks(features, labels),
        prototypes,
        (PER_LABEL,) * N_LABELS,
        record_ids=[str(i) for i in range(len(features))],
    )


def loop(
    features: torch.Tensor, prototypes: torch.Tensor, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Best record and window of each prototype, pair by pair; -1 where there is none."""
    best = np.full(len(prototypes), -np.inf)
    row, window = np.full((2, len(prototypes)), -1)
    for r, z in enumerate(features):
        norm = z.square().sum(0).unfold(0, WINDOW, 1).sum(-1).sqrt()
        for p, prototype in enumerate(prototypes):
            if labels[r, p // PER_LABEL] != 1:
                continue
            product = F.conv1d(z[None], prototype[None])[0, 0]
            score, w = (product / norm / prototype.norm()).max(0)
            if float(score) > best[p]:
                best[p], row[p], window[p] = float(score), r, int(w)
    return row, window


def main() -> None:
    """Time the three and print a line each."""
    parser = argparse.ArgumentParser(description="Time the projection of prototypes")
    parser.add_argument("--records", type=int, default=17_000)
    parser.add_argument("--slice", type=int, default=200, help="records of the loop")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(7)
    features = torch.rand(arguments.records, FEATURES, STEPS, generator=generator)
    prototypes = torch.randn(N_LABELS * PER_LABEL, FEATURES, WINDOW, generator=generator)
    share = 0.9 ** np.arange(N_LABELS)
    share *= LABELS_A_RECORD / share.sum()
    rng = np.random.default_rng(7)
    labels = (rng.random((arguments.records, N_LABELS)) < share).astype(float)
    n_pairs = int(labels.sum()) * PER_LABEL

    few = slice(0, arguments.slice)
    row, window = loop(features[few], prototypes, labels[few])
    found = ours(features[few], prototypes, labels[few])
    assert found.row.tolist() == row.tolist()
    assert found.window[row >= 0].tolist() == window[row >= 0].tolist()

    windows = features[:CHUNK].unfold(2, WINDOW, 1).permute(0, 2, 1, 3).flatten(2)
    patches = windows.flatten(0, 1).contiguous()  # (record and window, feature and step)
    flat = prototypes.flatten(1).T.contiguous()
    times: dict[str, list[float]] = {"ours": [], "product": [], "loop": []}
    for _ in range(arguments.rounds):
        start = time.process_time()
        ours(features, prototypes, labels)
        times["ours"].append(time.process_time() - start)
        start = time.process_time()
        for _ in range(4):
            patches @ flat
        used = (time.process_time() - start) / 4
        times["product"].append(used * arguments.records / CHUNK)
        start = time.process_time()
        loop(features[few], prototypes, labels[few])
        used = time.process_time() - start
        slice_pairs = labels[few].sum() * PER_LABEL
        times["loop"].append(used * n_pairs / slice_pairs)
    median = {name: float(np.median(values)) for name, values in times.items()}
    needed = median["product"] * n_pairs / (arguments.records * len(prototypes))
    print(
        f"{arguments.records} records, {len(prototypes)} prototypes {FEATURES} x {WINDOW} "
        f"over {STEPS} steps, {n_pairs:,} pairs of a record and its labels' prototypes; "
        f"{arguments.rounds} rounds, CPU time, seed 7"
    )
    print(f"ours                        {median['ours']:8.2f} s")
    for name, value in (
        ("bare product, all pairs", median["product"]),
        ("bare product, needed pairs", needed),
        ("loop (scaled from a slice)", median["loop"]),
    ):
        print(f"{name:27} {value:8.2f} s   ours takes {median['ours'] / value:7.3f} of it")
    print(f"choices on {arguments.slice} records equal the loop's")


if __name__ == "__main__":
    main()
