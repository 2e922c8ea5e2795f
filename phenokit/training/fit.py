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
frozen parts in eval mode. The epoch of the best validation macro-AUROC is kept.

What an epoch draws depends on (seed, stage, epoch) only, so that a run which was stopped
and resumed ends in the same weights as one that was not.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from phenokit.errors import BadInput
from phenokit.networks.checkpoint import read_tensors, write_tensors
from phenokit.networks.prototype import PrototypeConfig, PrototypeNetwork, pool_windows
from phenokit.readers.packed import PackedArchive
from phenokit.statements import Branch
from phenokit.training.augment import Augmentation, augment
from phenokit.training.evaluate import auroc
from phenokit.training.heads import LinearHead, fit_head
from phenokit.training.losses import (
    LossWeights,
    classification,
    label_cooccurrence,
    positive_weights,
    prototype_terms,
)
from phenokit.training.project import FeatureBlock, Sources, Unique, find_sources

Stage = Literal["features", "joint", "heads"]


@dataclass(frozen=True)
class FitConfig:
    """How a network is trained.

    Attributes
    ----------
    averaging
        Decay a step of the running mean of the weights that is validated and kept; 0: off
        (Polyak & Juditsky 1992).
    patience
        Epochs without a better validation macro-AUROC after which a stage ends; 0: never.
    pos_weight, pos_weight_cap
        Class weights of the classification term (`losses.positive_weights`).
    unique
        Whether a record or a patient may serve two prototypes of one label.
    l1_grid
        Penalties tried for the fused head.
    """

    seed: int = 0
    batch_size: int = 32
    feature_epochs: int = 30
    joint_epochs: int = 10
    learning_rate: float = 3e-3
    joint_learning_rate: float = 3e-4
    weight_decay: float = 1e-2
    averaging: float = 0.99
    patience: int = 0
    pos_weight: Literal["conventional", "reference", "none"] = "none"
    pos_weight_cap: float = 10.0
    loss: LossWeights = field(default_factory=LossWeights)
    augmentation: Augmentation = field(default_factory=Augmentation)
    unique: Unique = "record"
    l1_grid: tuple[float, ...] = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
    l2: float = 1e-3


@dataclass(frozen=True)
class TrainingSet:
    """Records of an archive by split, with the labels of one network.

    Attributes
    ----------
    labels
        Shape ``(recording, label)`` over the whole archive, in the network's order.
    train, validation, test
        Row numbers.
    """

    archive: PackedArchive
    label_codes: tuple[str, ...]
    labels: Float[np.ndarray, "recording label"]
    train: Int[np.ndarray, " train"]
    validation: Int[np.ndarray, " validation"]
    test: Int[np.ndarray, " test"]

    @property
    def record_ids(self) -> list[str]:
        """Of every row of the archive."""
        return [str(r) for r in self.archive.table["record_id"]]

    @property
    def patient_ids(self) -> list[str | None]:
        """Of every row; ``None`` where the data set does not say."""
        column = self.archive.table["patient_id"]
        return [
            None if missing else str(p)
            for p, missing in zip(column, column.isna(), strict=True)
        ]


@dataclass(frozen=True)
class Progress:
    """One line of a training log: where it is, and the validation macro-AUROC."""

    stage: Stage
    epoch: int
    n_epochs: int
    loss: float
    validation_auroc: float


Report = Callable[[Progress], None]


