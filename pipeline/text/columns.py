"""Rows of documents as Arrow tables: lists of numbers are not copied."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa


def table_of(fields: dict[str, pa.DataType], rows: Sequence[dict[str, Any] | None]) -> pa.Table:
    """Rows as a table; a row that is None becomes nulls."""
    columns = {name: [None if row is None else row[name] for row in rows] for name in fields}
    return pa.table({name: _column(columns[name], type_) for name, type_ in fields.items()}, pa.schema(fields))


def _column(values: list[Any], type_: pa.DataType) -> pa.Array:
    """Values as an Arrow array. A single array is not copied: those of a long document take most of the memory."""
    arrays = [value for value in values if value is not None]
    if not (pa.types.is_large_list(type_) and arrays):
        return pa.array(values, type_)
    flat = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
    lengths = [0 if value is None else len(value) for value in values]
    missing = pa.array([value is None for value in values])
    offsets = pa.array(np.append(0, np.cumsum(lengths)), pa.int64())
    return pa.LargeListArray.from_arrays(offsets, pa.array(flat, type_.value_type), type=type_, mask=missing)
