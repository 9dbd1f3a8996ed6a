"""The arithmetic of learning to tag sentences: words that are dropped, offsets of windows, and curves of thresholds."""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.training.losses import Statistics

#: What seeds of `dropped` are counted modulo.
PRIME = 2**31 - 1
#: Equal bins of probability in the statistics of validation.
BINS = 500
_NEWTON_STEPS = 8


def dropped(ids: Tensor, seeds: Tensor, rate: float) -> Tensor:
    """Replace a random fraction of the ids by 0, chosen by a hash of id and seed (arithmetic modulo a prime)."""
    mixed = (ids.long() + 1) * 1_103_515_245 % PRIME
    mixed = (mixed + seeds) % PRIME * 48_271 % PRIME
    mixed = (mixed ^ (mixed >> 13)) * 1_103_515_245 % PRIME
    return torch.where(mixed < int(rate * PRIME), torch.zeros_like(ids), ids)


def likeliest_offsets(logits: Tensor, truth: Tensor, scored: Tensor, std: float) -> Tensor:
    """The most likely offset of each window's logits, (..., b, 1), given its labels and a normal prior.

    Newton's method on a concave function of one number. Steps are at most 1, since longer ones would oscillate.
    """
    offsets = torch.zeros_like(logits[..., :1])
    if std == 0:
        return offsets
    for _ in range(_NEWTON_STEPS):
        likely = torch.sigmoid(logits + offsets)
        slope = ((truth - likely) * scored).sum(-1, keepdim=True) - offsets / std**2
        curvature = (likely * (1 - likely) * scored).sum(-1, keepdim=True) + 1 / std**2
        offsets = offsets + (slope / curvature).clamp(-1, 1)
    return offsets


def curve(statistics: Statistics) -> tuple[Tensor, Tensor, Tensor]:
    """At each threshold (the lower edge of a bin): true and all found boundaries, (BINS,); and all true ones."""
    positive, negative = (statistics[name].flip(0).cumsum(0).flip(0) for name in ("positive", "negative"))
    return positive, positive + negative, positive[0] + statistics["missed"]
