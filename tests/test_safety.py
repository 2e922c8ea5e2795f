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
BANNED_CALLS |= {
    *("compile", "__import__", "importlib.import_module", "subprocess.getoutput"),
    *("os.popen2", "os.execv", "os.execvp", "os.spawnl", "pd.read_clipboard"),
    *("mne.io.read_raw", "wfdb.rdsamp", "wfdb.rdann", "wfdb.dl_database"),
    *("urllib.request.urlretrieve", "safetensors.torch.load_file"),
    *("csv.writer", "csv.DictWriter"),  # `report.tables` guards text from being run
}
BANNED_METHODS = {"extractall", "extract", "to_pickle", "to_excel", "to_csv"}
BANNED_KEYWORDS = {"unsafe_allow_html", "allow_pickle", "weights_only", "shell"}
ALLOWED = {
    ("phenokit/report/tables.py", "csv.writer"),
    ("phenokit/report/explanation.py", "csv.DictWriter"),  # guards cell by cell
    ("phenokit/simulation/demo.py", "csv.writer"),  # our own words
    ("phenokit/simulation/hospital.py", "to_csv"),
    ("phenokit/readers/xml.py", "xml"),  # the one gate
    ("phenokit/job_queue.py", "os.execv"),  # a job becomes its own command
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


# What a page shows of a file is text, never Markdown: Streamlit fetches the image of a
# Markdown text, also in a label.

PAGES = [path for path in SOURCES if path.parent.name == "pages"] + [ROOT / "app.py"]
BANNED_ELEMENTS = {
    *("write", "markdown", "html", "image", "iframe", "exception", "latex", "audio"),
    *("video", "graphviz_chart", "pdf", "map", "components", "json", "table", "metric"),
}
READS_MARKDOWN = {
    *("caption", "info", "warning", "error", "success", "title", "header", "subheader"),
    *("button", "download_button", "expander", "popover", "toggle", "checkbox", "radio"),
    *("selectbox", "multiselect", "slider", "select_slider", "number_input", "text_input"),
    *("text_area", "pills", "segmented_control", "tabs", "page_link", "link_button"),
    *("status", "spinner", "progress", "toast", "badge", "form_submit_button"),
    *("file_uploader", "dialog", "date_input", "time_input"),
}
OF_UNKNOWN_ORIGIN = {
    *("name", "title", "record_id", "patient_id", "person_id", "path", "location", "user"),
    *("channels", "source", "message", "note", "author", "stem", "filename", "columns"),
}
KNOWN = {
    "_risk_results.py: panel.title",  # of `phenokit.report.risk`, fixed words
}


def markdown_of_unknown_origin(tree: ast.AST) -> Iterator[str]:
    """What a call that reads Markdown is given of a file, as far as its words tell."""
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        if dotted(node.func).startswith("st.") and node.func.attr in BANNED_ELEMENTS:
            yield dotted(node.func)
        if node.func.attr not in READS_MARKDOWN:
            continue
        words = [*node.args[:1]]
        words += [k.value for k in node.keywords if k.arg in {"label", "body", "help"}]
        words += [k.value for k in node.keywords if k.arg in {"text", "placeholder"}]
        for part in [part for word in words for part in ast.walk(word)]:
            if isinstance(part, ast.Attribute) and part.attr in OF_UNKNOWN_ORIGIN:
                yield ast.unparse(part)
            if isinstance(part, ast.Name) and part.id in OF_UNKNOWN_ORIGIN - {
                *("message", "title", "name")  # local words, checked where they are made
            }:
                yield part.id
            if isinstance(part, ast.Call) and dotted(part.func) in {"str", "repr"}:
                yield ast.unparse(part)


@pytest.mark.parametrize("path", PAGES, ids=[path.name for path in PAGES])
def test_a_page_gives_no_text_of_a_file_to_markdown(path):
    found = {f"{path.name}: {one}" for one in markdown_of_unknown_origin(
        ast.parse(path.read_text()))}  # fmt: skip
    assert found - KNOWN == set()


@pytest.mark.parametrize(
    "code",
    [
        'st.caption(f"Recording {one.record_id}")',
        "st.error(str(error))",
        'left.button(f"Open {entry.name}")',
        "st.expander(label=recording.channels[0])",
        "st.write(anything)",
        'st.image("a.png")',
    ],
)
def test_the_test_of_markdown_sees_what_it_forbids(code):
    assert list(markdown_of_unknown_origin(ast.parse(code)))


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
