import base64
import json
import re
import shutil
from html import escape, unescape
from io import StringIO

import pandas as pd
import pytest

from phenokit.errors import BadInput
from phenokit.evidence.risk import LIMITS
from phenokit.report.ecg_paper import BANNER
from phenokit.report.risk import (
    RiskRun,
    answer_lines,
    conflict_sentence,
    expertise_sentence,
    finding_sentence,
    gate_sentence,
    misfit_sentence,
    prevalence_sentence,
    read_risk_run,
    risk_panels,
    write_report,
)


@pytest.fixture(scope="module")
def run(risk_folder):
    return read_risk_run(risk_folder)


@pytest.fixture(scope="module")
def page(run):
    return write_report(run)


@pytest.fixture(scope="module")
def html(page):
    return body(page)


def body(page: str) -> str:
    """The page without the code of Plotly and without the figures."""
    return re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)


def found(pattern: str, text: str) -> str:
    match = re.search(pattern, text, re.DOTALL)
    assert match is not None
    return match[1]


# Reading


def test_a_folder_is_read_back_as_it_was_written(run, risk_folder):
    groups = run.table("groups")
    assert groups["group"].iloc[0].startswith("<img src=x")
    assert list(groups["note"]).count("suppressed") == 1
    assert groups["risk_untested"].dtype == float
    assert run.table("odds_ratios")["may_affect_testing"].tolist() == [
        True, False, True, False, True,
    ]  # fmt: skip
    assert len(run.risk) == run.n_patients == 6_000
    assert run.table("survival") is None
    assert run.limits == LIMITS


@pytest.mark.parametrize(
    ("name", "text", "code"),
    [("manifest.json", "", "E_MISSING"),
     ("manifest.json", '{"format": "phenokit associations"}', "E_FORMAT"),
     ("diagnostics.json", "{", "E_FORMAT"),
     ("summary.csv", "quantity,mean\nsigma,abc\n", "E_FORMAT")],
)  # fmt: skip
def test_what_is_no_finished_risk_analysis_is_refused(
    risk_folder, tmp_path, name, text, code
):
    for path in risk_folder.glob("*.[cj]s*"):
        shutil.copy(path, tmp_path)
    (tmp_path / name).write_text(text)
    with pytest.raises(BadInput) as refused:
        read_risk_run(tmp_path)
    assert refused.value.code == code


# Words


def changed(run: RiskRun, **diagnostics) -> RiskRun:
    return RiskRun(
        run.folder, run.manifest, {**run.diagnostics, **diagnostics}, run.cohort, run.tables
    )


def test_the_finding_has_both_risks_and_the_missed_cases(run):
    mean, low, high = run.estimate("risk_untested")
    n = run.n_patients - run.n_tested
    sentence = finding_sentence(run)
    assert f"{100 * mean:.1f} % ({100 * low:.1f}–{100 * high:.1f})" in sentence
    assert (
        f"about {n * mean:,.0f} ({n * low:,.0f}–{n * high:,.0f}) of the {n:,}" in sentence
    )


def test_the_assumed_prevalence_is_said_with_its_source_or_that_there_is_none(run):
    assert prevalence_sentence(run) == (
        "Assumed prevalence: 18 % (17–19), source: =a <b>registry</b>."
    )
    nothing = changed(run, prevalence={"value": None, "sd": None, "source": ""})
    assert "No prevalence was stated" in prevalence_sentence(nothing)


def test_the_expertise_list_names_both_sides(run):
    sentence = expertise_sentence(run)
    assert "only through risk: <img src=x onerror=alert(1)>, dose." in sentence
    assert "beyond risk: ward, rare." in sentence
    everything = changed(run, testing_features=run.diagnostics["features"])
    assert "no expertise was stated" in expertise_sentence(everything)


