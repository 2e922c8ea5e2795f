"""Read every case of a folder of hostile files and write one outcome a case.

The folder holds ``manifest.csv``, of which only the columns `file` and `group` are read.
Each case is read in a worker process of its own kind (without torch, under a time and a
memory limit); what cannot be read, crashes or hangs is a row with a code, and no other row
changes. The rows are the same bytes whatever the order, the neighbours and the number of
workers; time and memory go to a second file.

What a folder of single files cannot say is fixed here: the columns of its tables, and the
network that its weights are for. A table with the columns `case` and `exposure` is tested
for their association as well, given the covariates that it has.
"""

import hashlib
import json
import math
import os
import secrets
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from phenokit.batch.workers import Run, run_isolated
from phenokit.errors import CODES, BadInput, first_code, outcome_of

if TYPE_CHECKING:
    import pandas as pd

    from phenokit.recording import Notice

TIME_LIMIT = 20.0
MEMORY_LIMIT = 6 << 30
"""Address space of a worker; libraries reserve far more than they use."""

MAX_TEXT_BYTES = 1 << 24
WEIGHT_SHAPES = {"weight": (2, 4)}
WEIGHT_SHA256 = "9866d9c8c7a435cd51ad8fee9a2d01bd028ee520d08e3ac78fecc0619b09f90b"
COVARIATES = ("a", "b", "x", "age", "sex")
"""Columns of a table that an association is adjusted for."""
DIGITS = 10
"""Decimals of a log odds ratio that do not depend on the machine."""
EEG_LARGEST = 20e-3
"""V. No electrode on or in a brain spans more within one recording."""
FEW_CHANNELS = 0.1
"""Share of the channels from which on those that cannot be used are worth a warning."""
BLOCK = 60
"""Seconds of an EEG that are judged at once."""


@dataclass(frozen=True)
class CaseOutcome:
    """The row of one case.

    Attributes
    ----------
    file
        As the manifest names it.
    status, code, all_codes
        Outcome (of an association: ``"tested"`` or ``"not_tested"``), its code, and every
        code that holds, in order of precedence.
    where
        Lead, rows, tensor, byte or member.
    message
        One sentence; it never holds what the file holds.
    sha256
        Of the prepared signal that would be scored; empty where none would.
    start, stop
        Seconds of the recording that would be scored.
    log_odds_ratio, low, high
        Of an association that was tested: per unit of the 0/1 exposure, with the 95 %
        interval.
    """

    file: str
    status: str
    code: str
    all_codes: tuple[str, ...]
    where: str = ""
    message: str = ""
    sha256: str = ""
    start: float | None = None
    stop: float | None = None
    log_odds_ratio: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class _Reading:
    """What a reader found in a file that it could read.

    `status` is that of an association; otherwise the code says it.
    """

    notices: "tuple[Notice, ...]" = ()
    where: str = ""
    message: str = ""
    sha256: str = ""
    start: float | None = None
    stop: float | None = None
    status: str = ""
    log_odds_ratio: float | None = None
    low: float | None = None
    high: float | None = None


