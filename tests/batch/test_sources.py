"""What a run reads: every kind of source gives the same recordings, a row each."""

import glob
import gzip
import json
import os
import pickle
import random
import shutil
import stat
import zipfile
from contextlib import suppress
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phenokit.batch import source_folders, source_readers, sources
from phenokit.batch.pack import pack_folder, pack_ptbxl
from phenokit.batch.sources import find_records
from phenokit.errors import BadInput
from phenokit.preprocessing.contract import InputContract
from phenokit.readers import archives
from phenokit.readers.archives import ZipLimits
from phenokit.readers.ecg import read_ecg
from phenokit.readers.ieeg import read_ieeg
from phenokit.readers.ptbxl import read_ptbxl, read_recordings
from phenokit.readers.tables import Column, read_table
from phenokit.recording import LEADS, Recording
from phenokit.simulation.ieeg_files import write_edf

NAMES = ["a", "b/c", "b/d", "b/e/f", "b-1/x", "z"]
"""In the order of the parts of their paths, in which b comes before b-1."""

PATIENTS = ["007", "8", "", "8", "NA", "p 6"]


@pytest.fixture(scope="module")
def six(tmp_path_factory, ecg, write_wfdb) -> Path:
    """Six ECGs in four folders."""
    folder = tmp_path_factory.mktemp("six")
    for number, name in enumerate(NAMES):
        path = folder / name
        write_wfdb(path.parent, path.name, ecg("normal", seed=number, sampling_rate=100.0))
    return folder


@pytest.fixture
def ward(six, tmp_path) -> Path:
    """The six, to be added to."""
    return Path(shutil.copytree(six, tmp_path / "ward"))


@pytest.fixture
def listed(tmp_path):
    """The records of a source, with the code of each and the files that hold none."""

    def found(source, kind: Any = "ecg", **more):
        scratch = tmp_path / "scratch"
        with find_records(source, kind=kind, scratch=scratch, **more) as there:
            records = there.records(0, len(there))
            return {one.path: code_of(there, one) for one in records}, there.others

    return found


def code_of(found, record):
    try:
        found.reader.read(record)
    except BadInput as error:
        return error.code
    return "OK"


def refused(source, tmp_path, kind: Any = "ecg", **more) -> str:
    with (
        pytest.raises(BadInput) as error,
        find_records(source, kind=kind, scratch=tmp_path / "scratch", **more),
    ):
        pass
    return error.value.code


def write_zip(path, folder, *more):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*.*")):
            archive.write(file, file.relative_to(folder))
        for name, data in more:
            archive.writestr(name, data)
    return path


# --- every kind of source -----------------------------------------------------------------


def as_folder(ward):
    return ward


def as_pattern(ward):
    return str(ward / "**" / "*.hea")


def as_manifest(ward):
    rows = zip(NAMES, PATIENTS, strict=True)
    text = "".join(f'./{name}.hea,"{patient}"\r\n' for name, patient in rows)
    (ward / "list.csv").write_text("\ufeffpath,patient_id\r\n" + text)
    return ward / "list.csv"


def as_packed_manifest(ward):
    (ward / "list.csv.gz").write_bytes(gzip.compress(as_manifest(ward).read_bytes()))
    return ward / "list.csv.gz"


def as_parquet(ward):
    path = [f"{name}.hea" for name in NAMES]
    table = pd.DataFrame({"patient_id": [one or None for one in PATIENTS], "path": path})
    table.to_parquet(ward / "list.parquet")
    return ward / "list.parquet"


def as_zip(ward):
    return write_zip(ward.parent / "six.zip", ward)


def as_ptbxl(ward):
    columns = {
        "ecg_id": range(6), "report": 'ein "Wort", und\nmehr',
        "patient_id": [7.0, 8, None, 8, 9, 10],
        "filename_lr": [f"100/{name}" for name in NAMES], "filename_hr": NAMES,
    }  # fmt: skip
    pd.DataFrame(columns).to_csv(ward / "ptbxl_database.csv", index=False)
    return ward


def as_mimic(ward):
    rows = "".join(f"1000{k},{k},{name}\n" for k, name in enumerate(NAMES))
    (ward / "record_list.csv").write_text("subject_id,study_id,path\n" + rows)
    return ward


def as_archive(ward):
    table = pd.DataFrame({"record_id": NAMES, "patient_id": PATIENTS, "age": 61.5})
    pack_folder(ward, ward.parent / "packed", dataset="six", contract=None, table=table)
    return ward.parent / "packed"


