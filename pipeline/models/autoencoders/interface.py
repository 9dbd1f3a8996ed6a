"""The interface of all autoencoders. Objectives, samplers and novelty scores use nothing else."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pipeline.config import check
from pipeline.models.autoencoders.latents import Inference
from pipeline.models.autoencoders.likelihoods import Likelihood
from pipeline.models.layers import ConvEncoder, check_stages

# Half a level of 8-bit images. With a smaller scale, density times width is no longer the probability of a level.
_SMALLEST_LOG_SIGMA = math.log(0.5 / 255)
# The parameter is the log scale divided by this number, so that Adam moves the log scale this many times faster than
# the other weights.
_LOG_SIGMA_SPEED = 10.0


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig:
    channels: int = 3
    """Channels of the image: 3 for RGB, 1 for gray."""
    widths: tuple[int, ...] = (32, 64, 128, 192)
    """Channels at each resolution: at 1/2 of the image's size, at 1/4, and so on."""
    blocks: tuple[int, ...] = (1, 2, 2, 2)
    """Number of residual blocks of the encoder at each resolution."""
    decoder_blocks: tuple[int, ...] = (1, 1, 1, 1)
    """Number of residual blocks of the decoder at each resolution."""
    likelihood: Likelihood = "gaussian"
    """Distribution of a pixel's value given the latents."""
    scale: float | None = None
    """Scale of that distribution for pixels in [0, 1]; the standard deviation if gaussian. null: it is learned."""

    def __post_init__(self) -> None:
        check_stages(self, "blocks", "decoder_blocks")
        check(self, "scale", self.scale is None or self.scale > 0, "be positive, or null")
        check(self, "scale", self.scale is None or self.likelihood != "bernoulli", "be null, if bernoulli")


class Autoencoder(nn.Module, ABC):
    """The interface of all autoencoders, with one or several levels of latents.

    `infer` maps images to latents and to reconstructions; `decode` maps latents to images; `sample` maps noise of the
    prior to images. Lists of latents and of noise have one tensor (b, *shape) for each of `latent_shapes`, coarsest
    level first. A model whose code is not Gaussian is not trained towards its standard normal prior, so `sample` makes
    realistic images only from noise that a fitted sampler has drawn.
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
        """Log of the scale of a pixel's distribution. None for a Bernoulli distribution, which has no scale."""
        if self.config.likelihood == "bernoulli":
            return None
        return (self.sigma * _LOG_SIGMA_SPEED).clamp(min=_SMALLEST_LOG_SIGMA)

    @abstractmethod
    def latent_shapes(self, height: int, width: int) -> list[tuple[int, int, int]]:
        """Shape (d, y, x) of one image's latents at each level, coarsest first."""

    @abstractmethod
    def encode(self, image: Float[Tensor, "b c h w"]) -> list[Tensor]:
        """Everything that `infer_encoded` needs of images in [0, 1]: tensors (b, ...). It contains nothing random.

        Raises `RequestError` if the channels or the size of the images are not those of the configuration.
        """

    @abstractmethod
    def infer_encoded(
        self, encoded: Sequence[Tensor], noise: Sequence[Tensor] | None, height: int, width: int
    ) -> Inference:
        """`infer` from the result of `encode`. Repeat its rows to draw several samples of each image's latents."""

    def infer(self, image: Float[Tensor, "b c h w"], noise: Sequence[Tensor] | None) -> Inference:
        """Latents and reconstructions of images in [0, 1], float32. With ``noise`` None, latents are at their means.

        Raises `RequestError` if the channels or the size of the images are not those of the configuration.
        """
        return self.infer_encoded(self.encode(image), noise, image.shape[2], image.shape[3])

    @abstractmethod
    def decode(self, latents: Sequence[Tensor], height: int, width: int) -> Float[Tensor, "b c h w"]:
        """The expected images for given latents, in [0, 1], (b, c, height, width), float32."""

    @abstractmethod
    def sample(self, noise: Sequence[Tensor], height: int, width: int) -> Float[Tensor, "b c h w"]:
        """The expected images for latents that are drawn from the prior by means of standard normal ``noise``."""

    def reconstruct(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """The expected images for the means of the latents, in [0, 1]."""
        return torch.sigmoid(self.infer(image, None).logits)
