"""The engine ``ray``: the same parts, made by the machines of a Ray cluster.

Ray hands out numbers of parts and brings receipts back; it carries no recording, no name of
a file, no patient and no model. What belongs to a number stands in a file of the run folder
that is there only meanwhile. On its machine an actor makes each part as the engine
``local`` does, in a worker process of its own: a recording that crashes or stalls a library
costs that process, not the actor, and its row is the same.

Ray runs a part again when an actor or a machine is lost. That does no harm, since a part
appears whole or not at all, and always with the same bytes (`write_part`).
"""

import json
import logging
import os
import secrets
import shutil
import signal
import sys
import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa

from phenokit.batch.engines import (
    DEATHS_OUTSIDE,
    Collect,
    Parts,
    make_in_workers,
    make_with,
    part_crew,
)
from phenokit.batch.parts import Part, PartWork
from phenokit.batch.run_folder import read_receipt
from phenokit.batch.sources import Reader, Record
from phenokit.errors import BadInput
from phenokit.networks.checkpoint import load_bundle

ADDRESS = "RAY_ADDRESS"
"""Variable that names the head of a cluster, as ``10.0.0.5:6379``; else one is started."""

_LISTED = pa.schema(
    {"path": pa.string(), "location": pa.binary(), "patient_id": pa.string()}
)
_LIST_FOLDER = ".scratch-ray-"
"""Begins as all that `phenokit.batch.score` wipes after a run that was killed."""

_RAY_FOLDER = "pkray-"
_TEMPORARY = "RAY_TMPDIR"
"""Variable of Ray; else ``/tmp``, since a path of its sockets has 107 bytes at most."""

_OBJECT_STORE = 100 << 20
"""Bytes; numbers and receipts need little of it, Ray would take a third of the memory."""

_DECIDE_BYTES = ("numpy", "scipy", "pyarrow", "torch", "openvino")
"""Packages that compute or write a row."""


def make_on_ray(
    work: PartWork,
    parts: Parts,
    *,
    workers: int,
    time_limit: float,
    collect: Collect,
) -> None:
    """Make parts on the cluster at ``RAY_ADDRESS``, or on one that is started here.

    Parts that are there already are held against their receipts and inputs by processes of
    this machine; Ray is started only if others are missing.

    Parameters
    ----------
    workers
        Actors, each with a processor and, if the model computes there, a GPU. 0: as many
        as the cluster has processors but one.
    time_limit
        As in `phenokit.batch.engines.make_in_workers`.

    Raises
    ------
    BadInput
        ``E_MISSING`` without Ray, or without a cluster at the address; ``E_RANGE`` if the
        actors would leave no processor free; ``E_VERSION`` if a machine of the cluster has
        another installation or sees other files, or recordings were changed since.
    OSError
        If a part cannot be written.
    RuntimeError
        If actors die again and again, or workers although they are at no recording.
    """
    if not isinstance(work.model, Path):
        raise ValueError("the engine ray takes the folder of a bundle, not a loaded model")
    done = _done(work, parts.numbers)
    absent = [k for k in parts.numbers if k not in done]
    if absent and find_spec("ray") is None:
        raise BadInput(
            "E_MISSING", "The engine ray needs a package: pip install 'phenokit[ray]'."
        )
    if done:
        make_in_workers(
            work,
            replace(parts, numbers=sorted(done)),
            workers=os.cpu_count() or 1,
            time_limit=time_limit,
            collect=collect,
            needs_model=False,
        )
    if absent:
        with _listed(work.out, replace(parts, numbers=absent)) as listing, _cluster():
            for k, answer in _answers(work, listing, absent, workers, time_limit):
                collect(k, _receipt(answer))


def _done(work: PartWork, numbers: Sequence[int]) -> set[int]:
    """Parts that agree with their receipts and with the plan."""
    return {
        k
        for k in numbers
        if read_receipt(work.out, k, plan_hash=work.plan_hash) is not None
    }


# --- the recordings of a part -------------------------------------------------------------


@dataclass(frozen=True)
class _Listing:
    """The recordings of some parts, in a file that every machine of the cluster sees.

    Attributes
    ----------
    probe
        Position in the first part of a recording that can be opened; -1: there is none.
    """

    path: Path
    probe: int = -1

    def records(self, index: int) -> tuple[Record, ...]:
        """Recordings of the part at this place of the listing."""
        with pa.memory_map(os.fspath(self.path)) as file, pa.ipc.open_file(file) as reader:
            rows = reader.get_batch(index).to_pylist()
        return tuple(
            Record(row["path"], os.fsdecode(row["location"]), row["patient_id"])
            for row in rows
        )

    def hash_probe(self, reader: Reader) -> str:
        """Hash of the probe here; a folder that is not mounted would reject all."""
        if self.probe < 0 or not self.path.is_file():
            return ""
        return reader.sha256(self.records(0)[self.probe])


