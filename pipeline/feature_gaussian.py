"""A Gaussian of the features of training inputs, and how far other inputs are from it.

It is fitted by probabilistic principal components (Tipping and Bishop 1999). The distance is the squared Mahalanobis
distance to the mean (Lee et al. 2018).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.config import check

_COMPONENTS = 16
_FLOOR = 0.05  # added to variances, so that a direction in which training inputs hardly differ does not decide alone
_DIGITS = 6


@dataclass(frozen=True, kw_only=True)
class FeatureGaussian:
    """A Gaussian of features."""

    mean: tuple[float, ...]
    """Mean of each feature."""
    deviation: tuple[float, ...]
    """Standard deviation of each feature, by which it is divided."""
    components: tuple[tuple[float, ...], ...]
    """Principal components of the features that were so divided."""
    variances: tuple[float, ...]
    """Variance along each component."""
    rest: float
    """Mean variance in all other directions."""

    def __post_init__(self) -> None:
        check(self, "deviation", len(self.deviation) == len(self.mean), "have a value for each feature")
        check(self, "variances", len(self.variances) == len(self.components), "have a value for each component")

    def raw(self, features: np.ndarray) -> np.ndarray:
        """The squared distance of features (n, d) to the mean, (n,), in multiples of the variances."""
        scaled = (features - np.array(self.mean)) / np.array(self.deviation)
        along = scaled @ np.array(self.components).T
        outside = (scaled**2).sum(1) - (along**2).sum(1)
        return (along**2 / (np.array(self.variances) + _FLOOR)).sum(1) + outside / (self.rest + _FLOOR)


def fitted(learned: np.ndarray) -> dict[str, Any]:
    """The settings of a `FeatureGaussian` for the features (n, d) of training inputs."""
    mean, deviation = learned.mean(0), learned.std(0) + 1e-6
    _, singular, directions = np.linalg.svd((learned - mean) / deviation, full_matrices=False)
    variances = singular**2 / len(learned)
    count = min(_COMPONENTS, len(variances))
    return {
        "mean": rounded(mean),
        "deviation": rounded(deviation),
        "components": tuple(map(rounded, directions[:count])),
        "variances": rounded(variances[:count]),
        "rest": float(variances[count:].sum() / max(1, learned.shape[1] - count)),
    }


def auroc(known: np.ndarray, strange: np.ndarray) -> float:
    """The probability that a strange input has a higher score than a known one; ties count half."""
    higher = strange[:, None] > known[None, :]
    return float((higher + 0.5 * (strange[:, None] == known[None, :])).mean())


def rounded(values: np.ndarray) -> tuple[float, ...]:
    """Values with six significant digits, which are what a distance needs, in a third of the space."""
    return tuple(float(f"{value:.{_DIGITS}g}") for value in values)
