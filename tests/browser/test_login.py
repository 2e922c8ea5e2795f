"""The app's own sign-in, at an identity provider that the test plays."""

import http.server
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
from joserfc import jwt
from joserfc.jwk import RSAKey

from phenokit.audit import AuditLog

pytestmark = [pytest.mark.browser, pytest.mark.slow]

CLIENT, COOKIE = "phenokit", "0123456789abcdef" * 3


class Provider(http.server.ThreadingHTTPServer):
    """Says of everybody who asks that it is `person`, after a click that is not needed."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.key = RSAKey.generate_key(2048, {"kid": "1", "use": "sig"})
        self.address = f"http://127.0.0.1:{self.server_address[1]}"
        self.person: dict = {}
        self.nonces: dict[str, str] = {}
        self.n_asked = 0
        self.age = 0.0
        """Seconds since the person signed in at the provider."""


class Answers(http.server.BaseHTTPRequestHandler):
    server: Provider  # pyright: ignore[reportIncompatibleVariableOverride]

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""

    def answer(self, content: dict) -> None:
        data = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        url, here = urlsplit(self.path), self.server.address
        if url.path == "/.well-known/openid-configuration":
            self.answer(
                {
                    "issuer": here, "authorization_endpoint": f"{here}/authorize",
                    "token_endpoint": f"{here}/token", "jwks_uri": f"{here}/keys",
                    "id_token_signing_alg_values_supported": ["RS256"],
                    "response_types_supported": ["code"],
                    "subject_types_supported": ["public"],
                }
            )  # fmt: skip
        elif url.path == "/keys":
            self.answer({"keys": [self.server.key.as_dict(private=False)]})
        elif url.path == "/authorize":
            asked = {name: values[0] for name, values in parse_qs(url.query).items()}
            self.server.n_asked += 1
            code = f"code{self.server.n_asked}"
            self.server.nonces[code] = asked.get("nonce", "")
            back = urlencode({"code": code, "state": asked["state"]})
            self.send_response(302)
            self.send_header("Location", f"{asked['redirect_uri']}?{back}")
            self.end_headers()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        code = parse_qs(body)["code"][0]
        now = int(time.time() - self.server.age)
        claims = {
            "iss": self.server.address, "aud": CLIENT, "iat": now, "exp": now + 36_000,
            "nonce": self.server.nonces[code], **self.server.person,
        }  # fmt: skip
        token = jwt.encode({"alg": "RS256", "kid": "1"}, claims, self.server.key)
        self.answer({"access_token": "a", "token_type": "Bearer", "id_token": token})


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider() as provider:
        threading.Thread(target=provider.serve_forever, daemon=True).start()
        yield provider
        provider.shutdown()


@pytest.fixture
def site(start_app, demo_folder: Path, provider: Provider, tmp_path: Path):
    """An app that asks the provider, for Ann and the ward."""
    pytest.importorskip("authlib")
    port = _free_port()
    (tmp_path / "secrets.toml").write_text(
        "[auth]\n"
        f'redirect_uri = "http://127.0.0.1:{port}/oauth2callback"\n'
        f'cookie_secret = "{COOKIE}"\n'
        f'client_id = "{CLIENT}"\n'
        'client_secret = "of the client"\n'
        f'server_metadata_url = "{provider.address}/.well-known/openid-configuration"\n'
    )
    variables = {
        "PHENOKIT_SIGNIN": "oidc", "PHENOKIT_USERS": "ann@example.org,group:ward",
        "PHENOKIT_IDLE": "0.5", "PHENOKIT_AUDIT": str(tmp_path / "audit"),
        "STREAMLIT_SECRETS_FILES": str(tmp_path / "secrets.toml"),
    }  # fmt: skip
    with start_app(demo_folder, tmp_path / "log", port=port, **variables) as address:
        yield address


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def sign_in(browser, address: str, button: str = "Sign in"):
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    page = context.new_page()
    page.set_default_timeout(60_000)
    page.goto(address)
    page.get_by_role("button", name=button, exact=True).click()
    return page


ANN = {"sub": "1", "email": "ann@example.org", "email_verified": True}


def test_sign_in_at_the_provider_until_the_visit_is_over(
    browser, site: str, provider: Provider, tmp_path: Path
):
    provider.person = ANN
    page = sign_in(browser, site)
    page.get_by_text("Signed in as ann@example.org").wait_for()
    page.get_by_text("signed out after").wait_for()
    page.reload()  # the cookie is still there, and lives for 30 days
    page.get_by_text("signed out after").wait_for()
    page.get_by_role("button", name="Sign in again").click()
    page.get_by_text("Signed in as ann@example.org").wait_for()
    page.get_by_role("button", name="Sign out").click()
    page.get_by_role("button", name="Sign in", exact=True).wait_for()
    page.context.close()
    assert provider.n_asked == 2
    entries = AuditLog(tmp_path / "audit").entries()
    told = [(e.user, e.action, e.detail) for e in entries if e.action != "configuration"]
    ann = "ann@example.org"
    assert told == [
        (ann, "sign-in", "oidc"), (ann, "sign-out", "idle"),
        (ann, "sign-in", "oidc"), (ann, "sign-out", "asked"),
    ]  # fmt: skip
    assert "ann@example.org" not in (tmp_path / "log").read_text()


@pytest.mark.parametrize(
    ("person", "words"),
    [
        ({**ANN, "email_verified": False}, "no access"),
        ({"sub": "2", "email": "eve@example.org", "email_verified": True}, "no access"),
        ({"sub": "3", "groups": ["ward"]}, "Signed in as 3"),
    ],
)
def test_the_list_decides_by_verified_addresses_and_by_groups(
    browser, site: str, provider: Provider, person: dict, words: str
):
    provider.person = person
    page = sign_in(browser, site)
    page.get_by_text(words).wait_for()
    page.context.close()


def test_a_sign_in_that_is_older_than_the_idle_time_is_not_believed(
    browser, site: str, provider: Provider
):
    """As of a cookie that somebody kept, at a server that was started since."""
    provider.person, provider.age = ANN, 120.0
    page = sign_in(browser, site)
    page.get_by_text("signed out after").wait_for()
    page.context.close()
