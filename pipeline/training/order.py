"""The order in which training visits its samples: a new random order in each epoch, without a list of all samples."""

from __future__ import annotations

import functools

import numpy as np

from pipeline.splitmix import GAMMA, mix, mix_array

_LISTED = 1 << 16  # samples up to which an epoch's order is a list: those of earlier versions, whose trainings go on
_ROUNDS = 8
_MASK = (1 << 64) - 1


def batch_indices(seed: int, step: int, rows: int, population: int) -> np.ndarray:
    """The samples of global batch ``step``: a window on an endless chain of permutations, one for each epoch.

    Time and memory are proportional to ``rows``, whatever the population: the list of a small one is kept.
    """
    epochs, places = np.divmod(np.arange(step * rows, (step + 1) * rows), population)
    picked = np.empty(rows, np.int64)
    for epoch in np.unique(epochs):
        mine = epochs == epoch
        if population <= _LISTED:
            picked[mine] = _listed(seed, int(epoch), population)[places[mine]]
        else:
            key = mix((mix(seed & _MASK) + int(epoch) * GAMMA) & _MASK)
            picked[mine] = shuffled(places[mine], population, key)
    return picked


def shuffled(places: np.ndarray, population: int, key: int) -> np.ndarray:
    """Where a random permutation of ``range(population)`` sends some places. ``key`` chooses the permutation.

    A Feistel network permutes the numbers of 2k bits, and a number beyond the population is permuted again until it is
    in it (cycle walking: Black and Rogaway 2002, Ciphers with Arbitrary Finite Domains). On average this takes fewer
    than four rounds, since the range of numbers is less than four times the population.
    """
    half = max(1, (max(1, population - 1).bit_length() + 1) // 2)
    keys = [mix((key + (number + 1) * GAMMA) & _MASK) for number in range(_ROUNDS)]
    found = places.astype(np.uint64)
    outside = np.ones(len(found), bool)
    while outside.any():
        found[outside] = _feistel(found[outside], half, keys)
        outside = found >= population
    return found.astype(np.int64)


@functools.lru_cache(maxsize=4)
def _listed(seed: int, epoch: int, population: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(population)


def _feistel(values: np.ndarray, half: int, keys: list[int]) -> np.ndarray:
    """A permutation of the numbers of ``2 * half`` bits, uint64."""
    bits, low = np.uint64(half), np.uint64((1 << half) - 1)
    left, right = values >> bits, values & low
    for key in keys:
        left, right = right, left ^ (mix_array(right ^ np.uint64(key)) & low)
    return (left << bits) | right
