"""The audit log as pages write it: what was seen, what was done, and every file handed out.

Nothing is shown, done or handed out that the log has to have and does not: the row comes
first. Where nobody signs in and no folder was named, a log that cannot be written is a
warning (`phenokit.audit.is_binding`).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import streamlit as st

from pages import _logs, _sign_in
from phenokit.audit import Action, AuditFailed, note

PAGE, SEEN, UNLOGGED = "_page", "_seen", "_unlogged"


class NotHandedOut(Exception):
    """A file that could not be made or logged; the message is for the log of the server."""


def add(
    action: Action, *, record: str = "", bundle_hash: str = "", detail: str = ""
) -> None:
    """Log something now.

    Parameters
    ----------
    record
        What the recording is known by on any day; a pseudonym of it is written.
    detail
        A short code, never a name.

    Raises
    ------
    AuditFailed
        If it has to be logged and cannot be.
    """
    user = _sign_in.signed_in_user()
    note(
        action, user=user or None, must=bool(user), record=record, page=_page(),
        bundle_hash=bundle_hash, detail=detail,
    )  # fmt: skip


def seen(
    what: str,
    record: str = "",
    *,
    bundle_hash: str = "",
    code: str = "",
    action: Action = "view",
) -> None:
    """Log that something is shown, once for as long as it stays on the page.

    Parameters
    ----------
    what
        Kind of thing, as in `add`; with `code` it is the detail of the row.
    record, bundle_hash
        As in `add`.

    Raises
    ------
    AuditFailed
        As `add`.
    """
    before = st.session_state.setdefault(SEEN, {})
    place, now = (_page(), what), (record, bundle_hash, code)
    if before.get(place) != now:
        _sign_in.may_act()  # something else was asked for: a use, also in a fragment
        detail = f"{what} {code}".strip()
        add(action, record=record, bundle_hash=bundle_hash, detail=detail)
        before[place] = now


def logged(
    callback: Callable[..., object],
    action: Action,
    *,
    record: str = "",
    bundle_hash: str = "",
    detail: str = "",
) -> Callable[..., None]:
    """A callback of a widget that is logged before it is called.

    A callback runs before `app.py`: one whose visit is over does nothing.
    """

    def run(*args: object) -> None:
        if not _sign_in.may_act():
            return
        try:
            add(action, record=record, bundle_hash=bundle_hash, detail=detail)
        except AuditFailed:
            st.session_state[UNLOGGED] = True
            return
        callback(*args)

    return run


def show_unlogged() -> None:
    """Say that the last thing asked for was not done, if so."""
    if st.session_state.pop(UNLOGGED, False):
        st.error("The audit log cannot be written, so this was not done.")


def download_button(
    label: str,
    make: Callable[[], bytes],
    file_name: str,
    *,
    key: str,
    record: str = "",
    bundle_hash: str = "",
    detail: str = "",
    kind: Literal["secondary", "tertiary"] = "secondary",
) -> None:
    """A button that hands out a file, which is made and logged when it is asked for.

    Parameters
    ----------
    record, bundle_hash, detail
        As in `add`; the ending of the file is logged too.
    """
    user, page, token = _sign_in.signed_in_user(), _page(), _sign_in.visit_token()
    ending = Path(file_name).suffix.removeprefix(".")

    def hand_out() -> bytes:
        # In a thread without a session, minutes later.
        try:
            if not _sign_in.is_still_in(token):
                raise NotHandedOut("the visit is over")
            made = make()
            note(
                "export", user=user or None, must=bool(user), record=record, page=page,
                bundle_hash=bundle_hash, detail=f"{detail} {ending}".strip(),
            )  # fmt: skip
        except Exception as error:
            # Streamlit logs what an error says, which may hold a name.
            raise NotHandedOut(f"incident {_logs.incident(error)}") from None
        return made

    st.download_button(
        label, hand_out, file_name, on_click="ignore", key=key, type=kind
    )  # fmt: skip


def _page() -> str:
    return str(st.session_state.get(PAGE) or "")
