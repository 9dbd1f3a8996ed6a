"""Segmentation metrics. All come from a confusion matrix, which adds up over batches and workers."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Integer
from torch import Tensor


def confusion_matrix(
    truth: Integer[Tensor, "*shape"], prediction: Integer[Tensor, "*shape"], classes: int
) -> Float[Tensor, "k k"]:
    """Pixel counts, float64: rows are true classes, columns predicted ones. Truth outside [0, classes) is ignored."""
    truth, prediction = truth.flatten().long(), prediction.flatten().long()
    known = (truth >= 0) & (truth < classes)
    cells = truth[known] * classes + prediction[known]
    return torch.bincount(cells, minlength=classes * classes).view(classes, classes).double()


def class_iou(confusion: Float[Tensor, "k k"]) -> Float[Tensor, " k"]:
    """Intersection over union of each class; NaN for a class that is neither in the truth nor in the prediction."""
    hits = confusion.diagonal()
    return hits / (confusion.sum(0) + confusion.sum(1) - hits)


def miou(confusion: Float[Tensor, "k k"]) -> float:
    """Mean IoU over the classes that occur in truth or prediction; NaN if there are none."""
    iou = class_iou(confusion)
    seen = iou[~iou.isnan()]
    return seen.mean().item() if len(seen) else math.nan


def global_accuracy(confusion: Float[Tensor, "k k"]) -> float:
    """Fraction of the labelled pixels whose class is right; NaN if there are none."""
    return (confusion.diagonal().sum() / confusion.sum()).item()
