"""Every page of the app with the world shut off: what it asks for is its own server's."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
PAGES = re.findall(r'st\.Page\("pages/(\w+)\.py"', (ROOT / "app.py").read_text())
SHUT_OFF = """
import os, sys

NEAR = {None, "", "localhost", "127.0.0.1", "::1", "0.0.0.0", b"127.0.0.1"}

def watch(event, arguments):
    if event in {"socket.getaddrinfo", "socket.gethostbyname"}:
        host = arguments[0]
    elif event == "socket.connect" and isinstance(arguments[1], tuple):
        host = arguments[1][0]
    else:
        return
    if host not in NEAR:
        with open(os.environ["ASKED_FOR"], "a") as file:
            file.write(f"{event} {host}\\n")
        raise OSError("there is no network")

sys.addaudithook(watch)
"""
"""Of the server and every process that it starts: no other host can be reached."""


@pytest.fixture(scope="module")
def asked_for(tmp_path_factory) -> Path:
    """Hosts that a process of the app asked for."""
    return tmp_path_factory.mktemp("asked") / "hosts"


@pytest.fixture(scope="module")
def address(browser, start_app, asked_for: Path, tmp_path_factory) -> Iterator[str]:
    """An app with recordings, iEEGs and a cohort, which sees no other machine."""
    from phenokit.batch.demo import write_demo

    folder = tmp_path_factory.mktemp("app")
    write_demo(folder / "demo", n_patients=80, n_ieegs=1, seed=2, workers=1)
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text(SHUT_OFF)
    variables = {
        "PHENOKIT_JOBS": str(folder / "jobs"),
        "PHENOKIT_REVIEWS": str(folder / "reviews.sqlite"),
        "PHENOKIT_CACHE": str(folder / "cache"),
        "PYTHONPATH": str(folder / "site"),
        "ASKED_FOR": str(asked_for),
    }
    with start_app(folder / "demo", folder / "log", **variables) as address:
        yield address


@pytest.fixture(scope="module")
def lonely(browser):
    """A browser that can look up no name."""
    arguments = ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
    if os.geteuid() == 0:
        arguments.append("--no-sandbox")
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    lonely = browser.browser_type.launch(executable_path=path, args=arguments)
    yield lonely
    lonely.close()


def look_at(page, address: str, name: str) -> None:
    """Wait for a page with all that it draws, a recording opened where it takes one."""
    page.goto(f"{address}/{'' if name == 'ecg' else name}")
    page.locator("[data-testid=stMain] h1").first.wait_for()
    if name in {"ecg", "ieeg"}:
        page.get_by_role("combobox", name="Recording").click()
        page.get_by_role("option").first.click()
        page.locator("svg, canvas").first.wait_for()
    page.wait_for_timeout(500)
    page.locator("[data-testid=stStatusWidget]").wait_for(state="detached")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_works_without_a_network_and_asks_for_nothing(
    lonely, address: str, asked_for: Path, scheme
):
    context = lonely.new_context(
        viewport={"width": 1400, "height": 1000}, color_scheme=scheme
    )
    page = context.new_page()
    page.set_default_timeout(60_000)
    requests: list[str] = []
    failed: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.on("websocket", lambda socket: requests.append(socket.url))
    page.on("pageerror", lambda error: failed.append(str(error)))
    for name in PAGES:
        look_at(page, address, name)
        assert page.locator("[data-testid=stException]").count() == 0, name
        assert page.get_by_text("Something went wrong").count() == 0, name
        assert page.title() == "PhenoKit", name
    context.close()
    own = (f"{address}/", f"{address.replace('http', 'ws', 1)}/", "data:", "blob:")
    assert len(requests) > 10 * len(PAGES)
    assert [url for url in requests if not url.startswith(own)] == []
    assert failed == []
    assert not asked_for.exists(), asked_for.read_text()


def test_the_world_is_shut_off_in_these_tests(lonely, asked_for: Path, tmp_path: Path):
    """Else the tests above would show nothing."""
    from playwright.sync_api import Error

    page = lonely.new_page()
    with pytest.raises(Error, match="ERR_NAME_NOT_RESOLVED"):
        page.goto("http://phenokit.example.org/")
    page.close()
    (tmp_path / "sitecustomize.py").write_text(SHUT_OFF)
    told = tmp_path / "told"
    done = subprocess.run(
        [sys.executable, "-c", "import socket; socket.getaddrinfo('example.org', 80)"],
        env={**os.environ, "PYTHONPATH": str(tmp_path), "ASKED_FOR": str(told)},
        capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert told.read_text() == "socket.getaddrinfo example.org\n"
