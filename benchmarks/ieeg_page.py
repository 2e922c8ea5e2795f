"""Time the iEEG page on one hour of 100 channels at 512 Hz, in a browser.

    python benchmarks/ieeg_page.py [--keep FOLDER] [--flips N] [--shots FOLDER]

Writes an EDF file of noise with four discharges (int16, 369 MB) to a temporary folder,
starts the app on it and drives Debian's Chromium: from the choice of the file to the first
drawn page, then from a key to the drawn page: the next one, which was fetched while the
one before was read, and one ten pages on, which was not. The goals are 3 s and 300 ms.
Beside them the same pages are made without a browser: reading, montage, columns, bytes.
The bound is the time in which the samples of a page are read from the file at all.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from scipy.signal import lfilter

ROOT = Path(__file__).parents[1]
RATE, SECONDS, CHANNELS = 512, 3600, 100
SEIZURES = ((700, 760), (1500, 1545), (2410, 2480), (3100, 3150))
STEP = 0.1


def names() -> list[str]:
    """Ten shafts of ten contacts."""
    return [f"{shaft}{k}" for shaft in "ABCDEFGHIJ" for k in range(1, 11)]


def write_hour(path: Path, *, seed: int = 1) -> Path:
    """An hour of 1/f-like noise with rhythmic discharges, as EDF, and its seizures."""
    rng = np.random.default_rng(seed)
    each = {
        "uV": 8, "-3276.8": 8, "3276.7": 8, "-32768": 8, "32767": 8,
        "HP:0.1Hz LP:200Hz": 80, str(RATE): 8, "": 32,
    }  # fmt: skip
    fields = [
        [f"{name:<16}" for name in names()],
        [" " * 80] * CHANNELS,
        *([text.ljust(width)] * CHANNELS for text, width in each.items()),
    ]
    head = (
        f"{'0':<8}{'X X X X':<80}{'Startdate X X X X':<80}01.01.8500.00.00"
        f"{256 * (CHANNELS + 1):<8}{'':<44}{SECONDS:<8}{1:<8}{CHANNELS:<4}"
    )
    state = np.zeros((CHANNELS, 1))
    gain = rng.uniform(15, 60, CHANNELS)[:, None] / 4
    reach = rng.permutation(CHANNELS)
    with path.open("wb") as file:
        file.write((head + "".join("".join(field) for field in fields)).encode("ascii"))
        for begin in range(0, SECONDS, 60):
            white = rng.standard_normal((CHANNELS, 60 * RATE), dtype=np.float32)
            signal, state = lfilter([1.0], [1.0, -0.97], white, axis=1, zi=state)
            signal *= gain
            times = begin + np.arange(60 * RATE) / RATE
            for k, (onset, offset) in enumerate(SEIZURES):
                inside = (times >= onset) & (times < offset)
                if inside.any():
                    phase = times[inside] - onset
                    wave = np.sign(np.sin(2 * np.pi * (7 * phase - 0.04 * phase**2)))
                    late = 0.4 * np.argsort(np.roll(reach, 7 * k))[:, None]
                    signal[:, inside] += (
                        8 * gain * wave * (phase > late) * np.exp(-late / 8)
                    )
            digital = np.clip(np.rint(signal / STEP), -32768, 32767).astype("<i2")
            file.write(digital.reshape(CHANNELS, 60, RATE).swapaxes(0, 1).tobytes())
    table = "onset\tduration\teventType\n" + "".join(
        f"{a:.2f}\t{b - a:.2f}\tsz\n" for a, b in SEIZURES
    )
    path.with_name(f"{path.stem}_events.tsv").write_text(table)
    return path


@contextmanager
def running_app(folder: Path, scratch: Path) -> Iterator[str]:
    """Address of the app, which lives as long as the context."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    variables = {
        "PHENOKIT_RECORDINGS": str(folder),
        "PHENOKIT_CACHE": str(scratch / "cache"),
        "PHENOKIT_JOBS": str(scratch / "jobs"),
        "PHENOKIT_REVIEWS": str(scratch / "reviews.sqlite"),
    }
    command = [sys.executable, "-m", "streamlit", "run", "app.py"]
    command += ["--server.port", str(port)]
    with (scratch / "log").open("wb") as log:
        server = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, **variables}, stdout=log, stderr=log
        )
        try:
            address = f"http://127.0.0.1:{port}"
            for _ in range(300):
                try:
                    urllib.request.urlopen(f"{address}/_stcore/health", timeout=5).close()
                    break
                except OSError:
                    time.sleep(0.2)
            yield address
        finally:
            server.terminate()
            server.wait(20)


