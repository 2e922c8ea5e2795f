"""Prototype network for the 12-lead ECG: three branches and a fusion classifier.

ProtoECGNet (Sethi et al. 2025, arXiv 2504.08713): a rhythm branch that compares the whole
recording, a morphology branch that compares short windows, and a global branch. Each holds
prototypes, vectors that projection replaces by pieces of real training ECGs; a linear head
over all similarities gives one logit a label.

`published` builds the network of the paper, with its numbers; `compact` builds ours. Ours
departs from it so that the explanation is true and the network small:

- The 2D trunks of the paper collapse the leads in their first layer, so that every later
  3 x 3 kernel multiplies two rows of padding: a (1, 3) kernel is the same function at a
  third of the cost. Ours are written in one dimension.
- Morphology and global branch share one trunk, whose receptive field is bounded: a window
  of three latent steps sees 1.31 s, not 4.99 s.
- The trunk is shifted by half a latent step, so that step w is centred on the samples
  [32 w, 32 w + 32) that are shown for it.
- Prototypes live among the trunk's own features, sparse and not below 0; there are no
  add-on layers, which made training slower (docs/decisions/002-compact-network.md).
- Similarity is the plain cosine, pooled over windows by its maximum: what is scored is the
  window that is shown. The paper's code scores the mean and shows the maximum.
- The global branch pools over time: a prototype of 32 aligned steps would compare the phase
  of the heartbeat rather than its shape. The pool holds mean and maximum.
"""

import logging
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from jaxtyping import Float, Float32, Int
from torch import Tensor, nn

from phenokit.networks.checkpoint import check_shapes
from phenokit.networks.prototype_config import (
    DROPOUT_POSITION,
    SAMPLES,
    STRIDE,
    BranchConfig,
    Forward,
    Pooling,
    PrototypeConfig,
    TrunkConfig,
    ceiling,
)
from phenokit.statements import Branch

_LOG = logging.getLogger(__name__)

_COUNTER = "num_batches_tracked"
"""Batch norm counts its batches; nothing reads the count."""


def published(
    branch_labels: Mapping[Branch, tuple[str, ...]], labels: tuple[str, ...]
) -> PrototypeConfig:
    """The published sizes: 5, 18 and 7 prototypes a label, ResNet-18 widths (119 MB).

    Parameters
    ----------
    branch_labels
        Labels of the three branches; 16, 52 and 3 in the paper.
    labels
        Labels of the fused head; 71 in the paper.
    """
    windows: dict[Branch, tuple[int, int | None]] = {
        "rhythm": (5, None),
        "morphology": (18, 3),
        "global": (7, 32),
    }
    widths = (64, 128, 256, 512)
    kinds = {"rhythm": "resnet1d", "morphology": "resnet2d", "global": "resnet2d"}
    return PrototypeConfig(
        labels=labels,
        trunks={name: TrunkConfig(kind, widths) for name, kind in kinds.items()},  # pyright: ignore[reportArgumentType]
        branches={
            name: BranchConfig(
                name, branch_labels[name], (count,) * len(branch_labels[name]), window
            )
            for name, (count, window) in windows.items()
        },
        features=512,
        similarity="reference",
        pooling="mean",
        dropout=0.35,
    )


def compact(
    branch_labels: Mapping[Branch, tuple[str, ...]],
    labels: tuple[str, ...],
    *,
    per_label: Mapping[Branch, int],
    widths: tuple[int, ...] = (32, 64, 128, 256),
    dropout: float = 0.2,
) -> PrototypeConfig:
    """Ours: two trunks, bounded windows, the plain cosine.

    Parameters
    ----------
    per_label
        Prototypes a label in each branch.
    """
    windows: dict[Branch, tuple[str, int | None, int]] = {
        "rhythm": ("rhythm", None, 0),
        "morphology": ("shape", 3, 0),
        "global": ("shape", None, 2),
    }
    return PrototypeConfig(
        labels=labels,
        trunks={
            "rhythm": TrunkConfig("resnet1d", widths),
            "shape": TrunkConfig("bounded", widths),
        },
        branches={
            name: BranchConfig(
                trunk,
                branch_labels[name],
                (per_label[name],) * len(branch_labels[name]),
                window,
                "mean" if window else "mean_max",
                context,
            )
            for name, (trunk, window, context) in windows.items()
            if branch_labels.get(name)
        },
        features=None,
        dropout=dropout,
    )


