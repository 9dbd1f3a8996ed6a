"""Drift: how far a distribution has moved, as the population stability index with an interval.

For shares p of the rows that are compared and q of the rows that they are compared with, over the same k bins:

    PSI = sum over bins of (p - q) * ln(p / q)

It is the sum of the two Kullback-Leibler divergences between p and q (Jeffreys 1946), and was made popular by credit
scoring (Siddiqi 2006, Credit Risk Scorecards), together with the limits 0.1 and 0.25. Two samples of one distribution
have a PSI above 0 by chance: about (k - 1) * (1/n + 1/m) for n and m rows (Yurdakul and Naranjo 2020, Statistical
properties of the population stability index). A value without an interval says little about small runs, so here each
has one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SOME, STRONG = 0.1, 0.25
#: With fewer rows on either side there is no verdict.
FEW_ROWS = 30
_BINS = 10
_DRAWS = 1000
_LEVEL = 0.95


@dataclass(frozen=True, kw_only=True)
class Drift:
    """The population stability index of a measure, and its interval."""

    value: float
    low: float
    high: float
    """Ends of the 95 % interval; see `drift`."""
    rows: int
    reference_rows: int

    @property
    def verdict(self) -> str:
        """What the interval allows to say, by the usual limits of 0.1 and 0.25."""
        if min(self.rows, self.reference_rows) < FEW_ROWS:
            return "too few rows to say"
        if self.low >= STRONG:
            return "strong drift"
        if self.low >= SOME:
            return "drift"
        return "no drift" if self.high < SOME else "not clear"


def psi(counts: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """The population stability index of counts (..., k) against others (..., k) of the same bins; shape (...).

    Half a row is added to each bin, so that an empty bin gives a finite value. It is 0 for equal shares, never below
    0, and the same if the two are exchanged.
    """
    p, q = (_shares(np.asarray(found, np.float64)) for found in (counts, reference))
    return ((p - q) * np.log(p / q)).sum(-1)


def drift(counts: np.ndarray, reference: np.ndarray, *, merge: bool = True, seed: int = 0) -> Drift:
    """The PSI of counts (k,) against ``reference`` (k,), with a 95 % interval by the bootstrap.

    ``merge``: join neighbouring bins first, to at most ten that each hold about a tenth of the reference. For bins
    without an order, such as classes, it must be False.

    Both sides are drawn again with replacement, 1000 times. A redrawn pair differs by chance once more, so its PSI is
    too large on average. The basic bootstrap takes this off: the ends are twice the value minus the upper and lower
    quantiles of the redrawn ones (Davison and Hinkley 1997, Bootstrap Methods and their Application, 5.2), and at
    least 0.
    """
    counts, reference = np.asarray(counts, np.int64), np.asarray(reference, np.int64)
    assert counts.shape == reference.shape, (counts.shape, reference.shape)
    if merge:
        bins = equal_bins(reference)
        counts, reference = (np.bincount(bins, found).astype(np.int64) for found in (counts, reference))
    value = float(psi(counts, reference))
    random_numbers = np.random.default_rng(seed)
    drawn = psi(*(_redrawn(found, random_numbers) for found in (counts, reference)))
    lower, upper = np.quantile(drawn, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    return Drift(
        value=value,
        low=max(0.0, 2 * value - float(upper)),
        high=max(0.0, 2 * value - float(lower)),
        rows=int(counts.sum()),
        reference_rows=int(reference.sum()),
    )


def equal_bins(reference: np.ndarray, most: int = _BINS) -> np.ndarray:
    """For each of k neighbouring bins the number of the larger bin that it goes into; these are 0, 1 and so on."""
    total = reference.sum()
    middle = (np.cumsum(reference) - reference / 2) / max(1, total)
    _, merged = np.unique(np.minimum(most - 1, (middle * most).astype(np.int64)), return_inverse=True)
    return merged


def _shares(counts: np.ndarray) -> np.ndarray:
    smoothed = counts + 0.5
    return smoothed / smoothed.sum(-1, keepdims=True)


def _redrawn(counts: np.ndarray, random_numbers: np.random.Generator) -> np.ndarray:
    total = int(counts.sum())
    return (
        random_numbers.multinomial(total, counts / max(1, total), size=_DRAWS) if total else np.zeros((1, len(counts)))
    )
