"""DeepLabv3+: dilated convolutions see the surroundings at several scales, and a small decoder sharpens the edges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.config import check
from pipeline.models.layers import ConvNormAct
from pipeline.models.segmenters.interface import EncoderConfig, Segmenter

_LOW_LEVEL = 1  # the feature map at 1/4, whose edges the decoder takes
_LOW_LEVEL_CHANNELS = 48  # few, so that they do not outweigh the pyramid


@dataclass(frozen=True, kw_only=True)
class DeepLabV3PlusConfig(EncoderConfig):
    widths: tuple[int, ...] = (32, 64, 128, 192)
    """Channels at each resolution: at 1/2 of the image's size, at 1/4, and so on."""
    blocks: tuple[int, ...] = (1, 2, 2, 2)
    """Number of residual blocks of the encoder at each resolution."""
    output_stride: Literal[8, 16] = 16
    """Image size divided by the size of the coarsest feature map. 8 is finer, and slower. Later stages of the encoder
    are dilated instead."""
    rates: tuple[int, ...] = (3, 6, 9)
    """Dilations of the pyramid at output stride 16; at 8 they are doubled. Half of the paper's, as are the images."""
    decoder_width: int = 128
    """Channels of the pyramid and of the decoder."""

    least_stages: ClassVar[int] = 3
    scaled: ClassVar[tuple[str, ...]] = ("widths", "decoder_width")

    def __post_init__(self) -> None:
        super().__post_init__()
        finest = 2 ** len(self.widths)
        check(
            self, "output_stride", self.output_stride <= finest, f"be at most {finest} with {len(self.widths)} widths"
        )
        check(self, "rates", all(rate >= 1 for rate in self.rates), "be at least 1")
        ok = self.decoder_width > 0 and self.decoder_width % 8 == 0
        check(self, "decoder_width", ok, "be a positive multiple of 8")


class DeepLabV3Plus(Segmenter):
    """DeepLabv3+ (Chen et al. 2018): atrous spatial pyramid pooling, and a decoder with features at 1/4."""

    def __init__(self, config: DeepLabV3PlusConfig) -> None:
        super().__init__()
        self.config: DeepLabV3PlusConfig = config
        self.encoder = config.encoder(config.output_stride)
        self.pyramid = _Pyramid(config)
        self.low_level = ConvNormAct(config.widths[_LOW_LEVEL], _LOW_LEVEL_CHANNELS, size=1)
        width = config.decoder_width
        self.decoder = nn.Sequential(ConvNormAct(width + _LOW_LEVEL_CHANNELS, width), ConvNormAct(width, width))
        self.head = nn.Conv2d(width, config.classes, 1)
        self._normalise()

    def forward(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k h w"]:
        self.check_channels(image)
        maps = self.encoder.feature_maps(image)
        low = self.low_level(maps[_LOW_LEVEL])
        x = F.interpolate(self.pyramid(maps[-1]), size=low.shape[2:], mode="bilinear", align_corners=False)
        logits = self.head(self.decoder(torch.cat((x, low), dim=1))).float().contiguous()
        return F.interpolate(logits, size=image.shape[2:], mode="bilinear", align_corners=False)


class _Pyramid(nn.Module):
    """Atrous spatial pyramid pooling: convolutions with several dilations beside each other, and the image's mean."""

    def __init__(self, config: DeepLabV3PlusConfig) -> None:
        super().__init__()
        inputs, width = config.widths[-1], config.decoder_width
        rates = [rate * 16 // config.output_stride for rate in config.rates]
        self.branches = nn.ModuleList([ConvNormAct(inputs, width, size=1)])
        self.branches.extend(ConvNormAct(inputs, width, dilation=rate) for rate in rates)
        # Without a norm: of a single position it would leave little more than signs.
        self.mean = nn.Sequential(nn.Conv2d(inputs, width, 1), nn.ReLU(inplace=True))
        self.project = ConvNormAct((len(self.branches) + 1) * width, width, size=1)

    def forward(self, x: Float[Tensor, "b c y x"]) -> Float[Tensor, "b d y x"]:
        mean = self.mean(x.mean((2, 3), keepdim=True)).expand(-1, -1, x.shape[2], x.shape[3])
        return self.project(torch.cat([*(branch(x) for branch in self.branches), mean], dim=1))
