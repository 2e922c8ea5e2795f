"""Simulated 12-lead ECGs whose truth is known: labels, beats and the borders of each wave.

`simulate_ecg` makes one recording: a heart drawn for a person (`heart`), changed by
conditions (`conditions` is the table of them), beating in a rhythm (`rhythm`), recorded
with noise (`noise`).
`simulate_archive` makes the archive that the demonstration model is trained on. The same
generator state gives the same bytes. These are teaching pictures of what a condition looks
like, not a substitute for recordings of patients.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int16

from phenokit.recording import LEADS, Recording, derive_limb_leads
from phenokit.simulation.chambers import keep_within_normal_voltage
from phenokit.simulation.conditions import (
    CONDITIONS,
    Condition,
    contradiction,
    in_order,
)
from phenokit.simulation.heart import (
    VISIBLE,
    Bump,
    Heart,
    Subject,
    decimate,
    draw_subject,
    healthy_heart,
    place,
    superpose,
)
from phenokit.simulation.noise import CLEAN, Noise, draw_noise, electrode_noise
from phenokit.simulation.rhythm import Schedule, atrial_waves, draw_rate, schedule_rhythm

if TYPE_CHECKING:
    import pandas

__all__ = [
    "CONDITIONS",
    "Condition",
    "SimulatedArchive",
    "SimulatedECG",
    "Waves",
    "deal_conditions",
    "simulate_archive",
    "simulate_ecg",
]

_LEAD_IN = 2.2
"""Seconds that are laid out before the first sample, so that its beat is complete."""


@dataclass(frozen=True)
class Waves:
    """Where the waves lie, in seconds from the start of the recording; one entry a QRS.

    Onset and offset are the times at which the outermost bump of a wave has 5 % of its
    height. NaN where a beat has no such wave or the wave lies outside the recording.

    Attributes
    ----------
    kind
        ``"sinus"``, ``"premature ventricular"``, ``"escape"``, ``"paced"`` ...
    p_onset, p_peak, p_offset
        Of the P wave that was conducted to this QRS.
    qrs_onset, r_peak, qrs_offset
        `r_peak` is where the dipole of the QRS is longest.
    t_onset, t_peak, t_offset
        Of the T wave.
    atrial_onset
        Onsets of all P waves, conducted or not.
    spikes
        Pacemaker stimuli.
    """

    kind: tuple[str, ...]
    p_onset: Float[np.ndarray, " beat"]
    p_peak: Float[np.ndarray, " beat"]
    p_offset: Float[np.ndarray, " beat"]
    qrs_onset: Float[np.ndarray, " beat"]
    r_peak: Float[np.ndarray, " beat"]
    qrs_offset: Float[np.ndarray, " beat"]
    t_onset: Float[np.ndarray, " beat"]
    t_peak: Float[np.ndarray, " beat"]
    t_offset: Float[np.ndarray, " beat"]
    atrial_onset: Float[np.ndarray, " wave"]
    spikes: Float[np.ndarray, " spike"]


@dataclass(frozen=True)
class SimulatedECG:
    """A recording and its truth.

    Attributes
    ----------
    recording
        Twelve leads (mV) in steps of a microvolt.
    labels
        SCP codes that hold.
    waves
        Where each beat and wave lies.
    conditions
        Names of the conditions, as asked for.
    """

    recording: Recording
    labels: frozenset[str]
    waves: Waves
    conditions: tuple[str, ...]


def simulate_ecg(
    conditions: str | Sequence[str],
    *,
    rng: np.random.Generator,
    age: float | int = 60,
    sex: str = "female",
    sampling_rate: float | int = 500,
    duration: float | int = 10,
    noise: Noise = CLEAN,
    subject: Subject | None = None,
    record_id: str = "simulated",
) -> SimulatedECG:
    """A 12-lead ECG with these conditions.

    Parameters
    ----------
    conditions
        One or several names of `CONDITIONS`. Without a rhythm among them the rhythm is
        sinus rhythm.
    rng
        Everything random is drawn from it.
    age, sex
        Years, 18 or more; ``"female"`` or ``"male"``. They move the healthy intervals,
        axis and voltages; ignored if `subject` is given.
    sampling_rate, duration
        Hz, and seconds (2 and more). The heart is computed at 500 Hz or more and brought
        down by an anti-alias filter.
    noise
        What the electrodes pick up; `NO_NOISE` for the heart alone.
    subject
        The person, for several recordings of the same one.
    record_id
        Name of the recording.

    Returns
    -------
    SimulatedECG
        Leads III, aVR, aVL and aVF follow from I and II exactly.

    Raises
    ------
    ValueError
        If a condition is not known, or if two of them cannot stand in one recording.

    Examples
    --------
    >>> ecg = simulate_ecg(
    ...     ["atrial_fibrillation", "right_bundle_branch_block"],
    ...     rng=np.random.default_rng(1),
    ... )
    >>> sorted(ecg.labels), ecg.recording.signal.shape
    (['AFIB', 'CRBBB'], (12, 5000))
    """
    age, sampling_rate, duration = float(age), float(sampling_rate), float(duration)
    names = (conditions,) if isinstance(conditions, str) else tuple(conditions)
    _check(names, age=age, sex=sex, duration=duration)
    if subject is None:
        subject = draw_subject(rng, age=age, sex=sex)
    heart = healthy_heart(subject, rng)
    if not _alters_voltage(names):
        keep_within_normal_voltage(heart)
    changed = in_order(names)
    for condition in changed:
        if condition.change is not None:
            condition.change(heart, rng)
    heart.rate = draw_rate(heart, frozenset(names), rng)
    plan = schedule_rhythm(
        heart, frozenset(names), rng, start=-_LEAD_IN, stop=duration + 1.0
    )
    independent, waves = _record(
        heart, plan, rng, sampling_rate=sampling_rate, duration=duration
    )
    samples = independent.shape[1]
    independent = independent + electrode_noise(
        noise, rng, sampling_rate=sampling_rate, samples=samples
    )
    independent = np.round(independent, 3)
    limb = derive_limb_leads(independent[0], independent[1])
    recording = Recording(
        signal=np.concatenate([independent[:2], limb, independent[2:]]),
        channels=LEADS,
        sampling_rate=sampling_rate,
        record_id=record_id,
        resolution=np.full(12, 0.001),
        age=float(subject.age),
        sex=subject.sex,
        source_format="simulation",
    )
    labels = _labels(changed, heart)
    return SimulatedECG(recording, labels, waves, names)


def _check(names: tuple[str, ...], *, age: float, sex: str, duration: float) -> None:
    unknown = [name for name in names if name not in CONDITIONS]
    if unknown or not names:
        known = ", ".join(sorted(CONDITIONS))
        raise ValueError(
            f"unknown condition {unknown[0] if unknown else '()'}; known: {known}"
        )
    reason = contradiction(names)
    if reason is not None:
        raise ValueError(f"{reason}; simulate two recordings instead")
    if sex not in {"female", "male"}:
        raise ValueError(f"sex is 'female' or 'male', not {sex!r}")
    if not 18 <= age <= 110:
        raise ValueError(
            f"the simulated heart is an adult's: age {age} is not in 18 to 110"
        )
    if duration < 2:
        raise ValueError(f"a recording lasts 2 s or more, not {duration} s")


def _alters_voltage(names: tuple[str, ...]) -> bool:
    return any(CONDITIONS[name].slot == "ventricles" for name in names)


def _labels(conditions: Sequence[Condition], heart: Heart) -> frozenset[str]:
    """Union of the conditions' codes; SR where the sinus node leads at a normal rate."""
    codes = {code for condition in conditions for code in condition.codes} | heart.labels
    if not any(condition.slot == "rhythm" for condition in conditions):
        codes.add("SR")
    return frozenset(codes)


