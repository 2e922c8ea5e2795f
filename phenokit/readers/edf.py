"""Strict reader of EDF and EDF+ files (Kemp et al. 1992, 2003), and of BDF.

Every number of the header is matched whole, and the size that it declares is held against
the size of the file before anything is decoded. Physical values follow the declared
ranges; an inverted range is applied and said. The fields for patient, recording and
transducer are dropped unread, and of the prefiltering only corner frequencies are kept:
the rest holds names and free text.

`read_edf` decodes a short file whole. A file of hours is read piece by piece: `read_header`
checks it, and `EDFPages` reads from it what is asked for.
"""

import datetime
import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float, Float32

from phenokit.errors import BadInput
from phenokit.readers.files import OpenFile, open_checked, stamp_of
from phenokit.recording import Event, Notice

MAX_SIGNALS = 512
MAX_BYTES = 1 << 28
ANNOTATIONS = ("EDF Annotations", "BDF Annotations")
VOLT = {"V": 1.0, "mV": 1e-3, "uV": 1e-6, "µV": 1e-6, "μV": 1e-6}
"""Volt a unit; any other unit text is unknown."""

_MICROVOLT = {"µV", "ÂµV", "\x83ÊV"}
"""In Latin-1, UTF-8 and Shift-JIS, as files of different makers have it."""

_MAGIC: dict[bytes, Literal["EDF", "BDF"]] = {b"0       ": "EDF", b"\xffBIOSEMI": "BDF"}
_BYTES_A_SAMPLE = {"EDF": 2, "BDF": 3}
_INTEGER = re.compile(r"[+-]?\d{1,8}", re.ASCII)
_DECIMAL = re.compile(
    r"[+-]?(?:\d{1,8}(?:\.\d{0,7})?|\.\d{1,7})(?:[eE][+-]?\d{1,3})?", re.ASCII
)
_DATE = re.compile(r"(\d\d)\.(\d\d)\.(\d\d)", re.ASCII)
_CORNER = re.compile(r"(?i)\b(HP|LP|N)\s*:\s*(DC|\d{1,5}(?:\.\d{1,4})?)\s*(?:Hz)?\b")
_TIMED_TEXT = re.compile(
    rb"([+-]\d{1,9}(?:\.\d{1,9})?)(?:\x15(\d{1,9}(?:\.\d{0,9})?))?\x14([^\0]*)\x14\0"
)
_WIDTHS = {
    "label": 16, "transducer": 80, "unit": 8, "physical_min": 8, "physical_max": 8,
    "digital_min": 8, "digital_max": 8, "prefilter": 80, "n_samples": 8, "reserved": 32,
}  # fmt: skip
_RECORD_AT_ONCE = 1 << 22
"""Bytes of a data record; a longer one is read signal by signal."""


@dataclass(frozen=True)
class EDFHeader:
    """The checked header of an EDF or BDF file; of the patient it holds nothing.

    Attributes
    ----------
    kind
        What the first bytes say.
    is_plus, is_discontinuous
        Whether it is EDF+ (BDF+), and whether it declares gaps between its records.
    size
        Bytes before the first data record.
    n_records, duration
        Data records, and seconds each.
    labels, units, n_samples, filters
        Of each signal: names and units without surrounding spaces, samples in a record,
        and corner frequencies as in ``"HP:0.1 LP:300"``.
    ranges
        Physical minimum and maximum and digital minimum and maximum of each signal.
    has_time
        Whether date and time of the start are possible ones; they are not kept.
    """

    kind: Literal["EDF", "BDF"]
    is_plus: bool
    is_discontinuous: bool
    size: int
    n_records: int
    duration: float
    labels: tuple[str, ...]
    units: tuple[str, ...]
    n_samples: tuple[int, ...]
    filters: tuple[str, ...]
    ranges: Float[np.ndarray, "signal 4"]
    has_time: bool

    @property
    def signals(self) -> list[int]:
        """Positions of the signals that are no annotations."""
        return [k for k, label in enumerate(self.labels) if label not in ANNOTATIONS]

    @property
    def annotations(self) -> list[int]:
        """Positions of the signals that are annotations."""
        return [k for k, label in enumerate(self.labels) if label in ANNOTATIONS]

    @property
    def width(self) -> int:
        """Bytes of a sample."""
        return _BYTES_A_SAMPLE[self.kind]

    @property
    def record_size(self) -> int:
        """Bytes of a data record."""
        return self.width * sum(self.n_samples)

    def start(self, position: int) -> int:
        """Where a signal starts in a data record, in samples."""
        return sum(self.n_samples[:position])

    def gain(self, position: int) -> tuple[float, float]:
        """Unit a digital step of a signal, and the unit at digital zero."""
        low, high, digital_low, digital_high = self.ranges[position].tolist()
        gain = (high - low) / (digital_high - digital_low)
        return gain, low - digital_low * gain


