"""Read a zip archive, or a file packed by gzip, whole or not at all.

The directory is judged before a byte is unpacked: a member whose name leaves the folder,
a link, or two members with one name refuse the archive. Then every member is unpacked in
memory under caps that hold whatever sizes the archive declares; only when all have passed
does the caller get them. `unpack_zip` is for an archive that is larger than memory: it
inflates every member once without keeping it, and only then writes them.
"""

import errno
import io
import os
import shutil
import stat
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from phenokit.errors import BadInput
from phenokit.readers.files import OpenFile, check_name, open_checked, read_bytes

MAX_ARCHIVE_BYTES = 512 << 20
MAX_MEMBER_BYTES = 256 << 20
MAX_TOTAL_BYTES = 1 << 30
MAX_MEMBERS = 10_000
MAX_RATIO = 100
_FREE_BYTES = 1 << 16
"""What any member may inflate to, whatever its ratio: small tables of zeros are common."""

_MAX_PATH_BYTES = 3000
_MAX_DIRECTORY_ENTRY = 256
"""Bytes a member, on the average, in the directory of an archive that is unpacked."""

_DIRECTORY_END = b"PK\5\6"
_DIRECTORY_END_64 = b"PK\6\6"
_CHUNK = 1 << 16
_SIGNATURES = (b"PK\x03\x04", b"PK\x05\x06")
_GZIP = b"\x1f\x8b"
_ARCHIVE_ENDINGS = (".zip", ".gz", ".bz2", ".xz", ".7z", ".tar", ".tgz", ".rar", ".jar")
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


@dataclass(frozen=True)
class ZipLimits:
    """The largest archive that is unpacked; sizes in bytes."""

    archive: int
    member: int
    total: int
    n_members: int


def read_zip(path: Path, *, root: Path | None = None) -> dict[str, bytes]:
    """Bytes of every member of a zip archive by name, folders left out.

    Parameters
    ----------
    path
        A zip file.
    root
        Folder that the file has to lie in; see `phenokit.readers.files.open_checked`.

    Raises
    ------
    BadInput
        ``E_PATH`` for a member that leaves the folder or is a link, ``E_DUP_NAME`` for
        two members of one name, ``E_ZIP_RATIO`` beyond the caps on number, size and
        ratio or for an archive within the archive, ``E_FORMAT`` for a file that is no
        zip, is damaged, encrypted, or packed in an unusual way. `where` is the member's
        number in the directory, never its name.
    """
    data = read_bytes(path, root=root, max_bytes=MAX_ARCHIVE_BYTES, what="archive")
    return parse_zip(data)


def parse_zip(data: bytes) -> dict[str, bytes]:
    """Members of the bytes of a zip archive; see `read_zip`."""
    if not data.startswith(_SIGNATURES):
        raise BadInput("E_FORMAT", "The file is not a zip archive.")
    limits = ZipLimits(MAX_ARCHIVE_BYTES, MAX_MEMBER_BYTES, MAX_TOTAL_BYTES, MAX_MEMBERS)
    with _damage_refused(OSError), zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = archive.infolist()
        _check_directory(members, limits)
        contents = _unpack(archive, members, limits)
        return {member.filename: b"".join(pieces) for member, pieces in contents}


def unpack_zip(
    path: Path, folder: Path, *, limits: ZipLimits, root: Path | None = None
) -> None:
    """Write the members of a zip archive below an empty folder, all or none.

    Every member is inflated twice: once to see that it keeps to the caps, once to write.
    What is in memory is the archive's directory and a piece of one member.

    Parameters
    ----------
    path, root
        As of `read_zip`.
    folder
        Empty, and nobody else's.
    limits
        Beside the cap on the ratio, which holds for the whole archive as well.

    Raises
    ------
    BadInput
        As `read_zip`; then nothing was written.
    OSError
        If the disk has no room for it, or fails.
    """
    with open_checked(path, root=root, max_bytes=limits.archive, what="archive") as file:
        if file.read(4) not in _SIGNATURES:
            raise BadInput("E_FORMAT", "The file is not a zip archive.")
        _check_directory_size(file, limits)
        by_ratio = max(_FREE_BYTES, MAX_RATIO * file.size)
        limits = replace(limits, total=min(limits.total, by_ratio))
        with os.fdopen(os.dup(file.descriptor), "rb") as stream:
            with _damage_refused(OSError), zipfile.ZipFile(stream) as archive:
                members = archive.infolist()
                _check_directory(members, limits)
                contents = _unpack(archive, members, limits)
                total = sum(len(piece) for _, pieces in contents for piece in pieces)
            if shutil.disk_usage(folder).free < total:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            with _damage_refused(), zipfile.ZipFile(stream) as archive:
                for member, pieces in _unpack(archive, members, limits):
                    _write(folder / member.filename, pieces)


