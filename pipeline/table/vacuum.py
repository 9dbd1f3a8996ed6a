"""Vacuum: deleting files that no version of a table refers to."""

from __future__ import annotations

from pipeline import storage
from pipeline.table.log import named_files
from pipeline.table.readers import open_delta


def vacuum(sink: str) -> int:
    """Delete every file below the table to which no version refers; returns their number. No run may be in progress."""
    delta, uri = open_delta(sink), storage.join(sink, "table")
    named = named_files(delta)
    models = [name for name in storage.names(uri) if name.startswith("model=")]
    pages = (page for model in models for page in storage.walk(storage.join(uri, model)))
    found = (file for page in pages for file in page["uri"].to_pylist())
    return storage.delete_all(file for file in found if file[len(uri) + 1 :] not in named)
