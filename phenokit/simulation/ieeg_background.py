"""What depth electrodes record all the time, and what disturbs them now and then.

The background is noise with a spectrum of about 1 / f^2 between the corners of the
amplifier, alike in neighbouring contacts, with a rhythm, a reference that all contacts
share, and mains. On top come interictal spikes, short or in runs, and artefacts: muscle,
movement, electrodes that pop, and rhythmic slowing, which looks most like a seizure.

Noise is made in tiles of a fixed length, each from its own seed: whoever asks for a piece
of a recording gets the same samples, whatever the piece.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Complex64, Float, Float32, Int

from phenokit.simulation.electrodes import Electrodes

TILE = 16
"""Seconds; tiles begin at multiples of it."""

AMPLIFIER = (0.5, 120.0)
"""Band of the amplifier (Hz)."""


@dataclass(frozen=True)
class Background:
    """How the background of one patient is made.

    Attributes
    ----------
    amplitude
        Standard deviation of each channel (µV).
    exponent
        Of the spectrum: power falls as f to minus this.
    rhythm, rhythm_share
        Frequency of a rhythm (Hz), and its share of the power there.
    reference_share
        How much of every channel is the noise of the common reference.
    mains
        Amplitude of 50 Hz and of its third harmonic in each channel (µV).
    reach
        Distance (mm) over which neighbours are alike.
    """

    amplitude: Float[np.ndarray, " channel"]
    exponent: float
    rhythm: float
    rhythm_share: float
    reference_share: float
    mains: Float[np.ndarray, "2 channel"]
    reach: float


def draw_background(rng: np.random.Generator, electrodes: Electrodes) -> Background:
    """A patient's background, 20 to 120 µV."""
    n = len(electrodes.names)
    amplitude = np.clip(rng.uniform(30, 55) * rng.lognormal(0, 0.35, n), 20, 120)
    mains = np.stack([rng.lognormal(0.6, 0.7, n), rng.lognormal(-0.7, 0.5, n)])
    return Background(
        amplitude,
        exponent=rng.uniform(1.7, 2.3),
        rhythm=rng.uniform(6, 11),
        rhythm_share=rng.uniform(0.2, 1.5),
        reference_share=rng.uniform(0.1, 0.3),
        mains=mains,
        reach=rng.uniform(4, 8),
    )


class BackgroundNoise:
    """Tiles of the background of one recording.

    Parameters
    ----------
    background, electrodes
        Of the patient.
    sampling_rate
        Hz.
    seed
        Of this recording.
    """

    def __init__(
        self,
        background: Background,
        electrodes: Electrodes,
        *,
        sampling_rate: int,
        seed: int,
    ) -> None:
        self.background = background
        self.sampling_rate = sampling_rate
        self.n_samples = TILE * sampling_rate
        self.seed = seed
        alike = np.exp(-electrodes.distance / background.reach)
        alike /= np.linalg.norm(alike, axis=1, keepdims=True)
        share = background.reference_share
        mix = np.concatenate(
            [np.sqrt(1 - share) * alike, np.full((len(alike), 1), np.sqrt(share))], axis=1
        )
        self.mix = (background.amplitude[:, None] * mix).astype(np.float32)
        self.white: dict[int, np.ndarray] = {}

    @cached_property
    def response(self) -> Complex64[np.ndarray, " frequency"]:
        """Frequency response of the colouring filter, for two tiles, unit variance."""
        frequency = np.fft.rfftfreq(self.n_samples, 1 / self.sampling_rate)
        low, high = AMPLIFIER
        floor = np.maximum(frequency, 0.05)
        power = floor**-self.background.exponent
        peak = np.exp(-(((frequency - self.background.rhythm) / 1.2) ** 2) / 2)
        power *= 1 + 10 * self.background.rhythm_share * peak
        power += 1e-5 * power[np.searchsorted(frequency, 1.0)]  # of the amplifier itself
        power *= 1 / (1 + (low / floor) ** 8) / (1 + (frequency / high) ** 8)
        kernel = np.fft.fftshift(np.fft.irfft(np.sqrt(power), self.n_samples))
        kernel *= np.hanning(self.n_samples)
        kernel /= np.linalg.norm(kernel)
        return np.fft.rfft(kernel, 2 * self.n_samples).astype(np.complex64)

    def tile(self, number: int) -> Float32[np.ndarray, "channel sample"]:
        """Noise of one tile (µV)."""
        from scipy.fft import irfft, rfft

        # A tile hears the white noise of the one before: nothing shows where they meet.
        white = np.concatenate([self._white(number - 1), self._white(number)], axis=1)
        self.white = {number: self.white[number]}
        coloured = irfft(rfft(white, axis=1) * self.response, axis=1)
        noise = self.mix @ np.asarray(coloured)[:, self.n_samples :]
        sample = np.arange(number * self.n_samples, (number + 1) * self.n_samples)
        for harmonic, amplitude in zip((1, 3), self.background.mains, strict=True):
            cycles = 50 * harmonic * (sample % self.sampling_rate) / self.sampling_rate
            wave = np.sin(2 * np.pi * cycles).astype(np.float32)
            noise += amplitude.astype(np.float32)[:, None] * wave
        return noise

    def _white(self, number: int) -> Float32[np.ndarray, "source sample"]:
        if number not in self.white:
            rng = np.random.default_rng([self.seed, number + 1])
            shape = (self.mix.shape[1], self.n_samples)
            self.white[number] = rng.standard_normal(shape, dtype=np.float32)
        return self.white[number]


