"""`phenokit verify` names every file that is not what the run wrote."""

import json
import shutil

import pytest

from phenokit.batch.run_folder import part_name
from phenokit.batch.verify import verify_run
from phenokit.errors import BadInput


@pytest.fixture(scope="module")
def whole(trial, tmp_path_factory):
    """A finished run; not to be changed."""
    out = tmp_path_factory.mktemp("whole") / "out"
    trial.score(out)
    return out


@pytest.fixture
def run(whole, tmp_path):
    """The same, to be damaged."""
    return shutil.copytree(whole, tmp_path / "run")


def faults_of(folder):
    return {fault.name: fault.message for fault in verify_run(folder).faults}


def change(path, **values):
    path.write_text(json.dumps(json.loads(path.read_bytes()) | values))


def test_a_finished_run_is_whole(whole):
    found = verify_run(whole)
    assert (found.command, found.is_finished, found.n_rows) == ("score", True, 8)
    assert found.faults == ()
    manifest = json.loads((whole / "manifest.json").read_bytes())
    assert found.n_files == len(manifest["files"]) == 5  # 3 parts, errors, report
    assert manifest["plan_hash"].startswith(found.run_id)


@pytest.mark.parametrize(
    "name", [part_name(0), part_name(2), "errors.parquet", "report.html"]
)
@pytest.mark.parametrize("damage", ["cut", "flipped", "emptied", "removed"])
def test_a_damaged_file_is_named_and_no_other(run, name, damage):
    path = run / name
    data = path.read_bytes()
    middle = len(data) // 2
    flipped = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
    path.unlink()
    if damage != "removed":
        changed = {"cut": data[:-1], "flipped": flipped, "emptied": b""}[damage]
        path.write_bytes(changed)
    said = "is missing" if damage == "removed" else "is not what was written"
    faults = faults_of(run)
    assert faults.keys() == {name}
    assert said in faults[name]


def test_a_damaged_receipt_is_named(run):
    (run / "part-00000.json").write_bytes(b"{")
    change(run / "part-00001.json", plan_hash="0" * 64)
    change(run / "part-00002.json", sha256="0" * 64)
    assert faults_of(run) == {
        "part-00000.json": "is missing or cannot be read",
        "part-00001.json": "belongs to another plan",
        "part-00002.json": "is not the receipt of its part",
    }


def test_a_part_of_another_run_is_named(run):
    shutil.copy(run / part_name(0), run / part_name(7))
    assert faults_of(run) == {part_name(7): "does not belong to the run"}


def test_a_changed_plan_is_named(run):
    plan = json.loads((run / "plan.json").read_bytes())
    plan["plan"]["model"] = "another"
    (run / "plan.json").write_text(json.dumps(plan))
    assert "was changed" in faults_of(run)["plan.json"]
    change(run / "manifest.json", plan_hash="0" * 64)
    assert faults_of(run)["manifest.json"] == "belongs to another plan"


def test_counts_that_do_not_add_up_are_named(run):
    codes = json.loads((run / "manifest.json").read_bytes())["codes"]
    change(run / "manifest.json", codes=codes | {"OK": codes["OK"] + 1})
    assert faults_of(run) == {"manifest.json": "its codes do not add up to 8"}
    change(run / "manifest.json", n_recordings=9, codes={"OK": 9}, outcomes={"scored": 9})
    assert "names 9 recordings; the parts have 8" in faults_of(run)["manifest.json"]


def test_a_manifest_that_leads_out_of_the_folder_is_not_followed(run, tmp_path):
    (tmp_path / "mine.csv").write_text("mine")
    manifest = json.loads((run / "manifest.json").read_bytes())
    for name in ("../mine.csv", str(tmp_path / "mine.csv")):
        change(run / "manifest.json", files=manifest["files"] | {name: {"sha256": "ab"}})
        assert faults_of(run) == {name: "lies outside the folder"}


def test_a_run_that_has_not_finished_is_no_fault_of_its_parts(run):
    for name in ("manifest.json", "errors.parquet", "report.html", "part-00002.json"):
        (run / name).unlink()
    found = verify_run(run)
    assert (found.is_finished, found.n_files, found.n_rows) == (False, 2, 6)
    assert {fault.name: fault.message for fault in found.faults} == {
        part_name(2): "has no receipt: the run makes it again"
    }
    (run / part_name(1)).write_bytes(b"PAR1")
    assert part_name(1) in faults_of(run)


def test_a_folder_without_a_plan_holds_no_run(tmp_path):
    for content in (None, b"", b"[1]", b"{"):
        if content is not None:
            (tmp_path / "plan.json").write_bytes(content)
        with pytest.raises(BadInput, match="holds no run"):
            verify_run(tmp_path)