def _write(target: Path, pieces: Iterator[bytes]) -> None:
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(target, flags, 0o600), "wb") as file:
        file.writelines(pieces)


@contextmanager
def _damage_refused(*more: type[Exception]) -> Iterator[None]:
    """Whatever a damaged archive makes zipfile raise becomes ``E_FORMAT``."""
    try:
        yield
    except (
        zipfile.BadZipFile,
        zlib.error,
        struct.error,
        NotImplementedError,
        EOFError,
        ValueError,
        RuntimeError,
        OverflowError,
        *more,
    ):
        raise BadInput("E_FORMAT", "The archive is damaged.") from None


def unpack_gzip(data: bytes, *, max_bytes: int = MAX_TOTAL_BYTES) -> bytes:
    """What gzip packed into these bytes; the bytes themselves where it did not.

    The first bytes decide, not the ending of a name. Members that follow one another are
    one file, as `gzip` has it.

    Raises
    ------
    BadInput
        ``E_ZIP_RATIO`` if it inflates beyond `max_bytes` or the cap on the ratio,
        ``E_FORMAT`` if it is damaged or cut off.
    """
    if not data.startswith(_GZIP):
        return data
    limit = min(max_bytes, max(len(data) * MAX_RATIO, _FREE_BYTES))
    parts, size, rest = [], 0, data
    while rest:
        member = zlib.decompressobj(wbits=31)
        try:
            parts.append(member.decompress(rest, limit + 1 - size))
            size += len(parts[-1])
        except zlib.error:
            raise BadInput(
                "E_FORMAT", "The file is damaged: gzip cannot unpack it."
            ) from None
        if size > limit:
            raise BadInput("E_ZIP_RATIO", f"The file inflates beyond {limit} bytes.")
        if not member.eof:
            raise BadInput("E_FORMAT", "The file is cut off: gzip cannot unpack it.")
        rest = member.unused_data.lstrip(b"\0")  # tapes and some tools pad with zeros
    return b"".join(parts)


def _check_directory_size(file: OpenFile, limits: ZipLimits) -> None:
    """Refuse a directory beyond the cap on members before zipfile reads it whole."""
    tail_start = max(0, file.size - 65_535 - 22)
    tail = file.read(start=tail_start)
    at = tail.rfind(_DIRECTORY_END)
    if at < 0 or len(tail) < at + 22:
        raise BadInput("E_FORMAT", "The archive is damaged.")
    size = int.from_bytes(tail[at + 12 : at + 16], "little")
    # a large archive has another end before this one, and before it says where
    locator = file.read(20, start=max(0, tail_start + at - 20))
    stated = int.from_bytes(locator[8:16], "little")
    for start in (tail_start + at - 20 - 56, stated):
        end = file.read(56, start=start) if 0 <= start < file.size else b""
        if end.startswith(_DIRECTORY_END_64):
            size = max(size % 0xFFFFFFFF, int.from_bytes(end[40:48], "little"))
    if size > file.size:
        raise BadInput("E_FORMAT", "The archive is damaged.")
    if size > limits.n_members * _MAX_DIRECTORY_ENTRY:
        raise BadInput(
            "E_ZIP_RATIO",
            f"The archive's directory is too large for {limits.n_members} members.",
        )


