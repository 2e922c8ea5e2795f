"""How the records of a source are read: files of a folder.

A reader goes to the worker processes, so that it is small; it opens nothing until it is
asked, and then through the strict readers alone.
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

from phenokit.errors import BadInput
from phenokit.readers.ecg import hash_ecg, read_ecg
from phenokit.readers.ieeg import hash_ieeg, read_ieeg
from phenokit.readers.ieeg_recording import IEEGRecording
from phenokit.recording import Recording

_NOT_LOCAL = re.compile(r"[/~]|[A-Za-z][A-Za-z0-9+.-]*:|.*[\\\0]", re.DOTALL)
"""Absolute, of a home folder, a drive or a URL, or with a character that no list needs."""


@dataclass(frozen=True, slots=True)
class Record:
    r"""One recording of a source.

    Attributes
    ----------
    path
        As the output names it, unique in the source; a byte that is not UTF-8 is ``\xff``.
    location
        How the reader finds it: a path below the reader's root in the form of
        `os.fsdecode`, or a row number.
    patient_id
        Where the source says whose it is.
    """

    path: str
    location: str
    patient_id: str | None = None

    @property
    def record_id(self) -> str:
        """The path without the ending of the file's name.

        Examples
        --------
        >>> Record("records100/00001_lr.hea", "records100/00001_lr.hea").record_id
        'records100/00001_lr'
        """
        return self.path.removesuffix(ending_of(self.path))


@runtime_checkable
class Reader(Protocol):
    """Reads the records of one source; small enough to go to another process."""

    def read(self, record: Record) -> Recording | IEEGRecording:
        """The recording.

        Raises
        ------
        BadInput
            With the code that says why it cannot be used.
        """
        ...

    def sha256(self, record: Record) -> str:
        """SHA-256 of the bytes that decide the row; empty if nothing can be opened.

        That of the `Recording` where one can be read. Of intracranial EEG the whole file
        and all that lies beside it and is read with it.
        """
        ...


@dataclass(frozen=True, slots=True)
class ECGFiles:
    """ECGs in files below a folder.

    Attributes
    ----------
    root
        The folder, absolute; no record, and no file that one refers to, is read outside.
    is_listed
        Whether the locations come from a table, which may say anything.
    """

    root: str
    is_listed: bool = False

    def read(self, record: Record) -> Recording:
        """See `Reader`."""
        root = Path(self.root)
        recording = read_ecg(_path_of(record, root, self.is_listed), root=root)
        if record.patient_id is None:
            return recording
        return replace(recording, patient_id=record.patient_id)

    def sha256(self, record: Record) -> str:
        """See `Reader`."""
        root = Path(self.root)
        try:
            return hash_ecg(_path_of(record, root, self.is_listed), root=root)
        except BadInput:
            return ""


@dataclass(frozen=True, slots=True)
class IEEGFiles:
    """Intracranial EEGs in files, and in folders of MEF3 and SWEC, below a folder.

    Attributes
    ----------
    root, is_listed
        As of `ECGFiles`.
    """

    root: str
    is_listed: bool = False

    def read(self, record: Record) -> IEEGRecording:
        """See `Reader`."""
        root = Path(self.root)
        path = _path_of(record, root, self.is_listed)
        _refuse_links(path, root)
        return read_ieeg(path, root=root)

    def sha256(self, record: Record) -> str:
        """See `Reader`."""
        root = Path(self.root)
        try:
            path = _path_of(record, root, self.is_listed)
            _refuse_links(path, root)
            return hash_ieeg(path, root=root)
        except BadInput:
            return ""


def ending_of(name: str) -> str:
    """The ending of a file's name with its dot, by the rule of `pathlib.Path.suffix`.

    Examples
    --------
    >>> ending_of("b/a.1.hea"), ending_of("b.c/a"), ending_of(".hea")
    ('.hea', '', '')
    """
    file = name.rpartition("/")[2]
    dot = file.rfind(".")
    return file[dot:] if 0 < dot < len(file) - 1 else ""


def local_path(text: str) -> str | None:
    """A path of a table as it stands below the folder; ``None`` if it may lead elsewhere.

    Examples
    --------
    >>> local_path("./b//a.hea"), local_path("../a.hea"), local_path("s3://b/a.hea")
    ('b/a.hea', None, None)
    """
    parts = [part for part in text.split("/") if part not in ("", ".")]
    if not parts or ".." in parts or _NOT_LOCAL.match(text):
        return None
    return "/".join(parts)


def _path_of(record: Record, root: Path, is_listed: bool) -> Path:
    if is_listed and local_path(record.location) is None:
        raise BadInput(
            "E_PATH",
            "The path in the list is not that of a file below the folder: it is absolute, "
            "a URL, leads out of the folder, or holds a backslash.",
        )
    return root / record.location


def _refuse_links(path: Path, root: Path) -> None:
    """No folder between a recording and the root may be a link."""
    for folder in path.relative_to(root).parents:
        if (root / folder).is_symlink() and folder.parts:
            raise BadInput("E_PATH", "The recording lies behind a link.")