def check_inputs(folder: Path, out: Path, *, workers: int = 1, strict: bool = False) -> int:
    """Read every case that ``folder/manifest.csv`` lists and write the outcomes.

    Parameters
    ----------
    folder
        Holds the manifest and the cases; nothing in it is changed.
    out
        ``.json`` or ``.csv``; a file ``<stem>.timings<ending>`` is written beside it.
    workers
        Number of processes that read.
    strict
        Whether a rejected case makes the exit code 3.

    Returns
    -------
    int
        0, or 3.

    Raises
    ------
    BadInput
        If the manifest cannot be used, `out` lies in the folder (``E_PATH``), or it has
        another ending (``E_FORMAT``).
    """
    from phenokit.readers.tables import Column, read_table

    if out.suffix not in (".csv", ".json"):
        raise BadInput("E_FORMAT", "The outcomes are written as .csv or .json.")
    if out.resolve().is_relative_to(folder.resolve()):
        raise BadInput("E_PATH", "The outcomes cannot lie in the folder that is checked.")
    manifest = read_table(
        folder / "manifest.csv",
        [Column("file", unique=True), Column("group")],
        ignore_others=True,
        what="manifest",
    )
    files, groups = manifest["file"].tolist(), manifest["group"].tolist()
    runs = run_isolated(
        _check,
        [(str(folder), file, group) for file, group in zip(files, groups, strict=True)],
        workers=workers,
        time_limit=TIME_LIMIT,
        memory_limit=MEMORY_LIMIT,
        warm_up=_warm_up,
    )
    outcomes = [_outcome_of_run(file, run) for file, run in zip(files, runs, strict=True)]
    out.parent.mkdir(parents=True, exist_ok=True)
    _write(out, [asdict(outcome) for outcome in outcomes])
    _write(
        out.with_name(f"{out.stem}.timings{out.suffix}"),
        [
            {
                "file": file,
                "seconds": run.seconds,
                "cpu_seconds": run.cpu_seconds,
                "peak_bytes": run.peak_bytes,
            }
            for file, run in zip(files, runs, strict=True)
        ],
    )
    is_rejected = any(outcome.status == "rejected" for outcome in outcomes)
    return 3 if strict and is_rejected else 0


def _outcome_of_run(file: str, run: Run) -> CaseOutcome:
    if run.end == "done":
        return run.value
    code, reason = {
        "raised": ("E_WORKER", f"The reader failed with {run.value}."),
        "died": ("E_WORKER", CODES["E_WORKER"]),
        "overran": ("E_TIMEOUT", CODES["E_TIMEOUT"]),
    }[run.end]
    return CaseOutcome(file, str(outcome_of(code)), code, (code,), message=reason)


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    """Rows as CSV (formulas guarded, lists joined by semicolons) or JSON."""
    import pandas as pd

    from phenokit.report.tables import format_table

    if path.suffix == ".json":
        data = (json.dumps(rows, indent=1) + "\n").encode("ascii")
    else:
        flat = [
            {name: ";".join(v) if isinstance(v, tuple) else v for name, v in row.items()}
            for row in rows
        ]
        data = format_table(pd.DataFrame(flat).astype(object))
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(data)
    temporary.replace(path)


# --- in a worker ------------------------------------------------------------------------


def _check(case: tuple[str, str, str]) -> CaseOutcome:
    """Read one case; every fault of the file becomes a code."""
    from phenokit.readers.files import check_name

    folder, file, group = case
    try:
        for part in file.split("/"):
            check_name(part, what="name in the manifest")
        if group not in _READERS:
            raise BadInput("E_FORMAT", "The manifest names a group that is not known.")
        reading = _READERS[group](Path(folder) / file, Path(folder))
    except BadInput as refusal:
        return CaseOutcome(
            file=file,
            status=str(outcome_of(refusal.code)),
            code=refusal.code,
            all_codes=(refusal.code,),
            where=refusal.where,
            message=str(refusal),
        )
    except MemoryError:
        code = "E_TOO_LARGE"
        return CaseOutcome(file, str(outcome_of(code)), code, (code,), message=CODES[code])
    codes = sorted({n.code for n in reading.notices}, key=list(CODES).index) or ["OK"]
    code = first_code(codes)
    is_scored = not code.startswith(("A_", "E_"))
    return CaseOutcome(
        file=file,
        status=reading.status or str(outcome_of(code)),
        code=code,
        all_codes=tuple(codes),
        where=reading.where,
        message=next(
            (n.message for n in reading.notices if n.code == code),
            reading.message or CODES[code],
        ),
        sha256=reading.sha256 if is_scored else "",
        start=reading.start if is_scored else None,
        stop=reading.stop if is_scored else None,
        log_odds_ratio=reading.log_odds_ratio,
        low=reading.low,
        high=reading.high,
    )


