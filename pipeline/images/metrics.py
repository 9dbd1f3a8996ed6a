"""Metrics of segmentation, all from one confusion matrix, so that they add up over batches and workers."""

from __future__ import annotations

import torch
from jaxtyping import Float, Integer
from torch import Tensor


def confusion_matrix(
    truth: Integer[Tensor, "*shape"], prediction: Integer[Tensor, "*shape"], classes: int
) -> Float[Tensor, "k k"]:
    """Pixel counts, rows by true and columns by predicted class, float64. Truth outside [0, classes) is left out."""
    truth, prediction = truth.flatten().long(), prediction.flatten().long()
    known = (truth >= 0) & (truth < classes)
    cells = truth[known] * classes + prediction[known]
    return torch.bincount(cells, minlength=classes * classes).view(classes, classes).double()


def class_iou(confusion: Float[Tensor, "k k"]) -> Float[Tensor, " k"]:
    """Intersection over union of each class; NaN for one that is neither in truth nor predicted."""
    hits = confusion.diagonal()
    return hits / (confusion.sum(0) + confusion.sum(1) - hits)


def miou(confusion: Float[Tensor, "k k"]) -> float:
    """Mean IoU over the classes that appear in truth or prediction; 0 when none does."""
    iou = class_iou(confusion)
    seen = iou[~iou.isnan()]
    return seen.mean().item() if len(seen) else 0.0


def global_accuracy(confusion: Float[Tensor, "k k"]) -> float:
    """Part of the labelled pixels that are right; 0 when there are none."""
    return (confusion.diagonal().sum() / confusion.sum().clamp(min=1)).item()
