"""Queries over the table of a sink, in SQL. The rows are called ``rows``."""

from __future__ import annotations

import pyarrow as pa
from deltalake import QueryBuilder

from pipeline.errors import RequestError
from pipeline.source.keys import INPUT_KEY, KeySet, keys
from pipeline.table.readers import open_delta


def inputs_where(sink: str, where: str) -> KeySet:
    """The inputs (`INPUT_KEY`) of the rows for which an SQL condition holds. `RequestError` if it is no condition."""
    return KeySet([keys(rows_where(sink, where), INPUT_KEY)])


def rows_where(sink: str, where: str) -> pa.Table:
    """``uri`` and ``member`` of the rows for which an SQL condition holds. `RequestError` if it is no condition."""
    table = open_delta(sink)
    try:
        found = QueryBuilder().register("rows", table).execute(f"select uri, member from rows where ({where}\n)")
        batches = pa.table(found.read_all())
    except Exception as reason:  # the library raises its errors as plain exceptions
        raise RequestError(f"where {where!r} is no SQL condition over the table of {sink!r}: {reason}") from reason
    text = pa.schema([("uri", pa.string()), ("member", pa.string())])
    return batches.cast(text)
