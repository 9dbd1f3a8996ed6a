"""Layers that the decoders of all autoencoders share: stages from coarse to fine, and the last layers to an image."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.models.autoencoders.interface import AutoencoderConfig
from pipeline.models.layers import ConvNormAct, ResidualBlock


def decoder_stages(config: AutoencoderConfig) -> nn.ModuleList:
    """The layers of a decoder at each resolution, coarsest first. Each stage ends with the width of the next one."""
    stages = nn.ModuleList()
    outputs = (*config.widths[-2::-1], config.widths[0])
    for width, output, count in zip(config.widths[::-1], outputs, config.decoder_blocks[::-1], strict=True):
        stages.append(nn.Sequential(*(ResidualBlock(width) for _ in range(count)), ConvNormAct(width, output)))
    return stages


def decoder_head(config: AutoencoderConfig) -> nn.Conv2d:
    """The last convolution: from features at half the image's size to the input of `to_image`."""
    return nn.Conv2d(config.widths[0], config.channels * 4, 3, padding=1)


def to_image(head: Float[Tensor, "b c4 y x"], height: int, width: int) -> Tensor:
    """Rearrange (b, 4 c, h / 2, w / 2) into logits (b, c, height, width), float32. Odd sizes are cropped."""
    return F.pixel_shuffle(head, 2)[..., :height, :width].float()
