"""Intervals by the bootstrap (Efron 1979): a figure of sets drawn again, with replacement, from the set at hand.

A draw is how often each row of a set comes, (replicates, n), so that every figure that is a function of means is one
matrix product for all replicates. Drawing with replacement makes rows at distance zero, which would pass for duplicates
and copies: a figure of nearest neighbours is computed once, as one number for each row, and those numbers are drawn.
What the neighbours were looked for in (the other rows, the manifold of the other set) is held fixed.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

#: Replicates of every interval.
REPLICATES = 1000
#: Part of the replicates between the ends of an interval.
LEVEL = 0.95


class Estimate(NamedTuple):
    """A figure and the ends of its interval of `LEVEL`."""

    value: float
    low: float
    high: float


def draws(count: int, seed: int, replicates: int = REPLICATES) -> Float[np.ndarray, "r n"]:
    """How often each of ``count`` rows comes in each replicate, float32; rows of it sum to ``count``."""
    random, found = np.random.default_rng(seed), np.empty((replicates, count), np.float32)
    for row in found:
        row[:] = np.bincount(random.integers(0, count, count), minlength=count)
    return found


def means(times: Float[np.ndarray, "r n"], values: Float[np.ndarray, "n m"]) -> Float[np.ndarray, "r m"]:
    """Means of the columns of ``values`` in each replicate, float64."""
    found, rows = np.zeros((len(times), values.shape[1])), max(1, 2**24 // max(len(times), values.shape[1]))
    for start in range(0, len(values), rows):
        part = slice(start, start + rows)
        found += times[:, part].astype(np.float64) @ values[part].astype(np.float64)
    return found / len(values)


def percentiles(value: float, replicates: Float[np.ndarray, " r"]) -> Estimate:
    """The percentile interval."""
    low, high = np.quantile(replicates, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(float(value), float(low), float(high))


def centred(value: float, replicates: Float[np.ndarray, " r"]) -> Estimate:
    """The percentile interval of a figure that cannot be negative and is biased upwards, moved down by that bias.

    A distance between two sets' moments is positive even where their distributions are equal, and drawing a set again
    adds as much once more, so that all replicates may lie above the figure itself. The mean of the replicates less the
    figure is the bootstrap's estimate of that bias; the interval is for the figure as sets of this size give it.
    """
    found = percentiles(value, replicates - (float(np.mean(replicates)) - value))
    return Estimate(found.value, max(0.0, found.low), max(0.0, found.high))


def mean_estimate(values: Float[np.ndarray, " n"], times: Float[np.ndarray, "r n"]) -> Estimate:
    """The mean of one number for each row, with the interval that `draws` of the rows give."""
    return percentiles(float(np.mean(values)), means(times, values[:, None])[:, 0])
