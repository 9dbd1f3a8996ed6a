"""U-Net with the encoder of the autoencoders, so that its training can start from weights learned without labels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.models.layers import ConvEncoder, ConvNormAct, ResidualBlock, check_stages, double
from pipeline.models.segmenters.interface import Segmenter, SegmenterConfig


@dataclass(frozen=True, kw_only=True)
class UNetConfig(SegmenterConfig):
    widths: tuple[int, ...] = (32, 64, 128, 192)
    """Channels at each resolution: at 1/2 of the image's size, at 1/4, and so on."""
    blocks: tuple[int, ...] = (1, 2, 2, 2)
    """Number of residual blocks of the encoder at each resolution."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_stages(self, "blocks")


class UNet(Segmenter):
    """U-Net (Ronneberger et al. 2015) with a stem of stride 2. It makes logits at half size and interpolates them."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config: UNetConfig = config
        self.encoder = ConvEncoder(config.channels, config.widths, config.blocks)
        self.lateral = nn.ModuleList(
            ConvNormAct(deep, skip, size=1) for deep, skip in zip(config.widths[1:], config.widths, strict=False)
        )
        self.merge = nn.ModuleList(
            nn.Sequential(ConvNormAct(2 * width, width), ResidualBlock(width)) for width in config.widths[:-1]
        )
        self.head = nn.Conv2d(config.widths[0], config.classes, 1)

    def forward(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k h w"]:
        self.check_channels(image)
        *skips, x = self.encoder.feature_maps(image)
        for skip, lateral, merge in zip(skips[::-1], reversed(self.lateral), reversed(self.merge), strict=True):
            x = merge(torch.cat((double(lateral(x), skip.shape[2], skip.shape[3]), skip), dim=1))
        logits = self.head(x).float().contiguous()  # the loss over classes is slow in channels-last order
        return F.interpolate(logits, size=image.shape[2:], mode="bilinear", align_corners=False)
