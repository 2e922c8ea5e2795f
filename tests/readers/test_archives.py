"""A zip archive is unpacked whole, within bounds, or not at all."""

import gzip
import io
import stat
import warnings
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phenokit.errors import BadInput
from phenokit.readers import archives
from phenokit.readers.archives import parse_zip, read_zip, unpack_gzip, unpack_zip


def packed(*members: tuple[str | zipfile.ZipInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a name that is given twice
                archive.writestr(name, data)
    return buffer.getvalue()


def special(name: str, mode: int) -> zipfile.ZipInfo:
    member = zipfile.ZipInfo(name)
    member.external_attr = mode << 16
    return member


def refused(data: bytes) -> BadInput:
    with pytest.raises(BadInput) as caught:
        parse_zip(data)
    return caught.value


def test_read_zip_gives_the_members_and_writes_nothing(tmp_path):
    (tmp_path / "a.zip").write_bytes(packed(("x/", b""), ("x/a.hea", b"1"), ("b.dat", b"")))
    assert read_zip(tmp_path / "a.zip") == {"x/a.hea": b"1", "b.dat": b""}
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


@pytest.mark.parametrize(
    "name",
    [
        *("../x", "/x", "a/../../x", "a/./x", "a//x", "..", "C:/x", "C:x", "//host/x"),
        *(
            "a\\..\\x",
            "~root/x",
            "CON",
            "a/nul.txt",
            "x\n",
            "x.",
            " x",
            "\u202ex",
            "a" * 300,
        ),
    ],
)
def test_parse_zip_refuses_a_name_that_leaves_the_folder(name):
    error = refused(packed(("good.hea", b"1"), (name, b"2")))
    assert (error.code, error.where) == ("E_PATH", "member 2")


@pytest.mark.parametrize("mode", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFSOCK])
def test_parse_zip_refuses_links_and_devices(mode):
    assert refused(packed((special("a", mode | 0o644), b"b"))).code == "E_PATH"


def test_parse_zip_refuses_a_name_with_a_nul_that_zipfile_would_cut():
    data = packed(("good.heaX..", b"1")).replace(b"good.heaX..", b"good.hea\0..")
    assert refused(data).code == "E_PATH"


@pytest.mark.parametrize(
    ("first", "second"),
    [("a", "a"), ("a.hea", "A.HEA"), ("\u00e9", "e\u0301"), ("ß", "SS"), ("a/", "a")],
)
def test_parse_zip_refuses_two_members_of_one_name(first, second):
    assert refused(packed((first, b""), (second, b""))).code == "E_DUP_NAME"


def test_parse_zip_refuses_a_file_that_is_also_a_folder():
    assert refused(packed(("a", b""), ("A/b", b""))).code == "E_DUP_NAME"


def test_parse_zip_stops_at_the_ratio_and_lets_small_members_be():
    assert refused(packed(("w.dat", bytes(10 << 20)))).code == "E_ZIP_RATIO"
    assert parse_zip(packed(("w.dat", bytes(1 << 16)))) == {"w.dat": bytes(1 << 16)}


def test_parse_zip_believes_no_declared_size():
    data = packed(("w.dat", bytes(1 << 20)))
    lie = data.replace((1 << 20).to_bytes(4, "little"), (100).to_bytes(4, "little"))
    assert lie != data
    assert refused(lie).code in ("E_ZIP_RATIO", "E_FORMAT")


@pytest.mark.parametrize("cap", ["MAX_MEMBER_BYTES", "MAX_TOTAL_BYTES", "MAX_MEMBERS"])
def test_parse_zip_bounds_members_and_their_sum(monkeypatch, cap):
    data = packed(("a", b"123"), ("b", b"456"))
    assert len(parse_zip(data)) == 2
    monkeypatch.setattr(archives, cap, {"MAX_MEMBER_BYTES": 2}.get(cap, 5))
    if cap == "MAX_MEMBERS":
        monkeypatch.setattr(archives, cap, 1)
    assert refused(data).code == "E_ZIP_RATIO"


def test_parse_zip_refuses_an_archive_within():
    assert refused(packed(("a.zip", packed(("b", b""))))).code == "E_ZIP_RATIO"


def test_parse_zip_judges_names_before_it_unpacks(monkeypatch):
    monkeypatch.setattr(archives, "_unpack", lambda *_: pytest.fail("unpacked"))
    refused(packed(("bomb", bytes(10 << 20)), ("../x", b"")))


@pytest.mark.parametrize("data", [b"", b"PK", b"PK\x03\x04", packed(("a", b"1"))[:-5]])
def test_parse_zip_refuses_what_is_no_archive(data):
    assert refused(data).code == "E_FORMAT"


GOOD = packed(("x/a.hea", b"header " * 9), ("x/a.dat", bytes(range(64))))


@given(st.integers(0, len(GOOD) - 1), st.integers(0, 255), st.integers(0, 60))
@settings(max_examples=200, deadline=None)
def test_a_damaged_archive_raises_nothing_but_bad_input(position, value, cut):
    data = bytearray(GOOD)
    data[position] = value
    try:
        members = parse_zip(bytes(data[: len(data) - cut]))
    except BadInput:
        return
    assert set(members.values()) <= {b"header " * 9, bytes(range(64))}


LIMITS = archives.ZipLimits(1 << 20, 1 << 20, 1 << 20, 10_000)


@given(st.integers(0, len(GOOD) - 1), st.integers(0, 255), st.integers(0, 60))
@settings(max_examples=200, deadline=None)
def test_unpack_zip_writes_what_parse_zip_gives_or_refuses_with_its_code(
    tmp_path_factory, position, value, cut
):
    folder = tmp_path_factory.mktemp("in") / "out"
    folder.mkdir()
    data = bytearray(GOOD)
    data[position] = value
    (folder.parent / "a.zip").write_bytes(data[: len(data) - cut])
    try:
        expected: object = parse_zip(bytes(data[: len(data) - cut]))
    except BadInput as error:
        expected = error.code
    try:
        unpack_zip(folder.parent / "a.zip", folder, limits=LIMITS)
        files = [path for path in folder.rglob("*") if path.is_file()]
        found: object = {
            path.relative_to(folder).as_posix(): path.read_bytes() for path in files
        }
    except BadInput as error:
        found = error.code
    assert found == expected
    assert isinstance(found, dict) or not list(folder.iterdir())


def test_unpack_gzip_joins_members_and_leaves_other_bytes_alone():
    packed = gzip.compress(b"a,b\n") + gzip.compress(b"1,2\n") + b"\0\0"
    assert unpack_gzip(packed) == b"a,b\n1,2\n"
    assert unpack_gzip(b"a,b\n") == b"a,b\n"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (gzip.compress(b"0" * 10**7), "E_ZIP_RATIO"),
        (gzip.compress(bytes(range(256)) * 100)[:-9], "E_FORMAT"),
        (gzip.compress(b"a,b\n")[:-6] + b"\1\2\3\4\5\6", "E_FORMAT"),
        (gzip.compress(b"a,b\n") + b"more", "E_FORMAT"),
    ],
    ids=["bomb", "cut", "checksum", "tail"],
)
def test_unpack_gzip_refuses_bombs_and_damage(data, code):
    with pytest.raises(BadInput) as caught:
        unpack_gzip(data)
    assert caught.value.code == code
