"""From a recording to findings: one line a step. Read this first.

    quality   assess_quality   what can be judged at all, lead by lead
    prepared  prepare          the window, filter and scale that the network was trained on
    output    network          similarities, best windows, logits
    trust     distance         whether the recording is like those of the training set
    scored    Calibration      probabilities; or an abstention, with its reason
    findings  Finding          each logit as the sum of its prototypes' contributions

An intracranial EEG of hours goes another way, piece by piece:

    monitor   SeizureMonitor   segments, their status, probability and contributions
    events    find_events      seizures, by a deterministic rule
    coverage  coverage_of      what was evaluated at all: the rest is not "no seizure"

Torch is imported when a model is loaded that is computed by it, not before.
"""

import ctypes
import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args, runtime_checkable

import numpy as np
from jaxtyping import Float, Float32, Int, Int8

from phenokit.errors import CODES, BadInput, BundleError, Outcome, first_code, outcome_of
from phenokit.evidence.prototypes import (
    LATENT_STEP,
    Finding,
    Match,
    Prototype,
    contributions,
    percentile,
)
from phenokit.evidence.seizures import (
    HALF,
    Coverage,
    CoverageRule,
    EventRule,
    coverage_of,
    find_events,
)
from phenokit.evidence.trust import Calibration, Trust
from phenokit.networks.checkpoint import Bundle, load_bundle
from phenokit.networks.prototype_config import Forward, PrototypeConfig
from phenokit.preprocessing.contract import InputContract, for_display, prepare
from phenokit.preprocessing.quality import Quality, assess_quality
from phenokit.readers.ecg import read_ecg
from phenokit.recording import Event, LongRecording, Notice, Recording, SegmentStatus

if TYPE_CHECKING:
    from phenokit.monitor import IEEGModel, SegmentResult, SeizureMonitor

Inference = Literal["auto", "torch", "openvino"]
"""What computes the forward pass of an ECG model: docs/inference.md."""

BATCH = 16
"""Every forward pass has this many recordings, padded with zeros: the numbers of one
recording do not depend on how many others came with it."""

THRESHOLD_MARGIN = 1e-4
"""A probability this near its threshold may fall on the other side on other hardware."""

READ_SECONDS = 60
"""Of an intracranial EEG that are in memory at a time."""

FEW_MASKED = 0.1
"""More than this share of the signal masked is worth a warning."""

PLAUSIBLE_AMPLITUDE = (0.1, 10_000.0)
"""Microvolts; outside, the unit is probably another."""


@runtime_checkable
class ForwardPass(Protocol):
    """A network as arrays see it."""

    @property
    def engine(self) -> str:
        """Name and version of what computes."""
        ...

    def __call__(self, signal: Float32[np.ndarray, "batch lead sample"]) -> Forward:
        """Similarities, best windows and features of prepared ECGs."""
        ...


@dataclass(frozen=True, eq=False)
class ECGModel:
    """A loaded bundle, ready to score.

    Attributes
    ----------
    labels
        Codes in the order of the logits.
    contract
        What is done to a recording before it is scored.
    prototypes
        In the order of the similarities.
    weight, bias
        Of the fused head, ``(label, prototype)`` and ``(label,)``.
    forward
        The network before its fused head, for `BATCH` recordings at a time.
    """

    name: str
    bundle: Bundle
    labels: tuple[str, ...]
    contract: InputContract
    prototypes: tuple[Prototype, ...]
    calibration: Calibration
    trust: Trust
    weight: Float[np.ndarray, "label prototype"]
    bias: Float[np.ndarray, " label"]
    forward: ForwardPass
    device: str

    @property
    def bundle_hash(self) -> str:
        """SHA-256 of the bundle's list of hashes."""
        return self.bundle.bundle_hash

    @property
    def inference(self) -> str:
        """Name and version of what computes the forward pass: ``"torch 2.13.0"``."""
        return self.forward.engine


