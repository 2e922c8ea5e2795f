import os
import re
import socket
from importlib.metadata import version
from pathlib import Path

import pytest

from phenokit.doctor import (
    LEAST_FREE,
    VARIABLES,
    Fact,
    Limits,
    State,
    control_group_limits,
    diagnose,
    exit_code,
    facts_dict,
    file_system,
    folder_facts,
    format_facts,
    model_facts,
    setting_facts,
    variable_facts,
)
from phenokit.networks.checkpoint import load_bundle

ADDRESS = "question for the machine's address at start"
README = (Path(__file__).parents[1] / "README.md").read_text("utf-8")


@pytest.fixture(autouse=True)
def environment(tmp_path, monkeypatch):
    for name in os.environ:
        if name.startswith(("PHENOKIT_", "STREAMLIT_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PHENOKIT_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def found(name: str, facts) -> Fact:
    return next(fact for fact in facts if fact.name == name)


def test_a_fresh_installation_is_worth_a_look_only_for_its_models(tmp_path, monkeypatch):
    def refuse(*_: object):
        raise AssertionError("doctor opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    facts = diagnose()
    looked = [fact.name for fact in facts if fact.state is not State.FINE]
    assert looked == ["models", VARIABLES["PHENOKIT_MODELS"]]  # the test's own empty folder
    assert Fact("versions", "torch", version("torch")) in facts
    assert Fact("offline", "usage statistics of the app", "off") in facts
    assert exit_code(facts) == 0
    assert not list(tmp_path.iterdir())  # looking makes no folder


def test_a_damaged_model_is_named_and_ends_with_65(tmp_path, write_toy_bundle):
    good = write_toy_bundle(tmp_path / "models", "good")
    damaged = write_toy_bundle(tmp_path / "models", "damaged")
    with (damaged / "calibration.json").open("a") as file:
        file.write(" ")
    facts = list(model_facts())
    assert load_bundle(good).bundle_hash in found("good", facts).value
    assert found("damaged", facts).state is State.DAMAGED
    assert found("damaged", facts).value.startswith("E_WEIGHTS_HASH: calibration.json")
    assert facts_dict(facts)["exit_code"] == 65


def test_doctor_sees_settings_that_the_environment_loosens():
    loose = {
        "STREAMLIT_BROWSER_GATHER_USAGE_STATS": "true",
        "STREAMLIT_SERVER_ENABLE_XSRF_PROTECTION": "false",
        "STREAMLIT_SERVER_ALLOWED_HOSTS": "a.example *",
        "STREAMLIT_SERVER_ADDRESS": "0.0.0.0",
        "HTTPS_PROXY": "http://user:secret@proxy:8080",
    }
    facts = list(setting_facts({**os.environ, **loose}))
    looked = {fact.name for fact in facts if fact.state is State.LOOK}
    assert looked == {
        "server.enableXsrfProtection",
        "server.allowedHosts",
        "server.address",
        VARIABLES["PHENOKIT_SIGNIN"],  # nobody would have to sign in
        "browser.gatherUsageStats",
        "usage statistics of the app",
        ADDRESS,  # Streamlit would ask an outside service for it
    }
    assert "https_proxy" in found("proxies in the environment", facts).value
    assert "secret" not in "\n".join(format_facts(facts))


def test_an_address_that_somebody_named_is_not_asked_for():
    named = {
        "STREAMLIT_SERVER_ADDRESS": "0.0.0.0",
        "STREAMLIT_BROWSER_SERVER_ADDRESS": "ecg.hospital.example",
    }
    facts = setting_facts({**os.environ, **named})
    assert found(ADDRESS, facts).state is State.FINE


def test_a_misspelt_variable_is_named_with_the_nearest():
    wrong = "PHENOKIT_" + "MODLES"
    facts = list(variable_facts({wrong: "secret", "PHENOKIT_CRASH_AT": "end"}))
    assert found("PHENOKIT_CRASH_AT", facts).state is State.LOOK  # of tests
    assert found(wrong, facts).state is State.LOOK
    assert found(wrong, facts).remedy == "did you mean PHENOKIT_MODELS?"
    assert "secret" not in "\n".join(format_facts(facts))


def test_doctor_knows_the_variables_of_the_readme():
    table = README.split("## Environment variables")[1].split("\n## ")[0]
    assert set(re.findall(r"^\| `(PHENOKIT_\w+)`", table, re.MULTILINE)) == set(VARIABLES)


def test_a_folder_that_others_may_read_or_nobody_can_use_is_worth_a_look(
    tmp_path, monkeypatch
):
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs").chmod(0o755)
    monkeypatch.setenv("PHENOKIT_JOBS", str(tmp_path / "jobs"))
    assert "others may read it" in found(VARIABLES["PHENOKIT_JOBS"], folder_facts()).remedy
    (tmp_path / "file").touch()
    monkeypatch.setenv("PHENOKIT_UPLOADS", str(tmp_path / "file"))
    assert (
        "cannot be written to"
        in found(VARIABLES["PHENOKIT_UPLOADS"], folder_facts()).remedy
    )


def test_little_space_is_worth_a_look(monkeypatch):
    usage = type("Usage", (), {"free": LEAST_FREE - 1})
    monkeypatch.setattr("phenokit.doctor.shutil.disk_usage", lambda _: usage)
    assert "little space left" in found(VARIABLES["PHENOKIT_JOBS"], folder_facts()).remedy


def test_limits_are_the_tightest_on_the_way_to_the_root(tmp_path):
    inner = tmp_path / "system.slice" / "phenokit.service"
    inner.mkdir(parents=True)
    (inner / "cpu.max").write_text("max 100000\n")
    (inner / "memory.max").write_text("6000000000\n")
    (inner.parent / "cpu.max").write_text("150000 100000\n")
    (inner.parent / "memory.max").write_text("max\n")
    membership = tmp_path / "membership"
    membership.write_text("0::/system.slice/phenokit.service\n")
    assert control_group_limits(tmp_path, membership) == Limits(1.5, 6_000_000_000)


def test_limits_of_a_container_of_version_1_are_found_at_the_root(tmp_path):
    for name, text in {
        "cpu,cpuacct/cpu.cfs_quota_us": "-1",
        "cpu,cpuacct/cpu.cfs_period_us": "100000",
        "memory/memory.limit_in_bytes": "2147483648",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    membership = tmp_path / "membership"
    membership.write_text("4:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n")
    assert control_group_limits(tmp_path, membership) == Limits(None, 2**31)


def test_the_innermost_mount_says_what_file_system_a_path_is_on(tmp_path):
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw\n"
        f"40 22 0:50 / {tmp_path}/a\\040share rw - nfs4 server:/export rw\n"
    )
    assert file_system(tmp_path / "a share" / "runs", mounts) == "nfs4"
    assert file_system(tmp_path / "runs", mounts) == "ext4"
