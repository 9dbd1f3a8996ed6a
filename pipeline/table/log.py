"""The log of a Delta table, read by delta-rs, with retries if the store fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import pyarrow as pa
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, TableNotFoundError

from pipeline import storage
from pipeline.errors import RequestError
from pipeline.table.parts import Part

T = TypeVar("T")

_READ_DEADLINE_S = 60.0
_UNKNOWN_SCHEME = "Unable to recognise URL"  # delta-rs has no type for it


def opened(uri: str) -> DeltaTable | None:
    """The table at a URI, or None if there is none. `RequestError` if it cannot be opened."""
    options = storage.delta_options(uri)
    try:
        return patiently(lambda: DeltaTable(uri, storage_options=options))
    except TableNotFoundError:
        return None
    except DeltaError as reason:
        raise RequestError(f"the table at {uri} cannot be opened") from reason
    except OSError as reason:
        if _UNKNOWN_SCHEME in str(reason):
            scheme = uri.partition("://")[0]
            raise RequestError(f"the table at {uri} cannot be opened: tables cannot be kept at {scheme}://") from reason
        raise


def committed_parts(delta: DeltaTable) -> list[Part]:
    """The part files in the table's newest version."""
    columns = ["path", "size_bytes", "num_records", "partition.model"]
    actions = pa.table(patiently(lambda: delta.get_add_actions(flatten=True)).select(columns))
    values = zip(*(actions[name].to_pylist() for name in columns), strict=True)
    return [Part(path=path, size=size, rows=rows, model=model) for path, size, rows, model in values]


def columns_of(delta: DeltaTable) -> pa.Schema:
    """The columns of the table. `RequestError` if one has an Arrow extension type, since pyarrow would run its code."""
    found = delta.schema()
    if "ARROW:extension:name" in found.to_json():
        raise RequestError(f"the table at {delta.table_uri} has a column with an Arrow extension type")
    return pa.schema(found.to_arrow())


def patiently(run: Callable[[], T]) -> T:
    """Call ``run``, again if the store failed. delta-rs itself does not retry a read whose answer was cut off."""
    return storage.retry(lambda _: run(), _judge, _READ_DEADLINE_S)


def _judge(reason: Exception) -> storage.Verdict:
    is_final = isinstance(reason, FileNotFoundError | PermissionError) or not isinstance(reason, OSError)
    is_final |= _UNKNOWN_SCHEME in str(reason)
    return "final" if is_final else "transient"