def _warm_up() -> None:
    """Import what the readers need, so that no case pays for it: read one of each."""
    import numpy as np
    import pandas as pd
    import pydicom  # noqa: F401

    import phenokit.networks.checkpoint
    import phenokit.readers.archives
    import phenokit.readers.ecg
    import phenokit.readers.ieeg
    import phenokit.readers.tables
    import phenokit.report.tables  # noqa: F401
    from phenokit.preprocessing.contract import InputContract, prepare
    from phenokit.preprocessing.quality import assess_quality
    from phenokit.recording import LEADS, Recording

    for rate in (100, 500):
        signal = np.tile(np.sin(np.arange(10.0 * rate)), (len(LEADS), 1))
        recording = Recording(signal, LEADS, float(rate), record_id="")
        assess_quality(recording)
        prepare(recording, InputContract())
    numbers = np.arange(24.0)
    table = {"case": numbers % 3 > 1, "exposure": numbers % 4 > 2, "x": numbers}
    _associate(pd.DataFrame(table).astype(float))


def _check_ecg(path: Path, root: Path) -> _Reading:
    """A 12-lead ECG: read, judged and prepared as before scoring."""
    import numpy as np

    from phenokit.preprocessing.contract import InputContract, prepare
    from phenokit.preprocessing.quality import assess_quality
    from phenokit.readers.ecg import read_ecg
    from phenokit.recording import Notice

    recording = read_ecg(path, root=root)
    quality = assess_quality(recording)
    notices = [*recording.notices, *quality.notices]
    sha256, start, stop = "", None, None
    try:
        prepared = prepare(recording, InputContract())
    except BadInput as refusal:
        notices.append(Notice(refusal.code, str(refusal)))
    else:
        notices += prepared.notices
        signal = np.ascontiguousarray(prepared.signal, dtype="<f4")
        sha256 = hashlib.sha256(signal.tobytes()).hexdigest()
        start, stop = prepared.start, prepared.stop
    leads = [lead.lead for lead in quality.leads if lead.verdict != "good"]
    return _Reading(tuple(notices), ", ".join(leads), sha256=sha256, start=start, stop=stop)


def _check_ieeg(path: Path, root: Path) -> _Reading:
    """An EEG: opened, and its samples judged piece by piece, whatever its length."""
    import numpy as np

    from phenokit.readers.ieeg import MICROVOLT, read_ieeg
    from phenokit.recording import Notice

    recording = read_ieeg(path, root=root)
    n, length = len(recording.channels), round(BLOCK * recording.sampling_rate)
    lowest, highest = np.full(n, np.inf), np.full(n, -np.inf)
    for first in range(0, recording.n_samples, length):
        block = recording.samples(first, min(first + length, recording.n_samples))
        lowest = np.fmin(
            lowest, np.min(block, axis=1, where=~np.isnan(block), initial=np.inf)
        )
        highest = np.fmax(
            highest, np.max(block, axis=1, where=~np.isnan(block), initial=-np.inf)
        )
    span = highest - lowest
    notices, named, facts = list(recording.notices), [], []

    def found(which: "np.ndarray", what: str, code: str) -> None:
        """Name these channels; a code if it is all of them, or many."""
        numbers = (np.flatnonzero(which) + 1).tolist()
        if not numbers:
            return
        named.extend(f"channel {number}" for number in numbers)
        facts.append(f"{len(numbers)} of {n} channels {what}")
        if which.all() or code == "A_AMPLITUDE":
            notices.append(Notice(code, facts[-1]))
        elif which.mean() > FEW_CHANNELS:
            notices.append(Notice("W_CHANNELS", facts[-1]))

    if recording.unit:
        found(
            span > EEG_LARGEST * MICROVOLT["V"],
            f"span more than {EEG_LARGEST * 1e3:g} mV; check the declared unit.",
            "A_AMPLITUDE",
        )
    else:
        notices.append(Notice("E_UNITS", "The file does not state a unit."))
    found(span == -np.inf, "were not recorded.", "A_MISSING")
    found(span == 0, "are constant.", "A_FLAT")
    is_bad = np.array([name in recording.bad for name in recording.channels])
    found(is_bad, "are marked as bad.", "A_MISSING")
    if recording.gaps:
        lost = sum(end - begin for begin, end in recording.gaps)
        facts.append(f"{lost:.1f} s in gaps were not recorded ({len(recording.gaps)}).")
        notices.append(Notice("W_WINDOW", facts[-1]))
    return _Reading(
        tuple(notices), ", ".join(dict.fromkeys(named)), message=" ".join(facts)
    )


