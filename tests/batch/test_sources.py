"""What a run reads: every kind of source gives the same recordings, a row each."""


import pytest

from phenokit.batch.sources import find_records
from phenokit.errors import BadInput


@pytest.fixture(scope="module")
def ward(tmp_path_factory, ecg, write_wfdb):
    """Six good ECGs in three folders, and what else lies about in a hospital."""
    folder = tmp_path_factory.mktemp("ward")
    for number, name in enumerate(("a", "b-1/x", "b/c", "b/d", "b/e/f", "z")):
        path = folder / name
        recording = ecg("normal", seed=number, sampling_rate=100.0)
        write_wfdb(path.parent, path.name, recording)
    (folder / "b" / "broken.hea").write_text("broken 12 500\n")
    (folder / "lost.dat").write_bytes(b"\0" * 24_000)
    (folder / "notes.txt").write_text("Ring the ward.")
    (folder / "b" / "photo.jpg").write_bytes(b"\xff\xd8\xff" + b"\0" * 100)
    return folder


GOOD = ["a.hea", "b/c.hea", "b/d.hea", "b/e/f.hea", "b-1/x.hea", "z.hea"]


def paths_of(source, scratch, kind="ecg"):
    with find_records(source, kind=kind, scratch=scratch) as found:
        return [record.path for record in found.records(0, len(found))]


def code_of(found, record):
    try:
        found.reader.read(record)
    except BadInput as error:
        return error.code
    return "OK"


def test_a_folder_is_a_record_a_recording_in_the_order_of_the_parts(ward, tmp_path):
    with find_records(ward, kind="ecg", scratch=tmp_path / "scratch") as found:
        records = found.records(0, len(found))
        codes = {record.path: code_of(found, record) for record in records}
    assert list(codes) == sorted(
        [*GOOD, "b/broken.hea", "lost.dat"], key=lambda p: p.split("/")
    )
    assert {path for path, code in codes.items() if code != "OK"} == {
        "b/broken.hea",
        "lost.dat",
    }
    assert found.others == ("b/photo.jpg", "notes.txt")
