"""The values in force, not those in the file: environment and flags override it."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pages._sign_in import REQUIRED, NotSetUp, require_safe
from phenokit.doctor import HARDENED

ROOT = Path(__file__).parents[2]

WANTED = {
    "browser.gatherUsageStats": False,
    "client.showErrorDetails": "none",
    "client.showErrorLinks": False,
    "client.disableDataExport": True,
    "client.toolbarMode": "minimal",
    "logger.enableRich": False,
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


def test_what_the_gate_asks_for_is_what_is_delivered():
    assert {name: HARDENED[name] for name in REQUIRED}.items() <= WANTED.items()


LOOSENED = """
import json, os, sys
from streamlit import config
from streamlit.web import bootstrap, cli
found = {}
for name, value in json.loads(sys.argv[1]).items():
    os.environ[name] = value  # which only the command line of Streamlit looks at
    bootstrap.load_config_options(cli.config_show.make_context("show", []).params)
    found[name] = {o: config.get_option(o) for o in json.loads(sys.argv[2])}
    del os.environ[name]
print(json.dumps(found))
"""
ATTEMPTS = {
    "STREAMLIT_BROWSER_GATHER_USAGE_STATS": "true",
    "STREAMLIT_CLIENT_SHOW_ERROR_DETAILS": "full",
    "STREAMLIT_CLIENT_SHOW_ERROR_LINKS": "true",
    "STREAMLIT_CLIENT_DISABLE_DATA_EXPORT": "false",
    "STREAMLIT_LOGGER_ENABLE_RICH": "true",
    "STREAMLIT_SERVER_ENABLE_CORS": "false",
    "STREAMLIT_SERVER_ENABLE_XSRF_PROTECTION": "false",
    "STREAMLIT_SERVER_ENABLE_STATIC_SERVING": "true",
    "STREAMLIT_SERVER_ENABLE_AGENT_API": "true",
    "STREAMLIT_SERVER_ADDRESS": "0.0.0.0",
    "STREAMLIT_SERVER_ALLOWED_HOSTS": "*",
}


@pytest.fixture(scope="module")
def loosened() -> dict:
    """The values in force under each attempt."""
    names = [*REQUIRED, "server.address", "server.allowedHosts"]
    done = subprocess.run(
        [sys.executable, "-c", LOOSENED, json.dumps(ATTEMPTS), json.dumps(names)],
        cwd=ROOT, capture_output=True, text=True, check=True,
        env={k: v for k, v in os.environ.items() if not k.startswith("STREAMLIT_")},
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_an_environment_that_loosens_a_setting_keeps_the_app_closed(loosened, attempt):
    with pytest.raises(NotSetUp):
        require_safe("none", loosened[attempt])


FOREIGN = """
import sys
asked = []
sys.addaudithook(lambda event, _: asked.append(event) if "socket." in event else None)
from streamlit import config, net_util
net_util.get_internal_ip = lambda: None  # opens a socket, sends nothing
from pages import _outside
_outside.ask_nobody()
from streamlit.web.server.server_util import is_url_from_allowed_origins
print(is_url_from_allowed_origins("http://elsewhere.example"), asked)
"""


def test_a_page_from_elsewhere_is_refused_without_asking_for_our_own_address():
    done = subprocess.run(
        [sys.executable, "-c", FOREIGN],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "False []"


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
