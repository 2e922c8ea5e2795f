"""Whatever happens to a run, the same command ends in the bytes of an undisturbed one."""

import errno
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from phenokit.batch import score as batch_score
from phenokit.batch.run_folder import Shard, open_run, part_name
from phenokit.batch.sources import find_records
from phenokit.batch.verify import verify_run
from phenokit.cli import main
from phenokit.errors import BadInput, OutputBusy
from phenokit.simulation.ieeg_files import write_edf

STEPS = ("before write", "mid write", "after fsync", "after rename")
FILES = (
    "plan.json",
    *[f"part-{k:05d}.{ending}" for k in range(2) for ending in ("parquet", "json")],
    "errors.parquet", "report.html", "manifest.json",
)  # fmt: skip
POINTS = ("lock", *[f"{name}: {step}" for name in FILES for step in STEPS], "end")

CRASH_EVERYWHERE = """
import os, sys
from pathlib import Path
from phenokit.batch.score import score_cohort
from phenokit.pipeline import load_ecg_model

ward, bundle, out = map(Path, sys.argv[1:4])
model = load_ecg_model(bundle, device="cpu", inference="torch")
score_cohort(ward, out / "clean", model, rows=1, workers=0)
for number, point in enumerate(sys.argv[4:]):
    if (child := os.fork()) == 0:
        try:
            os.environ["PHENOKIT_CRASH_AT"] = point
            score_cohort(ward, out / str(number), model, rows=1, workers=0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 99, point
    score_cohort(ward, out / str(number), model, rows=1, workers=0)
"""


@dataclass(frozen=True)
class Misbehaving:
    """A reader at which a worker dies, or hangs, at recordings of a certain name."""

    reader: Any
    deeds: dict[str, str]

    def read(self, record):
        deed = self.deeds.get(record.path)
        if deed == "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        if deed == "memory":
            bytearray(1 << 50)
        if deed in ("sleep", "sleep always"):
            time.sleep(60)
        return self.reader.read(record)

    def sha256(self, record):
        if self.deeds.get(record.path) == "sleep always":
            time.sleep(60)
        return self.reader.sha256(record)


@pytest.fixture
def misbehave(monkeypatch):
    """`misbehave(path=deed)`: reading that recording ends in the deed."""

    def at(deeds):
        @contextmanager
        def find(*arguments, **options):
            with find_records(*arguments, **options) as found:
                yield replace(cast("Any", found), reader=Misbehaving(found.reader, deeds))

        monkeypatch.setattr(batch_score, "find_records", find)

    return at


class Disk:
    """Counts what is asked of the disk below a folder, and fails once."""

    def __init__(self, patch, folder, *, fail_at=0, number=errno.EIO):
        self.folder, self.fail_at, self.number = folder, fail_at, number
        self.calls = []
        for module, name in (
            (os, "open"), (os, "fsync"), (os, "replace"), (os, "rename"), (io, "open"),
        ):  # fmt: skip
            patch.setattr(module, name, self._counted(name, getattr(module, name)))

    def _counted(self, name, function):
        def call(first, *rest, **options):
            path = Path(f"/proc/self/fd/{first}") if isinstance(first, int) else Path(first)
            path = path.readlink() if isinstance(first, int) else path
            if path != self.folder and self.folder not in path.parents:
                return function(first, *rest, **options)
            self.ask(name, Path(rest[0]) if name in ("replace", "rename") else path)
            done = function(first, *rest, **options)
            is_write = function is io_open and "w" in str(rest[:1])
            return Writing(done, self, path) if is_write else done

        io_open = function if name == "open" and function.__module__ != "posix" else None
        return call

    def ask(self, name, path):
        self.calls.append((name, path.relative_to(self.folder).as_posix()))
        if len(self.calls) == self.fail_at:
            raise OSError(self.number, os.strerror(self.number))