@dataclass(frozen=True, eq=False)
class ScoredECG:
    """What became of one ECG.

    Attributes
    ----------
    outcome, code, all_codes, message
        The outcome, its first code, every code that holds, and a sentence for a clinician.
    quality
        Verdict lead by lead; ``None`` where the file could not be read.
    probability, logit
        Shape ``(label,)``; NaN where the recording was rejected or abstained from.
    similarity
        Shape ``(prototype,)``, at most 1; NaN as above.
    window
        First latent step of the best window of each prototype, shape ``(prototype,)``.
    start, stop
        Seconds of the recording that were scored; NaN where none were.
    """

    record_id: str
    outcome: Outcome
    code: str
    all_codes: tuple[str, ...]
    message: str
    model: str
    bundle_hash: str
    labels: tuple[str, ...]
    quality: Quality | None
    probability: Float[np.ndarray, " label"]
    logit: Float[np.ndarray, " label"]
    similarity: Float[np.ndarray, " prototype"]
    window: Int[np.ndarray, " prototype"]
    start: float = float("nan")
    stop: float = float("nan")


@dataclass(frozen=True)
class Explanation:
    """A scored ECG and, by falling probability, its findings with their prototypes.

    `findings` is empty where the recording was not scored.
    """

    scored: ScoredECG
    findings: tuple[Finding, ...]


@dataclass(frozen=True, eq=False)
class ScoredIEEG:
    """What became of one intracranial EEG.

    Attributes
    ----------
    outcome, code, all_codes, message
        As of a `ScoredECG`. Where nothing was evaluated the code is ``A_MISSING``.
    channels
        Those that were scored, in the order in which the model read them.
    order_policy
        ``"montage"``, or ``"as_recorded"``.
    dropped
        Channels that are no contacts (ECG, triggers ...), with the reason.
    bad
        Channels that could not be used for a while: the commonest reason, and the share of
        the recorded segments.
    probability
        Of a seizure in each segment; NaN where it was not evaluated.
    status
        `SegmentStatus` of each segment.
    contribution
        Of each channel to the logit of each segment, which is their sum; NaN where the
        channel could not be used or the segment was not evaluated.
    segment_duration, duration
        Seconds, of a segment and of the recording.
    events
        Seizures; none is not the same as none found where `coverage` is not whole.
    coverage
        What was evaluated.
    notices
        Each code that holds, with its sentence.
    event_rule, coverage_rule
        By which `events` were found and segments were evaluated.
    """

    record_id: str
    outcome: Outcome
    code: str
    all_codes: tuple[str, ...]
    message: str
    model: str
    bundle_hash: str
    channels: tuple[str, ...]
    order_policy: str
    dropped: Mapping[str, str]
    bad: Mapping[str, tuple[str, float]]
    probability: Float[np.ndarray, " segment"]
    status: Int8[np.ndarray, " segment"]
    contribution: Float32[np.ndarray, "segment channel"]
    segment_duration: float
    duration: float
    events: tuple[Event, ...]
    coverage: Coverage
    notices: tuple[Notice, ...]
    event_rule: EventRule = field(default_factory=EventRule)
    coverage_rule: CoverageRule = HALF


def load_model(
    name_or_path: str | Path, *, device: str = "auto", inference: Inference = "auto"
) -> "ECGModel | IEEGModel":
    """Load a bundle of any kind, check its hashes, and build its network.

    Parameters
    ----------
    name_or_path
        Name of an installed bundle, or its folder.
    device
        ``"cpu"``, ``"cuda"``, or ``"auto"``: CUDA where there is one.
    inference
        As of `load_ecg_model`. A model of iEEG is computed by torch, always.

    Returns
    -------
    ECGModel or IEEGModel
        For `score_ecg` or for `score_ieeg`, as the bundle says.

    Raises
    ------
    BundleError
        If the bundle is damaged or does not fit its network.
    BadInput
        As of `load_ecg_model`.
    """
    bundle = load_bundle(name_or_path)
    if bundle.config.get("kind") == "ieeg-mvpformer":
        from phenokit.monitor import build_ieeg_model

        if inference == "openvino":
            raise BadInput("E_VERSION", "A model of iEEG is computed by torch alone.")
        return build_ieeg_model(bundle, device=device)
    return _build_ecg_model(bundle, device, inference)


def load_ecg_model(
    name_or_path: str | Path, *, device: str = "auto", inference: Inference = "auto"
) -> ECGModel:
    """`load_model` where an ECG model is wanted; another kind is a `BundleError`.

    Parameters
    ----------
    inference
        ``"torch"``; ``"openvino"``, on the CPU, with the extra ``fast`` and without
        importing torch; or ``"auto"``, what `default_inference` says. The numbers of the
        two agree to 1e-5; `ECGModel.inference` says which it is.

    Raises
    ------
    BundleError
        As `load_model`.
    BadInput
        ``E_MISSING`` if OpenVINO is wanted and not installed, ``E_VERSION`` if it is wanted
        on CUDA.
    """
    return _build_ecg_model(load_bundle(name_or_path), device, inference)


