"""Canaries: a name in a file, and a file that is a name, stay where they belong.

A real server and a real browser; afterwards everything that was written, asked for or
logged is searched.
"""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from phenokit.audit import AuditLog

pytestmark = [pytest.mark.browser, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
SECRET = "a secret of the proxy"
NAME, BORN, NUMBER = "Zzcanary_Doe", "1951-05-02", "MRN-99887766"
FILE = "Zzcanaryfile-Jane-Doe"
LEAD = "Zzcanarylead"
MARKDOWN = "![x](evil.example)<img src=x>"
"""The name of a file: nothing on a page may read it as anything but text."""
IN_FILES = (NAME, BORN, NUMBER, LEAD)
"""In headers and comments: dropped when a file is read."""


@dataclass
class Site:
    """A server for people who sign in, and all the places that it writes to."""

    folder: Path
    address: str = ""
    urls: list[str] = field(default_factory=list)
    titles: set[str] = field(default_factory=set)
    saved: list[str] = field(default_factory=list)

    def written(self) -> Iterator[tuple[Path, bytes]]:
        """Everything but the recordings themselves."""
        for place in ("log", "tmp", "cache", "audit", "home", "reviews.sqlite"):
            top = self.folder / place
            for path in [top, *top.rglob("*")] if top.exists() else []:
                yield path, path.read_bytes() if path.is_file() else b""


@pytest.fixture(scope="module")
def site(browser, start_app, tmp_path_factory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    from phenokit.simulation.demo import write_demo_recordings

    write_demo_recordings(folder / "demo", seed=7)
    served = folder / "served"
    served.mkdir()
    comments = f"# Name: {NAME}\n# DOB: {BORN}\n# {NUMBER}\n"
    header = (folder / "demo" / "demo04.hea").read_text()
    shutil.copy(folder / "demo" / "demo04.dat", served / f"{FILE}.dat")
    header = header.replace("demo04", FILE)
    (served / f"{FILE}.hea").write_text(header.rstrip("\n") + "\n" + comments)
    bad = header.replace(" aVR\n", f" {LEAD}\n")
    assert bad != header
    (served / f"{FILE}-bad.hea").write_text(bad.rstrip("\n") + "\n" + comments)
    shutil.copy(folder / "demo" / "demo04.dat", served / f"{MARKDOWN}.dat")
    (served / f"{MARKDOWN}.hea").write_text(header.replace(FILE, MARKDOWN))
    shutil.copy(ROOT / "tests" / "bad_inputs" / "e15_label_html.edf", served)
    edf = bytearray((ROOT / "tests" / "bad_inputs" / "e13_phi.edf").read_bytes())
    edf[8:88] = f"{NUMBER} F 02-MAY-1951 {NAME}".ljust(80).encode()
    (served / f"{FILE}.edf").write_bytes(edf)
    for place in ("tmp", "home"):
        (folder / place).mkdir()
    (folder / "secret").write_text(SECRET)
    variables = {
        "PHENOKIT_RECORDINGS": str(served),
        "PHENOKIT_JOBS": str(folder / "jobs"),
        "PHENOKIT_REVIEWS": str(folder / "reviews.sqlite"),
        "PHENOKIT_CACHE": str(folder / "cache"),
        "PHENOKIT_AUDIT": str(folder / "audit"),
        "PHENOKIT_UPLOADS": str(folder / "uploads"),
        "PHENOKIT_SIGNIN": "proxy",
        "PHENOKIT_PROXYSECRET": str(folder / "secret"),
        "STREAMLIT_LOGGER_LEVEL": "debug",
        "TMPDIR": str(folder / "tmp"),
        "HOME": str(folder / "home"),
        "XDG_STATE_HOME": str(folder / "home"),
        "MPLCONFIGDIR": str(folder / "home"),
    }
    with start_app(folder / "demo", folder / "log", **variables) as address:
        yield Site(folder, address)


@pytest.fixture(scope="module")
def users(browser, site: Site, start_proxy) -> Iterator[dict]:
    """A page for each of two people."""
    pages, open_ones = {}, []
    for user in ("ann", "bob"):
        headers = {
            "X-PhenoKit-Proxy": SECRET,
            "X-Forwarded-User": f"{user}@example.org",
        }
        proxy = start_proxy(site.address, headers)
        context = browser.new_context(viewport={"width": 1400, "height": 1000})
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("request", lambda request: site.urls.append(request.url))
        pages[user] = (page, proxy.__enter__())
        open_ones += [(context, proxy)]
    yield pages
    for context, proxy in open_ones:
        context.close()
        proxy.__exit__(None, None, None)


def settle(page) -> None:
    page.wait_for_timeout(700)
    page.locator("[data-testid=stStatusWidget]").wait_for(state="detached")


def open_from(page, source: str) -> None:
    page.get_by_text(source, exact=True).click()
    settle(page)


def choose(page, name: str) -> None:
    page.get_by_role("combobox", name="Recording").click()
    page.get_by_role("option", name=name, exact=True).click()
    settle(page)


TEXT = """() => {
    const text = (node) => node.nodeType === Node.TEXT_NODE ? node.data
        : [...(node.shadowRoot?.childNodes ?? []), ...node.childNodes].map(text).join(" ");
    return text(document.body);
}"""


def test_what_stands_in_a_file_is_on_no_page_and_its_name_in_no_address(site, users):
    page, proxy = users["ann"]
    shown = ""
    for path, files, drawn in (
        ("", (FILE, f"{FILE}-bad"), ".sheet > svg"),
        ("ieeg", (FILE,), "canvas"),
    ):
        page.goto(f"{proxy}/{path}")
        open_from(page, "Server folder")
        for name in files:
            choose(page, name)
            if not name.endswith("-bad"):
                page.locator(drawn).first.wait_for()
            else:
                page.get_by_text("E_LEADS").first.wait_for()
            settle(page)
            shown += page.evaluate(TEXT)
            site.titles.add(page.title())
            site.urls.append(page.url)
    page.goto(proxy)
    open_from(page, "Server folder")
    choose(page, FILE)
    with page.expect_download() as download:
        page.get_by_role("button", name="JSON").click()
    site.saved.append(download.value.suggested_filename)
    exported = download.value.path().read_text()
    for canary in IN_FILES:
        assert canary not in shown
        assert canary not in exported
        assert canary not in str(site.urls)
    assert FILE not in str(site.urls)
    assert FILE not in str(site.saved)
    assert site.titles == {"PhenoKit"}


def test_names_that_are_markdown_or_html_are_text_and_fetch_nothing(site, users):
    page, proxy = users["bob"]
    for path, name in (("", MARKDOWN), ("ieeg", "e15_label_html"), ("jobs", "")):
        page.goto(f"{proxy}/{path}")
        page.locator("h1").first.wait_for()
        if name:
            open_from(page, "Server folder")
            choose(page, name)
            page.locator(".sheet > svg, canvas, .verdict").first.wait_for()
            settle(page)
        assert page.locator("img[src*=evil], img[src=x]").count() == 0
    assert [
        url
        for url in site.urls
        if not url.startswith(("http://127.0.0.1:", "data:", "blob:"))
    ] == []
    assert "evil" not in str(site.urls)


def test_another_user_cannot_open_what_was_uploaded(site, users):
    ann, ann_proxy = users["ann"]
    bob, bob_proxy = users["bob"]
    ann.goto(ann_proxy)
    open_from(ann, "Upload")
    stem = site.folder / "served" / FILE
    ann.locator("input[type=file]").set_input_files([f"{stem}.hea", f"{stem}.dat"])
    ann.locator(".sheet > svg").first.wait_for()
    settle(ann)
    record = ann.url.partition("record=")[2]
    assert record
    bob.goto(f"{bob_proxy}/?record={record}")
    bob.get_by_text("not at hand any more").wait_for()


def test_a_job_on_an_upload_is_shown_to_its_owner_only(site, users):
    """The job is there for the server; who may see it follows from where its table lies."""
    import hashlib

    own = hashlib.sha256(b"ann@example.org").hexdigest()[:24]
    folder = site.folder / "jobs" / "0123456789abcdef"
    folder.mkdir(parents=True)
    table = site.folder / "jobs" / "uploads" / f"user-{own}" / "0.csv"
    asked = {
        "title": "uploaded table, 1 feature", "asked": "2026-01-02T03:04:05.678+00:00",
        "arguments": ["risk", str(table), "--features", "Zzcanary", "--engine", "laplace"],
    }  # fmt: skip
    (folder / "job.json").write_text(json.dumps(asked))
    for user, is_shown in (("ann", True), ("bob", False)):
        page, proxy = users[user]
        page.goto(f"{proxy}/jobs")
        page.locator("h1").first.wait_for()
        settle(page)
        text = page.evaluate(TEXT)
        assert ("uploaded table, 1 feature" in text) == is_shown
        assert is_shown or "Zzcanary" not in text
        page.goto(f"{proxy}/risk?source=upload")
        page.get_by_text(f"Analysis ({int(is_shown)} earlier)").wait_for()
    page.goto(f"{proxy}/jobs?job=0123456789abcdef")
    page.locator("h1").first.wait_for()
    settle(page)
    assert "Zzcanary" not in page.evaluate(TEXT)
    shutil.rmtree(folder)


def test_nothing_that_the_server_wrote_holds_an_identifier(site: Site):
    """The last of the module: log (at debug), temporary files, caches, audit log, home."""
    places = set()
    for path, content in site.written():
        places.add(path.relative_to(site.folder).parts[0])
        for canary in (*IN_FILES, FILE, "Zzcanary"):
            assert canary.encode() not in content, f"{canary} in {path}"
            assert canary not in path.name
    assert {"log", "audit"} <= places
    assert list((site.folder / "tmp").iterdir()) == []


def test_the_log_of_who_saw_what_is_whole(site: Site):
    log = AuditLog(site.folder / "audit")
    assert log.verify().problem == ""
    told = {(e.user, e.action, e.page, e.detail.split(" ")[0]) for e in log.entries()}
    assert {
        ("ann@example.org", "view", "ecg", "ECG"),
        ("ann@example.org", "score", "ecg", "ECG"),
        ("ann@example.org", "export", "ecg", "ECG"),
        ("ann@example.org", "view", "ieeg", "iEEG"),
        ("bob@example.org", "sign-in", "app", "proxy"),
        ("ann@example.org", "view", "jobs", "job"),
    } <= told
