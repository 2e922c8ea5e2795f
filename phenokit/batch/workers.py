"""Run one function over many arguments, each in a process that may die without harm.

A file can make a reader crash, hang or ask for more memory than there is. Each worker
handles one argument at a time under a time and a memory limit; a worker that dies or
overruns is replaced, only its own argument is lost, and that one is tried once more in a
fresh process. The pools of the standard library give up all work when one worker dies.
"""

import multiprocessing
import os
import resource
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, Literal

STARTUP_LIMIT = 600.0
"""Seconds a worker may take to import what it needs."""


@dataclass(frozen=True)
class Run:
    """What became of one argument.

    Attributes
    ----------
    end
        ``"done"``; ``"raised"`` an exception; ``"died"``; or ``"overran"`` its time.
    value
        The function's result; the name of the exception's type; else ``None``.
    seconds, cpu_seconds
        Time of the last try, by the wall and by the processor.
    peak_bytes
        Largest resident memory of the worker so far; 0 where it died.
    """

    end: Literal["done", "raised", "died", "overran"]
    value: Any
    seconds: float
    cpu_seconds: float
    peak_bytes: int


def run_isolated(
    function: Callable[[Any], Any],
    arguments: Sequence[Any],
    *,
    workers: int,
    time_limit: float,
    memory_limit: int | None = None,
    warm_up: Callable[[], object] = int,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> list[Run]:
    """Call `function` on each argument in worker processes.

    Parameters
    ----------
    function, warm_up
        Importable by name. `warm_up` runs once in each worker, before its first argument
        and outside the time limit.
    workers
        Number of processes, at least 1.
    time_limit
        Seconds for one argument.
    memory_limit
        Address space of a worker in bytes; ``None``: not limited.
    progress
        Called in this process with the number of arguments done and of all.

    Returns
    -------
    list
        One `Run` an argument, in the order of `arguments`.
    """
    if workers < 1:
        raise ValueError(f"workers is {workers}; at least 1 is needed")
    runs: dict[int, Run] = {}
    waiting = deque(range(len(arguments)))
    tried: set[int] = set()
    crew: list[_Worker] = []
    try:
        while waiting or any(worker.index is not None for worker in crew):
            while waiting and len(crew) < min(workers, len(waiting) + _n_busy(crew)):
                crew.append(_Worker(function, warm_up, memory_limit))
            for worker in crew:
                if worker.index is None and worker.is_ready and waiting:
                    index = waiting.popleft()
                    worker.start(index, arguments[index], time_limit)
            for worker in _next_events(crew):
                index, run = worker.collect()
                if run is None:
                    continue
                if run.end in ("died", "overran"):
                    worker.stop()
                    crew.remove(worker)
                    if index is None:
                        raise RuntimeError("a worker process cannot be started")
                    if run.end == "died" and index not in tried:
                        tried.add(index)
                        waiting.append(index)
                        continue
                if index is not None:
                    runs[index] = run
                    progress(len(runs), len(arguments))
    finally:
        for worker in crew:
            worker.stop()
    return [runs[index] for index in range(len(arguments))]


class _Worker:
    """One process, and the argument that it works on."""

    def __init__(
        self,
        function: Callable[[Any], Any],
        warm_up: Callable[[], object],
        memory_limit: int | None,
    ) -> None:
        context = multiprocessing.get_context("spawn")
        tasks, self.tasks = context.Pipe(duplex=False)  # plain pipes, no sockets
        self.results, results = context.Pipe(duplex=False)
        self.process = context.Process(
            target=_work,
            args=(tasks, results, function, warm_up, memory_limit),
            daemon=True,
        )
        self.process.start()
        tasks.close()
        results.close()
        self.index: int | None = None
        self.is_ready = False
        self.began = time.monotonic()
        self.deadline = self.began + STARTUP_LIMIT

    def start(self, index: int, argument: object, time_limit: float) -> None:
        self.index = index
        self.began = time.monotonic()
        self.deadline = self.began + time_limit
        try:
            self.tasks.send(argument)
        except OSError:
            self.deadline = self.began  # it died while idle; collected as dead

    def collect(self) -> tuple[int | None, Run | None]:
        """The argument's index and its run; no run when the worker only became ready."""
        index, seconds = self.index, time.monotonic() - self.began
        try:
            message = self.results.recv() if self.results.poll() else None
        except (EOFError, OSError):
            return index, Run("died", None, seconds, 0.0, 0)
        if message is None:
            end = "overran" if self.process.is_alive() else "died"
            return index, Run(end, None, seconds, 0.0, 0)
        if not self.is_ready:
            self.is_ready = True
            return None, None
        self.index = None
        return index, Run(*message)

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.tasks.close()
        self.results.close()
        self.process.close()


def _n_busy(crew: Sequence[_Worker]) -> int:
    return sum(worker.index is not None for worker in crew)


def _next_events(crew: Sequence[_Worker]) -> list[_Worker]:
    """Workers that have said something, died, or run out of time."""
    active = [worker for worker in crew if worker.index is not None or not worker.is_ready]
    soonest = min(worker.deadline for worker in active)
    heard = wait([w.results for w in active], max(0.0, soonest - time.monotonic()))
    now = time.monotonic()
    return [w for w in active if w.results in heard or w.deadline <= now]


def _work(
    tasks: Connection,
    results: Connection,
    function: Callable[[Any], Any],
    warm_up: Callable[[], object],
    memory_limit: int | None,
) -> None:
    """What a worker process does until nobody sends it anything more."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"  # the same sums in the same order on every machine
    if memory_limit is not None:
        resource.setrlimit(resource.RLIMIT_AS, (memory_limit, memory_limit))
    warm_up()
    results.send("ready")
    while True:
        try:
            argument = tasks.recv()
        except EOFError:
            return
        began, cpu_began = time.perf_counter(), time.process_time()
        end, value = "done", None
        try:
            value = function(argument)
        except Exception as error:  # its text is dropped: it may hold what the file holds
            end, value = "raised", type(error).__name__
        seconds = time.perf_counter() - began
        cpu_seconds = time.process_time() - cpu_began
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        results.send((end, value, seconds, cpu_seconds, peak))
