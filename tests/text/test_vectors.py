"""Word vectors: the factors are those of the textbook, and words that are used alike are alike."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.text.vectors import WordVectors, lasting_directions, word_vectors

BUCKETS = 64


def corpus(words: int, length: int = 400, windows: int = 3, seed: int = 0) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [random.integers(1, words + 1, length, dtype=np.int32) for _ in range(windows)]


def textbook(windows: list[np.ndarray], words: int, distances: dict[int, float]) -> np.ndarray:
    """Positive pointwise mutual information, dense: (words, words)."""
    near = np.zeros((words, words))
    for window in windows:
        for distance, weight in distances.items():
            for left, right in zip(window[:-distance] - 1, window[distance:] - 1, strict=True):
                near[left, right] += weight
                near[right, left] += weight
    frequency = near.sum(1)
    smoothed = frequency**0.75 / (frequency**0.75).sum()
    with np.errstate(divide="ignore"):
        return np.maximum(np.log(near / frequency[:, None] / smoothed), 0)


def test_they_are_the_factors_of_mutual_information() -> None:
    words, size = 12, 8
    windows = corpus(words)
    found = word_vectors(windows, BUCKETS, size)
    left, scales, _ = np.linalg.svd(textbook(windows, words, {1: 1, 2: 1 / 2, 3: 1 / 3, 4: 1 / 4}))
    expected = left[:, : size // 2] * np.sqrt(scales[: size // 2])
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    counts = np.bincount(np.concatenate(windows))[1:]
    expected = (expected - counts @ expected / counts.sum()) * np.sqrt(size // 2)
    mine = found.vectors[1 : words + 1, : size // 2]
    # Factors are unique but for their signs.
    np.testing.assert_allclose(mine @ mine.T, expected @ expected.T, atol=1e-3)
    share = counts / counts.sum()
    np.testing.assert_allclose(found.weights[1 : words + 1], 1e-3 / (1e-3 + share), rtol=1e-5)
    assert not found.vectors[0].any()
    assert not found.vectors[words + 1 :].any()


def test_words_of_one_use_and_of_one_topic_are_alike() -> None:
    random = np.random.default_rng(0)
    # Of each topic (20 nouns, 20 verbs) sentences of noun, verb, noun, stop; a window has one topic.
    windows = []
    for _ in range(600):
        first = 1 + 40 * random.integers(3)
        nouns, verbs = random.integers(first, first + 20, (12, 2)), random.integers(first + 20, first + 40, 12)
        windows.append(np.stack([nouns[:, 0], verbs, nouns[:, 1], np.full(12, 121)], axis=1).ravel().astype(np.int32))
    vectors = word_vectors(windows, 128, 32).vectors
    kinds = np.array([[(word - 1) // 40, (word - 1) % 40 // 20] for word in range(1, 121)])
    for half in (vectors[1:121, :16], vectors[1:121, 16:]):
        unit = half / np.linalg.norm(half, axis=1, keepdims=True)
        alike = unit @ unit.T
        same_topic = kinds[:, None, 0] == kinds[None, :, 0]
        same_use = kinds[:, None, 1] == kinds[None, :, 1]
        assert alike[same_topic & same_use].mean() > alike[same_topic & ~same_use].mean()
        assert alike[same_topic].mean() > alike[~same_topic].mean() + 0.3


def test_the_same_windows_give_the_same_vectors_however_they_are_chunked(monkeypatch: pytest.MonkeyPatch) -> None:
    windows = corpus(30)
    whole = word_vectors(windows, BUCKETS, 8)
    assert np.array_equal(whole.vectors, word_vectors(windows, BUCKETS, 8).vectors)
    monkeypatch.setattr("pipeline.text.vectors._CHUNK_TOKENS", 500)
    np.testing.assert_allclose(word_vectors(windows, BUCKETS, 8).vectors, whole.vectors, atol=1e-3)


def test_rare_words_and_short_texts() -> None:
    window = np.array([5] * 4 + [7] * 3 + [0] * 9, np.int32)
    found = word_vectors([window], BUCKETS, 6)
    assert found.weights.nonzero()[0].tolist() == [5]
    assert not found.vectors.any()  # one word alone has no neighbours to be told by
    nothing_in_common = [np.array([a] * 4 + [0] * 25 + [b] * 4, np.int32) for a, b in ((1, 1), (2, 2))]
    assert np.isfinite(word_vectors(nothing_in_common, BUCKETS, 6).vectors).all()
    for windows in ([], [np.zeros(0, np.int32)], [np.array([3], np.int32)]):
        nothing = word_vectors(windows, BUCKETS, 6)
        assert nothing.vectors.shape == (BUCKETS, 6)
        assert not nothing.vectors.any()
        assert not nothing.weights.any()
    # Fewer words than columns: the last ones are zero.
    few = word_vectors(corpus(3), BUCKETS, 20).vectors
    assert np.isfinite(few).all()
    assert few[1:4, :2].any()
    assert not few[:, 2:10].any()


def test_only_the_most_frequent_words_have_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.text.vectors._MAX_WORDS", 2)
    window = np.array([1] * 6 + [2] * 5 + [3] * 4, np.int32)
    assert word_vectors([window], BUCKETS, 4).weights.nonzero()[0].tolist() == [1, 2]


def test_lasting_directions_are_those_of_topics() -> None:
    """Words are vectors of two kinds of values: of a topic, which lasts for some sentences, and of nothing."""
    random = np.random.default_rng(0)
    topics, fillers = 6, 50
    vectors = np.zeros((1 + topics + fillers, 8), np.float32)
    vectors[1 : 1 + topics, :3] = random.normal(size=(topics, 3))
    vectors[1 + topics :, 3:7] = 2 * random.normal(size=(fillers, 4))
    words = WordVectors(vectors, np.append(0, np.ones(topics + fillers)).astype(np.float32))
    windows = []
    for _ in range(40):
        topic = np.repeat(random.integers(1, 1 + topics, 10), 6)  # of each of 60 sentences
        filler = random.integers(1 + topics, 1 + topics + fillers, (60, 3))
        content = np.column_stack([topic, filler]).ravel().astype(np.int32)
        windows.append((content, np.full(60, 4, np.int32)))
    lasting = lasting_directions(windows, words)
    assert lasting.shape == (8, 8)
    assert np.isfinite(lasting).all()
    strength = np.linalg.norm(lasting, axis=1)
    # By how large the values are, too: whatever is large is whitened.
    assert strength[:3].min() * 0.5 > 2 * strength[3:7].max()
    assert not lasting_directions([], words).any()
    one_sentence = [(np.array([3, 8], np.int32), np.array([2], np.int32))]
    assert not lasting_directions(one_sentence, words).any()
    assert np.isfinite(
        lasting_directions([(np.array([3], np.int32), np.array([0, 1, 0, 0, 0], np.int32))], words)
    ).all()
