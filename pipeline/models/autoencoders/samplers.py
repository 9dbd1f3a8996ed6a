"""Samplers: distributions of latents from which an autoencoder's decoder makes new images.

An autoencoder can draw latents from its prior. If the aggregate posterior (the distribution of the latents of real
images) differs from the prior, the decoder has never seen such latents in training, and the images are bad. So a
sampler is fitted to the latents of real images after training (`pipeline.generation.fitting`). It works in the
coordinates of `Level.noise`, in which the prior of every level is standard normal, and what it draws is an argument of
`Autoencoder.sample`. So every sampler works with every autoencoder.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pipeline.config import check
from pipeline.errors import RequestError
from pipeline.models.autoencoders.latents import Gaussian, kl, standard_normal
from pipeline.models.objectives.jacobians import Draw

SamplerName = Literal["prior", "mixture", "two_stage"]

# A full covariance matrix has the square of this many numbers, for each component.
_LARGEST_FULL = 512
# Range of the log variance of the second stage's latents, the same as that of the first stage.
_LOG_VARIANCE_RANGE = (-12.0, 4.0)
# The fitted latents have unit variance. With a smaller scale the cost would grow without bound.
_SMALLEST_LOG_SCALE = -6.0
# The parameter is the log scale divided by this number, so that Adam moves the log scale this many times faster than
# the other weights.
_LOG_SCALE_SPEED = 10.0
# At a log scale of 0, the scale of the latents themselves, training can get stuck where the second stage ignores them.
_FIRST_LOG_SCALE = -2.0


@dataclass(frozen=True, kw_only=True)
class PriorConfig:
    """The prior has no settings. If the code is not Gaussian, the model was not trained towards this prior."""

    levels: ClassVar[int] = 0

    def check_latents(self, shapes: Sequence[tuple[int, int, int]], count: int) -> None:
        """Does nothing: the prior fits latents of all shapes."""


@dataclass(frozen=True, kw_only=True)
class FittedConfig:
    levels: int = 1
    """Number of levels, coarsest first, whose latents are fitted jointly. Finer levels are drawn from their priors."""

    def __post_init__(self) -> None:
        check(self, "levels", self.levels >= 1, "be at least 1")

    def check_latents(self, shapes: Sequence[tuple[int, int, int]], count: int) -> None:
        """`RequestError` if the sampler cannot be fitted to ``count`` images whose latents have these shapes."""
        check(self, "levels", self.levels <= len(shapes), f"be at most the model's {len(shapes)}")
        if count < 2:
            raise RequestError(f"{type(self).__name__} needs at least 2 images to be fitted to, got {count}")


@dataclass(frozen=True, kw_only=True)
class MixtureConfig(FittedConfig):
    components: int = 50
    """Number of Gaussians in the mixture."""
    covariance: Literal["full", "low_rank", "diagonal"] = "full"
    """Covariance of each Gaussian: full, for at most 512 latents; low_rank, full in the principal directions of all
    latents and independent noise in the others; or diagonal."""
    rank: int = 64
    """Number of principal directions, if low_rank."""
    iterations: int = 40
    """Largest number of steps of expectation maximisation."""
    regularisation: float = 1e-4
    """Number that is added to the variances of each Gaussian; the variance of each latent over all images is 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("components", "rank", "iterations"):
            check(self, name, getattr(self, name) >= 1, "be at least 1")
        check(self, "rank", self.rank <= _LARGEST_FULL, f"be at most {_LARGEST_FULL}")
        check(self, "regularisation", self.regularisation > 0, "be positive")

    def check_latents(self, shapes: Sequence[tuple[int, int, int]], count: int) -> None:
        super().check_latents(shapes, count)
        size = dimensions(shapes[: self.levels])
        check(self, "components", self.components <= count, f"be at most the number of images, {count}")
        ok = self.covariance != "full" or size <= _LARGEST_FULL
        check(self, "covariance", ok, f"be 'low_rank' or 'diagonal' for {size} latents, more than {_LARGEST_FULL}")
        if self.covariance == "low_rank":
            check(self, "rank", self.rank <= min(size, count), f"be at most {min(size, count)}, latents and images")


