"""`phenokit risk` from end to end: tables and cohorts in, a folder out, refusals."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from phenokit.batch import risk as batch_risk
from phenokit.batch.risk import (
    RiskInputs,
    RiskOptions,
    load_risk_data,
    read_fitted,
    read_fitted_with_data,
    run_risk,
)
from phenokit.cli import main
from phenokit.errors import AnalysisRefused, BadInput
from phenokit.evidence.risk import LIMITS, SelectiveLabelsModel

DATA = os.environ.get("PHENOKIT_DATA")

OPTIONS = RiskOptions(
    features=("old", "ward", "marker"),
    testing_features=("ward",),
    prevalence=0.27,
    prevalence_sd=0.01,
    prevalence_source="the simulation",
    engine="laplace",
    viable="none",
    seed=3,
)


def simulate(n=3_000, seed=5):
    """Three binary features; the ward affects testing beyond risk."""
    rng = np.random.default_rng(seed)
    old, ward, marker = (rng.integers(0, 2, n) for _ in range(3))
    r = -2.9 + 0.8 * old + 0.7 * marker + rng.uniform(0, 2, n)
    case = rng.random(n) < 1 / (1 + np.exp(-r))
    tested = rng.random(n) < 1 / (1 + np.exp(-r - 0.8 - 0.8 * ward))
    table = pd.DataFrame(
        {
            "person_id": [f"p{k:05}" for k in range(n)],
            "old": old,
            "ward": np.where(ward, "North", "South"),
            "marker": marker,
            "tested": tested.astype(int),
            "outcome": pd.array(np.where(tested, case, np.nan), "Float64"),
        }
    )
    return table, case


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    found, _ = simulate()
    path = tmp_path_factory.mktemp("risk") / "table.csv"
    found.to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def finished(table, tmp_path_factory):
    out = tmp_path_factory.mktemp("risk_run") / "run"
    run_risk(RiskInputs(table=table), replace(OPTIONS, viable="single"), out)
    return out


@pytest.fixture
def run(monkeypatch, capsys):
    def run_cli(*arguments):
        monkeypatch.setattr("sys.argv", ["phenokit", "risk", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        return stopped.value.code, *capsys.readouterr()

    return run_cli


def contents(folder: Path) -> dict[str, bytes]:
    """Files of a run but those that hold a time."""
    timed = {"timings.json", "progress.json", "lock"}
    return {
        path.name: path.read_bytes()
        for path in sorted(folder.iterdir())
        if path.name not in timed
    }


def test_the_planted_risk_of_the_untested_is_in_the_interval(finished):
    _, case = simulate()
    risk = pd.read_parquet(finished / "risk.parquet")
    untested = ~risk["tested"].to_numpy()
    summary = pd.read_csv(finished / "summary.csv").set_index("quantity")
    row = summary.loc["risk_untested"]
    assert row["q2_5"] < case[untested].mean() < row["q97_5"]
    # and it is not what the tested suggest
    assert row["q97_5"] < case[~untested].mean()


def test_a_row_a_patient_in_the_order_of_the_table(finished, table):
    risk = pd.read_parquet(finished / "risk.parquet")
    given = pd.read_csv(table)
    assert risk["person_id"].tolist() == given["person_id"].tolist()
    np.testing.assert_array_equal(risk["outcome"], given["outcome"])
    assert (risk["risk_low"] < risk["risk"]).all()
    assert (risk["risk"] < risk["risk_high"]).all()
    assert (risk["risk_if_untested"] < risk["risk_if_tested"]).all()
    assert (risk["viable_low"] <= risk["viable_high"]).all()
    assert set(risk["fifth"]) <= {1, 2, 3, 4, 5}
    assert "ward South" in risk


def test_the_folder_answers_as_the_fit_did(finished):
    model = read_fitted(finished)
    _, data = read_fitted_with_data(finished)
    risk = pd.read_parquet(finished / "risk.parquet")
    np.testing.assert_array_equal(model.predict(data.features), risk["risk"])
    changed = model.reweight(0.28, 0.01)
    assert changed.posterior_.mean("prevalence") > model.posterior_.mean("prevalence")


def test_every_panel_has_its_table_and_the_report_the_limits(finished):
    names = ("fifths", "groups", "calibration", "odds_ratios", "sensitivity", "priors",
             "decision_curve", "histograms", "comparators", "settings")  # fmt: skip
    for name in names:
        assert len(pd.read_csv(finished / f"{name}.csv")), name
    report = (finished / "report.html").read_text()
    assert all(sentence in report for sentence in LIMITS)
    compared = pd.read_csv(finished / "comparators.csv")
    methods = {"selective_labels", "tested_only", "untested_as_negative", "ipw"}
    assert set(compared["method"]) == methods


def test_the_same_inputs_give_the_same_bytes(table, finished, tmp_path):
    run_risk(RiskInputs(table=table), replace(OPTIONS, viable="single"), tmp_path / "again")
    assert contents(tmp_path / "again") == contents(finished)


def test_a_stopped_run_goes_on_without_a_new_fit(table, finished, tmp_path, monkeypatch):
    options = replace(OPTIONS, viable="single")

    def stop(stage, done, of):
        if (stage, done) == ("settings", 3):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_risk(RiskInputs(table=table), options, tmp_path, progress=stop)
    fits = []
    fit = SelectiveLabelsModel.fit

    def counted(self, *arguments, **named):
        fits.append(self.checks)
        return fit(self, *arguments, **named)

    monkeypatch.setattr(SelectiveLabelsModel, "fit", counted)
    run_risk(RiskInputs(table=table), options, tmp_path)
    assert True not in fits  # the fit itself; settings are fitted without checks
    n_settings = len(pd.read_csv(tmp_path / "settings.csv"))
    assert len(fits) == n_settings - 3
    assert contents(tmp_path) == contents(finished)


def test_a_finished_run_is_left_alone(table, finished, monkeypatch):
    monkeypatch.setattr(batch_risk, "load_risk_data", None)
    again = run_risk(RiskInputs(table=table), replace(OPTIONS, viable="single"), finished)
    assert again["n_patients"] == 3_000


def test_too_few_cases_leave_a_refusal_and_no_number(table, tmp_path, run):
    few = pd.read_csv(table).iloc[:100]
    few.to_csv(tmp_path / "few.csv", index=False)
    code, _, said = run(
        tmp_path / "few.csv", "--features", "old,ward,marker", "--engine", "laplace",
        "--out", tmp_path / "out",
    )  # fmt: skip
    assert code == 66
    assert "Too few confirmed cases" in said
    refusal = json.loads((tmp_path / "out" / "refusal.json").read_text())
    assert refusal["code"] == "N_FEW_EVENTS"
    assert refusal["limits"] == list(LIMITS)
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert left == {"plan.json", "progress.json", "lock", "refusal.json"}


def test_a_conflict_is_exit_67_until_it_is_acknowledged(table, tmp_path, run):
    arguments = (
        table, "--features", "old,ward,marker", "--testing-features", "ward",
        "--prevalence", 0.5, "--prevalence-interval", "0.49,0.51",
        "--engine", "laplace", "--viable", "none", "--out", tmp_path / "out",
    )  # fmt: skip
    code, said, _ = run(*arguments)
    assert code == 67
    assert "W_PREVALENCE_CONFLICT" in said
    assert all(sentence in said for sentence in LIMITS)
    assert not (tmp_path / "out" / "acknowledgement.json").exists()
    code, said, _ = run(*arguments, "--accept-conflict")
    assert code == 0
    assert (tmp_path / "out" / "acknowledgement.json").exists()
    exported = pd.read_csv(tmp_path / "out" / "risk.csv")
    assert exported["flags"].str.contains("W_PREVALENCE_CONFLICT").all()


@pytest.mark.parametrize(
    ("change", "options", "said"),
    [
        (lambda t: t.assign(outcome=1), (), "An untested patient has an outcome"),
        (lambda t: t[t["tested"] == 1], (), "N_NO_UNTESTED"),
        (lambda t: t.assign(outcome=0.0 * t["outcome"]), (), "N_SINGLE_CLASS"),
        (lambda t: t.assign(old=1), (), "N_CONSTANT: Feature old"),
        (lambda t: t.assign(old=1 - t["marker"]), (), "W_COLLINEAR: Feature marker"),
        (lambda t: t, ("--prevalence", 20, "--prevalence-sd", 0.01), "Write 0.2"),
        (lambda t: t, ("--prevalence", 0.9, "--prevalence-sd", 0.01), "must lie between"),
        (lambda t: t, ("--testing-features", "age"), "age is to affect testing"),
        (lambda t: t.assign(ward="A"), (), "N_CONSTANT: Feature ward"),
    ],
)
def test_a_table_that_cannot_be_used_is_named(table, tmp_path, run, change, options, said):
    change(pd.read_csv(table)).to_csv(tmp_path / "bad.csv", index=False)
    code, _, error = run(
        tmp_path / "bad.csv", "--features", "old,ward,marker", "--engine", "laplace",
        "--out", tmp_path / "out", *options,
    )  # fmt: skip
    assert code == 65
    assert said in error


def test_a_cohort_gives_its_ecgs_as_features(hand_cohort, hand_models, monkeypatch):
    monkeypatch.setenv("PHENOKIT_MODELS", str(hand_models))
    options = RiskOptions(
        test="marker", above=2.0, features=("age", "site"),
        exposures=("prototype 2", "class AFIB"),
    )  # fmt: skip
    labs = write_labs(hand_cohort.parent / "labs.csv")
    data = load_risk_data(RiskInputs(cohort=hand_cohort, labs=labs), options)
    assert list(data.features) == ["age", "site B", "site C", "prototype 2", "class AFIB"]
    assert data.columns_of(["site", "age"]) == ("site B", "site C", "age")
    assert len(data.person_ids) == 297  # one ECG was rejected, two abstained
    assert data.n_tested == 149
    assert data.n_cases == 75
    assert data.attrition[-1]["n_patients"] == 297
    assert "marker at or above 2 ug/L" in data.notes[0]


def write_labs(path: Path) -> Path:
    """Every second patient is tested, and every second of these is abnormal."""
    rows = [
        (f"p{k:04}", "2016-01-01T00:00:00Z", "marker", 3 if k % 4 == 0 else 1, "ug/L")
        for k in range(0, 300, 2)
    ]
    names = ["person_id", "time", "test", "value", "unit"]
    pd.DataFrame(rows, columns=pd.Index(names)).to_csv(path, index=False)
    return path


def test_a_cohort_without_what_it_needs_is_named(hand_cohort, tmp_path):
    inputs = RiskInputs(cohort=hand_cohort, labs=write_labs(tmp_path / "labs.csv"))
    options = RiskOptions(test="marker", above=2.0, features=("age",))
    for changed, said in (
        (replace(options, test=""), "name of the test"),
        (replace(options, features=()), "no feature"),
        (replace(options, features=("weight",)), "no column weight"),
        (replace(options, above=None), "one limit"),
    ):
        with pytest.raises(BadInput, match=said):
            load_risk_data(inputs, changed)
    with pytest.raises(BadInput, match="one of the two"):
        load_risk_data(RiskInputs(), options)


@pytest.mark.realdata
@pytest.mark.skipif(not DATA, reason="PHENOKIT_DATA is not set")
def test_troponin_of_the_mimic_demo_is_fitted_wide_or_refused(tmp_path):
    hosp = Path(str(DATA)) / "mimic-iv-demo-hosp"
    inputs = RiskInputs(cohort=hosp)
    options = RiskOptions(
        test="Troponin T", results="any", features=("age", "sex"), prevalence=0.35,
        prevalence_sd=0.05, engine="laplace", viable="none",
    )  # fmt: skip
    manifest = run_risk(inputs, options, tmp_path / "out")
    assert (manifest["n_patients"], manifest["n_tested"]) == (100, 59)
    assert manifest["flags"] == ["W_WEAK"]
    summary = pd.read_csv(tmp_path / "out" / "summary.csv").set_index("quantity")
    width = summary.loc["risk_untested", "q97_5"] - summary.loc["risk_untested", "q2_5"]
    assert width > 0.2
    with pytest.raises(AnalysisRefused, match=r"\(21\)"):
        run_risk(inputs, replace(options, results="first"), tmp_path / "first")
