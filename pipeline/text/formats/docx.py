"""Word documents (.docx, Office Open XML, ECMA-376): the paragraphs of the body and of its tables.

Headers, footers, footnotes, comments and deleted text are left out; fields have their shown result.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping

from pipeline.errors import InputError
from pipeline.text.formats.document import Document, document_of_blocks
from pipeline.text.formats.xml_events import parse_xml
from pipeline.text.formats.zipped import ZippedFiles

NAME = "docx"

USUAL_PART = "word/document.xml"
_WHAT = "the docx file"
# mc:Fallback repeats mc:Choice for old readers; properties define tabulators, which are no text.
_LEFT_OUT = frozenset({"Fallback", "del", "moveFrom", "pPr", "rPr", "sectPr", "tblPr"})
_AS_TEXT = {"br": "\n", "cr": "\n", "tab": " ", "noBreakHyphen": "-"}


def read(data: bytes) -> Document:
    """Raises `InputError`: what `ZippedFiles`, `parse_xml` and `document_of_blocks` raise, and ``bad_document``."""
    files = ZippedFiles(data, _WHAT)
    body = _Body()
    parse_xml(files.read(_main_part(files)), what=_WHAT, begin=body.begin, end=body.end, text=body.text)
    if not body.is_word:
        raise InputError("bad_document", "the main part of the docx file is no Word document")
    return document_of_blocks(body.blocks, form=NAME, encoding=None)


def _main_part(files: ZippedFiles) -> str:
    """The part with the body, as the package's relationships name it, or where Word writes it."""
    found: list[str] = []

    def begin(name: str, attributes: Mapping[str, str]) -> None:
        if name == "Relationship" and attributes.get("Type", "").endswith("/officeDocument"):
            found.append(posixpath.normpath(attributes.get("Target", "").lstrip("/")))

    if "_rels/.rels" in files:
        parse_xml(files.read("_rels/.rels"), what=_WHAT, begin=begin)
    return next((name for name in found if name in files), USUAL_PART)


class _Body:
    """Collects the text of paragraphs. A paragraph inside of another one, in a text box, comes before it."""

    def __init__(self) -> None:
        self.blocks: list[str] = []
        self.is_word = False
        self._depth = 0
        self._left_out = 0  # elements that are open inside of one that is left out, with it
        self._in_text = False
        self._open: list[list[str]] = [[]]  # the pieces of each paragraph that is open; the first is outside of all

    def begin(self, name: str, attributes: Mapping[str, str]) -> None:
        if not self._depth:
            self.is_word = name == "document"
        self._depth += 1
        if self._left_out or name in _LEFT_OUT:
            self._left_out += 1
        elif name == "p":
            self._open.append([])
        elif name == "t":
            self._in_text = True
        elif name in _AS_TEXT:
            self._open[-1].append(_AS_TEXT[name])

    def end(self, name: str) -> None:
        self._depth -= 1
        if self._left_out:
            self._left_out -= 1
        elif name == "t":
            self._in_text = False
        elif name == "p":
            self.blocks.append("".join(self._open.pop()))

    def text(self, characters: str) -> None:
        if self._in_text and not self._left_out:
            self._open[-1].append(characters)
