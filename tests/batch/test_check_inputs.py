"""Each hostile file gets its own outcome, whatever lies beside it, and does no harm."""

import csv
import hashlib
import json
import math
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from phenokit.batch.check_inputs import check_inputs
from phenokit.errors import CODES, BadInput

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "tests" / "bad_inputs"
CANARY = Path(tempfile.gettempdir()) / "bad_input_canary"

AUDIT = """
import os, sys
def hook(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname"):
        line = event
    elif event == "open" and isinstance(arguments[0], (str, bytes)):
        line = "open " + os.fsdecode(arguments[0])
    elif event == "import" and arguments[0] == "torch":
        line = "import torch"
    elif event in ("subprocess.Popen", "os.system", "os.mkdir"):
        line = event + " " + repr(arguments[:1])
    else:
        return
    os.write(descriptor, (line + "\\n").encode("utf-8", "replace"))
descriptor = os.open(os.environ["AUDIT_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
sys.addaudithook(hook)
"""

RUN = (
    "import sys; from pathlib import Path\n"
    "from phenokit.batch.check_inputs import check_inputs\n"
    "sys.exit(check_inputs(Path(sys.argv[1]), Path(sys.argv[2])))"
)


class RecordingInMemory:
    """Three channels at 256 Hz."""

    channels, record_id, unit, sampling_rate = ("A1", "A2", "A3"), "made", "uV", 256.0

    def __init__(self, signal):
        self.signal, self.n_samples = signal, signal.shape[1]

    def samples(self, first, stop):
        return self.signal[:, first:stop]


def manifest() -> list[dict[str, str]]:
    with (FOLDER / "manifest.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def rows_of(path: Path) -> dict[str, dict]:
    return {row["file"]: row for row in json.loads(path.read_text())}


def fingerprint(folder: Path) -> dict[str, tuple[str, int]]:
    return {
        path.name: (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in folder.iterdir()
    }


def part_of(folder: Path, cases: list[dict[str, str]]) -> Path:
    """A copy of the folder with another manifest."""
    shutil.copytree(FOLDER, folder)
    lines = ["group,file", *(f"{case['group']},{case['file']}" for case in cases)]
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def audited(tmp_path_factory):
    """The whole folder, read by one worker, in processes that log what they open."""
    base = tmp_path_factory.mktemp("audited")
    for name in ("hooks", "scratch", "out"):
        (base / name).mkdir()
    (base / "hooks" / "sitecustomize.py").write_text(AUDIT)
    if CANARY.exists():
        CANARY.rmdir()
    before = fingerprint(FOLDER)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(base / "hooks"), str(ROOT)]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "AUDIT_LOG": str(base / "audit.log"),
        "TMPDIR": str(base / "scratch"),
    }
    command = [sys.executable, "-c", RUN, str(FOLDER), str(base / "out" / "o.json")]
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert fingerprint(FOLDER) == before
    return base, done


def test_every_case_gets_the_code_of_the_manifest(audited):
    rows = rows_of(audited[0] / "out" / "o.json")
    expected = {case["file"]: case["code"] for case in manifest()}
    assert list(rows) == list(expected)
    wrong = {
        file: (rows[file]["code"], code)
        for file, code in expected.items()
        if rows[file]["code"] != code
    }
    assert wrong == {}
    assert all(set(row["all_codes"]) <= set(CODES) for row in rows.values())


def test_associations_are_tested_and_say_what_was_found(audited):
    rows = rows_of(audited[0] / "out" / "o.json")
    separated = rows["c15_separation.csv"]
    assert separated["status"] == "tested"
    assert separated["log_odds_ratio"] == pytest.approx(math.log(45), abs=1e-7)
    interval = [separated["low"], separated["high"]]
    assert interval == pytest.approx([1.59561, 8.69721], abs=1e-5)
    assert "20 cases and 40 controls; odds ratio 45" in separated["message"]
    for name, words in {
        "c16_single_class.csv": "0 cases and 30 controls; at least 5 of each are needed.",
        "c17_constant.csv": "15 cases and 15 controls; the exposure does not vary.",
    }.items():
        row = rows[name]
        assert (row["status"], row["message"]) == ("not_tested", words)
        assert row["log_odds_ratio"] is None


def test_a_collinear_covariate_is_named_and_leaves_the_estimate_as_without_it(
    audited, tmp_path
):
    held = rows_of(audited[0] / "out" / "o.json")["c18_collinear.csv"]
    lines = (FOLDER / "c18_collinear.csv").read_text().splitlines()
    rows = [line.rpartition(",")[0] for line in lines]
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "without_b.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "in" / "manifest.csv").write_text("file,group\nwithout_b.csv,csv\n")
    check_inputs(tmp_path / "in", tmp_path / "o.json")
    without = rows_of(tmp_path / "o.json")["without_b.csv"]
    assert (held["status"], held["where"]) == ("tested", "column b")
    assert without["code"] == "OK"
    for name in ("log_odds_ratio", "low", "high"):
        assert held[name] == without[name]