# --- trunks: (batch, lead, sample) -> (batch, feature, time) ---------------------------


class ResidualBlock1d(nn.Module):
    """Two convolutions and a shortcut (He et al. 2016), in one dimension."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        stride: int = 1,
        kernels: tuple[int, int] = (3, 3),
    ) -> None:
        super().__init__()
        first, second = kernels
        self.conv1 = nn.Conv1d(
            inputs, outputs, first, stride=stride, padding=first // 2, bias=False
        )
        self.bn1 = nn.BatchNorm1d(outputs)
        self.conv2 = nn.Conv1d(outputs, outputs, second, padding=second // 2, bias=False)
        self.bn2 = nn.BatchNorm1d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv1d(inputs, outputs, 1, stride=stride, bias=False),
                nn.BatchNorm1d(outputs),
            )

    def forward(
        self, x: Float[Tensor, "batch _ before"]
    ) -> Float[Tensor, "batch feature time"]:
        """The block's output."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + self.shortcut(x))


class ResNet1d(nn.Module):
    """ResNet-18 in one dimension, kernel 3: 1000-500-250-250-125-63-32 time steps."""

    offset = 0

    def __init__(self, widths: tuple[int, ...], *, leads: int = 12) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv1d(leads, widths[0], 7, stride=2, padding=3, bias=False),
            nn.BatchNorm1d(widths[0]),
            nn.ReLU(),
            nn.MaxPool1d(3, stride=2, padding=1),
        )
        blocks: list[nn.Module] = []
        inputs = widths[0]
        for stage, outputs in enumerate(widths):
            stride = 1 if stage == 0 else 2
            blocks += [
                ResidualBlock1d(inputs, outputs, stride=stride),
                ResidualBlock1d(outputs, outputs),
            ]
            inputs = outputs
        self.stages = nn.Sequential(*blocks)
        # (kernel, stride) of every layer on the longest path, for the receptive field
        convolutions = [(7, 2), (3, 2)]
        for stage in range(len(widths)):
            convolutions += [(3, 1 if stage == 0 else 2)] + [(3, 1)] * 3
        self.receptive_field = receptive_field(convolutions)

    def forward(
        self, x: Float[Tensor, "batch lead sample"]
    ) -> Float[Tensor, "batch feature time"]:
        """Features at every latent step."""
        return self.stages(self.stem(x))


class BoundedTrunk(nn.Module):
    """A residual trunk in which one latent step sees 67 samples, 0.67 s.

    Each of five halvings has one kernel that looks at neighbours (7 in the stem, then 3);
    all other kernels are 1. A window of three steps sees 131 samples. The input is shifted
    by half a step so that step w is centred on samples [32 w, 32 w + 32); the first 0.16 s
    fall out by the shift and are seen by the rhythm branch only.
    """

    offset = STRIDE // 2

    def __init__(self, widths: tuple[int, ...], *, leads: int = 12) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv1d(leads, widths[0], 7, stride=2, padding=3, bias=False),
            nn.BatchNorm1d(widths[0]),
            nn.ReLU(),
        )
        blocks: list[nn.Module] = []
        inputs = widths[0]
        for outputs in widths:
            blocks += [
                ResidualBlock1d(inputs, outputs, stride=2, kernels=(3, 1)),
                ResidualBlock1d(outputs, outputs, kernels=(1, 1)),
            ]
            inputs = outputs
        self.stages = nn.Sequential(*blocks)
        self.receptive_field = receptive_field([(7, 2)] + [(3, 2)] * len(widths))

    def forward(
        self, x: Float[Tensor, "batch lead sample"]
    ) -> Float[Tensor, "batch feature time"]:
        """Features at every latent step."""
        shifted = F.pad(x, (-self.offset, self.offset))
        return self.stages(self.stem(shifted))


