"""Subwords: byte pair encoding (Gage 1994; Sennrich et al. 2016), learned from text and kept as a list of strings.

A text is a sequence of UTF-8 bytes, so there is no unknown character, and a probability of subwords is one of texts. A
piece is written as a string with a character for each byte (Latin-1), which is plain JSON. The rank of a piece in the
list says when it is merged: of all neighbours whose joined bytes are a piece, those with the lowest rank are joined.

It is our own: the package ``tokenizers`` needs ``huggingface-hub`` and its network clients, and ``sentencepiece`` keeps
a binary file of its own.
"""

from __future__ import annotations

import heapq
import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from pipeline.errors import RequestError

#: Ids before those of bytes and pieces: what is not to be seen, the beginning and the end of a sentence.
HIDDEN, BEGIN, END = 0, 1, 2
_BYTES = 3  # id of the byte 0; the pieces follow the byte 255
FIRST_PIECE = _BYTES + 256

# Runs of letters and of digits, with the space before them, and single other characters. Runs are bounded, so that the
# time is linear in the text, also where a script has no spaces.
_RUN = re.compile(r" ?(?:[^\W\d_]{1,24}|\d{1,3}|[^\w\s]|_)|\s", re.DOTALL)
_KEPT_WORDS = 1 << 16


def learn_pieces(texts: Iterable[str], size: int) -> tuple[str, ...]:
    """Up to ``size`` pieces: the most frequent pair of neighbours is joined again and again. Deterministic: of pairs
    that are equally frequent, the lowest bytes are first. Pairs that occur once are not joined."""
    runs: Counter[str] = Counter()
    for text in texts:
        runs.update(_runs(text))
    words = [([bytes([byte]) for byte in run.encode()], count) for run, count in sorted(runs.items())]
    pairs: Counter[tuple[bytes, bytes]] = Counter()
    places: defaultdict[tuple[bytes, bytes], set[int]] = defaultdict(set)
    for index, (parts, count) in enumerate(words):
        for pair in itertools.pairwise(parts):
            pairs[pair] += count
            places[pair].add(index)
    heap = [(-count, pair) for pair, count in pairs.items()]
    heapq.heapify(heap)
    found: dict[bytes, None] = {}
    while heap and len(found) < size:
        negative, pair = heapq.heappop(heap)
        if pairs[pair] != -negative:  # an old entry: the pair's count has changed since
            continue
        if -negative < 2:
            break
        found[pair[0] + pair[1]] = None
        changed = _join_everywhere(words, pairs, places, pair)
        for other in changed:
            if pairs[other] > 0:
                heapq.heappush(heap, (-pairs[other], other))
    return tuple(piece.decode("latin-1") for piece in found)


def _join_everywhere(
    words: list[tuple[list[bytes], int]],
    pairs: Counter[tuple[bytes, bytes]],
    places: defaultdict[tuple[bytes, bytes], set[int]],
    pair: tuple[bytes, bytes],
) -> set[tuple[bytes, bytes]]:
    """Join a pair in all words that have it; returns the pairs whose counts have changed."""
    changed: set[tuple[bytes, bytes]] = set()
    for index in places.pop(pair):
        parts, count = words[index]
        before = Counter(itertools.pairwise(parts))
        joined = _joined(parts, pair)
        after = Counter(itertools.pairwise(joined))
        words[index] = (joined, count)
        for other in before.keys() | after.keys():
            difference = after[other] - before[other]
            if difference:
                pairs[other] += difference * count
                changed.add(other)
            if after[other]:
                places[other].add(index)
    del pairs[pair]
    return changed - {pair}


def _joined(parts: Sequence[bytes], pair: tuple[bytes, bytes]) -> list[bytes]:
    found: list[bytes] = []
    index = 0
    while index < len(parts):
        if index + 1 < len(parts) and (parts[index], parts[index + 1]) == pair:
            found.append(parts[index] + parts[index + 1])
            index += 2
        else:
            found.append(parts[index])
            index += 1
    return found


def _runs(text: str) -> list[str]:
    """The runs of a text, in which each word has one space before it."""
    return _RUN.findall("".join(f" {word}" for word in text.split()))


class Subwords:
    """Texts to ids and back. ``pieces`` are those of `learn_pieces`; ids are in [0, ``size``)."""

    def __init__(self, pieces: Sequence[str]) -> None:
        try:
            own = [piece.encode("latin-1") for piece in pieces]
        except UnicodeEncodeError as reason:
            raise RequestError("a piece of the vocabulary has a character that is no byte") from reason
        if len(set(own)) != len(own) or any(len(piece) < 2 for piece in own):
            raise RequestError("the pieces of a vocabulary must differ, and have two bytes or more")
        self._rank = {piece: rank for rank, piece in enumerate(own)}
        self._bytes = [b""] * _BYTES + [bytes([byte]) for byte in range(256)] + own
        self._known: dict[str, list[int]] = {}

    @property
    def size(self) -> int:
        return len(self._bytes)

    def encode(self, text: str, most: int) -> tuple[list[int], int]:
        """The first ``most`` ids of a sentence, and the number of words that begin in them. Words are separated by
        white space, of which any amount counts as one space. `END` is the last id if there is room for all."""
        ids: list[int] = []
        words = 0
        for run in _runs(text):
            if len(ids) >= most:
                return ids[:most], words
            words += run[0] == " "
            ids += self._known.get(run) or self._learnt(run)
        return ([*ids, END] if len(ids) < most else ids[:most]), words

    def decode(self, ids: Iterable[int]) -> str:
        """The text of some ids, up to the first `END`. Bytes that are no UTF-8 become U+FFFD."""
        found = []
        for token in ids:
            if token == END:
                break
            found.append(self._bytes[token])
        return b"".join(found).decode(errors="replace").strip()

    def _learnt(self, run: str) -> list[int]:
        """The ids of a run, which are kept for the next time, unless too many are kept already."""
        parts = [bytes([byte]) for byte in run.encode()]
        while len(parts) > 1:
            ranks = [self._rank.get(a + b, len(self._rank)) for a, b in itertools.pairwise(parts)]
            least = min(ranks)
            if least == len(self._rank):
                break
            place = ranks.index(least)
            parts[place : place + 2] = [parts[place] + parts[place + 1]]
        ids = [_BYTES + part[0] if len(part) == 1 else FIRST_PIECE + self._rank[part] for part in parts]
        if len(self._known) < _KEPT_WORDS:
            self._known[run] = ids
        return ids
