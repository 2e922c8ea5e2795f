"""MVPFormer: encoder, block, sizes, heads, adapters, contract."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import pywt
import torch

from phenokit.errors import BadInput
from phenokit.networks.lora import AdaptedLinear, adapters, merge, unmerge
from phenokit.networks.mvpa import AttentionRule
from phenokit.networks.mvpformer import (
    DB4,
    DEMO,
    MEDIUM,
    SMALL,
    Attention,
    Block,
    Grid,
    IEEGContract,
    MVPFormer,
    MVPFormerConfig,
    WaveletEncoder,
    adapt,
    amplitude_is_plausible,
    from_arrays,
    initialise,
    reset_head,
    to_arrays,
    wavelet_sizes,
    wavelet_transform,
)

REFERENCE = Path(__file__).parents[1] / "reference" / "ieeg"
TINY = MVPFormerConfig(
    16, 2, 4, 2, 24, "classification", n_positions=9, n_channels=7, dropout=0.0,
    rule=AttentionRule(window=2), contract=IEEGContract(samples=64),
)  # fmt: skip
LENGTHS = (2560, 100, 64)


def new(config=TINY, seed=0, scale=10.0):
    """A network whose weights are large enough that every part matters."""
    network = initialise(config, generator=torch.Generator().manual_seed(seed)).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter *= scale if parameter.ndim > 1 else 1
    return network.eval()


def signal(batch=2, times=5, channels=3, samples=64, seed=1):
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, times, channels, samples)
    return 30 * torch.randn(*shape, generator=generator, dtype=torch.float64)


def assert_near(found, expected, tolerance):
    expected = torch.as_tensor(expected).to(found.dtype)
    atol = tolerance * float(expected.detach().abs().max())
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)


# --- encoder


def test_taps_are_those_of_daubechies():
    taps = np.array(DB4)
    np.testing.assert_allclose(taps, pywt.Wavelet("db4").dec_lo, atol=1e-15)  # pyright: ignore[reportAttributeAccessIssue]
    for shift in range(1, 4):
        assert abs(taps[2 * shift :] @ taps[: -2 * shift]) < 1e-12


@pytest.mark.parametrize("n", LENGTHS)
def test_transform_agrees_with_the_published_coefficients(n):
    file = np.load(REFERENCE / "wavelet.npz")
    x = torch.tensor(file[f"x_{n}"])
    assert wavelet_sizes(n) == tuple(file[f"sizes_{n}"])
    assert_near(wavelet_transform(x.double()), file[f"coef_{n}"], 1e-9)
    assert_near(wavelet_transform(x), file[f"coef_{n}"], 1e-6)


@pytest.mark.parametrize("n", [14, 15, 63, 512, 1001, 1536])
def test_transform_agrees_with_pywavelets_at_any_length(n):
    x = np.random.default_rng(n).normal(size=(2, n))
    levels = pywt.wavedec(x, "db4", "periodic", len(wavelet_sizes(n)) - 1)
    assert wavelet_sizes(n) == tuple(level.shape[-1] for level in levels)
    assert_near(wavelet_transform(torch.tensor(x)), np.concatenate(levels, -1), 1e-12)


@pytest.mark.parametrize("n", LENGTHS)
def test_tokens_are_those_of_the_published_encoder(n):
    file = np.load(REFERENCE / "wavelet.npz")
    weights = {"ln.weight": f"ln_{n}", "proj.weight": f"proj_{n}"}
    encoder = WaveletEncoder(n, len(file[f"proj_{n}"]))
    encoder.load_state_dict({k: torch.tensor(file[v]) for k, v in weights.items()})
    tokens = encoder(torch.tensor(file[f"x_{n}"])[None, None])
    assert_near(tokens[0, 0], file[f"y_{n}"], 1e-5)


def test_volts_would_shrink_the_tokens_to_a_hundredth():
    encoder, x = new().encoder, signal()
    volts, microvolts = encoder(x * 1e-6).norm(), encoder(x).norm()
    assert 0.005 < volts / microvolts < 0.015


# --- block, attention


def test_block_is_that_of_the_published_code():
    file = np.load(REFERENCE / "block.npz")
    config = replace(TINY, inner=40, rule=AttentionRule(index="reference"))
    block = Block(config).double().eval()
    state = {
        name.removeprefix("param."): torch.tensor(file[name])
        for name in file.files
        if name.startswith("param.") and name != "param.ln_2.weight"
    }
    block.load_state_dict(state)
    P, Q = torch.tensor(file["P_time"]), torch.tensor(file["P_chan"])
    y = block(torch.tensor(file["x"]), P, Q, Grid())
    assert_near(y, file["y"], 1e-9)


@pytest.fixture
def adapted():
    """The reference's attention with adapters, its file, and its call."""
    file = np.load(REFERENCE / "lora.npz")
    config = replace(TINY, rule=AttentionRule(index="reference"))
    attention = Attention(config).double().eval()
    rank = int(file["lora_rank"])
    alpha = float(file["lora_alpha"])
    q, kv = (torch.nn.Linear(16, 16, bias=False).double() for _ in range(2))
    attention.q_attn = AdaptedLinear(q, rank=rank, alpha=alpha)
    attention.c_attn = AdaptedLinear(kv, rank=rank, rows=8, alpha=alpha)
    names = [name for name in file.files if name.startswith("param.")]
    attention.load_state_dict(
        {name.removeprefix("param."): torch.tensor(file[name]) for name in names}
    )
    tables = [torch.tensor(file[name]) for name in ("x", "P_time", "P_chan")]
    return file, attention, lambda: attention(*tables, Grid())


