import csv
import hashlib
import io
import json
from dataclasses import replace

import numpy as np
import pytest

from phenokit.errors import CODES, Outcome
from phenokit.evidence.prototypes import Finding
from phenokit.pipeline import Explanation
from phenokit.recording import Recording
from phenokit.report.explanation import (
    explanation_dict,
    export_files,
    format_csv,
    format_json,
    format_probability,
    labels_not_assessed,
    next_step,
    round_to_sum,
    run_id,
    source_words,
    sum_sentence,
    sum_terms,
)


def printed_number(text: str) -> float:
    return float(text.replace("−", "-"))


@pytest.mark.parametrize("n_shown", [1, 5, 40])
def test_the_printed_column_adds_up_to_the_printed_logit(finding: Finding, n_shown: int):
    terms = sum_terms(finding, n_shown=n_shown)
    assert sum(printed_number(term.printed) for term in terms) == pytest.approx(
        round(finding.logit, 2)
    )
    assert sum(term.contribution for term in terms) == pytest.approx(
        finding.logit, abs=1e-9
    )


def test_no_printed_term_is_a_hundredth_from_its_value(finding: Finding):
    for term in sum_terms(finding):
        assert abs(printed_number(term.printed) - term.contribution) < 0.01


def test_the_prototypes_that_are_not_shown_are_one_row(finding: Finding):
    names = [term.name for term in sum_terms(finding)]
    assert names[-2:] == ["All other prototypes (35)", "Baseline (bias)"]


def test_the_sum_holds_where_only_the_own_class_has_rows(finding: Finding):
    other = replace(finding.matches[0].prototype, label="SR")
    first = replace(finding.matches[0], prototype=other)
    mixed = replace(finding, matches=(first, *finding.matches[1:]))
    terms = sum_terms(mixed, n_shown=3, own_class=True)
    assert [term.match for term in terms[:3]] == list(mixed.matches[1:4])
    assert sum(term.contribution for term in terms) == pytest.approx(finding.logit)


def test_round_to_sum_keeps_the_sum_of_many_small_values():
    values = [0.5] * 101
    assert sum(round_to_sum(values, 50)) == 50


@pytest.mark.parametrize(
    ("probability", "words"),
    [(0.0, "< 1 %"), (0.0099, "< 1 %"), (0.01, "1.0 %"), (0.0994, "9.9 %"),
     (0.0996, "10 %"), (0.5049, "50 %"), (0.994, "99 %"), (0.995, "> 99 %"),
     (1.0, "> 99 %")],
)  # fmt: skip
def test_a_probability_is_short_and_never_0_or_100(probability, words):
    assert format_probability(probability) == words


def test_every_refusal_and_every_abstention_has_a_next_step():
    assert all(next_step(code) for code in CODES if code[0] in "EA")
    assert not next_step("OK")


def test_the_source_is_named_with_all_its_labels(finding: Finding):
    words = source_words(finding.matches[0].prototype)
    assert "Right bundle branch block, complete (CRBBB), Sinus rhythm (SR)" in words
    assert "one of 2 prototypes of its class" in words


def test_a_sentence_says_the_sum(finding: Finding):
    assert f"logit {finding.logit:+.3f}".replace("-", "−") in sum_sentence(finding)


def test_the_json_file_adds_up_and_says_what_was_not_assessed(explanation: Explanation):
    content = json.loads(format_json(explanation_dict(explanation)))
    first = content["findings"][0]
    total = first["bias"] + sum(one["contribution"] for one in first["prototypes"])
    assert total == pytest.approx(first["logit"], abs=1e-9)
    assert "AFIB" in content["not_assessed"]
    assert "CRBBB" not in content["not_assessed"]


def test_the_csv_file_adds_up_and_runs_no_formula(explanation: Explanation):
    rows = list(csv.DictReader(io.StringIO(format_csv(explanation).decode())))
    assert sum(float(row["contribution"]) for row in rows) == pytest.approx(
        explanation.findings[0].logit
    )
    assert {row["record_id"] for row in rows} == {"'=HYPERLINK(1)"}


def test_the_files_of_an_abstention_hold_no_probability(explanation: Explanation):
    scored = replace(
        explanation.scored, outcome=Outcome.ABSTAINED, code="A_NOISE",
        probability=np.array([np.nan]), logit=np.array([np.nan]),
    )  # fmt: skip
    abstained = Explanation(scored, ())
    content = explanation_dict(abstained)
    assert (content["outcome"], content["findings"]) == ("abstained", [])
    rows = list(csv.DictReader(io.StringIO(format_csv(abstained).decode())))
    assert [(row["code"], row["probability"]) for row in rows] == [("A_NOISE", "")]


def test_the_hashes_name_the_bytes_of_each_file(explanation: Explanation):
    recording = Recording(np.zeros((1, 1)), ("I",), 500.0, "somebody", sha256="cd")
    files = export_files(explanation, recording, "a", version="0.1.0")
    content = json.loads(files["a.hashes.json"])
    assert (content["bundle_hash"], content["input_sha256"]) == ("ab" * 32, "cd")
    assert content["files"] == {
        name: hashlib.sha256(files[name]).hexdigest() for name in ("a.json", "a.csv")
    }


def test_a_file_name_says_nothing_about_the_record(explanation: Explanation):
    scored = explanation.scored
    assert run_id(scored, "cd") == run_id(replace(scored, record_id="somebody"), "cd")
    assert run_id(scored, "cd") != run_id(scored, "ce")


def test_labels_outside_the_model_are_not_assessed():
    assert len(labels_not_assessed(("CRBBB", "SR"))) == 69
