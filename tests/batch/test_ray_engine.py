"""On a Ray cluster a run ends in the bytes, codes and errors of the local engine."""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import pytest

from phenokit.batch import ray_engine
from phenokit.batch import score as scoring
from phenokit.batch.engines import Parts
from phenokit.batch.parts import PartWork
from phenokit.batch.score import score_cohort
from phenokit.batch.sources import find_records
from phenokit.errors import BadInput
from phenokit.simulation.ieeg_files import write_edf


def needs_ray(test):
    """Slow, and left out where Ray is not installed; its own warnings are not ours."""
    for mark in (
        pytest.mark.slow,
        # Not imported here: it reads its token when it is, and `cluster` sets one.
        pytest.mark.skipif(find_spec("ray") is None, reason="pip install 'phenokit[ray]'"),
        pytest.mark.filterwarnings("ignore::DeprecationWarning"),
        pytest.mark.filterwarnings("ignore::FutureWarning"),
        pytest.mark.filterwarnings("ignore::ResourceWarning"),
    ):
        test = mark(test)
    return test


ROOT = Path(__file__).parents[2]
ACTOR = b"MapWorker(MapBatches(PartMaker))"
CHANGING = {"progress.json", "lock"}

READER = "misbehaving_reader"
MISBEHAVING = """
import os, signal, time
from dataclasses import dataclass
from phenokit.batch.source_readers import ECGFiles

class Misbehaving(ECGFiles):
    __slots__ = ()
    def read(self, record):
        if record.path == "crash.hea":
            os.kill(os.getpid(), signal.SIGSEGV)
        if record.path == "fatal.hea":
            os.kill(os.getppid(), signal.SIGKILL)
        if record.path in ("stall.hea", "fatal.hea"):
            time.sleep(600)
        return super().read(record)
"""

RUN = """
import os, signal, sys
from pathlib import Path
from phenokit.batch.engines import Parts
from phenokit.batch.parts import PartWork
from phenokit.batch.score import score_cohort
from phenokit.batch.sources import find_records

if __name__ == "__main__":
    source, out, model, stop_at = sys.argv[1:]
    def progress(stage, done, of):
        if done >= int(stop_at):
            os.kill(os.getpid(), signal.SIGKILL)
    score_cohort(source, Path(out), model, device="cpu", engine="ray", workers=1, rows=1,
                 progress=progress)
"""


def actors(head):
    """Processes of the cluster's actors that make parts, and those they started."""
    parents, titles = {}, {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            stat = (entry / "stat").read_text()
            titles[int(entry.name)] = (entry / "cmdline").read_bytes()
            parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
        except OSError:
            continue  # it has ended

    def is_below(pid):
        return pid == head or (pid in parents and is_below(parents[pid]))

    found = {pid for pid in parents if ACTOR in titles[pid] and is_below(pid)}
    return found, {pid for pid, parent in parents.items() if parent in found}


def wait_for(condition, seconds=60.0):
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds
        time.sleep(0.1)


def end_of_run(out):
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.name not in CHANGING
    }


@pytest.fixture(scope="module")
def hooks(tmp_path_factory):
    """A folder of modules that the processes of the cluster can import."""
    folder = tmp_path_factory.mktemp("hooks")
    (folder / f"{READER}.py").write_text(MISBEHAVING)
    return folder


