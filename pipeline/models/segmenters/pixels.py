"""The baseline that looks at single pixels: gradient boosted trees on colour, blurred colour and position.

A network that is no better than this has not learned what regions look like. The trees are fitted elsewhere
(`pipeline.images.pixel_baseline`); here they are tensors, so that a package holds no pickle.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.config import check
from pipeline.models.segmenters.interface import Segmenter, SegmenterConfig

FEATURES = 11
_BLURS_PX = (2.0, 6.0)  # standard deviations
_PIXELS = 1 << 16  # that go through the trees at a time


@dataclass(frozen=True, kw_only=True)
class PixelsConfig(SegmenterConfig):
    trees: int = 100
    """Number of trees of each class."""
    nodes: int = 61
    """Number of nodes of a tree, inner nodes and leaves together."""
    depth: int = 16
    """Largest number of decisions from the root of a tree to a leaf."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("trees", "nodes", "depth"):
            check(self, name, getattr(self, name) >= 1, "be at least 1")
        check(self, "channels", self.channels == 3, "be 3")


class Pixels(Segmenter):
    """Boosted trees as a segmenter. A leaf is a node whose two children are itself."""

    engines = ("float32",)
    feature: Tensor
    threshold: Tensor
    left: Tensor
    right: Tensor
    value: Tensor
    start: Tensor

    def __init__(self, config: PixelsConfig) -> None:
        super().__init__()
        self.config: PixelsConfig = config
        shape = (config.classes, config.trees, config.nodes)
        for name, kind in (("feature", torch.int32), ("left", torch.int32), ("right", torch.int32)):
            self.register_buffer(name, torch.zeros(shape, dtype=kind))
        for name in ("threshold", "value"):  # fitted, but not by gradients
            self.register_parameter(name, nn.Parameter(torch.zeros(shape), requires_grad=False))
        self.register_buffer("start", torch.zeros(config.classes))

    def forward(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k h w"]:
        self.check_channels(image)
        batch, _, height, width = image.shape
        found = pixel_features(image).permute(0, 2, 3, 1).reshape(-1, FEATURES)
        logits = torch.cat([self._boosted(part) for part in found.split(_PIXELS)])
        return logits.view(batch, height, width, -1).permute(0, 3, 1, 2)

    def _boosted(self, features: Float[Tensor, "n f"]) -> Float[Tensor, "n k"]:
        columns, rows = features.T.contiguous(), torch.arange(len(features), device=features.device)
        total = self.start.repeat(len(features), 1)
        for one in range(self.config.classes):
            for tree in range(self.config.trees):
                feature, left, right = (part[one, tree].long() for part in (self.feature, self.left, self.right))
                if (left == 0).all():  # a class without trees
                    continue
                threshold, value = self.threshold[one, tree], self.value[one, tree]
                node = torch.zeros(len(features), dtype=torch.int64, device=features.device)
                for _ in range(self.config.depth):
                    goes_left = columns[feature[node], rows] <= threshold[node]
                    node = torch.where(goes_left, left[node], right[node])
                total[:, one] += value[node]
        return total


def pixel_features(image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b f h w"]:
    """Colour, colour blurred by two Gaussians, and row and column in [0, 1]."""
    batch, _, height, width = image.shape
    rows = (torch.arange(height, device=image.device, dtype=image.dtype) + 0.5) / height
    columns = (torch.arange(width, device=image.device, dtype=image.dtype) + 0.5) / width
    place = torch.stack((rows[:, None].expand(height, width), columns[None, :].expand(height, width)))
    return torch.cat((image, *(_blurred(image, size) for size in _BLURS_PX), place.expand(batch, -1, -1, -1)), 1)


def _blurred(image: Tensor, size_px: float) -> Tensor:
    """Convolve with a Gaussian, along the rows and then along the columns. Edges are repeated."""
    reach = int(3 * size_px)
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=image.device, dtype=image.dtype) / size_px) ** 2)
    kernel = kernel / kernel.sum()
    channels = image.shape[1]
    padded = F.pad(image, (reach, reach, reach, reach), mode="replicate")
    across = F.conv2d(padded, kernel.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)
    return F.conv2d(across, kernel.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)
