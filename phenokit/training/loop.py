"""Gradient descent with validation, running mean, checkpoints and reproducible draws.

What an epoch draws depends on (seed, stage, epoch) only, so that a run which was stopped
and resumed ends in the same weights as one that was not. The epoch of the best validation
macro-AUROC is kept.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from phenokit.errors import BadInput
from phenokit.networks.checkpoint import read_tensors, write_tensors
from phenokit.training.augment import Augmentation, augment
from phenokit.training.dataset import TrainingSet, blocks
from phenokit.training.evaluate import macro_auroc
from phenokit.training.losses import LossWeights
from phenokit.training.project import Unique

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
    head_views
        Augmented views of each training record that the heads are fitted to; similarities
        of the records that the trunks were trained on are too good to learn from.
    l1_grid, l2
        Penalties tried for the fused head, and the one added to each.
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
    head_views: int = 3
    l1_grid: tuple[float, ...] = (1e-4, 1e-3, 1e-2)
    l2: float = 1e-2


@dataclass(frozen=True)
class Progress:
    """One line of a training log: where it is, and the validation macro-AUROC."""

    stage: Stage
    epoch: int
    n_epochs: int
    loss: float
    validation_auroc: float


Report = Callable[[Progress], None]


class Loop:
    """Runs the stages of one training run.

    Parameters
    ----------
    fingerprint
        Hash of all that decides the run; a checkpoint of another is refused.
    """

    def __init__(
        self,
        data: TrainingSet,
        settings: FitConfig,
        *,
        run_folder: Path,
        fingerprint: str,
        device: str = "cpu",
        resume: bool = False,
        report: Report = lambda _: None,
    ) -> None:
        self.data = data
        self.settings = settings
        self.device = device
        self.report = report
        self._run = _Run(run_folder, fingerprint, resume=resume)

    def is_started(self, stage: Stage) -> bool:
        """Whether any epoch of the stage is saved."""
        return self._run.is_done(stage)

    def run(
        self,
        stage: Stage,
        module: nn.Module,
        loss: Callable[[Tensor, Tensor], Tensor],
        scores: Callable[[Tensor], Tensor],
        n_epochs: int,
        learning_rate: float,
    ) -> None:
        """Train a module for one stage and leave it with the best epoch's weights.

        Parameters
        ----------
        module
            Holds every parameter that moves.
        loss
            Of a batch of signals and labels.
        scores
            What is validated: one score a record and label.
        """
        settings = self.settings
        optimizer = torch.optim.AdamW(
            module.parameters(), lr=learning_rate, weight_decay=settings.weight_decay
        )
        average = _Average(module, settings.averaging)
        first = self._run.load(stage, module, optimizer, average)
        steps = max(len(self.data.train) // settings.batch_size, 1)
        for epoch in range(first, n_epochs):
            if self._run.should_stop(stage, settings.patience):
                break
            draw = draw_generators(settings.seed, stage, epoch)
            module.train()
            total = 0.0
            with torch.random.fork_rng():
                torch.set_rng_state(draw.dropout.get_state())
                if self.device != "cpu":
                    torch.cuda.manual_seed(draw.dropout.initial_seed())
                for step, rows in enumerate(
                    _shuffled(self.data.train, settings.batch_size, draw.rows)
                ):
                    rate = _one_cycle((epoch * steps + step) / (n_epochs * steps))
                    for group in optimizer.param_groups:
                        group["lr"] = learning_rate * rate
                    signal, labels = augment(
                        self.signal(rows),
                        self.labels(rows),
                        settings.augmentation,
                        generator=draw.augmentation,
                    )
                    total += descend(optimizer, loss, signal, labels, device=self.device)
                    average.update(module)
            with average.in_place_of(module):
                score = self._validation_auroc(module, scores)
            self._run.save(stage, epoch, score, module, optimizer, average)
            self.report(Progress(stage, epoch + 1, n_epochs, total / steps, score))
        self._run.restore_best(stage, module)
        module.eval()

    @torch.inference_mode()
    def _validation_auroc(
        self, module: nn.Module, scores: Callable[[Tensor], Tensor]
    ) -> float:
        module.eval()
        rows = self.data.validation
        score = torch.cat(
            [scores(self.signal(block)) for block in blocks(rows, self.settings.batch_size)]
        )
        return macro_auroc(self.data.labels[rows], score.double().cpu().numpy())

    def signal(self, rows: Int[np.ndarray, " row"]) -> Float[Tensor, "row lead sample"]:
        """Prepared ECGs of some rows, on the device."""
        signal = torch.from_numpy(self.data.archive.block(rows))
        if self.device == "cpu":
            return signal
        return signal.pin_memory().to(self.device, non_blocking=True)

    def labels(self, rows: Int[np.ndarray, " row"]) -> Float[Tensor, "row label"]:
        """Labels of some rows, on the device; NaN where unknown."""
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
    that of the whole batch; only batch norm sees each part by itself. On CUDA in bfloat16
    autocast. On an H100 with too little memory for 512 records, parts of 8 to 256 gave the
    gradient of the whole within 0.2 % with batch norm at rest, within 7 to 12 % with batch
    norm following the parts.

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
                total += _add_gradient(loss, x, y, len(x) / len(signal), device)
            break
        except torch.OutOfMemoryError:
            if parts >= len(signal):
                raise
            parts *= 2
            if device == "cuda":
                torch.cuda.empty_cache()
    optimizer.step()
    return total


def _add_gradient(
    loss: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    share: float,
    device: str,
) -> float:
    """Loss and gradient of a part; its graph goes with this call, also out of memory."""
    with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
        value = loss(x, y) * share
    value.backward()
    return float(value.detach())


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
class Draw:
    """Generators of one epoch."""

    rows: np.random.Generator
    augmentation: torch.Generator
    dropout: torch.Generator


def draw_generators(seed: int, stage: str, epoch: int) -> Draw:
    """Independent generators of one epoch."""
    key = int.from_bytes(hashlib.sha256(f"{seed} {stage} {epoch}".encode()).digest()[:7])
    return Draw(
        np.random.default_rng(key),
        torch.Generator().manual_seed(key + 1),
        torch.Generator().manual_seed(key + 2),
    )


def initialise(module: nn.Module, seed: int) -> None:
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


def _shuffled(
    rows: Int[np.ndarray, " row"], size: int, rng: np.random.Generator
) -> Iterator[Int[np.ndarray, " batch"]]:
    """Full batches in random order; what does not fill one waits for another epoch."""
    size = min(size, len(rows))
    order = rng.permutation(rows)
    for start in range(0, len(order) - size + 1, size):
        yield order[start : start + size]


def fingerprint(network: Mapping[str, Any], data: TrainingSet, settings: FitConfig) -> str:
    """Hash of what decides a run: the network's configuration, data and settings."""
    text = json.dumps(
        [
            network,
            dataclasses.asdict(settings),
            data.archive.dataset,
            data.archive.contract_id,
            data.record_ids,
        ],
        sort_keys=True,
    )
    labels = np.nan_to_num(data.labels, nan=-1).astype(np.int8).tobytes()
    return hashlib.sha256(text.encode() + labels).hexdigest()
