"""Is this 12-lead ECG fit to be scored? A verdict for each lead, and the reasons.

What is judged is the window that a network reads: the first ten seconds. Every rule holds
a plain measure of the signal against a limit of `Limits`; none is learned, so that an
abstention can be said in one sentence and checked by eye. Flatness and clipping are judged
on the steps of the converter at the rate of the recording (a wrong unit must not look
flat), everything else on a copy at 100 to 200 Hz.

Arm reversal: with the arm electrodes swapped, lead I is upside down, and its P wave, QRS
and T wave run against those of V5 and V6, which look at the heart from the same side. A
heart on the right side (dextrocardia) and, with an ectopic P wave, a marked right axis can
look the same; the sentence therefore asks for a check and claims no mistake.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from phenokit.errors import CODES, BadInput
from phenokit.recording import LEADS, Notice, Recording, lead_positions

Verdict = Literal["good", "missing", "flat", "clipped", "amplitude", "noisy"]


@dataclass(frozen=True)
class Limits:
    """Where a measure of quality stops being good enough.

    Attributes
    ----------
    window, shortest
        Seconds judged from the beginning, and seconds needed.
    fastest
        Beats a minute that a heart can reach; above it the sampling rate is wrong.
    flat_steps
        Range, in steps of the converter, within which a lead is flat; judged over the
        whole window and over any two seconds.
    flat_share
        A lead with less than this part of the median lead's range is flat.
    clip_share, clip_height
        A lead is clipped if it stays for this part of the window at its very highest or
        lowest value, in three visits or for five times as long in all, and that value lies
        this far (mV) from its median.
    smallest, largest
        mV: range within two seconds, of the largest lead and of the median lead.
    excursion
        mV: largest distance of a lead from its median.
    wander
        mV: range of a lead's baseline (its average over one second).
    beat_contrast
        How many times the QRS complexes stand out from the quietest quarter.
    lead_noise, hiss
        mV: noise between the beats of one lead, from 5 to 20 Hz and above 20 Hz.
    einthoven
        Residual of Einthoven's and Goldberger's equations, as a part of the largest limb
        lead (standard deviations).
    against_v6, p_against_v6
        Correlation of lead I with V5 + V6, over the whole beat and before the QRS, below
        which the arm electrodes seem to be reversed (both have to hold).
    """

    window: float = 10.0
    shortest: float = 9.9
    fastest: float = 300.0
    flat_steps: float = 4.0
    flat_share: float = 0.03
    clip_share: float = 0.008
    clip_height: float = 0.3
    smallest: float = 0.2
    largest: float = 5.0
    excursion: float = 10.0
    wander: float = 4.0
    beat_contrast: float = 2.3
    lead_noise: float = 0.15
    hiss: float = 0.1
    einthoven: float = 0.15
    against_v6: float = -0.5
    p_against_v6: float = -0.3


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True)
class LeadQuality:
    """Verdict on one lead, and one sentence that says what was seen."""

    lead: str
    verdict: Verdict
    detail: str


@dataclass(frozen=True)
class Quality:
    """Verdict on a recording.

    Attributes
    ----------
    leads
        One verdict a lead, in the order of `LEADS`.
    notices
        Why the recording should not be scored (``A_*``), in order of precedence; those
        that came with the recording are among them.
    heart_rate
        Beats a minute; ``None`` where no heartbeat was found.
    """

    leads: tuple[LeadQuality, ...]
    notices: tuple[Notice, ...] = ()
    heart_rate: float | None = None

    @property
    def is_assessable(self) -> bool:
        """Whether nothing speaks against scoring the recording."""
        return not any(notice.code.startswith("A_") for notice in self.notices)


@dataclass(frozen=True)
class _Finding:
    """One reason: its code, the sentence for the recording, and what it means for leads."""

    code: str
    message: str
    leads: tuple[str, ...] = ()
    verdict: Verdict = "good"
    detail: str = ""


def assess_quality(recording: Recording, *, limits: Limits = DEFAULT_LIMITS) -> Quality:
    """Judge a 12-lead ECG.

    Parameters
    ----------
    recording
        The twelve `LEADS` in any order, in mV, 100 to 1000 Hz.
    limits
        Where good ends.

    Returns
    -------
    Quality
        Every reason that was found; the first notice decides the code of the row.

    Raises
    ------
    BadInput
        ``E_LEADS`` if a lead is missing or occurs twice.
    """
    positions = lead_positions(recording.channels)
    missing = [lead for lead in LEADS if lead not in positions]
    if missing:
        raise BadInput(
            "E_LEADS",
            f"missing {', '.join(missing)} (has {', '.join(recording.channels)})",
            where=missing[0],
        )
    order = [positions[lead] for lead in LEADS]
    rate = recording.sampling_rate
    signal = recording.signal[order, : max(1, round(limits.window * rate))]
    step = _step(
        signal, recording.resolution[order] if recording.resolution is not None else None
    )

    present = np.isfinite(signal)
    findings = _judge_gaps(present)
    if findings:
        signal = _fill(signal, present)
    flat = _is_flat(signal, step, rate, limits)
    has_samples = np.any(present, axis=1)
    usable = ~flat & has_samples
    findings += _judge_flat(flat & has_samples)
    findings += _judge_clipping(_is_clipped(signal, step, limits) & usable)

    copy, copy_rate = _working_copy(signal, rate)
    baseline = _average(copy, 1.0, copy_rate)
    level = copy - baseline
    smooth = _average(level, 0.03, copy_rate)
    envelope = _envelope(level, smooth, copy_rate)
    beats, contrast = _find_beats(envelope, copy_rate, usable)
    heart_rate = _heart_rate(beats, copy_rate) if contrast >= limits.beat_contrast else None
    findings += _judge_duration(recording.duration, heart_rate, limits)
    findings += _judge_amplitude(copy, copy_rate, usable, limits)
    hiss = np.abs(level - smooth).mean(axis=1)
    findings += _judge_noise(envelope, hiss, baseline, heart_rate, usable, limits)
    findings += _judge_limb_leads(
        copy, step, recording.derived, _is_rescaled(signal, step), usable, limits
    )
    if heart_rate is not None and usable.all():
        findings += _judge_arms(level, beats, copy_rate, limits)

    leads = tuple(_lead_quality(lead, findings) for lead in LEADS)
    notices = [notice for notice in recording.notices if notice.code.startswith("A_")]
    notices += [Notice(finding.code, finding.message) for finding in findings]
    precedence = list(CODES)
    notices.sort(key=lambda notice: precedence.index(notice.code))
    return Quality(leads=leads, notices=tuple(notices), heart_rate=heart_rate)


def _lead_quality(lead: str, findings: Sequence[_Finding]) -> LeadQuality:
    """The first finding about a lead, or that it is good."""
    for finding in findings:
        if lead in finding.leads:
            return LeadQuality(lead, finding.verdict, f"{lead} {finding.detail}.")
    return LeadQuality(lead, "good", f"{lead} is good.")


def _named(mask: Bool[np.ndarray, " lead"]) -> tuple[str, ...]:
    return tuple(lead for lead, is_named in zip(LEADS, mask, strict=True) if is_named)


def _sentence(leads: Sequence[str], singular: str, plural: str, remedy: str) -> str:
    """``"V1 and V2 are flat: check the electrodes ..."``; every lead at most once."""
    if len(leads) == len(LEADS):
        subject = "All leads"
    elif len(leads) > 1:
        subject = f"{', '.join(leads[:-1])} and {leads[-1]}"
    else:
        subject = leads[0]
    electrode = "electrodes" if len(leads) > 1 else "electrode"
    predicate = plural if len(leads) > 1 else singular
    return f"{subject} {predicate}: {remedy.format(electrode=electrode)}"


def _judge_gaps(present: Bool[np.ndarray, "lead sample"]) -> list[_Finding]:
    leads = _named(~np.asarray(present.all(axis=1)))
    if not leads:
        return []
    share = 100 * (1 - present.mean(axis=1).min())
    amount = f"(up to {share:.0f} % of the samples)" if share >= 1 else "(single samples)"
    message = _sentence(
        leads, f"has gaps {amount}", f"have gaps {amount}", "record or export again."
    )
    return [_Finding("A_MISSING", message, leads, "missing", "has gaps")]


def _fill(
    signal: Float[np.ndarray, "lead sample"], present: Bool[np.ndarray, "lead sample"]
) -> Float[np.ndarray, "lead sample"]:
    """The signal with its gaps at the lead's median (0 where nothing was recorded)."""
    filled = np.where(present, signal, 0.0)
    for row in np.flatnonzero(~present.all(axis=1)):
        if present[row].any():
            filled[row, ~present[row]] = _median(signal[row, present[row]])
    return filled


