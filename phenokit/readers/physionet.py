"""Fetch single records of PTB-XL from PhysioNet, or from a mirror of it.

The one place that opens a connection, and only by the command `phenokit data prototypes`.
What arrives is as little trusted as any other file: sizes are capped, a record is read
strictly before it gets its name, and one that is there already is not fetched again.
"""

import re
import shutil
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from http.client import HTTPException, HTTPMessage
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from phenokit.errors import BadInput
from phenokit.readers.ecg import read_ecg

PTBXL = "https://physionet.org/files/ptb-xl/1.0.3"

MAX_HEADER_BYTES = 1 << 14
MAX_SIGNAL_BYTES = 1 << 20
"""A record has a header of 0.6 kB and a signal of 120,000 bytes."""

TIMEOUT = 30.0
"""Seconds without a byte after which the server counts as out of reach."""

_RECORD_ID = re.compile(r"[1-9]\d{0,4}", re.ASCII)
_OWN_HOSTS = ("localhost", "127.0.0.1", "::1")


def fetch_records(
    record_ids: Sequence[str],
    out: Path,
    *,
    source: str = PTBXL,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Download records of PTB-XL at 500 Hz into the folders of its official layout.

    Parameters
    ----------
    record_ids
        The ecg_id of each, as text.
    out
        The copy of PTB-XL, or the beginning of one.
    source
        Address of the folder that holds ``records500``: https, or http on this machine.
    progress
        Called with the number of records done and of all.

    Returns
    -------
    int
        How many were downloaded; those that were there already and can be read are not.

    Raises
    ------
    BadInput
        ``E_MISSING`` if the server cannot be reached or does not have a record,
        ``E_PATH`` for a source that is no https address, ``E_RANGE`` for a record_id
        that is none of PTB-XL, ``E_TOO_LARGE`` for a file above the limit, or what the
        reader says of a record that arrived damaged. Records that arrived before stay.
    """
    _check_address(source)
    for record_id in record_ids:
        if _RECORD_ID.fullmatch(record_id) is None:
            raise BadInput("E_RANGE", "A record_id is not an ecg_id of PTB-XL.")
    opener = _opener(source)
    n_fetched = 0
    for done, record_id in enumerate(record_ids, start=1):
        record = _record_path(record_id)
        if not _is_present(out / record):
            _fetch(opener, f"{source.rstrip('/')}/{record.as_posix()}", out / record)
            n_fetched += 1
        if progress is not None:
            progress(done, len(record_ids))
    return n_fetched


def _record_path(record_id: str) -> Path:
    """Where a record lies in the official layout, without ending."""
    number = int(record_id)
    return Path("records500", f"{number // 1000 * 1000:05d}", f"{number:05d}_hr")


def _is_present(record: Path) -> bool:
    try:
        read_ecg(record.with_suffix(".hea"))
    except BadInput:
        return False
    return True


def _fetch(opener: urllib.request.OpenerDirector, address: str, record: Path) -> None:
    """Both files of a record, read as proof before they get their names."""
    record.parent.mkdir(parents=True, exist_ok=True)
    waiting = Path(tempfile.mkdtemp(prefix=".fetch-", dir=record.parent))
    try:
        arrived = waiting / record.name
        for suffix, limit in ((".dat", MAX_SIGNAL_BYTES), (".hea", MAX_HEADER_BYTES)):
            data = _download(opener, address + suffix, limit)
            arrived.with_suffix(suffix).write_bytes(data)
        read_ecg(arrived.with_suffix(".hea"), root=waiting)
        for suffix in (".dat", ".hea"):  # the header last: it is what makes a record
            arrived.with_suffix(suffix).replace(record.with_suffix(suffix))
    finally:
        shutil.rmtree(waiting)


def _download(opener: urllib.request.OpenerDirector, address: str, limit: int) -> bytes:
    try:
        with opener.open(address, timeout=TIMEOUT) as response:
            data = response.read(limit + 1)
    except urllib.error.HTTPError as error:
        with error:  # it holds the connection
            raise BadInput(
                "E_MISSING",
                f"The server answered {error.code} for a record; check the source, which "
                "has to be the folder that holds records500.",
            ) from None
    except (OSError, HTTPException):
        raise BadInput(
            "E_MISSING",
            "The server cannot be reached. Without a network, copy the records from a "
            "copy of PTB-XL 1.0.3 and name its folder in PHENOKIT_PTBXL.",
        ) from None
    if len(data) > limit:
        raise BadInput("E_TOO_LARGE", f"The server sent more than {limit} bytes.")
    return data


def _check_address(address: str) -> None:
    try:
        parts = urlsplit(address)
    except ValueError:
        parts = urlsplit("")
    is_own = parts.scheme == "http" and parts.hostname in _OWN_HOSTS
    if not parts.hostname or not (parts.scheme == "https" or is_own):
        raise BadInput(
            "E_PATH",
            "The source has to be an https address (http only on this machine).",
        )


class _CheckedRedirect(urllib.request.HTTPRedirectHandler):
    """Follows a redirection only to an address that could have been given."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: Any,  # noqa: ANN401 - the response, which is no IO to a type checker
        code: int,
        msg: str,
        headers: HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        try:
            _check_address(newurl)
        except BadInput:
            fp.close()
            raise
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener(source: str) -> urllib.request.OpenerDirector:
    """Opens addresses through the proxy of the environment, unless on this machine."""
    handlers: list[urllib.request.BaseHandler] = [_CheckedRedirect()]
    if urlsplit(source).hostname in _OWN_HOSTS:
        handlers.append(urllib.request.ProxyHandler({}))
    return urllib.request.build_opener(*handlers)
