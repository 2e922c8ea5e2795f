"""A small cohort with planted truth, written by hand: its tables, scores and bundle."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

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


@dataclass(frozen=True)
class Trial:
    """ECGs that are scored in small parts, and what that has to give.

    Attributes
    ----------
    ward
        Where they lie; not to be changed.
    model, bundle
        The tiny model, and its folder for other processes.
    n_rows
        Of a part.
    expected
        The bytes of every file of a run that nothing happened to.
    """

    ward: Path
    model: Any
    bundle: Path
    n_rows: int
    expected: dict[str, bytes] = field(default_factory=dict)

    def score(self, out: Path, **options: Any):
        """Score in this process, unless `workers` are wanted."""
        from phenokit.batch.score import score_cohort

        given = {"rows": self.n_rows, "workers": 0, **options}
        return score_cohort(given.pop("ward", self.ward), out, self.model, **given)

    def start(self, out: Path, *options: str, env: dict[str, str] | None = None, **popen):
        """`phenokit score` in a process of its own, with the same small parts."""
        script = SMALL_PARTS.format(rows=self.n_rows)
        command = [
            sys.executable, "-c", script, "score", str(self.ward), "--out", str(out),
            "--model", str(self.bundle), "--device", "cpu", *options,
        ]  # fmt: skip
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **(env or {})}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, env=environment, **{**pipes, **popen})

    def left(self, out: Path) -> dict[str, bytes]:
        """All that a run left, but for locks and progress, which say nothing of results."""
        return {
            path.relative_to(out).as_posix(): path.read_bytes()
            for path in out.rglob("*")
            if path.is_file() and not path.name.startswith(("lock", "progress"))
        }

    def rows(self, out: Path) -> list[dict[str, Any]]:
        """The rows of all parts, in their order."""
        import pyarrow.parquet as pq

        parts = sorted(out.glob("part-*.parquet"))
        return [row for part in parts for row in pq.read_table(part).to_pylist()]

    def check(self, out: Path) -> None:
        """Same bytes as without a fault; each recording a row, and one only."""
        assert [row["path"] for row in self.rows(out)] == [
            row["path"] for row in self.rows_expected
        ]
        left = self.left(out)
        assert left.keys() == self.expected.keys()
        assert [name for name in left if left[name] != self.expected[name]] == []

    @property
    def rows_expected(self) -> list[dict[str, Any]]:
        """The rows of a run that nothing happened to."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        names = sorted(name for name in self.expected if name.endswith(".parquet"))
        parts = [self.expected[name] for name in names if name.startswith("part-")]
        return [
            row
            for part in parts
            for row in pq.read_table(pa.BufferReader(part)).to_pylist()
        ]


SMALL_PARTS = """
from phenokit.batch.parts import ROWS
from phenokit.cli import main
ROWS["ecg"] = {rows}
main()
"""


def _trial(ward: Path, model: Any, bundle: Path, n_rows: int) -> Trial:
    out = ward.with_name("out")
    undisturbed = Trial(ward, model, bundle, n_rows)
    undisturbed.score(out)
    return replace(undisturbed, expected=undisturbed.left(out))


@pytest.fixture(scope="session")
def trial(ecg, write_wfdb, tiny_model, tiny_bundle, tmp_path_factory) -> Trial:
    """Eight ECGs, three a part: a broken one, a lost one, and a name beyond ASCII."""
    ward = tmp_path_factory.mktemp("trial") / "ward"
    conditions = ("normal", "atrial_fibrillation", "left_bundle_branch_block")
    for number, name in enumerate(("a", "b/c", "b/d", "b/f", "g", "h")):
        path = ward / name
        recording = ecg(conditions[number % 3], seed=500 + number, sampling_rate=100.0)
        write_wfdb(path.parent, path.name, recording)
    (ward / "g.hea").rename(ward / "Müller.hea")
    (ward / "b" / "broken.hea").write_text("broken 12 500\n")
    (ward / "lost.dat").write_bytes(b"\0" * 24_000)
    return _trial(ward, tiny_model, tiny_bundle, 3)


@pytest.fixture(scope="session")
def small_trial(trial, tmp_path_factory) -> Trial:
    """A good ECG and a broken one, each a part."""
    ward = tmp_path_factory.mktemp("small_trial") / "ward"
    ward.mkdir()
    for name in ("a.hea", "a.dat", "b/broken.hea"):
        shutil.copy(trial.ward / name, ward)
    return _trial(ward, trial.model, trial.bundle, 1)
