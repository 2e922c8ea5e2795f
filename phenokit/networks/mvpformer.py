"""MVPFormer: a transformer with multi-variate parallel attention for intracranial EEG.

Carzaniga, Hersche, Sebastian, Schindler & Rahimi 2025, arXiv 2506.20354. A window of T
segments of C channels becomes T x C tokens, each the wavelet transform of one segment of
one channel; decoder blocks with `phenokit.networks.mvpa` follow; a head predicts the next
segment's tokens (pre-training) or whether the last segment is ictal.

`SMALL` and `MEDIUM` are the published sizes, `DEMO` is ours and runs on a CPU. Departures:

- Parts of the signal that are not valid are set to 0 before the transform, masked as keys
  and left out of the mean over channels; the published code knows no masks.
- The unused second norm of a block and the unused embeddings of seizures do not exist.
- Dropout of attention is structured (whole segments and channels of keys).
- Classification computes the last block for the last segment only, which is all it reads.

Parameters keep the published words: `q_attn` makes queries, `c_attn` keys and values,
`position_net` and `channel_net` project the tables of time and of channel rows.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from phenokit.errors import BadInput
from phenokit.networks.checkpoint import check_shapes
from phenokit.networks.lora import AdaptedLinear, adapters
from phenokit.networks.mvpa import AttentionRule, Backend, draw_keep, mvpa

DB4 = (
    -0.010597401785069032,
    0.0328830116668852,
    0.030841381835560764,
    -0.18703481171909309,
    -0.027983769416859854,
    0.6308807679298589,
    0.7148465705529157,
    0.2303778133088965,
)
"""Low-pass taps of Daubechies' wavelet with four vanishing moments (1988, table 1)."""

EPS = 1e-5
"""Of every RMSNorm. An encoder that is fed volts loses 99 % of its tokens' norm to it."""

INIT_SD = 0.02

N_CLASSES = 2


@dataclass(frozen=True)
class IEEGContract:
    """What a network expects of its input; part of its bundle.

    Attributes
    ----------
    sampling_rate
        Hz.
    samples
        Of a segment.
    unit
        Of the signal; microvolts, because the norm of the encoder has a fixed floor.
    min_segments, max_segments
        Of a window.
    max_channels
        Most channels; of an ``index="distance"`` network the most it was trained on.
    reference, band
        Of the recordings it was trained on, in words.
    channel_order
        ``"montage"``: by shaft, then contact; ``"as_recorded"``.
    """

    sampling_rate: float = 512.0
    samples: int = 2560
    unit: str = "uV"
    min_segments: int = 1
    max_segments: int = 110
    max_channels: int = 128
    reference: str = "median of all channels"
    band: str = "0.5-120 Hz"
    channel_order: Literal["montage", "as_recorded"] = "as_recorded"

    def check(
        self, *, unit: str, sampling_rate: float, samples: int, segments: int, channels: int
    ) -> None:
        """Refuse a window that is not what the network reads.

        Parameters
        ----------
        samples, segments, channels
            Samples a segment, segments a window, channels.

        Raises
        ------
        BadInput
            ``E_UNITS``, ``E_FS``, ``A_DURATION`` (length of a segment or of the window) or
            ``A_USE`` (too many channels).
        """
        if unit != self.unit:
            raise BadInput(
                "E_UNITS",
                f"the signal is in {unit or 'no unit'}; the model reads {self.unit}",
            )
        if sampling_rate != self.sampling_rate:
            raise BadInput(
                "E_FS",
                f"{sampling_rate:g} Hz; the model reads {self.sampling_rate:g} Hz",
            )
        if samples != self.samples:
            raise BadInput(
                "A_DURATION",
                f"a segment lasts {samples / sampling_rate:g} s; "
                f"the model reads {self.samples / self.sampling_rate:g} s",
            )
        if not self.min_segments <= segments <= self.max_segments:
            raise BadInput(
                "A_DURATION",
                f"{segments} segments; the model reads "
                f"{self.min_segments} to {self.max_segments}",
            )
        if not 1 <= channels <= self.max_channels:
            raise BadInput(
                "A_USE", f"{channels} channels; the model reads 1 to {self.max_channels}"
            )


