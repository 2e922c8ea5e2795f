"""Model bundles: tensors read strictly, and the one folder that they live in.

A bundle is a folder of seven files: `config.json`, `model.safetensors`,
`prototypes.parquet`, `calibration.json`, `trust.safetensors`, `card.toml` and
`SHA256SUMS`, which lists the other six. A model of iEEG has no prototypes and no
out-of-distribution statistics, and its bundle no files for them. The bundle hash is the
SHA-256 of `SHA256SUMS` and stands in every output row. Weights, prototypes, thresholds,
calibration and out-of-distribution statistics belong together: each companion of the
weights says which weights it was made for, and any mismatch refuses to load.

Only safetensors are read, by the small reader below rather than by the library: a
damaged file is named by its tensor, bytes that nothing declares are refused, and so is a
value that is not finite (one flipped bit turns -0.449 into -1.5e38 and loads silently
elsewhere). There is no fallback to another loader. Nothing here needs torch.
"""

import hashlib
import io
import json
import math
import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet

from phenokit.errors import BundleError
from phenokit.networks.card import format_card, parse_card, read_card
from phenokit.readers.files import MAX_BYTES, read_bytes

__all__ = [
    "Bundle",
    "bundle_folders",
    "hash_weights",
    "load_bundle",
    "models_folder",
    "parse_tensors",
    "read_card",
    "read_tensors",
    "write_bundle",
    "write_tensors",
]

FORMAT_VERSION = 1
BUNDLE_FILES = (
    "calibration.json",
    "card.toml",
    "config.json",
    "model.safetensors",
    "prototypes.parquet",
    "trust.safetensors",
)
PROTOTYPE_FILES = ("prototypes.parquet", "trust.safetensors")
"""Files that only a bundle of prototypes has."""
SUMS_FILE = "SHA256SUMS"
PROTOTYPE_COLUMNS = (
    "prototype_id",
    "branch",
    "label",
    "dataset",
    "record_id",
    "start",
    "stop",
    "labels",
)
"""Columns that `prototypes.parquet` has at least; more are kept."""

MAX_HEADER_BYTES = 8 << 20
MAX_TEXT_BYTES = 32 << 20

_DTYPES = {
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
    "I32": np.dtype("<i4"),
    "I64": np.dtype("<i8"),
}
_DTYPE_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
WEIGHT_DTYPES = ("float16", "float32")
ALL_DTYPES = tuple(dtype.name for dtype in _DTYPES.values())
_TENSOR_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}")
_BUNDLE_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_SUM_LINE = re.compile(r"([0-9a-f]{64})  ([A-Za-z0-9_.]+)")
_MADE_FOR = "made_for"
_NOT_WEIGHTS = ("prototype", "classifier", "fusion")
"""What a projection or a new anchoring changes: a part of the name starts so."""


@dataclass(frozen=True, eq=False)
class Bundle:
    """A model as it lies on disk, checked.

    Attributes
    ----------
    path, name
        The folder, and the name on the card.
    config
        Network, labels and input contract.
    tensors
        Weights by name, as stored (float16 or float32).
    prototypes
        One row a prototype, in the order of the column `similarity`; empty for iEEG.
    calibration
        Thresholds and what turns a logit into a probability.
    trust
        Out-of-distribution statistics by name.
    card
        What the model's page says; the fields of `phenokit.networks.card.Card`.
    bundle_hash
        SHA-256 of `SHA256SUMS`.
    weights_hash
        `hash_weights`: the same after a projection, which moves prototypes only.
    """

    path: Path
    name: str
    config: dict[str, Any]
    tensors: dict[str, np.ndarray]
    prototypes: pd.DataFrame
    calibration: dict[str, Any]
    trust: dict[str, np.ndarray]
    card: dict[str, Any]
    bundle_hash: str
    weights_hash: str


def models_folder() -> Path:
    """Where bundles are looked up: ``PHENOKIT_MODELS``, else `models/` of the checkout."""
    named = os.environ.get("PHENOKIT_MODELS")
    return Path(named) if named else Path(__file__).parents[2] / "models"


