"""From an iEEG to seizures, coverage and notices; what is refused, and with which code."""

import os
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from phenokit import read_ieeg, score_ieeg
from phenokit.engine import Engine
from phenokit.errors import BundleError, Outcome
from phenokit.evidence.seizures import CoverageRule, EventRule
from phenokit.monitor import IEEGModel, SeizureMonitor, load_ieeg_model
from phenokit.pipeline import ECGModel, load_ecg_model, load_model
from phenokit.recording import Notice, SegmentStatus

A_SECOND = 128


@dataclass(frozen=True)
class Marked:
    """A recording whose reader knew of channels that are dropped or bad."""

    signal: np.ndarray
    channels: tuple[str, ...]
    sampling_rate: float = 128.0
    unit: str = "uV"
    record_id: str = "marked"
    dropped: dict[str, str] = field(default_factory=dict)
    bad: dict[str, str] = field(default_factory=dict)
    notices: tuple[Notice, ...] = ()

    @property
    def n_samples(self) -> int:
        return self.signal.shape[1]

    def samples(self, first: int, stop: int) -> np.ndarray:
        return self.signal[:, first:stop].astype(np.float32)


def test_it_is_what_a_monitor_says_to_the_bit(ieeg_model, ieeg_array, monkeypatch):
    monkeypatch.setattr("phenokit.pipeline.READ_SECONDS", 1.7)
    model, recording = ieeg_model(), ieeg_array(5, 20.0, sampling_rate=200.0)
    calls = []
    scored = score_ieeg(recording, model, progress=lambda *call: calls.append(call))
    monitor = SeizureMonitor(model, channels=recording.channels, sampling_rate=200.0)
    results = [*monitor.feed(recording.samples(0, recording.n_samples)), *monitor.finish()]
    np.testing.assert_array_equal(scored.probability, [r.probability for r in results])
    np.testing.assert_array_equal(scored.contribution, [r.contribution for r in results])
    assert scored.status.tolist() == [r.status for r in results]
    assert calls[-1] == (20, 20)
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)


def test_a_sound_recording_is_scored_with_its_coverage(ieeg_model, ieeg_array):
    scored = score_ieeg(ieeg_array(5, 20.5), ieeg_model())
    assert (scored.outcome, scored.all_codes) == (Outcome.SCORED, ("OK",))
    assert scored.coverage.intervals == (
        (SegmentStatus.WARMING_UP, 0.0, 3.0), (SegmentStatus.EVALUATED, 3.0, 20.0),
    )  # fmt: skip
    assert (scored.duration, scored.segment_duration) == (20.5, 1.0)
    assert scored.bad == {}


def test_events_follow_the_rule_of_the_model(ieeg_model, ieeg_array):
    recording = ieeg_array(5, 30.0)
    low = replace(ieeg_model(), event_rule=EventRule(theta_on=1e-3, minimum_duration=1.0))
    [event] = score_ieeg(recording, low).events
    assert (event.onset, event.offset, event.truncated) == (3.0, 30.0, True)
    assert score_ieeg(recording, replace(low, intercept=-50.0)).events == ()


def test_an_event_on_a_threshold_is_said_to_be(ieeg_model, ieeg_array):
    recording, model = ieeg_array(5, 20.0), ieeg_model()
    top = np.nanmax(score_ieeg(recording, model).probability)
    for distance, codes in ((1e-5, ("W_THRESHOLD",)), (1e-3, ("OK",))):
        rule = EventRule(
            theta_on=float(top + distance), median=1, minimum_duration=0.0, join_gap=0.0
        )
        scored = score_ieeg(recording, replace(model, event_rule=rule))
        assert (scored.events, scored.all_codes) == ((), codes)


def test_a_gap_is_warned_of_and_nothing_in_it_is_called_background(ieeg_model, ieeg_array):
    recording = ieeg_array(5, 20.0)
    recording.signal[:, 8 * A_SECOND : 9 * A_SECOND] = np.nan
    scored = score_ieeg(recording, ieeg_model())
    assert scored.all_codes == ("W_WINDOW",)
    assert scored.coverage.evaluated == ((3.0, 8.0), (9.0, 20.0))
    assert scored.bad == {}  # a gap in all channels is no fault of any
    assert np.isnan(scored.probability[8])


@pytest.mark.parametrize("value", [np.nan, 0.0, 55.0])
def test_nothing_evaluated_is_an_abstention_never_no_seizure(ieeg_model, ieeg_array, value):
    recording = ieeg_array(5, 20.0)
    recording.signal[:] = value
    scored = score_ieeg(recording, ieeg_model())
    assert (scored.outcome, scored.code) == (Outcome.ABSTAINED, "A_MISSING")
    assert set(scored.status.tolist()) == {SegmentStatus.GAP}
    assert scored.coverage.evaluated == ()
    assert np.isnan(scored.probability).all()