def _check_csv(path: Path, root: Path) -> _Reading:
    from phenokit.readers.tables import Column, read_table

    columns = [
        Column("person_id", unique=True, is_required=False),
        *(Column(n, is_required=False) for n in ("phecode", "group", "label", "name")),
        Column("note", is_required=False, may_be_missing=True),
        *(Column(n, "binary", is_required=False) for n in ("case", "exposure")),
        *(Column(n, "number", is_required=False) for n in ("a", "b", "x", "sex")),
        Column("age", "number", low=0, high=120, is_required=False),
        Column("weight", "number", low=0.2, high=500, is_required=False),
        Column("t", "time", is_required=False),
        Column("d", "date", is_required=False),
        Column("prevalence", "prevalence", is_required=False),
    ]
    table = read_table(path, columns, root=root)
    if {"case", "exposure"} <= set(table.columns):
        return _associate(table)
    return _Reading()


def _associate(table: "pd.DataFrame") -> _Reading:
    """Association of `case` with `exposure`, adjusted for the covariates of the table."""
    import numpy as np
    import pandas as pd

    from phenokit.cohort import PhecodeStatus
    from phenokit.evidence.associations import (
        FEWEST_CASES,
        AssociationSettings,
        Exposures,
        associate,
    )
    from phenokit.evidence.covariates import encode_covariates, no_covariates
    from phenokit.recording import Notice

    is_case = table["case"].to_numpy() == 1
    names = [name for name in COVARIATES if name in table]
    covariates = encode_covariates(table, names) if names else no_covariates(len(table))
    info = {
        "phecode": ["case"],
        "phecode_string": [""],
        "phecode_category": [""],
        "sex_restriction": ["Both"],
    }
    row = associate(
        Exposures(("exposure",), ("feature",), table[["exposure"]].to_numpy(np.float64)),
        PhecodeStatus(
            ("case",), len(table), (np.flatnonzero(is_case),), (np.zeros(0, np.int64),)
        ),
        covariates,
        phecode_info=pd.DataFrame(info),
        settings=AssociationSettings(minimum_cases=FEWEST_CASES, refine="all"),
    ).to_dict("records")[0]
    codes = {row["code"], *(["W_COLLINEAR"] if covariates.collinear else [])} - {"OK"}
    counts = f"{row['cases']} cases and {row['controls']} controls"
    if row["status"] == "not_tested":
        reason = CODES[row["code"]].removeprefix("Not tested: ").removesuffix(".")
        if row["code"] == "N_FEW_CASES":
            reason = f"at least {FEWEST_CASES} of each are needed"
        notice = Notice(row["code"], f"{counts}; {reason}.")
        return _Reading((notice,), status="not_tested")
    parts = [
        counts,
        f"odds ratio {row['odds_ratio']:.4g} (95 % interval {row['conf_int_1']:.4g} to "
        f"{row['conf_int_2']:.4g}) by {row['method'].replace('_', ' ')}",
        row["note"],
        *(note.removesuffix(".") for note in covariates.notes),
    ]
    message = f"{'; '.join(part for part in parts if part)}."
    return _Reading(
        tuple(Notice(code, message) for code in codes),
        where=", ".join(f"column {name}" for name in covariates.collinear),
        message=message,
        status="tested",
        log_odds_ratio=_logarithm(row["odds_ratio"]),
        low=_logarithm(row["conf_int_1"]),
        high=_logarithm(row["conf_int_2"]),
    )


