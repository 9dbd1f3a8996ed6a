"""Inputs that are rows of Parquet files.

There are two forms. If the file has the column that all records of the task have (``text`` for documents), a row is a
record, and its columns become one JSON object. Otherwise a row contains a whole object in a binary column, such as an
encoded image.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, BinaryIO, cast

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.errors import InputError
from pipeline.rows import OBJECT, RECORD, InputKind


def inputs_column(schema: pa.Schema, kind: InputKind) -> str | None:
    """The column of a Parquet file that makes its rows inputs, or None if there is none."""
    if kind.record and kind.record[0] in schema.names:
        return kind.record[0]
    for name in kind.bytes_columns:
        if name in schema.names:
            type_ = schema.field(name).type
            if pa.types.is_struct(type_) and type_.get_field_index("bytes") >= 0:
                type_ = type_.field("bytes").type
            if pa.types.is_binary(type_) or pa.types.is_large_binary(type_):
                return name
    return None


def count_rows(uri: str, kind: InputKind) -> tuple[int, str]:
    """The number of inputs in a Parquet file, and their format. `InputError` if no column contains inputs."""
    with storage.open_file(uri) as file:
        parquet = pq.ParquetFile(file)
        column = inputs_column(parquet.schema_arrow, kind)
        if column is None:
            allowed = ", ".join((*kind.record[:1], *kind.bytes_columns))
            raise InputError("bad_archive", f"the Parquet file has none of the columns {allowed}")
        return parquet.metadata.num_rows, _format(column, kind)


def read_rows(file: BinaryIO, kind: InputKind, wanted: dict[int, int]) -> Iterator[tuple[int, bytes | InputError]]:
    """Yield (index, bytes) of some rows of a Parquet file. ``wanted`` maps a row's number, from 0, to its index."""
    parquet = pq.ParquetFile(file)
    names = parquet.schema_arrow.names
    column = str(inputs_column(parquet.schema_arrow, kind))
    is_record = _format(column, kind) == RECORD
    columns = [name for name in kind.record if name in names] if is_record else [column]
    row = 0
    for number in range(parquet.metadata.num_row_groups):
        rows = parquet.metadata.row_group(number).num_rows
        if any(row <= start < row + rows for start in wanted):
            position = row
            for batch in parquet.iter_batches(256, row_groups=[number], columns=columns):
                inside = [position + offset for offset in range(batch.num_rows) if position + offset in wanted]
                values = batch.take([start - position for start in inside]).to_pylist()
                for start, value in zip(inside, values, strict=True):
                    yield wanted[start], _record(value) if is_record else _object(value, column)
                position += batch.num_rows
        row += rows


def _format(column: str, kind: InputKind) -> str:
    return RECORD if kind.record and column == kind.record[0] else OBJECT


def _record(row: dict[str, Any]) -> bytes:
    present = {key: value for key, value in row.items() if value is not None}
    return json.dumps(present, ensure_ascii=False).encode("utf-8", "surrogatepass")


def _object(row: dict[str, Any], column: str) -> bytes | InputError:
    value = row[column]
    value = value["bytes"] if isinstance(value, dict) else value
    return InputError("empty", f"the row has nothing in column {column!r}") if value is None else cast("bytes", value)
