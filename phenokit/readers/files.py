"""The one strict way to open an input file.

A file is opened once, without following links and without waiting, its descriptor is
checked (a regular file, not too large), and the bytes are read from that descriptor:
there is no gap between the check and the read. With a `root`, every folder on the way
from the root to the file is opened without following links as well.

No message holds a file name: a name may be that of a patient, and the row that carries
the message says which file is meant.
"""

import errno
import os
import re
import stat
from pathlib import Path

from phenokit.errors import BadInput

MAX_BYTES = 1 << 30
"""Largest input file that is read at once, in bytes (1 GiB)."""

_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
_UNSAFE_NAME = re.compile(
    r"""[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069/\\:*?"<>|]"""
)
_DEVICE_NAME = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?")
_NOT_A_FILE = {
    errno.ELOOP: "is a link",
    errno.ENOTDIR: "leads through a link or something that is no folder",
    errno.ENXIO: "is not a regular file",
    errno.ENODEV: "is not a regular file",
    errno.ENAMETOOLONG: "has a name that is too long",
    errno.EILSEQ: "has a name that cannot be used",
}
_UNREADABLE = {
    errno.ENOENT: "is missing",
    errno.EACCES: "may not be read; check its permissions",
    errno.EPERM: "may not be read; check its permissions",
    errno.EIO: "cannot be read from the disk",
    errno.ESTALE: "cannot be read from the disk",
}

TOO_MANY_OPEN = frozenset({errno.EMFILE, errno.ENFILE})
"""Errors of the machine, whatever file was to be opened."""


class OpenFile:
    """A regular file that is open, for use in a ``with`` block.

    Attributes
    ----------
    descriptor, size
        The descriptor, and the size in bytes when it was opened.
    """

    __slots__ = ("descriptor", "size")

    def __init__(self, descriptor: int, size: int) -> None:
        self.descriptor = descriptor
        self.size = size

    def __enter__(self) -> "OpenFile":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.descriptor)

    def read(self, length: int | None = None, *, start: int = 0) -> bytes:
        """Read `length` bytes from `start`, or all that were there when it was opened.

        Raises
        ------
        BadInput
            ``E_SIZE_MISMATCH`` if the file was cut meanwhile, ``E_MISSING`` if the disk
            fails.
        """
        there = max(self.size - start, 0)
        wanted = there if length is None else min(length, there)
        try:
            data = os.pread(self.descriptor, wanted, start)
            if len(data) < wanted:  # one read gives at most 2 GiB, less on a network disk
                parts, filled = [data], len(data)
                while filled < wanted and (
                    more := os.pread(self.descriptor, wanted - filled, start + filled)
                ):
                    parts.append(more)
                    filled += len(more)
                data = b"".join(parts)
        except OSError as error:
            raise _refusal(error, "file") from None
        if len(data) != wanted:
            raise BadInput(
                "E_SIZE_MISMATCH", "The file was cut while it was read; read it again."
            )
        return data


def open_checked(
    path: Path,
    *,
    root: Path | None = None,
    max_bytes: int | None = MAX_BYTES,
    what: str = "file",
) -> OpenFile:
    """Open one input file strictly.

    Parameters
    ----------
    path
        The file. A relative path starts at the working folder, as everywhere.
    root
        Folder that the file has to lie in; no folder between it and the file may be a
        link. ``None``: `path` was chosen by the user and only the file itself is checked.
    max_bytes
        Largest size allowed; ``None`` where the caller checks ``size`` itself before it
        reads.
    what
        What the file is, for the message: ``"signal file"``.

    Returns
    -------
    OpenFile
        To be used in a ``with`` block, which closes it.

    Raises
    ------
    BadInput
        ``E_PATH`` if the path leaves the root, is a link, a URL or no regular file;
        ``E_MISSING`` if it is absent or unreadable; ``E_TOO_LARGE`` above `max_bytes`.
    """
    descriptor = _open(path, root, what)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise BadInput("E_PATH", f"The {what} is not a regular file.")
        if max_bytes is not None and status.st_size > max_bytes:
            raise BadInput(
                "E_TOO_LARGE",
                f"The {what} has {status.st_size} bytes; the limit is {max_bytes}.",
            )
    except BaseException:
        os.close(descriptor)
        raise
    return OpenFile(descriptor, status.st_size)


