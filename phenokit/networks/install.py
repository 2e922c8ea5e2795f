"""Install a model bundle from a zip file: checked whole before it gets its name."""

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath

from phenokit.errors import BadInput, BundleError
from phenokit.networks.checkpoint import Bundle, load_bundle, models_folder
from phenokit.readers.archives import read_zip


def install_bundle(zip_file: Path, models: Path | None = None) -> Bundle:
    """Add the bundle of a zip file to the installed ones, under the name on its card.

    Parameters
    ----------
    zip_file
        Holds the seven files of one bundle, at the top or in one folder.
    models
        Where bundles are installed; made if need be. Default: `models_folder`.

    Returns
    -------
    Bundle
        As installed. A bundle with the same bytes that is there already stays as it is.

    Raises
    ------
    BundleError
        ``E_VERSION`` if another bundle of this name is installed, or as `load_bundle`.
    BadInput
        If the zip file cannot be read safely; see `phenokit.readers.archives.read_zip`.
    """
    contents = _files(read_zip(zip_file))
    models = models_folder() if models is None else models
    models.mkdir(parents=True, exist_ok=True)
    # Beside its place, so that the rename is one step; one folder deeper, so that nobody
    # who lists the installed bundles meanwhile finds it.
    staging = Path(tempfile.mkdtemp(prefix=".install-", suffix=".tmp", dir=models))
    try:
        unpacked = staging / "bundle"
        unpacked.mkdir()
        for name, data in contents.items():
            (unpacked / name).write_bytes(data)
        bundle = load_bundle(unpacked)
        place = models / bundle.name
        if place.exists():
            _check_same(place, bundle)
        else:
            unpacked.rename(place)
    finally:
        shutil.rmtree(staging)
    return replace(bundle, path=place)


def _files(members: Mapping[str, bytes]) -> dict[str, bytes]:
    """The members by bare name, all of one folder."""
    paths = {PurePosixPath(name): data for name, data in members.items()}
    if len({path.parent for path in paths}) != 1 or any(len(p.parts) > 2 for p in paths):
        raise BundleError(
            "E_WEIGHTS_HASH",
            "The zip file has to hold the files of one bundle, in one folder at most.",
        )
    return {path.name: data for path, data in paths.items()}


def _check_same(place: Path, bundle: Bundle) -> None:
    """Refuse to put a bundle in the place of one with other bytes."""
    try:
        installed = load_bundle(place).bundle_hash
    except BadInput:
        raise BundleError(
            "E_VERSION",
            f"A damaged model {bundle.name} is installed; remove its folder first.",
        ) from None
    if installed != bundle.bundle_hash:
        raise BundleError(
            "E_VERSION",
            f"Another model {bundle.name} is installed (bundle hash {installed[:8]}, this "
            f"one {bundle.bundle_hash[:8]}); remove its folder first, or name another in "
            "PHENOKIT_MODELS.",
        )
