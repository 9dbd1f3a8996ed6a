"""A fast network with two branches, for CPUs and for large amounts of images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.config import check
from pipeline.models.layers import ConvNormAct, ResidualBlock, double
from pipeline.models.segmenters.interface import EncoderConfig, Segmenter

_EDGES, _DETAIL = 1, 2  # the feature maps at 1/4 and at 1/8


@dataclass(frozen=True, kw_only=True)
class LightConfig(EncoderConfig):
    widths: tuple[int, ...] = (16, 32, 64, 96, 128)
    """Channels at each resolution: at 1/2 of the image's size, at 1/4, and so on."""
    blocks: tuple[int, ...] = (0, 0, 1, 2, 2)
    """Number of residual blocks of the encoder at each resolution."""
    detail_blocks: int = 1
    """Number of residual blocks of the detail branch."""

    least_stages: ClassVar[int] = _DETAIL + 2

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, "detail_blocks", self.detail_blocks >= 0, "not be negative")


class Light(Segmenter):
    """Two branches share the encoder's first three stages, as in DDRNet (Pan et al. 2022).

    The detail branch stays at 1/8 of the image's size. The context branch is the rest of the encoder, and its coarsest
    map is weighed by the image's mean, channel by channel, as in BiSeNet (Yu et al. 2018). Their sum goes up to 1/4.
    Next to nothing is computed at 1/2, where a U-Net spends most of its time.
    """

    def __init__(self, config: LightConfig) -> None:
        super().__init__()
        self.config: LightConfig = config
        self.encoder = config.encoder()
        edges, width, coarsest = config.widths[_EDGES], config.widths[_DETAIL], config.widths[-1]
        self.detail = nn.Sequential(*(ResidualBlock(width) for _ in range(config.detail_blocks)))
        self.attention = nn.Conv2d(coarsest, coarsest, 1)
        self.context = nn.ModuleList(nn.Conv2d(inputs, width, 1) for inputs in config.widths[_DETAIL + 1 :])
        self.fuse = ConvNormAct(width, edges)
        self.edges = nn.Conv2d(edges, edges, 1)
        self.refine = ConvNormAct(edges, edges)
        self.head = nn.Conv2d(edges, config.classes, 1)
        self._normalise()

    def forward(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k h w"]:
        self.check_channels(image)
        maps = self.encoder.feature_maps(image)
        context = [
            *maps[_DETAIL + 1 : -1],
            maps[-1] * torch.sigmoid(self.attention(maps[-1].mean((2, 3), keepdim=True))),
        ]
        x = self.detail(maps[_DETAIL])
        for features, lateral in zip(context, self.context, strict=True):
            x = x + F.interpolate(lateral(features), size=x.shape[2:], mode="bilinear", align_corners=False)
        edges = maps[_EDGES]
        x = self.refine(double(self.fuse(x), edges.shape[2], edges.shape[3]) + self.edges(edges))
        logits = self.head(x).float().contiguous()
        return F.interpolate(logits, size=image.shape[2:], mode="bilinear", align_corners=False)
