"""Inputs that are rows of Parquet files.

There are two forms. If the file has the column that all records of the task have (``text`` for documents), a row is a
record, and its columns become one JSON object (`pipeline.source.values`). Otherwise a row contains a whole object in a
column of bytes, such as an encoded image.

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
from pipeline.source.values import described, is_bytes, is_text, member, text
from pipeline.storage import Read
from pipeline.storage.columnar import ParquetReader

_BATCH_ROWS = 32
_BATCH_BYTES = 64 << 20
#: In a row group of more bytes than that, rows that stand together may be so many times larger than the mean.
_SKEW = 16
_COUNTED_ROWS = 8192
#: The columns by which a table of this project is known. It names inputs, and contains none.
OWN_COLUMNS = frozenset(("uri", "member", "etag", "settings", "run_id", "error"))


def inputs_column(schema: pa.Schema, kind: InputKind) -> str | None:
    """The column of a Parquet file that makes its rows inputs, or None if there is none."""
    for name in kind.record[:1]:
        if schema.names.count(name) == 1 and is_text(schema.field(name).type):
            return name
    for name in kind.bytes_columns:
        if schema.names.count(name) == 1 and _holds_bytes(schema.field(name).type):
            return name
    return None


def _holds_bytes(type_: pa.DataType) -> bool:
    if pa.types.is_struct(type_) and type_.get_field_index("bytes") >= 0:
        type_ = type_.field("bytes").type
    return is_bytes(type_)


def _why_no_inputs(schema: pa.Schema, kind: InputKind) -> str:
    """What is wrong with the columns that could be the one of the inputs."""
    names = (*kind.record[:1], *kind.bytes_columns)
    if set(schema.names) >= OWN_COLUMNS:
        return "the Parquet file is a part of a table of results, which has no inputs; name their sources"
    for name in names:
        count = schema.names.count(name)
        if count > 1:
            return f"the Parquet file has {count} columns {name!r}, so none of them is read"
        if count:
            wanted = "strings" if name in kind.record else "bytes, or a struct with bytes"
            found = described(schema.field(name).type)
            return f"column {name!r} of the Parquet file has the type {found}, not {wanted}"
    for name in schema.names:
        if name.lower() in names:
            return f"the Parquet file has a column {name!r}; its name must be {name.lower()!r}"
    return f"the Parquet file has none of the columns {', '.join(names)}"


def list_rows(file: BinaryIO, kind: InputKind) -> Iterator[tuple[range, str, int]]:
    """Yield the numbers of the rows that are inputs, from 0, with their format and the mean size of one.

    Raises `InputError` if no column contains inputs, and, after the rows that are there, if the footer claims others.
    """
    reader = ParquetReader(file)
    column = inputs_column(reader.schema, kind)
    if column is None:
        raise InputError("bad_archive", _why_no_inputs(reader.schema, kind))
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
    uuids = frozenset(reader.uuids())
    first = 0
    for number in range(reader.metadata.num_row_groups):
        group = reader.metadata.row_group(number)
        left = {row - first: index for row, index in wanted.items() if first <= row < first + group.num_rows}
        rows = _batch_rows(group.total_byte_size, group.num_rows)
        yield from _read_group(reader, number, columns, kind, left, rows, limits, uuids)
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
    uuids: frozenset[str],
) -> Iterator[tuple[int, bytes | InputError]]:
    """The rows of one row group whose positions in it are in ``left``. If a batch is broken, row by row."""
    failure = InputError("bad_archive", "the Parquet file does not have the row")
    for rows in (batch_rows, 1):
        position = 0
        try:
            for batch in reader.batches(columns, rows, [number]) if left else ():
                for offset in range(batch.num_rows):
                    if position + offset in left:
                        yield left.pop(position + offset), _value(batch, offset, kind, limits, uuids)
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


def _value(
    batch: pa.RecordBatch, offset: int, kind: InputKind, limits: Read, uuids: frozenset[str]
) -> bytes | InputError:
    names = batch.schema.names
    try:
        values = {name: batch.column(position)[offset] for position, name in enumerate(names)}
        if kind.record and kind.record[0] in names:
            first = kind.record[0]
            rest = {name: value for name, value in values.items() if name != first}
            row = {first: text(values[first])}
            found = _record(row | {name: member(rest[name], name, is_uuid=name in uuids) for name in rest})
        else:
            return _object(values[names[0]], names[0], limits)
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
    if isinstance(value, pa.DictionaryScalar):
        value = value.value
    if isinstance(value, pa.StructScalar) and value.is_valid:
        if not value["bytes"].is_valid and "path" in value and value["path"].is_valid and value["path"].as_py():
            raise InputError("empty", f"the row has a path in column {column!r}, and no bytes")
        value = value["bytes"]
    if not value.is_valid:
        raise InputError("empty", f"the row has nothing in column {column!r}")
    buffer = value.as_buffer()
    limits.check_size(buffer.size)
    return buffer.to_pybytes()
