"""Keys of inputs: 128 bits each, in sorted arrays, so that sets of millions fit in memory and compare in one pass."""

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
    """One key (two uint64) for each row, from the values of string columns: (rows, 2). Null differs from empty.

    BLAKE2b with 16 bytes: among 10^9 inputs two share a key with a probability below 10^-20.
    """
    joined = _joined([_marked(rows[column]) for column in columns])
    digests = b"".join([hashlib.blake2b(text, digest_size=16).digest() for text in joined.to_pylist()])
    return np.frombuffer(digests, "<u8").reshape(-1, 2)


class KeySet:
    """A set of keys that never changes once it is made."""

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
        """Which of the keys (n, 2) are in the set: booleans (n,)."""
        found = np.zeros(len(wanted), bool)
        if not len(self._keys):
            return found
        position = np.searchsorted(self._keys[:, 0], wanted[:, 0])
        active = np.ones(len(wanted), bool)
        while active.any():  # first halves that collide stand next to each other; almost always one round
            active &= position < len(self._keys)
            here = np.where(active, position, 0)
            active &= self._keys[here, 0] == wanted[:, 0]
            found |= active & (self._keys[here, 1] == wanted[:, 1])
            active &= ~found
            position = position + 1
        return found


class GrowingKeySet:
    """A set of keys that grows: sorted arrays of growing sizes, of which two of like size are merged into one."""

    def __init__(self) -> None:
        self._levels: list[KeySet] = []

    def new(self, found: np.ndarray) -> np.ndarray:
        """Which of the keys (n, 2) are not in the set, and not earlier among them: booleans (n,)."""
        new = np.zeros(len(found), bool)
        _, first = np.unique(found, axis=0, return_index=True)
        new[first] = True
        for level in self._levels:
            new &= ~level.contains(found)
        return new

    def add(self, keys: np.ndarray) -> None:
        """Take in keys (n, 2) that are `new`."""
        self._levels.append(KeySet([keys]))
        while len(self._levels) > 1 and len(self._levels[-2]) <= 2 * len(self._levels[-1]):
            small, large = self._levels.pop(), self._levels.pop()
            self._levels.append(KeySet([large.keys, small.keys]))

    def key_set(self) -> KeySet:
        """All of them, as a set that stays as it is."""
        if len(self._levels) > 1:  # kept, so that asking again costs neither time nor a second copy
            self._levels = [KeySet([level.keys for level in self._levels])]
        return self._levels[0] if self._levels else KeySet()


def _marked(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Each value with its length before it, so that no two rows join to the same; null as another mark."""
    data = column.cast(pa.binary())
    sizes = pc.call_function("binary_length", [data]).cast(pa.string()).cast(pa.binary())
    return pc.fill_null(_joined([pa.scalar(b"\1"), sizes, pa.scalar(b":"), data]), b"\0")


def _joined(parts: list[Any]) -> pa.ChunkedArray:
    return pc.call_function("binary_join_element_wise", [*parts, pa.scalar(b"", pa.binary())])
