"""Who is at the browser, whether they may come in, and when they have to sign in again.

``PHENOKIT_SIGNIN`` says how people are told apart:

``none``   nobody signs in (the default): the app has to listen on this machine only
``open``   nobody signs in although others reach the app: said on purpose, for a demo
``oidc``   Streamlit's own sign-in at an identity provider (``[auth]`` of its secrets)
``proxy``  the reverse proxy signs people in and names them in a header; a second header
           holds a secret that the proxy and the app share, so that nobody who reaches the
           app without the proxy can name himself

The gate stands before every run of a page (`enter`, from `app.py`) and before every run of
a fragment (`require_visit`): a fragment runs without `app.py`.
"""

import hmac
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Literal, get_args
from urllib.parse import urlsplit

import streamlit as st
from streamlit import config, runtime
from streamlit.auth_util import get_secrets_auth_section, is_authlib_installed
from streamlit.components.v2 import component
from streamlit.runtime.caching import (
    clear_session_data_cache,
    clear_session_resource_cache,
)
from streamlit.runtime.scriptrunner import get_script_run_ctx

from phenokit.audit import Action, AuditFailed, note
from phenokit.doctor import HARDENED

Mode = Literal["none", "open", "oidc", "proxy"]
Closed = Literal["setup", "unknown", "refused", "idle", "left", "unlogged"]

PROXY_HEADER = "X-PhenoKit-Proxy"
"""Of the secret that the proxy and the app share."""
IDLE_MINUTES = 15.0
WARN_SECONDS = 120.0
"""Before the end of a visit; of a short one its last third."""
MAX_VISITS = 100_000
REQUIRED = (
    "browser.gatherUsageStats", "client.showErrorDetails", "client.showErrorLinks",
    "client.disableDataExport", "logger.enableRich",
    "server.enableCORS", "server.enableXsrfProtection", "server.enableStaticServing",
    "server.enableAgentApi",
)  # fmt: skip
"""Settings of Streamlit without which the app stays closed, as in `HARDENED`.

Of the others a site may have its own: sizes, times."""
USER, CLOSED, REFUSED = "_user", "_closed", "_refused"
"""What a session holds: who is in, why nobody is any more, who was turned away."""
_LOG = logging.getLogger("phenokit.app")
_LAST_USE: dict[str, float] = {}
"""Of every visit, by `_visit_key`; minus infinity once it is over."""
_STARTED: set[str] = set()


class NotSetUp(Exception):
    """The app was started in a way that would let strangers in; the message says what."""


class Refused(Exception):
    """Somebody who may not come in; the message is a code for the audit log."""


@dataclass(frozen=True)
class Rules:
    """How the gate is set up.

    Attributes
    ----------
    idle
        Seconds without use after which a visit ends.
    allowed
        Users, and groups as ``group:NAME``; None for everybody who can sign in.
    secret
        Shared with the proxy.
    sign_out
        Where the proxy signs people out; empty where it cannot.
    """

    mode: Mode = "none"
    idle: float = 60 * IDLE_MINUTES
    allowed: frozenset[str] | None = None
    user_header: str = "X-Forwarded-User"
    groups_header: str = "X-Forwarded-Groups"
    secret: bytes = b""
    sign_out: str = ""

    @property
    def is_open(self) -> bool:
        """Whether nobody signs in."""
        return self.mode in {"none", "open"}


@dataclass(frozen=True)
class Visit:
    """Who is at the browser.

    Attributes
    ----------
    user
        Empty where nobody signs in.
    closed
        Why no page is shown; None where they are.
    why
        In words, for an administrator.
    """

    user: str = ""
    closed: Closed | None = None
    why: str = ""


# How the gate is set up


def read_rules(environment: Mapping[str, str]) -> Rules:
    """The rules that the environment states.

    Raises
    ------
    NotSetUp
        If they cannot be told, or a secret or list that they need is missing.
    """
    mode = environment.get("PHENOKIT_SIGNIN") or "none"
    if mode not in get_args(Mode):
        raise NotSetUp(f"PHENOKIT_SIGNIN is one of {', '.join(get_args(Mode))}.")
    sign_out = environment.get("PHENOKIT_SIGNOUT", "")
    is_here = sign_out.startswith("/") and not sign_out.startswith(("//", "/\\"))
    if sign_out and not (is_here or urlsplit(sign_out).scheme == "https"):
        raise NotSetUp("PHENOKIT_SIGNOUT is a path of this host or an https address.")
    return Rules(
        mode=mode,  # pyright: ignore[reportArgumentType]
        idle=_idle(environment.get("PHENOKIT_IDLE") or str(IDLE_MINUTES)),
        allowed=_allowed(environment.get("PHENOKIT_USERS", "")),
        user_header=environment.get("PHENOKIT_USERHEADER") or Rules.user_header,
        groups_header=environment.get("PHENOKIT_GROUPSHEADER") or Rules.groups_header,
        secret=_secret(environment) if mode == "proxy" else b"",
        sign_out=sign_out,
    )


