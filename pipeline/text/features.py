"""Features of sentences: hashed words and numbers, with numpy alone. They are the same on every machine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pipeline.splitmix import mix_array
from pipeline.text.characters import SINGLE, SPACE, WORD, code_points, is_one_of, kinds_of, lower_case
from pipeline.text.hashing import bucket, combined, hash_words
from pipeline.text.quotations import QUOTATION_DENSE, QUOTATION_FRAME, Quotations

#: Number of hashed features of a sentence besides its words: of its position, form, neighbours and direct speech.
FRAME_FEATURES = 16 + QUOTATION_FRAME
#: Number of features that are not hashed: lengths, fractions of character kinds, repeated words, direct speech.
DENSE_FEATURES = 14 + QUOTATION_DENSE

_CHUNK_CHARS = 1 << 18
# Each chunk also gets the last sentences of the previous one, so that features do not depend on where chunks end.
_LEAD_SENTENCES = 24
_REPEAT_SENTENCES = (1, 4, 20)
_CONTENT_TOKENS = 128  # tokens of a sentence that are used; more of a very long sentence adds little
_REPEATABLE_CHARS = 4  # shorter words are repeated everywhere, so their repetition is not counted

# In text without punctuation this column holds the odds of a sentence. In other text it says that a sentence has no
# tokens, which none has but a first one of white space: packages of all versions see the same in ordinary text.
_ODDS_COLUMN = 2
_ODDS_SHIFT, _ODDS_SCALE = 3.5, 2.0

_QUOTES = "\"'“”‘’«»„「」『』"
_APOSTROPHES = "'’"


@dataclass(frozen=True)
class SentenceFeatures:
    """Features of a document of s sentences. Ids are in [1, buckets); 0 is reserved for padding."""

    content: np.ndarray
    """Ids of the words and punctuation marks of all sentences, concatenated, int32 (n,)."""
    counts: np.ndarray
    """Number of ids in ``content`` that belong to each sentence, int32 (s,)."""
    frame: np.ndarray
    """Ids of the other hashed features, int32 (s, FRAME_FEATURES)."""
    dense: np.ndarray
    """Features that are not hashed, float32 (s, DENSE_FEATURES), each roughly in [0, 1]."""
    subwords: np.ndarray | None = None
    """Ids of the subwords of all sentences, concatenated, int32 (n,); None if no model reads them."""
    subword_counts: np.ndarray | None = None
    """Number of ids in ``subwords`` that belong to each sentence, int32 (s,); None as them."""


@dataclass(frozen=True)
class _Tokens:
    """Tokens of a text: words, and single characters that are no letters. Sentence i begins at token ``first[i]``."""

    codes: np.ndarray
    start: np.ndarray
    end: np.ndarray
    hash: np.ndarray
    first: np.ndarray
    sentence: np.ndarray


def sentence_features(
    text: str, sentences: np.ndarray, buckets: int, *, see_breaks: bool, odds: np.ndarray | None = None
) -> SentenceFeatures:
    """Features of the ``sentences`` (s, 2), which tile ``text``. Line breaks are used only if ``see_breaks``. ``odds``
    (s,): the log-odds that a sentence begins there, of those inside text without punctuation, NaN for others."""
    size, quotations = len(sentences), Quotations(text, sentences)
    content, counts = [np.empty(0, np.int32)], np.empty(size, np.int32)
    # Filled part by part, since arrays that are joined at the end take twice the memory of a long text.
    frame, dense = np.empty((size, FRAME_FEATURES), np.int32), np.empty((size, DENSE_FEATURES), np.float32)
    for lead, start, end in _chunks(sentences):
        offset, stop = int(sentences[lead, 0]), int(sentences[end - 1, 1])
        tokens = _tokenize(text[offset:stop], sentences[lead:end] - offset)
        words, counts[start:end] = _content(tokens, buckets, start - lead)
        content.append(words)
        spans, here = sentences[lead:end] - offset, slice(start, end)
        frame[here, :-QUOTATION_FRAME] = _frame(tokens, spans, buckets, see_breaks)[start - lead :]
        dense[here, :-QUOTATION_DENSE] = _dense(tokens, spans)[start - lead :]
        frame[here, -QUOTATION_FRAME:], dense[here, -QUOTATION_DENSE:] = quotations.features(start, end, buckets)
    if odds is not None:
        unmarked = ~np.isnan(odds)
        dense[unmarked, _ODDS_COLUMN] = np.clip((odds[unmarked] + _ODDS_SHIFT) / _ODDS_SCALE, 0, 4)
    return SentenceFeatures(np.concatenate(content), counts, frame, dense)


def _chunks(sentences: np.ndarray) -> Iterator[tuple[int, int, int]]:
    """Chunks (lead, start, end): sentences [start, end), and [lead, start) as the context before them."""
    start = 0
    while start < len(sentences):
        limit = sentences[start, 0] + _CHUNK_CHARS
        end = max(start + 1, int(np.searchsorted(sentences[:, 1], limit, side="right")))
        yield max(0, start - _LEAD_SENTENCES), start, end
        start = end


def _tokenize(text: str, sentences: np.ndarray) -> _Tokens:
    codes = code_points(text)
    kind = kinds_of(codes)
    word = kind == WORD
    inner = is_one_of(codes, _APOSTROPHES)
    inner[1:] &= word[:-1]
    inner[:-1] &= word[1:]
    inner[[0, -1]] = False
    word |= inner
    continued = np.zeros(len(codes) + 1, bool)
    continued[1:-1] = word[1:] & word[:-1]
    continued[sentences[:, 0]] = False
    token = word | (kind == SINGLE)
    start = np.flatnonzero(token & ~continued[:-1])
    end = np.flatnonzero(token & ~continued[1:]) + 1
    first = np.searchsorted(start, np.append(sentences[:, 0], len(codes)))
    sentence = np.repeat(np.arange(len(sentences)), np.diff(first))
    return _Tokens(codes, start, end, hash_words(lower_case(codes), start, end), first, sentence)


def _content(tokens: _Tokens, buckets: int, skip: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids of the tokens of the sentences after the first ``skip``, and the number of tokens of each sentence.

    Pairs of neighbouring words were tried, too: they took twice the time and did not help on unseen books.
    """
    begin = tokens.first[skip]
    hashes, sentence = tokens.hash[begin:], tokens.sentence[begin:]
    place = np.arange(begin, begin + len(hashes)) - tokens.first[sentence]
    keep = place < _CONTENT_TOKENS
    counts = np.bincount(sentence[keep] - skip, minlength=len(tokens.first) - 1 - skip)
    return bucket(hashes[keep], buckets), counts.astype(np.int32)


