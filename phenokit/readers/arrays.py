"""Read an array file (`.npy`) strictly: numbers only, and as many as it declares.

The header is parsed by a grammar of our own: numpy evaluates it as Python text, unpickles
objects if it is allowed to, and allocates what is declared before it looks at the file.
"""

import math
import re
from pathlib import Path

import numpy as np

from phenokit.errors import BadInput
from phenokit.readers.files import read_bytes

_MAGIC = b"\x93NUMPY"
_HEADER = re.compile(
    r"\{'descr': '([<>|=])([biuf])([1248])', 'fortran_order': (True|False), "
    r"'shape': \(((?:\d{1,15}, ?)*\d{0,15}),?\), ?\} *\n",
    re.ASCII,
)
_TEXT_HEADER = re.compile(
    r"\{'descr': '([<>])U([1-9]\d{0,3})', 'fortran_order': (?:True|False), "
    r"'shape': \((?:(\d{1,6}),)?\), ?\} *\n",
    re.ASCII,
)
_OBJECTS = re.compile(r"'descr': '[<>|=]?O")
_LENGTH_BYTES = {1: 2, 2: 4, 3: 4}
MAX_AXES = 8
MAX_HEADER_BYTES = 10_000


def read_array(path: Path, *, root: Path | None = None) -> np.ndarray:
    """Read a `.npy` file.

    Parameters
    ----------
    path
        The file.
    root
        Folder that the file has to lie in; see `phenokit.readers.files.open_checked`.

    Returns
    -------
    np.ndarray
        Of truth values, integers or floats; it owns its memory.

    Raises
    ------
    BadInput
        ``E_ARRAY`` for another format, objects, records or text; ``E_SIZE_MISMATCH`` if
        the bytes are not those that shape and type declare.
    """
    return parse_array(read_bytes(path, root=root, what="array file"))


def parse_array(data: bytes) -> np.ndarray:
    """Array of the bytes of a `.npy` file; see `read_array`."""
    header, start = _split(data)
    match = _HEADER.fullmatch(header)
    if match is None:
        reason = (
            "holds objects" if _OBJECTS.search(header) else "is not an array of numbers"
        )
        raise BadInput("E_ARRAY", f"The array file {reason}; save plain numbers.")
    order, kind, width, is_fortran, sizes = match.groups()
    shape = tuple(int(size) for size in sizes.replace(" ", "").split(",") if size)
    if len(shape) > MAX_AXES or (kind, width) in (("b", "2"), ("b", "4"), ("b", "8")):
        raise BadInput("E_ARRAY", "The array file has an unusual type or shape.")
    try:
        dtype = np.dtype(f"{order}{kind}{width}")
    except TypeError:
        raise BadInput("E_ARRAY", "The array file has an unusual type.") from None
    if math.prod(shape) * dtype.itemsize != len(data) - start:
        raise BadInput(
            "E_SIZE_MISMATCH",
            f"The array declares {math.prod(shape) * dtype.itemsize} bytes; "
            f"the file holds {len(data) - start}.",
        )
    flat = np.frombuffer(data, dtype, offset=start)
    return flat.reshape(shape, order="F" if is_fortran == "True" else "C").copy()


def parse_names(data: bytes) -> list[str]:
    """Texts of the bytes of a `.npy` file of one axis of them, or of one text.

    Raises
    ------
    BadInput
        As `read_array`.
    """
    header, start = _split(data)
    match = _TEXT_HEADER.fullmatch(header)
    if match is None:
        raise BadInput("E_ARRAY", "The array file is not a list of names.")
    order, width, size = match.groups()
    n = int(size) if size else 1
    if 4 * int(width) * n != len(data) - start:
        raise BadInput("E_SIZE_MISMATCH", "The names are not as many as declared.")
    try:
        return np.frombuffer(data, f"{order}U{int(width)}", offset=start).tolist()
    except (ValueError, UnicodeError):
        raise BadInput("E_ARRAY", "The names of the array file are no text.") from None


def _split(data: bytes) -> tuple[str, int]:
    """Text of the header, and where the numbers start."""
    if not data.startswith(_MAGIC) or len(data) < 12:
        raise BadInput("E_ARRAY", "The file is not an array file.")
    width = _LENGTH_BYTES.get(data[6], 0)
    start = 8 + width + int.from_bytes(data[8 : 8 + width], "little")
    if width == 0 or data[7] != 0 or start > min(len(data), MAX_HEADER_BYTES):
        raise BadInput("E_ARRAY", "The header of the array file is damaged.")
    return data[8 + width : start].decode("latin-1"), start