def test_silence_of_the_data_is_no_approval_and_a_conflict_is_called_one(run):
    conflict = {
        "stated": 0.04, "stated_sd": 0.003, "free_mean": 0.05, "free_sd": 0.004,
        "free_interval": [0.042, 0.058], "z": -2.0, "continuous": False,
        "log_likelihood_drop": 1.0, "sigma_at_edge": False,
    }  # fmt: skip
    sentence = conflict_sentence(changed(run, conflict=conflict))
    # 0.05 ± 3 sqrt(0.003² + 0.004²) = 0.05 ± 0.015
    assert "5.0 % (4.2–5.8), z = -2.0" in sentence
    assert "object to a prevalence below 3.5 % or above 6.5 %" in sentence
    assert "no approval" in sentence
    worse = changed(run, conflict={**conflict, "stated": 0.1, "z": 10.0})
    assert "in conflict with them: they object to any" in conflict_sentence(worse)
    worse = changed(run, conflict={**conflict, "log_likelihood_drop": 5.25})
    assert "costs 5.2 of log-likelihood" in conflict_sentence(worse)
    assert "none could be checked" in conflict_sentence(changed(run, conflict=None))


def test_the_gate_says_its_figures_and_what_they_do_not_say(run):
    assert "nested Laplace" in gate_sentence(run)
    nuts = changed(
        run, engine="nuts", n_draws=4000, r_hat=1.002, ess_bulk=1900.0, ess_tail=1500.0,
        divergences=0,
    )  # fmt: skip
    sentence = gate_sentence(nuts)
    assert "R-hat 1.002 (at most 1.01), 1,500 effective draws" in sentence
    assert "not that the prevalence is right" in sentence


def test_counts_of_few_patients_are_not_told_by_the_check_of_the_fit(run):
    misfit = {"p": 0.0, "group": "rare = 1", "outcome": "untested", "observed": 2.0,
              "expected": 14.2}  # fmt: skip
    sentence = misfit_sentence(changed(run, misfit=misfit))
    assert "p < 0.005" in sentence
    assert "fewer than 10 untested, 14 expected" in sentence


def test_flags_come_first_and_limits_last_in_the_answer(run):
    lines = answer_lines(run)
    assert lines[0].startswith(run.flags[0]["code"])
    assert tuple(lines[-2:]) == LIMITS


def test_a_panel_that_does_not_apply_says_why(run):
    tables = {name: run.tables[name] for name in ("summary", "priors", "odds_ratios")}
    said = {**run.diagnostics, "viable_range": None,
            "prevalence": {"value": None, "sd": None, "source": ""}}  # fmt: skip
    bare = RiskRun(run.folder, run.manifest, said, run.cohort, tables)
    for panel in risk_panels(bare):
        assert panel.drawings or panel.tables or panel.absent, panel.key
    assert "Not shown: No prevalence was stated" in write_report(bare)


# The page


def test_flags_stand_on_top_and_both_limits_always(run, html):
    assert "W_PREVALENCE_CONFLICT" in html
    places = [html.index(f"<strong>{flag['code']}") for flag in run.flags]
    assert max(places) < html.index(escape(LIMITS[0])) < html.index("Estimated risk")
    for sentence in LIMITS:
        assert html.count(f"<p>{escape(sentence)}</p>") == 2
    assert html.count(f'<p class="banner">{BANNER}') == 2
    clear = write_report(changed(run, flags=[], limits=[]))
    assert "No flag" in clear
    assert clear.count(escape(LIMITS[1])) >= 2


def test_nothing_on_the_page_is_fetched(html):
    for address in re.findall(r"""(?:src|href|action|data)\s*=\s*["']([^"']*)""", html):
        assert address.startswith(("#", "data:text/csv;base64,")), address
    assert not re.search(r"<(link|iframe|object|embed|img|form)\b", html)
    assert "url(" not in html
    assert "@import" not in html
    assert "default-src 'none'" in html


