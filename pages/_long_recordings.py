"""Where the iEEG page's recordings come from: the demo, a read-only folder, an upload.

A recording of hours is never read whole: what is kept is what the reader opened, a header
and a way to the samples. An upload is written to a folder of the app under a random name,
so that a job can score it after the tab was closed, and is removed after a day.
"""

import secrets
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import streamlit as st

from pages import _recordings, _uploads
from phenokit.errors import BadInput
from phenokit.readers.annotations import BACKGROUND
from phenokit.readers.ieeg import IEEG_SUFFIXES, IEEGRecording, is_ieeg_file, read_ieeg
from phenokit.recording import Event
from phenokit.report.ieeg_viewer import (
    Extrema,
    extrema_folder,
    fingerprint,
    trim_extrema,
)

MAX_UPLOAD_MB = 500
UPLOADS_KEPT = 86_400.0
"""Seconds."""
ONE_FILE = tuple(suffix for suffix in IEEG_SUFFIXES if suffix in (".edf", ".bdf", ".npz"))
"""Formats that an upload may have: one file holds all."""
UPLOAD = "Upload"


@dataclass(frozen=True)
class Opened:
    """A recording that stands on the page.

    Attributes
    ----------
    record
        Random id: what stands in the address.
    name
        What the list says. Text of unknown origin.
    path
        The file, for a job.
    recording
        Of which pieces are read.
    key
        What tells its bytes from others on any day: of reviews and of stored extrema.
    is_simulated
        Whether it is a demo recording.
    """

    record: str
    name: str
    path: Path
    recording: IEEGRecording
    key: str
    is_simulated: bool

    @property
    def reference(self) -> tuple[Event, ...] | None:
        """Annotated seizures; None where nobody looked for any, as far as files tell."""
        annotated = self.recording.annotations
        seizures = tuple(
            Event(one.label, one.onset, max(one.offset, one.onset))
            if one.offset == one.offset
            else Event(one.label, one.onset, one.onset)
            for one in self.recording.seizures
        )
        looked = seizures or any(one.label == BACKGROUND for one in annotated)
        return seizures if looked else None


def choose() -> Opened | None:
    """The recording that the reader chose; what is wrong with it otherwise."""
    folders = _recordings.folders()
    listed = {name: entries(root) for name, root in folders.items()}
    sources = [*listed, UPLOAD]
    _follow_link(listed)
    if st.session_state.get("ieeg-source") not in sources:
        st.session_state["ieeg-source"] = sources[0]
    left, right = st.columns([1, 2], vertical_alignment="bottom")
    with left:
        source = st.segmented_control(
            "Open from", sources, key="ieeg-source", required=True
        )  # fmt: skip
    with right:
        entry = _upload() if source == UPLOAD else _listed(source or UPLOAD, listed)
    if entry is None:
        if source != UPLOAD:
            st.info("Choose a recording. The demo recordings are simulated: nobody's data.")
        return None
    if st.session_state.get("ieeg-opened") not in {None, entry.record}:
        st.query_params.pop("t", None)  # a time of the recording before
    st.query_params["record"] = st.session_state["ieeg-opened"] = entry.record
    return _open(entry, is_simulated=source == "Demo")


def opened(record: str) -> Opened | None:
    """The recording with this id, if this process has it open."""
    return _known().get(record)


def extrema(one: Opened) -> Extrema | None:
    """Stored extrema for long pages; None where they cannot be kept."""
    try:
        return _extrema(one.key, one)
    except OSError:
        return None


@st.cache_data(ttl=15, max_entries=8, show_spinner=False)
def entries(root: Path) -> list[_recordings.Entry]:
    """The iEEG recordings of a folder, by name."""
    return _recordings.listed(root, is_ieeg_file)


def _follow_link(listed: dict[str, list[_recordings.Entry]]) -> None:
    """Open what the address names, at the start or when another page led here."""
    wanted = st.query_params.get("record")
    if wanted is None or wanted == st.session_state.get("ieeg-opened"):
        return
    for source, found in listed.items():
        if any(entry.record == wanted for entry in found):
            st.session_state["ieeg-source"] = source
            st.session_state[f"ieeg-record-{source}"] = wanted
            return
    if "ieeg-source" not in st.session_state:
        st.info("The address names a recording that is not at hand any more. Choose again.")
    del st.query_params["record"]


def _listed(
    source: str, listed: dict[str, list[_recordings.Entry]]
) -> _recordings.Entry | None:
    by_id = {entry.record: entry for entry in listed[source]}
    record = st.selectbox(
        "Recording",
        list(by_id),
        format_func=lambda one: by_id[one].name,
        index=None,
        placeholder="Choose a recording" if by_id else "No iEEG recording in this folder",
        key=f"ieeg-record-{source}",
    )
    return by_id.get(record or "")


def _upload() -> _recordings.Entry | None:
    file = st.file_uploader(
        f"iEEG in one file ({', '.join(ONE_FILE)}; {MAX_UPLOAD_MB} MB at most). Larger "
        "ones, and formats of several files, are opened from a folder of the server.",
        key="ieeg-upload",
        max_upload_size=MAX_UPLOAD_MB,
    )
    if file is None:
        return None
    if st.session_state.get("ieeg-uploaded") != file.file_id:
        st.session_state["ieeg-uploaded"] = file.file_id
        st.session_state["ieeg-upload-record"] = secrets.token_hex(8)
    record = st.session_state["ieeg-upload-record"]
    folder = _uploads.own_folder(_uploads.ieeg_folder()) / record
    suffix = Path(file.name).suffix.lower()
    stored = folder / f"recording{suffix if suffix in ONE_FILE else '.edf'}"
    if not stored.is_file():
        _remove_old(_uploads.ieeg_folder())
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with stored.open("wb") as target:
            shutil.copyfileobj(file, target)
    return _recordings.Entry(record, "uploaded recording", stored, folder)


def _remove_old(folder: Path) -> None:
    if not folder.is_dir():
        return
    for one in [*folder.glob(f"{_uploads.PREFIX}*/*"), *folder.iterdir()]:
        if one.is_dir() and time.time() - one.stat().st_mtime > UPLOADS_KEPT:
            shutil.rmtree(one, ignore_errors=True)


def _open(entry: _recordings.Entry, *, is_simulated: bool) -> Opened | None:
    from pages import _ieeg_panels, _widgets

    try:
        stamp = entry.path.lstat().st_mtime_ns
        recording, key = _read(entry.path, entry.root, stamp)
    except (BadInput, OSError) as error:
        if not isinstance(error, BadInput):
            error = BadInput("E_MISSING", "The file cannot be read any more.")
        _widgets.show([_ieeg_panels.refused(error)], key="ieeg-refused")
        return None
    one = Opened(entry.record, entry.name, entry.path, recording, key, is_simulated)
    known = _known()
    known.pop(entry.record, None)
    known[entry.record] = one
    while len(known) > 64:
        known.pop(next(iter(known)), None)
    return one


@st.cache_resource(ttl="30m", max_entries=16, show_spinner=False)
def _read(path: Path, root: Path, stamp: int) -> tuple[IEEGRecording, str]:
    recording = read_ieeg(path, root=root)
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return recording, fingerprint(files)


@st.cache_resource(show_spinner=False)
def _known() -> dict[str, Opened]:
    return {}


@st.cache_resource(max_entries=16, show_spinner=False)
def _extrema(key: str, _one: Opened) -> Extrema:
    folder = extrema_folder()
    trim_extrema(folder)
    return Extrema(_one.recording, folder, key)
