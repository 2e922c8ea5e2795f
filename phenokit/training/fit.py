"""Staged training of a prototype network (ProtoECGNet, arXiv 2504.08713, section 6).

1. ``features``: trunks and add-ons, with a plain linear head a branch that is thrown away;
   every branch sees every label.
2. ``prototypes``: each label's prototypes start as cluster centres of its training windows.
3. ``joint``: trunks, add-ons, prototypes and heads with the five-term loss.
4. ``projection`` (`project.py`): prototypes become pieces of training ECGs; nothing is
   trained.
5. ``heads`` (`heads.py`): fused head on fixed similarities; the penalty is the one
   that does best on validation.

Departures from the published code: a first stage with all labels, clusters instead of
random prototypes, heads that move in the joint stage, convex heads, unknown labels masked,
frozen parts in eval mode.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from phenokit.networks.prototype import (
    PrototypeConfig,
    PrototypeNetwork,
    full_precision,
    pool_windows,
)
from phenokit.statements import Branch, superclasses_of
from phenokit.training.augment import augment
from phenokit.training.dataset import TrainingSet, blocks
from phenokit.training.evaluate import macro_auroc
from phenokit.training.heads import LinearHead, fit_head
from phenokit.training.loop import (
    FitConfig,
    Loop,
    Progress,
    Report,
    draw_generators,
    fingerprint,
    initialise,
)
from phenokit.training.losses import (
    classification,
    label_cooccurrence,
    positive_weights,
    prototype_terms,
)
from phenokit.training.project import FeatureBlock, Sources, Unique, find_sources


def fit(
    config: PrototypeConfig,
    data: TrainingSet,
    settings: FitConfig,
    *,
    run_folder: Path,
    device: str = "cpu",
    resume: bool = False,
    report: Report = lambda _: None,
) -> tuple[PrototypeNetwork, dict[Branch, Sources]]:
    """Train a network through all stages.

    Parameters
    ----------
    run_folder
        Holds a checkpoint after every epoch.
    device
        ``"cpu"`` or ``"cuda"``; on CUDA in autocast, with smaller steps when memory is
        short. On an H100 a run that was killed and resumed ended in the same bits, too.
    resume
        Go on from the checkpoint of the same configuration and data.

    Returns
    -------
    PrototypeNetwork
        On the CPU, in eval mode.
    dict
        Sources of each branch's prototypes; `Sources.row` counts the archive's rows.

    Raises
    ------
    BadInput
        ``E_VERSION`` if a checkpoint to resume is of another configuration or data.
    """
    network = PrototypeNetwork(config)
    initialise(network, settings.seed)
    loop = Loop(
        data,
        settings,
        run_folder=run_folder,
        fingerprint=fingerprint(config.to_dict(), data, settings),
        device=device,
        resume=resume,
        report=report,
    )
    stages = _Stages(network, loop)
    stages.fit_features()
    if not loop.is_started("joint"):
        stages.start_prototypes()
    stages.fit_joint()
    sources = project(
        network,
        data,
        unique=settings.unique,
        device=device,
        batch_size=settings.batch_size,
    )
    fit_heads(network, data, settings, sources=sources, device=device, report=report)
    return network.cpu().eval(), sources


# --- inference over an archive ----------------------------------------------------------


@torch.inference_mode()
def score_rows(
    network: PrototypeNetwork,
    data: TrainingSet,
    rows: Int[np.ndarray, " row"],
    *,
    device: str = "cpu",
    batch_size: int = 64,
) -> tuple[Float[np.ndarray, "row prototype"], Float[np.ndarray, "row label"]]:
    """Similarities and logits of some rows of the archive."""
    network = network.to(device).eval()
    with full_precision(device):
        parts = [
            network(torch.from_numpy(data.archive.block(block)).to(device))
            for block in blocks(rows, batch_size)
        ]
    return (
        torch.cat([p.similarity for p in parts]).double().cpu().numpy(),
        torch.cat([p.logit for p in parts]).double().cpu().numpy(),
    )


@torch.inference_mode()
def project(
    network: PrototypeNetwork,
    data: TrainingSet,
    *,
    unique: Unique = "record",
    device: str = "cpu",
    batch_size: int = 64,
) -> dict[Branch, Sources]:
    """Replace every prototype by the training window nearest to it.

    A prototype whose label has no record left keeps its vector and has row -1.
    """
    network = network.to(device).eval()
    sources: dict[Branch, Sources] = {}
    for name, branch in network.config.branches.items():
        columns = [data.label_codes.index(code) for code in branch.labels]
        latent = (
            FeatureBlock(
                network.features(torch.from_numpy(data.archive.block(rows)).to(device))[
                    name
                ],
                data.labels[rows][:, columns],
                rows,
            )
            for rows in blocks(data.train, batch_size)
        )
        with full_precision(device):
            found = find_sources(
                latent,
                network.prototypes[name],
                branch.n_prototypes,
                record_ids=data.record_ids,
                patient_ids=data.patient_ids,
                unique=unique,
                reference=network.config.similarity == "reference",
            )
        network.prototypes[name].copy_(found.vectors)
        sources[name] = found
    return sources


def fit_heads(
    network: PrototypeNetwork,
    data: TrainingSet,
    settings: FitConfig,
    *,
    sources: Mapping[Branch, Sources] | None = None,
    device: str = "cpu",
    report: Report = lambda _: None,
) -> None:
    """Fit branch classifiers and the fused head; the rest of the network stays as it is.

    They learn from augmented views of the training records (`FitConfig.head_views`). The
    fused head's L1 penalty is the one of `FitConfig.l1_grid` with the best validation
    macro-AUROC.

    With `sources` an explanation reads as it should: only prototypes of a label speak for
    it, and only those speak against it whose source ECG has it not (`source_signs`).
    """
    train, y = _augmented_similarities(network, data, settings, device=device)
    validation, _ = score_rows(network, data, data.validation, device=device)
    y_validation = data.labels[data.validation]
    weight = positive_weights(y, settings.pos_weight, cap=settings.pos_weight_cap)
    sign = None if sources is None else source_signs(network.config, sources, data)
    best: tuple[float, LinearHead] | None = None
    for n, l1 in enumerate(settings.l1_grid):
        head = fit_head(
            train,
            y,
            l1=l1,
            l2=settings.l2,
            sign=sign,
            pos_weight=weight,
            tolerance=1e-6,
        )
        score = macro_auroc(y_validation, validation @ head.weight.T + head.bias)
        report(Progress("heads", n + 1, len(settings.l1_grid), l1, score))
        if best is None or score > best[0]:
            best = (score, head)
    assert best is not None
    _set_head(network.fusion, best[1])
    start = 0
    for name, branch in network.config.branches.items():
        stop = start + sum(branch.n_prototypes)
        columns = [data.label_codes.index(code) for code in branch.labels]
        foreign = 1 - network.label_identity(name).T.double().numpy()
        head = fit_head(
            train[:, start:stop],
            y[:, columns],
            l1=settings.loss.l1,
            l2=settings.l2,
            penalised=foreign,
            pos_weight=weight[columns],
            tolerance=1e-6,
        )
        _set_head(network.classifiers[name], head)
        start = stop


def source_signs(
    config: PrototypeConfig, sources: Mapping[Branch, Sources], data: TrainingSet
) -> Int[np.ndarray, "label prototype"]:
    """Which prototypes may speak for a label (1), against it (-1), or not at all (0).

    For it: prototypes of the label, of a statement that belongs to it as a superclass, or
    of its own superclass, if the source ECG has the label. Against it: any prototype whose
    source ECG has it not. Where nobody knows: none.
    """
    owners = [
        label
        for branch in config.branches.values()
        for label, count in zip(branch.labels, branch.n_prototypes, strict=True)
        for _ in range(count)
    ]
    related = np.array([[_is_related(a, b) for b in owners] for a in config.labels])
    rows = np.concatenate([found.row for found in sources.values()])
    of_source = np.where(rows[:, None] >= 0, data.labels[rows], np.nan).T
    return np.where(of_source == 1, related, np.where(of_source == 0, -1, 0)).astype(
        np.int64
    )


def _is_related(label: str, owner: str) -> bool:
    """Whether both are the same, or one is the superclass of the other."""
    return (
        label == owner
        or owner in superclasses_of(frozenset({label}))
        or label in superclasses_of(frozenset({owner}))
    )


@torch.inference_mode()
def _augmented_similarities(
    network: PrototypeNetwork, data: TrainingSet, settings: FitConfig, *, device: str
) -> tuple[Float[np.ndarray, "view prototype"], Float[np.ndarray, "view label"]]:
    """Similarities of augmented views of the training records, with their labels."""
    network = network.to(device).eval()
    settings_without_mixing = replace(settings.augmentation, mixup=0.0)
    similarity: list[Tensor] = []
    for view in range(settings.head_views):
        draw = draw_generators(settings.seed, "heads", view)
        for rows in blocks(data.train, settings.batch_size):
            labels = torch.tensor(data.labels[rows])
            signal, _ = augment(
                torch.from_numpy(data.archive.block(rows)),
                labels,
                settings_without_mixing,
                generator=draw.augmentation,
            )
            with full_precision(device):
                output = network(signal.to(device))
            similarity.append(output.similarity.double().cpu())
    return torch.cat(similarity).numpy(), np.tile(
        data.labels[data.train], (settings.head_views, 1)
    )


# --- stages -----------------------------------------------------------------------------


class _Stages:
    """The gradient stages of one run."""

    def __init__(self, network: PrototypeNetwork, loop: Loop) -> None:
        self.network = network.to(loop.device)
        self.loop = loop
        data, settings, device = loop.data, loop.settings, loop.device
        config = network.config
        self.feature_heads = nn.ModuleDict(
            {
                name: nn.Linear(
                    (2 if branch.window else 1) * network.prototypes[name].shape[1],
                    len(config.labels),
                )
                for name, branch in config.branches.items()
            }
        )
        initialise(self.feature_heads, settings.seed + 1)
        self.feature_heads.to(device)
        train_labels = data.labels[data.train]
        self.pos_weight = torch.tensor(
            positive_weights(
                train_labels, settings.pos_weight, cap=settings.pos_weight_cap
            ),
            dtype=torch.float32,
            device=device,
        )
        self.columns = {
            name: [data.label_codes.index(code) for code in branch.labels]
            for name, branch in config.branches.items()
        }
        self.cooccurrence = {
            name: torch.tensor(
                label_cooccurrence(train_labels[:, columns]),
                dtype=torch.float32,
                device=device,
            )
            for name, columns in self.columns.items()
        }

    def fit_features(self) -> None:
        """Stage 1: trunks, contexts and add-ons with plain heads."""
        parts = nn.ModuleDict(
            {
                "trunks": self.network.trunks,
                "contexts": self.network.contexts,
                "add_ons": self.network.add_ons,
                "dropout": self.network.dropout,  # off while validating
                "feature_heads": self.feature_heads,
            }
        )

        def loss(signal: Tensor, labels: Tensor) -> Tensor:
            logits = self._feature_logits(signal)
            return torch.stack(
                [classification(z, labels, self.pos_weight) for z in logits.values()]
            ).sum()

        def scores(signal: Tensor) -> Tensor:
            return torch.stack(list(self._feature_logits(signal).values())).mean(0)

        self.loop.run(
            "features",
            parts,
            loss,
            scores,
            self.loop.settings.feature_epochs,
            self.loop.settings.learning_rate,
        )

    def _feature_logits(self, signal: Tensor) -> dict[Branch, Tensor]:
        logits: dict[Branch, Tensor] = {}
        for name, z in self.network.features(signal).items():
            z = F.normalize(z, dim=1) * z.shape[1] ** 0.5
            if self.network.config.branches[name].window:
                z = torch.cat([z.mean(-1), z.amax(-1)], dim=1)
            else:
                z = z[..., 0]
            logits[name] = self.feature_heads[name](z)
        return logits

    @torch.inference_mode()
    def start_prototypes(self) -> None:
        """Stage 2: cluster centres of each label's windows, then heads fitted to them."""
        from sklearn.cluster import KMeans

        self.network.eval()
        for name, branch in self.network.config.branches.items():
            start = 0
            for label, count in zip(branch.labels, branch.n_prototypes, strict=True):
                patches = self._label_patches(name, label)
                if len(patches) >= count > 0:
                    clusters = KMeans(count, random_state=self.loop.settings.seed).fit(
                        patches.numpy()
                    )
                    vectors = torch.tensor(clusters.cluster_centers_, dtype=torch.float32)
                    shape = self.network.prototypes[name].shape[1:]
                    self.network.prototypes[name][start : start + count] = rearrange(
                        vectors, "p (f s) -> p f s", f=shape[0], s=shape[1]
                    ).to(self.loop.device)
                start += count
        fit_heads(
            self.network,
            self.loop.data,
            self.loop.settings,
            device=self.loop.device,
            report=self.loop.report,
        )
        self.network.to(self.loop.device)

    def _label_patches(self, name: Branch, label: str) -> Float[Tensor, "patch vector"]:
        """One normalised patch for each training record that carries the label.

        Of a windowed branch, the window that speaks most for the label by the feature head.
        """
        window = self.network.config.branches[name].window
        column = self.loop.data.label_codes.index(label)
        rows = self.loop.data.train[
            self.loop.data.labels[self.loop.data.train, column] == 1
        ]
        weight = cast(nn.Linear, self.feature_heads[name]).weight[column]
        patches: list[Tensor] = []
        for block in blocks(rows, self.loop.settings.batch_size):
            z = self.network.features(self.loop.signal(block))[name]
            if window is None:
                patches.append(z[..., 0])
                continue
            evidence = torch.einsum(
                "bft,f->bt", F.normalize(z, dim=1), weight[-z.shape[1] :]
            )
            best = evidence.unfold(1, window, 1).mean(-1).argmax(1)
            windows = rearrange(z.unfold(2, window, 1), "b f w s -> b w (f s)")
            patches.append(windows[torch.arange(len(windows)), best])
        return (
            F.normalize(torch.cat(patches), dim=1).cpu() if patches else torch.zeros(0, 1)
        )

    def fit_joint(self) -> None:
        """Stage 3: everything, with the five-term loss."""
        network, settings = self.network, self.loop.settings

        def loss(signal: Tensor, labels: Tensor) -> Tensor:
            windows = network.similarities(network.features(signal))
            pooled = {
                n: pool_windows(s, network.config.pooling) for n, s in windows.items()
            }
            fused = network.fusion(torch.cat(list(pooled.values()), dim=1))
            total = classification(fused, labels, self.pos_weight)
            hard = torch.where(labels > 0.5, 1.0, torch.where(labels >= 0, 0.0, labels))
            for name in network.config.branches:
                similarity = pooled[name]
                columns = self.columns[name]
                total = total + prototype_terms(
                    similarity,
                    hard[:, columns],
                    network.prototypes[name],
                    network.label_identity(name).to(similarity.device),
                    self.cooccurrence[name],
                    settings.loss,
                )
            return total

        self.loop.run(
            "joint",
            network,
            loss,
            lambda signal: network(signal).logit,
            settings.joint_epochs,
            settings.joint_learning_rate,
        )


def _set_head(linear: nn.Module, head: LinearHead) -> None:
    assert isinstance(linear, nn.Linear)
    with torch.no_grad():
        linear.weight.copy_(torch.from_numpy(head.weight))
        if linear.bias is not None:
            linear.bias.copy_(torch.from_numpy(head.bias))
