"""What objectives, samplers and novelty scores know of every autoencoder."""

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

# At least half a level of 8-bit images: below, a density no longer stands for the probability of a level.
_SMALLEST_LOG_SIGMA = math.log(0.5 / 255)
# The learned log scale travels this many times faster than a weight of the network under Adam.
_LOG_SIGMA_SPEED = 10.0


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
