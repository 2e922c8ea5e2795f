"""A packed archive: many prepared ECGs in one file that is read without decoding.

    signal.int16    (recording, lead, sample), little-endian int16, in steps of `scale`
    table.parquet   a row a recording: ids, patient, fold, age, sex ..., and its labels
    archive.json    shape, leads, rate, unit, scale, contract and the hashes of the two

The signal is memory-mapped: a block of recordings costs a copy and a multiplication.
The contract's identifier stands in the archive, so that recordings prepared for one
network are not read by another.
"""

import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Float32, Int, Int16

from phenokit.errors import BadInput
from phenokit.readers.files import open_checked, read_bytes
from phenokit.recording import LEADS

FORMAT = "phenokit packed archive"
FORMAT_VERSION = 1

REQUIRED_COLUMNS = ("record_id", "dataset", "patient_id", "split", "fold", "age", "sex")
"""Columns of every archive's table; a value that is not known is missing, not invented."""

_LABEL_PREFIX = "label_"
_MAX_HEADER_BYTES = 1 << 20
_MAX_TABLE_BYTES = 1 << 30
_HASHED = ("signal.int16", "table.parquet")


@dataclass(frozen=True)
class PackedArchive:
    """An open archive.

    Attributes
    ----------
    signal
        Shape ``(recording, lead, sample)``, a read-only memory map.
    scale
        `unit` a step of `signal`.
    unit
        ``"mV"``, or ``"z"`` for z-scored leads.
    contract_id
        Identifier of the input contract that was applied, or ``"raw"``.
    sampling_rate
        Hz.
    leads
        Names along the lead axis.
    table
        `REQUIRED_COLUMNS` and what else is known, a row a recording. ``split`` is
        ``"train"``, ``"val"``, ``"test"`` or missing; ``fold`` is missing where unknown.
    label_codes, labels
        Codes, and shape ``(recording, label)``: 1, 0, or NaN where nobody can say.
    dataset, notes
        What it was made from; its origin, licence and cautions in words.
    """

    signal: Int16[np.ndarray, "recording lead sample"]
    scale: float
    unit: str
    contract_id: str
    sampling_rate: float
    leads: tuple[str, ...]
    table: pd.DataFrame
    label_codes: tuple[str, ...]
    labels: Float32[np.ndarray, "recording label"]
    dataset: str
    notes: str

    def __len__(self) -> int:
        return self.signal.shape[0]

    def block(
        self, index: slice | Int[np.ndarray, " block"]
    ) -> Float32[np.ndarray, "block lead sample"]:
        """Some recordings in `unit`, float32: a slice, or an array of row numbers."""
        # a plain view: indexing a memory map costs more than the copy of one recording
        block = np.asarray(self.signal)[index].astype(np.float32)
        block *= np.float32(self.scale)
        return block


def open_archive(folder: Path, *, verify: bool = False) -> PackedArchive:
    """Open a packed archive after checking that its parts belong together.

    Parameters
    ----------
    folder
        Where `write_archive` put it.
    verify
        Also hash both files (reads everything once).

    Raises
    ------
    BadInput
        ``E_MISSING`` or ``E_PATH`` for a file that is absent or a link, ``E_HEADER`` for
        a damaged archive.json, ``E_VERSION`` for another format version,
        ``E_SIZE_MISMATCH`` if the signal or the table has another size than declared,
        ``E_COLUMNS``, ``E_DUP_ID`` or ``E_RANGE`` for a table that does not fit,
        ``E_CHECKSUM`` for bytes that were changed.
    """
    header = _read_header(folder)
    shape = (header["n_recordings"], len(header["leads"]), header["n_samples"])
    if verify:
        for name in _HASHED:
            _check_hash(folder / name, header["sha256"][name])
    table, labels = _read_table(folder, header)
    what = "signal file of the archive"
    with open_checked(folder / "signal.int16", max_bytes=None, what=what) as file:
        expected = math.prod(shape) * 2
        if file.size != expected:
            raise BadInput(
                "E_SIZE_MISMATCH",
                f"The {what} has {file.size} bytes; {shape[0]} recordings of {shape[1]} "
                f"leads and {shape[2]} samples need {expected}. Pack it again.",
            )
        with os.fdopen(os.dup(file.descriptor), "rb") as stream:
            signal = np.memmap(stream, dtype="<i2", mode="r", shape=shape)
    return PackedArchive(
        signal=signal,
        scale=float(header["scale"]),
        unit=header["unit"],
        contract_id=header["contract_id"],
        sampling_rate=float(header["sampling_rate"]),
        leads=tuple(header["leads"]),
        table=table,
        label_codes=tuple(header["label_codes"]),
        labels=labels,
        dataset=header["dataset"],
        notes=header["notes"],
    )


