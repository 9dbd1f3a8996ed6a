"""Which part of the latents of sentences lasts, and how likely it changes at a place.

Latents z of a sentence are taken as the sum of a topic, which neighbouring sentences share, and of what is the
sentence's own, both Gaussian (probabilistic linear discriminant analysis, Ioffe 2006). Nobody has to say which
sentences share a topic: the covariance of sentences two to four apart is that of the topic alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import linalg

from pipeline.config import check

_LAGS = (2, 3, 4)  # sentences; direct neighbours share more than a topic
_RIDGE = 10.0  # as many sentences with the variance 1 and nothing in common
_LEAST, _MOST = 0.02, 0.95  # of a direction's variance, that lasts
_DIGITS = 6


@dataclass(frozen=True, kw_only=True)
class Topics:
    """The lasting part of d latents: k directions, in each of which what is a sentence's own has the variance 1."""

    centre: tuple[float, ...]
    """Mean of all sentences, (d,)."""
    directions: tuple[tuple[float, ...], ...]
    """The directions, (k, d), by rows."""
    strengths: tuple[float, ...]
    """Variance of the topic in each direction, (k,)."""

    def __post_init__(self) -> None:
        size = len(self.centre)
        rule = f"be as many rows as strengths, each of {size} numbers"
        rows = self.directions
        check(self, "directions", len(rows) == len(self.strengths) and all(len(row) == size for row in rows), rule)
        check(self, "strengths", all(strength > 0 for strength in self.strengths), "be positive")

    def changes(self, latents: np.ndarray, block: int) -> np.ndarray:
        """For each place between two of s sentences, from their latents (s, d): how much likelier it is, in nats, that
        the ``block`` sentences before it and those behind it have two topics than one, (s - 1,). At the ends there may
        be fewer."""
        strength = np.array(self.strengths)
        x = (latents.astype(np.float64) - np.array(self.centre)) @ np.array(self.directions).reshape(
            -1, latents.shape[1]
        ).T
        sums = np.concatenate([np.zeros((1, len(strength))), np.cumsum(x, axis=0)])
        place = np.arange(1, len(x))
        start, end = np.maximum(place - block, 0), np.minimum(place + block, len(x))
        before, behind = (place - start)[:, None], (end - place)[:, None]
        left, right = (sums[place] - sums[start]) / before, (sums[end] - sums[place]) / behind
        a, b = strength + 1 / before, strength + 1 / behind  # variances of the means of both blocks
        determinant = a * b - strength**2
        together = np.log(determinant) + (b * left**2 + a * right**2 - 2 * strength * left * right) / determinant
        apart = np.log(a * b) + left**2 / a + right**2 / b
        return 0.5 * (together - apart).sum(1)


def fit_topics(runs: Sequence[np.ndarray], latents: int) -> Topics:
    """The lasting part of latents, from runs (s, d) of consecutive sentences. Without enough of them nothing lasts."""
    every = np.concatenate([np.zeros((0, latents)), *runs]).astype(np.float64)
    centre = every.mean(0) if len(every) else np.zeros(latents)
    centred = [run.astype(np.float64) - centre for run in runs]
    shared, pairs = np.zeros((latents, latents)), 0
    for run in centred:
        for lag in _LAGS:
            shared += run[lag:].T @ run[:-lag]
            pairs += max(0, len(run) - lag)
    shared = (shared + shared.T) / 2 / (pairs + _RIDGE)
    spread = every - centre
    total = (spread.T @ spread + _RIDGE * np.eye(latents)) / (len(every) + _RIDGE)
    lasting, directions = linalg.eigh(shared, total)  # of the variance 1 of each direction, the part that lasts
    kept = np.flatnonzero(lasting > _LEAST)[::-1]
    lasting = np.minimum(lasting[kept], _MOST)
    return Topics(
        centre=_rounded(centre),
        directions=tuple(map(_rounded, (directions[:, kept] / np.sqrt(1 - lasting)).T)),
        strengths=_rounded(lasting / (1 - lasting)),
    )


def _rounded(values: np.ndarray) -> tuple[float, ...]:
    return tuple(float(f"{value:.{_DIGITS}g}") for value in values)
