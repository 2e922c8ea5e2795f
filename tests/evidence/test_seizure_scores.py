import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score, f1_score, roc_auc_score
from timescoring.annotations import Annotation
from timescoring.scoring import EventScoring, SampleScoring

from phenokit.evidence.seizure_scores import (
    DetectionCounts,
    SegmentCounts,
    detection_delays,
    score_events,
    score_samples,
    score_segments,
    segment_auroc,
)
from phenokit.evidence.seizures import coverage_of
from phenokit.recording import Event

CASES = json.loads(
    (Path(__file__).parents[1] / "reference/ieeg/szcore_cases.json").read_text("utf-8")
)["cases"]


def seizures(spans):
    return [Event("sz", begin, end) for begin, end in spans]


def counted(scores):
    return scores.true_positives, scores.false_positives, scores.n_reference


@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
@pytest.mark.parametrize(
    ("score", "key"), [(score_events, "event"), (score_samples, "sample_1hz")]
)
def test_scores_agree_with_the_reference_cases(case, score, key):
    scores = score(
        seizures(case["ref"]), seizures(case["hyp"]), duration=case["duration_s"]
    )
    expected = case[key]
    assert counted(scores) == (expected["tp"], expected["fp"], expected["n_ref"])
    for quotient in ("sensitivity", "precision", "f1"):
        assert getattr(scores, quotient) == expected[quotient]  # None where it is None
    assert scores.false_alarms_per_day == pytest.approx(expected["fp_per_24h"], rel=1e-12)


def random_spans(rng, duration):
    """Disjoint events of any length, from half a second apart, with long decimals."""
    edges = np.cumsum(rng.exponential(120, size=60) + 0.5)
    edges = edges[: np.searchsorted(edges, duration) // 2 * 2]
    return [(float(a), float(b)) for a, b in edges.reshape(-1, 2)]


@pytest.mark.parametrize("seed", range(10))
def test_scores_agree_with_timescoring_on_random_events(seed):
    rng = np.random.default_rng(seed)
    duration = int(rng.integers(1_000, 6_000))
    ref, hyp = random_spans(rng, duration), random_spans(rng, duration)
    theirs, other = (Annotation(spans, 10, duration * 10) for spans in (ref, hyp))
    for score, peer in (
        (score_events, EventScoring(theirs, other)),
        (score_samples, SampleScoring(theirs, other)),
    ):
        ours = score(seizures(ref), seizures(hyp), duration=duration)
        assert counted(ours) == (peer.tp, peer.fp, peer.refTrue)
        assert ours.f1 == pytest.approx(peer.f1, rel=1e-12)


def test_the_order_of_the_events_does_not_matter():
    spans = [(400, 420), (100, 130), (900, 980)]
    ours = [
        score_events(seizures(order), seizures(order[::-1]), duration=1_000)
        for order in (spans, spans[::-1])
    ]
    assert ours[0] == ours[1] == DetectionCounts(3, 0, 3, 1_000.0)


def test_an_event_inside_another_adds_nothing():
    whole = score_events(seizures([(10, 200)]), [], duration=600)
    assert score_events(seizures([(10, 200), (50, 60)]), [], duration=600) == whole


def test_what_was_not_evaluated_can_be_neither_found_nor_missed():
    status = np.array([0] * 120 + [2] * 120, dtype=np.int8)  # 600 s of 1,200
    coverage = coverage_of(status)
    events = seizures([(100, 160), (900, 960)])
    whole = score_events(events, events[:1], duration=1_200)
    evaluated = score_events(events, events[:1], duration=1_200, coverage=coverage)
    assert (whole.sensitivity, evaluated.sensitivity) == (0.5, 1.0)
    assert (whole.seconds, evaluated.seconds) == (1_200, 600)
    assert score_samples(events, [], duration=1_200, coverage=coverage).n_reference == 60


def test_a_quotient_without_denominator_is_none():
    nothing = score_events([], [], duration=600)
    assert (nothing.sensitivity, nothing.precision, nothing.f1) == (None, None, None)
    assert nothing.false_alarms_per_day == 0
    assert DetectionCounts(0, 0, 0, 0.0).false_alarms_per_day is None
    assert SegmentCounts(0, 0, 0, 9).kappa is None


@pytest.mark.parametrize("span", [(50, 40), (-1, 10), (590, 610)])
def test_an_event_outside_the_recording_is_refused(span):
    with pytest.raises(ValueError, match="does not lie in a recording of 600 s"):
        score_events(seizures([span]), [], duration=600)


def test_the_delay_counts_from_the_annotated_onset():
    reference = seizures([(100, 160), (500, 560), (900, 960)])
    found = seizures([(115, 130), (140, 150), (300, 520)])
    # 480 s would be foresight; the detection that began at 300 s counts from 470 s.
    assert detection_delays(reference, found) == (15.0, -30.0, None)


def test_segment_scores_agree_with_scikit_learn():
    rng = np.random.default_rng(3)
    label, found = rng.random(400) < 0.2, rng.random(400) < 0.25
    found |= label & (rng.random(400) < 0.6)
    probability = np.round(rng.random(400) + 0.3 * label, 1)
    counts = score_segments(label, found, np.zeros(400, dtype=np.int8))
    assert counts.kappa == pytest.approx(cohen_kappa_score(label, found))
    assert counts.f1 == pytest.approx(f1_score(label, found))
    assert counts.sensitivity == pytest.approx(found[label].mean())
    assert counts.specificity == pytest.approx(1 - found[~label].mean())
    assert segment_auroc(label, probability) == pytest.approx(
        roc_auc_score(label, probability)
    )


def test_segments_that_were_not_evaluated_do_not_count():
    label, found = np.array([True, True, False]), np.array([True, False, False])
    counts = score_segments(label, found, np.array([0, 2, 0], dtype=np.int8))
    assert counts == SegmentCounts(1, 0, 0, 1)
