"""Stages of the stream: fetch, prepare, predict, encode, and write a part file. Workers apply them to blocks of inputs.

Every operator turns one block into one block, so an attempt that is repeated after a failure gives the same rows. The
last stage writes a part file, which is not committed yet, and returns one row about it, the receipt. The driver decides
which parts are committed.

On a cluster with GPUs there are three operators, so that GPU actors only predict. Without GPUs, one CPU actor runs all
stages, which avoids two copies of every block. Such an actor works on two blocks at a time, so that it can download one
while it processes the other.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pyarrow as pa
import ray
import torch

from pipeline import package
from pipeline.distributed.places import DeviceMissing, PackageMissing, Places, UnfitNode, require, this_node
from pipeline.distributed.watchdog import BlockWatchdog
from pipeline.engines import with_engine
from pipeline.errors import InputError
from pipeline.models.segmenters.onnx import RuntimeMissing
from pipeline.rows import ERROR_TYPE, INPUT_SCHEMA, binary_column, error_value
from pipeline.runs.plan import StreamConfig
from pipeline.source.fetch import fetch
from pipeline.table.parts import write_part
from pipeline.table.schema import KEY_COLUMNS, TableSchema
from pipeline.task import Task

#: Columns of a receipt: the part's path, the ordinals of its inputs, the codes of its errors, the names of what is
#: unusual, and seconds by stage.
RECEIPT = pa.schema(
    [
        ("path", pa.string()),
        ("size", pa.int64()),
        ("rows", pa.int64()),
        ("ordinals", pa.list_(pa.int64())),
        ("failed", pa.list_(pa.string())),
        ("unusual", pa.list_(pa.string())),
        ("bytes", pa.int64()),
        ("fetch_s", pa.float64()),
        ("prepare_s", pa.float64()),
        ("predict_s", pa.float64()),
        ("encode_s", pa.float64()),
        ("write_s", pa.float64()),
    ]
)
STAGES = ("fetch", "prepare", "predict", "encode", "write")
#: Result of a stage on some rows: the columns of the rows that succeeded, and the error of each row or None.
_Done = tuple[list[pa.Table], list[dict[str, str] | None]]


@dataclass(frozen=True, kw_only=True)
class Work:
    """Everything that workers need to know about a run. It is small, since it is sent with every task."""

    task: Task
    package_uri: str
    package_digest: str
    settings: str
    table_uri: str
    schema: TableSchema
    run_id: str
    stream: StreamConfig
    places: Places
    """What each process must see before it works."""
    unfinished: Any = None
    """The actor `UnfinishedBlocks` of the run; None: nothing records rows that kill workers."""


class _Block:
    """The rows of a block: their entries, their errors so far, and columns for the rows without an error (``good``)."""

    def __init__(self, entries: pa.Table, first: int = 0) -> None:
        """``first``: position of the first row in the original block, if this is a piece of it."""
        self.entries, self.first = entries, first
        self.errors: list[dict[str, str] | None] = [None] * entries.num_rows
        self.good = np.arange(entries.num_rows)
        self.columns = pa.table({})
        self.seconds: dict[str, float] = dict.fromkeys(STAGES, 0.0)

    def keep(self, columns: pa.Table, errors: pa.Array | pa.ChunkedArray) -> None:
        """Set the columns of the rows that were good until now. Rows with an error are no longer good."""
        failed = np.zeros(len(errors), bool)
        for index, error in enumerate(errors.to_pylist()):
            if error is not None:
                self.errors[self.good[index]] = error
                failed[index] = True
        self.good = self.good[~failed]
        self.columns = columns.filter(pa.array(~failed)) if failed.any() else columns

    def to_table(self) -> pa.Table:
        """The block as one Arrow table, for the next operator."""
        result = self.scattered()
        for name, column in zip(self.entries.column_names, self.entries.columns, strict=True):
            result = result.append_column(f"entry.{name}", column)
        result = result.append_column("entry.error_so_far", pa.array(self.errors, ERROR_TYPE))
        seconds = pa.array([self.seconds] * self.entries.num_rows)
        return result.append_column("entry.seconds", seconds)

    @classmethod
    def from_table(cls, rows: pa.Table) -> _Block:
        """The inverse of `to_table`."""
        entry = {name[len("entry.") :]: rows[name] for name in rows.column_names if name.startswith("entry.")}
        errors, seconds = entry.pop("error_so_far"), entry.pop("seconds")
        block = cls(pa.table(entry))
        block.columns = rows.select([name for name in rows.column_names if not name.startswith("entry.")])
        block.keep(block.columns, errors)
        block.seconds = cast("dict[str, float]", seconds[0].as_py())
        return block

    def pieces(self, rows: int) -> Iterator[_Block]:
        """Yield the block in pieces of at most ``rows`` rows."""
        for start in range(0, self.entries.num_rows, rows):
            piece = _Block(self.entries.slice(start, rows), self.first + start)
            begin, end = np.searchsorted(self.good, [start, start + rows])
            piece.errors = self.errors[start : start + rows]
            piece.good = self.good[begin:end] - start
            piece.columns = self.columns.slice(begin, end - begin)
            yield piece

    def join(self, pieces: list[_Block]) -> None:
        """Take the results of the block's `pieces`, in order."""
        starts = [piece.first - self.first for piece in pieces]
        self.errors = [error for piece in pieces for error in piece.errors]
        self.good = np.concatenate([piece.good + start for piece, start in zip(pieces, starts, strict=True)])
        filled = [piece.columns for piece in pieces if len(piece.good)]
        self.columns = pa.concat_tables(filled) if filled else pieces[0].columns.slice(0, 0)
        for piece in pieces:
            for stage, seconds in piece.seconds.items():
                self.seconds[stage] += seconds

    def scattered(self) -> pa.Table:
        """The columns for all rows; null for rows that failed.

        Made of slices: Arrow's ``take`` fails if the values of a column have more than 2 GiB together.
        """
        count, schema = self.entries.num_rows, self.columns.schema
        failed = np.setdiff1d(np.arange(count), self.good).tolist()
        null = pa.table([pa.nulls(1, field.type) for field in schema], schema=schema)
        pieces, taken, row = [self.columns.slice(0, 0)], 0, 0
        for place in [*failed, count]:
            pieces.append(self.columns.slice(taken, place - row))
            pieces += [null] if place < count else []
            taken, row = taken + place - row, place + 1
        return pa.concat_tables(pieces)


