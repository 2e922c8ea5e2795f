"""The one gate that every XML file passes before a library sees it.

A document type is refused before anything it declares is read: with it go entity bombs
and references to other files. Nesting, markup and size are bounded, and a document that
is cut off is refused. Nothing else in PhenoKit may import an XML parser.
"""

import xml.parsers.expat as expat

from phenokit.errors import BadInput

MAX_XML_BYTES = 64 << 20
MAX_DEPTH = 64
MAX_ELEMENTS = 2_000_000
_ENCODINGS = {"utf-8", "us-ascii", "ascii", "iso-8859-1", "utf-16", "windows-1252"}


def check_xml(data: bytes) -> None:
    """Refuse XML that a parser could not read safely and whole.

    Parameters
    ----------
    data
        The whole file.

    Raises
    ------
    BadInput
        ``E_XML`` for a document type, more than `MAX_DEPTH` levels, an unusual encoding,
        or text that is not well-formed to its end; ``E_TOO_LARGE`` above
        `MAX_XML_BYTES`. `where` is the byte offset.

    Examples
    --------
    >>> check_xml(b"<AnnotatedECG/>")
    >>> check_xml(b"<!DOCTYPE a><a/>")
    Traceback (most recent call last):
    phenokit.errors.BadInput: The XML declares a document type; save it without.
    """
    if len(data) > MAX_XML_BYTES:
        raise BadInput(
            "E_TOO_LARGE", f"The XML has {len(data)} bytes; the limit is {MAX_XML_BYTES}."
        )
    _Gate().pass_through(data)


class _Gate:
    """An expat parser that keeps nothing and counts."""

    def __init__(self) -> None:
        self.depth = 0
        self.elements = 0
        self.parser = expat.ParserCreate()
        self.parser.ordered_attributes = True
        self.parser.XmlDeclHandler = self.declaration
        self.parser.StartDoctypeDeclHandler = self.document_type
        self.parser.StartElementHandler = self.start
        self.parser.EndElementHandler = self.end

    def pass_through(self, data: bytes) -> None:
        try:
            self.parser.Parse(data, True)
        except (expat.ExpatError, ValueError, LookupError):
            raise self.refusal("The XML is cut off or not well-formed.") from None

    def declaration(self, version: str, encoding: str | None, standalone: int) -> None:
        if encoding is not None and encoding.lower() not in _ENCODINGS:
            raise self.refusal("The XML names an unusual encoding; save it as UTF-8.")

    def document_type(self, *_: object) -> None:
        raise self.refusal("The XML declares a document type; save it without.")

    def start(self, name: str, attributes: list[str]) -> None:
        self.depth += 1
        self.elements += 1
        if self.depth > MAX_DEPTH:
            raise self.refusal(f"The XML is nested deeper than {MAX_DEPTH} levels.")
        if self.elements > MAX_ELEMENTS:
            raise self.refusal(f"The XML has more than {MAX_ELEMENTS} elements.")

    def end(self, name: str) -> None:
        self.depth -= 1

    def refusal(self, reason: str) -> BadInput:
        return BadInput("E_XML", reason, where=f"byte {self.parser.CurrentByteIndex}")
