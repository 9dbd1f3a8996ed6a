"""Model M2 of Kingma et al. 2014 ("Semi-supervised Learning with Deep Generative Models").

A class and a Gaussian latent together generate a vector; the class is known for some vectors only. If the vectors are
latents of a trained autoencoder (the paper's M1), drawn from its posterior anew at each use, this is the paper's M1+M2.

In addition to the paper, an example may have several views, such as the same image shifted a little. Each view has its
own latent, and all views share the class. With one view it is exactly the paper's model.
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
    """Size of the vector of one view, such as the number of latents of an autoencoder."""
    classes: int = 10
    """Number of classes; the prior gives them equal probabilities."""
    latents: int = 8
    """Number of Gaussian latents of each view."""
    hidden: tuple[int, ...] = (192,)
    """Units of each hidden layer of the encoder; the decoder has the same layers in reverse order."""
    classifier_hidden: tuple[int, ...] = (256, 256)
    """Units of each hidden layer of the classifier q(class | view)."""
    dropout: float = 0.0
    """Fraction of the classifier's hidden units that are dropped in a training step."""

    def __post_init__(self) -> None:
        for name in ("inputs", "latents"):
            check(self, name, getattr(self, name) >= 1, "be at least 1")
        check(self, "classes", self.classes >= 2, "be at least 2")
        check(self, "hidden", len(self.hidden) >= 1 and min(self.hidden) >= 1, "be at least one positive number")
        check(self, "classifier_hidden", all(units >= 1 for units in self.classifier_hidden), "be positive")
        check(self, "dropout", 0 <= self.dropout < 1, "be in [0, 1)")


class SemiSupervisedCosts(NamedTuple):
    """Means over examples in nats: the bounds of labelled and of unlabelled examples, and the cross entropy of the
    classifier on labelled examples. Each is zero if there are no such examples."""

    labelled: Float[Tensor, ""]
    unlabelled: Float[Tensor, ""]
    classifier: Float[Tensor, ""]


class SemiSupervisedVAE(nn.Module):
    """The generative model p(class) p(z) p(view | z, class), with q(class | view) and q(z | view, class)."""

    def __init__(self, config: SemiSupervisedConfig) -> None:
        super().__init__()
        self.config = config
        self.classifier = perceptron((config.inputs, *config.classifier_hidden, config.classes), config.dropout)
        self.encoder = _ClassConditional(config.inputs, config.hidden, 2 * config.latents, config.classes)
        self.decoder = _ClassConditional(config.latents, config.hidden[::-1], 2 * config.inputs, config.classes)

    def class_logits(self, x: Float[Tensor, "b v i"]) -> Float[Tensor, "b k"]:
        """Logits of q(class | views), up to a constant: the mean of the logits of the single views."""
        return self.classifier(x).mean(1)

    def posterior(self, x: Float[Tensor, "b v i"], label: Int[Tensor, "b m"]) -> Gaussian:
        """q(z | view, class) for m classes of each example; the tensors are (b, m, v, d)."""
        return _gaussian(self.encoder(x.unsqueeze(1), label))

    def likelihood(self, z: Float[Tensor, "b m v d"], label: Int[Tensor, "b m"]) -> Gaussian:
        """p(view | z, class) for m classes of each example; the tensors are (b, m, v, i)."""
        return _gaussian(self.decoder(z, label))

    def bound(
        self, x: Float[Tensor, "b v i"], label: Int[Tensor, "b m"], noise: Float[Tensor, "b m v d"]
    ) -> Float[Tensor, "b m"]:
        """-L(x, y) of equation 6: an upper bound on -log p(views, class) for m classes of each example, nats.

        ``noise`` is standard normal; the expectation over z is estimated from this one draw, and the KL is exact.
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
        """The bound of `bound` for the known classes of labelled examples, nats."""
        return self.bound(x, label.unsqueeze(1), noise.unsqueeze(1)).squeeze(1)

    def unlabelled_bound(self, x: Float[Tensor, "b v i"], noise: Float[Tensor, "b k v d"]) -> Float[Tensor, " b"]:
        """-U(x) of equation 7: an upper bound on -log p(views), with an exact sum over the classes, nats."""
        label = torch.arange(self.config.classes, device=x.device).expand(len(x), -1)
        log_q = F.log_softmax(self.class_logits(x).float(), dim=1)
        return (log_q.exp() * (self.bound(x, label, noise) + log_q)).sum(1)

    def costs(
        self, x: Float[Tensor, "b v i"], label: Int[Tensor, " b"], unlabelled: Float[Tensor, "n v i"]
    ) -> SemiSupervisedCosts:
        """The three parts of the objective. The noise comes from torch's global generator."""
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
    """J^alpha of equation 9 in nats, divided by the number of examples of the data set.

    ``labelled`` and ``unlabelled`` are the numbers of examples of each kind. ``alpha`` weighs the mean cross entropy of
    the classifier. The paper's value corresponds to 0.1 here: its code multiplies 0.1 by the number of all examples
    over the number of labelled ones.
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
    """A perceptron of a vector and a class. The first layer is applied to the vector once for all classes."""

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
