"""Negative log likelihood of images by importance sampling, for any autoencoder whose levels are all Gaussian."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from benchmarks.measures.evaluating import Rows, evaluating, slices, unit_images
from pipeline.errors import RequestError
from pipeline.models.autoencoders.interface import Autoencoder
from pipeline.models.autoencoders.likelihoods import nll
from pipeline.noise import Noise

# Samples of one image that are drawn together. Part of what the seed means: another number gives other samples.
_DRAWN = 50


def importance_nll(
    model: Autoencoder,
    images: Rows,
    samples: Sequence[int] = (200, 5000),
    *,
    seed: int = 0,
    places: Sequence[int] | None = None,
    bfloat16: bool = False,
    rows: int = 1000,
) -> dict[int, Float[np.ndarray, " n"]]:
    """-log p(x) of each image in nats, float64, by as many samples of the posterior as asked for, all from one pass.

    -log of the mean over K samples of p(x | z) p(z) / q(z | x): the bound of Burda et al. 2016, which falls to the
    truth as K grows. The first of the samples for a larger K are those for a smaller one. The encoder runs once for
    each image, and ``rows`` bounds how many samples the decoder sees at a time; results do not depend on it but for
    rounding, nor on what other images there are: the noise belongs to the seed and the image's place, which is that in
    ``places`` where a part of a set is given. In ``bfloat16`` the networks' products are rounded, and the likelihood is
    that of the model so rounded; densities and sums stay float32 and float64.

    `RequestError` if a level has no Gaussian posterior, as then there is no likelihood.
    """
    wanted = sorted(set(samples))
    if not wanted or wanted[0] < 1:
        raise RequestError(f"samples must be positive numbers, got {samples!r}")
    images = unit_images(images)
    order = range(len(images)) if places is None else places
    if len(order) != len(images):
        raise RequestError(f"places must be {len(images)} numbers, one for each image, got {len(order)}")
    found = {count: np.empty(len(images)) for count in wanted}
    with evaluating(model, bfloat16=bfloat16) as device:
        for part in slices(len(images), max(1, rows // _DRAWN)):
            totals = _log_sums(model, images[part].to(device), wanted, seed, order[part])
            for count, total in totals.items():
                found[count][part] = (math.log(count) - total).cpu().numpy()
    return found


class Corrected(NamedTuple):
    """A mean in nats, and how far off it may be."""

    value: float
    standard_error: float
    """Of the mean over these very images, because not all had the many samples."""


def corrected_mean(
    few: Float[np.ndarray, " n"], many: Float[np.ndarray, " m"], subset: Int[np.ndarray, " m"]
) -> Corrected:
    """The mean over n images of what ``many`` samples give, known for a random ``subset`` (places among the n) only.

    The mean of ``few`` over all, and the mean of ``many`` less ``few`` over the subset: the difference estimator of
    surveys (Cochran 1977, chapter 7), unbiased, and sharp because the difference hardly varies where the likelihood
    itself varies much. ``few`` of the subset must come from the same pass, with the same seed and places.
    """
    if len(subset) < 2 or len(set(np.asarray(subset).tolist())) != len(subset) or len(many) != len(subset):
        raise RequestError(f"subset must be at least 2 different places, one for each of many, got {len(subset)}")
    difference = np.asarray(many) - few[subset]
    count, part = len(few), len(subset)
    left_out = difference.var(ddof=1) * (1 / part - 1 / count)
    return Corrected(float(few.mean() + difference.mean()), math.sqrt(left_out))


def _log_sums(
    model: Autoencoder, image: Tensor, wanted: Sequence[int], seed: int, places: Sequence[int]
) -> dict[int, Float[Tensor, " b"]]:
    """log of the sum of the importance weights of the first samples, for each number of samples that is wanted."""
    height, width = image.shape[2:]
    shapes = model.latent_shapes(height, width)
    encoded = [value.repeat_interleave(_DRAWN, 0) for value in model.encode(image)]
    totals = {count: image.new_full((len(image),), -torch.inf, dtype=torch.float64) for count in wanted}
    for block in range(-(-wanted[-1] // _DRAWN)):
        noise = Noise(seed, block, places)
        drawn = [noise.normal(_DRAWN, *shape, device=image.device).flatten(0, 1) for shape in shapes]
        weights = _log_weights(model, image, encoded, drawn)
        for count in wanted:
            used = min(count - block * _DRAWN, _DRAWN)
            if used > 0:
                totals[count] = torch.logaddexp(totals[count], weights[:, :used].logsumexp(1))
    return totals


def _log_weights(
    model: Autoencoder, image: Tensor, encoded: Sequence[Tensor], noise: Sequence[Tensor]
) -> Float[Tensor, "b drawn"]:
    """log p(x | z) + log p(z) - log q(z | x) of each image's samples, float64."""
    inference = model.infer_encoded(encoded, noise, image.shape[2], image.shape[3])
    if any(level.posterior is None for level in inference.levels):
        raise RequestError(f"a likelihood needs Gaussian posteriors, but {type(model).__name__} has others")
    logits = inference.logits.unflatten(0, (len(image), -1))
    cost = nll(model.config.likelihood, image[:, None].expand_as(logits), logits, model.log_scale)
    return inference.log_ratio().double().view(len(image), -1) - cost.flatten(2).sum(2, dtype=torch.float64)
