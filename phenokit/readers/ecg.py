"""Read a 12-lead ECG of any known format; the first bytes decide the format.

WFDB, EDF and CSV are read by our own strict readers. SCP-ECG, HL7 aECG, GE MUSE, Philips
and DICOM go through ecgdatakit, behind a strict check of the whole file; they were tested
on files that the tests write, not on vendors' files. Whatever the format, leads are found
by name, voltages are converted by the unit that the file declares, and names, ids and free
text of the file are dropped.
"""

import hashlib
import logging
import math
import os
import re
import tempfile
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from phenokit.errors import BadInput
from phenokit.readers.files import MAX_BYTES, open_checked, read_bytes, read_start
from phenokit.readers.wfdb import (
    INDEPENDENT_LEADS,
    MAX_SAMPLING_RATE,
    MILLIVOLT,
    MIN_SAMPLING_RATE,
    add_derived_leads,
    hash_wfdb,
    lead_order,
    read_wfdb,
)
from phenokit.recording import LEADS, Notice, Recording, standard_lead

ECG_SUFFIXES = (".hea", ".xml", ".dcm", ".scp", ".edf", ".csv")
"""Usual endings of ECG files, for a file dialog; the first bytes decide, not the ending."""

MAX_FILE_BYTES = 1 << 26

_START_BYTES = 4096
_BYTES_AT_ONCE = 1 << 23
_PICTURES = {
    b"%PDF": "a PDF",
    b"\x89PNG": "a picture",
    b"\xff\xd8\xff": "a picture",
    b"GIF8": "a picture",
    b"BM": "a picture",
    b"II*\0": "a picture",
    b"MM\0*": "a picture",
}
_WFDB_LINE = re.compile(
    rb"[^\s#]\S*[ \t]+\d+[ \t]+[\d./()-]+[ \t]+\d+[^\n]*\r?\n", re.ASCII
)
_XML_ROOTS = {
    "AnnotatedECG": ("HL7 aECG", "hl7_aecg", "HL7aECGParser"),
    "RestingECG": ("GE MUSE XML", "ge_muse_xml", "GEMuseXMLParser"),
    "restingecgdata": ("Philips XML", "sierra_xml", "SierraXMLParser"),
}
_XML_PROLOG = re.compile(
    r"<\?.*?\?>|<!--.*?-->|<!DOCTYPE[^>\[]*(?:\[.*?\])?[^>]*>", re.DOTALL
)
_XML_ROOT = re.compile(r"<(?:[A-Za-z_][\w.-]*:)?([A-Za-z_][\w.-]*)")
_TIME_COLUMN = re.compile(r"(?:t|time|seconds?)(?:\s*[\[(]\s*s\s*[\])]|_s)?", re.IGNORECASE)
_COLUMN = re.compile(r"\s*(?P<name>[^\[(]*?)\s*(?:[\[(]\s*(?P<unit>\S+?)\s*[\])])?\s*")
_NUMBERS = re.compile(r"[0-9eE+\-.,\n \tnNaA]*", re.ASCII)

_SHIFTED = {"start_sample", "LeadTimeOffset"}
"""Notes of ecgdatakit on leads that begin later than others."""

_LIBRARY = threading.Lock()  # warnings and loggers are global: one file at a time


@dataclass(frozen=True)
class _Channel:
    """One channel of a file before the leads are put in order."""

    name: str
    millivolt: Float[np.ndarray, " sample"]
    sampling_rate: float
    resolution: float  # mV a step; NaN where the format does not say


