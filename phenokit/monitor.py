"""Seizure probabilities of an intracranial EEG that arrives piece by piece.

`SeizureMonitor` is fed samples as they come and answers with one `SegmentResult` for each
segment that is complete. The answers do not depend on how the samples were cut into
pieces, to the last bit; a recording that is read from a file goes through the same class.

    raw        samples of a segment and of the filter's reach around it
    prepared   SegmentGrid.prepare: resampled, referenced, faulty channels named
    features   one step of the network (`phenokit.networks.streaming`)
    logit      of seizure against background: the sum of one contribution a channel
    status     evaluated, or why not; "not evaluated" never means "no seizure"

A gap longer than a segment takes the history with it: the monitor warms up again.
"""

import hashlib
import json
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float32, Shaped

from phenokit.errors import BadInput, BundleError
from phenokit.evidence.seizures import HALF, CoverageRule, EventRule, EventStream
from phenokit.networks.checkpoint import Bundle, load_bundle
from phenokit.networks.mvpformer import (
    IEEGContract,
    MVPFormer,
    MVPFormerConfig,
    from_arrays,
)
from phenokit.networks.prototype import full_precision
from phenokit.networks.streaming import (
    Cache,
    Window,
    can_cache,
    decode_window,
    empty_cache,
    empty_window,
    push_window,
    step_cached,
)
from phenokit.preprocessing.montage import OrderPolicy, channel_order
from phenokit.preprocessing.segments import SegmentGrid, SegmentRule
from phenokit.recording import Event, Notice, SegmentStatus

KIND = "ieeg-mvpformer"
"""Of the bundles that hold such a model."""

STATE_VERSION = 1

Streaming = Literal["exact", "cached"]


@dataclass(frozen=True, eq=False)
class IEEGModel:
    """A loaded network that finds seizures, with everything that its numbers depend on.

    Attributes
    ----------
    name
        On the card.
    config
        Sizes, attention and contract of the network.
    segments
        How a recording is cut.
    event_rule
        From probabilities to events.
    streaming
        ``"cached"`` only where the attention allows it; see `phenokit.networks.streaming`.
    n_segments
        Segments of history that an evaluated segment has, itself included.
    slope, intercept
        The logit of the probability is ``slope * logit + intercept``.
    bundle
        What it was loaded from; ``None`` for a network that was never written.
    """

    name: str
    config: MVPFormerConfig
    segments: SegmentRule
    event_rule: EventRule
    streaming: Streaming
    n_segments: int
    network: MVPFormer
    device: str = "cpu"
    slope: float = 1.0
    intercept: float = 0.0
    bundle: Bundle | None = None

    def __post_init__(self) -> None:
        contract, segments = self.config.contract, self.segments
        if self.config.head != "classification":
            raise BundleError("E_VERSION", f"{self.name} does not tell two classes apart.")
        if (contract.sampling_rate, contract.samples) != (
            segments.sampling_rate,
            segments.samples,
        ):
            raise BundleError(
                "E_VERSION", f"{self.name} cuts other segments than its network reads."
            )
        if self.streaming == "cached" and not can_cache(self.config.rule):
            raise BundleError(
                "E_VERSION", f"The attention of {self.name} does not allow a cache."
            )

    @property
    def contract(self) -> IEEGContract:
        """What the network reads."""
        return self.config.contract

    @property
    def bundle_hash(self) -> str:
        """SHA-256 of the bundle's list of hashes; empty where there is no bundle."""
        return "" if self.bundle is None else self.bundle.bundle_hash


def load_ieeg_model(name_or_path: str | Path, *, device: str = "auto") -> IEEGModel:
    """Load a bundle, check its hashes, and build its network.

    Parameters
    ----------
    name_or_path
        Name of an installed bundle, or its folder.
    device
        ``"cpu"``, ``"cuda"``, or ``"auto"``: CUDA where there is one.

    Raises
    ------
    BundleError
        If the bundle is damaged, is of another kind, or does not fit its network.
    """
    return build_ieeg_model(load_bundle(name_or_path), device=device)


