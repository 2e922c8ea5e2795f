import json
import re
import time
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

CLEAN, NOISY = "demo03", "demo13"


def panels(app: AppTest) -> dict[str, str]:
    """What each panel of the page was given, by its key, as JSON text."""
    return {
        str(element.key): element.proto.json
        for element in app.main
        if element.type == "bidi_component"
    }


def everything(app: AppTest) -> str:
    """All that the browser is sent."""
    return " ".join(str(element.proto) for element in app.main)


def opened(app: AppTest, name: str) -> AppTest:
    app.run()
    choice = app.selectbox(key="record-Demo")
    index = next(n for n, option in enumerate(choice.options) if option.startswith(name))
    return choice.select_index(index).run()


def upload(app: AppTest, *files: tuple[str, bytes]) -> AppTest:
    app.run()
    app.segmented_control(key="source").set_value("Upload").run()
    uploads = [(name, data, "application/octet-stream") for name, data in files]
    return app.file_uploader(key="upload").set_value(uploads).run()


def test_the_page_opens_with_banner_model_and_hash(app: AppTest):
    start = time.perf_counter()
    app.run()
    assert time.perf_counter() - start < 10
    assert not app.exception
    frame = panels(app)["frame"]
    assert "Research use" in frame
    assert "ecg-demo" in frame


def test_input_facts_and_quality_stand_before_the_findings(app: AppTest):
    keys = list(panels(opened(app, CLEAN)))
    assert keys.index("input") < keys.index("tracing") < keys.index("findings")
    facts = panels(app)["input"]
    for fact in ("WFDB", "500 Hz", "mV", "Derived leads", "Signal quality"):
        assert fact in facts


def test_the_printed_sum_is_the_logit(app: AppTest):
    opened(app, CLEAN)
    sentence = next(text.value for text in app.text if text.value.startswith("Prototypes "))
    numbers = sentence.replace("−", "-").replace(",", "").replace(";", "").split()
    total, bias, logit = float(numbers[1]), float(numbers[3].rstrip(":")), float(numbers[5])
    assert total + bias == pytest.approx(logit, abs=0.0016)


def test_the_five_largest_prototypes_are_drawn_on_one_scale(app: AppTest):
    rows = json.loads(panels(opened(app, CLEAN))["prototypes"])[0][2:]
    assert len(rows) == 5
    for row in rows:
        drawings = [text for text in _texts(row) if text.startswith("<svg")]
        sizes = {drawing[: drawing.index(" viewBox")] for drawing in drawings}
        assert (len(drawings), len(sizes)) == (2, 1)


def test_an_abstained_record_shows_a_reason_and_no_probability(app: AppTest):
    opened(app, NOISY)
    verdict = panels(app)["verdict"]
    assert "Not assessable" in verdict
    assert "Next step" in verdict
    assert "findings" not in panels(app)
    without_drawing = {key: text for key, text in panels(app).items() if key != "tracing"}
    assert not any(" %" in text for text in without_drawing.values())


def test_the_scores_of_an_abstained_record_open_on_purpose_only(app: AppTest):
    opened(app, NOISY)
    switch = next(one for one in app.toggle if one.label.startswith("Open the scores"))
    switch.set_value(True).run()
    assert "findings" in panels(app)
    assert any("not assessable" in warning.value for warning in app.warning)


def test_a_record_can_be_reached_by_a_random_id_that_names_nothing(app: AppTest):
    opened(app, CLEAN)
    record = app.query_params["record"]
    assert CLEAN not in record
    again = AppTest.from_file(app._script_path, default_timeout=60)
    again.query_params["record"] = record
    assert "findings" in panels(again.run())


def test_an_address_that_is_not_known_says_so(app: AppTest):
    app.query_params["record"] = "0123456789abcdef"
    app.run()
    assert any("not at hand" in info.value for info in app.info)


def test_an_uploaded_record_is_scored_and_leaves_nothing_behind(
    app: AppTest, demo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    header, signal = (
        (demo_folder / f"{CLEAN}{end}").read_bytes() for end in (".hea", ".dat")
    )
    upload(app, ("Jane Doe.hea", header), (f"{CLEAN}.dat", signal))
    assert "findings" in panels(app)
    assert "Jane" not in everything(app)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "data", "code"),
    [
        ("a.png", b"\x89PNG\r\n\x1a\n" + bytes(100), "E_FORMAT"),
        ("a.pdf", b"%PDF-1.7\n", "E_FORMAT"),
        ("a.hea", b"a 12 1e3 5000\n", "E_HEADER"),
        ("a.hea", b"a 1 500 5000\n../../etc/passwd 16 1000/mV 16 0 0 0 0 I\n", "E_PATH"),
        ("../a.dat", b"0000", "E_PATH"),
    ],
)
def test_a_file_that_is_no_ecg_is_refused_with_its_code(
    app: AppTest, name: str, data: bytes, code: str
):
    upload(app, (name, data))
    assert not app.exception
    assert code in panels(app)["rejected"]
    assert "findings" not in panels(app)


def test_labels_outside_the_model_are_listed_as_not_assessed(app: AppTest):
    opened(app, CLEAN)
    assert any(expander.label.startswith("Not assessed") for expander in app.expander)


def test_the_marked_window_is_the_matched_window(app: AppTest):
    opened(app, CLEAN)
    mark = {"record": app.query_params["record"], "prototype": 0, "start": 1.28,
            "stop": 2.24, "text": "prototype 0"}  # fmt: skip
    app.session_state["mark"] = mark
    app.run()
    assert json.loads(panels(app)["tracing"])["mark"] == mark