@dataclass(frozen=True)
class MVPFormerConfig:
    """Sizes of the network.

    Attributes
    ----------
    width
        Entries of a token.
    n_layers, n_heads, n_kv_heads
        Blocks; heads of queries; heads of keys that they share.
    inner
        Width within the feed-forward part.
    head
        ``"generative"``: tokens of the next segment; ``"classification"``: two logits.
    n_positions, n_channels
        Rows of the tables of time and channel.
    rule
        Of the attention; the published weights need ``index="reference"``.
    dropout
        Of embeddings, attention and its output while training.
    contract
        What goes in.
    """

    width: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    inner: int
    head: Literal["generative", "classification"] = "generative"
    n_positions: int = 110
    n_channels: int = 128
    rule: AttentionRule = field(default_factory=AttentionRule)
    dropout: float = 0.1
    contract: IEEGContract = field(default_factory=IEEGContract)

    def to_dict(self) -> dict[str, Any]:
        """As plain data for ``config.json``."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "MVPFormerConfig":
        """From what `to_dict` wrote."""
        nested = {
            "rule": AttentionRule(**data["rule"]),
            "contract": IEEGContract(**data["contract"]),
        }
        return cls(**{**data, **nested})


_REFERENCE = AttentionRule(index="reference")
SMALL = MVPFormerConfig(768, 12, 12, 4, 1728, rule=_REFERENCE)
MEDIUM = MVPFormerConfig(2048, 24, 16, 8, 5632, rule=_REFERENCE)
DEMO = MVPFormerConfig(128, 4, 4, 2, 320)


# --- encoder ----------------------------------------------------------------------------


def wavelet_sizes(samples: int) -> tuple[int, ...]:
    """Coefficients of each level, ``[cA_n, cD_n ... cD_1]``.

    Examples
    --------
    >>> wavelet_sizes(2560)
    (16, 16, 26, 46, 86, 166, 326, 645, 1283)
    """
    sizes = []
    size = samples
    for _ in range(int(math.log2(samples / (len(DB4) - 1)))):
        size = (size + len(DB4) - 1) // 2
        sizes.append(size)
    return (size, *reversed(sizes))


@torch.no_grad()
def wavelet_transform(x: Float[Tensor, "... sample"]) -> Float[Tensor, "... coefficient"]:
    """Full db4 decomposition of a signal that is continued periodically.

    Levels stand in the order of `wavelet_sizes`. This is PyWavelets' mode ``periodic``;
    ``periodization``, which keeps the number of samples, is another transform. No gradient.
    """
    signal = x.reshape(-1, x.shape[-1])
    bank = _filter_bank(x)
    before, frame = len(DB4) - 2, 2 * _OUTPUTS
    details = []
    for size in wavelet_sizes(x.shape[-1])[:0:-1]:
        again = 2 * size - signal.shape[-1]
        rest = -2 * size % frame
        parts = [signal[:, -before:], signal, signal[:, :again]]
        around = torch.cat([*parts, signal.new_zeros(len(signal), rest)], 1)
        outputs = around.unfold(1, before + frame, frame) @ bank
        low, high = outputs.split(_OUTPUTS, -1)
        signal, detail = low.flatten(1)[:, :size], high.flatten(1)[:, :size]
        details.append(detail)
    return torch.cat([signal, *reversed(details)], -1).reshape(*x.shape[:-1], -1)


_OUTPUTS = 8
"""Of each filter at a time: a matrix product of this size is what a CPU does fastest."""


def _filter_bank(like: Tensor) -> Float[Tensor, "input output"]:
    """Matrix from a piece of signal to `_OUTPUTS` low-pass, then high-pass outputs."""
    low = like.new_tensor(DB4[::-1])
    high = like.new_tensor([tap * (-1) ** i for i, tap in enumerate(DB4)])
    bank = like.new_zeros(2 * _OUTPUTS + len(DB4) - 2, 2, _OUTPUTS)
    for k in range(_OUTPUTS):
        bank[2 * k : 2 * k + len(DB4), :, k] = torch.stack([low, high], 1)
    return bank.flatten(1)


class WaveletEncoder(nn.Module):
    """A token of each segment of each channel."""

    def __init__(self, samples: int, width: int) -> None:
        super().__init__()
        n_coefficients = sum(wavelet_sizes(samples))
        self.ln = nn.RMSNorm(n_coefficients, eps=EPS)
        self.proj = nn.Linear(n_coefficients, width, bias=False)

    def forward(
        self, x: Float[Tensor, "batch time channel sample"]
    ) -> Float[Tensor, "batch time channel feature"]:
        """Tokens of a signal in microvolts."""
        return self.proj(self.ln(wavelet_transform(x)))


# --- block ------------------------------------------------------------------------------


class Grid(NamedTuple):
    """What is known of the tokens of a batch; see `phenokit.networks.mvpa.mvpa`."""

    key_mask: Bool[Tensor, "batch time channel"] | None = None
    n_seg: Int[Tensor, " batch"] | None = None
    n_ch: Int[Tensor, " batch"] | None = None
    channel_pos: Int[Tensor, "#batch channel"] | None = None


class Attention(nn.Module):
    """Multi-variate parallel attention with its projections."""

    def __init__(self, config: MVPFormerConfig) -> None:
        super().__init__()
        width, rows = config.width, config.width // config.n_heads * config.n_kv_heads
        self.q_attn: nn.Linear | AdaptedLinear = nn.Linear(width, width, bias=False)
        self.c_attn: nn.Linear | AdaptedLinear = nn.Linear(width, 2 * rows, bias=False)
        self.position_net = nn.Linear(width, rows, bias=False)
        self.channel_net = nn.Linear(width, rows, bias=False)
        self.c_proj = nn.Linear(width, width, bias=False)
        self.attn_bias = nn.Parameter(torch.zeros(3 * rows))
        self.n_heads, self.n_kv_heads = config.n_heads, config.n_kv_heads
        self.rule, self.dropout = config.rule, config.dropout

    def forward(
        self,
        n: Float[Tensor, "batch time channel feature"],
        P: Float[Tensor, "time_row feature"],
        Q: Float[Tensor, "channel_row feature"],
        grid: Grid,
        *,
        n_queries: int | None = None,
        backend: Backend = "auto",
    ) -> Float[Tensor, "batch query channel feature"]:
        """What the last `n_queries` segments (``None``: all) gather from their past."""
        k, v = self.keys_values(n)
        last = n[:, -(n_queries or n.shape[1]) :]
        return self.attend(last, k, v, P, Q, grid, backend=backend)

    def keys_values(
        self, n: Float[Tensor, "batch time channel feature"]
    ) -> tuple[
        Float[Tensor, "batch time channel kv_head feature_of_head"],
        Float[Tensor, "batch time channel kv_head feature_of_head"],
    ]:
        """What each token shows to the tokens that look at it."""
        kv_heads = "... (kv d) -> ... kv d"
        k, v = self.c_attn(n).chunk(2, -1)
        return (
            rearrange(k, kv_heads, kv=self.n_kv_heads),
            rearrange(v, kv_heads, kv=self.n_kv_heads),
        )

    def attend(
        self,
        n: Float[Tensor, "batch query channel feature"],
        k: Float[Tensor, "batch time channel kv_head feature_of_head"],
        v: Float[Tensor, "batch time channel kv_head feature_of_head"],
        P: Float[Tensor, "time_row feature"],
        Q: Float[Tensor, "channel_row feature"],
        grid: Grid,
        *,
        backend: Backend = "auto",
    ) -> Float[Tensor, "batch query channel feature"]:
        """What `n`, the last segments of those that `k` and `v` stem from, gathers."""
        kv_heads, kv = "... (kv d) -> ... kv d", self.n_kv_heads
        q = rearrange(
            self.q_attn(n),
            "batch query channel (head d) -> batch query channel head d",
            head=self.n_heads,
        )
        keep_time = keep_chan = None
        if self.training and self.dropout:
            keep_time, keep_chan = (
                draw_keep(size, self.dropout, generator=torch.default_generator).to(n)
                for size in k.shape[1:3]
            )
        y = mvpa(
            q,
            k,
            v,
            rearrange(self.position_net(P), kv_heads, kv=kv),
            rearrange(self.channel_net(Q), kv_heads, kv=kv),
            rearrange(self.attn_bias, "(three kv d) -> three kv d", three=3, kv=kv),
            rule=self.rule,
            **grid._asdict(),
            keep_time=keep_time,
            keep_chan=keep_chan,
            backend=backend,
        )
        y = self.c_proj(rearrange(y, "... head d -> ... (head d)"))
        return F.dropout(y, self.dropout, self.training)


class FeedForward(nn.Module):
    """Gated feed-forward part: ``down(silu(gate n) * up n)``."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, inner, bias=False)
        self.up_proj = nn.Linear(width, inner, bias=False)
        self.down_proj = nn.Linear(inner, width, bias=False)

    def forward(self, n: Float[Tensor, "... feature"]) -> Float[Tensor, "... feature"]:
        """Each token by itself."""
        return self.down_proj(F.silu(self.gate_proj(n)) * self.up_proj(n))


