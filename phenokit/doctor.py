"""What `phenokit doctor` says: versions, machine, models, folders, settings in force.

Nothing here opens a connection or changes anything. Every fact has a state: fine, worth a
look, or damaged. Limits are those of the control group that the process runs in, so that
a container is told what it may use and not what its host has.
"""

import difflib
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from phenokit.audit import audit_folder
from phenokit.errors import BadInput
from phenokit.jobs import jobs_folder
from phenokit.networks.checkpoint import bundle_folders, load_bundle, models_folder
from phenokit.pipeline import default_inference
from phenokit.report.ieeg_viewer import extrema_folder
from phenokit.reviews import reviews_file

PACKAGES = (
    "phenokit",
    "numpy",
    "scipy",
    "pandas",
    "pyarrow",
    "duckdb",
    "torch",
    "scikit-learn",
    "numpyro",
    "jax",
    "streamlit",
    "starlette",
    "mne",
    "wfdb",
    "pydicom",
    "ecgdatakit",
)
"""Packages that decide a number or guard a door."""

OPTIONAL_PACKAGES = {
    "openvino": "ECG models on the CPU, faster and without torch",
    "ray": "`--engine ray`",
    "pymef": "MEF3 sessions",
    "h5py": "HDF5 of the SWEC data set",
}

VARIABLES = {
    "PHENOKIT_MODELS": "installed models",
    "PHENOKIT_PTBXL": "copy of PTB-XL, for the tracings of prototypes",
    "PHENOKIT_DEMO": "demo recordings and cohort",
    "PHENOKIT_RECORDINGS": "recordings that the app offers",
    "PHENOKIT_COHORTS": "cohorts that the app offers",
    "PHENOKIT_JOBS": "runs that the app starts",
    "PHENOKIT_REVIEWS": "file of what was reviewed",
    "PHENOKIT_UPLOADS": "uploaded iEEGs",
    "PHENOKIT_CACHE": "extrema that the iEEG page draws from",
    "PHENOKIT_AUDIT": "audit log",
    "PHENOKIT_SUPPRESS": "smallest group that the app shows",
    "PHENOKIT_SESSIONS": "sessions of the app at once",
    "PHENOKIT_SLOTS": "runs of the app at once",
    "PHENOKIT_SIGNIN": "how people sign in to the app",
    "PHENOKIT_USERS": "who may come in",
    "PHENOKIT_IDLE": "minutes until somebody is signed out",
    "PHENOKIT_PROXYSECRET": "secret that the proxy and the app share",
    "PHENOKIT_USERHEADER": "header that names the user",
    "PHENOKIT_GROUPSHEADER": "header that names the groups",
    "PHENOKIT_SIGNOUT": "where the proxy signs people out",
    "PHENOKIT_DATA": "real data of the tests",
    "PHENOKIT_SHOTS": "screenshots of the tests",
    "PHENOKIT_CRASH_AT": "where a run ends itself",
}
"""Every variable that PhenoKit reads; any other of its prefix is a typing error."""

HARDENED = {
    "browser.gatherUsageStats": False,
    "client.showErrorDetails": "none",
    "client.showErrorLinks": False,
    "client.disableDataExport": True,
    "client.toolbarMode": "minimal",
    "logger.enableRich": False,
    "runner.magicEnabled": False,
    "server.enableCORS": True,
    "server.enableXsrfProtection": True,
    "server.xsrfCookieSameSite": "strict",
    "server.maxUploadSize": 20,
    "server.maxMessageSize": 50,
    "server.fileWatcherType": "none",
    "server.enableStaticServing": False,
    "server.enableAgentApi": False,
    "server.disconnectedSessionTTL": 60,
}
"""The values that every installation of the app should have in force."""

NETWORK_FILE_SYSTEMS = {
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "smbfs",
    "9p",
    "afs",
    "ceph",
    "lustre",
    "gpfs",
    "beegfs",
    "glusterfs",
    "fuse.glusterfs",
    "fuse.sshfs",
    "fuse.s3fs",
    "fuse.rclone",
}
"""On these a lock may not hold between two machines."""

LEAST_FREE = 2 * 10**9
"""Bytes below which a folder that is written to is worth a look."""

_PROXIES = ("http_proxy", "https_proxy", "all_proxy")
_LOCAL = ("127.0.0.1", "localhost", "::1")
_CHECKOUT = Path(__file__).parents[1]
_SETTINGS = """
import json, sys
from streamlit import config
from streamlit.web import bootstrap, cli
bootstrap.load_config_options(cli.config_show.make_context("show", []).params)
print(json.dumps({name: config.get_option(name) for name in json.loads(sys.argv[1])}))
print(json.dumps(config.is_manually_set("browser.serverAddress")))
"""