def stamp_of(file: OpenFile) -> tuple[int, ...]:
    """What tells an open file from another one, or from itself before a change."""
    status = os.fstat(file.descriptor)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def read_bytes(
    path: Path,
    *,
    root: Path | None = None,
    max_bytes: int = MAX_BYTES,
    what: str = "file",
) -> bytes:
    """All bytes of one input file, opened strictly; see `open_checked`."""
    with open_checked(path, root=root, max_bytes=max_bytes, what=what) as file:
        return file.read()


def read_start(
    path: Path, length: int, *, root: Path | None = None, what: str = "file"
) -> bytes:
    """The first `length` bytes of one input file of any size; fewer if it is shorter."""
    with open_checked(path, root=root, max_bytes=None, what=what) as file:
        return file.read(length)


def check_name(name: str, *, what: str = "file name") -> str:
    """Return `name` if it is the bare name of a file, safe on every system.

    Raises
    ------
    BadInput
        ``E_PATH`` if it is empty, holds a separator, a drive, a control character or a
        character that turns the direction of text, ends in a dot or a space, or is
        longer than 255 bytes.

    Examples
    --------
    >>> check_name("00001_lr.dat")
    '00001_lr.dat'
    """
    is_safe = (
        name.strip() == name
        and name.strip(".") != ""
        and not name.endswith(".")
        and not name.startswith("~")
        and _UNSAFE_NAME.search(name) is None
        and _DEVICE_NAME.fullmatch(name) is None
        and len(name.encode("utf-8", "surrogatepass")) <= 255
    )
    if not is_safe:
        raise BadInput("E_PATH", f"The {what} has to be a plain name without a folder.")
    return name


def _open(path: Path, root: Path | None, what: str) -> int:
    """A descriptor of the file; no link is followed from the root on."""
    text = os.fspath(path)
    if _URL.match(text):
        raise BadInput("E_PATH", f"The {what} is a URL; only local files are read.")
    try:
        if root is None:
            return os.open(text, _FLAGS)
        folder, inside = root.absolute(), path.absolute()
        parts = inside.relative_to(folder).parts if inside.is_relative_to(folder) else ()
        if not parts or ".." in parts:
            raise BadInput("E_PATH", f"The {what} lies outside its folder.")
        if len(parts) == 1:
            return os.open(inside, _FLAGS)
        return _open_below(folder, parts)
    except ValueError:  # a NUL in the name
        raise BadInput("E_PATH", f"The {what} has a name that cannot be used.") from None
    except OSError as error:
        raise _refusal(error, what) from None


def _open_below(folder: Path, parts: tuple[str, ...]) -> int:
    """Open ``folder/parts[0]/parts[1]/...``, each part without following a link."""
    current = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    for position, part in enumerate(parts):
        is_last = position == len(parts) - 1
        try:
            below = os.open(
                part, _FLAGS if is_last else _FLAGS | os.O_DIRECTORY, dir_fd=current
            )
        finally:
            os.close(current)
        current = below
    return current


def _refusal(error: OSError, what: str) -> Exception:
    """The `BadInput` of a failed open or read; the error itself if the system fails."""
    if error.errno in _NOT_A_FILE:
        return BadInput("E_PATH", f"The {what} {_NOT_A_FILE[error.errno]}.")
    if error.errno in _UNREADABLE:
        return BadInput("E_MISSING", f"The {what} {_UNREADABLE[error.errno]}.")
    return error  # out of descriptors or memory: no fault of this file
