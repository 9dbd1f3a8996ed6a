"""The log of a Delta table, read by delta-rs, with retries if the store fails.

Other tools write to the log, too: they compact a table, delete rows or add columns.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import unquote

import pyarrow as pa
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, TableNotFoundError

from pipeline import storage
from pipeline.errors import InputError, RequestError
from pipeline.storage.columnar import ParquetReader
from pipeline.table.parts import Part

T = TypeVar("T")

#: The column by which a table is partitioned.
PARTITION = "model"
#: The custom metadata of a commit by which this project knows its own.
TOKEN = "commit"

_COMMIT = re.compile(r"\d{20}\.json")

_READ_DEADLINE_S = 60.0
_NEWEST = 8  # commits that are looked at for two of one process
_MAX_CHANGES = 1000  # each is a file of the log to read
_UNKNOWN_SCHEME = "Unable to recognise URL"  # delta-rs has no type for it
# delta-rs takes a path for a part of a URL: it decodes percent signs, and refuses these characters or reads them as a
# slash. Where the decoded folder holds a table, it would take that one.
_NOT_IN_NAMES = re.compile(r"%[0-9A-Fa-f]{2}|[\\\[\]^|\x00-\x1f\x7f]")
_VECTORS = "deletionVectors"
#: Features of tables that change nothing for a reader that reads a table by its log.
_HARMLESS_FEATURES = {_VECTORS, "timestampNtz", "v2Checkpoint", "vacuumProtocolCheck"}


@dataclass(frozen=True, kw_only=True)
class Change:
    """A commit that another tool made."""

    version: int
    operation: str

    def __str__(self) -> str:
        return f"{self.operation} (version {self.version})"


def opened(uri: str) -> DeltaTable | None:
    """The table at a URI, or None if there is none.

    `RequestError` if it cannot be opened, if no table can be kept there, or if another tool has changed its layout so
    that this project cannot read it.
    """
    found = _NOT_IN_NAMES.search(uri)
    if found is not None:
        raise RequestError(
            f"no table can be kept at {uri!r}: its name must not contain {found[0]!r}, since the Delta library takes "
            "a name for a URL"
        )
    try:
        storage.is_folder(storage.join(uri, "_delta_log"))  # delta-rs would try for minutes where nobody may read
    except PermissionError as reason:
        raise RequestError(f"the table at {uri} cannot be opened: the store refuses access") from reason
    options = storage.delta_options(uri)
    try:
        delta = patiently(lambda: DeltaTable(uri, storage_options=options))
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
    _check_layout(delta, uri)
    return delta


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
    columns = ["path", "size_bytes", "num_records", f"partition.{PARTITION}"]
    actions = pa.table(patiently(lambda: delta.get_add_actions(flatten=True)))
    if not actions.num_rows:
        return []
    vectors = _deletion_vectors(delta)
    values = zip(*(actions[name].to_pylist() for name in columns), strict=True)
    parts = [
        Part(path=path, size=size, rows=rows, model=model, kept=vectors.pop(_location(delta, path), None))
        for path, size, rows, model in values
    ]
    if vectors:
        raise RequestError(f"the table at {delta.table_uri} has a deletion vector for no file: {min(vectors)}")
    return parts


def named_files(delta: DeltaTable) -> set[str]:
    """The paths of all files that some version of the table refers to, as they are below the table's folder."""
    # Files that a later version removed are kept for readers of earlier versions.
    removed = removed_files(delta)
    return {part.file for part in committed_parts(delta)} | {unquote(path) for path in removed} | removed


def removed_files(delta: DeltaTable, *, only_expired: bool = False) -> set[str]:
    """The paths of files that have left the table, and that the log still names, as they are in the log.

    ``only_expired``: those that left it longer ago than the table's retention (`pipeline.table.retention`).
    """
    # delta-rs tells them only as what a vacuum would delete. Without a number of hours it goes by the table's property.
    hours = None if only_expired else 0
    return set(patiently(lambda: delta.vacuum(hours, dry_run=True, enforce_retention_duration=False)))


