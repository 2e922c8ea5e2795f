"""How the records of a source are read: files below a folder, or rows of an archive.

A reader goes to the worker processes, so that it is small; it opens nothing until it is
asked, and then through the strict readers alone.
"""

import hashlib
import json
import re
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from phenokit.errors import BadInput
from phenokit.readers.ecg import hash_ecg, read_ecg
from phenokit.readers.files import open_checked, read_bytes
from phenokit.readers.ieeg import hash_ieeg, read_ieeg
from phenokit.readers.ieeg_recording import IEEGRecording
from phenokit.recording import Recording

_NOT_LOCAL = re.compile(r"[/~]|[A-Za-z][A-Za-z0-9+.-]*:|.*[\\\0]", re.DOTALL)
"""Absolute, of a home folder, a drive or a URL, or with a character that no list needs."""

_MAX_NAME_BYTES = 255


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


@dataclass(frozen=True, slots=True)
class PackedECGs:
    """ECGs in millivolts in a packed archive; the location of a record is its row.

    Attributes
    ----------
    folder
        The archive, absolute.
    shape
        Recordings, leads, samples.
    scale
        Millivolts a step.
    sampling_rate, leads
        See `PackedArchive`.
    table_sha256
        Of the archive's table, which holds ages and sexes.
    """

    folder: str
    shape: tuple[int, int, int]
    scale: float
    sampling_rate: float
    leads: tuple[str, ...]
    table_sha256: str

    def read(self, record: Record) -> Recording:
        """See `Reader`."""
        data, facts = self._row(record)
        steps = np.frombuffer(data, "<i2").reshape(self.shape[1:])
        return Recording(
            # divided by 1000, not times 0.001: the same bits as by the gain of a file
            signal=steps / (1 / self.scale),
            channels=self.leads,
            sampling_rate=self.sampling_rate,
            record_id=record.record_id,
            resolution=np.full(len(self.leads), self.scale),
            patient_id=record.patient_id,
            age=facts["age"],
            sex=facts["sex"],
            source_format="packed archive",
            sha256=_sha256_of(data, facts),
        )

    def sha256(self, record: Record) -> str:
        """See `Reader`."""
        try:
            return _sha256_of(*self._row(record))
        except BadInput:
            return ""

    def _row(self, record: Record) -> tuple[bytes, dict[str, Any]]:
        """Bytes of the samples, and all else that makes a recording of them."""
        row, (n, n_leads, n_samples) = int(record.location), self.shape
        ages, sexes = people_of(self.folder, self.table_sha256)
        what = "signal file of the archive"
        path = Path(self.folder, "signal.int16")
        size = 2 * n_leads * n_samples
        with open_checked(path, max_bytes=None, what=what) as file:
            if file.size != n * size:
                raise BadInput(
                    "E_SIZE_MISMATCH", f"The {what} has changed since it was opened."
                )
            data = file.read(size, start=row * size)
        facts = {
            "scale": self.scale,
            "sampling_rate": self.sampling_rate,
            "leads": list(self.leads),
            "age": ages[row].as_py(),
            "sex": sexes[row].as_py(),
        }
        return data, facts


@lru_cache(maxsize=1)
def people_of(folder: str, sha256: str) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
    """Age and sex of each row of an archive, if its table is still the one of the list."""
    data = read_bytes(Path(folder, "table.parquet"), what="table of the archive")
    if hashlib.sha256(data).hexdigest() != sha256:
        raise BadInput(
            "E_CHECKSUM",
            "The table of the archive is not the one that was packed; pack it again.",
        )
    try:
        table = pq.read_table(pa.BufferReader(data), columns=["age", "sex"])
        return table["age"].cast(pa.float64()), table["sex"].cast(pa.string())
    except pa.ArrowException:
        raise BadInput("E_RANGE", "An age of the archive is no number.") from None


def _sha256_of(data: bytes, facts: dict[str, Any]) -> str:
    return hashlib.sha256(data + json.dumps(facts, sort_keys=True).encode()).hexdigest()


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
    if max(len(part.encode()) for part in parts) > _MAX_NAME_BYTES:
        return None
    return "/".join(parts)


def _path_of(record: Record, root: Path, is_listed: bool) -> Path:
    if is_listed and local_path(record.location) is None:
        raise BadInput(
            "E_PATH",
            "The path in the list is not that of a file below the folder: it is absolute, "
            "a URL, leads out of the folder, holds a backslash, or is too long.",
        )
    return root / record.location


def _refuse_links(path: Path, root: Path) -> None:
    """No folder between a recording and the root may be a link."""
    for folder in path.relative_to(root).parents:
        if (root / folder).is_symlink() and folder.parts:
            raise BadInput("E_PATH", "The recording lies behind a link.")