def bundle_folders(models: Path | None = None) -> list[Path]:
    """Folders of the installed bundles, by name; `models` defaults to `models_folder`."""
    models = models_folder() if models is None else models
    if not models.is_dir():
        return []
    return sorted(folder for folder in models.iterdir() if (folder / SUMS_FILE).is_file())


def read_tensors(
    path: Path,
    *,
    expected: Mapping[str, tuple[int, ...]] | None = None,
    dtypes: Collection[str] = ALL_DTYPES,
    max_bytes: int = MAX_BYTES,
) -> dict[str, np.ndarray]:
    """Read a safetensors file strictly.

    Parameters
    ----------
    path
        A file whose name ends in ``.safetensors``.
    expected
        Shape of every tensor by name: none may be missing, none may be left over.
        ``None``: any tensors.
    dtypes
        numpy names of the types allowed.
    max_bytes
        A larger file is refused.

    Returns
    -------
    dict
        Arrays by name, writable and owning their memory.

    Raises
    ------
    BundleError
        ``E_WEIGHTS``, the tensor named in `where`.
    BadInput
        If the file cannot be opened.
    """
    if path.suffix != ".safetensors":
        raise BundleError(
            "E_WEIGHTS", "Only safetensors files are loaded; this name ends otherwise."
        )
    data = read_bytes(path, max_bytes=max_bytes, what="weights file")
    return parse_tensors(data, expected=expected, dtypes=dtypes)


def parse_tensors(
    data: bytes,
    *,
    expected: Mapping[str, tuple[int, ...]] | None = None,
    dtypes: Collection[str] = ALL_DTYPES,
) -> dict[str, np.ndarray]:
    """Tensors of the bytes of a safetensors file; see `read_tensors`."""
    return _parse(data, expected, dtypes)[0]


def check_shapes(
    shapes: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]
) -> None:
    """Refuse tensors whose names or shapes are not exactly those of the network.

    Raises
    ------
    BundleError
        ``E_WEIGHTS`` naming the first tensor that is missing, unknown or of another shape.
    """
    for name in sorted(set(expected) ^ set(shapes)):
        fault = "is missing" if name in expected else "is unknown to the network"
        raise BundleError("E_WEIGHTS", f"Tensor {name} {fault}.", where=name)
    for name, shape in expected.items():
        if shapes[name] != tuple(shape):
            raise BundleError(
                "E_WEIGHTS",
                f"Tensor {name} has shape {_times(shapes[name])}; "
                f"the network has {_times(shape)}.",
                where=name,
            )


