"""Objectives of latent-variable models: evidence lower bounds, per image, in nats, summed over dimensions.

Nothing here is averaged over pixels: an average would silently weigh the KL term by the number of pixels.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

Likelihood = Literal["gaussian", "bernoulli"]

_LOG_2PI = math.log(2 * math.pi)
_SMALLEST_PROBABILITY = 1e-6


class Posterior(NamedTuple):
    """A diagonal Gaussian over latents, (b, ...) each."""

    mean: Tensor
    log_variance: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """The reparametrised sample for standard normal ``noise`` of the latents' shape (Kingma and Welling 2014)."""
        return self.mean + torch.exp(0.5 * self.log_variance) * noise


class Bound(NamedTuple):
    """The two halves of the negative evidence lower bound, nats for each image."""

    reconstruction: Float[Tensor, " b"]
    kl: Float[Tensor, " b"]

    def total(self, beta: float = 1.0) -> Float[Tensor, " b"]:
        """Reconstruction plus ``beta`` times KL; the bound itself at beta 1 (Higgins et al. 2017 for others)."""
        return self.reconstruction + beta * self.kl


def elbo(
    image: Float[Tensor, "b c h w"],
    decoded: Float[Tensor, "b c h w"],
    posterior: Posterior,
    *,
    likelihood: Likelihood,
    log_sigma: Float[Tensor, ""] | None = None,
    valid: Float[Tensor, "b 1 h w"] | None = None,
) -> Bound:
    """Negative evidence lower bound of each image in nats: summed over pixels, channels and latents.

    ``image`` and ``decoded`` are in [0, 1]. ``valid`` is 1 where a pixel counts, 0 in padding.

    ``gaussian`` has one standard deviation for all pixels, as in sigma-VAE (Rybkin et al. 2021), which makes beta
    needless. There the optimum is computed from the batch; here ``log_sigma`` is a learned scalar. The optimum over a
    batch would make a worker's gradient depend on the other workers' images, and an optimum for each image would let
    the decoder see the image that it is to explain, so that bounds of two images could not be compared. All three
    agree where training ends: the scalar's gradient vanishes exactly at the mean squared error of the data.
    """
    if likelihood == "gaussian":
        assert log_sigma is not None, "the gaussian likelihood needs log_sigma"
        cost = gaussian_nll(image, decoded, log_sigma)
    else:
        cost = bernoulli_nll(image, decoded)
    if valid is not None:
        cost = cost * valid
    return Bound(cost.flatten(1).sum(1), kl_to_standard_normal(posterior))


def gaussian_nll(image: Tensor, mean: Tensor, log_sigma: Tensor) -> Tensor:
    """Negative log density of every element under N(mean, exp(log_sigma)^2), nats."""
    error = (image.float() - mean.float()) * torch.exp(-log_sigma.float())
    return 0.5 * (error.square() + _LOG_2PI) + log_sigma.float()


def bernoulli_nll(image: Tensor, probability: Tensor) -> Tensor:
    """Cross entropy of every element, nats; ``image`` may be a probability itself. Finite at wrong certainty."""
    image = image.float()
    probability = probability.float().clamp(_SMALLEST_PROBABILITY, 1 - _SMALLEST_PROBABILITY)
    return -(image * probability.log() + (1 - image) * torch.log1p(-probability))


def kl_to_standard_normal(posterior: Posterior) -> Float[Tensor, " b"]:
    """KL(posterior || N(0, 1)) in nats, summed over latents, (b,)."""
    mean, log_variance = posterior.mean.float(), posterior.log_variance.float()
    # expm1(v) - v is never negative, also where the two nearly cancel.
    return 0.5 * (mean.square() + torch.expm1(log_variance) - log_variance).flatten(1).sum(1)


def bits_per_dimension(nats: Tensor, dimensions: Tensor | int, levels: int) -> Tensor:
    """Nats of a density on [0, 1] as bits for each dimension of data with ``levels`` levels (256 for 8 bit).

    A level is counted as its width times the density in its middle, which holds for sigma above one level.
    """
    return nats / (dimensions * math.log(2)) + math.log2(levels)