def test_bad_channels_are_named_with_the_share_of_their_segments(ieeg_model, ieeg_array):
    recording = ieeg_array(10, 20.0)
    recording.signal[3] = 4.0
    recording.signal[6, 10 * A_SECOND : 15 * A_SECOND] = np.nan
    marked = Marked(
        recording.signal,
        recording.channels,
        dropped={"ECG": "heart"},
        bad={"A9": "marked as bad"},
        notices=(Notice("W_POLARITY", "Inverted."),),
    )
    scored = score_ieeg(marked, ieeg_model())
    assert scored.bad == {
        "A4": ("flat", 1.0), "A7": ("missing", 0.25), "A9": ("marked as bad", 1.0)
    }  # fmt: skip
    assert scored.dropped == {"ECG": "heart"}
    assert set(scored.all_codes) == {"W_POLARITY", "W_CHANNELS"}
    assert np.isnan(scored.contribution[:, 3]).all()
    assert not np.isnan(scored.contribution[4:, 0]).any()


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_an_amplitude_of_another_unit_is_warned_of(ieeg_model, ieeg_array, scale):
    recording = ieeg_array(5, 20.0)
    recording.signal[:] *= scale
    assert score_ieeg(recording, ieeg_model()).all_codes == ("W_AMPLITUDE",)


def test_names_that_are_no_contacts_are_said_to_be_out_of_order(ieeg_model, ieeg_array):
    model, recording = ieeg_model(order="montage"), ieeg_array(4, 10.0)
    scored = score_ieeg(replace(recording, channels=("4", "3", "2", "1")), model)
    assert (scored.order_policy, scored.channels) == ("as_recorded", ("4", "3", "2", "1"))
    assert scored.all_codes == ("W_ORDER",)
    turned = replace(recording, channels=("A4", "A3", "A2", "A1"))
    scored = score_ieeg(turned, model)
    assert (scored.order_policy, scored.channels[0]) == ("montage", "A1")


@pytest.mark.parametrize(
    ("change", "codes"),
    [
        ({"unit": ""}, ("E_UNITS",)),
        ({"unit": "mV"}, ("E_UNITS",)),
        ({"seconds": 3.9}, ("A_DURATION",)),
        ({"seconds": 2.0, "unit": ""}, ("E_UNITS", "A_DURATION")),
        ({"sampling_rate": 60.0}, ("E_FS",)),
        ({"n_channels": 13}, ("A_USE",)),
    ],
)
def test_a_recording_that_is_not_read_is_refused_with_every_reason(
    ieeg_model, ieeg_array, change, codes
):
    scored = score_ieeg(ieeg_array(**change), ieeg_model())
    assert scored.all_codes == codes
    assert scored.code == codes[0]
    assert len(scored.probability) == len(scored.events) == 0
    assert scored.coverage.evaluated_seconds == 0


def test_a_network_that_gives_no_number_is_a_refusal(ieeg_model, ieeg_array):
    model = ieeg_model()
    with torch.no_grad():
        model.network.ln_f.weight.fill_(torch.nan)
    scored = score_ieeg(ieeg_array(), model)
    assert (scored.outcome, scored.code) == (Outcome.REJECTED, "E_MODEL_NONFINITE")


def test_too_strict_a_coverage_rule_evaluates_nothing(ieeg_model, ieeg_array):
    recording = ieeg_array(5, 10.0)
    recording.signal[0] = 1.0
    strict = CoverageRule(min_channels=0.9)
    scored = score_ieeg(recording, ieeg_model(), coverage_rule=strict)
    assert (scored.code, scored.coverage_rule) == ("A_MISSING", strict)
    assert set(scored.status.tolist()) == {SegmentStatus.FEW_CHANNELS}


def test_a_bundle_scores_as_the_network_that_it_was_written_of(
    ieeg_bundle, ieeg_model, ieeg_array
):
    model, recording = load_model(ieeg_bundle, device="cpu"), ieeg_array(5, 12.0)
    assert isinstance(model, IEEGModel)
    in_memory = replace(
        ieeg_model(),
        slope=1.3,
        intercept=-0.1,
        event_rule=EventRule(0.55, 0.3, 3, 2.0, 2.0),
    )
    ours, expected = score_ieeg(recording, model), score_ieeg(recording, in_memory)
    np.testing.assert_array_equal(ours.probability, expected.probability)
    assert ours.events == expected.events
    assert len(ours.bundle_hash) == 64
    assert (ours.model, ours.event_rule) == ("tiny-ieeg", in_memory.event_rule)


def test_a_model_of_the_other_kind_is_refused(ieeg_bundle, tiny_bundle):
    with pytest.raises(BundleError, match="is not an ECG prototype model"):
        load_ecg_model(ieeg_bundle)
    with pytest.raises(BundleError, match="is no model of intracranial EEG"):
        load_ieeg_model(tiny_bundle)
    assert isinstance(load_model(tiny_bundle, device="cpu"), ECGModel)


def test_the_engine_says_what_the_pipeline_says(ieeg_bundle, ieeg_array):
    engine, recording = Engine(device="cpu"), ieeg_array(5, 12.0)
    ours = engine.score_ieeg(recording, str(ieeg_bundle))
    expected = score_ieeg(recording, engine.ieeg_model(str(ieeg_bundle)))
    engine.close()
    np.testing.assert_array_equal(ours.contribution, expected.contribution)


@pytest.mark.realdata
def test_the_real_clip_is_refused_for_its_unit_and_its_length(ieeg_model):
    folder = Path(os.environ["PHENOKIT_DATA"]) / "ieeg-ds003029-pt01"
    clip = read_ieeg(folder / "pt01_seizure1_m1s_p2s_1000hz.npz")
    scored = score_ieeg(clip, ieeg_model(max_channels=128))
    assert scored.all_codes == ("E_UNITS", "A_DURATION")
    assert (scored.outcome, scored.events) == (Outcome.REJECTED, ())
