"""Annotations as an EDF+ file without signals, which other viewers load beside a recording.

The file follows Kemp & Olivan 2003 (doi:10.1016/S1388-2457(03)00123-8): one signal called
``EDF Annotations``, each record opened by its own time. It names nobody: the fields of the
patient and of the recording hold X, and the date is the one that the format has for none.
"""

from collections.abc import Sequence
from dataclasses import dataclass

MAX_RECORD = 61_440
"""Bytes of a data record, by the recommendation of the format."""


@dataclass(frozen=True)
class Annotation:
    """A text and its time.

    Attributes
    ----------
    onset, duration
        Seconds from the recording's start; ``duration`` is None for a moment.
    text
        Control characters become blanks: they are what the format is made of.
    """

    onset: float
    duration: float | None
    text: str


def format_edf_annotations(
    annotations: Sequence[Annotation], *, recording_duration: float
) -> bytes:
    """The bytes of an EDF+C file that holds the annotations alone.

    Parameters
    ----------
    annotations
        In any order.
    recording_duration
        Seconds; the file is as long as the recording, to the precision of the format.

    Raises
    ------
    ValueError
        If the recording has no duration.
    """
    if recording_duration <= 0:
        raise ValueError(f"a recording lasts longer than {recording_duration} s")
    lists = [
        _tal(one) for one in sorted(annotations, key=lambda one: (one.onset, one.text))
    ]
    size = sum(map(len, lists))
    n_records = max(1, -(-size // (MAX_RECORD // 2)))
    length = float(f"{recording_duration / n_records:.7g}"[:8])
    groups: list[list[bytes]] = [[] for _ in range(n_records)]
    for k, tal in enumerate(lists):
        groups[k * n_records // len(lists)].append(tal)
    records = [
        f"+{_number(k * length)}\x14\x14\0".encode() + b"".join(group)
        for k, group in enumerate(groups)
    ]
    # A record is whole samples of two bytes, all of one length.
    width = max(len(record) for record in records)
    width += width % 2
    data = b"".join(record.ljust(width, b"\0") for record in records)
    return _header(n_records, length, width // 2) + data


def _header(n_records: int, length: float, n_samples: int) -> bytes:
    fixed = (
        ("0", 8), ("X X X X", 80), ("Startdate X X X X", 80), ("01.01.85", 8),
        ("00.00.00", 8), ("512", 8), ("EDF+C", 44), (str(n_records), 8),
        (_number(length), 8), ("1", 4),
    )  # fmt: skip
    signal = (
        ("EDF Annotations", 16), ("", 80), ("", 8), ("-1", 8), ("1", 8), ("-32768", 8),
        ("32767", 8), ("", 80), (str(n_samples), 8), ("", 32),
    )  # fmt: skip
    return b"".join(text.ljust(width).encode("ascii") for text, width in fixed + signal)


def _tal(one: Annotation) -> bytes:
    text = "".join(" " if ord(letter) < 32 else letter for letter in one.text)
    span = "" if one.duration is None else f"\x15{_number(one.duration)}"
    sign = "-" if one.onset < 0 else "+"
    return f"{sign}{_number(abs(one.onset))}{span}\x14{text}\x14\0".encode()


def _number(value: float) -> str:
    """Plain decimal, without a useless end."""
    text = f"{value:.6f}".rstrip("0").rstrip(".")
    return text[:8].rstrip(".") if len(text) > 8 and "." in text[:8] else text
