"""Functions for readers of a table: opening it, its committed files, and the current row of each input."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
from deltalake import DeltaTable

from pipeline import storage
from pipeline.errors import RequestError
from pipeline.source.keys import INPUT_KEY, keys
from pipeline.table.log import committed_parts, opened
from pipeline.table.parts import Part, description_of


def open_delta(sink: str) -> DeltaTable:
    """The sink's table for readers (``.file_uris()``, ``.to_pyarrow_dataset()``). `RequestError` if there is none."""
    uri = storage.join(sink, "table")
    delta = opened(uri)
    if delta is None:
        raise RequestError(f"no table at {uri}")
    return delta


def description(sink: str, model: str | None = None) -> dict[str, Any]:
    """What the newest file of a model says of its values, such as ``classes`` and ``palette``; None: of any model.

    Empty if it says nothing, as files of early versions and of other tools.
    """
    named = [(part.file.rpartition("/")[2], part) for part in parts_of(sink) if model in (None, part.model)]
    if not named:
        return {}
    _, newest = max(named, key=lambda pair: pair[0])
    return json.loads(description_of(storage.join(sink, "table"), newest) or b"{}")


def parts_of(sink: str) -> list[Part]:
    """The committed part files of a sink's table, from its log."""
    return committed_parts(open_delta(sink))


def current_rows(rows: pa.Table) -> pa.Table:
    """Keep the row of the newest run for each input. Readers need this after ``--superseded keep``."""
    newest_first = rows.sort_by([("run_id", "descending")])
    identity = keys(newest_first, INPUT_KEY)
    _, first = np.unique(identity, axis=0, return_index=True)
    return newest_first.take(np.sort(first))
