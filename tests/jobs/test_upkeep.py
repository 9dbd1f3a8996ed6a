"""Going back, forgetting, and looking on: what people do to a table between runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline.quality.audit import audit
from pipeline.table import lease
from pipeline.table.readers import open_delta
from testing.equality import table_rows
from testing.jobs import call_job
from testing.runs import run, write_images, write_package

pytestmark = pytest.mark.ray


@pytest.fixture
def place(cluster: None, tmp_path: Path) -> Path:
    """Images, and a sink with their rows; then some images changed, and a second run."""
    write_images(tmp_path / "images", 20)
    write_package(tmp_path / "package", 0)
    segment(tmp_path)
    return tmp_path


def segment(place: Path, **settings: Any) -> dict[str, Any]:
    summary = run(place / "images", str(place / "package"), place / "sink", **settings).summary
    assert summary["exit_code"] == 0, summary
    return summary


def upkeep(place: Path, command: str, *arguments: str) -> dict[str, Any]:
    code, summary, err = call_job(command, "--sink", str(place / "sink"), *arguments)
    assert code == 0, err
    assert audit(str(place / "sink")).summary()["problems"] == {}
    return summary


def names(place: Path) -> set[str]:
    return {Path(row["uri"]).name for row in table_rows(str(place / "sink"))}


def upkeep_version(place: Path) -> int:
    return open_delta(str(place / "sink")).version()


def held_anywhere(place: Path, name: str) -> list[Path]:
    """The files below the sink that hold a row of an input."""
    files = (place / "sink").rglob("table/model=*/*.parquet")
    return [file for file in files if any(name in uri for uri in pq.read_table(file)["uri"].to_pylist())]


def test_a_run_is_undone_and_the_undoing_too(place: Path) -> None:
    before = {row["uri"]: row["etag"] for row in table_rows(str(place / "sink"))}
    write_images(place / "images", 6, seed=3)
    (place / "images" / "more.png").write_bytes((place / "images" / "0010.png").read_bytes())
    second = segment(place)
    after = {row["uri"]: row["etag"] for row in table_rows(str(place / "sink"))}
    assert len(after) == 21
    undone = upkeep(place, "restore", "--run", second["run_id"])
    assert {row["uri"]: row["etag"] for row in table_rows(str(place / "sink"))} == before
    upkeep(place, "restore", "--run", undone["run_id"])
    assert {row["uri"]: row["etag"] for row in table_rows(str(place / "sink"))} == after
    upkeep(place, "restore", "--run", second["run_id"])
    assert segment(place)["done"] == 7, "the same command makes the rows again"


def test_what_cannot_be_restored_is_refused(place: Path) -> None:
    code, summary, _ = call_job("restore", "--sink", str(place / "sink"), "--run", "20200101T000000.000000Z-abcd")
    assert (code, "the log of" in summary["error"]) == (2, True)
    write_images(place / "images", 20, seed=3)
    first = {file.name for file in (place / "sink").rglob("table/model=*/*.parquet")}
    second = segment(place)
    for file in (place / "sink").rglob("table/model=*/*.parquet"):
        if file.name in first:
            file.unlink()
    version = upkeep_version(place)
    code, summary, _ = call_job("restore", "--sink", str(place / "sink"), "--run", second["run_id"])
    assert code == 2
    assert upkeep_version(place) == version, "nothing is written"
    assert "of its files are deleted" in summary["error"]


def test_a_forgotten_input_leaves_every_file_and_never_comes_back(place: Path) -> None:
    write_images(place / "images", 6, seed=3)
    segment(place)
    assert len(held_anywhere(place, "0003.png")) > 1, "an earlier version has it, too"
    found = upkeep(place, "forget", "--where", "uri like '%/0003.png'")
    assert (found["inputs"], found["rows"]) == (1, 1)
    assert held_anywhere(place, "0003.png") == []
    assert "0003.png" not in names(place)
    summary = call_job(
        "segment_images",
        *("--source", str(place / "images"), "--model", str(place / "package"), "--sink", str(place / "sink")),
    )[1]
    assert (summary["listed"], summary["done"]) == (19, 0)
    assert upkeep(place, "forget", "--where", "uri like '%/0003.png'")["inputs"] == 0


def test_inputs_that_are_gone_leave_and_may_come_back(place: Path) -> None:
    content = (place / "images" / "0005.png").read_bytes()
    (place / "images" / "0005.png").unlink()
    assert segment(place)["gone"] == 1
    assert "gone" not in segment(place, limit=1), "a part of the sources cannot tell"
    assert segment(place)["gone"] == 1, "and nothing is forgotten by it"
    assert "0005.png" in names(place)
    assert upkeep(place, "forget", "--gone")["rows"] == 1
    assert "0005.png" not in names(place)
    (place / "images" / "0005.png").write_bytes(content)
    again = segment(place)
    assert (again["done"], again["gone"]) == (1, 0)
    segment(place, limit=1)
    code, summary, _ = call_job("forget", "--sink", str(place / "sink"), "--gone")
    assert (code, "has taken only a part of its sources" in summary["error"]) == (2, True)


@pytest.mark.parametrize("arguments", [[], ["--gone", "--where", "true"], ["--where", "nonsense > 1"]])
def test_what_to_forget_must_be_clear(place: Path, arguments: list[str]) -> None:
    code, summary, _ = call_job("forget", "--sink", str(place / "sink"), *arguments)
    assert (code, summary["status"]) == (2, "wrong request")
    assert len(names(place)) == 20


def test_status_tells_who_writes_and_how_far_the_newest_run_is(place: Path) -> None:
    found = upkeep(place, "status")
    assert (found["rows"], found["holder"]) == (20, None)
    assert (found["run"]["is_over"], found["run"]["done"]) == (True, 20)
    held = lease.acquire(str(place / "sink"), "somebody", 30.0)
    try:
        assert upkeep(place, "status")["holder"]["run_id"] == "somebody"
    finally:
        held.release()
