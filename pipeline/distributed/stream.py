"""The stream: Ray Data runs blocks of entries through the stages, and yields one receipt for each part file."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Generator
from contextlib import closing
from typing import Any, ClassVar, TypeVar, cast

import pyarrow as pa
import ray
from ray.data._internal.execution.execution_callback import ExecutionCallback

from pipeline.distributed.places import unfit_node
from pipeline.distributed.session import cluster_size, release_actors
from pipeline.distributed.stages import AllStages, Predicting, Preparing, Work, Writing
from pipeline.errors import JobFailed
from pipeline.runs.device import Device
from pipeline.runs.plan import StreamConfig

_CALLS = 2  # blocks that an actor works on at a time
_ENDING_S = 10.0  # seconds that Ray Data may take to end its executions
WHOLE_BLOCK: dict[str, Any] = {"batch_size": None, "batch_format": "pyarrow", "zero_copy_batch": True}

T = TypeVar("T")


def receipts(blocks: list[pa.Table], work: Work, device: Device) -> Generator[dict[str, Any], None, None]:
    """Run blocks through the stages, with the model on a device. Yields one `RECEIPT` row for each part file written,
    in any order.

    Raises `UnfitNode` if a process does not see the places of ``work``, or lacks its device.
    """
    for block in executed(lambda: plan(ray.data.from_arrow(blocks), work, device, len(blocks))):
        yield from block.to_pylist()


def executed(planned: Callable[[], ray.data.Dataset]) -> Generator[pa.Table, None, None]:
    """Execute a plan of Ray Data whose operators turn one block into one. Yields the blocks, in any order.

    Raises `UnfitNode` if a process found that its node cannot do the work.
    """
    release_actors()
    context = ray.data.DataContext.get_current()
    context.target_max_block_size = None  # Ray must not split blocks: see `pipeline.distributed.stages`
    context.enable_progress_bars = False
    context.execution_options.preserve_order = False
    context.custom_execution_callback_classes = [_Executions]
    batches = planned().iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
    try:
        for batch in batches:
            yield cast("pa.Table", batch)
    except Exception as reason:
        raise unfit_node(reason) or reason  # noqa: B904 - Ray's error is the one that is shown, or in the way


class StreamStalled(JobFailed):
    """The stream yielded nothing for too long, or inputs have no row after all passes."""

    status = "stalled"


class _Executions(ExecutionCallback):
    """The executions of Ray Data in this process. Ray Data itself gives access to one only with its first output."""

    running: ClassVar[list[Any]] = []

    def before_execution_starts(self, executor: Any) -> None:
        self.running.append(executor)

    def after_execution_succeeds(self, executor: Any) -> None:
        if executor in self.running:
            self.running.remove(executor)

    def after_execution_fails(self, executor: Any, error: Exception) -> None:
        self.after_execution_succeeds(executor)


def end_executions() -> None:
    """End the executions that `receipts` runs; any thread may call this. The loop over `receipts` then ends as if the
    data were finished.

    It must be called before the process leaves the cluster. Otherwise threads of Ray Data would go on looking for the
    cluster, and Ray ends a process in which they do.
    """
    for executor in list(_Executions.running):
        executor.shutdown(force=False)  # with force, Ray would report the killed actors and run their tasks again


def stream_state() -> dict[str, int]:
    """Actors that run, and those that are wanted; and the blocks that wait for one, in this process's executions."""
    state = {"actors_running": 0, "actors_wanted": 0, "blocks_queued": 0}
    for executor in list(_Executions.running):
        for operator, queues in (executor._topology or {}).items():
            actors = operator.get_actor_info()
            if actors.running + actors.pending + actors.restarting:
                state["actors_running"] += actors.running
                state["actors_wanted"] += actors.running + actors.pending + actors.restarting
                state["blocks_queued"] += queues.total_enqueued_input_blocks()
    return state


def plan(blocks: ray.data.Dataset, work: Work, device: Device, count: int) -> ray.data.Dataset:
    """The lazy Ray Data plan for a dataset of ``count`` entry blocks."""
    if device == "cpu":
        return with_actors(blocks, AllStages, (work,), device, count, work.stream)
    prepared = blocks.map_batches(Preparing(work), num_cpus=0.5, **WHOLE_BLOCK)
    predicted = with_actors(prepared, Predicting, (work,), device, count, work.stream)
    return predicted.map_batches(Writing(work), num_cpus=0.25, **WHOLE_BLOCK)


def with_actors(
    blocks: ray.data.Dataset, actor: type, arguments: tuple[Any, ...], device: Device, count: int, config: StreamConfig
) -> ray.data.Dataset:
    """The lazy plan that gives each of ``count`` blocks to an actor with a model.

    The pool of actors starts with as many as the cluster has room for, and may grow with the cluster: Ray Data asks the
    autoscaler for more nodes while the actors are busy, and starts actors on nodes that join. Idle actors leave.
    """
    least, most = config.actor_range()
    most = min(most or count, max(1, -(-count // _CALLS)))
    least = min(least, most)
    room = int(cluster_size("GPU") / config.gpus_per_actor) if device == "gpu" else int(cluster_size("CPU"))
    ready = max(least, min(most, room))
    pool = ray.data.ActorPoolStrategy(
        min_size=least,
        max_size=max(most, ready),
        initial_size=ready,
        max_concurrent_calls_per_actor=_CALLS,
        enable_true_multi_threading=True,
        max_tasks_in_flight_per_actor=2 * _CALLS,
    )
    if device == "cpu":
        # Less than one CPU for each actor leaves room for Ray's other tasks, so one CPU is enough for a whole stream.
        return blocks.map_batches(actor, fn_constructor_args=arguments, compute=pool, num_cpus=0.9, **WHOLE_BLOCK)
    # The public method refuses whole blocks on GPUs, as they may be too large. Ours are bounded and cut into batches.
    return blocks.map_batches_internal(
        actor, fn_constructor_args=arguments, compute=pool, num_gpus=config.gpus_per_actor, num_cpus=0, **WHOLE_BLOCK
    )


def item_or_none(items: Generator[T, None, None], timeout_s: float) -> Generator[T | None, None, None]:
    """Yield the items of `receipts` or `executed`, and None every half second without one, so that the caller can do
    other things.

    Raises `StreamStalled` after ``timeout_s`` seconds without an item. Closing this generator ends the executions.
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
        while drained.is_alive():  # repeat, since an execution may begin after the call
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
        # A thread, so that a cluster that hangs cannot block the driver for longer than `_ENDING_S`. Otherwise wait for
        # the end: if executions of Ray Data are in progress when the cluster is left, Ray ends the process.
        ending = threading.Thread(target=end, name="ending", daemon=True)
        ending.start()
        ending.join(_ENDING_S)
