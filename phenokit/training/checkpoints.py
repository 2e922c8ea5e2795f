"""Checkpoints of a training run: the last and the best weights of each stage.

A kill at any time leaves the old checkpoint; a run that goes on from it ends in the same
weights as one that was never stopped, if its draws depend on the step only.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from phenokit.errors import BadInput
from phenokit.networks.checkpoint import read_tensors, write_tensors


class Checkpoints:
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

    def is_done(self, stage: str) -> bool:
        """Whether any epoch of the stage is saved."""
        return stage in self.state["stages"]

    def load(
        self,
        stage: str,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        average: "RunningMean",
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
        stage: str,
        epoch: int,
        score: float,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        average: "RunningMean",
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

    def should_stop(self, stage: str, patience: int) -> bool:
        """Whether the last `patience` epochs brought nothing better."""
        if not patience or not self.is_done(stage):
            return False
        done = self.state["stages"][stage]
        return done["epochs"] - done["best_epoch"] >= patience

    def restore_best(self, stage: str, module: nn.Module) -> None:
        """Put the best epoch's weights into the module."""
        if self.is_done(stage):
            epoch = self.state["stages"][stage]["best_epoch"]
            path = self.folder / f"{stage}-best-{epoch}.safetensors"
            _load_module(module, read_tensors(path), "module.")


class RunningMean:
    """Running mean of a module's weights and buffers."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.mean = {name: tensor.clone() for name, tensor in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Move a little towards the module's weights."""
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
        """The mean, as a checkpoint holds it."""
        return {
            f"average.{name}": t.detach().cpu().numpy() for name, t in self.mean.items()
        }

    def load(self, tensors: Mapping[str, np.ndarray]) -> None:
        """The mean from the tensors of a checkpoint."""
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
