"""MVPFormer one segment at a time: what is kept from one segment to the next.

Two ways, each with a state of fixed shape, so that every step is the same computation:

    exact    the encoder's tokens of the window are kept and decoded again with each new
             segment; any weights. Deeper layers see a prefix that shrinks as the window
             moves, so nothing of theirs can be kept.
    cached   keys and values of every layer are kept for the horizon of the attention. Only
             where rows are looked up by distance, no segment is exempt from the window and
             attention ends at a horizon: then it equals one pass over the whole recording.

The published code cannot stream: its cache joins past keys along the axis of channels.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from phenokit.networks.mvpa import AttentionRule
from phenokit.networks.mvpformer import Grid, MVPFormer


class Window(NamedTuple):
    """Tokens of the last segments, the newest last; a segment before the first is masked.

    Attributes
    ----------
    tokens
        Of the encoder.
    valid
        Which of them hold a usable signal.
    """

    tokens: Float[Tensor, "time channel feature"]
    valid: Bool[Tensor, "time channel"]


class Cache(NamedTuple):
    """Keys and values of the last segments of every layer; masked as in `Window`."""

    keys: Float[Tensor, "layer time channel kv_head feature"]
    values: Float[Tensor, "layer time channel kv_head feature"]
    valid: Bool[Tensor, "time channel"]


def can_cache(rule: AttentionRule) -> bool:
    """Whether keys and values of the past stay what they are as segments arrive."""
    return rule.index == "distance" and not rule.exempt_last and rule.horizon is not None


def empty_window(network: MVPFormer, *, n_segments: int, n_channels: int) -> Window:
    """The state of "exact" before the first segment."""
    tokens = _zeros(network, n_segments, n_channels, network.config.width)
    return Window(tokens, _nothing(network, n_segments, n_channels))


def empty_cache(network: MVPFormer, *, n_channels: int) -> Cache:
    """The state of "cached" before the first segment.

    Raises
    ------
    ValueError
        If the attention of the network does not allow it; see `can_cache`.
    """
    config, rule = network.config, network.config.rule
    if not can_cache(rule) or rule.horizon is None:
        raise ValueError(
            "keys and values can be kept only with index='distance', a horizon and "
            "exempt_last=False"
        )
    head = config.width // config.n_heads
    shape = (config.n_layers, rule.horizon, n_channels, config.n_kv_heads, head)
    keys = _zeros(network, *shape)
    return Cache(keys, torch.zeros_like(keys), _nothing(network, rule.horizon, n_channels))


@torch.inference_mode()
def push_window(
    network: MVPFormer,
    window: Window,
    signal: Float[Tensor, "channel sample"],
    valid: Bool[Tensor, " channel"],
) -> Window:
    """The window one segment on."""
    token = network.encode(signal[None, None], valid[None, None])[0]
    return Window(_shifted(window.tokens, token), _shifted(window.valid, valid[None]))


@torch.inference_mode()
def decode_window(
    network: MVPFormer,
    window: Window,
    *,
    channel_pos: Int[Tensor, " channel"] | None = None,
) -> Float[Tensor, "channel feature"]:
    """Features of the window's last segment, as `MVPFormer.classify` averages them."""
    positions = None if channel_pos is None else channel_pos[None]
    grid = Grid(key_mask=window.valid[None], channel_pos=positions)
    return network.decode(window.tokens[None], grid, n_queries=1)[0, 0]


@torch.inference_mode()
def step_cached(
    network: MVPFormer,
    cache: Cache,
    signal: Float[Tensor, "channel sample"],
    valid: Bool[Tensor, " channel"],
    *,
    channel_pos: Int[Tensor, " channel"] | None = None,
) -> tuple[Float[Tensor, "channel feature"], Cache]:
    """Features of the next segment, and the cache one segment on.

    What one pass over all segments since the cache was empty says of this segment.
    """
    n_times = len(cache.valid)
    mask = _shifted(cache.valid, valid[None])
    positions = None if channel_pos is None else channel_pos[None]
    grid = Grid(key_mask=mask[None], channel_pos=positions)
    # only rows of the distances that occur are projected
    P = network.positional_embedding.weight[:n_times]
    Q = network.channel_embedding.weight
    x = network.encode(signal[None, None], valid[None, None])
    keys, values = [], []
    blocks: list[Any] = list(network.blocks)
    for block, past_k, past_v in zip(blocks, cache.keys, cache.values, strict=True):
        n = block.ln_1(x)
        k, v = block.attn.keys_values(n)
        k, v = _shifted(past_k, k[0]), _shifted(past_v, v[0])
        x = x + block.attn.attend(n, k[None], v[None], P, Q, grid) + block.mlp(n)
        keys.append(k)
        values.append(v)
    features = network.ln_f(x)[0, 0]
    return features, Cache(torch.stack(keys), torch.stack(values), mask)


def _zeros(network: MVPFormer, *shape: int) -> Tensor:
    return network.channel_embedding.weight.new_zeros(shape, requires_grad=False)


def _nothing(network: MVPFormer, n_segments: int, n_channels: int) -> Tensor:
    return _zeros(network, n_segments, n_channels).bool()


def _shifted(past: Tensor, new: Tensor) -> Tensor:
    """The newest at the end, the oldest gone."""
    return torch.cat([past[1:], new])