KINDS = {
    "folder": as_folder, "pattern": as_pattern, "manifest": as_manifest,
    "manifest, packed": as_packed_manifest, "manifest, Parquet": as_parquet,
    "zip": as_zip, "PTB-XL": as_ptbxl, "MIMIC-IV-ECG": as_mimic,
    "packed archive": as_archive,
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_every_source_gives_the_same_recordings(six, ward, tmp_path, kind):
    source = KINDS[kind](ward)
    with find_records(source, kind="ecg", scratch=tmp_path / "scratch") as found:
        assert found.kind == kind.partition(",")[0]
        assert len(found) == 6
        reader = pickle.loads(pickle.dumps(found.reader))  # noqa: S301 - our own
        records = found.records(0, 6)
        if kind == "packed archive":  # in its own order
            records.sort(key=lambda record: NAMES.index(record.record_id))
        for name, record in zip(NAMES, records, strict=True):
            assert record.record_id == name
            recording: Any = reader.read(record)
            expected: Any = read_ecg(six / f"{name}.hea")
            np.testing.assert_array_equal(recording.signal, expected.signal)
            np.testing.assert_allclose(
                recording.resolution, expected.resolution, rtol=1e-12
            )
            assert recording.channels == expected.channels
            assert recording.sampling_rate == expected.sampling_rate
            assert recording.patient_id == record.patient_id
            assert recording.sha256 == reader.sha256(record) != ""
            assert kind == "packed archive" or recording.sha256 == expected.sha256
    assert len(pickle.dumps(reader)) < 1000


@pytest.mark.parametrize("kind", KINDS)
def test_a_plan_tells_other_records_from_these(ward, tmp_path, kind):
    source, plans = KINDS[kind](ward), []
    for _ in range(2):
        with find_records(source, kind="ecg", scratch=tmp_path / "scratch") as found:
            plans.append(found.plan())
    assert plans[0] == plans[1] == json.loads(json.dumps(plans[0]))
    (ward / "z.dat").rename(ward / "y.dat")
    (ward / "y.hea").write_text((ward / "z.hea").read_text().replace("z", "y", 13))
    (ward / "z.hea").unlink()
    NAMES[5] = "y"
    shutil.rmtree(ward.parent / "packed", ignore_errors=True)
    try:
        source = KINDS[kind](ward)
    finally:
        NAMES[5] = "z"
    with find_records(source, kind="ecg", scratch=tmp_path / "scratch") as found:
        assert found.plan()["n_records"] == 6
        assert found.plan() != plans[0]


@pytest.mark.parametrize(
    ("kind", "patients"),
    [
        ("folder", [None] * 6),
        ("manifest", ["007", "8", None, "8", "NA", "p 6"]),
        ("manifest, Parquet", ["007", "8", None, "8", "NA", "p 6"]),
        ("PTB-XL", ["7", "8", None, "8", "9", "10"]),
        ("MIMIC-IV-ECG", [f"1000{k}" for k in range(6)]),
        ("packed archive", ["007", "8", None, "8", "NA", "p 6"]),
    ],
)
def test_patients_are_those_of_the_table_byte_for_byte(ward, tmp_path, kind, patients):
    with find_records(KINDS[kind](ward), kind="ecg", scratch=tmp_path) as found:
        of_record = {one.record_id: one.patient_id for one in found.records(0, 6)}
        assert [of_record[name] for name in NAMES] == patients
        assert found.records(2, 4) == found.records(0, 6)[2:4]


# --- folders and files --------------------------------------------------------------------


def test_a_folder_is_a_row_a_recording_and_nothing_is_lost(ward, listed):
    (ward / "b" / "broken.hea").write_text("broken 12 500\n")
    (ward / "lost.dat").write_bytes(b"\0" * 24_000)
    (ward / "notes.txt").write_text("Ring the ward.")
    (ward / "b" / "photo.jpg").write_bytes(b"\xff\xd8\xff" + b"\0" * 100)
    codes, others = listed(ward)
    assert list(codes) == [
        "a.hea", "b/broken.hea", "b/c.hea", "b/d.hea", "b/e/f.hea", "b-1/x.hea",
        "lost.dat", "z.hea",
    ]  # fmt: skip
    assert {path: code for path, code in codes.items() if code != "OK"} == {
        "b/broken.hea": "E_HEADER",
        "lost.dat": "E_MISSING",
    }
    assert others == ("b/photo.jpg", "notes.txt")


def test_a_signal_named_by_a_header_of_another_name_is_no_orphan(ward, listed):
    (ward / "a.hea").rename(ward / "renamed.hea")
    assert listed(ward / "*")[0] == {"renamed.hea": "OK", "z.hea": "OK"}


def test_what_cannot_be_opened_is_one_row_that_says_so(ward, tmp_path, listed):
    outside = tmp_path / "outside"
    shutil.copytree(ward / "b", outside)
    (ward / "link.hea").symlink_to(outside / "c.hea")
    (ward / "linked").symlink_to(outside)
    (ward / "device").symlink_to("/dev/zero")
    os.mkfifo(ward / "pipe.hea")
    os.mkfifo(ward / "pipe")
    (ward / "a.dat").unlink()
    os.mkfifo(ward / "a.dat")
    long = "n" * 251 + ".hea"
    (ward / long).write_text("x")
    codes, others = listed(ward)
    assert others == ()
    assert {path: code for path, code in codes.items() if code != "OK"} == {
        "link.hea": "E_PATH", "linked": "E_PATH", "device": "E_PATH",
        "pipe.hea": "E_PATH", "pipe": "E_PATH", "a.hea": "E_PATH", long: "E_HEADER",
    }  # fmt: skip
    assert len(codes) == 12


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_a_row_and_the_others_are_read(ward, listed):
    for path in (ward / "a.hea", ward / "b", ward / "z.dat"):
        path.chmod(0)
    try:
        codes, _ = listed(ward)
    finally:
        (ward / "b").chmod(0o700)
    assert codes == {
        "a.hea": "E_MISSING", "b": "E_MISSING", "b-1/x.hea": "OK", "z.hea": "E_MISSING",
    }  # fmt: skip


def test_the_order_is_that_of_the_names_whatever_the_file_system_says(
    ward, listed, monkeypatch
):
    (ward / "notes.txt").touch()
    (ward / "b" / "lost.dat").touch()
    expected = listed(ward)

    class Shuffled(list):
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    def scandir(path):
        with os_scandir(path) as entries:
            return Shuffled(random.Random(5).sample(found := list(entries), len(found)))

    os_scandir = os.scandir
    monkeypatch.setattr(source_folders.os, "scandir", scandir)
    codes, others = listed(ward)
    assert (list(codes.items()), others) == (list(expected[0].items()), expected[1])


def test_the_output_within_the_source_is_left_out_however_it_is_named(ward, listed):
    shutil.copytree(ward / "b", ward / "out")
    (ward / "link").symlink_to(ward / "out")
    expected = listed(ward, leave_out=ward / "b" / ".." / "link")
    assert [path for path in expected[0] if path.startswith("out")] == []
    assert len(expected[0]) == 7  # and the link
    shutil.rmtree(ward / "out")
    assert listed(ward, leave_out=ward / "out") == expected


def test_no_file_of_a_usual_folder_is_opened_to_list_it(ward, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(os, "open", lambda *_, **__: pytest.fail("opened"))
        with find_records(ward, kind="ecg", scratch=tmp_path) as found:
            assert len(found) == 6


def test_names_that_are_not_utf8_are_read_and_no_two_have_one_path(ward, listed):
    raw = os.fsencode(ward)
    for name in (b"h\xff", rb"h\xff", b"h\\"):
        shutil.copy(ward / "z.hea", raw + b"/" + name + b".hea")
    Path(os.fsdecode(raw + b"/t\xff.txt")).touch()
    codes, others = listed(ward / "[ht]*")
    assert codes == {"h\\.hea": "OK", r"h\\xff.hea": "OK", r"h\xff.hea": "OK"}
    assert others == (r"t\xff.txt",)


def test_one_file_is_one_row_whatever_it_is(ward, listed):
    (ward / "notes.txt").write_text("Ring the ward.")
    (ward / "columns.csv").write_text("person,age\n1,2\n")
    (ward / "link.hea").symlink_to(ward / "a.hea")
    os.mkfifo(ward / "pipe")
    assert listed(ward / "b" / "c.hea")[0] == {"c.hea": "OK"}
    assert listed(ward / "a.dat")[0] == {"a.dat": "OK"}
    assert listed(ward / "notes.txt")[0] == {"notes.txt": "E_FORMAT"}
    assert listed(ward / "columns.csv")[0] == {"columns.csv": "E_COLUMNS"}
    assert listed(ward / "link.hea")[0] == {"link.hea": "E_PATH"}
    assert listed(ward / "pipe")[0] == {"pipe": "E_PATH"}


def test_nothing_is_refused_and_an_empty_folder_is_no_row(tmp_path, listed):
    assert refused(tmp_path / "nowhere", tmp_path) == "E_MISSING"
    assert refused(tmp_path / ("n" * 300), tmp_path) == "E_MISSING"
    assert refused("s3://bucket/ecgs", tmp_path) == "E_PATH"
    assert refused("https://example.org/*.hea", tmp_path) == "E_PATH"
    (tmp_path / "empty").mkdir()
    assert listed(tmp_path / "empty") == ({}, ())


# --- hashes -------------------------------------------------------------------------------


def test_the_hash_of_a_refused_row_is_that_of_the_bytes_that_decide_it(ward, tmp_path):
    def hashes():
        with find_records(ward, kind="ecg", scratch=tmp_path) as found:
            records = found.records(0, len(found))
            return {record.path: found.reader.sha256(record) for record in records}

    (ward / "b" / "broken.hea").write_text("broken 12 500\n")
    (ward / "lost.dat").write_bytes(b"\0" * 100)
    (ward / "link.hea").symlink_to(ward / "a.hea")
    damaged = bytearray((ward / "z.dat").read_bytes())
    damaged[5] ^= 1
    before = hashes()
    (ward / "z.dat").write_bytes(damaged)
    (ward / "b" / "c.dat").unlink()
    (ward / "lost.dat").write_bytes(b"\0" * 101)
    after = hashes()
    assert {path for path in before if before[path] != after[path]} == {
        "z.hea", "b/c.hea", "lost.dat",
    }  # fmt: skip
    assert {path for path, one in before.items() if not one} == {"link.hea"}
    assert len(set(after.values())) == len(after)


def test_a_terabyte_of_signal_is_not_hashed(ward, tmp_path):
    os.truncate(ward / "a.dat", 1 << 40)
    (ward / "lost.dat").touch()
    os.truncate(ward / "lost.dat", 1 << 40)
    with find_records(ward, kind="ecg", scratch=tmp_path) as found:
        by_path = {record.path: record for record in found.records(0, 7)}
        assert found.reader.sha256(by_path["a.hea"]) != ""
        assert found.reader.sha256(by_path["lost.dat"]) != ""
        assert code_of(found, by_path["a.hea"]) == "E_SIZE_MISMATCH"


@pytest.mark.parametrize("ending", [".edf", ".csv", ".hea", ".bin"])
def test_the_hash_is_that_of_the_recording_in_other_formats(
    six, tmp_path, ieeg_array, ending
):
    path = tmp_path / "in" / f"one{ending}"
    path.parent.mkdir()
    if ending == ".edf":
        write_edf(path, replace(ieeg_array(12, 10.0), channels=LEADS))
    elif ending == ".csv":
        recording = read_ecg(six / "a.hea")
        table = pd.DataFrame(
            recording.signal.T, columns=pd.Index([f"{c} [mV]" for c in recording.channels])
        )
        table.insert(0, "time", np.arange(1000) / 100)
        table.to_csv(path, index=False)
    else:
        shutil.copy(six / "a.hea", path)
        shutil.copy(six / "a.dat", path.parent)
    with find_records(path, kind="ecg", scratch=tmp_path) as found:
        (record,) = found.records(0, 1)
        reader: Any = found.reader
        assert reader.read(record).sha256 == reader.sha256(record) != ""


# --- patterns -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.hea", "a z"),
        ("*", "a z"),
        ("*/*.hea", "b/c b/d b-1/x"),
        ("**/*.hea", "a b/c b/d b/e/f b-1/x z"),
        ("**", "a b/c b/d b/e/f b-1/x z"),
        ("b/**/?.hea", "c d e/f"),
        ("b/[!c].*", "d"),
        ("**/e/**", "b/e/f"),
        ("**/b/**/**/f.*", "b/e/f"),
        ("b*/?.hea", "b/c b/d b-1/x"),
    ],
)
def test_a_pattern_reads_the_files_that_it_matches(ward, listed, pattern, expected):
    codes, others = listed(f"{ward}/{pattern}")
    assert codes == {f"{name}.hea": "OK" for name in expected.split()}
    assert others == ()


