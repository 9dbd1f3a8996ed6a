"""Companion: what training needs beside the model, and a package does not hold."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from pipeline.noise import Noise
from pipeline.training.losses import Batch, Loss


class Companion(nn.Module, ABC):
    """What training needs beside the model and a package does not hold: a discriminator, a cost that couples samples.

    Its parameters are trained with the model's, by the gradients of the same `Loss`; its buffers are part of the
    checkpoint and change in `absorb` only, so that they are the same on all workers.
    """

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch, noise: Noise) -> Loss:
        """In place of `Task.loss`."""

    def couple(
        self, shares: dict[str, Tensor], means: dict[str, Tensor], units: float
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        """A cost that is a function of the means of ``Loss.sums`` over the global batch, and no sum over samples.

        ``shares`` of the workers add up to ``means``, which are detached. The first result's gradient with respect to
        the shares is the cost's with respect to the means; the second names the cost's parts, and is part of the loss.
        """
        return None, {}

    def absorb(self, means: dict[str, Tensor]) -> None:
        """After each step, the means of ``Loss.sums`` over the global batch, detached."""
