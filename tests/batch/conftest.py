"""A small cohort with planted truth, written by hand: its tables, scores and bundle."""

import json
from datetime import date, timedelta
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

LABELS = ("NORM", "AFIB", "CLBBB")
OF_PROTOTYPE = ("NORM", "NORM", "AFIB", "AFIB", "CLBBB", "CLBBB")

CODES = {
    "I48.91": (-1.6, 1.4, 0.0),  # atrial fibrillation, 427.21: of prototype 2 alone
    "I10": (-0.2, 0.0, 0.05),  # hypertension, 401.1: of age alone
    "E11.9": (-1.2, 0.0, 0.0),  # diabetes, 250.2: of nothing
    "N40.0": (-1.0, 0.0, 0.03),  # hyperplasia of the prostate, 600: men
    "J45.909": (-4.0, 0.0, 0.0),  # asthma, 495: too rare
    "Z99.999": (-2.0, 0.0, 0.0),  # no phecode
}
"""Log odds at 60 years; per SD of prototype 2; per year."""

INFO = """\
phecode,phecode_string,phecode_category,sex,exclude_range
008,Intestinal infection,infectious diseases,Both,
250,Diabetes mellitus,endocrine/metabolic,Both,
250.2,Type 2 diabetes,endocrine/metabolic,Both,250
401,Hypertension,circulatory system,Both,
401.1,Essential hypertension,circulatory system,Both,401
427,Cardiac dysrhythmias,circulatory system,Both,
427.2,Atrial fibrillation and flutter,circulatory system,Both,427
427.21,Atrial fibrillation,circulatory system,Both,"427,427.2"
495,Asthma,respiratory,Both,
600,Hyperplasia of prostate,genitourinary,Male,
"""

ICD = """\
ICD,flag,phecode
I48.91,10,427.21
I10,10,401.1
E11.9,10,250.2
N40.0,10,600
J45.909,10,495
A04.7,10,008
"""
"""A phecode map of ten, which is read sooner than one of 1,817."""

TOML = """\
name = "By hand"
simulated = true
model = "hand"

[defaults]
phecode_version = "1.2"
minimum_codes = 2
linking = "any_time"
unit = "first"
minimum_cases = 20
"""


def write_bundle_of_six(folder: Path, *, seed: int = 1) -> SimpleNamespace:
    """A bundle of three labels and six prototypes without a network, as scoring sees it."""
    from phenokit.networks.checkpoint import load_bundle, write_bundle

    rng = np.random.default_rng(seed)
    figure = {
        "label": "AFIB", "metric": "AUROC", "value": 0.9, "low": 0.8, "high": 0.95,
        "n": 100, "n_positive": 40,
    }  # fmt: skip
    card = {
        "first_line": "Made by a test; not for diagnosis.", "name": folder.name,
        "version": "1.0.0", "intended_use": "Tests.", "population": "Nobody.",
        "inputs": "12-lead ECG, 10 s", "outputs": "Three labels",
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
        "prevalence": {label: {"training": 0.4} for label in LABELS},
        "performance": [figure], "subgroups": [], "tripod_ai": {},
    }  # fmt: skip
    prototypes = pd.DataFrame(
        {
            "prototype_id": range(6), "branch": "global", "index_in_branch": range(6),
            "label": OF_PROTOTYPE, "dataset": "none", "record_id": [*"abcdef"],
            "start": 0.0, "stop": 10.0, "labels": [[label] for label in OF_PROTOTYPE],
        }
    )  # fmt: skip
    write_bundle(
        folder,
        config={"labels": list(LABELS)},
        tensors={"prototypes.global": rng.normal(size=(6, 8)).astype(np.float32)},
        prototypes=prototypes,
        calibration={"threshold": dict.fromkeys(LABELS, 0.5)},
        trust={"mean": np.zeros(3)},
        card=card,
    )
    bundle = load_bundle(folder)
    return SimpleNamespace(
        name=folder.name, bundle_hash=bundle.bundle_hash, labels=LABELS,
        prototypes=range(6),
    )  # fmt: skip


