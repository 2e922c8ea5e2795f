"""Multi-variate parallel attention (MVPA): every backend is the same function.

Carzaniga, Hersche, Sebastian, Schindler & Rahimi 2025, arXiv 2506.20354. The tokens of an
intracranial EEG stand on a grid of T segments by C channels. A query (t, c) looks at every
channel of its own and of earlier segments, and three terms add up in a logit:

    logit[(t,c),(t',c')] = m / sqrt(d) * ( (q + b_t) . R[row of t - t']
                                         + (q + b_c) . S[row of |c - c'|]
                                         + near * (q + b_e) . k[t',c'] )        for t' <= t

R and S are projections of a learned table of time rows and one of channel rows; near is 1
inside a window of segments and for the last segment, else 0: far keys lose their content
but keep their weight. The logits are scaled, as in the published code; published summaries
scale the probabilities.

The first two terms need (TC)(T + C) numbers and are computed once (`_Parts`). The backends
differ in how they get from there to the output without holding (TC)^2 logits:

    dense   the formula; holds all logits; the law that the others are tested against
    chunk   a block of queries at a time; backward computes each block again, unless all of
            them are small
    sdpa    plain scaled-dot-product attention: the first two terms become further entries
            of query and key
    flex    PyTorch's FlexAttention, for GPUs; not run on a GPU yet

Departures from the published code: keys can be masked, ragged items can be padded, rows can
be looked up by distance alone (`AttentionRule.index`), dropout is structured (whole
segments and whole channels of keys) and drawn by the caller, so that all backends agree.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

Backend = Literal["auto", "dense", "chunk", "sdpa", "flex"]

MEMORY_LIMIT = 16 << 20
"""Bytes that the live logits of one block may take."""

_LIVE_COPIES = 3
"""Arrays of a block's size that backward holds: probabilities, their gradient, one more."""

_BLOCK = 2 << 20
_ROWS = 128
"""Bytes of logits and rows of a block on a CPU, where they are not capped lower: what
its cache holds, and enough for a matrix product. One segment's queries may be more."""

_FEW_CHANNELS = 16
"""From here on the channels are enough to be the last axis of an array."""


@dataclass(frozen=True)
class AttentionRule:
    """Which keys a query sees, and which terms of the logit count.

    Attributes
    ----------
    index
        ``"distance"``: row = distance, whatever T and C. ``"reference"``: row =
        T - 1 - (t - t') and C - 1 - abs(c - c'), as the published weights need it; one
        weight then means another distance when T or C changes.
    window
        Segments back to which a key's content counts.
    exempt_last
        The last segment sees the content of all keys.
    content, time, channel
        ``False`` leaves a term out.
    horizon
        Segments that a query sees at all, its own included; ``None``: all.
    layer_scale
        m of the formula.
    """

    index: Literal["distance", "reference"] = "distance"
    window: int = 10
    exempt_last: bool = True
    content: bool = True
    time: bool = True
    channel: bool = True
    horizon: int | None = None
    layer_scale: float = 1.0


@dataclass(frozen=True, eq=False)
class _Sight:
    """Which keys each segment of queries sees, and of which it sees the content."""

    spans: tuple[tuple[int, int], ...]
    """First and one past the last segment of keys, by segment of queries."""
    edges: tuple[tuple[int, ...], ...]
    """First segment of keys whose content is seen, by item (or one for all) and segment
    of queries."""
    key_mask: Bool[Tensor, "batch token"] | None
    n_channels: int

    def tokens(self, step: int) -> slice:
        """Keys that a segment of queries sees."""
        first, stop = self.spans[step]
        return slice(first * self.n_channels, stop * self.n_channels)

    def binds(self) -> bool:
        """Whether the window takes the content of a key that some segment sees."""
        starts = tuple(first for first, _ in self.spans)
        return any(edges != starts for edges in self.edges)

    def near(self, device: torch.device) -> Bool[Tensor, "#batch query time"]:
        """Whose content is seen, of all segments."""
        return _near(self.edges, 0, self.spans[-1][1], device)

    def unseen(self, device: torch.device) -> Bool[Tensor, "query time"]:
        """What is not seen at all, of all segments."""
        return _unseen(self.spans, 0, self.spans[-1][1], device)

    def hidden(self, tokens: slice) -> Bool[Tensor, "batch 1 1 token"] | None:
        """Which of these keys are masked."""
        if self.key_mask is None:
            return None
        return rearrange(~self.key_mask[:, tokens], "batch token -> batch 1 1 token")

    def item(self, i: int) -> "_Sight":
        """Of one item of the batch."""
        one = slice(i, i + 1)
        mask = None if self.key_mask is None else self.key_mask[one]
        return _Sight(self.spans, self.edges[one], mask, self.n_channels)


@lru_cache(maxsize=64)
def _spans(
    horizon: int | None, n_queries: int, n_times: int
) -> tuple[tuple[int, int], ...]:
    """`_Sight.spans`."""
    horizon = n_times if horizon is None else horizon
    steps = range(n_times - n_queries, n_times)
    return tuple((max(0, step - horizon + 1), step + 1) for step in steps)


