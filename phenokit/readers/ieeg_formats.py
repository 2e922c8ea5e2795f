"""Read BrainVision, Persyst and Nihon Kohden through MNE, and MEF3 through pymef, lazily.

MNE yields volts and trusts the file: it takes unknown units as they come, follows a file
name wherever it leads and joins what a pause separates. So units, names and sizes are
checked here first. Of a MEF3 session MNE would join the pauses as well: it goes through
pymef, on which MNE's own reader stands, and the pauses come from the session's table of
blocks. Persyst and Nihon Kohden were not tested on files of their vendors.
"""

import re
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32

from phenokit.errors import BadInput
from phenokit.readers.bids import Sidecars, read_sidecars
from phenokit.readers.files import check_name, open_checked, read_bytes, stamp_of
from phenokit.readers.ieeg_channels import (
    MICROVOLT,
    Selection,
    fingerprint,
    named_events,
    one_rate,
    select_channels,
)
from phenokit.readers.ieeg_recording import IEEGRecording, Piece, place_blocks
from phenokit.recording import Event

_MAX_HEADER_BYTES = 1 << 22
_MAX_CHANNELS = 1024
_BRAINVISION_WIDTHS = {"INT_16": 2, "INT_32": 4, "IEEE_FLOAT_32": 4}
_BRAINVISION_LINE = re.compile(r"(?P<key>[^=;\[\]]+)=(?P<value>.*)")
_CHANNEL_KEY = re.compile(r"Ch(\d{1,4})", re.IGNORECASE)
_INTEGER = re.compile(r"\d{1,9}", re.ASCII)
_DECIMAL = re.compile(r"\d{1,12}(?:\.\d{1,12})?", re.ASCII)

_MEF_FILES = (".tmet", ".tdat", ".tidx", ".rdat", ".ridx")
_MEF_FOLDERS = (".timd", ".segd", ".vidd")

_PAUSES = ("BAD boundary", "EDGE boundary", "BAD_ACQ_SKIP", "New Segment/")
_VOLTAGES = ("eeg", "seeg", "ecog", "dbs")

_LIBRARY = threading.Lock()  # warnings are global, and a reader of MNE shares its file


@dataclass(frozen=True)
class _MNEPages:
    """Channels of a file that MNE has opened without reading its samples."""

    raw: Any
    picks: tuple[int, ...]

    def samples(self, first: int, stop: int) -> Float32[np.ndarray, "channel sample"]:
        """Samples `first` to before `stop`, in microvolts."""
        with _library("The samples"):
            volts = self.raw[list(self.picks), first:stop][0]
            return (volts * MICROVOLT["V"]).astype(np.float32)


@dataclass(frozen=True)
class _MEFPages:
    """Channels of a MEF3 session."""

    session: Any
    names: tuple[str, ...]
    scales: Float[np.ndarray, " channel"]

    def samples(self, first: int, stop: int) -> Float32[np.ndarray, "channel sample"]:
        """Samples `first` to before `stop`, in microvolts."""
        with _library("The samples"):
            steps = self.session.read_ts_channels_sample(list(self.names), [first, stop])
            return (np.asarray(steps) * self.scales[:, None]).astype(np.float32)


def read_brainvision(path: Path, root: Path | None) -> IEEGRecording:
    """Open a BrainVision recording by its header ``.vhdr``."""
    with open_checked(
        path, root=root, max_bytes=_MAX_HEADER_BYTES, what="BrainVision header"
    ) as file:
        stamp, data = stamp_of(file), file.read()
    header = _brainvision_header(data, path.stem)
    sizes = {}
    for name in (header.data_file, header.marker_file):
        if name and (name == header.data_file or path.with_name(name).exists()):
            with open_checked(
                path.with_name(name), root=root, max_bytes=None, what="signal file"
            ) as part:
                sizes[name] = part.size
                stamp += stamp_of(part)
    row = header.width * len(header.names)
    if sizes[header.data_file] % row:
        raise BadInput("E_SIZE_MISMATCH", "The signal file ends within a sample.")
    if not sizes[header.data_file]:
        raise BadInput("E_EMPTY", "The signal file is empty.")
    with _library("The BrainVision file"):
        from mne.io import read_raw_brainvision

        raw = read_raw_brainvision(path, verbose="ERROR")
    if raw.n_times != sizes[header.data_file] // row or raw.ch_names != list(header.names):
        raise BadInput("E_HEADER", "The BrainVision header is unusual.")
    mark = fingerprint(stamp, data)
    return _recording(
        raw, path, root, source_format="BrainVision", mark=mark, units=header.units
    )


