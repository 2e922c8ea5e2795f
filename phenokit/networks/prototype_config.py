"""What a prototype network is made of and what it answers; nothing here needs torch.

`phenokit.networks.prototype` is the network in torch, which is trained;
`phenokit.networks.exported` the same function as a graph that scores without torch.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float32, Int64

from phenokit.statements import Branch

SAMPLES = 1000
"""Samples of the input: 10 s at 100 Hz."""

STRIDE = 32
"""Samples a latent step: every trunk halves the time axis five times."""

DROPOUT_POSITION = 6
"""Where a 2D trunk has its dropout: after the two blocks of each of three stages."""

BRANCHES: tuple[Branch, ...] = ("rhythm", "morphology", "global")
"""The order of branches wherever their prototypes stand one after the other."""

Pooling = Literal["max", "topk", "mean"]


@dataclass(frozen=True)
class TrunkConfig:
    """One convolutional trunk.

    Attributes
    ----------
    kind
        ``"resnet1d"`` and ``"resnet2d"`` as published, ``"bounded"``: one kernel of three a
        halving of the time axis, all others of one.
    widths
        Channels of the four stages.
    """

    kind: Literal["resnet1d", "resnet2d", "bounded"]
    widths: tuple[int, ...]


@dataclass(frozen=True)
class BranchConfig:
    """One branch: its trunk and its prototypes.

    Attributes
    ----------
    trunk
        Key of the trunk that feeds it; two branches may share one.
    labels
        Labels that have prototypes here; prototypes are contiguous by label.
    n_prototypes
        Prototypes of each label, in the order of `labels`.
    window
        Latent steps of a prototype; ``None``: the whole recording, pooled over time.
    time_pooling
        Of a branch without window: ``"mean"``, or ``"mean_max"``, mean and maximum beside
        each other, so that one abnormal beat is not averaged away.
    context
        Residual blocks over the whole recording between trunk and prototypes.
    """

    trunk: str
    labels: tuple[str, ...]
    n_prototypes: tuple[int, ...]
    window: int | None
    time_pooling: Literal["mean", "mean_max"] = "mean"
    context: int = 0


@dataclass(frozen=True)
class PrototypeConfig:
    """The whole network.

    Attributes
    ----------
    labels
        Labels of the fused head, in order.
    features
        Channels of the latent features that the add-on layers make of the trunk's, as
        published; ``None``: prototypes live among the trunk's own features.
    similarity
        ``"cosine"``, at most 1, or ``"reference"``: the published scaled cosine with
        ceilings 1, 13 and 4.
    pooling
        How window similarities become one: ``"max"``; ``"topk"``, the mean of the five
        best; ``"mean"``, as the published code scores.
    dropout
        Share of trunk features dropped while training.
    """

    labels: tuple[str, ...]
    trunks: dict[str, TrunkConfig]
    branches: dict[Branch, BranchConfig]
    features: int | None
    similarity: Literal["cosine", "reference"] = "cosine"
    pooling: Pooling = "max"
    dropout: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """As plain data for ``config.json``."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "PrototypeConfig":
        """From what `to_dict` wrote."""
        return cls(
            labels=tuple(data["labels"]),
            trunks={
                key: TrunkConfig(t["kind"], tuple(t["widths"]))
                for key, t in data["trunks"].items()
            },
            # similarities stand in the order of BRANCHES, whatever the order in a file
            branches={
                name: BranchConfig(
                    b["trunk"],
                    tuple(b["labels"]),
                    tuple(b["n_prototypes"]),
                    b["window"],
                    b["time_pooling"],
                    b["context"],
                )
                for name in BRANCHES
                if (b := data["branches"].get(name)) is not None
            },
            features=data["features"],
            similarity=data["similarity"],
            pooling=data["pooling"],
            dropout=data["dropout"],
        )


class Forward(NamedTuple):
    """What the network says of a batch, before the fused head.

    `similarity` ``(batch, prototype)``, in the order of `BRANCHES`; `window`
    ``(batch, prototype)``, the best window's first latent step; `features`
    ``(batch, feature)``, each branch's latent features, averaged over time and normalised,
    one after the other.
    """

    similarity: Float32[np.ndarray, "batch prototype"]
    window: Int64[np.ndarray, "batch prototype"]
    features: Float32[np.ndarray, "batch feature"]


def ceiling(features: int, steps: int) -> float:
    """Highest similarity in reference mode: 1 for one step, else floor(sqrt(f T)) / T.

    Examples
    --------
    >>> ceiling(512, 3), ceiling(512, 32), ceiling(512, 1)
    (13.0, 4.0, 1.0)
    """
    return 1.0 if steps == 1 else math.isqrt(features * steps) / steps