PARTS = ["**", "*", "?", "a", "b", "[ab]", "[!a]*", "a*", ".*"]


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """Headers in folders of two levels whose names are those of `PARTS`, or like them."""
    folder = tmp_path_factory.mktemp("tree")
    for path in product(["a", "b", "ab", ".a"], repeat=2):
        for depth in range(3):
            below = folder.joinpath(*path[:depth])
            below.mkdir(exist_ok=True)
            (below / "a.hea").touch()
    return folder


@given(st.lists(st.sampled_from(PARTS), max_size=3), st.sampled_from(["**", "*", "a.?ea"]))
@settings(max_examples=60, deadline=None)
def test_a_pattern_matches_what_glob_matches(tree, folders, last):
    pattern = (*folders, last)
    ours = [found.location for found in source_folders.find_files(tree, "ecg", pattern)]
    theirs = glob.glob(  # noqa: PTH207 - it knows ** at the end
        "/".join(pattern), root_dir=tree, recursive=True, include_hidden=True
    )
    assert set(ours) == {one for one in theirs if (tree / one).is_file()}
    assert ours == sorted(set(ours), key=lambda one: one.split("/"))


def test_signal_files_that_a_pattern_names_are_read_by_their_headers(ward, listed):
    assert listed(ward / "b" / "*.dat")[0] == {"c.dat": "OK", "d.dat": "OK"}


