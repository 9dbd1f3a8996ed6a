"""Forget: remove inputs from a table, and their bytes from its files."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from jobs.cli import main
from jobs.console import say
from pipeline import storage
from pipeline.config import check, to_dict
from pipeline.errors import DONE, RequestError
from pipeline.quality.repair import open_table
from pipeline.runs.life import read_json, store_json
from pipeline.source.keys import INPUT_KEY, KeySet, keys
from pipeline.storage import StorageConfig
from pipeline.storage.columnar import own_file, read_parquet
from pipeline.table.lease import alone
from pipeline.table.names import run_name
from pipeline.table.queries import rows_where
from pipeline.table.upkeep import forget


@dataclass(frozen=True, kw_only=True)
class Forget:
    """Remove inputs from a table: their rows leave, all files that have held them are deleted, also those of earlier
    versions and of pilots, and later runs leave these inputs out for good. Listings and reports of runs still name
    them."""

    sink: str
    """URI of the sink: the table is SINK/table."""
    where: str | None = None
    """SQL condition on the rows of the inputs, such as "uri = 's3://bucket/a.png'" or "uri like '%/private/%'"."""
    gone: bool = False
    """Inputs that the newest finished run did not find, among those that an earlier run of the same sources listed.
    They are removed, but not left out for good."""
    lease_s: float = 30.0
    """Seconds without renewal after which the lease of a run on another machine counts as abandoned."""
    storage: StorageConfig = field(default_factory=StorageConfig)

    def __post_init__(self) -> None:
        check(self, "where", (self.where is None) == self.gone, "be given, or gone, and not both")
        check(self, "lease_s", self.lease_s > 0, "be positive")


def work(settings: Forget) -> dict[str, Any]:
    table = open_table(settings.sink)
    chosen = _gone(settings.sink) if settings.where is None else rows_where(settings.sink, settings.where)
    summary: dict[str, Any] = {"table": table.uri, "status": "done", "exit_code": DONE}
    if not chosen.num_rows:
        say("no input of the table is meant")
        return summary | {"inputs": 0, "rows": 0, "files": 0}
    with alone(settings.sink, "forget", settings.lease_s, after=table.last_lease()) as held:
        name = run_name(table.last_run_id())
        table.fence(held.number, name)
        found = forget(table, settings.sink, chosen, name, for_good=not settings.gone, check=held.check)
        summary |= {"run_id": name, **to_dict(found), "table_version": table.version}
        store_json(storage.join(settings.sink, "runs", name, "summary.json"), summary)
    say(f"{found.rows} rows of {found.inputs} inputs have left; {found.files} older files are deleted")
    return summary


def _gone(sink: str) -> pa.Table:
    """The inputs that have rows, were listed by an earlier run of the same sources, and not by the newest finished one.

    `RequestError` if the newest run has not listed its sources whole.
    """
    folder = storage.join(sink, "runs")
    runs = [(name, read_json(storage.join(folder, name, "summary.json")) or {}) for name in storage.names(folder)]
    runs = [(name, found) for name, found in runs if found.get("exit_code") == DONE and "source" in found]
    if not runs:
        raise RequestError(f"gone: sink {sink!r} has no finished run")
    newest, summary = runs[-1]
    config = read_json(storage.join(folder, newest, "config.json")) or {}
    if config.get("run", {}).get("limit") is not None or config.get("selection"):
        raise RequestError(f"gone: the newest run {newest} has taken only a part of its sources; do a whole run first")
    present = KeySet([keys(rows, INPUT_KEY) for rows in _listed(folder, newest)])
    earlier = [name for name, found in runs[:-1] if found["source"] == summary["source"]]
    listed = [rows for name in earlier for rows in _listed(folder, name)]
    missing = [rows.filter(pa.array(~present.contains(keys(rows, INPUT_KEY)))) for rows in listed]
    known = rows_where(sink, "true")
    gone = KeySet([keys(rows, INPUT_KEY) for rows in missing])
    return known.filter(pa.array(gone.contains(keys(known, INPUT_KEY))))


def _listed(folder: str, run: str) -> list[pa.Table]:
    """The inputs that a run has listed."""
    manifest, found = storage.join(folder, run, "manifest"), []
    for shard in storage.names(manifest):
        with own_file(storage.join(manifest, shard)):
            found.append(read_parquet(storage.read(storage.join(manifest, shard)), list(INPUT_KEY)))
    return found


if __name__ == "__main__":
    main(Forget, work)