@contextmanager
def _listed(out: Path, parts: Parts) -> Iterator[_Listing]:
    """Write the recordings of the parts, a record batch a part; removed in the end."""
    with TemporaryDirectory(prefix=_LIST_FOLDER, dir=out) as folder:
        path = Path(folder) / "records.arrow"
        with pa.OSFile(os.fspath(path), "wb") as file, pa.ipc.new_file(file, _LISTED) as to:
            for part in parts:
                rows = [
                    {
                        "path": record.path,
                        "location": os.fsencode(record.location),
                        "patient_id": record.patient_id,
                    }
                    for record in part.records
                ]
                to.write_batch(pa.RecordBatch.from_pylist(rows, schema=_LISTED))
        probes = (
            i for i, one in enumerate(parts[0].records) if parts.source.reader.sha256(one)
        )
        yield _Listing(path.absolute(), next(probes, -1))


# --- this machine: the cluster, what comes back -------------------------------------------


@contextmanager
def _cluster() -> Iterator[None]:
    """Join the cluster at ``RAY_ADDRESS``, or start one, and leave or end it.

    What a local one writes (its log, what its object store spills) lies in a private
    folder that is wiped in the end, and by the next run if this process is killed.
    """
    temporary = Path(os.environ.get(_TEMPORARY, "/tmp"))
    _wipe_after_the_dead(temporary)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # else it writes to the console
    import ray
    from ray.exceptions import RayError

    address = os.environ.get(ADDRESS)
    before = signal.getsignal(signal.SIGTERM)
    with TemporaryDirectory(
        prefix=f"{_RAY_FOLDER}{os.getpid()}-", dir=temporary, ignore_cleanup_errors=True
    ) as folder:
        try:
            if address:
                _join(address)
            else:
                # Its ports are open to everybody who reaches this machine.
                os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
                ray.init(
                    "local",
                    include_dashboard=False,
                    object_store_memory=_OBJECT_STORE,
                    object_spilling_directory=f"{folder}/spilled",
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    _temp_dir=folder,
                    _plasma_directory=folder,
                )
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, before)  # Ray has put its own in the place
            yield
        except RayError as error:  # its text may hold anything
            what = type(error).__name__
            raise RuntimeError(f"the Ray cluster failed ({what})") from None
        finally:
            ray.shutdown()


def _join(address: str) -> None:
    import ray
    from ray.exceptions import RayError

    if "://" in address:
        raise BadInput(
            "E_FORMAT",
            f"{ADDRESS} has to be HOST:PORT of the cluster's head; the command runs on a "
            "machine of the cluster, not through Ray's client.",
        )
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError, RayError) as error:
        raise BadInput(
            "E_MISSING",
            f"No Ray cluster answers at {ADDRESS} that this machine is part of, with the "
            "same token and the same versions of Python and Ray.",
        ) from error


def _wipe_after_the_dead(temporary: Path) -> None:
    """Remove what local clusters have left whose process was killed."""
    for folder in temporary.glob(f"{_RAY_FOLDER}*-*"):
        pid = folder.name.removeprefix(_RAY_FOLDER).partition("-")[0]
        if pid.isdigit() and not Path("/proc", pid).exists():
            shutil.rmtree(folder, ignore_errors=True)