def test_a_pattern_that_matches_nothing_or_leads_upwards_is_refused(ward, tmp_path):
    assert refused(ward / "*.edf", tmp_path) == "E_MISSING"
    assert refused(ward / "nowhere" / "*", tmp_path) == "E_MISSING"
    assert refused(ward / "b*" / ".." / "a.hea", tmp_path) == "E_PATH"


def test_a_name_that_is_also_a_pattern_is_read_only_where_it_matches_no_other(
    ward, tmp_path, listed
):
    for ending in (".hea", ".dat"):
        shutil.copy(ward / f"a{ending}", ward / f"q[1]{ending}")
    assert listed(ward / "q[1].hea")[0] == {"q[1].hea": "OK"}
    shutil.copy(ward / "a.hea", ward / "q1.hea")
    assert refused(ward / "q[1].hea", tmp_path) == "E_FORMAT"
    assert listed(ward / "q[[]1].hea")[0] == {"q[1].hea": "OK"}


# --- tables -------------------------------------------------------------------------------

HOSTILE = [
    "../outside.hea", "b/../a.hea", "/etc/hostname", "s3://bucket/a.hea", "C:/a.hea",
    "~/a.hea", "b\\c.hea", "file:a.hea", "linked/c.hea", "link.hea", "n" * 300,
]  # fmt: skip


