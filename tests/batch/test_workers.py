"""A worker that dies or hangs costs its own argument and no other."""

import os
import time

import pytest

from phenokit.batch.workers import run_isolated


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


def test_run_isolated_of_nothing_is_nothing():
    assert run_isolated(int, [], workers=2, time_limit=9.0) == []
