"""Where sentences may begin in text without stops, such as speech-to-text and chat: after line ends, and between words
where a small logistic regression says so.

The regression was learned from books whose punctuation and case were removed (`benchmarks.sentence_starts` makes it).
Its features are hashed words around a gap (Weinberger et al. 2009). In scripts without spaces between words, white
space stands between clauses, and a sentence may begin after each.
"""

from __future__ import annotations

import re
from functools import cache
from importlib import resources
from io import BytesIO

import numpy as np
import regex

from pipeline.splitmix import mix_array
from pipeline.text.characters import code_points, lower_case
from pipeline.text.hashing import combined, hash_words

#: The weights of the regression: int8, a power of two of them. The first one is the intercept.
WEIGHTS = "sentence_starts.npy"
#: A weight is a number of the array divided by this.
SCALE = 32.0
#: Log-odds from which on a sentence begins.
THRESHOLD = -2.4
#: A shorter stretch is one sentence, whatever it lacks.
LEAST_CHARS = 400
#: Number of features of a gap.
FEATURES = 15

_CHARS_FOR_A_MARK = 400  # with more marks than one for so many characters, it is ordinary text, if a long-winded one
_FARTHEST_WORDS = 60  # a sentence begins at least once in so many words
_CHUNK_WORDS = 1 << 16
_AROUND = 3  # words on either side that the features of a gap use
_SUFFIX_CHARS = 3
_CASED = 0.02, 0.5  # the share of words with a capital, in text whose case says something
_MARK = regex.compile(r"[^\p{L}\p{M}\p{N}\s'’`-]")
_WORD = re.compile(r"\S+")
_LINE_END = re.compile(r"[\n\r\x85\u2028]\s*")
# Scripts that put white space only between clauses: Thai, Lao, Tibetan, Burmese, Khmer, kana and ideographs.
_CLAUSE = re.compile(
    r"(?<=[\u0e00-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff])\s+"
    r"(?=[\u0e00-\u0e45\u0e80-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff])"
)


def has_no_stops(text: str, start: int, end: int) -> bool:
    """Whether the sentence [start, end) that the rules found is a stretch of text without punctuation."""
    if end - start < LEAST_CHARS:
        return False
    most, marks = (end - start) // _CHARS_FOR_A_MARK, 0
    for marks, _ in enumerate(_MARK.finditer(text, start, end), 1):
        if marks > most:
            return False
    return marks <= most


def starts_without_stops(text: str, start: int, end: int, may_begin: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where sentences may begin inside the stretch [start, end) of a text: int64 (n,), rising, without ``start``; and
    the log-odds that they do, float32 (n,). The places ``may_begin`` in the stretch are among them."""
    piece = text[start:end]
    spans = word_spans(piece)
    if len(spans) < 2:
        return np.empty(0, np.int64), np.empty(0, np.float32)
    odds = log_odds(piece, spans, _weights())
    places = [
        spans[chosen_gaps(odds, THRESHOLD), 0],
        [match.end() for match in _LINE_END.finditer(piece)],
        [match.end() for match in _CLAUSE.finditer(piece)],
        may_begin - start,
    ]
    found = np.unique(np.concatenate([np.asarray(part, np.int64) for part in places]))
    found = found[(found > 0) & (found < len(piece))]
    word = np.minimum(np.searchsorted(spans[:, 0], found), len(spans) - 1)
    return found + start, odds[word]


def word_spans(piece: str) -> np.ndarray:
    """The words of a text, which white space separates: int64 (n, 2)."""
    return np.array([match.span() for match in _WORD.finditer(piece)], np.int64).reshape(-1, 2)


def gap_features(codes: np.ndarray, spans: np.ndarray, size: int) -> np.ndarray:
    """Ids in [1, size) of the features of the gap before each word: int64 (n, FEATURES). ``codes``: the code points of
    a text; ``spans``: its words (n, 2)."""
    codes = np.where(codes == 0x2019, np.uint32(0x27), codes)
    small = lower_case(codes)
    start, end = spans[:, 0], spans[:, 1]
    words = hash_words(small, start, end)
    endings = hash_words(small, np.maximum(start, end - _SUFFIX_CHARS), end)
    capital = small[start] != codes[start]
    low, high = _CASED
    case = np.where(capital, 1, 2) if low < capital.mean() < high else np.zeros(len(words))
    at = {place: _shifted(words, place) for place in range(-_AROUND, _AROUND)}
    case, end_before = case.astype(np.uint64), _shifted(endings, -1)
    columns = [
        at[-1],
        at[0],
        at[-2],
        at[1],
        combined(at[-1], at[0]),
        combined(at[0], at[1]),
        combined(at[-2], at[-1]),
        combined(combined(at[-1], at[0]), at[1]),
        combined(combined(at[-2], at[-1]), at[0]),
        combined(combined(at[0], at[1]), at[2]),
        combined(combined(at[-3], at[-2]), at[-1]),
        end_before,
        combined(end_before, at[0]),
        combined(at[-1], endings),
        combined(case, at[0] * (case > 0)),
    ]
    assert len(columns) == FEATURES
    tags = np.arange(1, FEATURES + 1, dtype=np.uint64)
    hashes = mix_array(np.stack(columns, axis=1) ^ mix_array(tags))
    return (hashes >> np.uint64(20)).astype(np.int64) % (size - 1) + 1


def log_odds(piece: str, spans: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The log-odds that a sentence begins at each word: float32 (n,)."""
    found = np.empty(len(spans), np.float32)
    for first in range(0, len(spans), _CHUNK_WORDS):
        last = min(len(spans), first + _CHUNK_WORDS)
        before, behind = max(0, first - _AROUND), min(len(spans), last + _AROUND)
        offset = int(spans[before, 0])
        codes = code_points(piece[offset : int(spans[behind - 1, 1])])
        ids = gap_features(codes, spans[before:behind] - offset, len(weights))[first - before : last - before]
        found[first:last] = (weights[ids].sum(1, dtype=np.float32) + weights[0]) / SCALE
    return found


def chosen_gaps(scores: np.ndarray, threshold: float) -> np.ndarray:
    """The gaps whose log-odds (n,) are at least the threshold and no less than those of both neighbours; and where
    there is none for long, the best one of each group of `_FARTHEST_WORDS`. Indices, rising."""
    around = np.concatenate([[-np.inf], scores, [-np.inf]])
    peaks = (scores >= threshold) & (scores >= around[:-2]) & (scores > around[2:])
    found = np.flatnonzero(peaks)
    groups = np.arange(0, len(scores), _FARTHEST_WORDS)
    empty = groups[np.diff(np.searchsorted(found, np.append(groups, len(scores)))) == 0]
    best = [int(group + scores[group : group + _FARTHEST_WORDS].argmax()) for group in empty]
    return np.union1d(found, np.array(best, np.int64))


def _shifted(values: np.ndarray, by: int) -> np.ndarray:
    """``values[i + by]`` at i, and 0 beyond the ends."""
    found = np.zeros(len(values), values.dtype)
    if by < 0:
        found[-by:] = values[:by]
    else:
        found[: len(values) - by] = values[by:]
    return found


@cache
def _weights() -> np.ndarray:
    data = resources.files("pipeline.text").joinpath(WEIGHTS).read_bytes()
    return np.load(BytesIO(data), allow_pickle=False)