class State(StrEnum):
    """How much a fact worries."""

    FINE = "fine"
    LOOK = "look"
    """Nothing is broken, but somebody should know."""
    DAMAGED = "damaged"
    """A model does not match its hashes: nothing may be scored with it."""


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing about the installation.

    Attributes
    ----------
    section
        versions, machine, models, folders, settings, offline or variables.
    name, value
        What, and how it is.
    state
        Whether it is as it should be.
    remedy
        What to do; empty where nothing is to be done.
    """

    section: str
    name: str
    value: str
    state: State = State.FINE
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a control group allows.

    Attributes
    ----------
    processors
        Processors' worth of time; None without a limit.
    memory
        Bytes; None without a limit.
    """

    processors: float | None
    memory: int | None


def diagnose(environment: Mapping[str, str] | None = None) -> list[Fact]:
    """The state of the installation, fact by fact.

    Parameters
    ----------
    environment
        Variables whose names are checked; by default those of the process.
    """
    environment = os.environ if environment is None else environment
    return [
        *version_facts(),
        *machine_facts(),
        *model_facts(),
        *folder_facts(),
        *setting_facts(environment),
        *variable_facts(environment),
    ]


def exit_code(facts: list[Fact]) -> int:
    """0, or 65 where a model is damaged."""
    return 65 if any(fact.state is State.DAMAGED for fact in facts) else 0


def format_facts(facts: list[Fact]) -> list[str]:
    """The facts for people: a line each below its section; ``!`` needs a look."""
    lines: list[str] = []
    section = ""
    for fact in facts:
        if fact.section != section:
            section = fact.section
            lines += ["", section] if lines else [section]
        mark = " " if fact.state is State.FINE else "!"
        remedy = f" ({fact.remedy})" if fact.remedy else ""
        lines.append(f"{mark} {fact.name}: {fact.value}{remedy}")
    return lines


def facts_dict(facts: list[Fact]) -> dict[str, Any]:
    """The facts for programs; every value is text."""
    return {"exit_code": exit_code(facts), "facts": [asdict(fact) for fact in facts]}


# --- versions and machine ---------------------------------------------------------------


def version_facts() -> Iterator[Fact]:
    """Python and the packages that decide a number or guard a door."""
    yield Fact("versions", "python", f"{platform.python_version()}, {platform.platform()}")
    for name in PACKAGES:
        try:
            yield Fact("versions", name, version(name))
        except PackageNotFoundError:
            yield Fact(
                "versions", name, "not installed", State.LOOK, "install PhenoKit again"
            )
    for name, purpose in OPTIONAL_PACKAGES.items():
        try:
            yield Fact("versions", name, version(name))
        except PackageNotFoundError:
            yield Fact("versions", name, f"not installed; only needed for {purpose}")


def machine_facts() -> Iterator[Fact]:
    """Processors, memory and device that this process may use."""
    limits = control_group_limits()
    usable = _usable_processors()
    quota = "" if limits.processors is None else f", limited to {limits.processors:g}"
    yield Fact("machine", "processors", f"{usable} usable of {os.cpu_count()}{quota}")
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    allowed = total if limits.memory is None else min(total, limits.memory)
    limited = f", limited to {_gigabytes(allowed)}" if allowed < total else ""
    is_enough = allowed >= 2 * 10**9
    yield Fact(
        "machine",
        "memory",
        f"{_gigabytes(total)}{limited}",
        State.FINE if is_enough else State.LOOK,
        "" if is_enough else "the app needs 2 GB",
    )
    try:
        import torch
    except ImportError:
        yield Fact(
            "machine", "device", "torch cannot be imported", State.LOOK, "nothing is scored"
        )
        return
    cuda = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    yield Fact("machine", "CUDA device", cuda)
    yield Fact("machine", "threads of torch", str(torch.get_num_threads()))
    yield Fact("machine", "ECG models are computed by", default_inference())


def _usable_processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # macOS


def control_group_limits(
    root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")
) -> Limits:
    """The tightest limits on the way from this process's control group to the root.

    Both versions of control groups are understood. Where there is none, as on macOS,
    nothing is limited.

    Parameters
    ----------
    root
        Where control groups are mounted.
    membership
        File that names the groups of the process.
    """
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return Limits(None, None)
    processors: list[float] = []
    memory: list[int] = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        base = root / controllers if controllers else root  # version 2 names none
        for folder in _upwards(base, path):
            processors += _processor_limit(folder)
            memory += _memory_limit(folder)
    return Limits(min(processors, default=None), min(memory, default=None))


