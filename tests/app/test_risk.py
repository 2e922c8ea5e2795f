"""The risk page on a small table and on a small cohort, through `app.py`."""

import csv
import io
import json
import os
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import is_dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from pages import _risk_what_if
from phenokit.batch.risk import RiskInputs, RiskOptions, load_risk_data, run_risk
from phenokit.errors import AnalysisRefused
from phenokit.evidence.risk import LIMITS
from phenokit.jobs import JobState, list_jobs
from phenokit.readers.prevalences import read_prevalences
from phenokit.report.tables import format_table

QUICK, REFERENCE = "0" * 15 + "1", "0" * 15 + "2"
HOSTILE = "![x](https://x.example/a.png) <b>x</b>"
TRUTH = 0.2


def risk_table(*, feature: str = "smoker", n: int = 2_000) -> pd.DataFrame:
    """Patients of whom those at risk are tested more often."""
    rng = np.random.default_rng(4)
    x = rng.integers(0, 2, (n, 2)).astype(float)
    risk = x @ [1.0, 0.6] - 3 + rng.uniform(0, 2, n)
    case = rng.random(n) < 1 / (1 + np.exp(-risk))
    tested = rng.random(n) < 1 / (1 + np.exp(-risk - 0.5))
    return pd.DataFrame(
        {
            "person_id": [f"p{k}" for k in range(n)],
            feature: x[:, 0],
            "far": x[:, 1],
            "tested": tested.astype(int),
            "outcome": np.where(tested, case, np.nan),
        }
    )


def as_csv(table: pd.DataFrame) -> bytes:
    return format_table(table)