@pytest.mark.parametrize("kind", ["ecg", "ieeg"])
def test_a_path_of_a_list_that_leads_elsewhere_is_a_row(ward, tmp_path, listed, kind):
    (ward / "linked").symlink_to(ward / "b")
    (ward / "link.hea").symlink_to(ward / "a.hea")
    shutil.copy(ward / "a.hea", tmp_path / "outside.hea")
    text = "path\n" + "".join(f'"{path}"\n' for path in HOSTILE)
    (tmp_path / "ward" / "list.csv").write_text(text + "absent.hea\nb\n")
    codes, _ = listed(ward / "list.csv", kind)
    assert list(codes) == [*HOSTILE, "absent.hea", "b"]
    assert {codes[path] for path in HOSTILE} == {"E_PATH"}
    assert (codes["absent.hea"], codes["b"]) == ("E_MISSING", codes["b"])
    assert codes["b"] != "OK"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("path\na.hea\n./a.hea\n", "E_DUP_ID"),
        ("path;patient_id\na.hea;1\n", "E_COLUMNS"),
        ("path,patient\na.hea,1\n", "E_COLUMNS"),
        ("path,path\na.hea,1\n", "E_COLUMNS"),
        ("path,patient_id\na.hea\n", "E_COLUMNS"),
        ("path\n", "E_EMPTY"),
        ("path,patient_id\n,1\n", "E_RANGE"),
        ("path\na\0.hea\n", "E_ENCODING"),
        ("path,V1 [uV]\na.hea,1\n", "E_FORMAT"),
    ],
)
def test_a_list_that_could_lose_a_row_is_refused_whole(ward, tmp_path, text, code):
    (ward / "list.csv").write_text(text)
    assert refused(ward / "list.csv", tmp_path) == code


@pytest.mark.parametrize(
    ("columns", "code"),
    [
        ({"path": ["a.hea", "./a.hea"]}, "E_DUP_ID"),
        ({"file": ["a.hea"]}, "E_COLUMNS"),
        ({"path": ["a.hea"], "patient_id": [1.5]}, "E_COLUMNS"),
        ({"path": ["a.hea", None]}, "E_RANGE"),
        ({"path": ["a\0.hea"]}, "E_ENCODING"),
        ({"path": pd.Series([], dtype=str)}, "E_EMPTY"),
        (None, "E_FORMAT"),
    ],
)
def test_a_parquet_list_is_held_to_the_same_rules(ward, tmp_path, columns, code):
    path = ward / "list.bin"
    pd.DataFrame(columns or {"path": ["a.hea"]}).to_parquet(path)
    if columns is None:
        path.write_bytes(path.read_bytes()[:-9])
    assert refused(path, tmp_path) == code