class Writing:
    """A file that is written to; a write that fails has written half."""

    def __init__(self, file, disk, path):
        self.file, self.disk, self.path = file, disk, path

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()

    def __getattr__(self, name):
        return getattr(self.file, name)

    def write(self, data):
        try:
            self.disk.ask("write", self.path)
        except OSError:
            self.file.write(data[: len(data) // 2])
            raise
        return self.file.write(data)


def run_main(*arguments):
    """Exit code of the command line in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["phenokit", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
    return ended.value.code


# --- killed, without disk, without its files ----------------------------------------------


def test_a_run_that_crashes_at_any_named_point_ends_in_the_same_bytes(
    small_trial, tmp_path
):
    trial = small_trial
    command = [sys.executable, "-c", CRASH_EVERYWHERE, trial.ward, trial.bundle, tmp_path]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([*command, *POINTS], env=environment, check=True, timeout=300)
    clean = trial.left(tmp_path / "clean")
    assert clean.keys() == trial.expected.keys() == {*FILES}
    for number, point in enumerate(POINTS):
        assert trial.left(tmp_path / str(number)) == clean, point


def test_a_disk_that_fails_at_any_call_leaves_nothing_half_and_the_rerun_ends_it(
    small_trial, tmp_path, monkeypatch
):
    trial = small_trial
    numbers = (errno.EIO, errno.ENOSPC, errno.EMFILE, errno.EACCES)
    fail_at, n_failed, did_fail = 0, 0, True
    while did_fail:
        fail_at += 1
        out = tmp_path / str(fail_at)
        out.mkdir()
        with monkeypatch.context() as patch:
            disk = Disk(patch, out, fail_at=fail_at, number=numbers[fail_at % 4])
            try:
                trial.score(out)
            except OSError as error:
                n_failed += error.errno == disk.number
            did_fail = len(disk.calls) >= fail_at
        left = trial.left(out)
        assert left.items() <= trial.expected.items(), disk.calls[-1]
        trial.score(out)
        trial.check(out)
    assert n_failed > 5 * len(FILES)


def test_too_many_open_files_are_no_fault_of_a_recording(small_trial, tmp_path):
    trial, n_stopped, did_fail = small_trial, 0, True
    while did_fail:
        out = tmp_path / str(n_stopped)
        with pytest.MonkeyPatch.context() as patch:
            Disk(patch, trial.ward, fail_at=n_stopped + 1, number=errno.EMFILE)
            try:
                trial.score(out)
                did_fail = False
            except OSError:
                n_stopped += 1
        trial.score(out)
        trial.check(out)
    assert n_stopped > 3


def test_each_file_is_on_the_disk_before_its_name_and_the_manifest_comes_last(
    small_trial, tmp_path, monkeypatch
):
    trial = small_trial
    disk = Disk(monkeypatch, tmp_path)
    trial.score(tmp_path)
    names = [name for call, name in disk.calls if call == "replace" and name in FILES]
    assert names == list(FILES)
    steps = [
        (call, name.partition(".json.")[0].partition(".parquet.")[0])
        for call, name in disk.calls
        if call in ("fsync", "replace") and "progress" not in name
    ]
    for k, name in enumerate(FILES):
        (one, synced), renamed, folder = steps[3 * k : 3 * k + 3]
        assert (one, synced.split(".")[0]) == ("fsync", name.split(".")[0])
        assert (renamed, folder) == (("replace", name), ("fsync", "."))


def test_without_a_disk_the_command_exits_with_74_and_names_no_file(trial, tmp_path, capfd):
    (tmp_path / "Meyer").write_text("")
    for out in (tmp_path / "Meyer" / "out", tmp_path / ("Meyer" * 60)):
        assert run_main("score", trial.ward, "--out", out, "--model", trial.bundle) == 74
        said = capfd.readouterr()
        assert "Meyer" not in said.out + said.err
        assert "disk: " in said.err


def test_a_folder_whose_name_is_as_long_as_can_be_holds_a_run(trial, tmp_path):
    trial.score(tmp_path / ("n" * 255))
    trial.check(tmp_path / ("n" * 255))


UNPACK = """
import os, shutil, signal, sys
from contextlib import contextmanager
from pathlib import Path
from phenokit.batch import score
from phenokit.cli import main

@contextmanager
def find(source, *, scratch, **options):
    scratch.mkdir(parents=True)
    (scratch / "Meyer.hea").write_text("unpacked")
    os.kill(os.getpid(), number)
    yield

number = getattr(signal, sys.argv.pop())
score.find_records = find
main()
"""


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_run_that_is_stopped_while_it_unpacks_leaves_no_recording_behind(
    small_trial, tmp_path, name, code
):
    command = [
        sys.executable, "-c", UNPACK, "score", small_trial.ward, "--out", tmp_path / "out",
        "--model", small_trial.bundle, name,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert not [*(tmp_path / "out").iterdir()]


# --- damaged ------------------------------------------------------------------------------

DAMAGES = {
    "cut": lambda data: data[:-9],
    "a bit flipped": lambda data: data[:60] + bytes([data[60] ^ 4]) + data[61:],
    "emptied": lambda data: b"",
    "removed": lambda data: None,
}


@pytest.fixture
def finished(trial, tmp_path):
    """The folder of a finished run, to be damaged."""
    trial.score(tmp_path / "out")
    return tmp_path / "out"


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", [part_name(1), "errors.parquet", "report.html"])
def test_a_damaged_file_is_made_again_and_no_other_part(trial, finished, name, damage):
    path = finished / name
    data = DAMAGES[damage](path.read_bytes())
    path.unlink() if data is None else path.write_bytes(data)
    parts = [p for p in finished.glob("part-*") if p.stem != Path(name).stem]
    before = {p: p.stat().st_mtime_ns for p in parts}
    trial.score(finished)
    assert {p: p.stat().st_mtime_ns for p in parts} == before
    trial.check(finished)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_receipt_or_manifest_is_written_again(trial, finished, damage):
    for name in ("part-00002.json", "manifest.json"):
        path = finished / name
        data = DAMAGES[damage](path.read_bytes())
        path.unlink() if data is None else path.write_bytes(data)
        trial.score(finished)
        trial.check(finished)


def test_a_finished_run_is_not_written_again(trial, finished):
    before = {p: p.stat().st_mtime_ns for p in finished.iterdir() if p.name in FILES}
    trial.score(finished)
    assert {p: p.stat().st_mtime_ns for p in before} == before


def test_a_damaged_plan_is_refused_until_a_restart(trial, finished):
    (finished / "plan.json").write_bytes(b"{")
    with pytest.raises(BadInput, match="something else"):
        trial.score(finished)
    trial.score(finished, restart=True)
    trial.check(finished)


def test_a_damaged_file_of_an_ieeg_is_made_again_and_no_other_recording(
    tmp_path, ieeg_array, ieeg_model
):
    ward, out, model = tmp_path / "ward", tmp_path / "out", ieeg_model()
    ward.mkdir()
    for name, seed in (("a", 1), ("b", 2)):
        write_edf(ward / f"{name}.edf", ieeg_array(4, 12.0, seed=seed))
    batch_score.score_cohort(ward, out, model, workers=0)
    whole = {path: path.read_bytes() for path in out.rglob("*.*") if path.is_file()}
    others = {p: p.stat().st_mtime_ns for p in out.glob("*-00000*/*")}
    files = sorted((out / "recording-00001").iterdir())
    for path, damage in zip(files, cycle(DAMAGES.values()), strict=False):
        data = damage(path.read_bytes())
        path.unlink() if data is None else path.write_bytes(data)
        (fault, *more) = verify_run(out).faults
        assert (fault.name, more) == (f"recording-00001/{path.name}", [])
        batch_score.score_cohort(ward, out, model, workers=0)
        for one, data in whole.items():
            assert one.name == "progress.json" or one.read_bytes() == data, one
    assert {p: p.stat().st_mtime_ns for p in others} == others


# --- not the same run ---------------------------------------------------------------------


@pytest.fixture
def copied(trial, tmp_path):
    """The same recordings, to be changed."""
    return Path(shutil.copytree(trial.ward, tmp_path / "ward"))


def crash(folder):
    """What a run of which only the first part is done leaves."""
    for path in folder.iterdir():
        if path.name not in ("plan.json", "lock", part_name(0), "part-00000.json"):
            path.unlink()


def test_another_input_model_or_rule_is_refused_and_changes_nothing(
    trial, finished, copied, tmp_path
):
    crash(finished)
    before = trial.left(finished)
    (copied / "z.hea").write_text("z 12 500\n")
    other = tmp_path / "other"
    shutil.copytree(trial.bundle, other)
    for command in (
        (copied, "--model", trial.bundle),
        (trial.ward, "--model", "ecg-demo"),
        (trial.ward, "--model", trial.bundle),  # 256 recordings a part, not 3
    ):
        assert run_main("score", *command, "--out", finished, "--device", "cpu") == 65
        assert trial.left(finished) == before


def test_an_input_that_is_changed_after_its_part_is_done_is_noticed(
    trial, finished, copied
):
    out = finished.with_name("again")
    trial.score(out, ward=copied)
    data = bytearray((copied / "a.dat").read_bytes())
    data[:4] = data[4:8]
    (copied / "a.dat").write_bytes(data)
    with pytest.raises(BadInput, match=r"part 0 were changed after they were scored"):
        trial.score(out, ward=copied)
    trial.score(out, ward=copied, restart=True)
    changed = {row["path"]: row for row in trial.rows(out)}
    assert changed["a.hea"]["code"] == "E_CHECKSUM"
    for row in trial.rows_expected:
        assert row["path"] == "a.hea" or repr(changed[row["path"]]) == repr(row)


def test_two_runs_in_one_folder_are_one_run_and_one_that_exits_with_75(
    trial, tmp_path, capfd
):
    with open_run(tmp_path, plan={"seed": 1}, command="score"):
        command = ("score", trial.ward, "--out", tmp_path, "--model", trial.bundle)
        assert run_main(*command) == 75
        assert run_main(*command, "--shard", "1/2") == 75
    assert "another run is writing" in capfd.readouterr().err


# --- bad recordings -----------------------------------------------------------------------


def test_a_recording_that_kills_or_stalls_its_worker_costs_its_own_row_alone(
    trial, tmp_path, misbehave
):
    deeds = {"b/c.hea": "segfault", "Müller.hea": "memory", "h.hea": "sleep"}
    misbehave(deeds)
    trial = replace(trial, model=trial.bundle)
    scoring = trial.score(tmp_path, workers=1, time_limit=5.0)
    rows = {row["path"]: row for row in trial.rows(tmp_path)}
    codes = {path: rows[path]["code"] for path in deeds}
    assert codes == {
        "b/c.hea": "E_WORKER", "Müller.hea": "E_WORKER", "h.hea": "E_TIMEOUT",
    }  # fmt: skip
    for row in trial.rows_expected:
        other = rows[row["path"]]
        assert other["input_sha256"] == row["input_sha256"]
        assert row["path"] in deeds or repr(other) == repr(row)
    assert len(rows) == scoring.n_recordings == 8


@pytest.mark.slow  # waits for two time limits
def test_a_recording_that_stalls_even_when_it_is_hashed_is_not_tried_for_ever(
    trial, tmp_path, misbehave
):
    misbehave({"b/f.hea": "sleep always"})
    workers = replace(trial, model=trial.bundle)
    workers.score(tmp_path, workers=1, time_limit=5.0)
    rows = {row["path"]: row for row in trial.rows(tmp_path)}
    stalled = rows["b/f.hea"]
    assert (stalled["code"], stalled["input_sha256"]) == ("E_TIMEOUT", "")
    for row in trial.rows_expected:
        assert row["path"] == "b/f.hea" or repr(rows[row["path"]]) == repr(row)
    left = trial.left(tmp_path)
    workers.score(tmp_path, workers=1, time_limit=5.0)
    assert trial.left(tmp_path) == left


@dataclass(frozen=True)
class Spoilt:
    """A forward pass that says NaN of one recording of each batch."""

    forward: Any
    row: int

    @property
    def engine(self):
        return self.forward.engine

    def __call__(self, signal):
        said = self.forward(signal)
        similarity = said.similarity.copy()
        similarity[self.row, 2] = np.nan
        return said._replace(similarity=similarity)


def test_a_number_that_is_not_finite_costs_its_own_row_alone(trial, tmp_path):
    model = replace(trial.model, forward=Spoilt(trial.model.forward, row=1))
    replace(trial, model=model).score(tmp_path)
    n_spoilt = 0
    for row, other in zip(trial.rows_expected, trial.rows(tmp_path), strict=True):
        is_spoilt = "E_MODEL_NONFINITE" in other["all_codes"]
        n_spoilt += is_spoilt
        if is_spoilt:
            assert other["outcome"] == "rejected"
            assert other["probability_NORM"] is None
            assert np.isnan(other["similarity"]).all()
        else:
            assert repr(other) == repr(row)
    assert n_spoilt == 2


def test_no_zone_locale_hash_seed_thread_or_worker_changes_a_byte(trial, tmp_path):
    process = trial.start(
        tmp_path, "--workers", "2",
        env={
            "TZ": "Pacific/Apia", "LC_ALL": "C", "PYTHONUTF8": "0",
            "PYTHONCOERCECLOCALE": "0", "PYTHONHASHSEED": "random",
            "OMP_NUM_THREADS": "8",
        },
    )  # fmt: skip
    said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    trial.check(tmp_path)


def test_names_that_differ_by_case_zeros_or_composition_stay_apart(trial, tmp_path):
    ward, names = tmp_path / "ward", ("a", "A", "01", "1", "\u00e9", "e\u0301")
    ward.mkdir()
    for name in names:
        shutil.copy(trial.ward / "a.hea", ward / f"{name}.hea")
    shutil.copy(trial.ward / "a.dat", ward)
    trial.score(tmp_path / "out", ward=ward)
    rows = trial.rows(tmp_path / "out")
    assert sorted(row["record_id"] for row in rows) == sorted(names)
    assert len({json.dumps(row["similarity"]) for row in rows}) == 1


# --- shards -------------------------------------------------------------------------------


def test_shards_that_run_in_turn_end_in_the_bytes_of_one_run(trial, tmp_path):
    for number in (3, 1):
        scoring = trial.score(tmp_path, shard=Shard(number, 3))
        assert not scoring.is_finished
        assert not (tmp_path / "manifest.json").exists()
    scoring = trial.score(tmp_path, shard=Shard(2, 3))
    assert (scoring.is_finished, scoring.n_recordings) == (True, 8)
    trial.check(tmp_path)


def test_a_shard_waits_for_nobody_and_the_last_one_finishes(trial, tmp_path):
    trial.score(tmp_path, shard=Shard(1, 3))
    plan = json.loads((tmp_path / "plan.json").read_bytes())["plan"]
    del plan["command"], plan["code_version"]
    with open_run(tmp_path, plan=plan, command="score", shard=Shard(1, 2)):
        with pytest.raises(OutputBusy):
            trial.score(tmp_path, shard=Shard(1, 2))
        assert not trial.score(tmp_path, shard=Shard(2, 2)).is_finished
    assert trial.score(tmp_path, shard=Shard(1, 2)).is_finished
    trial.check(tmp_path)


def test_a_run_without_shards_finishes_what_shards_left(trial, tmp_path):
    trial.score(tmp_path, shard=Shard(2, 3))
    (tmp_path / "part-00002.json.7.tmp").write_bytes(b"{")
    trial.score(tmp_path)
    trial.check(tmp_path)
