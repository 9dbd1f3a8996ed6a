"""Training samples: labelled inputs that Ray Data prepares once into Arrow shards, which all training workers read.

The samples have the order of the listing, in whatever order tasks finish. So an index means the same sample in every
run and for every number of workers.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
import os
import tempfile
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import ray

from pipeline import config, storage
from pipeline.distributed.places import Places, UnfitNode, mark, require, unfit_node
from pipeline.distributed.session import release_actors
from pipeline.errors import InputError, RequestError
from pipeline.json_text import to_json
from pipeline.rows import INPUT_SCHEMA, RECORD, FailedInput, by_code, error_value, failed_input
from pipeline.source.corpora import Sources
from pipeline.source.fetch import FetchConfig, fetch
from pipeline.source.keys import VERSION_KEY, digests
from pipeline.storage.columnar import has_arrow_end, own_file, read_arrow
from pipeline.table.manifest import split
from pipeline.task import Task
from pipeline.training.samples import Samples

_FAILED = pa.struct([(name, pa.string()) for name in ("uri", "member", "label", "code", "message")])
_RECEIPT = pa.schema(
    [
        ("path", pa.string()),
        ("rows", pa.int64()),
        ("first", pa.int64()),
        ("left_out", pa.int64()),
        ("failed", pa.list_(_FAILED)),
        ("truth", pa.map_(pa.string(), pa.int64())),
    ]
)


@dataclass(frozen=True, kw_only=True)
class SourceCounts:
    """What one of several sources has given."""

    rows: int
    truth: int
    """The number of labels (`Task.truth`) in its samples."""
    inputs: int


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Prepared samples on storage: names of the shards in order, numbers of samples and of inputs, and failed inputs
    by error code."""

    uri: str
    shards: tuple[str, ...] = ()
    rows: int = 0
    inputs: int = 0
    left_out: int = 0
    """Inputs that are not of the wanted split; 0 in samples that an earlier version has prepared."""
    failed: dict[str, int] = field(default_factory=dict)
    failures: tuple[FailedInput, ...] = ()
    """The failed inputs; empty in samples that an earlier version has prepared."""
    truth: dict[str, int] = field(default_factory=dict)
    """`Task.truth` of all samples; empty in samples that an earlier version has prepared."""
    labels: str | None = None
    """Digest of the versions of the label files; None if there are none."""
    outdated: bool = False
    """Whether samples of other labels lie at ``uri``."""
    sources: tuple[SourceCounts, ...] = ()
    """What each source has given, if there are several; see `Sources`."""
    weights: tuple[float, ...] = ()
    """How often the samples of each source are drawn in an epoch; (): all once."""

    def load(self) -> Samples:
        """The samples. Local shards are memory-mapped; remote ones are downloaded once to this machine."""
        shards = [_load_shard(storage.join(self.uri, name)) for name in self.shards]
        if not self.weights:
            return Samples(shards)
        return Samples(shards, list(zip((source.rows for source in self.sources), self.weights, strict=True)))

    def check_truth(self, task: Task, part: str) -> None:
        """`RequestError` if the labels of the samples leave nothing to learn or to measure. ``part``: their name."""
        if not self.truth:
            return
        if not sum(self.truth.values()):
            raise RequestError(f"no {task.truth_unit} in the labels of {self.rows} {part} samples")
        present = [name for name, count in self.truth.items() if count]
        if part == TRAINING and len(self.truth) > 1 and len(present) == 1:
            raise RequestError(f"the labels of {self.rows} {part} samples have only one class, {present[0]!r}")

    def missing_classes(self) -> list[str]:
        """Classes that have no label in any sample."""
        return [name for name, count in self.truth.items() if not count]


TRAINING, VALIDATION = "training", "validation"