def test_numbers_of_patients_in_parquet_are_their_digits(ward, tmp_path):
    table = pd.DataFrame({"path": ["a.hea"], "patient_id": [2**62 + 1]})
    table.to_parquet(ward / "list.parquet")
    with find_records(ward / "list.parquet", kind="ecg", scratch=tmp_path) as found:
        assert found.records(0, 1)[0].patient_id == "4611686018427387905"


def test_the_paths_of_a_list_begin_in_its_own_folder(ward, tmp_path, listed):
    for folder, code in ((tmp_path, "E_MISSING"), (ward / "b", "OK")):
        (folder / "list.csv").write_text("path\nc.hea\ne/f\n")
        assert listed(folder / "list.csv")[0] == {"c.hea": code, "e/f": code}


def test_all_of_ptbxl_is_read_at_the_rate_of_more_files(ward, tmp_path):
    def files(source):
        with find_records(source, kind="ecg", scratch=tmp_path) as found:
            records = found.records(0, len(found))
            codes = [code_of(found, record) for record in records]
            return found.plan()["files"], records[0].path, codes

    as_ptbxl(ward)
    (ward / "z.hea").unlink()
    assert files(ward) == ("filename_hr", "a.hea", ["OK"] * 5 + ["E_MISSING"])
    shutil.copytree(ward / "b", ward / "100" / "b")
    assert files(ward)[0] == "filename_hr"
    for name in ("a.hea", "b/c.hea"):
        (ward / name).unlink()
    codes = ["E_MISSING", "OK", "OK", "OK", "E_MISSING", "E_MISSING"]
    assert files(ward) == (
        "filename_hr",
        "a.hea",
        ["E_MISSING"] * 2 + ["OK"] * 3 + codes[-1:],
    )
    (ward / "b/d.hea").unlink()
    assert files(ward) == ("filename_lr", "100/a.hea", codes)


def test_a_folder_of_two_layouts_names_both_and_the_remedy(ward, tmp_path, listed):
    as_mimic(as_ptbxl(ward))
    with (
        pytest.raises(
            BadInput, match=r"ptbxl_database.csv and record_list.csv.*\*\*/\*.hea"
        ),
        find_records(ward, kind="ecg", scratch=tmp_path / "scratch"),
    ):
        pass
    assert list(listed(ward / "**" / "*.hea")[0]) == [f"{name}.hea" for name in NAMES]


# --- archives -----------------------------------------------------------------------------


def test_a_zip_is_unpacked_for_nobody_else_and_removed_in_the_end(ward, tmp_path):
    path = write_zip(tmp_path / "in.zip", ward, ("notes.txt", b""), ("e/", b""))
    scratch = tmp_path / "made" / "scratch"
    with suppress(KeyError), find_records(path, kind="ecg", scratch=scratch) as found:
        (unpacked,) = scratch.iterdir()
        assert stat.S_IMODE(unpacked.stat().st_mode) == 0o700
        assert found.others == ("notes.txt",)
        assert sum(file.is_file() for file in unpacked.rglob("*")) == 13
        raise KeyError("a run that stops")
    assert not scratch.exists()
    scratch.mkdir()
    with find_records(path, kind="ecg", scratch=scratch):
        pass
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize(
    ("member", "code"),
    [
        (("../a.hea", b""), "E_PATH"),
        (("/etc/a.hea", b""), "E_PATH"),
        (("A.hea", b""), "E_DUP_NAME"),
        (("more.zip", b""), "E_ZIP_RATIO"),
        (("zeros.dat", bytes(1 << 20)), "E_ZIP_RATIO"),
    ],
)
def test_a_zip_with_one_bad_member_is_refused_whole(ward, tmp_path, member, code):
    path = write_zip(tmp_path / "in.zip", ward, member)
    (tmp_path / "scratch").mkdir()
    assert refused(path, tmp_path) == code
    assert list((tmp_path / "scratch").iterdir()) == []


def test_nothing_of_a_zip_is_written_before_all_of_it_has_passed(
    ward, tmp_path, monkeypatch
):
    data = bytearray(write_zip(tmp_path / "in.zip", ward).read_bytes())
    at = data.rindex(b"z.dat", 0, data.index(b"PK\1\2")) + 100
    data[at] ^= 0xFF
    (tmp_path / "in.zip").write_bytes(data)
    monkeypatch.setattr(archives, "_write", lambda *_: pytest.fail("written"))
    assert refused(tmp_path / "in.zip", tmp_path) == "E_FORMAT"


