"""Every backend is the published attention, values and gradients."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from einops import rearrange
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.checkpoint import checkpoint

from phenokit.networks.mvpa import (
    AttentionRule,
    attention_probabilities,
    draw_keep,
    mvpa,
)

REFERENCE = Path(__file__).parents[1] / "reference" / "ieeg"
INPUTS = ("x", "P_time", "P_chan", "W_q", "W_kv", "W_time", "W_chan", "W_o", "bias_uvw")
BACKENDS = ("dense", "chunk", "sdpa")
EXACT = {torch.float64: 1e-9, torch.float32: 1e-5}


def assert_near(found, expected, tolerance):
    """Within a tolerance relative to the largest expected value."""
    expected = torch.as_tensor(expected).to(found.dtype)
    atol = tolerance * float(expected.detach().abs().max())
    atol = max(atol, 1e-12 if found.dtype == torch.float64 else 5e-6)  # where 0 is expected
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)


def project(arrays, n_heads, n_kv):
    """Queries, keys, values, table rows and bias of a layer without output matrix."""
    x, P, Q = arrays["x"], arrays["P_time"], arrays["P_chan"]
    kv = "... (two kv d) -> two ... kv d"
    k, v = rearrange(x @ arrays["W_kv"].mT, kv, two=2, kv=n_kv)
    q = rearrange(x @ arrays["W_q"].mT, "... (h d) -> ... h d", h=n_heads)
    R = rearrange(P @ arrays["W_time"].mT, "row (kv d) -> row kv d", kv=n_kv)
    S = rearrange(Q @ arrays["W_chan"].mT, "row (kv d) -> row kv d", kv=n_kv)
    bias = rearrange(arrays["bias_uvw"], "(three kv d) -> three kv d", three=3, kv=n_kv)
    return q, k, v, R, S, bias


@pytest.mark.parametrize("dtype", EXACT, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["attn_small", "attn_window", "attn_c1"])
def test_output_and_gradients_are_those_of_the_published_code(name, backend, dtype):
    file = np.load(REFERENCE / f"{name}.npz")
    arrays: dict[str, torch.Tensor] = {
        n: torch.tensor(file[n], dtype=dtype, requires_grad=True) for n in INPUTS
    }
    parts = project(arrays, int(file["n_heads"]), int(file["n_kv_heads"]))
    rule = AttentionRule(index="reference", window=int(file["window"]))
    y = rearrange(mvpa(*parts, rule=rule, backend=backend), "b t c h d -> b t c (h d)")
    y = y @ arrays["W_o"].mT
    assert_near(y, file["y"], EXACT[dtype])
    loss = (y * torch.tensor(file["cotangent"])).sum()
    grads = torch.autograd.grad(loss, [arrays[n] for n in INPUTS])
    for n, grad in zip(INPUTS, grads, strict=True):
        assert_near(grad, file[f"grad_{n}"], EXACT[dtype])


@pytest.mark.parametrize("name", ["attn_small", "attn_window", "attn_c1"])
def test_probabilities_are_those_of_the_published_code(name):
    file = np.load(REFERENCE / f"{name}.npz")
    arrays = {n: torch.tensor(file[n]) for n in INPUTS}
    q, k, _, R, S, bias = project(arrays, int(file["n_heads"]), int(file["n_kv_heads"]))
    p = attention_probabilities(q, k, R, S, bias, rule=AttentionRule(index="reference"))
    p = rearrange(p, "b h t c key_t key_c -> b h (t c) (key_t key_c)")
    assert_near(p, file["attn"], 1e-9)
    assert torch.equal(p == 0, torch.tensor(np.isneginf(file["logits"])))


def inputs(batch, times, channels, *, queries=None, heads=4, n_kv=2, d=3, rows=24, seed=0):
    """Random arguments of `mvpa` that want gradients, float64."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        values = torch.randn(*shape, generator=generator, dtype=torch.float64)
        return values.requires_grad_()

    kv = (batch, times, channels, n_kv, d)
    table = (rows, n_kv, d)
    q = normal(batch, queries or times, channels, heads, d)
    return q, normal(*kv), normal(*kv), normal(*table), normal(*table), normal(3, n_kv, d)


def values_and_gradients(arguments, **options):
    y = mvpa(*arguments, **options)
    weight = torch.linspace(-1, 1, y.numel()).to(y).sin().view_as(y)
    grads = torch.autograd.grad((y * weight).sum(), arguments, allow_unused=True)
    return y, *(
        torch.zeros_like(a) if g is None else g
        for a, g in zip(arguments, grads, strict=True)
    )


