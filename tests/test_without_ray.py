"""What reads or mends tables, and `evaluate`, need no Ray: each runs in a process where importing it fails."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.quality.tables import open_table
from pipeline.table import lease
from pipeline.table.parts import read_part
from pipeline.table.readers import parts_of
from testing.golden import GOLDEN
from testing.processes import ROOT

_WITHOUT_RAY = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name == "ray" or name.startswith("ray."):
            raise ImportError("Ray must not be imported here")
sys.meta_path.insert(0, Refuse())
sys.modules.pop("ray", None)
"""


def without_ray(code: str, *arguments: str) -> tuple[int, str, str]:
    command = [sys.executable, "-c", _WITHOUT_RAY + code, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    return done.returncode, done.stdout, done.stderr


def job(name: str, *arguments: str) -> tuple[int, dict[str, Any], str]:
    code = f"import runpy; runpy.run_module('jobs.{name}', run_name='__main__', alter_sys=True)"
    returned, out, err = without_ray(code, *arguments)
    return returned, json.loads(out.strip().splitlines()[-1]) if out.strip() else {}, err


@pytest.fixture(scope="module")
def sink(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("golden") / "sink"
    shutil.copytree(GOLDEN / "sink-whole", folder)
    return folder


def test_importing_ray_fails_there() -> None:
    code, _, err = without_ray("import pipeline.distributed.session")
    assert (code, "Ray must not be imported here" in err) == (1, True)


def test_verify_and_vacuum(sink: Path) -> None:
    orphan = next((sink / "table").glob("model=*")) / "orphan.parquet"
    orphan.write_bytes(b"an attempt that came to nothing")
    code, summary, err = job("verify", "--sink", str(sink), "--vacuum")
    assert (code, summary["status"], summary["vacuumed"]) == (0, "sound", 1), err
    assert (summary["rows"], summary["failed"]) == (11, 0)
    assert not orphan.exists()


def test_compact(tmp_path: Path) -> None:
    """The rows of a table of an earlier version, in fewer files."""
    shutil.copytree(GOLDEN / "sink-whole", tmp_path / "sink")
    sink = str(tmp_path / "sink")
    table = open_table(sink)
    whole = table.parts()[0]
    rows = read_part(table.uri, whole)
    split = [table.write_part(rows.slice(row, 1), rows["run_id"][row].as_py(), whole.model or "") for row in range(11)]
    table.commits.replace(lambda: (split, [whole], None), "split")
    before = len(parts_of(sink))
    code, summary, err = job("compact", "--sink", sink)
    assert (code, summary["before"], summary["after"], summary["rows"]) == (0, before, len(parts_of(sink)), 11), err
    assert summary["after"] < before
    code, summary, err = job("verify", "--sink", sink, "--vacuum")
    assert (code, summary["rows"], summary["foreign_files"], summary["other_tools"]) == (0, 11, 0, []), err
    assert summary["vacuumed"] == 0, "earlier versions have the old files"
    code, summary, err = job("compact", "--sink", sink)
    assert (code, summary["before"], summary["status"]) == (0, 0, "done"), err
    with lease.alone(sink, "a run", 30, after=open_table(sink).last_lease()):
        code, summary, err = job("compact", "--sink", sink)
    assert (code, summary["status"]) == (2, "wrong request")
    assert "is in use by run a run" in summary["error"]
    code, summary, err = job("compact", "--sink", sink, "--target-bytes", "1000")
    assert (code, summary["error"]) == (2, "Compact.target_bytes must be from 1 MiB to 1 GiB, got 1000")


def test_read(sink: Path) -> None:
    read = "from pipeline.table.readers import current_rows, open_delta; import pyarrow as pa\n"
    read += "print(current_rows(pa.table(open_delta(sys.argv[1]).to_pyarrow_table())).num_rows, flush=True)\n"
    read += "import os; os._exit(0)"  # threads of the readers' libraries abort some processes at their very end
    code, out, err = without_ray(read, str(sink))
    assert (code, out.strip()) == (0, "11"), err


def test_evaluate(tmp_path: Path) -> None:
    where = ["--data", str(GOLDEN / "scenes"), "--out", str(tmp_path / "out")]
    code, summary, err = job("evaluate", "--model", str(GOLDEN / "whole"), *where, "--split", "val")
    assert (code, summary["inputs"], summary["failed"]) == (0, 3, {}), err
    assert 0 < summary["metrics"]["miou"] <= 1
