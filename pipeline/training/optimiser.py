"""What every loop of an optimiser needs: groups of parameters, learning rate, clipping, averaged weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


def minimise(
    cost: Callable[[int], Tensor],
    optimizer: Optimizer,
    rate: LRScheduler,
    steps: int,
    *,
    clip_norm: float | None = None,
    average: AveragedWeights | None = None,
    report: Callable[[int, float], None] | None = None,
) -> None:
    """Minimise ``cost(step)``, a scalar of a new batch, in ``steps`` steps. One device, start to end.

    ``rate`` sets the optimizer's learning rate, and moves on after each step; a rule that is a function of the step,
    such as `schedule`, becomes one by torch's ``LambdaLR``. ``clip_norm`` is the largest norm of the gradient of all
    parameters of the optimizer together. ``report`` is called after each step, with the cost before it. Training that
    stops and goes on, and that workers share, is `pipeline.training.trainer`.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for step in range(steps):
        value = cost(step)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        if clip_norm is not None:
            nn.utils.clip_grad_norm_(parameters, clip_norm)
        optimizer.step()
        rate.step()
        if average is not None:
            average.update(step)
        if report is not None:
            report(step, value.item())


def parameter_groups(parameters: Iterable[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """For an optimizer: the parameters that learn, with weight decay on matrices and filters only."""
    learned = [parameter for parameter in parameters if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in learned if parameter.ndim > 1], "weight_decay": weight_decay},
        {"params": [parameter for parameter in learned if parameter.ndim <= 1], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def schedule(step: int, steps: int, warmup_fraction: float) -> float:
    """Learning rate factor in (0, 1]: linear warm-up, then half a cosine to zero."""
    warmup = max(1, round(steps * warmup_fraction))
    if step < warmup:
        return (step + 1) / warmup
    return cosine(step - warmup, max(1, steps - warmup))


def cosine(step: int, steps: int) -> float:
    """Learning rate factor that falls from 1 at step 0 to 0 at step ``steps``, by half a cosine."""
    return 0.5 * (1 + math.cos(math.pi * step / steps))


class AveragedWeights:
    """An exponential moving average of a model's weights and buffers.

    ``model`` has it, in eval mode and without gradients. Buffers of whole numbers are copied.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self._latest, self._decay = model, decay

    def update(self, step: int) -> None:
        """Take in the model's weights after a step, the first being 0.

        The decay rises from 1/10 at step 0 to the one that was asked for, so that the first weights are soon forgotten.
        """
        decay = min(self._decay, (1 + step) / (10 + step))
        average, values = (list(model.state_dict().values()) for model in (self.model, self._latest))
        with torch.no_grad():
            floats = [pair for pair in zip(average, values, strict=True) if pair[1].is_floating_point()]
            torch._foreach_lerp_(  # pyright: ignore[reportPrivateImportUsage]
                [mean for mean, _ in floats], [value for _, value in floats], 1 - decay
            )
            for mean, value in zip(average, values, strict=True):
                if not value.is_floating_point():
                    mean.copy_(value)
