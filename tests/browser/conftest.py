"""A real server in its own process, and Debian's Chromium."""

import os
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from phenokit.networks.checkpoint import bundle_folders
from phenokit.simulation.demo import write_demo_recordings

ROOT = Path(__file__).parents[2]


@contextmanager
def running_app(demo: Path, log: Path, *, port: int = 0, **variables: str) -> Iterator[str]:
    """Address of an app that lives as long as the context."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", port))
        port = free.getsockname()[1]
    environment = {**os.environ, "PHENOKIT_DEMO": str(demo), **variables}
    command = [
        sys.executable,
        "-m",
        "streamlit",
        "run",
        "app.py",
        "--server.port",
        str(port),
    ]
    with log.open("wb") as output:
        server = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            address = f"http://127.0.0.1:{port}"
            _wait_for(f"{address}/_stcore/health", server)
            yield address
        finally:
            server.terminate()
            server.wait(20)


def _wait_for(address: str, server: subprocess.Popen) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end and server.poll() is None:
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError("the app did not start")


@pytest.fixture(scope="session")
def demo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    write_demo_recordings(folder, seed=7)
    return folder


@pytest.fixture(scope="session")
def start_app():
    """For a test that needs a server of its own."""
    return running_app


@contextmanager
def proxy_to(address: str, headers: Mapping[str, str]) -> Iterator[str]:
    """Address of a reverse proxy that adds headers to every request, and nothing else."""
    app = ("127.0.0.1", int(address.rpartition(":")[2]))
    added = "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    client, _ = server.accept()
                except OSError:  # closed: the test is over
                    return
                threading.Thread(target=pass_on, args=(client,), daemon=True).start()

        def pass_on(client: socket.socket) -> None:
            with suppress(OSError), client, socket.create_connection(app) as upstream:
                head = b""
                while b"\r\n\r\n" not in head:
                    if not (more := client.recv(65536)):
                        return
                    head += more
                head, _, body = head.partition(b"\r\n")
                if b"websocket" not in body.partition(b"\r\n\r\n")[0].lower():
                    # One request a connection, so that every request gets the headers.
                    body = re.sub(
                        rb"(?i)connection:[^\r]*", b"Connection: close", body, count=1
                    )
                upstream.sendall(head + b"\r\n" + added + body)
                back = threading.Thread(target=copy, args=(upstream, client), daemon=True)
                back.start()
                copy(client, upstream)
                back.join()

        def copy(source: socket.socket, target: socket.socket) -> None:
            with suppress(OSError):
                while data := source.recv(65536):
                    target.sendall(data)
                target.shutdown(socket.SHUT_WR)

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture(scope="session")
def start_proxy():
    """`start_proxy(address, headers)`: see `proxy_to`."""
    return proxy_to


@pytest.fixture(scope="session")
def address(browser, demo_folder: Path, tmp_path_factory: pytest.TempPathFactory):
    if "ecg-demo" not in {folder.name for folder in bundle_folders()}:
        pytest.skip("the model ecg-demo is not installed")
    with running_app(demo_folder, tmp_path_factory.mktemp("log") / "log") as address:
        yield address


@pytest.fixture
def page(browser, address: str):
    """A page of a new visitor; every request of it must stay on the server."""
    context = browser.new_context(viewport={"width": 1400, "height": 1000})
    page = context.new_page()
    foreign: list[str] = []
    own = (address, address.replace("http", "ws", 1), "data:", "blob:")

    def check(url: str) -> None:
        if not url.startswith(own):
            foreign.append(url)

    page.on("request", lambda request: check(request.url))
    page.on("websocket", lambda socket: check(socket.url))
    page.set_default_timeout(60_000)
    yield page
    context.close()
    assert foreign == []
