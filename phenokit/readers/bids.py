"""Read what lies beside an iEEG file and says what the file itself does not.

The names are those of BIDS (Holdgraf et al. 2019, doi:10.1038/s41597-019-0105-7): beside
``sub-01_task-rest_run-1_ieeg.edf`` lie ``sub-01_task-rest_run-1_channels.tsv``,
``..._events.tsv`` and ``..._ieeg.json``, and ``sub-01_electrodes.tsv`` for all recordings
of the patient. A file that follows no BIDS name is treated alike: beside ``night.edf`` is
looked for ``night_channels.tsv`` and so on. Only the folder of the recording is looked at.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from phenokit.errors import BadInput
from phenokit.readers.annotations import read_annotations
from phenokit.readers.files import read_bytes
from phenokit.readers.tables import Column, read_table
from phenokit.recording import Event

_DATA_TYPE = re.compile(r"_(?:ieeg|eeg)$")
_PATIENT = re.compile(r"sub-[0-9A-Za-z]+(?:_ses-[0-9A-Za-z]+)?")
_NONE = ("", "n/a", "N/A", "nan")
_MAX_JSON_BYTES = 1 << 20
_YES = ("1", "true", "yes", "soz")


@dataclass(frozen=True)
class Sidecars:
    """What the files beside a recording say; empty where there are none.

    Attributes
    ----------
    types, units
        Of channels by name, as written: ``"SEEG"``, ``"µV"``.
    bad
        Channels marked as bad, with the reason that is given.
    positions
        Coordinates of contacts by name, in the file's own space; NaN where unknown.
    onset_zone
        Contacts marked as the zone where seizures begin.
    reference
        In words; empty where unknown.
    mains_frequency
        Hz; ``None`` where unknown.
    events
        As they stand in the event table; ``None`` if there is no table.
    """

    types: Mapping[str, str] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)
    bad: Mapping[str, str] = field(default_factory=dict)
    positions: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)
    onset_zone: tuple[str, ...] = ()
    reference: str = ""
    mains_frequency: float | None = None
    events: tuple[Event, ...] | None = None


def read_sidecars(path: Path, *, root: Path | None = None) -> Sidecars:
    """Read the files beside the recording `path`, those that are there.

    Raises
    ------
    BadInput
        As `read_table` and `read_annotations`: a sidecar that cannot be used would leave a
        bad channel or an event unseen.
    """
    stem = _DATA_TYPE.sub("", path.stem)
    channels = _table(
        path.with_name(f"{stem}_channels.tsv"),
        root,
        ("type", "units", "status", "status_description"),
        "channel table",
    )
    electrodes = _electrodes(path, stem, root)
    events = path.with_name(f"{stem}_events.tsv")
    notes = _notes(path, stem, root)
    mains = notes.get("PowerLineFrequency")
    reference = notes.get("iEEGReference", notes.get("EEGReference", ""))
    return Sidecars(
        types={name: kind.upper() for name, kind in _known(channels, "type").items()},
        units=_known(channels, "units"),
        bad={
            name: _known(channels, "status_description").get(name, "marked as bad")
            for name, status in _known(channels, "status").items()
            if status.lower() == "bad"
        },
        positions=_positions(electrodes),
        onset_zone=tuple(
            name for name, mark in _known(electrodes, "soz").items() if mark.lower() in _YES
        ),
        reference=reference if isinstance(reference, str) else "",
        mains_frequency=float(mains) if isinstance(mains, int | float) else None,
        events=read_annotations(events, root=root).events if events.exists() else None,
    )


def sidecar_names(path: Path) -> list[str]:
    """Names of the files beside a recording that `read_sidecars` may read, if there."""
    stem = _DATA_TYPE.sub("", path.stem)
    tables = ("channels", "electrodes", "events")
    names = [f"{stem}_{table}.tsv" for table in tables]
    names += [f"{stem}_{kind}.json" for kind in ("ieeg", "eeg")]
    if (patient := _PATIENT.match(path.name)) is not None:
        found = path.parent.glob(f"{patient[0]}_*electrodes.tsv")
        names += [f"{patient[0]}_electrodes.tsv", *(one.name for one in found)]
    return list(dict.fromkeys(names))


def _table(
    path: Path, root: Path | None, columns: tuple[str, ...], what: str
) -> pd.DataFrame:
    """Columns of a table by channel name; empty if there is no such file."""
    schema = [Column("name", unique=True)]
    schema += [Column(name, is_required=False, may_be_missing=True) for name in columns]
    if not path.exists():
        return pd.DataFrame(columns=pd.Index(["name"])).set_index("name")
    table = read_table(
        path, schema, root=root, separator="\t", ignore_others=True, what=what
    )
    return table.set_index("name")


def _known(table: pd.DataFrame, column: str) -> dict[str, str]:
    """Cells of a column that say something, by channel name."""
    if column not in table:
        return {}
    cells = table[column].to_dict()
    return {str(name): cell for name, cell in cells.items() if cell not in _NONE}


def _electrodes(path: Path, stem: str, root: Path | None) -> pd.DataFrame:
    """The table of contacts: of this recording, or of the patient in any one space."""
    patient = _PATIENT.match(path.name)
    found = [path.with_name(f"{stem}_electrodes.tsv")]
    if patient is not None:
        found += sorted(path.parent.glob(f"{patient[0]}_electrodes.tsv"))
        found += sorted(path.parent.glob(f"{patient[0]}_*electrodes.tsv"))
    there = next((one for one in found if one.exists()), found[0])
    return _table(there, root, ("x", "y", "z", "soz"), "electrode table")


def _positions(electrodes: pd.DataFrame) -> dict[str, tuple[float, float, float]]:
    if not {"x", "y", "z"} <= set(electrodes.columns):
        return {}
    positions = {}
    for name, *cells in electrodes[["x", "y", "z"]].itertuples():
        try:
            x, y, z = (math.nan if cell in _NONE else float(cell) for cell in cells)
        except ValueError:
            raise BadInput(
                "E_RANGE",
                "A coordinate in the electrode table is no number.",
                where="electrode table",
            ) from None
        positions[str(name)] = (x, y, z)
    return positions


def _notes(path: Path, stem: str, root: Path | None) -> dict[str, object]:
    """The JSON sidecar; ``{}`` if there is none."""
    for kind in ("ieeg", "eeg"):
        file = path.with_name(f"{stem}_{kind}.json")
        if not file.exists():
            continue
        data = read_bytes(file, root=root, max_bytes=_MAX_JSON_BYTES, what="JSON sidecar")
        try:
            notes = json.loads(data)
        except (ValueError, RecursionError):
            notes = None
        if not isinstance(notes, dict):
            raise BadInput("E_ENCODING", "The JSON sidecar is damaged.")
        return notes
    return {}