def default_inference(device: str = "auto") -> Literal["torch", "openvino"]:
    """What ``inference="auto"`` stands for on this machine.

    OpenVINO on the CPU where it is installed and was measured to be faster than torch;
    otherwise torch.
    """
    on_cpu = resolve_device(device) == "cpu"
    was_measured = platform.machine() in ("x86_64", "AMD64")
    is_exported = on_cpu and was_measured and find_spec("openvino") is not None
    return "openvino" if is_exported else "torch"


def score_ecg(
    recordings: Sequence[Recording], model: ECGModel, *, open_abstained: bool = False
) -> list[ScoredECG]:
    """Score recordings; each ends in exactly one outcome, whatever the others are.

    Parameters
    ----------
    recordings
        Twelve-lead ECGs in mV.
    open_abstained
        Also give the numbers of recordings that the model abstains from. Their outcome
        stays abstained; to be used on a deliberate request only.

    Returns
    -------
    list
        One result a recording, in order.
    """
    checked = [_check(recording, model, open_abstained) for recording in recordings]
    signals = [c.signal for c in checked if c.signal is not None]
    outputs = _forward(signals, model)
    return [
        _result(one, model, None if one.signal is None else next(outputs), open_abstained)
        for one in checked
    ]


def explain(
    recording: Recording, model: ECGModel, *, open_abstained: bool = False
) -> Explanation:
    """Score one recording and take each logit apart into its prototypes.

    Parameters
    ----------
    open_abstained
        As in `score_ecg`.
    """
    scored = score_ecg([recording], model, open_abstained=open_abstained)[0]
    return explain_scored(scored, model)


def explain_scored(scored: ScoredECG, model: ECGModel) -> Explanation:
    """Take each logit of a scored recording apart into its prototypes."""
    if np.isnan(scored.probability).any():
        return Explanation(scored, ())
    windows = [
        _matched_window(prototype, int(step), scored.stop)
        for prototype, step in zip(model.prototypes, scored.window, strict=True)
    ]
    quantiles = model.trust.similarity_quantiles
    percentiles = [
        percentile(value, row)
        for value, row in zip(scored.similarity.tolist(), quantiles, strict=True)
    ]
    findings = []
    for k, label in enumerate(model.labels):
        terms = contributions(scored.similarity, model.weight[k])
        matches = tuple(
            Match(
                prototype=model.prototypes[p],
                similarity=float(scored.similarity[p]),
                ceiling=1.0,
                percentile=percentiles[p],
                weight=float(model.weight[k, p]),
                contribution=float(terms[p]),
                start=windows[p][0],
                stop=windows[p][1],
            )
            for p in np.argsort(-np.abs(terms), kind="stable")
        )
        findings.append(
            Finding(
                label=label,
                probability=float(scored.probability[k]),
                threshold=float(model.calibration.threshold[k]),
                logit=float(scored.logit[k]),
                bias=float(model.bias[k]),
                matches=matches,
            )
        )
    findings.sort(key=lambda finding: -finding.probability)
    return Explanation(scored, tuple(findings))


def source_recording(prototype: Prototype, model: ECGModel) -> Recording | None:
    """The ECG that a prototype is a piece of, with the filter of the model, in mV.

    Its window, rate and filter are those of `for_display`, so that it can be drawn beside
    the patient's. ``None`` where the waveform is not at hand: `ecg-demo` holds its own;
    those of PTB-XL are read from the user's copy, whose folder PHENOKIT_PTBXL names.
    """
    row = model.bundle.prototypes.iloc[prototype.prototype_id]
    waveform = row.get("waveform_uv")
    if waveform is not None:
        signal = np.asarray(waveform, dtype=np.float64) / 1000.0
        return Recording(
            signal=signal.reshape(len(model.contract.leads), -1),
            channels=model.contract.leads,
            sampling_rate=model.contract.sampling_rate,
            record_id=prototype.record_id,
            source_format="model bundle",
        )
    folder = os.environ.get("PHENOKIT_PTBXL")
    if not folder or not prototype.dataset.startswith("PTB-XL"):
        return None
    number = int(prototype.record_id)
    for rate, suffix in ((500, "hr"), (100, "lr")):
        name = f"{number:05d}_{suffix}.hea"
        path = Path(folder) / f"records{rate}" / f"{number // 1000 * 1000:05d}" / name
        if path.is_file():
            return for_display(read_ecg(path, root=Path(folder)), model.contract)
    return None


