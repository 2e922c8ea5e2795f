"""Read intracranial EEG of hours, piece by piece, in microvolts.

EDF, EDF+ and BDF are read by our own strict reader; BrainVision, MEF3, Persyst and Nihon
Kohden go through MNE behind a check of their headers (the last two were not tested on
files of their vendors). A small ``.npz`` of arrays is read as well. The first bytes decide
the format. Nothing but the header is kept: samples are read when they are asked for.

What was not recorded is NaN, never joined and never zero. Volts are converted by the unit
that the file declares, in one place; where it declares none the file is refused, or, for an
``.npz``, read in arbitrary units (`unit` is empty). Names, dates and free text about the
patient are not read into the recording.
"""

import hashlib
import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from phenokit.errors import BadInput
from phenokit.readers.archives import parse_zip
from phenokit.readers.arrays import parse_array, parse_names
from phenokit.readers.bids import read_sidecars, sidecar_names
from phenokit.readers.edf import (
    EDFHeader,
    EDFPages,
    check_signals,
    header_notices,
    read_header,
    read_timed_texts,
)
from phenokit.readers.files import (
    OpenFile,
    check_name,
    open_checked,
    read_start,
    stamp_of,
)
from phenokit.readers.ieeg_channels import (
    MICROVOLT,
    fingerprint,
    named_events,
    one_rate,
    select_channels,
)
from phenokit.readers.ieeg_recording import IEEGRecording, Piece, place_blocks
from phenokit.readers.swec import is_swec_folder, read_swec
from phenokit.readers.tables import Column, read_table
from phenokit.recording import Event

__all__ = ["IEEG_SUFFIXES", "MICROVOLT", "IEEGRecording", "is_ieeg_file", "read_ieeg"]

IEEG_SUFFIXES = (".edf", ".bdf", ".vhdr", ".mefd", ".lay", ".eeg", ".npz")
"""Usual endings of iEEG files, for a file dialog; the first bytes decide."""

_START_BYTES = 4096
_BRAINVISION = re.compile(
    rb"(?:\xef\xbb\xbf)?Brain ?Vision (?:Data Exchange|Core Data Format)", re.IGNORECASE
)
_NIHON_KOHDEN = re.compile(rb"EEG-\d{4}[A-Z] V\d\d\.\d\d|QI-\d{3}A\s|DAE-2100D")
_PART_ENDINGS = (".eeg", ".vmrk", ".dat", ".pnt", ".log", ".21e", ".PNT", ".LOG", ".21E")
_NAMED_PART = re.compile(rb"(?im)^\s*(?:DataFile|MarkerFile|File)\s*=\s*(.*?)\s*$")
_HEADER_BYTES = 1 << 22
_BYTES_AT_ONCE = 1 << 23
_SPACING = 1e-3
"""Seconds; times of neighbours that differ by less from what they should are equal."""


def read_ieeg(path: Path, *, root: Path | None = None) -> IEEGRecording:
    """Open one iEEG recording; its samples are read when they are asked for.

    Parameters
    ----------
    path
        The file: ``.edf``, ``.bdf``, ``.vhdr`` (BrainVision), ``.lay`` (Persyst), ``.eeg``
        (Nihon Kohden), ``.npz``; or the folder ``.mefd`` of a MEF3 session, ``IDxx`` of a
        SWEC patient, or one that holds one recording. Tables of BIDS and SzCORE beside it
        are read as well.
    root
        Folder that the file, and every file that it refers to, has to lie in.

    Raises
    ------
    BadInput
        With the code of `phenokit.errors.CODES` that says why the file cannot be used.
    """
    if path.is_symlink():
        raise BadInput("E_PATH", "The recording is a link.")
    if is_swec_folder(path):
        return read_swec(path, root=root)
    if path.is_dir() and path.suffix.lower() != ".mefd":
        path = _only_recording(path)
    if path.is_dir():
        kind = "MEF3"
    else:
        kind = _sniff(read_start(path, _START_BYTES, root=root), path.suffix.lower())
    if kind is None:
        raise BadInput("E_FORMAT", "The file is of no format of iEEG that is read.")
    return _READERS[kind](path, root)


