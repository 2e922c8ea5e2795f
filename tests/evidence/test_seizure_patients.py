import numpy as np
import pytest
from scipy.stats import bootstrap

from phenokit.errors import AnalysisRefused
from phenokit.evidence.seizure_patients import (
    ScoredRecording,
    bootstrap_patients,
    choose_threshold,
    pool,
    score_patients,
    score_recording,
)
from phenokit.evidence.seizures import EventRule
from phenokit.recording import Event, SegmentStatus

PLAIN = EventRule(theta_on=0.5, median=1)


def recording(patient="a", *, heights=(0.9, 0.7), false=(0.6,), hours=1.0):
    """Seizures of 50 s every 10 minutes, then alarms of 50 s in between."""
    n = round(hours * 720)
    probability = np.full(n, 0.1)
    reference = []
    for k, height in enumerate(heights):
        probability[60 + 120 * k : 70 + 120 * k] = height
        reference.append(Event("sz", 300.0 + 600 * k, 350.0 + 600 * k))
    for k, height in enumerate(false):
        probability[120 + 120 * k : 130 + 120 * k] = height
    status = np.zeros(n, dtype=np.int8)
    return ScoredRecording(patient, probability, status, tuple(reference), n * 5)


def mean(sample):
    return sum(sample) / len(sample)


def test_a_perfect_detection_has_perfect_scores():
    scores = score_recording(recording(false=()), PLAIN)
    assert (scores.events.f1, scores.segments.kappa, scores.auroc) == (1, 1, 1)
    assert scores.delays == (0.0, 0.0)
    assert scores.samples.false_positives == 0


def test_scores_of_two_recordings_are_those_of_all_their_events():
    one, two = recording(false=()), recording(heights=(0.9,), false=(0.6, 0.8))
    pooled = pool([score_recording(r, PLAIN) for r in (one, two)])
    assert (pooled.events.true_positives, pooled.events.false_positives) == (3, 2)
    assert pooled.events.false_alarms_per_day == pytest.approx(24)
    assert len(pooled.label) == 1_440
    assert score_patients([one, two], PLAIN)["a"].events == pooled.events


def test_unevaluated_segments_count_in_the_whole_score_only():
    whole = recording(false=())
    status = whole.status.copy()
    status[:100] = SegmentStatus.WARMING_UP
    probability = np.where(status == 0, whole.probability, np.nan)
    late = ScoredRecording("a", probability, status, whole.reference, whole.duration)
    scores = score_recording(late, PLAIN)
    assert (scores.events.sensitivity, scores.evaluated_events.sensitivity) == (0.5, 1.0)
    assert scores.delays == (None, 0.0)
    assert scores.median_delay == 0


def test_the_threshold_is_the_middle_of_the_best_within_the_limit():
    strict = choose_threshold([recording()], limit=0, rule=PLAIN)
    # 0.61 to 0.7 find both seizures; up to 0.6 there is a false alarm.
    assert strict.rule.theta_on == 0.65
    assert strict.scores.events.f1 == 1
    assert len(strict.candidates) == 98


def test_the_limit_costs_sensitivity_where_it_must():
    noisy = recording(heights=(0.9, 0.5), false=(0.6,))
    # 0.17 to 0.5 do; below, an event would never end.
    assert choose_threshold([noisy], limit=30, rule=PLAIN).rule.theta_on == 0.33
    strict = choose_threshold([noisy], limit=1, rule=PLAIN)
    assert strict.rule.theta_on == 0.75  # of 0.61 to 0.9
    assert strict.scores.events.sensitivity == 0.5


def test_a_threshold_is_refused_where_nothing_is_found_or_nothing_was_annotated():
    with pytest.raises(AnalysisRefused, match="at most 1 false alarms"):
        choose_threshold([recording(heights=(0.5,), false=(0.6,))], limit=1, rule=PLAIN)
    with pytest.raises(AnalysisRefused, match="there is none"):
        choose_threshold([recording(heights=())], limit=1, rule=PLAIN)


def test_the_bootstrap_of_a_mean_agrees_with_scipy():
    rng = np.random.default_rng(4)
    values = rng.normal(size=25).tolist()
    ours = bootstrap_patients(values, mean, rng=rng, n_resamples=4_000)
    peer = bootstrap(
        (values,), np.mean, n_resamples=4_000, method="percentile", rng=rng
    ).confidence_interval
    # Each end has a Monte Carlo error of some 0.01 at 4,000 resamples and this spread.
    assert (ours.low, ours.high) == pytest.approx((peer.low, peer.high), abs=0.04)
    assert ours.estimate == mean(values)


def test_the_bootstrap_resamples_patients_whole():
    interval = bootstrap_patients(
        [(1, 2), (1, 2)], lambda sample: sum(b - a for a, b in sample) / len(sample),
        rng=np.random.default_rng(1),
    )  # fmt: skip
    assert (interval.low, interval.high) == (1, 1)


def test_resamples_that_define_no_score_are_counted():
    def sensitivity(sample):
        found, annotated = sum(a for a, _ in sample), sum(b for _, b in sample)
        return found / annotated if annotated else None

    interval = bootstrap_patients(
        [(1, 2), (0, 0)], sensitivity, rng=np.random.default_rng(0), n_resamples=400
    )
    assert interval.estimate == interval.low == 0.5
    # Both draws are the patient without events in a quarter of the resamples: SD 9.
    assert interval.n_undefined == pytest.approx(100, abs=40)
    with pytest.raises(ValueError, match="no patient"):
        bootstrap_patients([], sensitivity, rng=np.random.default_rng(0))
