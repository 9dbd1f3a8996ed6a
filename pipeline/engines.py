"""In which precision a network computes masks, and which precisions a package can be run in.

``float32`` is the network as it is. ``bfloat16`` runs its convolutions and matrix products in bfloat16 (8 bits of
precision, the range of float32), which processors with instructions for it and GPUs do much faster. Weights, sums,
logits and everything after the network stay float32. A few pixels, on which two classes are almost equal, get the
other class.
"""

from __future__ import annotations

from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

Engine = Literal["float32", "bfloat16"]
ENGINES: tuple[Engine, ...] = ("float32", "bfloat16")


def engines_of(model: nn.Module) -> tuple[Engine, ...]:
    """The engines that can run a model. A class that can be run in more than float32 says so by ``engines``."""
    return cast("tuple[Engine, ...]", getattr(model, "engines", ("float32",)))


def with_engine(model: nn.Module, engine: Engine) -> nn.Module:
    """The same model, whose forward pass runs in this engine from now on; its parts, and training, do not."""
    if engine == "float32":
        return model
    forward = model.forward

    def faster(image: Tensor, *arguments: Any, **options: Any) -> Tensor:
        # With the channels of a pixel side by side the kernels of bfloat16 need not rearrange their input.
        image = image.contiguous(memory_format=torch.channels_last)
        with torch.autocast(image.device.type, torch.bfloat16):
            found = forward(image, *arguments, **options)
        return found.float().contiguous()

    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    model.forward = faster
    return model
