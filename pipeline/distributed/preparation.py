"""Training samples: labelled inputs that Ray Data prepares once into Arrow shards, which all training workers read.

The samples have the order of the listing, in whatever order tasks finish. So an index means the same sample in every
run and for every number of workers.
"""

from __future__ import annotations

import functools
import hashlib
import json
import tempfile
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import ray

from pipeline import config, storage
from pipeline.errors import InputError, RequestError
from pipeline.rows import INPUT_SCHEMA
from pipeline.source.fetch import FetchConfig, fetch
from pipeline.source.keys import VERSION_KEY, keys
from pipeline.storage.columnar import own_file, read_arrow
from pipeline.table.manifest import split
from pipeline.task import Task
from pipeline.training.samples import Samples

_RECEIPT = pa.schema(
    [("path", pa.string()), ("rows", pa.int64()), ("first", pa.int64()), ("failed", pa.list_(pa.string()))]
)


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Prepared samples on storage: names of the shards in order, number of samples, and failed inputs by error code."""

    uri: str
    shards: tuple[str, ...]
    rows: int
    failed: dict[str, int]

    def load(self) -> Samples:
        """The samples. Local shards are memory-mapped; remote ones are downloaded once to this machine."""
        return Samples([_load_shard(storage.join(self.uri, name)) for name in self.shards])


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
    """Prepare samples below ``out``, or find them there. Inputs whose bytes the function ``keep`` rejects are left out.

    Raises `RequestError` if there is no sample. Needs a Ray session.
    """
    identity = {
        "task": [type(task).__name__, config.identity(task)],
        "inputs": hashlib.sha256(keys(inputs, (*VERSION_KEY, "label_uri")).tobytes()).hexdigest(),
        "keep": repr(keep),
    }
    identity |= {"results": task.results} if task.results > 1 else {}
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
    """Keeps JSON records whose ``split`` has a given name. Also keeps broken records, so that they count as failed.

    It is a dataclass, since its `repr` is part of a training's digest. A function would have no stable `repr`.
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
        data, errors = fetch(rows, self._task.inputs, self._fetch)
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
                    label = storage.fetch(uri, storage.Read(max_bytes=self._fetch.max_bytes))
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
    with own_file(uri), pa.memory_map(path) as source:
        return read_arrow(source)