def score_ieeg(
    recording: LongRecording,
    model: "IEEGModel",
    *,
    coverage_rule: CoverageRule = HALF,
    progress: Callable[[int, int], None] | None = None,
) -> ScoredIEEG:
    """Find the seizures of one intracranial EEG; it ends in exactly one outcome.

    Parameters
    ----------
    recording
        Of any length; a minute of it is in memory at a time. Its attributes `dropped` and
        `bad` (channel to reason), if it has them, are respected and passed on.
    model
        What `phenokit.monitor.load_ieeg_model` gave.
    coverage_rule
        When a segment is evaluated.
    progress
        Called with the number of segments done and of all.

    Returns
    -------
    ScoredIEEG
        Bit-equal to what a `SeizureMonitor` says that is fed the recording in any pieces.
    """
    refused = _refusals(recording, model)
    if refused:
        return _refused_ieeg(recording, model, refused)
    try:
        monitor, results = _monitor(recording, model, coverage_rule, progress)
    except BadInput as error:
        return _refused_ieeg(recording, model, (Notice(error.code, str(error)),))
    return _scored_ieeg(recording, monitor, results)


# --- steps ------------------------------------------------------------------------------


def _build_ecg_model(bundle: Bundle, device: str, inference: Inference) -> ECGModel:
    if bundle.config.get("kind") != "ecg-prototype":
        raise BundleError("E_VERSION", f"{bundle.name} is not an ECG prototype model.")
    config = PrototypeConfig.from_dict(bundle.config["network"])
    forward, device = _build_forward(config, bundle, device, inference)
    return ECGModel(
        name=bundle.name,
        bundle=bundle,
        labels=config.labels,
        contract=InputContract.from_dict(bundle.config["input"]),
        prototypes=_prototypes(bundle),
        calibration=Calibration.from_dict(bundle.calibration),
        trust=Trust.from_arrays(bundle.trust),
        weight=bundle.tensors["fusion.weight"].astype(np.float64),
        bias=bundle.tensors["fusion.bias"].astype(np.float64),
        forward=forward,
        device=device,
    )


def _build_forward(
    config: PrototypeConfig, bundle: Bundle, device: str, inference: Inference
) -> tuple[ForwardPass, str]:
    """The network, and the device that it is on."""
    if inference not in get_args(Inference):
        raise ValueError(f"inference is {inference!r}; choose from {get_args(Inference)}")
    if inference == "auto":
        inference = default_inference(device)
    if inference == "torch":
        from phenokit.networks.prototype import TorchForward, for_inference, from_arrays

        device = resolve_device(device)
        network = for_inference(from_arrays(config, bundle.tensors)).to(device)
        return TorchForward(network, device), device
    if device not in ("auto", "cpu"):
        raise BadInput("E_VERSION", f"OpenVINO computes on the CPU, not on {device}.")
    if find_spec("openvino") is None:
        raise BadInput("E_MISSING", "OpenVINO is not installed: install phenokit[fast].")
    from phenokit.networks.exported import export

    return export(config, bundle.tensors, batch=BATCH), "cpu"


def resolve_device(device: str) -> str:
    """The device itself; torch is asked only where there is a driver of CUDA."""
    if device != "auto":
        return device
    try:
        ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    except OSError:
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


@dataclass(frozen=True)
class _Checked:
    """A recording before the network: its notices and, unless refused, its input."""

    recording: Recording
    quality: Quality | None
    notices: tuple[Notice, ...]
    signal: Float32[np.ndarray, "lead sample"] | None
    start: float
    stop: float


