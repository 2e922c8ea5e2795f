"""A heart as one moving dipole, and the thorax that projects it to the twelve leads.

Each wave of the heartbeat is a bump in time that carries a fixed 3-D dipole, so that a P
wave, a QRS complex or a T wave is a loop of the vectorcardiogram: the sum of a few bumps
whose vectors point to the part of the heart that is (de)polarised. The eight independent
leads are inner products of the dipole with lead vectors.

Axes of the dipole: x to the patient's left, y towards the feet, z towards the back; mV.

Sources, and where this departs from them:

- McSharry, Clifford, Tarassenko & Smith (2003), doi:10.1109/TBME.2003.808805: waves as
  Gaussians in the phase of the beat. Sameni, Clifford, Jutten & Shamsollahi (2007),
  doi:10.1155/2007/43407: the same in three dimensions. Here the waves are laid out in time,
  not integrated from a differential equation, and each bump is ``(1 - u^2)^3`` with compact
  support instead of a Gaussian: a wave has an onset and an offset, and nothing leaks from
  one beat into the next.
- Dower, Machado & Osborne (1980), doi:10.1002/clc.1980.3.2.87: the lead vectors, moved from
  subject to subject as electrodes and hearts are.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from phenokit.recording import LEADS, derive_limb_leads

VISIBLE = 0.8
"""A bump counts as begun or ended at this part of its half-width: 5 % of its height."""

# Lead vectors of I, II, V1 ... V6 (mV of the lead per mV of dipole along x, y, z).
DOWER = np.array(
    [
        [0.632, -0.235, 0.059],
        [0.235, 1.066, -0.132],
        [-0.515, 0.157, -0.917],
        [0.044, 0.164, -1.387],
        [0.882, 0.098, -1.277],
        [1.213, 0.127, -0.601],
        [1.125, 0.127, -0.086],
        [0.831, 0.076, 0.230],
    ]
)


# V2 and V3 lie nearest to the heart and write more than Dower's far dipole says. These
# factors bring the median R, S and T near those of the normal ECGs of PTB-XL.
_LIMB_GAIN = np.array([[1.08], [0.88]])
_CHEST_GAIN = np.array([0.95, 1.5, 1.22, 1.0, 1.0, 1.0])


class Bump(NamedTuple):
    """One smooth pulse of the dipole, in units of the wave that it belongs to.

    Attributes
    ----------
    centre
        Time of its greatest height (begin of the plateau, if it has one), as a fraction.
    rise, fall
        Half-widths before and after the plateau; zero outside.
    vector
        Dipole at its height (mV).
    hold
        Length of the plateau.
    """

    centre: float
    rise: float
    fall: float
    vector: Float[np.ndarray, " 3"]
    hold: float = 0.0

    def scaled(self, factor: float) -> "Bump":
        """The same bump, higher or lower."""
        return self._replace(vector=self.vector * factor)


Wave = dict[str, Bump]
"""The bumps of one wave by the name of what they stand for."""


def bump(
    centre: float, half_width: float, *vector: float, fall: float | None = None
) -> Bump:
    """A bump from its numbers; symmetric unless `fall` is given."""
    return Bump(centre, half_width, fall or half_width, np.array(vector))


@dataclass
class Complex:
    """A ventricular complex, QRS to U: a draft that conditions alter.

    Attributes
    ----------
    qrs
        Bumps with times as fractions of `qrs_duration`.
    qrs_duration
        Seconds.
    repolarisation
        Bumps ``st``, ``st_late``, ``t``, ``t_late`` and ``u``, with times as fractions of
        the interval from the J point to the end of T.
    qtc
        QT interval at a rate of 60 a minute (s).
    """

    qrs: Wave
    qrs_duration: float
    repolarisation: Wave
    qtc: float

    def qt(self, rr: Float[np.ndarray, " beat"]) -> Float[np.ndarray, " beat"]:
        """QT interval (s) after the RR interval `rr` (s), by Fridericia's cube root."""
        return np.maximum(self.qtc * np.cbrt(rr), self.qrs_duration + 0.12)


@dataclass(frozen=True)
class Subject:
    """What stays the same in all recordings of one person.

    Attributes
    ----------
    age, sex
        Years (adults); ``"female"`` or ``"male"``.
    lead_vectors
        Shape ``(8, 3)``, in the order of `INDEPENDENT_LEADS`.
    gain
        Height of all waves relative to the average adult.
    axis
        Frontal QRS axis of this heart when healthy (degrees).
    turn
        Rotation of the heart about the long axis of the body (degrees): early or late
        transition in the chest leads.
    character
        Random signs and sizes, standard normal, that make this person's loops their own.
    qtc, pr, qrs_duration, p_duration
        Healthy intervals (s).
    """

    age: float
    sex: str
    lead_vectors: Float[np.ndarray, "8 3"]
    gain: float
    axis: float
    turn: float
    character: Float[np.ndarray, "wave 3"]
    qtc: float
    pr: float
    qrs_duration: float
    p_duration: float


