"""Read a 12-lead ECG of any known format; the first bytes decide the format."""

from pathlib import Path

from phenokit.errors import BadInput
from phenokit.readers.files import read_start
from phenokit.readers.wfdb import read_wfdb
from phenokit.recording import Recording

ECG_SUFFIXES = (".hea", ".xml", ".dcm", ".scp", ".ecg", ".edf", ".csv")


def read_ecg(path: Path, *, root: Path | None = None) -> Recording:
    """Read one 12-lead ECG."""
    if path.suffix == ".dat":
        path = path.with_suffix(".hea")
    if path.suffix == ".hea":
        return read_wfdb(path, root=root)
    raise BadInput("E_FORMAT", "The format of the file is not known.")


def is_ecg_file(path: Path) -> bool:
    """Whether the first bytes of a file are those of an ECG."""
    return path.suffix == ".hea" and bool(read_start(path, 1))
