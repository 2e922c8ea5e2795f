"""Score a folder of the server: which one, by which model, as a job.

A folder is chosen from a list, never by a typed path: the demo, the folders that an
administrator allows, and the folders in them.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import streamlit as st

from pages import _audit, _cohorts, _recordings, _widgets
from phenokit.batch.run_folder import part_name
from phenokit.errors import OutputBusy
from phenokit.jobs import jobs_folder, start_job

DEPTH = 2
"""Folders within folders that are listed."""
MAX_FOLDERS = 500
KINDS = {_widgets.ECG: "ECG", _widgets.IEEG: "iEEG"}
FOLDER, MODEL, REFUSED = "score-folder", "score-model", "score-refused"


@dataclass(frozen=True)
class Folder:
    """A folder that may be scored.

    Attributes
    ----------
    name
        What the list says. Text of unknown origin.
    """

    name: str
    path: Path


def folders() -> dict[str, Folder]:
    """The folders that may be scored, by a key that says nothing about a path."""
    roots = dict(_recordings.folders())
    if (served := os.environ.get("PHENOKIT_COHORTS")) and Path(served).is_dir():
        roots["Cohorts"] = Path(served).absolute()
    found: dict[str, Folder] = {}
    for source, root in roots.items():
        for path in _within(root):
            below = path.relative_to(root).as_posix()
            name = source if path == root else f"{source}: {below}"
            found.setdefault(_cohorts.cohort_key(path), Folder(name, path))
    return found


@st.cache_data(ttl=15, max_entries=8, show_spinner=False)
def _within(root: Path) -> list[Path]:
    """A folder and those below it, in order; no links, hidden ones, sessions or scores."""
    found = [root]
    for parent, names, _ in os.walk(root, followlinks=False):
        depth = len(Path(parent).relative_to(root).parts)
        names[:] = sorted(
            name
            for name in names
            if depth < DEPTH
            and not name.startswith(".")
            and not name.lower().endswith(".mefd")
            and not Path(parent, name).is_symlink()
            and not Path(parent, name, part_name(0)).is_file()
        )
        found += [Path(parent, name) for name in names]
        if len(found) >= MAX_FOLDERS:
            break
    return sorted(found[:MAX_FOLDERS])


def show() -> None:
    """The form; a job that was started is the one that is shown."""
    listed = folders()
    models = {name: kind for kind in KINDS for name in _widgets.model_names(kind)}
    if not listed or not models:
        st.info(
            "Nothing can be scored yet: run `phenokit demo`, or name a folder of "
            "recordings in `PHENOKIT_RECORDINGS`; `phenokit models list` shows the models."
        )
        return
    in_use = _widgets.model_name() if _widgets.model_names() else ""
    with st.form("score", border=True):
        left, right = st.columns([3, 2])
        left.selectbox(
            "Folder on the server",
            list(listed),
            format_func=lambda key: listed[key].name,
            key=FOLDER,
        )
        right.selectbox(
            "Model",
            list(models),
            list(models).index(in_use) if in_use in models else 0,
            format_func=lambda name: f"{name} ({KINDS[models[name]]})",
            key=MODEL,
        )
        st.caption(
            "Every recording of the folder becomes one row, a bad file included; an ECG "
            "model reads ECGs, an iEEG model iEEGs. The job goes on when this tab is "
            "closed. Research use: no result is a diagnosis."
        )
        st.form_submit_button(
            "Start scoring",
            type="primary",
            on_click=_audit.logged(_start, "job", detail="start score"),
        )
    if message := st.session_state.pop(REFUSED, None):
        st.warning(message)


def _start() -> None:
    folder = folders().get(st.session_state[FOLDER])
    model = str(st.session_state[MODEL])
    if folder is None:
        st.session_state[REFUSED] = "The folder is not there any more. Choose again."
        return
    try:
        job = start_job(
            jobs_folder(),
            title=f"{folder.name}, {model}",
            arguments=("score", str(folder.path), "--model", model),
        )
    except OutputBusy as error:
        st.session_state[REFUSED] = f"{error}.".capitalize()
        return
    st.session_state["job"] = job.job_id
