"""MVPFormer weights of others, under the names of the published code and of braindecode.

Only safetensors are read. The published weights (Apache-2.0, with the condition that they
are used for research and not for diagnosis) need ``index="reference"``, a window of 10 and
the exemption of the last segment, which `SMALL` and `MEDIUM` have.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from phenokit.errors import BundleError
from phenokit.networks.checkpoint import read_tensors
from phenokit.networks.lora import ALPHA
from phenokit.networks.mvpformer import (
    MEDIUM,
    N_CLASSES,
    SMALL,
    MVPFormer,
    MVPFormerConfig,
    from_arrays,
    wavelet_sizes,
)

_MAX_BYTES = 8 << 30
"""The larger published size has 5 GB."""

_RENAMED = (
    # the published code; released files say genie for mvpformer
    (r"(?:mvpformer|genie)\.h\.(\d+)\.(.+)", r"blocks.\1.\2"),
    (
        r"(?:mvpformer|genie)\.(positional_embedding|channel_embedding|ln_f)\.weight",
        r"\1.weight",
    ),
    (r"head\.head\.weight", "head.weight"),
    # braindecode
    (r"patch_embed\.(ln|proj)\.weight", r"encoder.\1.weight"),
    (r"final_layer\.weight", "head.weight"),
)
_SKIPPED = re.compile(
    r"(.+\.)?(attn\.time_bias|attn\.masked_bias|ln_2\.weight|seizure_embeddings(\.weight)?"
    r"|encoder\.proj_.+|class_loss\.weight)"
)
_ADAPTED = re.compile(r"(.+)\.lora_([AB])")


@dataclass(frozen=True, eq=False)
class PublishedWeights:
    """A network with somebody else's weights, and what was done to them.

    Attributes
    ----------
    network
        In eval mode; adapters are merged.
    skipped
        Tensors of the file that no output depends on.
    filled
        Our names of tensors that the file lacks and that were set to 1.
    merged
        Our names of the weights that an adapter was added to.
    """

    network: MVPFormer
    skipped: tuple[str, ...]
    filled: tuple[str, ...]
    merged: tuple[str, ...]


def read_published(
    path: Path, *, adapter: Path | None = None, config: MVPFormerConfig | None = None
) -> PublishedWeights:
    """Read a file of weights, and a file of adapters and head on top of it.

    Parameters and errors are those of `load_published`; a file that is not a sound
    safetensors file is ``E_WEIGHTS`` too.
    """
    tensors = read_tensors(path, max_bytes=_MAX_BYTES)
    extra = {} if adapter is None else read_tensors(adapter, max_bytes=_MAX_BYTES)
    return load_published(tensors, adapter=extra, config=config)


def load_published(
    tensors: Mapping[str, np.ndarray],
    *,
    adapter: Mapping[str, np.ndarray] | None = None,
    config: MVPFormerConfig | None = None,
) -> PublishedWeights:
    """The network of these tensors.

    Parameters
    ----------
    tensors
        By their published or their braindecode name.
    adapter
        Tensors that are added to them or, as a new head, replace them.
    config
        Sizes; ``None``: those of the published size of this width. The head is taken from
        the shape of its tensor: square is generative, two rows are classification.

    Raises
    ------
    BundleError
        ``E_WEIGHTS`` naming the tensor that is missing, unknown or of another shape.
    """
    arrays, skipped = _renamed(tensors)
    extra, extra_skipped = _renamed(adapter or {})
    arrays |= extra
    merged = _merge_adapters(arrays)
    if config is None:
        width = _named(arrays, "ln_f.weight").shape[0]
        sizes = {size.width: size for size in (SMALL, MEDIUM)}
        if width not in sizes:
            raise BundleError(
                "E_WEIGHTS",
                f"No published size has tokens of {width} entries; give a config.",
                where="ln_f.weight",
            )
        config = sizes[width]
    rows = _named(arrays, "head.weight").shape[0]
    config = replace(config, head="classification" if rows == N_CLASSES else "generative")
    filled = []
    if "encoder.ln.weight" not in arrays:
        n_coefficients = sum(wavelet_sizes(config.contract.samples))
        arrays["encoder.ln.weight"] = np.ones(n_coefficients, np.float32)
        filled.append("encoder.ln.weight")
    return PublishedWeights(
        network=from_arrays(config, arrays),
        skipped=(*skipped, *extra_skipped),
        filled=tuple(filled),
        merged=merged,
    )


def _renamed(
    tensors: Mapping[str, np.ndarray],
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Tensors by our names, and the names that were skipped."""
    arrays: dict[str, np.ndarray] = {}
    skipped = []
    for name, array in tensors.items():
        if _SKIPPED.fullmatch(name):
            skipped.append(name)
            continue
        ours = name
        for pattern, replacement in _RENAMED:
            ours = re.sub(rf"^{pattern}$", replacement, ours)
        if ours in arrays:
            raise BundleError("E_WEIGHTS", f"Tensor {ours} is there twice.", where=name)
        arrays[ours] = array
    return arrays, tuple(skipped)


def _merge_adapters(arrays: dict[str, np.ndarray]) -> tuple[str, ...]:
    """Add each adapter to its weight, in place; the names of the weights."""
    found = [match for name in arrays if (match := _ADAPTED.fullmatch(name))]
    merged = sorted({f"{match[1]}.weight" for match in found})
    for name in merged:
        stem = name.removesuffix(".weight")
        weight, a, b = (
            _named(arrays, f"{stem}.{part}") for part in ("weight", "lora_A", "lora_B")
        )
        # all rows, or the last half: the values of keys and values
        rows = {len(weight), len(weight) // 2} if stem.endswith("c_attn") else {len(weight)}
        fits = a.ndim == b.ndim == weight.ndim == 2 and a.shape == (
            b.shape[1],
            weight.shape[1],
        )
        if not fits or len(b) not in rows:
            raise BundleError(
                "E_WEIGHTS",
                f"The adapter of {name} has shapes {a.shape} and {b.shape}; "
                f"they do not fit {weight.shape}.",
                where=f"{stem}.lora_B",
            )
        whole = weight.astype(np.float32)
        whole[-len(b) :] += ALPHA / len(a) * (b.astype(np.float32) @ a.astype(np.float32))
        arrays[name] = whole
        del arrays[f"{stem}.lora_A"], arrays[f"{stem}.lora_B"]
    return tuple(merged)


def _named(arrays: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    if name not in arrays:
        raise BundleError("E_WEIGHTS", f"Tensor {name} is missing.", where=name)
    return arrays[name]
