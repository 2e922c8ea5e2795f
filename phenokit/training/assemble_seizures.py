"""From a trained seizure network to a bundle: calibration, threshold, figures, card."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from phenokit.errors import BadInput
from phenokit.evidence.seizure_patients import (
    ScoredRecording,
    SeizureScores,
    bootstrap_patients,
    choose_threshold,
    pool,
    score_patients,
)
from phenokit.evidence.seizures import EventRule
from phenokit.monitor import KIND, IEEGModel, SeizureMonitor
from phenokit.networks.checkpoint import write_bundle
from phenokit.networks.mvpformer import MVPFormer, to_arrays
from phenokit.recording import SegmentStatus
from phenokit.training.calibrate import fit_platt
from phenokit.training.loop import Report
from phenokit.training.recipe import CardTexts, SeizureRecipe
from phenokit.training.segment_archive import ArchivedRecording, SegmentArchive
from phenokit.training.seizures import fit_seizures

SCORES: dict[str, Callable[[SeizureScores], float | None]] = {
    "event F1": lambda scores: scores.events.f1,
    "event sensitivity": lambda scores: scores.events.sensitivity,
    "event precision": lambda scores: scores.events.precision,
    "false alarms per 24 h": lambda scores: scores.events.false_alarms_per_day,
    "median delay (s)": lambda scores: scores.median_delay,
    "segment kappa": lambda scores: scores.segments.kappa,
    "segment AUROC": lambda scores: scores.auroc,
}
"""What is reported of a split, all its patients together."""


def train_ieeg(
    recipe: SeizureRecipe,
    archive: SegmentArchive,
    out: Path,
    *,
    seed: int,
    run_folder: Path,
    today: date,
    device: str = "cpu",
    resume: bool = False,
    report: Report = lambda _: None,
) -> str:
    """Train a recipe on an archive and write its bundle.

    Parameters
    ----------
    archive
        With training and validation patients; test patients, if it has any, are scored for
        the card and decide nothing.
    today
        The date on the card.

    Returns
    -------
    str
        The bundle hash.
    """
    config = recipe.network_config(archive)
    settings = recipe.fit_config(seed)
    network = fit_seizures(
        config,
        archive,
        settings,
        run_folder=run_folder,
        device=device,
        resume=resume,
        report=report,
    )
    return assemble(
        network,
        archive,
        out,
        name=recipe.name,
        texts=recipe.card,
        limit=recipe.false_alarms_per_day,
        training=asdict(settings),
        today=today,
    )


def assemble(
    network: MVPFormer,
    archive: SegmentArchive,
    out: Path,
    *,
    name: str,
    texts: CardTexts,
    limit: float,
    training: dict[str, Any],
    today: date,
) -> str:
    """Calibrate and choose the threshold on validation, measure, and write the bundle.

    Parameters
    ----------
    limit
        False alarms per 24 h that the threshold may give on validation.
    training
        Settings, for ``config.json``.

    Returns
    -------
    str
        The bundle hash.

    Raises
    ------
    BadInput
        ``E_EMPTY`` if there is no validation recording.
    """
    if not archive.of("val"):
        raise BadInput("E_EMPTY", "no validation recording chooses the threshold")
    model = model_of(network, archive, name=name)
    raw = [score_archived(model, archive, one) for one in archive.of("val")]
    model = calibrated(model, raw, limit=limit)
    shown, split = raw, "validation"
    if archive.of("test"):
        shown = [score_archived(model, archive, one) for one in archive.of("test")]
        split = "test"
    else:
        shown = [rescaled(one, model) for one in raw]
    rule = model.event_rule
    return write_bundle(
        out,
        config={
            "kind": KIND,
            "network": network.config.to_dict(),
            "segments": archive.rule.to_dict(),
            "streaming": model.streaming,
            "n_segments": model.n_segments,
            "archive": {"dataset": archive.dataset},
            "training": training,
        },
        tensors={
            key: array.astype(np.float16) for key, array in to_arrays(network).items()
        },
        calibration={
            "theta_on": rule.theta_on,
            "theta_off": rule.off,
            "median": rule.median,
            "join_gap": rule.join_gap,
            "minimum_duration": rule.minimum_duration,
            "platt": {"slope": model.slope, "intercept": model.intercept},
        },
        card=_card(name, texts, archive, model, raw, shown, split, limit, today),
    )


def model_of(network: MVPFormer, archive: SegmentArchive, *, name: str) -> IEEGModel:
    """The network as it scores, before calibration; weights as the bundle keeps them."""
    for parameter in network.parameters():
        parameter.data = parameter.data.half().float()
    return IEEGModel(
        name=name,
        config=network.config,
        segments=archive.rule,
        event_rule=EventRule(),
        streaming="cached",
        n_segments=network.config.rule.horizon or 1,
        network=network,
    )


def calibrated(
    model: IEEGModel, recordings: Sequence[ScoredRecording], *, limit: float
) -> IEEGModel:
    """The model with Platt scaling and threshold chosen on these validation recordings.

    Parameters
    ----------
    recordings
        As the model scored them without calibration.
    limit
        False alarms per 24 h that are allowed.
    """
    label, logit = [], []
    for one in recordings:
        evaluated = one.status == SegmentStatus.EVALUATED
        label.append(one.label[evaluated])
        logit.append(_logit(one.probability[evaluated]))
    slope, intercept = fit_platt(
        np.concatenate(logit), np.concatenate(label).astype(np.float64)
    )
    model = replace(model, slope=slope, intercept=intercept)
    chosen = choose_threshold(
        [rescaled(one, model) for one in recordings], rule=model.event_rule, limit=limit
    )
    return replace(model, event_rule=chosen.rule)


def score_archived(
    model: IEEGModel, archive: SegmentArchive, recording: ArchivedRecording
) -> ScoredRecording:
    """Probabilities of one archived recording, as the monitor gives them."""
    monitor = SeizureMonitor(
        model,
        channels=recording.channels,
        sampling_rate=archive.rule.sampling_rate,
    )
    valid = archive.valid(recording)
    probability = np.full(recording.n_segments, np.nan)
    status = np.zeros(recording.n_segments, dtype=np.int8)
    for k in range(recording.n_segments):
        signal = archive.signal(recording, k, k + 1)[0]
        [result] = monitor.feed(np.where(valid[k][:, None], signal, np.float32(np.nan)))
        probability[k], status[k] = result.probability, result.status
    return ScoredRecording(
        recording.patient_id,
        probability,
        status,
        recording.seizures,
        recording.duration,
        archive.rule.duration,
    )


def rescaled(recording: ScoredRecording, model: IEEGModel) -> ScoredRecording:
    """What was scored without calibration, with the model's."""
    logit = model.slope * _logit(recording.probability) + model.intercept
    return replace(recording, probability=1 / (1 + np.exp(-logit)))