def write_tensors(
    path: Path,
    tensors: Mapping[str, np.ndarray],
    *,
    dtype: str | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a safetensors file whose bytes depend on its content only.

    Parameters
    ----------
    tensors
        Arrays by name, of a type in `ALL_DTYPES`.
    dtype
        ``"float16"`` or ``"float32"`` to convert all; ``None`` keeps each as it is.
    metadata
        Text by text, kept in the header.

    Raises
    ------
    ValueError
        If a value is not finite (after conversion: float16 ends at 65504).
    """
    _replace(path, _format(tensors, dtype, metadata or {}))


def hash_weights(tensors: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of backbone and add-on layers: of every tensor that a projection keeps.

    Left out are names with a dotted part that starts with ``prototype``, ``classifier``
    or ``fusion``.
    """
    kept = {name: array for name, array in tensors.items() if _is_weight(name)}
    return hashlib.sha256(_format(kept, None, {})).hexdigest()


def write_bundle(
    folder: Path,
    *,
    config: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray],
    calibration: Mapping[str, Any],
    card: Mapping[str, Any],
    prototypes: pd.DataFrame | None = None,
    trust: Mapping[str, np.ndarray] | None = None,
) -> str:
    """Write a bundle, `SHA256SUMS` last, and load it again as proof.

    Parameters
    ----------
    folder
        Made if need be; a bundle in it is replaced, anything else is an error.
    config, calibration
        What JSON can hold, without NaN.
    tensors
        Weights; convert to float16 before if the bundle has to be small.
    card
        Fields of `phenokit.networks.card.Card`.
    prototypes
        Has the columns of `PROTOTYPE_COLUMNS`; `prototype_id` counts from 0. ``None`` for
        a model without prototypes.
    trust
        Out-of-distribution statistics, given with prototypes only.

    Returns
    -------
    str
        The bundle hash.

    Raises
    ------
    FileExistsError
        If the folder holds a file that is no part of a bundle.
    BundleError
        If the parts do not make a bundle that loads.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob("*.tmp"):
        leftover.unlink()
    strange = {path.name for path in folder.iterdir()} - {*BUNDLE_FILES, SUMS_FILE}
    if strange:
        raise FileExistsError(
            f"{folder} holds {min(strange)}, which is no part of a bundle; "
            "choose another folder"
        )
    model = _format(tensors, None, {})
    made_for = {
        "format_version": str(FORMAT_VERSION),
        "model_sha256": hashlib.sha256(model).hexdigest(),
        "weights_hash": hash_weights(tensors),
    }
    contents = {
        "calibration.json": _format_json(calibration, made_for),
        "card.toml": format_card(card),
        "config.json": _format_json(config, made_for),
        "model.safetensors": model,
    }
    if prototypes is not None:
        contents["prototypes.parquet"] = _format_prototypes(prototypes, made_for)
        contents["trust.safetensors"] = _format(trust or {}, None, made_for)
    (folder / SUMS_FILE).unlink(missing_ok=True)  # a write that is cut off leaves no bundle
    sums = "".join(
        f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in contents.items()
    )
    for name in BUNDLE_FILES:
        if name in contents:
            _replace(folder / name, contents[name])
        else:
            (folder / name).unlink(missing_ok=True)
    _replace(folder / SUMS_FILE, sums.encode())
    return load_bundle(folder).bundle_hash


def load_bundle(name_or_path: str | Path, *, verify: bool = True) -> Bundle:
    """Load a bundle by the name of an installed one or by its folder.

    Parameters
    ----------
    name_or_path
        ``"ecg-demo"``, or a path.
    verify
        Compare the hashes before anything is parsed. ``False`` compares them last, so
        that damage is named by its cause; a mismatch is refused either way.

    Raises
    ------
    BundleError
        ``E_WEIGHTS_HASH`` if a file is not the one that `SHA256SUMS` lists, is missing
        or not listed; ``E_VERSION`` if a part was made for other weights, by another
        format version, or lacks a field; ``E_WEIGHTS`` if a tensor is damaged.
        `where` names the file or the tensor.
    BadInput
        ``E_MISSING`` if there is no such bundle, ``E_PATH`` if it holds links.
    """
    folder = _find(name_or_path)
    sums, contents = _read_files(folder)
    if verify:
        _check_sums(sums, contents)
    bundle = _parse_bundle(folder, sums, contents)
    if not verify:
        _check_sums(sums, contents)
    return bundle


def _parse_bundle(folder: Path, sums: bytes, contents: Mapping[str, bytes]) -> Bundle:
    model = contents["model.safetensors"]
    tensors, _ = _parse(model, None, WEIGHT_DTYPES)
    config, config_made_for = _parse_json(contents["config.json"], "config.json")
    calibration, calibration_made_for = _parse_json(
        contents["calibration.json"], "calibration.json"
    )
    prototypes, trust = pd.DataFrame(columns=pd.Index(PROTOTYPE_COLUMNS)), {}
    claimed = {"config.json": config_made_for, "calibration.json": calibration_made_for}
    if "prototypes.parquet" in contents:
        prototypes, claimed["prototypes.parquet"] = _parse_prototypes(
            contents["prototypes.parquet"]
        )
        trust, claimed["trust.safetensors"] = _parse(
            contents["trust.safetensors"], None, ALL_DTYPES
        )
    elif config.get("kind") == "ecg-prototype":
        raise BundleError("E_VERSION", "The bundle of a prototype model has none.")
    weights_hash = hash_weights(tensors)
    made_for = {
        "format_version": str(FORMAT_VERSION),
        "model_sha256": hashlib.sha256(model).hexdigest(),
        "weights_hash": weights_hash,
    }
    for file, says in claimed.items():
        _check_made_for(file, says, made_for)
    card = parse_card(contents["card.toml"])
    return Bundle(
        path=folder,
        name=card.name,
        config=config,
        tensors=tensors,
        prototypes=prototypes,
        calibration=calibration,
        trust=trust,
        card=card.model_dump(),
        bundle_hash=hashlib.sha256(sums).hexdigest(),
        weights_hash=weights_hash,
    )


def _find(name_or_path: str | Path) -> Path:
    if isinstance(name_or_path, str) and _BUNDLE_NAME.fullmatch(name_or_path):
        installed = {folder.name: folder for folder in bundle_folders()}
        if name_or_path in installed:
            return installed[name_or_path]
        names = ", ".join(installed) or "none"
        if not Path(name_or_path).is_dir():
            raise BundleError(
                "E_MISSING",
                f"There is no model of this name; installed: {names}. "
                "PHENOKIT_MODELS names the folder where models are looked up.",
            )
    folder = Path(name_or_path)
    if not folder.is_dir():
        raise BundleError("E_MISSING", "There is no model bundle in this folder.")
    return folder


def _read_files(folder: Path) -> tuple[bytes, dict[str, bytes]]:
    """`SHA256SUMS` and its files, each read once: what is hashed is what is parsed."""
    present = {path.name for path in folder.iterdir()}
    files = [
        name
        for name in BUNDLE_FILES
        if name not in PROTOTYPE_FILES or present.intersection(PROTOTYPE_FILES)
    ]
    for name in (SUMS_FILE, *files):
        if name not in present:
            raise BundleError(
                "E_WEIGHTS_HASH", f"The bundle has no file {name}.", where=name
            )
    strange = present - {SUMS_FILE, *BUNDLE_FILES}
    if strange:
        raise BundleError(
            "E_WEIGHTS_HASH",
            f"The bundle holds {len(strange)} file(s) that are no part of it.",
        )
    sums = read_bytes(folder / SUMS_FILE, max_bytes=1 << 16, what=SUMS_FILE)
    contents = {name: read_bytes(folder / name, root=folder, what=name) for name in files}
    return sums, contents


def _check_sums(sums: bytes, contents: Mapping[str, bytes]) -> None:
    """Refuse a file whose SHA-256 is not the one listed."""
    lines = sums.decode("ascii", "replace").split("\n")
    matches = [_SUM_LINE.fullmatch(line) for line in lines[:-1]]
    listed = {match[2]: match[1] for match in matches if match}
    if lines[-1] != "" or len(listed) != len(lines) - 1 or set(listed) != set(contents):
        raise BundleError(
            "E_WEIGHTS_HASH",
            f"SHA256SUMS has to list exactly {', '.join(contents)}.",
            where=SUMS_FILE,
        )
    for name, data in contents.items():
        found = hashlib.sha256(data).hexdigest()
        if found != listed[name]:
            raise BundleError(
                "E_WEIGHTS_HASH",
                f"{name} has SHA-256 {found}, SHA256SUMS lists {listed[name]}; "
                "fetch the bundle again.",
                where=name,
            )


def _check_made_for(
    file: str, claimed: Mapping[str, str], made_for: Mapping[str, str]
) -> None:
    for field, found in made_for.items():
        if claimed.get(field) != found:
            raise BundleError(
                "E_VERSION",
                f"{file} was made for {field} {str(claimed.get(field))[:64]}; "
                f"this model has {found}.",
                where=file,
            )


def _parse(
    data: bytes, expected: Mapping[str, tuple[int, ...]] | None, dtypes: Collection[str]
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Tensors and metadata of a safetensors file."""
    header, body = _split(data)
    metadata = header.pop("__metadata__", {})
    if not _is_text_by_text(metadata):
        raise BundleError("E_WEIGHTS", "The metadata are not text by text.")
    entries = {name: _entry(name, value, dtypes) for name, value in header.items()}
    _check_cover(entries, len(body))
    if expected is not None:
        check_shapes({name: entry[1] for name, entry in entries.items()}, expected)
    tensors = {}
    for name, (dtype, shape, start, stop) in entries.items():
        array = np.frombuffer(body[start:stop], dtype).reshape(shape).copy()
        if dtype.kind == "f" and not np.isfinite(array).all():
            raise BundleError(
                "E_WEIGHTS", f"Tensor {name} holds a value that is not finite.", where=name
            )
        tensors[name] = array
    return tensors, metadata


