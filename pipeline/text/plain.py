"""Documents as speech-to-text would write them: without punctuation, and mostly without case."""

from __future__ import annotations

import hashlib

import regex

from pipeline.text.inputs import Spans

_NO_WORD = regex.compile(r"(?!(?<=\w)['’-](?=\w))[^\p{L}\p{M}\p{N}\s]")
_KEEPS_CASE = 0.25
_PARTS = 1 << 32


def without_marks(text: str, paragraphs: Spans, *, keep_case: bool = False) -> tuple[str, list[tuple[int, int]]]:
    """The text without punctuation and, unless told otherwise, in small letters, its paragraphs joined by one space;
    and their new positions. Apostrophes and hyphens inside words stay. Paragraphs without a word are left out."""
    pieces, spans, position = [], [], 0
    for start, end in paragraphs:
        piece = _bare(text[start:end])
        if piece:
            pieces.append(piece if keep_case else piece.lower())
            spans.append((position, position + len(pieces[-1])))
            position += len(pieces[-1]) + 1
    return " ".join(pieces), spans


def share_of(text: str, purpose: str) -> float:
    """A number in [0, 1) that only depends on a text and on what it is for: a random choice that is the same each
    time."""
    digest = hashlib.sha256(f"{purpose}\0{text}".encode()).digest()
    return int.from_bytes(digest[:4], "big") / _PARTS


def keeps_case(text: str) -> bool:
    """Whether this document is one of those that lose their punctuation, but not their case."""
    return share_of(text, "case") < _KEEPS_CASE


def _bare(piece: str) -> str:
    return " ".join(_NO_WORD.sub(" ", piece).split())
