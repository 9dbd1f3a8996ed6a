"""Layers and sizes that several networks share, the encoder among them.

Every convolution runs in channels-last memory order, which is two to three times as fast on CPUs. Normalisation is by
group (Wu and He 2018), so what a model says of an image never depends on the rest of the batch.
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
    """What every configuration with an encoder must keep."""
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
    """Two convolutions beside an identity (He et al. 2016); the identity alone at the start of training."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = ConvNormAct(width, width)
        self.second = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm = nn.GroupNorm(width // _GROUP_CHANNELS, width)
        nn.init.zeros_(self.norm.weight)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return torch.relu(x + self.norm(self.second(self.first(x))))


class ConvEncoder(nn.Module):
    """Images to feature maps at 1/2, 1/4, ... of their size; its first convolution already halves, for speed."""

    def __init__(self, channels: int, widths: tuple[int, ...], blocks: tuple[int, ...]) -> None:
        super().__init__()
        self.channels = channels
        self.stages = nn.ModuleList()
        for inputs, width, count in zip((channels, *widths[:-1]), widths, blocks, strict=True):
            size = 3 if self.stages else 5
            residual = [ResidualBlock(width) for _ in range(count)]
            self.stages.append(nn.Sequential(ConvNormAct(inputs, width, size=size, stride=2), *residual))

    def features(self, image: Float[Tensor, "b c h w"]) -> list[Tensor]:
        """Feature maps of an image in [0, 1], finest first: (b, widths[i], ceil(h / 2^(i+1)), ceil(w / 2^(i+1)))."""
        if image.shape[1] != self.channels:
            raise RequestError(f"the encoder's channels is {self.channels}, but images have {image.shape[1]}")
        # Zero is mid-gray then, which is also what padding looks like.
        x = ((image - 0.5) * 4.0).contiguous(memory_format=torch.channels_last)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


def double(x: Float[Tensor, "b c h w"], height: int, width: int) -> Tensor:
    """Each pixel four times, cut to (height, width): the places that a stride of 2 came from, at odd sizes too."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")[..., :height, :width]


def sizes(height: int, width: int, count: int) -> list[tuple[int, int]]:
    """Sizes of the feature maps of an image, finest first."""
    return [(-(-height // 2**level), -(-width // 2**level)) for level in range(1, count + 1)]
