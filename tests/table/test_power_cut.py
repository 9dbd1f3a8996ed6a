"""Files that a power cut has left empty, or full of zeros: the same command works."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline import storage
from pipeline.errors import RequestError
from pipeline.runs.life import read_json, store_json
from pipeline.table import lease
from pipeline.table.delta import Table
from pipeline.table.readers import open_delta
from tests.table.test_delta import SCHEMA, add, rows

DAMAGE = pytest.mark.parametrize("damage", [b"", bytes(400), b'{"run_id": "20'], ids=["empty", "zeros", "cut"])


def begun(sink: Path, number: int = 1) -> Table:
    table = Table(str(sink), SCHEMA)
    table.create()
    table.fence(number, f"run{number}")
    return table


def uris(sink: Path) -> list[str]:
    return sorted(pa.table(open_delta(str(sink)).to_pyarrow_table())["uri"].to_pylist())


def log_of(sink: Path) -> list[Path]:
    return sorted((sink / "table" / "_delta_log").glob("*.json"))


@DAMAGE
def test_a_damaged_lease_is_no_lease(tmp_path: Path, damage: bytes) -> None:
    held = lease.acquire(str(tmp_path), "first", 30.0)
    held.release()
    (tmp_path / "lease" / f"{held.number:012d}.json").write_bytes(damage)
    again = lease.acquire(str(tmp_path), "second", 30.0)
    assert again.number == held.number + 1
    again.release()


@DAMAGE
def test_a_damaged_summary_is_no_summary(tmp_path: Path, damage: bytes) -> None:
    where = str(tmp_path / "summary.json")
    store_json(where, {"exit_code": 0})
    assert read_json(where) == {"exit_code": 0}
    Path(where).write_bytes(damage)
    assert read_json(where) is None


@DAMAGE
def test_a_damaged_part_that_is_not_committed_is_an_orphan(tmp_path: Path, damage: bytes) -> None:
    table = begun(tmp_path)
    add(table, rows(["a"], "run1"))
    part = table.write_part(rows(["b"], "run1"), "run1", "a" * 32)
    (tmp_path / "table" / part.path).write_bytes(damage)
    again = begun(tmp_path, 2)
    assert again.remove_orphans(["run1"]) == 1
    assert uris(tmp_path) == ["a"]
    assert len(again.contents("a" * 32, "s").inputs) == 1


@DAMAGE
@pytest.mark.parametrize("count", [1, 2])
def test_a_commit_that_was_lost_is_taken_back(tmp_path: Path, damage: bytes, count: int) -> None:
    """The run that made it has not ended with 0. Its inputs are to do again, and its parts are orphans."""
    table = begun(tmp_path)
    for name in ("a", "b", "c"):
        add(table, rows([name], "run1"))
    for file in log_of(tmp_path)[-count:]:
        file.write_bytes(damage)
    if damage:
        with pytest.raises(RequestError, match="files that a power cut took, and the next run removes them"):
            open_delta(str(tmp_path))
    before = Table(str(tmp_path), SCHEMA)
    assert [Path(name).name for name in sorted(before.lost)] == [file.name for file in log_of(tmp_path)[-count:]]
    again = begun(tmp_path, 2)
    assert uris(tmp_path) == ["a", "b", "c"][: 3 - count]
    assert again.remove_orphans(["run1"]) == count
    add(again, rows(["d"], "run2"))
    assert uris(tmp_path) == [*["a", "b", "c"][: 3 - count], "d"]


@DAMAGE
def test_a_table_whose_first_commit_was_lost_begins_anew(tmp_path: Path, damage: bytes) -> None:
    Table(str(tmp_path), SCHEMA).create()
    log_of(tmp_path)[0].write_bytes(damage)
    add(begun(tmp_path, 2), rows(["a"], "run2"))
    assert uris(tmp_path) == ["a"]


@DAMAGE
@pytest.mark.parametrize("which", ["*.checkpoint.parquet", "_last_checkpoint"])
def test_a_checkpoint_that_was_lost_is_not_needed(tmp_path: Path, damage: bytes, which: str) -> None:
    add(begun(tmp_path), rows(["a"], "run1"))
    open_delta(str(tmp_path)).create_checkpoint()
    add(begun(tmp_path, 2), rows(["b"], "run2"))
    for file in (tmp_path / "table" / "_delta_log").glob(which):
        file.write_bytes(damage)
    add(begun(tmp_path, 3), rows(["c"], "run3"))
    assert uris(tmp_path) == ["a", "b", "c"]


def test_a_sound_log_has_lost_nothing(tmp_path: Path) -> None:
    add(begun(tmp_path), rows(["a"], "run1"))
    open_delta(str(tmp_path)).create_checkpoint()
    assert Table(str(tmp_path), SCHEMA).lost == []


def test_all_that_a_commit_needs_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After each commit every file is cut whose bytes were not brought to the disk by a real fsync: all is still there.

    The recorder can miss: without the sync of the log, the table is lost."""
    synced: set[tuple[int, int]] = set()
    calls: list[str] = []
    fsync = os.fsync

    def recorded(descriptor: int) -> None:
        fsync(descriptor)
        status = os.fstat(descriptor)
        synced.add((status.st_ino, status.st_size))
        calls.append(os.readlink(f"/proc/self/fd/{descriptor}"))

    def cut(sink: Path) -> int:
        files = [file for file in sink.rglob("*") if file.is_file()]
        lost = [file for file in files if (file.stat().st_ino, file.stat().st_size) not in synced]
        for file in lost:
            file.write_bytes(bytes(file.stat().st_size))
        return len(lost)

    monkeypatch.setattr(os, "fsync", recorded)
    table = begun(tmp_path / "sink")
    for number in range(105):  # delta-rs writes a checkpoint after a hundred commits
        add(table, rows([f"{number:03d}"], "run1"))
    assert list((tmp_path / "sink/table/_delta_log").glob("*.checkpoint.parquet"))
    store_json(str(tmp_path / "sink" / "runs" / "run1" / "summary.json"), {"exit_code": 0})
    assert cut(tmp_path / "sink") == 0
    assert len(uris(tmp_path / "sink")) == 105

    synced_before = len(calls)
    add(begun(tmp_path / "sink", 2), rows(["x"], "run2"))
    log = [name for name in calls[synced_before:] if "_delta_log" in name and name.endswith(".json")]
    assert len(log) < 10, "what an earlier process has brought to the disk is not brought there again"
    assert cut(tmp_path / "sink") == 0
    assert len(uris(tmp_path / "sink")) == 106

    monkeypatch.setattr(storage, "sync", lambda *_: None)
    add(begun(tmp_path / "other"), rows(["a"], "run1"))
    assert cut(tmp_path / "other") > 0
    assert json.loads(json.dumps(Table(str(tmp_path / "other"), SCHEMA).lost))
