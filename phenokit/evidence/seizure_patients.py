"""Scores of patients with recordings of seizures, their intervals, and the threshold.

Several recordings of a patient count together. Intervals resample patients, never segments:
the segments of a patient are not independent. The threshold is chosen on validation
patients, by the best event F1 among the thresholds with few enough false alarms.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from jaxtyping import Bool, Float, Int8

from phenokit.errors import AnalysisRefused
from phenokit.evidence.seizure_scores import (
    DetectionCounts,
    SegmentCounts,
    detection_delays,
    score_events,
    score_samples,
    score_segments,
    segment_auroc,
)
from phenokit.evidence.seizures import (
    Coverage,
    EventRule,
    coverage_of,
    find_events,
    label_segments,
)
from phenokit.recording import Event, SegmentStatus

Patient = TypeVar("Patient")


@dataclass(frozen=True)
class ScoredRecording:
    """Probabilities of one recording beside its annotations.

    Attributes
    ----------
    patient_id
        Whose it is.
    probability
        P(seizure) of consecutive segments; NaN where not evaluated.
    status
        `SegmentStatus` of each.
    reference
        Annotated seizures.
    duration
        Of the recording, seconds; at least that of the segments.
    segment_duration
        Seconds.
    """

    patient_id: str
    probability: Float[np.ndarray, " segment"]
    status: Int8[np.ndarray, " segment"]
    reference: tuple[Event, ...]
    duration: float | int
    segment_duration: float | int = 5.0

    @property
    def label(self) -> Bool[np.ndarray, " segment"]:
        """Which segments share time with an annotated seizure."""
        return label_segments(
            self.reference,
            n_segments=len(self.status),
            segment_duration=self.segment_duration,
        )

    @property
    def coverage(self) -> Coverage:
        """What was evaluated."""
        return coverage_of(self.status, segment_duration=self.segment_duration)

    def events(self, rule: EventRule) -> tuple[Event, ...]:
        """Seizures that the rule finds; see `find_events`."""
        return find_events(
            self.probability,
            self.status,
            rule=rule,
            segment_duration=self.segment_duration,
        )


@dataclass(frozen=True)
class SeizureScores:
    """All scores of one patient, or of several together.

    Attributes
    ----------
    events, samples
        Over the whole recordings.
    evaluated_events
        Over the evaluated time alone.
    segments
        Over the evaluated segments.
    delays
        Of each annotated seizure; ``None`` where it was not found.
    label, probability
        Of the evaluated segments, for their ROC curve.
    """

    events: DetectionCounts
    evaluated_events: DetectionCounts
    samples: DetectionCounts
    segments: SegmentCounts
    delays: tuple[float | None, ...]
    label: Bool[np.ndarray, " segment"]
    probability: Float[np.ndarray, " segment"]

    @property
    def auroc(self) -> float | None:
        """Area under the ROC curve of the evaluated segments."""
        return segment_auroc(self.label, self.probability)

    @property
    def median_delay(self) -> float | None:
        """Of the seizures that were found, seconds."""
        known = [delay for delay in self.delays if delay is not None]
        return float(np.median(known)) if known else None


def score_recording(recording: ScoredRecording, rule: EventRule) -> SeizureScores:
    """All scores of one recording.

    Raises
    ------
    BadInput
        ``A_MISSING`` if no segment was evaluated.
    """
    found = recording.events(rule)
    evaluated = recording.status == SegmentStatus.EVALUATED
    alarmed = label_segments(
        found,
        n_segments=len(recording.status),
        segment_duration=recording.segment_duration,
    )
    pair, duration = (recording.reference, found), recording.duration
    return SeizureScores(
        score_events(*pair, duration=duration),
        score_events(*pair, duration=duration, coverage=recording.coverage),
        score_samples(*pair, duration=duration),
        score_segments(recording.label, alarmed, recording.status),
        detection_delays(*pair),
        recording.label[evaluated],
        recording.probability[evaluated],
    )


def pool(scores: Sequence[SeizureScores]) -> SeizureScores:
    """Scores of several recordings together: counts are added, segments put in a row.

    Raises
    ------
    ValueError
        If there are none.
    """
    if not scores:
        raise ValueError("there are no scores to pool")
    pooled = scores[0]
    for one in scores[1:]:
        pooled = replace(
            pooled,
            events=pooled.events + one.events,
            evaluated_events=pooled.evaluated_events + one.evaluated_events,
            samples=pooled.samples + one.samples,
            segments=pooled.segments + one.segments,
            delays=pooled.delays + one.delays,
        )
    return replace(
        pooled,
        label=np.concatenate([one.label for one in scores]),
        probability=np.concatenate([one.probability for one in scores]),
    )


def score_patients(
    recordings: Sequence[ScoredRecording], rule: EventRule
) -> dict[str, SeizureScores]:
    """Scores of each patient, all recordings of a patient together."""
    by_patient: dict[str, list[SeizureScores]] = {}
    for recording in recordings:
        scores = score_recording(recording, rule)
        by_patient.setdefault(recording.patient_id, []).append(scores)
    return {patient: pool(scores) for patient, scores in by_patient.items()}


@dataclass(frozen=True)
class BootstrapInterval:
    """A score with its percentile interval over resampled patients.

    Attributes
    ----------
    estimate
        Of the patients at hand; ``None`` where undefined.
    low, high
        ``None`` where no resample defines the score.
    n_undefined
        Resamples in which it is undefined; they are left out.
    n_resamples, n_patients
        Few patients make a rough interval, and a single one none that means anything.
    """

    estimate: float | None
    low: float | None
    high: float | None
    n_undefined: int
    n_resamples: int
    n_patients: int


def bootstrap_patients(
    patients: Sequence[Patient],
    score: Callable[[Sequence[Patient]], float | None],
    *,
    rng: np.random.Generator,
    n_resamples: int = 2000,
    level: float = 0.95,
) -> BootstrapInterval:
    """Interval of a score of patients, by drawing patients with replacement.

    Parameters
    ----------
    patients
        One entry a patient, whatever `score` reads; pairs give a paired difference.
    score
        From a sample of patients, in which some stand several times.
    rng
        Everything random is drawn from it.
    n_resamples, level
        Number of resamples, coverage of the interval.

    Raises
    ------
    ValueError
        If there is no patient.

    Examples
    --------
    >>> mean = lambda sample: sum(sample) / len(sample)
    >>> interval = bootstrap_patients([0.2, 0.4, 0.9], mean, rng=np.random.default_rng(1))
    >>> round(interval.low, 2), round(interval.high, 2)
    (0.2, 0.9)
    """
    if not patients:
        raise ValueError("there is no patient to resample")
    n = len(patients)
    draws = rng.integers(n, size=(n_resamples, n))
    # The order of a sample does not matter: few patients make few different samples.
    known: dict[Hashable, float | None] = {}
    values = []
    for draw in np.sort(draws, axis=1):
        key = draw.tobytes()
        if key not in known:
            known[key] = score([patients[k] for k in draw])
        if known[key] is not None:
            values.append(known[key])
    tail = 50 * (1 - level)
    low, high = np.percentile(values, [tail, 100 - tail]) if values else (None, None)
    return BootstrapInterval(
        score(patients),
        None if low is None else float(low),
        None if high is None else float(high),
        n_resamples - len(values),
        n_resamples,
        n,
    )


@dataclass(frozen=True)
class ThresholdChoice:
    """The threshold that validation patients chose.

    Attributes
    ----------
    rule
        With the chosen `theta_on`.
    scores
        Pooled over the validation patients, at that threshold.
    limit
        False alarms per 24 h of evaluated time that were allowed.
    candidates
        Every threshold tried, with its event counts over the evaluated time.
    """

    rule: EventRule
    scores: SeizureScores
    limit: float | int
    candidates: tuple[tuple[float, DetectionCounts], ...]


def choose_threshold(
    recordings: Sequence[ScoredRecording],
    *,
    rule: EventRule,
    limit: float | int,
    candidates: Sequence[float] = tuple(k / 100 for k in range(2, 100)),
) -> ThresholdChoice:
    """The `theta_on` with the best event F1 among those with few enough false alarms.

    Parameters
    ----------
    recordings
        Of validation patients only, never of those that the scores are reported for.
    rule
        Everything but `theta_on`.
    limit
        False alarms per 24 h of evaluated time, all patients together.
    candidates
        Thresholds to try; of equally good ones the middle one is taken.

    Raises
    ------
    AnalysisRefused
        If there is no annotated seizure in evaluated time, or no threshold finds one
        within the limit.
    """
    tried = []
    for theta in sorted(candidates):
        one = replace(rule, theta_on=theta)
        counts = [
            score_events(
                recording.reference,
                recording.events(one),
                duration=recording.duration,
                coverage=recording.coverage,
            )
            for recording in recordings
        ]
        tried.append((theta, sum(counts[1:], counts[0])))
    if not tried or tried[0][1].n_reference == 0:
        raise AnalysisRefused(
            "A threshold needs annotated seizures in the evaluated time of validation "
            "patients; there is none."
        )
    allowed = [
        (counts.f1 or 0.0, theta)
        for theta, counts in tried
        if (counts.false_alarms_per_day or 0.0) <= limit
    ]
    best = max((f1 for f1, _ in allowed), default=0.0)
    if best == 0:
        raise AnalysisRefused(
            f"No threshold finds a seizure with at most {limit} false alarms per 24 h; "
            "allow more, or train a better model."
        )
    # The ends of the plateau fit these patients most closely, its middle the next ones.
    equal = [theta for f1, theta in allowed if f1 == best]
    theta = equal[(len(equal) - 1) // 2]
    chosen = replace(rule, theta_on=theta)
    scores = pool([score_recording(recording, chosen) for recording in recordings])
    return ThresholdChoice(chosen, scores, limit, tuple(tried))
