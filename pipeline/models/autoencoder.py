"""Convolutional residual variational autoencoder, and the encoder that segmenters share with it.

Every convolution runs in channels-last memory order, which is two to three times as fast on CPUs. Normalisation is by
group (Wu and He 2018), so what a model says of an image never depends on the rest of the batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.config import check
from pipeline.errors import RequestError
from pipeline.models.objectives import Likelihood, Posterior

_GROUP_CHANNELS = 8
# Posterior variances are kept in [exp(-12), exp(4)]: exp never overflows, and no image pins a latent without end.
_LOG_VARIANCE_RANGE = (-12.0, 4.0)
# At least half a level of 8-bit images: below, a density no longer stands for the probability of a level.
_SMALLEST_LOG_SIGMA = math.log(0.5 / 255)
# The learned log sigma travels this many times faster than a weight of the network under Adam.
_LOG_SIGMA_SPEED = 10.0


def check_stages(config: Any, *names: str) -> None:
    """What every configuration with an encoder must keep."""
    check(config, "channels", config.channels >= 1, "be at least 1")
    check(config, "widths", len(config.widths) >= 2, "have at least 2 resolutions")
    ok = all(width > 0 and width % _GROUP_CHANNELS == 0 for width in config.widths)
    check(config, "widths", ok, f"be positive multiples of {_GROUP_CHANNELS}")
    for name in names:
        blocks = getattr(config, name)
        check(config, name, len(blocks) == len(config.widths), "have as many values as widths")
        check(config, name, all(count >= 0 for count in blocks), "not be negative")


@dataclass(frozen=True, kw_only=True)
class ConvVAEConfig:
    channels: int = 3
    """Channels of the image."""
    widths: tuple[int, ...] = (32, 64, 128, 192)
    """Channels at each resolution, from half the image's size on, each half the one before."""
    blocks: tuple[int, ...] = (1, 2, 2, 2)
    """Residual blocks of the encoder at each resolution."""
    decoder_blocks: tuple[int, ...] = (1, 1, 1, 1)
    """Residual blocks of the decoder at each resolution."""
    latent_channels: int = 16
    """Latents at each place of the coarsest resolution."""
    likelihood: Likelihood = "gaussian"
    """Distribution of a pixel given the latents."""

    def __post_init__(self) -> None:
        check_stages(self, "blocks", "decoder_blocks")
        check(self, "latent_channels", self.latent_channels >= 1, "be at least 1")


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


class ConvVAE(nn.Module):
    """Variational autoencoder (Kingma and Welling 2014) with a spatial latent; takes images of any size."""

    def __init__(self, config: ConvVAEConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = ConvEncoder(config.channels, config.widths, config.blocks)
        self.posterior = nn.Conv2d(config.widths[-1], 2 * config.latent_channels, 1)
        self.decoder = ConvDecoder(config)
        if config.likelihood == "gaussian":
            self.sigma = nn.Parameter(torch.tensor(math.log(0.1) / _LOG_SIGMA_SPEED))

    @property
    def log_sigma(self) -> Float[Tensor, ""] | None:
        """Log standard deviation of a pixel given the latents; None unless the likelihood is gaussian."""
        if self.config.likelihood != "gaussian":
            return None
        return (self.sigma * _LOG_SIGMA_SPEED).clamp(min=_SMALLEST_LOG_SIGMA)

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """(d, h', w') of one image's latents."""
        return self.config.latent_channels, *_sizes(height, width, len(self.config.widths))[-1]

    def encode(self, image: Float[Tensor, "b c h w"]) -> Posterior:
        """Posterior of an image in [0, 1]; its tensors are (b, *latent_shape(h, w)), float32."""
        return self.posterior_of(self.encoder.features(image)[-1])

    def posterior_of(self, features: Float[Tensor, "b c h w"]) -> Posterior:
        mean, log_variance = self.posterior(features).float().chunk(2, dim=1)
        return Posterior(mean, log_variance.clamp(*_LOG_VARIANCE_RANGE))

    def decode(self, latent: Float[Tensor, "b d y x"], height: int, width: int) -> Tensor:
        """The expected image, (b, c, height, width), in [0, 1], float32."""
        return self.decoder(latent, height, width)

    def sample(self, noise: Float[Tensor, "b d y x"], height: int, width: int) -> Tensor:
        """Images from the prior, for standard normal noise of (b, *latent_shape(height, width))."""
        return self.decode(noise, height, width)

    def forward(self, image: Float[Tensor, "b c h w"], noise: Float[Tensor, "b d y x"]) -> tuple[Tensor, Posterior]:
        """The reconstruction through the posterior's sample for ``noise``, and the posterior."""
        posterior = self.encode(image)
        return self.decode(posterior.sample(noise), image.shape[2], image.shape[3]), posterior


class ConvDecoder(nn.Module):
    """Latents to an image; the mirror of the encoder, with a pixel shuffle (Shi et al. 2016) to the full size."""

    def __init__(self, config: ConvVAEConfig) -> None:
        super().__init__()
        self.stem = ConvNormAct(config.latent_channels, config.widths[-1], size=1)
        self.stages = nn.ModuleList()
        outputs = (*config.widths[-2::-1], config.widths[0])
        for width, output, count in zip(config.widths[::-1], outputs, config.decoder_blocks[::-1], strict=True):
            self.stages.append(nn.Sequential(*(ResidualBlock(width) for _ in range(count)), ConvNormAct(width, output)))
        self.head = nn.Conv2d(config.widths[0], config.channels * 4, 3, padding=1)

    def forward(self, latent: Float[Tensor, "b d y x"], height: int, width: int) -> Tensor:
        sizes = _sizes(height, width, len(self.stages))[::-1]
        assert latent.shape[2:] == sizes[0], (latent.shape, sizes[0])
        x = self.stem(latent.contiguous(memory_format=torch.channels_last))
        for index, (stage, size) in enumerate(zip(self.stages, sizes, strict=True)):
            x = double(x, *size) if index else x
            x = stage(x)
        return torch.sigmoid(F.pixel_shuffle(self.head(x), 2)[..., :height, :width].float())


def double(x: Float[Tensor, "b c h w"], height: int, width: int) -> Tensor:
    """Each pixel four times, cut to (height, width): the places that a stride of 2 came from, at odd sizes too."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")[..., :height, :width]


def _sizes(height: int, width: int, count: int) -> list[tuple[int, int]]:
    """Sizes of the feature maps of an image, finest first."""
    return [(-(-height // 2**level), -(-width // 2**level)) for level in range(1, count + 1)]
