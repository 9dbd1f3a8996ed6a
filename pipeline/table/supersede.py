"""Finding superseded rows: rows that are not the current row of an input that a run has listed."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.source.keys import INPUT_KEY, VERSION_KEY, KeySet, keys
from pipeline.table.parts import Part

#: The columns by which rows of one model are the same row.
ROW_KEY = (*VERSION_KEY, "settings", "run_id")


def is_of(part: Part, rows: pa.Table, model: str, settings: str) -> np.ndarray:
    """Which rows of a part belong to this model and these settings: booleans (rows,)."""
    if part.model != model:
        return np.zeros(rows.num_rows, bool)
    same = pc.call_function("equal", [rows["settings"], pa.scalar(settings)])
    return pc.fill_null(same, False).to_numpy()


def run_ids(rows: pa.Table) -> np.ndarray:
    """The run of each row: strings (rows,). Rows that another tool wrote without one sort before all others."""
    return np.asarray([run_id or "" for run_id in rows["run_id"].to_pylist()], str)


def rows_to_keep(
    scanned: Iterable[tuple[Part, pa.Table]], listed: KeySet, current: KeySet, model: str, settings: str
) -> dict[str, np.ndarray]:
    """For the path of each part, which of its rows to keep: booleans (rows,).

    ``scanned`` are parts with their key and provenance columns. The current row of a listed input (`INPUT_KEY`) has
    this model, these settings and the tag in ``current`` (`VERSION_KEY`); if there are several, it is that of the
    newest run. Rows of inputs that were not listed are kept.
    """
    keep: dict[str, np.ndarray] = {}
    candidates: list[tuple[np.ndarray, np.ndarray, str, np.ndarray]] = []
    for part, rows in scanned:
        version = keys(rows, VERSION_KEY)
        mine = is_of(part, rows, model, settings) & current.contains(version)
        keep[part.path] = ~listed.contains(keys(rows, INPUT_KEY)) | mine
        where = np.flatnonzero(mine)
        candidates.append((version[where], where, part.path, run_ids(rows)[where]))
    if not candidates:
        return keep
    version = np.concatenate([item[0] for item in candidates])
    run = np.concatenate([item[3] for item in candidates])
    owner = np.concatenate([np.full(len(item[1]), number) for number, item in enumerate(candidates)])
    row = np.concatenate([item[1] for item in candidates])
    order = np.lexsort((run, version[:, 1], version[:, 0]))
    same_as_next = (version[order[:-1]] == version[order[1:]]).all(1)
    for index in order[:-1][same_as_next]:  # the row of an older run, such as an error that was retried
        keep[candidates[owner[index]][2]][row[index]] = False
    return keep
