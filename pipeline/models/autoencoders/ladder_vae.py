"""Hierarchical autoencoder: latents at several resolutions, inferred from the coarsest to the finest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pipeline.config import check
from pipeline.errors import RequestError
from pipeline.models.autoencoders.decoder import decoder_head, decoder_stages, to_image
from pipeline.models.autoencoders.interface import Autoencoder, AutoencoderConfig
from pipeline.models.autoencoders.latents import Code, Gaussian, Inference, Level, standard_normal
from pipeline.models.layers import ConvNormAct, ResidualBlock, double, sizes

# Range of a prior's log variance, and of the log ratio of the posterior's variance to it: neither collapses to a point.
_LOG_VARIANCE_RANGE = (-8.0, 4.0)


@dataclass(frozen=True, kw_only=True)
class LadderVAEConfig(AutoencoderConfig):
    latent_channels: tuple[int, ...] = (16, 8, 4)
    """Latent channels of each stochastic level, coarsest level first; 2 to 4 levels."""
    size_px: tuple[int, int] | None = None
    """Height and width of every image in pixels, if the coarsest level is one vector for each image. null: images may
    have any size, and the coarsest level has latents at each position."""

    code: ClassVar[Code] = "gaussian"

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, "latent_channels", 2 <= len(self.latent_channels) <= 4, "have 2 to 4 levels")
        check(
            self, "latent_channels", len(self.latent_channels) <= len(self.widths), "not have more levels than widths"
        )
        check(self, "latent_channels", min(self.latent_channels) >= 1, "be at least 1")
        check(self, "size_px", self.size_px is None or min(self.size_px) >= 1, "be at least 1")


class LadderVAE(Autoencoder):
    """Variational autoencoder with a hierarchy: each level's prior and posterior are conditioned on the coarser levels.

    The posterior combines a bottom-up pass with the generative top-down pass (Sonderby et al. 2016) and is expressed
    relative to the prior, as in NVAE (Vahdat and Kautz 2020). Here its shift is in units of the prior's standard
    deviation. So a level that carries no information costs 0 nats, and the KL does not depend on the prior's variance.
    """

    def __init__(self, config: LadderVAEConfig) -> None:
        super().__init__(config)
        self.config: LadderVAEConfig = config
        widths = config.widths[::-1]
        self.top = nn.Parameter(torch.zeros(1, widths[0], 1, 1))
        rungs: list[Rung | DenseRung] = [
            Rung(width, latents, is_top=not index)
            for index, (width, latents) in enumerate(zip(widths, config.latent_channels, strict=False))
        ]
        if config.size_px is not None:
            size = sizes(*config.size_px, len(config.widths))[-1]
            rungs[0] = DenseRung(widths[0], config.latent_channels[0], size)
        self.rungs = nn.ModuleList(rungs)
        self.stages = decoder_stages(config)
        self.head = decoder_head(config)

    def latent_shapes(self, height: int, width: int) -> list[tuple[int, int, int]]:
        coarsest_first = sizes(height, width, len(self.config.widths))[::-1]
        if self.config.size_px is not None:
            coarsest_first[0] = (1, 1)
        return [(d, *size) for d, size in zip(self.config.latent_channels, coarsest_first, strict=False)]

    def encode(self, image: Float[Tensor, "b c h w"]) -> list[Tensor]:
        if self.config.size_px not in (None, tuple(image.shape[2:])):
            rule = f"LadderVAEConfig.size_px is {self.config.size_px}"
            raise RequestError(f"{rule}, but images are {tuple(image.shape[2:])}")
        return self.encoder.feature_maps(image)[::-1][: len(self.rungs)]

    def infer_encoded(
        self, encoded: Sequence[Tensor], noise: Sequence[Tensor] | None, height: int, width: int
    ) -> Inference:
        levels: list[Level] = []

        def choose(index: int, prior: Gaussian, rung: Rung | DenseRung, x: Tensor) -> Tensor:
            posterior = rung.posterior_of(x, encoded[index], prior)
            sample = posterior.mean if noise is None else posterior.sample(noise[index])
            levels.append(Level(sample, posterior.mean, posterior, prior))
            return sample

        logits = self._descend(len(encoded[0]), height, width, choose)
        return Inference(tuple(levels), logits)

    def decode(self, latents: Sequence[Tensor], height: int, width: int) -> Float[Tensor, "b c h w"]:
        return torch.sigmoid(self._descend(len(latents[0]), height, width, lambda index, *_: latents[index]))

    def sample(self, noise: Sequence[Tensor], height: int, width: int) -> Float[Tensor, "b c h w"]:
        return torch.sigmoid(
            self._descend(len(noise[0]), height, width, lambda index, prior, *_: prior.sample(noise[index]))
        )

    def _descend(
        self, count: int, height: int, width: int, choose: Callable[[int, Gaussian, Rung | DenseRung, Tensor], Tensor]
    ) -> Tensor:
        """The logits of the top-down pass. ``choose`` returns the latents of a level, given its prior and features."""
        coarsest_first = sizes(height, width, len(self.stages))[::-1]
        x = self.top.expand(count, -1, *coarsest_first[0]).contiguous(memory_format=torch.channels_last)
        for index, (stage, size) in enumerate(zip(self.stages, coarsest_first, strict=True)):
            x = double(x, *size) if index else x
            if index < len(self.rungs):
                rung = self.rungs[index]
                assert isinstance(rung, Rung | DenseRung)
                x = rung(x, choose(index, rung.prior_of(x), rung, x))
            x = stage(x)
        return to_image(self.head(x), height, width)


class Rung(nn.Module):
    """One stochastic level: its prior, its posterior, and the layer that adds its latents to the top-down features."""

    def __init__(self, width: int, latents: int, *, is_top: bool) -> None:
        super().__init__()
        self.latents = latents
        self.prior = None if is_top else nn.Sequential(ResidualBlock(width), _near_zero_conv(width, 2 * latents))
        self.join = nn.Sequential(ConvNormAct(2 * width, width, size=1), ResidualBlock(width))
        self.posterior = _near_zero_conv(width, 2 * latents)
        self.merge = nn.Conv2d(latents, width, 1)

    def prior_of(self, x: Float[Tensor, "b c y x"]) -> Gaussian:
        """The prior given the coarser levels; standard normal at the coarsest level."""
        if self.prior is None:
            return standard_normal(x[:, :1].expand(-1, self.latents, -1, -1))
        mean, log_variance = self.prior(x).float().chunk(2, dim=1)
        return Gaussian(mean, log_variance.clamp(*_LOG_VARIANCE_RANGE))

    def posterior_of(
        self, x: Float[Tensor, "b c y x"], features: Float[Tensor, "b c y x"], prior: Gaussian
    ) -> Gaussian:
        """The posterior given the coarser levels and the image's features at this resolution."""
        shift, log_factor = self.posterior(self.join(torch.cat((x, features), dim=1))).float().chunk(2, dim=1)
        return Gaussian(prior.sample(shift), prior.log_variance + log_factor.clamp(*_LOG_VARIANCE_RANGE))

    def forward(self, x: Float[Tensor, "b c y x"], latent: Float[Tensor, "b d y x"]) -> Float[Tensor, "b c y x"]:
        return x + self.merge(latent)


