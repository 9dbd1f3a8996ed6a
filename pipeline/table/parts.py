"""Parts: the Parquet files of a table. Readers see a part only after the driver has committed it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.storage.columnar import ParquetReader, own_file, read_parquet
from pipeline.storage.threads import ordered
from pipeline.table.schema import TableSchema, leaves

#: Number of parts that are read, written or deleted at the same time.
THREADS = 16

_WHOLE_BYTES = 4 << 20  # parts up to this size are read in one request
_GROUP_BYTES = 512 << 20  # of a row group; Arrow cannot read one with more than 2 GiB in a struct, such as a mask


@dataclass(frozen=True, kw_only=True)
class Part:
    """A Parquet file of a table: its path below the table's folder, size in bytes, number of rows, and model."""

    path: str
    size: int
    rows: int
    model: str


def write_part(table_uri: str, schema: TableSchema, rows: pa.Table, run_id: str, model: str) -> Part:
    """Write rows of one model as a part that is not committed yet. Its name is unique, so attempts never collide."""
    rows = schema.fitted(rows)
    path = f"model={model}/{run_id}-{uuid.uuid4().hex}.parquet"
    buffer = pa.BufferOutputStream()
    options: dict[str, Any] = {
        "compression": {name: "none" if name in schema.stored_as_is else "zstd" for name in leaves(rows.schema)},
        "use_dictionary": ["uri", "model", "settings", "run_id"],
    }
    with pq.ParquetWriter(buffer, rows.schema, **options) as writer:
        for group in _row_groups(rows):
            writer.write_table(group)
    data = buffer.getvalue().to_pybytes()
    storage.write(storage.join(table_uri, path), data)
    return Part(path=path, size=len(data), rows=rows.num_rows, model=model)


def _row_groups(rows: pa.Table) -> Iterator[pa.Table]:
    """The rows in slices of at most `_GROUP_BYTES`, or of one row."""
    if rows.num_rows <= 1 or rows.nbytes <= _GROUP_BYTES:
        yield rows
        return
    middle = rows.num_rows // 2
    yield from _row_groups(rows.slice(0, middle))
    yield from _row_groups(rows.slice(middle))


def read_part(table_uri: str, part: Part, columns: list[str] | None = None) -> pa.Table:
    """The rows of a part, with all or some columns. Raises as `own_file` does."""
    uri = storage.join(table_uri, part.path)
    with own_file(uri):
        if part.size <= _WHOLE_BYTES:
            return read_parquet(storage.read(uri), columns)
        with storage.open_file(uri) as file:
            return ParquetReader(file).read(columns)


def scan(table_uri: str, parts: Sequence[Part]) -> Iterator[tuple[Part, pa.Table]]:
    """Yield each part with its key and provenance columns, in order."""
    columns = ["uri", "member", "etag", "settings", "run_id", "error"]
    yield from ordered(lambda part: (part, read_part(table_uri, part, columns)), parts, THREADS)
