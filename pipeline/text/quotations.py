"""Direct speech: which quotation marks open and which close, and features from them for where paragraphs can begin.

A new speaker begins a paragraph. A speech that continues in a new paragraph opens with a quotation mark again. No other
place inside a quotation begins a paragraph. Straight marks look the same at both ends; the characters around them
decide whether they open or close, as in programs that turn straight quotes into typographic ones. The last mark before
a place decides whether it is inside a quotation. Marks are not counted, so a missing mark causes errors only up to the
next mark.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.text.characters import SPACE, WORD, code_points, is_one_of, kinds_of
from pipeline.text.hashing import bucket, combined

#: Number of hashed features of a sentence, and number of features that are not hashed.
QUOTATION_FRAME = 12
QUOTATION_DENSE = 14

_OPEN, _CLOSE, _OPEN_SINGLE, _CLOSE_SINGLE = 1, 2, 3, 4
_FIRST_PUNCTUATION = 10
_PUNCTUATION = ",;:.!?—-()_[]*"
_BEFORE_OPENING = "([—–-\"'“‘"
_BEFORE_CLOSING_SINGLE = '.,;:!?-—"'
_CHUNK_CHARS = 1 << 18
_FAR = 99  # distance in sentences to a mark if there is none
_TAG = 100  # keeps these hashes apart from other features, which use lower numbers


@dataclass(frozen=True)
class _Symbols:
    """Quotation marks and punctuation of a text, or a selection of them, in the text's order: n of them."""

    place: np.ndarray
    """Code-point offset of each, int64 (n,)."""
    kind: np.ndarray
    """Its kind, uint8 (n,): `_OPEN` to `_CLOSE_SINGLE`, or `_FIRST_PUNCTUATION` plus the index in `_PUNCTUATION`."""


@dataclass(frozen=True)
class _Speech:
    """Positions of s sentences relative to the quotation marks of one kind (double or single)."""

    inside: np.ndarray
    """Whether the last mark before the sentence is an opening one, bool (s,)."""
    since: np.ndarray
    """Number of sentences since that mark, int64 (s,); `_FAR` if there is none."""
    closes_next: np.ndarray
    """Whether the first mark after the sentence is a closing one, bool (s,)."""
    until: np.ndarray
    """Number of sentences until that mark, int64 (s,)."""
    first: np.ndarray
    """Kind of the first mark in the sentence, uint8 (s,); 0 if it has none."""


class Quotations:
    """The quotation marks of a text, whose ``sentences`` (s, 2) tile it. `features` returns those of some sentences."""

    def __init__(self, text: str, sentences: np.ndarray) -> None:
        self._sentences = sentences
        self._symbols = _symbols(text)
        self._double = _only(self._symbols, _OPEN, _CLOSE)
        self._single = _only(self._symbols, _OPEN_SINGLE, _CLOSE_SINGLE)

    def features(self, begin: int, end: int, buckets: int) -> tuple[np.ndarray, np.ndarray]:
        """Features of the n sentences [begin, end): ids in [1, buckets), int32 (n, QUOTATION_FRAME), and numbers
        roughly in [0, 1], float32 (n, QUOTATION_DENSE)."""
        # The features of a sentence also depend on the two before it and the one after it.
        first, last = max(0, begin - 2), min(len(self._sentences), end + 1)
        double = self._speech(self._double, _OPEN, first, last)
        single = self._speech(self._single, _OPEN_SINGLE, first, last)
        frame = _frame(self._symbols, self._sentences[first:last], double, single)
        tags = np.arange(_TAG, _TAG + QUOTATION_FRAME, dtype=np.uint64)
        dense = np.stack([*_numbers(double, _OPEN), *_numbers(single, _OPEN_SINGLE)], axis=1).astype(np.float32)
        wanted = slice(begin - first, end - first)
        return bucket(combined(np.stack(frame, axis=1)[wanted], tags), buckets), dense[wanted]

    def _speech(self, marks: _Symbols, opens: int, begin: int, end: int) -> _Speech:
        spans, index = self._sentences[begin:end], np.arange(begin, end)
        none = len(marks.place) - 1
        first, after = (np.searchsorted(marks.place, edge) for edge in spans.T)
        before = np.where(first > 0, first - 1, none)
        holders = [
            np.searchsorted(self._sentences[:, 0], marks.place[near], side="right") - 1 for near in (before, after)
        ]
        return _Speech(
            inside=marks.kind[before] == opens,
            since=np.where(before < none, index - holders[0], _FAR),
            closes_next=marks.kind[after] == opens + 1,
            until=np.where(after < none, holders[1] - index, _FAR),
            first=marks.kind[np.where(first < after, first, none)],
        )


