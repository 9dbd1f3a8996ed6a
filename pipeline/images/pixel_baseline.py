"""Fits the baseline `pixels`, and measures it and the majority class on the samples that a network is measured on."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pipeline.images import letterbox
from pipeline.images.inputs import NO_CLASS
from pipeline.images.metrics import confusion_matrix, miou
from pipeline.images.task import ImageSegmentation
from pipeline.models.segmenters.pixels import FEATURES, Pixels, PixelsConfig, pixel_features
from pipeline.training.samples import Samples

_TRAINING_PIXELS, _VALIDATION_PIXELS = 120_000, 200_000
_SAMPLES = 400  # images that pixels are drawn from
_TREES, _LEAVES = 100, 31
_SEED = 0


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """The mIoU of two guesses that need no network, from some pixels of the validation samples."""

    pixels_miou: float
    majority_miou: float


def baseline(task: ImageSegmentation, training: Samples, validation: Samples) -> Baseline:
    """Fit on some pixels of the training samples, measure on some of the validation samples."""
    model, common = fit_trees(task, training)
    features, labels = _drawn(task, validation, _VALIDATION_PIXELS)
    truth = torch.from_numpy(labels)
    found = torch.from_numpy(np.asarray(model.predict(features)).astype(np.int64))
    guesses = (found, torch.full_like(truth, common))
    scores = [miou(confusion_matrix(truth, guess, len(task.classes))) for guess in guesses]
    return Baseline(pixels_miou=scores[0], majority_miou=scores[1])


def pixels_model(task: ImageSegmentation, training: Samples) -> Pixels:
    """The baseline as a segmenter, whose trees are tensors."""
    fitted, _ = fit_trees(task, training)
    return as_segmenter(fitted, len(task.classes))


def fit_trees(task: ImageSegmentation, training: Samples) -> tuple[Any, int]:
    """A boosting that is fitted to pixels of the training samples, and their most frequent class."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    features, labels = _drawn(task, training, _TRAINING_PIXELS)
    settings: dict[str, Any] = {"max_iter": _TREES, "max_leaf_nodes": _LEAVES, "early_stopping": False}
    model = HistGradientBoostingClassifier(**settings, random_state=_SEED)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(features, labels)
    return model, int(np.bincount(labels).argmax())


def as_segmenter(fitted: Any, classes: int) -> Pixels:
    """The trees of a fitted boosting as tensors. Classes that it has not seen get a logit that never wins."""
    iterations: list[list[Any]] = fitted._predictors
    nodes = max(len(tree.nodes) for trees in iterations for tree in trees)
    depth = max(int(tree.nodes["depth"].max()) for trees in iterations for tree in trees)
    model = Pixels(PixelsConfig(classes=classes, trees=len(iterations), nodes=nodes, depth=max(1, depth)))
    model.start.fill_(-1e4)
    seen, start = fitted.classes_.tolist(), np.asarray(fitted._baseline_prediction).reshape(-1)
    if len(seen) == 2:  # one tree decides for the second class, and the first has nothing
        model.start[seen[0]] = 0.0
        seen = seen[1:]
    for column, name in enumerate(seen):
        model.start[name] = float(start[column])
        for number, trees in enumerate(iterations):
            _copy(model, name, number, trees[column].nodes)
    return model.eval()


def _copy(model: Pixels, name: int, number: int, nodes: np.ndarray) -> None:
    count = len(nodes)
    itself, leaf = np.arange(count), nodes["is_leaf"].astype(bool)
    columns = {
        "feature": np.where(leaf, 0, nodes["feature_idx"]),
        "threshold": np.where(leaf, 0.0, nodes["num_threshold"]),
        "left": np.where(leaf, itself, nodes["left"]),
        "right": np.where(leaf, itself, nodes["right"]),
        "value": nodes["value"],
    }
    for key, values in columns.items():
        target = getattr(model, key)
        target[name, number, :count] = torch.from_numpy(values.astype(np.float32)).to(target.dtype)


def _drawn(task: ImageSegmentation, samples: Samples, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Features (n, f) float32 and classes (n) of about ``count`` pixels that have a class, drawn evenly."""
    places = np.unique(np.linspace(0, len(samples) - 1, min(_SAMPLES, len(samples))).round().astype(int))
    generator = np.random.default_rng(_SEED)
    features, labels = [np.empty((0, FEATURES), np.float32)], [np.empty(0, np.int64)]
    for one, label in _single(task, samples, places):
        known = np.flatnonzero(label != NO_CLASS)
        some = generator.choice(known, min(len(known), -(-count // len(places))), replace=False)
        features.append(one[some])
        labels.append(label[some].astype(np.int64))
    return np.concatenate(features), np.concatenate(labels)


def _single(task: ImageSegmentation, samples: Samples, places: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The features (pixels, f) and the labels (pixels) of each of some samples."""
    for place in places.tolist():
        batch = task.collate(samples.take([place]))
        found = pixel_features(letterbox.unit(batch["image"]))
        yield found[0].permute(1, 2, 0).reshape(-1, FEATURES).numpy(), batch["label"][0].reshape(-1).numpy()
