"""Active units: latents by which a model tells one image from another."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks.measures import bootstrap
from benchmarks.measures.bootstrap import Estimate
from benchmarks.measures.evaluating import Rows, evaluating, slices, unit_images
from pipeline.models.autoencoders.interface import Autoencoder

#: The variance from which a unit is active (Burda et al. 2016).
THRESHOLD = 0.01
_ROWS = 250


class ActiveUnits(NamedTuple):
    active: Estimate
    """How many units of the level are active."""
    units: int
    """How many it has: every channel at every place."""


def active_units(
    model: Autoencoder,
    images: Rows,
    *,
    threshold: float = THRESHOLD,
    seed: int = 0,
    replicates: int = bootstrap.REPLICATES,
) -> list[ActiveUnits]:
    """For each level, coarsest first, the units whose mean varies by more than ``threshold`` over (n, c, h, w) images.

    The variance of the posterior's mean (Burda et al. 2016), in units of the prior's deviation and from the prior's
    mean, levels above being at their means. With a standard normal prior that is the paper's own. A lower level of a
    hierarchy has a prior that moves with the levels above: there a posterior that only follows its prior says nothing,
    and is inactive, however much its mean varies.
    """
    images = unit_images(images)
    times = torch.from_numpy(bootstrap.draws(len(images), seed, replicates))
    # The set itself, then its replicates.
    times = torch.cat((torch.ones(1, len(images)), times))
    sums: list[tuple[Tensor, Tensor]] = []
    with evaluating(model) as device:
        for part in slices(len(images), _ROWS):
            levels = model.infer(images[part].to(device), None).levels
            codes = [level.prior.noise_of(level.mean).flatten(1).double().cpu() for level in levels]
            weights = times[:, part].double()
            found = [(weights @ code, weights @ code.square()) for code in codes]
            sums = [(a + c, b + d) for (a, b), (c, d) in zip(sums, found, strict=True)] if sums else found
    return [_active(total / len(images), square / len(images), threshold) for total, square in sums]


def _active(mean: Float[Tensor, "r u"], square: Float[Tensor, "r u"], threshold: float) -> ActiveUnits:
    """From means and mean squares of each unit, in the set itself and in its replicates."""
    counts = (square - mean.square() > threshold).sum(1)
    return ActiveUnits(bootstrap.percentiles(int(counts[0]), counts[1:].double().numpy()), mean.shape[1])
