"""Restore: make a table what it was before a run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from jobs.cli import main
from jobs.console import say
from pipeline import storage
from pipeline.config import check, to_dict
from pipeline.errors import DONE
from pipeline.quality.tables import by_hand, open_table
from pipeline.runs.earlier import newest_config
from pipeline.runs.life import store_json
from pipeline.storage import StorageConfig
from pipeline.table.upkeep import restore, version_before


@dataclass(frozen=True, kw_only=True)
class Restore:
    """Make the table of a sink what it was before a run, in one commit, so this can be undone in the same way. The
    table must still keep the files of that time: for a week, or as long as verify --retention-days has set."""

    sink: str
    """URI of the sink: the table is SINK/table."""
    run: str
    """Name of the run, as in SINK/runs; also that of an accept, a restore or a forget."""
    lease_s: float = 30.0
    """Seconds without renewal after which the lease of a run on another machine counts as abandoned."""
    storage: StorageConfig = field(default_factory=StorageConfig)

    def __post_init__(self) -> None:
        check(self, "lease_s", self.lease_s > 0, "be positive")


def work(settings: Restore) -> dict[str, Any]:
    earlier = version_before(open_table(settings.sink), settings.run)
    with by_hand(settings.sink, "restore", settings.lease_s) as held:
        table, name = held.table, held.name
        found = restore(table, earlier, name)
        folder = storage.join(settings.sink, "runs", name)
        config = newest_config(settings.sink, before=settings.run)
        if config:  # the model of that time is the sink's model again
            store_json(storage.join(folder, "config.json"), config | {"restored": settings.run})
        summary = {
            "run_id": name,
            "table": table.uri,
            "restored": settings.run,
            **to_dict(found),
            "table_version": table.version,
            "status": "done",
            "exit_code": DONE,
        }
        store_json(storage.join(folder, "summary.json"), summary)
    say(f"the table is what it was before run {settings.run}, at version {found.version}")
    return summary


if __name__ == "__main__":
    main(Restore, work)
