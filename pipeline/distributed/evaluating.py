"""Evaluation on a cluster: actors with the model score blocks of inputs, as many as the cluster has room for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from typing import Protocol

import pyarrow as pa
import ray
import torch
from torch import nn

from pipeline import package
from pipeline.distributed.places import Places, UnfitNode, mark
from pipeline.distributed.session import waiting
from pipeline.distributed.stages import device_of_actor, model_of
from pipeline.distributed.stream import executed, item_or_none, with_actors
from pipeline.package import Package
from pipeline.runs.device import Device
from pipeline.runs.plan import StreamConfig

_BLOCK_ROWS = 32
_WAITING_S = 30.0


class Scorer(Protocol):
    """Scores each of some inputs, with a model on a device. It can be sent to workers."""

    def score(self, model: nn.Module, rows: pa.Table, device: torch.device) -> pa.Table: ...


def scores_on_cluster(
    scorer: Scorer,
    described: Package,
    rows: pa.Table,
    out: str,
    *,
    device: Device,
    stall_timeout_s: float,
    progress: Callable[[int], None],
    say: Callable[[str], None],
) -> pa.Table:
    """The scores of all inputs, in the order of ``rows``. Needs an open session.

    ``progress`` is called with the number of inputs so far. Raises `UnfitNode` if a node does not see the package, the
    inputs or ``out``, and `StreamStalled` if nothing comes for ``stall_timeout_s`` seconds.
    """
    blocks = [rows.slice(start, _BLOCK_ROWS) for start in range(0, rows.num_rows, _BLOCK_ROWS)]
    places = mark(out, package=described.uri, inputs=rows["uri"].to_pylist())
    arguments = (scorer, described.uri, described.digest, places)
    planned = executed(
        lambda: with_actors(ray.data.from_arrow(blocks), Scoring, arguments, device, len(blocks), StreamConfig())
    )
    try:
        found = list(_watched(item_or_none(planned, stall_timeout_s), device, progress, say))
    finally:
        places.remove()
    return pa.concat_tables(found).sort_by("ordinal")


def _watched(
    arriving: Generator[pa.Table | None, None, None],
    device: Device,
    progress: Callable[[int], None],
    say: Callable[[str], None],
) -> Iterator[pa.Table]:
    done, last = 0, time.monotonic()
    with closing(arriving):
        for block in arriving:
            if block is not None:
                done, last = done + block.num_rows, time.monotonic()
                progress(done)
                yield block
            elif time.monotonic() - last > _WAITING_S:
                last = time.monotonic()
                say(waiting(device))


class Scoring:
    """An actor with the model of a package."""

    def __init__(self, scorer: Scorer, package_uri: str, digest: str, places: Places) -> None:
        self._scorer, self._lock = scorer, threading.Lock()
        self._unfit: UnfitNode | None = None
        try:
            places.see()
            self._device = device_of_actor()
            described = package.load(package_uri)
            if described.digest != digest:
                raise RuntimeError(f"package {package_uri} changed during the evaluation")
            self._model = model_of(described).to(self._device)
        except UnfitNode as reason:
            self._unfit = reason  # an error in the constructor would have Ray start the actor again
            return
        if self._device.type == "cpu":
            torch.set_num_threads(1)

    def __call__(self, rows: pa.Table) -> pa.Table:
        if self._unfit is not None:
            raise self._unfit
        with self._lock:
            return self._scorer.score(self._model, rows, self._device)