def read_ecg(
    path: Path,
    *,
    root: Path | None = None,
    sampling_rate: float | None = None,
    unit: str | None = None,
) -> Recording:
    """Read one 12-lead ECG.

    Parameters
    ----------
    path
        The file. For WFDB the header ``.hea``, the signal file ``.dat`` or the record name
        without ending.
    root
        Folder that the file, and every file that it refers to, has to lie in.
    sampling_rate, unit
        For CSV only, where the file itself does not say: Hz, and ``"V"``, ``"mV"`` or
        ``"uV"``.

    Returns
    -------
    Recording
        The twelve leads in the order of `LEADS`, in mV, at the rate of the file.

    Raises
    ------
    BadInput
        With the code of `phenokit.errors.CODES` that says why the file cannot be used.
    """
    if path.suffix == ".hea":
        return read_wfdb(path, root=root)
    try:
        start = read_start(path, _START_BYTES, root=root)
    except BadInput as refusal:
        if refusal.code != "E_MISSING":
            raise
        return _read_record_by_name(path, root, refusal)
    kind = _kind_of(path, start)
    if kind == "WFDB":
        return read_wfdb(path, root=root)
    if kind == "EDF":
        return _read_edf_ecg(path, root)
    if kind is None and path.suffix == ".dat":
        return read_wfdb(path.with_suffix(".hea"), root=root)
    if kind is None:
        raise BadInput("E_FORMAT", _unknown_format(start))
    data = read_bytes(path, root=root, max_bytes=MAX_FILE_BYTES)
    if kind == "CSV":
        return _read_csv(data, path.stem, sampling_rate, unit)
    if kind == "XML":
        return _read_xml(data, path.stem)
    if kind == "DICOM":
        return _read_dicom(data, path.stem)
    return _read_scp(data, path.stem)


def hash_ecg(path: Path, *, root: Path | None = None) -> str:
    """SHA-256 of the bytes of one ECG, as `read_ecg` gives it, also where it is refused.

    Of a file that is too large to be read its size is hashed, not its content.

    Raises
    ------
    BadInput
        If nothing can be opened.
    """
    if path.suffix == ".hea":
        return hash_wfdb(path, root=root)
    try:
        start = read_start(path, _START_BYTES, root=root)
    except BadInput as refusal:
        if refusal.code != "E_MISSING":
            raise
        return hash_wfdb(path.with_name(path.name + ".hea"), root=root)
    kind = _kind_of(path, start)
    if kind == "WFDB":
        return hash_wfdb(path, root=root)
    if kind is None and path.suffix == ".dat":
        with suppress(BadInput):
            return hash_wfdb(path.with_suffix(".hea"), root=root)
    limit = MAX_BYTES if kind == "EDF" else MAX_FILE_BYTES
    digest = hashlib.sha256()
    with open_checked(path, root=root, max_bytes=None) as file:
        if kind is None or file.size > limit:
            return hashlib.sha256(start + b"%d" % file.size).hexdigest()
        for first in range(0, file.size, _BYTES_AT_ONCE):
            digest.update(file.read(_BYTES_AT_ONCE, start=first))
    return digest.hexdigest()


def is_ecg_file(path: Path) -> bool:
    """Whether the first bytes of a file are those of an ECG or EEG format.

    A WFDB header is known by its ending, so that a damaged one is not passed over; its
    signal files are none. A file that cannot be opened is none.
    """
    if path.suffix == ".hea":
        return True
    try:
        return _sniff(read_start(path, _START_BYTES)) is not None
    except BadInput:
        return False


def is_eeg_file(path: Path) -> bool:
    """Whether a file is EDF and none of its signals has the name of a lead.

    A damaged header is none: what is wrong with the file is said where it is opened.
    """
    from phenokit.readers.edf import read_header

    try:
        with open_checked(path, max_bytes=None, what="EDF file") as file:
            if _sniff(file.read(_START_BYTES)) != "EDF":
                return False
            labels = read_header(file).labels
    except BadInput:
        return False
    return all(standard_lead(_lead_name(label)) is None for label in labels)


def _kind_of(path: Path, start: bytes) -> str | None:
    """The format of a file by its first bytes; by its ending if it is damaged."""
    if path.suffix.lower() == ".dcm":
        return "DICOM"  # a picture named .dcm is a broken DICOM file
    return _sniff(start) or _SUFFIX_KINDS.get(path.suffix.lower())


