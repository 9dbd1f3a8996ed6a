"""Compaction: small files become larger ones, no row changes, and nothing that ends it midway does harm."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import JobFailed
from pipeline.table import compaction, parts
from pipeline.table.compaction import Compacted, compact, groups, is_fragmented
from pipeline.table.delta import Table
from pipeline.table.lease import LeaseLost
from pipeline.table.parts import Part
from pipeline.table.readers import open_delta, parts_of
from pipeline.table.vacuum import vacuum
from tests.table.test_delta import SCHEMA, A, B, add, held, opened, rows, supersede
from tests.table.test_other_tools import delete_by_vector

FIRST, SECOND, THIRD = (f"2026112{day}T000000.000000Z-0000" for day in (1, 2, 3))


@pytest.fixture
def table(tmp_path: Path) -> Table:
    """The table of two runs: ten files of one model, and three of another, with a failed row."""
    made = opened(tmp_path)
    made.fence(1, FIRST)
    for number in range(10):
        add(made, rows([f"{number}a", f"{number}b"], FIRST if number < 6 else SECOND))
    for number in range(3):
        add(made, rows([f"{number}c"], SECOND, model=B, error="empty" if number == 1 else None))
    return made


def content(sink: Path) -> list[dict[str, Any]]:
    """All rows with all columns, in the order of their URIs."""
    return open_delta(str(sink)).to_pyarrow_table().sort_by("uri").to_pylist()


def by_model(sink: Path) -> dict[str | None, int]:
    found = [part.model for part in parts_of(str(sink))]
    return {model: found.count(model) for model in found}


@pytest.mark.parametrize("pieces", [{}, {"WHOLE_BYTES": 1, "PIECE_BYTES": 300}])
def test_no_row_changes(tmp_path: Path, table: Table, monkeypatch: pytest.MonkeyPatch, pieces: dict[str, int]) -> None:
    for name, value in pieces.items():
        monkeypatch.setattr(parts, name, value)
        monkeypatch.setattr(compaction, name, value, raising=False)
    before = content(tmp_path)
    assert compact(table, THIRD) == Compacted(before=13, after=2, rows=23)
    assert content(tmp_path) == before
    assert by_model(tmp_path) == {A: 1, B: 1}
    assert compact(table, THIRD) == Compacted(before=0, after=0, rows=0)
    # Once more, from the larger file.
    add(table, rows(["new"], THIRD))
    before = content(tmp_path)
    assert compact(table, THIRD) == Compacted(before=2, after=1, rows=21)
    assert content(tmp_path) == before


def test_one_model_alone(tmp_path: Path, table: Table) -> None:
    assert compact(table, THIRD, model=B) == Compacted(before=3, after=1, rows=3)
    assert by_model(tmp_path) == {A: 10, B: 1}


def test_the_files_are_ours(tmp_path: Path, table: Table) -> None:
    """Masks are pictures, and stored as they are; other tools that follow the table see no new rows."""
    compact(table, THIRD)
    for uri in open_delta(str(tmp_path)).file_uris():
        found = pq.ParquetFile(uri)
        assert json.loads(found.schema_arrow.metadata[b"huggingface"])["info"]["features"]["mask"]["_type"] == "Image"
        group = found.metadata.row_group(0)
        columns = {group.column(number).path_in_schema: group.column(number) for number in range(group.num_columns)}
        assert (columns["mask.bytes"].compression, columns["uri"].compression) == ("UNCOMPRESSED", "ZSTD")
    log = sorted((tmp_path / "table" / "_delta_log").glob("*.json"))[-2:]
    actions = [entry for file in log for entry in map(json.loads, file.read_text().splitlines())]
    changes = [entry[kind]["dataChange"] for entry in actions for kind in ("add", "remove") if kind in entry]
    assert changes == [False] * 15
    assert not table.changes_of_others(0)


def test_row_groups_are_bounded(tmp_path: Path, table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "PIECE_BYTES", 4 * rows(["a"], FIRST).nbytes)
    compact(table, THIRD, model=A)
    joined = next(part for part in parts_of(str(tmp_path)) if part.model == A)
    found = pq.ParquetFile(joined.uri(table.uri)).metadata
    sizes = [found.row_group(number).num_rows for number in range(found.num_row_groups)]
    assert sum(sizes) == 20
    assert 3 <= len(sizes) <= 7


def test_a_superseded_row_leaves_a_large_file(tmp_path: Path, table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "PIECE_BYTES", 4 * rows(["a"], FIRST).nbytes)
    compact(table, THIRD)
    monkeypatch.setattr(parts, "WHOLE_BYTES", 1)
    monkeypatch.setattr(parts, "PIECE_BYTES", 300)
    left = [row for row in held(tmp_path) if row[0] not in ("0a", "4b", "9b")]
    assert supersede(table, ["0a", "4b", "9b"], etag="2") == 3
    assert held(tmp_path) == left


def test_names_of_runs_and_their_files(tmp_path: Path, table: Table) -> None:
    """The name of a new file begins with the run that made it, although its rows are of several."""
    old = {part.path for part in table.parts()}
    orphan = table.write_part(rows(["orphan"], FIRST), FIRST, A)
    compact(table, THIRD)
    for number in range(3):  # so that no name of a run is in the last commits
        DeltaTable(table.uri).alter.set_table_properties({"delta.logRetentionDuration": f"interval {number + 7} days"})
    again = Table(str(tmp_path), SCHEMA)
    assert again.last_run_id() == THIRD
    assert again.lost_parts(FIRST, A) == again.lost_parts(THIRD, A) == []
    # Of the earlier runs only what was never committed is an orphan; earlier versions still have the other files.
    assert again.remove_orphans([FIRST, SECOND, THIRD]) == 1
    assert not (tmp_path / "table" / orphan.path).exists()
    assert all((tmp_path / "table" / path).exists() for path in old)
    assert len(content(tmp_path)) == 23
    found, errors = again.rows_of(SECOND, B)
    assert (len(found), errors) == (3, {"empty": 1})
    assert vacuum(str(tmp_path)) == 0


def test_what_is_killed_midway_leaves_a_file_that_no_version_names(tmp_path: Path, table: Table) -> None:
    before, left = content(tmp_path), [2]

    def check() -> None:
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compact(table, THIRD, check=check)
    assert content(tmp_path) == before
    assert by_model(tmp_path) == {A: 1, B: 3}
    again = Table(str(tmp_path), SCHEMA)
    again.fence(2, THIRD)
    assert compact(again, THIRD + "1") == Compacted(before=3, after=1, rows=3)
    assert again.remove_orphans([THIRD]) == 1, "as the next run does with the files of a run that was killed"
    assert content(tmp_path) == before
    assert vacuum(str(tmp_path)) == 0


def test_a_file_with_other_rows_is_not_committed(tmp_path: Path, table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    before, written = content(tmp_path), parts.PartWriter.add

    def wrong(self: parts.PartWriter, found: pa.Table) -> None:
        written(self, pa.concat_tables([found.slice(1), found.slice(1, 1)]))  # one row is lost, and one doubled

    monkeypatch.setattr(parts.PartWriter, "add", wrong)
    with pytest.raises(JobFailed, match="has other rows than the 10 files"):
        compact(table, THIRD)
    assert content(tmp_path) == before
    assert by_model(tmp_path) == {A: 10, B: 3}


@pytest.mark.parametrize("is_large", [False, True])
def test_a_file_with_fewer_rows_than_the_log_says_is_not_joined(
    tmp_path: Path, table: Table, monkeypatch: pytest.MonkeyPatch, is_large: bool
) -> None:
    victim = table.parts()[0]
    cut = pq.ParquetFile(victim.uri(table.uri)).read().slice(1)
    pq.write_table(cut, victim.uri(table.uri))
    if is_large:
        monkeypatch.setattr(compaction, "WHOLE_BYTES", 1)
        monkeypatch.setattr(parts, "WHOLE_BYTES", 1)
    with pytest.raises(JobFailed, match=f"has {cut.num_rows} rows, the log says {cut.num_rows + 1}"):
        compact(table, THIRD)
    assert victim in parts_of(str(tmp_path))


@pytest.mark.parametrize("tool", ["compact", "vacuum", "delete", "append"])
def test_another_tool_between_reading_and_committing(tmp_path: Path, table: Table, tool: str) -> None:
    waiting = [True]

    def check() -> None:
        other = DeltaTable(table.uri)
        if waiting.pop() if waiting else False:
            if tool in ("compact", "vacuum"):
                other.optimize.compact()
            if tool == "vacuum":
                other.vacuum(0, dry_run=False, enforce_retention_duration=False)
            if tool == "delete":
                other.delete("uri = '0a'")
            if tool == "append":
                write_deltalake(other, rows(["new"], "9").select(SCHEMA.names), mode="append")

    uris = {row["uri"] for row in content(tmp_path)}
    found = compact(table, THIRD, check=check)
    after = [row["uri"] for row in content(tmp_path)]
    assert len(after) == len(set(after)), "no row is there twice"
    assert set(after) == (uris | {"new"} if tool == "append" else uris - {"0a"} if tool == "delete" else uris)
    assert found == Compacted(**{"append": {"before": 13, "after": 2, "rows": 23}}.get(tool, NOTHING[tool]))
    assert vacuum(str(tmp_path)) == 0, "a new file that was not committed is deleted"


NOTHING: dict[str, dict[str, int]] = {
    "append": {},
    "compact": {"before": 0, "after": 0, "rows": 0},
    "vacuum": {"before": 0, "after": 0, "rows": 0},
    "delete": {"before": 3, "after": 1, "rows": 3},
}


def test_a_lost_lease_commits_nothing(tmp_path: Path, table: Table) -> None:
    newer = Table(str(tmp_path), SCHEMA)
    newer.fence(7, THIRD)
    with pytest.raises(LeaseLost):
        compact(table, THIRD)
    assert by_model(tmp_path) == {A: 10, B: 3}


def test_a_file_with_deleted_rows_is_left(tmp_path: Path, table: Table) -> None:
    delete_by_vector(tmp_path, 0)
    again = Table(str(tmp_path), SCHEMA)
    again.fence(2, THIRD)
    assert compact(again, THIRD).before == 12


def test_a_run_asks_whether_there_are_many(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_fragmented(table, A)
    monkeypatch.setattr(compaction, "MANY", 10)
    assert is_fragmented(table, A)
    assert not is_fragmented(table, B)


file = st.tuples(st.integers(1, 400), st.integers(1, 1 << 16), st.sampled_from([A, B, None]))


@given(st.lists(file, max_size=30))
def test_groups(found: list[tuple[int, int, str | None]]) -> None:
    every = [
        Part(path=f"{number:02d}", size=size, rows=count, model=model)
        for number, (size, count, model) in enumerate(found)
    ]
    grouped = groups(every, 1000)
    taken = [part.path for group in grouped for part in group]
    assert len(taken) == len(set(taken))
    for group in grouped:
        assert len(group) >= 2
        assert len({part.model for part in group}) == 1
        assert sum(part.size for part in group) <= 1000
        assert sum(part.rows or 0 for part in group) <= 1 << 17
        assert all(part.size < 250 for part in group)
        assert [part.path for part in group] == sorted(part.path for part in group)
    # What has become one file and what is left is not grouped for ever.
    left = [part for part in every if part.path not in taken]
    joined = [
        dataclasses.replace(
            group[0], path=f"x{number:02d}", size=sum(p.size for p in group), rows=sum(p.rows or 0 for p in group)
        )
        for number, group in enumerate(grouped)
    ]
    assert len([*left, *joined]) <= len(every)
