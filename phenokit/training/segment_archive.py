"""Prepared segments of many iEEG recordings on disk, which training reads at random.

    DIR/archive.json              rule of the segments; a row a recording
    DIR/00000/signal.npy          int16, (segment, channel, sample), `STEP` microvolts each
    DIR/00000/valid.npy           bool, (segment, channel)

`archive.json` is written last. Patients are split, never segments: a patient on both sides
of a split is refused.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Int8, Int16

from phenokit.errors import BadInput
from phenokit.evidence.seizures import label_segments
from phenokit.preprocessing.montage import channel_order
from phenokit.preprocessing.segments import SegmentGrid, SegmentRule
from phenokit.recording import Event, LongRecording

STEP = 0.1
"""Microvolts a unit of the stored signal; beyond 3,276 microvolts it is cut off."""

SPLITS = ("train", "val", "test")

VERSION = 1


@dataclass(frozen=True)
class ArchivedRecording:
    """One recording of an archive.

    Attributes
    ----------
    number
        Of its folder.
    record_id, patient_id, split
        ``"train"``, ``"val"`` or ``"test"``.
    channels
        In the order of the signal.
    n_segments
        Full segments.
    duration
        Of the whole recording, seconds.
    seizures
        As annotated.
    """

    number: int
    record_id: str
    patient_id: str
    split: str
    channels: tuple[str, ...]
    n_segments: int
    duration: float
    seizures: tuple[Event, ...]


class SegmentArchive:
    """An archive that was written before; signals stay on disk until they are read.

    Parameters
    ----------
    folder
        As `write_archive` made it.

    Raises
    ------
    BadInput
        ``E_MISSING`` or ``E_VERSION`` if there is no complete archive of this version.
    """

    def __init__(self, folder: Path) -> None:
        index = folder / "archive.json"
        if not index.is_file():
            raise BadInput("E_MISSING", f"{folder.name} holds no finished archive")
        content = json.loads(index.read_text())
        if content.get("format") != "phenokit segments" or content["version"] != VERSION:
            raise BadInput("E_VERSION", f"{folder.name} is no archive of this version")
        self.folder = folder
        self.dataset: str = content["dataset"]
        self.rule = SegmentRule.from_dict(content["rule"])
        self.recordings = tuple(_from_dict(row) for row in content["recordings"])

    def of(self, split: str) -> tuple[ArchivedRecording, ...]:
        """Recordings of one split."""
        return tuple(one for one in self.recordings if one.split == split)

    def signal(
        self, recording: ArchivedRecording, first: int, stop: int
    ) -> Float32[np.ndarray, "segment channel sample"]:
        """Segments `first` to before `stop`, microvolts; 0 where not valid."""
        stored = self._stored(recording, "signal")
        return stored[first:stop].astype(np.float32) * np.float32(STEP)

    def valid(
        self, recording: ArchivedRecording, first: int = 0, stop: int | None = None
    ) -> Bool[np.ndarray, "segment channel"]:
        """Which channels of which segments hold a usable signal."""
        return np.array(self._stored(recording, "valid")[first:stop])

    def label(self, recording: ArchivedRecording) -> Bool[np.ndarray, " segment"]:
        """Which segments share time with a seizure."""
        return label_segments(
            recording.seizures,
            n_segments=recording.n_segments,
            segment_duration=self.rule.duration,
        )

    def channel_label(
        self, recording: ArchivedRecording
    ) -> Int8[np.ndarray, "segment channel"]:
        """1 where a channel is in seizure, 0 where not, -1 where nobody said.

        An annotation that names its channels says so of all; one that names none of those
        recorded says nothing.
        """
        label = np.zeros((recording.n_segments, len(recording.channels)), dtype=np.int8)
        for seizure in recording.seizures:
            inside = label_segments(
                (seizure,),
                n_segments=recording.n_segments,
                segment_duration=self.rule.duration,
            )
            named = np.array([name in seizure.channels for name in recording.channels])
            label[inside] = named if named.any() else -1
        return label

    def _stored(self, recording: ArchivedRecording, name: str) -> np.ndarray:
        path = self.folder / f"{recording.number:05d}" / f"{name}.npy"
        return np.lib.format.open_memmap(path, "r")


@dataclass(frozen=True)
class ToArchive:
    """A recording that is to be archived; attributes as of `ArchivedRecording`."""

    recording: LongRecording
    patient_id: str
    split: str
    seizures: tuple[Event, ...]


def write_archive(
    folder: Path,
    recordings: Iterator[ToArchive] | Sequence[ToArchive],
    *,
    rule: SegmentRule,
    dataset: str,
) -> SegmentArchive:
    """Prepare recordings and write them, in the order of their montage where they have one.

    Parameters
    ----------
    folder
        Made if need be. A recording that is complete there, from a run that was cut off,
        is prepared again all the same: nothing on disk is trusted before ``archive.json``.
    recordings
        Consumed one by one.
    dataset
        What it is, in words.

    Raises
    ------
    BadInput
        ``E_UNITS`` for a recording that is not in microvolts, ``E_VERSION`` for a patient
        in two splits, ``E_EMPTY`` if there is no recording.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "archive.json").unlink(missing_ok=True)
    rows: list[ArchivedRecording] = []
    split_of: dict[str, str] = {}
    for number, one in enumerate(recordings):
        if one.split not in SPLITS:
            raise ValueError(f"the split is one of {', '.join(SPLITS)}, not {one.split}")
        if split_of.setdefault(one.patient_id, one.split) != one.split:
            raise BadInput(
                "E_VERSION",
                f"patient {one.patient_id} is in {split_of[one.patient_id]} and in "
                f"{one.split}; a patient belongs to one split",
            )
        if one.recording.unit != "uV":
            raise BadInput(
                "E_UNITS",
                f"{one.recording.record_id} is in {one.recording.unit or 'no unit'}; "
                "training needs microvolts",
            )
        rows.append(_write_recording(folder, number, one, rule))
    if not rows:
        raise BadInput("E_EMPTY", "there is no recording to archive")
    content = {
        "format": "phenokit segments",
        "version": VERSION,
        "dataset": dataset,
        "rule": rule.to_dict(),
        "recordings": [asdict(row) for row in rows],
    }
    temporary = folder / "archive.json.tmp"
    temporary.write_text(json.dumps(content, indent=1) + "\n")
    temporary.replace(folder / "archive.json")
    return SegmentArchive(folder)


