"""Strict reader of WFDB 12-lead ECG records: a header ``.hea`` and its signal files.

The grammar is that of header(5) and signal(5) of the WFDB Applications Guide, with every
field matched whole: what does not fit is refused, nothing falls back to a default. Stricter
than the guide: the sampling rate, the number of samples, gain, unit and lead names have to
be stated; there is one segment and one sample a frame; lead names are the twelve standard
ones. The declared size is held against the size of the file before a byte is read, and the
checksum against the samples.

Comments of the header (they hold names and numbers of patients) are dropped unread.

Headers of one archive repeat all but a few numbers. What they repeat is parsed once and
remembered (`_layout`), which is what makes the reader fast.
"""

import datetime
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from pathlib import Path

import numpy as np
from jaxtyping import Float

from phenokit.errors import BadInput
from phenokit.readers.files import check_name, open_checked, read_bytes
from phenokit.recording import (
    INDEPENDENT_LEADS,
    LEADS,
    Notice,
    Recording,
    derive_limb_leads,
    standard_lead,
)

MIN_SAMPLING_RATE = 100.0
MAX_SAMPLING_RATE = 1000.0
"""Sampling rates that an ECG may have, in Hz."""

MILLIVOLT = {"V": 1e3, "mV": 1.0, "uV": 1e-3, "µV": 1e-3, "μV": 1e-3}
"""Millivolt a unit; any other unit text is unknown."""

EXTRA_LEADS = frozenset(
    [
        *("V2R", "V3R", "V4R", "V5R", "V6R", "V7R", "V8R", "V9R", "V7", "V8", "V9"),
        *("VX", "VY", "VZ", "X", "Y", "Z"),
    ]
)
"""Leads of 15- and 18-lead ECGs and of Frank: known, but not read by any network."""

MAX_HEADER_BYTES = 1 << 18
MAX_SIGNAL_BYTES = 1 << 26
MAX_SIGNALS = 128

_RECORD_LINE = re.compile(
    r"(?P<name>\S+)[ \t]+(?P<n_signals>\d{1,9})"
    r"[ \t]+(?P<rate>\d{1,9}(?:\.\d{1,12})?)"
    r"(?:/\d{1,12}(?:\.\d{1,12})?(?:\(-?\d{1,12}(?:\.\d{1,12})?\))?)?"
    r"[ \t]+(?P<n_samples>\d{1,18})"
    r"(?:[ \t]+(?P<time>[\d:.]{1,32})(?:[ \t]+(?P<date>\d{1,4}/\d{1,4}/\d{1,6}))?)?[ \t]*",
    re.ASCII,
)
_SEGMENTS = re.compile(r"[^/\\:]+/\d+", re.ASCII)
_FORMAT = re.compile(
    r"(?P<format>\d{1,4})(?:x(?P<per_frame>\d{1,6}))?(?::(?P<skew>\d{1,12}))?"
    r"(?:\+(?P<offset>\d{1,12}))?",
    re.ASCII,
)
_GAIN = re.compile(
    r"(?P<gain>[+-]?(?:\d{1,15}(?:\.\d{0,15})?|\.\d{1,15})(?:[eE][+-]?\d{1,3})?)"
    r"(?:\((?P<baseline>[+-]?\d{1,12})\))?(?:/(?P<unit>\S{1,32}))?",
    re.ASCII,
)
_INTEGER = re.compile(r"[+-]?\d{1,12}", re.ASCII)
_INTEGERS = re.compile(r"(?:[+-]?\d{1,12} ){1,512}", re.ASCII)
_CLOCK = re.compile(r"(?:(?:(\d{1,2}):)?(\d{1,2}):)?(\d{1,2})(?:\.\d{1,9})?", re.ASCII)

_INVALID = {
    "16": -(1 << 15),
    "61": -(1 << 15),
    "160": -(1 << 15),
    "212": -(1 << 11),
    "80": -(1 << 7),
    "24": -(1 << 23),
    "32": -(1 << 31),
}
"""The sample value that means "not recorded", by format; also the formats that are read."""

_LayoutKey = tuple[tuple[str, ...], ...]
"""Format, gain, bits, zero, block size and lead name: a tuple of all signals' each."""


