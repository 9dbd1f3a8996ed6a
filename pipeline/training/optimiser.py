"""One loop of an optimiser: groups of parameters, learning rate, clipping, averaged weights."""

from __future__ import annotations

import math


def schedule(step: int, steps: int, warmup_fraction: float) -> float:
    """Learning rate factor in (0, 1]: linear warm-up, then half a cosine to zero."""
    warmup = max(1, round(steps * warmup_fraction))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
