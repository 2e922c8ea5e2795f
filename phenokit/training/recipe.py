"""A training recipe: which labels, which network, how trained, and what the card says.

A TOML file, checked by its schema. What a recipe does not say has the default of the class
that it fills.
"""

import tomllib
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from phenokit.errors import BadInput
from phenokit.networks.mvpa import AttentionRule
from phenokit.networks.mvpformer import IEEGContract, MVPFormerConfig
from phenokit.networks.prototype import PrototypeConfig, compact
from phenokit.readers.packed import PackedArchive
from phenokit.statements import SCP_STATEMENTS, SUPERCLASSES, Branch, statement
from phenokit.training.augment import Augmentation
from phenokit.training.loop import FitConfig
from phenokit.training.losses import LossWeights
from phenokit.training.segment_archive import SegmentArchive
from phenokit.training.seizures import SeizureFitConfig


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


class SeizureNetwork(_Section):
    """Sizes of an MVPFormer (`phenokit.networks.mvpformer.MVPFormerConfig`).

    Attributes
    ----------
    horizon
        Segments that a query sees, its own included.
    channel_order
        Of the contract.
    """

    width: int = 128
    n_layers: int = 4
    n_heads: int = 4
    n_kv_heads: int = 2
    inner: int = 320
    dropout: float = 0.1
    horizon: int = 12
    channel_order: Literal["montage", "as_recorded"] = "montage"


class SeizureTraining(_Section):
    """Stages of training (`phenokit.training.seizures.SeizureFitConfig`)."""

    segments: int = 24
    tokens: int = 4608
    pretraining_steps: int = 400
    steps: int = 2000
    pretraining_rate: float = 1e-3
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    adaptation: Literal["all", "lora"] = "all"
    lora_rank: int = 8
    ictal_share: float = 0.6
    ictal_weight: float = 1.0
    channel_weight: float = 1.0
    averaging: float = 0.99
    steps_a_checkpoint: int = 100
    validation_windows: int = 64


class SeizureRecipe(_Section):
    """Everything but the archive and the seed, for a network that finds seizures.

    Attributes
    ----------
    false_alarms_per_day
        That the threshold may give on validation.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")
    false_alarms_per_day: float = 24.0
    network: SeizureNetwork = SeizureNetwork()
    training: SeizureTraining = SeizureTraining()
    card: CardTexts

    def network_config(self, archive: SegmentArchive) -> MVPFormerConfig:
        """The network; its contract holds the most channels that the archive trains on."""
        network, rule = self.network, archive.rule
        return MVPFormerConfig(
            **network.model_dump(exclude={"horizon", "channel_order"}),
            rule=AttentionRule(
                index="distance",
                window=network.horizon,
                exempt_last=False,
                horizon=network.horizon,
            ),
            contract=IEEGContract(
                sampling_rate=rule.sampling_rate,
                samples=rule.samples,
                min_segments=network.horizon,
                max_channels=max(len(one.channels) for one in archive.of("train")),
                reference=f"{rule.reference}, of the channels that can be used",
                band="as recorded; the mean of each segment and channel is removed",
                channel_order=network.channel_order,
            ),
        )

    def fit_config(self, seed: int) -> SeizureFitConfig:
        """Settings of the stages."""
        return SeizureFitConfig(seed=seed, **self.training.model_dump())


def read_recipe(path: Path) -> Recipe:
    """Read the recipe of an ECG network.

    Raises
    ------
    BadInput
        ``E_COLUMNS`` naming the field that is missing, unknown or of another kind.
    """
    return _read(path, Recipe)


def read_seizure_recipe(path: Path) -> SeizureRecipe:
    """Read the recipe of a seizure network; see `read_recipe`."""
    return _read(path, SeizureRecipe)


AnyRecipe = TypeVar("AnyRecipe", Recipe, SeizureRecipe)


def _read(path: Path, kind: type[AnyRecipe]) -> AnyRecipe:
    try:
        return kind.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except tomllib.TOMLDecodeError as error:
        raise BadInput("E_HEADER", f"{path.name} is not TOML: {error}") from None
    except ValidationError as error:
        fault = error.errors(include_input=False, include_url=False)[0]
        field = ".".join(map(str, fault["loc"]))
        raise BadInput("E_COLUMNS", f"{path.name}: {field}: {fault['msg']}") from None
