"""Semi-supervised generative model of Kingma et al. 2014 ("Semi-supervised Learning with Deep Generative Models"), M2.

A class and a Gaussian latent together make the data; the class is observed for some of them. Data are vectors: with
latents of a trained autoencoder (their M1), drawn from its posterior anew at each use, the two are their M1+M2.

Here an example may come in several views (the same image, moved a little): each view has a latent of its own, and all
share the class. With one view this is the model of the paper, term by term.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.config import check
from pipeline.models.autoencoders.latents import Gaussian, kl, standard_normal

_LOG_2PI = math.log(2 * math.pi)
_LOG_VARIANCE_RANGE = (-8.0, 4.0)


@dataclass(frozen=True, kw_only=True)
class SemiSupervisedConfig:
    inputs: int
    """Values of one view: latents of the autoencoder below."""
    classes: int = 10
    """Classes, equally likely before anything is seen."""
    latents: int = 8
    """Gaussian latents beside the class."""
    hidden: tuple[int, ...] = (192,)
    """Units of each hidden layer of the two networks of the generative model."""
    classifier_hidden: tuple[int, ...] = (256, 256)
    """Units of each hidden layer of the classifier q(class | view)."""
    dropout: float = 0.0
    """Part of the classifier's hidden units that a step of training leaves out."""

    def __post_init__(self) -> None:
        for name in ("inputs", "latents"):
            check(self, name, getattr(self, name) >= 1, "be at least 1")
        check(self, "classes", self.classes >= 2, "be at least 2")
        check(self, "hidden", len(self.hidden) >= 1 and min(self.hidden) >= 1, "be at least one positive number")
        check(self, "classifier_hidden", all(units >= 1 for units in self.classifier_hidden), "be positive")
        check(self, "dropout", 0 <= self.dropout < 1, "be in [0, 1)")


class SemiSupervisedCosts(NamedTuple):
    """Means over examples, nats: the two bounds (each nothing where there are no such examples) and the classifier's
    cross entropy on the labelled ones."""

    labelled: Float[Tensor, ""]
    unlabelled: Float[Tensor, ""]
    classifier: Float[Tensor, ""]


