"""What exit 0 promises on a local disk: a power cut right after it takes nothing, in any process of the run."""

from __future__ import annotations

from pathlib import Path

import pytest

from testing.equality import table_rows
from testing.processes import run_job
from testing.runs import write_images, write_package

#: Loaded by every Python process of the job: it notes which bytes a real fsync has brought to the disk.
RECORDER = """
import os
_fsync = os.fsync
def fsync(descriptor):
    _fsync(descriptor)
    status = os.fstat(descriptor)
    with open({log!r}, "a") as file:
        file.write(f"{{status.st_ino}} {{status.st_size}}\\n")
os.fsync = fsync
"""


@pytest.mark.ray
@pytest.mark.slow
def test_a_power_cut_after_exit_0_takes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, sink = tmp_path / "synced", tmp_path / "sink"
    (tmp_path / "recorder").mkdir()
    (tmp_path / "recorder" / "sitecustomize.py").write_text(RECORDER.format(log=str(log)))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "recorder"))
    given = ["--source", str(write_images(tmp_path / "in", 12)), "--model", write_package(tmp_path / "package", 0)]
    given += ["--sink", str(sink), "--stream.block_rows", "4", "--cluster.cpus", "1"]
    code, summary, err = run_job("segment_images", *given)
    assert code == 0, err[-3000:]
    before = table_rows(str(sink))
    assert len(before) == summary["done"] == 12
    synced = {tuple(map(int, line.split())) for line in log.read_text().splitlines()}
    kept, lost = [], []
    for file in sink.rglob("*"):
        if file.is_file():
            status = file.stat()
            (kept if (status.st_ino, status.st_size) in synced else lost).append(file.relative_to(sink))
    assert lost == []
    names = {file.name for file in kept}
    assert {"summary.json", "config.json", "00000000000000000000.json", "00000.parquet"} <= names
    assert any(file.parts[1].startswith("model=") for file in kept)
    monkeypatch.delenv("PYTHONPATH")
    for damaged in (sink / "lease").iterdir():  # whatever the disk did to them
        damaged.write_bytes(b"")
    (sink / "runs" / summary["run_id"] / "summary.json").write_bytes(bytes(500))
    code, again, err = run_job("segment_images", *given)
    assert (code, again["listed"], again["pending"]) == (0, 12, 0), err[-3000:]
    assert table_rows(str(sink)) == before