RULES = {
    "window": AttentionRule(window=2),
    "no exemption": AttentionRule(window=2, exempt_last=False),
    "horizon": AttentionRule(window=2, horizon=4, exempt_last=False),
    "wide horizon": AttentionRule(window=9, horizon=3),
    "reference": AttentionRule(index="reference", window=3),
    "no content": AttentionRule(content=False),
    "no time": AttentionRule(time=False, window=1),
    "no channel": AttentionRule(channel=False, window=1),
    "content alone": AttentionRule(time=False, channel=False),
    "scaled": AttentionRule(layer_scale=0.25, window=2),
}


@pytest.mark.parametrize("backend", ["chunk", "sdpa"])
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_every_backend_equals_dense_under_every_rule(rule, backend):
    arguments = inputs(2, 6, 3)
    expected = values_and_gradients(arguments, rule=rule, backend="dense")
    found = values_and_gradients(arguments, rule=rule, backend=backend)
    for a, b in zip(found, expected, strict=True):
        assert_near(a, b, 1e-9)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_flex_gives_the_values_of_dense(rule):
    arguments = [a.detach() for a in inputs(2, 6, 3)]
    mask = torch.rand(2, 6, 3, generator=torch.Generator().manual_seed(1)) < 0.6
    expected = mvpa(*arguments, rule=rule, key_mask=mask, backend="dense")
    found = mvpa(*arguments, rule=rule, key_mask=mask, backend="flex")
    assert_near(found, expected, 1e-9)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("backend", ["dense", "chunk", "flex"])
def test_a_gpu_gives_the_values_and_gradients_of_the_cpu(backend):
    rule = AttentionRule(index="reference", window=2)
    exact = inputs(2, 6, 8, d=16, heads=4, n_kv=2)
    on_gpu = [a.detach().float().cuda().requires_grad_() for a in exact]
    expected = values_and_gradients(exact, rule=rule, backend="dense")
    found = values_and_gradients(on_gpu, rule=rule, backend=backend)
    for a, b in zip(found, expected, strict=True):
        assert_near(a.cpu(), b, 1e-3)  # matrix products may round to TF32


@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_every_backend_equals_dense_with_masks_padding_and_dropout(data):
    batch, times, channels = (data.draw(st.integers(1, most)) for most in (3, 7, 4))
    seed, window = data.draw(st.integers(0, 99)), data.draw(st.integers(0, 7))
    backend = data.draw(st.sampled_from(["chunk", "sdpa"]))
    generator = torch.Generator().manual_seed(seed)
    options = {
        "rule": AttentionRule(
            data.draw(st.sampled_from(["distance", "reference"])), window
        ),
        "keep_time": draw_keep(times, 0.3, generator=generator),
        "keep_chan": draw_keep(channels, 0.3, generator=generator),
    }
    if data.draw(st.booleans()):
        mask = torch.rand(batch, times, channels, generator=generator) < 0.6
        options["key_mask"] = mask
    if data.draw(st.booleans()):
        options["n_seg"] = torch.randint(1, times + 1, (batch,), generator=generator)
        options["n_ch"] = torch.randint(1, channels + 1, (batch,), generator=generator)
    arguments = inputs(batch, times, channels, seed=seed)
    expected = values_and_gradients(arguments, backend="dense", **options)
    found = values_and_gradients(arguments, backend=backend, memory_limit=2000, **options)
    for a, b in zip(found, expected, strict=True):
        assert_near(a, b, 1e-9)


@pytest.mark.parametrize("channels", [2, 17])  # keys by channel, keys by segment
@pytest.mark.parametrize("memory_limit", [1, 3000, 20_000, 1 << 24])
def test_the_size_of_a_block_changes_nothing(memory_limit, channels):
    arguments = inputs(3, 9, channels)
    options = {"rule": AttentionRule(window=2), "n_seg": torch.tensor([9, 5, 2])}
    expected = values_and_gradients(arguments, backend="dense", **options)
    found = values_and_gradients(
        arguments, backend="chunk", memory_limit=memory_limit, **options
    )
    for a, b in zip(found, expected, strict=True):
        assert_near(a, b, 1e-12)