@dataclass(frozen=True)
class _BrainVisionHeader:
    data_file: str
    marker_file: str
    width: int
    names: tuple[str, ...]
    units: tuple[str, ...]


def _brainvision_header(data: bytes, stem: str) -> _BrainVisionHeader:
    """The fields of a header that decide which bytes are read, and in which unit."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    sections: dict[str, dict[str, str]] = {}
    fields: dict[str, str] = {}
    for line in text.splitlines():
        if line.startswith("["):
            name = line.strip().strip("[]")
            fields = {}
            if name != "Comment":
                fields = sections.setdefault(name, fields)
        elif match := _BRAINVISION_LINE.fullmatch(line.strip()):
            fields[match["key"].strip()] = match["value"].strip()
    common = sections.get("Common Infos", {})
    width = _BRAINVISION_WIDTHS.get(
        sections.get("Binary Infos", {}).get("BinaryFormat", "")
    )
    n, interval = common.get("NumberOfChannels", ""), common.get("SamplingInterval", "")
    if (
        "brain" not in text[:40].lower()
        or width is None
        or common.get("DataFormat") != "BINARY"
        or _INTEGER.fullmatch(n) is None
        or not 1 <= int(n) <= _MAX_CHANNELS
        or _DECIMAL.fullmatch(interval) is None
        or float(interval) <= 0
    ):
        raise BadInput("E_HEADER", "The BrainVision header is damaged or unusual.")
    channels = {
        int(match[1]): value.split(",")
        for key, value in sections.get("Channel Infos", {}).items()
        if (match := _CHANNEL_KEY.fullmatch(key))
    }
    if sorted(channels) != list(range(1, int(n) + 1)):
        raise BadInput("E_HEADER", "The header does not describe each of its channels.")
    names = tuple(channels[k][0].strip().replace("\\1", ",") for k in sorted(channels))
    if len(set(names)) < len(names):
        raise BadInput("E_CHANNELS", "Two channels have the same name.")
    # The format says that a unit that is left out is microvolts.
    units = tuple((*channels[k], "", "", "")[3].strip() or "uV" for k in sorted(channels))
    files = [common.get(key, "").replace("$b", stem) for key in ("DataFile", "MarkerFile")]
    check_name(files[0], what="name of the signal file")
    if files[1]:
        check_name(files[1], what="name of the marker file")
    return _BrainVisionHeader(files[0], files[1], width, names, units)


def read_mef3(path: Path, root: Path | None) -> IEEGRecording:
    """Open a MEF3 session, a folder ``.mefd``."""
    mark = _check_mef_files(path, root)
    try:
        from pymef.mef_session import MefSession
    except ImportError:
        raise BadInput(
            "E_FORMAT",
            "MEF3 sessions are read with the package pymef: install phenokit[mef].",
        ) from None
    with _library("The MEF3 session"):
        session = MefSession(str(path), "")
        metadata: Any = session.session_md
        _forget_patient(metadata)
        channels = metadata["time_series_channels"]
        names = list(channels)
        blocks = [np.asarray(session.get_channel_toc(name)) for name in names]
        described = [channels[name]["section_2"] for name in names]
        rates = [float(one["sampling_frequency"][0]) for one in described]
        factors = [float(one["units_conversion_factor"][0]) for one in described]
        texts = [bytes(one["units_description"][0]).split(b"\0")[0] for one in described]
    if not names:
        raise BadInput("E_EMPTY", "The session holds no channel.")
    units = [text.decode("utf-8", "replace") for text in texts]
    sidecars = read_sidecars(path, root=root)
    selection = _selection(
        names, ["" if unit == "not_entered" else unit for unit in units], sidecars
    )
    used = [blocks[k] for k in selection.used]
    if any(not np.array_equal(one, used[0]) for one in used[1:]):
        raise BadInput("E_DISCONTINUOUS", "The channels do not pause at the same times.")
    rate = one_rate([rates[k] for k in selection.used])
    if any(factors[k] == 0 for k in selection.used):
        raise BadInput("E_CALIBRATION", "A channel has no factor of its unit.")
    scales = [factors[k] * s for k, s in zip(selection.used, selection.scales, strict=True)]
    return IEEGRecording(
        record_id=path.stem,
        channels=selection.names,
        sampling_rate=rate,
        unit="uV",
        file_unit=", ".join(sorted({units[k] for k in selection.used})),
        pieces=_mef_pieces(used[0], rate),
        source_format="MEF3",
        reference=sidecars.reference,
        dropped=selection.dropped,
        bad=sidecars.bad,
        annotations=named_events(sidecars.events or ()),
        positions=sidecars.positions,
        onset_zone=sidecars.onset_zone,
        mains_frequency=sidecars.mains_frequency,
        fingerprint=mark,
        stored=_MEFPages(session, selection.names, np.array(scales)),
    )


def _forget_patient(metadata: dict[str, Any]) -> None:
    """Take out the sections of a session that hold names and ids."""
    metadata.pop("section_3", None)
    for part in metadata.values():
        if isinstance(part, dict):
            _forget_patient(part)


def _check_mef_files(path: Path, root: Path | None) -> str:
    """Every part is a regular file of MEF3; returns a hash of what tells them apart."""
    stamp, header = (), b""
    for part in sorted(path.rglob("*")):
        if part.is_symlink() or part.suffix not in _MEF_FILES + _MEF_FOLDERS:
            raise BadInput("E_PATH", "The session holds a link or a file of another kind.")
        if part.is_dir():
            continue
        with open_checked(part, root=root, max_bytes=None, what="part of the session") as f:
            start, size = f.read(1024), f.size
            stamp += stamp_of(f)
        kind = part.suffix[1:].encode()
        if size < 1024 or start[8:13] != kind + b"\0" or start[13] != 3:
            raise BadInput("E_HEADER", "A part of the session has no header of MEF 3.")
        header += start
    if not header:
        raise BadInput("E_EMPTY", "The session is empty.")
    return fingerprint(stamp, header)


def _mef_pieces(blocks: np.ndarray, sampling_rate: float) -> tuple[Piece, ...]:
    """Pieces of a table of blocks: discontinuity, samples, first sample, time (us)."""
    after_pause, lengths, _, times = blocks.astype(np.int64)
    starts = np.flatnonzero(after_pause.astype(bool) | (np.arange(len(times)) == 0))
    onsets = (times[starts] - times[0]) / 1e6
    runs = np.add.reduceat(lengths, starts)
    ends = onsets + runs / sampling_rate
    if np.any(onsets[1:] < ends[:-1] - 1):
        raise BadInput("E_DISCONTINUOUS", "Two stretches of the session overlap in time.")
    # Clocks drift: a stretch that begins a little early begins where the last one ended.
    onsets[1:] = np.maximum(onsets[1:], ends[:-1])
    return place_blocks(onsets, runs, sampling_rate, 1.5 / sampling_rate)


def read_persyst(path: Path, root: Path | None) -> IEEGRecording:
    """Open a Persyst recording by its layout ``.lay``."""
    layout = read_bytes(path, root=root, max_bytes=_MAX_HEADER_BYTES, what="layout")
    files = re.findall(rb"(?im)^\s*File\s*=\s*(.*?)\s*$", layout)
    if len(files) != 1:
        raise BadInput("E_HEADER", "The layout does not name one signal file.")
    check_name(files[0].decode("latin-1"), what="name of the signal file")
    signal = path.with_name(files[0].decode("latin-1"))
    with open_checked(signal, root=root, max_bytes=None, what="signal file") as file:
        stamp = stamp_of(file)
    with _library("The Persyst file"):
        from mne.io import read_raw_persyst

        raw = read_raw_persyst(path, verbose="ERROR")
    mark = fingerprint(stamp, layout)
    return _recording(raw, path, root, source_format="Persyst", mark=mark)


def read_nihon_kohden(path: Path, root: Path | None) -> IEEGRecording:
    """Open a Nihon Kohden recording by its signal file ``.eeg``."""
    with open_checked(path, root=root, max_bytes=None, what="signal file") as file:
        stamp, start = stamp_of(file), file.read(1024)
    for ending in (".pnt", ".log", ".21e", ".PNT", ".LOG", ".21E"):
        if path.with_suffix(ending).is_symlink():
            raise BadInput("E_PATH", "A part of the recording is a link.")
    with _library("The Nihon Kohden file"):
        from mne.io import read_raw_nihon

        raw = read_raw_nihon(path, verbose="ERROR")
    mark = fingerprint(stamp, start)
    return _recording(raw, path, root, source_format="Nihon Kohden", mark=mark)


@contextmanager
def _library(what: str) -> Iterator[None]:
    """Whatever MNE raises refuses the file; its words may hold those of the file."""
    with _LIBRARY, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except MemoryError:
            raise
        except Exception as error:
            raise BadInput(
                "E_HEADER", f"{what} cannot be read ({type(error).__name__})."
            ) from None


def _selection(names: Sequence[str], units: Sequence[str], sidecars: Sidecars) -> Selection:
    """Channels to read; refused if the unit of one is unknown (``E_UNITS``)."""
    selection, settled = select_channels(names, units, sidecars)
    for k, scale in zip(selection.used, selection.scales, strict=True):
        if np.isnan(scale):
            kind = "an unknown" if settled[k] else "no"
            raise BadInput(
                "E_UNITS",
                f"Signal {k + 1} has {kind} unit; V, mV or uV is needed.",
                where=f"signal {k + 1}",
            )
    return selection


def _recording(
    raw: Any,  # noqa: ANN401 - of MNE, imported late
    path: Path,
    root: Path | None,
    *,
    source_format: str,
    mark: str,
    units: Sequence[str] | None = None,
) -> IEEGRecording:
    """A file that MNE has opened; `units` of the file, for a format that has one."""
    stated = units
    if units is None:
        units = ["V" if kind in _VOLTAGES else "" for kind in raw.get_channel_types()]
    sidecars = read_sidecars(path, root=root)
    selection = _selection(list(raw.ch_names), units, sidecars)
    events = _texts(raw)
    raw.set_annotations(None)
    with _library("The file"):
        raw.anonymize(verbose="ERROR")  # nothing of the patient stays in memory
    return IEEGRecording(
        record_id=path.stem,
        channels=selection.names,
        sampling_rate=one_rate([float(raw.info["sfreq"])]),
        unit="uV",
        file_unit=", ".join(sorted({stated[k] for k in selection.used})) if stated else "",
        pieces=(Piece(0, 0, int(raw.n_times)),),
        source_format=source_format,
        reference=sidecars.reference,
        filters=_filters(raw.info),
        dropped=selection.dropped,
        bad=sidecars.bad,
        annotations=named_events([*events, *(sidecars.events or ())]),
        positions=sidecars.positions,
        onset_zone=sidecars.onset_zone,
        mains_frequency=sidecars.mains_frequency,
        fingerprint=mark,
        stored=_MNEPages(raw, selection.used),
    )


def _texts(raw: Any) -> list[Event]:  # noqa: ANN401 - of MNE, imported late
    """Annotations as MNE found them; of those that mark a pause there may be no second."""
    events = []
    for one in raw.annotations:
        begin, duration = float(one["onset"]), float(one["duration"])
        label = str(one["description"]).removeprefix("Comment/")
        events.append(Event(label, begin, begin + (duration or np.nan)))
    if any(event.label.startswith(_PAUSES) and event.onset > 0 for event in events):
        raise BadInput(
            "E_DISCONTINUOUS",
            "The recording was paused, for how long is not said: cut it there.",
        )
    return [event for event in events if not event.label.startswith(_PAUSES)]


def _filters(info: Mapping[str, Any]) -> str:
    low, high = info["highpass"], info["lowpass"]
    parts = [f"HP:{low:g}"] if low else []
    return " ".join(parts + [f"LP:{high:g}"] * (high < info["sfreq"] / 2))
