"""Verify a table: whether it is complete and consistent. Can also delete files that the table does not need."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from jobs.cli import main
from jobs.console import say
from pipeline import storage
from pipeline.config import check
from pipeline.errors import DONE, FAILED
from pipeline.quality.audit import audit
from pipeline.quality.tables import by_hand, open_table
from pipeline.storage import StorageConfig
from pipeline.table.lease import alone
from pipeline.table.mending import mend
from pipeline.table.readers import open_delta
from pipeline.table.retention import retention, retention_properties
from pipeline.table.vacuum import vacuum


@dataclass(frozen=True, kw_only=True)
class Verify:
    """Verify a table: every input has one row, every mask and paragraph is valid, every file is as the log says. Exits
    with 1 and reports the problems if there are any."""

    sink: str
    """URI of the sink: the table is SINK/table."""
    repair: bool = False
    """First undo what other tools have done: write their files again, with what marks masks as pictures; take files
    that are not there out of the table, so that the next run makes their rows again; remove doubled rows. Refused
    while a run writes to the sink."""
    vacuum: bool = False
    """Also delete files to which no version of the table refers, or that have left it longer ago than it keeps them.
    Refused while a run writes to the sink."""
    retention_days: float | None = None
    """First set how many days the table keeps files that leave it, for restore and for readers of earlier versions;
    null: leave that as it is, 7 days at first. Refused while a run writes to the sink."""
    lease_s: float = 30.0
    """For repair, vacuum and retention_days: seconds without renewal after which the lease of a run on another machine
    counts as abandoned."""
    storage: StorageConfig = field(default_factory=StorageConfig)

    def __post_init__(self) -> None:
        days = self.retention_days
        check(self, "retention_days", days is None or 0 <= days <= 36_500, "be from 0 to 36500, or null")


def work(settings: Verify) -> dict[str, Any]:
    summary: dict[str, Any] = {"table": storage.join(settings.sink, "table")}
    if settings.retention_days is not None:
        with by_hand(settings.sink, "retention", settings.lease_s) as held:
            held.table.set_properties(retention_properties(settings.retention_days), held.name)
    if settings.repair:
        with by_hand(settings.sink, "repair", settings.lease_s) as held:
            summary["repaired"] = mend(held.table, held.name)
        say(f"repaired: {', '.join(f'{count} {name}' for name, count in summary['repaired'].items())}")
    summary["retention_days"] = retention(open_delta(settings.sink)) / timedelta(days=1)
    say(f"reading {summary['table']}")
    summary |= audit(settings.sink).summary()
    if summary["other_tools"]:
        say(f"another tool has changed the table: {', '.join(summary['other_tools'])}")
    if summary["foreign_files"]:
        say(f"{summary['foreign_files']} files are of another tool and mark no column as a picture; see --repair")
    if settings.vacuum:
        with alone(settings.sink, "vacuum", settings.lease_s, after=open_table(settings.sink).last_lease()):
            summary["vacuumed"] = vacuum(settings.sink)
        say(f"{summary['vacuumed']} files deleted that the table does not keep")
    for name, problem in summary["problems"].items():
        say(f"{problem['count']} {name}: {problem['meaning']}, such as {'; '.join(problem['examples'][:3])}")
    sound = not summary["problems"]
    error = {} if sound else {"error": f"the table is not sound: {', '.join(summary['problems'])}"}
    return summary | error | {"status": "sound" if sound else "not sound", "exit_code": DONE if sound else FAILED}


if __name__ == "__main__":
    main(Verify, work)
