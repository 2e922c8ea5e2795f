"""Find cohort folders and read what they say of themselves (``cohort.toml``).

A cohort is chosen from the folders that an administrator allows, never by a typed path.
"""

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from phenokit.errors import BadInput
from phenokit.readers.files import read_bytes

MAX_TOML = 1 << 20
KINDS: Mapping[str, type] = MappingProxyType(
    {
        "phecode_version": str,
        "minimum_codes": int,
        "linking": str,
        "days_before": int,
        "days_after": int,
        "unit": str,
        "minimum_cases": int,
    }
)
"""What ``[defaults]`` may hold, and as what."""


@dataclass(frozen=True)
class CohortFolder:
    """A cohort as its folder describes it.

    Attributes
    ----------
    path
        The folder.
    name, description
        For people. Text of unknown origin.
    is_simulated
        Whether nobody's data are in it.
    model
        The model that scored its recordings; empty where it does not say.
    defaults
        How it is best analysed, see `KINDS`.
    """

    path: Path
    name: str
    description: str = ""
    is_simulated: bool = False
    model: str = ""
    defaults: Mapping[str, str | int] = field(default_factory=dict)

    @property
    def scores(self) -> Path:
        """Where `phenokit score` left the scores of its recordings."""
        return self.path / "scores"

    @property
    def recordings(self) -> Path:
        """Where the recordings lie."""
        return self.path / "recordings"


def find_cohorts(roots: Iterable[Path]) -> list[CohortFolder]:
    """The cohorts in these folders, by name: sub-folders that hold a ``cohort.toml``.

    A folder may be a cohort itself. Links are not followed. A cohort whose description
    cannot be read goes by the name of its folder.
    """
    found: dict[Path, CohortFolder] = {}
    for root in roots:
        if not root.is_dir():
            continue
        for folder in [root, *sorted(root.iterdir())]:
            if folder.is_symlink() and folder != root:
                continue
            if (folder / "cohort.toml").is_file():
                try:
                    found[folder] = read_cohort_folder(folder)
                except BadInput:
                    found[folder] = CohortFolder(folder, folder.name)
    return sorted(found.values(), key=lambda one: (one.name, str(one.path)))


def read_cohort_folder(folder: Path) -> CohortFolder:
    """What a cohort says of itself.

    Raises
    ------
    BadInput
        ``E_MISSING`` or ``E_FORMAT`` for ``cohort.toml``, naming the key that is wrong.
    """
    data = read_bytes(
        folder / "cohort.toml", root=folder, max_bytes=MAX_TOML, what="cohort.toml"
    )
    try:
        said = tomllib.loads(data.decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError):
        raise BadInput("E_FORMAT", "cohort.toml is not TOML in UTF-8.") from None
    defaults = said.get("defaults", {})
    kinds = {"name": str, "description": str, "simulated": bool, "model": str}
    for table, wanted in ((said, kinds), (defaults, KINDS)):
        for key, kind in wanted.items():
            if key in table and type(table[key]) is not kind:
                raise BadInput("E_FORMAT", f"cohort.toml: {key} is not {kind.__name__}.")
    return CohortFolder(
        folder,
        said.get("name") or folder.name,
        said.get("description", ""),
        said.get("simulated", False),
        said.get("model", ""),
        {key: defaults[key] for key in KINDS if key in defaults},
    )