class Preparation:
    """Samples that are to be prepared below a folder. What they are is known before anything is read or written.

    The folder ``prepared/NAME`` has the digest of the inputs with their tags, of the names of their labels and of the
    task in its name. The tags of the labels are not in it, since the first version left them out and its trainings must
    go on. They are compared with ``labels`` in the folder's index instead, and with ``labels`` in ``training.json``:
    samples of other labels are prepared again, and a training that has begun with other labels is refused. Where an
    earlier version has left no ``labels``, its samples count as those of the present labels unless one of these was
    written later than the index. As for images, a tag is that of the store: on local disks size and time.
    """

    def __init__(
        self,
        inputs: pa.Table,
        task: Task,
        out: str,
        *,
        part: str = TRAINING,
        keep: Callable[[bytes], bool] | None = None,
        fetch_config: FetchConfig | None = None,
        block_rows: int = 64,
        block_bytes: int = 32 << 20,
        sources: Sources | None = None,
    ) -> None:
        """``part``: `TRAINING` or `VALIDATION`. Inputs whose bytes the function ``keep`` rejects are left out.

        A worker holds one block at a time: at most ``block_rows`` inputs, and as many as have ``block_bytes`` together.
        """
        self.inputs = inputs
        """The listing that the samples are prepared from."""
        self._inputs, self._task, self._out, self._part = inputs, task, storage.canonical(out), part
        self._keep, self._fetch, self._block = keep, fetch_config or FetchConfig(), (block_rows, block_bytes)
        self._sources = sources if sources is not None and len(sources.names) > 1 else None
        identity = {
            "task": [type(task).__name__, config.identity(task)],
            "inputs": hashlib.sha256(digests(inputs, (*VERSION_KEY, "label_uri")).tobytes()).hexdigest(),
            "keep": repr(keep),
        }
        identity |= {"results": task.results} if task.results > 1 else {}
        self._folder = storage.join(out, "prepared", config.digest(identity))
        self._is_new = storage.is_local(out) and not storage.exists(out)
        self._labels = None
        if inputs["label_uri"].null_count < inputs.num_rows:
            self._labels = hashlib.sha256(digests(inputs, ("label_uri", "label_etag")).tobytes()).hexdigest()[:32]
        elif inputs["label"].null_count < inputs.num_rows:
            self._labels = hashlib.sha256(digests(inputs, ("uri", "label")).tobytes()).hexdigest()[:32]

    def planned(self) -> Prepared:
        """What `prepare` will return, but without the samples. Reads only the index."""
        index = self._index()
        outdated = index is not None and not self._is_current(index)
        return Prepared(uri=self._folder, labels=self._labels, outdated=outdated, weights=self._weights())

    def prepare(self) -> Prepared:
        """Prepare the samples, or find them there. Needs a Ray session.

        Raises `RequestError` if there is no sample; what this call has written is deleted then.
        """
        index = self._index()
        if index is None or not self._is_current(index):
            index = self._prepare()
        return Prepared(
            uri=self._folder,
            shards=tuple(index["shards"]),
            rows=index["rows"],
            inputs=self._inputs.num_rows,
            left_out=index.get("left_out", 0),
            failed=index["failed"],
            failures=tuple(FailedInput(**item) for item in index.get("failures", ())),
            truth=index.get("truth", {}),
            labels=self._labels,
            sources=tuple(SourceCounts(**item) for item in index.get("sources", ())) if self._sources else (),
            weights=self._weights(),
        )

    def _weights(self) -> tuple[float, ...]:
        return () if self._sources is None or self._part != TRAINING else self._sources.weights

    def discard(self) -> None:
        """Delete what lies in the folder of these samples, for a request that is refused after all."""
        storage.delete_all([storage.join(self._folder, name) for name in storage.names(self._folder)])
        if storage.is_local(self._folder):
            above = [os.path.dirname(self._folder), *([self._out] if self._is_new else [])]
            for folder in (self._folder, *above):
                with contextlib.suppress(OSError):  # other files are in it
                    os.rmdir(folder)

    def _prepare(self) -> dict[str, Any]:
        first = np.array([0]) if self._sources is None else np.unique(self._sources.first_inputs())
        edges = itertools.pairwise([*first[first < self._inputs.num_rows].tolist(), self._inputs.num_rows])
        blocks = [
            block for start, end in edges for block in split(self._inputs.slice(start, end - start), *self._block)
        ]
        places = mark(self._folder, inputs=self._inputs["uri"].to_pylist())
        try:
            receipts = _run(blocks, _Sampling(self._task, self._folder, self._keep, self._fetch, places))
        except UnfitNode:
            self.discard()
            raise
        finally:
            places.remove()
        receipts.sort(key=lambda receipt: receipt["first"])
        failures = [FailedInput(**item) for receipt in receipts for item in receipt["failed"]]
        truth: Counter[str] = Counter()
        for receipt in receipts:
            truth.update(dict(receipt["truth"]))
        index = {
            "shards": [receipt["path"] for receipt in receipts if receipt["rows"]],
            "rows": sum(receipt["rows"] for receipt in receipts),
            "left_out": sum(receipt["left_out"] for receipt in receipts),
            "failed": by_code(failures),
            "failures": [dataclasses.asdict(item) for item in failures],
            "truth": dict(truth),
            "labels": self._labels,
        }
        if self._sources is not None:
            index["sources"] = [dataclasses.asdict(item) for item in _by_source(self._sources, receipts)]
        if not index["rows"]:
            self.discard()
            first = f"; the first: {failures[0]}" if failures else ""
            failed = f"failed: {by_code(failures)}{first}"
            if self._keep is not None:
                failed = f"{index['left_out']} are not of the wanted split; {failed}"
            raise RequestError(f"no {self._part} samples in {self._inputs.num_rows} inputs; {failed}")
        storage.write(storage.join(self._folder, "index.json"), to_json(index).encode())
        return index

    def _index(self) -> dict[str, Any] | None:
        where = storage.join(self._folder, "index.json")
        try:
            index = json.loads(storage.read(where)) if storage.exists(where) else None
        except ValueError:  # empty or zeros, as after a power cut: the samples are prepared again
            return None
        return index if index is None or self._is_whole(index) else None

    def _is_whole(self, index: dict[str, Any]) -> bool:
        """Whether the local shards of an index have their ends. Other stores have a whole object or none."""
        if not storage.is_local(self._folder):
            return True
        try:
            return all(has_arrow_end(storage.join(self._folder, name)) for name in index["shards"])
        except OSError:
            return False

    def _is_current(self, index: dict[str, Any]) -> bool:
        """Whether the samples of an index were prepared from the present labels, and its shards from the sources."""
        if self._sources is not None and len(index.get("sources", ())) != len(self._sources.names):
            return False
        if "labels" in index:
            return index["labels"] == self._labels
        newest = max(self._inputs["label_mtime"].drop_null().to_pylist(), default=None)
        written = storage.stat(storage.join(self._folder, "index.json")).mtime
        return newest is None or written is None or newest <= written