def _symbols(text: str) -> _Symbols:
    places, kinds = [], []
    for begin in range(0, len(text), _CHUNK_CHARS):
        # One more character at both ends, so that a mark's kind does not depend on where chunks are cut.
        padded = " " if begin == 0 else text[begin - 1]
        padded += text[begin : begin + _CHUNK_CHARS + 1]
        codes = code_points(padded if begin + _CHUNK_CHARS < len(text) else padded + " ")
        found = _kinds(codes[:-2], codes[1:-1], codes[2:])
        place = np.flatnonzero(found)
        places.append(place + begin)
        kinds.append(found[place])
    return _Symbols(np.concatenate(places), np.concatenate(kinds))


def _kinds(before: np.ndarray, codes: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Kinds of n code points, uint8 (n,), 0 for other characters; ``before`` and ``after`` are their neighbours."""
    kinds = np.zeros(len(codes), np.uint8)
    for number, mark in enumerate(_PUNCTUATION, _FIRST_PUNCTUATION):
        kinds[codes == ord(mark)] = number
    opening = (kinds_of(before) == SPACE) | is_one_of(before, _BEFORE_OPENING)
    closing_single = is_one_of(before, _BEFORE_CLOSING_SINGLE)
    following = kinds_of(after)
    straight, apostrophe = codes == ord('"'), codes == ord("'")
    kinds[straight] = _CLOSE
    kinds[(straight & opening & (following != SPACE)) | is_one_of(codes, "“«„「『")] = _OPEN
    kinds[is_one_of(codes, "”»」』")] = _CLOSE
    kinds[(apostrophe & opening & (following == WORD)) | (codes == ord("‘"))] = _OPEN_SINGLE
    # Inside a word, and after a letter, it is an apostrophe, which says nothing about direct speech.
    kinds[closing_single & ((apostrophe & (following != WORD)) | (codes == ord("’")))] = _CLOSE_SINGLE
    return kinds


def _only(symbols: _Symbols, opens: int, closes: int) -> _Symbols:
    """The marks of one kind, followed by a sentinel beyond the end of the text."""
    chosen = (symbols.kind == opens) | (symbols.kind == closes)
    behind = np.iinfo(np.int64).max
    return _Symbols(np.append(symbols.place[chosen], behind), np.append(symbols.kind[chosen], np.uint8(0)))


def _numbers(speech: _Speech, opens: int) -> list[np.ndarray]:
    surely_inside = speech.inside & (speech.since <= 12) & (speech.first != opens) & speech.closes_next
    return [
        speech.inside,
        np.log1p(np.minimum(speech.since, 50)) / 4,
        speech.closes_next,
        np.log1p(np.minimum(speech.until, 50)) / 4,
        speech.first == opens,
        speech.first == opens + 1,
        surely_inside,
    ]


def _frame(symbols: _Symbols, sentences: np.ndarray, double: _Speech, single: _Speech) -> list[np.ndarray]:
    """Hashed features, uint64 (s,) each: the symbols of a sentence and of the previous one, and the state of speech."""
    begin, end = np.searchsorted(symbols.place, [sentences[0, 0], sentences[-1, 1]])
    places = symbols.place[begin:end]
    first, last = (np.searchsorted(places, edge) for edge in sentences.T)
    kind = np.append(symbols.kind[begin:end], np.uint8(0)).astype(np.uint64)

    def sequence(offsets: range) -> np.ndarray:
        hashes = np.zeros(len(sentences), np.uint64)
        for offset in offsets:
            place = first + offset if offset >= 0 else last + offset
            hashes = combined(hashes, kind[np.where((place >= first) & (place < last), place, -1)])
        return hashes

    head = kind[np.where(np.append(places, -1)[first] == sentences[:, 0], first, -1)]
    begins = np.where(head == _OPEN, 1, np.where(head == _OPEN_SINGLE, 2, 0)).astype(np.uint64)
    first_2, first_3, first_6, first_12 = (sequence(range(count)) for count in (2, 3, 6, 12))
    last_2, last_3 = (sequence(range(-1, -1 - count, -1)) for count in (2, 3))
    state = (double.inside + 2 * single.inside).astype(np.uint64)
    since = np.minimum(double.since, 6).astype(np.uint64)
    marks = double.first.astype(np.uint64) + np.uint64(5) * single.first.astype(np.uint64)
    state_begins = combined(state, begins)
    return [
        first_3,
        first_6,
        first_12,
        last_3,
        combined(state_begins, marks),
        combined(state_begins, _before(last_2)),
        combined(combined(state, since), begins),
        combined(_before(last_2), first_2),
        combined(_before(last_3), first_3),
        combined(combined(_before(_before(begins)), _before(begins)), combined(begins, _after(begins))),
        combined(combined(state, _before(begins)), combined(_before(last_2), begins)),
        combined(_before(first_6), first_3),
    ]


def _before(values: np.ndarray) -> np.ndarray:
    return np.append(np.zeros(1, values.dtype), values[:-1])


def _after(values: np.ndarray) -> np.ndarray:
    return np.append(values[1:], np.zeros(1, values.dtype))
