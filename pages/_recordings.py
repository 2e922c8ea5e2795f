"""Where the ECG page's recordings come from: the demo, a read-only folder, an upload.

A folder is chosen from a list, never by a typed path. Uploads lie in a scratch folder for
as long as they are read. A recording's only name in an address is a random-looking id that
no file name can be told from.
"""

import csv
import hashlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir

import streamlit as st

from phenokit.errors import BadInput
from phenokit.readers.cohort_folders import CohortFolder
from phenokit.readers.ecg import is_ecg_file, is_eeg_file, read_ecg
from phenokit.readers.files import check_name
from phenokit.recording import Recording

SCRATCH = "phenokit-app-"
"""What folders begin with in which uploads lie while they are read."""
MAX_UPLOAD = 20 * 2**20
MAX_LISTED = 2000
MAX_LINKED = 20_000
"""Recordings of cohorts whose ids a process remembers; the oldest are forgotten first."""


@dataclass(frozen=True)
class Entry:
    """A recording that can be opened.

    Attributes
    ----------
    record
        Random id: what stands in the address.
    name
        What the list says: the path within the folder. Text of unknown origin.
    """

    record: str
    name: str
    path: Path
    root: Path


def folders() -> dict[str, Path]:
    """The folders that may be opened, by their name on the page."""
    found = {"Demo": Path(os.environ.get("PHENOKIT_DEMO", "demo"))}
    if served := os.environ.get("PHENOKIT_RECORDINGS"):
        found["Server folder"] = Path(served)
    return {name: folder.absolute() for name, folder in found.items() if folder.is_dir()}


@st.cache_data(ttl=15, max_entries=8, show_spinner=False)
def entries(root: Path) -> list[Entry]:
    """The ECGs of a folder, by name; a WFDB header and its signals are one entry."""
    return listed(root, lambda path: is_ecg_file(path) and not is_eeg_file(path))


def listed(root: Path, is_one: Callable[[Path], bool]) -> list[Entry]:
    """The recordings of a kind in a folder, by name; those of cohorts are left out."""
    found: list[Entry] = []
    truth = _simulated_truth(root)
    for path in _walk(root):
        if is_one(path):
            name = path.relative_to(root).with_suffix("").as_posix()
            if name in truth:
                name = f"{name} (simulated: {truth[name]})"
            found.append(Entry(_record_id(path), name, path, root))
        if len(found) == MAX_LISTED:
            break
    return sorted(found, key=lambda entry: entry.name)


def cohort_entry(cohort: CohortFolder, path: str, name: str) -> Entry | None:
    """A recording of a cohort, which its id alone opens from now on.

    A cohort may have a hundred thousand recordings: they are never listed, but each that a
    page offers is remembered by its id, in this process.

    Parameters
    ----------
    path
        Below the folder of the recordings, as the scores have it.
    name
        What a list says. Text of unknown origin.

    Returns
    -------
    Entry
        None where the file is not in the folder.
    """
    root = cohort.recordings
    file = root / path
    if ".." in Path(path).parts or Path(path).is_absolute() or not file.is_file():
        return None
    entry = Entry(_record_id(file), name, file, root)
    linked = _linked()
    linked.pop(entry.record, None)
    linked[entry.record] = entry
    while len(linked) > MAX_LINKED:
        linked.pop(next(iter(linked)), None)
    return entry


def linked_entry(record: str | None) -> Entry | None:
    """The recording of a cohort with this id; None if no page offered it."""
    return _linked().get(record or "")


@st.cache_resource(show_spinner=False)
def _linked() -> dict[str, Entry]:
    return {}


def read_entry(entry: Entry) -> Recording:
    """Read a listed recording.

    Raises
    ------
    BadInput
        With the code of what is wrong with the file.
    """
    try:
        stamp = entry.path.lstat().st_mtime_ns
    except OSError:
        stamp = 0
    return _read_path(entry.path, entry.root, stamp)


