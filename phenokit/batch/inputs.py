"""What a run of a cohort reads, and the hashes by which a rerun knows it again."""

import hashlib
import json
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from phenokit.errors import BadInput


@runtime_checkable
class CohortInputs(Protocol):
    """Paths by name, a cohort folder and scores among them."""

    @property
    def cohort(self) -> Path | None: ...  # noqa: D102
    @property
    def scores(self) -> Path | None: ...  # noqa: D102


def scores_folder(inputs: CohortInputs) -> Path | None:
    """The scores that are named, else those of the cohort folder."""
    if inputs.scores is not None or inputs.cohort is None:
        return inputs.scores
    found = inputs.cohort / "scores"
    return found if (found / "manifest.json").is_file() else None


def as_json(value: Any) -> Any:  # noqa: ANN401 - whatever JSON holds
    """Options as JSON values."""
    return json.loads(json.dumps(value, default=str))


def input_hashes(inputs: CohortInputs) -> dict[str, Any]:
    """SHA-256 of every file that a run reads.

    Raises
    ------
    BadInput
        ``E_MISSING`` naming the input that is absent.
    """
    found: dict[str, Any] = {}
    for name, path in vars(inputs).items():
        if path is None:
            continue
        if not path.exists():
            raise BadInput(
                "E_MISSING",
                f"There is no {path.name} to read as {name}.",
                where=name,
            )
        files = [path] if path.is_file() else _files_of(path)
        found[name] = {
            file.relative_to(path).as_posix() if path != file else path.name: _sha256(file)
            for file in files
        }
    if (scores := scores_folder(inputs)) is not None and inputs.scores is None:
        found["scores"] = {file.name: _sha256(file) for file in _files_of(scores)}
    return found


def _files_of(folder: Path) -> list[Path]:
    """The tables, parts and manifests of a folder; not what lies below it."""
    endings = (".csv", ".gz", ".parquet", ".toml")
    return sorted(
        path
        for path in folder.iterdir()
        if path.is_file() and (path.name.endswith(endings) or path.name == "manifest.json")
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