def hash_ieeg(path: Path, *, root: Path | None = None) -> str:
    """SHA-256 of a recording and of all that `read_ieeg` reads with it.

    Names and contents: of the file or the whole folder, of the files that its header
    names, and of the tables beside it; hours of signal are read piece by piece.

    Raises
    ------
    BadInput
        If the recording itself cannot be opened.
    """
    digest = hashlib.sha256()
    parts = _parts_of(path, root)
    for number, part in enumerate(parts):
        digest.update(os.fsencode(part.relative_to(path.parent)) + b"\0")
        try:
            with open_checked(part, root=root, max_bytes=None) as file:
                digest.update(b"%d\0" % file.size)
                for first in range(0, file.size, _BYTES_AT_ONCE):
                    digest.update(file.read(_BYTES_AT_ONCE, start=first))
        except BadInput as refusal:
            if number == 0 or refusal.code == "E_SIZE_MISMATCH":
                raise
            digest.update(b"-\0")
    return digest.hexdigest()


def _parts_of(path: Path, root: Path | None) -> list[Path]:
    """The files of a recording, its own first, then what may lie beside it, by name."""
    beside = [path.with_name(name) for name in sidecar_names(path)]
    if path.is_dir():
        inside = sorted(part for part in path.rglob("*") if not part.is_dir())
        if not inside:
            raise BadInput("E_EMPTY", "The folder is empty.")
        return inside + sorted(beside)
    beside += [path.with_suffix(ending) for ending in _PART_ENDINGS]
    beside.append(path.with_name("electrodes.csv"))
    if path.suffix.lower() in (".vhdr", ".lay"):
        header = read_start(path, _HEADER_BYTES, root=root)
        for found in _NAMED_PART.findall(header):
            name = found.decode("utf-8", "replace").replace("$b", path.stem)
            with suppress(BadInput):
                beside.append(path.with_name(check_name(name)))
    return [path, *sorted({one for one in beside if one != path and os.path.lexists(one)})]


def is_ieeg_file(path: Path) -> bool:
    """Whether a file, or a folder of MEF3 or SWEC, is of a format of iEEG that is read.

    The files that belong to another one (``.dat``, ``.vmrk``, ``.tsv``) are none. A file
    that cannot be opened is none.
    """
    if path.is_symlink():
        return False
    if path.is_dir():
        return path.suffix.lower() == ".mefd" or is_swec_folder(path)
    try:
        return _sniff(read_start(path, _START_BYTES), path.suffix.lower()) is not None
    except BadInput:
        return False


def _sniff(start: bytes, suffix: str) -> str | None:
    """The format that the first bytes of a file are of; by its ending if it is damaged."""
    if start.startswith((b"0       ", b"\xffBIOSEMI")) or suffix in (".edf", ".bdf"):
        return "EDF"
    if suffix == ".vhdr" or (_BRAINVISION.match(start) and b"Header" in start[:80]):
        return "BrainVision"
    if suffix == ".lay":
        return "Persyst"
    if _NIHON_KOHDEN.match(start):
        return "Nihon Kohden"
    return "npz" if start.startswith(b"PK\3\4") and suffix == ".npz" else None


def _only_recording(folder: Path) -> Path:
    found = [path for path in sorted(folder.iterdir()) if is_ieeg_file(path)]
    if len(found) != 1:
        raise BadInput(
            "E_FORMAT",
            f"The folder holds {len(found)} recordings; give one of the files.",
        )
    return found[0]


# --- EDF and BDF --------------------------------------------------------------------------


