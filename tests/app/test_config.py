"""The values in force, not those in the file: environment and flags override it."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

WANTED = {
    "browser.gatherUsageStats": False,
    "client.showErrorDetails": "none",
    "client.showErrorLinks": False,
    "client.toolbarMode": "minimal",
    "runner.magicEnabled": False,
    "server.address": "127.0.0.1",
    "server.allowedHosts": ["localhost", "127.0.0.1"],
    "server.enableCORS": True,
    "server.enableXsrfProtection": True,
    "server.xsrfCookieSameSite": "strict",
    "server.maxUploadSize": 20,
    "server.maxMessageSize": 50,
    "server.fileWatcherType": "none",
    "server.enableStaticServing": False,
    "server.enableAgentApi": False,
    "server.disconnectedSessionTTL": 60,
    "server.headless": True,
}

SCRIPT = """
import ast, sys
from streamlit import config
print(repr({name: config.get_option(name) for name in ast.literal_eval(sys.argv[1])}))
"""


@pytest.fixture(scope="module")
def effective() -> dict:
    import ast
    import os

    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("STREAMLIT_")
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, repr(list(WANTED))],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return ast.literal_eval(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("option", WANTED)
def test_the_effective_option_is_the_hardened_one(effective: dict, option: str):
    assert effective[option] == WANTED[option]


def test_no_page_builds_html_or_takes_a_drawing_from_elsewhere():
    for page in (ROOT / "app.py", *(ROOT / "pages").iterdir()):
        if page.suffix in {".py", ".js", ".css"}:
            text = page.read_text()
            for banned in (
                "unsafe_allow_html",
                "st.html(",
                "innerHTML",
                "https://",
                "eval(",
            ):
                assert banned not in text, f"{banned} in {page.name}"