class _Timer:
    def __init__(self, block: _Block, stage: str) -> None:
        self._block, self._stage = block, stage

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._block.seconds[self._stage] += time.perf_counter() - self._start


def _fetch(block: _Block, work: Work, watchdog: BlockWatchdog) -> None:
    """Get the bytes of a block; if workers died in it, one row after the other, since a file can crash its reader."""
    with _Timer(block, "fetch"):
        if watchdog.row_by_row:
            data, errors = _fetch_rows(block, work, watchdog)
        else:
            data, errors = fetch(block.entries, work.task.inputs, work.stream.fetch)
        inputs = {"data": binary_column(data), "format": block.entries["format"], "label": [None] * len(data)}
        block.keep(pa.table(inputs, schema=INPUT_SCHEMA), errors)


def _fetch_rows(block: _Block, work: Work, watchdog: BlockWatchdog) -> tuple[list[bytes | None], pa.Array]:
    data: list[bytes | None] = []
    errors: list[dict[str, str] | None] = []
    for row in range(block.entries.num_rows):
        known = watchdog.failure(block.first + row)
        if known is not None:
            data.append(None)
            errors.append(error_value(*known))
            continue
        watchdog.begin_row("fetch", block.first + row)
        found, error = fetch(block.entries.slice(row, 1), work.task.inputs, work.stream.fetch)
        data += found
        errors += cast("list[dict[str, str] | None]", error.to_pylist())
    return data, pa.array(errors, ERROR_TYPE)


def _prepare(block: _Block, work: Work, watchdog: BlockWatchdog) -> None:
    _each_slice(block, work, watchdog, "prepare", lambda rows: _prepared(work.task, rows))


def _prepared(task: Task, rows: pa.Table) -> _Done:
    prepared = task.prepare(rows)
    errors = cast("list[dict[str, str] | None]", prepared["error"].to_pylist())
    good = pa.array([error is None for error in errors], pa.bool_())
    return [prepared.drop_columns(["error"]).filter(good)], errors


