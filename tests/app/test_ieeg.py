"""The iEEG page: what it says, refuses, keeps and hands to the viewer."""

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from phenokit.batch.score import score_cohort
from phenokit.jobs import JobState, list_jobs
from phenokit.networks.checkpoint import bundle_folders
from phenokit.report.ieeg_viewer import unpack_pages
from phenokit.reviews import event_decisions, unaltered
from phenokit.simulation.ieeg_files import write_edf

JOB = "0123456789abcdef"


@pytest.fixture(scope="session")
def ward(tmp_path_factory, ieeg_array) -> Path:
    """A recording with a gap and an annotated seizure, a clip without unit, a cut file."""
    folder = tmp_path_factory.mktemp("ward")
    night = ieeg_array(6, 60.0, seed=4)
    night.signal[:, 20 * 128 : 30 * 128] = np.nan
    write_edf(folder / "night.edf", night)
    (folder / "night_events.tsv").write_text(
        "onset\tduration\teventType\n40.0\t8.0\tsz\n5.0\tn/a\t![x](http://evil.invalid/a.png)\n"
    )
    (folder / "night_channels.tsv").write_text(
        "name\ttype\tunits\tstatus\tstatus_description\n"
        + "".join(f"A{k}\tSEEG\tuV\tgood\tn/a\n" for k in (1, 2, 4, 5, 6))
        + "A3\tSEEG\tuV\tbad\tloose\n"
    )
    np.savez(
        folder / "clip.npz", x=1e5 * night.signal[:, :384].T.astype(np.float32),
        fs=np.array(128.0), channels=np.array([f"A{k}" for k in range(1, 7)]),
    )  # fmt: skip
    data = (folder / "night.edf").read_bytes()
    (folder / "cut.edf").write_bytes(data[:-100])
    write_edf(folder / "short.edf", ieeg_array(6, 3.0))
    return folder


@pytest.fixture(scope="session")
def models(tmp_path_factory, ieeg_bundle) -> Path:
    """ecg-demo, for the other pages, and a tiny iEEG model."""
    folder = tmp_path_factory.mktemp("app-models")
    for bundle in [*bundle_folders(), ieeg_bundle]:
        if bundle.name in ("ecg-demo", "tiny-ieeg"):
            shutil.copytree(bundle, folder / bundle.name)
    return folder


@pytest.fixture
def ieeg_app(app, ward, models, tmp_path, monkeypatch) -> AppTest:
    places = {
        "RECORDINGS": ward, "MODELS": models, "JOBS": tmp_path / "jobs",
        "REVIEWS": tmp_path / "reviews.sqlite", "CACHE": tmp_path / "cache",
        "UPLOADS": tmp_path / "uploads",
    }  # fmt: skip
    for name, place in places.items():
        monkeypatch.setenv(f"PHENOKIT_{name}", str(place))
    return app


@pytest.fixture(scope="session")
def finished_job(tmp_path_factory, ward, ieeg_bundle) -> Path:
    """The folder of a job that has scored the recording."""
    job = tmp_path_factory.mktemp("finished") / JOB
    job.mkdir()
    arguments = ["score", str(ward / "night.edf"), "--model", "tiny-ieeg"]
    asked = "2026-01-02T03:04:05.000+00:00"
    (job / "job.json").write_text(
        json.dumps({"title": "Score", "arguments": arguments, "asked": asked})
    )
    score_cohort(ward / "night.edf", job / "out", ieeg_bundle, workers=0)
    return job


@pytest.fixture
def scored_app(ieeg_app, finished_job, tmp_path) -> AppTest:
    """As after that job."""
    shutil.copytree(finished_job, tmp_path / "jobs" / JOB)
    return ieeg_app


def panels(app: AppTest) -> dict[str, str]:
    """What each panel of the page was given, by its key, as JSON text."""
    return {
        str(element.key): element.proto.json
        for element in app.main
        if element.type == "bidi_component"
    }


def traces(app: AppTest):
    """Header and values of what the viewer was given."""
    [element] = [one for one in app.main if str(one.key) == "ieeg-traces"]
    return unpack_pages(element.proto.bytes)


def everything(app: AppTest) -> str:
    return " ".join(str(element.proto) for element in app.main)


def opened(app: AppTest, name: str) -> AppTest:
    app.session_state["ieeg-source"] = "Server folder"
    app.switch_page("pages/ieeg.py").run()
    choice = app.selectbox(key="ieeg-record-Server folder")
    choice.select_index(choice.options.index(name)).run()
    assert not app.exception
    return app


