"""How many GPU actors one driver feeds: actors whose model only sleeps, and stages beside it that do nothing.

Each actor sleeps 20 ms for a batch of 16 rows, so a block of n rows keeps it busy for n / 16 * 20 ms. The plan is that
of a run with GPUs: a stage on CPUs, the actors, a stage on CPUs; the driver takes a receipt for each block. GPUs are
claimed. Told are the share of time in which the actors were busy, between the first and the last of their calls, and
the seconds of CPU that the driver's process took for a block. The real stages need CPUs of their own; this is what
remains if those are elsewhere.
"""

from __future__ import annotations

import argparse
import os
import statistics
import threading
import time
from typing import Any

import pyarrow as pa
import ray

from benchmarks.record import record
from pipeline.distributed.session import session
from pipeline.distributed.stream import WHOLE_BLOCK, executed, with_actors
from pipeline.runs.cluster import ClusterConfig
from pipeline.runs.plan import StreamConfig

ACTORS, BATCH_ROWS, BATCH_S = 16, 16, 0.02
BLOCK_ROWS = (128, 256, 512, 1024)
SECONDS = 30.0  # of work for each actor


class Sleeping:
    """An actor whose model sleeps."""

    def __init__(self) -> None:
        self._name, self._lock = os.getpid(), threading.Lock()

    def __call__(self, rows: pa.Table) -> pa.Table:
        with self._lock:  # as the actors of a run: two calls at a time, of which one is at the model
            started = time.time()
            time.sleep(rows.num_rows / BATCH_ROWS * BATCH_S)
            return pa.table({"actor": [self._name], "from": [started], "to": [time.time()]})


def unchanged(rows: pa.Table) -> pa.Table:
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--small", action="store_true", help="four actors for five seconds")
    arguments = parser.parse_args()
    actors, seconds = (4, 5.0) if arguments.small else (ACTORS, SECONDS)
    with session(ClusterConfig(address="local", cpus=4, gpus=actors)):
        rows = [measured(actors, size, seconds) for size in BLOCK_ROWS]
    best = max(rows, key=lambda row: row["busy"])
    headline = {f"busy_{actors}": best["busy"], "driver_cores": best["driver's cores"]}
    record("scale", rows, headline, f"{actors} actors, {seconds:g} s of work each. {__doc__}", small=arguments.small)


def measured(actors: int, block_rows: int, seconds: float) -> dict[str, Any]:
    count = round(actors * seconds / (block_rows / BATCH_ROWS * BATCH_S))
    ordinals = pa.table({"ordinal": pa.array(range(block_rows), pa.int64())})
    before, started = time.process_time(), time.monotonic()
    calls = [row for block in executed(lambda: _plan([ordinals] * count, actors)) for row in block.to_pylist()]
    cpu_s, wall_s = time.process_time() - before, time.monotonic() - started
    assert len(calls) == count, (len(calls), count)
    by_actor: dict[int, list[dict[str, Any]]] = {}
    for call in calls:
        by_actor.setdefault(call["actor"], []).append(call)
    # From the time at which all actors were there, until the first of them had nothing more to do.
    begun = max(min(call["from"] for call in own) for own in by_actor.values())
    ended = min(max(call["to"] for call in own) for own in by_actor.values())
    busy = sum(max(0.0, min(call["to"], ended) - max(call["from"], begun)) for call in calls)
    return {
        "block rows": block_rows,
        "blocks": count,
        "busy": busy / (ended - begun) / actors,
        "driver's ms of CPU for a block": 1000 * cpu_s / count,
        "driver's cores": cpu_s / wall_s,
        "median s of a call": statistics.median(call["to"] - call["from"] for call in calls),
    }


def _plan(blocks: list[pa.Table], actors: int) -> ray.data.Dataset:
    prepared = ray.data.from_arrow(blocks).map_batches(unchanged, num_cpus=0.5, **WHOLE_BLOCK)
    config = StreamConfig(actors=f"{actors}:{actors}")
    predicted = with_actors(prepared, Sleeping, (), "gpu", len(blocks), config)
    return predicted.map_batches(unchanged, num_cpus=0.25, **WHOLE_BLOCK)


if __name__ == "__main__":
    main()
