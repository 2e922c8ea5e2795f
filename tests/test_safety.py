"""Ways for a file to run code, or to be read unchecked, do not occur in the source."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PRODUCT = ("phenokit/**/*.py", "pages/**/*.py", "app.py")  # not what only developers run
SOURCES = sorted(path for pattern in PRODUCT for path in ROOT.glob(pattern))
BANNED_MODULES = {
    *("pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"),
    *("yaml", "xml", "lxml", "defusedxml", "xmltodict", "bs4", "html5lib"),
    *("fsspec", "requests", "httpx", "aiohttp", "ftplib", "telnetlib"),
}
BANNED_CALLS = {
    *("eval", "exec", "os.system", "os.popen", "torch.load", "torch.hub.load"),
    *("np.load", "numpy.load", "np.loadtxt", "np.genfromtxt", "np.fromfile"),
    *("pd.read_csv", "pd.read_table", "pd.read_excel", "pd.read_pickle", "pd.read_html"),
    *("pd.read_json", "pd.read_xml", "pd.read_sql", "wfdb.rdrecord", "wfdb.rdheader"),
    *("zipfile.Path", "tarfile.open", "shutil.unpack_archive", "tempfile.mktemp"),
}
BANNED_METHODS = {"extractall", "extract", "to_pickle", "to_excel"}
BANNED_KEYWORDS = {"unsafe_allow_html", "allow_pickle", "weights_only", "shell"}
ALLOWED = {
    ("phenokit/readers/xml.py", "xml"),  # the one gate
    ("phenokit/readers/ptbxl.py", "pd.read_csv"),  # text in memory, columns checked after
}


def dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def is_false(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is False


def dangers(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules = [name.name for name in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [node.module or ""]
        else:
            modules = []
        yield from BANNED_MODULES & {module.split(".")[0] for module in modules}
        if not isinstance(node, ast.Call):
            continue
        name = dotted(node.func)
        yield from BANNED_CALLS & {name}
        yield from BANNED_METHODS & {name.rpartition(".")[2]} if "." in name else ()
        for keyword in node.keywords:
            if keyword.arg in BANNED_KEYWORDS and not is_false(keyword.value):
                yield keyword.arg


@pytest.mark.parametrize(
    "path", SOURCES, ids=[path.relative_to(ROOT).as_posix() for path in SOURCES]
)
def test_source_has_no_way_in_for_code_or_unchecked_files(path):
    name = path.relative_to(ROOT).as_posix()
    found = set(dangers(ast.parse(path.read_text())))
    assert {danger for danger in found if (name, danger) not in ALLOWED} == set()


@pytest.mark.parametrize(
    ("code", "danger"),
    [
        ("import pickle", "pickle"),
        ("from xml.etree import ElementTree", "xml"),
        ("torch.load(path)", "torch.load"),
        ("np.load(path, allow_pickle=True)", "allow_pickle"),
        ("archive.extractall(path)", "extractall"),
        ("st.markdown(x, unsafe_allow_html=True)", "unsafe_allow_html"),
        ("def f():\n    return eval(x)", "eval"),
        ("pd.read_csv(path)", "pd.read_csv"),
    ],
)
def test_the_ban_sees_what_it_bans(code, danger):
    assert danger in set(dangers(ast.parse(code)))
