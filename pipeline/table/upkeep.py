"""Upkeep of a table by hand: back to what it was before a run, and inputs that are forgotten for good."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from urllib.parse import quote

import numpy as np
import pyarrow as pa
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from pipeline import storage
from pipeline.errors import RequestError
from pipeline.json_text import to_json
from pipeline.source.keys import INPUT_KEY, KeySet, keys
from pipeline.storage.threads import ordered
from pipeline.table.delta import Table
from pipeline.table.log import committed_parts, patiently
from pipeline.table.parts import THREADS, Part, scan
from pipeline.table.retention import kept_files, retention, spoken
from pipeline.table.vacuum import vacuum

_FORGOTTEN, _REMOVED = "forgotten", "removed"
_NAMES = pa.schema([(name, pa.string()) for name in INPUT_KEY])


@dataclass(frozen=True, kw_only=True)
class Restored:
    """What a restore did."""

    version: int
    """The version of the table whose rows are current again."""
    files_back: int
    files_gone: int


@dataclass(frozen=True, kw_only=True)
class Earlier:
    """An earlier version of a table, all files of which are there."""

    version: int
    parts: dict[str, Part]
    """Its parts by path."""


def version_before(table: Table, run_id: str) -> Earlier:
    """The newest version of the table before the first commit of a run.

    `RequestError` if the log does not say which that is, if a file of that version is not there any more, or if the
    table does not keep it any more, so that it may be deleted at any time.
    """
    entries = patiently(lambda: table.commits.delta.history())
    mine = [int(entry["version"]) for entry in entries if entry.get("run_id") == run_id]
    if not mine:
        raise RequestError(f"run {run_id!r}: the log of {table.uri} has no commit of it any more, or never had one")
    version, options = min(mine) - 1, storage.delta_options(table.uri)
    try:
        parts = committed_parts(patiently(lambda: DeltaTable(table.uri, version=version, storage_options=options)))
    except (DeltaError, OSError) as reason:
        raise RequestError(f"version {version} of {table.uri} is not there any more") from reason
    if any(part.kept is not None for part in parts):
        raise RequestError(f"version {version} of {table.uri} has deletion vectors of another tool")
    there = ordered(lambda part: storage.exists(part.uri(table.uri)), parts, THREADS)
    lost = [part for part, is_there in zip(parts, there, strict=True) if not is_there]
    if lost:
        raise RequestError(
            f"version {version} of {table.uri} cannot be restored: {len(lost)} of its files are deleted, such as "
            f"{lost[0].path}"
        )
    current, kept = {part.path for part in table.parts()}, kept_files(table.commits.delta)
    expired = [part for part in parts if part.path not in current and part.file not in kept]
    if expired:
        raise RequestError(
            f"version {version} of {table.uri} cannot be restored: {len(expired)} of its files left the table more "
            f"than {spoken(retention(table.commits.delta))} ago, so that they may be deleted at any time, such as "
            f"{expired[0].path}; verify --retention-days keeps files longer"
        )
    return Earlier(version=version, parts={part.path: part for part in parts})


def restore(table: Table, earlier: Earlier, run_id: str) -> Restored:
    """Make the rows of an earlier version current again, in one commit by ``run_id``. `Table.fence` comes first."""

    def plan() -> tuple[list[Part], list[Part], Restored]:
        there = {part.path: part for part in table.parts()}
        back = [part for path, part in earlier.parts.items() if path not in there]
        gone = [part for path, part in there.items() if path not in earlier.parts]
        return back, gone, Restored(version=earlier.version, files_back=len(back), files_gone=len(gone))

    table.commits.apply_vectors(table.parts(), run_id)
    return table.commits.replace(plan, run_id)


@dataclass(frozen=True, kw_only=True)
class Forgotten:
    """What was forgotten."""

    inputs: int
    rows: int
    """Rows that left the table."""
    files: int
    """Files of earlier versions, and of pilots, that held such rows and are deleted."""
    expired: int
    """Files that the table did not keep any more, and that are deleted, whatever was in them."""


def forget(
    table: Table, sink: str, inputs: pa.Table, run_id: str, *, for_good: bool, check: Callable[[], None] = lambda: None
) -> Forgotten:
    """Take the rows of some inputs (columns `INPUT_KEY`) out of the table, and delete all files that have held them.

    ``for_good``: later runs leave these inputs out. Earlier versions of the table cannot be read any more where they
    had them, whatever the table's retention is. Files that are not kept any more are deleted unread. `Table.fence`
    comes first.
    """
    kept_files(table.commits.delta)  # so that a wrong property is a wrong request before anything is written
    chosen = KeySet([keys(inputs, INPUT_KEY)])
    # Before the rows go, so that no run makes them again.
    lines = "".join(to_json(row) + "\n" for row in inputs.select(INPUT_KEY).to_pylist())
    record = storage.join(sink, _FORGOTTEN if for_good else _REMOVED, f"{run_id}.jsonl")
    storage.write(record, lines.encode("utf-8", "surrogatepass"))

    def plan() -> tuple[list[Part], list[Part], int]:
        parts = table.parts()
        keep = {part.path: ~chosen.contains(keys(rows, INPUT_KEY)) for part, rows in scan(table.uri, parts)}
        remove = [part for part in parts if not keep[part.path].all()]
        removed = sum(int((~keep[part.path]).sum()) for part in remove)
        return table.rewritten(remove, keep, run_id), remove, removed

    table.commits.apply_vectors(table.parts(), run_id)
    removed = table.commits.replace(plan, run_id)
    current, deleted = {part.uri(table.uri) for part in table.parts()}, 0
    expired = vacuum(sink)
    for uri in [table.uri, *_pilot_tables(sink)]:
        others = [part for part in _files(uri) if part.uri(uri) not in current]
        for part, rows in scan(uri, others):
            check()
            if chosen.contains(keys(rows, INPUT_KEY)).any():
                storage.delete(part.uri(uri))
                deleted += 1
    return Forgotten(inputs=len(chosen), rows=removed, files=deleted, expired=expired)


def forgotten_inputs(sink: str) -> KeySet:
    """The inputs (`INPUT_KEY`) that runs of a sink leave out for good."""
    return KeySet(found for _, found in _recorded(sink, _FORGOTTEN))


def removals(sink: str) -> list[tuple[str, np.ndarray]]:
    """What `forget` has removed from a sink, for good or not: its name among the runs, and the inputs (`INPUT_KEY`)."""
    return [*_recorded(sink, _FORGOTTEN), *_recorded(sink, _REMOVED)]


def _recorded(sink: str, kind: str) -> Iterator[tuple[str, np.ndarray]]:
    folder = storage.join(sink, kind)
    for name in storage.names(folder):
        rows = pa.Table.from_pylist(_records(storage.read(storage.join(folder, name))), schema=_NAMES)
        yield name.removesuffix(".jsonl"), keys(rows, INPUT_KEY)


def _records(data: bytes) -> list[dict[str, str | None]]:
    return [json.loads(line) for line in data.decode("utf-8", "surrogatepass").splitlines() if line]


def _pilot_tables(sink: str) -> list[str]:
    folder = storage.join(sink, "pilots")
    return [storage.join(folder, name, "table") for name in storage.names(folder)]


def _files(uri: str) -> Iterator[Part]:
    """All files below a table, whether a version names them or not."""
    for model in storage.names(uri):
        if model.startswith("model="):
            for page in storage.walk(storage.join(uri, model)):
                for file, size in zip(page["uri"].to_pylist(), page["size"].to_pylist(), strict=True):
                    yield Part(path=quote(file[len(uri) + 1 :]), size=size, rows=None, model=None)
