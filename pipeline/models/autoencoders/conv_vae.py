"""Convolutional residual autoencoder with one level of latents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pipeline.config import check
from pipeline.errors import RequestError
from pipeline.models.autoencoders.decoder import decoder_head, decoder_stages, to_image
from pipeline.models.autoencoders.interface import Autoencoder, AutoencoderConfig
from pipeline.models.autoencoders.latents import Code, Gaussian, Inference, Level, hard_concrete, standard_normal, top_k
from pipeline.models.layers import ConvNormAct, double, sizes

# Variances are kept in [exp(-12), exp(4)]: exp never overflows, and no image pins a latent without end.
_LOG_VARIANCE_RANGE = (-12.0, 4.0)
# Gates begin nearly open: what is closed from the start never learns what it could have said.
_FIRST_LOG_ALPHA = 2.0


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
        level = self.level(encoded[0], noise[0] if noise else None)
        return Inference((level,), self.decoder(level.sample, height, width))

    def decode(self, latents: Sequence[Tensor], height: int, width: int) -> Float[Tensor, "b c h w"]:
        return torch.sigmoid(self.decoder(latents[0], height, width))

    def sample(self, noise: Sequence[Tensor], height: int, width: int) -> Float[Tensor, "b c h w"]:
        return self.decode(noise, height, width)

    def level(self, found: Float[Tensor, "b n y x"], noise: Tensor | None) -> Level:
        """The latents that the encoder found, from what `encode` gives, without the cost of a reconstruction."""
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


def _half(values: Tensor, index: int) -> Tensor:
    """The first or the second half of the channels."""
    return values.chunk(2, dim=min(1, values.ndim - 1))[index]
