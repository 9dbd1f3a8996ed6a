"""Layers that several networks share, among them the convolutional encoder.

All convolutions use the channels-last memory order, which is two to three times as fast on CPUs. Group normalisation
(Wu and He 2018) is used, so the result for an image does not depend on the other images of the batch.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.config import check
from pipeline.errors import RequestError

_GROUP_CHANNELS = 8


def check_stages(config: Any, *names: str) -> None:
    """Check the settings of an encoder: channels, widths, and the numbers of blocks in the settings ``names``."""
    check(config, "channels", config.channels >= 1, "be at least 1")
    check(config, "widths", len(config.widths) >= 1, "have at least 1 resolution")
    ok = all(width > 0 and width % _GROUP_CHANNELS == 0 for width in config.widths)
    check(config, "widths", ok, f"be positive multiples of {_GROUP_CHANNELS}")
    for name in names:
        blocks = getattr(config, name)
        check(config, name, len(blocks) == len(config.widths), "have as many values as widths")
        check(config, name, all(count >= 0 for count in blocks), "not be negative")


class ConvNormAct(nn.Sequential):
    """Convolution, group normalisation, ReLU."""

    def __init__(self, inputs: int, outputs: int, *, size: int = 3, stride: int = 1) -> None:
        convolution = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)
        super().__init__(convolution, nn.GroupNorm(outputs // _GROUP_CHANNELS, outputs), nn.ReLU(inplace=True))


class ResidualBlock(nn.Module):
    """Two convolutions with a skip connection (He et al. 2016). At the start it is the identity, followed by a ReLU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = ConvNormAct(width, width)
        self.second = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm = nn.GroupNorm(width // _GROUP_CHANNELS, width)
        nn.init.zeros_(self.norm.weight)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return torch.relu(x + self.norm(self.second(self.first(x))))


class ConvEncoder(nn.Module):
    """Maps images to feature maps at 1/2, 1/4, ... of their size. The first convolution has stride 2, for speed."""

    def __init__(self, channels: int, widths: tuple[int, ...], blocks: tuple[int, ...]) -> None:
        super().__init__()
        self.channels = channels
        self.stages = nn.ModuleList()
        for inputs, width, count in zip((channels, *widths[:-1]), widths, blocks, strict=True):
            size = 3 if self.stages else 5
            residual = [ResidualBlock(width) for _ in range(count)]
            self.stages.append(nn.Sequential(ConvNormAct(inputs, width, size=size, stride=2), *residual))

    def feature_maps(self, image: Float[Tensor, "b c h w"]) -> list[Tensor]:
        """Feature maps of an image in [0, 1], finest first: (b, widths[i], ceil(h / 2^(i+1)), ceil(w / 2^(i+1)))."""
        if image.shape[1] != self.channels:
            raise RequestError(f"the encoder's channels is {self.channels}, but images have {image.shape[1]}")
        # Maps mid-gray to zero, so that padding, which is mid-gray, looks like the zeros that convolutions pad with.
        x = ((image - 0.5) * 4.0).contiguous(memory_format=torch.channels_last)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


def double(x: Float[Tensor, "b c h w"], height: int, width: int) -> Tensor:
    """Upsample by 2 (nearest) and crop to (height, width), which may be odd: the inverse of a stride of 2."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")[..., :height, :width]


def sizes(height: int, width: int, count: int) -> list[tuple[int, int]]:
    """Sizes (h, w) of the encoder's ``count`` feature maps for an image, finest first."""
    return [(-(-height // 2**level), -(-width // 2**level)) for level in range(1, count + 1)]
