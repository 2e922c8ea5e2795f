"""Scoring a cohort: what exactly-once costs, and whether it stays small.

    OMP_NUM_THREADS=1 python benchmarks/batch.py [--model NAME] [--records N]
        [--many N] [--whole N] [--parts overhead,workers,resume,start,memory]

Records of 10 s at 100 Hz are simulated and repeated as hard links. Every measured run is a
process of its own, so that peaks are its own. Times of the processor are those of all
processes of a run, start and model included. Printed:

- `overhead`: time of the processor of `score_cohort` with one worker, over that of a plain
  loop (`read_ecg` and `score_ecg` in blocks of 256, the numbers kept); wanted <= 1.5;
- `workers`: wall time with one worker over that with two; wanted >= 1.7 on an idle machine.
  Beside it, what the processor allows: the work of one worker over the larger share of two;
- `resume`: parts that were done when the run was killed and are made again; wanted none,
  and what was lost at most a part a worker;
- `start`: seconds until the first recording of `--many` is given to a worker, by the wall
  and by the processor; wanted < 5;
- `memory`: peak resident memory at `--many` records over that at a tenth of them, of the
  parent and of a worker; wanted <= 1.1. One record in `--whole` is of 10 s, the others of
  2 s, from which the model abstains: what is kept of a record is the same, and soon made.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import wfdb

from phenokit.batch.score import score_cohort
from phenokit.pipeline import load_ecg_model, score_ecg
from phenokit.readers.ecg import read_ecg
from phenokit.simulation.ecg import simulate_ecg

N_DIFFERENT = 40
A_FOLDER = 1000
BLOCK = 256
CONDITIONS = ("normal", "atrial_fibrillation", "left_bundle_branch_block")


def write_ward(folder: Path, n: int, whole: int = 1) -> Path:
    """`n` records in folders of a thousand; their files are links to a few."""
    first = folder.with_name("different")
    if not first.exists():
        first.mkdir(parents=True)
        rng = np.random.default_rng(7)
        for k in range(N_DIFFERENT):
            recording = simulate_ecg(
                CONDITIONS[k % 3], rng=rng, age=60.0, sex="female", sampling_rate=100.0
            ).recording
            signal = np.rint(recording.signal.T * 1000).astype(np.int64)
            for name, samples in ((f"s{k:02d}", signal), (f"short{k:02d}", signal[:200])):
                wfdb.wrsamp(
                    name, fs=100, units=["mV"] * 12, sig_name=list(recording.channels),
                    d_signal=samples, fmt=["16"] * 12, adc_gain=[1000.0] * 12,
                    baseline=[0] * 12, write_dir=str(first),
                )  # fmt: skip
    for begin in range(0, n, A_FOLDER):
        here = folder / f"{begin // A_FOLDER:04d}"
        here.mkdir(parents=True)
        for path in first.glob("s[0-9]*.dat" if whole == 1 else "*.dat"):
            os.link(path, here / path.name)
        for number in range(begin, min(begin + A_FOLDER, n)):
            length = "short" if number % whole else "s"
            which = number // whole % N_DIFFERENT
            os.link(first / f"{length}{which:02d}.hea", here / f"r{number:06d}.hea")
    return folder


# --- one run, in a process of its own -----------------------------------------------------


class Watch(threading.Thread):
    """Peak memory and time of the processor of this process and of its workers."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak: dict[int, int] = {}
        self.cpu: dict[int, float] = {}
        self.is_over = threading.Event()

    def run(self) -> None:
        """Look twice a second."""
        while not self.is_over.wait(0.5):
            self.look()

    def look(self) -> None:
        """Read what the kernel knows."""
        own = os.getpid()
        children = Path(f"/proc/{own}/task/{own}/children").read_text().split()
        for pid in (own, *map(int, children)):
            try:
                status = Path(f"/proc/{pid}/status").read_text()
                stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # it has just ended
            if "VmHWM" in status:
                self.peak[pid] = int(status.partition("VmHWM:")[2].split()[0]) * 1024
                ticks = int(stat[11]) + int(stat[12])
                self.cpu[pid] = ticks / os.sysconf("SC_CLK_TCK")


def measure(way: str, ward: Path, out: Path, model: str, workers: int) -> dict[str, Any]:
    """Run once and say what it took."""
    began, first = time.perf_counter(), 0.0

    def progress(stage: str, done: int, of: int) -> None:
        nonlocal first
        first = first or time.perf_counter() - began

    watch = Watch()
    watch.start()
    if way == "loop":
        plain_loop(ward, model)
    else:
        score_cohort(ward, out, model, device="cpu", workers=workers, progress=progress)
    wall = time.perf_counter() - began
    watch.is_over.set()
    own, times = os.getpid(), os.times()
    others = [pid for pid in watch.cpu if pid != own]
    return {
        "wall": wall,
        "cpu": times.user + times.system + times.children_user + times.children_system,
        "first": first,
        "parent_peak": watch.peak.get(own, 0),
        "worker_peak": max((watch.peak[pid] for pid in others), default=0),
        "worker_cpu": max((watch.cpu[pid] for pid in others), default=0.0),
    }


def plain_loop(ward: Path, model: str) -> list[np.ndarray]:
    """What anybody would write: read, score, keep the numbers."""
    loaded = load_ecg_model(model, device="cpu")
    paths = sorted(ward.rglob("*.hea"))
    kept = []
    for first in range(0, len(paths), BLOCK):
        recordings = [read_ecg(path) for path in paths[first : first + BLOCK]]
        for scored in score_ecg(recordings, loaded):
            kept += [scored.probability, scored.similarity]
    return kept


