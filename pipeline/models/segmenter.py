"""U-Net whose encoder is the autoencoder's, so that weights learned without labels can start it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.config import check
from pipeline.errors import RequestError
from pipeline.models.autoencoder import (
    Autoencoder,
    ConvEncoder,
    ConvNormAct,
    ConvVAE,
    ConvVAEConfig,
    ResidualBlock,
    check_stages,
    double,
)
from pipeline.models.ladder import LadderVAE, LadderVAEConfig

_ENCODER = "encoder."


@dataclass(frozen=True, kw_only=True)
class UNetConfig:
    classes: int
    """Classes of a pixel."""
    channels: int = 3
    """Channels of the image."""
    widths: tuple[int, ...] = (32, 64, 128, 192)
    """Channels at each resolution, from half the image's size on, each half the one before."""
    blocks: tuple[int, ...] = (1, 2, 2, 2)
    """Residual blocks of the encoder at each resolution."""
    autoencoder: ConvVAEConfig | LadderVAEConfig | None = None
    """An autoencoder that is carried along, to tell how unlike its training data an image is."""

    def __post_init__(self) -> None:
        check_stages(self, "blocks")
        check(self, "classes", self.classes >= 2, "be at least 2")


class UNet(nn.Module):
    """U-Net (Ronneberger et al. 2015) with a strided stem: it decides at half the size and interpolates the logits."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = ConvEncoder(config.channels, config.widths, config.blocks)
        self.lateral = nn.ModuleList(
            ConvNormAct(deep, skip, size=1) for deep, skip in zip(config.widths[1:], config.widths, strict=False)
        )
        self.merge = nn.ModuleList(
            nn.Sequential(ConvNormAct(2 * width, width), ResidualBlock(width)) for width in config.widths[:-1]
        )
        self.head = nn.Conv2d(config.widths[0], config.classes, 1)
        self.autoencoder = None if config.autoencoder is None else _frozen(config.autoencoder)

    def forward(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k h w"]:
        """Logits of an image in [0, 1], at its size, float32."""
        if image.shape[1] != self.config.channels:
            raise RequestError(f"UNetConfig.channels is {self.config.channels}, but images have {image.shape[1]}")
        *skips, x = self.encoder.features(image)
        for skip, lateral, merge in zip(skips[::-1], reversed(self.lateral), reversed(self.merge), strict=True):
            x = merge(torch.cat((double(lateral(x), skip.shape[2], skip.shape[3]), skip), dim=1))
        logits = self.head(x).float().contiguous()  # the loss over classes is slow in channels-last order
        return F.interpolate(logits, size=image.shape[2:], mode="bilinear", align_corners=False)


def init_from_autoencoder(segmenter: nn.Module, autoencoder: nn.Module) -> int:
    """Copy the autoencoder's encoder into the segmenter's; returns how many tensors were copied: all of them.

    Raises `RequestError` where the two encoders are not of one shape, naming the setting.
    """
    for name in ("channels", "widths", "blocks"):
        mine, theirs = getattr(segmenter.config, name), getattr(autoencoder.config, name)
        if mine != theirs:
            raise RequestError(f"UNetConfig.{name} must be the autoencoder's {theirs}, got {mine}")
    weights = {key: value for key, value in autoencoder.state_dict().items() if key.startswith(_ENCODER)}
    own = segmenter.state_dict()
    own.update(weights)
    segmenter.load_state_dict(own)
    return len(weights)


def carry_autoencoder(segmenter: nn.Module, autoencoder: nn.Module) -> int:
    """Copy an autoencoder's weights into the one that the segmenter carries; returns how many tensors."""
    assert isinstance(segmenter, UNet)
    assert segmenter.autoencoder is not None
    weights = autoencoder.state_dict()
    segmenter.autoencoder.load_state_dict(weights)
    return len(weights)


def _frozen(config: ConvVAEConfig | LadderVAEConfig) -> Autoencoder:
    model = ConvVAE(config) if isinstance(config, ConvVAEConfig) else LadderVAE(config)
    return model.requires_grad_(False)
