"""The input contract of a network: what is done to a recording before it is scored.

A network must be given what it was trained on. The contract is part of its bundle; its
`identifier` stands on every archive that was prepared by it, so that millivolts are never
mixed with z-scores, nor one filter with another.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Float32

from phenokit.errors import BadInput
from phenokit.preprocessing.filters import filter_signal, filter_window
from phenokit.preprocessing.resampling import resample_signal
from phenokit.recording import LEADS, Notice, Recording, lead_positions

SHORTEST_FRACTION = 0.99
"""A recording of 9.9 s holds its last sample to fill a window of 10 s; no shorter one."""

FLAT_SD = 1e-4
"""mV. A lead that varies less than this after the filter has no shape to scale up."""


@dataclass(frozen=True)
class InputContract:
    """What a network expects of its input.

    Attributes
    ----------
    sampling_rate
        Hz, of what the network reads.
    duration
        Seconds, from the beginning of the recording.
    low, high
        Pass band in Hz; ``high=None`` is a high-pass.
    order
        Of the Butterworth filter, which runs forward and backward.
    normalisation
        ``"z_score"``: each lead of each recording has mean 0 and standard deviation 1.
    unit
        Of the recordings that go in.
    leads
        In the order in which the network reads them.
    """

    sampling_rate: float = 100.0
    duration: float = 10.0
    low: float = 0.5
    high: float | None = 40.0
    order: int = 4
    normalisation: Literal["none", "z_score"] = "z_score"
    unit: str = "mV"
    leads: tuple[str, ...] = LEADS

    @property
    def identifier(self) -> str:
        """A short name that is the same for the same contract, on every machine.

        Examples
        --------
        >>> InputContract().identifier
        'butterworth4-0.5-40Hz-zscore-100Hz-10s-12leads'
        >>> InputContract(high=None, order=1, normalisation="none").identifier
        'butterworth1-0.5-Hz-mV-100Hz-10s-12leads'
        """
        high = "" if self.high is None else f"{self.high:g}"
        scale = "zscore" if self.normalisation == "z_score" else self.unit
        leads = "12leads" if self.leads == LEADS else "_".join(self.leads)
        return (
            f"butterworth{self.order}-{self.low:g}-{high}Hz-{scale}"
            f"-{self.sampling_rate:g}Hz-{self.duration:g}s-{leads}"
        )

    @property
    def n_samples(self) -> int:
        """Samples of a prepared lead."""
        return round(self.duration * self.sampling_rate)

    def to_dict(self) -> dict[str, Any]:
        """The contract as plain JSON values."""
        return {**asdict(self), "leads": list(self.leads)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "InputContract":
        """The contract that `to_dict` described.

        Raises
        ------
        BadInput
            ``E_VERSION`` if a field is missing or not known to this version.
        """
        expected = set(cls.__dataclass_fields__)
        if set(values) != expected:
            difference = ", ".join(sorted(set(values) ^ expected))
            raise BadInput(
                "E_VERSION",
                f"the input contract is of another version (fields that differ: "
                f"{difference}); use the bundle with the version that wrote it",
            )
        return cls(**{**values, "leads": tuple(values["leads"])})


@dataclass(frozen=True)
class Prepared:
    """A recording as a network reads it.

    Attributes
    ----------
    signal
        Shape ``(lead, sample)``, float32, leads in the order of the contract.
    notices
        What was left out or filled, beside the recording's own notices.
    start, stop
        Seconds of the recording that the signal covers.
    """

    signal: Float32[np.ndarray, "lead sample"]
    notices: tuple[Notice, ...]
    start: float
    stop: float


def prepare(recording: Recording, contract: InputContract) -> Prepared:
    """What the network reads: the window, filtered, scaled and resampled.

    The filter runs at the recording's own rate, then each lead is z-scored, then
    resampled. One recording at a time: the result does not depend on its company.

    Parameters
    ----------
    recording
        In the unit of the contract and with all its leads, in any order. A lead with a
        NaN in the window becomes NaN; a flat lead becomes 0.

    Raises
    ------
    BadInput
        ``A_DURATION`` for less than 9.9 of 10 s; ``E_LEADS`` for a missing lead;
        ``E_UNITS`` for another unit; ``E_FS`` for a rate below that of the contract.
    """
    window, notices, stop = _first_window(recording, contract)
    filtered = _filtered(window, recording.sampling_rate, contract)
    if contract.normalisation == "z_score":
        filtered = _z_scored(filtered)
    signal = _resampled(filtered, recording.sampling_rate, contract)
    return Prepared(np.ascontiguousarray(signal, dtype=np.float32), notices, 0.0, stop)


def for_display(recording: Recording, contract: InputContract) -> Recording:
    """The same window, filter and rate as `prepare`, in millivolts, for the page.

    Raises
    ------
    BadInput
        As `prepare`.
    """
    window, notices, _ = _first_window(recording, contract)
    filtered = _filtered(window, recording.sampling_rate, contract)
    signal = _resampled(filtered, recording.sampling_rate, contract)
    positions = lead_positions(recording.channels)
    resolution = recording.resolution
    if resolution is not None:
        resolution = resolution[[positions[lead] for lead in contract.leads]]
    return replace(
        recording,
        signal=signal.astype(np.float64),
        channels=contract.leads,
        sampling_rate=contract.sampling_rate,
        resolution=resolution,
        notices=(*recording.notices, *notices),
    )


def _first_window(
    recording: Recording, contract: InputContract
) -> tuple[Float[np.ndarray, "lead sample"], tuple[Notice, ...], float]:
    """The first window at the recording's own rate, its notices, and where it ends."""
    if recording.unit != contract.unit:
        raise BadInput(
            "E_UNITS", f"the signal is in {recording.unit}; {contract.unit} is expected"
        )
    if recording.sampling_rate < contract.sampling_rate:
        raise BadInput(
            "E_FS",
            f"{recording.sampling_rate:g} Hz is less than the "
            f"{contract.sampling_rate:g} Hz that the model reads; record at a higher rate",
        )
    positions = lead_positions(recording.channels)
    absent = [lead for lead in contract.leads if lead not in positions]
    if absent:
        raise BadInput(
            "E_LEADS",
            f"missing {', '.join(absent)} (has {', '.join(recording.channels)})",
            where=absent[0],
        )
    wanted = round(contract.duration * recording.sampling_rate)
    present = recording.signal.shape[1]
    if present < SHORTEST_FRACTION * wanted:
        raise BadInput(
            "A_DURATION",
            f"the recording lasts {recording.duration:.1f} s; the model reads "
            f"{contract.duration:g} s",
        )
    signal = recording.signal[[positions[lead] for lead in contract.leads], :wanted]
    stop = min(recording.duration, contract.duration)
    if present == wanted:
        return signal, (), stop
    if present > wanted:
        message = (
            f"only the first {contract.duration:g} s of the {recording.duration:.1f} s "
            "were read"
        )
    else:
        message = (
            f"the recording lasts {recording.duration:.2f} s; its last sample was held to "
            f"fill {contract.duration:g} s"
        )
        held = np.repeat(signal[:, -1:], wanted - present, axis=1)
        signal = np.concatenate([signal, held], axis=1)
    return signal, (Notice("W_WINDOW", message),), stop


def _filtered(
    window: Float[np.ndarray, "lead sample"], sampling_rate: float, contract: InputContract
) -> Float[np.ndarray, "lead sample"]:
    # At the contract's own rate the matrix is small enough to keep: see filters.py.
    at_own_rate = sampling_rate == contract.sampling_rate
    filter_leads = filter_window if at_own_rate else filter_signal
    return filter_leads(
        window,
        sampling_rate=sampling_rate,
        low=contract.low,
        high=contract.high,
        order=contract.order,
    )


def _z_scored(signal: Float[np.ndarray, "lead sample"]) -> Float[np.ndarray, "lead sample"]:
    centred = signal - signal.mean(axis=1, keepdims=True, dtype=np.float64)
    sd = np.sqrt(np.square(centred).mean(axis=1, keepdims=True))
    return np.where(sd < FLAT_SD, 0.0, centred / np.maximum(sd, FLAT_SD))


def _resampled(
    signal: Float[np.ndarray, "lead sample"], sampling_rate: float, contract: InputContract
) -> Float[np.ndarray, "lead resampled"]:
    resampled = resample_signal(
        signal, sampling_rate=sampling_rate, target_rate=contract.sampling_rate
    )
    return resampled[:, : contract.n_samples]
