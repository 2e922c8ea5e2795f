"""What a run reads: a file, a folder, a pattern, a list, an archive, a data set.

What the path is decides; where it could be two things it is refused, with the remedy. Each
recording of a source is one `Record`, and is read by the source's `Reader`, which knows no
more than the folder. The paths are kept as one block of bytes: 800,000 of them are some
tens of megabytes.
"""

import hashlib
import json
import os
import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol, runtime_checkable

import pandas as pd
import pyarrow as pa

from phenokit.batch.source_folders import ALL_BELOW, WILD, Kind, find_files
from phenokit.batch.source_readers import ECGFiles, IEEGFiles, PackedECGs, Reader, Record
from phenokit.batch.source_tables import (
    MIMIC_TABLE,
    PTBXL_TABLE,
    Listing,
    column_names,
    read_manifest,
    read_mimic_list,
    read_ptbxl_list,
)
from phenokit.errors import BadInput
from phenokit.readers.archives import ZipLimits, unpack_zip
from phenokit.readers.files import read_bytes, read_start
from phenokit.readers.ieeg import is_ieeg_file
from phenokit.readers.packed import open_archive
from phenokit.recording import LEADS, standard_lead

__all__ = ["Reader", "Record", "RecordSource", "find_records"]

ZIP_LIMITS = ZipLimits(archive=16 << 30, member=8 << 30, total=64 << 30, n_members=200_000)
"""Of a zip that is unpacked on the disk: hours of iEEG, or 100,000 WFDB records."""

_AT_ONCE = 1 << 13
"""Records that are Python objects at a time while a source is listed."""


@runtime_checkable
class RecordSource(Protocol):
    """The records of a source, in their order.

    Attributes
    ----------
    kind
        In words: ``"folder"``.
    reader
        Reads its records.
    others
        Files that hold no recording, as path text.
    """

    @property
    def kind(self) -> str: ...  # noqa: D102
    @property
    def reader(self) -> Reader: ...  # noqa: D102
    @property
    def others(self) -> tuple[str, ...]: ...  # noqa: D102
    def __len__(self) -> int: ...
    def records(self, first: int, stop: int) -> list[Record]:
        """Records `first` to before `stop`."""
        ...

    def plan(self) -> dict[str, Any]:
        """What decides the result, as JSON values, but for the content of the files."""
        ...


@contextmanager
def find_records(
    source: str | Path,
    *,
    kind: Kind,
    scratch: Path,
    leave_out: Path | None = None,
) -> Iterator[RecordSource]:
    """List the records of a source; no signal is read.

    Parameters
    ----------
    source
        A file, a folder, or a pattern such as ``records/**/*.hea``; the file may be a
        manifest or a zip, the folder a packed archive, PTB-XL or MIMIC-IV-ECG.
    kind
        What the model reads.
    scratch
        A folder for what has to be unpacked, made if need be. What was unpacked is
        removed in the end.
    leave_out
        A folder that is not looked into, should it lie in `source`: that of the output,
        so that a second run finds what the first one found. It need not be there.

    Yields
    ------
    RecordSource
        A bad recording is a record whose `Reader.read` raises.

    Raises
    ------
    BadInput
        ``E_MISSING`` if there is nothing at `source`, or nothing that a pattern matches;
        ``E_FORMAT`` if it could be two things; the codes of a table, an archive or a zip
        that is refused whole.
    """
    with ExitStack() as stack:
        asked = _Asked(kind, scratch, leave_out, stack)
        found = _find(Path(source), asked)
        yield found


@dataclass(frozen=True)
class _Asked:
    """The arguments of `find_records`; what is unpacked goes when `stack` is closed."""

    kind: Kind
    scratch: Path
    leave_out: Path | None
    stack: ExitStack


def _find(path: Path, asked: _Asked) -> "_Listed":
    """What the path is decides."""
    if ":/" in os.fspath(path) and not _exists(path):
        raise BadInput("E_PATH", "The source is a URL; only local files are read.")
    if WILD.search(os.fspath(path)) and _is_pattern(path, asked):
        return _pattern(path, asked)
    if not _exists(path):
        raise BadInput("E_MISSING", "There is no such file or folder; look at its path.")
    if path.is_dir():
        if asked.kind == "ieeg":
            is_one = is_ieeg_file(path)
            return _single(path, asked) if is_one else _below(path, asked, "folder")
        layout = _layout(path)
        return _LAYOUTS[layout](path) if layout else _below(path, asked, "folder")
    return _file(path, asked)


