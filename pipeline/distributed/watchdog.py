"""Watch: what becomes of an input that hangs its worker or takes it down.

An exception fails one row and no more, but a hang in a decoder, or a crash below Python, takes the whole worker, and
Ray runs the block again, to the same end. So workers tell a board, an actor of the run, which block they begin and end.
A worker that was in one slice of rows for longer than the deadline ends itself. A block whose workers keep dying is run
carefully: row by row, each announced before it is touched. A row that is over its deadline alone, or alone at several
deaths, fails; the rest of its block goes on.

Workers die for other reasons too, and a spot machine's end must not fail a row. Therefore one death alone is no proof.
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

_DEATHS_OF_A_BLOCK = 2  # before it is run carefully
_DEATHS_OF_A_ROW = 3  # alone, before it is guilty
_ANSWER_S = 20.0
_TICK_S = 0.5


class _Board:
    """What is known of the blocks that have begun and not ended."""

    def __init__(self) -> None:
        self._begun: Counter[str] = Counter()
        self._alone: dict[str, tuple[int, str]] = {}
        self._deaths: Counter[tuple[str, int, str]] = Counter()
        self._guilty: dict[str, dict[int, tuple[str, str]]] = {}

    def begin(self, block: str) -> tuple[bool, dict[int, tuple[str, str]]]:
        """Whether to be careful, and the guilty rows so far: (stage, code) by position."""
        self._begun[block] += 1
        where = self._alone.pop(block, None)
        if where is not None:
            row, stage = where
            self._deaths[block, row, stage] += 1
            if self._deaths[block, row, stage] >= _DEATHS_OF_A_ROW:
                self._guilty.setdefault(block, {})[row] = (stage, "crashed")
        return self._begun[block] > _DEATHS_OF_A_BLOCK, self._guilty.get(block, {})

    def alone(self, block: str, row: int, stage: str) -> None:
        self._alone[block] = (row, stage)

    def overdue(self, block: str, row: int | None, stage: str) -> None:
        if row is None:
            self._begun[block] += _DEATHS_OF_A_BLOCK
        else:
            self._alone.pop(block, None)
            self._guilty.setdefault(block, {})[row] = (stage, "timeout")

    def end(self, block: str) -> None:
        self._begun.pop(block, None)
        self._alone.pop(block, None)
        self._guilty.pop(block, None)
        for key in [key for key in self._deaths if key[0] == block]:
            del self._deaths[key]


def make_board() -> Any:
    """A board for one run, on this node as long as it lives; `ray.kill` it in the end."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    options: dict[str, Any] = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1, "scheduling_strategy": here}
    return ray.remote(_Board).options(**options).remote()


class Watch:
    """One block in one worker, from its begin to its end."""

    def __init__(self, board: Any, block: str, deadline_s: float) -> None:
        self._board, self._block, self.deadline_s = board, block, deadline_s
        self.careful, self.guilty = False, {}
        if board is not None:
            self.careful, self.guilty = self._ask("begin", (False, {}))

    def failure(self, row: int) -> tuple[str, InputError] | None:
        """The stage and the error of a row that is known to be guilty."""
        if row not in self.guilty:
            return None
        stage, code = self.guilty[row]
        message = {
            "timeout": f"{stage} of this input alone took longer than the deadline",
            "crashed": f"the worker died at {stage} of this input alone, {_DEATHS_OF_A_ROW} times",
        }[code]
        return stage, InputError(code, message)

    @contextmanager
    def slice(self, stage: str, row: int) -> Iterator[None]:
        """Around work on some rows, or on one if `careful`; its position in the block is ``row``."""
        alone = row if self.careful else None
        if alone is not None:
            self._ask("alone", None, alone, stage)
        with _WATCHDOG.over(self.deadline_s, lambda: self._ask("overdue", None, alone, stage)):
            yield

    def end(self) -> None:
        if self._board is not None:
            self._board.end.remote(self._block)

    def _ask(self, method: str, otherwise: Any, *arguments: Any) -> Any:
        if self._board is None:
            return otherwise
        try:
            return ray.get(getattr(self._board, method).remote(self._block, *arguments), timeout=_ANSWER_S)
        except (RayError, TimeoutError):
            return otherwise  # a board that is gone has forgotten; the work goes on without it


class _Watchdog:
    """One thread of a worker that ends its process when something takes too long. Nothing gentler stops C code."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[int, tuple[float, Any]] = {}
        self._thread: threading.Thread | None = None
        self._next = 0

    @contextmanager
    def over(self, seconds: float, tell: Any) -> Iterator[None]:
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


_WATCHDOG = _Watchdog()
