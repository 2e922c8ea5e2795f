"""From the seizure probability of each segment to events, and what was evaluated at all.

The rule is deterministic and works on the grid of segments: a median takes out single
segments, a high threshold begins an event and a lower one ends it, events a short time
apart are joined, short ones dropped. Only evaluated segments count. Time that was not
evaluated ends an event and is reported as such: it is never "no seizure".
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int8

from phenokit.errors import BadInput
from phenokit.recording import Event, SegmentStatus


@dataclass(frozen=True)
class EventRule:
    """How probabilities become events.

    Attributes
    ----------
    theta_on
        An event begins where the smoothed probability reaches it; above 0, at most 1.
    theta_off
        It ends where the smoothed probability falls below; ``None``: 0.6 `theta_on`.
    median
        Length of the running median in segments, odd; 1 for none.
    join_gap
        Events less than this apart (s) are one, if all between them was evaluated.
    minimum_duration
        Shorter events (s) are dropped.
    """

    theta_on: float = 0.5
    theta_off: float | None = None
    median: int = 3
    join_gap: float | int = 15.0
    minimum_duration: float | int = 10.0

    def __post_init__(self) -> None:
        if not 0 < self.theta_on <= 1:
            raise ValueError(f"theta_on is {self.theta_on}; it is above 0 and at most 1")
        if not 0 < self.off <= self.theta_on:
            raise ValueError(f"theta_off is {self.off}; it is above 0 and at most theta_on")
        if self.median < 1 or self.median % 2 == 0:
            raise ValueError(f"the median takes an odd number of segments: {self.median}")

    @property
    def off(self) -> float:
        """The threshold that ends an event."""
        return 0.6 * self.theta_on if self.theta_off is None else self.theta_off

    def delay(self, segment_duration: float | int) -> float:
        """Seconds from a segment's end until its smoothed probability is known."""
        return self.median // 2 * float(segment_duration)


def find_events(
    probability: Float[np.ndarray, " segment"],
    status: Int8[np.ndarray, " segment"],
    *,
    rule: EventRule,
    segment_duration: float | int = 5.0,
    label: str = "sz",
) -> tuple[Event, ...]:
    """Seizures of one recording.

    Parameters
    ----------
    probability
        P(seizure) of consecutive segments from the recording's start; NaN where a segment
        was not evaluated.
    status
        `SegmentStatus` of each segment.
    rule
        Thresholds, median, joining and the least duration.
    segment_duration
        Seconds.
    label
        Of the events.

    Returns
    -------
    tuple of Event
        In order of time. The confidence is the largest smoothed probability of an event.
        An event at the edge of an evaluated stretch is `truncated`: the recording, or what
        of it could be evaluated, begins or ends there.

    Raises
    ------
    BadInput
        ``A_MISSING`` if no segment was evaluated: no events could be found, which is not
        the same as none.
    ValueError
        If a probability is outside 0 to 1, or known for a segment that was not evaluated.

    Examples
    --------
    >>> p = np.array([0.1, 0.9, 0.1, 0.2, 0.8, 0.9, 0.4, 0.1])
    >>> [event] = find_events(p, np.zeros(8, dtype=np.int8), rule=EventRule(theta_on=0.5))
    >>> event.onset, event.offset, event.confidence
    (20.0, 35.0, 0.8)
    """
    evaluated = _evaluated(probability, status)
    if not evaluated.any():
        raise BadInput("A_MISSING", "No segment of the recording could be evaluated.")
    stretches = runs(evaluated)
    smoothed = np.full(len(probability), np.nan)
    for first, stop in stretches:
        smoothed[first:stop] = running_median(probability[first:stop], length=rule.median)
    positive = _hysteresis(smoothed, on=rule.theta_on, off=rule.off)
    joined = _join(runs(positive), evaluated, gap=rule.join_gap / segment_duration)
    firsts = {first for first, _ in stretches}
    stops = {stop for _, stop in stretches}
    return tuple(
        Event(
            label,
            first * float(segment_duration),
            stop * float(segment_duration),
            confidence=float(smoothed[first:stop].max()),
            truncated=first in firsts or stop in stops,
        )
        for first, stop in joined
        if (stop - first) * segment_duration >= rule.minimum_duration
    )


