"""Keys of inputs: hashes of 128 bits in sorted arrays, so that sets of millions of inputs fit in memory."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.splitmix import mix_array

INPUT_KEY = ("uri", "member")
VERSION_KEY = ("uri", "member", "etag")

_ROWS = 8192  # that are hashed at once, so that intermediate values stay in the processor's cache
_LONG = 4096  # bytes; longer values are hashed by BLAKE2b first
_LANES = 4  # of 32 bits each


def keys(rows: pa.Table, columns: Sequence[str]) -> np.ndarray:
    """The key of each row from the values of string columns: two uint64, (rows, 2). Null and empty differ.

    Keys are comparable within this process only: the hash is a random one, drawn when the process begins. So nobody can
    choose two names that get the same key, and the probability that two of 10^9 inputs have one is below 10^-20.

    The hash is Multilinear of Lemire and Kaser, "Strongly universal string hashing is fast" (2014), four times. Then
    each half is mixed, so that keys spread evenly; different halves stay different.
    """
    found = np.empty((rows.num_rows, 2), np.uint64, "F")
    joined = rows.select(columns).combine_chunks()
    for start in range(0, rows.num_rows, _ROWS):
        piece = joined.slice(start, _ROWS)
        sums = np.zeros((_LANES, piece.num_rows), np.uint64)
        for number, column in enumerate(piece.columns):
            filled = 0
            for chunk in column.chunks:  # of more than one only if the column has more than 2 GiB
                _add_hashes(sums[:, filled : filled + len(chunk)], chunk.cast(pa.binary()), _multipliers(number))
                filled += len(chunk)
        high, low = np.uint64(0xFFFFFFFF00000000), np.uint64(32)
        for half in (0, 1):
            # Names that count give hashes that do not collide, but with some draws lie close together.
            hashes = (sums[2 * half] & high) | (sums[2 * half + 1] >> low)
            found[start : start + _ROWS, half] = mix_array(hashes)
    return found


def digests(rows: pa.Table, columns: Sequence[str]) -> np.ndarray:
    """As `keys`, but the same in every process, for what is stored. It takes ten times as long.

    The hash is BLAKE2b with 16 bytes.
    """
    joined = _concatenate([_marked(rows[column]) for column in columns])
    every = b"".join([hashlib.blake2b(text, digest_size=16).digest() for text in joined.to_pylist()])
    return np.frombuffer(every, "<u8").reshape(-1, 2)


class KeySet:
    """An immutable set of keys."""

    def __init__(self, parts: Iterable[np.ndarray] = ()) -> None:
        """``parts``: arrays of keys (n, 2), in any order. Where they are sorted, they are merged, which is faster."""
        found = list(parts)
        high, low = (np.concatenate([part[:, half] for part in found] or [_NONE]) for half in (0, 1))
        order = np.argsort(high, kind="stable")
        self._keys = np.empty((len(high), 2), np.uint64, "F")  # so that the first halves lie side by side
        self._keys[:, 0], self._keys[:, 1] = high[order], low[order]
        same = self._keys[1:, 0] == self._keys[:-1, 0]
        if (same & (self._keys[1:, 1] < self._keys[:-1, 1])).any():
            order = np.lexsort((low, high))
            self._keys[:, 0], self._keys[:, 1] = high[order], low[order]

    @property
    def keys(self) -> np.ndarray:
        """All keys, sorted, (n, 2)."""
        return self._keys

    def __len__(self) -> int:
        return len(self._keys)

    def contains(self, wanted: np.ndarray) -> np.ndarray:
        """For each key (n, 2), whether it is in the set: booleans (n,)."""
        found = np.zeros(len(wanted), bool)
        if not len(self._keys) or not len(wanted):
            return found
        order = np.argsort(wanted[:, 0], kind="stable")  # neighbours in the set are in the processor's cache together
        high, low = wanted[order, 0], wanted[order, 1]
        position = np.searchsorted(self._keys[:, 0], high)
        active = np.arange(len(wanted))
        while len(active):  # keys with the same first half are adjacent; there is almost always one round
            active = active[position[active] < len(self._keys)]
            active = active[self._keys[position[active], 0] == high[active]]
            is_here = self._keys[position[active], 1] == low[active]
            found[order[active[is_here]]] = True
            active = active[~is_here]
            position[active] += 1
        return found


class GrowingKeySet:
    """A set of keys to which keys can be added. It is a list of sorted arrays; arrays of similar size are merged."""

    def __init__(self) -> None:
        self._levels: list[KeySet] = []

    def new(self, found: np.ndarray) -> np.ndarray:
        """For each key (n, 2), whether it is new: not in the set and not earlier in the array. Booleans (n,)."""
        new = np.ones(len(found), bool)
        order = np.lexsort((found[:, 1], found[:, 0]))
        new[order[1:][(found[order[1:]] == found[order[:-1]]).all(1)]] = False
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


_NONE = np.empty(0, np.uint64)
_MASKS = np.array([(1 << 8 * size) - 1 for size in range(8)] + [(1 << 64) - 1], np.uint64)  # of the first bytes of 8


_drawing = threading.Lock()


def _multipliers(column: int) -> np.ndarray:
    """Random numbers for the column of this number, (2 + 32-bit words of a value, `_LANES`)."""
    with _drawing:  # or two threads would draw different ones
        return _drawn(column)


@cache
def _drawn(column: int) -> np.ndarray:
    return np.frombuffer(os.urandom((2 + _LONG // 4) * _LANES * 8), np.uint64).reshape(-1, _LANES)


def _add_hashes(sums: np.ndarray, values: pa.Array, multipliers: np.ndarray) -> None:
    """Add the hash of each value to ``sums`` (`_LANES`, rows), modulo 2^64; the upper 32 bits are the hash.

    A value is its length plus 1, or 0 if it is null, and its bytes as words of 32 bits. Zeros at its end add nothing.
    """
    _, offsets, data = values.buffers()
    ends = np.frombuffer(offsets, np.int32)[values.offset : values.offset + len(values) + 1].astype(np.int64)
    start, length = ends[:-1], np.diff(ends)
    is_null = values.is_null().to_numpy(zero_copy_only=False)
    length[is_null] = 0
    marks = np.where(is_null, 0, length + 1).astype(np.uint64)
    for lane in range(_LANES):
        sums[lane] += marks * multipliers[0, lane] + multipliers[1, lane]
    content = b"" if data is None else memoryview(data)[int(ends[0]) : int(ends[-1])]
    start = start - ends[0]
    long = np.flatnonzero(length > _LONG)
    secret = multipliers[:4].tobytes()[:64]
    short = [
        hashlib.blake2b(content[start[row] : start[row] + length[row]], digest_size=16, key=secret).digest()
        for row in long
    ]
    padded = np.frombuffer(b"".join([content, *short, bytes(8)]), np.uint8)
    start[long], length[long] = len(content) + 16 * np.arange(len(long)), 16
    # Every 8 bytes of the data as a number, wherever they begin.
    words = np.ndarray((len(padded) - 7,), "<u8", padded, strides=(1,))
    rows: Any = slice(None)
    for begin in range(0, int(length.max(initial=0)), 8):
        left = length - begin
        if left.min() <= 0:
            rows = np.flatnonzero(left > 0)
            left = left[rows]
        word = words[start[rows] + begin] & _MASKS[np.minimum(left, 8)]
        first, second = word & np.uint64(0xFFFFFFFF), word >> np.uint64(32)
        for lane in range(_LANES):
            index = 2 + begin // 4
            sums[lane, rows] += first * multipliers[index, lane] + second * multipliers[index + 1, lane]


def _marked(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Each value after its length, so that different rows never become the same bytes; null is marked differently."""
    data = column.cast(pa.binary())
    sizes = pc.call_function("binary_length", [data]).cast(pa.string()).cast(pa.binary())
    return pc.fill_null(_concatenate([pa.scalar(b"\1"), sizes, pa.scalar(b":"), data]), b"\0")


def _concatenate(parts: list[Any]) -> pa.ChunkedArray:
    return pc.call_function("binary_join_element_wise", [*parts, pa.scalar(b"", pa.binary())])
