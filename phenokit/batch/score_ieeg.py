"""Find the seizures of a file or a folder of intracranial EEGs: one row a recording.

    DIR/part-00000.parquet ...        a row a recording, a bad file included
    DIR/recording-00000/              of each recording that could be read:
        segments.parquet              status and probability of each segment
        contribution.npy              float32 (segment, channel)
        events.tsv, coverage.tsv      SzCORE, and what was evaluated at all
        scored.json                   everything else
    DIR/manifest.json                 counts by outcome and code; the mark of a finished run

Folders bear numbers, since a file's name may be that of a patient. A run that was stopped
goes on after the last recording that it finished (`phenokit.batch.run_folder`).
"""

import hashlib
import io
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from phenokit.batch.run_folder import RunFolder, open_run, part_name
from phenokit.batch.score import Inputs, Scoring
from phenokit.errors import BadInput, Outcome, outcome_of
from phenokit.evidence.seizures import HALF, CoverageRule, EventRule, coverage_of
from phenokit.pipeline import ScoredIEEG, score_ieeg
from phenokit.readers.arrays import parse_array
from phenokit.readers.files import open_checked, read_bytes
from phenokit.readers.ieeg import is_ieeg_file, read_ieeg
from phenokit.readers.ieeg_recording import IEEGRecording
from phenokit.recording import Event, Notice, SegmentStatus
from phenokit.report.szcore import format_coverage, format_szcore

if TYPE_CHECKING:
    import pyarrow as pa

    from phenokit.monitor import IEEGModel

_READ_BYTES = 1 << 23

Progress = Callable[[str, int, int], None]
"""Called with what is done, and the number of segments done and of all."""


def find_ieeg_inputs(path: Path) -> Inputs:
    """List what is to be scored, sorted by path.

    Raises
    ------
    BadInput
        ``E_MISSING`` if there is no such file or folder.
    """
    if not path.exists():
        raise BadInput("E_MISSING", f"there is no file or folder {path.name}")
    if not path.is_dir() or is_ieeg_file(path):
        return Inputs(path.parent, (path,), ())
    recordings: list[Path] = []
    others: list[Path] = []
    for parent, below, names in os.walk(path):
        folders = [name for name in sorted(below) if is_ieeg_file(Path(parent, name))]
        below[:] = sorted(set(below) - set(folders))
        recordings += [Path(parent, name) for name in folders]
        for name in sorted(names):
            file = Path(parent, name)
            (recordings if is_ieeg_file(file) else others).append(file)
    return Inputs(path, tuple(sorted(recordings)), tuple(sorted(others)))


def score_ieeg_path(
    path: Path,
    out: Path,
    model: "IEEGModel",
    *,
    coverage_rule: CoverageRule = HALF,
    restart: bool = False,
    progress: Progress = lambda stage, done, of: None,
) -> Scoring:
    """Score a file or a folder and write what was found.

    Parameters
    ----------
    out
        Folder of the run. A run of the same inputs and model that was stopped goes on.
    restart
        Throw away what an earlier run left in the folder.

    Raises
    ------
    BadInput
        ``E_MISSING`` if there is nothing at `path`; ``E_VERSION`` if `out` holds another
        run. A bad recording is a row, not an error.
    OutputBusy
        If another run is writing to `out`.
    """
    inputs = find_ieeg_inputs(path)
    others = [_relative(one, inputs.root) for one in inputs.others]
    plan = {
        "model": model.name,
        "bundle_hash": model.bundle_hash,
        "device": model.device,
        "coverage_rule": asdict(coverage_rule),
        "inputs": {_relative(p, inputs.root): _hash(p) for p in inputs.recordings},
    }
    n = len(inputs.recordings)
    with open_run(out, plan=plan, command="score", restart=restart) as run:
        if run.manifest is None:
            done = run.done_parts()
            for k, recording in enumerate(inputs.recordings):
                if k in done:
                    _keep(run, k)
                    continue
                stage = f"recording {k + 1} of {n}"

                def show(segments: int, of: int, stage: str = stage) -> None:
                    run.progress(segments, of, stage=stage)
                    progress(stage, segments, of)

                _score_one(run, k, recording, inputs.root, model, coverage_rule, show)
            run.finish(_manifest(run, n, model, others))
        manifest = run.manifest or {}
        return Scoring(
            {name: count for name, count in manifest["outcomes"].items() if count},
            manifest["codes"],
            tuple(manifest["not_scored"]),
        )


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


