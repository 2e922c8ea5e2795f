"""References and channel order of intracranial EEG, and channels that cannot be used.

A depth electrode is a shaft with numbered contacts; both stand in the channel's name. The
order of channels is an input of the networks that read them, so it follows a policy that a
model states: ``"montage"`` sorts by shaft and number, ``"as_recorded"`` leaves the file's
order, which is all there is where contacts have no names.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Float

from phenokit.errors import BadInput
from phenokit.recording import Recording

OrderPolicy = Literal["montage", "as_recorded"]

_AROUND = re.compile(r"^(?:EEG|SEEG|ECOG|POL)[ _]+|[ _-]*REF$", re.IGNORECASE)
_CONTACT = re.compile(r"([A-Za-z]+'*)[ _-]?0*(\d{1,3})('*)", re.ASCII)


@dataclass(frozen=True, order=True)
class Contact:
    """A contact of a depth electrode: its shaft and its number, 1 the deepest."""

    shaft: str
    number: int


def contact_of(name: str) -> Contact | None:
    """Shaft and number in the name of a channel; ``None`` if it has none.

    What amplifiers put around a name (``EEG``, ``POL``, ``-Ref``) and leading zeros are
    left out; a prime marks the other side and belongs to the shaft.

    Examples
    --------
    >>> contact_of("EEG LA01-Ref"), contact_of("B'12"), contact_of("Fz")
    (Contact(shaft='LA', number=1), Contact(shaft="B'", number=12), None)
    """
    match = _CONTACT.fullmatch(_AROUND.sub("", name.strip()))
    return Contact(match[1] + match[3], int(match[2])) if match else None


def channel_order(channels: Sequence[str], policy: OrderPolicy) -> list[int]:
    """Positions of the channels in the order of the policy.

    Raises
    ------
    BadInput
        ``E_CHANNELS``, under ``"montage"``, if a name is no contact or two are the same.

    Examples
    --------
    >>> channel_order(["LA10", "LA2", "B1"], "montage")
    [2, 1, 0]
    """
    if policy == "as_recorded":
        return list(range(len(channels)))
    contacts = _contacts(channels)
    return sorted(range(len(channels)), key=lambda k: contacts[k])


def in_order(recording: Recording, policy: OrderPolicy) -> Recording:
    """The recording with its channels in the order of the policy; see `channel_order`."""
    positions = channel_order(recording.channels, policy)
    resolution = recording.resolution
    return replace(
        recording,
        signal=recording.signal[positions],
        channels=tuple(recording.channels[k] for k in positions),
        resolution=None if resolution is None else resolution[positions],
    )


def bipolar(recording: Recording) -> Recording:
    """Differences of neighbouring contacts of each shaft, in the order of the montage.

    Neighbours have consecutive numbers: where a contact is missing there is no pair over
    the hole. A pair is NaN where one of its contacts is.

    Raises
    ------
    BadInput
        ``E_CHANNELS`` if a name is no contact, two are the same, or no two are neighbours.

    Examples
    --------
    >>> signal = np.array([[5.0], [3.0], [9.0]])
    >>> pairs = bipolar(Recording(signal, ("A2", "A1", "A4"), 512.0, "r", unit="uV"))
    >>> pairs.channels, pairs.signal
    (('A1-A2',), array([[-2.]]))
    """
    contacts = _contacts(recording.channels)
    position = {contact: k for k, contact in enumerate(contacts)}
    pairs = [
        (position[contact], position[neighbour])
        for contact in sorted(contacts)
        if (neighbour := Contact(contact.shaft, contact.number + 1)) in position
    ]
    if not pairs:
        raise BadInput("E_CHANNELS", "No two channels are neighbours on one shaft.")
    first, second = (list(side) for side in zip(*pairs, strict=True))
    names = recording.channels
    return replace(
        recording,
        signal=recording.signal[first] - recording.signal[second],
        channels=tuple(f"{names[a]}-{names[b]}" for a, b in pairs),
        resolution=None,
    )


def common_reference(
    recording: Recording,
    *,
    statistic: Literal["mean", "median"] = "mean",
    bad: Collection[str] = (),
) -> Recording:
    """Every channel less the mean or median of all good ones, sample by sample.

    Parameters
    ----------
    recording
        Any unit.
    statistic
        The median lets a few loud channels weigh less.
    bad
        Names of channels that the reference leaves out; they are referenced like the
        others.

    Returns
    -------
    Recording
        NaN where the channel, or every good one, is NaN.

    Raises
    ------
    BadInput
        ``E_CHANNELS`` if no good channel is left.
    """
    good = [k for k, name in enumerate(recording.channels) if name not in bad]
    if not good:
        raise BadInput("E_CHANNELS", "Every channel is bad; there is no reference.")
    signal = recording.signal[good]
    reference = np.full(signal.shape[1], np.nan)
    known = ~np.isnan(signal).all(axis=0)  # numpy warns of the mean of nothing
    average = np.nanmean if statistic == "mean" else np.nanmedian
    reference[known] = average(signal[:, known], axis=0)
    return replace(recording, signal=recording.signal - reference, resolution=None)


@dataclass(frozen=True)
class BadChannelRule:
    """When a channel of a recording is bad; shares are of its recorded samples."""

    flat_share: float = 0.5
    """At least this much lies in runs of one value."""
    flat_seconds: float | int = 1.0
    """Shortest run that counts."""
    clipped_share: float = 0.01
    """At least this much stands at its largest or its smallest value."""
    missing_share: float = 0.5
    """More than this much of the whole recording is NaN or infinite."""
    mains_share: float = 0.5
    """At least this much of the power above 1 Hz is mains."""
    mains_frequency: float | int = 50.0
    """Hz; multiples count too."""


def find_bad_channels(
    recording: Recording,
    *,
    rule: BadChannelRule = BadChannelRule(),
) -> Mapping[str, str]:
    """Channels that cannot be used, with the reason.

    Returns
    -------
    mapping
        From the name of a bad channel to ``"missing"``, ``"flat"``, ``"clipped"`` or
        ``"mains"``, the first of them that holds. A gap in all channels makes none bad.
    """
    reasons = {}
    lost = ~np.isfinite(recording.signal)
    everywhere = lost.all(axis=0)
    for name, signal, missing in zip(
        recording.channels, recording.signal, lost, strict=True
    ):
        there = signal[~missing]
        reason = None
        if missing[~everywhere].sum() > rule.missing_share * (~everywhere).sum():
            reason = "missing"
        elif len(there):
            reason = _fault(there, recording.sampling_rate, rule)
        if reason is not None:
            reasons[name] = reason
    return reasons


def _fault(
    signal: Float[np.ndarray, " sample"], sampling_rate: float, rule: BadChannelRule
) -> str | None:
    edges = np.flatnonzero(np.diff(signal)) + 1
    lengths = np.diff([0, *edges.tolist(), len(signal)])
    in_runs = lengths[lengths >= rule.flat_seconds * sampling_rate].sum()
    if in_runs >= rule.flat_share * len(signal):
        return "flat"
    at_limit = (signal == signal.max()) | (signal == signal.min())
    if at_limit.mean() >= rule.clipped_share:
        return "clipped"
    from scipy.signal import welch

    frequency, power = welch(
        signal, fs=sampling_rate, nperseg=min(len(signal), round(2 * sampling_rate))
    )
    order = np.maximum(np.round(frequency / rule.mains_frequency), 1)
    is_mains = np.abs(frequency - order * rule.mains_frequency) <= 1
    whole = power[frequency > 1].sum()
    return (
        "mains" if whole > 0 and power[is_mains].sum() >= rule.mains_share * whole else None
    )


def _contacts(channels: Sequence[str]) -> list[Contact]:
    contacts: list[Contact] = []
    for name in channels:
        contact = contact_of(name)
        if contact is None:
            raise BadInput(
                "E_CHANNELS",
                f"Channel {name} has no shaft and number; take the order as_recorded.",
                where=name,
            )
        if contact in contacts:
            raise BadInput(
                "E_CHANNELS", f"Contact {name} occurs in two channels.", where=name
            )
        contacts.append(contact)
    return contacts
