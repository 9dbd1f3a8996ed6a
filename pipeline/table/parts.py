"""Parts: the Parquet files of a table. Readers see a part only after the driver has committed it."""

from __future__ import annotations

import dataclasses
import io
import re
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.storage.columnar import ParquetReader, own_file, read_parquet
from pipeline.storage.threads import ordered
from pipeline.table.schema import DESCRIPTION, KEY_COLUMNS, PROVENANCE_COLUMNS, TableSchema, leaves, plain_type

#: Number of parts that are read, written or deleted at the same time.
THREADS = 16

_KEPT_IN_SCANS = ("uri", "member", "etag", "settings", "run_id", "error")
_SCANNED = pa.schema([field for field in (*KEY_COLUMNS, *PROVENANCE_COLUMNS) if field.name in _KEPT_IN_SCANS])
_PLAIN = re.compile(r"[0-9A-Za-z_-]+")
#: Parts up to this size are read in one request.
WHOLE_BYTES = 4 << 20
#: Size of the pieces in which larger parts are read and written.
PIECE_BYTES = 32 << 20
_SCANNED_ROWS = 1 << 19  # about so many are read ahead in a scan
_GROUP_BYTES = 512 << 20  # of a row group; Arrow cannot read one with more than 2 GiB in a struct, such as a mask


@dataclass(frozen=True, kw_only=True)
class Part:
    """A Parquet file of a table."""

    path: str
    """As it is in the log: percent-encoded, and relative to the table's folder, or a URI."""
    size: int
    """Bytes."""
    rows: int | None
    """Number of rows in the file; None if another tool wrote the file and did not count them."""
    model: str | None
    """The partition. None if another tool has written rows without a model."""
    kept: Sequence[bool] | None = None
    """For each row whether it is left, if another tool has deleted rows by a deletion vector."""

    @property
    def file(self) -> str:
        """The path as the store knows it."""
        return unquote(self.path)

    def uri(self, table_uri: str) -> str:
        """The URI of the file of a table."""
        return self.file if "://" in self.file else storage.join(table_uri, self.file)


class PartWriter:
    """Writes a part piece by piece. In memory are the file as it will be stored, and the piece that is being added.

    Its name is unique, so attempts never collide. The part is not committed, and nothing is stored before `close`.
    """

    def __init__(self, table_uri: str, schema: TableSchema, run_id: str, model: str | None) -> None:
        folder = model if model is not None and _PLAIN.fullmatch(model) else "other"  # its name says nothing to readers
        self._path = f"model={folder}/{run_id}-{uuid.uuid4().hex}.parquet"
        self._table_uri, self._schema, self._model = table_uri, schema, model
        self._rows = 0
        # Not an Arrow buffer: its content would have to be copied to become bytes.
        self._buffer = io.BytesIO()
        options: dict[str, Any] = {
            "compression": {name: "none" if name in schema.stored_as_is else "zstd" for name in leaves(schema.columns)},
            "use_dictionary": ["uri", "model", "settings", "run_id"],
        }
        self._writer = pq.ParquetWriter(self._buffer, schema.columns, **options)

    def add(self, rows: pa.Table) -> None:
        """Add rows of the part's model, as row groups of their own."""
        rows = self._schema.fitted(rows)
        for group in _row_groups(rows):
            self._writer.write_table(group)
        self._rows += rows.num_rows

    def close(self) -> Part:
        """Store the file, and return the part."""
        self._writer.close()
        data = self._buffer.getvalue()
        storage.write(storage.join(self._table_uri, self._path), data)
        return Part(path=self._path, size=len(data), rows=self._rows, model=self._model)


def write_part(table_uri: str, schema: TableSchema, rows: pa.Table, run_id: str, model: str | None) -> Part:
    """Write rows of one model as a part that is not committed yet."""
    writer = PartWriter(table_uri, schema, run_id, model)
    writer.add(rows)
    return writer.close()


def _row_groups(rows: pa.Table) -> Iterator[pa.Table]:
    """The rows in slices of at most `_GROUP_BYTES`, or of one row."""
    if rows.num_rows <= 1 or rows.nbytes <= _GROUP_BYTES:
        yield rows
        return
    middle = rows.num_rows // 2
    yield from _row_groups(rows.slice(0, middle))
    yield from _row_groups(rows.slice(middle))


