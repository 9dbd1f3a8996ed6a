"""Tables of any kind, opened by commands that are no runs: to look at them, to mend them, to change them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pyarrow as pa

from pipeline.images import outputs as images
from pipeline.table.delta import Table
from pipeline.table.lease import Lease, alone
from pipeline.table.log import columns_of
from pipeline.table.names import run_name
from pipeline.table.readers import open_delta
from pipeline.table.schema import TableSchema, plain_type, with_huggingface_features

#: Columns of results. A table has one of them, which says of what kind it is.
RESULTS = ("mask", "label", "paragraphs")


def open_table(sink: str) -> Table:
    """The table of a sink, of any kind. `RequestError` if there is none."""
    found = columns_of(open_delta(sink))
    columns = pa.schema([field.with_type(plain_type(field.type)) for field in found])
    is_of_images = "mask" in columns.names
    schema = TableSchema(
        columns=with_huggingface_features(columns, images.HUGGINGFACE_FEATURES if is_of_images else {}),
        result=next((name for name in RESULTS if name in columns.names), RESULTS[-1]),
        stored_as_is=images.STORED_AS_IS if is_of_images else (),
    )
    return Table(sink, schema)


@dataclass(frozen=True, kw_only=True)
class Held:
    """A table that a command changes by hand, while no run can."""

    table: Table
    name: str
    """The command's name among the runs."""
    lease: Lease


@contextmanager
def by_hand(sink: str, purpose: str, lease_s: float) -> Iterator[Held]:
    """Hold the table of a sink, of any kind, for a command that is no run. Raises as `open_table` and `alone` do."""
    table = open_table(sink)
    with alone(sink, purpose, lease_s, after=table.last_lease()) as lease:
        name = run_name(table.last_run_id())
        table.fence(lease.number, name)
        yield Held(table=table, name=name, lease=lease)
