"""A real server in its own process, and Debian's Chromium."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from phenokit.networks.checkpoint import bundle_folders
from phenokit.simulation.demo import write_demo_recordings

ROOT = Path(__file__).parents[2]


@contextmanager
def running_app(demo: Path, log: Path, **variables: str) -> Iterator[str]:
    """Address of an app that lives as long as the context."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
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
