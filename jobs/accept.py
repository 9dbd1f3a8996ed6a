"""Accept a pilot: make its rows the current ones of their inputs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from jobs.cli import main
from jobs.console import say
from pipeline import storage
from pipeline.config import check, to_dict
from pipeline.errors import DONE
from pipeline.quality.tables import by_hand
from pipeline.runs.earlier import newest_config
from pipeline.runs.life import store_json
from pipeline.runs.pilots import pilot_sink, read_pilot
from pipeline.storage import StorageConfig
from pipeline.table.accepting import accept


@dataclass(frozen=True, kw_only=True)
class Accept:
    """Make the rows of a pilot the current ones of their inputs, in one commit, and let its model work on the others
    from the next night on. Older rows of these inputs leave the table. Inputs that a later run found changed
    keep theirs."""

    sink: str
    """URI of the sink: the table is SINK/table."""
    pilot: str
    """Name of the pilot, below SINK/pilots."""
    lease_s: float = 30.0
    """Seconds without renewal after which the lease of a run on another machine counts as abandoned."""
    storage: StorageConfig = field(default_factory=StorageConfig)

    def __post_init__(self) -> None:
        check(self, "lease_s", self.lease_s > 0, "be positive")


def work(settings: Accept) -> dict[str, Any]:
    known = read_pilot(settings.sink, settings.pilot)
    folder = pilot_sink(settings.sink, settings.pilot)
    with by_hand(settings.sink, "accept", settings.lease_s) as held:
        table, name = held.table, held.name
        run = storage.join(settings.sink, "runs", name)
        # Before the commit, so that the rows never name a model and settings that no run has recorded.
        store_json(storage.join(run, "config.json"), newest_config(folder) | {"accepted": settings.pilot})
        found = accept(table, folder, name)
        summary = {
            "run_id": name,
            "table": table.uri,
            "pilot": settings.pilot,
            "model": known["model"],
            "settings": known["settings"],
            **to_dict(found),
            "table_version": table.version,
            "status": "done",
            "exit_code": DONE,
        }
        store_json(storage.join(run, "summary.json"), summary)
    say(f"{found.accepted} rows are current now; {found.removed} older ones have left")
    return summary


if __name__ == "__main__":
    main(Accept, work)
