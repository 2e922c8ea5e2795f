"""From a trained network to a bundle: what stands beside the weights, and the card."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int

from phenokit.errors import BadInput
from phenokit.evidence.trust import Calibration, Trust, fit_trust
from phenokit.networks.card import SENSITIVITY, SPECIFICITY
from phenokit.networks.checkpoint import Bundle, load_bundle, write_bundle
from phenokit.networks.prototype import (
    SAMPLES,
    PrototypeConfig,
    PrototypeNetwork,
    from_arrays,
    to_arrays,
    window_bounds,
)
from phenokit.preprocessing.contract import InputContract
from phenokit.readers.packed import PackedArchive
from phenokit.statements import SCP_STATEMENTS, SUPERCLASSES, Branch
from phenokit.training.augment import Augmentation
from phenokit.training.calibrate import calibrate
from phenokit.training.dataset import TrainingSet, training_set
from phenokit.training.evaluate import Interval, Metrics, evaluate_scores
from phenokit.training.fit import fit, fit_heads, project, score_rows
from phenokit.training.loop import FitConfig, Report
from phenokit.training.losses import LossWeights
from phenokit.training.project import Sources, Unique
from phenokit.training.recipe import CardTexts, Recipe

SAMPLING_RATE = 100.0


def train_ecg(
    recipe: Recipe,
    archive: PackedArchive,
    out: Path,
    *,
    contract: InputContract,
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
    contract
        Input contract of the model; must be the one that the archive was prepared by.
    today
        The date on the card.

    Returns
    -------
    str
        The bundle hash.
    """
    if archive.contract_id != contract.identifier:
        raise BadInput(
            "E_VERSION",
            f"the archive was prepared as {archive.contract_id}, the recipe asks for "
            f"{contract.identifier}: pack it again",
        )
    labels = recipe.label_codes(archive)
    data = training_set(archive, labels)
    settings = recipe.fit_config(seed)
    network, sources = fit(
        recipe.network_config(labels),
        data,
        settings,
        run_folder=run_folder,
        device=device,
        resume=resume,
        report=report,
    )
    return assemble(
        network,
        sources,
        data,
        out,
        name=recipe.name,
        contract=contract,
        texts=recipe.card,
        settings=settings,
        today=today,
        include_waveforms=recipe.include_waveforms,
    )


def assemble(
    network: PrototypeNetwork,
    sources: Mapping[Branch, Sources],
    data: TrainingSet,
    out: Path,
    *,
    name: str,
    contract: InputContract,
    texts: CardTexts,
    settings: FitConfig,
    today: date,
    include_waveforms: bool = False,
) -> str:
    """Calibrate, measure and write the bundle of a projected network.

    Prototypes without a source are dropped: they stand for no recording.

    Returns
    -------
    str
        The bundle hash.
    """
    network, sources = _drop_unprojected(network, sources)
    train_similarity, _ = score_rows(network, data, data.train)
    _, validation_logit = score_rows(network, data, data.validation)
    calibration = calibrate(validation_logit, data.labels[data.validation])
    trust = fit_trust(
        latent_rows(network, data, data.train),
        data.labels[data.train][:, _class_columns(data)],
        latent_rows(network, data, data.validation),
        train_similarity,
    )
    metrics = {
        split: evaluate_rows(network, data, rows, calibration, seed=settings.seed)
        for split, rows in (("validation", data.validation), ("test", data.test))
        if len(rows)
    }
    config = {
        "kind": "ecg-prototype",
        "network": network.config.to_dict(),
        "input": contract.to_dict(),
        "archive": {"dataset": data.archive.dataset, "contract": data.archive.contract_id},
        "training": asdict(settings),
    }
    return write_bundle(
        out,
        config=config,
        tensors=to_arrays(network),
        prototypes=prototype_table(
            network, sources, data, settings, include_waveforms=include_waveforms
        ),
        calibration={"labels": list(data.label_codes), **calibration.to_dict()},
        trust=trust.to_arrays(),
        card=_card(
            name, texts, data, calibration, trust, network, metrics, contract, today
        ),
    )


@dataclass(frozen=True)
class Evaluation:
    """A model on one split of an archive."""

    model: str
    bundle_hash: str
    dataset: str
    split: str
    metrics: Metrics
    scp_macro_auroc: Interval
    scp_labels: tuple[str, ...]
    distinct_sources: dict[str, float]


MIN_TEST_POSITIVES = 10
"""SCP codes with fewer positives in a split are not part of its macro mean."""


