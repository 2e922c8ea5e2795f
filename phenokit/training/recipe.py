"""A training recipe: which labels, which network, how trained, and what the card says.

A TOML file, checked by its schema. What a recipe does not say has the default of the class
that it fills.
"""

import tomllib
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from phenokit.errors import BadInput
from phenokit.networks.prototype import PrototypeConfig, compact
from phenokit.readers.packed import PackedArchive
from phenokit.statements import SCP_STATEMENTS, SUPERCLASSES, Branch, statement
from phenokit.training.augment import Augmentation
from phenokit.training.loop import FitConfig
from phenokit.training.losses import LossWeights


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Labels(_Section):
    """Which labels of the archive are learnt.

    Attributes
    ----------
    min_positives
        A label with fewer training positives is left out.
    exclude_voltage
        Leave out the labels that rest on amplitudes.
    """

    min_positives: int = 18
    exclude_voltage: bool = False


class Network(_Section):
    """Sizes of the compact network (`phenokit.networks.prototype.compact`)."""

    prototypes_per_label: dict[Branch, int]
    widths: tuple[int, ...] = (32, 64, 128, 256)
    dropout: float = 0.2


class Training(_Section):
    """Fields of `FitConfig`, with those of `Augmentation` and `LossWeights` below."""

    feature_epochs: int = 30
    joint_epochs: int = 10
    batch_size: int = 32
    learning_rate: float = 3e-3
    joint_learning_rate: float = 3e-4
    weight_decay: float = 1e-2
    averaging: float = 0.99
    patience: int = 0
    pos_weight: Literal["conventional", "reference", "none"] = "conventional"
    pos_weight_cap: float = 10.0
    unique: Literal["none", "record", "patient"] = "record"
    augmentation: dict[str, float] = Field(default_factory=dict)
    loss: dict[str, float] = Field(default_factory=dict)


class CardTexts(_Section):
    """What no program can fill in of the model's card (`phenokit.networks.card.Card`)."""

    first_line: str
    version: str
    intended_use: str
    population: str
    inputs: str
    outputs: str
    warnings: list[str]
    owner: str
    licences: dict[str, str]
    training_data: str
    split: str
    tripod_ai: dict[str, str] = Field(default_factory=dict)


class Recipe(_Section):
    """Everything but the archive and the seed.

    Attributes
    ----------
    normalisation
        Of the input contract; the archive must have been prepared by it.
    include_waveforms
        Keep the source ECGs of the prototypes in the bundle.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")
    normalisation: Literal["none", "z_score"] = "z_score"
    include_waveforms: bool = False
    labels: Labels = Labels()
    network: Network
    training: Training = Training()
    card: CardTexts

    def label_codes(self, archive: PackedArchive) -> tuple[str, ...]:
        """Superclasses, then SCP codes in their order, as far as the archive has enough."""
        train = (archive.table["split"] == "train").to_numpy()
        positives = dict(
            zip(archive.label_codes, np.nansum(archive.labels[train], axis=0), strict=True)
        )
        superclasses = [s.code for s in SUPERCLASSES]
        codes = superclasses + [
            s.code for s in SCP_STATEMENTS if s.code not in superclasses
        ]
        return tuple(
            code
            for code in codes
            if positives.get(code, 0) >= self.labels.min_positives
            and not (self.labels.exclude_voltage and statement(code).needs_voltage)
        )

    def network_config(self, label_codes: tuple[str, ...]) -> PrototypeConfig:
        """The compact network with prototypes for these labels."""
        superclasses = {s.code for s in SUPERCLASSES}
        branch_labels: dict[Branch, tuple[str, ...]] = {}
        for branch in ("rhythm", "morphology", "global"):
            branch_labels[branch] = tuple(
                code
                for code in label_codes
                if ("global" if code in superclasses else statement(code).branch) == branch
            )
        return compact(
            branch_labels,
            label_codes,
            per_label=self.network.prototypes_per_label,
            widths=self.network.widths,
            dropout=self.network.dropout,
        )

    def fit_config(self, seed: int) -> FitConfig:
        """Settings of the stages."""
        fields = self.training.model_dump(exclude={"augmentation", "loss"})
        augmentation: dict[str, Any] = dict(self.training.augmentation)
        if "shift" in augmentation:
            augmentation["shift"] = round(augmentation["shift"])
        return FitConfig(
            seed=seed,
            augmentation=Augmentation(**augmentation),
            loss=LossWeights(**self.training.loss),
            **fields,
        )


def read_recipe(path: Path) -> Recipe:
    """Read a recipe.

    Raises
    ------
    BadInput
        ``E_COLUMNS`` naming the field that is missing, unknown or of another kind.
    """
    try:
        return Recipe.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except tomllib.TOMLDecodeError as error:
        raise BadInput("E_HEADER", f"{path.name} is not TOML: {error}") from None
    except ValidationError as error:
        fault = error.errors(include_input=False, include_url=False)[0]
        field = ".".join(map(str, fault["loc"]))
        raise BadInput("E_COLUMNS", f"{path.name}: {field}: {fault['msg']}") from None
