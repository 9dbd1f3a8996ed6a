"""Segmentation as a user runs it: processes, exit codes, signals, kills."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest

from pipeline.table.readers import open_delta
from testing.equality import assert_equal_tables, table_rows
from testing.jobs import call_job
from testing.processes import descendants, run_job, start_job
from testing.runs import write_images, write_package

pytestmark = pytest.mark.ray
ONE_CPU = ("--cluster.cpus", "1", "--cluster.gpus", "0")
SMALL = ("--stream.actors", "1", "--stream.block_rows", "5", "--stream.batch_rows", "2", "--commit_s", "0.1")


@pytest.fixture(scope="module")
def place(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images, a package, and the table of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("jobs")
    write_images(folder / "images", 150, largest=90)
    (folder / "images" / "0007.png").write_bytes(b"broken")
    write_package(folder / "package", 0)
    code, summary, err = call_job("segment_images", *arguments(folder, "whole"))
    assert code == 0, err
    assert (summary["done"], summary["errors"]) == (149, {"not_an_image": 1})
    return folder


def arguments(place: Path, sink: str, source: str = "images") -> list[str]:
    return ["--source", str(place / source), "--model", str(place / "package"), "--sink", str(place / sink)]


def test_the_run_describes_itself(place: Path) -> None:
    (folder,) = (place / "whole" / "runs").iterdir()
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["status"], summary["exit_code"], summary["listed"]) == ("done", 0, 150)
    page = (folder / "report.html").read_text()
    assert "not_an_image" in page
    assert "<dt>Done</dt><dd>149</dd>" in page
    assert page.count("<img") >= 2 * 24
    assert json.loads((folder / "statistics.json").read_text())["rows"] == 150
    assert json.loads((folder / "config.json").read_text())["stream"]["batch_rows"] == 16


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--source": "nowhere"}, "no such file or folder"),
        ({"--model": "images"}, "no model package at"),
        ({"--stream.batch_rows": "0"}, "StreamConfig.batch_rows must be at least 1, got 0"),
        ({"--batch_rows": "3"}, "unrecognized option --batch_rows; did you mean --stream.batch-rows?"),
        ({"--max-error-rate": "2"}, "max_error_rate must be in [0, 1], got 2.0"),
    ],
)
def test_a_wrong_request_is_one_line_and_writes_nothing(place: Path, changes: dict, message: str) -> None:
    given = dict(zip(*[iter(arguments(place, "unwritten"))] * 2, strict=True))
    for name, value in changes.items():
        given[name] = str(place / value) if name in given else value
    code, summary, _ = call_job("segment_images", *(item for pair in given.items() for item in pair))
    assert code == 2
    assert message in summary["error"]
    assert not (place / "unwritten").exists()


def test_a_process_says_in_one_line_what_is_wrong_and_exits_with_2(place: Path) -> None:
    code, summary, err = run_job("segment_images", *arguments(place, "unwritten", "nowhere"))
    assert (code, summary["exit_code"]) == (2, 2)
    assert len(err.strip().splitlines()) == 1
    assert "no such file or folder" in err
    assert not (place / "unwritten").exists()


def test_a_package_of_another_kind_is_refused(place: Path) -> None:
    code, summary, _ = call_job("segment_documents", *arguments(place, "unwritten"))
    assert (
        code,
        "must be of kind 'text_segmenter' or 'text_autoencoder', got 'image_segmenter'" in summary["error"],
    ) == (2, True)
    assert not (place / "unwritten").exists()


def test_an_unexpected_failure_leaves_a_summary_with_its_exit_code(place: Path) -> None:
    """A committed part that cannot be read: the run must not go on as if it were not there."""
    shutil.copytree(place / "whole", place / "damaged")
    next((place / "damaged" / "table").rglob("*.parquet")).write_bytes(b"damaged")
    before = {path.name for path in (place / "damaged" / "runs").iterdir()}
    code, summary, _ = call_job("segment_images", *arguments(place, "damaged"))
    assert (code, summary["status"]) == (1, "failed")
    (run_id,) = {path.name for path in (place / "damaged" / "runs").iterdir()} - before
    stored = json.loads((place / "damaged" / "runs" / run_id / "summary.json").read_text())
    assert (stored["exit_code"], stored["status"]) == (1, "failed")


def test_gpu_operators_give_the_same_table(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two claimed GPUs on one CPU: three operators instead of one."""
    monkeypatch.setenv("PARQUETRY_GPUS_ARE_CLAIMED", "1")
    code, summary, err = run_job(
        "segment_images", *arguments(place, "gpu"), "--cluster.cpus", "1", "--cluster.gpus", "2"
    )
    assert code == 0, err
    assert summary["done"] == 149
    assert_equal_tables(str(place / "whole"), str(place / "gpu"))