def test_adapters_merged_and_not_are_those_of_the_published_code(adapted):
    file, attention, attend = adapted
    assert_near(attend(), file["y"], 1e-9)
    merge(attention)
    assert_near(attend(), file["y"], 1e-9)
    assert_near(attention.q_attn.weight, file["W_q_merged"], 1e-12)
    assert_near(attention.c_attn.weight, file["W_kv_merged"], 1e-12)


def test_unmerge_undoes_merge_and_twice_is_once(adapted):
    file, attention, attend = adapted
    for change in (merge, merge, unmerge, unmerge):
        change(attention)
    assert_near(attention.c_attn.weight, file["param.c_attn.weight"], 1e-14)
    assert_near(attend(), file["y"], 1e-9)


# --- sizes


def count(config):
    with torch.device("meta"):
        return sum(p.numel() for p in MVPFormer(config).parameters())


@pytest.mark.parametrize(
    ("config", "published", "classifier"),
    [
        (SMALL, 74_176_818, 73_579_314),
        (MEDIUM, 1_243_329_074, 1_239_089_714),
        (DEMO, 1_139_122, 1_122_482),
    ],
    ids=["small", "medium", "demo"],
)
def test_parameters_are_counted_to_the_unit(config, published, classifier):
    unused_norms = config.n_layers * config.width
    assert count(config) + unused_norms == published
    assert count(replace(config, head="classification")) == classifier


@pytest.mark.parametrize(
    ("config", "expected"), [(SMALL, 245_760), (MEDIUM, 1_376_256)], ids=["small", "medium"]
)
def test_adapters_train_as_many_parameters_as_published(config, expected):
    with torch.device("meta"):
        network = MVPFormer(config)
        adapt(network, generator=torch.Generator())
    trained = {n: p.numel() for n, p in network.named_parameters() if p.requires_grad}
    assert trained.pop("head.weight") == config.width**2
    assert sum(trained.values()) == expected


# --- the whole network


def test_classify_reads_the_last_segment_of_all_features():
    network, x = new(), signal()
    expected = network.head(network(x)[:, -1].mean(1))
    assert_near(network.classify(x), expected, 1e-12)


@pytest.mark.parametrize("index", ["distance", "reference"])
def test_a_padded_item_is_classified_as_if_alone(index):
    network, x = new(replace(TINY, rule=AttentionRule(index=index, window=2))), signal()
    valid = torch.ones(2, 5, 3, dtype=torch.bool)
    valid[1, 2, 0] = False  # beside the padding, a gap
    x[1, 2, 0], x[1, 4:], x[1, :, 2:] = torch.nan, 7, 7
    n_seg, n_ch = torch.tensor([5, 4]), torch.tensor([3, 2])
    padded = network.classify(x, valid=valid, n_seg=n_seg, n_ch=n_ch)
    alone = network.classify(x[1:, :4, :2], valid=valid[1:, :4, :2])
    assert_near(padded[1:], alone, 1e-12)
    assert_near(padded[:1], network.classify(x[:1]), 1e-12)


def test_what_is_not_valid_changes_nothing_and_leaves_finite_gradients():
    network, x = new(), signal()
    valid = torch.ones(2, 5, 3, dtype=torch.bool)
    valid[0, 1:, 1] = False
    expected = network.classify(x, valid=valid)
    x[~valid] = torch.nan
    found = network.classify(x, valid=valid)
    assert torch.equal(found, expected)
    found.sum().backward()
    grads = [p.grad for p in network.parameters()]
    assert all(grad is not None and grad.isfinite().all() for grad in grads)


def test_a_last_segment_without_valid_channel_is_not_classified():
    network, x = new(), signal()
    valid = torch.ones(2, 5, 3, dtype=torch.bool)
    valid[1, -1] = False
    logit = network.classify(x, valid=valid)
    assert logit[0].isfinite().all()
    assert logit[1].isnan().all()