def evaluate_bundle(
    model: str | Path, archive: PackedArchive, *, split: str, seed: int
) -> Evaluation:
    """Measure a bundle on a split of an archive.

    Parameters
    ----------
    split
        ``"train"``, ``"val"``, ``"test"``, or ``"all"``. Labels that the archive lacks
        count as unknown.
    seed
        Of the patient bootstrap.

    Raises
    ------
    BadInput
        ``E_VERSION`` if the archive was prepared by another contract, ``E_EMPTY`` if the
        split has no record.
    """
    bundle = load_bundle(model)
    network, _ = _network_of(bundle, archive)
    labels = network.config.labels
    data = _aligned(archive, labels)
    rows = np.arange(len(archive))
    if split != "all":
        rows = np.flatnonzero((archive.table["split"] == split).to_numpy())
    if not len(rows):
        raise BadInput("E_EMPTY", f"the archive has no record in the split {split}")
    calibration = Calibration.from_dict(bundle.calibration)
    metrics = evaluate_rows(network, data, rows, calibration, seed=seed)
    superclasses = {s.code for s in SUPERCLASSES}
    scp = [code for code in labels if code not in superclasses]
    _, logit = score_rows(network, data, rows)
    patients = data.patient_ids
    of_codes = evaluate_scores(
        data.labels[rows],
        calibration.probability(logit),
        labels,
        [patients[row] for row in rows],
        rng=np.random.default_rng(seed),
        macro_labels=scp,
        min_positives=MIN_TEST_POSITIVES,
    )
    return Evaluation(
        model=bundle.name,
        bundle_hash=bundle.bundle_hash,
        dataset=archive.dataset,
        split=split,
        metrics=metrics,
        scp_macro_auroc=of_codes.macro_auroc,
        scp_labels=of_codes.macro_labels,
        distinct_sources=distinct_sources(bundle.prototypes),
    )


def project_bundle(
    model: str | Path,
    archive: PackedArchive,
    out: Path,
    *,
    unique: Unique,
    include_waveforms: bool,
    today: date,
) -> str:
    """Anchor a bundle's prototypes on another archive and write the new bundle.

    Backbone and add-on layers stay as they are; the heads are fitted again to the new
    similarities, and the model is calibrated on the archive's validation split.

    Returns
    -------
    str
        The bundle hash.

    Raises
    ------
    BadInput
        As `evaluate_bundle` and `training_set`.
    """
    bundle = load_bundle(model)
    network, contract = _network_of(bundle, archive)
    data = training_set(archive, network.config.labels)
    settings = replace(_settings(bundle.config["training"]), unique=unique)
    sources = project(network, data, unique=unique)
    fit_heads(network, data, settings, sources=sources)
    card = bundle.card
    texts = CardTexts.model_validate(
        {key: card[key] for key in CardTexts.model_fields if key in card}
        | {
            "first_line": f"{card['first_line']} Prototypes anchored on {archive.dataset}.",
            "training_data": f"{card['training']['data']}; prototypes: {archive.dataset}",
            "split": card["training"]["split"],
        }
    )
    return assemble(
        network,
        sources,
        data,
        out,
        name=out.name,
        contract=contract,
        texts=texts,
        settings=settings,
        today=today,
        include_waveforms=include_waveforms,
    )


def distinct_sources(prototypes: pd.DataFrame) -> dict[str, float]:
    """Share of each label's prototypes that come from distinct records, within a branch."""
    return {
        str(label): float(group.groupby("branch")["record_id"].nunique().sum() / len(group))
        for label, group in prototypes.groupby("label")
    }


def _settings(plain: Mapping[str, Any]) -> FitConfig:
    """The settings that a bundle was trained with, from its ``config.json``."""
    nested = {
        "loss": LossWeights(**plain["loss"]),
        "augmentation": Augmentation(**plain["augmentation"]),
        "l1_grid": tuple(plain["l1_grid"]),
    }
    return FitConfig(**{**plain, **nested})


def _network_of(
    bundle: Bundle, archive: PackedArchive
) -> tuple[PrototypeNetwork, InputContract]:
    """The bundle's network, if the archive was prepared by its contract."""
    contract = InputContract.from_dict(bundle.config["input"])
    if archive.contract_id != contract.identifier:
        raise BadInput(
            "E_VERSION",
            f"the archive was prepared as {archive.contract_id}; {bundle.name} reads "
            f"{contract.identifier}: pack it again for this model",
        )
    config = PrototypeConfig.from_dict(bundle.config["network"])
    return from_arrays(config, bundle.tensors), contract


