"""Score a cohort of any size: every input ends in exactly one row, whatever happens.

    DIR/plan.json                what is scored, by what: a rerun must agree with it
    DIR/part-00000.parquet ...   a row a recording, in the order of the source
    DIR/part-00000.json ...      receipts: rows, SHA-256, counts, hash of the inputs
    DIR/recording-00000/ ...     of an iEEG: events, coverage, probabilities
    DIR/errors.parquet           the rejected rows again: where, what, why
    DIR/report.html              counts by outcome, code and finding
    DIR/manifest.json            counts, model, every file and its hash; the mark of the end

A run that was stopped, killed or left without disk goes on when the same command is given
again: parts that are whole are kept, the others are made, and the bytes are those of a run
that nothing happened to (`phenokit.batch.run_folder`).
"""

import hashlib
import os
import secrets
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

import phenokit
from phenokit.batch.engines import Parts, make_here, make_in_workers
from phenokit.batch.parts import ROWS, Kind, PartWork
from phenokit.batch.run_folder import (
    RunFolder,
    Shard,
    open_run,
    part_name,
    stop_in_order,
)
from phenokit.batch.sources import RecordSource, find_records
from phenokit.errors import Outcome, OutputBusy
from phenokit.evidence.seizures import HALF, CoverageRule
from phenokit.networks.checkpoint import load_bundle
from phenokit.pipeline import ECGModel, Inference, default_inference, resolve_device
from phenokit.report.scores import LabelCount, write_score_report

if TYPE_CHECKING:
    import pyarrow as pa

    from phenokit.monitor import IEEGModel

Engine = Literal["local", "ray"]

MAX_LISTED = 1000
"""Files without a recording that the manifest names; more are only counted."""

TIME_LIMIT = 60.0
"""Seconds that reading, or scoring, one recording may take; of an iEEG every minute."""

_PROBABILITY = "probability_"
_SCRATCH = ".scratch-"
_ERROR_COLUMNS = ("record_id", "path", "patient_id", "code", "all_codes", "message")

Progress = Callable[[str, int, int], None]
"""Called with what is being done, and the number of its steps done and of all."""


@dataclass(frozen=True)
class Scoring:
    """How a run stands.

    Attributes
    ----------
    outcomes, codes
        Recordings by outcome and by first code.
    not_scored
        Files that hold no recording; of many, the first thousand.
    is_finished
        False for a shard that others have not caught up with.
    """

    outcomes: dict[str, int]
    codes: dict[str, int]
    not_scored: tuple[str, ...]
    n_not_scored: int
    is_finished: bool = True

    @property
    def n_recordings(self) -> int:
        """All rows."""
        return sum(self.outcomes.values())


@dataclass(frozen=True)
class _Model:
    """What the plan says of a model, and what makes it."""

    source: "Path | ECGModel | IEEGModel"
    name: str
    kind: Kind
    bundle_hash: str
    device: str
    inference: str

    @property
    def engine(self) -> Inference:
        """`inference` without its version."""
        return "openvino" if self.inference.startswith("openvino") else "torch"


