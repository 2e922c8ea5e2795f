"""XML is refused before a library can be harmed by it."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phenokit.errors import BadInput
from phenokit.readers import xml

GOOD = (
    b'<?xml version="1.0" encoding="UTF-8"?><ecg><!-- x --><lead name="I">1 2</lead></ecg>'
)
BOMB = b'<!DOCTYPE a [<!ENTITY b "bbbb"><!ENTITY c "&b;&b;">]><a>&c;</a>'


def nested(levels: int) -> bytes:
    return b"<a>" * levels + b"</a>" * levels


def refused(data: bytes) -> BadInput:
    with pytest.raises(BadInput) as caught:
        xml.check_xml(data)
    return caught.value


@pytest.mark.parametrize(
    "data",
    [GOOD, b"\xef\xbb\xbf" + GOOD, "<a>é</a>".encode("utf-16"), nested(64), b"<a/>"],
)
def test_check_xml_lets_well_formed_documents_through(data):
    xml.check_xml(data)


@pytest.mark.parametrize(
    "data",
    [
        BOMB,
        BOMB.decode().encode("utf-16"),
        b'<!DOCTYPE a SYSTEM "file:///etc/hostname"><a/>',
        b'<!DOCTYPE a PUBLIC "x" "http://x.invalid/a.dtd"><a/>',
        b"<!DOCTYPE a [<!ENTITY % x SYSTEM 'file:///etc/hostname'> %x;]><a/>",
        b"<!DOCTYPE",
    ],
)
def test_check_xml_refuses_every_document_type(data):
    assert refused(data).code == "E_XML"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"  ",
        b"ECG",
        GOOD[:-1],
        GOOD + b"<a/>",
        b"<a>&b;</a>",
        b"<a>\x00</a>",
        b"<a>\xff</a>",
        b'<a b="1" b="2"/>',
        b'<?xml version="1.0" encoding="UTF-7"?><a/>',
        b'<?xml version="1.0" encoding="idna"?><a/>',
        b'<?xml version="1.0" encoding="nosuch"?><a/>',
    ],
)
def test_check_xml_refuses_what_is_not_well_formed(data):
    assert refused(data).code == "E_XML"


@pytest.mark.parametrize("data", [nested(65), b"<a>" * 200_000, BOMB], ids=len)
def test_check_xml_stops_early(data):
    start = time.process_time()
    assert refused(data).code == "E_XML"
    assert time.process_time() - start < 0.05


def test_check_xml_bounds_size_and_number_of_elements(monkeypatch):
    monkeypatch.setattr(xml, "MAX_XML_BYTES", 100)
    assert refused(b"<a>" + b" " * 100 + b"</a>").code == "E_TOO_LARGE"
    monkeypatch.setattr(xml, "MAX_ELEMENTS", 3)
    assert "more than 3 elements" in str(refused(b"<a><b/><b/><b/></a>"))


def test_check_xml_tells_the_byte():
    assert refused(b"<a></b>").where == "byte 5"


@given(st.binary(max_size=64) | st.text("<>/!DOCTYPE&;a=\"'[] ?-", max_size=64))
@settings(max_examples=200, deadline=None)
def test_check_xml_raises_nothing_but_bad_input(data):
    try:
        xml.check_xml(data if isinstance(data, bytes) else data.encode())
    except BadInput as error:
        assert error.code == "E_XML"  # noqa: PT017 - a document may be well-formed
