"""Labelled inputs: splits of an image folder, records that contain their labels, and held-out subsets."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline import storage
from pipeline.errors import RequestError
from pipeline.rows import OBJECT, InputKind
from pipeline.source.entries import ENTRIES, entries
from pipeline.source.keys import INPUT_KEY, GrowingKeySet, keys

LABELLED = pa.schema([("ordinal", pa.int64()), *ENTRIES, ("label_uri", pa.string())])


def split_files(folder: str, name: str) -> pa.Table:
    """The inputs that ``NAME.txt`` in a labelled image folder lists (``image label`` on each line), in its order."""
    where = storage.join(folder, f"{name}.txt")
    try:
        lines = storage.read(where).decode().splitlines()
    except (FileNotFoundError, NotADirectoryError) as reason:
        raise RequestError(f"data {folder!r}: split {name!r} needs the file {name}.txt there") from reason
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        names = line.split()
        if len(names) != 2:
            raise RequestError(f"{where}, line {number}: must be 'image label', got {line!r}")
        image, label = (storage.join(folder, item) for item in names)
        rows.append({"uri": image, "etag": "", "size": 0, "format": OBJECT, "label_uri": label})
    if not rows:
        raise RequestError(f"data {folder!r}: {name}.txt lists no images")
    return _numbered(pa.Table.from_pylist(_with_tags(rows), schema=LABELLED))


def training_inputs(uri: str, kind: InputKind) -> tuple[pa.Table, str]:
    """The inputs to train on, and the split's name: those in ``train.txt`` of a labelled folder, or all of a source."""
    if storage.exists(storage.join(uri, "train.txt")):
        return split_files(uri, "train"), "train"
    return all_inputs(uri, kind), "all"


def all_inputs(uri: str, kind: InputKind) -> pa.Table:
    """All inputs of a source; they have no labels, or the labels are inside the records."""
    found = list(entries([uri], kind))
    if not found:
        raise RequestError(f"data {uri!r}: no input with one of the suffixes {', '.join(kind.suffixes)}")
    table = pa.concat_tables(found)
    # Object stores list in no fixed order, but the result of a training depends on the order of its samples.
    table = table.take(np.argsort(table["uri"].to_numpy(), kind="stable"))
    table = table.filter(pa.array(GrowingKeySet().new(keys(table, INPUT_KEY))))
    return _numbered(table.append_column("label_uri", pa.nulls(table.num_rows, pa.string())))


def held_out(inputs: pa.Table, fraction: float) -> tuple[pa.Table, pa.Table]:
    """Split inputs into two tables: the rest, and about ``fraction`` of them (at least one), chosen by hashed names."""
    names = keys(inputs, ("uri", "member"))
    rank = np.argsort([hashlib.sha256(row.tobytes()).digest() for row in names], kind="stable")
    chosen = np.zeros(inputs.num_rows, bool)
    chosen[rank[: max(1, round(fraction * inputs.num_rows))]] = True
    return _numbered(inputs.filter(pa.array(~chosen))), _numbered(inputs.filter(pa.array(chosen)))


def _with_tags(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    def tagged(row: dict[str, Any]) -> dict[str, Any]:
        try:
            found = storage.stat(row["uri"])
        except OSError:
            return row  # fetching it will report the error
        return row | {"etag": found.etag, "size": found.size}

    with ThreadPoolExecutor(16, "stat") as pool:
        return list(pool.map(tagged, rows))


def _numbered(table: pa.Table) -> pa.Table:
    ordinals = pa.array(np.arange(table.num_rows))
    rest = [name for name in LABELLED.names if name != "ordinal"]
    return table.select(rest).add_column(0, "ordinal", ordinals).cast(LABELLED)
