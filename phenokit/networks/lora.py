"""Low-rank adapters of linear maps (Hu et al. 2021, arXiv 2106.09685).

An adapter adds ``scale * B A`` to a frozen weight, B and A of a low rank. Merged, the
network costs what it cost before.
"""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

ALPHA = 16
"""Scale times rank, as published."""


class AdaptedLinear(nn.Module):
    """A linear map without bias whose weight is frozen, and its adapter.

    Parameters
    ----------
    linear
        The map; its weight is taken over, not copied.
    rank
        Of the adapter.
    rows
        The adapter is added to so many rows at the end of the weight; ``None``: to all.
    alpha
        The scale is ``alpha / rank``.
    generator
        Draws A; B begins at 0, so that nothing changes at first.
    """

    def __init__(
        self,
        linear: nn.Linear,
        *,
        rank: int,
        rows: int | None = None,
        alpha: float = ALPHA,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        n_rows, n_inputs = linear.weight.shape
        self.weight = linear.weight.requires_grad_(False)
        a = torch.empty_like(self.weight[:1].expand(rank, -1))
        nn.init.uniform_(a, -1 / math.sqrt(n_inputs), 1 / math.sqrt(n_inputs), generator)
        self.lora_A = nn.Parameter(a)
        self.lora_B = nn.Parameter(self.weight.new_zeros(rows or n_rows, rank))
        self.scale = alpha / rank
        self.merged = False

    def forward(self, x: Float[Tensor, "... input"]) -> Float[Tensor, "... output"]:
        """The map, with what the adapter adds."""
        y = F.linear(x, self.weight)
        if self.merged:
            return y
        added = self.scale * F.linear(F.linear(x, self.lora_A), self.lora_B)
        return y + F.pad(added, (y.shape[-1] - added.shape[-1], 0))

    @torch.no_grad()
    def merge(self) -> None:
        """Add the adapter to the weight; to be called before inference."""
        if not self.merged:
            self._move(1)

    @torch.no_grad()
    def unmerge(self) -> None:
        """Take the adapter out of the weight again, up to rounding."""
        if self.merged:
            self._move(-1)

    def _move(self, sign: int) -> None:
        self.weight[-len(self.lora_B) :] += sign * self.scale * (self.lora_B @ self.lora_A)
        self.merged = sign > 0


def adapters(network: nn.Module) -> Iterator[AdaptedLinear]:
    """All adapted maps of a network."""
    return (m for m in network.modules() if isinstance(m, AdaptedLinear))


def merge(network: nn.Module) -> None:
    """Add every adapter to its weight: the same function at the cost of none."""
    for adapter in adapters(network):
        adapter.merge()


def unmerge(network: nn.Module) -> None:
    """Undo `merge`, up to rounding."""
    for adapter in adapters(network):
        adapter.unmerge()
