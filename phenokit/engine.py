"""The one inference engine of a process: models loaded once, one worker, a bounded queue.

Many sessions of the app share a model; each asks here. One thread owns the models and runs
every forward pass, so that nothing is computed twice at a time and memory stays flat.
Recordings that arrive within a few milliseconds are scored as one batch. A batch is padded
to one shape by `pipeline`, so a recording's numbers do not depend on its company.

Nobody waits without end. When the queue is full the answer is `EngineBusy` at once; a
request that was not begun within the deadline gets the same; and one whose asker has gone
leaves its place to others.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from phenokit.errors import PhenoKitError
from phenokit.evidence.prototypes import Prototype
from phenokit.pipeline import (
    ECGModel,
    Explanation,
    ScoredECG,
    ScoredIEEG,
    explain_scored,
    load_ecg_model,
    score_ecg,
    score_ieeg,
    source_recording,
)
from phenokit.recording import LongRecording, Recording

if TYPE_CHECKING:
    from phenokit.monitor import IEEGModel


SECONDS_BETWEEN_LOOKS = 0.1
"""How often a request that waits asks whether it is still wanted."""


class EngineBusy(PhenoKitError):
    """Too many requests wait; the same one may succeed in a few seconds."""


@dataclass
class _Job:
    """A function to run in the worker, or a recording to score in a batch."""

    run: Callable[[], Any] | None = None
    recording: Recording | None = None
    batch: tuple[str, bool] | None = None  # model, open_abstained
    future: Future = field(default_factory=Future)


class Engine:
    """Scores and explains recordings for every session of a process.

    Parameters
    ----------
    device
        ``"auto"``, ``"cpu"`` or ``"cuda"``.
    max_waiting
        Requests that may wait; one more is refused with `EngineBusy`.
    max_batch
        Recordings in one forward pass at most.
    window
        Seconds to wait for company before a batch is run.
    deadline
        Seconds that a request may wait until it is begun.
    while_waiting
        Called in the thread of whoever waits, ten times a second; what it raises ends the
        wait, and a request that was not begun is never run.
    """

    def __init__(
        self,
        *,
        device: str = "auto",
        max_waiting: int = 32,
        max_batch: int = 16,
        window: float = 0.004,
        deadline: float = 30.0,
        while_waiting: Callable[[], None] = lambda: None,
    ) -> None:
        self._device = device
        self._max_batch = max_batch
        self._window = window
        self._models: dict[str, ECGModel] = {}
        self._ieeg_models: dict[str, IEEGModel] = {}
        self._asked: set[str] = set()
        self._max_waiting = max_waiting
        self._deadline = deadline
        self._while_waiting = while_waiting
        self._waiting: deque[_Job] = deque()
        self._is_closed = False
        self._changed = threading.Condition()
        self._worker = threading.Thread(target=self._work, name="phenokit", daemon=True)
        self._worker.start()

    def model(self, name: str) -> ECGModel:
        """The model of this name, loaded on first use.

        Raises
        ------
        BundleError
            If its bundle is missing or does not match its hashes.
        """
        return self._models.get(name) or self._ask(lambda: self._model(name))

    def preload(self, name: str) -> None:
        """Begin to load a model, so that the first recording need not wait for it."""
        if name not in self._asked:
            self._asked.add(name)
            with suppress(EngineBusy):
                self.run(lambda: self._model(name))

    def score_ecg(
        self, recording: Recording, model: str, *, open_abstained: bool = False
    ) -> ScoredECG:
        """What `pipeline.score_ecg` says, scored together with whoever asks meanwhile."""
        job = _Job(recording=recording, batch=(model, open_abstained))
        return self._wait(self._put(job))

    def explain(
        self, recording: Recording, model: str, *, open_abstained: bool = False
    ) -> Explanation:
        """What `pipeline.explain` says; scored together with whoever asks meanwhile."""
        scored = self.score_ecg(recording, model, open_abstained=open_abstained)
        return explain_scored(scored, self.model(model))

    def score_ieeg(self, recording: LongRecording, model: str) -> ScoredIEEG:
        """What `pipeline.score_ieeg` says.

        For minutes of a recording: hours would keep all others waiting, and are a job for
        a process of its own (`phenokit.jobs`).
        """
        return self._ask(lambda: score_ieeg(recording, self._ieeg_model(model)))

    def ieeg_model(self, name: str) -> "IEEGModel":
        """As `model`, of a bundle for intracranial EEG."""
        loaded = self._ieeg_models.get(name)
        return loaded or self._ask(lambda: self._ieeg_model(name))

    def source_recording(self, prototype: Prototype, model: str) -> Recording | None:
        """The recording of a prototype; ``None`` where it is not at hand."""
        return self._ask(lambda: source_recording(prototype, self._model(model)))

    def run(self, function: Callable[[], Any]) -> Future:
        """Run a function in the worker thread, after what waits there already.

        A future that is cancelled before it is begun leaves its place.

        Raises
        ------
        EngineBusy
            If the queue is full.
        """
        return self._put(_Job(run=function))

    def close(self) -> None:
        """Finish what waits, then end the worker."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._worker.join()

    def _ask(self, function: Callable[[], Any]) -> Any:  # noqa: ANN401 - its result
        return self._wait(self.run(function))

    def _wait(self, future: Future) -> Any:  # noqa: ANN401 - its result
        end = time.monotonic() + self._deadline
        try:
            while not wait_for([future], timeout=SECONDS_BETWEEN_LOOKS).done:
                self._while_waiting()
                if time.monotonic() > end and future.cancel():
                    raise EngineBusy(
                        f"a request was not begun within {self._deadline:g} s; try again "
                        "in a few seconds"
                    )
        except BaseException:
            future.cancel()
            raise
        return future.result()

    def _put(self, job: _Job) -> Future:
        with self._changed:
            if len(self._waiting) >= self._max_waiting:
                wanted = [one for one in self._waiting if not one.future.cancelled()]
                self._waiting = deque(wanted)
            if len(self._waiting) >= self._max_waiting:
                raise EngineBusy(
                    f"{self._max_waiting} recordings are waiting; try again in a few "
                    "seconds"
                )
            self._waiting.append(job)
            self._changed.notify()
        return job.future

    def _take(self, timeout: float | None = None) -> _Job | None:
        """The next request that is wanted; None if none comes in time, or ever again."""
        with self._changed:
            while True:
                while self._waiting:
                    job = self._waiting.popleft()
                    if job.future.set_running_or_notify_cancel():
                        return job
                if self._is_closed or not self._changed.wait(timeout):
                    return None

    def _work(self) -> None:
        while jobs := self._next_jobs():
            batches: dict[tuple[str, bool], list[_Job]] = {}
            for job in jobs:
                if job.batch is None:
                    _settle(job.future, job.run)
                else:
                    batches.setdefault(job.batch, []).append(job)
            for (model, open_abstained), members in batches.items():
                self._score(members, model, open_abstained=open_abstained)

    def _next_jobs(self) -> list[_Job]:
        """The next job and, if it can be batched, those that follow within the window."""
        job = self._take()
        if job is None:
            return []
        jobs = [job]
        end = time.monotonic() + self._window
        while jobs[-1].batch is not None and len(jobs) < self._max_batch:
            job = self._take(timeout=max(end - time.monotonic(), 0.0))
            if job is None:
                break
            jobs.append(job)
        return jobs

    def _score(self, jobs: Sequence[_Job], model: str, *, open_abstained: bool) -> None:
        recordings = [job.recording for job in jobs if job.recording is not None]
        try:
            scored = score_ecg(
                recordings, self._model(model), open_abstained=open_abstained
            )
        except Exception as error:
            if len(jobs) > 1:  # one recording must not spoil the others'
                for job in jobs:
                    self._score([job], model, open_abstained=open_abstained)
                return
            jobs[0].future.set_exception(error)
            return
        for job, one in zip(jobs, scored, strict=True):
            job.future.set_result(one)

    def _model(self, name: str) -> ECGModel:
        """Only the worker calls this, so a model is never loaded twice."""
        if name not in self._models:
            self._models[name] = load_ecg_model(name, device=self._device)
        return self._models[name]

    def _ieeg_model(self, name: str) -> "IEEGModel":
        from phenokit.monitor import load_ieeg_model

        if name not in self._ieeg_models:
            self._ieeg_models[name] = load_ieeg_model(name, device=self._device)
        return self._ieeg_models[name]


def _settle(future: Future, function: Callable[[], Any] | None) -> None:
    if function is None:
        return
    try:
        future.set_result(function())
    except Exception as error:
        future.set_exception(error)
