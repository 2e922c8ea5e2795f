"""How well found seizures agree with annotated ones.

Events are scored by the rules of SzCORE (Dan et al. 2024, doi:10.1111/epi.18113), with the
defaults of the package timescoring 0.0.7: neighbours are merged, long events cut, and an
annotated event counts as found if anything was detected from 30 s before it to 60 s after.
Samples are scored at 1 Hz. Beside them segments (Cohen's kappa, area under the ROC curve)
and the delay of detection.

A quotient without denominator is ``None``: without an annotated event there is no
sensitivity, and 0 would be a claim.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int8

from phenokit.evidence.seizures import Coverage
from phenokit.recording import Event, SegmentStatus

DAY = 86_400.0
"""Seconds."""

Span = tuple[float, float]
"""Begin and end in seconds."""


@dataclass(frozen=True)
class SzcoreRule:
    """Parameters of event scoring, in seconds; the defaults of timescoring 0.0.7."""

    before: float | int = 30.0
    """Tolerance before an annotated event."""
    after: float | int = 60.0
    """Tolerance after it."""
    merge_gap: float | int = 90.0
    """Events less than this apart are one."""
    longest: float | int = 300.0
    """Longer events are cut into pieces of this length."""
    sampling_rate: int = 10
    """Of the masks (Hz)."""


@dataclass(frozen=True)
class DetectionCounts:
    """Counts of found events, or of found samples, and the scores that they give.

    Attributes
    ----------
    true_positives, false_positives
        Annotated events that were found, and detections that touch none of those; or
        samples in both, and in the detections only.
    n_reference
        Annotated.
    seconds
        Time that the rate of false alarms refers to.
    """

    true_positives: int
    false_positives: int
    n_reference: int
    seconds: float

    @property
    def sensitivity(self) -> float | None:
        """Share of what was annotated that was found."""
        return ratio(self.true_positives, self.n_reference)

    @property
    def precision(self) -> float | None:
        """Share of the true among all detections."""
        return ratio(self.true_positives, self.true_positives + self.false_positives)

    @property
    def f1(self) -> float | None:
        """Harmonic mean of sensitivity and precision."""
        both = self.true_positives + self.n_reference + self.false_positives
        return ratio(2 * self.true_positives, both)

    @property
    def false_alarms_per_day(self) -> float | None:
        """False positives per 24 h of `seconds`."""
        return ratio(self.false_positives, self.seconds / DAY)

    def __add__(self, other: "DetectionCounts") -> "DetectionCounts":
        return DetectionCounts(
            self.true_positives + other.true_positives,
            self.false_positives + other.false_positives,
            self.n_reference + other.n_reference,
            self.seconds + other.seconds,
        )


def ratio(numerator: float | int, denominator: float | int) -> float | None:
    """The quotient; ``None`` for 0 / 0 and whatever else has no denominator."""
    return None if denominator == 0 else numerator / denominator


def score_events(
    reference: Sequence[Event],
    found: Sequence[Event],
    *,
    duration: float | int,
    coverage: Coverage | None = None,
    rule: SzcoreRule = SzcoreRule(),
) -> DetectionCounts:
    """Score events as SzCORE does.

    Parameters
    ----------
    reference, found
        Annotated and detected events, in any order. Where events of one list overlap they
        are one, as in a mask (timescoring, given such a list, ends both with the second).
    duration
        Of the recording, seconds.
    coverage
        If given, annotated events count only where the recording was evaluated, and the
        rate of false alarms refers to the evaluated time.
    rule
        Tolerances, merging and cutting.

    Raises
    ------
    ValueError
        If an event ends before it begins or lies outside the recording.

    Examples
    --------
    >>> counts = score_events([Event("sz", 100, 160)], [Event("sz", 50, 80)], duration=3600)
    >>> counts.sensitivity, counts.precision, counts.false_alarms_per_day
    (1.0, 1.0, 0.0)
    """
    rate = rule.sampling_rate
    n_samples = round(float(duration) * rate)
    spans = _inside(_spans(reference, duration), coverage)
    pieces = _cut(_merge(spans, rule.merge_gap), rule.longest)
    alarms = _cut(_merge(_spans(found, duration), rule.merge_gap), rule.longest)
    alarmed = _mask(alarms, n_samples, rate)
    detected = np.zeros(n_samples, dtype=bool)
    true_positives = 0
    for begin, end in pieces:
        extended = _samples(
            (max(0.0, begin - rule.before), min(n_samples / rate, end + rule.after)), rate
        )
        # Any sample is more than 1e-6 of a span: pieces last 300 s at most.
        if alarmed[extended].any():
            true_positives += 1
            detected[extended] = True
    false_positives = sum(not detected[_samples(one, rate)].any() for one in alarms)
    seconds = n_samples / rate if coverage is None else coverage.evaluated_seconds
    return DetectionCounts(true_positives, false_positives, len(pieces), seconds)


def score_samples(
    reference: Sequence[Event],
    found: Sequence[Event],
    *,
    duration: float | int,
    coverage: Coverage | None = None,
    sampling_rate: int = 1,
) -> DetectionCounts:
    """Score every second as SzCORE does; parameters and errors as in `score_events`."""
    n_samples = round(float(duration) * sampling_rate)
    truth = _mask(_spans(reference, duration), n_samples, sampling_rate)
    alarmed = _mask(_spans(found, duration), n_samples, sampling_rate)
    if coverage is not None:
        counted = _mask(list(coverage.evaluated), n_samples, sampling_rate)
        truth, alarmed = truth[counted], alarmed[counted]
    return DetectionCounts(
        int((truth & alarmed).sum()),
        int((~truth & alarmed).sum()),
        int(truth.sum()),
        len(truth) / sampling_rate,
    )


def detection_delays(
    reference: Sequence[Event],
    found: Sequence[Event],
    *,
    rule: SzcoreRule = SzcoreRule(),
) -> tuple[float | None, ...]:
    """Seconds from the onset of each annotated event to the onset of its detection.

    Returns
    -------
    tuple
        In the order of `reference`; ``None`` where nothing was detected within the
        tolerances. Negative where the detection begins first, but not below the
        tolerance: a detection that was on long before did not foresee the event.
        An alarm in real time comes later by the delays of segment, median and filter.

    Examples
    --------
    >>> seizures = [Event("sz", 100, 160), Event("sz", 900, 960)]
    >>> detection_delays(seizures, [Event("sz", 110, 150)])
    (10.0, None)
    """
    delays: list[float | None] = []
    for event in reference:
        earliest, latest = event.onset - rule.before, event.offset + rule.after
        onsets = [f.onset for f in found if f.onset < latest and f.offset > earliest]
        first = max(min(onsets), earliest) if onsets else None
        delays.append(None if first is None else float(first - event.onset))
    return tuple(delays)


@dataclass(frozen=True)
class SegmentCounts:
    """Confusion of evaluated segments, and the scores that it gives."""

    true_positives: int
    false_positives: int
    false_negatives: int
    true_negatives: int

    @property
    def sensitivity(self) -> float | None:
        """Share of the segments in a seizure that lie in a detection."""
        return ratio(self.true_positives, self.true_positives + self.false_negatives)

    @property
    def specificity(self) -> float | None:
        """Share of the other segments that lie in none."""
        return ratio(self.true_negatives, self.true_negatives + self.false_positives)

    @property
    def f1(self) -> float | None:
        """Harmonic mean of sensitivity and precision."""
        wrong = self.false_positives + self.false_negatives
        return ratio(2 * self.true_positives, 2 * self.true_positives + wrong)

    @property
    def kappa(self) -> float | None:
        """Cohen's kappa (1960): agreement beyond that of two who guess.

        ``None`` where both say the same of every segment: there is nothing to agree on.
        """
        annotated = self.true_positives + self.false_negatives
        found = self.true_positives + self.false_positives
        agreed = self.true_positives + self.true_negatives
        n = agreed + self.false_positives + self.false_negatives
        by_chance = annotated * found + (n - annotated) * (n - found)
        return ratio(agreed * n - by_chance, n * n - by_chance)

    def __add__(self, other: "SegmentCounts") -> "SegmentCounts":
        return SegmentCounts(
            self.true_positives + other.true_positives,
            self.false_positives + other.false_positives,
            self.false_negatives + other.false_negatives,
            self.true_negatives + other.true_negatives,
        )


def score_segments(
    label: Bool[np.ndarray, " segment"],
    found: Bool[np.ndarray, " segment"],
    status: Int8[np.ndarray, " segment"],
) -> SegmentCounts:
    """Compare the segments in annotated events with those in detections.

    Segments that were not evaluated do not count.
    """
    evaluated = status == SegmentStatus.EVALUATED
    label, found = label[evaluated], found[evaluated]
    return SegmentCounts(
        int((label & found).sum()),
        int((~label & found).sum()),
        int((label & ~found).sum()),
        int((~label & ~found).sum()),
    )


def segment_auroc(
    label: Bool[np.ndarray, " segment"], probability: Float[np.ndarray, " segment"]
) -> float | None:
    """Area under the ROC curve of segments, ties half; NaN is left out.

    Examples
    --------
    >>> segment_auroc(np.array([False, True, True]), np.array([0.2, 0.2, 0.9]))
    0.75
    """
    known = ~np.isnan(probability)
    positives = probability[known & label]
    negatives = np.sort(probability[known & ~label])
    below = np.searchsorted(negatives, positives, side="left").sum()
    not_above = np.searchsorted(negatives, positives, side="right").sum()
    return ratio(int(below + not_above), 2 * len(positives) * len(negatives))


# ---- spans and masks -------------------------------------------------------------------


def _spans(events: Sequence[Event], duration: float | int) -> list[Span]:
    """Sorted, checked."""
    for event in events:
        if not 0 <= event.onset <= event.offset <= duration:
            raise ValueError(
                f"an event from {event.onset} to {event.offset} s does not lie in a "
                f"recording of {duration} s"
            )
    return sorted((float(event.onset), float(event.offset)) for event in events)


def _inside(spans: list[Span], coverage: Coverage | None) -> list[Span]:
    """What of the spans was evaluated."""
    if coverage is None:
        return spans
    parts = [
        (max(begin, first), min(end, last))
        for begin, end in spans
        for first, last in coverage.evaluated
    ]
    return [(begin, end) for begin, end in parts if begin < end]


def _merge(spans: list[Span], gap: float | int) -> list[Span]:
    merged: list[Span] = []
    for begin, end in spans:
        if merged and begin - merged[-1][1] < gap:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((begin, end))
    return merged


def _cut(spans: list[Span], longest: float | int) -> list[Span]:
    pieces: list[Span] = []
    for begin, end in spans:
        while end - begin > longest:
            pieces.append((begin, begin + longest))
            begin += longest
        pieces.append((begin, end))
    return pieces


def _samples(span: Span, sampling_rate: int) -> slice:
    # round: half to even, as the published masks do.
    return slice(round(span[0] * sampling_rate), round(span[1] * sampling_rate))


def _mask(
    spans: Sequence[Span], n_samples: int, sampling_rate: int
) -> Bool[np.ndarray, " sample"]:
    mask = np.zeros(n_samples, dtype=bool)
    for span in spans:
        mask[_samples(span, sampling_rate)] = True
    return mask
