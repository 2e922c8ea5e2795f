"""Gradient descent with validation, running mean, checkpoints and reproducible draws.

What an epoch draws depends on (seed, stage, epoch) only, so that a run which was stopped
and resumed ends in the same weights as one that was not. The epoch of the best validation
macro-AUROC is kept.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from phenokit.training.augment import Augmentation, augment
from phenokit.training.checkpoints import Checkpoints, RunningMean
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
    """One line of a training log: where it is, and the score on validation."""

    stage: str
    epoch: int
    n_epochs: int
    loss: float
    validation: float
    measure: str = "macro-AUROC"


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
        self._run = Checkpoints(run_folder, fingerprint, resume=resume)

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
        average = RunningMean(module, settings.averaging)
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
