"""Convolutional residual autoencoder, what all autoencoders keep, and the encoder that segmenters share with them.

Every convolution runs in channels-last memory order, which is two to three times as fast on CPUs. Normalisation is by
group (Wu and He 2018), so what a model says of an image never depends on the rest of the batch.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.config import check
from pipeline.errors import RequestError
from pipeline.models.latents import Code, Gaussian, Inference, Level, hard_concrete, standard_normal, top_k
from pipeline.models.likelihoods import Likelihood

_GROUP_CHANNELS = 8
# Variances are kept in [exp(-12), exp(4)]: exp never overflows, and no image pins a latent without end.
_LOG_VARIANCE_RANGE = (-12.0, 4.0)
# At least half a level of 8-bit images: below, a density no longer stands for the probability of a level.
_SMALLEST_LOG_SIGMA = math.log(0.5 / 255)
# The learned log scale travels this many times faster than a weight of the network under Adam.
_LOG_SIGMA_SPEED = 10.0
# Gates begin nearly open: what is closed from the start never learns what it could have said.
_FIRST_LOG_ALPHA = 2.0


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


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig:
    channels: int = 3
    """Channels of the image."""
    widths: tuple[int, ...] = (32, 64, 128, 192)
    """Channels at each resolution, from half the image's size on, each half the one before."""
    blocks: tuple[int, ...] = (1, 2, 2, 2)
    """Residual blocks of the encoder at each resolution."""
    decoder_blocks: tuple[int, ...] = (1, 1, 1, 1)
    """Residual blocks of the decoder at each resolution."""
    likelihood: Likelihood = "gaussian"
    """Distribution of a pixel given the latents."""
    scale: float | None = None
    """Scale of that distribution (the standard deviation, if gaussian), pixels being in [0, 1]; null: it is learned."""

    def __post_init__(self) -> None:
        check_stages(self, "blocks", "decoder_blocks")
        check(self, "scale", self.scale is None or self.scale > 0, "be positive, or null")
        check(self, "scale", self.scale is None or self.likelihood != "bernoulli", "be null, if bernoulli")


