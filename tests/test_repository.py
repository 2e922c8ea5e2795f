"""What may lie in the repository, and what may be depended on."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
LOCK = [
    line
    for line in (ROOT / "requirements.lock").read_text("utf-8").splitlines()
    if line and not line.startswith("#")
]
MAX_BYTES = 20 * 10**6
FLOORS_ONLY = {"starlette"}
"""Declared for a security floor; another package brings them."""

TOOLS = {"import-linter", "pre-commit", "pyright", "ruff", "beartype"}
"""Development packages that are run rather than imported."""


def tracked() -> list[Path]:
    done = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False
    )
    if done.returncode != 0:
        pytest.skip("not a git checkout")
    files = [ROOT / name for name in done.stdout.decode().split("\0") if name]
    return [path for path in files if path.is_file()]


def distribution(name: str) -> str:
    return re.split(r"[\[<>=!~; ]", name)[0].lower().replace("_", "-")


def imported(*places: str) -> set[str]:
    """Distributions of the third-party modules that the code of some places imports."""
    found: set[str] = set()
    for place in places:
        for path in sorted(ROOT.glob(place)):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.Import):
                    found |= {alias.name.split(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module:
                    found.add(node.module.split(".")[0])
                elif isinstance(node, ast.Call) and "import_module" in ast.unparse(
                    node.func
                ):
                    found |= set(re.findall(r"^import_module\(f?'(\w+)", ast.unparse(node)))
    ours = {"phenokit", "pages", "benchmarks"}
    found -= set(sys.stdlib_module_names) | ours | {"__future__"}
    found -= {"scan_data", "forward"}  # stand beside the benchmarks that import them
    homes = packages_distributions()
    return {distribution(home) for name in found for home in set(homes.get(name, [name]))}


RUNTIME = imported("phenokit/**/*.py", "pages/*.py", "app.py", "scripts/*.py")
OWN_ENVIRONMENT = {"braindecode"}  # benchmarks/mvpa.py makes it
DEVELOPMENT = imported("tests/**/*.py", "benchmarks/*.py") - OWN_ENVIRONMENT
DECLARED = {distribution(one) for one in PROJECT["dependencies"]}
EXTRAS = PROJECT["optional-dependencies"]
DECLARED_DEV = {distribution(one) for one in EXTRAS["dev"]}
OPTIONAL = {distribution(one) for name in EXTRAS if name != "dev" for one in EXTRAS[name]}
"""Imported where they are needed, with a message that names the extra."""


def test_exactly_the_packages_that_are_imported_are_declared():
    assert RUNTIME == (DECLARED - FLOORS_ONLY) | OPTIONAL
    assert OPTIONAL <= DECLARED_DEV  # the tests need them


def test_exactly_the_packages_that_tests_and_benchmarks_import_are_in_the_dev_extra():
    assert DEVELOPMENT - DECLARED - OPTIONAL == DECLARED_DEV - TOOLS - OPTIONAL


def test_the_lock_pins_every_package_by_version_alone():
    pins = {}
    for line in LOCK:
        match = re.fullmatch(r"([\w.-]+)==([\w.]+)", line)
        assert match is not None, line
        pins[distribution(match[1])] = match[2]
    assert len(pins) == len(LOCK)
    assert set(pins) >= DECLARED | DECLARED_DEV
    assert pins["torch"] == "2.13.0"


def test_no_tracked_file_is_too_large():
    assert [path.name for path in tracked() if path.stat().st_size > MAX_BYTES] == []


def test_no_tracked_file_is_a_pickle():
    pickles = [
        path.name
        for path in tracked()
        if "bad_inputs" not in path.parts
        and (
            path.suffix in (".pkl", ".pickle", ".pt", ".pth", ".joblib")
            or re.match(rb"\x80[\x02-\x05]", path.read_bytes()[:2])
        )
    ]
    assert pickles == []


def test_no_tracked_text_names_a_folder_of_one_machine():
    machine = re.compile(rb"(?<![\w.~])/(?:wo" rb"rk|home|root|Users)/\w")
    for path in tracked():
        data = path.read_bytes()
        if b"\0" not in data and "bad_inputs" not in path.parts:
            assert machine.search(data) is None, path.relative_to(ROOT)


def test_one_module_alone_opens_connections():
    network = re.compile(
        r"^\s*(?:import|from) (?:urllib\.request|http\.client|socket|ssl|ftplib|smtplib|"
        r"requests|httpx|aiohttp|urllib3|fsspec|huggingface_hub)\b",
        re.MULTILINE,
    )
    users = [
        path.relative_to(ROOT).as_posix()
        for place in ("phenokit/**/*.py", "pages/*.py", "app.py")
        for path in ROOT.glob(place)
        if network.search(path.read_text("utf-8"))
    ]
    assert users == ["phenokit/readers/physionet.py"]