def _frame(tokens: _Tokens, sentences: np.ndarray, buckets: int, see_breaks: bool) -> np.ndarray:
    first, last = tokens.first[:-1], tokens.first[1:]
    hashes = np.append(tokens.hash, np.uint64(0))

    def at(index: np.ndarray) -> np.ndarray:
        inside = (index >= first) & (index < last)
        return np.where(inside, hashes[np.where(inside, index, -1)], np.uint64(0))

    heads, tails = [at(first + i) for i in range(3)], [at(last - 1 - i) for i in range(3)]
    quotes = _quote_pattern(tokens)
    tails_before, quotes_before = [_shifted(tail) for tail in tails], _shifted(quotes)
    length = np.rint(2 * np.log2(1.0 + last - first)).astype(np.uint64)
    shape = _shape(tokens, sentences)
    features = [
        *heads,
        combined(heads[0], heads[1]),
        combined(combined(heads[0], heads[1]), heads[2]),
        *tails,
        combined(tails[1], tails[0]),
        combined(tails_before[0], heads[0]),
        combined(combined(tails_before[1], tails_before[0]), combined(heads[0], shape)),
        shape,
        quotes,
        combined(quotes_before, quotes),
        combined(length, quotes),
        _break_before(tokens.codes, sentences) if see_breaks else np.zeros(len(sentences), np.uint64),
    ]
    tags = np.arange(1, len(features) + 1, dtype=np.uint64)
    return bucket(combined(np.stack(features, axis=1), tags), buckets)