def test_predictions_know_nothing_of_later_segments():
    network, x = new(replace(TINY, head="generative")), signal()
    before = network.predict(x)
    x[:, 3:] = 1000
    after = network.predict(x)
    assert torch.equal(after.prediction[:, :3], before.prediction[:, :3])
    assert not torch.equal(after.prediction[:, 3:], before.prediction[:, 3:])
    assert before.target.shape == before.prediction.shape == (2, 5, 3, 16)


@pytest.mark.parametrize("head", ["generative", "classification"])
def test_gradients_reach_every_parameter(head):
    network, x = new(replace(TINY, head=head)).train(), signal()
    output = network.predict(x).prediction if head == "generative" else network.classify(x)
    output.square().sum().backward()
    grads = {name: p.grad for name, p in network.named_parameters()}
    assert [name for name, grad in grads.items() if grad is None or not grad.any()] == []


def test_dropout_changes_training_only():
    network, x = new(replace(TINY, dropout=0.5)), signal()
    with torch.random.fork_rng():
        assert torch.equal(network(x), network(x))
        network.train()
        assert not torch.equal(network(x), network(x))


def test_a_batch_of_one_equals_one_of_a_batch():
    network, x = new(), signal()
    assert_near(network.classify(x[1:]), network.classify(x)[1:], 1e-12)


def test_the_same_seed_gives_the_same_network_and_norms_begin_at_1():
    first, second = (
        initialise(TINY, generator=torch.Generator().manual_seed(3)) for _ in range(2)
    )
    assert all(map(torch.equal, first.parameters(), second.parameters()))
    assert torch.equal(first.ln_f.weight, torch.ones(16))
    assert 0.015 < first.encoder.proj.weight.detach().std() < 0.025


def test_new_adapters_change_nothing_and_only_they_and_the_head_learn():
    network, x = new(), signal()
    expected = network.classify(x)
    adapt(network, rank=2, keys_too=True, generator=torch.Generator().manual_seed(0))
    assert_near(network.classify(x), expected, 1e-12)
    learning = {n for n, p in network.named_parameters() if p.requires_grad}
    assert all("lora_" in n or n == "head.weight" for n in learning)
    assert len(learning) == 2 * 2 * 2 + 1


def test_merged_adapters_are_saved_as_plain_weights():
    network, x = new(scale=1.0).float(), signal().float()
    adapt(network, rank=2, generator=torch.Generator().manual_seed(0))
    for adapter in adapters(network):
        torch.nn.init.normal_(adapter.lora_B, generator=torch.Generator().manual_seed(1))
    expected = network.classify(x)
    with pytest.raises(ValueError, match="merge the adapters first"):
        to_arrays(network)
    merge(network)
    loaded = from_arrays(network.config, to_arrays(network))
    assert_near(loaded.classify(x), network.classify(x), 1e-6)
    assert_near(loaded.classify(x), expected, 1e-4)


def test_a_new_head_makes_a_classifier_of_a_pre_trained_network():
    network = new(replace(TINY, head="generative"))
    with pytest.raises(ValueError, match="no head of two classes"):
        network.classify(signal())
    reset_head(network, "classification", generator=torch.Generator().manual_seed(0))
    assert network.double().classify(signal()).shape == (2, 2)
    with pytest.raises(ValueError, match="no generative head"):
        network.predict(signal())


def test_config_survives_plain_data():
    assert MVPFormerConfig.from_dict(TINY.to_dict()) == TINY


# --- input contract


GOOD = {
    "unit": "uV",
    "sampling_rate": 512.0,
    "samples": 2560,
    "segments": 25,
    "channels": 88,
}


@pytest.mark.parametrize(
    ("changed", "code", "words"),
    [
        ({"unit": "V"}, "E_UNITS", "in V; the model reads uV"),
        ({"unit": ""}, "E_UNITS", "in no unit"),
        ({"sampling_rate": 1024.0}, "E_FS", "1024 Hz; the model reads 512 Hz"),
        ({"samples": 1536}, "A_DURATION", "lasts 3 s; the model reads 5 s"),
        ({"segments": 111}, "A_DURATION", "111 segments; the model reads 1 to 110"),
        ({"channels": 129}, "A_USE", "129 channels; the model reads 1 to 128"),
        ({"channels": 0}, "A_USE", "0 channels"),
    ],
)
def test_contract_refuses_what_the_network_does_not_read(changed, code, words):
    IEEGContract().check(**GOOD)
    with pytest.raises(BadInput, match=words) as refused:
        IEEGContract().check(**{**GOOD, **changed})
    assert refused.value.code == code


def test_amplitude_is_plausible_in_microvolts_only():
    x = torch.cat([signal(1), signal(1) * 1e-6, signal(1) * 1e6])
    assert amplitude_is_plausible(x).tolist() == [True, False, False]
    valid = torch.zeros(3, 5, 3, dtype=torch.bool)
    valid[0] = valid[2, :, :1] = True
    x[2, :, 0] = 50  # the other channels of the third item are not valid
    assert amplitude_is_plausible(x, valid).tolist() == [True, False, True]
