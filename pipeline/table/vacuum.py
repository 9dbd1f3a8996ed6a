"""Vacuum: deleting files that no version of a table refers to, or that have left it longer ago than it keeps them."""

from __future__ import annotations

from pipeline import storage
from pipeline.table.readers import open_delta
from pipeline.table.retention import kept_files


def vacuum(sink: str) -> int:
    """Delete every file below the table that it does not keep (`kept_files`); returns their number.

    No run may be in progress.
    """
    delta, uri = open_delta(sink), storage.join(sink, "table")
    kept = kept_files(delta)
    models = [name for name in storage.names(uri) if name.startswith("model=")]
    pages = (page for model in models for page in storage.walk(storage.join(uri, model)))
    found = (file for page in pages for file in page["uri"].to_pylist())
    return storage.delete_all(file for file in found if file[len(uri) + 1 :] not in kept)
