"""Fits a classifier to latents of images, a few of which have labels: the stacked model M1+M2 of Kingma et al. 2014.

Images are given as posteriors (n, v, d) of the latents of v views of each: the image itself first, then the image moved
a little. Training ends after a given number of steps, and the averaged weights are the result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from pipeline.config import check
from pipeline.models.autoencoders.latents import Gaussian
from pipeline.models.autoencoders.semi_supervised import (
    SemiSupervisedConfig,
    SemiSupervisedVAE,
    semi_supervised_objective,
)
from pipeline.training.optimiser import AveragedWeights, minimise, parameter_groups, schedule

_WARMUP_FRACTION = 0.05


@dataclass(frozen=True, kw_only=True)
class ClassifierFitConfig:
    steps: int = 7000
    """Steps of training."""
    labelled_rows: int = 256
    """Labelled images in a step, or all of them if there are fewer."""
    unlabelled_rows: int = 192
    """Unlabelled images in a step, or all of them if there are fewer."""
    views: int = 2
    """Views of an image that share its class in a step; all there are, if fewer."""
    learning_rate: float = 2e-3
    """Peak learning rate of AdamW; linear warm-up, then a cosine to zero."""
    weight_decay: float = 0.01
    """AdamW's weight decay, on matrices only."""
    ema_decay: float = 0.995
    """Decay of the averaged weights, which are the ones that classify."""
    alpha: float = 10.0
    """Weight of the classifier's cross entropy beside the bounds of the generative model, nats an image."""
    hidden: tuple[int, ...] = (192,)
    """Units of the hidden layers of the two generative networks."""
    latents: int = 8
    """Latents of a view, beside its class, in the generative model."""
    classifier_hidden: tuple[int, ...] = (256, 256)
    """Units of the hidden layers of the classifier."""
    dropout: float = 0.1
    """Part of the classifier's hidden units that a step leaves out."""

    def __post_init__(self) -> None:
        for name in ("steps", "labelled_rows", "unlabelled_rows", "views", "latents"):
            check(self, name, getattr(self, name) >= 1, "be at least 1")
        check(self, "learning_rate", self.learning_rate > 0, "be positive")
        for name in ("weight_decay", "alpha"):
            check(self, name, getattr(self, name) >= 0, "not be negative")
        check(self, "ema_decay", 0 <= self.ema_decay < 1, "be in [0, 1)")


def fit_classifier(
    posteriors: Gaussian,
    labelled: Tensor,
    labels: Tensor,
    classes: int,
    settings: ClassifierFitConfig,
    *,
    seed: int,
    report: Callable[[int, float], None] | None = None,
) -> SemiSupervisedVAE:
    """The semi-supervised model of latents, of which ``classifier`` classifies; in eval mode.

    ``posteriors`` (n, v, d) are those of all images, ``labelled`` (m,) the rows that have a label, and ``labels`` (m,)
    their classes. Latents are drawn from the posteriors anew at each use. Images without a label take part through
    their bound; where all are labelled there are none. ``report`` is called after each step, with its cost.
    """
    config = SemiSupervisedConfig(
        inputs=posteriors.mean.shape[2],
        classes=classes,
        latents=settings.latents,
        hidden=settings.hidden,
        classifier_hidden=settings.classifier_hidden,
        dropout=settings.dropout,
    )
    unknown = torch.ones(len(posteriors.mean), dtype=torch.bool)
    unknown[labelled] = False
    rest = unknown.nonzero().squeeze(1)
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        known, others = _batches(labelled, settings.labelled_rows), _batches(rest, settings.unlabelled_rows)
        model = SemiSupervisedVAE(config)

        def cost(_: int) -> Tensor:
            rows, which = next(known)
            x = drawn(posteriors, rows, settings.views)
            unlabelled = next(others)[0] if len(rest) else rest
            found = model.costs(x, labels[which], drawn(posteriors, unlabelled, settings.views))
            return semi_supervised_objective(found, len(labelled), len(rest), settings.alpha)

        groups = parameter_groups(model.parameters(), settings.weight_decay)
        optimizer = torch.optim.AdamW(groups, settings.learning_rate)
        rate = LambdaLR(optimizer, lambda step: schedule(step, settings.steps, _WARMUP_FRACTION))
        average = AveragedWeights(model, settings.ema_decay)
        minimise(cost, optimizer, rate, settings.steps, average=average, report=report)
        found = average.model
    assert isinstance(found, SemiSupervisedVAE)
    return found


def drawn(posteriors: Gaussian, rows: Tensor, views: int) -> Tensor:
    """New samples of the posteriors of random different views of some images, (b, views, d)."""
    count = posteriors.mean.shape[1]
    chosen = torch.rand(len(rows), count).topk(min(views, count), dim=1).indices
    found = Gaussian(*(part[rows.unsqueeze(1), chosen] for part in posteriors))
    return found.sample(torch.randn(found.mean.shape))


def _batches(rows: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Random batches for ever, each of ``size`` rows or all: the rows, and their places among ``rows``."""
    size = min(size, len(rows))
    while True:
        for places in torch.randperm(len(rows))[: len(rows) // size * size].split(size):
            yield rows[places], places
