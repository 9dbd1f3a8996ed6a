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
from pipeline.errors import RequestError
from pipeline.models.segmenters.interface import Segmenter, SegmenterConfig

FEATURES = 11
_BLURS_PX = (2.0, 6.0)  # standard deviations
_MOST_NODES = 125  # 63 leaves, which are bits of a number
_PIXELS = 1 << 11  # that go through the trees at a time


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
        check(self, "nodes", self.nodes <= _MOST_NODES, f"be at most {_MOST_NODES}")
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
        tables = self._tables()
        logits = torch.cat([self._boosted(part, tables) for part in found.split(_PIXELS)])
        return logits.view(batch, height, width, -1).permute(0, 3, 1, 2)

    def _boosted(self, features: Float[Tensor, "n f"], tables: list[_Trees | None]) -> Float[Tensor, "n k"]:
        total = self.start.repeat(len(features), 1)
        for one, trees in enumerate(tables):
            if trees is not None:
                total[:, one] += trees(features)
        return total

    def _tables(self) -> list[_Trees | None]:
        """The trees of each class in the form that is fast; None for a class without trees."""
        return [
            _Trees.of(self, one) if bool((self.left[one, :, 0] != 0).any()) else None for one in range(self.classes)
        ]


class _Trees:
    """Boosted trees of one class, evaluated without walking (QuickScorer, Lucchese et al. 2015).

    Every decision that a pixel does not take to the left rules out the leaves of its left subtree. What all decisions
    on one feature rule out depends only on how many of their thresholds lie below the feature's value, so it stands in
    a table of bits. The leaf that is reached is the first one that no feature has ruled out.
    """

    def __init__(self, trees: list[_Tree], device: torch.device) -> None:
        self._leaves = max(len(tree.values) for tree in trees)
        kind = torch.int32 if self._leaves < 32 else torch.int64
        self._thresholds, self._alive = [], []
        for feature in range(FEATURES):
            decisions = [
                (number, limit, bits)
                for number, tree in enumerate(trees)
                for name, limit, bits in tree.decisions
                if name == feature
            ]
            limits = sorted({limit for _, limit, _ in decisions})
            rank = {limit: index for index, limit in enumerate(limits)}
            alive = torch.full((len(limits) + 1, len(trees)), -1, dtype=kind)
            for number, limit, bits in decisions:
                alive[rank[limit] + 1 :, number] &= ~bits
            self._thresholds.append(torch.tensor(limits, dtype=torch.float32, device=device))
            self._alive.append(alive.to(device))
        values = [tree.values + [0.0] * (self._leaves - len(tree.values)) for tree in trees]
        self._values = torch.tensor(values, device=device).view(-1)
        self._first = (torch.arange(len(trees), device=device) * self._leaves)[None]

    @classmethod
    def of(cls, model: Pixels, one: int) -> _Trees:
        """The trees of the class ``one``. `RequestError` if an array does not describe trees."""
        parts = (model.feature, model.threshold, model.left, model.right, model.value)
        columns = [part[one].tolist() for part in parts]
        return cls([_tree(*arrays) for arrays in zip(*columns, strict=True)], model.value.device)

    def __call__(self, features: Float[Tensor, "n f"]) -> Float[Tensor, " n"]:
        """The sum of the values of the leaves that each pixel reaches."""
        alive = self._alive[0].new_full((len(features), self._first.shape[1]), -1)
        for name, (limits, table) in enumerate(zip(self._thresholds, self._alive, strict=True)):
            if len(limits):
                alive &= table.index_select(0, torch.searchsorted(limits, features[:, name].contiguous()))
        lowest = alive & -alive
        leaf = lowest.float().log2_().round_().long()  # of powers of two
        return self._values[leaf + self._first].sum(1)


@dataclass
class _Tree:
    decisions: list[tuple[int, float, int]]
    """Of each inner node: the feature, the threshold, and the leaves of the left subtree as bits."""
    values: list[float]
    """Of the leaves from left to right; the first one has the lowest bit."""


def _tree(feature: list[int], threshold: list[float], left: list[int], right: list[int], value: list[float]) -> _Tree:
    """A tree from its nodes, of which the first is the root."""
    found, seen = _Tree([], []), set[int]()

    def walk(node: int) -> int:
        if not 0 <= node < len(left) or node in seen or not 0 <= feature[node] < FEATURES:
            raise RequestError(f"the baseline's node {node} is outside of its tree, in it twice, or of no feature")
        seen.add(node)
        if left[node] == node:
            found.values.append(value[node])
            return 1 << (len(found.values) - 1)
        bits = walk(left[node])
        found.decisions.append((feature[node], threshold[node], bits))
        return bits | walk(right[node])

    walk(0)
    return found


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
