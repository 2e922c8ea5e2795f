"""Write detected seizures as the TSV of SzCORE, and what was evaluated beside it.

The columns and their form are those of epilepsy2bids 0.0.7 (Dan et al. 2024,
doi:10.1111/epi.18113): seconds and confidence with two decimals, ``n/a`` for what is not
known. A recording without a seizure gets a background row for each evaluated stretch, and
none for time that was not evaluated. Read it back with `phenokit.readers.annotations`.
"""

import os
import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import pandas as pd

from phenokit.errors import BadInput
from phenokit.evidence.seizures import Coverage
from phenokit.readers.annotations import BACKGROUND, DATE_TIME
from phenokit.recording import Event
from phenokit.report.tables import format_table

SZCORE_COLUMNS = (
    "onset", "duration", "eventType", "confidence", "channels", "dateTime",
    "recordingDuration",
)  # fmt: skip

_EVENT_TYPE = re.compile(r"sz(_[A-Za-z0-9]+)*", re.ASCII)
_NOT_IN_A_NAME = re.compile(r"[,\x00-\x1f\x7f]")


def format_szcore(
    events: Sequence[Event],
    *,
    coverage: Coverage,
    recording_duration: float | int,
    start: datetime | None = None,
) -> bytes:
    r"""The bytes of a SzCORE file of one recording.

    Parameters
    ----------
    events
        Detected seizures; their labels are types of HED-SCORE (``sz``, ``sz_foc`` ...).
    coverage
        What was evaluated: the background of a recording without seizures.
    recording_duration
        Seconds.
    start
        Date and time of the first sample. Dates identify patients: left out unless given.

    Returns
    -------
    bytes
        UTF-8, tabs between cells. Channels that a spreadsheet would run as a formula get
        an apostrophe in front. Whether an event is truncated has no place in this format.

    Raises
    ------
    BadInput
        ``A_MISSING`` if nothing was evaluated: the file would say "no seizure".
    ValueError
        If a label is no type of seizure, or a channel name holds a comma.

    Examples
    --------
    >>> from phenokit.recording import SegmentStatus
    >>> coverage = Coverage(((SegmentStatus.EVALUATED, 0.0, 60.0),))
    >>> table = format_szcore(
    ...     [Event("sz", 10, 32.5, 0.987)], coverage=coverage, recording_duration=60
    ... )
    >>> table.decode().splitlines()[1].split("\t")
    ['10.00', '22.50', 'sz', '0.99', 'n/a', 'n/a', '60.00']
    """
    if not coverage.evaluated:
        raise BadInput("A_MISSING", "No part of the recording was evaluated.")
    for event in events:
        if not _EVENT_TYPE.fullmatch(event.label):
            raise ValueError(f"{event.label!r} is no type of seizure (sz, sz_foc ...)")
        if any(_NOT_IN_A_NAME.search(name) for name in event.channels):
            raise ValueError("a channel name holds a comma or a control character")
    rows = events or [Event(BACKGROUND, *span) for span in coverage.evaluated]
    common = (
        "n/a" if start is None else start.strftime(DATE_TIME),
        f"{recording_duration:.2f}",
    )
    table = pd.DataFrame(
        [
            (
                f"{event.onset:.2f}",
                f"{event.duration:.2f}",
                event.label,
                "n/a" if event.confidence is None else f"{event.confidence:.2f}",
                ",".join(event.channels) or "n/a",
                *common,
            )
            for event in sorted(rows, key=lambda event: event.onset)
        ],
        columns=pd.Index(SZCORE_COLUMNS),
    )
    return format_table(table, separator="\t")


def format_coverage(coverage: Coverage) -> bytes:
    r"""The bytes of a coverage file: a row a stretch, with its status.

    Examples
    --------
    >>> from phenokit.recording import SegmentStatus
    >>> format_coverage(Coverage(((SegmentStatus.GAP, 0.0, 5.0),)))
    b'onset\tduration\tstatus\n0.00\t5.00\tgap\n'
    """
    table = pd.DataFrame(
        [
            (f"{begin:.2f}", f"{end - begin:.2f}", status.name.lower())
            for status, begin, end in coverage.intervals
        ],
        columns=pd.Index(["onset", "duration", "status"]),
    )
    return format_table(table, separator="\t")


def write_szcore(
    path: Path,
    events: Sequence[Event],
    *,
    coverage: Coverage,
    recording_duration: float | int,
    start: datetime | None = None,
) -> Path:
    """Write the events as `path` and the coverage beside it.

    A recording of which nothing was evaluated gets the coverage file alone. The files are
    there whole or not at all.

    Parameters
    ----------
    path
        Ends in ``.tsv``; in BIDS ``sub-01_ses-01_task-szMonitoring_run-00_events.tsv``.
    events, coverage, recording_duration, start
        As in `format_szcore`.

    Returns
    -------
    Path
        The coverage file: ``_events`` of the name is ``_coverage`` there.

    Raises
    ------
    ValueError
        If the name does not end in ``.tsv``, and as in `format_szcore`.
    """
    if path.suffix != ".tsv":
        raise ValueError(f"{path.name} does not end in .tsv")
    beside = path.with_name(f"{path.stem.removesuffix('_events')}_coverage.tsv")
    if coverage.evaluated:
        _write(
            path,
            format_szcore(
                events,
                coverage=coverage,
                recording_duration=recording_duration,
                start=start,
            ),
        )
    _write(beside, format_coverage(coverage))
    return beside


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(data)
    temporary.replace(path)