def montage_order(channels: Sequence[str]) -> list[int]:
    """Positions by shaft and contact; as recorded where a name is no contact."""
    try:
        return channel_order(channels, "montage")
    except BadInput:
        return list(range(len(channels)))


def _write_recording(
    folder: Path, number: int, one: ToArchive, rule: SegmentRule
) -> ArchivedRecording:
    recording = one.recording
    grid = SegmentGrid(rule, recording.sampling_rate)
    n = grid.n_segments(recording.n_samples)
    order = montage_order(recording.channels)
    place = folder / f"{number:05d}"
    place.mkdir(exist_ok=True)
    stored: Int16[np.ndarray, "segment channel sample"] = np.lib.format.open_memmap(
        place / "signal.npy", "w+", np.int16, (n, len(order), rule.samples)
    )
    valid = np.zeros((n, len(order)), dtype=bool)
    for k in range(n):
        segment = grid.read(recording, k)
        scaled = np.clip(np.rint(segment.signal[order] / STEP), -32767, 32767)
        stored[k] = scaled.astype(np.int16)
        valid[k] = segment.valid[order]
    stored.flush()
    np.save(place / "valid.npy", valid, allow_pickle=False)
    return ArchivedRecording(
        number,
        recording.record_id,
        one.patient_id,
        one.split,
        tuple(recording.channels[k] for k in order),
        n,
        recording.n_samples / float(recording.sampling_rate),
        one.seizures,
    )


def _from_dict(row: Mapping[str, Any]) -> ArchivedRecording:
    seizures = tuple(
        Event(**{**seizure, "channels": tuple(seizure["channels"])})
        for seizure in row["seizures"]
    )
    return ArchivedRecording(
        **{**row, "channels": tuple(row["channels"]), "seizures": seizures}
    )
