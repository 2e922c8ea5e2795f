"""Simulated intracranial EEG whose truth is known: when seizures begin and where they go.

`draw_patient` draws somebody with depth electrodes, an onset zone and a background;
`simulate_ieeg` plans one recording of that patient, of any length, and runs the Epileptor
network for its seizures (`phenokit.simulation.epileptor`). The signal is made when it is
asked for, as a stream of blocks: a day of 100 channels is 18 GB and never in memory whole.
The samples do not depend on the size of the blocks.

It is a test object: scores on it say that a detector works as designed, not that it
recognises the seizures of patients.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from jaxtyping import Float, Float32, Int

from phenokit.recording import Event, Recording
from phenokit.simulation.electrodes import Electrodes, draw_electrodes
from phenokit.simulation.epileptor import (
    REST,
    SEIZING,
    TAU,
    Ramps,
    ictal_spans,
    run_epileptors,
)
from phenokit.simulation.ieeg_background import (
    Background,
    BackgroundNoise,
    Burst,
    draw_background,
    draw_bursts,
)

MODEL_RATE = 128
"""Samples a second at which the network is run; sampling rates are multiples of it."""

LONGEST_ICTAL_SHARE = 0.02
"""Of the time of a recording that is in seizure, unless seizures are asked for."""

CALM_BEFORE = 150.0
"""Seconds without a seizure at the start, and from the end of one to the next."""


@dataclass(frozen=True)
class SimulatedPatient:
    """Somebody with depth electrodes.

    Attributes
    ----------
    patient_id
        Of the recordings.
    electrodes, background
        Contacts, and what they always record.
    onset_zone
        Positions of the contacts where seizures begin.
    foci
        Positions of the contacts where interictal spikes arise.
    excitability
        x0 of the tissue at each contact between seizures.
    coupling
        How much the tissue at one contact pulls at that of another.
    view
        What each contact sees of the tissue at all contacts.
    gain
        Size of a seizure in each contact (µV per unit of the model).
    units_per_second, slowness
        Model time in a second; factor of the time constant of the slow variable.
    bad_channels
        Position and fault (``"flat"``, ``"mains"``, ``"clipped"``, ``"loose"``).
    """

    patient_id: str
    electrodes: Electrodes
    background: Background
    onset_zone: Int[np.ndarray, " zone"]
    foci: Int[np.ndarray, " focus"]
    excitability: Float[np.ndarray, " channel"]
    coupling: Float[np.ndarray, "channel channel"]
    view: Float[np.ndarray, "channel channel"]
    gain: Float[np.ndarray, " channel"]
    units_per_second: float
    slowness: float
    bad_channels: Mapping[int, str]


def draw_patient(
    rng: np.random.Generator, *, n_channels: int, patient_id: str = "simulated"
) -> SimulatedPatient:
    """A patient with 8 to 128 channels.

    Raises
    ------
    ValueError
        For another number of channels.

    Examples
    --------
    >>> patient = draw_patient(np.random.default_rng(1), n_channels=22)
    >>> [patient.electrodes.names[k] for k in patient.onset_zone]
    ['LH4', 'LH5', 'LH6', 'LH7']
    """
    electrodes = draw_electrodes(rng, n_channels=n_channels)
    background = draw_background(rng, electrodes)
    distance = electrodes.distance
    shaft = electrodes.shaft == electrodes.shaft[rng.integers(n_channels)]
    on_shaft = np.flatnonzero(shaft)
    size = int(rng.integers(2, 6))
    first = int(rng.integers(max(1, len(on_shaft) - size + 1)))
    onset_zone = on_shaft[first : first + size]
    foci = np.unique(
        np.concatenate([onset_zone[:1], rng.integers(n_channels, size=rng.integers(1, 4))])
    )
    # Nearer tissue is easier to recruit; some of it never is.
    from_onset = distance[onset_zone].min(axis=0)
    excitability = -2.09 - rng.exponential(0.035, n_channels)
    excitability -= 0.4 * (from_onset > rng.uniform(20, 80))
    excitability[onset_zone] = REST
    coupling = np.exp(-distance / rng.uniform(6, 10))
    # Beside its neighbours, tissue hears from one or two contacts' tissue further away.
    coupling += rng.uniform(0.4, 1.2) * (rng.random(coupling.shape) < 1.5 / n_channels)
    np.fill_diagonal(coupling, 0.0)
    coupling *= 2.5 / coupling.sum(axis=1, keepdims=True)
    view = np.exp(-distance / rng.uniform(2, 4))
    view /= np.linalg.norm(view, axis=1, keepdims=True)
    gain = background.amplitude * rng.uniform(1.4, 3.2) * rng.lognormal(0, 0.25, n_channels)
    others = np.setdiff1d(np.arange(n_channels), onset_zone)
    n_bad = rng.binomial(len(others), rng.uniform(0, 0.08))
    bad = rng.choice(others, size=n_bad, replace=False)
    faults = rng.choice(["flat", "mains", "clipped", "loose"], size=n_bad)
    return SimulatedPatient(
        patient_id,
        electrodes,
        background,
        onset_zone,
        foci,
        excitability,
        coupling,
        view,
        gain,
        units_per_second=rng.uniform(50, 80),
        slowness=rng.uniform(2.8, 4.8),
        bad_channels={
            int(k): str(f) for k, f in sorted(zip(bad.tolist(), faults, strict=True))
        },
    )


@dataclass(frozen=True)
class Truth:
    """What happens in a simulated recording.

    Attributes
    ----------
    seizures
        From the first contact that is recruited to the last that comes to rest; their
        channels are those recruited, the earliest first.
    recruitment
        Seconds from the recording's start at which a seizure reaches each contact; NaN
        where it does not.
    onset_zone, bad_channels
        Names of contacts; of a bad one also its fault.
    gaps
        Begin and end (s) of what was not recorded.
    bursts
        Interictal spikes and artefacts: kind, begin and end, and the channel that shows
        them most.
    """

    seizures: tuple[Event, ...]
    recruitment: Float[np.ndarray, "seizure channel"]
    onset_zone: tuple[str, ...]
    bad_channels: Mapping[str, str]
    gaps: tuple[tuple[float, float], ...]
    bursts: tuple[Event, ...]


@dataclass(frozen=True)
class _Episode:
    """The network's signal around one seizure, at `MODEL_RATE`, at rest at both ends."""

    first: int
    """Its first sample in the recording (of the recording's rate)."""
    signal: Float32[np.ndarray, "node sample"]