def _read_record_by_name(path: Path, root: Path | None, refusal: BadInput) -> Recording:
    """A WFDB record that was named without the ending of its header."""
    try:
        return read_wfdb(path.with_name(path.name + ".hea"), root=root)
    except BadInput as error:
        raise (refusal if error.code == "E_MISSING" else error) from None


_SUFFIX_KINDS = {".edf": "EDF", ".xml": "XML", ".csv": "CSV", ".scp": "SCP"}


def _sniff(start: bytes) -> str | None:
    """The format that the first bytes of a file are of; ``None`` if none that is read."""
    if start[128:132] == b"DICM":
        return "DICOM"
    if start[:8] == b"0       ":
        return "EDF"
    if _is_scp(start):
        return "SCP"
    text = _decoded_start(start)
    if text.lstrip().startswith("<"):
        root = _root_element(text)
        return "XML" if root in _XML_ROOTS or root is None else None
    lines = [line for line in start.split(b"\n") if not line.startswith(b"#")]
    if lines and _WFDB_LINE.fullmatch(lines[0] + b"\n"):
        return "WFDB"
    columns = re.split("[,;\t]", text.split("\n", 1)[0])
    leads = {standard_lead(_column(name)[0]) for name in columns} - {None}
    return "CSV" if len(leads) >= len(INDEPENDENT_LEADS) else None


def _decoded_start(start: bytes) -> str:
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return start.decode("utf-16", "ignore").removeprefix("\ufeff")
    return start.decode("utf-8", "ignore").removeprefix("\ufeff")


def _root_element(text: str) -> str | None:
    """Name of the first element of an XML document; ``None`` if it stands further on."""
    match = _XML_ROOT.search(_XML_PROLOG.sub("", text))
    return match[1] if match else None


def _is_scp(start: bytes) -> bool:
    """Whether the pointers of SCP-ECG's section 0 stand where they have to (EN 1064)."""
    if len(start) < 32:
        return False
    size, number, length = (
        int.from_bytes(start[a:b], "little") for a, b in ((2, 6), (8, 10), (10, 14))
    )
    return (
        number == 0
        and length >= 26
        and (length - 16) % 10 == 0
        and size >= 6 + length
        and start[22:24] == b"\0\0"
        and start[28:32] == b"\7\0\0\0"
    )


def _unknown_format(start: bytes) -> str:
    for magic, what in _PICTURES.items():
        if start.startswith(magic):
            return (
                f"The file is {what}: a tracing on paper or a screen is not read; export "
                "the recording itself (DICOM, XML, SCP-ECG, WFDB)."
            )
    if start.startswith((b"PK\3\4", b"\x1f\x8b")):
        return "The file is an archive: unpack it first."
    if start.startswith(b"\xffBIOSEMI"):
        return "BDF files are not read; save the recording as EDF."
    return "The format of the file is not known."


# --- from channels to a recording ---------------------------------------------------------


def _recording(
    channels: Sequence[_Channel],
    *,
    record_id: str,
    source_format: str,
    sha256: str,
    notices: tuple[Notice, ...] = (),
    age: float | None = None,
    sex: str | None = None,
) -> Recording:
    """Put the leads in order, derive what may be derived, and check what they share."""
    order, extra = lead_order([channel.name for channel in channels])
    leads = [channels[position] for position in order]
    rates = {channel.sampling_rate for channel in leads}
    rate = leads[0].sampling_rate
    if len(rates) > 1 or not MIN_SAMPLING_RATE <= rate <= MAX_SAMPLING_RATE:
        raise BadInput(
            "E_FS",
            f"The sampling rate is {', '.join(f'{r:g}' for r in sorted(rates))} Hz; one "
            f"rate from {MIN_SAMPLING_RATE:g} to {MAX_SAMPLING_RATE:g} Hz is read.",
        )
    if len({len(channel.millivolt) for channel in leads}) > 1:
        raise BadInput("E_SIZE_MISMATCH", "The leads differ in length.")
    signal = np.stack([channel.millivolt for channel in leads])
    if not np.isfinite(signal).any():
        raise BadInput("E_EMPTY", "The file holds no valid sample.")
    resolution = np.array([channel.resolution for channel in leads])
    derived: tuple[str, ...] = ()
    if len(leads) == len(INDEPENDENT_LEADS):
        signal, resolution, derived, notice = add_derived_leads(signal, resolution)
        notices = (*notices, notice)
    return Recording(
        signal=signal,
        channels=LEADS,
        sampling_rate=float(rate),
        record_id=record_id,
        resolution=resolution if np.isfinite(resolution).all() else None,
        age=age,
        sex=sex,
        source_format=source_format,
        sha256=sha256,
        derived=derived,
        extra_channels=extra,
        notices=notices,
    )


