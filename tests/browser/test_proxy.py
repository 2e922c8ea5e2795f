"""The delivered nginx configuration: what it lets through, and the app behind it.

The sign-in is a stand-in for oauth2-proxy that knows one session cookie; everything else is
real. What reaches the app is seen by an app that echoes its request.
"""

import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from email.message import Message
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType
from urllib.parse import urlsplit

import pytest

ROOT = Path(__file__).parents[2]
TEMPLATE = ROOT / "deploy" / "nginx" / "phenokit.conf.template"
NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
HOST = "phenokit.localhost"  # of this machine by definition, so that no name is looked up
SESSION = "_oauth2_proxy=of-alice"
USER = "alice@hospital.example"
SECRET = "a secret of the proxy and the app"
FORGED = {
    "X-Forwarded-User": "mallory",
    "x-forwarded-groups": "administrators",
    "X-Forwarded-Email": "mallory@example.org",
    "X-Auth-Request-User": "mallory",
    "Remote-User": "mallory",
    "X-PhenoKit-Proxy": "guessed",
    "Authorization": "Bearer forged",
    "X_Forwarded_User": "mallory",
}
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
PAGES = re.findall(r'Page\("pages/(\w+)\.py"', (ROOT / "app.py").read_text("utf-8"))

pytestmark = pytest.mark.skipif(
    NGINX is None or shutil.which("openssl") is None,
    reason="nginx or openssl is not installed",
)


class Login(BaseHTTPRequestHandler):
    """As oauth2-proxy answers: 202 with the user for a session, else 401."""

    def do_GET(self):
        is_known = SESSION in self.headers.get("Cookie", "")
        if self.path != "/oauth2/auth":
            self.send_response(200 if self.path.startswith("/oauth2/start") else 404)
        elif is_known:
            self.send_response(202)
            self.send_header("X-Auth-Request-User", "0123-4567")
            self.send_header("X-Auth-Request-Email", USER)
            self.send_header("X-Auth-Request-Groups", "cardiology")
        else:
            self.send_response(401)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format, *args):
        """Nothing on the terminal."""


