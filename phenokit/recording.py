"""Recording: one continuous multichannel signal of one patient, leads, events."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Float32

from phenokit.errors import BadInput

LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
"""The twelve standard leads in the order in which every network reads them."""

INDEPENDENT_LEADS = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")
"""The eight leads that are measured; the other four follow from I and II."""


@dataclass(frozen=True)
class Notice:
    """A warning that travels with a recording: an outcome code and one sentence."""

    code: str
    message: str


@dataclass(frozen=True)
class Recording:
    """One continuous multichannel signal of one patient.

    Attributes
    ----------
    signal
        Shape ``(channel, sample)``, float64, in `unit`; NaN where no sample was recorded.
    channels
        A name for each channel; for a 12-lead ECG they are `LEADS`.
    sampling_rate
        Samples a second (Hz), as recorded.
    record_id
        File stem or the id in the data set. Text of unknown origin: escape it where shown.
    unit
        ``"mV"`` for an ECG, ``"uV"`` for an iEEG.
    resolution
        Unit a digital step, shape ``(channel,)``; ``None`` where the format does not say.
    patient_id
        ``None`` where unknown.
    age, sex
        Years; ``"female"`` or ``"male"``; ``None`` where unknown.
    source_format
        What was read, in words: ``"WFDB"``, ``"DICOM ECG"``.
    sha256
        Of the bytes that were read: the provenance of every number that follows.
    derived
        Leads computed from others rather than recorded.
    extra_channels
        Channels of the file that are not in `channels` (V3R, V7 ...): listed, not read.
    notices
        Warnings raised while reading.
    """

    signal: Float[np.ndarray, "channel sample"]
    channels: tuple[str, ...]
    sampling_rate: float
    record_id: str
    unit: str = "mV"
    resolution: Float[np.ndarray, " channel"] | None = None
    patient_id: str | None = None
    age: float | None = None
    sex: str | None = None
    source_format: str = "array"
    sha256: str = ""
    derived: tuple[str, ...] = ()
    extra_channels: tuple[str, ...] = ()
    notices: tuple[Notice, ...] = field(default=())

    @property
    def duration(self) -> float:
        """Length in seconds."""
        return self.signal.shape[1] / self.sampling_rate

    def channel(self, name: str) -> Float[np.ndarray, " sample"]:
        """Signal of one channel."""
        return self.signal[self.channels.index(name)]


@runtime_checkable
class LongRecording(Protocol):
    """A recording of hours, of which pieces are read: a file, or a simulation.

    Attributes
    ----------
    record_id, channels, sampling_rate, unit
        As of a `Recording`; `unit` is empty where the file does not state it.
    n_samples
        In each channel.
    """

    @property
    def record_id(self) -> str: ...  # noqa: D102
    @property
    def channels(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def sampling_rate(self) -> float | int: ...  # noqa: D102
    @property
    def unit(self) -> str: ...  # noqa: D102
    @property
    def n_samples(self) -> int: ...  # noqa: D102

    def samples(self, first: int, stop: int) -> Float32[np.ndarray, "channel sample"]:
        """Samples `first` to before `stop` of every channel; NaN where none was recorded.

        Parameters
        ----------
        first, stop
            Inside the recording.
        """
        ...


@dataclass(frozen=True)
class Event:
    """A labelled interval of a recording.

    Attributes
    ----------
    label
        ``"sz"`` or a finer seizure type of HED-SCORE.
    onset, offset
        Begin and end in seconds from the recording's start.
    confidence
        0 to 1; ``None`` where nobody stated one.
    channels
        On which it is seen; empty where nobody said.
    truncated
        Whether it may have begun earlier or ended later, in time that was not evaluated.
    """

    label: str
    onset: float | int
    offset: float | int
    confidence: float | None = None
    channels: tuple[str, ...] = ()
    truncated: bool = False

    @property
    def duration(self) -> float:
        """Length in seconds."""
        return float(self.offset - self.onset)


class SegmentStatus(IntEnum):
    """Whether a segment was evaluated; "not evaluated" never means "no event"."""

    EVALUATED = 0
    WARMING_UP = 1
    """Not enough history before it."""
    GAP = 2
    """Too much of it, or of its history, was not recorded."""
    FEW_CHANNELS = 3
    """Too few of its channels can be used."""


def derive_limb_leads(
    lead_i: Float[np.ndarray, " sample"], lead_ii: Float[np.ndarray, " sample"]
) -> Float[np.ndarray, "lead sample"]:
    """III, aVR, aVL and aVF from I and II (Einthoven, Goldberger).

    Parameters
    ----------
    lead_i, lead_ii
        Shape ``(sample,)``, the same unit.

    Returns
    -------
    np.ndarray
        III = II - I, aVR = -(I + II) / 2, aVL = I - II / 2, aVF = II - I / 2;
        shape ``(4, sample)``.
    """
    return np.stack(
        [
            lead_ii - lead_i,
            -(lead_i + lead_ii) / 2,
            lead_i - lead_ii / 2,
            lead_ii - lead_i / 2,
        ]
    )


def standard_lead(name: str) -> str | None:
    """The standard spelling of a lead name; ``None`` if it is not one of the twelve.

    Case, white space, a leading "lead" and the HL7 and DICOM prefix ``MDC_ECG_LEAD_``
    are ignored.

    Examples
    --------
    >>> standard_lead("AVR"), standard_lead("Lead i"), standard_lead("V7")
    ('aVR', 'I', None)
    """
    key = name.strip().lower().removeprefix("mdc_ecg_lead_")
    key = key.removeprefix("lead").strip(" _-")
    return _BY_LOWER_NAME.get(key)


def lead_positions(names: Sequence[str]) -> dict[str, int]:
    """Position of each standard lead among `names`; names that are no lead are left out.

    Raises
    ------
    BadInput
        ``E_LEADS`` if two names mean the same lead.
    """
    positions: dict[str, int] = {}
    for position, name in enumerate(names):
        lead = standard_lead(name)
        if lead is None:
            continue
        if lead in positions:
            raise BadInput("E_LEADS", f"lead {lead} occurs twice", where=lead)
        positions[lead] = position
    return positions


_BY_LOWER_NAME = {lead.lower(): lead for lead in LEADS}
