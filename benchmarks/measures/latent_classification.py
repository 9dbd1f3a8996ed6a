"""How well classes can be told from an autoencoder's latents, with few labels and with many.

Images are given as posteriors of their latents, ``mean`` and ``log_variance`` (n, v, d), for v views of each image: the
image itself first, then the image moved a little. Where there is more than one view of an image to classify, their
answers are averaged. Nothing is chosen here: every setting is fixed before, and training ends after a given number of
steps, so a test set cannot leak into what it measures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR

from benchmarks.measures.evaluating import random_batches
from pipeline.config import check
from pipeline.errors import RequestError
from pipeline.images.classifier_fitting import ClassifierFitConfig, drawn, fit_classifier
from pipeline.models.autoencoders.latents import Gaussian
from pipeline.models.autoencoders.semi_supervised import perceptron
from pipeline.training.optimiser import AveragedWeights, minimise, parameter_groups, schedule

_WARMUP_FRACTION = 0.05


@dataclass(frozen=True, kw_only=True)
class ClassificationConfig(ClassifierFitConfig):
    neighbours: int = 5
    """Nearest neighbours that vote, weighted by the inverse of their distance."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, "neighbours", self.neighbours >= 1, "be at least 1")


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Training images, the few of them whose labels may be used, and images to classify."""

    train: Gaussian
    labels: Tensor
    """(m,) int64 of the chosen rows alone: no other label is within reach."""
    chosen: Tensor
    """(m,) rows of ``train``."""
    test: Gaussian
    classes: int
    seed: int

    @property
    def rest(self) -> Tensor:
        """Rows of ``train`` without a label."""
        unknown = torch.ones(len(self.train.mean), dtype=torch.bool)
        unknown[self.chosen] = False
        return unknown.nonzero().squeeze(1)


LatentClassifier = Callable[[Problem, ClassificationConfig], np.ndarray]


def classification_rows(
    train: Gaussian,
    labels: np.ndarray,
    test: Gaussian,
    test_labels: np.ndarray,
    settings: ClassificationConfig,
    *,
    count: int | None,
    seed: int,
    names: Sequence[str] | None = None,
) -> list[dict[str, Any]]:
    """One row ``{classifier, labels, seed, error}`` for each of `CLASSIFIERS`, or of those named.

    ``count`` labels are drawn with ``seed``, as many of each class; None takes all. ``error`` is the fraction of
    ``test`` that is classified wrongly. `RequestError` where the labels cannot be drawn so.
    """
    classes = int(labels.max()) + 1
    chosen = balanced(labels, count, seed)
    problem = Problem(
        train=train,
        labels=torch.from_numpy(labels[chosen]),
        chosen=torch.from_numpy(chosen),
        test=test,
        classes=classes,
        seed=seed,
    )
    rows = []
    for name in CLASSIFIERS if names is None else names:
        error = float(np.mean(CLASSIFIERS[name](problem, settings) != test_labels))
        rows.append({"classifier": name, "labels": len(chosen), "seed": seed, "error": error})
    return rows


def balanced(labels: np.ndarray, count: int | None, seed: int) -> np.ndarray:
    """Sorted rows of ``count`` labels, as many of each class, drawn with ``seed``; of all labels if None."""
    if count is None:
        return np.arange(len(labels))
    classes, found = np.unique(labels, return_counts=True)
    each = count // len(classes)
    if each < 1 or count % len(classes):
        raise RequestError(f"labels to draw must be a positive multiple of the {len(classes)} classes, got {count}")
    if each > found.min():
        raise RequestError(f"labels to draw must be at most {found.min()} of each class, got {each}")
    generator = np.random.default_rng(seed)
    drawn = [generator.choice(np.flatnonzero(labels == label), each, replace=False) for label in classes]
    return np.sort(np.concatenate(drawn))


def linear_probe(problem: Problem, settings: ClassificationConfig) -> np.ndarray:
    """Multinomial logistic regression on the means of the labelled images, standardised by all of them."""
    train, test = _standardised(problem)
    model = LogisticRegression(max_iter=500).fit(train[problem.chosen.numpy()], problem.labels.numpy())
    found = np.asarray(model.predict_proba(test.reshape(-1, test.shape[2])))
    return found.reshape(*test.shape[:2], -1).mean(1).argmax(1)


def nearest_neighbours(problem: Problem, settings: ClassificationConfig) -> np.ndarray:
    """The labelled images whose means are nearest, in the latents' own scale."""
    model = KNeighborsClassifier(min(settings.neighbours, len(problem.chosen)), weights="distance")
    model.fit(problem.train.mean[problem.chosen, 0].numpy(), problem.labels.numpy())
    test = problem.test.mean
    found = np.asarray(model.predict_proba(test.flatten(0, 1).numpy()))
    return found.reshape(*test.shape[:2], -1).mean(1).argmax(1)