def score_cohort(
    source: str | Path,
    out: Path,
    model: "str | Path | ECGModel | IEEGModel",
    *,
    device: str = "auto",
    inference: Inference = "auto",
    engine: Engine = "local",
    workers: int | None = None,
    shard: Shard | None = None,
    time_limit: float = TIME_LIMIT,
    coverage_rule: CoverageRule = HALF,
    restart: bool = False,
    rows: int | None = None,
    progress: Progress = lambda stage, done, of: None,
) -> Scoring:
    """Score whatever `phenokit.batch.sources` reads, and write one row a recording.

    Parameters
    ----------
    source
        A file, a folder, a pattern, a table of paths, a packed archive, a zip, PTB-XL or
        MIMIC-IV-ECG.
    out
        Folder of the run. A run of the same inputs and model that was stopped goes on.
    model
        Name or folder of a bundle; or a loaded model, with ``workers=0``.
    device, inference
        As in `phenokit.pipeline.load_ecg_model`.
    engine
        ``"local"``: processes of this machine; ``"ray"``: those of a Ray cluster, which
        all see `source` and `out` under the same paths.
    workers
        Processes; ``None``: one a processor, of a cluster all but one. 0: this process
        does all, and a recording that crashes a library ends it. The number changes no
        byte.
    shard
        Do only this share of the parts; other processes do the others. Whoever finds all
        parts done finishes the run.
    time_limit
        Seconds that reading, or scoring, one recording may take; of an iEEG every minute.
    coverage_rule
        When a segment of an iEEG is evaluated.
    restart
        Throw away what an earlier run left in the folder.
    rows
        ECGs in a part: what a crash costs a worker at most. Part of the plan.

    Raises
    ------
    BadInput
        ``E_MISSING`` if there is nothing to read; ``E_VERSION`` if `out` holds another run,
        or recordings were changed since. A bad recording is a row, not an error.
    OutputBusy
        If another process is writing to `out`.
    OSError
        If the disk is full or fails. What is written stays valid.
    """
    if shard is not None and restart:
        raise ValueError("a shard cannot restart a run; run without shard, or by hand")
    known = _settle(model, device, inference)
    with (
        stop_in_order(),
        _scratch(out) as scratch,
        find_records(source, kind=known.kind, scratch=scratch, leave_out=out) as records,
    ):
        run = _Run(
            source=records,
            rows=rows if rows is not None and known.kind == "ecg" else ROWS[known.kind],
            model=known,
            engine=engine,
            workers=_n_workers(engine) if workers is None else workers,
            time_limit=time_limit,
            coverage_rule=coverage_rule,
            progress=progress,
        )
        with open_run(
            out, plan=run.plan(), command="score", restart=restart, shard=shard
        ) as folder:
            if shard is None:
                _wipe_scratch(out, scratch)
            receipts = run.make(folder, shard)
            if shard is None:
                run.finish(folder, receipts)
        if shard is not None:
            return run.finish_together(out)
        return _scoring(folder.manifest or {})


