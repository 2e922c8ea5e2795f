"""Follow-up by risk: who of a cohort gets a phecode, by stratum of risk at the ECG."""

from pathlib import Path

import numpy as np
import pandas as pd
import streamlit as st

from pages import _cohorts, _panels, _risk_analysis, _widgets
from pages._risk_tables import show_drawing
from phenokit.batch.follow_up import (
    FollowUpResult,
    follow_to_code,
    split_by_testing,
)
from phenokit.cohort import Cohort
from phenokit.errors import AnalysisRefused, BadInput
from phenokit.jobs import Job
from phenokit.readers.cohort_folders import CohortFolder
from phenokit.readers.cohorts import Linking
from phenokit.readers.outcomes import first_result_days
from phenokit.readers.phecodes import CaseRule
from phenokit.report.risk import RiskRun
from phenokit.report.survival_figures import (
    draw_cumulative_incidence,
    draw_hazards,
    draw_kaplan_meier,
    draw_schoenfeld,
)

STRATA = {
    "3": "Thirds of risk",
    "5": "Fifths of risk",
    "tested": "Tested, or not yet tested",
}
FEWEST_CASES = 10
"""Patients with a phecode that is offered."""


@st.fragment
def show(job_id: str, folder: CohortFolder) -> None:
    """Choose a phecode, and see who stays free of it by risk at the ECG."""
    with _widgets.guard():
        _show(_risk_analysis.job_of(job_id), folder)


def _show(job: Job, folder: CohortFolder) -> None:
    st.subheader("Follow-up by risk", anchor=False)
    try:
        cohort = _cohort(folder)
        tables = _cohorts.tables(folder.path)
    except BadInput as error:
        _cohorts.show_refused(error)
        return
    if tables.follow_up is None:
        st.info("This cohort has no table `follow_up.csv`: nobody's last day is known.")
        return
    names = _offered(cohort)
    left, right = st.columns([3, 2], vertical_alignment="bottom")
    with left:
        phecode = st.selectbox(
            f"First code of ({len(names):,} phecodes with {FEWEST_CASES} patients or more)",
            list(names), index=None, format_func=names.__getitem__,
            key=f"phecode-{job.job_id}", placeholder="Choose a phecode",
        )  # fmt: skip
    with right:
        by = st.segmented_control(
            "By", list(STRATA), format_func=STRATA.__getitem__, default="3", required=True,
            key=f"strata-{job.job_id}",
        )  # fmt: skip
    if phecode is None:
        st.info("Choose a phecode to follow all patients from their first ECG on.")
        return
    try:
        found = _followed(
            folder, folder.path, _cohorts.stamp_of(folder.path), job.job_id, str(phecode),
            str(by),
        )  # fmt: skip
    except (BadInput, AnalysisRefused) as error:
        refusal = _risk_analysis.Refusal(error.code, str(error))
        _widgets.show(
            [_risk_analysis.refused(refusal, title="Follow-up")], key="no-follow-up"
        )
        return
    acknowledged = _risk_analysis.acknowledgement(job)
    show_result(found, str(by), _risk_analysis.run_of(job), acknowledged)


def show_result(found: FollowUpResult, by: str, run: RiskRun, acknowledged: str) -> None:
    """Curves, hazard ratio and who is in them."""
    st.text(found.sentence)
    st.caption(
        "From the day of the first ECG. A patient counts as not yet tested until the day "
        "of the test: else the days before it would be days on which nothing can happen to "
        "the tested."
        if by == "tested" else
        "All patients with a known risk, tested or not, from the day of the first ECG. "
        "Follow-up of the tested alone would not be that of the cohort."
    )  # fmt: skip
    event = f"{found.phecode_string} ({found.phecode})"
    drawings = {"kaplan-meier": draw_kaplan_meier(found.curves, title=event)}
    if found.incidence is not None:
        drawings["incidence"] = draw_cumulative_incidence(found.incidence, title=event)
    if found.hazards is not None:
        first = str(found.hazards.table["covariate"].iloc[0])
        drawings["hazards"] = draw_hazards(found.hazards, title=event)
        drawings["schoenfeld"] = draw_schoenfeld(
            found.hazards, first, title=event, unit=found.curves.unit
        )
    for key, drawing in drawings.items():
        show_drawing(drawing, key, run, acknowledged)
    if found.hazards is not None:
        for flag in found.hazards.notes:
            st.text(flag)
    if found.refusal:
        st.warning("Cox's model was refused.")
        st.text(found.refusal)
    steps: list[_widgets.Node] = [
        ["tr", {}, ["th", {"scope": "row"}, step.rule],
            ["td", {"class": "number"}, f"{step.n_patients:,}"],
            ["td", {"class": "number"}, f"{step.dropped_patients:,}"]]
        for step in found.attrition
    ]  # fmt: skip
    heads: list[_widgets.Node] = [
        ["th", {"scope": "col", "class": name}, words]
        for name, words in (("", "Who is in it"), ("number", "Left"), ("number", "Dropped"))
    ]
    table: _widgets.Node = [
        "table", {}, ["thead", {}, ["tr", {}, *heads]], ["tbody", {}, *steps],
    ]  # fmt: skip
    _widgets.show([table, _panels.notes(found.curves.notes)], key="followed")


def _cohort(folder: CohortFolder) -> Cohort:
    """First ECG of each patient; all codes of a patient count."""
    return _cohorts.analysed(
        folder, "1.2", CaseRule(minimum_codes=1), Linking("any_time", unit="first")
    )


def _offered(cohort: Cohort) -> dict[str, str]:
    """Phecodes that enough patients have."""
    info = _cohorts.phecode_map("1.2").info.set_index("phecode")["phecode_string"]
    status = cohort.status
    return {
        phecode: f"{phecode} {info[phecode]} ({len(rows):,} patients)"
        for phecode, rows in zip(status.phecodes, status.case_rows, strict=True)
        if len(rows) >= FEWEST_CASES
    }


@st.cache_resource(max_entries=8, show_spinner="Following")
def _followed(
    _folder: CohortFolder, path: Path, stamp: str, job_id: str, phecode: str, by: str
) -> FollowUpResult:
    job = _risk_analysis.job_of(job_id)
    rows = _cohort(_folder).patients
    person_ids, recorded = rows["person_id"].tolist(), rows["time"].to_numpy()
    if by == "tested":
        test = str(_risk_analysis.run_of(job).manifest["settings"]["test"])
        days = first_result_days(path / "labs.csv", person_ids, test=test)
        patients, is_after = split_by_testing(person_ids, recorded, days)
        values = np.where(is_after == 1, "tested", "not yet tested").tolist()
        name = f"testing for {test}"
        n_strata = 2
    else:
        risk = _risk_analysis.run_of(job).risk.set_index("person_id")["risk"]
        values = risk.reindex(person_ids).to_numpy(np.float64)
        patients = pd.DataFrame({"person_id": person_ids, "entry": recorded})
        name = "risk"
        n_strata = int(by)
    return follow_to_code(
        _cohorts.tables(path),
        _cohorts.phecode_map("1.2"),
        patients,
        values,
        phecode,
        n_strata=n_strata,
        value_name=name,
        who="patients of the cohort",
        entry_name="the first ECG",
    )
