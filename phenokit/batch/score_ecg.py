"""Score ECGs: a row a recording, a bad file included.

A row depends on its own file only: every forward pass has one shape, so that neither the
neighbours nor their order change a bit of it.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from phenokit.batch.workers import abandon, mark
from phenokit.errors import CODES, BadInput, outcome_of
from phenokit.pipeline import BATCH, ECGModel, ScoredECG, score_ecg
from phenokit.readers.files import TOO_MANY_OPEN
from phenokit.recording import Recording

if TYPE_CHECKING:
    import pyarrow as pa

    from phenokit.batch.sources import Reader, Record

ECG_ROWS = 256
"""ECGs in one part: little to do again after a crash, little overhead a recording."""


def score_ecg_records(
    records: Sequence["Record"],
    reader: "Reader",
    model: ECGModel,
    *,
    careful: bool = False,
    faults: Mapping[int, str] | None = None,
) -> tuple["pa.Table", list[dict[str, Any]]]:
    """The rows of these recordings, as a table and one by one.

    Tells by `mark` where it is: ``2 i + 1`` while recording `i` is read, ``2 i + 2`` while
    the batch that ends with it is scored.

    Parameters
    ----------
    careful
        Read and score one recording at a time.
    faults
        Code of recordings that are not read: their rows bear it.
    """
    rows = list(_rows(records, reader, model, 1 if careful else BATCH, faults or {}))
    return _table(rows, model), rows


def _rows(
    records: Sequence["Record"],
    reader: "Reader",
    model: ECGModel,
    batch: int,
    faults: Mapping[int, str],
) -> Iterator[dict[str, Any]]:
    for first in range(0, len(records), batch):
        block = records[first : first + batch]
        read: list[Recording | BadInput] = []
        for i, record in enumerate(block, start=first):
            mark(2 * i + 1)
            read.append(_read(record, reader, faults.get(i)))
        mark(2 * (first + len(block)))
        scored = iter(_scored([one for one in read if isinstance(one, Recording)], model))
        for record, one in zip(block, read, strict=True):
            result = one if isinstance(one, BadInput) else next(scored)
            if isinstance(result, BadInput):
                yield _rejected(record, reader, result, model)
            else:
                recording, numbers = result
                yield _row(record, recording, numbers)


def _read(record: "Record", reader: "Reader", fault: str | None) -> Recording | BadInput:
    if fault is not None:
        return BadInput(fault, CODES[fault])
    try:
        return cast("Recording", reader.read(record))
    except BadInput as error:
        return error
    except Exception as error:  # whatever a file does to a library, the others go on
        if isinstance(error, OSError) and error.errno in TOO_MANY_OPEN:
            raise  # no fault of the recording, whose row would say so for ever
        return _internal("reading", error)


def _scored(
    recordings: Sequence[Recording], model: ECGModel
) -> list[tuple[Recording, ScoredECG] | BadInput]:
    """One at a time where together they fail: the others are not to suffer."""
    try:
        return list(zip(recordings, score_ecg(recordings, model), strict=True))
    except Exception as error:
        if type(error).__name__ == "AcceleratorError":
            abandon()  # of CUDA: every later call of this process would fail as well
            raise
        if len(recordings) == 1:
            return [_internal("scoring", error)]
        return [one for recording in recordings for one in _scored([recording], model)]


def _internal(what: str, error: Exception) -> BadInput:
    """The kind of the error only: its text may hold what stood in the file."""
    return BadInput("E_WORKER", f"internal error while {what} ({type(error).__name__})")


def _row(record: "Record", recording: Recording, scored: ScoredECG) -> dict[str, Any]:
    return {
        "record_id": record.record_id,
        "path": record.path,
        "patient_id": record.patient_id or recording.patient_id,
        "outcome": str(scored.outcome),
        "code": scored.code,
        "all_codes": list(scored.all_codes),
        "message": scored.message,
        "start": None if np.isnan(scored.start) else scored.start,
        "stop": None if np.isnan(scored.stop) else scored.stop,
        "input_sha256": recording.sha256,
        "probability": scored.probability,
        "similarity": scored.similarity,
    }


def _rejected(
    record: "Record", reader: "Reader", error: BadInput, model: ECGModel
) -> dict[str, Any]:
    return {
        "record_id": record.record_id,
        "path": record.path,
        "patient_id": record.patient_id,
        "outcome": str(outcome_of(error.code)),
        "code": error.code,
        "all_codes": [error.code],
        "message": str(error),
        "start": None,
        "stop": None,
        "input_sha256": reader.sha256(record),
        "probability": np.full(len(model.labels), np.nan),
        "similarity": np.full(len(model.prototypes), np.nan, dtype=np.float32),
    }


def _table(rows: Sequence[dict[str, Any]], model: ECGModel) -> "pa.Table":
    """A probability a label, the similarities as one list."""
    import pyarrow as pa

    probability = np.stack([row["probability"] for row in rows])
    similarity = np.stack([row["similarity"] for row in rows])

    def column(name: str, kind: pa.DataType) -> pa.Array:
        return pa.array([row[name] for row in rows], type=kind)

    text, number = pa.string(), pa.float64()
    columns = {
        "record_id": column("record_id", text),
        "path": column("path", text),
        "patient_id": column("patient_id", text),
        "outcome": column("outcome", text),
        "code": column("code", text),
        "all_codes": column("all_codes", pa.list_(text)),
        "message": column("message", text),
        "start": column("start", number),
        "stop": column("stop", number),
        "input_sha256": column("input_sha256", text),
        "model": pa.array([model.name] * len(rows), type=text),
        "bundle_hash": pa.array([model.bundle_hash] * len(rows), type=text),
    }
    for k, label in enumerate(model.labels):
        columns[f"probability_{label}"] = pa.array(probability[:, k], from_pandas=True)
    columns["similarity"] = pa.FixedSizeListArray.from_arrays(
        pa.array(similarity.ravel(), type=pa.float32()), similarity.shape[1]
    )
    return pa.table(columns)
