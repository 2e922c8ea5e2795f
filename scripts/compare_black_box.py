"""Prototypes against a black box: the same data, augmentation, epochs and seeds.

    python scripts/compare_black_box.py RECIPE ARCHIVE RUNS --seeds 0 1 2

For each seed, the prototype network of the recipe (bundle in RUNS/prototypes-SEED) and a
ResNet1D-18 with a linear head on its pooled features, of about as many parameters and with
as many epochs as all stages of the prototype network together. Both are judged on the test
split: macro-AUROC over the superclasses and over the SCP codes with 10 positives, with
patient-bootstrap intervals, and the paired difference over all seeds. Whatever was finished
before is not done again; a run that was cut off goes on.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import date
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from phenokit.networks.checkpoint import load_bundle, read_tensors, write_tensors
from phenokit.networks.prototype import PrototypeConfig, ResNet1d, from_arrays
from phenokit.preprocessing.contract import InputContract
from phenokit.readers.packed import open_archive
from phenokit.statements import SUPERCLASSES
from phenokit.training.assemble import MIN_TEST_POSITIVES, train_ecg
from phenokit.training.dataset import TrainingSet, blocks, training_set
from phenokit.training.evaluate import evaluate_scores, paired_macro_difference
from phenokit.training.fit import score_rows
from phenokit.training.loop import Loop, Progress, fingerprint, initialise
from phenokit.training.losses import classification, positive_weights
from phenokit.training.recipe import Recipe, read_recipe

WIDTHS = (48, 96, 192, 384)
"""2.2 million parameters; the shipped prototype network has 2.3 million."""


class BlackBox(nn.Module):
    """ResNet1D-18, mean and maximum over time, dropout, one linear head."""

    def __init__(self, n_labels: int, *, dropout: float) -> None:
        super().__init__()
        self.trunk = ResNet1d(WIDTHS)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(2 * WIDTHS[-1], n_labels)

    def forward(self, signal: Tensor) -> Tensor:
        """Logits, ``(batch, label)``."""
        features = self.trunk(signal)
        pooled = torch.cat([features.mean(-1), features.amax(-1)], dim=1)
        return self.head(self.dropout(pooled))


def main() -> None:
    """Train what is missing, then compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("archive", type=Path)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", choices=["prototypes", "black-box", "compare"])
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    recipe = read_recipe(options.recipe)
    archive = open_archive(options.archive)
    data = training_set(archive, recipe.label_codes(archive))
    for seed in options.seeds:
        if options.only in {None, "prototypes"}:
            train_prototypes(recipe, data, options.runs, seed)
        if options.only in {None, "black-box"}:
            train_black_box(recipe, data, options.runs, seed)
    if options.only in {None, "compare"}:
        compare(data, options.runs, options.seeds)


def train_prototypes(recipe: Recipe, data: TrainingSet, runs: Path, seed: int) -> None:
    """One bundle; its logits are read again from it."""
    out = runs / f"prototypes-{seed}"
    if (out / "SHA256SUMS").exists():
        return
    train_ecg(
        recipe,
        data.archive,
        out,
        contract=InputContract(normalisation=recipe.normalisation),
        seed=seed,
        run_folder=runs / f"prototypes-{seed}-run",
        today=date.today(),
        resume=True,
        report=_show(f"prototypes {seed}"),
    )


def train_black_box(recipe: Recipe, data: TrainingSet, runs: Path, seed: int) -> None:
    """The peer, by the same loop."""
    target = runs / f"black-box-{seed}.safetensors"
    if target.exists():
        return
    settings = recipe.fit_config(seed)
    network = BlackBox(len(data.label_codes), dropout=recipe.network.dropout)
    initialise(network, seed)
    weight = torch.tensor(
        positive_weights(
            data.labels[data.train], settings.pos_weight, cap=settings.pos_weight_cap
        ),
        dtype=torch.float32,
    )
    loop = Loop(
        data,
        settings,
        run_folder=runs / f"black-box-{seed}-run",
        fingerprint=fingerprint({"kind": "black box", "widths": WIDTHS}, data, settings),
        resume=True,
        report=_show(f"black box {seed}"),
    )
    loop.run(
        "features",
        network,
        lambda signal, labels: classification(network(signal), labels, weight),
        network,
        settings.feature_epochs + settings.joint_epochs,
        settings.learning_rate,
    )
    with torch.inference_mode():
        logits = [network(loop.signal(b)).double() for b in blocks(data.test, 64)]
    write_tensors(target, {"test_logit": torch.cat(logits).numpy()})


def compare(data: TrainingSet, runs: Path, seeds: Sequence[int]) -> None:
    """Print every seed's figures and the paired difference."""
    ours, other = [], []
    for seed in seeds:
        bundle = load_bundle(runs / f"prototypes-{seed}")
        network = from_arrays(
            PrototypeConfig.from_dict(bundle.config["network"]), bundle.tensors
        )
        ours.append(score_rows(network, data, data.test)[1])
        other.append(read_tensors(runs / f"black-box-{seed}.safetensors")["test_logit"])
    labels = data.labels[data.test]
    positives = np.nansum(labels, axis=0)
    superclasses = [s.code for s in SUPERCLASSES]
    scp = [
        code
        for code, n in zip(data.label_codes, positives, strict=True)
        if code not in superclasses and n >= MIN_TEST_POSITIVES
    ]
    result: dict[str, object] = {"n_test": len(data.test), "seeds": list(seeds)}
    for name, codes in (("superclasses", superclasses), ("scp_codes", scp)):
        columns = [data.label_codes.index(code) for code in codes]
        y = labels[:, columns]
        patients = [data.patient_ids[row] for row in data.test]
        result[name] = {
            "labels": codes,
            "prototypes": [_macro(y, z[:, columns], codes, patients) for z in ours],
            "black_box": [_macro(y, z[:, columns], codes, patients) for z in other],
            "prototypes_minus_black_box": asdict(
                paired_macro_difference(
                    y,
                    np.concatenate([z[:, columns] for z in ours]),
                    np.concatenate([z[:, columns] for z in other]),
                    patients,
                    rng=np.random.default_rng(0),
                )
            ),
        }
    text = json.dumps(result, indent=2)
    (runs / "comparison.json").write_text(text + "\n")
    print(text)


def _macro(
    labels: Float[np.ndarray, "recording label"],
    logit: Float[np.ndarray, "recording label"],
    codes: Sequence[str],
    patients: Sequence[str | None],
) -> dict[str, float]:
    metrics = evaluate_scores(
        labels, 1 / (1 + np.exp(-logit)), codes, patients, rng=np.random.default_rng(0)
    )
    return asdict(metrics.macro_auroc)


def _show(name: str):  # noqa: ANN202
    def show(step: Progress) -> None:
        print(
            f"{name}: {step.stage} {step.epoch}/{step.n_epochs} loss {step.loss:.4f} "
            f"validation {step.validation:.4f}",
            flush=True,
        )

    return show


if __name__ == "__main__":
    main()