@dataclass(frozen=True)
class EDFSignal:
    """One signal of an EDF file.

    Attributes
    ----------
    label
        As written, without surrounding spaces. Text of unknown origin.
    samples
        Shape ``(sample,)``, float64, in `unit`.
    sampling_rate
        Hz.
    unit
        ``"V"``, ``"mV"`` or ``"uV"``.
    resolution
        Unit a digital step.
    """

    label: str
    samples: Float[np.ndarray, " sample"]
    sampling_rate: float
    unit: str
    resolution: float


@dataclass(frozen=True)
class EDFFile:
    """Signals of an EDF file (annotations left out), its warnings and its hash."""

    signals: tuple[EDFSignal, ...]
    notices: tuple[Notice, ...]
    sha256: str


def read_edf(path: Path, *, root: Path | None = None) -> EDFFile:
    """Read all signals of an EDF or a continuous EDF+ file.

    Parameters
    ----------
    path, root
        See `phenokit.readers.files.open_checked`.

    Raises
    ------
    BadInput
        ``E_PATH``, ``E_MISSING``, ``E_HEADER``, ``E_SIZE_MISMATCH``, ``E_EMPTY``,
        ``E_TOO_LARGE``, ``E_UNITS``, ``E_CALIBRATION``, ``E_CHANNELS`` or
        ``E_DISCONTINUOUS``; the first that holds, in this order.
    """
    with open_checked(path, root=root, max_bytes=None, what="EDF file") as file:
        header = read_header(file)
        if header.kind != "EDF":
            raise BadInput("E_FORMAT", "BDF files are not read; save it as EDF.")
        if file.size > MAX_BYTES:
            raise BadInput(
                "E_TOO_LARGE",
                f"The file has {file.size} bytes; the limit is {MAX_BYTES}. Cut it.",
            )
        data = file.read()
    used = header.signals
    check_signals(header, used, units=header.units)
    if header.is_discontinuous:
        raise BadInput(
            "E_DISCONTINUOUS", "The recording has gaps (EDF+D): cut it at the gaps."
        )
    records = np.frombuffer(data, "<i2", offset=header.size)
    records = records.reshape(header.n_records, -1)
    signals = []
    for k in used:
        first = header.start(k)
        digital = records[:, first : first + header.n_samples[k]].reshape(-1)
        signals.append(_signal(header, k, digital))
    return EDFFile(
        tuple(signals), header_notices(header, used), hashlib.sha256(data).hexdigest()
    )


