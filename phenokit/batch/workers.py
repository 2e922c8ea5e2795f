"""Run one function over many arguments, each in a process that may die without harm.

A file can make a reader crash, hang or ask for more memory than there is. Each worker
handles one argument at a time under a time and a memory limit; a worker that dies or
overruns is replaced, only its own argument is lost, and that one is tried once more in a
fresh process. The pools of the standard library give up all work when one worker dies.

An argument of many steps tells where it is by `mark`: the time limit is then that of a
step, and whoever asks again knows at which step the worker died. Workers die with the
process that started them, however that one ends.
"""

import ctypes
import multiprocessing
import os
import resource
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any, Literal

STARTUP_LIMIT = 600.0
"""Seconds a worker may take to import what it needs."""

FAILED_STARTS = 3
"""Workers in a row that end before they are ready, after which no more are started."""

SECONDS_BETWEEN_LOOKS = 0.25
"""How often the marks of the workers are read."""

_STOPS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
"""Signals that ask a process to stop."""

_DIE_WITH_PARENT = 1
"""PR_SET_PDEATHSIG of Linux."""

_place: Any = None
"""In a worker, shared with its parent: step, steps in all, when it began (monotonic)."""


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
    mark
        The last step that it told of; 0 before the first.
    """

    end: Literal["done", "raised", "died", "overran"]
    value: Any
    seconds: float
    cpu_seconds: float
    peak_bytes: int
    mark: int = 0


Again = Callable[[int, Any, Run], Any]
"""Called with index, argument and run of a worker that died or overran; returns what to
try instead, or ``None`` to let the run stand."""


def mark(step: int, of: int = 0) -> None:
    """Say which step of its argument this worker begins; nothing outside a worker.

    Parameters
    ----------
    of
        Steps in all, where that is known.
    """
    if _place is not None:
        _place[0], _place[1], _place[2] = step, of, time.monotonic()


def abandon() -> None:
    """End this worker, which can do nothing more, as if it had died; nothing elsewhere."""
    if _place is not None:
        os._exit(1)


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
    """Call `function` on each argument in worker processes of a `Crew`.

    Parameters
    ----------
    progress
        Called in this process with the number of arguments done and of all.

    Returns
    -------
    list
        One `Run` an argument, in the order of `arguments`.
    """
    runs: dict[int, Run] = {}

    def collect(index: int, argument: Any, run: Run) -> None:  # noqa: ANN401 - any argument
        runs[index] = run
        progress(len(runs), len(arguments))

    with Crew(
        function, workers=workers, memory_limit=memory_limit, warm_up=warm_up
    ) as crew:
        crew.run(arguments, time_limit=time_limit, collect=collect)
    return [runs[index] for index in range(len(arguments))]


class Crew:
    """Worker processes, started when there is work, ended with the ``with`` block.

    Parameters
    ----------
    function, warm_up
        Importable by name. `warm_up` runs once in each worker, before its first argument
        and outside the time limit.
    workers
        Number of processes, at least 1.
    memory_limit
        Address space of a worker in bytes; ``None``: not limited.
    """

    def __init__(
        self,
        function: Callable[[Any], Any],
        *,
        workers: int,
        memory_limit: int | None = None,
        warm_up: Callable[[], object] = int,
    ) -> None:
        if workers < 1:
            raise ValueError(f"workers is {workers}; at least 1 is needed")
        self._start = partial(_Worker, function, warm_up, memory_limit)
        self._size = workers
        self._crew: list[_Worker] = []
        self._n_failed_starts = 0

    def __enter__(self) -> "Crew":
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._crew:
            worker.stop()
        self._crew.clear()

    def run(
        self,
        arguments: Sequence[Any],
        *,
        time_limit: float,
        collect: Callable[[int, Any, Run], None],
        look: Callable[[Mapping[int, tuple[int, int]]], None] = lambda steps: None,
        again: Again | None = None,
    ) -> None:
        """Call the function on each argument.

        Parameters
        ----------
        arguments
            Read one by one, each when a worker is free for it.
        time_limit
            Seconds for one argument, or for one step of it where it tells of steps.
        collect
            Called with index, argument and run of each as it ends; may raise to end all.
        look
            Called some times a second with step and number of steps (`mark`) of each
            argument that is being worked on.
        again
            What to do after a death or an overrun; ``None``: a worker that died is given
            the same argument once more, one that overran is not.

        Raises
        ------
        RuntimeError
            If a worker cannot be started.
        """
        again = again or _once_more()
        crew = self._crew
        waiting = deque(range(len(arguments)))
        taken: dict[int, Any] = {}
        while waiting or any(worker.index is not None for worker in crew):
            while waiting and len(crew) < min(self._size, len(waiting) + _n_busy(crew)):
                crew.append(self._start())
            for worker in crew:
                if worker.index is None and worker.is_ready and waiting:
                    index = waiting.popleft()
                    if index not in taken:
                        taken[index] = arguments[index]
                    worker.start(index, taken[index], time_limit)
            for worker in _next_events(crew):
                index, run = worker.collect()
                if run is None:
                    self._n_failed_starts = 0
                    continue
                if run.end in ("died", "overran"):
                    worker.stop()
                    crew.remove(worker)
                    if index is None:
                        self._n_failed_starts += 1
                        if self._n_failed_starts == FAILED_STARTS:
                            raise RuntimeError("a worker process cannot be started")
                        continue
                    other = again(index, taken[index], run)
                    if other is not None:
                        taken[index] = other
                        waiting.appendleft(index)
                        continue
                if index is not None:
                    collect(index, taken.pop(index), run)
            look({w.index: w.steps for w in crew if w.index is not None})


def _once_more() -> Again:
    """One more try for an argument whose worker died."""
    tried: set[int] = set()

    def again(index: int, argument: Any, run: Run) -> Any:  # noqa: ANN401 - any argument
        if run.end != "died" or index in tried:
            return None
        tried.add(index)
        return argument

    return again


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
        self.place = context.RawArray("d", 3)
        self.process = context.Process(
            target=_work,
            args=(tasks, results, self.place, function, warm_up, memory_limit),
            daemon=True,
        )
        with _one_thread(), _undisturbed():
            self.process.start()
        tasks.close()
        results.close()
        self.index: int | None = None
        self.is_ready = False
        self.began = time.monotonic()
        self.time_limit = STARTUP_LIMIT

    @property
    def steps(self) -> tuple[int, int]:
        return int(self.place[0]), int(self.place[1])

    @property
    def deadline(self) -> float:
        return max(self.began, self.place[2]) + self.time_limit

    def start(self, index: int, argument: object, time_limit: float) -> None:
        self.index = index
        self.place[0] = self.place[1] = self.place[2] = 0.0
        self.began = time.monotonic()
        self.time_limit = time_limit
        try:
            self.tasks.send(argument)
        except OSError:
            self.time_limit = 0.0  # it died while idle; collected as dead

    def collect(self) -> tuple[int | None, Run | None]:
        """The argument's index and its run; no run when the worker only became ready."""
        index, seconds = self.index, time.monotonic() - self.began
        try:
            message = self.results.recv() if self.results.poll() else None
        except (EOFError, OSError):
            return index, Run("died", None, seconds, 0.0, 0, self.steps[0])
        if message is None:
            end = "overran" if self.process.is_alive() else "died"
            return index, Run(end, None, seconds, 0.0, 0, self.steps[0])
        if not self.is_ready:
            self.is_ready = True
            return None, None
        self.index = None
        end, value, seconds, cpu_seconds, peak = message
        return index, Run(end, value, seconds, cpu_seconds, peak, self.steps[0])

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.tasks.close()
        self.results.close()
        self.process.close()