@pytest.fixture(scope="module")
def finished_runs(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Folder of jobs with a finished quick fit of the table, made once a prevalence."""
    made: dict[tuple[float, str], Path] = {}

    def folder(prevalence: float = TRUTH, feature: str = "smoker") -> Path:
        if (prevalence, feature) not in made:
            jobs = tmp_path_factory.mktemp("jobs")
            table = jobs / "uploads" / "table.csv"
            table.parent.mkdir()
            table.write_bytes(as_csv(risk_table(feature=feature)))
            options = RiskOptions(
                features=(feature, "far"), testing_features=("far",), engine="laplace",
                prevalence=prevalence, prevalence_sd=0.01, prevalence_source="Registry",
                viable="none",
            )  # fmt: skip
            run_risk(RiskInputs(table=table), options, jobs / QUICK / "out")
            write_job(jobs, QUICK, "laplace")
            made[prevalence, feature] = jobs
        return made[prevalence, feature]

    return folder


def write_job(jobs: Path, job: str, engine: str, *, title: str = "uploaded table") -> None:
    table = str(jobs / "uploads" / "table.csv")
    viable = "none" if engine == "laplace" else "single"
    asked = {
        "title": title,
        "arguments": ["risk", table, "--engine", engine, "--viable", viable],
        "asked": "2026-01-02T03:04:05.000+00:00",
    }
    (jobs / job).mkdir(exist_ok=True)
    (jobs / job / "job.json").write_text(json.dumps(asked))


def copied(jobs: Path, tmp_path: Path) -> Path:
    """The same folder of jobs, for a test that changes it."""
    shutil.copytree(jobs, tmp_path / "jobs")
    write_job(tmp_path / "jobs", QUICK, "laplace")
    return tmp_path / "jobs"


@pytest.fixture
def page(app: AppTest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Opens the page for uploaded tables, with these jobs."""

    def opened(jobs: Path) -> AppTest:
        monkeypatch.setenv("PHENOKIT_JOBS", str(jobs))
        monkeypatch.delenv("PHENOKIT_COHORTS", raising=False)
        app.run()
        app.switch_page("pages/risk.py")
        app.query_params["source"] = "upload"
        return app.run()

    return opened


def sent(app: AppTest) -> str:
    """All that the browser is sent."""
    return " ".join(_protos(app.main)).replace("\\u2013", "–").replace("\\", "")


def _protos(block) -> list[str]:
    found = [str(block.proto)] if getattr(block, "proto", None) is not None else []
    for child in getattr(block, "children", {}).values():
        found += _protos(child)
    return found


def no_fault(app: AppTest) -> None:
    assert not app.exception
    assert [one.value for one in app.error] == []


def by_key(elements, start: str):
    return next(one for one in elements if one.key and one.key.startswith(start))


def upload(app: AppTest, data: bytes, name: str = "table.csv") -> AppTest:
    return by_key(app.file_uploader, "upload-").set_value((name, data, "text/csv")).run()


def fill_in(app: AppTest, features: list[str], *, prevalence: float = 20.0) -> AppTest:
    by_key(app.multiselect, "features-").set_value(features).run()
    values = (
        ("prevalence-", prevalence),
        ("low-", prevalence - 2),
        ("high-", prevalence + 2),
    )
    for start, value in values:
        by_key(app.number_input, start).set_value(value)
    for start in ("source-", "population-", "ages-", "window-"):
        by_key(app.text_input, start).set_value("as stated")
    return app.run()


# Set up


def test_without_a_cohort_the_page_says_how_to_get_one_and_states_its_limits(
    app: AppTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PHENOKIT_DEMO", str(tmp_path))
    app.run()
    app.switch_page("pages/risk.py").run()
    no_fault(app)
    assert any("phenokit demo" in info.value for info in app.info)
    assert all(sentence in sent(app) for sentence in LIMITS)


def test_the_set_up_counts_what_would_be_fitted_and_names_the_exact_bounds(
    page, tmp_path: Path
):
    app = page(tmp_path)
    table = risk_table()
    upload(app, as_csv(table))
    fill_in(app, ["smoker", "far"])
    no_fault(app)
    n_tested, n_cases = int(table["tested"].sum()), int(np.nansum(table["outcome"]))
    low, high = n_cases / 2_000, (n_cases + 2_000 - n_tested) / 2_000
    said = sent(app)
    assert f"{n_tested:,} ({n_tested / 2_000:.1%})" in said
    assert f"{n_cases:,} (" in said
    assert f"Exact bounds: {100 * low:.2f}".rstrip("0").rstrip(".") in said
    assert f"{100 * high:.2f}".rstrip("0").rstrip(".") in said
    assert not by_key(app.button, "start").disabled


def test_it_does_not_run_before_the_prevalence_is_stated_with_its_source(
    page, tmp_path: Path
):
    app = page(tmp_path)
    upload(app, as_csv(risk_table()))
    fill_in(app, ["smoker"])
    assert not by_key(app.button, "start").disabled
    by_key(app.text_input, "window-").set_value(" ").run()
    assert by_key(app.button, "start").disabled
    assert any("time window" in info.value for info in app.info)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda t: t.assign(outcome=t["outcome"].fillna(0)), "E_RANGE"),
        (lambda t: t.assign(tested=1, outcome=t["outcome"].fillna(0)), "N_NO_UNTESTED"),
        (lambda t: t.assign(smoker=1.0), "N_CONSTANT"),
        (lambda t: t.assign(far=t["smoker"]), "W_COLLINEAR"),
        (lambda t: t.head(60), "N_FEW_EVENTS"),
        (lambda t: t.assign(person_id="same"), "E_DUP_ID"),
    ],
)
def test_a_table_that_would_be_refused_is_refused_before_it_runs(
    page, tmp_path: Path, change, code: str
):
    app = page(tmp_path)
    upload(app, as_csv(change(risk_table())))
    fill_in(app, ["smoker", "far"])
    assert not app.exception
    assert code in sent(app)
    assert by_key(app.button, "start").disabled
    assert list_jobs(tmp_path) == []


def test_a_prevalence_outside_the_bounds_is_refused_with_them(page, tmp_path: Path):
    app = page(tmp_path)
    upload(app, as_csv(risk_table()))
    fill_in(app, ["smoker"], prevalence=90.0)
    assert "E_PREVALENCE" in sent(app)
    assert "Prevalence must lie between" in sent(app)
    assert by_key(app.button, "start").disabled


@pytest.mark.parametrize(
    "data", [b"", b"PAR1 no parquet", b"\x1f\x8bno gzip", b"a;b\n1;2\n", b"a\xff,b\n1,2\n"]
)
def test_a_file_that_is_no_table_is_refused_without_a_traceback(
    page, tmp_path: Path, data: bytes
):
    app = page(tmp_path)
    upload(app, data)
    assert not app.exception
    assert not any(button.key == "start" and not button.disabled for button in app.button)
    assert list_jobs(tmp_path) == []


