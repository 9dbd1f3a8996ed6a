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

    def __init__(self, inputs: int, outputs: int, *, size: int = 3, stride: int = 1, dilation: int = 1) -> None:
        padding = dilation * (size // 2)
        convolution = nn.Conv2d(inputs, outputs, size, stride, padding, dilation, bias=False)
        super().__init__(convolution, nn.GroupNorm(outputs // _GROUP_CHANNELS, outputs), nn.ReLU(inplace=True))


class ResidualBlock(nn.Module):
    """Two convolutions with a skip connection (He et al. 2016). At the start it is the identity, followed by a ReLU."""

    def __init__(self, width: int, *, dilation: int = 1) -> None:
        super().__init__()
        self.first = ConvNormAct(width, width, dilation=dilation)
        self.second = nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation, bias=False)
        self.norm = nn.GroupNorm(width // _GROUP_CHANNELS, width)
        nn.init.zeros_(self.norm.weight)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return torch.relu(x + self.norm(self.second(self.first(x))))


class ConvEncoder(nn.Module):
    """Maps images to feature maps at 1/2, 1/4, ... of their size. The first convolution has stride 2, for speed.

    With an ``output_stride``, maps are not smaller than 1/output_stride of the image. Later stages have dilated
    convolutions in place of their strides, so their weights have the same shapes and see the same surroundings.
    """

    def __init__(
        self, channels: int, widths: tuple[int, ...], blocks: tuple[int, ...], output_stride: int | None = None
    ) -> None:
        super().__init__()
        self.channels = channels
        self.stages = nn.ModuleList()
        dilation = 1
        for inputs, width, count in zip((channels, *widths[:-1]), widths, blocks, strict=True):
            first = {"size": 3 if self.stages else 5, "stride": 2, "dilation": dilation}
            if output_stride is not None and 2 ** (len(self.stages) + 1) > output_stride:
                first["stride"] = 1
                dilation *= 2
            residual = [ResidualBlock(width, dilation=dilation) for _ in range(count)]
            self.stages.append(nn.Sequential(ConvNormAct(inputs, width, **first), *residual))

    def feature_maps(self, image: Float[Tensor, "b c h w"]) -> list[Tensor]:
        """Feature maps of an image in [0, 1], finest first: (b, widths[i], ceil(h / s), ceil(w / s)), s = 2^(i+1) or
        the output stride, whichever is less."""
        if image.shape[1] != self.channels:
            raise RequestError(f"the encoder's channels is {self.channels}, but images have {image.shape[1]}")
        # Maps mid-gray to zero, so that padding, which is mid-gray, looks like the zeros that convolutions pad with.
        x = ((image - 0.5) * 4.0).contiguous(memory_format=torch.channels_last)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


class ChannelNorm(nn.Module):
    """Normalises over the channels at each position: layer normalisation (Ba et al. 2016) as in ConvNeXt (Liu et al.
    2022). What a position gives depends on its surroundings alone, and not on the whole image as with groups."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        last = x.permute(0, 2, 3, 1)
        return F.layer_norm(last, self.weight.shape, self.weight, self.bias).permute(0, 3, 1, 2)


def use_channel_norm(network: nn.Module) -> None:
    """Replace each group normalisation in a network by a `ChannelNorm` with the same weights and names."""
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.GroupNorm):
                norm = ChannelNorm(child.num_channels)
                norm.load_state_dict(child.state_dict())
                setattr(parent, name, norm)


def double(x: Float[Tensor, "b c h w"], height: int, width: int) -> Tensor:
    """Upsample by 2 (nearest) to (height, width), which may be one less than twice the size: undoes a stride of 2.

    Sizes of up to 2094 are exact. Beyond them float32 rounding may take the neighbour of a pixel where sizes are odd.
    """
    return F.interpolate(x, size=(height, width), mode="nearest")


def sizes(height: int, width: int, count: int) -> list[tuple[int, int]]:
    """Sizes (h, w) of the encoder's ``count`` feature maps for an image, finest first."""
    return [(-(-height // 2**level), -(-width // 2**level)) for level in range(1, count + 1)]