def training_set(archive: PackedArchive, label_codes: tuple[str, ...]) -> TrainingSet:
    """Rows and labels of an archive for one network.

    Raises
    ------
    BadInput
        ``E_COLUMNS`` if the archive lacks a label or a split, ``E_DUP_ID`` if a patient
        occurs on both sides of a split.
    """
    missing = [code for code in label_codes if code not in archive.label_codes]
    if missing:
        raise BadInput("E_COLUMNS", f"the archive has no label {', '.join(missing)}")
    split = archive.table["split"].to_numpy(dtype=object)
    rows = {name: np.flatnonzero(split == name) for name in ("train", "val", "test")}
    if not len(rows["train"]) or not len(rows["val"]):
        raise BadInput("E_COLUMNS", "the archive needs records in the splits train and val")
    column = [archive.label_codes.index(code) for code in label_codes]
    data = TrainingSet(
        archive,
        label_codes,
        archive.labels[:, column].astype(np.float64),
        rows["train"],
        rows["val"],
        rows["test"],
    )
    _refuse_shared_patients(data)
    return data


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
        short (not run on a GPU yet).
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
    run = _Run(run_folder, _fingerprint(config, data, settings), resume=resume)
    network = PrototypeNetwork(config)
    _initialise(network, settings.seed)
    trainer = _Trainer(network, data, settings, run, device, report)
    trainer.fit_features()
    if not run.is_done("joint"):
        trainer.start_prototypes()
    trainer.fit_joint()
    sources = project(
        network,
        data,
        unique=settings.unique,
        device=device,
        batch_size=settings.batch_size,
    )
    fit_heads(network, data, settings, device=device, report=report)
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
    parts = [
        network(torch.from_numpy(data.archive.block(block)).to(device))
        for block in _blocks(rows, batch_size)
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
        blocks = (
            FeatureBlock(
                network.features(torch.from_numpy(data.archive.block(rows)).to(device))[
                    name
                ],
                data.labels[rows][:, columns],
                rows,
            )
            for rows in _blocks(data.train, batch_size)
        )
        found = find_sources(
            blocks,
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
    device: str = "cpu",
    report: Report = lambda _: None,
) -> None:
    """Fit branch classifiers and the fused head; the rest of the network stays as it is.

    The fused head's L1 penalty is the one of `FitConfig.l1_grid` with the best validation
    macro-AUROC.
    """
    train, _ = score_rows(network, data, data.train, device=device)
    validation, _ = score_rows(network, data, data.validation, device=device)
    y, y_validation = data.labels[data.train], data.labels[data.validation]
    weight = positive_weights(y, settings.pos_weight, cap=settings.pos_weight_cap)
    best: tuple[float, LinearHead] | None = None
    for n, l1 in enumerate(settings.l1_grid):
        head = fit_head(train, y, l1=l1, l2=settings.l2, pos_weight=weight)
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
        )
        _set_head(network.classifiers[name], head)
        start = stop


def macro_auroc(
    labels: Float[np.ndarray, "recording label"],
    score: Float[np.ndarray, "recording label"],
) -> float:
    """Mean AUROC over the labels with both outcomes."""
    known = ~np.isnan(labels)
    each = [
        auroc(labels[known[:, k], k], score[known[:, k], k]) for k in range(labels.shape[1])
    ]
    return float(np.nanmean(each)) if np.isfinite(each).any() else float("nan")


# --- the loop ---------------------------------------------------------------------------