def _score_one(
    run: RunFolder,
    k: int,
    path: Path,
    root: Path,
    model: "IEEGModel",
    coverage_rule: CoverageRule,
    show: Callable[[int, int], None],
) -> None:
    """Write the files of a recording, then its row: it counts from then on."""
    relative = _relative(path, root)
    row: dict[str, Any] = {
        "record_id": os.fspath(Path(relative).with_suffix("")),
        "path": relative,
        "model": model.name,
        "bundle_hash": model.bundle_hash,
    }
    try:
        recording = read_ieeg(path, root=root)
        scored = score_ieeg(recording, model, coverage_rule=coverage_rule, progress=show)
    except BadInput as error:
        row |= _rejected(error)
    except (KeyboardInterrupt, SystemExit, MemoryError, OSError):
        raise
    except Exception as error:  # whatever a file does to a library, the others go on
        kind = type(error).__name__
        row |= _rejected(BadInput("E_WORKER", f"internal error while scoring ({kind})"))
    else:
        _write(run, k, recording, scored)
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
    run.write_part(k, _table(row))


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
        "record_id": text, "path": text, "outcome": text, "code": text,
        "all_codes": pa.list_(text), "message": text, "model": text, "bundle_hash": text,
        "n_channels": count, "n_bad": count, "duration_s": number, "evaluated_s": number,
        "n_events": count,
    }  # fmt: skip
    return pa.table(
        {name: pa.array([row.get(name)], type=t) for name, t in columns.items()}
    )


def _write(run: RunFolder, k: int, recording: IEEGRecording, scored: ScoredIEEG) -> None:
    import pyarrow as pa

    folder = _folder(k)
    start = np.arange(len(scored.status)) * scored.segment_duration
    status = [SegmentStatus(s).name.lower() for s in scored.status.tolist()]
    segments = {
        "segment": np.arange(len(start)),
        "start": start,
        "status": pa.array(status, type=pa.string()),
        "probability": pa.array(scored.probability, from_pandas=True),
    }
    run.write_parquet(f"{folder}/segments.parquet", pa.table(segments))
    contribution = io.BytesIO()
    np.lib.format.write_array(contribution, scored.contribution, allow_pickle=False)
    run.write(f"{folder}/contribution.npy", contribution.getvalue())
    if scored.coverage.evaluated:  # without it the file would say "no seizure"
        events = format_szcore(
            scored.events, coverage=scored.coverage, recording_duration=scored.duration
        )
        run.write(f"{folder}/events.tsv", events)
    run.write(f"{folder}/coverage.tsv", format_coverage(scored.coverage))
    run.write_json(f"{folder}/scored.json", _as_json(recording, scored))


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


# --- the run ----------------------------------------------------------------------------


def _manifest(
    run: RunFolder, n_recordings: int, model: "IEEGModel", others: list[str]
) -> dict[str, Any]:
    rows = [row for _, row in _rows(run.path)]
    outcomes = Counter(row["outcome"] for row in rows)
    return {
        "format": "phenokit iEEG scores",
        "version": 1,
        "model": model.name,
        "bundle_hash": model.bundle_hash,
        "n_recordings": n_recordings,
        "outcomes": {str(o): outcomes[str(o)] for o in Outcome},
        "codes": dict(sorted(Counter(row["code"] for row in rows).items())),
        "n_not_scored": len(others),
        "not_scored": others[:1000],
    }


def _keep(run: RunFolder, k: int) -> None:
    """Count the files that an earlier run wrote of a recording."""
    for path in sorted((run.path / _folder(k)).glob("*")):
        run.keep(path.relative_to(run.path).as_posix())


def _rows(out: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number and row of each recording that is done."""
    import pyarrow.parquet as pq

    for receipt in sorted(out.glob("part-*.json")):
        k = int(receipt.stem.removeprefix("part-"))
        with pq.ParquetFile(out / part_name(k), page_checksum_verification=True) as file:
            yield k, file.read().to_pylist()[0]


def _folder(k: int) -> str:
    return f"recording-{k:05d}"


def _relative(path: Path, root: Path) -> str:
    r"""Path below the folder as text; a byte that is not UTF-8 becomes ``\xff``."""
    return os.fsencode(path.relative_to(root)).decode("utf-8", "backslashreplace")


def _hash(path: Path) -> str:
    """SHA-256 of a recording and of the files beside it that share its stem."""
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file())
    else:
        # a stem of BIDS ends in _ieeg; its tables end in _channels, _events ...
        stem = path.stem.removesuffix("_ieeg")
        files = sorted(p for p in path.parent.iterdir() if p.name.startswith(stem))
    digest = hashlib.sha256()
    for file in files:
        digest.update(os.fsencode(file.relative_to(path.parent)) + b"\0")
        # what cannot be opened gets a row that says why
        with suppress(BadInput), open_checked(file, max_bytes=None) as opened:
            for start in range(0, opened.size, _READ_BYTES):
                digest.update(opened.read(_READ_BYTES, start=start))
    return digest.hexdigest()
