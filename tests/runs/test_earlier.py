"""Earlier runs: how many of them a new run reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline import storage
from pipeline.runs.earlier import runs_since_done
from pipeline.runs.life import store_json

DONE = {"exit_code": 0, "source": ["in"]}
KILLED: dict[str, Any] = {}
RESTORED = {"exit_code": 0}


def sink_with(folder: Path, summaries: list[dict[str, Any]]) -> str:
    """A sink with runs, the oldest first. One that was killed has no summary."""
    for number, summary in enumerate(summaries):
        store_json(str(folder / "runs" / f"{number:04d}" / "config.json"), {})
        if summary:
            store_json(str(folder / "runs" / f"{number:04d}" / "summary.json"), summary)
    return str(folder)


def test_a_run_reads_as_many_summaries_after_a_hundred_runs_as_after_twenty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[str] = []
    read = storage.read
    sinks = {count: sink_with(tmp_path / str(count), [DONE] * count) for count in (20, 100)}
    monkeypatch.setattr(storage, "read", lambda uri: reads.append(uri) or read(uri))
    needed = {}
    for count, sink in sinks.items():
        reads.clear()
        found = runs_since_done(sink, "9999")
        assert found[0].name == f"{count - 1:04d}"
        needed[count] = len(reads)
    assert needed[100] == needed[20] < 20


@pytest.mark.parametrize("last", [KILLED, {"exit_code": 3, "source": ["in"]}, RESTORED], ids=str)
def test_all_runs_since_one_that_is_done_are_found(tmp_path: Path, last: dict[str, Any]) -> None:
    sink = sink_with(tmp_path, [DONE] * 40 + [KILLED, DONE] + [last] * 30)
    names = [run.name for run in runs_since_done(sink, "0071")]
    assert names[:30] == [f"{number:04d}" for number in range(70, 40, -1)], "its own name is left out"
    assert "0000" not in names
    assert runs_since_done(str(tmp_path / "new"), "0000") == []
