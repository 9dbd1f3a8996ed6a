"""Sparsity costs of a code: how many of an image's latents are active. One cost for each image."""

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

# Codes without gates never become exactly zero, so smaller absolute values count as inactive.
_ACTIVE = 0.01


@dataclass(frozen=True, kw_only=True)
class SparsityConfig:
    cost: Literal["l0", "l1", "kl"] = "l0"
    """l0: expected number of open gates. l1: sum of absolute values. kl: KL from the gates to gates that are open with
    probability target_fraction."""
    weight: float = 1.0
    """Weight of the cost; if l0, nats for each active latent (beta in alpha * reconstruction + beta * L0)."""
    target_fraction: float = 0.1
    """Fraction of the latents that should be active, if kl."""

    def __post_init__(self) -> None:
        check(self, "weight", self.weight >= 0, "not be negative")
        check(self, "target_fraction", 0 < self.target_fraction < 1, "be between 0 and 1")


def sparsity_cost(inference: Inference, config: SparsityConfig) -> Float[Tensor, " b"]:
    """The configured cost of all levels together, without its weight."""
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
    """Sum of absolute values (Olshausen and Field 1996). Use it with weight decay: otherwise the decoder's weights grow
    while the code shrinks, and the cost has no effect."""
    return code.abs().sum(1)


def gate_kl(log_alpha: Float[Tensor, "b n"], target: float) -> Float[Tensor, " b"]:
    """Sum over gates of KL(Bernoulli(p) || Bernoulli(target)) in nats, p being the probability that a gate is not zero.

    The sparse autoencoder (Ng 2011) uses the mean activity over a batch as p. Here p is that of each image, so that the
    cost is a sum over images. As KL is convex, this cost is never below Ng's.
    """
    logits = open_logits(log_alpha)
    opened = torch.sigmoid(logits)
    negative_entropy = opened * F.logsigmoid(logits) + (1 - opened) * F.logsigmoid(-logits)
    return (negative_entropy - opened * math.log(target) - (1 - opened) * math.log1p(-target)).sum(1)


def active_fraction(inference: Inference) -> Float[Tensor, " b"]:
    """Fraction of an image's latents whose absolute value is at least 0.01. Gates and top_k set the others to 0."""
    code = torch.cat([level.sample.detach().flatten(1) for level in inference.levels], dim=1)
    return (code.abs() >= _ACTIVE).float().mean(1)