def test_outcomes_say_where(audited):
    rows = rows_of(audited[0] / "out" / "o.json")
    assert rows["w31_flat_v2.hea"]["where"] == "V2"
    assert rows["p08_wrong_shape.safetensors"]["where"] == "weight"
    assert rows["c02_ids_dup.csv"]["where"] == "column person_id, rows 2, 4"
    assert rows["c07_latin1.csv"]["where"] == "byte 18"
    assert (rows["w38_long_35s.hea"]["start"], rows["w38_long_35s.hea"]["stop"]) == (0, 10)


def test_permuted_leads_and_comments_leave_the_signal_bit_equal(audited):
    rows = rows_of(audited[0] / "out" / "o.json")
    names = ("w00_control.hea", "w19_leads_permuted.hea", "w23_phi_comments.hea")
    hashes = {rows[name]["sha256"] for name in names}
    assert len(hashes) == 1
    assert len(hashes.pop()) == 64


def test_nothing_of_the_files_runs_and_nothing_reaches_the_network(audited):
    log = (audited[0] / "audit.log").read_text().splitlines()
    assert not [line for line in log if line.startswith("socket.")]
    assert "import torch" not in log
    assert not [line for line in log if line.startswith(("subprocess", "os.system"))]
    assert not CANARY.exists()


def test_no_file_outside_the_roots_is_opened(audited):
    base, _ = audited
    log = (base / "audit.log").read_text().splitlines()
    opened = {Path(line[5:]) for line in log if line.startswith("open /")}
    assert FOLDER / "w00_control.hea" in opened
    roots = [FOLDER, base, ROOT, Path(sys.prefix), Path(sys.base_prefix)]
    roots += [
        Path("/dev/null"),
        Path("/usr/share/zoneinfo"),
        Path("/usr/lib"),
        Path("/proc"),
    ]
    foreign = {p for p in opened if not any(p.is_relative_to(root) for root in roots)}
    # Where a worker tells which step it is at: three numbers, unlinked before they are set.
    shared = {p for p in foreign if p.parent == Path("/dev/shm") and "pym-" in p.name}
    assert foreign == shared
    assert not any(p.exists() for p in shared)
    assert not [p for p in opened if ".." in p.parts]


def test_identifiers_and_markup_are_in_no_output(audited):
    base, done = audited
    written = b"".join(p.read_bytes() for p in (base / "out").iterdir())
    seen = written + done.stdout + done.stderr
    name = json.loads((FOLDER / "n01_hostile_names.json").read_bytes())[-1]
    comments = (FOLDER / "w23_phi_comments.hea").read_text().split("#", 1)[1]
    edf = (FOLDER / "e13_phi.edf").read_bytes()[8:168].decode().split()
    words = {*name.split("."), *comments.split(), *edf} - {"X", "Startdate", "csv"}
    assert len(words) > 5
    assert [word for word in words if len(word) > 3 and word.encode() in seen] == []
    assert not [mark for mark in (b"<", b"javascript", b"x.invalid") if mark in seen]


def test_scratch_is_empty_afterwards(audited):
    assert list((audited[0] / "scratch").iterdir()) == []


def test_cases_stay_within_time_and_memory(audited):
    timings = json.loads((audited[0] / "out" / "o.timings.json").read_text())
    assert len(timings) == len(manifest())
    assert max(row["peak_bytes"] for row in timings) < 1 << 30
    slowest = max(timings, key=lambda row: row["cpu_seconds"])
    assert slowest["cpu_seconds"] < 2, slowest
    declared = ("w01", "w02", "e01", "e14", "x0")
    quick = {r["file"]: r["cpu_seconds"] for r in timings if r["file"].startswith(declared)}
    assert max(quick.values()) < 0.05, quick


@pytest.mark.slow
def test_order_and_number_of_workers_change_no_row(audited, tmp_path):
    cases = manifest()[::-1]
    folder = part_of(tmp_path / "reversed", cases)
    assert check_inputs(folder, tmp_path / "o.json", workers=4, strict=True) == 3
    forward = json.loads((audited[0] / "out" / "o.json").read_text())
    assert json.loads((tmp_path / "o.json").read_text()) == forward[::-1]


def test_a_case_alone_gets_the_row_it_gets_in_company(audited, tmp_path):
    alone = [case for case in manifest() if case["file"] == "w00_control.hea"]
    folder = part_of(tmp_path / "alone", alone)
    assert check_inputs(folder, tmp_path / "a.csv", strict=True) == 0
    row = next(csv.DictReader((tmp_path / "a.csv").read_text().splitlines()))
    assert row["sha256"] == rows_of(audited[0] / "out" / "o.json")[row["file"]]["sha256"]


