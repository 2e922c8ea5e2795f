"""The terms that train a prototype network (ProtoECGNet, arXiv 2504.08713, section 5).

Shapes: similarities ``(batch, prototype)``, labels ``(batch, label)`` with 1, 0 and NaN for
unknown. Departures: an unknown label takes part in no term; class weights are the
conventional ones unless the published rule is asked for.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class LossWeights:
    """Weight of each term; the published values."""

    clustering: float = 0.004
    separation: float = 0.0004
    sparsity: float = 0.0
    diversity: float = 250.0
    contrastive: float = 300.0
    l1: float = 1e-4


def classification(
    logit: Float[Tensor, "batch label"],
    labels: Float[Tensor, "batch label"],
    pos_weight: Float[Tensor, " label"] | None = None,
) -> Float[Tensor, ""]:
    """Binary cross-entropy over the known labels.

    Soft labels in [0, 1] are allowed; NaN is unknown and takes no part. 0 where no label is
    known.
    """
    known = ~torch.isnan(labels)
    loss = F.binary_cross_entropy_with_logits(
        logit, torch.nan_to_num(labels), pos_weight=pos_weight, reduction="none"
    )
    return (loss * known).sum() / known.sum().clamp(min=1)


def clustering(
    similarity: Float[Tensor, "batch prototype"],
    labels: Float[Tensor, "batch label"],
    identity: Float[Tensor, "prototype label"],
) -> Float[Tensor, ""]:
    """Draw each positive record to its nearest own prototype.

    ``clst = - mean_bc max_p S_bp I_pc y_bc``; absent labels give 0.
    """
    own = torch.einsum("bp,pc,bc->bcp", similarity, identity, torch.nan_to_num(labels))
    return -_mean_over_known(own.amax(-1), labels)


def separation(
    similarity: Float[Tensor, "batch prototype"],
    labels: Float[Tensor, "batch label"],
    identity: Float[Tensor, "prototype label"],
) -> Float[Tensor, ""]:
    """Push each record from the prototypes of other labels.

    ``sep = mean_bc max_p S_bp (1 - I_pc y_bc)``; for an absent label the maximum runs over
    all prototypes.
    """
    foreign = 1 - torch.einsum("pc,bc->bcp", identity, torch.nan_to_num(labels))
    masked = rearrange(similarity, "b p -> b 1 p") * foreign
    return _mean_over_known(masked.amax(-1), labels)


def sparsity(similarity: Float[Tensor, "batch prototype"]) -> Float[Tensor, ""]:
    """Mean over the batch of the sum of positive similarities."""
    return similarity.clamp(min=0).sum(1).mean()


def diversity(prototypes: Float[Tensor, "prototype feature step"]) -> Float[Tensor, ""]:
    """``||G - 1||_F^2 / P^2`` with G the Gram matrix of the normalised prototypes."""
    gram = _gram(prototypes)
    unit = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    return (gram - unit).square().sum() / len(gram) ** 2


def contrastive(
    prototypes: Float[Tensor, "prototype feature step"],
    identity: Float[Tensor, "prototype label"],
    cooccurrence: Float[Tensor, "label label"],
) -> Float[Tensor, ""]:
    """Draw prototypes of labels that occur together to each other, push others apart.

    ``cnrst = - (sum(Gc Q) / (sum Q + 1e-6) - sum(Gc (1-Q)) / (sum(1-Q) + 1e-6)) /
    sqrt(P)``, ``Q = I J I'``. The leading minus makes the sum a loss to minimise.
    """
    gram = _gram(prototypes).clamp(-(1 - 1e-6), 1 - 1e-6)
    together = identity @ cooccurrence @ identity.T
    apart = 1 - together
    attraction = (gram * together).sum() / (together.sum() + 1e-6)
    repulsion = (gram * apart).sum() / (apart.sum() + 1e-6)
    return -(attraction - repulsion) / len(gram) ** 0.5


def foreign_l1(
    weight: Float[Tensor, "label prototype"], identity: Float[Tensor, "prototype label"]
) -> Float[Tensor, ""]:
    """Sum of the absolute weights that a branch classifier gives to foreign prototypes."""
    return (weight.abs() * (1 - identity.T)).sum()


def prototype_terms(
    similarity: Float[Tensor, "batch prototype"],
    labels: Float[Tensor, "batch label"],
    prototypes: Float[Tensor, "prototype feature step"],
    identity: Float[Tensor, "prototype label"],
    cooccurrence: Float[Tensor, "label label"],
    weights: LossWeights,
) -> Float[Tensor, ""]:
    """Weighted sum of all terms of one branch but the classification."""
    terms: Mapping[str, Tensor] = {
        "clustering": clustering(similarity, labels, identity),
        "separation": separation(similarity, labels, identity),
        "sparsity": sparsity(similarity),
        "diversity": diversity(prototypes),
        "contrastive": contrastive(prototypes, identity, cooccurrence),
    }
    return torch.stack(
        [getattr(weights, name) * term for name, term in terms.items()]
    ).sum()


def label_cooccurrence(
    labels: Float[np.ndarray, "recording label"],
) -> Float[np.ndarray, "label label"]:
    """Jaccard index of every two labels among the training records.

    ``J_ij = n_ij / max(n_i + n_j - n_ij, 1e-6)``, over the records where both are known; a
    label without a positive has 0 everywhere, its diagonal included.
    """
    known = ~np.isnan(labels)
    positive = np.nan_to_num(labels).astype(np.float64)
    both = positive.T @ positive
    own = positive.T @ known
    union = own + own.T - both
    return both / np.maximum(union, 1e-6)


def positive_weights(
    labels: Float[np.ndarray, "recording label"],
    rule: Literal["conventional", "reference", "none"] = "conventional",
    *,
    cap: float = 10.0,
) -> Float[np.ndarray, " label"]:
    """Weight of a positive in the classification term.

    ``"conventional"``: ``(N - n) / n`` over the known labels, at most `cap`, `cap` for a
    label without a positive. ``"reference"``: ``(T - n) / n`` with T the sum of all
    positives, as the published code has it; infinite without a positive.
    """
    n = np.nansum(labels, axis=0)
    if rule == "none":
        return np.ones_like(n)
    if rule == "reference":
        with np.errstate(divide="ignore"):
            return (n.sum() - n) / n
    total = (~np.isnan(labels)).sum(axis=0)
    return np.clip((total - n) / np.maximum(n, 1e-6), 1.0 / cap, cap)


def _gram(
    prototypes: Float[Tensor, "prototype feature step"],
) -> Float[Tensor, "prototype prototype"]:
    flat = F.normalize(rearrange(prototypes, "p f s -> p (f s)"), dim=1)
    return flat @ flat.T


def _mean_over_known(
    values: Float[Tensor, "batch label"], labels: Float[Tensor, "batch label"]
) -> Float[Tensor, ""]:
    known = ~torch.isnan(labels)
    return (values * known).sum() / known.sum().clamp(min=1)