class SemiSupervisedVAE(nn.Module):
    """p(class) p(z) p(view | z, class), with q(class | view) and q(z | view, class) beside it."""

    def __init__(self, config: SemiSupervisedConfig) -> None:
        super().__init__()
        self.config = config
        self.classifier = perceptron((config.inputs, *config.classifier_hidden, config.classes), config.dropout)
        self.encoder = _ClassConditional(config.inputs, config.hidden, 2 * config.latents, config.classes)
        self.decoder = _ClassConditional(config.latents, config.hidden[::-1], 2 * config.inputs, config.classes)

    def class_logits(self, x: Float[Tensor, "b v i"]) -> Float[Tensor, "b k"]:
        """Of q(class | views): the mean of the views' own logits, up to a constant."""
        return self.classifier(x).mean(1)

    def posterior(self, x: Float[Tensor, "b v i"], label: Int[Tensor, "b m"]) -> Gaussian:
        """q(z | view, class) for each of m classes of each example, (b, m, v, d)."""
        return _gaussian(self.encoder(x.unsqueeze(1), label))

    def likelihood(self, z: Float[Tensor, "b m v d"], label: Int[Tensor, "b m"]) -> Gaussian:
        """p(view | z, class), (b, m, v, i)."""
        return _gaussian(self.decoder(z, label))

    def bound(
        self, x: Float[Tensor, "b v i"], label: Int[Tensor, "b m"], noise: Float[Tensor, "b m v d"]
    ) -> Float[Tensor, "b m"]:
        """-L(x, y), equation 6: the bound on -log p(views, class), for m classes of each example, nats.

        ``noise`` is standard normal, one draw for each latent; the KL is exact.
        """
        posterior = self.posterior(x, label)
        likelihood = self.likelihood(posterior.sample(noise), label)
        deviation = likelihood.noise_of(x.unsqueeze(1)).square()
        reconstruction = 0.5 * (deviation + likelihood.log_variance + _LOG_2PI).flatten(2).sum(2)
        divergence = kl(posterior, standard_normal(posterior.mean)).flatten(2).sum(2)
        return reconstruction + divergence + math.log(self.config.classes)

    def labelled_bound(
        self, x: Float[Tensor, "b v i"], label: Int[Tensor, " b"], noise: Float[Tensor, "b v d"]
    ) -> Float[Tensor, " b"]:
        """The bound on -log p(views, class) of the classes that are known."""
        return self.bound(x, label.unsqueeze(1), noise.unsqueeze(1)).squeeze(1)

    def unlabelled_bound(self, x: Float[Tensor, "b v i"], noise: Float[Tensor, "b k v d"]) -> Float[Tensor, " b"]:
        """-U(x), equation 7: the bound on -log p(views), by exact marginalisation over the classes, nats."""
        label = torch.arange(self.config.classes, device=x.device).expand(len(x), -1)
        log_q = F.log_softmax(self.class_logits(x).float(), dim=1)
        return (log_q.exp() * (self.bound(x, label, noise) + log_q)).sum(1)

    def costs(
        self, x: Float[Tensor, "b v i"], label: Int[Tensor, " b"], unlabelled: Float[Tensor, "n v i"]
    ) -> SemiSupervisedCosts:
        """The three parts of the objective, with noise of torch's own generator."""
        views, latents, classes = x.shape[1], self.config.latents, self.config.classes
        nothing = x.new_zeros(())
        found = {"labelled": nothing, "unlabelled": nothing, "classifier": nothing}
        if len(x):
            noise = torch.randn(len(x), views, latents, device=x.device)
            found["labelled"] = self.labelled_bound(x, label, noise).mean()
            found["classifier"] = F.cross_entropy(self.class_logits(x).float(), label)
        if len(unlabelled):
            noise = torch.randn(len(unlabelled), classes, unlabelled.shape[1], latents, device=x.device)
            found["unlabelled"] = self.unlabelled_bound(unlabelled, noise).mean()
        return SemiSupervisedCosts(**found)


def semi_supervised_objective(
    costs: SemiSupervisedCosts, labelled: int, unlabelled: int, alpha: float
) -> Float[Tensor, ""]:
    """J^alpha of equation 9 for each example of a data set with so many of each kind, nats.

    ``alpha`` weighs the mean cross entropy of the labelled examples; the paper has 0.1 (its alpha, divided by the
    number of labelled examples over all, as its code does).
    """
    bounds = (labelled * costs.labelled + unlabelled * costs.unlabelled) / (labelled + unlabelled)
    return bounds + alpha * costs.classifier


def perceptron(sizes: tuple[int, ...], dropout: float = 0.0) -> nn.Sequential:
    """Linear layers with ReLU and dropout between them."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.ReLU(), *([nn.Dropout(dropout)] if dropout else [])] if layers else []
        layers.append(nn.Linear(inputs, outputs))
    return nn.Sequential(*layers)


class _ClassConditional(nn.Module):
    """A perceptron of a vector beside a one-hot class; what depends on the vector alone is computed once for all."""

    def __init__(self, inputs: int, hidden: tuple[int, ...], outputs: int, classes: int) -> None:
        super().__init__()
        self.first = nn.Linear(inputs, hidden[0])
        self.of_class = nn.Embedding(classes, hidden[0])
        nn.init.normal_(self.of_class.weight, std=0.3)
        self.rest = perceptron((*hidden, outputs))

    def forward(self, x: Float[Tensor, "b m1 v i"], label: Int[Tensor, "b m"]) -> Float[Tensor, "b m v o"]:
        return self.rest(torch.relu(self.first(x) + self.of_class(label).unsqueeze(2)))


def _gaussian(found: Float[Tensor, "b m v d2"]) -> Gaussian:
    mean, log_variance = found.float().chunk(2, dim=-1)
    return Gaussian(mean, log_variance.clamp(*_LOG_VARIANCE_RANGE))
