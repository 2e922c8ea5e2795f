"""One segment at a time is the same as all at once."""

import numpy as np
import pytest
import torch

from phenokit.networks.mvpa import AttentionRule
from phenokit.networks.mvpformer import Grid
from phenokit.networks.streaming import (
    can_cache,
    decode_window,
    empty_cache,
    empty_window,
    push_window,
    step_cached,
)

N_CHANNELS, N_TIMES = 5, 11


@pytest.fixture(scope="module")
def segments():
    """Signal, and which of it is valid: most; one segment holds nothing."""
    rng = np.random.default_rng(3)
    signal = torch.tensor(30 * rng.normal(size=(N_TIMES, N_CHANNELS, 128))).float()
    valid = torch.tensor(rng.random((N_TIMES, N_CHANNELS)) < 0.8)
    valid[4] = False
    signal[~valid] = torch.nan
    return signal, valid


def cached_features(network, signal, valid, **options):
    cache, found = empty_cache(network, n_channels=N_CHANNELS), []
    for one, usable in zip(signal, valid, strict=True):
        features, cache = step_cached(network, cache, one, usable, **options)
        found.append(features)
    return torch.stack(found)


@pytest.mark.parametrize("rule", [{}, {"horizon": 2}, {"window": 0}, {"content": False}])
@pytest.mark.parametrize("position", [None, [0, 1, 3, 4, 8]])
def test_a_cached_step_is_a_row_of_one_pass_over_the_whole_recording(
    ieeg_model, segments, rule, position
):
    network, (signal, valid) = ieeg_model(**rule).network, segments
    channel_pos = None if position is None else torch.tensor(position)
    found = cached_features(network, signal, valid, channel_pos=channel_pos)
    with torch.no_grad():
        whole = network(
            signal[None],
            valid=valid[None],
            channel_pos=None if channel_pos is None else channel_pos[None],
        )[0]
        later = network(
            signal[None, 3:],
            valid=valid[None, 3:],
            channel_pos=None if channel_pos is None else channel_pos[None],
        )[0]
    tolerance = 1e-5 * float(whole[valid].abs().max())
    torch.testing.assert_close(found[valid], whole[valid], rtol=0, atol=tolerance)
    # the law would hold trivially if the past did not matter
    assert (whole[3:] - later)[valid[3:]].abs().max() > 100 * tolerance


def test_a_decoded_window_is_the_window_alone(ieeg_model, segments):
    network, (signal, valid) = ieeg_model("exact", exempt_last=True).network, segments
    window = empty_window(network, n_segments=4, n_channels=N_CHANNELS)
    for t in range(N_TIMES):
        window = push_window(network, window, signal[t], valid[t])
        if t < 3 or not valid[t].any():
            continue
        alone = slice(t - 3, t + 1)
        with torch.no_grad():
            tokens = network.encode(signal[None, alone], valid[None, alone])
            grid = Grid(key_mask=valid[None, alone])
            expected = network.decode(tokens, grid, n_queries=1)[0, 0]
        found = decode_window(network, window)
        torch.testing.assert_close(
            found[valid[t]], expected[valid[t]], rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize(
    "rule",
    [
        AttentionRule(exempt_last=False),
        AttentionRule(horizon=4),
        AttentionRule("reference", exempt_last=False, horizon=4),
    ],
)
def test_a_cache_needs_distances_a_horizon_and_no_exemption(ieeg_model, rule):
    assert not can_cache(rule)
    network = ieeg_model("exact", **vars(rule)).network
    with pytest.raises(ValueError, match="horizon"):
        empty_cache(network, n_channels=3)
