"""From files to a packed archive: PTB-XL, or any folder of ECGs.

Each record is read once, prepared by the input contract of the network that will read the
archive, and written as int16. A record that cannot be read or prepared is not in the
archive; it is a row of ``rejected.csv`` beside it, with its code and a sentence.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Float32, Int16

from phenokit.errors import BadInput
from phenokit.preprocessing.contract import InputContract, prepare
from phenokit.readers.ecg import is_ecg_file, read_ecg
from phenokit.readers.packed import REQUIRED_COLUMNS, quantise, write_archive
from phenokit.readers.ptbxl import LABEL_CODES, read_ptbxl, read_recordings
from phenokit.readers.tables import Column, read_table
from phenokit.recording import Recording
from phenokit.report.tables import write_table

SCALE = 0.001
"""Step of an archive: 0.001 of a standard deviation, or 1 microvolt."""

RAW_DURATION = 10.0
"""Seconds of a recording in an archive of raw tracings."""

PTBXL_NOTES = (
    "PTB-XL 1.0.3 (Wagner et al. 2020, doi:10.13026/kfzx-aw45), CC BY 4.0, modified: "
    "prepared by the input contract of this archive and rounded. Age 90 is every age "
    "above 89."
)

_REJECTED_COLUMNS = ("record_id", "code", "message")

_LABEL_TABLE = (
    Column("record_id", unique=True),
    Column("patient_id", is_required=False, may_be_missing=True),
    Column("split", is_required=False, may_be_missing=True),
    Column("fold", "integer", low=1, is_required=False, may_be_missing=True),
    Column("age", "number", low=0, high=130, is_required=False, may_be_missing=True),
    Column("sex", is_required=False, may_be_missing=True),
    *(
        Column(code, "binary", is_required=False, may_be_missing=True)
        for code in LABEL_CODES
    ),
)
_ALLOWED = {"split": ("train", "val", "test"), "sex": ("female", "male")}

Progress = Callable[[int, int], None]
"""Called with the number of records done and of all."""


@dataclass(frozen=True)
class Packing:
    """What became of the records: how many are in the archive, and the table of others.

    `rejected` has the columns record_id, code and message; `n_packed` plus its length is
    the number of records that were found.
    """

    n_packed: int
    rejected: pd.DataFrame


def pack_ptbxl(
    folder: Path,
    out: Path,
    *,
    contract: InputContract | None,
    sampling_rate: Literal[100, 500] = 500,
    progress: Progress | None = None,
) -> Packing:
    """Pack PTB-XL from its official layout.

    Parameters
    ----------
    folder
        Holds ptbxl_database.csv, scp_statements.csv and the tracings.
    out
        The archive; must not exist.
    contract
        What is done to each tracing; ``None`` keeps millivolts at `sampling_rate`.
    sampling_rate
        Which of the two forms of the tracings is read, in Hz.

    Raises
    ------
    BadInput
        If a table cannot be used, or no tracing can (``E_EMPTY``).
    """
    ptbxl = read_ptbxl(folder)
    table = ptbxl.table.drop(columns=["path_100", "path_500"])
    return _pack(
        read_recordings(ptbxl, sampling_rate=sampling_rate),
        out,
        table=table,
        labels=ptbxl.labels,
        label_codes=LABEL_CODES,
        contract=contract,
        dataset="PTB-XL 1.0.3",
        notes=PTBXL_NOTES,
        dropped=ptbxl.dropped.to_dict("records"),
        progress=progress,
    )


def pack_folder(
    folder: Path,
    out: Path,
    *,
    dataset: str,
    contract: InputContract | None,
    table: pd.DataFrame | None = None,
    notes: str = "",
    progress: Progress | None = None,
) -> Packing:
    """Pack every ECG file of a folder and the folders below it.

    Parameters
    ----------
    folder, out, contract
        As in `pack_ptbxl`. The record_id of a file is its path below `folder` without
        ending.
    dataset
        Name of the archive's data set.
    table
        What is known of the records: a column record_id, any of patient_id, split, fold,
        age and sex, and a column of 1, 0 or missing for each label, named by its code. A
        recording without a row has unknown labels; a row without a recording is rejected.

    Raises
    ------
    BadInput
        ``E_COLUMNS``, ``E_DUP_ID`` or ``E_RANGE`` for a table that cannot be used;
        ``E_EMPTY`` if no file can be packed.
    """
    files: dict[str, Path] = {}
    dropped = []
    for path in _ecg_files(folder):
        record_id = path.relative_to(folder).with_suffix("").as_posix()
        if record_id in files:
            message = f"Another file has this id; this one ends in {path.suffix}."
            dropped.append(_rejection(record_id, "E_DUP_ID", message))
        else:
            files[record_id] = path
    known = _checked_table(table)
    label_codes = [name for name in known.columns if name not in REQUIRED_COLUMNS]
    rows = known.reindex(list(files)).rename_axis("record_id").reset_index()
    labels = rows[label_codes].to_numpy(dtype=np.float32)
    rows = rows.drop(columns=label_codes).assign(dataset=dataset)
    for name in REQUIRED_COLUMNS:
        if name not in rows.columns:
            rows[name] = None
    message = "The table has a row for it, but there is no such file."
    dropped += [
        _rejection(record_id, "E_MISSING", message)
        for record_id in known.index
        if record_id not in files
    ]
    return _pack(
        (_read(path, folder) for path in files.values()),
        out,
        table=rows,
        labels=labels,
        label_codes=label_codes,
        contract=contract,
        dataset=dataset,
        notes=notes,
        dropped=dropped,
        progress=progress,
    )


def read_labels(path: Path) -> pd.DataFrame:
    """What is known of a folder's records, from a CSV file, for `pack_folder`.

    Parameters
    ----------
    path
        Has the column record_id (path below the folder, without ending), and any of
        patient_id, split (train, val, test), fold, age, sex (female, male), and labels by
        their codes: 1, 0, or empty where nobody can say.

    Returns
    -------
    pd.DataFrame
        The columns that the file has; missing cells are ``None`` or NaN.

    Raises
    ------
    BadInput
        As `phenokit.readers.tables.read_table`; ``E_RANGE`` for another split or sex.
    """
    table = read_table(path, _LABEL_TABLE, what="table of labels")
    for name in table.columns.intersection(["patient_id", *_ALLOWED], sort=False):
        table[name] = pd.Series(
            [value or None for value in table[name]], dtype=object, index=table.index
        )
    for name, allowed in _ALLOWED.items():
        if name in table.columns and not {None, *allowed}.issuperset(table[name]):
            raise BadInput(
                "E_RANGE",
                f"Column {name} of the table of labels has to be {', '.join(allowed)}, or "
                "empty.",
                where=f"column {name}",
            )
    return table


def _pack(
    recordings: Iterable[Recording | BadInput],
    out: Path,
    *,
    table: pd.DataFrame,
    labels: Float32[np.ndarray, "recording label"],
    label_codes: Iterable[str],
    contract: InputContract | None,
    dataset: str,
    notes: str,
    dropped: list[dict[str, str]],
    progress: Progress | None,
) -> Packing:
    """Prepare one recording after the other; the table keeps the rows that succeed."""
    if out.exists():
        raise FileExistsError(f"{out} exists; choose another folder or remove it")
    out.parent.mkdir(parents=True, exist_ok=True)
    # Which rows stay is known only at the end, so the signals wait on the disk: an archive
    # may be larger than memory.
    waiting = out.with_name(out.name + ".signal.tmp")
    packed, rejected, shape, rate = [], [], (0, 0), None
    try:
        with waiting.open("wb") as file:
            for row, recording in enumerate(recordings):
                try:
                    steps, rate = _steps(recording, contract, rate)
                except BadInput as error:
                    record_id = table["record_id"].iloc[row]
                    rejected.append(_rejection(record_id, error.code, str(error)))
                else:
                    shape = steps.shape
                    packed.append(row)
                    file.write(steps.astype("<i2").tobytes())
                if progress is not None:
                    progress(row + 1, len(table))
        if not packed:
            raise BadInput(
                "E_EMPTY",
                f"None of the {len(table)} records can be packed"
                + (f"; the first: {rejected[0]['message']}" if rejected else "."),
            )
        write_archive(
            out,
            signals=_blocks(waiting, (len(packed), *shape)),
            table=table.iloc[packed],
            label_codes=tuple(label_codes),
            labels=labels[packed],
            scale=SCALE,
            unit="z" if contract and contract.normalisation == "z_score" else "mV",
            contract_id=contract.identifier if contract else "raw",
            sampling_rate=float(rate or 0),
            dataset=dataset,
            notes=notes,
        )
    finally:
        waiting.unlink(missing_ok=True)
    all_rejected = pd.DataFrame([*dropped, *rejected], columns=pd.Index(_REJECTED_COLUMNS))
    write_table(out / "rejected.csv", all_rejected)
    return Packing(len(packed), all_rejected)


def _steps(
    recording: Recording | BadInput, contract: InputContract | None, rate: float | None
) -> tuple[Int16[np.ndarray, "lead sample"], float]:
    """One recording in steps of `SCALE`, and its rate: the archive's, if it has one."""
    if isinstance(recording, BadInput):
        raise recording
    if contract is not None:
        signal = prepare(recording, contract).signal
        return quantise(signal, scale=SCALE), contract.sampling_rate
    if rate not in (None, recording.sampling_rate):
        raise BadInput(
            "E_FS",
            f"The sampling rate is {recording.sampling_rate:g} Hz, that of the archive "
            f"{rate:g} Hz; pack with an input contract.",
        )
    wanted = round(RAW_DURATION * recording.sampling_rate)
    if recording.signal.shape[1] < wanted:
        raise BadInput(
            "A_DURATION",
            f"The recording lasts {recording.duration:.2f} s; {RAW_DURATION:g} s are kept.",
        )
    return quantise(recording.signal[:, :wanted], scale=SCALE), recording.sampling_rate


