"""Whose uploads are whose: files that jobs read lie in a folder of the user who sent them.

Recordings and cohorts of the server are everybody's who may come in. What somebody uploads
is not: neither the file, nor the job that reads it, nor its result is shown to another.
"""

import hashlib
import os
from pathlib import Path

from pages import _sign_in
from phenokit.jobs import Job, jobs_folder, list_jobs

PREFIX = "user-"


def own_folder(root: Path) -> Path:
    """Where the uploads of who is signed in lie; `root` itself where nobody signs in."""
    user = _sign_in.signed_in_user()
    if not user:
        return root
    return root / (PREFIX + hashlib.sha256(user.encode()).hexdigest()[:24])


def visible_jobs() -> list[Job]:
    """The jobs that may be shown to who is signed in, the latest first."""
    return [job for job in list_jobs(jobs_folder()) if _may_see(job)]


def table_folder() -> Path:
    """Where uploaded tables lie; the folder need not exist yet."""
    return jobs_folder() / "uploads"


def ieeg_folder() -> Path:
    """Where uploaded iEEGs lie for a day; the folder need not exist yet."""
    if named := os.environ.get("PHENOKIT_UPLOADS"):
        return Path(named).absolute()
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "phenokit" / "uploads"


def _may_see(job: Job) -> bool:
    paths = [Path(one) for one in job.arguments if one.startswith("/")]
    roots = (table_folder(), ieeg_folder())
    return all(_is_own(path, root) for path in paths for root in roots)


def _is_own(path: Path, root: Path) -> bool:
    """Whether a path is no upload, or one of who is signed in."""
    if not path.is_relative_to(root):
        return True
    if (own := own_folder(root)) != root:
        return path.is_relative_to(own)
    return not path.relative_to(root).as_posix().startswith(PREFIX)