def _read_edf(path: Path, root: Path | None) -> IEEGRecording:
    with open_checked(path, root=root, max_bytes=None, what="EDF file") as file:
        header = read_header(file)
        stamp = stamp_of(file)
        sidecars = read_sidecars(path, root=root)
        positions = header.signals
        names = [header.labels[k] for k in positions]
        selection, units = select_channels(
            names, [header.units[k] for k in positions], sidecars
        )
        used = tuple(positions[k] for k in selection.used)
        settled = dict(zip(positions, units, strict=True))
        check_signals(
            header, used, units=[settled.get(k, "") for k in range(len(header.labels))]
        )
        rate = one_rate([header.n_samples[k] / header.duration for k in used])
        n = header.n_samples[used[0]]
        pieces, begin, events = _timing(file, header, n)
        mark = fingerprint(stamp, file.read(header.size))
    filters = sorted({header.filters[k] for k in used} - {""})
    events = [Event(e.label, e.onset - begin, e.offset - begin) for e in events] + list(
        sidecars.events or ()
    )
    return IEEGRecording(
        record_id=path.stem,
        channels=selection.names,
        sampling_rate=rate,
        unit="uV",
        file_unit=", ".join(sorted({settled[k] for k in used})),
        pieces=pieces,
        source_format=header.kind + "+" * header.is_plus,
        reference=sidecars.reference,
        filters="; ".join(filters),
        dropped=selection.dropped,
        bad=sidecars.bad,
        annotations=named_events(events),
        positions=sidecars.positions,
        onset_zone=sidecars.onset_zone,
        mains_frequency=sidecars.mains_frequency,
        notices=header_notices(header, used),
        fingerprint=mark,
        stored=EDFPages(path, root, header, used, selection.scales, stamp),
    )


def _timing(
    file: OpenFile, header: EDFHeader, n: int
) -> tuple[tuple[Piece, ...], float, list[Event]]:
    """Pieces, the time of the first sample and the texts of an EDF or EDF+ file.

    Raises
    ------
    BadInput
        ``E_DISCONTINUOUS`` if records overlap, or if a file with gaps does not say when
        its records begin.
    """
    whole = (Piece(0, 0, header.n_records * n),)
    if not header.is_plus or not header.annotations:
        if header.is_discontinuous:
            raise BadInput("E_DISCONTINUOUS", "The file has gaps and does not say where.")
        return whole, 0.0, []
    texts = read_timed_texts(file, header)
    onsets, events = texts.record_onsets, list(texts.events)
    if np.isnan(onsets).any():
        if header.is_discontinuous:
            raise BadInput("E_DISCONTINUOUS", "A data record does not say when it begins.")
        return whole, 0.0, events
    begin = float(onsets[0])
    # A file that declares no gap may round the times of its records to seconds.
    tolerance = _SPACING if header.is_discontinuous else max(1.0, header.duration / 2)
    spacing = max(tolerance, 1.5 * header.duration / n)
    return (
        place_blocks(
            onsets - begin, np.full(header.n_records, n), n / header.duration, spacing
        ),
        begin,
        events,
    )


# --- arrays -------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Array:
    """Samples that are in memory."""

    signal: Float32[np.ndarray, "channel sample"]

    def samples(self, first: int, stop: int) -> Float32[np.ndarray, "channel sample"]:
        return self.signal[:, first:stop].copy()