class Block(nn.Module):
    """Attention and feed-forward part side by side, after one norm."""

    def __init__(self, config: MVPFormerConfig) -> None:
        super().__init__()
        self.ln_1 = nn.RMSNorm(config.width, eps=EPS)
        self.attn = Attention(config)
        self.mlp = FeedForward(config.width, config.inner)

    def forward(
        self,
        x: Float[Tensor, "batch time channel feature"],
        P: Float[Tensor, "time_row feature"],
        Q: Float[Tensor, "channel_row feature"],
        grid: Grid,
        *,
        n_queries: int | None = None,
        backend: Backend = "auto",
    ) -> Float[Tensor, "batch query channel feature"]:
        """The last `n_queries` segments (``None``: all) after the block."""
        n = self.ln_1(x)
        last = slice(-(n_queries or x.shape[1]), None)
        attended = self.attn(n, P, Q, grid, n_queries=n_queries, backend=backend)
        return x[:, last] + attended + self.mlp(n[:, last])


# --- network ----------------------------------------------------------------------------


class Predicted(NamedTuple):
    """What pre-training compares.

    Attributes
    ----------
    prediction
        Of the next segment's tokens, at each token.
    target
        The encoder's tokens.
    """

    prediction: Float[Tensor, "batch time channel feature"]
    target: Float[Tensor, "batch time channel feature"]


