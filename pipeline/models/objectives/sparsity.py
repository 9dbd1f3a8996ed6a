"""Costs of a code by how much of it is in use, for each image, summed over latents."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from pipeline.config import check
from pipeline.models.autoencoders.latents import Inference, open_logits

# Numbers of a code without gates never become exactly zero; those below do not count as active.
_ACTIVE = 0.01


@dataclass(frozen=True, kw_only=True)
class SparsityConfig:
    cost: Literal["l0", "l1", "kl"] = "l0"
    """Expected number of open gates; sum of absolute values; or KL of the gates from gates open at target_fraction."""
    weight: float = 1.0
    """Weight, in nats for each active latent if l0: beta in alpha * reconstruction + beta * L0."""
    target_fraction: float = 0.1
    """Part of the latents that is to be active, if kl."""

    def __post_init__(self) -> None:
        check(self, "weight", self.weight >= 0, "not be negative")
        check(self, "target_fraction", 0 < self.target_fraction < 1, "be between 0 and 1")


def sparsity_cost(inference: Inference, config: SparsityConfig) -> Float[Tensor, " b"]:
    """The configured cost, without its weight, over all levels."""
    if config.cost == "l1":
        return l1(torch.cat([level.sample.flatten(1) for level in inference.levels], dim=1))
    gates = [level.log_alpha for level in inference.levels if level.log_alpha is not None]
    assert gates, f"sparsity cost {config.cost} needs hard-concrete gates"
    log_alpha = torch.cat([gate.flatten(1) for gate in gates], dim=1)
    return expected_l0(log_alpha) if config.cost == "l0" else gate_kl(log_alpha, config.target_fraction)


def expected_l0(log_alpha: Float[Tensor, "b n"]) -> Float[Tensor, " b"]:
    """Expected number of gates that are not exactly zero (Louizos et al. 2018, equation 12)."""
    return torch.sigmoid(open_logits(log_alpha)).sum(1)


def l1(code: Float[Tensor, "b n"]) -> Float[Tensor, " b"]:
    """Sum of absolute values (Olshausen and Field 1996). A decoder whose weights grow makes it void: decay those."""
    return code.abs().sum(1)


def gate_kl(log_alpha: Float[Tensor, "b n"], target: float) -> Float[Tensor, " b"]:
    """KL(Bernoulli(open) || Bernoulli(target)) of every gate, nats, where open is the chance that it is not zero.

    The sparse autoencoder (Ng 2011) takes it of the mean activity over a batch. Here it is each image's own, which is
    a sum over images, and, KL being convex, never less than Ng's.
    """
    logits = open_logits(log_alpha)
    opened = torch.sigmoid(logits)
    negative_entropy = opened * F.logsigmoid(logits) + (1 - opened) * F.logsigmoid(-logits)
    return (negative_entropy - opened * math.log(target) - (1 - opened) * math.log1p(-target)).sum(1)


def active_fraction(inference: Inference) -> Float[Tensor, " b"]:
    """Part of an image's latents whose size is at least 0.01; gates and top_k set the rest to exactly zero."""
    code = torch.cat([level.sample.detach().flatten(1) for level in inference.levels], dim=1)
    return (code.abs() >= _ACTIVE).float().mean(1)
