"""Deleting files that no version of a table names."""

from __future__ import annotations

from pipeline import storage
from pipeline.table.log import committed_parts, patiently
from pipeline.table.readers import open_delta


def vacuum(sink: str) -> int:
    """Delete every file below the table that no version of it names; how many. Not while a run is going on."""
    delta, uri = open_delta(sink), storage.join(sink, "table")
    named = {part.path for part in committed_parts(delta)}
    # What a later version removed stays for readers of the earlier ones.
    removed = patiently(lambda: delta.vacuum(retention_hours=0, dry_run=True, enforce_retention_duration=False))
    named.update(removed)
    models = [name for name in storage.names(uri) if name.startswith("model=")]
    pages = (page for model in models for page in storage.walk(storage.join(uri, model)))
    found = (file for page in pages for file in page["uri"].to_pylist())
    return storage.delete_all(file for file in found if file[len(uri) + 1 :] not in named)
