"""One part of a scoring run: read its recordings, score them, write them, give a receipt.

Every engine calls `make_part`, and nothing else, wherever it runs. A part that is there
already, whole and of the same plan, is not made again; its inputs are hashed anew, so that
a file that was changed in the meantime is noticed.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from phenokit.batch.run_folder import read_receipt, write_part
from phenokit.batch.score_ecg import ECG_ROWS, score_ecg_records
from phenokit.batch.score_ieeg import score_ieeg_record
from phenokit.batch.workers import mark
from phenokit.evidence.seizures import HALF, CoverageRule
from phenokit.pipeline import ECGModel, Inference, load_ecg_model, load_model

if TYPE_CHECKING:
    from phenokit.batch.sources import Reader, Record
    from phenokit.monitor import IEEGModel
    from phenokit.readers.ieeg_recording import IEEGRecording
    from phenokit.recording import Recording

Kind = Literal["ecg", "ieeg"]

ROWS: dict[Kind, int] = {"ecg": ECG_ROWS, "ieeg": 1}
"""Recordings in one part."""

WRITING = -1
"""Step (`phenokit.batch.workers.mark`) while a part is written, and at no recording."""


@dataclass(frozen=True)
class PartWork:
    """What the parts of a run have in common; small, since every worker gets it.

    Attributes
    ----------
    out, plan_hash
        The run folder, and the plan that receipts bear.
    kind
        What the model reads.
    model
        Folder of the bundle; or the loaded model, for work in this process.
    device, inference
        As in `phenokit.pipeline.load_ecg_model`.
    reader
        Of `phenokit.batch.sources`.
    coverage_rule
        Of an iEEG.
    """

    out: Path
    plan_hash: str
    kind: Kind
    model: "Path | ECGModel | IEEGModel"
    device: str
    inference: Inference
    reader: "Reader"
    coverage_rule: CoverageRule = HALF


@dataclass(frozen=True)
class Part:
    """Recordings that are scored and written together.

    Attributes
    ----------
    k
        Number of the part.
    careful
        Read and score one recording at a time, so that a death can be laid to one.
    suspects
        Positions at which a worker died before.
    faults
        Code of each position that is not tried again.
    unhashed
        Positions of `faults` whose files are not even hashed: that ended a worker too.
    """

    k: int
    records: tuple["Record", ...]
    careful: bool = False
    suspects: frozenset[int] = frozenset()
    faults: Mapping[int, str] = field(default_factory=dict)
    unhashed: frozenset[int] = frozenset()


@dataclass(frozen=True)
class NoReceipt:
    """Why a part could not be made.

    Attributes
    ----------
    reason
        ``"disk"``, or ``"changed"``: its inputs are not those that were scored.
    errno
        Of the disk.
    """

    reason: Literal["disk", "changed"]
    errno: int = 0


def make_part(work: PartWork, part: Part) -> dict[str, Any] | NoReceipt:
    """The receipt of a part, which is made unless it is there already."""
    try:
        return _make(work, part)
    except OSError as error:
        return NoReceipt("disk", error.errno or 0)


def _make(work: PartWork, part: Part) -> dict[str, Any] | NoReceipt:
    receipt = read_receipt(work.out, part.k, plan_hash=work.plan_hash)
    if receipt is not None:
        found = _digest(_hashed_again(work.reader, part, receipt["unhashed"]))
        return receipt if found == receipt["inputs_sha256"] else NoReceipt("changed")
    model = load_work_model(work)
    reader = _Sparing(work.reader, frozenset(part.records[i] for i in part.unhashed))
    if isinstance(model, ECGModel):
        table, rows = score_ecg_records(
            part.records, reader, model, careful=part.careful, faults=part.faults
        )
        files = {}
    else:
        (record,) = part.records
        table, rows, files = score_ieeg_record(
            part.k,
            record,
            reader,
            model,
            coverage_rule=work.coverage_rule,
            fault=part.faults.get(0),
        )
    facts = {
        "outcomes": dict(sorted(Counter(row["outcome"] for row in rows).items())),
        "codes": dict(sorted(Counter(row["code"] for row in rows).items())),
        "inputs_sha256": _digest(row["input_sha256"] for row in rows),
        "unhashed": sorted(part.unhashed),
    }
    mark(WRITING)
    return write_part(
        work.out, part.k, table, plan_hash=work.plan_hash, files=files, facts=facts
    )


def load_work_model(work: PartWork) -> "ECGModel | IEEGModel":
    """The model of this process, loaded once."""
    if isinstance(work.model, Path):
        return _load(work.model, work.kind, work.device, work.inference)
    return work.model


@lru_cache(maxsize=1)
def _load(
    folder: Path, kind: Kind, device: str, inference: Inference
) -> "ECGModel | IEEGModel":
    if kind == "ecg":
        return load_ecg_model(folder, device=device, inference=inference)
    return load_model(folder, device=device)


@dataclass(frozen=True)
class _Sparing:
    """A reader that does not hash some of its records."""

    reader: "Reader"
    unhashed: frozenset["Record"]

    def read(self, record: "Record") -> "Recording | IEEGRecording":
        return self.reader.read(record)

    def sha256(self, record: "Record") -> str:
        return "" if record in self.unhashed else self.reader.sha256(record)


def _hashed_again(reader: "Reader", part: Part, unhashed: Sequence[int]) -> Iterator[str]:
    """Hash of each recording of a part that is done."""
    for i, record in enumerate(part.records):
        mark(2 * i + 1)
        is_spared = i in unhashed or i in part.unhashed
        yield "" if is_spared else reader.sha256(record)


def _digest(hashes: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()
