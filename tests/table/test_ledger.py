"""Keys and key sets, against Python's own sets; manifests cut into blocks."""

from __future__ import annotations

import hashlib
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.source.entries import ENTRIES
from pipeline.source.keys import INPUT_KEY, VERSION_KEY, GrowingKeySet, KeySet, _drawn, digests, keys
from pipeline.table.manifest import Manifest, split

text = st.one_of(st.none(), st.text(max_size=4))
rows = st.lists(st.tuples(st.text(max_size=4), text, text), max_size=30)


def table(values: list) -> pa.Table:
    columns = list(zip(*values, strict=True)) or [[], [], []]
    return pa.table({name: pa.array(c, pa.string()) for name, c in zip(VERSION_KEY, columns, strict=True)})


@given(rows, rows)
def test_a_key_set_is_a_set(held: list, wanted: list) -> None:
    found = KeySet([keys(table(held), VERSION_KEY)]).contains(keys(table(wanted), VERSION_KEY))
    assert found.tolist() == [row in set(held) for row in wanted]


@given(st.lists(rows, max_size=8))
def test_a_growing_key_set_knows_what_is_new(parts: list[list]) -> None:
    growing, seen = GrowingKeySet(), set()
    for part in parts:
        found = keys(table(part), VERSION_KEY)
        new = growing.new(found)
        expected = []
        for row in part:
            expected.append(row not in seen)
            seen.add(row)
        assert new.tolist() == expected
        growing.add(found[new])
    everything = [row for part in parts for row in part]
    assert len(growing.key_set()) == len(seen)
    assert growing.key_set().contains(keys(table(everything), VERSION_KEY)).all()


lengths = st.one_of(st.integers(0, 40), st.integers(4090, 4100), st.just(9000))
long_text = st.one_of(
    st.none(), st.builds(lambda length, end: ("x" * length + end)[:length], lengths, st.sampled_from(["", "y", "\0"]))
)


@given(st.lists(st.tuples(long_text, long_text, long_text), max_size=20), st.integers(0, 20), st.integers(1, 7))
def test_a_key_depends_on_nothing_but_the_values(values: list, start: int, size: int) -> None:
    """Not on the row's place, nor on how the table is cut; values of other lengths, null or empty differ."""
    rows = table(values)
    found = keys(rows, VERSION_KEY)
    assert [found[i].tolist() == found[j].tolist() for i in range(len(found)) for j in range(i)] == [
        values[i] == values[j] for i in range(len(found)) for j in range(i)
    ]
    assert (keys(rows.slice(start), VERSION_KEY) == found[start:]).all()
    cut = pa.concat_tables([rows.slice(at, size) for at in range(0, len(found), size)] or [rows])
    assert (keys(cut, VERSION_KEY) == found).all()
    large = rows.cast(pa.schema([(name, pa.large_string()) for name in VERSION_KEY]))
    assert (keys(large, VERSION_KEY) == found).all()


def test_both_halves_of_keys_differ() -> None:
    """Names that count, as names in buckets do, in more rows than are hashed at once."""
    names = [f"s3://bucket/{number // 100}/{number:09d}" for number in range(100_000)]
    found = keys(pa.table({"uri": names}), ["uri"])
    assert [len(np.unique(found[:, half])) for half in (0, 1)] == [100_000, 100_000]
    for half in (0, 1):  # every bit is set in half of the keys
        bits = np.unpackbits(np.ascontiguousarray(found[:, half]).view(np.uint8).reshape(-1, 8), axis=1)
        assert abs(bits.mean(0) - 0.5).max() < 0.02


def test_nobody_can_choose_names_of_the_same_key() -> None:
    """Each process draws its hash; what is stored has the same everywhere."""
    rows = table([("a", None, "e"), ("a", "", "e"), ("ab", "c", ""), ("x" * 5000, "c", None)])
    before, stored = keys(rows, VERSION_KEY), digests(rows, VERSION_KEY)
    _drawn.cache_clear()
    assert (keys(rows, VERSION_KEY) != before).all()
    _drawn.cache_clear()
    texts = [b"\1" + b"1:a" + b"\0" + b"\1" + b"1:e", b"\1" + b"1:a" + b"\1" + b"0:" + b"\1" + b"1:e"]
    expected = [hashlib.blake2b(text, digest_size=16).digest() for text in texts]
    assert [row.tobytes() for row in stored[:2]] == expected


def test_threads_share_the_hash_that_is_drawn_first(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, real = table([("a", "b", "c")] * 3), os.urandom

    def slow(size: int) -> bytes:
        time.sleep(0.02)
        return real(size)

    monkeypatch.setattr(os, "urandom", slow)
    _drawn.cache_clear()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: keys(rows, VERSION_KEY).tobytes(), range(8)))
    assert len(set(found)) == 1


def test_equal_first_halves_are_sorted_by_the_second() -> None:
    found = KeySet([np.array([[5, 4], [7, 0]], np.uint64), np.array([[5, 1], [5, 2]], np.uint64)])
    assert found.keys.tolist() == [[5, 1], [5, 2], [5, 4], [7, 0]]


def test_halves_that_collide_are_told_apart() -> None:
    held = np.array([[5, 1], [5, 2], [5, 4], [7, 0]], np.uint64)
    wanted = np.array([[5, 2], [5, 3], [5, 4], [7, 0], [7, 1], [9, 9]], np.uint64)
    assert KeySet([held]).contains(wanted).tolist() == [True, False, True, True, False, False]


def entries(count: int, size: int = 10) -> pa.Table:
    values = [{"uri": f"u{i}", "etag": "e", "size": size, "format": "object"} for i in range(count)]
    return pa.Table.from_pylist(values, schema=ENTRIES)


@given(st.lists(st.integers(0, 100), min_size=1, max_size=40), st.integers(1, 9), st.integers(1, 200))
def test_blocks_are_bounded_by_rows_and_bytes(sizes: list[int], block_rows: int, block_bytes: int) -> None:
    blocks = split(pa.table({"n": range(len(sizes)), "size": sizes}), block_rows, block_bytes)
    assert [n for block in blocks for n in block["n"].to_pylist()] == list(range(len(sizes)))
    for block in blocks:
        assert 1 <= block.num_rows <= block_rows
        assert block.num_rows == 1 or sum(block["size"].to_pylist()) <= block_bytes


def test_a_manifest_marks_what_is_done_and_stops_at_the_limit(tmp_path: Path) -> None:
    every = entries(20)
    done = KeySet([keys(every.slice(3, 4), VERSION_KEY)])
    manifest = Manifest(str(tmp_path))
    manifest.write([every.slice(0, 5), every.slice(5)], done, limit=10)
    assert (manifest.listed, manifest.pending) == (14, 10)
    assert manifest.inputs().contains(keys(every, INPUT_KEY)).tolist() == [True] * 14 + [False] * 6
    committed = np.zeros(manifest.listed, bool)
    committed[[0, 13]] = True
    left = [b["ordinal"].to_pylist() for blocks in manifest.blocks(committed, 3, 1 << 20) for b in blocks]
    assert left == [[1, 2, 7], [8, 9, 10], [11, 12]]
