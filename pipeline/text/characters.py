"""Tables of characters by code point: white space, parts of words and single tokens, and lower case."""

from __future__ import annotations

import unicodedata
from functools import cache

import numpy as np

SPACE, WORD, SINGLE = 0, 1, 2
TABLE_END = 0x20000  # higher code points are ideographs, emoji tags and private ones; each is a token of its own


def code_points(text: str) -> np.ndarray:
    """The code points of a text, uint32 (n,)."""
    return np.frombuffer(text.encode("utf-32-le"), np.uint32)


def kinds_of(codes: np.ndarray) -> np.ndarray:
    """The kind of each code point, uint8: ``SPACE``, ``WORD`` (part of a word) or ``SINGLE`` (a token of its own)."""
    return _tables()[0][np.minimum(codes, TABLE_END)]


def lower_case(codes: np.ndarray) -> np.ndarray:
    """The lower case of each code point; unchanged if the lower case is more than one code point."""
    return np.where(codes < TABLE_END, _tables()[1][np.minimum(codes, TABLE_END)], codes)


def is_one_of(codes: np.ndarray, characters: str) -> np.ndarray:
    mask = np.zeros(len(codes), bool)
    for character in characters:
        mask |= codes == ord(character)
    return mask


@cache
def _tables() -> tuple[np.ndarray, np.ndarray]:
    """Kind and lower case of each code point from 0 to TABLE_END inclusive."""
    classes = np.full(TABLE_END + 1, SINGLE, np.uint8)
    lower = np.arange(TABLE_END + 1, dtype=np.uint32)
    for code in range(TABLE_END):
        character = chr(code)
        if character.isspace():
            classes[code] = SPACE
        elif unicodedata.category(character)[0] in "LNM" and not _is_ideograph(code):
            classes[code] = WORD
        small = character.lower()
        if len(small) == 1:
            lower[code] = ord(small)
    return classes, lower


def _is_ideograph(code: int) -> bool:
    """Whether a code point belongs to a script without spaces between words: kana, CJK and its compatibility forms."""
    return 0x3040 <= code <= 0x30FF or 0x3400 <= code <= 0x9FFF or 0xF900 <= code <= 0xFAFF
