"""Which jobs may run: a few at once, the others in the order in which they came.

    <jobs>/queue/
      gate                 locked while somebody joins
      slot-0, slot-1 ...   each locked for as long as a job runs in it
      00000007-<job id>    ticket of a job that waits, locked by it; the smallest goes first

Nobody keeps the queue. Where no slot is free the process of a job waits by itself (`main`),
takes the next one, and then becomes the command (`exec`), so that its number and its locks
stay. The kernel frees locks when their last owner dies, in whatever way: a dead job holds
no place and no slot.

Only the standard library is imported: a process that waits must stay small.
"""

import fcntl
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from phenokit.errors import OutputBusy

WAIT = "from phenokit.job_queue import main; main()"
"""What the process of a job runs until it has a slot."""
SECONDS_BETWEEN_LOOKS = 0.25
_TICKET = re.compile(r"(\d{8})-([0-9a-f]{16})")


def join_queue(
    queue: Path, job_id: str, *, n_slots: int, max_waiting: int
) -> tuple[Path | None, int]:
    """Take a free slot, or the last place where there is none.

    Parameters
    ----------
    queue
        Folder of the queue; made if it is absent.
    job_id
        16 hexadecimal digits.
    n_slots
        Jobs that run at once.
    max_waiting
        Jobs that may wait beyond those that a free slot is there for.

    Returns
    -------
    tuple
        The ticket and its open, locked descriptor: whoever inherits that waits. Without a
        wait no ticket, and the descriptor of the slot.

    Raises
    ------
    OutputBusy
        If too many jobs wait.
    """
    queue.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _locked(queue / "gate"):
        live = []
        for ticket in _tickets(queue):
            if lock_is_held(ticket):
                live.append(ticket)
            else:  # its owner died
                ticket.unlink(missing_ok=True)
        if not live and (slot := _free_slot(queue, n_slots)) is not None:
            return None, slot
        n_free = sum(not lock_is_held(_slot(queue, k)) for k in range(n_slots))
        if len(live) >= max_waiting + n_free:
            raise OutputBusy(
                f"{len(live)} jobs are waiting already; wait for one, or cancel one"
            )
        number = int(live[-1].name[:8]) + 1 if live else 0
        ticket = queue / f"{number:08d}-{job_id}"
        descriptor = os.open(ticket, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # nobody has it for longer than a look
    return ticket, descriptor


def waiting_jobs(queue: Path) -> list[str]:
    """Ids of the jobs that wait, the next one first."""
    return [ticket.name[9:] for ticket in _tickets(queue) if lock_is_held(ticket)]


def main() -> None:
    """Wait for a slot, then become the command.

    Arguments of the process: the ticket, its descriptor, the number of slots, and the
    command from its program on.
    """
    ticket, descriptor, n_slots, *command = sys.argv[1:]
    _take_slot(Path(ticket), int(n_slots))
    Path(ticket).unlink(missing_ok=True)
    os.close(int(descriptor))
    os.execv(command[0], command)


def _take_slot(ticket: Path, n_slots: int) -> None:
    """Return once this is the first ticket and a slot is locked; it is inherited."""
    while True:
        if _is_first(ticket):
            slot = _free_slot(ticket.parent, n_slots)
            if slot is not None:
                os.set_inheritable(slot, True)
                return
        time.sleep(SECONDS_BETWEEN_LOOKS)


def _free_slot(queue: Path, n_slots: int) -> int | None:
    """The locked descriptor of a slot that was free."""
    for k in range(n_slots):
        slot = os.open(_slot(queue, k), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(slot, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(slot)
        else:
            return slot
    return None


def _is_first(ticket: Path) -> bool:
    for other in _tickets(ticket.parent):
        if other.name >= ticket.name:
            return True
        if lock_is_held(other):
            return False
    return True


def _tickets(queue: Path) -> list[Path]:
    try:
        names = os.listdir(queue)  # noqa: PTH208 - names are all that is wanted
    except OSError:
        return []
    return [queue / name for name in sorted(names) if _TICKET.fullmatch(name)]


def _slot(queue: Path, k: int) -> Path:
    return queue / f"slot-{k}"


def lock_is_held(path: Path) -> bool:
    """Whether a process holds the lock on this file at this moment."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        # Shared, so that two who look at once do not take each other for an owner.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
