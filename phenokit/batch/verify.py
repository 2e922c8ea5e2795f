"""Hold the folder of a run against its plan, receipts and manifest."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phenokit.batch.run_folder import hash_file, part_name, plan_hash_of
from phenokit.errors import BadInput

_OWN = ("plan.json", "manifest.json")
_MAX_JSON = 256 << 20


@dataclass(frozen=True)
class Fault:
    """What is wrong with one file of a run.

    Attributes
    ----------
    name
        Within the folder.
    """

    name: str
    message: str


@dataclass(frozen=True)
class Verification:
    """What was found in the folder of a run.

    Attributes
    ----------
    command, run_id
        Of the plan.
    n_files
        Files that were hashed.
    n_rows
        Rows of all parts.
    is_finished
        Whether there is a manifest.
    """

    command: str
    run_id: str
    n_files: int
    n_rows: int
    is_finished: bool
    faults: tuple[Fault, ...]


def verify_run(folder: Path) -> Verification:
    """Hash every file of a run and compare.

    Parts are read as well, page by page against the checksums that they carry.

    Raises
    ------
    BadInput
        ``E_MISSING`` if the folder holds no run.
    """
    plan = _read_json(folder / "plan.json")
    if plan is None:
        raise BadInput("E_MISSING", "The folder holds no run: there is no plan.json.")
    manifest = _read_json(folder / "manifest.json")
    named = _files(folder) if manifest is None else manifest.get("files", {})
    n_rows, faults = 0, [*_plan_faults(plan, manifest)]
    for name, facts in sorted(named.items()):
        if not (folder / name).resolve().is_relative_to(folder.resolve()):
            faults.append(Fault(name, "lies outside the folder"))
            continue
        found = hash_file(folder / name)
        if found is None:
            faults.append(Fault(name, "is missing or cannot be read"))
        elif found != facts.get("sha256"):
            faults.append(Fault(name, "is not what was written"))
        elif _is_part(name):
            n_rows += _n_rows(folder / name, faults)
    faults += _receipt_faults(folder, named, plan, is_finished=manifest is not None)
    if manifest is not None:
        faults += _count_faults(manifest, n_rows, has_faults=bool(faults))
    return Verification(
        command=str(plan.get("plan", {}).get("command", "")),
        run_id=str(plan.get("plan_hash", ""))[:12],
        n_files=len(named),
        n_rows=n_rows,
        is_finished=manifest is not None,
        faults=tuple(faults),
    )


def _plan_faults(
    plan: Mapping[str, Any], manifest: Mapping[str, Any] | None
) -> Iterator[Fault]:
    if plan.get("plan_hash") != plan_hash_of(plan.get("plan", {})):
        yield Fault("plan.json", "was changed: its hash is not that of its plan")
    if manifest is not None and manifest.get("plan_hash") != plan.get("plan_hash"):
        yield Fault("manifest.json", "belongs to another plan")


def _files(folder: Path) -> dict[str, Any]:
    """Of a run that has not finished: what its receipts name."""
    named: dict[str, Any] = {}
    for path in sorted(folder.glob("part-*.json")):
        receipt = _read_json(path) or {}
        named[path.with_suffix(".parquet").name] = receipt
        named |= receipt.get("files", {})
    return named


def _receipt_faults(
    folder: Path,
    named: Mapping[str, Any],
    plan: Mapping[str, Any],
    *,
    is_finished: bool,
) -> Iterator[Fault]:
    """Receipts that are absent, of another plan, or not of the part beside them."""
    for name in sorted(filter(_is_part, named)):
        path = (folder / name).with_suffix(".json")
        receipt = _read_json(path)
        if receipt is None:
            yield Fault(path.name, "is missing or cannot be read")
        elif receipt.get("plan_hash") != plan.get("plan_hash"):
            yield Fault(path.name, "belongs to another plan")
        elif receipt.get("sha256") != named[name].get("sha256"):
            yield Fault(path.name, "is not the receipt of its part")
    known = {*_OWN, *named, *(str(Path(name).with_suffix(".json")) for name in named)}
    for path in sorted(folder.glob("part-*")):
        if path.name in known or path.name.endswith(".tmp"):
            continue  # what a killed run was writing goes when its command is given again
        if is_finished:
            yield Fault(path.name, "does not belong to the run")
        else:
            yield Fault(path.name, "has no receipt: the run makes it again")


def _count_faults(
    manifest: Mapping[str, Any], n_rows: int, *, has_faults: bool
) -> Iterator[Fault]:
    """Counts that do not add up; parts that are damaged have been told of already."""
    n = manifest.get("n_recordings")
    if n is None or has_faults:
        return
    for counts in ("outcomes", "codes"):
        if sum(manifest.get(counts, {}).values()) != n:
            yield Fault("manifest.json", f"its {counts} do not add up to {n:,}")
    if n_rows and n_rows != n:
        yield Fault("manifest.json", f"names {n:,} recordings; the parts have {n_rows:,}")


def _n_rows(path: Path, faults: list[Fault]) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            return sum(batch.num_rows for batch in file.iter_batches())
    except (pa.ArrowException, OSError):
        faults.append(Fault(path.name, "cannot be read as Parquet"))
        return 0


def _is_part(name: str) -> bool:
    stem = name.removeprefix("part-").removesuffix(".parquet")
    return stem.isdigit() and name == part_name(int(stem))


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        if path.stat().st_size > _MAX_JSON:
            return None
        read = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return read if isinstance(read, dict) else None
