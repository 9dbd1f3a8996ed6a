"""The earlier runs of a sink: how they ended, and which of their rows are not there any more."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipeline import storage
from pipeline.runs.life import read_json
from pipeline.source.keys import INPUT_KEY, KeySet, keys
from pipeline.storage.columnar import own_file, read_parquet
from pipeline.storage.threads import ordered
from pipeline.table.manifest import Manifest

_THREADS = 16


@dataclass(frozen=True, kw_only=True)
class EarlierRun:
    """A run that had the sink before."""

    name: str
    folder: str
    """Its URI."""
    is_done: bool
    """Whether it ended with exit code 0. Then each input that it listed had a row."""
    table_version: int
    """The version of the table at its end; 0 if it is not known."""


def earlier_runs(sink: str, own_name: str) -> list[EarlierRun]:
    """The runs of a sink, oldest first, without that of this name."""
    runs = storage.join(sink, "runs")

    def describe(name: str) -> EarlierRun:
        folder = storage.join(runs, name)
        summary = read_json(storage.join(folder, "summary.json")) or {}
        version = summary.get("table_version", 0)
        return EarlierRun(
            name=name,
            folder=folder,
            is_done=summary.get("exit_code") == 0,
            table_version=version if isinstance(version, int) else 0,
        )

    return list(ordered(describe, (name for name in storage.names(runs) if name != own_name), _THREADS))


def deleted_rows(manifest: Manifest, present: KeySet, finished: list[EarlierRun]) -> int:
    """How many pending inputs of a manifest had a row after one of the ``finished`` runs, and have none now.

    ``present``: the `INPUT_KEY` of all rows of the table.
    """
    pending = [
        keys(rows.filter(rows["pending"]), INPUT_KEY) for rows in manifest.rows() if rows["pending"].to_numpy().any()
    ]
    missing = np.concatenate(pending) if pending else np.empty((0, 2), np.uint64)
    missing = missing[~present.contains(missing)]
    found = 0
    for run in reversed(finished):
        for shard in storage.names(storage.join(run.folder, "manifest")):
            if not len(missing):
                return found
            where = storage.join(run.folder, "manifest", shard)
            with own_file(where):
                rows: pa.Table = read_parquet(storage.read(where), INPUT_KEY)
            listed = KeySet([keys(rows, INPUT_KEY)]).contains(missing)
            found += int(listed.sum())
            missing = missing[~listed]
    return found
