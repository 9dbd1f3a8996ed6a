"""U-Net with the encoder of the autoencoders, so that its training can start from weights learned without labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.models.layers import ConvNormAct, ResidualBlock, double
from pipeline.models.segmenters.interface import EncoderConfig, Segmenter


@dataclass(frozen=True, kw_only=True)
class UNetConfig(EncoderConfig):
    widths: tuple[int, ...] = (32, 64, 128, 192)
    """Channels at each resolution: at 1/2 of the image's size, at 1/4, and so on."""
    blocks: tuple[int, ...] = (1, 2, 2, 2)
    """Number of residual blocks of the encoder at each resolution."""


class UNet(Segmenter):
    """U-Net (Ronneberger et al. 2015) with a stem of stride 2. It makes logits at half size and interpolates them."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config: UNetConfig = config
        self.encoder = config.encoder()
        self.lateral = nn.ModuleList(
            ConvNormAct(deep, skip, size=1) for deep, skip in zip(config.widths[1:], config.widths, strict=False)
        )
        self.merge = nn.ModuleList(
            nn.Sequential(ConvNormAct(2 * width, width), ResidualBlock(width)) for width in config.widths[:-1]
        )
        self.head = nn.Conv2d(config.widths[0], config.classes, 1)
        self._normalise()

    def forward(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k h w"]:
        self.check_channels(image)
        return self.logits(self.encoder.feature_maps(image), image.shape[2], image.shape[3])

    def logits(self, maps: Sequence[Tensor], height: int, width: int) -> Float[Tensor, "b k h w"]:
        """`forward` from the encoder's feature maps, finest first."""
        *skips, x = maps
        for skip, lateral, merge in zip(skips[::-1], reversed(self.lateral), reversed(self.merge), strict=True):
            x = merge(torch.cat((double(lateral(x), skip.shape[2], skip.shape[3]), skip), dim=1))
        logits = self.head(x).float().contiguous()  # the loss over classes is slow in channels-last order
        return F.interpolate(logits, size=(height, width), mode="bilinear", align_corners=False)