# ---- from the schedule to the leads -------------------------------------------------


def _record(
    heart: Heart,
    plan: Schedule,
    rng: np.random.Generator,
    *,
    sampling_rate: float,
    duration: float,
) -> tuple[Float[np.ndarray, "8 sample"], Waves]:
    """The eight independent leads of the heart alone, and where its waves lie."""
    factor = max(1, int(np.ceil(500.0 / sampling_rate - 1e-9)))
    rate = sampling_rate * factor
    samples = round(duration * sampling_rate)
    ventricular, waves = _lay_out(heart, plan)
    dipole = superpose(
        np.concatenate(ventricular), sampling_rate=rate, samples=samples * factor
    )
    time = np.arange(samples * factor) / rate
    dipole = _breathe(dipole, time, rng)
    if plan.atrial_rate is not None:
        dipole += atrial_waves(plan, time, rng)
    if plan.spikes:
        dipole += _spikes(np.array(plan.spikes), samples * factor, rate, rng)
    dipole = decimate(dipole, factor)
    return heart.subject.lead_vectors @ dipole, _inside(waves, duration)


def _lay_out(
    heart: Heart, plan: Schedule
) -> tuple[list[Float[np.ndarray, "bump 7"]], Waves]:
    order = np.argsort(np.array(plan.qrs_onset), kind="stable")
    onset = np.array(plan.qrs_onset)[order]
    names = np.array(plan.complex_name)[order]
    conducted = np.array(plan.conducted_p)[order]
    # QT follows the rate with delay: the last interval counts for a part only.
    rr = np.diff(onset, prepend=onset[0] - float(np.median(np.diff(onset))))
    rr = 0.65 * float(np.median(rr)) + 0.35 * np.clip(rr, 0.25, 2.2)
    rows = []
    columns = {
        key: np.full(len(onset), np.nan)
        for key in ("r_peak", "qrs_offset", "t_onset", "t_peak", "t_offset")
    }
    for name, shape in plan.complexes.items():
        mine = names == name
        if not mine.any():
            continue
        begin, width = onset[mine], np.full(int(mine.sum()), shape.qrs_duration)
        j_point = begin + width
        rest = shape.qt(rr[mine]) - width
        rows += [place(shape.qrs, begin, width), place(shape.repolarisation, j_point, rest)]
        t = shape.repolarisation["t"]
        columns["r_peak"][mine] = begin + width * _peak(list(shape.qrs.values()))
        columns["qrs_offset"][mine] = j_point
        columns["t_onset"][mine] = j_point + rest * max(0.0, t.centre - VISIBLE * t.rise)
        columns["t_peak"][mine] = j_point + rest * t.centre
        columns["t_offset"][mine] = j_point + rest * (t.centre + VISIBLE * t.fall)
    p_onset, p_shape = np.array(plan.p_onset), np.array(plan.p_shape)
    p_peak = np.full(len(onset), np.nan)
    for name, shape in plan.p_shapes.items():
        begin = p_onset[p_shape == name] if len(p_onset) else p_onset
        if not len(begin):
            continue
        rows.append(place(shape, begin, np.full(len(begin), heart.p_duration)))
        mine = np.isin(conducted, begin)
        p_peak[mine] = conducted[mine] + heart.p_duration * _peak(list(shape.values()))
    waves = Waves(
        kind=tuple(plan.kind[i] for i in order),
        p_onset=conducted,
        p_peak=p_peak,
        p_offset=conducted + heart.p_duration,
        qrs_onset=onset,
        atrial_onset=np.sort(p_onset),
        spikes=np.sort(np.array(plan.spikes)),
        **columns,
    )
    return rows, waves


