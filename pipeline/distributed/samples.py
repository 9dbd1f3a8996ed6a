"""Samples: labelled inputs, prepared once by Ray Data into Arrow shards that every training worker maps or fetches.

The order of the samples is the order of the listing, whatever the order in which tasks finish, so an index means the
same sample in every run and for every number of workers.
"""

from __future__ import annotations

import functools
import hashlib
import json
import tempfile
import uuid
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import ray

from pipeline import config, storage
from pipeline.distributed.ledger import INPUT_KEY, VERSION_KEY, GrowingKeySet, keys
from pipeline.distributed.manifest import split
from pipeline.distributed.source import ENTRIES, FetchConfig, entries, fetch
from pipeline.errors import InputError, RequestError
from pipeline.task import INPUT_SCHEMA, Task
from pipeline.training import Samples

_LABELLED = pa.schema([("ordinal", pa.int64()), *ENTRIES, ("label_uri", pa.string())])
_RECEIPT = pa.schema(
    [("path", pa.string()), ("rows", pa.int64()), ("first", pa.int64()), ("failed", pa.list_(pa.string()))]
)


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Prepared samples on storage: shard names in order, sample count, and how many inputs failed, by code."""

    uri: str
    shards: tuple[str, ...]
    rows: int
    failed: dict[str, int]

    def load(self) -> Samples:
        """The samples, mapped from local files or fetched once to this machine."""
        return Samples([_load_shard(storage.join(self.uri, name)) for name in self.shards])


def split_files(folder: str, name: str) -> pa.Table:
    """The inputs of a labelled image folder that ``NAME.txt`` lists (``image label`` on a line), in its order."""
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
        rows.append({"uri": image, "etag": "", "size": 0, "format": "object", "label_uri": label})
    if not rows:
        raise RequestError(f"data {folder!r}: {name}.txt lists no images")
    return _numbered(pa.Table.from_pylist(_with_tags(rows), schema=_LABELLED))


def training_inputs(uri: str, suffixes: tuple[str, ...]) -> tuple[pa.Table, str]:
    """Of a labelled image folder the inputs that ``train.txt`` lists, of other sources all; and the split's name."""
    if storage.exists(storage.join(uri, "train.txt")):
        return split_files(uri, "train"), "train"
    return all_inputs(uri, suffixes), "all"


def all_inputs(uri: str, suffixes: tuple[str, ...]) -> pa.Table:
    """Every input of a source, unlabelled or with labels inside its records."""
    found = list(entries([uri], suffixes))
    if not found:
        raise RequestError(f"data {uri!r}: no input with one of the suffixes {', '.join(suffixes)}")
    table = pa.concat_tables(found)
    # Object stores list in no fixed order, and a training is a function of its samples' order.
    table = table.take(np.argsort(table["uri"].to_numpy(), kind="stable"))
    table = table.filter(pa.array(GrowingKeySet().new(keys(table, INPUT_KEY))))
    return _numbered(table.append_column("label_uri", pa.nulls(table.num_rows, pa.string())))


def held_out(inputs: pa.Table, fraction: float) -> tuple[pa.Table, pa.Table]:
    """Two tables: the rest, and about ``fraction`` of the inputs, picked by a hash of their names (at least one)."""
    names = keys(inputs, ("uri", "member"))
    rank = np.argsort([hashlib.sha256(row.tobytes()).digest() for row in names], kind="stable")
    chosen = np.zeros(inputs.num_rows, bool)
    chosen[rank[: max(1, round(fraction * inputs.num_rows))]] = True
    return _numbered(inputs.filter(pa.array(~chosen))), _numbered(inputs.filter(pa.array(chosen)))


def prepare(
    inputs: pa.Table,
    task: Task,
    out: str,
    *,
    keep: Callable[[bytes], bool] | None = None,
    fetch_config: FetchConfig | None = None,
    block_rows: int = 64,
    block_bytes: int = 32 << 20,
) -> Prepared:
    """Prepare samples below ``out``, or find them there. ``keep`` drops inputs by their bytes (a record's split).

    Raises `RequestError` when no sample comes out. Needs a Ray session.
    """
    identity = {
        "task": [type(task).__name__, config.to_dict(task)],
        "inputs": hashlib.sha256(keys(inputs, (*VERSION_KEY, "label_uri")).tobytes()).hexdigest(),
        "keep": repr(keep),
    }
    folder = storage.join(out, "prepared", config.digest(identity))
    index = storage.join(folder, "index.json")
    if storage.exists(index):
        found = json.loads(storage.read(index))
        return Prepared(uri=folder, shards=tuple(found["shards"]), rows=found["rows"], failed=found["failed"])
    receipts = _run(
        split(inputs, block_rows, block_bytes), _Sampling(task, folder, keep, fetch_config or FetchConfig())
    )
    receipts.sort(key=lambda receipt: receipt["first"])
    failed = Counter(code for receipt in receipts for code in receipt["failed"])
    shards = [receipt["path"] for receipt in receipts if receipt["rows"]]
    content = {"shards": shards, "rows": sum(receipt["rows"] for receipt in receipts), "failed": dict(failed)}
    if not content["rows"]:
        raise RequestError(f"no training samples in {inputs.num_rows} inputs; failed: {dict(failed)}")
    storage.write(index, json.dumps(content).encode())
    return Prepared(uri=folder, shards=tuple(shards), rows=content["rows"], failed=content["failed"])


