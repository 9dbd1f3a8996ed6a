"""Metrics of a run for Prometheus: Ray exports them at every node's metrics port, with the prefix ``ray_``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray.util.metrics import Counter, Gauge

from pipeline.runs.events import Event

_TAGS = ("task", "run")


class Metrics:
    """Listens to the events of a run, and keeps its metrics. They are those of the driver's process."""

    def __init__(self, task: str) -> None:
        self._task = task
        self._done = _counter("inputs_done", "Inputs with a result")
        self._failed = _counter("inputs_failed", "Inputs with an error", "code")
        self._parts = _counter("parts", "Part files accepted")
        self._rows = _counter("rows_committed", "Rows committed to the table")
        self._bytes = _counter("fetched_bytes", "Bytes of the inputs, by the listing")
        self._seconds = _counter("stage_seconds", "Seconds of workers", "stage")
        self._pending = _gauge("inputs_pending", "Inputs that have no row yet")
        self._queued = _gauge("blocks_queued", "Blocks that wait for an actor")
        self._actors = _gauge("actors", "Actors that have a model", "state")

    def __call__(self, event: Event) -> None:
        facts = event.facts
        tags = {"task": self._task, "run": str(facts.get("run", ""))}
        if event.kind == "part":
            self._add_part(facts, tags)
        elif event.kind == "commit":
            _add(self._rows, facts["rows"], tags)
        elif event.kind in ("progress", "waiting"):
            self._pending.set(facts["pending"] - facts["done"] - facts["failed"], tags)
            self._queued.set(facts.get("blocks_queued", 0), tags)
            for state in ("running", "wanted"):
                self._actors.set(facts.get(f"actors_{state}", 0), tags | {"state": state})

    def _add_part(self, facts: Mapping[str, Any], tags: dict[str, str]) -> None:
        failed: Mapping[str, int] = facts["failed"]
        self._parts.inc(1, tags)
        _add(self._done, facts["rows"] - sum(failed.values()), tags)
        for code, count in failed.items():
            _add(self._failed, count, tags | {"code": code})
        _add(self._bytes, facts["bytes"], tags)
        for stage, seconds in facts["seconds"].items():
            _add(self._seconds, seconds, tags | {"stage": stage})


def _counter(name: str, text: str, *tags: str) -> Counter:
    return Counter(f"parquetry_{name}", text, (*_TAGS, *tags))


def _gauge(name: str, text: str, *tags: str) -> Gauge:
    return Gauge(f"parquetry_{name}", text, (*_TAGS, *tags))


def _add(counter: Counter, value: float, tags: dict[str, str]) -> None:
    if value > 0:  # a counter refuses 0
        counter.inc(value, tags)