def _file(path: Path, asked: _Asked) -> "_Listed":
    """A zip, a manifest, or one recording, as the first bytes say."""
    try:
        start = read_start(path, 4)
    except BadInput:
        return _single(path, asked)  # its row says why
    if start in _ZIP and not (asked.kind == "ieeg" and is_ieeg_file(path)):
        return _zip(path, asked)
    is_packed = start.startswith(b"\x1f\x8b") and path.name.lower().endswith(".csv.gz")
    if start == b"PAR1" or is_packed:
        return _manifest(path, asked)
    if "path" not in (names := column_names(path)):
        return _single(path, asked)
    if any(standard_lead(name) for name in names):
        raise BadInput(
            "E_FORMAT",
            "The table could be a manifest (it has a column path) or an ECG (it has one "
            "named as a lead); rename the one that is not meant.",
        )
    return _manifest(path, asked)


_ZIP = (b"PK\3\4", b"PK\5\6")


# --- files that are there -----------------------------------------------------------------


def _single(path: Path, asked: _Asked) -> "_Listed":
    name = os.fsencode(path.name)
    return _Listed("file", _reader(path.parent, asked.kind), _names([name]))


def _zip(path: Path, asked: _Asked) -> "_Listed":
    folder = asked.stack.enter_context(_private(asked.scratch))
    unpack_zip(path, folder, limits=ZIP_LIMITS)
    return _below(folder, asked, "zip")


def _pattern(path: Path, asked: _Asked) -> "_Listed":
    root, pattern = _split(path)
    if root.is_dir():
        found = _below(root, asked, "pattern", pattern)
        if len(found) or found.others:
            return found
    raise BadInput("E_MISSING", "No file matches the pattern.")


def _is_pattern(path: Path, asked: _Asked) -> bool:
    """Whether it is a pattern: there may be a file of that very name."""
    if not _exists(path):
        return True
    root, pattern = _split(path)
    matches = find_files(root, asked.kind, pattern, leave_out=asked.leave_out)
    if any(root / match.location != path for match in matches):
        raise BadInput(
            "E_FORMAT",
            "There is a file or folder of this name, and as a pattern the name matches "
            "others; if that one is meant, write [[] for [, [*] for * and [?] for ?.",
        )
    return False


def _split(path: Path) -> tuple[Path, tuple[str, ...]]:
    """The folder that a pattern cannot leave, and the parts of the pattern."""
    first = next(k for k, part in enumerate(path.parts) if WILD.search(part))
    root, pattern = Path(*path.parts[:first]), path.parts[first:]
    if ".." in pattern:
        raise BadInput("E_PATH", "A pattern may not lead upwards again (..).")
    return root, pattern


def _below(
    root: Path, asked: _Asked, source: str, pattern: tuple[str, ...] = ALL_BELOW
) -> "_Listed":
    others: list[str] = []

    def recordings() -> Iterator[bytes]:
        for found in find_files(root, asked.kind, pattern, leave_out=asked.leave_out):
            if found.is_recording:
                yield os.fsencode(found.location)
            else:
                others.append(_as_text(os.fsencode(found.location)))

    names = _names(recordings())
    return _Listed(source, _reader(root, asked.kind), names, others=tuple(others))


@contextmanager
def _private(scratch: Path) -> Iterator[Path]:
    """A new folder of mode 0700, removed in the end; and `scratch`, if it was made."""
    is_new = not scratch.exists()
    scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        with TemporaryDirectory(prefix="unpacked-", dir=scratch) as folder:
            yield Path(folder)
    finally:
        if is_new:
            with suppress(OSError):  # somebody else uses it by now
                scratch.rmdir()


# --- what a table or an archive lists -----------------------------------------------------


def _manifest(path: Path, asked: _Asked) -> "_Listed":
    return _listed("manifest", read_manifest(path), path.parent, asked.kind)


def _ptbxl(folder: Path) -> "_Listed":
    return _listed("PTB-XL", read_ptbxl_list(folder), folder)


def _mimic(folder: Path) -> "_Listed":
    return _listed("MIMIC-IV-ECG", read_mimic_list(folder), folder)


def _listed(source: str, listing: Listing, root: Path, kind: Kind = "ecg") -> "_Listed":
    return _Listed(
        source,
        _reader(root, kind, is_listed=True),
        _names(path.encode() for path in listing.paths),
        None if listing.patients is None else _patients(listing.patients),
        facts=listing.facts,
    )