@pytest.fixture(scope="module")
def cluster(hooks):
    """Head of a cluster that says it has four processors: its process and its folder."""
    start = [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"),
        *("--port=6399", "--num-cpus=4", "--include-dashboard=false"),
        *("--object-store-memory=100000000", "--disable-usage-stats"),
    ]
    with pytest.MonkeyPatch.context() as patch, TemporaryDirectory(prefix="ray-") as folder:
        patch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{hooks}")
        patch.syspath_prepend(str(hooks))
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", "t" * 64)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_ADDRESS", "127.0.0.1:6399")
        head = subprocess.Popen(
            [*start, f"--temp-dir={folder}"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_for(lambda: not socket.socket().connect_ex(("127.0.0.1", 6399)))
        yield SimpleNamespace(pid=head.pid, folder=Path(folder))
        head.kill()  # asked to end, it takes half a minute; its processes end with it
        head.wait()
        wait_for(lambda: socket.socket().connect_ex(("127.0.0.1", 6399)))


@pytest.fixture(scope="module")
def ward(tmp_path_factory, ecg, write_wfdb):
    folder = tmp_path_factory.mktemp("ward")
    for k, condition in enumerate(["normal", "atrial_fibrillation"] * 2):
        write_wfdb(folder, f"Meyer{k}", ecg(condition, seed=k))
    (folder / "broken.hea").write_text("broken 12 500\n")
    return folder


@pytest.fixture(scope="module")
def local(ward, tiny_bundle, tmp_path_factory):
    out = tmp_path_factory.mktemp("local")
    return on("local", ward, out, tiny_bundle), out


def on(engine, source, out, model, **options):
    options = {"device": "cpu", "workers": 1, "rows": 1, **options}
    return score_cohort(source, out, model, engine=engine, **options)


on_ray = partial(on, "ray")


def obstruct(out, *step):
    """Let a folder stand where the second part is to be."""
    (out / "part-00001.parquet").mkdir(exist_ok=True)


@needs_ray
@pytest.mark.parametrize("workers", [1, 2])
def test_ecgs_end_in_the_bytes_of_the_local_engine(
    cluster, ward, local, tiny_bundle, tmp_path, workers
):
    seen = []
    progress = lambda *step: seen.append(step)  # noqa: E731
    found = on_ray(ward, tmp_path, tiny_bundle, workers=workers, progress=progress)
    assert (found, end_of_run(tmp_path)) == (local[0], end_of_run(local[1]))
    assert [("scoring", k, 5) for k in range(6)] == list(dict.fromkeys(seen))[:6]
    written = [path for path in cluster.folder.rglob("*") if path.is_file()]
    assert written
    assert not [path for path in written if b"Meyer" in path.read_bytes()]


@needs_ray
@pytest.mark.parametrize("workers", [1, 2])
def test_ieegs_end_in_the_bytes_of_the_local_engine(
    cluster, ieeg_array, ieeg_bundle, tmp_path, workers
):
    (tmp_path / "in").mkdir()
    for k in range(3):
        write_edf(tmp_path / "in" / f"{k}.edf", ieeg_array(4, 12.0, seed=k))
    found = on_ray(tmp_path / "in", tmp_path / "ray", ieeg_bundle, workers=workers)
    assert found == score_cohort(
        tmp_path / "in", tmp_path / "local", ieeg_bundle, device="cpu", workers=0
    )
    assert end_of_run(tmp_path / "ray") == end_of_run(tmp_path / "local")


@needs_ray
@pytest.mark.parametrize("victims", ["actors", "workers"])
def test_a_killed_worker_changes_no_byte(
    cluster, ward, local, tiny_bundle, tmp_path, victims
):
    killed = set()

    def progress(stage, done, of):
        if done and not killed:
            killed.update(actors(cluster.pid)[victims == "workers"])
            for pid in killed:
                os.kill(pid, signal.SIGKILL)

    on_ray(ward, tmp_path, tiny_bundle, progress=progress)
    assert killed
    assert end_of_run(tmp_path) == end_of_run(local[1])


@needs_ray
def test_a_killed_run_leaves_no_process_and_goes_on(
    cluster, ward, local, tiny_bundle, tmp_path
):
    (tmp_path / "run.py").write_text(RUN)
    out = tmp_path / "out"
    command = [sys.executable, str(tmp_path / "run.py"), str(ward), str(out)]
    killed = subprocess.run(
        [*command, str(tiny_bundle), "2"], capture_output=True, check=False
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    wait_for(lambda: not any(actors(cluster.pid)))
    assert not (out / "manifest.json").exists()
    before = {path: path.stat().st_mtime_ns for path in out.glob("part-*.json")}
    on_ray(ward, out, tiny_bundle)
    assert len(before) >= 2
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert end_of_run(out) == end_of_run(local[1])


@needs_ray
@pytest.mark.parametrize("fault", ["crash", "stall"])
def test_a_recording_that_crashes_or_stalls_gets_the_row_it_gets_locally(
    cluster, ward, tiny_bundle, tmp_path, monkeypatch, fault, misbehaving
):
    for ending in ("hea", "dat"):
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / f"{fault}.{ending}").hardlink_to(ward / f"Meyer0.{ending}")
        (tmp_path / "in" / f"z.{ending}").hardlink_to(ward / f"Meyer1.{ending}")
    options = {"rows": 2, "time_limit": 3.0}
    for engine in ("local", "ray"):
        found = on(engine, tmp_path / "in", tmp_path / engine, tiny_bundle, **options)
    assert found.codes.keys() & {"E_WORKER", "E_TIMEOUT"}
    assert end_of_run(tmp_path / "ray") == end_of_run(tmp_path / "local")


@needs_ray
def test_a_part_that_takes_its_actor_along_is_given_up(
    cluster, ward, tiny_bundle, tmp_path, misbehaving
):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "fatal.hea").hardlink_to(ward / "Meyer0.hea")
    with pytest.raises(RuntimeError, match="Ray cluster failed"):
        on_ray(tmp_path / "in", tmp_path / "out", tiny_bundle)


@pytest.fixture
def misbehaving(monkeypatch):
    """Some recordings harm the process that reads them."""
    reader = import_module(READER).Misbehaving
    find = scoring.find_records

    @contextmanager
    def found(*args, **options):
        with find(*args, **options) as source:
            listed: Any = source
            yield replace(listed, reader=reader(listed.reader.root))

    monkeypatch.setattr(scoring, "find_records", found)


@needs_ray
def test_a_disk_that_cannot_be_written_ends_the_run_as_locally(
    cluster, ward, tiny_bundle, tmp_path
):
    errors = []
    for engine in ("local", "ray"):
        out = tmp_path / engine
        with pytest.raises(IsADirectoryError) as failed:
            on(engine, ward, out, tiny_bundle, progress=partial(obstruct, out))
        errors.append(failed.value.args)
        assert not (out / "manifest.json").exists()
    assert errors[0] == errors[1]


def test_a_changed_recording_is_noticed_before_ray_is_started(
    ward, tiny_bundle, tmp_path, monkeypatch
):
    for path in ward.iterdir():
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / path.name).write_bytes(path.read_bytes())
    on("local", tmp_path / "in", tmp_path / "out", tiny_bundle)
    (tmp_path / "out" / "part-00004.parquet").unlink()
    with (tmp_path / "in" / "Meyer0.dat").open("r+b") as file:
        file.write(b"\7\7")
    monkeypatch.setattr(ray_engine, "find_spec", lambda name: True)
    monkeypatch.setattr(ray_engine, "_cluster", None)
    with pytest.raises(BadInput, match="changed after they were scored") as refused:
        on_ray(tmp_path / "in", tmp_path / "out", tiny_bundle)
    assert refused.value.code == "E_VERSION"


