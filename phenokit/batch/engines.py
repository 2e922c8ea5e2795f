"""Who makes the parts of a run, and where: here, in worker processes, or on a Ray cluster.

An engine distributes numbers of parts and no data: wherever a part is made, `make_part`
reads its recordings, scores them and writes the same bytes. How many processes there are,
and which of them makes which part, changes nothing.
"""

import os
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from threadpoolctl import threadpool_limits

from phenokit.batch.parts import (
    WRITING,
    NoReceipt,
    Part,
    PartWork,
    load_work_model,
    make_part,
)
from phenokit.batch.workers import Again, Crew, Run
from phenokit.errors import BadInput
from phenokit.pipeline import BATCH

if TYPE_CHECKING:
    from phenokit.batch.sources import RecordSource

Collect = Callable[[int, Mapping[str, Any]], None]
"""Called with the number and the receipt of each part that is done."""

Steps = Callable[[Mapping[int, tuple[int, int]]], None]
"""Called with step and number of steps of each part that is being made."""

DEATHS_OUTSIDE = 3
"""Deaths of a worker while it was at no recording, after which the run fails."""


@dataclass(frozen=True)
class Parts(Sequence[Part]):
    """Parts of a source, cut when they are asked for.

    Attributes
    ----------
    numbers
        Which parts, in order.
    rows
        Recordings in a part; the last may have fewer.
    """

    source: "RecordSource"
    numbers: Sequence[int]
    rows: int

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: Any) -> Any:  # noqa: ANN401 - as in Sequence
        k = self.numbers[index]
        stop = min((k + 1) * self.rows, len(self.source))
        return Part(k, tuple(self.source.records(k * self.rows, stop)))


def make_here(work: PartWork, parts: Sequence[Part], *, collect: Collect) -> None:
    """Make parts one after the other in this process; a crash of a library ends it."""
    if not parts:
        return
    load_work_model(work)  # what it imports is to be limited as well
    with threadpool_limits(limits=1):  # sums in the order of worker processes
        for part in parts:
            collect(part.k, receipt_of(make_part(work, part), part.k))


def make_in_workers(
    work: PartWork,
    parts: Sequence[Part],
    *,
    workers: int,
    time_limit: float,
    collect: Collect,
    steps: Steps = lambda steps: None,
    needs_model: bool = True,
) -> None:
    """Make parts in worker processes; a recording that kills or stalls one is coded.

    After a first death the part is made again one recording at a time; a recording at
    which a worker dies twice is given ``E_WORKER`` and one that overruns its time
    ``E_TIMEOUT``. The other rows are what they would be without it.

    Parameters
    ----------
    workers
        Processes, at least 1.
    time_limit
        Seconds for reading, or for scoring, one recording; of an iEEG, for every minute.
    needs_model
        Load the model before the first part; not where all parts are there already.

    Raises
    ------
    OSError
        If a part cannot be written.
    BadInput
        ``E_VERSION`` if recordings of a part were changed after they were scored.
    RuntimeError
        If workers die although they are at no recording.
    """
    with part_crew(work, workers=workers, needs_model=needs_model) as crew:
        make_with(crew, parts, time_limit=time_limit, collect=collect, steps=steps)


def part_crew(work: PartWork, *, workers: int, needs_model: bool = True) -> Crew:
    """Worker processes that make parts."""
    return Crew(
        partial(make_part, work),
        workers=workers,
        warm_up=partial(_warm_up, work) if needs_model else int,
    )


def make_with(
    crew: Crew,
    parts: Sequence[Part],
    *,
    time_limit: float,
    collect: Collect,
    steps: Steps = lambda steps: None,
) -> None:
    """`make_in_workers`, with workers that are there."""

    def take(index: int, part: Part, run: Run) -> None:
        if run.end != "done":
            raise RuntimeError(f"part {part.k} could not be made ({run.value or run.end})")
        collect(part.k, receipt_of(run.value, part.k))

    crew.run(parts, time_limit=time_limit, look=steps, collect=take, again=_blame())


def receipt_of(made: Mapping[str, Any] | NoReceipt, k: int) -> Mapping[str, Any]:
    """The receipt of part `k`, or the error that its making ended in."""
    if not isinstance(made, NoReceipt):
        return made
    if made.reason == "disk":
        raise OSError(made.errno, os.strerror(made.errno))
    raise BadInput(
        "E_VERSION",
        f"Recordings of part {k} were changed after they were scored; put them back, or "
        "score all again with --restart.",
    )


def _warm_up(work: PartWork) -> None:
    """Load the model of a worker process, which computes on one thread."""
    load_work_model(work)
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(1)


def _blame() -> Again:
    """What to try after a death or an overrun, and whom to lay it to."""
    outside: Counter[int] = Counter()

    def again(index: int, part: Part, run: Run) -> Part | None:
        where = _positions(part, run.mark)
        if not where:
            outside[index] += 1
            return part if outside[index] < DEATHS_OUTSIDE else None
        is_known = run.end == "overran" or (part.careful and where <= part.suspects)
        if len(where) == 1 and is_known:
            (i,) = where
            if i in part.unhashed:
                return None
            if i in part.faults:
                return replace(part, unhashed=part.unhashed | where)
            code = "E_TIMEOUT" if run.end == "overran" else "E_WORKER"
            return replace(part, careful=True, faults={**part.faults, i: code})
        return replace(part, careful=True, suspects=part.suspects | where)

    return again


def _positions(part: Part, step: int) -> frozenset[int]:
    """Positions of the recordings that a worker was at; none before and after all."""
    if step == WRITING:
        return frozenset()
    if len(part.records) == 1:
        return frozenset({0})
    if step == 0:
        return frozenset()
    last = (step - 1) // 2  # see `score_ecg_records`
    is_reading = step % 2 == 1
    first = last if is_reading or part.careful else last // BATCH * BATCH
    return frozenset(range(first, last + 1))
