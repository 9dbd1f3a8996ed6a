"""Samples: prepared training samples in Arrow tables, by index."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa


class Samples:
    """Training samples in Arrow tables (memory-mapped shards), by global index."""

    def __init__(self, shards: Sequence[pa.Table]) -> None:
        self._shards = [shard for shard in shards if shard.num_rows]
        self._starts = np.cumsum([0, *(shard.num_rows for shard in self._shards)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def take(self, indices: Sequence[int] | np.ndarray) -> pa.Table:
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
