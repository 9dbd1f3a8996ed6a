"""Statistics of a document that tell its language, its style, its order of words and its repetitions.

They are computed from the prepared features alone, with numpy, in time that grows with the text.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from pipeline.config import check
from pipeline.text.features import SentenceFeatures

_WORDS = 64  # of a table: the most frequent words and punctuation marks
_TENTH = 10.0  # information of pairs is stored in tenths of a nat
_MOST_TENTHS = 60
_BLOCK = 400  # words among which different ones are counted, since their share falls with the length of a text
_PART = 8_192  # sentences that are looked at together
_GRAM = 4  # words that come again in this order are a repetition
_GRAM_BLOCK = 4_000  # words in which they are looked for, so that a long text is not taken for one that repeats itself
_FACTOR = np.uint32(0x9E3779B1)  # odd; 32 bits are enough for a block: a collision in a thousand
_SMALL = 0.02  # added to shares before their logarithm
_PRIOR = 20.0  # pairs of a document count as if there were so many more with no information


@dataclass(frozen=True, kw_only=True)
class WordTable:
    """The most frequent words of the training documents, and how much rather one follows another than by chance."""

    words: tuple[int, ...]
    """Ids of the words, most frequent first. All other words are one class, the last."""
    costs: tuple[float, ...]
    """Negative log probability of each class, in nats."""
    pairs: tuple[tuple[int, ...], ...]
    """Pointwise mutual information of a class (row) and the next in the same sentence (column), in tenths of a nat."""

    def __post_init__(self) -> None:
        check(self, "costs", len(self.costs) == len(self.words) + 1, "have a value for each word and one for the rest")
        is_square = {len(row) for row in self.pairs} == {len(self.costs)} and len(self.pairs) == len(self.costs)
        check(self, "pairs", is_square, "have a row and a column for each class")


class DocumentStatistics:
    """Computes the statistics of documents by a table of words and the weights of a tagger's words."""

    def __init__(self, table: WordTable, buckets: int, weights: np.ndarray) -> None:
        """``weights`` (buckets,): the tagger's weight of each word, 0 for words that it does not know."""
        self._class = _classes(table.words, buckets)
        self._costs = np.array(table.costs, np.float32)
        self._pairs = np.array(table.pairs, np.float32) / _TENTH
        self._weights = weights.astype(np.float32)

    def of(self, document: SentenceFeatures) -> np.ndarray:
        """The statistics of a document, float64 (f,). A long one is read part by part, so memory does not grow."""
        edges = np.append(np.arange(0, len(document.counts), _PART), len(document.counts))
        ends = np.append(0, np.cumsum(document.counts, dtype=np.int64))
        sums = np.sum(
            [
                self._sums(
                    document.content[ends[start] : ends[end]], document.counts[start:end], document.dense[start:end]
                )
                for start, end in itertools.pairwise(edges.tolist())
            ],
            axis=0,
        )
        words, other, costs, pairs, informed, of_pairs, of_informed, same, unknown, weights, squares = sums[:11]
        blocks, different, grams, repeated, sentences, *rest = sums[11:]
        words, sentences = max(1.0, words), max(1.0, sentences)
        means, mean_squares = np.split(np.array(rest) / sentences, 2)
        weight = weights / words
        deviations = np.sqrt(np.maximum(mean_squares - means**2, 0))
        own = [
            np.log(other / words + _SMALL),
            costs / words,
            of_pairs / (pairs + _PRIOR),
            of_informed / (informed + _PRIOR),
            np.log(same / max(1.0, pairs) + _SMALL),
            np.log(unknown / words + _SMALL),
            weight,
            np.sqrt(max(0.0, squares / words - weight**2)),
            different / max(1.0, blocks),
            np.log(repeated / max(1.0, grams) + _SMALL),
        ]
        return np.concatenate([own, means, deviations])

    def _sums(self, content: np.ndarray, counts: np.ndarray, dense: np.ndarray) -> np.ndarray:
        """What `of` adds up over the parts of a document, float64."""
        classes, other, follows = self._class[content], len(self._costs) - 1, _follows(counts)
        left, right = classes[:-1][follows], classes[1:][follows]
        information = self._pairs[left, right]
        informed = (left != other) & (right != other)
        weights = self._weights[content].astype(np.float64)
        numbers = np.concatenate([np.log1p(counts.astype(np.float64))[:, None], dense.astype(np.float64)], axis=1)
        distinct, grams = _distinct(_blocks(content, _BLOCK)), _grams(content)
        own = [
            len(content),
            (classes == other).sum(),
            self._costs[classes].sum(dtype=np.float64),
            len(information),
            informed.sum(),
            information.sum(dtype=np.float64),
            information[informed].sum(dtype=np.float64),
            (content[1:][follows] == content[:-1][follows]).sum(),
            (weights == 0).sum(),
            weights.sum(),
            (weights**2).sum(),
            len(distinct),
            # Heaps' law: the number of different words of a text grows with about the square root of its length.
            np.log(np.maximum(distinct, 1) / max(1, min(len(content), _BLOCK)) ** 0.5).sum(),
            grams.size,
            grams.size - _distinct(grams).sum(),
            len(counts),
        ]
        return np.concatenate([own, numbers.sum(0), (numbers**2).sum(0)])


