"""Whole runs on a table that other tools change, between runs and in the middle of one."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from pipeline.errors import Stopped
from pipeline.quality.audit import audit
from pipeline.runs.committer import Committer
from pipeline.runs.counts import RunCounts
from pipeline.table.delta import Table
from pipeline.table.parts import Part
from pipeline.table.readers import open_delta
from testing.runs import run, write_images, write_package
from tests.table.test_delta import A, held, opened, rows


@pytest.mark.ray
def test_runs_among_other_tools_lose_and_double_nothing(
    cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = write_images(tmp_path / "images", 24)
    first, second = write_package(tmp_path / "first", 0), write_package(tmp_path / "second", 1)
    sink = tmp_path / "sink"
    names = [f"{number:04d}.png" for number in range(24)]

    def other() -> DeltaTable:
        return DeltaTable(str(sink / "table"))

    done = run(images, first, sink).summary
    assert (done["done"], done["remade"], "other_tools" in done) == (24, 0, False)

    # Between two nights: rows are deleted, and the rest is compacted.
    other().delete(f"uri like '%{names[3]}' or uri like '%{names[5]}'")
    other().optimize.compact()
    audited = audit(str(sink)).summary()
    assert (set(audited["problems"]), audited["foreign_files"]) == ({"lost"}, 1)
    done = run(images, first, sink).summary
    assert (done["done"], done["skipped"], done["remade"]) == (2, 22, 2)
    assert [change.split()[0] for change in done["other_tools"]] == ["DELETE", "OPTIMIZE"]

    # In the middle of a night with a new model: files that are written but not committed are deleted, and what is
    # committed is compacted at each commit.
    real, commits = Table.commit, []

    def commit(self: Table, add: Sequence[Part], **settings: Any) -> None:
        if not commits:
            other().vacuum(0, dry_run=False, enforce_retention_duration=False, full=True)
        commits.append(len(add))
        real(self, add, **settings)
        with contextlib.suppress(DeltaError):  # it fails at the files that are gone
            other().optimize.compact()

    monkeypatch.setattr(Table, "commit", commit)
    ended = run(images, second, sink, commit_s=0.0)
    monkeypatch.undo()
    done = ended.summary
    assert (done["status"], done["done"], done["failed"], done["removed"]) == ("done", 24, 0, 24)
    rows = open_delta(str(sink)).to_pyarrow_table()
    assert sorted(Path(uri).name for uri in rows["uri"].to_pylist()) == names
    assert set(rows["run_id"].to_pylist()) == {done["run_id"]}
    assert audit(str(sink)).summary()["problems"] == {}
    assert "OPTIMIZE" in str(done["other_tools"])


@pytest.mark.parametrize("landed", [False, True])
def test_a_commit_that_a_signal_interrupts_is_made_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, landed: bool
) -> None:
    table = opened(tmp_path)
    table.fence(1, "1")
    part = table.write_part(rows(["a", "b"], "1"), "1", A)
    committer = Committer(table, RunCounts(), model=A, run_id="1", inputs=2)
    receipt = {
        "path": part.path,
        "size": part.size,
        "rows": 2,
        "ordinals": [0, 1],
        "failed": [],
        "unusual": [],
        "bytes": 1,
    }
    assert committer.accept(receipt, ())
    real = Table.commit

    def interrupted(self: Table, add: Sequence[Part], **settings: Any) -> None:
        if landed:
            real(self, add, **settings)
        raise Stopped(2)

    monkeypatch.setattr(Table, "commit", interrupted)
    with pytest.raises(Stopped):
        committer.commit()
    monkeypatch.undo()
    assert committer.commit() == 0
    assert [row[0] for row in held(tmp_path)] == ["a", "b"]
    assert not committer.is_waiting
