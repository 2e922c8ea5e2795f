"""The monitor: any chunking gives the same bits; gaps, faults and refusals are named."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from phenokit.errors import BadInput, BundleError
from phenokit.evidence.seizures import CoverageRule, EventRule
from phenokit.monitor import SeizureMonitor, refusals
from phenokit.networks.checkpoint import read_tensors, write_tensors
from phenokit.pipeline import score_ieeg
from phenokit.preprocessing.segments import SegmentGrid
from phenokit.recording import SegmentStatus

MODES = ("exact", "cached")
EVALUATED, WARMING_UP, GAP, FEW = SegmentStatus
A_SECOND = 128


def monitor_of(model, recording, **options):
    return SeizureMonitor(
        model,
        channels=recording.channels,
        sampling_rate=recording.sampling_rate,
        unit=recording.unit,
        **options,
    )


def run(model, recording, cuts=(), **options):
    """Results of a recording that is fed in pieces."""
    monitor = monitor_of(model, recording, **options)
    edges = [0, *sorted(cuts), recording.n_samples]
    results = []
    for first, stop in pairwise(edges):
        results += monitor.feed(recording.samples(first, stop))
    return results + monitor.finish()


def bits(results):
    return [
        (r.index, r.start, r.status, np.float64(r.probability).tobytes(),
         r.contribution.tobytes(), r.faults, np.float64(r.amplitude).tobytes())
        for r in results
    ]  # fmt: skip


def statuses(results):
    return [r.status for r in results]


def probabilities(results):
    return np.array([r.probability for r in results])


def prepared(model, recording):
    """Segments of the whole recording, and which channels of them can be used."""
    grid = SegmentGrid(model.segments, recording.sampling_rate)
    numbers = range(grid.n_segments(recording.n_samples))
    segments = [grid.read(recording, k) for k in numbers]
    signal = torch.tensor(np.stack([s.signal for s in segments]))
    return signal, torch.tensor(np.stack([s.valid for s in segments]))


def logits(results):
    return np.array([np.nansum(r.contribution.astype(float)) for r in results])


@pytest.fixture(scope="module")
def eventful(ieeg_array):
    """At 200 Hz, with a hole, a flat and a lost stretch, and a tail of half a segment."""
    recording = ieeg_array(6, 15.5, sampling_rate=200.0, seed=4)
    signal = recording.signal.copy()
    signal[:, 1300:1450] = np.nan
    signal[1, 900:1300] = 7.0
    signal[2, 2200:] = np.nan
    return replace(recording, signal=signal)


@pytest.fixture(scope="module")
def whole(ieeg_model, eventful):
    """Bits of the recording that is fed at once, by mode."""
    return {mode: bits(run(ieeg_model(mode), eventful)) for mode in MODES}


# --- chunks


@pytest.mark.parametrize("mode", MODES)
@settings(max_examples=4, deadline=None)
@given(cuts=st.lists(st.integers(0, 3100), max_size=12))
def test_any_chunking_gives_the_bits_of_one_feed(ieeg_model, eventful, whole, mode, cuts):
    assert bits(run(ieeg_model(mode), eventful, cuts)) == whole[mode]


@pytest.mark.parametrize("mode", MODES)
def test_samples_that_come_one_by_one_give_the_same_bits(ieeg_model, ieeg_array, mode):
    model, recording = ieeg_model(mode), ieeg_array(3, 5.2, sampling_rate=130.0)
    assert bits(run(model, recording, range(1, 676))) == bits(run(model, recording))


@pytest.mark.parametrize("mode", MODES)
def test_a_state_that_was_stored_goes_on_with_the_same_bits(
    ieeg_model, eventful, whole, mode, tmp_path
):
    model = ieeg_model(mode)
    for cut in (0, 1400, 2350):
        before, after = monitor_of(model, eventful), monitor_of(model, eventful)
        results = before.feed(eventful.samples(0, cut))
        write_tensors(tmp_path / "state.safetensors", before.state_dict())
        after.load_state_dict(read_tensors(tmp_path / "state.safetensors"))
        results += after.feed(eventful.samples(cut, eventful.n_samples)) + after.finish()
        assert bits(results) == whole[mode]
        assert after.events == finished(model, eventful).events


def finished(model, recording):
    monitor = monitor_of(model, recording)
    monitor.feed(recording.samples(0, recording.n_samples))
    monitor.finish()
    return monitor


def test_a_state_of_another_recording_or_model_is_refused(ieeg_model, ieeg_array):
    one = monitor_of(ieeg_model("exact"), ieeg_array(4))
    for model, recording in (
        (ieeg_model("cached"), ieeg_array(4)),
        (ieeg_model("exact"), ieeg_array(5)),
        (ieeg_model("exact", exempt_last=True), ieeg_array(4)),
        (ieeg_model("exact"), ieeg_array(4, sampling_rate=256.0)),
    ):
        with pytest.raises(BadInput, match="belongs to another"):
            monitor_of(model, recording).load_state_dict(one.state_dict())


# --- the numbers


@pytest.mark.parametrize("index", ["distance", "reference"])
def test_exact_is_the_offline_window_to_the_bit_and_classify_to_1e_5(
    ieeg_model, eventful, index
):
    model = ieeg_model("exact", exempt_last=True, horizon=None, index=index)
    results = run(model, eventful)
    signal, valid = prepared(model, eventful)
    evaluated = [r for r in results if r.status == EVALUATED]
    assert len(evaluated) > 5
    for r in evaluated:
        window = slice(r.index - 3, r.index + 1)
        x, usable = signal[window], valid[window]
        np.testing.assert_array_equal(r.contribution, run_offline(model, x, usable))
        with torch.no_grad():
            logit = model.network.classify(x[None], valid=usable[None])[0].double()
        difference = float(logit[1] - logit[0])
        assert r.probability == pytest.approx(1 / (1 + np.exp(-difference)), abs=1e-5)


def run_offline(model, signal, valid):
    """Contributions to the last segment of one window, tokens made segment by segment."""
    from phenokit.networks.streaming import Window, decode_window

    with torch.inference_mode():
        tokens = torch.cat([
            model.network.encode(s[None, None], v[None, None])[0]
            for s, v in zip(signal, valid, strict=True)
        ])  # fmt: skip
    features = decode_window(model.network, Window(tokens, valid)).double().numpy()
    weight = model.network.head.weight.detach().double().numpy()
    usable = valid[-1].numpy()
    share = features @ (weight[1] - weight[0]) / max(usable.sum(), 1)
    return np.where(usable, share, np.nan).astype(np.float32)


def test_cached_is_one_pass_over_the_whole_recording(ieeg_model, ieeg_array):
    model, recording = ieeg_model("cached"), ieeg_array(6, 14.0, sampling_rate=200.0)
    recording.signal[2, 1000:1500] = 3.0
    results = run(model, recording)
    signal, valid = prepared(model, recording)
    with torch.no_grad():
        features = model.network(signal[None], valid=valid[None])[0]
        mean = torch.where(valid[..., None], features, 0).sum(1) / valid.sum(1)[:, None]
        found = model.network.head(mean).double().numpy()
    expected = (found[:, 1] - found[:, 0])[3:]
    scale = np.abs(expected).max()
    np.testing.assert_allclose(logits(results)[3:], expected, rtol=0, atol=1e-5 * scale)
    assert np.ptp(expected) > 0.1


@pytest.mark.parametrize("mode", MODES)
def test_contributions_add_up_to_the_logit(ieeg_model, eventful, mode):
    model = replace(ieeg_model(mode), slope=1.7, intercept=-0.4)
    results = [r for r in run(model, eventful) if r.status == EVALUATED]
    z = 1.7 * logits(results) - 0.4
    np.testing.assert_allclose(probabilities(results), 1 / (1 + np.exp(-z)), atol=1e-6)
    for r in results:
        named = {f"A{k + 1}" for k in np.flatnonzero(np.isnan(r.contribution))}
        assert named == set(r.faults)


# --- faults


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_a_bad_channel_is_named_and_the_others_are_as_without_it(
    ieeg_model, ieeg_array, mode, value
):
    model, recording = ieeg_model(mode), ieeg_array(9, 8.0)
    recording.signal[8] = value  # the last one: distances of the others stay
    without = replace(
        recording, signal=recording.signal[:8], channels=recording.channels[:8]
    )
    ours, expected = run(model, recording), run(model, without)
    assert {r.faults["A9"] for r in ours} == {"missing" if value != 0 else "flat"}
    assert not any(r.faults for r in expected)
    np.testing.assert_allclose(
        probabilities(ours), probabilities(expected), rtol=0, atol=1e-6
    )


def test_a_bad_channel_in_the_middle_leaves_distances_true(ieeg_model, ieeg_array):
    model, recording = ieeg_model("cached"), ieeg_array(9, 8.0)
    ours = run(model, recording, bad={"A4": "noisy"})
    assert {r.faults["A4"] for r in ours} == {"noisy"}
    keep = [0, 1, 2, 4, 5, 6, 7, 8]
    without = replace(recording, signal=recording.signal[keep])
    signal, valid = prepared(model, without)
    with torch.no_grad():
        position = torch.tensor([keep])
        features = model.network(signal[None], valid=valid[None], channel_pos=position)[0]
        found = model.network.head(features.mean(1)).double().numpy()
    expected = (found[:, 1] - found[:, 0])[3:]
    np.testing.assert_allclose(
        logits(ours)[3:], expected, rtol=0, atol=1e-5 * np.abs(expected).max()
    )


# --- gaps


@pytest.mark.parametrize("mode", MODES)
def test_a_short_gap_is_not_evaluated_and_does_not_reset(ieeg_model, ieeg_array, mode):
    model, recording = ieeg_model(mode), ieeg_array(5, 12.0)
    first = 6 * A_SECOND + 40
    recording.signal[:, first : first + A_SECOND] = np.nan  # as long as a segment
    results = run(model, recording)
    assert statuses(results) == [*3 * [WARMING_UP], *3 * [EVALUATED], GAP, GAP,
                                 *4 * [EVALUATED]]  # fmt: skip
    is_known = ~np.isnan(probabilities(results))
    assert is_known.tolist() == [s == EVALUATED for s in statuses(results)]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("filling", [np.nan, 0.0])
def test_after_a_longer_gap_the_monitor_warms_up_as_at_a_start(
    ieeg_model, ieeg_array, mode, filling
):
    model, recording = ieeg_model(mode), ieeg_array(5, 14.0)
    first, stop = 5 * A_SECOND + 40, 7 * A_SECOND
    recording.signal[:, first:stop] = filling
    results = run(model, recording)
    assert statuses(results)[5:11] == [GAP, GAP, *3 * [WARMING_UP], EVALUATED]
    rest = replace(recording, signal=recording.signal[:, stop:])
    assert [b[3:] for b in bits(results)[7:]] == [b[3:] for b in bits(run(model, rest))]


def test_a_gap_does_not_change_what_came_before(ieeg_model, ieeg_array):
    model, recording = ieeg_model("cached"), ieeg_array(5, 9.0)
    whole = run(model, recording)
    recording.signal[:, 6 * A_SECOND :] = np.nan
    assert bits(run(model, recording))[:6] == bits(whole)[:6]


def test_too_few_channels_are_not_a_gap(ieeg_model, ieeg_array):
    model, recording = ieeg_model("exact"), ieeg_array(4, 8.0)
    late = np.arange(recording.n_samples) >= 5 * A_SECOND
    saturated = late & (np.arange(recording.n_samples) % 8 < 3)
    recording.signal[:3, saturated] = 900.0
    assert statuses(run(model, recording))[5:] == 3 * [FEW]
    lenient = CoverageRule(min_channels=0.25, min_tokens=0.1)
    assert statuses(run(model, recording, coverage_rule=lenient))[5:] == 3 * [EVALUATED]


def test_a_window_with_too_little_in_it_is_not_evaluated(ieeg_model, ieeg_array):
    model, recording = ieeg_model("exact"), ieeg_array(4, 9.0)
    recording.signal[:2, 4 * A_SECOND : 7 * A_SECOND] = np.nan
    recording.signal[2, 4 * A_SECOND : 6 * A_SECOND] = np.nan
    rule = CoverageRule(min_channels=0.25, min_tokens=0.7)
    found = statuses(run(model, recording, coverage_rule=rule))
    assert found[4:] == [EVALUATED, GAP, GAP, GAP, GAP]


# --- events


def test_events_on_the_way_are_those_of_the_whole_recording(ieeg_model, ieeg_array):
    rule = EventRule(theta_on=0.55, minimum_duration=2.0, join_gap=2.0)
    model, recording = replace(ieeg_model(), event_rule=rule), ieeg_array(5, 40.0, seed=2)
    recording.signal[:, 20 * A_SECOND : 23 * A_SECOND] = np.nan
    monitor, seen = monitor_of(model, recording), []
    for k in range(40):
        monitor.feed(recording.samples(k * A_SECOND, (k + 1) * A_SECOND))
        seen.append(monitor.events)
    monitor.finish()
    assert monitor.events == score_ieeg(recording, model).events
    assert len(monitor.events) > 1
    assert 0 < len(seen[25]) < len(monitor.events)
    assert seen[25] == monitor.events[: len(seen[25])]


# --- order, latency, refusals


def test_channels_are_read_in_the_order_of_the_montage(ieeg_model, ieeg_array):
    model, recording = ieeg_model(order="montage"), ieeg_array(5, 8.0)
    shuffled = [3, 0, 4, 2, 1]
    other = replace(
        recording,
        signal=recording.signal[shuffled],
        channels=tuple(recording.channels[k] for k in shuffled),
    )
    assert bits(run(model, other)) == bits(run(model, recording))
    assert monitor_of(model, other).channels == recording.channels


def test_names_that_are_no_contacts_keep_their_order_with_a_notice(ieeg_model, ieeg_array):
    recording = replace(ieeg_array(3), channels=("Fz", "Cz", "A1"))
    monitor = monitor_of(ieeg_model(order="montage"), recording)
    assert (monitor.channels, monitor.order_policy) == (("Fz", "Cz", "A1"), "as_recorded")
    assert [n.code for n in monitor.notices] == ["W_ORDER"]


def test_latency_is_segment_filter_and_median(ieeg_model, ieeg_array):
    recording = ieeg_array(3, 8.0, sampling_rate=256.0)
    monitor = monitor_of(ieeg_model(), recording)
    monitor.feed(recording.signal)
    latency = monitor.latency()
    assert (latency.segment, latency.smoothing) == (1.0, 1.0)
    # the filter has been seen in full when the second segment's answer comes
    needed = round((2.0 + latency.filtering) * 256)
    again = monitor_of(ieeg_model(), recording)
    assert len(again.feed(recording.signal[:, : needed - 1])) == 1
    assert len(again.feed(recording.signal[:, needed - 1 : needed])) == 1
    assert 0 < latency.computing < latency.total


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"unit": "V"}, "E_UNITS"),
        ({"unit": ""}, "E_UNITS"),
        ({"sampling_rate": 50.0}, "E_FS"),
        ({"channels": tuple(f"A{k}" for k in range(13))}, "A_USE"),
        ({"channels": ("A1", "A2", "A1")}, "E_CHANNELS"),
        ({"channels": ()}, "A_USE"),
    ],
)
def test_what_the_model_does_not_read_is_refused(ieeg_model, change, code):
    given_ = {"channels": ("A1", "A2"), "sampling_rate": 128.0, "unit": "uV", **change}
    assert [n.code for n in refusals(ieeg_model(), **given_)] == [code]
    with pytest.raises(BadInput) as refused:
        SeizureMonitor(ieeg_model(), **given_)
    assert refused.value.code == code


def test_a_cache_that_the_attention_does_not_allow_is_refused(ieeg_model):
    with pytest.raises(BundleError, match="does not allow a cache"):
        ieeg_model("cached", exempt_last=True)


def test_a_network_that_gives_no_number_is_refused_not_scored(ieeg_model, ieeg_array):
    model = ieeg_model("exact")
    with torch.no_grad():
        model.network.ln_f.weight.fill_(torch.inf)
    with pytest.raises(BadInput) as refused:
        run(model, ieeg_array())
    assert refused.value.code == "E_MODEL_NONFINITE"