def word_table(windows: list[SentenceFeatures], buckets: int) -> WordTable:
    """Learn a table from documents or windows of them."""
    counts = np.zeros(buckets, np.int64)
    for window in windows:
        counts += np.bincount(window.content, minlength=buckets)
    words = np.argsort(-counts, kind="stable")[:_WORDS]
    words = words[counts[words] > 0]
    class_of, size = _classes(tuple(words.tolist()), buckets), len(words) + 1
    pairs = np.zeros((size, size))
    for window in windows:
        classes, follows = class_of[window.content], _follows(window.counts)
        places = classes[:-1][follows].astype(np.int64) * size + classes[1:][follows]
        pairs += np.bincount(places, minlength=size * size).reshape(size, size)
    totals = np.bincount(class_of, counts, size) + 1.0
    expected = np.outer(pairs.sum(1), pairs.sum(0)) / max(1.0, pairs.sum())
    information = np.log((pairs + 1) / (expected + 1)) * _TENTH
    tenths = np.rint(np.clip(information, -_MOST_TENTHS, _MOST_TENTHS)).astype(int)
    return WordTable(
        words=tuple(words.tolist()),
        costs=tuple(round(float(cost), 3) for cost in -np.log(totals / totals.sum())),
        pairs=tuple(map(tuple, tenths.tolist())),
    )


def _classes(words: tuple[int, ...], buckets: int) -> np.ndarray:
    """The class of each id, int16 (buckets,)."""
    found = np.full(buckets, len(words), np.int16)
    found[list(words)] = np.arange(len(words))
    return found


def _follows(counts: np.ndarray) -> np.ndarray:
    """Whether each word but the first is in the sentence of the word before it, bool (t - 1,)."""
    inside = np.ones(int(counts.sum()), bool)
    firsts = np.cumsum(counts) - counts
    inside[firsts[counts > 0]] = False
    return inside[1:]


def _grams(content: np.ndarray) -> np.ndarray:
    """Hashes of every four words in a row, in blocks of text, uint32 (n, size)."""
    grams = np.zeros(max(0, len(content) - _GRAM + 1), np.uint32)
    for place in range(_GRAM):
        grams = grams * _FACTOR + content[place : len(grams) + place].astype(np.uint32)
    return _blocks(grams, _GRAM_BLOCK)


def _blocks(values: np.ndarray, size: int) -> np.ndarray:
    """Values in blocks of so many, (n, size). What is left at the end counts only where there is no whole block."""
    count, width = max(1, len(values) // size), min(len(values), size)
    return values[: count * width].reshape(count, width)


def _distinct(blocks: np.ndarray) -> np.ndarray:
    """The number of different values in each row."""
    if not blocks.size:
        return np.zeros(len(blocks))
    ordered = np.sort(blocks, axis=1)
    return 1.0 + (ordered[:, 1:] != ordered[:, :-1]).sum(1)
