"""Log: the transactions of a Delta table, as delta-rs reads them, asked again where the store failed."""

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


def opened(uri: str) -> DeltaTable | None:
    """The table at a URI, or None where there is none. `RequestError` where it cannot be opened."""
    options = storage.delta_options(uri)
    try:
        return patiently(lambda: DeltaTable(uri, storage_options=options))
    except TableNotFoundError:
        return None
    except DeltaError as reason:
        raise RequestError(f"the table at {uri} cannot be opened") from reason


def committed_parts(delta: DeltaTable) -> list[Part]:
    """The part files of the table's newest version."""
    actions = pa.table(patiently(lambda: delta.get_add_actions(flatten=True)))
    columns = ("path", "size_bytes", "num_records", "partition.model")
    values = zip(*(actions[name].to_pylist() for name in columns), strict=True)
    return [Part(path=path, size=size, rows=rows, model=model) for path, size, rows, model in values]


def patiently(run: Callable[[], T]) -> T:
    """What delta-rs is asked for, again where the store failed: it does not repeat a read whose answer was cut off."""
    return storage.retry(lambda _: run(), _judge, _READ_DEADLINE_S)


def _judge(reason: Exception) -> storage.Verdict:
    is_final = isinstance(reason, FileNotFoundError | PermissionError) or not isinstance(reason, OSError)
    return "final" if is_final else "transient"
