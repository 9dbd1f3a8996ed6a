"""Samplers: from standard normal numbers to latents that a decoder has seen the like of.

An autoencoder draws from its prior, but its latents need not: where the aggregate posterior differs from the prior,
samples are of latents that the decoder never saw. A sampler is fitted to latents after training
(`pipeline.generation.fitting`), in the coordinates of `Level.noise`, in which every level's prior is standard normal.
What it draws goes through `Autoencoder.sample`, so that all samplers serve all models.
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

# A full covariance has as many numbers as the square of this, for each component.
_LARGEST_FULL = 512
# Of one second-stage latent, as for those of the first.
_LOG_VARIANCE_RANGE = (-12.0, 4.0)
# Latents of unit variance need no sharper second stage; sharper still, and its costs grow without end.
_SMALLEST_LOG_SCALE = -6.0
# The learned log scale travels this many times faster than a weight of the network under Adam.
_LOG_SCALE_SPEED = 10.0
# At the deviation of the latents themselves, 0, to say nothing is an optimum that training may not leave.
_FIRST_LOG_SCALE = -2.0


@dataclass(frozen=True, kw_only=True)
class PriorConfig:
    """Nothing to set: standard normal latents, in name only where the code is no Gaussian."""

    levels: ClassVar[int] = 0

    def check_latents(self, shapes: Sequence[tuple[int, int, int]], count: int) -> None:
        """Any latents will do."""


@dataclass(frozen=True, kw_only=True)
class FittedConfig:
    levels: int = 1
    """Levels of latents, coarsest first, that are fitted together; finer ones are from the prior, given those."""

    def __post_init__(self) -> None:
        check(self, "levels", self.levels >= 1, "be at least 1")

    def check_latents(self, shapes: Sequence[tuple[int, int, int]], count: int) -> None:
        """`RequestError` where this cannot be fitted to so many latents of these shapes, before it is tried."""
        check(self, "levels", self.levels <= len(shapes), f"be at most the model's {len(shapes)}")
        if count < 2:
            raise RequestError(f"{type(self).__name__} needs at least 2 images to be fitted to, got {count}")


@dataclass(frozen=True, kw_only=True)
class MixtureConfig(FittedConfig):
    components: int = 50
    """Gaussians in the mixture."""
    covariance: Literal["full", "low_rank", "diagonal"] = "full"
    """Of each Gaussian: full; full in the main directions of all latents, with independent noise beside them; or
    diagonal. Full is for at most 512 latents."""
    rank: int = 64
    """Main directions, if low_rank."""
    iterations: int = 40
    """Steps of expectation maximisation at most."""
    regularisation: float = 1e-4
    """Added to the variances of each Gaussian, in units of those of the latents."""

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
    """Hidden values of the second autoencoder."""
    blocks: int = 2
    """Residual blocks of its encoder, and of its decoder."""
    steps: int = 3000
    """Steps of its training."""
    batch_rows: int = 256
    """Latents in a step."""
    learning_rate: float = 1e-3
    """Peak learning rate of Adam; a cosine to zero."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("width", "blocks", "steps", "batch_rows"):
            check(self, name, getattr(self, name) >= 1, "be at least 1")
        check(self, "learning_rate", self.learning_rate > 0, "be positive")


SamplerConfig = PriorConfig | MixtureConfig | TwoStageConfig


def dimensions(shapes: Sequence[tuple[int, int, int]]) -> int:
    """How many latents an image has at levels of these (d, y, x)."""
    return sum(math.prod(shape) for shape in shapes)


class Sampler(nn.Module, ABC):
    """A distribution of latents for images of one size. ``shapes`` are (d, y, x) of all levels, coarsest first."""

    def __init__(self, config: SamplerConfig, shapes: Sequence[tuple[int, int, int]]) -> None:
        super().__init__()
        self.config = config
        self.shapes = list(shapes)

    def draw(self, normal: Draw) -> list[Tensor]:
        """What `Autoencoder.sample` takes: (b, d, y, x) for each level. ``normal`` gives standard normal numbers."""
        fitted = self.shapes[: self.config.levels]
        found: list[Tensor] = []
        if fitted:
            parts = self.vector(normal).split([math.prod(shape) for shape in fitted], dim=1)
            found = [part.unflatten(1, shape) for part, shape in zip(parts, fitted, strict=True)]
        return [*found, *(normal(*shape) for shape in self.shapes[self.config.levels :])]

    @abstractmethod
    def vector(self, normal: Draw) -> Float[Tensor, "b n"]:
        """The latents of the fitted levels, side by side."""


class PriorSampler(Sampler):
    """Standard normal latents at every level."""

    def vector(self, normal: Draw) -> Float[Tensor, "b n"]:
        return normal(0)


class FittedSampler(Sampler):
    """A sampler of latents that have been brought to mean 0 and variance 1, one by one."""

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
        """Latents of mean 0 and variance 1."""


class MixtureSampler(FittedSampler):
    """A mixture of Gaussians over latents (Ghosh et al. 2020 sample regularised autoencoders so)."""

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
        # Of a covariance: its lower triangular factor, or the deviations on its diagonal.
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
    """A second variational autoencoder, of the first one's latents (Dai and Wipf 2019).

    It has as many latents as the first. The first one's may lie on something thin in their space, and its aggregate
    posterior may then be far from the prior; the second has no such thing to find, and comes close.
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
        """Log of the deviation of latents given those of the second stage, the paper's gamma."""
        return (self.scale_of_output * _LOG_SCALE_SPEED).clamp(min=_SMALLEST_LOG_SCALE)

    def standard(self, normal: Draw) -> Float[Tensor, "b n"]:
        mean = self.decoder(normal(self.dimensions))
        return Gaussian(mean, 2 * self.log_scale).sample(normal(self.dimensions))

    def cost(self, value: Float[Tensor, "b n"], noise: Float[Tensor, "b n"]) -> Float[Tensor, " b"]:
        """Negative evidence lower bound of latents of mean 0 and variance 1, nats."""
        mean, log_variance = self.encoder(value).chunk(2, dim=1)
        posterior = Gaussian(mean, log_variance.clamp(*_LOG_VARIANCE_RANGE))
        decoded = self.decoder(posterior.sample(noise))
        density = Gaussian(decoded, (2 * self.log_scale).expand_as(decoded)).log_density(value)
        return kl(posterior, standard_normal(mean)).sum(1) - density


class _Block(nn.Module):
    """Two linear layers beside an identity; the identity alone at the start of training."""

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


#: By name: the settings and the class.
SAMPLERS: dict[str, tuple[type[Any], type[Sampler]]] = {
    "prior": (PriorConfig, PriorSampler),
    "mixture": (MixtureConfig, MixtureSampler),
    "two_stage": (TwoStageConfig, TwoStageSampler),
}