def _read_npz(path: Path, root: Path | None) -> IEEGRecording:
    """Arrays `x` (sample, channel), `channels`, and `fs` (Hz) or `t` (s), or both."""
    with open_checked(path, root=root, what="array archive") as file:
        stamp, data = stamp_of(file), file.read()
    members = {name.removesuffix(".npy"): part for name, part in parse_zip(data).items()}
    if not {"x", "channels"} <= set(members) or not {"fs", "t"} & set(members):
        raise BadInput("E_ARRAY", "The archive needs the arrays x, channels, and fs or t.")
    signal = parse_array(members["x"])
    names = [name.strip() for name in parse_names(members["channels"])]
    if signal.ndim != 2 or signal.shape[1] != len(names) or not signal.size:
        raise BadInput("E_ARRAY", "The array x is not of the shape (sample, channel).")
    if np.isinf(signal).any():
        raise BadInput("E_NONFINITE", "A sample is infinite; mark what is missing as NaN.")
    if np.isnan(signal).all():
        raise BadInput("E_EMPTY", "The file holds no valid sample.")
    if len(set(names)) < len(names):
        raise BadInput("E_CHANNELS", "Two channels have the same name.")
    unit = "".join(parse_names(members["unit"])) if "unit" in members else ""
    if unit and unit not in MICROVOLT:
        raise BadInput("E_UNITS", "The unit is unknown; V, mV or uV is needed.")
    sidecars = read_sidecars(path, root=root)
    selection, units = select_channels(names, [unit] * len(names), sidecars)
    stated = {MICROVOLT.get(units[k]) for k in selection.used}
    if len(stated) > 1 or (stated == {None} and any(units)):
        raise BadInput("E_UNITS", "The channels have different or unknown units.")
    scale = stated.pop()
    values = signal.T[list(selection.used)] * (1.0 if scale is None else scale)
    contacts, onset_zone = _electrodes_csv(path, root)
    lost = [name for name in contacts if name not in names]
    if lost:
        raise BadInput(
            "E_CHANNELS",
            f"The electrode table lists {len(lost)} channels that the file has not.",
            where=", ".join(lost[:10]),
        )
    return IEEGRecording(
        record_id=path.stem,
        channels=selection.names,
        sampling_rate=_rate_of_arrays(members),
        unit="" if scale is None else "uV",
        file_unit=", ".join(sorted({units[k] for k in selection.used})),
        pieces=(Piece(0, 0, signal.shape[0]),),
        source_format="arrays (npz)",
        reference=sidecars.reference,
        dropped=selection.dropped,
        bad=sidecars.bad,
        annotations=named_events(sidecars.events or ()),
        positions=sidecars.positions,
        onset_zone=onset_zone or sidecars.onset_zone,
        mains_frequency=sidecars.mains_frequency,
        fingerprint=fingerprint(stamp, data),
        stored=_Array(np.ascontiguousarray(values, dtype=np.float32)),
    )


def _rate_of_arrays(members: Mapping[str, bytes]) -> float:
    """Hz, from `fs` or from the times `t`, which have to agree and to be even."""
    n = parse_array(members["x"]).shape[0]
    rates = []
    if "fs" in members:
        stated = parse_array(members["fs"]).ravel()
        if len(stated) != 1 or not np.isfinite(stated[0]):
            raise BadInput("E_ARRAY", "The array fs is not one number.")
        rates.append(float(stated[0]))
    if "t" in members:
        times = parse_array(members["t"]).astype(np.float64)
        if times.shape != (n,) or n < 2 or not np.isfinite(times).all():
            raise BadInput("E_ARRAY", "The array t is not a time for each sample.")
        step = (times[-1] - times[0]) / (n - 1)
        # float32 times of a long recording are off by a little.
        even = times[0] + step * np.arange(n)
        if step <= 0 or np.abs(times - even).max() > max(
            0.1 * step, 1e-6 * abs(times).max()
        ):
            raise BadInput("E_FS", "The times t are not evenly spaced.")
        rates.append(1 / step)
    if len(rates) == 2 and abs(rates[0] - rates[1]) > 0.01 * rates[0]:
        raise BadInput("E_FS", "The arrays fs and t state different sampling rates.")
    return one_rate(rates[:1])


def _electrodes_csv(
    path: Path, root: Path | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Contacts and onset zone of a table ``electrodes.csv`` beside the arrays."""
    table = path.with_name("electrodes.csv")
    if not table.exists():
        return (), ()
    columns = [Column("nameselec", unique=True), Column("insoz")]
    electrodes = read_table(
        table, columns, root=root, ignore_others=True, what="electrode table"
    )
    names = electrodes["nameselec"].tolist()
    is_inside = electrodes["insoz"].str.lower().isin(("true", "1"))
    return tuple(names), tuple(electrodes.loc[is_inside, "nameselec"])


# --- through MNE --------------------------------------------------------------------------


def _read_through_mne(path: Path, root: Path | None, kind: str) -> IEEGRecording:
    from phenokit.readers import ieeg_formats  # only now: MNE is heavy

    return getattr(ieeg_formats, kind)(path, root)


_READERS: dict[str, Callable[[Path, Path | None], IEEGRecording]] = {
    "EDF": _read_edf,
    "npz": _read_npz,
    "BrainVision": partial(_read_through_mne, kind="read_brainvision"),
    "MEF3": partial(_read_through_mne, kind="read_mef3"),
    "Persyst": partial(_read_through_mne, kind="read_persyst"),
    "Nihon Kohden": partial(_read_through_mne, kind="read_nihon_kohden"),
}