def _idle(minutes: str) -> float:
    try:
        seconds = 60 * float(minutes)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 86_400:
        raise NotSetUp("PHENOKIT_IDLE is a number of minutes, of a day at most.")
    return seconds


def _allowed(stated: str) -> frozenset[str] | None:
    """Users and groups, from a list with commas or from the file at an absolute path."""
    if not stated:
        return None
    if not stated.startswith("/"):
        return frozenset(one.strip() for one in stated.split(",") if one.strip())
    try:
        lines = Path(stated).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        raise NotSetUp("The file that PHENOKIT_USERS names cannot be read.") from None
    names = (line.partition("#")[0].strip() for line in lines)
    return frozenset(name for name in names if name)


def _secret(environment: Mapping[str, str]) -> bytes:
    try:
        secret = Path(environment["PHENOKIT_PROXYSECRET"]).read_bytes().strip()
    except (KeyError, OSError):
        raise NotSetUp("PHENOKIT_PROXYSECRET names no file that can be read.") from None
    if len(secret) < 16:
        raise NotSetUp("The secret of PHENOKIT_PROXYSECRET has fewer than 16 characters.")
    return secret


def require_safe(mode: Mode, settings: Mapping[str, Any]) -> None:
    """Refuse to show anything under settings that let strangers in or words out.

    Parameters
    ----------
    settings
        Of Streamlit, the values in force: `REQUIRED`, ``server.address`` and
        ``server.allowedHosts``.

    Raises
    ------
    NotSetUp
        If they do not hold.
    """
    wrong = [name for name in REQUIRED if settings[name] != HARDENED[name]]
    if wrong:
        raise NotSetUp(f"A setting has to be as delivered: {', '.join(wrong)}.")
    hosts = settings["server.allowedHosts"]
    if not hosts or "*" in hosts:
        raise NotSetUp(
            "server.allowedHosts has to name the hosts that the app is reached by."
        )
    if mode == "none" and not _is_this_machine(settings["server.address"]):
        raise NotSetUp(
            "The app listens to other machines and nobody has to sign in. Set "
            "PHENOKIT_SIGNIN to oidc or proxy, or server.address to 127.0.0.1."
        )


def _is_this_machine(address: str | None) -> bool:
    if address == "localhost":
        return True
    try:
        return ip_address(address or "").is_loopback
    except ValueError:
        return False


# Who it is


def identify_by_proxy(
    rules: Rules, headers: Mapping[str, list[str]]
) -> tuple[str, frozenset[str]]:
    """User and groups that the proxy names.

    Parameters
    ----------
    headers
        Every value of each header that was sent.

    Raises
    ------
    Refused
        If the request did not come through the proxy, or does not name one user.
    """
    given = headers.get(PROXY_HEADER, [])
    if len(given) != 1 or not hmac.compare_digest(given[0].encode(), rules.secret):
        raise Refused("not through the proxy")
    names = [name.strip() for name in headers.get(rules.user_header, [])]
    if len(names) != 1 or not names[0]:
        raise Refused("the proxy names no user")
    groups = ",".join(headers.get(rules.groups_header, [])).split(",")
    return names[0], frozenset(one.strip() for one in groups if one.strip())


def identify_by_token(claims: Mapping[str, Any]) -> tuple[str, frozenset[str]] | None:
    """User and groups that the identity provider names; None for nobody yet.

    The user is the address, if the provider has verified it, else the provider's own id
    of the person: an address that anybody may enter is nobody's name.

    Raises
    ------
    Refused
        If the provider names nobody.
    """
    if not claims.get("is_logged_in"):
        return None
    is_verified = claims.get("email_verified") in {True, "true"}
    user = str((is_verified and claims.get("email")) or claims.get("sub") or "").strip()
    if not user:
        raise Refused("the provider names no user")
    groups = claims.get("groups") or ()
    return user, frozenset(map(str, groups if isinstance(groups, list | tuple) else ()))


def is_allowed(rules: Rules, user: str, groups: frozenset[str]) -> bool:
    """Whether a user is on the list, in person or by a group."""
    if rules.allowed is None:
        return True
    return user in rules.allowed or any(f"group:{one}" in rules.allowed for one in groups)


# The gate