def quantise(
    signal: Float[np.ndarray, "*recordings lead sample"], *, scale: float
) -> Int16[np.ndarray, "*recordings lead sample"]:
    """Round a signal to steps of `scale`.

    Raises
    ------
    BadInput
        ``E_NONFINITE`` for a gap, ``E_RANGE`` for a value beyond 32,767 steps: an archive
        holds neither, and a wrong number is worse than a missing recording.
    """
    steps = np.rint(signal / scale)
    if not np.isfinite(steps).all():
        raise BadInput("E_NONFINITE", "Part of the signal is missing or not a number.")
    largest = float(np.abs(steps).max(initial=0.0))
    if largest > np.iinfo(np.int16).max:
        raise BadInput(
            "E_RANGE",
            f"The signal reaches {largest * scale:.3g}; an archive with steps of {scale:g} "
            f"holds up to {np.iinfo(np.int16).max * scale:.3g}.",
        )
    return steps.astype(np.int16)


def write_archive(
    folder: Path,
    *,
    signals: Iterable[Int16[np.ndarray, "block lead sample"]],
    table: pd.DataFrame,
    label_codes: Sequence[str],
    labels: Float32[np.ndarray, "recording label"],
    scale: float,
    unit: str,
    contract_id: str,
    sampling_rate: float,
    dataset: str,
    leads: tuple[str, ...] = LEADS,
    notes: str = "",
) -> None:
    """Write a packed archive; it appears whole or not at all.

    Parameters
    ----------
    folder
        Must not exist yet.
    signals
        Blocks of recordings in the order of `table`; read once, so that an archive larger
        than memory can be written. Arguments are otherwise as in `PackedArchive`.

    Raises
    ------
    FileExistsError
        If `folder` exists.
    ValueError
        If the table lacks a required column or the signals do not fit the table.
    """
    absent = [name for name in REQUIRED_COLUMNS if name not in table.columns]
    if absent:
        raise ValueError(f"the table lacks {', '.join(absent)}")
    if labels.shape != (len(table), len(label_codes)):
        raise ValueError(f"labels {labels.shape} do not fit {len(table)} recordings")
    if folder.exists():
        raise FileExistsError(f"{folder} exists; choose another folder or remove it")
    unfinished = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    n_recordings, n_samples = 0, 0
    with (unfinished / "signal.int16").open("wb") as file:
        for block in signals:
            if n_recordings and block.shape[2] != n_samples:
                raise ValueError(f"blocks of {n_samples} and {block.shape[2]} samples")
            if block.shape[1] != len(leads):
                raise ValueError(f"{block.shape[1]} leads in a block, {len(leads)} named")
            n_recordings, n_samples = n_recordings + block.shape[0], block.shape[2]
            file.write(np.ascontiguousarray(block, dtype="<i2").tobytes())
    if n_recordings != len(table):
        raise ValueError(f"{n_recordings} signals for {len(table)} rows of the table")
    columns = {
        _LABEL_PREFIX + code: labels[:, i].astype(np.float32)
        for i, code in enumerate(label_codes)
    }
    rows = pd.concat(
        [table.reset_index(drop=True), pd.DataFrame(columns, index=range(len(table)))],
        axis=1,
    )
    rows.to_parquet(unfinished / "table.parquet", index=False)
    header = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "dataset": dataset,
        "notes": notes,
        "n_recordings": n_recordings,
        "n_samples": n_samples,
        "leads": list(leads),
        "sampling_rate": sampling_rate,
        "unit": unit,
        "scale": scale,
        "contract_id": contract_id,
        "label_codes": list(label_codes),
        "sha256": {name: _sha256(unfinished / name) for name in _HASHED},
    }
    text = json.dumps(header, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    (unfinished / "archive.json").write_text(text, encoding="utf-8")
    unfinished.rename(folder)


_HEADER_TYPES: dict[str, type | tuple[type, ...]] = {
    "format": str,
    "version": int,
    "dataset": str,
    "notes": str,
    "n_recordings": int,
    "n_samples": int,
    "leads": list,
    "sampling_rate": (int, float),
    "unit": str,
    "scale": (int, float),
    "contract_id": str,
    "label_codes": list,
    "sha256": dict,
}


def _read_header(folder: Path) -> dict[str, Any]:
    """The checked content of archive.json."""
    what = "archive.json of the archive"
    text = read_bytes(folder / "archive.json", max_bytes=_MAX_HEADER_BYTES, what=what)
    try:
        header = json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError):
        raise BadInput("E_HEADER", f"The {what} is not JSON.") from None
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise BadInput("E_HEADER", f"The {what} does not describe a packed archive.")
    if header.get("version") != FORMAT_VERSION:
        raise BadInput(
            "E_VERSION", f"The archive has another format version than {FORMAT_VERSION}."
        )
    for name, kind in _HEADER_TYPES.items():
        value = header.get(name)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise BadInput("E_HEADER", f"The {what} has no usable {name}.", where=name)
    for name in ("n_recordings", "n_samples", "sampling_rate", "scale"):
        if not 0 < header[name] < 1e12:
            raise BadInput("E_HEADER", f"The {what} has no usable {name}.", where=name)
    for name in ("leads", "label_codes"):
        values = header[name]
        if not all(isinstance(v, str) for v in values) or len(set(values)) < len(values):
            raise BadInput("E_HEADER", f"The {what} has no usable {name}.", where=name)
    if not header["leads"]:
        raise BadInput("E_HEADER", f"The {what} names no lead.", where="leads")
    if set(header["sha256"]) != set(_HASHED):
        raise BadInput("E_HEADER", f"The {what} lacks its hashes.", where="sha256")
    return header