@dataclass
class Heart:
    """The heart of one recording: a draft that conditions alter one after the other."""

    subject: Subject
    p: Wave
    p_duration: float
    pr: float
    beat: Complex
    rate: float
    labels: set[str] = field(default_factory=set)

    def leads(self, vector: Float[np.ndarray, " 3"]) -> dict[str, float]:
        """What a dipole writes in each of the twelve leads (mV)."""
        return dict(
            zip(LEADS, twelve_lead_vectors(self.subject.lead_vectors) @ vector, strict=True)
        )


def twelve_lead_vectors(
    lead_vectors: Float[np.ndarray, "8 3"],
) -> Float[np.ndarray, "12 3"]:
    """Lead vectors of all twelve leads, the augmented ones derived from I and II."""
    derived = derive_limb_leads(lead_vectors[0], lead_vectors[1])
    return np.concatenate([lead_vectors[:2], derived, lead_vectors[2:]])


def _clipped_normal(
    rng: np.random.Generator, mean: float, sd: float, low: float, high: float
) -> float:
    return float(np.clip(rng.normal(mean, sd), low, high))


def draw_subject(rng: np.random.Generator, *, age: float | int, sex: str) -> Subject:
    """A healthy person of this age and sex.

    With age the axis turns to the left, the conduction slows and the waves become lower;
    women have lower waves, a narrower QRS and a longer QT (Rijnbeek et al. 2014,
    doi:10.1016/j.jelectrocard.2014.07.022; Macfarlane & Lawrie 1989). Adults only.
    """
    female = sex == "female"
    gain = 1.12 - 0.0035 * (age - 40) - (0.12 if female else 0.0)
    qrs_mean = (0.085 if female else 0.092) + 0.00005 * (age - 50)
    qtc_mean = (0.412 if female else 0.402) + 0.00015 * (age - 50)
    return Subject(
        age=float(age),
        sex=sex,
        lead_vectors=_draw_lead_vectors(rng),
        gain=gain * float(np.exp(rng.normal(0, 0.19))),
        axis=_clipped_normal(rng, 50 - 0.55 * (age - 30), 25.0, -24.0, 88.0),
        turn=_clipped_normal(rng, 0.0, 9.0, -20.0, 20.0),
        character=rng.normal(size=(12, 3)),
        qtc=_clipped_normal(rng, qtc_mean, 0.014, 0.365, 0.436),
        pr=_clipped_normal(rng, 0.152 + 0.0003 * (age - 40), 0.018, 0.124, 0.192),
        qrs_duration=_clipped_normal(rng, qrs_mean, 0.007, 0.072, 0.106),
        p_duration=_clipped_normal(rng, 0.098 + 0.0001 * (age - 40), 0.008, 0.078, 0.113),
    )


def _draw_lead_vectors(rng: np.random.Generator) -> Float[np.ndarray, "8 3"]:
    """Dower's lead vectors for a thorax and electrode positions of their own."""
    limb, chest = DOWER[:2], DOWER[2:]
    limb = limb * _LIMB_GAIN * rng.normal(1, 0.06, (2, 1)) + rng.normal(0, 0.03, (2, 3))
    # An electrode put too far left or right sees what lies between two standard places.
    place = np.arange(6) + rng.normal(0, 0.22) + rng.normal(0, 0.10, 6)
    beyond = np.clip(place, 0, 5)
    chest = np.stack(
        [np.interp(beyond, np.arange(6), chest[:, axis]) for axis in range(3)], 1
    )
    return np.concatenate([limb, chest * rng.normal(_CHEST_GAIN, 0.12)[:, None]])