def _blocks(
    path: Path, shape: tuple[int, ...]
) -> Iterator[Int16[np.ndarray, "block lead sample"]]:
    signal = np.memmap(path, dtype="<i2", mode="r", shape=shape)
    for start in range(0, shape[0], 256):
        yield np.asarray(signal[start : start + 256])


def _checked_table(table: pd.DataFrame | None) -> pd.DataFrame:
    """The user's table indexed by record_id: labels as float32, the rest as it is."""
    if table is None:
        return pd.DataFrame(index=pd.Index([], dtype=object))
    if "record_id" not in table.columns:
        raise BadInput("E_COLUMNS", "The table has no column record_id.", where="record_id")
    if table["record_id"].duplicated().any():
        raise BadInput("E_DUP_ID", "A record_id occurs twice in the table.")
    known = table.assign(record_id=table["record_id"].astype(str)).set_index("record_id")
    for name, dtype in (("age", "float64"), ("fold", "Int64")):
        if name in known.columns:
            values = [np.nan if value == "" else value for value in known[name].tolist()]
            try:
                numbers = pd.Series(values, index=known.index).astype("Float64")
                if dtype == "Int64" and any(n % 1 for n in numbers.dropna().tolist()):
                    raise ValueError(name)
                known[name] = numbers.astype(dtype)
            except (TypeError, ValueError):
                message = f"A value of {name} is not a number."
                raise BadInput("E_RANGE", message, where=name) from None
    for name in known.columns.difference(REQUIRED_COLUMNS, sort=False):
        known[name] = np.array(
            [_label(value, name) for value in known[name].tolist()], dtype=np.float32
        )
    return known


def _label(value: object, name: str) -> float:
    """A cell of a label column: 1, 0, or NaN where it is empty."""
    if value is None or value is pd.NA or value == "" or value != value:
        return np.nan
    if value in (0, 1, "0", "1"):
        return float(str(value))
    raise BadInput(
        "E_RANGE",
        "A label column of the table holds something other than 1, 0 or nothing.",
        where=name,
    )


def _ecg_files(folder: Path) -> Iterator[Path]:
    """ECG files of a folder in the order of their paths; links are not followed."""
    for parent, below, names in os.walk(folder):
        below.sort()
        for name in sorted(names):
            path = Path(parent) / name
            try:
                if path.suffix == ".hea" or is_ecg_file(path):
                    yield path
            except BadInput:  # a link or a file that may not be read: said when it is read
                yield path


def _rejection(record_id: str, code: str, message: str) -> dict[str, str]:
    return dict(zip(_REJECTED_COLUMNS, (record_id, code, message), strict=True))


def _read(path: Path, folder: Path) -> Recording | BadInput:
    try:
        return read_ecg(path, root=folder)
    except BadInput as error:
        return error
