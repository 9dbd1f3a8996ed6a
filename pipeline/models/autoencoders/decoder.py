"""What the decoders of all autoencoders share: stages from coarse to fine, and the way to an image."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.models.autoencoders.interface import AutoencoderConfig
from pipeline.models.layers import ConvNormAct, ResidualBlock


def decoder_stages(config: AutoencoderConfig) -> nn.ModuleList:
    """What a decoder does at each resolution, coarsest first; each ends with the width of the next."""
    stages = nn.ModuleList()
    outputs = (*config.widths[-2::-1], config.widths[0])
    for width, output, count in zip(config.widths[::-1], outputs, config.decoder_blocks[::-1], strict=True):
        stages.append(nn.Sequential(*(ResidualBlock(width) for _ in range(count)), ConvNormAct(width, output)))
    return stages


def decoder_head(config: AutoencoderConfig) -> nn.Conv2d:
    """Features at half the image's size to four logits for each channel of it: those of `to_image`."""
    return nn.Conv2d(config.widths[0], config.channels * 4, 3, padding=1)


def to_image(head: Float[Tensor, "b c4 y x"], height: int, width: int) -> Tensor:
    """Logits (b, c, height, width), float32, from four times as many channels at half the size."""
    return F.pixel_shuffle(head, 2)[..., :height, :width].float()