def healthy_heart(subject: Subject, rng: np.random.Generator) -> Heart:
    """A normal heart of this person in sinus rhythm, as it beats on one day."""
    own = subject.character
    gain = subject.gain
    beat = Complex(
        qrs={
            # Septum, left to right and forward; then the apex, the free wall of the left
            # ventricle, and last the base of both ventricles, upwards and back.
            "septum": bump(0.18, 0.23, -0.14, -0.02, -0.20),
            "apex": bump(0.43, 0.31, 0.92, 0.72, 0.02, fall=0.26),
            "free_wall": bump(0.58, 0.26, 0.50, 0.38, 0.58),
            "base": bump(0.80, 0.23, -0.16, -0.18, 0.26),
        },
        qrs_duration=float(
            np.clip(subject.qrs_duration + rng.normal(0, 0.002), 0.07, 0.108)
        ),
        repolarisation={
            "st": plateau(np.zeros(3)),
            "t": t_wave(np.array([0.20, 0.13, -0.12])),
        },
        qtc=float(np.clip(subject.qtc + rng.normal(0, 0.004), 0.36, 0.44)),
    )
    for row, (name, part) in enumerate(beat.qrs.items()):
        spread = 0.18 * np.abs(part.vector).max() + 0.02
        vector = part.vector * (1 + 0.12 * own[row, 0]) + spread * 0.6 * own[4 + row]
        beat.qrs[name] = part._replace(
            vector=gain * vector, centre=part.centre + 0.015 * own[row, 1]
        )
    turn_heart(beat.qrs, about=1, degrees=subject.turn)
    set_axis(beat, subject.lead_vectors, subject.axis)
    # The T loop is wider in the young and in men, and follows the QRS axis part of the way.
    t = beat.repolarisation["t"]
    size = 1.2 - 0.005 * (subject.age - 40) - (0.15 if subject.sex == "female" else 0.0)
    vector = t.vector * size * np.exp(0.16 * own[8, 0]) + 0.028 * own[9]
    beat.repolarisation["t"] = t._replace(vector=vector * np.sqrt(gain))
    turn_heart(beat.repolarisation, about=2, degrees=0.35 * (subject.axis - 50))
    # Early repolarisation: a raised J point in the chest leads, most in young men.
    j_height = max(0.0, 0.045 - 0.0006 * (subject.age - 20)) * (subject.sex == "male")
    j_height = j_height * abs(own[10, 0]) + 0.008 * own[10, 1]
    beat.repolarisation["st"] = plateau(j_height * np.array([0.45, 0.2, -0.6]))
    if own[11, 0] > 0:
        beat.repolarisation["u"] = bump(1.16, 0.17, *(0.08 * t.vector * own[11, 0]))
    p_size = np.exp(0.2 * own[11, 1]) * (0.9 + 0.1 * gain)
    p = {
        "right": bump(0.36, 0.44, *(p_size * np.array([0.015, 0.080, -0.040]))),
        "left": bump(0.63, 0.46, *(p_size * np.array([0.070, 0.050, 0.028]))),
    }
    return Heart(
        subject=subject,
        p=p,
        p_duration=subject.p_duration + rng.normal(0, 0.002),
        pr=float(np.clip(subject.pr + rng.normal(0, 0.003), 0.122, 0.195)),
        beat=beat,
        rate=_clipped_normal(
            rng, 73.0 if subject.sex == "female" else 70.0, 9.0, 61.0, 98.0
        ),
    )


def plateau(vector: Float[np.ndarray, " 3"]) -> Bump:
    """An ST segment shifted from the baseline, level for the first fifth after J."""
    return Bump(0.0, 0.10, 0.62, vector, hold=0.22)


def t_wave(
    vector: Float[np.ndarray, " 3"],
    *,
    onset: float = 0.24,
    peak: float = 0.68,
    offset: float = 1.0,
) -> Bump:
    """A T wave, by default with the slow rise and the quicker fall of the healthy."""
    return Bump(peak, (peak - onset) / VISIBLE, (offset - peak) / VISIBLE, vector)


def turn_heart(wave: Wave, *, about: int, degrees: float) -> None:
    """Rotate the vectors of a wave about axis 0, 1 or 2 (x, y, z), in place.

    About z, more degrees turn a vector from the left towards the feet; about y, from the
    left towards the front.
    """
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    rotation = {
        0: np.array([[1, 0, 0], [0, c, -s], [0, s, c]]),
        1: np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]]),
        2: np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]),
    }[about]
    for name, part in wave.items():
        wave[name] = part._replace(vector=rotation @ part.vector)


def frontal_axis(wave: Wave, lead_vectors: Float[np.ndarray, "8 3"]) -> float:
    """Axis (degrees) of the net area of a wave in I and aVF."""
    area = sum((b.rise + b.fall) * b.vector for b in wave.values())
    lead_i, lead_ii = lead_vectors[:2] @ area
    # aVF is the shorter lead of the hexaxial system by 2 / sqrt(3).
    return float(np.degrees(np.arctan2((lead_ii - lead_i / 2) * 2 / np.sqrt(3), lead_i)))


