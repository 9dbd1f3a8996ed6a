"""Parsing records, and splitting text into sentences. Offsets are Unicode code points; ranges are half-open."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.errors import InputError
from pipeline.text.encodings import checked_text, is_unicode
from pipeline.text.graphemes import after_cluster, after_clusters, end_of_space, last_boundary, last_word
from pipeline.text.stops import item_starts, sentence_ends
from pipeline.text.unpunctuated import LEAST_CHARS, has_no_stops, starts_without_stops

Spans = Sequence[Sequence[int]]

_LINE_END = r"(?>\r\n|[\n\r\x85\u2028])"  # atomic, so that CR LF is never two
_BLANK_LINE = re.compile(rf"{_LINE_END}[^\S\n\r\x85\u2028\u2029]*{_LINE_END}\s*|[\u2029\f]\s*")
_KINDS = {list: "a list", dict: "an object"}


def parse_record(line: bytes) -> dict[str, Any]:
    """Parse a JSON record: ``text``, ``doc_id`` (a string, or None), ``paragraphs`` ([(start, end), ...], or None).

    A ``doc_id`` that is a number or a truth value becomes its text in JSON. A paragraph is ``[start, end]``, or an
    object with ``start`` and ``end``, as in the tables of this project. Paragraphs must be in order, not empty and not
    overlapping; between them there may only be white space. Other members of the record are ignored. Raises
    `InputError`: ``bad_record``, ``bad_encoding``, ``empty``, ``not_text``.
    """
    try:
        record = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as cause:
        raise InputError("bad_encoding", f"byte {cause.start} of the record is not valid UTF-8") from cause
    except (ValueError, RecursionError) as cause:
        raise InputError("bad_record", "the record is not JSON") from cause
    if not isinstance(record, dict):
        raise InputError("bad_record", "the record is not a JSON object")
    text, doc_id = record.get("text"), record.get("doc_id")
    if not isinstance(text, str):
        raise InputError("bad_record", "the record has no text that is a string")
    if isinstance(doc_id, int | float):
        doc_id = json.dumps(doc_id)
    if not (doc_id is None or isinstance(doc_id, str)):
        raise InputError("bad_record", f"doc_id is {_KINDS[type(doc_id)]}, not a string or a number")
    for name, value in (("text", text), ("doc_id", doc_id or "")):
        if not is_unicode(value):
            raise InputError("bad_record", f"{name} has half a surrogate pair")
    paragraphs = record.get("paragraphs")
    if paragraphs is not None:
        paragraphs = _checked_paragraphs(checked_text(text), paragraphs)
    return {"text": checked_text(text), "doc_id": doc_id, "paragraphs": paragraphs}


def split_sentences(text: str, max_chars: int = 2000, may_begin: Sequence[int] = ()) -> np.ndarray:
    """Split a text into sentences (start, end), int64 (s, 2). They tile the text; white space ends the sentence before.

    This uses rules and no model (`pipeline.text.stops`): stops, abbreviations, initials, closing quotes, lists, blank
    lines. Every position where a paragraph can begin should start a sentence, so the rules rather split too often.
    Where the rules find a stretch without any punctuation, `pipeline.text.unpunctuated` says where sentences may begin,
    and they begin at the places ``may_begin``, too, such as the beginnings of cues. A sentence of more
    than ``max_chars`` code points is cut after white space, or else between two grapheme clusters. A cluster that is
    longer is cut at ``max_chars``. The limit counts without white space at the end, since no sentence but the first
    begins with white space (other than white space with a combining mark on it, which is a character to be seen).
    """
    return split_with_odds(text, max_chars, may_begin)[0]


def split_with_odds(text: str, max_chars: int = 2000, may_begin: Sequence[int] = ()) -> tuple[np.ndarray, np.ndarray]:
    """`split_sentences`, and for each sentence that begins inside a stretch without punctuation the log-odds that one
    does, float32 (s,); NaN for sentences that the rules have found."""
    if not text:
        return np.empty((0, 2), np.int64), np.empty(0, np.float32)
    first = len(text) - len(text.lstrip())
    # Arrays, because for short sentences Python integers would need twenty times the memory of the text.
    places = itertools.chain(
        sentence_ends(text), item_starts(text), (match.end() for match in _BLANK_LINE.finditer(text))
    )
    starts = np.unique(np.fromiter((after_cluster(text, place) for place in places), np.int64))
    edges = np.concatenate([[0], starts[(starts > first) & (starts < len(text))], [len(text)]])
    edges, unmarked, odds = _with_unmarked_starts(text, edges, first, np.array(may_begin, np.int64))
    if (np.diff(edges) > max_chars).any():
        edges = np.array(_cut_long(text, edges.tolist(), max_chars), np.int64)
    found = np.full(len(edges) - 1, np.nan, np.float32)
    found[np.searchsorted(edges, unmarked)] = odds
    return np.stack([edges[:-1], edges[1:]], axis=1), found


def with_less_space(text: str, sentences: np.ndarray, max_chars: int) -> tuple[str, np.ndarray]:
    """The text and its sentences, with less white space at the end of those that have more than ``max_chars`` code
    points because of it. So a file of white space does not take more memory for features than one of words."""
    long = np.flatnonzero(np.diff(sentences, axis=1)[:, 0] > max_chars)
    if not len(long):
        return text, sentences
    dropped = np.zeros(len(sentences), np.int64)
    pieces, position = [], 0
    for index in long.tolist():
        start, end = sentences[index].tolist()
        kept = max(start + len(text[start:end].rstrip()), start + max_chars)
        pieces.append(text[position:kept])
        position, dropped[index] = end, end - kept
    before = np.cumsum(dropped)
    moved = np.stack([sentences[:, 0] - before + dropped, sentences[:, 1] - before], axis=1)
    return "".join([*pieces, text[position:]]), moved


def blank_line_paragraphs(text: str) -> list[tuple[int, int]]:
    """The paragraphs of a text that separates them by blank lines, without the white space around them."""
    edges = [0, *(after_cluster(text, match.end()) for match in _BLANK_LINE.finditer(text)), len(text)]
    trimmed = [_trimmed(text, start, end) for start, end in itertools.pairwise(edges)]
    return [(start, end) for start, end in trimmed if start < end]


def join_paragraphs(text: str, paragraphs: Spans, glue: str = " ") -> tuple[str, list[tuple[int, int]]]:
    """Join the paragraphs by ``glue``, so that the text does not show them; returns it and their new positions."""
    trimmed = [_trimmed(text, start, end) for start, end in paragraphs]
    pieces = [text[start:end] for start, end in trimmed if start < end]
    spans, position = [], 0
    for piece in pieces:
        spans.append((position, position + len(piece)))
        position += len(piece) + len(glue)
    return glue.join(pieces), spans


def paragraph_starts(text: str, paragraphs: Spans) -> list[int]:
    """Where each paragraph begins, after its leading white space: no sentence begins with white space."""
    return [end - len(text[start:end].lstrip()) for start, end in paragraphs]


def _with_unmarked_starts(
    text: str, edges: np.ndarray, first: int, may_begin: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The edges of sentences, with more of them inside stretches that have no punctuation; and these, with the log-odds
    that a sentence begins there. No sentence but the first begins before ``first``, where the text's first white space
    ends."""
    places: list[np.ndarray] = [np.empty(0, np.int64)]
    odds: list[np.ndarray] = [np.empty(0, np.float32)]
    for index in np.flatnonzero(np.diff(edges) >= LEAST_CHARS).tolist():
        start, end = int(edges[index]), int(edges[index + 1])
        if has_no_stops(text, start, end):
            found, scores = starts_without_stops(text, start, end, may_begin[_between(may_begin, start, end)])
            moved = np.array(after_clusters(text, found.tolist()), np.int64)
            moved, once = np.unique(moved, return_index=True)
            inside = (moved > max(first, start)) & (moved < end)
            places.append(moved[inside])
            odds.append(scores[once][inside])
    added = np.concatenate(places)
    return np.union1d(edges, added) if len(added) else edges, added, np.concatenate(odds)


