"""A file that kills whatever process reads it costs its own row only."""

from __future__ import annotations

from pathlib import Path

import pytest

from testing.equality import table_rows
from testing.processes import run_job
from testing.runs import write_images, write_package

#: Loaded by every Python process of the job. A damaged file can end a process in C++ code as it is read; this does so.
CRASH = """
import os, sys
def hook(event, arguments):
    if event == "open" and str(arguments[0]).endswith("kills.png"):
        os._exit(9)
sys.addaudithook(hook)
"""


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.heavy
def test_a_file_that_kills_its_reader_fails_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook" / "sitecustomize.py").write_text(CRASH)
    source = write_images(tmp_path / "in", 6)
    (source / "kills.png").write_bytes(b"never read")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "hook"))
    code, summary, err = run_job(
        "segment_images", "--source", str(source), "--model", write_package(tmp_path / "package", 0),
        "--sink", str(tmp_path / "sink"), "--cluster.cpus", "1", "--max-error-rate", "1", timeout_s=240,
    )  # fmt: skip
    assert (code, summary["done"]) == (0, 6), err[-3000:]
    failed = {Path(row["uri"]).name: row["error"] for row in table_rows(str(tmp_path / "sink")) if row["error"]}
    assert list(failed) == ["kills.png"]
    assert (failed["kills.png"]["stage"], failed["kills.png"]["code"]) == ("fetch", "crashed")
