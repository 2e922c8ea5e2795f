"""Read the clips of MAYO and FNUSA (Nejedly et al. 2020, doi:10.1038/s41597-020-0532-5).

A folder holds ``segments.csv`` and a file ``.mat`` a clip: 3 s of one channel at 5 kHz,
labelled by a reviewer. Clips are no recordings: whether activity is pathological can be
learned from them, when seizures begin and end cannot. So they are never scored as seizure
detection, and a network for longer segments refuses them (`check_clip_segments`) rather
than fill them up with zeros.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

import numpy as np

from phenokit.errors import BadInput
from phenokit.readers.files import check_name, read_bytes
from phenokit.readers.tables import Column, read_table
from phenokit.recording import Recording

SAMPLING_RATE = 5000.0
N_SAMPLES = 15_000
DURATION = N_SAMPLES / SAMPLING_RATE

_MAX_CLIP_BYTES = 1 << 18
_MATLAB_5 = b"MATLAB 5.0 MAT-file"
_COLUMNS = (
    Column("segment_id", unique=True),
    Column("patient_id"),
    Column("category_id", "integer", low=0, high=3),
    Column("reviewer_id", is_required=False, may_be_missing=True),
)


class ClipCategory(IntEnum):
    """What a reviewer saw in a clip."""

    MAINS_NOISE = 0
    ARTEFACT = 1
    PHYSIOLOGICAL = 2
    PATHOLOGICAL = 3


@dataclass(frozen=True)
class Clip:
    """A row of ``segments.csv``.

    Attributes
    ----------
    clip_id, patient_id, reviewer_id
        As in the table; the reviewer is empty where nobody is named.
    category
        The reviewer's verdict.
    """

    clip_id: str
    patient_id: str
    category: ClipCategory
    reviewer_id: str = ""


@dataclass(frozen=True)
class ClipArchive:
    """A folder of clips; the signals are read when they are asked for.

    Attributes
    ----------
    folder
        Where the clips lie.
    clips
        In the order of the table.
    unit
        Of the samples; empty where the user did not say, as the files do not.
    """

    folder: Path
    clips: tuple[Clip, ...]
    unit: str = ""

    def read(self, clip: Clip) -> Recording:
        """The signal of one clip: one channel, 3 s at 5 kHz.

        Raises
        ------
        BadInput
            ``E_PATH`` for an id that is no plain name, ``E_MISSING``, ``E_FORMAT`` for
            another version of MATLAB, ``E_ARRAY`` or ``A_DURATION`` for another content.
        """
        name = f"{check_name(clip.clip_id, what='id of the clip')}.mat"
        data = read_bytes(
            self.folder / name, root=self.folder, max_bytes=_MAX_CLIP_BYTES, what="clip"
        )
        return Recording(
            signal=_signal(data)[None],
            channels=("1",),
            sampling_rate=SAMPLING_RATE,
            record_id=clip.clip_id,
            unit=self.unit,
            patient_id=clip.patient_id,
            source_format="MATLAB clip",
        )

    def __iter__(self) -> Iterator[Clip]:
        return iter(self.clips)

    def __len__(self) -> int:
        return len(self.clips)


def read_clips(folder: Path, *, unit: str = "") -> ClipArchive:
    """Read the table of a folder of clips.

    Parameters
    ----------
    folder
        Holds ``segments.csv`` and the clips.
    unit
        ``"uV"`` if the user knows that the samples are microvolts.

    Raises
    ------
    BadInput
        ``E_UNITS`` for another unit, and as `phenokit.readers.tables.read_table`.
    """
    if unit not in ("", "uV"):
        raise BadInput("E_UNITS", "The unit of the clips is uV, or not known.")
    table = read_table(
        folder / "segments.csv",
        _COLUMNS,
        root=folder,
        ignore_others=True,
        what="clip table",
    )
    reviewers = table["reviewer_id"] if "reviewer_id" in table else [""] * len(table)
    clips = tuple(
        Clip(clip_id, patient_id, ClipCategory(int(category)), reviewer)
        for clip_id, patient_id, category, reviewer in zip(
            table["segment_id"],
            table["patient_id"],
            table["category_id"],
            reviewers,
            strict=True,
        )
    )
    return ClipArchive(folder, clips, unit)


def check_clip_segments(segment_duration: float | int) -> None:
    """Refuse a network whose segments are longer than a clip.

    Parameters
    ----------
    segment_duration
        Seconds of the network's segments.

    Raises
    ------
    BadInput
        ``A_DURATION``.

    Examples
    --------
    >>> check_clip_segments(5)
    Traceback (most recent call last):
        ...
    phenokit.errors.BadInput: A clip lasts 3 s; the network reads segments of 5 s.
    """
    if segment_duration > DURATION:
        raise BadInput(
            "A_DURATION",
            f"A clip lasts {DURATION:g} s; the network reads segments of "
            f"{segment_duration:g} s.",
        )


def _signal(data: bytes) -> np.ndarray:
    """The array `data` of a MATLAB file, float64, whose shape is checked before it is."""
    from scipy.io import loadmat, whosmat
    from scipy.io.matlab import MatReadError

    if not data.startswith(_MATLAB_5):
        raise BadInput("E_FORMAT", "The clip is no MATLAB file of version 5 to 7.")
    try:
        found = {name: (shape, kind) for name, shape, kind in whosmat(io.BytesIO(data))}
        shape, kind = found.get("data", ((), ""))
        if kind not in ("double", "single", "int16", "int32") or np.prod(shape) > 1e7:
            raise BadInput("E_ARRAY", "The clip holds no array of numbers called data.")
        if sorted(shape) not in ([1, N_SAMPLES], [N_SAMPLES]):
            raise BadInput(
                "A_DURATION", f"The clip is not one channel of {N_SAMPLES} samples."
            )
        signal = loadmat(io.BytesIO(data), variable_names=["data"])["data"]
    except (MatReadError, ValueError, TypeError, OSError, EOFError, KeyError, IndexError):
        raise BadInput("E_ARRAY", "The clip is damaged.") from None
    signal = np.asarray(signal, dtype=np.float64).ravel()
    if not np.isfinite(signal).any():
        raise BadInput("E_EMPTY", "The clip holds no valid sample.")
    return signal
