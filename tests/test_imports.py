"""What an import costs: nothing heavy before it is needed."""

import os
import resource
import subprocess
import sys
from statistics import median

import pytest

HEAVY = ("torch", "scipy", "pandas", "sklearn", "wfdb", "streamlit", "pyarrow", "plotly")


def loaded_after(code):
    """Top-level modules that some code has imported, in a fresh interpreter."""
    report = "; import sys; print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", code + report], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split("\n")[-2].split())


@pytest.mark.parametrize(
    "code",
    [
        "import phenokit",
        "import phenokit.cli",
        "import phenokit.errors, phenokit.recording, phenokit.statements",
    ],
)
def test_an_import_loads_nothing_heavy(code):
    assert loaded_after(code).isdisjoint(HEAVY)


def test_the_pipeline_loads_no_torch_before_a_model_is_loaded():
    assert "torch" not in loaded_after("from phenokit import load_model, score_ecg")


@pytest.mark.parametrize(
    "arguments", [["--help"], ["score", "--help"], ["train", "--help"]]
)
def test_help_loads_nothing_heavy(arguments):
    code = (
        f"import sys; sys.argv = ['phenokit', *{arguments}]\n"
        "from phenokit.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "pass"
    )
    assert loaded_after(code).isdisjoint({*HEAVY, "numpy"})


def cpu_time(*arguments):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, *arguments], capture_output=True, check=True, env=os.environ
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_help_costs_at_most_ten_bare_pythons():
    rounds = [
        (cpu_time("-c", "pass"), cpu_time("-m", "phenokit.cli", "--help")) for _ in range(5)
    ]
    bare, ours = (median(column) for column in zip(*rounds, strict=True))
    assert ours <= 10 * bare