@needs_ray
def test_a_machine_with_another_installation_is_refused(
    cluster, ward, tiny_bundle, tmp_path, monkeypatch
):
    facts = ray_engine._facts
    monkeypatch.setattr(ray_engine, "_facts", lambda *one: {**facts(*one), "numpy": "1.0"})
    with pytest.raises(BadInput, match=r"differs from .* in: numpy") as refused:
        on_ray(ward, tmp_path, tiny_bundle)
    assert refused.value.code == "E_VERSION"


@needs_ray
def test_actors_leave_a_processor_free(cluster, ward, tiny_bundle, tmp_path):
    with pytest.raises(BadInput, match=r"4 processors.* be 3 at most") as refused:
        on_ray(ward, tmp_path, tiny_bundle, workers=4)
    assert refused.value.code == "E_RANGE"


def test_without_ray_the_remedy_is_said(ward, tmp_path, monkeypatch):
    monkeypatch.setattr(ray_engine, "find_spec", lambda name: None)
    with find_records(ward, kind="ecg", scratch=tmp_path / "scratch") as source:
        work = PartWork(
            out=tmp_path, plan_hash="", kind="ecg", model=tmp_path, device="cpu",
            inference="torch", reader=source.reader,
        )  # fmt: skip
        with pytest.raises(BadInput, match=r"pip install 'phenokit\[ray\]'") as refused:
            ray_engine.make_on_ray(
                work, Parts(source, [0], 2), workers=1, time_limit=9.0, collect=print
            )
    assert refused.value.code == "E_MISSING"


@needs_ray
def test_an_address_without_a_cluster_is_said(ward, tiny_bundle, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "ray://127.0.0.1:10001")
    with pytest.raises(BadInput, match="HOST:PORT"):
        on_ray(ward, tmp_path, tiny_bundle)


@needs_ray
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="a processor has to stay free")
def test_the_command_starts_a_cluster_of_its_own_and_wipes_it(
    ward, local, tiny_bundle, tmp_path, monkeypatch
):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    command = [sys.executable, "-m", "phenokit.cli", "score", str(ward), "--engine", "ray"]
    options = ["--model", str(tiny_bundle), "--device", "cpu", "--out", str(tmp_path)]
    with TemporaryDirectory(prefix="r") as folder:  # short, for the sockets in it
        monkeypatch.setenv("RAY_TMPDIR", folder)
        dead = Path(folder) / "pkray-999999999-x"
        dead.mkdir()
        done = subprocess.run(
            [*command, *options, "--workers", "1"],
            capture_output=True,
            check=False,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert list(Path(folder).iterdir()) == []
    assert "Meyer" not in done.stdout + done.stderr
    assert len(list(tmp_path.glob("part-*.parquet"))) == 1
    assert not list(tmp_path.glob(".scratch-*"))
