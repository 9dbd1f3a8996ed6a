"""Forecast: how a listing stands to a table, and what a timed sample says of the rest."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.runs.forecast import forecast
from pipeline.source.entries import ENTRIES
from pipeline.table.delta import Table
from pipeline.table.readers import open_delta
from tests.table.test_delta import SCHEMA, A, B, add, opened, rows


def timed(blocks: list[pa.Table], _: str) -> Iterator[dict[str, Any]]:
    for block in blocks:
        yield {"rows": block.num_rows, "failed": ["empty"], "fetch_s": 1.0, "write_s": 0.0}


@pytest.mark.parametrize("retry", [False, True])
def test_a_listing_is_counted_against_one_scan(tmp_path: Path, part_reads: list[str], retry: bool) -> None:
    table = opened(tmp_path)
    add(table, rows(["done", "retried"], "1"))
    add(table, rows(["failed", "retried"], "1", error="empty"))
    add(table, rows(["changed", "unlisted"], "1", etag="0"))
    add(table, rows(["other", "done"], "1", model=B))
    names = ["done", "retried", "failed", "changed", "other", "new", "newer"]
    page = pa.Table.from_pylist([{"uri": name, "etag": "1", "size": 1} for name in names], schema=ENTRIES)
    found = forecast(
        iter([page]),
        table,
        str(tmp_path),
        model=A,
        settings="s",
        described={},
        retry_errors=retry,
        limit=None,
        block_bytes=1 << 20,
        receipts=timed,
        stages=("fetch", "write"),
        say=lambda _: None,
    )
    assert found["redone"] == [{"inputs": 1, "because": f"the model was {B[:12]}, now {A[:12]}"}]
    counts = {"new": 2, "changed": 1, "other_model_or_settings": 1, "done": 2, "failed": 1}
    assert {name: found[name] for name in counts} == counts
    assert (found["listed"], found["pending"], found["sample"]) == (7, 5 if retry else 4, 5 if retry else 4)
    assert sorted(part_reads) == sorted(open_delta(str(tmp_path)).file_uris()), "each part is read once"
    low, high = found["predicted_range"]
    assert 0 <= low <= found["predicted_seconds"] <= high


@pytest.mark.parametrize("begun", [False, True])
def test_the_sink_is_left_to_a_run_that_began_meanwhile(tmp_path: Path, begun: bool) -> None:
    sink = tmp_path / "sink"

    def receipts(blocks: list[pa.Table], scratch: str) -> Iterator[dict[str, Any]]:
        Path(scratch).mkdir(parents=True)
        if begun:
            (sink / "table").mkdir()
        yield from timed(blocks, scratch)

    forecast(
        iter([pa.Table.from_pylist([{"uri": "a", "etag": "1", "size": 1}], schema=ENTRIES)]),
        Table(str(sink), SCHEMA),
        str(sink),
        model=A,
        settings="s",
        described={},
        retry_errors=False,
        limit=None,
        block_bytes=1 << 20,
        receipts=receipts,
        stages=("fetch", "write"),
        say=lambda _: None,
    )
    assert [path.name for path in sink.glob("*")] == (["table"] if begun else [])
    assert sink.exists() == begun