def _check(recording: Recording, model: ECGModel, open_abstained: bool) -> _Checked:
    notices = list(recording.notices)
    quality, signal, start, stop = None, None, float("nan"), float("nan")
    try:
        quality = assess_quality(recording)
        notices += [n for n in quality.notices if n not in notices]
        prepared = prepare(recording, model.contract)
        notices += prepared.notices
        if np.isfinite(prepared.signal).all():
            signal, start, stop = prepared.signal, prepared.start, prepared.stop
    except BadInput as error:
        if error.code not in {n.code for n in notices}:
            notices.append(Notice(error.code, str(error)))
    abstains = any(n.code.startswith(("A_", "E_")) for n in notices)
    if abstains and not open_abstained:
        signal = None
    return _Checked(recording, quality, tuple(notices), signal, start, stop)


@dataclass(frozen=True)
class _Output:
    similarity: Float32[np.ndarray, " prototype"]
    window: Int[np.ndarray, " prototype"]
    logit: Float[np.ndarray, " label"]
    distance: float


def _forward(
    signals: Sequence[Float32[np.ndarray, "lead sample"]], model: ECGModel
) -> Iterator[_Output]:
    """Outputs in order; every pass has the shape of `BATCH`.

    The head is applied to each recording alone, in float64: a matrix product may round a
    row by its place in the batch, and the sum shown is then the sum scored.
    """
    for first in range(0, len(signals), BATCH):
        block = signals[first : first + BATCH]
        batch = np.zeros((BATCH, *block[0].shape), dtype=np.float32)
        batch[: len(block)] = block
        similarity, window, features = model.forward(batch)
        with np.errstate(all="ignore"):  # numbers of a damaged model are refused later
            distance = model.trust.distances(features[: len(block)]).tolist()
        for row in range(len(block)):
            logit = (model.weight * similarity[row]).sum(axis=1) + model.bias
            yield _Output(similarity[row], window[row], logit, distance[row])


def _result(
    checked: _Checked, model: ECGModel, output: _Output | None, open_abstained: bool
) -> ScoredECG:
    notices = list(checked.notices)
    unknown = np.full(len(model.labels), np.nan)
    scored = ScoredECG(
        record_id=checked.recording.record_id,
        outcome=Outcome.REJECTED,
        code="",
        all_codes=(),
        message="",
        model=model.name,
        bundle_hash=model.bundle_hash,
        labels=model.labels,
        quality=checked.quality,
        probability=unknown,
        logit=unknown,
        similarity=np.full(len(model.prototypes), np.nan, dtype=np.float32),
        window=np.zeros(len(model.prototypes), dtype=np.int64),
    )
    if output is not None:
        probability = model.calibration.probability(output.logit)
        if not np.isfinite([output.logit, probability]).all():
            notices.append(Notice("E_MODEL_NONFINITE", CODES["E_MODEL_NONFINITE"]))
        else:
            notices += _trust_notices(output, probability, model)
            if open_abstained or not any(n.code.startswith("A_") for n in notices):
                scored = replace(
                    scored,
                    probability=probability,
                    logit=output.logit,
                    similarity=output.similarity,
                    window=output.window,
                    start=checked.start,
                    stop=checked.stop,
                )
    code = first_code(n.code for n in notices)
    message = next((n.message for n in notices if n.code == code), CODES["OK"])
    return replace(
        scored,
        outcome=outcome_of(code),
        code=code,
        all_codes=tuple(dict.fromkeys(n.code for n in notices)) or ("OK",),
        message=message,
    )


def _trust_notices(
    output: _Output, probability: Float[np.ndarray, " label"], model: ECGModel
) -> list[Notice]:
    notices = []
    if output.distance > model.trust.threshold:
        notices.append(
            Notice(
                "A_OOD",
                "The recording is unlike those that the model was trained on "
                f"(distance {output.distance:.0f}, limit {model.trust.threshold:.0f}): "
                "read it without the model.",
            )
        )
    near = np.abs(probability - model.calibration.threshold) < THRESHOLD_MARGIN
    if near.any():
        labels = ", ".join(model.labels[k] for k in np.flatnonzero(near))
        notices.append(Notice("W_THRESHOLD", f"On its threshold: {labels}."))
    return notices


def _matched_window(prototype: Prototype, step: int, stop: float) -> tuple[float, float]:
    """Seconds of the window that a prototype matched best."""
    if prototype.window_steps is None:
        return 0.0, stop
    start = step * LATENT_STEP
    return start, min(start + prototype.window_steps * LATENT_STEP, stop)


