"""Compaction: joins small files of a table to larger ones, as this project writes them. No row changes.

A commit joins the files of one group. Between two commits the table is whole, so whatever ends a compaction leaves at
most the new file of a group, which no version of the table names; `Table.remove_orphans` and `vacuum` delete it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import pyarrow as pa

from pipeline import storage
from pipeline.errors import JobFailed
from pipeline.source.keys import KeySet, keys
from pipeline.storage.threads import ordered
from pipeline.table.delta import Table
from pipeline.table.parts import WHOLE_BYTES, Part, PartWriter, gathered, pieces, read_part, scan
from pipeline.table.supersede import ROW_KEY

#: Size of the files that are made. A file is rewritten as a whole when one of its rows is superseded, so larger ones
#: make small changes dear; 10^7 masks of 30 kB are 2,300 files of this size, which costs a reader nothing.
TARGET_BYTES = 128 << 20
#: A run compacts if its model has so many small files, which are those below a quarter of `TARGET_BYTES`.
MANY = 100

_MAX_ROWS = 1 << 17  # of a file, so that the keys of several files fit into memory
_GROUPS_AT_ONCE = 2  # files in memory
_READ_AHEAD = 4  # small files that are read while others are written


@dataclass(frozen=True, kw_only=True)
class Compacted:
    """What a compaction did."""

    before: int
    """Files that were joined."""
    after: int
    """Files that they became."""
    rows: int
    """Rows in those files."""


def is_fragmented(table: Table, model: str) -> bool:
    """Whether a model has so many small files that a run should join them."""
    found = (part for group in groups(table.parts(), TARGET_BYTES) for part in group if part.model == model)
    return sum(1 for _ in found) >= MANY


def groups(parts: Sequence[Part], target_bytes: int) -> list[list[Part]]:
    """Which files to join: files of one model that are smaller than a quarter of the target, oldest first.

    A group has at least two files, and at most ``target_bytes`` and 131,072 rows. So of the files that are made of the
    groups only the last of each model can be small again. Files with deletion vectors are left to ``verify --repair``.
    """
    small = [part for part in parts if 4 * part.size < target_bytes and part.kept is None and part.rows is not None]
    found: list[list[Part]] = []
    for _, mine in groupby(sorted(small, key=_age), key=lambda part: part.model):
        group: list[Part] = []
        size = rows = 0
        for part in mine:
            if size + part.size > target_bytes or rows + (part.rows or 0) > _MAX_ROWS:
                found.append(group)
                group, size, rows = [], 0, 0
            group.append(part)
            size, rows = size + part.size, rows + (part.rows or 0)
        found.append(group)
    return [group for group in found if len(group) > 1]


def compact(
    table: Table,
    run_id: str,
    *,
    model: str | None = None,
    target_bytes: int = TARGET_BYTES,
    check: Callable[[], None] = lambda: None,
) -> Compacted:
    """Join the small files of a table whose `fence` was called. ``run_id`` begins the names of the new files.

    ``model``: only its files; None: those of all. ``check`` is called before each commit and may raise.

    In memory are at most two new files with some pieces of each (`pipeline.table.parts`): 540 MB more than before were
    measured for masks of 100 kB and the default target. A group of which another tool has replaced a file meanwhile is
    left as it is.
    """
    wanted = [group for group in groups(table.parts(), target_bytes) if model is None or group[0].model == model]
    before = after = rows = 0
    for group, new in ordered(lambda group: (group, _joined(table, group, run_id)), wanted, _GROUPS_AT_ONCE):
        check()
        if new is None or not _commit(table, group, new, run_id):
            continue
        before, after, rows = before + len(group), after + 1, rows + _rows(group)
    return Compacted(before=before, after=after, rows=rows)


def _commit(table: Table, group: Sequence[Part], new: Part, run_id: str) -> bool:
    """Put the new file in the place of the group. False if a file of the group is not in the table any more."""

    def plan() -> tuple[Sequence[Part], Sequence[Part], bool]:
        named = {part.path: part for part in table.parts()}
        if all(named.get(part.path) == part for part in group):
            return [new], group, True
        return [], [], False

    is_done = table.commits.replace(plan, run_id, changes_rows=False)
    if not is_done:
        storage.delete(new.uri(table.uri))
    return is_done


def _joined(table: Table, group: Sequence[Part], run_id: str) -> Part | None:
    """Write the rows of a group as one file. None if a file of the group is gone.

    `JobFailed` if a file of the group has not as many rows as the log says, or if the new file, as it is read back from
    the store, has not the same rows as were read from the group.
    """
    read = []
    try:
        # All are of one model, so what the newest says of its values holds for all. Older ones may say nothing.
        writer = PartWriter(table.uri, table.schema_of(group[-1]), run_id, group[0].model)
        for rows in gathered(_pieces(table.uri, group)):
            fitted = table.schema.fitted(rows)
            read.append(keys(fitted, ROW_KEY))
            writer.add(fitted)
    except FileNotFoundError:
        return None
    new = writer.close()
    written = [keys(rows, ROW_KEY) for _, rows in scan(table.uri, [new])]
    if not np.array_equal(KeySet(read).keys, KeySet(written).keys):
        raise JobFailed(f"{new.path} has other rows than the {len(group)} files that it was made of; these stay")
    return new


def _pieces(table_uri: str, group: Sequence[Part]) -> Iterator[pa.Table]:
    """The rows of all files of a group, in order. Small files are read ahead."""
    for is_small, parts in groupby(group, key=lambda part: part.size <= WHOLE_BYTES):
        every = list(parts)
        found = (
            ((part, iter([rows])) for part, rows in zip(every, _small(table_uri, every), strict=True))
            if is_small
            else ((part, pieces(table_uri, part)) for part in every)
        )
        for part, tables in found:
            count = 0
            for rows in tables:
                count += rows.num_rows
                yield rows
            if count != part.rows:
                raise JobFailed(f"{part.path} has {count} rows, the log says {part.rows}; see verify")


def _small(table_uri: str, parts: Sequence[Part]) -> Iterator[pa.Table]:
    return ordered(lambda part: read_part(table_uri, part), parts, _READ_AHEAD)


def _age(part: Part) -> tuple[str, str]:
    return part.model or "", part.file.rpartition("/")[2]  # a file's name begins with that of its run


def _rows(parts: Sequence[Part]) -> int:
    return sum(part.rows or 0 for part in parts)