def read_header(file: OpenFile) -> EDFHeader:
    """Check the header of an open EDF or BDF file, and its size against the file's.

    Raises
    ------
    BadInput
        ``E_HEADER``, ``E_SIZE_MISMATCH``, or ``E_EMPTY`` if there is no record or no
        signal.
    """
    start = file.read(256)
    kind = _MAGIC.get(start[:8])
    fixed = _text(start, 256)
    if kind is None:
        raise BadInput("E_HEADER", "The file is not an EDF file.", where="byte 0")
    n_signals, n_records, duration = _fixed_header(fixed)
    size = 256 * (n_signals + 1)
    fields = _signal_fields(_text(file.read(size), size)[256:], n_signals)
    header = EDFHeader(
        kind=kind,
        is_plus=fixed[192:196] == f"{kind}+",
        is_discontinuous=fixed[192:197] == f"{kind}+D",
        size=size,
        n_records=n_records,
        duration=duration,
        labels=tuple(fields["label"]),
        units=tuple("uV" if u in _MICROVOLT else u for u in fields["unit"]),
        n_samples=tuple(_integer(text, 1, 1 << 24) for text in fields["n_samples"]),
        filters=tuple(_corners(text) for text in fields["prefilter"]),
        ranges=_ranges(fields, 8 * _BYTES_A_SAMPLE[kind]),
        has_time=_is_date(fixed[168:176]) and _is_time(fixed[176:184]),
    )
    declared = size + n_records * header.record_size
    if declared != file.size:
        raise BadInput(
            "E_SIZE_MISMATCH",
            f"The header declares {declared} bytes; the file has {file.size}.",
        )
    if n_records == 0:
        raise BadInput("E_EMPTY", "The file holds no data record.")
    if not header.signals:
        raise BadInput("E_EMPTY", "The file holds annotations only.")
    return header


def check_signals(header: EDFHeader, used: Sequence[int], *, units: Sequence[str]) -> None:
    """Refuse signals whose samples would not be volts, or whose names are the same.

    Parameters
    ----------
    header
        Of the file.
    used
        Positions of the signals that are to be read.
    units
        Of all signals.

    Raises
    ------
    BadInput
        ``E_UNITS``, ``E_CALIBRATION`` or ``E_CHANNELS``, in this order; `where` is the
        number of the signal in the file.
    """
    for k in used:
        if units[k] not in VOLT:
            kind = "an unknown" if units[k] else "no"
            raise BadInput(
                "E_UNITS",
                f"Signal {k + 1} has {kind} unit; V, mV or uV is needed.",
                where=f"signal {k + 1}",
            )
    for k in used:
        low, high, digital_low, digital_high = header.ranges[k].tolist()
        if low == high or digital_low >= digital_high:
            raise BadInput(
                "E_CALIBRATION",
                f"Signal {k + 1} has an empty physical or digital range.",
                where=f"signal {k + 1}",
            )
    counts = Counter(header.labels[k] for k in used)
    doubled = [k for k in used if counts[header.labels[k]] > 1]
    if doubled:
        raise BadInput(
            "E_CHANNELS",
            "Two signals have the same name.",
            where=f"signal {doubled[0] + 1}",
        )


def header_notices(header: EDFHeader, used: Sequence[int]) -> tuple[Notice, ...]:
    """Warnings of a header: an impossible time, signals whose range is inverted."""
    notices = []
    if not header.has_time:
        notices.append(Notice("W_TIME", "The time or date in the header is impossible."))
    inverted = [k + 1 for k in used if header.ranges[k, 0] > header.ranges[k, 1]]
    if inverted:
        numbers = ", ".join(str(number) for number in inverted)
        notices.append(
            Notice(
                "W_POLARITY",
                f"The range of signal {numbers} is inverted: the sign was applied.",
            )
        )
    return tuple(notices)


