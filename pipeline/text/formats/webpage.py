"""HTML pages: their main text, block by block, by Resiliparse, which parses as browsers do (Lexbor).

Resiliparse's own choice of the main content drops short lists and tables of articles, so the choice is made here, by
rules that can be told (`main_blocks`).
"""

from __future__ import annotations

from collections.abc import Iterator
from html.parser import HTMLParser

from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.html import HTMLTree

from pipeline.errors import InputError
from pipeline.text.encodings import decode_html
from pipeline.text.formats.document import Document, document_of_blocks

NAME = "html"

#: What surrounds the text of a page: menus, heads, feet and forms.
_AROUND = [
    *("nav", "aside", "footer", "dialog", "select", "button", "svg", "math annotation"),
    *(
        f"[role={role}]"
        for role in ("navigation", "banner", "contentinfo", "search", "complementary", "menu", "dialog")
    ),
    *("body > header", "[aria-hidden=true]", "[hidden]"),
]
_MENU_ITEMS, _MENU_ITEM_CHARS = 3, 80
_BLOCKS = frozenset({"p", "pre", "h1", "h2", "h3", "h4", "h5", "h6", "li", "ul", "ol"})


def read(data: bytes) -> Document:
    """Raises `InputError`: what `decode_html` and `document_of_blocks` raise, and ``bad_document``."""
    text, encoding = decode_html(data)
    return document_of_blocks(main_blocks(text), form=NAME, encoding=encoding)


def main_blocks(page: str) -> list[str]:
    """The blocks of the main text of a page.

    The main text is inside of the ``<main>`` element, if there is exactly one, or else of the ``<article>``, if there
    is exactly one, or else of the body. Left out are ``<nav>``, ``<aside>``, ``<footer>``, the page's ``<header>``,
    forms, what is hidden, and menus: three or more short blocks in a row that are nothing but a link.
    """
    tree = HTMLTree.parse(page)
    for selector in ("main, [role=main]", "article"):
        found = tree.body.query_selector_all(selector) if tree.body is not None else []
        if len(found) == 1:
            tree = HTMLTree.parse(f"<body>{found[0].html}</body>")
            break
    return _without_menus(_blocks(tree, _AROUND))


def all_blocks(page: str) -> list[str]:
    """All blocks of a page, as for the chapters of a book."""
    return [text for text, _ in _blocks(HTMLTree.parse(page), [])]


def _blocks(tree: HTMLTree, left_out: list[str]) -> list[tuple[str, bool]]:
    """The blocks, and whether each is nothing but links."""
    try:
        reduced = extract_plain_text(
            tree,
            preserve_formatting="minimal_html",
            main_content=False,
            list_bullets=False,
            alt_texts=False,
            links=True,
            skip_elements=left_out,
        )
    except (ValueError, RuntimeError) as cause:
        raise InputError("bad_document", "the HTML cannot be read") from cause
    parser = _BlockParser()
    parser.feed(reduced)
    parser.close()
    return list(parser.finished())


def _without_menus(blocks: list[tuple[str, bool]]) -> list[str]:
    kept: list[str] = []
    run: list[str] = []
    for text, is_link in [*blocks, ("", False)]:
        if is_link and len(text) <= _MENU_ITEM_CHARS:
            run.append(text)
            continue
        kept += run if len(run) < _MENU_ITEMS else []
        run = []
        kept.append(text)
    return kept


class _BlockParser(HTMLParser):
    """Cuts the reduced HTML of Resiliparse into blocks: it has headings, paragraphs, list items, preformatted text,
    line breaks and links as elements; the texts of other blocks and the rows of tables are lines."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._blocks: list[tuple[str, bool]] = []
        self._pieces: list[str] = []
        self._linked = self._chars = self._in_link = self._in_pre = self._depth = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _BLOCKS:
            self._end_block()
            self._depth += 1
            self._in_pre += tag == "pre"
        elif tag == "br":
            self._pieces.append("\v")  # a line end that is kept
        elif tag == "a":
            self._in_link += 1

    def handle_endtag(self, tag: str) -> None:
        if tag in _BLOCKS:
            self._end_block()
            self._depth = max(0, self._depth - 1)
            self._in_pre = max(0, self._in_pre - (tag == "pre"))
        elif tag == "a":
            self._in_link = max(0, self._in_link - 1)

    def handle_data(self, data: str) -> None:
        if self._in_pre or self._depth:
            self._add(data)
            return
        if self._pieces[-1:] == ["\v"]:
            data = data.removeprefix("\n")  # Resiliparse writes a line end after a line break
        for number, line in enumerate(data.split("\n")):
            if number:
                self._end_block()
            self._add(line)

    def finished(self) -> Iterator[tuple[str, bool]]:
        self._end_block()
        return iter(self._blocks)

    def _add(self, text: str) -> None:
        self._pieces.append(text)
        size = len(text.strip())
        self._chars += size
        self._linked += size if self._in_link else 0

    def _end_block(self) -> None:
        text = "".join(self._pieces)
        if not self._in_pre:
            text = "\n".join(" ".join(line.split()) for line in text.split("\v"))
        if text.strip():
            self._blocks.append((text, 0 < self._chars == self._linked))
        self._pieces, self._chars, self._linked = [], 0, 0
