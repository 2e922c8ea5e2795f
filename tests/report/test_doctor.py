import socket
from importlib.metadata import version

import pytest

from phenokit.networks.checkpoint import load_bundle
from phenokit.report.doctor import diagnose


@pytest.fixture(autouse=True)
def environment(tmp_path, monkeypatch):
    for name in ("PHENOKIT_DEMO", "PHENOKIT_RECORDINGS", "PHENOKIT_PTBXL"):
        monkeypatch.delenv(name, raising=False)
    for name in ("STREAMLIT_BROWSER_GATHER_USAGE_STATS", "STREAMLIT_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PHENOKIT_MODELS", str(tmp_path / "models"))


def test_doctor_names_versions_device_and_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("PHENOKIT_RECORDINGS", str(tmp_path / "nowhere"))
    lines = diagnose()
    assert f"phenokit {version('phenokit')}" in lines
    assert f"torch {version('torch')}" in lines
    assert any(line.startswith("CUDA: ") for line in lines)
    assert "! no model is installed; `phenokit models install FILE` adds one" in lines
    assert next(line for line in lines if "PHENOKIT_RECORDINGS" in line).startswith("! ")


def test_doctor_checks_the_hashes_of_every_model(tmp_path, write_toy_bundle):
    good = write_toy_bundle(tmp_path / "models", "good")
    damaged = write_toy_bundle(tmp_path / "models", "damaged")
    with (damaged / "calibration.json").open("a") as file:
        file.write(" ")
    lines = diagnose()
    found = load_bundle(good).bundle_hash
    assert f"good 1.0.0: all hashes match, bundle hash {found}" in lines
    assert any(
        line.startswith("! damaged: E_WEIGHTS_HASH: calibration.json") for line in lines
    )


def test_doctor_opens_no_connection(monkeypatch):
    def refuse(*_: object):
        raise AssertionError("doctor opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert "usage statistics of the app: off" in diagnose()


def test_doctor_sees_settings_that_the_environment_overrides(monkeypatch):
    monkeypatch.setenv("STREAMLIT_BROWSER_GATHER_USAGE_STATS", "true")
    monkeypatch.setenv("STREAMLIT_SERVER_ADDRESS", "0.0.0.0")
    doubts = [line for line in diagnose() if line.startswith("!")]
    assert any("usage statistics of the app: ON" in line for line in doubts)
    assert any("other machines can reach it" in line for line in doubts)


def test_doctor_names_proxies_without_their_secrets(monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://user:secret@proxy:8080")
    text = "\n".join(diagnose())
    assert "https_proxy" in text
    assert "secret" not in text
