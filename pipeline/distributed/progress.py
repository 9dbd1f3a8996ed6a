"""Progress: what workers tell the driver while they work. It may get lost, but never holds up or ends their work.

A worker sends without waiting for an answer, and no failure of the way reaches it. The box that keeps what was sent
until the driver fetches it is an actor on the driver's own node, so no other node can take it away; if its process
dies, Ray starts it again, and only what was in it is lost.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

_KEPT = 10_000  # items that wait for the driver; older ones are dropped
_FETCH_S = 0.5
_ANSWER_S = 10.0
_SIGN_S = 5.0

AT_WORK = "at work"
"""The sign that `Sender.at_work` sends."""
FINISHED = "finished"
"""The sign that nothing is to be waited for any more."""


class Sender:
    """The workers' end. It can be sent to them."""

    def __init__(self, box: Any) -> None:
        self._box = box

    def put(self, item: Any) -> None:
        """Send a line, or anything small, on its way. Returns at once, and never fails."""
        with contextlib.suppress(Exception):
            self._box.put.remote(item)

    def deliver(self, item: Any) -> None:
        """As `put`, but wait up to ten seconds until it has arrived: for the last word of a worker that then ends."""
        with contextlib.suppress(Exception):
            ray.get(self._box.put.remote(item), timeout=_ANSWER_S)

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """Send `AT_WORK` at once and every five seconds, as long as the ``with`` block goes on."""
        over = threading.Event()

        def send() -> None:
            self.put(AT_WORK)
            while not over.wait(_SIGN_S):
                self.put(AT_WORK)

        threading.Thread(target=send, name="at work", daemon=True).start()
        try:
            yield
        finally:
            over.set()


class Receiver:
    """The driver's end: it calls ``hear`` with each item, in a thread of its own, until `close`."""

    def __init__(self, hear: Callable[[Any], None]) -> None:
        self._hear, self._stop = hear, threading.Event()
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        limits = {"num_cpus": 0, "max_restarts": -1, "max_pending_calls": _KEPT}
        self._box: Any = ray.remote(_Box).options(scheduling_strategy=here, **limits).remote()
        self.sender = Sender(self._box)
        self._thread = threading.Thread(target=self._listen, name="progress", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Hear what is there still, then end the box."""
        self._stop.set()
        self._thread.join(2 * _ANSWER_S)
        with contextlib.suppress(Exception):
            ray.kill(self._box)

    def _listen(self) -> None:
        over = False
        while not over:
            over = self._stop.wait(_FETCH_S)
            items: list[Any] = []
            with contextlib.suppress(Exception):  # the box is starting again, say
                items = ray.get(self._box.take.remote(), timeout=_ANSWER_S)
            for item in items:
                self._hear(item)


class _Box:
    def __init__(self) -> None:
        self._items: deque[Any] = deque(maxlen=_KEPT)

    def put(self, item: Any) -> None:
        self._items.append(item)

    def take(self) -> list[Any]:
        items = list(self._items)
        self._items.clear()
        return items
