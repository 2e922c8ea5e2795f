"""Every command, public name, page and variable is named in the docs, and the other way."""

import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

import phenokit
from phenokit.cli import app

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
PAGES = [README, *(page.read_text("utf-8") for page in sorted(ROOT.glob("docs/**/*.md")))]
DOCS = "\n".join(PAGES)
SOURCES = [
    path
    for pattern in (
        "phenokit/**/*.py",
        "pages/*.py",
        "app.py",
        "scripts/*.py",
        "tests/**/*.py",
    )
    for path in sorted(ROOT.glob(pattern))
]
VARIABLE = re.compile(r"PHENOKIT_[A-Z]+(?:_[A-Z]+)*")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def leaf_commands(command, path=()):
    """Every command that does something, as (words, click command)."""
    if hasattr(command, "commands"):
        for name, below in command.commands.items():
            yield from leaf_commands(below, (*path, name))
    else:
        yield path, command


COMMANDS = dict(leaf_commands(get_command(app)))
INVOCATIONS = list(
    {
        tuple(shlex.split(line, comments=True)[1:]): None
        for language, block in FENCE.findall(DOCS)
        if language == "sh"
        for line in block.splitlines()
        if line.startswith("phenokit ")
    }
)


@pytest.mark.parametrize("words", [w for w in COMMANDS if w != ("version",)], ids=" ".join)
def test_every_command_is_shown_in_a_block_of_the_docs(words):
    assert any(line[: len(words)] == words for line in INVOCATIONS)


@pytest.mark.parametrize("line", INVOCATIONS, ids=" ".join)
def test_every_command_in_the_docs_is_understood(line):
    words = next((w for w in COMMANDS if line[: len(w)] == w), None)
    assert words is not None, "there is no such command"
    COMMANDS[words].make_context(
        "phenokit", list(line[len(words) :])
    )  # raises a usage error


def test_every_public_name_is_in_an_example_and_every_example_name_is_public():
    python = "\n".join(
        block for language, block in FENCE.findall(README) if language == "python"
    )
    imported = re.findall(r"from phenokit import (.+)", python)
    names = {name for line in imported for name in line.split(", ")}
    assert names == set(phenokit.__all__)


@pytest.mark.parametrize(
    "block", [b for language, b in FENCE.findall(DOCS) if language == "python"]
)
def test_python_examples_compile_and_their_imports_exist(block):
    code = compile(block, "docs", "exec")
    lines = [line for line in block.splitlines() if line.startswith(("import ", "from "))]
    exec("\n".join(lines), {})
    assert code.co_names


@pytest.mark.parametrize(
    "title", re.findall(r'Page\("[^"]+", title="(.+?)"', (ROOT / "app.py").read_text())
)
def test_every_page_of_the_app_is_described(title):
    assert f"**{title}**" in README


def test_environment_variables_are_those_of_the_code():
    in_code = {v for path in SOURCES for v in VARIABLE.findall(path.read_text("utf-8"))}
    table = README.split("## Environment variables")[1].split("\n## ")[0]
    assert set(VARIABLE.findall(table)) == in_code
    assert set(VARIABLE.findall(DOCS)) == in_code


def test_exit_codes_are_those_of_the_command_line():
    import phenokit.cli

    stated = re.search(r"Exit codes of the command line: (.*?)\n\n", README, re.DOTALL)
    assert stated is not None
    documented = re.findall(r"(?:^|; )(\d+) ", stated[1].replace("\n", " "))
    assert phenokit.cli.__doc__ is not None
    ours = phenokit.cli.__doc__.split("Exit codes:")[1].split("Nothing heavy")[0]
    assert documented == re.findall(r"(?:^|; )(\d+) ", ours.replace("\n", " ").strip())


@pytest.mark.parametrize("number", range(1, 11))
def test_every_promise_is_repeated(number):
    assert f"- **P{number} " in README


def test_every_link_to_a_file_leads_to_one():
    for page in [ROOT / "README.md", *ROOT.glob("docs/**/*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
