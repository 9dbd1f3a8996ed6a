"""Compact a table: join its small files to larger ones."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from jobs.cli import main
from jobs.console import say
from pipeline.config import check, to_dict
from pipeline.errors import DONE
from pipeline.quality.tables import by_hand
from pipeline.storage import StorageConfig
from pipeline.table.compaction import TARGET_BYTES, compact


@dataclass(frozen=True, kw_only=True)
class Compact:
    """Join the small files of a table to larger ones, for all models. No row changes. Refused while a run writes to the
    sink. The small files stay on the disk as long as earlier versions of the table need them; verify --vacuum deletes
    those that no version names."""

    sink: str
    """URI of the sink: the table is SINK/table."""
    target_bytes: int = TARGET_BYTES
    """Largest size of the files that are made. Files of a quarter of it or more stay as they are. Larger files make a
    table of many rows faster to open, and a small change dearer: superseding one row writes its file anew."""
    lease_s: float = 30.0
    """Seconds without renewal after which the lease of a run on another machine counts as abandoned."""
    storage: StorageConfig = field(default_factory=StorageConfig)

    def __post_init__(self) -> None:
        check(self, "target_bytes", 1 << 20 <= self.target_bytes <= 1 << 30, "be from 1 MiB to 1 GiB")
        check(self, "lease_s", self.lease_s > 0, "be positive")


def work(settings: Compact) -> dict[str, Any]:
    with by_hand(settings.sink, "compact", settings.lease_s) as held:
        table = held.table
        found = compact(table, held.name, target_bytes=settings.target_bytes, check=held.lease.check)
    say(f"{found.before} files have become {found.after}" if found.before else "there are no small files to join")
    return {"table": table.uri, **to_dict(found), "table_version": table.version, "status": "done", "exit_code": DONE}


if __name__ == "__main__":
    main(Compact, work)