def enter() -> Visit:
    """Who comes in, before anything of a page is shown; a use of the app."""
    if get_script_run_ctx() is None:  # a worker process that imports app.py
        return Visit(closed="unknown")
    try:
        rules = _rules_in_force()
    except NotSetUp as error:
        if str(error) not in _STARTED:
            _STARTED.add(str(error))
            _LOG.error("the app stays closed: %s", error)
        return Visit(closed="setup", why=str(error))
    try:
        visit = _admit(rules)
    except AuditFailed:
        return Visit(closed="unlogged")
    if visit.closed in {"idle", "left"}:
        _drop(keep=visit)
    return visit


def _rules_in_force() -> Rules:
    rules = read_rules(os.environ)
    if runtime.exists():  # else nobody listens: a test runs the script by itself
        names = (*REQUIRED, "server.address", "server.allowedHosts")
        require_safe(rules.mode, {name: config.get_option(name) for name in names})
    if rules.mode == "oidc":
        if not is_authlib_installed():
            raise NotSetUp("The sign-in needs a package: pip install 'phenokit[login]'.")
        if not get_secrets_auth_section():
            raise NotSetUp("The secrets of Streamlit have no section [auth].")
    return rules


def _admit(rules: Rules) -> Visit:
    if rules.mode not in _STARTED:
        _STARTED.add(rules.mode)
        note("configuration", page="app", detail=f"sign-in {rules.mode}")
    if rules.is_open:
        return Visit()
    try:
        found = _identify(rules)
    except Refused as error:
        return _refuse("", str(error))
    if found is None:
        return Visit(closed="unknown")
    user, groups = found
    before = st.session_state.get(USER)
    if before is not None and before != user:  # somebody else, in the same session
        _drop()
        before = None
    if not is_allowed(rules, user, groups):
        return _refuse(user, "not on the list")
    if (closed := st.session_state.get(CLOSED)) is not None:
        return Visit(user, closed)
    key = _visit_key(rules, user)
    if _is_over(key, rules):
        _end(key)
        if before is not None:
            _log("sign-out", user, detail="idle")
        return Visit(user, "idle")
    if before is None:
        _log("sign-in", user, detail=rules.mode)
        st.session_state[USER] = user
    _use(key)
    return Visit(user)


def _identify(rules: Rules) -> tuple[str, frozenset[str]] | None:
    if rules.mode == "oidc":
        return identify_by_token(dict(st.user))
    wanted = (PROXY_HEADER, rules.user_header, rules.groups_header)
    sent = st.context.headers
    return identify_by_proxy(rules, {name: sent.get_all(name) for name in wanted})


def _refuse(user: str, code: str) -> Visit:
    if st.session_state.get(REFUSED) != user:
        _log("refused", user, detail=code)
        st.session_state[REFUSED] = user
    return Visit(user, "refused")


def _log(action: Action, user: str, *, detail: str) -> None:
    note(action, user=user, must=True, page="app", detail=detail)


def require_visit(*, is_use: bool = True) -> None:
    """Let a fragment run, or run the whole app, which says that the visit is over.

    Parameters
    ----------
    is_use
        Whether somebody did something; not so where the page looks again by itself.
    """
    if not may_act(is_use=is_use):
        st.rerun()


def may_act(*, is_use: bool = True) -> bool:
    """Whether who is at the browser is still who came in, and in time."""
    user = st.session_state.get(USER)
    if user is None:  # nobody has to sign in, or `enter` let nobody in
        return True
    rules = _rules_in_force()
    try:
        found = _identify(rules)
    except Refused:
        return False
    if found is None or found[0] != user or CLOSED in st.session_state:
        return False
    return is_still_in(_visit_key(rules, user), is_use=is_use)


def visit_token() -> str:
    """What `is_still_in` is asked with where no session is at hand; empty for nobody."""
    user = st.session_state.get(USER)
    return "" if user is None else _visit_key(_rules_in_force(), user)


def is_still_in(token: str, *, is_use: bool = True) -> bool:
    """Whether a visit goes on."""
    if token and _is_over(token, _rules_in_force()):
        return False
    if token and is_use:
        _use(token)
    return True


def signed_in_user() -> str:
    """Who signed in; empty where nobody has to."""
    return str(st.session_state.get(USER) or "")


# How long a visit lasts


def _visit_key(rules: Rules, user: str) -> str:
    """What a visit is known by: a sign-in at the provider, or a tab behind the proxy.

    The provider's cookie lives for 30 days: a sign-in that has ended stays over in every
    tab, and after a reload.
    """
    if rules.mode == "oidc":
        return f"{user} {st.user.get('iat', '')}"
    context = get_script_run_ctx()
    return f"{user} {'' if context is None else context.session_id}"


