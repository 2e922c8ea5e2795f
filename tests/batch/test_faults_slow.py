"""Faults that need processes of their own: killed, stopped, at once, without disk."""

import json
import os
import random
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from phenokit.batch.run_folder import Shard
from phenokit.job_queue import lock_is_held

pytestmark = pytest.mark.slow

BAD_INPUTS = Path(__file__).parents[1] / "bad_inputs"


def processes_of(session: int) -> list[int]:
    """Processes that live in a session, their own leader included."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] not in "ZX":
            found.append(int(folder.name))
    return found


def workers_of(process: subprocess.Popen) -> list[int]:
    """Its children, but for the tracker of shared memory."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    try:
        pids = [int(pid) for pid in children.read_text().split()]
        return [p for p in pids if b"spawn_main" in Path(f"/proc/{p}/cmdline").read_bytes()]
    except OSError:
        return []


def wait_for(condition, process: subprocess.Popen, seconds: float = 120.0) -> bool:
    """Whether it came true while the process lived."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        if condition():
            return True
        time.sleep(0.005)
    return bool(condition())


def ended(process: subprocess.Popen) -> tuple[int, str]:
    """Exit code, and what it said."""
    out, err = process.communicate(timeout=180)
    return process.returncode, out + err


def leaves_nothing(process: subprocess.Popen) -> bool:
    """Neither a process nor shared memory, soon after it was killed."""
    deadline = time.monotonic() + 10
    while (alive := processes_of(process.pid)) and time.monotonic() < deadline:
        time.sleep(0.02)
    shared = [p for p in Path("/dev/shm").iterdir() if p.name.startswith("pym-")]
    return not alive and not [p for p in shared if f"-{process.pid}-" in p.name]


# --- killed -------------------------------------------------------------------------------


@pytest.mark.parametrize("victim", ["parent", "worker", "group"])
def test_a_run_killed_at_ten_random_times_ends_in_the_same_bytes(trial, tmp_path, victim):
    seed = random.SystemRandom().randrange(10**6)
    rng = random.Random(seed)
    print("seed", seed)  # noqa: T201 - shown when it fails
    began = time.monotonic()
    options = ("--workers", "2" if victim == "worker" else "1")
    assert ended(trial.start(tmp_path / "undisturbed", *options))[0] == 0
    duration = time.monotonic() - began
    for number in range(10):
        out = tmp_path / str(number)
        process = trial.start(out, *options, start_new_session=True)
        time.sleep(rng.uniform(0, duration))
        if victim == "group":
            os.killpg(process.pid, signal.SIGKILL)
        elif victim == "parent":
            process.kill()
        elif wait_for(lambda p=process: workers_of(p), process):
            os.kill(rng.choice(workers_of(process) or [process.pid]), signal.SIGKILL)
        code, said = ended(process)
        assert leaves_nothing(process), (seed, number)
        if victim == "worker" and code == 0:
            trial.check(out)  # the run went on without it
        assert code in (0, -signal.SIGKILL), said
        out.mkdir(exist_ok=True)
        assert trial.left(out).items() <= trial.expected.items() | {
            (name, data) for name, data in trial.left(out).items() if name.endswith(".tmp")
        }
        trial.score(out)
        trial.check(out)


def test_a_worker_that_always_crashes_while_it_writes_fails_the_run_not_the_rows(
    trial, tmp_path
):
    crash = {"PHENOKIT_CRASH_AT": "part-00001.parquet: mid write"}
    code, said = ended(trial.start(tmp_path, "--workers", "1", env=crash))
    assert code == 70, said
    assert not (tmp_path / "part-00001.parquet").exists()
    assert not (tmp_path / "manifest.json").exists()
    trial.score(tmp_path)
    trial.check(tmp_path)


# --- stopped ------------------------------------------------------------------------------

PHASES = {
    "workers start": lambda out: (out / "progress.json").exists(),
    "parts are made": lambda out: (out / "part-00000.parquet").exists(),
    "the report is made": lambda out: len([*out.glob("part-*.json")]) == 3,
}


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)]
)
def test_a_run_that_is_asked_to_stop_says_so_and_can_go_on(
    trial, tmp_path, phase, number, code
):
    process = trial.start(tmp_path, "--workers", "1", start_new_session=True)
    wait_for(lambda: PHASES[phase](tmp_path), process)
    if process.poll() is None:
        process.send_signal(number)
    found, said = ended(process)
    assert leaves_nothing(process)
    is_over = (tmp_path / "manifest.json").exists()
    assert found in ((0, code) if is_over else (code,)), said
    assert "Traceback" not in said
    if not is_over:
        progress = json.loads((tmp_path / "progress.json").read_bytes())
        assert progress["state"] == "cancelled"
    trial.score(tmp_path)
    trial.check(tmp_path)


# --- without disk -------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path):
    """`small_disk(bytes)`: a file system of that size, which may be grown."""
    folder = tmp_path / "disk"
    folder.mkdir()
    is_mounted = False

    def size(n_bytes):
        nonlocal is_mounted
        options = f"size={n_bytes}" + (",remount" if is_mounted else "")
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
        is_mounted = True
        return folder

    yield size
    if is_mounted:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_ends_a_run_which_goes_on_when_there_is_room(trial, small_disk):
    n_bytes = sum(map(len, trial.expected.values()))
    for share in (0.3, 0.7):
        disk = small_disk(max(4096, int(n_bytes * share) // 4096 * 4096))
        out = disk / "Meyer"
        code, said = ended(trial.start(out, "--workers", "1"))
        assert (code, "Meyer" in said) == (74, False), said
        assert trial.left(out).items() <= trial.expected.items()
    small_disk(4 << 20)
    code, said = ended(trial.start(out, "--workers", "1"))
    assert code == 0, said
    trial.check(out)


def test_a_read_only_disk_ends_a_run_with_74(trial, small_disk):
    disk = small_disk(1 << 20)
    remount = ["mount", "-o", "remount,ro", str(disk)]
    subprocess.run(remount, check=True)
    code, said = ended(trial.start(disk / "Meyer"))
    assert (code, "Meyer" in said) == (74, False), said
    assert "Read-only" in said


# --- at once ------------------------------------------------------------------------------


def test_of_two_runs_at_once_one_runs_and_the_lock_of_the_dead_is_free(trial, tmp_path):
    first = trial.start(tmp_path, "--workers", "1")
    wait_for(lambda: lock_is_held(tmp_path / "lock"), first)
    assert ended(trial.start(tmp_path, "--workers", "1"))[0] == 75
    first.kill()
    ended(first)
    assert not lock_is_held(tmp_path / "lock")
    assert ended(trial.start(tmp_path, "--workers", "1"))[0] == 0
    trial.check(tmp_path)


def test_shards_at_once_end_in_the_bytes_of_one_run(trial, tmp_path):
    shards = ("1/3", "2/3", "3/3", "2/3")
    runs = [trial.start(tmp_path, "--workers", "1", "--shard", s) for s in shards]
    codes = [ended(run) for run in runs]
    same = sorted([codes[1][0], codes[3][0]])
    assert same in ([0, 75], [0, 0]), codes  # the other came when the one was done
    assert [codes[0][0], codes[2][0]] == [0, 0], codes
    trial.check(tmp_path)


def test_a_shard_that_was_killed_is_caught_up(trial, tmp_path):
    killed = trial.start(tmp_path, "--workers", "1", "--shard", "1/2")
    wait_for(lambda: (tmp_path / "part-00000.json").exists(), killed)
    killed.kill()
    ended(killed)
    (tmp_path / "part-00002.json").unlink(missing_ok=True)
    assert not trial.score(tmp_path, shard=Shard(2, 2)).is_finished
    assert ended(trial.start(tmp_path, "--workers", "1", "--shard", "1/2"))[0] == 0
    trial.check(tmp_path)


@pytest.mark.parametrize("workers", [1, 3])
def test_the_number_of_workers_changes_no_byte(trial, tmp_path, workers):
    replace(trial, model=trial.bundle).score(tmp_path, workers=workers, device="cpu")
    trial.check(tmp_path)


# --- bad recordings -----------------------------------------------------------------------


def test_all_bad_inputs_in_one_run_are_a_row_each_and_change_no_good_one(trial, tmp_path):
    began = time.monotonic()
    bad = replace(trial, ward=BAD_INPUTS)
    code, said = ended(bad.start(tmp_path / "all", "--workers", "2"))
    assert code == 0, said
    assert time.monotonic() - began < 60
    rows = {row["path"]: row for row in bad.rows(tmp_path / "all")}
    headers = {path.name for path in BAD_INPUTS.glob("*.hea")}
    assert headers <= rows.keys()
    assert rows["w00_control.hea"]["outcome"] != "rejected"
    bad.score(tmp_path / "alone", ward=BAD_INPUTS / "w00_control.hea")
    assert repr(bad.rows(tmp_path / "alone")) == repr([rows["w00_control.hea"]])
    manifest = json.loads((tmp_path / "all" / "manifest.json").read_bytes())
    assert sum(manifest["codes"].values()) == len(rows) == manifest["n_recordings"]
    n_files = len([*BAD_INPUTS.iterdir()])
    of_headers = {"w_base.dat"} | {
        path.name for path in BAD_INPUTS.glob("*.dat") if path.with_suffix(".hea").exists()
    }
    assert manifest["n_recordings"] + manifest["n_not_scored"] + len(of_headers) == n_files
    table = pq.read_table(tmp_path / "all" / "errors.parquet").to_pylist()
    assert {row["path"] for row in table} == {
        path for path, row in rows.items() if row["outcome"] == "rejected"
    }