def build_ieeg_model(bundle: Bundle, *, device: str = "auto") -> IEEGModel:
    """The model of a bundle; see `load_ieeg_model`."""
    if bundle.config.get("kind") != KIND:
        raise BundleError("E_VERSION", f"{bundle.name} is no model of intracranial EEG.")
    config = MVPFormerConfig.from_dict(bundle.config["network"])
    network = from_arrays(config, bundle.tensors)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    calibration = bundle.calibration
    scale = calibration.get("platt") or {"slope": 1.0, "intercept": 0.0}
    names = ("theta_on", "theta_off", "median", "join_gap", "minimum_duration")
    return IEEGModel(
        name=bundle.name,
        config=config,
        segments=SegmentRule.from_dict(bundle.config["segments"]),
        event_rule=EventRule(**{k: calibration[k] for k in names if k in calibration}),
        streaming=bundle.config["streaming"],
        n_segments=bundle.config["n_segments"],
        network=network.to(device),
        device=device,
        slope=float(scale["slope"]),
        intercept=float(scale["intercept"]),
        bundle=bundle,
    )


def refusals(
    model: IEEGModel, *, channels: Sequence[str], sampling_rate: float | int, unit: str
) -> tuple[Notice, ...]:
    """Why the model does not read such a recording; empty where it does.

    ``E_FS``, ``E_UNITS``, ``E_CHANNELS`` (two of one name) and ``A_USE`` (more channels
    than it was trained on), all that hold.
    """
    found = []
    contract = model.contract
    fits = {
        "unit": contract.unit,
        "sampling_rate": contract.sampling_rate,
        "samples": contract.samples,
        "segments": model.n_segments,
        "channels": 1,
    }
    for asked in ({"unit": unit}, {"channels": len(channels)}):
        try:
            contract.check(**{**fits, **asked})
        except BadInput as error:
            found.append(Notice(error.code, str(error)))
    try:
        SegmentGrid(model.segments, sampling_rate)
    except BadInput as error:
        found.append(Notice(error.code, str(error)))
    twice = {name for name in channels if list(channels).count(name) > 1}
    if twice:
        found.append(Notice("E_CHANNELS", f"Two channels are called {min(twice)}."))
    return tuple(found)


@dataclass(frozen=True, eq=False)
class SegmentResult:
    """What the monitor says of one segment.

    Attributes
    ----------
    index
        From 0, at the recording's start.
    start
        Seconds from there.
    status
        Whether it was evaluated.
    probability
        P(seizure); NaN unless evaluated.
    contribution
        Of each channel, in the order of `SeizureMonitor.channels`, to the logit of seizure
        against background, which is their sum; NaN for a channel that could not be used,
        and for all unless evaluated.
    faults
        Channels that could not be used, with the reason.
    amplitude
        Median over the usable channels of their root mean square (µV); NaN without any.
    """

    index: int
    start: float
    status: SegmentStatus
    probability: float
    contribution: Float32[np.ndarray, " channel"]
    faults: Mapping[str, str]
    amplitude: float


@dataclass(frozen=True)
class Latency:
    """From a sample to what is said of it, at worst, in seconds.

    Attributes
    ----------
    segment
        Until its segment is complete.
    filtering
        Until the resampling filter has seen enough after it.
    smoothing
        Until the centred median of the event rule is known.
    computing
        Longest time that a segment took on this machine so far.
    """

    segment: float
    filtering: float
    smoothing: float
    computing: float

    @property
    def total(self) -> float:
        """The sum."""
        return self.segment + self.filtering + self.smoothing + self.computing