def _predict(block: _Block, work: Work, watchdog: BlockWatchdog, model: torch.nn.Module, device: torch.device) -> None:
    with torch.inference_mode():
        _each_slice(block, work, watchdog, "predict", lambda rows: _all_good(work.task.predict(model, rows, device)))


def _all_good(rows: pa.Table) -> _Done:
    return [rows], [None] * rows.num_rows


def _each_slice(
    block: _Block,
    work: Work,
    watchdog: BlockWatchdog,
    stage: str,
    run: Callable[[pa.Table], _Done],
) -> None:
    """Run a stage on slices of ``batch_rows`` rows, or on single rows if `row_by_row`, watched by ``watchdog``."""
    size = 1 if watchdog.row_by_row else work.stream.batch_rows
    results: list[pa.Table] = []
    errors: list[dict[str, str] | None] = []
    with _Timer(block, stage):
        for start in range(0, block.columns.num_rows, size):
            position = block.first + int(block.good[start])
            known = watchdog.failure(position) if watchdog.row_by_row else None
            if known is not None:
                errors.append(error_value(*known))
                continue
            with watchdog.slice(stage, position):
                done, failed = _divided(block.columns.slice(start, size), stage, run)
            results += done
            errors += failed
    _keep_results(block, results, errors)


def _keep_results(block: _Block, results: list[pa.Table], errors: list[dict[str, str] | None]) -> None:
    good = np.array([error is None for error in errors], bool)
    found = pa.concat_tables(results) if results else block.columns.slice(0, 0)
    for index in np.flatnonzero(~good):
        block.errors[block.good[index]] = errors[index]
    block.good = block.good[good]
    block.columns = found


def _divided(batch: pa.Table, stage: str, run: Callable[[pa.Table], _Done]) -> _Done:
    """Run a stage on a batch. If it fails, halve the batch until the faulty row is alone; only that row fails."""
    try:
        return run(batch)
    except Exception as reason:
        if isinstance(reason, torch.OutOfMemoryError):
            torch.cuda.empty_cache()  # so that a smaller batch finds a whole piece of memory
        if batch.num_rows > 1:
            middle = batch.num_rows // 2
            parts = [_divided(half, stage, run) for half in (batch.slice(0, middle), batch.slice(middle))]
            return parts[0][0] + parts[1][0], parts[0][1] + parts[1][1]
        if isinstance(reason, MemoryError | torch.OutOfMemoryError):
            error = InputError("out_of_memory", f"not enough memory to {stage} this input alone")
        else:
            error = InputError("internal", f"{stage} failed with {type(reason).__name__}")
        return [], [error_value(stage, error)]


def _encode(block: _Block, work: Work, watchdog: BlockWatchdog) -> None:
    _each_slice(block, work, watchdog, "encode", lambda rows: _all_good(work.task.encode(rows)))


def _write(block: _Block, work: Work) -> pa.Table:
    if not len(block.good):
        block.columns = work.task.schema.empty_table()
    rows = block.scattered()
    with _Timer(block, "write"):
        count = block.entries.num_rows
        columns = {name: block.entries[name] for name in KEY_COLUMNS.names}
        columns |= {name: rows[name] for name in work.task.schema.names}
        columns |= {
            "model": pa.array([work.package_digest] * count),
            "settings": pa.array([work.settings] * count),
            "run_id": pa.array([work.run_id] * count),
            "error": pa.array(block.errors, ERROR_TYPE),
        }
        part = write_part(work.table_uri, work.schema, pa.table(columns), work.run_id, work.package_digest)
    receipt = {
        "path": part.path,
        "size": part.size,
        "rows": part.rows,
        "ordinals": block.entries["ordinal"].to_pylist(),
        "failed": [error["code"] for error in block.errors if error is not None],
        "unusual": work.task.unusual(rows.select(work.task.schema.names)),
        "bytes": sum(size or 0 for size in block.entries["size"].to_pylist()),
    }
    receipt |= {f"{stage}_s": seconds for stage, seconds in block.seconds.items()}
    return pa.Table.from_pylist([receipt], schema=RECEIPT)


