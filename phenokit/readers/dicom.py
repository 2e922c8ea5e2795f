"""The one gate that every DICOM file passes before a library sees it.

The file is walked once, without recursion and without building anything: each element's
length has to fit its parent, nesting is bounded, and the whole file has to be used up.
A library reads lazily and meets such faults later, as a RecursionError or not at all.
Only waveforms are let through: a file with pixels, or of another kind, is refused.

DICOM PS3.5, sections 6-7 and annex A (transfer syntaxes); PS3.10, section 7 (file format).
"""

from dataclasses import dataclass

from phenokit.errors import BadInput

MAX_DEPTH = 16
MAX_ELEMENTS = 100_000

_UNDEFINED = 0xFFFFFFFF
_LONG = {"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"}
_SHORT = {
    *("AE", "AS", "AT", "CS", "DA", "DS", "DT", "FD", "FL", "IS", "LO", "LT", "PN"),
    *("SH", "SL", "SS", "ST", "TM", "UI", "UL", "US"),
}
_IMPLICIT_LITTLE = "1.2.840.10008.1.2"
_EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
_WAVEFORM_STORAGE = "1.2.840.10008.5.1.4.1.1.9."
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_STORAGE_CLASS, _TRANSFER_SYNTAX = 0x00020002, 0x00020010


@dataclass
class _Level:
    """A data set, or the list of items of a sequence, that is being walked."""

    end: int | None  # None: until its delimiter
    is_sequence: bool
    is_implicit: bool


def check_dicom(data: bytes) -> None:
    """Refuse a DICOM file that is not a waveform that can be walked whole.

    Parameters
    ----------
    data
        The whole file.

    Raises
    ------
    BadInput
        ``E_DICOM``: no DICOM file, another kind than a waveform, a transfer syntax other
        than little endian without compression, pixels, more than `MAX_DEPTH` nested
        sequences, or a length that does not fit. `where` is the byte offset.
    """
    if len(data) < 132 or data[128:132] != b"DICM":
        raise _refuse("The file is not a DICOM file: the mark DICM is missing.", 128)
    meta, start = _read_meta(data)
    syntax = meta.get(_TRANSFER_SYNTAX, "")
    if syntax not in (_IMPLICIT_LITTLE, _EXPLICIT_LITTLE):
        raise _refuse("The transfer syntax is not little endian, uncompressed.", 132)
    _walk(data, start, is_implicit=syntax == _IMPLICIT_LITTLE)
    if not meta.get(_STORAGE_CLASS, "").startswith(_WAVEFORM_STORAGE):
        raise _refuse("The file holds no waveform; only DICOM ECGs are read.", 132)


def _read_meta(data: bytes) -> tuple[dict[int, str], int]:
    """Text of the file meta information (group 0002), and where it ends."""
    position = 132
    meta: dict[int, str] = {}
    while position + 8 <= len(data) and _u16(data, position) == 2:
        tag, representation, length, value = _element(data, position, is_implicit=False)
        if length == _UNDEFINED or value + length > len(data) or tag in meta:
            raise _refuse("The file meta information is damaged.", position)
        if representation == "SQ":
            raise _refuse("The file meta information holds a sequence.", position)
        meta[tag] = data[value : value + length].rstrip(b"\0 ").decode("ascii", "replace")
        position = value + length
        if len(meta) > 64:
            raise _refuse("The file meta information has too many elements.", position)
    return meta, position


def _walk(data: bytes, position: int, *, is_implicit: bool) -> None:
    levels = [_Level(len(data), False, is_implicit)]
    elements = 0
    while levels:
        level = levels[-1]
        if position == level.end:
            levels.pop()
            continue
        elements += 1
        if elements > MAX_ELEMENTS:
            raise _refuse(f"The file has more than {MAX_ELEMENTS} elements.", position)
        step = _walk_items if level.is_sequence else _walk_elements
        position = step(data, position, levels)


def _walk_items(data: bytes, position: int, levels: list[_Level]) -> int:
    """One item of a sequence, or its end; returns the next position."""
    level = levels[-1]
    tag, length = _tag(data, position), _u32(data, position + 4)
    inside = position + 8
    if tag == _SEQUENCE_END and level.end is None and length == 0:
        levels.pop()
        return inside
    if tag != _ITEM:
        raise _refuse("A sequence holds something that is no item.", position)
    levels.append(_Level(_end(levels, inside, length), False, level.is_implicit))
    return inside


def _walk_elements(data: bytes, position: int, levels: list[_Level]) -> int:
    """One element of a data set, or its end; returns the next position."""
    level = levels[-1]
    tag = _tag(data, position)
    if tag == _ITEM_END and level.end is None and _u32(data, position + 4) == 0:
        levels.pop()
        return position + 8
    if tag >> 16 in (0x0002, 0xFFFE):
        raise _refuse("An element stands where it must not.", position)
    if tag >> 16 == 0x7FE0:
        raise _refuse("The file holds an image; only DICOM ECGs are read.", position)
    _, representation, length, value = _element(
        data, position, is_implicit=level.is_implicit
    )
    is_unknown = representation in ("", "UN")
    end = _end(levels, value, length)
    if representation == "SQ" or (is_unknown and (end is None or _is_sequence(tag))):
        if sum(level.is_sequence for level in levels) >= MAX_DEPTH:
            raise _refuse(f"Sequences are nested deeper than {MAX_DEPTH}.", position)
        # Of unknown representation, a sequence is coded as implicit (PS3.5, 6.2.2).
        levels.append(_Level(end, True, level.is_implicit or is_unknown))
        return value
    if end is None:
        raise _refuse("An element has no length.", position)
    return end


def _element(data: bytes, position: int, *, is_implicit: bool) -> tuple[int, str, int, int]:
    """Tag, value representation ("" if implicit), length, and where the value starts."""
    tag = _tag(data, position)
    if is_implicit:
        return tag, "", _u32(data, position + 4), position + 8
    representation = data[position + 4 : position + 6].decode("ascii", "replace")
    if representation in _SHORT:
        return tag, representation, _u16(data, position + 6), position + 8
    if representation in _LONG:
        return tag, representation, _u32(data, position + 8), position + 12
    raise _refuse("An element has an unknown value representation.", position)


def _end(levels: list[_Level], start: int, length: int) -> int | None:
    """Where a value of declared length ends; it may not end after what holds it."""
    if length == _UNDEFINED:
        return None
    end = start + length
    limit = next(level.end for level in reversed(levels) if level.end is not None)
    if end > limit:
        raise _refuse("An element is longer than what holds it; the file is cut.", start)
    return end


def _is_sequence(tag: int) -> bool:
    """Whether the dictionary knows a sequence by this tag: the library would open it."""
    from pydicom.datadict import dictionary_has_tag, dictionary_VR

    return dictionary_has_tag(tag) and dictionary_VR(tag) == "SQ"


def _tag(data: bytes, position: int) -> int:
    return _u16(data, position) << 16 | _u16(data, position + 2)


def _u16(data: bytes, position: int) -> int:
    return int.from_bytes(_take(data, position, 2), "little")


def _u32(data: bytes, position: int) -> int:
    return int.from_bytes(_take(data, position, 4), "little")


def _take(data: bytes, position: int, length: int) -> bytes:
    if position + length > len(data):
        raise _refuse("The file is cut off.", position)
    return data[position : position + length]


def _refuse(reason: str, position: int) -> BadInput:
    return BadInput("E_DICOM", reason, where=f"byte {position}")