def _upwards(base: Path, path: str) -> Iterator[Path]:
    group = base / path.strip("/")
    while group != base and base in group.parents:
        yield group
        group = group.parent
    yield base  # in a container the path may be the host's; the root is always its own


def _processor_limit(group: Path) -> list[float]:
    if words := _words(group / "cpu.max"):
        return [] if words[0] == "max" else [int(words[0]) / int(words[1])]
    quota, period = _words(group / "cpu.cfs_quota_us"), _words(group / "cpu.cfs_period_us")
    if not quota or not period or int(quota[0]) <= 0:
        return []
    return [int(quota[0]) / int(period[0])]


def _memory_limit(group: Path) -> list[int]:
    words = _words(group / "memory.max") or _words(group / "memory.limit_in_bytes")
    if not words or words[0] == "max" or int(words[0]) >= 2**60:  # version 1: "no limit"
        return []
    return [int(words[0])]


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []


# --- models -----------------------------------------------------------------------------


def model_facts() -> Iterator[Fact]:
    """Every installed bundle with all its hashes checked."""
    folders = bundle_folders()
    if not folders:
        remedy = "`phenokit models install FILE` adds one"
        yield Fact("models", "models", "none is installed", State.LOOK, remedy)
    for folder in folders:
        try:
            bundle = load_bundle(folder)
        except BadInput as error:
            yield Fact(
                "models",
                folder.name,
                f"{error.code}: {error}",
                State.DAMAGED,
                "copy the model again",
            )
        else:
            yield Fact(
                "models",
                bundle.name,
                f"{bundle.card['version']}, all hashes match, bundle hash "
                f"{bundle.bundle_hash}",
            )


# --- folders ----------------------------------------------------------------------------


def folder_facts() -> Iterator[Fact]:
    """Folders that are read and folders that are written to; none is made."""
    yield _read_only("PHENOKIT_MODELS", models_folder())
    yield _read_only("PHENOKIT_DEMO", Path(os.environ.get("PHENOKIT_DEMO", "demo")))
    for variable in ("PHENOKIT_RECORDINGS", "PHENOKIT_COHORTS", "PHENOKIT_PTBXL"):
        named = os.environ.get(variable)
        yield _read_only(variable, Path(named) if named else None)
    yield _written("PHENOKIT_JOBS", jobs_folder())
    yield _written("PHENOKIT_UPLOADS", _state_folder() / "uploads")
    yield _written("PHENOKIT_REVIEWS", reviews_file().parent)
    yield _written("PHENOKIT_AUDIT", audit_folder())
    yield _written("PHENOKIT_CACHE", extrema_folder().parent)


def _state_folder() -> Path:
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "phenokit"


def _read_only(variable: str, folder: Path | None) -> Fact:
    name = VARIABLES[variable]
    if folder is None:
        return Fact("folders", name, f"none, {variable} is not set")
    if folder.is_dir() and os.access(folder, os.R_OK | os.X_OK):
        return Fact("folders", name, str(folder.absolute()))
    if variable == "PHENOKIT_DEMO" and variable not in os.environ:
        return Fact("folders", name, "none, `phenokit demo` writes them")
    problem = "cannot be read" if folder.is_dir() else "is no folder"
    return Fact("folders", name, f"{folder} {problem}", State.LOOK, f"see {variable}")


def _written(variable: str, folder: Path) -> Fact:
    """A folder that the app writes to: made when needed, so its nearest parent counts."""
    named = Path(os.environ.get(variable, folder)).absolute()
    if variable == "PHENOKIT_REVIEWS":
        named = folder
    there = next(one for one in (named, *named.parents) if one.exists())
    kind = file_system(there)
    free = shutil.disk_usage(there).free
    value = f"{named}, {_gigabytes(free)} free, {kind or 'unknown file system'}"
    remedies = []
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        remedies.append(f"cannot be written to: name another in {variable}")
    if kind in NETWORK_FILE_SYSTEMS:
        remedies.append("a network file system: locks may not hold, use a local disk")
    if free < LEAST_FREE:
        remedies.append("little space left")
    if there == named and variable != "PHENOKIT_CACHE" and named.stat().st_mode & 0o007:
        remedies.append("others may read it: chmod 700")
    state = State.LOOK if remedies else State.FINE
    return Fact("folders", VARIABLES[variable], value, state, "; ".join(remedies))


def file_system(path: Path, mounts: Path = Path("/proc/self/mountinfo")) -> str:
    """Kind of the file system that a path lies on; empty where nobody can say."""
    try:
        lines = mounts.read_text().splitlines()
    except OSError:
        return ""
    path = path.resolve()
    found: tuple[int, str] = (0, "")
    for line in lines:
        left, _, right = line.partition(" - ")
        point = Path(left.split()[4].encode().decode("unicode_escape"))  # \040 is a space
        if path.is_relative_to(point):
            found = max(found, (len(point.parts), right.split()[0]), key=lambda one: one[0])
    return found[1]


