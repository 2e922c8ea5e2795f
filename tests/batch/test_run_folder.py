"""A run that is killed anywhere ends, after the same command again, in the same bytes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest

from phenokit.batch.run_folder import (
    CRASHED,
    Shard,
    open_run,
    part_name,
    read_receipt,
    write_part,
)
from phenokit.errors import BadInput, OutputBusy
from phenokit.job_queue import lock_is_held

PLAN = {"seed": 1, "inputs": {"scores": "ab12"}}

RUN = """
import signal, sys, time
from pathlib import Path
import pyarrow as pa
from phenokit.batch.run_folder import open_run

# A shell that runs the tests in the background lets its children ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)

def run(out, pause=0.0):
    with open_run(out, plan={"seed": 1}, command="associate") as folder:
        done = folder.done_parts()
        for k in range(3):
            if k not in done:
                folder.write_part(k, pa.table({"k": [k] * 4}))
            folder.progress(k + 1, 3, stage="testing")
            print(k, flush=True)
            time.sleep(pause)
        folder.write("sub/note.txt", b"all")
        folder.finish({"format": "test"})
"""

KILLED_EVERYWHERE = (
    RUN
    + """
import os

def killed_at(n, out):
    calls = 0
    def count(call):
        def counted(*arguments, **options):
            nonlocal calls
            calls += 1
            if calls == n:
                os._exit(9)
            return call(*arguments, **options)
        return counted
    os.fsync = count(os.fsync)
    Path.replace = count(Path.replace)
    run(out)
    os._exit(0)

n = 0
while True:
    n += 1
    out = Path(sys.argv[1], str(n))
    if (child := os.fork()) == 0:
        killed_at(n, out)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:
        break
    run(out)
