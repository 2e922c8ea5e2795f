"""Read what `phenokit score` wrote: a row a recording, in Parquet parts."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from jaxtyping import Float32, Float64

from phenokit.errors import BadInput
from phenokit.readers.files import read_bytes

if TYPE_CHECKING:
    import pyarrow as pa

_PREFIX = "probability_"
_COLUMNS = ("record_id", "patient_id", "outcome", "code")
_MAX_MANIFEST = 64 << 20


@dataclass(frozen=True)
class Scores:
    """Scores of recordings by one model.

    Attributes
    ----------
    table
        `record_id`, `patient_id` (empty where unknown), `outcome`, `code`.
    labels
        Of the columns of `probability`.
    probability
        Shape ``(recording, label)``; NaN where a recording was not scored.
    similarity
        Shape ``(recording, prototype)``; NaN likewise.
    model, bundle_hash
        What scored them.
    """

    table: pd.DataFrame
    labels: tuple[str, ...]
    probability: Float64[np.ndarray, "recording label"]
    similarity: Float32[np.ndarray, "recording prototype"]
    model: str
    bundle_hash: str


def read_scores(folder: Path) -> Scores:
    """Read the scores of a folder.

    Raises
    ------
    BadInput
        ``E_MISSING`` if there are none or the run did not finish, ``E_FORMAT`` if a part
        is damaged, ``E_COLUMNS`` if it lacks a column, ``E_VERSION`` if parts come from
        different models.
    """
    manifest_path = folder / "manifest.json"
    parts = sorted(folder.glob("part-*.parquet"))
    if not manifest_path.is_file() or not parts:
        raise BadInput(
            "E_MISSING",
            f"{folder.name} holds no finished scores; run phenokit score first.",
        )
    try:
        data = read_bytes(manifest_path, root=folder, max_bytes=_MAX_MANIFEST)
        manifest = json.loads(data)
    except (ValueError, RecursionError):
        raise BadInput("E_FORMAT", "manifest.json of the scores is damaged.") from None
    n_parts = manifest.get("n_parts") if isinstance(manifest, dict) else None
    if n_parts != len(parts):
        raise BadInput(
            "E_MISSING",
            f"The scores have {len(parts)} parts and their manifest names {n_parts}; "
            "score again.",
        )
    tables = [_read_part(path) for path in parts]
    labels = tuple(
        name.removeprefix(_PREFIX)
        for name in tables[0].column_names
        if name.startswith(_PREFIX)
    )
    sources = {
        (source["model"], source["bundle_hash"])
        for table in tables
        for source in table.select(["model", "bundle_hash"])
        .group_by(["model", "bundle_hash"])
        .aggregate([])
        .to_pylist()
    }
    if len(sources) != 1 or any(t.schema != tables[0].schema for t in tables):
        raise BadInput("E_VERSION", "The parts of the scores come from different models.")
    ((model, bundle_hash),) = sources
    return Scores(
        table=pd.concat(
            [table.select(_COLUMNS).to_pandas() for table in tables], ignore_index=True
        ).fillna(""),
        labels=labels,
        probability=np.concatenate(
            [
                np.column_stack(
                    [
                        table[_PREFIX + label].to_numpy().astype(np.float64)
                        for label in labels
                    ]
                )
                for table in tables
            ]
        ),
        similarity=np.concatenate([_similarity(table) for table in tables]),
        model=str(model),
        bundle_hash=str(bundle_hash),
    )


def _read_part(path: Path) -> "pa.Table":
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            table = file.read()
    except (pa.ArrowException, OSError):
        raise BadInput("E_FORMAT", f"{path.name} is damaged; score again.") from None
    wanted = {*_COLUMNS, "model", "bundle_hash", "similarity"}
    if missing := sorted(wanted - set(table.column_names)):
        raise BadInput("E_COLUMNS", f"{path.name} has no column {', '.join(missing)}.")
    return table


def _similarity(table: "pa.Table") -> Float32[np.ndarray, "recording prototype"]:
    column = table["similarity"].combine_chunks()
    return column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)