@dataclass(frozen=True)
class SimulatedIEEG:
    """One recording, made piece by piece when it is read.

    Attributes
    ----------
    patient
        Whose it is.
    sampling_rate
        Hz.
    n_samples
        In each channel.
    truth
        What happens in it.
    """

    patient: SimulatedPatient
    sampling_rate: int
    n_samples: int
    truth: Truth
    _episodes: tuple[_Episode, ...] = field(repr=False)
    _bursts: tuple[Burst, ...] = field(repr=False)
    _vigilance: Float[np.ndarray, " knot"] = field(repr=False)
    _seed: int = field(repr=False)

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the contacts."""
        return self.patient.electrodes.names

    @property
    def record_id(self) -> str:
        """That of the patient."""
        return self.patient.patient_id

    @property
    def unit(self) -> str:
        """Microvolts."""
        return "uV"

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.n_samples / self.sampling_rate

    def samples(self, first: int, stop: int) -> Float32[np.ndarray, "channel sample"]:
        """Samples `first` to before `stop` (µV); NaN in a gap."""
        if not 0 <= first <= stop <= self.n_samples:
            raise ValueError(
                f"samples {first} to {stop} of a recording of {self.n_samples}"
            )
        return self._tiles.samples(first, stop)

    @cached_property
    def _tiles(self) -> "_Tiles":
        """The last tile made; who reads on from there does not make it again."""
        return _Tiles(self)

    def blocks(
        self, n_samples: int, *, first: int = 0, stop: int | None = None
    ) -> Iterator[Float32[np.ndarray, "channel sample"]]:
        """The signal (µV) in blocks of `n_samples`; the last may be shorter.

        Parameters
        ----------
        n_samples
            Of a block. It does not change the signal.
        first, stop
            Samples to begin with and to end before; by default the whole recording.

        Yields
        ------
        np.ndarray
            float32, shape ``(channel, sample)``; NaN in a gap.
        """
        stop = self.n_samples if stop is None else stop
        for begin in range(first, stop, n_samples):
            yield self.samples(begin, min(begin + n_samples, stop))

    def read(self, begin: float | int, end: float | int) -> Recording:
        """A stretch of the recording, between two times in seconds."""
        first, stop = (round(t * self.sampling_rate) for t in (begin, end))
        return Recording(
            signal=self.samples(first, stop).astype(np.float64),
            channels=self.channels,
            sampling_rate=float(self.sampling_rate),
            record_id=self.patient.patient_id,
            unit="uV",
            patient_id=self.patient.patient_id,
            source_format="simulation",
        )


def simulate_ieeg(
    patient: SimulatedPatient,
    *,
    rng: np.random.Generator,
    duration: float | int,
    n_seizures: int | None = None,
    n_gaps: int = 1,
    sampling_rate: int = 512,
) -> SimulatedIEEG:
    """Plan one recording and run the network for its seizures.

    Parameters
    ----------
    patient
        Whose recording it is.
    rng
        Everything random is drawn from it.
    duration
        Seconds, 60 and more.
    n_seizures
        Placed at random times, at least `CALM_BEFORE` after the start and after one
        another; fewer if they do not fit. By default as many as fit in 2 % of the time,
        which is none in a recording of some minutes.
    n_gaps
        Stretches of 20 to 90 s that were not recorded, never in a seizure.
    sampling_rate
        Hz: 512, or another multiple of it.

    Raises
    ------
    ValueError
        If the recording is too short, or the sampling rate is another.

    Examples
    --------
    >>> patient = draw_patient(np.random.default_rng(1), n_channels=8)
    >>> ieeg = simulate_ieeg(
    ...     patient, rng=np.random.default_rng(2), duration=60, n_seizures=0, n_gaps=0
    ... )
    >>> [block.shape for block in ieeg.blocks(20_000)]
    [(8, 20000), (8, 10720)]
    """
    if duration < 60:
        raise ValueError(f"a recording lasts 60 s or more, not {duration} s")
    if sampling_rate < 512 or sampling_rate % 512:
        raise ValueError(f"the sampling rate is a multiple of 512 Hz, not {sampling_rate}")
    n_samples = round(duration * sampling_rate)
    seed = int(rng.integers(2**62))
    knots = 2 + int(duration // 60)
    vigilance = np.exp(0.15 * np.cumsum(rng.normal(0, 0.4, knots)))
    vigilance = np.clip(vigilance, 0.6, 1.6)
    episodes, seizures, recruitment = _seizures(
        patient,
        rng,
        n_samples=n_samples,
        sampling_rate=sampling_rate,
        n_seizures=n_seizures,
    )
    gaps = _gaps(rng, seizures, duration=float(duration), n_gaps=n_gaps)
    bursts = draw_bursts(
        rng,
        patient.electrodes,
        amplitude=patient.background.amplitude,
        foci=patient.foci,
        n_samples=n_samples,
        sampling_rate=sampling_rate,
    )
    names = patient.electrodes.names
    truth = Truth(
        tuple(seizures),
        recruitment,
        tuple(names[k] for k in patient.onset_zone),
        {names[k]: fault for k, fault in patient.bad_channels.items()},
        gaps,
        tuple(
            Event(
                burst.kind,
                burst.first / sampling_rate,
                burst.stop / sampling_rate,
                channels=(names[int(np.abs(burst.weight).argmax())],),
            )
            for burst in bursts
        ),
    )
    return SimulatedIEEG(
        patient, sampling_rate, n_samples, truth, tuple(episodes), tuple(bursts),
        vigilance, seed,
    )  # fmt: skip


def _seizures(
    patient: SimulatedPatient,
    rng: np.random.Generator,
    *,
    n_samples: int,
    sampling_rate: int,
    n_seizures: int | None,
) -> tuple[list[_Episode], list[Event], Float[np.ndarray, "seizure channel"]]:
    """Episodes, events and recruitment times of the seizures that fit."""
    duration = n_samples / sampling_rate
    share = LONGEST_ICTAL_SHARE if n_seizures is None else 1.0
    # 30 s is a short seizure: no more than this many can fit in the share.
    n_run = int(share * duration / 30) if n_seizures is None else n_seizures
    none = np.empty((0, len(patient.excitability)))
    if n_run == 0:
        return [], [], none
    signal, spans = _run_network(patient, rng, n_run)
    names = patient.electrodes.names
    free = [(CALM_BEFORE, duration)]
    episodes, seizures, recruitment, ictal = [], [], [], 0.0
    for one, span in zip(signal, spans / MODEL_RATE, strict=True):
        if np.isnan(span).all():
            continue
        begin, end = float(np.nanmin(span[:, 0])), float(np.nanmax(span[:, 1]))
        if ictal + end - begin > share * duration:
            continue
        onset = _draw_from(rng, [(a, b - (end - begin)) for a, b in free])
        if onset is None:
            continue
        ictal += end - begin
        first = round((onset - begin) * sampling_rate)  # the seizure begins at the onset
        shift = first / sampling_rate
        order = np.argsort(span[:, 0])
        reached = [k for k in order.tolist() if not np.isnan(span[k, 0])]
        episodes.append(_Episode(first, one))
        seizures.append(
            Event(
                "sz", shift + begin, shift + end, channels=tuple(names[k] for k in reached)
            )
        )
        recruitment.append(span[:, 0] + shift)
        calm = (shift + begin - CALM_BEFORE - 60, shift + end + CALM_BEFORE)
        free = [
            part for a, b in free for part in ((a, min(b, calm[0])), (max(a, calm[1]), b))
        ]
    if not seizures:
        return [], [], none
    by_time = np.argsort([seizure.onset for seizure in seizures]).tolist()
    return (
        [episodes[k] for k in by_time],
        [seizures[k] for k in by_time],
        np.stack([recruitment[k] for k in by_time]),
    )


def _run_network(
    patient: SimulatedPatient, rng: np.random.Generator, n: int
) -> tuple[Float32[np.ndarray, "seizure node sample"], Float[np.ndarray, "seizure node 2"]]:
    """Signals of some seizures, without their slow part, and when nodes are in seizure."""
    from scipy.signal import butter, sosfilt

    units = patient.units_per_second / MODEL_RATE
    slowness = patient.slowness * rng.lognormal(0, 0.1)
    # Seizures of a patient begin alike and spread more or less far.
    rest = patient.excitability + rng.normal(0, 0.06, (n, 1))
    rest[:, patient.onset_zone] = REST
    raised = rest.copy()
    raised[:, patient.onset_zone] = SEIZING + rng.normal(0, 0.03, (n, 1))
    begin = np.full(n, 30.0)
    end = begin + slowness * rng.uniform(700, 1200, n)
    n_samples = int(2300 * slowness / units)
    signal, state = run_epileptors(
        Ramps(rest, raised, begin, end),
        patient.coupling,
        rng=rng,
        n_samples=n_samples,
        units_per_sample=units,
        tau=TAU * slowness,
    )
    # The amplifier passes no slow shift; the ends fade, where all nodes rest.
    high_pass = butter(2, 0.5, "highpass", fs=MODEL_RATE, output="sos")
    signal = sosfilt(high_pass, signal - signal[..., :1], axis=-1)
    fade = np.clip(np.minimum(np.arange(n_samples), np.arange(n_samples)[::-1]) / 256, 0, 1)
    size = rng.lognormal(0, 0.3, (n, 1, 1))
    return (np.asarray(signal) * fade * size).astype(np.float32), ictal_spans(state)


def _draw_from(rng: np.random.Generator, spans: list[tuple[float, float]]) -> float | None:
    """A time, evenly from some spans; those that end before they begin are empty."""
    lengths = np.array([max(0.0, end - begin) for begin, end in spans])
    if lengths.sum() == 0:
        return None
    place = rng.uniform(0, lengths.sum())
    k = min(int(np.searchsorted(np.cumsum(lengths), place)), len(spans) - 1)
    return float(spans[k][0] + place - lengths[:k].sum())


def _gaps(
    rng: np.random.Generator, seizures: list[Event], *, duration: float, n_gaps: int
) -> tuple[tuple[float, float], ...]:
    """Stretches that were not recorded, apart from the seizures and one another."""
    gaps: list[tuple[float, float]] = []
    edges = [(s.onset - 30.0, s.offset + 30.0) for s in seizures]
    for _ in range(n_gaps):
        length = min(rng.uniform(20, 90), duration / 10)
        taken = sorted([*edges, *gaps])
        ends = [0.0, *(end for _, end in taken)]
        begins = [*(begin for begin, _ in taken), duration]
        begin = _draw_from(
            rng, [(a + 5, b - 5 - length) for a, b in zip(ends, begins, strict=True)]
        )
        if begin is not None:
            gaps.append((begin, begin + length))
    return tuple(sorted(gaps))


# ---- samples ---------------------------------------------------------------------------


class _Tiles:
    """Finished tiles of a recording, made one after the other."""

    def __init__(self, ieeg: SimulatedIEEG) -> None:
        self.ieeg = ieeg
        patient = ieeg.patient
        self.noise = BackgroundNoise(
            patient.background,
            patient.electrodes,
            sampling_rate=ieeg.sampling_rate,
            seed=ieeg._seed,
        )
        self.number = -1
        self.tile = np.empty((0, 0), dtype=np.float32)
        self.episode: tuple[int, np.ndarray] | None = None

    def samples(self, first: int, stop: int) -> Float32[np.ndarray, "channel sample"]:
        """Samples from `first` to before `stop`."""
        length = self.noise.n_samples
        block = np.empty((len(self.ieeg.channels), stop - first), dtype=np.float32)
        for number in range(first // length, -(-stop // length)):
            if number != self.number:
                self.tile, self.number = self._make(number), number
            begin = number * length
            here = slice(max(first - begin, 0), min(stop - begin, length))
            block[:, max(begin - first, 0) : min(begin + length, stop) - first] = self.tile[
                :, here
            ]
        return block

    def _make(self, number: int) -> Float32[np.ndarray, "channel sample"]:
        ieeg, length = self.ieeg, self.noise.n_samples
        begin = number * length
        tile = self.noise.tile(number)
        minutes = (begin + np.arange(length)) / (60 * ieeg.sampling_rate)
        knots = np.arange(len(ieeg._vigilance))
        tile *= np.interp(minutes, knots, ieeg._vigilance).astype(np.float32)
        for k, episode in enumerate(ieeg._episodes):
            n = episode.signal.shape[1] * ieeg.sampling_rate // MODEL_RATE
            if episode.first < begin + length and episode.first + n > begin:
                _add(tile, self._seizure(k), at=episode.first - begin)
        for burst in ieeg._bursts:
            if burst.first < begin + length and burst.stop > begin:
                at = burst.first - begin
                here = slice(max(at, 0), min(at + len(burst.waveform), length))
                there = slice(here.start - at, here.stop - at)
                seen = np.flatnonzero(np.abs(burst.weight) > 0.5)
                tile[seen, here] += burst.weight[seen, None] * burst.waveform[there]
        self._spoil(tile, begin)
        return tile

    def _seizure(self, k: int) -> Float32[np.ndarray, "channel sample"]:
        """A seizure as the contacts see it (µV), at the recording's rate."""
        if self.episode is None or self.episode[0] != k:
            from scipy.signal import resample_poly

            patient = self.ieeg.patient
            seen = (patient.gain[:, None] * patient.view).astype(np.float32)
            seen = seen @ self.ieeg._episodes[k].signal
            factor = self.ieeg.sampling_rate // MODEL_RATE
            self.episode = (k, resample_poly(seen, factor, 1, axis=1).astype(np.float32))
        return self.episode[1]

    def _spoil(self, tile: Float32[np.ndarray, "channel sample"], begin: int) -> None:
        """Faults of channels, and gaps."""
        rate = self.ieeg.sampling_rate
        sample = begin + np.arange(tile.shape[1])
        for channel, fault in self.ieeg.patient.bad_channels.items():
            if fault == "flat":
                tile[channel] = 0.0
            elif fault == "mains":
                hum = np.sin(2 * np.pi * 50 * (sample % rate) / rate)
                tile[channel] = 0.2 * tile[channel] + 250 * hum
            elif fault == "clipped":
                tile[channel] = np.clip(12 * tile[channel], -400, 400)
            else:
                rng = np.random.default_rng([self.ieeg._seed, channel, begin, 1])
                tile[channel] += 150 * rng.standard_normal(tile.shape[1], dtype=np.float32)
        for first, last in self.ieeg.truth.gaps:
            here = slice(
                max(round(first * rate) - begin, 0), max(round(last * rate) - begin, 0)
            )
            tile[:, here] = np.nan


def _add(
    tile: Float32[np.ndarray, "channel sample"],
    signal: Float32[np.ndarray, "channel other"],
    *,
    at: int,
) -> None:
    """Add a signal that begins at sample `at` of the tile, before it or in it."""
    here = slice(max(at, 0), min(at + signal.shape[1], tile.shape[1]))
    tile[:, here] += signal[:, here.start - at : here.stop - at]