def test_every_panel_has_its_figure_its_words_and_its_table(run, page, html):
    figures = json.loads(found(r'id="figures">(.*?)</script>', page))
    panels = risk_panels(run)
    drawings = [drawing for panel in panels for drawing in panel.drawings]
    assert len(figures) == len(drawings) == html.count("data-figure=") == 12
    for panel in panels:
        assert f'<section id="{panel.key}">' in html
        assert escape(panel.title) in html
    for drawing in drawings:
        assert f'aria-label="{escape(drawing.alt)}"' in html
    n_tables = len(drawings) + sum(len(panel.tables) for panel in panels) + 1
    assert html.count("data:text/csv;base64,") == n_tables
    assert html.count("<table>") == n_tables + 1  # and the settings


def test_a_table_leaves_the_page_with_all_digits_flags_and_limits(run, html):
    link = r'download="phenokit-risk-groups-[^"]*" href="data:[^,]*,([^"]*)"'
    saved = pd.read_csv(StringIO(base64.b64decode(found(link, html)).decode()))
    groups = run.table("groups")
    assert saved["risk_untested"].tolist()[0] == groups["risk_untested"].iloc[0]
    assert saved["risk_untested"].isna().sum() == 1
    assert "W_PREVALENCE_CONFLICT" in saved["flags"].iloc[0]
    assert LIMITS[0] in saved["limits"].iloc[0]
    assert BANNER in saved["limits"].iloc[0]


def test_names_of_unknown_origin_are_text(html):
    assert "<img" not in html
    assert "<b>registry" not in html
    assert "<img src=x onerror=alert(1)>" in unescape(html)


def test_an_acknowledged_conflict_keeps_its_flag(run, risk_folder, tmp_path):
    shutil.copytree(risk_folder, tmp_path / "run")
    (tmp_path / "run" / "acknowledgement.json").write_text(
        json.dumps({"acknowledged": "2026-01-02T03:04:05+00:00"})
    )
    html = body(write_report(read_risk_run(tmp_path / "run")))
    assert "read and accepted at 2026-01-02T03:04:05" in html
    assert "<strong>W_PREVALENCE_CONFLICT" in html


# In a browser


OVERLAPS = """() => {
  const found = []; let n = 0;
  for (const plot of document.querySelectorAll("[data-figure]")) {
    const boxes = [...plot.querySelectorAll("svg text")]
      .filter((one) => one.textContent.trim() && getComputedStyle(one).opacity > 0)
      .map((one) => [one.textContent, one.getBoundingClientRect()])
      .filter(([, box]) => box.width > 0);
    n += boxes.length;
    const edge = plot.getBoundingClientRect();
    for (const [words, box] of boxes) {
      const isCut = box.left < edge.left - 2 || box.right > edge.right + 2;
      if (isCut) found.push(["cut", words]);
    }
    for (let i = 0; i < boxes.length; i++) for (let j = 0; j < i; j++) {
      const [a, b] = [boxes[i][1], boxes[j][1]];
      const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
      const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
      if (wide > 3 && high > 4) found.push([boxes[i][0], boxes[j][0]]);
    }
  }
  return [n, found];
}"""


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_draws_every_figure_and_asks_for_nothing(page, browser, tmp_path, scheme):
    (tmp_path / "report.html").write_text(page)
    asked, complaints = [], []
    context = browser.new_context(
        viewport={"width": 1100, "height": 900}, color_scheme=scheme
    )
    shown = context.new_page()
    shown.on("request", lambda request: asked.append(request.url))
    shown.on("console", lambda message: complaints.append(message.text))
    shown.on("pageerror", lambda error: complaints.append(str(error)))
    shown.goto((tmp_path / "report.html").as_uri())
    shown.wait_for_function(
        "document.querySelectorAll('[data-figure] svg .xy').length >= 12"
    )
    n_texts, overlaps = shown.evaluate(OVERLAPS)
    ink = shown.evaluate(
        "getComputedStyle(document.querySelector('.plot .xtick text')).fill"
    )
    context.close()
    assert asked == [(tmp_path / "report.html").as_uri()]
    assert complaints == []
    assert n_texts > 200
    assert overlaps == []
    assert ink == {"light": "rgb(27, 31, 36)", "dark": "rgb(230, 233, 237)"}[scheme]
