"""Boundary metrics, against segeval and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import segeval
from hypothesis import assume, given
from hypothesis import strategies as st

from pipeline.text.metrics import (
    Counts,
    boundaries_of,
    boundary_similarity,
    count_boundaries,
    mean,
    pk,
    score,
    summarize,
    window_diff,
    window_size,
)

PAIRS = st.integers(4, 60).flatmap(
    lambda n: st.tuples(*(st.lists(st.booleans(), min_size=n - 1, max_size=n - 1).map(np.array) for _ in range(2)))
)


def masses(flags: np.ndarray) -> tuple[int, ...]:
    edges = [0, *(np.flatnonzero(flags) + 1).tolist(), len(flags) + 1]
    return tuple(int(size) for size in np.diff(edges))


@given(PAIRS)
def test_equal_to_segeval(pair: tuple[np.ndarray, np.ndarray]) -> None:
    reference, found = pair
    k = window_size(reference)
    assert k == segeval.compute_window_size(masses(reference))
    if k >= len(reference) + 1:
        assert pk(reference, found) == window_diff(reference, found) == 0
        return
    arguments = {"window_size": k, "boundary_format": segeval.BoundaryFormat.mass}
    expected_pk = segeval.pk(masses(found), masses(reference), **arguments)
    expected_wd = segeval.window_diff(masses(found), masses(reference), **arguments)
    assert pk(reference, found) == pytest.approx(float(expected_pk), abs=1e-12)
    assert window_diff(reference, found) == pytest.approx(float(expected_wd), abs=1e-12)


@given(PAIRS, st.integers(2, 4))
def test_boundary_similarity_is_that_of_segeval(pair: tuple[np.ndarray, np.ndarray], near: int) -> None:
    assume(any(flags.any() for flags in pair))  # segeval knows no answer without boundaries
    arguments = {"boundary_format": segeval.BoundaryFormat.mass, "n_t": near}
    expected = segeval.boundary_similarity(*(masses(flags) for flags in pair), **arguments)
    assert boundary_similarity(*pair, near) == pytest.approx(float(expected), abs=1e-12)


def test_boundary_similarity_by_hand() -> None:
    """Boundaries at 1 and 4 against 1, 3 and 7: one match, one near miss that loses 1/2, and one wrong: 1 - 1.5 / 3."""
    reference, found = np.isin(np.arange(9), [1, 4]), np.isin(np.arange(9), [1, 3, 7])
    assert boundary_similarity(reference, found) == 0.5
    assert boundary_similarity(found, reference) == 0.5
    assert boundary_similarity(reference, reference) == 1
    nothing = np.zeros(9, bool)
    assert boundary_similarity(reference, nothing) == 0
    assert boundary_similarity(nothing, nothing) == 1
    # A boundary is in one near miss at most: 4 against 3 and 5 is a near miss and a wrong one.
    assert boundary_similarity(np.isin(np.arange(9), [4]), np.isin(np.arange(9), [3, 5])) == 0.25


def test_by_hand() -> None:
    """Six units; segments of 2, 2, 2 against 2, 4; k is given as 2: places 0..3 see boundaries 1,1,1,1 and 1,1,0,0."""
    reference, found = np.array([0, 1, 0, 1, 0], bool), np.array([0, 1, 0, 0, 0], bool)
    assert pk(reference, found, k=2) == 0.5
    assert window_diff(reference, found, k=2) == 0.5
    assert pk(reference, reference) == window_diff(reference, reference) == 0


def test_boundaries_from_offsets() -> None:
    assert boundaries_of([0, 10, 20, 30], [0, 20]).tolist() == [False, True, False]
    assert boundaries_of([0, 10, 20, 30], [0, 11]).tolist() == [False, True, False]
    assert boundaries_of([0, 10, 20, 30], [0, 31]).tolist() == [False, False, False]
    assert boundaries_of([0], [0]).tolist() == []


def test_counts() -> None:
    counts = count_boundaries([0, 10, 20, 30], [0, 10, 15])
    assert counts == Counts(hits=1, extra=1, missed=2)
    assert (counts.precision, counts.recall, counts.f1) == (1 / 2, 1 / 3, 2 / 5)
    assert counts + counts == Counts(hits=2, extra=2, missed=4)
    nothing = count_boundaries([0], [0])
    assert nothing.precision == nothing.recall == nothing.f1 == 1


def test_a_document_and_many_by_hand() -> None:
    """Four sentences; the first document's paragraphs are found but one, the second's one that is none, too."""
    sentences = [0, 10, 20, 30]
    first, second = score([0, 10, 20], [0, 10], sentences), score([0, 20], [0, 20, 30], sentences)
    assert first.counts == Counts(hits=1, missed=1)
    assert first.trivial == Counts(hits=2, extra=1)
    assert second.counts == Counts(hits=1, extra=1)
    # k is 2: of the places 0 and 1, the first document's truth has 2 and 1 boundaries behind, and 1 and 0 are found.
    assert (first.pk, first.window_diff) == (0.5, 1)
    found = summarize([first, second])
    assert found.documents == 2
    assert found.counts == Counts(hits=2, extra=1, missed=1)
    assert found.trivial == Counts(hits=3, extra=3)
    assert (found.macro_f1, found.macro_f1_trivial) == pytest.approx((2 / 3, (4 / 5 + 1 / 2) / 2))
    assert found.pk == pytest.approx((0.5 + second.pk) / 2)
    assert math.isnan(summarize([]).pk)


def test_mean_of_none_is_no_number() -> None:
    assert mean([1.0, 2.0]) == 1.5
    assert math.isnan(mean([]))