def _split(data: bytes) -> tuple[dict[str, Any], memoryview]:
    """Header and body of a safetensors file; the length is checked before it is used."""
    length = int.from_bytes(data[:8], "little")
    if len(data) < 10 or data[8:9] != b"{":
        raise BundleError("E_WEIGHTS", "The file is not a safetensors file.")
    if length > min(MAX_HEADER_BYTES, len(data) - 8):
        raise BundleError(
            "E_WEIGHTS",
            f"The header declares {length} bytes; the file has {len(data)}, "
            f"and {MAX_HEADER_BYTES} are allowed.",
        )
    try:
        header = _strict_json(data[8 : 8 + length])
    except (ValueError, RecursionError):
        raise BundleError("E_WEIGHTS", "The header is not valid JSON.") from None
    return header, memoryview(data)[8 + length :]


def _entry(
    name: str, value: object, dtypes: Collection[str]
) -> tuple[np.dtype[Any], tuple[int, ...], int, int]:
    """Type, shape and place of a tensor, as its header declares them."""
    if not _TENSOR_NAME.fullmatch(name):
        raise BundleError("E_WEIGHTS", "A tensor has a name that is not allowed.")
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise BundleError("E_WEIGHTS", f"Tensor {name} is not declared fully.", where=name)
    dtype = _DTYPES.get(value["dtype"]) if isinstance(value["dtype"], str) else None
    if dtype is None or dtype.name not in dtypes:
        raise BundleError(
            "E_WEIGHTS",
            f"Tensor {name} has another type than {', '.join(sorted(dtypes))}.",
            where=name,
        )
    shape, offsets = value["shape"], value["data_offsets"]
    if not _are_sizes(shape, 8) or not _are_sizes(offsets, 2) or len(offsets) != 2:
        raise BundleError(
            "E_WEIGHTS", f"Tensor {name} has an impossible shape or place.", where=name
        )
    start, stop = offsets
    if stop - start != math.prod(shape) * dtype.itemsize:
        raise BundleError(
            "E_WEIGHTS",
            f"Tensor {name} declares another shape than its bytes hold.",
            where=name,
        )
    return dtype, tuple(shape), start, stop