# ---- spikes and artefacts --------------------------------------------------------------


@dataclass(frozen=True)
class Burst:
    """A waveform that some channels show.

    Attributes
    ----------
    kind
        ``"spike"``, ``"spike run"``, ``"muscle"``, ``"movement"``, ``"pop"`` or
        ``"rhythmic slowing"``.
    first
        Its first sample.
    waveform
        Of height about 1.
    weight
        Its size in each channel (µV).
    """

    kind: str
    first: int
    waveform: Float32[np.ndarray, " sample"]
    weight: Float32[np.ndarray, " channel"]

    @property
    def stop(self) -> int:
        """The sample after its last."""
        return self.first + len(self.waveform)


RATES: dict[str, tuple[float, float]] = {
    "spike": (40.0, 400.0),
    "spike run": (1.0, 8.0),
    "muscle": (2.0, 10.0),
    "movement": (1.0, 6.0),
    "pop": (2.0, 10.0),
    "rhythmic slowing": (0.5, 4.0),
}
"""Bursts an hour, from the calmest patient to the most restless."""


def draw_bursts(
    rng: np.random.Generator,
    electrodes: Electrodes,
    *,
    amplitude: Float[np.ndarray, " channel"],
    foci: Int[np.ndarray, " focus"],
    n_samples: int,
    sampling_rate: int,
) -> list[Burst]:
    """Spikes and artefacts of one recording, in order of time.

    Parameters
    ----------
    rng
        Everything random is drawn from it.
    electrodes, amplitude
        Of the patient; amplitude of the background (µV).
    foci
        Contacts where spikes arise.
    n_samples, sampling_rate
        Length of the recording, and Hz.
    """
    hours = n_samples / sampling_rate / 3600
    bursts = []
    for kind, (low, high) in RATES.items():
        rate = float(np.exp(rng.uniform(np.log(low), np.log(high))))
        for _ in range(rng.poisson(rate * hours)):
            centre = rng.choice(foci) if "spike" in kind else rng.integers(len(amplitude))
            reach = _REACH[kind]
            spread = np.exp(-electrodes.distance[centre] / (reach * rng.lognormal(0, 0.3)))
            if kind == "pop":
                spread = (electrodes.distance[centre] == 0).astype(float)
            size = amplitude * spread * _SIZE[kind] * rng.lognormal(0, 0.35)
            size *= rng.choice([-1, 1])
            first = int(rng.integers(n_samples))
            wave = _WAVE[kind](rng, sampling_rate)[: n_samples - first]
            bursts.append(
                Burst(kind, first, wave.astype(np.float32), size.astype(np.float32))
            )
    return sorted(bursts, key=lambda burst: burst.first)


