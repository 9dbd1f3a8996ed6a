"""The objective of an autoencoder: a reconstruction cost and further terms that are chosen by name, in nats per image.

Costs are summed over pixels, channels and latents, and not averaged: an average would make the weight of the other
terms depend on the number of pixels. The costs of images add up, so any number of workers can share a batch. The one
exception is the maximum mean discrepancy; it is a function of a sum over images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pipeline.config import check
from pipeline.errors import RequestError
from pipeline.models.autoencoders.interface import Autoencoder
from pipeline.models.autoencoders.latents import Inference, sum_kl
from pipeline.models.autoencoders.likelihoods import nll
from pipeline.models.objectives.adversarial import AdversarialConfig, Discriminator
from pipeline.models.objectives.divergences import MMDConfig, RandomFeatureMMD
from pipeline.models.objectives.jacobians import Draw, JacobianConfig, jacobian_norm
from pipeline.models.objectives.sparsity import SparsityConfig, active_fraction, sparsity_cost

Term = Literal["kl", "mmd", "code_norm", "decoder_gradient", "sparsity", "contraction", "adversarial"]


@dataclass(frozen=True, kw_only=True)
class KLConfig:
    beta: float = 1.0
    """Final weight of the KL; 1 gives the evidence lower bound, others give beta-VAE (Higgins et al. 2017)."""
    warmup: Literal["none", "linear", "cyclical"] = "none"
    """How the weight rises from 0: none, not at all; linear, once (Bowman et al. 2016); cyclical (Fu et al. 2019)."""
    warmup_levels: Literal["all", "top"] = "all"
    """Levels whose weight rises. With top, finer levels have their full weight from the start, so that they do not
    encode what the coarsest level has yet to learn."""
    warmup_steps: int = 1000
    """Number of steps of one rise."""
    cycles: int = 4
    """Number of rises, if cyclical. Each is followed by warmup_steps steps at the full weight."""
    free_nats: float = 0.0
    """Nats of each latent channel of an image that are free: a KL below this costs no less than this."""

    def __post_init__(self) -> None:
        for name in ("beta", "free_nats"):
            check(self, name, getattr(self, name) >= 0, "not be negative")
        for name in ("warmup_steps", "cycles"):
            check(self, name, getattr(self, name) >= 1, "be at least 1")


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    terms: tuple[Term, ...] = ("kl",)
    """Terms that are added to the reconstruction cost. The settings below are those of each term."""
    reconstruction: float = 1.0
    """Weight of the reconstruction's negative log likelihood (alpha in the papers on sparse autoencoders)."""
    kl: KLConfig = field(default_factory=KLConfig)
    """KL from the posterior to the prior."""
    mmd: MMDConfig = field(default_factory=MMDConfig)
    """Maximum mean discrepancy between the aggregate posterior and the prior."""
    code_norm: float = 1.0
    """Weight of half the squared norm of the code."""
    decoder_gradient: JacobianConfig = field(default_factory=JacobianConfig)
    """Squared norm of the decoder's Jacobian."""
    sparsity: SparsityConfig = field(default_factory=SparsityConfig)
    """Cost of active latents."""
    contraction: JacobianConfig = field(default_factory=JacobianConfig)
    """Squared norm of the encoder's Jacobian."""
    adversarial: AdversarialConfig = field(default_factory=AdversarialConfig)
    """Costs of a discriminator that judges reconstructions and samples (VAE-GAN)."""

    def __post_init__(self) -> None:
        check(self, "terms", len(set(self.terms)) == len(self.terms), "have no term twice")
        for name in ("reconstruction", "code_norm"):
            check(self, name, getattr(self, name) >= 0, "not be negative")

    def check_model(self, config: Any) -> None:
        """`RequestError` if a term does not fit a model with this configuration, such as kl with a top_k code."""
        needed = {"kl": "gaussian"}
        if self.sparsity.cost != "l1":
            needed["sparsity"] = "hard_concrete"
        for term in self.terms:
            if needed.get(term) not in (None, config.code):
                rule = f"ObjectiveConfig.terms has {term!r}, which needs a code of {needed[term]!r}"
                raise RequestError(f"{rule}, but {type(config).__name__}.code is {config.code!r}")
        if "adversarial" in self.terms and self.adversarial.channels != config.channels:
            rule = f"AdversarialConfig.channels must be the model's {config.channels}"
            raise RequestError(f"{rule}, got {self.adversarial.channels}")


