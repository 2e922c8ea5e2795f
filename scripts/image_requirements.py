"""Write the hashed requirements that the image is built from.

Everything that the app and the commands need, at the versions of requirements.lock, each
with the SHA-256 of every file that the package index has of it; pip takes nothing else:

    deploy/requirements.txt        all but torch
    deploy/requirements-torch.txt  torch and the CUDA libraries of its default wheel

torch stands apart because its CPU wheels have another home, where the same version is
another file with another hash; see docs/deployment.md. `make image-requirements` calls
this with the path of `uv`.
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
EXTRAS = ("fast", "login", "mef", "swec")
PYTHON = "3.11"
PLATFORM = "x86_64-manylinux_2_28"
OF_TORCH = re.compile(r"torch|triton|cuda-\w+|nvidia-\w+")
HEADER = "# Written by: make image-requirements\n"


def compiled(uv: str) -> list[str]:
    """A block a package: its pin and its hashes."""
    extras = [word for extra in EXTRAS for word in ("--extra", extra)]
    done = subprocess.run(
        [uv, "pip", "compile", "pyproject.toml", *extras,
         "--constraint", "requirements.lock", "--python-version", PYTHON,
         "--python-platform", PLATFORM,
         "--generate-hashes", "--no-annotate", "--no-header", "--quiet"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        sys.exit(done.stderr)
    blocks = re.split(r"^(?=\w)", done.stdout, flags=re.MULTILINE)
    return [block.strip() for block in blocks if "==" in block]


def main() -> None:
    """Write both files anew."""
    blocks = compiled(sys.argv[1])
    of_torch = [one for one in blocks if OF_TORCH.match(one)]
    others = [one for one in blocks if one not in of_torch]
    for name, ones in (("requirements", others), ("requirements-torch", of_torch)):
        path = ROOT / "deploy" / f"{name}.txt"
        path.write_text(HEADER + "\n".join(ones) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
