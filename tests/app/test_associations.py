"""The page on a small simulated cohort and a run of it, through `app.py`."""

import json
import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from phenokit.batch.associate import AssociationInputs, AssociationOptions, run_association
from phenokit.jobs import JobState, find_job, list_jobs
from phenokit.report.associations import read_result

JOB = "0123456789abcdef"
HOSTILE = "![x](https://x.example/a.png) <b>x</b>"


@pytest.fixture(scope="module")
def finished_run(cohort_demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all jobs, with one finished run in it."""
    jobs = tmp_path_factory.mktemp("jobs")
    out = jobs / JOB / "out"
    cohort = cohort_demo / "cohort"
    options = AssociationOptions(kinds=("prototype", "class"))
    run_association(AssociationInputs(cohort=cohort), options, out)
    write_job(jobs, cohort, title="prototypes")
    return jobs


def write_job(jobs: Path, cohort: Path, *, title: str) -> None:
    asked = {
        "title": title,
        "arguments": ["associate", "--cohort", str(cohort)],
        "asked": "2026-01-02T03:04:05.000+00:00",
    }
    (jobs / JOB / "job.json").write_text(json.dumps(asked))


@pytest.fixture
def page(cohort_app: AppTest, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], AppTest]:
    """Opens the page with these jobs."""

    def opened(jobs: Path) -> AppTest:
        monkeypatch.setenv("PHENOKIT_JOBS", str(jobs))
        cohort_app.run()
        return cohort_app.switch_page("pages/associations.py").run()

    return opened


def texts(app: AppTest) -> str:
    return "\n".join(one.value for one in app.text)


def sent(app: AppTest) -> str:
    """All that the browser is sent."""
    return " ".join(str(element.proto) for element in app.main)


def no_fault(app: AppTest) -> None:
    assert not app.exception
    assert [one.value for one in app.error] == []


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_without_a_cohort_the_page_says_how_to_get_one(
    app: AppTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PHENOKIT_DEMO", str(tmp_path))
    app.run()
    for name in ("associations", "cohort"):
        app.switch_page(f"pages/{name}.py").run()
        no_fault(app)
        assert any("phenokit demo" in info.value for info in app.info)


def test_the_counts_of_the_set_up_are_those_of_the_result(page, finished_run: Path):
    app = page(finished_run)
    run = next(one for one in app.selectbox if one.key.startswith("run-"))
    run.set_value("new").run()
    no_fault(app)
    result = read_result(finished_run / JOB / "out")
    n_tested, n_phecodes = (
        result.manifest[name] for name in ("n_phecodes_tested", "n_phecodes")
    )
    said = next(one.value for one in app.text if one.value.startswith("Will test"))
    assert said.startswith(f"Will test {n_tested:,} of {n_phecodes:,} phecodes")
    n_few = result.manifest["codes"]["N_FEW_CASES"] // result.manifest["n_exposures"]
    assert f"{n_few:,} (fewer than 20 cases or fewer than 20 controls)" in said


def test_the_live_counts_follow_the_minimum_and_the_rules(page, finished_run: Path):
    app = page(finished_run)
    next(one for one in app.selectbox if one.key.startswith("run-")).set_value("new").run()

    def n_tested() -> int:
        said = next(one.value for one in app.text if one.value.startswith("Will test"))
        return int(re.split("[ ,]", said)[2])

    first = n_tested()
    minimum = next(n for n in app.number_input if n.key.startswith("minimum_cases"))
    minimum.set_value(60).run()
    assert 0 < n_tested() < first
    codes = next(n for n in app.number_input if n.key.startswith("minimum_codes"))
    codes.set_value(1).run()
    assert n_tested() != first


def test_a_finished_run_shows_its_strongest_exposure_with_every_part(
    page, finished_run: Path
):
    app = page(finished_run)
    no_fault(app)
    table = read_result(finished_run / JOB / "out").table.to_pandas()
    best = table.loc[table["neg_log_p_value"].idxmax()]
    name = f"{best['phecode']} {best['phecode_string']}"
    assert app.dataframe[0].value["Strongest association"].iloc[0] == name
    assert any(one.value.startswith(f"{name}: odds ratio") for one in app.text)
    alts = [e.proto.alt for e in app.main if e.type == "plotly_chart"]
    assert [alt.split()[0] for alt in alts][:2] == ["Manhattan", "Forest"]
    assert all(name in alt for alt in alts[:2])
    assert app.query_params["run"] == JOB


def test_a_selection_is_shared_by_forest_and_chosen_phecode(page, finished_run: Path):
    app = page(finished_run)
    app.session_state["selected"] = ["401", "272"]
    app.run()
    no_fault(app)
    forest = [e.proto.alt for e in app.main if e.type == "plotly_chart"][1]
    assert "2 phecodes" in forest
    assert any(one.value.startswith("401 Hypertension: odds ratio") for one in app.text)


def test_the_nearest_recording_opens_on_the_ecg_page_by_a_random_id(
    page, finished_run: Path
):
    app = page(finished_run)
    link = next(e for e in app.main if e.type == "page_link")
    record = re.search(r"record=([0-9a-f]{16})", str(link.proto))
    assert record is not None
    app.query_params["record"] = record[1]
    app.switch_page("pages/ecg.py")
    app.query_params["record"] = record[1]
    app.run()
    no_fault(app)
    assert app.segmented_control(key="source").value == "Cohort"
    assert any(e.key == "tracing" for e in app.main if e.type == "bidi_component")


@pytest.mark.parametrize("view", ["comparisons", "not_tested", "rules"])
def test_every_view_of_a_result_opens(page, finished_run: Path, view: str):
    app = page(finished_run)
    app.segmented_control(key="view").set_value(view).run()
    no_fault(app)
    if view == "not_tested":
        assert "N_FEW_CASES" in app.dataframe[0].value["code"].tolist()
    if view == "rules":
        steps = app.dataframe[0].value
        left, dropped = steps["n_patients"].tolist(), steps["dropped_patients"].tolist()
        assert left[0] - sum(dropped) == left[-1]


def test_few_patients_are_hidden_where_a_site_wants_it(
    page, finished_run: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PHENOKIT_SUPPRESS", "60")
    app = page(finished_run)
    no_fault(app)
    table = next(d.value for d in app.dataframe if "odds_ratio" in d.value)
    assert table["cases"].min() >= 60
    assert any("not shown here" in one.value for one in app.caption)


def test_hostile_names_stand_on_the_page_as_text(page, finished_run: Path, tmp_path: Path):
    jobs = tmp_path / "jobs"
    shutil.copytree(finished_run, jobs)
    cohort = tmp_path / "demo" / "cohort"
    shutil.copytree(Path(os.environ["PHENOKIT_DEMO"], "cohort"), cohort, symlinks=True)
    (cohort / "cohort.toml").write_text(f"name = '{HOSTILE}'\ndescription = '{HOSTILE}'\n")
    write_job(jobs, cohort, title=HOSTILE)
    os.environ["PHENOKIT_DEMO"] = str(tmp_path / "demo")
    app = page(jobs)
    no_fault(app)
    assert HOSTILE in texts(app)
    assert not any(HOSTILE in one.value for one in (*app.markdown, *app.caption))
    # Labels of widgets are read as Markdown; the names stand among the options only.
    assert not any(HOSTILE in one.label for one in app.selectbox)


def test_a_cohort_that_cannot_be_read_is_refused_with_its_code(
    page, finished_run: Path, tmp_path: Path
):
    cohort = tmp_path / "demo" / "cohort"
    shutil.copytree(Path(os.environ["PHENOKIT_DEMO"], "cohort"), cohort)
    table = cohort / "patients.csv"
    lines = table.read_text().splitlines()
    table.write_text("\n".join([*lines, lines[-1]]) + "\n")
    os.environ["PHENOKIT_DEMO"] = str(tmp_path / "demo")
    app = page(tmp_path / "no jobs")
    assert not app.exception
    assert any("E_DUP_ID" in one.value for one in app.error)


def test_a_run_starts_at_once_can_be_cancelled_and_found_again(page, tmp_path: Path):
    app = page(tmp_path)
    no_fault(app)
    next(n for n in app.number_input if n.key.startswith("perm")).set_value(10_000).run()
    start = time.perf_counter()
    app.button(key="start").click().run()
    assert time.perf_counter() - start < 5
    no_fault(app)
    (job,) = list_jobs(tmp_path)
    assert job.arguments[0] == "associate"
    again = page(tmp_path)
    again.button(key="cancel").click().run()
    wait_for(lambda: find_job(tmp_path, job.job_id).state is not JobState.RUNNING)
    assert find_job(tmp_path, job.job_id).state is JobState.CANCELLED
    again.run()
    assert again.button(key="resume")


def test_the_session_holds_no_arrays(page, finished_run: Path):
    app = page(finished_run)
    kinds = {type(value).__module__.split(".")[0] for _, value in app.session_state.items()}
    assert kinds <= {"builtins", "streamlit", "datetime"}
