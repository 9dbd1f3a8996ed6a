"""Queries over the table of a sink, in SQL. The rows are called ``rows``."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from deltalake import QueryBuilder

from pipeline import storage
from pipeline.errors import RequestError
from pipeline.source.keys import INPUT_KEY, KeySet, keys
from pipeline.table.log import columns_of, committed_parts
from pipeline.table.parts import Part, completed, pieces, read_part, scan
from pipeline.table.readers import open_delta
from pipeline.table.schema import plain_type

_RUN_KEY = (*INPUT_KEY, "run_id")


def inputs_where(sink: str, where: str) -> KeySet:
    """The inputs (`INPUT_KEY`) of the rows for which an SQL condition holds. `RequestError` if it is no condition."""
    return KeySet([keys(rows_where(sink, where), INPUT_KEY)])


def rows_where(sink: str, where: str, columns: Sequence[str] = INPUT_KEY) -> pa.Table:
    """Columns of strings, of the rows for which an SQL condition holds. `RequestError` if it is no condition."""
    table = open_delta(sink)
    try:
        query = f"select {', '.join(columns)} from rows where ({where}\n)"
        batches = pa.table(QueryBuilder().register("rows", table).execute(query).read_all())
    except Exception as reason:  # the library raises its errors as plain exceptions
        raise RequestError(f"where {where!r} is no SQL condition over the table of {sink!r}: {reason}") from reason
    return batches.cast(pa.schema([(name, pa.string()) for name in columns]))


class CurrentRows:
    """The current rows of a sink for which an SQL condition holds. They can be read several times.

    Only for the newest row of each input it matters whether the condition holds.
    """

    def __init__(self, sink: str, where: str | None = None) -> None:
        """`RequestError` if there is no table, or if it is no condition."""
        delta = open_delta(sink)
        self._sink, self._uri, self._parts = sink, storage.join(sink, "table"), committed_parts(delta)
        self.schema = pa.schema([field.with_type(plain_type(field.type)) for field in columns_of(delta)])
        """All columns of the table."""
        wanted = None if where is None else KeySet([keys(rows_where(sink, where, _RUN_KEY), _RUN_KEY)])
        self._chosen = _chosen(self._uri, self._parts, wanted)

    def __len__(self) -> int:
        return int(self._chosen.sum())

    def only(self, wanted: np.ndarray) -> CurrentRows:
        """Those of the rows, in the order of `pieces`, for which ``wanted`` (rows,) is true."""
        fewer = copy.copy(self)
        fewer._chosen = self._chosen.copy()
        fewer._chosen[fewer._chosen] = wanted
        return fewer

    def pieces(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """The rows piece by piece, so that memory is bounded. ``columns``: None: all. `RequestError` if there is no
        such column."""
        for name in columns or ():
            if name not in self.schema.names:
                known = ", ".join(self.schema.names)
                raise RequestError(f"the table of {self._sink!r} has no column {name!r}; it has {known}")
        schema = self.schema if columns is None else pa.schema([self.schema.field(name) for name in columns])
        start = 0
        for part in self._parts:
            read = pieces(self._uri, part) if columns is None else [_read_columns(self._uri, part, list(columns))]
            for rows in read:
                kept = self._chosen[start : start + rows.num_rows]
                start += rows.num_rows
                if kept.any():
                    yield completed(rows, schema).filter(pa.array(kept)).cast(schema)


def _read_columns(uri: str, part: Part, columns: list[str]) -> pa.Table:
    """Columns of a part. The key is read, too, since a file may have none of the columns."""
    return read_part(uri, part, list(dict.fromkeys([*columns, "uri"])))


def _chosen(uri: str, parts: list[Part], wanted: KeySet | None) -> np.ndarray:
    """For each row of all parts, in order: whether it is its input's newest one, and among the wanted ones."""
    inputs, runs, meant = [np.empty((0, 2), np.uint64)], [], [np.empty(0, bool)]
    for _, rows in scan(uri, parts):
        inputs.append(keys(rows, INPUT_KEY))
        runs.append(rows["run_id"].combine_chunks())
        meant.append(np.ones(rows.num_rows, bool) if wanted is None else wanted.contains(keys(rows, _RUN_KEY)))
    high, low = np.concatenate(inputs).T
    run = pc.call_function(
        "rank",
        [pa.chunked_array(runs, pa.string())],
        pc.RankOptions("descending", tiebreaker="dense"),
    ).to_numpy()
    order = np.lexsort((run, low, high))
    newest = np.ones(len(order), bool)
    newest[order[1:]] = (high[order[1:]] != high[order[:-1]]) | (low[order[1:]] != low[order[:-1]])
    return newest & np.concatenate(meant)