def _check_directory(members: list[zipfile.ZipInfo], limits: ZipLimits) -> None:
    """Judge all names before any content; the gravest fault decides."""
    for number, member in enumerate(members, start=1):
        _check_member(member, number)
    _check_distinct(members)
    if len(members) > limits.n_members:
        raise BadInput(
            "E_ZIP_RATIO", f"The archive has more than {limits.n_members} members."
        )
    for number, member in enumerate(members, start=1):
        where = f"member {number}"
        if member.filename.lower().endswith(_ARCHIVE_ENDINGS):
            raise BadInput("E_ZIP_RATIO", "The archive holds another archive.", where=where)
        if member.flag_bits & 0x1 or member.compress_type not in _METHODS:
            raise BadInput(
                "E_FORMAT",
                "A member is encrypted or packed in an unusual way; pack it plainly.",
                where=where,
            )


def _check_member(member: zipfile.ZipInfo, number: int) -> None:
    """A name of plain parts, of a regular file or a folder."""
    where = f"member {number}"
    name = member.orig_filename  # zipfile cuts a name at a NUL and turns backslashes
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise BadInput("E_PATH", "A member is a link or a device.", where=where)
    if name.startswith("/"):
        raise BadInput("E_PATH", "A member has an absolute name.", where=where)
    parts = name.removesuffix("/").split("/")
    try:
        for part in parts:
            check_name(part, what="member's name")
    except BadInput as refusal:
        raise BadInput("E_PATH", str(refusal), where=where) from None
    if len(parts) > 32 or len(name.encode("utf-8", "replace")) > _MAX_PATH_BYTES:
        raise BadInput(
            "E_PATH",
            f"A member lies in more than 32 folders, or its path has more than "
            f"{_MAX_PATH_BYTES} bytes.",
            where=where,
        )


def _check_distinct(members: list[zipfile.ZipInfo]) -> None:
    """No two names that some file system takes for one; no file that is also a folder."""
    numbers: dict[str, int] = {}
    for number, member in enumerate(members, start=1):
        name = _fold(member.filename.rstrip("/"))
        if name in numbers:
            raise _doubled(numbers[name], number)
        numbers[name] = number
    for name, number in numbers.items():
        for folder in map(str, PurePosixPath(name).parents):
            if folder in numbers and not members[numbers[folder] - 1].is_dir():
                raise _doubled(numbers[folder], number)


def _doubled(first: int, second: int) -> BadInput:
    return BadInput(
        "E_DUP_NAME",
        f"Members {first} and {second} have the same name.",
        where=f"member {second}",
    )


def _fold(name: str) -> str:
    """What a file system that ignores case and composition makes of a name."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _unpack(
    archive: zipfile.ZipFile, members: list[zipfile.ZipInfo], limits: ZipLimits
) -> Iterator[tuple[zipfile.ZipInfo, Iterator[bytes]]]:
    """Every member that is no folder, with its pieces, which are to be used up in turn."""
    room = limits.total
    for number, member in enumerate(members, start=1):
        if not member.is_dir():
            cap = min(limits.member, room)
            yield member, _inflate(archive, member, cap, f"member {number}", limits)
            room -= member.file_size  # which is what it inflated to


def _inflate(
    archive: zipfile.ZipFile,
    member: zipfile.ZipInfo,
    cap: int,
    where: str,
    limits: ZipLimits,
) -> Iterator[bytes]:
    """One member, unpacked piece by piece until a cap is passed."""
    cap = min(cap, max(_FREE_BYTES, MAX_RATIO * member.compress_size))
    size = 0
    with archive.open(member) as stream:
        while piece := stream.read(_CHUNK):
            size += len(piece)
            if size > cap:
                raise BadInput(
                    "E_ZIP_RATIO",
                    f"A member inflates beyond the limits ({MAX_RATIO} times its packed "
                    f"size, {limits.member} bytes, {limits.total} for the archive).",
                    where=where,
                )
            yield piece
    if size != member.file_size:
        raise BadInput("E_FORMAT", "A member has another size than declared.", where=where)
