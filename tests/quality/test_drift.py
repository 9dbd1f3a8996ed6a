"""The population stability index: its value, its properties, and how often its interval is right."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.quality.drift import drift, equal_bins, psi

COUNTS = st.lists(st.integers(0, 10_000), min_size=5, max_size=5).map(np.array)


def test_the_value_by_hand() -> None:
    """Shares 0.5, 0.5 against 0.25, 0.75, with half a row in each bin: too few to matter."""
    found = psi(np.array([500_000, 500_000]), np.array([250_000, 750_000]))
    assert found == pytest.approx(0.25 * math.log(2) - 0.25 * math.log(2 / 3), rel=1e-4)


@given(COUNTS, COUNTS)
def test_it_is_symmetric_never_negative_and_0_for_equal_counts(one: np.ndarray, other: np.ndarray) -> None:
    assert psi(one, other) >= 0
    assert psi(one, other) == pytest.approx(psi(other, one))
    assert psi(one, one) == 0


@given(COUNTS)
def test_bins_are_joined_in_order(reference: np.ndarray) -> None:
    bins = equal_bins(reference, 3)
    assert (np.diff(bins) >= 0).all()
    assert set(bins.tolist()) == set(range(bins[-1] + 1))
    assert bins[-1] < 3


def test_an_even_reference_is_cut_into_equal_parts() -> None:
    assert np.bincount(equal_bins(np.full(100, 7))).tolist() == [10] * 10


def test_no_drift_is_found_between_samples_of_one_distribution_and_a_shift_is() -> None:
    random_numbers = np.random.default_rng(1)

    def sample(rows: int, shift: float = 0.0) -> np.ndarray:
        return np.histogram(random_numbers.normal(0.5 + shift, 0.1, rows), 100, (0, 1))[0]

    same = [drift(sample(2000), sample(20_000)) for _ in range(40)]
    assert sum(found.low <= 0.002 for found in same) >= 36
    assert {found.verdict for found in same} == {"no drift"}
    assert drift(sample(2000, 0.1), sample(20_000)).verdict == "strong drift"
    # A shift of a fifth of the standard deviation has a PSI of about 0.04 in all.
    small = drift(sample(20_000, 0.02), sample(20_000))
    assert small.low < 0.04 < small.high + 0.01


def test_few_rows_and_none_give_no_verdict() -> None:
    few = drift(np.array([3, 4, 5]), np.array([1000, 1000, 1000]), merge=False)
    assert few.verdict == "too few rows to say"
    assert drift(np.zeros(3, int), np.zeros(3, int)).verdict == "too few rows to say"
