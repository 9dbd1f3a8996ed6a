"""Inputs that are rows of Parquet files.

There are two forms. If the file has the column that all records of the task have (``text`` for documents), a row is a
record, and its columns become one JSON object. Otherwise a row contains a whole object in a binary column, such as an
encoded image.

A footer's counts are the file's own claims. They are believed as far as there are bytes for them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, BinaryIO, cast

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import InputError
from pipeline.rows import OBJECT, RECORD, InputKind
from pipeline.storage import Read
from pipeline.storage.columnar import ParquetReader

_BATCH_ROWS = 256
_BATCH_BYTES = 64 << 20
_COUNTED_ROWS = 8192


def inputs_column(schema: pa.Schema, kind: InputKind) -> str | None:
    """The column of a Parquet file that makes its rows inputs, or None if there is none."""
    if kind.record and kind.record[0] in schema.names:
        return kind.record[0]
    for name in kind.bytes_columns:
        if schema.names.count(name) == 1:
            type_ = schema.field(name).type
            if pa.types.is_struct(type_) and type_.get_field_index("bytes") >= 0:
                type_ = type_.field("bytes").type
            if pa.types.is_binary(type_) or pa.types.is_large_binary(type_):
                return name
    return None


def list_rows(file: BinaryIO, kind: InputKind) -> Iterator[tuple[range, str, int]]:
    """Yield the numbers of the rows that are inputs, from 0, with their format and the mean size of one.

    Raises `InputError` if no column contains inputs, and, after the rows that are there, if the footer claims others.
    """
    reader = ParquetReader(file)
    column = inputs_column(reader.schema, kind)
    if column is None:
        allowed = ", ".join((*kind.record[:1], *kind.bytes_columns))
        raise InputError("bad_archive", f"the Parquet file has none of the columns {allowed}")
    reader.check([column])
    count, mean = reader.metadata.num_rows, reader.size // max(1, reader.metadata.num_rows)
    first, known_bytes = 0, 0
    for number in range(reader.metadata.num_row_groups):
        group = reader.metadata.row_group(number)
        size = _compressed_bytes(group, column)
        known_bytes += size
        if group.num_rows < 0 or known_bytes > reader.size:
            raise InputError("bad_archive", "the Parquet file claims more bytes than it has")
        if group.num_rows <= size:
            yield range(first, first + group.num_rows), _format(column, kind), mean
        else:  # so few bytes that counting costs little
            there = first
            for batch in reader.batches([column], _COUNTED_ROWS, [number]):
                yield range(there, there + batch.num_rows), _format(column, kind), mean
                there += batch.num_rows
            if there != first + group.num_rows:
                raise InputError("bad_archive", f"the Parquet file claims {count} rows and does not have them")
        first += group.num_rows
    if first != count:
        raise InputError("bad_archive", f"the Parquet file claims {count} rows, and its row groups {first}")


def read_rows(
    file: BinaryIO, kind: InputKind, wanted: dict[int, int], limits: Read
) -> Iterator[tuple[int, bytes | InputError]]:
    """Yield (index, bytes) of some rows of a Parquet file. ``wanted`` maps a row's number, from 0, to its index.

    A row whose values are wrong fails alone. `InputError` if the column of the inputs must not be read.
    """
    reader = ParquetReader(file)
    column = str(inputs_column(reader.schema, kind))
    columns = [name for name in kind.record if name in reader.schema.names]
    columns = columns if _format(column, kind) == RECORD else [column]
    reader.check(columns)
    first = 0
    for number in range(reader.metadata.num_row_groups):
        group = reader.metadata.row_group(number)
        left = {row - first: index for row, index in wanted.items() if first <= row < first + group.num_rows}
        rows = _BATCH_BYTES // max(1, _plain_bytes(group, columns) // max(1, group.num_rows))
        yield from _read_group(reader, number, columns, kind, left, max(1, min(rows, _BATCH_ROWS)), limits)
        first += group.num_rows


def _read_group(
    reader: ParquetReader,
    number: int,
    columns: list[str],
    kind: InputKind,
    left: dict[int, int],
    batch_rows: int,
    limits: Read,
) -> Iterator[tuple[int, bytes | InputError]]:
    """The rows of one row group whose positions in it are in ``left``. If a batch is broken, row by row."""
    failure = InputError("bad_archive", "the Parquet file does not have the row")
    for rows in (batch_rows, 1):
        position = 0
        try:
            for batch in reader.batches(columns, rows, [number]) if left else ():
                for offset in range(batch.num_rows):
                    if position + offset in left:
                        yield left.pop(position + offset), _value(batch, offset, kind, limits)
                position += batch.num_rows
                if not left:
                    break
            break
        except MemoryError:
            failure = InputError("out_of_memory", "not enough memory to hold the row")
        except Exception:
            failure = InputError("bad_archive", "the Parquet file is broken before or at the row")
    for index in left.values():
        yield index, failure


def _value(batch: pa.RecordBatch, offset: int, kind: InputKind, limits: Read) -> bytes | InputError:
    names = batch.schema.names
    is_record = bool(kind.record) and kind.record[0] in names
    try:
        row = {name: batch.column(position)[offset].as_py() for position, name in enumerate(names)}
        found = _record(row) if is_record else _object(row[names[0]], names[0])
        limits.check_size(len(found))
    except InputError as reason:
        return reason
    except UnicodeDecodeError:
        return InputError("bad_encoding", "a text in the row is not valid UTF-8")
    except (TypeError, ValueError, OverflowError):
        return InputError("bad_record", "a value in the row has no form in JSON")
    return found


def _compressed_bytes(group: pq.RowGroupMetaData, column: str) -> int:
    return sum(max(0, chunk.total_compressed_size) for chunk in _chunks(group, [column]))


def _plain_bytes(group: pq.RowGroupMetaData, columns: list[str]) -> int:
    return sum(max(0, chunk.total_uncompressed_size) for chunk in _chunks(group, columns))


def _chunks(group: pq.RowGroupMetaData, columns: list[str]) -> Iterator[Any]:
    for number in range(group.num_columns):
        chunk = group.column(number)
        if any(chunk.path_in_schema == name or chunk.path_in_schema.startswith(name + ".") for name in columns):
            yield chunk


def _format(column: str, kind: InputKind) -> str:
    return RECORD if kind.record and column == kind.record[0] else OBJECT


def _record(row: dict[str, Any]) -> bytes:
    present = {key: value for key, value in row.items() if value is not None}
    return json.dumps(present, ensure_ascii=False).encode("utf-8", "surrogatepass")


def _object(value: Any, column: str) -> bytes:
    value = value["bytes"] if isinstance(value, dict) else value
    if value is None:
        raise InputError("empty", f"the row has nothing in column {column!r}")
    return cast("bytes", value)