@dataclass(frozen=True)
class _Run:
    """One run, between the source and the folder."""

    source: RecordSource
    rows: int
    model: _Model
    engine: Engine
    workers: int
    time_limit: float
    coverage_rule: CoverageRule
    progress: Progress

    @property
    def n_parts(self) -> int:
        return -(-len(self.source) // self.rows)

    def plan(self) -> dict[str, Any]:
        """What decides the bytes; not how many processes make them, or where."""
        rule = asdict(self.coverage_rule) if self.model.kind == "ieeg" else None
        return {
            "model": self.model.name,
            "bundle_hash": self.model.bundle_hash,
            "device": self.model.device,
            "inference": self.model.inference,
            "coverage_rule": rule,
            "rows": self.rows,
            "source": self.source.plan(),
            "code": code_hash(),
        }

    def make(self, folder: RunFolder, shard: Shard | None) -> dict[int, Mapping[str, Any]]:
        """Receipts of all parts of the shard, which are made unless they are there."""
        numbers = [k for k in range(self.n_parts) if shard is None or shard.has(k)]
        parts = [folder.path / part_name(k) for k in numbers]
        is_there = [p.is_file() and p.with_suffix(".json").is_file() for p in parts]
        if not all(is_there):
            folder.reopen()
        receipts: dict[int, Mapping[str, Any]] = {}
        n = sum(min(self.rows, len(self.source) - k * self.rows) for k in numbers)
        done = told = 0

        def report(steps: Mapping[int, tuple[int, int]]) -> None:
            nonlocal told
            now, of, stage = done, n, "scoring"
            if self.model.kind == "ecg":
                now += sum(max(step, 0) // 2 for step, _ in steps.values())
                now = told = max(now, told)  # a part that is made again takes nothing back
            elif steps:
                index = min(steps)
                now, of = steps[index]
                stage = f"recording {numbers[index] + 1} of {len(self.source)}"
            if of:
                folder.progress(min(now, of), of, stage=stage)
                self.progress(stage, min(now, of), of)

        def collect(k: int, receipt: Mapping[str, Any]) -> None:
            nonlocal done
            receipts[k] = receipt
            done += receipt["rows"]
            if self.model.kind == "ecg" or self.workers == 0:
                report({})

        report({})
        work = self._work(folder)
        wanted = Parts(self.source, numbers, self.rows)
        if self.engine == "ray":
            from phenokit.batch.ray_engine import make_on_ray

            make_on_ray(
                work,
                wanted,
                workers=self.workers,
                time_limit=self.time_limit,
                collect=collect,
            )
        elif self.workers == 0:
            make_here(work, wanted, collect=collect)
        elif numbers:
            make_in_workers(
                work,
                wanted,
                workers=self.workers,
                time_limit=self.time_limit,
                collect=collect,
                steps=report,
                needs_model=not all(is_there),
            )
        return receipts

    def finish(self, folder: RunFolder, receipts: Mapping[int, Mapping[str, Any]]) -> None:
        """Write what is said of all rows, and the manifest."""
        for k in sorted(receipts):
            folder.add_part(k, receipts[k])
        if folder.is_whole():
            return
        folder.reopen()
        folder.progress(0, 1, stage="report")
        self.progress("report", 0, 1)
        rejected, labels = _look_through(folder, receipts, self.model)
        folder.write_parquet("errors.parquet", rejected)
        manifest = self._manifest(receipts)
        folder.write("report.html", write_score_report(manifest, labels=labels))
        folder.finish(manifest)
        self.progress("report", 1, 1)

    def finish_together(self, out: Path) -> Scoring:
        """Finish the run if no other shard is at work and all parts are there."""
        try:
            with open_run(out, plan=self.plan(), command="score") as folder:
                names = [part_name(k) for k in range(self.n_parts)]
                if all((out / name).with_suffix(".json").is_file() for name in names):
                    self.finish(folder, self.make(folder, None))
                    return _scoring(folder.manifest or {})
        except OutputBusy:
            pass  # the last of those who are at work finishes
        return Scoring({}, {}, (), 0, is_finished=False)

    def _work(self, folder: RunFolder) -> PartWork:
        return PartWork(
            out=folder.path,
            plan_hash=folder.plan_hash,
            kind=self.model.kind,
            model=self.model.source,
            device=self.model.device,
            inference=self.model.engine,
            reader=self.source.reader,
            coverage_rule=self.coverage_rule,
        )

    def _manifest(self, receipts: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
        outcomes: Counter[str] = Counter()
        codes: Counter[str] = Counter()
        inputs = hashlib.sha256()
        for k in sorted(receipts):
            outcomes.update(receipts[k]["outcomes"])
            codes.update(receipts[k]["codes"])
            inputs.update(receipts[k]["inputs_sha256"].encode())
        others = self.source.others
        return {
            "format": "phenokit scores"
            if self.model.kind == "ecg"
            else "phenokit iEEG scores",
            "version": 2,
            "model": self.model.name,
            "bundle_hash": self.model.bundle_hash,
            "device": self.model.device,
            "inference": self.model.inference,
            "code": code_hash(),
            "source": self.source.plan(),
            "inputs_sha256": inputs.hexdigest(),
            "n_recordings": len(self.source),
            "n_parts": self.n_parts,
            "outcomes": {str(outcome): outcomes[str(outcome)] for outcome in Outcome},
            "codes": dict(sorted(codes.items())),
            "n_not_scored": len(others),
            "not_scored": list(others[:MAX_LISTED]),
        }


@lru_cache(maxsize=1)
def code_hash() -> str:
    """SHA-256 of the source of PhenoKit, file by file."""
    root = Path(phenokit.__path__[0])
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0")
        digest.update(path.read_bytes() + b"\0")
    return digest.hexdigest()


def _settle(
    model: "str | Path | ECGModel | IEEGModel", device: str, inference: Inference
) -> _Model:
    """Model, device and engine as the plan names them; nothing is left to chance."""
    if not isinstance(model, str | Path):
        kind: Kind = "ecg" if isinstance(model, ECGModel) else "ieeg"
        engine = model.inference if isinstance(model, ECGModel) else _torch()
        return _Model(model, model.name, kind, model.bundle_hash, model.device, engine)
    bundle = load_bundle(model)
    kind = "ieeg" if bundle.config.get("kind") == "ieeg-mvpformer" else "ecg"
    if inference == "auto":
        inference = "torch" if kind == "ieeg" else default_inference(device)
    return _Model(
        bundle.path,
        bundle.name,
        kind,
        bundle.bundle_hash,
        "cpu" if inference == "openvino" else resolve_device(device),
        f"openvino {version('openvino')}" if inference == "openvino" else _torch(),
    )


def _torch() -> str:
    return f"torch {version('torch')}"


def _n_workers(engine: Engine) -> int:
    """One a processor; of a cluster, 0: it knows how many processors it has."""
    if engine == "ray":
        return 0
    n = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(n or 1, 1)


@contextmanager
def _scratch(out: Path) -> Iterator[Path]:
    """A folder of this process for what has to be unpacked; it need not be made."""
    # Not by the process id alone: shards in two containers may have the same.
    folder = out / f"{_SCRATCH}{os.getpid()}-{secrets.token_hex(4)}"
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _wipe_scratch(out: Path, own: Path) -> None:
    """Remove what a process that was killed had unpacked."""
    for folder in out.glob(f"{_SCRATCH}*"):
        if folder != own:
            shutil.rmtree(folder, ignore_errors=True)


def _look_through(
    folder: RunFolder, receipts: Mapping[int, Mapping[str, Any]], model: _Model
) -> tuple["pa.Table", tuple[LabelCount, ...]]:
    """The rejected rows, and how often each label reached its threshold."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    thresholds = _thresholds(model)
    n, n_over = Counter(), Counter()
    rejected: list[pa.Table] = []
    for k in sorted(receipts):
        path = folder.path / part_name(k)
        wanted = [*_ERROR_COLUMNS, *(_PROBABILITY + label for label in thresholds)]
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            table = file.read(columns=["outcome", *wanted])
        for label, threshold in thresholds.items():
            probability = table[_PROBABILITY + label].to_numpy()
            n[label] += int(np.count_nonzero(~np.isnan(probability)))
            n_over[label] += int(np.count_nonzero(probability >= threshold))
        is_rejected = np.equal(table["outcome"].to_numpy(), str(Outcome.REJECTED))
        rejected.append(table.filter(pa.array(is_rejected)).select(_ERROR_COLUMNS))
    text = pa.string()
    kinds = {
        name: pa.list_(text) if name == "all_codes" else text for name in _ERROR_COLUMNS
    }
    empty = pa.schema(kinds.items()).empty_table()
    counts = tuple(
        LabelCount(label, threshold, n[label], n_over[label])
        for label, threshold in thresholds.items()
    )
    return pa.concat_tables([empty, *rejected]).combine_chunks(), counts


def _thresholds(model: _Model) -> dict[str, float]:
    """The threshold of every label; none of an iEEG, which has events instead."""
    if model.kind == "ieeg":
        return {}
    if isinstance(model.source, ECGModel):
        found = model.source.calibration.threshold
        return dict(zip(model.source.labels, found.tolist(), strict=True))
    calibration = load_bundle(cast("Path", model.source)).calibration
    return dict(zip(calibration["labels"], calibration["threshold"], strict=True))


def _scoring(manifest: Mapping[str, Any]) -> Scoring:
    return Scoring(
        {name: count for name, count in manifest["outcomes"].items() if count},
        dict(manifest["codes"]),
        tuple(manifest["not_scored"]),
        manifest["n_not_scored"],
    )