def _logarithm(odds_ratio: float) -> float | None:
    """Of an odds ratio, in `DIGITS`; None where the end of an interval is infinite."""
    if not 0 < odds_ratio < math.inf:
        return None
    return round(math.log(odds_ratio), DIGITS) + 0.0  # never -0.0


def _check_xml(path: Path, root: Path) -> _Reading:
    from phenokit.readers.files import read_bytes
    from phenokit.readers.xml import MAX_XML_BYTES, check_xml

    check_xml(read_bytes(path, root=root, max_bytes=MAX_XML_BYTES))
    return _check_ecg(path, root)


def _check_dicom(path: Path, root: Path) -> _Reading:
    from phenokit.readers.dicom import check_dicom
    from phenokit.readers.files import read_bytes

    check_dicom(read_bytes(path, root=root))
    return _check_ecg(path, root)


def _check_zip(path: Path, root: Path) -> _Reading:
    from phenokit.readers.archives import read_zip

    read_zip(path, root=root)
    return _Reading()


def _check_array(path: Path, root: Path) -> _Reading:
    from phenokit.readers.arrays import read_array

    read_array(path, root=root)
    return _Reading()


def _check_weights(path: Path, root: Path) -> _Reading:
    """Structure first and the hash last, so that the cause is named."""
    from phenokit.errors import BundleError
    from phenokit.networks.checkpoint import parse_tensors, read_tensors
    from phenokit.readers.files import read_bytes

    data = read_bytes(path, root=root, what="weights file")
    if path.suffix != ".safetensors":
        read_tensors(path)
    parse_tensors(data, expected=WEIGHT_SHAPES, dtypes=("float32",))
    found = hashlib.sha256(data).hexdigest()
    if found != WEIGHT_SHA256:
        raise BundleError(
            "E_WEIGHTS_HASH",
            f"The file has SHA-256 {found}, the bundle lists {WEIGHT_SHA256}.",
        )
    return _Reading()


def _check_names(path: Path, root: Path) -> _Reading:
    """Names of uploads and records: each upload lies under a random id, none in a path."""
    from phenokit.readers.files import check_name, read_bytes
    from phenokit.report.tables import guard_cell, unguard_cell, visible_text

    try:
        names = json.loads(read_bytes(path, root=root, max_bytes=MAX_TEXT_BYTES))
    except (ValueError, RecursionError):
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise BadInput("E_ENCODING", "The names are not a JSON list of texts.")
    stored: dict[str, str] = {}
    n_refused = 0
    with TemporaryDirectory(prefix="phenokit-") as scratch:
        for number, name in enumerate(names, start=1):
            upload_id = secrets.token_hex(16)
            (Path(scratch) / upload_id).write_bytes(b"")
            stored[upload_id] = name
            try:
                check_name(name, what="record name")
            except BadInput:
                n_refused += 1
            shown = visible_text(name)
            if not shown.isascii() or unguard_cell(guard_cell(name)) != name:
                raise BadInput("E_PATH", "A name cannot be shown.", where=f"name {number}")
        if {file.name for file in Path(scratch).iterdir()} != set(stored):
            raise BadInput("E_PATH", "A name became a path.")
    return _Reading(
        message=f"{len(names)} uploads stored under random ids; {n_refused} of the names "
        "are refused as the name of a record."
    )


_READERS: dict[str, Callable[[Path, Path], _Reading]] = {
    "wfdb": _check_ecg,
    "edf": _check_ieeg,
    "ieeg": _check_ieeg,
    "csv": _check_csv,
    "xml": _check_xml,
    "dicom": _check_dicom,
    "zip": _check_zip,
    "array": _check_array,
    "weights": _check_weights,
    "names": _check_names,
}