def device_of_actor() -> torch.device:
    """The device for the model of this actor. `DeviceMissing` if Ray gave it a GPU and torch sees none.

    Tests on nodes that only claim to have GPUs set ``PARQUETRY_GPUS_ARE_CLAIMED`` to 1, and get the CPU.
    """
    if not ray.get_gpu_ids() or os.environ.get("PARQUETRY_GPUS_ARE_CLAIMED") == "1":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise DeviceMissing(
            f"node {this_node()} offers GPUs, but torch {torch.__version__} sees none there: install a torch for its "
            "CUDA, or use --stream.device cpu"
        )
    return torch.device("cuda")


def model_of(loaded: package.Package) -> torch.nn.Module:
    """The model of a package. `PackageMissing` if this node lacks what runs it."""
    try:
        return loaded.model()
    except RuntimeMissing as reason:
        raise PackageMissing(f"node {this_node()}: {reason}") from reason


def _see(work: Work) -> None:
    """`UnfitNode` if this process does not see the places of a run, or lacks what its task needs."""
    work.places.see()
    require(work.task.missing())


class _Model:
    """The model of a package on its device. It runs one forward pass at a time."""

    def __init__(self, work: Work) -> None:
        work.places.see()
        loaded = package.load(work.package_uri)
        if loaded.digest != work.package_digest:
            raise RuntimeError(f"package {work.package_uri} changed during the run")
        self.device = device_of_actor()
        assert work.stream.engine != "auto", "the run has not decided"
        self.model = with_engine(model_of(loaded).to(self.device), work.stream.engine)
        self.lock = threading.Lock()
        if self.device.type == "cpu":
            torch.set_num_threads(1)

    def __call__(self, block: _Block, work: Work, watchdog: BlockWatchdog) -> None:
        with self.lock:
            _predict(block, work, watchdog, self.model, self.device)


def _model(work: Work) -> _Model | UnfitNode:
    """The model, or the error if this node does not see the run's places, or lacks the device or a Python package. With
    an error in its constructor, an actor would be started again."""
    try:
        return _Model(work)
    except UnfitNode as reason:
        return reason


class _WithModel:
    """An actor's class with a model."""

    def __init__(self, work: Work) -> None:
        self._work, self._loaded = work, _model(work)

    def _require_model(self) -> _Model:
        if isinstance(self._loaded, UnfitNode):
            raise self._loaded
        return self._loaded


class Preparing:
    def __init__(self, work: Work) -> None:
        self._work = work

    def __call__(self, entries: pa.Table) -> pa.Table:
        _see(self._work)
        block = _Block(entries)
        with _watched(block, self._work, "prepare") as watchdog:
            _fetch(block, self._work, watchdog)
            _prepare(block, self._work, watchdog)
        return block.to_table()


class Predicting(_WithModel):
    def __call__(self, rows: pa.Table) -> pa.Table:
        model = self._require_model()
        block = _Block.from_table(rows)
        with _watched(block, self._work, "predict") as watchdog:
            model(block, self._work, watchdog)
        return block.to_table()


class Writing:
    def __init__(self, work: Work) -> None:
        self._work = work

    def __call__(self, rows: pa.Table) -> pa.Table:
        self._work.places.see()
        block = _Block.from_table(rows)
        with _watched(block, self._work, "encode") as watchdog:
            _encode(block, self._work, watchdog)
            return _write(block, self._work)


class AllStages(_WithModel):
    def __call__(self, entries: pa.Table) -> pa.Table:
        model = self._require_model()
        _see(self._work)
        block = _Block(entries)
        with _watched(block, self._work, "all") as watchdog:
            _fetch(block, self._work, watchdog)
            pieces = []
            # One piece at a time, since the data between stages are large, such as masks that are not encoded yet.
            for piece in block.pieces(self._work.stream.batch_rows):
                _prepare(piece, self._work, watchdog)
                model(piece, self._work, watchdog)
                _encode(piece, self._work, watchdog)
                pieces.append(piece)
            block.join(pieces)
            return _write(block, self._work)


@contextmanager
def _watched(block: _Block, work: Work, operator: str) -> Iterator[BlockWatchdog]:
    ordinals = block.entries["ordinal"]
    name = f"{operator} {ordinals[0].as_py()} {ordinals[-1].as_py()} {len(ordinals)}"
    watchdog = BlockWatchdog(work.unfinished, name, work.stream.deadline_s)
    yield watchdog
    watchdog.end()
