"""How near a set of samples is to a set of real images, in features: the Frechet distance, and precision and recall."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float

from benchmarks.measures.neighbours import nearest_others, squared_distances

# Of the mean squared norm: below it, two squared distances are equal but for rounding.
_SLACK = 1e-10


class Moments(NamedTuple):
    mean: Float[np.ndarray, "*r d"]
    covariance: Float[np.ndarray, "*r d d"]


def moments(features: Float[np.ndarray, "n d"]) -> Moments:
    """Mean and covariance (over n - 1), float64."""
    features = np.asarray(features, np.float64)
    return Moments(features.mean(0), np.atleast_2d(np.cov(features, rowvar=False)))


def drawn_moments(features: Float[np.ndarray, "n d"], times: Float[np.ndarray, "r n"]) -> Moments:
    """`moments` of each replicate, whose rows come so many ``times``, by one product with all pairs of features."""
    count, width = features.shape
    middle = features.mean(0)
    upper, lower = np.triu_indices(width)
    sums, products = np.zeros((len(times), width)), np.zeros((len(times), len(upper)))
    rows = max(1, 2**22 // len(upper))
    for start in range(0, count, rows):
        part = features[start : start + rows] - middle
        weights = times[:, start : start + rows].astype(np.float64)
        sums += weights @ part
        products += weights @ (part[:, upper] * part[:, lower])
    mean, covariance = sums / count, np.empty((len(times), width, width))
    values = (products - count * mean[:, upper] * mean[:, lower]) / (count - 1)
    covariance[:, upper, lower] = covariance[:, lower, upper] = values
    return Moments(mean + middle, covariance)


def frechet(one: Moments, other: Moments) -> float:
    """Squared Frechet distance of two Gaussians (Dowson and Landau 1982), the square of Wasserstein's.

    |m1 - m2|^2 + tr(C1 + C2 - 2 (C1^(1/2) C2 C1^(1/2))^(1/2)), as FID has it (Heusel et al. 2017). On features of our
    own classifier it is FLD here, and never FID, whose features are those of one certain network.
    """
    values, vectors = np.linalg.eigh(one.covariance)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ other.covariance @ root).clip(0)).sum()
    spread = np.trace(one.covariance) + np.trace(other.covariance) - 2 * cross
    return float(max(0.0, np.square(one.mean - other.mean).sum() + spread))


def drawn_frechet(one: Moments, other: Moments) -> Float[np.ndarray, " r"]:
    """`frechet` of each replicate of two sets."""
    pairs = zip(zip(*one, strict=True), zip(*other, strict=True), strict=True)
    return np.array([frechet(Moments(*first), Moments(*second)) for first, second in pairs])


class Prdc(NamedTuple):
    """One number for each sample, or for each real image; their means are the figures.

    Precision and recall are those of Kynkaanniemi et al. 2019: samples within the real manifold, which is the union of
    balls around real images that reach to their k-th nearest neighbour, and real images within the samples' manifold.
    Density and coverage (Naeem et al. 2020): real balls that a sample is in, over k, and real images in whose ball a
    sample is; one outlier does not move them. Of equal distributions density is 1 and coverage 1 - 2^-k, nearly. Balls
    are closed, as in the papers.
    """

    precision: Bool[np.ndarray, " samples"]
    density: Float[np.ndarray, " samples"]
    recall: Bool[np.ndarray, " real"]
    coverage: Bool[np.ndarray, " real"]


def prdc(samples: Float[np.ndarray, "n d"], real: Float[np.ndarray, "m d"], k: int = 5) -> Prdc:
    """Precision, recall, density, coverage with the ``k``-th nearest neighbour; Naeem et al. take 5 for 10,000."""
    assert min(len(samples), len(real)) > k, "sets must be larger than k"
    made, true = (torch.from_numpy(np.asarray(rows, np.float64)) for rows in (samples, real))
    slack = _SLACK * float((true - true.mean(0)).square().sum(1).mean())
    true_reach, made_reach = (nearest_others(rows, k)[:, -1].square() + slack for rows in (true, made))
    density = torch.empty(len(made), dtype=torch.float64)
    recall, coverage = torch.zeros(2, len(true), dtype=torch.bool)
    for part, found in squared_distances(made, true):
        inside = found <= true_reach
        density[part] = inside.sum(1) / k
        coverage |= inside.any(0)
        recall |= (found <= made_reach[part, None]).any(0)
    return Prdc((density > 0).numpy(), density.numpy(), recall.numpy(), coverage.numpy())
