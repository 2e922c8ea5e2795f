"""The demonstration material, from the command to the files."""

import csv
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from phenokit.batch.demo import write_demo
from phenokit.networks.checkpoint import bundle_folders, load_bundle
from phenokit.simulation.cohort import labels_of

pytestmark = pytest.mark.skipif(
    "ecg-demo" not in {folder.name for folder in bundle_folders()},
    reason="the model ecg-demo is not installed",
)

CHANGING = ("progress.json", "lock")


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in files
        if path.name not in CHANGING
    }


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A small demonstration, and what was reported while it was made."""
    folder, said = tmp_path_factory.mktemp("demo"), []
    made = write_demo(
        folder, n_patients=26, seed=4, workers=1, progress=lambda *step: said.append(step)
    )
    return folder, made, said


@pytest.fixture
def copy(demo, tmp_path):
    """The same files again, for tests that change them."""
    import shutil

    return Path(shutil.copytree(demo[0], tmp_path / "demo"))


def test_without_patients_there_are_only_the_dozen_recordings(tmp_path):
    made = write_demo(tmp_path, n_patients=0)
    assert made.cohort is None
    assert {p.suffix for p in tmp_path.iterdir()} == {".hea", ".dat", ".csv"}
    assert 12 <= len(made.recordings) <= 15


def test_the_cohort_folder_is_complete(demo):
    _, made, _ = demo
    files = set(contents(made.cohort))
    tables = ["patients", "admissions", "diagnoses", "recordings", "labs", "follow_up"]
    truth = ["effects", "conditions", "phenotypes", "outcomes", "tests", "prototypes"]
    assert files >= {f"{name}.csv" for name in tables} | {"cohort.toml", "manifest.json"}
    assert files >= {f"truth/{name}.csv" for name in truth} | {"truth/README.md"}
    with (made.cohort / "recordings.csv").open(encoding="utf-8") as file:
        ids = [row["record_id"] for row in csv.DictReader(file)]
    scores = pd.read_parquet(made.cohort / "scores" / "part-00000.parquet")
    assert list(scores["record_id"]) == ids
    assert files >= {f"recordings/{one}{end}" for one in ids for end in (".hea", ".dat")}


def test_progress_ends_where_the_recordings_end(demo):
    _, made, said = demo
    n = json.loads((made.cohort / "manifest.json").read_bytes())["n_recordings"]
    assert said[0] == ("recordings", 0, n)
    assert [step for step in said if step[0] != "recordings"][-1] == ("report", 1, 1)
    for stage in ("recordings", "scoring"):
        steps = [step for step in said if step[0] == stage]
        assert steps[-1] == (stage, n, n)
        assert steps == sorted(steps)


def test_the_number_of_processes_does_not_change_a_byte(demo, tmp_path):
    _, made, _ = demo
    write_demo(tmp_path, n_patients=26, seed=4, workers=2)
    assert contents(tmp_path / "cohort") == contents(made.cohort)


def test_scores_are_those_of_phenokit_score(demo, tmp_path):
    from phenokit.batch.score import score_cohort

    _, made, _ = demo
    score_cohort(made.cohort / "recordings", tmp_path, "ecg-demo", device="cpu", workers=0)
    assert contents(tmp_path) == contents(made.cohort / "scores")


def test_a_finished_cohort_is_left_alone(copy):
    table = copy / "cohort" / "patients.csv"
    before = table.stat().st_mtime_ns
    assert write_demo(copy, n_patients=26, seed=4, workers=1).was_there
    assert table.stat().st_mtime_ns == before


def test_an_unfinished_cohort_is_completed_to_the_same_bytes(demo, copy):
    cohort = copy / "cohort"
    lost = sorted((cohort / "recordings").rglob("*.hea"))[5]
    for path in (cohort / "manifest.json", lost, lost.with_suffix(".dat")):
        path.unlink()
    kept = min((cohort / "recordings").rglob("*.hea"))
    before = kept.stat().st_mtime_ns
    assert not write_demo(copy, n_patients=26, seed=4, workers=1).was_there
    assert contents(cohort) == contents(demo[1].cohort)
    assert kept.stat().st_mtime_ns == before


def test_a_cohort_of_another_size_replaces_the_old_one(copy):
    write_demo(copy, n_patients=2, seed=4, workers=1)
    patients = (copy / "cohort" / "patients.csv").read_text().splitlines()
    headers = {p.stem[:7] for p in (copy / "cohort" / "recordings").rglob("*.hea")}
    assert len(patients) == 3
    assert headers == {"p000001", "p000002"}


def test_a_folder_that_is_something_else_is_not_touched(tmp_path):
    (tmp_path / "cohort").mkdir()
    (tmp_path / "cohort" / "manifest.json").write_text("mine")
    from phenokit.errors import BadInput

    with pytest.raises(BadInput, match="something else"):
        write_demo(tmp_path, n_patients=2, workers=1)
    assert (tmp_path / "cohort" / "manifest.json").read_text() == "mine"


def test_named_prototypes_have_the_labels_of_the_driver_they_show(demo):
    _, made, _ = demo
    named = pd.read_csv(made.cohort / "truth" / "prototypes.csv", dtype={"phecode": str})
    source = load_bundle("ecg-demo").prototypes.set_index("prototype_id")["labels"]
    for driver, prototype in zip(named["driver"], named["prototype_id"], strict=True):
        assert set(labels_of(driver)) <= set(source[prototype])
    assert named["phecode"].nunique() > 15


CLAIMED = {
    "428.3": ("CD", "CLBBB"),
    "426.24": ("CD",),
    "415.2": ("HYP",),
    "425.11": ("HYP",),
    "394.2": ("HYP",),
    "411.3": ("STTC",),
    "411.41": ("STTC", "MI", "AMI"),
    "458.9": ("MI",),
    "420.21": ("MI", "LMI"),
}
"""Phecodes that go more strongly with one prototype than with these predicted classes."""


@pytest.mark.slow  # two thousand patients: a minute
def test_the_prototype_that_carries_an_effect_outranks_its_class(tmp_path):
    from phenokit.readers.cohorts import Linking, build_cohort, read_cohort_tables
    from phenokit.readers.phecodes import CaseRule, read_phecode_map

    folder = write_demo(tmp_path, seed=1).cohort
    assert folder is not None
    parts = sorted((folder / "scores").glob("part-*.parquet"))
    scores = pd.concat(map(pd.read_parquet, parts))
    cohort = build_cohort(
        read_cohort_tables(folder),
        read_phecode_map("1.2"),
        cases=CaseRule(minimum_codes=2),
        linking=Linking("any_time", unit="first"),
        scored=pd.DataFrame(scores[["record_id", "patient_id", "outcome"]]),
    )
    scored = scores.set_index("record_id").loc[cohort.patients["record_id"]]
    named = pd.read_csv(folder / "truth" / "prototypes.csv", dtype={"phecode": str})
    similarity = np.stack(list(scored["similarity"])).astype(float)
    covariates = np.column_stack(
        [np.ones(len(scored)), cohort.patients["age"], cohort.patients["sex"] == "Male"]
    ).astype(float)
    n_higher_auc = 0
    for phecode, labels in CLAIMED.items():
        carriers = np.unique(named.query(f"phecode == '{phecode}'")["prototype_id"])
        probability = scored[[f"probability_{label}" for label in labels]].to_numpy()
        logit = np.log(probability / (1 - probability))
        status = np.asarray(cohort.status.column(cohort.status.phecodes.index(phecode)))
        known, has = status != 2, status == 1
        values = np.column_stack([similarity[:, carriers], logit])[known]
        n = len(carriers)
        z = score_statistic(values, has[known].astype(float), covariates[known])
        assert z[:n].max() > z[n:].max(), phecode
        auc = [roc_auc_score(has[known], column) for column in values.T]
        n_higher_auc += max(auc[:n]) > auc[n]  # the superclass comes first
    assert n_higher_auc == len(CLAIMED)


def score_statistic(values, y, covariates):
    """Score statistic of each column, adjusted for the covariates."""
    import statsmodels.api as sm

    p = sm.Logit(y, covariates).fit(disp=0).predict(covariates)
    weight = (p * (1 - p))[:, None]
    within = np.linalg.solve(
        covariates.T @ (weight * covariates), covariates.T @ (weight * values)
    )
    adjusted = values - covariates @ within
    return adjusted.T @ (y - p) / np.sqrt((weight * adjusted**2).sum(0))


@pytest.fixture
def short_ieegs(monkeypatch):
    """A minute without a seizure in place of each recording."""
    monkeypatch.setattr("phenokit.batch.demo._IEEGS", ((8, 60, 0, 0), (10, 60, 0, 0)))


def test_finished_ieegs_are_left_alone_and_those_of_another_seed_replaced(
    short_ieegs, tmp_path
):
    made = write_demo(tmp_path / "a", n_patients=0, n_ieegs=2, workers=1)
    assert [path.name for path in made.ieegs] == ["simulated01.edf", "simulated02.edf"]
    before = made.ieegs[0].stat().st_mtime_ns
    write_demo(tmp_path / "a", n_patients=0, n_ieegs=2, workers=1)
    assert made.ieegs[0].stat().st_mtime_ns == before
    first = contents(tmp_path / "a")
    write_demo(tmp_path / "a", n_patients=0, n_ieegs=2, seed=2, workers=1)
    assert contents(tmp_path / "a")["ieeg/simulated01.edf"] != first["ieeg/simulated01.edf"]


@pytest.mark.slow
def test_ieegs_of_two_processes_are_those_of_one(tmp_path):
    for name, workers in (("a", 1), ("b", 2)):
        write_demo(tmp_path / name, n_patients=0, n_ieegs=2, workers=workers)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
