"""How the latents of a sentence follow from those of the sentence before: a vector autoregression of order 1.

z' = offset + matrix z + noise, with Gaussian noise of full covariance (Luetkepohl 2005, chapter 2), is fitted to
consecutive sentences by ridge regression. It knows the drift of a text from one sentence to the next, and no more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.config import check

_RIDGE = 10.0  # as many pairs of sentences that say nothing
_LARGEST_GAIN = 0.98  # of the matrix, so that a long text does not run away
_DIGITS = 5


@dataclass(frozen=True, kw_only=True)
class Succession:
    """A vector autoregression of d latents, as plain numbers."""

    offset: tuple[float, ...]
    """The offset, (d,)."""
    matrix: tuple[tuple[float, ...], ...]
    """The matrix, (d, d), by rows."""
    noise: tuple[tuple[float, ...], ...]
    """A lower triangular factor of the covariance of the noise, (d, d), by rows."""

    def __post_init__(self) -> None:
        size = len(self.offset)
        for name in ("matrix", "noise"):
            rows = getattr(self, name)
            square = len(rows) == size and all(len(row) == size for row in rows)
            check(self, name, square, f"be {size} rows of {size} numbers")

    def following(self, latents: np.ndarray, drawn: np.ndarray, temperature: float = 1.0) -> np.ndarray:
        """The latents (d,) of the next sentence. ``drawn``: standard normal numbers (d,)."""
        moved = np.array(self.offset) + np.array(self.matrix) @ latents
        return moved + temperature * np.array(self.noise) @ drawn


def fit_succession(runs: Sequence[tuple[np.ndarray, np.ndarray]], latents: int) -> Succession:
    """Fit an autoregression to runs of consecutive sentences: mean and variance of their posteriors, (s, d) each.

    The noise has the covariance of what the means leave over, and the mean variance of the posteriors, so the latents
    that it makes are spread like those of sentences. Without two consecutive sentences it is the standard normal prior.
    """
    before = np.concatenate([np.zeros((0, latents)), *(mean[:-1] for mean, _ in runs)])
    after = np.concatenate([np.zeros((0, latents)), *(mean[1:] for mean, _ in runs)])
    spread = np.concatenate([np.zeros((0, latents)), *(variance[1:] for _, variance in runs)])
    centres = (before.mean(0), after.mean(0)) if len(before) else (np.zeros(latents), np.zeros(latents))
    x, y = before - centres[0], after - centres[1]
    matrix = np.linalg.solve(x.T @ x + _RIDGE * np.eye(latents), x.T @ y).T
    gain = np.linalg.norm(matrix, 2)
    matrix *= min(1.0, _LARGEST_GAIN / max(gain, 1e-12))
    rest = y - x @ matrix.T
    covariance = (rest.T @ rest + np.diag(spread.sum(0)) + _RIDGE * np.eye(latents)) / (len(before) + _RIDGE)
    return Succession(
        offset=_rounded(centres[1] - matrix @ centres[0]),
        matrix=tuple(map(_rounded, matrix)),
        noise=tuple(map(_rounded, np.linalg.cholesky(covariance))),
    )


def _rounded(values: np.ndarray) -> tuple[float, ...]:
    return tuple(float(f"{value:.{_DIGITS}g}") for value in values)
