"""Selections of the listed inputs."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from pipeline.source.containers import ENTRIES
from pipeline.source.keys import INPUT_KEY, KeySet, keys
from pipeline.source.selection import Selection


def listed(names: list[str], days: list[int | None] | None = None) -> pa.Table:
    times = [None if day is None else datetime(2026, 11, day, tzinfo=UTC) for day in days or [1] * len(names)]
    rows = [{"uri": name, "mtime": time} for name, time in zip(names, times, strict=True)]
    return pa.Table.from_pylist(rows, schema=ENTRIES)


def names(chunks: Iterable[pa.Table]) -> list[str]:
    return [name for chunk in chunks for name in chunk["uri"].to_pylist()]


def test_times_are_compared_and_inputs_without_one_are_taken() -> None:
    chunk = listed(["a", "b", "c", "d"], [1, 10, 20, None])
    selection = Selection(since=datetime(2026, 11, 10, tzinfo=UTC), until=datetime(2026, 11, 20, tzinfo=UTC))
    assert names(selection.of(iter([chunk]))) == ["b", "d"]
    assert names(Selection().of(iter([chunk]))) == ["a", "b", "c", "d"]


def test_only_the_named_inputs_are_taken() -> None:
    chunk = listed(["a", "b", "c"])
    selection = Selection(among=KeySet([keys(chunk.slice(1, 1), INPUT_KEY)]))
    assert names(selection.of(iter([chunk]))) == ["b"]


@given(st.lists(st.text("abcdefg", min_size=1, max_size=3), max_size=60), st.integers(1, 9), st.integers(1, 20))
def test_a_sample_depends_on_the_names_alone(uris: list[str], count: int, size: int) -> None:
    chunks = [listed(uris[start : start + size]) for start in range(0, len(uris), size)]
    found = names(Selection(sample=count).of(iter(chunks)))
    assert len(found) == len(set(found)) == min(count, len(set(uris)))
    backwards = names(Selection(sample=count).of(iter([listed(uris[::-1])])) if uris else [])
    assert sorted(found) == sorted(backwards)
