"""Score a file or a folder of ECGs: one row a recording, a bad file included.

    DIR/part-00000.parquet ...   the rows, in the order of the files' relative paths
    DIR/manifest.json            counts by outcome and code, the model, what was not scored

A row depends on its own file only: every forward pass has one shape, so that neither the
neighbours nor their order change a bit of it.
"""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from phenokit.errors import BadInput, Outcome, outcome_of
from phenokit.pipeline import ECGModel, ScoredECG, score_ecg
from phenokit.readers.ecg import is_ecg_file, read_ecg
from phenokit.readers.files import read_bytes
from phenokit.recording import Recording

ROWS_A_PART = 4096
"""Recordings in one Parquet file."""

BLOCK = 256
"""Recordings read before they are scored together."""

MAX_LISTED = 1000
"""Files without a recording that the manifest names; more are only counted."""

Progress = Callable[[int, int], None]
"""Called with the number of recordings done and of all."""


@dataclass(frozen=True)
class Scoring:
    """How many recordings ended in each outcome and code, and which files hold none."""

    outcomes: dict[str, int]
    codes: dict[str, int]
    not_scored: tuple[str, ...]

    @property
    def n_recordings(self) -> int:
        """All rows."""
        return sum(self.outcomes.values())


@dataclass(frozen=True)
class Inputs:
    """Recordings of a folder, and files that hold none.

    Attributes
    ----------
    recordings
        Paths to read: each WFDB header, each file in a known format, and each WFDB signal
        file without its header.
    others
        Files in no known format.
    """

    root: Path
    recordings: tuple[Path, ...]
    others: tuple[Path, ...]


def find_inputs(path: Path) -> Inputs:
    """List what is to be scored, sorted by path; nothing is opened for reading in full.

    Raises
    ------
    BadInput
        ``E_MISSING`` if there is no such file or folder.
    """
    if not path.exists():
        raise BadInput("E_MISSING", f"there is no file or folder {path.name}")
    if not path.is_dir():
        return Inputs(path.parent, (path,), ())
    recordings, others = [], []
    for files in _walk(path):
        headers = [file for file in files if file.suffix == ".hea"]
        stems = {header.stem for header in headers}
        named: set[str] | None = None
        for file in files:
            if file.suffix == ".hea":
                recordings.append(file)
            elif file.suffix == ".dat":
                if file.stem not in stems and named is None:
                    named = _named_signals(headers)
                if file.stem not in stems and file.name not in (named or set()):
                    recordings.append(file)  # a signal without its header: a row says so
            elif _may_be_ecg(file):
                recordings.append(file)
            else:
                others.append(file)
    recordings.sort()
    others.sort()
    return Inputs(path, tuple(recordings), tuple(others))


def score_path(
    path: Path, out: Path, model: ECGModel, *, progress: Progress = lambda done, of: None
) -> Scoring:
    """Score a file or a folder and write one row a recording.

    Parameters
    ----------
    out
        Folder; parts and manifest of an earlier run in it are replaced.

    Raises
    ------
    BadInput
        ``E_MISSING`` if there is nothing at `path`; a bad recording is a row, not an error.
    """
    inputs = find_inputs(path)
    rows = _reported(_rows(inputs, model), progress, of=len(inputs.recordings))
    others = tuple(_relative(p, inputs.root) for p in inputs.others)
    return write_scores(rows, out, model, others=others)


def score_files(
    paths: Sequence[Path], root: Path, model: ECGModel
) -> Iterator[dict[str, Any]]:
    """The row of each of these files below `root`, in order, for `write_scores`."""
    return _rows(Inputs(root, tuple(paths), ()), model)


def write_scores(
    rows: Iterable[dict[str, Any]],
    out: Path,
    model: ECGModel,
    *,
    others: tuple[str, ...] = (),
) -> Scoring:
    """Write rows in parts, and the manifest.

    Parameters
    ----------
    out
        Folder; parts and manifest of an earlier run in it are replaced.
    others
        Files that hold no recording.
    """
    import pyarrow.parquet as pq

    out.mkdir(parents=True, exist_ok=True)
    (out / "manifest.json").unlink(missing_ok=True)
    for old in out.glob("part-*.parquet"):
        old.unlink()
    outcomes: Counter[str] = Counter()
    codes: Counter[str] = Counter()
    rows = iter(rows)
    part = 0
    while block := list(islice(rows, ROWS_A_PART)):
        table = _table(block, model)
        target = out / f"part-{part:05d}.parquet"
        temporary = target.with_suffix(".tmp")
        pq.write_table(table, temporary, write_page_checksum=True, compression="zstd")
        temporary.replace(target)
        outcomes.update(row["outcome"] for row in block)
        codes.update(row["code"] for row in block)
        part += 1
    scoring = Scoring(dict(sorted(outcomes.items())), dict(sorted(codes.items())), others)
    _write_manifest(out / "manifest.json", scoring, model, part)
    return scoring


