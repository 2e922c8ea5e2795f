"""What `phenokit doctor` prints: versions, device, models, folders, and what is offline.

Nothing here opens a connection. A line that begins with ``!`` needs a look.
"""

import os
import platform
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from phenokit.errors import BadInput
from phenokit.networks.checkpoint import bundle_folders, load_bundle, models_folder

PACKAGES = (
    "numpy",
    "scipy",
    "pandas",
    "pyarrow",
    "torch",
    "scikit-learn",
    "streamlit",
    "wfdb",
    "pydicom",
    "ecgdatakit",
)
FOLDERS = {
    "PHENOKIT_DEMO": "demo recordings",
    "PHENOKIT_RECORDINGS": "recordings of the app's server folder",
    "PHENOKIT_PTBXL": "copy of PTB-XL, for the tracings of prototypes",
}
_PROXIES = ("http_proxy", "https_proxy", "all_proxy")
_CHECKOUT = Path(__file__).parents[2]


def diagnose() -> list[str]:
    """The state of the installation, a line a fact; a doubtful one begins with ``!``."""
    return [*_versions(), *_device(), *_models(), *_folders(), *_offline(_CHECKOUT)]


def _versions() -> list[str]:
    lines = [f"python {platform.python_version()} on {platform.system()}"]
    for name in ("phenokit", *PACKAGES):
        try:
            lines.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            lines.append(f"! {name} is not installed; install PhenoKit again")
    return lines


def _device() -> list[str]:
    try:
        import torch
    except ImportError:
        return ["! torch cannot be imported: nothing can be scored"]
    cuda = torch.cuda.get_device_name() if torch.cuda.is_available() else "no"
    return [f"CPU threads: {torch.get_num_threads()} of {os.cpu_count()}", f"CUDA: {cuda}"]


def _models() -> list[str]:
    """Every installed bundle with all its hashes checked."""
    lines = [f"models in {models_folder()}"]
    folders = bundle_folders()
    if not folders:
        lines.append("! no model is installed; `phenokit models install FILE` adds one")
    for folder in folders:
        try:
            bundle = load_bundle(folder)
        except BadInput as error:
            lines.append(f"! {folder.name}: {error.code}: {error}")
        else:
            lines.append(
                f"{bundle.name} {bundle.card['version']}: all hashes match, bundle hash "
                f"{bundle.bundle_hash}"
            )
    return lines


def _folders() -> list[str]:
    lines = []
    for variable, content in FOLDERS.items():
        named = os.environ.get(variable, "demo" if variable == "PHENOKIT_DEMO" else "")
        if not named:
            lines.append(f"{content}: none ({variable} is not set)")
        elif Path(named).is_dir():
            lines.append(f"{content}: {Path(named).absolute()}")
        elif variable in os.environ:
            lines.append(f"! {content}: {variable} names no folder")
        else:
            lines.append(f"{content}: none (`phenokit demo` writes them)")
    return lines


def _offline(checkout: Path) -> list[str]:
    """Whether anything would leave this machine: statistics, and who may reach the app."""
    config = checkout / ".streamlit" / "config.toml"
    settings = tomllib.loads(config.read_text("utf-8")) if config.is_file() else {}
    statistics = os.environ.get(
        "STREAMLIT_BROWSER_GATHER_USAGE_STATS",
        str(settings.get("browser", {}).get("gatherUsageStats", True)),
    )
    address = os.environ.get(
        "STREAMLIT_SERVER_ADDRESS", settings.get("server", {}).get("address", "0.0.0.0")
    )
    is_private = statistics.lower() in ("false", "0")
    proxies = [
        name for name in _PROXIES if os.environ.get(name) or os.environ.get(name.upper())
    ]
    return [
        "usage statistics of the app: off"
        if is_private
        else "! usage statistics of the app: ON (set browser.gatherUsageStats = false)",
        f"the app listens on {address}"
        if address in ("127.0.0.1", "localhost", "::1")
        else f"! the app listens on {address}: other machines can reach it",
        f"proxies in the environment: {', '.join(proxies) or 'none'}",
        "network: used by `phenokit data prototypes` only; scoring needs none",
    ]
