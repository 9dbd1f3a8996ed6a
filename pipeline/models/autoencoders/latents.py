"""Distributions over latents, and the result of inference: one entry for each stochastic level."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

Code = Literal["gaussian", "deterministic", "hard_concrete", "top_k"]

_LOG_2PI = math.log(2 * math.pi)
# Stretched interval and temperature of hard-concrete gates, as in the experiments of Louizos et al. 2018.
_GAMMA, _ZETA, _TEMPERATURE = -0.1, 1.1, 2 / 3
_SMALLEST_UNIFORM = 1e-6


class Gaussian(NamedTuple):
    """A diagonal Gaussian over latents; mean and log variance have the shape (b, ...)."""

    mean: Tensor
    log_variance: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """A reparametrised sample (Kingma and Welling 2014) for standard normal ``noise`` of the latents' shape."""
        return self.mean + torch.exp(0.5 * self.log_variance) * noise

    def noise_of(self, value: Tensor) -> Tensor:
        """The inverse of `sample`: the noise that gives ``value``. It is standard normal if ``value`` is a sample."""
        return (value - self.mean) * torch.exp(-0.5 * self.log_variance)

    def log_density(self, value: Tensor) -> Float[Tensor, " b"]:
        """Log density in nats, summed over latents."""
        return -0.5 * (self.noise_of(value).square() + self.log_variance + _LOG_2PI).flatten(1).sum(1)


class Level(NamedTuple):
    """Latents of one stochastic level; tensors are (b, d, y, x), float32.

    The decoder was given ``sample``; ``mean`` is the sample without noise. ``posterior`` is None for a code that is not
    Gaussian. ``log_alpha`` are the logits of hard-concrete gates, and None for other codes.
    """

    sample: Tensor
    mean: Tensor
    posterior: Gaussian | None
    prior: Gaussian
    log_alpha: Tensor | None = None

    @property
    def noise(self) -> Tensor:
        """The sample as noise of the prior. It is standard normal for samples of the prior, at every level."""
        return self.prior.noise_of(self.sample)


class Inference(NamedTuple):
    """Result of inference on images: latents of all levels, coarsest first, and the decoder's logits (b, c, h, w)."""

    levels: tuple[Level, ...]
    logits: Tensor

    @property
    def code(self) -> Float[Tensor, "b n"]:
        """The means of all levels, flattened and concatenated."""
        return torch.cat([level.mean.flatten(1) for level in self.levels], dim=1)

    def kl(self) -> Float[Tensor, " b"]:
        """KL(posterior || prior) of all levels in nats; zero for a code that is not Gaussian."""
        return sum_kl(self.kl_of_channels(), self.logits)

    def kl_of_channels(self) -> list[Float[Tensor, "b d"]]:
        """KL(posterior || prior) of each Gaussian level in nats, by channel, summed over positions."""
        return [kl(level.posterior, level.prior).flatten(2).sum(2) for level in self.levels if level.posterior]

    def log_ratio(self) -> Float[Tensor, " b"]:
        """log prior(z) - log posterior(z | image) of the samples. Plus the log likelihood: the log importance weight.

        The mean of exp(log likelihood + log ratio) over many samples is an unbiased estimate of the image's evidence
        (Burda et al. 2016).
        """
        found = self.logits.new_zeros(len(self.logits))
        for level in self.levels:
            if level.posterior:
                found = found + level.prior.log_density(level.sample) - level.posterior.log_density(level.sample)
        return found


def sum_kl(of_channels: list[Tensor], like: Tensor) -> Float[Tensor, " b"]:
    """The sum over levels and channels; zeros, one for each row of ``like``, if there is no Gaussian level."""
    return sum((found.sum(1) for found in of_channels), like.new_zeros(len(like)))


def standard_normal(like: Tensor) -> Gaussian:
    """Independent standard normal latents of the shape of ``like``."""
    zeros = torch.zeros_like(like, dtype=torch.float32)
    return Gaussian(zeros, zeros)


def kl(posterior: Gaussian, prior: Gaussian) -> Tensor:
    """KL(posterior || prior) of every latent in nats; never negative."""
    difference = posterior.log_variance - prior.log_variance
    # expm1(v) - v is never negative, also where rounding would make exp(v) - 1 - v negative.
    return 0.5 * (prior.noise_of(posterior.mean).square() + torch.expm1(difference) - difference)


def hard_concrete(log_alpha: Tensor, noise: Tensor | None) -> Tensor:
    """Gates in [0, 1] that are exactly 0 or 1 with positive probability (Louizos et al. 2018, equations 10 and 11).

    ``noise`` is standard normal; it is turned into uniform noise. None gives the gate at test time (equation 13).
    """
    if noise is None:
        opening = torch.sigmoid(log_alpha)
    else:
        uniform = torch.special.ndtr(noise).clamp(_SMALLEST_UNIFORM, 1 - _SMALLEST_UNIFORM)
        opening = torch.sigmoid((uniform.log() - torch.log1p(-uniform) + log_alpha) / _TEMPERATURE)
    return (opening * (_ZETA - _GAMMA) + _GAMMA).clamp(0, 1)


def open_logits(log_alpha: Tensor) -> Tensor:
    """The logit of the probability that a hard-concrete gate is not zero (Louizos et al. 2018, equation 12)."""
    return log_alpha - _TEMPERATURE * math.log(-_GAMMA / _ZETA)


def top_k(code: Float[Tensor, "b d y x"], fraction: float) -> Float[Tensor, "b d y x"]:
    """Keep the latents of each image with the largest absolute values, and set the others to 0.

    It keeps the given fraction of an image's latents, at least one (k-sparse autoencoders, Makhzani and Frey 2014).
    """
    flat = code.flatten(1)
    kept = flat.abs().topk(max(1, round(fraction * flat.shape[1])), dim=1).indices
    return torch.zeros_like(flat).scatter(1, kept, flat.gather(1, kept)).view_as(code)