def _dense(tokens: _Tokens, sentences: np.ndarray) -> np.ndarray:
    first = tokens.first
    characters = np.diff(sentences, axis=1)[:, 0]
    words = np.maximum(np.diff(first), 1)
    head = tokens.codes[tokens.start]
    is_quote = is_one_of(head, _QUOTES)
    capital = (head >= ord("A")) & (head <= ord("Z"))
    digit = (head >= ord("0")) & (head <= ord("9"))
    comma = is_one_of(head, ",;:")
    double = is_one_of(head, '"“”')

    def count(mask: np.ndarray) -> np.ndarray:
        sums = np.append(0, np.cumsum(mask))
        return sums[first[1:]] - sums[first[:-1]]

    pattern = _quote_pattern(tokens).astype(np.int64)
    columns = [
        np.log1p(characters) / 6,
        np.log1p(words) / 5,
        (tokens.first[1:] - tokens.first[:-1] == 0),
        count(capital) / words,
        count(digit) / words,
        count(comma) / words,
        np.minimum(count(is_quote), 8) / 4,
        pattern & 1,
        (pattern >> 1) & 1,
        count(double) % 2,
        *_repeats(tokens, words),
    ]
    return np.stack(columns, axis=1).astype(np.float32)


def _repeats(tokens: _Tokens, words: np.ndarray) -> list[np.ndarray]:
    """Fractions of each sentence's words: last used 1, up to 4, up to 20 sentences ago; and fraction of long words."""
    long = np.flatnonzero(tokens.end - tokens.start >= _REPEATABLE_CHARS)
    order = long[np.lexsort((tokens.sentence[long], tokens.hash[long]))]
    hashes, sentence = tokens.hash[order], tokens.sentence[order]
    same = np.zeros(len(order), bool)
    same[1:] = hashes[1:] == hashes[:-1]
    gap = np.zeros(len(order), np.int64)
    gap[1:] = sentence[1:] - sentence[:-1]
    size = len(words)
    shares, nearest = [], 0
    for farthest in _REPEAT_SENTENCES:
        hit = same & (gap > nearest) & (gap <= farthest)
        shares.append(np.bincount(sentence[hit], minlength=size) / words)
        nearest = farthest
    return [*shares, np.bincount(sentence, minlength=size) / words]


def _quote_pattern(tokens: _Tokens) -> np.ndarray:
    """A number of a few bits: begins with a quotation mark; ends with one; and the number of them, at most 4."""
    codes = np.append(tokens.codes[tokens.start], np.uint32(0))
    quote = is_one_of(codes, _QUOTES)
    first, last = tokens.first[:-1], tokens.first[1:]
    sums = np.append(0, np.cumsum(quote))
    number = sums[last] - sums[first]
    filled = last > first
    begins = quote[np.where(filled, first, -1)]
    ends = quote[np.where(filled, last - 1, -1)]
    return (begins + 2 * ends + 4 * np.minimum(number, 4)).astype(np.uint64)


def _shape(tokens: _Tokens, sentences: np.ndarray) -> np.ndarray:
    """Hash of the kinds of the first three characters: A for a capital, a, 0 for a digit, or the character itself."""
    padded = np.append(tokens.codes, np.zeros(3, np.uint32)).astype(np.uint64)
    # The first sentence of a document may begin with white space, so its first token is used.
    filled = tokens.first[1:] > tokens.first[:-1]
    begin = np.where(filled, np.append(tokens.start, 0)[tokens.first[:-1]], sentences[:, 0])
    shape = np.zeros(len(sentences), np.uint64)
    for i in range(3):
        code = padded[begin + i]
        for low, high in ("AZ", "az", "09"):
            code = np.where((code >= ord(low)) & (code <= ord(high)), np.uint64(ord(low)), code)
        shape = shape * np.uint64(0x200000) + code
    return mix_array(shape)


def _break_before(codes: np.ndarray, sentences: np.ndarray) -> np.ndarray:
    """Number of line ends between the previous sentence's last word and the sentence, at most 2; 3 for the first."""
    is_end = np.append(0, np.cumsum(is_one_of(codes, "\n\x85\u2028\u2029\f")))
    word_ends = np.flatnonzero(kinds_of(codes) != SPACE) + 1
    before = np.searchsorted(word_ends, sentences[:, 0], side="right") - 1
    begin = np.where(before >= 0, np.append(word_ends, 0)[before], 0)
    number = np.minimum(is_end[sentences[:, 0]] - is_end[np.minimum(begin, sentences[:, 0])], 2)
    return np.where(sentences[:, 0] == 0, 3, number).astype(np.uint64)


def _shifted(values: np.ndarray) -> np.ndarray:
    return np.append(np.zeros(1, values.dtype), values[:-1])
