"""How networks are run where they are measured, and what images they are given."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from pipeline.errors import RequestError

Rows = Tensor | np.ndarray


@contextmanager
def evaluating(*models: nn.Module, bfloat16: bool = False) -> Iterator[torch.device]:
    """Networks in eval mode, under inference mode and perhaps autocast; every part's own mode comes back at the end.

    Gives the device of the first.
    """
    modes = [(part, part.training) for model in models for part in model.modules()]
    device = next(iter(models[0].parameters())).device
    try:
        for model in models:
            model.eval()
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
            yield device
    finally:
        for part, mode in modes:
            part.training = mode


def unit_images(images: Rows, name: str = "images") -> Float[Tensor, "n c h w"]:
    """Images as float32. `RequestError` unless they are (n, c, h, w), n at least 1, finite, and within [0, 1]."""
    found = torch.as_tensor(images)
    if found.ndim != 4 or not len(found) or not found.is_floating_point():
        raise RequestError(f"{name} must be floats (n, c, h, w), got {found.dtype} {tuple(found.shape)}")
    low, high = (float(value) for value in found.aminmax())
    if not (low >= 0 and high <= 1):
        raise RequestError(f"{name} must be within [0, 1], got {low:g} to {high:g}")
    return found.detach().float()


def slices(count: int, rows: int) -> Iterator[slice]:
    """Consecutive parts of ``count`` rows; the last may be shorter."""
    return (slice(start, min(start + rows, count)) for start in range(0, count, rows))


def random_batches(count: int, rows: int, random: torch.Generator | None = None) -> Iterator[Tensor]:
    """Random batches for ever: the numbers of ``rows`` of ``count`` images, each image at most once in a pass.

    The images that fill no batch wait for the next pass, which has an order of its own.
    """
    rows = min(rows, count)
    while True:
        yield from torch.randperm(count, generator=random)[: count // rows * rows].split(rows)


def picked(images: Any, count: int, seed: int) -> Any:
    """``count`` rows at random, without replacement, in their own order; all of them where there are no more."""
    if count >= len(images):
        return images
    places = np.sort(np.random.default_rng(seed).choice(len(images), count, replace=False))
    return images[torch.from_numpy(places) if isinstance(images, Tensor) else places]
