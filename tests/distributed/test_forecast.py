"""Forecast: how a listing stands to a table, and what a timed sample says of the rest."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pytest

from pipeline.distributed import forecast
from pipeline.distributed.source import ENTRIES
from pipeline.distributed.stream import STAGES, StreamConfig, Work
from pipeline.distributed.table import Table, open_delta
from tests.distributed.test_table import A, B, add, opened, rows


def work(table: Table) -> Work:
    return Work(
        task=cast("Any", None),
        package_uri="",
        package_digest=A,
        settings="s",
        table_uri=table.uri,
        schema=table.schema,
        run_id="9",
        stream=StreamConfig(),
    )


def timed(blocks: list[pa.Table], _: Work) -> Iterator[dict[str, Any]]:
    for block in blocks:
        yield {"rows": block.num_rows, "failed": ["empty"], **{f"{stage}_s": 0.0 for stage in STAGES}, "fetch_s": 1.0}


@pytest.mark.parametrize("retry", [False, True])
def test_a_listing_is_counted_against_one_scan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part_reads: list[str], retry: bool
) -> None:
    table = opened(tmp_path)
    add(table, rows(["done", "retried"], "1"))
    add(table, rows(["failed", "retried"], "1", error="empty"))
    add(table, rows(["changed", "unlisted"], "1", etag="0"))
    add(table, rows(["other", "done"], "1", model=B))
    monkeypatch.setattr(forecast, "receipts", timed)
    names = ["done", "retried", "failed", "changed", "other", "new", "newer"]
    page = pa.Table.from_pylist([{"uri": name, "etag": "1", "size": 1} for name in names], schema=ENTRIES)
    found = forecast.forecast(
        iter([page]), table, work(table), str(tmp_path), retry_errors=retry, limit=None, say=lambda _: None
    )
    counts = {"new": 2, "changed": 1, "other_model_or_settings": 1, "done": 2, "failed": 1}
    assert {name: found[name] for name in counts} == counts
    assert (found["listed"], found["pending"], found["sample"]) == (7, 5 if retry else 4, 5 if retry else 4)
    assert sorted(part_reads) == sorted(open_delta(str(tmp_path)).file_uris()), "each part is read once"
    low, high = found["predicted_range"]
    assert 0 <= low <= found["predicted_seconds"] <= high