def _aligned(archive: PackedArchive, labels: tuple[str, ...]) -> TrainingSet:
    """The archive with the network's labels; those that it lacks are unknown."""
    column = {code: k for k, code in enumerate(archive.label_codes)}
    unknown = np.full(len(archive), np.nan)
    aligned = [
        archive.labels[:, column[code]].astype(np.float64) if code in column else unknown
        for code in labels
    ]
    rows = np.zeros(0, dtype=int)
    return TrainingSet(archive, labels, np.stack(aligned, axis=1), rows, rows, rows)


def prototype_table(
    network: PrototypeNetwork,
    sources: Mapping[Branch, Sources],
    data: TrainingSet,
    settings: FitConfig,
    *,
    include_waveforms: bool,
) -> pd.DataFrame:
    """One row a prototype: where it comes from and how it was made.

    With `include_waveforms` each row holds its source recording as prepared for the
    network, 12 leads one after the other, int16 microvolts.
    """
    table = data.archive.table
    rows: list[dict[str, Any]] = []
    for branch_name, branch in network.config.branches.items():
        found = sources[branch_name]
        owner = np.repeat(branch.labels, branch.n_prototypes)
        samples = network.window_samples(branch_name)
        for k, (row, window) in enumerate(zip(found.row, found.window, strict=True)):
            start, stop = window_bounds(int(window), branch.window)
            record = table.iloc[int(row)]
            same = (found.row == row) & (owner == owner[k])
            entry = {
                "prototype_id": len(rows),
                "branch": branch_name,
                "index_in_branch": k,
                "label": str(owner[k]),
                "dataset": str(record["dataset"]),
                "record_id": str(record["record_id"]),
                "patient_id": _text_or_none(record["patient_id"]),
                "split": str(record["split"]),
                "fold": None if pd.isna(record["fold"]) else int(record["fold"]),
                "window_index": int(window),
                "window_steps": branch.window,
                "start_sample": start,
                "stop_sample": stop,
                "start": start / SAMPLING_RATE,
                "stop": stop / SAMPLING_RATE,
                "sampling_rate": SAMPLING_RATE,
                "receptive_field": (samples or SAMPLES) / SAMPLING_RATE,
                "labels": _positive_labels(data, int(row)),
                "n_same_record": int(same.sum()),
                "score_before": float(found.similarity[k]),
                "score_after": 1.0,
                "ceiling": 1.0,
                "preprocessing": data.archive.contract_id,
                "unique_mode": settings.unique,
                "pooling": network.config.pooling,
            }
            if include_waveforms:
                signal = data.archive.block(np.array([row]))[0]
                entry["waveform_uv"] = np.round(signal * 1000).astype(np.int16).ravel()
            rows.append(entry)
    frame = pd.DataFrame(rows)
    for column in ("fold", "window_steps"):
        frame[column] = frame[column].astype("Int64")
    return frame


@torch.inference_mode()
def latent_rows(
    network: PrototypeNetwork, data: TrainingSet, rows: Int[np.ndarray, " row"]
) -> Float[np.ndarray, "row feature"]:
    """Normalised latent features of some rows, as `Trust` reads them."""
    network.eval()
    parts = [
        network(torch.from_numpy(data.archive.block(rows[first : first + 64]))).features
        for first in range(0, len(rows), 64)
    ]
    return torch.cat(parts).double().numpy()


def evaluate_rows(
    network: PrototypeNetwork,
    data: TrainingSet,
    rows: Int[np.ndarray, " row"],
    calibration: Calibration,
    *,
    seed: int,
) -> Metrics:
    """Metrics of a split; the macro mean is over the superclasses where there are any."""
    _, logit = score_rows(network, data, rows)
    superclasses = [s.code for s in SUPERCLASSES if s.code in data.label_codes]
    patients = data.patient_ids
    return evaluate_scores(
        data.labels[rows],
        calibration.probability(logit),
        data.label_codes,
        [patients[row] for row in rows],
        rng=np.random.default_rng(seed),
        macro_labels=superclasses or None,
        threshold=calibration.threshold,
    )


