"""Books in EPUB (2 and 3, W3C): the chapters of the spine, in its order, each read as an HTML page."""

from __future__ import annotations

import posixpath
import re
import urllib.parse
from collections.abc import Mapping

from pipeline.errors import InputError
from pipeline.text.encodings import decode_html
from pipeline.text.formats.document import Document, document_of_blocks
from pipeline.text.formats.webpage import all_blocks
from pipeline.text.formats.xml_events import parse_xml
from pipeline.text.formats.zipped import ZippedFiles

NAME = "epub"

_WHAT = "the epub file"
_CONTAINER = "META-INF/container.xml"
_PAGES = ("application/xhtml+xml", "text/html", "application/xml")
#: Parts of an EPUB may be encrypted (DRM); fonts often are, by a way that is no protection.
_ENCRYPTION = "META-INF/encryption.xml"
_MAX_CHAPTERS = 5_000
_EMPTY_ELEMENT = re.compile(r"<([A-Za-z][\w:-]{0,40})((?:\s[^<>]{0,2000})?)/>")
_VOID = re.compile("area|base|br|col|embed|hr|img|input|link|meta|source|track|wbr", re.IGNORECASE)


def read(data: bytes) -> Document:
    """Raises `InputError`: what `ZippedFiles`, `parse_xml`, `decode_html` and `document_of_blocks` raise, and
    ``bad_document``, ``encrypted`` (a book with DRM), ``too_large`` (more chapters than 5,000)."""
    files = ZippedFiles(data, _WHAT)
    chapters = _chapters(files)
    if not chapters:
        raise InputError("bad_document", "the epub file names no chapters")
    if len(chapters) > _MAX_CHAPTERS:
        raise InputError("too_large", f"the epub file has {len(chapters)} chapters, more than {_MAX_CHAPTERS}")
    if _encrypted(files) & set(chapters):
        raise InputError("encrypted", "the chapters of the epub file are encrypted")
    blocks: list[str] = []
    for name in chapters:
        blocks += _blocks(files.read(name))
    return document_of_blocks(blocks, form=NAME, encoding=None)


def _blocks(chapter: bytes) -> list[str]:
    try:
        return all_blocks(_as_html(decode_html(chapter)[0]))
    except InputError as reason:
        if reason.code == "empty":
            return []
        raise


def _chapters(files: ZippedFiles) -> list[str]:
    roots: list[str] = []
    pages: dict[str, str] = {}
    spine: list[str] = []

    def in_container(name: str, attributes: Mapping[str, str]) -> None:
        if name == "rootfile" and "full-path" in attributes:
            roots.append(attributes["full-path"])

    def in_package(name: str, attributes: Mapping[str, str]) -> None:
        if name == "item" and attributes.get("media-type") in _PAGES:
            target = urllib.parse.unquote(attributes.get("href", "").partition("#")[0])
            folder = posixpath.dirname(roots[0])
            pages[attributes.get("id", "")] = posixpath.normpath(posixpath.join(folder, target))
        elif name == "itemref":
            spine.append(attributes.get("idref", ""))

    parse_xml(files.read(_CONTAINER), what=_WHAT, begin=in_container)
    if not roots:
        raise InputError("bad_document", "the epub file names no package")
    parse_xml(files.read(roots[0]), what=_WHAT, begin=in_package)
    # A spine that names a chapter again and again would be a bomb.
    return list(dict.fromkeys(pages[item] for item in spine if item in pages))


def _encrypted(files: ZippedFiles) -> set[str]:
    found: set[str] = set()

    def begin(name: str, attributes: Mapping[str, str]) -> None:
        if name == "CipherReference":
            found.add(urllib.parse.unquote(attributes.get("URI", "")))

    if _ENCRYPTION in files:
        parse_xml(files.read(_ENCRYPTION), what=_WHAT, begin=begin)
    return found


def _as_html(chapter: str) -> str:
    """A chapter whose empty elements, such as ``<title/>``, are closed as HTML wants it: else they have no end."""

    def closed(match: re.Match[str]) -> str:
        return match[0] if _VOID.fullmatch(match[1]) else f"<{match[1]}{match[2]}></{match[1]}>"

    return _EMPTY_ELEMENT.sub(closed, chapter)
