"""The interface of all segmenters. Tasks, jobs and packages use nothing else."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from pipeline.config import check
from pipeline.errors import RequestError


@dataclass(frozen=True, kw_only=True)
class SegmenterConfig:
    classes: int
    """Number of classes of a pixel."""
    channels: int = 3
    """Channels of the image: 3 for RGB."""

    def __post_init__(self) -> None:
        check(self, "classes", self.classes >= 2, "be at least 2")
        check(self, "channels", self.channels >= 1, "be at least 1")


class Segmenter(nn.Module, ABC):
    """A network that assigns a class to every pixel of an image.

    The constructor of a subclass takes only a `SegmenterConfig` and stores it as ``config``. A segmenter that uses the
    autoencoders' encoder (`pipeline.models.layers.ConvEncoder`) stores it as ``encoder``. Its training can then start
    from the weights of an autoencoder.
    """

    config: Any

    @property
    def classes(self) -> int:
        return self.config.classes

    @property
    def channels(self) -> int:
        return self.config.channels

    @abstractmethod
    def forward(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k h w"]:
        """Logits of each class for an image in [0, 1], at the image's size, float32."""

    def check_channels(self, image: Float[Tensor, "b c h w"]) -> None:
        """`RequestError` if the number of channels of the images is not that of the network."""
        if image.shape[1] != self.channels:
            name = type(self.config).__name__
            raise RequestError(f"{name}.channels is {self.channels}, but images have {image.shape[1]}")

    def feature_maps(self, image: Float[Tensor, "b c h w"]) -> list[Tensor]:
        """The encoder's feature maps of images in [0, 1], finest first. `RequestError` if there is no encoder."""
        return self._encoder().feature_maps(image)

    def init_encoder(self, autoencoder: nn.Module) -> int:
        """Copy the weights of an autoencoder's encoder into this encoder; returns the number of tensors.

        Raises `RequestError` if this segmenter has no encoder, or if a setting of the two encoders differs; the message
        names the setting.
        """
        encoder, theirs = self._encoder(), autoencoder.config
        for name in ("channels", "widths", "blocks"):
            mine, wanted = getattr(self.config, name), getattr(theirs, name)
            if mine != wanted:
                rule = f"{type(self.config).__name__}.{name} must be the autoencoder's {wanted}"
                raise RequestError(f"{rule}, got {mine}")
        weights = autoencoder.encoder.state_dict()  # type: ignore[union-attr]
        encoder.load_state_dict(weights)
        return len(weights)

    def _encoder(self) -> Any:
        encoder = getattr(self, "encoder", None)
        if encoder is None:
            raise RequestError(f"{type(self).__name__} has no encoder that an autoencoder could start")
        return encoder


def init_from_autoencoder(segmenter: nn.Module, autoencoder: nn.Module) -> int:
    """Call `Segmenter.init_encoder`. Do not rename: a training's digest contains the name of this function."""
    assert isinstance(segmenter, Segmenter)
    return segmenter.init_encoder(autoencoder)
