"""The schema of a table: its columns, how they are added to an existing table, and metadata for readers.

The schema metadata of a part file have two keys: ``huggingface`` says which columns are pictures, and ``parquetry``
(`DESCRIPTION`) is a JSON object that says what the values mean, such as the names of the classes. The properties of the
table have the same object for each model (`property_of`).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import deltalake
import pyarrow as pa

from pipeline.errors import RequestError
from pipeline.json_text import to_json
from pipeline.rows import ERROR_TYPE

#: The key of the schema metadata under which a part file says what its values mean.
DESCRIPTION = b"parquetry"

KEY_COLUMNS = pa.schema([("uri", pa.string()), ("member", pa.string()), ("etag", pa.string()), ("size", pa.int64())])
PROVENANCE_COLUMNS = pa.schema(
    [("model", pa.string()), ("settings", pa.string()), ("run_id", pa.string()), ("error", ERROR_TYPE)]
)


@dataclass(frozen=True, kw_only=True)
class TableSchema:
    """The columns of a table, and how they are stored."""

    columns: pa.Schema
    """All columns, in order, with Hugging Face features in the metadata."""
    result: str
    """A column that all tables of the task have, such as ``mask``. A table without it belongs to another task."""
    stored_as_is: tuple[str, ...] = ()
    """Columns that are stored uncompressed, since their data are compressed already: dotted names (``mask.bytes``)."""

    @classmethod
    def of(
        cls,
        task_columns: pa.Schema,
        *,
        result: str,
        huggingface_features: Mapping[str, Any] | None = None,
        stored_as_is: tuple[str, ...] = (),
        description: Mapping[str, Any] | None = None,
    ) -> TableSchema:
        """A schema of the key columns, the task's columns, and the provenance. ``huggingface_features``: see
        `with_huggingface_features`. ``description``: what the values of one ``model`` mean; see `described`."""
        columns = pa.schema([*KEY_COLUMNS, *task_columns, *PROVENANCE_COLUMNS])
        schema = cls(
            columns=with_huggingface_features(columns, huggingface_features or {}),
            result=result,
            stored_as_is=stored_as_is,
        )
        return schema.described(None if description is None else to_json(description).encode())

    def described(self, description: bytes | None) -> TableSchema:
        """This schema for files with the given `DESCRIPTION`, which belongs to one model; None: for files without."""
        metadata = {name: value for name, value in (self.columns.metadata or {}).items() if name != DESCRIPTION}
        if description is not None:
            metadata[DESCRIPTION] = description
        return dataclasses.replace(self, columns=self.columns.with_metadata(metadata))

    @property
    def description(self) -> bytes | None:
        """The `DESCRIPTION` of the files, or None."""
        return (self.columns.metadata or {}).get(DESCRIPTION)

    @property
    def names(self) -> list[str]:
        return self.columns.names

    def within(self, found: pa.Schema, sink: str) -> TableSchema:
        """This schema for an existing table with the columns ``found``: these first, and then those that it lacks.

        Columns of the table that this version does not know are kept, and are null in its rows. `RequestError` if the
        table belongs to another task, or if a column of the same name has another type.
        """
        if self.result not in found.names:
            raise RequestError(
                f"sink {sink!r} holds a table of another kind: it has no column {self.result!r}, "
                f"but {', '.join(found.names)}"
            )
        missing = [name for name in (*KEY_COLUMNS.names, *PROVENANCE_COLUMNS.names) if name not in found.names]
        if missing:
            raise RequestError(f"sink {sink!r}: another tool has removed the table's columns {', '.join(missing)}")
        expected = as_stored(self.columns)
        for field in found:
            if field.name in expected.names and not _is_same(field.type, expected.field(field.name).type):
                raise RequestError(
                    f"sink {sink!r}: column {field.name!r} must be {expected.field(field.name).type}, "
                    f"the table has {field.type}"
                )
        kept = [self.columns.field(field.name) if field.name in self.names else field for field in found]
        fields = [*kept, *(field for field in self.columns if field.name not in found.names)]
        described = json.loads((self.columns.metadata or {}).get(b"huggingface", b"{}"))
        features = described.get("info", {}).get("features", {})
        widened = dataclasses.replace(self, columns=with_huggingface_features(pa.schema(fields), features))
        return widened.described(self.description)

    def fitted(self, rows: pa.Table) -> pa.Table:
        """The rows with all columns of the table, in order; missing columns are null."""
        columns = [
            rows[field.name] if field.name in rows.column_names else pa.nulls(rows.num_rows, field.type)
            for field in self.columns
        ]
        return pa.table(columns, names=self.names).cast(self.columns)


def with_huggingface_features(schema: pa.Schema, features: Mapping[str, Any]) -> pa.Schema:
    """Add Hugging Face features to the schema's metadata.

    ``features`` are those of columns for which the Arrow type is not enough, such as ``{"mask": {"_type": "Image"}}``.
    """
    described = {field.name: features.get(field.name) or _feature(field.type) for field in schema}
    return schema.with_metadata({b"huggingface": json.dumps({"info": {"features": described}}).encode()})


def property_of(model: str) -> str:
    """The property of a table that says what the values of a model mean, as `DESCRIPTION` does in its files."""
    return f"parquetry.{model}"


def as_stored(schema: pa.Schema) -> pa.Schema:
    """The schema as it is read back from a Delta log, which has fewer types than Arrow."""
    return pa.schema(deltalake.Schema.from_arrow(schema.remove_metadata()).to_arrow())


def leaves(schema: pa.Schema) -> list[str]:
    """The column names in a Parquet file of this schema, such as ``error.code`` or ``class_pixels.list.element``."""
    return [path for field in schema for path in _leaf_paths(field.name, field.type)]


def _is_same(one: pa.DataType, other: pa.DataType) -> bool:
    """Whether two types have the same values. Names of list items and the width of offsets do not matter."""
    return _nameless(plain_type(one)) == _nameless(plain_type(other))


def _nameless(type_: pa.DataType) -> Any:
    if pa.types.is_struct(type_):
        return tuple((child.name, _nameless(child.type)) for child in type_)
    return ["list", _nameless(type_.value_type)] if pa.types.is_list(type_) else type_


def plain_type(type_: pa.DataType) -> pa.DataType:
    """The type that this project writes for the same values: no views, no large offsets, no dictionaries."""
    if pa.types.is_struct(type_):
        return pa.struct([field.with_type(plain_type(field.type)) for field in type_])
    if pa.types.is_list(type_) or pa.types.is_large_list(type_) or pa.types.is_list_view(type_):
        return pa.list_(type_.value_field.with_type(plain_type(type_.value_type)))
    if pa.types.is_dictionary(type_):
        return plain_type(type_.value_type)
    if pa.types.is_large_string(type_) or pa.types.is_string_view(type_):
        return pa.string()
    if pa.types.is_large_binary(type_) or pa.types.is_binary_view(type_):
        return pa.binary()
    return type_


def _leaf_paths(prefix: str, kind: pa.DataType) -> list[str]:
    if pa.types.is_struct(kind):
        return [path for child in kind for path in _leaf_paths(f"{prefix}.{child.name}", child.type)]
    if pa.types.is_list(kind):
        return _leaf_paths(f"{prefix}.list.element", kind.value_type)
    return [prefix]


def _feature(kind: pa.DataType) -> dict[str, Any]:
    """The Hugging Face feature of an Arrow type."""
    if pa.types.is_struct(kind):
        return {child.name: _feature(child.type) for child in kind}
    if pa.types.is_list(kind):
        return {"feature": _feature(kind.value_type), "_type": "List"}
    return {"dtype": {"float": "float32", "double": "float64"}.get(str(kind), str(kind)), "_type": "Value"}
