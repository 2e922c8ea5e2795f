"""Find the seizures of intracranial EEGs: a row a recording, and a folder of its own.

    recording-00000/                  of each recording that could be read:
        segments.parquet              status and probability of each segment
        contribution.npy              float32 (segment, channel)
        events.tsv, coverage.tsv      SzCORE, and what was evaluated at all
        scored.json                   everything else

Folders bear the number of the part, since a file's name may be that of a patient.
"""

import io
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from phenokit.batch.run_folder import json_bytes, parquet_bytes, part_name
from phenokit.batch.workers import mark
from phenokit.errors import CODES, BadInput, Outcome, outcome_of
from phenokit.evidence.seizures import HALF, CoverageRule, EventRule, coverage_of
from phenokit.pipeline import ScoredIEEG, score_ieeg
from phenokit.readers.arrays import parse_array
from phenokit.readers.files import TOO_MANY_OPEN, read_bytes
from phenokit.readers.ieeg_recording import IEEGRecording
from phenokit.recording import Event, Notice, SegmentStatus
from phenokit.report.szcore import format_coverage, format_szcore

if TYPE_CHECKING:
    import pyarrow as pa

    from phenokit.batch.sources import Reader, Record
    from phenokit.monitor import IEEGModel


def score_ieeg_record(
    k: int,
    record: "Record",
    reader: "Reader",
    model: "IEEGModel",
    *,
    coverage_rule: CoverageRule = HALF,
    fault: str | None = None,
) -> tuple["pa.Table", list[dict[str, Any]], dict[str, bytes]]:
    """The row of one recording, as a table and as such, and its files.

    Parameters
    ----------
    k
        Number of its part.
    fault
        Code of a recording that is not read: its row bears it.
    """
    row: dict[str, Any] = {
        "record_id": record.record_id,
        "path": record.path,
        "patient_id": record.patient_id,
        "input_sha256": reader.sha256(record),
        "model": model.name,
        "bundle_hash": model.bundle_hash,
    }
    files: dict[str, bytes] = {}
    try:
        if fault is not None:
            raise BadInput(fault, CODES[fault])
        recording = cast("IEEGRecording", reader.read(record))
        scored = score_ieeg(recording, model, coverage_rule=coverage_rule, progress=mark)
    except BadInput as error:
        row |= _rejected(error)
    except Exception as error:  # whatever a file does to a library, the others go on
        if isinstance(error, OSError) and error.errno in TOO_MANY_OPEN:
            raise  # no fault of the recording, whose row would say so for ever
        kind = type(error).__name__
        row |= _rejected(BadInput("E_WORKER", f"internal error while scoring ({kind})"))
    else:
        files = {
            f"{_folder(k)}/{name}": data for name, data in _files(recording, scored).items()
        }
        row |= {
            "outcome": str(scored.outcome),
            "code": scored.code,
            "all_codes": list(scored.all_codes),
            "message": scored.message,
            "n_channels": len(scored.channels),
            "n_bad": len(scored.bad),
            "duration_s": scored.duration,
            "evaluated_s": scored.coverage.evaluated_seconds,
            "n_events": len(scored.events) if scored.coverage.evaluated else None,
        }
    return _table(row), [row], files


def read_scored_ieeg(out: Path, record_id: str) -> ScoredIEEG:
    """What was written of one recording, bit for bit what `score_ieeg` gave.

    Parameters
    ----------
    out
        Folder of a run, which may still be going on with other recordings.
    record_id
        Path of the recording below the folder that was scored, without ending.

    Raises
    ------
    KeyError
        If the run has no such recording.
    BadInput
        The code and the message of a recording that could not be read.
    """
    for k, row in _rows(out):
        if row["record_id"] != record_id:
            continue
        folder = out / _folder(k)
        if not (folder / "scored.json").is_file():
            raise BadInput(row["code"], row["message"])
        return _read(folder)
    raise KeyError(record_id)


# --- one recording ----------------------------------------------------------------------


def _rejected(error: BadInput) -> dict[str, Any]:
    return {
        "outcome": str(outcome_of(error.code)),
        "code": error.code,
        "all_codes": [error.code],
        "message": str(error),
    }