@lru_cache(maxsize=256)
def _edges(
    rule: AttentionRule, spans: tuple[tuple[int, int], ...], length: int
) -> tuple[int, ...]:
    """`_Sight.edges` of an item of so many segments."""
    edges = []
    for first, stop in spans:
        edge = max(first, stop - 1 - rule.window)
        if rule.exempt_last and stop == length:
            edge = first
        edges.append(edge if rule.content else stop)
    return tuple(edges)


@lru_cache(maxsize=64)
@torch.inference_mode(mode=False)  # kept, and used where gradients are wanted
def _near(
    edges: tuple[tuple[int, ...], ...], first: int, stop: int, device: torch.device
) -> Bool[Tensor, "#batch query time"]:
    """Of which of these segments of keys the content is seen."""
    time = torch.arange(first, stop, device=device)
    return time >= torch.tensor(edges, device=device)[..., None]


@lru_cache(maxsize=64)
@torch.inference_mode(mode=False)
def _unseen(
    spans: tuple[tuple[int, int], ...], first: int, stop: int, device: torch.device
) -> Bool[Tensor, "query time"]:
    """Which of these segments of keys are not seen."""
    time = torch.arange(first, stop, device=device)
    starts, stops = torch.tensor(spans, device=device)[..., None].unbind(1)
    return (time < starts) | (time >= stops)


class _Parts(NamedTuple):
    """The small parts of every logit, scale included.

    A logit is ``near * query . key + time[t'] + channel[c']``. Queries that share a key
    head stand together: `row` counts the heads of the group, then the channels.
    """

    query: Float[Tensor, "batch kv_head query row feature"]
    key: Float[Tensor, "batch kv_head time channel feature"]
    value: Float[Tensor, "batch kv_head time channel feature"]
    time: Float[Tensor, "batch kv_head query row time"]
    channel: Float[Tensor, "batch kv_head query row channel"]


def mvpa(
    q: Float[Tensor, "batch query channel head feature"],
    k: Float[Tensor, "batch time channel kv_head feature"],
    v: Float[Tensor, "batch time channel kv_head feature"],
    R: Float[Tensor, "time_row kv_head feature"],
    S: Float[Tensor, "channel_row kv_head feature"],
    bias: Float[Tensor, "3 kv_head feature"],
    *,
    rule: AttentionRule = AttentionRule(),
    key_mask: Bool[Tensor, "batch time channel"] | None = None,
    n_seg: Int[Tensor, " batch"] | None = None,
    n_ch: Int[Tensor, " batch"] | None = None,
    channel_pos: Int[Tensor, "#batch channel"] | None = None,
    keep_time: Float[Tensor, " time"] | None = None,
    keep_chan: Float[Tensor, " channel"] | None = None,
    backend: Backend = "auto",
    memory_limit: int = MEMORY_LIMIT,
) -> Float[Tensor, "batch query channel head feature"]:
    """Attend from every token to the channels of its own and of earlier segments.

    Parameters
    ----------
    q
        Queries, finite; fewer segments than `k` has: the last ones of it.
    k, v
        Keys and values; query head h uses key head ``h // (head / kv_head)``.
    R, S
        Projected rows of the time and of the channel table.
    bias
        b_e (content), b_t (time), b_c (channel).
    key_mask
        ``True`` keeps a key; what a masked key holds does not matter, NaN included.
    n_seg, n_ch
        Segments and channels of each item before it was padded at its end: they take the
        place of T and C, and the padding is masked. The item's own part of the output is
        that of the item alone.
    channel_pos
        Position of each channel on a line, for distances that stay true where channels
        were dropped; default 0, 1, 2 ... Only with ``index="distance"``.
    keep_time, keep_chan
        Structured dropout as `draw_keep` draws it: factors of the values.
    backend
        ``"auto"`` is ``"chunk"``: no other is faster by much at any size, and it needs
        nothing but matrix products.
    memory_limit
        Bytes of logits that ``"chunk"`` may hold at a time; its least block is one query.
        A quarter of it may stay until backward.

    Returns
    -------
    Tensor
        Values weighted by their probabilities; exactly 0, with zero gradient, for a query
        that sees no key.

    Raises
    ------
    ValueError
        If T or C reaches past the end of a table, or arguments contradict each other.
    """
    parts, sight = _prepare(
        q, k, v, R, S, bias, rule, key_mask, n_seg, n_ch, channel_pos, keep_time, keep_chan
    )
    if backend == "dense":
        y = _probabilities(parts, sight).flatten(2, 3) @ parts.value.flatten(2, 3)
        y = y.unflatten(2, parts.query.shape[2:4])
    elif backend in ("auto", "chunk"):
        y = _Chunk.apply(*parts, sight, memory_limit)
    elif backend == "sdpa":
        y = _sdpa(parts, sight)
    else:
        y = _flex(parts, sight)
    y = _zero_where_blind(y, sight)
    return rearrange(
        y,
        "batch kv query (group channel) feature -> batch query channel (kv group) feature",
        channel=q.shape[2],
    )