def _rows(inputs: Inputs, model: ECGModel) -> Iterator[dict[str, Any]]:
    for paths in _blocks(inputs.recordings, BLOCK):
        read = [_read(path, inputs.root) for path in paths]
        recordings = [r for r in read if isinstance(r, Recording)]
        scored = iter(score_ecg(recordings, model))
        for path, one in zip(paths, read, strict=True):
            relative = _relative(path, inputs.root)
            if isinstance(one, BadInput):
                yield _rejected(relative, one, model)
            else:
                yield _scored(relative, one, next(scored))


def _reported(
    rows: Iterable[dict[str, Any]], progress: Progress, *, of: int
) -> Iterator[dict[str, Any]]:
    """The rows, with a word on how far it is after every block and after the last."""
    for done, row in enumerate(rows, start=1):
        yield row
        if done % BLOCK == 0 or done == of:
            progress(done, of)


def _read(path: Path, root: Path) -> Recording | BadInput:
    try:
        return read_ecg(path, root=root)
    except BadInput as error:
        return error
    except Exception as error:  # whatever a file does to a library, the others go on
        return BadInput(
            "E_WORKER", f"internal error while reading ({type(error).__name__})"
        )


def _scored(relative: str, recording: Recording, scored: ScoredECG) -> dict[str, Any]:
    return {
        "record_id": _stem(relative),
        "path": relative,
        "patient_id": recording.patient_id,
        "outcome": str(scored.outcome),
        "code": scored.code,
        "all_codes": list(scored.all_codes),
        "message": scored.message,
        "start": None if np.isnan(scored.start) else scored.start,
        "stop": None if np.isnan(scored.stop) else scored.stop,
        "probability": scored.probability,
        "similarity": scored.similarity,
    }


def _rejected(relative: str, error: BadInput, model: ECGModel) -> dict[str, Any]:
    return {
        "record_id": _stem(relative),
        "path": relative,
        "patient_id": None,
        "outcome": str(outcome_of(error.code)),
        "code": error.code,
        "all_codes": [error.code],
        "message": str(error),
        "start": None,
        "stop": None,
        "probability": np.full(len(model.labels), np.nan),
        "similarity": np.full(len(model.prototypes), np.nan, dtype=np.float32),
    }


def _relative(path: Path, root: Path) -> str:
    r"""Path below the folder as text; a byte that is not UTF-8 becomes ``\xff``."""
    return os.fsencode(path.relative_to(root)).decode("utf-8", "backslashreplace")


def _stem(relative: str) -> str:
    return os.fspath(Path(relative).with_suffix(""))


def _table(rows: Sequence[dict[str, Any]], model: ECGModel) -> Any:  # noqa: ANN401 - pyarrow lazily
    """One Parquet part: a probability a label, the similarities as one list."""
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
        "model": pa.array([model.name] * len(rows), type=text),
        "bundle_hash": pa.array([model.bundle_hash] * len(rows), type=text),
    }
    for k, label in enumerate(model.labels):
        columns[f"probability_{label}"] = pa.array(probability[:, k], from_pandas=True)
    columns["similarity"] = pa.FixedSizeListArray.from_arrays(
        pa.array(similarity.ravel(), type=pa.float32()), similarity.shape[1]
    )
    return pa.table(columns)


def _write_manifest(path: Path, scoring: Scoring, model: ECGModel, n_parts: int) -> None:
    manifest = {
        "format": "phenokit scores",
        "version": 1,
        "model": model.name,
        "bundle_hash": model.bundle_hash,
        "n_recordings": scoring.n_recordings,
        "n_parts": n_parts,
        "outcomes": {str(o): scoring.outcomes.get(str(o), 0) for o in Outcome},
        "codes": scoring.codes,
        "n_not_scored": len(scoring.not_scored),
        "not_scored": list(scoring.not_scored[:MAX_LISTED]),
    }
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")
    temporary.replace(path)


def _walk(folder: Path) -> Iterator[list[Path]]:
    """The files of every folder, sorted; links to folders are not followed."""
    for parent, below, names in os.walk(folder):
        below.sort()
        yield [Path(parent) / name for name in sorted(names)]


def _may_be_ecg(file: Path) -> bool:
    """Whether it is a recording, or something that must be refused in a row of its own."""
    try:
        return is_ecg_file(file)
    except BadInput:
        return True


def _named_signals(headers: Iterable[Path]) -> set[str]:
    """First words of all header lines: among them the signal files that they name."""
    names: set[str] = set()
    for header in headers:
        try:
            lines = read_bytes(header, max_bytes=1 << 20, what="header").splitlines()
        except BadInput:
            continue
        names |= {
            line.split()[0].decode("utf-8", "replace") for line in lines if line.split()
        }
    return names


def _blocks(paths: Sequence[Path], size: int) -> Iterator[Sequence[Path]]:
    for first in range(0, len(paths), size):
        yield paths[first : first + size]
