"""Markdown (CommonMark, with tables), by markdown-it-py: its blocks without their markup."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from markdown_it import MarkdownIt
from markdown_it.token import Token

from pipeline.errors import InputError
from pipeline.text.encodings import decode_text
from pipeline.text.formats.document import Document, document_of_blocks

NAME = "markdown"

_MAX_CHARS = 20_000_000  # the tokens of a text take some hundred times its memory
_FRONT_MATTER = re.compile(r"\A---[ \t]*\n(?:(?!---|\.\.\.).*\n){0,200}(?:---|\.\.\.)[ \t]*(?:\n|\Z)")
_HTML_TAG = re.compile(r"<!--.*?-->|</?[A-Za-z][^<>]{0,500}>", re.DOTALL)


def read(data: bytes) -> Document:
    """Headings, paragraphs, list items, cells of tables and code blocks, each as a block. HTML tags, comments, link
    targets and a YAML header are left out. Raises what `decode_text` and `document_of_blocks` raise, and ``too_long``.
    """
    text, encoding = decode_text(data)
    if len(text) > _MAX_CHARS:
        raise InputError("too_long", f"the Markdown has {len(text)} characters, more than {_MAX_CHARS}")
    text = _FRONT_MATTER.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
    parser = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    return document_of_blocks(_blocks(parser.parse(text)), form=NAME, encoding=encoding)


def _blocks(tokens: Sequence[Token]) -> Iterator[str]:
    for token in tokens:
        if token.type == "inline":
            yield _inline(token.children or ())
        elif token.type in ("fence", "code_block"):
            yield token.content
        elif token.type == "html_block":
            yield _HTML_TAG.sub(" ", token.content)


def _inline(tokens: Sequence[Token]) -> str:
    pieces = []
    for token in tokens:
        if token.type in ("text", "code_inline", "text_special"):
            pieces.append(token.content)
        elif token.type in ("softbreak", "hardbreak"):
            pieces.append("\n")
        elif token.type == "image":
            pieces.append(_inline(token.children or ()))
    return "".join(pieces)
