"""Novelty of an image by the segmenter's own features: how far they are from those of the training images.

The features of an image are the means and the standard deviations of the channels of the encoder's coarsest map. A
Gaussian is fitted to those of training images (`pipeline.feature_gaussian`). The raw novelty is the squared distance to
its mean, and its percentile is among held-out images.

The segmenter sees a stranger's parts as something that it knows, and may be sure of its mask. Its features are still
in places where those of training images are not.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from pipeline.config import check
from pipeline.feature_gaussian import FeatureGaussian, fitted, rounded

_STEPS = 1_000  # between the quantiles of the reference: 0.1 per cent each

#: Makes an image (3, h, w) in [0, 1] strange.
Change = Callable[[Float[Tensor, "3 h w"]], Float[Tensor, "3 h w"]]


@dataclass(frozen=True, kw_only=True)
class FeatureReference(FeatureGaussian):
    """A Gaussian of the features of training images, and how far held-out images are from it."""

    quantiles: tuple[float, ...]
    """Quantiles of the raw novelty of held-out images, lowest to highest, at equal steps of probability."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, "quantiles", list(self.quantiles) == sorted(self.quantiles), "be sorted, lowest first")

    def percentile(self, raw: np.ndarray) -> np.ndarray:
        """Percentage of held-out images whose raw novelty is lower."""
        return np.interp(raw, self.quantiles, np.linspace(0, 100, len(self.quantiles)))


def features(maps: Float[Tensor, "b c h w"], valid: Sequence[tuple[float, float]]) -> np.ndarray:
    """Means and standard deviations of the channels of feature maps, (b, 2c).

    ``valid``: of each image, the fractions of its box's height and width that it fills.
    """
    found = []
    for one, (height, width) in zip(maps.float(), valid, strict=True):
        inside = one[:, : max(1, math.ceil(height * one.shape[1])), : max(1, math.ceil(width * one.shape[2]))]
        deviation, mean = torch.std_mean(inside, (1, 2), correction=0)
        found.append(torch.cat((mean, deviation)).cpu().numpy())
    return np.stack(found).astype(np.float64)


def reference(learned: np.ndarray, held_out: np.ndarray) -> FeatureReference:
    """Fit a reference to the features (n, d) of training images and (m, d) of held-out images."""
    found = FeatureReference(**fitted(learned), quantiles=(0.0, 1.0))
    quantiles = np.quantile(found.raw(held_out), np.linspace(0, 1, _STEPS + 1))
    return dataclasses.replace(found, quantiles=rounded(np.maximum.accumulate(quantiles)))


def _jigsaw(image: Tensor) -> Tensor:
    """Sixteen pieces in another order: piece 5 i + 3 modulo 16 at place i. What remains at the edges stays."""
    height, width = (side // 4 for side in image.shape[1:])
    if not height or not width:
        return image
    changed = image.clone()
    for place in range(16):
        piece = (5 * place + 3) % 16
        (y, x), (top, left) = divmod(place, 4), divmod(piece, 4)
        changed[:, y * height : (y + 1) * height, x * width : (x + 1) * width] = image[
            :, top * height : (top + 1) * height, left * width : (left + 1) * width
        ]
    return changed


def _resized(image: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(image[None], (max(1, height), max(1, width)), mode="bilinear", antialias=True)[0]


def _blurred(image: Tensor) -> Tensor:
    height, width = image.shape[1:]
    return _resized(_resized(image, height // 12, width // 12), height, width)


def _magnified(image: Tensor) -> Tensor:
    height, width = image.shape[1:]
    top, left = height * 3 // 8, width * 3 // 8
    return _resized(image[:, top : top + max(1, height // 4), left : left + max(1, width // 4)], height, width)


def _turned(image: Tensor) -> Tensor:
    return _resized(image.rot90(1, (1, 2)), *image.shape[1:])


#: What is done to held-out images to make them strange: other colours, other things, another scale, another order.
STRANGE: dict[str, Change] = {
    "inverted": lambda image: 1 - image,
    "other colours": lambda image: image[[1, 2, 0]],
    "jigsaw": _jigsaw,
    "blurred": _blurred,
    "magnified": _magnified,
    "turned": _turned,
}
