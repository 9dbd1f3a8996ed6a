"""Paragraphs from scores, and their pictures."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.text.decoding import Limits, best_begins
from pipeline.text.outputs import certainty, paragraphs_from_begins, render_html


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