def _check_cover(
    entries: Mapping[str, tuple[np.dtype[Any], tuple[int, ...], int, int]], size: int
) -> None:
    """The tensors follow each other without gap or overlap and fill the file."""
    position = 0
    for name, (_, _, start, stop) in sorted(
        entries.items(), key=lambda entry: entry[1][2:]
    ):
        if start != position or stop > size:
            raise BundleError(
                "E_WEIGHTS",
                f"Tensor {name} lies at bytes {start} to {stop}; "
                f"expected from {position} to at most {size}.",
                where=name,
            )
        position = stop
    if position != size:
        raise BundleError(
            "E_WEIGHTS", f"The file has {size - position} bytes that belong to no tensor."
        )


def _format(
    tensors: Mapping[str, np.ndarray], dtype: str | None, metadata: Mapping[str, str]
) -> bytes:
    """The bytes of a safetensors file: tensors by name, widest type first (alignment)."""
    if dtype not in (None, *WEIGHT_DTYPES):
        raise ValueError(f"dtype is {dtype!r}; choose from {', '.join(WEIGHT_DTYPES)}")
    arrays = {}
    for name, array in tensors.items():
        if not _TENSOR_NAME.fullmatch(name):
            raise ValueError(f"{name!r} cannot be the name of a tensor")
        with np.errstate(over="ignore"):  # what becomes infinite is refused below
            stored = np.asarray(array, dtype=dtype)
        stored = stored.astype(stored.dtype.newbyteorder("<"), copy=False)
        if stored.dtype not in _DTYPE_NAMES:
            raise ValueError(f"tensor {name} has type {stored.dtype}, which is not stored")
        if not np.isfinite(stored).all():
            raise ValueError(f"tensor {name} is not finite as {stored.dtype}")
        arrays[name] = stored
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    body = []
    position = 0
    for name in sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name)):
        data = arrays[name].tobytes()  # in C order, whatever the array's own order
        header[name] = {
            "dtype": _DTYPE_NAMES[arrays[name].dtype],
            "shape": list(arrays[name].shape),
            "data_offsets": [position, position + len(data)],
        }
        body.append(data)
        position += len(data)
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([len(text).to_bytes(8, "little"), text, *body])


