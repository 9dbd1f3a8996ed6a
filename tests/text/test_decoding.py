"""The best set of paragraphs under limits, beside all sets there are."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.text.decoding import Limits, best_begins, boundary_gains, shifted_scores
from pipeline.text.thresholds import best_threshold

SENTENCES = st.lists(st.tuples(st.integers(1, 60), st.floats(0, 1, width=32)), min_size=1, max_size=9)
LIMITS = st.tuples(st.integers(0, 80), st.none() | st.integers(1, 120)).filter(lambda x: x[1] is None or x[0] <= x[1])
DIALS = st.lists(st.floats(0, 1) | st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), min_size=2, max_size=2)


def arrays(sentences: Sequence[tuple[int, float]]) -> tuple[np.ndarray, np.ndarray, int]:
    lengths = [length for length, _ in sentences]
    starts = np.cumsum([0, *lengths])[:-1]
    return starts, np.array([score for _, score in sentences], np.float32), sum(lengths)


def lengths_of(starts: np.ndarray, begins: np.ndarray, num_chars: int) -> np.ndarray:
    return np.diff(np.append(starts[begins], num_chars))


@given(SENTENCES, LIMITS, st.floats(0.01, 1.0))
@settings(max_examples=150, deadline=None)
def test_no_other_set_is_better(
    sentences: list[tuple[int, float]], given_limits: tuple[int, int | None], threshold: float
) -> None:
    least, most = given_limits
    starts, scores, num_chars = arrays(sentences)
    gains = boundary_gains(scores, threshold)

    def value(begins: np.ndarray) -> tuple[int, int, int] | None:
        edges = [*np.flatnonzero(begins).tolist(), len(starts)]
        short = 0
        for (a, b), length in zip(
            itertools.pairwise(edges), lengths_of(starts, begins, num_chars).tolist(), strict=True
        ):
            if most is not None and length > most and b > a + 1:
                return None
            short += length < least
        return -short, int(gains[begins][1:].sum()), int(begins.sum())

    all_sets = [np.array([True, *inner], bool) for inner in itertools.product([False, True], repeat=len(starts) - 1)]
    best = max(found for begins in all_sets if (found := value(begins)) is not None)
    limits = Limits(min_chars=least, max_chars=most)
    assert value(best_begins(starts, scores, num_chars, threshold, limits)) == best


@given(SENTENCES, LIMITS, st.floats(0.01, 1.0), DIALS)
@settings(max_examples=150, deadline=None)
def test_coarser_never_gives_more_paragraphs(
    sentences: list[tuple[int, float]], given_limits: tuple[int, int | None], threshold: float, dials: list[float]
) -> None:
    starts, scores, num_chars = arrays(sentences)
    counts = [
        int(
            best_begins(
                starts,
                scores,
                num_chars,
                threshold,
                Limits(min_chars=given_limits[0], max_chars=given_limits[1], granularity=dial),
            ).sum()
        )
        for dial in sorted(dials)
    ]
    assert counts[0] >= counts[1]


@given(SENTENCES, st.none() | st.floats(0.01, 1.0))
@settings(deadline=None)
def test_without_limits_the_threshold_decides(sentences: list[tuple[int, float]], threshold: float | None) -> None:
    starts, scores, num_chars = arrays(sentences)
    threshold = best_threshold(scores) if threshold is None else threshold
    expected = scores >= np.float32(threshold)
    expected[0] = True
    assert (best_begins(starts, scores, num_chars, threshold, Limits()) == expected).all()
    # Limits that bind nothing take the other way to the same set.
    loose = Limits(max_chars=num_chars)
    assert (best_begins(starts, scores, num_chars, threshold, loose) == expected).all()


def test_the_ends_of_the_dial() -> None:
    starts, scores = np.arange(5) * 10, np.array([1, 0.001, 0.999, 0.5, 0.2], np.float32)
    fine, coarse = (Limits(granularity=value) for value in (0.0, 1.0))
    assert best_begins(starts, scores, 50, 0.5, fine).all()
    assert best_begins(starts, scores, 50, 0.5, coarse).sum() == 1
    cut = best_begins(starts, scores, 50, 0.5, Limits(granularity=1.0, max_chars=30))
    assert np.flatnonzero(cut).tolist() == [0, 2], "one cut is needed, and it is where the score is best"


def test_a_sentence_that_is_too_long_stays_whole() -> None:
    starts, scores = np.array([0, 10, 100, 105]), np.array([1, 0.1, 0.1, 0.1], np.float32)
    found = best_begins(starts, scores, 120, 0.5, Limits(max_chars=50))
    assert starts[found].tolist() == [0, 10, 100]


def test_short_paragraphs_join_the_neighbour_that_costs_least() -> None:
    starts, scores = np.array([0, 50, 60, 120]), np.array([1, 0.9, 0.6, 0.9], np.float32)
    found = best_begins(starts, scores, 170, 0.5, Limits(min_chars=30))
    assert starts[found].tolist() == [0, 50, 120]


@pytest.mark.parametrize("shift", [-3.0, 0.0, 3.0])
def test_shifts_are_added_to_the_log_odds(shift: float) -> None:
    scores = np.array([0.2, 0.5, 0.9], np.float32)
    moved = shifted_scores(scores, np.full(3, shift, np.float32))
    assert np.log(moved / (1 - moved)) == pytest.approx(np.log(scores / (1 - scores)) + shift, abs=1e-5)
    assert shift or (moved == scores).all()


def test_long_documents_take_seconds() -> None:
    draw = np.random.default_rng(0)
    starts = np.append(0, np.cumsum(draw.integers(20, 200, 50_000)))
    scores = draw.random(len(starts), np.float32)
    limits = Limits(min_chars=300, max_chars=1500)
    found = best_begins(starts, scores, int(starts[-1]) + 100, 0.5, limits)
    lengths = lengths_of(starts, found, int(starts[-1]) + 100)
    assert lengths.min() >= 300
    assert lengths.max() <= 1500