def read_upload(files: Sequence[tuple[str, bytes]], record: str) -> Recording:
    """Read uploaded files, which lie on disk under a random name while they are read.

    Raises
    ------
    BadInput
        ``E_TOO_LARGE``, ``E_FORMAT`` if there is not exactly one recording among them,
        ``E_PATH`` for a name that is no plain file name, or as the reader says.
    """
    if sum(len(data) for _, data in files) > MAX_UPLOAD:
        raise BadInput("E_TOO_LARGE", "The files are larger than 20 MB together.")
    return _read_files(tuple(files), record)


@st.cache_data(scope="session", ttl="30m", max_entries=8, show_spinner=False)
def _read_path(path: Path, root: Path, stamp: int) -> Recording:
    return read_ecg(path, root=root)


@st.cache_data(scope="session", ttl="30m", max_entries=4, show_spinner=False)
def _read_files(files: tuple[tuple[str, bytes], ...], record: str) -> Recording:
    _remove_left_over()
    with TemporaryDirectory(prefix=f"{SCRATCH}{os.getpid()}-") as folder:
        root = Path(folder)
        recordings: list[Path] = []
        for name, data in files:
            suffix = Path(name).suffix.lower()
            # A header names its signal files, so these keep their names; nothing else does.
            stored = name if suffix == ".dat" else f"{record}{suffix}"
            check_name(stored)
            path = root / stored
            path.write_bytes(data)
            if is_ecg_file(path):
                recordings.append(path)
        if len(recordings) != 1:
            raise BadInput("E_FORMAT", _what_to_upload(len(recordings)))
        return read_ecg(recordings[0], root=root)


@st.cache_resource(show_spinner=False)
def _remove_left_over() -> None:
    """Remove what processes that were killed in the midst of reading left behind."""
    for folder in Path(gettempdir()).glob(f"{SCRATCH}*-*"):
        pid = folder.name.removeprefix(SCRATCH).partition("-")[0]
        is_ours = not folder.is_symlink() and folder.lstat().st_uid == os.getuid()
        if is_ours and pid.isdecimal() and not Path("/proc", pid).exists():
            shutil.rmtree(folder, ignore_errors=True)


def _what_to_upload(n_recordings: int) -> str:
    if n_recordings > 1:
        return "These are several recordings; open one at a time."
    return (
        "These files are no ECG of a known format. Images and PDFs are refused; a WFDB "
        "record is a .hea file and its .dat file, uploaded together."
    )


def _walk(root: Path) -> Iterator[Path]:
    """Regular files below a folder; links, hidden names and cohorts are left out.

    A MEF3 session is a folder that stands for one recording.
    """
    for folder, names, files in os.walk(root, followlinks=False):
        if "cohort.toml" in files and Path(folder) != root:
            names.clear()  # a cohort is opened from its own page
            continue
        sessions = sorted(name for name in names if name.lower().endswith(".mefd"))
        yield from (Path(folder, name) for name in sessions)
        names[:] = sorted(
            name for name in names if not name.startswith(".") and name not in sessions
        )
        for name in sorted(files):
            path = Path(folder, name)
            if not name.startswith(".") and path.is_file() and not path.is_symlink():
                yield path


def _simulated_truth(root: Path) -> dict[str, str]:
    """What each demo recording was made to show; empty for any other folder."""
    table = root / "demo.csv"
    if not table.is_file():
        return {}
    with table.open(newline="", encoding="utf-8") as file:
        return {row["record_id"]: row["shows"] for row in csv.DictReader(file)}


def _record_id(path: Path) -> str:
    return hashlib.blake2b(bytes(path), digest_size=8, key=_secret()).hexdigest()


@st.cache_resource(show_spinner=False)
def _secret() -> bytes:
    """Of this process: an address says nothing about a file, and does not outlive it."""
    return secrets.token_bytes(32)
