"""Selection: which of the listed inputs a run takes. The others count as not listed, so their rows stay."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.source.keys import INPUT_KEY, KeySet, digests, keys

_TOGETHER = 4  # samples in memory, before the best of them are taken


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Conditions that an input must meet, all of them."""

    since: datetime | None = None
    """Written at this time or later, by the listing; inputs without a time are taken."""
    until: datetime | None = None
    """Written before this time; inputs without a time are taken."""
    among: KeySet | None = None
    """One of these inputs, by `INPUT_KEY`."""
    without: KeySet | None = None
    """None of these inputs, by `INPUT_KEY`."""
    sample: int | None = None
    """One of so many that are drawn from those that meet the other conditions. The same inputs give the same sample."""

    @property
    def is_partial(self) -> bool:
        """Whether inputs may be left out that are not forgotten."""
        return any(value is not None for value in (self.since, self.until, self.among, self.sample))

    def of(self, chunks: Iterator[pa.Table]) -> Iterator[pa.Table]:
        """The entries that meet the conditions."""
        chunks = (self._filtered(chunk) for chunk in chunks)
        return chunks if self.sample is None else _sampled(chunks, self.sample)

    def _filtered(self, chunk: pa.Table) -> pa.Table:
        for time, compare in ((self.since, "greater_equal"), (self.until, "less")):
            if time is not None:
                limit = pa.scalar(time, chunk.schema.field("mtime").type)
                chunk = chunk.filter(pc.fill_null(pc.call_function(compare, [chunk["mtime"], limit]), True))
        if self.among is not None:
            chunk = chunk.filter(pa.array(self.among.contains(keys(chunk, INPUT_KEY))))
        if self.without is not None and len(self.without):
            chunk = chunk.filter(pa.array(~self.without.contains(keys(chunk, INPUT_KEY))))
        return chunk


def _sampled(chunks: Iterator[pa.Table], count: int) -> Iterator[pa.Table]:
    """The inputs with the smallest hashes of their names, each once."""
    kept: pa.Table | None = None
    for chunk in chunks:
        together = chunk if kept is None else pa.concat_tables([kept, chunk])
        kept = _smallest(together, count) if together.num_rows > _TOGETHER * count else together
    if kept is not None and kept.num_rows:
        yield _smallest(kept, count)


def _smallest(rows: pa.Table, count: int) -> pa.Table:
    _, first = np.unique(digests(rows, INPUT_KEY), axis=0, return_index=True)  # sorted by the hash
    return rows.take(np.sort(first[:count]))