def _is_over(key: str, rules: Rules) -> bool:
    last = _LAST_USE.get(key)
    if last is not None:
        return time.monotonic() - last > rules.idle
    if rules.mode != "oidc":
        return False
    # Unknown to this process: it was started since, or the cookie is an old one.
    signed_in = key.rpartition(" ")[2]
    return not signed_in.isdecimal() or time.time() - int(signed_in) > rules.idle


def _use(key: str) -> None:
    _LAST_USE.pop(key, None)
    _LAST_USE[key] = time.monotonic()
    while len(_LAST_USE) > MAX_VISITS:
        _LAST_USE.pop(next(iter(_LAST_USE)), None)


def _end(key: str) -> None:
    _LAST_USE[key] = float("-inf")


def _drop(*, keep: Visit | None = None) -> None:
    """Forget all that the session holds: widgets, results, uploaded files, the address."""
    context = get_script_run_ctx()
    st.session_state.clear()
    st.query_params.clear()
    if context is not None:
        clear_session_data_cache(context.session_id)
        clear_session_resource_cache(context.session_id)
        if runtime.exists():
            files = runtime.get_instance().uploaded_file_mgr
            files.remove_session_files(context.session_id)
    if keep is not None:
        st.session_state[USER] = keep.user
        st.session_state[CLOSED] = keep.closed


# What is shown


def show_user(visit: Visit) -> None:
    """The way out, and the end of the visit when it comes; nothing without a sign-in."""
    if not visit.user:
        return
    st.button("Sign out", key="sign-out", type="tertiary", on_click=_leave)
    rules = _rules_in_force()
    seconds = max(1.0, min(20.0, rules.idle / 6))
    st.fragment(_watch, run_every=seconds)(_visit_key(rules, visit.user))


def _watch(key: str) -> None:
    rules = _rules_in_force()
    left = rules.idle - (time.monotonic() - _LAST_USE.get(key, float("-inf")))
    if left <= 0:
        st.rerun()
    if left < min(WARN_SECONDS, rules.idle / 3):
        with st.container(key="idle-warning"):
            st.warning(f"No input for a while. You will be signed out in {left:.0f} s.")
            st.button("Stay signed in", key="stay", on_click=_use, args=(key,))


def _leave() -> None:
    user = signed_in_user()
    rules = _rules_in_force()
    _end(_visit_key(rules, user))
    st.session_state[CLOSED] = "left"
    _log("sign-out", user, detail="asked")


def show_way_in(visit: Visit) -> None:
    """Why there is no page, and what to do."""
    st.title("PhenoKit")
    rules = Rules() if visit.closed == "setup" else _rules_in_force()
    if visit.closed == "setup":
        st.error("PhenoKit is not set up safely and stays closed. For the administrator:")
        st.text(visit.why)
    elif visit.closed == "unlogged":
        st.error(
            "The audit log cannot be written, and nothing is shown without it. Tell your "
            "administrator."
        )
    elif visit.closed == "refused":
        st.error("You have no access to PhenoKit. Ask your administrator for it.")
        if visit.user:
            st.text(f"Signed in as {visit.user}.")
        if rules.mode == "oidc":
            st.button("Sign in as somebody else", on_click=st.logout)
    elif visit.closed == "unknown":
        st.text("Sign in to open recordings and cohorts.")
        st.button("Sign in", type="primary", on_click=st.login)
    else:
        _show_left(visit, rules)


def _show_left(visit: Visit, rules: Rules) -> None:
    minutes = rules.idle / 60
    st.info(
        f"You were signed out after {minutes:g} minutes without input. What was open here "
        "is gone; runs that were started go on."
        if visit.closed == "idle"
        else "You have signed out. Runs that were started go on."
    )
    if rules.mode == "oidc":
        if visit.closed == "left":
            st.logout()  # also at the provider, where it can
        st.button("Sign in again", type="primary", on_click=st.login)
    elif rules.sign_out:
        component("phenokit_leave", js=_LEAVE)(data=rules.sign_out, key="leave")
    else:
        st.text("The sign-in of the proxy may still be open: close the browser to end it.")
        st.text(f"The proxy says that you are {visit.user}.")
        st.button("Go on", type="primary", on_click=_go_on)


def _go_on() -> None:
    user = signed_in_user()
    st.session_state.clear()
    _LAST_USE.pop(_visit_key(_rules_in_force(), user), None)


_LEAVE = """
export default function leave({ data }) {
  window.location.assign(data);
}
"""
