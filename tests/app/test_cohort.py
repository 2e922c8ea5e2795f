"""The worklist and its attrition, through `app.py`."""

import json
import re

import pytest
from streamlit.testing.v1 import AppTest


@pytest.fixture
def page(cohort_app: AppTest) -> AppTest:
    cohort_app.run()
    return cohort_app.switch_page("pages/cohort.py").run()


def worklist(app: AppTest):
    return next(d.value for d in app.dataframe if "Outcome" in d.value)


def steps(app: AppTest, number: int):
    """The tables of counted rules: of the list's filters (0), of the analysis (1)."""
    return [d.value for d in app.dataframe if "Rule" in d.value][number]


def per_cent(text: str) -> float:
    found = re.fullmatch(r"([<>]?) ?([\d.]+) %", text)
    return float(found[2]) if found else -1.0


def test_the_list_is_sorted_by_the_chosen_finding_and_says_so(page: AppTest):
    assert not page.exception
    assert [one.value for one in page.error] == []
    shown = [per_cent(one) for one in worklist(page)["Probability"]]
    assert shown == sorted(shown, reverse=True)
    said = next(one.value for one in page.text if "sorted by" in one.value)
    assert said.startswith(f"{len(shown):,} recordings, sorted by probability of Atrial")


def test_a_recording_that_was_abstained_has_no_probability(page: AppTest):
    table = worklist(page)
    abstained = table[table["Outcome"].str.contains("not assessable")]
    assert len(abstained)
    assert set(abstained["Probability"]) == {"not assessed"}


def test_filters_are_counted_one_by_one_and_add_up(page: AppTest):
    next(p for p in page.button_group if p.key == "list_sex").set_value(["Female"]).run()
    page.toggle(key="list_only").set_value(True).run()
    table = steps(page, 0)
    assert table["Rule"].tolist()[:2] == ["All recordings", "Sex Female"]
    left, dropped = table["Recordings left"].tolist(), table["dropped "].tolist()
    assert left[0] - sum(dropped) == left[-1] == len(worklist(page))
    assert set(worklist(page)["Sex"]) == {"Female"}


def test_the_first_recording_is_open_beside_the_list(page: AppTest):
    first = worklist(page)["Recording"].iloc[0]
    assert any(one.value == f"Recording {first}" for one in page.text)
    panels = {str(e.key): e.proto.json for e in page.main if e.type == "bidi_component"}
    assert "<svg" in panels["strip"]
    assert "Atrial fibrillation" in panels["preview"]


def test_no_address_or_link_names_a_recording(page: AppTest):
    links = [str(e.proto) for e in page.main if e.type == "page_link"]
    assert any("record=" in link for link in links)
    assert not any(name in "".join(links) for name in worklist(page)["Recording"])


def test_a_recording_that_was_reviewed_leaves_the_unread(page: AppTest):
    first = worklist(page)["Recording"].iloc[0]
    page.button(key="review").click().run()
    assert worklist(page)["Seen"].tolist().count("✓") == 1
    page.toggle(key="list_unread").set_value(True).run()
    assert first not in worklist(page)["Recording"].tolist()


def test_every_rule_of_the_analysis_is_counted_and_the_counts_add_up(page: AppTest):
    table = steps(page, 1)
    for what, dropped in (("Patients left", "dropped"), ("Recordings left", "dropped ")):
        left = table[what].tolist()
        assert left[0] - sum(table[dropped]) == left[-1]
    notes = [e.proto.json for e in page.main if e.type == "bidi_component"]
    assert any("Case: at least 2 codes" in json.loads(json.dumps(one)) for one in notes)


def test_that_nothing_passes_the_filters_is_said(page: AppTest):
    page.toggle(key="list_only").set_value(True)
    outcome = next(p for p in page.button_group if p.key == "list_outcome")
    outcome.set_value(["abstained"]).run()
    assert any("No recording passes" in info.value for info in page.info)
