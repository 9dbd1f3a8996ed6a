"""Listing the keys of an object store with several threads. The store must list in order, starting at any key."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

_LAST_CHARACTER = "\U0010ffff"
_PAGES_BEFORE_SPLIT = 4
_LISTERS = 8


@dataclass
class _Range:
    """Keys after one key and before another. ``depth`` is the number of leading characters that they share, so far."""

    after: str
    until: str | None
    depth: int


class Listing:
    """Lists the keys with a prefix with several threads. If a thread's range is long and another thread is idle, it
    gives the idle thread a part of its range. So a short listing needs no more requests than with one thread."""

    def __init__(
        self,
        prefix: str,
        begins: str,
        pages_after: Callable[[str], Iterator[pa.Table]],
        first_after: Callable[[str], pa.Table],
    ) -> None:
        """List the keys with ``prefix`` whose remaining characters begin with ``begins``.

        ``pages_after(key)`` returns the keys with the prefix after a key, in order, in a column ``key``.
        ``first_after(key)`` returns the first of them as a table of one row, or of none. Several threads call both.
        """
        self._pages_after, self._first_after = pages_after, first_after
        whole = _Range("", None, len(prefix))
        self._prefix, self._first = prefix, prefix + begins
        if begins:
            whole = _Range(_below(self._first), _above(self._first), len(self._first))
        self._ranges = deque([whole])
        self._busy = 0
        self._changed = threading.Condition()
        self._arrived: queue.Queue[pa.Table | BaseException | None] = queue.Queue(maxsize=4 * _LISTERS)
        self._stopped = threading.Event()

    def pages(self) -> Iterator[pa.Table]:
        """Yield all pages, in no particular order."""
        threads = [threading.Thread(target=self._work, name="list", daemon=True) for _ in range(_LISTERS)]
        for thread in threads:
            thread.start()
        ended = 0
        try:
            while ended < len(threads):
                item = self._arrived.get()
                if item is None:
                    ended += 1
                elif isinstance(item, BaseException):
                    raise item
                else:
                    yield self._wanted(item)
        finally:
            self._stopped.set()
            with self._changed:
                self._changed.notify_all()

    def _work(self) -> None:
        try:
            while (mine := self._next()) is not None:
                self._list(mine)
                with self._changed:
                    self._busy -= 1
                    self._changed.notify_all()
            self._put(None)
        except BaseException as reason:
            self._put(reason)

    def _next(self) -> _Range | None:
        with self._changed:
            while not self._ranges and self._busy and not self._stopped.is_set():
                self._changed.wait()
            if not self._ranges or self._stopped.is_set():
                return None
            self._busy += 1
            return self._ranges.popleft()

    def _list(self, mine: _Range) -> None:
        for number, page in enumerate(self._pages_after(mine.after), 1):
            if not page.num_rows:
                continue
            if mine.until is not None:
                inside = page.filter(pc.call_function("less", [page["key"], pa.scalar(mine.until)]))
                self._put(inside)
                if inside.num_rows < page.num_rows:
                    return
            else:
                self._put(page)
            if self._stopped.is_set():
                return
            if number % _PAGES_BEFORE_SPLIT == 0 and not self._ranges and self._busy < _LISTERS:
                self._give_away(mine, page["key"][-1].as_py())

    def _give_away(self, mine: _Range, last: str) -> None:
        """Find a later key that differs as early as possible from ``last``; an idle thread continues from there."""
        while mine.depth < len(last):
            beyond = last[: mine.depth + 1] + _LAST_CHARACTER
            found = self._first_after(beyond)
            key = found["key"][0].as_py() if found.num_rows else None
            # If ``last`` contains the last character of Unicode, the key found may be ``last`` or an earlier one.
            if key is not None and last < key and (mine.until is None or key < mine.until):
                self._put(found)
                with self._changed:
                    self._ranges.append(_Range(key, mine.until, mine.depth))
                    self._changed.notify()
                mine.until = key
                return
            mine.depth += 1

    def _put(self, item: pa.Table | BaseException | None) -> None:
        while not self._stopped.is_set():
            try:
                self._arrived.put(item, timeout=0.5)
                return
            except queue.Full:
                continue

    def _wanted(self, page: pa.Table) -> pa.Table:
        if self._first == self._prefix:
            return page
        # `_below` and `_above` are not exact, so the range may include some other keys.
        return page.filter(pc.call_function("starts_with", [page["key"]], pc.MatchSubstringOptions(self._first)))


def _below(text: str) -> str:
    """The largest practical string below ``text``: its last character is decremented and U+10FFFF appended."""
    code = ord(text[-1])
    before = 0xD7FF if code == 0xE000 else code - 1  # the code points between are surrogates, which are no characters
    return text[:-1] + (chr(before) + _LAST_CHARACTER if before > 0 else "")


def _above(text: str) -> str | None:
    """The smallest string above all strings that begin with ``text``. None if there is no such string."""
    text = text.rstrip(_LAST_CHARACTER)
    return text[:-1] + chr(0xE000 if text[-1] == "\ud7ff" else ord(text[-1]) + 1) if text else None