def test_a_run_starts_both_fits_on_a_kept_table_and_can_be_cancelled(page, tmp_path: Path):
    app = page(tmp_path)
    data = as_csv(risk_table())
    upload(app, data, "Jane Doe.csv")
    fill_in(app, ["smoker", "far"])
    by_key(app.button, "start").click().run()
    no_fault(app)
    jobs = list_jobs(tmp_path)
    engines = [job.arguments[job.arguments.index("--engine") + 1] for job in jobs]
    assert sorted(engines) == ["laplace", "nuts"]
    (kept,) = (tmp_path / "uploads").iterdir()
    assert kept.read_bytes() == data
    assert kept.stat().st_mode & 0o077 == 0
    assert "Jane Doe" not in " ".join([*jobs[0].arguments, kept.name])
    while cancels := [b for b in app.button if b.key.startswith("cancel-")]:
        cancels[0].click().run()
        time.sleep(0.3)
        app.run()
    assert {job.state for job in list_jobs(tmp_path)} <= {
        JobState.CANCELLED, JobState.FINISHED,
    }  # fmt: skip


# Results


def test_a_result_shows_flags_limits_and_the_assumed_prevalence(page, finished_runs):
    app = page(finished_runs())
    no_fault(app)
    said = sent(app)
    assert all(sentence in said for sentence in LIMITS)
    assert "No flag was raised" in said or "flag" in said
    assert "Assumed prevalence: 20 % (18–22), source: Registry" in said
    assert re.search(r"Estimated risk of the untested [\d.]+ % \([\d.]+–[\d.]+\)", said)
    assert app.query_params["run"]


@pytest.mark.parametrize("view", ["answer", "check", "why", "other", "rules"])
def test_every_view_opens_and_every_figure_has_words_and_a_table(
    page, finished_runs, view: str
):
    app = page(finished_runs())
    app.segmented_control(key="risk_view").set_value(view).run()
    no_fault(app)
    charts = [one for one in app.main if one.type == "plotly_chart"]
    assert all(chart.proto.alt for chart in charts)
    assert len(app.expander) >= max(len(charts), 1)


def test_the_slider_reweights_stays_in_the_bounds_and_refits_where_it_must(
    page, finished_runs
):
    app = page(finished_runs())
    slider = by_key(app.slider, "slide-")
    table = risk_table()
    cases, untested = np.nansum(table["outcome"]), (table["tested"] == 0).sum()
    assert slider.min >= 100 * cases / 2_000
    assert slider.max <= 100 * (cases + untested) / 2_000
    start = time.perf_counter()
    slider.set_value(21.0).run()
    assert time.perf_counter() - start < 3
    no_fault(app)
    assert "Re-weighted, exactly" in sent(app)
    by_key(app.slider, "slide-").set_value(slider.max).run()
    no_fault(app)
    said = sent(app)
    assert "Fitted anew by nested Laplace" in said or "refused (E_FIT)" in said
    assert "PROVISIONAL" not in said
    assert by_key(app.number_input, "exact-").value == slider.max


@pytest.fixture
def two_widgets(monkeypatch: pytest.MonkeyPatch) -> dict:
    """Session state after slider and field were drawn at 15 %, the slider once anew."""
    known = {"slide-0": 14.0, "slide-1": 15.0, "exact-0": 15.0}
    chosen = _risk_what_if.Chosen(15.0, sliders=1, known=known)
    state = {"place": chosen, "slide-1": 15.0, "exact-0": 15.0}
    monkeypatch.setattr(_risk_what_if.st, "session_state", state)
    return state


def test_a_request_with_former_values_changes_no_prevalence(two_widgets):
    """It left the browser before the answer to the one before had arrived."""
    before = two_widgets["place"]
    two_widgets["slide-0"] = 14.0
    _risk_what_if._slid("place", "slide-0", "exact-0")
    _risk_what_if._typed("place", "exact-0")
    assert two_widgets["place"] == before


def test_what_is_typed_holds_whichever_is_heard_first(two_widgets):
    before = two_widgets["place"]
    two_widgets |= {"slide-1": 20.0, "exact-0": 30.0}
    for order in ((0, 1), (1, 0)):
        two_widgets["place"] = before
        for one in order:
            if one:
                _risk_what_if._typed("place", "exact-0")
            else:
                _risk_what_if._slid("place", "slide-1", "exact-0")
        assert two_widgets["place"].per_cent == 30.0
        assert two_widgets["place"].sliders == 2  # the slider shows it too


def test_a_moved_slider_makes_the_field_anew_and_keeps_itself(two_widgets):
    two_widgets["slide-1"] = 20.0
    _risk_what_if._slid("place", "slide-1", "exact-0")
    now = two_widgets["place"]
    assert (now.per_cent, now.sliders, now.numbers) == (20.0, 1, 1)
    two_widgets["slide-1"] = 21.0  # moved on before the page was drawn again
    _risk_what_if._slid("place", "slide-1", "exact-0")
    assert two_widgets["place"].per_cent == 21.0


