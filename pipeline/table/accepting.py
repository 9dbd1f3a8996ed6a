"""Accepting a pilot: its rows become the current ones of their inputs in the table that it was compared with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipeline import storage
from pipeline.source.keys import INPUT_KEY, VERSION_KEY, KeySet, keys
from pipeline.table.delta import Table
from pipeline.table.log import properties_of
from pipeline.table.parts import Part, PartWriter, gathered, pieces, scan
from pipeline.table.readers import open_delta, parts_of
from pipeline.table.schema import property_of
from pipeline.table.supersede import run_ids


@dataclass(frozen=True, kw_only=True)
class Accepted:
    """What was accepted, in numbers of rows."""

    accepted: int
    removed: int
    """Older rows of the same inputs that left the table."""
    outdated: int
    """Rows of the pilot that were left out, since a later run has listed another version of the input."""


def accept(table: Table, pilot: str, run_id: str) -> Accepted:
    """Copy the rows of a pilot into the table, with the name ``run_id``, and remove the older rows of the same inputs,
    in one commit. ``pilot``: the URI of its sink. `Table.fence` comes first."""
    uri = storage.join(pilot, "table")

    def plan() -> tuple[list[Part], list[Part], Accepted]:
        candidates = list(scan(uri, parts_of(pilot)))
        inputs = KeySet(keys(rows, INPUT_KEY) for _, rows in candidates)
        versions = KeySet(keys(rows, VERSION_KEY) for _, rows in candidates)
        newest = max((max(run_ids(rows).tolist()) for _, rows in candidates if rows.num_rows), default="")
        parts, newer = table.parts(), []
        for _, rows in scan(table.uri, parts):
            is_other = inputs.contains(keys(rows, INPUT_KEY)) & ~versions.contains(keys(rows, VERSION_KEY))
            newer.append(keys(rows, INPUT_KEY)[is_other & (run_ids(rows) > newest)])
        outdated = KeySet(newer)
        add, accepted, left_out = [], [], 0
        for part, rows in candidates:
            mine = keys(rows, INPUT_KEY)
            good = ~outdated.contains(mine)
            accepted.append(mine[good])
            left_out += int((~good).sum())
            add += _copied(table, uri, part, good, run_id)
        replaced = KeySet(accepted)
        keep = {part.path: ~replaced.contains(keys(rows, INPUT_KEY)) for part, rows in scan(table.uri, parts)}
        remove = [part for part in parts if not keep[part.path].all()]
        removed = sum(int((~keep[part.path]).sum()) for part in remove)
        found = Accepted(accepted=len(replaced), removed=removed, outdated=left_out)
        return [*add, *table.rewritten(remove, keep, run_id)], remove, found

    table.commits.apply_vectors(table.parts(), run_id)
    theirs = properties_of(open_delta(pilot))
    table.set_properties({name: value for name, value in theirs.items() if name.startswith(property_of(""))}, run_id)
    return table.commits.replace(plan, run_id)


def _copied(table: Table, uri: str, part: Part, good: np.ndarray, run_id: str) -> list[Part]:
    """The good rows of a pilot's part as a part of the table."""
    if not good.any():
        return []
    writer, start = PartWriter(table.uri, table.schema_of(part, uri), run_id, part.model), 0
    for rows in gathered(pieces(uri, part)):
        end = start + rows.num_rows
        kept = rows.filter(pa.array(good[start:end]))
        place = kept.column_names.index("run_id")
        writer.add(kept.set_column(place, "run_id", pa.array([run_id] * kept.num_rows, kept.schema.field(place).type)))
        start = end
    return [writer.close()]
