"""Fully convolutional network: class scores of several resolutions, added up. The baseline of all others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.models.segmenters.interface import EncoderConfig, Segmenter

_SCORED = 3


@dataclass(frozen=True, kw_only=True)
class FCNConfig(EncoderConfig):
    widths: tuple[int, ...] = (32, 64, 128, 192, 256)
    """Channels at each resolution: at 1/2 of the image's size, at 1/4, and so on."""
    blocks: tuple[int, ...] = (1, 2, 2, 2, 2)
    """Number of residual blocks of the encoder at each resolution."""

    least_stages: ClassVar[int] = _SCORED


class FCN(Segmenter):
    """FCN-8s (Long et al. 2015): scores from feature maps at 1/8, 1/16 and 1/32 of the image's size are added up.

    With other numbers of resolutions they are the three coarsest. Upsampling is bilinear and not learned.
    """

    def __init__(self, config: FCNConfig) -> None:
        super().__init__()
        self.config: FCNConfig = config
        self.encoder = config.encoder()
        self.head = nn.ModuleList(nn.Conv2d(width, config.classes, 1) for width in config.widths[-_SCORED:])
        self._normalise()

    def forward(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k h w"]:
        self.check_channels(image)
        maps = self.encoder.feature_maps(image)[-_SCORED:]
        fine, middle, coarse = (score(x).float().contiguous() for score, x in zip(self.head, maps, strict=True))
        middle = middle + F.interpolate(coarse, size=middle.shape[2:], mode="bilinear", align_corners=False)
        fine = fine + F.interpolate(middle, size=fine.shape[2:], mode="bilinear", align_corners=False)
        return F.interpolate(fine, size=image.shape[2:], mode="bilinear", align_corners=False)