def changes_of_others(delta: DeltaTable, since: int) -> list[Change]:
    """The commits after version ``since`` that another tool made, oldest first. At most 1000 commits are looked at."""
    newer = min(_MAX_CHANGES, delta.version() - since)
    entries = patiently(lambda: delta.history(newer)) if newer > 0 else []
    return [
        Change(version=entry["version"], operation=str(entry.get("operation")))
        for entry in reversed(entries)
        if TOKEN not in entry and not (entry["version"] == 0 and entry.get("operation") == "CREATE TABLE")
    ]


def properties_of(delta: DeltaTable) -> dict[str, str]:
    """The properties of the table, such as ``delta.appendOnly``."""
    return {name: value for name, value in delta.metadata().configuration.items() if value is not None}


def durable_commits(delta: DeltaTable) -> set[str]:
    """The names of commits in a local log that a power cut cannot take any more.

    A process of this project brings the whole log to the disk after each of its commits. So if one of the newest
    commits was followed by another of the same run, the log is on the disk up to the first of the two. Without this, a
    run would begin by bringing every file of the log to the disk again.
    """
    later: set[str] = set()
    for entry in patiently(lambda: delta.history(_NEWEST)):
        if TOKEN in entry and entry["run_id"] in later:
            return {f"{version:020d}.json" for version in range(entry["version"] + 1)}
        later |= {entry["run_id"]} if TOKEN in entry else set()
    return set()


def columns_of(delta: DeltaTable) -> pa.Schema:
    """The columns of the table. `RequestError` if one has an Arrow extension type, since pyarrow would run its code."""
    found = delta.schema()
    if "ARROW:extension:name" in found.to_json():
        raise RequestError(f"the table at {delta.table_uri} has a column with an Arrow extension type")
    return pa.schema(found.to_arrow())


def patiently(run: Callable[[], T]) -> T:
    """Call ``run``, again if the store failed. delta-rs itself does not retry a read whose answer was cut off."""
    return storage.retry(lambda _: run(), _judge, _READ_DEADLINE_S)


def _check_layout(delta: DeltaTable, uri: str) -> None:
    """`RequestError` if files of the table cannot be read as they are, or are not where this project looks."""
    partition_by = delta.metadata().partition_columns
    if partition_by != [PARTITION]:
        raise RequestError(
            f"the table at {uri} must be partitioned by {PARTITION!r}; another tool has partitioned it by "
            f"{', '.join(map(repr, partition_by)) or 'nothing'}"
        )
    unknown = {*(delta.protocol().reader_features or [])} - _HARMLESS_FEATURES
    if unknown:
        raise RequestError(
            f"the table at {uri} has features that another tool has added and this version cannot read: "
            f"{', '.join(sorted(unknown))}"
        )


def _deletion_vectors(delta: DeltaTable) -> dict[str, list[bool]]:
    """For each file with a deletion vector, which of its rows are left."""
    if _VECTORS not in (delta.protocol().reader_features or []):
        return {}
    found = patiently(lambda: pa.table(delta.deletion_vectors()))
    pairs = zip(found["filepath"].to_pylist(), found["selection_vector"].to_pylist(), strict=True)
    return {unquote(uri).removeprefix("file://"): kept for uri, kept in pairs}


def _location(delta: DeltaTable, path: str) -> str:
    table = unquote(delta.table_uri).removeprefix("file://").rstrip("/")
    return unquote(path) if "://" in path else f"{table}/{unquote(path)}"


def _judge(reason: Exception) -> storage.Verdict:
    is_final = isinstance(reason, FileNotFoundError | PermissionError) or not isinstance(reason, OSError)
    is_final |= _UNKNOWN_SCHEME in str(reason)
    return "final" if is_final else "transient"
