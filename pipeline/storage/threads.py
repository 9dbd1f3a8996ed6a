"""A parallel map with threads that keeps the order and limits the results that wait."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def ordered(run: Callable[[T], R], items: Iterable[T], threads: int) -> Iterator[R]:
    """Yield ``run(item)`` for each item, in order. At most ``threads`` results are computed ahead of the consumer."""
    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(threads, "ordered") as pool:
        try:
            for item in items:
                waiting.append(pool.submit(run, item))
                if len(waiting) > threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
