"""The earlier runs of a sink: what they were, how they ended, and which of their rows are not there any more."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any

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

    @cached_property
    def config(self) -> dict[str, Any]:
        """What it was to do, as ``config.json`` says; empty if it is not there."""
        return read_json(storage.join(self.folder, "config.json")) or {}

    @cached_property
    def summary(self) -> dict[str, Any]:
        """How it ended, as ``summary.json`` says; empty if it has not ended, or was killed."""
        return read_json(storage.join(self.folder, "summary.json")) or {}

    @property
    def is_done(self) -> bool:
        """Whether it ended with exit code 0. Then each input that it listed had a row."""
        return self.summary.get("exit_code") == 0

    @property
    def sources(self) -> list[str]:
        """The URIs of its sources, also if it was killed; empty if it has listed none, as an accept or a restore."""
        if self.summary:
            return self.summary.get("source", [])
        return [storage.canonical(source) for source in self.config.get("source", ())]

    @property
    def is_whole(self) -> bool:
        """Whether it was to list all of its sources."""
        limit = self.config.get("run", {}).get("limit")
        return limit is None and not self.config.get("selection")

    @property
    def table_version(self) -> int:
        """The version of the table at its end; 0 if it is not known."""
        version = self.summary.get("table_version", 0)
        return version if isinstance(version, int) else 0

    def listed(self) -> Iterator[pa.Table]:
        """The inputs that it has listed, with the columns `INPUT_KEY`."""
        manifest = storage.join(self.folder, "manifest")
        for shard in storage.names(manifest):
            where = storage.join(manifest, shard)
            with own_file(where):
                yield read_parquet(storage.read(where), INPUT_KEY)


def newest_first(sink: str, *, before: str | None = None) -> Iterator[EarlierRun]:
    """The runs of a sink, or those before a name, the newest first. Nothing of a run is read until it is asked for."""
    runs = storage.join(sink, "runs")
    for name in reversed(storage.names(runs)):
        if before is None or name < before:
            yield EarlierRun(name=name, folder=storage.join(runs, name))


def newest_config(sink: str, model: str | None = None, *, before: str | None = None) -> dict[str, Any]:
    """The configuration of the newest run of a sink, of one with this model, or of one before a name. Empty if there is
    none."""
    configs = (run.config for run in newest_first(sink, before=before))
    return next((found for found in configs if found.get("digest") and model in (None, found["digest"])), {})


def runs_since_done(sink: str, own_name: str) -> list[EarlierRun]:
    """The newest runs of a sink, newest first, without that of this name: up to one that has segmented and is done, or
    all of them. Their summaries are read, several at the same time, so a few older ones may follow.

    What runs before them have left behind, the one that is done has deleted. So a sink with a thousand runs takes no
    longer than one with ten.
    """

    def read(run: EarlierRun) -> EarlierRun:
        _ = run.summary
        return run

    others = (run for run in newest_first(sink) if run.name != own_name)
    found: list[EarlierRun] = []
    while wave := list(islice(others, _THREADS)):
        found += ordered(read, wave, _THREADS)
        if any(run.is_done and "source" in run.summary for run in wave):  # no accept, restore or forget
            break
    return found


def deleted_rows(manifest: Manifest, present: KeySet, finished: Iterable[EarlierRun]) -> int:
    """How many pending inputs of a manifest had a row after one of the ``finished`` runs, and have none now.

    ``present``: the `INPUT_KEY` of all rows of the table. ``finished``: the newest first, whose rows are the likeliest;
    the others are not asked for once all inputs are found.
    """
    pending = [
        keys(rows.filter(rows["pending"]), INPUT_KEY) for rows in manifest.rows() if rows["pending"].to_numpy().any()
    ]
    missing = np.concatenate(pending) if pending else np.empty((0, 2), np.uint64)
    missing = missing[~present.contains(missing)]
    found = 0
    for run in finished:
        for rows in run.listed():
            if not len(missing):
                return found
            listed = KeySet([keys(rows, INPUT_KEY)]).contains(missing)
            found += int(listed.sum())
            missing = missing[~listed]
    return found
