"""Which files of a folder are recordings: all below it, or those that a pattern matches.

An ECG is each WFDB header, each file whose first bytes are those of a known format, and
each WFDB signal file without its header; an intracranial EEG is each file and each folder
of a known format. What cannot be opened (a link, a pipe, a file or a folder that may not
be read) is one as well: its row says why. Links are not followed.

Of a usual WFDB folder no file is opened: the names decide. What is found comes in the order
of the names, part by part, whatever order the file system has.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fnmatch import translate
from pathlib import Path
from typing import Literal

from phenokit.batch.source_readers import ending_of
from phenokit.errors import BadInput
from phenokit.readers.ecg import is_ecg_file
from phenokit.readers.files import open_checked, read_bytes
from phenokit.readers.ieeg import is_ieeg_file

Kind = Literal["ecg", "ieeg"]

ALL_BELOW = ("**",)
"""The pattern of a whole folder."""

WILD = re.compile(r"[*?\[]")
"""What makes a path a pattern."""


@dataclass(frozen=True, slots=True)
class Found:
    """A file, or a folder that is one recording.

    Attributes
    ----------
    location
        Below the folder that was walked, in the form of `os.fsdecode`.
    is_recording
        Otherwise it is a file that holds none.
    """

    location: str
    is_recording: bool


def find_files(
    root: Path,
    kind: Kind,
    pattern: tuple[str, ...] = ALL_BELOW,
    *,
    leave_out: Path | None = None,
) -> Iterator[Found]:
    """What lies below a folder, sorted by the parts of the path.

    Parameters
    ----------
    root
        The folder; it may be a link itself.
    pattern
        Parts of a pattern: ``*`` and ``?`` and ``[...]`` within a name, and ``**`` for any
        number of folders. Files that it does not match are not looked at.
    leave_out
        A folder that is not looked into; it need not be there.

    Raises
    ------
    BadInput
        ``E_MISSING`` if the folder itself may not be read.
    """
    parts = tuple(part if part == "**" else re.compile(translate(part)) for part in pattern)
    left_out = _identity(leave_out)
    start = _closure({0}, parts)
    waiting = [_entries(root, "", start, parts, kind)]
    while waiting:
        for found, states in waiting[-1]:
            if states:
                if left_out is not None and left_out == _identity(root / found.location):
                    continue
                waiting.append(_entries(root, found.location, states, parts, kind))
                break
            yield found
        else:
            waiting.pop()


def _identity(folder: Path | None) -> tuple[int, int] | None:
    """What tells a folder from others, however it is named; ``None`` if it is not there."""
    try:
        status = folder.stat() if folder is not None else None
    except OSError:
        return None
    return (status.st_dev, status.st_ino) if status is not None else None


_Parts = tuple["str | re.Pattern[str]", ...]
"""A pattern: ``**``, or what a name has to match."""


def _closure(states: Iterable[int], parts: _Parts) -> frozenset[int]:
    """The positions in a pattern where one may also be: ``**`` may be no folder at all.

    But in the end it is a name at least: ``b/**`` is what lies below b.
    """
    found = set(states)
    for state in range(len(parts) - 1):
        if state in found and parts[state] == "**":
            found.add(state + 1)
    return frozenset(found)


def _after(name: str, states: frozenset[int], parts: _Parts) -> frozenset[int]:
    """The positions in a pattern after a name; empty if it does not match."""
    following = set()
    for state in states - {len(parts)}:
        part = parts[state]
        if part == "**":
            following |= {state, state + 1} if state == len(parts) - 1 else {state}
        elif isinstance(part, re.Pattern) and part.match(name):
            following.add(state + 1)
    return _closure(following, parts)


def _entries(
    root: Path, below: str, states: frozenset[int], parts: _Parts, kind: Kind
) -> Iterator[tuple[Found, frozenset[int]]]:
    """What matches in a folder by name; with positions, a folder to look into."""
    folder = root / below
    prefix = f"{below}/" if below else ""
    try:
        with os.scandir(folder) as entries:
            names = [(entry.name, _is_folder(entry)) for entry in entries]
    except OSError:
        if not below:
            raise BadInput(
                "E_MISSING", "The folder may not be read; check its permissions."
            ) from None
        yield Found(below, True), frozenset()  # its row says that it may not be read
        return
    names.sort()
    after = {name: _after(name, states, parts) for name, _ in names}
    matched = {name for name, _ in names if len(parts) in after[name]}
    role_of = _roles(
        folder,
        kind,
        [name for name, is_folder in names if name in matched and not is_folder],
    )
    for name, is_folder in names:
        found = Found(prefix + name, False)
        if is_folder and not (kind == "ieeg" and is_ieeg_file(folder / name)):
            deeper = after[name] - {len(parts)}
            if deeper:
                yield found, after[name]
        elif name in matched:
            role = "recording" if is_folder else role_of(name)
            if role != "signal":
                yield Found(prefix + name, role == "recording"), frozenset()


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:  # a disk that fails for one name leaves the others
        return False


_Role = Literal["recording", "signal", "other"]
"""Of a file: it is a recording, the signal of a header, or holds none."""


def _roles(folder: Path, kind: Kind, files: list[str]) -> Callable[[str], _Role]:
    """Tells what each of these files of one folder is."""
    if kind == "ieeg":
        return lambda name: _role(folder / name, is_ieeg_file)
    headers = [name for name in files if ending_of(name) == ".hea"]
    stems = {name.removesuffix(".hea") for name in headers}
    named: set[bytes] | None = None

    def role(name: str) -> _Role:
        nonlocal named
        ending = ending_of(name)
        if ending == ".hea":
            return "recording"
        if ending != ".dat":
            return _role(folder / name, is_ecg_file)
        if name.removesuffix(".dat") in stems:
            return "signal"
        if named is None:
            named = _named_signals(folder, headers)
        # a signal without its header: a row says so
        return "signal" if os.fsencode(name) in named else "recording"

    return role


def _role(file: Path, is_known: Callable[[Path], bool]) -> _Role:
    """By its first bytes; what cannot be opened is a recording, which is refused."""
    if is_known(file):
        return "recording"
    try:
        with open_checked(file, max_bytes=None):
            return "other"
    except BadInput:
        return "recording"


def _named_signals(folder: Path, headers: Iterable[str]) -> set[bytes]:
    """First words of all header lines: among them the signal files that they name."""
    names: set[bytes] = set()
    for header in headers:
        try:
            data = read_bytes(folder / header, max_bytes=1 << 20, what="header")
        except BadInput:
            continue
        names |= {line.split(None, 1)[0] for line in data.splitlines() if line.strip()}
    return names