# --- EDF ----------------------------------------------------------------------------------


def _lead_name(label: str) -> str:
    """The label of an EDF signal without the type that stands before it."""
    return re.sub(r"(?i)^(?:ecg|ekg)\s+", "", label)


def _read_edf_ecg(path: Path, root: Path | None) -> Recording:
    from phenokit.readers.edf import read_edf

    file = read_edf(path, root=root)
    channels = [
        _Channel(
            _lead_name(signal.label),
            signal.samples * MILLIVOLT[signal.unit],
            signal.sampling_rate,
            signal.resolution * MILLIVOLT[signal.unit],
        )
        for signal in file.signals
    ]
    return _recording(
        channels,
        record_id=path.stem,
        source_format="EDF",
        sha256=file.sha256,
        notices=file.notices,
    )


# --- CSV ----------------------------------------------------------------------------------


def _column(name: str) -> tuple[str, str | None]:
    """Name and unit of a column: ``"V1 [uV]"`` is ``("V1", "uV")``."""
    match = _COLUMN.fullmatch(name.strip().strip('"'))
    return (match["name"], match["unit"]) if match else (name, None)


def _read_csv(
    data: bytes, record_id: str, sampling_rate: float | None, unit: str | None
) -> Recording:
    """One column a lead, one row a sample; a column of seconds may give the rate."""
    names, values = _csv_table(data)
    columns = [_column(name) for name in names]
    is_time = [_TIME_COLUMN.fullmatch(name.strip()) is not None for name in names]
    if sum(is_time) > 1:
        raise BadInput("E_COLUMNS", "Two columns hold a time.")
    if True in is_time:
        stated = _rate_of_times(values[:, is_time.index(True)])
        if sampling_rate is not None and abs(sampling_rate - stated) > 0.01 * stated:
            raise BadInput(
                "E_FS",
                f"The times are those of {stated:g} Hz, not of {sampling_rate:g} Hz.",
            )
        sampling_rate = stated
    if sampling_rate is None or not math.isfinite(sampling_rate):
        raise BadInput(
            "E_FS",
            "The file does not state its sampling rate: add a column time in seconds, or "
            "give sampling_rate.",
        )
    channels = []
    for position, (name, column_unit) in enumerate(columns):
        if is_time[position]:
            continue
        if column_unit and unit and MILLIVOLT.get(column_unit) != MILLIVOLT.get(unit):
            raise BadInput("E_UNITS", f"Column {position + 1} states another unit.")
        scale = MILLIVOLT.get(column_unit or unit or "")
        if scale is None:
            raise BadInput(
                "E_UNITS",
                "The unit is missing or unknown: name the columns as in I [mV], or give "
                "unit as V, mV or uV.",
                where=f"column {position + 1}",
            )
        channels.append(
            _Channel(name, values[:, position] * scale, float(sampling_rate), math.nan)
        )
    return _recording(
        channels,
        record_id=record_id,
        source_format="CSV",
        sha256=hashlib.sha256(data).hexdigest(),
    )


