"""Losses for image segmentation. Each can stand alone or in a weighted sum, and all leave out pixels without a class.

A loss of an image is its mean over the image's pixels, weighted by class. Losses of images are added with the sums of
these weights, the units, so the result for a batch does not depend on how workers share it.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

from pipeline.errors import RequestError
from pipeline.images.inputs import NO_CLASS

_FOCUS = 2.0  # gamma of the focal loss
_HARDEST = 0.25  # part of an image's pixels that online hard example mining keeps
_SMOOTH = 1.0  # pixels added to numerator and denominator of Dice, so that tiny objects do not make it jump
_TERM = re.compile(r"(?:(\d+(?:\.\d+)?)\s*\*\s*)?([a-z_]+)")


def parse_loss(text: str) -> dict[str, float]:
    """The weight of each loss in a sum such as ``cross_entropy + 0.5 * dice``. `RequestError` for anything else."""
    found: dict[str, float] = {}
    for part in text.split("+"):
        term = _TERM.fullmatch(part.strip())
        if term is None or term[2] not in LOSSES or term[2] in found or float(term[1] or 1) <= 0:
            names = ", ".join(LOSSES)
            raise RequestError(
                f"objective must be one or a sum of {names}, each once at most, with a positive factor if any, such as "
                f"'cross_entropy + 0.5 * dice', got {text!r}"
            )
        found[term[2]] = float(term[1] or 1)
    return found


def segmentation_loss(
    logits: Float[Tensor, "b k h w"],
    label: Int64[Tensor, "b h w"],
    terms: dict[str, float],
    class_weights: Float[Tensor, " k"] | None = None,
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """The sum over the batch, the units of each image (b), and the sums of the terms without their factors if there are
    several.

    ``label`` has class ids, and `NO_CLASS` for pixels without a class.
    """
    known = label != NO_CLASS
    place = label.masked_fill(~known, 0)
    pixel_weight = known.to(logits.dtype) if class_weights is None else class_weights[place] * known
    log_probability = logits.log_softmax(1)
    found = {name: LOSSES[name](log_probability, place, known, pixel_weight).sum() for name in terms}
    total = torch.stack([terms[name] * value for name, value in found.items()]).sum()
    return total, pixel_weight.sum((1, 2)), found if len(found) > 1 else {}


def cross_entropy(log_probability: Tensor, label: Tensor, known: Tensor, weight: Tensor) -> Float[Tensor, " b"]:
    """The negative log-probability of the class, in nats."""
    return (_negative(log_probability, label) * weight).sum((1, 2))


def focal(log_probability: Tensor, label: Tensor, known: Tensor, weight: Tensor) -> Float[Tensor, " b"]:
    """Cross entropy in which pixels that are right already count less (Lin et al. 2017, gamma 2)."""
    loss = _negative(log_probability, label)
    return ((1 - (-loss).exp()) ** _FOCUS * loss * weight).sum((1, 2))


def ohem(log_probability: Tensor, label: Tensor, known: Tensor, weight: Tensor) -> Float[Tensor, " b"]:
    """Cross entropy of the hardest quarter of each image's pixels: online hard example mining (Shrivastava et al. 2016;
    Wu et al. 2016 for pixels)."""
    loss = (_negative(log_probability, label) * weight).flatten(1)
    counts = (known.flatten(1).sum(1) * _HARDEST).ceil().long().clamp(min=1)
    ranked = loss.sort(1, descending=True).values
    kept = torch.arange(ranked.shape[1], device=loss.device) < counts[:, None]
    return (ranked * kept).sum(1) / _HARDEST


def dice(log_probability: Tensor, label: Tensor, known: Tensor, weight: Tensor) -> Float[Tensor, " b"]:
    """1 minus the Dice coefficient, as a mean over the classes that an image has (Milletari et al. 2016)."""
    probability, truth, present = _by_class(log_probability, label, known)
    overlap = (probability * truth).sum(2)
    size = probability.sum(2) + truth.sum(2)
    loss = 1 - (2 * overlap + _SMOOTH) / (size + _SMOOTH)
    return (loss * present).sum(1) / present.sum(1).clamp(min=1) * weight.sum((1, 2))


def lovasz(log_probability: Tensor, label: Tensor, known: Tensor, weight: Tensor) -> Float[Tensor, " b"]:
    """The Lovasz extension of 1 minus IoU, as a mean over the classes that an image has (Berman et al. 2018)."""
    probability, truth, present = _by_class(log_probability, label, known)
    # Errors of pixels without a class are 0. They come last, where they change nothing.
    error, order = (truth - probability).abs().sort(2, descending=True)
    hits = truth.gather(2, order)
    count = hits.sum(2, keepdim=True)
    jaccard = 1 - (count - hits.cumsum(2)) / (count + (1 - hits).cumsum(2)).clamp(min=1e-9)
    gradient = torch.cat((jaccard[:, :, :1], jaccard[:, :, 1:] - jaccard[:, :, :-1]), 2)
    loss = (error * gradient.detach()).sum(2)
    return (loss * present).sum(1) / present.sum(1).clamp(min=1) * weight.sum((1, 2))


#: The losses by the names that `parse_loss` knows. Each returns the loss of each image times the image's units.
LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    "cross_entropy": cross_entropy,
    "focal": focal,
    "ohem": ohem,
    "dice": dice,
    "lovasz": lovasz,
}


def _negative(log_probability: Float[Tensor, "b k h w"], label: Int64[Tensor, "b h w"]) -> Float[Tensor, "b h w"]:
    return F.nll_loss(log_probability, label, reduction="none")


def _by_class(log_probability: Tensor, label: Tensor, known: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Probabilities and truth, (b, k, pixels), 0 where no class is known; and whether an image has a class, (b, k)."""
    classes, inside = log_probability.shape[1], known.flatten(1)[:, None]
    probability = log_probability.flatten(2).exp() * inside
    truth = (label.flatten(1)[:, None] == torch.arange(classes, device=label.device)[:, None]) & inside
    return probability, truth.to(probability.dtype), truth.any(2).to(probability.dtype)
