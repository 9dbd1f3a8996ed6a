"""U-Net whose encoder must also tell enough of an image to draw it again, which helps where labels are few."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pipeline.config import check
from pipeline.models.autoencoders.conv_vae import ConvDecoder, ConvVAEConfig
from pipeline.models.autoencoders.latents import Gaussian, kl, standard_normal
from pipeline.models.segmenters.unet import UNet, UNetConfig

# Scale of a pixel around its reconstruction, in [0, 1]. It is about the spread of photographs, so the squared error is
# that of images of unit variance, as in the paper.
_SCALE = 0.25
_LOG_VARIANCE_RANGE = (-12.0, 4.0)


@dataclass(frozen=True, kw_only=True)
class VAEUNetConfig(UNetConfig):
    latent_channels: int = 16
    """Latent channels of the variational autoencoder at each position of the coarsest feature map."""
    vae_weight: float = 0.1
    """Weight of its cost (reconstruction and KL, in nats per pixel) beside the cross entropy."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, "latent_channels", self.latent_channels >= 1, "be at least 1")
        check(self, "vae_weight", self.vae_weight >= 0, "not be negative")


class VAEUNet(UNet):
    """U-Net with a variational autoencoder on the end of its encoder (Myronenko 2018), evaluated in training only.

    The paper's latents are one vector for an image. These are spatial, so images may have any size.
    """

    def __init__(self, config: VAEUNetConfig) -> None:
        super().__init__(config)
        self._weight = config.vae_weight
        self.posterior = nn.Conv2d(config.widths[-1], 2 * config.latent_channels, 1)
        self.reconstruction = ConvDecoder(
            ConvVAEConfig(
                channels=config.channels,
                widths=config.widths,
                blocks=config.blocks,
                decoder_blocks=(0,) * len(config.widths),
                latent_channels=config.latent_channels,
            )
        )

    def training_outputs(
        self, image: Float[Tensor, "b c h w"], draw: Callable[..., Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The penalties are ``reconstruction``, without its constant, and ``kl``."""
        self.check_channels(image)
        height, width = image.shape[2:]
        maps = self.encoder.feature_maps(image)
        mean, log_variance = self.posterior(maps[-1]).float().chunk(2, dim=1)
        latent = Gaussian(mean, log_variance.clamp(*_LOG_VARIANCE_RANGE))
        sample = latent.sample(draw(*mean.shape[1:]))
        drawn = torch.sigmoid(self.reconstruction(sample, height, width))
        error = 0.5 * ((image - drawn) / _SCALE).square()
        costs = {"reconstruction": error, "kl": kl(latent, standard_normal(mean))}
        weight = self._weight / (height * width)
        penalties = {name: weight * cost.flatten(1).sum(1) for name, cost in costs.items()}
        return self.logits(maps, height, width), penalties