@dataclass(frozen=True)
class _Layout:
    """What the headers of one archive repeat: everything but names, sums and sizes."""

    formats: tuple[str, ...]
    offsets: tuple[int, ...]
    skews: tuple[int, ...]
    baseline: np.ndarray  # (signal, 1) of the signals in `order`
    gain: np.ndarray
    millivolt: np.ndarray  # mV a unit, (signal, 1)
    resolution: np.ndarray
    order: tuple[int, ...]  # signal of the header for each lead that is read
    is_plain: bool  # twelve leads in order, baselines 0, unit mV, no skew
    extra: tuple[str, ...]
    notices: tuple[Notice, ...]


def read_wfdb(
    path: Path, *, root: Path | None = None, with_sha256: bool = True
) -> Recording:
    """Read one WFDB record as a 12-lead ECG.

    Parameters
    ----------
    path
        The header ``.hea``; the signal files lie in the same folder.
    root
        Folder that the files have to lie in; see `phenokit.readers.files.open_checked`.
    with_sha256
        Whether to hash header and signal files (in this order) into ``sha256``; without it
        a record of 10 s at 100 Hz is read a third faster.

    Returns
    -------
    Recording
        The leads in the order of `LEADS`, in mV, at the rate of the file; NaN where the
        file holds the marker of an invalid sample.

    Raises
    ------
    BadInput
        ``E_PATH``, ``E_MISSING``, ``E_HEADER``, ``E_FORMAT``, ``E_TOO_LARGE``,
        ``E_SIZE_MISMATCH``, ``E_EMPTY``, ``E_CHECKSUM``, ``E_FS``, ``E_UNITS``,
        ``E_CALIBRATION`` or ``E_LEADS``; the first that holds, in this order.
    """
    header = read_bytes(path, root=root, max_bytes=MAX_HEADER_BYTES, what="header")
    lines = _lines(header)
    rate, n_samples, notices = _record(lines)
    files, key, checksums = _signal_lines(lines[1:])
    for name in dict.fromkeys(files):
        check_name(name, what="signal file named in the header")
    layout = _layout(key)

    digest = hashlib.sha256(header) if with_sha256 else None
    digital = _read_signals(path.parent, root, files, layout, n_samples, digest)
    present = _present(digital, layout)
    _compare_checksums(digital, checksums)
    if not MIN_SAMPLING_RATE <= rate <= MAX_SAMPLING_RATE:
        raise BadInput(
            "E_FS",
            f"The sampling rate is {rate:g} Hz; rates from {MIN_SAMPLING_RATE:g} to "
            f"{MAX_SAMPLING_RATE:g} Hz are read.",
        )
    _check_meaning(key)

    signal = _physical(digital, present, layout)
    resolution = layout.resolution
    derived: tuple[str, ...] = ()
    if len(layout.order) == len(INDEPENDENT_LEADS):
        signal, resolution, derived, notice = add_derived_leads(signal, resolution)
        notices = (*notices, notice)
    return Recording(
        signal=signal,
        channels=LEADS,
        sampling_rate=rate,
        record_id=path.stem,
        resolution=resolution,
        source_format="WFDB",
        sha256=digest.hexdigest() if digest else "",
        derived=derived,
        extra_channels=layout.extra,
        notices=notices + layout.notices,
    )


def hash_wfdb(path: Path, *, root: Path | None = None) -> str:
    """SHA-256 of the header and signal files of a record, as `read_wfdb` gives it.

    Of a record that is refused, those of its files that can be opened are hashed; of one
    that is too large to be read, its size.

    Raises
    ------
    BadInput
        If the header cannot be opened.
    """
    header = read_bytes(path, root=root, max_bytes=MAX_HEADER_BYTES, what="header")
    digest = hashlib.sha256(header)
    try:
        lines = _lines(header)[1:]
        files = _signal_lines(lines)[0] if lines else ()
    except BadInput:
        return digest.hexdigest()
    for name, _ in groupby(files):
        try:
            check_name(name, what="signal file named in the header")
            with open_checked(path.parent / name, root=root, max_bytes=None) as file:
                is_read = file.size <= MAX_SIGNAL_BYTES
                digest.update(file.read() if is_read else b"%d" % file.size)
        except BadInput:
            digest.update(b"\0")
    return digest.hexdigest()


