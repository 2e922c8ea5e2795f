from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import median_filter

from phenokit.errors import BadInput
from phenokit.evidence.seizures import (
    EventRule,
    EventStream,
    coverage_of,
    find_events,
    label_segments,
    running_median,
)
from phenokit.recording import Event, SegmentStatus

PLAIN = EventRule(theta_on=0.5, median=1)


def status_of(probability):
    return np.where(np.isnan(probability), SegmentStatus.GAP, SegmentStatus.EVALUATED)


def events(*probability, rule=PLAIN):
    p = np.array(probability)
    return find_events(p, status_of(p).astype(np.int8), rule=rule)


def spans(*probability, rule=PLAIN):
    return [(event.onset, event.offset) for event in events(*probability, rule=rule)]


def test_an_event_begins_at_the_high_threshold_and_ends_below_the_low_one():
    assert spans(0.4, 0.5, 0.3, 0.29, 0.4, 0.1) == [(5.0, 15.0)]


def test_between_the_thresholds_nothing_begins():
    assert spans(0.1, 0.4, 0.49, 0.4, 0.1) == []


@pytest.mark.parametrize(
    ("quiet", "expected"),
    [(2, [(5.0, 35.0)]), (3, [(5.0, 15.0), (30.0, 40.0)])],
)
def test_events_less_than_fifteen_seconds_apart_are_one(quiet, expected):
    assert spans(0, 0.9, 0.9, *[0.0] * quiet, 0.9, 0.9, 0) == expected


def test_short_events_are_joined_before_short_ones_are_dropped():
    assert spans(0, 0.9, 0, 0.9, 0, 0, 0, 0.9, 0) == [(5.0, 20.0)]


def test_no_event_crosses_a_gap_and_both_parts_are_truncated():
    found = events(0, 0.9, 0.9, np.nan, 0.9, 0.9, 0)
    assert [(e.onset, e.offset, e.truncated) for e in found] == [
        (5.0, 15.0, True),
        (20.0, 30.0, True),
    ]


def test_an_event_inside_an_evaluated_stretch_is_not_truncated():
    [event] = events(np.nan, 0, 0.9, 0.9, 0, np.nan)
    assert not event.truncated


def test_events_that_run_at_the_ends_of_the_recording_are_truncated():
    first, last = events(0.9, 0.9, 0, 0, 0, 0.9, 0.9)
    assert first.truncated
    assert last.truncated


def test_the_median_takes_out_one_segment_but_does_not_reach_over_a_gap():
    rule = EventRule(theta_on=0.5, median=3, minimum_duration=5)
    assert spans(0, 0, 0.9, 0, 0, rule=rule) == []
    assert spans(0, 0.9, 0.9, np.nan, 0, 0.9, 0.9, 0, 0, rule=rule) == [
        (5.0, 15.0),
        (25.0, 35.0),
    ]


def test_the_running_median_agrees_with_scipy():
    p = np.random.default_rng(1).random(200)
    expected = median_filter(p, size=5, mode="nearest")
    np.testing.assert_array_equal(running_median(p, length=5), expected)


def test_the_confidence_is_the_largest_smoothed_probability():
    rule = EventRule(theta_on=0.5, median=3)
    [event] = events(0, 0.6, 0.99, 0.7, 0.6, 0, rule=rule)
    assert event.confidence == 0.7


def test_a_rule_without_a_low_threshold_takes_six_tenths():
    assert EventRule(theta_on=0.5).off == pytest.approx(0.3)
    assert EventRule(theta_on=0.5, median=5).delay(5) == 10


def test_shifting_all_probabilities_in_time_shifts_the_events():
    p = np.zeros(80)
    p[10:60] = np.random.default_rng(2).random(50)
    shifted = np.roll(p, 7)
    expected = [(on + 35, off + 35) for on, off in spans(*p)]
    assert spans(*shifted) == expected
    assert len(expected) > 1


