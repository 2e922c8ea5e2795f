"""Noise of a recording and faults of electrodes.

Noise arises at the electrodes, not in the leads: it is drawn for the nine electrodes that
matter (both arms, left leg, V1 to V6) and led through the same differences as the heart's
potential, so that noise obeys Einthoven's law as it does on paper. Faults change a finished
recording; all but the gap could be found in any hospital's archive.
"""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from phenokit.recording import LEADS, Recording

ELECTRODES = ("RA", "LA", "LL", "V1", "V2", "V3", "V4", "V5", "V6")


@dataclass(frozen=True)
class Noise:
    """How much of each noise an electrode picks up (mV, roughly the standard deviation).

    Attributes
    ----------
    wander
        Baseline, below 0.6 Hz: breath and sweat.
    muscle
        White above 10 Hz.
    mains, mains_frequency
        Hum (mV, Hz); left out where the sampling rate cannot hold it.
    motion
        Steps of an electrode that moves, which creep back within a second.
    """

    wander: float = 0.0
    muscle: float = 0.0
    mains: float = 0.0
    motion: float = 0.0
    mains_frequency: float = 50.0


NO_NOISE = Noise()
CLEAN = Noise(wander=0.012, muscle=0.004, mains=0.001)
TYPICAL = Noise(wander=0.045, muscle=0.009, mains=0.004, motion=0.02)
HEAVY = Noise(wander=0.3, muscle=0.28, mains=0.15, motion=0.4)


def draw_noise(rng: np.random.Generator) -> Noise:
    """From a quiet recording to a restless patient."""
    level = float(rng.lognormal(0, 0.55))
    return Noise(
        wander=TYPICAL.wander * level,
        muscle=TYPICAL.muscle * float(rng.lognormal(0, 0.5)),
        mains=TYPICAL.mains * level,
        motion=TYPICAL.motion * level if rng.random() < 0.4 else 0.0,
    )


def electrode_noise(
    noise: Noise, rng: np.random.Generator, *, sampling_rate: float, samples: int
) -> Float[np.ndarray, "8 sample"]:
    """Noise in the eight independent leads (mV)."""
    time = np.arange(samples) / sampling_rate
    total = np.zeros((len(ELECTRODES), samples))
    if noise.wander:
        total += noise.wander * _wander(time, rng)
    if noise.muscle:
        total += noise.muscle * _muscle(samples, sampling_rate, rng)
    if noise.mains and noise.mains_frequency < 0.45 * sampling_rate:
        size = noise.mains * rng.lognormal(0, 0.5, (len(ELECTRODES), 1))
        hum = 2 * np.pi * noise.mains_frequency * time + rng.uniform(0, 2 * np.pi)
        total += size * np.sin(hum)
    if noise.motion:
        total += _motion(noise.motion, time, rng)
    right, left, leg = total[:3]
    centre = (right + left + leg) / 3
    return np.concatenate([[left - right, leg - right], total[3:] - centre])


def _wander(
    time: Float[np.ndarray, " sample"], rng: np.random.Generator
) -> Float[np.ndarray, "electrode sample"]:
    """Breath (common, but of its own size at each electrode) and a drift of each."""
    electrodes = len(ELECTRODES)
    breath = rng.uniform(0.18, 0.33)
    frequencies = np.array([breath, 2 * breath, *rng.uniform(0.03, 0.6, 3)])
    sizes = rng.normal(0, 1, (electrodes, 5)) * np.array([0.8, 0.25, 0.7, 0.4, 0.3])
    phases = rng.uniform(0, 2 * np.pi, 5)
    return sizes @ np.sin(2 * np.pi * frequencies[:, None] * time + phases[:, None])


def _muscle(
    samples: int, sampling_rate: float, rng: np.random.Generator
) -> Float[np.ndarray, "electrode sample"]:
    """White noise without its slow part, stronger at some electrodes and times."""
    white = rng.standard_normal((len(ELECTRODES), samples + 1))
    # The difference of neighbours takes the slow part away; half of it leaves 10 Hz alone.
    signal = white[:, 1:] - 0.6 * white[:, :-1]
    burst = 1 + 0.6 * np.sin(
        2 * np.pi * rng.uniform(0.05, 0.3) * np.arange(samples) / sampling_rate
        + rng.uniform(0, 2 * np.pi)
    )
    return signal * burst * rng.lognormal(0, 0.4, (len(ELECTRODES), 1)) * 0.86


def _motion(
    size: float, time: Float[np.ndarray, " sample"], rng: np.random.Generator
) -> Float[np.ndarray, "electrode sample"]:
    total = np.zeros((len(ELECTRODES), len(time)))
    for _ in range(rng.poisson(1.2)):
        since = time - rng.uniform(0, time[-1] if len(time) else 0.0)
        creep = np.where(since >= 0, np.exp(-np.abs(since) / rng.uniform(0.15, 0.8)), 0.0)
        total[rng.integers(len(ELECTRODES))] += size * rng.normal(0, 3) * creep
    return total


# ---- faults -------------------------------------------------------------------------


def reverse_arms(recording: Recording) -> Recording:
    """The arm electrodes exchanged: I turns over, II and III, aVR and aVL change places."""
    source = {"II": "III", "III": "II", "aVR": "aVL", "aVL": "aVR"}
    signal = np.stack([recording.channel(source.get(name, name)) for name in LEADS])
    signal[0] = -signal[0]
    return replace(recording, signal=signal)


def detach_lead(
    recording: Recording, lead: str, *, begin: float = 0.0, level: float = 0.0
) -> Recording:
    """A chest lead that is flat at `level` (mV) from `begin` (s) on."""
    signal = recording.signal.copy()
    first = int(begin * recording.sampling_rate)
    signal[recording.channels.index(lead), first:] = level
    return replace(recording, signal=signal)


def clip_amplifier(recording: Recording, *, limit: float) -> Recording:
    """Every lead cut off at plus and minus `limit` (mV)."""
    return replace(recording, signal=np.clip(recording.signal, -limit, limit))


def loosen_lead(
    recording: Recording, lead: str, *, rng: np.random.Generator, size: float = 0.8
) -> Recording:
    """A lead whose electrode hardly holds: white noise, standard deviation `size` (mV)."""
    signal = recording.signal.copy()
    signal[recording.channels.index(lead)] += rng.normal(0, size, signal.shape[1])
    return replace(recording, signal=signal)


def cut_gap(recording: Recording, *, begin: float, end: float) -> Recording:
    """No samples (NaN) in any lead from `begin` to `end` (s)."""
    signal = recording.signal.copy()
    first, last = (int(t * recording.sampling_rate) for t in (begin, end))
    signal[:, first:last] = np.nan
    return replace(recording, signal=signal)