@pytest.mark.parametrize("cap", ["archive", "member", "total", "n_members"])
def test_the_caps_of_a_zip_hold(ward, tmp_path, monkeypatch, cap):
    path = write_zip(tmp_path / "in.zip", ward)
    small = replace(sources.ZIP_LIMITS, **{cap: 5})
    monkeypatch.setattr(sources, "ZIP_LIMITS", small)
    code = "E_TOO_LARGE" if cap == "archive" else "E_ZIP_RATIO"
    assert refused(path, tmp_path) == code


def test_a_zip_of_many_empty_members_is_refused_by_the_size_of_its_directory(
    tmp_path, monkeypatch
):
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        for k in range(3000):
            archive.writestr(f"{k}.hea", b"")
    limits = ZipLimits(1 << 30, 1 << 30, 1 << 30, 300)
    monkeypatch.setattr(sources, "ZIP_LIMITS", limits)
    monkeypatch.setattr(zipfile, "ZipFile", lambda *_: pytest.fail("directory read"))
    assert refused(tmp_path / "in.zip", tmp_path) == "E_ZIP_RATIO"


def test_an_archive_that_was_prepared_for_a_network_is_not_scored(ward, tmp_path):
    pack_folder(ward, tmp_path / "packed", dataset="six", contract=InputContract())
    assert refused(tmp_path / "packed", tmp_path) == "E_VERSION"


def test_an_archive_that_changed_since_it_was_listed_is_read_no_more(ward, tmp_path):
    folder = as_archive(ward)
    with find_records(folder, kind="ecg", scratch=tmp_path) as found:
        record = found.records(0, 1)[0]
        reader: Any = found.reader
        assert reader.read(record).age == 61.5
        os.truncate(folder / "signal.int16", 100)
        assert code_of(found, record) == "E_SIZE_MISMATCH"
        assert found.reader.sha256(record) == ""
    shutil.rmtree(folder)
    folder = as_archive(ward)
    with find_records(folder, kind="ecg", scratch=tmp_path) as found:
        with (folder / "table.parquet").open("ab") as file:
            file.write(b"\0")
        source_readers.people_of.cache_clear()
        assert code_of(found, record) == "E_CHECKSUM"


# --- intracranial EEG ---------------------------------------------------------------------


@pytest.fixture
def clinic(tmp_path, ieeg_array) -> Path:
    """Two recordings, one of which has a table beside it, an empty session, and notes."""
    folder = tmp_path / "clinic"
    (folder / "b" / "night.mefd").mkdir(parents=True)
    write_edf(folder / "a.edf", ieeg_array(3, 4.0, seed=1))
    write_edf(folder / "b" / "c.edf", ieeg_array(3, 4.0, seed=2))
    (folder / "b" / "c_events.tsv").write_text("onset\tduration\teventType\n1\t2\tsz\n")
    (folder / "notes.txt").write_text("Ring the ward.")
    return folder


def manifest_of(clinic):
    text = "path\na.edf\nb/c.edf\nb/night.mefd\n"
    (clinic / "list.csv").write_text(text)
    return clinic / "list.csv"


@pytest.mark.parametrize("kind", ["folder", "pattern", "manifest", "zip"])
def test_every_source_gives_the_same_ieegs(clinic, tmp_path, kind):
    make = {
        "folder": lambda: clinic,
        "pattern": lambda: clinic / "**",
        "manifest": lambda: manifest_of(clinic),
        "zip": lambda: write_zip(tmp_path / "in.zip", clinic),
    }
    expected = [read_ieeg(clinic / name).samples(0, 512) for name in ("a.edf", "b/c.edf")]
    source = make[kind]()
    with find_records(source, kind="ieeg", scratch=tmp_path / "scratch") as found:
        records = found.records(0, len(found))
        reader: Any = found.reader
        read = [reader.read(record) for record in records[:2]]
        assert [record.path for record in records][:2] == ["a.edf", "b/c.edf"]
        if kind != "zip":
            assert code_of(found, records[2]) == "E_EMPTY"
        for one, other in zip(read, expected, strict=True):
            np.testing.assert_array_equal(one.samples(0, 512), other)
        assert [len(one.seizures) for one in read] == [0, 1]


def test_a_session_given_by_its_folder_is_one_row(clinic, listed):
    assert listed(clinic / "b" / "night.mefd", "ieeg")[0] == {"night.mefd": "E_EMPTY"}
    assert listed(clinic / "a.edf", "ieeg")[0] == {"a.edf": "OK"}
    assert refused(clinic / "none.edf", clinic, "ieeg") == "E_MISSING"


def test_arrays_are_a_recording_and_no_zip(tmp_path, listed):
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("x.npy", b"")
    assert listed(tmp_path / "x.npz", "ieeg")[0] == {"x.npz": "E_ARRAY"}