def _peak(bumps: Sequence[Bump]) -> float:
    """Fraction of a wave's duration at which its dipole is longest."""
    time = np.linspace(0, 1, 41)
    height = np.zeros((3, 41))
    for part in bumps:
        u = np.clip(
            np.maximum((part.centre - time) / part.rise, (time - part.centre) / part.fall),
            0,
            1,
        )
        height += part.vector[:, None] * (1 - u * u) ** 3
    return float(time[np.argmax((height**2).sum(0))])


def _inside(waves: Waves, duration: float) -> Waves:
    """Beats whose QRS lies in the recording; other waves beyond its ends become NaN."""
    kept = (waves.qrs_onset >= 0) & (waves.qrs_offset <= duration)
    columns = {}
    for name in ("p", "t"):
        begin, end = (
            getattr(waves, f"{name}_{edge}")[kept] for edge in ("onset", "offset")
        )
        outside = (begin < 0) | (end > duration)
        for edge in ("onset", "peak", "offset"):
            value = getattr(waves, f"{name}_{edge}")[kept].copy()
            value[outside] = np.nan
            columns[f"{name}_{edge}"] = value
    for name in ("qrs_onset", "r_peak", "qrs_offset"):
        columns[name] = getattr(waves, name)[kept]
    for name in ("atrial_onset", "spikes"):
        times = getattr(waves, name)
        columns[name] = times[(times >= 0) & (times < duration)]
    kind = tuple(k for k, keep in zip(waves.kind, kept, strict=True) if keep)
    return replace(waves, kind=kind, **columns)


def _breathe(
    dipole: Float[np.ndarray, "3 time"],
    time: Float[np.ndarray, " time"],
    rng: np.random.Generator,
) -> Float[np.ndarray, "3 time"]:
    """The heart turns and the lungs fill with the breath: height and axis sway a little."""
    breath = np.sin(2 * np.pi * rng.uniform(0.18, 0.32) * time + rng.uniform(0, 2 * np.pi))
    height = 1 + rng.uniform(0.005, 0.05) * breath
    turn = rng.normal(0, 0.03) * breath
    x, y, z = dipole
    return np.stack([(x - turn * y) * height, (y + turn * x) * height, z * height])


def _spikes(
    times: Float[np.ndarray, " spike"],
    samples: int,
    rate: float,
    rng: np.random.Generator,
) -> Float[np.ndarray, "3 time"]:
    """Pacemaker stimuli: 2 ms of constant area, split between the two nearest samples."""
    unipolar = rng.random() < 0.4
    size = rng.uniform(1.8, 3.0) if unipolar else rng.uniform(0.9, 1.6)
    direction = np.array([0.45, 0.75, 0.25]) + rng.normal(0, 0.15, 3)
    train = np.zeros(samples + 2)
    place_in = np.clip(times * rate, -1, samples)
    first = np.floor(place_in).astype(np.intp)
    part = place_in - first
    area = size * 0.002 * rate
    inside = (times >= 0) & (first < samples)
    np.add.at(train, first[inside], area * (1 - part[inside]))
    np.add.at(train, first[inside] + 1, area * part[inside])
    return direction[:, None] / np.linalg.norm(direction) * train[:samples]