def _read_table(
    folder: Path, header: dict[str, Any]
) -> tuple[pd.DataFrame, Float32[np.ndarray, "recording label"]]:
    """The table without its label columns, and the labels."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    what = "table of the archive"
    data = read_bytes(folder / "table.parquet", max_bytes=_MAX_TABLE_BYTES, what=what)
    try:
        rows = pq.read_table(pa.BufferReader(data)).to_pandas()
    except (pa.ArrowException, ValueError, OSError):
        raise BadInput("E_FORMAT", f"The {what} is not a Parquet file.") from None
    label_columns = [_LABEL_PREFIX + code for code in header["label_codes"]]
    absent = [c for c in (*REQUIRED_COLUMNS, *label_columns) if c not in rows.columns]
    if absent:
        raise BadInput("E_COLUMNS", f"The {what} lacks {absent[0]}.", where=absent[0])
    if len(rows) != header["n_recordings"]:
        raise BadInput(
            "E_SIZE_MISMATCH",
            f"The {what} has {len(rows)} rows for {header['n_recordings']} recordings.",
        )
    if rows.duplicated(["dataset", "record_id"]).any():
        raise BadInput("E_DUP_ID", f"A record_id occurs twice in the {what}.")
    try:
        labels = rows[label_columns].to_numpy(dtype=np.float32)
    except (TypeError, ValueError):
        raise BadInput("E_RANGE", "A label of the archive is not a number.") from None
    if not np.isin(labels[~np.isnan(labels)], (0.0, 1.0)).all():
        raise BadInput("E_RANGE", "A label of the archive is neither 0, 1 nor missing.")
    return rows.drop(columns=label_columns), labels


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_hash(path: Path, expected: object) -> None:
    with (
        open_checked(path, max_bytes=None, what="file of the archive") as file,
        os.fdopen(os.dup(file.descriptor), "rb") as stream,
    ):
        if hashlib.file_digest(stream, "sha256").hexdigest() != expected:
            raise BadInput(
                "E_CHECKSUM",
                "The bytes of the archive are not those that were packed; pack it again.",
                where=path.name,
            )