class MVPFormer(nn.Module):
    """The whole network.

    All methods that read a signal take

    signal
        Microvolts, shape ``(batch, time, channel, sample)``: segments of a window.
    valid
        Which segments of which channels hold a usable signal; what the others hold, NaN
        included, does not matter. ``None``: all.
    n_seg, n_ch, channel_pos
        As `phenokit.networks.mvpa.mvpa`.
    """

    def __init__(self, config: MVPFormerConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.encoder = WaveletEncoder(config.contract.samples, width)
        self.positional_embedding = nn.Embedding(config.n_positions, width)
        self.channel_embedding = nn.Embedding(config.n_channels, width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.ln_f = nn.RMSNorm(width, eps=EPS)
        outputs = width if config.head == "generative" else N_CLASSES
        self.head = nn.Linear(width, outputs, bias=False)

    def encode(
        self,
        signal: Float[Tensor, "batch time channel sample"],
        valid: Bool[Tensor, "batch time channel"] | None = None,
    ) -> Float[Tensor, "batch time channel feature"]:
        """Tokens; 0 where the signal is not valid."""
        if valid is not None:
            signal = torch.where(valid[..., None], signal, 0)
        return self.encoder(signal)

    def decode(
        self,
        tokens: Float[Tensor, "batch time channel feature"],
        grid: Grid,
        *,
        n_queries: int | None = None,
        backend: Backend = "auto",
    ) -> Float[Tensor, "batch query channel feature"]:
        """Features of the last `n_queries` segments (``None``: all) after all blocks."""
        P, Q = self.positional_embedding.weight, self.channel_embedding.weight
        x = F.dropout(tokens, self.config.dropout, self.training)
        for block in self.blocks[:-1]:
            x = block(x, P, Q, grid, backend=backend)
        x = self.blocks[-1](x, P, Q, grid, n_queries=n_queries, backend=backend)
        return self.ln_f(x)

    def forward(
        self,
        signal: Float[Tensor, "batch time channel sample"],
        *,
        valid: Bool[Tensor, "batch time channel"] | None = None,
        n_seg: Int[Tensor, " batch"] | None = None,
        n_ch: Int[Tensor, " batch"] | None = None,
        channel_pos: Int[Tensor, "#batch channel"] | None = None,
        backend: Backend = "auto",
    ) -> Float[Tensor, "batch time channel feature"]:
        """Features of every token."""
        grid = Grid(valid, n_seg, n_ch, channel_pos)
        return self.decode(self.encode(signal, valid), grid, backend=backend)

    def predict(
        self,
        signal: Float[Tensor, "batch time channel sample"],
        *,
        valid: Bool[Tensor, "batch time channel"] | None = None,
        n_seg: Int[Tensor, " batch"] | None = None,
        n_ch: Int[Tensor, " batch"] | None = None,
        channel_pos: Int[Tensor, "#batch channel"] | None = None,
        backend: Backend = "auto",
    ) -> Predicted:
        """Tokens of the next segments beside the encoder's; needs a generative head."""
        if self.config.head != "generative":
            raise ValueError("this network classifies; it has no generative head")
        grid = Grid(valid, n_seg, n_ch, channel_pos)
        tokens = self.encode(signal, valid)
        return Predicted(self.head(self.decode(tokens, grid, backend=backend)), tokens)

    def classify(
        self,
        signal: Float[Tensor, "batch time channel sample"],
        *,
        valid: Bool[Tensor, "batch time channel"] | None = None,
        n_seg: Int[Tensor, " batch"] | None = None,
        n_ch: Int[Tensor, " batch"] | None = None,
        channel_pos: Int[Tensor, "#batch channel"] | None = None,
        backend: Backend = "auto",
    ) -> Float[Tensor, "batch class"]:
        """Two logits of the last segment; NaN where it has no valid channel."""
        if self.config.head != "classification":
            raise ValueError("this network is generative; it has no head of two classes")
        batch, n_times, n_channels = signal.shape[:3]
        grid = Grid(valid, n_seg, n_ch, channel_pos)
        tokens = self.encode(signal, valid)
        features = self.decode(
            tokens, grid, n_queries=1 if n_seg is None else None, backend=backend
        )
        items = torch.arange(batch, device=signal.device)
        last = items.new_full((batch,), n_times - 1) if n_seg is None else n_seg - 1
        row = items.new_zeros(batch) if n_seg is None else last
        counted = torch.ones(batch, n_channels, dtype=torch.bool, device=signal.device)
        if valid is not None:
            counted = valid[items, last]
        if n_ch is not None:
            counted = counted & (
                torch.arange(n_channels, device=signal.device) < n_ch[:, None]
            )
        total = torch.where(counted[..., None], features[items, row], 0).sum(1)
        n_counted = counted.sum(1, keepdim=True)
        logit = self.head(total / n_counted.clamp(min=1))
        return torch.where(n_counted > 0, logit, torch.nan)


def initialise(config: MVPFormerConfig, *, generator: torch.Generator) -> MVPFormer:
    """A new network: every weight and bias N(0, 0.02), every norm 1."""
    with torch.device("meta"):
        network = MVPFormer(config)
    network.to_empty(device="cpu")
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.split(".")[-2].startswith("ln"):
                parameter.fill_(1)
            else:
                parameter.normal_(0, INIT_SD, generator=generator)
    return network


def reset_head(
    network: MVPFormer,
    head: Literal["generative", "classification"],
    *,
    generator: torch.Generator,
) -> None:
    """Give a network a new head, N(0, 0.02)."""
    width = network.config.width
    outputs = width if head == "generative" else N_CLASSES
    network.head = nn.Linear(width, outputs, bias=False)
    nn.init.normal_(network.head.weight, 0, INIT_SD, generator)
    network.config = replace(network.config, head=head)


def adapt(
    network: MVPFormer,
    *,
    rank: int = 8,
    keys_too: bool = False,
    generator: torch.Generator,
) -> None:
    """Freeze all but new low-rank adapters of queries and values, and the head.

    Parameters
    ----------
    keys_too
        Adapt keys as well as values, as the published seizure adapters do.
    """
    if any(adapters(network)):
        raise ValueError("the network has adapters already")
    network.requires_grad_(False)
    for block in network.blocks:
        attention: Any = block.attn
        rows = attention.c_attn.out_features // (1 if keys_too else 2)
        attention.q_attn = AdaptedLinear(attention.q_attn, rank=rank, generator=generator)
        attention.c_attn = AdaptedLinear(
            attention.c_attn, rank=rank, rows=rows, generator=generator
        )
    network.head.requires_grad_(True)


def amplitude_is_plausible(
    signal: Float[Tensor, "batch time channel sample"],
    valid: Bool[Tensor, "batch time channel"] | None = None,
) -> Bool[Tensor, " batch"]:
    """Whether the median channel's root mean square is 0.1 to 10,000 microvolts.

    Outside, the signal is probably in another unit. ``False`` where nothing is valid.
    """
    if valid is None:
        valid = torch.ones(signal.shape[:3], dtype=torch.bool, device=signal.device)
    power = torch.where(valid[..., None], signal, 0).square().mean(-1).sum(1)
    root = (power / valid.sum(1).clamp(min=1)).sqrt()
    median = torch.where(valid.any(1), root, torch.nan).nanmedian(1).values
    return (median >= 0.1) & (median <= 10_000)


# --- weights ----------------------------------------------------------------------------


def to_arrays(network: MVPFormer) -> dict[str, np.ndarray]:
    """Weights by name, float32, as a bundle holds them; adapters have to be merged."""
    if any(not adapter.merged for adapter in adapters(network)):
        raise ValueError("merge the adapters first")
    return {
        name: tensor.detach().cpu().numpy().astype(np.float32)
        for name, tensor in network.state_dict().items()
        if ".lora_" not in name
    }


def from_arrays(config: MVPFormerConfig, arrays: Mapping[str, np.ndarray]) -> MVPFormer:
    """The network with these weights, in eval mode.

    Raises
    ------
    BundleError
        ``E_WEIGHTS`` naming the tensor that is missing, unknown or of another shape.
    """
    with torch.device("meta"):
        network = MVPFormer(config)
    check_shapes(
        {name: array.shape for name, array in arrays.items()},
        {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()},
    )
    weights = {name: torch.tensor(array).float() for name, array in arrays.items()}
    network.load_state_dict(weights, strict=True, assign=True)
    return network.eval()