def _csv_table(data: bytes) -> tuple[list[str], Float[np.ndarray, "row column"]]:
    """Column names and numbers; an empty cell or ``nan`` is NaN."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(
            "E_ENCODING", "The file is not UTF-8.", where=f"byte {error.start}"
        ) from None
    if "\0" in text:
        raise BadInput("E_ENCODING", "The file holds a NUL.", where=f"byte {data.index(0)}")
    lines = [line.strip() for line in text.strip().split("\n")]
    if len(lines) < 2:
        raise BadInput("E_EMPTY", "The file holds no row.")
    names = lines[0].split(",")
    if len(names) < len(INDEPENDENT_LEADS):
        raise BadInput(
            "E_COLUMNS", "The columns are not separated by commas; save as CSV with commas."
        )
    for number, line in enumerate(lines[1:], 2):
        if line.count(",") != len(names) - 1:
            raise BadInput("E_COLUMNS", "A row differs in width.", where=f"row {number}")
        if _NUMBERS.fullmatch(line) is None:
            raise BadInput(
                "E_COLUMNS",
                "A row holds something that is no number.",
                where=f"row {number}",
            )
    cells = [cell.strip() or "nan" for line in lines[1:] for cell in line.split(",")]
    try:
        values = np.array(cells, dtype=np.float64)
    except ValueError:
        raise BadInput("E_COLUMNS", "A cell is not a number.") from None
    if np.isinf(values).any():
        raise BadInput("E_NONFINITE", "A number is not finite.")
    return names, values.reshape(len(lines) - 1, len(names))


def _rate_of_times(times: Float[np.ndarray, " row"]) -> float:
    """Sampling rate of equally spaced times in seconds."""
    steps = np.diff(times)
    if len(steps) == 0 or not np.isfinite(steps).all() or steps.min() <= 0:
        raise BadInput("E_FS", "The column of times does not increase in every row.")
    step = (times[-1] - times[0]) / len(steps)
    grid = times[0] + step * np.arange(len(times))
    if np.abs(times - grid).max() > 0.5 * step:
        raise BadInput("E_DISCONTINUOUS", "The times are not equally spaced.")
    rate = 1 / step
    return float(round(rate)) if abs(rate - round(rate)) < 1e-3 * rate else rate


# --- formats that ecgdatakit reads --------------------------------------------------------


def _read_xml(data: bytes, record_id: str) -> Recording:
    from phenokit.readers.xml import check_xml

    check_xml(data)
    text = _decoded_start(data[:_START_BYTES])
    root = _root_element(text) or ""
    if root not in _XML_ROOTS:
        raise BadInput(
            "E_FORMAT", "The XML is no ECG that is read (HL7 aECG, GE MUSE, Philips)."
        )
    source_format, module, parser = _XML_ROOTS[root]
    return _read_by_library(data, record_id, source_format, module, parser, "E_XML")


def _read_dicom(data: bytes, record_id: str) -> Recording:
    from phenokit.readers.dicom import check_dicom

    check_dicom(data)
    return _read_by_library(
        data, record_id, "DICOM ECG", "dicom_waveform", "DICOMWaveformParser", "E_DICOM"
    )


def _read_scp(data: bytes, record_id: str) -> Recording:
    if not _is_scp(data):
        raise BadInput("E_HEADER", "The file is not an SCP-ECG file.")
    if int.from_bytes(data[2:6], "little") != len(data):
        raise BadInput("E_SIZE_MISMATCH", "The declared size is not that of the file.")
    for start, stop in _scp_lead_ranges(data):
        if stop - start + 1 > 8 * len(data):  # a sample takes at least one bit
            raise BadInput(
                "E_SIZE_MISMATCH", "A lead declares more samples than there are."
            )
    return _read_by_library(
        data, record_id, "SCP-ECG", "scp_ecg", "SCPECGParser", "E_HEADER"
    )


def _scp_lead_ranges(data: bytes) -> Iterator[tuple[int, int]]:
    """First and last sample that section 3 declares for each lead (EN 1064, 5.6)."""

    def number(position: int, width: int) -> int:
        return int.from_bytes(data[position : position + width], "little")

    for pointer in range(22, min(6 + number(10, 4), len(data)) - 9, 10):
        if number(pointer, 2) != 3:
            continue
        body = number(pointer + 6, 4) - 1 + 16
        for lead in range(number(body, 1)):
            yield number(body + 2 + 9 * lead, 4), number(body + 6 + 9 * lead, 4)


def _read_by_library(
    data: bytes, record_id: str, source_format: str, module: str, parser: str, code: str
) -> Recording:
    """Let a parser of ecgdatakit decode checked bytes; keep leads, age and sex."""
    record, said = _parse(data, module, parser, code, source_format)
    if any("checksum" in text or "crc" in text for text in said):
        raise BadInput(
            "E_CHECKSUM", f"The {source_format} file does not match its checksum."
        )
    if not record.leads or all(len(lead.samples) == 0 for lead in record.leads):
        raise BadInput("E_EMPTY", f"The {source_format} file holds no sample.")
    exact = record.raw_metadata.get("rhythm_time", {}).get("sampling_rate_exact")
    if exact is None and any("rounded" in text or "integer" in text for text in said):
        raise BadInput("E_FS", "The sampling rate is not a whole number of Hz.")
    if any(lead.annotations.keys() & _SHIFTED for lead in record.leads):
        raise BadInput("E_DISCONTINUOUS", "The leads were not recorded at the same time.")
    channels = [_library_channel(lead, exact) for lead in record.leads]
    age = record.patient.age
    return _recording(
        channels,
        record_id=record_id,
        source_format=source_format,
        sha256=hashlib.sha256(data).hexdigest(),
        age=float(age) if age is not None and 0 <= age <= 120 else None,
        sex={"M": "male", "F": "female"}.get(record.patient.sex),
    )


def _library_channel(lead: Any, exact_rate: float | None) -> _Channel:  # noqa: ANN401
    """One lead of ecgdatakit in mV, by the unit that the file declares."""
    unit = lead.resolution_unit if lead.is_raw else lead.units
    scale = {"nV": 1e-6, **MILLIVOLT}.get(unit)
    if scale is None:
        raise BadInput("E_UNITS", "The file does not state the unit of a lead.")
    gain = float(lead.resolution) if lead.is_raw else 1.0
    offset = float(lead.offset) if lead.is_raw else 0.0
    if not (math.isfinite(gain) and math.isfinite(offset)) or gain == 0:
        raise BadInput("E_CALIBRATION", "A lead has no usable gain.")
    samples = np.asarray(lead.samples, dtype=np.float64)
    return _Channel(
        lead.label,
        (samples * gain + offset) * scale,
        float(exact_rate if exact_rate is not None else lead.sampling_rate),
        abs(gain) * scale,
    )


def _parse(
    data: bytes, module: str, parser: str, code: str, source_format: str
) -> tuple[Any, list[str]]:
    """The record that a parser of ecgdatakit returns, and its warnings in lower case.

    Neither an exception nor a warning nor a log line of the library gets out: they may
    hold the patient's name.
    """
    from importlib import import_module

    parser_class = getattr(import_module(f"ecgdatakit.parsing.parsers.{module}"), parser)
    with (
        _LIBRARY,
        _bytes_as_file(data) as path,
        warnings.catch_warnings(record=True) as said,
    ):
        warnings.simplefilter("always")
        loggers = [logging.getLogger(name) for name in ("pydicom", "ecgdatakit")]
        was_disabled = [logger.disabled for logger in loggers]
        for logger in loggers:
            logger.disabled = True
        try:
            record = parser_class().parse(path)
        except Exception:
            raise BadInput(code, f"The {source_format} file cannot be decoded.") from None
        finally:
            for logger, value in zip(loggers, was_disabled, strict=True):
                logger.disabled = value
    return record, [str(warning.message).lower() for warning in said]


@contextmanager
def _bytes_as_file(data: bytes) -> Iterator[Path]:
    """A path under which the library finds exactly the bytes that were checked."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("ecg")  # in memory: no copy of a patient on the disk
        try:
            with open(descriptor, "wb", closefd=False) as file:
                file.write(data)
            yield Path(f"/proc/self/fd/{descriptor}")
        finally:
            os.close(descriptor)
        return
    with tempfile.TemporaryDirectory() as folder:  # 0700
        path = Path(folder) / "ecg"
        path.write_bytes(data)
        yield path
