"""IEEGRecording: an iEEG file that is open, of which pieces are read."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Float32, Int

from phenokit.errors import BadInput
from phenokit.recording import Event, Notice, Recording


@runtime_checkable
class StoredSamples(Protocol):
    """Samples of the channels of a recording as they lie in a file, one after another."""

    def samples(self, first: int, stop: int) -> Float32[np.ndarray, "channel sample"]:
        """Samples `first` to before `stop` of those in the file, gaps not counted."""
        ...


@dataclass(frozen=True)
class Piece:
    """A stretch without a gap, in samples.

    Attributes
    ----------
    start
        Where it begins in the recording.
    first
        The first of its samples among those in the file.
    n
        How many it has.
    """

    start: int
    first: int
    n: int


@dataclass(frozen=True)
class IEEGRecording:
    """An iEEG of any length, of which pieces are read.

    Attributes
    ----------
    record_id
        File stem. Text of unknown origin: escape it where shown.
    channels
        Names as they stand in the file, of the channels that are read.
    sampling_rate
        Hz.
    unit
        ``"uV"``; empty where the file states none (arbitrary units).
    file_unit
        What the file, or the channel table, states; empty where it is the format's own.
    pieces
        Where there are samples, in order; what lies between is a gap.
    source_format
        In words: ``"EDF+"``.
    reference, filters
        What the file says, in words; empty where it says nothing.
    dropped
        Channels of the file that are not read (ECG, trigger ...), with the reason.
    bad
        Channels that somebody marked as bad, with the reason. They are read.
    annotations
        Events of the file and of the event table beside it, in order of onset; a seizure
        has the label ``"sz"`` or a finer type, all others their own text. The offset is
        NaN where no duration is stated.
    positions
        Coordinates of contacts by channel name, in the space of the electrode table.
    onset_zone
        Channels marked as the zone where seizures begin; empty where nobody said.
    mains_frequency
        Hz; ``None`` where unknown.
    notices
        Warnings raised while reading.
    fingerprint
        Of the header, size and time of the file: another file has another one. It is not
        a hash of the samples.
    """

    record_id: str
    channels: tuple[str, ...]
    sampling_rate: float
    unit: str
    pieces: tuple[Piece, ...]
    source_format: str
    file_unit: str = ""
    reference: str = ""
    filters: str = ""
    dropped: Mapping[str, str] = field(default_factory=dict)
    bad: Mapping[str, str] = field(default_factory=dict)
    annotations: tuple[Event, ...] = ()
    positions: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)
    onset_zone: tuple[str, ...] = ()
    mains_frequency: float | None = None
    notices: tuple[Notice, ...] = ()
    fingerprint: str = ""
    stored: StoredSamples = field(kw_only=True, repr=False)

    @property
    def n_samples(self) -> int:
        """In each channel, gaps counted."""
        return self.pieces[-1].start + self.pieces[-1].n

    @property
    def duration(self) -> float:
        """Length in seconds, gaps counted."""
        return self.n_samples / self.sampling_rate

    @property
    def gaps(self) -> tuple[tuple[float, float], ...]:
        """Begin and end (s) of what was not recorded."""
        return tuple(
            ((a.start + a.n) / self.sampling_rate, b.start / self.sampling_rate)
            for a, b in zip(self.pieces, self.pieces[1:], strict=False)
        )

    @property
    def seizures(self) -> tuple[Event, ...]:
        """Annotations labelled ``sz`` or a finer type of HED-SCORE (``sz_foc`` ...)."""
        return tuple(e for e in self.annotations if e.label.split("_")[0] == "sz")

    def samples(self, first: int, stop: int) -> Float32[np.ndarray, "channel sample"]:
        """Samples `first` to before `stop` of every channel; NaN where none was recorded.

        Raises
        ------
        ValueError
            If they do not lie in the recording.
        BadInput
            If the file has changed since, or cannot be read any more.
        """
        if not 0 <= first <= stop <= self.n_samples:
            raise ValueError(
                f"samples {first} to {stop} of a recording of {self.n_samples}"
            )
        if len(self.pieces) == 1 and first < stop:
            return self.stored.samples(first, stop)
        signal = np.full((len(self.channels), stop - first), np.nan, dtype=np.float32)
        for piece in self.pieces:
            begin, end = max(first, piece.start), min(stop, piece.start + piece.n)
            if begin < end:
                shift = piece.first - piece.start
                signal[:, begin - first : end - first] = self.stored.samples(
                    begin + shift, end + shift
                )
        return signal

    def read(self, begin: float | int, end: float | int) -> Recording:
        """A stretch of the recording, between two times in seconds; NaN in gaps.

        Raises
        ------
        ValueError
            If it does not lie in the recording.
        """
        first, stop = (round(time * self.sampling_rate) for time in (begin, end))
        return Recording(
            signal=self.samples(first, stop).astype(np.float64),
            channels=self.channels,
            sampling_rate=self.sampling_rate,
            record_id=self.record_id,
            unit=self.unit,
            source_format=self.source_format,
            extra_channels=tuple(self.dropped),
            notices=self.notices,
        )


def place_blocks(
    onsets: Float[np.ndarray, " block"],
    lengths: Int[np.ndarray, " block"],
    sampling_rate: float,
    tolerance: float,
) -> tuple[Piece, ...]:
    """Pieces of blocks that begin at `onsets` (s, from the first) and have `lengths`.

    A block within `tolerance` (s) of the end of the piece before it continues it.

    Raises
    ------
    BadInput
        ``E_DISCONTINUOUS`` if a block begins before the one before it ends.
    """
    pieces: list[Piece] = []
    first, start, n, time = 0, 0, 0, 0.0
    for onset, length in zip(onsets.tolist(), lengths.tolist(), strict=True):
        late = onset - (time + n / sampling_rate)
        if late < -tolerance:
            raise BadInput("E_DISCONTINUOUS", "Two data records overlap in time.")
        if late > tolerance:
            pieces.append(Piece(start, first, n))
            first, n, time = first + n, 0, onset
            start = round(onset * sampling_rate)
        n += length
    return (*pieces, Piece(start, first, n))