def _between(places: np.ndarray, start: int, end: int) -> slice:
    """Those of the rising places that lie in [start, end)."""
    return slice(*np.searchsorted(places, [start, end]).tolist())


def _cut_long(text: str, edges: list[int], max_chars: int) -> list[int]:
    cut = [0]
    for edge in edges[1:]:
        while edge - cut[-1] > max_chars:
            place = _cut_place(text, cut[-1], max_chars)
            if place >= edge:
                break
            cut.append(place)
        cut.append(edge)
    return cut


def _cut_place(text: str, start: int, max_chars: int) -> int:
    """Where to cut a sentence that begins at ``start`` and has more than ``max_chars`` code points."""
    limit = start + max_chars
    word = last_word(text, start + max_chars // 2 + 1, limit)
    if text[limit].isspace() and (word is None or text[limit - 1].isspace()):
        return end_of_space(text, limit, max_chars)
    return word or last_boundary(text, start, limit) or limit


def _checked_paragraphs(text: str, paragraphs: Any) -> list[tuple[int, int]]:
    position = 0
    if not isinstance(paragraphs, list) or not paragraphs:
        raise InputError("bad_record", "paragraphs is not a list of [start, end]")
    found = []
    for index, span in enumerate(paragraphs):
        if isinstance(span, dict) and {"start", "end"} <= set(span):
            span = [span["start"], span["end"]]
        if not isinstance(span, list) or len(span) != 2 or not all(type(offset) is int for offset in span):
            raise InputError("bad_record", f"paragraph {index} is not [start, end], nor has start and end")
        start, end = span
        if not position <= start < end <= len(text):
            raise InputError("bad_record", f"paragraph {index} is empty, out of order or outside the text")
        if text[position:start].strip():
            raise InputError("bad_record", f"there is text before paragraph {index} that is in no paragraph")
        position = end
        found.append((start, end))
    if text[position:].strip():
        raise InputError("bad_record", "there is text after the last paragraph")
    return found


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    piece = text[start:end]
    return start + len(piece) - len(piece.lstrip()), start + len(piece.rstrip())
