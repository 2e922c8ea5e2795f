"""Strict reader of EDF and EDF+ files (Kemp et al. 1992, 2003).

Every number of the header is matched whole, and the size that it declares is held against
the size of the file before anything is decoded. Physical values follow the declared
ranges; an inverted range is applied and said. The fields for patient, recording,
transducer and prefiltering are dropped unread: they hold names and free text.
"""

import datetime
import hashlib
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from phenokit.errors import BadInput
from phenokit.readers.files import open_checked
from phenokit.recording import Notice

MAX_SIGNALS = 512
MAX_BYTES = 1 << 28
ANNOTATIONS = "EDF Annotations"
VOLT = {"V": 1.0, "mV": 1e-3, "uV": 1e-6, "µV": 1e-6, "μV": 1e-6}
"""Volt a unit; any other unit text is unknown."""

_INTEGER = re.compile(r"[+-]?\d{1,8}", re.ASCII)
_DECIMAL = re.compile(
    r"[+-]?(?:\d{1,8}(?:\.\d{0,7})?|\.\d{1,7})(?:[eE][+-]?\d{1,3})?", re.ASCII
)
_DATE = re.compile(r"(\d\d)\.(\d\d)\.(\d\d)", re.ASCII)
_WIDTHS = {
    "label": 16, "transducer": 80, "unit": 8, "physical_min": 8, "physical_max": 8,
    "digital_min": 8, "digital_max": 8, "prefilter": 80, "n_samples": 8, "reserved": 32,
}  # fmt: skip


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
        ``E_PATH``, ``E_MISSING``, ``E_HEADER``, ``E_TOO_LARGE``, ``E_SIZE_MISMATCH``,
        ``E_EMPTY``, ``E_UNITS``, ``E_CALIBRATION``, ``E_CHANNELS`` or
        ``E_DISCONTINUOUS``; the first that holds, in this order.
    """
    with open_checked(path, root=root, max_bytes=None, what="EDF file") as file:
        fixed = _text(file.read(256), 256)
        n_signals, n_records, duration, is_discontinuous = _fixed_header(fixed)
        header = file.read(256 * (n_signals + 1))
        fields = _signal_fields(_text(header, 256 * (n_signals + 1))[256:], n_signals)
        n_samples = [_integer(text, 1, 1 << 24) for text in fields["n_samples"]]
        declared = len(header) + 2 * n_records * sum(n_samples)
        if declared != file.size:
            raise BadInput(
                "E_SIZE_MISMATCH",
                f"The header declares {declared} bytes; the file has {file.size}.",
            )
        if declared > MAX_BYTES:
            raise BadInput(
                "E_TOO_LARGE",
                f"The file has {declared} bytes; the limit is {MAX_BYTES}. Cut it.",
            )
        data = file.read()
    if data[: len(header)] != header:
        raise BadInput("E_SIZE_MISMATCH", "The file was changed while it was read.")
    if n_records == 0:
        raise BadInput("E_EMPTY", "The file holds no data record.")
    used = [i for i, label in enumerate(fields["label"]) if label != ANNOTATIONS]
    if not used:
        raise BadInput("E_EMPTY", "The file holds annotations only.")
    ranges = _ranges(fields)
    _check_units(fields, used)
    _check_ranges(ranges, used)
    doubled = [
        label for label, n in Counter(fields["label"][i] for i in used).items() if n > 1
    ]
    if doubled:
        number = fields["label"].index(doubled[0]) + 1
        raise BadInput(
            "E_CHANNELS", "Two signals have the same name.", where=f"signal {number}"
        )
    if is_discontinuous:
        raise BadInput(
            "E_DISCONTINUOUS", "The recording has gaps (EDF+D): cut it at the gaps."
        )
    records = np.frombuffer(data, "<i2", offset=len(header)).reshape(n_records, -1)
    starts = np.concatenate([[0], np.cumsum(n_samples)])
    signals = tuple(
        _signal(
            fields["label"][i],
            records[:, starts[i] : starts[i + 1]].reshape(-1),
            n_samples[i] / duration,
            fields["unit"][i],
            ranges[i],
        )
        for i in used
    )
    inverted = [i + 1 for i in used if ranges[i, 0] > ranges[i, 1]]
    notices = []
    if not _is_date(fixed[168:176]) or not _is_time(fixed[176:184]):
        notices.append(Notice("W_TIME", "The time or date in the header is impossible."))
    if inverted:
        numbers = ", ".join(str(number) for number in inverted)
        notices.append(
            Notice(
                "W_POLARITY",
                f"The range of signal {numbers} is inverted: the sign was applied.",
            )
        )
    return EDFFile(signals, tuple(notices), hashlib.sha256(data).hexdigest())


def _text(data: bytes, size: int) -> str:
    """The header as text: of full size; Latin-1, because names in old files are."""
    if len(data) != size or b"\0" in data:
        raise BadInput("E_HEADER", "The header is empty, cut off or not text.")
    return data.decode("latin-1")


def _fixed_header(text: str) -> tuple[int, int, float, bool]:
    """Number of signals and records, seconds a record, and whether there are gaps."""
    if text[:8].strip() != "0":
        raise BadInput("E_HEADER", "The file is not an EDF file.", where="byte 0")
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
    return n_signals, n_records, duration, text[192:197] == "EDF+D"


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


def _ranges(fields: dict[str, list[str]]) -> Float[np.ndarray, "signal 4"]:
    """Physical and digital minimum and maximum of every signal."""
    return np.array(
        [
            [_decimal(low), _decimal(high), _integer(d_low, -(1 << 15), (1 << 15) - 1),
             _integer(d_high, -(1 << 15), (1 << 15) - 1)]
            for low, high, d_low, d_high in zip(
                fields["physical_min"], fields["physical_max"],
                fields["digital_min"], fields["digital_max"], strict=True,
            )
        ],
        dtype=np.float64,
    )  # fmt: skip


def _check_units(fields: dict[str, list[str]], used: list[int]) -> None:
    for i in used:
        if fields["unit"][i] not in VOLT:
            kind = "an unknown" if fields["unit"][i] else "no"
            raise BadInput(
                "E_UNITS",
                f"Signal {i + 1} has {kind} unit; V, mV or uV is needed.",
                where=f"signal {i + 1}",
            )


def _check_ranges(ranges: Float[np.ndarray, "signal 4"], used: list[int]) -> None:
    for i in used:
        if ranges[i, 0] == ranges[i, 1] or ranges[i, 2] >= ranges[i, 3]:
            raise BadInput(
                "E_CALIBRATION",
                f"Signal {i + 1} has an empty physical or digital range.",
                where=f"signal {i + 1}",
            )


def _signal(
    label: str,
    digital: np.ndarray,
    sampling_rate: float,
    unit: str,
    limits: Float[np.ndarray, " 4"],
) -> EDFSignal:
    physical_min, physical_max, digital_min, digital_max = limits.tolist()
    gain = (physical_max - physical_min) / (digital_max - digital_min)
    samples = (digital.astype(np.float64) - digital_min) * gain + physical_min
    unit = {"µV": "uV", "μV": "uV"}.get(unit, unit)
    return EDFSignal(label, samples, sampling_rate, unit, abs(gain))


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