class DenseRung(nn.Module):
    """A coarsest level of one vector for each image: its kernels cover the whole map, so its layers are linear."""

    def __init__(self, width: int, latents: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.latents = latents
        self.posterior = nn.Conv2d(width, 2 * latents, size)
        self.spread = nn.ConvTranspose2d(latents, width, size)

    def prior_of(self, x: Float[Tensor, "b c y x"]) -> Gaussian:
        """The standard normal prior."""
        return standard_normal(x[:, :1, :1, :1].expand(-1, self.latents, -1, -1))

    def posterior_of(
        self, x: Float[Tensor, "b c y x"], features: Float[Tensor, "b c y x"], prior: Gaussian
    ) -> Gaussian:
        """The posterior given the image's features."""
        mean, log_variance = self.posterior(features).float().chunk(2, dim=1)
        return Gaussian(mean, log_variance.clamp(*_LOG_VARIANCE_RANGE))

    def forward(self, x: Float[Tensor, "b c y x"], latent: Float[Tensor, "b d 1 1"]) -> Float[Tensor, "b c y x"]:
        return x + self.spread(latent)


def _near_zero_conv(inputs: int, outputs: int) -> nn.Conv2d:
    """A 1 x 1 convolution with small weights, so that at the start priors are near standard normal and posteriors are
    near their priors."""
    layer = nn.Conv2d(inputs, outputs, 1)
    with torch.no_grad():
        layer.weight.mul_(0.1)
        layer.bias.zero_() if layer.bias is not None else None
    return layer
