"""Samples: prepared training samples in Arrow tables, by index."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa


class Samples:
    """Training samples in Arrow tables (memory-mapped shards), by global index.

    With ``repeats``, for each source (number of its samples, weight), a sample has as many indices as its source's
    weight says, which is at least 1. With a weight of 2.5, half of the samples, evenly spread, have three indices, and
    the others two.
    """

    def __init__(self, shards: Sequence[pa.Table], repeats: Sequence[tuple[int, float]] = ()) -> None:
        self._shards = [shard for shard in shards if shard.num_rows]
        self._starts = np.cumsum([0, *(shard.num_rows for shard in self._shards)])
        self._sizes = np.array([rows for rows, _ in repeats] or [self._starts[-1]])
        assert self._sizes.sum() == self._starts[-1], (self._sizes, self._starts[-1])
        drawn = [round(rows * weight) for rows, weight in repeats] or [self._starts[-1]]
        self._ends = np.cumsum(drawn)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def places(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """The number of the sample of each index."""
        index = np.asarray(indices, np.int64)
        source = np.searchsorted(self._ends, index, side="right")
        before = np.append(0, self._ends[:-1])[source]
        size, drawn = self._sizes[source], (self._ends[source] - before)
        whole, rest = drawn // size * size, np.maximum(drawn % size, 1)
        here = index - before
        place = np.where(here < whole, here % size, (here - whole) * size // rest)
        return place + np.append(0, np.cumsum(self._sizes)[:-1])[source]

    def take(self, indices: Sequence[int] | np.ndarray) -> pa.Table:
        indices = self.places(indices)
        shards = np.searchsorted(self._starts, indices, side="right") - 1
        rows = [
            self._shards[shard].slice(int(index - self._starts[shard]), 1)
            for shard, index in zip(shards, indices, strict=True)
        ]
        return pa.concat_tables(rows)

    def shuffled(self, seed: int, rows: int) -> Iterator[pa.Table]:
        """All of them once, in an order that is a function of the seed, in tables of at most ``rows``."""
        order = np.random.default_rng(seed).permutation(len(self))
        for start in range(0, len(order), rows):
            yield self.take(order[start : start + rows])