#: Objectives of the literature, by name. Those without "kl" and "mmd" are meant for codes that are not Gaussian.
OBJECTIVES: dict[str, ObjectiveConfig] = {
    "elbo": ObjectiveConfig(),
    "beta": ObjectiveConfig(kl=KLConfig(beta=4.0)),
    "warmup": ObjectiveConfig(kl=KLConfig(warmup="linear")),
    "cyclical": ObjectiveConfig(kl=KLConfig(warmup="cyclical")),
    "free_bits": ObjectiveConfig(kl=KLConfig(free_nats=0.5)),
    "info_vae": ObjectiveConfig(terms=("kl", "mmd"), kl=KLConfig(beta=0.01)),
    "wae": ObjectiveConfig(terms=("mmd",)),
    "rae": ObjectiveConfig(terms=("code_norm",), code_norm=0.01),
    "rae_gradient": ObjectiveConfig(terms=("code_norm", "decoder_gradient"), code_norm=0.01),
    "sparse": ObjectiveConfig(terms=("sparsity",)),
    "sparse_l1": ObjectiveConfig(terms=("sparsity",), sparsity=SparsityConfig(cost="l1")),
    "sparse_kl": ObjectiveConfig(terms=("sparsity",), sparsity=SparsityConfig(cost="kl")),
    "plain": ObjectiveConfig(terms=()),
    "contractive": ObjectiveConfig(terms=("contraction",)),
    "sparse_contractive": ObjectiveConfig(terms=("sparsity", "contraction")),
    "vae_gan": ObjectiveConfig(terms=("kl", "adversarial")),
}


class Bound(NamedTuple):
    """The two terms of the negative evidence lower bound of each image, in nats."""

    reconstruction: Float[Tensor, " b"]
    kl: Float[Tensor, " b"]

    def total(self) -> Float[Tensor, " b"]:
        return self.reconstruction + self.kl


class Costs(NamedTuple):
    """Costs of each image. ``total`` (b,) is minimised, and ``logs`` (b,) are for display.

    ``sums`` (b, n) are values whose means over the global batch `Objective.couple` and `Objective.absorb` need.
    """

    total: Float[Tensor, " b"]
    logs: dict[str, Tensor]
    sums: dict[str, Tensor]


def elbo(model: Autoencoder, image: Tensor, inference: Inference, valid: Tensor | None = None) -> Bound:
    """Negative evidence lower bound of each image, summed over values and latents (Kingma and Welling 2014).

    ``image`` (b, c, h, w) is in [0, 1]; ``valid`` (b, 1, h, w) is 1 where a pixel counts, and 0 in padding. If the code
    is not Gaussian there is no such bound: ``kl`` is zero then.
    """
    cost = nll(model.config.likelihood, image, inference.logits, model.log_scale)
    if valid is not None:
        cost = cost * valid
    return Bound(cost.flatten(1).sum(1), inference.kl())


def kl_weight(config: KLConfig, step: int) -> float:
    """The weight of the KL at a training step; steps count from 0."""
    if config.warmup == "none":
        return config.beta
    if config.warmup == "cyclical" and step < 2 * config.cycles * config.warmup_steps:
        step %= 2 * config.warmup_steps
    return config.beta * min(1.0, step / config.warmup_steps)


def with_free_nats(of_channels: Sequence[Tensor], free: float) -> list[Tensor]:
    """The KL of each channel (b, d), but at least ``free`` (Kingma et al. 2016): a smaller KL costs no less.

    The paper applies the limit to the mean over a batch. Here it applies to the KL of each image, so that the cost is a
    sum over images, and no image can compensate for another.
    """
    return [found.clamp(min=free) for found in of_channels]


