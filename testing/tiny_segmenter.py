"""A second architecture of segmenters, as small as possible, which shows what adding one requires."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from pipeline.models.segmenters.interface import Segmenter, SegmenterConfig


@dataclass(frozen=True, kw_only=True)
class TinySegmenterConfig(SegmenterConfig):
    width: int = 16
    """Channels between the two convolutions."""


class TinySegmenter(Segmenter):
    """Two convolutions at the image's size, without an encoder."""

    def __init__(self, config: TinySegmenterConfig) -> None:
        super().__init__()
        self.config: TinySegmenterConfig = config
        self.first = nn.Conv2d(config.channels, config.width, 5, padding=2)
        self.head = nn.Conv2d(config.width, config.classes, 5, padding=2)

    def forward(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k h w"]:
        self.check_channels(image)
        return self.head(self.first(image - 0.5).relu()).float()