def _prototypes(bundle: Bundle) -> tuple[Prototype, ...]:
    table = bundle.prototypes
    return tuple(
        Prototype(
            prototype_id=int(row["prototype_id"]),
            branch=row["branch"],
            label=row["label"],
            dataset=row["dataset"],
            record_id=str(row["record_id"]),
            patient_id=None if row["patient_id"] is None else str(row["patient_id"]),
            fold=None if row["fold"] is None else int(row["fold"]),
            start=float(row["start"]),
            stop=float(row["stop"]),
            labels=tuple(row["labels"]),
            n_same_record=int(row["n_same_record"]),
            receptive_field=float(row["receptive_field"]),
            window_steps=None if row["window_steps"] is None else int(row["window_steps"]),
        )
        for row in _plain_rows(table.drop(columns="waveform_uv", errors="ignore"))
    )


def _plain_rows(table: Any) -> Iterator[dict[str, Any]]:  # noqa: ANN401 - pandas lazily
    """Rows as dictionaries in which a missing value is ``None``."""
    yield from table.astype(object).where(table.notna(), None).to_dict("records")


# --- steps of an intracranial EEG -------------------------------------------------------


def _refusals(recording: LongRecording, model: "IEEGModel") -> tuple[Notice, ...]:
    from phenokit.monitor import refusals

    found = refusals(
        model,
        channels=recording.channels,
        sampling_rate=recording.sampling_rate,
        unit=recording.unit,
    )
    duration = recording.n_samples / recording.sampling_rate
    needed = model.n_segments * model.segments.duration
    if duration < needed:
        message = f"The recording lasts {duration:g} s; the model needs {needed:g} s."
        found = (*found, Notice("A_DURATION", message))
    return found


def _monitor(
    recording: LongRecording,
    model: "IEEGModel",
    coverage_rule: CoverageRule,
    progress: Callable[[int, int], None] | None,
) -> tuple["SeizureMonitor", list["SegmentResult"]]:
    """Feed a recording to a monitor."""
    from phenokit.monitor import SeizureMonitor

    monitor = SeizureMonitor(
        model,
        channels=recording.channels,
        sampling_rate=recording.sampling_rate,
        unit=recording.unit,
        bad=getattr(recording, "bad", {}),
        coverage_rule=coverage_rule,
    )
    results: list[SegmentResult] = []
    step = round(READ_SECONDS * recording.sampling_rate)
    seconds = recording.n_samples / recording.sampling_rate
    n_segments = int(seconds / model.segments.duration)
    for first in range(0, recording.n_samples, step):
        stop = min(first + step, recording.n_samples)
        results += monitor.feed(recording.samples(first, stop))
        if progress is not None:
            progress(len(results), n_segments)
    results += monitor.finish()
    if progress is not None:
        progress(len(results), len(results))
    return monitor, results


def _scored_ieeg(
    recording: LongRecording, monitor: "SeizureMonitor", results: list["SegmentResult"]
) -> ScoredIEEG:
    model = monitor.model
    nothing = _refused_ieeg(recording, model, ())
    probability = np.array([r.probability for r in results], dtype=np.float64)
    status = np.array([r.status for r in results], dtype=np.int8)
    coverage = coverage_of(status, segment_duration=nothing.segment_duration)
    notices = [
        *nothing.notices,
        *monitor.notices,
        *_coverage_notices(results, coverage, monitor),
    ]
    events: tuple[Event, ...] = ()
    if coverage.evaluated:
        events, is_close = _events(probability, status, model)
        notices += [*_amplitude_notices(results), *is_close]
    return replace(
        nothing,
        **_verdict(notices),
        channels=monitor.channels,
        order_policy=monitor.order_policy,
        bad=_bad_channels(monitor.channels, results),
        probability=probability,
        status=status,
        contribution=np.stack([r.contribution for r in results]),
        events=events,
        coverage=coverage,
        coverage_rule=monitor.coverage_rule,
    )