def record_of(app: AppTest) -> str:
    """The id in the address."""
    named = app.query_params["record"]
    return named if isinstance(named, str) else named[0]


def widget(kind, name: str):
    """The widget of the recording that is open."""
    return next(one for one in kind if str(one.key).startswith(f"ieeg-{name}"))


def test_facts_stand_before_the_traces_and_name_what_is_missing(ieeg_app):
    app = opened(ieeg_app, "night")
    assert "Research use" in panels(app)["frame"]
    assert "tiny-ieeg" in panels(app)["frame"]
    facts = panels(app)["ieeg-facts"]
    for fact in (
        "EDF+",
        "128 Hz",
        "6 read, 0 left out, 1 marked as bad",
        "1 gap",
        "1 seizure",
    ):
        assert fact in facts
    assert "loose" in panels(app)["ieeg-left-out"]
    assert "Not scored" in panels(app)["ieeg-origin"]
    assert any("because it has not looked" in text.value for text in app.text)


def test_every_setting_is_printed_and_all_filters_are_off_at_first(ieeg_app):
    header, _ = traces(opened(ieeg_app, "night"))
    printed = " | ".join(header["printed"])
    for words in (
        "70 µV/mm", "10 s/page", "montage: as recorded", "positive up", "recorded data",
        "low filter off, high filter off, notch off", "Research use", "0 % evaluated",
    ):  # fmt: skip
        assert words in printed
    widget(ieeg_app.selectbox, "montage").set_value("bipolar")
    widget(ieeg_app.selectbox, "low").set_value(1.0)
    widget(ieeg_app.toggle, "up").set_value(True).run()
    header, _ = traces(ieeg_app)
    printed = " | ".join(header["printed"])
    for words in (
        "bipolar along each shaft",
        "low filter 1 Hz",
        "zero phase",
        "negative up",
    ):
        assert words in printed
    assert [row["name"] for row in header["pages"][0]["rows"]][:2] == ["A1-A2", "A2-A3"]
    assert [row["bad"] for row in header["pages"][0]["rows"]] == [
        False,
        True,
        True,
        False,
        False,
    ]


def test_a_gap_is_a_gap_in_the_viewer(ieeg_app):
    header, values = traces(opened(ieeg_app, "night"))
    assert header["gaps"] == [[20.0, 30.0]]
    record = record_of(ieeg_app)
    ieeg_app.session_state[f"ieeg-at-{record}"] = 15.0
    _, values = traces(ieeg_app.run())
    sides = np.isnan(values[0][0, :, 0]).reshape(2, -1)
    assert not sides[0].any()
    assert sides[1].all()


def test_names_from_files_are_data_and_never_markdown(ieeg_app):
    app = opened(ieeg_app, "night")
    header, _ = traces(app)
    assert any("evil.invalid" in event["kind"] for event in header["events"])
    shown = [*app.markdown, *app.caption, *app.info, *app.warning]
    assert not any("evil.invalid" in one.value for one in shown)


def test_a_recording_without_unit_is_shown_in_arbitrary_units(ieeg_app):
    app = opened(ieeg_app, "clip")
    assert "arbitrary units" in panels(app)["ieeg-facts"]
    header, values = traces(app)
    assert "arbitrary units/mm" in header["printed"][0]
    assert header["unit"] == ""
    assert header["sensitivity"] > 1e5
    assert header["duration"] == 3.0
    assert np.isfinite(values[0]).all()


def test_a_cut_file_is_refused_with_a_next_step(ieeg_app):
    app = opened(ieeg_app, "cut")
    refused = panels(app)["ieeg-refused"]
    assert "E_SIZE_MISMATCH" in refused
    assert "Next step" in refused
    assert "ieeg-traces" not in panels(app)


def test_results_say_what_was_evaluated_and_that_the_rest_is_not_none(scored_app):
    app = opened(scored_app, "night")
    origin = panels(app)["ieeg-origin"]
    assert "tiny-ieeg" in origin
    assert "Evaluated 0:00:4" in origin
    assert "not recorded" in origin
    assert "is not \\u201cno seizure\\u201d" in origin or "is not “no seizure”" in origin
    header, _ = traces(app)
    assert {one["status"] for one in header["coverage"]} == {
        "evaluated",
        "warming_up",
        "gap",
    }
    assert header["n_trend"] == 60
    assert header["threshold"] == 0.55


