"""Mending: undoing what other tools have done to a table, where readers or later runs would suffer from it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from pipeline import storage
from pipeline.source.keys import GrowingKeySet, keys
from pipeline.storage.columnar import ParquetReader, own_file
from pipeline.storage.threads import ordered
from pipeline.table.delta import Table
from pipeline.table.parts import THREADS, Part, scan
from pipeline.table.supersede import ROW_KEY


def mend(table: Table, run_id: str) -> dict[str, int]:
    """Mend a table whose `fence` was called; returns the numbers of what was mended.

    ``missing``: files that are not there, and that are taken out of the log, so that the next run makes their rows
    again. ``rewritten``: files of other tools, written again as this project does, with what marks a mask as a picture.
    ``doubled``: rows that were there twice, as a compaction beside a run of an earlier version has left them.
    """
    missing = []
    delta = table.commits.delta
    if delta.repair(dry_run=True)["files_removed"]:
        table.commits.once(lambda made: missing.extend(delta.repair(commit_properties=made)["files_removed"]), run_id)
    table.commits.apply_vectors(table.parts(), run_id)

    def plan() -> tuple[Sequence[Part], Sequence[Part], dict[str, int]]:
        parts = table.parts()
        keep = _first_of_each(table.uri, parts)
        foreign = set(foreign_files(table.uri, parts))
        remove = [part for part in parts if part.path in foreign or not keep[part.path].all()]
        counts = {"rewritten": len(foreign), "doubled": sum(int((~kept).sum()) for kept in keep.values())}
        return table.rewritten(remove, keep, run_id), remove, counts

    return {"missing": len(missing)} | table.commits.replace(plan, run_id)


def foreign_files(table_uri: str, parts: Sequence[Part]) -> list[str]:
    """The paths of files that another tool wrote. They lack what tells readers of Parquet that a mask is a picture."""

    def is_foreign(part: Part) -> bool:
        uri = part.uri(table_uri)
        with own_file(uri), storage.open_file(uri) as file:
            return is_foreign_schema(ParquetReader(file).schema)

    return [part.path for part, found in zip(parts, ordered(is_foreign, parts, THREADS), strict=True) if found]


def is_foreign_schema(schema: pa.Schema) -> bool:
    """Whether a file with this schema was written by another tool, which leaves out the metadata of this project."""
    return b"huggingface" not in (schema.metadata or {})


def _first_of_each(table_uri: str, parts: Sequence[Part]) -> dict[str, np.ndarray]:
    """For the path of each part, which of its rows come for the first time: booleans (rows,)."""
    keep: dict[str, np.ndarray] = {}
    seen: dict[str | None, GrowingKeySet] = {}
    for part, rows in scan(table_uri, parts):
        found, known = keys(rows, ROW_KEY), seen.setdefault(part.model, GrowingKeySet())
        keep[part.path] = known.new(found)
        known.add(found[keep[part.path]])
    return keep
