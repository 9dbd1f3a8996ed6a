"""Random numbers that belong to a sample: a function of seed, step and sample alone."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


class Noise:
    """Random numbers that belong to a sample, not to a worker: a function of (seed, step, sample) alone.

    ``samples`` are the dataset indices of the rows of one batch. Draws happen on the CPU, one generator for each
    sample, so that the same numbers come out on any device and for any split of the batch over workers.
    """

    def __init__(self, seed: int, step: int, samples: Iterable[int]) -> None:
        self.step = step
        self._generators = [torch.Generator().manual_seed(_mix(seed, step, int(sample))) for sample in samples]

    def normal(self, *shape: int, device: torch.device | str = "cpu") -> Tensor:
        """Standard normal, (b, *shape)."""
        return torch.stack([torch.randn(*shape, generator=g) for g in self._generators]).to(device)

    def uniform(self, *shape: int, device: torch.device | str = "cpu") -> Tensor:
        """Uniform in [0, 1), (b, *shape)."""
        return torch.stack([torch.rand(*shape, generator=g) for g in self._generators]).to(device)


def _mix(seed: int, step: int, sample: int) -> int:
    """64 well-spread bits from three integers (SplitMix64 finaliser, Steele et al. 2014)."""
    mask = (1 << 64) - 1
    value = 0
    for part in (seed, step, sample):
        value = (value + (part & mask) + 0x9E3779B97F4A7C15) & mask
        value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & mask
        value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & mask
        value ^= value >> 31
    return value
