"""What a run reads: a file, a folder, a pattern, a list, an archive, a data set.

What the path is decides; where it could be two things it is refused, with the remedy. Each
recording of a source is one `Record`, and is read by the source's `Reader`, which knows no
more than the folder. The paths are kept as one block of bytes: 800,000 of them are some
tens of megabytes.
"""

import hashlib
import os
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import pyarrow as pa

from phenokit.batch.source_folders import Kind, find_files
from phenokit.batch.source_readers import ECGFiles, IEEGFiles, Reader, Record
from phenokit.errors import BadInput
from phenokit.readers.ieeg import is_ieeg_file

__all__ = ["Reader", "Record", "RecordSource", "find_records"]

_AT_ONCE = 1 << 16
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
    source: str | Path, *, kind: Kind, scratch: Path
) -> Iterator[RecordSource]:
    """List the records of a source; no signal is read.

    Parameters
    ----------
    source
        A path, or a pattern such as ``records/**/*.hea``.
    kind
        What the model reads.
    scratch
        A folder for what has to be unpacked, made if need be; it holds nothing in the end.

    Yields
    ------
    RecordSource
        A bad recording is a record whose `Reader.read` raises.

    Raises
    ------
    BadInput
        ``E_MISSING`` if there is nothing at `source`.
    """
    path = Path(source)
    if not _exists(path):
        raise BadInput("E_MISSING", f"there is no file or folder {path.name}")
    if path.is_dir() and not (kind == "ieeg" and is_ieeg_file(path)):
        yield _folder(path, kind)
    else:
        yield _single(path, kind)


def _single(path: Path, kind: Kind) -> "_Listed":
    return _Listed("file", _reader(path.parent, kind), _names([os.fsencode(path.name)]))


def _folder(path: Path, kind: Kind) -> "_Listed":
    others: list[str] = []

    def recordings() -> Iterator[bytes]:
        for found in find_files(path, kind):
            if found.is_recording:
                yield os.fsencode(found.location)
            else:
                others.append(_as_text(os.fsencode(found.location)))

    names = _names(recordings())
    return _Listed("folder", _reader(path, kind), names, others=tuple(others))


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
    facts
        What else decides the result, as JSON values.
    """

    kind: str
    reader: Reader
    names: pa.ChunkedArray
    patients: pa.ChunkedArray | None = None
    others: tuple[str, ...] = ()
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
        return [
            Record(_as_text(name), os.fsdecode(name), patient)
            for name, patient in zip(names, patients, strict=True)
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
