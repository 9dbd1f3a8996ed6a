"""The adjusted Rand index: how well regions agree with true things, whatever their numbers are."""

from __future__ import annotations

import numpy as np


def adjusted_rand_index(truth: np.ndarray, found: np.ndarray) -> float:
    """The adjusted Rand index (Hubert and Arabie 1985) of two partitions of the same items, numbers of any shape.

    1: they are the same; 0 is expected by chance. 1 where neither separates anything, or each separates all.
    """
    assert truth.shape == found.shape, (truth.shape, found.shape)
    _, rows = np.unique(truth.ravel(), return_inverse=True)
    _, columns = np.unique(found.ravel(), return_inverse=True)
    joint = np.zeros((rows.max() + 1, columns.max() + 1)) if len(rows) else np.zeros((1, 1))
    np.add.at(joint, (rows, columns), 1)
    both, true, other = (_pairs(counts) for counts in (joint, joint.sum(1), joint.sum(0)))
    every = _pairs(joint.sum(keepdims=True))
    expected = true * other / every if every else 0.0
    most = (true + other) / 2
    return 1.0 if most == expected else float((both - expected) / (most - expected))


def foreground_ari(truth: np.ndarray, found: np.ndarray, background: int = 0) -> float | None:
    """The adjusted Rand index over the pixels that are not of the true background; None if there are none.

    How the background is divided does not count (Greff et al. 2019).
    """
    inside = truth != background
    return adjusted_rand_index(truth[inside], found[inside]) if inside.any() else None


def _pairs(counts: np.ndarray) -> float:
    """The number of pairs of items that are in the same part."""
    return float((counts * (counts - 1)).sum() / 2)
