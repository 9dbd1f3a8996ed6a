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
from pipeline.quality.tables import by_hand
from pipeline.runs.earlier import newest_first
from pipeline.runs.gone import gone_inputs
from pipeline.runs.life import store_json
from pipeline.source.keys import INPUT_KEY, KeySet, keys
from pipeline.storage import StorageConfig
from pipeline.table.queries import rows_where
from pipeline.table.upkeep import forget


@dataclass(frozen=True, kw_only=True)
class Forget:
    """Remove inputs from a table: their rows leave, all files that have held them are deleted, also those of earlier
    versions and of pilots, however long the table keeps files, and later runs leave these inputs out for good. Listings
    and reports of runs still name them."""

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
    chosen = _gone(settings.sink) if settings.where is None else rows_where(settings.sink, settings.where)
    summary: dict[str, Any] = {"table": storage.join(settings.sink, "table"), "status": "done", "exit_code": DONE}
    if not chosen.num_rows:
        say("no input of the table is meant")
        return summary | {"inputs": 0, "rows": 0, "files": 0, "expired": 0}
    with by_hand(settings.sink, "forget", settings.lease_s) as held:
        check, is_final = held.lease.check, not settings.gone
        found = forget(held.table, settings.sink, chosen, held.name, for_good=is_final, check=check)
        summary |= {"run_id": held.name, **to_dict(found), "table_version": held.table.version}
        store_json(storage.join(settings.sink, "runs", held.name, "summary.json"), summary)
    say(f"{found.rows} rows of {found.inputs} inputs have left; {found.files} older files are deleted")
    return summary


def _gone(sink: str) -> pa.Table:
    """The inputs that have rows, were listed by an earlier run of the same sources, and not by the newest finished one.

    `RequestError` if the newest run has not listed its sources whole.
    """
    earlier = newest_first(sink)
    newest = next((run for run in earlier if run.is_done and run.sources), None)
    if newest is None:
        raise RequestError(f"gone: sink {sink!r} has no finished run")
    if not newest.is_whole:
        raise RequestError(
            f"gone: the newest run {newest.name} has taken only a part of its sources; do a whole run first"
        )
    listed = KeySet(keys(rows, INPUT_KEY) for rows in newest.listed())
    return gone_inputs(listed, KeySet([keys(rows_where(sink, "true"), INPUT_KEY)]), newest.sources, earlier)


if __name__ == "__main__":
    main(Forget, work)