def add_derived_leads(
    signal: Float[np.ndarray, "8 sample"], resolution: Float[np.ndarray, " 8"]
) -> tuple[
    Float[np.ndarray, "12 sample"], Float[np.ndarray, " 12"], tuple[str, ...], Notice
]:
    """Twelve leads from the eight independent ones, their resolution, and the warning.

    The step of a derived lead is the finest step that its formula can take.
    """
    limb = derive_limb_leads(signal[0], signal[1])
    step = min(resolution[0], resolution[1])
    derived = ("III", "aVR", "aVL", "aVF")
    return (
        np.concatenate([signal[:2], limb, signal[2:]]),
        np.concatenate(
            [resolution[:2], step * np.array([1, 0.5, 0.5, 0.5]), resolution[2:]]
        ),
        derived,
        Notice("W_DERIVED", "Leads III, aVR, aVL and aVF were derived from I and II."),
    )


def lead_order(names: Sequence[str]) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Which channel is which lead.

    Parameters
    ----------
    names
        Channel names of a file, any case and order.

    Returns
    -------
    order
        Positions of the twelve leads in the order of `LEADS`, or of the eight
        independent leads in the order of `INDEPENDENT_LEADS`.
    extra
        Names of the extra leads (`EXTRA_LEADS`), which are not read.

    Raises
    ------
    BadInput
        ``E_LEADS`` if a name is unknown or occurs twice, or a lead is missing.

    Examples
    --------
    >>> lead_order(["v6", "v5", "v4", "v3", "v2", "v1", "ii", "i", "V7"])
    ((7, 6, 5, 4, 3, 2, 1, 0), ('V7',))
    """
    position: dict[str, int] = {}
    extra: list[str] = []
    for index, name in enumerate(names):
        lead = standard_lead(name)
        if lead is None:
            lead = name.strip().upper()
            if lead not in EXTRA_LEADS:
                # only what looks like a lead is repeated: the text is a stranger's
                shown = f" ({lead})" if re.fullmatch(r"[A-Z0-9]{1,6}", lead) else ""
                raise BadInput(
                    "E_LEADS",
                    f"Signal {index + 1} is not one of the twelve leads{shown}.",
                    where=f"signal {index + 1}",
                )
            extra.append(lead)
        if lead in position:
            raise BadInput("E_LEADS", f"Lead {lead} occurs twice.", where=lead)
        position[lead] = index
    found = position.keys() - extra
    for leads in (LEADS, INDEPENDENT_LEADS):
        if found == set(leads):
            return tuple(position[lead] for lead in leads), tuple(extra)
    missing = [lead for lead in LEADS if lead not in found]
    raise BadInput(
        "E_LEADS",
        f"{'Lead' if len(missing) == 1 else 'Leads'} {', '.join(missing)} missing; twelve "
        f"leads are needed, or exactly {', '.join(INDEPENDENT_LEADS)}.",
        where=missing[0],
    )


def _lines(header: bytes) -> list[str]:
    """The lines of a header without comments; what is not text is refused."""
    if b"#" in header:
        header = b"\n".join(
            line for line in header.split(b"\n") if not line.lstrip().startswith(b"#")
        )
    try:
        text = header.decode("utf-8")
    except UnicodeDecodeError:
        raise BadInput("E_HEADER", "The header is not UTF-8 text.") from None
    lines = [line for line in text.replace("\r\n", "\n").split("\n") if line.strip()]
    if not lines or "\0" in text:
        raise BadInput("E_HEADER", "The header is empty or not text.")
    return lines


def _record(lines: Sequence[str]) -> tuple[float, int, tuple[Notice, ...]]:
    """Sampling rate, number of samples and warnings, from the first line of a header."""
    name = lines[0].split(None, 1)[0]
    if _SEGMENTS.fullmatch(name):
        raise BadInput("E_HEADER", "The record has several segments; give one segment.")
    check_name(name, what="record name in the header")
    match = _RECORD_LINE.fullmatch(lines[0])
    if match is None:
        raise BadInput(
            "E_HEADER",
            "The first line has to be: name, number of signals, sampling rate as a plain "
            "decimal, number of samples, and at most a time and a date.",
            where="line 1",
        )
    _, n_signals, rate, n_samples, time, date = match.groups()
    if not 1 <= int(n_signals) <= MAX_SIGNALS or len(lines) - 1 != int(n_signals):
        raise BadInput(
            "E_HEADER",
            f"The header declares {int(n_signals)} signals and describes {len(lines) - 1}.",
        )
    notices = ()
    if time is not None and not (_is_clock(time) and _is_date(date)):
        notices = (Notice("W_TIME", "The time or date in the header is impossible."),)
    return float(rate), int(n_samples), notices


def _is_clock(text: str) -> bool:
    match = _CLOCK.fullmatch(text)
    if match is None:
        return False
    hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return hours < 24 and minutes < 60 and seconds < 60


def _is_date(text: str | None) -> bool:
    if text is None:
        return True
    day, month, year = (int(part) for part in text.split("/"))
    try:
        datetime.date(year, month, day)
    except ValueError:
        return False
    return True


def _signal_lines(
    lines: Sequence[str],
) -> tuple[tuple[str, ...], _LayoutKey, list[int | None]]:
    """File names, what the archive's headers repeat, and checksums of all signals."""
    rows = [line.split(None, 8) for line in lines]
    if any(len(row) < 9 for row in rows):  # fields may be left out from the end
        rows = [row + [""] * (9 - len(row)) for row in rows]
    names, forms, gains, bits, zeros, firsts, sums, blocks, leads = zip(*rows, strict=True)
    numbers = " ".join(filter(None, firsts + sums))
    if numbers and _INTEGERS.fullmatch(numbers + " ") is None:
        raise BadInput("E_HEADER", "A first value or checksum is not an integer.")
    checksums = [int(text) % 65536 if text else None for text in sums]
    return names, (forms, gains, bits, zeros, blocks, leads), checksums