def test_what_cannot_be_stored_is_refused_at_once(tmp_path):
    folder = part_of(tmp_path / "made", [])
    cases = [{"group": "wfdb", "file": "w00_control.hea"}]
    header = (folder / "w00_control.hea").read_text()

    def record(name: str, code: str) -> Path:
        (folder / f"{name}.hea").write_text(header.replace("w_base.dat", f"{name}.dat"))
        cases.append({"group": "wfdb", "file": f"{name}.hea", "code": code})
        return folder / f"{name}.dat"

    os.mkfifo(record("fifo_signal", "E_PATH"))
    record("link_signal", "E_PATH").symlink_to("/etc/hostname")
    record("link_device", "E_PATH").symlink_to("/dev/zero")
    with record("sparse_signal", "E_SIZE_MISMATCH").open("wb") as file:
        file.truncate(1 << 40)
    flipped = bytearray((folder / "w_base.dat").read_bytes())
    flipped[100] ^= 4
    record("flipped_signal", "E_CHECKSUM").write_bytes(flipped)
    os.mkfifo(folder / "fifo.hea")
    (folder / "elsewhere").symlink_to(FOLDER)
    for file, group, code in [
        ("fifo.hea", "wfdb", "E_PATH"),
        ("elsewhere/w00_control.hea", "wfdb", "E_PATH"),
        ("../outside.hea", "wfdb", "E_PATH"),
        ("/etc/hostname", "csv", "E_PATH"),
        ("s3://bucket/w00", "wfdb", "E_PATH"),
        ("n" * 300 + ".csv", "csv", "E_PATH"),
        ("absent.csv", "csv", "E_MISSING"),
        ("w_base.dat", "fhir", "E_FORMAT"),
    ]:
        cases.append({"group": group, "file": file, "code": code})
    (folder / "manifest.csv").write_text(
        "file,group\n" + "".join(f"{c['file']},{c['group']}\n" for c in cases)
    )
    check_inputs(folder, tmp_path / "o.json")
    rows = rows_of(tmp_path / "o.json")
    assert {c["file"]: rows[c["file"]]["code"] for c in cases[1:]} == {
        c["file"]: c["code"] for c in cases[1:]
    }
    assert rows["w00_control.hea"]["code"] == "OK"
    assert stat.S_ISFIFO((folder / "fifo.hea").stat().st_mode)


def test_channels_and_gaps_that_cannot_be_used_are_named(tmp_path):
    from phenokit.simulation.ieeg_files import write_edf

    rng = np.random.default_rng(1)
    folder = tmp_path / "in"
    folder.mkdir()
    signal = rng.normal(0, 50, (3, 5120)).astype(np.float32)
    flat, gap, dead = signal.copy(), signal.copy(), signal * 0
    flat[1] = 7
    gap[:, 1024:2048] = np.nan
    made = {"flat": flat, "gap": gap, "dead": dead}
    for name, values in made.items():
        write_edf(folder / f"{name}.edf", RecordingInMemory(values))
    np.savez(folder / "clip.npz", x=signal.T, channels=["A1", "A2", "A3"], fs=256)
    (folder / "bad.edf").write_bytes((folder / "gap.edf").read_bytes())
    (folder / "bad_channels.tsv").write_text("name\tstatus\nA3\tbad\n")
    files = [*(f"{name}.edf" for name in made), "clip.npz", "bad.edf"]
    (folder / "manifest.csv").write_text(
        "file,group\n" + "".join(f"{f},ieeg\n" for f in files)
    )
    check_inputs(folder, tmp_path / "o.json")
    rows = rows_of(tmp_path / "o.json")
    found = {file: (rows[file]["code"], rows[file]["where"]) for file in files}
    assert found == {
        "flat.edf": ("W_CHANNELS", "channel 2"),
        "gap.edf": ("W_WINDOW", ""),
        "dead.edf": ("A_FLAT", "channel 1, channel 2, channel 3"),
        "clip.npz": ("E_UNITS", ""),
        "bad.edf": ("W_WINDOW", "channel 3"),
    }
    assert rows["gap.edf"]["message"] == "4.0 s in gaps were not recorded (1)."
    assert rows["bad.edf"]["all_codes"] == ["W_WINDOW", "W_CHANNELS"]


def test_check_inputs_refuses_to_write_into_the_folder_or_without_a_manifest(tmp_path):
    with pytest.raises(BadInput, match="cannot lie in the folder"):
        check_inputs(FOLDER, FOLDER / "o.csv")
    with pytest.raises(BadInput, match=r"\.csv or \.json"):
        check_inputs(FOLDER, tmp_path / "o.txt")
    with pytest.raises(BadInput, match="manifest is missing"):
        check_inputs(tmp_path, tmp_path.parent / "o.csv")
