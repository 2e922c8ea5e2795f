"""Write simulated iEEG as hospitals keep it: EDF+ files with their tables beside.

NAME.edf             int16, 0.1 microvolt a step; a gap is left out (EDF+D)
NAME_events.tsv      the seizures, as SzCORE writes them
NAME_electrodes.tsv  places of the contacts, and the onset zone
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from phenokit.recording import Event, LongRecording
from phenokit.simulation.ieeg import SimulatedIEEG

RECORD = 0.5
"""Seconds of a data record. What is left of a stretch that does not fill one is lost."""

STEP = 0.1
"""Microvolts a digital step."""

_TEXT_BYTES = 24
_BLOCK_RECORDS = 64
_LARGEST = 2**15 - 1


def write_edf(path: Path, recording: LongRecording) -> Path:
    """Write a recording as EDF+, piece by piece; the file names nobody and no date.

    Where every channel is NaN nothing is written: the file says EDF+D, and each data record
    when it begins.

    Raises
    ------
    ValueError
        If the unit is not microvolts, a data record is no whole number of samples, or one
        channel alone is NaN, which EDF cannot say.
    """
    n = round(RECORD * recording.sampling_rate)
    if recording.unit != "uV" or n != RECORD * recording.sampling_rate:
        raise ValueError(
            "EDF files are written in uV, at a whole number of Hz that is even"
        )
    n_channels = len(recording.channels)
    onsets: list[float] = []
    temporary = path.with_name(f"{path.name}.tmp")
    with temporary.open("wb") as file:
        file.write(b" " * 256 * (n_channels + 2))
        for first, block in _stretches(recording, n):
            for k in range(0, block.shape[1], n):
                onsets.append((first + k) / recording.sampling_rate)
                digital = np.rint(block[:, k : k + n] / np.float32(STEP))
                digital = np.clip(digital, -_LARGEST, _LARGEST).astype("<i2")
                file.write(digital.tobytes())
                stamp = f"+{onsets[-1]:.6f}".rstrip("0").rstrip(".")
                file.write(f"{stamp}\x14\x14".encode().ljust(_TEXT_BYTES, b"\0"))
        file.seek(0)
        is_whole = all(onset == k * RECORD for k, onset in enumerate(onsets))
        file.write(_header(recording.channels, n, len(onsets), is_whole=is_whole))
    return temporary.replace(path)


def _stretches(
    recording: LongRecording, n: int
) -> Iterator[tuple[int, Float32[np.ndarray, "channel sample"]]]:
    """First sample and signal of stretches without a gap, of a multiple of `n` samples."""
    first, size = 0, n * _BLOCK_RECORDS
    while first + n <= recording.n_samples:
        block = recording.samples(first, min(first + size, recording.n_samples))
        lost = np.asarray(np.isnan(block).all(axis=0))
        if lost[0]:
            first += int(np.argmin(lost)) if not lost.all() else len(lost)
            continue
        end = int(np.argmax(lost)) if lost.any() else len(lost)
        kept = end - end % n
        if np.isnan(block[:, :kept]).any():
            raise ValueError("one channel alone is NaN")
        if kept:
            yield first, block[:, :kept]
        first += kept if end == len(lost) and kept else end


def _header(channels: Sequence[str], n: int, n_records: int, *, is_whole: bool) -> bytes:
    n_signals = len(channels) + 1
    limit = _LARGEST * STEP
    ones = [
        [*channels, "EDF Annotations"], [""] * n_signals,
        [*["uV"] * len(channels), ""],
        [*[f"{-limit:.1f}"] * len(channels), "-1"],
        [*[f"{limit:.1f}"] * len(channels), "1"],
        [*[str(-_LARGEST)] * len(channels), "-32768"],
        [*[str(_LARGEST)] * len(channels), "32767"],
        [*["HP:0.5Hz LP:120Hz"] * len(channels), ""],
        [*[str(n)] * len(channels), str(_TEXT_BYTES // 2)], [""] * n_signals,
    ]  # fmt: skip
    fixed = [
        ("0", 8), ("X X X X", 80), ("Startdate X X X simulated_by_PhenoKit", 80),
        ("01.01.85", 8), ("00.00.00", 8), (str(256 * (n_signals + 1)), 8),
        ("EDF+C" if is_whole else "EDF+D", 44), (str(n_records), 8), (f"{RECORD:g}", 8),
        (str(n_signals), 4),
    ]  # fmt: skip
    widths = (16, 80, 8, 8, 8, 8, 8, 80, 8, 32)
    texts = [text.ljust(width) for text, width in fixed]
    for column, width in zip(ones, widths, strict=True):
        texts += [text.ljust(width) for text in column]
    return "".join(texts).encode("ascii")


def write_patient_files(folder: Path, name: str, ieeg: SimulatedIEEG) -> Path:
    """Write a simulated recording and the tables beside it; returns the EDF file."""
    path = write_edf(folder / f"{name}.edf", ieeg)
    electrodes = ieeg.patient.electrodes
    zone = set(ieeg.truth.onset_zone)
    rows = ["name\tx\ty\tz\tsize\tsoz"]
    rows += [
        "\t".join(
            [contact, *(f"{x:.2f}" for x in place), "n/a", str(contact in zone).lower()]
        )
        for contact, place in zip(
            electrodes.names, electrodes.position.tolist(), strict=True
        )
    ]
    _write(folder / f"{name}_electrodes.tsv", rows)
    _write(
        folder / f"{name}_events.tsv",
        _szcore_rows(ieeg.truth.seizures, ieeg.truth.gaps, ieeg.duration),
    )
    return path


def _szcore_rows(
    seizures: Sequence[Event], gaps: Sequence[tuple[float, float]], duration: float
) -> list[str]:
    """Rows of SzCORE: seizures, or the recorded stretches if there are none."""
    edges = [0.0, *(edge for gap in sorted(gaps) for edge in gap), duration]
    events = list(seizures) or [
        Event("bckg", begin, end)
        for begin, end in zip(edges[::2], edges[1::2], strict=True)
        if math.ceil(end) > begin
    ]
    names = "onset duration eventType confidence channels dateTime recordingDuration"
    return [names.replace(" ", "\t")] + [
        "\t".join(
            [
                f"{event.onset:.2f}", f"{event.duration:.2f}", event.label, "n/a",
                ",".join(event.channels) or "n/a", "n/a", f"{duration:.2f}",
            ]
        )
        for event in events
    ]  # fmt: skip


def _write(path: Path, rows: Sequence[str]) -> None:
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text("\n".join(rows) + "\n", encoding="utf-8")
    temporary.replace(path)