def attention_probabilities(
    q: Float[Tensor, "batch query channel head feature"],
    k: Float[Tensor, "batch time channel kv_head feature"],
    R: Float[Tensor, "time_row kv_head feature"],
    S: Float[Tensor, "channel_row kv_head feature"],
    bias: Float[Tensor, "3 kv_head feature"],
    *,
    rule: AttentionRule = AttentionRule(),
    key_mask: Bool[Tensor, "batch time channel"] | None = None,
    n_seg: Int[Tensor, " batch"] | None = None,
    n_ch: Int[Tensor, " batch"] | None = None,
    channel_pos: Int[Tensor, "#batch channel"] | None = None,
) -> Float[Tensor, "batch head query channel time key_channel"]:
    """The weights of `mvpa` before dropout; memory grows with (TC)^2, so for small inputs.

    Parameters and errors are those of `mvpa`. All 0 for a query that sees no key.
    """
    parts, sight = _prepare(q, k, k, R, S, bias, rule, key_mask, n_seg, n_ch, channel_pos)
    return rearrange(
        _zero_where_blind(_probabilities(parts, sight), sight),
        "batch kv query (group channel) (time key_channel)"
        " -> batch (kv group) query channel time key_channel",
        channel=q.shape[2],
        key_channel=q.shape[2],
    )


def draw_keep(n: int, dropout: float, *, generator: torch.Generator) -> Float[Tensor, " n"]:
    """Factors of structured dropout for the segments or for the channels of keys.

    Each is dropped with probability ``1 - sqrt(1 - dropout)``, so that a key, which needs
    its segment and its channel, is dropped with probability `dropout`. Survivors are
    scaled to keep the mean.

    Examples
    --------
    >>> draw_keep(2, 0.0, generator=torch.Generator())
    tensor([1., 1.])
    """
    keep = math.sqrt(1 - dropout)
    return (torch.rand(n, generator=generator) < keep) / keep


# --- the small parts --------------------------------------------------------------------