def test_nothing_evaluated_is_missing_and_not_without_seizures():
    with pytest.raises(BadInput) as refused:
        events(np.nan, np.nan)
    assert refused.value.code == "A_MISSING"
    assert events(0.1, np.nan) == ()


@pytest.mark.parametrize(
    ("probability", "status", "words"),
    [
        (1.5, SegmentStatus.EVALUATED, "not in 0 to 1"),
        (np.nan, SegmentStatus.EVALUATED, "not in 0 to 1"),
        (0.2, SegmentStatus.WARMING_UP, "has a probability"),
    ],
)
def test_find_events_refuses_a_probability_that_cannot_be(probability, status, words):
    with pytest.raises(ValueError, match=words):
        find_events(
            np.array([0.1, probability]), np.array([0, status], dtype=np.int8), rule=PLAIN
        )


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"theta_on": 0.0}, "theta_on"),
        ({"theta_on": 0.4, "theta_off": 0.5}, "theta_off"),
        ({"median": 4}, "odd"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(wrong, words):
    with pytest.raises(ValueError, match=words):
        EventRule(**wrong)


def test_the_coverage_counts_every_second_once():
    status = np.array([1, 1, 0, 0, 0, 2, 3, 0], dtype=np.int8)
    coverage = coverage_of(status)
    assert coverage.evaluated == ((10.0, 25.0), (35.0, 40.0))
    assert coverage.evaluated_seconds == 20
    assert coverage.seconds[SegmentStatus.WARMING_UP] == 10
    assert sum(coverage.seconds.values()) == 40
    assert coverage_of(status[:0]).evaluated_seconds == 0


def test_a_segment_that_only_touches_an_event_does_not_carry_it():
    labels = label_segments([Event("sz", 5.0, 10.0)], n_segments=4)
    np.testing.assert_array_equal(labels, [False, True, False, False])


# --- segment by segment


@pytest.mark.parametrize("seed", range(30))
def test_events_of_a_stream_are_those_of_the_whole(seed):
    rng = np.random.default_rng(seed)
    rule = EventRule(
        theta_on=0.6, median=int(rng.choice([1, 3, 5])),
        join_gap=float(rng.choice([0, 7.5, 15])), minimum_duration=10,
    )  # fmt: skip
    p = np.clip(np.repeat(rng.random(40), 4) + rng.normal(0, 0.15, 160), 0, 1)
    p[rng.random(160) < 0.02] = np.nan
    stream, seen, ictal = EventStream(rule), [], []
    for k in range(len(p)):
        stream.push(float(p[k]), SegmentStatus(int(status_of(p[k]))))
        seen.append(stream.events)
        ictal.append(stream.is_ictal)
    stream.finish()
    assert stream.events == events(*p, rule=rule)
    for before in seen:  # what was said once stands
        assert before == stream.events[: len(before)]
    # a segment is said to be ictal, or not, as late as the rule says
    inside = label_segments(
        events(*p, rule=replace(rule, join_gap=0.0, minimum_duration=0.0)), n_segments=160
    )
    late = rule.median // 2
    for k in range(late, 160):
        if not np.isnan(p[k - late : k + 1]).any():
            assert ictal[k] == inside[k - late]


def test_an_event_stands_once_nothing_can_join_it():
    stream = EventStream(EventRule(theta_on=0.5, median=3))
    for p in (0.1, 0.9, 0.9, 0.9, 0.1, 0.1, 0.1):
        stream.push(p, SegmentStatus.EVALUATED)
        assert stream.events == ()
    stream.push(0.1, SegmentStatus.EVALUATED)
    assert [(e.onset, e.offset) for e in stream.events] == [(5.0, 20.0)]


def test_a_gap_ends_the_event_of_a_stream_at_once():
    stream = EventStream(PLAIN)
    for p in (0.1, 0.9, 0.9):
        stream.push(p, SegmentStatus.EVALUATED)
    assert stream.is_ictal
    stream.push(np.nan, SegmentStatus.GAP)
    assert [(e.onset, e.offset, e.truncated) for e in stream.events] == [(5.0, 15.0, True)]
    assert not stream.is_ictal