def _step(
    signal: Float[np.ndarray, "lead sample"], resolution: Float[np.ndarray, " lead"] | None
) -> Float[np.ndarray, " lead"]:
    """One step of the converter for each lead; the finest change where none is stated."""
    if resolution is not None:
        return resolution
    changes = np.abs(np.diff(signal, axis=1))
    finest = np.min(changes, initial=np.inf, where=changes > 0)
    return np.full(len(signal), finest if np.isfinite(finest) else 1.0)


def _is_flat(
    signal: Float[np.ndarray, "lead sample"],
    step: Float[np.ndarray, " lead"],
    rate: float,
    limits: Limits,
) -> Bool[np.ndarray, " lead"]:
    """Leads without any change, for two seconds or altogether, and leads next to flat."""
    flat = np.ptp(signal, axis=1) <= limits.flat_steps * step
    second = round(rate)
    n_seconds = signal.shape[1] // second
    if n_seconds < 2:
        return flat
    seconds = signal[:, : n_seconds * second].reshape(len(signal), n_seconds, second)
    high, low = seconds.max(axis=2), seconds.min(axis=2)
    span = np.maximum(high[:, 1:], high[:, :-1]) - np.minimum(low[:, 1:], low[:, :-1])
    flat |= (span <= limits.flat_steps * step[:, np.newaxis]).any(axis=1)
    typical = _median(span)
    return np.logical_or(flat, typical < limits.flat_share * _median(typical))


