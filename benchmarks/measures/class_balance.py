"""Which classes samples are of, as the classifier sees them, against those of real images."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int


def class_shares(labels: Int[np.ndarray, " n"], classes: int) -> Float[np.ndarray, " k"]:
    """Part of the images that is of each class."""
    return np.bincount(labels, minlength=classes) / len(labels)


def drawn_shares(labels: Int[np.ndarray, " n"], classes: int, replicates: int, seed: int) -> Float[np.ndarray, "r k"]:
    """`class_shares` of sets drawn again: drawing rows with replacement draws their classes from a multinomial."""
    random = np.random.default_rng(seed)
    return random.multinomial(len(labels), class_shares(labels, classes), replicates) / len(labels)


def class_entropy(shares: Float[np.ndarray, "*r k"]) -> Float[np.ndarray, "*r"]:
    """In nats; log k where all classes are as frequent, 0 where there is one."""
    return -(shares * np.log(np.where(shares > 0, shares, 1))).sum(-1)


def class_kl(shares: Float[np.ndarray, "*r k"], real: Float[np.ndarray, "*r k"], count: int) -> Float[np.ndarray, "*r"]:
    """KL(samples' classes || real classes), nats.

    Of ``count`` real images; a class of which there is none counts as half an image, so that samples of it cost much,
    but not without end.
    """
    floor = np.maximum(real, 0.5 / count)
    return (shares * np.log(np.where(shares > 0, shares, 1) / floor)).sum(-1)
