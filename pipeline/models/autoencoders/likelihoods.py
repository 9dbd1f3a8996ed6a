"""Distributions of a pixel's value given the latents. Every cost is in nats, for each value of each pixel.

The decoder gives one logit for each value; its sigmoid is the mean. The Gaussian and the logistic also need a scale.
Its log is one scalar for all pixels, learned or fixed.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Likelihood = Literal["gaussian", "bernoulli", "logistic"]

#: What `bits_per_dimension` must be given as ``levels``: 256 for a density on [0, 1], 1 for probabilities of levels.
LEVELS: dict[Likelihood, int] = {"gaussian": 256, "bernoulli": 1, "logistic": 1}

_LOG_2PI = math.log(2 * math.pi)


def nll(likelihood: Likelihood, image: Tensor, logits: Tensor, log_scale: Tensor | None) -> Tensor:
    """Negative log likelihood in nats of each value of ``image``, in [0, 1], given the decoder's logits."""
    if likelihood == "bernoulli":
        return bernoulli_nll(image, logits)
    assert log_scale is not None, f"the {likelihood} likelihood needs a scale"
    mean = torch.sigmoid(logits.float())
    return (gaussian_nll if likelihood == "gaussian" else logistic_nll)(image, mean, log_scale)


def gaussian_nll(image: Tensor, mean: Tensor, log_sigma: Tensor) -> Tensor:
    """Negative log density under N(mean, exp(log_sigma)^2).

    With one learned ``log_sigma`` for all pixels this is sigma-VAE (Rybkin et al. 2021), which needs no beta. The paper
    also computes the optimal sigma from each batch. Here it is not done: a worker's gradient would depend on the other
    workers' images. A sigma for each image is not used either: the decoder would see the image that it must explain,
    and the bounds of two images could not be compared. All three agree when training has converged: the gradient of
    the scalar is zero exactly where sigma squared is the mean squared error of the data.
    """
    error = (image.float() - mean.float()) * torch.exp(-log_sigma.float())
    return 0.5 * (error.square() + _LOG_2PI) + log_sigma.float()


def bernoulli_nll(image: Tensor, logits: Tensor) -> Tensor:
    """Cross entropy; ``image`` may itself be a probability. It is finite for all logits."""
    return F.binary_cross_entropy_with_logits(logits.float(), image.float(), reduction="none")


def logistic_nll(image: Tensor, mean: Tensor, log_scale: Tensor, levels: int = 256) -> Tensor:
    """Negative log probability under a logistic distribution of the nearest of ``levels`` equal steps in [0, 1].

    The outermost levels get the tails of the distribution, so that the probabilities of all levels sum to 1
    (Kingma et al. 2016; Salimans et al. 2017 for the tails).
    """
    level = (image.float() * (levels - 1)).round()
    distance = level / (levels - 1) - mean.float()
    half, rate = 0.5 / (levels - 1), torch.exp(-log_scale.float())
    # sigmoid(b) - sigmoid(a) = sigmoid(b) sigmoid(-a) (1 - exp(a - b)) avoids a difference of two numbers near 1.
    below, above = F.logsigmoid((distance + half) * rate), F.logsigmoid((half - distance) * rate)
    inside = below + above + torch.log(-torch.expm1(-2 * half * rate))
    return -torch.where(level <= 0, below, torch.where(level >= levels - 1, above, inside))


def bits_per_dimension(nats: Tensor, dimensions: Tensor | int, levels: int) -> Tensor:
    """Convert nats to bits per dimension of data that has ``levels`` levels.

    For a density on [0, 1], ``levels`` is 256 for 8-bit data: the probability of a level is taken as the density in
    its middle times its width, which is accurate while sigma is larger than one level. For a probability it is 1.
    """
    return nats / (dimensions * math.log(2)) + math.log2(levels)