class Echo(BaseHTTPRequestHandler):
    """An app that answers with the headers that it was sent."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        length = int(self.headers.get("Content-Length", 0))
        self.rfile.read(length)
        body = json.dumps(sorted(self.headers.items())).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "public")
        self.end_headers()
        self.wfile.write(body)

    def do_PUT(self):
        self.do_GET()

    def log_message(self, format, *args):
        """Nothing on the terminal."""


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[int]:
    """Port of a server that lives as long as the context."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def proxy(folder: Path, app: int) -> Iterator[int]:
    """Port of the delivered proxy in front of an app; its log is `folder`/access.log."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    certificate = ["-keyout", folder / "key.pem", "-out", folder / "certificate.pem"]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1",
         "-subj", f"/CN={HOST}", "-addext", f"subjectAltName=DNS:{HOST}", *certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    secret = folder / "proxy_secret.conf"
    secret.write_text(f'proxy_set_header X-PhenoKit-Proxy "{SECRET}";\n')
    with serving(Login) as login:
        text = TEMPLATE.read_text("utf-8")
        for name, value in {
            "PUBLIC_HOST": HOST,
            "LISTEN": f"127.0.0.1:{port}",
            "APP": f"127.0.0.1:{app}",
            "LOGIN": f"127.0.0.1:{login}",
            "TLS": str(folder),
            "PROXY_SECRET": str(secret),
        }.items():
            text = text.replace(f"${{{name}}}", value)  # as the image's envsubst does
        text = text.replace("/dev/stdout", str(folder / "access.log"))
        text = text.replace("/dev/stderr", str(folder / "error.log"))
        paths = "\n".join(
            f"{kind}_temp_path {folder}/{kind};"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        main = folder / "nginx.conf"
        main.write_text(
            f"daemon off; pid {folder}/pid; error_log {folder}/error.log;\n"
            f"{'user root;' if os.geteuid() == 0 else ''}\n"
            f"events {{}}\nhttp {{\n{paths}\n{text}\n}}\n"
        )
        assert NGINX is not None
        server = subprocess.Popen([NGINX, "-e", folder / "error.log", "-c", main])
        try:
            wait_for(port, server)
            yield port
        finally:
            server.terminate()
            server.wait(20)


def wait_for(port: int, server: subprocess.Popen) -> None:
    end = time.monotonic() + 20
    while time.monotonic() < end and server.poll() is None:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=5):
                return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError("the proxy did not start")


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Message
    body: bytes


@contextmanager
def connected(port: int) -> Iterator[HTTPConnection]:
    """A connection by TLS; the certificate is our own and nobody vouches for it."""
    connection = HTTPConnection(HOST, port)
    with socket.create_connection(("127.0.0.1", port), timeout=60) as bare:
        trusting = ssl._create_unverified_context()
        with trusting.wrap_socket(bare, server_hostname=HOST) as connection.sock:
            yield connection


def ask(
    port: int,
    path: str,
    *,
    method: str = "GET",
    host: str | None = None,
    session: str = SESSION,
    body: bytes | None = None,
    headers: Mapping[str, str] = MappingProxyType({}),
) -> Answer:
    sent = {"Host": host or f"{HOST}:{port}", "Connection": "close", **headers}
    if session:
        sent["Cookie"] = session + "; _streamlit_xsrf=token"
    with connected(port) as connection:
        connection.request(method, path, body=body, headers=sent)
        with connection.getresponse() as answer:
            return Answer(answer.status, answer.headers, answer.read())


def status(port: int, path: str, **options) -> int:
    return ask(port, path, **options).status


@pytest.fixture(scope="module")
def echo(tmp_path_factory) -> Iterator[int]:
    with serving(Echo) as app, proxy(tmp_path_factory.mktemp("proxy"), app) as port:
        yield port


def test_what_a_client_says_about_itself_never_reaches_the_app(echo):
    answer = ask(echo, "/", headers=FORGED)
    seen = [(name.lower(), value) for name, value in json.loads(answer.body)]
    assert "mallory" not in str(seen)
    assert "forged" not in str(seen)
    assert [value for name, value in seen if name == "x-forwarded-user"] == [USER]
    assert [value for name, value in seen if name == "x-forwarded-groups"] == ["cardiology"]
    assert [value for name, value in seen if name == "x-phenokit-proxy"] == [SECRET]
    assert dict(seen)["cookie"] == "_streamlit_xsrf=token"  # not that of the sign-in
    assert dict(seen)["host"] == f"{HOST}:{echo}"


@pytest.mark.parametrize("page", PAGES)
def test_every_page_of_the_app_has_a_route_and_asks_for_a_sign_in(echo, page):
    path = "/" if page == "ecg" else f"/{page}"
    assert status(echo, path) == 200
    answer = ask(echo, path, session="")
    assert answer.status == 302
    assert answer.headers["Location"].endswith(f"/oauth2/start?rd={path}")


@pytest.mark.parametrize(
    "path",
    ["/media/0123.csv", "/_stcore/stream", "/_stcore/health", "/_stcore/host-config",
     "/_stcore/upload_file/a/b", "/_stcore/bidi-components/x.js", "/static/js/index.js"],
)  # fmt: skip
def test_nothing_is_served_without_a_sign_in(echo, path):
    assert status(echo, path, session="") == 401
    assert status(echo, path) == 200


@pytest.mark.parametrize(
    "path",
    ["/_stcore/metrics", "/_stcore/script-health-check", "/_stcore/agent/openapi.json",
     "/_stcore/agent/mcp", "/app/static/x", "/component/x/index.html", "/oauth2/auth",
     "/media/../_stcore/metrics", "/media/%2e%2e/_stcore/metrics", "/_stcore/message",
     "//_stcore/metrics", "/cohort/_stcore/metrics"],
)  # fmt: skip
def test_routes_that_are_not_on_the_list_do_not_exist(echo, path):
    assert status(echo, path) == 404


def test_another_host_origin_or_method_is_refused(echo):
    assert status(echo, "/", host="other.example") == 421
    own = f"https://{HOST}:{echo}"
    assert status(echo, "/_stcore/stream", headers={"Origin": own}) == 200
    for origin in ("https://other.example", "null", own + ".example", f"http://{HOST}"):
        assert status(echo, "/_stcore/stream", headers={"Origin": origin}) == 403
    assert status(echo, "/", method="TRACE") in {403, 405}


def test_an_unknown_name_gets_no_certificate(echo):
    trusting = ssl._create_unverified_context()
    with (
        socket.create_connection(("127.0.0.1", echo), timeout=5) as bare,
        pytest.raises(ssl.SSLError),
    ):
        trusting.wrap_socket(bare, server_hostname="other.example")


@pytest.mark.parametrize(
    ("path", "session", "expected"),
    [("/", SESSION, 200), ("/", "", 302), ("/media/x", "", 401), ("/none", SESSION, 404)],
)  # fmt: skip
def test_every_answer_has_the_headers(echo, path, session, expected):
    answer = ask(echo, path, session=session)
    assert answer.status == expected
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe-eval" not in policy
    assert {name: answer.headers[name] for name in HEADERS} == HEADERS
    assert "nginx/" not in str(answer.headers)


def test_only_scripts_and_fonts_may_be_kept_by_the_browser(echo):
    kept = ask(echo, "/static/js/index.js")
    assert kept.headers["Cache-Control"] == "private, max-age=604800, immutable"
    refused = ask(echo, "/static/js/index.js", session="")
    assert refused.headers["Cache-Control"] == "no-store"


def test_a_body_beyond_the_limit_is_refused_unread(echo):
    headers = {"Content-Length": str(600 * 10**6)}
    assert status(echo, "/_stcore/upload_file/a/b", method="PUT", headers=headers) == 413


def test_one_client_can_take_neither_all_connections_nor_the_sign_in(tmp_path):
    with serving(Echo) as app, proxy(tmp_path, app) as port, ExitStack() as uploads:
        for _ in range(100):  # each announces a byte and never sends it
            upload = uploads.enter_context(connected(port))
            upload.putrequest("PUT", "/_stcore/upload_file/a/b", skip_host=True)
            upload.putheader("Host", f"{HOST}:{port}")
            upload.putheader("Cookie", SESSION)
            upload.putheader("Content-Length", "1")
            upload.endheaders()
        assert status(port, "/") == 429
        uploads.close()
        answers = [status(port, "/oauth2/start", session="") for _ in range(40)]
        assert answers[0] == 200
        assert answers[-1] == 429


def test_the_log_holds_no_query_and_no_name_of_a_file(tmp_path):
    with serving(Echo) as app, proxy(tmp_path, app) as port:
        status(port, "/cohort?record=canary1")
        status(port, "/media/canary2.csv")
        status(port, "/_stcore/upload_file/canary3/canary4", method="PUT", body=b"x")
    log = (tmp_path / "access.log").read_text()
    assert log.count(USER) == 3
    assert "canary" not in log
    assert "canary" not in (tmp_path / "error.log").read_text()


# --- the app behind it ------------------------------------------------------------------


@dataclass(frozen=True)
class Behind:
    """An app behind the proxy: its own address, and the port of the proxy."""

    app: str
    port: int
    demo: Path

    @property
    def address(self) -> str:
        return f"https://{HOST}:{self.port}"


@pytest.fixture(scope="module")
def behind(browser, start_app, tmp_path_factory) -> Iterator[Behind]:
    from phenokit.batch.demo import write_demo

    folder = tmp_path_factory.mktemp("behind")
    write_demo(folder / "demo", n_patients=120, n_ieegs=1, seed=1, workers=1)
    (folder / "secret").write_text(SECRET)
    variables = {
        "PHENOKIT_SIGNIN": "proxy",
        "PHENOKIT_PROXYSECRET": str(folder / "secret"),
        "XDG_STATE_HOME": str(folder / "state"),
        "XDG_CACHE_HOME": str(folder / "cache"),
        "STREAMLIT_SERVER_ALLOWED_HOSTS": f"{HOST} 127.0.0.1",
    }
    with (
        start_app(folder / "demo", folder / "log", **variables) as app,
        proxy(folder, int(app.rpartition(":")[2])) as port,
    ):
        yield Behind(app, port, folder / "demo")


PROBE = re.compile(r"/\w+/_stcore/(health|host-config)$")
"""Below a page's address Streamlit looks for an app of its own, and expects none."""


