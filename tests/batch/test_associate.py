"""`phenokit associate` from the tables of a cohort to its folder, and through faults."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from threadpoolctl import threadpool_limits

from phenokit.batch import associate, run_folder
from phenokit.batch.associate import (
    AssociationInputs,
    AssociationOptions,
    default_options,
    run_association,
)
from phenokit.errors import AnalysisRefused, BadInput
from phenokit.evidence.associations import COLUMNS, AssociationSettings, plan_tests
from phenokit.readers.cohorts import Linking, build_cohort, read_cohort_tables
from phenokit.readers.phecodes import CaseRule, read_phecode_map
from phenokit.readers.scores import read_scores

CHANGING = ("progress.json", "lock")
FEW = ("prototype 2", "class AFIB")
"""Exposures of the runs that need no more."""

DATA = os.environ.get("PHENOKIT_DATA")


@pytest.fixture(autouse=True)
def _models(hand_models, monkeypatch):
    monkeypatch.setenv("PHENOKIT_MODELS", str(hand_models))


@pytest.fixture(scope="module")
def options(hand_cohort) -> AssociationOptions:
    return default_options(hand_cohort, AssociationOptions())


@pytest.fixture(scope="module")
def whole(hand_models, hand_cohort, options, tmp_path_factory) -> Path:
    """A finished run of everything."""
    out = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PHENOKIT_MODELS", str(hand_models))
        run_association(
            AssociationInputs(cohort=hand_cohort),
            replace(
                options,
                compare=True,
                n_time_to_code=3,
                settings=replace(options.settings, n_permutations=40, seed=5),
            ),
            out,
        )
    return out


@pytest.fixture
def run(hand_cohort, hand_map, options, tmp_path, monkeypatch):
    """`run(**changes)`: the table and the manifest of a run with other options.

    With the map of ten phecodes in five parts, unless another map is asked for.
    """
    monkeypatch.setattr(associate, "PHECODES_A_PART", 2)

    def go(inputs=None, *, out="out", **changes):
        inputs = inputs or AssociationInputs(cohort=hand_cohort)
        if "phecode_version" not in changes:
            inputs = replace(inputs, **hand_map)
            changes["phecode_version"] = "by hand"
        changed = replace(options, **{"names": FEW, **changes})
        manifest = run_association(inputs, changed, tmp_path / out)
        return pd.read_parquet(tmp_path / out / "associations.parquet"), manifest

    return go


@pytest.fixture
def copy(hand_cohort, tmp_path):
    """A copy of the cohort folder, for tests that change it."""
    return Path(shutil.copytree(hand_cohort, tmp_path / "cohort"))


def table_of(out: Path) -> pd.DataFrame:
    return pd.read_parquet(out / "associations.parquet")


def contents(out: Path) -> dict[str, bytes]:
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.name not in CHANGING
    }


def those_tested(table: pd.DataFrame) -> pd.DataFrame:
    return table.loc[table["status"] == "tested"]


# --- a run of everything ----------------------------------------------------------------


def test_every_pair_has_one_row_whose_counts_add_up(whole):
    table = table_of(whole)
    assert tuple(table.columns) == COLUMNS
    assert len(table) == 15 * 1817
    assert not table.duplicated(["exposure", "phecode"]).any()
    assert {"008", "427.21"} < set(table["phecode"])
    counts = table[["cases", "controls", "n_total", "n_excluded"]].to_numpy()
    assert np.array_equal(counts[:, 0] + counts[:, 1], counts[:, 2])
    assert np.all(counts[:, 2] + counts[:, 3] == 297)
    assert set(table["status"]) == {"tested", "not_tested"}
    is_tested = table["status"] == "tested"
    numbers = ["beta", "p_value", "auc", "p_bonferroni", "q_bh", "p_permutation"]
    assert table.loc[is_tested, numbers].notna().all(axis=None)
    assert table.loc[~is_tested, numbers].isna().all(axis=None)


def test_the_manifest_counts_what_the_table_holds_and_names_every_file(whole):
    table, manifest = table_of(whole), json.loads((whole / "manifest.json").read_bytes())
    assert manifest["status"] == table["status"].value_counts().to_dict()
    assert manifest["codes"] == table["code"].value_counts().to_dict()
    assert manifest["n_tests"] == len(those_tested(table))
    assert (manifest["n_exposures"], manifest["n_phecodes"]) == (15, 1817)
    assert manifest["n_phecodes_tested"] == those_tested(table)["phecode"].nunique()
    assert manifest["n_patients"] == len(pd.read_parquet(whole / "patients.parquet"))
    not_described = {"plan.json", "manifest.json"}
    receipts = {name for name in contents(whole) if name.startswith("part-")}
    assert set(manifest["files"]) | not_described | receipts == set(contents(whole))


def test_the_live_plan_is_what_happens(whole, hand_cohort):
    phecode_map = read_phecode_map("1.2")
    cohort = build_cohort(
        read_cohort_tables(hand_cohort),
        phecode_map,
        cases=CaseRule(minimum_codes=2),
        linking=Linking(),
        scored=read_scores(hand_cohort / "scores").table,
    )
    plan = plan_tests(cohort.status, phecode_map.info, minimum_cases=20)
    table = table_of(whole).query("exposure == 'prototype 0'").reset_index(drop=True)
    for name in ("phecode", "cases", "controls", "n_excluded", "code"):
        assert plan[name].tolist() == table[name].tolist()


def test_the_prototype_that_carries_an_effect_outranks_its_class_and_nulls_stay_null(whole):
    table = those_tested(table_of(whole)).sort_values("neg_log_p_value", ascending=False)
    fibrillation = table.query("phecode == '427.21'")
    assert fibrillation["exposure"].iloc[0] == "prototype 2"
    assert fibrillation["odds_ratio"].iloc[0] > 2
    assert fibrillation["p_permutation"].iloc[0] == pytest.approx(1 / 41)
    of_nothing = table.query("phecode in ('250.2', '401.1', '600')")
    assert (of_nothing["p_bonferroni"] > 0.05).all()
    assert not any(table["phecode"] == "495")  # too rare


def test_the_csv_holds_the_tests_and_the_reasons_of_the_others(whole):
    table = table_of(whole)
    csv = pd.read_csv(whole / "associations.csv", dtype=str)
    assert csv["phecode"].tolist() == those_tested(table)["phecode"].tolist()
    expected = those_tested(table)["p_value"].tolist()
    assert [float(cell) for cell in csv["p_value"]] == expected  # to the last digit
    reasons = pd.read_csv(whole / "not_tested.csv", dtype={"phecode": str})
    assert reasons["n_exposures"].sum() == len(table) - len(those_tested(table))
    assert reasons.query("phecode == '495'")["code"].tolist() == ["N_FEW_CASES"]


def test_the_cohort_says_its_rules_and_its_attrition_adds_up(whole):
    said = json.loads((whole / "cohort.json").read_bytes())
    steps = said["attrition"]
    for before, step in pairwise(steps):
        for what in ("patients", "recordings"):
            left = step[f"n_{what}"] + step[f"dropped_{what}"]
            assert left == before[f"n_{what}"]
    assert (steps[0]["n_patients"], steps[-1]["n_patients"]) == (300, 297)
    assert any("A_NOISE 4" in step["rule"] for step in steps)
    assert said["mapping"]["n_unmapped_codes"] == 1
    assert said["mapping"]["unmapped"][0][:2] == ["Z99999", "10"]
    assert any("reference of sex" in note for note in said["notes"])


def test_exposures_are_described(whole):
    exposures = pd.read_parquet(whole / "exposures.parquet").set_index("exposure")
    assert exposures["n"].tolist() == [297] * 15
    assert exposures.loc["prototype 2", ["label", "prototype_id"]].tolist() == ["AFIB", 2]
    assert exposures.loc["class AFIB", "prototype_id"] == -1
    assert exposures.loc["prototype_class AFIB max", "exposure_kind"] == "prototype_class"
    largest = exposures.loc["prototype_class AFIB max", "mean"]
    assert largest > exposures.loc["prototype_class AFIB mean", "mean"]


def test_comparisons_and_hazard_ratios_are_written(whole):
    sentences = json.loads((whole / "comparisons" / "sentences.json").read_bytes())
    names = {"best", "best_held_out", "within_class", "within_class_held_out"}
    assert set(sentences) == names | {"specificity", "distances", "prediction"}
    for name in sentences:
        assert len(pd.read_parquet(whole / "comparisons" / f"{name}.parquet"))
        assert (whole / "comparisons" / f"{name}.csv").stat().st_size
    assert set(sentences["best"]) == {"class", "prototype_class"}
    hazards = pd.read_parquet(whole / "survival.parquet")
    strongest = those_tested(table_of(whole)).sort_values(
        "neg_log_p_value", ascending=False
    )
    assert hazards["exposure"].tolist() == strongest["exposure"].head(3).tolist()
    assert (hazards["status"] == "tested").all()


# --- stopped and started again ----------------------------------------------------------

KILLED = """
import os, signal, sys
from dataclasses import replace
from pathlib import Path
from phenokit.batch import associate, run_folder
written = run_folder._write_atomically
def write(path, data):
    if path.name == sys.argv[3]:
        os.kill(os.getpid(), signal.SIGKILL)
    written(path, data)