def prepare(inputs: pa.Table, task: Task, out: str, **settings: Any) -> Prepared:
    """Prepare samples below ``out``, or find them there: see `Preparation`."""
    return Preparation(inputs, task, out, **settings).prepare()


@dataclass(frozen=True)
class RecordSplit:
    """Keeps JSON records whose ``split`` has a given name. Also keeps broken records, so that they count as failed.
    What is no record has no split, and is not asked about.

    It is a dataclass, since its `repr` is part of a training's digest. A function would have no stable `repr`.
    """

    name: str

    def __call__(self, data: bytes) -> bool:
        try:
            record = json.loads(data)
        except ValueError:
            return True
        return not isinstance(record, dict) or record.get("split") == self.name


def _by_source(sources: Sources, receipts: list[dict[str, Any]]) -> list[SourceCounts]:
    """What each source has given; each receipt is of inputs of one source."""
    inputs = np.bincount(sources.of_inputs, minlength=len(sources.names)).tolist()
    rows, truth = [0] * len(inputs), [0] * len(inputs)
    for receipt in receipts:
        number = int(sources.of_inputs[receipt["first"]])
        rows[number] += receipt["rows"]
        truth[number] += sum(dict(receipt["truth"]).values())
    return [SourceCounts(rows=a, truth=b, inputs=c) for a, b, c in zip(rows, truth, inputs, strict=True)]