def set_axis(beat: Complex, lead_vectors: Float[np.ndarray, "8 3"], degrees: float) -> None:
    """Turn the QRS about z until its frontal axis is `degrees`, in place.

    A few steps are needed because I and aVF are not at right angles for Dower's vectors.
    """
    for _ in range(6):
        off = (degrees - frontal_axis(beat.qrs, lead_vectors) + 180) % 360 - 180
        if abs(off) < 0.5:
            break
        turn_heart(beat.qrs, about=2, degrees=off)


def qrs_in_leads(
    beat: Complex, lead_vectors: Float[np.ndarray, "8 3"]
) -> Float[np.ndarray, "lead time"]:
    """The QRS in the twelve leads (mV), at 61 times from 0 to 1 of its duration."""
    rows = place(beat.qrs, np.zeros(1), np.ones(1))
    return twelve_lead_vectors(lead_vectors) @ superpose(
        rows, sampling_rate=60.0, samples=61
    )


def scale_qrs(heart: Heart, factor: float) -> None:
    """Make the whole QRS higher or lower."""
    heart.beat.qrs = {name: part.scaled(factor) for name, part in heart.beat.qrs.items()}


def sokolow_lyon(qrs: Float[np.ndarray, "12 time"]) -> float:
    """S in V1 plus the larger R of V5 and V6 (mV)."""
    return float(max(-qrs[6].min(), 0.0) + max(qrs[10].max(), qrs[11].max()))


def place(
    wave: Wave, origin: Float[np.ndarray, " beat"], scale: Float[np.ndarray, " beat"]
) -> Float[np.ndarray, "bump 7"]:
    """Lay a wave out in time: one row a bump and beat.

    Parameters
    ----------
    wave
        Bumps with times as fractions.
    origin, scale
        Time (s) of fraction 0, and the seconds of one fraction; one a beat.

    Returns
    -------
    np.ndarray
        Columns: begin and end of the plateau, rise and fall (s), and the vector (mV).
    """
    parts = [
        [b.centre, b.centre + b.hold, b.rise, b.fall, *b.vector.tolist()]
        for b in wave.values()
    ]
    rows = np.broadcast_to(np.array(parts).reshape(1, -1, 7), (len(origin), len(parts), 7))
    rows = rows.copy()
    rows[:, :, :4] *= scale[:, None, None]
    rows[:, :, :2] += origin[:, None, None]
    return rows.reshape(-1, 7)


def superpose(
    rows: Float[np.ndarray, "bump 7"], *, sampling_rate: float, samples: int
) -> Float[np.ndarray, "3 time"]:
    """The dipole over time: the sum of all bumps (mV), time 0 at the first sample."""
    dipole = np.zeros((3, samples))
    support = rows[:, 1] - rows[:, 0] + rows[:, 2] + rows[:, 3]
    # Short and long bumps apart: each group is one table of windows of equal length.
    for group in (support <= 0.12, support > 0.12):
        if not group.any():
            continue
        begin, end, rise, fall = (column[:, None] for column in rows[group, :4].T)
        first = np.ceil((begin - rise) * sampling_rate).astype(np.intp)
        index = first + np.arange(int(support[group].max() * sampling_rate) + 2)
        time = index / sampling_rate
        u = np.maximum((begin - time) / rise, (time - end) / fall)
        u = np.clip(u, 0.0, 1.0)
        height = (1 - u * u) ** 3
        inside = (index >= 0) & (index < samples)
        height *= inside
        index = np.where(inside, index, 0).ravel()
        for axis, vector in enumerate(rows[group, 4:].T):
            weights = (height * vector[:, None]).ravel()
            dipole[axis] += np.bincount(index, weights, minlength=samples)
    return dipole


def decimate(
    signal: Float[np.ndarray, "channel time"], factor: int
) -> Float[np.ndarray, "channel sample"]:
    """Every `factor`-th sample after a linear-phase low-pass at 0.45 of the new rate."""
    if factor == 1:
        return signal
    half = 8 * factor
    lag = np.arange(-half, half + 1)
    taps = np.sinc(0.9 * lag / factor) * np.hamming(2 * half + 1)
    taps /= taps.sum()
    padded = np.pad(signal, ((0, 0), (half, half)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, len(taps), axis=1)
    return windows[:, ::factor] @ taps


def lead_rows(leads: Sequence[str]) -> Int[np.ndarray, " lead"]:
    """Positions of leads among the twelve."""
    return np.array([LEADS.index(lead) for lead in leads], dtype=np.intp)