class SeizureMonitor:
    """Reads one recording as it arrives.

    Parameters
    ----------
    model
        Its attribute `streaming` says how.
    channels
        Names, in the order in which samples come.
    sampling_rate
        Hz.
    unit
        Of the samples.
    bad
        Channels known to be bad, with the reason, or only their names; they are not used.
    coverage_rule
        When a segment is evaluated.

    Attributes
    ----------
    channels
        In the order of the model, which is that of the contributions.
    order_policy
        Of the model; ``"as_recorded"`` where the names are no contacts of shafts.
    notices
        ``W_ORDER`` where the model wanted another order.

    Raises
    ------
    BadInput
        The first of `refusals`.
    """

    def __init__(
        self,
        model: IEEGModel,
        *,
        channels: Sequence[str],
        sampling_rate: float | int,
        unit: str = "uV",
        bad: Mapping[str, str] | Collection[str] = (),
        coverage_rule: CoverageRule = HALF,
    ) -> None:
        for refusal in refusals(
            model, channels=channels, sampling_rate=sampling_rate, unit=unit
        ):
            raise BadInput(refusal.code, refusal.message)
        self.model = model
        self.coverage_rule = coverage_rule
        self._order, self.order_policy, self.notices = _order(channels, model.contract)
        self.channels = tuple(channels[k] for k in self._order)
        reasons = bad if isinstance(bad, Mapping) else dict.fromkeys(bad, "marked as bad")
        self._bad = {k: reasons[c] for k, c in enumerate(self.channels) if c in reasons}
        self._grid = SegmentGrid(model.segments, sampling_rate)
        self._margin = round(self._grid.delay * self._grid.sampling_rate)
        head = model.network.head.weight.detach().cpu().numpy().astype(np.float64)
        self._weight = head[1] - head[0]
        self._samples = np.empty((len(channels), 0), dtype=np.float32)
        self._first = 0  # of `_samples`, in the recording
        self._next = 0  # segment
        self._last_sample = np.full(len(channels), np.nan, dtype=np.float32)
        self._unrecorded = 0  # samples just before the next segment
        self._is_finished = False
        self._longest = 0.0
        self._events = EventStream(
            model.event_rule, segment_duration=model.segments.duration
        )
        self._forget()

    def feed(self, chunk: Shaped[np.ndarray, "channel sample"]) -> list[SegmentResult]:
        """Take the next samples; what is known now of segments that was not before.

        Parameters
        ----------
        chunk
            Any number of samples; NaN where none was recorded.
        """
        if self._is_finished:
            raise ValueError("the recording is finished")
        if len(chunk) != len(self.channels):
            raise ValueError(f"{len(chunk)} channels; there are {len(self.channels)}")
        with np.errstate(over="ignore"):  # beyond float32 is beyond any amplifier
            new = chunk[self._order].astype(np.float32)
        self._samples = np.concatenate([self._samples, new], axis=1)
        results = []
        while self._grid.span(self._next)[1] <= self._n_samples:
            results.append(self._segment())
        self._drop_samples()
        return results

    def finish(self) -> list[SegmentResult]:
        """Say that no more samples come; the segments that were waiting for the filter.

        What is left of a last segment that is not complete is not evaluated.
        """
        self._is_finished = True
        results = []
        while self._next < self._grid.n_segments(self._n_samples):
            results.append(self._segment())
        self._events.finish()
        return results

    @property
    def events(self) -> tuple[Event, ...]:
        """Seizures that nothing to come can change; all of them once it is finished."""
        return self._events.events

    @property
    def is_ictal(self) -> bool:
        """Whether the newest segment lies in a seizure of which that is known by now.

        It is known as late as `latency` says.
        """
        return self._events.is_ictal

    def latency(self) -> Latency:
        """How late the monitor is at worst."""
        duration = self.model.segments.duration
        return Latency(
            segment=duration,
            filtering=self._grid.delay,
            smoothing=self.model.event_rule.delay(duration),
            computing=self._longest,
        )

    def state_dict(self) -> dict[str, np.ndarray]:
        """Everything that the next answers depend on, as arrays that safetensors can hold.

        A monitor made with the same arguments that takes it with `load_state_dict` goes on
        with the same bits.
        """
        counters = (self._first, self._next, self._unrecorded, self._n_history)
        arrays = {
            "identity": self._identity(),
            "counters": np.array([*counters, self._is_finished], dtype=np.int64),
            # as integers, since files of tensors may not hold NaN
            "samples": self._samples.view(np.int32),
            "last_sample": self._last_sample.view(np.int32),
            "usable": self._usable.astype(np.int32),
        }
        for name, array in self._events.state_dict().items():
            arrays[f"events.{name}"] = array
        for name, tensor in self._past._asdict().items():
            array = tensor.cpu().numpy()
            arrays[f"past.{name}"] = (
                array.astype(np.int32) if array.dtype == bool else array
            )
        return {name: array.copy() for name, array in arrays.items()}

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Go on where `state_dict` was taken.

        Raises
        ------
        BadInput
            ``E_VERSION`` if it was taken of another model, other channels, another
            sampling rate or rule, or by another version.
        """
        expected = self.state_dict()
        if state.keys() != expected.keys() or not np.array_equal(
            state["identity"], expected["identity"]
        ):
            raise BadInput(
                "E_VERSION", "The state belongs to another model, recording or version."
            )
        first, next_, unrecorded, n_history, is_finished = state["counters"].tolist()
        self._first, self._next, self._unrecorded = first, next_, unrecorded
        self._n_history, self._is_finished = n_history, bool(is_finished)
        self._samples = state["samples"].view(np.float32).copy()
        self._last_sample = state["last_sample"].view(np.float32).copy()
        self._usable = state["usable"].astype(bool)
        self._events.load_state_dict(
            {name: state[f"events.{name}"] for name in self._events.state_dict()}
        )
        kept = {
            name: torch.tensor(state[f"past.{name}"], device=tensor.device).to(tensor.dtype)
            for name, tensor in self._past._asdict().items()
        }
        self._past = type(self._past)(**kept)

    @property
    def _n_samples(self) -> int:
        return self._first + self._samples.shape[1]

    def _segment(self) -> SegmentResult:
        begin = time.perf_counter()
        raw = self._raw(self._next)
        raw[list(self._bad)] = np.nan
        segment = self._grid.prepare(raw)
        usable = segment.valid
        if self._was_interrupted(raw[:, self._margin : raw.shape[1] - self._margin]):
            self._forget()
        # what follows an interruption begins with a segment that holds something
        begins = self._n_history > 0 or bool(usable.any())
        if begins:
            self._n_history = min(self._n_history + 1, self.model.n_segments)
            self._usable = np.concatenate([self._usable[1:], usable[None]])
        status = self._status(segment.faults, usable)
        features = self._step(segment.signal, usable, status) if begins else None
        contribution, probability = np.full(len(usable), np.nan), float("nan")
        if features is not None:
            contribution = self._contributions(features, usable)
            probability = self._probability(contribution)
        reasons = {
            self.channels[k]: self._bad.get(k, fault)
            for k, fault in enumerate(segment.faults)
            if fault is not None
        }
        result = SegmentResult(
            index=self._next,
            start=self._next * self.model.segments.duration,
            status=status,
            probability=probability,
            contribution=contribution.astype(np.float32),
            faults=reasons,
            amplitude=_amplitude(segment.signal[usable]),
        )
        self._events.push(probability, status)
        self._next += 1
        self._longest = max(self._longest, time.perf_counter() - begin)
        return result

    def _raw(self, number: int) -> np.ndarray:
        """Samples of the span of a segment; NaN outside the recording."""
        first, stop = self._grid.span(number)
        inside = max(first, 0), min(stop, self._n_samples)
        raw = np.full((len(self.channels), stop - first), np.nan, dtype=np.float32)
        raw[:, inside[0] - first : inside[1] - first] = self._samples[
            :, inside[0] - self._first : inside[1] - self._first
        ]
        return raw

    def _drop_samples(self) -> None:
        """Those that no segment to come depends on."""
        n = max(self._grid.span(self._next)[0] - self._first, 0)
        self._samples = self._samples[:, n:].copy()
        self._first += n

    def _was_interrupted(self, signal: np.ndarray) -> bool:
        """Whether nothing was recorded for longer than a segment, up to this one's end.

        Nothing: no channel has a finite value that differs from the one before it.
        """
        before = np.concatenate([self._last_sample[:, None], signal[:, :-1]], axis=1)
        recorded = (np.isfinite(signal) & (signal != before)).any(axis=0)
        self._last_sample = signal[:, -1].copy()
        at = np.flatnonzero(recorded)
        edges = np.concatenate([[-1 - self._unrecorded], at, [signal.shape[1]]])
        self._unrecorded = int(signal.shape[1] - 1 - edges[-2])
        limit = self.model.segments.duration * self._grid.sampling_rate
        return bool((np.diff(edges) - 1).max() > limit)

    def _forget(self) -> None:
        """Begin anew: no history."""
        network, n_channels = self.model.network, len(self.channels)
        self._n_history = 0
        self._usable = np.zeros((self.model.n_segments, n_channels), dtype=bool)
        if self.model.streaming == "exact":
            self._past: Window | Cache = empty_window(
                network, n_segments=self.model.n_segments, n_channels=n_channels
            )
        else:
            self._past = empty_cache(network, n_channels=n_channels)

    def _step(
        self, signal: np.ndarray, usable: np.ndarray, status: SegmentStatus
    ) -> np.ndarray | None:
        """Features of each channel, in float64, where the segment is evaluated."""
        network, device = self.model.network, self.model.device
        x, valid = torch.from_numpy(signal).to(device), torch.from_numpy(usable).to(device)
        with full_precision(device):
            if isinstance(self._past, Cache):
                features, self._past = step_cached(network, self._past, x, valid)
            else:
                self._past = push_window(network, self._past, x, valid)
                if status != SegmentStatus.EVALUATED:
                    return None
                features = decode_window(network, self._past)
        if status != SegmentStatus.EVALUATED:
            return None
        return features.cpu().numpy().astype(np.float64)

    def _status(self, faults: Sequence[str | None], usable: np.ndarray) -> SegmentStatus:
        rule = self.coverage_rule
        if not usable.any() or usable.mean() < rule.min_channels:
            absent = sum(fault in {"missing", "flat"} for fault in faults)
            is_gap = absent > len(faults) / 2
            return SegmentStatus.GAP if is_gap else SegmentStatus.FEW_CHANNELS
        if self._n_history < self.model.n_segments:
            return SegmentStatus.WARMING_UP
        if self._usable.mean() < rule.min_tokens:
            return SegmentStatus.GAP
        return SegmentStatus.EVALUATED

    def _contributions(self, features: np.ndarray, usable: np.ndarray) -> np.ndarray:
        if not np.isfinite(features[usable]).all():
            raise BadInput(
                "E_MODEL_NONFINITE", "The network gave a value that is no number."
            )
        shares = features @ self._weight / usable.sum()
        return np.where(usable, shares, np.nan)

    def _probability(self, contribution: np.ndarray) -> float:
        z = self.model.slope * np.nansum(contribution) + self.model.intercept
        return float(1 / (1 + np.exp(-np.clip(z, -700, 700))))

    def _identity(self) -> np.ndarray:
        """Hash of all that a state must agree with."""
        model = self.model
        what = {
            "version": STATE_VERSION,
            "model": [model.name, model.bundle_hash, model.config.to_dict()],
            "segments": model.segments.to_dict(),
            "streaming": [model.streaming, model.n_segments],
            "channels": self.channels,
            "bad": list(self._bad),
            "sampling_rate": self._grid.sampling_rate,
            "coverage_rule": asdict(self.coverage_rule),
            "event_rule": asdict(model.event_rule),
            "scale": [model.slope, model.intercept],
        }
        digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).digest()
        return np.frombuffer(digest, dtype="<i8").astype(np.int64)


def _order(
    channels: Sequence[str], contract: IEEGContract
) -> tuple[list[int], OrderPolicy, tuple[Notice, ...]]:
    """Positions in the order of the model, the policy, and what is to be said of it."""
    try:
        return channel_order(channels, contract.channel_order), contract.channel_order, ()
    except BadInput as error:
        notice = Notice(
            "W_ORDER",
            "The channels stay in the order of the recording, though the model was trained "
            f"on contacts sorted along their shafts: {error}",
        )
        return list(range(len(channels))), "as_recorded", (notice,)


def _amplitude(signal: np.ndarray) -> float:
    if not len(signal):
        return float("nan")
    power = np.square(signal, dtype=np.float64).mean(axis=1)
    return float(np.median(np.sqrt(power)))
