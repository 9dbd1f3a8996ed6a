"""The interface of all segmenters. Tasks, jobs and packages use nothing else."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from jaxtyping import Float
from torch import Tensor, nn

from pipeline.config import added, check
from pipeline.errors import RequestError
from pipeline.models.layers import ConvEncoder, check_stages, use_channel_norm

#: The layers whose number of outputs is that of the classes; see `Segmenter`.
_HEAD = "head."


@dataclass(frozen=True, kw_only=True)
class SegmenterConfig:
    classes: int
    """Number of classes of a pixel."""
    channels: int = 3
    """Channels of the image: 3 for RGB."""

    def __post_init__(self) -> None:
        check(self, "classes", self.classes >= 2, "be at least 2")
        check(self, "channels", self.channels >= 1, "be at least 1")


@dataclass(frozen=True, kw_only=True)
class EncoderConfig(SegmenterConfig):
    """Settings of a segmenter whose encoder is that of the autoencoders. Subclasses give ``widths`` and ``blocks``."""

    widths: tuple[int, ...]
    """Channels at each resolution: at 1/2 of the image's size, at 1/4, and so on."""
    blocks: tuple[int, ...]
    """Number of residual blocks of the encoder at each resolution."""

    norm: Literal["group", "channel"] = added("group")
    """What is normalised: group, groups of channels over the whole image; channel, all channels at each position, so
    that a tile of an image gives what the image does there."""

    #: The fewest resolutions that the architecture can be made of.
    least_stages: ClassVar[int] = 1
    #: The settings that are numbers of channels: `of_width` sets all of them in the proportions of their defaults.
    scaled: ClassVar[tuple[str, ...]] = ("widths",)

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, "norm", self.norm in ("group", "channel"), "be group or channel")
        check_stages(self, "blocks")
        check(self, "widths", len(self.widths) >= self.least_stages, f"have at least {self.least_stages} resolutions")

    @classmethod
    def of_width(cls, width: int) -> dict[str, Any]:
        """The settings in `scaled` for ``width`` channels at the finest resolution. `RequestError` if it is not a
        positive multiple of 8."""
        if width < 8 or width % 8:
            raise RequestError(f"width must be a positive multiple of 8, got {width}")
        defaults = {field.name: field.default for field in dataclasses.fields(cls)}
        unit: int = defaults["widths"][0]  # type: ignore[index]
        return {name: _times(defaults[name], width, unit) for name in cls.scaled}

    def encoder(self, output_stride: int | None = None) -> ConvEncoder:
        """A new encoder with these settings."""
        return ConvEncoder(self.channels, self.widths, self.blocks, output_stride)


class Segmenter(nn.Module, ABC):
    """A network that assigns a class to every pixel of an image.

    The constructor of a subclass takes only a `SegmenterConfig` and stores it as ``config``. The module ``head`` has
    all weights whose shapes depend on the number of classes, and no others that could be used for other classes. A
    segmenter that uses the autoencoders' encoder (`pipeline.models.layers.ConvEncoder`) stores it as ``encoder``. Its
    training can then start from the weights of an autoencoder.
    """

    config: Any
    #: The engines that can run the network (`pipeline.engines`).
    engines: tuple[str, ...] = ("float32", "bfloat16")

    @property
    def classes(self) -> int:
        return self.config.classes

    @property
    def channels(self) -> int:
        return self.config.channels

    @abstractmethod
    def forward(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k h w"]:
        """Logits of each class for an image in [0, 1], at the image's size, float32."""

    def training_outputs(
        self, image: Float[Tensor, "b c h w"], draw: Callable[..., Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """What a training step needs: the logits, as from `forward`, and penalties by name, which the loss adds.

        A penalty is (b,), in nats per pixel, and weighted already. ``draw(*shape)`` gives standard normal numbers
        (b, *shape) that belong to the images. Most networks have no penalty.
        """
        return self(image), {}

    def _normalise(self) -> None:
        """Use the normalisation that the settings ask for. Constructors of networks with an encoder end with it."""
        if self.config.norm == "channel":
            use_channel_norm(self)

    def check_channels(self, image: Float[Tensor, "b c h w"]) -> None:
        """`RequestError` if the number of channels of the images is not that of the network."""
        if image.shape[1] != self.channels:
            name = type(self.config).__name__
            raise RequestError(f"{name}.channels is {self.channels}, but images have {image.shape[1]}")

    def feature_maps(self, image: Float[Tensor, "b c h w"]) -> list[Tensor]:
        """The encoder's feature maps of images in [0, 1], finest first. `RequestError` if there is no encoder."""
        return self._encoder().feature_maps(image)

    @property
    def has_encoder(self) -> bool:
        """Whether the network uses the autoencoders' encoder."""
        return hasattr(self, "encoder")

    @contextmanager
    def coarsest_maps(self) -> Iterator[list[Float[Tensor, "b c h w"]]]:
        """Collects the encoder's coarsest feature map of each forward pass inside the context."""
        found: list[Tensor] = []
        hook = self._encoder().stages[-1].register_forward_hook(lambda _, __, output: found.append(output))
        try:
            yield found
        finally:
            hook.remove()

    def init_encoder(self, autoencoder: nn.Module) -> list[str]:
        """Copy the weights of an autoencoder's encoder into this encoder; returns the names of the tensors.

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
        return [f"encoder.{name}" for name in weights]

    def init_all(self, other: Segmenter, *, head: bool) -> list[str]:
        """Copy the weights of another segmenter, with or without its head; returns the names of the tensors.

        Raises `RequestError` if it is of another architecture or has other settings, besides the number of classes if
        the head is not copied; the message names the setting.
        """
        if type(self) is not type(other):
            raise RequestError(f"the network must be the package's {type(other).__name__}, got {type(self).__name__}")
        for field in dataclasses.fields(self.config):
            mine, theirs = getattr(self.config, field.name), getattr(other.config, field.name)
            if mine != theirs and (head or field.name != "classes"):
                rule = f"{type(self.config).__name__}.{field.name} must be the package's {theirs!r}"
                raise RequestError(f"{rule}, got {mine!r}")
        weights = {name: value for name, value in other.state_dict().items() if head or not name.startswith(_HEAD)}
        self.load_state_dict({**self.state_dict(), **weights})
        return list(weights)

    def _encoder(self) -> Any:
        encoder = getattr(self, "encoder", None)
        if encoder is None:
            raise RequestError(f"{type(self).__name__} has no encoder that an autoencoder could start")
        return encoder


def init_from_autoencoder(segmenter: nn.Module, autoencoder: nn.Module) -> list[str]:
    """Call `Segmenter.init_encoder`. Do not rename: a training's digest contains the name of this function."""
    assert isinstance(segmenter, Segmenter)
    return segmenter.init_encoder(autoencoder)


def _times(value: Any, numerator: int, denominator: int) -> Any:
    """Numbers of channels, times a fraction."""
    if isinstance(value, tuple):
        return tuple(_times(item, numerator, denominator) for item in value)
    return value * numerator // denominator
