"""What a task hands to the trainer: batches of tensors, losses that workers can share, statistics that add up."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

Batch = dict[str, Tensor]
Statistics = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Loss:
    """A sum over ``units`` (valid pixels, sentences, images) and their number, so that workers can share a batch.

    The loss that is minimised is ``total.sum over workers / units.sum over workers``. ``logs`` are further sums over
    the same units, for display; ``sums`` are vectors of such sums, for a `Companion`.
    """

    total: Tensor
    units: Tensor
    logs: dict[str, Tensor] = field(default_factory=dict)
    sums: dict[str, Tensor] = field(default_factory=dict)