run_folder._write_atomically = write
cohort = Path(sys.argv[1])
associate.PHECODES_A_PART = 2
options = associate.default_options(cohort, associate.AssociationOptions())
options = replace(
    options, names=("prototype 2", "class AFIB"), phecode_version="by hand"
)
inputs = associate.AssociationInputs(
    cohort=cohort, phecode_info=Path(sys.argv[4]), phecode_icd=Path(sys.argv[5])
)
associate.run_association(inputs, options, Path(sys.argv[2]))
"""


def test_a_run_killed_and_started_again_leaves_the_bytes_of_one_that_was_not(
    run, hand_cohort, hand_map, tmp_path
):
    run(out="whole")
    killed = [sys.executable, "-c", KILLED, hand_cohort, tmp_path / "killed"]
    command = [*killed, "part-00003.parquet", *hand_map.values()]
    dead = subprocess.run([*map(str, command)], check=False)
    assert dead.returncode == -signal.SIGKILL
    left = {path.name for path in (tmp_path / "killed").glob("part-*.parquet")}
    assert left == {"part-00000.parquet", "part-00001.parquet", "part-00002.parquet"}
    run(out="killed")
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


@pytest.mark.parametrize(
    "name", ["part-00000.parquet", "associations.parquet", "cohort.json"]
)
def test_a_run_that_failed_anywhere_goes_on_to_the_same_bytes(
    run, tmp_path, monkeypatch, name
):
    run(out="whole")
    written = run_folder._write_atomically

    def write(path, data):
        if path.name == name:
            raise OSError(28, "No space left on device")
        written(path, data)

    monkeypatch.setattr(run_folder, "_write_atomically", write)
    with pytest.raises(OSError, match="No space"):
        run(out="failed")
    state = json.loads((tmp_path / "failed" / "progress.json").read_bytes())["state"]
    assert state == "failed"
    monkeypatch.setattr(run_folder, "_write_atomically", written)
    run(out="failed")
    assert contents(tmp_path / "failed") == contents(tmp_path / "whole")


def test_only_missing_and_damaged_parts_are_tested_again(run, tmp_path, monkeypatch):
    run()
    out = tmp_path / "out"
    before = contents(out)
    (out / "manifest.json").unlink()
    damaged = bytearray((out / "part-00004.parquet").read_bytes())
    damaged[100] ^= 1
    (out / "part-00004.parquet").write_bytes(damaged)
    scanned = []
    scan = associate.scan_phecodes
    monkeypatch.setattr(
        associate, "scan_phecodes", lambda *a, **k: scanned.append(1) or scan(*a, **k)
    )
    run()
    assert len(scanned) == 1
    assert contents(out) == before


def test_a_finished_run_is_left_alone(run, tmp_path, monkeypatch):
    _, first = run()
    times = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").iterdir()}
    monkeypatch.setattr(associate, "scan_phecodes", None)
    _, again = run()
    assert again == json.loads(json.dumps(first))
    changed = {p for p, t in times.items() if p.stat().st_mtime_ns != t}
    assert changed <= {tmp_path / "out" / name for name in CHANGING}


def test_other_options_or_inputs_are_refused_unless_restarted(
    run, options, hand_cohort, hand_map, tmp_path
):
    run()
    with pytest.raises(BadInput, match="differs in: options") as error:
        run(names=FEW[:1])
    assert error.value.code == "E_VERSION"
    (tmp_path / "x.csv").write_text("person_id,x\np0001,1\np0002,2\n")
    more = AssociationInputs(cohort=hand_cohort, exposures=tmp_path / "x.csv")
    with pytest.raises(BadInput, match="differs in: inputs"):
        run(more)
    other = replace(options, names=FEW[:1], phecode_version="by hand")
    inputs = AssociationInputs(cohort=hand_cohort, **hand_map)
    manifest = run_association(inputs, other, tmp_path / "out", restart=True)
    assert manifest["n_exposures"] == 1
    assert set(table_of(tmp_path / "out")["exposure"]) == {FEW[0]}


def test_threads_change_no_number(run):
    tables = []
    for n in (1, 2):
        with threadpool_limits(n):
            tables.append(run(out=f"threads{n}", names=())[0])
    one, two = tables
    for name in one.select_dtypes("number"):
        np.testing.assert_allclose(one[name], two[name], rtol=1e-10, atol=1e-12)
    assert one["code"].tolist() == two["code"].tolist()


def test_permutations_follow_their_seed(run):
    def permuted(out: str, seed: int) -> list[float]:
        settings = AssociationSettings(n_permutations=30, seed=seed, refine="none")
        return those_tested(run(out=out, settings=settings)[0])["p_permutation"].tolist()

    assert permuted("a", 1) == permuted("b", 1)
    assert permuted("a", 1) != permuted("c", 2)


# --- scores and exposures ---------------------------------------------------------------


def test_scores_of_another_bundle_are_refused(run, other_models, monkeypatch):
    monkeypatch.setenv("PHENOKIT_MODELS", str(other_models))
    with pytest.raises(BadInput, match="score again, or install") as error:
        run()
    assert error.value.code == "E_VERSION"


@pytest.mark.parametrize("key", ["person_id", "record_id"])
def test_features_are_joined_by_person_or_recording_and_may_be_missing(
    run, hand_cohort, tmp_path, key
):
    recordings = pd.read_csv(hand_cohort / "recordings.csv")
    ids = recordings[key].drop_duplicates()
    rng = np.random.default_rng(2)
    cells = pd.Series([f"{x:.6f}" for x in rng.normal(size=len(ids))], index=ids.index)
    is_missing = ids.str.match("p00[123]")  # of 30 people, all of them analysed
    table = pd.DataFrame(
        {
            key: ids,
            "crp": cells.mask(is_missing, ""),
            "carrier": rng.integers(0, 2, len(ids)),
        }
    )
    table.iloc[::-1].to_csv(tmp_path / "features.csv", index=False)
    inputs = AssociationInputs(cohort=hand_cohort, exposures=tmp_path / "features.csv")
    result, _ = run(inputs, names=("crp", "carrier", "prototype 2"))
    row = result.query("phecode == '427.21'").set_index("exposure")
    rows = row["n_total"] + row["n_excluded"]
    assert rows.to_dict() == {"crp": 267, "carrier": 297, "prototype 2": 297}
    assert (row["status"] == "tested").all()
    said = pd.read_parquet(tmp_path / "out" / "exposures.parquet")
    assert said["n_missing"].tolist() == [30, 0, 0]
    assert said["exposure_kind"].tolist() == ["feature", "feature", "prototype"]


def test_a_table_of_nobody_in_the_cohort_is_refused(run, hand_cohort, tmp_path):
    (tmp_path / "x.csv").write_text("person_id,x\nnobody,1\nelse,2\n")
    inputs = AssociationInputs(cohort=hand_cohort, exposures=tmp_path / "x.csv")
    with pytest.raises(BadInput, match="is in the cohort"):
        run(inputs, names=())


def test_a_column_of_the_patients_is_an_exposure_and_no_covariate_beside(run):
    table, _ = run(
        kinds=(), names=(), patient_exposures=("age",), covariates=("sex", "site")
    )
    strongest = those_tested(table).sort_values("p_value").iloc[0]
    assert strongest["exposure"] == "age"
    assert strongest["covariates"] == "sex Female, site B, site C"
    with pytest.raises(BadInput, match="age is both exposure and covariate"):
        run(out="both", kinds=(), names=(), patient_exposures=("age",))


def test_all_recordings_of_a_patient_get_the_robust_test(run):
    table, manifest = run(linking=Linking(unit="all"))
    rows = those_tested(table)
    assert (manifest["n_patients"], manifest["n_rows"]) == (297, 395)
    assert set(rows["method"]) == {"robust_score"}
    assert np.isfinite(rows["auc"].to_numpy()).all()
    assert np.isnan(rows["auc_conf_int_1"].to_numpy()).all()
    best = rows.sort_values("p_value").iloc[0]
    assert (best["exposure"], best["phecode"][:3]) == ("prototype 2", "427")


def test_rows_of_a_patient_count_as_one_in_the_robust_test(run, copy):
    # Both recordings of everybody alike: the robust z is that of one recording each.
    alone = {"settings": AssociationSettings(refine="none"), "names": ("prototype 2",)}
    once, _ = run(AssociationInputs(cohort=copy), **alone)
    doubled = _with_every_recording_twice(copy)
    twice, _ = run(doubled, out="twice", linking=Linking(unit="all"), **alone)
    one, other = (those_tested(t).set_index(["exposure", "phecode"]) for t in (once, twice))
    ratio = other["neg_log_p_value"] / one["neg_log_p_value"]
    assert ratio.median() == pytest.approx(1, abs=0.1)


def _with_every_recording_twice(folder: Path) -> AssociationInputs:
    """The first recording of each patient under two names, with the same features."""
    recordings = pd.read_csv(folder / "recordings.csv")
    first = recordings.loc[recordings["record_id"].str.endswith("-1")]
    scores = read_scores(folder / "scores")
    position = pd.Index(scores.table["record_id"]).get_indexer(first["record_id"])
    features = pd.DataFrame(
        {"record_id": first["record_id"], "prototype 2": scores.similarity[position, 2]}
    ).dropna()
    again = [
        frame.assign(record_id=frame["record_id"] + "x") for frame in (first, features)
    ]
    pd.concat([first, again[0]]).to_csv(folder / "twice.csv", index=False)
    pd.concat([features, again[1]]).to_csv(folder / "features.csv", index=False)
    shutil.rmtree(folder / "scores")
    return AssociationInputs(
        cohort=folder, recordings=folder / "twice.csv", exposures=folder / "features.csv"
    )


def test_tables_of_phetk_run_unchanged(run, tmp_path, monkeypatch):
    monkeypatch.setattr(associate, "PHECODES_A_PART", 4000)
    rng = np.random.default_rng(5)
    n = 400
    people = np.arange(1000, 1000 + n)
    carrier = rng.integers(0, 2, n)
    cohort = pd.DataFrame(
        {
            "person_id": people, "sex_at_birth": rng.integers(0, 2, n),
            "age_at_last_event": rng.normal(60, 9, n).round(2), "variant": carrier,
        }
    )  # fmt: skip
    has = rng.random((n, 2)) < np.column_stack([0.15 + 0.3 * carrier, np.full(n, 0.3)])
    counts = [
        (person, phecode, int(rng.integers(1, 6)))
        for person, row in zip(people, has, strict=True)
        for phecode, one in zip(("CV_401.1", "EM_202.2"), row, strict=True)
        if one
    ]
    cohort.to_csv(tmp_path / "cohort.csv", index=False)
    columns = pd.Index(["person_id", "phecode", "count"])
    pd.DataFrame(counts, columns=columns).to_csv(tmp_path / "counts.csv", index=False)
    table, manifest = run(
        AssociationInputs(
            patients=tmp_path / "cohort.csv", phecode_counts=tmp_path / "counts.csv"
        ),
        phecode_version="X",
        kinds=(),
        names=(),
        patient_exposures=("variant",),
        covariates=("age_at_last_event", "sex"),
    )
    rows = those_tested(table).set_index("phecode")
    few = [sum(p == phecode and c == 1 for _, p, c in counts) for phecode in rows.index]
    assert manifest["model"] == ""
    assert rows["p_value"]["CV_401.1"] < 1e-4
    assert np.all(rows["n_total"] + few == n)  # one code only is neither case nor control
    assert rows["p_bonferroni"]["EM_202.2"] > 0.05


# --- covariates -------------------------------------------------------------------------


def with_columns(folder: Path, **columns) -> None:
    """Add columns to the patients of a cohort folder."""
    patients = pd.read_csv(folder / "patients.csv", dtype=str)
    patients.assign(**columns).to_csv(folder / "patients.csv", index=False)


def test_a_missing_covariate_names_column_and_rows_and_may_be_a_step_instead(run, copy):
    with_columns(copy, bmi=[""] * 7 + [str(20 + k % 13) for k in range(293)])
    inputs = AssociationInputs(cohort=copy)
    covariates = ("age", "sex", "bmi")
    with pytest.raises(BadInput, match="bmi is missing in 5 of 297 rows") as error:
        run(inputs, covariates=covariates)
    assert error.value.code == "E_NONFINITE"
    assert error.value.where == "column bmi, row 1, 2, 3, 4, 5"
    table, manifest = run(inputs, out="less", covariates=covariates, drop_incomplete=True)
    steps = json.loads((copy.parent / "less" / "cohort.json").read_bytes())["attrition"]
    assert steps[-1]["rule"] == "With all covariates (age, sex, bmi)"
    assert (steps[-1]["n_patients"], steps[-1]["dropped_patients"]) == (292, 5)
    assert steps[-2]["n_patients"] == 297
    assert manifest["n_patients"] == 292
    assert (table["n_total"] + table["n_excluded"] == 292).all()


def test_a_collinear_covariate_is_said_on_every_tested_row_and_changes_no_number(run, copy):
    numbers = [str(k % 17) for k in range(300)]
    with_columns(copy, bmi=numbers, doubled=[str(2 * int(x) + 1) for x in numbers])
    inputs = AssociationInputs(cohort=copy)
    plain, _ = run(inputs, covariates=("age", "bmi"))
    table, manifest = run(inputs, out="more", covariates=("age", "bmi", "doubled"))
    is_tested = table["status"] == "tested"
    assert set(table.loc[is_tested, "code"]) == {"W_COLLINEAR"}
    assert set(table.loc[~is_tested, "code"]) == {"N_FEW_CASES"}
    assert manifest["codes"]["W_COLLINEAR"] == manifest["n_tests"]
    assert set(table.loc[is_tested, "covariates"]) == {"age, bmi"}
    assert table["beta"].equals(plain["beta"])
    said = json.loads((copy.parent / "more" / "cohort.json").read_bytes())
    assert said["collinear"] == ["doubled"]


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"covariates": ("age", "ward")}, "E_RANGE", "ward does not vary"),
        ({"covariates": ("age", "shoe")}, "E_COLUMNS", "no covariate shoe"),
        ({"covariates": ("person_id",)}, "E_RANGE", "297 different values"),
        ({"splines": ("sex",)}, "E_RANGE", "a spline needs numbers"),
        ({"splines": ("bmi",)}, "E_COLUMNS", "bmi is to enter as a spline"),
        ({"names": ("prototype 99",)}, "E_COLUMNS", "no exposure prototype 99"),
        ({"phecode_version": "3"}, "E_MISSING", "Phecode version 3 does not ship"),
        ({"compare": True}, "E_COLUMNS", "needs scores with prototypes and class"),
        ({"linking": Linking("same_admission")}, "E_COLUMNS", "no admissions table"),
    ],
)
def test_what_cannot_be_done_is_refused_with_its_code_before_the_scan(
    run, copy, tmp_path, changes, code, words
):
    with_columns(copy, ward=["A"] * 300)
    with pytest.raises(BadInput, match=words) as error:
        run(AssociationInputs(cohort=copy), **{"names": FEW[:1], **changes})
    assert error.value.code == code
    assert not list((tmp_path / "out").glob("part-*"))


def test_hazard_ratios_need_a_follow_up_table(run, copy):
    (copy / "follow_up.csv").unlink()
    with pytest.raises(BadInput, match="need a follow-up table"):
        run(AssociationInputs(cohort=copy), n_time_to_code=2)


def test_nothing_to_test_is_an_analysis_that_was_refused(run, tmp_path):
    with pytest.raises(AnalysisRefused, match="20 N_FEW_CASES of 20 pairs"):
        run(settings=AssociationSettings(minimum_cases=250))
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_default_options_are_those_of_the_cohort(copy):
    (copy / "cohort.toml").write_text(
        '[defaults]\nphecode_version = "X"\nminimum_codes = 3\nlinking = "window"\n'
        'days_after = 30\nunit = "last"\nminimum_cases = 50\n'
    )
    options = default_options(copy, AssociationOptions())
    assert options.phecode_version == "X"
    assert options.cases.minimum_codes == 3
    assert options.linking == Linking("window", 0, 30, "last")
    assert options.settings.minimum_cases == 50
    (copy / "cohort.toml").write_text("[defaults]\nminimum_cases = 2\n")
    with pytest.raises(BadInput, match="at least 5 are needed"):
        default_options(copy, AssociationOptions())


# --- real tables ------------------------------------------------------------------------


@pytest.mark.realdata
@pytest.mark.skipif(not DATA, reason="PHENOKIT_DATA is not set")
def test_common_phecodes_of_mimic_are_tested_and_rare_ones_keep_their_counts(tmp_path):
    hosp = Path(str(DATA)) / "mimic-iv-demo-hosp"
    options = default_options(hosp, AssociationOptions())
    assert options.cases.minimum_codes == 1
    options = replace(options, kinds=(), patient_exposures=("age",), covariates=("sex",))
    run_association(AssociationInputs(cohort=hosp), options, tmp_path)
    rows = table_of(tmp_path).set_index("phecode")
    assert {"401", "272"} < set(rows.index[rows["status"] == "tested"])
    rare = rows.loc[rows["status"] == "not_tested"]
    assert (np.minimum(rare["cases"], rare["controls"]) < 20).all()
    assert (rare["code"] == "N_FEW_CASES").mean() > 0.8
    assert rows.loc["401", "odds_ratio"] > 1  # hypertension comes with age


@pytest.mark.realdata
@pytest.mark.skipif(not DATA, reason="PHENOKIT_DATA is not set")
def test_a_lab_of_mimic_is_an_exposure(tmp_path):
    from phenokit.readers.mimic import lab_exposure

    hosp = Path(str(DATA)) / "mimic-iv-demo-hosp"
    options = default_options(hosp, AssociationOptions())
    lab = lab_exposure(hosp, 50912)[["person_id", "value"]]  # creatinine
    lab.columns = pd.Index(["person_id", "creatinine"])
    lab.to_csv(tmp_path / "lab.csv", index=False)
    run_association(
        AssociationInputs(cohort=hosp, exposures=tmp_path / "lab.csv"),
        replace(options, kinds=(), covariates=("age", "sex")),
        tmp_path / "out",
    )
    table = table_of(tmp_path / "out")
    exposures = pd.read_parquet(tmp_path / "out" / "exposures.parquet")
    n = exposures["n"].iloc[0]
    assert 50 < n == len(lab)
    assert (table["n_total"] + table["n_excluded"] == n).all()
    best = those_tested(table).sort_values("p_value")["phecode"].head(15)
    assert any(phecode.startswith("585") for phecode in best)  # renal failure