def read_part(table_uri: str, part: Part, columns: list[str] | None = None) -> pa.Table:
    """The rows of a part, with all or some columns. Raises as `own_file` does.

    Other tools write files that differ (`as_written_here`). Columns that a file lacks are left out.
    """
    uri = part.uri(table_uri)
    with own_file(uri):
        if part.size <= WHOLE_BYTES:
            rows = read_parquet(storage.read(uri), columns)
        else:
            with storage.open_file(uri) as file:
                rows = ParquetReader(file).read(columns)
        return as_written_here(rows, part, columns)


def description_of(table_uri: str, part: Part) -> bytes | None:
    """What the file of a part says of its values (`DESCRIPTION`), or None. Raises as `own_file` does."""
    uri = part.uri(table_uri)
    with own_file(uri), storage.open_file(uri) as file:
        return (ParquetReader(file).schema.metadata or {}).get(DESCRIPTION)


def pieces(table_uri: str, part: Part) -> Iterator[pa.Table]:
    """The rows of a part with all columns, in order, as tables of about `PIECE_BYTES` or less. Raises as `own_file`.

    The rows of a row group count as equally large. So of a group with rows of very different sizes more is in memory,
    but never more than the group, which has at most 512 MiB if this project wrote it.
    """
    if part.size <= WHOLE_BYTES:
        yield read_part(table_uri, part)
        return
    uri, start = part.uri(table_uri), 0
    with own_file(uri), storage.open_file(uri) as file:
        reader = ParquetReader(file)
        for number in range(reader.metadata.num_row_groups):
            group = reader.metadata.row_group(number)
            rows = max(1, PIECE_BYTES * group.num_rows // max(1, group.total_byte_size))
            for batch in reader.batches(reader.schema.names, rows, [number]):
                kept = None if part.kept is None else part.kept[start : start + batch.num_rows]
                start += batch.num_rows
                yield as_written_here(pa.Table.from_batches([batch]), dataclasses.replace(part, kept=kept))


def gathered(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The same rows in the same order, in tables of at least `PIECE_BYTES`, except for the last one."""
    waiting: list[pa.Table] = []
    size = 0
    for rows in tables:
        waiting.append(rows)
        size += rows.nbytes
        if size >= PIECE_BYTES:
            yield pa.concat_tables(waiting)
            waiting, size = [], 0
    if waiting:
        yield pa.concat_tables(waiting)


def as_written_here(rows: pa.Table, part: Part, columns: Sequence[str] | None = None) -> pa.Table:
    """Rows as they were read from a part's file, without the differences that files of other tools have.

    Other tools leave out the partition's column, have other Arrow types for the same values (``string_view``), or mark
    deleted rows in a vector beside the file.
    """
    if part.kept is not None:
        # A vector may end early: the rows after its end are left.
        kept = np.ones(rows.num_rows, bool)
        kept[: len(part.kept)] = part.kept
        rows = rows.filter(pa.array(kept))
    if "model" not in rows.column_names and (columns is None or "model" in columns):
        rows = rows.append_column("model", pa.array([part.model] * rows.num_rows, pa.string()))
    plain = pa.schema([field.with_type(plain_type(field.type)) for field in rows.schema], rows.schema.metadata)
    return rows if plain.equals(rows.schema) else rows.cast(plain)


def completed(rows: pa.Table, columns: pa.Schema) -> pa.Table:
    """The rows with exactly these columns; those that they lack are null."""
    for field in columns:
        if field.name not in rows.column_names:
            rows = rows.append_column(field, pa.nulls(rows.num_rows, field.type))
    return rows.select(columns.names)


def scan(table_uri: str, parts: Sequence[Part]) -> Iterator[tuple[Part, pa.Table]]:
    """Yield each part with its key and provenance columns, in order. Columns that a file lacks are null."""

    def read(part: Part) -> tuple[Part, pa.Table]:
        rows = read_part(table_uri, part, _SCANNED.names)
        return part, completed(rows, _SCANNED).cast(_SCANNED)

    rows = sum(part.rows or 0 for part in parts)
    yield from ordered(read, parts, max(2, min(THREADS, _SCANNED_ROWS * len(parts) // max(1, rows))))
