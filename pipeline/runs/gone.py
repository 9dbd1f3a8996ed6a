"""Inputs that are gone: their rows are in the table, earlier runs of the same sources listed them, and the newest did
not.

Only a run that lists its sources whole can tell. It stores what it found beside its manifest, so that the next run
reads the listings since then, and not those of all runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.runs.earlier import EarlierRun
from pipeline.source.keys import INPUT_KEY, KeySet, keys
from pipeline.storage.columnar import own_file, read_parquet

#: The columns of what is stored, which name an input.
NAMES = pa.schema([(name, pa.string()) for name in INPUT_KEY])
_FILE = "gone.parquet"


def gone_inputs(listed: KeySet, held: KeySet, sources: Sequence[str], earlier: Iterable[EarlierRun]) -> pa.Table:
    """The gone inputs (`NAMES`), sorted.

    ``listed`` (`INPUT_KEY`): what the newest run found in ``sources``, whole. ``held``: all inputs with rows.
    ``earlier``: the runs before it, the newest first. Their listings are read only if there is something to look for.
    An input in a container that cannot be opened now is not gone.
    """
    missing = KeySet([held.keys[~listed.contains(held.keys)]])
    found = [NAMES.empty_table()]
    for rows in _known(earlier, list(sources)) if len(missing) else ():
        here = keys(rows, INPUT_KEY)
        rows = rows.filter(pa.array(missing.contains(here)))
        if rows.num_rows:
            found.append(rows)
            missing = KeySet([missing.keys[~KeySet([here]).contains(missing.keys)]])
        if not len(missing):
            break
    every = pa.concat_tables(found).cast(NAMES)
    containers = pa.table([every["uri"], pa.nulls(every.num_rows, pa.string())], schema=NAMES)
    # A container that cannot be opened is listed as one input, in place of those in it.
    is_broken = listed.contains(keys(containers, INPUT_KEY)) & every["member"].is_valid().to_numpy()
    return every.filter(pa.array(~is_broken)).sort_by([(name, "ascending") for name in INPUT_KEY])


def store_gone(folder: str, gone: pa.Table) -> None:
    """Store what a run has found in its folder."""
    pq.write_table(gone, buffer := pa.BufferOutputStream(), compression="zstd")
    storage.write(storage.join(folder, _FILE), buffer.getvalue().to_pybytes())


def read_gone(folder: str) -> pa.Table | None:
    """What a run has found (`NAMES`), or None if it has not listed its sources whole, or is of an early version."""
    where = storage.join(folder, _FILE)
    try:
        data = storage.read(where)
    except (FileNotFoundError, NotADirectoryError):
        return None
    with own_file(where):
        return read_parquet(data, INPUT_KEY)


def _known(earlier: Iterable[EarlierRun], sources: list[str]) -> Iterator[pa.Table]:
    """What earlier runs of the same sources have listed, back to the newest that says what was gone then, and this."""
    for run in earlier:
        if run.sources == sources:
            yield from run.listed()
            before = read_gone(run.folder)
            if before is not None:
                yield before
                return
