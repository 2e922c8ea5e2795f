"""Builders that several tests use; nothing of PhenoKit is imported before it is needed."""

from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

TINY_CONDITIONS = {
    "normal": ("NORM", "SR"),
    "atrial_fibrillation": ("AFIB",),
    "left_bundle_branch_block": ("CD", "CLBBB", "SR"),
}
"""What the tiny model is trained on, and the labels that it learns of each."""

TINY_LABELS = ("NORM", "CD", "SR", "AFIB", "CLBBB")

TINY_RECIPE = {
    "name": "tiny",
    "labels": {"min_positives": 5},
    "network": {
        "prototypes_per_label": {"rhythm": 2, "morphology": 2, "global": 2},
        "widths": [16, 16, 16, 16],
        "dropout": 0.0,
    },
    "training": {
        "feature_epochs": 10,
        "joint_epochs": 1,
        "batch_size": 8,
        "averaging": 0.8,
        "loss": {"diversity": 1.0, "contrastive": 1.0},
    },
    "include_waveforms": True,
    "card": {
        "first_line": "Trained on simulated ECGs for tests. Not for diagnosis.",
        "version": "0.0.1",
        "intended_use": "Tests.",
        "population": "Simulated.",
        "inputs": "Twelve leads, 10 s.",
        "outputs": "Five labels.",
        "warnings": ["It has seen three conditions."],
        "owner": "PhenoKit",
        "licences": {
            "code": "Apache-2.0",
            "weights": "Apache-2.0",
            "training_data": "Apache-2.0",
        },
        "training_data": "120 simulated ECGs",
        "split": "by record",
    },
}


def simulated_ecg(condition="normal", seed=0, sampling_rate=500.0):
    """A simulated recording of one condition."""
    from phenokit.simulation.ecg import simulate_ecg

    rng = np.random.default_rng(seed)
    return simulate_ecg(
        condition, rng=rng, age=60.0, sex="female", sampling_rate=sampling_rate
    ).recording


@pytest.fixture(scope="session")
def ecg():
    """`ecg(condition, seed)`: a simulated twelve-lead recording, 10 s at 500 Hz."""
    return simulated_ecg


@pytest.fixture(scope="session")
def write_wfdb():
    """`write_wfdb(folder, name, recording)`: a record of .hea and .dat, 1 µV a step."""
    import wfdb

    def write(folder, name, recording):
        folder.mkdir(parents=True, exist_ok=True)
        wfdb.wrsamp(
            name,
            fs=int(recording.sampling_rate),
            units=["mV"] * 12,
            sig_name=list(recording.channels),
            d_signal=np.rint(recording.signal.T * 1000).astype(np.int64),
            fmt=["16"] * 12,
            adc_gain=[1000.0] * 12,
            baseline=[0] * 12,
            write_dir=str(folder),
        )
        return folder / f"{name}.hea"

    return write


@pytest.fixture(scope="session")
def tiny_archive(tmp_path_factory) -> Path:
    """A packed archive of 120 simulated ECGs: 72 train, 24 validation, 24 test."""
    from phenokit.preprocessing.contract import InputContract, prepare
    from phenokit.readers.packed import quantise, write_archive

    folder = tmp_path_factory.mktemp("archive") / "tiny"
    contract = InputContract()
    signals, rows, labels = [], [], []
    for n in range(120):
        condition, carried = list(TINY_CONDITIONS.items())[n % 3]
        recording = simulated_ecg(condition, seed=n, sampling_rate=100.0)
        signals.append(quantise(prepare(recording, contract).signal, scale=0.001))
        split, fold = ("train", 1) if n < 72 else ("val", 9) if n < 96 else ("test", 10)
        rows.append((f"sim-{n}", "simulated", f"p{n}", split, fold, 60.0, "female"))
        labels.append([label in carried for label in TINY_LABELS])
    write_archive(
        folder,
        signals=[np.stack(signals)],
        table=pd.DataFrame(
            rows,
            columns=pd.Index(
                ["record_id", "dataset", "patient_id", "split", "fold", "age", "sex"]
            ),
        ),
        label_codes=TINY_LABELS,
        labels=np.array(labels, dtype=np.float32),
        scale=0.001,
        unit="z",
        contract_id=contract.identifier,
        sampling_rate=100.0,
        dataset="simulated",
    )
    return folder


@pytest.fixture(scope="session")
def tiny_bundle(tiny_archive, tmp_path_factory) -> Path:
    """A bundle trained for seconds on `tiny_archive`, through every stage."""
    from phenokit.preprocessing.contract import InputContract
    from phenokit.readers.packed import open_archive
    from phenokit.training.assemble import train_ecg
    from phenokit.training.recipe import Recipe

    folder = tmp_path_factory.mktemp("models")
    train_ecg(
        Recipe.model_validate(TINY_RECIPE),
        open_archive(tiny_archive),
        folder / "tiny",
        contract=InputContract(),
        seed=3,
        run_folder=folder / "run",
        today=date(2025, 1, 1),
    )
    return folder / "tiny"


@pytest.fixture(scope="session")
def tiny_model(tiny_bundle):
    """The model of `tiny_bundle`, on the CPU."""
    from phenokit.pipeline import load_model

    return load_model(tiny_bundle, device="cpu")


@pytest.fixture
def write_toy_bundle():
    """`write_toy_bundle(parent, name, seed=)`: a valid bundle without a real network."""
    from phenokit.networks.checkpoint import write_bundle

    def write(parent: Path, name: str = "toy", *, seed: int = 1) -> Path:
        rng = np.random.default_rng(seed)
        figure = {
            "label": "NORM", "metric": "AUROC", "value": 0.9, "low": 0.8, "high": 0.95,
            "n": 100, "n_positive": 40,
        }  # fmt: skip
        card = {
            "first_line": "Made by a test; not for diagnosis.", "name": name,
            "version": "1.0.0", "intended_use": "Tests.", "population": "Nobody.",
            "inputs": "12-lead ECG, 10 s", "outputs": "One label",
            "warnings": ["Not for diagnosis."], "owner": "Nobody", "date": date(2026, 1, 2),
            "licences": {"code": "-", "weights": "-", "training_data": "-"},
            "training": {
                "data": "none", "n_recordings": 0, "preprocessing": "none", "split": "none",
            },
            "calibration": {"method": "none", "data": "none", "slope": []},
            "out_of_distribution": {
                "method": "none", "threshold": 1.0, "false_positive_rate": 0.05,
                "detection": [],
            },
            "prevalence": {"NORM": {"training": 0.4}},
            "performance": [figure], "subgroups": [], "tripod_ai": {},
        }  # fmt: skip
        prototypes = pd.DataFrame(
            {
                "prototype_id": [0], "branch": ["global"], "label": ["NORM"],
                "dataset": ["PTB-XL 1.0.3"], "record_id": ["7"], "start": [0.0],
                "stop": [10.0], "labels": [["NORM"]],
            }
        )  # fmt: skip
        write_bundle(
            parent / name,
            config={"labels": ["NORM"]},
            tensors={"backbone.weight": rng.normal(size=(2, 3)).astype(np.float32)},
            prototypes=prototypes,
            calibration={"threshold": {"NORM": 0.5}},
            trust={"mean": np.zeros(3)},
            card=card,
        )
        return parent / name

    return write
