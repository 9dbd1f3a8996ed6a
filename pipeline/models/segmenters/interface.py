"""What task, job, package and stream know of every segmenter, whatever its architecture."""

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
    """Classes of a pixel."""
    channels: int = 3
    """Channels of the image."""

    def __post_init__(self) -> None:
        check(self, "classes", self.classes >= 2, "be at least 2")
        check(self, "channels", self.channels >= 1, "be at least 1")


class Segmenter(nn.Module, ABC):
    """A network that gives every pixel of an image a class.

    A subclass is made from its `SegmenterConfig` alone, and keeps it as ``config``. One whose encoder is the one of
    autoencoders keeps it as ``encoder`` (`pipeline.models.layers.ConvEncoder`); it can then start from an autoencoder.
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
        """Logits of an image in [0, 1], at its size, float32."""

    def check_channels(self, image: Float[Tensor, "b c h w"]) -> None:
        """`RequestError` where an image has other channels than the network."""
        if image.shape[1] != self.channels:
            name = type(self.config).__name__
            raise RequestError(f"{name}.channels is {self.channels}, but images have {image.shape[1]}")

    def features(self, image: Float[Tensor, "b c h w"]) -> list[Tensor]:
        """The encoder's feature maps of an image in [0, 1], finest first. `RequestError` where there is no encoder."""
        return self._encoder().features(image)

    def init_encoder(self, autoencoder: nn.Module) -> int:
        """Copy the encoder of an autoencoder into this one's; how many tensors were copied, which is all of them.

        `RequestError` where there is no encoder, or the two are not of one shape; it names the setting.
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
    """`Segmenter.init_encoder`. Trainings are told apart by this function's name."""
    assert isinstance(segmenter, Segmenter)
    return segmenter.init_encoder(autoencoder)