@dataclass(frozen=True)
class EDFPages:
    """Signals of one rate of a file that was checked, read piece by piece.

    The file is opened anew for each piece, so that nothing is held open in between, and
    refused if it is no longer the one whose header was checked.

    Attributes
    ----------
    path, root
        See `phenokit.readers.files.open_checked`.
    header
        Of the file.
    used
        Positions of the signals, which have as many samples in a record as one another.
    scales
        What each signal is multiplied by, to be in one unit.
    stamp
        Of the file whose header it is; see `phenokit.readers.files.stamp_of`.
    """

    path: Path
    root: Path | None
    header: EDFHeader
    used: tuple[int, ...]
    scales: tuple[float, ...]
    stamp: tuple[int, ...]

    def samples(self, first: int, stop: int) -> Float32[np.ndarray, "channel sample"]:
        """Samples `first` to before `stop` of those in the file, gaps not counted.

        Raises
        ------
        BadInput
            ``E_SIZE_MISMATCH`` if the file has changed, and as `open_checked`.
        """
        n = self.header.n_samples[self.used[0]]
        begin, end = first // n, -(-stop // n)
        with open_checked(self.path, root=self.root, max_bytes=None) as file:
            if stamp_of(file) != self.stamp:
                raise BadInput(
                    "E_SIZE_MISMATCH", "The file has changed since it was opened."
                )
            digital = self._digital(file, begin, end)[
                :, first - begin * n : stop - begin * n
            ]
        gains = [self.header.gain(k) for k in self.used]
        signal = np.empty(digital.shape, dtype=np.float32)
        for k, ((gain, zero), scale) in enumerate(zip(gains, self.scales, strict=True)):
            signal[k] = digital[k] * (gain * scale) + zero * scale
        return signal

    def _digital(self, file: OpenFile, begin: int, end: int) -> np.ndarray:
        """Integers of whole records, shape ``(channel, sample)``."""
        header, n = self.header, self.header.n_samples[self.used[0]]
        starts = [header.start(k) for k in self.used]
        if header.record_size > _RECORD_AT_ONCE:
            return np.stack(
                [
                    np.concatenate(
                        [self._integers(file, r, start, n) for r in range(begin, end)]
                    )
                    for start in starts
                ]
            )
        length = (end - begin) * header.record_size
        data = file.read(length, start=header.size + begin * header.record_size)
        records = _integers(data, header.width).reshape(end - begin, -1)
        if starts == list(range(starts[0], starts[0] + n * len(starts), n)):
            block = records[:, starts[0] : starts[0] + n * len(starts)]
            block = block.reshape(end - begin, len(starts), n)
        else:
            block = np.stack([records[:, a : a + n] for a in starts], axis=1)
        return block.swapaxes(0, 1).reshape(len(starts), -1)

    def _integers(self, file: OpenFile, record: int, start: int, n: int) -> np.ndarray:
        width = self.header.width
        offset = self.header.size + record * self.header.record_size + start * width
        return _integers(file.read(n * width, start=offset), width)


@dataclass(frozen=True)
class TimedTexts:
    """What the annotation signals of an EDF+ file hold.

    Attributes
    ----------
    record_onsets
        Seconds from the start of the file, a data record; NaN where none is stated.
    events
        Texts with their times; the offset is NaN where no duration is stated.
    """

    record_onsets: Float[np.ndarray, " record"]
    events: tuple[Event, ...]


def read_timed_texts(file: OpenFile, header: EDFHeader) -> TimedTexts:
    """Read the annotations of an EDF+ file; text that follows no grammar is left out."""
    onsets = np.full(header.n_records, np.nan)
    events: list[Event] = []
    for order, position in enumerate(header.annotations):
        offset = header.size + header.start(position) * header.width
        length = header.n_samples[position] * header.width
        for record in range(header.n_records):
            data = file.read(length, start=offset + record * header.record_size)
            for k, (onset, duration, texts) in enumerate(_timed_texts(data)):
                if order == 0 and k == 0 and texts[0] == "":
                    onsets[record] = onset
                events += [
                    Event(text, onset, onset + duration) for text in texts if text.strip()
                ]
    return TimedTexts(onsets, tuple(events))


def _timed_texts(data: bytes) -> Iterator[tuple[float, float, list[str]]]:
    """Onset, duration (NaN if unknown) and texts of each list of one record."""
    for onset, duration, texts in _TIMED_TEXT.findall(data):
        yield (
            float(onset),
            float(duration) if duration else np.nan,
            texts.decode("utf-8", "replace").split("\x14"),
        )


def _integers(data: bytes, width: int) -> np.ndarray:
    """Little-endian integers of 16 or 24 bits."""
    if width == 2:
        return np.frombuffer(data, "<i2")
    low = np.frombuffer(data, np.uint8).reshape(-1, 3).astype(np.int32)
    return ((low[:, 0] | low[:, 1] << 8 | low[:, 2] << 16) ^ 0x800000) - 0x800000


