"""The finaliser of SplitMix64 (Steele et al. 2014): it turns a number into 64 well-spread bits.

Random numbers, dropout and hashes of words are made of it, so the values that these functions give must never change.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

#: What SplitMix64 adds from number to number: 2**64 over the golden ratio.
GAMMA = 0x9E3779B97F4A7C15
_FIRST, _SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_MASK = (1 << 64) - 1


def mix(value: int) -> int:
    """The 64 bits of one number from 0 to 2**64 - 1."""
    value = ((value ^ (value >> 30)) * _FIRST) & _MASK
    value = ((value ^ (value >> 27)) * _SECOND) & _MASK
    return value ^ (value >> 31)


def mix_array(value: np.ndarray) -> np.ndarray:
    """`mix` of each number of an array, uint64."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(_FIRST)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(_SECOND)
    return value ^ (value >> np.uint64(31))


def mix_24(value: Tensor) -> Tensor:
    """24 bits, as a number from 0 to 2**24 - 1, for each number of a tensor, int64.

    They are not bits of `mix`: torch shifts signed numbers, which copies the sign, and the last step is left out.
    """
    value = (value ^ (value >> 30)) * signed(_FIRST)
    value = (value ^ (value >> 27)) * signed(_SECOND)
    return (value >> 31) & 0xFFFFFF


def signed(value: int) -> int:
    """The number from -2**63 to 2**63 - 1 that has the same 64 bits as ``value``, for int64 tensors."""
    return value - (1 << 64) if value >> 63 else value