class ResidualBlock2d(nn.Module):
    """The block of torchvision's ResNet-18, on an image of height one."""

    def __init__(self, inputs: int, outputs: int, *, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False),
                nn.BatchNorm2d(outputs),
            )

    def forward(
        self, x: Float[Tensor, "batch _ 1 before"]
    ) -> Float[Tensor, "batch feature 1 time"]:
        """The block's output."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + self.shortcut(x))


class ResNet2d(nn.Module):
    """ResNet-18 as published: the (12, 7) stem meets all leads at once."""

    offset = 0

    def __init__(
        self, widths: tuple[int, ...], *, leads: int = 12, dropout: float = 0
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, widths[0], (leads, 7), stride=(1, 2), padding=(0, 3), bias=False),
            nn.BatchNorm2d(widths[0]),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        self.widths, self.leads = widths, leads
        blocks: list[nn.Module] = []
        inputs = widths[0]
        for stage, outputs in enumerate(widths):
            stride = 1 if stage == 0 else 2
            blocks += [
                ResidualBlock2d(inputs, outputs, stride=stride),
                ResidualBlock2d(outputs, outputs),
            ]
            if stage == 2:
                blocks.append(nn.Dropout(dropout))
            inputs = outputs
        self.stages = nn.Sequential(*blocks)
        convolutions = [(7, 2), (3, 2)]
        for stage in range(len(widths)):
            convolutions += [(3, 1 if stage == 0 else 2)] + [(3, 1)] * 3
        self.receptive_field = receptive_field(convolutions)

    def forward(
        self, x: Float[Tensor, "batch lead sample"]
    ) -> Float[Tensor, "batch feature time"]:
        """Features at every latent step."""
        image = x[:, None]  # (batch, 1, lead, sample)
        return self.stages(self.stem(image))[:, :, 0]


def _pool_time(
    x: Float[Tensor, "batch channel time"], pooling: Literal["mean", "mean_max"]
) -> Float[Tensor, "batch pooled 1"]:
    mean = reduce(x, "batch channel time -> batch channel 1", "mean")
    if pooling == "mean":
        return mean
    highest = reduce(x, "batch channel time -> batch channel 1", "max")
    return torch.cat([mean, highest], dim=1)


def receptive_field(convolutions: Iterable[tuple[int, int]]) -> int:
    """Samples that one output of a chain of (kernel, stride) layers depends on.

    Examples
    --------
    >>> receptive_field([(7, 2), (3, 2), (3, 2), (3, 2), (3, 2)])
    67
    """
    field, jump = 1, 1
    for kernel, stride in convolutions:
        field += (kernel - 1) * jump
        jump *= stride
    return field


def _build_trunk(
    config: TrunkConfig, dropout: float
) -> "ResNet1d | ResNet2d | BoundedTrunk":
    if config.kind == "resnet1d":
        return ResNet1d(config.widths)
    if config.kind == "resnet2d":
        return ResNet2d(config.widths, dropout=dropout)
    return BoundedTrunk(config.widths)


class AddOn(nn.Sequential):
    """Two 1 x 1 maps, ReLU between and a sigmoid after: features in (0, 1)."""

    def __init__(self, inputs: int, features: int) -> None:
        super().__init__(
            nn.Conv1d(inputs, features, 1),
            nn.ReLU(),
            nn.Conv1d(features, features, 1),
            nn.Sigmoid(),
        )


# --- similarity -------------------------------------------------------------------------


def window_similarity(
    features: Float[Tensor, "batch feature time"],
    prototypes: Float[Tensor, "prototype feature step"],
    *,
    reference: bool = False,
) -> Float[Tensor, "batch prototype window"]:
    """Cosine of every window with every prototype.

    Parameters
    ----------
    features
        Latent features, shape ``(batch, feature, time)``.
    prototypes
        Shape ``(prototype, feature, step)``; a window has ``step`` steps, stride 1.
    reference
        The published scaled cosine: ``L / T <z, p> / (sqrt(|z|^2 + 1e-4) sqrt(|p|^2 +
        1e-4))`` with ``L = floor(sqrt(feature x step))``, for ``step > 1``.

    Returns
    -------
    Tensor
        In [-1, 1]; in reference mode within +- the `ceiling`.
    """
    steps = prototypes.shape[-1]
    floor = 1e-4 if reference and steps > 1 else 1e-12
    products = F.conv1d(features, prototypes)
    energy = reduce(features.square(), "b f t -> b t", "sum").unfold(1, steps, 1)
    window_norm = reduce(energy, "b w s -> b 1 w", "sum").add(floor).sqrt()
    prototype_norm = reduce(prototypes.square(), "p f s -> p 1", "sum").add(floor).sqrt()
    scale = ceiling(prototypes.shape[1], steps) if reference else 1.0
    return scale * products / (window_norm * prototype_norm)


def window_distance(
    features: Float[Tensor, "batch feature time"],
    prototypes: Float[Tensor, "prototype feature step"],
) -> Float[Tensor, "batch prototype window"]:
    """Euclidean distance of every window to every prototype.

    Summed over differences rather than by a product, so that a window at its own prototype
    has distance 0.
    """
    windows = rearrange(
        features.unfold(2, prototypes.shape[-1], 1),
        "batch f w s -> batch w (f s)",
    )
    flat = rearrange(prototypes, "p f s -> p (f s)")
    distance = torch.cdist(windows, flat, compute_mode="donot_use_mm_for_euclid_dist")
    return rearrange(distance, "batch w p -> batch p w")


def distance_similarity(
    distance: Float[Tensor, "batch prototype window"],
) -> Float[Tensor, "batch prototype window"]:
    """``log((d + 1) / (d + 1e-4))``: the published alternative to the cosine.

    No network here or in the paper is trained with it; it stands for comparison.
    """
    return torch.log((distance + 1) / (distance + 1e-4))


def pool_windows(
    similarity: Float[Tensor, "batch prototype window"], pooling: Pooling, *, k: int = 5
) -> Float[Tensor, "batch prototype"]:
    """One similarity a prototype: of the best window, of the k best, or of all."""
    if pooling == "max":
        return similarity.amax(-1)
    if pooling == "mean":
        return similarity.mean(-1)
    return similarity.topk(min(k, similarity.shape[-1]), dim=-1).values.mean(-1)


# --- the network ------------------------------------------------------------------------


class PrototypeOutput(NamedTuple):
    """What the network says of a batch.

    `similarity` ``(batch, prototype)``, in the order rhythm, morphology, global; `window`
    ``(batch, prototype)``, the best window's first latent step; `logit` ``(batch, label)``;
    `features` ``(batch, feature)``, each branch's latent features, averaged over time and
    normalised, one after the other.
    """

    similarity: Float[Tensor, "batch prototype"]
    window: Int[Tensor, "batch prototype"]
    logit: Float[Tensor, "batch label"]
    features: Float[Tensor, "batch feature"]


class PrototypeNetwork(nn.Module):
    """Trunks, add-ons, prototypes, branch classifiers and the fused head."""

    def __init__(self, config: PrototypeConfig) -> None:
        super().__init__()
        self.config = config
        self.trunks = nn.ModuleDict(
            {key: _build_trunk(t, config.dropout) for key, t in config.trunks.items()}
        )
        self.contexts = nn.ModuleDict()
        self.add_ons = nn.ModuleDict()
        self.prototypes = nn.ParameterDict()
        self.classifiers = nn.ModuleDict()
        for name, branch in config.branches.items():
            width = config.trunks[branch.trunk].widths[-1]
            self.contexts[name] = nn.Sequential(
                *[ResidualBlock1d(width, width) for _ in range(branch.context)]
            )
            channels = 2 * width if branch.time_pooling == "mean_max" else width
            self.add_ons[name] = nn.Identity()
            if config.features is not None:
                self.add_ons[name] = AddOn(channels, config.features)
                channels = config.features
            count = sum(branch.n_prototypes)
            self.prototypes[name] = nn.Parameter(
                torch.randn(count, channels, branch.window or 1)
            )
            self.classifiers[name] = nn.Linear(count, len(branch.labels), bias=False)
        self.dropout = nn.Dropout(config.dropout)
        self.fusion = nn.Linear(self.n_prototypes, len(config.labels))

    @property
    def n_prototypes(self) -> int:
        """Prototypes of all branches."""
        return sum(sum(branch.n_prototypes) for branch in self.config.branches.values())

    def trunk_features(
        self, signal: Float[Tensor, "batch lead sample"]
    ) -> dict[str, Float[Tensor, "batch channel time"]]:
        """Output of each trunk."""
        return {key: trunk(signal) for key, trunk in self.trunks.items()}

    def features(
        self, signal: Float[Tensor, "batch lead sample"]
    ) -> dict[Branch, Float[Tensor, "batch feature time"]]:
        """Latent features of each branch, before normalisation.

        One time step where the branch pools over the recording.
        """
        trunks = self.trunk_features(signal)
        latent: dict[Branch, Tensor] = {}
        for name, branch in self.config.branches.items():
            x = self.contexts[name](trunks[branch.trunk])
            if branch.window is None:
                x = _pool_time(x, branch.time_pooling)
            latent[name] = self.add_ons[name](self.dropout(x))
        return latent

    def similarities(
        self, latent: Mapping[Branch, Float[Tensor, "batch feature time"]]
    ) -> dict[Branch, Float[Tensor, "batch prototype window"]]:
        """Similarity of every window with every prototype of each branch."""
        reference = self.config.similarity == "reference"
        return {
            name: window_similarity(z, self.prototypes[name], reference=reference)
            for name, z in latent.items()
        }

    def forward(self, signal: Float[Tensor, "batch lead sample"]) -> PrototypeOutput:
        """Similarities, best windows and fused logits of a batch of prepared ECGs."""
        latent = self.features(signal)
        windows = self.similarities(latent)
        pooled = {n: pool_windows(s, self.config.pooling) for n, s in windows.items()}
        similarity = torch.cat([pooled[name] for name in self.config.branches], dim=1)
        best = torch.cat([windows[name].argmax(-1) for name in self.config.branches], dim=1)
        means = [F.normalize(latent[name].mean(-1), dim=1) for name in self.config.branches]
        return PrototypeOutput(
            similarity, best, self.fusion(similarity), torch.cat(means, dim=1)
        )

    def label_identity(self, name: Branch) -> Float[Tensor, "prototype label"]:
        """1 where a prototype belongs to a label of its branch."""
        return prototype_label_identity(self.config.branches[name].n_prototypes)

    def window_samples(self, name: Branch) -> int | None:
        """Samples that a window of this branch depends on; ``None``: the whole ECG."""
        branch = self.config.branches[name]
        if branch.window is None:
            return None
        trunk: Any = self.trunks[branch.trunk]
        samples = trunk.receptive_field + (branch.window - 1) * STRIDE
        return None if samples >= SAMPLES else samples


def prototype_label_identity(
    n_prototypes: tuple[int, ...],
) -> Float[Tensor, "prototype label"]:
    """Indicator of the label each prototype belongs to, contiguous by label.

    Examples
    --------
    >>> prototype_label_identity((2, 1))
    tensor([[1., 0.],
            [1., 0.],
            [0., 1.]])
    """
    labels = torch.arange(len(n_prototypes)).repeat_interleave(torch.tensor(n_prototypes))
    return F.one_hot(labels, len(n_prototypes)).float()


def window_bounds(window: int, steps: int | None) -> tuple[int, int]:
    """First sample and end of the window that starts at a latent step.

    ``start = 32 w``, ``stop = min(32 (w + T), 1000)``; the whole recording where the branch
    pools over time (`steps` is ``None``).

    Examples
    --------
    >>> window_bounds(29, 3), window_bounds(0, None)
    ((928, 1000), (0, 1000))
    """
    if steps is None:
        return 0, SAMPLES
    return STRIDE * window, min(STRIDE * (window + steps), SAMPLES)


def reference_window_start(window: int, steps: int) -> int:
    """First sample of a window as the published code draws it: 31.25 samples a step.

    Kept to compare with its figures; `window_bounds` is where the latent step lies.

    Examples
    --------
    >>> [reference_window_start(w, 3) for w in (0, 7, 29)]
    [0, 218, 906]
    """
    length = SAMPLES * steps // 32
    return min(SAMPLES * window // 32, SAMPLES - length)


def branch_classifier_weight(
    identity: Float[Tensor, "prototype label"],
    init: Literal["scaled", "reference"] = "scaled",
    *,
    ceiling: float = 1.0,
) -> Float[Tensor, "label prototype"]:
    """Initial weights of a branch classifier: own prototypes for, foreign ones against.

    ``"reference"``: +1 own, -0.5 foreign. With many labels that saturates the loss, so that
    ``"scaled"`` divides each side by its count and by the similarity's ceiling: the initial
    logits stay of order 1.
    """
    own = identity.T
    foreign = 1 - own
    if init == "reference":
        return own - 0.5 * foreign
    own = own / own.sum(1, keepdim=True).clamp(min=1)
    foreign = foreign / foreign.sum(1, keepdim=True).clamp(min=1)
    return (own - 0.5 * foreign) / ceiling


def to_arrays(network: PrototypeNetwork) -> dict[str, np.ndarray]:
    """Weights by name, float32, as a bundle holds them."""
    return {
        name: tensor.detach().cpu().numpy().astype(np.float32)
        for name, tensor in network.state_dict().items()
        if not name.endswith(_COUNTER)
    }


def from_arrays(
    config: PrototypeConfig, arrays: Mapping[str, np.ndarray]
) -> PrototypeNetwork:
    """The network with these weights, in eval mode.

    Raises
    ------
    BundleError
        ``E_WEIGHTS`` naming the tensor that is missing, unknown or of another shape.
    """
    with torch.device("meta"):
        network = PrototypeNetwork(config)
    state = {k: v for k, v in network.state_dict().items() if not k.endswith(_COUNTER)}
    check_shapes(
        {name: array.shape for name, array in arrays.items()},
        {name: tuple(tensor.shape) for name, tensor in state.items()},
    )
    counters = [name for name in network.state_dict() if name.endswith(_COUNTER)]
    weights = {name: torch.tensor(array).float() for name, array in arrays.items()}
    network.load_state_dict(
        weights | dict.fromkeys(counters, torch.tensor(0)), strict=True, assign=True
    )
    return network.eval()


_PRECISION = threading.RLock()


@contextmanager
def full_precision(device: str) -> Iterator[None]:
    """On CUDA, convolve in float32 proper for as long as the context lasts.

    By default cuDNN may round both factors to 11 bits (TF32), which on an H100 and an H200
    moved probabilities by up to 1e-3. The setting is of the whole process, hence the lock.
    """
    if torch.device(device).type != "cuda":
        yield
        return
    setting = torch.backends.cudnn.conv  # pyright: ignore[reportAttributeAccessIssue]
    with _PRECISION:
        before = setting.fp32_precision
        setting.fp32_precision = "ieee"
        try:
            yield
        finally:
            setting.fp32_precision = before


def for_inference(network: PrototypeNetwork) -> PrototypeNetwork:
    """The same function at less cost: batch norm folded, padding rows not multiplied.

    Parameters
    ----------
    network
        In eval mode; it is changed in place and can no longer be trained.
    """
    for name, trunk in network.trunks.items():
        if isinstance(trunk, ResNet2d):
            network.trunks[name] = collapse_rows(trunk).eval()
    return fold_batch_norm(network)


@dataclass(frozen=True, eq=False)
class TorchForward:
    """The forward pass of a network that was made by `for_inference`.

    On a GPU a batch goes over from pinned memory. Where memory runs out it is taken in
    halves, at last one recording at a time on the CPU: the numbers may then differ in their
    last bits. Nothing is computed in bfloat16, which moves probabilities by more than a
    device may (decision 008).

    Attributes
    ----------
    engine
        Name and version of what computes.
    """

    network: PrototypeNetwork
    device: str
    engine: str = f"torch {torch.__version__.split('+')[0]}"

    def __call__(self, signal: Float32[np.ndarray, "batch lead sample"]) -> Forward:
        """Similarities, best windows and features of prepared ECGs."""
        batch = torch.from_numpy(signal)
        if self.device.startswith("cuda"):
            batch = batch.pin_memory()
        outputs = self._in_pieces(batch, len(signal))
        return Forward(
            *(
                np.concatenate([getattr(output, name).cpu().numpy() for output in outputs])
                for name in ("similarity", "window", "features")
            )
        )

    def _in_pieces(self, batch: Tensor, size: int) -> list[PrototypeOutput]:
        """Outputs of pieces of at most `size` recordings, halved until they fit."""
        try:
            with torch.inference_mode(), full_precision(self.device):
                return [
                    self.network(piece.to(self.device, non_blocking=True))
                    for piece in batch.split(size)
                ]
        except torch.OutOfMemoryError:
            _warn_of_memory(self.device)
        if self.device.startswith("cuda"):
            torch.cuda.empty_cache()
        if size > 1:
            return self._in_pieces(batch, size // 2)
        with torch.inference_mode():
            return [self._network_on_cpu(batch)]

    @cached_property
    def _network_on_cpu(self) -> PrototypeNetwork:
        return deepcopy(self.network).cpu()


@lru_cache
def _warn_of_memory(device: str) -> None:
    """Once a process."""
    _LOG.warning("memory of %s ran out: smaller batches, then the CPU", device)


def collapse_rows(trunk: ResNet2d) -> ResNet1d:
    """A 2D trunk as the 1D trunk of the same function.

    Its stem reduces the leads to one row, after which the first and last row of every
    3 x 3 kernel only meet padding: a third of the products remains.
    """
    weights = {}
    for name, tensor in trunk.state_dict().items():
        if tensor.dim() == 4:  # (output, input, row, column)
            if name.startswith("stem."):
                tensor = tensor[:, 0]  # the rows are the leads: (output, lead, column)
            else:
                tensor = tensor[:, :, tensor.shape[2] // 2]
        weights[_without_dropout(name)] = tensor
    collapsed = ResNet1d(trunk.widths, leads=trunk.leads)
    collapsed.load_state_dict(weights)
    return collapsed


def _without_dropout(name: str) -> str:
    """Name of a block in a trunk that has no dropout between its third and fourth stage."""
    part, number, rest = name.split(".", 2)
    if part == "stages" and int(number) > DROPOUT_POSITION:
        return f"stages.{int(number) - 1}.{rest}"
    return name


def fold_batch_norm(network: PrototypeNetwork) -> PrototypeNetwork:
    """The same function for inference, each batch norm folded into its convolution.

    Parameters
    ----------
    network
        In eval mode; it is changed in place.
    """
    for module in list(network.modules()):
        children = dict(module.named_children())
        for conv, norm in _convolutions_before_norm(children):
            fused = torch.nn.utils.fusion.fuse_conv_bn_eval(children[conv], children[norm])  # pyright: ignore[reportArgumentType]
            setattr(module, conv, fused)
            setattr(module, norm, nn.Identity())
    return network


def _convolutions_before_norm(children: Mapping[str, nn.Module]) -> list[tuple[str, str]]:
    """Names of each convolution and the batch norm that follows it in a module."""
    names = list(children)
    return [
        (first, second)
        for first, second in pairwise(names)
        if isinstance(children[first], nn.Conv1d | nn.Conv2d)
        and isinstance(children[second], nn.BatchNorm1d | nn.BatchNorm2d)
    ]
