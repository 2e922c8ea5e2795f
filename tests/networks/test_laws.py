"""What holds for every network, whatever its size."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from phenokit.errors import BundleError
from phenokit.networks.prototype import (
    STRIDE,
    PrototypeConfig,
    PrototypeNetwork,
    TrunkConfig,
    compact,
    fold_batch_norm,
    from_arrays,
    pool_windows,
    published,
    to_arrays,
    window_bounds,
)
from phenokit.statements import Branch

BRANCH_LABELS: dict[Branch, tuple[str, ...]] = {
    "rhythm": ("SR", "AFIB"),
    "morphology": ("PVC", "WPW"),
    "global": ("NORM",),
}
LABELS = ("WPW", "NORM", "PVC", "SR", "AFIB")
WIDTHS = (4, 6, 8, 10)


def small_published():
    config = published(BRANCH_LABELS, LABELS)
    trunks = {name: TrunkConfig(t.kind, WIDTHS) for name, t in config.trunks.items()}
    return replace(config, trunks=trunks, features=12)


def small_compact():
    per_label: dict[Branch, int] = {"rhythm": 2, "morphology": 3, "global": 2}
    return compact(BRANCH_LABELS, LABELS, per_label=per_label, widths=WIDTHS)


CONFIGS = {"published": small_published(), "compact": small_compact()}


@pytest.fixture(params=CONFIGS)
def network(request):
    """A network in eval mode whose batch norms have seen data."""
    with torch.random.fork_rng():
        torch.set_rng_state(torch.Generator().manual_seed(5).get_state())
        network = PrototypeNetwork(CONFIGS[request.param]).train()
        with torch.no_grad():
            for _ in range(3):
                network(3 * torch.randn(8, 12, 1000) + 1)
    return network.eval()


@pytest.fixture(scope="module")
def signal():
    return torch.randn(5, 12, 1000, generator=torch.Generator().manual_seed(11))


def test_outputs_have_a_value_a_prototype_and_a_label(network, signal):
    output = network(signal)
    n = network.n_prototypes
    assert output.similarity.shape == output.window.shape == (5, n)
    assert output.logit.shape == (5, len(LABELS))
    channels = sum(p.shape[1] for p in network.prototypes.values())
    assert output.features.shape == (5, channels)


def test_gradients_reach_every_parameter(network, signal):
    network.train()
    windows = network.similarities(network.features(signal))
    pooled = {n: pool_windows(s, network.config.pooling) for n, s in windows.items()}
    branches = [network.classifiers[name](s).square().sum() for name, s in pooled.items()]
    (network(signal).logit.square().sum() + sum(branches)).backward()
    unreached = [
        name
        for name, p in network.named_parameters()
        if p.grad is None or not p.grad.abs().max() > 0
    ]
    assert unreached == []


def test_eval_is_deterministic(network, signal):
    with torch.inference_mode():
        first, second = network(signal), network(signal)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_batch_of_one_equals_one_of_a_batch(network, signal):
    padded = torch.cat([signal[2:3], torch.zeros(7, 12, 1000)])
    with torch.inference_mode():
        alone, together = network(padded), network(signal)
    torch.testing.assert_close(alone.logit[0], together.logit[2], rtol=1e-5, atol=1e-5)
    assert torch.equal(alone.window[0], together.window[2])


def test_arrays_give_the_same_network_back(network, signal):
    stored = json.dumps(network.config.to_dict(), sort_keys=True)  # as in config.json
    config = PrototypeConfig.from_dict(json.loads(stored))
    assert config == network.config
    assert list(config.branches) == list(network.config.branches)
    again = from_arrays(config, to_arrays(network))
    with torch.inference_mode():
        assert torch.equal(again(signal).logit, network(signal).logit)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda arrays: arrays.pop("fusion.bias"), "fusion.bias is missing"),
        (lambda arrays: arrays.update(extra=np.zeros(1)), "extra is unknown"),
        (
            lambda arrays: arrays.update({"fusion.bias": np.zeros(3, np.float32)}),
            "fusion.bias has shape 3",
        ),
    ],
)
def test_arrays_of_another_network_are_refused_by_tensor(network, change, words):
    arrays = to_arrays(network)
    change(arrays)
    with pytest.raises(BundleError, match=words) as refusal:
        from_arrays(network.config, arrays)
    assert refusal.value.code == "E_WEIGHTS"


def test_folded_batch_norms_change_no_output(network, signal):
    with torch.inference_mode():
        before = network(signal)
        after = fold_batch_norm(network)(signal)
    assert not any("BatchNorm" in type(m).__name__ for m in network.modules())
    torch.testing.assert_close(after.logit, before.logit, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(after.similarity, before.similarity, rtol=1e-5, atol=1e-5)


def test_the_window_named_is_the_window_scored(network, signal):
    network.config = replace(network.config, pooling="max")
    with torch.inference_mode():
        output = network(signal)
        windows = network.similarities(network.features(signal))
    start = 0
    for similarity in windows.values():
        stop = start + similarity.shape[1]
        index = output.window[:, start:stop, None]
        scored = similarity.take_along_dim(index, dim=-1)[..., 0]
        assert torch.equal(scored, output.similarity[:, start:stop])
        start = stop


def test_logits_are_the_sum_of_weight_times_similarity(network, signal):
    with torch.inference_mode():
        output = network(signal)
    weight, bias = to_arrays(network)["fusion.weight"], to_arrays(network)["fusion.bias"]
    expected = output.similarity.double().numpy() @ weight.T.astype(float) + bias
    np.testing.assert_allclose(output.logit.numpy(), expected, atol=1e-5)


FIELDS = {"published": (435, 499), "compact": (67, 131)}


def field_of(trunk, step, more_steps=0):
    """First and last sample that latent steps `step` to `step + more_steps` may see.

    A trunk shifted by half a step does not see the half step that the shift cuts off.
    """
    half = trunk.receptive_field // 2
    first = STRIDE * step + trunk.offset - half
    last = first + 2 * half + STRIDE * more_steps
    return max(first, trunk.offset), min(last, 999)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("step", [0, 9, 31])
def test_a_latent_step_sees_its_receptive_field_to_the_last_sample(name, step):
    network = PrototypeNetwork(CONFIGS[name]).double().eval()
    trunk = network.trunks[network.config.branches["morphology"].trunk]
    assert trunk.receptive_field == FIELDS[name][0]
    for weight in trunk.parameters():  # nothing cancels, no unit is silent
        weight.data.abs_()
    first, last = field_of(trunk, step)
    flat = torch.ones(1, 12, 1000, dtype=torch.float64)
    inside, outside = flat.clone(), flat.clone()
    outside[..., :first] = outside[..., last + 1 :] = 20.0
    with torch.inference_mode():
        before = trunk(flat)[..., step]
        assert torch.equal(trunk(outside)[..., step], before)
        for edge in (first, last):
            inside[..., edge] = 20.0
            assert (trunk(inside)[..., step] > before).all()
            inside[..., edge] = 1.0


@pytest.mark.parametrize("window", [0, 11, 29])
def test_a_window_is_blind_to_what_lies_outside_its_field(network, signal, window):
    trunk = network.trunks[network.config.branches["morphology"].trunk]
    first, last = field_of(trunk, window, 2)
    changed = signal[:1].clone()
    changed[..., :first] = 20.0
    changed[..., last + 1 :] = -20.0
    with torch.inference_mode():
        before, after = (
            network.similarities(network.features(x))["morphology"][..., window]
            for x in (signal[:1], changed)
        )
    assert torch.equal(before, after)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_window_of_three_steps_sees_64_samples_more_than_a_step(name):
    network = PrototypeNetwork(CONFIGS[name])
    assert network.window_samples("morphology") == FIELDS[name][1] == FIELDS[name][0] + 64


def test_the_window_shown_lies_in_the_middle_of_the_receptive_field():
    network = PrototypeNetwork(CONFIGS["compact"])
    trunk: Any = network.trunks["shape"]
    start, stop = window_bounds(8, 3)
    field = network.window_samples("morphology")
    assert field is not None
    centre = STRIDE * (8 + 1) + trunk.offset
    assert abs(centre - (start + stop - 1) / 2) <= 0.5
    assert (field - 1) // 2 - (stop - start) // 2 == 17


@pytest.mark.parametrize("branch", ["rhythm", "global"])
def test_branches_over_the_whole_recording_have_no_window(network, branch):
    steps = network.config.branches[branch].window
    assert network.window_samples(branch) is None
    assert window_bounds(0, steps) == (0, 1000)