def test_exports_carry_flags_and_limits(page, finished_runs):
    app = page(finished_runs())
    files = {one.key: one for one in app.main if one.type == "download_button"}
    names = [f"export-{kind}" for kind in ("csv", "parquet", "json", "html")]
    assert set(names) <= set(files)


def test_a_conflict_shows_both_fits_and_keeps_its_acknowledgement(
    page, finished_runs, tmp_path: Path
):
    jobs = copied(finished_runs(0.6), tmp_path)
    app = page(jobs)
    no_fault(app)
    said = sent(app)
    assert "W_PREVALENCE_CONFLICT" in said
    assert "With the stated prevalence" in said
    assert "Without it" in said
    by_key(app.checkbox, "acknowledge-").check().run()
    no_fault(app)
    assert "W_PREVALENCE_CONFLICT was acknowledged on" in sent(app)
    again = page(jobs)
    assert "W_PREVALENCE_CONFLICT was acknowledged on" in sent(again)
    assert by_key(again.checkbox, "acknowledge-").disabled


def test_a_refused_analysis_shows_its_code_and_no_number(page, tmp_path: Path):
    jobs = tmp_path / "jobs"
    table = jobs / "uploads" / "table.csv"
    table.parent.mkdir(parents=True)
    table.write_bytes(as_csv(risk_table().head(60)))
    options = RiskOptions(features=("smoker", "far"), engine="laplace", prevalence=TRUTH,
                          prevalence_sd=0.05)  # fmt: skip
    with pytest.raises(AnalysisRefused):
        run_risk(RiskInputs(table=table), options, jobs / QUICK / "out")
    write_job(jobs, QUICK, "laplace")
    app = page(jobs)
    no_fault(app)
    said = sent(app)
    assert "refused (N_FEW_EVENTS)" in said
    assert "No numbers are shown or kept" in said
    assert "Estimated risk" not in said
    assert not [one for one in app.main if one.type in ("plotly_chart", "download_button")]


def test_the_reference_takes_the_place_of_the_quick_fit_and_shows_where_they_differ(
    page, finished_runs, tmp_path: Path
):
    jobs = copied(finished_runs(), tmp_path)
    app = page(jobs)
    assert "Shown: the quick answer" in sent(app)
    shutil.copytree(jobs / QUICK, jobs / REFERENCE)
    write_job(jobs, REFERENCE, "nuts")
    path = jobs / REFERENCE / "out" / "diagnostics.json"
    said = json.loads(path.read_text()) | {
        "engine": "nuts", "r_hat": 1.001, "ess_bulk": 900.0, "ess_tail": 800.0,
        "agreement": {
            "sigma": {"mean_difference": 0.4, "sd_ratio": 1.3},
            "prevalence": {"mean_difference": 0.01, "sd_ratio": 1.0},
        },
    }  # fmt: skip
    path.write_text(json.dumps(said))
    app = page(jobs)
    no_fault(app)
    assert len(by_key(app.selectbox, "risk-run-").options) == 2
    shown = sent(app)
    assert "It has taken the place of the quick answer" in shown
    assert any("disagree" in one.value for one in app.warning)
    assert "+0.40 sd" in shown
    assert "+30%" in shown


def test_a_refused_reference_closes_the_numbers_of_the_quick_fit(
    page, finished_runs, tmp_path: Path
):
    jobs = copied(finished_runs(), tmp_path)
    write_job(jobs, REFERENCE, "nuts")
    out = jobs / REFERENCE / "out"
    out.mkdir()
    message = "The fit is not reliable; no results shown: R-hat is 1.200."
    (out / "progress.json").write_text(json.dumps({"state": "failed", "message": message}))
    (out / "refusal.json").write_text(json.dumps({"code": "E_FIT", "message": message}))
    app = page(jobs)
    no_fault(app)
    assert "refused (E_FIT)" in sent(app)
    assert "Estimated risk" not in sent(app)
    by_key(app.toggle, "unconfirmed-").set_value(True).run()
    assert "Estimated risk" in sent(app)