@dataclass(frozen=True, kw_only=True)
class ConvVAEConfig(AutoencoderConfig):
    latent_channels: int = 16
    """Latents at each place of the coarsest resolution, or of a whole image if dense."""
    latent: Literal["spatial", "dense"] = "spatial"
    """Latents at each place, for images of any size; or one vector for an image of size_px."""
    size_px: tuple[int, int] | None = None
    """Height and width of every image, if dense."""
    code: Code = "gaussian"
    """Latents have a Gaussian posterior; or they are numbers, each with a hard-concrete gate, or the top_k of them."""
    active_fraction: float = 0.1
    """Part of an image's latents that top_k leaves."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, "latent_channels", self.latent_channels >= 1, "be at least 1")
        dense = self.latent == "dense"
        check(self, "size_px", (self.size_px is not None) == dense, "be given if latent is dense, and only then")
        check(self, "size_px", self.size_px is None or min(self.size_px) >= 1, "be at least 1")
        check(self, "active_fraction", 0 < self.active_fraction <= 1, "be in (0, 1]")


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


class Autoencoder(nn.Module, ABC):
    """What objectives, samplers and novelty scores know of every autoencoder, flat or hierarchical.

    `infer` goes from images to latents and back; `decode` and `sample` start from latents and from the noise of the
    prior. Lists of latents and of noise have one (b, *shape) tensor for each of `latent_shapes`, coarsest level first.
    Where the code is no Gaussian, the prior is standard normal in name only, until a sampler is fitted.
    """

    sigma: Tensor

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = ConvEncoder(config.channels, config.widths, config.blocks)
        if config.likelihood != "bernoulli":
            first = torch.tensor(math.log(config.scale or 0.1) / _LOG_SIGMA_SPEED)
            if config.scale is None:
                self.sigma = nn.Parameter(first)
            else:
                self.register_buffer("sigma", first, persistent=False)

    @property
    def log_scale(self) -> Float[Tensor, ""] | None:
        """Log of the scale of a pixel's distribution; None if it is bernoulli, which has none."""
        if self.config.likelihood == "bernoulli":
            return None
        return (self.sigma * _LOG_SIGMA_SPEED).clamp(min=_SMALLEST_LOG_SIGMA)

    @abstractmethod
    def latent_shapes(self, height: int, width: int) -> list[tuple[int, int, int]]:
        """(d, y, x) of one image's latents at each level, coarsest first."""

    @abstractmethod
    def encode(self, image: Float[Tensor, "b c h w"]) -> list[Tensor]:
        """What inference needs to know of an image in [0, 1], (b, ...) each, for any number of draws.

        Raises `RequestError` if the image is not what the configuration says.
        """

    @abstractmethod
    def infer_encoded(
        self, encoded: Sequence[Tensor], noise: Sequence[Tensor] | None, height: int, width: int
    ) -> Inference:
        """`infer` of images that `encode` has seen; their rows may be repeated, to draw from each many times."""

    def infer(self, image: Float[Tensor, "b c h w"], noise: Sequence[Tensor] | None) -> Inference:
        """Latents of an image in [0, 1] and its reconstruction, float32; ``noise`` None gives the mean at each level.

        Raises `RequestError` if the image is not what the configuration says.
        """
        return self.infer_encoded(self.encode(image), noise, image.shape[2], image.shape[3])

    @abstractmethod
    def decode(self, latents: Sequence[Tensor], height: int, width: int) -> Float[Tensor, "b c h w"]:
        """The expected image in [0, 1], (b, c, height, width), float32."""

    @abstractmethod
    def sample(self, noise: Sequence[Tensor], height: int, width: int) -> Float[Tensor, "b c h w"]:
        """Expected images of the prior, for standard normal noise."""

    def reconstruct(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """The expected image at the mean of the latents."""
        return torch.sigmoid(self.infer(image, None).logits)


class ConvVAE(Autoencoder):
    """Variational autoencoder (Kingma and Welling 2014) of one level, or its deterministic and sparse kin."""

    def __init__(self, config: ConvVAEConfig) -> None:
        super().__init__(config)
        self.config: ConvVAEConfig = config
        values = 2 if config.code in ("gaussian", "hard_concrete") else 1
        size = (1, 1) if config.size_px is None else sizes(*config.size_px, len(config.widths))[-1]
        # Over all places of a dense latent's image, a convolution is a linear layer.
        self.posterior = nn.Conv2d(config.widths[-1], values * config.latent_channels, size)
        self.decoder = ConvDecoder(config)
        if config.code == "hard_concrete":
            assert self.posterior.bias is not None
            with torch.no_grad():
                _half(self.posterior.bias, 1).fill_(_FIRST_LOG_ALPHA)

    def latent_shapes(self, height: int, width: int) -> list[tuple[int, int, int]]:
        if self.config.latent == "dense":
            return [(self.config.latent_channels, 1, 1)]
        return [(self.config.latent_channels, *sizes(height, width, len(self.config.widths))[-1])]

    def encode(self, image: Float[Tensor, "b c h w"]) -> list[Tensor]:
        if self.config.size_px not in (None, tuple(image.shape[2:])):
            rule = f"ConvVAEConfig.size_px is {self.config.size_px}"
            raise RequestError(f"{rule}, but images are {tuple(image.shape[2:])}")
        return [self.posterior(self.encoder.features(image)[-1]).float()]

    def infer_encoded(
        self, encoded: Sequence[Tensor], noise: Sequence[Tensor] | None, height: int, width: int
    ) -> Inference:
        level = self._level(encoded[0], noise[0] if noise else None)
        return Inference((level,), self.decoder(level.sample, height, width))

    def decode(self, latents: Sequence[Tensor], height: int, width: int) -> Float[Tensor, "b c h w"]:
        return torch.sigmoid(self.decoder(latents[0], height, width))

    def sample(self, noise: Sequence[Tensor], height: int, width: int) -> Float[Tensor, "b c h w"]:
        return self.decode(noise, height, width)

    def _level(self, found: Tensor, noise: Tensor | None) -> Level:
        code = self.config.code
        if code == "gaussian":
            posterior = Gaussian(_half(found, 0), _half(found, 1).clamp(*_LOG_VARIANCE_RANGE))
            sample = posterior.mean if noise is None else posterior.sample(noise)
            return Level(sample, posterior.mean, posterior, standard_normal(sample))
        if code == "hard_concrete":
            values, log_alpha = _half(found, 0), _half(found, 1)
            sample = values * hard_concrete(log_alpha, noise)
            mean = sample if noise is None else values * hard_concrete(log_alpha, None)
            return Level(sample, mean, None, standard_normal(sample), log_alpha)
        if code == "top_k":
            found = top_k(found, self.config.active_fraction)
        return Level(found, found, None, standard_normal(found))


class ConvDecoder(nn.Module):
    """Latents to an image; the mirror of the encoder, with a pixel shuffle (Shi et al. 2016) to the full size."""

    def __init__(self, config: ConvVAEConfig) -> None:
        super().__init__()
        self.spread = None
        latents, width = config.latent_channels, config.widths[-1]
        if config.size_px is not None:
            self.spread = nn.ConvTranspose2d(latents, width, sizes(*config.size_px, len(config.widths))[-1])
        self.stem = ConvNormAct(latents if self.spread is None else width, width, size=1)
        self.stages = decoder_stages(config)
        self.head = decoder_head(config)

    def forward(self, latent: Float[Tensor, "b d y x"], height: int, width: int) -> Tensor:
        """Logits of the expected image, (b, c, height, width), float32."""
        coarsest_first = sizes(height, width, len(self.stages))[::-1]
        x = latent.contiguous(memory_format=torch.channels_last)
        x = self.stem(x if self.spread is None else self.spread(x))
        assert x.shape[2:] == coarsest_first[0], (x.shape, coarsest_first[0])
        for index, (stage, size) in enumerate(zip(self.stages, coarsest_first, strict=True)):
            x = double(x, *size) if index else x
            x = stage(x)
        return to_image(self.head(x), height, width)


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


def double(x: Float[Tensor, "b c h w"], height: int, width: int) -> Tensor:
    """Each pixel four times, cut to (height, width): the places that a stride of 2 came from, at odd sizes too."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")[..., :height, :width]


def sizes(height: int, width: int, count: int) -> list[tuple[int, int]]:
    """Sizes of the feature maps of an image, finest first."""
    return [(-(-height // 2**level), -(-width // 2**level)) for level in range(1, count + 1)]


def _half(values: Tensor, index: int) -> Tensor:
    """The first or the second half of the channels."""
    return values.chunk(2, dim=min(1, values.ndim - 1))[index]