def _table(row: dict[str, Any]) -> "pa.Table":
    import pyarrow as pa

    text, number, count = pa.string(), pa.float64(), pa.int64()
    columns = {
        "record_id": text, "path": text, "patient_id": text, "outcome": text, "code": text,
        "all_codes": pa.list_(text), "message": text, "input_sha256": text, "model": text,
        "bundle_hash": text,
        "n_channels": count, "n_bad": count, "duration_s": number, "evaluated_s": number,
        "n_events": count,
    }  # fmt: skip
    return pa.table(
        {name: pa.array([row.get(name)], type=t) for name, t in columns.items()}
    )


def _files(recording: IEEGRecording, scored: ScoredIEEG) -> dict[str, bytes]:
    """Files of a recording, by name within its folder."""
    import pyarrow as pa

    start = np.arange(len(scored.status)) * scored.segment_duration
    status = [SegmentStatus(s).name.lower() for s in scored.status.tolist()]
    segments = {
        "segment": np.arange(len(start)),
        "start": start,
        "status": pa.array(status, type=pa.string()),
        "probability": pa.array(scored.probability, from_pandas=True),
    }
    contribution = io.BytesIO()
    np.lib.format.write_array(contribution, scored.contribution, allow_pickle=False)
    files = {
        "segments.parquet": parquet_bytes(pa.table(segments)),
        "contribution.npy": contribution.getvalue(),
        "coverage.tsv": format_coverage(scored.coverage),
        "scored.json": json_bytes(_as_json(recording, scored)),
    }
    if scored.coverage.evaluated:  # without it the file would say "no seizure"
        files["events.tsv"] = format_szcore(
            scored.events, coverage=scored.coverage, recording_duration=scored.duration
        )
    return files


def _as_json(recording: IEEGRecording, scored: ScoredIEEG) -> dict[str, Any]:
    arrays = {"probability", "status", "contribution", "coverage"}
    values = {name: value for name, value in vars(scored).items() if name not in arrays}
    return {
        "format": "phenokit scored iEEG",
        "version": 1,
        **values,
        "events": [asdict(event) for event in scored.events],
        "notices": [asdict(notice) for notice in scored.notices],
        "event_rule": asdict(scored.event_rule),
        "coverage_rule": asdict(scored.coverage_rule),
        "dropped": dict(scored.dropped),
        "bad": {channel: list(fault) for channel, fault in scored.bad.items()},
        "source": {
            "source_format": recording.source_format,
            "unit": recording.unit,
            "sampling_rate": recording.sampling_rate,
            "reference": recording.reference,
            "filters": recording.filters,
            "mains_frequency": recording.mains_frequency,
            "n_channels": len(recording.channels),
        },
    }


def _read(folder: Path) -> ScoredIEEG:
    import pyarrow.parquet as pq

    data = json.loads(read_bytes(folder / "scored.json", what="result"))
    with pq.ParquetFile(
        folder / "segments.parquet", page_checksum_verification=True
    ) as file:
        segments = file.read()
    names = segments["status"].to_pylist()
    status = np.array([SegmentStatus[name.upper()] for name in names], dtype=np.int8)
    probability = segments["probability"].to_numpy().astype(np.float64)
    contribution = parse_array(read_bytes(folder / "contribution.npy", what="result"))
    events = [Event(**{**e, "channels": tuple(e["channels"])}) for e in data["events"]]
    return ScoredIEEG(
        **{
            name: data[name]
            for name in (
                "record_id", "code", "message", "model", "bundle_hash", "order_policy",
                "dropped", "segment_duration", "duration",
            )
        },
        outcome=Outcome(data["outcome"]),
        all_codes=tuple(data["all_codes"]),
        channels=tuple(data["channels"]),
        bad={channel: (reason, share) for channel, (reason, share) in data["bad"].items()},
        probability=probability,
        status=status,
        contribution=contribution,
        events=tuple(events),
        coverage=coverage_of(status, segment_duration=data["segment_duration"]),
        notices=tuple(Notice(**notice) for notice in data["notices"]),
        event_rule=EventRule(**data["event_rule"]),
        coverage_rule=CoverageRule(**data["coverage_rule"]),
    )  # fmt: skip


def _rows(out: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number and row of each recording that is done."""
    import pyarrow.parquet as pq

    for receipt in sorted(out.glob("part-*.json")):
        k = int(receipt.stem.removeprefix("part-"))
        with pq.ParquetFile(out / part_name(k), page_checksum_verification=True) as file:
            yield k, file.read().to_pylist()[0]


def _folder(k: int) -> str:
    return f"recording-{k:05d}"
