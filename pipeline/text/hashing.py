"""Hashes of words and of their combinations, in numpy: the same in every process and on every machine.

Words are hashed by a polynomial over their code points (Karp and Rabin 1987), all of a text at once: with prefix sums
of ``code * B**position`` modulo 2**64, the hash of any word is one subtraction and one product with a power of B's
inverse.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from pipeline.splitmix import GAMMA, mix_array

_BASE = GAMMA  # any odd number with well-spread bits
_INVERSE = pow(_BASE, -1, 1 << 64)


def hash_words(codes: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Of the words ``codes[start[i] : end[i]]`` of a text's code points (n,): uint64, as many as there are words."""
    powers, inverse_powers = _powers(1 << max(1, len(codes)).bit_length())
    sums = np.zeros(len(codes) + 1, np.uint64)
    np.cumsum((codes.astype(np.uint64) + np.uint64(1)) * powers[: len(codes)], out=sums[1:])
    return mix_array((sums[end] - sums[start]) * inverse_powers[start])


def combined(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """A hash of both; their order matters."""
    return mix_array(left * np.uint64(_BASE) + right + np.uint64(1))


def bucket(hashes: np.ndarray, buckets: int) -> np.ndarray:
    """Ids in [1, buckets), int32 (Weinberger et al. 2009, feature hashing)."""
    return ((hashes >> np.uint64(20)) % np.uint64(buckets - 1) + np.uint64(1)).astype(np.int32)


@cache
def _powers(size: int) -> tuple[np.ndarray, np.ndarray]:
    def of(base: int) -> np.ndarray:
        factors = np.full(size, base, np.uint64)
        factors[0] = 1
        return np.cumprod(factors)

    return of(_BASE), of(_INVERSE)