def _spike(rng: np.random.Generator, rate: int) -> np.ndarray:
    """A sharp wave of some 60 ms and the slow wave after it."""
    time = np.arange(int(0.5 * rate)) / rate
    width = rng.uniform(0.012, 0.022)
    sharp = np.exp(-(((time - 0.08) / width) ** 2) / 2)
    slow = np.exp(-(((time - 0.25) / 0.07) ** 2) / 2)
    return sharp - rng.uniform(0.2, 0.5) * slow


def _spike_run(rng: np.random.Generator, rate: int) -> np.ndarray:
    """Spikes twice to five times a second, for 2 to 12 s."""
    wave = np.zeros(int(rng.uniform(2, 12) * rate) + rate)
    interval = rate / rng.uniform(2, 5)
    shape, at = _spike(rng, rate), 0.0
    while at < len(wave) - rate:
        wave[int(at) : int(at) + len(shape)] += rng.lognormal(0, 0.2) * shape
        at += interval * rng.lognormal(0, 0.1)
    return wave


def _muscle(rng: np.random.Generator, rate: int) -> np.ndarray:
    """Chewing or tension: noise above 20 Hz, 2 to 25 s."""
    from scipy.signal import butter, sosfilt

    n = int(rng.uniform(2, 25) * rate)
    noise = sosfilt(
        butter(2, [20, 110], "bandpass", fs=rate, output="sos"), rng.normal(size=n)
    )
    time = np.arange(n) / rate
    chewing = 0.6 + 0.4 * np.sin(2 * np.pi * rng.uniform(0.7, 2) * time)
    return np.asarray(noise) / 0.6 * chewing * _swell(n)


def _movement(rng: np.random.Generator, rate: int) -> np.ndarray:
    """Slow swings for 2 to 12 s."""
    n = int(rng.uniform(2, 12) * rate)
    time = np.arange(n) / rate
    phase = rng.uniform(0, 2 * np.pi, 4)
    frequency = rng.uniform(0.5, 3, 4)
    return np.sin(2 * np.pi * frequency[:, None] * time + phase[:, None]).mean(0) * _swell(
        n
    )


def _pop(rng: np.random.Generator, rate: int) -> np.ndarray:
    """An electrode loses contact: a step that creeps back."""
    time = np.arange(3 * rate) / rate
    return np.exp(-time / rng.uniform(0.1, 0.8))


def _slowing(rng: np.random.Generator, rate: int) -> np.ndarray:
    """Rhythmic sharp waves of 2 to 7 Hz for 10 to 45 s, which do not spread."""
    n = int(rng.uniform(10, 45) * rate)
    time = np.arange(n) / rate
    wander = np.cumsum(rng.normal(0, 0.3, n)) / np.sqrt(rate)
    turn = 2 * np.pi * rng.uniform(2, 7) * time + wander
    return (np.sin(turn) + 0.4 * np.sin(2 * turn + rng.uniform(0, 6))) * _swell(n)


def _swell(n: int) -> np.ndarray:
    """Rises over a fifth and falls over a fifth."""
    place = np.arange(n) / n
    return np.sin(np.pi / 2 * np.clip(np.minimum(place, 1 - place) * 5, 0, 1)) ** 2


_WAVE = {
    "spike": _spike,
    "spike run": _spike_run,
    "muscle": _muscle,
    "movement": _movement,
    "pop": _pop,
    "rhythmic slowing": _slowing,
}
_SIZE = {
    "spike": 3.5, "spike run": 2.5, "muscle": 0.22, "movement": 4.0, "pop": 6.0,
    "rhythmic slowing": 1.6,
}  # fmt: skip
_REACH = {
    "spike": 7.0, "spike run": 9.0, "muscle": 15.0, "movement": 40.0, "pop": 1.0,
    "rhythmic slowing": 14.0,
}  # fmt: skip
