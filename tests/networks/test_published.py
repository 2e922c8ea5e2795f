"""Weights under the names of the published code and of braindecode."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from phenokit.errors import BundleError
from phenokit.networks.checkpoint import write_tensors
from phenokit.networks.lora import adapters
from phenokit.networks.mvpa import AttentionRule
from phenokit.networks.mvpformer import (
    IEEGContract,
    MVPFormerConfig,
    adapt,
    initialise,
    to_arrays,
)
from phenokit.networks.published import load_published, read_published

CONFIG = MVPFormerConfig(
    16, 2, 4, 2, 24, n_positions=9, n_channels=7, dropout=0.0,
    rule=AttentionRule(index="reference"), contract=IEEGContract(samples=64),
)  # fmt: skip
X = 30 * torch.randn(2, 4, 3, 64, generator=torch.Generator().manual_seed(5))


def network(head="generative"):
    config = replace(CONFIG, head=head)
    return initialise(config, generator=torch.Generator().manual_seed(7)).eval()


def renamed(arrays, prefix="mvpformer"):
    """Our names as the published code has them, with what it has beside."""
    names = {
        "encoder": "encoder",
        "blocks": f"{prefix}.h",
        "positional_embedding": f"{prefix}.positional_embedding",
        "channel_embedding": f"{prefix}.channel_embedding",
        "ln_f": f"{prefix}.ln_f",
        "head": "head.head",
    }
    published = {
        f"{names[name.split('.')[0]]}.{name.split('.', 1)[1]}": array
        for name, array in arrays.items()
    }
    beside = {
        f"{prefix}.h.0.ln_2.weight": np.ones(16, np.float32),
        f"{prefix}.h.1.attn.masked_bias": np.zeros((), np.float32),
        "seizure_embeddings": np.zeros((3, 64), np.float32),
        "class_loss.weight": np.ones(2, np.float32),
    }
    return published | beside


def braindecode(arrays):
    names = {"encoder": "patch_embed", "head": "final_layer"}
    return {
        f"{names.get(name.split('.')[0], name.split('.')[0])}.{name.split('.', 1)[1]}": a
        for name, a in arrays.items()
    }


@pytest.mark.parametrize("head", ["generative", "classification"])
@pytest.mark.parametrize("prefix", ["mvpformer", "genie"])
def test_published_names_give_the_same_network(prefix, head):
    expected = network(head)
    loaded = load_published(renamed(to_arrays(expected), prefix), config=CONFIG)
    assert loaded.network.config.head == head
    torch.testing.assert_close(loaded.network(X), expected(X))
    assert torch.equal(loaded.network.head.weight, expected.head.weight)
    assert len(loaded.skipped) == 4
    assert loaded.filled == loaded.merged == ()


def test_braindecode_names_give_the_same_network():
    expected = network("classification")
    loaded = load_published(braindecode(to_arrays(expected)), config=CONFIG)
    torch.testing.assert_close(loaded.network.classify(X), expected.classify(X))


def test_a_missing_norm_of_the_encoder_is_filled_and_said():
    arrays = renamed(to_arrays(network()))
    del arrays["encoder.ln.weight"]
    loaded = load_published(arrays, config=CONFIG)
    assert loaded.filled == ("encoder.ln.weight",)
    torch.testing.assert_close(loaded.network(X), network()(X))


@pytest.mark.parametrize("keys_too", [False, True], ids=["values", "keys and values"])
def test_a_file_of_adapters_is_merged_into_its_base(keys_too):
    generator = torch.Generator().manual_seed(0)
    tuned = network("classification")
    adapt(tuned, rank=4, keys_too=keys_too, generator=generator)
    for adapter in adapters(tuned):
        torch.nn.init.normal_(adapter.lora_B, 0, 0.1, generator)
    arrays = {name: t.detach().numpy() for name, t in tuned.state_dict().items()}
    extra = {n: a for n, a in arrays.items() if "lora_" in n or n == "head.weight"}
    base = renamed(to_arrays(network()))
    loaded = load_published(base, adapter=extra, config=CONFIG)
    torch.testing.assert_close(loaded.network.classify(X), tuned.classify(X))
    assert not torch.allclose(loaded.network(X), network()(X), atol=1e-3)
    assert len(loaded.merged) == 4


QUERY = "mvpformer.h.0.attn.q_attn"
MISFITS = {
    "a weight is missing": (
        ["mvpformer.h.1.mlp.up_proj.weight"],
        {},
        "blocks.1.mlp.up_proj.weight",
    ),
    "the last norm is missing": (["mvpformer.ln_f.weight"], {}, "ln_f.weight"),
    "the head is missing": (["head.head.weight"], {}, "head.weight"),
    "a block too many": ([], {"mvpformer.h.2.ln_1.weight": (16,)}, "blocks.2.ln_1.weight"),
    "an unknown tensor": ([], {"surprise": (16,)}, "surprise"),
    "a head of three classes": ([], {"head.head.weight": (3, 16)}, "head.weight"),
    "two names for one": ([], {"genie.ln_f.weight": (16,)}, "genie.ln_f.weight"),
    "an adapter too small": (
        [],
        {f"{QUERY}.lora_A": (8, 16), f"{QUERY}.lora_B": (8, 8)},
        "blocks.0.attn.q_attn.lora_B",
    ),
    "half an adapter": ([], {f"{QUERY}.lora_A": (8, 16)}, "blocks.0.attn.q_attn.lora_B"),
}


@pytest.mark.parametrize(("absent", "beside", "where"), MISFITS.values(), ids=MISFITS)
def test_a_tensor_that_does_not_fit_is_refused_by_name(absent, beside, where):
    arrays = renamed(to_arrays(network()))
    arrays = {name: array for name, array in arrays.items() if name not in absent}
    arrays |= {name: np.ones(shape, np.float32) for name, shape in beside.items()}
    with pytest.raises(BundleError) as refused:
        load_published(arrays, config=CONFIG)
    assert (refused.value.code, refused.value.where) == ("E_WEIGHTS", where)


def test_a_width_that_was_not_published_needs_a_config():
    with pytest.raises(BundleError, match="tokens of 16 entries; give a config"):
        load_published(renamed(to_arrays(network())))


def test_only_safetensors_are_read(tmp_path):
    file = tmp_path / "weights.safetensors"
    write_tensors(file, renamed(to_arrays(network())))
    loaded = read_published(file, config=CONFIG)
    torch.testing.assert_close(loaded.network(X), network()(X))
    file.rename(tmp_path / "weights.pt")
    with pytest.raises(BundleError, match="Only safetensors"):
        read_published(tmp_path / "weights.pt", config=CONFIG)
