"""The gate as a browser and a bare socket meet it."""

import base64
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from phenokit.audit import AuditLog

pytestmark = [pytest.mark.browser, pytest.mark.slow]

SECRET = "a secret of the proxy"


@pytest.fixture
def secret(tmp_path: Path) -> str:
    (tmp_path / "secret").write_text(SECRET)
    return str(tmp_path / "secret")


@pytest.fixture(scope="module")
def plain(start_app, demo_folder: Path, tmp_path_factory) -> Iterator[str]:
    """An app as it is delivered: nobody signs in, on this machine only."""
    with start_app(demo_folder, tmp_path_factory.mktemp("log") / "log") as address:
        yield address


def handshake(address: str, host: str, origin: str | None) -> int:
    """Status that a WebSocket of these words is answered with; 101 opens it."""
    key = base64.b64encode(os.urandom(16)).decode()
    lines = [
        "GET /_stcore/stream HTTP/1.1", f"Host: {host}", "Upgrade: websocket",
        "Connection: Upgrade", f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13",
        *([f"Origin: {origin}"] if origin else []),
    ]  # fmt: skip
    port = int(address.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        client.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        return int(client.recv(4096).split(b" ", 2)[1])


@pytest.mark.parametrize(
    ("host", "origin", "is_open"),
    [
        ("own", "own", True),
        ("own", "http://evil.example", False),
        ("evil.example", "http://evil.example", False),  # a name bent to this machine
        ("evil.example", "own", False),
        ("evil.example", None, False),
    ],
)
def test_a_websocket_opens_for_the_configured_host_and_its_own_pages_only(
    plain: str, host: str, origin: str | None, is_open: bool
):
    own = plain.removeprefix("http://")
    host = own if host == "own" else host
    origin = plain if origin == "own" else origin
    assert (handshake(plain, host, origin) == 101) == is_open


def text(page, address: str, words: str) -> str:
    page.goto(address)
    page.get_by_text(words).first.wait_for()
    page.wait_for_timeout(500)
    return page.inner_text("body")


@pytest.fixture
def visitor(browser):
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    page = context.new_page()
    page.set_default_timeout(60_000)
    yield page
    context.close()


def test_an_app_that_others_can_reach_stays_closed_until_people_sign_in(
    start_app, demo_folder: Path, visitor, tmp_path: Path
):
    variables = {"STREAMLIT_SERVER_ADDRESS": "0.0.0.0"}
    with start_app(demo_folder, tmp_path / "log", **variables) as address:
        for path in ("", "/cohort", "/models"):
            shown = text(visitor, f"{address}{path}", "stays closed")
            assert "nobody has to sign in" in shown
            assert "Research use" not in shown
            assert "Associations" not in shown
    assert "stays closed" in (tmp_path / "log").read_text()


def test_a_visit_behind_the_proxy_from_sign_in_to_sign_out(
    start_app, start_proxy, demo_folder: Path, visitor, secret: str, tmp_path: Path
):
    variables = {
        "PHENOKIT_SIGNIN": "proxy", "PHENOKIT_PROXYSECRET": secret,
        "PHENOKIT_IDLE": "0.5", "PHENOKIT_AUDIT": str(tmp_path / "audit"),
    }  # fmt: skip
    named = {"X-PhenoKit-Proxy": SECRET, "X-Forwarded-User": "ann@example.org"}
    forged = {"X-PhenoKit-Proxy": "a guess of eve", "X-Forwarded-User": "ann@example.org"}
    with (
        start_app(demo_folder, tmp_path / "log", **variables) as address,
        start_proxy(address, named) as proxy,
        start_proxy(address, forged) as eve,
    ):
        assert "Signed in" not in text(visitor, address, "no access")
        assert "Signed in" not in text(visitor, eve, "no access")
        text(visitor, proxy, "Signed in as ann@example.org")
        visitor.get_by_role("combobox", name="Recording").click()
        visitor.get_by_role("option").first.click()
        visitor.locator(".sheet > svg").first.wait_for()
        assert "record=" in visitor.url
        visitor.get_by_text("You will be signed out in").wait_for()
        visitor.get_by_role("button", name="Stay signed in").click()
        visitor.get_by_text("You will be signed out in").wait_for(state="detached")
        visitor.get_by_text("signed out after").wait_for()
        visitor.locator(".sheet > svg").first.wait_for(state="detached")
        assert "record=" not in visitor.url
        visitor.get_by_role("button", name="Go on").click()
        visitor.get_by_text("Choose a recording").first.wait_for()
        visitor.get_by_role("button", name="Sign out").click()
        visitor.get_by_text("You have signed out").wait_for()
    entries = AuditLog(tmp_path / "audit").entries()
    told = [
        (e.user, e.action, e.detail) for e in entries if e.action not in {"view", "score"}
    ]
    ann = "ann@example.org"
    assert told[1:] == [
        ("", "refused", "not through the proxy"),
        ("", "refused", "not through the proxy"),
        (ann, "sign-in", "proxy"), (ann, "sign-out", "idle"),
        (ann, "sign-in", "proxy"), (ann, "sign-out", "asked"),
    ]  # fmt: skip
