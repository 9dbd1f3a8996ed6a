"""Stream: blocks of entries through the stages, on Ray Data; what comes back is one receipt for each part file."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Generator
from contextlib import closing
from typing import Any, ClassVar, cast

import pyarrow as pa
import ray
from ray.data._internal.execution.execution_callback import ExecutionCallback

from pipeline.distributed.session import cluster_size
from pipeline.distributed.stages import AllStages, Predicting, Preparing, Work, Writing
from pipeline.errors import JobFailed

_ENDING_S = 10.0  # how long Ray Data may take to end what is under way


def receipts(blocks: list[pa.Table], work: Work) -> Generator[dict[str, Any], None, None]:
    """Run blocks through the stages; one `RECEIPT` row for each part file that was written, in any order."""
    context = ray.data.DataContext.get_current()
    context.target_max_block_size = None  # a block is never cut: see `pipeline.distributed.stages`
    context.enable_progress_bars = False
    context.execution_options.preserve_order = False
    context.custom_execution_callback_classes = [_Executions]
    for batch in plan(ray.data.from_arrow(blocks), work).iter_batches(
        batch_size=None, batch_format="pyarrow", prefetch_batches=0
    ):
        yield from cast("pa.Table", batch).to_pylist()


class StreamStalled(JobFailed):
    """Nothing came out of the stream for too long, or inputs are missing after every pass."""

    status = "stalled"


class _Executions(ExecutionCallback):
    """The executions of Ray Data that run in this process. Ray Data itself only names one with its first output."""

    running: ClassVar[list[Any]] = []

    def before_execution_starts(self, executor: Any) -> None:
        self.running.append(executor)

    def after_execution_succeeds(self, executor: Any) -> None:
        if executor in self.running:
            self.running.remove(executor)

    def after_execution_fails(self, executor: Any, error: Exception) -> None:
        self.after_execution_succeeds(executor)


def end_executions() -> None:
    """End what `receipts` runs, from any thread. The loop over `receipts` then ends as if the data were finished.

    A process that left the cluster without this would keep threads of Ray Data that look for the cluster, and Ray ends
    a process whose threads do.
    """
    for executor in list(_Executions.running):
        executor.shutdown(force=False)  # killed actors would have their tasks tried again, and say so


def plan(blocks: ray.data.Dataset, work: Work) -> ray.data.Dataset:
    """The lazy Ray Data plan over a dataset of entry blocks."""
    config = work.stream
    gpus, cpus = cluster_size("GPU"), cluster_size("CPU")
    on_gpu = config.device == "gpu" or (config.device == "auto" and gpus > 0)
    whole_block: dict[str, Any] = {"batch_size": None, "batch_format": "pyarrow", "zero_copy_batch": True}
    most = config.actors or max(1, int(gpus if on_gpu else cpus))
    ready = max(1, min(most, int(gpus if on_gpu else cpus)))
    calls = 2
    pool = ray.data.ActorPoolStrategy(
        min_size=1,
        max_size=most,
        initial_size=ready,
        max_concurrent_calls_per_actor=calls,
        enable_true_multi_threading=True,
        max_tasks_in_flight_per_actor=2 * calls,
    )
    if not on_gpu:
        # A fraction below one leaves room for whatever else wants a CPU, so one CPU is enough for the whole stream.
        return blocks.map_batches(AllStages, fn_constructor_args=(work,), compute=pool, num_cpus=0.9, **whole_block)
    prepared = blocks.map_batches(Preparing(work), num_cpus=0.5, **whole_block)
    # The public call refuses whole blocks on GPUs, for fear of their size. Ours are bounded, and cut into batches.
    predicted = prepared.map_batches_internal(
        Predicting, fn_constructor_args=(work,), compute=pool, num_gpus=1, num_cpus=0, **whole_block
    )
    return predicted.map_batches(Writing(work), num_cpus=0.25, **whole_block)


def receipts_or_none(
    items: Generator[dict[str, Any], None, None], timeout_s: float
) -> Generator[dict[str, Any] | None, None, None]:
    """`receipts`, and None twice a second while there is none, so that the caller can do other things meanwhile.

    `StreamStalled` after ``timeout_s`` without a receipt. Closing this generator ends the executions behind it.
    """
    arrived: queue.Queue[tuple[str, Any]] = queue.Queue()
    abandoned = threading.Event()

    def drain() -> None:
        try:
            with closing(items):
                for item in items:
                    if abandoned.is_set():
                        return
                    arrived.put(("item", item))
            arrived.put(("end", None))
        except BaseException as reason:
            arrived.put(("error", reason))

    def end() -> None:
        while drained.is_alive():  # an execution may be about to begin
            end_executions()
            drained.join(0.1)

    drained = threading.Thread(target=drain, name="receipts", daemon=True)
    drained.start()
    last = time.monotonic()
    try:
        while True:
            try:
                kind, value = arrived.get(timeout=0.5)
            except queue.Empty:
                if time.monotonic() - last > timeout_s:
                    raise StreamStalled(f"nothing came out of the stream for {timeout_s:g} s") from None
                yield None
                continue
            last = time.monotonic()
            if kind == "end":
                return
            if kind == "error":
                raise value
            yield value
    finally:
        abandoned.set()
        # In a thread, since a cluster that hangs must not hold up its driver. But for that, nothing of Ray Data may be
        # under way when the cluster is left: Ray would end the process then and there.
        ending = threading.Thread(target=end, name="ending", daemon=True)
        ending.start()
        ending.join(_ENDING_S)