def test_the_threshold_redraws_events_and_false_alarms_at_once(scored_app):
    app = opened(scored_app, "night")
    numbers = {}
    for theta in (0.02, 0.98):
        widget(app.slider, "theta").set_value(theta).run()
        header, _ = traces(app)
        marks = [event for event in header["events"] if event["status"]]
        said = panels(app)["ieeg-at-threshold"]
        assert header["threshold"] == pytest.approx(theta)
        assert f"{len(marks)} event" in said
        assert "false alarm" in said
        assert "per 24 h" in said
        numbers[theta] = len(marks)
    assert numbers[0.02] > numbers[0.98] == 0
    assert any("marks no event in the evaluated time" in text.value for text in app.text)


def test_a_decision_needs_a_name_is_kept_and_stays_at_the_next_visit(scored_app, tmp_path):
    app = opened(scored_app, "night")
    assert next(one for one in app.button if one.key == "ieeg-added").disabled
    app.text_input(key="ieeg-author").set_value("AB").run()
    widget(app.number_input, "onset").set_value(33.0)
    widget(app.number_input, "offset").set_value(36.5).run()
    app.button(key="ieeg-added").click().run()
    again = opened(scored_app, "night")
    marks = [event for event in traces(again)[0]["events"] if event["status"] == "added"]
    assert [(mark["onset"], mark["offset"]) for mark in marks] == [(33.0, 36.5)]
    assert "AB, 20" in panels(again)["ieeg-events"]
    assert unaltered(tmp_path / "reviews.sqlite")


def test_an_event_is_accepted_rejected_and_edited_over_the_models(scored_app, tmp_path):
    app = opened(scored_app, "night")
    widget(app.slider, "theta").set_value(0.02).run()
    app.text_input(key="ieeg-author").set_value("AB").run()
    record = record_of(app)
    first = next(event for event in traces(app)[0]["events"] if event["status"])
    app.session_state[f"ieeg-event-{record}"] = first["onset"]
    app.run()
    assert "not evidence of the onset zone" in everything(app)
    for key, status in (("ieeg-rejected", "rejected"), ("ieeg-accepted", "accepted")):
        app.button(key=key).click().run()
        assert status in {event["status"] for event in traces(app)[0]["events"]}
    widget(app.number_input, "offset").set_value(first["offset"] + 2.0).run()
    app.button(key="ieeg-edited").click().run()
    edited = next(one for one in traces(app)[0]["events"] if one["status"] == "edited")
    assert edited["offset"] == pytest.approx(first["offset"] + 2.0)
    app.button(key="ieeg-withdrawn").click().run()
    assert traces(app)[0]["events"][0]["status"] != "edited"
    file = tmp_path / "reviews.sqlite"
    assert unaltered(file)


def test_the_exports_are_there_and_have_sidecars(scored_app):
    app = opened(scored_app, "night")
    buttons = {str(one.key) for one in app.get("download_button")}
    for end in ("_events.tsv", "_coverage.tsv", ".edf", ".csv"):
        assert f"ieeg-export-{end}" in buttons
        assert f"ieeg-sidecar-{end}" in buttons
    assert "ieeg-export-zip" in buttons


def test_scoring_is_a_job_of_its_own_whose_result_appears(ieeg_app, tmp_path):
    app = opened(ieeg_app, "short")
    app.button(key="ieeg-score").click().run()
    jobs = tmp_path / "jobs"
    end = time.monotonic() + 60
    while list_jobs(jobs)[0].state is JobState.RUNNING and time.monotonic() < end:
        time.sleep(0.3)
    app = opened(ieeg_app, "short")
    result = panels(app)["ieeg-result"]
    assert "A_DURATION" in result
    assert "longer recording" in result  # the next step
    assert any("That is not “none”" in text.value for text in app.text)


def test_the_address_holds_the_place_and_leads_back_to_it(ieeg_app):
    ieeg_app.query_params["t"] = "31"
    assert traces(opened(ieeg_app, "night"))[0]["begin"] == 31.0
    opened(ieeg_app, "clip")
    assert traces(ieeg_app)[0]["begin"] == 0.0


def test_another_address_opens_what_it_names(ieeg_app):
    app = opened(ieeg_app, "night")
    record = record_of(app)
    assert "night" not in record
    app.query_params["record"] = "no-such-record"
    app.run()
    assert not app.exception


def test_event_decisions_belong_to_the_bytes_of_a_recording(scored_app, tmp_path, ward):
    from phenokit.report.ieeg_viewer import fingerprint

    app = opened(scored_app, "night")
    app.text_input(key="ieeg-author").set_value("AB").run()
    app.button(key="ieeg-added").click().run()
    key = fingerprint([ward / "night.edf"])
    assert len(event_decisions(tmp_path / "reviews.sqlite", key)) == 1
