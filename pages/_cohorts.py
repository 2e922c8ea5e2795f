"""The cohorts that the app may open: sub-folders of folders that an administrator allows.

They are looked for in the demo folder (``PHENOKIT_DEMO``) and in ``PHENOKIT_COHORTS``, a
read-only folder of the server. A cohort is chosen from a list, never by a typed path.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import streamlit as st

from pages import _recordings, _widgets
from phenokit.batch.associate import drop_incomplete
from phenokit.batch.exposures import cohort_exposures, score_exposures
from phenokit.cohort import Cohort
from phenokit.errors import BadInput
from phenokit.readers.cohort_folders import CohortFolder, find_cohorts
from phenokit.readers.cohorts import (
    CohortTables,
    Linking,
    build_cohort,
    read_cohort_tables,
)
from phenokit.readers.phecodes import CaseRule, PhecodeMap, read_phecode_map
from phenokit.readers.scores import Scores, read_scores
from phenokit.report.worklist import Worklist, read_worklist

SUPPRESS = "PHENOKIT_SUPPRESS"
"""Holds the number of patients below which a row of a result is not shown."""


def smallest_shown() -> int:
    """Rows that tell of fewer patients are hidden; 0 shows all."""
    text = os.environ.get(SUPPRESS, "")
    return int(text) if text.isascii() and text.isdigit() else 0


def cohorts() -> dict[str, CohortFolder]:
    """The cohorts at hand, by a key that says nothing about a folder."""
    roots = [Path(os.environ.get("PHENOKIT_DEMO", "demo"))]
    if served := os.environ.get("PHENOKIT_COHORTS"):
        roots.append(Path(served))
    found = _found(tuple(root.absolute() for root in roots))
    return {cohort_key(one.path): one for one in found}


def cohort_key(folder: Path) -> str:
    """The same for the same folder, on every server process."""
    return hashlib.blake2b(os.fsencode(folder.absolute()), digest_size=8).hexdigest()


@st.cache_data(ttl=15, max_entries=4, show_spinner=False)
def _found(roots: tuple[Path, ...]) -> list[CohortFolder]:
    return find_cohorts(roots)


def choose_cohort() -> tuple[str, CohortFolder] | None:
    """The cohort that the reader chose; what to do where there is none."""
    found = cohorts()
    if not found:
        st.info(
            "There is no cohort here. Run `phenokit demo` for a simulated one, or name a "
            "folder of cohorts in `PHENOKIT_COHORTS`."
        )
        return None
    wanted = st.query_params.get("cohort")
    if "cohort" not in st.session_state and wanted in found:
        st.session_state["cohort"] = wanted
    key = st.selectbox(
        "Cohort", list(found), format_func=lambda one: found[one].name, key="cohort"
    )
    st.query_params["cohort"] = key
    chosen = found[key]
    kind = "Simulated data: nobody's. " if chosen.is_simulated else ""
    st.text(f"{kind}{chosen.description}")
    return key, chosen


def tables(folder: Path) -> CohortTables:
    """The tables of a cohort, read once.

    Raises
    ------
    BadInput
        As `read_cohort_tables`.
    """
    return _tables(folder, stamp_of(folder))


def worklist(folder: CohortFolder) -> Worklist:
    """The scored recordings of a cohort, read once.

    Raises
    ------
    BadInput
        As `read_worklist` and `read_cohort_tables`.
    """
    return _worklist(folder.path, folder.scores, stamp_of(folder.path))


@dataclass(frozen=True)
class Pairing:
    """The rows of a run, with one exposure."""

    cohort: Cohort
    values: np.ndarray


def pairing(folder: CohortFolder, settings: Mapping[str, Any], exposure: str) -> Pairing:
    """Who a run analysed, and what an exposure was for each of them.

    Parameters
    ----------
    settings
        Of the run's manifest.

    Raises
    ------
    PhenoKitError
        If the cohort, its scores or their model are not at hand as they were.
    """
    said = json.dumps(settings, sort_keys=True)
    return _pairing(folder, folder.path, said, exposure, stamp_of(folder.path))


@st.cache_resource(max_entries=8, show_spinner=False)
def _pairing(
    _folder: CohortFolder, path: Path, settings: str, exposure: str, stamp: str
) -> Pairing:
    said = json.loads(settings)
    cohort = analysed(
        _folder,
        said["phecode_version"],
        CaseRule(**said["cases"]),
        Linking(**said["linking"]),
        complete=tuple(said["covariates"]) if said["drop_incomplete"] else (),
    )
    if exposure in said["patient_exposures"]:
        table = cohort_exposures(cohort, [exposure])
    else:
        scores = _scores(_folder.scores, stamp)
        table = score_exposures(
            cohort,
            scores,
            _widgets.bundle_of(scores.model),
            kinds=[exposure.split()[0]],  # pyright: ignore[reportArgumentType]
            class_scale=said["class_scale"],
        )
    names = table.exposures.names
    if exposure not in names:
        raise BadInput("E_COLUMNS", "The exposure is not in this cohort any more.")
    values = table.exposures.values[:, names.index(exposure)].astype(np.float64)
    return Pairing(cohort, values)


@st.cache_resource(max_entries=1, show_spinner=False)
def _scores(folder: Path, stamp: str) -> Scores:
    return read_scores(folder)


def exposure_names(folder: CohortFolder, kinds: Sequence[str]) -> list[str]:
    """The exposures of these kinds that the scores of a cohort hold.

    Raises
    ------
    PhenoKitError
        If there are no scores, or their model is not installed.
    """
    scored = worklist(folder)
    own = _widgets.bundle_of(scored.model).prototypes
    names = {
        "prototype": [f"prototype {one}" for one in own["prototype_id"]],
        "class": [f"class {label}" for label in scored.labels],
        "prototype_class": [
            f"prototype_class {label} {how}"
            for how in ("max", "mean")
            for label in dict.fromkeys(own["label"])
        ],
    }
    return [name for kind in kinds for name in names[kind]]


def entry_of(folder: CohortFolder, record_id: str) -> _recordings.Entry | None:
    """The recording with this id, if its file is at hand."""
    table = worklist(folder).table
    found = table.loc[table["record_id"] == record_id, "path"]
    if found.empty:
        return None
    return _recordings.cohort_entry(folder, str(found.iloc[0]), record_id)


def analysed(
    folder: CohortFolder,
    version: str,
    cases: CaseRule,
    linking: Linking,
    complete: tuple[str, ...] = (),
) -> Cohort:
    """Who is analysed under these rules, and who has which phecode.

    Parameters
    ----------
    complete
        Columns without which a patient is left out.

    Raises
    ------
    BadInput
        As `build_cohort`.
    """
    cohort = _analysed(
        folder.path, folder.scores, version, cases, linking, stamp_of(folder.path)
    )
    return drop_incomplete(cohort, complete) if complete else cohort


@st.cache_resource(max_entries=2, show_spinner=False)
def phecode_map(version: str) -> PhecodeMap:
    """The phecode map of this version."""
    return read_phecode_map(version)


@st.cache_resource(max_entries=3, show_spinner=False)
def _analysed(
    folder: Path,
    scores: Path,
    version: str,
    cases: CaseRule,
    linking: Linking,
    stamp: str,
) -> Cohort:
    scored = None
    if (scores / "manifest.json").is_file():
        columns = ["record_id", "outcome", "code"]
        scored = _worklist(folder, scores, stamp).table.loc[:, columns]
    return build_cohort(
        _tables(folder, stamp),
        phecode_map(version),
        cases=cases,
        linking=linking,
        scored=scored,
    )


@st.cache_resource(max_entries=2, show_spinner=False)
def _tables(folder: Path, stamp: str) -> CohortTables:
    return read_cohort_tables(folder)


@st.cache_resource(max_entries=2, show_spinner=False)
def _worklist(folder: Path, scores: Path, stamp: str) -> Worklist:
    return read_worklist(scores, _tables(folder, stamp))


def stamp_of(folder: Path) -> str:
    """Changes when a table or the scores do."""
    files = [*sorted(folder.glob("*.*")), folder / "scores" / "manifest.json"]
    times = [f"{path.name} {path.stat().st_mtime_ns}" for path in files if path.is_file()]
    return hashlib.sha256("\n".join(times).encode()).hexdigest()


def show_refused(error: BadInput) -> None:
    """A cohort that cannot be used: its code, what is wrong, and where."""
    st.error(f"This cohort cannot be used ({error.code}).")
    st.text(f"{error}{f' Where: {error.where}.' if error.where else ''}")
    st.caption("Mend the table that is named, then reload this page.")