def time_browser(folder: Path, n_flips: int, shots: Path | None) -> dict[str, float]:
    """Milliseconds from choosing to the first page, and of turning pages."""
    from playwright.sync_api import sync_playwright

    with (
        tempfile.TemporaryDirectory() as scratch,
        running_app(folder, Path(scratch)) as address,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox"]
        )
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.set_default_timeout(60_000)
        opened = []
        for visit in range(3):
            page.goto(f"{address}/ieeg")
            page.get_by_text("Server folder").click()
            page.wait_for_timeout(1500)
            page.get_by_role("combobox", name="Recording").click()
            start = time.perf_counter()
            page.get_by_role("option", name="hour").click()
            page.locator(".stage[data-drawn]").wait_for()
            opened.append(time.perf_counter() - start)
            if visit < 2:
                page.goto("about:blank")
        stage = page.locator(".stage")
        stage.focus()
        page.wait_for_timeout(2000)
        took: dict[str, list[float]] = {"ArrowRight": [], "PageDown": []}
        drawing = []
        for key, times in took.items():
            for _ in range(n_flips):
                # From the key to the frame after the one in which the page was drawn.
                times.append(page.evaluate(FLIP, key))
                drawing.append(float(stage.get_attribute("data-milliseconds") or 0))
                page.wait_for_timeout(READING)
        payload = int(stage.get_attribute("data-bytes") or 0)
        if shots:
            page.screenshot(path=shots / "ieeg-benchmark.png")
        browser.close()
    measured = {"open, first visit (ms)": 1e3 * opened[0]}
    measured["open, later (ms)"] = 1e3 * statistics.median(opened[1:])
    words = {"ArrowRight": "next page", "PageDown": "ten pages on"}
    for key, times in took.items():
        measured[f"{words[key]}, median (ms)"] = statistics.median(times)
        measured[f"{words[key]}, 95 % (ms)"] = sorted(times)[int(0.95 * (n_flips - 1))]
    measured["of that drawing, median (ms)"] = statistics.median(drawing)
    measured["a page (kB)"] = payload / 1e3
    measured["load of the machine"] = os.getloadavg()[0]
    return measured


READING = 1000
"""Milliseconds for which a reader looks at a page: time to fetch the next one."""

FLIP = """(key) => new Promise((resolve) => {
  const find = (root) => {
    for (const node of root.querySelectorAll("*")) {
      if (node.classList?.contains("stage")) return node;
      const inside = node.shadowRoot && find(node.shadowRoot);
      if (inside) return inside;
    }
    return null;
  };
  const stage = find(document);
  const before = stage.dataset.drawn;
  const start = performance.now();
  const look = () => {
    if (stage.dataset.drawn !== before) {
      requestAnimationFrame(() => resolve(performance.now() - start));
    } else setTimeout(look, 2);
  };
  stage.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
  look();
})"""


def time_pages(path: Path) -> dict[str, float]:
    """Milliseconds of making a page without a browser, by what is done to it."""
    from phenokit.preprocessing.display import DisplayFilters
    from phenokit.readers.ieeg import read_ieeg
    from phenokit.report.ieeg_viewer import Extrema, View, draw_page, pack_pages

    start = time.perf_counter()
    recording = read_ieeg(path)
    took = {"header": 1e3 * (time.perf_counter() - start)}
    views = {
        "samples only (bound)": None,
        "10 s as recorded": View(),
        "10 s bipolar": View(montage="bipolar"),
        "10 s common average": View(montage="common average"),
        "10 s median": View(montage="median"),
        "10 s filtered 0.5-70 Hz, 50 Hz": View(filters=DisplayFilters(0.5, 70.0, 50.0)),
        "60 s as recorded": View(length=60),
        "300 s as recorded, first": View(length=300),
        "300 s as recorded, again": View(length=300),
        "300 s bipolar": View(length=300, montage="bipolar"),
    }
    with tempfile.TemporaryDirectory() as folder:
        extrema = Extrema(recording, Path(folder), "hour")
        for name, view in views.items():
            times = []
            for k in range(1 if "300" in name else 7):
                start = time.perf_counter()
                if view is None:
                    recording.samples(5120 * k, 5120 * (k + 1))
                else:
                    begin = 0.0 if "300" in name else 10.0 * (k + 1)
                    moved = View(begin, view.length, view.montage, view.filters)
                    page = draw_page(recording, moved, n_columns=1250, extrema=extrema)
                    pack_pages([page], header={})
                times.append(1e3 * (time.perf_counter() - start))
            took[name] = statistics.median(times)
    return took


def main() -> None:
    """Print both tables and their goals."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", type=Path, help="folder of the file, which is kept")
    parser.add_argument("--flips", type=int, default=20)
    parser.add_argument("--shots", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = asked.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "hour.edf"
        if not path.is_file():
            write_hour(path)
        pages = time_pages(path)
        browser = time_browser(folder, asked.flips, asked.shots)
    for name, value in pages.items():
        print(f"{name:<34} {value:8.1f} ms")
    for name, value in browser.items():
        print(f"{name:<34} {value:8.1f}")
    print(json.dumps({"pages": pages, "browser": browser}))


if __name__ == "__main__":
    main()
