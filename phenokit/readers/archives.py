"""Read a zip archive, or a file packed by gzip, whole or not at all.

The directory is judged before a byte is unpacked: a member whose name leaves the folder,
a link, or two members with one name refuse the archive. Then every member is unpacked in
memory under caps that hold whatever sizes the archive declares; only when all have passed
does the caller get them. Nothing is written here.
"""

import io
import stat
import struct
import unicodedata
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from phenokit.errors import BadInput
from phenokit.readers.files import check_name, read_bytes

MAX_ARCHIVE_BYTES = 512 << 20
MAX_MEMBER_BYTES = 256 << 20
MAX_TOTAL_BYTES = 1 << 30
MAX_MEMBERS = 10_000
MAX_RATIO = 100
_FREE_BYTES = 1 << 16
"""What any member may inflate to, whatever its ratio: small tables of zeros are common."""

_CHUNK = 1 << 16
_SIGNATURES = (b"PK\x03\x04", b"PK\x05\x06")
_GZIP = b"\x1f\x8b"
_ARCHIVE_ENDINGS = (".zip", ".gz", ".bz2", ".xz", ".7z", ".tar", ".tgz", ".rar", ".jar")
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


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
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            _check_directory(members)
            return _unpack(archive, members)
    except (
        zipfile.BadZipFile,
        zlib.error,
        struct.error,
        NotImplementedError,
        EOFError,
        OSError,
        ValueError,
        RuntimeError,
        OverflowError,
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


def _check_directory(members: list[zipfile.ZipInfo]) -> None:
    """Judge all names before any content; the gravest fault decides."""
    for number, member in enumerate(members, start=1):
        _check_member(member, number)
    _check_distinct(members)
    if len(members) > MAX_MEMBERS:
        raise BadInput("E_ZIP_RATIO", f"The archive has more than {MAX_MEMBERS} members.")
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
    if len(parts) > 32:
        raise BadInput("E_PATH", "A member lies in more than 32 folders.", where=where)


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


def _unpack(archive: zipfile.ZipFile, members: list[zipfile.ZipInfo]) -> dict[str, bytes]:
    contents: dict[str, bytes] = {}
    total = 0
    for number, member in enumerate(members, start=1):
        if member.is_dir():
            continue
        data = _inflate(archive, member, MAX_TOTAL_BYTES - total, f"member {number}")
        total += len(data)
        contents[member.filename] = data
    return contents


def _inflate(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo, room: int, where: str
) -> bytes:
    """One member, unpacked piece by piece until a cap is passed."""
    by_ratio = max(_FREE_BYTES, MAX_RATIO * member.compress_size)
    cap = min(by_ratio, MAX_MEMBER_BYTES, room)
    buffer = bytearray()
    with archive.open(member) as stream:
        while piece := stream.read(_CHUNK):
            buffer += piece
            if len(buffer) > cap:
                raise BadInput(
                    "E_ZIP_RATIO",
                    f"A member inflates beyond the limits ({MAX_RATIO} times its packed "
                    f"size, {MAX_MEMBER_BYTES} bytes, {MAX_TOTAL_BYTES} for the archive).",
                    where=where,
                )
    if len(buffer) != member.file_size:
        raise BadInput("E_FORMAT", "A member has another size than declared.", where=where)
    return bytes(buffer)
