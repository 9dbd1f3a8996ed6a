"""Word vectors that are learned from the training documents: words with similar neighbours get similar vectors.

They are a factorisation of the positive pointwise mutual information of words near each other (Levy and Goldberg 2014).
A narrow window finds words of the same use ("said", "replied"), a wide one words of the same topic ("ship", "ice");
each gives one half of the vector. Frequent words get a small weight in a mean (smooth inverse frequency, Arora et al.
2017).

Canonical correlations between neighbouring sentences (Hotelling 1936) find the part of their vectors that persists from
sentence to sentence: the topic. Sentences are compared by this part, since the rest would only add noise.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sparse
from sklearn.utils.extmath import randomized_svd

#: Enough tokens to learn from, in about a minute; of a larger corpus only so many are used.
MAX_TOKENS = 16_000_000

_MIN_COUNT = 4
_MAX_WORDS = 32_768
_NEAR: dict[int, float] = {1: 1.0, 2: 1 / 2, 3: 1 / 3, 4: 1 / 4}  # distance in tokens: weight
_WIDE: dict[int, float] = dict.fromkeys((1, 2, 3, 5, 7, 9, 12, 15, 18, 21, 25), 1.0)
_CONTEXT_POWER = 0.75  # exponent of the frequencies of context words (Levy, Goldberg and Dagan 2015)
_FREQUENCY_SCALE = 1e-3
_CHUNK_TOKENS = 1 << 20
_ITERATIONS = 3
_RIDGE = 1e-4  # added to covariances of unit vectors, in which the average variance is 1 / size


@dataclass(frozen=True)
class WordVectors:
    vectors: np.ndarray
    """Vector of each id, float32 (buckets, size); each half has about unit variance. 0 for ids that are too rare."""
    weights: np.ndarray
    """Weight of each id in the mean of a sentence, float32 (buckets,) in [0, 1]. 0 for ids that are too rare."""


def word_vectors(windows: Sequence[np.ndarray], buckets: int, size: int) -> WordVectors:
    """Learn vectors from ``windows`` of running text: ids in [0, buckets), 0 for padding, int32 (t,) each.

    The result is deterministic. If there are fewer words than ``size``, the last columns are 0.
    """
    counts = np.zeros(buckets, np.int64)
    for window in windows:
        counts += np.bincount(window, minlength=buckets)
    counts[0] = 0
    order = np.argsort(-counts, kind="stable")[:_MAX_WORDS]
    words = np.sort(order[counts[order] >= _MIN_COUNT])
    index = np.full(buckets, -1, np.int64)
    index[words] = np.arange(len(words))
    halves = (size + 1) // 2, size // 2
    vectors = np.zeros((buckets, size), np.float32)
    parts = [
        _factors(_cooccurrences(windows, index, len(words), distances), half, counts[words])
        for distances, half in zip((_NEAR, _WIDE), halves, strict=True)
    ]
    vectors[words] = np.concatenate(parts, axis=1)
    share = counts / max(1, counts.sum())
    weights = np.zeros(buckets, np.float32)
    weights[words] = _FREQUENCY_SCALE / (_FREQUENCY_SCALE + share[words])
    return WordVectors(vectors, weights)


def lasting_directions(windows: Sequence[tuple[np.ndarray, np.ndarray]], words: WordVectors) -> np.ndarray:
    """A projection, float32 (size, size), of sums of word vectors to the part that persists between sentences.

    ``windows`` are pairs: ids (t,), and the number of ids of each sentence (s,). The axes of the projection are the
    canonical directions between two sentences and the next two, multiplied by the square root of the correlation;
    directions with a negative correlation get 0.
    """
    size = words.vectors.shape[1]
    own, shared, number = np.zeros((size, size)), np.zeros((size, size)), 0
    for content, counts in windows:
        ends = np.cumsum(counts)
        totals = np.zeros((len(content) + 1, size))
        np.cumsum(words.vectors[content] * words.weights[content][:, None], axis=0, out=totals[1:])
        sums = totals[ends] - totals[ends - counts]
        centred = sums - sums.mean(0)
        pairs = centred[:-1] + centred[1:]
        pairs /= np.linalg.norm(pairs, axis=1, keepdims=True) + 1e-9
        before, after = pairs[:-2], pairs[2:]
        own += before.T @ before + after.T @ after
        shared += before.T @ after + after.T @ before
        number += 2 * len(before)
    number = max(1, number)
    scales, axes = np.linalg.eigh(own / number + _RIDGE * np.eye(size))
    whitening = axes / np.sqrt(scales) @ axes.T
    correlations, directions = np.linalg.eigh(whitening @ (shared / number) @ whitening)
    return (whitening @ directions * np.sqrt(np.maximum(correlations, 0))).astype(np.float32)


def _cooccurrences(
    windows: Sequence[np.ndarray], index: np.ndarray, size: int, distances: dict[int, float]
) -> sparse.csr_matrix:
    """Weighted counts of pairs of words at the given distances, in either order: symmetric, (size, size)."""
    total = sparse.csr_matrix((size, size), dtype=np.float32)
    for chunk in _chunks(windows):
        rows, columns, values = [], [], []
        for distance, weight in distances.items():
            for window in chunk:
                words = index[window]
                left, right = words[:-distance], words[distance:]
                known = (left >= 0) & (right >= 0)
                rows.append(left[known])
                columns.append(right[known])
                values.append(np.full(int(known.sum()), weight, np.float32))
        pairs = (np.concatenate(rows), np.concatenate(columns))
        total += sparse.coo_matrix((np.concatenate(values), pairs), (size, size)).tocsr()
    return (total + total.T).tocsr()


def _chunks(windows: Sequence[np.ndarray]) -> list[list[np.ndarray]]:
    """Group windows to about `_CHUNK_TOKENS` tokens each, so that memory does not grow with the text."""
    edges = np.cumsum([len(window) for window in windows]) // _CHUNK_TOKENS
    grouped = itertools.groupby(zip(edges, windows, strict=True), key=lambda pair: pair[0])
    return [[window for _, window in group] for _, group in grouped]


def _factors(cooccurrences: sparse.csr_matrix, size: int, counts: np.ndarray) -> np.ndarray:
    """Word vectors, float32 (n, size): scaled to unit length, minus their mean over the text, times sqrt(size)."""
    number = len(counts)
    vectors = np.zeros((number, size), np.float32)
    rank = min(size, number - 1)
    frequency = np.asarray(cooccurrences.sum(1), np.float64)[:, 0]
    context = frequency**_CONTEXT_POWER
    pairs = cooccurrences.tocoo()
    expected = frequency[pairs.row] * context[pairs.col] / context.sum()
    information = np.log(pairs.data / expected)
    kept = information > 0
    if rank < 1 or not kept.any():
        return vectors
    positive = sparse.csr_matrix((information[kept], (pairs.row[kept], pairs.col[kept])), (number, number))
    left, scales, _ = randomized_svd(positive, rank, n_iter=_ITERATIONS, random_state=0)  # pyright: ignore[reportArgumentType]
    found = left * np.sqrt(scales)
    found /= np.linalg.norm(found, axis=1, keepdims=True) + 1e-9
    found -= counts @ found / counts.sum()
    vectors[:, :rank] = found * np.sqrt(size)
    return vectors
