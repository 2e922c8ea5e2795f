"""Projection: every prototype becomes a piece of one real training ECG.

For each prototype, over all training records that carry its label, the window with the
highest similarity; its latent patch replaces the prototype, which then scores 1 on its own
source (ProtoECGNet, arXiv 2504.08713, section 3). Departures: only the records of a label
are compared with its prototypes, all at once, instead of a loop over records and
prototypes; ties go to the lowest record id whatever the order; a record or a patient may be
asked to serve once a label; a label that is short of sources keeps fewer prototypes.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from phenokit.networks.prototype import ceiling, window_similarity

Unique = Literal["none", "record", "patient"]

TIE = 1e-6
"""Similarities this near are equal: float32 rounds them by their place in a block."""


@dataclass(frozen=True)
class FeatureBlock:
    """Latent features of some training records.

    Attributes
    ----------
    features
        Shape ``(recording, feature, time)``.
    labels
        Shape ``(recording, label)``: 1, 0, NaN for unknown.
    rows
        Position of each record in the whole set, shape ``(recording,)``.
    """

    features: Float[Tensor, "recording feature time"]
    labels: Float[np.ndarray, "recording label"]
    rows: Int[np.ndarray, " recording"]


@dataclass(frozen=True)
class Sources:
    """Where each prototype of a branch comes from.

    Attributes
    ----------
    row
        Position of the source record; -1 where the label has no record left.
    window
        First latent step of the best window.
    similarity
        Before projection; NaN where there is no source.
    vectors
        The copied patches; the old prototype where there is no source.
    """

    row: Int[np.ndarray, " prototype"]
    window: Int[np.ndarray, " prototype"]
    similarity: Float[np.ndarray, " prototype"]
    vectors: Float[Tensor, "prototype feature step"]

    @property
    def found(self) -> Bool[np.ndarray, " prototype"]:
        """Whether the prototype has a source."""
        return self.row >= 0


def find_sources(
    blocks: Iterable[FeatureBlock],
    prototypes: Float[Tensor, "prototype feature step"],
    n_prototypes: Sequence[int],
    *,
    record_ids: Sequence[str],
    patient_ids: Sequence[str | None] | None = None,
    unique: Unique = "none",
    reference: bool = False,
) -> Sources:
    """Find the training window that each prototype is to become.

    Parameters
    ----------
    blocks
        Features of the training records, read once.
    prototypes
        Shape ``(prototype, feature, step)``, contiguous by label.
    n_prototypes
        Prototypes of each label.
    record_ids, patient_ids
        Of every row that blocks may name; a record without a patient id stands for itself.
    unique
        ``"record"`` or ``"patient"``: each serves at most one prototype of a label; the
        pairs of highest similarity are taken first.
    reference
        Report the published scaled similarity; the choice is the same.

    Returns
    -------
    Sources
        One entry a prototype.
    """
    candidates = [_Candidates() for _ in n_prototypes]
    bounds = np.concatenate([[0], np.cumsum(n_prototypes)])
    steps = prototypes.shape[-1]
    for block in blocks:
        windows = block.features.unfold(2, steps, 1)  # (recording, feature, window, step)
        for label, candidate in enumerate(candidates):
            own = prototypes[bounds[label] : bounds[label + 1]].detach()
            carries = np.flatnonzero(block.labels[:, label] == 1)
            if not len(own) or not len(carries):
                continue
            best = window_similarity(block.features[carries], own).max(-1)
            at = torch.from_numpy(carries)[:, None].to(best.indices.device)
            patches = windows[at, :, best.indices]  # (recording, prototype, feature, step)
            candidate.add(block.rows[carries], best.values, best.indices, patches)

    rank = _rank(record_ids)
    groups = _groups(record_ids, patient_ids, unique)
    scale = ceiling(prototypes.shape[1], steps) if reference else 1.0
    row = np.full(len(prototypes), -1)
    window = np.zeros(len(prototypes), dtype=int)
    score = np.full(len(prototypes), np.nan)
    vectors = prototypes.detach().clone()
    for label, candidate in enumerate(candidates):
        for k, place in candidate.choose(n_prototypes[label], rank, groups):
            p = bounds[label] + k
            row[p], window[p] = candidate.row[place], candidate.window[place, k]
            score[p] = scale * candidate.similarity[place, k]
            vectors[p] = candidate.patch(place, k)
    return Sources(row, window, score, vectors)


class _Candidates:
    """Every record of one label with its similarity to each of the label's prototypes."""

    def __init__(self) -> None:
        self._rows: list[np.ndarray] = []
        self._similarities: list[np.ndarray] = []
        self._windows: list[np.ndarray] = []
        self._patches: list[Tensor] = []

    def add(
        self,
        rows: Int[np.ndarray, " recording"],
        similarity: Float[Tensor, "recording prototype"],
        window: Int[Tensor, "recording prototype"],
        patches: Float[Tensor, "recording prototype feature step"],
    ) -> None:
        self._rows.append(rows)
        self._similarities.append(similarity.double().cpu().numpy())
        self._windows.append(window.cpu().numpy())
        self._patches.append(patches.cpu())

    @property
    def row(self) -> Int[np.ndarray, " recording"]:
        return np.concatenate(self._rows)

    @property
    def similarity(self) -> Float[np.ndarray, "recording prototype"]:
        return np.concatenate(self._similarities)

    @property
    def window(self) -> Int[np.ndarray, "recording prototype"]:
        return np.concatenate(self._windows)

    def patch(self, place: int, k: int) -> Float[Tensor, "feature step"]:
        for patches in self._patches:
            if place < len(patches):
                return patches[place, k]
            place -= len(patches)
        raise IndexError(place)

    def choose(
        self,
        count: int,
        rank: Int[np.ndarray, " recording"],
        groups: Int[np.ndarray, " recording"] | None,
    ) -> list[tuple[int, int]]:
        """Pairs (prototype, place of its record); ties to the lowest record id."""
        if not self._rows or count == 0:
            return []
        order = np.argsort(rank[self.row], kind="stable")
        similarity = self.similarity[order]
        if groups is None:
            return [(k, int(order[_highest(similarity[:, k])])) for k in range(count)]
        group = groups[self.row[order]]
        pairs: list[tuple[int, int]] = []
        similarity = similarity.copy()
        for _ in range(count):
            if similarity.max() == -np.inf:
                break  # fewer records or patients than prototypes
            place, k = np.unravel_index(_highest(similarity.ravel()), similarity.shape)
            pairs.append((int(k), int(order[place])))
            similarity[:, k] = -np.inf
            similarity[group == group[place]] = -np.inf
        return pairs


def _highest(similarity: Float[np.ndarray, " candidate"]) -> int:
    """Position of the highest value, the first of those that tie with it."""
    return int(np.argmax(similarity >= similarity.max() - TIE))


def _rank(record_ids: Sequence[str]) -> Int[np.ndarray, " recording"]:
    """Order of the record ids: numbers by value, then text."""
    keys = [(0, int(r), "") if r.isdecimal() else (1, 0, r) for r in record_ids]
    rank = np.empty(len(keys), dtype=int)
    rank[sorted(range(len(keys)), key=keys.__getitem__)] = np.arange(len(keys))
    return rank


def _groups(
    record_ids: Sequence[str], patient_ids: Sequence[str | None] | None, unique: Unique
) -> Int[np.ndarray, " recording"] | None:
    """Number of the record or patient of each row; ``None`` if each may serve again."""
    if unique == "none":
        return None
    if unique == "record" or patient_ids is None:
        names = [f"record {r}" for r in record_ids]
    else:
        names = [
            f"record {r}" if p is None else f"patient {p}"
            for r, p in zip(record_ids, patient_ids, strict=True)
        ]
    return np.unique(names, return_inverse=True)[1]
