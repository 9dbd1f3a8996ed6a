"""Samples that are there twice, how many different ones there can be, and samples that are training images."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from benchmarks.measures.neighbours import close_others, nearest, nearest_others

#: Part of real images whose nearest neighbour counts as a duplicate. It is small, so that a threshold means "nearer
#: than real images come", and large enough that 100 of 10,000 real distances are below it: its own standard error is a
#: tenth of it. What real images would say of themselves is this number.
QUANTILE = 0.01


class Duplicates(NamedTuple):
    """``threshold`` is the distance below which two are the same; the others have one number for each row."""

    threshold: float
    near: Bool[np.ndarray, " n"]
    """Whether the nearest other sample is nearer than that."""
    close: Int[np.ndarray, " n"]
    """How many other samples are."""
    close_real: Int[np.ndarray, " n"]
    """How many other real images are nearer than that to a real image."""


def duplicates(
    samples: Float[np.ndarray, "n d"], real: Float[np.ndarray, "n d"], quantile: float = QUANTILE
) -> Duplicates:
    """Samples whose nearest other sample is nearer than the ``quantile`` of as many real images' nearest others.

    As many, because nearest neighbours come nearer as sets grow.
    """
    assert len(samples) == len(real) > 1, "sets must be of one size"
    made, true = (torch.from_numpy(np.asarray(rows, np.float64)) for rows in (samples, real))
    threshold = float(nearest_others(true)[:, 0].quantile(quantile))
    near = nearest_others(made)[:, 0] < threshold
    close, close_real = (close_others(rows, threshold).numpy() for rows in (made, true))
    return Duplicates(threshold, near.numpy(), close, close_real)


def birthday_support(pairs: float, count: int) -> float:
    """How many different samples there are, if among ``count`` of them so many ``pairs`` are the same.

    A birthday test (Arora and Zhang 2018): two of N equally frequent ones are the same with chance 1 / N, so N is all
    pairs over the same pairs; where frequencies differ, that is the inverse of the sum of their squares. Where less
    than one pair is the same, the figure is what one pair would give, which is a lower bound and no estimate.
    """
    return count * (count - 1) / 2 / max(1.0, pairs)


def drawn_pairs(close: Int[np.ndarray, " n"], mean_close: Float[np.ndarray, " r"]) -> Float[np.ndarray, " r"]:
    """The number of same pairs in each replicate, from its mean of ``close``; never negative.

    A pair belongs to both of its rows, so the figure moves twice as far as the mean of its rows' numbers (the first
    term of Hoeffding's decomposition). Where pairs are few and apart this overstates their variance by a factor of two.
    """
    pairs = close.sum() / 2
    return (pairs + 2 * (len(close) * mean_close / 2 - pairs)).clip(min=0)


class Memory(NamedTuple):
    """Each sample's distance to the nearest training image, and to the nearest of as many held-out ones."""

    training: Float[np.ndarray, " n"]
    held_out: Float[np.ndarray, " n"]

    @property
    def nearer(self) -> Float[np.ndarray, " n"]:
        """1 where a training image is nearer, 0 where a held-out one is, 0.5 where both are as near.

        Its mean is 0.5 where nothing is memorised, and 1 where samples are copies.
        """
        return 0.5 * (1 + np.sign(self.held_out - self.training))


def memory(
    samples: Float[np.ndarray, "n d"], training: Float[np.ndarray, "m d"], held_out: Float[np.ndarray, "m d"]
) -> Memory:
    """Distances to what the model was trained on and to what it never saw, in pixels.

    Not in features of a classifier that was trained on the same images: it puts those elsewhere than new ones, and what
    is nearer would say something of the classifier.
    """
    assert len(training) == len(held_out), "sets must be of one size, or the larger one is nearer"
    made, *sets = (torch.from_numpy(np.asarray(rows, np.float32)) for rows in (samples, training, held_out))
    return Memory(*(nearest(made, rows)[:, 0].numpy() for rows in sets))