class EventStream:
    """`find_events` for segments that come one by one.

    Parameters
    ----------
    rule, segment_duration
        As of `find_events`.

    Attributes
    ----------
    events
        Those that no later segment can change, in order; after `finish`, all.

    Examples
    --------
    >>> stream = EventStream(EventRule(theta_on=0.5))
    >>> for p in [0.1, 0.9, 0.8, 0.9, 0.1, 0.1, 0.1, 0.1]:
    ...     stream.push(p, SegmentStatus.EVALUATED)
    >>> [(event.onset, event.offset) for event in stream.events]
    [(5.0, 20.0)]
    """

    def __init__(self, rule: EventRule, *, segment_duration: float | int = 5.0) -> None:
        self.rule = rule
        self.events: tuple[Event, ...] = ()
        self._duration = float(segment_duration)
        self._n_segments = 0
        self._stretch: list[float] = []  # probabilities of the last evaluated stretch
        self._n_settled = 0  # events of it that are among `events`

    def push(self, probability: float, status: SegmentStatus) -> None:
        """Take the next segment; its probability is NaN unless it was evaluated."""
        if status == SegmentStatus.EVALUATED:
            self._stretch.append(probability)
        else:
            self.finish()
        self._n_segments += 1
        # what follows an event is known to be quiet, for as long as it could be joined
        self._settle(self._n_known - max(self.rule.join_gap / self._duration, 1.0))

    def finish(self) -> None:
        """Nothing follows that was evaluated: all events of the stretch stand."""
        self._settle(np.inf)
        self._stretch, self._n_settled = [], 0

    @property
    def is_ictal(self) -> bool:
        """Whether the newest segment of which that is known lies in a seizure.

        It is known after the delay of the rule. A seizure that stays shorter than the
        rule's least duration will not be among the events.
        """
        smoothed = self._smoothed()[: max(self._n_known, 0)]
        on, off = self.rule.theta_on, self.rule.off
        return bool(len(smoothed)) and bool(_hysteresis(smoothed, on=on, off=off)[-1])

    def state_dict(self) -> dict[str, np.ndarray]:
        """Everything that the next answers depend on."""
        rows = [(e.onset, e.offset, e.confidence, e.truncated) for e in self.events]
        return {
            "counters": np.array([self._n_segments, self._n_settled], dtype=np.int64),
            "stretch": np.array(self._stretch, dtype=np.float64),
            "events": np.array(rows, dtype=np.float64).reshape(-1, 4),
        }

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Go on where `state_dict` was taken of a stream with the same rule."""
        self._n_segments, self._n_settled = state["counters"].tolist()
        self._stretch = state["stretch"].tolist()
        self.events = tuple(
            Event("sz", onset, offset, confidence=confidence, truncated=bool(truncated))
            for onset, offset, confidence, truncated in state["events"].tolist()
        )

    @property
    def _n_known(self) -> int:
        """Segments of the stretch whose median is known."""
        return len(self._stretch) - self.rule.median // 2

    def _smoothed(self) -> Float[np.ndarray, " segment"]:
        stretch = np.array(self._stretch, dtype=np.float64)
        return running_median(stretch, length=self.rule.median) if len(stretch) else stretch

    def _settle(self, before: float) -> None:
        """Take over the events that end before a segment of the stretch."""
        if not self._stretch or max(self._stretch) < self.rule.theta_on:
            return  # nothing to find, most of the time
        first = self._n_segments - len(self._stretch)
        found = find_events(
            np.array(self._stretch, dtype=np.float64),
            np.zeros(len(self._stretch), dtype=np.int8),
            rule=self.rule,
            segment_duration=self._duration,
        )
        for event in found[self._n_settled :]:
            if event.offset / self._duration > before:
                break
            shift = first * self._duration
            moved = replace(event, onset=event.onset + shift, offset=event.offset + shift)
            self.events = (*self.events, moved)
            self._n_settled += 1


def running_median(
    probability: Float[np.ndarray, " segment"], *, length: int
) -> Float[np.ndarray, " segment"]:
    """Centred median over an odd number of segments; the end values are repeated.

    Examples
    --------
    >>> running_median(np.array([0.9, 0.1, 0.2, 0.8]), length=3)
    array([0.9, 0.2, 0.2, 0.8])
    """
    padded = np.pad(probability, length // 2, mode="edge")
    return np.median(np.lib.stride_tricks.sliding_window_view(padded, length), axis=-1)


def runs(flags: Bool[np.ndarray, " segment"]) -> list[tuple[int, int]]:
    """First position and the one after the last of each run of true values.

    Examples
    --------
    >>> runs(np.array([True, False, True, True]))
    [(0, 1), (2, 4)]
    """
    padded = np.concatenate([[False], flags, [False]])
    edges = np.flatnonzero(padded[1:] != padded[:-1])
    return [(int(first), int(stop)) for first, stop in edges.reshape(-1, 2)]


def label_segments(
    events: Sequence[Event], *, n_segments: int, segment_duration: float | int = 5.0
) -> Bool[np.ndarray, " segment"]:
    """Which segments share time with an event.

    Examples
    --------
    >>> label_segments([Event("sz", 4.0, 10.0)], n_segments=4)
    array([ True,  True, False, False])
    """
    begin = np.arange(n_segments) * float(segment_duration)
    end = begin + segment_duration
    labels = np.zeros(n_segments, dtype=bool)
    for event in events:
        labels |= (event.onset < end) & (event.offset > begin)
    return labels


@dataclass(frozen=True)
class CoverageRule:
    """When a segment is evaluated.

    Attributes
    ----------
    min_channels
        Least share of its channels that can be used; one is needed in any case.
    min_tokens
        Least share of all channels of all segments of the window.
    """

    min_channels: float = 0.5
    min_tokens: float = 0.5


HALF = CoverageRule()
"""Half of the channels, and half of the window."""


@dataclass(frozen=True)
class Coverage:
    """How much of a recording was evaluated.

    Attributes
    ----------
    intervals
        Status, begin and end (s) of consecutive stretches, gapless from the recording's
        start on.
    """

    intervals: tuple[tuple[SegmentStatus, float, float], ...]

    @property
    def seconds(self) -> Mapping[SegmentStatus, float]:
        """Time in each status."""
        return {
            status: sum(
                (end - begin for s, begin, end in self.intervals if s == status), 0.0
            )
            for status in SegmentStatus
        }

    @property
    def evaluated(self) -> tuple[tuple[float, float], ...]:
        """Begin and end (s) of the evaluated stretches."""
        return tuple(
            (begin, end)
            for status, begin, end in self.intervals
            if status == SegmentStatus.EVALUATED
        )

    @property
    def evaluated_seconds(self) -> float:
        """Evaluated time."""
        return self.seconds[SegmentStatus.EVALUATED]


def coverage_of(
    status: Int8[np.ndarray, " segment"], *, segment_duration: float | int = 5.0
) -> Coverage:
    """What was evaluated, from the `SegmentStatus` of consecutive segments.

    Examples
    --------
    >>> coverage_of(np.array([1, 0, 0, 2], dtype=np.int8)).evaluated
    ((5.0, 15.0),)
    """
    edges = np.flatnonzero(np.diff(status)) + 1
    firsts = [0, *edges.tolist()] if len(status) else []
    stops = [*edges.tolist(), len(status)]
    return Coverage(
        tuple(
            (
                SegmentStatus(int(status[first])),
                first * float(segment_duration),
                stop * float(segment_duration),
            )
            for first, stop in zip(firsts, stops, strict=False)
        )
    )


def _evaluated(
    probability: Float[np.ndarray, " segment"], status: Int8[np.ndarray, " segment"]
) -> Bool[np.ndarray, " segment"]:
    evaluated = status == SegmentStatus.EVALUATED
    if not ((probability[evaluated] >= 0) & (probability[evaluated] <= 1)).all():
        raise ValueError("the probability of an evaluated segment is not in 0 to 1")
    if not np.isnan(probability[~evaluated]).all():
        raise ValueError("a segment that was not evaluated has a probability")
    return evaluated


def _hysteresis(
    smoothed: Float[np.ndarray, " segment"], *, on: float, off: float
) -> Bool[np.ndarray, " segment"]:
    """On from `on` until below `off`; NaN is off."""
    is_on = smoothed >= on
    decides = is_on | ~(smoothed >= off)
    last = np.maximum.accumulate(np.where(decides, np.arange(len(smoothed)), -1))
    return (last >= 0) & is_on[last]


def _join(
    events: list[tuple[int, int]], evaluated: Bool[np.ndarray, " segment"], *, gap: float
) -> list[tuple[int, int]]:
    joined: list[tuple[int, int]] = []
    for first, stop in events:
        before = joined[-1] if joined else None
        if before and first - before[1] < gap and evaluated[before[1] : first].all():
            joined[-1] = (before[0], stop)
        else:
            joined.append((first, stop))
    return joined