def test_the_hash_of_an_ieeg_is_of_all_that_is_read_with_it_and_nothing_else(
    clinic, tmp_path
):
    def hashes():
        with find_records(clinic, kind="ieeg", scratch=tmp_path) as found:
            return [found.reader.sha256(record) for record in found.records(0, 3)]

    first = hashes()
    write_edf(clinic / "a2.edf", read_ieeg(clinic / "a.edf"))
    (clinic / "a2.edf").rename(clinic / "c.edf")
    with find_records(clinic, kind="ieeg", scratch=tmp_path) as found:
        assert [found.reader.sha256(one) for one in found.records(0, 2)] == first[:2]
    (clinic / "c.edf").unlink()
    (clinic / "b" / "c_events.tsv").write_text("onset\tduration\teventType\n1\t3\tsz\n")
    second = hashes()
    assert [a == b for a, b in zip(first, second, strict=True)] == [True, False, True]
    (clinic / "a_channels.tsv").write_text("name\ttype\n")
    assert hashes()[0] != second[0]


def test_the_hash_of_a_brainvision_header_covers_the_signal_that_it_names(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.vhdr").write_text(
        "Brain Vision Data Exchange Header File Version 1.0\n[Common Infos]\n"
        "DataFile=other.eeg\nMarkerFile=$b.mark\n"
    )

    def digest():
        with find_records(tmp_path / "in", kind="ieeg", scratch=tmp_path) as found:
            return found.reader.sha256(found.records(0, 1)[0])

    found = {digest()}
    for name in ("other.eeg", "a.mark"):
        (tmp_path / "in" / name).write_bytes(b"1")
        found.add(digest())
    assert len(found) == 3


# --- real data ----------------------------------------------------------------------------


@pytest.fixture
def real() -> Path:
    folder = os.environ.get("PHENOKIT_DATA")
    if not folder:
        pytest.skip("PHENOKIT_DATA is not set")
    return Path(folder)


@pytest.mark.realdata
def test_ptbxl_is_read_as_its_own_reader_reads_it(real, tmp_path):
    folder = real / "ptbxl-500-raw"
    with find_records(folder, kind="ecg", scratch=tmp_path) as found:
        assert (found.kind, len(found)) == ("PTB-XL", 500)
        assert found.plan()["files"] == "filename_lr"  # of 500 Hz there are 100
        reader: Any = found.reader
        ours = {int(one.record_id[-8:-3]): one for one in found.records(0, 500)}
        ptbxl = read_ptbxl(folder)
        for theirs in read_recordings(ptbxl, sampling_rate=100):
            assert isinstance(theirs, Recording)
            record = ours[int(theirs.record_id)]
            recording = reader.read(record)
            np.testing.assert_array_equal(recording.signal, theirs.signal)
            assert (recording.patient_id, recording.sha256) == (
                theirs.patient_id,
                reader.sha256(record),
            )


@pytest.mark.realdata
def test_a_raw_archive_of_ptbxl_scores_as_its_files(real, tmp_path):
    folder = real / "ptbxl-500-raw"
    pack_ptbxl(folder, tmp_path / "packed", contract=None, sampling_rate=100)
    with (
        find_records(folder, kind="ecg", scratch=tmp_path) as files,
        find_records(tmp_path / "packed", kind="ecg", scratch=tmp_path) as packed,
    ):
        of_file: Any = files.reader
        of_row: Any = packed.reader
        records = {int(one.record_id[-8:-3]): one for one in files.records(0, 500)}
        assert len(packed) == 488  # 12 repeat others
        for record in packed.records(0, 488):
            one, other = of_row.read(record), of_file.read(records[int(record.record_id)])
            np.testing.assert_array_equal(one.signal, other.signal)
            assert one.patient_id == other.patient_id


@pytest.mark.realdata
def test_hospital_ids_of_mimic_are_the_patients_of_its_ecgs(real, tmp_path):
    people = read_table(
        real / "mimic-iv-demo-hosp" / "patients.csv.gz",
        [Column("subject_id", unique=True)],
        ignore_others=True,
    )["subject_id"].tolist()
    rows = [f"{one},files/p{one[:4]}/p{one}/s1/1" for one in people]
    (tmp_path / "record_list.csv").write_text("\n".join(["subject_id,path", *rows, ""]))
    with find_records(tmp_path, kind="ecg", scratch=tmp_path) as found:
        records = found.records(0, len(found))
    assert [record.patient_id for record in records] == people
    assert records[0].record_id == rows[0].partition(",")[2]
