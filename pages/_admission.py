"""How many people are in at once: the others wait in line on a page that costs little.

One server process draws three or four pages a second. Beyond that nothing fails, all of it
becomes slow, until browsers give up. So as many sessions are in at once as
``PHENOKIT_SESSIONS`` says, and the next ones are told their place. A session that ends
gives its place back at once: what counts is which sessions have an open connection, and
Streamlit is asked for that each time.
"""

import os
import threading
import time
from collections.abc import Callable

import streamlit as st
from streamlit import runtime
from streamlit.runtime.scriptrunner import get_script_run_ctx

from phenokit.report.explanation import count

SESSIONS = "PHENOKIT_SESSIONS"
"""Holds the number of sessions that are in at once."""
ENOUGH = 40
"""Sessions where nothing else is said: measured, see docs/jobs.md."""
FIRST_LOOKS, OTHERS_LOOK = 2.0, 5.0
"""Seconds until the page of somebody who waits asks again."""
ASLEEP = 20.0
"""Seconds after which somebody in line who does not ask any more is passed over: browsers
put tabs that nobody looks at to sleep."""


class Places:
    """Who is in, and who stands in line.

    Parameters
    ----------
    is_live
        Whether a session still has a connection.
    """

    def __init__(self, is_live: Callable[[str], bool]) -> None:
        self._is_live = is_live
        self._inside: set[str] = set()
        self._line: dict[str, float] = {}
        self._lock = threading.Lock()

    def ask(self, session: str, *, limit: int, now: float) -> int:
        """0 for a session that is in, or comes in now; else its place in the line.

        Parameters
        ----------
        limit
            Sessions that are in at once.
        now
            Seconds, of a clock that never goes back.
        """
        with self._lock:
            self._inside = {one for one in self._inside if self._is_live(one)}
            if session in self._inside:
                return 0
            self._line[session] = now
            self._line = {
                one: asked
                for one, asked in self._line.items()
                if now - asked < ASLEEP and self._is_live(one)
            }
            before = list(self._line).index(session) if session in self._line else 0
            place = len(self._inside) + before - limit + 1
            if place <= 0:
                self._inside.add(session)
                self._line.pop(session, None)
            return max(place, 0)

    def leave(self, session: str) -> None:
        """Give the place back."""
        with self._lock:
            self._inside.discard(session)
            self._line.pop(session, None)


def _is_live(session: str) -> bool:
    return runtime.exists() and bool(runtime.get_instance().is_active_session(session))


_PLACES = Places(_is_live)


def limit() -> int:
    """Sessions that are in at once, 1 at least."""
    text = os.environ.get(SESSIONS, "")
    return max(int(text), 1) if text.isascii() and text.isdigit() else ENOUGH


def place_in_line(*, is_wanted: bool = True) -> int:
    """0 for a session that may go on; else its place in the line.

    Parameters
    ----------
    is_wanted
        False gives a place back, for instance when somebody has signed out.
    """
    context = get_script_run_ctx()
    if context is None:  # nobody's browser
        return 0
    if not is_wanted:
        _PLACES.leave(context.session_id)
        return 0
    return _PLACES.ask(context.session_id, limit=limit(), now=time.monotonic())


def show_line(place: int) -> None:
    """The page of somebody who waits; it opens the app when the turn has come."""
    st.title("PhenoKit")
    st.info(
        f"PhenoKit is full at the moment: {count(limit(), 'session')} are open, as many as "
        "this server can serve well. Leave this page open: it goes on by itself as soon as "
        "it is your turn. Runs that were started before go on."
    )
    seconds = FIRST_LOOKS if place <= 2 else OTHERS_LOOK
    st.fragment(_look, run_every=seconds)()


def _look() -> None:
    place = place_in_line()
    if not place:
        st.rerun()
    st.text("You are next." if place == 1 else f"You are number {place} in the line.")
    st.button("Look now", key="look")
