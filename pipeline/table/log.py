"""The log of a Delta table, read by delta-rs, with retries if the store fails."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable
from typing import TypeVar

import pyarrow as pa
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, TableNotFoundError

from pipeline import storage
from pipeline.errors import InputError, RequestError
from pipeline.storage.columnar import ParquetReader
from pipeline.table.parts import Part

T = TypeVar("T")

_COMMIT = re.compile(r"\d{20}\.json")

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
        why = "; its log ends in files that a power cut took, and the next run removes them" if lost_files(uri) else ""
        raise RequestError(f"the table at {uri} cannot be opened{why}") from reason
    except OSError as reason:
        if _UNKNOWN_SCHEME in str(reason):
            scheme = uri.partition("://")[0]
            raise RequestError(f"the table at {uri} cannot be opened: tables cannot be kept at {scheme}://") from reason
        raise


def lost_files(uri: str) -> list[str]:
    """The files at the end of a local log that a power cut took: no run that ended with 0 has said what was in them.

    These are the newest commits, as long as they are empty or no JSON, and checkpoints that are no Parquet files, if
    the log has all commits before them. Other stores have a whole object or none.
    """
    folder = storage.join(uri, "_delta_log")
    if not storage.is_local(folder):
        return []
    names = storage.names(folder)
    commits = sorted(name for name in names if _COMMIT.fullmatch(name))
    whole = list(itertools.takewhile(lambda name: not _is_commit(storage.join(folder, name)), reversed(commits)))
    lost = [storage.join(folder, name) for name in whole]
    checkpoints = [name for name in names if name.endswith(".checkpoint.parquet")]
    broken = [name for name in checkpoints if not _is_parquet(storage.join(folder, name))]
    if broken and [int(name[:20]) for name in commits] == list(range(len(commits))):
        lost += [storage.join(folder, name) for name in (*broken, "_last_checkpoint")]
    return lost


def _is_commit(uri: str) -> bool:
    try:
        lines = [json.loads(line) for line in storage.read(uri).splitlines()]
    except ValueError:
        return False
    return bool(lines)


def _is_parquet(uri: str) -> bool:
    with storage.open_file(uri) as file:
        try:
            return ParquetReader(file).metadata.num_columns > 0
        except (InputError, pa.ArrowException, ValueError, OSError):
            return False


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