def _packed(folder: Path) -> "_Listed":
    """The rows of a packed archive, which has to hold raw tracings."""
    archive = open_archive(folder)
    if archive.contract_id != "raw" or archive.unit != "mV":
        raise BadInput(
            "E_VERSION",
            f"The archive was prepared for a network ({archive.contract_id}): filtered or "
            "scaled, it cannot be judged and scored. Score the files, or pack them raw.",
        )
    if set(archive.leads) != set(LEADS):
        raise BadInput("E_LEADS", "The archive does not hold the twelve leads.")
    header = read_bytes(folder / "archive.json", what="archive.json of the archive")
    ids = [str(one) for one in archive.table["record_id"]]
    if len(set(ids)) < len(ids):  # of several data sets
        ids = [f"{d}/{one}" for d, one in zip(archive.table["dataset"], ids, strict=True)]
    people = archive.table["patient_id"]
    reader = PackedECGs(
        os.fspath(folder.absolute()),
        archive.signal.shape,
        archive.scale,
        archive.sampling_rate,
        archive.leads,
        json.loads(header)["sha256"]["table.parquet"],
    )
    return _Listed(
        "packed archive",
        reader,
        _names(f"{one}.int16".encode() for one in ids),
        _patients("" if pd.isna(one) else str(one) for one in people),
        is_numbered=True,
        facts={"archive_sha256": hashlib.sha256(header).hexdigest()},
    )


_LAYOUTS: dict[str, Callable[[Path], "_Listed"]] = {
    "signal.int16": _packed,
    PTBXL_TABLE: _ptbxl,
    MIMIC_TABLE: _mimic,
}
"""How a folder of ECGs is read, by the file that tells what it is."""


def _layout(folder: Path) -> str:
    """The file that tells what a folder of ECGs is; empty if there is none."""
    found = [name for name in _LAYOUTS if os.path.lexists(folder / name)]
    if len(found) > 1:
        raise BadInput(
            "E_FORMAT",
            f"The folder holds {' and '.join(found)}, so that it could be read in "
            f"{len(found)} ways. Give one of its folders or a pattern such as "
            "FOLDER/**/*.hea, which reads the files as they are.",
        )
    return found[0] if found else ""


def _reader(root: Path, kind: Kind, *, is_listed: bool = False) -> Reader:
    reader = ECGFiles if kind == "ecg" else IEEGFiles
    return reader(os.fspath(root.absolute()), is_listed)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name that is too long, or a folder that may not be searched
        return False


# --- the list of records ------------------------------------------------------------------


@dataclass(frozen=True)
class _Listed:
    """Records as blocks of bytes.

    Attributes
    ----------
    names
        Paths as the file system has them.
    patients
        Null where unknown; ``None`` if nobody is named.
    is_numbered
        Whether the reader finds a record by its number, not by its name.
    facts
        What else decides the result, as JSON values.
    """

    kind: str
    reader: Reader
    names: pa.ChunkedArray
    patients: pa.ChunkedArray | None = None
    others: tuple[str, ...] = ()
    is_numbered: bool = False
    facts: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.names)

    def records(self, first: int, stop: int) -> list[Record]:
        """See `RecordSource`."""
        names = self.names.slice(first, stop - first).to_pylist()
        patients = (
            [None] * len(names)
            if self.patients is None
            else self.patients.slice(first, stop - first).to_pylist()
        )
        locations = (
            map(str, range(first, first + len(names)))
            if self.is_numbered
            else map(os.fsdecode, names)
        )
        return [
            Record(_as_text(name), location, patient)
            for name, location, patient in zip(names, locations, patients, strict=True)
        ]

    def plan(self) -> dict[str, Any]:
        """See `RecordSource`."""
        digest = hashlib.sha256()
        for first in range(0, len(self), _AT_ONCE):
            for record in self.records(first, first + _AT_ONCE):
                for text in (record.path, record.patient_id):
                    data = b"" if text is None else text.encode("utf-8", "surrogatepass")
                    digest.update(struct.pack("<?q", text is None, len(data)) + data)
        return {
            "source": self.kind,
            "n_records": len(self),
            "records_sha256": digest.hexdigest(),
            **self.facts,
        }


def _names(names: Iterable[bytes]) -> pa.ChunkedArray:
    return _blocks(names, pa.large_binary())


def _patients(patients: Iterable[str]) -> pa.ChunkedArray:
    """Ids, and null for an empty one."""
    return _blocks((patient or None for patient in patients), pa.large_string())


def _blocks(values: Iterable[Any], kind: pa.DataType) -> pa.ChunkedArray:
    """An Arrow array, made without all values being Python objects at one time."""
    values = iter(values)
    chunks = []
    while block := list(islice(values, _AT_ONCE)):
        chunks.append(pa.array(block, type=kind))
    return pa.chunked_array(chunks, type=kind)


def _as_text(name: bytes) -> str:
    r"""A path as text: a byte that is not UTF-8 becomes ``\xff``, and no two are one.

    Examples
    --------
    >>> print(_as_text(b"h\xff.hea"), _as_text(rb"h\xff.hea"), _as_text(rb"a\b.hea"))
    h\xff.hea h\\xff.hea a\b.hea
    """
    text = name.decode("utf-8", "backslashreplace")
    if r"\x" in text:
        return name.replace(b"\\", rb"\\").decode("utf-8", "backslashreplace")
    return text
