"""Timeline: how many inputs a run has done when, and what its workers did, in bounded memory."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

_BINS = 120  # more are joined in pairs, so that the width doubles


class Timeline:
    """Counts in bins of equal width, from the beginning of a run to its last part."""

    def __init__(self) -> None:
        self.width_s = 1.0
        self._started = time.monotonic()
        self._bins: list[dict[str, float]] = []
        self._first_s: float | None = None
        self._most: dict[str, float] = {}
        self._queued: list[float] = [0.0, 0.0]  # sum and number of the looks at the queue

    @property
    def is_unseen(self) -> bool:
        """Whether `look` has never seen an actor."""
        return not self._most.get("actors_running")

    def begin(self) -> None:
        """The run begins now."""
        self._started = time.monotonic()

    def add(self, rows: int, fetched_bytes: int, stage_seconds: Mapping[str, float], at_s: float | None = None) -> None:
        """Count a part that has arrived, ``at_s`` seconds after the beginning; None: now."""
        at_s = time.monotonic() - self._started if at_s is None else at_s
        self._first_s = at_s if self._first_s is None else self._first_s
        while at_s >= _BINS * self.width_s:
            self._bins = [_sum(self._bins[place : place + 2]) for place in range(0, len(self._bins), 2)]
            self.width_s *= 2
        place = int(at_s / self.width_s)
        self._bins += [{} for _ in range(place + 1 - len(self._bins))]
        self._bins[place] = _sum([self._bins[place], {"rows": rows, "bytes": fetched_bytes, **stage_seconds}])

    def look(self, state: Mapping[str, Any]) -> None:
        """Note what the cluster has at this moment: actors, blocks that wait for one, CPUs and GPUs."""
        for name in ("actors_running", "cpus", "gpus"):
            self._most[name] = max(self._most.get(name, 0), state.get(name, 0))
        if state.get("actors_running"):
            self._queued = [self._queued[0] + state.get("blocks_queued", 0), self._queued[1] + 1]

    def described(self) -> dict[str, Any]:
        """Plain values: the width of a bin in seconds, the bins, and what the cluster had at most."""
        return {
            "width_s": self.width_s,
            "bins": self._bins,
            "first_part_s": self._first_s,
            "actors": int(self._most.get("actors_running", 0)),
            "cpus": self._most.get("cpus", 0.0),
            "gpus": self._most.get("gpus", 0.0),
            "blocks_queued": self._queued[0] / self._queued[1] if self._queued[1] else None,
        }


def _sum(bins: list[dict[str, float]]) -> dict[str, float]:
    found: dict[str, float] = {}
    for item in bins:
        for name, value in item.items():
            found[name] = found.get(name, 0) + value
    return found