@contextmanager
def _one_thread() -> Iterator[None]:
    """What is started meanwhile sums in the same order on every machine.

    The libraries read these when they are imported, which in a new process comes first.
    """
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Requests to stop wait: a process that is half started would print what it misses.

    Blocked for the new process, which inherits that; put off in this one, where another
    thread might take them.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    resource_tracker.ensure_running()  # by itself it would let the signals through again
    asked: list[int] = []
    handlers = {
        number: signal.signal(number, lambda which, frame: asked.append(which))
        for number in _STOPS
    }
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if asked:
            signal.raise_signal(asked[0])


def _n_busy(crew: Sequence[_Worker]) -> int:
    return sum(worker.index is not None for worker in crew)


def _next_events(crew: Sequence[_Worker]) -> list[_Worker]:
    """Workers that have said something, died, or run out of time; none after a while."""
    active = [worker for worker in crew if worker.index is not None or not worker.is_ready]
    soonest = min(worker.deadline for worker in active) - time.monotonic()
    heard = wait([w.results for w in active], min(max(0.0, soonest), SECONDS_BETWEEN_LOOKS))
    now = time.monotonic()
    return [w for w in active if w.results in heard or w.deadline <= now]


def _work(
    tasks: Connection,
    results: Connection,
    place: Any,  # noqa: ANN401 - an array of ctypes
    function: Callable[[Any], Any],
    warm_up: Callable[[], object],
    memory_limit: int | None,
) -> None:
    """What a worker process does until nobody sends it anything more."""
    global _place
    _die_with_parent()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)  # it was started with them blocked
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, who stops us
    if memory_limit is not None:
        resource.setrlimit(resource.RLIMIT_AS, (memory_limit, memory_limit))
    warm_up()
    _place = place
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


def _die_with_parent() -> None:
    """Let the kernel end this process when its parent is killed (Linux)."""
    parent = multiprocessing.parent_process()
    with suppress(AttributeError):  # elsewhere it ends with its present argument
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL, 0, 0, 0)
    if parent is not None and os.getppid() != parent.pid:
        os._exit(1)  # the parent died before the kernel knew of the wish