@dataclass(frozen=True)
class RecordSplit:
    """Keeps the JSON records whose ``split`` has a name; broken records too, so that they are counted as failed.

    A dataclass, because what is kept is part of a training's identity, and a function's text is not the same twice.
    """

    name: str

    def __call__(self, data: bytes) -> bool:
        try:
            record = json.loads(data)
        except ValueError:
            return True
        return not isinstance(record, dict) or record.get("split") == self.name


def _run(blocks: list[pa.Table], work: _Sampling) -> list[dict[str, Any]]:
    context = ray.data.DataContext.get_current()
    context.target_max_block_size = None
    context.enable_progress_bars = False
    dataset = ray.data.from_arrow(blocks).map_batches(work, batch_size=None, batch_format="pyarrow", num_cpus=0.5)
    seen: dict[int, dict[str, Any]] = {}
    for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        for receipt in cast("pa.Table", batch).to_pylist():
            seen.setdefault(receipt["first"], receipt)
    missing = {block["ordinal"][0].as_py() for block in blocks} - set(seen)
    if missing:
        raise RuntimeError(f"{len(missing)} blocks of training inputs gave no shard")
    return list(seen.values())


class _Sampling:
    def __init__(
        self, task: Task, folder: str, keep: Callable[[bytes], bool] | None, fetch_config: FetchConfig
    ) -> None:
        self._task, self._folder, self._keep, self._fetch = task, folder, keep, fetch_config

    def __call__(self, rows: pa.Table) -> pa.Table:
        data, errors = fetch(rows, self._fetch)
        labels, label_errors = self._labels(rows)
        codes = [(a or b or {}).get("code") for a, b in zip(errors.to_pylist(), label_errors, strict=True)]
        good = [i for i, code in enumerate(codes) if code is None and self._wanted(data[i])]
        failed = [code for code in codes if code is not None]
        inputs = {
            "data": [data[i] for i in good],
            "format": [rows["format"][i].as_py() for i in good],
            "label": [labels[i] for i in good],
        }
        samples = self._task.prepare_samples(pa.table(inputs, schema=INPUT_SCHEMA))
        failed += [error["code"] for error in samples["error"].to_pylist() if error is not None]
        samples = samples.filter(samples["error"].is_null()).drop_columns(["error"])
        name = f"{uuid.uuid4().hex}.arrow"
        if samples.num_rows:
            storage.write(storage.join(self._folder, name), _ipc(samples))
        receipt = {"path": name, "rows": samples.num_rows, "first": rows["ordinal"][0].as_py(), "failed": failed}
        return pa.Table.from_pylist([receipt], schema=_RECEIPT)

    def _wanted(self, data: bytes | None) -> bool:
        return data is not None and (self._keep is None or self._keep(data))

    def _labels(self, rows: pa.Table) -> tuple[list[bytes | None], list[dict[str, str] | None]]:
        labels: list[bytes | None] = []
        errors: list[dict[str, str] | None] = []
        for uri in rows["label_uri"].to_pylist():
            label, error = None, None
            if uri is not None:
                try:
                    label = storage.fetch(uri, None, self._fetch.max_bytes)
                except InputError as reason:
                    error = {"code": reason.code}
            labels.append(label)
            errors.append(error)
        return labels, errors


def _ipc(samples: pa.Table) -> bytes:
    samples = samples.combine_chunks()
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, samples.schema) as writer:
        writer.write_table(samples)
    return sink.getvalue().to_pybytes()


@functools.lru_cache(maxsize=4096)
def _load_shard(uri: str) -> pa.Table:
    if storage.is_local(uri):
        path = storage.canonical(uri)
    else:
        folder = Path(tempfile.gettempdir()) / "parquetry-shards"
        folder.mkdir(exist_ok=True)
        cached = folder / hashlib.sha256(uri.encode()).hexdigest()
        if not cached.exists():
            storage.write(str(cached), storage.read(uri))
        path = str(cached)
    with pa.memory_map(path) as source:
        return pa.ipc.open_file(source).read_all()


def _with_tags(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    def tagged(row: dict[str, Any]) -> dict[str, Any]:
        try:
            found = storage.stat(row["uri"])
        except OSError:
            return row  # fetching it will say what is wrong
        return row | {"etag": found.etag, "size": found.size}

    with ThreadPoolExecutor(16, "stat") as pool:
        return list(pool.map(tagged, rows))


def _numbered(table: pa.Table) -> pa.Table:
    ordinals = pa.array(np.arange(table.num_rows))
    rest = [name for name in _LABELLED.names if name != "ordinal"]
    return table.select(rest).add_column(0, "ordinal", ordinals).cast(_LABELLED)
