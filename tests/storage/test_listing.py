"""Listing by several threads: each key once, whatever the keys and however the threads share them."""

from __future__ import annotations

import threading
import time
from bisect import bisect_right
from collections.abc import Iterator

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.storage import listing
from pipeline.storage.listing import Listing

PAGE_ROWS = 3
#: Few letters, so that keys share beginnings; among them the last of all, and both sides of the gap in the codes.
LETTERS = st.sampled_from("\0/ab\ud7ff\ue000\U0010ffff")
TEXT = st.text(LETTERS, max_size=5)


class Keys:
    """A store of keys in order."""

    def __init__(self, keys: set[str], prefix: str = "", delay_s: float = 0, failing: bool = False) -> None:
        self.keys = sorted(key for key in keys if key.startswith(prefix))
        self.delay_s, self.failing, self.given = delay_s, failing, 0

    def pages_after(self, after: str) -> Iterator[pa.Table]:
        start = bisect_right(self.keys, after)
        while start < len(self.keys):
            time.sleep(self.delay_s)
            if self.failing and start > PAGE_ROWS:
                raise PermissionError("not allowed")
            yield pa.table({"key": self.keys[start : start + PAGE_ROWS]})
            start += PAGE_ROWS

    def first_after(self, after: str) -> pa.Table:
        start = bisect_right(self.keys, after)
        found = self.keys[start : start + 1]
        self.given += len(found)
        return pa.table({"key": pa.array(found, pa.string())})


def listed(keys: Keys, prefix: str = "", begins: str = "") -> list[str]:
    pages = Listing(prefix, begins, keys.pages_after, keys.first_after).pages()
    return sorted(key for page in pages for key in page["key"].to_pylist())


def wait_for_listers() -> None:
    until = time.monotonic() + 10
    while any(thread.name == "list" for thread in threading.enumerate()):
        assert time.monotonic() < until, "a thread goes on listing"
        time.sleep(0.01)


@pytest.fixture(scope="module", autouse=True)
def _split_at_once() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(listing, "_PAGES_BEFORE_SPLIT", 1)
        yield


@settings(max_examples=40)
@given(keys=st.sets(TEXT.filter(bool), max_size=60), prefix=TEXT, begins=TEXT)
def test_each_key_comes_once(keys: set[str], prefix: str, begins: str) -> None:
    wanted = sorted(key for key in keys if key.startswith(prefix + begins))
    assert listed(Keys(keys, prefix), prefix, begins) == wanted


def test_a_long_listing_is_shared() -> None:
    keys = Keys({f"{folder}/{number:03d}" for folder in "abcdefgh" for number in range(60)}, delay_s=0.02)
    started = time.monotonic()
    assert listed(keys) == keys.keys
    assert keys.given >= 4, "ranges were given away"
    assert time.monotonic() - started < len(keys.keys) / PAGE_ROWS * keys.delay_s, "faster than one thread alone"
    wait_for_listers()


def test_whoever_stops_early_leaves_no_thread() -> None:
    keys = Keys({f"{number:04d}" for number in range(900)}, delay_s=0.001)
    pages = Listing("", "", keys.pages_after, keys.first_after).pages()
    assert next(pages).num_rows
    pages.close()  # type: ignore[attr-defined]
    wait_for_listers()


def test_a_failure_is_the_callers() -> None:
    with pytest.raises(PermissionError, match="not allowed"):
        listed(Keys({f"{number:04d}" for number in range(90)}, failing=True))
    wait_for_listers()
