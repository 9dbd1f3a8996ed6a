"""Thresholds: against the enumeration of every truth and every choice, and by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.text.thresholds import OFFSET_STD, SLOPE, best_threshold, document_threshold


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

    chosen = tuple(int(score >= np.float32(best_threshold(scores, 0, 1))) for score in scores[1:])
    assert expected(chosen) >= max(expected(choice) for choice in truths) - 1e-6


def test_the_threshold_of_documents_worked_by_hand() -> None:
    # 40 sentences: k = 10: 18 / (10 + 9 + 3) = 0.82; k = 11: 18.2 / 23 = 0.79; k = 9: 16.2 / 21 = 0.77.
    assert best_threshold(np.array([1, *[0.9] * 10, *[0.1] * 30], np.float32), 0, 1) == pytest.approx(0.9)
    # Nothing is right with 0.95, one boundary with 0.05.
    assert best_threshold(np.array([1, 0.05], np.float32), 0, 1) > 0.05
    assert best_threshold(np.array([1], np.float32)) == 1.0


@given(st.lists(st.floats(0.01, 0.99), min_size=1, max_size=5), st.floats(0.1, 3), st.floats(0.3, 1))
def test_an_unknown_offset_is_averaged_over(likely: list[float], deviation: float, slope: float) -> None:
    """Against a sum over many offsets, with the expected F1 of every number of boundaries by enumeration."""
    ordered = np.sort(np.array(likely, np.float32))[::-1].astype(np.float64)
    log_odds = slope * np.log(ordered / (1 - ordered))
    offsets = np.linspace(-5, 5, 201) * deviation
    density = np.exp(-((offsets / deviation) ** 2) / 2)
    chances = 1 / (1 + np.exp(-(log_odds + offsets[:, None])))

    def expected(k: int) -> float:
        chosen = tuple(int(place < k) for place in range(len(ordered)))
        total = np.zeros(len(offsets))
        for truth in itertools.product((0, 1), repeat=len(ordered)):
            total += np.prod(np.where(truth, chances, 1 - chances), axis=1) * f1(truth, chosen)
        return float(density @ total / density.sum())

    threshold = best_threshold(np.array([1.0, *likely], np.float32), deviation, slope)
    chosen = int((np.array(likely, np.float32) >= np.float32(threshold)).sum())
    assert expected(chosen) >= max(expected(k) for k in range(len(ordered) + 1)) - 0.01


def test_scores_that_tell_nothing_give_many_boundaries() -> None:
    """With scores that are all alike, every sentence begins a paragraph. With scores that tell much, few do."""
    alike = np.array([1, *np.linspace(0.2, 0.21, 60)], np.float32)
    assert (alike[1:] >= best_threshold(alike)).sum() == 60
    apart = np.array([1, *[0.98] * 10, *[0.01] * 50], np.float32)
    assert (apart[1:] >= best_threshold(apart)).sum() == 10


def test_the_less_novel_a_document_the_more_its_scores_are_taken_as_they_are() -> None:
    scores = np.array([1, *np.random.default_rng(0).beta(0.6, 1.5, 200)], np.float32)
    assert document_threshold(scores, 0.0) == best_threshold(scores, 0, 1)
    assert document_threshold(scores, None) == document_threshold(scores, 100.0) == best_threshold(scores)
    assert document_threshold(scores, 50.0) == best_threshold(scores, OFFSET_STD / 2, (1 + SLOPE) / 2)
    counts = [int((scores[1:] >= document_threshold(scores, novelty)).sum()) for novelty in (0.0, 50.0, 100.0)]
    assert counts == sorted(counts)
    assert counts[0] < counts[2]


@given(st.lists(st.floats(0, 1, width=32), min_size=30, max_size=40))
def test_the_threshold_is_a_score_or_above_all(likely: list[float]) -> None:
    scores = np.array([1.0, *likely], np.float32)
    threshold = best_threshold(scores)
    assert threshold in scores[1:] or threshold > scores[1:].max()