@dataclass(frozen=True)
class Figure:
    """One score of some patients with its interval over patients; ``None``: undefined."""

    name: str
    value: float | None
    low: float | None
    high: float | None


def figures(
    patients: Sequence[SeizureScores], *, rng: np.random.Generator
) -> tuple[Figure, ...]:
    """Every score of `SCORES` with a bootstrap over patients."""
    found = []
    for name, score in SCORES.items():
        interval = bootstrap_patients(
            patients, lambda sample, score=score: score(pool(sample)), rng=rng
        )
        found.append(Figure(name, interval.estimate, interval.low, interval.high))
    return tuple(found)


def _logit(probability: Float[np.ndarray, " segment"]) -> Float[np.ndarray, " segment"]:
    clipped = np.clip(probability, 1e-12, 1 - 1e-12)
    return np.log(clipped / (1 - clipped))


def _card(
    name: str,
    texts: CardTexts,
    archive: SegmentArchive,
    model: IEEGModel,
    validation: Sequence[ScoredRecording],
    shown: Sequence[ScoredRecording],
    split: str,
    limit: float,
    today: date,
) -> dict[str, Any]:
    """The card: the recipe's texts and every figure that was measured."""
    train = archive.of("train")
    labels = [archive.label(one) for one in train]
    patients = list(score_patients(shown, model.event_rule).values())
    pooled = pool(patients)
    hours = pooled.events.seconds / 3600
    counts = {
        "n": int(pooled.label.size),
        "n_positive": int(pooled.label.sum()),
    }
    where = (
        f"seizures ({split}: {len(patients)} patients, {hours:.0f} h, "
        f"{pooled.events.n_reference} seizures)"
    )
    card = texts.model_dump(exclude={"training_data", "split"})
    return card | {
        "name": name,
        "date": today,
        "training": {
            "data": texts.training_data,
            "n_recordings": len(train),
            "n_patients": len({one.patient_id for one in train}),
            "preprocessing": (
                f"{archive.rule.sampling_rate:g} Hz, segments of "
                f"{archive.rule.duration:g} s, reference {archive.rule.reference}, "
                "mean of each segment and channel removed"
            ),
            "split": texts.split,
        },
        "calibration": {
            "method": (
                f"Platt scaling of segments (slope {model.slope:.3g}, intercept "
                f"{model.intercept:.3g}); threshold {model.event_rule.theta_on:g}: best "
                f"event F1 with at most {limit:g} false alarms per 24 h"
            ),
            "data": f"{len(validation)} validation recordings",
            "slope": [],
        },
        "out_of_distribution": {
            "method": "none: unit, sampling rate, channels and faults are checked",
            "threshold": 0.0,
            "false_positive_rate": 0.0,
            "detection": [],
        },
        "prevalence": {"seizure": {"training": float(np.concatenate(labels).mean())}},
        "performance": [
            _metric(figure, where, **counts)
            for figure in figures(patients, rng=np.random.default_rng(0))
        ],
        "subgroups": [],
    }


def _metric(figure: Figure, label: str, *, n: int, n_positive: int) -> dict[str, Any]:
    entry = {"label": label, "metric": figure.name, "n": n, "n_positive": n_positive}
    if figure.value is None or figure.low is None or figure.high is None:
        return entry | {"undefined": "no seizure was found, or none was annotated"}
    return entry | {"value": figure.value, "low": figure.low, "high": figure.high}
