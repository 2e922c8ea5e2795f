"""The demonstration recordings as files."""

import csv
import re

import numpy as np
import pytest

from phenokit.recording import LEADS
from phenokit.simulation.demo import write_demo_recordings

SIGNAL_LINE = re.compile(
    r"(demo\d\d)\.dat 16 1000\.0\(0\)/mV \d+ 0 (-?\d+) (-?\d+) 0 (\w+)", re.ASCII
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    write_demo_recordings(folder, seed=1)
    return folder


def table(folder):
    with (folder / "demo.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_demo_names_say_nothing_and_the_table_describes_every_file(folder):
    rows = table(folder)
    assert len(rows) >= 12
    assert {row["record_id"] for row in rows} == {
        path.stem for path in folder.glob("*.hea")
    }
    assert all(re.fullmatch(r"demo\d\d", row["record_id"]) for row in rows)
    assert all(row["shows"] for row in rows)


def test_demo_headers_follow_the_strict_grammar_and_match_their_samples(folder):
    for path in sorted(folder.glob("*.hea")):
        first, *lines = path.read_text(encoding="ascii").splitlines()
        assert re.fullmatch(r"demo\d\d 12 500 5000", first)
        samples = np.fromfile(path.with_suffix(".dat"), dtype="<i2").reshape(5000, 12)
        for lead, line, signal in zip(LEADS, lines, samples.T, strict=True):
            fields = SIGNAL_LINE.fullmatch(line)
            assert fields, line
            assert fields[1] == path.stem
            assert int(fields[2]) == signal[0]
            assert (int(fields[3]) - int(signal.sum(dtype=np.int64))) % 65536 == 0
            assert fields[4] == lead


def test_demo_recordings_of_the_same_seed_are_the_same_bytes(folder, tmp_path):
    write_demo_recordings(tmp_path, seed=1)
    for path in folder.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


def test_demo_shows_the_faults_that_it_names(folder):
    rows = {row["shows"]: row["record_id"] for row in table(folder)}

    def samples(shows):
        path = folder / f"{rows[shows]}.dat"
        return np.fromfile(path, dtype="<i2").reshape(5000, 12).T.astype(int)

    flat = samples("Normal heart, lead V4 flat: electrode off")
    assert [LEADS[i] for i in np.flatnonzero(np.ptp(flat, axis=1) == 0)] == ["V4"]
    reversed_arms = samples("Normal heart, arm electrodes reversed")
    lead_i = reversed_arms[0] - np.median(reversed_arms[0])
    assert abs(lead_i.min()) > lead_i.max()