@lru_cache(maxsize=64)
def _layout(key: _LayoutKey) -> _Layout:
    """Parse what the headers of one archive repeat.

    Only the grammar and the formats are refused here; units, gains and leads that cannot
    be used are refused by `_check_meaning` after the samples were checked, because bytes
    take precedence over meaning.
    """
    formats, offsets, skews, gains, baselines, units = [], [], [], [], [], []
    for number, (form, gain, bits, zero, block, _) in enumerate(zip(*key, strict=True), 1):
        format_match = _FORMAT.fullmatch(form)
        gain_match = _GAIN.fullmatch(gain) if gain else None
        are_integers = all(
            not text or _INTEGER.fullmatch(text) for text in (bits, zero, block)
        )
        if format_match is None or (gain and gain_match is None) or not are_integers:
            raise BadInput(
                "E_HEADER",
                f"Signal {number} of the header is malformed: format, gain(baseline)/unit, "
                "five integers and the lead name are expected.",
                where=f"signal {number}",
            )
        value, baseline, unit = gain_match.groups() if gain_match else ("0", None, None)
        if not np.isfinite(float(value)):
            raise BadInput("E_HEADER", "A gain is not finite.", where=f"signal {number}")
        formats.append(format_match["format"])
        if formats[-1] not in _INVALID or format_match["per_frame"] not in (None, "1"):
            raise BadInput(
                "E_FORMAT",
                f"Signal {number} has WFDB format {form.split(':')[0].split('+')[0]}; "
                f"formats {', '.join(_INVALID)} with one sample a frame are read.",
                where=f"signal {number}",
            )
        offsets.append(int(format_match["offset"] or 0))
        skews.append(int(format_match["skew"] or 0))
        gains.append(float(value))
        baselines.append(int(baseline or zero or 0))
        units.append(unit)
    try:
        order, extra = lead_order(key[-1])
    except BadInput:  # said again by _check_meaning
        order, extra = tuple(range(len(key[-1]))), ()
    millivolt = np.array([MILLIVOLT.get(unit or "", np.nan) for unit in units])[list(order)]
    gain = np.array(gains)[list(order)]
    baseline = np.array(baselines, dtype=np.float64)[list(order)]
    leads = LEADS if len(order) == len(LEADS) else INDEPENDENT_LEADS
    inverted = [lead for lead, value in zip(leads, gain, strict=False) if value < 0]
    notices = (
        Notice(
            "A_POLARITY",
            f"The gain of {', '.join(inverted)} is negative: the signal may be upside "
            "down. Check the export of the device.",
        ),
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        resolution = np.abs(millivolt / gain)
    return _Layout(
        formats=tuple(formats),
        offsets=tuple(offsets),
        skews=tuple(skews),
        baseline=baseline[:, np.newaxis],
        gain=gain[:, np.newaxis],
        millivolt=millivolt[:, np.newaxis],
        resolution=resolution,
        order=order,
        is_plain=(
            order == tuple(range(len(key[-1])))
            and not any(skews)
            and not baseline.any()
            and bool((millivolt == 1).all())
        ),
        extra=extra,
        notices=notices if inverted else (),
    )


@lru_cache(maxsize=64)
def _check_meaning(key: _LayoutKey) -> None:
    """Refuse units, gains and leads that cannot be used, in this order."""
    signals = [(gain, _GAIN.fullmatch(gain)) for gain in key[1]]
    for number, (_, match) in enumerate(signals, 1):
        where = f"signal {number}"
        if match is not None and match["unit"] not in MILLIVOLT:
            raise BadInput(
                "E_UNITS",
                f"Signal {number} has {'an unknown' if match['unit'] else 'no'} unit; "
                "write V, mV or uV after the gain, as in 1000/mV.",
                where=where,
            )
    for number, (gain, match) in enumerate(signals, 1):
        if match is None or float(match["gain"]) == 0:
            raise BadInput(
                "E_CALIBRATION",
                f"Signal {number} has {'gain 0' if gain else 'no gain'}: it is not "
                "calibrated and cannot be read in mV.",
                where=f"signal {number}",
            )
    lead_order(key[-1])


def _read_signals(
    folder: Path,
    root: Path | None,
    files: Sequence[str],
    layout: _Layout,
    n_samples: int,
    digest: "hashlib._Hash | None",
) -> list[np.ndarray]:
    """Digital samples of every signal file, one array ``(sample, signal)`` a file."""
    blocks = []
    start = 0
    while start < len(files):
        stop = start + 1
        while stop < len(files) and files[stop] == files[start]:
            stop += 1
        form, offset = layout.formats[start], layout.offsets[start]
        if (
            files[start] in files[stop:]
            or layout.formats[start:stop].count(form) != stop - start
            or layout.offsets[start:stop].count(offset) != stop - start
        ):
            raise BadInput(
                "E_HEADER",
                "The signals of one file have to stand together and to share one format.",
            )
        n_values = n_samples * (stop - start)
        data = _read_signal_file(
            folder / files[start], root, offset + _n_bytes(form, n_values)
        )
        if digest is not None:
            digest.update(data)
        blocks.append(
            _decode(data, form, offset, n_values).reshape(n_samples, stop - start)
        )
        start = stop
    return blocks


def _read_signal_file(path: Path, root: Path | None, size: int) -> bytes:
    """All bytes of a signal file that has to have `size` bytes."""
    with open_checked(path, root=root, max_bytes=None, what="signal file") as file:
        if file.size != size:
            raise BadInput(
                "E_SIZE_MISMATCH",
                f"The header declares {size} bytes of signal; the file has {file.size}.",
            )
        if size > MAX_SIGNAL_BYTES:
            raise BadInput(
                "E_TOO_LARGE",
                f"The signal file has {size} bytes; the limit is {MAX_SIGNAL_BYTES}. Cut "
                "the record into shorter ones.",
            )
        return file.read()


def _n_bytes(form: str, n_values: int) -> int:
    """Size of `n_values` samples in a format."""
    if form == "212":  # two samples in three bytes
        return (3 * n_values + 1) // 2
    return n_values * {"80": 1, "24": 3, "32": 4}.get(form, 2)


def _decode(data: bytes, form: str, offset: int, n_values: int) -> np.ndarray:
    """Samples of a signal file as signed integers, in the order of the file."""
    if form == "16":
        return np.frombuffer(data, "<i2", n_values, offset)
    if form == "61":
        return np.frombuffer(data, ">i2", n_values, offset)
    if form == "32":
        return np.frombuffer(data, "<i4", n_values, offset)
    if form == "80":
        return np.frombuffer(data, np.uint8, n_values, offset).astype(np.int16) - 128
    if form == "160":
        unsigned = np.frombuffer(data, "<u2", n_values, offset)
        return (unsigned.astype(np.int32) - (1 << 15)).astype(np.int16)
    stored = np.frombuffer(data, np.uint8, offset=offset).astype(np.int32)
    if form == "24":
        low, middle, high = stored.reshape(-1, 3).T
        value = low | middle << 8 | high << 16
        return value - ((value & 1 << 23) << 1)
    # 212: two samples in three bytes; byte 1 holds the high four bits of both
    stored = np.concatenate([stored, np.zeros(-len(stored) % 3, np.int32)])
    first, halves, second = stored.reshape(-1, 3).T
    value = np.stack([first | (halves & 15) << 8, second | (halves >> 4) << 8], axis=1)
    value = value.reshape(-1)[:n_values]
    return value - ((value & 1 << 11) << 1)


def _present(blocks: Sequence[np.ndarray], layout: _Layout) -> list[np.ndarray] | None:
    """Where a sample was recorded, by file; ``None`` if everywhere.

    Raises
    ------
    BadInput
        ``E_EMPTY`` if no sample was recorded at all, or the skew leaves none.
    """
    n_samples = blocks[0].shape[0]
    if n_samples == 0 or min(layout.skews) >= n_samples:
        raise BadInput("E_EMPTY", "The record holds no sample.")
    start, present, is_complete = 0, [], True
    for block in blocks:
        invalid = _INVALID[layout.formats[start]]
        if block.min() == invalid:
            is_complete = False
        present.append(invalid)
        start += block.shape[1]
    if is_complete:
        return None
    masks = [block != invalid for block, invalid in zip(blocks, present, strict=True)]
    if not any(mask.any() for mask in masks):
        raise BadInput("E_EMPTY", "Every sample is marked as invalid.")
    return masks


def _compare_checksums(
    blocks: Sequence[np.ndarray], checksums: Sequence[int | None]
) -> None:
    """Refuse samples whose 16-bit sum is not that of the header (signed or not)."""
    start = 0
    for block in blocks:
        n_samples, n_signals = block.shape
        if block.dtype == np.dtype("<i2"):
            values = block.view("<u2")
            if n_samples % 50 == 0:  # long rows add faster
                values = values.reshape(-1, 50 * n_signals)
                values = values.sum(axis=0, dtype=np.uint16).reshape(50, n_signals)
            sums = values.sum(axis=0, dtype=np.uint16).tolist()
        else:
            sums = (block.sum(axis=0, dtype=np.int64) % 65536).tolist()
        if sums == checksums[start : start + n_signals]:
            start += n_signals
            continue
        for number, found in enumerate(sums, start):
            if checksums[number] not in (None, found):
                raise BadInput(
                    "E_CHECKSUM",
                    f"The samples of signal {number + 1} do not add up to the checksum of "
                    "the header: the signal file is damaged or belongs to another header.",
                    where=f"signal {number + 1}",
                )
        start += n_signals


def _physical(
    blocks: Sequence[np.ndarray], present: Sequence[np.ndarray] | None, layout: _Layout
) -> Float[np.ndarray, "lead sample"]:
    """Signal in mV of the leads that are read; NaN where nothing was recorded."""
    digital = blocks[0] if len(blocks) == 1 else np.concatenate(blocks, axis=1)
    if layout.is_plain:
        signal = digital.T.astype(np.float64, order="C")
    else:
        signal = digital.T[list(layout.order)].astype(np.float64, order="C")
        signal -= layout.baseline
    signal /= layout.gain
    if not layout.is_plain:
        signal *= layout.millivolt
    if present is not None:
        mask = present[0] if len(present) == 1 else np.concatenate(present, axis=1)
        signal[~mask.T[list(layout.order)]] = np.nan
    if any(layout.skews):
        n_samples = signal.shape[1]
        for row, position in enumerate(layout.order):
            skew = min(layout.skews[position], n_samples)
            signal[row] = np.concatenate([signal[row, skew:], np.full(skew, np.nan)])
    if (present is not None or any(layout.skews)) and not np.isfinite(signal).any():
        raise BadInput("E_EMPTY", "No lead holds a valid sample.")
    return signal
