"""Repair: the table of a sink as other tools have left it, made one again that all readers and runs can use."""

from __future__ import annotations

import pyarrow as pa

from pipeline.images import outputs as images
from pipeline.table.delta import Table
from pipeline.table.lease import Lease
from pipeline.table.log import columns_of
from pipeline.table.mending import mend
from pipeline.table.names import run_name
from pipeline.table.readers import open_delta
from pipeline.table.schema import TableSchema, plain_type, with_huggingface_features


def open_table(sink: str) -> Table:
    """The table of a sink, of either kind. `RequestError` if there is none."""
    found = columns_of(open_delta(sink))
    columns = pa.schema([field.with_type(plain_type(field.type)) for field in found])
    is_of_images = "mask" in columns.names
    schema = TableSchema(
        columns=with_huggingface_features(columns, images.HUGGINGFACE_FEATURES if is_of_images else {}),
        result="mask" if is_of_images else "paragraphs",
        stored_as_is=images.STORED_AS_IS if is_of_images else (),
    )
    return Table(sink, schema)


def repair(table: Table, lease: Lease) -> dict[str, int]:
    """Mend a table (`mending.mend`) while its lease is held; returns the numbers of what was mended."""
    name = run_name(table.last_run_id())
    table.fence(lease.number, name)
    return mend(table, name)
