"""XML as a stream of events, by expat, without entities: a document that declares one is refused."""

from __future__ import annotations

import xml.parsers.expat
from collections.abc import Callable, Mapping

from pipeline.errors import InputError

_SEPARATOR = " "  # between the name space and the name of an element; neither can have one


def parse_xml(
    data: bytes,
    *,
    what: str,
    begin: Callable[[str, Mapping[str, str]], None],
    end: Callable[[str], None] | None = None,
    text: Callable[[str], None] | None = None,
) -> None:
    """Call ``begin(name, attributes)``, ``end(name)`` and ``text(characters)`` for what an XML file holds.

    Names are without their name spaces. Nothing outside the file is read. Raises `InputError` ``bad_document`` for XML
    that is not well formed, or that declares entities, which can make a small file endless; ``what`` names the file.
    """
    parser = xml.parsers.expat.ParserCreate(namespace_separator=_SEPARATOR)
    parser.buffer_text = True

    def refuse(*_: object) -> None:
        raise InputError("bad_document", f"the XML of {what} declares entities, which are not read")

    def begin_element(name: str, attributes: dict[str, str]) -> None:
        begin(_local(name), {_local(key): value for key, value in attributes.items()})

    parser.EntityDeclHandler = refuse
    parser.StartElementHandler = begin_element
    if end is not None:
        parser.EndElementHandler = lambda name: end(_local(name))
    if text is not None:
        parser.CharacterDataHandler = text
    try:
        parser.Parse(data, True)
    except (xml.parsers.expat.ExpatError, ValueError, LookupError) as cause:
        raise InputError("bad_document", f"the XML of {what} is broken") from cause


def _local(name: str) -> str:
    return name.rpartition(_SEPARATOR)[2]
