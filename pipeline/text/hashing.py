"""Hashes of words and of pairs of hashes, with numpy alone. They are the same on every machine.

All words of a text are hashed at once, by a polynomial over their code points (Karp and Rabin 1987). With prefix sums
of ``code * B**position`` modulo 2**64, a word's hash is a difference of two sums times a power of the inverse of B.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from pipeline.splitmix import GAMMA, mix_array

_BASE = GAMMA  # any odd number with well-spread bits
_INVERSE = pow(_BASE, -1, 1 << 64)


def hash_words(codes: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Hashes of the words ``codes[start[i] : end[i]]``, uint64; ``codes`` are the code points of a text (n,)."""
    powers, inverse_powers = _powers(1 << max(1, len(codes)).bit_length())
    sums = np.zeros(len(codes) + 1, np.uint64)
    np.cumsum((codes.astype(np.uint64) + np.uint64(1)) * powers[: len(codes)], out=sums[1:])
    return mix_array((sums[end] - sums[start]) * inverse_powers[start])


def combined(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Hash of a pair of hashes; the order matters."""
    return mix_array(left * np.uint64(_BASE) + right + np.uint64(1))


def bucket(hashes: np.ndarray, buckets: int) -> np.ndarray:
    """Map hashes to ids in [1, buckets), int32 (feature hashing, Weinberger et al. 2009)."""
    return ((hashes >> np.uint64(20)) % np.uint64(buckets - 1) + np.uint64(1)).astype(np.int32)


@cache
def _powers(size: int) -> tuple[np.ndarray, np.ndarray]:
    def of(base: int) -> np.ndarray:
        factors = np.full(size, base, np.uint64)
        factors[0] = 1
        return np.cumprod(factors)

    return of(_BASE), of(_INVERSE)