def _drop_unprojected(
    network: PrototypeNetwork, sources: Mapping[Branch, Sources]
) -> tuple[PrototypeNetwork, dict[Branch, Sources]]:
    """The network without the prototypes that found no source."""
    if all(found.found.all() for found in sources.values()):
        return network, dict(sources)
    branches, kept, keep_all = {}, {}, []
    state = network.state_dict()
    for name, branch in network.config.branches.items():
        keep = sources[name].found
        keep_all.append(keep)
        counts = np.add.reduceat(
            keep.astype(int), np.cumsum([0, *branch.n_prototypes[:-1]])
        )
        branches[name] = replace(branch, n_prototypes=tuple(counts.tolist()))
        kept[name] = _select(sources[name], keep)
        mask = torch.from_numpy(keep)
        state[f"prototypes.{name}"] = state[f"prototypes.{name}"][mask]
        key = f"classifiers.{name}.weight"
        state[key] = state[key][:, mask]
    state["fusion.weight"] = state["fusion.weight"][
        :, torch.from_numpy(np.concatenate(keep_all))
    ]
    smaller = PrototypeNetwork(replace(network.config, branches=branches))
    smaller.load_state_dict(state)
    return smaller.eval(), kept


def _select(sources: Sources, keep: Bool[np.ndarray, " prototype"]) -> Sources:
    return Sources(
        sources.row[keep],
        sources.window[keep],
        sources.similarity[keep],
        sources.vectors[torch.from_numpy(keep)],
    )


def _positive_labels(data: TrainingSet, row: int) -> list[str]:
    """All positive labels of a record, learnt or not."""
    archive = data.archive
    return [
        code
        for code, value in zip(archive.label_codes, archive.labels[row], strict=True)
        if value == 1
    ]


def _class_columns(data: TrainingSet) -> list[int]:
    superclasses = {s.code for s in SUPERCLASSES}
    return [k for k, code in enumerate(data.label_codes) if code in superclasses]


def _text_or_none(value: Any) -> str | None:  # noqa: ANN401 - a cell of a table
    return None if value is None or pd.isna(value) else str(value)


def _card(
    name: str,
    texts: CardTexts,
    data: TrainingSet,
    calibration: Calibration,
    trust: Trust,
    network: PrototypeNetwork,
    metrics: Mapping[str, Metrics],
    contract: InputContract,
    today: date,
) -> dict[str, Any]:
    """The card: the recipe's texts and every figure that was measured."""
    shown = metrics.get("test", metrics["validation"])
    split = "test" if "test" in metrics else "validation"
    train_labels = data.labels[data.train]
    held_out = data.test if len(data.test) else data.validation
    test = latent_rows(network, data, held_out)
    false_positives = float(
        np.mean([trust.distance(row) > trust.threshold for row in test])
    )
    assessed = set(data.label_codes)
    card = texts.model_dump(exclude={"training_data", "split"})
    card |= {
        "name": name,
        "date": today,
        "labels_not_assessed": [s.code for s in SCP_STATEMENTS if s.code not in assessed],
        "training": {
            "data": texts.training_data,
            "n_recordings": len(data.train),
            "preprocessing": contract.identifier,
            "split": texts.split,
        },
        "calibration": {
            "method": calibration.to_dict()["method"],
            "data": f"{len(data.validation)} validation recordings",
            "slope": [
                _metric(
                    m.label, "calibration slope", m.calibration_slope, m.n, m.n_positive
                )
                for m in shown.labels
            ],
        },
        "out_of_distribution": {
            "method": "Mahalanobis distance of latent features to the nearest class",
            "threshold": trust.threshold,
            "false_positive_rate": false_positives,
            "detection": [],
        },
        "prevalence": {
            code: {"training": float(np.nanmean(train_labels[:, k]))}
            for k, code in enumerate(data.label_codes)
        },
        "performance": _performance(shown, split),
        "subgroups": [],
    }
    train_patients = {data.patient_ids[row] for row in data.train}
    if None not in train_patients:
        card["training"]["n_patients"] = len(train_patients)
    return card


def _performance(metrics: Metrics, split: str) -> list[dict[str, Any]]:
    rows = [
        _metric(
            f"macro over {', '.join(metrics.macro_labels)} ({split})",
            "AUROC",
            metrics.macro_auroc,
            metrics.n_records,
            sum(m.n_positive for m in metrics.labels if m.label in metrics.macro_labels),
        )
    ]
    for label in metrics.labels:
        for kind, interval in (
            ("AUROC", label.auroc),
            ("AUPRC", label.auprc),
            (SENSITIVITY, label.sensitivity),
            (SPECIFICITY, label.specificity),
        ):
            rows.append(_metric(label.label, kind, interval, label.n, label.n_positive))
    return rows


def _metric(
    label: str, metric: str, interval: Interval, n: int, n_positive: int
) -> dict[str, Any]:
    entry = {"label": label, "metric": metric, "n": n, "n_positive": n_positive}
    if np.isnan([interval.value, interval.low, interval.high]).any():
        return entry | {"undefined": "too few recordings with one of the two outcomes"}
    return entry | {"value": interval.value, "low": interval.low, "high": interval.high}