# ---- an archive -----------------------------------------------------------------------


@dataclass(frozen=True)
class SimulatedArchive:
    """An archive of simulated recordings.

    Attributes
    ----------
    signals
        Microvolts, shape ``(recording, lead, sample)``, leads in the order of `LEADS`.
    labels
        SCP codes of each recording.
    columns
        ``record_id``, ``patient_id``, ``age``, ``sex``, ``fold`` (1 to 10, by patient) and
        ``condition`` (names joined by ``+``), one array each.
    sampling_rate
        Hz.
    """

    signals: Int16[np.ndarray, "recording lead sample"]
    labels: tuple[frozenset[str], ...]
    columns: dict[str, np.ndarray]
    sampling_rate: float

    @property
    def table(self) -> "pandas.DataFrame":
        """`columns` as a data frame, a row a recording."""
        import pandas as pd

        return pd.DataFrame(self.columns)


def simulate_archive(
    n: int,
    *,
    rng: np.random.Generator,
    sampling_rate: float | int = 100,
    duration: float | int = 10,
    normal_share: float = 0.35,
    combination_share: float = 0.3,
) -> SimulatedArchive:
    """An archive in which every condition has a fair share.

    Of `n` recordings `normal_share` are normal; the rest is dealt out evenly over the other
    conditions, and `combination_share` of those get a second, compatible condition. One
    patient in seven comes twice, with the same heart in the same thorax and perhaps another
    condition. Folds are by patient.

    Parameters
    ----------
    n
        Recordings.
    rng
        Everything random is drawn from it.
    sampling_rate, duration
        Hz and seconds.
    normal_share, combination_share
        Fractions in [0, 1].

    Returns
    -------
    SimulatedArchive
    """
    sampling_rate, duration = float(sampling_rate), float(duration)
    plans = deal_conditions(
        n, rng=rng, normal_share=normal_share, combination_share=combination_share
    )
    samples = round(duration * sampling_rate)
    signals = np.empty((n, len(LEADS), samples), dtype=np.int16)
    columns: dict[str, list] = {
        name: [] for name in ("record_id", "patient_id", "age", "sex", "fold", "condition")
    }
    labels = []
    patient, subject, fold = 0, None, 1
    for number, names in enumerate(plans):
        if subject is None or rng.random() > 1 / 7:
            patient += 1
            subject = _draw_patient(rng)
            fold = 1 + (patient - 1) % 10
        noise = draw_noise(rng)
        ecg = simulate_ecg(
            names,
            rng=rng,
            sampling_rate=sampling_rate,
            duration=duration,
            noise=noise,
            subject=subject,
        )
        signals[number] = np.clip(np.round(ecg.recording.signal * 1000), -32767, 32767)
        labels.append(ecg.labels)
        row = (f"s{number + 1:06d}", f"p{patient:06d}", subject.age, subject.sex, fold)
        for key, value in zip(columns, (*row, "+".join(names)), strict=True):
            columns[key].append(value)
    arrays = {key: np.array(values) for key, values in columns.items()}
    return SimulatedArchive(signals, tuple(labels), arrays, sampling_rate)


def _draw_patient(rng: np.random.Generator) -> Subject:
    age = float(np.round(np.clip(rng.normal(60, 17), 18, 95)))
    return draw_subject(rng, age=age, sex=str(rng.choice(["female", "male"])))


def deal_conditions(
    n: int,
    *,
    rng: np.random.Generator,
    normal_share: float = 0.35,
    combination_share: float = 0.3,
) -> list[tuple[str, ...]]:
    """The conditions of each recording of an archive, in order.

    It is the first that `simulate_archive` draws: the same arguments and state of `rng`
    tell what the recordings of an archive show, without simulating them.
    """
    others = [name for name in CONDITIONS if name != "normal"]
    n_normal = round(n * normal_share)
    dealt: list[tuple[str, ...]] = [("normal",)] * n_normal
    start = int(rng.integers(len(others)))
    for number in range(n - n_normal):
        names = [others[(start + number) % len(others)]]
        if rng.random() < combination_share:
            second = [c for c in others if contradiction([*names, c]) is None]
            if second:
                names.append(str(rng.choice(second)))
        dealt.append(tuple(names))
    return [dealt[i] for i in rng.permutation(n)]