def _judge_flat(flat: Bool[np.ndarray, " lead"]) -> list[_Finding]:
    leads = _named(flat)
    if not leads:
        return []
    remedy = "check the {electrode} and the cable and record again."
    message = _sentence(leads, "is flat", "are flat", remedy)
    return [_Finding("A_FLAT", message, leads, "flat", "is flat")]


def _is_clipped(
    signal: Float[np.ndarray, "lead sample"],
    step: Float[np.ndarray, " lead"],
    limits: Limits,
) -> Bool[np.ndarray, " lead"]:
    """Leads that stay at one extreme value, far from their median, for too long.

    A smooth wave touches its extreme for a sample, a clipped one stays there, and comes
    back to the same value with every beat; the end of a 16-bit converter is reached by no
    wave at all.
    """
    clipped = np.zeros(len(signal), dtype=bool)
    if signal.shape[1] < 2:
        return clipped
    for extreme, sign in ((signal.max(axis=1), 1), (signal.min(axis=1), -1)):
        is_at = sign * signal >= (sign * extreme - step / 2)[:, np.newaxis]
        stays = is_at[:, 1:] & is_at[:, :-1]
        share = stays.mean(axis=1)
        for row in np.flatnonzero(share >= limits.clip_share):
            if np.abs(extreme[row] - _median(signal[row])) < limits.clip_height:
                continue
            n_visits = np.count_nonzero(stays[row, 1:] > stays[row, :-1])
            clipped[row] |= n_visits >= 3 or share[row] >= 5 * limits.clip_share
        clipped |= (np.abs(extreme) >= 32766.5 * step) & (is_at.sum(axis=1) >= 2)
    return clipped