def check_sources(names: Sequence[str], parts: Sequence[Prepared], task: Task) -> None:
    """`RequestError` if one of several sources has nothing to learn in any part, such as texts without paragraphs."""
    for name, *counts in zip(names, *(part.sources for part in parts), strict=True):
        if not sum(item.truth for item in counts):
            inputs = sum(item.inputs for item in counts)
            raise RequestError(f"data {name!r}: no {task.truth_unit} in its {inputs} inputs")


def _run(blocks: list[pa.Table], work: _Sampling) -> list[dict[str, Any]]:
    release_actors()
    context = ray.data.DataContext.get_current()
    context.target_max_block_size = None
    context.enable_progress_bars = False
    dataset = ray.data.from_arrow(blocks).map_batches(work, batch_size=None, batch_format="pyarrow", num_cpus=0.5)
    seen: dict[int, dict[str, Any]] = {}
    try:
        for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            for receipt in cast("pa.Table", batch).to_pylist():
                seen.setdefault(receipt["first"], receipt)
    except Exception as reason:
        raise unfit_node(reason) or reason  # noqa: B904 - Ray's error is the one that is shown, or in the way
    missing = {block["ordinal"][0].as_py() for block in blocks} - set(seen)
    if missing:
        raise RuntimeError(f"{len(missing)} blocks of training inputs gave no shard")
    return list(seen.values())


class _Sampling:
    def __init__(
        self,
        task: Task,
        folder: str,
        keep: Callable[[bytes], bool] | None,
        fetch_config: FetchConfig,
        places: Places,
    ) -> None:
        self._task, self._folder, self._keep, self._fetch = task, folder, keep, fetch_config
        self._places = places

    def __call__(self, rows: pa.Table) -> pa.Table:
        self._places.see()
        require(self._task.missing())
        kind, left_out = self._task.inputs, 0
        if self._keep is not None:  # the columns of a Parquet file are read by name
            kind = dataclasses.replace(kind, record=tuple(dict.fromkeys((*kind.record, "split"))))
        data, errors = fetch(rows, kind, self._fetch)
        prepared: list[pa.Table] = []
        failed: list[FailedInput] = []
        for row, content, error in zip(rows.to_pylist(), data, errors.to_pylist(), strict=True):
            label, label_error = self._label(row)
            problem = error or label_error
            if problem is not None:
                failed.append(failed_input(row, problem, label=error is None))
                continue
            assert content is not None
            if self._keep is not None and not (row["format"] == RECORD and self._keep(content)):
                left_out += 1
                continue
            inputs = {"data": [content], "format": [row["format"]], "label": [label]}
            samples = self._task.prepare_samples(pa.table(inputs, schema=INPUT_SCHEMA))
            for problem in samples["error"].drop_null().to_pylist():
                failed.append(failed_input(row, problem, label=problem["code"] == "bad_label"))
            prepared.append(samples.filter(samples["error"].is_null()).drop_columns(["error"]))
        samples = pa.concat_tables(prepared) if prepared else pa.table({})
        name = f"{uuid.uuid4().hex}.arrow"
        if samples.num_rows:
            storage.write(storage.join(self._folder, name), _ipc(samples))
        receipt = {
            "path": name,
            "rows": samples.num_rows,
            "first": rows["ordinal"][0].as_py(),
            "left_out": left_out,
            "failed": [dataclasses.asdict(item) for item in failed],
            "truth": list(self._task.truth(samples).items()) if samples.num_rows else [],
        }
        return pa.Table.from_pylist([receipt], schema=_RECEIPT)

    def _label(self, row: dict[str, Any]) -> tuple[bytes | None, dict[str, str] | None]:
        """The bytes of an input's label, or the error; neither if the input has none."""
        if row["label_uri"] is None:
            return None if row["label"] is None else row["label"].encode(), None
        limits = storage.Read(etag=row["label_etag"] or None, max_bytes=self._fetch.max_bytes)
        try:
            return storage.fetch(row["label_uri"], limits), None
        except InputError as reason:
            return None, error_value("fetch", reason)


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