def test_ctrl_c_commits_what_is_done_and_the_same_command_goes_on(place: Path) -> None:
    process = start_job("segment_images", *arguments(place, "stopped"), *ONE_CPU, *SMALL)
    wait_for_commits(place / "stopped", 2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    summary = json.loads(out.strip().splitlines()[-1])
    assert (process.returncode, summary["status"], summary["exit_code"]) == (130, "stopped", 130)
    assert len(out.splitlines()) == 1
    assert "Traceback" not in err
    assert 0 < len(table_rows(str(place / "stopped"))) < 150
    assert summary["done"] + summary["failed"] == len(table_rows(str(place / "stopped")))
    code, again, _ = call_job("segment_images", *arguments(place, "stopped"))
    assert (code, again["skipped"]) == (0, summary["done"] + summary["failed"])
    assert_equal_tables(str(place / "whole"), str(place / "stopped"))


@pytest.mark.slow
@pytest.mark.parametrize("kills", [1, pytest.param(5, marks=pytest.mark.heavy)])
def test_a_driver_killed_at_random_moments(place: Path, kills: int) -> None:
    """SIGKILL, again and again; each run takes up what is missing, and the table is that of an uninterrupted run."""
    dice, sink = random.Random(0), f"killed-{kills}"
    killed = held = 0
    every: dict[int, str] = {}
    for _ in range(kills):
        process = start_job("segment_images", *arguments(place, sink), *ONE_CPU, *SMALL)
        before = commits(place / sink)
        deadline = time.monotonic() + 120
        while process.poll() is None and commits(place / sink) == before and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(dice.uniform(0, 0.3))
        children = descendants(process.pid)
        killed += process.poll() is None
        process.kill()
        process.communicate(timeout=60)
        every |= children
        wait_until_gone({pid: name for pid, name in children.items() if "Agent" not in name})
        rows = table_rows(str(place / sink))
        assert len(rows) == len({row["uri"] for row in rows}) >= held
        held = len(rows)
        if held == 150:
            break
    assert killed >= (kills + 1) // 2
    code, summary, err = call_job("segment_images", *arguments(place, sink))
    assert code == 0, err
    assert (summary["skipped"], summary["done"] + summary["failed"]) == (held, 150 - held)
    assert_equal_tables(str(place / "whole"), str(place / sink))
    visible = set(open_delta(str(place / sink)).file_uris())
    written = {str(path) for path in (place / sink / "table").rglob("*.parquet")}
    assert visible <= written
    wait_until_gone(every, timeout_s=240)


def commits(sink: Path) -> int:
    return len(list((sink / "table" / "_delta_log").glob("*.json")))


def wait_for_commits(sink: Path, count: int) -> None:
    deadline = time.monotonic() + 120
    while commits(sink) < count + 1:  # the first makes the table
        assert time.monotonic() < deadline, "no commits"
        time.sleep(0.02)


def wait_until_gone(processes: dict[int, str], timeout_s: float = 120) -> None:
    """The cluster of a killed driver goes away by itself; its agents, which run no work, take longest."""
    deadline = time.monotonic() + timeout_s
    while any(os.path.exists(f"/proc/{pid}") for pid in processes) and time.monotonic() < deadline:
        time.sleep(0.1)
    left = [name for pid, name in processes.items() if os.path.exists(f"/proc/{pid}")]
    assert left == []
