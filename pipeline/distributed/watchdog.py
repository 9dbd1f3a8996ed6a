"""Watchdog: finds the inputs that hang a worker or kill it, so that only their rows fail.

An exception fails only one row. But a hang in a decoder, or a crash in C code, costs the whole worker. Ray then runs
the block again, with the same result. So the run has an actor, `UnfinishedBlocks`, and each worker reports to it when
it begins and when it ends a block. A worker that spends more than the deadline on one slice of rows ends its own
process. If a worker has done so, or two workers have died in a block, the next one processes it one row at a time, and
reports each row before it begins. A row fails if it exceeds the deadline, or if the worker dies several times while it
processes this row. The other rows of the block are processed.

A worker may also die for other reasons, such as the end of a spot machine, and that must not fail a row. So one death
is not enough.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.errors import InputError

_DEATHS_OF_A_BLOCK = 2  # begins without an end, after which a block is processed one row at a time
_DEATHS_OF_A_ROW = 3  # deaths of a worker at one row, processed alone, after which the row fails
_ANSWER_S = 20.0
_TICK_S = 0.5


class UnfinishedBlocks:
    """Records which blocks workers have begun and not ended, and which of their rows kill or hang the workers.

    Rows are named by their position in the block.
    """

    def __init__(self) -> None:
        self._begun: Counter[str] = Counter()
        self._alone: dict[str, tuple[int, str]] = {}
        self._deaths: Counter[tuple[str, int, str]] = Counter()
        self._faulty: dict[str, dict[int, tuple[str, str]]] = {}

    def begin(self, block: str) -> tuple[bool, dict[int, tuple[str, str]]]:
        """A worker begins a block. Returns whether it must go row by row, and the faulty rows: (stage, error code)."""
        self._begun[block] += 1
        where = self._alone.pop(block, None)
        if where is not None:
            row, stage = where
            self._deaths[block, row, stage] += 1
            if self._deaths[block, row, stage] >= _DEATHS_OF_A_ROW:
                self._faulty.setdefault(block, {})[row] = (stage, "crashed")
        return self._begun[block] > _DEATHS_OF_A_BLOCK, self._faulty.get(block, {})

    def begin_row(self, block: str, row: int, stage: str) -> None:
        """A worker begins a stage with one row alone."""
        self._alone[block] = (row, stage)

    def overdue(self, block: str, row: int | None, stage: str) -> None:
        """A worker exceeded the deadline, with one row, or with a slice of rows (None), and is about to end itself."""
        if row is None:
            self._begun[block] += _DEATHS_OF_A_BLOCK
        else:
            self._alone.pop(block, None)
            self._faulty.setdefault(block, {})[row] = (stage, "timeout")

    def end(self, block: str) -> None:
        """A worker has finished a block."""
        self._begun.pop(block, None)
        self._alone.pop(block, None)
        self._faulty.pop(block, None)
        for key in [key for key in self._deaths if key[0] == block]:
            del self._deaths[key]


def make_unfinished_blocks() -> Any:
    """Start the actor `UnfinishedBlocks` of a run, on this node if possible. The caller ends it with `ray.kill`."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    options: dict[str, Any] = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1, "scheduling_strategy": here}
    return ray.remote(UnfinishedBlocks).options(**options).remote()


class BlockWatchdog:
    """Watches one block in one worker: reports its progress, and ends the process if a slice exceeds the deadline.

    ``row_by_row``: whether earlier workers died in this block, so that it must be processed one row at a time.
    """

    def __init__(self, unfinished: Any, block: str, deadline_s: float) -> None:
        """``unfinished`` is the actor `UnfinishedBlocks`; None: only the deadline is watched."""
        self._unfinished, self._block, self.deadline_s = unfinished, block, deadline_s
        self.row_by_row, self._faulty = False, {}
        if unfinished is not None:
            self.row_by_row, self._faulty = self._ask("begin", (False, {}))

    def failure(self, row: int) -> tuple[str, InputError] | None:
        """The stage and the error of a row that is known to hang or kill workers. None for other rows."""
        if row not in self._faulty:
            return None
        stage, code = self._faulty[row]
        message = {
            "timeout": f"{stage} of this input alone took longer than the deadline",
            "crashed": f"the worker died at {stage} of this input alone, {_DEATHS_OF_A_ROW} times",
        }[code]
        return stage, InputError(code, message)

    @contextmanager
    def slice(self, stage: str, row: int) -> Iterator[None]:
        """Context for work on a slice of rows that begins at ``row``; if `row_by_row`, on this row alone."""
        alone = row if self.row_by_row else None
        if alone is not None:
            self.begin_row(stage, alone)
        with _DEADLINES.limit(self.deadline_s, lambda: self._ask("overdue", None, alone, stage)):
            yield

    def begin_row(self, stage: str, row: int) -> None:
        """Report that a stage begins with one row alone. Fetching has deadlines of its own."""
        self._ask("begin_row", None, row, stage)

    def end(self) -> None:
        if self._unfinished is not None:
            self._unfinished.end.remote(self._block)

    def _ask(self, method: str, otherwise: Any, *arguments: Any) -> Any:
        if self._unfinished is None:
            return otherwise
        try:
            return ray.get(getattr(self._unfinished, method).remote(self._block, *arguments), timeout=_ANSWER_S)
        except (RayError, TimeoutError):
            return otherwise  # the actor is gone and its records are lost; the work goes on without it


class _Deadlines:
    """A thread that ends this process when work exceeds its deadline. Nothing less stops a hang in C code."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[int, tuple[float, Any]] = {}
        self._thread: threading.Thread | None = None
        self._next = 0

    @contextmanager
    def limit(self, seconds: float, tell: Any) -> Iterator[None]:
        """Context for work that may take so many seconds. If it takes longer, ``tell()`` is called before the end."""
        with self._lock:
            self._next += 1
            mine = self._next
            self._running[mine] = (time.monotonic() + seconds, tell)
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
                self._thread.start()
        try:
            yield
        finally:
            with self._lock:
                self._running.pop(mine, None)

    def _watch(self) -> None:
        while True:
            time.sleep(_TICK_S)
            now = time.monotonic()
            with self._lock:
                overdue = [tell for end, tell in self._running.values() if now > end]
            if overdue:
                for tell in overdue:
                    tell()
                os._exit(1)


_DEADLINES = _Deadlines()
