"""Values of Parquet columns as the members of a record, whatever their Arrow type.

A record reaches its task as JSON, from a JSONL file and from a Parquet file alike. JSON has no dates, decimals or
bytes; their text stands for them here, so that the same records in both kinds of files give the same results.
"""

from __future__ import annotations

import uuid
from typing import Any

import pyarrow as pa
import pyarrow.types as types

from pipeline.errors import InputError
from pipeline.storage.names import as_text

_MOST_TYPE_CHARS = 80


def is_bytes(type_: pa.DataType) -> bool:
    """Whether values of the type are bytes, in any layout that Arrow has."""
    if types.is_dictionary(type_):
        return is_bytes(type_.value_type)
    layouts = (types.is_binary, types.is_large_binary, types.is_binary_view, types.is_fixed_size_binary)
    return any(is_layout(type_) for is_layout in layouts)


def is_text(type_: pa.DataType) -> bool:
    """Whether values of the type can be text: strings in any layout, bytes (many writers mark no text), only nulls."""
    if types.is_dictionary(type_):
        return is_text(type_.value_type)
    layouts = (types.is_string, types.is_large_string, types.is_string_view, types.is_null)
    return is_bytes(type_) or any(is_layout(type_) for is_layout in layouts)


def described(type_: pa.DataType) -> str:
    """The type for a message. It comes from the file, and may be long."""
    text = str(type_)
    return text if len(text) <= _MOST_TYPE_CHARS else f"{text[:_MOST_TYPE_CHARS]}..."


def member(value: pa.Scalar, column: str, *, is_uuid: bool = False) -> Any:
    """A value as JSON can hold it. `InputError` that names the column and its type if there is no form for it.

    Dates, times and decimals are their text, and so are UUIDs. Bytes are UTF-8, with ``\\xNN`` for what is not.
    `UnicodeDecodeError` if a string is not UTF-8.
    """
    try:
        return _plain(value, is_uuid)
    except UnicodeDecodeError:
        raise
    except (TypeError, ValueError, OverflowError, pa.ArrowException) as reason:
        message = f"a value in column {column!r} of the type {described(value.type)} has no form in JSON"
        raise InputError("bad_record", message) from reason


def text(value: pa.Scalar) -> str | None:
    """A value of a column of texts. `UnicodeDecodeError` if its bytes are not UTF-8."""
    found = value.as_py()
    return found.decode() if isinstance(found, bytes) else found


def _plain(value: pa.Scalar, is_uuid: bool) -> Any:
    type_ = value.type
    if not value.is_valid:
        return None
    if types.is_dictionary(type_):
        assert isinstance(value, pa.DictionaryScalar)
        return _plain(value.value, is_uuid)
    if is_bytes(type_):
        data = value.as_py()
        return str(uuid.UUID(bytes=data)) if is_uuid else as_text(data.decode("utf-8", "surrogateescape"))
    if is_text(type_) or types.is_integer(type_) or types.is_boolean(type_):
        return value.as_py()
    if types.is_floating(type_):
        return float(value.as_py())
    if types.is_decimal(type_):
        return f"{value.as_py():f}"
    if types.is_temporal(type_):
        found = value.cast(pa.string()).as_py()
        if found.startswith("<"):
            raise ValueError("beyond the calendar")
        return found
    if types.is_struct(type_):
        assert isinstance(value, pa.StructScalar)
        return {name: _plain(item, False) for name, item in value.items()}
    if isinstance(value, pa.MapScalar):
        pairs = zip(value.values.field(0), value.values.field(1), strict=True)
        return {str(key.as_py()): _plain(item, False) for key, item in pairs}
    if isinstance(value, pa.ListScalar):  # all layouts of lists
        return [_plain(item, False) for item in value]
    raise TypeError(f"a value of {type_}")
