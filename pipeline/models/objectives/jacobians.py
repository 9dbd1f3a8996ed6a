"""Squared Frobenius norms of Jacobians, estimated by random projections: one backward pass for each projection."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.config import check

#: Returns standard normal numbers (b, *shape), where b is the number of images in the batch.
Draw = Callable[..., Tensor]


@dataclass(frozen=True, kw_only=True)
class JacobianConfig:
    weight: float = 0.01
    """Weight of the squared norm."""
    probes: int = 1
    """Number of random projections for each image and step."""

    def __post_init__(self) -> None:
        check(self, "weight", self.weight >= 0, "not be negative")
        check(self, "probes", self.probes >= 1, "be at least 1")


def jacobian_norm(outputs: Tensor, inputs: Sequence[Tensor], draw: Draw, probes: int) -> Float[Tensor, " b"]:
    """Unbiased estimate of |d outputs / d inputs|_F^2 for each image; it is differentiable.

    E |v J|^2 = |J|_F^2 for random v of mean 0 and covariance 1 (Hutchinson 1990). ``outputs`` (b, ...) of an image must
    depend on that image's inputs only. The contractive autoencoder (Rifai et al. 2011) penalises the Jacobian of the
    code with respect to the image; the regularised autoencoder (Ghosh et al. 2020) that of the image with respect to
    the code.
    """
    total = outputs.new_zeros(len(outputs), dtype=torch.float32)
    for _ in range(probes):
        probe = draw(*outputs.shape[1:]).to(outputs.dtype).sign()
        gradients = torch.autograd.grad((outputs * probe).sum(), list(inputs), create_graph=True)
        total = total + sum(gradient.float().square().flatten(1).sum(1) for gradient in gradients)
    return total / probes
