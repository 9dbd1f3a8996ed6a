"""How long files are kept: vacuum, restore and forget go by one property of the table."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable

from pipeline.errors import RequestError
from pipeline.source.keys import INPUT_KEY
from pipeline.table.delta import Table
from pipeline.table.readers import open_delta
from pipeline.table.retention import FILES, retention, retention_properties, spoken
from pipeline.table.upkeep import forget, restore, version_before
from pipeline.table.vacuum import vacuum
from testing.jobs import call_job
from tests.table.test_delta import add, held, opened, rows, supersede

FIRST, SECOND, THIRD = (f"2026112{day}T000000.000000Z-0000" for day in (1, 2, 3))


@pytest.fixture
def table(tmp_path: Path) -> Table:
    """A table whose first file has left it: a second run has made its rows again. All rows are of failed inputs."""
    made = opened(tmp_path)
    made.fence(1, FIRST)
    add(made, rows(["a", "b"], FIRST, error="empty"))
    made.fence(2, SECOND)
    add(made, rows(["a", "b"], SECOND, etag="2", error="empty"))
    supersede(made, ["a", "b"], etag="2")
    return made


def files(sink: Path) -> list[Path]:
    return sorted((sink / "table").rglob("model=*/*.parquet"))


def verify(sink: Path, *arguments: str) -> tuple[int, dict[str, Any], str]:
    return call_job("verify", "--sink", str(sink), *arguments)


def test_files_are_kept_for_a_week(tmp_path: Path, table: Table) -> None:
    assert retention(open_delta(str(tmp_path))) == FILES == timedelta(days=7)
    assert (vacuum(str(tmp_path)), len(files(tmp_path))) == (0, 2)
    table.fence(3, THIRD)
    restore(table, version_before(table, SECOND), THIRD)
    assert {row[3] for row in held(tmp_path)} == {FIRST}
    assert vacuum(str(tmp_path)) == 0, "the other file is kept now"


def test_files_that_are_not_kept_any_more(tmp_path: Path, table: Table) -> None:
    """They are deleted by a vacuum, and no version that needs them is restored, while they are there and after it."""
    _, summary, _ = verify(tmp_path, "--retention-days", "0")
    assert (summary["retention_days"], len(files(tmp_path))) == (0, 2)
    for problem in (
        "1 of its files left the table more than 0 days ago, so that they may be deleted at any time, such as model=",
        "1 of its files are deleted, such as model=",
    ):
        version = open_delta(str(tmp_path)).version()
        code, summary, _ = call_job("restore", "--sink", str(tmp_path), "--run", SECOND)
        assert (code, problem in summary["error"]) == (2, True), summary
        assert open_delta(str(tmp_path)).version() == version
        verify(tmp_path, "--vacuum")
        assert len(files(tmp_path)) == 1
    assert {row[3] for row in held(tmp_path)} == {SECOND}


def test_a_longer_time_brings_a_version_back(tmp_path: Path, table: Table) -> None:
    verify(tmp_path, "--retention-days", "0")
    verify(tmp_path, "--retention-days", "60", "--vacuum")
    properties = DeltaTable(str(tmp_path / "table")).metadata().configuration
    assert properties["delta.deletedFileRetentionDuration"] == "interval 60 days"
    assert properties["delta.logRetentionDuration"] == "interval 60 days"
    code, summary, _ = call_job("restore", "--sink", str(tmp_path), "--run", SECOND)
    assert (code, summary["files_back"]) == (0, 1), summary


def test_what_is_forgotten_is_not_kept(tmp_path: Path, table: Table) -> None:
    table.fence(3, THIRD)
    table.set_properties(retention_properties(365), THIRD)
    inputs = pa.table({"uri": ["a"], "member": pa.nulls(1, pa.string())}).select(INPUT_KEY)
    found = forget(table, str(tmp_path), inputs, THIRD, for_good=True)
    assert (found.rows, found.files, found.expired) == (1, 2, 0)
    with pytest.raises(RequestError, match="of its files are deleted"):
        version_before(table, SECOND)
    table.set_properties(retention_properties(0), THIRD)
    supersede(table, ["b"], etag="3")
    inputs = pa.table({"uri": ["c"], "member": pa.nulls(1, pa.string())}).select(INPUT_KEY)
    found = forget(table, str(tmp_path), inputs, THIRD, for_good=True)
    assert (found.rows, found.files, found.expired) == (0, 0, 1), "what is not kept goes, too"
    assert files(tmp_path) == []


def test_properties(tmp_path: Path, table: Table) -> None:
    """Days become Delta's intervals and come back, as do those of other tools."""
    delta = DeltaTable(str(tmp_path / "table"))
    for days in (0.5, 7, 1 / 24):
        delta.alter.set_table_properties(retention_properties(days))
        assert retention(delta) == timedelta(days=days)
        assert delta.metadata().configuration["delta.logRetentionDuration"] == "interval 30 days"
    for value, time in (("interval 1 week", FILES), ("INTERVAL '2' HOURS", timedelta(hours=2))):
        delta.alter.set_table_properties({"delta.deletedFileRetentionDuration": value})
        assert retention(delta) == time
    delta.alter.set_table_properties({"delta.deletedFileRetentionDuration": "a while"})
    code, summary, _ = verify(tmp_path, "--vacuum")
    assert (code, "must be such as 'interval 7 days', got 'a while'" in summary["error"]) == (2, True), summary
    assert verify(tmp_path, "--retention-days", "7")[1]["retention_days"] == 7
    assert verify(tmp_path, "--retention-days", "-1")[0] == 2
    assert [spoken(timedelta(hours=hours)) for hours in (0, 36, 48)] == ["0 days", "36 hours", "2 days"]
