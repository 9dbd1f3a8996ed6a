"""Status: what is going on at a sink, from another terminal."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from jobs.cli import main
from jobs.console import say
from pipeline import storage
from pipeline.errors import DONE
from pipeline.quality.tables import open_table
from pipeline.runs.life import read_json
from pipeline.storage import StorageConfig
from pipeline.table import lease


@dataclass(frozen=True, kw_only=True)
class Status:
    """Show what is going on at a sink: its table, who writes to it, and how far the newest run is. It changes nothing
    and waits for nobody."""

    sink: str
    """URI of the sink: the table is SINK/table."""
    storage: StorageConfig = field(default_factory=StorageConfig)


def work(settings: Status) -> dict[str, Any]:
    table = open_table(settings.sink)
    parts = table.parts()
    rows = sum(part.rows or 0 for part in parts)
    say(f"{rows} rows in {len(parts)} files, version {table.version}")
    holder = lease.holder(settings.sink)
    say("nobody writes to it" if holder is None else f"held by {holder['run_id']}, on {holder['host']}")
    folder = storage.join(settings.sink, "runs")
    newest = max(storage.names(folder), default=None)
    run: dict[str, Any] = {}
    if newest is not None:
        summary = read_json(storage.join(folder, newest, "summary.json"))
        run = summary or read_json(storage.join(folder, newest, "progress.json")) or {}
        run = {"run_id": newest, "is_over": summary is not None, **run}
        say(f"newest run {newest}: {_described(run)}")
    return {
        "table": table.uri,
        "rows": rows,
        "files": len(parts),
        "table_version": table.version,
        "holder": holder,
        "run": run,
        "status": "done",
        "exit_code": DONE,
    }


def _described(run: dict[str, Any]) -> str:
    if run["is_over"]:
        return f"{run.get('status')}, exit code {run.get('exit_code')}"
    if "pending" not in run:
        return "it has not begun, or was ended before"
    done = run["done"] + run["failed"]
    since = (datetime.now(UTC) - datetime.fromisoformat(run["time"])).total_seconds()
    left = f", about {(run['pending'] - done) * run['seconds'] / done:.0f} s left" if done else ""
    return f"{done} of {run['pending']} inputs, {run['failed']} of them failed{left} ({since:.0f} s ago)"


if __name__ == "__main__":
    main(Status, work)
