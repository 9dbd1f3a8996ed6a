"""Keys of inputs: hashes of 128 bits in sorted arrays, so that sets of millions of inputs fit in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

INPUT_KEY = ("uri", "member")
VERSION_KEY = ("uri", "member", "etag")


def keys(rows: pa.Table, columns: Sequence[str]) -> np.ndarray:
    """The key of each row from the values of string columns: two uint64, (rows, 2). Null and empty differ.

    The hash is BLAKE2b with 16 bytes. The probability that two of 10^9 inputs have the same key is below 10^-20.
    """
    joined = _concatenate([_marked(rows[column]) for column in columns])
    digests = b"".join([hashlib.blake2b(text, digest_size=16).digest() for text in joined.to_pylist()])
    return np.frombuffer(digests, "<u8").reshape(-1, 2)


class KeySet:
    """An immutable set of keys."""

    def __init__(self, parts: Iterable[np.ndarray] = ()) -> None:
        found = list(parts)
        every = np.concatenate(found) if found else np.empty((0, 2), np.uint64)
        order = np.lexsort((every[:, 1], every[:, 0]))
        self._keys = every[order]

    @property
    def keys(self) -> np.ndarray:
        """All keys, sorted, (n, 2)."""
        return self._keys

    def __len__(self) -> int:
        return len(self._keys)

    def contains(self, wanted: np.ndarray) -> np.ndarray:
        """For each key (n, 2), whether it is in the set: booleans (n,)."""
        found = np.zeros(len(wanted), bool)
        if not len(self._keys):
            return found
        position = np.searchsorted(self._keys[:, 0], wanted[:, 0])
        active = np.ones(len(wanted), bool)
        while active.any():  # keys with the same first half are adjacent; there is almost always one round
            active &= position < len(self._keys)
            here = np.where(active, position, 0)
            active &= self._keys[here, 0] == wanted[:, 0]
            found |= active & (self._keys[here, 1] == wanted[:, 1])
            active &= ~found
            position = position + 1
        return found


class GrowingKeySet:
    """A set of keys to which keys can be added. It is a list of sorted arrays; arrays of similar size are merged."""

    def __init__(self) -> None:
        self._levels: list[KeySet] = []

    def new(self, found: np.ndarray) -> np.ndarray:
        """For each key (n, 2), whether it is new: not in the set and not earlier in the array. Booleans (n,)."""
        new = np.zeros(len(found), bool)
        _, first = np.unique(found, axis=0, return_index=True)
        new[first] = True
        for level in self._levels:
            new &= ~level.contains(found)
        return new

    def add(self, keys: np.ndarray) -> None:
        """Add keys (n, 2), which must be `new`."""
        self._levels.append(KeySet([keys]))
        while len(self._levels) > 1 and len(self._levels[-2]) <= 2 * len(self._levels[-1]):
            small, large = self._levels.pop(), self._levels.pop()
            self._levels.append(KeySet([large.keys, small.keys]))

    def key_set(self) -> KeySet:
        """An immutable `KeySet` of all keys."""
        if len(self._levels) > 1:  # the merged set is stored, so that the next call needs neither time nor memory
            self._levels = [KeySet([level.keys for level in self._levels])]
        return self._levels[0] if self._levels else KeySet()


def _marked(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Each value after its length, so that different rows never become the same bytes; null is marked differently."""
    data = column.cast(pa.binary())
    sizes = pc.call_function("binary_length", [data]).cast(pa.string()).cast(pa.binary())
    return pc.fill_null(_concatenate([pa.scalar(b"\1"), sizes, pa.scalar(b":"), data]), b"\0")


def _concatenate(parts: list[Any]) -> pa.ChunkedArray:
    return pc.call_function("binary_join_element_wise", [*parts, pa.scalar(b"", pa.binary())])