def _answers(
    work: PartWork,
    listing: _Listing,
    numbers: Sequence[int],
    workers: int,
    time_limit: float,
) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Number and answer of each part, as they come."""
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    # A part of an iEEG may take hours; overruns are watched for a recording (`Crew`).
    context.execution_no_progress_timeout_s = -1
    has_gpu = work.device.startswith("cuda")
    n = min(_n_actors(workers, has_gpu=has_gpu), len(numbers))
    places = [{"k": k, "index": index} for index, k in enumerate(numbers)]
    with warnings.catch_warnings():
        # Ray 2.60 means to drop `ray_remote_args_fn`, and has nothing in its place yet.
        warnings.simplefilter("ignore", DeprecationWarning)
        answers = ray.data.from_items(places, override_num_blocks=len(places)).map_batches(
            PartMaker,
            fn_constructor_args=(work, listing, time_limit, _facts(work, listing)),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=n, max_tasks_in_flight_per_actor=1),
            num_cpus=1,
            num_gpus=1 if has_gpu else 0,
            ray_remote_args_fn=_again,
        )
    # Without reading ahead: a receipt counts as soon as it is there.
    batches: Iterable[Any] = answers.iter_batches(batch_size=1, prefetch_batches=0)
    for batch in batches:
        yield int(batch["k"][0]), json.loads(str(batch["answer"][0]))


def _again() -> dict[str, int]:
    """How often an actor is started again, and a part given out again: Ray has no limit."""
    return {"max_restarts": -1, "max_task_retries": DEATHS_OUTSIDE - 1}


def _n_actors(workers: int, *, has_gpu: bool) -> int:
    """Actors that leave a processor free, for what Ray itself has to do.

    Without one, two actors on two processors starved Ray's own tasks: the run hung.
    """
    import ray

    there = ray.cluster_resources()
    n_cpus, n_gpus = int(there.get("CPU", 0)), int(there.get("GPU", 0))
    most = max(0, min(n_cpus - 1, n_gpus) if has_gpu else n_cpus - 1)
    if max(workers, 1) > most:
        what = f"{n_cpus} processors" + (f" and {n_gpus} GPUs" if has_gpu else "")
        raise BadInput(
            "E_RANGE",
            f"The Ray cluster has {what}, one of which stays free for Ray: --workers may "
            f"be {most} at most." + ("" if most else " Use --engine local."),
        )
    return workers or most


def _receipt(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    """The receipt in an answer of `PartMaker`, or the error that the part ended in."""
    match answer:
        case {"receipt": receipt}:
            return receipt
        case {"refused": [code, message]}:
            raise BadInput(code, message)
        case {"disk": errno}:
            raise OSError(errno, os.strerror(errno))
    raise RuntimeError(answer["failed"])


# --- the other machines -------------------------------------------------------------------


class PartMaker:
    """An actor: makes the parts whose numbers it is given, in a worker process.

    The process and the model in it, read there from the bundle, last as long as the actor.

    Parameters
    ----------
    facts
        What the machine that runs the command has and sees; here it has to be the same.
    """

    def __init__(
        self, work: PartWork, listing: _Listing, time_limit: float, facts: dict[str, str]
    ) -> None:
        _be_quiet()
        self._work = work
        self._listing = listing
        self._time_limit = time_limit
        self._facts = facts
        self._crew = part_crew(work, workers=1)
        self._is_checked = False

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        """Number and answer of a part, as JSON."""
        (k,), (index,) = batch["k"].tolist(), batch["index"].tolist()
        return {"k": [k], "answer": [json.dumps(self._answer(k, index))]}

    def _answer(self, k: int, index: int) -> dict[str, Any]:
        """Receipt, or why there is none; raised here, errors would lose their kind."""
        answer: dict[str, Any] = {}
        try:
            self._check()
            make_with(
                self._crew,
                [Part(k, self._listing.records(index))],
                time_limit=self._time_limit,
                collect=lambda k, receipt: answer.update(receipt=receipt),
            )
        except BadInput as error:
            return {"refused": [error.code, str(error)]}
        except OSError as error:
            return {"disk": error.errno or 0}
        except RuntimeError as error:
            return {"failed": str(error)}
        return answer

    def _check(self) -> None:
        """Compare this machine with the one that runs the command, once."""
        if self._is_checked:
            return
        here = _facts(self._work, self._listing)
        differs = [what for what, value in self._facts.items() if here[what] != value]
        if differs:
            raise BadInput(
                "E_VERSION",
                "A machine of the Ray cluster differs from the one that runs the command "
                f"in: {', '.join(differs)}. All need the same installation, and see model, "
                "recordings and results under the same paths.",
            )
        self._is_checked = True


def _be_quiet() -> None:
    """Keep what libraries print out of Ray's logs: it may name a file, and so somebody.

    And let worker processes begin without Ray, which they do not need.
    """
    with open(os.devnull, "w") as nowhere:  # noqa: PTH123 - not a path of ours
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    vars(sys.modules["__main__"]).pop("__file__", None)  # a new process would run it


def _facts(work: PartWork, listing: _Listing) -> dict[str, str]:
    """What decides the bytes of a part, as this machine has it; raises for the model."""
    from phenokit.batch.score import code_hash

    return {
        "PhenoKit": code_hash(),
        **{name: _version(name) for name in _DECIDE_BYTES},
        "the model": load_bundle(work.model).bundle_hash
        if isinstance(work.model, Path)
        else "",
        "the run folder": "seen" if listing.path.is_file() else "",
        "the recordings": listing.hash_probe(work.reader),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
