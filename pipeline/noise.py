"""Random numbers that belong to a sample: a function of seed, step and sample alone."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum

import torch
from torch import Tensor

from pipeline.splitmix import GAMMA, mix


class ReservedStep(IntEnum):
    """Every step below 0, with what its random numbers are for. Training has the steps from 0 on.

    Results depend on the values, so a new use takes a new one.
    """

    VALIDATION = -1
    """Validation samples have the same numbers at every evaluation of a training."""
    PREDICTION = -2
    """Binary values of an image in prediction, where an image has no index: all have the numbers of sample 0."""
    DRAWING = -3
    """Latents of images that a sampler draws; the sample is the number of the image."""
    FITTING = -4
    """Posterior samples of the latents that a sampler is fitted to."""
    PICTURES = -5
    """Binary values of the images that a model is given to fit samplers to its latents and to make pictures."""
    VIEWS = -6
    """Movements of the views of an image: in training those of the image; in prediction all images have the same."""
    PARAGRAPHS = -7
    """Latents of the sentences of a paragraph that an autoencoder of sentences writes, by the paragraph's number; and
    from 2 ** 20 on, the subwords that are drawn for sentences that belong together."""


class Noise:
    """Random numbers that belong to a sample, not to a worker: a function of (seed, step, sample) alone.

    ``samples`` are the dataset indices of the rows of one batch. Draws happen on the CPU, one generator for each
    sample, so that the same numbers come out on any device and for any split of the batch over workers.
    """

    def __init__(self, seed: int, step: int, samples: Iterable[int], steps: int = 0) -> None:
        """``steps``: number of all steps of a training; 0 outside of one."""
        self.step, self.steps = step, steps
        self._generators = [torch.Generator().manual_seed(_mix(seed, step, int(sample))) for sample in samples]

    def normal(self, *shape: int, device: torch.device | str = "cpu") -> Tensor:
        """Standard normal, (b, *shape)."""
        return torch.stack([torch.randn(*shape, generator=g) for g in self._generators]).to(device)

    def uniform(self, *shape: int, device: torch.device | str = "cpu") -> Tensor:
        """Uniform in [0, 1), (b, *shape)."""
        return torch.stack([torch.rand(*shape, generator=g) for g in self._generators]).to(device)


def _mix(seed: int, step: int, sample: int) -> int:
    """64 well-spread bits from three integers: each in turn is added to the bits of those before, and mixed."""
    mask, value = (1 << 64) - 1, 0
    for part in (seed, step, sample):
        value = mix((value + (part & mask) + GAMMA) & mask)
    return value