def m1(problem: Problem, settings: ClassificationConfig) -> np.ndarray:
    """Kingma et al. 2014's M1, a classifier on the latents of the labelled images alone: here a perceptron.

    At each step another view of an image, and another draw from its posterior.
    """

    class Perceptron(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            sizes = (problem.train.mean.shape[2], *settings.classifier_hidden, problem.classes)
            self.layers = perceptron(sizes, settings.dropout)

        def class_logits(self, x: Tensor) -> Tensor:
            return self.layers(x).mean(1)

    def cost(model: Any) -> Tensor:
        rows, which = next(labelled)
        return F.cross_entropy(model.class_logits(drawn(problem.train, rows, 1)), problem.labels[which])

    with torch.random.fork_rng([]):
        torch.manual_seed(problem.seed)
        labelled = _batches(problem.chosen, settings.labelled_rows)
        return _classes(_trained(Perceptron(), cost, settings), problem.test)


def m1_m2(problem: Problem, settings: ClassificationConfig) -> np.ndarray:
    """Kingma et al. 2014's M1+M2: the semi-supervised model stacked on latents, drawn anew at each use.

    Unlabelled images take part through their bound; where all are labelled there are none.
    """
    found = fit_classifier(problem.train, problem.chosen, problem.labels, problem.classes, settings, seed=problem.seed)
    return _classes(found, problem.test)


#: By the name that a row has.
CLASSIFIERS: dict[str, LatentClassifier] = {
    "linear probe": linear_probe,
    "k-nn": nearest_neighbours,
    "m1": m1,
    "m1+m2": m1_m2,
}


def _trained(model: nn.Module, cost: Callable[[nn.Module], Tensor], settings: ClassificationConfig) -> nn.Module:
    """The averaged weights after all steps."""
    groups = parameter_groups(model.parameters(), settings.weight_decay)
    optimizer = torch.optim.AdamW(groups, settings.learning_rate)
    rate = LambdaLR(optimizer, lambda step: schedule(step, settings.steps, _WARMUP_FRACTION))
    average = AveragedWeights(model, settings.ema_decay)
    minimise(lambda _: cost(model), optimizer, rate, settings.steps, average=average)
    return average.model


def _classes(model: Any, test: Gaussian) -> np.ndarray:
    with torch.inference_mode():
        return model.class_logits(test.mean).argmax(1).numpy()


def _batches(rows: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """`random_batches` of rows: the rows, and their places among ``rows``."""
    return ((rows[places], places) for places in random_batches(len(rows), size))


def _standardised(problem: Problem) -> tuple[np.ndarray, np.ndarray]:
    """Means of the first view of training images (n, d), and of all views to classify, by the former's deviations."""
    known = problem.train.mean[:, 0]
    centre, scale = known.mean(0), known.std(0).clamp(min=1e-6)
    return ((known - centre) / scale).numpy(), ((problem.test.mean - centre) / scale).numpy()
