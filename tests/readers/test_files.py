import os
from pathlib import Path

import pytest

from phenokit.errors import BadInput
from phenokit.readers.files import check_name, open_checked, read_bytes, read_start


def code_of(path: Path, **options) -> str:
    with pytest.raises(BadInput) as caught:
        read_bytes(path, **options)
    assert path.name not in str(caught.value)
    return caught.value.code


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "inside" / "deeper" / "a.dat"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"abc")
    return path


def test_read_bytes_returns_the_bytes_with_and_without_a_root(file, tmp_path):
    assert read_bytes(file) == read_bytes(file, root=tmp_path) == b"abc"
    assert read_bytes(file, root=file.parent) == b"abc"
    assert read_start(file, 2) == b"ab"


def test_read_bytes_refuses_a_path_that_leaves_the_root(file, tmp_path):
    assert code_of(file, root=tmp_path / "inside" / "other") == "E_PATH"
    # "inside2" begins with the text "inside", but does not lie in it
    sibling = tmp_path / "inside2"
    sibling.mkdir()
    (sibling / "b.dat").write_bytes(b"x")
    assert code_of(sibling / "b.dat", root=tmp_path / "inside") == "E_PATH"
    up = tmp_path / "inside" / ".." / "inside2" / "b.dat"
    assert code_of(up, root=tmp_path / "inside") == "E_PATH"


def test_read_bytes_refuses_a_link_to_a_file_and_to_a_device(file, tmp_path):
    link = tmp_path / "link.dat"
    link.symlink_to(file)
    device = tmp_path / "device.dat"
    device.symlink_to("/dev/zero")
    assert code_of(link) == code_of(link, root=tmp_path) == "E_PATH"
    assert code_of(device) == "E_PATH"
    assert code_of(Path("/dev/zero")) == "E_PATH"


def test_read_bytes_refuses_a_linked_folder_below_the_root(file, tmp_path):
    (tmp_path / "linked").symlink_to(tmp_path / "inside", target_is_directory=True)
    assert code_of(tmp_path / "linked" / "deeper" / "a.dat", root=tmp_path) == "E_PATH"


def test_read_bytes_refuses_a_fifo_at_once(tmp_path):
    os.mkfifo(tmp_path / "fifo.dat")
    assert code_of(tmp_path / "fifo.dat") == "E_PATH"


@pytest.mark.parametrize(
    "name", ["s3://bucket/a.dat", "http://x.invalid/a", "a\0b", "x" * 300]
)
def test_read_bytes_refuses_urls_and_names_that_cannot_be_used(name):
    with pytest.raises(BadInput) as caught:
        read_bytes(Path(name))
    assert caught.value.code == "E_PATH"


def test_read_bytes_tells_missing_from_too_large(file, tmp_path):
    assert code_of(tmp_path / "absent.dat") == "E_MISSING"
    assert code_of(file, max_bytes=2) == "E_TOO_LARGE"
    assert code_of(file.parent) == "E_PATH"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_read_bytes_reports_a_file_without_permission_as_missing(file):
    file.chmod(0)
    assert code_of(file) == "E_MISSING"


def test_a_file_replaced_after_opening_is_read_from_the_first_descriptor(file):
    with open_checked(file) as opened:
        other = file.with_name("other")
        other.write_bytes(b"xyz")
        other.replace(file)
        assert opened.read() == b"abc"


def test_a_file_cut_while_it_is_read_is_refused(file):
    with open_checked(file) as opened:
        os.truncate(file, 1)
        with pytest.raises(BadInput, match="cut while it was read"):
            opened.read()


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "a/b", "a\\b", "C:a", "s3:x", "a\nb", "a ", "a.", "~a", "nul.dat",
     "a\u202egnp.exe", "x" * 256],
)  # fmt: skip
def test_check_name_refuses_what_is_not_a_bare_name(name):
    with pytest.raises(BadInput, match="plain name"):
        check_name(name)