@dataclass
class Seen:
    """What a page did besides being drawn."""

    violations: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


@pytest.fixture
def alice(browser, behind):
    """A page of somebody who signed in, and what it did."""
    context = browser.new_context(
        viewport={"width": 1400, "height": 1000}, ignore_https_errors=True
    )
    name, _, value = SESSION.partition("=")
    context.add_cookies([{"name": name, "value": value, "url": behind.address}])
    page, seen = context.new_page(), Seen()
    own = (behind.address, behind.address.replace("https", "wss", 1), "data:", "blob:")
    page.on(
        "console",
        lambda message: (
            seen.violations.append(message.text)
            if "Content Security Policy" in message.text
            else None
        ),
    )
    page.on(
        "request",
        lambda request: (
            None if request.url.startswith(own) else seen.foreign.append(request.url)
        ),
    )
    page.on(
        "response",
        lambda response: (
            seen.failed.append(f"{response.status} {response.url}")
            if response.status >= 400 and not PROBE.search(response.url)
            else None
        ),
    )
    page.set_default_timeout(60_000)
    yield page, seen
    context.close()


def only_the_known_violation(seen: Seen) -> bool:
    """Streamlit's start page holds one inline script, which nothing depends on."""
    return all("inline script" in one for one in seen.violations)


@pytest.mark.slow
@pytest.mark.browser
def test_every_page_and_a_download_work_for_who_is_signed_in(alice, behind):
    page, seen = alice
    page.goto(behind.address)
    page.get_by_role("combobox", name="Recording").click()
    page.get_by_role("option", name="demo02").click()
    page.locator("ol.prototypes svg").first.wait_for()  # components, drawn in the browser
    assert page.get_by_text(USER).first.is_visible()
    titles = {"ieeg": "iEEG", "cohort": "Cohort", "associations": "Associations",
              "risk": "Risk", "jobs": "Jobs", "models": "Model"}  # fmt: skip
    assert {"ecg", *titles} == set(PAGES)
    for path, title in titles.items():
        page.goto(f"{behind.address}/{path}")
        page.get_by_role("heading", name=title, exact=True).first.wait_for()
    page.goto(f"{behind.address}/associations")
    page.get_by_role("button", name="Run", exact=True).click()
    page.locator(".js-plotly-plot .points path").first.wait_for(timeout=120_000)

    with page.expect_download() as download:
        page.get_by_role("button", name="CSV", exact=True).click()
    path = urlsplit(download.value.url).path
    assert path.startswith("/media/")
    assert ask(behind.port, path).headers["Cache-Control"] == "no-store"
    assert status(behind.port, path, session="") == 401
    assert only_the_known_violation(seen), seen.violations
    assert seen.foreign == []
    assert seen.failed == []


@pytest.mark.slow
@pytest.mark.browser
def test_an_upload_passes(alice, behind):
    page, seen = alice
    page.goto(behind.address)
    page.get_by_text("Upload", exact=True).first.click()
    page.locator("input[type=file]").first.set_input_files(
        [behind.demo / "demo02.hea", behind.demo / "demo02.dat"]
    )
    page.locator("ol.prototypes svg").first.wait_for()
    assert seen.failed == []


@pytest.mark.slow
@pytest.mark.browser
def test_the_app_stays_closed_to_who_goes_around_the_proxy(browser, behind):
    context = browser.new_context(extra_http_headers={"X-Forwarded-User": "mallory"})
    page = context.new_page()
    page.goto(behind.app)
    page.get_by_text("You have no access to PhenoKit").wait_for(timeout=60_000)
    assert page.get_by_role("combobox", name="Recording").count() == 0
    context.close()
