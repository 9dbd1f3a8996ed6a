"""Manifest: the inputs that a run has listed, numbered by ordinals, in Parquet files below ``SINK/runs/RUN_ID``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.source.entries import ENTRIES
from pipeline.source.keys import INPUT_KEY, VERSION_KEY, GrowingKeySet, KeySet, keys
from pipeline.storage.columnar import own_file, read_parquet

COLUMNS = pa.schema([("ordinal", pa.int64()), *ENTRIES, ("pending", pa.bool_())])
SHARD_ROWS = 1 << 17
_SOME = 64


class Manifest:
    """The inputs of a run in a fixed order. ``pending`` are those without a current row in the table."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.listed = self.pending = self.repeated = 0
        self.shards = 0
        self.some_pending: list[str] = []
        """URIs of a few pending inputs."""
        self._inputs = GrowingKeySet()
        self._versions: list[np.ndarray] = []

    def write(self, entries: Iterable[pa.Table], done: KeySet, limit: int | None) -> None:
        """Number the entries, mark which are pending, and store them in shards. Stops after ``limit`` pending inputs.

        An input that is listed again, for example by two overlapping sources, is left out and counted in ``repeated``.
        """
        buffered: list[pa.Table] = []
        for chunk in entries:
            rows = self._numbered(chunk, done, None if limit is None else limit - self.pending)
            buffered.append(rows)
            if sum(part.num_rows for part in buffered) >= SHARD_ROWS:
                self._store(buffered)
                buffered = []
            if limit is not None and self.pending >= limit:
                break
        if buffered:
            self._store(buffered)

    def inputs(self) -> KeySet:
        """The keys of the listed inputs (`INPUT_KEY`), each once."""
        return self._inputs.key_set()

    def versions(self) -> KeySet:
        """The keys of the listed versions of the inputs (`VERSION_KEY`)."""
        return KeySet(self._versions)

    def blocks(self, committed: np.ndarray, block_rows: int, block_bytes: int) -> Iterator[list[pa.Table]]:
        """Yield the blocks of each shard with inputs left to process; see `split` for the limits.

        ``committed``: for each ordinal, whether its row is committed.
        """
        for rows in self.rows():
            left = ~committed[rows["ordinal"].to_numpy()] & rows["pending"].to_numpy(zero_copy_only=False)
            rows = rows.filter(pa.array(left)).drop_columns(["pending"])
            if rows.num_rows:
                yield split(rows, block_rows, block_bytes)

    def among(self, versions: KeySet) -> np.ndarray:
        """For each ordinal, whether it was pending and its version (`VERSION_KEY`) is in the set."""
        found = [
            rows["pending"].to_numpy(zero_copy_only=False) & versions.contains(keys(rows, VERSION_KEY))
            for rows in self.rows()
        ]
        return np.concatenate(found) if found else np.zeros(0, bool)

    def rows(self) -> Iterator[pa.Table]:
        """All inputs with the columns `COLUMNS`, one table for each shard."""
        for shard in range(self.shards):
            with own_file(self._shard_uri(shard)):
                rows = read_parquet(storage.read(self._shard_uri(shard)))
            yield rows

    def _numbered(self, chunk: pa.Table, done: KeySet, room: int | None) -> pa.Table:
        inputs = keys(chunk, INPUT_KEY)
        new = self._inputs.new(inputs)
        if not new.all():
            self.repeated += int((~new).sum())
            chunk, inputs = chunk.filter(pa.array(new)), inputs[new]
        versions = keys(chunk, VERSION_KEY)
        pending = ~done.contains(versions)
        if room is not None and pending.sum() > room:
            end = int(np.flatnonzero(pending)[room]) if room < pending.sum() else len(pending)
            chunk, versions, pending = chunk.slice(0, end), versions[:end], pending[:end]
        self._inputs.add(inputs[: chunk.num_rows])
        if len(self.some_pending) < _SOME:
            self.some_pending += chunk["uri"].filter(pa.array(pending))[:_SOME].to_pylist()
        self._versions.append(versions)
        ordinals = np.arange(self.listed, self.listed + chunk.num_rows)
        self.listed += chunk.num_rows
        self.pending += int(pending.sum())
        return chunk.add_column(0, "ordinal", pa.array(ordinals)).append_column("pending", pa.array(pending))

    def _store(self, buffered: list[pa.Table]) -> None:
        buffer = pa.BufferOutputStream()
        rows = pa.concat_tables(buffered).cast(COLUMNS)
        # Names and tags differ from row to row, so a dictionary of them would be made in vain.
        pq.write_table(rows, buffer, compression="zstd", use_dictionary=["format"])  # type: ignore[arg-type]
        storage.write(self._shard_uri(self.shards), buffer.getvalue().to_pybytes())
        self.shards += 1

    def _shard_uri(self, shard: int) -> str:
        return storage.join(self.uri, f"{shard:05d}.parquet")


def split(rows: pa.Table, block_rows: int, block_bytes: int) -> list[pa.Table]:
    """Split rows into blocks of at most ``block_rows`` rows and ``block_bytes`` listed bytes, but of at least 1 row."""
    sizes = pc.fill_null(rows["size"], 0).to_pylist()
    blocks, start, block_size = [], 0, 0
    for index, size in enumerate(sizes):
        if index > start and (index - start >= block_rows or block_size + size > block_bytes):
            blocks.append(rows.slice(start, index - start))
            start, block_size = index, 0
        block_size += size
    blocks.append(rows.slice(start))
    return [block.combine_chunks() for block in blocks]