def test_an_unforeseen_error_shows_an_incident_and_not_its_text(
    app: AppTest, caplog: pytest.LogCaptureFixture
):
    opened(app, CLEAN)
    app.session_state["mark"] = {"canary-7391": None}
    app.run()
    assert any("incident" in error.value for error in app.error)
    assert "canary-7391" not in everything(app) + caplog.text


def test_the_session_holds_no_arrays(app: AppTest):
    opened(app, CLEAN)
    kinds = {type(value).__module__.split(".")[0] for _, value in app.session_state.items()}
    assert kinds <= {"builtins", "streamlit"}


def test_the_models_page_shows_the_card_and_its_hashes(app: AppTest):
    app.run()
    app.switch_page("pages/models.py").run()
    assert not app.exception
    card = panels(app)["card"]
    assert "Intended use" in card
    assert "Licence of the weights" in panels(app)["provenance"]
    assert "gallery" in panels(app)


def _texts(node: object) -> list[str]:
    if isinstance(node, str):
        return [node]
    if isinstance(node, list):
        return [text for part in node for text in _texts(part)]
    return []


def test_the_recordings_of_a_cohort_are_not_in_the_list(
    app: AppTest, demo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name in ("alone", "cohort/recordings/p0000/patient"):
        for end in (".hea", ".dat"):
            data = (demo_folder / f"{CLEAN}{end}").read_bytes()
            target = tmp_path / f"{name}{end}"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
    (tmp_path / "cohort" / "cohort.toml").write_text('name = "A cohort"\n')
    monkeypatch.setenv("PHENOKIT_DEMO", str(tmp_path))
    app.run()
    assert app.selectbox(key="record-Demo").options == ["alone"]


def with_prevalence(app: AppTest, value: float, low: float | None, high: float | None):
    """State a prevalence of the label that is explained."""
    for words, number in (
        ("Prevalence here", value),
        ("95 % interval", low),
        ("to,", high),
    ):
        field = next(one for one in app.number_input if one.label.startswith(words))
        field.set_value(number)
    source = next(one for one in app.text_input if one.label.startswith("Source"))
    source.set_value("Clinic ![x](http://example.org/x.png), 2024")
    return next(one for one in app.button if one.label == "Use this prevalence").click()


def sum_rows(app: AppTest) -> list[str]:
    """The rows below the logit."""
    foot = json.loads(panels(app)["sum"])[0][-1]
    return [" ".join(_texts(row)) for row in foot[2:]]


def test_the_local_prevalence_is_the_last_row_below_the_logit(app: AppTest):
    opened(app, CLEAN)
    assert len(sum_rows(app)) == 2
    with_prevalence(app, 0.5, 0.2, 1.2).run()
    logit, calibrated, local = sum_rows(app)
    assert "Sum = logit" in logit
    assert "Calibrated probability" in calibrated
    assert "Probability at the local prevalence, 0.50 % (0.20–1.20)" in local
    panel = panels(app)["local"]
    assert "In training" in panel
    assert "label shift" in panel
    assert "names no range of prevalence" in panel
    assert "Positive predictive value" in panel
    assert "sensitivity" in panel
    assert "not known" not in panel


def test_the_source_of_a_prevalence_is_text_and_never_markup(app: AppTest):
    opened(app, CLEAN)
    with_prevalence(app, 0.5, None, None).run()
    assert "Clinic ![x](http" in panels(app)["local"]
    assert not any("![x]" in one.value for one in app.markdown)
    assert "No interval: how sure" in panels(app)["local"]


def test_the_prevalence_of_training_changes_nothing(app: AppTest):
    opened(app, CLEAN)
    preset = next(one for one in app.button if one.label.startswith("As in training"))
    preset.click().run()
    calibrated, local = (
        float(re.findall(r"([\d.]+) %", row)[-1]) for row in sum_rows(app)[1:]
    )
    assert local == pytest.approx(calibrated, abs=0.5)


def test_a_prevalence_stays_with_its_label_and_can_be_removed(app: AppTest):
    opened(app, CLEAN)
    with_prevalence(app, 0.5, 0.2, 1.2).run()
    explain = next(one for one in app.selectbox if one.label.startswith("Explain"))
    first = explain.value
    other = next(label for label in ("NORM", "MI") if label != first)
    explain.set_value(other).run()
    assert len(sum_rows(app)) == 2
    explain = next(one for one in app.selectbox if one.label.startswith("Explain"))
    explain.set_value(first).run()
    assert len(sum_rows(app)) == 3
    next(one for one in app.button if one.label == "Remove").click().run()
    assert len(sum_rows(app)) == 2


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ((0.0, None, None), "strictly between 0 % and 100 %"),
        ((5.0, 6.0, 8.0), "has to hold the prevalence"),
        ((5.0, 3.0, None), "both ends of its interval or none"),
    ],
)
def test_a_prevalence_that_cannot_be_is_refused(app: AppTest, values, words: str):
    opened(app, CLEAN)
    with_prevalence(app, *values).run()
    assert any(words in error.value for error in app.error)
    assert len(sum_rows(app)) == 2


def test_the_scores_of_a_cohort_suggest_a_prevalence(cohort_app: AppTest):
    opened(cohort_app, "demo03")
    choice = next(
        one for one in cohort_app.selectbox if one.label.startswith("As the scores")
    )
    choice.select_index(0).run()
    assert not cohort_app.exception
    assert "fitted to the scores of" in panels(cohort_app)["local"]
    assert len(sum_rows(cohort_app)) == 3