@dataclass(frozen=True, kw_only=True)
class TwoStageConfig(FittedConfig):
    width: int = 256
    """Units of each hidden layer of the second autoencoder."""
    blocks: int = 2
    """Number of residual blocks of its encoder, and of its decoder."""
    steps: int = 3000
    """Number of its training steps."""
    batch_rows: int = 256
    """Number of images whose latents are in one training step."""
    learning_rate: float = 1e-3
    """Peak learning rate of Adam; it falls to zero along a cosine."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("width", "blocks", "steps", "batch_rows"):
            check(self, name, getattr(self, name) >= 1, "be at least 1")
        check(self, "learning_rate", self.learning_rate > 0, "be positive")


SamplerConfig = PriorConfig | MixtureConfig | TwoStageConfig


def dimensions(shapes: Sequence[tuple[int, int, int]]) -> int:
    """Number of latents of one image, for levels of these shapes (d, y, x)."""
    return sum(math.prod(shape) for shape in shapes)


class Sampler(nn.Module, ABC):
    """A distribution of latents for images of one size. ``shapes`` are (d, y, x) of each level, coarsest first."""

    def __init__(self, config: SamplerConfig, shapes: Sequence[tuple[int, int, int]]) -> None:
        super().__init__()
        self.config = config
        self.shapes = list(shapes)

    def draw(self, normal: Draw) -> list[Tensor]:
        """Latents (b, d, y, x) of each level for `Autoencoder.sample`. ``normal`` returns standard normal numbers."""
        fitted = self.shapes[: self.config.levels]
        found: list[Tensor] = []
        if fitted:
            parts = self.vector(normal).split([math.prod(shape) for shape in fitted], dim=1)
            found = [part.unflatten(1, shape) for part, shape in zip(parts, fitted, strict=True)]
        return [*found, *(normal(*shape) for shape in self.shapes[self.config.levels :])]

    @abstractmethod
    def vector(self, normal: Draw) -> Float[Tensor, "b n"]:
        """Draw the latents of the fitted levels, flattened and concatenated."""


class PriorSampler(Sampler):
    """Standard normal latents at every level."""

    def vector(self, normal: Draw) -> Float[Tensor, "b n"]:
        return normal(0)


class FittedSampler(Sampler):
    """A sampler that is fitted to standardised latents: each has mean 0 and variance 1 over the images."""

    center: Tensor
    scale: Tensor

    def __init__(self, config: MixtureConfig | TwoStageConfig, shapes: Sequence[tuple[int, int, int]]) -> None:
        super().__init__(config, shapes)
        self.dimensions = dimensions(self.shapes[: config.levels])
        self.register_buffer("center", torch.zeros(self.dimensions))
        self.register_buffer("scale", torch.ones(self.dimensions))

    def vector(self, normal: Draw) -> Float[Tensor, "b n"]:
        return self.center + self.scale * self.standard(normal)

    @abstractmethod
    def standard(self, normal: Draw) -> Float[Tensor, "b n"]:
        """Draw standardised latents."""


class MixtureSampler(FittedSampler):
    """A mixture of Gaussians, as Ghosh et al. 2020 use for regularised autoencoders."""

    cumulative: Tensor
    means: Tensor
    factors: Tensor
    directions: Tensor
    noise: Tensor

    def __init__(self, config: MixtureConfig, shapes: Sequence[tuple[int, int, int]]) -> None:
        super().__init__(config, shapes)
        self.config: MixtureConfig = config
        low = config.covariance == "low_rank"
        count, size = config.components, config.rank if low else self.dimensions
        self.register_buffer("cumulative", torch.ones(count))
        self.register_buffer("means", torch.zeros(count, size))
        # A covariance is stored as its Cholesky factor, or as the standard deviations if it is diagonal.
        shape = (count, size) if config.covariance == "diagonal" else (count, size, size)
        self.register_buffer("factors", torch.zeros(shape))
        if low:
            self.register_buffer("directions", torch.zeros(self.dimensions, size))
            self.register_buffer("noise", torch.zeros(self.dimensions))

    def standard(self, normal: Draw) -> Float[Tensor, "b n"]:
        uniform = torch.special.ndtr(normal(1)[:, 0])
        chosen = torch.searchsorted(self.cumulative, uniform, right=True).clamp(max=len(self.cumulative) - 1)
        factors, noise = self.factors[chosen], normal(self.means.shape[1])
        moved = factors * noise if factors.ndim == 2 else torch.einsum("bij,bj->bi", factors, noise)
        found = self.means[chosen] + moved
        if self.config.covariance != "low_rank":
            return found
        return found @ self.directions.T + self.noise * normal(self.dimensions)


class TwoStageSampler(FittedSampler):
    """A second variational autoencoder, trained on the latents of the first one (Dai and Wipf 2019).

    It has as many latents as the first. The latents of the first may lie on a manifold of fewer dimensions, so that its
    aggregate posterior is far from the prior. The second has no such manifold to find, so its aggregate posterior comes
    close to the prior.
    """

    def __init__(self, config: TwoStageConfig, shapes: Sequence[tuple[int, int, int]]) -> None:
        super().__init__(config, shapes)
        self.config: TwoStageConfig = config
        size = self.dimensions
        self.encoder = _residual(size, 2 * size, config)
        self.decoder = _residual(size, size, config)
        self.scale_of_output = nn.Parameter(torch.tensor(_FIRST_LOG_SCALE / _LOG_SCALE_SPEED))

    @property
    def log_scale(self) -> Float[Tensor, ""]:
        """Log of the standard deviation of the latents given the second stage's latents; gamma in the paper."""
        return (self.scale_of_output * _LOG_SCALE_SPEED).clamp(min=_SMALLEST_LOG_SCALE)

    def standard(self, normal: Draw) -> Float[Tensor, "b n"]:
        mean = self.decoder(normal(self.dimensions))
        return Gaussian(mean, 2 * self.log_scale).sample(normal(self.dimensions))

    def cost(self, value: Float[Tensor, "b n"], noise: Float[Tensor, "b n"]) -> Float[Tensor, " b"]:
        """Negative evidence lower bound of standardised latents, nats."""
        mean, log_variance = self.encoder(value).chunk(2, dim=1)
        posterior = Gaussian(mean, log_variance.clamp(*_LOG_VARIANCE_RANGE))
        decoded = self.decoder(posterior.sample(noise))
        density = Gaussian(decoded, (2 * self.log_scale).expand_as(decoded)).log_density(value)
        return kl(posterior, standard_normal(mean)).sum(1) - density


class _Block(nn.Module):
    """A residual block of two linear layers. It starts as the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Float[Tensor, "b n"]) -> Float[Tensor, "b n"]:
        return x + self.second(nn.functional.silu(self.first(self.norm(x))))


def _residual(inputs: int, outputs: int, config: TwoStageConfig) -> nn.Sequential:
    blocks = (_Block(config.width) for _ in range(config.blocks))
    return nn.Sequential(nn.Linear(inputs, config.width), *blocks, nn.Linear(config.width, outputs))


#: The settings class and the sampler class under each name.
SAMPLERS: dict[str, tuple[type[Any], type[Sampler]]] = {
    "prior": (PriorConfig, PriorSampler),
    "mixture": (MixtureConfig, MixtureSampler),
    "two_stage": (TwoStageConfig, TwoStageSampler),
}