class _Trainer:
    """The gradient stages of one run."""

    def __init__(
        self,
        network: PrototypeNetwork,
        data: TrainingSet,
        settings: FitConfig,
        run: "_Run",
        device: str,
        report: Report,
    ) -> None:
        self.network = network.to(device)
        self.data = data
        self.settings = settings
        self.run = run
        self.device = device
        self.report = report
        config = network.config
        self.feature_heads = nn.ModuleDict(
            {
                name: nn.Linear(
                    (2 if branch.window else 1) * config.features, len(config.labels)
                )
                for name, branch in config.branches.items()
            }
        ).to(device)
        _initialise(self.feature_heads, settings.seed + 1)
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

        self._fit_stage(
            "features",
            parts,
            loss,
            scores,
            self.settings.feature_epochs,
            self.settings.learning_rate,
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
                    clusters = KMeans(count, random_state=self.settings.seed).fit(
                        patches.numpy()
                    )
                    vectors = torch.tensor(clusters.cluster_centers_, dtype=torch.float32)
                    shape = self.network.prototypes[name].shape[1:]
                    self.network.prototypes[name][start : start + count] = rearrange(
                        vectors, "p (f s) -> p f s", f=shape[0], s=shape[1]
                    ).to(self.device)
                start += count
        fit_heads(
            self.network, self.data, self.settings, device=self.device, report=self.report
        )
        self.network.to(self.device)

    def _label_patches(self, name: Branch, label: str) -> Float[Tensor, "patch vector"]:
        """One normalised patch for each training record that carries the label.

        Of a windowed branch, the window that speaks most for the label by the feature head.
        """
        window = self.network.config.branches[name].window
        column = self.data.label_codes.index(label)
        rows = self.data.train[self.data.labels[self.data.train, column] == 1]
        weight = cast(nn.Linear, self.feature_heads[name]).weight[column]
        patches: list[Tensor] = []
        for block in _blocks(rows, self.settings.batch_size):
            z = self.network.features(self._signal(block))[name]
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
        network, settings = self.network, self.settings

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

        self._fit_stage(
            "joint",
            network,
            loss,
            lambda signal: network(signal).logit,
            settings.joint_epochs,
            settings.joint_learning_rate,
        )

    def _fit_stage(
        self,
        stage: Stage,
        module: nn.Module,
        loss: Callable[[Tensor, Tensor], Tensor],
        scores: Callable[[Tensor], Tensor],
        n_epochs: int,
        learning_rate: float,
    ) -> None:
        settings = self.settings
        optimizer = torch.optim.AdamW(
            module.parameters(), lr=learning_rate, weight_decay=settings.weight_decay
        )
        average = _Average(module, settings.averaging)
        first = self.run.load(stage, module, optimizer, average)
        steps = max(len(self.data.train) // settings.batch_size, 1)
        for epoch in range(first, n_epochs):
            if self.run.should_stop(stage, settings.patience):
                break
            draw = _generators(settings.seed, stage, epoch)
            module.train()
            total = 0.0
            with torch.random.fork_rng():
                torch.set_rng_state(draw.dropout.get_state())
                for step, rows in enumerate(
                    _shuffled(self.data.train, settings.batch_size, draw.rows)
                ):
                    rate = _one_cycle((epoch * steps + step) / (n_epochs * steps))
                    for group in optimizer.param_groups:
                        group["lr"] = learning_rate * rate
                    signal, labels = augment(
                        self._signal(rows),
                        self._labels(rows),
                        settings.augmentation,
                        generator=draw.augmentation,
                    )
                    total += descend(optimizer, loss, signal, labels, device=self.device)
                    average.update(module)
            with average.in_place_of(module):
                score = self._validation_auroc(module, scores)
            self.run.save(stage, epoch, score, module, optimizer, average)
            self.report(Progress(stage, epoch + 1, n_epochs, total / steps, score))
        self.run.restore_best(stage, module)
        module.eval()

    @torch.inference_mode()
    def _validation_auroc(
        self, module: nn.Module, scores: Callable[[Tensor], Tensor]
    ) -> float:
        module.eval()
        rows = self.data.validation
        score = torch.cat(
            [
                scores(self._signal(block))
                for block in _blocks(rows, self.settings.batch_size)
            ]
        )
        return macro_auroc(self.data.labels[rows], score.double().cpu().numpy())

    def _signal(self, rows: Int[np.ndarray, " row"]) -> Float[Tensor, "row lead sample"]:
        signal = torch.from_numpy(self.data.archive.block(rows))
        if self.device == "cpu":
            return signal
        return signal.pin_memory().to(self.device, non_blocking=True)

    def _labels(self, rows: Int[np.ndarray, " row"]) -> Float[Tensor, "row label"]:
        return torch.tensor(self.data.labels[rows], dtype=torch.float32, device=self.device)


def descend(
    optimizer: torch.optim.Optimizer,
    loss: Callable[[Tensor, Tensor], Tensor],
    signal: Float[Tensor, "batch lead sample"],
    labels: Float[Tensor, "batch label"],
    *,
    device: str = "cpu",
) -> float:
    """One step of gradient descent; halves the batch while memory does not suffice.

    The gradients of the parts are weighted by their size and added, so that the step stays
    that of the whole batch. On CUDA in bfloat16 autocast. Not run on a GPU yet.

    Raises
    ------
    torch.OutOfMemoryError
        If even one record at a time does not fit.
    """
    parts = 1
    while True:
        optimizer.zero_grad(set_to_none=True)
        try:
            total = 0.0
            for x, y in zip(signal.chunk(parts), labels.chunk(parts), strict=True):
                with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
                    value = loss(x, y) * (len(x) / len(signal))
                value.backward()
                total += float(value.detach())
            break
        except torch.OutOfMemoryError:
            if parts >= len(signal):
                raise
            parts *= 2
            if device == "cuda":
                torch.cuda.empty_cache()
    optimizer.step()
    return total


# --- checkpoints ------------------------------------------------------------------------


class _Run:
    """The folder of a run: ``run.json`` and, a stage, the last and the best weights."""

    def __init__(self, folder: Path, fingerprint: str, *, resume: bool) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.state: dict[str, Any] = {"fingerprint": fingerprint, "stages": {}}
        index = folder / "run.json"
        if resume and index.exists():
            state = json.loads(index.read_text())
            if state["fingerprint"] != fingerprint:
                raise BadInput(
                    "E_VERSION",
                    "the checkpoint is of another configuration or data; give it back, or "
                    "start without --resume",
                )
            self.state = state

    def is_done(self, stage: Stage) -> bool:
        """Whether any epoch of the stage is saved."""
        return stage in self.state["stages"]

    def load(
        self,
        stage: Stage,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        average: "_Average",
    ) -> int:
        """Put the last checkpoint into all three; the epoch to go on with."""
        if not self.is_done(stage):
            return 0
        epoch = self.state["stages"][stage]["epochs"]
        tensors = read_tensors(self.folder / f"{stage}-last-{epoch}.safetensors")
        _load_module(module, tensors, "module.")
        average.load(tensors)
        names = [name for name, _ in module.named_parameters()]
        slots: dict[int, dict[str, Tensor]] = {}
        for key, array in tensors.items():
            if key.startswith("optimizer."):
                slot, name = key.removeprefix("optimizer.").split(".", 1)
                slots.setdefault(names.index(name), {})[slot] = torch.from_numpy(array)
        optimizer.load_state_dict({**optimizer.state_dict(), "state": slots})
        return epoch

    def save(
        self,
        stage: Stage,
        epoch: int,
        score: float,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        average: "_Average",
    ) -> None:
        """Write the checkpoint, then the index that names it: a kill keeps the old."""
        tensors = _module_tensors(module, "module.") | average.tensors()
        names = [name for name, _ in module.named_parameters()]
        for index, slot in optimizer.state_dict()["state"].items():
            for key, value in slot.items():
                tensors[f"optimizer.{key}.{names[index]}"] = value.detach().cpu().numpy()
        done = self.state["stages"].get(stage, {"best": -np.inf, "best_epoch": 0})
        last = self.folder / f"{stage}-last-{epoch + 1}.safetensors"
        write_tensors(last, tensors)
        best, best_epoch = done["best"], done["best_epoch"]
        if score > best or not best_epoch:
            best, best_epoch = score, epoch + 1
            with average.in_place_of(module):
                write_tensors(
                    self.folder / f"{stage}-best-{best_epoch}.safetensors",
                    _module_tensors(module, "module."),
                )
        self.state["stages"][stage] = {
            "epochs": epoch + 1,
            "best": best,
            "best_epoch": best_epoch,
        }
        temporary = self.folder / "run.json.tmp"
        temporary.write_text(json.dumps(self.state, indent=2))
        temporary.replace(self.folder / "run.json")
        for kind, current in (("last", epoch + 1), ("best", best_epoch)):
            for old in self.folder.glob(f"{stage}-{kind}-*.safetensors"):
                if old.name != f"{stage}-{kind}-{current}.safetensors":
                    old.unlink()

    def should_stop(self, stage: Stage, patience: int) -> bool:
        """Whether the last `patience` epochs brought nothing better."""
        if not patience or not self.is_done(stage):
            return False
        done = self.state["stages"][stage]
        return done["epochs"] - done["best_epoch"] >= patience

    def restore_best(self, stage: Stage, module: nn.Module) -> None:
        """Put the best epoch's weights into the module."""
        if self.is_done(stage):
            epoch = self.state["stages"][stage]["best_epoch"]
            path = self.folder / f"{stage}-best-{epoch}.safetensors"
            _load_module(module, read_tensors(path), "module.")


class _Average:
    """Running mean of a module's weights and buffers."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.mean = {name: tensor.clone() for name, tensor in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point():
                self.mean[name].lerp_(tensor, 1 - self.decay)
            else:
                self.mean[name].copy_(tensor)

    @contextmanager
    def in_place_of(self, module: nn.Module) -> Iterator[None]:
        """The module with the mean weights, for as long as the context lasts."""
        current = {name: tensor.clone() for name, tensor in module.state_dict().items()}
        module.load_state_dict(self.mean)
        try:
            yield
        finally:
            module.load_state_dict(current)

    def tensors(self) -> dict[str, np.ndarray]:
        return {
            f"average.{name}": t.detach().cpu().numpy() for name, t in self.mean.items()
        }

    def load(self, tensors: Mapping[str, np.ndarray]) -> None:
        for name, mean in self.mean.items():
            mean.copy_(torch.from_numpy(tensors[f"average.{name}"]))


def _module_tensors(module: nn.Module, prefix: str) -> dict[str, np.ndarray]:
    return {
        prefix + name: tensor.detach().cpu().numpy()
        for name, tensor in module.state_dict().items()
    }


def _load_module(module: nn.Module, tensors: Mapping[str, np.ndarray], prefix: str) -> None:
    module.load_state_dict(
        {
            name.removeprefix(prefix): torch.from_numpy(array)
            for name, array in tensors.items()
            if name.startswith(prefix)
        }
    )


# --- draws ------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Draw:
    rows: np.random.Generator
    augmentation: torch.Generator
    dropout: torch.Generator


def _generators(seed: int, stage: str, epoch: int) -> _Draw:
    """Independent generators of one epoch."""
    key = int.from_bytes(hashlib.sha256(f"{seed} {stage} {epoch}".encode()).digest()[:7])
    return _Draw(
        np.random.default_rng(key),
        torch.Generator().manual_seed(key + 1),
        torch.Generator().manual_seed(key + 2),
    )


def _initialise(module: nn.Module, seed: int) -> None:
    """Draw the initial weights again from a seed, whatever was drawn before."""
    with torch.random.fork_rng():
        torch.set_rng_state(torch.Generator().manual_seed(seed).get_state())
        for part in module.modules():
            reset = getattr(part, "reset_parameters", None)
            if callable(reset):
                reset()
        for name, parameter in module.named_parameters():
            if name.startswith("prototypes."):
                nn.init.normal_(parameter)


def _one_cycle(progress: float, *, warm_up: float = 0.2) -> float:
    """Factor on the learning rate: linear rise, then cosine fall to 0 (Smith 2018)."""
    if progress < warm_up:
        return 0.04 + 0.96 * progress / warm_up
    return 0.5 * (1 + np.cos(np.pi * (progress - warm_up) / (1 - warm_up)))


def _blocks(
    rows: Int[np.ndarray, " row"], size: int
) -> Iterator[Int[np.ndarray, " block"]]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def _shuffled(
    rows: Int[np.ndarray, " row"], size: int, rng: np.random.Generator
) -> Iterator[Int[np.ndarray, " batch"]]:
    """Full batches in random order; what does not fill one waits for another epoch."""
    size = min(size, len(rows))
    order = rng.permutation(rows)
    for start in range(0, len(order) - size + 1, size):
        yield order[start : start + size]


def _set_head(linear: nn.Module, head: LinearHead) -> None:
    assert isinstance(linear, nn.Linear)
    with torch.no_grad():
        linear.weight.copy_(torch.from_numpy(head.weight))
        if linear.bias is not None:
            linear.bias.copy_(torch.from_numpy(head.bias))


def _fingerprint(config: PrototypeConfig, data: TrainingSet, settings: FitConfig) -> str:
    """Hash of what decides a run: configuration, data and settings."""
    text = json.dumps(
        [
            config.to_dict(),
            dataclasses.asdict(settings),
            data.archive.dataset,
            data.archive.contract_id,
            data.record_ids,
        ],
        sort_keys=True,
    )
    labels = np.nan_to_num(data.labels, nan=-1).astype(np.int8).tobytes()
    return hashlib.sha256(text.encode() + labels).hexdigest()


def _refuse_shared_patients(data: TrainingSet) -> None:
    patients = data.patient_ids
    sides = [
        {patients[row] for row in rows} - {None}
        for rows in (data.train, data.validation, data.test)
    ]
    shared = (sides[0] & sides[1]) | (sides[0] & sides[2]) | (sides[1] & sides[2])
    if shared:
        raise BadInput(
            "E_DUP_ID",
            f"{len(shared)} patients occur in more than one split; keep each on one side",
        )
