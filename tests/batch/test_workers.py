"""A worker that dies or hangs costs its own argument and no other."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from phenokit.batch.workers import Crew, mark, run_isolated


def halve_or_misbehave(number):
    if number == 13:
        os._exit(3)
    if number == 17:
        time.sleep(60)
    if number == 19:
        raise ValueError("Doe, John")
    return number / 2


def die_once(path):
    if not path.exists():
        path.touch()
        os._exit(3)
    return os.getpid()


def take_steps(last):
    for step in range(1, 5):
        mark(step, 4)
        time.sleep(0.7)
        if step == last:
            os._exit(3)
    return last


def fail_to_start():
    os.kill(os.getpid(), signal.SIGKILL)


def start_at_the_third_try():
    """As of a machine that runs out of memory for a while."""
    tries = Path(os.environ["TRIES"])
    tries.write_text(tries.read_text() + "x")
    if len(tries.read_text()) < 3:
        fail_to_start()


LEAVE_A_WORKER = """
import os, signal, time
from phenokit.batch.workers import Crew

with Crew(time.sleep, workers=1) as crew:
    def look(steps):
        if steps:
            print(crew._crew[0].process.pid, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
    crew.run([600], time_limit=900, collect=print, look=look)
"""


def ask_for(n_bytes):
    return len(bytes(n_bytes))


@pytest.mark.parametrize("workers", [1, 3])
def test_run_isolated_loses_only_the_argument_that_kills_its_worker(workers):
    numbers = [1, 13, 2, 17, 3, 19, 4]
    runs = run_isolated(halve_or_misbehave, numbers, workers=workers, time_limit=3.0)
    assert [run.value for run in runs] == [0.5, None, 1, None, 1.5, "ValueError", 2]
    ends = ["done", "died", "done", "overran", "done", "raised", "done"]
    assert [run.end for run in runs] == ends
    assert all(run.peak_bytes > 0 for run in runs if run.end == "done")


def test_run_isolated_tries_a_second_time_in_another_process(tmp_path):
    runs = run_isolated(die_once, [tmp_path / "seen"], workers=1, time_limit=9.0)
    assert runs[0].end == "done"
    assert runs[0].value != os.getpid()


def test_run_isolated_bounds_the_memory_of_a_worker():
    runs = run_isolated(
        ask_for, [1000, 8 << 30, 5], workers=1, time_limit=9.0, memory_limit=4 << 30
    )
    assert [run.value for run in runs] == [1000, "MemoryError", 5]


def test_run_isolated_says_that_no_worker_can_start():
    with pytest.raises(RuntimeError, match="cannot be started"):
        run_isolated(int, ["1"], workers=1, time_limit=9.0, warm_up=os.abort)
    with pytest.raises(ValueError, match="at least 1"):
        run_isolated(int, ["1"], workers=0, time_limit=9.0)


def test_a_time_limit_is_that_of_a_step_and_the_step_of_a_death_is_known():
    seen, ends, asked = set(), [], []

    def again(index, argument, run):
        asked.append((argument, run.end, run.mark))
        return 9 if argument == 3 else None

    with Crew(take_steps, workers=1) as crew:
        crew.run(
            [3, 8],
            time_limit=2.5,  # less than the four steps together
            look=lambda steps: seen.update(steps.values()),
            again=again,
            collect=lambda index, argument, run: ends.append((index, run.end, run.value)),
        )
    assert asked == [(3, "died", 3)]
    assert ends == [(0, "done", 9), (1, "done", 8)]
    assert {step for step, _ in seen} >= {1, 2, 3}
    assert {of for step, of in seen if step} == {4}


def test_a_worker_that_dies_while_it_starts_is_replaced(tmp_path, monkeypatch):
    tries = tmp_path / "tries"
    tries.write_text("")
    monkeypatch.setenv("TRIES", str(tries))
    runs = run_isolated(
        abs, [-1, -2], workers=1, time_limit=9.0, warm_up=start_at_the_third_try
    )
    assert [run.value for run in runs] == [1, 2]


def test_a_worker_that_was_killed_while_idle_costs_nothing():
    with Crew(abs, workers=1) as crew:
        values = []
        for number in (-1, -2):
            crew.run(
                [number], time_limit=9.0, collect=lambda i, a, run: values.append(run.value)
            )
            crew._crew[0].process.kill()
            crew._crew[0].process.join()
    assert values == [1, 2]


def test_what_a_worker_does_ends_with_its_parent_however_that_is_killed():
    parent = subprocess.run(
        [sys.executable, "-c", LEAVE_A_WORKER], capture_output=True, text=True, timeout=60
    )
    assert parent.returncode == -signal.SIGKILL
    worker, deadline = Path("/proc", parent.stdout.strip()), time.monotonic() + 10
    while worker.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not worker.exists()


def test_a_collector_that_raises_ends_all_workers():
    def collect(index, argument, run):
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"), Crew(abs, workers=2) as crew:
        crew.run([-1, -2, -3], time_limit=9.0, collect=collect)
    assert crew._crew == []


def test_run_isolated_of_nothing_is_nothing():
    assert run_isolated(int, [], workers=2, time_limit=9.0) == []