class Objective(nn.Module):
    """The cost function of an autoencoder. If the objective is adversarial, it holds the discriminator."""

    def __init__(self, config: ObjectiveConfig, model: Autoencoder, height: int, width: int) -> None:
        super().__init__()
        config.check_model(model.config)
        self.config = config
        self.mmd = RandomFeatureMMD(config.mmd, model.latent_shapes(height, width)) if "mmd" in config.terms else None
        self.discriminator = Discriminator(config.adversarial) if "adversarial" in config.terms else None

    @property
    def is_a_sum(self) -> bool:
        """Whether the cost is a sum over images without state: no mean discrepancy and no discriminator."""
        return self.mmd is None and self.discriminator is None

    def forward(
        self,
        model: Autoencoder,
        image: Float[Tensor, "b c h w"],
        draw: Draw,
        step: int,
        valid: Float[Tensor, "b 1 h w"] | None = None,
    ) -> Costs:
        """Costs of the b images, in [0, 1]. ``draw`` returns standard normal numbers of the shape (b, *shape)."""
        if "contraction" in self.config.terms:
            image = image.detach().requires_grad_()
        shapes = model.latent_shapes(image.shape[2], image.shape[3])
        inference = model.infer(image, [draw(*shape) for shape in shapes])
        bound = elbo(model, image.detach(), inference, valid)
        total = self.config.reconstruction * bound.reconstruction
        logs = {"reconstruction": bound.reconstruction, "kl": bound.kl}
        for term in self.config.terms:
            if term not in ("mmd", "adversarial"):
                cost = self._cost(term, image, inference, draw, step)
                total = total + cost
                logs |= {} if term == "kl" else {term: cost}
        if "sparsity" in self.config.terms or inference.levels[0].posterior is None:
            logs["active_fraction"] = active_fraction(inference)
        sums: dict[str, Tensor] = {}
        if self.mmd is not None:
            sums["mmd"] = self.mmd.features([level.noise for level in inference.levels])
        if self.discriminator is not None:
            costs, found, sums["costs"] = self._adversarial(model, image, inference, draw, step, valid)
            total, logs = total + costs, logs | found
        return Costs(total, logs, sums)

    def couple(
        self, shares: dict[str, Tensor], means: dict[str, Tensor], count: float
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        """Cost in nats of all ``count`` images of a global batch together, as `Companion.couple` describes."""
        if self.mmd is None:
            return None, {}
        weight = self.config.mmd.weight
        carrier = weight * self.mmd.couple(shares["mmd"], means["mmd"], count)
        return carrier, {"mmd": weight * self.mmd.discrepancy(means["mmd"], count)}

    def absorb(self, means: dict[str, Tensor]) -> None:
        """Update the state from the means of ``sums`` over a global batch, after its step."""
        if self.discriminator is not None:
            self.discriminator.absorb(means["costs"])

    def _cost(self, term: Term, image: Tensor, inference: Inference, draw: Draw, step: int) -> Tensor:
        config = self.config
        if term == "kl":
            free = with_free_nats(inference.kl_of_channels(), config.kl.free_nats)
            weight = kl_weight(config.kl, step)
            below = weight if config.kl.warmup_levels == "all" else config.kl.beta
            return sum_kl([(below if level else weight) * found for level, found in enumerate(free)], inference.logits)
        if term == "code_norm":
            # The prior term of the regularised autoencoder (Ghosh et al. 2020).
            norms = [level.sample.square().flatten(1).sum(1) for level in inference.levels]
            return 0.5 * config.code_norm * torch.stack(norms).sum(0)
        if term == "decoder_gradient":
            samples = [level.sample for level in inference.levels]
            decoded = torch.sigmoid(inference.logits)
            return config.decoder_gradient.weight * jacobian_norm(
                decoded, samples, draw, config.decoder_gradient.probes
            )
        if term == "sparsity":
            return config.sparsity.weight * sparsity_cost(inference, config.sparsity)
        assert term == "contraction", term
        return config.contraction.weight * jacobian_norm(inference.code, [image], draw, config.contraction.probes)

    def _adversarial(
        self, model: Autoencoder, image: Tensor, inference: Inference, draw: Draw, step: int, valid: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Weighted costs (b,), logs, and the discriminator's costs of real and of generated images (b, 2)."""
        assert self.discriminator is not None
        height, width = image.shape[2:]
        noise = [draw(*shape) for shape in model.latent_shapes(height, width)]
        images = [image.detach(), torch.sigmoid(inference.logits), model.sample(noise, height, width)]
        if valid is not None:
            images = [0.5 + (one - 0.5) * valid for one in images]
        verdict = self.discriminator.judge(*images)
        config = self.config.adversarial
        begun, generator, discriminator = self.discriminator.gates(step)
        cost = begun * config.features * verdict.matching + generator * config.weight * verdict.generator
        cost = cost + discriminator * (verdict.real + verdict.made + config.r1 * verdict.r1)
        logs = {
            "matching": verdict.matching,
            "generator": verdict.generator,
            "discriminator": verdict.real + verdict.made,
        }
        return cost, logs, torch.stack((verdict.real, verdict.made), dim=1).detach()
