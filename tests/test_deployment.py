"""What the image, the compose file and the proxy's configuration promise, read from them.

Neither is run here: tests/browser/test_proxy.py runs the proxy, and docs/deployment.md
says how the steps of the image were run by hand.
"""

import fnmatch
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from phenokit.doctor import VARIABLES

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")
COMPOSE = (ROOT / "compose.yaml").read_text("utf-8")
SERVICES = yaml.safe_load(COMPOSE)["services"]
NETWORKS = yaml.safe_load(COMPOSE)["networks"]
TEMPLATE = (ROOT / "deploy/nginx/phenokit.conf.template").read_text("utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def pins(path: str) -> dict[str, str]:
    text = (ROOT / path).read_text("utf-8")
    found = re.findall(r"^([\w.-]+)==(\S+)", text, re.MULTILINE)
    return {name.lower().replace("_", "-"): version for name, version in found}


HASHED = pins("deploy/requirements.txt")
OF_TORCH = pins("deploy/requirements-torch.txt")
LOCK = pins("requirements.lock")


def test_the_image_installs_the_versions_that_the_tests_ran_with():
    image = HASHED | OF_TORCH
    beside = {name for name in OF_TORCH if name != "torch"} | {"setuptools"}
    assert {name: LOCK.get(name) for name in image if name not in beside} == {
        name: version for name, version in image.items() if name not in beside
    }
    extras = re.search(
        r"EXTRAS = \((.*?)\)", Path("scripts/image_requirements.py").read_text()
    )
    assert extras is not None
    wanted = list(PROJECT["dependencies"])
    for extra in re.findall(r'"(\w+)"', extras[1]):
        wanted += PROJECT["optional-dependencies"][extra]
    names = {re.split(r"[\[<>=!~; ]", one)[0].lower().replace("_", "-") for one in wanted}
    assert names <= set(image)


@pytest.mark.parametrize(
    "path", ["deploy/requirements.txt", "deploy/requirements-torch.txt"]
)
def test_every_package_of_the_image_has_a_hash_and_comes_from_no_address(path):
    text = (ROOT / path).read_text("utf-8")
    blocks = re.split(r"^(?=[\w.-]+==)", text, flags=re.MULTILINE)[1:]
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}", block) for block in blocks)
    assert "://" not in text


def test_torch_is_pinned_to_one_version_everywhere():
    script = (ROOT / "deploy/install.sh").read_text("utf-8")
    assert set(re.findall(r"torch==([\d.]+)", script)) == {LOCK["torch"]}
    assert OF_TORCH["torch"] == LOCK["torch"]
    assert "torch" not in HASHED


def test_the_image_runs_as_nobody_in_particular_and_brings_no_installer():
    last = DOCKERFILE.rpartition("\nFROM ")[2]
    assert "USER 10001:10001" in last
    assert "pip install" not in last
    assert "pip uninstall" in DOCKERFILE
    assert re.search(r"HEALTHCHECK .*--start-period=\d+s.*\\\n\s+CMD \[\"python\"", last)
    base = re.search(r"ARG PYTHON_IMAGE=python:(\S+)", DOCKERFILE)
    assert base is not None
    assert re.fullmatch(r"3\.11\.\d+-slim-\w+", base[1])
    version = re.search(r"ARG VERSION=(\S+)", DOCKERFILE)
    assert version is not None
    assert version[1] == PROJECT["version"]


def test_everything_that_is_copied_into_the_image_is_there_and_nothing_else_is_sent():
    copied = {
        word
        for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE)
        for word in line.split()[:-1]
        if "[" not in word  # only where it was made
    }
    assert [name for name in copied if not (ROOT / name).exists()] == []
    sent = [
        line[1:]
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    ]
    tops = {name.split("/")[0] for name in copied}
    assert tops == set(sent)
    for private in (".git", "demo", ".venv", ".env", "deploy/secrets/key.pem"):
        assert is_ignored(private), private


