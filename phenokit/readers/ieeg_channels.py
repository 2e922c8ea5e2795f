"""Which channels of a file are intracranial EEG, in which unit, and what events say.

A channel leaves by its type in the channel table, or else by its name; whatever leaves is
listed with the reason. Units of the file and of the table have to agree.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256

from phenokit.errors import BadInput
from phenokit.readers.bids import Sidecars
from phenokit.recording import Event

MIN_SAMPLING_RATE, MAX_SAMPLING_RATE = 50.0, 50_000.0

MICROVOLT = {"V": 1e6, "mV": 1e3, "uV": 1.0, "µV": 1.0, "μV": 1.0}
"""Microvolts a unit."""

INTRACRANIAL = ("SEEG", "ECOG", "DBS")
"""Types of BIDS that are read; ``EEG`` is read where a file has none of these."""

_NOT_EEG = (
    (r"(?:E[CK]G|ECGV?)\d*[LR]?(?:\W.*)?", "ECG"),
    (r"EMG\w*(?:\W.*)?", "EMG"),
    (r"(?:[HV]?EOG|[LR]OC)\w*(?:\W.*)?", "EOG"),
    (r"(?:TRIG\w*|STATUS|STIM?|MARKERS?|MRK|EVENTS?|SYNC|TTL\w*|PHOTIC|DC\d*)(?:\W.*)?",
     "trigger or direct-current input"),
    (r"(?:REF(?:ERENCE)?|GND|GROUND|NULL)\d?", "reference or ground"),
    (r"(?:RESP\w*|SPO2|SAO2|OSAT|ETCO2|CO2\w*|PULSE\w*|PLETH\w*|PR|TEMP|AIRFLOW|THOR\w*|"
     r"ABD\w*|SNORE|POS(?:ITION)?|BATT\w*)(?:\W.*)?", "not a voltage of the brain"),
)  # fmt: skip
_PREFIX = re.compile(r"^(?:EEG|SEEG|ECOG|POL)[ _]+", re.IGNORECASE)
_SUFFIX = re.compile(r"[ _-]*REF$", re.IGNORECASE)
_NAME_RULE = [(re.compile(rule, re.IGNORECASE), reason) for rule, reason in _NOT_EEG]
_SEIZURE = re.compile(r"(?:sz|seizure)", re.IGNORECASE)


@dataclass(frozen=True)
class Selection:
    """Which channels of a file are read.

    Attributes
    ----------
    used
        Their positions in the file.
    names, scales
        Of those that are read: name, and microvolts a unit of the file.
    dropped
        The others, with the reason.
    """

    used: tuple[int, ...]
    names: tuple[str, ...]
    scales: tuple[float, ...]
    dropped: Mapping[str, str]


def not_eeg(name: str) -> str | None:
    """Why a channel of this name is none of the brain; ``None`` if it may be one.

    Examples
    --------
    >>> not_eeg("ECG II"), not_eeg("EEG LA1-Ref"), not_eeg("DC03")
    ('ECG', None, 'trigger or direct-current input')
    """
    bare = _PREFIX.sub("", name.strip())
    bare = _SUFFIX.sub("", bare) or bare
    return next((reason for rule, reason in _NAME_RULE if rule.fullmatch(bare)), None)


def select_channels(
    names: Sequence[str], units: Sequence[str], sidecars: Sidecars
) -> tuple[Selection, list[str]]:
    """Choose the channels to read, and settle their units with the channel table.

    Parameters
    ----------
    names, units
        Of every channel of the file.
    sidecars
        Of the files beside it.

    Returns
    -------
    Selection
        Scales are NaN where the unit is unknown.
    list of str
        The unit of every channel, from the file or else from the table.

    Raises
    ------
    BadInput
        ``E_CHANNELS`` if the table lists a channel that the file has not, or none is left;
        ``E_UNITS`` if file and table state different units.
    """
    missing = sorted(set(sidecars.types) | set(sidecars.units) | set(sidecars.bad))
    missing = [name for name in missing if name not in names]
    if missing:
        raise BadInput(
            "E_CHANNELS",
            f"The channel table lists {len(missing)} channels that the file has not.",
            where=", ".join(missing[:10]),
        )
    is_intracranial = any(kind in INTRACRANIAL for kind in sidecars.types.values())
    used: list[int] = []
    dropped: dict[str, str] = {}
    for k, name in enumerate(names):
        kind = sidecars.types.get(name, "")
        if not kind:
            reason = not_eeg(name)
        elif kind in INTRACRANIAL or (kind == "EEG" and not is_intracranial):
            reason = None
        else:
            reason = f"type {kind}"
        if reason is None:
            used.append(k)
        else:
            dropped[name] = reason
    if not used:
        raise BadInput("E_CHANNELS", "The file holds no channel of intracranial EEG.")
    settled = []
    for k, (name, unit) in enumerate(zip(names, units, strict=True)):
        stated = sidecars.units.get(name, "")
        if unit and stated and MICROVOLT.get(unit) != MICROVOLT.get(stated) and k in used:
            raise BadInput(
                "E_UNITS",
                f"The file and the channel table state different units for signal {k + 1}.",
                where=f"signal {k + 1}",
            )
        settled.append(unit or stated)
    scales = tuple(MICROVOLT.get(settled[k], math.nan) for k in used)
    chosen = tuple(names[k] for k in used)
    return Selection(tuple(used), chosen, scales, dropped), settled


def one_rate(rates: Sequence[float]) -> float:
    """The sampling rate that all channels have.

    Raises
    ------
    BadInput
        ``E_FS`` if they differ, or it is no rate of an iEEG.
    """
    different = sorted(set(rates))
    rate = different[0]
    if len(different) > 1 or not MIN_SAMPLING_RATE <= rate <= MAX_SAMPLING_RATE:
        raise BadInput(
            "E_FS",
            f"The sampling rate is {', '.join(f'{r:g}' for r in different[:5])} Hz; one "
            f"rate from {MIN_SAMPLING_RATE:g} to {MAX_SAMPLING_RATE:g} Hz is read.",
        )
    return rate


def named_events(events: Iterable[Event]) -> tuple[Event, ...]:
    """Events in order of onset; those called a seizure get the label ``"sz"``."""
    return tuple(
        sorted(
            (
                replace(e, label="sz") if _SEIZURE.fullmatch(e.label.strip()) else e
                for e in events
            ),
            key=lambda event: event.onset,
        )
    )


def fingerprint(stamp: Sequence[int], header: bytes) -> str:
    """SHA-256 of a header and of what tells one file from another."""
    return sha256(repr(tuple(stamp)).encode() + header).hexdigest()