def _text(data: bytes, size: int) -> str:
    """The header as text: of full size; Latin-1, because names in old files are."""
    if len(data) != size or b"\0" in data:
        raise BadInput("E_HEADER", "The header is empty, cut off or not text.")
    return data.decode("latin-1")


def _fixed_header(text: str) -> tuple[int, int, float]:
    """Number of signals and of records, and seconds a record."""
    n_header_bytes = _integer(text[184:192], 0, 10**8)
    n_records = _integer(text[236:244], -1, 10**8)
    n_signals = _integer(text[252:256], 0, 9999)
    if not 1 <= n_signals <= MAX_SIGNALS:
        raise BadInput(
            "E_HEADER",
            f"The header declares {n_signals} signals; 1 to {MAX_SIGNALS} are read.",
        )
    if n_header_bytes != 256 * (n_signals + 1):
        raise BadInput("E_HEADER", "The size of the header does not fit its signals.")
    if n_records < 0:
        raise BadInput("E_HEADER", "The number of data records is not stated.")
    duration = _decimal(text[244:252])
    if duration <= 0:
        raise BadInput("E_HEADER", "The duration of a data record is not positive.")
    return n_signals, n_records, duration


def _signal_fields(text: str, n_signals: int) -> dict[str, list[str]]:
    """The fields of all signals by name, without surrounding spaces."""
    fields, start = {}, 0
    for name, width in _WIDTHS.items():
        stop = start + width * n_signals
        fields[name] = [text[i : i + width].strip() for i in range(start, stop, width)]
        start = stop
    return fields


def _integer(text: str, low: int, high: int) -> int:
    text = text.strip()
    if _INTEGER.fullmatch(text) is None or not low <= int(text) <= high:
        raise BadInput("E_HEADER", "A number of the header is malformed or out of range.")
    return int(text)


def _decimal(text: str) -> float:
    text = text.strip()
    if _DECIMAL.fullmatch(text) is None or not np.isfinite(float(text)):
        raise BadInput("E_HEADER", "A number of the header is malformed or not finite.")
    return float(text)


def _ranges(fields: dict[str, list[str]], bits: int) -> Float[np.ndarray, "signal 4"]:
    """Physical and digital minimum and maximum of every signal."""
    low, high = -(1 << bits - 1), (1 << bits - 1) - 1
    return np.array(
        [
            [_decimal(a), _decimal(b), _integer(c, low, high), _integer(d, low, high)]
            for a, b, c, d in zip(
                fields["physical_min"], fields["physical_max"],
                fields["digital_min"], fields["digital_max"], strict=True,
            )
        ],
        dtype=np.float64,
    )  # fmt: skip


def _corners(text: str) -> str:
    """Corner frequencies in a prefiltering field; the rest of it is free text."""
    return " ".join(f"{kind.upper()}:{value}" for kind, value in _CORNER.findall(text))


def _signal(header: EDFHeader, position: int, digital: np.ndarray) -> EDFSignal:
    gain, _ = header.gain(position)
    physical_min, _, digital_min, _ = header.ranges[position].tolist()
    samples = (digital.astype(np.float64) - digital_min) * gain + physical_min
    rate = header.n_samples[position] / header.duration
    unit = header.units[position]
    return EDFSignal(header.labels[position], samples, rate, unit, abs(gain))


def _is_date(text: str) -> bool:
    match = _DATE.fullmatch(text)
    if match is None:
        return False
    day, month, year = (int(part) for part in match.groups())
    try:
        datetime.date(1900 + year if year >= 85 else 2000 + year, month, day)
    except ValueError:
        return False
    return True


def _is_time(text: str) -> bool:
    match = _DATE.fullmatch(text)
    return match is not None and all(
        int(part) < limit for part, limit in zip(match.groups(), (24, 60, 60), strict=True)
    )
