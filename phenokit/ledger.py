"""Rows that are only added: triggers that refuse more, and a chain that shows tampering.

Each row of such a table of SQLite bears a hash of itself and of the hash before it. A row
that was altered, or taken out from among the others, no longer fits. That rows were taken
off the end only shows against a hash that was kept elsewhere.
"""

import hashlib
import hmac
import json
from collections.abc import Iterable, Sequence

Field = str | float | int | None


def chain_hash(before: str, fields: Sequence[Field], key: bytes | None = None) -> str:
    """The hash of a row that follows the one with the hash `before`.

    Parameters
    ----------
    before
        Empty for the first row.
    key
        With a key, only who has it can make a chain that fits.

    Returns
    -------
    str
        SHA-256, or HMAC-SHA-256 where there is a key; 64 hexadecimal digits.
    """
    words = json.dumps([before, *fields], ensure_ascii=False).encode()
    if key is None:
        return hashlib.sha256(words).hexdigest()
    return hmac.new(key, words, hashlib.sha256).hexdigest()


def first_altered(
    rows: Iterable[tuple[Sequence[Field], str]], key: bytes | None = None
) -> int | None:
    """Place of the first row, from 0, whose hash does not fit; None if all do.

    Parameters
    ----------
    rows
        Fields and hash of every row, in the order in which they were added.

    Examples
    --------
    >>> first = chain_hash("", ["seen"])
    >>> first_altered([(["seen"], first), (["scored"], chain_hash(first, ["scored"]))])
    >>> first_altered([(["hidden"], first)])
    0
    """
    before = ""
    for place, (fields, written) in enumerate(rows):
        if not hmac.compare_digest(written, chain_hash(before, fields, key)):
            return place
        before = written
    return None


def append_only(table: str) -> str:
    """SQL of the triggers that refuse to change or remove a row of a table."""
    return f"""
CREATE TRIGGER IF NOT EXISTS {table}_stays BEFORE UPDATE ON {table}
BEGIN SELECT RAISE(ABORT, 'rows are only added'); END;
CREATE TRIGGER IF NOT EXISTS {table}_remains BEFORE DELETE ON {table}
BEGIN SELECT RAISE(ABORT, 'rows are only added'); END;
"""
