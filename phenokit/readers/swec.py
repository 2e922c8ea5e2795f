"""Read the SWEC iEEG data set: recordings of days in HDF5 parts, and who is who in it.

A folder ``ID20`` holds ``ID20_part_1.h5`` ... and ``ID20_total.h5``. Signals are read
from the parts alone: the total file joins them by links, which in the public copy lead to
another patient. Of the total file only the seizures and the order of the parts are used.

ID01 to ID18 are copies of other patients of the set (`ALIASES`): 68 folders, 50 patients.
Whoever splits the set into training and test data calls `check_split` first.

HDF5 packed by lz4 needs the packages h5py and hdf5plugin: the extra ``phenokit[swec]``.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32

from phenokit.errors import BadInput
from phenokit.readers.files import open_checked, stamp_of
from phenokit.readers.ieeg_channels import fingerprint, one_rate
from phenokit.readers.ieeg_recording import IEEGRecording, Piece
from phenokit.recording import Event

if TYPE_CHECKING:
    import h5py

ALIASES: dict[str, str] = {
    f"ID{copy:02d}": f"ID{original}"
    for copy, original in enumerate(
        (20, 21, 22, 24, 25, 27, 28, 29, 30, 31, 32, 34, 35, 36, 37, 38, 39, 40), start=1
    )
}
"""Folder of a copy, and of the patient whose recording it is."""

_FOLDER = re.compile(r"ID\d\d", re.ASCII)
_PART = re.compile(r"ID\d\d_part_([1-9]\d{0,3})\.h5", re.ASCII)
_LISTED_PART = re.compile(r".*_part_([1-9]\d{0,3})\.h5", re.ASCII)
_MAX_CHANNELS = 1024
_PARTS_OPEN = 4
_CACHE = 1 << 27
"""Bytes; two blocks of three minutes, in which the signals are packed, fit into it."""


def resolve_alias(patient_id: str) -> str:
    """The patient whose recording a folder holds.

    Examples
    --------
    >>> resolve_alias("ID01"), resolve_alias("ID20")
    ('ID20', 'ID20')
    """
    return ALIASES.get(patient_id, patient_id)


def unique_patients(patient_ids: Iterable[str]) -> tuple[str, ...]:
    """The folders without those that repeat a patient; originals are kept before copies.

    Examples
    --------
    >>> unique_patients(["ID01", "ID19", "ID20", "ID02"])
    ('ID19', 'ID20', 'ID02')
    """
    ids = list(dict.fromkeys(patient_ids))
    return tuple(one for one in ids if resolve_alias(one) == one or ALIASES[one] not in ids)


def check_split(patients_by_fold: Mapping[str, Collection[str]]) -> None:
    """Refuse a split that has a patient in two folds, under one name or two.

    Parameters
    ----------
    patients_by_fold
        Folders of each fold: ``{"train": ["ID20"], "test": ["ID41"]}``.

    Raises
    ------
    BadInput
        ``E_DUP_ID``; the message names the pair.

    Examples
    --------
    >>> check_split({"train": ["ID01"], "test": ["ID20"]})
    Traceback (most recent call last):
        ...
    phenokit.errors.BadInput: ID01 (train) and ID20 (test) are one patient; keep both in ...
    """
    for (fold, members), (other, others) in combinations(patients_by_fold.items(), 2):
        for one in members:
            twin = next((t for t in others if resolve_alias(t) == resolve_alias(one)), None)
            if twin is not None:
                raise BadInput(
                    "E_DUP_ID",
                    f"{one} ({fold}) and {twin} ({other}) are one patient; keep both in "
                    "one fold, or leave the copy out.",
                    where=f"{one}, {twin}",
                )


def is_swec_folder(path: Path) -> bool:
    """Whether a folder is that of a patient of the data set.

    Examples
    --------
    >>> is_swec_folder(Path("ID99"))
    False
    """
    is_named = _FOLDER.fullmatch(path.name) is not None
    return is_named and (path / f"{path.name}_total.h5").is_file()


def read_swec(folder: Path, *, root: Path | None = None) -> IEEGRecording:
    """Open the recording of one patient; samples are read when they are asked for.

    Parameters
    ----------
    folder
        ``IDxx`` with its parts and its total file.
    root
        Folder that the files have to lie in.

    Returns
    -------
    IEEGRecording
        In microvolts; contacts have no names in this data set, so channels are numbered.
        Annotations are the seizures.

    Raises
    ------
    BadInput
        ``E_FORMAT`` if the folder is none of the data set, or h5py is not installed;
        ``E_MISSING`` if a part is; ``E_PATH`` for a part whose signal lies in another
        file; ``E_ARRAY``, ``E_FS``, ``E_RANGE`` or ``E_HEADER`` for what it holds.
    """
    if _FOLDER.fullmatch(folder.name) is None or not folder.is_dir():
        raise BadInput("E_FORMAT", "The folder is not one of a SWEC patient, as ID20.")
    h5py = _h5py()
    found = {
        int(match[1]): path
        for path in folder.iterdir()
        if path.name.startswith(folder.name) and (match := _PART.fullmatch(path.name))
    }
    if not found:
        raise BadInput("E_MISSING", "The folder holds no part of a recording.")
    total = folder / f"{folder.name}_total.h5"
    seizures, listed = _read_total(h5py, total, root)
    numbers = listed or list(range(1, max(found) + 1))
    absent = [number for number in numbers if number not in found]
    if absent or len(numbers) != len(found):
        raise BadInput(
            "E_MISSING",
            f"The parts in the folder are not those of the recording ({len(numbers)}).",
            where=", ".join(f"part {number}" for number in absent),
        )
    parts, stamp = [], ()
    for number in numbers:
        parts.append(_read_part(h5py, found[number], root))
        stamp += parts[-1].stamp
    if len({part.n_channels for part in parts}) > 1:
        raise BadInput("E_ARRAY", "The parts differ in their number of channels.")
    rate = one_rate([part.sampling_rate for part in parts])
    n = sum(part.n_samples for part in parts)
    late = [k for k, (_, offset) in enumerate(seizures, 1) if offset > n / rate + 1]
    if late:
        raise BadInput(
            "E_RANGE", "A seizure ends after the recording.", where=f"seizure {late[0]}"
        )
    return IEEGRecording(
        record_id=folder.name,
        channels=tuple(str(k + 1) for k in range(parts[0].n_channels)),
        sampling_rate=rate,
        unit="uV",
        pieces=(Piece(0, 0, n),),
        source_format="SWEC HDF5",
        reference="median of all channels",
        filters="HP:0.5 LP:120",
        annotations=tuple(
            Event("sz", onset, min(offset, n / rate)) for onset, offset in seizures
        ),
        mains_frequency=50.0,
        fingerprint=fingerprint(stamp, b""),
        stored=_Parts(tuple(parts)),
    )


@dataclass(frozen=True)
class _Part:
    """One file of a recording."""

    path: Path
    stamp: tuple[int, ...]
    n_channels: int
    n_samples: int
    sampling_rate: float


@dataclass(frozen=True)
class _Parts:
    """The parts of a recording, one after another."""

    parts: tuple[_Part, ...]

    def samples(self, first: int, stop: int) -> Float32[np.ndarray, "channel sample"]:
        signal = np.empty((self.parts[0].n_channels, stop - first), dtype=np.float32)
        start = 0
        for part in self.parts:
            begin, end = max(first, start), min(stop, start + part.n_samples)
            if begin < end:
                try:
                    values = _signal_of(part.path, part.stamp)[
                        :, begin - start : end - start
                    ]
                except (OSError, KeyError, RuntimeError):
                    raise BadInput(
                        "E_MISSING", "A part of the recording cannot be read any more."
                    ) from None
                signal[:, begin - first : end - first] = values
            start += part.n_samples
        return signal


def _h5py() -> Any:  # noqa: ANN401 - a module that may not be there
    """The package h5py, with the codec that the data set needs."""
    try:
        import h5py
        import hdf5plugin  # noqa: F401 - importing it registers lz4
    except ImportError:
        raise BadInput(
            "E_FORMAT",
            "SWEC files are read with the packages h5py and hdf5plugin: install "
            "phenokit[swec].",
        ) from None
    return h5py


@lru_cache(maxsize=_PARTS_OPEN)
def _signal_of(path: Path, stamp: tuple[int, ...]) -> "h5py.Dataset":
    """The signal of a part, which stays open; refused if it is no longer the same file."""
    with open_checked(path, max_bytes=None, what="part") as file:
        if stamp_of(file) != stamp:
            raise BadInput("E_SIZE_MISMATCH", "The part has changed since it was opened.")
    return _h5py().File(path, "r", rdcc_nbytes=_CACHE)["data/ieeg"]


def _read_part(h5py: Any, path: Path, root: Path | None) -> _Part:  # noqa: ANN401
    with open_checked(path, root=root, max_bytes=None, what="part") as file:
        stamp = stamp_of(file)
    with _open(h5py, path) as file:
        signal = _dataset(h5py, file, "data/ieeg")
        if signal is None or signal.ndim != 2 or signal.dtype.kind != "f":
            raise BadInput("E_ARRAY", "The part holds no signal (channel, sample).")
        n_channels, n_samples = (int(size) for size in signal.shape)
        rate = file.attrs.get("sampling_rate", signal.attrs.get("sampling_rate", np.nan))
        rate = float(np.asarray(rate, dtype=np.float64).ravel()[0])
        if not 1 <= n_channels <= _MAX_CHANNELS or n_samples < 1:
            raise BadInput("E_ARRAY", "The part holds no signal.")
    if not np.isfinite(rate):
        raise BadInput("E_FS", "The part does not state its sampling rate.")
    return _Part(path, stamp, n_channels, n_samples, rate)


def _read_total(
    h5py: Any,  # noqa: ANN401 - a module that may not be there
    path: Path,
    root: Path | None,
) -> tuple[list[tuple[float, float]], list[int]]:
    """Seizures, and numbers of the parts in order; empty where the file lists none."""
    with open_checked(path, root=root, max_bytes=None, what="total file"):
        pass
    with _open(h5py, path) as file:
        seizures = _dataset(h5py, file, "data/seizures")
        if seizures is None or not {"onsets", "offsets"} <= set(seizures.dtype.names or ()):
            raise BadInput("E_ARRAY", "The total file holds no table of seizures.")
        table = seizures[...].ravel()
        listed = _dataset(h5py, file, "info/files")
        names = [] if listed is None else listed[...].ravel().tolist()
    times = np.stack([table["onsets"], table["offsets"]], axis=1).astype(np.float64)
    if (
        not np.isfinite(times).all()
        or (times < 0).any()
        or (times[:, 1] < times[:, 0]).any()
    ):
        raise BadInput("E_RANGE", "A seizure has no possible onset and offset.")
    texts = [
        n.decode("utf-8", "replace") if isinstance(n, bytes) else str(n) for n in names
    ]
    matches = [_LISTED_PART.fullmatch(text) for text in texts]
    if None in matches:
        raise BadInput("E_ARRAY", "The total file lists something that is no part.")
    numbers = [int(match[1]) for match in matches if match]
    if len(set(numbers)) < len(numbers):
        raise BadInput("E_DUP_NAME", "The total file lists a part twice.")
    return sorted((float(a), float(b)) for a, b in times), numbers


def _open(h5py: Any, path: Path) -> Any:  # noqa: ANN401 - a module that may not be there
    try:
        return h5py.File(path, "r")
    except OSError:
        raise BadInput("E_HEADER", "A file of the recording is no HDF5 file.") from None


def _dataset(h5py: Any, file: Any, name: str) -> Any:  # noqa: ANN401 - of h5py
    """A data set whose bytes lie in this file; ``None`` if there is none of the name.

    HDF5 follows links to other files, and data sets kept in them, without a word.
    """
    group = file
    for part in name.split("/"):
        link = group.get(part, getlink=True) if isinstance(group, h5py.Group) else None
        if link is None:
            return None
        if not isinstance(link, h5py.HardLink):
            raise BadInput("E_PATH", "A file of the recording refers to another one.")
        group = group[part]
    if not isinstance(group, h5py.Dataset):
        return None
    if group.is_virtual or group.external:
        raise BadInput("E_PATH", "A file of the recording refers to another one.")
    return group
