"""Inputs that are rows of Parquet files.

There are two forms. If the file has the column that all records of the task have (``text`` for documents), a row is a
record, and its columns become one JSON object. Otherwise a row contains a whole object in a binary column, such as an
encoded image.

A footer's counts are the file's own claims. They are believed as far as there are bytes for them. The metadata of
single columns are not asked for: pyarrow ends the process if some of them are damaged.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, BinaryIO

import pyarrow as pa

from pipeline.errors import InputError
from pipeline.rows import OBJECT, RECORD, InputKind
from pipeline.storage import Read
from pipeline.storage.columnar import ParquetReader

_BATCH_ROWS = 32
_BATCH_BYTES = 64 << 20
#: In a row group of more bytes than that, rows that stand together may be so many times larger than the mean.
_SKEW = 16


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
    groups = [reader.metadata.row_group(number).num_rows for number in range(reader.metadata.num_row_groups)]
    # A row of an input has more than a byte. If there are more rows, either the file is small, or they are not there.
    is_plausible = sum(groups) <= reader.size and min(groups, default=0) >= 0
    first = 0
    for number, rows in enumerate(groups):
        there = rows if is_plausible else 0
        if is_plausible:
            yield range(first, first + rows), _format(column, kind), mean
        else:
            for batch in reader.batches([column], _BATCH_ROWS, [number]):
                yield range(first + there, first + there + batch.num_rows), _format(column, kind), mean
                there += batch.num_rows
        if there != rows:
            raise InputError("bad_archive", f"the Parquet file claims {count} rows and does not have them")
        first += rows
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
        rows = _batch_rows(group.total_byte_size, group.num_rows)
        yield from _read_group(reader, number, columns, kind, left, rows, limits)
        first += group.num_rows


def _batch_rows(size: int, rows: int) -> int:
    """The rows of a batch of a row group with so many bytes, before compression, and rows."""
    if size <= _BATCH_BYTES:
        return _BATCH_ROWS
    return max(1, min(_BATCH_ROWS, _BATCH_BYTES // _SKEW * max(1, rows) // size))


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
        if not is_record:
            return _object(batch.column(0)[offset], names[0], limits)
        found = _record({name: batch.column(position)[offset].as_py() for position, name in enumerate(names)})
        limits.check_size(len(found))
    except InputError as reason:
        return reason
    except UnicodeDecodeError:
        return InputError("bad_encoding", "a text in the row is not valid UTF-8")
    except (TypeError, ValueError, OverflowError):
        return InputError("bad_record", "a value in the row has no form in JSON")
    return found


def _format(column: str, kind: InputKind) -> str:
    return RECORD if kind.record and column == kind.record[0] else OBJECT


def _record(row: dict[str, Any]) -> bytes:
    present = {key: value for key, value in row.items() if value is not None}
    return json.dumps(present, ensure_ascii=False).encode("utf-8", "surrogatepass")


def _object(value: Any, column: str, limits: Read) -> bytes:
    """The bytes of an Arrow value: binary, or a struct with ``bytes``. Values above the limit are not copied."""
    if isinstance(value, pa.StructScalar) and value.is_valid:
        value = value["bytes"]
    if not value.is_valid:
        raise InputError("empty", f"the row has nothing in column {column!r}")
    buffer = value.as_buffer()
    limits.check_size(buffer.size)
    return buffer.to_pybytes()