# --- questions ----------------------------------------------------------------------------


class Bench:
    """Wards of several sizes, made when they are asked for."""

    def __init__(self, folder: Path, arguments: argparse.Namespace) -> None:
        self.folder, self.model = folder, arguments.model
        self.records, self.many = arguments.records, arguments.many
        self.whole = arguments.whole
        self.n_runs = 0

    def ward(self, n: int, whole: int) -> Path:
        """`n` records, of which one in `whole` is of 10 s."""
        folder = self.folder / f"{n}-{whole}" / "ward"
        return folder if folder.exists() else write_ward(folder, n, whole)

    def start(
        self, way: str, n: int, workers: int, out: Path, whole: int = 1
    ) -> subprocess.Popen[str]:
        """A run in a new process."""
        command = [
            sys.executable, __file__, "--measure", way, str(self.ward(n, whole)),
            str(out), self.model, str(workers),
        ]  # fmt: skip
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def run(
        self,
        way: str,
        n: int,
        *,
        workers: int = 1,
        out: Path | None = None,
        whole: int = 1,
    ) -> dict[str, Any]:
        """A run in a new process, to its end."""
        self.n_runs += 1
        out = out or self.folder / f"out-{self.n_runs}"
        process = self.start(way, n, workers, out, whole)
        said = process.communicate()[0]
        if process.returncode:
            raise SystemExit(f"a run ended with {process.returncode}")
        return json.loads(said.splitlines()[-1])

    def overhead(self) -> None:
        """Time of the processor over that of a plain loop."""
        loop, scored = self.run("loop", self.records), self.run("score", self.records)
        each = 1000 / self.records
        print(
            f"overhead: {scored['cpu'] / loop['cpu']:.2f} x the plain loop "
            f"({scored['cpu'] * each:.2f} and {loop['cpu'] * each:.2f} ms a record)"
        )

    def workers(self) -> None:
        """Two workers against one."""
        one, two = (self.run("score", self.records, workers=w) for w in (1, 2))
        print(
            f"workers: {one['wall'] / two['wall']:.2f} x by the wall; the processor allows "
            f"{one['worker_cpu'] / two['worker_cpu']:.2f} x"
        )

    def resume(self) -> None:
        """Kill a run of two workers half-way and give its command again."""
        out = self.folder / "killed"
        n_parts = -(-self.records // BLOCK)
        process = self.start("score", self.records, 2, out)
        while len([*out.glob("part-*.json")]) < n_parts // 2 and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        time.sleep(1)
        done = {path: path.stat().st_mtime_ns for path in out.glob("part-*.json")}
        self.run("score", self.records, workers=2, out=out)
        again = [path for path, when in done.items() if path.stat().st_mtime_ns != when]
        print(
            f"resume: of {n_parts} parts {len(done)} were done; {len(again)} of them were "
            "made again, and of the others at most 2 had been begun"
        )

    def beginning(self) -> None:
        """Time until the first recording of many is given out."""
        out = self.folder / "begun"
        process = self.start("start", self.many, 1, out, self.whole)
        wall, cpu = map(float, process.communicate()[0].split())
        print(
            f"start: {wall:.2f} s by the wall, {cpu:.2f} s by the processor, of "
            f"{self.many:,} records"
        )

    def memory(self) -> None:
        """Peaks at many records over those at a tenth."""
        few, many = (
            self.run("score", n, whole=self.whole) for n in (self.many // 10, self.many)
        )
        for who in ("parent", "worker"):
            a, b = few[f"{who}_peak"], many[f"{who}_peak"]
            print(
                f"memory of the {who}: {b / a:.3f} x ({a >> 20} MiB at "
                f"{self.many // 10:,}, {b >> 20} MiB at {self.many:,} records)"
            )


class _BegunError(Exception):
    """Enough has been seen."""


def time_start(ward: Path, out: Path, model: str) -> tuple[float, float]:
    """Seconds until the first part could be made: by the wall, and by the processor.

    The wall's begin when all is imported, the processor's with the process.
    """
    began = time.perf_counter()

    def stop(stage: str, done: int, of: int) -> None:
        raise _BegunError

    with suppress(_BegunError):
        score_cohort(ward, out, model, device="cpu", workers=1, progress=stop)
    return time.perf_counter() - began, time.process_time()


def main() -> None:
    """Measure and print a line each."""
    parser = argparse.ArgumentParser(description="Measure the batch scorer")
    parser.add_argument("--model", default="ecg-demo")
    parser.add_argument("--records", type=int, default=10_000)
    parser.add_argument("--many", type=int, default=100_000)
    parser.add_argument("--whole", type=int, default=20)
    parser.add_argument("--parts", default="overhead,workers,resume,start,memory")
    parser.add_argument("--measure", nargs=5, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        way, ward, out, model, workers = arguments.measure
        if way == "start":
            print(*time_start(Path(ward), Path(out), model))
        else:
            print(json.dumps(measure(way, Path(ward), Path(out), model, int(workers))))
        return
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), arguments)
        questions = {
            "overhead": bench.overhead, "workers": bench.workers, "resume": bench.resume,
            "start": bench.beginning, "memory": bench.memory,
        }  # fmt: skip
        for name in str(arguments.parts).split(","):
            questions[name]()
            print(f"    load {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")


if __name__ == "__main__":
    main()