def _gigabytes(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.1f} GB"


# --- settings and offline ---------------------------------------------------------------


def setting_facts(environment: Mapping[str, str]) -> Iterator[Fact]:
    """The app's settings in force, and whether anything would leave this machine."""
    overriding = sorted(name for name in environment if name.startswith("STREAMLIT_"))
    yield Fact("settings", "set by the environment", ", ".join(overriding) or "none")
    names = [*HARDENED, "server.address", "server.allowedHosts"]
    settings, is_address_named = _effective(names, environment)
    if settings is None:
        yield Fact("settings", "app", "its settings cannot be read", State.LOOK)
        return
    for name, wanted in HARDENED.items():
        is_hard = settings[name] == wanted
        yield Fact(
            "settings",
            name,
            str(settings[name]),
            State.FINE if is_hard else State.LOOK,
            "" if is_hard else f"should be {wanted}",
        )
    hosts = settings["server.allowedHosts"]
    is_open = not hosts or "*" in hosts
    yield Fact(
        "settings",
        "server.allowedHosts",
        ", ".join(hosts) or "none",
        State.LOOK if is_open else State.FINE,
        "any web page can reach the app: name the hosts" if is_open else "",
    )
    address = settings["server.address"] or "every address"
    is_local = address in _LOCAL
    yield Fact(
        "settings",
        "server.address",
        address,
        State.FINE if is_local else State.LOOK,
        ""
        if is_local
        else "other machines reach it: a proxy with a login belongs before it",
    )
    mode = environment.get("PHENOKIT_SIGNIN") or "none"
    lets_in = mode == "none" and not is_local
    yield Fact(
        "settings",
        VARIABLES["PHENOKIT_SIGNIN"],
        mode,
        State.LOOK if lets_in or mode == "open" else State.FINE,
        "the app stays closed: set PHENOKIT_SIGNIN to proxy or oidc" if lets_in else "",
    )
    yield from _offline(settings, environment, asks=not (is_local or is_address_named))


def _offline(
    settings: Mapping[str, Any], environment: Mapping[str, str], *, asks: bool
) -> Iterator[Fact]:
    sends = settings["browser.gatherUsageStats"] is not False
    yield Fact(
        "offline",
        "usage statistics of the app",
        "on" if sends else "off",
        State.LOOK if sends else State.FINE,
        "set browser.gatherUsageStats = false" if sends else "",
    )
    # Streamlit asks an outside service for the machine's address, to print it at start.
    yield Fact(
        "offline",
        "question for the machine's address at start",
        "would be sent" if asks else "none",
        State.LOOK if asks else State.FINE,
        "set browser.serverAddress" if asks else "",
    )
    proxies = [
        name for name in _PROXIES if environment.get(name) or environment.get(name.upper())
    ]
    yield Fact("offline", "proxies in the environment", ", ".join(proxies) or "none")
    yield Fact("offline", "commands that use a network", "`phenokit data prototypes` only")


def _effective(
    names: list[str], environment: Mapping[str, str]
) -> tuple[dict[str, Any] | None, bool]:
    """Settings as the app would see them, and whether browsers are told an address.

    Asked of a process of its own, since this one may not import Streamlit, which looks at
    the environment in its command line only.
    """
    done = subprocess.run(
        [sys.executable, "-c", _SETTINGS, json.dumps(names)],
        cwd=_CHECKOUT,
        env=dict(environment),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        return None, False
    settings, is_address_named = done.stdout.splitlines()[-2:]
    return json.loads(settings), json.loads(is_address_named)


def variable_facts(environment: Mapping[str, str]) -> Iterator[Fact]:
    """Which of our variables are set, and names that look like one but mean nothing."""
    ours = sorted(name for name in environment if name.startswith("PHENOKIT_"))
    known = [name for name in ours if name in VARIABLES]
    yield Fact("variables", "set", ", ".join(known) or "none")
    if "PHENOKIT_CRASH_AT" in known:
        remedy = "for tests only: remove it"
        yield Fact("variables", "PHENOKIT_CRASH_AT", "set", State.LOOK, remedy)
    for name in ours:
        if name not in VARIABLES:
            near = difflib.get_close_matches(name, VARIABLES, n=1)
            remedy = f"did you mean {near[0]}?" if near else "remove it"
            yield Fact("variables", name, "means nothing", State.LOOK, remedy)