print(n)
"""
)


def result(out: Path) -> dict[str, bytes]:
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in out.rglob("*")
        if path.is_file() and path.name not in {"progress.json", "lock"}
    }


def python(script: str, *arguments: object, **options) -> subprocess.Popen:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **options)


def progress(out: Path) -> dict:
    return json.loads((out / "progress.json").read_bytes())


def test_a_run_killed_before_any_write_or_rename_ends_in_the_same_bytes(tmp_path: Path):
    process = python(KILLED_EVERYWHERE, tmp_path)
    n_points = int(process.communicate(timeout=60)[0].split()[-1])
    assert n_points > 20
    clean = result(tmp_path / str(n_points))
    assert set(clean) >= {"plan.json", "manifest.json", part_name(2), "sub/note.txt"}
    for n in range(1, n_points):
        assert result(tmp_path / str(n)) == clean, f"killed at {n}"


def test_a_killed_run_frees_its_lock_and_keeps_its_parts(tmp_path: Path):
    process = python(RUN + "run(Path(sys.argv[1]), pause=30)", tmp_path)
    assert process.stdout is not None
    process.stdout.readline()
    assert lock_is_held(tmp_path / "lock")
    process.kill()
    process.communicate()
    assert not lock_is_held(tmp_path / "lock")
    with open_run(tmp_path, plan={"seed": 1}, command="associate") as folder:
        assert folder.done_parts() == {0}


@pytest.mark.parametrize(
    ("number", "exit_code"), [(signal.SIGTERM, 143), (signal.SIGINT, -signal.SIGINT)]
)
def test_a_run_that_is_asked_to_stop_is_cancelled_and_can_go_on(
    tmp_path: Path, number: int, exit_code: int
):
    process = python(
        RUN + "run(Path(sys.argv[1]), pause=30)", tmp_path, stderr=subprocess.DEVNULL
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(number)
    process.communicate(timeout=20)
    assert process.returncode == exit_code
    assert progress(tmp_path)["state"] == "cancelled"
    again = python(RUN + "run(Path(sys.argv[1]))", tmp_path)
    again.communicate(timeout=20)
    assert (again.returncode, progress(tmp_path)["state"]) == (0, "finished")


def test_a_folder_has_one_owner(tmp_path: Path):
    with (
        open_run(tmp_path, plan=PLAN, command="associate"),
        pytest.raises(OutputBusy, match="another run"),
        open_run(tmp_path, plan=PLAN, command="associate"),
    ):
        pass


def test_a_run_with_another_plan_is_refused_and_names_what_differs(tmp_path: Path):
    with open_run(tmp_path, plan=PLAN, command="associate") as folder:
        folder.write_part(0, pa.table({"k": [0]}))
    with (
        pytest.raises(BadInput, match=r"differs in: seed") as caught,
        open_run(tmp_path, plan=PLAN | {"seed": 2}, command="associate"),
    ):
        pass
    assert caught.value.code == "E_VERSION"
    with open_run(
        tmp_path, plan=PLAN | {"seed": 2}, command="associate", restart=True
    ) as it:
        assert it.done_parts() == set()


def test_a_restart_leaves_a_folder_that_no_run_made_alone(tmp_path: Path):
    (tmp_path / part_name(0)).write_bytes(b"scores")
    with (
        pytest.raises(BadInput, match="something else"),
        open_run(tmp_path, plan=PLAN, command="associate", restart=True),
    ):
        pass
    assert (tmp_path / part_name(0)).read_bytes() == b"scores"


def test_a_restart_cannot_be_led_out_of_its_folder(tmp_path: Path):
    kept = tmp_path / "kept.csv"
    kept.write_text("mine")
    out = tmp_path / "out"
    with open_run(out, plan=PLAN, command="associate") as folder:
        folder.finish({})
    manifest = json.loads((out / "manifest.json").read_bytes())
    manifest["files"] = {"../kept.csv": {}, str(kept): {}}
    (out / "manifest.json").write_text(json.dumps(manifest))
    with open_run(out, plan=PLAN, command="associate", restart=True):
        assert kept.read_text() == "mine"


@pytest.mark.parametrize("n_bytes_lost", [1, 9, None])
def test_a_damaged_part_does_not_count_as_done(tmp_path: Path, n_bytes_lost: int | None):
    with open_run(tmp_path, plan=PLAN, command="associate") as folder:
        for k in range(2):
            folder.write_part(k, pa.table({"k": [k]}))
    part = tmp_path / part_name(1)
    whole = part.read_bytes()
    part.write_bytes(whole[:-n_bytes_lost] if n_bytes_lost else b"")
    with open_run(tmp_path, plan=PLAN, command="associate") as folder:
        assert folder.done_parts() == {0}


def test_a_part_is_on_the_disk_before_its_receipt_and_the_manifest_comes_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    order: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def note_fsync(descriptor: int) -> None:
        name = Path(f"/proc/self/fd/{descriptor}").readlink().name
        order.append("fsync folder" if name == tmp_path.name else "fsync file")
        fsync(descriptor)

    def note_rename(path: Path, target: Path) -> Path:
        if target.name != "progress.json":
            order.append(target.name)
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(Path, "replace", note_rename)
    with open_run(tmp_path, plan=PLAN, command="associate") as folder:
        folder.write_part(0, pa.table({"k": [0]}))
        folder.finish({})
    names = ["plan.json", part_name(0), "part-00000.json", "manifest.json"]
    assert order == [
        step for name in names for step in ("fsync file", name, "fsync folder")
    ]


def test_a_run_that_fails_says_why_without_the_text_of_an_unforeseen_error(tmp_path: Path):
    for error, words in [
        (BadInput("E_DATE", "Column date, row 3."), "E_DATE: Column date, row 3."),
        (ValueError("canary-7391"), "internal error (ValueError)"),
    ]:
        with (
            pytest.raises(type(error)),
            open_run(tmp_path, plan=PLAN, command="associate"),
        ):
            raise error
        assert (progress(tmp_path)["state"], progress(tmp_path)["message"]) == (
            "failed", words,
        )  # fmt: skip


def test_ten_thousand_reports_of_progress_cost_less_than_a_second(tmp_path: Path):
    with open_run(tmp_path, plan=PLAN, command="associate") as folder:
        start = time.perf_counter()
        for done in range(10_000):
            folder.progress(done, 10_000, stage="testing")
        assert time.perf_counter() - start < 1
        folder.progress(10_000, 10_000, stage="testing")
        assert (progress(tmp_path)["done"], progress(tmp_path)["stage"]) == (
            10_000, "testing",
        )  # fmt: skip


def test_time_left_follows_from_the_speed_of_the_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    clock = iter([100.0, 102.0, 102.0])
    with open_run(tmp_path, plan=PLAN, command="associate") as folder:
        monkeypatch.setattr(time, "monotonic", lambda: next(clock))
        folder.progress(40, 100, stage="testing")
        folder.progress(50, 100, stage="testing")
    assert progress(tmp_path)["seconds_left"] == pytest.approx(10.0)


def test_the_receipt_of_a_part_tells_of_every_file_that_belongs_to_it(tmp_path: Path):
    files = {"recording-00003/events.tsv": b"sz", "recording-00003/scored.json": b"{}"}
    table = pa.table({"k": [1, 2]})
    written = write_part(
        tmp_path, 3, table, plan_hash="ab", files=files, facts={"codes": {"OK": 2}}
    )
    assert (written["rows"], written["codes"], set(written["files"])) == (
        2, {"OK": 2}, {*files},
    )  # fmt: skip
    assert read_receipt(tmp_path, 3, plan_hash="ab") == written
    assert read_receipt(tmp_path, 3, plan_hash="cd") is None
    assert read_receipt(tmp_path, 4, plan_hash="ab") is None
    (tmp_path / "recording-00003" / "events.tsv").write_bytes(b"sZ")
    assert read_receipt(tmp_path, 3, plan_hash="ab") is None


def test_a_part_whose_files_were_damaged_is_not_done(tmp_path: Path):
    with open_run(tmp_path, plan=PLAN, command="score") as folder:
        for k in range(2):
            write_part(
                tmp_path, k, pa.table({"k": [k]}), plan_hash=folder.plan_hash,
                files={f"recording-{k:05d}/note.txt": b"all"},
            )  # fmt: skip
    (tmp_path / "recording-00001" / "note.txt").unlink()
    with open_run(tmp_path, plan=PLAN, command="score") as folder:
        assert folder.done_parts() == {0}


def test_shards_share_a_folder_and_each_shard_has_one_owner(tmp_path: Path):
    def run(shard: Shard | None):
        return open_run(tmp_path, plan=PLAN, command="score", shard=shard)

    with run(Shard(1, 2)) as one, run(Shard(2, 2)) as two:
        assert one.plan_hash == two.plan_hash
        for other in (Shard(2, 2), None):
            with pytest.raises(OutputBusy), run(other):
                pass
        names = {path.name for path in tmp_path.glob("progress*")}
        assert names == {"progress-1-of-2.json", "progress-2-of-2.json"}
    with run(None), pytest.raises(OutputBusy), run(Shard(1, 2)):
        pass


def test_every_part_belongs_to_one_shard():
    shards = [Shard(number, 3) for number in (1, 2, 3)]
    assert [sum(shard.has(k) for shard in shards) for k in range(7)] == [1] * 7
    for number, of in ((0, 3), (4, 3), (1, 0)):
        with pytest.raises(ValueError, match="no shard"):
            Shard(number, of)


@pytest.mark.parametrize("point", ["lock", "part-00001.json: mid write", "end"])
def test_a_process_ends_at_the_named_point(tmp_path: Path, point: str):
    environment = os.environ | {"PHENOKIT_CRASH_AT": point}
    process = python(RUN + "run(Path(sys.argv[1]))", tmp_path, env=environment)
    process.communicate(timeout=60)
    assert process.returncode == CRASHED
    assert (tmp_path / "manifest.json").exists() == (point == "end")
    assert (tmp_path / "part-00001.parquet").exists() == (point != "lock")
    assert (tmp_path / "part-00001.json").exists() == (point == "end")


def test_a_plan_that_the_disk_does_not_give_is_no_other_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with open_run(tmp_path, plan=PLAN, command="score") as folder:
        folder.write_part(0, pa.table({"k": [0]}))
    read_bytes = Path.read_bytes

    def fail(path: Path) -> bytes:
        if path.name == "plan.json":
            raise OSError(5, "Input/output error")
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", fail)
    with (
        pytest.raises(OSError, match="Input/output"),
        open_run(tmp_path, plan=PLAN, command="score"),
    ):
        pass
    monkeypatch.undo()
    with open_run(tmp_path, plan=PLAN, command="score") as folder:
        assert folder.done_parts() == {0}


def test_progress_that_cannot_be_written_fails_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write_bytes = Path.write_bytes

    def fail(path: Path, data: bytes) -> int:
        if path.name.startswith("progress"):
            write_bytes(path, data[:9])
            raise OSError(28, "No space left on device")
        return write_bytes(path, data)

    monkeypatch.setattr(Path, "write_bytes", fail)
    with open_run(tmp_path, plan=PLAN, command="score") as folder:
        folder.progress(1, 1, stage="testing")
        folder.finish({})
    assert {path.name for path in tmp_path.iterdir()} == {
        "lock", "plan.json", "manifest.json",
    }  # fmt: skip
