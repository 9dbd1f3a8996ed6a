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

# Range of the log variance. The upper end keeps exp from overflowing; the lower end keeps posteriors from collapsing to
# a point.
_LOG_VARIANCE_RANGE = (-12.0, 4.0)
# Gates start almost open: a gate that starts closed gets no gradient, so it would never open.
_FIRST_LOG_ALPHA = 2.0


@dataclass(frozen=True, kw_only=True)
class ConvVAEConfig(AutoencoderConfig):
    latent_channels: int = 16
    """Latent channels: for each position of the coarsest feature map, or for the whole image if latent is dense."""
    latent: Literal["spatial", "dense"] = "spatial"
    """spatial: latents at each position, for images of any size. dense: one vector for an image of size_px."""
    size_px: tuple[int, int] | None = None
    """Height and width of every image in pixels. Required if latent is dense, and not allowed otherwise."""
    code: Code = "gaussian"
    """Kind of latents: gaussian has a posterior; deterministic has plain numbers; hard_concrete has numbers that are
    multiplied by gates in [0, 1]; top_k has numbers of which only the largest are kept."""
    active_fraction: float = 0.1
    """Fraction of an image's latents that top_k keeps; the others become 0."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, "latent_channels", self.latent_channels >= 1, "be at least 1")
        dense = self.latent == "dense"
        check(self, "size_px", (self.size_px is not None) == dense, "be given if latent is dense, and only then")
        check(self, "size_px", self.size_px is None or min(self.size_px) >= 1, "be at least 1")
        check(self, "active_fraction", 0 < self.active_fraction <= 1, "be in (0, 1]")


class ConvVAE(Autoencoder):
    """Variational autoencoder (Kingma and Welling 2014) with one level of latents, or a deterministic or sparse one."""

    def __init__(self, config: ConvVAEConfig) -> None:
        super().__init__(config)
        self.config: ConvVAEConfig = config
        values = 2 if config.code in ("gaussian", "hard_concrete") else 1
        size = (1, 1) if config.size_px is None else sizes(*config.size_px, len(config.widths))[-1]
        # A convolution whose kernel covers the whole feature map is a linear layer: the result has one position.
        self.posterior = nn.Conv2d(config.widths[-1], values * config.latent_channels, size)
        self.decoder = ConvDecoder(config)
        if config.code == "hard_concrete":
            assert self.posterior.bias is not None
            with torch.no_grad():
                _half_of_channels(self.posterior.bias, 1).fill_(_FIRST_LOG_ALPHA)

    def latent_shapes(self, height: int, width: int) -> list[tuple[int, int, int]]:
        if self.config.latent == "dense":
            return [(self.config.latent_channels, 1, 1)]
        return [(self.config.latent_channels, *sizes(height, width, len(self.config.widths))[-1])]

    def encode(self, image: Float[Tensor, "b c h w"]) -> list[Tensor]:
        if self.config.size_px not in (None, tuple(image.shape[2:])):
            rule = f"ConvVAEConfig.size_px is {self.config.size_px}"
            raise RequestError(f"{rule}, but images are {tuple(image.shape[2:])}")
        return [self.posterior(self.encoder.feature_maps(image)[-1]).float()]

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
        """The latents as one `Level`, computed from a result of `encode`; nothing is decoded."""
        code = self.config.code
        if code == "gaussian":
            posterior = Gaussian(_half_of_channels(found, 0), _half_of_channels(found, 1).clamp(*_LOG_VARIANCE_RANGE))
            sample = posterior.mean if noise is None else posterior.sample(noise)
            return Level(sample, posterior.mean, posterior, standard_normal(sample))
        if code == "hard_concrete":
            values, log_alpha = _half_of_channels(found, 0), _half_of_channels(found, 1)
            sample = values * hard_concrete(log_alpha, noise)
            mean = sample if noise is None else values * hard_concrete(log_alpha, None)
            return Level(sample, mean, None, standard_normal(sample), log_alpha)
        if code == "top_k":
            found = top_k(found, self.config.active_fraction)
        return Level(found, found, None, standard_normal(found))


class ConvDecoder(nn.Module):
    """Maps latents to an image: the encoder mirrored, with a pixel shuffle (Shi et al. 2016) up to the full size."""

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


def _half_of_channels(values: Tensor, index: int) -> Tensor:
    """The first (``index`` 0) or second (1) half of the channels."""
    return values.chunk(2, dim=min(1, values.ndim - 1))[index]