def _judge_clipping(clipped: Bool[np.ndarray, " lead"]) -> list[_Finding]:
    leads = _named(clipped)
    if not leads:
        return []
    fact = "cut off at the limit of the amplifier"
    remedy = "check the skin contact and the gain and record again."
    message = _sentence(leads, f"is {fact}", f"are {fact}", remedy)
    return [_Finding("A_CLIP", message, leads, "clipped", f"is {fact}")]


def _working_copy(
    signal: Float[np.ndarray, "lead sample"], rate: float
) -> tuple[Float[np.ndarray, "lead time"], float]:
    """The signal at 100 to 200 Hz: averages of as many samples as fit."""
    factor = int(rate // 100)
    n_averages = signal.shape[1] // max(1, factor)
    if factor <= 1 or n_averages == 0:
        return signal, rate
    blocks = signal[:, : n_averages * factor].reshape(len(signal), n_averages, factor)
    return np.einsum("lts->lt", blocks) / factor, rate / factor


def _average(
    signal: Float[np.ndarray, "*lead time"], seconds: float, rate: float
) -> Float[np.ndarray, "*lead time"]:
    """Moving average along time, mirrored at the ends."""
    from scipy.ndimage import uniform_filter1d

    return uniform_filter1d(signal, max(1, round(seconds * rate)), axis=-1)


def _envelope(
    level: Float[np.ndarray, "lead time"],
    smooth: Float[np.ndarray, "lead time"],
    rate: float,
) -> Float[np.ndarray, "lead time"]:
    """Size of what changes within 30 to 150 ms (5 to 20 Hz), where the QRS lives."""
    return np.abs(smooth - _average(level, 0.15, rate))


def _median(values: np.ndarray, *, axis: int = -1) -> Any:  # noqa: ANN401 - as numpy
    """`np.median` of finite numbers, to the bit, without the checks that cost the most."""
    ordered, n = np.sort(values, axis=axis), values.shape[axis]
    return (ordered.take((n - 1) // 2, axis) + ordered.take(n // 2, axis)) / 2


def _medians_above(
    rows: Float[np.ndarray, "lead time"], limit: float
) -> Bool[np.ndarray, " lead"]:
    """Whether the median of each row is above a limit; most rows need only be counted."""
    above = np.count_nonzero(rows > limit, axis=1) >= rows.shape[1] // 2
    for row in np.flatnonzero(above):
        above[row] = _median(rows[row]) > limit
    return above


def _find_beats(
    envelope: Float[np.ndarray, "lead time"],
    rate: float,
    usable: Bool[np.ndarray, " lead"],
) -> tuple[Int[np.ndarray, " beat"], float]:
    """Where the QRS complexes are, from all leads together, and how far they stand out.

    Each lead counts by its size relative to its own average, limited, so that neither a
    large lead nor a single artefact decides.
    """
    from scipy.ndimage import maximum_filter1d

    envelope = envelope[usable]
    mean = envelope.mean(axis=1, keepdims=True)
    if not (mean > 0).any():
        return np.empty(0, dtype=np.int64), 0.0
    together = np.minimum(envelope / np.where(mean > 0, mean, 1.0), 8.0).mean(axis=0)
    together = _average(together, 0.1, rate)
    quiet, loud = np.percentile(together, [25, 97])
    # two heartbeats are at least 0.13 s apart (460 a minute)
    peaks = together == maximum_filter1d(together, 2 * round(0.13 * rate) + 1)
    beats = np.flatnonzero(peaks & (together > quiet + 0.4 * (loud - quiet)))
    return beats, float(loud / quiet) if quiet > 0 else np.inf


def _heart_rate(beats: Int[np.ndarray, " beat"], rate: float) -> float | None:
    """Beats a minute from the median interval; ``None`` with fewer than three beats."""
    if len(beats) < 3:
        return None
    return float(60 * rate / _median(np.diff(beats)))


def _judge_duration(
    duration: float, heart_rate: float | None, limits: Limits
) -> list[_Finding]:
    if duration < limits.shortest:
        message = (
            f"The recording lasts {duration:.1f} s and {limits.window:g} s are needed: "
            "record again."
        )
    elif heart_rate is not None and heart_rate > limits.fastest:
        message = (
            f"The heart rate would be {heart_rate:.0f} a minute: the sampling rate in the "
            "file is probably wrong; export the recording again."
        )
    else:
        return []
    return [_Finding("A_DURATION", message)]


def _judge_amplitude(
    copy: Float[np.ndarray, "lead time"],
    rate: float,
    usable: Bool[np.ndarray, " lead"],
    limits: Limits,
) -> list[_Finding]:
    """Judge whether the size of the signal is that of an ECG."""
    if not usable.any():
        return []
    length = min(round(2 * rate), copy.shape[1])
    n_pieces = copy.shape[1] // length
    pieces = copy[:, : n_pieces * length].reshape(len(copy), n_pieces, length)
    typical = _median(pieces.max(axis=2) - pieces.min(axis=2))
    remedy = "check the unit and the gain of the export."
    largest, median = typical[usable].max(), _median(typical[usable])
    if largest < limits.smallest:
        message = (
            f"The largest lead spans {largest:.2g} mV, too little for an ECG: {remedy}"
        )
        leads, detail = _named(usable), "is far smaller than an ECG"
    elif median > limits.largest:
        message = f"The leads span {median:.2g} mV, too much for an ECG: {remedy}"
        leads, detail = _named(usable), "is far larger than an ECG"
    else:
        if np.ptp(copy, axis=1).max() <= limits.excursion:
            return []  # no value is farther from the median than the range
        middle = _median(copy)[:, np.newaxis]
        excursion = np.abs(copy - middle).max(axis=1)
        leads = _named(usable & (excursion > limits.excursion))
        if not leads:
            return []
        fact = f"up to {excursion[usable].max():.0f} mV, more than a heart gives"
        message = _sentence(
            leads, f"goes {fact}", f"go {fact}", "check the {electrode} and record again."
        )
        detail = "leaves the range of an ECG"
    return [_Finding("A_AMPLITUDE", message, leads, "amplitude", detail)]


def _judge_noise(
    envelope: Float[np.ndarray, "lead time"],
    hiss: Float[np.ndarray, " lead"],
    baseline: Float[np.ndarray, "lead time"],
    heart_rate: float | None,
    usable: Bool[np.ndarray, " lead"],
    limits: Limits,
) -> list[_Finding]:
    """Look for a heartbeat, and for leads buried in noise or in their baseline."""
    if not usable.any():
        return []
    findings = []
    between_beats = _medians_above(envelope, limits.lead_noise)
    noisy = _named(usable & (between_beats | (hiss > limits.hiss)))
    wandering = _named(usable & (np.ptp(baseline, axis=1) > limits.wander))
    remedy = "check the {electrode}, let the patient lie still and record again."
    if heart_rate is None:
        message = (
            "No heartbeat can be told from the noise: check the electrodes, and the "
            "sampling rate of the export, and record again."
        )
        detail = "shows no heartbeat"
        findings.append(_Finding("A_NOISE", message, _named(usable), "noisy", detail))
    elif noisy:
        message = _sentence(noisy, "is noisy", "are noisy", remedy)
        findings.append(_Finding("A_NOISE", message, noisy, "noisy", "is noisy"))
    if wandering and heart_rate is not None:
        fact = f"by more than {limits.wander:g} mV"
        message = _sentence(wandering, f"wanders {fact}", f"wander {fact}", remedy)
        detail = f"has a baseline that wanders {fact}"
        findings.append(_Finding("A_NOISE", message, wandering, "noisy", detail))
    return findings


def _judge_limb_leads(
    copy: Float[np.ndarray, "lead time"],
    step: Float[np.ndarray, " lead"],
    derived: Sequence[str],
    is_rescaled: bool,
    usable: Bool[np.ndarray, " lead"],
    limits: Limits,
) -> list[_Finding]:
    """Judge whether the six limb leads agree (Einthoven: I + III = II; Goldberger).

    Where every lead was scaled to the same range, the sizes cannot agree; then the leads
    only have to be combinations of I and II.
    """
    if derived or not usable[:6].all():
        return []
    limb = copy[:6] - copy[:6].mean(axis=1, keepdims=True)
    spread = limb.std(axis=1)
    lead_i, lead_ii = limb[0], limb[1]
    expected = np.stack(
        [
            lead_ii - lead_i,
            -(lead_i + lead_ii) / 2,
            lead_i - lead_ii / 2,
            lead_ii - lead_i / 2,
        ]
    )
    residual = (limb[2:] - expected).std(axis=1)
    allowed = np.maximum(limits.einthoven * spread.max(), 3 * step[:6].max())
    if is_rescaled and (residual > allowed).any():
        fit = np.linalg.lstsq(limb[:2].T, limb[2:].T)[0]
        residual = (limb[2:] - fit.T @ limb[:2]).std(axis=1)
    wrong = [lead for lead, bad in zip(LEADS[2:6], residual > allowed, strict=True) if bad]
    if not wrong:
        return []
    message = (
        f"{', '.join(wrong)} {'does' if len(wrong) == 1 else 'do'} not follow from I and "
        "II (I + III = II): check the order of the leads and the limb electrodes and "
        "record again."
    )
    return [_Finding("A_EINTHOVEN", message)]


def _is_rescaled(
    signal: Float[np.ndarray, "lead sample"], step: Float[np.ndarray, " lead"]
) -> bool:
    """Whether all leads have the same range, which no ECG has by itself."""
    ranges = np.ptp(signal, axis=1)
    return bool(np.ptp(ranges) <= 2 * step.max() and ranges.min() > 100 * step.max())


def _judge_arms(
    level: Float[np.ndarray, "lead time"],
    beats: Int[np.ndarray, " beat"],
    rate: float,
    limits: Limits,
) -> list[_Finding]:
    """Compare the average beat of lead I with that of V5 and V6, P wave included."""
    before, after, to_qrs = round(0.28 * rate), round(0.42 * rate), round(0.21 * rate)
    whole = beats[(beats >= before) & (beats + after < level.shape[1])]
    if len(whole) < 2:
        return []
    window = whole[:, np.newaxis] + np.arange(-before, after)
    lead_i = _median(level[0][window], axis=0)
    lateral = _median((level[10] + level[11])[window], axis=0)
    in_beat = _correlation(lead_i, lateral, _median)
    in_p_wave = _correlation(lead_i[:to_qrs], lateral[:to_qrs], np.mean)
    if in_beat >= limits.against_v6 or in_p_wave >= limits.p_against_v6:
        return []
    message = (
        "Lead I runs against V5 and V6, P wave included: check whether the arm electrodes "
        "are swapped (or the heart lies on the right side) and record again."
    )
    return [_Finding("A_LEADREV", message)]


def _correlation(
    first: Float[np.ndarray, " time"],
    second: Float[np.ndarray, " time"],
    centre: Callable[[Float[np.ndarray, " time"]], np.floating],
) -> float:
    """Correlation of two curves about their `centre`; 0 where one is constant."""
    first, second = first - centre(first), second - centre(second)
    size = np.sqrt((first @ first) * (second @ second))
    return float(first @ second / size) if size > 0 else 0.0
