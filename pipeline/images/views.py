"""Test-time augmentation: a result is the mean over several views of an image."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

#: The scales of the views of each setting, and whether each is mirrored, too.
VIEWS: dict[str, tuple[tuple[float, ...], bool]] = {
    "none": ((1.0,), False),
    "flip": ((1.0,), True),
    "scales": ((0.75, 1.0, 1.25), True),
}


def plain_view(views: str) -> int:
    """Which of the passes through the model, in their order, sees the image as it is."""
    scales, mirrored = VIEWS[views]
    return scales.index(1.0) * (2 if mirrored else 1)


def with_views(model: nn.Module, views: str) -> Callable[[Float[Tensor, "b c h w"]], Float[Tensor, "b k h w"]]:
    """A function like the model that averages its log-probabilities over the views named ``views`` in `VIEWS`.

    Without further views it returns the model's logits as they are.
    """
    scales, mirrored = VIEWS[views]

    def average(image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k h w"]:
        size = list(image.shape[2:])
        found = []
        for scale in scales:
            wanted = [max(1, round(side * scale)) for side in size]
            seen = image if scale == 1 else F.interpolate(image, wanted, mode="bilinear", align_corners=False)
            for flipped in (False, True) if mirrored else (False,):
                logits = model(seen.flip(3) if flipped else seen).float().log_softmax(1)
                logits = logits.flip(3) if flipped else logits
                if wanted != size:
                    logits = F.interpolate(logits, size, mode="bilinear", align_corners=False)
                found.append(logits)
        return torch.stack(found).mean(0)

    return model if (scales, mirrored) == VIEWS["none"] else average
