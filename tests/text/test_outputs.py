"""Paragraphs from scores, and their pictures."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.text.decoding import Limits, best_begins
from pipeline.text.outputs import best_threshold, certainty, paragraphs_from_begins, render_html


def f1(truth: tuple[int, ...], chosen: tuple[int, ...]) -> float:
    hits = sum(a and b for a, b in zip(truth, chosen, strict=True))
    return 2 * hits / (sum(truth) + sum(chosen)) if sum(truth) + sum(chosen) else 1.0


@given(st.lists(st.floats(0.001, 0.999), min_size=1, max_size=6))
def test_the_threshold_of_short_documents_is_the_best_by_enumeration(likely: list[float]) -> None:
    """Against the expected F1 of every choice, over every possible truth."""
    scores = np.array([1.0, *likely], np.float32)
    truths = list(itertools.product((0, 1), repeat=len(likely)))
    weights = [np.prod([p if t else 1 - p for p, t in zip(likely, truth, strict=True)]) for truth in truths]

    def expected(chosen: tuple[int, ...]) -> float:
        return float(sum(weight * f1(truth, chosen) for weight, truth in zip(weights, truths, strict=True)))

    chosen = tuple(int(score >= np.float32(best_threshold(scores))) for score in scores[1:])
    assert expected(chosen) >= max(expected(choice) for choice in truths) - 1e-6


def test_the_threshold_of_documents_worked_by_hand() -> None:
    # 40 sentences: k = 10: 18 / (10 + 9 + 3) = 0.82; k = 11: 18.2 / 23 = 0.79; k = 9: 16.2 / 21 = 0.77.
    assert best_threshold(np.array([1, *[0.9] * 10, *[0.1] * 30], np.float32)) == pytest.approx(0.9)
    # Nothing is right with 0.95, one boundary with 0.05.
    assert best_threshold(np.array([1, 0.05], np.float32)) > 0.05
    assert best_threshold(np.array([1], np.float32)) == 1.0


def by_threshold(
    starts: np.ndarray, scores: np.ndarray, num_chars: int, threshold: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    begins = best_begins(starts, scores, num_chars, threshold, Limits())
    return paragraphs_from_begins(starts, scores, num_chars, begins)


@given(
    st.lists(st.tuples(st.integers(1, 50), st.floats(0, 1, width=32)), min_size=1, max_size=30), st.floats(0.01, 1.0)
)
def test_paragraphs_tile(sentences: list[tuple[int, float]], threshold: float) -> None:
    lengths, scores = zip(*sentences, strict=True)
    starts = np.cumsum([0, *lengths])[:-1]
    start, end, score = by_threshold(starts, np.array(scores, np.float32), sum(lengths), threshold)
    assert start[0] == 0
    assert end[-1] == sum(lengths)
    assert (start[1:] == end[:-1]).all()
    assert score[0] == 1
    assert (score >= np.float32(threshold)).all()
    assert set(start) <= set(starts)


def test_by_hand() -> None:
    starts, scores = np.array([0, 10, 25, 30]), np.array([0.1, 0.5, 0.49, 0.9], np.float32)
    start, end, score = by_threshold(starts, scores, 42, 0.5)
    assert start.tolist() == [0, 10, 30]
    assert end.tolist() == [10, 30, 42]
    assert score.tolist() == pytest.approx([1.0, 0.5, 0.9])


def test_certainty() -> None:
    assert certainty(np.array([0.3], np.float32)) is None
    confidence, uncertainty = certainty(np.array([0.3, 0.5, 1.0], np.float32)) or (0.0, 0.0)
    assert confidence == pytest.approx(0.75)
    assert uncertainty == pytest.approx(math.log(2) / 2)


def test_renderings() -> None:
    text, paragraphs = "One <b>. Two. Three. ", [(0, 9, 1.0), (9, 21, 0.75)]
    html = render_html(text, paragraphs, truth=[0, 14])
    assert html == (
        "<p><small>1.00</small> One &lt;b&gt;.</p>\n"
        '<p class="extra"><small>0.75</small> Two. <mark class="missed">¶</mark> Three.</p>'
    )
    assert "mark" not in render_html(text, paragraphs)