def _format_prototypes(prototypes: pd.DataFrame, made_for: Mapping[str, str]) -> bytes:
    _check_prototypes(prototypes)
    table = pa.Table.from_pandas(prototypes, preserve_index=False)
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(
        table.replace_schema_metadata(dict(made_for)),
        buffer,
        compression="zstd",
        write_page_checksum=True,
    )
    return buffer.getvalue()


def _parse_prototypes(data: bytes) -> tuple[pd.DataFrame, dict[str, str]]:
    try:
        table = pyarrow.parquet.read_table(
            pa.BufferReader(data), page_checksum_verification=True
        )
        metadata = {
            key.decode(): value.decode()
            for key, value in (table.schema.metadata or {}).items()
        }
        prototypes = table.to_pandas(ignore_metadata=True)
    except (pa.ArrowException, OSError, ValueError):
        raise BundleError(
            "E_WEIGHTS", "The prototypes are damaged.", where="prototypes.parquet"
        ) from None
    _check_prototypes(prototypes)
    return prototypes, metadata


def _check_prototypes(prototypes: pd.DataFrame) -> None:
    missing = [name for name in PROTOTYPE_COLUMNS if name not in prototypes.columns]
    if missing:
        raise BundleError(
            "E_VERSION",
            f"The prototypes have no column {missing[0]}.",
            where="prototypes.parquet",
        )
    if prototypes["prototype_id"].tolist() != list(range(len(prototypes))):
        raise BundleError(
            "E_VERSION",
            "The column prototype_id has to count from 0 in the order of the rows.",
            where="prototypes.parquet",
        )


def _format_json(value: Mapping[str, Any], made_for: Mapping[str, str]) -> bytes:
    if _MADE_FOR in value:
        raise ValueError(f"the field {_MADE_FOR} belongs to the bundle")
    whole = {**value, _MADE_FOR: dict(made_for)}
    text = json.dumps(whole, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False)
    return (text + "\n").encode()


def _parse_json(data: bytes, file: str) -> tuple[dict[str, Any], dict[str, str]]:
    try:
        value = _strict_json(data)
    except (ValueError, RecursionError):
        raise BundleError("E_VERSION", f"{file} is not valid JSON.", where=file) from None
    made_for = value.pop(_MADE_FOR, {})
    return value, made_for if _is_text_by_text(made_for) else {}


def _strict_json(data: bytes) -> dict[str, Any]:
    """A JSON object without a key given twice and without NaN; else ValueError."""
    value = json.loads(
        data.decode("utf-8"),
        object_pairs_hook=_unique,
        parse_constant=_refuse_constant,
        parse_float=_finite,
    )
    if not isinstance(value, dict):
        raise ValueError("not an object")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a key is given twice")
    return table


def _refuse_constant(constant: str) -> None:
    raise ValueError(f"{constant} is not a number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is too large")
    return number


def _is_text_by_text(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())


def _are_sizes(value: object, most: int) -> bool:
    return (
        isinstance(value, list)
        and len(value) <= most
        and all(type(size) is int and 0 <= size < 1 << 48 for size in value)
    )


def _is_weight(name: str) -> bool:
    return not any(part.startswith(_NOT_WEIGHTS) for part in name.split("."))


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "()"


def _replace(path: Path, data: bytes) -> None:
    """Write a file so that it is there whole or not at all."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