def is_ignored(path: str) -> bool:
    """By .dockerignore: the last line that fits decides."""
    ignored = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!")
        parts = [path, *map(str, Path(path).parents)]
        if line and not line.startswith("#"):
            fits = any(fnmatch.fnmatch(one, pattern) for one in parts if one != ".")
            ignored = not line.startswith("!") if fits else ignored
    return ignored


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_gives_up_what_it_does_not_need(name):
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["read_only"] is True
    assert service["mem_limit"]
    assert service["pids_limit"] <= 512
    assert not service.get("privileged")
    assert not {"cap_add", "devices", "pid", "ipc", "user"} & set(service)
    for mount in service.get("tmpfs", []):
        assert {"noexec", "nosuid", "nodev"} <= set(mount.split(":")[1].split(","))


def test_only_the_proxy_is_reached_from_outside_and_the_app_reaches_nothing():
    assert [name for name, service in SERVICES.items() if "ports" in service] == ["proxy"]
    internal = {name for name, network in NETWORKS.items() if network.get("internal")}
    assert set(SERVICES["app"]["networks"]) <= internal
    assert not set(SERVICES["app"]["networks"]) & set(SERVICES["login"]["networks"])
    assert SERVICES["batch"]["network_mode"] == "none"
    assert "networks" not in SERVICES["batch"]


def test_what_is_only_read_is_mounted_so():
    for name in ("app", "batch"):
        for volume in SERVICES[name]["volumes"]:
            target = volume.split(":")[-2 if volume.endswith(":ro") else -1]
            assert volume.endswith(":ro") == (target not in {"/data", "/output"}), volume


def test_the_app_is_told_to_sign_people_in_under_names_that_it_knows():
    environment = SERVICES["app"]["environment"]
    assert environment["PHENOKIT_SIGNIN"] == "proxy"
    ours = {name for name in environment if name.startswith("PHENOKIT")}
    assert ours <= set(VARIABLES)
    secrets = {f"/run/secrets/{name}" for name in SERVICES["app"]["secrets"]}
    assert environment["PHENOKIT_PROXYSECRET"] in secrets
    assert "*" not in environment["STREAMLIT_SERVER_ALLOWED_HOSTS"]


def test_the_proxy_is_given_every_variable_that_its_template_names():
    used = set(re.findall(r"\$\{(\w+)\}", TEMPLATE))
    assert used == set(SERVICES["proxy"]["environment"])


def test_every_variable_of_the_compose_file_stands_in_the_example():
    example = (ROOT / "deploy/example.env").read_text("utf-8")
    wanted = set(re.findall(r"\$\{(\w+)", COMPOSE))
    assert wanted == set(re.findall(r"^(\w+)=", example, re.MULTILINE))


def test_the_shared_secret_is_made_anew_in_both_forms(tmp_path):
    script = tmp_path / "make_secrets.sh"
    script.write_bytes((ROOT / "deploy/make_secrets.sh").read_bytes())
    for _ in range(2):
        subprocess.run(["sh", script], check=True)
        bare = (tmp_path / "secrets/proxy_secret").read_text().strip()
        line = (tmp_path / "secrets/proxy_secret.conf").read_text()
        assert line == f'proxy_set_header X-PhenoKit-Proxy "{bare}";\n'
        assert len(bare) >= 32
    assert (tmp_path / "secrets").stat().st_mode & 0o077 == 0


def test_a_container_without_a_sign_in_ends_instead_of_opening():
    done = subprocess.run(
        [sys.executable, "deploy/start.py", "app"],
        cwd=ROOT, capture_output=True, text=True, check=False,
        env={"PATH": "/usr/bin:/bin", "STREAMLIT_SERVER_ADDRESS": "0.0.0.0",
             "STREAMLIT_BROWSER_SERVER_ADDRESS": "localhost"},
    )  # fmt: skip
    assert done.returncode == 1
    assert "nobody has to sign in" in done.stderr


def test_a_container_with_a_damaged_model_ends_instead_of_opening(
    tmp_path, write_toy_bundle
):
    damaged = write_toy_bundle(tmp_path, "damaged")
    with (damaged / "calibration.json").open("a") as file:
        file.write(" ")
    done = subprocess.run(
        [sys.executable, "deploy/start.py", "app"],
        cwd=ROOT, capture_output=True, text=True, check=False,
        env={"PATH": "/usr/bin:/bin", "PHENOKIT_SIGNIN": "open",
             "PHENOKIT_MODELS": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 1
    assert "not ready: damaged: E_WEIGHTS_HASH" in done.stderr
