"""Builders that several tests use; nothing of PhenoKit is imported before it is needed."""

import json
import math
import os
import shutil
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

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


@pytest.fixture(scope="session", autouse=True)
def _audit_log(tmp_path_factory):
    """What tests do is logged in a folder of theirs, and has to be."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PHENOKIT_AUDIT", str(tmp_path_factory.mktemp("audit") / "log"))
        yield


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
    from phenokit.pipeline import load_ecg_model

    return load_ecg_model(tiny_bundle, device="cpu")


@pytest.fixture(scope="session")
def ieeg_model():
    """`ieeg_model(streaming)`: random weights; segments of 1 s at 128 Hz, 4 of history.

    Attention reaches 4 segments, the content of keys 2 of them. Weights are large enough
    that every part of the network matters.
    """
    import torch

    from phenokit.evidence.seizures import EventRule
    from phenokit.monitor import IEEGModel
    from phenokit.networks.mvpa import AttentionRule
    from phenokit.networks.mvpformer import IEEGContract, MVPFormerConfig, initialise
    from phenokit.preprocessing.segments import SegmentRule

    def make(
        streaming: Any = "cached", *, max_channels=12, order: Any = "as_recorded", **rule
    ):
        config = MVPFormerConfig(
            16, 3, 4, 2, 24, "classification", n_positions=20, n_channels=12, dropout=0.0,
            rule=AttentionRule(**{"window": 2, "exempt_last": False, "horizon": 4, **rule}),
            contract=IEEGContract(
                128.0, 128, max_channels=max_channels, channel_order=order
            ),
        )  # fmt: skip
        network = initialise(config, generator=torch.Generator().manual_seed(1)).eval()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter *= 15 if parameter.ndim > 1 else 1
        return IEEGModel(
            name="tiny-ieeg",
            config=config,
            segments=SegmentRule(128.0, 128, min_rate=100.0, flat_seconds=0.25),
            event_rule=EventRule(theta_on=0.6, minimum_duration=2.0, join_gap=2.0),
            streaming=streaming,
            n_segments=4,
            network=network,
        )

    return make


@pytest.fixture(scope="session")
def ieeg_bundle(ieeg_model, tmp_path_factory) -> Path:
    """A bundle of the network of `ieeg_model`, cached, with a calibration."""
    from phenokit.monitor import KIND
    from phenokit.networks.checkpoint import write_bundle
    from phenokit.networks.mvpformer import to_arrays

    model = ieeg_model()
    folder = tmp_path_factory.mktemp("models") / "tiny-ieeg"
    write_bundle(
        folder,
        config={
            "kind": KIND, "network": model.config.to_dict(),
            "segments": model.segments.to_dict(), "streaming": "cached",
            "n_segments": model.n_segments,
        },
        tensors=to_arrays(model.network),
        calibration={
            "theta_on": 0.55, "theta_off": 0.3, "median": 3, "join_gap": 2.0,
            "minimum_duration": 2.0, "platt": {"slope": 1.3, "intercept": -0.1},
        },
        card=toy_card("tiny-ieeg"),
    )  # fmt: skip
    return folder


@dataclass(frozen=True)
class InMemory:
    """An iEEG that is an array."""

    signal: np.ndarray
    channels: tuple[str, ...]
    sampling_rate: float = 128.0
    unit: str = "uV"
    record_id: str = "in-memory"

    @property
    def n_samples(self) -> int:
        return self.signal.shape[1]

    def samples(self, first: int, stop: int):
        return self.signal[:, first:stop].astype(np.float32)


@pytest.fixture(scope="session")
def ieeg_array():
    """`ieeg_array(n_channels, seconds, ...)`: noise of tens of microvolts."""

    def make(n_channels=5, seconds=12.0, *, sampling_rate=128.0, seed=0, **more):
        rng = np.random.default_rng(seed)
        signal = 30 * rng.normal(size=(n_channels, round(seconds * sampling_rate)))
        signal *= 1 + rng.random((n_channels, 1))
        names = tuple(f"A{k + 1}" for k in range(n_channels))
        return InMemory(signal.cumsum(1) * 0.2 + signal, names, sampling_rate, **more)

    return make


@pytest.fixture(scope="session")
def cuda() -> str:
    """The name of a device that is there."""
    import torch

    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    return "cuda"


def toy_card(name: str) -> dict[str, Any]:
    """A card that loads and says nothing."""
    figure = {
        "label": "NORM", "metric": "AUROC", "value": 0.9, "low": 0.8, "high": 0.95,
        "n": 100, "n_positive": 40,
    }  # fmt: skip
    return {
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


@pytest.fixture
def write_toy_bundle():
    """`write_toy_bundle(parent, name, seed=)`: a valid bundle without a real network."""
    from phenokit.networks.checkpoint import write_bundle

    def write(parent: Path, name: str = "toy", *, seed: int = 1) -> Path:
        rng = np.random.default_rng(seed)
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
            card=toy_card(name),
        )
        return parent / name

    return write


CATEGORIES = (
    "infectious diseases", "neoplasms", "endocrine/metabolic", "hematopoietic",
    "mental disorders", "neurological", "sense organs", "circulatory system", "respiratory",
    "digestive", "genitourinary", "pregnancy complications", "dermatologic",
    "musculoskeletal", "congenital anomalies", "symptoms", "injuries & poisonings",
)  # fmt: skip


@pytest.fixture(scope="session")
def association_rows():
    """`association_rows(n, ...)`: rows of one exposure over `n` phecodes, nulls but two.

    One phecode in ten has few cases and is not tested; "427.21" is strongly positive and
    "401" negative. `n_tests` is what Bonferroni divides by.
    """

    def rows(
        n: int = 60, *, exposure: str = "prototype 3", n_tests: int = 100, seed: int = 1
    ):
        rng = np.random.default_rng(seed)
        z = rng.normal(size=n)
        phecodes = [f"{100 + k}" for k in range(n)]
        names = [f"Condition {k}" for k in range(n)]
        strong, weak = n // 2, n // 2 + 3
        phecodes[strong], names[strong], z[strong] = "427.21", "Atrial fibrillation", 8.0
        phecodes[weak], names[weak], z[weak] = "401", "Hypertension", -5.0
        cases = rng.integers(25, 900, n)
        cases[4::10] = 7
        few = cases < 20
        beta = np.where(few, np.nan, z * 0.06)
        p = np.array([2 * 0.5 * math.erfc(abs(one) / math.sqrt(2)) for one in z])
        p = np.where(few, np.nan, p)
        kind = exposure.split()[0] if " " in exposure else "feature"
        corrected = np.minimum(p * n_tests, 1)
        return pd.DataFrame(
            {
                "exposure": exposure, "exposure_kind": kind, "phecode": phecodes,
                "phecode_string": names,
                "phecode_category": [
                    CATEGORIES[k * len(CATEGORIES) // n] for k in range(n)
                ],
                "sex_restriction": "Both", "cases": cases, "controls": 4000 - cases,
                "n_total": 4000, "n_excluded": 12, "beta": beta,
                "standard_error": np.where(few, np.nan, 0.06), "p_value": p,
                "neg_log_p_value": -np.log10(p), "odds_ratio": np.exp(beta),
                "conf_int_1": np.exp(beta - 0.1176), "conf_int_2": np.exp(beta + 0.1176),
                "auc": np.where(few, np.nan, 0.5 + z / 40), "auc_conf_int_1": np.nan,
                "auc_conf_int_2": np.nan,
                "method": np.where(few, "", np.where(cases < 50, "firth", "score")),
                "converged": ~few, "p_bonferroni": corrected, "q_bh": corrected,
                "p_permutation": np.nan, "status": np.where(few, "not_tested", "tested"),
                "code": np.where(few, "N_FEW_CASES", "OK"), "note": "",
                "covariates": "age + sex", "model_version": "toy", "run_id": "0123456789ab",
            }
        )  # fmt: skip

    return rows


@pytest.fixture(scope="session")
def write_association_run(association_rows):
    """`write_association_run(folder)`: a finished run of three exposures."""
    import pyarrow as pa

    from phenokit.batch.run_folder import open_run

    names = ("prototype 3", "prototype 5", "class AFIB")

    def write(folder: Path) -> Path:
        frames = [
            association_rows(60, exposure=name, n_tests=162, seed=k)
            for k, name in enumerate(names)
        ]
        exposures = pd.DataFrame(
            {
                "exposure": names, "exposure_kind": [name.split()[0] for name in names],
                "label": "AFIB", "prototype_id": [3, 5, None], "description": "",
                "n": 4000, "n_missing": 0, "mean": 0.5, "sd": 0.1,
            }
        )  # fmt: skip
        cohort = {
            "attrition": [
                {"rule": "all patients", "n_patients": 4100, "n_recordings": 5000,
                 "dropped_patients": 0, "dropped_recordings": 0},
                {"rule": "an ECG that was scored", "n_patients": 4000, "n_recordings": 4000,
                 "dropped_patients": 100, "dropped_recordings": 1000},
            ],
            "notes": ["Two codes on two days make a case."], "case_rule": "two codes",
            "linking": "same admission", "phecode_version": "1.2", "citation": "Wu 2019",
        }  # fmt: skip
        with open_run(folder, plan={"seed": 1}, command="associate") as run:
            table = pa.Table.from_pandas(pd.concat(frames), preserve_index=False)
            run.write_parquet("associations.parquet", table)
            run.write_parquet("exposures.parquet", pa.Table.from_pandas(exposures))
            run.write("cohort.json", json.dumps(cohort).encode())
            run.finish(
                {
                    "format": "phenokit associations", "run_id": "0123456789ab",
                    "model": "toy", "bundle_hash": "ab" * 32,
                    "settings": {"minimum_cases": 20}, "n_tests": 162, "n_exposures": 3,
                    "n_phecodes": 60, "n_patients": 4000,
                }
            )  # fmt: skip
        return folder

    return write


@pytest.fixture(scope="session")
def browser():
    """Debian's Chromium, one for all tests: a second one in the process cannot start."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("chromium is not installed")
    from playwright.sync_api import sync_playwright

    # Without a sandbox only where the tests run as root, as in a container.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=arguments)
        yield browser
        browser.close()