def write_hand_cohort(folder: Path, model: SimpleNamespace, *, n: int = 300) -> Path:
    """A cohort folder of `n` patients; of each, one or two recordings were scored."""
    rng = np.random.default_rng(9)
    folder.mkdir(parents=True)
    sex = rng.choice(["Female", "Male"], n)
    age = rng.normal(60, 10, n)
    people = [f"p{k:04}" for k in range(n)]
    recorded = [date(2015, 1, 1) + timedelta(int(d)) for d in rng.integers(0, 900, n)]
    similarity = rng.normal(size=(n, 6)).astype(np.float32)
    patients = pd.DataFrame(
        {
            "person_id": people,
            "sex": sex,
            "birth_date": [
                day - timedelta(int(365.25 * years))
                for day, years in zip(recorded, age, strict=True)
            ],
            "site": rng.choice(["A", "B", "C"], n),
        }
    )
    diagnoses = []
    for code, (base, per_sd, per_year) in CODES.items():
        log_odds = base + per_sd * similarity[:, 2] + per_year * (age - 60)
        has = rng.random(n) < 1 / (1 + np.exp(-log_odds))
        if code.startswith("N40"):
            has &= sex == "Male"
        for k in np.flatnonzero(has):
            first = recorded[k] + timedelta(int(rng.integers(-300, 900)))
            n_codes = 1 if rng.random() < 0.1 else 2
            diagnoses += [
                (people[k], first + timedelta(40 * extra), code, 10)
                for extra in range(n_codes)
            ]
    recordings, rows = [], []
    for k in range(n):
        for visit in range(1 + (k % 3 == 0)):
            record_id = f"{people[k]}-{visit + 1}"
            time = f"{recorded[k] + timedelta(400 * visit)}T10:00:00Z"
            recordings.append((record_id, people[k], time))
            code = "E_HEADER" if k == 5 else "A_NOISE" if k in (6, 9) else "OK"
            is_read = code != "E_HEADER"
            near = similarity[k] + 0.3 * visit
            logit = near.reshape(3, 2).mean(axis=1) + rng.normal(0, 0.5, 3)
            outcome = {"E": "rejected", "A": "abstained", "O": "scored"}[code[0]]
            rows.append(
                {
                    "record_id": record_id, "path": f"{record_id}.hea", "patient_id": None,
                    "outcome": outcome, "code": code, "all_codes": [code], "message": "",
                    "start": 0.0, "stop": 10.0,
                    "probability": 1 / (1 + np.exp(-logit)) if is_read else logit * np.nan,
                    "similarity": near if is_read else near * np.nan,
                }
            )  # fmt: skip
    tables = {
        "patients": patients,
        "diagnoses": pd.DataFrame(
            diagnoses, columns=pd.Index(["person_id", "date", "icd_code", "icd_version"])
        ),
        "recordings": pd.DataFrame(
            recordings, columns=pd.Index(["record_id", "person_id", "time"])
        ),
        "follow_up": pd.DataFrame({"person_id": people, "end": "2019-12-31"}),
    }
    for name, table in tables.items():
        table.to_csv(folder / f"{name}.csv", index=False)
    (folder / "cohort.toml").write_text(TOML)
    write_scores(folder / "scores", rows, model)
    return folder


def write_scores(folder: Path, rows: list[dict], model: SimpleNamespace) -> None:
    """What `phenokit score` writes of these rows, in two parts."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir()
    texts = ("record_id", "path", "patient_id", "outcome", "code", "message")
    half = len(rows) // 2
    for k, part in enumerate((rows[:half], rows[half:])):
        columns = {
            name: pa.array([row[name] for row in part], pa.string()) for name in texts
        }
        columns["model"] = pa.array([model.name] * len(part))
        columns["bundle_hash"] = pa.array([model.bundle_hash] * len(part))
        probability = np.stack([row["probability"] for row in part])
        for j, label in enumerate(model.labels):
            column = pa.array(probability[:, j], from_pandas=True)
            columns[f"probability_{label}"] = column
        similarity = np.stack([row["similarity"] for row in part]).astype(np.float32)
        columns["similarity"] = pa.FixedSizeListArray.from_arrays(
            pa.array(similarity.ravel()), similarity.shape[1]
        )
        path = folder / f"part-{k:05d}.parquet"
        pq.write_table(pa.table(columns), path, write_page_checksum=True)
    manifest = {"format": "phenokit scores", "version": 1, "n_parts": 2}
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.fixture(scope="session")
def hand_models(tmp_path_factory) -> Path:
    """A models folder that holds the bundle `hand`."""
    folder = tmp_path_factory.mktemp("hand_models")
    write_bundle_of_six(folder / "hand")
    return folder


@pytest.fixture(scope="session")
def hand_map(tmp_path_factory) -> dict[str, Path]:
    """Files of the phecode map of ten, as arguments of `AssociationInputs`."""
    folder = tmp_path_factory.mktemp("map")
    (folder / "info.csv").write_text(INFO)
    (folder / "icd.csv").write_text(ICD)
    return {"phecode_info": folder / "info.csv", "phecode_icd": folder / "icd.csv"}


@pytest.fixture(scope="session")
def other_models(tmp_path_factory) -> Path:
    """A models folder whose bundle `hand` is another one."""
    folder = tmp_path_factory.mktemp("other_models")
    write_bundle_of_six(folder / "hand", seed=2)
    return folder


@pytest.fixture(scope="session")
def hand_cohort(hand_models, tmp_path_factory) -> Path:
    """The cohort folder; not to be changed."""
    model = write_bundle_of_six(tmp_path_factory.mktemp("again") / "hand")
    return write_hand_cohort(tmp_path_factory.mktemp("hand") / "cohort", model)