@pytest.mark.slow
def test_hostile_names_stand_on_the_page_as_text(page, finished_runs, tmp_path: Path):
    jobs = tmp_path / "jobs"
    shutil.copytree(finished_runs(feature=HOSTILE), jobs)
    write_job(jobs, QUICK, "laplace", title=HOSTILE)
    app = page(jobs)
    no_fault(app)
    assert HOSTILE in sent(app)
    for view in ("answer", "check", "why", "other", "rules"):
        app.segmented_control(key="risk_view").set_value(view).run()
        no_fault(app)
        shown = [*app.markdown, *app.caption, *app.subheader, *app.header]
        assert not any("x.example" in one.value for one in shown)
        labels = [one.label for one in (*app.selectbox, *app.expander, *app.checkbox)]
        assert not any("x.example" in label for label in labels)


def test_the_session_holds_no_arrays(page, finished_runs):
    app = page(finished_runs())
    values = [value for _, value in app.session_state.items()]
    values += [part for one in values if is_dataclass(one) for part in vars(one).values()]
    kinds = {type(one).__module__.split(".")[0] for one in values if not is_dataclass(one)}
    assert kinds <= {"builtins", "streamlit", "datetime"}


# A cohort


@pytest.fixture
def cohort_page(cohort_app: AppTest) -> AppTest:
    cohort_app.run()
    return cohort_app.switch_page("pages/risk.py").run()


def test_the_counts_of_a_cohort_are_those_of_its_data(cohort_page: AppTest):
    app = cohort_page
    by_key(app.number_input, "limit-").set_value(500.0).run()
    assert not app.exception
    test = str(by_key(app.selectbox, "test-").value)
    data = load_risk_data(
        RiskInputs(cohort=Path(os.environ["PHENOKIT_DEMO"], "cohort")),
        RiskOptions(test=test, above=500.0, features=("age", "sex")),
    )
    said = sent(app)
    assert f"{data.n_tested:,} ({data.n_tested / len(data.person_ids):.1%})" in said
    assert f"{data.n_cases:,} (" in said


def test_a_cohort_is_followed_to_a_code_by_risk(
    cohort_page: AppTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    cohort = Path(os.environ["PHENOKIT_DEMO"], "cohort")
    jobs = tmp_path / "jobs"
    options = RiskOptions(
        test="NT-proBNP", above=300.0, features=("age",), testing_features=(),
        engine="laplace", prevalence=0.5, prevalence_sd=0.1, viable="none",
    )  # fmt: skip
    run_risk(RiskInputs(cohort=cohort), options, jobs / QUICK / "out")
    asked = {
        "title": "NT-proBNP",
        "asked": "2026-01-02T03:04:05.000+00:00",
        "arguments": ["risk", "--cohort", str(cohort), "--engine", "laplace"],
    }
    (jobs / QUICK / "job.json").write_text(json.dumps(asked))
    app = cohort_page.run()
    by_key(app.selectbox, "risk-run-").set_value(
        by_key(app.selectbox, "risk-run-").options[1]
    ).run()
    app.segmented_control(key="risk_view").set_value("follow").run()
    no_fault(app)
    by_key(app.selectbox, "phecode-").set_value("401").run()
    no_fault(app)
    alts = [one.proto.alt for one in app.main if one.type == "plotly_chart"]
    assert any("401" in alt for alt in alts)
    by_key(app.segmented_control, "strata-").set_value("tested").run()
    no_fault(app)
    assert "not yet tested" in sent(app)


def test_a_prevalence_of_the_table_fills_in_the_form_with_its_limit(cohort_page: AppTest):
    app = cohort_page
    by_key(app.selectbox, "test-").set_value("NT-proBNP").run()
    by_key(app.selectbox, "preset-").select_index(0).run()
    assert not app.exception
    folder = Path(os.environ["PHENOKIT_DEMO"], "cohort")
    stated = next(
        one
        for one in read_prevalences(folder / "prevalences.csv")
        if one.test == "NT-proBNP"
    )
    assert by_key(app.number_input, "limit-").value == stated.above
    share = by_key(app.number_input, "prevalence-").value
    assert share == pytest.approx(100 * stated.prevalence)
    assert by_key(app.text_input, "window-").value == stated.time_window


def test_the_csv_export_is_guarded_and_flagged(page, finished_runs, monkeypatch):
    from phenokit.report.risk import read_risk_run
    from phenokit.report.risk_exports import export_risk

    run = read_risk_run(finished_runs() / QUICK / "out")
    data = export_risk(
        run.risk, kind="csv", flags=run.flags, limits=run.limits, manifest=run.manifest,
        diagnostics=run.diagnostics, summary=run.tables["summary"],
    )  # fmt: skip
    rows = list(csv.DictReader(io.StringIO(data.decode())))
    assert len(rows) == 2_000
    assert all(sentence in rows[0]["limits"] for sentence in LIMITS)