def test_what_waits_for_backward_holds_probabilities_only_where_they_are_few():
    arguments, logits = inputs(1, 20, 16), 4 * 320**2 * 8
    sizes = {}
    for limit in (logits, 8 * logits):
        packed = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda x, packed=packed: packed.append(x) or x, lambda x: x
        ):
            mvpa(*arguments, memory_limit=limit)
        sizes[limit] = sum(x.nbytes for x in packed)
    assert sizes[logits] < logits / 2
    assert sizes[8 * logits] - sizes[logits] > logits / 2


def test_a_pass_in_inference_mode_leaves_training_possible():
    arguments = inputs(1, 11, 2)  # masks of a shape are made once
    with torch.inference_mode():
        mvpa(*arguments, rule=AttentionRule(window=2))
    assert all(
        g.any() for g in values_and_gradients(arguments, rule=AttentionRule(window=2))
    )


@pytest.mark.parametrize("index", ["distance", "reference"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_padded_item_equals_the_item_alone(backend, index):
    rule = AttentionRule(index=index, window=2)
    q, k, v, *tables = (a.detach() for a in inputs(2, 6, 5))
    with torch.no_grad():
        k[1, 4:], v[1, :, 3:] = torch.nan, torch.nan  # what padding holds does not matter
    padded = mvpa(
        q,
        k,
        v,
        *tables,
        rule=rule,
        backend=backend,
        n_seg=torch.tensor([6, 4]),
        n_ch=torch.tensor([5, 3]),
    )
    own = (slice(1, 2), slice(4), slice(3))
    alone = mvpa(q[own], k[own], v[own], *tables, rule=rule, backend=backend)
    assert_near(padded[own], alone, 1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_future_leaks_nothing(backend):
    q, k, v, *tables = (a.detach() for a in inputs(1, 6, 3))
    rule = AttentionRule(window=2)
    before = mvpa(q, k, v, *tables, rule=rule, backend=backend)[:, :4]
    q[:, 4:], k[:, 4:], v[:, 4:] = 7, -5, 1e6
    after = mvpa(q, k, v, *tables, rule=rule, backend=backend)[:, :4]
    assert torch.equal(after, before)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_query_without_a_key_gives_0_with_gradient_0(backend):
    arguments = inputs(2, 5, 3)
    mask = torch.ones(2, 5, 3, dtype=torch.bool)
    mask[1, :3] = False
    with torch.no_grad():
        arguments[1][1, :3] = torch.nan
        arguments[2][1, :3] = torch.nan
    rule = AttentionRule(window=1)
    y = mvpa(*arguments, rule=rule, key_mask=mask, backend=backend)
    assert torch.equal(y[1, :3], torch.zeros(3, 3, 4, 3, dtype=torch.float64))
    assert y.isfinite().all()
    grads = torch.autograd.grad(y[1, :3].sum(), arguments)
    assert all(not grad.any() for grad in grads)
    grads = torch.autograd.grad(
        mvpa(*arguments, rule=rule, key_mask=mask, backend=backend).sum(), arguments
    )
    assert all(grad.isfinite().all() for grad in grads)
    assert not grads[1][1, :3].any()


def test_reference_is_distance_with_reversed_tables():
    q, k, v, R, S, bias = inputs(2, 7, 4)
    reference = AttentionRule(index="reference", window=3)
    expected = mvpa(q, k, v, R, S, bias, rule=reference, backend="dense")
    R, S = R[:7].flip(0), S[:4].flip(0)
    distance = replace(reference, index="distance")
    found = mvpa(q, k, v, R, S, bias, rule=distance, backend="dense")
    assert torch.equal(found, expected)


def test_only_the_reversal_of_channels_changes_nothing():
    q, k, v, *tables = inputs(1, 4, 5)
    y = mvpa(q, k, v, *tables)
    turned = mvpa(q.flip(2), k.flip(2), v.flip(2), *tables).flip(2)
    assert_near(turned, y, 1e-12)
    rolled = mvpa(q.roll(1, 2), k.roll(1, 2), v.roll(1, 2), *tables).roll(-1, 2)
    assert (rolled - y).abs().max() > 1e-3


@pytest.mark.parametrize("backend", BACKENDS)
def test_positions_keep_distances_true_where_a_channel_is_dropped(backend):
    q, k, v, *tables = inputs(1, 4, 5)
    mask = torch.ones(1, 4, 5, dtype=torch.bool)
    mask[:, :, 2] = False
    rest = torch.tensor([0, 1, 3, 4])
    expected = mvpa(q, k, v, *tables, key_mask=mask, backend=backend)[:, :, rest]
    q, k, v = (x[:, :, rest] for x in (q, k, v))
    found = mvpa(q, k, v, *tables, channel_pos=rest[None], backend=backend)
    assert_near(found, expected, 1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_queries_of_the_last_segments_alone_give_the_end_of_the_whole(backend):
    q, k, v, *tables = inputs(2, 6, 3)
    rule = AttentionRule(index="reference", window=2)
    whole = mvpa(q, k, v, *tables, rule=rule, backend=backend)
    assert_near(
        mvpa(q[:, 4:], k, v, *tables, rule=rule, backend=backend), whole[:, 4:], 1e-12
    )


def test_distance_without_exemption_is_consistent_under_a_prefix():
    q, k, v, *tables = inputs(1, 8, 2)
    rule = AttentionRule(window=2, exempt_last=False)
    whole = mvpa(q, k, v, *tables, rule=rule)
    prefix = mvpa(q[:, :5], k[:, :5], v[:, :5], *tables, rule=rule)
    assert_near(prefix, whole[:, :5], 1e-12)
    exempt = replace(rule, exempt_last=True)
    assert (
        mvpa(q[:, :5], k[:, :5], v[:, :5], *tables, rule=exempt) - prefix
    ).abs().max() > 1e-3


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_backend_runs_under_activation_checkpointing(backend):
    arguments = inputs(1, 5, 3)
    rule = AttentionRule(window=2)

    def attend(*arguments):
        return mvpa(*arguments, rule=rule, backend=backend).square().sum()

    plain = torch.autograd.grad(attend(*arguments), arguments)
    again = torch.autograd.grad(
        checkpoint(attend, *arguments, use_reentrant=False), arguments
    )
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))


@pytest.mark.parametrize("backend", BACKENDS)
def test_bfloat16_stays_within_two_hundredths(backend):
    arguments = [a.detach().bfloat16() for a in inputs(2, 6, 4, d=8)]
    rule = AttentionRule(window=2)
    exact = [a.float().requires_grad_() for a in arguments]
    rounded = [a.requires_grad_() for a in arguments]
    expected = values_and_gradients(exact, rule=rule, backend="dense")
    found = values_and_gradients(rounded, rule=rule, backend=backend)
    for a, b in zip(found, expected, strict=True):
        assert_near(a.float(), b, 2e-2)


def test_dropout_drops_whole_segments_and_channels_of_keys_and_keeps_the_mean():
    keep_time, keep_chan = (
        draw_keep(200, 0.19, generator=torch.Generator().manual_seed(seed))
        for seed in (1, 2)
    )
    assert set(keep_time.tolist()) == {0.0, float(torch.tensor(1 / 0.9))}
    pairs = keep_time[:, None] * keep_chan
    # 200 x 200 pairs, each kept with 0.81: the standard error of a mean of 200 is 0.024
    assert abs(float(pairs.mean()) - 1) < 4 * 2**0.5 * 0.024
    q, k, v, *tables = inputs(1, 3, 2)
    y = mvpa(q, k, v, *tables, keep_chan=torch.tensor([0.0, 1.0]))
    (grad,) = torch.autograd.grad(y.sum(), v)
    assert not grad[:, :, 0].any()
    assert grad[:, :, 1].all()


@pytest.mark.parametrize("index", ["distance", "reference"])
def test_past_the_end_of_a_table_is_refused(index):
    rule = AttentionRule(index=index)
    with pytest.raises(ValueError, match=r"T = 7 segments and C = 3 channels.* 6 and 6"):
        mvpa(*inputs(1, 7, 3, rows=6), rule=rule)
    with pytest.raises(ValueError, match="need 3 time rows and 7 channel rows"):
        mvpa(*inputs(1, 3, 7, rows=6), rule=rule)


def test_positions_past_the_table_are_refused_and_so_are_positions_in_reference():
    with pytest.raises(ValueError, match="need 2 time rows and 41 channel rows"):
        mvpa(*inputs(1, 2, 2), channel_pos=torch.tensor([[0, 40]]))
    with pytest.raises(ValueError, match="channel_pos needs"):
        mvpa(
            *inputs(1, 2, 2),
            channel_pos=torch.tensor([[0, 1]]),
            rule=AttentionRule("reference"),
        )