def _prepare(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    R: Tensor,
    S: Tensor,
    bias: Tensor,
    rule: AttentionRule,
    key_mask: Tensor | None,
    n_seg: Tensor | None,
    n_ch: Tensor | None,
    channel_pos: Tensor | None,
    keep_time: Tensor | None = None,
    keep_chan: Tensor | None = None,
) -> tuple[_Parts, _Sight]:
    """All parts of the logits that grow slower than (TC)^2."""
    n_queries, n_channels, n_heads, d = q.shape[1:]
    n_times, n_kv_heads = k.shape[1], k.shape[3]
    if n_heads % n_kv_heads:
        raise ValueError(f"{n_heads} heads cannot share {n_kv_heads} key heads")
    if n_queries > n_times:
        raise ValueError(f"queries of {n_queries} segments, keys of only {n_times}")
    if n_seg is not None and n_queries < n_times:
        raise ValueError("with n_seg, queries and keys need the same segments")
    if channel_pos is not None and rule.index == "reference":
        raise ValueError('channel_pos needs index="distance"')

    lengths = (n_times,) if n_seg is None else tuple(n_seg.tolist())
    counts = (n_channels,) if n_ch is None else tuple(n_ch.tolist())
    spans = _spans(rule.horizon, n_queries, n_times)
    edges = tuple(_edges(rule, spans, length) for length in lengths)

    if n_seg is not None or n_ch is not None:
        inside = _inside(k, n_seg, n_ch)
        key_mask = inside if key_mask is None else key_mask & inside
    if key_mask is not None:
        # selected, not multiplied: NaN x 0 is NaN
        k, v = (torch.where(key_mask[..., None, None], x, 0) for x in (k, v))
        key_mask = rearrange(key_mask, "batch time channel -> batch (time channel)")
    if keep_time is not None:
        v = v * rearrange(keep_time.to(v), "time -> time 1 1 1")
    if keep_chan is not None:
        v = v * rearrange(keep_chan.to(v), "channel -> channel 1 1")

    distance = _channel_distance(n_channels, channel_pos, n_ch)
    needed = max(counts) if rule.index == "reference" else int(distance.amax()) + 1
    if max(lengths) > len(R) or needed > len(S):
        raise ValueError(
            f"T = {max(lengths)} segments and C = {n_channels} channels need "
            f"{max(lengths)} time rows and {needed} channel rows; "
            f"the tables have {len(R)} and {len(S)}"
        )
    if rule.index == "reference":
        R_by_lag = _from_the_end(R, lengths, n_times)
        S_by_distance = _from_the_end(S, counts, n_channels)
    else:
        R_by_lag, S_by_distance = R[None, :n_times], S[None, :needed]

    scale = rule.layer_scale / math.sqrt(d)
    shape = (len(q), n_kv_heads, n_queries, n_heads // n_kv_heads * n_channels)
    q = q.unflatten(3, (n_kv_heads, -1)).permute(0, 3, 1, 4, 2, 5).reshape(*shape, d)
    b_e, b_t, b_c = (scale * bias).reshape(3, n_kv_heads, 1, 1, d)
    time = q.new_zeros(()).expand(*shape, n_times)
    if rule.time:
        time = _time_terms(torch.add(b_t, q, alpha=scale), R_by_lag, n_times)
    channel = q.new_zeros(()).expand(*shape, n_channels)
    if rule.channel:
        channel = _channel_terms(torch.add(b_c, q, alpha=scale), S_by_distance, distance)
    parts = _Parts(
        query=torch.add(b_e, q, alpha=scale),
        key=k.permute(0, 3, 1, 2, 4).contiguous(),
        value=v.permute(0, 3, 1, 2, 4).contiguous(),
        time=time,
        channel=channel,
    )
    return parts, _Sight(spans, edges, key_mask, n_channels)


def _time_terms(
    query: Float[Tensor, "batch kv_head query row feature"],
    R_by_lag: Float[Tensor, "#batch lag kv_head feature"],
    n_times: int,
) -> Float[Tensor, "batch kv_head query row time"]:
    """First term of the logits; any value for segments to come."""
    by_lag = query.flatten(2, 3) @ R_by_lag.permute(0, 2, 3, 1)
    by_lag = by_lag.unflatten(2, query.shape[2:4])
    time = torch.arange(n_times)
    lag = (time[n_times - query.shape[2] :, None] - time).clamp(min=0).to(query.device)
    return by_lag.gather(-1, lag[:, None].expand(*query.shape[:4], -1))


def _channel_terms(
    query: Float[Tensor, "batch kv_head query row feature"],
    S_by_distance: Float[Tensor, "#batch distance kv_head feature"],
    distance: Int[Tensor, "#batch channel channel"],
) -> Float[Tensor, "batch kv_head query row channel"]:
    """Second term of the logits."""
    by_distance = query.flatten(2, 3) @ S_by_distance.permute(0, 2, 3, 1)
    by_distance = by_distance.unflatten(2, (-1, distance.shape[-1]))
    index = distance.to(query.device)[:, None, None]
    index = index.expand(*by_distance.shape[:-1], -1)
    return by_distance.gather(-1, index).view(*query.shape[:4], -1)


def _from_the_end(
    rows: Float[Tensor, "row kv_head feature"], lengths: tuple[int, ...], n: int
) -> Float[Tensor, "#batch distance kv_head feature"]:
    """Rows of distance 0, 1 ... n - 1 in ``reference``; row 0 where only padding looks."""
    if lengths == (n,):
        return rows[:n].flip(0)[None]
    return rows[(torch.tensor(lengths)[:, None] - 1 - torch.arange(n)).clamp(min=0)]


def _inside(k: Tensor, n_seg: Tensor | None, n_ch: Tensor | None) -> Tensor:
    """Which keys are no padding."""
    batch, n_times, n_channels = k.shape[:3]
    inside = torch.ones(batch, n_times, n_channels, dtype=torch.bool, device=k.device)
    if n_seg is not None:
        times = torch.arange(n_times, device=k.device)
        inside &= (times < n_seg.to(k.device)[:, None])[:, :, None]
    if n_ch is not None:
        channels = torch.arange(n_channels, device=k.device)
        inside &= (channels < n_ch.to(k.device)[:, None])[:, None, :]
    return inside


def _channel_distance(
    n_channels: int, channel_pos: Tensor | None, n_ch: Tensor | None
) -> Int[Tensor, "#batch channel channel"]:
    """Distance of every two channels, on the CPU; 0 where one of them is padding."""
    position = torch.arange(n_channels)[None] if channel_pos is None else channel_pos.cpu()
    distance = (position[:, :, None] - position[:, None, :]).abs()
    if n_ch is not None:
        real = torch.arange(n_channels) < n_ch.cpu()[:, None]
        distance = distance * (real[:, :, None] & real[:, None, :])
    return distance


def _zero_where_blind(y: Tensor, sight: _Sight) -> Tensor:
    """Exactly 0 for queries that see no key: those of a segment of an item."""
    mask = sight.key_mask
    if mask is None:
        return y
    mask = mask.unflatten(1, (-1, sight.n_channels)).any(-1)
    sees = (mask[:, None] & ~sight.unseen(mask.device)).any(-1)
    return torch.where(rearrange(sees, "batch query -> batch 1 query 1 1"), y, 0)


# --- dense: the law ---------------------------------------------------------------------


def _probabilities(
    parts: _Parts, sight: _Sight
) -> Float[Tensor, "batch kv_head query row token"]:
    """Softmax over all keys; any finite value for queries that see none."""
    n_times, device = parts.time.shape[-1], parts.query.device
    # the lowest finite number, not -inf: a row without any key stays finite
    lowest = torch.finfo(parts.query.dtype).min
    # all segments of queries in one product: a key would be copied for each of them
    logit = parts.query.flatten(2, 3) @ parts.key.flatten(2, 3).mT
    logit = logit.unflatten(2, parts.query.shape[2:4]).unflatten(-1, (n_times, -1))
    if sight.binds():
        near = rearrange(sight.near(device), "batch query time -> batch 1 query 1 time 1")
        logit = torch.where(near, logit, 0)
    unseen = rearrange(sight.unseen(device), "query time -> query 1 time")
    logit += parts.time.masked_fill(unseen, lowest)[..., None]
    logit += parts.channel[..., None, :]
    logit = logit.flatten(-2)
    if sight.key_mask is not None:
        logit = logit.masked_fill(
            rearrange(~sight.key_mask, "batch token -> batch 1 1 1 token"), lowest
        )
    return logit.softmax(-1)


# --- chunk: blocks of queries -----------------------------------------------------------


class _Block(NamedTuple):
    """Queries whose logits live at the same time, and the keys they see.

    Keys stand by segment and channel; by channel and segment where the channels are few
    and the segments are not, because adding along a short last axis is slow.
    """

    items: slice
    steps: slice
    """Segments of queries; several only if all of their rows are in the block."""
    rows: slice
    first: int
    """First segment of keys."""
    edge: int
    """First segment of keys whose content some of the queries see."""
    stop: int
    """One past the last segment of keys."""
    mixed: bool
    """Whether the queries see the content of different segments."""
    by_channel: bool
    """Whether keys stand by channel and segment."""

    @property
    def queries(self) -> tuple[slice, slice, slice, slice]:
        """Index of the queries in what is laid out as `_Parts.query`."""
        return self.items, slice(None), self.steps, self.rows

    def size(self, parts: "_Parts") -> int:
        """Logits of the block."""
        batch, kv_heads, n_steps, n_rows, _ = parts.query[self.queries].shape
        n_tokens = (self.stop - self.first) * parts.key.shape[3]
        return batch * kv_heads * n_steps * n_rows * n_tokens

    @property
    def axes(self) -> tuple[int, int]:
        """Segments and channels of the keys in what `grid` returns."""
        return (-1, -2) if self.by_channel else (-2, -1)

    def keys(
        self, key: Float[Tensor, "all kv_head time channel feature"], first: int
    ) -> Float[Tensor, "batch kv_head token feature"]:
        """Keys or values from a segment on."""
        k = key[self.items, :, first : self.stop]
        return (k.transpose(2, 3) if self.by_channel else k).flatten(2, 3)

    def add_keys(
        self,
        k: Float[Tensor, "batch kv_head token feature"],
        total: Float[Tensor, "all kv_head time channel feature"],
        first: int,
    ) -> None:
        """Add to where `keys` takes from."""
        here = total[self.items, :, first : self.stop]
        here = here.transpose(2, 3) if self.by_channel else here
        here += k.view(here.shape)

    def grid(
        self, logit: Float[Tensor, "batch kv_head row_of_block token"], first: int
    ) -> Float[Tensor, "batch kv_head query row key_1 key_2"]:
        """Logits of the keys from a segment on, as a view."""
        n_steps, n_times = self.steps.stop - self.steps.start, self.stop - first
        by_key = (-1, n_times) if self.by_channel else (n_times, -1)
        return logit.unflatten(2, (n_steps, -1)).unflatten(-1, by_key)


class _Chunk(torch.autograd.Function):
    """One block of logits lives at a time, forward and backward."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        query: Tensor,
        key: Tensor,
        value: Tensor,
        time: Tensor,
        channel: Tensor,
        sight: _Sight,
        memory_limit: int,
    ) -> Tensor:
        parts = _Parts(query, key, value, time, channel)
        blocks = _blocks_of(parts, sight, memory_limit)
        keep = any(ctx.needs_input_grad) and _few(parts, blocks, memory_limit)
        output, kept = torch.empty_like(query), []
        room = query.new_empty(
            0 if keep else max((x.size(parts) for x in blocks), default=0)
        )
        for block in blocks:
            p = _block_probabilities(parts, sight, block, None, None if keep else room)
            here = output[block.queries]
            here.copy_((p @ block.keys(value, block.first)).view_as(here))
            if keep:
                kept.append(p)
        ctx.save_for_backward(*parts, output, *kept)
        ctx.sight, ctx.blocks = sight, blocks
        return output

    @staticmethod
    def backward(
        ctx: Any,  # noqa: ANN401
        *grads: Tensor,
    ) -> tuple[Tensor | None, ...]:
        query, key, value, time, channel, output, *kept = ctx.saved_tensors
        parts, sight = _Parts(query, key, value, time, channel), ctx.sight
        wide = torch.promote_types(query.dtype, torch.float32)  # sums over many blocks
        total = _Parts(*(torch.zeros(x.shape, dtype=wide, device=x.device) for x in parts))
        n = max((x.size(parts) for x in ctx.blocks), default=0)
        room, more = (
            torch.empty(x, dtype=wide, device=query.device) for x in (0 if kept else n, n)
        )
        for i, block in enumerate(ctx.blocks):
            p = kept[i] if kept else _block_probabilities(parts, sight, block, wide, room)
            here = block.queries
            dy, y = (x[here].to(wide).flatten(2, 3) for x in (grads[0], output))
            block.add_keys(p.mT @ dy, total.value, block.first)
            v = block.keys(value, block.first).to(wide)
            d_logit = torch.matmul(dy, v.mT, out=more[: p.numel()].view(p.shape))
            d_logit -= (dy * y).sum(-1, keepdim=True)
            d_logit *= p
            _add_block(total, d_logit, parts, sight, block)
        return *(x.to(query.dtype) for x in total), None, None


def _add_block(
    total: _Parts,
    d_logit: Float[Tensor, "batch kv_head row_of_block token"],
    parts: _Parts,
    sight: _Sight,
    block: _Block,
) -> None:
    """Add a block's gradients of all parts but the values; `d_logit` is used up."""
    here, dtype = block.queries, d_logit.dtype
    grid, (times, channels) = block.grid(d_logit, block.first), block.axes
    total.time[(*here, slice(block.first, block.stop))] = grid.sum(channels)
    total.channel[here] = grid.sum(times)
    if block.edge == block.stop:
        return
    near = grid.narrow(times, block.edge - block.first, block.stop - block.edge)
    if block.mixed:
        near *= _block_near(sight, block, near)
    near = near.flatten(2, 3).flatten(-2)
    d_query = total.query[here]
    d_query.copy_((near @ block.keys(parts.key, block.edge).to(dtype)).view_as(d_query))
    q = parts.query[here].to(dtype).flatten(2, 3)
    block.add_keys(near.mT @ q, total.key, block.edge)


def _blocks_of(parts: _Parts, sight: _Sight, memory_limit: int) -> tuple[_Block, ...]:
    """Blocks within the limit, the least being one query."""
    batch, kv_heads, _, n_rows, _ = parts.query.shape
    each = kv_heads * parts.query.element_size()
    most = memory_limit // (_LIVE_COPIES * each)
    good = min(most, _BLOCK // each) if parts.query.device.type == "cpu" else most
    return _blocks(sight.spans, sight.edges, batch, n_rows, sight.n_channels, good, most)


@lru_cache(maxsize=64)
def _blocks(
    spans: tuple[tuple[int, int], ...],
    edges: tuple[tuple[int, ...], ...],
    batch: int,
    n_rows: int,
    n_channels: int,
    good: int,
    most: int,
) -> tuple[_Block, ...]:
    """Blocks of `good` logits of a head where there is a choice, never more than `most`."""
    n_steps = max(1, min(_ROWS, good // (spans[-1][1] * n_channels)) // n_rows)
    blocks = []
    for step in range(0, len(spans), n_steps):
        steps = slice(step, min(step + n_steps, len(spans)))
        first, stop = spans[steps.start][0], spans[steps.stop - 1][1]
        starts = {edge for one in edges for edge in one[steps]}
        n_tokens, several = (stop - first) * n_channels, len(spans[steps]) > 1
        rows = min(n_rows, max(1, most // n_tokens))
        items = max(1, good // (n_tokens * n_rows * len(spans[steps])))
        blocks += [
            _Block(
                slice(i, i + items),
                steps,
                slice(r, r + rows),
                first,
                min(starts),
                stop,
                mixed=len(starts) > 1,
                by_channel=several and n_channels < _FEW_CHANNELS,
            )
            for i in range(0, batch, items)
            for r in range(0, n_rows, rows)
        ]
    return tuple(blocks)


def _few(parts: _Parts, blocks: tuple[_Block, ...], memory_limit: int) -> bool:
    """Whether the probabilities of all blocks can wait for backward."""
    batch, kv_heads, _, n_rows, _ = parts.query.shape
    steps = {(x.steps.start, x.steps.stop, x.stop - x.first) for x in blocks}
    n_segments = sum((stop - start) * n_times for start, stop, n_times in steps)
    n = batch * kv_heads * n_rows * n_segments * parts.key.shape[3]
    # backward wants them as exact as it computes them
    exact = parts.query.dtype.itemsize >= torch.float32.itemsize
    return exact and n * parts.query.element_size() <= memory_limit // 4


def _block_near(sight: _Sight, block: _Block, like: Tensor) -> Tensor:
    """1 where a key's content is seen, else 0; a product is faster than a selection."""
    edges = tuple(edges[block.steps] for edges in sight.edges)
    near = _near(edges, block.edge, block.stop, like.device).to(like.dtype)
    near = near[block.items if len(near) > 1 else slice(None)]
    return near[:, None, :, None].unsqueeze(block.axes[1])


def _block_probabilities(
    parts: _Parts,
    sight: _Sight,
    block: _Block,
    dtype: torch.dtype | None = None,
    room: Tensor | None = None,
) -> Float[Tensor, "batch kv_head row_of_block token"]:
    """`_probabilities` of a block, in memory that is there already (`room`) or in new."""
    here, first, edge, stop = block.queries, block.first, block.edge, block.stop
    (times, channels), spans = block.axes, sight.spans[block.steps]
    dtype = dtype or parts.query.dtype
    # a sum of two of them is finite, and a logit is nothing beside one
    lowest = torch.finfo(dtype).min / 4
    time = parts.time[(*here, slice(first, stop))].to(dtype)
    if len(spans) > 1:
        time = time + lowest * _unseen(spans, first, stop, time.device).to(dtype)[:, None]
    channel = parts.channel[here].to(dtype)
    time, channel = time.unsqueeze(channels), channel.unsqueeze(times)
    shape = [max(sizes) for sizes in zip(time.shape, channel.shape, strict=True)]
    n = math.prod(shape)
    grid = (time.new_empty(n) if room is None else room[:n]).view(shape)
    torch.add(time, channel, out=grid)
    logit = grid.flatten(2, 3).flatten(-2)
    if edge < stop:
        q = parts.query[here].to(dtype).flatten(2, 3)
        k = block.keys(parts.key, edge).to(dtype)
        if block.mixed or (block.by_channel and edge > first):
            near = grid.narrow(times, edge - first, stop - edge)
            near += block.grid(q @ k.mT, edge) * _block_near(sight, block, near)
        else:  # the near keys are the last ones: no other array of the block's size
            near = logit[..., -k.shape[2] :].flatten(0, 1)
            near.baddbmm_(q.flatten(0, 1), k.flatten(0, 1).mT)
    if sight.key_mask is not None:
        masked = ~sight.key_mask[block.items].unflatten(1, (-1, sight.n_channels))
        masked = masked[:, first:stop]
        masked = (masked.mT if block.by_channel else masked).flatten(1)
        logit += lowest * masked.to(dtype)[:, None, None]
    return torch.softmax(logit, -1, out=logit)


# --- sdpa: the first two terms as further entries of query and key ----------------------


def _sdpa(parts: _Parts, sight: _Sight) -> Tensor:
    """Each segment's queries in one call, without any bias of the size of the logits.

    A query gets its two rows of added terms as further entries, a key one-hot vectors of
    its channel and its segment, so that their product is the whole logit. Where the window
    binds, far keys are attended to apart and the two parts are merged (`_Split`).
    """
    steps = range(len(sight.spans))
    if sight.binds():
        if len(sight.edges) > 1:  # each item's own last segment is exempt
            items = range(len(parts.query))
            one = [_Parts(*(x[i : i + 1] for x in parts)) for i in items]
            return torch.cat([_sdpa(one[i], sight.item(i)) for i in items])
        if parts.query.device.type != "cpu":
            raise ValueError('where the window binds, "sdpa" needs a CPU; take "chunk"')
        query, key, value, *added = parts
        key, value = key.flatten(2, 3), value.flatten(2, 3)
        return _Split.apply(query, key, value, *added, sight)  # pyright: ignore[reportReturnType]
    query, key, value, time, channel = parts
    key, value = key.flatten(2, 3), value.flatten(2, 3)
    k, v = (
        _long_keys(key, sight, time.shape[-1]),
        _long_values(value, sight, time.shape[-1]),
    )
    output = []
    for step in steps:
        q, tokens = _long_queries(query, time, channel, sight, step), sight.tokens(step)
        n = q.shape[-1]
        y = F.scaled_dot_product_attention(
            q,
            k[:, :, tokens, :n],
            v[:, :, tokens, :n],
            attn_mask=_lowest(sight.hidden(tokens), q),
            scale=1.0,
        )
        output.append(y[..., : query.shape[-1]])
    return torch.stack(output, 2)


def _long_queries(
    query: Tensor, time: Tensor, channel: Tensor, sight: _Sight, step: int
) -> Float[Tensor, "batch kv_head row entry"]:
    """A segment's queries with their added terms, of the segments they see."""
    stop = sight.spans[step][1]
    return torch.cat(
        [query[:, :, step], channel[:, :, step], time[:, :, step, :, :stop]], -1
    )


def _long_keys(
    key: Tensor, sight: _Sight, n_times: int
) -> Float[Tensor, "batch kv_head token entry"]:
    """Keys with the one-hot vectors of their channel and their segment."""
    token = torch.arange(key.shape[2], device=key.device)
    one_hot = torch.cat(
        [
            F.one_hot(token % sight.n_channels, sight.n_channels),
            F.one_hot(token // sight.n_channels, n_times),
        ],
        -1,
    ).to(key)
    return torch.cat([key, one_hot.expand(*key.shape[:2], -1, -1)], -1)


def _long_values(value: Tensor, sight: _Sight, n_times: int) -> Tensor:
    """Values as long as the keys, which the kernels ask for."""
    return F.pad(value, (0, sight.n_channels + n_times))


def _lowest(hidden: Tensor | None, like: Tensor) -> Tensor | None:
    """What is added to the logits so that hidden keys have no weight."""
    if hidden is None:
        return None
    lowest = torch.zeros(hidden.shape, dtype=like.dtype, device=like.device)
    lowest.masked_fill_(hidden, torch.finfo(like.dtype).min)
    return lowest.expand(-1, like.shape[1], like.shape[2], -1)


class _Split(torch.autograd.Function):
    """Near and far keys apart, merged by the logarithm of their sums of exponentials.

    PyTorch passes no gradient through a returned log-sum-exp. So backward hands the merged
    output and the merged log-sum-exp to each part: its kernel then takes the part's share
    of the merged probabilities, which is all that its gradients need.
    """

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        query: Tensor,
        key: Tensor,
        value: Tensor,
        time: Tensor,
        channel: Tensor,
        sight: _Sight,
    ) -> Tensor:
        attend = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        n_times, size = time.shape[-1], query.shape[-1]
        k, v = _long_keys(key, sight, n_times), _long_values(value, sight, n_times)
        outputs, totals = [], []
        for step in range(len(sight.spans)):
            q = _long_queries(query, time, channel, sight, step)
            n = q.shape[-1]
            found = [
                attend(
                    q if near else _without_content(q, size),
                    k[:, :, tokens, :n],
                    v[:, :, tokens, :n],
                    attn_mask=_lowest(sight.hidden(tokens), q),
                    scale=1.0,
                )
                for near, tokens in _near_and_far(sight, step)
            ]
            total = torch.stack([lse for _, lse in found]).logsumexp(0)
            merged = torch.zeros_like(q)
            for y, lse in found:
                merged += y * (lse - total).exp()[..., None]
            outputs.append(merged[..., :size])
            totals.append(total)
        output, total = torch.stack(outputs, 2), torch.stack(totals, 2)
        ctx.save_for_backward(query, key, value, time, channel, output, total)
        ctx.sight = sight
        return output

    @staticmethod
    def backward(
        ctx: Any,  # noqa: ANN401
        *grads: Tensor,
    ) -> tuple[Tensor | None, ...]:
        query, key, value, time, channel, output, total = ctx.saved_tensors
        sight: _Sight = ctx.sight
        attend_backward = (
            torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
        )
        n_times, size, n_channels = time.shape[-1], query.shape[-1], sight.n_channels
        k, v = _long_keys(key, sight, n_times), _long_values(value, sight, n_times)
        d_query, d_key, d_value, d_time, d_channel = (
            torch.zeros(x.shape, dtype=x.dtype) for x in (query, key, value, time, channel)
        )
        for step, (_, stop) in enumerate(sight.spans):
            q = _long_queries(query, time, channel, sight, step)
            n = q.shape[-1]
            y, dy = (F.pad(x[:, :, step], (0, n - size)) for x in (output, grads[0]))
            for near, tokens in _near_and_far(sight, step):
                dq, dk, dv = attend_backward(
                    dy,
                    q if near else _without_content(q, size),
                    k[:, :, tokens, :n],
                    v[:, :, tokens, :n],
                    y,
                    total[:, :, step],
                    0.0,
                    False,
                    attn_mask=_lowest(sight.hidden(tokens), q),
                    scale=1.0,
                )
                if near:
                    d_query[:, :, step] = dq[..., :size]
                    d_key[:, :, tokens] += dk[..., :size]
                d_value[:, :, tokens] += dv[..., :size]
                d_channel[:, :, step] += dq[..., size : size + n_channels]
                d_time[:, :, step, :, :stop] += dq[..., size + n_channels :]
        return d_query, d_key, d_value, d_time, d_channel, None


def _near_and_far(sight: _Sight, step: int) -> list[tuple[bool, slice]]:
    """Tokens within and outside the window of a segment, where there are any."""
    first, stop = sight.spans[step]
    # far segments come first
    edge = sight.edges[0][step]
    parts = [(True, edge, stop), (False, first, edge)]
    c = sight.n_channels
    return [(near, slice(a * c, b * c)) for near, a, b in parts if a < b]


def _without_content(q: Tensor, size: int) -> Tensor:
    return torch.cat([torch.zeros_like(q[..., :size]), q[..., size:]], -1)


# --- flex: for GPUs, optional -----------------------------------------------------------


def _flex(parts: _Parts, sight: _Sight) -> Tensor:
    """FlexAttention, compiled on a GPU; on the CPU, where it is slow, without gradients.

    Not run on a GPU yet.
    """
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    query, key, value, time, channel = parts
    key, value = key.flatten(2, 3), value.flatten(2, 3)
    device, c, n_rows = query.device, sight.n_channels, query.shape[3]
    time, channel = time.flatten(2, 3), channel.flatten(2, 3)
    near = sight.near(device).expand(len(query), -1, -1)
    span = torch.tensor(sight.spans, device=device)
    kept = sight.key_mask
    if kept is None:
        kept = torch.ones(len(key), key.shape[2], dtype=torch.bool, device=device)
    lowest = torch.finfo(query.dtype).min

    attend = torch.compile(flex_attention) if device.type == "cuda" else flex_attention
    # lambdas, because both count the arguments that they see in a signature
    blocks = create_block_mask(
        lambda b, h, row, token: (
            (span[row // n_rows, 0] <= token // c) & (token // c < span[row // n_rows, 1])
        ),
        None,
        None,
        query.shape[2] * n_rows,
        key.shape[2],
        device=str(device),
    )
    y = attend(
        query.flatten(2, 3),
        key,
        value,
        lambda content, b, h, row, token: torch.where(
            kept[b, token],
            torch.where(near[b, row // n_rows, token // c], content, 0)
            + time[b, h, row, token // c]
            + channel[b, h, row, token % c],
            lowest,
        ),
        block_mask=blocks,
        scale=1.0,
    )
    return y.unflatten(2, query.shape[2:4])  # pyright: ignore[reportAttributeAccessIssue]
