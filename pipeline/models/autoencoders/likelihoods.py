"""Distributions of a pixel given the latents. Every cost is in nats, for every value of every pixel.

The decoder gives one logit for each value; its sigmoid is the mean. What else a distribution needs is one learned or
fixed scalar for all pixels, the log of its scale.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Likelihood = Literal["gaussian", "bernoulli", "logistic"]

#: Levels of 8-bit values that a density on [0, 1] does not count itself, as the other two do.
LEVELS: dict[Likelihood, int] = {"gaussian": 256, "bernoulli": 1, "logistic": 1}

_LOG_2PI = math.log(2 * math.pi)


def nll(likelihood: Likelihood, image: Tensor, logits: Tensor, log_scale: Tensor | None) -> Tensor:
    """Negative log likelihood of every value of ``image``, which is in [0, 1], under the decoder's logits; nats."""
    if likelihood == "bernoulli":
        return bernoulli_nll(image, logits)
    assert log_scale is not None, f"the {likelihood} likelihood needs a scale"
    mean = torch.sigmoid(logits.float())
    return (gaussian_nll if likelihood == "gaussian" else logistic_nll)(image, mean, log_scale)


def gaussian_nll(image: Tensor, mean: Tensor, log_sigma: Tensor) -> Tensor:
    """Negative log density under N(mean, exp(log_sigma)^2).

    With one learned ``log_sigma`` for all pixels this is sigma-VAE (Rybkin et al. 2021), which makes beta needless.
    There the optimum is also computed from the batch. It would make a worker's gradient depend on the other workers'
    images, and an optimum for each image would let the decoder see the image that it is to explain, so that bounds of
    two images could not be compared. All three agree where training ends: the scalar's gradient vanishes exactly at
    the mean squared error of the data.
    """
    error = (image.float() - mean.float()) * torch.exp(-log_sigma.float())
    return 0.5 * (error.square() + _LOG_2PI) + log_sigma.float()


def bernoulli_nll(image: Tensor, logits: Tensor) -> Tensor:
    """Cross entropy; ``image`` may be a probability itself. Finite at any certainty, right or wrong."""
    return F.binary_cross_entropy_with_logits(logits.float(), image.float(), reduction="none")


def logistic_nll(image: Tensor, mean: Tensor, log_scale: Tensor, levels: int = 256) -> Tensor:
    """Negative log probability of the nearest of ``levels`` equal steps of [0, 1]: a logistic's mass there.

    The outermost levels have the tails (Kingma et al. 2016, and Salimans et al. 2017 for the tails), so that the
    probabilities of all levels sum to 1.
    """
    level = (image.float() * (levels - 1)).round()
    distance = level / (levels - 1) - mean.float()
    half, rate = 0.5 / (levels - 1), torch.exp(-log_scale.float())
    # sigmoid(b) - sigmoid(a) = sigmoid(b) sigmoid(-a) (1 - exp(a - b)): no difference of two numbers near 1.
    below, above = F.logsigmoid((distance + half) * rate), F.logsigmoid((half - distance) * rate)
    inside = below + above + torch.log(-torch.expm1(-2 * half * rate))
    return -torch.where(level <= 0, below, torch.where(level >= levels - 1, above, inside))


def bits_per_dimension(nats: Tensor, dimensions: Tensor | int, levels: int) -> Tensor:
    """Nats of a density on [0, 1] as bits for each dimension of data with ``levels`` levels (256 for 8 bit).

    A level is counted as its width times the density in its middle, which holds for sigma above one level. Nats of a
    probability have ``levels`` 1.
    """
    return nats / (dimensions * math.log(2)) + math.log2(levels)
