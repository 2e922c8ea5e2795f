"""What the server's log may say of an error: its kind and where it happened, not its words.

The words of an error may quote a file, and so hold a name. Streamlit logs them in full
whatever the page shows, for instance of an error in a callback; so do the servers below it.
"""

import logging
import secrets
import threading
import traceback
from pathlib import Path
from types import TracebackType
from typing import Any

_LOG = logging.getLogger("phenokit.app")


def incident(error: BaseException) -> str:
    """Log an error without its words; returns the number that it is found by."""
    number = secrets.token_hex(4)
    _LOG.error(
        "incident %s: %s at %s", number, type(error).__name__, _trail(error.__traceback__)
    )
    return number


def keep_words_out() -> None:
    """From now on no logger of this process, and no thread, prints the words of an error.

    Also what a library puts into its message (``"failed: %s", error``) is replaced by the
    kind of the error.
    """
    if logging.getLogRecordFactory() is not _without_words:
        logging.setLogRecordFactory(_without_words)
        logging.raiseExceptions = False  # a log that cannot be written would print them
        threading.excepthook = _thread_failed


def _without_words(
    name: str,
    level: int,
    path: str,
    line: int,
    message: object,
    args: Any,  # noqa: ANN401 - as logging has it
    exc_info: tuple[type, BaseException, TracebackType | None] | tuple | None,
    function: str | None = None,
    stack: str | None = None,
) -> logging.LogRecord:
    if isinstance(args, tuple):
        args = tuple(map(_kind, args))
    words = _kind(message)
    record = logging.LogRecord(name, level, path, line, words, args, None, function, stack)
    if exc_info and exc_info[1] is not None:
        error = exc_info[1]
        record.exc_text = f"{type(error).__name__} at {_trail(error.__traceback__)}"
    return record


def _kind(value: object) -> object:
    return type(value).__name__ if isinstance(value, BaseException) else value


def _thread_failed(failed: threading.ExceptHookArgs) -> None:
    _LOG.error("a thread failed: %s at %s", failed.exc_type.__name__,
               _trail(failed.exc_traceback))  # fmt: skip


def _trail(passed: TracebackType | None) -> str:
    frames = traceback.extract_tb(passed)
    return " > ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames)
