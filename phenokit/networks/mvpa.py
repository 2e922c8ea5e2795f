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
    chunk   one segment's queries at a time; backward computes each block again
    sdpa    plain scaled-dot-product attention: the first two terms become further entries
            of query and key
    flex    PyTorch's FlexAttention, for GPUs; not run on a GPU yet

Departures from the published code: keys can be masked, ragged items can be padded, rows can
be looked up by distance alone (`AttentionRule.index`), dropout is structured (whole
segments and whole channels of keys) and drawn by the caller, so that all backends agree.
"""

import math
from dataclasses import dataclass
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

_DENSE_BYTES = 2 << 20
_DENSE_BYTES_WITH_GRADIENTS = 8 << 20
"""Below these sizes of all logits, the blocks of `chunk` cost more than they save."""

_FEW_CHANNELS, _TIMES_LARGER = 16, 8
"""Blocks of a segment with fewer channels are small, and pay from a larger size on."""


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
    near: Bool[Tensor, "#batch query time"]
    """On the CPU, since it decides what is multiplied; masked keys aside."""
    key_mask: Bool[Tensor, "batch token"] | None
    n_channels: int

    def tokens(self, step: int) -> slice:
        """Keys that a segment of queries sees."""
        first, stop = self.spans[step]
        return slice(first * self.n_channels, stop * self.n_channels)

    def binds(self, step: int) -> bool:
        """Whether the window takes the content of a key that this segment sees."""
        first, stop = self.spans[step]
        return not bool(self.near[:, step, first:stop].all())

    def near_tokens(
        self, step: int, device: torch.device
    ) -> Bool[Tensor, "#batch 1 token 1"]:
        """Whose content a segment of queries sees."""
        first, stop = self.spans[step]
        near = self.near[:, step, first:stop].repeat_interleave(self.n_channels, 1)
        return rearrange(near.to(device), "batch token -> batch 1 token 1")

    def near_keys(
        self, step: int, key: Float[Tensor, "batch kv_head all_tokens feature"]
    ) -> Float[Tensor, "batch kv_head token feature"]:
        """Keys that a segment of queries sees, those outside the window set to 0."""
        k = key[:, :, self.tokens(step)]
        return (
            torch.where(self.near_tokens(step, k.device), k, 0) if self.binds(step) else k
        )

    def hidden(self, tokens: slice) -> Bool[Tensor, "batch 1 1 token"] | None:
        """Which of these keys are masked."""
        if self.key_mask is None:
            return None
        return rearrange(~self.key_mask[:, tokens], "batch token -> batch 1 1 token")

    def item(self, i: int) -> "_Sight":
        """Of one item of the batch."""
        one = slice(i, i + 1)
        mask = None if self.key_mask is None else self.key_mask[one]
        return _Sight(self.spans, self.near[one], mask, self.n_channels)


class _Parts(NamedTuple):
    """The small parts of every logit, scale included.

    A logit is ``near * query . key + time[t'] + channel[c']``. Queries that share a key
    head stand together: `row` counts the heads of the group, then the channels.
    """

    query: Float[Tensor, "batch kv_head query row feature"]
    key: Float[Tensor, "batch kv_head token feature"]
    value: Float[Tensor, "batch kv_head token feature"]
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
        ``"auto"`` takes what `choose_backend` says.
    memory_limit
        Bytes of logits that ``"chunk"`` may hold at a time; its least block is one query.

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
    if backend == "auto":
        backend = choose_backend(
            q.device.type,
            (q.shape[0], q.shape[1], q.shape[2], q.shape[3]),
            k.shape[1],
            gradients=torch.is_grad_enabled() and q.requires_grad,
            element_bytes=q.element_size(),
        )
    if backend == "dense":
        y = _probabilities(parts, sight).flatten(2, 3) @ parts.value
        y = y.unflatten(2, parts.query.shape[2:4])
    elif backend == "chunk":
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


def choose_backend(
    device: str,
    shape: tuple[int, int, int, int],
    n_times: int,
    *,
    gradients: bool = False,
    element_bytes: int = 4,
) -> Literal["dense", "chunk"]:
    """What ``backend="auto"`` takes: ``"dense"`` while all logits are small.

    ``"chunk"`` needs nothing but matrix products, so it is taken on a GPU too.

    Parameters
    ----------
    device
        Type of the device; a GPU holds larger logits before blocks pay.
    shape
        Batch, segments of queries, channels, heads.
    n_times
        Segments of keys.
    gradients
        Whether backward follows, for which ``"chunk"`` computes its blocks again.

    Examples
    --------
    >>> choose_backend("cpu", (1, 25, 7, 4), 25), choose_backend("cpu", (1, 25, 128, 4), 25)
    ('dense', 'chunk')
    """
    batch, queries, channels, heads = shape
    logits = batch * heads * queries * channels * n_times * channels * element_bytes
    limit = _DENSE_BYTES_WITH_GRADIENTS if gradients else _DENSE_BYTES
    limit *= _TIMES_LARGER if channels < _FEW_CHANNELS else 1
    limit *= 1 if device == "cpu" else 64
    return "dense" if logits <= limit else "chunk"


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

    first = n_times - n_queries
    times = torch.arange(n_times)
    lag = times[first:, None] - times
    lengths = torch.tensor([n_times]) if n_seg is None else n_seg.cpu()
    last = rearrange(lengths - 1, "batch -> batch 1 1")
    near = (lag <= rule.window) | (rule.exempt_last & (times[first:, None] == last))
    near = near & rule.content
    horizon = n_times if rule.horizon is None else rule.horizon
    spans = tuple((max(0, t - horizon + 1), t + 1) for t in range(first, n_times))

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
    counts = torch.tensor([n_channels]) if n_ch is None else n_ch.cpu()
    needed = int(distance.amax()) + 1 if rule.index == "distance" else int(counts.max())
    if int(lengths.max()) > len(R) or needed > len(S):
        raise ValueError(
            f"T = {int(lengths.max())} segments and C = {n_channels} channels need "
            f"{int(lengths.max())} time rows and {needed} channel rows; "
            f"the tables have {len(R)} and {len(S)}"
        )
    if rule.index == "reference":
        R_by_lag = R[_from_the_end(lengths, n_times)]
        S_by_distance = S[_from_the_end(counts, n_channels)]
    else:
        R_by_lag, S_by_distance = R[None, :n_times], S[None, :needed]

    q = rearrange(
        q * (rule.layer_scale / math.sqrt(d)),
        "batch query channel (kv group) feature -> batch kv query group channel feature",
        kv=n_kv_heads,
    )
    b_e, b_t, b_c = (
        rearrange(b, "kv feature -> kv 1 1 1 feature")
        for b in bias * (rule.layer_scale / math.sqrt(d))
    )
    rows = "batch kv query group channel ... -> batch kv query (group channel) ..."
    shape = (len(q), *q.shape[1:5])
    time = q.new_zeros(()).expand(*shape, n_times)
    if rule.time:
        by_lag = torch.einsum("bkqgcd,brkd->bkqgcr", q + b_t, _items(R_by_lag, q))
        lag = rearrange(lag.clamp(min=0).to(q.device), "query time -> query 1 1 time")
        time = by_lag.gather(-1, lag.expand_as(time))
    channel = q.new_zeros(()).expand(*shape, n_channels)
    if rule.channel:
        by_distance = torch.einsum("bkqgcd,brkd->bkqgcr", q + b_c, _items(S_by_distance, q))
        index = rearrange(distance.to(q.device), "batch c other -> batch 1 1 1 c other")
        channel = by_distance.gather(-1, index.expand_as(channel))
    tokens = "batch time channel kv feature -> batch kv (time channel) feature"
    parts = _Parts(
        query=rearrange(q + b_e, rows),
        key=rearrange(k, tokens),
        value=rearrange(v, tokens),
        time=rearrange(time, rows),
        channel=rearrange(channel, rows),
    )
    return parts, _Sight(spans, near, key_mask, n_channels)


def _items(rows: Tensor, q: Tensor) -> Tensor:
    """Rows of a table for every item of the batch."""
    return rows.expand(len(q), *rows.shape[1:])


def _from_the_end(lengths: Tensor, n: int) -> Tensor:
    """Row of distance 0, 1 ... n - 1 in ``reference``; row 0 where only padding looks."""
    return (lengths[:, None] - 1 - torch.arange(n)).clamp(min=0)


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
    steps = range(len(sight.spans))
    sees = torch.stack([mask[:, sight.tokens(step)].any(1) for step in steps], 1)
    return torch.where(rearrange(sees, "batch query -> batch 1 query 1 1"), y, 0)


# --- dense: the law ---------------------------------------------------------------------


def _probabilities(
    parts: _Parts, sight: _Sight
) -> Float[Tensor, "batch kv_head query row token"]:
    """Softmax over all keys; any finite value for queries that see none."""
    n_times, device = parts.time.shape[-1], parts.query.device
    hidden = torch.ones(1, len(sight.spans), n_times, dtype=torch.bool)
    for step, (first, stop) in enumerate(sight.spans):
        hidden[:, step, first:stop] = False
    near, hidden = (
        rearrange(x.to(device), "batch query time -> batch 1 query 1 time")
        for x in (sight.near, hidden)
    )
    # the lowest finite number, not -inf: a row without any key stays finite
    lowest = torch.finfo(parts.query.dtype).min
    # all segments of queries in one product: a key would be copied for each of them
    logit = parts.query.flatten(2, 3) @ parts.key.mT
    logit = logit.unflatten(2, parts.query.shape[2:4]).unflatten(-1, (n_times, -1))
    if any(sight.binds(step) for step in range(len(sight.spans))):
        logit = torch.where(near[..., None], logit, 0)
    logit += parts.time.masked_fill(hidden, lowest)[..., None]
    logit += parts.channel[..., None, :]
    logit = logit.flatten(-2)
    if sight.key_mask is not None:
        logit = logit.masked_fill(
            rearrange(~sight.key_mask, "batch token -> batch 1 1 1 token"), lowest
        )
    return logit.softmax(-1)


# --- chunk: blocks of one segment's queries ---------------------------------------------


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
        output = torch.empty_like(query)
        for step in range(len(sight.spans)):
            k, v = sight.near_keys(step, key), value[:, :, sight.tokens(step)]
            for items, rows in _blocks(query, sight, step, memory_limit):
                output[items, :, step, rows] = F.scaled_dot_product_attention(
                    query[items, :, step, rows],
                    k[items],
                    v[items],
                    attn_mask=_added(time, channel, sight, step, items, rows),
                    scale=1.0,
                )
        ctx.save_for_backward(query, key, value, time, channel, output)
        ctx.sight, ctx.memory_limit = sight, memory_limit
        return output

    @staticmethod
    def backward(
        ctx: Any,  # noqa: ANN401
        *grads: Tensor,
    ) -> tuple[Tensor | None, ...]:
        query, key, value, time, channel, output = ctx.saved_tensors
        sight: _Sight = ctx.sight
        wide = torch.promote_types(query.dtype, torch.float32)  # sums over many blocks
        d_query, d_key, d_value, d_time, d_channel = (
            torch.zeros(x.shape, dtype=wide, device=x.device)
            for x in (query, key, value, time, channel)
        )
        for step, (first, stop) in enumerate(sight.spans):
            tokens = sight.tokens(step)
            k, v = sight.near_keys(step, key).to(wide), value[:, :, tokens].to(wide)
            for items, rows in _blocks(query, sight, step, ctx.memory_limit):
                here = (items, slice(None), step, rows)
                q, dy, y = (x[here].to(wide) for x in (query, grads[0], output))
                p = _added(time, channel, sight, step, items, rows).to(wide)
                p += q @ k[items].mT
                p = p.softmax(-1)
                d_value[items, :, tokens] += p.mT @ dy
                d_logit = dy @ v[items].mT
                d_logit -= (dy * y).sum(-1, keepdim=True)
                d_logit *= p
                d_query[here] = d_logit @ k[items]
                d_k = d_logit.mT @ q
                if sight.binds(step):
                    near = sight.near_tokens(step, d_k.device)
                    d_k = torch.where(near[items if len(near) > 1 else slice(None)], d_k, 0)
                d_key[items, :, tokens] += d_k
                by_segment = d_logit.unflatten(-1, (stop - first, sight.n_channels))
                d_time[(*here, slice(first, stop))] = by_segment.sum(-1)
                d_channel[here] = by_segment.sum(-2)
        narrow = (x.to(query.dtype) for x in (d_query, d_key, d_value, d_time, d_channel))
        return (*narrow, None, None)


def _blocks(
    query: Tensor, sight: _Sight, step: int, memory_limit: int
) -> list[tuple[slice, slice]]:
    """Items and rows of the blocks of a segment, each within the limit."""
    batch, kv_heads, _, n_rows, _ = query.shape
    tokens = sight.tokens(step)
    one_row = kv_heads * (tokens.stop - tokens.start) * _LIVE_COPIES * query.element_size()
    rows = min(n_rows, max(1, memory_limit // one_row))
    items = max(1, memory_limit // (one_row * n_rows))
    return [
        (slice(i, i + items), slice(r, r + rows))
        for i in range(0, batch, items)
        for r in range(0, n_rows, rows)
    ]


def _added(
    time: Tensor, channel: Tensor, sight: _Sight, step: int, items: slice, rows: slice
) -> Float[Tensor, "batch kv_head row token"]:
    """What is added to the content of each logit of a block."""
    first, stop = sight.spans[step]
    added = (
        time[items, :, step, rows, first:stop, None]
        + channel[items, :, step, rows, None, :]
    ).flatten(-2)
    hidden = sight.hidden(sight.tokens(step))
    if hidden is not None:
        added.masked_fill_(hidden[items], torch.finfo(added.dtype).min)
    return added


# --- sdpa: the first two terms as further entries of query and key ----------------------


def _sdpa(parts: _Parts, sight: _Sight) -> Tensor:
    """Each segment's queries in one call, without any bias of the size of the logits.

    A query gets its two rows of added terms as further entries, a key one-hot vectors of
    its channel and its segment, so that their product is the whole logit. Where the window
    binds, far keys are attended to apart and the two parts are merged (`_Split`).
    """
    steps = range(len(sight.spans))
    if any(sight.binds(step) for step in steps):
        if len(sight.near) > 1:  # each item's own last segment is exempt
            items = range(len(parts.query))
            one = [_Parts(*(x[i : i + 1] for x in parts)) for i in items]
            return torch.cat([_sdpa(one[i], sight.item(i)) for i in items])
        if parts.query.device.type != "cpu":
            raise ValueError('where the window binds, "sdpa" needs a CPU; take "chunk"')
        return _Split.apply(*parts, sight)  # pyright: ignore[reportReturnType]
    query, key, value, time, channel = parts
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
    edge = stop - int(sight.near[0, step, first:stop].sum())
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
    device, c, n_rows = query.device, sight.n_channels, query.shape[3]
    time, channel = time.flatten(2, 3), channel.flatten(2, 3)
    near = sight.near.expand(len(query), -1, -1).to(device)
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