def _refused_ieeg(
    recording: LongRecording, model: "IEEGModel", notices: Sequence[Notice]
) -> ScoredIEEG:
    read: tuple[Notice, ...] = getattr(recording, "notices", ())
    n_channels = len(recording.channels)
    return ScoredIEEG(
        **_verdict([*read, *notices]),
        record_id=recording.record_id,
        model=model.name,
        bundle_hash=model.bundle_hash,
        channels=recording.channels,
        order_policy="as_recorded",
        dropped=getattr(recording, "dropped", {}),
        bad={},
        probability=np.empty(0),
        status=np.empty(0, dtype=np.int8),
        contribution=np.empty((0, n_channels), dtype=np.float32),
        segment_duration=model.segments.duration,
        duration=recording.n_samples / recording.sampling_rate,
        events=(),
        coverage=Coverage(()),
        event_rule=model.event_rule,
    )


def _verdict(notices: Sequence[Notice]) -> dict[str, Any]:
    """Outcome, codes and message of a result."""
    code = first_code(n.code for n in notices)
    return {
        "outcome": outcome_of(code),
        "code": code,
        "all_codes": tuple(dict.fromkeys(n.code for n in notices)) or ("OK",),
        "message": next((n.message for n in notices if n.code == code), CODES["OK"]),
        "notices": tuple(notices),
    }


def _events(
    probability: Float[np.ndarray, " segment"],
    status: Int8[np.ndarray, " segment"],
    model: "IEEGModel",
) -> tuple[tuple[Event, ...], list[Notice]]:
    """Seizures; and whether thresholds that hardly differ would find others."""
    rule, duration = model.event_rule, model.segments.duration
    events = find_events(probability, status, rule=rule, segment_duration=duration)
    for shift in (-THRESHOLD_MARGIN, THRESHOLD_MARGIN):
        other = replace(
            rule,
            theta_on=min(max(rule.theta_on + shift, THRESHOLD_MARGIN), 1.0),
            theta_off=min(max(rule.off + shift, THRESHOLD_MARGIN / 2), 1.0),
        )
        found = find_events(probability, status, rule=other, segment_duration=duration)
        if [(e.onset, e.offset) for e in found] != [(e.onset, e.offset) for e in events]:
            message = "Whether or when an event begins or ends lies on a threshold."
            return events, [Notice("W_THRESHOLD", message)]
    return events, []


def _recorded(results: Sequence["SegmentResult"]) -> list["SegmentResult"]:
    """Segments that are no gap: what is wrong with all channels is wrong with none."""
    return [r for r in results if r.status != SegmentStatus.GAP]


def _bad_channels(
    channels: Sequence[str], results: Sequence["SegmentResult"]
) -> dict[str, tuple[str, float]]:
    """Commonest reason and share of segments of each channel that had a fault."""
    recorded = _recorded(results)
    bad = {}
    for channel in channels:
        reasons = [r.faults[channel] for r in recorded if channel in r.faults]
        if reasons:
            commonest = max(dict.fromkeys(reasons), key=reasons.count)
            bad[channel] = (commonest, len(reasons) / len(recorded))
    return bad


def _coverage_notices(
    results: Sequence["SegmentResult"], coverage: Coverage, monitor: "SeizureMonitor"
) -> list[Notice]:
    if not coverage.evaluated:
        message = "No segment could be evaluated, which is not the absence of seizures."
        return [Notice("A_MISSING", message)]
    notices = []
    seconds = coverage.seconds
    lost = seconds[SegmentStatus.GAP] + seconds[SegmentStatus.FEW_CHANNELS]
    if lost:
        message = (
            f"{coverage.evaluated_seconds:g} s were evaluated; {lost:g} s were not "
            "recorded or had too few usable channels."
        )
        notices.append(Notice("W_WINDOW", message))
    recorded = _recorded(results)
    masked = sum(len(r.faults) for r in recorded) / len(recorded) / len(monitor.channels)
    if masked > FEW_MASKED:
        message = f"{100 * masked:.0f} % of the signal could not be used."
        notices.append(Notice("W_CHANNELS", message))
    return notices


def _amplitude_notices(results: Sequence["SegmentResult"]) -> list[Notice]:
    low, high = PLAUSIBLE_AMPLITUDE
    evaluated = [r for r in results if r.status == SegmentStatus.EVALUATED]
    strange = [r.amplitude for r in evaluated if not low <= r.amplitude <= high]
    if not strange:
        return []
    message = (
        f"In {len(strange)} of {len(evaluated)} segments the amplitude of the median "
        f"channel is not between {low:g} and {high:g} µV (one is {strange[0]:.3g} µV): "
        "check the unit."
    )
    return [Notice("W_AMPLITUDE", message)]
