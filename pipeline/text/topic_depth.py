"""Paragraphs without labels: where the latents of the sentences before and after a place differ most.

It is TextTiling (Hearst 1997) with distributions in place of counts of words. The blocks of sentences on either side of
a place are compared by how much likelier two topics are than one (`pipeline.text.topics`), or by the divergence of
their posteriors, which are taken together as one Gaussian with diagonal covariance (the moments of their mixture). The
depth score says how far a place stands above the valleys on both sides.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from pipeline.config import check
from pipeline.text.topics import Topics

_EPSILON = 1e-6
_PRIOR_PLACES = 20  # a document's own mean and deviation of depth count as much as the training's when it has so many


@dataclass(frozen=True, kw_only=True)
class DepthConfig:
    compare: Literal["topics", "divergence"] = "topics"
    """How the text before a place and behind it are compared: topics, by what lasts of the latents over several
    sentences; divergence, by all latents alike. Where nothing is known to last, it is divergence."""
    block_sentences: int = 2
    """Number of sentences on either side of a place that are compared."""
    smoothing_sentences: int = 0
    """The comparison is averaged over so many places on either side."""
    cutoff: float = 0.5
    """Depth at which a place has the score 0.5, in standard deviations above the mean depth. TextTiling has -0.5."""
    sharpness: float = 2.0
    """How fast the score rises with the depth: log-odds for each standard deviation."""

    def __post_init__(self) -> None:
        check(self, "block_sentences", self.block_sentences >= 1, "be at least 1")
        check(self, "smoothing_sentences", self.smoothing_sentences >= 0, "not be negative")
        check(self, "sharpness", self.sharpness > 0, "be positive")


def depths(mean: np.ndarray, variance: np.ndarray, config: DepthConfig, topics: Topics | None = None) -> np.ndarray:
    """The depth score of each place between two sentences, (s - 1,), from the moments (s, d) of the posteriors."""
    if config.compare == "topics" and topics is not None and topics.strengths:
        changes = topics.changes(mean, config.block_sentences)
    else:
        changes = divergences(mean, variance, config.block_sentences)
    return depth_scores(smoothed(changes, config.smoothing_sentences))


def scores(found: np.ndarray, usual: tuple[float, float], config: DepthConfig) -> np.ndarray:
    """The score in [0, 1] of each of s sentences, from the depths (s - 1,) of the places before all but the first.

    ``usual``: mean and standard deviation of depths in the training. Those of a document replace them as it gets
    longer. The first sentence has the score 1.
    """
    weight = len(found) / (len(found) + _PRIOR_PLACES)
    own = (found.mean(), found.std()) if len(found) else usual
    mean, deviation = (weight * mine + (1 - weight) * theirs for mine, theirs in zip(own, usual, strict=True))
    odds = config.sharpness * ((found - mean) / (deviation + _EPSILON) - config.cutoff)
    return np.append(1.0, 1 / (1 + np.exp(-np.clip(odds, -30, 30)))).astype(np.float32)


def divergences(mean: np.ndarray, variance: np.ndarray, block: int) -> np.ndarray:
    """The symmetric Kullback-Leibler divergence in nats, divided by the number of latents, of the ``block`` sentences
    before each place and as many behind it, (s - 1,). At the ends there may be fewer."""
    count, size = mean.shape
    sums, squares = (
        np.concatenate([np.zeros((1, size)), np.cumsum(values, axis=0, dtype=np.float64)])
        for values in (mean, variance + mean.astype(np.float64) ** 2)
    )
    place = np.arange(1, count)
    edges = np.maximum(place - block, 0), place, np.minimum(place + block, count)
    means, variances = [], []
    for start, end in ((edges[0], edges[1]), (edges[1], edges[2])):
        number = (end - start)[:, None]
        means.append((sums[end] - sums[start]) / number)
        variances.append(np.maximum((squares[end] - squares[start]) / number - means[-1] ** 2, _EPSILON))
    (left, right), apart = variances, (means[0] - means[1]) ** 2
    return 0.5 * ((left + apart) / right + (right + apart) / left - 2).mean(1)


def smoothed(values: np.ndarray, reach: int) -> np.ndarray:
    """The mean of each value and ``reach`` values on either side; at the ends of those that are there."""
    sums = np.append(0, np.cumsum(values))
    place = np.arange(len(values))
    start, end = np.maximum(place - reach, 0), np.minimum(place + reach + 1, len(values))
    return (sums[end] - sums[start]) / (end - start)


def depth_scores(values: np.ndarray) -> np.ndarray:
    """How far each value stands above the valleys on both sides: the sum of both heights (Hearst 1997, for peaks).

    A valley is where the values, on the way from the place, begin to rise again.
    """
    return 2 * values - _valley(values) - _valley(values[::-1])[::-1]


def _valley(values: np.ndarray) -> np.ndarray:
    """The value at the end of the way down to the left of each place."""
    place = np.arange(len(values))
    is_end = np.append(True, values[:-1] > values[1:])[: len(values)]
    return values[np.maximum.accumulate(np.where(is_end, place, 0))] if len(values) else values
